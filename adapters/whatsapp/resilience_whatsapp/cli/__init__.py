"""The command line `resilience-whatsapp`. `main` is its entry point; `python -m resilience_whatsapp` is the same.

Each command is a module, with what `Command` names; one more is one more line in `COMMANDS`.
"""

from __future__ import annotations

import os
import re
import sys
from argparse import Namespace
from collections.abc import Mapping, Sequence
from typing import Protocol

from resilience_core.cli import Failure, Parser, Screen, carry_out, parse, printable
from resilience_whatsapp._version import __version__
from resilience_whatsapp.cli import _doctor, _history, _outbox, _send, _simulate, _status, _templates, _webhook

__all__ = ["main"]

_PROGRAM = "resilience-whatsapp"
_CREDENTIALS = """\
credentials:
  the token is read from the file of --token-file, else from the environment's WHATSAPP_TOKEN, else from the file that
  WHATSAPP_TOKEN_FILE names; it is no argument, since everybody on the host can see those. The ids may be in
  WHATSAPP_PHONE_NUMBER_ID and WHATSAPP_WABA_ID.
"""
_CODES = """\
exit codes:
  0 done; 1 something is wrong (doctor, status, templates), or the message was not sent; 2 wrong usage, an unknown name,
  or a message that cannot be right; 3 the API cannot be reached; 4 the message was perhaps sent; 130 after Ctrl-C.
"""
_OPTION = re.compile("--?[a-z][a-z-]{0,30}")
_COMMAND = re.compile("[a-z]{1,12}")


class Command(Protocol):
    """What a module of a command has."""

    @property
    def TOLD(self) -> str:  # noqa: N802 - a constant of the module
        """What it does, in a line that begins in lower case."""
        ...

    @property
    def EXAMPLES(self) -> str:  # noqa: N802 - a constant of the module
        """Command lines, for its help."""
        ...

    def add_arguments(self, parser: Parser, /) -> None:
        """Its words. One that has commands of its own adds them with `parser.for_command`."""
        ...

    def run(self, options: Namespace, screen: Screen, env: Mapping[str, str], /) -> int:
        """Carry it out; the exit code."""
        ...


COMMANDS: dict[str, Command] = {
    "send": _send,
    "templates": _templates,
    "status": _status,
    "outbox": _outbox,
    "webhook": _webhook,
    "history": _history,
    "doctor": _doctor,
    "simulate": _simulate,
}


def main(argv: Sequence[str] | None = None) -> int:
    """Carry out a command line; the exit code.

    0 for success, 1 where something is wrong or a message was not sent, 2 for wrong usage, unknown names and messages
    that cannot be right, 3 where the API cannot be reached, 4 for a message that was perhaps sent, 130 after Ctrl-C,
    141 when nobody reads any more.

    Args:
        argv: words after the program's name; default those of this process.
    """
    words = sys.argv[1:] if argv is None else list(argv)
    return carry_out(_PROGRAM, words, lambda: _run(words), shown=lambda text: _without_values(text, words))


def _run(words: list[str]) -> int:
    for word in words if words[:1] != ["simulate"] else ():  # which knows one token, and no secret one
        if word.partition("=")[0] in ("--token", "--access-token"):
            raise Failure(
                2,
                "a token is no argument: everybody on this host could see it",
                "put it into WHATSAPP_TOKEN, or into a file that only you can read, and give --token-file",
            )
    options = parse(words, _parser())
    screen = Screen(as_json=getattr(options, "as_json", False), env=os.environ)
    return COMMANDS[options.command].run(options, screen, os.environ)


def _parser() -> Parser:
    whole = Parser(
        prog=_PROGRAM,
        description="Send through Meta's WhatsApp Business Cloud API, and see what is wrong with it.",
        epilog=f"{_CREDENTIALS}\n{_CODES}\nexamples:\n  {_send.EXAMPLES}\n  {_doctor.EXAMPLES}",
    )
    whole.add_argument("--version", action="version", version=f"{_PROGRAM} {__version__}")
    commands = whole.add_subparsers(dest="command", metavar="COMMAND", required=True, parser_class=Parser)
    for name, command in COMMANDS.items():
        epilog = f"{_CREDENTIALS}\n{_CODES}\nexamples:\n  {command.EXAMPLES}"
        command.add_arguments(whole.for_command(name, commands, command.TOLD, epilog))
    return whole


def _without_values(text: str, words: Sequence[str]) -> str:
    """A failure's text without what was typed as a value: it may be a number, a token or a message.

    What is not understood is quoted in such texts. Of that, options are shown, and what was to be a command.
    """
    for place, word in enumerate(words):
        flag, equals, value = word.partition("=")
        is_option = _OPTION.fullmatch(flag) is not None
        if (is_option and not equals) or (place == 0 and _COMMAND.fullmatch(word)):
            continue
        shown = f"{flag}=..." if is_option else "..."
        for form in (word, printable(word)):
            text = text.replace(repr(form), repr(shown))
        text = text.replace(repr(value), "'...'") if equals else text
    return text

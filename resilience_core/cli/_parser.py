"""The words of the command line."""

from __future__ import annotations

from argparse import ArgumentParser, ArgumentTypeError, Namespace, RawDescriptionHelpFormatter
from collections.abc import Sequence
from typing import Any, NoReturn

from resilience_core._validation import did_you_mean
from resilience_core.cli._text import Failure, printable, seconds_of

SHELLS = ("bash", "zsh", "fish")
_TARGETS = """\
targets:
  a running process that has started resilience_core.admin.AdminSocket: found by itself when exactly one of yours
  serves, else named with --pid or --socket; or a fleet, with --redis-url or the environment's RESILIENCE_REDIS_URL
  (REDIS_URL counts when no process serves).
"""
_CODES = """\
exit codes:
  0 all circuits closed, or done; 1 some circuit is not (status, watch --times), or something is wrong (config check,
  doctor); 2 wrong usage, or an unknown name; 3 process or store unreachable; 130 after Ctrl-C.
"""
_EXAMPLES = {
    None: "resilience status\n  resilience open graph --for 10m --reason 'the partner asked for a pause'",
    "status": "resilience status\n  resilience status graph --json\n  resilience status --redis-url redis://127.0.0.1/0",
    "watch": "resilience watch\n  resilience watch --interval 10s --times 6 --json",
    "events": "resilience events --follow\n  resilience events --since 120 --json",
    "history": "resilience history graph",
    "open": "resilience open graph --for 10m --reason 'the partner asked for a pause'",
    "close": "resilience close graph --reason 'it works again'",
    "reset": "resilience reset graph",
    "disable": "resilience disable graph --for 1h --reason 'false alarms while we migrate'",
    "shadow": "resilience shadow graph --for 1d",
    "config": "resilience config check resilience.toml",
    "check": "resilience config check resilience.toml\n  resilience config check --env staging resilience.toml",
    "show": "resilience config show resilience.toml --env production",
    "doctor": "resilience doctor\n  resilience doctor --redis-url redis://127.0.0.1/0",
    "completion": 'eval "$(resilience completion bash)"\n  resilience completion fish | source',
}
_HELP = {
    "status": "how circuits and other policies are; ends with 1 if some circuit is open",
    "watch": "the status, again and again",
    "events": "what has happened, or with --follow what happens",
    "history": "changes of circuits' states: what, when, why, who",
    "open": "reject all calls of a circuit until it is reset, or for a while",
    "close": "close a circuit by hand and forget what it counted: the same as reset",
    "reset": "close a circuit by hand and forget what it counted: the same as close",
    "disable": "let all calls of a circuit through and count nothing, until it is reset, or for a while",
    "shadow": "have a circuit judge but never reject, until it is reset, or for a while",
    "config": "look at configuration files",
    "doctor": "what is wrong: pipelines, versions, Redis and its rights, telemetry",
    "completion": "a script that completes words of this command line in a shell",
}


class Parser(ArgumentParser):
    """Tells mistakes as a `Failure`, with what was perhaps meant."""

    def __init__(self, **options: Any) -> None:
        super().__init__(formatter_class=RawDescriptionHelpFormatter, allow_abbrev=False, **options)
        self.commands: dict[str, Parser] = {}

    def error(self, message: str) -> NoReturn:
        """Wrong usage."""
        raise Failure(2, printable(message), f"see {self.prog} --help")

    def flags(self) -> list[str]:
        """Its options."""
        return [flag for action in self._actions for flag in action.option_strings]

    def for_command(self, name: str, into: Any, told: str | None = None, epilog: str | None = None) -> Parser:
        """The parser of one more command.

        Args:
            name: the command.
            into: what `add_subparsers` gave.
            told: what it does, in a line that begins in lower case; without it, that of a command of `resilience`.
            epilog: what stands below its help.
        """
        told, epilog = (_HELP[name], _epilog(name)) if told is None else (told, epilog)
        made: Parser = into.add_parser(name, help=told, description=_sentence(told), epilog=epilog)
        self.commands[name] = made
        return made


def _sentence(text: str) -> str:
    return f"{text[0].upper()}{text[1:]}."


def _epilog(name: str | None) -> str:
    codes = "" if name in ("config", "check", "show", "completion") else f"{_TARGETS}\n"
    return f"{codes}{_CODES}\nexamples:\n  {_EXAMPLES[name]}"


def _seconds(text: str) -> float:
    try:
        return seconds_of(text)
    except ValueError as error:
        raise ArgumentTypeError(str(error)) from error


def _count(text: str) -> int:
    if not text.isascii() or not text.isdigit() or len(text) > 15:
        raise ArgumentTypeError(f"{printable(text)!r} is no whole number")
    return int(text)


def _name(text: str) -> str:
    if not 0 < len(text) <= 1_000:
        raise ArgumentTypeError("a name has 1 to 1000 characters")
    return text


def parser() -> Parser:
    """The whole of it."""
    from resilience_core._version import __version__

    whole = Parser(
        prog="resilience",
        description="See what circuit breakers and other policies do, and force them by hand.",
        epilog=_epilog(None),
    )
    whole.add_argument("--version", action="version", version=f"resilience {__version__}")
    commands = whole.add_subparsers(dest="command", metavar="COMMAND", required=True, parser_class=Parser)
    for name in ("status", "watch", "events", "history"):
        each = whole.for_command(name, commands)
        each.add_argument("name", metavar="NAME", nargs="?", type=_name, help="of a circuit or another policy")
        _targeted(each)
    watch = whole.commands["watch"]
    watch.add_argument("--interval", type=_seconds, default=2.0, metavar="TIME", help="between two looks; default 2s")
    watch.add_argument("--times", type=_count, metavar="N", help="end after N looks, with the exit code of the last")
    events = whole.commands["events"]
    events.add_argument("--follow", "-f", action="store_true", help="go on with what happens from now on")
    events.add_argument("--since", type=_count, metavar="ID", help="only events behind this number, of a process")
    for name in ("open", "close", "reset", "disable", "shadow"):
        each = whole.for_command(name, commands)
        each.add_argument("name", metavar="NAME", type=_name, help="of the circuit; all of that name are forced")
        if name not in ("close", "reset"):
            each.add_argument("--for", dest="seconds", type=_seconds, metavar="TIME", help="as 90s, 10m, 1h30m or 2d")
        each.add_argument("--reason", type=_name, metavar="TEXT", help="for whoever asks later; no personal data")
        each.add_argument("--actor", type=_name, metavar="WHO", help="who does it; default user@host")
        _targeted(each)
    _config(whole.for_command("config", commands))
    _targeted(whole.for_command("doctor", commands))
    completion = whole.for_command("completion", commands)
    completion.add_argument("shell", metavar="SHELL", choices=SHELLS, help=", ".join(SHELLS))
    return whole


def _targeted(command: Parser) -> None:
    command.add_argument("--json", action="store_true", dest="as_json", help="JSON: a document, or an object in a line")
    command.add_argument("--pid", type=_count, metavar="N", help="of a process that serves an admin socket")
    command.add_argument("--socket", metavar="PATH", help="an admin socket")
    command.add_argument("--redis-url", metavar="URL", help="the Redis of a fleet: redis://, rediss:// or unix://")
    command.add_argument("--prefix", metavar="P", help="what the fleet's keys begin with")


def _config(config: Parser) -> None:
    commands = config.add_subparsers(dest="action", metavar="ACTION", required=True, parser_class=Parser)
    for name, told in (
        ("check", "Everything that is wrong with a file, at once."),
        ("show", "What is in force, the defaults included, each value with who set it."),
    ):
        each: Parser = commands.add_parser(name, help=told, description=told, epilog=_epilog(name))
        config.commands[name] = each
        each.add_argument("file", metavar="FILE", help="a TOML file")
        each.add_argument(
            "--env", metavar="NAME", help="with this overlay; check looks at all of them if none is named"
        )
        each.add_argument("--json", action="store_true", dest="as_json", help="one JSON document")


def parse(argv: Sequence[str], whole: Parser | None = None) -> Namespace:
    """The options that were given.

    Args:
        argv: words after the program's name.
        whole: whose words they are; default those of `resilience`.

    Raises:
        Failure: they are wrong; with what was perhaps meant.
        SystemExit: help or version was asked for, and told.
    """
    whole = whole or parser()
    told, level = list(argv), whole
    while level.commands and told and not told[0].startswith("-"):
        word = told.pop(0)
        if word not in level.commands:
            raise Failure(
                2,
                f"unknown command {printable(word)!r}{did_you_mean(word, level.commands)}",
                f"commands are {', '.join(level.commands)}",
            )
        level = level.commands[word]
    options, rest = whole.parse_known_args(argv)
    if rest:
        flag = rest[0].partition("=")[0]
        raise Failure(
            2, f"unknown argument {printable(rest[0])!r}{did_you_mean(flag, level.flags())}", f"see {level.prog} --help"
        )
    return options

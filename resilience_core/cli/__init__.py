"""The command line `resilience`. `main` is its entry point; `python -m resilience_core` is the same.

The other names are what it is made of, for command lines of adapters that look and end like this one.
"""

from __future__ import annotations

import io
import os
import sys
from argparse import Namespace
from collections.abc import Callable, Mapping, Sequence

from resilience_core.cli._parser import Parser, parse
from resilience_core.cli._text import Failure, Screen, lasting, printable, seconds_of

__all__ = ["Failure", "Parser", "Screen", "carry_out", "lasting", "main", "parse", "printable", "seconds_of"]

INTERRUPTED = 130
"""What a program ends with that Ctrl-C has ended."""
BROKEN_PIPE = 141
"""The same for one whose reader has gone."""


def main(argv: Sequence[str] | None = None) -> int:
    """Carry out a command line; the exit code.

    0 for success (status: all circuits closed), 1 where something is open or wrong, 2 for wrong usage and unknown
    names, 3 where the process or the store cannot be reached, 130 after Ctrl-C, 141 when nobody reads any more.

    Args:
        argv: words after the program's name; default those of this process.
    """
    arguments = sys.argv[1:] if argv is None else list(argv)
    return carry_out("resilience", arguments, lambda: _run(parse(arguments), os.environ))


def carry_out(
    program: str,
    arguments: Sequence[str],
    run: Callable[[], int],
    *,
    shown: Callable[[str], str] = str,
) -> int:
    """Run a command and turn however it ends into an exit code; failures are told on the error stream.

    Args:
        program: what failures begin with.
        arguments: words after the program's name; with `--json` among them a failure is a document, too.
        run: carries the command out; its result is the exit code, unless it raises a `Failure`.
        shown: what of a failure's text may be shown.
    """
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # a terminal that cannot show a letter is no reason to fail
    try:
        code = _code_of(program, arguments, run, shown)
        sys.stdout.flush()
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:
        _mute()
        return BROKEN_PIPE
    return code


def _code_of(program: str, arguments: Sequence[str], run: Callable[[], int], shown: Callable[[str], str]) -> int:
    try:
        return run()
    except Failure as failure:
        told = Failure(failure.code, shown(failure.text), shown(failure.suggestion))
        return _failed(program, told, as_json="--json" in arguments)
    except SystemExit as end:  # of argparse, which has told help or version
        return 0 if end.code is None else int(end.code)


def _run(options: Namespace, env: Mapping[str, str]) -> int:
    screen = Screen(as_json=getattr(options, "as_json", False), env=env)
    if options.command == "completion":
        from resilience_core.cli._completion import script

        screen.say(script(options.shell).rstrip("\n"))
        return 0
    if options.command == "config":
        from resilience_core.cli import _config

        return _config.run(options, screen, env)
    if options.command == "doctor":
        from resilience_core.cli import _doctor

        return _doctor.run(options, screen, env)
    from resilience_core.cli import _commands

    return _commands.run(options, screen, env)


def _failed(program: str, failure: Failure, *, as_json: bool) -> int:
    if as_json:
        content = {"error": failure.text, "suggestion": failure.suggestion, "code": failure.code}
        Screen(as_json=True).object(content)
    print(f"{program}: {printable(failure.text)}", file=sys.stderr)
    if failure.suggestion:
        print(f"  {printable(failure.suggestion)}", file=sys.stderr)
    return failure.code


def _mute() -> None:
    """Nobody reads: what is left in the buffer goes nowhere, so that the end of the process does not complain."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
    os.close(nowhere)

"""Configuration files: what is wrong with one, and what is in force with it."""

from __future__ import annotations

import os
from argparse import Namespace
from collections.abc import Mapping

import attrs

from resilience_core.cli._text import Failure, Screen, printable


def run(options: Namespace, screen: Screen, env: Mapping[str, str] = os.environ) -> int:
    """`config check` or `config show`; the exit code.

    Raises:
        Failure: there is no such file (2).
    """
    if not os.path.lexists(options.file):
        raise Failure(
            2, f"there is no file {printable(options.file)!r}", "a relative path begins at the working directory"
        )
    return (_check if options.action == "check" else _show)(options, screen, env)


def _check(options: Namespace, screen: Screen, env: Mapping[str, str]) -> int:
    from resilience_core.config import check

    problems = check(options.file, environment=options.env, env=env)
    if screen.as_json:
        screen.document({"file": options.file, "problems": [attrs.asdict(each) for each in problems]})
    else:
        for problem in problems:
            screen.say("\n".join(map(printable, str(problem).splitlines())))
        count = "no problems" if not problems else "1 problem" if len(problems) == 1 else f"{len(problems)} problems"
        screen.say(f"{printable(options.file)}: {screen.colour('error' if problems else 'ok', count)}")
    return 1 if problems else 0


def _show(options: Namespace, screen: Screen, env: Mapping[str, str]) -> int:
    from resilience_core.config import InvalidConfiguration, load, show

    try:
        configuration = load(options.file, environment=options.env, env=env)
    except InvalidConfiguration:
        return _check(options, screen, env)
    if screen.as_json:
        budgets = {name: dict(budget) for name, budget in configuration.budgets.items()}
        origins = {".".join(path): origin for path, origin in configuration.origins.items()}
        screen.document({"policies": configuration.effective(), "budgets": budgets, "set_by": origins})
    else:
        screen.say(show(configuration).rstrip("\n"))
    return 0

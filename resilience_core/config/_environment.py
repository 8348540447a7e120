"""Environment variables as a layer: RESILIENCE__POLICIES__GRAPH__RETRY__MAX_ATTEMPTS=5.

Names are compared without regard to case, and whatever is no letter or digit in a stack's name is "_" here.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from resilience_core._validation import did_you_mean
from resilience_core.config._classes import SECTIONS
from resilience_core.config._layers import STACK_KEYS, Layer
from resilience_core.config._problems import Problem
from resilience_core.config._values import EnvironmentText

PREFIX = "RESILIENCE__"
CHOICE = "RESILIENCE_ENVIRONMENT"
"""Names the overlay to use."""


def environment_layer(
    env: Mapping[str, str], stacks: Iterable[str], budgets: Iterable[str]
) -> tuple[Layer, list[Problem]]:
    """What the environment variables say about these stacks and budgets."""
    reader = _Reader(tuple(stacks), tuple(budgets))
    for variable in sorted(env):
        if variable.upper().startswith(PREFIX):
            reader.read(variable, env[variable])
    return Layer("environment variables", reader.content, reader.sources), reader.problems


class _Reader:
    def __init__(self, stacks: tuple[str, ...], budgets: tuple[str, ...]) -> None:
        self.content: dict[str, dict[str, Any]] = {"policies": {}, "defaults": {}, "budgets": {}}
        self.sources: dict[tuple[str, ...], str] = {}
        self.problems: list[Problem] = []
        self._known = {"POLICIES": _spelled(stacks), "BUDGETS": _spelled(budgets), "DEFAULTS": _spelled(SECTIONS)}

    def read(self, variable: str, text: str) -> None:
        """Take one variable in."""
        parts = variable.upper()[len(PREFIX) :].split("__")
        kind, names = parts[0], parts[1:]
        if kind not in self._known:
            known = ", ".join(f"{PREFIX}{name}__..." for name in self._known)
            self._refuse(variable, f"unknown{did_you_mean(kind, self._known)}", f"There are {known} and {CHOICE}")
            return
        least, most = (2, 3) if kind == "POLICIES" else (2, 2)
        if not least <= len(names) <= most or not all(names):
            form = "POLICIES__<STACK>__<SECTION>__<OPTION>" if kind == "POLICIES" else f"{kind}__<NAME>__<OPTION>"
            self._refuse(variable, "has the wrong number of parts", f"Write {PREFIX}{form}")
            return
        spelled = self._known[kind]
        found = spelled.get(names[0], [])
        if len(found) != 1:
            self._refuse_name(variable, names[0], spelled)
            return
        self._put((kind.lower(), found[0], *(name.lower() for name in names[1:])), text, variable)

    def _put(self, path: tuple[str, ...], text: str, variable: str) -> None:
        value: Any = EnvironmentText(text)
        if path[0] == "policies" and len(path) == 3:
            value = _plain(path[2], text)
        table = self.content[path[0]].setdefault(path[1], {})
        for key in path[2:-1]:
            if table.get(key) is True:  # it is switched on, and has options
                table[key] = {}
            table = table.setdefault(key, {})
        if not isinstance(table, dict):
            self._refuse(variable, f"{path[2]} is switched off by another variable", "Leave one of the two out")
            return
        table[path[-1]] = value
        for length in range(2, len(path) + 1):
            self.sources.setdefault(path[:length], f"environment variable {variable}")
        self.sources[path] = f"environment variable {variable}"

    def _refuse_name(self, variable: str, name: str, spelled: Mapping[str, list[str]]) -> None:
        if name in spelled:
            message = f"{name} stands for several: {', '.join(spelled[name])}"
            self._refuse(variable, message, "Rename one of them, or set this in the file")
        else:
            known = ", ".join(sorted(spelled)) or "none"
            self._refuse(variable, f"{name} is unknown{did_you_mean(name, spelled)}", f"There are {known}")

    def _refuse(self, variable: str, message: str, fix: str) -> None:
        self.problems.append(Problem(variable, message, fix, "environment variables"))


def _plain(key: str, text: str) -> Any:
    """A key of a stack itself: true or false, or a name."""
    if key in SECTIONS or key == "idempotent":
        return {"true": True, "false": False}.get(text.lower(), text)
    return text if key in STACK_KEYS else EnvironmentText(text)


def _spelled(names: Iterable[str]) -> dict[str, list[str]]:
    """Names by how they are written in a variable."""
    found: dict[str, list[str]] = {}
    for name in names:
        found.setdefault(re.sub(r"[^A-Z0-9]", "_", name.upper()), []).append(name)
    return found

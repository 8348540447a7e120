"""Layers of a configuration, merged: later ones win, option by option, and every value knows who wrote it.

    preset of the document < document < presets and ancestors of the overlay < overlay < environment variables

and for the options of one section of a stack

    built-in stack that it extends < [defaults] < stack of the file that it extends < the stack itself
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, TypeAlias

from attrs import field, frozen

from resilience_core._standard import (
    ATTEMPT_TIMEOUT,
    HEDGE_DELAY,
    HEDGE_QUANTILE,
    HEDGE_RATIO,
    MAX_CONCURRENT,
    TOTAL_TIMEOUT,
)
from resilience_core._validation import did_you_mean, shown
from resilience_core.config._problems import Problem

Table: TypeAlias = Mapping[str, Any]

PRESETS: dict[str, dict[str, dict[str, Any]]] = {
    "default": {
        "circuit_breaker": {"failure_threshold": 5, "success_threshold": 2, "recovery_timeout": 60.0},
        "retry": {"max_attempts": 3, "base_delay": 1.0},
    },
    "production": {
        "circuit_breaker": {"failure_threshold": 10, "success_threshold": 3, "recovery_timeout": 120.0},
        "retry": {"max_attempts": 5, "base_delay": 2.0},
    },
    "development": {
        "circuit_breaker": {"failure_threshold": 3, "success_threshold": 1, "recovery_timeout": 30.0},
        "retry": {"max_attempts": 2, "base_delay": 0.5},
    },
}
"""Options by section for a kind of environment, as `defaults` of whoever extends them."""

_GATES: dict[str, dict[str, Any]] = {
    "circuit_breaker": {},
    "bulkhead": {"max_concurrent": MAX_CONCURRENT},
    "attempt_timeout": {"seconds": ATTEMPT_TIMEOUT},
}
BUILT_IN: dict[str, dict[str, dict[str, Any]]] = {
    "standard": {"timeout": {"seconds": TOTAL_TIMEOUT}, "retry": {"budget": None}, **_GATES},
    "standard_hedging": {
        "timeout": {"seconds": TOTAL_TIMEOUT},
        "hedge": {"delay": HEDGE_DELAY, "quantile": HEDGE_QUANTILE, "budget": None},
        **_GATES,
    },
}
"""The stacks of `standard()` and `standard_hedging()`; None stands for the budget that is named like the stack."""
BUILT_IN_BUDGETS: dict[str, dict[str, Any]] = {
    "standard": {},
    "standard_hedging": {"law": {"type": "TrafficRatio", "ratio": HEDGE_RATIO}},
}

_TOP = ("extends", "policies", "defaults", "budgets", "environments")
_OVERLAY = ("extends", "policies", "defaults", "budgets")
STACK_KEYS = ("extends", "idempotent", "allow")
"""What a stack has beside its sections."""


@frozen
class Layer:
    """One source of settings."""

    source: str
    content: Table
    sources: Mapping[tuple[str, ...], str] = field(factory=dict)
    """Sources of single values, where they differ from that of the whole."""

    def source_of(self, path: tuple[str, ...]) -> str:
        """Who wrote the value at `path`."""
        return self.sources.get(path, self.source)


IN_PLACE_OF = {
    "trip": "failure_threshold",
    "failure_threshold": "trip",
    "probe_rate": "success_threshold",
    "success_threshold": "probe_rate",
}
"""Options of a breaker of which one takes the place of the other: who writes one later is rid of the other."""


def laid_over(lower: Table, upper: Table) -> dict[str, Any]:
    """The options of two tables, those of the upper one before those of the lower one."""
    replaced = {other for name, other in IN_PLACE_OF.items() if name in upper}
    return {**{name: value for name, value in lower.items() if name not in replaced}, **upper}


class Merged:
    """What several layers amount to: leaves by path, and who wrote each."""

    def __init__(self) -> None:
        self.policies: dict[str, dict[str, Any]] = {}
        self.defaults: dict[str, Any] = {}
        self.budgets: dict[str, Any] = {}
        self.origins: dict[tuple[str, ...], str] = {}
        self.problems: list[Problem] = []

    def add(self, layer: Layer) -> None:
        """Lay one more layer on top."""
        for name, stack in self._tables(layer, ("policies",)):
            own = self.policies.setdefault(name, {})
            self.origins.setdefault(("policies", name), layer.source)
            for key, value in stack.items():
                self._put(own, ("policies", name, key), value, layer)
        for section, value in self._table(layer.content.get("defaults", {}), ("defaults",), layer).items():
            self._put(self.defaults, ("defaults", section), value, layer)
        for name, value in self._table(layer.content.get("budgets", {}), ("budgets",), layer).items():
            self._put(self.budgets, ("budgets", name), value, layer)

    def _put(self, own: dict[str, Any], path: tuple[str, ...], value: Any, layer: Layer) -> None:
        """Tables are merged key by key, once; all else replaces what was there, but `true` says only that it stays."""
        key = path[-1]
        if value is True and isinstance(own.get(key), dict):
            return
        if isinstance(value, Mapping):
            table = own.get(key)
            own[key] = laid_over(table, value) if isinstance(table, dict) else dict(value)
            self.origins[path] = layer.source_of(path)
            for option in value:
                self.origins[*path, str(option)] = layer.source_of((*path, str(option)))
        else:
            own[key] = value
            self.origins[path] = layer.source_of(path)

    def _tables(self, layer: Layer, path: tuple[str, ...]) -> Iterator[tuple[str, Table]]:
        for name, value in self._table(layer.content.get(path[0], {}), path, layer).items():
            yield name, self._table(value, (*path, name), layer)

    def _table(self, value: Any, path: tuple[str, ...], layer: Layer) -> dict[str, Any]:
        if isinstance(value, Mapping):
            return {str(key): each for key, each in value.items()}
        self.problems.append(not_a_table(path, value, layer.source_of(path)))
        return {}

    def source_of(self, path: tuple[str, ...]) -> str:
        """Who wrote the value at `path`, or the nearest table around it."""
        around = (path[:length] for length in range(len(path), 0, -1))
        return next((self.origins[each] for each in around if each in self.origins), "")


def not_a_table(path: tuple[str, ...], value: Any, source: str) -> Problem:
    """Where a table is needed and something else stands."""
    where = ".".join(path)
    fix = f"Write [{where}] and the options below it"
    if len(path) < 2:
        fix = f"Write [{where}.<name>]" if where else f"There can be {', '.join(_TOP)}"
    elif path[0] == "policies" and len(path) == 3 and path[2] not in STACK_KEYS:
        fix += "; true and false switch it on and off"
    return Problem(where, f"must be a table, not {shown(value)}", fix, source)


def preset(name: str) -> Layer:
    """A preset as a layer of defaults."""
    return Layer(f"preset {name!r}", {"defaults": PRESETS[name]})


def layers_of(
    document: Table, source: str, environment: str | None, asked: tuple[str, str]
) -> tuple[list[Layer], list[Problem]]:
    """The layers of one document for one environment, lowest first; `asked` says where that was chosen, and by whom."""
    problems = list(_unknown(document, _TOP, (), source))
    layers = list(_extended_by_document(document, source, problems))
    layers.append(Layer(source, document))
    environments = document.get("environments", {})
    if not isinstance(environments, Mapping):
        problems.append(not_a_table(("environments",), environments, source))
        environments = {}
    if environment is not None:
        layers += _overlays(environments, environment, source, problems, asked)
    return layers, problems


def _extended_by_document(document: Table, source: str, problems: list[Problem]) -> Iterator[Layer]:
    extends = document.get("extends")
    if isinstance(extends, str) and extends in PRESETS:
        yield preset(extends)
    elif extends is not None:
        message = f"no preset is called {extends!r}{did_you_mean(str(extends), PRESETS)}"
        problems.append(Problem("extends", message, f"The presets are {', '.join(PRESETS)}", source))


def _overlays(
    environments: Table, chosen: str, source: str, problems: list[Problem], asked: tuple[str, str]
) -> list[Layer]:
    """The overlay of an environment and those that it extends, the furthest first."""
    chain: list[Layer] = []
    seen: list[str] = []
    name: Any = chosen
    asked_at, asked_by = asked
    while name is not None:
        if name in seen:
            ring = " -> ".join([*seen, str(name)])
            problems.append(
                Problem(asked_at, f"environments extend one another in a ring: {ring}", "Take one of them out", source)
            )
            break
        overlay = environments.get(name) if isinstance(name, str) else None
        if overlay is None:
            if isinstance(name, str) and name in PRESETS:
                chain.append(preset(name))
            else:
                known = [str(each) for each in (*environments, *PRESETS)]
                message = f"no environment is called {name!r}{did_you_mean(str(name), known)}"
                problems.append(Problem(asked_at, message, f"There are {', '.join(known)}", asked_by))
            break
        path = ("environments", name)
        if not isinstance(overlay, Mapping):
            problems.append(not_a_table(path, overlay, source))
            break
        problems += _unknown(overlay, _OVERLAY, path, source)
        chain.append(Layer(f"environment {name!r} of {source}", overlay))
        seen.append(name)
        asked_at, asked_by = f"environments.{name}.extends", source
        name = overlay.get("extends")
        if name in seen[-1:] and name in PRESETS:  # [environments.production] extends = "production"
            chain.append(preset(name))
            break
    return chain[::-1]


def _unknown(table: Table, known: Iterable[str], path: tuple[str, ...], source: str) -> Iterator[Problem]:
    for key in table:
        if key not in known:
            where = ".".join((*path, str(key)))
            fix = f"There can be {', '.join(known)}"
            yield Problem(where, f"unknown table or key{did_you_mean(str(key), known)}", fix, source)

"""From layers to a configuration: who extends whom, what is in force in each section, and whether it is any good."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from attrs import evolve

from resilience_core._policies.retry_budget import RetryBudget
from resilience_core._validation import did_you_mean, shown
from resilience_core.config._classes import SECTIONS
from resilience_core.config._configuration import Configuration, Stack, try_out
from resilience_core.config._environment import environment_layer
from resilience_core.config._layers import (
    BUILT_IN,
    BUILT_IN_BUDGETS,
    STACK_KEYS,
    Layer,
    Merged,
    laid_over,
    not_a_table,
)
from resilience_core.config._problems import Problem
from resilience_core.config._values import section_options

_LONGEST_CHAIN = 50
Written = tuple[Any, str]
"""A value as it was written, and who wrote it."""


def resolve(layers: list[Layer], env: Mapping[str, str] | None, source: str) -> tuple[Configuration, list[Problem]]:
    """The configuration that the layers amount to, and everything that is wrong with it."""
    merged = Merged()
    for layer in layers:
        merged.add(layer)
    if env is not None:
        layer, problems = environment_layer(env, merged.policies, merged.budgets)
        merged.problems += problems
        merged.add(layer)
    resolver = _Resolver(merged)
    configuration = Configuration(resolver.stacks(), resolver.budgets, source, merged.origins)
    return configuration, _once(resolver.problems, merged.policies)


def _once(problems: list[Problem], stacks: Mapping[str, Mapping[str, Any]]) -> list[Problem]:
    """Each problem once: what a stack has inherited is told where it was written."""
    kept = dict.fromkeys(problems)
    for problem in list(kept):
        if any(inherited in kept for inherited in _inherited(problem, stacks)):
            del kept[problem]
    return list(kept)


def _inherited(problem: Problem, stacks: Mapping[str, Mapping[str, Any]]) -> Iterator[Problem]:
    """The same problem in the stacks that its own one extends."""
    kind, *parts = problem.path.split(".")
    for length in range(1, len(parts) + 1):
        name = ".".join(parts[:length])  # names may have dots
        if kind == "policies" and name in stacks:
            for ancestor in _ancestors(name, stacks):
                yield evolve(problem, path=".".join((kind, ancestor, *parts[length:])))


def _ancestors(name: str, stacks: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """The stacks that a stack extends, the nearest first."""
    found = [name]
    while len(found) <= _LONGEST_CHAIN:
        extends = stacks[found[-1]].get("extends")
        if not isinstance(extends, str) or extends not in stacks or extends in found:
            break
        found.append(extends)
    return found[1:]


class _Resolver:
    def __init__(self, merged: Merged) -> None:
        self._merged = merged
        self.problems = merged.problems
        self._defaults = {section: self._default(section) for section in merged.defaults}
        self.budgets: dict[str, dict[str, Any]] = {name: self._budget(name) for name in merged.budgets}

    # --- defaults and budgets ------------------------------------------------------------------------------------

    def _default(self, section: str) -> dict[str, Written]:
        """The defaults of a section that are good; the others are told once, here."""
        path = ("defaults", section)
        if section not in SECTIONS:
            self._unknown_section(section, path, SECTIONS)
            return {}
        table = self._table(self._merged.defaults[section], path)
        written = {name: (value, self._merged.source_of((*path, name))) for name, value in table.items()}
        bad = self._good(section, written, path)[1]
        return {name: value for name, value in written.items() if name not in bad}

    def _budget(self, name: str) -> dict[str, Any]:
        path = ("budgets", name)
        self._named(path)
        table = self._table(self._merged.budgets[name], path)
        options, problems = section_options(RetryBudget, table, path)
        for problem in problems:
            source = self._merged.source_of((*path, _option_of(problem, path)))
            self.problems.append(evolve(problem, source=source))
        return options

    # --- stacks ----------------------------------------------------------------------------------------------------

    def stacks(self) -> dict[str, Stack]:
        """All stacks, good as far as they are."""
        found = {}
        for name in self._merged.policies:
            before = len(self.problems)
            stack = self._stack(name)
            if len(self.problems) == before:  # what is wrong already would only be told in other words
                self.problems += try_out(stack, self.budgets)
            found[name] = stack
        return found

    def _stack(self, name: str) -> Stack:
        path, before = ("policies", name), len(self.problems)
        self._named(path)
        built_in, own = self._inherited(name, ())
        self._known_keys(own, path)
        sections: dict[str, dict[str, Any]] = {}
        origins: dict[tuple[str, ...], str] = {(): self._merged.source_of(path)}
        for section in SECTIONS:
            written = self._section(section, built_in, own, path)
            if written is None:
                continue
            sections[section] = self._good(section, written, (*path, section))[0]
            origins[section,] = own.get(section, (None, f"built-in stack {built_in!r}"))[1]
            origins |= {(section, option): source for option, (_, source) in written.items()}
        if not sections and not self._told(path, before):
            fix = f'Write [policies.{name}.retry], or extends = "standard"; the sections are {", ".join(SECTIONS)}'
            self.problems.append(Problem(".".join(path), "has no section", fix, origins[()]))
        if "retry" in sections and "adaptive_retry" in sections:
            where = ".".join((*path, "adaptive_retry"))
            fix = "Take one of them out, for example by retry = false"
            message = "the stack has a retry, too, and the attempts would multiply"
            self.problems.append(Problem(where, message, fix, origins["adaptive_retry",]))
        self._budgets_exist(sections, built_in, path, origins)
        return Stack(name, sections, self._idempotent(own, path), self._allow(own, path), origins)

    def _inherited(self, name: str, seen: tuple[str, ...]) -> tuple[str | None, dict[str, Written]]:
        """The built-in stack that a stack extends in the end, and what it and those between have written."""
        path = ("policies", name)
        mine = {key: self._written(value, (*path, key)) for key, value in self._merged.policies[name].items()}
        extends, source = mine.pop("extends", (None, ""))
        if extends is None:
            return None, mine
        if isinstance(extends, str) and extends in BUILT_IN:
            return extends, mine
        where = ".".join((*path, "extends"))
        if extends in (*seen, name):
            ring = " -> ".join((*seen, name, extends))
            self.problems.append(
                Problem(where, f"stacks extend one another in a ring: {ring}", "Take one of them out", source)
            )
            return None, mine
        if not isinstance(extends, str) or extends not in self._merged.policies:
            known = [*BUILT_IN, *(other for other in self._merged.policies if other != name)]
            message = f"no stack is called {extends!r}{did_you_mean(str(extends), known)}"
            self.problems.append(Problem(where, message, f"There are {', '.join(known)}", source))
            return None, mine
        if len(seen) == _LONGEST_CHAIN:
            message = f"more than {_LONGEST_CHAIN} stacks extend one another"
            self.problems.append(Problem(where, message, "Let it extend one that is nearer to the last", source))
            return None, mine
        built_in, theirs = self._inherited(extends, (*seen, name))
        for key, (value, source) in mine.items():
            inherited = theirs.get(key, (None, ""))[0]
            if value is True and isinstance(inherited, dict):
                continue
            if key in SECTIONS and isinstance(value, dict) and isinstance(inherited, dict):
                value = laid_over(inherited, value)
            theirs[key] = (value, source)
        return built_in, theirs

    def _written(self, value: Any, path: tuple[str, ...]) -> Written:
        """A value with who wrote it; of a section, every option with who wrote that."""
        source = self._merged.source_of(path)
        if path[-1] not in SECTIONS or not isinstance(value, Mapping):
            return value, source
        return {option: (each, self._merged.source_of((*path, option))) for option, each in value.items()}, source

    def _section(
        self, section: str, built_in: str | None, own: Mapping[str, Written], path: tuple[str, ...]
    ) -> dict[str, Written] | None:
        """The options of a section as they were written, with who wrote them; None for a section that is not there."""
        value = own.get(section, (None, ""))[0]
        base = BUILT_IN[built_in].get(section) if built_in is not None else None
        if value is False or (value is None and base is None):
            return None
        source = f"built-in stack {built_in!r}"
        options = {key: (path[-1] if each is None else each, source) for key, each in (base or {}).items()}
        table = {} if value is None or value is True else self._table(value, (*path, section))
        return laid_over(laid_over(options, self._defaults.get(section, {})), table)

    def _good(
        self, section: str, written: Mapping[str, Written], path: tuple[str, ...]
    ) -> tuple[dict[str, Any], set[str]]:
        """The values of the options, and the names of those that are wrong; these are told."""
        raw = {name: value for name, (value, _) in written.items()}
        options, problems = section_options(SECTIONS[section], raw, path)
        bad = set()
        for problem in problems:
            option = _option_of(problem, path)
            bad.add(option)
            source = written[option][1] if option in written else self._merged.source_of(path)
            self.problems.append(evolve(problem, source=source))
        if bad:  # what is good of it is looked at all the same: whoever mends one thing wants to know of the next
            good = {name: value for name, value in raw.items() if name not in bad}
            options = section_options(SECTIONS[section], good, path)[0]
        return options, bad

    # --- what a stack has beside its sections ----------------------------------------------------------------------

    def _known_keys(self, own: Mapping[str, Written], path: tuple[str, ...]) -> None:
        for key in own:
            if key not in SECTIONS and key not in STACK_KEYS:
                self._unknown_section(key, (*path, key), (*STACK_KEYS, *SECTIONS))

    def _unknown_section(self, key: str, path: tuple[str, ...], known: Any) -> None:
        fix = f"There can be {', '.join(known)}"
        message = f"unknown section{did_you_mean(key, known)}"
        self.problems.append(Problem(".".join(path), message, fix, self._merged.source_of(path)))

    def _idempotent(self, own: Mapping[str, Written], path: tuple[str, ...]) -> bool | None:
        value, source = own.get("idempotent", (None, ""))
        if value is None or isinstance(value, bool):
            return value
        fix = "Whether a call may be carried out twice without harm"
        where = ".".join((*path, "idempotent"))
        self.problems.append(Problem(where, f"must be true or false, not {shown(value)}", fix, source))
        return None

    def _allow(self, own: Mapping[str, Written], path: tuple[str, ...]) -> dict[str, str]:
        value, source = own.get("allow", ({}, ""))
        if isinstance(value, Mapping):
            return dict(value)
        self.problems.append(not_a_table((*path, "allow"), value, source))
        return {}

    def _budgets_exist(
        self,
        sections: Mapping[str, Mapping[str, Any]],
        built_in: str | None,
        path: tuple[str, ...],
        origins: Mapping[tuple[str, ...], str],
    ) -> None:
        for section, options in sections.items():
            name = options.get("budget")
            if name is None or name in self.budgets:
                continue
            if built_in is not None and name == path[-1]:
                law = BUILT_IN_BUDGETS[built_in]
                self.budgets[name] = section_options(RetryBudget, law, ("budgets", name))[0]
                continue
            fix = f"Write [budgets.{name}]; there are {', '.join(self.budgets) or 'none'}"
            message = f"no budget is called {name!r}{did_you_mean(name, self.budgets)}"
            where = ".".join((*path, section, "budget"))
            self.problems.append(Problem(where, message, fix, origins.get((section, "budget"), "")))

    def _told(self, path: tuple[str, ...], before: int) -> bool:
        """Whether something is wrong with a stack already, of which having no section may be the consequence."""
        whole = ".".join(path)
        return len(self.problems) > before or any(problem.path == whole for problem in self.problems)

    def _named(self, path: tuple[str, ...]) -> None:
        if not path[-1]:
            what = f"Write [{path[0]}.<name>]"
            self.problems.append(Problem(path[0], "has a table without a name", what, self._merged.source_of(path)))

    def _table(self, value: Any, path: tuple[str, ...]) -> dict[str, Any]:
        if isinstance(value, Mapping):
            return dict(value)
        self.problems.append(not_a_table(path, value, self._merged.source_of(path)))
        return {}


def _option_of(problem: Problem, path: tuple[str, ...]) -> str:
    """The option of the table at `path` that a problem is about."""
    return problem.path.removeprefix(".".join(path) + ".").split(".")[0].split("[")[0]

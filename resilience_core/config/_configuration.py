"""A configuration that was read and found good: stacks with their options, and pipelines built from them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any
from weakref import WeakValueDictionary

import attrs
from attrs import field, frozen

from resilience_core._errors import ConfigurationError
from resilience_core._lint import lint
from resilience_core._pipeline import Pipeline
from resilience_core._policies.retry_budget import RetryBudget
from resilience_core._validation import did_you_mean
from resilience_core._verdicts import Classifier, On, ResultClassifier, Verdict
from resilience_core._weave.edge import Policy
from resilience_core.config._classes import SECTIONS, from_code, options_of
from resilience_core.config._problems import Problem
from resilience_core.registry import Registry, on_trial, registry

Code = Mapping[str, Mapping[str, Any]]
"""Options that only code can give, by section: functions, stores, clocks."""

ANONYMOUS = ("the text", "the mapping")
"""What configurations are called whose source was not given: two of them may have nothing to do with each other."""
_budgets: WeakValueDictionary[str, RetryBudget] = WeakValueDictionary()
"""The budgets that configurations have given to policies which are still there."""
_JUDGING = ("retry", "adaptive_retry", "circuit_breaker")
"""The sections whose policies take the `on` of a stack."""


@frozen
class Stack:
    """What is configured for one pipeline."""

    name: str
    sections: Mapping[str, Mapping[str, Any]]
    """The options that are set, by section, in the order of the pipeline; values as the policies take them."""
    idempotent: bool | None = None
    allow: Mapping[str, str] = field(factory=dict)
    origins: Mapping[tuple[str, ...], str] = field(factory=dict, repr=False, eq=False)
    """Who wrote each option, by (section, option)."""

    def policies(self, code: Code, on: On | None, budgets: Callable[[str], RetryBudget]) -> dict[str, Policy]:
        """New policies as configured, by section.

        Raises:
            ConfigurationError: the options of one do not go together.
        """
        return {section: self.policy(section, code, on, budgets) for section in self.sections}

    def policy(self, section: str, code: Code, on: On | None, budgets: Callable[[str], RetryBudget]) -> Policy:
        """A new policy as one section says."""
        cls, given = SECTIONS[section], code.get(section, {})
        options = self.options(section, budgets) | dict(given)
        if section in _JUDGING and on is not None and not {"on", "classify"} & set(given):
            options["on"] = on
        if attrs.fields_dict(cls)["name"].default is attrs.NOTHING:
            options["name"] = self.name
        policy: Policy = cls(**options)
        return policy

    def options(self, section: str, budgets: Callable[[str], RetryBudget]) -> dict[str, Any]:
        """The options of one section as its policy takes them."""
        options = dict(self.sections[section])
        if isinstance(options.get("budget"), str):
            options["budget"] = budgets(options["budget"])
        return options


@frozen
class Configuration:
    """Stacks and budgets by name. Made by `load`, `from_toml`, `from_mapping` and `from_legacy`."""

    stacks: Mapping[str, Stack]
    budgets: Mapping[str, Mapping[str, Any]] = field(factory=dict)
    """Options of each retry budget."""
    source: str = field(default="", eq=False)
    origins: Mapping[tuple[str, ...], str] = field(factory=dict, repr=False, eq=False)

    def build(
        self,
        name: str,
        *,
        on: On | None = None,
        classify: Classifier | None = None,
        classify_result: ResultClassifier | None = None,
        idempotent: bool | None = None,
        code: Code | None = None,
    ) -> Pipeline:
        """A new pipeline as configured, called like its stack, as are its breaker, bulkhead and limiters.

        Args:
            name: of the stack.
            on: failures that count and are retried; goes to retry and circuit breaker.
            classify: judges exceptions, for all policies.
            classify_result: judges returned values.
            idempotent: whether a call may be carried out twice; in place of what the configuration says.
            code: options that only code can give, by section: `{"rate_limiter": {"key": by_user}}`.

        Raises:
            ConfigurationError: there is no such stack, code is given for a section that it does not have, or the
                policies do not go together.
        """
        stack = self._stack(name)
        given = _checked(stack, code or {})
        policies = stack.policies(given, on, self.budget)
        pipeline = Pipeline(
            *policies.values(),
            name=name,
            classify=classify,
            classify_result=classify_result,
            idempotent=stack.idempotent if idempotent is None else idempotent,
            allow=stack.allow,
        )
        from resilience_core.config import _reload  # it knows configurations

        _reload.remember(pipeline, stack, policies, given, on, idempotent, self.source)
        return pipeline

    def effective(self) -> dict[str, dict[str, dict[str, Any]]]:
        """What is in force, by stack, section and option, the defaults included; `show` tells it with who set it."""
        from resilience_core.config import _show  # it knows configurations

        return {name: _show.effective(stack) for name, stack in self.stacks.items()}

    def apply_to(self, registry: Registry) -> dict[str, Any]:
        """Set the policies of a registry so; `registry.apply(configuration)` is the same."""
        from resilience_core.config import _reload  # it knows configurations

        return _reload.apply(self, registry)

    def _stack(self, name: str) -> Stack:
        if name not in self.stacks:
            known = ", ".join(self.stacks) or "none"
            raise ConfigurationError(f"no stack is called {name!r}{did_you_mean(name, self.stacks)}; there are {known}")
        return self.stacks[name]

    def budget(self, name: str) -> RetryBudget:
        """The budget of that name: one for all configurations, or the one that code has made, or a new one."""
        found = _budgets.get(name)
        if found is None:
            living = [each for each in registry.find(name, RetryBudget.kind) if isinstance(each, RetryBudget)]
            found = living[0] if len(living) == 1 else RetryBudget(name, **self.budgets.get(name, {}))
            _budgets[name] = found
        return found


def _checked(stack: Stack, code: Code) -> Code:
    for section, options in code.items():
        if section not in stack.sections:
            raise ConfigurationError(
                f"code is given for {section!r}, which the stack {stack.name!r} does not have"
                f"{did_you_mean(section, stack.sections)}; it has {', '.join(stack.sections)}"
            )
        possible = from_code(SECTIONS[section]) | {"clock", "chance"}
        for option in options:
            if option not in possible:
                raise ConfigurationError(
                    f"code gives {section}.{option}, which "
                    + ("is configured" if option in options_of(SECTIONS[section]) else "is no option of it")
                    + f"; code can give {', '.join(sorted(possible))}"
                )
    return code


# --- trying a stack out ----------------------------------------------------------------------------------------------


def _judge_nothing(error: Exception) -> Verdict:
    """Stands for the classifier that code will give."""
    return Verdict.UNKNOWN


class _AnyFleet:
    """Stands for the fleet that code will give."""

    def share_circuit(self, breaker: Any) -> None:
        """Nothing is shared by what is tried out."""

    share_limiter = share_bulkhead = share_budget = share_circuit


def _a_fleet_if(*names: str) -> Callable[[Mapping[str, Any]], dict[str, Any]]:
    """A fleet where any of these options is set, which tell how it shares."""
    return lambda options: {"fleet": _AnyFleet()} if any(name in options for name in names) else {}


_STAND_INS: dict[str, Callable[[Mapping[str, Any]], dict[str, Any]]] = {
    "fallback": lambda options: {} if "value" in options else {"call": _judge_nothing},
    "circuit_breaker": _a_fleet_if("quorum"),
    "bulkhead": _a_fleet_if("fail_closed"),
    "rate_limiter": _a_fleet_if("strict", "fail_closed"),
    "chaos": lambda options: {"error": Exception} if options.get("error_rate") else {},
    "stale_cache": lambda options: {"file": None} | ({"negative_on": Exception} if options.get("negative_for") else {}),
}
"""What code must give for options that are set: something in its place, to try the rest out."""


def _missing(stack: Stack) -> Iterator[Problem]:
    """Options that have no default and are not set."""
    for section, options in stack.sections.items():
        for option in options_of(SECTIONS[section]).values():
            if option.default is attrs.NOTHING and option.name not in options:
                path = f"policies.{stack.name}.{section}.{option.name}"
                yield Problem(path, "is missing", "Set it: it has no default", stack.origins.get((section,), ""))


def try_out(stack: Stack, budgets: Mapping[str, Mapping[str, Any]]) -> Iterator[Problem]:
    """What is wrong with the options of a stack together: within a policy, and among the policies."""

    def stand_in(name: str) -> RetryBudget:
        return RetryBudget(name, **budgets.get(name, {}))

    made: list[Policy] = []
    missing = list(_missing(stack))
    yield from missing
    if missing:
        return
    with on_trial():
        for section in stack.sections:
            needs = _STAND_INS.get(section)
            stand_ins = {} if needs is None else needs(stack.sections[section])
            try:
                made.append(stack.policy(section, {section: stand_ins}, None, stand_in))
            except ConfigurationError as error:
                text = str(error).removeprefix(f"{SECTIONS[section].__name__}: ")
                yield Problem(f"policies.{stack.name}.{section}", text, "", stack.origins.get((section,), ""))
        if len(made) < len(stack.sections):
            return
        where = f"policies.{stack.name}"
        try:
            pipeline = Pipeline(
                *made, name=stack.name, classify=_judge_nothing, idempotent=stack.idempotent, allow=stack.allow
            )
        except ConfigurationError as error:
            yield Problem(where, str(error).removeprefix("Pipeline: "), "", stack.origins.get((), ""))
            return
        for finding in lint(pipeline):
            if finding.severity == "error" and not finding.undecided:
                fix = f"{finding.fix}. See {finding.docs}".replace("idempotent=True", "idempotent = true")
                yield Problem(where, f"{finding.code}: {finding.message}", fix, stack.origins.get((), ""))

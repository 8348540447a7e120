"""A configuration for policies that are in use: applied as a whole or not at all."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from typing import Any
from weakref import WeakKeyDictionary

import attrs
from attrs import evolve, frozen

from resilience_core._describe import chain_of
from resilience_core._pipeline import Pipeline
from resilience_core._policies.retry_budget import RetryBudget
from resilience_core._verdicts import On
from resilience_core._weave.edge import Policy
from resilience_core._weave.reload import lock, reconfigure
from resilience_core.config._classes import SECTIONS, options_of
from resilience_core.config._configuration import Code, Configuration, Stack
from resilience_core.config._problems import InvalidConfiguration, Problem
from resilience_core.registry import Registry

logger = logging.getLogger("resilience_core.config")


@frozen(eq=False)
class _Built:
    """How a configuration built a pipeline, so that it can get other sections."""

    sections: Mapping[str, Policy]
    code: Code
    on: On | None
    idempotent: bool | None
    """What code said, which goes before what the configuration says."""


_built: WeakKeyDictionary[Pipeline, _Built] = WeakKeyDictionary()
_before: WeakKeyDictionary[Any, dict[str, Any]] = WeakKeyDictionary()
"""Of all that a configuration has set: the options, and what they were before it did."""


def remember(
    pipeline: Pipeline, stack: Stack, sections: Mapping[str, Policy], code: Code, on: On | None, idempotent: bool | None
) -> None:
    """Note how a pipeline was built. An option that the next configuration does not name goes back to its default."""
    _built[pipeline] = _Built(sections, code, on, idempotent)
    for section, policy in sections.items():
        _before[policy] = _defaults(section, stack)


def _defaults(section: str, stack: Stack) -> dict[str, Any]:
    known = options_of(SECTIONS[section])
    defaults = {name: known[name].default for name in stack.sections[section]}
    return {name: default for name, default in defaults.items() if default is not attrs.NOTHING}


def apply(configuration: Configuration, registry: Registry) -> dict[str, Any]:
    """Set all living policies of `registry` that the configuration names; what has changed, by kind and name."""
    with lock:
        plan = _Plan(configuration, registry)
        if plan.problems:
            raise InvalidConfiguration(plan.problems, configuration.source)
        told = reconfigure(plan.changes)
        plan.note()
    return {f"{target.kind} {target.name}": changed for target, changed in told.items() if changed}


class _Plan:
    """What is to become of the living policies."""

    def __init__(self, configuration: Configuration, registry: Registry) -> None:
        self._configuration = configuration
        self.changes: dict[Any, dict[str, Any]] = {}
        self.problems: list[Problem] = []
        self._kept: dict[Any, dict[str, Any]] = {}
        self._rebuilt: dict[Pipeline, _Built] = {}
        for stack in configuration.stacks.values():
            self._stack(stack, registry)
        for name, options in configuration.budgets.items():
            for budget in registry.find(name, RetryBudget.kind):
                self._set(budget, options, {"law": "law"})

    def note(self) -> None:
        """The plan was carried out: remember what it has set."""
        _before.update(self._kept)
        _built.update(self._rebuilt)

    def _stack(self, stack: Stack, registry: Registry) -> None:
        pipelines = [found for found in registry.find(stack.name, Pipeline.kind) if isinstance(found, Pipeline)]
        found: dict[str, set[Policy]] = {
            section: {each for each in registry.find(stack.name, SECTIONS[section].kind) if isinstance(each, Policy)}
            for section in stack.sections
        }
        new: set[str] = set()
        for pipeline in pipelines:
            built = _built.get(pipeline)
            if built is not None and set(built.sections.values()) == set(pipeline.policies):
                present, made = self._rebuild(pipeline, stack, built)
                new |= made
            else:
                present = self._as_it_is(pipeline, stack, built)
            for section, policy in present.items():
                found[section].add(policy)
        for section, policies in found.items():
            for policy in policies:
                self._set(policy, stack.options(section, self._configuration.budget), policy._options())
            if pipelines and not policies and section not in new:
                self.problems.append(_nowhere(section, stack))

    def _as_it_is(self, pipeline: Pipeline, stack: Stack, built: _Built | None) -> dict[str, Policy]:
        """A pipeline that code composed: the policies in it, by the sections that set them."""
        options = _idempotence(stack, built) | ({"allow": stack.allow} if stack.allow else {})
        self._set(pipeline, options, pipeline._options())
        return {section: policy for section, policy in sections_of(pipeline) if section in stack.sections}

    def _rebuild(self, pipeline: Pipeline, stack: Stack, built: _Built) -> tuple[dict[str, Policy], set[str]]:
        """A pipeline that a configuration built: the policies that stay, by section, and the sections that are new."""
        new = {section for section in stack.sections if section not in built.sections}
        made = {section: stack.policy(section, built.code, built.on, self._configuration.budget) for section in new}
        sections = {section: {**built.sections, **made}[section] for section in stack.sections}
        self._rebuilt[pipeline] = evolve(built, sections=sections)
        for section, policy in made.items():
            self._kept[policy] = _defaults(section, stack)
        options = {"policies": tuple(sections.values()), "allow": stack.allow, **_idempotence(stack, built)}
        self._set(pipeline, options, pipeline._options())
        return {section: policy for section, policy in sections.items() if section not in new}, new

    def _set(self, target: Any, options: Mapping[str, Any], attributes: Mapping[str, str]) -> None:
        """Give `target` these options, and their old values to those that were set before and are not any more."""
        before = _before.get(target, {})
        forgotten = {name: value for name, value in before.items() if name not in options and name != "policies"}
        self.changes.setdefault(target, {}).update({**forgotten, **options})
        own = {name: before[name] if name in before else getattr(target, attributes[name]) for name in options}
        self._kept.setdefault(target, {}).update(own)


def _idempotence(stack: Stack, built: _Built | None) -> dict[str, Any]:
    """What the stack says of it, unless code said so before."""
    said_by_code = built is not None and built.idempotent is not None
    return {} if stack.idempotent is None or said_by_code else {"idempotent": stack.idempotent}


def _nowhere(section: str, stack: Stack) -> Problem:
    return Problem(
        f"policies.{stack.name}.{section}",
        f"the pipeline {stack.name!r} has no such policy, and was not built by a configuration",
        "Put it in where the pipeline is composed, or take the section out",
        stack.origins.get((section,), ""),
    )


def sections_of(pipeline: Pipeline) -> Iterator[tuple[str, Policy]]:
    """The policies of a pipeline that was composed in code, with the sections that set them.

    A `Timeout` outside of retries, hedges and gates is the total, one inside is the attempt's.
    """
    inside = False
    for policy in chain_of(pipeline.policies):
        if policy.kind == "timeout":
            yield ("attempt_timeout" if inside else "timeout"), policy
        elif policy.kind in SECTIONS:
            inside = inside or policy.kind not in _AROUND
            yield policy.kind, policy


_AROUND = ("fallback", "stale_cache", "coalesce", "timeout", "deadline")
"""The sections that stand outside of the attempts."""

"""A configuration for policies that are in use: applied as a whole or not at all."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any
from weakref import WeakKeyDictionary

import attrs
from attrs import evolve, frozen

from resilience_core._describe import chain_of
from resilience_core._errors import ConfigurationError
from resilience_core._event_log import say
from resilience_core._pipeline import Pipeline
from resilience_core._policies.retry_budget import RetryBudget
from resilience_core._schema import POLICY
from resilience_core._verdicts import On
from resilience_core._weave.edge import Policy, same
from resilience_core._weave.reload import lock, swap, tell
from resilience_core.config._classes import SECTIONS, options_of
from resilience_core.config._configuration import ANONYMOUS, Code, Configuration, Stack
from resilience_core.config._layers import IN_PLACE_OF
from resilience_core.config._problems import InvalidConfiguration, Problem
from resilience_core.registry import Registry, on_trial


@frozen(eq=False)
class _Built:
    """How a configuration built a pipeline, so that it can get other sections."""

    sections: Mapping[str, Policy]
    code: Code
    on: On | None
    idempotent: bool | None
    """What code said, which goes before what the configuration says."""


@frozen(eq=False)
class _Set:
    """What a configuration has set of a policy."""

    source: str
    path: str
    """Of the policy, in the configuration."""
    before: Mapping[str, Any]
    """The options that it has set, and what they were before."""


_built: WeakKeyDictionary[Pipeline, _Built] = WeakKeyDictionary()
_set: WeakKeyDictionary[Any, _Set] = WeakKeyDictionary()


def remember(
    pipeline: Pipeline,
    stack: Stack,
    sections: Mapping[str, Policy],
    code: Code,
    on: On | None,
    idempotent: bool | None,
    source: str,
) -> None:
    """Note how a pipeline was built. An option that the next configuration does not name goes back to its default."""
    _built[pipeline] = _Built(sections, code, on, idempotent)
    own = {} if stack.idempotent is None or idempotent is not None else {"idempotent": None}
    path = f"policies.{stack.name}"
    _set[pipeline] = _Set(source, path, {**own, **({"allow": {}} if stack.allow else {})})
    for section, policy in sections.items():
        _set[policy] = _Set(source, f"{path}.{section}", _defaults(section, stack))


def _defaults(section: str, stack: Stack) -> dict[str, Any]:
    known = options_of(SECTIONS[section])
    defaults = {name: known[name].default for name in stack.sections[section]}
    return {name: default for name, default in defaults.items() if default is not attrs.NOTHING}


def apply(configuration: Configuration, registry: Registry) -> dict[str, Any]:
    """Set all living policies of `registry` that the configuration names; what has changed, by its path there."""
    with lock:
        plan = _Plan(configuration, registry)
        if plan.problems:
            raise InvalidConfiguration(plan.problems, configuration.source)
        told = swap(plan.changes)
        plan.note()
    tell(told)
    changed: dict[str, Any] = {}
    for target, changes in told.items():
        if changes:  # policies of one name have one path
            path = plan.paths[target]
            changed[path] = changed.get(path, ()) + changes
    return changed


class _Plan:
    """What is to become of the living policies."""

    def __init__(self, configuration: Configuration, registry: Registry) -> None:
        self._configuration = configuration
        self._registry = registry
        self.problems: list[Problem] = []
        self.paths: dict[Any, str] = {}
        self._wanted: dict[Any, dict[str, Any]] = {}
        self._before: dict[Any, dict[str, Any]] = {}
        self._rebuilt: dict[Pipeline, _Built] = {}
        self._new: dict[Policy, _Set] = {}
        for stack in configuration.stacks.values():
            self._stack(stack)
        for name, options in configuration.budgets.items():
            for budget in registry.find(name, RetryBudget.kind):
                self._want(budget, options, f"budgets.{name}")
        self._forgotten = dict(self._find_forgotten())
        changes = {target: self._change(target, wanted) for target, wanted in self._wanted.items()}
        for target, kept in self._forgotten.items():
            self.paths[target] = kept.path
            changes[target] = dict(kept.before)
        self.changes = {target: options for target, options in changes.items() if options}

    def note(self) -> None:
        """The plan was carried out: remember what it has set, and let what it has made be seen."""
        source = self._configuration.source
        for target in self._forgotten:
            del _set[target]
        _set.update({target: _Set(source, self.paths[target], before) for target, before in self._before.items()})
        _set.update(self._new)
        _built.update(self._rebuilt)
        for policy in self._new:
            if policy.name != policy.kind:
                self._registry.add(policy)

    # --- who is meant ------------------------------------------------------------------------------------------------

    def _stack(self, stack: Stack) -> None:
        path = f"policies.{stack.name}"
        pipelines = [each for each in self._registry.find(stack.name, Pipeline.kind) if isinstance(each, Pipeline)]
        found: dict[str, set[Policy]] = {
            section: {
                each for each in self._registry.find(stack.name, SECTIONS[section].kind) if isinstance(each, Policy)
            }
            for section in stack.sections
        }
        new: set[str] = set()
        for pipeline in pipelines:
            built = _built.get(pipeline)
            if built is not None and set(built.sections.values()) == set(pipeline.policies):
                present, made = self._rebuild(pipeline, stack, built)
                new |= made
            else:
                options = _idempotence(stack, built) | ({"allow": stack.allow} if stack.allow else {})
                self._want(pipeline, options, path)
                present = {section: each for section, each in sections_of(pipeline) if section in stack.sections}
            for section, policy in present.items():
                found[section].add(policy)
        for section, policies in found.items():
            for policy in policies:
                self._want(policy, stack.options(section, self._configuration.budget), f"{path}.{section}")
            if pipelines and not policies and section not in new:
                self.problems.append(_nowhere(section, stack))
        if not pipelines and not any(found.values()):
            say("resilience.config.unused", f"No living policy is set by [policies.{stack.name}]", {POLICY: stack.name})

    def _rebuild(self, pipeline: Pipeline, stack: Stack, built: _Built) -> tuple[dict[str, Policy], set[str]]:
        """A pipeline that a configuration built: the policies that stay, by section, and the sections that are new."""
        path = f"policies.{stack.name}"
        new = {section for section in stack.sections if section not in built.sections}
        made: dict[str, Policy] = {}
        for section in new:
            try:
                with on_trial():  # nobody is to see it before it is in use
                    made[section] = stack.policy(section, built.code, built.on, self._configuration.budget)
            except ConfigurationError as error:
                origin = stack.origins.get((section,), "")
                fix = "What only code can give was not given when the pipeline was built"
                self.problems.append(Problem(f"{path}.{section}", str(error), fix, origin))
                return {}, set(stack.sections)
            self._new[made[section]] = _Set(self._configuration.source, f"{path}.{section}", _defaults(section, stack))
        sections = {section: {**built.sections, **made}[section] for section in stack.sections}
        self._rebuilt[pipeline] = evolve(built, sections=sections)
        options = {"policies": tuple(sections.values()), "allow": stack.allow, **_idempotence(stack, built)}
        self._want(pipeline, options, path)
        return {section: policy for section, policy in sections.items() if section not in new}, new

    # --- what it gets ------------------------------------------------------------------------------------------------

    def _want(self, target: Any, options: Mapping[str, Any], path: str) -> None:
        """Note what a stack wants of a policy; two of them may want different things, but not of one option."""
        wanted = self._wanted.setdefault(target, {})
        self.paths.setdefault(target, path)
        for name, value in options.items():
            if name in wanted and wanted[name] != value:
                message = f"is set to {value!r} here, and to {wanted[name]!r} by {self.paths[target]}"
                fix = "Both set the same policy: say it in one place"
                self.problems.append(Problem(f"{path}.{name}", message, fix, self._configuration.source))
            wanted[name] = value

    def _change(self, target: Any, wanted: dict[str, Any]) -> dict[str, Any]:
        """What is wanted, and the old values of what was set before and is not wanted any more; equal ones left out."""
        kept = _set.get(target)
        before = {} if kept is None else kept.before
        for name, other in IN_PLACE_OF.items():
            if name in wanted and other not in wanted:  # one takes the place of the other, whoever wrote that
                wanted[other] = attrs.fields_dict(type(target))[other].default
        options = {name: value for name, value in before.items() if name not in wanted} | wanted
        present = {name: getattr(target, _attribute_of(target, name)) for name in options}
        self._before[target] = {name: before.get(name, present[name]) for name in wanted if name != "policies"}
        return {name: value for name, value in options.items() if not same(present[name], value)}

    def _find_forgotten(self) -> Iterator[tuple[Any, _Set]]:
        """What a configuration from the same source has set, and this one does not speak of at all."""
        source, in_use = self._configuration.source, set(self._registry)
        for pipeline in [each for each in in_use if isinstance(each, Pipeline)]:
            in_use.update(pipeline.parts())  # policies without a name of their own
        for target, kept in list(_set.items()):
            ours = kept.source == source and source not in ANONYMOUS
            if ours and target not in self._wanted and target in in_use:
                yield target, kept


def _attribute_of(target: Any, option: str) -> str:
    """The attribute behind an option of a policy or a budget."""
    options: dict[str, str] = target._options() if isinstance(target, Policy) else {}
    return options.get(option, option)


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

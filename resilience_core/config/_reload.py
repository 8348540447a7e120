"""A configuration for policies that are in use: applied as a whole or not at all, and its file watched for changes."""

from __future__ import annotations

import hashlib
import logging
import os
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any
from weakref import WeakKeyDictionary

import attrs
from attrs import evolve, frozen

from resilience_core import _validation as check
from resilience_core._clock import SYSTEM
from resilience_core._config_events import ConfigurationRefused, ConfigurationReloaded
from resilience_core._describe import chain_of
from resilience_core._errors import ConfigurationError
from resilience_core._events import everywhere
from resilience_core._pipeline import Pipeline
from resilience_core._policies.retry_budget import RetryBudget
from resilience_core._telemetry import telemetry
from resilience_core._validation import Seconds
from resilience_core._verdicts import On
from resilience_core._weave.edge import Policy
from resilience_core._weave.reload import lock, reconfigure
from resilience_core.config._classes import SECTIONS, options_of
from resilience_core.config._configuration import Code, Configuration, Stack
from resilience_core.config._load import LARGEST_FILE, load
from resilience_core.config._problems import InvalidConfiguration, Problem
from resilience_core.registry import Registry
from resilience_core.registry import registry as whole_registry

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


# --- watching --------------------------------------------------------------------------------------------------------


class Watcher:
    """Applies a configuration file whenever it has changed. Nothing is watched until `start()`.

    A file that is wrong changes nothing: it is logged as an error, told as `ConfigurationRefused`, kept as `error`, and
    the next change is looked at as before. A thread that is started here does not outlive a fork.

    Args:
        path: of the file, as for `load`.
        environment: the overlay to use.
        env: environment variables that override the file.
        interval: seconds (or timedelta) between two looks.
        registry: where the policies are that are to be set.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        environment: str | None = None,
        env: Mapping[str, str] | None = None,
        interval: Seconds = 2.0,
        registry: Registry = whole_registry,
    ) -> None:
        self._path = Path(path)
        self._environment = environment
        self._env = env
        self._interval = check.seconds("Watcher: interval", interval)
        self._registry = registry
        self._seen: bytes | None = None  # of the content that was looked at last
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self.error: ConfigurationError | None = None
        """Why the file as it is now was refused; None for a good one."""

    def poll(self) -> bool:
        """Look once; whether a changed file was applied. The first look always applies it."""
        with self._lock:
            seen = self._fingerprint()
            if seen == self._seen:
                return False
            self._seen = seen
            return self._apply()

    def _fingerprint(self) -> bytes:
        try:
            with self._path.open("rb") as file:
                return hashlib.sha256(file.read(LARGEST_FILE + 1)).digest()
        except OSError as error:
            return repr(error.errno).encode()

    def _apply(self) -> bool:
        name = self._path.name
        try:
            configuration = load(self._path, environment=self._environment, env=self._env)
            changed = self._registry.apply(configuration)
        except (ConfigurationError, TypeError) as error:
            refused = error if isinstance(error, ConfigurationError) else ConfigurationError(str(error))
            self.error = refused
            problems = tuple(str(problem) for problem in getattr(refused, "problems", ())) or (str(refused),)
            logger.error(  # noqa: TRY400 - the problems say all; a traceback of ours says nothing to who wrote the file
                "Configuration %s is refused, nothing has changed: %s", name, "; ".join(problems)
            )
            telemetry.count_reload("error")
            everywhere.deliver(ConfigurationRefused(name, SYSTEM.now(), problems))
            return False
        self.error = None
        logger.info("Configuration %s is applied: %s", name, ", ".join(changed) or "no change")
        telemetry.count_reload("success")
        everywhere.deliver(ConfigurationReloaded(name, SYSTEM.now(), tuple(changed)))
        return True

    def start(self) -> None:
        """Look every `interval` seconds from now on, in a thread that does not keep the process alive."""
        with self._lock:
            if self._thread is None or not self._thread.is_alive():
                self._stop.clear()
                self._thread = threading.Thread(target=self._watch, name="resilience-config", daemon=True)
                self._thread.start()

    def _watch(self) -> None:
        while True:
            try:
                self.poll()
            except Exception:  # a listener or a policy of somebody else: the next change must be seen all the same
                logger.exception("Watching %s failed; it goes on", self._path.name)
            if self._stop.wait(self._interval):
                return

    def close(self) -> None:
        """Look no more; waits for a look that is under way."""
        self._stop.set()
        thread = self._thread
        if thread is not None and thread is not threading.current_thread():
            thread.join()

    def __enter__(self) -> Watcher:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

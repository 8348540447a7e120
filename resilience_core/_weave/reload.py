"""Other options for policies that are in use: all of them or none, and nothing that a policy knows is lost.

    1. trial     every changed policy is made anew with its new options, every pipeline around it, too, and the whole
                 is woven around every function that it guards; whatever refuses ends the matter here
    2. options   the real policies take the new options over; their machines go on with the state they have
    3. weaves    every guarded function gets a new weave in place of the old one

A call that is under way runs through the weave that it began with: the structure and the retry rules stay. Machines are
the same ones in both weaves, so the limits of gates apply at once.

What must never happen: a call that finds half of a weave (the swap is one assignment); a trial that leaves a trace.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping
from typing import Any, Protocol, TypeAlias, runtime_checkable
from weakref import WeakSet

from resilience_core._errors import ConfigurationError
from resilience_core._fork import renewed_after_fork
from resilience_core._validation import did_you_mean
from resilience_core.registry import on_trial, registry

Changes: TypeAlias = tuple[tuple[str, Any, Any], ...]
"""Options that were changed: name, value before and after, as plain values."""


class Adjustable(Protocol):
    """A policy or a budget: what can get other options while it is in use."""

    def altered(self, options: Mapping[str, Any]) -> Any:
        """A new object with these options in place of its own; raises `ConfigurationError` where they cannot be."""
        ...

    def take_over(self, other: Any) -> Changes:
        """Be set as `other` is, from now on; keep the state. Must not fail."""
        ...

    def tell_changes(self, changes: Changes) -> None:
        """Let listeners know."""
        ...


@runtime_checkable
class Whole(Protocol):
    """A policy made of others."""

    def with_substitutes(self, substitutes: Substitutes) -> Any:
        """What stands in its place when some of them are replaced; raises `ConfigurationError` if it cannot be."""
        ...


class Weaver(Protocol):
    """Whatever holds a weave: a decorated function, a policy that is called in place."""

    def concerns(self, changed: Mapping[Any, Any]) -> bool:
        """Whether any of the changed policies is woven here."""
        ...

    def try_out(self, substitutes: Substitutes) -> None:
        """Weave with the substitutes of the changed policies, for nothing but to see that it can be done."""
        ...

    def reweave(self) -> None:
        """Weave anew; calls from now on run through that."""
        ...


lock = renewed_after_fork(threading.RLock())
"""Held while weaving and while options change: a function must not be woven in the middle of it."""
weavers: WeakSet[Any] = WeakSet()
"""All that hold a weave. Added to and looked through under the lock."""


class Substitutes(dict[Any, Any]):
    """The changed policies with what stands in their place on trial, and the pipelines made of those so far."""

    def __init__(self, substitutes: Mapping[Any, Any]) -> None:
        super().__init__(substitutes)
        self.wholes: dict[Any, Any] = {}


def swap(changes: Mapping[Any, Mapping[str, Any]]) -> dict[Any, Changes]:
    """Give each of these policies (and budgets) other options, all of them at once or none; what has changed.

    `changes` holds the new options of each; those that are not named stay. Nobody is told so far.

    Raises:
        ConfigurationError: what one of them is to be set to cannot be, alone or together; nothing has changed then.
        TypeError: a function that is guarded already cannot be guarded so (a stream by a hedge); as above.
    """
    with lock:
        with on_trial():
            substitutes = Substitutes({policy: policy.altered(options) for policy, options in changes.items()})
            concerned = [weaver for weaver in list(weavers) if weaver.concerns(substitutes)]
            for named in registry:  # also those that guard no function so far
                if isinstance(named, Whole):
                    named.with_substitutes(substitutes)
            for weaver in concerned:
                weaver.try_out(substitutes)
        told = {policy: _taken_over(policy, substitute) for policy, substitute in substitutes.items()}
        for weaver in concerned:
            weaver.reweave()
    return told


def _taken_over(policy: Any, substitute: Any) -> Changes:
    """What a policy has taken over. That may call code of others: where it fails, the rest goes on all the same."""
    try:
        changes: Changes = policy.take_over(substitute)
    except Exception as error:
        from resilience_core._event_log import say  # here, not above: nobody logs while all is well
        from resilience_core._schema import POLICY

        text = f"{policy.kind} {policy.name!r} did not take all of its new options over"
        say("resilience.config.not_taken", text, {POLICY: policy.name}, error=error)
        return ()
    return changes


def tell(told: Mapping[Any, Changes]) -> None:
    """Let listeners know what has changed; outside of the lock, for they may do what they like."""
    for policy, changed in told.items():
        if changed:
            policy.tell_changes(changed)


def reconfigure(changes: Mapping[Any, Mapping[str, Any]]) -> None:
    """`swap`, and `tell`."""
    tell(swap(changes))


def refuse_fixed(policy: Any, options: Mapping[str, Any], known: Iterable[str], fixed: Iterable[str]) -> None:
    """Raise `ConfigurationError` for options that a policy does not have, or that its state depends on."""
    kind = type(policy).__name__
    for name in options:
        if name in fixed:
            raise ConfigurationError(
                f"{kind} {policy.name!r}: {name} cannot be changed while it is in use: make another {kind}"
            )
        if name not in known:
            changeable = sorted(set(known) - set(fixed))
            raise ConfigurationError(
                f"{kind} {policy.name!r}: no option is called {name!r}{did_you_mean(name, changeable)}; "
                f"those that can be changed: {', '.join(changeable)}"
            )

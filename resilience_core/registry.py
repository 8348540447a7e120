"""Every named policy of the process that is still alive, for whoever wants to look at them."""

from __future__ import annotations

import threading
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, ClassVar, Protocol
from weakref import WeakSet

from resilience_core._fork import renewed_after_fork

_TRIAL: ContextVar[bool] = ContextVar("resilience_trial", default=False)


@contextmanager
def on_trial() -> Generator[None, None, None]:
    """Policies made inside are not registered: they are made to find out whether their options are good."""
    token = _TRIAL.set(True)
    try:
        yield
    finally:
        _TRIAL.reset(token)


def trying() -> bool:
    """Whether what is made now is made on trial."""
    return _TRIAL.get()


class Named(Protocol):
    """What the registry needs to know of a policy."""

    @property
    def name(self) -> str: ...

    kind: ClassVar[str]

    def snapshot(self) -> dict[str, Any]: ...


class Applicable(Protocol):
    """A configuration, as `resilience_core.config` reads it."""

    def apply_to(self, registry: Registry) -> dict[str, Any]: ...


class Registry:
    """Policies by name. Holds them weakly: what nobody uses any more is gone from here, too."""

    def __init__(self) -> None:
        self._policies: WeakSet[Any] = WeakSet()
        self._lock = renewed_after_fork(threading.Lock())  # a set must not change while somebody looks through it

    def add(self, policy: Named) -> None:
        """Note a policy; every policy that was given a name does this itself."""
        if not _TRIAL.get():
            with self._lock:
                self._policies.add(policy)

    def remove(self, policy: Named) -> None:
        """Forget a policy that another one stands for."""
        with self._lock:
            self._policies.discard(policy)

    def __iter__(self) -> Iterator[Named]:
        with self._lock:
            policies = list(self._policies)
        return iter(sorted(policies, key=lambda policy: (policy.kind, policy.name)))

    def find(self, name: str, kind: str | None = None) -> list[Named]:
        """All living policies called `name`, of one `kind` ("circuit_breaker", "bulkhead", ...) if given."""
        return [policy for policy in self if policy.name == name and kind in (None, policy.kind)]

    def get(self, name: str, kind: str | None = None) -> Named:
        """The one policy called `name`.

        Raises:
            LookupError: there is none, or more than one (then give `kind`, or keep the object itself).
        """
        found = self.find(name, kind)
        if len(found) == 1:
            return found[0]
        known = ", ".join(sorted({policy.name for policy in self})) or "none"
        problem = f"{len(found)} policies are" if found else "no policy is"
        raise LookupError(f"{problem} called {name!r}; known names: {known}")

    def apply(self, configuration: Applicable) -> dict[str, Any]:
        """Set the living policies as a configuration says, all of them at once or none; what has changed.

        That is told by the path in the configuration: `{"policies.search.retry": (("max_attempts", 3, 5),)}`. A stack
        sets the policies of the pipelines that are called like it, and policies of that name that stand alone. Options
        that the last configuration set and this one does not name become what they were before, and so does everything
        that a file of that name has set, and does not speak of any more.

        Raises:
            ConfigurationError: they cannot be set so; nothing has changed then.
        """
        return configuration.apply_to(self)

    def snapshot(self) -> list[dict[str, Any]]:
        """The state of every policy, as plain values: `kind`, `name` and what that kind has to tell."""
        return [{"kind": policy.kind, "name": policy.name, **policy.snapshot()} for policy in self]


registry: Registry = Registry()
"""The registry of this process."""

"""A budget for extra attempts that many retries and hedges share. The laws are in `_machines/budget.py`."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import Any, ClassVar

from attrs import define, evolve, field, setters

from resilience_core import _validation as check
from resilience_core._clock import SYSTEM, Clock
from resilience_core._errors import ConfigurationError
from resilience_core._events import Reconfigured, everywhere
from resilience_core._machines.budget import Account, Law, TrafficRatio
from resilience_core._weave.reload import Changes, reconfigure, refuse_fixed
from resilience_core._weave.sharing import Fleet
from resilience_core.registry import registry


@define(eq=False, on_setattr=setters.frozen)
class RetryBudget:
    """Bounds the extra attempts (retries and hedges) of everybody who was given it.

    With the default, at 100 % failure there are at most 1.1 times as many requests as calls, plus a floor of one extra
    attempt a second; nested retries that share one budget stay within it together.

    Args:
        name: identifies the budget in errors, events and metrics.
        law: `TrafficRatio` (default), `InFlightRatio`, `TokenQuota` or `TokenThrottle`.
        clock: where the time comes from.
        fleet: the budget is one for all processes that have one of this name in the same fleet (a `RedisFleet`).
            Tokens are fetched in batches; a retry never waits for them, it is refused. Not with `InFlightRatio`.
    """

    kind: ClassVar[str] = "retry_budget"

    name: str = field(validator=check.name)
    law: Law = field(factory=TrafficRatio, kw_only=True, validator=check.has("start", "a law such as TrafficRatio()"))
    clock: Clock = field(
        default=SYSTEM, kw_only=True, repr=False, validator=check.instance_of(Clock, "a resilience_core.Clock")
    )
    fleet: Fleet | None = field(
        default=None, kw_only=True, repr=False, validator=check.optional(check.has("share_budget", "a RedisFleet"))
    )
    _account: Account = field(init=False, repr=False, on_setattr=setters.NO_OP)
    _lock: threading.Lock = field(init=False, repr=False, factory=threading.Lock)
    _granted: int = field(init=False, repr=False, default=0, on_setattr=setters.NO_OP)
    _refused: int = field(init=False, repr=False, default=0, on_setattr=setters.NO_OP)

    def __attrs_post_init__(self) -> None:
        self._account = self.law.start() if self.fleet is None else self.fleet.share_budget(self).account
        registry.add(self)

    def reconfigure(self, *, law: Law) -> None:
        """Set another law of the same kind; what was earned and spent stays.

        Raises:
            ConfigurationError: it is of another kind; calls that are under way are counted by the present one.
        """
        reconfigure({self: {"law": law}})

    def altered(self, options: Mapping[str, Any]) -> RetryBudget:
        """A new budget that is set as this one, but for `options`."""
        refuse_fixed(self, options, ("law",), ("name", "clock", "fleet"))
        other = evolve(self, **options)
        if type(other.law) is not type(self.law):
            raise ConfigurationError(
                f"RetryBudget {self.name!r}: law must stay a {type(self.law).__name__} while it is in use, not become "
                f"a {type(other.law).__name__}: change its numbers, or make another RetryBudget"
            )
        return other

    def take_over(self, other: RetryBudget) -> Changes:
        """Be set as `other` is from now on; what has changed."""
        if other.law == self.law:
            return ()
        changes = (("law", str(self.law), str(other.law)),)
        with self._lock:
            object.__setattr__(self, "law", other.law)  # frozen for everybody else
            if hasattr(self._account, "adopt"):
                self._account.adopt(other.law, self.clock.now())
            else:  # a law of somebody else, whose account cannot go on
                self._account = other.law.start()
        return changes

    def tell_changes(self, changes: Changes) -> None:
        """Tell listeners of the process which options were changed."""
        if everywhere.hears(Reconfigured):
            everywhere.emit(Reconfigured(self.name, self.clock.now(), changes))

    def began(self) -> None:
        """Count one call (its first attempt)."""
        with self._lock:
            self._account.began(self.clock.now())

    def failed(self) -> None:
        """Count one attempt that failed in a way that could be retried."""
        with self._lock:
            self._account.failed()

    def take(self, costly: bool = False) -> float | None:
        """Pay for one extra attempt; None when the budget is used up. `costly` after a time-out (`TokenQuota`)."""
        with self._lock:
            paid = self._account.take(self.clock.now(), costly)
            if paid is None:
                self._refused += 1
            else:
                self._granted += 1
        return paid

    def ended(self, success: bool, paid: float, retries: int, counted: bool = True) -> None:
        """Count the end of a call that made so many extra attempts, the last of which cost `paid`.

        `counted` is whether the call was begun with `began`.
        """
        with self._lock:
            self._account.ended(success, paid, retries, counted)

    def snapshot(self) -> dict[str, Any]:
        """What is left, and how many extra attempts were granted and refused so far."""
        with self._lock:
            left = self._account.balance(self.clock.now())
        return {"balance": left, "granted": self._granted, "refused": self._refused}

    def describe(self) -> dict[str, Any]:
        """What the budget allows, as plain values."""
        text = f"retry budget {self.name!r}: {self.law}"
        return {"kind": self.kind, "name": self.name, "text": text, "options": {"law": str(self.law)}}

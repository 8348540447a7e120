"""Limit how many calls run at once, by a limit that learns. Its laws are in `_machines/concurrency.py`."""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable
from typing import Any, ClassVar

from attrs import define, field, frozen, setters

from resilience_core import _validation as check
from resilience_core._clock import CHANCE, Chance
from resilience_core._errors import BulkheadFullError, RejectionReason
from resilience_core._events import LimitChanged
from resilience_core._machines.concurrency import LimitLaw, Slots, Steady
from resilience_core._verdicts import FAILURES, Classifier, Judgement, Verdict
from resilience_core._weave.gate import Gate
from resilience_core._weave.priority import Priority
from resilience_core._weave.rejections import tell_rejection
from resilience_core._weave.site import Args, Kwargs

_REASONS = {
    "limit": RejectionReason.CONCURRENCY_LIMITED,
    "shed": RejectionReason.SHED,
    "unfair": RejectionReason.UNFAIR_SHARE,
}


@frozen
class _Permit:
    """What a call was admitted with; `epoch` is None where shadow mode let it go without a slot."""

    started: float
    epoch: int | None
    user: Hashable


@define(eq=False, on_setattr=setters.frozen)
class AdaptiveConcurrency(Gate):
    """Rejects calls beyond a limit that follows what the dependency can take.

    Successes and PERMANENT outcomes are samples of its latency; failures and THROTTLED ones say that it is too much;
    IGNORED ones say nothing. Every change is told as `LimitChanged`, with its reason.

    Args:
        name: identifies the policy in errors, events and metrics.
        law: `Steady` (default), `Vegas`, `Gradient2` or `AIMD`.
        priority: a function of the guarded call's arguments that answers a `Priority`; `current_priority` takes that
            of `with prioritised(...)`. The less important may use less of the limit, so they are shed first. Without
            it, all may use all of it.
        user: a function of the arguments that names on whose behalf the call is made. Once half of the limit is
            taken, nobody gets more than an equal share of it. Keys are kept only while their calls run.
        classify: judges exceptions; default the pipeline's classifier, else every `Exception` is a failure.
        chance: where random numbers come from (`Vegas` probes at random moments).
        enforce: share of the rejections that are carried out (shadow mode below 1).

    Raises:
        BulkheadFullError: from the guarded call, which was not made.
    """

    kind: ClassVar[str] = "adaptive_concurrency"
    spares_itself: ClassVar[bool] = True

    name: str = field(validator=check.name)
    law: LimitLaw = field(factory=Steady, kw_only=True, validator=check.has("start", "a law such as Steady()"))
    priority: Callable[..., Priority] | None = field(
        default=None, kw_only=True, validator=check.optional(check.function)
    )
    user: Callable[..., Hashable] | None = field(default=None, kw_only=True, validator=check.optional(check.function))
    classify: Classifier | None = field(default=None, kw_only=True, validator=check.optional(check.function))
    chance: Chance = field(
        default=CHANCE, kw_only=True, repr=False, validator=check.instance_of(Chance, "a resilience_core.Chance")
    )
    _slots: Slots = field(init=False, repr=False, on_setattr=setters.NO_OP)
    _lock: threading.Lock = field(init=False, repr=False, factory=threading.Lock)
    _rejected: int = field(init=False, repr=False, default=0, on_setattr=setters.NO_OP)
    _reason: str | None = field(init=False, repr=False, default=None, on_setattr=setters.NO_OP)

    def _build(self) -> None:
        self._slots = Slots(self.law)
        self.judge_by(None, self.classify)

    def _adopt(self, other: AdaptiveConcurrency, changed: frozenset[str]) -> None:
        Gate._adopt(self, other, changed)
        if "law" in changed:
            with self._lock:
                self._slots.adopt(self.law)

    @property
    def limit(self) -> int:
        """Calls that may run at once now."""
        return self._slots.limit

    def at_rest(self) -> bool:
        """Whether no call is inside."""
        return self._slots.in_flight == 0

    def snapshot(self) -> dict[str, Any]:
        """Usage and limit now, why the limit changed last, users with calls inside, rejections so far."""
        return {
            "in_flight": self._slots.in_flight,
            "limit": self._slots.limit,
            "last_change": self._reason,
            "users": self._slots.users,
            "rejected": self._rejected,
            "would_reject": self.spared,
        }

    def _sentence(self) -> str:
        classes = ", less important calls first" if self.priority is not None else ""
        return f"adaptive concurrency {self.name!r}: {type(self.law).__name__}, rejects beyond its limit{classes}"

    def enter(self, args: Args, kwargs: Kwargs) -> _Permit:
        """Take a slot, or raise `BulkheadFullError`. For a guarded block `priority` and `user` get no arguments."""
        level = None if self.priority is None else int(self.priority(*args, **kwargs))
        user = None if self.user is None else self.user(*args, **kwargs)
        with self._lock:
            refused = self._slots.admit(level, user)
            epoch = self._slots.epoch
        if refused is None:
            return _Permit(self.clock.now(), epoch, user)
        reason = _REASONS[refused]
        if self.spares(reason, "call"):
            return _Permit(self.clock.now(), None, user)
        self._rejected += 1
        tell_rejection(self.bus, self.name, self.clock.now(), reason, "call", total=self._rejected)
        inputs = {
            "kind": self.kind,
            "in_flight": self._slots.in_flight,
            "limit": self._slots.limit,
            "last_change": self._reason,
        }
        raise BulkheadFullError(self.name, reason, inputs=inputs)

    def settle(self, permit: _Permit, judgement: Judgement) -> None:
        """Give the slot back and learn from how long the call took."""
        if permit.epoch is None:
            return
        verdict, now = judgement.verdict, self.clock.now()
        dropped = verdict in FAILURES or verdict is Verdict.THROTTLED
        rtt = now - permit.started
        change = None
        with self._lock:
            slots = self._slots
            in_flight = slots.in_flight
            slots.release(permit.user)
            if verdict is not Verdict.IGNORED and rtt > 0:
                change = slots.learn(rtt, in_flight, dropped, permit.epoch, now, self.chance.random)
        if change is not None:
            self._reason = change[2]
            if self.bus.hears(LimitChanged):
                self.bus.emit(LimitChanged(self.name, now, *change))

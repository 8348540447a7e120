"""Reject at the client what an overloaded server would reject anyway. The law is in `_machines/throttle.py`."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any, ClassVar

from attrs import define, field, setters

from resilience_core import _validation as check
from resilience_core._clock import CHANCE, Chance
from resilience_core._errors import RateLimitedError, RejectionReason
from resilience_core._machines.throttle import Throttle
from resilience_core._validation import to_seconds
from resilience_core._verdicts import Classifier, Judgement, Verdict
from resilience_core._weave.gate import Gate
from resilience_core._weave.priority import Priority
from resilience_core._weave.rejections import tell_rejection
from resilience_core._weave.site import Args, Kwargs

PATIENCE = (2.0, 1.5, 1.0, 0.8, 0.6)
"""By class, the multiple of K: with K = 2 background work is shed once less than 5 of 6 requests are accepted."""
_NOT_TAKEN_ON = frozenset({Verdict.THROTTLED, Verdict.TRANSIENT, Verdict.UNKNOWN})


@define(eq=False, on_setattr=setters.frozen)
class AdaptiveThrottle(Gate):
    """Rejects a growing share of the calls while the server takes on less than 1 / `k` of them.

    Probability of a rejection: max(0, (requests - k * accepts) / (requests + 1)) over the last `window` seconds. The
    calls that still pass find out when the server takes on more again. Failures and THROTTLED outcomes are not
    accepted; all others are.

    Args:
        name: identifies the policy in errors, events and metrics.
        k: how many requests may be sent for each that is accepted; 2 as in Google's text. A larger one is more
            patient with the server, and burdens it more.
        window: seconds (or timedelta) that are remembered.
        minimum_requests: requests in the window below which nothing is rejected: one failure is no overload.
        maximum: the highest probability, 0 to 1. At 1 the formula itself may take hours to notice a recovery: so few
            calls pass. With the default it takes less than two windows.
        priority: a function of the guarded call's arguments that answers a `Priority`: the less important are shed
            sooner. `current_priority` takes that of `with prioritised(...)`.
        classify: judges exceptions; default the pipeline's classifier, else every `Exception` is a failure.
        chance: where random numbers come from.
        enforce: share of the rejections that are carried out (shadow mode below 1).

    Raises:
        RateLimitedError: from the guarded call, which was not made.
    """

    kind: ClassVar[str] = "adaptive_throttle"
    spares_itself: ClassVar[bool] = True

    name: str = field(validator=check.name)
    k: float = field(default=2.0, kw_only=True, validator=check.multiplier)
    window: float = field(default=120.0, kw_only=True, converter=to_seconds, validator=check.positive_seconds)
    minimum_requests: int = field(default=10, kw_only=True, validator=check.count_from(1))
    maximum: float = field(default=0.91, kw_only=True, validator=check.ratio)
    priority: Callable[..., Priority] | None = field(
        default=None, kw_only=True, validator=check.optional(check.function)
    )
    classify: Classifier | None = field(default=None, kw_only=True, validator=check.optional(check.function))
    chance: Chance = field(
        default=CHANCE, kw_only=True, repr=False, validator=check.instance_of(Chance, "a resilience_core.Chance")
    )
    _throttle: Throttle = field(init=False, repr=False, on_setattr=setters.NO_OP)
    _lock: threading.Lock = field(init=False, repr=False, factory=threading.Lock)
    _rejected: int = field(init=False, repr=False, default=0, on_setattr=setters.NO_OP)

    def _build(self) -> None:
        self._throttle = Throttle(self.window)
        self.judge_by(None, self.classify)

    def _adopt(self, other: AdaptiveThrottle, changed: frozenset[str]) -> None:
        Gate._adopt(self, other, changed)
        with self._lock:
            self._throttle.resume(self.window, self.clock.now())

    def snapshot(self) -> dict[str, Any]:
        """The probability now (of a NORMAL call), what it is made of, and rejections so far."""
        now = self.clock.now()
        with self._lock:
            requests, accepts = self._throttle.counts(now)
            probability = self._throttle.rejection(now, self.k, self.maximum)
        return {
            "rejection": probability,
            "requests": requests,
            "accepts": accepts,
            "rejected": self._rejected,
            "would_reject": self.spared,
        }

    def _sentence(self) -> str:
        return f"adaptive throttle {self.name!r}: rejects when less than 1 of {self.k:g} requests is accepted"

    def enter(self, args: Args, kwargs: Kwargs) -> None:
        """Count the request, and pass or raise `RateLimitedError`."""
        level = Priority.NORMAL if self.priority is None else self.priority(*args, **kwargs)
        now = self.clock.now()
        with self._lock:
            # Before this request is counted: one alone must not make a client suspicious of its server.
            probability = self._throttle.rejection(now, self.k * PATIENCE[level], self.maximum)
            requests, accepts = self._throttle.counts(now)
            if requests < self.minimum_requests:
                probability = 0.0
            self._throttle.request(now)
        if probability <= 0 or self.chance.random() >= probability:
            return
        if self.spares(RejectionReason.THROTTLED, "call"):
            return
        self._rejected += 1
        tell_rejection(self.bus, self.name, now, RejectionReason.THROTTLED, "call", total=self._rejected)
        inputs = {"kind": self.kind, "requests": requests, "accepts": accepts, "probability": probability}
        raise RateLimitedError(self.name, RejectionReason.THROTTLED, inputs=inputs)

    def settle(self, permit: None, judgement: Judgement) -> None:
        """Count whether the server took the request on."""
        if judgement.verdict not in _NOT_TAKEN_ON:
            with self._lock:
                self._throttle.accept(self.clock.now())

"""Retries that slow the whole client down while the server throttles: AWS's "adaptive" mode.

Three brakes: a `RetryBudget`, a rate for all attempts that follows the throttling (`_machines/pace.py`), and waits that
grow with the share of attempts that failed lately.
"""

from __future__ import annotations

import threading
from typing import Any, ClassVar

from attrs import define, field, setters

from resilience_core import _validation as check
from resilience_core._errors import RateLimitedError, RejectionReason
from resilience_core._machines.budget import TokenQuota
from resilience_core._machines.pace import Pace
from resilience_core._policies.retry import Retry
from resilience_core._policies.retry_budget import RetryBudget
from resilience_core._verdicts import FAILURES, Judge, Verdict
from resilience_core._weave.deadline import within_deadline
from resilience_core._weave.rejections import tell_rejection
from resilience_core._weave.site import Args, AsyncCall, Call, Kwargs, Site
from resilience_core._weave.waiting import pause, pause_async

_MEMORY = 0.1  # weight of the latest attempt in the failure share


def _default_budget() -> RetryBudget:
    return RetryBudget("adaptive_retry", law=TokenQuota())


@define(eq=False, on_setattr=setters.frozen)
class AdaptiveRetry(Retry):
    """A `Retry` whose attempts, the first ones included, keep to a rate once the server has throttled.

    For clients of one resource, as AWS says: calls to healthy parts would wait for the throttled one. All options of
    `Retry`, and:

    Args:
        budget: default 500 tokens, 5 for a retry and 10 after a time-out, as in the AWS SDKs.
        stretch: by how much waits are multiplied when every recent attempt failed; 1 for never.

    Raises:
        RateLimitedError: from the guarded call, when its turn would come after the deadline.
    """

    kind: ClassVar[str] = "adaptive_retry"

    name: str = field(default="adaptive_retry", validator=check.name)
    budget: RetryBudget | None = field(
        factory=_default_budget,
        kw_only=True,
        validator=check.optional(check.instance_of(RetryBudget, "a RetryBudget")),
    )
    stretch: float = field(default=3.0, kw_only=True, validator=check.multiplier)
    _pace: Pace = field(init=False, repr=False, on_setattr=setters.NO_OP)
    _rejected: int = field(init=False, repr=False, default=0, on_setattr=setters.NO_OP)
    _failing: float = field(init=False, repr=False, default=0.0, on_setattr=setters.NO_OP)
    _lock: threading.Lock = field(init=False, repr=False, factory=threading.Lock)

    def _build(self) -> None:
        Retry._build(self)
        self._pace = Pace(self.clock.now())

    def snapshot(self) -> dict[str, Any]:
        """The rate that is allowed (None until the first throttle), the rate measured, the share of failures."""
        pace = self._pace
        return {
            **Retry.snapshot(self),
            "rate": pace.bucket.rate if pace.enabled else None,
            "measured": pace.measured,
            "failing": self._failing,
        }

    def stretched(self, delay: float, longest: float) -> float:
        """A wait, longer the more attempts failed lately, up to `longest`."""
        return min(longest, delay * (1 + (self.stretch - 1) * self._failing))

    def bind(self, call: Call, site: Site) -> Call:
        """Weave the retry around a blocking call whose every attempt keeps to the rate."""
        return Retry.bind(self, self._paced(call, site), site)

    def bind_async(self, call: AsyncCall, site: Site) -> AsyncCall:
        """Weave the retry around an async call whose every attempt keeps to the rate."""
        return Retry.bind_async(self, self._paced_async(call, site), site)

    def _paced(self, call: Call, site: Site) -> Call:
        judge, operation = self.judge_at(site), site.operation

        def guarded(args: Args, kwargs: Kwargs) -> Any:
            wait = self._turn(operation)
            if wait > 0:
                try:
                    pause(self.clock, wait)
                except BaseException:
                    self._give_back()
                    raise
            try:
                result = call(args, kwargs)
            except Exception as error:
                self._learn(judge, error)
                raise
            self._learn(judge, None)
            return result

        return guarded

    def _paced_async(self, call: AsyncCall, site: Site) -> AsyncCall:
        judge, operation = self.judge_at(site), site.operation

        async def guarded(args: Args, kwargs: Kwargs) -> Any:
            wait = self._turn(operation)
            if wait > 0:
                try:
                    await pause_async(self.clock, wait)
                except BaseException:
                    self._give_back()
                    raise
            try:
                result = await call(args, kwargs)
            except Exception as error:
                self._learn(judge, error)
                raise
            self._learn(judge, None)
            return result

        return guarded

    def _turn(self, operation: str) -> float:
        """Seconds until this attempt's turn."""
        with self._lock:
            wait = self._pace.before(self.clock.now())
        if wait <= 0 or within_deadline(wait) >= wait:
            return wait
        self._give_back()
        self._rejected += 1
        tell_rejection(
            self.bus,
            self.name,
            self.clock.now(),
            RejectionReason.RATE_LIMITED,
            operation,
            wait,
            total=self._rejected,
        )
        inputs = {
            "kind": self.kind,
            "rate": self._pace.bucket.rate,
            "per": 1.0,
            "burst": 1,
            "wait": wait,
            "patience": within_deadline(wait),
            "closed_for": 0.0,
            "keyed": False,
        }
        raise RateLimitedError(self.name, RejectionReason.RATE_LIMITED, wait, inputs=inputs)

    def _give_back(self) -> None:
        with self._lock:
            self._pace.bucket.give_back()

    def _learn(self, judge: Judge, error: Exception | None) -> None:
        verdict = Verdict.SUCCESS if error is None else judge(error).verdict
        if verdict is Verdict.IGNORED:
            return
        failed = verdict in FAILURES or verdict is Verdict.THROTTLED
        with self._lock:
            self._failing += _MEMORY * (failed - self._failing)
            self._pace.after(verdict is Verdict.THROTTLED, self.clock.now())

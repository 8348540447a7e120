"""The errors that this framework raises itself; errors of the guarded function pass through unchanged.

    ResilienceError
      CallRejected              the call was NOT made
        CircuitOpenError  BulkheadFullError  RateLimitedError  RetryBudgetExhausted  DeadlineExceeded
      TimeoutExceeded           the call was made and given up; also a built-in TimeoutError
    ConfigurationError          a ValueError: an option or a composition that cannot work

All of them pickle and copy. Their texts name policies and times, never arguments or messages of the guarded call.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from attrs import frozen

if TYPE_CHECKING:
    from resilience_core._explain import Explanation


class RejectionReason(StrEnum):
    """Why a call was not made; the values of the telemetry attribute `resilience.rejection.reason`."""

    CIRCUIT_OPEN = "circuit_open"
    CIRCUIT_FORCED_OPEN = "circuit_forced_open"
    CIRCUIT_RAMPING = "circuit_ramping"
    PROBE_LIMIT = "probe_limit"
    BULKHEAD_FULL = "bulkhead_full"
    BULKHEAD_WAIT_TIMEOUT = "bulkhead_wait_timeout"
    RATE_LIMITED = "rate_limited"
    THROTTLED = "throttled"
    CONCURRENCY_LIMITED = "concurrency_limited"
    SHED = "shed"
    UNFAIR_SHARE = "unfair_share"
    RETRY_BUDGET = "retry_budget"
    DEADLINE = "deadline"


REASONS: dict[str, str] = {
    RejectionReason.CIRCUIT_OPEN: "the circuit is open",
    RejectionReason.CIRCUIT_FORCED_OPEN: "the circuit was opened by hand",
    RejectionReason.CIRCUIT_RAMPING: "the circuit has just closed and admits a share of the calls",
    RejectionReason.PROBE_LIMIT: "the circuit is half open and its probes are out",
    RejectionReason.BULKHEAD_FULL: "all slots and waiting places are taken",
    RejectionReason.BULKHEAD_WAIT_TIMEOUT: "no slot became free in time",
    RejectionReason.RATE_LIMITED: "the rate limit is reached",
    RejectionReason.THROTTLED: "the server accepts too few of the calls",
    RejectionReason.CONCURRENCY_LIMITED: "the adaptive limit of concurrent calls is reached",
    RejectionReason.SHED: "the rest of the adaptive limit is kept for more important calls",
    RejectionReason.UNFAIR_SHARE: "this user's share of the adaptive limit is taken",
    RejectionReason.RETRY_BUDGET: "the retry budget is used up",
    RejectionReason.DEADLINE: "the deadline has passed or would pass before the call",
}


class _Explained(BaseException):
    """An error that can say how it came about."""

    def explain(self) -> Explanation:
        """The decisions that led to it, in order, each with what it was based on; as `explain(error)`."""
        from resilience_core._explain import explain  # here, not above: it knows these errors

        return explain(self)


class ConfigurationError(_Explained, ValueError):
    """An option or a composition that cannot work; the text names the field and the fix."""


class ResilienceError(_Explained, Exception):
    """Base of the errors raised by this framework."""


@frozen
class LastFailure:
    """What a breaker remembers of the failure that counted last: the class, never the object.

    The exception itself would keep the frames of its traceback alive, and with them the caller's data.
    """

    error_type: str
    """Qualified class name, or the judge's reason where it gave one."""
    at: float
    """When it was counted, in seconds of the breaker's clock."""


class CallRejected(ResilienceError):
    """The call was not made."""

    def __init__(
        self,
        name: str,
        reason: RejectionReason,
        retry_after: float | None = None,
        last_failure: LastFailure | None = None,
        inputs: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(name, reason, retry_after, last_failure, inputs)

    # Read from the arguments, which BaseException.__new__ keeps: an open circuit makes its errors without __init__.

    @property
    def name(self) -> str:
        """The policy that refused."""
        name: str = self.args[0]
        return name

    @property
    def reason(self) -> RejectionReason:
        """Why it refused."""
        reason: RejectionReason = self.args[1]
        return reason

    @property
    def retry_after(self) -> float | None:
        """Seconds after which a new call can be admitted, if that is known."""
        seconds: float | None = self.args[2]
        return seconds

    @property
    def last_failure(self) -> LastFailure | None:
        """What the refusing breaker saw last, if it is one."""
        failure: LastFailure | None = self.args[3]
        return failure

    @property
    def inputs(self) -> Mapping[str, Any]:
        """What the decision was based on, by name: limits, counts, times since the epoch."""
        return self.args[4] or {}

    def __repr__(self) -> str:
        shown = ", ".join(map(repr, self.args[:4]))  # without the inputs: who forced a circuit belongs into no log line
        return f"{type(self).__name__}({shown})"

    def __str__(self) -> str:
        text = f"{self.name!r} rejected the call: {REASONS.get(self.reason, self.reason)}"
        if self.last_failure is not None:
            text += f", last failure {self.last_failure.error_type}"
        if self.retry_after is not None:
            text += f", try again in {self.retry_after:.3g} s"
        return text


class CircuitOpenError(CallRejected):
    """A circuit breaker is open, or half open with its probes out."""


class BulkheadFullError(CallRejected):
    """A bulkhead has neither a slot nor a waiting place, or no slot came free in time."""


class RateLimitedError(CallRejected):
    """A rate limiter has no permit within the wait that is allowed."""


class RetryBudgetExhausted(CallRejected):
    """A retry or a hedge was not started because the shared budget is used up."""


class DeadlineExceeded(CallRejected):
    """The deadline had passed, or would have passed during a wait, before the call was made."""


class TimeoutExceeded(ResilienceError, TimeoutError):
    """The call ran longer than it may and was given up; whether it took effect is unknown.

    Attributes:
        name: the time-out policy, or the pipeline it belongs to.
        seconds: how long the call was allowed to take.
    """

    def __init__(self, name: str, seconds: float) -> None:
        # One argument only: OSError would read two as errno and strerror.
        super().__init__(f"{name!r} gave the call up after {seconds:.3g} s")
        self.name = name
        self.seconds = seconds

    def __reduce__(self) -> tuple[type[TimeoutExceeded], tuple[str, float]]:
        return type(self), (self.name, self.seconds)

"""Stop calling what fails: the circuit breaker. Its law is in `_machines/circuit.py`."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any, ClassVar

from attrs import define, field, setters

from resilience_core import _validation as check
from resilience_core._errors import CircuitOpenError, ConfigurationError, LastFailure, RejectionReason
from resilience_core._events import CircuitTransition, Rejection
from resilience_core._machines.circuit import (
    Circuit,
    CircuitState,
    ConsecutiveFailures,
    Transition,
    TripRule,
)
from resilience_core._telemetry import telemetry
from resilience_core._validation import to_optional_seconds, to_seconds
from resilience_core._verdicts import (
    FAILURES,
    Classifier,
    Judge,
    Judgement,
    On,
    ResultClassifier,
    judge_from,
)
from resilience_core._weave.gate import DONE, EVERY_ERROR, Gate, stream_gate, stream_gate_async
from resilience_core._weave.results import judging_results, judging_results_async
from resilience_core._weave.site import Args, AsyncCall, Call, Kwargs, Site

# Looked up on its Enum class, a member costs a good part of a rejection.
_OPEN, _CIRCUIT_OPEN = CircuitState.OPEN, RejectionReason.CIRCUIT_OPEN
_REASONS = {
    CircuitState.HALF_OPEN: RejectionReason.PROBE_LIMIT,
    CircuitState.FORCED_OPEN: RejectionReason.CIRCUIT_FORCED_OPEN,
}
DEFAULT_LEASE = 60.0
"""Seconds after which a probe that never reported makes room, where no time-out tells better."""


@define(eq=False, on_setattr=setters.frozen)
class CircuitBreaker(Gate):
    """Rejects calls at once while the dependency is failing.

    Opens after `failure_threshold` consecutive failures (or by the rule `trip`), rejects for `recovery_timeout`
    seconds, then lets the next request through as a probe: one failure opens it again, `success_threshold` successes
    in a row close it. Decides before anything waits, and never holds a lock during the call.

    Args:
        name: identifies the circuit in errors, events and metrics.
        failure_threshold: consecutive failures that open it.
        success_threshold: successes in a row that close it again.
        recovery_timeout: seconds (or timedelta) during which an open circuit rejects; at exactly that time the next
            request probes.
        trip: another rule of when to open, in place of `failure_threshold`.
        half_open_max_calls: probes that may be out at once.
        probe_timeout: seconds after which a probe that never reported makes room for another; default twice the
            time-out that is woven inside the breaker, else 60.
        on: exceptions that count as failures; all others say nothing. Without `on` and `classify` the pipeline's
            classifier judges, and without one every `Exception` is a failure.
        classify: judges exceptions instead of `on`.
        classify_result: judges returned values.

    Raises:
        CircuitOpenError: from the guarded call, which was not made. `retry_after` is the time until the next probe.
    """

    kind: ClassVar[str] = "circuit_breaker"

    name: str = field(validator=check.name)
    failure_threshold: int = field(default=5, kw_only=True, validator=check.count_from(1))
    success_threshold: int = field(default=2, kw_only=True, validator=check.count_from(1))
    recovery_timeout: float = field(default=60.0, kw_only=True, converter=to_seconds, validator=check.positive_seconds)
    trip: TripRule | None = field(
        default=None, kw_only=True, validator=check.optional(check.has("start", "a trip rule"))
    )
    half_open_max_calls: int = field(default=1, kw_only=True, validator=check.count_from(1))
    probe_timeout: float | None = field(
        default=None, kw_only=True, converter=to_optional_seconds, validator=check.optional(check.positive_seconds)
    )
    on: On | None = field(default=None, kw_only=True, validator=check.optional(check.on))
    classify: Classifier | None = field(default=None, kw_only=True, validator=check.optional(check.function))
    classify_result: ResultClassifier | None = field(
        default=None, kw_only=True, validator=check.optional(check.function)
    )
    _circuit: Circuit = field(init=False, repr=False, on_setattr=setters.NO_OP)
    _judge: Judge | None = field(init=False, repr=False, on_setattr=setters.NO_OP)
    _lock: threading.Lock = field(init=False, repr=False, factory=threading.Lock)
    _last_failure: LastFailure | None = field(init=False, repr=False, default=None, on_setattr=setters.NO_OP)

    def _validate(self) -> None:
        if self.trip is not None and self.failure_threshold != 5:
            raise ConfigurationError("CircuitBreaker: failure_threshold and trip exclude each other; keep trip")

    def _build(self) -> None:
        rule = self.trip or ConsecutiveFailures(self.failure_threshold)
        self._circuit = Circuit(rule, self.success_threshold, self.recovery_timeout, self.half_open_max_calls)
        self._judge = judge_from(on=self.on, classify=self.classify)

    # --- what it tells -------------------------------------------------------------------------------------------

    @property
    def state(self) -> CircuitState:
        """The state as of the last request: an open circuit turns half open with a request, not with time."""
        return self._circuit.state

    @property
    def last_failure(self) -> LastFailure | None:
        """The failure that counted last."""
        return self._last_failure

    def retry_after(self) -> float | None:
        """Seconds until an open circuit admits its next probe; None in any other state."""
        circuit = self._circuit
        if circuit.state is not CircuitState.OPEN:
            return None
        return max(0.0, circuit.open_until - self.clock.now())

    def snapshot(self) -> dict[str, Any]:
        """State, the change that led to it, rejections so far, and the last failure."""
        circuit = self._circuit
        change = circuit.last_transition
        return {
            "state": circuit.state.value,
            "reason": None if change is None else change.reason,
            "since": None if change is None else change.at,
            "retry_after": self.retry_after(),
            "rejected": circuit.rejected,
            "probes": len(circuit.probes or ()),
            "last_failure": None if self._last_failure is None else self._last_failure.error_type,
        }

    def _sentence(self) -> str:
        rule = self._circuit.rule
        opens = f"{rule.threshold} consecutive failures" if isinstance(rule, ConsecutiveFailures) else repr(rule)
        return (
            f"circuit breaker {self.name!r}: opens after {opens}, rejects for {self.recovery_timeout:g} s, "
            f"closes after {self.success_threshold} good probes"
        )

    # --- what is done by hand --------------------------------------------------------------------------------------

    def reset(self) -> None:
        """Close the circuit by hand and forget what was counted. Calls in flight do not count any more."""
        self.force(CircuitState.CLOSED)

    def force_open(self) -> None:
        """Reject every call until `reset()`."""
        self.force(CircuitState.FORCED_OPEN)

    def disable(self) -> None:
        """Admit every call and learn nothing until `reset()`."""
        self.force(CircuitState.DISABLED)

    def shadow(self) -> None:
        """Judge and count, but reject nothing until `reset()`."""
        self.force(CircuitState.SHADOW)

    def force(self, state: CircuitState) -> None:
        """Enter any state by hand; calls in flight do not count any more."""
        with self._lock:
            self._circuit.force(state, self.clock.now())
            change = self._circuit.last_transition
        self._tell(change)

    # --- the gate ----------------------------------------------------------------------------------------------

    def enter(self, args: Args, kwargs: Kwargs) -> int:
        """A permit, or `CircuitOpenError`."""
        return self._circuit.quiet or self._admit(self.probe_timeout or DEFAULT_LEASE, "block")

    def judge_at(self, site: Site) -> Judge:
        """`on` or `classify` of this breaker, else the pipeline's judge, else every exception is a failure."""
        return self._judge or site.judge or EVERY_ERROR

    def judge_of_blocks(self) -> Judge:
        """`on` or `classify` of this breaker, else every exception is a failure."""
        return self._judge or EVERY_ERROR

    def _admit(self, lease: float, operation: str) -> int:
        circuit = self._circuit
        now = self.clock.now()
        if circuit.rejects(now):
            raise self._rejection(now, operation)
        with self._lock:
            before = circuit.last_transition
            permit = circuit.admit(now, lease)
            change = circuit.last_transition
        if change is not before:
            self._tell(change)
        if not permit:
            raise self._rejection(now, operation)
        return permit

    def settle(self, permit: int, judgement: Judgement) -> None:
        """Learn from the outcome of the call admitted with `permit`."""
        circuit = self._circuit
        now = self.clock.now()
        with self._lock:
            if judgement.verdict in FAILURES:
                self._last_failure = LastFailure(judgement.reason or judgement.verdict.value, now)
            before = circuit.last_transition
            circuit.settle(permit, judgement.verdict, now)
            change = circuit.last_transition
        if change is not before:
            self._tell(change)

    def _rejection(self, now: float, operation: str) -> CircuitOpenError:
        circuit = self._circuit
        reason, retry_after = _CIRCUIT_OPEN, None
        if circuit.state is _OPEN:
            retry_after = circuit.open_until - now
        else:
            reason = _REASONS.get(circuit.state, reason)
        circuit.rejected += 1
        if self.bus.heard:
            self.bus.emit(Rejection(self.name, now, reason, operation, retry_after))
        return CircuitOpenError(self.name, reason, retry_after, self._last_failure)

    def _tell(self, change: Transition | None) -> None:
        if change is None or change.previous is change.state:
            return
        telemetry.count_transition(self.name, change.previous, change.state, change.reason)
        if self.bus.heard:
            self.bus.emit(CircuitTransition(self.name, change.at, change.previous, change.state, change.reason))

    # --- the weaves ----------------------------------------------------------------------------------------------

    def _lease(self, site: Site) -> float:
        if self.probe_timeout is not None:
            if site.inner_timeout is not None and self.probe_timeout <= site.inner_timeout:
                raise ConfigurationError(
                    f"CircuitBreaker {self.name!r}: probe_timeout ({self.probe_timeout:g} s) must be longer than the "
                    f"time-out inside ({site.inner_timeout:g} s), or a slow probe is replaced while it still runs"
                )
            return self.probe_timeout
        return DEFAULT_LEASE if site.inner_timeout is None else 2 * site.inner_timeout

    def _door(self, site: Site) -> tuple[Callable[[], int], Callable[[int, BaseException | None], None]]:
        """The two slow paths of one site: through a door that is not quiet, and back with something to remember."""
        lease, judge, operation = self._lease(site), self.judge_at(site), site.operation
        admit, settle = self._admit, self.settle

        def knock() -> int:
            return admit(lease, operation)

        def leave(permit: int, error: BaseException | None) -> None:
            settle(permit, DONE if error is None else judge.explained(error))

        return knock, leave

    def bind(self, call: Call, site: Site) -> Call:
        """Weave the breaker around a blocking call: while it is quiet, one read before and one after."""
        if self.classify_result is not None:
            call = judging_results(call, self.classify_result, site)
        if site.streaming:
            return stream_gate(self, call, site)
        circuit = self._circuit
        knock, leave = self._door(site)

        def guarded(args: Args, kwargs: Kwargs) -> Any:
            permit = circuit.quiet or knock()
            try:
                result = call(args, kwargs)
            except BaseException as error:
                leave(permit, error)
                raise
            if circuit.quiet != permit:  # read again: a slow success must reset what failed meanwhile
                leave(permit, None)
            return result

        return guarded

    def bind_async(self, call: AsyncCall, site: Site) -> AsyncCall:
        """Weave the breaker around an async call."""
        if self.classify_result is not None:
            call = judging_results_async(call, self.classify_result, site)
        if site.streaming:
            return stream_gate_async(self, call, site)
        circuit = self._circuit
        knock, leave = self._door(site)

        async def guarded(args: Args, kwargs: Kwargs) -> Any:
            permit = circuit.quiet or knock()
            try:
                result = await call(args, kwargs)
            except BaseException as error:
                leave(permit, error)
                raise
            if circuit.quiet != permit:
                leave(permit, None)
            return result

        return guarded

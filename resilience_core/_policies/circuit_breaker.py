"""Stop calling what fails: the circuit breaker. Its law is in `_machines/circuit.py`."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import TYPE_CHECKING, Any, ClassVar

from attrs import define, field, setters

from resilience_core import _validation as check
from resilience_core._clock import CHANCE, Chance
from resilience_core._errors import CircuitOpenError, ConfigurationError, LastFailure, RejectionReason
from resilience_core._events import CircuitTransition, everywhere
from resilience_core._machines.circuit import (
    Circuit,
    CircuitRules,
    CircuitState,
    Forced,
    Transition,
)
from resilience_core._machines.trip_rules import ConsecutiveFailures, TripRule
from resilience_core._story import note
from resilience_core._telemetry import note_probe
from resilience_core._validation import Seconds, to_optional_seconds, to_seconds
from resilience_core._verdicts import (
    FAILURES,
    Classifier,
    Judgement,
    On,
    ResultClassifier,
)
from resilience_core._weave.gate import DONE, Gate, stream_gate, stream_gate_async
from resilience_core._weave.rejections import tell_rejection
from resilience_core._weave.results import judging_results, judging_results_async
from resilience_core._weave.sharing import Fleet
from resilience_core._weave.site import Args, AsyncCall, Call, Kwargs, Site

if TYPE_CHECKING:
    from resilience_core._machines.recovery import ProbeRate, RampStep, RecoveryBackoff

# Looked up on its Enum class, a member costs a good part of a rejection.
_OPEN, _CIRCUIT_OPEN = CircuitState.OPEN, RejectionReason.CIRCUIT_OPEN
_new_error = CircuitOpenError.__new__  # all that an error needs; __init__ would be a third of a rejection's cost
_REASONS = {
    CircuitState.CLOSED: RejectionReason.CIRCUIT_RAMPING,
    CircuitState.HALF_OPEN: RejectionReason.PROBE_LIMIT,
    CircuitState.FORCED_OPEN: RejectionReason.CIRCUIT_FORCED_OPEN,
}
_NO_FACTS: dict[str, Any] = {}  # of a circuit that never changed its state; replaced, never written to
_SOON = 0.1  # seconds after which it is worth asking again, where another member of the fleet has the probe
DEFAULT_LEASE = 60.0
"""Seconds after which a probe that never reported makes room, where no time-out tells better."""
STATE_VERSION = 1
"""Of the mapping that `export_state` gives."""


_shared_rules = lru_cache(maxsize=256)(CircuitRules)
"""Equal rules are one object: a process with a breaker per key has thousands of equal ones."""


def _each_a_step(owner: Any, attribute: Any, value: tuple[Any, ...]) -> None:
    for step in value:
        if not hasattr(step, "share"):
            raise check.refuse(owner, attribute.name, value, "a sequence of RampStep(share, duration)")


def _by_somebody(change: Transition) -> bool:
    """Whether a person has made it: who forces a state again, or until another time, has done something."""
    return change.reason == "manual" and change.forced is not None and change.forced.actor is not None


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
        trip: another rule of when to open, in place of `failure_threshold`: `FailureRate`, `SlowCallRate`,
            `ConsecutiveFailures`, any of them joined by `|`, or an object of your own with `start()`.
        recovery_backoff: lets the open time grow with each recovery that failed.
        max_retry_after: when a failure that opens the circuit brought a `retry_after`, stay open for so long instead
            if that is longer, up to this many seconds; None ignores it.
        half_open_max_calls: probes that may be out at once.
        probe_rate: judge the probes by a sample, in place of `success_threshold`.
        ramp: after closing, admit a growing share of the calls, step by step; one failure meanwhile opens it again.
        probe_timeout: seconds after which a probe that never reported makes room for another; default twice the
            time-out that is woven inside the breaker, else 60.
        on: exceptions that count as failures; all others say nothing. Without `on` and `classify` the pipeline's
            classifier judges, and without one every `Exception` is a failure.
        classify: judges exceptions instead of `on`.
        classify_result: judges returned values.
        chance: where the jitter of `recovery_backoff` comes from.
        enforce: share of the rejections that are carried out (shadow mode below 1); those of a circuit that was opened
            by hand always are.
        fleet: shares the circuit with all processes that have one of this name in the same fleet (a `RedisFleet`):
            failures count together, an opening is everybody's, and of all of them one probes.
        quorum: members of the fleet that must see trouble before it opens for all, at most 64.

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
    recovery_backoff: RecoveryBackoff | None = field(
        default=None,
        kw_only=True,
        validator=check.optional(check.has("seconds", "a RecoveryBackoff")),
    )
    max_retry_after: float | None = field(
        default=None, kw_only=True, converter=to_optional_seconds, validator=check.optional(check.positive_seconds)
    )
    half_open_max_calls: int = field(default=1, kw_only=True, validator=check.count_from(1))
    probe_rate: ProbeRate | None = field(
        default=None, kw_only=True, validator=check.optional(check.has("verdict", "a ProbeRate"))
    )
    ramp: tuple[RampStep, ...] = field(default=(), kw_only=True, converter=tuple, validator=_each_a_step)
    probe_timeout: float | None = field(
        default=None, kw_only=True, converter=to_optional_seconds, validator=check.optional(check.positive_seconds)
    )
    on: On | None = field(default=None, kw_only=True, validator=check.optional(check.on))
    classify: Classifier | None = field(default=None, kw_only=True, validator=check.optional(check.function))
    classify_result: ResultClassifier | None = field(
        default=None, kw_only=True, validator=check.optional(check.function)
    )
    chance: Chance = field(
        default=CHANCE, kw_only=True, repr=False, validator=check.instance_of(Chance, "a resilience_core.Chance")
    )
    fleet: Fleet | None = field(
        default=None, kw_only=True, repr=False, validator=check.optional(check.has("share_circuit", "a RedisFleet"))
    )
    quorum: int = field(default=1, kw_only=True, validator=check.count_from(1, 64))
    spares_itself: ClassVar[bool] = True
    fixed: ClassVar[frozenset[str]] = Gate.fixed | {"fleet"}
    _circuit: Circuit = field(init=False, repr=False, on_setattr=setters.NO_OP)
    _lock: threading.Lock = field(init=False, repr=False, factory=threading.Lock)
    _last_failure: LastFailure | None = field(init=False, repr=False, default=None, on_setattr=setters.NO_OP)
    _facts: dict[str, Any] = field(init=False, repr=False, default=_NO_FACTS, on_setattr=setters.NO_OP)
    _shared: Any = field(init=False, repr=False, default=None, on_setattr=setters.NO_OP)

    def _validate(self) -> None:
        if self.quorum > 1 and self.fleet is None:
            raise ConfigurationError("CircuitBreaker: quorum is a number of members of a fleet: give fleet=, too")
        if self.trip is not None and self.failure_threshold != 5:
            raise ConfigurationError("CircuitBreaker: failure_threshold and trip exclude each other; keep trip")
        if self.probe_rate is not None and self.success_threshold != 2:
            raise ConfigurationError(
                "CircuitBreaker: success_threshold and probe_rate exclude each other; keep probe_rate"
            )
        backoff = self.recovery_backoff
        if backoff is not None and backoff.max_timeout < self.recovery_timeout:
            raise ConfigurationError(
                f"CircuitBreaker: recovery_backoff.max_timeout ({backoff.max_timeout:g} s) must not be below "
                f"recovery_timeout ({self.recovery_timeout:g} s)"
            )

    def _build(self) -> None:
        rules: Any = (
            ConsecutiveFailures(self.failure_threshold) if self.trip is None else self.trip,
            self.success_threshold,
            self.recovery_timeout,
            self.half_open_max_calls,
            self.recovery_backoff,
            self.max_retry_after,
            self.probe_rate,
            self.ramp,
        )
        try:
            self._circuit = Circuit(_shared_rules(*rules))
        except TypeError:  # a rule of somebody else that cannot be hashed
            self._circuit = Circuit(CircuitRules(*rules))
        self.judge_by(self.on, self.classify)
        if self.fleet is not None:
            self._shared = self.fleet.share_circuit(self)
            self._circuit.watch(True)  # until the first call, which joins

    def _adopt(self, other: CircuitBreaker, changed: frozenset[str]) -> None:
        Gate._adopt(self, other, changed)
        with self._lock:
            self._circuit.adopt(other._circuit.rules, self.clock.now())
            if self._facts:
                self._facts = {**self._facts, "until": self._facts_of(self._circuit.last_transition)["until"]}

    # --- what it tells -------------------------------------------------------------------------------------------

    @property
    def state(self) -> CircuitState:
        """The state as of the last request: an open circuit turns half open with a request, not with time."""
        return self._circuit.state

    @property
    def last_failure(self) -> LastFailure | None:
        """The failure that counted last."""
        return self._last_failure

    def at_rest(self) -> bool:
        """Whether it is closed with nothing counted."""
        return self._circuit.quiet != 0

    def retry_after(self) -> float | None:
        """Seconds until an open circuit admits its next probe; None in any other state."""
        circuit = self._circuit
        if circuit.state is not CircuitState.OPEN:
            return None
        return max(0.0, circuit.open_until - self.clock.now())

    def snapshot(self) -> dict[str, Any]:
        """State, the change that led to it, who forced it, rejections so far, and the last failure.

        `down_since` is when it opened first: probes that fail do not change that, only its closing does.
        `failure_ratio`, `slow_ratio` and `window_calls` are None where the trip rule has no such rate; an empty window
        has the ratio 0.
        """
        circuit, now = self._circuit, self.clock.now()
        change, forced, shares = circuit.last_transition, circuit.forced, circuit.shares(now)
        return {
            "state": circuit.state.value,
            "reason": None if change is None else change.reason,
            "since": None if change is None else change.at,
            "down_since": circuit.down_since,
            "retry_after": self.retry_after(),
            "rejected": circuit.rejected,
            "would_reject": self.spared,
            "failure_ratio": shares.get("failure_ratio"),
            "slow_ratio": shares.get("slow_ratio"),
            "window_calls": shares.get("window_calls"),
            "ramp": circuit.ramp_share(now),
            "forced": None
            if forced is None
            else {"actor": forced.actor, "reason": forced.reason, "until": forced.until},
            "probes": len(circuit.probes or ()),
            "last_failure": None if self._last_failure is None else self._last_failure.error_type,
        }

    def _sentence(self) -> str:
        rules = self._circuit.rules
        closes = f"{self.success_threshold} good probes"
        if self.probe_rate is not None:
            closes = f"{self.probe_rate.calls} probes with less than {self.probe_rate.failure_rate:.0%} failures"
        ramp = ", ".join(f"{step.share:.0%} for {step.duration:g} s" for step in self.ramp)
        growing = "" if self.recovery_backoff is None else f", growing to {self.recovery_backoff.max_timeout:g} s"
        return (
            f"circuit breaker {self.name!r}: opens after {rules.trip}, rejects for {self.recovery_timeout:g} s"
            f"{growing}, closes after {closes}" + (f", then admits {ramp}" if ramp else "")
        )

    # --- what is done by hand --------------------------------------------------------------------------------------

    def reset(self, *, actor: str | None = None, reason: str | None = None) -> None:
        """Close the circuit by hand and forget what was counted. Calls in flight do not count any more."""
        self.force(CircuitState.CLOSED, actor=actor, reason=reason)

    def force_open(self, *, reason: str | None = None, actor: str | None = None, for_: Seconds | None = None) -> None:
        """Reject every call until `reset()`, or for so many seconds."""
        self.force(CircuitState.FORCED_OPEN, reason=reason, actor=actor, for_=for_)

    def disable(self, *, reason: str | None = None, actor: str | None = None, for_: Seconds | None = None) -> None:
        """Admit every call and learn nothing until `reset()`, or for so many seconds."""
        self.force(CircuitState.DISABLED, reason=reason, actor=actor, for_=for_)

    def shadow(self, *, reason: str | None = None, actor: str | None = None, for_: Seconds | None = None) -> None:
        """Judge and count, but reject nothing until `reset()`, or for so many seconds."""
        self.force(CircuitState.SHADOW, reason=reason, actor=actor, for_=for_)

    def force(
        self,
        state: CircuitState,
        *,
        reason: str | None = None,
        actor: str | None = None,
        for_: Seconds | None = None,
    ) -> None:
        """Enter any state by hand; calls in flight do not count any more.

        Args:
            state: where to go.
            reason: why, for whoever asks later; free of personal data.
            actor: who does it.
            for_: seconds (or timedelta) after which the next request closes the circuit again; None for until told.

        Raises:
            ConfigurationError: `for_` is not a positive number, or `state` ends by its own rules.
        """
        now = self.clock.now()
        until = None
        if for_ is not None:
            seconds = to_seconds(for_)
            if state in (CircuitState.CLOSED, CircuitState.OPEN, CircuitState.HALF_OPEN):
                raise ConfigurationError(f"CircuitBreaker: for_ does not go with {state.value}, which ends by itself")
            if isinstance(seconds, bool) or not seconds > 0:
                raise ConfigurationError(f"CircuitBreaker: for_ must be a positive number of seconds, not {for_!r}")
            until = now + seconds
        with self._lock:
            self._circuit.force(state, now, Forced(actor, reason, until), self.chance.random)
            change = self._circuit.last_transition
            if self._shared is not None:
                self._shared.forced(change, now)
        if self._shared is not None:
            self._shared.join()
        self._tell(change)

    def export_state(self) -> dict[str, Any]:
        """The state as plain values that JSON can carry; times are relative to `saved_at` (seconds since the epoch)."""
        with self._lock:
            content = self._circuit.export(self.clock.now())
        return {"version": STATE_VERSION, "name": self.name, "saved_at": self.clock.wall(), **content}

    def import_state(self, saved: Mapping[str, Any]) -> None:
        """Go on from an exported state; the time since it was saved counts.

        Raises:
            ConfigurationError: it is no such state; nothing has changed then.
        """
        try:
            if saved["version"] != STATE_VERSION:
                raise ValueError(f"version {check.shown(saved['version'])} is unknown, {STATE_VERSION} is expected")
            age = max(0.0, self.clock.wall() - float(saved["saved_at"]))
            with self._lock:
                # As if it had been restored when it was saved, and time had passed since.
                self._circuit.restore(dict(saved), self.clock.now() - age)
                change = self._circuit.last_transition
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise ConfigurationError(f"CircuitBreaker {self.name!r}: this is no exported state: {error}") from error
        self._tell(change)

    # --- the gate ----------------------------------------------------------------------------------------------

    def enter(self, args: Args, kwargs: Kwargs) -> tuple[int, float]:
        """A permit and when it was given, or `CircuitOpenError`."""
        permit = self._circuit.quiet or self._admit(self.probe_timeout or DEFAULT_LEASE, "block")
        return permit, self.clock.now()

    def settle(self, permit: tuple[int, float], judgement: Judgement) -> None:
        """Learn from the outcome of the call admitted with `permit`."""
        self._learn(permit[0], judgement, permit[1])

    def _admit(self, lease: float, operation: str) -> int:
        circuit = self._circuit
        now = self.clock.now()
        if circuit.rejects(now):
            return self._reject(now, operation)
        shared = self._shared
        if shared is not None:
            shared.join()
        with self._lock:
            before = circuit.last_transition
            permit = circuit.admit(now, lease)
            change = circuit.last_transition
            probing = circuit.state is CircuitState.HALF_OPEN
            if permit and shared is not None:
                shared.admitted(circuit, now, lease)
        if change is not before:
            self._tell(change)
        if permit and probing:
            note_probe()
        return permit or self._reject(now, operation)

    def _learn(
        self, permit: int, judgement: Judgement, started: float, error: Exception | None = None, operation: str = ""
    ) -> None:
        circuit = self._circuit
        now = self.clock.now()
        with self._lock:
            if judgement.verdict in FAILURES:
                self._last_failure = LastFailure(judgement.reason or judgement.verdict.value, now)
            before, state = circuit.last_transition, circuit.state
            current = circuit.knows(permit)
            circuit.settle(permit, judgement.verdict, now, now - started, judgement.retry_after, self.chance.random)
            change = circuit.last_transition
            count = circuit.told()
            if current and self._shared is not None:
                self._shared.learnt(state, circuit, judgement.verdict, now, change is not before)
        if change is not before:
            self._tell(change)
        if error is not None and current:
            self._note(error, operation, judgement, None if change is before else change, count)

    def _note(
        self, error: Exception, operation: str, judgement: Judgement, change: Transition | None, count: Any
    ) -> None:
        at, verdict, because = self.clock.wall(), judgement.verdict, judgement.reason
        if change is None:
            note(error, at, self.kind, self.name, operation, "counted", verdict, because, *count)
        elif change.state is _OPEN:
            rule, until = str(self._circuit.rules.trip), self._facts["until"]
            note(error, at, self.kind, self.name, operation, "opened", verdict, because, change.reason, rule, until)
        else:  # an error, but one that shows that the dependency is alive
            note(error, at, self.kind, self.name, operation, "closed", verdict)

    def _reject(self, now: float, operation: str) -> int:
        """Raise `CircuitOpenError`, or answer 0, the permit that teaches nothing, where shadow mode spares the call."""
        circuit = self._circuit
        reason, retry_after = _CIRCUIT_OPEN, None
        if self._shared is not None:
            self._shared.rejected(circuit)
        if circuit.state is _OPEN:
            retry_after = circuit.open_until - now
            if retry_after <= 0.0:
                retry_after = _SOON
        else:
            reason = _REASONS.get(circuit.state, reason)
        if self.enforce != 1.0:
            by_hand = circuit.state is CircuitState.FORCED_OPEN
            if not by_hand and self.spares(reason, operation, retry_after):
                return 0
        circuit.rejected += 1
        bus = self.bus
        if bus.listeners or everywhere.listeners or now >= bus.silent_until:  # as in tell_rejection, without its frame
            tell_rejection(bus, self.name, now, reason, operation, retry_after, total=circuit.rejected)
        # What an open circuit has to tell was put together when it opened: a rejection only points at it.
        facts = self._facts if retry_after is not None else self._facts_now(now)
        raise _new_error(CircuitOpenError, self.name, reason, retry_after, self._last_failure, facts)

    def _facts_now(self, now: float) -> dict[str, Any]:
        """What a circuit that is neither closed nor open has to tell about a rejection."""
        circuit = self._circuit
        return self._facts | {
            "probes": len(circuit.probes or ()),
            "max_probes": circuit.rules.half_open_max_calls,
            "share": circuit.ramp_share(now),
        }

    def _facts_of(self, change: Transition | None) -> dict[str, Any]:
        """What is to be told of the present state: since when (seconds since the epoch), why, and until when."""
        circuit, now, wall = self._circuit, self.clock.now(), self.clock.wall()
        forced = circuit.forced or Forced()
        until = circuit.open_until if circuit.state is _OPEN else forced.until
        return {
            "kind": self.kind,
            "state": circuit.state.value,
            "since": wall if change is None else wall - (now - change.at),
            "because": None if change is None else change.reason,
            "rule": str(circuit.rules.trip),
            "until": None if until is None else wall + (until - now),
            "actor": forced.actor,
            "note": forced.reason,
        }

    def _tell(self, change: Transition | None) -> None:
        with self._lock:
            if change is self._circuit.last_transition:  # or another one has come since: who made it tells it
                self._facts = self._facts_of(change)
        if change is None or (change.previous is change.state and not _by_somebody(change)):
            return
        if self.bus.hears(CircuitTransition):
            forced = change.forced or Forced()
            self.bus.emit(
                CircuitTransition(
                    self.name,
                    change.at,
                    change.previous,
                    change.state,
                    change.reason,
                    forced.actor,
                    forced.reason,
                    forced.until,
                    change.lasted,
                )
            )

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

    def _door(self, site: Site) -> tuple[Callable[[], int], Callable[[int, BaseException | None, float], None]]:
        """The two slow paths of one site: through a door that is not quiet, and back with something to remember."""
        lease, judge, operation = self._lease(site), self.judge_at(site), site.operation
        admit, learn, reject, circuit, clock = self._admit, self._learn, self._reject, self._circuit, self.clock

        def knock() -> int:
            if circuit.state is _OPEN:  # as in admit, without its frame: rejecting is what an open circuit is for
                now = clock.now()
                if now < circuit.open_until:
                    return reject(now, operation)
            return admit(lease, operation)

        def leave(permit: int, error: BaseException | None, started: float) -> None:
            if isinstance(error, Exception):
                learn(permit, judge.explained(error), started, error, operation)
            else:
                learn(permit, DONE if error is None else judge.explained(error), started)

        return knock, leave

    def bind(self, call: Call, site: Site) -> Call:
        """Weave the breaker around a blocking call: while it is quiet, one read before and one after."""
        if self.classify_result is not None:
            call = judging_results(call, self.classify_result, site)
        if site.streaming:
            return stream_gate(self, call, site)
        circuit, clock = self._circuit, self.clock
        site.circuit = circuit
        knock, leave = self._door(site)
        timed = getattr(circuit.rules.trip, "timed", True)
        clocked = getattr(circuit.rules.trip, "clocked", True)

        def counting(args: Args, kwargs: Kwargs) -> Any:
            permit = circuit.quiet or knock()
            try:
                result = call(args, kwargs)
            except BaseException as error:
                leave(permit, error, 0.0)
                raise
            if circuit.quiet != permit:  # read again: a slow success must reset what failed meanwhile
                leave(permit, None, 0.0)
            return result

        def windowed(args: Args, kwargs: Kwargs) -> Any:
            permit, memory = circuit.passing or (knock(), None)
            started = clock.now() if timed else 0.0
            try:
                result = call(args, kwargs)
            except BaseException as error:
                leave(permit, error, started)
                raise
            # A memory of another generation is nobody's any more: counting into it changes nothing.
            ended = clock.now() if clocked else 0.0
            if memory is None or not memory.pass_good(ended, ended - started):
                leave(permit, None, started)
            return result

        return counting if isinstance(circuit.rules.trip, ConsecutiveFailures) else windowed

    def bind_async(self, call: AsyncCall, site: Site) -> AsyncCall:
        """Weave the breaker around an async call."""
        if self.classify_result is not None:
            call = judging_results_async(call, self.classify_result, site)
        if site.streaming:
            return stream_gate_async(self, call, site)
        circuit, clock = self._circuit, self.clock
        site.circuit = circuit
        knock, leave = self._door(site)
        timed = getattr(circuit.rules.trip, "timed", True)
        clocked = getattr(circuit.rules.trip, "clocked", True)

        async def counting(args: Args, kwargs: Kwargs) -> Any:
            permit = circuit.quiet or knock()
            try:
                result = await call(args, kwargs)
            except BaseException as error:
                leave(permit, error, 0.0)
                raise
            if circuit.quiet != permit:
                leave(permit, None, 0.0)
            return result

        async def windowed(args: Args, kwargs: Kwargs) -> Any:
            permit, memory = circuit.passing or (knock(), None)
            started = clock.now() if timed else 0.0
            try:
                result = await call(args, kwargs)
            except BaseException as error:
                leave(permit, error, started)
                raise
            ended = clock.now() if clocked else 0.0
            if memory is None or not memory.pass_good(ended, ended - started):
                leave(permit, None, started)
            return result

        return counting if isinstance(circuit.rules.trip, ConsecutiveFailures) else windowed

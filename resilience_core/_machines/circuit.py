"""The circuit breaker's law.

            trip rule met                 now >= open_until, on a request
    CLOSED ---------------> OPEN ------------------------------------------> HALF_OPEN
      ^                      ^                                                 |    |
      |                      +---------------------- one failure --------------+    |
      +------------------------- `success_threshold` successes in a row ------------+

    FORCED_OPEN (rejects all), DISABLED (admits all, learns nothing), SHADOW (judges, never rejects): by hand only.

What must never happen:
* a result moves a state other than the one it was admitted in: every permit carries the number of its generation
  (CLOSED) or of its own probe (HALF_OPEN), numbers are never used twice, and a settled number that is not known any
  more changes nothing;
* a probe that never reports wedges the circuit: each probe has a lease, and an expired one makes room;
* more than `half_open_max_calls` probes are out at once.

The caller holds a lock around every method here.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Protocol

from attrs import field, frozen

from resilience_core._validation import count_from
from resilience_core._verdicts import FAILURES, Verdict


class CircuitState(StrEnum):
    """Where a circuit stands; the last three are entered and left by hand only."""

    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half_open"
    FORCED_OPEN = "forced_open"
    DISABLED = "disabled"
    SHADOW = "shadow"


_OPEN = CircuitState.OPEN  # looked up on an Enum class, a member costs more than the rest of a rejection


class TripCounter(Protocol):
    """The memory of a closed circuit: what was seen so far, and whether it is enough to open."""

    quiet: bool
    """True while there is nothing that a success would have to change."""

    def success(self, now: float) -> None: ...
    def failure(self, now: float) -> str | None:
        """Count one; the transition reason when the circuit must open."""
        ...


class TripRule(Protocol):
    """A frozen value that says when to open; `start` begins an empty memory."""

    def start(self) -> TripCounter: ...


@frozen
class ConsecutiveFailures:
    """Open after `threshold` failures without a success between them."""

    threshold: int = field(default=5, validator=count_from(1))

    def start(self) -> TripCounter:
        """An empty memory."""
        return _Consecutive(self.threshold)


class _Consecutive:
    __slots__ = ("count", "quiet", "threshold")

    def __init__(self, threshold: int) -> None:
        self.threshold = threshold
        self.count = 0
        self.quiet = True

    def success(self, now: float) -> None:
        self.count = 0
        self.quiet = True

    def failure(self, now: float) -> str | None:
        self.count += 1
        self.quiet = False
        return "consecutive_failures" if self.count >= self.threshold else None


@frozen
class Transition:
    """One change of state, at `at` seconds of the breaker's clock."""

    previous: CircuitState
    state: CircuitState
    reason: str
    at: float


class Circuit:
    """State of one breaker. Permits are positive numbers; 0 means rejected."""

    __slots__ = (
        "generation",
        "half_open_max_calls",
        "last_transition",
        "memory",
        "open_until",
        "opened_at",
        "probes",
        "quiet",
        "recovery_timeout",
        "rejected",
        "rule",
        "state",
        "success_threshold",
        "successes",
    )

    def __init__(
        self, rule: TripRule, success_threshold: int, recovery_timeout: float, half_open_max_calls: int
    ) -> None:
        self.rule = rule
        self.success_threshold = success_threshold
        self.recovery_timeout = recovery_timeout
        self.half_open_max_calls = half_open_max_calls
        self.state = CircuitState.CLOSED
        self.generation = 1
        self.quiet = 1  # the generation while there is nothing to remember, else 0: read without a lock
        self.memory = rule.start()
        self.successes = 0
        self.rejected = 0  # counted by whoever rejects, for observers
        self.probes: dict[int, float] | None = None  # permit -> when its lease ends; only while half open
        self.opened_at = 0.0
        self.open_until = 0.0
        self.last_transition: Transition | None = None

    def rejects(self, now: float) -> bool:
        """Whether an open circuit refuses at `now`: reads only, safe without the lock."""
        return self.state is _OPEN and now < self.open_until

    def admit(self, now: float, lease: float) -> int:
        """A permit for a call that starts at `now`, or 0. A probe's permit lapses after `lease` seconds."""
        if self.state is CircuitState.OPEN:
            if now < self.open_until:
                return 0
            self._become(CircuitState.HALF_OPEN, "wait_elapsed", now)
        if self.state is CircuitState.HALF_OPEN:
            return self._admit_probe(now, lease)
        if self.state is CircuitState.FORCED_OPEN:
            return 0
        return self.generation

    def _admit_probe(self, now: float, lease: float) -> int:
        probes = self.probes or {}
        probes = {permit: ends for permit, ends in probes.items() if now < ends}
        permit = 0
        if len(probes) < self.half_open_max_calls:
            self.generation += 1  # each probe has a number of its own
            permit = self.generation
            probes[permit] = now + lease
        self.probes = probes
        return permit

    def settle(self, permit: int, verdict: Verdict, now: float) -> None:
        """Learn from the call admitted with `permit`. Unknown and outdated permits change nothing."""
        if self.state is CircuitState.HALF_OPEN:
            self._settle_probe(permit, verdict, now)
        elif permit == self.generation and self.state in (CircuitState.CLOSED, CircuitState.SHADOW):
            if verdict is Verdict.SUCCESS:
                self.memory.success(now)
                self.quiet = permit if self.memory.quiet else 0
            elif verdict in FAILURES:
                self._count_failure(permit, now)

    def _count_failure(self, permit: int, now: float) -> None:
        reason = self.memory.failure(now)
        self.quiet = permit if self.memory.quiet else 0
        if reason is not None and self.state is CircuitState.CLOSED:
            self._open(reason, now)

    def _settle_probe(self, permit: int, verdict: Verdict, now: float) -> None:
        if self.probes is None or self.probes.pop(permit, None) is None:
            return
        if verdict in FAILURES:
            self._open("probe_failed", now)
        elif verdict in (Verdict.SUCCESS, Verdict.PERMANENT):  # PERMANENT: it answered, so it is alive
            self.successes += 1
            if self.successes >= self.success_threshold:
                self._become(CircuitState.CLOSED, "probe_succeeded", now)

    def force(self, state: CircuitState, now: float, reason: str = "manual") -> None:
        """Enter `state` by hand; from CLOSED on, nothing is remembered of the time before."""
        if state is CircuitState.OPEN:
            self._open(reason, now)
        else:
            self._become(state, reason, now)

    def _open(self, reason: str, now: float) -> None:
        self._become(CircuitState.OPEN, reason, now)
        self.opened_at = now
        self.open_until = now + self.recovery_timeout

    def _become(self, state: CircuitState, reason: str, now: float) -> None:
        self.last_transition = Transition(self.state, state, reason, now)
        self.state = state
        self.generation += 1
        self.memory = self.rule.start()
        self.successes = 0
        self.probes = None
        admits_all = state in (CircuitState.CLOSED, CircuitState.DISABLED, CircuitState.SHADOW)
        self.quiet = self.generation if admits_all and self.memory.quiet else 0

"""The circuit breaker's law.

            trip rule met                 now >= open_until, on a request
    CLOSED ---------------> OPEN ------------------------------------------> HALF_OPEN
      ^                     ^  ^                                               |    |
      |                     |  +---------------------- one failure ------------+    |
      |     failure in ramp |      (or too many of a ProbeRate)                     |
      +---------------------+---- `success_threshold` successes in a row -----------+
                                  (or enough of a ProbeRate)

    FORCED_OPEN (rejects all), DISABLED (admits all, learns nothing), SHADOW (judges, never rejects): by hand only, and
    back to CLOSED by hand or, on a request, when the forced state has an end and it has come.

With a ramp, a circuit that has just closed admits a share of the calls, growing in steps; one failure opens it again.

What must never happen:
* a result moves a state other than the one it was admitted in: every permit carries the number of its generation
  (CLOSED) or of its own probe (HALF_OPEN), numbers are never used twice, and a settled number that is not known any
  more changes nothing;
* a probe that never reports wedges the circuit: each probe has a lease, and an expired one makes room;
* more than `half_open_max_calls` probes are out at once.

The caller holds a lock around every method here; `quiet` and `passing` alone are read without it.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import StrEnum
from typing import TYPE_CHECKING, Any, TypeAlias

from attrs import field, frozen

from resilience_core._machines.trip_rules import ConsecutiveFailures, TripCounter, TripRule, resumed
from resilience_core._verdicts import FAILURES, Verdict

if TYPE_CHECKING:
    from resilience_core._machines.recovery import ProbeRate, RampStep, RecoveryBackoff

Random: TypeAlias = Callable[[], float]


class CircuitState(StrEnum):
    """Where a circuit stands; the last three are entered and left by hand only."""

    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half_open"
    FORCED_OPEN = "forced_open"
    DISABLED = "disabled"
    SHADOW = "shadow"


_FOR_EVER = float("inf")
_NOTHING_TOLD = (None, None, None)
_HALF_OPEN = CircuitState.HALF_OPEN
_OPEN = CircuitState.OPEN  # looked up on an Enum class, a member costs more than the rest of a rejection
_JUDGING = (CircuitState.CLOSED, CircuitState.SHADOW)
_ADMITTING = (*_JUDGING, CircuitState.DISABLED)


@frozen
class CircuitRules:
    """The numbers of a circuit; replaced as a whole."""

    trip: TripRule = field(factory=ConsecutiveFailures)
    success_threshold: int = 2
    recovery_timeout: float = 60.0
    half_open_max_calls: int = 1
    recovery_backoff: RecoveryBackoff | None = None
    max_retry_after: float | None = None
    probe_rate: ProbeRate | None = None
    ramp: tuple[RampStep, ...] = ()


@frozen
class Forced:
    """Who forced a state, why, and until when (seconds of the breaker's clock; None for until told otherwise)."""

    actor: str | None = None
    reason: str | None = None
    until: float | None = None


@frozen
class Transition:
    """One change of state, at `at` seconds of the breaker's clock."""

    previous: CircuitState
    state: CircuitState
    reason: str
    at: float
    forced: Forced | None = None
    lasted: float | None = None
    """Seconds in the previous state; None where it is not known since when."""


def _middle() -> float:
    return 0.5


class Circuit:
    """State of one breaker. Permits are positive numbers; 0 means rejected."""

    __slots__ = (
        "down_since",
        "forced",
        "generation",
        "last_transition",
        "memory",
        "open_until",
        "opened_at",
        "openings",
        "passing",
        "probe_until",
        "probes",
        "quiet",
        "ramp_credit",
        "ramp_since",
        "rejected",
        "rules",
        "state",
        "successes",
        "trials_failed",
        "watched",
    )

    def __init__(self, rules: CircuitRules) -> None:
        self.rules = rules
        self.state = CircuitState.CLOSED
        self.generation = 1
        self.memory: TripCounter = rules.trip.start()
        self.quiet = 1  # the generation while there is nothing to remember, else 0: read without a lock
        self.passing: tuple[int, Any] | None = None  # generation and memory while anybody may pass, else None
        self.successes = 0  # of the probes
        self.trials_failed = 0
        self.rejected = 0  # counted by whoever rejects, for observers
        self.probes: dict[int, float] | None = None  # permit -> when its lease ends; only while half open
        self.opened_at = 0.0
        self.open_until = 0.0
        self.probe_until = _FOR_EVER  # in a fleet: while its lease lasts
        self.watched = False
        self.openings = 0  # since the circuit was last closed for good
        self.ramp_since: float | None = None
        self.ramp_credit = 0.0
        self.forced: Forced | None = None
        self.last_transition: Transition | None = None
        self.down_since: float | None = None  # since when it has not been closed: failed probes do not change it
        self._open_door()

    # --- admission -------------------------------------------------------------------------------------------------

    def rejects(self, now: float) -> bool:
        """Whether an open circuit refuses at `now`: reads only, safe without the lock."""
        return self.state is _OPEN and now < self.open_until

    def admit(self, now: float, lease: float) -> int:
        """A permit for a call that starts at `now`, or 0. A probe's permit lapses after `lease` seconds."""
        if self.forced is not None and self.forced.until is not None and now >= self.forced.until:
            self._become(CircuitState.CLOSED, "forced_expired", now)
        if self.state is CircuitState.OPEN:
            if now < self.open_until or now >= self.probe_until:
                return 0
            self._become(CircuitState.HALF_OPEN, "wait_elapsed", now)
        if self.state is CircuitState.HALF_OPEN:
            return self._admit_probe(now, lease) if now < self.probe_until else 0
        if self.state is CircuitState.FORCED_OPEN or (self.ramp_since is not None and not self._ramp_admits(now)):
            return 0
        return self.generation

    def _admit_probe(self, now: float, lease: float) -> int:
        probes = self.probes or {}
        probes = {permit: ends for permit, ends in probes.items() if now < ends}
        permit = 0
        rate = self.rules.probe_rate
        sampled = rate is not None and len(probes) + self.successes + self.trials_failed >= rate.calls
        if len(probes) < self.rules.half_open_max_calls and not sampled:
            self.generation += 1  # each probe has a number of its own
            permit = self.generation
            probes[permit] = now + lease
        self.probes = probes
        return permit

    def ramp_share(self, now: float) -> float:
        """The share of calls that are admitted at `now`: below 1 only after closing, while the ramp lasts."""
        if self.ramp_since is None:
            return 1.0
        passed = now - self.ramp_since
        for step in self.rules.ramp:
            if passed < step.duration:
                return step.share
            passed -= step.duration
        return 1.0

    def _ramp_admits(self, now: float) -> bool:
        share = self.ramp_share(now)
        if share >= 1.0:
            self.ramp_since = None
            self.openings = 0
            self._open_door()
            return True
        self.ramp_credit += share  # an even spread: no luck involved, every 1 / share-th call passes
        if self.ramp_credit < 1.0 - 1e-9:
            return False
        self.ramp_credit -= 1.0
        return True

    # --- results ---------------------------------------------------------------------------------------------------

    def settle(
        self,
        permit: int,
        verdict: Verdict,
        now: float,
        duration: float = 0.0,
        retry_after: float | None = None,
        random: Random = _middle,
    ) -> None:
        """Learn from the call admitted with `permit`. Unknown and outdated permits change nothing.

        `duration` is how long the call took, `retry_after` what the server asked for; both in seconds.
        """
        if self.state is CircuitState.HALF_OPEN:
            self._settle_probe(permit, verdict, now, duration, retry_after, random)
        elif permit == self.generation and self.state in _JUDGING:
            failed = verdict in FAILURES
            if not failed and verdict is not Verdict.SUCCESS:
                return
            reason = self.memory.record(failed, now, duration)
            if failed and self.ramp_since is not None:
                reason = "ramp_failed"
            self._open_door()
            if reason is not None and self.state is CircuitState.CLOSED:
                self._open(reason, now, retry_after, random)

    def _settle_probe(
        self, permit: int, verdict: Verdict, now: float, duration: float, retry_after: float | None, random: Random
    ) -> None:
        if self.probes is None or self.probes.pop(permit, None) is None or now >= self.probe_until:
            return  # in a fleet, who comes back after his lease has ended is no prober any more
        too_slow = getattr(self.rules.trip, "too_slow", None)
        slow = too_slow is not None and verdict is Verdict.SUCCESS and too_slow(duration)
        if verdict in FAILURES or slow:  # a circuit that opens for slowness must not close for a slow answer
            self.trials_failed += 1
        elif verdict in (Verdict.SUCCESS, Verdict.PERMANENT):  # PERMANENT: it answered, so it is alive
            self.successes += 1
        else:
            return
        closes = self._probes_say()
        if closes is False:
            self._open("probe_failed", now, retry_after, random)
        elif closes:
            self._become(CircuitState.CLOSED, "probe_succeeded", now)
            self.start_ramp(now)
            if not self.rules.ramp:
                self.openings = 0

    def _probes_say(self) -> bool | None:
        rules = self.rules
        if rules.probe_rate is not None:
            return rules.probe_rate.verdict(self.successes, self.trials_failed)
        if self.trials_failed:
            return False
        return True if self.successes >= rules.success_threshold else None

    def knows(self, permit: int) -> bool:
        """Whether the result of the call admitted with `permit` would still count."""
        if self.state is _HALF_OPEN:
            return permit in (self.probes or ())
        return permit == self.generation and self.state in _JUDGING

    def told(self) -> tuple[int | None, int | None, str | None]:
        """How far a closed circuit is from opening: what was counted, of how many, and what they are."""
        told = getattr(self.memory, "told", None)
        return _NOTHING_TOLD if told is None or self.state not in _JUDGING else told()

    def shares(self, now: float) -> dict[str, float]:
        """`failure_ratio`, `slow_ratio` and `window_calls`, as far as the trip rule has them. Needs no lock."""
        shares = getattr(self.memory, "shares", None)
        return {} if shares is None else shares(now)

    # --- by hand, and changes of state -----------------------------------------------------------------------------

    def force(
        self,
        state: CircuitState,
        now: float,
        forced: Forced | None = None,
        random: Random = _middle,
    ) -> None:
        """Enter `state` by hand; from CLOSED on, nothing is remembered of the time before."""
        if state is CircuitState.OPEN:
            self._open("manual", now, None, random, forced)
        else:
            self._become(state, "manual", now, forced)
            if state is CircuitState.CLOSED:
                self.openings = 0

    def _open(
        self, reason: str, now: float, retry_after: float | None, random: Random, forced: Forced | None = None
    ) -> None:
        self._become(CircuitState.OPEN, reason, now, forced)
        rules = self.rules
        self.openings += 1
        seconds = rules.recovery_timeout
        if rules.recovery_backoff is not None:
            seconds = rules.recovery_backoff.seconds(seconds, self.openings, random)
        if rules.max_retry_after is not None and retry_after is not None:
            seconds = max(seconds, min(retry_after, rules.max_retry_after))
        self.opened_at = now
        self.open_until = now + seconds
        self.probe_until = _FOR_EVER

    def _become(self, state: CircuitState, reason: str, now: float, forced: Forced | None = None) -> None:
        before = self.last_transition
        self.last_transition = Transition(
            self.state, state, reason, now, forced, None if before is None else max(0.0, now - before.at)
        )
        self.forced = forced if state not in (CircuitState.CLOSED, CircuitState.OPEN) else None
        if state in _ADMITTING:
            self.down_since = None
        elif self.down_since is None:
            self.down_since = now
        self.state = state
        self.generation += 1
        self.memory = self.rules.trip.start()
        self.successes = self.trials_failed = 0
        self.probes = None
        self.ramp_since = None
        self._open_door()

    def _open_door(self) -> None:
        """Set what is read without the lock: whether calls may pass without asking."""
        ends = self.forced is not None and self.forced.until is not None
        admits_all = self.state in _ADMITTING and self.ramp_since is None and not ends and not self.watched
        learns = self.state is not CircuitState.DISABLED
        self.quiet = self.generation if admits_all and (self.memory.quiet or not learns) else 0
        windowed = admits_all and learns and hasattr(self.memory, "pass_good")
        self.passing = (self.generation, self.memory) if windowed else None

    def adopt(self, rules: CircuitRules, now: float) -> None:
        """Go on under other rules with all that is known. Nothing opens or closes by that alone.

        An open circuit that waits for exactly `recovery_timeout` waits for the new one, counted from when it opened; an
        open time that backoff or the server made longer stays.
        """
        old, self.rules = self.rules, rules
        if rules.trip != old.trip:
            self.memory = resumed(rules.trip, self.memory, now)
        if rules.probe_rate != old.probe_rate and self.state is _HALF_OPEN:
            self.successes = self.trials_failed = 0  # counted for another judgement
        if abs(self.open_until - self.opened_at - old.recovery_timeout) < 1e-6:
            self.open_until = self.opened_at + rules.recovery_timeout
        self._open_door()

    # --- in a fleet ------------------------------------------------------------------------------------------------

    def watch(self, watched: bool) -> None:
        """Whether every call must ask at the door, and every result be learnt from, though nothing is counted here."""
        if watched is not self.watched:
            self.watched = watched
            self._open_door()

    def enter(self, state: CircuitState, now: float, reason: str, forced: Forced | None) -> None:
        """Be in the state that the fleet is in; results of calls from before count no more.

        An open circuit gives no probe before `open_until` nor from `probe_until` on, which the fleet's record tells.
        """
        last = self.last_transition
        unchanged = state is self.state
        self._become(state, reason, now, forced)
        if unchanged:
            self.last_transition = last  # nothing that anybody would have to be told
        if state is CircuitState.OPEN:
            self.opened_at = now
            self.probe_until = float("-inf")

    def begin_era(self) -> None:
        """Stay closed, but forget what was counted; results of calls from before count no more."""
        self.generation += 1
        self.memory = self.rules.trip.start()
        self._open_door()

    def start_ramp(self, now: float) -> None:
        """The circuit was closed by the probes of another member: admit as after one's own."""
        if self.rules.ramp:
            self.ramp_since, self.ramp_credit = now, 1.0
            self._open_door()

    # --- saving ----------------------------------------------------------------------------------------------------

    def export(self, now: float) -> dict[str, Any]:
        """The state as plain values, times as seconds from now. Probes are not part of it: whoever restores probes."""
        export = getattr(self.memory, "export", None)
        forced = self.forced
        return {
            "state": (CircuitState.OPEN if self.state is CircuitState.HALF_OPEN else self.state).value,
            "open_for": max(0.0, self.open_until - now) if self.state is CircuitState.OPEN else 0.0,
            "openings": self.openings,
            "ramp_elapsed": None if self.ramp_since is None else now - self.ramp_since,
            "memory": None if export is None else export(now),
            "forced": None
            if forced is None
            else {
                "actor": forced.actor,
                "reason": forced.reason,
                "for": None if forced.until is None else forced.until - now,
            },
        }

    def restore(self, saved: dict[str, Any], now: float) -> None:
        """Take over what `export` gave; raises KeyError, TypeError or ValueError for anything else."""
        state = CircuitState(saved["state"])
        openings, open_for, ramp_elapsed = int(saved["openings"]), float(saved["open_for"]), saved["ramp_elapsed"]
        forced = None
        if saved["forced"] is not None:
            left = saved["forced"]["for"]
            forced = Forced(
                saved["forced"]["actor"], saved["forced"]["reason"], None if left is None else now + float(left)
            )
        memory = self.rules.trip.start()
        restore = getattr(memory, "restore", None)
        if saved["memory"] is not None and restore is not None:
            restore(saved["memory"], now)
        ramp_since = None if ramp_elapsed is None else now - float(ramp_elapsed)
        self._become(state, "imported", now, forced)  # from here on nothing can fail
        self.memory = memory
        self.openings = openings
        self.open_until = now + open_for
        self.opened_at = now
        self.ramp_since = ramp_since if self.rules.ramp else None
        self._open_door()

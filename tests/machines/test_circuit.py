"""The breaker's law, as a table and against a plain model."""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from resilience_core import CircuitState, ConsecutiveFailures, Verdict
from resilience_core._machines.circuit import Circuit, CircuitRules
from tests._cost import size

LEASE = 30.0
S, T, U, P, TH, I = (  # noqa: E741
    Verdict.SUCCESS,
    Verdict.TRANSIENT,
    Verdict.UNKNOWN,
    Verdict.PERMANENT,
    Verdict.THROTTLED,
    Verdict.IGNORED,
)


def circuit(threshold: int = 2, successes: int = 2, recovery: float = 60.0, probes: int = 1) -> Circuit:
    return Circuit(CircuitRules(ConsecutiveFailures(threshold), successes, recovery, probes))


def opened(**options: int) -> Circuit:
    made = circuit(threshold=1, **options)
    made.settle(made.admit(0.0, LEASE), T, 0.0)
    assert made.state is CircuitState.OPEN
    return made


def call(made: Circuit, verdict: Verdict, now: float) -> bool:
    permit = made.admit(now, LEASE)
    if permit:
        made.settle(permit, verdict, now)
    return bool(permit)


def test_it_opens_after_the_threshold_of_consecutive_failures() -> None:
    made = circuit(threshold=3)
    for verdict in (T, U, S, T, T):
        call(made, verdict, 0.0)
        assert made.state is CircuitState.CLOSED
    call(made, T, 7.0)
    assert (made.state, made.opened_at, made.open_until) == (CircuitState.OPEN, 7.0, 67.0)
    assert made.last_transition is not None
    assert made.last_transition.reason == "consecutive_failures"


def test_permanent_throttled_and_ignored_neither_count_nor_reset_while_closed() -> None:
    made = circuit(threshold=2)
    for verdict in (T, P, TH, I):
        call(made, verdict, 0.0)
    assert made.state is CircuitState.CLOSED
    call(made, T, 0.0)
    assert made.state is CircuitState.OPEN


def test_it_rejects_until_exactly_the_recovery_time_and_then_the_request_probes() -> None:
    made = opened()
    assert made.admit(59.999999999, LEASE) == 0
    assert made.rejects(59.999999999)
    assert not made.rejects(60.0)
    assert made.state is CircuitState.OPEN
    assert made.admit(60.0, LEASE)
    assert made.state is CircuitState.HALF_OPEN


def test_successes_in_a_row_close_it_and_one_failure_opens_it_again() -> None:
    made = opened()
    call(made, S, 60.0)
    assert made.state is CircuitState.HALF_OPEN
    call(made, S, 61.0)
    assert made.state is CircuitState.CLOSED
    made = opened()
    call(made, S, 60.0)
    call(made, U, 61.0)
    assert (made.state, made.open_until) == (CircuitState.OPEN, 121.0)


def test_a_permanent_answer_is_a_good_probe_and_a_throttled_one_teaches_nothing() -> None:
    made = opened()
    for verdict in (TH, I, P):
        call(made, verdict, 60.0)
        assert made.state is CircuitState.HALF_OPEN
    call(made, P, 60.0)
    assert made.state is CircuitState.CLOSED


def test_no_more_probes_are_out_than_allowed() -> None:
    made = opened(probes=2)
    first, second = made.admit(60.0, LEASE), made.admit(60.0, LEASE)
    assert first
    assert second
    assert made.admit(60.0, LEASE) == 0
    made.settle(first, I, 60.0)
    assert made.admit(60.0, LEASE)


def test_a_probe_that_never_reports_makes_room_when_its_lease_ends() -> None:
    made = opened()
    hung = made.admit(60.0, LEASE)
    assert made.admit(89.9, LEASE) == 0
    fresh = made.admit(90.0, LEASE)
    assert fresh
    made.settle(hung, T, 91.0)
    assert made.state is CircuitState.HALF_OPEN, "the result of a probe whose lease has ended changes nothing"
    made.settle(fresh, S, 92.0)
    assert made.successes == 1


def test_results_of_an_older_generation_change_nothing() -> None:
    made = circuit(threshold=1)
    slow = made.admit(0.0, LEASE)
    call(made, T, 0.0)
    made.settle(slow, S, 1.0)
    assert made.state is CircuitState.OPEN
    probe = made.admit(60.0, LEASE)
    made.settle(slow, T, 60.0)
    assert made.state is CircuitState.HALF_OPEN
    made.settle(probe, S, 60.0)
    made.settle(probe, T, 60.0)
    assert (made.state, made.successes) == (CircuitState.HALF_OPEN, 1)


def test_quiet_is_the_permit_while_there_is_nothing_to_remember() -> None:
    made = circuit()
    assert made.quiet == made.admit(0.0, LEASE)
    call(made, T, 0.0)
    assert made.quiet == 0
    call(made, S, 0.0)
    assert made.quiet == made.generation
    assert opened().quiet == 0


def test_forced_states() -> None:
    made = circuit(threshold=1)
    made.force(CircuitState.FORCED_OPEN, 0.0)
    assert made.admit(1e9, LEASE) == 0
    made.force(CircuitState.DISABLED, 0.0)
    call(made, T, 0.0)
    assert made.quiet
    made.force(CircuitState.SHADOW, 0.0)
    assert call(made, T, 0.0)
    assert made.state is CircuitState.SHADOW
    made.force(CircuitState.OPEN, 5.0)
    assert made.open_until == 65.0
    made.force(CircuitState.CLOSED, 5.0)
    assert call(made, S, 5.0)


class AgainstAPlainModel(RuleBasedStateMachine):
    """Calls that overlap, leases that end, time that passes: the machine and a naive rewriting must agree."""

    def __init__(self) -> None:
        super().__init__()
        self.made = circuit(threshold=2, successes=2, recovery=10.0, probes=2)
        self.now = 0.0
        self.out: dict[int, tuple[int, str, float]] = {}  # permit -> (era, kind, lease end)
        self.era, self.state, self.failures, self.successes, self.until = 0, "closed", 0, 0, 0.0

    def _enter(self, state: str) -> None:
        self.era, self.state, self.failures, self.successes = self.era + 1, state, 0, 0
        if state == "open":
            self.until = self.now + 10.0

    @rule(seconds=st.sampled_from([0.0, 1.0, 4.0, 10.0]))
    def pass_time(self, seconds: float) -> None:
        self.now += seconds

    @rule()
    def begin(self) -> None:
        permit = self.made.admit(self.now, 5.0)
        if self.state == "open" and self.now >= self.until:
            self._enter("half_open")
        probes = [
            each for each in self.out.values() if each[0] == self.era and each[1] == "probe" and self.now < each[2]
        ]
        allowed = self.state == "closed" or (self.state == "half_open" and len(probes) < 2)
        assert bool(permit) == allowed
        if permit:
            kind = "probe" if self.state == "half_open" else "call"
            key = permit if kind == "probe" else permit * 1_000_000 + len(self.out) + int(self.now * 1000) * 100
            while key in self.out:
                key += 1
            self.out[key] = (self.era, kind, self.now + 5.0)
            self.permits = {**getattr(self, "permits", {}), key: permit}

    @rule(data=st.data(), verdict=st.sampled_from(list(Verdict)))
    def end(self, data: st.DataObject, verdict: Verdict) -> None:
        if not self.out:
            return
        key = data.draw(st.sampled_from(sorted(self.out)))
        era, kind, _lease_end = self.out.pop(key)
        # A lease is judged when somebody else asks for a probe; until then a late result still counts.
        known = kind == "call" or self.permits[key] in (self.made.probes or {})
        self.made.settle(self.permits[key], verdict, self.now)
        if era != self.era or not known:
            return
        bad = verdict in (Verdict.TRANSIENT, Verdict.UNKNOWN)
        if self.state == "closed":
            self.failures = 0 if verdict is Verdict.SUCCESS else self.failures + bad
            if self.failures == 2:
                self._enter("open")
        elif bad:
            self._enter("open")
        elif verdict in (Verdict.SUCCESS, Verdict.PERMANENT):
            self.successes += 1
            if self.successes == 2:
                self._enter("closed")

    @invariant()
    def agree(self) -> None:
        assert self.made.state.value == self.state
        assert (self.made.quiet != 0) == (self.state == "closed" and self.failures == 0)


AgainstAPlainModel.TestCase.settings = settings(max_examples=size(60, 30), stateful_step_count=60, deadline=None)
TestAgainstAPlainModel = AgainstAPlainModel.TestCase


def test_in_a_fleet_the_result_of_a_probe_counts_only_while_the_lease_lasts() -> None:
    """A process that was stopped comes back with a good result, and another one has the lease since."""
    for verdict in (S, T):
        made = opened(successes=1)
        made.open_until, made.probe_until = 1.0, 5.0
        permit = made.admit(1.0, LEASE)
        made.settle(permit, verdict, 5.0)
        assert made.state is CircuitState.HALF_OPEN
        made.probe_until = float("inf")  # the store is away: it is on its own, and may go on
        assert call(made, S, 6.0)
        assert made.state is CircuitState.CLOSED


def test_a_circuit_is_down_from_its_first_opening_until_it_closes() -> None:
    circuit = Circuit(CircuitRules(ConsecutiveFailures(1), success_threshold=1, recovery_timeout=10.0))
    assert circuit.down_since is None
    circuit.settle(circuit.admit(5.0, 30.0), Verdict.TRANSIENT, 5.0)
    circuit.settle(circuit.admit(15.0, 30.0), Verdict.TRANSIENT, 15.0)
    assert (circuit.state, circuit.down_since) == (CircuitState.OPEN, 5.0), "a probe that failed is the same outage"
    circuit.settle(circuit.admit(25.0, 30.0), Verdict.SUCCESS, 25.0)
    assert (circuit.state, circuit.down_since) == (CircuitState.CLOSED, None)

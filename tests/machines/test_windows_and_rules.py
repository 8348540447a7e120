"""Windows, trip rules, and the breaker's longer rules: backoff of recovery, probe rates, ramps, saved states."""

from __future__ import annotations

import random
from collections import deque
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from resilience_core import (
    AnyOf,
    CircuitState,
    ConfigurationError,
    ConsecutiveFailures,
    CountWindow,
    FailureRate,
    ProbeRate,
    RampStep,
    RecoveryBackoff,
    SlowCallRate,
    TimeWindow,
    Verdict,
)
from resilience_core._machines.circuit import Circuit, CircuitRules, Forced
from resilience_core._machines.windows import TimeRing
from tests._cost import untraced

LEASE = 30.0
S, T, P, I = Verdict.SUCCESS, Verdict.TRANSIENT, Verdict.PERMANENT, Verdict.IGNORED  # noqa: E741


def call(circuit: Circuit, verdict: Verdict, now: float, **more: Any) -> bool:
    permit = circuit.admit(now, LEASE)
    if permit:
        circuit.settle(permit, verdict, now, **more)
    return bool(permit)


def opened(**rules: Any) -> Circuit:
    circuit = Circuit(CircuitRules(ConsecutiveFailures(1), **rules))
    call(circuit, T, 0.0)
    assert circuit.state is CircuitState.OPEN
    return circuit


@given(st.integers(1, 8), st.lists(st.tuples(st.booleans(), st.booleans()), max_size=60))
def test_a_count_window_holds_the_last_calls(size: int, calls: list[tuple[bool, bool]]) -> None:
    window, model = CountWindow(size).start(), deque[bool](maxlen=size)
    for bad, unlocked in calls:
        if not bad and unlocked:
            assert window.add_good(0.0, 0.0)
        else:
            window.add(bad, 0.0)
        model.append(bad)
        window.turn(0.0)
        assert (window.calls, window.bad) == window.look(0.0) == (len(model), sum(model))
    again = CountWindow(size).start()
    again.restore(window.export(0.0), 0.0)
    assert (again.calls, again.bad) == (window.calls, window.bad)


@given(
    st.integers(1, 5),
    st.lists(st.tuples(st.booleans(), st.integers(-3, 12), st.booleans()), max_size=60),
)
def test_a_time_window_holds_the_calls_of_its_buckets_and_credits_late_ones_to_their_own(
    buckets: int, calls: list[tuple[bool, int, bool]]
) -> None:
    window, model, newest = TimeWindow(float(buckets), buckets=buckets).start(), list[tuple[int, bool]](), 0
    now = 100
    for bad, step, unlocked in calls:
        at = now + step
        if bad or not unlocked or not window.add_good(at + 0.5, 0.0):
            window.add(bad, at + 0.5)
        newest = max(newest, at)
        if at > newest - buckets:
            model.append((at, bad))
        model = [(bucket, value) for bucket, value in model if bucket > newest - buckets]
        assert (window.calls, window.bad) == (len(model), sum(value for _, value in model))
        now = max(now, at)
    again = TimeWindow(float(buckets), buckets=buckets).start()
    again.restore(window.export(newest + 0.5), newest + 0.5)
    assert (again.calls, again.bad) == (window.calls, window.bad)


def test_a_time_window_forgets_at_exactly_its_length() -> None:
    window = TimeWindow(10.0).start()
    window.add(True, 0.0)
    window.turn(9.999)
    assert window.calls == 1
    window.turn(10.0)
    assert (window.calls, window.bad) == (0, 0)
    window.turn(1e9)
    window.add(True, 5.0)
    assert window.calls == 0, "its bucket has left"
    assert not window.add_good(5.0, 0.0)


def test_restored_buckets_that_do_not_fit_are_dropped() -> None:
    window = TimeWindow(2.0, buckets=2).start()
    window.restore({"buckets": [[0, 3, 1], [5, 9, 9]]}, 50.0)
    assert (window.calls, window.bad) == (3, 1)
    assert isinstance(window, TimeRing)


def test_a_failure_rate_opens_at_exactly_its_threshold_and_only_with_enough_calls() -> None:
    circuit = Circuit(CircuitRules(FailureRate(0.5, CountWindow(10), minimum_calls=4)))
    for verdict in (T, T, S):
        call(circuit, verdict, 0.0)
    assert circuit.state is CircuitState.CLOSED
    call(circuit, S, 0.0)
    assert circuit.state is CircuitState.CLOSED, "a success never opens it"
    call(circuit, T, 0.0)
    assert circuit.state is CircuitState.OPEN
    assert circuit.last_transition is not None
    assert circuit.last_transition.reason == "failure_ratio"


def test_slow_calls_open_it_also_when_they_succeed() -> None:
    circuit = Circuit(CircuitRules(SlowCallRate(0.5, CountWindow(4), slower_than=2.0, minimum_calls=2)))
    call(circuit, S, 0.0, duration=1.9)
    call(circuit, S, 0.0, duration=2.0)
    assert circuit.state is CircuitState.OPEN
    assert circuit.last_transition is not None
    assert circuit.last_transition.reason == "slow_ratio"


def test_a_slow_probe_is_a_bad_one() -> None:
    for rule in (SlowCallRate(0.5, slower_than=2.0), ConsecutiveFailures(9) | SlowCallRate(0.5, slower_than=2.0)):
        for duration, state in ((1.9, CircuitState.HALF_OPEN), (2.0, CircuitState.OPEN)):
            circuit = Circuit(CircuitRules(rule))
            circuit.force(CircuitState.OPEN, 0.0)
            call(circuit, S, 60.0, duration=duration)
            assert circuit.state is state


def test_rules_combine() -> None:
    class EveryThird:
        """A rule of somebody else."""

        quiet = False

        def __init__(self) -> None:
            self.count = 0

        def start(self) -> EveryThird:
            return EveryThird()

        def record(self, failed: bool, now: float, duration: float) -> str | None:
            self.count += 1
            return "third" if self.count == 3 else None

        def __str__(self) -> str:
            return "every third call"

    rule = EveryThird() | (ConsecutiveFailures(2) | FailureRate(0.9))
    assert isinstance(rule, AnyOf)
    assert str(rule) == (
        "every third call or 2 consecutive failures or 90% failures of the last 100 calls (at least 10 calls)"
    )
    assert rule.timed
    assert not (ConsecutiveFailures(2) | FailureRate()).timed
    circuit = Circuit(CircuitRules(rule))
    for _ in range(3):
        call(circuit, S, 0.0)
    assert circuit.last_transition is not None
    assert circuit.last_transition.reason == "third"
    assert not circuit.memory.quiet
    fresh = Circuit(CircuitRules(rule))
    fresh.restore(circuit.export(0.0), 0.0)
    assert fresh.state is CircuitState.OPEN
    assert str(SlowCallRate(0.5, TimeWindow(30), slower_than=2)) == "50% of the last 30 s slower than 2 s"


def test_a_rule_that_could_never_open_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="minimum_calls"):
        FailureRate(0.5, CountWindow(5), minimum_calls=6)
    with pytest.raises(ConfigurationError, match="minimum_calls"):
        SlowCallRate(0.5, CountWindow(5), slower_than=1, minimum_calls=6)
    with pytest.raises(ConfigurationError, match="rate"):
        FailureRate(0.0)
    with pytest.raises(ConfigurationError, match="window"):
        FailureRate(0.5, 100)  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError, match="trip rule"):
        ConsecutiveFailures(1) | 5  # type: ignore[operator]


@untraced()
def test_one_percent_random_failures_never_open_it_in_a_million_calls() -> None:
    chance = random.Random(7)
    for window in (CountWindow(100), TimeWindow(30.0)):
        circuit = Circuit(CircuitRules(FailureRate(0.5, window, minimum_calls=20)))
        for number in range(500_000):
            now = number * 0.01
            passing = circuit.passing
            assert passing is not None
            if chance.random() < 0.01:
                circuit.settle(passing[0], T, now)
            elif not passing[1].pass_good(now, 0.0):
                circuit.settle(passing[0], S, now)
        assert circuit.last_transition is None


def test_the_open_time_grows_with_each_failed_recovery() -> None:
    circuit = opened(recovery_timeout=10.0, recovery_backoff=RecoveryBackoff(multiplier=3, max_timeout=50, jitter=0.2))
    assert circuit.open_until == 10.0
    call(circuit, T, 10.0, random=lambda: 0.0)
    assert circuit.open_until == pytest.approx(10 + 30 * 0.8)
    call(circuit, T, 50.0, random=lambda: 0.999)
    assert circuit.open_until == 100.0, "jitter does not lead above the maximum"
    for now in (100.0, 101.0):
        call(circuit, S, now)
    call(circuit, T, 102.0)
    assert circuit.open_until == 112.0, "closed for good: it begins anew"
    assert RecoveryBackoff(multiplier=1.5).seconds(60, 10**6, lambda: 0.5) == 600.0


def test_the_server_can_ask_for_a_longer_open_time() -> None:
    for hint, expected in ((None, 60.0), (5.0, 60.0), (90.0, 90.0), (1e6, 300.0)):
        circuit = Circuit(CircuitRules(ConsecutiveFailures(1), max_retry_after=300.0))
        call(circuit, T, 0.0, retry_after=hint)
        assert circuit.open_until == expected
    assert opened().open_until == 60.0


@pytest.mark.parametrize(
    ("outcomes", "state"),
    [
        ("GGG", CircuitState.CLOSED),  # of 4 at 50 %: two may not fail any more
        ("BB", CircuitState.OPEN),
        ("GBG", CircuitState.HALF_OPEN),
        ("GBGG", CircuitState.CLOSED),
        ("GBGB", CircuitState.OPEN),
    ],
)
def test_a_probe_rate_decides_as_soon_as_it_is_certain(outcomes: str, state: CircuitState) -> None:
    circuit = opened(probe_rate=ProbeRate(4, 0.5))
    for outcome in outcomes:
        assert circuit.state is CircuitState.OPEN or CircuitState.HALF_OPEN
        assert call(circuit, S if outcome == "G" else T, 60.0)
    assert circuit.state is state


def test_a_probe_rate_admits_no_more_than_its_sample() -> None:
    circuit = opened(probe_rate=ProbeRate(3, 1.0), half_open_max_calls=10)
    permits = [circuit.admit(60.0, LEASE) for _ in range(5)]
    assert [bool(permit) for permit in permits] == [True, True, True, False, False]
    circuit.settle(permits[0], I, 60.0)
    assert circuit.admit(60.0, LEASE), "one that taught nothing is replaced"
    with pytest.raises(ConfigurationError, match="failure_rate"):
        ProbeRate(3, 0.0)


RAMP = (RampStep(0.25, 10.0), RampStep(0.5, 10.0))


def ramping(**more: Any) -> Circuit:
    circuit = opened(ramp=RAMP, **more)
    for _ in range(2):
        call(circuit, S, 60.0)
    assert circuit.state is CircuitState.CLOSED
    return circuit


def test_a_ramp_admits_growing_shares_and_ends() -> None:
    circuit = ramping()
    assert (circuit.quiet, circuit.ramp_share(60.0)) == (0, 0.25)
    assert sum(call(circuit, S, 65.0) for _ in range(40)) == 11  # the first at once, then every fourth
    assert circuit.ramp_share(70.0) == 0.5
    assert sum(call(circuit, S, 75.0) for _ in range(40)) == 20
    assert all(call(circuit, S, 80.0) for _ in range(10))
    assert circuit.quiet == circuit.generation
    assert (circuit.ramp_share(80.0), circuit.openings) == (1.0, 0)
    with pytest.raises(ConfigurationError, match="share"):
        RampStep(0.0, 1.0)


def test_a_failure_in_the_ramp_opens_it_again_and_counts_as_a_failed_recovery() -> None:
    circuit = ramping(recovery_backoff=RecoveryBackoff(jitter=0.0))
    circuit.rules = CircuitRules(ConsecutiveFailures(5), ramp=RAMP, recovery_backoff=RecoveryBackoff(jitter=0.0))
    assert call(circuit, T, 61.0)
    assert circuit.state is CircuitState.OPEN
    assert circuit.last_transition is not None
    assert circuit.last_transition.reason == "ramp_failed"
    assert circuit.open_until == 61.0 + 120.0


def test_a_forced_state_ends_with_a_request_when_its_time_has_come() -> None:
    circuit = Circuit(CircuitRules(ConsecutiveFailures(1)))
    circuit.force(CircuitState.FORCED_OPEN, 0.0, Forced("ann", "deploy", 10.0))
    assert not circuit.admit(9.9, LEASE)
    assert circuit.admit(10.0, LEASE)
    assert (circuit.state, circuit.forced) == (CircuitState.CLOSED, None)
    circuit.force(CircuitState.DISABLED, 0.0, Forced(until=5.0))
    assert circuit.quiet == 0, "each request must look at the time"
    assert call(circuit, T, 4.0)
    call(circuit, T, 5.0)
    assert circuit.state is CircuitState.OPEN


@pytest.mark.parametrize(
    "rule",
    [ConsecutiveFailures(3), FailureRate(0.5, CountWindow(10)), FailureRate(0.5, TimeWindow(60))],
    ids=str,
)
def test_a_saved_state_goes_on_where_it_was(rule: Any) -> None:
    circuit = Circuit(CircuitRules(rule))
    for verdict in (T, S, T, T)[-2:]:
        call(circuit, verdict, 100.0)
    again = Circuit(CircuitRules(rule))
    again.restore(circuit.export(100.0), 5000.0)
    assert again.memory.export(5000.0) == circuit.memory.export(100.0)  # type: ignore[attr-defined]
    circuit.force(CircuitState.OPEN, 100.0)
    again.restore(circuit.export(110.0), 5000.0)
    assert (again.state, again.open_until, again.openings) == (CircuitState.OPEN, 5050.0, 1)
    circuit.force(CircuitState.FORCED_OPEN, 100.0, Forced("ann", "deploy", 130.0))
    again.restore(circuit.export(110.0), 5000.0)
    assert again.forced == Forced("ann", "deploy", 5020.0)
    circuit.force(CircuitState.FORCED_OPEN, 100.0, Forced())
    again.restore(circuit.export(110.0), 5000.0)
    assert again.forced == Forced()


def test_a_half_open_circuit_is_saved_as_open_and_a_ramp_goes_on() -> None:
    circuit = opened()
    circuit.admit(60.0, LEASE)
    again = Circuit(CircuitRules(ConsecutiveFailures(1)))
    again.restore(circuit.export(60.0), 0.0)
    assert (again.state, again.open_until) == (CircuitState.OPEN, 0.0)
    ramp = ramping()
    again = Circuit(CircuitRules(ConsecutiveFailures(1), ramp=RAMP))
    again.restore(ramp.export(65.0), 1000.0)
    assert again.ramp_share(1004.9) == 0.25
    assert again.ramp_share(1005.0) == 0.5


def test_a_broken_saved_state_changes_nothing() -> None:
    circuit = ramping()
    before = circuit.export(61.0)
    for key in before:
        for bad in ("nonsense", object(), [1]):
            broken = {**before, key: bad}
            with pytest.raises((KeyError, TypeError, ValueError, AttributeError)):
                circuit.restore(broken, 61.0)
    assert circuit.export(61.0) == before


class Told:
    """A memory that cannot be saved."""

    quiet = True

    def start(self) -> Told:
        return self

    def record(self, failed: bool, now: float, duration: float) -> str | None:
        return None


def test_a_rule_whose_memory_cannot_be_saved_begins_empty() -> None:
    for rule in (Told(), Told() | ConsecutiveFailures(2)):  # type: ignore[operator]
        circuit = Circuit(CircuitRules(rule))
        call(circuit, T, 0.0)
        again = Circuit(CircuitRules(rule))
        again.restore(circuit.export(0.0), 0.0)
        assert again.state is CircuitState.CLOSED


@given(st.integers(1, 6), st.lists(st.tuples(st.booleans(), st.floats(0, 20)), max_size=30), st.floats(0, 30))
def test_looking_at_a_time_window_sees_what_turning_it_would_leave_and_changes_nothing(
    buckets: int, calls: list[tuple[bool, float]], later: float
) -> None:
    window = TimeWindow(6.0, buckets=buckets).start()
    assert window.look(later) == (0, 0)
    now = 0.0
    for bad, passed in calls:
        now += passed
        window.add(bad, now)
    before = (window.calls, window.bad)
    seen = window.look(now + later)
    assert (window.calls, window.bad) == before
    window.turn(now + later)
    assert seen == (window.calls, window.bad)


def test_a_window_that_is_being_turned_shows_no_impossible_numbers() -> None:
    window = TimeWindow(1.0, buckets=1).start()
    window.add(True, 0.5)
    window.calls = 0  # as in the middle of `turn`
    assert window.look(0.5) == (0, 0)
    assert window.look(1.5) == (0, 0)


def test_a_circuit_tells_the_shares_of_its_rules() -> None:
    rate, slow = FailureRate(0.9, TimeWindow(10)), SlowCallRate(0.9, CountWindow(10), slower_than=2.0)
    circuit = Circuit(CircuitRules(rate | slow))
    assert circuit.shares(0.0) == {"failure_ratio": 0.0, "slow_ratio": 0.0, "window_calls": 0}
    for verdict, duration in ((S, 0.0), (T, 3.0), (T, 0.0), (S, 3.0), (S, 3.0)):
        call(circuit, verdict, 1.0, duration=duration)
    assert circuit.shares(1.0) == {"failure_ratio": 0.4, "slow_ratio": 0.6, "window_calls": 5}
    assert circuit.shares(20.0)["failure_ratio"] == 0.0  # the calls have left, although nobody has called since
    assert Circuit(CircuitRules(ConsecutiveFailures(3))).shares(1.0) == {}
    assert Circuit(CircuitRules(ConsecutiveFailures(3) | slow)).shares(1.0) == {"slow_ratio": 0.0, "window_calls": 0}

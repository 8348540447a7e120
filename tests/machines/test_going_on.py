"""Machines go on under other numbers with all that they know."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from resilience_core import (
    AIMD,
    ConsecutiveFailures,
    CountWindow,
    FailureRate,
    Gradient2,
    SlowCallRate,
    TimeWindow,
    Vegas,
    Verdict,
)
from resilience_core._machines.bucket import Bucket
from resilience_core._machines.budget import InFlightRatio, TokenQuota, TokenThrottle, TrafficRatio
from resilience_core._machines.circuit import Circuit, CircuitRules, CircuitState
from resilience_core._machines.concurrency import Slots as AdaptiveSlots
from resilience_core._machines.recovery import ProbeRate, RecoveryBackoff
from resilience_core._machines.slots import Slots
from resilience_core._machines.throttle import Throttle
from resilience_core._machines.windows import resumed_window


class Someone:
    def __init__(self) -> None:
        self.woken = False

    def wake(self) -> bool:
        self.woken = True
        return True


# --- slots ---------------------------------------------------------------------------------------------------------


def test_shrinking_takes_free_slots_first_and_then_those_that_come_back() -> None:
    slots = Slots(5, 0)
    for _ in range(4):
        del slots.free[-1]
    slots.resize(2, 0)
    assert (slots.taken, len(slots.free), slots.callers) == (4, 0, 0)
    for left in (3, 2):
        slots.free.append(None)
        slots.hand_over()
        assert (slots.taken, len(slots.free)) == (left, 0), "a slot too many is not given out again"
    slots.free.append(None)
    assert (slots.taken, len(slots.free), len(slots.waiting)) == (1, 1, 0)


def test_a_debt_is_forgiven_before_slots_are_made() -> None:
    slots = Slots(4, 0)
    slots.free.clear()
    slots.resize(1, 0)
    slots.resize(3, 0)
    assert (slots.debt, slots.taken, len(slots.free)) == (1, 4, 0)
    slots.resize(6, 0)
    assert (slots.debt, slots.taken, len(slots.free), len(slots.waiting)) == (0, 4, 2, 0)


def test_a_caller_who_waits_behind_a_debt_gets_the_slot_after_it() -> None:
    slots, caller = Slots(2, 3), Someone()
    slots.free.clear()
    slots.resize(1, 3)
    assert slots.queue(caller) is not None
    slots.free.append(None)
    slots.hand_over()
    assert not caller.woken
    slots.free.append(None)
    slots.hand_over()
    assert caller.woken
    assert (slots.taken, slots.debt) == (1, 0)


def test_growing_wakes_those_who_wait() -> None:
    slots, caller = Slots(1, 1), Someone()
    slots.free.clear()
    slots.queue(caller)
    slots.resize(2, 1)
    assert caller.woken


@given(st.lists(st.one_of(st.just("take"), st.just("return"), st.integers(1, 6)), max_size=60))
def test_no_slot_is_lost_or_made_whatever_the_order(story: list[Any]) -> None:
    slots, out = Slots(3, 0), 0
    for step in story:
        if step == "take":
            if slots.free and not slots.waiting:
                del slots.free[-1]
                out += 1
        elif step == "return":
            if out:
                out -= 1
                slots.free.append(None)
                if slots.waiting:
                    slots.hand_over()
        else:
            slots.resize(step, 0)
        assert slots.taken == out
        assert len(slots.free) == max(0, slots.size - out)
    assert slots.callers == 0


# --- bucket --------------------------------------------------------------------------------------------------------


def test_permits_that_were_taken_stay_taken_at_another_rate() -> None:
    bucket = Bucket(0.1, 10)
    for _ in range(6):
        assert bucket.take(100.0, 0.0) == 0.0
    bucket.retune(0.5, 8, 100.0)
    assert bucket.available(100.0) == 2
    assert bucket.take(100.0, 0.0) == bucket.take(100.0, 0.0) == 0.0
    assert bucket.take(100.0, 0.0) == pytest.approx(-1.5), "the next one comes at the new rate"


def test_a_bucket_at_rest_gives_its_new_burst() -> None:
    bucket = Bucket(0.1, 2)
    bucket.retune(0.1, 5, 100.0)
    assert bucket.available(100.0) == 5


# --- circuits ------------------------------------------------------------------------------------------------------


def failing(circuit: Circuit, times: int, now: float = 0.0) -> None:
    for _ in range(times):
        circuit.settle(circuit.admit(now, 60), Verdict.TRANSIENT, now)


def test_failures_in_a_row_are_kept_and_count_towards_the_new_threshold() -> None:
    circuit = Circuit(CircuitRules(ConsecutiveFailures(5)))
    failing(circuit, 3)
    circuit.adopt(CircuitRules(ConsecutiveFailures(4)), 0.0)
    assert circuit.state is CircuitState.CLOSED
    failing(circuit, 1)
    assert circuit.state is CircuitState.OPEN


def test_a_threshold_below_what_is_counted_opens_with_the_next_failure_only() -> None:
    circuit = Circuit(CircuitRules(ConsecutiveFailures(5)))
    failing(circuit, 4)
    circuit.adopt(CircuitRules(ConsecutiveFailures(2)), 0.0)
    assert circuit.state is CircuitState.CLOSED
    failing(circuit, 1)
    assert circuit.state is CircuitState.OPEN


def test_an_open_circuit_waits_for_the_new_time_counted_from_its_opening() -> None:
    circuit = Circuit(CircuitRules(ConsecutiveFailures(1), recovery_timeout=60))
    failing(circuit, 1, now=100.0)
    circuit.adopt(CircuitRules(ConsecutiveFailures(1), recovery_timeout=10), 105.0)
    assert circuit.open_until == 110.0
    assert circuit.admit(109.9, 60) == 0
    assert circuit.admit(110.0, 60) > 0


def test_an_open_time_that_backoff_stretched_stays() -> None:
    rules = CircuitRules(ConsecutiveFailures(1), recovery_timeout=60, recovery_backoff=RecoveryBackoff(jitter=0))
    circuit = Circuit(rules)
    failing(circuit, 1, now=100.0)
    failing(circuit, 1, now=160.0)  # the probe
    assert circuit.open_until == 280.0
    circuit.adopt(CircuitRules(ConsecutiveFailures(1), recovery_timeout=10), 170.0)
    assert circuit.open_until == 280.0


def test_a_half_open_circuit_that_is_judged_otherwise_counts_its_probes_anew() -> None:
    circuit = Circuit(CircuitRules(ConsecutiveFailures(1), recovery_timeout=60))
    failing(circuit, 1, now=0.0)
    circuit.settle(circuit.admit(60.0, 60), Verdict.SUCCESS, 60.0)
    assert (circuit.state, circuit.successes) == (CircuitState.HALF_OPEN, 1)
    circuit.adopt(CircuitRules(ConsecutiveFailures(1), probe_rate=ProbeRate(2, 0.5)), 61.0)
    circuit.settle(circuit.admit(61.0, 60), Verdict.SUCCESS, 61.0)
    assert circuit.state is CircuitState.HALF_OPEN, "one of two probes"
    circuit.settle(circuit.admit(61.0, 60), Verdict.SUCCESS, 61.0)
    assert circuit.state is CircuitState.CLOSED


def test_a_generation_outlives_the_change_so_calls_in_flight_still_count() -> None:
    circuit = Circuit(CircuitRules(ConsecutiveFailures(1)))
    permit = circuit.admit(0.0, 60)
    circuit.adopt(CircuitRules(ConsecutiveFailures(1), success_threshold=9), 0.0)
    circuit.settle(permit, Verdict.TRANSIENT, 1.0)
    assert circuit.state is CircuitState.OPEN


class Own:
    """Somebody's rule, which cannot go on with anything."""

    def start(self) -> Any:
        return ConsecutiveFailures(2).start()


@pytest.mark.parametrize(
    ("old", "new", "kept"),
    [
        (FailureRate(0.9, CountWindow(100)), FailureRate(0.5, CountWindow(100)), 12),
        (FailureRate(0.9, CountWindow(100)), FailureRate(0.9, CountWindow(10), minimum_calls=10), 10),
        (FailureRate(0.9, CountWindow(20)), FailureRate(0.9, CountWindow(200)), 12),
        (FailureRate(0.9, TimeWindow(30)), FailureRate(0.5, TimeWindow(30)), 12),
        (FailureRate(0.9, TimeWindow(30)), FailureRate(0.9, TimeWindow(60, buckets=6)), 12),
        (FailureRate(0.9, TimeWindow(30)), FailureRate(0.9, TimeWindow(3)), 3),
        (FailureRate(0.9, TimeWindow(30)), FailureRate(0.9, CountWindow(100)), 0),
        (FailureRate(0.9, CountWindow(100)), FailureRate(0.9, TimeWindow(30)), 0),
        (
            SlowCallRate(0.9, CountWindow(100), slower_than=1.0),
            SlowCallRate(0.5, CountWindow(50), slower_than=1.0),
            12,
        ),
        (SlowCallRate(0.9, CountWindow(100), slower_than=1.0), SlowCallRate(0.9, CountWindow(100), slower_than=2.0), 0),
        (FailureRate(0.9, CountWindow(100)), SlowCallRate(0.9, CountWindow(100), slower_than=2.0), 0),
        (SlowCallRate(0.9, CountWindow(100), slower_than=1.0), FailureRate(0.9, CountWindow(100)), 0),
        (ConsecutiveFailures(5), FailureRate(0.9, CountWindow(100)), 0),
    ],
    ids=str,
)
def test_a_window_keeps_what_fits_into_the_new_one(old: Any, new: Any, kept: int) -> None:
    circuit = Circuit(CircuitRules(old))
    for second in range(12):
        permit = circuit.admit(float(second), 60)
        circuit.settle(permit, Verdict.SUCCESS, float(second), 0.5)
    circuit.adopt(CircuitRules(new), 11.0)
    assert circuit.memory.window.calls == kept  # type: ignore[attr-defined]
    before = circuit.memory.window.calls  # type: ignore[attr-defined]
    circuit.settle(circuit.admit(11.0, 60), Verdict.SUCCESS, 11.0, 0.1)
    assert circuit.memory.window.calls == before + (before < getattr(new.window, "size", 1000)), "calls go into it"  # type: ignore[attr-defined]


def test_joined_rules_go_on_each_in_its_place() -> None:
    circuit = Circuit(CircuitRules(ConsecutiveFailures(5) | FailureRate(0.9, CountWindow(100))))
    failing(circuit, 3)
    circuit.adopt(CircuitRules(ConsecutiveFailures(7) | FailureRate(0.9, CountWindow(100)) | Own()), 0.0)
    first, second, third = circuit.memory.counters  # type: ignore[attr-defined]
    assert (first.count, second.window.calls, third.count) == (3, 3, 0)
    circuit.adopt(CircuitRules(ConsecutiveFailures(4)), 0.0)
    assert circuit.memory.count == 3, "the one of its kind"  # type: ignore[attr-defined]
    circuit.adopt(CircuitRules(FailureRate(0.9, CountWindow(100)) | ConsecutiveFailures(9)), 0.0)
    second, first = circuit.memory.counters  # type: ignore[attr-defined]
    assert (first.count, second.window.calls) == (3, 0)
    circuit.adopt(CircuitRules(SlowCallRate(0.9, CountWindow(100), slower_than=1)), 0.0)
    assert circuit.memory.window.calls == 0, "none of its kind"  # type: ignore[attr-defined]
    circuit.adopt(CircuitRules(Own()), 0.0)
    assert circuit.memory.count == 0  # type: ignore[attr-defined]


def test_a_single_rule_becomes_the_first_of_several() -> None:
    circuit = Circuit(CircuitRules(ConsecutiveFailures(5)))
    failing(circuit, 3)
    circuit.adopt(CircuitRules(ConsecutiveFailures(5) | FailureRate(0.9, CountWindow(100))), 0.0)
    failing(circuit, 2)
    assert circuit.state is CircuitState.OPEN


@given(
    st.lists(st.tuples(st.floats(0, 5), st.booleans()), max_size=40),
    st.floats(1, 60),
    st.integers(1, 12),
    st.floats(1, 60),
    st.integers(1, 12),
)
def test_a_time_window_never_takes_over_more_than_there_was(
    calls: list[tuple[float, bool]], seconds: float, buckets: int, other_seconds: float, other_buckets: int
) -> None:
    window, now = TimeWindow(seconds, buckets=buckets).start(), 1000.0
    for pause, bad in calls:
        now += pause
        window.add(bad, now)
    window.turn(now)
    new = resumed_window(TimeWindow(other_seconds, buckets=other_buckets), window, now)
    assert 0 <= new.bad <= new.calls <= window.calls
    if other_seconds >= 2 * seconds + 2 * other_seconds / other_buckets:
        assert (new.calls, new.bad) == (window.calls, window.bad), "a longer one keeps all of it"


# --- budgets, limits, throttles --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("law", "other", "spend", "before", "after"),
    [
        (TrafficRatio(0.5, minimum_per_second=1), TrafficRatio(0.5, minimum_per_second=2), 4, 6.0, 16.0),
        (TrafficRatio(0.5, minimum_per_second=1), TrafficRatio(0.5, minimum_per_second=1, ttl=20), 4, 6.0, 16.0),
        (InFlightRatio(0.2, minimum=5), InFlightRatio(0.2, minimum=3), 2, 3.0, 1.0),
        (TokenQuota(500), TokenQuota(100), 4, 480.0, 80.0),
        (TokenQuota(500), TokenQuota(10), 4, 480.0, 0.0),
        (TokenThrottle(10), TokenThrottle(20), 0, 5.0, 10.0),
    ],
    ids=str,
)
def test_a_budget_keeps_what_was_spent(law: Any, other: Any, spend: int, before: float, after: float) -> None:
    account = law.start()
    for _ in range(spend):
        assert account.take(100.0, False) is not None
    assert account.balance(100.0) == pytest.approx(before)
    account.adopt(other, 100.0)
    assert account.balance(100.0) == pytest.approx(after)


def test_a_limit_goes_on_with_what_it_learnt_under_other_numbers() -> None:
    slots = AdaptiveSlots(AIMD(initial=50, minimum=10, maximum=100))
    slots.learn(1.0, 50, True, 0, 0.0, lambda: 0.5)
    assert slots.limit == 45
    learnt = slots.law_limit
    slots.adopt(AIMD(initial=20, minimum=10, maximum=40))
    assert slots.law_limit is learnt
    assert slots.limit == 40, "within the new bounds"
    slots.adopt(Vegas(initial=7))
    assert slots.limit == 40, "another law begins where the last one stood"


def test_an_average_looks_back_by_the_new_window() -> None:
    slots = AdaptiveSlots(Gradient2(initial=50, long_window=10))
    for _ in range(20):
        slots.law_limit.sample(1.0, 10, False, 0.0, lambda: 0.5)
    slots.adopt(Gradient2(initial=50, long_window=1))
    slots.law_limit.sample(3.0, 10, False, 0.0, lambda: 0.5)
    assert slots.law_limit._long.value == 3.0  # type: ignore[attr-defined]


class Fixed:
    """Somebody's law, without bounds."""

    limit = 9.0

    def start(self) -> Any:
        return self


def test_a_law_of_somebody_else_begins_with_the_present_limit() -> None:
    slots = AdaptiveSlots(AIMD(initial=50))
    slots.adopt(Fixed())
    assert slots.limit == 50


def test_a_throttle_looks_back_further_with_what_it_knows() -> None:
    throttle = Throttle(120.0)
    for second in range(10):
        throttle.request(100.0 + second)
        throttle.accept(100.0 + second)
    throttle.resume(120.0, 110.0)
    assert throttle.counts(110.0) == (10, 10)
    throttle.resume(240.0, 110.0)
    assert throttle.counts(110.0) == (10, 10)

"""Backoff, bucket, slots, freshness."""

from __future__ import annotations

import dis
import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from resilience_core import Constant, Exponential, Freshness, Linear
from resilience_core._machines.backoff import JITTERS, JitterName, Schedule
from resilience_core._machines.bucket import Bucket
from resilience_core._machines.freshness import freshness
from resilience_core._machines.slots import Slots


def delays(schedule: Schedule, number: int, draw: float) -> list[float]:
    memory, found = 0.0, []
    for retry in range(1, number + 1):
        delay, memory = schedule.delay(retry, memory, lambda: draw)
        found.append(delay)
    return found


def test_the_default_waits_about_one_then_two_seconds_and_never_over_ten() -> None:
    schedule = Schedule(Exponential(1.0, 2.0), 10.0, "proportional", 0.25)
    assert delays(schedule, 6, 0.5) == [1, 2, 4, 8, 10, 10]
    assert delays(schedule, 6, 0.0) == [0.75, 1.5, 3, 6, 7.5, 7.5]
    assert max(delays(schedule, 6, 0.999999)) == 10.0
    assert schedule.longest(1) == 1.25


@pytest.mark.parametrize(
    ("jitter", "at_zero", "at_half"),
    [
        ("none", [1, 2, 4], [1, 2, 4]),
        ("full", [0, 0, 0], [0.5, 1, 2]),
        ("equal", [0.5, 1, 2], [0.75, 1.5, 3]),
        ("decorrelated", [1, 1, 1], [2.0, 3.5, 5.75]),
    ],
)
def test_jitters(jitter: JitterName, at_zero: list[float], at_half: list[float]) -> None:
    schedule = Schedule(Exponential(1.0, 2.0), 100.0, jitter, 0.25)
    assert delays(schedule, 3, 0.0) == at_zero
    assert delays(schedule, 3, 0.5) == at_half


def test_decorrelated_v2_is_polly_s_formula() -> None:
    def curve(at: float) -> float:
        return 2**at * math.tanh(math.sqrt(4 * at))

    schedule = Schedule(Exponential(1.0, 2.0), 1e9, "decorrelated_v2", 0.25)
    expected = [(curve(n + 0.3) - (curve(n - 1 + 0.3) if n else 0)) / 1.4 for n in range(4)]
    assert delays(schedule, 4, 0.3) == pytest.approx(expected)
    assert schedule.longest(1) == 1e9


@given(
    jitter=st.sampled_from(JITTERS),
    base=st.floats(0, 1e6),
    multiplier=st.floats(1, 1e6),
    cap=st.floats(0, 1e6),
    retry=st.integers(1, 10**6),
    memory=st.floats(0, 1e6),
    seed=st.integers(),
)
def test_no_delay_leaves_zero_to_cap(
    jitter: JitterName, base: float, multiplier: float, cap: float, retry: int, memory: float, seed: int
) -> None:
    delay, _ = Schedule(Exponential(base, multiplier), cap, jitter, 1.0).delay(
        retry, memory, random.Random(seed).random
    )
    assert 0 <= delay <= cap


def test_other_backoffs() -> None:
    assert [Constant(2.0)(n) for n in (1, 2, 3)] == [2, 2, 2]
    assert [Linear(1.0, 0.5)(n) for n in (1, 2, 3)] == [1, 1.5, 2]
    assert Exponential(1.0, 2.0)(10**6) == math.inf
    assert Exponential(0.0, 2.0)(10**6) == 0.0


def test_a_bucket_at_rest_gives_its_burst_and_then_one_permit_an_interval() -> None:
    bucket = Bucket(interval=0.1, burst=3)
    assert [bucket.take(0.0, 0.0) for _ in range(3)] == [0, 0, 0]
    assert bucket.take(0.0, 0.0) == pytest.approx(-1.1)
    assert bucket.take(0.1, 0.0) == 0.0
    assert bucket.available(0.1) == 0
    assert bucket.available(10.0) == 3


def test_waiting_reserves_and_giving_back_frees_it() -> None:
    bucket = Bucket(interval=1.0, burst=1)
    bucket.take(0.0, 10.0)
    assert [bucket.take(0.0, 10.0) for _ in range(3)] == [1, 2, 3]
    mine = bucket.tat
    bucket.give_back(mine)
    assert bucket.take(0.0, 10.0) == 3.0
    bucket.take(0.0, 10.0)
    bucket.give_back(mine)
    assert bucket.take(0.0, 10.0) == 5.0, "somebody reserved after it: giving back would let two start at once"


def test_a_closed_bucket_gives_nothing_until_then() -> None:
    bucket = Bucket(interval=1.0, burst=5)
    bucket.close_until(10.0)
    bucket.close_until(5.0)
    assert bucket.take(4.0, 0.0) == -7.0
    assert bucket.available(4.0) == 0
    assert bucket.take(4.0, 6.0) == 6.0
    assert bucket.take(10.0, 0.0) == 0.0


@given(st.lists(st.floats(0, 0.5), max_size=200), st.integers(1, 20))
def test_no_window_holds_more_than_burst_and_rate(gaps: list[float], burst: int) -> None:
    bucket, now, starts = Bucket(interval=0.1, burst=burst), 0.0, []
    for gap in gaps:
        now += gap
        if bucket.take(now, 0.0) == 0.0:
            starts.append(now)
    for first, begin in enumerate(starts):
        for last in range(first, len(starts)):
            assert last - first + 1 <= burst + (starts[last] - begin) / 0.1 + 1e-6


def test_take_is_atomic_under_the_gil() -> None:
    names = {instruction.opname for instruction in dis.get_instructions(Bucket.take)}
    assert not {name for name in names if name.startswith(("CALL", "PRECALL", "JUMP_BACKWARD", "FOR_ITER"))}


class FakeWaiter:
    def __init__(self, there: bool = True) -> None:
        self.there, self.woken = there, 0

    def wake(self) -> bool:
        self.woken += 1
        return self.there


def test_slots_go_to_those_who_wait_in_order_and_skip_who_is_gone() -> None:
    slots = Slots(size=1, max_queue=3)
    del slots.free[-1]
    gone, first, second = FakeWaiter(there=False), FakeWaiter(), FakeWaiter()
    tickets = [slots.queue(waiter) for waiter in (gone, first, second)]
    assert slots.queue(FakeWaiter()) is None
    slots.free.append(None)
    slots.hand_over()
    assert [waiter.woken for waiter in (gone, first, second)] == [1, 1, 0]
    assert [ticket is not None and ticket.granted for ticket in tickets] == [False, True, False]
    assert tickets[1] is not None
    assert slots.leave(tickets[1])
    assert tickets[2] is not None
    assert not slots.leave(tickets[2])
    assert not slots.waiting


def test_joining_a_queue_while_a_slot_is_free_is_granted_at_once() -> None:
    slots = Slots(size=1, max_queue=0)
    ticket = slots.queue(FakeWaiter())
    assert ticket is not None
    assert ticket.granted


@pytest.mark.parametrize(
    ("age", "expected"),
    [(-5, "fresh"), (0, "fresh"), (9.99, "fresh"), (10, "stale"), (29.9, "stale"), (30, "expired")],
)
def test_freshness(age: float, expected: str) -> None:
    assert freshness(age, 10, 20) is Freshness(expected)

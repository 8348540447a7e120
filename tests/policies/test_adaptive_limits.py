"""Adaptive concurrency and client-side throttling: their laws, and their gates in all worlds."""

from __future__ import annotations

import random
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from resilience_core import (
    AIMD,
    AdaptiveConcurrency,
    AdaptiveThrottle,
    BulkheadFullError,
    Chance,
    ConfigurationError,
    Gradient2,
    Judgement,
    LimitChanged,
    Priority,
    RateLimitedError,
    Rejection,
    Steady,
    Vegas,
    Verdict,
    current_priority,
    prioritised,
)
from resilience_core._machines.concurrency import Slots
from resilience_core._machines.throttle import Throttle, rejection
from resilience_core.testing import VirtualClock, record_events
from tests._cost import size
from tests.worlds import Script, World

DOWN = ConnectionError("down")


def half() -> float:
    return 0.5


class Server:
    """A dependency with a capacity: beyond it, latency grows with the queue. Feeds a limit, a second at a time."""

    def __init__(self, limit: Any, latency: float = 0.1, capacity: int = 50) -> None:
        self.limit, self.latency, self.capacity, self.now = limit, latency, capacity, 0.0

    def seconds(self, number: int, *, demand: int = 10_000, dropped: float = 0.0) -> list[str]:
        reasons = []
        for _ in range(number):
            in_flight = min(demand, max(1, int(self.limit.limit)))
            rtt = self.latency * max(1.0, in_flight / self.capacity)
            for index in range(20):
                self.now += 0.05
                reason = self.limit.sample(rtt, in_flight, index < 20 * dropped, self.now, half)
                if reason is not None:
                    reasons.append(reason)
        return reasons


def test_steady_finds_the_capacity_and_keeps_near_to_it() -> None:
    server = Server(Steady().start())
    assert "headroom" in server.seconds(120)
    assert 40 <= server.limit.limit <= 120
    assert {*server.seconds(60)} <= {"headroom", "latency"}


def test_an_incident_that_lasts_does_not_become_the_normal_case() -> None:
    server = Server(Steady(remeasure_after=10_000).start())
    server.seconds(60)
    baseline = server.limit.baseline
    server.latency = 2.0
    server.seconds(1800)
    assert server.limit.limit == 4.0
    assert server.limit.baseline == baseline, "frozen while the limit is lowered"
    server.latency = 0.1
    server.seconds(60)
    assert server.limit.limit > 40, "and back as soon as it has ended"
    # The same incident with a law whose baseline follows: it takes the slow dependency for the normal one.
    spoilt = Server(Gradient2(initial=20, minimum=4, maximum=1000).start())
    spoilt.seconds(60)
    spoilt.latency = 2.0
    spoilt.seconds(1800)
    assert spoilt.limit.limit > 40


def test_a_dependency_that_became_slower_for_good_is_measured_anew() -> None:
    server = Server(Steady(remeasure_after=5).start())
    server.seconds(60)
    server.latency = 2.0
    assert "remeasured" in server.seconds(60)
    server.seconds(60)
    assert server.limit.limit > 20


def test_latencies_up_to_a_healthy_one_never_lower_it() -> None:
    guarded = Server(Steady(healthy_latency=1.0, maximum=40).start(), capacity=1000)
    guarded.seconds(30)
    guarded.latency = 0.9
    guarded.seconds(60)
    assert guarded.limit.limit == 40.0


def test_failures_lower_it_and_an_unused_limit_does_not_grow() -> None:
    server = Server(Steady(initial=100).start(), capacity=1000)
    assert set(server.seconds(10, dropped=0.5)) == {"overload"}
    server.seconds(2, demand=3)  # the window that was begun with failures
    low = server.limit.limit
    assert low < 60
    server.seconds(10, demand=3)
    assert server.limit.limit == low
    assert Steady().start().sample(0.0, 1, False, 0.0, half) is None
    only_failures = Server(Steady(overload_share=1.0).start())
    assert not only_failures.seconds(5, dropped=1.0), "nothing was measured, and that is no reason"


def test_vegas_takes_the_latency_without_load_anew_now_and_then() -> None:
    limit = Vegas(initial=10, probe_multiplier=1, smoothing=0.5).start()
    for _ in range(9):
        limit.sample(0.1, 10, False, 0.0, half)
    before = limit.limit
    for _ in range(20):
        limit.sample(1.0, 10, False, 0.0, half)
    assert limit.limit > 1, "without a new measurement it would go down to its minimum"
    assert before > 10
    again = Vegas(initial=100).start()
    again.sample(0.1, 100, False, 0.0, half)
    assert again.sample(0.105, 100, False, 0.0, half) == "headroom"
    assert again.sample(0.2, 100, False, 0.0, half) == "latency"
    assert again.sample(0.05, 100, True, 0.0, half) == "overload", "a drop counts however short it was"


def test_the_others_hold_where_nothing_is_to_be_learnt() -> None:
    assert Gradient2().start().sample(0.0, 20, False, 0.0, half) is None
    assert AIMD(initial=200).start().sample(0.1, 200, False, 0.0, half) is None
    limit = Gradient2(initial=20).start()
    assert {limit.sample(0.1, 20, False, 0.0, half) for _ in range(20)} == {None, "headroom"}
    assert {limit.sample(10.0, 30, False, 0.0, half) for _ in range(20)} >= {"latency"}
    assert Vegas(initial=10).start().sample(0.1, 1, False, 0.0, half) is None


def test_the_lowest_class_is_shed_first() -> None:
    slots = Slots(Steady(initial=20))
    refused: dict[int, int] = {}
    for _ in range(21):
        for level in Priority:
            if level not in refused and slots.admit(level, None) is not None:
                refused[level] = slots.in_flight
            elif level not in refused:
                slots.release(None)
        if slots.in_flight < 20:
            assert slots.admit(Priority.CRITICAL, None) is None
    assert refused == {4: 10, 3: 15, 2: 18, 1: 19, 0: 20}


def test_nobody_takes_more_than_an_equal_share_of_a_scarce_limit() -> None:
    slots = Slots(Steady(initial=20))
    for _ in range(12):
        assert slots.admit(None, "greedy") is None
    assert slots.admit(None, "modest") is None
    assert slots.admit(None, "greedy") == "unfair"
    for _ in range(7):
        assert slots.admit(None, "modest") is None
    assert slots.admit(None, "third") == "limit"
    slots.release("greedy")
    assert slots.admit(None, "third") is None
    assert slots.users == 3


class SlotsAgainstAPlainModel(RuleBasedStateMachine):
    """Slots in use, users, and the epoch that makes old samples mute."""

    def __init__(self) -> None:
        super().__init__()
        self.slots = Slots(AIMD(initial=5, minimum=1, maximum=10))
        self.out: list[tuple[str | None, int]] = []

    @rule(user=st.sampled_from([None, "a", "b"]))
    def admit(self, user: str | None) -> None:
        held = sum(owner == user for owner, _ in self.out)
        answer = self.slots.admit(None, user)
        if len(self.out) >= self.slots.limit:
            assert answer == "limit"
        elif answer is None:
            self.out.append((user, self.slots.epoch))
        else:
            assert answer == "unfair"
            assert held >= 1

    @rule(data=st.data(), dropped=st.booleans())
    def end(self, data: st.DataObject, dropped: bool) -> None:
        if not self.out:
            return
        user, epoch = self.out.pop(data.draw(st.integers(0, len(self.out) - 1)))
        before, limit = self.slots.epoch, self.slots.limit
        self.slots.release(user)
        change = self.slots.learn(0.1, len(self.out) + 1, dropped, epoch, 0.0, half)
        if epoch != before:
            assert change is None
        assert (change is not None) == (self.slots.epoch > before) == (self.slots.limit != limit)

    @invariant()
    def agree(self) -> None:
        assert self.slots.in_flight == len(self.out)
        assert self.slots.users == len({user for user, _ in self.out} - {None})


SlotsAgainstAPlainModel.TestCase.settings = settings(max_examples=size(60, 30), stateful_step_count=60, deadline=None)
TestSlotsAgainstAPlainModel = SlotsAgainstAPlainModel.TestCase


def test_the_gate_learns_and_tells_why(world: World) -> None:
    async def story() -> None:
        clock = VirtualClock()
        policy = AdaptiveConcurrency("a", law=AIMD(initial=1, minimum=1, maximum=2), clock=clock)

        async def work() -> str:
            clock.advance(0.1)
            return "ok"

        guarded = world.guard(policy, work)
        with record_events(policy) as events:
            assert await guarded() == "ok"
            assert policy.limit == 2
            with pytest.raises(ConnectionError):
                await world.guard(policy, failing(clock))()
        assert [(event.previous, event.limit, event.reason) for event in events.of(LimitChanged)] == [
            (1, 2, "headroom"),
            (2, 1, "overload"),
        ]
        assert policy.snapshot()["last_change"] == "overload"

    world.run(story)


def failing(clock: VirtualClock) -> Any:
    async def fail() -> None:
        clock.advance(0.1)
        raise DOWN

    return fail


def test_the_gate_rejects_beyond_the_limit_by_class_and_by_user(world: World) -> None:
    async def story() -> None:
        policy = AdaptiveConcurrency(
            "a", law=AIMD(initial=2, minimum=2, maximum=2), priority=current_priority, user=lambda user: user
        )
        guarded = world.guard(policy, Script("ok").fn)
        first = policy.enter(("ann",), {})
        with record_events(policy) as events:
            with prioritised(Priority.BACKGROUND), pytest.raises(BulkheadFullError) as caught:
                await guarded("bob")
            assert caught.value.reason == "shed"
            second = policy.enter(("bob",), {})
            with prioritised(Priority.CRITICAL), pytest.raises(BulkheadFullError) as caught:
                await guarded("bob")
            assert caught.value.reason == "concurrency_limited"
        assert len(events.of(Rejection)) == 2
        assert policy.snapshot()["users"] == 2
        for permit in (first, second):
            policy.settle(permit, Judgement(Verdict.IGNORED))
        assert policy.at_rest()
        assert await guarded("ann") == "ok"
        assert policy.snapshot()["rejected"] == 2

    world.run(story)


def test_what_the_gate_judges() -> None:
    policy = AdaptiveConcurrency("a", law=AIMD(initial=50), classify=lambda error: Verdict.PERMANENT)
    with pytest.raises(ConnectionError), policy.guard():
        raise DOWN
    assert policy.limit == 50, "an answer, if a negative one"
    alone = AdaptiveConcurrency("a", law=AIMD(initial=50))
    clocked = AdaptiveConcurrency("a", law=AIMD(initial=50), clock=VirtualClock())
    with pytest.raises(ConnectionError), alone.guard():
        raise DOWN
    assert alone.limit == 45
    with pytest.raises(ConnectionError), clocked.guard():
        raise DOWN
    assert clocked.limit == 50, "a call that took no time is no sample"
    assert alone.describe()["text"] == "adaptive concurrency 'a': AIMD, rejects beyond its limit"
    prioritised(Priority.LOW).__exit__(None, None, None)
    assert current_priority() is Priority.NORMAL, "left without having been entered, it does nothing"
    with pytest.raises(ConfigurationError, match="Priority"):
        prioritised(3)  # type: ignore[arg-type]


def test_the_throttle_formula() -> None:
    assert rejection(0, 0, 2) == 0
    assert rejection(100, 0, 2) == pytest.approx(100 / 101)
    assert rejection(100, 0, 2, 0.8) == 0.8


def test_refusals_are_made_locally_within_two_windows_and_end_within_two() -> None:
    chance, throttle, maximum = random.Random(3), Throttle(120), AdaptiveThrottle("t").maximum

    def minute(start: float, accepts: bool) -> float:
        refused = 0
        for index in range(1200):
            now = start + index * 0.05
            local = chance.random() < throttle.rejection(now, 2.0, maximum)
            throttle.request(now)
            refused += local
            if accepts and not local:
                throttle.accept(now)
        return refused / 1200

    shares = [minute(number * 60.0, accepts=False) for number in range(4)]
    assert shares[-1] >= 0.9
    shares = [minute((4 + number) * 60.0, accepts=True) for number in range(5)]
    assert shares[-1] < 0.01


def test_the_throttle_s_gate(world: World) -> None:
    async def story() -> None:
        policy = AdaptiveThrottle("t", chance=Chance(half), clock=VirtualClock())
        bad, good = world.guard(policy, Script(DOWN).fn), world.guard(policy, Script("ok").fn)
        for _ in range(10):
            with pytest.raises(ConnectionError):
                await bad()
        with record_events(policy) as events, pytest.raises(RateLimitedError) as caught:
            await good()
        assert caught.value.reason == "throttled"
        assert len(events.of(Rejection)) == 1
        assert policy.snapshot() == {
            "rejection": 0.91,
            "requests": 11,
            "accepts": 0,
            "rejected": 1,
            "would_reject": 0,
        }
        assert "less than 1 of 2" in policy.describe()["text"]

    world.run(story)


def test_less_important_calls_are_throttled_sooner() -> None:
    clock = VirtualClock()
    policy = AdaptiveThrottle(
        "t",
        priority=current_priority,
        chance=Chance(lambda: 0.3),
        clock=clock,
        classify=lambda error: Verdict.THROTTLED,
    )
    for number in range(40):
        with prioritised(Priority.CRITICAL):
            try:
                with policy.guard():
                    if number % 2:
                        raise DOWN
            except ConnectionError:
                pass
    passed = []
    for priority in Priority:
        with prioritised(priority):
            try:
                policy.enter((), {})
                passed.append(priority)
            except RateLimitedError:
                pass
    assert passed == [Priority.CRITICAL, Priority.HIGH, Priority.NORMAL, Priority.LOW]

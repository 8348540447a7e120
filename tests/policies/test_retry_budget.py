"""Budgets of retries, nested retries, and retries that adapt to throttling."""

from __future__ import annotations

import random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from resilience_core import (
    AdaptiveRetry,
    InFlightRatio,
    Judgement,
    Pipeline,
    RateLimitedError,
    Rejection,
    Retry,
    RetryBudget,
    RetryScheduled,
    RetrySuppressed,
    Timeout,
    TimeoutExceeded,
    TokenQuota,
    TokenThrottle,
    TrafficRatio,
    Verdict,
    deadline,
    registry,
)
from resilience_core._machines.budget import InFlightAccount, RatioAccount
from resilience_core.testing import VirtualClock, record_events
from tests._cost import size
from tests.worlds import Script, World

DOWN = ConnectionError("down")


def retry(budget: RetryBudget | None, **options: Any) -> Retry:
    return Retry(on=ConnectionError, base_delay=0, max_delay=0, budget=budget, **options)


def test_a_used_up_budget_raises_the_original_error(world: World) -> None:
    async def story() -> None:
        budget = RetryBudget("b", law=TokenQuota(5), clock=VirtualClock())
        policy, script = retry(budget), Script(DOWN)
        guarded = world.guard(policy, script.fn)
        with record_events(policy) as events, pytest.raises(ConnectionError) as caught:
            await guarded()
        assert caught.value is DOWN
        assert script.calls == 2
        assert [event.reason for event in events.of(RetrySuppressed)] == ["budget"]
        assert budget.snapshot() == {"balance": 0, "granted": 1, "refused": 1}
        assert "within the budget 'b'" in policy.describe()["text"]

    world.run(story)


def test_a_success_after_retries_gives_back_the_last_cost(world: World) -> None:
    async def story() -> None:
        budget = RetryBudget("b", law=TokenQuota(20))
        assert await world.guard(retry(budget), Script(DOWN, DOWN, "ok").fn)() == "ok"
        assert budget.snapshot()["balance"] == 15
        assert await world.guard(retry(budget), Script("ok").fn)() == "ok"
        assert budget.snapshot()["balance"] == 16

    world.run(story)


def test_a_retry_after_a_time_out_costs_more() -> None:
    budget = RetryBudget("b", law=TokenQuota(20))
    policy = Retry(on=TimeoutExceeded, base_delay=0, max_delay=0, budget=budget, max_attempts=2)

    def late() -> None:
        raise TimeoutExceeded("t", 1)

    with pytest.raises(TimeoutExceeded):
        policy.call(late)
    assert budget.snapshot()["balance"] == 10


def test_grpc_s_throttle_stops_retries_at_half(world: World) -> None:
    async def story() -> None:
        budget = RetryBudget("b", law=TokenThrottle(4, token_ratio=0.5))
        script = Script(DOWN)
        guarded = world.guard(retry(budget), script.fn)
        for _ in range(2):
            with pytest.raises(ConnectionError):
                await guarded()
        assert script.calls == 2 + 1
        assert budget.snapshot()["balance"] == 0
        good = world.guard(retry(budget), Script("ok").fn)
        for _ in range(4):
            await good()
        assert budget.snapshot()["balance"] == 1

    world.run(story)


def test_retries_in_flight_are_counted_through_their_wait_and_given_back(world: World) -> None:
    async def story() -> None:
        account = InFlightRatio(0.0, minimum=1).start()
        budget = RetryBudget("b", law=InFlightRatio(0.0, minimum=1))
        seen = []
        policy = Retry(on=ConnectionError, base_delay=1, budget=budget)
        policy.subscribe(lambda event: seen.append(budget.snapshot()["balance"]))
        assert await world.guard(policy, Script(DOWN, "ok").fn)() == "ok"
        assert seen == [0], "charged before the wait"
        assert budget.snapshot()["balance"] == account.balance(0.0) == 1

    world.run(story)


@pytest.mark.parametrize("layers", [1, 3])
def test_at_full_failure_requests_stay_within_a_tenth_more_and_the_floor(world: World, layers: int) -> None:
    async def story() -> None:
        clock = VirtualClock()
        budget = RetryBudget("b", law=TrafficRatio(0.1, minimum_per_second=1), clock=clock)
        script, guarded = Script(DOWN), None
        guarded = script.fn
        for _ in range(layers):
            guarded = world.guard(retry(budget), guarded)
        for _ in range(2000):
            with pytest.raises(ConnectionError):
                await guarded()
            clock.advance(0.01)
        floor = 1 * (20 + 10)  # a second's worth for each second that passed, and the window's own
        assert 2000 < script.calls <= 1.10 * 2000 + floor

    world.run(story)


@pytest.mark.filterwarnings("ignore:nested-retries")  # this is what the warning is about
def test_without_a_budget_three_layers_multiply_and_it_can_be_seen(world: World) -> None:
    async def story() -> None:
        script = Script(DOWN)
        inner, outer = retry(None), retry(None)
        with record_events() as events, pytest.raises(ConnectionError):
            await world.guard(outer, world.guard(inner, script.fn))()
        assert script.calls == 9
        assert [event.attempts_made for event in events.of(RetryScheduled)] == [1, 2, 1, 2, 4, 2, 3, 6]
        assert (inner.snapshot(), outer.snapshot()) == ({"retried": 6, "gave_up": 3}, {"retried": 2, "gave_up": 1})

    world.run(story)


def test_only_the_outermost_retries(world: World) -> None:
    async def story() -> None:
        script = Script(DOWN)
        inner, outer = retry(None, only_outermost=True), retry(None)
        guarded = world.guard(inner, script.fn)
        with record_events(inner) as events, pytest.raises(ConnectionError):
            await world.guard(outer, guarded)()
        assert script.calls == 3
        assert {event.reason for event in events.of(RetrySuppressed)} == {"nested"}
        with pytest.raises(ConnectionError):
            await guarded()
        assert script.calls == 6, "alone, it retries"

    world.run(story)


def test_nested_attempts_are_multiplied_in_events(world: World) -> None:
    async def story() -> None:
        budget = RetryBudget("b")
        inner, outer = retry(budget), retry(budget)
        with record_events(inner) as events, pytest.raises(ConnectionError):
            await world.guard(outer, world.guard(inner, Script(DOWN).fn))()
        assert [event.attempts_made for event in events.of(RetryScheduled)] == [1, 2, 2, 4, 3, 6]

    world.run(story)


def test_loops_are_counted_too() -> None:
    budget = RetryBudget("b", law=InFlightRatio(1.0, minimum=5))
    account = budget._account
    assert isinstance(account, InFlightAccount)
    for outcomes in ([DOWN, None], [DOWN, DOWN, DOWN], [None]):
        script = iter(outcomes)
        try:
            for attempt in retry(budget):
                with attempt:
                    outcome = next(script)
                    if outcome is not None:
                        raise outcome
        except ConnectionError:
            pass
        assert (account.calls, account.retries) == (0, 0)
    with pytest.raises(KeyboardInterrupt):
        for attempt in retry(budget):
            with attempt:
                raise KeyboardInterrupt
    assert (account.calls, account.retries) == (0, 0)


def test_a_budget_is_found_and_described() -> None:
    budget = RetryBudget("shared-by-all")
    assert registry.get("shared-by-all") is budget
    assert budget.describe()["text"] == "retry budget 'shared-by-all': 10% of the calls of the last 10 s, and 1/s"
    assert [str(law) for law in (InFlightRatio(), TokenQuota(), TokenThrottle())] == [
        "20% of the calls under way, or 3",
        "500 tokens, 5 a retry",
        "10 tokens, one a failure, 0.1 back a success",
    ]


class AgainstAPlainModel(RuleBasedStateMachine):
    """The ratio budget and a list of everything that happened must agree."""

    def __init__(self) -> None:
        super().__init__()
        self.account = RatioAccount(TrafficRatio(0.5, minimum_per_second=0.2, ttl=10))
        self.now = 0
        self.booked: list[tuple[int, float]] = []

    def balance(self) -> float:
        return max(0.0, sum(amount for at, amount in self.booked if at > self.now - 10) + 2)

    @rule(seconds=st.integers(0, 12))
    def pass_time(self, seconds: int) -> None:
        self.now += seconds

    @rule()
    def call(self) -> None:
        self.account.began(float(self.now))
        self.booked.append((self.now, 0.5))

    @rule()
    def take(self) -> None:
        self.account.failed()
        expected = self.balance() >= 1
        assert (self.account.take(float(self.now), False) is not None) == expected
        if expected:
            self.booked.append((self.now, -1.0))
        self.account.ended(True, 1.0, 1, True)

    @invariant()
    def agree(self) -> None:
        assert self.account.balance(float(self.now)) == pytest.approx(self.balance())


AgainstAPlainModel.TestCase.settings = settings(max_examples=size(60, 30), stateful_step_count=60, deadline=None)
TestAgainstAPlainModel = AgainstAPlainModel.TestCase


@given(st.lists(st.sampled_from(["take", "costly", "good", "bad", "retried"]), max_size=80))
def test_a_quota_never_leaves_its_bounds(steps: list[str]) -> None:
    account = TokenQuota(30, retry_cost=5, timeout_cost=10).start()
    for step in steps:
        if step in ("take", "costly"):
            before = account.available
            paid = account.take(0.0, step == "costly")
            assert (paid is None) == (before < (10 if step == "costly" else 5))
        else:
            account.ended(step != "bad", 5.0, 1 if step == "retried" else 0, counted=True)
        assert 0 <= account.available <= 30


# --- adaptive --------------------------------------------------------------------------------------------------------


class Throttled(Exception):
    pass


def judge(error: Exception) -> Verdict | Judgement:
    return Verdict.THROTTLED if isinstance(error, Throttled) else Verdict.TRANSIENT


def test_after_a_throttle_every_attempt_keeps_to_a_rate_that_recovers(world: World) -> None:
    async def story() -> None:
        clock = VirtualClock()
        policy = AdaptiveRetry(classify=judge, max_attempts=1, clock=clock)
        good = world.guard(policy, Script("ok").fn)
        for _ in range(100):
            await good()
            clock.advance(0.1)
        assert policy.snapshot()["rate"] is None
        assert not clock.slept
        with pytest.raises(Throttled):
            await world.guard(policy, Script(Throttled()).fn)()
        slowed = policy.snapshot()["rate"]
        assert 5 < slowed < 8, "0.7 of the measured 10 a second"
        for _ in range(200):
            await good()
        assert clock.slept, "they waited for their turn"
        assert policy.snapshot()["rate"] > slowed
        assert policy.snapshot()["failing"] < 0.01

    world.run(story)


def test_its_waits_grow_with_the_share_of_failures_up_to_the_maximum() -> None:
    policy = AdaptiveRetry(on=ConnectionError, stretch=3.0, max_delay=10.0, jitter="none", max_attempts=1)
    assert policy.stretched(1.0, 10.0) == 1.0
    for _ in range(100):
        with pytest.raises(ConnectionError):
            policy.call(Failing())
    assert policy.stretched(1.0, 10.0) == pytest.approx(3.0, abs=0.01)
    assert policy.stretched(9.0, 10.0) == 10.0
    assert policy.describe()["text"].startswith("adaptive retry: 1 attempts")
    with pytest.raises(ValueError):
        policy.call(int, "x")
    assert policy.stretched(1.0, 10.0) == pytest.approx(3.0, abs=0.01), "what on= does not name says nothing"


class Failing:
    def __call__(self) -> None:
        raise DOWN


def test_a_turn_after_the_deadline_is_refused_and_given_back(world: World) -> None:
    async def story() -> None:
        clock = VirtualClock()
        policy = AdaptiveRetry(classify=judge, max_attempts=1, clock=clock)
        with pytest.raises(Throttled):
            await world.guard(policy, Script(Throttled()).fn)()
        guarded = world.guard(policy, Script("ok").fn)
        with record_events(policy) as events, deadline(0.5, clock=clock), pytest.raises(RateLimitedError):
            await guarded()
        assert len(events.of(Rejection)) == 1
        with deadline(0.5, clock=clock), pytest.raises(RateLimitedError):
            await guarded()
        assert await guarded() == "ok"
        assert clock.slept == [pytest.approx(2.0)], "0.5 a second: the refused turn was given back"

    world.run(story)


def test_a_cancelled_wait_gives_its_turn_back() -> None:
    class Stop(BaseException):
        pass

    clock = VirtualClock()
    policy = AdaptiveRetry(classify=judge, max_attempts=1, clock=clock)

    def throttled() -> None:
        raise Throttled

    with pytest.raises(Throttled):
        policy.call(throttled)

    def stop(seconds: float) -> None:
        raise Stop

    before, clock.sleep = clock.sleep, stop
    with pytest.raises(Stop):
        policy.call(len, "abc")
    clock.sleep = before
    assert policy.call(len, "abc") == 3
    assert clock.slept == [pytest.approx(2.0)]


async def _stop(seconds: float) -> None:
    raise KeyboardInterrupt


def test_the_same_for_async_code(world: World) -> None:
    if world.name == "blocking":
        return

    async def story() -> None:
        clock = VirtualClock()
        policy = AdaptiveRetry(classify=judge, max_attempts=1, clock=clock)
        with pytest.raises(Throttled):
            await world.guard(policy, Script(Throttled()).fn)()
        guarded = world.guard(policy, Script("ok").fn)
        before, clock.async_sleep = clock.async_sleep, _stop
        with pytest.raises(KeyboardInterrupt):
            await guarded()
        clock.async_sleep = before
        assert await guarded() == "ok"
        assert clock.slept == [pytest.approx(2.0)]

    world.run(story)


@pytest.mark.filterwarnings("ignore::resilience_core.CompositionWarning")  # the deadline must hold all the same
def test_total_time_stays_within_the_outer_deadline_under_nested_retries_and_timeouts(world: World) -> None:
    async def story() -> None:
        from resilience_core._clock import SYSTEM

        chance = random.Random(5)
        for _ in range(50):
            limit = chance.uniform(1, 20)
            stack = Pipeline(
                Timeout(limit),
                Retry(on=ConnectionError, max_attempts=5),
                Timeout(limit * chance.uniform(0.3, 1)),
                Retry(on=ConnectionError, max_attempts=4, base_delay=0.5),
            )
            started = SYSTEM.now()
            with pytest.raises((ConnectionError, TimeoutError)):
                await world.guard(stack, Script(DOWN).fn)()
            assert SYSTEM.now() - started <= limit + 0.05

    world.run(story)

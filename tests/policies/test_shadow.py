"""Shadow mode: gates that judge, count and tell, and let calls pass."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from attrs import define

from resilience_core import (
    AIMD,
    AdaptiveConcurrency,
    AdaptiveThrottle,
    Bulkhead,
    CallRejected,
    Chance,
    CircuitBreaker,
    CircuitOpenError,
    Gate,
    Judgement,
    RateLimiter,
    Rejection,
    RejectionReason,
    deadline,
)
from resilience_core._clock import CHANCE
from resilience_core.testing import VirtualClock, record_events
from tests.worlds import Script, World


@define(eq=False, slots=False)
class Never(Gate):
    """Somebody's gate that admits nobody."""

    kind = "never"
    name: str = "n"
    settled = 0

    def enter(self, args: Any, kwargs: Any) -> None:
        raise CallRejected(self.name, RejectionReason.DEADLINE, 5.0)

    def settle(self, permit: None, judgement: Judgement) -> None:
        self.settled += 1


def opened(enforce: float) -> CircuitBreaker:
    breaker = CircuitBreaker("b", failure_threshold=1, enforce=enforce)
    with pytest.raises(ConnectionError), breaker.guard():
        raise ConnectionError
    return breaker


def full(enforce: float) -> Bulkhead:
    bulkhead = Bulkhead("b", max_concurrent=1, max_queue=1, max_wait=60, enforce=enforce)
    bulkhead.enter((), {})
    return bulkhead


def spent(enforce: float) -> RateLimiter:
    limiter = RateLimiter("l", rate=0.001, burst=1, enforce=enforce, clock=VirtualClock())
    limiter.enter((), {})
    return limiter


def busy(enforce: float) -> AdaptiveConcurrency:
    policy = AdaptiveConcurrency("a", law=AIMD(initial=1, minimum=1), enforce=enforce)
    policy.enter((), {})
    return policy


def throttled(enforce: float) -> AdaptiveThrottle:
    policy = AdaptiveThrottle("t", k=1, enforce=enforce, chance=Chance(lambda: 0.0), minimum_requests=1000)
    for _ in range(1000):
        policy.enter((), {})
    return policy


GATES = pytest.mark.parametrize(
    "make",
    [opened, full, spent, busy, throttled, lambda enforce: Never(enforce=enforce)],
    ids=lambda make: make.__name__,
)


@GATES
def test_it_passes_calls_counts_and_tells_them(world: World, make: Callable[[float], Any]) -> None:
    async def story() -> None:
        policy = make(0.0)
        guarded = world.guard(policy, Script("ok").fn)
        before = policy.snapshot()
        with record_events(policy) as events:
            for _ in range(3):
                assert await guarded() == "ok"
        assert policy.spared == 3
        told = events.of(Rejection)
        assert [event.enforced for event in told] == [False] * 3
        after = policy.snapshot()
        for key in ("in_flight", "rejected", "waiting", "state"):
            assert after.get(key) == before.get(key), f"{key}: a spared call leaves nothing behind"

    world.run(story)


@GATES
def test_a_share_of_the_rejections_is_enforced(world: World, make: Callable[[float], Any], monkeypatch: Any) -> None:
    monkeypatch.setattr(CHANCE, "random", random.Random(1).random)

    async def story() -> None:
        policy = make(0.5)
        if isinstance(policy, Bulkhead):
            return  # an enforced call waits there, which the blocking world cannot do in virtual time
        guarded = world.guard(policy, Script("ok").fn)
        rejected = 0
        for _ in range(200):
            try:
                await guarded()
            except CallRejected:
                rejected += 1
        assert 60 <= rejected <= 140
        assert policy.spared == 200 - rejected

    world.run(story)


@GATES
def test_blocks_and_streams(make: Callable[[float], Any]) -> None:
    policy = make(0.0)
    with policy.guard():
        pass

    @policy
    def items() -> Iterator[int]:
        yield 1
        yield 2

    assert list(items()) == [1, 2]
    assert policy.spared == 2
    enforced = make(1.0)
    if not isinstance(enforced, Bulkhead):
        with pytest.raises(CallRejected), enforced.guard():
            pass


def test_async_blocks_too(world: World) -> None:
    if world.name == "blocking":
        return

    async def story() -> None:
        for policy in (Never(enforce=0.0), opened(0.0)):
            async with policy.guard():
                pass
            assert policy.spared == 1
        never = Never(enforce=0.5)
        outcomes = []
        for _ in range(50):
            try:
                async with never.guard():
                    outcomes.append(True)
            except CallRejected:
                outcomes.append(False)
        assert set(outcomes) == {True, False}
        assert never.settled == 0, "it had no permit"

    world.run(story)


def test_a_wait_is_spared_too(world: World) -> None:
    async def story() -> None:
        clock = VirtualClock()
        limiter = RateLimiter("l", rate=1, burst=1, max_wait=60, enforce=0.0, clock=clock)
        guarded = world.guard(limiter, Script("ok").fn)
        for _ in range(5):
            await guarded()
        assert not clock.slept
        assert limiter.spared == 4

    world.run(story)


def test_a_circuit_in_shadow_mode_lives_its_life(world: World) -> None:
    async def story() -> None:
        clock = VirtualClock()
        breaker = CircuitBreaker("b", failure_threshold=1, enforce=0.0, clock=clock)
        with pytest.raises(ConnectionError):
            await world.guard(breaker, Script(ConnectionError()).fn)()
        guarded = world.guard(breaker, Script("ok").fn)
        await guarded()
        assert breaker.state == "open"
        clock.advance(60)
        await guarded()
        await guarded()
        assert breaker.state == "closed"

    world.run(story)


def test_a_circuit_opened_by_hand_rejects_all_the_same(world: World) -> None:
    async def story() -> None:
        breaker = CircuitBreaker("b", enforce=0.0)
        breaker.force_open(reason="maintenance", actor="ann")
        with pytest.raises(CircuitOpenError):
            await world.guard(breaker, Script("ok").fn)()

    world.run(story)


def test_a_wait_beyond_the_deadline_is_refused_or_spared() -> None:
    clock = VirtualClock()
    outcomes = []
    with deadline(1, clock=clock):
        limiter = RateLimiter("l", rate=0.1, burst=1, max_wait=60, enforce=0.5, clock=clock)
        limiter.enter((), {})
        for _ in range(50):
            try:
                limiter.enter((), {})
                outcomes.append(True)
            except CallRejected:
                outcomes.append(False)
    assert set(outcomes) == {True, False}
    assert not clock.slept

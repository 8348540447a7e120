"""Rate limiters, in all worlds."""

from __future__ import annotations

import asyncio
import dis
from typing import Any

import pytest

from resilience_core import (
    ConfigurationError,
    Judgement,
    Pipeline,
    RateLimitedError,
    RateLimiter,
    Rejection,
    Timeout,
    Verdict,
)
from resilience_core.testing import VirtualClock, record_events, run_virtual, run_virtual_trio
from tests.worlds import Script, World


def limiter(**options: Any) -> tuple[RateLimiter, VirtualClock]:
    clock = VirtualClock()
    return RateLimiter("l", clock=clock, **{"rate": 2, "burst": 2, **options}), clock


async def count(guarded: Any, calls: int, *args: Any) -> int:
    admitted = 0
    for _ in range(calls):
        try:
            await guarded(*args)
            admitted += 1
        except RateLimitedError:
            pass
    return admitted


def test_a_burst_and_then_the_rate(world: World) -> None:
    async def story() -> None:
        policy, clock = limiter()
        guarded = world.guard(policy, Script("ok").fn)
        assert await count(guarded, 5) == 2
        with record_events(policy) as events, pytest.raises(RateLimitedError) as caught:
            await guarded()
        assert caught.value.retry_after == pytest.approx(0.5)
        assert len(events.of(Rejection)) == 1
        clock.advance(0.5)
        assert await count(guarded, 5) == 1
        assert policy.snapshot() == {"rate": 2, "available": 0, "keys": 0, "rejected": 8, "would_reject": 0}

    world.run(story)


def test_it_waits_for_its_turn(world: World) -> None:
    async def story() -> None:
        policy, clock = limiter(burst=1, max_wait=1.0)
        guarded = world.guard(policy, Script("ok").fn)
        assert await count(guarded, 3) == 3
        assert clock.slept == pytest.approx([0.5, 0.5])

    world.run(story)


def test_a_wait_beyond_the_deadline_is_not_begun(world: World) -> None:
    async def story() -> None:
        policy = RateLimiter("l", rate=0.1, max_wait=100)
        guarded = world.guard(Pipeline(Timeout(5), policy), Script("ok").fn)
        assert await count(guarded, 3) == 1
        alone = world.guard(policy, Script("ok").fn)
        await alone()
        assert policy.snapshot()["rejected"] == 2

    world.run(story)


def test_each_key_has_its_own_limit_and_the_oldest_is_forgotten(world: World) -> None:
    async def story() -> None:
        policy, _ = limiter(key=lambda user, **_: user, max_keys=2)
        guarded = world.guard(policy, Script("ok").fn)
        assert await count(guarded, 5, "ann") == 2
        assert await count(guarded, 5, "bob") == 2
        assert await count(guarded, 1, "ann") == 0
        assert policy.snapshot()["keys"] == 2
        await guarded("cem")
        assert policy.snapshot()["keys"] == 2
        assert await count(guarded, 1, "ann") == 0, "used more recently than bob"
        assert policy.snapshot()["available"] is None
        assert await world.call(policy, Script("ok").fn, "dan") == "ok"

    world.run(story)


def test_a_throttled_answer_closes_it(world: World) -> None:
    async def story() -> None:
        policy, clock = limiter(classify=lambda error: Judgement(Verdict.THROTTLED, retry_after=30.0))
        guarded = world.guard(policy, Script(ValueError(), "ok").fn)
        with pytest.raises(ValueError):
            await guarded()
        assert await count(guarded, 1) == 0
        clock.advance(30)
        assert await count(guarded, 3) == 2

    world.run(story)


@pytest.mark.parametrize("run", [run_virtual, run_virtual_trio])
def test_blocks_wait_and_settle(run: Any) -> None:
    policy, clock = limiter(burst=1, max_wait=1.0)
    for _ in range(2):
        with policy.guard():
            pass
    with pytest.raises(ValueError), policy.guard():
        raise ValueError
    assert clock.slept == pytest.approx([0.5, 0.5])

    async def story() -> None:
        waiting = RateLimiter("l", rate=2, burst=1, max_wait=1.0, key=lambda *args: args)
        for _ in range(2):
            async with waiting.guard():
                pass
        with pytest.raises(ConfigurationError, match="loop"), waiting.guard():
            pass

    run(story)


def test_a_cancelled_wait_is_refunded() -> None:
    async def story() -> None:
        policy = RateLimiter("l", rate=1, burst=1, max_wait=10)
        await policy.acall(asyncio.sleep, 0)
        waiting = asyncio.create_task(policy.acall(asyncio.sleep, 0))
        await asyncio.sleep(0.1)
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
        started = asyncio.get_running_loop().time()
        await policy.acall(asyncio.sleep, 0)
        assert asyncio.get_running_loop().time() - started == pytest.approx(0.9)

    run_virtual(story)


def test_it_tells_the_wait_without_taking_a_permit() -> None:
    policy, clock = limiter(burst=1)
    assert [policy.wait_for(), policy.wait_for()] == [0.0, 0.0]
    policy.call(lambda: None)
    assert policy.wait_for() == pytest.approx(0.5)
    clock.advance(0.5)
    assert policy.wait_for() == 0.0


def test_the_wait_of_a_key_that_nobody_asked_for_is_none_and_is_not_remembered() -> None:
    policy, _ = limiter(burst=1, key=lambda user: user)
    assert policy.wait_for("ann") == 0.0
    assert policy.snapshot()["keys"] == 0
    policy.call(lambda user: None, "ann")
    assert policy.wait_for(user="ann") == pytest.approx(0.5)
    assert policy.wait_for("bob") == 0.0


@pytest.mark.parametrize("key", [None, lambda user: user])
def test_calls_that_nobody_can_hold_back_count(key: Any) -> None:
    policy, clock = limiter(burst=2, key=key)
    args = () if key is None else ("ann",)
    for _ in range(5):
        policy.spend(*args)
    assert policy.wait_for(*args) == pytest.approx(2.0)
    clock.advance(1.9)
    with pytest.raises(RateLimitedError):
        policy.call(lambda *args: None, *args)


@pytest.mark.parametrize("key", [None, lambda user: user])
def test_it_can_be_closed_for_a_time(key: Any) -> None:
    policy, clock = limiter(key=key)
    args = () if key is None else ("ann",)
    policy.close_for(7.0, *args)
    policy.close_for(3.0, *args)  # never sooner
    assert policy.wait_for(*args) == pytest.approx(7.0)
    clock.advance(7.0)
    policy.call(lambda *args: None, *args)


def test_describe() -> None:
    policy, _ = limiter(burst=None, rate=0.5, max_wait=3, key=lambda: 1)
    assert policy.describe()["text"] == "rate limiter 'l': 0.5 calls per 1 s for each key, burst 1, waits up to 3 s"


@pytest.mark.parametrize("bind", [RateLimiter.bind, RateLimiter.bind_async])
def test_taking_from_a_bucket_at_rest_is_as_atomic_as_take(bind: Any) -> None:
    (guarded,) = (const for const in bind.__code__.co_consts if getattr(const, "co_name", "") == "guarded")
    steps = list(dis.get_instructions(guarded))
    reads = next(index for index, step in enumerate(steps) if step.argval == "tat")
    writes = next(index for index, step in enumerate(steps) if step.opname == "STORE_ATTR" and step.argval == "tat")
    between = {step.opname for step in steps[reads : writes + 1]}
    assert not {name for name in between if name.startswith(("CALL", "PRECALL", "JUMP_BACKWARD", "FOR_ITER", "RESUME"))}

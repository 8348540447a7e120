"""Cancelled at any await point, no policy leaves anything behind; and every pair of policies gets on in both orders."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable
from typing import Any

import pytest
import trio

from resilience_core import (
    AdaptiveConcurrency,
    AdaptiveRetry,
    AdaptiveThrottle,
    Bulkhead,
    Chaos,
    CircuitBreaker,
    Coalesce,
    Deadline,
    Fallback,
    Hedge,
    Keyed,
    Pipeline,
    Policy,
    RateLimiter,
    Retry,
    RetryBudget,
    StaleCache,
    Timeout,
)
from resilience_core.testing import run_virtual, run_virtual_trio
from tests.worlds import Script, World

STEPS = 40  # more than any of these calls has


BUSY = ("in_flight", "waiting", "probes", "fetching", "abandoned_threads", "in_use", "users")


def at_rest(policy: Policy) -> bool:
    state = policy.snapshot()
    return not any(
        state.get(key) for key in ("in_flight", "waiting", "probes", "fetching", "abandoned_threads", "in_use", "users")
    )


def scenarios() -> dict[str, Callable[[], list[Policy]]]:
    return {
        "breaker": lambda: [CircuitBreaker("b")],
        "retry": lambda: [Retry(on=ConnectionError, base_delay=1)],
        "timeout": lambda: [Timeout(5)],
        "fallback": lambda: [Fallback(value=1)],
        "bulkhead": lambda: [Bulkhead("b", max_concurrent=1, max_queue=5, max_wait=50)],
        "limiter": lambda: [RateLimiter("l", rate=1, burst=1, max_wait=50)],
        "cache": lambda: [StaleCache(fresh_for=0, stale_for=0, key=lambda: 1)],
        "chaos": lambda: [Chaos()],
        "coalesce": lambda: [Coalesce(key=lambda: 1)],
        "deadline": lambda: [Deadline(60)],
        "hedge": lambda: [Hedge(delay=40, idempotent=True)],
        "hedge that fires": lambda: [Hedge(delay=0.5, max_hedges=2, idempotent=True, budget=RetryBudget("h"))],
        "keyed": lambda: [Keyed(lambda key: Bulkhead("k", max_concurrent=1, max_queue=5, max_wait=50), key=lambda: 1)],
        "adaptive concurrency": lambda: [AdaptiveConcurrency("a", user=lambda: 1)],
        "adaptive throttle": lambda: [AdaptiveThrottle("t")],
        "adaptive retry": lambda: [AdaptiveRetry(on=ConnectionError, base_delay=1)],
        "budgeted retry": lambda: [Retry(on=ConnectionError, base_delay=1, budget=RetryBudget("r"))],
        "all": lambda: [
            Fallback(value=1),
            Coalesce(key=lambda: 1),
            StaleCache(fresh_for=0, stale_for=0, key=lambda: 1),
            Timeout(40),
            Retry(on=ConnectionError),
            CircuitBreaker("b"),
            Bulkhead("b", max_concurrent=1, max_queue=5, max_wait=50),
            RateLimiter("l", rate=1, burst=1, max_wait=50),
            Timeout(12),
        ],
    }


@pytest.mark.parametrize("name", list(scenarios()))
def test_asyncio_tasks_cancelled_at_each_step(name: str) -> None:
    async def story() -> None:
        finished = 0
        for step, victim in itertools.product(range(STEPS), range(3)):
            policies = scenarios()[name]()
            script = Script(ConnectionError(), ConnectionError(), "ok")

            async def work(script: Script = script) -> Any:
                for _ in range(3):
                    await asyncio.sleep(0)
                await asyncio.sleep(1)
                return await script()

            guarded = Pipeline(*policies)(work)
            tasks = [asyncio.create_task(guarded()) for _ in range(3)]
            for passed in range(step):
                # Steps of the loop first, then of virtual time: both kinds of waits are met.
                await asyncio.sleep(0 if passed < STEPS // 2 else 0.3)
            finished += tasks[victim].done()
            tasks[victim].cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            assert all(at_rest(policy) for policy in policies), f"victim {victim} at step {step}"
            assert asyncio.all_tasks() == {asyncio.current_task()}
        assert finished < STEPS * 3, "some were cancelled in the middle"

    run_virtual(story)


@pytest.mark.parametrize("name", list(scenarios()))
def test_trio_tasks_cancelled_at_each_moment(name: str) -> None:
    async def story() -> None:
        for step in range(STEPS):
            policies = scenarios()[name]()
            script = Script(ConnectionError(), "ok")

            async def work(script: Script = script) -> Any:
                await trio.sleep(1)
                return await script()

            guarded = Pipeline(*policies)(work)

            async def caller(guarded: Any = guarded) -> None:
                try:
                    await guarded()
                except ConnectionError:
                    pass

            async with trio.open_nursery() as nursery:
                for _ in range(3):
                    nursery.start_soon(caller)
                await trio.sleep(step * 0.25)
                nursery.cancel_scope.cancel()
            assert all(at_rest(policy) for policy in policies), f"at step {step}"

    run_virtual_trio(story)


PAIRED = [name for name in scenarios() if name not in ("all", "hedge that fires")]


@pytest.mark.filterwarnings("ignore::resilience_core.CompositionWarning")  # the harmful orders, too, must hold
@pytest.mark.parametrize(("outer", "inner"), list(itertools.permutations(PAIRED, 2)))
def test_every_pair_in_both_orders(world: World, outer: str, inner: str) -> None:
    async def story() -> None:
        policies = [*scenarios()[outer](), *scenarios()[inner]()]
        script = Script(ConnectionError(), "ok")
        retried, replaced = "retry" in f"{outer} {inner}", "fallback" in (outer, inner)
        hidden = replaced and retried and inner == "fallback"
        allow = {"fallback-inside-retry": "what comes of it is shown here"} if hidden else None
        guarded = world.guard(Pipeline(*policies, allow=allow), script.fn)
        try:
            result = await guarded()
        except ConnectionError as error:
            result = error
        # A fallback further in hides the failure from the retry.
        if replaced and not (retried and outer == "fallback"):
            assert (result, script.calls) == (1, 1)
        elif retried:
            assert (result, script.calls) == ("ok", 2)
        else:
            assert isinstance(result, ConnectionError)
            assert script.calls == 1
        assert all(at_rest(policy) for policy in policies)
        if world.name == "asyncio":
            assert asyncio.all_tasks() == {asyncio.current_task()}

    world.run(story)

"""One policy per key, in all worlds."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

from resilience_core import (
    Bulkhead,
    CircuitBreaker,
    CircuitOpenError,
    CircuitTransition,
    Coalesce,
    ConfigurationError,
    Fallback,
    Keyed,
    Pipeline,
    RateLimiter,
    Retry,
    Verdict,
    registry,
    subscribe,
)
from resilience_core.testing import VirtualClock, record_events, run_virtual
from tests._cost import untraced
from tests.worlds import World


def breakers(**options: Any) -> Keyed:
    return Keyed(lambda key: CircuitBreaker("host", failure_threshold=2), key=lambda host: host, **options)


async def call(host: str) -> str:
    if host == "bad":
        raise ConnectionError
    return host


def test_one_bad_key_of_ten_leaves_the_others_alone(world: World) -> None:
    async def story() -> None:
        policy = breakers(name="hosts")
        guarded = world.guard(policy, call)
        refused: dict[str, int] = {}
        for _ in range(20):
            for host in ["bad", *(f"good{number}" for number in range(9))]:
                try:
                    await guarded(host)
                except ConnectionError:
                    pass
                except CircuitOpenError:
                    refused[host] = refused.get(host, 0) + 1
        assert refused == {"bad": 18}
        assert policy.snapshot() == {"keys": 10, "evicted": 0, "in_use": 0, "not_at_rest": 1}
        assert not policy.at_rest()
        assert policy.policy_of("unknown") is None
        assert isinstance(policy.policy_of("bad"), CircuitBreaker)

    world.run(story)


def test_the_least_recently_used_key_goes_and_those_at_rest_go_first(world: World) -> None:
    async def story() -> None:
        policy = breakers(max_keys=3)
        guarded = world.guard(policy, call)
        with pytest.raises(ConnectionError):
            await guarded("bad")
        for host in ("a", "b", "a", "c"):
            await guarded(host)
        assert [policy.policy_of(host) is None for host in ("bad", "a", "b", "c")] == [False, False, True, False]
        assert policy.snapshot()["evicted"] == 1

    world.run(story)


def test_when_none_is_at_rest_the_oldest_goes() -> None:
    policy = Keyed(lambda key: CircuitBreaker("host"), key=lambda key: key, max_keys=2)

    @policy
    def fail(key: int) -> None:
        raise ConnectionError

    for key in range(3):
        with pytest.raises(ConnectionError):
            fail(key)
    assert [policy.policy_of(key) is None for key in range(3)] == [True, False, False]


def test_nothing_is_forgotten_while_a_call_is_inside() -> None:
    async def story() -> None:
        policy = Keyed(lambda key: Bulkhead("b", max_concurrent=1), key=lambda key: key, max_keys=2)

        async def wait(key: int) -> None:
            await asyncio.sleep(10)

        guarded = policy(wait)
        tasks = [asyncio.create_task(guarded(key)) for key in range(5)]
        await asyncio.sleep(1)
        assert policy.snapshot() == {"keys": 5, "evicted": 0, "in_use": 5, "not_at_rest": 5}
        tasks[0].cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await guarded(9)
        assert (policy.snapshot()["in_use"], policy.snapshot()["keys"]) == (0, 2), "back within the bound"
        assert policy.at_rest()

    run_virtual(story)


def test_idle_keys_are_forgotten(world: World) -> None:
    async def story() -> None:
        clock = VirtualClock()
        policy = breakers(idle=60, clock=clock)
        guarded = world.guard(policy, call)
        await guarded("a")
        clock.advance(30)
        await guarded("b")
        clock.advance(30)
        await guarded("c")
        assert [policy.policy_of(host) is None for host in "abc"] == [True, False, False]

    world.run(story)


def test_a_key_s_policy_is_made_once_however_many_ask_at_once() -> None:
    made, together = [], threading.Barrier(8)

    def factory(key: str) -> Coalesce:
        made.append(key)
        threading.Event().wait(0.01)
        return Coalesce()

    policy = Keyed(factory, key=lambda key: key)
    guarded = policy(lambda key: key)

    def ask() -> None:
        together.wait()
        guarded("k")

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert made == ["k"]
    assert policy.snapshot()["in_use"] == 0


def test_a_factory_that_fails_for_one_is_asked_again_for_the_next() -> None:
    asked, second = [], threading.Event()

    def factory(key: str) -> Coalesce:
        asked.append(key)
        if len(asked) == 1:
            second.wait(20)
            raise OSError
        return Coalesce()

    policy = Keyed(factory, key=lambda key: key)
    guarded, answers = policy(lambda key: key), []

    def first() -> None:
        with pytest.raises(OSError):
            guarded("k")

    threads = [threading.Thread(target=first), threading.Thread(target=lambda: answers.append(guarded("k")))]
    threads[0].start()
    while not asked:
        threading.Event().wait(0.001)
    threads[1].start()
    while policy.snapshot()["in_use"] and policy._entries["k"].pins < 2:
        threading.Event().wait(0.001)
    second.set()
    for thread in threads:
        thread.join()
    assert answers == ["k"]
    assert policy.snapshot()["in_use"] == 0


def test_many_idle_keys_go_a_bounded_number_at_a_time() -> None:
    clock = VirtualClock()
    policy = breakers(idle=10, clock=clock)
    guarded = policy(lambda host: None)
    for number in range(100):
        guarded(number)
    clock.advance(10)
    guarded("one more")
    assert policy.snapshot()["keys"] == 100 + 1 - 64
    pipelines = Keyed(lambda key: Pipeline(Coalesce(), name="p"), key=lambda key: key, max_keys=1)
    for key in range(3):
        assert pipelines(lambda key: key)(key) == key
    assert pipelines.snapshot()["keys"] == 1


def test_a_limiter_per_key_is_at_rest_when_its_permits_are_back() -> None:
    clock = VirtualClock()
    policy = Keyed(lambda key: RateLimiter("l", rate=1, burst=1, clock=clock), key=lambda key: key)
    policy(lambda key: None)(1)
    assert policy.snapshot()["not_at_rest"] == 1
    clock.advance(1)
    assert policy.at_rest()


def test_a_factory_that_fails_or_names_by_key_is_refused_and_leaves_nothing(world: World) -> None:
    async def story() -> None:
        policy = Keyed(CircuitBreaker, key=lambda host: host)
        guarded = world.guard(policy, call)
        assert await guarded("a") == "a"
        with pytest.raises(ConfigurationError, match="same name"):
            await guarded("b")
        assert policy.snapshot()["keys"] == 1
        with pytest.raises(ConfigurationError, match="must make a policy"):
            await world.guard(Keyed(lambda key: key, key=lambda host: host), call)("a")  # type: ignore[arg-type]
        with pytest.raises(ZeroDivisionError):
            await world.guard(Keyed(lambda key: 1 / 0, key=lambda host: host), call)("a")  # type: ignore[arg-type]

    world.run(story)


def test_keys_are_in_no_registry_and_events_are_told_once(world: World) -> None:
    async def story() -> None:
        policy = breakers(name="keyed-hosts")
        guarded = world.guard(policy, call)
        everywhere: list[Any] = []
        end = subscribe(everywhere.append)
        with record_events(policy) as events:
            for _ in range(2):
                with pytest.raises(ConnectionError):
                    await guarded("bad")
        end()
        assert len(events.of(CircuitTransition)) == 1
        assert len(everywhere) == 1
        assert policy in registry.find("keyed-hosts")
        assert not [found for found in registry.find("host") if found is policy.policy_of("bad")]
        assert "bad" not in str(policy.snapshot()) + str(policy.describe()) + repr(events)

    world.run(story)


def test_pipelines_per_key_in_place_and_bad_results(world: World) -> None:
    async def story() -> None:
        def factory(key: str) -> Pipeline:
            return Pipeline(
                Fallback(value="fallen"),
                Retry(base_delay=0, max_delay=0),
                name="shard",
                classify=lambda error: Verdict.TRANSIENT,
                classify_result=lambda result: Verdict.TRANSIENT if result == "odd" else Verdict.SUCCESS,
            )

        policy = Keyed(factory, key=lambda host: host)
        assert await world.call(policy, call, "good") == "good"
        assert await world.call(policy, call, "bad") == "fallen"
        judged = Keyed(
            lambda key: Pipeline(
                Retry(), classify_result=lambda result: Verdict.PERMANENT, classify=lambda error: Verdict.PERMANENT
            ),
            key=lambda host: host,
        )
        assert await world.guard(judged, call)("odd") == "odd"

    world.run(story)


def test_streams_keep_their_key_until_they_end() -> None:
    policy = Keyed(lambda key: Bulkhead("b", max_concurrent=1), key=lambda key: key)

    @policy
    def items(key: str) -> Iterator[int]:
        yield 1
        yield 2

    stream = items("k")
    assert next(stream) == 1
    assert policy.snapshot()["in_use"] == 1
    assert list(stream) == [2]
    assert policy.snapshot()["in_use"] == 0

    @policy
    async def async_items(key: str) -> AsyncIterator[int]:
        yield 1
        yield 2

    async def story() -> None:
        stream = async_items("k")
        assert await anext(stream) == 1
        assert policy.snapshot()["in_use"] == 1
        assert [item async for item in stream] == [2]

    run_virtual(story)
    assert policy.snapshot()["in_use"] == 0


def test_blocks() -> None:
    policy = Keyed(lambda key: CircuitBreaker("b", failure_threshold=1), key=lambda key: key)
    with pytest.raises(ConnectionError), policy.guard("k"):
        raise ConnectionError
    with pytest.raises(CircuitOpenError), policy.guard("k"):
        pass
    with policy.guard("other"):
        assert policy.snapshot()["in_use"] == 1
    with pytest.raises(TypeError, match="gates"), Keyed(lambda key: Retry(on=OSError), key=lambda: 1).guard("k"):
        pass
    assert policy.snapshot()["in_use"] == 0
    assert policy.describe()["text"] == "keyed 'keyed': one policy for each key, up to 10000 of them"


def test_a_million_keys_stay_within_the_bound() -> None:
    policy = Keyed(lambda key: CircuitBreaker("b"), key=lambda key: key, max_keys=100)
    guarded = policy(lambda key: None)
    with untraced():
        for key in range(20_000):
            guarded(key)
    assert policy.snapshot()["keys"] == 100

"""Fallback and stale cache, in all worlds."""

from __future__ import annotations

import asyncio
import json
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from resilience_core import (
    CircuitBreaker,
    ConfigurationError,
    DeadlineExceeded,
    Fallback,
    FallbackUsed,
    Freshness,
    Pipeline,
    StaleCache,
    StaleServed,
    Verdict,
)
from resilience_core._clock import SYSTEM
from resilience_core._weave.deadline import DEADLINE, shortened
from resilience_core.testing import VirtualClock, record_events, run_virtual, run_virtual_trio
from tests.worlds import Script, World

DOWN = ConnectionError("down")


# --- fallback -------------------------------------------------------------------------------------


def test_a_value_or_a_function_replaces_a_failure(world: World) -> None:
    def cached(number: int, *, unit: str) -> str:
        assert sys.exception() is DOWN
        return f"{number} {unit}"

    async def story() -> None:
        assert await world.guard(Fallback(value=None), Script(DOWN).fn)() is None
        by_call = Fallback(call=cached)
        with record_events(by_call) as events:
            assert await world.guard(by_call, Script(DOWN).fn)(5, unit="kg") == "5 kg"
        assert [(event.kind, event.error) for event in events.of(FallbackUsed)] == [("call", DOWN)]
        assert await world.call(by_call, Script(DOWN).fn, 5, unit="kg") == "5 kg"
        assert await world.guard(by_call, Script("well").fn)() == "well"

    world.run(story)


@pytest.mark.parametrize("on", [ConnectionError, (KeyError, OSError), lambda error: error is DOWN])
def test_only_what_on_names_is_replaced(world: World, on: Any) -> None:
    async def story() -> None:
        policy = Fallback(value="instead", on=on)
        assert await world.guard(policy, Script(DOWN).fn)() == "instead"
        with pytest.raises(ValueError):
            await world.guard(policy, Script(ValueError()).fn)()

    world.run(story)


def test_rejections_and_bad_results_are_replaced_too(world: World) -> None:
    async def story() -> None:
        breaker = CircuitBreaker("b")
        breaker.force_open()
        assert await world.guard(Pipeline(Fallback(value=1), breaker), Script(2).fn)() == 1
        bad = Pipeline(Fallback(value=1), classify_result=lambda value: Verdict.TRANSIENT)
        assert await world.guard(bad, Script(2).fn)() == 1
        picky = Pipeline(Fallback(value=1, on=lambda error: True), classify_result=lambda value: Verdict.TRANSIENT)
        assert await world.guard(picky, Script(2).fn)() == 2

    world.run(story)


@pytest.mark.parametrize("run", [run_virtual, run_virtual_trio])
def test_an_async_fallback(run: Any) -> None:
    async def cached() -> str:
        return "cached"

    async def story() -> None:
        assert await Fallback(call=cached).acall(Script(DOWN).fn) == "cached"

    run(story)


def test_streams_have_stream_fallbacks() -> None:
    def broken() -> Any:
        raise DOWN
        yield

    async def broken_async() -> Any:
        raise DOWN
        yield

    def others() -> Any:
        yield from (7, 8)

    async def others_async() -> Any:
        yield 7
        yield 8

    assert list(Fallback(value=(1, 2))(broken)()) == [1, 2]
    assert list(Fallback(call=others)(broken)()) == [7, 8]

    async def story() -> None:
        assert [item async for item in Fallback(value=(1, 2))(broken_async)()] == [1, 2]
        assert [item async for item in Fallback(call=others)(broken_async)()] == [7, 8]
        assert [item async for item in Fallback(call=others_async)(broken_async)()] == [7, 8]

    asyncio.run(story())


def test_fallback_options() -> None:
    async def cached() -> None: ...

    for options in ({}, {"value": 1, "call": len}):
        with pytest.raises(ConfigurationError, match="exactly one"):
            Fallback(**options)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="async"):
        Fallback(call=cached)(lambda: None)
    assert "fixed value" in Fallback(value=1).describe()["text"]
    assert "len" in Fallback(call=len).describe()["text"]


# --- stale cache ----------------------------------------------------------------------------------


def cache(**options: Any) -> tuple[StaleCache, VirtualClock]:
    clock = VirtualClock()
    return StaleCache(clock=clock, **{"fresh_for": 10, "stale_for": 20, **options}), clock


def test_fresh_then_asked_anew_then_stale_on_failure_then_gone(world: World) -> None:
    async def story() -> None:
        policy, clock = cache()
        script = Script("one", "two", DOWN)
        guarded = world.guard(policy, script.fn)
        assert [await guarded(1), await guarded(1)] == ["one", "one"]
        clock.advance(10)
        assert await guarded(1) == "two"
        clock.advance(29)
        with record_events(policy) as events:
            assert await guarded(1) == "two"
        assert [(event.age, event.error) for event in events.of(StaleServed)] == [(29.0, DOWN)]
        clock.advance(1)
        with pytest.raises(ConnectionError):
            await guarded(1)
        assert script.calls == 4

    world.run(story)


def test_keys_are_the_arguments_or_a_function_of_them(world: World) -> None:
    async def story() -> None:
        policy, _ = cache(max_entries=2)
        script = Script("ok")
        guarded = world.guard(policy, script.fn)
        for args in ((1,), (2,), (1,)):
            await guarded(*args, flag=True)
        assert script.calls == 2
        await guarded(3)
        assert policy.snapshot()["entries"] == 2
        entry = policy.entry(3)
        assert entry is not None
        assert (entry.value, entry.age, entry.freshness) == ("ok", 0.0, Freshness.FRESH)
        policy.invalidate(3)
        assert policy.entry(3) is None
        policy.clear()
        assert policy.snapshot()["entries"] == 0
        keyed, _ = cache(key=lambda user, *rest: user)
        script = Script("ok")
        for args in (("ann", 1), ("ann", 2)):
            await world.call(keyed, script.fn, *args)
        assert script.calls == 1

    world.run(story)


@pytest.mark.parametrize("on", [OSError, lambda error: error is DOWN])
def test_on_limits_what_a_stale_value_stands_in_for(world: World, on: Any) -> None:
    async def story() -> None:
        policy, clock = cache(on=on)
        guarded = world.guard(policy, Script("one", DOWN, ValueError()).fn)
        await guarded()
        clock.advance(11)
        assert await guarded() == "one"
        with pytest.raises(ValueError):
            await guarded()

    world.run(story)


@pytest.mark.parametrize(
    ("run", "tasks"), [(run_virtual, "asyncio"), (run_virtual_trio, "trio")], ids=["asyncio", "trio"]
)
def test_one_fetch_serves_all_who_ask_meanwhile(run: Any, tasks: str) -> None:
    import anyio

    async def story(outcome: Any) -> None:
        seen: list[Any] = []
        script = Script(outcome)

        async def fetch() -> Any:
            await anyio.sleep(1)
            return await script()

        guarded = StaleCache(fresh_for=10, stale_for=0)(fetch)

        async def ask() -> None:
            try:
                seen.append(await guarded())
            except ConnectionError as error:
                seen.append(error)

        async with anyio.create_task_group() as group:
            for _ in range(5):
                group.start_soon(ask)
        assert seen == [outcome] * 5
        assert script.calls == 1

    run(story, "value")
    run(story, DOWN)


def test_a_cancelled_fetch_harms_only_its_own_caller_and_waits_end_at_the_deadline() -> None:
    async def story() -> None:
        policy = StaleCache(fresh_for=10, stale_for=0)
        fetches = 0

        async def fetch() -> int:
            nonlocal fetches
            fetches += 1
            await asyncio.sleep(5)
            return fetches

        guarded = policy(fetch)
        leader = asyncio.create_task(guarded())
        await asyncio.sleep(0)
        follower = asyncio.create_task(guarded())

        async def impatient_call() -> Any:
            DEADLINE.set(shortened(1, SYSTEM))  # a deadline without a time-out that would cancel: waits must obey it
            return await guarded()

        impatient = asyncio.create_task(impatient_call())
        await asyncio.sleep(2)
        assert isinstance(impatient.exception(), DeadlineExceeded)
        leader.cancel()
        assert await follower == 2
        assert policy.snapshot() == {"entries": 1, "negative": 0, "fetching": 0, "stale_served": 0}

    run_virtual(story)


def test_threads_share_one_fetch_too() -> None:
    policy = StaleCache(fresh_for=100, stale_for=0)
    release, fetching, fetches = threading.Event(), threading.Event(), []

    @policy
    def fetch() -> str:
        fetches.append(1)
        fetching.set()
        release.wait()
        return "value"

    seen: list[str] = []
    threads = [threading.Thread(target=lambda: seen.append(fetch())) for _ in range(4)]
    threads[0].start()
    fetching.wait()
    for thread in threads[1:]:
        thread.start()
    flight = next(iter(policy._flights._flights.values()))
    while len(flight.waiters) < 3:
        threading.Event().wait(0.001)
    release.set()
    for thread in threads:
        thread.join()
    assert (seen, len(fetches)) == (["value"] * 4, 1)


def test_an_interrupted_fetch_of_a_thread_leaves_the_next_one_to_fetch() -> None:
    policy = StaleCache(fresh_for=100, stale_for=0)
    fetching, interrupt, seen = threading.Event(), threading.Event(), []
    outcomes = [KeyboardInterrupt(), "value"]

    @policy
    def fetch() -> Any:
        outcome = outcomes.pop(0)
        if isinstance(outcome, BaseException):
            fetching.set()
            interrupt.wait()
            raise outcome
        return outcome

    def lead() -> None:
        with pytest.raises(KeyboardInterrupt):
            fetch()

    leader, follower = threading.Thread(target=lead), threading.Thread(target=lambda: seen.append(fetch()))
    leader.start()
    fetching.wait()
    flight = next(iter(policy._flights._flights.values()))
    follower.start()
    while not flight.waiters:
        threading.Event().wait(0.001)
    interrupt.set()
    leader.join()
    follower.join()
    assert seen == ["value"]


def test_a_blocking_wait_for_a_fetch_on_a_loop_s_thread_is_refused() -> None:
    policy = StaleCache(fresh_for=100, stale_for=0, key=lambda: 1)

    async def fetch() -> str:
        await asyncio.sleep(1)
        return "value"

    async def story() -> None:
        task = asyncio.create_task(policy(fetch)())
        await asyncio.sleep(0)
        with pytest.raises(ConfigurationError, match="loop"):
            policy(lambda: "never")()
        await task

    run_virtual(story)


def test_a_file_outlives_the_process_and_a_broken_one_is_ignored(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / "cache.json"

    def fetch(number: int) -> list[int]:
        return [number]

    first, _ = cache(file=file)
    assert first(fetch)(5) == [5]
    second, _ = cache(file=str(file), decode=tuple)
    entry = second.entry(5)
    assert entry is not None
    assert (entry.value, entry.freshness) == ((5,), Freshness.FRESH)
    second.invalidate(5)
    assert json.loads(file.read_text())["entries"] == {}
    file.write_text("{ half a fi")
    broken, _ = cache(file=file)
    assert broken.snapshot()["entries"] == 0
    assert "cannot be read" in caplog.text
    unwritable, _ = cache(file=tmp_path / "missing" / "cache.json")
    assert unwritable(fetch)(7) == [7]
    assert "cannot be written" in caplog.text


def test_a_cache_refuses_streams() -> None:
    def stream() -> Any:
        yield 1

    with pytest.raises(TypeError, match="stream"):
        StaleCache(fresh_for=1, stale_for=1)(stream)
    assert "fresh for 1 s" in StaleCache(fresh_for=1, stale_for=1).describe()["text"]

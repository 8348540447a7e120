"""The testing kit keeps its promises."""

from __future__ import annotations

import asyncio
import random
import threading

import pytest
import trio

from resilience_core import CircuitBreaker, Retry, RetryScheduled
from resilience_core._clock import CHANCE, SYSTEM
from resilience_core.testing import (
    Deadlock,
    EventRecorder,
    TelemetryRecorder,
    VirtualClock,
    _loop,
    run_virtual,
    run_virtual_trio,
    seeded,
    virtual_time,
)


@Retry(on=ConnectionError, jitter="none")
def decorated_at_import(outcomes: list[bool]) -> str:
    if outcomes.pop(0):
        raise ConnectionError
    return "ok"


def test_virtual_time_reaches_what_was_decorated_at_import_and_ends() -> None:
    before = SYSTEM.now
    with virtual_time(start=5.0) as clock:
        assert decorated_at_import([True, True, False]) == "ok"
        assert clock.slept == [1.0, 2.0]
        assert (SYSTEM.now(), clock.now(), SYSTEM.wall()) == (8.0, 8.0, 1_700_000_003.0)
    assert SYSTEM.now is before


def test_time_does_not_run_backwards() -> None:
    with pytest.raises(ValueError, match="backwards"):
        VirtualClock().advance(-1)


@pytest.mark.parametrize("run", [asyncio.run, trio.run])
def test_waits_in_an_ordinary_loop_take_no_time_but_yield(run: object) -> None:
    clock = VirtualClock()

    async def story() -> None:
        await clock.async_sleep(3600)

    asyncio.run(story()) if run is asyncio.run else trio.run(story)
    assert clock.now() == 1000.0 + 3600


def test_a_loop_in_virtual_time_keeps_the_order_of_sleeps() -> None:
    order: list[int] = []

    async def sleeper(seconds: int) -> None:
        await asyncio.sleep(seconds)
        order.append(seconds)

    async def story() -> float:
        await asyncio.gather(*(sleeper(seconds) for seconds in (300, 100, 200)))
        assert SYSTEM.now() == asyncio.get_running_loop().time()
        with pytest.raises(RuntimeError, match="blocking"):
            SYSTEM.sleep(1)
        assert SYSTEM.wall() > 1_700_000_000
        return asyncio.get_running_loop().time()

    assert run_virtual(story) == 300
    assert order == [100, 200, 300]

    async def trio_story() -> float:
        await SYSTEM.async_sleep(50)
        return SYSTEM.now()

    assert run_virtual_trio(trio_story) >= 50


def test_a_loop_that_can_never_go_on_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_loop, "_PATIENCE", 0.01)

    async def story() -> None:
        await asyncio.Event().wait()

    with pytest.raises(Deadlock):
        run_virtual(story)


def test_a_thread_can_still_wake_it() -> None:
    async def story() -> str:
        loop, event = asyncio.get_running_loop(), asyncio.Event()
        threading.Timer(0.05, loop.call_soon_threadsafe, [event.set]).start()  # once the loop waits for nothing else
        await event.wait()
        return "woken"

    assert run_virtual(story) == "woken"


def test_chance_is_repeatable() -> None:
    def draw() -> list[float]:
        with seeded(7):
            return [CHANCE.random() for _ in range(3)]

    expected = random.Random(7)
    assert draw() == draw() == [expected.random() for _ in range(3)]


def test_the_plugin_s_fixtures(
    virtual_clock: VirtualClock, resilience_events: EventRecorder, resilience_seed: None
) -> None:
    assert decorated_at_import([True, False]) == "ok"
    assert virtual_clock.slept == [1.0]
    assert [event.attempt for event in resilience_events.of(RetryScheduled)] == [1]
    assert CHANCE.random() == random.Random(0).random()
    CircuitBreaker("heard").force_open()
    assert resilience_events[-1].policy == "heard"


def test_the_fixture_of_the_telemetry(resilience_telemetry: TelemetryRecorder) -> None:
    CircuitBreaker("graph").call(int)
    assert resilience_telemetry.value("resilience.call.duration", {"resilience.policy.name": "graph"}) == 1

"""Shared calls, and faults on purpose, in all worlds."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest

from resilience_core import (
    Chaos,
    ChaosInjected,
    Coalesce,
    ConfigurationError,
    DeadlineExceeded,
    deadline,
)
from resilience_core.testing import VirtualClock, record_events, run_virtual
from tests.worlds import Script, World


def test_callers_share_one_call_and_its_outcome() -> None:
    async def story() -> None:
        policy, calls = Coalesce(), 0

        async def fetch(key: str) -> str:
            nonlocal calls
            calls += 1
            await asyncio.sleep(5)
            if key == "bad":
                raise ConnectionError
            return key

        guarded = policy(fetch)
        answers = await asyncio.gather(*(guarded("a") for _ in range(5)), guarded("b"))
        assert answers == ["a"] * 5 + ["b"]
        assert calls == 2
        failures = await asyncio.gather(*(guarded("bad") for _ in range(3)), return_exceptions=True)
        assert [type(error) for error in failures] == [ConnectionError] * 3
        assert calls == 3
        assert policy.snapshot() == {"fetching": 0, "shared": 6}
        assert await guarded("a") == "a"
        assert calls == 4, "nothing is kept"

    run_virtual(story)


def test_a_cancelled_leader_harms_nobody_else_and_waits_obey_the_deadline() -> None:
    async def story() -> None:
        policy, calls = Coalesce(key=lambda: 1), 0

        async def fetch() -> int:
            nonlocal calls
            calls += 1
            await asyncio.sleep(5)
            return calls

        guarded = policy(fetch)
        leader = asyncio.create_task(guarded())
        await asyncio.sleep(1)
        follower = asyncio.create_task(guarded())
        await asyncio.sleep(1)
        with deadline(0.5), pytest.raises(DeadlineExceeded):
            await guarded()
        leader.cancel()
        assert await follower == 2
        assert policy.snapshot()["fetching"] == 0

    run_virtual(story)


def test_threads_share_too() -> None:
    policy, entered, release = Coalesce(key=lambda: 1), threading.Event(), threading.Event()
    answers = []

    def fetch() -> str:
        entered.set()
        release.wait(20)
        return "once"

    guarded = policy(fetch)
    threads = [threading.Thread(target=lambda: answers.append(guarded())) for _ in range(4)]
    threads[0].start()
    entered.wait(20)
    for thread in threads[1:]:
        thread.start()
    while len(next(iter(policy._flights._flights.values())).waiters) < 3:
        threading.Event().wait(0.001)
    release.set()
    for thread in threads:
        thread.join()
    assert answers == ["once"] * 4
    assert policy.snapshot()["shared"] == 3


def test_an_interrupted_leader_of_a_thread_leaves_the_next_one_to_lead() -> None:
    policy, entered, interrupt = Coalesce(key=lambda: 1), threading.Event(), threading.Event()
    outcomes: list[Any] = [KeyboardInterrupt(), "value"]
    seen = []

    def fetch() -> Any:
        outcome = outcomes.pop(0)
        if isinstance(outcome, BaseException):
            entered.set()
            interrupt.wait(20)
            raise outcome
        return outcome

    guarded = policy(fetch)

    def lead() -> None:
        with pytest.raises(KeyboardInterrupt):
            guarded()

    threads = [threading.Thread(target=lead), threading.Thread(target=lambda: seen.append(guarded()))]
    threads[0].start()
    entered.wait(20)
    flight = next(iter(policy._flights._flights.values()))
    threads[1].start()
    while not flight.waiters:
        threading.Event().wait(0.001)
    interrupt.set()
    for thread in threads:
        thread.join()
    assert seen == ["value"]


def test_in_place_and_streams(world: World) -> None:
    async def story() -> None:
        assert await world.call(Coalesce(), Script("ok").fn, 1, b=2) == "ok"

    world.run(story)

    def stream() -> Any:
        yield 1

    with pytest.raises(TypeError, match="stream"):
        Coalesce()(stream)
    assert "share one call" in Coalesce().describe()["text"]


def chaos(**options: Any) -> tuple[Chaos, VirtualClock]:
    clock = VirtualClock()
    return Chaos(clock=clock, enabled=True, **options), clock


def test_errors_by_rate_are_the_same_for_the_same_seed(world: World) -> None:
    async def story() -> None:
        outcomes = []
        for _ in range(2):
            policy, _ = chaos(error=ConnectionError, error_rate=0.3, seed=5)
            guarded = world.guard(policy, Script("ok").fn)
            run = []
            for _ in range(200):
                try:
                    run.append(await guarded())
                except ConnectionError:
                    run.append("failed")
            outcomes.append(run)
        assert outcomes[0] == outcomes[1]
        assert 40 <= outcomes[0].count("failed") <= 80
        policy.enable()
        again = []
        for _ in range(200):
            try:
                again.append(await guarded())
            except ConnectionError:
                again.append("failed")
        assert again == outcomes[0]

    world.run(story)


def test_latency_and_other_results_and_events(world: World) -> None:
    async def story() -> None:
        policy, clock = chaos(latency=2.0, latency_rate=1.0, result="lie", result_rate=1.0)
        script = Script("truth")
        guarded = world.guard(policy, script.fn)
        with record_events(policy) as events:
            assert await guarded() == "lie"
        assert clock.slept == [2.0]
        assert script.calls == 0
        assert [event.fault for event in events.of(ChaosInjected)] == ["latency", "result"]
        policy.disable()
        assert await guarded() == "truth"
        assert policy.snapshot() == {"enabled": False, "injected": 2}
        assert policy.describe()["text"] == "chaos (off): 100% wait 2 s, 100% other results"

    world.run(story)


def test_faults_by_schedule(world: World) -> None:
    async def story() -> None:
        policy, clock = chaos(error=ConnectionError, error_rate=1.0, schedule=((10, 20), (40, 41)))
        guarded = world.guard(policy, Script("ok").fn)
        failed = []
        for second in range(60):
            try:
                await guarded()
            except ConnectionError:
                failed.append(second)
            clock.advance(1)
        assert failed == [*range(10, 20), 40]

    world.run(story)


def test_it_is_off_by_default_and_refuses_halves() -> None:
    assert Chaos(error=ConnectionError, error_rate=1.0).call(len, "abc") == 3
    assert "nothing" in Chaos().describe()["text"]
    for options in ({"error": OSError}, {"error_rate": 0.5}, {"latency": 1}, {"latency_rate": 1}, {"result": 1}):
        with pytest.raises(ConfigurationError, match="go together"):
            Chaos(**options)

    def stream() -> Any:
        yield 1

    with pytest.raises(TypeError, match="stream"):
        Chaos(result=1, result_rate=0.5)(stream)
    assert list(Chaos()(stream)()) == [1]

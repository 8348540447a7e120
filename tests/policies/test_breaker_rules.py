"""Breakers with windows, ramps, forced states that end, and saved states, in all worlds."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest

from resilience_core import (
    Chance,
    CircuitBreaker,
    CircuitOpenError,
    CircuitState,
    CircuitTransition,
    ConfigurationError,
    ConsecutiveFailures,
    CountWindow,
    FailureRate,
    Judgement,
    ProbeRate,
    RampStep,
    RecoveryBackoff,
    SlowCallRate,
    TimeWindow,
    Verdict,
)
from resilience_core._machines.rates import Rate
from resilience_core.testing import VirtualClock, record_events
from tests.worlds import Script, World

DOWN = ConnectionError("down")


def breaker(**options: Any) -> tuple[CircuitBreaker, VirtualClock]:
    clock = VirtualClock()
    return CircuitBreaker("b", clock=clock, **options), clock


@pytest.mark.parametrize("window", [CountWindow(10), TimeWindow(60)], ids=["count", "time"])
def test_a_failure_rate_opens_it(world: World, window: Any) -> None:
    async def story() -> None:
        policy, clock = breaker(trip=FailureRate(0.5, window, minimum_calls=4))
        good, bad = world.guard(policy, Script("ok").fn), world.guard(policy, Script(DOWN).fn)
        for _ in range(3):
            await good()
            clock.advance(1)
        for _ in range(3):
            assert policy.state is CircuitState.CLOSED
            with pytest.raises(ConnectionError):
                await bad()
        assert policy.state is CircuitState.OPEN
        with pytest.raises(CircuitOpenError):
            await good()
        clock.advance(60)
        await good()
        await good()
        assert policy.state is CircuitState.CLOSED

    world.run(story)


def test_slow_calls_open_it(world: World) -> None:
    async def story() -> None:
        policy, clock = breaker(trip=SlowCallRate(0.5, CountWindow(4), slower_than=2, minimum_calls=2))

        async def slow() -> str:
            clock.advance(3)
            return "ok"

        quick, slowly = world.guard(policy, Script("ok").fn), world.guard(policy, slow)
        for call in (quick, quick, slowly):
            await call()
            assert policy.state is CircuitState.CLOSED
        await slowly()
        assert policy.state is CircuitState.OPEN
        clock.advance(60)
        await slowly()
        assert policy.state is CircuitState.OPEN, "a slow probe is a bad one"

    world.run(story)


def test_combined_rules_and_streams(world: World) -> None:
    async def story() -> None:
        policy, _ = breaker(trip=ConsecutiveFailures(2) | FailureRate(0.9))
        bad = world.guard(policy, Script(DOWN).fn)
        for _ in range(2):
            with pytest.raises(ConnectionError):
                await bad()
        assert policy.state is CircuitState.OPEN

    world.run(story)
    policy, clock = breaker(trip=SlowCallRate(1.0, CountWindow(1), slower_than=5, minimum_calls=1))

    @policy
    def items() -> Iterator[int]:
        yield 1
        clock.advance(6)
        yield 2

    assert list(items()) == [1, 2]
    assert policy.state is CircuitState.OPEN, "a stream lasts until its end"


def test_a_result_of_another_generation_changes_no_window() -> None:
    policy, _ = breaker(trip=FailureRate(0.5, CountWindow(10), minimum_calls=2))

    def reset_inside() -> None:
        policy.reset()

    policy(reset_inside)()
    memory = policy._circuit.memory
    assert isinstance(memory, Rate)
    assert memory.window.calls == 0


def test_successes_of_threads_are_all_counted() -> None:
    policy = CircuitBreaker("b", trip=FailureRate(0.5, CountWindow(100_000)))
    guarded = policy(lambda: None)
    threads = [threading.Thread(target=lambda: [guarded() for _ in range(5_000)]) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    memory = policy._circuit.memory
    assert isinstance(memory, Rate)
    assert (memory.window.calls, memory.window.bad) == (40_000, 0)


def test_open_times_grow_and_servers_are_heard(world: World) -> None:
    async def story() -> None:
        policy, clock = breaker(
            failure_threshold=1, recovery_backoff=RecoveryBackoff(jitter=0.5), chance=Chance(lambda: 1.0)
        )
        bad = world.guard(policy, Script(DOWN).fn)
        for expected in (90.0, 180.0, 360.0, 600.0, 600.0):
            with pytest.raises(ConnectionError):
                await bad()
            assert policy.retry_after() == pytest.approx(expected)
            clock.advance(expected)
        told, _ = breaker(
            failure_threshold=1,
            max_retry_after=300,
            classify=lambda error: Judgement(Verdict.TRANSIENT, retry_after=120),
        )
        with pytest.raises(ConnectionError):
            await world.guard(told, Script(DOWN).fn)()
        assert told.retry_after() == pytest.approx(120)

    world.run(story)


def test_a_ramp(world: World) -> None:
    async def story() -> None:
        policy, clock = breaker(failure_threshold=1, success_threshold=1, ramp=[RampStep(0.5, timedelta(seconds=10))])
        policy.force(CircuitState.OPEN)
        clock.advance(60)
        good = world.guard(policy, Script("ok").fn)
        await good()
        assert policy.snapshot()["ramp"] == 0.5
        outcomes = []
        for _ in range(10):
            try:
                outcomes.append(await good())
            except CircuitOpenError as error:
                outcomes.append(str(error.reason))
        assert outcomes == ["ok", "ok", *["circuit_ramping", "ok"] * 4]
        clock.advance(10)
        assert [await good() for _ in range(5)] == ["ok"] * 5
        assert "then admits 50% for 10 s" in policy.describe()["text"]

    world.run(story)


def test_a_forced_state_carries_actor_reason_and_end(world: World) -> None:
    async def story() -> None:
        policy, clock = breaker()
        good = world.guard(policy, Script("ok").fn)
        with record_events(policy) as events:
            policy.force_open(actor="ann", reason="deploy", for_=timedelta(minutes=5))
        (told,) = events.of(CircuitTransition)
        assert (told.actor, told.note, told.until) == ("ann", "deploy", clock.now() + 300)
        assert policy.snapshot()["forced"] == {"actor": "ann", "reason": "deploy", "until": clock.now() + 300}
        with pytest.raises(CircuitOpenError):
            await good()
        clock.advance(300)
        assert await good() == "ok"
        assert policy.snapshot()["forced"] is None
        policy.shadow(for_=10, actor="ann")
        policy.disable(reason="maintenance")
        assert policy.snapshot()["forced"] == {"actor": None, "reason": "maintenance", "until": None}
        policy.reset(actor="bob")
        assert policy.snapshot()["state"] == "closed"

    world.run(story)


def test_a_saved_state_goes_on_in_another_process(world: World) -> None:
    async def story() -> None:
        policy, clock = breaker(failure_threshold=1)
        with pytest.raises(ConnectionError):
            await world.guard(policy, Script(DOWN).fn)()
        saved = json.loads(json.dumps(policy.export_state()))
        clock.advance(20)
        other = CircuitBreaker("b", failure_threshold=1, clock=clock)
        with record_events(other) as events:
            other.import_state(saved)
        assert other.retry_after() == pytest.approx(40)
        assert [event.reason for event in events.of(CircuitTransition)] == ["imported"]
        with pytest.raises(CircuitOpenError):
            await world.guard(other, Script("ok").fn)()
        clock.advance(40)
        assert await world.guard(other, Script("ok").fn)() == "ok"

    world.run(story)


@pytest.mark.parametrize(
    "saved", [{}, {"version": 2}, {"version": 1, "saved_at": "x"}, {"version": 1, "saved_at": 1}, []]
)
def test_anything_else_is_refused_and_changes_nothing(saved: Any) -> None:
    policy, _ = breaker()
    with pytest.raises(ConfigurationError, match="no exported state"):
        policy.import_state(saved)
    assert policy.state is CircuitState.CLOSED


def test_a_rule_that_cannot_be_hashed_will_do() -> None:
    class ListOfRules(list[Any]):
        timed = False

        def start(self) -> Any:
            return ConsecutiveFailures(1).start()

    policy, _ = breaker(trip=ListOfRules())
    with pytest.raises(ConnectionError), policy.guard():
        raise DOWN
    assert policy.state is CircuitState.OPEN


def test_options_that_do_not_go_together() -> None:
    with pytest.raises(ConfigurationError, match="probe_rate"):
        CircuitBreaker("b", probe_rate=ProbeRate(), success_threshold=3)
    with pytest.raises(ConfigurationError, match="max_timeout"):
        CircuitBreaker("b", recovery_backoff=RecoveryBackoff(max_timeout=30))
    policy, _ = breaker()
    for seconds in (0, -1, True):
        with pytest.raises(ConfigurationError, match="for_"):
            policy.force_open(for_=seconds)
    with pytest.raises(ConfigurationError, match="ends by itself"):
        policy.force(CircuitState.CLOSED, for_=5)
    text = CircuitBreaker(
        "b", trip=FailureRate(), probe_rate=ProbeRate(), recovery_backoff=RecoveryBackoff()
    ).describe()["text"]
    assert text == (
        "circuit breaker 'b': opens after 50% failures of the last 100 calls (at least 10 calls), rejects for 60 s, "
        "growing to 600 s, closes after 10 probes with less than 50% failures"
    )

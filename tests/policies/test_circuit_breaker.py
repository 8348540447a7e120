"""The breaker around calls, in all worlds."""

from __future__ import annotations

import asyncio
import gc
import threading
from typing import Any

import pytest
import trio

from resilience_core import (
    CallRejected,
    CircuitBreaker,
    CircuitOpenError,
    CircuitState,
    CircuitTransition,
    ConfigurationError,
    ConsecutiveFailures,
    Judgement,
    Pipeline,
    Rejection,
    RejectionReason,
    Timeout,
    Verdict,
)
from resilience_core._events import everywhere
from resilience_core._machines.circuit import Circuit
from resilience_core.testing import forced_state, record_events, run_virtual
from tests.worlds import ManualClock, Script, World

DOWN = ConnectionError("down")


async def attempt(guarded: Any, *args: Any) -> Any:
    try:
        return await guarded(*args)
    except Exception as error:
        return error


def test_the_user_s_rules(world: World) -> None:
    async def story() -> None:
        clock = ManualClock()
        breaker = CircuitBreaker("b", clock=clock)
        script = Script(*[DOWN] * 5, "ok")
        guarded = world.guard(breaker, script.fn)
        for _ in range(5):
            assert await attempt(guarded) is DOWN
        assert breaker.state is CircuitState.OPEN
        rejected = await attempt(guarded)
        assert isinstance(rejected, CircuitOpenError)
        assert (rejected.name, rejected.reason, rejected.retry_after) == ("b", RejectionReason.CIRCUIT_OPEN, 60.0)
        assert rejected.last_failure is not None
        assert rejected.last_failure.error_type == "ConnectionError"
        assert script.calls == 5
        clock.time += 60
        assert breaker.retry_after() == 0.0
        assert await guarded() == "ok"
        assert breaker.state is CircuitState.HALF_OPEN
        assert await guarded() == "ok"
        assert breaker.state is CircuitState.CLOSED
        assert breaker.retry_after() is None

    world.run(story)


def test_a_success_between_failures_resets_the_count(world: World) -> None:
    async def story() -> None:
        breaker = CircuitBreaker("b", failure_threshold=2)
        guarded = world.guard(breaker, Script(DOWN, "ok", DOWN, "ok").fn)
        for _ in range(4):
            await attempt(guarded)
        assert breaker.state is CircuitState.CLOSED

    world.run(story)


def test_interrupts_and_cancellations_pass_and_count_as_nothing(world: World) -> None:
    async def story() -> None:
        breaker = CircuitBreaker("b", failure_threshold=1)
        for interrupt in (KeyboardInterrupt(), SystemExit(), GeneratorExit(), asyncio.CancelledError()):
            with pytest.raises(type(interrupt)) as caught:
                await world.guard(breaker, Script(interrupt).fn)()
            assert caught.value is interrupt
        assert breaker.state is CircuitState.CLOSED
        assert breaker.last_failure is None

    # KeyboardInterrupt is caught inside, so that no loop sees it.
    world.run(story)


def test_on_names_what_counts(world: World) -> None:
    async def story() -> None:
        breaker = CircuitBreaker("b", failure_threshold=1, on=ConnectionError)
        assert isinstance(await attempt(world.guard(breaker, Script(ValueError()).fn)), ValueError)
        assert breaker.state is CircuitState.CLOSED
        await attempt(world.guard(breaker, Script(DOWN).fn))
        assert breaker.state is CircuitState.OPEN

    world.run(story)


def test_results_can_be_failures_and_are_returned_all_the_same(world: World) -> None:
    async def story() -> None:
        breaker = CircuitBreaker(
            "b",
            failure_threshold=2,
            classify_result=lambda value: Verdict.TRANSIENT if value == "bad" else Verdict.SUCCESS,
        )
        guarded = world.guard(breaker, Script("bad").fn)
        assert [await guarded(), await guarded()] == ["bad", "bad"]
        assert isinstance(await attempt(guarded), CircuitOpenError)

    world.run(story)


def test_the_pipeline_s_classifier_judges(world: World) -> None:
    async def story() -> None:
        breaker = CircuitBreaker("b", failure_threshold=1)
        pipeline = Pipeline(breaker, classify=lambda error: Judgement(Verdict.PERMANENT))
        await attempt(world.guard(pipeline, Script(DOWN).fn))
        assert breaker.state is CircuitState.CLOSED

    world.run(story)


def test_events_tell_transitions_and_rejections(world: World) -> None:
    async def story() -> None:
        clock = ManualClock()
        breaker = CircuitBreaker("b", failure_threshold=1, success_threshold=1, clock=clock)
        guarded = world.guard(breaker, Script(DOWN, "ok").fn)
        with record_events(breaker) as events:
            await attempt(guarded)
            await attempt(guarded)
            clock.time += 60
            await guarded()
            breaker.reset()
        assert [(event.previous_state, event.state, event.reason) for event in events.of(CircuitTransition)] == [
            ("closed", "open", "consecutive_failures"),
            ("open", "half_open", "wait_elapsed"),
            ("half_open", "closed", "probe_succeeded"),
        ]
        (rejection,) = events.of(Rejection)
        assert (rejection.reason, rejection.retry_after) == (RejectionReason.CIRCUIT_OPEN, 60.0)

    world.run(story)


def test_forced_states(world: World) -> None:
    async def story() -> None:
        breaker = CircuitBreaker("b", failure_threshold=1)
        guarded = world.guard(breaker, Script(DOWN).fn)
        breaker.force_open()
        rejected = await attempt(guarded)
        assert rejected.reason is RejectionReason.CIRCUIT_FORCED_OPEN
        breaker.disable()
        for _ in range(3):
            assert await attempt(guarded) is DOWN
        breaker.shadow()
        for _ in range(3):
            assert await attempt(guarded) is DOWN
        assert breaker.state is CircuitState.SHADOW
        with forced_state(breaker, CircuitState.OPEN):
            assert isinstance(await attempt(guarded), CircuitOpenError)
        assert breaker.state is CircuitState.CLOSED

    world.run(story)


def test_guarded_blocks() -> None:
    clock = ManualClock()
    breaker = CircuitBreaker("b", failure_threshold=1, success_threshold=1, clock=clock)

    with breaker.guard():
        pass
    with pytest.raises(ConnectionError), breaker.guard():
        raise DOWN
    with pytest.raises(CircuitOpenError), breaker.guard():
        raise AssertionError("admitted")
    clock.time += 60

    async def story() -> None:
        async with breaker.guard():
            assert breaker.state is CircuitState.HALF_OPEN

    asyncio.run(story())
    assert breaker.state is CircuitState.CLOSED
    named = CircuitBreaker("c", failure_threshold=1, on=KeyError)
    with pytest.raises(ConnectionError), named.guard():
        raise DOWN
    assert named.state is CircuitState.CLOSED


# --- half open under pressure ---------------------------------------------------------------------

CALLERS = 200


def half_open_breaker(probes: int) -> CircuitBreaker:
    clock = ManualClock()
    breaker = CircuitBreaker(
        "b", failure_threshold=1, success_threshold=probes, half_open_max_calls=probes, clock=clock
    )
    with pytest.raises(ConnectionError), breaker.guard():
        raise DOWN
    clock.time += 60
    return breaker


def admitted_by_threads(breaker: CircuitBreaker) -> int:
    inside, rejected = [], []
    everyone_asked, settled = threading.Barrier(CALLERS), threading.Event()

    def decided(list_: list[int]) -> None:
        list_.append(1)
        if len(rejected) + len(inside) == CALLERS:
            settled.set()

    def caller() -> None:
        everyone_asked.wait()
        try:
            with breaker.guard():
                decided(inside)
                settled.wait()
        except CircuitOpenError:
            decided(rejected)

    threads = [threading.Thread(target=caller) for _ in range(CALLERS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return len(inside)


async def admitted_by_tasks(breaker: CircuitBreaker, event: Any, group: Any) -> int:
    inside: list[int] = []
    rejected: list[int] = []

    async def probe() -> None:
        inside.append(1)
        if len(inside) + len(rejected) == CALLERS:
            event.set()
        await event.wait()

    guarded = breaker(probe)

    async def caller() -> None:
        try:
            await guarded()
        except CircuitOpenError:
            rejected.append(1)
            if len(inside) + len(rejected) == CALLERS:
                event.set()

    await group(caller)
    return len(inside)


def admitted_by_asyncio(breaker: CircuitBreaker) -> int:
    async def group(caller: Any) -> None:
        await asyncio.gather(*(caller() for _ in range(CALLERS)))

    async def main() -> int:
        return await admitted_by_tasks(breaker, asyncio.Event(), group)

    return asyncio.run(main())


def admitted_by_trio(breaker: CircuitBreaker) -> int:
    async def group(caller: Any) -> None:
        async with trio.open_nursery() as nursery:
            for _ in range(CALLERS):
                nursery.start_soon(caller)

    async def main() -> int:
        return await admitted_by_tasks(breaker, trio.Event(), group)

    return trio.run(main)


@pytest.mark.parametrize("admitted", [admitted_by_threads, admitted_by_asyncio, admitted_by_trio])
@pytest.mark.parametrize("probes", [1, 3])
def test_half_open_admits_exactly_its_probes_of_200_callers(admitted: Any, probes: int) -> None:
    breaker = half_open_breaker(probes)
    assert admitted(breaker) == probes
    assert breaker.state is CircuitState.CLOSED


@pytest.mark.parametrize("admitted", [admitted_by_threads, admitted_by_asyncio, admitted_by_trio])
def test_without_the_permit_check_that_test_would_fail(admitted: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def unlimited(self: Circuit, now: float, lease: float) -> int:
        self.generation += 1
        self.probes = {**(self.probes or {}), self.generation: now + lease}
        return self.generation

    monkeypatch.setattr(Circuit, "_admit_probe", unlimited)
    assert admitted(half_open_breaker(1)) > 1


def test_a_cancelled_probe_gives_its_permit_back() -> None:
    async def story() -> None:
        breaker = half_open_breaker(1)

        @breaker
        async def hang() -> None:
            await asyncio.Event().wait()

        probe = asyncio.create_task(hang())
        await asyncio.sleep(0)
        assert breaker.snapshot()["probes"] == 1
        with pytest.raises(CircuitOpenError) as caught:
            await hang()
        assert caught.value.reason is RejectionReason.PROBE_LIMIT
        probe.cancel()
        await asyncio.gather(probe, return_exceptions=True)
        assert (breaker.snapshot()["probes"], breaker.state) == (0, CircuitState.HALF_OPEN)
        async with breaker.guard():
            pass
        assert breaker.state is CircuitState.CLOSED

    run_virtual(story)


def test_a_hung_probe_makes_room_after_its_lease_and_then_changes_nothing() -> None:
    breaker = half_open_breaker(1)
    clock = breaker.clock
    hung = breaker.guard()
    hung.__enter__()
    clock.time += 59.9  # type: ignore[attr-defined]
    with pytest.raises(CircuitOpenError), breaker.guard():
        pass
    clock.time += 0.1  # type: ignore[attr-defined]
    fresh = breaker.guard()
    fresh.__enter__()
    hung.__exit__(ConnectionError, DOWN, None)
    assert breaker.state is CircuitState.HALF_OPEN
    fresh.__exit__(None, None, None)
    assert breaker.state is CircuitState.CLOSED


def test_a_lease_is_longer_than_the_time_out_inside() -> None:
    async def fn() -> None:
        pass

    with pytest.raises(ConfigurationError, match="probe_timeout"):
        Pipeline(CircuitBreaker("b", probe_timeout=5), Timeout(5))(fn)
    allow = {"lease-not-above-timeout": "so that the breaker is asked itself"}
    with pytest.raises(ConfigurationError, match=r"probe_timeout \(5 s\) must be longer than the time-out inside"):
        Pipeline(CircuitBreaker("b", probe_timeout=5), Timeout(5), allow=allow)(fn)
    Pipeline(CircuitBreaker("b", probe_timeout=5.1), Timeout(5))(fn)
    Pipeline(CircuitBreaker("b"), Timeout(100))(fn)


# --- costs and traces -----------------------------------------------------------------------------


def test_rejections_leave_nothing_behind() -> None:
    breaker = CircuitBreaker("b")
    breaker.force_open()
    guarded = breaker(lambda: None)

    def reject(times: int) -> None:
        for _ in range(times):
            try:
                guarded()
            except CallRejected:
                pass

    reject(10)
    gc.collect()
    before = len(gc.get_objects())
    reject(20_000)
    assert len(gc.get_objects()) - before < 50
    assert breaker.snapshot()["rejected"] == 20_010


def test_no_lock_is_held_during_the_call() -> None:
    breaker = CircuitBreaker("b", failure_threshold=2)
    guarded = breaker(breaker._lock.locked)
    assert guarded() is False
    with pytest.raises(ConnectionError), breaker.guard():
        raise DOWN
    assert guarded() is False


def test_failures_of_threads_are_all_counted() -> None:
    breaker = CircuitBreaker("b", failure_threshold=8 * 500 + 1)

    def fail() -> None:
        for _ in range(500):
            with pytest.raises(ConnectionError), breaker.guard():
                raise DOWN

    threads = [threading.Thread(target=fail) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert breaker.state is CircuitState.CLOSED
    with pytest.raises(ConnectionError), breaker.guard():
        raise DOWN
    assert breaker.state is CircuitState.OPEN


def test_options() -> None:
    with pytest.raises(ConfigurationError, match="without its arguments"):
        CircuitBreaker(lambda: None)  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError, match="trip"):
        CircuitBreaker("b", failure_threshold=3, trip=ConsecutiveFailures(2))
    assert (
        CircuitBreaker("b", trip=ConsecutiveFailures(2))
        .describe()["text"]
        .startswith("circuit breaker 'b': opens after 2 consecutive failures")
    )

    class Never:
        def start(self) -> Any:
            return self

        quiet = True

        def record(self, failed: bool, now: float, duration: float) -> None: ...

    never = CircuitBreaker("b", trip=Never())
    assert "Never" in never.describe()["text"]
    with pytest.raises(ConnectionError), never.guard():
        raise DOWN
    assert never.state is CircuitState.CLOSED


def test_an_opening_that_nobody_wants_to_hear_of_is_not_told(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[object] = []
    monkeypatch.setattr("resilience_core._policies.circuit_breaker.CircuitTransition", told.append)
    monkeypatch.setattr("resilience_core._events.logged", lambda kind: False)
    monkeypatch.setattr(everywhere, "listeners", ())
    breaker = CircuitBreaker("silent", failure_threshold=1)
    with pytest.raises(ValueError):
        breaker.call(int, "x")
    assert breaker.state is CircuitState.OPEN
    assert told == []

"""Retries, in all worlds."""

from __future__ import annotations

import asyncio
import gc
import weakref
from typing import Any

import pytest

from resilience_core import (
    Attempt,
    Chance,
    CircuitBreaker,
    CircuitOpenError,
    ConfigurationError,
    Constant,
    Judgement,
    Pipeline,
    Retry,
    RetryScheduled,
    RetrySuppressed,
    Timeout,
    TimeoutExceeded,
    Verdict,
    judgement_of,
)
from resilience_core._weave.nesting import nesting
from resilience_core.testing import VirtualClock, record_events, run_virtual, run_virtual_trio
from tests.worlds import Script, World


@pytest.fixture(autouse=True)
def nobody_watches(monkeypatch: pytest.MonkeyPatch) -> None:
    """Other tests of this process may have made retries that act only when they are the outermost."""
    monkeypatch.setattr(nesting, "watched", False)


DOWN = ConnectionError("down")


class Broken(Exception):
    """An error that weak references can point to."""


def retry(**options: Any) -> tuple[Retry, VirtualClock]:
    clock = VirtualClock()
    options = {"on": ConnectionError, "jitter": "none", **options}
    return Retry(clock=clock, **options), clock


async def failure(guarded: Any) -> Any:
    with pytest.raises(Exception) as caught:
        await guarded()
    return caught.value


def test_three_attempts_at_once_then_after_one_and_two_seconds(world: World) -> None:
    async def story() -> None:
        policy, clock = retry()
        script = Script(DOWN, DOWN, "ok")
        assert await world.guard(policy, script.fn)() == "ok"
        assert (script.calls, clock.slept) == (3, [1.0, 2.0])

    world.run(story)


def test_the_last_original_error_is_raised_with_one_note(world: World) -> None:
    async def story() -> None:
        policy, _ = retry()
        script = Script(DOWN)
        guarded = world.guard(policy, script.fn)
        for _ in range(2):
            assert await failure(guarded) is DOWN
            notes = [note for note in DOWN.__notes__ if note.startswith("resilience")]
            assert notes == ["resilience: gave up after 3 attempts, 3 s after the first"]
        assert DOWN.__context__ is None

    world.run(story)
    del DOWN.__notes__


def test_what_is_not_named_is_raised_at_once(world: World) -> None:
    async def story() -> None:
        policy, clock = retry()
        script = Script(ValueError())
        assert isinstance(await failure(world.guard(policy, script.fn)), ValueError)
        assert (script.calls, clock.slept) == (1, [])

    world.run(story)


@pytest.mark.parametrize("on", [ConnectionError, (KeyError, OSError), lambda error: "down" in str(error)])
def test_on_takes_classes_and_predicates(world: World, on: Any) -> None:
    async def story() -> None:
        policy, _ = retry(on=on)
        assert await world.guard(policy, Script(DOWN, "ok").fn)() == "ok"

    world.run(story)


def test_unknown_outcomes_are_retried_only_if_idempotent(world: World) -> None:
    async def story() -> None:
        for idempotent, own, calls in ((None, None, 1), (True, None, 3), (True, False, 1), (False, True, 3)):
            policy, _ = retry(on=None, idempotent=own)
            script = Script(DOWN)
            pipeline = Pipeline(policy, classify=lambda error: Verdict.UNKNOWN, idempotent=idempotent)
            with record_events(policy) as events:
                await failure(world.guard(pipeline, script.fn))
            assert script.calls == calls
            reason = "not_idempotent" if calls == 1 else "attempts_exhausted"
            assert [event.reason for event in events.of(RetrySuppressed)] == [reason]

    world.run(story)


def test_retry_after_wins_over_backoff_and_one_that_is_too_long_ends_it(world: World) -> None:
    async def story() -> None:
        for hint, waits in ((7.0, [7.0, 7.0]), (0.0, [0.0, 0.0]), (11.0, [])):
            policy, clock = retry(on=None, classify=lambda e, hint=hint: Judgement(Verdict.THROTTLED, retry_after=hint))
            error = Broken()
            await failure(world.guard(policy, Script(error).fn))
            assert [wait for wait in clock.slept if wait or world.name != "blocking"] == [
                wait for wait in waits if wait or world.name != "blocking"
            ]
            judgement = judgement_of(error)
            assert judgement is not None
            assert judgement.retry_after == hint

    world.run(story)


def test_max_elapsed_counts_from_the_first_attempt(world: World) -> None:
    async def story() -> None:
        policy, clock = retry(max_attempts=10, max_elapsed=4.0)

        async def slow() -> None:
            clock.advance(0.5)
            raise DOWN

        assert await failure(world.guard(policy, slow)) is DOWN
        assert clock.slept == [1.0]

    world.run(story)


@pytest.mark.filterwarnings("ignore:plan-exceeds-deadline")  # what then happens is shown here
def test_it_never_sleeps_past_the_deadline(world: World) -> None:
    async def story() -> None:
        policy = Retry(on=ConnectionError, jitter="none")
        script = Script(DOWN)
        with record_events(policy) as events:
            assert await failure(world.guard(Pipeline(Timeout(2.5), policy), script.fn)) is DOWN
        assert script.calls == 2
        assert events.of(RetrySuppressed)[0].reason == "deadline"

    world.run(story)


def test_bad_results_are_retried_and_the_last_one_is_returned(world: World) -> None:
    def judge(value: int) -> Verdict:
        return Verdict.SUCCESS if value > 2 else Verdict.TRANSIENT

    async def story() -> None:
        policy, clock = retry(on=None, classify=lambda error: Verdict.PERMANENT, classify_result=judge)
        assert await world.guard(policy, Script(1, 2, 3).fn)() == 3
        assert await world.guard(policy, Script(1).fn)() == 1
        assert clock.slept == [1.0, 2.0, 1.0, 2.0]
        pipeline = Pipeline(policy, classify_result=judge)
        assert await world.guard(pipeline, Script(2, 7).fn)() == 7
        assert await world.call(pipeline, Script(2, 7).fn) == 7
        assert await world.call(pipeline, Script(2).fn) == 2

    world.run(story)


def test_a_circuit_that_opens_between_attempts_raises_from_the_last_original_error(world: World) -> None:
    async def story() -> None:
        policy, _ = retry()
        pipeline = Pipeline(policy, CircuitBreaker("b", failure_threshold=2))
        with record_events(policy) as events:
            error = await failure(world.guard(pipeline, Script(DOWN).fn))
        assert isinstance(error, CircuitOpenError)
        assert error.__cause__ is DOWN
        assert events.of(RetrySuppressed)[0].reason == "circuit_open"

    world.run(story)


def test_rejections_are_retried_only_when_named(world: World) -> None:
    async def story() -> None:
        for on, attempts in ((Exception, 1), ((Exception, CircuitOpenError), 3)):
            policy, _ = retry(on=on)
            breaker = CircuitBreaker("b")
            breaker.force_open()
            await failure(world.guard(Pipeline(policy, breaker), Script("ok").fn))
            assert breaker.snapshot()["rejected"] == attempts

    world.run(story)


def test_our_own_time_out_is_unknown_unless_named(world: World) -> None:
    async def story() -> None:
        error = TimeoutExceeded("t", 1.0)
        for on, calls in ((TimeoutError, 1), (TimeoutExceeded, 3)):
            policy, _ = retry(on=on)
            script = Script(error)
            await failure(world.guard(policy, script.fn))
            assert script.calls == calls

    world.run(story)


def test_events_tell_what_failed_and_how_long_it_waits(world: World) -> None:
    async def story() -> None:
        policy, _ = retry()
        with record_events(policy) as events:
            await failure(world.guard(policy, Script(DOWN).fn))
        scheduled = [(e.attempt, e.delay, e.delay_source, e.error) for e in events.of(RetryScheduled)]
        assert scheduled == [(1, 1.0, "backoff", DOWN), (2, 2.0, "backoff", DOWN)]

    world.run(story)


def test_jitter_is_repeatable_and_backoff_can_be_a_function(world: World) -> None:
    async def story() -> None:
        policy, clock = retry(jitter="proportional", chance=Chance(lambda: 1.0 - 2**-53))
        await failure(world.guard(policy, Script(DOWN).fn))
        assert clock.slept == pytest.approx([1.25, 2.5])
        policy, clock = retry(backoff=Constant(0.5))
        await failure(world.guard(policy, Script(DOWN).fn))
        assert clock.slept == [0.5, 0.5]

    world.run(story)


def test_no_reference_cycle_keeps_an_error_alive(world: World) -> None:
    async def story() -> None:
        policy, _ = retry(on=Broken)
        seen: list[weakref.ref[Broken]] = []

        def new_error() -> Broken:
            error = Broken()
            seen.append(weakref.ref(error))
            return error

        async def fails(times: int) -> str:
            if len(seen) < times:
                raise new_error()  # not from a local variable: that would be a cycle of the test's own
            return "ok"

        assert await world.guard(policy, fails)(2) == "ok"
        assert [reference() for reference in seen] == [None, None]

    gc.disable()
    try:
        world.run(story)
    finally:
        gc.enable()


def test_loops_over_attempts() -> None:
    policy, clock = retry()
    numbers = []
    for attempt in policy:
        with attempt:
            numbers.append(attempt.number)
            if attempt.number < 3:
                raise DOWN
    assert (numbers, clock.slept) == ([1, 2, 3], [1.0, 2.0])

    with pytest.raises(ConnectionError):
        for attempt in policy:
            with attempt:
                raise DOWN

    with pytest.raises(KeyboardInterrupt):
        for attempt in policy:
            with attempt:
                raise KeyboardInterrupt

    assert len([attempt for attempt in policy]) == 1, "a loop without `with` makes one attempt"  # noqa: C416
    timed, _ = retry(max_elapsed=5.0)
    assert [isinstance(attempt, Attempt) for attempt in timed] == [True]


@pytest.mark.parametrize("run", [run_virtual, run_virtual_trio])
def test_async_loops_over_attempts(run: Any) -> None:
    async def story() -> None:
        policy = Retry(on=ConnectionError)
        numbers = []
        async for attempt in policy:
            with attempt:
                numbers.append(attempt.number)
                if attempt.number < 3:
                    raise DOWN
        assert numbers == [1, 2, 3]

    run(story)


def test_it_must_be_told_what_to_retry() -> None:
    with pytest.raises(ConfigurationError, match="on="):
        Retry()(lambda: None)
    with pytest.raises(ConfigurationError, match="on="):
        iter(Retry())
    with pytest.raises(ConfigurationError, match="exclude"):
        Retry(on=ValueError, classify=lambda error: Verdict.TRANSIENT)
    with pytest.raises(ConfigurationError, match="max_delay"):
        Retry(base_delay=5, max_delay=4)
    assert "3 attempts" in Retry(on=ValueError).describe()["text"]
    assert "0.5" in Retry(on=ValueError, backoff=Constant(0.5)).describe()["text"]
    assert Retry(on=ValueError).worst_case_delay() == pytest.approx(1.25 + 2.5)


def test_cancelling_a_wait_ends_the_call() -> None:
    async def story() -> None:
        script = Script(DOWN)
        guarded = Retry(on=ConnectionError)(script.fn)
        task = asyncio.create_task(guarded())
        await asyncio.sleep(0.1)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert script.calls == 1

    run_virtual(story)

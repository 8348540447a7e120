"""Time-outs: cancellation as asyncio's own, trio's scopes, deadlines for blocking code."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import threading
import weakref
from typing import Any

import pytest
import trio

from resilience_core import (
    BulkheadFullError,
    ConfigurationError,
    Pipeline,
    Timeout,
    TimeoutExceeded,
    TimeoutExpired,
    remaining,
)
from resilience_core._weave import expiry
from resilience_core.testing import record_events, run_virtual, run_virtual_trio, virtual_time
from tests.worlds import World

BOTH = pytest.mark.parametrize(
    ("run", "sleep"), [(run_virtual, asyncio.sleep), (run_virtual_trio, trio.sleep)], ids=["asyncio", "trio"]
)


@BOTH
def test_a_call_that_takes_too_long_is_given_up(run: Any, sleep: Any) -> None:
    async def story() -> None:
        policy = Timeout(2.0)
        with record_events(policy) as events, pytest.raises(TimeoutExceeded) as caught:
            await policy.acall(sleep, 2.1)
        assert isinstance(caught.value, TimeoutError)
        assert (caught.value.name, caught.value.seconds) == ("timeout", 2.0)
        assert [event.seconds for event in events.of(TimeoutExpired)] == [2.0]
        await policy.acall(sleep, 1.9)

    run(story)


@BOTH
def test_nested_time_outs_of_equal_length_give_one_error(run: Any, sleep: Any) -> None:
    async def story() -> None:
        with pytest.raises(TimeoutExceeded):
            await Pipeline(Timeout(1), Timeout(1), name="p").acall(sleep, 5)
        with pytest.raises(TimeoutExceeded) as caught:
            await Pipeline(Timeout(5), Timeout(1, name="inner"), name="p").acall(sleep, 9)
        assert caught.value.name == "inner"
        await sleep(10)

    run(story)


@BOTH
def test_an_error_of_the_call_passes(run: Any, sleep: Any) -> None:
    async def story() -> None:
        async def fails() -> None:
            raise TimeoutError("its own")

        with pytest.raises(TimeoutError, match="its own"):
            await Timeout(1).acall(fails)

    run(story)


def test_a_cancellation_from_outside_wins() -> None:
    async def story() -> None:
        task = asyncio.create_task(Timeout(5).acall(asyncio.sleep, 10))
        await asyncio.sleep(1)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

        async def cancelled_while_expiring() -> None:
            try:
                await asyncio.sleep(10)
            finally:
                current = asyncio.current_task()
                assert current is not None
                current.cancel()  # somebody else asks, in the moment of our own expiry

        task = asyncio.create_task(Timeout(5).acall(cancelled_while_expiring))
        with pytest.raises(asyncio.CancelledError):
            await task

    run_virtual(story)


def test_uncancel_is_owed_on_every_path() -> None:
    async def swallows() -> str:
        try:
            await asyncio.sleep(10)
        except asyncio.CancelledError:
            pass
        return "late"

    async def turns() -> None:
        try:
            await asyncio.sleep(10)
        except asyncio.CancelledError:
            raise KeyError("turned") from None

    async def story() -> None:
        task = asyncio.current_task()
        assert task is not None
        assert await Timeout(1).acall(swallows) == "late"
        assert task.cancelling() == 0
        with pytest.raises(KeyError):
            await Timeout(1).acall(turns)
        assert task.cancelling() == 0
        with pytest.raises(TimeoutExceeded):
            await Timeout(1).acall(asyncio.sleep, 10)
        assert task.cancelling() == 0

    run_virtual(story)


def test_one_timer_serves_all_calls_of_a_duration_and_entries_go_with_their_calls() -> None:
    async def story() -> None:
        loop = asyncio.get_running_loop()
        policy = Timeout(3.0)
        await asyncio.gather(*(policy.acall(asyncio.sleep, 1) for _ in range(100)))
        queue = expiry.expiry_of(loop, 3.0)
        assert not queue._entries
        late = asyncio.create_task(policy.acall(asyncio.sleep, 2.5))
        await asyncio.sleep(1.0)
        later = asyncio.create_task(policy.acall(asyncio.sleep, 10))
        await late
        with pytest.raises(TimeoutExceeded):
            await later
        assert loop.time() == pytest.approx(5.0)
        assert not queue._armed

    run_virtual(story)


def test_many_loops_in_turn_and_none_is_kept_alive() -> None:
    policy = Timeout(5.0)
    loops: list[weakref.ref[asyncio.AbstractEventLoop]] = []

    async def note() -> None:
        loops.append(weakref.ref(asyncio.get_running_loop()))

    for _ in range(20):
        asyncio.run(policy.acall(note))
    gc.collect()
    assert [loop for loop in loops if loop() is not None] == []


def test_a_loop_without_a_task_is_refused() -> None:
    loop = asyncio.new_event_loop()
    try:
        with pytest.raises(RuntimeError, match="task"):
            expiry.expiry_of(loop, 1.0).enter(loop)
    finally:
        loop.close()


# --- deadlines ------------------------------------------------------------------------------------


def _above_total() -> Pipeline:
    return Pipeline(Timeout(5), Timeout(9), allow={"attempt-timeout-above-total": "the nearer one must hold"})


def test_everything_inside_sees_the_deadline(world: World) -> None:
    async def story() -> None:
        async def look() -> Any:
            return remaining()

        assert remaining() is None
        assert await world.guard(Timeout(5), look)() == 5.0
        assert await world.guard(_above_total(), look)() == 5.0
        assert await world.guard(Pipeline(Timeout(9), Timeout(5)), look)() == 5.0
        assert remaining() is None

    world.run(story)


def test_a_blocking_call_that_returns_late_returns_its_result() -> None:
    with virtual_time() as clock:

        @Timeout(1)
        def slow() -> Any:
            clock.advance(2)
            return remaining()

        assert slow() == 0.0


def test_a_thread_can_be_abandoned_and_is_counted() -> None:
    release, variable = threading.Event(), contextvars.ContextVar("variable", default="unset")
    policy = Timeout(0.02, thread=True, max_abandoned=1)
    seen = []

    @policy
    def hang() -> None:
        release.wait()
        seen.append(variable.get())

    variable.set("set")
    with pytest.raises(TimeoutExceeded):
        hang()
    assert policy.snapshot()["abandoned_threads"] == 1
    with pytest.raises(BulkheadFullError):
        hang()
    (thread,) = [thread for thread in threading.enumerate() if thread.name == "resilience-timeout"]
    release.set()
    thread.join()
    assert policy.snapshot()["abandoned_threads"] == 0
    assert seen == ["set"]


def test_a_thread_in_time_gives_result_or_error() -> None:
    policy = Timeout(30, thread=True)
    assert policy.call(lambda: threading.current_thread().name) == "resilience-timeout"
    with pytest.raises(ValueError, match="mine"):
        policy.call(int, "mine")
    assert "in a thread" in policy.describe()["text"]


# --- streams --------------------------------------------------------------------------------------


@BOTH
def test_a_stream_is_limited_until_its_first_item_or_at_each(run: Any, sleep: Any) -> None:
    async def items(first: float, second: float) -> Any:
        await sleep(first)
        yield 1
        await sleep(second)
        yield 2

    async def story() -> None:
        opening = Timeout(1)(items)
        assert [item async for item in opening(0.5, 5)] == [1, 2]
        with pytest.raises(TimeoutExceeded):
            await anext(opening(2, 0))
        each = Timeout(1, per_item=True)(items)
        assert [item async for item in each(0.5, 0.5)] == [1, 2]
        stream = each(0.5, 5)
        assert await anext(stream) == 1
        with pytest.raises(TimeoutExceeded):
            await anext(stream)
        nested = Pipeline(Timeout(9, per_item=True), Timeout(1, per_item=True, name="inner"))(items)(0, 5)
        await anext(nested)
        with pytest.raises(TimeoutExceeded) as caught:
            await anext(nested)
        assert caught.value.name == "inner"

    run(story)


def test_what_cannot_be_is_refused() -> None:
    async def fn() -> None: ...
    def stream() -> Any:
        yield 1

    with pytest.raises(ConfigurationError, match="thread"):
        Timeout(1, thread=True)(fn)
    with pytest.raises(ConfigurationError, match="per_item"):
        Timeout(1, per_item=True)(fn)
    with pytest.raises(ConfigurationError, match="per_item"):
        Timeout(1, per_item=True)(stream)
    with pytest.raises(TypeError, match="thread"):
        Timeout(1, thread=True)(stream)
    with pytest.raises(ConfigurationError, match="seconds"):
        Timeout(lambda: None)  # type: ignore[arg-type]

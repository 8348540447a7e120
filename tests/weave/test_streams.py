"""Guarded generators: permits until the end, retries before the first item."""

from __future__ import annotations

import asyncio
import gc
from typing import Any

import pytest

from resilience_core import (
    Bulkhead,
    BulkheadFullError,
    CircuitBreaker,
    Pipeline,
    RateLimiter,
    Retry,
    StaleCache,
    Verdict,
)
from resilience_core.testing import run_virtual, run_virtual_trio

BOTH = pytest.mark.parametrize("run", [run_virtual, run_virtual_trio], ids=["asyncio", "trio"])
DOWN = ConnectionError("down")


def one_slot() -> tuple[Bulkhead, CircuitBreaker, Pipeline]:
    bulkhead = Bulkhead("b", max_concurrent=1)
    breaker = CircuitBreaker("c", failure_threshold=1)
    return bulkhead, breaker, Pipeline(breaker, bulkhead, RateLimiter("l", rate=1e6))


def test_a_stream_holds_its_permit_until_it_is_exhausted() -> None:
    bulkhead, _, guard = one_slot()

    @guard
    def numbers() -> Any:
        yield 1
        yield 2
        return "end"

    stream = numbers()
    assert bulkhead.in_flight == 0, "nothing happens before the first item is asked for"
    assert next(stream) == 1
    assert bulkhead.in_flight == 1
    with pytest.raises(BulkheadFullError):
        next(numbers())
    assert next(stream) == 2
    with pytest.raises(StopIteration) as stop:
        next(stream)
    assert stop.value.value == "end"
    assert bulkhead.in_flight == 0


def test_closing_early_is_a_success_and_failing_midway_a_failure() -> None:
    bulkhead, breaker, guard = one_slot()

    @guard
    def numbers(fails: bool) -> Any:
        yield 1
        if fails:
            raise DOWN
        yield 2

    stream = numbers(False)
    next(stream)
    stream.close()
    assert (bulkhead.in_flight, breaker.state) == (0, "closed")
    with pytest.raises(ConnectionError):
        list(numbers(True))
    assert (bulkhead.in_flight, breaker.state) == (0, "open")


def test_send_throw_and_return_work_through_the_guard() -> None:
    bulkhead, breaker, guard = one_slot()

    @guard
    def echo() -> Any:
        got = yield "ready"
        while True:
            try:
                got = yield got
            except KeyError:
                got = "caught"
            if got == "stop":
                return

    stream = echo()
    assert next(stream) == "ready"
    assert stream.send("a") == "a"
    assert stream.throw(KeyError()) is not None
    mine = ValueError("mine")
    with pytest.raises(ValueError, match="mine"):
        stream.throw(mine)
    assert (bulkhead.in_flight, breaker.state) == (0, "closed"), "the consumer's own error says nothing"

    @guard
    def ends_on_throw() -> Any:
        try:
            yield 1
        except KeyError:
            return

    stream = ends_on_throw()
    next(stream)
    with pytest.raises(StopIteration):
        stream.throw(KeyError())
    assert bulkhead.in_flight == 0

    @guard
    def empty() -> Any:
        return "nothing"
        yield

    with pytest.raises(StopIteration) as stop:
        next(empty())
    assert stop.value.value == "nothing"
    assert bulkhead.in_flight == 0


def test_a_forgotten_stream_gives_its_permit_back() -> None:
    bulkhead, _, guard = one_slot()

    @guard
    def numbers() -> Any:
        yield from range(10)

    stream = numbers()
    next(stream)
    del stream
    gc.collect()
    assert bulkhead.in_flight == 0


def test_retry_reopens_only_before_the_first_item() -> None:
    opened = 0

    @Retry(on=ConnectionError, base_delay=0, max_delay=0)
    def numbers(fail_at: int) -> Any:
        nonlocal opened
        opened += 1
        if fail_at == 0 and opened < 3:
            raise DOWN
        yield 1
        if fail_at == 1:
            raise DOWN

    assert list(numbers(0)) == [1]
    assert opened == 3
    opened = 0
    with pytest.raises(ConnectionError):
        list(numbers(1))
    assert opened == 1


@BOTH
def test_async_streams_hold_their_permits_too(run: Any) -> None:
    async def story() -> None:
        bulkhead, breaker, guard = one_slot()

        @guard
        async def numbers(fails: bool) -> Any:
            yield 1
            if fails:
                raise DOWN
            yield 2

        stream = numbers(False)
        assert await anext(stream) == 1
        with pytest.raises(BulkheadFullError):
            await anext(numbers(False))
        await stream.aclose()
        assert (bulkhead.in_flight, breaker.state) == (0, "closed")
        assert [item async for item in numbers(False)] == [1, 2]
        assert bulkhead.in_flight == 0
        with pytest.raises(ConnectionError):
            async for _ in numbers(True):
                pass
        assert (bulkhead.in_flight, breaker.state) == (0, "open")

    run(story)


@BOTH
def test_async_send_throw_and_empty(run: Any) -> None:
    async def story() -> None:
        bulkhead, breaker, guard = one_slot()

        @guard
        async def echo() -> Any:
            got = yield "ready"
            while got != "stop":
                try:
                    got = yield got
                except KeyError:
                    got = "caught"

        stream = echo()
        assert await anext(stream) == "ready"
        assert await stream.asend("a") == "a"
        assert await stream.athrow(KeyError()) == "caught"
        with pytest.raises(StopAsyncIteration):
            await stream.asend("stop")
        assert bulkhead.in_flight == 0
        stream = echo()
        await anext(stream)
        with pytest.raises(ValueError):
            await stream.athrow(ValueError())
        assert (bulkhead.in_flight, breaker.state) == (0, "closed")

        @guard
        async def ends_on_throw() -> Any:
            try:
                yield 1
            except KeyError:
                return

        stream = ends_on_throw()
        await anext(stream)
        with pytest.raises(StopAsyncIteration):
            await stream.athrow(KeyError())

        @guard
        async def empty() -> Any:
            return
            yield

        assert [item async for item in empty()] == []
        assert bulkhead.in_flight == 0

    run(story)


def test_gates_learn_of_a_close_before_its_clean_up_is_awaited() -> None:
    async def story() -> None:
        bulkhead, _, guard = one_slot()
        during: list[int] = []

        @guard
        async def numbers() -> Any:
            try:
                yield 1
            finally:
                during.append(bulkhead.in_flight)
                await asyncio.sleep(1)

        stream = numbers()
        await anext(stream)
        await stream.aclose()
        assert during == [0]

    run_virtual(story)


def test_a_cancelled_item_gives_the_permit_back_and_teaches_nothing() -> None:
    async def story() -> None:
        bulkhead, breaker, guard = one_slot()

        @guard
        async def numbers() -> Any:
            yield 1
            await asyncio.sleep(100)
            yield 2

        async def consume() -> None:
            async for _ in numbers():
                pass

        task = asyncio.create_task(consume())
        await asyncio.sleep(1)
        assert bulkhead.in_flight == 1
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert (bulkhead.in_flight, breaker.state) == (0, "closed")

    run_virtual(story)


@BOTH
def test_a_failed_opening_settles_and_is_retried(run: Any) -> None:
    async def story() -> None:
        bulkhead = Bulkhead("b", max_concurrent=1)
        opened = 0

        @Pipeline(Retry(on=ConnectionError), bulkhead)
        async def numbers() -> Any:
            nonlocal opened
            opened += 1
            if opened < 3:
                raise DOWN
            yield opened

        assert [item async for item in numbers()] == [3]
        assert bulkhead.in_flight == 0

    run(story)

    bulkhead = Bulkhead("b", max_concurrent=1)

    @bulkhead
    def broken() -> Any:
        raise DOWN
        yield

    with pytest.raises(ConnectionError):
        next(broken())
    assert bulkhead.in_flight == 0


def test_what_needs_a_result_refuses_streams() -> None:
    def stream() -> Any:
        yield 1

    async def async_stream() -> Any:
        yield 1

    for fn in (stream, async_stream):
        with pytest.raises(TypeError, match="stream"):
            Pipeline(StaleCache(fresh_for=1, stale_for=1))(fn)
        with pytest.raises(TypeError, match="stream"):
            Pipeline(CircuitBreaker("b"), classify_result=lambda value: Verdict.SUCCESS)(fn)

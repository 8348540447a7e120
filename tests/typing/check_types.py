"""Read by mypy and pyright, never run: decorating keeps every type."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from typing import Any, assert_type

from resilience_core import CircuitBreaker, CircuitState, Pipeline, Retry, Timeout

guard = Pipeline(Retry(on=ConnectionError), CircuitBreaker("b"))


@guard
def blocking(number: int, *, text: str = "") -> list[str]:
    return [text] * number


@Timeout(5)
async def coroutine(number: int) -> bytes:
    return b"" * number


@guard
def stream(number: int) -> Iterator[int]:
    yield number


@guard
async def async_stream(number: int) -> AsyncIterator[int]:
    yield number


class Service:
    @guard
    def method(self, number: int) -> float:
        return number / 2


async def checks() -> None:
    assert_type(blocking(1, text="a"), list[str])
    work: Coroutine[Any, Any, bytes] = coroutine(1)
    await work
    assert_type(await coroutine(1), bytes)
    assert_type(stream(1), Iterator[int])
    assert_type(async_stream(1), AsyncIterator[int])
    assert_type(Service().method(3), float)
    assert_type(guard.call(blocking, 3, text="b"), list[str])
    assert_type(await guard.acall(coroutine, 3), bytes)
    assert_type(CircuitBreaker("b").state, CircuitState)
    plain: Callable[[int], int] = guard(abs)
    assert_type(plain(3), int)
    blocking("1")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    guard.call(blocking, "1")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]

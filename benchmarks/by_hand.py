"""Hand-written functions with the same guarantees as the policies: any arguments, thread-safe, results of an older
generation change nothing. In the order of the stack: fallback, retry, breaker, bulkhead, limiter.

They are what a careful engineer would write for one function; the ratio to them is the price of generality.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any


class State:
    """What the functions share: a breaker's generation and count, free slots, a rate limiter's schedule."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.generation = 1
        self.quiet = 1
        self.failures = 0
        self.opened_at = 0.0
        self.free = [None] * 1000
        self.tat = 0.0


class Open(Exception):
    """The hand-written breaker's rejection."""


def _fail(state: State, generation: int) -> None:
    with state.lock:
        if generation == state.generation:
            state.quiet = 0
            state.failures += 1
            if state.failures >= 5:
                state.generation += 1
                state.opened_at = time.monotonic()


def _succeed(state: State, generation: int) -> None:
    with state.lock:
        if generation == state.generation:
            state.failures = 0
            state.quiet = generation


def _admit(state: State) -> int:
    if state.failures >= 5 and time.monotonic() < state.opened_at + 60:
        raise Open
    return state.generation


def breaker(fn: Callable[..., Any]) -> Callable[..., Any]:
    state = State()

    def call(*args: Any, **kwargs: Any) -> Any:
        generation = state.quiet or _admit(state)
        try:
            result = fn(*args, **kwargs)
        except Exception:
            _fail(state, generation)
            raise
        if state.quiet != generation:
            _succeed(state, generation)
        return result

    return call


class Window:
    """The last 100 outcomes of one generation."""

    def __init__(self, generation: int) -> None:
        self.generation = generation
        self.ring = bytearray(100)
        self.at = 0
        self.calls = 0
        self.bad = 0


def windowed_breaker(fn: Callable[..., Any]) -> Callable[..., Any]:
    """A breaker that opens at 50 % failures of the last 100 calls; its straight-line steps are atomic under the GIL."""
    state = State()
    window = Window(1)

    def fail(mine: Window) -> None:
        nonlocal window
        with state.lock:
            mine.bad += 1 - mine.ring[mine.at]
            mine.ring[mine.at] = 1
            mine.at = (mine.at + 1) % 100
            mine.calls = min(100, mine.calls + 1)
            if mine is window and mine.calls >= 10 and mine.bad * 2 >= mine.calls:
                state.opened_at = time.monotonic()
                window = Window(mine.generation + 1)

    def call(*args: Any, **kwargs: Any) -> Any:
        mine = window
        if state.opened_at and time.monotonic() < state.opened_at + 60:
            raise Open
        try:
            result = fn(*args, **kwargs)
        except Exception:
            fail(mine)
            raise
        at = mine.at
        mine.bad -= mine.ring[at]
        mine.ring[at] = 0
        mine.at = at + 1 if at < 99 else 0
        if mine.calls < 100:
            mine.calls += 1
        return result

    return call


def breaker_async(fn: Callable[..., Any]) -> Callable[..., Any]:
    state = State()

    async def call(*args: Any, **kwargs: Any) -> Any:
        generation = state.quiet or _admit(state)
        try:
            result = await fn(*args, **kwargs)
        except Exception:
            _fail(state, generation)
            raise
        if state.quiet != generation:
            _succeed(state, generation)
        return result

    return call


def retry(fn: Callable[..., Any]) -> Callable[..., Any]:
    def call(*args: Any, **kwargs: Any) -> Any:
        for attempt in range(3):
            try:
                return fn(*args, **kwargs)
            except ConnectionError:
                if attempt == 2:
                    raise
        raise AssertionError

    return call


def retry_async(fn: Callable[..., Any]) -> Callable[..., Any]:
    async def call(*args: Any, **kwargs: Any) -> Any:
        for attempt in range(3):
            try:
                return await fn(*args, **kwargs)
            except ConnectionError:
                if attempt == 2:
                    raise
        raise AssertionError

    return call


def bulkhead(fn: Callable[..., Any]) -> Callable[..., Any]:
    free = [None] * 1000

    def call(*args: Any, **kwargs: Any) -> Any:
        try:
            del free[-1]
        except IndexError:
            raise Open from None
        try:
            return fn(*args, **kwargs)
        finally:
            free.append(None)

    return call


def fallback(fn: Callable[..., Any]) -> Callable[..., Any]:
    def call(*args: Any, **kwargs: Any) -> Any:
        try:
            return fn(*args, **kwargs)
        except Exception:
            return None

    return call


def cache(fn: Callable[..., Any]) -> Callable[..., Any]:
    lock = threading.Lock()
    entries: dict[Any, tuple[Any, float]] = {}

    def call(*args: Any, **kwargs: Any) -> Any:
        key = (args, tuple(sorted(kwargs.items())))
        with lock:
            found = entries.get(key)
        if found is None or time.monotonic() >= found[1]:
            found = fn(*args, **kwargs), time.monotonic() + 3600
            with lock:
                entries[key] = found
        return found[0]

    return call


def limiter(fn: Callable[..., Any]) -> Callable[..., Any]:
    state = State()
    interval, tolerance = 1e-9, 1.0

    def call(*args: Any, **kwargs: Any) -> Any:
        now = time.monotonic()
        tat = state.tat
        if tat < now:
            tat = now
        if tat - now > tolerance:
            raise Open
        state.tat = tat + interval
        return fn(*args, **kwargs)

    return call


def limiter_async(fn: Callable[..., Any]) -> Callable[..., Any]:
    state = State()
    interval, tolerance = 1e-9, 1.0

    async def call(*args: Any, **kwargs: Any) -> Any:
        now = time.monotonic()
        tat = state.tat
        if tat < now:
            tat = now
        if tat - now > tolerance:
            raise Open
        state.tat = tat + interval
        return await fn(*args, **kwargs)

    return call


def stack(fn: Callable[..., Any]) -> Callable[..., Any]:
    state = State()
    interval, tolerance = 1e-9, 1.0

    def call(*args: Any, **kwargs: Any) -> Any:
        try:
            for attempt in range(3):
                try:
                    generation = state.quiet or _admit(state)
                    try:
                        try:
                            del state.free[-1]
                        except IndexError:
                            raise Open from None
                        try:
                            now = time.monotonic()
                            tat = state.tat
                            if tat < now:
                                tat = now
                            if tat - now > tolerance:
                                raise Open
                            state.tat = tat + interval
                            result = fn(*args, **kwargs)
                        finally:
                            state.free.append(None)
                    except Exception:
                        _fail(state, generation)
                        raise
                    if state.quiet != generation:
                        _succeed(state, generation)
                    return result
                except ConnectionError:
                    if attempt == 2:
                        raise
        except Exception:
            return None

    return call


def stack_async(fn: Callable[..., Any]) -> Callable[..., Any]:
    state = State()
    interval, tolerance = 1e-9, 1.0

    async def call(*args: Any, **kwargs: Any) -> Any:
        try:
            for attempt in range(3):
                try:
                    generation = state.quiet or _admit(state)
                    try:
                        try:
                            del state.free[-1]
                        except IndexError:
                            raise Open from None
                        try:
                            now = time.monotonic()
                            tat = state.tat
                            if tat < now:
                                tat = now
                            if tat - now > tolerance:
                                raise Open
                            state.tat = tat + interval
                            result = await fn(*args, **kwargs)
                        finally:
                            state.free.append(None)
                    except Exception:
                        _fail(state, generation)
                        raise
                    if state.quiet != generation:
                        _succeed(state, generation)
                    return result
                except ConnectionError:
                    if attempt == 2:
                        raise
        except Exception:
            return None

    return call

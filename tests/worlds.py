"""One description of a test, run in blocking code, on asyncio and on trio.

A test writes its guarded function once as an async one (`async def fn`) and asks the world to guard and run it. In the
blocking world the same body is driven without an event loop, so it must not await anything but the world's own helpers.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from resilience_core import Clock, Policy
from resilience_core.testing import run_virtual, run_virtual_trio, virtual_time


def drive(coroutine: Coroutine[Any, Any, Any]) -> Any:
    """Run a coroutine that awaits nothing."""
    try:
        coroutine.send(None)
    except StopIteration as stop:
        return stop.value
    raise AssertionError("the blocking world cannot await")


class World:
    """Where a test's story runs."""

    def __init__(self, name: str) -> None:
        self.name = name

    def run(self, story: Callable[[], Coroutine[Any, Any, Any]]) -> Any:
        """Run the story in virtual time."""
        if self.name == "asyncio":
            return run_virtual(story)
        if self.name == "trio":
            return run_virtual_trio(story)
        with virtual_time():
            return drive(story())

    def guard(self, policy: Policy, fn: Callable[..., Coroutine[Any, Any, Any]]) -> Callable[..., Any]:
        """`fn` guarded in this world; awaitable in each."""
        if self.name != "blocking":
            return policy(fn)

        @functools.wraps(fn)
        def blocking(*args: Any, **kwargs: Any) -> Any:
            return drive(fn(*args, **kwargs))

        guarded = policy(blocking)

        async def awaitable(*args: Any, **kwargs: Any) -> Any:
            return guarded(*args, **kwargs)

        return awaitable

    async def call(self, policy: Policy, fn: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """`policy.call` or `policy.acall`."""
        if self.name != "blocking":
            return await policy.acall(fn, *args, **kwargs)
        return policy.call(lambda *own, **named: drive(fn(*own, **named)), *args, **kwargs)


@pytest.fixture(params=["blocking", "asyncio", "trio"])
def world(request: pytest.FixtureRequest) -> World:
    return World(request.param)


class Script:
    """An async function that raises or returns the next outcome; the last one for ever."""

    def __init__(self, *outcomes: Any) -> None:
        self.outcomes = list(outcomes)
        self.calls = 0

    async def __call__(self, *args: Any, **kwargs: Any) -> Any:
        self.calls += 1
        outcome = self.outcomes.pop(0) if len(self.outcomes) > 1 else self.outcomes[0]
        if isinstance(outcome, BaseException):
            raise outcome
        if inspect.iscoroutinefunction(outcome):
            return await outcome()
        return outcome

    @property
    def fn(self) -> Callable[..., Coroutine[Any, Any, Any]]:
        async def scripted(*args: Any, **kwargs: Any) -> Any:
            return await self(*args, **kwargs)

        return scripted


class ManualClock(Clock):
    """A clock that only the test moves."""

    def __init__(self, time: float = 100.0) -> None:
        self.time = time
        super().__init__(lambda: self.time, lambda: self.time, self._pass, self._pass_async)

    def _pass(self, seconds: float) -> None:
        self.time += seconds

    async def _pass_async(self, seconds: float) -> None:
        self.time += seconds

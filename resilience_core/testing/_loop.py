"""Event loops in virtual time: when every task waits, the clock jumps to the next timer."""

from __future__ import annotations

import asyncio
import selectors
import time
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from resilience_core._clock import Clock
from resilience_core.testing._virtual import swapped

T = TypeVar("T")
_PATIENCE = 5.0  # real seconds for threads to wake a loop that has nothing else to do


class Deadlock(RuntimeError):
    """Every task waits, no timer is set, and nothing came from outside."""


class _JumpingSelector(selectors.DefaultSelector):
    """Where a loop would block until its next timer, moves the clock there instead."""

    def __init__(self) -> None:
        super().__init__()
        self.time = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        ready = super().select(0)
        if ready or timeout == 0:
            return ready
        if timeout is None:
            started = time.monotonic()
            ready = super().select(_PATIENCE)
            if not ready and time.monotonic() - started >= _PATIENCE:
                raise Deadlock("every task waits, and no timer is set")
            return ready
        self.time += timeout
        return ready


class _VirtualLoop(asyncio.SelectorEventLoop):
    def __init__(self) -> None:
        self._jumping = _JumpingSelector()
        super().__init__(self._jumping)

    def time(self) -> float:
        return self._jumping.time


def _no_blocking_sleep(seconds: float) -> None:
    raise RuntimeError("a blocking wait inside run_virtual would stop the loop that keeps the time")


def run_virtual(main: Callable[..., Awaitable[T]], *args: Any) -> T:
    """Run an async function on asyncio in virtual time; policies without a clock of their own follow it.

    `asyncio.sleep`, time-outs and the waits of all policies take no real time, and keep their order exactly.

    Raises:
        Deadlock: every task waits and there is no timer.
    """
    loop = _VirtualLoop()
    clock = Clock(loop.time, lambda: 1_700_000_000.0 + loop.time(), _no_blocking_sleep, asyncio.sleep)

    async def run() -> T:
        return await main(*args)

    with swapped(clock), asyncio.Runner(loop_factory=lambda: loop) as runner:
        return runner.run(run())


def run_virtual_trio(main: Callable[..., Awaitable[T]], *args: Any) -> T:
    """The same on trio, with its own `MockClock`."""
    import trio
    import trio.testing

    mock = trio.testing.MockClock(autojump_threshold=0)
    clock = Clock(mock.current_time, lambda: 1_700_000_000.0 + mock.current_time(), _no_blocking_sleep, trio.sleep)
    with swapped(clock):
        return trio.run(main, *args, clock=mock)

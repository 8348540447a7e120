"""The one way to wait for another caller: thread, asyncio task or trio task.

A waiter is made by the one who waits. `wake()` may be called from any thread, under a lock (it runs no foreign code),
at most once; it answers False when nobody can be woken any more because the event loop is gone, and then whatever was
handed over belongs to the next in line. `wait` answers True when woken and False when `timeout` seconds passed first;
being woken and timing out at the same moment is decided by the caller's own lock, not here.
"""

from __future__ import annotations

import sys
import threading
from typing import Literal, Protocol

from resilience_core._clock import Clock
from resilience_core._errors import ConfigurationError


def running_world() -> Literal["asyncio", "trio"] | None:
    """Which event loop runs in this thread right now, if any. Never imports one."""
    trio = sys.modules.get("trio")
    if trio is not None and trio.lowlevel.in_trio_task():
        return "trio"
    asyncio = sys.modules.get("asyncio")
    return "asyncio" if asyncio is not None and asyncio._get_running_loop() is not None else None


def refuse_parking() -> None:
    """Raise `ConfigurationError` where a blocking wait would stop the event loop of this thread."""
    world = running_world()
    if world is not None:
        raise ConfigurationError(
            f"a blocking call must not wait on the thread of a running {world} loop, which would stop with it: "
            "guard an async function"
        )


def pause(clock: Clock, seconds: float) -> None:
    """Let time pass on a thread that runs no event loop."""
    refuse_parking()
    clock.sleep(seconds)


async def pause_async(clock: Clock, seconds: float) -> None:
    """The same in an event loop."""
    await clock.async_sleep(seconds)


class Waiter(Protocol):
    """What a queue of waiting callers needs to know of each of them."""

    def wake(self) -> bool:
        """End the wait; False if there is nobody left to wake."""
        ...


class AsyncWaiter(Waiter, Protocol):
    """A waiter in an event loop."""

    async def wait(self, timeout: float | None, usual: bool = False) -> bool:
        """Wait to be woken, for at most `timeout` seconds; `usual` where many wait for just so long."""
        ...


class ThreadWaiter:
    """A blocked thread: a lock that is taken, and released to wake."""

    __slots__ = ("_lock",)

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._lock.acquire()

    def wake(self) -> bool:
        """End the wait."""
        self._lock.release()
        return True

    def wait(self, timeout: float | None, usual: bool = False) -> bool:
        """Block until woken, for at most `timeout` seconds."""
        refuse_parking()
        return self._lock.acquire(timeout=-1 if timeout is None else max(0.0, timeout))


class AsyncioWaiter:
    """A suspended asyncio task: a future of its loop."""

    __slots__ = ("_future", "_loop", "deadline")

    def __init__(self) -> None:
        import asyncio

        self._loop = asyncio.get_running_loop()
        self._future: asyncio.Future[bool] = self._loop.create_future()
        self.deadline = 0.0

    def wake(self) -> bool:
        """End the wait, from this loop or from any thread; False if the loop is closed."""
        import asyncio

        try:
            same_loop = asyncio.get_running_loop() is self._loop
        except RuntimeError:
            same_loop = False
        if same_loop:
            self._set(True)
            return True
        try:
            self._loop.call_soon_threadsafe(self._set, True)
        except RuntimeError:  # the loop is closed: its tasks are gone
            return False
        return True

    def _set(self, woken: bool) -> None:
        if not self._future.done():
            self._future.set_result(woken)

    def expire(self) -> None:
        """The wait has lasted long enough."""
        self._set(False)

    async def wait(self, timeout: float | None, usual: bool = False) -> bool:
        """Suspend the task until woken, for at most `timeout` seconds."""
        if timeout is None:
            return await self._future
        if usual:
            return await self._wait_in_line(timeout)
        timer = self._loop.call_later(timeout, self._set, False)
        try:
            return await self._future
        finally:
            timer.cancel()

    async def _wait_in_line(self, timeout: float) -> bool:
        """The same with the timer that all waits of this length share."""
        from resilience_core._weave.expiry import expiry_of

        line = expiry_of(self._loop, timeout)
        self.deadline = self._loop.time() + timeout
        line.add(self, self._loop)
        try:
            return await self._future
        finally:
            line.remove(self)


class TrioWaiter:
    """A suspended trio task: an event, set through the run's token when the waker is elsewhere."""

    __slots__ = ("_event", "_token", "_trio")

    def __init__(self) -> None:
        import trio

        self._trio = trio
        self._event = trio.Event()
        self._token = trio.lowlevel.current_trio_token()

    def wake(self) -> bool:
        """End the wait, from this run or from any thread; False if the run is over."""
        trio = self._trio
        if trio.lowlevel.in_trio_run() and trio.lowlevel.current_trio_token() is self._token:
            self._event.set()
            return True
        try:
            self._token.run_sync_soon(self._event.set)
        except trio.RunFinishedError:
            return False
        return True

    async def wait(self, timeout: float | None, usual: bool = False) -> bool:
        """Suspend the task until woken, for at most `timeout` seconds."""
        with self._trio.move_on_after(float("inf") if timeout is None else timeout):
            await self._event.wait()
            return True
        return False


def async_waiter() -> AsyncWaiter:
    """A waiter for the event loop that runs now."""
    return TrioWaiter() if running_world() == "trio" else AsyncioWaiter()

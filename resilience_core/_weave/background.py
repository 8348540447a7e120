"""Work that goes on beside the caller: a task on asyncio, a system task on trio, a thread in blocking code.

A job keeps its outcome for whoever asks, never raises into its event loop, and tells `on_end` once when it is over.
It runs in a copy of the context it was started in, so deadlines and call records are seen inside. Every job is held
here until it ends: a task that nobody holds may be collected while it runs.
"""

from __future__ import annotations

import contextvars
import threading
from abc import abstractmethod
from collections.abc import Awaitable, Callable
from typing import Any, cast

from resilience_core._weave.waiting import refuse_parking, running_world

_running: set[Job] = set()


class Job:
    """One piece of work; `error` and `value` mean something once it is `done`."""

    __slots__ = ("__weakref__", "_on_end", "done", "error", "value")

    def __init__(self, on_end: Callable[[Job], None]) -> None:
        self._on_end = on_end
        self.done = False
        self.value: Any = None
        self.error: BaseException | None = None
        _running.add(self)

    def cancel(self) -> None:
        """Ask it to end; a thread cannot be asked."""

    def _end(self) -> None:
        self.done = True
        _running.discard(self)
        self._on_end(self)


class ThreadJob(Job):
    """A daemon thread."""

    __slots__ = ()

    def __init__(self, work: Callable[[], Any], on_end: Callable[[Job], None]) -> None:
        super().__init__(on_end)
        context = contextvars.copy_context()
        thread = threading.Thread(target=context.run, args=(self._run, work), name="resilience-job", daemon=True)
        try:
            thread.start()
        except RuntimeError:  # no more threads to be had
            _running.discard(self)
            raise

    def _run(self, work: Callable[[], Any]) -> None:
        try:
            self.value = work()
        except BaseException as error:
            self.error = error
        self._end()


class LoopJob(Job):
    """A job in an event loop."""

    __slots__ = ()

    @abstractmethod
    async def join(self) -> None:
        """Wait until it is over, also in a task that is being cancelled."""


class AsyncioJob(LoopJob):
    """A task."""

    __slots__ = ("_task",)

    def __init__(self, work: Callable[[], Awaitable[Any]], on_end: Callable[[Job], None]) -> None:
        import asyncio

        super().__init__(on_end)
        self._task = asyncio.get_running_loop().create_task(self._run(work))
        # A task that is cancelled before its first step never runs a line of its own.
        self._task.add_done_callback(self._over)

    async def _run(self, work: Callable[[], Awaitable[Any]]) -> None:
        try:
            self.value = await work()
        except BaseException as error:
            self.error = error

    def _over(self, task: Any) -> None:
        if task.cancelled():
            import asyncio

            self.error = asyncio.CancelledError()
        self._end()

    def cancel(self) -> None:
        """Cancel the task."""
        self._task.cancel()

    async def join(self) -> None:
        """Wait until the task is over."""
        import asyncio

        if not self.done:
            await asyncio.wait([self._task])


class TrioJob(LoopJob):
    """A system task in a cancel scope of its own."""

    __slots__ = ("_event", "_scope", "_trio")

    def __init__(self, work: Callable[[], Awaitable[Any]], on_end: Callable[[Job], None]) -> None:
        import trio

        super().__init__(on_end)
        self._trio = trio
        self._scope = trio.CancelScope()
        self._event = trio.Event()
        trio.lowlevel.spawn_system_task(self._run, work, context=contextvars.copy_context())

    async def _run(self, work: Callable[[], Awaitable[Any]]) -> None:
        try:
            with self._scope:
                try:
                    self.value = await work()
                except BaseException as error:
                    self.error = error
                    if isinstance(error, self._trio.Cancelled):
                        raise
        finally:
            self._event.set()
            self._end()

    def cancel(self) -> None:
        """Cancel the scope."""
        self._scope.cancel()

    async def join(self) -> None:
        """Wait until the task is over."""
        with self._trio.CancelScope(shield=True):
            await self._event.wait()


def spawn(work: Callable[[], Any], on_end: Callable[[Job], None]) -> Job:
    """Start blocking work beside the caller."""
    return ThreadJob(work, on_end)


def spawn_async(work: Callable[[], Awaitable[Any]], on_end: Callable[[Job], None]) -> Job:
    """Start async work beside the caller."""
    return TrioJob(work, on_end) if running_world() == "trio" else AsyncioJob(work, on_end)


def spawn_awaited(work: Callable[[], Any], on_end: Callable[[Job], None]) -> Job:
    """The same for work that the caller will wait for; refused on the thread of a running event loop."""
    refuse_parking()
    return spawn(work, on_end)


def spawn_awaited_async(work: Callable[[], Awaitable[Any]], on_end: Callable[[Job], None]) -> Job:
    """The same for async code, where waiting stops nobody."""
    return spawn_async(work, on_end)


def wind_up(jobs: list[Job]) -> None:
    """Nothing can be done about threads: they end when their work does."""


async def wind_up_async(jobs: list[Job]) -> None:
    """Cancel jobs and wait until they are over; for a caller that is being cancelled itself."""
    for job in jobs:
        job.cancel()
    for job in jobs:
        await cast("LoopJob", job).join()

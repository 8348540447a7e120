"""Time-outs on asyncio: one timer per loop and duration serves all calls, and all waits in queues.

Calls with the same duration expire in the order in which they began, so the oldest entry is the only one to watch, and
a call that ends in time costs an insertion and a removal instead of a timer. The rules of cancellation are those of
`asyncio.timeout`: an expired call is cancelled, that cancellation is taken back on every path, and it is turned into a
time-out only if nobody else asked for a cancellation meanwhile.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Protocol
from weakref import WeakKeyDictionary, ref


class Timed(Protocol):
    """What ends at `deadline`, in seconds of its loop, unless it is removed before."""

    deadline: float

    def expire(self) -> None: ...


class Entry:
    """One call that must end by `deadline`."""

    __slots__ = ("cancelling", "deadline", "expired", "task")

    def __init__(self, task: asyncio.Task[object], deadline: float) -> None:
        self.task = task
        self.deadline = deadline
        self.cancelling = task.cancelling()
        self.expired = False

    def expire(self) -> None:
        """Cancel the call."""
        self.expired = True
        self.task.cancel()


class Expiry:
    """All calls and waits of one loop that may take the same `seconds`."""

    # It must not hold its loop, nor a timer, which holds it: the map below would keep every loop of the process alive.
    __slots__ = ("_armed", "_entries", "_seconds")

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._entries: dict[Timed, None] = {}
        self._armed = False

    def enter(self, loop: asyncio.AbstractEventLoop) -> Entry:
        """The task that runs in `loop` begins a call. Raises `RuntimeError` outside of a task."""
        task = asyncio.current_task(loop)
        if task is None:
            raise RuntimeError("a time-out needs a running task")
        entry = Entry(task, loop.time() + self._seconds)
        self.add(entry, loop)
        return entry

    def leave(self, entry: Entry, cancelled: bool) -> bool:
        """The call ended; whether its cancellation was ours alone, so that it is a time-out."""
        if not entry.expired:
            del self._entries[entry]
            return False
        return entry.task.uncancel() <= entry.cancelling and cancelled

    def add(self, entry: Timed, loop: asyncio.AbstractEventLoop) -> None:
        """Let `entry`, whose deadline is `seconds` from now, expire unless it is removed before."""
        self._entries[entry] = None
        if not self._armed:
            self._armed = True
            loop.call_at(entry.deadline, self._expire, loop)

    def remove(self, entry: Timed) -> None:
        """Forget it, if it has not expired."""
        self._entries.pop(entry, None)

    def _expire(self, loop: asyncio.AbstractEventLoop) -> None:
        self._armed = False
        now = loop.time()
        for entry in list(self._entries):
            if entry.deadline > now:
                self._armed = True
                loop.call_at(entry.deadline, self._expire, loop)
                return
            del self._entries[entry]
            entry.expire()


_of_loop: WeakKeyDictionary[asyncio.AbstractEventLoop, dict[float, Expiry]] = WeakKeyDictionary()


def expiry_of(loop: asyncio.AbstractEventLoop, seconds: float) -> Expiry:
    """The expiry queue that all time-outs of `seconds` in `loop` share."""
    queues = _of_loop.get(loop)
    if queues is None:
        queues = _of_loop.setdefault(loop, {})
    queue = queues.get(seconds)
    if queue is None:
        queue = queues.setdefault(seconds, Expiry(seconds))
    return queue


def expiry_finder(seconds: float) -> Callable[[asyncio.AbstractEventLoop], Expiry]:
    """`expiry_of` for one call site, which nearly always meets the same loop again and then asks no map."""
    last: tuple[ref[asyncio.AbstractEventLoop], Expiry] | None = None

    def find(loop: asyncio.AbstractEventLoop) -> Expiry:
        nonlocal last
        known = last  # one read: another thread may replace the pair
        if known is not None and known[0]() is loop:
            return known[1]
        expiry = expiry_of(loop, seconds)
        last = ref(loop), expiry
        return expiry

    return find

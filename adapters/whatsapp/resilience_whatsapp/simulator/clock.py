"""The simulator's one clock: limits, windows, expiries, delays and retries are all timed by it.

`SimClock(speed=60)` lets a minute of the API pass in a second of real time. `ManualClock` stands still until it is told
to `advance`, for tests that must not wait. A time is in seconds since 1970, as the API's timestamps are.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
import math
import time
from collections.abc import Callable
from typing import Any, Protocol


class Timer(Protocol):
    """What will happen at its time, unless it is cancelled before."""

    def cancel(self) -> None:
        """It will not happen."""
        ...


class SimClock:
    """Real time, `speed` times as fast."""

    def __init__(self, speed: float = 1.0) -> None:
        if not 0 < speed < math.inf:
            raise ValueError("speed must be a number above 0: seconds of the API in a second of real time")
        self.speed = float(speed)
        self._began_at = time.time()
        self._began = time.monotonic()

    def now(self) -> float:
        """The API's time in seconds since 1970."""
        return self._began_at + (time.monotonic() - self._began) * self.speed

    def call_later(self, seconds: float, callback: Callable[[], Any]) -> Timer:
        """Call `callback` in the running loop when `seconds` of the API's time have passed."""
        return asyncio.get_running_loop().call_later(seconds / self.speed, callback)

    async def sleep(self, seconds: float) -> None:
        """Wait for `seconds` of the API's time."""
        await self.within(seconds, None)

    async def within(self, seconds: float, event: asyncio.Event | None) -> bool:
        """Wait until `event` is set, at most `seconds` of the API's time; whether it was set."""
        over = asyncio.Event()
        timer = self.call_later(seconds, over.set)
        waiting = [asyncio.ensure_future(each.wait()) for each in (over, event) if each is not None]
        try:
            await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            return event is not None and event.is_set()
        finally:
            timer.cancel()
            for each in waiting:
                each.cancel()


class ManualClock(SimClock):
    """Time that passes only by `advance`; it begins at `start`, so that a test's timestamps never differ."""

    def __init__(self, start: float = 1_800_000_000.0) -> None:
        super().__init__()
        self._now = start
        self._order = itertools.count()
        self._timers: list[tuple[float, int, _ManualTimer]] = []

    def now(self) -> float:
        """The API's time in seconds since 1970."""
        return self._now

    def call_later(self, seconds: float, callback: Callable[[], Any]) -> Timer:
        """Call `callback` within `advance`, when it has come so far."""
        timer = _ManualTimer(callback)
        heapq.heappush(self._timers, (self._now + seconds, next(self._order), timer))
        return timer

    async def advance(self, seconds: float) -> None:
        """Let `seconds` pass: all that was to happen in them happens, in its order.

        Before and after each step the loop runs a few turns, so that who waited has set its next timer. Requests over
        HTTP take real time: wait for their ends before advancing further.
        """
        end = self._now + seconds
        await _turns()
        while self._timers and self._timers[0][0] <= end:
            self._now = self._timers[0][0]
            while self._timers and self._timers[0][0] <= self._now:  # what is due together happens together
                timer = heapq.heappop(self._timers)[2]
                if timer.callback is not None:
                    timer.callback()
            await _turns()
        self._now = end
        await _turns()


class _ManualTimer:
    def __init__(self, callback: Callable[[], Any]) -> None:
        self.callback: Callable[[], Any] | None = callback

    def cancel(self) -> None:
        self.callback = None


async def _turns() -> None:
    for _ in range(5):
        await asyncio.sleep(0)

"""Sliding windows: how many of the recent calls were bad. Their cost does not grow with their length.

    CountWindow(size)               the last `size` calls, in a ring
    TimeWindow(seconds, buckets)    the calls of the last `seconds`, in buckets of seconds / buckets

A time window counts into buckets that are aligned to the clock: bucket i holds [i * width, (i + 1) * width). A result
that is recorded late (another thread read the clock before and got here after) is credited to the bucket of its own
time; when that bucket has left the window, it is dropped.

What must never happen: totals that differ from the sum of what is in the window, also when a good call is counted
without a lock: `add_good` has neither call nor loop, so it is atomic under the GIL, and it answers False, having done
nothing, where more is to be done than that.
"""

from __future__ import annotations

from typing import Any, Protocol

from attrs import field, frozen

from resilience_core import _validation as check
from resilience_core._validation import to_seconds

_A_NANOSECOND = 1e-9


class Window(Protocol):
    """The calls that are remembered."""

    calls: int
    bad: int

    def add(self, bad: bool, now: float) -> None:
        """Count one call that ended at `now`."""
        ...

    def add_good(self, now: float, duration: float) -> bool:
        """Count one good call, if that needs no lock; False when it was not counted."""
        ...

    def turn(self, now: float) -> None:
        """Forget what has left the window at `now`."""
        ...

    def look(self, now: float) -> tuple[int, int]:
        """Calls and bad calls at `now`. Changes nothing and needs no lock; what is counted meanwhile may be missed."""
        ...

    def export(self, now: float) -> dict[str, Any]:
        """The content as plain values, times as ages."""
        ...

    def restore(self, saved: dict[str, Any], now: float) -> None:
        """Take over what `export` gave."""
        ...


@frozen
class CountWindow:
    """The last `size` calls."""

    size: int = field(default=100, validator=check.count_from(1, 1_000_000))

    @property
    def capacity(self) -> int:
        """The most calls that it can hold."""
        return self.size

    def start(self) -> CountRing:
        """An empty window."""
        return CountRing(self.size)


@frozen
class TimeWindow:
    """The calls of the last `seconds`, forgotten a bucket at a time."""

    seconds: float = field(default=30.0, converter=to_seconds, validator=check.positive_seconds)
    buckets: int = field(default=10, kw_only=True, validator=check.count_from(1, 100_000))

    @property
    def capacity(self) -> float:
        """The most calls that it can hold."""
        return float("inf")

    def start(self) -> TimeRing:
        """An empty window."""
        return TimeRing(self.seconds, self.buckets)


def resumed_window(asked: CountWindow | TimeWindow, window: Window, now: float) -> Window:
    """A window as `asked`, with as much of another one's calls as fits; that one itself where it is as asked.

    Of a window of the other kind nothing can be kept: a ring of calls knows no times, and buckets no order.
    """
    fresh = asked.start()
    if isinstance(fresh, CountRing) and isinstance(window, CountRing):
        if fresh.size == window.size:
            return window
        fresh.restore(window.export(now), now)
    elif isinstance(fresh, TimeRing) and isinstance(window, TimeRing):
        if (fresh.width, fresh.buckets) == (window.width, window.buckets):
            return window
        fresh.take_over(window, now)
    return fresh


class CountRing:
    """A ring with 1 for a bad call and 0 for a good or a missing one."""

    __slots__ = ("_at", "_ring", "_size", "bad", "calls")

    def __init__(self, size: int) -> None:
        self._ring = bytearray(size)
        self._size = size
        self._at = 0
        self.calls: int = 0
        self.bad: int = 0

    @property
    def size(self) -> int:
        """The most calls that it can hold."""
        return self._size

    def add(self, bad: bool, now: float) -> None:
        """Count one call."""
        at = self._at
        ring = self._ring
        value = 1 if bad else 0
        self.bad += value - ring[at]
        ring[at] = value
        at += 1
        self._at = 0 if at == self._size else at
        if self.calls < self._size:
            self.calls += 1

    def add_good(self, now: float, duration: float) -> bool:
        """Count one good call."""
        at = self._at
        ring = self._ring
        self.bad -= ring[at]
        ring[at] = 0
        at += 1
        self._at = 0 if at == self._size else at
        if self.calls < self._size:
            self.calls += 1
        return True

    def turn(self, now: float) -> None:
        """Time forgets nothing here."""

    def look(self, now: float) -> tuple[int, int]:
        """Calls and bad calls."""
        calls = self.calls
        return calls, min(self.bad, calls)

    def export(self, now: float) -> dict[str, Any]:
        """The calls, oldest first."""
        ordered = self._ring[self._at :] + self._ring[: self._at]
        return {"calls": list(ordered[self._size - self.calls :])}

    def restore(self, saved: dict[str, Any], now: float) -> None:
        """Count the saved calls again."""
        for bad in saved["calls"]:
            self.add(bool(bad), now)


class TimeRing:
    """Buckets in a ring; bucket i of the clock lives in place i modulo their number."""

    __slots__ = ("_bad", "_calls", "_ends", "_index", "_place", "_starts", "_width", "bad", "calls")

    def __init__(self, seconds: float, buckets: int) -> None:
        self._width = seconds / buckets
        self._calls = [0] * buckets
        self._bad = [0] * buckets
        self._index: int | None = None  # of the newest bucket
        self._place = 0
        self._starts = self._ends = float("-inf")
        self.calls: int = 0
        self.bad: int = 0

    @property
    def width(self) -> float:
        """Seconds of a bucket."""
        return self._width

    @property
    def buckets(self) -> int:
        """How many there are."""
        return len(self._calls)

    def add(self, bad: bool, now: float) -> None:
        """Count one call that ended at `now`."""
        index = self._bucket(now)
        self.turn(now)
        assert self._index is not None
        if index <= self._index - len(self._calls):
            return  # its bucket has left
        place = index % len(self._calls)
        value = 1 if bad else 0
        self._calls[place] += 1
        self._bad[place] += value
        self.calls += 1
        self.bad += value

    def add_good(self, now: float, duration: float) -> bool:
        """Count one good call into the newest bucket; False when `now` lies in another one."""
        if now < self._starts or now >= self._ends:
            return False
        self._calls[self._place] += 1
        self.calls += 1
        return True

    def turn(self, now: float) -> None:
        """Forget the buckets that have left the window at `now`."""
        index = self._bucket(now)
        if self._index is None:
            self._index = index - 1
        if index <= self._index:
            return
        self._ends = float("-inf")  # first: a call counted without the lock must not meet a half-turned ring
        buckets = len(self._calls)
        for passed in range(max(self._index + 1, index - buckets + 1), index + 1):
            place = passed % buckets
            self.calls -= self._calls[place]
            self._calls[place] = 0
            self.bad -= self._bad[place]
            self._bad[place] = 0
        self._index = index
        self._place = index % buckets
        self._starts = index * self._width
        self._ends = (index + 1) * self._width

    def _bucket(self, now: float) -> int:
        return int((now + _A_NANOSECOND) // self._width)

    def look(self, now: float) -> tuple[int, int]:
        """Calls and bad calls, without those of the buckets that have left at `now` and wait for a call to clear them.

        A ring that another thread is turning may be seen half turned: hence the bounds.
        """
        calls, bad, newest, buckets = self.calls, self.bad, self._index, len(self._calls)
        if newest is not None:
            gone = min(self._bucket(now) - newest, buckets)
            for place in ((newest + passed) % buckets for passed in range(1, gone + 1)):
                calls -= self._calls[place]
                bad -= self._bad[place]
        calls = max(0, calls)
        return calls, max(0, min(bad, calls))

    def export(self, now: float) -> dict[str, Any]:
        """The buckets that hold calls: [how many buckets ago, calls, bad]."""
        self.turn(now)
        assert self._index is not None
        number = len(self._calls)
        filled = ((age, (self._index - age) % number) for age in range(number))
        return {"buckets": [[age, self._calls[at], self._bad[at]] for age, at in filled if self._calls[at]]}

    def restore(self, saved: dict[str, Any], now: float) -> None:
        """Take over saved buckets that still fit."""
        self.turn(now)
        assert self._index is not None
        for age, calls, bad in saved["buckets"]:
            if 0 <= age < len(self._calls):
                place = (self._index - age) % len(self._calls)
                self._calls[place] += calls
                self.calls += calls
                self._bad[place] += bad
                self.bad += bad

    def take_over(self, other: TimeRing, now: float) -> None:
        """Count the calls of a ring with other buckets: each of its buckets as a whole, at the time of its middle."""
        saved: list[list[int]] = other.export(now)["buckets"]
        self.turn(now)
        assert self._index is not None
        newest = other._bucket(now)
        buckets = []
        for age, calls, bad in saved:
            middle = min(now, (newest - age + 0.5) * other.width)
            buckets.append([self._index - self._bucket(middle), calls, bad])
        self.restore({"buckets": buckets}, now)

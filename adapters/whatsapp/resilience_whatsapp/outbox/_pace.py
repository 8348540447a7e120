"""How fast queued messages are sent: slowly at first, twice as fast each interval, up to a limit.

After an outage everything that waits is due at once, and a platform that has just come back would fall over again. So
after each (re)start the rate begins at `first` and doubles every `interval` seconds. Trouble halves it; a circuit that
is open, or a limit that is met, starts it anew.

What must never happen: that more is granted at once than a quarter of a second's worth, or one message (nothing is
saved up in a pause), or a rate of 0.
"""

from __future__ import annotations

import math


class Pace:
    """Pure: the times are arguments, seconds of a monotonic clock.

    Args:
        first: messages a second at the start.
        most: messages a second at last.
        interval: seconds after which the rate is twice as high.
    """

    __slots__ = ("_began", "_first", "_free_at", "_interval", "_most", "_start")

    def __init__(self, first: float, most: float, interval: float) -> None:
        self._first, self._most, self._interval = first, most, interval
        self._start = first
        self._began: float | None = None
        self._free_at = -math.inf

    def rate(self, now: float) -> float:
        """Messages a second now."""
        if self._began is None:
            return self._start
        doublings = min(60.0, max(0.0, now - self._began) / self._interval)
        return min(self._most, self._start * 2.0 ** math.floor(doublings))

    def grant(self, now: float, most: int) -> int:
        """How many messages may be sent now, at most `most`; they count as sent.

        The next one is free when, at the present rate, these have been sent one after the other.
        """
        if self._began is None:
            self._began = now
        if most <= 0 or now < self._free_at:
            return 0
        rate = self.rate(now)
        count = max(1, min(most, int(rate * GRAIN)))
        self._free_at = now + count / rate
        return count

    def give_back(self, count: int, now: float) -> None:
        """So many of the last grant were not needed."""
        self._free_at -= count / self.rate(now)

    def wait(self, now: float) -> float:
        """Seconds until the next message may be sent."""
        return max(0.0, self._free_at - now)

    def restart(self) -> None:
        """From the beginning."""
        self._start, self._began = self._first, None

    def slow_down(self, now: float) -> None:
        """At half the present rate, and from there on faster again."""
        self._start, self._began = max(self._first, self.rate(now) / 2), now


GRAIN = 0.25
"""Seconds: what is due within so long is taken from the store at once."""

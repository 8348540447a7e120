"""The rate limiter's law: GCRA, the generic cell rate algorithm (ITU-T I.371), as a virtual schedule.

    interval = per / rate                 one permit every `interval` seconds
    tolerance = interval * (burst - 1)    how far the schedule may run ahead
    a call at `now` waits  max(0, tat - tolerance - now);  then  tat = max(tat, now) + interval

`tat` is the theoretical arrival time of the next permit. A bucket at rest gives `burst` permits at once.

What must never happen: in any window of T seconds more than burst + T * rate / per permits; a cancelled reservation
that pushes later ones back for good (it is given back as far as nobody reserved after it, as golang.org/x/time does).

`take` has neither call nor loop, so it is atomic under the GIL and needs no lock there.
"""

from __future__ import annotations

from typing import Any

ASK = float("-inf")
"""What `take` answers where the permits are kept elsewhere, and none is at hand: ask there."""
_A_NANOSECOND = 1e-9  # sums of floats miss an exact boundary by far less, and no clock tells a finer time


class Bucket:
    """The schedule of one limiter, or of one key of it."""

    __slots__ = ("closed_until", "interval", "tat", "tolerance")

    def __init__(self, interval: float, burst: int) -> None:
        self.interval: float = interval
        self.tolerance: float = interval * (burst - 1)
        self.tat: float = float("-inf")
        self.closed_until: float = float("-inf")

    def take(self, now: float, max_wait: float) -> float:
        """Reserve one permit. Seconds to wait for it (0 or more), or -1 - wait when that is over `max_wait`.

        A refusal reserves nothing.
        """
        tat = self.tat
        if tat < now:
            tat = now
        wait = tat - self.tolerance - now
        closed = self.closed_until - now
        if wait < closed:
            wait = closed
        if wait <= _A_NANOSECOND:
            wait = 0.0
        elif wait > max_wait:
            return -1.0 - wait
        self.tat = tat + self.interval
        return wait

    def wait(self, now: float) -> float:
        """Seconds that `take` would answer at `now`; reserves nothing."""
        wait = max(self.tat - self.tolerance, self.closed_until) - now
        return 0.0 if wait <= _A_NANOSECOND else wait

    def mark(self) -> Any:
        """What `give_back` needs to know of the permit that was reserved last."""
        return self.tat

    def at_rest(self, now: float) -> bool:
        """Whether all permits are there."""
        return self.tat <= now and self.closed_until <= now

    def give_back(self, mark: Any) -> None:
        """Return the permit that `mark` was told of, unless somebody reserved after it."""
        if self.tat == mark:
            self.tat -= self.interval

    def retune(self, interval: float, burst: int, now: float) -> None:
        """Give permits at another rate from `now` on. Those that were taken stay taken, and no more than those.

        Like `take` without call or loop: a permit taken meanwhile by another thread is not lost.
        """
        tat = self.tat
        if tat > now:
            self.tat = now + (tat - now) / self.interval * interval
        self.interval = interval
        self.tolerance = interval * (burst - 1)

    def close_until(self, moment: float) -> None:
        """Give no permit before `moment`, as the dependency asked; an earlier moment never shortens that."""
        self.closed_until = max(self.closed_until, moment)

    def available(self, now: float) -> int:
        """Permits that could be taken at `now` without waiting."""
        if now < self.closed_until:
            return 0
        ahead = max(0.0, self.tat - now)
        return max(0, int((self.tolerance - ahead) / self.interval + 1 + 1e-9))

"""The rate that a number may send at: learnt by AIMD below what the API says it can, with a slow start.

    ceiling      share * level; the level is the API's: 80 messages a second, 1,000 when upgraded
    after a hit  CUT * rate, then + ceiling / REGAIN each second                  (hit: error 130429)
    slow start   ceiling / 8, then twice as much each DOUBLING seconds
    rate         the lowest of the three, at least MINIMUM

What must never happen: a rate above the ceiling; one burst of hits that cuts more than once.
"""

from __future__ import annotations

CUT = 0.7
REGAIN = 60.0
"""Seconds in which a cut of all of it would be regained; one to 0.7 takes a third of that."""
FIRST_SHARE = 8.0
DOUBLING = 2.0
MINIMUM = 1.0


class LearnedRate:
    """Messages a second; times are seconds of any one clock."""

    __slots__ = ("_cut_at", "_cut_rate", "_share", "_started", "level")

    def __init__(self, level: float, share: float) -> None:
        self.level: float = level
        self._share = share
        self._cut_at = float("-inf")
        self._cut_rate = 0.0
        self._started = float("-inf")

    @property
    def ceiling(self) -> float:
        """The rate when all is well."""
        return max(MINIMUM, self._share * self.level)

    def rate(self, now: float) -> float:
        """The rate at `now`."""
        ceiling = self.ceiling
        regained = self._cut_rate + ceiling / REGAIN * (now - self._cut_at)
        doublings = min(64.0, (now - self._started) / DOUBLING)
        started: float = ceiling / FIRST_SHARE * 2.0**doublings
        return max(MINIMUM, min(ceiling, regained, started))

    def hit(self, began: float, now: float) -> bool:
        """A request that began at `began` was over the limit: whether that lowers the rate."""
        if began <= self._cut_at:
            return False
        self._cut_rate, self._cut_at = CUT * self.rate(now), now
        self._started = float("-inf")  # what was learnt is lower than any slow start
        return True

    def cut(self) -> tuple[float, float]:
        """What the last hit left, as a share of the level, and when it came."""
        return self._cut_rate / self.level, self._cut_at

    def resume(self, share: float, at: float) -> None:
        """A hit that was met elsewhere left this share of the level."""
        self._cut_rate, self._cut_at = share * self.level, at
        if at >= self._started:
            self._started = float("-inf")

    def restart(self, now: float) -> None:
        """Begin slowly: the API has just come back."""
        self._started = now

    def use_level(self, level: float) -> None:
        """The API says another level: a higher one is begun from the present rate's share of it."""
        if level != self.level:
            self._cut_rate *= level / self.level
            self.level = level

    def settled(self, now: float) -> bool:
        """Whether the rate stays as it is."""
        return self.rate(now) >= self.ceiling

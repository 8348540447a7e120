"""Waits that grow with each refusal in a row: `base * factor ** (n - 1)` seconds after the n-th one, at most `cap`.

For pairs of number and user this is what the API asks for: 4 ** X seconds, X = 0, 1, 2, ... (error 131056).

What must never happen: that one burst of requests, all under way when the first refusal came, counts as many refusals;
that the success of a request from before a refusal ends the series.
"""

from __future__ import annotations


class Growth:
    """How long to wait, and how often in a row it was too early. Times are seconds of any one clock."""

    __slots__ = ("_base", "_cap", "_factor", "_last", "hits")

    def __init__(self, base: float, factor: float, cap: float) -> None:
        self._base, self._factor, self._cap = base, factor, cap
        self._last = float("-inf")
        self.hits: int = 0

    def hit(self, began: float, now: float) -> float:
        """A request that began at `began` was refused; the seconds to wait from now, 0 if the last refusal says it."""
        if self.hits and began <= self._last:
            return 0.0
        self.hits += 1
        self._last = now
        return self.seconds()

    @property
    def last(self) -> float:
        """When the last refusal came."""
        return self._last

    def resume(self, hits: int, last: float) -> None:
        """So many in a row, the last one then, were met elsewhere."""
        self.hits, self._last = hits, last

    def seconds(self) -> float:
        """What the last refusal asked for."""
        steps = min(self.hits - 1, 64)  # beyond, `cap` has been reached for any sensible factor; no overflow
        return min(self._cap, self._base * self._factor**steps)

    def succeeded(self, began: float) -> bool:
        """A request that began at `began` got through: whether that ends the series."""
        if began <= self._last:
            return False
        self.hits = 0
        return True

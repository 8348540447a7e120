"""Recent latencies, and which of them a given share stays below.

The last `size` samples, kept in order of size: adding one is a binary search and a shift in a short list.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections import deque


class Latencies:
    """The last `size` latencies, in seconds."""

    __slots__ = ("_recent", "_size", "_sorted")

    def __init__(self, size: int) -> None:
        self._size = size
        self._recent: deque[float] = deque()
        self._sorted: list[float] = []

    def __len__(self) -> int:
        return len(self._recent)

    def add(self, seconds: float) -> None:
        """Remember one, and forget the oldest beyond the size."""
        if len(self._recent) == self._size:
            oldest = self._recent.popleft()
            del self._sorted[bisect_left(self._sorted, oldest)]
        self._recent.append(seconds)
        insort(self._sorted, seconds)

    def quantile(self, share: float) -> float:
        """The smallest latency that at least `share` (0 to 1) of the samples do not exceed; needs a sample."""
        position = max(0, -(-share * len(self._sorted) // 1) - 1)
        return self._sorted[int(min(position, len(self._sorted) - 1))]

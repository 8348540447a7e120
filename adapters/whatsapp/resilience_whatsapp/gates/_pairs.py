"""The pacer of pairs of number and user: one message in 6 s each, 44 at once borrowed from the time to come.

The platform lends 45. With as many here, the 46th message left exactly 6 s after the first one and was refused, in each
of 40 pairs: the first one had taken longer on its way. One less is a margin of 6 s for that.
"""

from __future__ import annotations

import threading
from collections import OrderedDict

from resilience_core import Clock, Fleet, RateLimiter
from resilience_whatsapp.gates._growth import Growth
from resilience_whatsapp.gates._shared import SharedGrowths

SECONDS = 6.0
BURST = 44
MOST = 10_000
MOST_PAIRS = 100_000
"""Pairs whose last messages are remembered. A burst is paid back after 44 * 6 s; in that time a number of the usual
throughput writes to 18,000 users, and one of the high throughput fills these in 2 minutes."""


class Pairs:
    """A rate limiter of the core with a key, and the growing waits of the pairs that were too early."""

    def __init__(
        self,
        name: str,
        burst: int,
        *,
        max_wait: float,
        clock: Clock,
        fleet: Fleet | None,
        growths: SharedGrowths | None = None,
    ) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        own: OrderedDict[tuple[str, str], Growth] = OrderedDict()
        self._own = own
        self.growths: OrderedDict[tuple[str, str], Growth] | SharedGrowths = own if growths is None else growths
        """Of the pairs that were too early with their last message."""
        self.limiter: RateLimiter = RateLimiter(
            name,
            rate=1,
            per=SECONDS,
            burst=burst,
            key=_pair,
            max_keys=MOST_PAIRS,
            max_wait=max_wait,
            clock=clock,
            fleet=fleet,
        )

    def hit(self, number: str, recipient: str, began: float, told: float | None) -> float:
        """A request that began at `began` was too early: the seconds to wait."""
        pair = (number, recipient)
        with self._lock:
            growth = self.growths.get(pair) or Growth(1.0, 4.0, 256.0)
            wait = growth.hit(began, self._clock.now())
            if wait > 0:
                self.growths[pair] = growth
                if len(self._own) > MOST:
                    self._own.popitem(last=False)
            wait = max(wait, told or 0.0)
        if wait > 0:
            self.limiter.close_for(wait, *pair)
        return wait

    def succeeded(self, number: str, recipient: str, began: float) -> None:
        """A request that began at `began` got through."""
        with self._lock:
            growth = self.growths.get((number, recipient))
            if growth is not None and growth.succeeded(began):
                del self.growths[number, recipient]


def _pair(number: str, recipient: str) -> tuple[str, str]:
    return number, recipient

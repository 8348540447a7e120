"""How long to wait before a retry.

    delay(n) = min(cap, jitter(min(cap, backoff(n))))          n = 1 for the wait before the first retry

Sources: exponential backoff with full, equal and decorrelated jitter as in "Exponential Backoff And Jitter" (AWS
Architecture Blog, 2015); decorrelated v2 as in Polly 8: f(t) = 2^t * tanh(sqrt(4 t)).

What must never happen: a delay above the cap, below 0, or an overflow however large `n` grows.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal, TypeAlias

from attrs import field, frozen

from resilience_core import _validation as check
from resilience_core._validation import to_seconds

Random: TypeAlias = Callable[[], float]
"""Answers a float in [0, 1)."""
Backoff: TypeAlias = Callable[[int], float]
"""Seconds before retry number n (from 1), before jitter."""
JitterName: TypeAlias = Literal["none", "proportional", "full", "equal", "decorrelated", "decorrelated_v2"]

JITTERS: tuple[JitterName, ...] = ("none", "proportional", "full", "equal", "decorrelated", "decorrelated_v2")
_V2_SCALE = 1 / 1.4  # Polly's constant: brings the median of the first delay near to the base
_ADDED_UP = 1000  # waits of one call; by then every growing one has reached any sensible cap
_V2_LAST_RETRY = 1000  # 2**t overflows a float at 1024; every sensible cap is reached long before


@frozen
class Constant:
    """The same wait before every retry."""

    delay: float = field(default=1.0, converter=to_seconds, validator=check.non_negative_seconds)

    def __call__(self, retry: int) -> float:
        """Seconds before retry number `retry`."""
        return self.delay


@frozen
class Linear:
    """`base`, then `increment` more each time."""

    base: float = field(default=1.0, converter=to_seconds, validator=check.non_negative_seconds)
    increment: float = field(default=1.0, converter=to_seconds, validator=check.non_negative_seconds)

    def __call__(self, retry: int) -> float:
        """Seconds before retry number `retry`."""
        return self.base + self.increment * (retry - 1)


@frozen
class Exponential:
    """`base`, then `multiplier` times the last."""

    base: float = field(default=1.0, converter=to_seconds, validator=check.non_negative_seconds)
    multiplier: float = field(default=2.0, validator=check.multiplier)

    def __call__(self, retry: int) -> float:
        """Seconds before retry number `retry`; infinite where the power leaves the range of a float."""
        try:
            growth: float = float(self.multiplier) ** (retry - 1)  # a power of whole numbers would grow for ever
            return self.base * growth
        except OverflowError:
            return math.inf if self.base else 0.0


class Schedule:
    """Backoff, jitter and cap as one: seconds before retry number n. Knows nothing of the calls that use it."""

    __slots__ = ("_backoff", "_cap", "_jitter", "_share", "base")

    def __init__(self, backoff: Backoff, cap: float, jitter: JitterName, share: float) -> None:
        self._backoff = backoff
        self._cap = cap
        self._jitter = jitter
        self._share = share
        self.base: float = backoff(1)

    def longest(self, retry: int) -> float:
        """The longest wait that retry number `retry` can ask for; for worst-case sums."""
        if self._jitter in ("decorrelated", "decorrelated_v2"):
            return self._cap
        spread = 1 + self._share if self._jitter == "proportional" else 1.0
        return min(self._cap, self._backoff(retry) * spread)

    def longest_in_all(self, retries: int) -> float:
        """What the waits of so many retries can add up to; beyond a thousand, each counts as long as the last."""
        first = min(retries, _ADDED_UP)
        total = sum(self.longest(retry) for retry in range(1, first + 1))
        return total + (retries - first) * self.longest(retries) if retries > first else total

    def delay(self, retry: int, memory: float, random: Random) -> tuple[float, float]:
        """Seconds before retry number `retry`, and what to hand in as `memory` next time (0 at first)."""
        if self._jitter == "decorrelated_v2":
            if retry > _V2_LAST_RETRY:
                return self._cap, memory
            reached = _curve_v2(retry - 1 + random())
            return self._within(self.base * (reached - memory) * _V2_SCALE), reached
        if self._jitter == "decorrelated":
            low = min(self.base, self._cap)
            delay = self._within(low + (3 * max(memory, low) - low) * random())
            return delay, delay
        return self._within(self._spread(min(self._cap, self._backoff(retry)), random)), 0.0

    def _within(self, delay: float) -> float:
        return min(self._cap, max(0.0, delay))

    def _spread(self, delay: float, random: Random) -> float:
        if self._jitter == "full":
            return delay * random()
        if self._jitter == "equal":
            return delay / 2 + delay / 2 * random()
        if self._jitter == "proportional":
            return delay * (1 + self._share * (2 * random() - 1))
        return delay


def _curve_v2(at: float) -> float:
    power: float = 2.0**at
    return power * math.tanh(math.sqrt(4.0 * at))

"""The machines of the limits: each is told the time, and says how long one must wait. None of them is asked to refuse.

Each step costs the same however many requests came before, and what is over is forgotten: memory is that of the users
written to within a window, not of all that ever were.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

from attrs import define, field

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")

_SLACK = 1e-3
"""Seconds or messages within which nothing is early: times since 1970 are not exact."""


@define
class Kept(Generic[K, V]):
    """Values by key, of which those that are over are forgotten whenever twice as many are kept as the last time."""

    is_over: Callable[[V, float], bool]
    """Given a value and the time."""
    _values: dict[K, V] = field(factory=dict)
    _sweep_at: int = 1024

    def get(self, key: K) -> V | None:
        """The value, which may be over."""
        return self._values.get(key)

    def put(self, key: K, value: V, now: float) -> None:
        """Keep it."""
        if len(self._values) >= self._sweep_at:
            self._values = {each: kept for each, kept in self._values.items() if not self.is_over(kept, now)}
            self._sweep_at = max(1024, 2 * len(self._values))
        self._values[key] = value

    def __len__(self) -> int:
        return len(self._values)


@define
class Bucket:
    """Tokens that come back at `rate` a second, at most `rate` of them: a second's worth may come at once."""

    rate: float
    level: float = field(init=False)
    at: float = 0.0

    def __attrs_post_init__(self) -> None:
        self.level = self.rate

    def wait(self, now: float) -> float:
        """Seconds until the next token is there; 0 when it is."""
        self._refill(now)
        return 0.0 if self.level >= 1.0 - _SLACK else (1.0 - self.level) / self.rate

    def take(self, now: float) -> None:
        """Take one, also when there is none: what comes in from users cannot be refused."""
        self._refill(now)
        self.level -= 1.0

    def used(self, now: float) -> float:
        """The part that is taken, in percent."""
        self._refill(now)
        return min(100.0, 100.0 * (1.0 - self.level / self.rate))

    def _refill(self, now: float) -> None:
        self.level = min(self.rate, self.level + max(0.0, now - self.at) * self.rate)
        self.at = max(self.at, now)


@define
class Pairs:
    """One message in `seconds` to each user; `burst` of them at once borrow from the time to come (GCRA).

    The state of a pair is one number, the theoretical arrival time: when all that was borrowed will be paid back. A
    message is early when that lies more than `burst - 1` messages ahead. `strict` is the reading of the documentation
    by which a burst lasts `seconds` and all must be paid back before the next message.
    """

    seconds: float
    burst: int
    strict: bool = False
    _debts: Kept[tuple[str, str], tuple[float, float]] = field(
        factory=lambda: Kept[tuple[str, str], tuple[float, float]](lambda debt, now: debt[0] <= now)
    )
    """When it is paid back, and when the burst began."""

    def wait(self, pair: tuple[str, str], now: float) -> float:
        """Seconds until the next message to this user may go."""
        due, began = self._debts.get(pair) or (now, now)
        debt = due - now
        room = (self.burst - 1) * self.seconds
        if self.strict and debt > _SLACK and now - began > self.seconds:
            return debt
        return debt - room if debt - room > _SLACK else 0.0

    def take(self, pair: tuple[str, str], now: float) -> None:
        """A message goes."""
        due, began = self._debts.get(pair) or (now, now)
        self._debts.put(pair, (max(due, now) + self.seconds, began if due > now else now), now)


@define
class Rolling:
    """How many came in the last `window` seconds, counted in 60 parts of it."""

    window: float
    _parts: deque[list[float]] = field(factory=deque)
    _total: int = 0

    def count(self, now: float) -> int:
        """In the window that ends now."""
        while self._parts and self._parts[0][0] + self.window <= now:
            self._total -= int(self._parts.popleft()[1])
        return self._total

    def add(self, now: float) -> None:
        """One more."""
        self.count(now)
        width = self.window / 60
        begin = now - now % width
        if self._parts and self._parts[-1][0] == begin:
            self._parts[-1][1] += 1
        else:
            self._parts.append([begin, 1])
        self._total += 1

    def wait(self, limit: int, now: float) -> float:
        """Seconds until fewer than `limit` are counted."""
        left = self.count(now)
        for begin, count in self._parts:
            if left < limit:
                break
            left -= int(count)
            wait = begin + self.window - now
            if left < limit:
                return wait
        return 0.0


@define
class Users:
    """Different users in a moving window: each counts from its last message on."""

    window: float
    _last: OrderedDict[str, float] = field(factory=OrderedDict)

    def wait(self, user: str, limit: int, now: float) -> float:
        """Seconds until a message to this user would not be one user too many."""
        while self._last:
            oldest = next(iter(self._last))
            if self._last[oldest] + self.window > now:
                break
            del self._last[oldest]
        if user in self._last or len(self._last) < limit:
            return 0.0
        return next(iter(self._last.values())) + self.window - now

    def take(self, user: str, now: float) -> None:
        """A message goes to `user`."""
        self._last[user] = now
        self._last.move_to_end(user)


@define
class PerUser:
    """The messages to each user in a moving window, where few are allowed: their times are kept."""

    window: float
    _times: Kept[str, list[float]] = field(init=False)

    def __attrs_post_init__(self) -> None:
        self._times = Kept(lambda times, now: times[-1] + self.window <= now)

    def wait(self, user: str, limit: int, now: float) -> float:
        """Seconds until fewer than `limit` are in the window."""
        times = self._within(user, now)
        return times[-limit] + self.window - now if len(times) >= limit else 0.0

    def take(self, user: str, now: float) -> None:
        """A message goes to `user`."""
        self._times.put(user, [*self._within(user, now), now], now)

    def _within(self, user: str, now: float) -> list[float]:
        return [at for at in self._times.get(user) or () if at + self.window > now]

"""Where a receiver keeps what it has taken until it is done, and afterwards the key, so that it is not done again.

An inbox is a queue and the memory of duplicates in one, because both must agree: what is taken twice is done once, and
what is taken is done, whatever happens to the process.

    take -> waiting -> claim -> handled -> done (only the key is kept)
               ^                   |
               +---- put off ------+-----> set aside (kept, told, not tried again by itself)

A claim is a lease: whoever dies with it loses it when it ends, and somebody else claims. Never: an item that is
neither waiting, claimed, done nor set aside; an item done that is given out again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from attrs import define, field, frozen

__all__ = [
    "Claim",
    "Claimed",
    "Inbox",
    "InboxCounts",
    "InboxFull",
    "Listening",
    "MemoryInbox",
    "SetAside",
    "Taken",
    "merged",
]

MAX_LOST = 3
"""Claims that ended in nothing, not even a failure: after so many, the item is what kills the process."""
Interval = tuple[float, float]


class InboxFull(Exception):
    """So much is waiting that nothing more is taken."""


@frozen
class Claimed:
    """One item that is to be handled now."""

    id: int
    taken: float
    """Seconds since the epoch."""
    text: str = field(repr=False)
    failures: int
    passed: frozenset[str]
    """The listeners that have it behind them."""
    until: float
    """When the lease ends, seconds since the epoch."""
    lost: bool = False
    """Whether an earlier claim ended in nothing."""


@frozen
class SetAside:
    """One item that no listener could handle."""

    id: int
    taken: float
    """Seconds since the epoch."""
    text: str = field(repr=False)
    passed: frozenset[str]


@frozen
class Claim:
    """What a claim gave."""

    items: list[Claimed]
    lost: list[SetAside]
    """What was set aside by it, because it kills the process."""
    due: float | None
    """When the next item is due."""


@frozen
class Taken:
    """What became of a body."""

    new: int
    waiting: int
    """With what waited before."""


@frozen
class InboxCounts:
    """How much an inbox holds."""

    waiting: int
    set_aside: int


@frozen
class Listening:
    """When receivers were up, and what they are behind with."""

    up: list[Interval]
    """Of all receivers on the inbox, merged."""
    heard: float | None
    """When one last heard from the platform."""
    waiting: Mapping[frozenset[str], float]
    """By the listeners that have had it: when the oldest of what waits was taken."""


class Inbox(Protocol):
    """What a receiver needs. All times are seconds since the epoch, and given: an inbox has no clock."""

    async def take(self, items: Sequence[tuple[bytes, str]], now: float, limit: int) -> Taken:
        """Keep those whose key is new, durably, all or none.

        Raises:
            InboxFull: more than `limit` would wait.
        """
        ...

    async def claim(self, most: int, now: float, until: float, lost: bool) -> Claim:
        """At most `most` items that are due, claimed until then.

        Among them is at most one, and none unless `lost`, of which an earlier claim ended in nothing: it may be what
        killed the process, and others must not share its fate. Those to which that happened `MAX_LOST` times are set
        aside.
        """
        ...

    async def done(self, item: int) -> None:
        """Keep nothing of it but the key."""
        ...

    async def put_off(self, item: int, passed: frozenset[str], due: float | None) -> None:
        """Wait until `due`; None sets it aside."""
        ...

    async def give_back(self, items: Sequence[Claimed], now: float) -> None:
        """Undo these claims, unless they have ended and somebody else has claimed since."""
        ...

    async def set_aside(self, most: int) -> list[SetAside]:
        """The oldest items that were set aside."""
        ...

    async def again(self, items: Sequence[int], now: float) -> int:
        """Let items that were set aside wait again, from the first listener that has not had them; how many."""
        ...

    async def counts(self) -> InboxCounts:
        """How much it holds."""
        ...

    async def beat(self, receiver: str, started: float, now: float, heard: float | None) -> None:
        """The receiver of this name has been up from `started` to `now`, and heard from the platform at `heard`."""
        ...

    async def listening(self) -> Listening:
        """When any receiver was up, when one last heard from the platform, and since when something waits."""
        ...

    async def forget(self, before: float, most: int) -> int:
        """Drop at most `most` of what was taken before that time and does not wait; how many."""
        ...

    async def aclose(self) -> None:
        """Let go of what it holds open."""
        ...


def merged(intervals: Sequence[Interval]) -> list[Interval]:
    """The same times, in order and without overlap."""
    found: list[Interval] = []
    for start, end in sorted(intervals):
        if found and start <= found[-1][1]:
            found[-1] = (found[-1][0], max(end, found[-1][1]))
        else:
            found.append((start, end))
    return found


@define
class _Row:
    id: int
    text: str
    taken: float
    due: float
    state: str = "waiting"
    claims: int = 0
    failures: int = 0
    passed: frozenset[str] = frozenset()


def _aside(row: _Row) -> SetAside:
    return SetAside(row.id, row.taken, row.text, row.passed)


class MemoryInbox:
    """An inbox for tests: it is as good as the process. What it holds is lost when the process ends."""

    def __init__(self) -> None:
        self._rows: dict[bytes, _Row] = {}
        self._ids: dict[int, _Row] = {}
        self._up: dict[str, Interval] = {}
        self._heard: float | None = None
        self._last = 0

    async def take(self, items: Sequence[tuple[bytes, str]], now: float, limit: int) -> Taken:
        """As `Inbox` says."""
        fresh = {key: text for key, text in items if key not in self._rows}
        waiting = len(self._in("waiting")) + len(fresh)
        if fresh and waiting > limit:
            raise InboxFull
        for key, text in fresh.items():
            self._last += 1
            self._rows[key] = self._ids[self._last] = _Row(self._last, text, now, now)
        return Taken(len(fresh), waiting)

    async def claim(self, most: int, now: float, until: float, lost: bool) -> Claim:
        """As `Inbox` says."""
        due = sorted((row for row in self._in("waiting") if row.due <= now), key=lambda row: (row.due, row.id))
        hopeless = [row for row in due if row.claims - row.failures >= MAX_LOST]
        for row in hopeless:
            row.state = "aside"
        again = [row for row in due if row.state == "waiting" and row.claims != row.failures][: int(lost)]
        found = (again + [row for row in due if row.claims == row.failures])[:most]
        for row in found:
            row.claims += 1
            row.due = until
        claimed = [Claimed(row.id, row.taken, row.text, row.failures, row.passed, until, row in again) for row in found]
        return Claim(
            claimed, [_aside(row) for row in hopeless], min((r.due for r in self._in("waiting")), default=None)
        )

    async def done(self, item: int) -> None:
        """As `Inbox` says."""
        row = self._ids[item]
        row.state, row.text = "done", ""

    async def put_off(self, item: int, passed: frozenset[str], due: float | None) -> None:
        """As `Inbox` says."""
        row = self._ids[item]
        row.failures += 1
        row.passed = passed
        if due is None:
            row.state = "aside"
        else:
            row.due = due

    async def give_back(self, items: Sequence[Claimed], now: float) -> None:
        """As `Inbox` says."""
        for item in items:
            row = self._ids[item.id]
            if row.state == "waiting" and row.due == item.until:
                row.claims -= 1
                row.due = now

    async def set_aside(self, most: int) -> list[SetAside]:
        """As `Inbox` says."""
        return [_aside(row) for row in self._in("aside")[:most]]

    async def again(self, items: Sequence[int], now: float) -> int:
        """As `Inbox` says."""
        found = [row for row in self._in("aside") if row.id in items]
        for row in found:
            row.state, row.due, row.claims, row.failures = "waiting", now, 0, 0
        return len(found)

    async def counts(self) -> InboxCounts:
        """As `Inbox` says."""
        return InboxCounts(len(self._in("waiting")), len(self._in("aside")))

    async def beat(self, receiver: str, started: float, now: float, heard: float | None) -> None:
        """As `Inbox` says."""
        self._up[receiver] = (started, now)
        self._heard = max((each for each in (self._heard, heard) if each is not None), default=None)

    async def listening(self) -> Listening:
        """As `Inbox` says."""
        waiting: dict[frozenset[str], float] = {}
        for row in self._in("waiting"):
            waiting[row.passed] = min(row.taken, waiting.get(row.passed, row.taken))
        return Listening(merged(list(self._up.values())), self._heard, waiting)

    async def forget(self, before: float, most: int) -> int:
        """As `Inbox` says."""
        old = [key for key, row in self._rows.items() if row.state != "waiting" and row.taken < before][:most]
        for key in old:
            del self._ids[self._rows.pop(key).id]
        self._up = {name: interval for name, interval in self._up.items() if interval[1] >= before}
        return len(old)

    async def aclose(self) -> None:
        """As `Inbox` says."""

    def _in(self, state: str) -> list[_Row]:
        return [row for row in self._ids.values() if row.state == state]

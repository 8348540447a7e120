"""What the gates of a fleet have learnt: stores of which each process has a copy, so that nothing here waits for Redis.

    recipients   a mark            -> [code, seconds or null for without end]
    pairs        number, user      -> [refusals in a row]
    numbers      level  number     -> [messages a second]
                 cut    number     -> [share of the level, seconds since the cut, refusals in a row]
                 token  number, it -> [code]                      that the API refused it with
                 offer  template   -> [code]                      that shows that it is marketing

Keys are HMACs of the fleet's secret: no recipient and no token is in Redis. Each value has the time at which it was
learnt, of the wall clock of its host; the store takes none for younger than the moment at which it was heard of, and
here it becomes a time of the process's own clock.

What must never happen: that what others say holds for longer than `LONGEST`, or that it is not one of these values.
"""

from __future__ import annotations

import math
import time
from functools import partial
from typing import Any

from resilience_core import Clock, Fleet
from resilience_core.fleet import SharedStore
from resilience_whatsapp.gates._growth import Growth
from resilience_whatsapp.gates._marks import MOST, RECIPIENT_WAITS, Mark

LONGEST = 90 * 86_400.0
"""Seconds that a mark without end is kept, or nothing would ever leave Redis: who wants no offers costs one message in
so long a time, which the API refuses of its own."""
SERIES = 3_600.0
"""Seconds that a count of refusals in a row is kept; the longest wait is 256."""
REFUSED = 7_200.0
"""Seconds that a token counts as refused after somebody found it so; whoever is kept back looks once an hour."""
MOST_OF_NUMBERS = 2_000
FIRST_WORD = 1.0
"""Seconds that the first message of a process waits for what Redis has. The agent's word that Redis is lost comes long
before."""
_HIGHEST = 1e9
_ROOM = 4 * 1024 * 1024  # bytes; 10,000 marks take 1.4 million


class Learnt:
    """The stores of one `Gates`.

    Raises:
        ConfigurationError: the fleet has no secret, or no store of this kind.
    """

    def __init__(self, name: str, fleet: Fleet, clock: Clock) -> None:
        options: dict[str, Any] = {
            "fleet": fleet,
            "clock": clock,
            "personal": True,
            "lasting": True,
            "max_bytes": _ROOM,
        }
        many: dict[str, Any] = {**options, "max_entries": MOST, "makes_room": True}
        self.recipients: SharedStore = SharedStore(f"{name}.recipients", decode=_mark, lives=LONGEST, **many)
        self.pairs: SharedStore = SharedStore(f"{name}.pairs", decode=_numbers, lives=SERIES, **many)
        self.numbers: SharedStore = SharedStore(
            f"{name}.numbers", decode=_numbers, lives=LONGEST, max_entries=MOST_OF_NUMBERS, **options
        )
        self._clock = clock
        self.ready: bool = False
        """Whether Redis has told what it has, or is not there."""

    async def first_word(self) -> None:
        """Wait until Redis has told what it has, once."""
        end, stores = time.monotonic() + FIRST_WORD, (self.recipients, self.pairs, self.numbers)
        for store in stores:
            store.get("")  # all of them join, and are answered at once
        for store in stores:
            if not store.known:
                await store.wait_for(partial(_has_spoken, store), max(0.0, end - time.monotonic()))
        self.ready = True

    # --- tokens ------------------------------------------------------------------------------------------------------

    def refused(self, number: str, token: str) -> int | None:
        """The code that this token of a number was refused with, if it was."""
        found = self.numbers.get(_key("token", number, token))
        return None if found is None else int(found[0][0])

    def refuse(self, number: str, token: str, code: int | None) -> None:
        """The API refused it: who has the same one need not ask."""
        self.numbers.set(_key("token", number, token), [code or 0], self._clock.wall(), REFUSED)

    def accept(self, number: str, token: str) -> None:
        """It is good."""
        self.numbers.delete(_key("token", number, token))


class SharedMarks:
    """Like `Marks`, known to all. The mark that ends first makes room."""

    def __init__(self, store: SharedStore, clock: Clock) -> None:
        self._store = store
        self._clock = clock

    def __len__(self) -> int:
        return len(self._store)

    def put(self, key: tuple[str, ...], code: int, until: float) -> None:
        """Mark it; a mark that lasts longer stays."""
        now = self._clock.now()
        known = self.find(key, now)
        if known is None or known.until <= until:
            seconds = None if until == math.inf else until - now
            self._store.set(_key(*key), [code, seconds], self._clock.wall(), seconds)

    def find(self, key: tuple[str, ...], now: float) -> Mark | None:
        """The mark that holds at `now`."""
        found = self._store.get(_key(*key))
        if found is None:
            return None
        (code, seconds), at = found
        if seconds is None:
            return Mark(code, math.inf)
        until = now + min(LONGEST, at + seconds - self._clock.wall())
        return Mark(code, until) if now < until else None

    def drop_ended(self, now: float) -> None:
        """The store does it."""

    def remove(self, key: tuple[str, ...]) -> None:
        """It is reachable. Redis is told if it may know more than this process; else each message in would be news."""
        key_ = _key(*key)
        if self._store.get(key_) is not None or not self._store.known:
            self._store.delete(key_)


class SharedOffers:
    """The templates that are known to be marketing, like a set."""

    def __init__(self, store: SharedStore, clock: Clock) -> None:
        self._store = store
        self._clock = clock

    def __contains__(self, template: object) -> bool:
        return isinstance(template, tuple) and self._store.get(_key("offer", *template)) is not None

    def __len__(self) -> int:
        return len(self._store)  # of all kinds, so that templates leave room for the others

    def add(self, template: tuple[str, str]) -> None:
        """It met a code that only marketing meets."""
        if template not in self:
            self._store.set(_key("offer", *template), [1], self._clock.wall())


class SharedGrowths:
    """The growing waits of pairs, like a dict."""

    def __init__(self, store: SharedStore, clock: Clock) -> None:
        self._store = store
        self._clock = clock

    def __len__(self) -> int:
        return len(self._store)

    def get(self, pair: tuple[str, str]) -> Growth | None:
        """The one of this pair, if it was too early with its last message."""
        found = self._store.get(_key(*pair))
        if found is None:
            return None
        growth = Growth(1.0, 4.0, 256.0)
        growth.resume(int(found[0][0]), _since(found[1], self._clock))
        return growth

    def __setitem__(self, pair: tuple[str, str], growth: Growth) -> None:
        self._store.set(_key(*pair), [growth.hits], self._clock.wall())

    def __delitem__(self, pair: tuple[str, str]) -> None:
        self._store.delete(_key(*pair))


class SharedPace:
    """The level and the cut of one number."""

    def __init__(self, store: SharedStore, number: str, clock: Clock) -> None:
        self._store = store
        self._level, self._cut = _key("level", number), _key("cut", number)
        self._clock = clock
        self._seen: int | None = None
        self._known: Any = None

    def news(self) -> bool:
        """Whether others have said something since the last time."""
        seen, self._seen = self._seen, self._store.version
        return seen != self._seen

    def level(self) -> float | None:
        """What was told last."""
        found = self._store.get(self._level)
        return found[0][0] if found is not None and found[0][0] > 0 else None

    def tell_level(self, level: float) -> None:
        """The API says so. Telling it again now and then keeps it alive."""
        found, wall = self._store.get(self._level), self._clock.wall()
        if found is None or found[0][0] != level or wall - found[1] > LONGEST / 2:
            self._store.set(self._level, [level], wall)

    def cut(self) -> tuple[float, float, int, float] | None:
        """Share of the level, time of the cut, refusals in a row and time of the last one; None for nothing new."""
        found = self._store.get(self._cut)
        if found is None or found == self._known or len(found[0]) != 3:
            return None
        self._known = found
        (share, age, hits), at = found
        last = _since(at, self._clock)
        return min(share, 1.0), last - age, int(hits), last

    def tell_cut(self, share: float, cut_at: float, hits: int, last: float) -> None:
        """A refusal, or the end of a series; times are the process's own."""
        at = self._clock.wall() - (self._clock.now() - last)
        self._store.set(self._cut, [share, max(0.0, last - cut_at), hits], at, SERIES)
        self._known = self._store.get(self._cut)


def _has_spoken(store: SharedStore) -> bool:
    return store.known or store.fleet.state == "degraded"


def _since(at: float, clock: Clock) -> float:
    """A time of the wall clock that has been, as one of the process's own clock."""
    return clock.now() - max(0.0, clock.wall() - at)


def _key(*parts: str) -> str:
    return "\0".join(parts)


def _numbers(raw: Any) -> list[float]:
    """One to three numbers from 0.

    Raises:
        ValueError: it is something else.
    """
    if not isinstance(raw, list) or not 1 <= len(raw) <= 3 or not all(map(_is_number, raw)):
        raise ValueError("no numbers")
    return raw


def _mark(raw: Any) -> list[Any]:
    """The value of a mark.

    Raises:
        ValueError: it is something else.
    """
    if not isinstance(raw, list) or len(raw) != 2 or not isinstance(raw[0], int) or raw[0] not in RECIPIENT_WAITS:
        raise ValueError("no code of a recipient")
    if raw[1] is not None and not _is_number(raw[1]):
        raise ValueError("no seconds")
    return raw


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value <= _HIGHEST

"""A store for stale caches that a fleet shares: each member has a copy of all of it, and that is what a call reads.

    get                 --> the copy, no I/O
    set, delete, clear  --> the copy, and word with the agent --> one script --> news --> the copies of the others

`clear` begins a new *era*. What a member has that is of another era than the store is dropped, and what it writes for
another era is refused: a value that was fetched before everybody was told to forget it cannot come back. (A `lasting`
store is never cleared, only lost: there a member tells what it has in the new era.) What the store
holds is not trusted: an entry that cannot be read counts as missing, and the clocks of others cannot make one younger
than the moment at which it was heard of.

Without the store each member goes on with its copy, and tells what has changed when it is back.
"""

from __future__ import annotations

import heapq
import json
import math
import threading
import time
from collections.abc import Callable, Container, Iterable, Mapping
from itertools import islice
from typing import Any, TypeAlias

from attrs import evolve, frozen

from resilience_core import _validation as check
from resilience_core._clock import SYSTEM, Clock
from resilience_core._errors import ConfigurationError
from resilience_core._fork import no_forks, renew
from resilience_core._validation import Seconds
from resilience_core._weave.waiting import AsyncWaiter, async_waiter
from resilience_core.fleet._agent import Item
from resilience_core.fleet._circuit import draw
from resilience_core.fleet._fleet import BaseFleet
from resilience_core.fleet._link import Request
from resilience_core.fleet._log import log_failure, log_not_shared

VERSION = 1
SAID_AT_ONCE = 250
"""Entries in one change: who tells all that he knows holds Redis up for a few milliseconds at a time. No more than a
line of the log names (`FIELDS` in keep.lua), or the others would read everything after each."""
_OWN_FIELDS = ("era", "changes")


@frozen
class _Entry:
    value: Any
    at: float
    until: float
    text: str
    shared: bool
    """Whether the store has it, or one in its place that is out of date."""


def _as_it_is(value: Any) -> Any:
    return value


_Word: TypeAlias = tuple[float, str | None]
"""What is to be said of an entry: from when that is, and the text; None for one that is forgotten."""


class SharedStore:
    """A `CacheStore` that is one for all processes that have one of this name in the same fleet (a `RedisFleet`).

    `StaleCache(fresh_for=60, stale_for=600, store=SharedStore("prices", fleet=fleet))` shares its values: what one
    process has fetched the others use, and what one forgets all forget. Every process holds all of it: it is for few
    values that many need, such as lists, settings and keys of others, not for one value for each user.

    Reading never waits for Redis. Writing neither: the fleet's agent takes it on, the others hear of it within
    milliseconds. While Redis is away each process uses what it has. Ages go by the clocks of the hosts, which must
    agree to within seconds.

    Args:
        name: identifies the store in Redis and in events.
        fleet: the `RedisFleet`.
        encode: turns a value into what JSON can carry. It is what people see who may read Redis.
        decode: the reverse; called in the fleet's thread with what Redis holds. What it raises for, counts as missing.
        lives: seconds (or timedelta) after which an entry is dropped, counted from when it was fetched.
        personal: keys tell who somebody is. A fleet without a `secret` is refused then: a digest that is made without
            one can be found out by trying.
        max_entries: beyond, new entries are not shared; see `makes_room`.
        makes_room: beyond `max_entries`, a hundredth of the entries makes room for a new one: those that end first.
        max_bytes: of all entries as JSON; what does not fit is not shared: only the process that has set it uses it,
            which the log tells.
        lasting: what a member knows outlives a Redis that has lost everything, also where another member was the first
            to fill it again. Not for a store that is ever cleared: what was forgotten might come back.
        on_clear: called, without arguments and in the fleet's thread, when another member has forgotten everything.
        clock: where the time comes from.

    Raises:
        ConfigurationError: an option cannot be, or the fleet cannot share it.
    """

    def __init__(
        self,
        name: str,
        *,
        fleet: BaseFleet,
        encode: Callable[[Any], Any] = _as_it_is,
        decode: Callable[[Any], Any] = _as_it_is,
        lives: Seconds = 24 * 3600.0,
        personal: bool = False,
        max_entries: int = 1_000,
        makes_room: bool = False,
        max_bytes: int = 1024 * 1024,
        lasting: bool = False,
        on_clear: Callable[[], Any] | None = None,
        clock: Clock = SYSTEM,
    ) -> None:
        if not isinstance(name, str) or not name:  # type: ignore[redundant-expr] # not everybody has a type checker
            raise ConfigurationError(f"SharedStore: name must be a non-empty string, not {name!r}")
        for option, number in (("max_entries", max_entries), ("max_bytes", max_bytes)):
            if type(number) is not int or number < 1:
                raise ConfigurationError(f"SharedStore: {option} must be a whole number from 1, not {number!r}")
        for option, given in (("encode", encode), ("decode", decode), ("on_clear", on_clear)):
            if given is not None and not callable(given):
                raise ConfigurationError(f"SharedStore: {option} must be a function, not {given!r}")
        if not hasattr(fleet, "share_store"):
            raise ConfigurationError(f"SharedStore: fleet must be a RedisFleet, not a {type(fleet).__name__}")
        self.name: str = name
        self.fleet: BaseFleet = fleet
        self.encode: Callable[[Any], Any] = encode
        self.decode: Callable[[Any], Any] = decode
        self.lives: float = check.seconds("SharedStore: lives", lives)
        self.personal: bool = personal
        self.max_entries: int = max_entries
        self.makes_room: bool = makes_room
        self.max_bytes: int = max_bytes
        self.lasting: bool = lasting
        self.on_clear: Callable[[], Any] | None = on_clear
        self.clock: Clock = clock
        self._share: SharedEntries = fleet.share_store(self)

    # --- what a cache needs ----------------------------------------------------------------------------------------

    def get(self, key: str) -> tuple[Any, float] | None:
        """The value and when it was fetched, in seconds since the epoch."""
        self._share.join()
        entry = self._share.entries.get(self._field(key))
        return None if entry is None or self.clock.wall() >= entry.until else (entry.value, entry.at)

    def set(self, key: str, value: Any, stored_at: float, lives: float | None = None) -> None:
        """Keep a value for all members, for `lives` seconds where it is to end earlier than others.

        Raises:
            TypeError, ValueError: JSON cannot carry what `encode` made of it.
        """
        entry = self._entry(value, stored_at, False, lives)
        size = len(entry.text)  # it is ASCII
        fits = size <= self.max_bytes
        self._share.keep(self._field(key), entry, fits)
        if not fits:
            log_not_shared(self.name, f"an entry has {size} bytes, max_bytes is {self.max_bytes}")

    def seed(self, key: str, value: Any, stored_at: float) -> None:
        """Use a value from before, such as from a file, until Redis tells what it has; for a Redis without any, too.

        Raises:
            TypeError, ValueError: as for `set`.
        """
        self._share.seed(self._field(key), self._entry(value, stored_at, True))

    def delete(self, key: str) -> None:
        """Forget one, in all members."""
        self._share.drop(self._field(key))

    def clear(self) -> None:
        """Forget all, in all members; also what they fetch at the moment is not shared any more."""
        self._share.clear()

    def __len__(self) -> int:
        return len(self._share.entries)

    # --- for those who want to know more ---------------------------------------------------------------------------

    @property
    def known(self) -> bool:
        """Whether Redis has told what it holds, and nothing is known to be missing in the copy."""
        return self._share.known

    @property
    def version(self) -> int:
        """A number that is another one after others have changed the copy: who has derived something looks at it."""
        return self._share.version

    async def wait_for(self, met: Callable[[], bool], timeout: float) -> bool:
        """Wait until `met()` is true, which is asked again after each change; False after `timeout` seconds.

        A store that is `known` changes when another member sets or forgets something. Works on asyncio and trio.
        """
        end = time.monotonic() + timeout
        while not met():
            waiter = async_waiter()
            self._share.await_change(waiter)
            try:
                if met():  # it came just before
                    break
                if not await waiter.wait(end - time.monotonic()):
                    return met()
            finally:
                self._share.wait_no_more(waiter)
        return True

    def snapshot(self) -> dict[str, Any]:
        """Entries in the copy, and whether it is known to be that of the fleet."""
        return {"entries": len(self), "known": self.known}

    def __repr__(self) -> str:
        return f"SharedStore({self.name!r})"

    def _entry(self, value: Any, stored_at: float, shared: bool, lives: float | None = None) -> _Entry:
        until = stored_at + (self.lives if lives is None else min(lives, self.lives))
        content = {"version": VERSION, "value": self.encode(value), "at": stored_at, "until": until}
        return _Entry(value, stored_at, until, json.dumps(content, separators=(",", ":"), allow_nan=False), shared)

    def _field(self, key: str) -> str:
        """What a key is called in Redis: a digest, with the fleet's secret if it has one. Keys can be personal."""
        return self.fleet.keys.digest(self.name, key)


class SharedEntries(Item):
    """The agent's end of one store."""

    def __init__(self, fleet: BaseFleet, store: SharedStore) -> None:
        self._fleet = fleet
        self._store = store
        self.key: str = fleet.keys.other("shared_store", store.name)
        self._sisters = (f"{self.key}:log",)
        self.channels = (f"{self.key}:changes",)
        self.entries: dict[str, _Entry] = {}  # `get` and `len` read it without the lock; all else has it
        self.version = 0
        self._soonest = math.inf  # no entry ends earlier
        self._lock = threading.Lock()
        self._era = ""  # that the copy is of; empty for none
        self._start_over()

    def _start_over(self) -> None:
        self.joined = False
        self.known = False
        self._changes = 0  # of that era, that the copy has
        self._unsaid: dict[str, _Word] = {}
        self._clearing = False
        self._sent: tuple[dict[str, _Word], bool] = ({}, False)
        self._looked_at = 0.0
        self._waiters: list[AsyncWaiter] = []

    # --- by callers ------------------------------------------------------------------------------------------------

    def join(self) -> None:
        """With the first call the agent begins to work for this store; where it cannot, with a later one."""
        if not self.joined:
            self.joined = self._fleet.join(self)[0]

    def keep(self, field: str, entry: _Entry, fits: bool) -> None:
        """Take over an entry, and tell the others if that can be."""
        with self._lock:
            if self._store.makes_room:
                self._make_room(field)
            known = self.entries.get(field)
            # Of what is forgotten here and not told yet, the store has something, too.
            self._put(field, evolve(entry, shared=field in self._unsaid if known is None else known.shared))
            self._bound()
            # What the others have of it is out of date in any case.
            self._unsaid[field] = entry.at, entry.text if fits else None
        self._speak()

    def seed(self, field: str, entry: _Entry) -> None:
        """Take over an entry of before, unless something is known already."""
        with self._lock:
            if not self.known:
                self._put(field, self.entries.get(field, entry))

    def _put(self, field: str, entry: _Entry) -> None:
        self.entries[field] = entry
        self._soonest = min(self._soonest, entry.until)

    def _make_room(self, new: str) -> None:
        """So many at once that looking for them costs little for each new one."""
        most = self._store.max_entries
        over = len(self.entries) + (new not in self.entries) - most  # by more than one where the store was full, too
        if over > 0:
            count = over - 1 + max(1, most // 100)
            for field, entry in heapq.nsmallest(count, self.entries.items(), key=lambda each: each[1].until):
                del self.entries[field]
                if entry.shared:
                    self._unsaid[field] = entry.at, None
                else:  # nobody has heard of it; where it is just under way, it ends with its life
                    self._unsaid.pop(field, None)

    def _bound(self) -> None:
        """Of what the store does not have, nobody else keeps the copy small, nor what is to be said."""
        most = self._store.max_entries
        if len(self.entries) > most:
            for field in [field for field, entry in self.entries.items() if not entry.shared][:-most]:
                del self.entries[field]
                self._unsaid.pop(field, None)

    def drop(self, field: str) -> None:
        """Forget one."""
        with self._lock:
            known = self.entries.pop(field, None)
            # Of what was never here, who is away for long remembers so much and no more.
            if known is not None or field in self._unsaid or len(self._unsaid) < self._store.max_entries:
                self._unsaid[field] = self._store.clock.wall(), None
        self._speak()

    def clear(self) -> None:
        """Forget all, and have everybody do so."""
        with self._lock:
            self.entries = {}
            self._unsaid = {}
            self._clearing = True
        self._speak()

    def _speak(self) -> None:
        self.join()
        self._fleet.agent.wake()

    def await_change(self, waiter: AsyncWaiter) -> None:
        """Wake him at the next change."""
        with self._lock:
            self._waiters.append(waiter)

    def wait_no_more(self, waiter: AsyncWaiter) -> None:
        """He has gone."""
        with self._lock:
            if waiter in self._waiters:
                self._waiters.remove(waiter)

    # --- by the agent ----------------------------------------------------------------------------------------------

    def due(self, now: float) -> float:
        return 0.0 if not self.known or self._clearing or self._unsaid else self._looked_at + self._fleet.poll_interval

    def requests(self, now: float) -> list[Request]:
        store = self._store
        if self.known and (self._clearing or self._unsaid):
            return [self._change()]
        self._looked_at = now
        args = (self._era, self._changes, store.max_entries, store.max_bytes)
        return [Request("entries", self.key, args, self._read, self._sisters)]

    def _change(self) -> Request:
        store = self._store
        with self._lock:
            self._drop_lapsed(store.clock.wall())
            said = dict(islice(self._unsaid.items(), SAID_AT_ONCE))
            for field in said:
                del self._unsaid[field]
            clearing, self._clearing = self._clearing, False
            self._sent = (said, clearing)
        gone = [field for field, (_, text) in said.items() if text is None]
        kept = [part for field, (_, text) in said.items() if text is not None for part in (field, text)]
        lives = round(1000 * max(self._fleet.ttl, store.lives))
        options = (store.max_entries, store.max_bytes, self.channels[0], len(gone))
        args = (self._era, int(clearing), draw(), lives, *options, *gone, *kept)
        return Request("keep", self.key, args, self._changed, self._sisters)

    def _drop_lapsed(self, now: float) -> None:
        if now >= self._soonest:
            for field, entry in [each for each in self.entries.items() if now >= each[1].until]:
                del self.entries[field]
                self._unsaid[field] = entry.at, None
            self._soonest = min((entry.until for entry in self.entries.values()), default=math.inf)

    def _changed(self, reply: Any, sent: float, received: float) -> None:
        """The answer to a change."""
        with self._lock:
            (said, clearing), self._sent = self._sent, ({}, False)
            if reply[0] == 0:  # another era has begun
                self.known = False
                if not self._era or self._store.lasting:  # the first one: somebody else was faster
                    self._unsaid = {**said, **self._unsaid}
                return
            era = _text(reply[1])
            refused = {_text(field) for field in reply[4]}
            if era != self._era:  # begun by this change
                if self._era and not clearing:  # the store had lost everything
                    self._offer(said)
                self._era, self._changes = era, 0
            if reply[2] == self._changes:
                self._changes = reply[3]
            else:
                self.known = False  # others have changed something, too
            for field in said:
                entry = self.entries.get(field)
                if entry is not None:
                    self.entries[field] = evolve(entry, shared=field not in refused)
        if refused:
            log_not_shared(self._store.name, "max_entries or max_bytes would be exceeded")

    def _offer(self, but: Container[str] = ()) -> None:
        """Say all that is in the copy, for the store has nothing of it."""
        offered = {
            field: (entry.at, entry.text)
            for field, entry in self.entries.items()
            if field not in but and len(entry.text) <= self._store.max_bytes
        }
        self._unsaid = {**offered, **self._unsaid}

    def _read(self, reply: Any, sent: float, received: float) -> None:
        """The answer to a look."""
        era = _text(reply[0] or b"")
        content = reply[2:]
        problem = _text(content[0]) if content and isinstance(content[0], bytes) else None
        told = bool(content) and problem is None
        heard: dict[str, _Entry | None] = {}
        if told:
            pairs = iter(content[0])
            named = ((_text(field), text) for field, text in zip(pairs, pairs, strict=True))
            heard = {field: self._understood(field, text) for field, text in named if field not in _OWN_FIELDS}
            bad = sum(entry is None for entry in heard.values())
            problem = f"entries that cannot be read: {bad}" if bad else None
        cleared = False
        with self._lock:
            self.known = True
            if not self._clearing:  # else what it holds does not matter any more
                if not era or (self._store.lasting and self._era not in ("", era)):
                    self._offer()
                elif self._era not in ("", era):
                    cleared = True
                    self.entries, self._unsaid = {}, {}
                    self.version += 1
                self._era, self._changes = era, reply[1]
                if told:
                    whole = len(content) == 1
                    self._merge(heard, self.entries.keys() - heard.keys() if whole else map(_text, content[1]))
        if problem is not None:
            self._fleet.ignored(self._store.name, problem)
        if cleared and self._store.on_clear is not None:
            self._tell(self._store.on_clear)
        self._wake()

    def _merge(self, heard: Mapping[str, _Entry | None], gone: Iterable[str]) -> None:
        """Bring the copy up to date; of what is to be said, what was fetched or forgotten last counts."""
        for field in gone:
            known = self.entries.get(field)
            if known is not None and known.shared and field not in self._unsaid:
                del self.entries[field]
        for field, entry in heard.items():
            if field in self._unsaid:
                at, text = self._unsaid[field]
                if entry is None or (entry.at <= at and entry.text != text):
                    mine = self.entries.get(field)
                    if mine is not None:
                        self.entries[field] = evolve(mine, shared=True)
                    continue
                del self._unsaid[field]
            if entry is None:
                self.entries.pop(field, None)
            else:
                self._put(field, entry)
        self.version += 1

    def _understood(self, field: str, text: bytes) -> _Entry | None:
        """An entry as the store has it; None where it is not one."""
        store = self._store
        change, _, raw = text.partition(b":")
        known, content = self.entries.get(field), raw.decode("utf-8", "replace")
        if not change.isdigit():
            return None
        if known is not None and known.text == content:  # its own word: the value stays the same object
            return known if known.shared else evolve(known, shared=True)
        try:
            told = json.loads(raw)
            at, until = told["at"], told["until"]
            if told["version"] != VERSION or not (_is_time(at) and _is_time(until)):
                return None
            with no_forks:
                value = store.decode(told["value"])
        except Exception:  # of JSON, of what is missing in it, of the user's function: it is no entry
            return None
        now = store.clock.wall()
        # Nobody's clock makes it younger than it can be, or lets it live for longer than it may.
        return _Entry(value, min(at, now), min(until, now + store.lives), content, True)

    def _tell(self, on_clear: Callable[[], Any]) -> None:
        try:
            with no_forks:
                on_clear()
        except Exception as error:
            text = f"on_clear of the shared store {self._store.name!r} failed"
            log_failure("resilience.store.not_told", text, error)

    def _wake(self) -> None:
        with self._lock:
            waiters, self._waiters = self._waiters, []
        for waiter in waiters:
            waiter.wake()

    def heard(self, channel: str, content: bytes, now: float) -> None:
        if content != f"{self._era}:{self._changes}".encode():
            self.known = False

    def lost(self, now: float) -> None:
        with self._lock:
            self.known = False
            (said, clearing), self._sent = self._sent, ({}, False)
            if not self._clearing:  # else what was said before does not matter any more
                self._unsaid = {**said, **self._unsaid}
            self._clearing = self._clearing or clearing
        self._wake()

    def found(self, now: float) -> None:
        self.known = False

    def proven(self) -> bool:
        return self.known

    def after_fork(self) -> None:
        renew(self._lock)
        self._start_over()  # what is left to be said the parent says

    def goodbye(self, now: float) -> list[Request]:
        return [self._change()] if self.known and (self._clearing or self._unsaid) else []


def _text(raw: bytes) -> str:
    return raw.decode("utf-8", "replace")


def _is_time(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value < math.inf

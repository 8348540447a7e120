"""Remember good answers and serve the last one while a new one cannot be had. The law is in `_machines/freshness.py`.

One fetch per key at a time (single flight): everybody else who asks meanwhile waits for that one. A fetch that is
cancelled harms nobody but its own caller: the next in line fetches instead.
"""

from __future__ import annotations

import os
import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from pathlib import Path
from typing import Any, ClassVar

from attrs import define, field, frozen, setters

from resilience_core import _validation as check
from resilience_core._errors import ConfigurationError
from resilience_core._event_log import say
from resilience_core._event_records import error_type
from resilience_core._events import StaleServed
from resilience_core._machines.freshness import Freshness, freshness
from resilience_core._policies._stores import CacheStore, FileStore, MemoryStore
from resilience_core._schema import ERROR_TYPE, POLICY
from resilience_core._story import end_story, story_of
from resilience_core._telemetry import leave_call, note_degraded, note_lookup, telemetry, unanswered, unanswered_async
from resilience_core._validation import to_seconds
from resilience_core._verdicts import BadResult, On
from resilience_core._weave.background import spawn, spawn_async
from resilience_core._weave.deadline import DEADLINE, remaining
from resilience_core._weave.edge import Policy
from resilience_core._weave.flights import Flight, Flights
from resilience_core._weave.results import refuse_streams
from resilience_core._weave.site import Args, AsyncCall, Call, Kwargs, Site
from resilience_core._weave.waiting import ThreadWaiter, async_waiter


@frozen
class CacheEntry:
    """A value in the cache, as of the moment of asking."""

    value: Any
    age: float
    """Seconds since it was fetched."""
    freshness: Freshness


def _path(value: str | os.PathLike[str] | None) -> Path | None:
    return None if value is None else Path(value)


def _names(on: On, error: Exception) -> bool:
    """Whether the short form `on` names `error`."""
    if isinstance(on, (type, tuple)):
        return isinstance(error, on)
    return not isinstance(error, BadResult) and on(error)


@define(eq=False, on_setattr=setters.frozen)
class StaleCache(Policy):
    """Serves a value for `fresh_for` seconds without asking, and for `stale_for` seconds more when asking fails.

    Args:
        name: identifies the cache in events and metrics.
        fresh_for: seconds (or timedelta) during which a value is served without asking.
        stale_for: seconds after that during which it is served when fetching a new one fails.
        while_revalidating: serve a stale value at once and fetch a new one in the background, instead of waiting.
        negative_for: seconds during which a failure named by `negative_on` is raised again without asking; 0 for none.
        negative_on: failures that will not go away by asking again (class, tuple or predicate).
        key: a function of the guarded call's arguments; default the arguments themselves, which must be hashable.
        on: failures for which a stale value is served (class, tuple or predicate); default every `Exception`.
        max_entries: values kept; beyond, the one used longest ago is dropped.
        store: a `CacheStore` of your own in place of the memory; it sets its own bounds.
        file: where to keep the values so that they outlive the process. Values must be what `encode` takes; ages go
            by the wall clock. A file that cannot be read or written is logged and does not fail a call.
        encode: turns a value into what JSON can carry.
        decode: the reverse.
    """

    kind: ClassVar[str] = "stale_cache"
    stateful: ClassVar[bool] = True
    fixed: ClassVar[frozenset[str]] = frozenset({*Policy.fixed, "store", "file", "encode", "decode"})

    name: str = field(default="stale_cache", validator=check.name)
    fresh_for: float = field(kw_only=True, converter=to_seconds, validator=check.non_negative_seconds)
    stale_for: float = field(kw_only=True, converter=to_seconds, validator=check.non_negative_seconds)
    while_revalidating: bool = field(default=False, kw_only=True, validator=check.boolean)
    negative_for: float = field(default=0.0, kw_only=True, converter=to_seconds, validator=check.non_negative_seconds)
    negative_on: On | None = field(default=None, kw_only=True, validator=check.optional(check.on))
    key: Callable[..., Hashable] | None = field(default=None, kw_only=True, validator=check.optional(check.function))
    on: On | None = field(default=None, kw_only=True, validator=check.optional(check.on))
    max_entries: int = field(default=1_000, kw_only=True, validator=check.count_from(1))
    store: CacheStore | None = field(
        default=None, kw_only=True, validator=check.optional(check.instance_of(CacheStore, "a CacheStore"))
    )
    file: Path | None = field(
        default=None,
        kw_only=True,
        converter=_path,
        validator=check.optional(check.instance_of(Path, "a path")),
    )
    encode: Callable[[Any], Any] = field(default=lambda value: value, kw_only=True, validator=check.function)
    decode: Callable[[Any], Any] = field(default=lambda value: value, kw_only=True, validator=check.function)
    _kept: Any = field(init=False, repr=False, on_setattr=setters.NO_OP)
    _durable: bool = field(init=False, repr=False, default=False, on_setattr=setters.NO_OP)
    _negative: OrderedDict[Hashable, tuple[Exception, float]] = field(init=False, repr=False, factory=OrderedDict)
    _flights: Flights = field(init=False, repr=False, factory=Flights)
    _lock: threading.Lock = field(init=False, repr=False, factory=threading.Lock)
    _stale_served: int = field(init=False, repr=False, default=0, on_setattr=setters.NO_OP)

    def _validate(self) -> None:
        if self.store is not None and self.file is not None:
            raise ConfigurationError("StaleCache: store and file exclude each other")
        if (self.negative_for > 0) is (self.negative_on is None):
            raise ConfigurationError("StaleCache: negative_for and negative_on go together: give both or neither")

    def _build(self) -> None:
        self._durable = self.store is not None or self.file is not None
        if self.store is not None:
            self._kept = self.store
        elif self.file is not None:
            self._kept = FileStore(self.max_entries, self.file, self.name, self.encode, self.decode)
        else:
            self._kept = MemoryStore(self.max_entries)

    def _adopt(self, other: StaleCache, changed: frozenset[str]) -> None:
        if "max_entries" in changed and self.store is None:
            self._kept.resize(self.max_entries)
        with self._lock:
            while len(self._negative) > self.max_entries:
                self._negative.popitem(last=False)

    # --- looking in ----------------------------------------------------------------------------------------------

    def entry(self, *args: Any, **kwargs: Any) -> CacheEntry | None:
        """What is kept for a call with these arguments, whatever its age; None if nothing is."""
        found = self._look(self._key(args, kwargs))
        if found is None:
            return None
        value, age = found
        return CacheEntry(value, age, freshness(age, self.fresh_for, self.stale_for))

    def invalidate(self, *args: Any, **kwargs: Any) -> None:
        """Drop what is kept for a call with these arguments, a remembered failure included."""
        key = self._key(args, kwargs)
        with self._lock:
            self._negative.pop(key, None)
        self._ask_store("delete", key)

    def clear(self) -> None:
        """Drop everything."""
        with self._lock:
            self._negative.clear()
        self._ask_store("clear")

    def snapshot(self) -> dict[str, Any]:
        """Entries kept (None where the store cannot tell), failures remembered, fetches under way, stale answers."""
        entries = len(self._kept) if hasattr(self._kept, "__len__") else None
        return {
            "entries": entries,
            "negative": len(self._negative),
            "fetching": len(self._flights),
            "stale_served": self._stale_served,
        }

    def _sentence(self) -> str:
        serves = "meanwhile and when fetching fails" if self.while_revalidating else "when fetching fails"
        return f"stale cache: fresh for {self.fresh_for:g} s, served for {self.stale_for:g} s more {serves}"

    # --- what is kept ----------------------------------------------------------------------------------------------

    def _key(self, args: Args, kwargs: Kwargs) -> Hashable:
        if self.key is not None:
            key = self.key(*args, **kwargs)
        else:
            key = (args, tuple(sorted(kwargs.items())))
        return repr(key) if self._durable else key  # a file or a database can carry text only

    def _time(self) -> float:
        return self.clock.wall() if self._durable else self.clock.now()

    def _ask_store(self, method: str, *args: Any) -> Any:
        try:
            return getattr(self._kept, method)(*args)
        except Exception as error:
            if self.store is None:
                raise
            text = f"The store of the cache {self.name!r} failed on {method}"
            say("resilience.cache.store_failed", text, {POLICY: self.name}, error=error)
            return None

    def _look(self, key: Hashable) -> tuple[Any, float] | None:
        """The value for `key` and its age."""
        found = self._ask_store("get", key)
        return None if found is None else (found[0], max(0.0, self._time() - found[1]))

    def _found(self, key: Hashable, worst: Freshness) -> tuple[Any, float] | None:
        """The value for `key` and its age, if it is fresh (or at worst stale, if that is allowed)."""
        found = self._look(key)
        if found is None:
            return None
        judged = freshness(found[1], self.fresh_for, self.stale_for)
        return found if judged in (Freshness.FRESH, worst) else None

    def _raise_known(self, key: Hashable) -> None:
        """Raise the failure that is remembered for `key`, if it is still to be."""
        if not self._negative:
            return
        with self._lock:
            found = self._negative.get(key)
            if found is not None and self.clock.now() >= found[1]:
                found = None
                del self._negative[key]
        if found is not None:
            if telemetry.recording:
                note_lookup(self.name, "negative")
            raise found[0].with_traceback(None)

    def _land(self, key: Hashable, flight: Flight, value: Any, error: BaseException | None) -> None:
        if error is None:
            with self._lock:
                self._negative.pop(key, None)
            self._ask_store("set", key, value, self._time())  # first: who comes next finds the flight or the value
        elif isinstance(error, Exception) and self.negative_on is not None and _names(self.negative_on, error):
            with self._lock:
                self._negative[key] = (error, self.clock.now() + self.negative_for)
                if len(self._negative) > self.max_entries:
                    self._negative.popitem(last=False)
        self._flights.land(key, flight, value, error)

    def _outcome(self, key: Hashable, flight: Flight, site: Site) -> Any:
        """What a finished fetch means for one of those who asked: its value, a stale one, or its error."""
        error = flight.error
        stale = None
        if error is not None and (self.on is None or _names(self.on, error)):
            stale = self._found(key, Freshness.STALE)
        if stale is not None:
            return self._serve(stale, site, error)
        if telemetry.recording:
            note_lookup(self.name, "miss")
        if error is not None:
            raise error
        return flight.value

    def _serve(self, stale: tuple[Any, float], site: Site, error: Exception | None) -> Any:
        self._stale_served += 1
        note_degraded()
        if telemetry.recording:
            note_lookup(self.name, "stale", stale[1])
        operation = site.operation
        if self.bus.hears(StaleServed):
            self.bus.emit(StaleServed(self.name, self.clock.now(), operation, stale[1], error))
        if site.journal is not None and error is not None:
            at, because = self.clock.wall(), type(error).__qualname__
            story = story_of(error, at, self.kind, self.name, operation)
            entry = (at, self.kind, self.name, operation, "served_stale", stale[1], because)
            site.journal.answered(story, operation, entry)
        if error is not None:
            end_story(error)
        return stale[0]

    def _revalidated(self, key: Hashable, flight: Flight, error: BaseException | None) -> None:
        """After a refresh: tell why it failed, and end its flight if it was stopped before it could do so itself."""
        if error is not None:
            attributes = {POLICY: self.name, ERROR_TYPE: error_type(error)}
            text = f"The cache {self.name!r} could not be refreshed: {type(error).__name__}"
            say("resilience.cache.refresh_failed", text, attributes)
            if not flight.over:
                self._land(key, flight, None, error)

    # --- the weaves ----------------------------------------------------------------------------------------------

    def bind(self, call: Call, site: Site) -> Call:
        """Weave the cache around a blocking call."""
        refuse_streams(site, "StaleCache")
        arguments, flights, name = site.arguments, self._flights, self.name
        new_waiter, start = ThreadWaiter, spawn
        behind = unanswered(call, site)

        def fetch(call: Call, key: Hashable, flight: Flight, args: Args, kwargs: Kwargs) -> None:
            try:
                value = call(args, kwargs)
            except BaseException as error:
                self._land(key, flight, None, error)
                if not isinstance(error, Exception):
                    raise
            else:
                self._land(key, flight, value, None)

        def refresh(key: Hashable, args: Args, kwargs: Kwargs) -> None:
            flight = flights.lead(key)
            if flight is None:
                return

            def begin() -> Any:
                DEADLINE.set(None)  # nobody waits for it, and its caller's time may be up
                leave_call()
                return fetch(behind, key, flight, args, kwargs)

            try:
                start(begin, lambda job: self._revalidated(key, flight, job.error))
            except RuntimeError as error:  # no more threads to be had: the stale value is served all the same
                self._revalidated(key, flight, error)

        def guarded(args: Args, kwargs: Kwargs) -> Any:
            key = self._key(*arguments(args, kwargs))
            while True:
                fresh = self._found(key, Freshness.FRESH)
                if fresh is not None:
                    if telemetry.recording:
                        note_lookup(self.name, "hit", fresh[1])
                    return fresh[0]
                self._raise_known(key)
                stale = self._found(key, Freshness.STALE) if self.while_revalidating else None
                if stale is not None:
                    refresh(key, args, kwargs)
                    return self._serve(stale, site, None)
                waiter = new_waiter()
                flight, leads = flights.board(key, waiter)
                if leads:
                    fetch(call, key, flight, args, kwargs)
                else:
                    woken = waiter.wait(remaining())
                    flights.arrive(flight, waiter, woken, name)
                if flight.landed:
                    return self._outcome(key, flight, site)

        return guarded

    def bind_async(self, call: AsyncCall, site: Site) -> AsyncCall:
        """Weave the cache around an async call."""
        refuse_streams(site, "StaleCache")
        arguments, flights, name = site.arguments, self._flights, self.name
        new_waiter, start = async_waiter, spawn_async
        behind = unanswered_async(call, site)

        async def fetch(call: AsyncCall, key: Hashable, flight: Flight, args: Args, kwargs: Kwargs) -> None:
            try:
                value = await call(args, kwargs)
            except BaseException as error:
                self._land(key, flight, None, error)
                if not isinstance(error, Exception):
                    raise
            else:
                self._land(key, flight, value, None)

        def refresh(key: Hashable, args: Args, kwargs: Kwargs) -> None:
            flight = flights.lead(key)
            if flight is None:
                return

            def begin() -> Any:
                DEADLINE.set(None)  # nobody waits for it, and its caller's time may be up
                leave_call()
                return fetch(behind, key, flight, args, kwargs)

            try:
                start(begin, lambda job: self._revalidated(key, flight, job.error))
            except RuntimeError as error:  # no more threads to be had: the stale value is served all the same
                self._revalidated(key, flight, error)

        async def guarded(args: Args, kwargs: Kwargs) -> Any:
            key = self._key(*arguments(args, kwargs))
            while True:
                fresh = self._found(key, Freshness.FRESH)
                if fresh is not None:
                    if telemetry.recording:
                        note_lookup(self.name, "hit", fresh[1])
                    return fresh[0]
                self._raise_known(key)
                stale = self._found(key, Freshness.STALE) if self.while_revalidating else None
                if stale is not None:
                    refresh(key, args, kwargs)
                    return self._serve(stale, site, None)
                waiter = new_waiter()
                flight, leads = flights.board(key, waiter)
                if leads:
                    await fetch(call, key, flight, args, kwargs)
                else:
                    woken = await waiter.wait(remaining())
                    flights.arrive(flight, waiter, woken, name)
                if flight.landed:
                    return self._outcome(key, flight, site)

        return guarded

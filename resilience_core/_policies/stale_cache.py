"""Remember good answers and serve the last one while a new one cannot be had. The law is in `_machines/freshness.py`.

One fetch per key at a time (single flight): everybody else who asks meanwhile waits for that one. A fetch that is
cancelled harms nobody but its own caller: the next in line fetches instead.
"""

from __future__ import annotations

import json
import logging
import os
import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from pathlib import Path
from typing import Any, ClassVar

from attrs import define, field, frozen, setters

from resilience_core import _validation as check
from resilience_core._errors import DeadlineExceeded, RejectionReason
from resilience_core._events import StaleServed
from resilience_core._machines.freshness import Freshness, freshness
from resilience_core._telemetry import note_degraded
from resilience_core._validation import to_seconds
from resilience_core._verdicts import BadResult, On
from resilience_core._weave.deadline import remaining
from resilience_core._weave.edge import Policy
from resilience_core._weave.results import refuse_streams
from resilience_core._weave.site import Args, AsyncCall, Call, Kwargs, Site
from resilience_core._weave.waiting import ThreadWaiter, Waiter, async_waiter

logger = logging.getLogger("resilience_core.cache")


@frozen
class CacheEntry:
    """A value in the cache, as of the moment of asking."""

    value: Any
    age: float
    """Seconds since it was fetched."""
    freshness: Freshness


class _Flight:
    """One fetch that is under way, and those who wait for it."""

    __slots__ = ("error", "landed", "value", "waiters")

    def __init__(self) -> None:
        self.waiters: dict[Waiter, None] = {}
        self.landed = False  # False after waking: the fetch was cancelled and somebody else must fetch
        self.value: Any = None
        self.error: Exception | None = None


def _path(value: str | os.PathLike[str] | None) -> Path | None:
    return None if value is None else Path(value)


@define(eq=False, on_setattr=setters.frozen)
class StaleCache(Policy):
    """Serves a value for `fresh_for` seconds without asking, and for `stale_for` seconds more when asking fails.

    Args:
        name: identifies the cache in events and metrics.
        fresh_for: seconds (or timedelta) during which a value is served without asking.
        stale_for: seconds after that during which it is served when fetching a new one fails.
        key: a function of the guarded call's arguments; default the arguments themselves, which must be hashable.
        on: failures for which a stale value is served (class, tuple or predicate); default every `Exception`.
        max_entries: values kept; beyond, the one used longest ago is dropped.
        file: where to keep the values so that they outlive the process. Values must be what `encode` takes; ages go
            by the wall clock. A file that cannot be read or written is logged and does not fail a call.
        encode: turns a value into what JSON can carry.
        decode: the reverse.
    """

    kind: ClassVar[str] = "stale_cache"

    name: str = field(default="stale_cache", validator=check.name)
    fresh_for: float = field(kw_only=True, converter=to_seconds, validator=check.non_negative_seconds)
    stale_for: float = field(kw_only=True, converter=to_seconds, validator=check.non_negative_seconds)
    key: Callable[..., Hashable] | None = field(default=None, kw_only=True, validator=check.optional(check.function))
    on: On | None = field(default=None, kw_only=True, validator=check.optional(check.on))
    max_entries: int = field(default=1_000, kw_only=True, validator=check.count_from(1))
    file: Path | None = field(
        default=None,
        kw_only=True,
        converter=_path,
        validator=check.optional(check.instance_of(Path, "a path")),
    )
    encode: Callable[[Any], Any] = field(default=lambda value: value, kw_only=True, validator=check.function)
    decode: Callable[[Any], Any] = field(default=lambda value: value, kw_only=True, validator=check.function)
    _entries: OrderedDict[Hashable, tuple[Any, float]] = field(init=False, repr=False, factory=OrderedDict)
    _flights: dict[Hashable, _Flight] = field(init=False, repr=False, factory=dict)
    _lock: threading.Lock = field(init=False, repr=False, factory=threading.Lock)

    def _build(self) -> None:
        if self.file is not None:
            self._load(self.file)

    # --- looking in ----------------------------------------------------------------------------------------------

    def entry(self, *args: Any, **kwargs: Any) -> CacheEntry | None:
        """What is kept for a call with these arguments, whatever its age; None if nothing is."""
        found = self._entries.get(self._key(args, kwargs))
        if found is None:
            return None
        value, stored_at = found
        age = max(0.0, self._time() - stored_at)
        return CacheEntry(value, age, freshness(age, self.fresh_for, self.stale_for))

    def invalidate(self, *args: Any, **kwargs: Any) -> None:
        """Drop what is kept for a call with these arguments."""
        with self._lock:
            self._entries.pop(self._key(args, kwargs), None)
        self._save()

    def clear(self) -> None:
        """Drop everything."""
        with self._lock:
            self._entries.clear()
        self._save()

    def snapshot(self) -> dict[str, Any]:
        """Entries kept and fetches under way."""
        return {"entries": len(self._entries), "fetching": len(self._flights)}

    def _sentence(self) -> str:
        return f"stale cache: fresh for {self.fresh_for:g} s, served for {self.stale_for:g} s more when fetching fails"

    # --- one fetch per key -----------------------------------------------------------------------------------------

    def _key(self, args: Args, kwargs: Kwargs) -> Hashable:
        if self.key is not None:
            key = self.key(*args, **kwargs)
        else:
            key = (args, tuple(sorted(kwargs.items())))
        return repr(key) if self.file is not None else key  # a file can carry text only

    def _time(self) -> float:
        return self.clock.wall() if self.file is not None else self.clock.now()

    def _found(self, key: Hashable, worst: Freshness) -> tuple[Any, float] | None:
        """The value for `key` and its age, if it is fresh (or at worst stale, if that is allowed)."""
        with self._lock:
            found = self._entries.get(key)
            if found is None:
                return None
            self._entries.move_to_end(key)
        age = max(0.0, self._time() - found[1])
        judged = freshness(age, self.fresh_for, self.stale_for)
        return (found[0], age) if judged in (Freshness.FRESH, worst) else None

    def _board(self, key: Hashable, waiter: Waiter) -> tuple[_Flight, bool]:
        """The fetch for `key`, and whether the caller is the one to make it."""
        with self._lock:
            flight = self._flights.get(key)
            if flight is None:
                flight = self._flights[key] = _Flight()
                return flight, True
            flight.waiters[waiter] = None
            return flight, False

    def _land(self, key: Hashable, flight: _Flight, value: Any, error: BaseException | None) -> None:
        with self._lock:
            del self._flights[key]
            flight.landed = error is None or isinstance(error, Exception)
            flight.value = value
            flight.error = error if isinstance(error, Exception) else None
            if error is None:
                self._entries[key] = (value, self._time())
                self._entries.move_to_end(key)
                if len(self._entries) > self.max_entries:
                    self._entries.popitem(last=False)
            waiters, flight.waiters = flight.waiters, {}
        for waiter in waiters:
            waiter.wake()
        if error is None:
            self._save()

    def _outcome(self, key: Hashable, flight: _Flight, operation: str) -> Any:
        """What a finished fetch means for one of those who asked: its value, a stale one, or its error."""
        error = flight.error
        if error is None:
            return flight.value
        stale = self._found(key, Freshness.STALE) if self._tolerates(error) else None
        if stale is None:
            raise error
        note_degraded()
        if self.bus.heard:
            self.bus.emit(StaleServed(self.name, self.clock.now(), operation, stale[1], error))
        return stale[0]

    def _tolerates(self, error: Exception) -> bool:
        if self.on is None:
            return True
        if isinstance(self.on, (type, tuple)):
            return isinstance(error, self.on)
        return not isinstance(error, BadResult) and self.on(error)

    def _check_wait(self, flight: _Flight, waiter: Waiter, woken: bool) -> None:
        with self._lock:
            flight.waiters.pop(waiter, None)
            given_up = not woken and not flight.landed
        if given_up:
            raise DeadlineExceeded(self.name, RejectionReason.DEADLINE)

    # --- the weaves ----------------------------------------------------------------------------------------------

    def bind(self, call: Call, site: Site) -> Call:
        """Weave the cache around a blocking call."""
        refuse_streams(site, "StaleCache")
        arguments, operation = site.arguments, site.operation
        new_waiter = ThreadWaiter

        def guarded(args: Args, kwargs: Kwargs) -> Any:
            key = self._key(*arguments(args, kwargs))
            while True:
                fresh = self._found(key, Freshness.FRESH)
                if fresh is not None:
                    return fresh[0]
                waiter = new_waiter()
                flight, leads = self._board(key, waiter)
                if leads:
                    try:
                        value = call(args, kwargs)
                    except BaseException as error:
                        self._land(key, flight, None, error)
                        if not isinstance(error, Exception):
                            raise
                    else:
                        self._land(key, flight, value, None)
                else:
                    woken = waiter.wait(remaining())
                    self._check_wait(flight, waiter, woken)
                if flight.landed:
                    return self._outcome(key, flight, operation)

        return guarded

    def bind_async(self, call: AsyncCall, site: Site) -> AsyncCall:
        """Weave the cache around an async call."""
        refuse_streams(site, "StaleCache")
        arguments, operation = site.arguments, site.operation
        new_waiter = async_waiter

        async def guarded(args: Args, kwargs: Kwargs) -> Any:
            key = self._key(*arguments(args, kwargs))
            while True:
                fresh = self._found(key, Freshness.FRESH)
                if fresh is not None:
                    return fresh[0]
                waiter = new_waiter()
                flight, leads = self._board(key, waiter)
                if leads:
                    try:
                        value = await call(args, kwargs)
                    except BaseException as error:
                        self._land(key, flight, None, error)
                        if not isinstance(error, Exception):
                            raise
                    else:
                        self._land(key, flight, value, None)
                else:
                    woken = await waiter.wait(remaining())
                    self._check_wait(flight, waiter, woken)
                if flight.landed:
                    return self._outcome(key, flight, operation)

        return guarded

    # --- the file ------------------------------------------------------------------------------------------------

    def _load(self, path: Path) -> None:
        try:
            stored = json.loads(path.read_text("utf-8"))
            for key, (value, stored_at) in stored["entries"].items():
                self._entries[key] = (self.decode(value), float(stored_at))
        except FileNotFoundError:
            return
        except Exception:
            logger.warning("The cache file of %r cannot be read and is ignored", self.name, exc_info=True)
            self._entries.clear()

    def _save(self) -> None:
        if self.file is None:
            return
        try:
            with self._lock:
                entries = {key: [self.encode(value), stored_at] for key, (value, stored_at) in self._entries.items()}
                # Written beside and moved, so that a crash leaves the old file or the new one.
                beside = self.file.with_name(f"{self.file.name}.{os.getpid()}.new")
                beside.write_text(json.dumps({"version": 1, "entries": entries}), "utf-8")
                beside.replace(self.file)
        except Exception:
            logger.warning("The cache file of %r cannot be written", self.name, exc_info=True)

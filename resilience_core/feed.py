"""The state feed: what happened in this process, and how all its policies are, for whoever looks on.

`feed` hears every event of the process from its first use on. It remembers the last ones, so that a client that was
away for a moment misses nothing, and hands new ones to clients in threads, asyncio and trio. The pages of
`resilience_core.health`, the command line and the dashboard show what comes from here.

What must never happen: a call that waits for a client, or a memory that grows with the traffic. So every queue is
bounded, of what happens with each call (rejections, retries) a part is left out in a flood, and how much is missing is
told in both cases. Changes of state have a memory of their own, which such a flood cannot fill.
"""

from __future__ import annotations

import heapq
import logging
import os
import threading
import weakref
from collections import deque
from collections.abc import Callable, Collection
from functools import partial
from typing import Any, TypeAlias

from resilience_core import _schema as s
from resilience_core._clock import SYSTEM
from resilience_core._config_events import ConfigurationRefused, ConfigurationReloaded
from resilience_core._errors import ConfigurationError
from resilience_core._event_records import record_of
from resilience_core._events import CircuitTransition, Event, Reconfigured, everywhere
from resilience_core._fleet_events import RecordIgnored, StoreDegraded, StoreRecovered
from resilience_core._fork import renewed_after_fork
from resilience_core._views import plain, rows_of, wall
from resilience_core._weave.waiting import ThreadWaiter, Waiter, async_waiter
from resilience_core.registry import Registry, registry

__all__ = ["Client", "Feed", "Message", "feed"]

Message: TypeAlias = dict[str, Any]
"""`id`, `time` (seconds since the epoch), `event.name`, `level`, `text` and the attributes of the schema, flat."""

EVENT_NAME = "event.name"
LEFT_OUT = f"{s.PREFIX}.feed.left_out"
"""Name of the message that tells how many events (`count`) were left out since the last one, in a flood."""
DROPPED = f"{s.PREFIX}.feed.dropped"
"""Name of the message that tells a client how many messages (`count`) it has missed."""

_CHANGES = (
    CircuitTransition,
    Reconfigured,
    ConfigurationReloaded,
    ConfigurationRefused,
    StoreDegraded,
    StoreRecovered,
    RecordIgnored,
)
_MOST_CALLS = 100  # messages of one second about single calls; a rejection costs 10 times as much with one
_MOST_CHANGES = 1000


class _Lane:
    """Messages of one sort: the last ones, and how many may come in a second."""

    __slots__ = ("begun", "kept", "left_out", "most", "taken")

    def __init__(self, keep: int, most: int) -> None:
        self.kept: deque[Message] = deque(maxlen=keep)
        self.most = most
        self.begun = float("-inf")
        self.taken = 0
        self.left_out = 0

    def full(self, now: float) -> bool:
        """Whether there were enough in this second, and one more is left out.

        Needs no lock, because in a flood threads would wait for it: what is counted is so in one step under the GIL.
        """
        if self.taken < self.most or not self.begun <= now < self.begun + 1.0:
            return False
        self.left_out += 1
        return True

    def take(self, now: float) -> None:
        """One more comes. Under the lock."""
        if not self.begun <= now < self.begun + 1.0:
            self.begun, self.taken = now, 0
        self.taken += 1


class _Filter:
    """Which messages somebody wants: of which policies, and which events."""

    __slots__ = ("_events", "_names")

    def __init__(self, names: Collection[str] | None, events: Collection[str] | None) -> None:
        self._names = None if names is None else frozenset(names)
        self._events = None if events is None else frozenset(events)

    def __call__(self, message: Message) -> bool:
        if message[EVENT_NAME] == LEFT_OUT:  # nobody knows of which
            return True
        named = self._names is None or message.get(s.POLICY) in self._names
        return named and (self._events is None or message[EVENT_NAME] in self._events)


class Client:
    """Messages for one reader, who takes them one after the other: `get` in a thread, `aget` on asyncio and trio.

    When the reader is slower than the events, the oldest messages are dropped; then the next one is called
    `resilience.feed.dropped` and has their number as `count`. Close it in the end, or use it in a `with` block; one
    that is simply forgotten does no harm. In the child of a fork the parent's clients are closed.
    """

    def __init__(self, feed: Feed, wanted: Callable[[Message], bool], size: int, lock: Any) -> None:
        self._feed = feed
        self._wanted = wanted
        self._lock = lock
        self._queue: deque[Message] = deque()
        self._size = size
        self._missed = 0
        self._missed_at = 0
        self._waiter: Waiter | None = None
        self.dropped: int = 0
        """Messages dropped so far."""
        self.closed: bool = False

    def get(self, timeout: float | None = None) -> Message | None:
        """The next message; None when `timeout` seconds passed without one, or the client was closed.

        Raises:
            ConfigurationError: it would have to wait on the thread of a running event loop: use `aget`.
            RuntimeError: somebody else is waiting already.
        """
        waiter = ThreadWaiter()
        waits, message = self._take(waiter, timeout)
        if waits:
            try:
                waiter.wait(timeout)
            finally:
                self._waiter = None  # whoever wakes does that, too
            message = self._next_locked()
        return message

    async def aget(self, timeout: float | None = None) -> Message | None:
        """The same in an event loop. It lets other tasks run each time, also when a message is there."""
        from anyio.lowlevel import checkpoint  # here, not above: threads do without it

        await checkpoint()  # else a reader with a full queue has the loop for itself, and does not see its client go
        waiter = async_waiter()
        waits, message = self._take(waiter, timeout)
        if waits:
            try:
                await waiter.wait(timeout)
            finally:
                self._waiter = None  # cancelled, perhaps: what has come meanwhile stays for whoever asks next
            message = self._next_locked()
        return message

    def close(self) -> None:
        """Get no more messages; whoever waits for one gets None."""
        with self._lock:
            self.closed = True
            self._queue.clear()
            self._missed = 0
            waiter, self._waiter = self._waiter, None
            if waiter is not None:
                waiter.wake()
        self._feed._leave(self)

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    # --- for the feed, and under its lock --------------------------------------------------------------------------

    def offer(self, message: Message) -> None:
        """Queue a message, if it is wanted, and wake the reader."""
        if self.closed or not self._wanted(message):
            return
        if len(self._queue) >= self._size:
            self.miss(1, self._queue.popleft()["id"])
        self._queue.append(message)
        waiter, self._waiter = self._waiter, None
        if waiter is not None and not waiter.wake():
            self.closed = True  # the event loop is gone, and the reader with it

    def miss(self, count: int, last: int) -> None:
        """So many messages are missing; `last` is the `id` of the last one."""
        self._missed += count
        self._missed_at = last
        self.dropped += count

    def _take(self, waiter: Waiter, timeout: float | None) -> tuple[bool, Message | None]:
        with self._lock:
            if self._waiter is not None:
                raise RuntimeError(
                    "somebody waits for this client's next message already: make a client for each reader"
                )
            message = self._next()
            waits = message is None and not self.closed and (timeout is None or timeout > 0)
            if waits:
                self._waiter = waiter
            return waits, message

    def _next_locked(self) -> Message | None:
        with self._lock:
            return self._next()

    def _next(self) -> Message | None:
        if self._missed:
            count, self._missed = self._missed, 0
            return _count_of(DROPPED, count, f"{count} messages are missing here", self._missed_at)
        return self._queue.popleft() if self._queue else None


def _count_of(name: str, count: int, text: str, number: int) -> Message:
    return {"id": number, "time": wall(), EVENT_NAME: name, "level": "WARNING", "text": text, "count": count}


class Feed:
    """The events of this process as messages, and the state of its policies.

    It hears nothing before its first use (`start`, `client`, `history` or `snapshot`).

    Args:
        keep: messages remembered of changes (of circuits, configurations, stores), and again so many of all others.
        queue: messages that may wait for one client.
        registry: whose policies `snapshot` shows.

    Attributes:
        boot: identifies this process; another one, and the child of a fork, has another one.
        left_out: events of which no message was made, because there were too many in one second: beyond 100 about
            single calls, beyond 1,000 changes.
    """

    def __init__(self, *, keep: int = 1000, queue: int = 256, registry: Registry = registry) -> None:
        self._keep = _a_count("keep", keep)
        self._queue = _a_count("queue", queue)
        self.registry: Registry = registry
        self._lock: Any = renewed_after_fork(threading.RLock())  # a signal handler, too, may make a call that fails
        self._end: Callable[[], None] | None = None
        self._begin()
        _feeds.add(self)

    def _begin(self) -> None:
        self.boot: str = os.urandom(6).hex()
        self._last = 0
        self._changes = _Lane(self._keep, _MOST_CHANGES)
        self._calls = _Lane(self._keep, _MOST_CALLS)
        self._untold = 0
        self._clients: tuple[weakref.ref[Client], ...] = ()

    def start(self) -> None:
        """Hear every event of the process from now on, if it does not yet."""
        with self._lock:
            if self._end is None:
                # Weakly: the bus of the process keeps its listeners for ever.
                self._end = everywhere.subscribe(partial(_hear, weakref.ref(self)))
                weakref.finalize(self, self._end).atexit = False

    def stop(self) -> None:
        """Hear nothing any more, forget everything, and close all clients. The next use starts it again, empty."""
        self._silence()
        for client in self._living():
            client.close()
        with self._lock:
            self._begin()

    def _silence(self) -> None:
        end, self._end = self._end, None
        if end is not None:
            end()

    def _after_fork(self) -> None:
        """In the child: whatever was remembered is the parent's."""
        self._silence()
        for client in self._living():
            client.closed, client._waiter = True, None  # its reader's thread or loop is not here
        self._begin()

    # --- reading ---------------------------------------------------------------------------------------------------

    @property
    def last_id(self) -> int:
        """The `id` of the last message; 0 before the first."""
        return self._last

    @property
    def clients(self) -> int:
        """How many clients there are."""
        return len(self._living())

    @property
    def left_out(self) -> int:
        """See above."""
        return self._changes.left_out + self._calls.left_out

    def client(
        self,
        after: int | None = None,
        *,
        names: Collection[str] | None = None,
        events: Collection[str] | None = None,
    ) -> Client:
        """A client that gets every message from now on.

        Args:
            after: begin with the remembered messages behind this `id`, and tell how many are not remembered.
            names: only those of policies with these names.
            events: only those with these values of `event.name`.
        """
        self.start()
        wanted = _Filter(names, events)
        with self._lock:
            client = Client(self, wanted, self._queue, self._lock)
            if after is not None:
                found = self._since(after)
                missing = self._last - max(0, after) - len(found)
                if missing > 0:
                    client.miss(missing, found[0]["id"] - 1 if found else self._last)
                for message in found:
                    client.offer(message)
            self._clients = (*(ref for ref in self._clients if ref() is not None), weakref.ref(client))
        return client

    def history(
        self,
        after: int = 0,
        *,
        names: Collection[str] | None = None,
        events: Collection[str] | None = None,
        limit: int | None = None,
    ) -> list[Message]:
        """The remembered messages behind the `id` `after`, oldest first; of more than `limit` the last ones.

        `names` and `events` as for `client`.
        """
        self.start()
        wanted = _Filter(names, events)
        with self._lock:
            found = [message for message in self._since(after) if wanted(message)]
        return found if limit is None else found[max(0, len(found) - limit) :]

    def snapshot(self) -> dict[str, Any]:
        """How everything is now, as plain values.

        `boot`, `id` (that of the last message: what comes behind it is newer than this), `time` (seconds since the
        epoch), `left_out`, and `policies`: a row for each with `kind`, `name` and what its `snapshot()` has, except:

        * times are seconds since the epoch (`since`, `down_since`, `forced.until`);
        * a breaker tells `next_probe_in` (seconds) and `last_error_type`;
        * bulkheads tell `usage` and `queue_usage`, rate limiters `permits`;
        * a fleet has a row of its own, of `kind` "fleet", whose `state` is `connected`, `degraded`, or `idle` as long
          as nobody has asked for its store;
        * a policy whose snapshot failed has `unreadable`, the class of the error, and nothing else.
        """
        self.start()
        number = self._last  # before the rows: a message too many does no harm, one too few would be lost
        return {
            "boot": self.boot,
            "id": number,
            "time": wall(),
            "left_out": self.left_out,
            "policies": rows_of(self.registry),
        }

    # --- hearing ---------------------------------------------------------------------------------------------------

    def hear(self, event: Event) -> None:
        """Take one event; called in the thread or task in which it happened."""
        now = SYSTEM.now()
        lane = self._changes if isinstance(event, _CHANGES) else self._calls
        if lane.full(now):
            return
        with self._lock:
            lane.take(now)
            untold = self.left_out - self._untold
            if untold:
                self._untold += untold
                text = f"{untold} events were left out: there were too many at once"
                self._send(lane, _count_of(LEFT_OUT, untold, text, 0))
            record = record_of(event)
            self._send(
                lane,
                {
                    "id": 0,
                    "time": wall(),
                    EVENT_NAME: record.name,
                    "level": logging.getLevelName(record.level),
                    "text": record.text,
                    **{key: plain(value) for key, value in record.attributes.items()},
                },
            )

    def _send(self, lane: _Lane, message: Message) -> None:
        self._last += 1
        message["id"] = self._last
        lane.kept.append(message)
        for ref in self._clients:
            client = ref()
            if client is not None:
                client.offer(message)

    def _since(self, after: int) -> list[Message]:
        both = heapq.merge(self._changes.kept, self._calls.kept, key=lambda message: message["id"])
        return [message for message in both if message["id"] > after]

    def _living(self) -> list[Client]:
        return [client for client in (ref() for ref in self._clients) if client is not None and not client.closed]

    def _leave(self, client: Client) -> None:
        with self._lock:
            self._clients = tuple(ref for ref in self._clients if ref() not in (None, client))


def _hear(heard_by: weakref.ref[Feed], event: Event) -> None:
    feed = heard_by()
    if feed is not None:
        feed.hear(event)


def _a_count(name: str, value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ConfigurationError(f"Feed: {name} must be an int of at least 1, not {value!r}")
    return value


_feeds: weakref.WeakSet[Feed] = weakref.WeakSet()


def _after_fork() -> None:
    for each in _feeds:
        each._after_fork()


os.register_at_fork(after_in_child=_after_fork)

feed: Feed = Feed()
"""The feed of this process."""

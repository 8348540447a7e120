"""The agent: one thread per fleet and process, which alone talks to the store.

    callers --(wake)--> agent --(requests of all items, one round trip)--> store
                          ^-------------------(news)-----------------------'

Callers leave word with an item (a shared circuit, limiter, ...) and go on; the agent asks every item what is due, sends
that as one batch, and hands the answers back. It is the one place where the store can fail: any error closes the
connections, tells the items that they are on their own, and is retried with a growing pause. No caller ever sees it.

Started with the first need, again in the child of a fork; a daemon, ended at exit or by `close()`.
"""

from __future__ import annotations

import functools
import os
import select
import threading
import time
import weakref
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from contextlib import nullcontext
from typing import Any

from resilience_core._clock import CHANCE
from resilience_core._fork import no_forks
from resilience_core.fleet._link import Link, OpenLink, Request
from resilience_core.fleet._log import log_failure

SHORTEST_PAUSE, LONGEST_PAUSE = 0.05, 1.0  # seconds between attempts to connect
NEVER = float("inf")
_FAILED_AGAIN = "The store failed once more"


class Item(ABC):
    """What one shared policy has to do with the store. Methods are the agent's, unless they say otherwise."""

    channels: tuple[str, ...] = ()

    @abstractmethod
    def due(self, now: float) -> float:
        """When it next wants to ask something (the agent's seconds)."""

    @abstractmethod
    def requests(self, now: float) -> list[Request]:
        """What it wants to ask now."""

    def pending(self) -> bool:
        """Whether something is left to be said."""
        return self.due(0.0) <= 0.0

    def proven(self) -> bool:
        """Whether the store has answered, and taken what it must take, since it was found."""
        return True

    def heard(self, channel: str, content: bytes, now: float) -> None:  # noqa: B027 - not everybody listens
        """News came."""

    @abstractmethod
    def lost(self, now: float) -> None:
        """The store cannot be reached: decide without it."""

    @abstractmethod
    def found(self, now: float) -> None:
        """It can be again: whatever was known may be outdated."""

    @abstractmethod
    def after_fork(self) -> None:
        """In the child: no lock is held, nothing is under way, and no agent runs."""

    @abstractmethod
    def goodbye(self, now: float) -> list[Request]:
        """What is to be said before leaving; nothing is answered to it."""


class Agent:
    """The thread and its items."""

    def __init__(
        self,
        open_link: OpenLink,
        on_lost: Callable[[BaseException], None],
        on_found: Callable[[float], None],
        on_start: Callable[[], None],
        on_exchange: Callable[[float, BaseException | None], None],
        bound: float,
    ) -> None:
        self._open_link = open_link
        self._on_lost = on_lost
        self._on_found = on_found
        self._on_start = on_start
        self._on_exchange = on_exchange
        self._bound = bound
        self.connected: bool = False
        self.closed: bool = False
        self.commands: int = 0  # sent to the store so far
        self.losses: int = 0
        self._acquainted = False
        """Whether it has spoken with a store. The first time a client imports some of its modules: where the process
        forks meanwhile, the child waits for ever for the lock of an import, with all other connections, too."""
        self._inherited: list[Any] = []  # of the parent: never used, never collected
        self._reset()

    def _reset(self) -> None:
        self._items: dict[int, weakref.ref[Item]] = {}
        self._lock = threading.Lock()
        self._changed = threading.Condition(self._lock)
        self._thread: threading.Thread | None = None
        self._start_at = 0.0  # not before: no thread was to be had
        self._link: Link | None = None
        self._turns = 0
        self._pause = SHORTEST_PAUSE
        self._retry_at = 0.0
        self._lost_at: float | None = None
        self._stopping = False
        self._end = 0.0  # of the time to say something before the end
        self._asks = 0  # exchanges begun and ended: odd while one is under way
        self._woken = False
        self._pipe: tuple[int, int] | None = None
        self.connected = False

    # --- for everybody ---------------------------------------------------------------------------------------------

    def attach(self, item: Item) -> bool:
        """Work for this item from now on; False after the end, and where no thread can be had: then ask again."""
        with self._lock:
            if self.closed:
                return False
            self._items[id(item)] = weakref.ref(item, self._forget(id(item)))
            started = self._start()
        self.wake()
        return started

    def _forget(self, key: int) -> Callable[[Any], None]:
        items = self._items

        def forget(_: Any) -> None:
            items.pop(key, None)

        return forget

    def _start(self) -> bool:
        if self._thread is not None:
            return True
        if time.monotonic() < self._start_at:
            return False
        thread = threading.Thread(target=self._run, name="resilience-fleet", daemon=True)
        try:
            self._open_pipe()
            thread.start()
        except (OSError, RuntimeError):  # no file or thread is to be had, or the interpreter ends: local verdicts go on
            self._start_at = time.monotonic() + LONGEST_PAUSE
            return False
        self._thread = thread
        self._on_start()
        return True

    def _open_pipe(self) -> None:
        if self._pipe is not None:  # of an attempt before
            return
        self._pipe = os.pipe()
        for end in self._pipe:
            os.set_blocking(end, False)
        # Not closed with the thread: a caller may be about to write, and the number may be another file's by then.
        self._closing = weakref.finalize(self, _close, self._pipe)
        self._closing.atexit = False

    @property
    def lost(self) -> bool:
        """Whether the store was lost and has not been found again; False as long as nobody has looked for it."""
        return self._lost_at is not None

    def wake(self) -> None:
        """Let the agent look at its items now. Never waits; safe in any thread and under any lock."""
        if self._woken or self._pipe is None:
            return
        self._woken = True
        os.write(self._pipe[1], b"!")

    def wait_connected(self, timeout: float) -> bool:
        """Wait until the store has answered for all items; False when it has not within `timeout` seconds."""
        with self._lock:
            return self._changed.wait_for(self._answered_for_all, timeout)

    def _answered_for_all(self) -> bool:
        return self.connected and all(item.proven() for item in self._all())

    def settle(self, timeout: float) -> bool:
        """Wait until nothing is left to be written; False when there is after `timeout` seconds."""
        end = time.monotonic() + timeout
        while True:
            with self._lock:
                turns = self._turns
            before = self._asks
            pending = any(item.pending() for item in self._all())
            # What is under way is pending nowhere: it counts only if nobody asked before, between or after.
            if self.connected and not pending and before % 2 == 0 and before == self._asks:
                return True
            now = time.monotonic()
            if now >= end:
                return False
            self.wake()
            with self._lock:
                self._changed.wait_for(lambda turns=turns: self._turns > turns, min(0.05, end - now))  # type: ignore[misc]

    def close(self, timeout: float) -> None:
        """End: say what is to be said, and let go of the connections. Waits `timeout` seconds at most."""
        with self._lock:
            self._end = time.monotonic() + timeout / 2
            self.closed = self._stopping = True
            thread = self._thread
        self._woken = False
        self.wake()
        if thread is not None and thread is not threading.current_thread():
            thread.join(timeout)

    def after_fork(self) -> None:
        """In the child: nothing of the parent's is used, and the first need starts another thread."""
        link, pipe = self._link, self._pipe
        self._inherited.append((link, self._lock, self._changed, self._items))
        if link is not None:
            link.abandon()
        if pipe is not None:
            self._closing()
        self._reset()

    # --- the thread ------------------------------------------------------------------------------------------------

    def _all(self) -> list[Item]:
        items = [held() for held in list(self._items.values())]
        return [item for item in items if item is not None]

    def _run(self) -> None:
        while self._goes_on():
            try:
                self._turn()
            except BaseException as error:  # a store may raise anything, and without this thread nothing is shared
                self._lose(error)
            with self._lock:
                self._turns += 1
                self._changed.notify_all()
        self._leave()

    def _goes_on(self) -> bool:
        """False at the end, unless there is something to be said before it, and still a chance that it can be."""
        if not self._stopping:
            return True
        in_time = time.monotonic() < self._end
        return in_time and self._lost_at is None and any(item.pending() for item in self._all())

    def _turn(self) -> None:
        # No item is held here during the wait: a policy that nobody uses any more can go.
        if self._link is None and time.monotonic() < self._retry_at:
            self._wait(self._retry_at, ())
            return
        with nullcontext() if self._acquainted else no_forks:
            link = self._link or self._open()
            self._talk(link)
        self._acquainted = True
        if self._goes_on():  # else nobody would wake it up any more
            self._wait(self._soonest(), link.descriptors())
            self._hear(link)

    def _open(self) -> Link:
        link = self._link = self._open_link()
        now = time.monotonic()
        for item in self._all():
            item.found(now)
        return link

    def _talk(self, link: Link) -> None:
        items = self._all()
        link.listen(channel for item in items for channel in item.channels)
        self._ask(link, items)
        if not self.connected and items:
            self._ask(link, items)  # what the first answers led to: it may answer, but take nothing
            if all(item.proven() for item in items):
                self._find()
        with self._lock:  # before the wait: what was answered may be all that somebody waits for
            self._changed.notify_all()
        self._hear(link)

    def _soonest(self) -> float:
        now = time.monotonic()
        return min((item.due(now) for item in self._all()), default=NEVER)

    def _ask(self, link: Link, items: Iterable[Item]) -> None:
        self._asks += 1
        try:
            self._exchange(link, items)
        finally:
            self._asks += 1

    def _exchange(self, link: Link, items: Iterable[Item]) -> None:
        now = time.monotonic()
        requests = [request for item in items if item.due(now) <= now for request in item.requests(now)]
        if not requests:
            return
        self.commands += len(requests)
        sent = time.monotonic()
        try:
            replies = link.run(requests)
        except Exception as error:
            self._on_exchange(time.monotonic() - sent, error)
            raise
        received = time.monotonic()
        failed = next((reply for reply in replies if isinstance(reply, Exception)), None)
        self._on_exchange(received - sent, failed)
        for request, reply in zip(requests, replies, strict=True):
            if not isinstance(reply, Exception):
                request.answer(reply, sent, received)
        if failed is not None:
            raise failed
        # A byte now and then keeps a time-out from ending.
        if received - sent > 3 * self._bound * link.round_trips(len(requests)):
            raise TimeoutError("the store answers, but too slowly")

    def _hear(self, link: Link) -> None:
        news = link.news()
        now = time.monotonic()
        for channel, content in news:
            for item in self._all():
                if channel in item.channels:
                    item.heard(channel, content, now)

    def _wait(self, until: float, descriptors: Iterable[int]) -> None:
        assert self._pipe is not None
        seconds = until - time.monotonic()
        if seconds > 0:
            poll = select.poll()  # not select(): a process may have more than 1,024 files open
            for descriptor in (self._pipe[0], *descriptors):
                poll.register(descriptor, select.POLLIN)
            poll.poll(min(seconds, 60.0) * 1000 + 1)
        try:
            os.read(self._pipe[0], 4096)
        except BlockingIOError:
            pass
        self._woken = False  # after the read, before the look at the items: whoever comes later wakes again

    def _find(self) -> None:
        lost_at, self._lost_at = self._lost_at, None
        self._pause = SHORTEST_PAUSE
        with self._lock:
            self.connected = True
            self._changed.notify_all()
        if lost_at is not None:
            _quietly(lambda: self._on_found(time.monotonic() - lost_at), "The recovery could not be told")

    def _lose(self, error: BaseException) -> None:
        now = time.monotonic()
        link, self._link = self._link, None
        with self._lock:
            self.connected = False
        self._retry_at = now + self._pause * (0.5 + CHANCE.random())
        self._pause = min(LONGEST_PAUSE, 2 * self._pause)
        if link is not None:
            _quietly(link.close, _FAILED_AGAIN, "resilience.store.failed_again")
        self._let_go(now)
        if self._lost_at is None:
            self._lost_at = now
            self.losses += 1
            _quietly(lambda: self._on_lost(error), "The outage could not be told")

    def _let_go(self, now: float) -> None:
        for item in self._all():
            _quietly(functools.partial(item.lost, now), "A policy could not be told that the store is lost")

    def _leave(self) -> None:
        link = self._link
        now = time.monotonic()
        if link is not None:
            said = [request for item in self._all() for request in item.goodbye(now)]
            if said:
                _quietly(lambda: link.run(said), _FAILED_AGAIN, "resilience.store.failed_again")
            _quietly(link.close, _FAILED_AGAIN, "resilience.store.failed_again")
        with self._lock:
            self.connected = False
        self._let_go(now)


def _close(pipe: tuple[int, int]) -> None:
    for end in pipe:
        os.close(end)


def _quietly(act: Callable[[], Any], complaint: str, name: str = "resilience.store.not_told") -> None:
    try:
        act()
    except BaseException as error:  # also a SystemExit of a listener, which would end the thread in silence
        log_failure(name, complaint, error)

"""The delivery of webhooks: to all receivers, signed, and again with decreasing frequency until each has answered 200.

What is due waits in a queue; at most `POSTS` bodies are under way at a time, each with what was due when it began, at
most `batch` things, and as many that are sent again. A body that one receiver did not take is sent again to all of
them, as the API does: duplicates happen even to the receiver that answered. Waits are in the API's time; the network
takes real time. At most `backlog` things wait to be sent again, and ten times as many for the first time, whatever the
receivers do: then the oldest are forgotten.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from functools import partial
from typing import Any

import aiohttp
from attrs import define, evolve

from resilience_whatsapp.simulator.clock import SimClock, Timer
from resilience_whatsapp.simulator.state.world import Account
from resilience_whatsapp.simulator.webhooks.events import Event, body_of, signature
from resilience_whatsapp.simulator.webhooks.receivers import Receiver, WebhookError

APP_SECRET = "simulator-app-secret"
POSTS = 8
FIRST_BACKLOG = 10
"""How many times as much may wait for its first delivery: much can be due at once."""
RETRY_FIRST = 5.0
"""Seconds until the first repetition; each next wait is twice as long, at most `RETRY_MOST`."""
RETRY_MOST = 6 * 3600.0
RETRY_FOR = 7 * 86_400.0
REBATCH_AFTER = 5.0
_REAL_SECONDS = 10.0
"""How long a receiver may take: real seconds, because it is a real program that answers."""


@define
class Delivered:
    """What became of the webhooks so far."""

    told: int = 0
    """Statuses, messages and other news, each once."""
    posts: int = 0
    """Bodies that were sent, to each receiver and each time."""
    failed: int = 0
    """Of these, those that were not answered with 200."""
    repeated: int = 0
    """Bodies that were sent again to all."""
    given_up: int = 0
    """Bodies that one receiver never took, after seven days."""
    dropped: int = 0
    """Statuses, messages and other news that were forgotten because too many waited."""
    pending: int = 0
    """What is still to be done: statuses whose time has not come, bodies under way, and repetitions."""


@define(eq=False)
class _Batch:
    events: Sequence[Event]
    began: float
    attempt: int = 0
    dropped: bool = False


class Webhooks:
    """The receivers, and what they are still to be told."""

    def __init__(
        self, clock: SimClock, app_secret: str, batch: int, backlog: int, accounts: Mapping[str, Account]
    ) -> None:
        self.receivers: list[Receiver] = []
        self.app_secret = app_secret
        self.delivered = Delivered()
        self._clock = clock
        self._batch = batch
        self._backlog = backlog
        self._accounts = accounts
        self._ready: deque[Event] = deque()
        self._again: deque[_Batch] = deque()  # due to be sent again
        self._held: dict[_Batch, object] = {}  # not taken yet, oldest first, with their waits; `_again` is of these
        self._held_events = 0
        self._rebatched: list[Event] = []
        self._under_way = {"first": 0, "again": 0}
        self._waits: dict[object, Timer] = {}
        self._session: aiohttp.ClientSession | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    # --- life ------------------------------------------------------------------------------------------------------

    def open(self) -> None:
        """Begin to deliver, in the running loop."""
        self._session = aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=_REAL_SECONDS))
        self._flush()

    async def close(self) -> None:
        """Deliver nothing more; what is still to be told is forgotten."""
        session, self._session = self._session, None
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for timer in self._waits.values():
            timer.cancel()
        self._waits.clear()
        for waiting in (self._ready, self._again, self._held, self._rebatched):
            waiting.clear()
        self._held_events = 0
        self._under_way = {"first": 0, "again": 0}
        if session is not None:
            await session.close()

    # --- receivers -------------------------------------------------------------------------------------------------

    async def subscribe(self, receiver: Receiver) -> None:
        """Tell `receiver` from now on; raises `WebhookError` when it does not pass the handshake."""
        if receiver.verify_token is not None and not await self._shakes_hands(receiver, receiver.verify_token):
            raise WebhookError("the receiver did not answer the handshake with 200 and the bare challenge")
        self.unsubscribe(receiver.url)
        self.receivers.append(receiver)

    def unsubscribe(self, url: str | None = None) -> None:
        """Tell it no more; None is nobody any more."""
        self.receivers[:] = [each for each in self.receivers if url is not None and each.url != url]

    async def _shakes_hands(self, receiver: Receiver, verify_token: str) -> bool:
        assert self._session is not None, "start() first"
        challenge = str(1_158_201_444 + len(self.receivers))
        query = {"hub.mode": "subscribe", "hub.verify_token": verify_token, "hub.challenge": challenge}
        try:
            async with self._session.get(receiver.url, params=query) as response:
                return response.status == 200 and await response.text() == challenge
        except (aiohttp.ClientError, TimeoutError, ValueError):
            return False

    def so_far(self) -> Delivered:
        """A copy of the counts, with what is pending now."""
        return evolve(self.delivered, pending=len(self._waits) + len(self._ready) + len(self._again) + len(self._tasks))

    # --- what is told ----------------------------------------------------------------------------------------------

    @property
    def wanted(self) -> bool:
        """Whether anybody listens."""
        return self._session is not None and bool(self.receivers)

    def _wants(self, event: Event) -> bool:
        """Whether anybody listens, and an app is subscribed to the account."""
        return self.wanted and bool(self._accounts[event.account_id].apps)

    def tell(self, account: Account, topic: str, value: Mapping[str, Any]) -> None:
        """News of an account: `account_update`, `phone_number_quality_update`, `message_template_status_update` ..."""
        self.add(Event(account.id, topic, value))

    def add(self, event: Event) -> None:
        """Tell it as soon as can be."""
        if self._wants(event):
            self.delivered.told += 1
            self._queue(event)

    def later(self, seconds: float, step: Callable[[], None]) -> object:
        """Do it in `seconds`; until then it is pending. Gives a key of the wait."""
        key = object()
        self._waits[key] = self._clock.call_later(seconds, partial(self._come, key, step))
        return key

    def _come(self, key: object, step: Callable[[], None]) -> None:
        del self._waits[key]
        step()

    def repeat(self, event: Event) -> None:
        """Tell again what was told: it does not count as told once more."""
        if self._wants(event):
            self._queue(event)

    async def tell_first(self, event: Event) -> None:
        """Tell it now, and wait until each receiver had it once."""
        if self._wants(event):
            self.delivered.told += 1
            await self._attempt(_Batch([event], self._clock.now()))

    def _queue(self, event: Event) -> None:
        self._ready.append(event)
        self._make_room()
        self._flush()

    def _flush(self) -> None:
        for lane, waiting in (("first", self._ready), ("again", self._again)):
            while waiting and self._under_way[lane] < POSTS and self._session is not None:
                self._under_way[lane] += 1
                self._spawn(self._deliver(lane))

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _deliver(self, lane: str) -> None:
        try:
            if lane == "first":
                while self._ready:
                    await self._attempt(_Batch(self._next(), self._clock.now()))
            while lane == "again" and self._again:
                batch = self._again.popleft()
                if not batch.dropped:
                    self._let_go(batch)
                    await self._attempt(batch)
        finally:
            self._under_way[lane] -= 1

    # --- what waits ------------------------------------------------------------------------------------------------

    def _hold(self, batch: _Batch, wait: float) -> None:
        """Keep it until it is sent again."""
        self._held[batch] = self.later(wait, lambda: self._due(batch))
        self._held_events += len(batch.events)
        self._make_room()

    def _let_go(self, batch: _Batch) -> object:
        self._held_events -= len(batch.events)
        return self._held.pop(batch)

    def _due(self, batch: _Batch) -> None:
        self._again.append(batch)
        self._flush()

    def _make_room(self) -> None:
        while self._held_events > self._backlog:
            oldest = next(iter(self._held))
            self.delivered.dropped += len(oldest.events)
            timer = self._waits.pop(self._let_go(oldest), None)
            if timer is not None:
                timer.cancel()
            oldest.dropped = True  # it may be due already
        while len(self._ready) > FIRST_BACKLOG * self._backlog:
            self._ready.popleft()
            self.delivered.dropped += 1

    def _next(self) -> list[Event]:
        """What goes into the next body; what meets a fault goes alone."""
        events = [self._ready.popleft()]
        if _is_plain(events[0]):
            while self._ready and len(events) < self._batch and _is_plain(self._ready[0]):
                events.append(self._ready.popleft())
        return events

    async def _attempt(self, batch: _Batch) -> None:
        event = batch.events[0]
        batch.attempt += 1
        if event.misses >= batch.attempt:
            self.delivered.posts += len(self.receivers)
            self.delivered.failed += len(self.receivers)
            taken = False
        else:
            forged = event.forged and batch.attempt == 1 + event.misses
            answers = [self._post(each, batch.events, forged) for each in self.receivers]
            taken = all(await asyncio.gather(*answers))
        if taken:
            self._rebatch(each for each in batch.events if each.again)
            return
        wait = min(RETRY_MOST, RETRY_FIRST * 2.0 ** min(batch.attempt - 1, 30))
        if self._clock.now() + wait - batch.began > RETRY_FOR:
            self.delivered.given_up += 1
            return
        self.delivered.repeated += 1
        self._hold(batch, wait)

    async def _post(self, receiver: Receiver, events: Sequence[Event], forged: bool) -> bool:
        if receiver.waba_ids is not None:
            events = [event for event in events if event.account_id in receiver.waba_ids]
        if not events or self._session is None:
            return True
        body = body_of(events, receiver.shape, self._clock.now())
        secret = self.app_secret if receiver.app_secret is None else receiver.app_secret
        headers = {
            "Content-Type": "application/json",
            "X-Hub-Signature-256": signature(f"not {secret}" if forged else secret, body),
        }
        self.delivered.posts += 1
        # ValueError: an address that only the client finds to be none.
        with contextlib.suppress(aiohttp.ClientError, TimeoutError, OSError, ValueError):
            async with self._session.post(receiver.url, data=body, headers=headers) as response:
                if response.status == 200:
                    return True
        self.delivered.failed += 1
        return False

    def _rebatch(self, events: Iterable[Event]) -> None:
        waiting = bool(self._rebatched)
        for event in events:
            event.again = False
            self._rebatched.append(event)
        if self._rebatched and not waiting:
            self.later(REBATCH_AFTER, self._flush_rebatched)

    def _flush_rebatched(self) -> None:
        events, self._rebatched = self._rebatched, []
        for event in events:
            self.repeat(event)


def _is_plain(event: Event) -> bool:
    return event.misses == 0 and not event.forged

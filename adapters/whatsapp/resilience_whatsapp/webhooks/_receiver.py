"""The receiver: takes what the platform posts, answers at once, and hands it to listeners until they have it.

    bytes -> signature -> taken apart -> inbox (on disk) -> 200
                                           |
                                           +-> listener 1 -> listener 2 -> ... -> done

The answer says "taken", not "handled": a slow listener never makes the platform wait, which would redeliver and, in the
end, slow down. Designs that lose or repeat more: marking a body as seen before the listeners run (a crash loses it);
answering 500 when a listener raises (the platform redelivers the whole body, to all apps, with growing delays).

Never: 200 for something that is not on the disk; a listener called again after it had the update and the next one
failed; one update that fails holding up another one.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
import uuid
from collections import deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Self, TypeAlias, TypeVar

from attrs import field, frozen

from resilience_core import Clock, ConfigurationError
from resilience_whatsapp.errors import InvalidWebhookError
from resilience_whatsapp.webhooks._inbox import Claim, Claimed, Inbox, InboxFull, Listening, SetAside, merged
from resilience_whatsapp.webhooks._read import MAX_WEBHOOK, Part, parts_of, update_of
from resilience_whatsapp.webhooks._signature import SIGNATURE_HEADER, answer_handshake, verify_signature
from resilience_whatsapp.webhooks._updates import StatusUpdate, UnknownUpdate, WebhookUpdate

__all__ = ["AsideUpdate", "Listener", "ReceiverStatus", "WebhookAnswer", "WebhookReceiver", "on"]

LOGGER_NAME = "resilience_whatsapp.webhooks"
U = TypeVar("U", bound=WebhookUpdate)
Listener: TypeAlias = Callable[[WebhookUpdate], Awaitable[None] | None]
"""Takes any `WebhookUpdate`; `on` makes one that takes a single type.

A plain function is called in the event loop and must be quick; a coroutine function may take its time. It has had the
update when it returns; when it raises, it gets it again later.
"""

MAX_WAITING = 100_000
"""Updates; about 60 MB on disk."""
KEPT_FOR = 8 * 24 * 3600.0
"""The platform redelivers for 7 days; one more is for clocks and queues."""
_LEASE = 60.0
_TOGETHER = 64
_HEARTBEAT = 10.0
_PRUNED_AT_ONCE = 5_000
_RETRY_AFTER = "5"
_LONG = 64 * 1024
_PATIENCE = 5.0


def on(kind: type[U], listener: Callable[[U], Awaitable[None] | None]) -> Listener:
    """A listener that gets updates of one type only: `on(StatusUpdate, save)`."""

    def choose(update: WebhookUpdate) -> Awaitable[None] | None:
        return listener(update) if isinstance(update, kind) else None

    return choose


@frozen
class WebhookAnswer:
    """What to answer."""

    status: int
    body: str = ""
    headers: Mapping[str, str] = field(factory=dict)


@frozen
class AsideUpdate:
    """An update that no longer is tried: it failed too often, or killed the process."""

    id: int
    taken_at: float
    """Seconds since the epoch."""
    update: WebhookUpdate
    missing: tuple[str, ...]
    """The listeners that have not had it."""


@frozen
class ReceiverStatus:
    """What a receiver has done since it was started, and what its inbox holds."""

    waiting: int
    set_aside: int
    taken: int
    """Updates that were new."""
    repeated: int
    """Updates that had been taken before."""
    handled: int
    failed: int
    """Times that a listener raised or took too long."""
    unknown: int
    """Updates and statuses that are not known."""
    refused: Mapping[str, int]
    """Requests that were not taken, by reason: `signature`, `content`, `length`, `method`, `handshake`, `full`,
    `store`, `closed`."""
    last_heard: float | None
    """When the platform last posted something that was signed, seconds since the epoch; outlives restarts."""


class WebhookReceiver:
    """Takes webhooks for any web framework on asyncio: `answer` maps a request to an answer.

    Use it as an asynchronous context manager, or call `start` and `aclose`.

    Args:
        inbox: where updates are kept until they are done, and their keys afterwards; `SqliteInbox("webhooks.db")`.
            Closed with the receiver.
        listeners: by name, in the order in which each update is offered to them. A name stands on disk as "has had
            it": keep it when you change the listener.
        app_secrets: the secret of the Meta app; while it is changed, the new and the old one.
        verify_token: what you typed in where the address was entered.
        max_waiting: updates that may wait; beyond it the answer is 503, and the platform redelivers for 7 days.
        max_tries: how often an update is tried before it is set aside. The waits between are 1, 4, 16, ... seconds, at
            most an hour: with 12 tries, five and a half hours.
        listener_timeout: seconds that a coroutine function may take.
        kept_for: seconds for which keys are remembered, and what is set aside is kept.
        on_set_aside: called with the `AsideUpdate`, to tell somebody.
        clock: gives the time (`wall`) and waits.

    Raises:
        ConfigurationError: no secret, no token, or a number out of range.
    """

    def __init__(
        self,
        inbox: Inbox,
        listeners: Mapping[str, Listener],
        *,
        app_secrets: str | Sequence[str],
        verify_token: str,
        max_waiting: int = MAX_WAITING,
        max_tries: int = 12,
        listener_timeout: float = 30.0,
        kept_for: float = KEPT_FOR,
        on_set_aside: Callable[[AsideUpdate], Awaitable[None] | None] | None = None,
        clock: Clock | None = None,
    ) -> None:
        self._secrets = _secrets(app_secrets)
        if not verify_token:
            raise ConfigurationError("WebhookReceiver: verify_token must be the text that you gave to the platform")
        for name, value, least in (("max_waiting", max_waiting, 1), ("max_tries", max_tries, 1)):
            if type(value) is not int or value < least:
                raise ConfigurationError(f"WebhookReceiver: {name} must be a whole number from {least}, not {value!r}")
        if not 0 < listener_timeout <= _LEASE / 2:
            raise ConfigurationError(f"WebhookReceiver: listener_timeout must be above 0 and at most {_LEASE / 2:g} s")
        if not kept_for >= 7 * 24 * 3600:
            raise ConfigurationError("WebhookReceiver: kept_for must be at least 7 days: for so long it is redelivered")
        if any("\n" in name or not name for name in listeners):
            raise ConfigurationError("WebhookReceiver: the name of a listener must be one line")
        self._inbox = inbox
        self._listeners = dict(listeners)
        self._token = verify_token
        self._max_waiting = max_waiting
        self._max_tries = max_tries
        self._patience = listener_timeout
        self._kept_for = kept_for
        self._on_set_aside = on_set_aside
        self._clock = clock or Clock()
        self._logger = logging.getLogger(LOGGER_NAME)
        self._tasks: list[asyncio.Task[None]] = []
        self._lanes: dict[str, deque[Claimed]] = {}
        self._running: set[asyncio.Task[None]] = set()
        self._held = 0
        self._lost_held = False
        self._wake = asyncio.Event()
        self._counts = dict.fromkeys(("taken", "repeated", "handled", "failed", "unknown"), 0)
        self._refused: dict[str, int] = {}
        self._name = ""
        self._up_from = self._last_beat = 0.0
        self._heard: float | None = None
        self._store_fails = False
        self._listening = Listening([], None, {})

    # --- life --------------------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Begin to take and to hand out; what waited from before comes first."""
        if self._tasks:
            return
        self._last_beat = 0.0
        await self._beat()
        self._tasks = [asyncio.create_task(self._hand_out()), asyncio.create_task(self._keep())]

    async def aclose(self) -> None:
        """Take no more, give running listeners 5 s, give back what they have not finished, close the inbox."""
        tasks, self._tasks = self._tasks, []
        if not tasks:
            return
        handing_out, keeping = tasks
        keeping.cancel()
        self._wake.set()  # it ends by itself: cancelled in the middle of a claim, it would not know what it has claimed
        await asyncio.gather(handing_out, keeping, return_exceptions=True)
        waiting = [item for lane in self._lanes.values() for item in lane]
        for lane in self._lanes.values():
            lane.clear()
        if self._running:
            await asyncio.wait(self._running, timeout=_PATIENCE)
        for task in tuple(self._running):
            task.cancel()
        await asyncio.gather(*self._running, return_exceptions=True)
        await self._inbox.give_back(waiting, self._clock.wall())
        await self._beat()
        await self._inbox.aclose()

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    # --- requests ----------------------------------------------------------------------------------------------------

    async def answer(
        self, method: str, query: Mapping[str, str], headers: Mapping[str, str], body: bytes
    ) -> WebhookAnswer:
        """The answer to one request; raises nothing but what cancels it.

        Args:
            method: `GET` for the handshake, `POST` for webhooks.
            query: the parameters of the address.
            headers: any mapping; names in any case.
            body: the bytes as they came. Nothing may parse and write them anew: the signature is over the bytes.

        Returns:
            200 with the challenge, or when everything in the body is kept; 401 for a signature that is wrong or
            missing; 403 for a handshake with another token; 400, 405 and 413 for what is no webhook; 503 when too
            much is waiting or the inbox fails, so that the platform comes again.
        """
        if method == "GET":
            challenge = answer_handshake(query, self._token)
            return self._refuse(403, "handshake") if challenge is None else WebhookAnswer(200, challenge, _TEXT)
        if method != "POST":
            return self._refuse(405, "method", {"Allow": "GET, POST"})
        if len(body) > MAX_WEBHOOK:
            return self.too_long()
        signature = next((value for name, value in headers.items() if name.lower() == _SIGNATURE), None)
        if not verify_signature(body, signature, self._secrets):
            return self._refuse(401, "signature")
        if not self._tasks:
            return self._refuse(503, "closed", {"Retry-After": _RETRY_AFTER})
        return await self._take(body)

    def too_long(self) -> WebhookAnswer:
        """The answer to a body of more than 3 MiB, for servers that stop reading it."""
        return self._refuse(413, "length")

    async def _take(self, body: bytes) -> WebhookAnswer:
        self._heard = self._clock.wall()
        try:
            # A thousand statuses take 20 ms: whoever else is in the loop must not wait for so many.
            items = await asyncio.to_thread(_items_of, body) if len(body) > _LONG else _items_of(body)
        except InvalidWebhookError:
            return self._refuse(400, "content")
        try:
            taken = await self._inbox.take(items, self._heard, self._max_waiting)
        except InboxFull:
            return self._refuse(503, "full", {"Retry-After": _RETRY_AFTER})
        except asyncio.CancelledError:
            self._wake.set()  # it may have been kept all the same
            raise
        except Exception as error:
            self._store_troubles("Webhooks cannot be kept: the platform is asked to come again", error)
            return self._refuse(503, "store", {"Retry-After": _RETRY_AFTER})
        self._store_works()
        self._counts["taken"] += taken.new
        self._counts["repeated"] += len(items) - taken.new
        if taken.new:
            self._wake.set()
        return WebhookAnswer(200)

    def _refuse(self, status: int, reason: str, headers: Mapping[str, str] | None = None) -> WebhookAnswer:
        self._refused[reason] = self._refused.get(reason, 0) + 1
        return WebhookAnswer(status, headers=headers or {})

    # --- handing out -------------------------------------------------------------------------------------------------

    async def _hand_out(self) -> None:
        """Claim what is due while there is room. One lane for each message or sender keeps their order."""
        while self._tasks:
            self._wake.clear()
            now = self._clock.wall()
            wait = _LEASE
            room = _TOGETHER - self._held
            if room > 0:
                try:
                    claim = await self._inbox.claim(room, now, now + _LEASE, not self._lost_held)
                except Exception as error:
                    self._store_troubles("Webhooks cannot be read from where they are kept", error)
                    claim = Claim([], [], now + 1.0)
                for item in claim.items:
                    self._enter(item)
                for lost in claim.lost:
                    aside = self._aside(lost)
                    told = {"topic": aside.update.topic}
                    self._logger.error("A webhook update is set aside: the process ended during each try", extra=told)
                    await self._tell_aside(aside)
                if len(claim.items) == room:
                    continue  # no room is left, or there may be more
                wait = _LEASE if claim.due is None else max(0.0, claim.due - self._clock.wall())
                if self._lost_held:
                    wait = max(wait, 1.0)  # what is due may be one that has to wait for the other
            try:
                async with asyncio.timeout(min(wait, _LEASE)):
                    await self._wake.wait()
            except TimeoutError:
                pass

    def _enter(self, item: Claimed) -> None:
        part = Part.loads(item.text)
        lane = _lane_of(part)
        self._held += 1
        self._lost_held = self._lost_held or item.lost
        if lane in self._lanes:
            self._lanes[lane].append(item)
            return
        self._lanes[lane] = deque([item])
        task = asyncio.create_task(self._run_lane(lane))
        self._running.add(task)
        task.add_done_callback(self._running.discard)

    async def _run_lane(self, lane: str) -> None:
        waiting = self._lanes[lane]
        try:
            while waiting:
                item = waiting.popleft()
                try:
                    await self._handle(item)
                except Exception as error:  # of the inbox: its lease ends, and it comes again
                    self._store_troubles("What became of a webhook update cannot be kept", error)
                finally:
                    self._held -= 1
                    if item.lost:
                        self._lost_held = False
                    self._wake.set()
        finally:
            del self._lanes[lane]

    async def _handle(self, item: Claimed) -> None:
        if self._clock.wall() > item.until - self._patience:
            # It waited so long behind others that somebody else may claim it before the listeners are through.
            await self._inbox.give_back([item], self._clock.wall())
            return
        update = update_of(Part.loads(item.text))
        if isinstance(update, UnknownUpdate) or (isinstance(update, StatusUpdate) and update.kind is None):
            self._counts["unknown"] += 1
        passed = set(item.passed)
        for name, listener in self._listeners.items():
            if name in passed:
                continue
            try:
                async with asyncio.timeout(max(0.0, min(self._patience, item.until - self._clock.wall()))):
                    answer = listener(update)
                    if inspect.isawaitable(answer):
                        await answer
            except asyncio.CancelledError:
                await self._inbox.give_back([item], self._clock.wall())
                raise
            except Exception as error:
                await self._failed(item, update, name, frozenset(passed), error)
                return
            passed.add(name)
        await self._inbox.done(item.id)
        self._counts["handled"] += 1

    async def _failed(
        self, item: Claimed, update: WebhookUpdate, listener: str, passed: frozenset[str], error: Exception
    ) -> None:
        self._counts["failed"] += 1
        tries = item.failures + 1
        wait = min(3600.0, 4.0 ** min(item.failures, 10))
        last = tries >= self._max_tries
        now = self._clock.wall()
        told = {"listener": listener, "topic": update.topic, "tries": tries, **_told(error)}
        if last:
            self._logger.error("A webhook update is set aside: it failed too often", extra=told)
        else:
            self._logger.warning("A webhook update was not handled: it is tried again", extra=told)
        await self._inbox.put_off(item.id, passed, None if last else now + wait)
        if last:
            await self._tell_aside(AsideUpdate(item.id, item.taken, update, self._missing(passed)))

    async def _tell_aside(self, aside: AsideUpdate) -> None:
        if self._on_set_aside is None:
            return
        try:
            async with asyncio.timeout(self._patience):
                answer = self._on_set_aside(aside)
                if inspect.isawaitable(answer):
                    await answer
        except Exception as error:
            self._trouble("on_set_aside failed", error)

    def _aside(self, row: SetAside) -> AsideUpdate:
        return AsideUpdate(row.id, row.taken, update_of(Part.loads(row.text)), self._missing(row.passed))

    def _trouble(self, what: str, error: Exception) -> None:
        """Without a traceback: the lines of a listener, or the values in its error, may be personal."""
        self._logger.error(what, extra=_told(error))

    def _store_troubles(self, what: str, error: Exception) -> None:
        """One line for each time that it begins to fail, not for each thing that fails."""
        if not self._store_fails:
            self._trouble(what, error)
        self._store_fails = True

    def _store_works(self) -> None:
        if self._store_fails:
            self._logger.info("The inbox of webhooks works again")
        self._store_fails = False

    def _missing(self, passed: frozenset[str]) -> tuple[str, ...]:
        return tuple(name for name in self._listeners if name not in passed)

    # --- what was set aside, and what is known of the receiver -------------------------------------------------------

    async def set_aside(self, most: int = 100) -> list[AsideUpdate]:
        """What was set aside, the oldest first."""
        return [self._aside(row) for row in await self._inbox.set_aside(most)]

    async def try_again(self, *ids: int) -> int:
        """Try what was set aside again, from the listener that failed; how many were."""
        found = await self._inbox.again(ids, self._clock.wall())
        self._wake.set()
        return found

    async def status(self) -> ReceiverStatus:
        """What it has done, and what waits."""
        counts = await self._inbox.counts()
        heard = (await self._inbox.listening()).heard
        heard = max((each for each in (heard, self._heard) if each is not None), default=None)
        return ReceiverStatus(
            counts.waiting, counts.set_aside, **self._counts, refused=dict(self._refused), last_heard=heard
        )

    async def up_intervals(self, since: float = 0.0) -> list[tuple[float, float]]:
        """When this receiver or another one on the same inbox was up, in seconds since the epoch; to within 10 s.

        Up means that it ran and could keep what came. Whether the platform could reach it is not known here:
        `ReceiverStatus.last_heard` tells when it last did. It outlives restarts, for as long as `kept_for`.
        """
        self._listening = await self._inbox.listening()
        return [(max(start, since), end) for start, end in self._up() if end > since]

    async def listened_since(self, since: float) -> float:
        """Seconds since then during which a receiver was up: a deadline in this time pauses while none was."""
        return sum(end - start for start, end in await self.up_intervals(since))

    def downtime(self, listener: str | None = None) -> list[tuple[float, float | None]]:
        """When news could not be heard, in seconds since the epoch; None is "until now".

        For a deadline that waits for news: `Outbox(downtime=lambda: receiver.downtime("outbox"))`. Besides the times in
        which no receiver was up, it is the time since the oldest update was taken that still waits for the listener of
        this name (for any, without one): the awaited news may be in it. As old as the last heartbeat, at most 10 s.
        """
        up = self._up()
        ends = [0.0, *(end for _, end in up)]
        starts: list[float | None] = [start for start, _ in up]
        down = list(zip(ends, [*starts, None], strict=True))
        if self._is_up():
            del down[-1]
        down += [(taken, None) for passed, taken in self._listening.waiting.items() if listener not in passed]
        return down

    def _is_up(self) -> bool:
        return bool(self._tasks) and not self._store_fails

    def _up(self) -> list[tuple[float, float]]:
        mine = [(self._up_from, max(self._last_beat, self._clock.wall()))] if self._is_up() else []
        return merged([*self._listening.up, *mine])

    async def _keep(self) -> None:
        """Tell the inbox that the receiver is up, and drop what is old."""
        while True:
            await self._clock.async_sleep(_HEARTBEAT)
            try:
                await self._beat()
                while await self._inbox.forget(self._clock.wall() - self._kept_for, _PRUNED_AT_ONCE) == _PRUNED_AT_ONCE:
                    pass
            except Exception as error:
                self._store_troubles("The inbox of webhooks fails: old ones are not dropped", error)

    async def _beat(self) -> None:
        now = self._clock.wall()
        if not 0 <= now - self._last_beat <= 3 * _HEARTBEAT:  # new, or the machine slept, or the disk was full
            self._name, self._up_from = uuid.uuid4().hex, now
        await self._inbox.beat(self._name, self._up_from, now, self._heard)
        self._last_beat = now
        self._listening = await self._inbox.listening()
        self._store_works()


_SIGNATURE = SIGNATURE_HEADER.lower()
_TEXT = {"Content-Type": "text/plain"}


def _secrets(given: str | Sequence[str]) -> tuple[str, ...]:
    secrets = (given,) if isinstance(given, str) else tuple(given)
    if not secrets or not all(secrets):
        raise ConfigurationError("WebhookReceiver: app_secrets must be the secret of the Meta app, or several")
    return secrets


def _items_of(body: bytes) -> list[tuple[bytes, str]]:
    return [(part.key(), part.dumps()) for part in parts_of(body)]


def _lane_of(part: Part) -> str:
    """What keeps its order: the statuses of one message, the messages of one sender, other news of one topic."""
    wamid, sender = part.content.get("id"), part.content.get("from") or part.content.get("from_user_id")
    who = wamid if part.kind == "status" else sender if part.kind == "message" else None
    return f"{part.kind} {part.topic} {who if isinstance(who, str) else ''}"


def _told(error: BaseException) -> dict[str, str]:
    return {"error": type(error).__name__}

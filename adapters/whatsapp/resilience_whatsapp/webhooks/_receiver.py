"""The receiver: takes what the platform posts, answers at once, and hands it to listeners until they have it.

    bytes -> signature -> taken apart -> inbox (on disk) -> 200
                                           |
                                           +-> listener 1 -> listener 2 -> ... -> done

The answer says "taken", not "handled": a slow listener never makes the platform wait, which would redeliver and, in the
end, slow down. Designs that lose or repeat more: marking a body as seen before the listeners run (a crash loses it);
answering 500 when a listener raises (the platform redelivers the whole body, to all apps, with growing delays).

Never: 200 for something that is not on the disk.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Self

from attrs import field, frozen

from resilience_core import Clock, ConfigurationError
from resilience_whatsapp._clock import SYSTEM
from resilience_whatsapp.errors import InvalidWebhookError
from resilience_whatsapp.webhooks._handing import LEASE, AsideUpdate, Handing, Listener, OnSetAside
from resilience_whatsapp.webhooks._inbox import Inbox, InboxFull
from resilience_whatsapp.webhooks._logs import StoreTrouble
from resilience_whatsapp.webhooks._read import MAX_WEBHOOK, parts_of
from resilience_whatsapp.webhooks._signature import SIGNATURE_HEADER, answer_handshake, verify_signature
from resilience_whatsapp.webhooks._uptime import Uptime

__all__ = ["ReceiverStatus", "WebhookAnswer", "WebhookReceiver"]

MAX_WAITING = 100_000
"""Updates; about 60 MB on disk."""
KEPT_FOR = 8 * 24 * 3600.0
"""The platform redelivers for 7 days; one more is for clocks and queues."""
_RETRY_AFTER = {"Retry-After": "5"}
_LONG = 64 * 1024
_SIGNATURE = SIGNATURE_HEADER.lower()
_TEXT = {"Content-Type": "text/plain"}


@frozen
class WebhookAnswer:
    """What to answer."""

    status: int
    body: str = ""
    headers: Mapping[str, str] = field(factory=dict)


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
        inbox: where updates are kept until they are done, and their keys afterwards; `SQLiteInbox("webhooks.db")`.
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
        clock: gives the time (`wall`) and waits; default that of the policies.

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
        on_set_aside: OnSetAside | None = None,
        clock: Clock | None = None,
    ) -> None:
        self._secrets = _secrets(app_secrets)
        if not verify_token:
            raise ConfigurationError("WebhookReceiver: verify_token must be the text that you gave to the platform")
        for name, value in (("max_waiting", max_waiting), ("max_tries", max_tries)):
            if type(value) is not int or value < 1:
                raise ConfigurationError(f"WebhookReceiver: {name} must be a whole number from 1, not {value!r}")
        if not 0 < listener_timeout <= LEASE / 2:
            raise ConfigurationError(f"WebhookReceiver: listener_timeout must be above 0 and at most {LEASE / 2:g} s")
        if not kept_for >= 7 * 24 * 3600:
            raise ConfigurationError("WebhookReceiver: kept_for must be at least 7 days: for so long it is redelivered")
        if any("\n" in name or not name for name in listeners):
            raise ConfigurationError("WebhookReceiver: the name of a listener must be one line")
        self._inbox = inbox
        self._token = verify_token
        self._max_waiting = max_waiting
        self._clock = clock or SYSTEM
        self._trouble = StoreTrouble()
        self._uptime = Uptime(inbox, self._clock, kept_for, self._trouble)
        self._handing = Handing(
            inbox,
            listeners,
            self._clock,
            self._trouble,
            max_tries=max_tries,
            patience=listener_timeout,
            on_set_aside=on_set_aside,
        )
        self._tasks: list[asyncio.Task[None]] = []
        self._taken = self._repeated = 0
        self._refused: dict[str, int] = {}

    # --- life --------------------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Begin to take and to hand out; what waited from before comes first."""
        if self._tasks:
            return
        await self._uptime.begin()
        self._tasks = [self._handing.start(), asyncio.create_task(self._uptime.keep())]

    async def aclose(self) -> None:
        """Take no more, give running listeners 5 s, give back what they have not finished, close the inbox."""
        tasks, self._tasks = self._tasks, []
        if not tasks:
            return
        self._uptime.running = False
        self._handing.stop()
        tasks[1].cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        try:
            await self._handing.finish()
            await self._uptime.beat()
        except Exception as error:  # a disk that fails: what was claimed comes again when its lease is over
            self._trouble.failed("The inbox of webhooks fails at the end", error)
        finally:
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
            return self._refuse(503, "closed", _RETRY_AFTER)
        return await self._take(body)

    def too_long(self) -> WebhookAnswer:
        """The answer to a body of more than 3 MiB, for servers that stop reading it."""
        return self._refuse(413, "length")

    async def _take(self, body: bytes) -> WebhookAnswer:
        self._uptime.heard = now = self._clock.wall()
        try:
            # A thousand statuses take 20 ms: whoever else is in the loop must not wait for so many.
            items = await asyncio.to_thread(_items_of, body) if len(body) > _LONG else _items_of(body)
        except InvalidWebhookError:
            return self._refuse(400, "content")
        try:
            taken = await self._inbox.take(items, now, self._max_waiting)
        except InboxFull:
            return self._refuse(503, "full", _RETRY_AFTER)
        except asyncio.CancelledError:
            self._handing.wake()  # it may have been kept all the same
            raise
        except Exception as error:
            self._trouble.failed("Webhooks cannot be kept: the platform is asked to come again", error)
            return self._refuse(503, "store", _RETRY_AFTER)
        self._trouble.worked()
        self._taken += taken.new
        self._repeated += len(items) - taken.new
        if taken.new:
            self._handing.wake()
        return WebhookAnswer(200)

    def _refuse(self, status: int, reason: str, headers: Mapping[str, str] | None = None) -> WebhookAnswer:
        self._refused[reason] = self._refused.get(reason, 0) + 1
        return WebhookAnswer(status, headers=headers or {})

    # --- what was set aside, and what is known of the receiver -------------------------------------------------------

    async def set_aside(self, most: int = 100) -> list[AsideUpdate]:
        """What was set aside, the oldest first."""
        return [self._handing.aside(row) for row in await self._inbox.set_aside(most)]

    async def try_again(self, *ids: int) -> int:
        """Try what was set aside again, from the listener that failed; how many were."""
        found = await self._inbox.again(ids, self._clock.wall())
        self._handing.wake()
        return found

    async def status(self) -> ReceiverStatus:
        """What it has done, and what waits."""
        counts = await self._inbox.counts()
        times = ((await self._uptime.look()).heard, self._uptime.heard)
        return ReceiverStatus(
            waiting=counts.waiting,
            set_aside=counts.set_aside,
            taken=self._taken,
            repeated=self._repeated,
            handled=self._handing.handled,
            failed=self._handing.failed,
            unknown=self._handing.unknown,
            refused=dict(self._refused),
            last_heard=max((each for each in times if each is not None), default=None),
        )

    async def up_intervals(self, since: float = 0.0) -> list[tuple[float, float]]:
        """When this receiver or another one on the same inbox was up, in seconds since the epoch; to within 10 s.

        Up means that it ran and could keep what came. Whether the platform could reach it is not known here:
        `ReceiverStatus.last_heard` tells when it last did. It outlives restarts, for as long as `kept_for`.
        """
        await self._uptime.look()
        return [(max(start, since), end) for start, end in self._uptime.up() if end > since]

    async def listened_since(self, since: float) -> float:
        """Seconds since then during which a receiver was up: a deadline in this time pauses while none was."""
        return sum(end - start for start, end in await self.up_intervals(since))

    def downtime(self, listener: str | None = None) -> list[tuple[float, float | None]]:
        """When news could not be heard, in seconds since the epoch; None is "until now".

        For a deadline that waits for news: `Outbox(downtime=lambda: receiver.downtime("outbox"))`. Besides the times in
        which no receiver was up, it is the time since the oldest update was taken that still waits for the listener of
        this name (for any, without one): the awaited news may be in it. As old as the last heartbeat, at most 10 s.
        """
        return self._uptime.down(listener)


def _secrets(given: str | Sequence[str]) -> tuple[str, ...]:
    secrets = (given,) if isinstance(given, str) else tuple(given)
    if not secrets or not all(secrets):
        raise ConfigurationError("WebhookReceiver: app_secrets must be the secret of the Meta app, or several")
    return secrets


def _items_of(body: bytes) -> list[tuple[bytes, str]]:
    return [(part.key(), part.dumps()) for part in parts_of(body)]

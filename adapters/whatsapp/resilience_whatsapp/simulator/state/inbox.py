"""What users write: it opens the service window, counts for the throughput, and is told by webhook."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from resilience_whatsapp.simulator.book import Book
from resilience_whatsapp.simulator.clock import SimClock
from resilience_whatsapp.simulator.limits.limiter import Limiter
from resilience_whatsapp.simulator.limits.meters import Kept
from resilience_whatsapp.simulator.state.world import Number
from resilience_whatsapp.simulator.webhooks.delivery import Webhooks
from resilience_whatsapp.simulator.webhooks.events import Party, message_event

WINDOW = 86_400.0
"""Seconds after a user's last message in which free-form messages are taken."""


class Inbox:
    """The last time that each user wrote to each number."""

    def __init__(self, clock: SimClock, book: Book, limiter: Limiter, webhooks: Webhooks) -> None:
        self._clock = clock
        self._book = book
        self._limiter = limiter
        self._webhooks = webhooks
        self._wrote = Kept[tuple[str, str], float](lambda wrote, now: now - wrote >= WINDOW)

    def is_open(self, number: Number, user: str) -> bool:
        """Whether `user` wrote to `number` within the last 24 h."""
        wrote = self._wrote.get((number.id, user))
        return wrote is not None and self._clock.now() - wrote < WINDOW

    def receive(self, number: Number, sender: str, kind: str, content: Mapping[str, Any], name: str) -> str:
        """A message of `sender`, digits of a number or a business-scoped id; gives its wamid."""
        party = Party.named(sender)
        now = self._clock.now()
        self._wrote.put((number.id, party.key), now, now)
        self._limiter.inbound(number, now)
        wamid = self._book.wamid()
        said: dict[str, Any] = {"from": party.digits} if party.digits is not None else {"from_user_id": party.user_id}
        said |= {"id": wamid, "timestamp": str(int(now)), "type": kind, kind: content}
        self._webhooks.add(message_event(said, number, party, name))
        return wamid

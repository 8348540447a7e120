"""What a send with an outbox may say besides."""

from __future__ import annotations

from datetime import datetime
from typing import Literal, TypedDict


class OutboxOptions(TypedDict, total=False):
    """Options of `WhatsAppService.send` with an outbox; all may be left out."""

    idempotency_key: str | None
    """1 to 255 characters, one for each logical message: whoever sends with the same key again, in whichever process,
    gets the record of the first send, and nothing is sent. Only a message that was certainly not sent, and that the
    outbox does not repeat, is tried again. `IdempotencyKeyError` for another content or recipient."""
    when_down: Literal["raise", "queue"] | None
    """What to do when it cannot be sent now; overrides the outbox's choice."""
    not_after: float | datetime | None
    """When the message becomes useless, as seconds since the epoch or with a time zone: it is not sent later. Default
    `expire_after` from now."""
    priority: int
    """0 to 9, default 5: among queued messages the higher goes first."""
    ordered: bool
    """Not before earlier ordered messages to this recipient were sent; needs `when_down="queue"`. Other messages, and
    those to others, overtake."""

"""What is known of one message: its record, and how recipients look in anything that people read."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from types import MappingProxyType
from typing import Literal, TypeAlias

from attrs import field, frozen

Delivery: TypeAlias = Literal["at_least_once", "at_most_once"]
"""Whether a send whose outcome is unknown is sent again (and may arrive twice) or never is (and may be missing)."""

DELIVERIES: tuple[Delivery, ...] = ("at_least_once", "at_most_once")


class MessageStatus(StrEnum):
    """Where a message stands. Which of them can follow which: `resilience_whatsapp.outbox`."""

    QUEUED = "queued"
    """In the outbox; no request for it is under way."""
    IN_FLIGHT = "in_flight"
    """A request may be under way."""
    ACCEPTED = "accepted"
    """The API took the message. That is not yet delivery."""
    SENT = "sent"
    """A webhook told that it was sent."""
    DELIVERED = "delivered"
    """It is on the recipient's device."""
    READ = "read"
    """The recipient saw it; it may be told without `delivered`."""
    PLAYED = "played"
    """The recipient listened to a voice message."""
    REJECTED = "rejected"
    """Not sent: no request was made."""
    FAILED = "failed"
    """Not sent: every request ended in an answer or error that rules out that it was carried out; or the API took it,
    and a webhook told later that it could not be delivered."""
    UNKNOWN = "unknown"
    """Perhaps sent: a request left and no answer told its fate."""
    DEAD = "dead"
    """Not sent, and the outbox does not try again by itself: the row tells why."""


DELIVERY_RANK: Mapping[MessageStatus, int] = MappingProxyType(
    {
        MessageStatus.ACCEPTED: 1,
        MessageStatus.SENT: 2,
        MessageStatus.DELIVERED: 3,
        MessageStatus.READ: 4,
        MessageStatus.PLAYED: 5,
    }
)
"""The order of what follows acceptance. Webhooks come in any order: a status never goes back to a lower rank, and
`failed` is final unless the message is known to be delivered."""


def later_status(known: MessageStatus, told: MessageStatus) -> MessageStatus:
    """What is known of an accepted message after a webhook told `told`: the order of the two does not matter.

    Source of the order: Meta's documentation of statuses (`read` implies `delivered`, and may come alone).
    """
    if told is known or told not in (*DELIVERY_RANK, MessageStatus.FAILED):
        return known
    delivered = DELIVERY_RANK[MessageStatus.DELIVERED]
    if known is MessageStatus.FAILED:
        return told if DELIVERY_RANK[told] >= delivered else known
    rank = DELIVERY_RANK.get(known, 0)
    if told is MessageStatus.FAILED:
        return known if rank >= delivered else told
    return told if DELIVERY_RANK[told] > rank else known


def mask_recipient(recipient: str) -> str:
    """A recipient as logs show it: `+33******78`. Shorter ones show nothing but stars."""
    digits = recipient.lstrip("+")
    if len(digits) < 8:
        return "*" * 6
    plus = "+" if recipient.startswith("+") else ""
    return f"{plus}{digits[:2]}******{digits[-2:]}"


@frozen
class MessageRecord:
    """The history of one send."""

    id: str
    """Ours, made before the first attempt; travels as `biz_opaque_callback_data`."""
    user_id: str
    recipient: str = field(repr=mask_recipient)
    """The number with `+` and without separators, or the id of a user or group."""
    kind: str
    """The API's type of message: `template`, `text`, `image`, `interactive`, ..."""
    template: str | None
    language: str | None
    delivery: Delivery
    status: MessageStatus
    wamid: str | None
    """The API's id of the message, when it was accepted."""
    attempts: int
    """Requests that were begun."""
    possible_duplicate: bool
    """Whether it was sent again after a request whose outcome is unknown."""
    started_at: float
    """Seconds since the epoch."""
    duration: float
    """Seconds, retries and waits included."""
    error: str | None
    """The class of the error that ended it, with the Graph code where there is one; never its text."""

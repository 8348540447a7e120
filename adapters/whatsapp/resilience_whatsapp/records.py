"""What is known of one message: its record, and how recipients look in anything that people read."""

from __future__ import annotations

from enum import StrEnum
from typing import Literal, TypeAlias

from attrs import field, frozen

Delivery: TypeAlias = Literal["at_least_once", "at_most_once"]
"""Whether a send whose outcome is unknown is sent again (and may arrive twice) or never is (and may be missing)."""

DELIVERIES: tuple[Delivery, ...] = ("at_least_once", "at_most_once")


class MessageStatus(StrEnum):
    """How a send ended."""

    ACCEPTED = "accepted"
    """The API took the message. That is not yet delivery."""
    REJECTED = "rejected"
    """Not sent: no request was made."""
    FAILED = "failed"
    """Not sent: every request ended in an answer or error that rules out that it was carried out."""
    UNKNOWN = "unknown"
    """Perhaps sent: a request left and no answer told its fate."""


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

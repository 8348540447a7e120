"""What a history knows of a message: its steps, and where it stands after them."""

from __future__ import annotations

from typing import Literal, TypeAlias

from attrs import field, frozen

from resilience_whatsapp._error_table import ErrorClass
from resilience_whatsapp.errors import AmbiguousOutcomeError, GraphError
from resilience_whatsapp.records import MessageStatus, later_status, mask_recipient

__all__ = ["HistoryPage", "MessageStory", "Source", "Step", "Trouble", "status_after", "trouble_of"]

Source: TypeAlias = Literal["send", "attempt", "webhook"]
_PROVEN = (MessageStatus.SENT, MessageStatus.DELIVERED, MessageStatus.READ, MessageStatus.PLAYED)


@frozen
class Trouble:
    """An error without its text."""

    name: str
    """Its class, with the Graph code where there is one: `GraphSenderError(131042)`."""
    error_class: ErrorClass | None = None
    code: int | None = None
    subcode: int | None = None
    fbtrace_id: str | None = None
    """Meta's id of the request, for their support."""


@frozen
class Step:
    """One thing that happened to a message."""

    at: float
    """Seconds since the epoch: of a webhook's status as the platform tells it, else ours."""
    status: MessageStatus
    """`in_flight` for an attempt."""
    source: Source
    """`send`: the service or the outbox; `attempt`: one request; `webhook`."""
    duration: float | None = None
    """Seconds; of an attempt, or of a send with its retries and waits."""
    trouble: Trouble | None = None


@frozen
class MessageStory:
    """One message and all that is known of it."""

    id: str
    """Ours, `MessageRecord.id`; the wamid, for a message that was not sent by this service."""
    wamid: str | None
    recipient: str | None = field(repr=lambda text: "None" if text is None else mask_recipient(text))
    """As `MessageRecord.recipient`; a hash of it, if the history hashes recipients."""
    user_id: str | None
    kind: str | None
    template: str | None
    language: str | None
    status: MessageStatus
    """Where it stands: a late or repeated webhook never takes it back."""
    attempts: int
    possible_duplicate: bool
    created_at: float
    """Seconds since the epoch."""
    updated_at: float
    trouble: Trouble | None
    """The last error."""
    steps: tuple[Step, ...]
    """In the order of their times; empty in the answers of `find`."""


@frozen
class HistoryPage:
    """Some messages of those that were asked for, the newest first."""

    messages: tuple[MessageStory, ...]
    next_after: str | None
    """What to give as `after` for the next page; None on the last."""


def trouble_of(error: BaseException | None) -> Trouble | None:
    """What is kept of an error."""
    if error is None:
        return None
    name = type(error).__name__
    if isinstance(error, GraphError):
        if error.code is not None:
            name = f"{name}({error.code})"
        return Trouble(name, error.error_class, error.code, error.subcode, error.fbtrace_id)
    return Trouble(name, error.error_class if isinstance(error, AmbiguousOutcomeError) else None)


def status_after(
    known: MessageStatus | None, told: MessageStatus, source: Source, *, accepted: bool = False
) -> MessageStatus:
    """Where a message stands after `told`; `accepted`: the platform has given it an id of its own.

    Webhooks go by `later_status`. What the sender says of itself comes in order, but the platform's word about the
    same message may have come before it: that one stands.
    """
    if known is None or (source == "send" and known not in _PROVEN):
        late = told is MessageStatus.ACCEPTED or (told is MessageStatus.UNKNOWN and accepted)
        return known if known is MessageStatus.FAILED and late else told
    return later_status(known, told) if source == "webhook" else known

"""One row of the outbox, and how it is written into a store."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from operator import attrgetter
from typing import Any, Protocol

from attrs import field, fields, frozen

from resilience_whatsapp.errors import WhatsAppError
from resilience_whatsapp.records import Delivery, MessageRecord, MessageStatus, mask_recipient


class OutboxStoreError(WhatsAppError):
    """The store could not do what was asked, and says so in its cause; a message that it was asked to keep was not
    sent."""


class IdempotencyKeyError(WhatsAppError):
    """An `idempotency_key` was used before for a message with another content or recipient; nothing was sent."""


@frozen(kw_only=True)
class OutboxRow:
    """All that the outbox knows of one message.

    `state`, `due` and `fence` say who may do what with it: whoever changes a row states the `fence` that was read, and
    each change raises it by one, so that of two who change the same row at once one has to look again.
    """

    id: str
    """The record's id; travels as `biz_opaque_callback_data`."""
    lane: str
    """The id of the sending number."""
    user_id: str
    recipient: str = field(repr=mask_recipient)
    payload: Mapping[str, Any] = field(repr=False)
    """The body of the request, as the API takes it."""
    kind: str
    template: str | None = None
    language: str | None = None
    delivery: Delivery
    key: str | None = field(default=None, repr=False)
    """The `idempotency_key`."""
    digest: str = field(default="", repr=False)
    """Tells whether two messages with one key are the same."""
    priority: int = 5
    ordered: bool = False
    kept: bool = False
    """Whether the outbox sends it by itself. Else an exception has told, or will tell, the caller how it ended."""
    not_after: float
    """Seconds since the epoch; no request is begun after that."""
    state: MessageStatus
    due: float | None = None
    """Seconds since the epoch: when something must be done. `queued`: send it; `in_flight`: its sender is given up;
    `unknown`: the echo is given up. None: nothing will be done."""
    fence: int = 0
    attempts: int = 0
    """Requests that were begun, as far as is known."""
    unknown: int = 0
    """Those of them whose fate nobody told."""
    troubles: int = 0
    """Requests in a row that failed because the platform is in trouble."""
    throttled: int = 0
    """Requests in a row that met a limit."""
    possible_duplicate: bool = False
    wamid: str | None = None
    error: str | None = None
    """The class of the last error, with the Graph code where there is one; never its text."""
    reason: str | None = None
    """Why it stands as it does, in a few words of ours."""
    unknown_since: float | None = None
    told_at: float | None = None
    """When, by its own word, what the last webhook told happened; seconds since the epoch."""
    created_at: float
    changed_at: float

    def record(self) -> MessageRecord:
        """The same as the record of a send."""
        return MessageRecord(
            id=self.id,
            user_id=self.user_id,
            recipient=self.recipient,
            kind=self.kind,
            template=self.template,
            language=self.language,
            delivery=self.delivery,
            status=self.state,
            wamid=self.wamid,
            attempts=self.attempts,
            possible_duplicate=self.possible_duplicate,
            started_at=self.created_at,
            duration=max(0.0, self.changed_at - self.created_at),
            error=self.error,
        )


class Codec(Protocol):
    """Turns what a store keeps of a message into other bytes and back: encryption, for example."""

    def encode(self, content: bytes) -> bytes:
        """The bytes to keep; any exception says that it cannot be done now."""
        ...

    def decode(self, content: bytes) -> bytes:
        """The bytes that were given to `encode`; any exception says that they cannot be read."""
        ...


UNREADABLE_FOR = 60.0
"""Seconds after which a row that could not be read is looked at again."""


class UnreadableRowError(Exception):
    """What a store kept is no row; neither this text nor a cause shows any of it."""


_APART = ("state", "due", "fence")
"""Kept beside the body, so that a store can change them without reading it."""
_NAMES = tuple(attribute.name for attribute in fields(OutboxRow) if attribute.name not in _APART)
_values = attrgetter(*_NAMES)
_encode = json.JSONEncoder(separators=(",", ":")).encode


def body_of(row: OutboxRow, codec: Codec | None) -> bytes:
    """The row without `state`, `due` and `fence`.

    Raises:
        OutboxStoreError: the codec failed.
    """
    body = _encode(dict(zip(_NAMES, _values(row), strict=True))).encode()
    if codec is None:
        return body
    try:
        return codec.encode(body)
    except Exception as error:  # its text may show what it was given
        raise OutboxStoreError(f"the codec of the outbox failed ({type(error).__name__})") from None


def row_of(body: bytes, codec: Codec | None, state: str, due: float | None, fence: int) -> OutboxRow:
    """The row again.

    Raises:
        UnreadableRowError: it is none, or was encoded by another codec.
    """
    try:
        found = json.loads(body if codec is None else codec.decode(body))
        # Fields of a newer version are left out, those of an older one have their defaults.
        known = {name: value for name, value in found.items() if name in _NAMES}
        return OutboxRow(**known, state=MessageStatus(state), due=due, fence=fence)
    except Exception as error:  # a codec of the user's may raise anything
        raise UnreadableRowError(f"a row of the outbox cannot be read ({type(error).__name__})") from None


def digest_of(lane: str, recipient: str, payload: Mapping[str, Any]) -> str:
    """Equal for equal messages to the same recipient; the opaque data, which has our id, does not count."""
    content = {name: value for name, value in payload.items() if name != "biz_opaque_callback_data"}
    text = json.dumps([lane, recipient, content], sort_keys=True, separators=(",", ":"))
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def hidden(secret: bytes, *parts: str) -> str:
    """A short name for something personal: without the secret nobody can find out by trying whose it is."""
    joined = "\0".join(parts).encode("utf-8", "surrogatepass")
    return hashlib.blake2b(joined, key=secret[:64], digest_size=16).hexdigest()

"""A message and its recipient as the body of a request, and back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from attrs import field, frozen

from resilience_whatsapp.errors import InvalidMessageError
from resilience_whatsapp.messages._content import (
    Audio,
    Contacts,
    Document,
    Image,
    Location,
    Message,
    Reaction,
    Sticker,
    Text,
    Video,
)
from resilience_whatsapp.messages._interactive import read_interactive
from resilience_whatsapp.messages._parts import WAMID, Flag, One, OneOf, Part, Words, taken
from resilience_whatsapp.messages._recipients import (
    GroupId,
    PhoneNumber,
    Recipient,
    UserId,
    read_recipient,
    recipient_of,
)
from resilience_whatsapp.messages._template import TemplateMessage

MAX_OPAQUE = 512
_READERS: dict[str, Any] = {
    kind.kind: kind.read
    for kind in (Text, Image, Video, Audio, Document, Sticker, Location, Contacts, Reaction, TemplateMessage)
} | {"interactive": read_interactive}


@frozen(repr=False)
class MessageRequest(Part):
    """All that one request to send says.

    Args:
        recipient: a `PhoneNumber`, `UserId` or `GroupId`; a text is a phone number.
        message: what is sent.
        reply_to: the id of a message of the recipient, which is quoted.
        opaque_data: what webhooks echo as `biz_opaque_callback_data`.
        identity_key_hash: send only if the recipient still has this identity (else error 137000).
    """

    recipient: Recipient = field(converter=recipient_of, validator=One((PhoneNumber, UserId, GroupId)))
    message: Message = field(validator=One((Message,)))
    reply_to: str | None = field(default=None, validator=WAMID, kw_only=True)
    opaque_data: str | None = field(default=None, validator=Words(MAX_OPAQUE), kw_only=True)
    identity_key_hash: str | None = field(default=None, validator=Words(512), kw_only=True)

    def payload(self) -> dict[str, Any]:
        """The API's JSON."""
        found = {"messaging_product": "whatsapp", **self.recipient.content()}
        if self.reply_to is not None:
            found["context"] = {"message_id": self.reply_to}
        found |= self.message.payload()
        if self.opaque_data is not None:
            found["biz_opaque_callback_data"] = self.opaque_data
        if self.identity_key_hash is not None:
            found["recipient_identity_key_hash"] = self.identity_key_hash
        return found

    @classmethod
    def from_payload(cls, payload: Any) -> MessageRequest:
        """The request that such JSON stands for.

        Raises:
            InvalidMessageError: it is not one of the messages of this module, or one that the API would refuse.
        """
        kind = payload.get("type", "text") if isinstance(payload, Mapping) else None  # left out, it is text
        if not isinstance(kind, str) or kind not in _READERS:
            raise InvalidMessageError(f"MessageRequest.type must be one of {', '.join(_READERS)}")
        given = taken(payload, "MessageRequest", *_OUTER, kind)
        if given["messaging_product"] != "whatsapp":
            raise InvalidMessageError('MessageRequest.messaging_product must be "whatsapp"')
        context = given["context"]
        return cls(
            read_recipient(given["recipient_type"], given["to"], given["recipient"]),
            _READERS[kind](given[kind]),
            reply_to=None if context is None else taken(context, "MessageRequest.context", "message_id")["message_id"],
            opaque_data=given["biz_opaque_callback_data"],
            identity_key_hash=given["recipient_identity_key_hash"],
        )


_OUTER = (
    "messaging_product",
    "recipient_type",
    "to",
    "recipient",
    "type",
    "context",
    "biz_opaque_callback_data",
    "recipient_identity_key_hash",
)


@frozen(repr=False)
class MarkAsRead(Part):
    """Tells the sender of a message, and of all before it, that it was read; with `typing`, that an answer is coming.

    The typing indicator goes away with the answer, or after 25 seconds.
    """

    message_id: str = field(validator=WAMID)
    typing: bool = field(default=False, validator=Flag())

    def payload(self) -> dict[str, Any]:
        """The API's JSON."""
        typing = {"typing_indicator": {"type": "text"}} if self.typing else {}
        return {"messaging_product": "whatsapp", "status": "read", "message_id": self.message_id, **typing}

    @classmethod
    def from_payload(cls, payload: Any) -> MarkAsRead:
        """The mark that such JSON stands for.

        Raises:
            InvalidMessageError: it is not one.
        """
        given = taken(payload, "MarkAsRead", "messaging_product", "status", "message_id", "typing_indicator")
        if (given["messaging_product"], given["status"]) != ("whatsapp", "read"):
            raise InvalidMessageError('MarkAsRead must have messaging_product "whatsapp" and status "read"')
        return cls(given["message_id"], given["typing_indicator"] is not None)


@frozen(repr=False)
class MarketingRequest(Part):
    """A template for the endpoint `marketing_messages`, with the two options that it has besides.

    `WhatsAppService` does not send these: they are for a client of your own.
    """

    request: MessageRequest = field(validator=One((MessageRequest,)))
    product_policy: str | None = field(default=None, validator=OneOf(("CLOUD_API_FALLBACK", "STRICT")))
    message_activity_sharing: bool | None = field(default=None, validator=Flag())

    def __attrs_post_init__(self) -> None:
        if not isinstance(self.request.message, TemplateMessage):
            raise InvalidMessageError("MarketingRequest.request must hold a TemplateMessage")

    def payload(self) -> dict[str, Any]:
        """The API's JSON."""
        options = {name: getattr(self, name) for name in _MARKETING}
        return {**self.request.payload(), **{name: value for name, value in options.items() if value is not None}}

    @classmethod
    def from_payload(cls, payload: Any) -> MarketingRequest:
        """The request that such JSON stands for.

        Raises:
            InvalidMessageError: as for `MessageRequest.from_payload`.
        """
        given = dict(payload) if isinstance(payload, Mapping) else {}
        options = [given.pop(name, None) for name in _MARKETING]
        return cls(MessageRequest.from_payload(given), *options)


_MARKETING = ("product_policy", "message_activity_sharing")

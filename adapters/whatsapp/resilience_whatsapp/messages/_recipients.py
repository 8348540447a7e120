"""To whom a message goes: a phone number, a business-scoped user id, or a group.

A number must be international and begin with `+`. The API takes one without, and puts the *sender's* country code in
front: `0612345678` or `6505551234` would reach somebody else, or nobody. So such a number is refused, not guessed at.
"""

from __future__ import annotations

import re
from typing import Any, TypeAlias

from attrs import field, frozen

from resilience_whatsapp.errors import InvalidMessageError
from resilience_whatsapp.messages._parts import Part, Words

_SEPARATORS = re.compile(r"[ \u00a0().\-]")
_NUMBER = re.compile(r"\+[1-9][0-9]{6,14}")
_ID = Words(256, pattern=r"\S+", form="an id without blanks")


def _international(number: Any) -> str:
    """Blanks, dots, hyphens and brackets are taken out; the rest must be `+` and 7 to 15 digits."""
    bare = _SEPARATORS.sub("", number) if isinstance(number, str) else ""
    if not _NUMBER.fullmatch(bare):
        raise InvalidMessageError(
            "PhoneNumber.number must be + and the 7 to 15 digits of an international number, as in +33 6 12 34 56 78; "
            "for a wa_id of a webhook, which has no +, use PhoneNumber.from_wa_id; for a user id, UserId"
        )
    return bare


@frozen(repr=False)
class PhoneNumber(Part):
    """An international number: `+`, country code, digits; separators are taken out."""

    number: str = field(converter=_international)

    @classmethod
    def from_wa_id(cls, wa_id: str) -> PhoneNumber:
        """The number in a webhook or a receipt: international digits without `+`."""
        return cls(f"+{wa_id}")

    @property
    def key(self) -> str:
        """What tells this recipient from others."""
        return self.number

    def content(self) -> dict[str, Any]:
        """Its fields in a request."""
        return {"recipient_type": "individual", "to": self.number}


@frozen(repr=False)
class UserId(Part):
    """A business-scoped user id: an opaque text that stands for a user who hides the number."""

    user_id: str = field(validator=_ID)

    @property
    def key(self) -> str:
        """What tells this recipient from others."""
        return self.user_id

    def content(self) -> dict[str, Any]:
        """Its fields in a request."""
        return {"recipient_type": "individual", "recipient": self.user_id}


@frozen(repr=False)
class GroupId(Part):
    """The id of a group."""

    group_id: str = field(validator=_ID)

    @property
    def key(self) -> str:
        """What tells this recipient from others."""
        return self.group_id

    def content(self) -> dict[str, Any]:
        """Its fields in a request."""
        return {"recipient_type": "group", "to": self.group_id}


Recipient: TypeAlias = PhoneNumber | UserId | GroupId
"""Anybody who can be written to."""


def recipient_of(recipient: Any) -> Recipient:
    """The recipient; a text is a phone number."""
    return recipient if isinstance(recipient, (PhoneNumber, UserId, GroupId)) else PhoneNumber(recipient)


def read_recipient(kind: Any, to: Any, user_id: Any) -> Recipient:
    """The recipient in a request."""
    if kind not in (None, "individual", "group"):
        raise InvalidMessageError("MessageRequest.recipient_type must be individual or group")
    if to is None:
        return UserId(user_id)
    if user_id is not None:
        raise InvalidMessageError("MessageRequest must have either to or recipient")
    if kind == "group":
        return GroupId(to)
    return PhoneNumber(to)

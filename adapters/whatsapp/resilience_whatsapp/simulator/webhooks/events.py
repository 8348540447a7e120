"""What webhooks tell, in the shapes of the API's versions, and the bytes that are signed.

Until v23 a status of a message carries its `conversation`; since v24 it does not. Times are texts of whole seconds.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import re
from collections.abc import Iterable, Mapping
from typing import Any

from attrs import define, frozen

from resilience_whatsapp.simulator.book import Entry, RecipientType
from resilience_whatsapp.simulator.codes import title
from resilience_whatsapp.simulator.state.world import Number
from resilience_whatsapp.simulator.validation import digits_of

_LAST_WITH_CONVERSATION = (23, 0)
_DAY = 86_400
_NUMBER = re.compile(r"\+?[0-9][0-9 ().-]*")


@define(eq=False)
class Event:
    """One thing to tell, of the topic `field`: `statuses` or `messages` of a number, or other news of an account."""

    account_id: str
    field: str
    value: Mapping[str, Any]
    """Of other news all of it; of a status or message that alone."""
    part: str = ""
    """`statuses` or `messages`; empty for other news."""
    number: Number | None = None
    contact: Mapping[str, Any] | None = None
    conversation: Mapping[str, Any] | None = None
    """What goes into a status for versions that have it."""
    misses: int = 0
    """Deliveries that reach nobody, before the first that does."""
    forged: bool = False
    """Whether the signature is wrong at the first delivery."""
    again: bool = False
    """Whether it is delivered again later, with others."""


def wa_id_of(number: str) -> str:
    """The user of a number, however it is written. The API writes some numbers of Mexico and Brazil in another way.

    Mexican mobile numbers get a 1 after the 52, and Brazilian ones of area codes from 31 on lose the 9 before the last
    eight digits.
    """
    digits = digits_of(number)
    if re.fullmatch(r"52[2-9]\d{9}", digits):
        return f"521{digits[2:]}"
    if re.fullmatch(r"55[3-9]\d9\d{8}", digits):
        return digits[:4] + digits[5:]
    return digits


@frozen
class Party:
    """A user, as the API names one: by number or by business-scoped id."""

    digits: str | None = None
    """The `wa_id`: international, without the `+`."""
    user_id: str | None = None
    group_id: str | None = None

    @classmethod
    def of(cls, recipient: str, kind: RecipientType) -> Party:
        """The recipient of a message."""
        if kind == "number":
            return cls(digits=wa_id_of(recipient))
        return cls(user_id=recipient) if kind == "user_id" else cls(group_id=recipient)

    @classmethod
    def named(cls, text: str) -> Party:
        """Whom a number, however it is written, or a business-scoped id means."""
        return cls(digits=wa_id_of(text)) if _NUMBER.fullmatch(text) else cls(user_id=text)

    @property
    def key(self) -> str:
        """What limits and windows know the user by."""
        return self.digits or self.user_id or self.group_id or ""


def status_event(entry: Entry, number: Number, status: str, at: float) -> Event:
    """A status of a message that was sent."""
    party = Party.of(entry.recipient, entry.recipient_type)
    contact: dict[str, Any] | None = None
    told: dict[str, Any] = {"id": entry.wamid, "status": status, "timestamp": str(int(at))}
    if party.user_id is not None:
        told["recipient_user_id"] = party.user_id
        contact = {"profile": {"name": "A user"}, "user_id": party.user_id}
    else:
        told["recipient_id"] = party.key
    if party.group_id is not None:
        told["recipient_type"] = "group"
    if entry.opaque is not None:
        told["biz_opaque_callback_data"] = entry.opaque
    if status == "failed":
        told["errors"] = [failure(entry.failed or 131000)]
    category = (entry.category or "service").lower()
    if status in ("sent", "delivered"):  # the price is told with these alone
        kind = "regular" if entry.type == "template" else "free_customer_service"
        told["pricing"] = {"billable": kind == "regular", "pricing_model": "PMP", "category": category, "type": kind}
    conversation: dict[str, Any] | None = None
    if status in ("sent", "delivered", "read"):
        conversation = {"id": hashlib.md5(party.key.encode(errors="replace"), usedforsecurity=False).hexdigest()}
        if status == "sent":
            conversation["expiration_timestamp"] = str(int(at) + _DAY)
        conversation["origin"] = {"type": category}
    return Event(number.account.id, "messages", told, "statuses", number, contact, conversation)


def message_event(message: Mapping[str, Any], number: Number, party: Party, name: str) -> Event:
    """A message that came in."""
    contact: dict[str, Any] = {"profile": {"name": name}}
    if party.digits is not None:
        contact["wa_id"] = party.digits
    if party.user_id is not None:
        contact["user_id"] = party.user_id
    return Event(number.account.id, "messages", message, "messages", number, contact)


def failure(code: int) -> dict[str, Any]:
    """An error as webhooks have it."""
    return {
        "code": code,
        "title": title(code),
        "message": title(code),
        "error_data": {"details": title(code)},
        "href": "https://developers.facebook.com/docs/whatsapp/cloud-api/support/error-codes/",
    }


def body_of(events: Iterable[Event], version: tuple[int, int], now: float) -> bytes:
    """The body of one delivery: an entry for each account, and a change for each number and each other news.

    Non-ASCII is escaped as `\\uXXXX`, `/` as `\\/` and `@` as `\\u0040`, as the API does it: who parses it, writes it
    again and signs that gets another signature.
    """
    accounts: dict[str, list[dict[str, Any]]] = {}
    values: dict[str, dict[str, Any]] = {}
    for event in events:
        changes = accounts.setdefault(event.account_id, [])
        number = event.number
        if number is None:
            changes.append({"value": event.value, "field": event.field})
            continue
        value = values.get(number.id)
        if value is None:
            metadata = {"display_phone_number": number.digits, "phone_number_id": number.id}
            value = values[number.id] = {"messaging_product": "whatsapp", "metadata": metadata}
            changes.append({"value": value, "field": event.field})
        if event.contact is not None:
            value.setdefault("contacts", []).append(event.contact)
        told = event.value
        if event.conversation is not None and version <= _LAST_WITH_CONVERSATION:
            told = {**told, "conversation": event.conversation}
        value.setdefault(event.part, []).append(told)
    entries = [{"id": id, "time": int(now), "changes": changes} for id, changes in accounts.items()]
    text = json.dumps({"object": "whatsapp_business_account", "entry": entries}, separators=(",", ":"))
    return text.replace("/", "\\/").replace("@", "\\u0040").encode("ascii")


def signature(secret: str, body: bytes) -> str:
    """`X-Hub-Signature-256`: HMAC-SHA256 with the app secret over the bytes of the body."""
    return "sha256=" + hmac.new(secret.encode(), body, hashlib.sha256).hexdigest()

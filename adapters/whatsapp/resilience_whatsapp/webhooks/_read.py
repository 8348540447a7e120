"""Reading the body of a webhook: total. A body is refused as no webhook, or all of it is read.

In two steps, because what was read is kept on disk between them: `parts_of` takes a body apart, `update_of` gives a
part its type. What is not understood is an `UnknownUpdate`; nothing raises but `InvalidWebhookError`.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterator
from typing import Any, Literal, TypeAlias

from attrs import field, frozen

from resilience_whatsapp._envelope import number_of, parse, text_of
from resilience_whatsapp._opaque import split_opaque_data
from resilience_whatsapp.errors import GraphError, InvalidWebhookError, graph_error
from resilience_whatsapp.webhooks._updates import (
    AccountError,
    AccountUpdate,
    InboundMessage,
    PreferenceUpdate,
    Pricing,
    QualityUpdate,
    StatusUpdate,
    TemplateUpdate,
    UnknownUpdate,
    WebhookUpdate,
)

__all__ = ["MAX_WEBHOOK", "Part", "parts_of", "read_webhook", "update_of"]

MAX_WEBHOOK = 3 * 1024 * 1024
"""Bytes; the most that the platform sends."""

PartKind: TypeAlias = Literal["status", "message", "error", "preference", "news", "unknown"]
_LISTS: tuple[tuple[PartKind, str], ...] = (
    ("status", "statuses"),
    ("message", "messages"),
    ("message", "message_echoes"),
    ("preference", "user_preferences"),
)
_MAX_DEPTH = 100  # the API's JSON has less than 15 levels


@frozen
class Part:
    """One thing that a webhook tells, before it has a type."""

    kind: PartKind
    topic: str
    waba_id: str | None = None
    phone_number_id: str | None = None
    time: float | None = None
    """Of the entry, seconds since the epoch."""
    content: dict[str, Any] = field(repr=False, factory=dict)
    contact: dict[str, Any] | None = field(repr=False, default=None)
    """Who the message is from or the status about, where the API tells it beside them."""

    def dumps(self) -> str:
        """As text, for a store."""
        return json.dumps(
            [self.kind, self.topic, self.waba_id, self.phone_number_id, self.time, self.content, self.contact],
            separators=(",", ":"),
        )

    @classmethod
    def loads(cls, text: str) -> Part:
        """From `dumps`; unknown, if it cannot be read any more."""
        try:
            told = json.loads(text)
            return cls(*told) if isinstance(told[5], dict) else cls("unknown", "")
        except (ValueError, TypeError, LookupError, RecursionError):
            return cls("unknown", "")

    def key(self) -> bytes:
        """16 bytes that are the same whenever the API tells this again, in whatever body.

        A status is known by the message and its name (and the participant of a group), a message by its id, other
        news by content and time. What has none of these, such as an error of the account, is new each time: twice
        told is better than not.
        """
        told = self.content
        if self.kind == "status":
            who = text_of(told, "recipient_participant_id") or text_of(told, "recipient_participant_user_id")
            return _digest(["status", told["id"], told["status"], who])
        if self.kind == "message":
            return _digest(["message", self.topic, told["id"]])
        own = _seconds(told.get("timestamp"))
        if own is None and self.time is None:
            return os.urandom(16)
        return _digest([self.kind, self.topic, self.waba_id, self.phone_number_id, None if own else self.time, told])


def _digest(content: Any) -> bytes:
    text = json.dumps(content, separators=(",", ":"), sort_keys=True)
    return hashlib.blake2b(text.encode(), digest_size=16).digest()


def read_webhook(body: bytes) -> tuple[WebhookUpdate, ...]:
    """All that the body of a webhook tells, in its order; check its signature before.

    Raises:
        InvalidWebhookError: it is no JSON of a webhook, or longer than 3 MiB.
    """
    return tuple(update_of(part) for part in parts_of(body))


# --- taking apart ----------------------------------------------------------------------------------------------------


def parts_of(body: bytes) -> list[Part]:
    """The body of a webhook, taken apart; raises `InvalidWebhookError`."""
    content = parse(body) if len(body) <= MAX_WEBHOOK else None
    entries = content.get("entry") if isinstance(content, dict) else None
    if not isinstance(entries, list):
        raise InvalidWebhookError("this is not the body of a webhook")
    return [part if _flat(part.content) and _flat(part.contact) else _without(part) for part in _parts(entries)]


def _parts(entries: list[Any]) -> Iterator[Part]:
    for entry in _objects(entries):
        waba, time = text_of(entry, "id"), _seconds(entry.get("time"))
        for change in _objects(entry.get("changes")):
            value, topic = change.get("value"), text_of(change, "field")
            if topic is None or not isinstance(value, dict):
                yield Part("unknown", topic or "", waba, None, time, change)
            else:
                yield from _parts_of_value(topic, waba, time, value)
        if strange := _others(entry.get("changes")):
            yield Part("unknown", "", waba, None, time, {"changes": strange})
    if strange := _others(entries):
        yield Part("unknown", "", None, None, None, {"entry": strange})


def _parts_of_value(topic: str, waba: str | None, time: float | None, value: dict[str, Any]) -> Iterator[Part]:
    phone = text_of(value.get("metadata"), "phone_number_id")
    whole = True
    if _objects(value.get("errors")):
        whole = False
        yield Part("error", topic, waba, phone, time, {"errors": value["errors"]})
    contacts = _objects(value.get("contacts"))
    for kind, key in _LISTS:
        for each in _objects(value.get(key)):
            whole = False
            complete = kind == "preference" or text_of(each, "id") is not None
            if kind == "status":
                complete = complete and text_of(each, "status") is not None
            yield Part(kind if complete else "unknown", topic, waba, phone, time, each, _contact(each, contacts))
        if strange := _others(value.get(key)):
            whole = False
            yield Part("unknown", topic, waba, phone, time, {key: strange})
    if whole:
        yield Part("news", topic, waba, phone, time, value)


def _contact(content: dict[str, Any], contacts: list[dict[str, Any]]) -> dict[str, Any] | None:
    """The contact that is meant: the API lists those of all messages of the body beside them."""
    ids = {text_of(content, key) for key in ("from", "from_user_id", "recipient_id", "recipient_user_id")} - {None}
    found = [each for each in contacts if ids & {text_of(each, "wa_id"), text_of(each, "user_id")}]
    # An id that fits none of them is one of a group, or written in another way: the only contact is still meant.
    if len(contacts) == 1 or found:
        return (found or contacts)[0]
    return None


def _flat(content: Any) -> bool:
    """Whether it is nested so little that whoever writes, compares or shows it later does not run out of stack."""
    level: list[Any] = [content]
    for _ in range(_MAX_DEPTH):
        level = [
            below
            for each in level
            if isinstance(each, (dict, list))
            for below in (each.values() if isinstance(each, dict) else each)
            if isinstance(below, (dict, list))
        ]
        if not level:
            return True
    return False


def _without(part: Part) -> Part:
    return Part("unknown", part.topic, part.waba_id, part.phone_number_id, part.time, {"nested": "too deeply"})


# --- giving types ----------------------------------------------------------------------------------------------------


def update_of(part: Part) -> WebhookUpdate:
    """The part with its type."""
    told = part.content
    own = _seconds(told.get("timestamp"))
    common: dict[str, Any] = {
        "topic": part.topic,
        "waba_id": part.waba_id,
        "phone_number_id": part.phone_number_id,
        "at": part.time if own is None else own,
        "content": told,
    }
    if part.kind == "news":
        return _news(part.topic, told, common)
    if part.kind not in _READERS:
        return UnknownUpdate(**common, why="its shape is not known")
    return _READERS[part.kind](told, part.contact, common)


def _status(told: dict[str, Any], contact: Any, common: dict[str, Any]) -> WebhookUpdate:
    pricing = told.get("pricing")
    record_id, opaque_data = split_opaque_data(text_of(told, "biz_opaque_callback_data"))
    participant = text_of(told, "recipient_participant_id") or text_of(told, "recipient_participant_user_id")
    return StatusUpdate(
        **common,
        wamid=told["id"],
        status=told["status"],
        recipient=text_of(told, "recipient_id"),
        recipient_user_id=text_of(told, "recipient_user_id") or (None if participant else text_of(contact, "user_id")),
        participant=participant,
        record_id=record_id,
        opaque_data=opaque_data,
        conversation_id=text_of(told.get("conversation"), "id"),
        pricing=None if not isinstance(pricing, dict) else _pricing(pricing),
        errors=_errors(told),
    )


def _pricing(told: dict[str, Any]) -> Pricing:
    billable = told.get("billable")
    return Pricing(
        billable if isinstance(billable, bool) else None,
        text_of(told, "pricing_model"),
        text_of(told, "type"),
        text_of(told, "category"),
    )


def _message(told: dict[str, Any], contact: Any, common: dict[str, Any]) -> WebhookUpdate:
    reaction, context = text_of(told.get("reaction"), "message_id"), told.get("context")
    profile = contact.get("profile") if isinstance(contact, dict) else None
    return InboundMessage(
        **common,
        wamid=told["id"],
        kind=text_of(told, "type") or "unknown",
        sender=text_of(told, "from") or text_of(contact, "wa_id"),
        sender_user_id=text_of(told, "from_user_id") or text_of(contact, "user_id"),
        sender_name=text_of(profile, "name"),
        group_id=text_of(told, "group_id"),
        reply_to=reaction or text_of(context, "id") or text_of(context, "message_id"),
        errors=_errors(told),
    )


def _error(told: dict[str, Any], contact: Any, common: dict[str, Any]) -> WebhookUpdate:
    return AccountError(**common, errors=_errors(told))


def _preference(told: dict[str, Any], contact: Any, common: dict[str, Any]) -> WebhookUpdate:
    return PreferenceUpdate(
        **common,
        user=text_of(told, "wa_id") or text_of(contact, "wa_id"),
        user_id=text_of(told, "user_id") or text_of(contact, "user_id"),
        category=text_of(told, "category"),
        value=text_of(told, "value"),
    )


_READERS: dict[str, Callable[[dict[str, Any], Any, dict[str, Any]], WebhookUpdate]] = {
    "status": _status,
    "message": _message,
    "error": _error,
    "preference": _preference,
}

_TEMPLATE_TOPICS = {
    "message_template_status_update": ("event", None),
    "message_template_components_update": (None, None),
    "message_template_quality_update": ("new_quality_score", "previous_quality_score"),
    "template_category_update": ("new_category", "previous_category"),
}
"""The keys of the new and the old value."""
_ACCOUNT_TOPICS = (
    "account_update",
    "account_alerts",
    "account_review_update",
    "business_capability_update",
    "security",
)


def _news(topic: str, told: dict[str, Any], common: dict[str, Any]) -> WebhookUpdate:
    if topic in _TEMPLATE_TOPICS:
        new, old = _TEMPLATE_TOPICS[topic]
        return TemplateUpdate(
            **common,
            name=text_of(told, "message_template_name"),
            language=text_of(told, "message_template_language"),
            event=None if new is None else text_of(told, new),
            previous=None if old is None else text_of(told, old),
            reason=text_of(told, "reason"),
        )
    if topic in _ACCOUNT_TOPICS:
        event = text_of(told, "event") or text_of(told, "alert_type") or text_of(told, "decision")
        rows = _objects(told.get("restriction_info"))
        restrictions = tuple(
            (name, _seconds(row.get("expiration")))
            for row in rows
            if (name := text_of(row, "restriction_type")) is not None
        )
        return AccountUpdate(**common, event=event, restrictions=restrictions, limit=_limit(told))
    if topic in ("phone_number_quality_update", "phone_number_name_update"):
        display = text_of(told, "display_phone_number")
        event = text_of(told, "event") or text_of(told, "decision")
        return QualityUpdate(**common, event=event, display_number=display, limit=_limit(told))
    return UnknownUpdate(**common, why="its topic is not known")


def _limit(told: dict[str, Any]) -> str | None:
    keys = ("max_daily_conversations_per_business", "max_daily_conversation_per_phone", "current_limit")
    found = [told.get(key) for key in keys]
    return next((str(value) for value in found if isinstance(value, str) or type(value) is int), None)


# --- what is read everywhere -----------------------------------------------------------------------------------------


def _errors(content: dict[str, Any]) -> tuple[GraphError, ...]:
    rows = _objects(content.get("errors"))
    return tuple(graph_error(number_of(row.get("code")), None, row.get("is_transient") is True, None) for row in rows)


def _seconds(value: Any) -> float | None:
    """A time, which may be a text or a number; None for what is no time of this century."""
    number = number_of(value)
    return float(number) if number is not None and 0 < number < 4_102_444_800 else None


def _objects(value: Any) -> list[dict[str, Any]]:
    return [each for each in value if isinstance(each, dict)] if isinstance(value, list) else []


def _others(value: Any) -> list[Any]:
    """What stands in a list of objects and is none; all of it where there should be a list."""
    if value is None:
        return []
    return [each for each in value if not isinstance(each, dict)] if isinstance(value, list) else [value]

"""Reading webhooks: many errors come by them, after a send was accepted.

Total: a body is either refused as no webhook, or read; what is unknown within it is kept as it is.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Literal, TypeAlias

from attrs import field, frozen

from resilience_whatsapp._envelope import number_of, parse, text_of
from resilience_whatsapp._opaque import split_opaque_data
from resilience_whatsapp.errors import GraphError, InvalidWebhookError, graph_error

__all__ = ["WebhookItem", "WebhookKind", "read_webhook"]

MAX_WEBHOOK = 4 * 1024 * 1024
"""Bytes; the platform sends at most 3 MB."""

WebhookKind: TypeAlias = Literal["status", "message", "error", "other"]


@frozen
class WebhookItem:
    """One thing that a webhook tells."""

    kind: WebhookKind
    """`status` of a message that was sent, `message` that came in, `error` of the account, or `other` news."""
    topic: str
    """What was subscribed to, `field` in the API's JSON: `messages`, `account_update`, ..."""
    waba_id: str | None
    phone_number_id: str | None
    wamid: str | None
    """The message that it is about."""
    status: str | None
    """`sent`, `delivered`, `read`, `played`, `failed`, or one that is not known yet; None unless `kind` is `status`."""
    opaque_data: str | None = field(repr=False)
    """What was given as `opaque_data` when it was sent; all of the echo where it is not ours."""
    record_id: str | None
    """The id of the `MessageRecord` of the message that it is about; None where the echo is not ours."""
    errors: tuple[GraphError, ...]
    """Typed as those of answers; they have no `http_status`."""
    content: Mapping[str, Any] = field(repr=False)
    """The API's JSON: of the status, of the message, or of all the news. Personal."""


def read_webhook(body: bytes) -> tuple[WebhookItem, ...]:
    """All that the body of a webhook tells, in its order; check its signature before.

    Raises:
        InvalidWebhookError: it is no JSON of a webhook, or too long.
    """
    content = parse(body) if len(body) <= MAX_WEBHOOK else None
    entries = content.get("entry") if isinstance(content, dict) else None
    if not isinstance(entries, list):
        raise InvalidWebhookError("this is not the body of a webhook")
    return tuple(item for entry in _objects(entries) for item in _items(entry))


def _items(entry: dict[str, Any]) -> Iterator[WebhookItem]:
    for change in _objects(entry.get("changes")):
        value, name = change.get("value"), text_of(change, "field")
        if not isinstance(value, dict) or name is None:
            continue
        kinds: tuple[tuple[WebhookKind, str], ...] = (("status", "statuses"), ("message", "messages"))
        found = [_item(kind, name, entry, value, each) for kind, key in kinds for each in _objects(value.get(key))]
        if _errors(value):
            yield _item("error", name, entry, value, value)
        elif not found:
            yield _item("other", name, entry, value, value)
        yield from found


def _item(kind: WebhookKind, name: str, entry: Any, value: dict[str, Any], content: dict[str, Any]) -> WebhookItem:
    record_id, opaque_data = split_opaque_data(text_of(content, "biz_opaque_callback_data"))
    return WebhookItem(
        kind=kind,
        topic=name,
        waba_id=text_of(entry, "id"),
        phone_number_id=text_of(value.get("metadata"), "phone_number_id"),
        wamid=text_of(content, "id") if kind in ("status", "message") else None,
        status=text_of(content, "status") if kind == "status" else None,
        opaque_data=opaque_data,
        record_id=record_id,
        errors=_errors(content),
        content=content,
    )


def _errors(content: dict[str, Any]) -> tuple[GraphError, ...]:
    rows = _objects(content.get("errors"))
    return tuple(graph_error(number_of(row.get("code")), None, row.get("is_transient") is True, None) for row in rows)


def _objects(value: Any) -> list[dict[str, Any]]:
    return [each for each in value if isinstance(each, dict)] if isinstance(value, list) else []

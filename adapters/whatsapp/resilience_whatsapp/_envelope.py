"""Reading the Graph API's answers: total, so that no body can raise anything but the documented errors."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

from attrs import field, frozen

from resilience_http import retry_after
from resilience_whatsapp.errors import AmbiguousOutcomeError, GraphThrottledError, graph_error
from resilience_whatsapp.records import mask_recipient

_USAGE_HEADER = "x-business-use-case-usage"
Wait: TypeAlias = float | Callable[[], float | None] | None
"""Seconds until it may work again, or how to find them out: only errors need to know, and looking for them costs."""


@frozen
class SendReceipt:
    """The API took a message."""

    wamid: str
    """The message's id."""
    wa_id: str | None = field(default=None, repr=lambda value: "None" if value is None else mask_recipient(value))
    """The recipient as WhatsApp knows it; may differ from what was sent."""
    message_status: str | None = None
    """`accepted`, `held_for_quality_assessment` or `paused`; for templates only."""


@frozen
class Template:
    """One template in one language."""

    name: str
    language: str
    status: str
    category: str | None = None
    components: list[Any] = field(factory=list)
    """As the API lists them."""


@frozen
class TemplatePage:
    """One page of a listing."""

    templates: tuple[Template, ...]
    next_after: str | None = None
    """The cursor for the next page; None on the last."""


@frozen
class TemplateReceipt:
    """The API took a template for approval."""

    id: str
    status: str | None = None
    """`PENDING`, and for some categories at once `APPROVED` or `REJECTED`."""
    category: str | None = None
    """May differ from what was asked for."""


def read_send(status: int, body: bytes, wait: Wait = None) -> SendReceipt:
    """The receipt in an answer to a send, or the error that it means."""
    content = content_of(status, body, wait)
    messages = content.get("messages")
    first = messages[0] if isinstance(messages, list) and messages else None
    wamid = first.get("id") if isinstance(first, dict) else None
    if not isinstance(wamid, str) or not wamid:
        raise AmbiguousOutcomeError(status, "an answer without a message id")
    assert isinstance(first, dict)
    contacts = content.get("contacts")
    contact = contacts[0] if isinstance(contacts, list) and contacts else None
    return SendReceipt(wamid, text_of(contact, "wa_id"), text_of(first, "message_status"))


def read_success(status: int, body: bytes, wait: Wait = None) -> None:
    """Nothing, for an answer that says no more than that it was done; else the error that it means."""
    if content_of(status, body, wait).get("success") is not True:
        raise AmbiguousOutcomeError(status, "an answer that does not say success")


def read_templates(status: int, body: bytes, wait: Wait = None) -> TemplatePage:
    """The page in an answer to a listing, or the error that it means."""
    content = content_of(status, body, wait)
    rows = content.get("data")
    if not isinstance(rows, list):
        raise AmbiguousOutcomeError(status, "a listing without data")
    paging = content.get("paging")
    # `cursors.after` is there on the last page, too; only `next` says that there is more.
    more = isinstance(paging, dict) and isinstance(paging.get("next"), str)
    cursors = paging.get("cursors") if isinstance(paging, dict) else None
    after = text_of(cursors, "after") if more else None
    return TemplatePage(tuple(template for row in rows if (template := _template(row)) is not None), after)


def read_created(status: int, body: bytes, wait: Wait = None) -> TemplateReceipt:
    """The receipt in an answer to a new template, or the error that it means."""
    content = content_of(status, body, wait)
    found = text_of(content, "id")
    if not found:
        raise AmbiguousOutcomeError(status, "an answer without a template id")
    return TemplateReceipt(found, text_of(content, "status"), text_of(content, "category"))


def usage_wait(headers: Mapping[str, str]) -> float | None:
    """Seconds to wait, from `Retry-After` and the usage header (whose estimate is in minutes): the longer one."""
    waits = [retry_after(headers)]
    for name, value in headers.items():
        if name.lower() == _USAGE_HEADER:
            minutes = _estimates(parse(value.encode("utf-8", "replace")))
            waits.append(max(minutes, default=0.0) * 60 or None)
    return max((wait for wait in waits if wait is not None), default=None)


def _estimates(usage: Any) -> list[float]:
    rows = [row for rows in usage.values() if isinstance(rows, list) for row in rows] if isinstance(usage, dict) else []
    found = [row.get("estimated_time_to_regain_access") for row in rows if isinstance(row, dict)]
    return [float(value) for value in found if type(value) is int and 0 < value < 100_000]


def content_of(status: int, body: bytes, wait: Wait) -> dict[str, Any]:
    """The object in a good answer, or the error that the answer means."""
    content = parse(body)
    envelope = content.get("error") if isinstance(content, dict) else None
    if isinstance(envelope, dict):
        raise graph_error(
            number_of(envelope.get("code")),
            number_of(envelope.get("error_subcode")),
            envelope.get("is_transient") is True,
            status,
            _seconds(wait),
            text_of(envelope, "fbtrace_id"),
        )
    if status == 200 and isinstance(content, dict) and envelope is None:
        return content
    raise _without_envelope(status, _seconds(wait))


def _seconds(wait: Wait) -> float | None:
    return wait() if callable(wait) else wait


def _without_envelope(status: int, wait: float | None) -> Exception:
    if status == 429:
        return GraphThrottledError(None, None, status, "app", wait)
    if 300 <= status < 500:
        return graph_error(None, None, False, status, wait)
    return AmbiguousOutcomeError(status, "an answer that is not the API's", wait)


def parse(body: bytes) -> Any:
    """JSON, or None for what is none."""
    try:
        return json.loads(body)
    except (ValueError, RecursionError):  # no JSON, no UTF-8, numbers of 5,000 digits, nested 100,000 deep
        return None


def number_of(value: Any) -> int | None:
    """A code, which may also be a text."""
    if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) < 12:
        return int(value)
    return value if type(value) is int else None


def text_of(holder: Any, key: str) -> str | None:
    """The text under `key`; None where there is none."""
    value = holder.get(key) if isinstance(holder, dict) else None
    return value if isinstance(value, str) else None


def _template(row: Any) -> Template | None:
    name, language, status = text_of(row, "name"), text_of(row, "language"), text_of(row, "status")
    if name is None or language is None or status is None:
        return None
    components = row.get("components")
    return Template(
        name, language, status, text_of(row, "category"), components if isinstance(components, list) else []
    )

"""What the API refuses about a message before it takes it: first the outer shape, then the recipient, then the content.

A refusal is total: whatever JSON arrives, it is either taken or answered with an envelope.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Any

from attrs import frozen

from resilience_whatsapp.simulator.envelopes import Refusal, required
from resilience_whatsapp.simulator.templates import check as template_check
from resilience_whatsapp.simulator.templates.definitions import SimTemplate

TYPES = (
    "text",
    "template",
    "image",
    "video",
    "audio",
    "document",
    "sticker",
    "location",
    "contacts",
    "reaction",
    "interactive",
)
FILES = ("image", "video", "audio", "document", "sticker")
MAX_TEXT = 4096
MAX_OPAQUE = 512
_NUMBER = re.compile(r"\+?[0-9][0-9 ().-]*")
_UNUSABLE = {"PAUSED": 132015, "DISABLED": 132016}


@frozen
class Rules:
    """What messages are checked against."""

    templates: Sequence[SimTemplate]
    own_number: str
    allowed_recipients: Collection[str] | None = None
    """Digits of the only numbers that may be written to, as for a test number."""
    missing_template_status: int = 404
    version: tuple[int, int] = (26, 0)
    """Of the API, as the path has it."""
    media: Callable[[str, dict[str, Any]], Refusal | None] = lambda kind, content: None
    """Why a file, of which the kind and its `id` or `link` are given, is refused."""

    def template(self, name: str, language: str) -> SimTemplate | None:
        """The one of that name and language; looked for at each send, because the list may change at any time."""
        return next((each for each in self.templates if each.name == name and each.language == language), None)


def digits_of(number: str) -> str:
    """A number without its `+` and separators."""
    return "".join(sign for sign in number if sign.isdigit())


def refusal_of(payload: Any, rules: Rules) -> Refusal | None:
    """Why `payload` is refused; None if it is accepted."""
    if not isinstance(payload, dict) or payload.get("messaging_product") != "whatsapp":
        return required("messaging_product")
    if payload.get("status") is not None:
        return _mark_read(payload)
    return _recipient(payload, rules) or _opaque(payload) or _content(payload, rules)


def _mark_read(payload: dict[str, Any]) -> Refusal | None:
    if payload["status"] != "read":
        return Refusal(100, "Param status must be read")
    message_id = payload.get("message_id")
    return None if isinstance(message_id, str) and message_id else required("message_id")


def _recipient(payload: dict[str, Any], rules: Rules) -> Refusal | None:
    to, user_id = payload.get("to"), payload.get("recipient")
    if not to:
        # A business-scoped user id is opaque: nothing about its form can be wrong.
        return None if isinstance(user_id, str) and user_id else required("to")
    if not isinstance(to, str):
        return Refusal(100, "Param to is not valid")
    if payload.get("recipient_type") == "group":
        return None
    digits = digits_of(to)
    if not _NUMBER.fullmatch(to) or not 5 <= len(digits) <= 20:
        return Refusal(100, "Param to is not valid")
    if digits == rules.own_number:
        return Refusal(131021)
    if rules.allowed_recipients is not None and digits not in rules.allowed_recipients:
        return Refusal(131030)
    return None


def _opaque(payload: dict[str, Any]) -> Refusal | None:
    opaque = payload.get("biz_opaque_callback_data")
    if opaque is not None and (not isinstance(opaque, str) or len(opaque) > MAX_OPAQUE):
        return Refusal(131009, f"biz_opaque_callback_data must be a text of at most {MAX_OPAQUE} characters")
    return None


def _content(payload: dict[str, Any], rules: Rules) -> Refusal | None:
    kind = payload.get("type", "text")  # left out, it is text
    if kind not in TYPES:
        return Refusal(131051)
    content = payload.get(kind)
    if kind == "contacts":
        return None if isinstance(content, list) and content else _missing(kind)
    if not isinstance(content, dict) or not content:
        return _missing(kind)
    if kind == "text":
        return _text(content)
    if kind == "template":
        return _template(content, rules, by_user_id=not payload.get("to"))
    if kind in FILES and not any(isinstance(content.get(name), str) and content[name] for name in ("id", "link")):
        return Refusal(131008, f"The parameter {kind}['id'] or {kind}['link'] is required.")
    file = content.get("header") if kind == "interactive" else {"type": kind, kind: content}
    return _files([file], rules)


def _files(holders: Iterable[Any], rules: Rules) -> Refusal | None:
    """Why one of the files is refused, each in an object with its kind as `type`."""
    for holder in holders:
        kind = holder.get("type") if isinstance(holder, dict) else None
        if kind in FILES and isinstance(holder.get(kind), dict):
            refused = rules.media(kind, holder[kind])
            if refused is not None:
                return refused
    return None


def _missing(kind: str) -> Refusal:
    return Refusal(131008, f"Parameter of type {kind} is missing")


def _text(content: dict[str, Any]) -> Refusal | None:
    body = content.get("body")
    if body is None or body == "":
        return Refusal(131008, "The parameter text['body'] is required.")
    if not isinstance(body, str) or len(body) > MAX_TEXT:
        return Refusal(131009, f"Param text['body'] must be a text of at most {MAX_TEXT} characters")
    return None


def _template(content: dict[str, Any], rules: Rules, by_user_id: bool) -> Refusal | None:
    name, language = content.get("name"), content.get("language")
    code = language.get("code") if isinstance(language, dict) else None
    if not isinstance(name, str) or not isinstance(code, str):
        return Refusal(131008, "The parameters template['name'] and template['language']['code'] are required.")
    found = rules.template(name, code)
    if found is not None and found.status in _UNUSABLE:
        return Refusal(_UNUSABLE[found.status])
    if found is None or found.status != "APPROVED":
        details = f"template name ({name}) does not exist in {code}"
        return Refusal(132001, details, status=rules.missing_template_status)
    if found.category == "AUTHENTICATION" and by_user_id:
        return Refusal(131062)
    components = content.get("components") or []
    if not isinstance(components, list) or not all(isinstance(component, dict) for component in components):
        return Refusal(131009, "Param template['components'] must be a list of components")
    refused = template_check.refusal_of(components, found, rules.version)
    return refused or _files((value for each in components for value in template_check.values_of(each)), rules)

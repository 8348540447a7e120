"""What the API refuses about a message before it takes it."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

from resilience_whatsapp.simulator.envelopes import Refusal
from resilience_whatsapp.simulator.templates import SimTemplate

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
MAX_TEXT = 4096
MAX_OPAQUE = 512
_UNUSABLE = {"PAUSED": 132015, "DISABLED": 132016}


def refusal_of(
    payload: Any, templates: Sequence[SimTemplate], own_number: str, allowed: Collection[str] | None
) -> Refusal | None:
    """Why `payload` is refused; None if it is accepted. `allowed` restricts recipients as a test number does."""
    if not isinstance(payload, dict):
        return Refusal(400, 100, "The request body is no JSON object")
    return _envelope(payload, own_number, allowed) or _content(payload, templates)


def _envelope(payload: dict[str, Any], own_number: str, allowed: Collection[str] | None) -> Refusal | None:
    if payload.get("messaging_product") != "whatsapp":
        return Refusal(400, 100, "The parameter messaging_product is required.")
    recipient = payload.get("to") or payload.get("recipient")
    if not isinstance(recipient, str):
        return Refusal(400, 100, "The parameter to is required.")
    digits = "".join(sign for sign in recipient if sign.isdigit())
    if "to" in payload and not 5 <= len(digits) <= 20:
        return Refusal(400, 131009, "Param to is not valid")
    if digits == own_number:
        return Refusal(400, 131021, "Recipient cannot be sender")
    if allowed is not None and digits not in allowed:
        return Refusal(400, 131030, "Recipient phone number not in allowed list", subcode=2655007)
    opaque = payload.get("biz_opaque_callback_data", "")
    if not isinstance(opaque, str) or len(opaque) > MAX_OPAQUE:
        return Refusal(400, 131009, "biz_opaque_callback_data is too long")
    return None


def _content(payload: dict[str, Any], templates: Sequence[SimTemplate]) -> Refusal | None:
    kind = payload.get("type", "text")
    if kind not in TYPES:
        return Refusal(400, 131051, "Unsupported message type")
    content = payload.get(kind)
    if not isinstance(content, (dict, list)):
        return Refusal(400, 131008, f"The parameter {kind} is required.")
    if kind == "text":
        body = content.get("body") if isinstance(content, dict) else None
        if not isinstance(body, str) or not body:
            return Refusal(400, 131008, "The parameter text['body'] is required.")
        if len(body) > MAX_TEXT:
            return Refusal(400, 131009, f"text['body'] must be at most {MAX_TEXT} characters long")
    if kind == "template":
        return _template(content, templates)
    return None


def _template(content: Any, templates: Sequence[SimTemplate]) -> Refusal | None:
    language = content.get("language") if isinstance(content, dict) else None
    if not isinstance(language, dict) or not isinstance(content.get("name"), str):
        return Refusal(400, 131008, "The parameters template['name'] and template['language'] are required.")
    name, code = content["name"], language.get("code")
    found = next((each for each in templates if (each.name, each.language) == (name, code)), None)
    if found is not None and found.status in _UNUSABLE:
        return Refusal(400, _UNUSABLE[found.status], "The template cannot be sent")
    if found is None or found.status != "APPROVED":
        return Refusal(404, 132001, f"template name ({name}) does not exist in {code}")
    given = _body_parameters(content.get("components"))
    if given != found.parameters:
        details = (
            f"body: number of localizable_params ({given}) does not match the expected number of params "
            f"({found.parameters})"
        )
        return Refusal(400, 132000, details)
    return None


def _body_parameters(components: Any) -> int:
    if not isinstance(components, list):
        return 0
    return sum(
        len(component.get("parameters", []))
        for component in components
        if isinstance(component, dict) and str(component.get("type", "")).lower() == "body"
    )

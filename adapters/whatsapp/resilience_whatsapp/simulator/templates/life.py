"""The life of templates: created, reviewed, edited, paused, deleted, and what the API tells of each by webhook.

    create -> PENDING --review--> APPROVED -> PAUSED, DISABLED, ... and back, by `change`
                 ^                    |
                 +------- edit -------+        REJECTED -- edit --> PENDING

The review takes `review_seconds` of the API's time and ends with `review_status`. Everything else happens by command.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

from attrs import evolve, frozen

from resilience_whatsapp.simulator.clock import SimClock
from resilience_whatsapp.simulator.envelopes import Refusal, required
from resilience_whatsapp.simulator.state.world import Account
from resilience_whatsapp.simulator.templates.check import MAX_BODY, MAX_HEADER, PLACE
from resilience_whatsapp.simulator.templates.definitions import MAX_TEMPLATES, SimTemplate

CATEGORIES = ("AUTHENTICATION", "MARKETING", "UTILITY")
STATUSES = (
    "APPROVED",
    "ARCHIVED",
    "DELETED",
    "DISABLED",
    "IN_APPEAL",
    "LIMIT_EXCEEDED",
    "PAUSED",
    "PENDING",
    "PENDING_DELETION",
    "REJECTED",
)
QUALITIES = ("GREEN", "YELLOW", "RED", "UNKNOWN")
EDITS_IN_30_DAYS = 10
DAY = 86_400.0
_NAME = re.compile(r"[a-z0-9_]{1,512}")
_LONGEST = {"HEADER": MAX_HEADER, "BODY": MAX_BODY, "FOOTER": 60}
_WRONG = {"HEADER": 2388047, "BODY": 2388072, "FOOTER": 2388073}
_TOO_LONG, _TOO_MANY, _EXISTS, _AT_THE_EDGE, _FIXED = 2388040, 2388019, 2388024, 2388299, 2388039
_TITLES = {
    2388019: "Template limit exceeded",
    2388024: "Content in this language already exists",
    2388039: "Template status can't be changed",
    2388040: "Character limit exceeded",
    2388047: "Header format incorrect",
    2388072: "Body format incorrect",
    2388073: "Footer format incorrect",
    2388299: "Leading or trailing parameters",
}

Announce: TypeAlias = "Callable[[Account, str, dict[str, Any]], None]"


class TemplateError(ValueError):
    """A change that cannot be made; the text names the field."""


@frozen
class TemplateChange:
    """What changes; None stays as it is. `reason` goes with the status, which is what it was after `lasts` seconds."""

    status: str | None = None
    quality: str | None = None
    category: str | None = None
    components: Sequence[Mapping[str, Any]] | None = None
    reason: str = "NONE"
    lasts: float | None = None

    def __attrs_post_init__(self) -> None:
        for name, known in (("status", STATUSES), ("quality", QUALITIES), ("category", CATEGORIES)):
            value = getattr(self, name)
            if value is not None and value not in known:
                raise TemplateError(f"{name} must be one of {', '.join(known)}")


@frozen
class InAccount:
    """A template, and whose it is."""

    template: SimTemplate
    account: Account


class TemplateLife:
    """Changes the templates of accounts. `announce(account, field, value)` tells it to the webhook's receivers."""

    def __init__(self, clock: SimClock, announce: Announce) -> None:
        self._clock = clock
        self._announce = announce
        self._issued = 0
        self._edits: dict[str, list[float]] = {}
        self.review_seconds = 60.0
        self.review_status = "APPROVED"

    # --- what clients ask for --------------------------------------------------------------------------------------

    def create(self, account: Account, body: Any) -> dict[str, Any] | Refusal:
        """Take a new template; gives its id, status and category, as the API does."""
        if not isinstance(body, dict):
            return required("name")
        refused = _refusal_of(body) or self._refusal_in(account, body)
        if refused is not None:
            return refused
        category = body["category"].upper()
        components = _listed(body["components"], category)
        named = any(not place.isdigit() for part in components for place in PLACE.findall(str(part.get("text", ""))))
        self._issued += 1
        template = SimTemplate(
            body["name"],
            body["language"],
            status="PENDING",
            category=category,
            components=components,
            parameter_format="NAMED" if named else "POSITIONAL",
            id=str(594_425_479_000_000 + self._issued),
        )
        account.templates.append(template)
        self._review(account, template)
        return {"id": template.id_in(account.id), "status": "PENDING", "category": category}

    def edit(self, found: InAccount, body: Any) -> dict[str, Any] | Refusal:
        """Change components or category; then it is reviewed again."""
        template, account = found.template, found.account
        if not isinstance(body, dict) or not any(body.get(name) for name in ("components", "category")):
            return required("components")
        if template.status not in ("APPROVED", "PAUSED", "REJECTED"):
            return _refused(_FIXED, "A template can be edited when it is approved, paused or rejected")
        refused = _refusal_of({"name": template.name, "language": template.language, **_of(template), **body})
        if refused is None and template.status == "APPROVED":
            if body.get("category", template.category) != template.category:
                return Refusal(100, "The category of an approved template cannot be edited")
            refused = self._edited_too_often(template.id_in(account.id))
        if refused is not None:
            return refused
        category = str(body.get("category", template.category)).upper()
        components = _listed(body["components"], category) if body.get("components") else template.components
        changed = self._replace(account, template, status="PENDING", category=category, components=components)
        if components is not template.components:
            self._announce(account, "message_template_components_update", _components(account, changed))
        self._review(account, changed)
        return {"success": True}

    def delete(self, account: Account, query: Mapping[str, str]) -> dict[str, Any] | Refusal:
        """Delete all languages of a name, or the templates with these ids."""
        name, ids = query.get("name"), _ids(query)
        if not name and not ids:
            return required("name")
        gone = [
            each
            for each in account.templates
            if (not name or each.name == name) and (not ids or each.id_in(account.id) in ids)
        ]
        if not gone:
            return Refusal(100, "Message template not found")
        for template in gone:
            account.templates.remove(template)
            self._announce(account, "message_template_status_update", _status(account, template, "DELETED", "NONE"))
        return {"success": True}

    # --- what Meta does --------------------------------------------------------------------------------------------

    def change(self, account: Account, name: str, language: str | None, change: TemplateChange) -> int:
        """Change templates by name, in one language or all, and announce it; gives how many."""
        found = [each for each in account.templates if each.name == name and language in (None, each.language)]
        for template in found:
            self._change(account, template, change)
        return len(found)

    def _change(self, account: Account, template: SimTemplate, change: TemplateChange) -> None:
        if change.components is not None:
            template = self._replace(account, template, components=[dict(each) for each in change.components])
            self._announce(account, "message_template_components_update", _components(account, template))
        if change.category not in (None, template.category):
            old = template.category
            template = self._replace(account, template, category=change.category, previous_category=old)
            value = {"new_category": change.category, "previous_category": old}
            self._announce(account, "template_category_update", {**_whose(account, template), **value})
        if change.quality not in (None, template.quality):
            old = template.quality
            template = self._replace(account, template, quality=change.quality, quality_at=self._clock.now())
            value = {"previous_quality_score": old, "new_quality_score": change.quality}
            self._announce(account, "message_template_quality_update", {**value, **_whose(account, template)})
        if change.status is not None and change.status != template.status:
            status = change.status
            self._move(account, template, status, change.reason)
            if change.lasts is not None:
                self._clock.call_later(change.lasts, lambda: self._back(account, template, status))

    def _move(self, account: Account, template: SimTemplate, status: str, reason: str = "NONE") -> None:
        approved_at = self._clock.now() if status == "APPROVED" and template.status == "PENDING" else None
        changed = self._replace(
            account,
            template,
            status=status,
            rejected_reason=reason,
            approved_at=template.approved_at if approved_at is None else approved_at,
        )
        if status == "DELETED":
            account.templates.remove(changed)
        self._announce(account, "message_template_status_update", _status(account, changed, status, reason))

    def _back(self, account: Account, before: SimTemplate, status: str) -> None:
        now = find(account, before.id_in(account.id))
        if now is not None and now.status == status:
            self._move(account, now, before.status)

    def _review(self, account: Account, template: SimTemplate) -> None:
        def end() -> None:
            now = find(account, template.id_in(account.id))
            if now is not None and now.status == "PENDING":
                self._move(account, now, self.review_status, "NONE" if self.review_status == "APPROVED" else "SCAM")

        self._clock.call_later(self.review_seconds, end)

    def _replace(self, account: Account, template: SimTemplate, **changes: Any) -> SimTemplate:
        changed = evolve(template, **changes)
        account.templates[account.templates.index(template)] = changed
        return changed

    def _refusal_in(self, account: Account, body: dict[str, Any]) -> Refusal | None:
        if any(each.name == body["name"] and each.language == body["language"] for each in account.templates):
            return _refused(_EXISTS, "There is already content in this language for this template")
        if len(account.templates) >= MAX_TEMPLATES:
            return _refused(_TOO_MANY, f"An account has at most {MAX_TEMPLATES} templates")
        return None

    def _edited_too_often(self, template_id: str) -> Refusal | None:
        now = self._clock.now()
        edits = self._edits[template_id] = [at for at in self._edits.get(template_id, []) if now - at < 30 * DAY]
        if len(edits) >= EDITS_IN_30_DAYS or (edits and now - edits[-1] < DAY):
            return Refusal(100, "An approved template can be edited once in 24 hours and 10 times in 30 days")
        edits.append(now)
        return None


def find(account: Account, template_id: str) -> SimTemplate | None:
    """The template with this id."""
    return next((each for each in account.templates if each.id_in(account.id) == template_id), None)


# --- what is refused ----------------------------------------------------------------------------------------------


def _refused(subcode: int, details: str) -> Refusal:
    return Refusal(100, details, subcode=subcode, user_title=_TITLES[subcode])


def _refusal_of(body: dict[str, Any]) -> Refusal | None:
    name, language, category = body.get("name"), body.get("language"), body.get("category")
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        return Refusal(100, "Param name must have small letters, digits and underscores only")
    if not isinstance(language, str) or not language:
        return required("language")
    if not isinstance(category, str) or category.upper() not in CATEGORIES:
        return Refusal(100, f"Param category must be one of {', '.join(CATEGORIES)}")
    components = body.get("components")
    if not isinstance(components, list) or not all(isinstance(each, dict) for each in components):
        return Refusal(100, "Param components must be a list of components")
    kinds = [str(each.get("type", "")).upper() for each in components]
    if kinds.count("BODY") != 1:
        return _refused(_WRONG["BODY"], "A template has one component of type BODY")
    refusals = (_component(kind, each, category.upper()) for kind, each in zip(kinds, components, strict=True))
    return next((refused for refused in refusals if refused is not None), None)


def _component(kind: str, component: dict[str, Any], category: str) -> Refusal | None:
    if kind == "BUTTONS":
        buttons = component.get("buttons")
        good = isinstance(buttons, list) and all(isinstance(each, dict) for each in buttons)
        return None if good else Refusal(100, "Component of type BUTTONS requires a list of buttons")
    if kind not in _LONGEST:
        return None
    text = component.get("text")
    if text is None and (category == "AUTHENTICATION" or kind == "HEADER"):
        return None
    if not isinstance(text, str) or not text:
        return _refused(_WRONG[kind], f"Component of type {kind} requires a text")
    if len(text) > _LONGEST[kind]:
        return _refused(_TOO_LONG, f"Component of type {kind} has at most {_LONGEST[kind]} characters")
    places = list(PLACE.finditer(text))
    if kind == "BODY" and places and (places[0].start() == 0 or places[-1].end() == len(text)):
        return _refused(_AT_THE_EDGE, "Parameters cannot be at the beginning or the end of the body")
    return None


def _ids(query: Mapping[str, str]) -> set[str]:
    ids = {query["hsm_id"]} if query.get("hsm_id") else set()
    try:
        several = json.loads(query.get("hsm_ids", "[]"))
    except ValueError:
        several = query["hsm_ids"].split(",")
    return ids | {str(each) for each in (several if isinstance(several, list) else [several])}


def _of(template: SimTemplate) -> dict[str, Any]:
    return {"category": template.category, "components": template.definition}


# --- what is listed and told --------------------------------------------------------------------------------------


def _listed(components: list[dict[str, Any]], category: str) -> list[dict[str, Any]]:
    """The components as they are listed: those of authentication templates get their fixed texts."""
    return [_fixed(each) if category == "AUTHENTICATION" else dict(each) for each in components]


def _fixed(component: dict[str, Any]) -> dict[str, Any]:
    kind = str(component.get("type", "")).upper()
    if kind == "BODY" and "text" not in component:
        return {**component, "text": "*{{1}}* is your verification code."}
    if kind == "FOOTER" and "text" not in component:
        return {**component, "text": f"This code expires in {component.get('code_expiration_minutes', 10)} minutes."}
    if kind == "BUTTONS":
        return {**component, "buttons": [_fixed_button(each) for each in component["buttons"]]}
    return dict(component)


def _fixed_button(button: dict[str, Any]) -> dict[str, Any]:
    if button.get("type") != "OTP":
        return button
    url = f"https://www.whatsapp.com/otp/code/?otp_type={button.get('otp_type', 'COPY_CODE')}&code=otp{{{{1}}}}"
    return {"type": "URL", "text": button.get("text", "Copy code"), "url": url}


def _whose(account: Account, template: SimTemplate) -> dict[str, Any]:
    return {
        "message_template_id": int(template.id_in(account.id)),
        "message_template_name": template.name,
        "message_template_language": template.language,
    }


def _status(account: Account, template: SimTemplate, event: str, reason: str) -> dict[str, Any]:
    category = {"message_template_category": template.category}
    return {"event": event, **_whose(account, template), "reason": reason, **category}


def _components(account: Account, template: SimTemplate) -> dict[str, Any]:
    value = _whose(account, template)
    names = {"HEADER": "title", "BODY": "element", "FOOTER": "footer"}
    for part in template.definition:
        kind = str(part.get("type", "")).upper()
        if kind in names and "text" in part:
            value[f"message_template_{names[kind]}"] = part["text"]
        if kind == "BUTTONS":
            value["message_template_buttons"] = [
                {f"message_template_button_{key}": told for key, told in button.items() if key in _TOLD}
                for button in part.get("buttons") or []
            ]
    return value


_TOLD = ("type", "text", "url", "phone_number")

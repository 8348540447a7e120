"""What the doctor makes of the API's answers: each function looks at one thing, and asks nobody."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, date, datetime
from email.utils import parsedate_to_datetime
from typing import Any, Literal

from attrs import frozen

from resilience_whatsapp._envelope import text_of
from resilience_whatsapp.api_versions import API_VERSIONS, SOON, state_of_version
from resilience_whatsapp.cli._health import troubles
from resilience_whatsapp.cli._templates import TemplateState
from resilience_whatsapp.status import Health, NumberStatus

MOST_SKEW = 30.0
"""Seconds by which this host's clock and the API's may differ before the doctor tells it."""
FULL, NEARLY_FULL = 100, 75
"""Percent of a quota: calls are refused at 100, and from about 75 on it is time to ask less."""
PERMISSIONS = {
    "whatsapp_business_messaging": "without it nothing can be sent",
    "whatsapp_business_management": "without it templates, numbers and accounts cannot be read",
}
Verdict = Literal["ok", "warning", "error"]


@frozen
class Check:
    """One thing that was looked at."""

    name: str
    verdict: Verdict
    text: str
    fix: str = ""


def version_check(version: str, told: str | None, today: date) -> Check:
    """The version of the API that is used; `told` is the one that the API says it answered with."""
    state, end = state_of_version(version, today)
    newest = list(API_VERSIONS)[-1]
    fix = f"give --api-version, WHATSAPP_API_VERSION or GraphClient(api_version=...) a newer one: {newest} is current"
    if state == "ended":
        return Check("version", "error", f"{version} has ended{f' on {end}' if end else ''}", fix)
    if told is not None and told != version:
        return Check("version", "warning", f"{version} is asked for, and {told[:20]} answers", fix)
    if state == "ends_soon":
        return Check("version", "warning", f"{version} ends on {end}, in less than {SOON.days} days", fix)
    if state == "not_known":
        return Check("version", "ok", f"{version}, which is newer than those known here")
    return Check("version", "ok", f"{version}{f', which ends on {end}' if end else ', the current one'}")


def clock_check(date_header: str | None, now: datetime) -> Check:
    """This host's clock against the moment at which the API says that it answered."""
    try:
        then = parsedate_to_datetime(date_header or "")
    except (ValueError, OverflowError):
        return Check("clock", "ok", "not told: the answer has no date")
    off = (then.replace(tzinfo=then.tzinfo or UTC) - now).total_seconds()
    if abs(off) <= MOST_SKEW:
        return Check("clock", "ok", f"within {MOST_SKEW:g} s of the API's")
    text = f"this host is {abs(off):.0f} s {'behind' if off > 0 else 'ahead of'} the API"
    return Check("clock", "warning", text, "times of records and webhooks will disagree: use NTP")


def permission_check(content: Mapping[str, Any] | None) -> Check:
    """The token's permissions; None where the API does not tell them."""
    rows = content.get("data") if content is not None else None
    named = [row for row in rows if text_of(row, "permission")] if isinstance(rows, list) else []
    told = {row["permission"]: row.get("status") for row in named}
    if not told:
        return Check("permissions", "ok", "not told by the API; what was read here needs whatsapp_business_management")
    missing = [name for name in PERMISSIONS if told.get(name) != "granted"]
    if missing:
        why = "; ".join(f"{name}: {PERMISSIONS[name]}" for name in missing)
        fix = "make a new token of the system user with these permissions, and give it the account as an asset"
        return Check("permissions", "error", f"missing: {why}", fix)
    return Check("permissions", "ok", ", ".join(PERMISSIONS))


_CONNECTED = "CONNECTED"
_HINDERED = {"FLAGGED", "RESTRICTED", "RATE_LIMITED"}
_NAMED = {"APPROVED", "AVAILABLE_WITHOUT_REVIEW"}


def number_checks(number: NumberStatus) -> Iterator[Check]:
    """Registration, name, quality, throughput, messaging limit and health of the sending number."""
    yield _registration(number.status)
    if number.name_status not in (None, *_NAMED):
        fix = "have the display name reviewed in WhatsApp Manager: sends fail with code 131037 until then"
        yield Check("display name", "warning", f"its status is {number.name_status}", fix)
    if number.code_verification_status == "NOT_VERIFIED":
        fix = "ask for a code (POST .../request_code) and give it back (POST .../verify_code)"
        yield Check("verification", "warning", "the number is not verified", fix)
    yield _quality(number.quality_rating)
    yield _throughput(number.throughput)
    limit = "not told by the API" if number.messaging_limit is None else number.messaging_limit
    yield Check("messaging limit", "ok", f"{limit} (users in 24 h outside their service windows)")
    yield health_check("number health", number.health)


def _registration(status: str | None) -> Check:
    if status in (None, _CONNECTED):
        return Check("number", "ok", "not told by the API" if status is None else "registered and connected")
    verdict: Verdict = "warning" if status in _HINDERED else "error"
    fix = (
        "see the number in WhatsApp Manager"
        if status in _HINDERED
        else "register it (POST .../register with its PIN), or see it in WhatsApp Manager"
    )
    return Check("number", verdict, f"its status is {status}", fix)


def _quality(rating: str | None) -> Check:
    fix = "send less, and only what people expect: templates with many blocks and reports are shown in WhatsApp Manager"
    if rating == "RED":
        return Check("quality", "error", "RED: the number's limit may be lowered", fix)
    if rating == "YELLOW":
        return Check("quality", "warning", "YELLOW", fix)
    return Check("quality", "ok", rating or "not told by the API")


def _throughput(level: str | None) -> Check:
    known = {"STANDARD": "STANDARD (80 messages per second)", "HIGH": "HIGH (1,000 messages per second)"}
    if level == "NOT_APPLICABLE":
        fix = "register the number for the Cloud API; one that is also used in the app has 20 per second"
        return Check("throughput", "warning", "NOT_APPLICABLE", fix)
    return Check("throughput", "ok", known.get(level or "", level or "not told by the API"))


def health_check(name: str, health: Health | None) -> Check:
    """Whether the API says that messages can be sent, and what stands in the way."""
    word = None if health is None else health.can_send_message
    if health is None or word not in ("LIMITED", "BLOCKED"):
        return Check(name, "ok", word or "not told by the API")
    errors = [error for entity in health.entities for error in entity.errors]
    known = [error for error in errors if error.known is not None]
    meanings = dict.fromkeys(f"{error.known.meaning}: {error.advice.value}" for error in known if error.known)
    text = "; ".join((word, *troubles(health)))
    fix = "; ".join(meanings) or "see WhatsApp Manager"
    return Check(name, "error" if word == "BLOCKED" else "warning", text, fix)


_UNUSABLE: dict[str, str] = {
    "PAUSED": "its quality is low: wait for the end of the pause, and change the template or whom it is sent to",
    "DISABLED": "edit it and have it approved again, or use another one",
    "LIMIT_EXCEEDED": "delete templates that are not used",
}


def template_checks(templates: Iterable[TemplateState]) -> Iterator[Check]:
    """How many there are, and those that were of use once and are not now."""
    known = list(templates)
    counts = dict.fromkeys(sorted({each.status for each in known}), 0)
    for each in known:
        counts[each.status] += 1
    told = ", ".join(f"{count} {status}" for status, count in counts.items()) or "none"
    fix = (
        ""
        if counts.get("APPROVED")
        else "make one in WhatsApp Manager: outside service windows only templates are sent"
    )
    yield Check("templates", "ok" if counts.get("APPROVED") else "warning", told, fix)
    for each in known:
        if each.status in _UNUSABLE:
            name = f"template {each.name} {each.language}"
            yield Check(name, "warning", f"{each.status}: sends of it fail", _UNUSABLE[each.status])


def wanted_check(name: str, found: Iterable[TemplateState]) -> Iterator[Check]:
    """A template that was named, in each of its languages, with its health."""
    languages = list(found)
    if not languages:
        yield Check(
            f"template {name}", "error", "the account has none of that name", "see resilience-whatsapp templates"
        )
    for each in languages:
        title = f"template {each.name} {each.language}"
        if each.status != "APPROVED":
            fix = _UNUSABLE.get(each.status, "it must be approved before it can be sent")
            yield Check(title, "error", each.status, fix)
        else:
            check = health_check(title, each.health)
            yield Check(title, check.verdict, f"APPROVED, health {check.text}", check.fix)


def usage_check(headers: Iterable[Mapping[str, str]]) -> Check:
    """The largest share of a quota that any of the answers told."""
    shares = [share for each in headers for share in _shares(each)]
    if not shares:
        return Check("usage", "ok", "not told: the API does once enough calls were made")
    most = max(shares)
    fix = "ask less often: lists of templates once an hour, states of numbers from webhooks"
    if most >= NEARLY_FULL:
        return Check("usage", "error" if most >= FULL else "warning", f"{most:g} % of a quota is used", fix)
    return Check("usage", "ok", f"{most:g} % of the fullest quota")


def _shares(headers: Mapping[str, str]) -> Iterator[float]:
    for name, value in headers.items():
        if name.lower() in ("x-app-usage", "x-business-use-case-usage"):
            yield from _percents(_json(value))


def _percents(told: Any) -> Iterator[float]:
    """Percentages, wherever they are: in one object, or in lists of them by account."""
    if isinstance(told, list):
        for each in told:
            yield from _percents(each)
    elif isinstance(told, dict):
        for name, value in told.items():
            if isinstance(value, list):
                yield from _percents(value)
            elif (
                name in ("call_count", "total_cputime", "total_time")
                and type(value) in (int, float)
                and not math.isnan(value)
            ):
                yield value


def _json(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def webhook_check(content: Mapping[str, Any] | None) -> Check:
    """Whether an app is subscribed to the account's webhooks; None where the API does not tell."""
    rows = content.get("data") if content is not None else None
    if not isinstance(rows, list):
        return Check("webhooks", "ok", "not told by the API")
    if not rows:
        fix = "POST /{waba-id}/subscribed_apps: without it no app hears what became of messages"
        return Check("webhooks", "warning", "no app is subscribed to the account", fix)
    return Check("webhooks", "ok", f"{len(rows)} app{'s' if len(rows) > 1 else ''} subscribed to the account")

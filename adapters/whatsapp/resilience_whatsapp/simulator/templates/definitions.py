"""The simulated business account's templates, and their listing with cursors.

`paging.next` is there only when more follows, and keeps the filters; `cursors.after` is there on the last page too.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Any
from urllib.parse import urlencode

from attrs import frozen

DEFAULT_LIMIT = 25
MAX_LIMIT = 1000
MAX_TEMPLATES = 250
"""Of an account."""


class BadQueryError(ValueError):
    """A listing that cannot be given; the text says why."""


@frozen
class SimTemplate:
    """One template in one language.

    `components` is what the API lists (`[{"type": "BODY", "text": "Hello {{1}}"}]`); sends are then checked against it
    in full. Without it the template has a text with `parameters` places in its body and `header_parameters` in its
    header, and sends are checked by these numbers only.
    """

    name: str
    language: str
    status: str = "APPROVED"
    category: str = "UTILITY"
    parameters: int = 0
    header_parameters: int = 0
    components: Sequence[Mapping[str, Any]] | None = None
    parameter_format: str = "POSITIONAL"
    """`POSITIONAL` or `NAMED`."""
    quality: str = "UNKNOWN"
    """`GREEN`, `YELLOW`, `RED` or `UNKNOWN`."""
    quality_at: float = 1_735_689_600.0
    """The API's time since which its quality is this."""
    id: str | None = None
    """None for one that follows from account, name and language."""
    rejected_reason: str = "NONE"
    previous_category: str | None = None
    approved_at: float | None = None
    """The API's time at which it was approved; None is long ago. Marketing messages need it for 10 minutes before."""

    @property
    def definition(self) -> list[Mapping[str, Any]]:
        """Its components, as the API lists them."""
        if self.components is not None:
            return list(self.components)
        components = [_component("BODY", self.parameters)]
        if self.header_parameters:
            components.insert(0, {**_component("HEADER", self.header_parameters), "format": "TEXT"})
        return [*components]

    def id_in(self, account_id: str) -> str:
        """Its id in that account."""
        return self.id or _derived_id(account_id, self.name, self.language)

    def as_json(self, account_id: str, asked: Collection[str] = ()) -> dict[str, Any]:
        """The template as the API tells it: the fields asked for and the id, or the usual ones when none is."""
        row: dict[str, Any] = {
            "name": self.name,
            "parameter_format": self.parameter_format,
            "components": self.definition,
            "language": self.language,
            "status": self.status,
            "category": self.category,
        }
        if self.previous_category is not None:
            row["previous_category"] = self.previous_category
        row["id"] = self.id_in(account_id)
        if not asked:
            return row
        row |= {
            "quality_score": {"score": self.quality, "date": int(self.quality_at)},
            "rejected_reason": self.rejected_reason,
        }
        return {key: row[key] for key in row if key in asked or key == "id"}


@lru_cache(maxsize=4096)
def _derived_id(account_id: str, name: str, language: str) -> str:
    digest = hashlib.sha256(f"{account_id}/{name}/{language}".encode()).digest()
    return str(1_000_000_000_000_000 + int.from_bytes(digest[:6], "big"))


def _component(kind: str, parameters: int) -> dict[str, Any]:
    component: dict[str, Any] = {"type": kind}
    component["text"] = "Bonjour" + "".join(f" {{{{{index}}}}}" for index in range(1, parameters + 1))
    if parameters:
        examples = ["x"] * parameters
        # The API has a list of lists for the body and a flat one for the header.
        component["example"] = {"body_text": [examples]} if kind == "BODY" else {"header_text": examples}
    return component


DEFAULT_TEMPLATES = (
    SimTemplate("hello_world", "en_US"),
    SimTemplate("welcome_message", "fr", category="MARKETING"),
    SimTemplate("order_confirmation", "fr", parameters=2),
    SimTemplate("order_confirmation", "en_US", parameters=2),
    SimTemplate("appointment_reminder", "fr", parameters=1),
    SimTemplate("shipping_update", "es", parameters=1),
    SimTemplate("draft_offer", "fr", status="PENDING", category="MARKETING"),
    SimTemplate("refused_offer", "fr", status="REJECTED", category="MARKETING"),
    SimTemplate("paused_offer", "fr", status="PAUSED", category="MARKETING"),
)


def _cursor(position: int) -> str:
    return base64.urlsafe_b64encode(f"at:{position}".encode()).decode()


def _position(cursor: str) -> int:
    try:
        text = base64.urlsafe_b64decode(cursor.encode("ascii")).decode("ascii")
    except ValueError:
        text = ""
    found = re.fullmatch(r"at:([0-9]{1,9})", text)
    if found is None:
        raise BadQueryError("Param cursor is not valid")
    return int(found[1])


def _names(query: Mapping[str, str], key: str) -> frozenset[str]:
    return frozenset(name.strip() for name in query.get(key, "").split(",") if name.strip())


def _limit(text: str) -> int:
    if not re.fullmatch(r"[0-9]{1,9}", text) or int(text) == 0:
        raise BadQueryError("Param limit must be a positive number")
    return min(MAX_LIMIT, int(text))


def _wanted(query: Mapping[str, str], name: str) -> frozenset[str] | None:
    """The values of a filter, in capitals: one, or a JSON list of several; None without it."""
    text = query.get(name)
    if not text:
        return None
    with contextlib.suppress(ValueError):
        values = json.loads(text) if text.startswith("[") else [text]
        if isinstance(values, list) and all(isinstance(value, str) for value in values):
            return frozenset(value.upper() for value in values)
    raise BadQueryError(f"Param {name} must be a text or a list of texts")


def _matching(templates: Iterable[SimTemplate], query: Mapping[str, str]) -> list[SimTemplate]:
    wanted = {name: _wanted(query, name) for name in ("name", "language", "status", "category", "quality_score")}
    rows = list(templates)
    for name, values in wanted.items():
        if values is not None:
            attribute = "quality" if name == "quality_score" else name
            rows = [each for each in rows if getattr(each, attribute).upper() in values]
    for name in ("content", "name_or_content"):
        part = query.get(name)
        if part:
            rows = [each for each in rows if part in _content_of(each) or (name != "content" and part in each.name)]
    return rows


def _content_of(template: SimTemplate) -> str:
    return "\n".join(str(component.get("text", "")) for component in template.definition)


def listing(
    templates: Sequence[SimTemplate], query: Mapping[str, str], url: str, account_id: str = ""
) -> dict[str, Any]:
    """One page of what the query asks for; raises `BadQueryError`."""
    rows = _matching(templates, query)
    limit = _limit(query.get("limit") or str(DEFAULT_LIMIT))
    if query.get("before"):
        end = min(_position(query["before"]), len(rows))
        start = max(0, end - limit)
    else:
        start = min(_position(query["after"]), len(rows)) if query.get("after") else 0
        end = min(start + limit, len(rows))
    summary = _summary(query, len(rows), templates)
    if start == end:
        return {"data": [], **summary}
    fields = _names(query, "fields")
    page = [row.as_json(account_id, fields) for row in rows[start:end]]
    paging: dict[str, Any] = {"cursors": {"before": _cursor(start), "after": _cursor(end)}}
    if end < len(rows):
        kept = {key: value for key, value in query.items() if key != "before"}
        paging["next"] = f"{url}?{urlencode({**kept, 'limit': limit, 'after': _cursor(end)})}"
    return {"data": page, "paging": paging, **summary}


def _summary(query: Mapping[str, str], count: int, templates: Sequence[SimTemplate]) -> dict[str, Any]:
    asked = _names(query, "summary")
    told = {
        "total_count": count,
        "message_template_count": len(templates),
        "message_template_limit": MAX_TEMPLATES,
        "are_translations_complete": True,
    }
    return {"summary": {key: told[key] for key in told if key in asked}} if asked else {}

"""The simulated business account's templates, and their listing with cursors.

`paging.next` is there only when more follows, and keeps the filters; `cursors.after` is there on the last page too.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import urlencode

from attrs import frozen

DEFAULT_LIMIT = 25
MAX_LIMIT = 1000


class BadQueryError(ValueError):
    """A listing that cannot be given; the text says why."""


@frozen
class SimTemplate:
    """One template in one language; `parameters` is how many its body needs, `header_parameters` its header."""

    name: str
    language: str
    status: str = "APPROVED"
    category: str = "UTILITY"
    parameters: int = 0
    header_parameters: int = 0

    def as_json(self, number: int) -> dict[str, Any]:
        """The template as the API lists it."""
        components = [_component("BODY", self.parameters)]
        if self.header_parameters:
            components.insert(0, {**_component("HEADER", self.header_parameters), "format": "TEXT"})
        return {
            "name": self.name,
            "parameter_format": "POSITIONAL",
            "components": components,
            "language": self.language,
            "status": self.status,
            "category": self.category,
            "id": str(1_000_000_000_000_000 + number),
        }


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


def _limit(text: str) -> int:
    if not re.fullmatch(r"[0-9]{1,9}", text) or int(text) == 0:
        raise BadQueryError("Param limit must be a positive number")
    return min(MAX_LIMIT, int(text))


def _matching(templates: Sequence[SimTemplate], query: Mapping[str, str]) -> list[dict[str, Any]]:
    return [
        template.as_json(number)
        for number, template in enumerate(templates)
        if query.get("status", template.status).upper() == template.status
        and query.get("name", template.name) == template.name
        and query.get("language", template.language) == template.language
        and query.get("category", template.category).upper() == template.category
    ]


def listing(templates: Sequence[SimTemplate], query: Mapping[str, str], url: str) -> dict[str, Any]:
    """One page of what the query asks for; raises `BadQueryError`."""
    rows = _matching(templates, query)
    limit = _limit(query.get("limit") or str(DEFAULT_LIMIT))
    if query.get("before"):
        end = min(_position(query["before"]), len(rows))
        start = max(0, end - limit)
    else:
        start = min(_position(query["after"]), len(rows)) if query.get("after") else 0
        end = min(start + limit, len(rows))
    if start == end:
        return {"data": []}
    fields = {name.strip() for name in query.get("fields", "").split(",") if name.strip()}
    page = [{key: row[key] for key in row if not fields or key in fields or key == "id"} for row in rows[start:end]]
    paging: dict[str, Any] = {"cursors": {"before": _cursor(start), "after": _cursor(end)}}
    if end < len(rows):
        kept = {key: value for key, value in query.items() if key != "before"}
        paging["next"] = f"{url}?{urlencode({**kept, 'limit': limit, 'after': _cursor(end)})}"
    return {"data": page, "paging": paging}

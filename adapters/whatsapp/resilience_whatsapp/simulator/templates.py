"""The simulated business account's templates, and their listing with cursors."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from typing import Any

from attrs import frozen

MAX_LIMIT = 1000


@frozen
class SimTemplate:
    """One template in one language; `parameters` is what its body needs."""

    name: str
    language: str
    status: str = "APPROVED"
    category: str = "UTILITY"
    parameters: int = 0

    def as_json(self, number: int) -> dict[str, Any]:
        """The template as the API lists it."""
        text = "Bonjour" + "".join(f" {{{{{index}}}}}" for index in range(1, self.parameters + 1))
        body: dict[str, Any] = {"type": "BODY", "text": text}
        if self.parameters:
            body["example"] = {"body_text": [["x"] * self.parameters]}
        return {
            "name": self.name,
            "parameter_format": "POSITIONAL",
            "components": [body],
            "language": self.language,
            "status": self.status,
            "category": self.category,
            "id": str(1_000_000_000_000_000 + number),
        }


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


def _position(cursor: str | None) -> int:
    if cursor is None:
        return 0
    try:
        return int(base64.urlsafe_b64decode(cursor.encode()).decode().removeprefix("at:"))
    except ValueError:
        return 0


def listing(templates: Sequence[SimTemplate], query: Mapping[str, str], url: str) -> dict[str, Any]:
    """One page; `paging.next` is there only when more follows, `cursors.after` always."""
    rows = [
        template.as_json(number)
        for number, template in enumerate(templates)
        if query.get("status", template.status).upper() == template.status
        and query.get("name", template.name) == template.name
        and query.get("language", template.language) == template.language
        and query.get("category", template.category).upper() == template.category
    ]
    limit = min(MAX_LIMIT, max(1, int(query["limit"]))) if query.get("limit", "").isdigit() else 25
    if "before" in query:
        end = _position(query["before"])
        start = max(0, end - limit)
    else:
        start = _position(query.get("after"))
        end = start + limit
    page = rows[start:end]
    fields = [name.strip() for name in query.get("fields", "").split(",") if name.strip()]
    if fields:
        page = [{key: row[key] for key in row if key in fields or key == "id"} for row in page]
    paging: dict[str, Any] = {"cursors": {"before": _cursor(start), "after": _cursor(start + len(page))}}
    if end < len(rows):
        paging["next"] = f"{url}?limit={limit}&after={_cursor(end)}"
    return {"data": page, "paging": paging} if rows else {"data": []}

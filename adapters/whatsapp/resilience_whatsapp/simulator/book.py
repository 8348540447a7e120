"""The simulator's book: what it accepted, whether the answer was delivered, and how many requests came.

It is the truth that a client's records are compared with. Entries stand in the order of acceptance; a wamid is never
given twice, not even after `clear()`.
"""

from __future__ import annotations

import base64
from collections import Counter
from typing import Any

from attrs import asdict, define, field


@define
class Entry:
    """One accepted message."""

    wamid: str
    recipient: str
    type: str
    template: str | None
    opaque: str | None
    """`biz_opaque_callback_data` of the request."""
    request: int
    """Number of the HTTP request that brought it, from 1, in the order of arrival."""
    answered: bool = False
    """Whether an answer with the wamid was given to a client that was still there."""
    phone_number_id: str = ""
    at: float = 0.0
    """The API's time of acceptance."""


@define
class Book:
    """All accepted messages in order, and all requests by route."""

    entries: list[Entry] = field(factory=list)
    requests: Counter[str] = field(factory=Counter)
    _issued: int = 0

    def arrive(self, route: str) -> int:
        """Count a request, whatever becomes of it; gives its number."""
        self.requests[route] += 1
        return self.requests.total()

    def accept(self, payload: dict[str, Any], request: int, phone_number_id: str, at: float) -> Entry:
        """Book the message that `request` brought."""
        self._issued += 1
        wamid = "wamid." + base64.b64encode(f"\x1d\x05\x02\x11sim{self._issued:010d}".encode()).decode()
        template = payload.get("template")
        entry = Entry(
            wamid=wamid,
            recipient=payload.get("to") or payload["recipient"],
            type=payload.get("type", "text"),
            template=template["name"] if isinstance(template, dict) else None,
            opaque=payload.get("biz_opaque_callback_data"),
            request=request,
            phone_number_id=phone_number_id,
            at=at,
        )
        self.entries.append(entry)
        return entry

    def by_opaque(self) -> dict[str, list[Entry]]:
        """Entries by their opaque id; those without one are left out."""
        found: dict[str, list[Entry]] = {}
        for entry in self.entries:
            if entry.opaque is not None:
                found.setdefault(entry.opaque, []).append(entry)
        return found

    def duplicates(self) -> dict[str, int]:
        """Opaque ids that were booked more than once, and how often."""
        return {opaque: len(entries) for opaque, entries in self.by_opaque().items() if len(entries) > 1}

    def as_json(self) -> dict[str, Any]:
        """The book as the admin route shows it."""
        return {
            "entries": [asdict(entry) for entry in self.entries],
            "requests": dict(self.requests),
            "duplicates": self.duplicates(),
        }

    def clear(self) -> None:
        """Forget everything."""
        self.entries.clear()
        self.requests.clear()

"""The simulator's book: what it accepted, whether the answer was delivered, and how many requests came.

It is the truth that a client's records are compared with. Entries stand in the order of acceptance; a wamid is never
given twice, not even after `clear()`.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections import Counter
from collections.abc import Callable
from typing import Any, Literal, TypeAlias

from attrs import asdict, define, field

BusinessKey: TypeAlias = "Callable[[dict[str, Any]], str | None]"
"""What a message stands for in the business, told from its payload; None when it stands for nothing of its own."""


RecipientType: TypeAlias = Literal["number", "user_id", "group"]


def recipient_type_of(payload: dict[str, Any]) -> RecipientType:
    """To whom a message goes that was not refused."""
    if not payload.get("to"):
        return "user_id"
    return "group" if payload.get("recipient_type") == "group" else "number"


def content_key(payload: dict[str, Any]) -> str:
    """A digest of recipient and content: two messages with the same one say the same to the same user."""
    content = {key: value for key, value in payload.items() if key != "biz_opaque_callback_data"}
    return hashlib.blake2b(json.dumps(content, sort_keys=True).encode(), digest_size=8).hexdigest()


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
    key: str | None = None
    """What it stands for in the business."""
    failed: int | None = None
    """The code with which it fails by webhook."""
    end: str | None = None
    """The last status that it gets."""
    category: str | None = None
    """Of its template."""
    recipient_type: RecipientType = "number"
    """What `recipient` is: the number of a user, a business-scoped user id, or a group."""


@define
class Book:
    """All accepted messages in order, and all requests by route."""

    entries: list[Entry] = field(factory=list)
    requests: Counter[str] = field(factory=Counter)
    business_key: BusinessKey = content_key
    _issued: int = 0
    _arrived: int = 0

    def arrive(self, route: str) -> int:
        """Count a request, whatever becomes of it; gives its number."""
        self.requests[route] += 1
        self._arrived += 1
        return self._arrived

    def wamid(self) -> str:
        """A new one."""
        self._issued += 1
        return "wamid." + base64.b64encode(f"\x1d\x05\x02\x11sim{self._issued:010d}".encode()).decode()

    def accept(
        self, payload: dict[str, Any], request: int, phone_number_id: str, at: float, category: str | None = None
    ) -> Entry:
        """Book the message that `request` brought."""
        template = payload.get("template")
        entry = Entry(
            wamid=self.wamid(),
            recipient=payload.get("to") or payload["recipient"],
            type=payload.get("type", "text"),
            template=template["name"] if isinstance(template, dict) else None,
            opaque=payload.get("biz_opaque_callback_data"),
            request=request,
            phone_number_id=phone_number_id,
            at=at,
            key=self.business_key(payload),
            category=category,
            recipient_type=recipient_type_of(payload),
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
        counts = Counter(entry.opaque for entry in self.entries)
        return {opaque: count for opaque, count in counts.items() if opaque is not None and count > 1}

    def as_json(self, first: int = 0, limit: int | None = None) -> dict[str, Any]:
        """The book as the steering route shows it: all entries, or at most `limit` of them from number `first` on."""
        shown = self.entries[first : None if limit is None else first + limit]
        return {
            "entries": [asdict(entry, recurse=False) for entry in shown],
            "accepted": len(self.entries),
            "requests": dict(self.requests),
            "duplicates": self.duplicates(),
        }

    def copy(self) -> Book:
        """The book as it is now, for a thread that reads it: the entries are the same, the list is another one."""
        return Book(list(self.entries), Counter(self.requests), self.business_key)

    def clear(self) -> None:
        """Forget everything."""
        self.entries.clear()
        self.requests.clear()
        self._arrived = 0

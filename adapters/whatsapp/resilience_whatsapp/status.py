"""What the API says of a sending number and of the business account: quality, limits, and whether messages can be sent.

Reading it sends nothing and costs nothing. It tells why a number cannot send (payment, policy, registration), not
whether the way that messages take is up.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from attrs import field, frozen

from resilience_whatsapp._envelope import Wait, content_of, number_of, text_of
from resilience_whatsapp.errors import AmbiguousOutcomeError, GraphError, graph_error
from resilience_whatsapp.records import mask_recipient

__all__ = [
    "NUMBER_FIELDS",
    "EntityHealth",
    "Health",
    "NumberStatus",
    "health_of",
    "number_status_of",
    "read_health",
    "read_number_status",
]

NUMBER_FIELDS = (
    "display_phone_number",
    "verified_name",
    "status",
    "quality_rating",
    "throughput",
    "health_status",
    "whatsapp_business_manager_messaging_limit",
    "name_status",
    "code_verification_status",
)
"""What is asked of a number."""


@frozen
class EntityHealth:
    """Whether one of the things that a message needs is in order: number, template, account, business, app."""

    entity_type: str
    """`PHONE_NUMBER`, `MESSAGE_TEMPLATE`, `WABA`, `BUSINESS` or `APP`."""
    id: str | None
    can_send_message: str | None
    """`AVAILABLE`, `LIMITED` or `BLOCKED`."""
    errors: tuple[GraphError, ...] = ()
    """Why not, typed as errors of answers."""


@frozen
class Health:
    """Whether messages can be sent, and what stands in the way."""

    can_send_message: str | None
    """`AVAILABLE`, `LIMITED` or `BLOCKED`; None where the API does not tell."""
    entities: tuple[EntityHealth, ...] = ()

    @property
    def blocked(self) -> bool:
        """Whether nothing can be sent."""
        return self.can_send_message == "BLOCKED"


@frozen
class NumberStatus:
    """What the API says of the sending number; None for what it does not tell."""

    id: str
    display_phone_number: str | None = field(repr=lambda value: "None" if value is None else mask_recipient(value))
    verified_name: str | None
    status: str | None
    quality_rating: str | None
    """`GREEN`, `YELLOW`, `RED` or `UNKNOWN`."""
    throughput: str | None
    """`STANDARD` (80 messages per second), `HIGH` (1,000) or `NOT_APPLICABLE`."""
    messaging_limit: str | None
    """How many users may be written to in 24 hours outside their service windows: `TIER_250`, ..."""
    name_status: str | None
    code_verification_status: str | None
    health: Health | None


def read_number_status(status: int, body: bytes, wait: Wait = None) -> NumberStatus:
    """The status in an answer about a number, or the error that it means."""
    return number_status_of(content_of(status, body, wait), status)


def number_status_of(content: Mapping[str, Any], status: int = 200) -> NumberStatus:
    """The status in what the API says of a number."""
    number = text_of(content, "id")
    if number is None:
        raise AmbiguousOutcomeError(status, "an answer about no number")
    return NumberStatus(
        id=number,
        display_phone_number=text_of(content, "display_phone_number"),
        verified_name=text_of(content, "verified_name"),
        status=text_of(content, "status"),
        quality_rating=text_of(content, "quality_rating"),
        throughput=text_of(content.get("throughput"), "level"),
        messaging_limit=text_of(content, "whatsapp_business_manager_messaging_limit"),
        name_status=text_of(content, "name_status"),
        code_verification_status=text_of(content, "code_verification_status"),
        health=health_of(content),
    )


def read_health(status: int, body: bytes, wait: Wait = None) -> Health:
    """The health in an answer about any object, or the error that it means."""
    health = health_of(content_of(status, body, wait))
    if health is None:
        raise AmbiguousOutcomeError(status, "an answer without health_status")
    return health


def health_of(content: Mapping[str, Any]) -> Health | None:
    """The health in what the API says of any object; None where it says nothing of it."""
    told = content.get("health_status")
    if not isinstance(told, dict):
        return None
    rows = told.get("entities")
    entities = (_entity(row) for row in rows) if isinstance(rows, list) else ()
    return Health(text_of(told, "can_send_message"), tuple(each for each in entities if each is not None))


def _entity(row: Any) -> EntityHealth | None:
    kind = text_of(row, "entity_type")
    if kind is None:
        return None
    rows = row.get("errors")
    told = [each for each in rows if isinstance(each, dict)] if isinstance(rows, list) else []
    errors = tuple(graph_error(number_of(each.get("error_code")), None, False, None) for each in told)
    return EntityHealth(kind, text_of(row, "id"), text_of(row, "can_send_message"), errors)

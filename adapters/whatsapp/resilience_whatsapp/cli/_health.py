"""What the API says of the health of a number, an account or a template, for people and as plain values."""

from __future__ import annotations

from typing import Any

from resilience_whatsapp.status import Health


def health_as_json(health: Health | None) -> dict[str, Any] | None:
    """The health as plain values."""
    if health is None:
        return None
    entities = [
        {
            "entity_type": each.entity_type,
            "id": each.id,
            "can_send_message": each.can_send_message,
            "errors": [error.code for error in each.errors],
        }
        for each in health.entities
    ]
    return {"can_send_message": health.can_send_message, "entities": entities}


def troubles(health: Health | None) -> list[str]:
    """What stands in the way, a line for each."""
    found: list[str] = []
    for entity in () if health is None else health.entities:
        if entity.can_send_message in ("LIMITED", "BLOCKED"):
            codes = ", ".join(f"code {error.code}" for error in entity.errors) or "no reason told"
            found.append(f"{entity.entity_type} is {entity.can_send_message} ({codes})")
    return found


def is_blocked(health: Health | None) -> bool:
    """Whether the API says that nothing can be sent."""
    return health is not None and health.blocked

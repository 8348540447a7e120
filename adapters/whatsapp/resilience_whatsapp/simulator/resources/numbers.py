"""`GET /{phone-number-id}`: what the API says of a sending number."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from resilience_whatsapp.simulator.routing import Call, Outcome, Route, fields_of
from resilience_whatsapp.simulator.world import Number

if TYPE_CHECKING:
    from resilience_whatsapp.simulator.api import GraphApi


def routes(api: GraphApi) -> list[Route]:
    """The number itself."""
    return [Route("GET", "", "phone_number", api.world.numbers.get, _node)]


def _node(call: Call, number: Number) -> Outcome:
    node: dict[str, Any] = {
        "verified_name": "Simulator",
        "code_verification_status": "VERIFIED",
        "display_phone_number": number.digits,
        "quality_rating": number.quality,
        "platform_type": "CLOUD_API",
        "throughput": {"level": number.throughput_level},
        "id": number.id,
    }
    return fields_of(call, node)

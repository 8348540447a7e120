"""`GET /{phone-number-id}`: what the API says of a sending number; `register` and `deregister` make it send or not."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from resilience_whatsapp.simulator.envelopes import Refusal, required
from resilience_whatsapp.simulator.routing import Call, Outcome, Route, fields_of
from resilience_whatsapp.simulator.state import health
from resilience_whatsapp.simulator.state.world import Number

if TYPE_CHECKING:
    from resilience_whatsapp.simulator.api import GraphApi


def routes(api: GraphApi) -> list[Route]:
    """The number itself."""
    find = api.world.numbers.get
    return [
        Route("GET", "", "phone_number", find, lambda call, number: node_of(api, call, number)),
        Route("POST", "register", "register", find, _register),
        Route("POST", "deregister", "register", find, _deregister),
    ]


def node_of(api: GraphApi, call: Call, number: Number) -> dict[str, Any]:
    """A number, with the usual fields or those that are asked for."""
    standing = number.standing
    node: dict[str, Any] = {
        "verified_name": standing.verified_name,
        "code_verification_status": standing.code_verification_status,
        "display_phone_number": number.digits,
        "quality_rating": number.quality,
        "platform_type": "CLOUD_API",
        "throughput": {"level": number.throughput_level},
        "id": number.id,
    }
    more = {
        "status": "CONNECTED" if standing.registered else "DISCONNECTED",
        "name_status": standing.name_status,
        "account_mode": "LIVE",
        "health_status": health.of_number(number, call.token, api.clock.now()),
        "whatsapp_business_manager_messaging_limit": api.messaging_tier,
    }
    return fields_of(call, node, more)


def _register(call: Call, number: Number) -> Outcome:
    body = call.body if isinstance(call.body, dict) else {}
    if body.get("messaging_product") != "whatsapp":
        return required("messaging_product")
    if not re.fullmatch(r"[0-9]{6}", str(body.get("pin", ""))):
        return Refusal(100, message="Invalid PIN format. PIN must be exactly 6 digits")
    number.standing.registered = number.standing.certificate = True
    return {"success": True}


def _deregister(call: Call, number: Number) -> Outcome:
    number.standing.registered = False
    return {"success": True}

"""`POST /{phone-number-id}/messages`: a message is checked, booked and answered; or a message is marked as read."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from resilience_whatsapp.simulator.routing import Call, Outcome, Route, Taken
from resilience_whatsapp.simulator.standing import MESSAGING
from resilience_whatsapp.simulator.validation import Rules, digits_of, refusal_of
from resilience_whatsapp.simulator.world import Number

if TYPE_CHECKING:
    from resilience_whatsapp.simulator.api import GraphApi


def routes(api: GraphApi) -> list[Route]:
    """The sending."""
    return [
        Route(
            "POST",
            "messages",
            "messages",
            api.world.numbers.get,
            _Sending(api).answer,
            limit="none",
            permission=MESSAGING,
        )
    ]


class _Sending:
    def __init__(self, api: GraphApi) -> None:
        self._api = api

    def answer(self, call: Call, number: Number) -> Outcome:
        api, payload = self._api, call.body
        rules = Rules(
            number.account.templates,
            number.digits,
            api.allowed_recipients,
            api.missing_template_status,
            call.version,
            lambda kind, content: api.media.refusal_of(kind, content, number, api.clock.now()),
        )
        refused = refusal_of(payload, rules)
        if refused is not None:
            return refused
        if payload.get("status") == "read":
            return {"success": True}
        entry = api.book.accept(payload, call.number, number.id, api.clock.now())
        message = {"id": entry.wamid}
        if entry.type == "template":
            message["message_status"] = "accepted"
        return Taken(
            {"messaging_product": "whatsapp", "contacts": [_contact(payload)], "messages": [message]},
            entry,
        )


def _contact(payload: dict[str, Any]) -> dict[str, str]:
    to = payload.get("to")
    if to:
        return {"input": to, "wa_id": digits_of(to)}
    return {"input": payload["recipient"], "user_id": payload["recipient"]}

"""`POST /{phone-number-id}/messages`: a message is checked, booked and answered; or a message is marked as read."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from resilience_whatsapp.simulator.book import recipient_type_of
from resilience_whatsapp.simulator.envelopes import Refusal
from resilience_whatsapp.simulator.events import Party
from resilience_whatsapp.simulator.routing import Call, Outcome, Route, Taken
from resilience_whatsapp.simulator.validation import Rules, refusal_of
from resilience_whatsapp.simulator.world import Number

if TYPE_CHECKING:
    from resilience_whatsapp.simulator.api import GraphApi


def routes(api: GraphApi) -> list[Route]:
    """The sending."""
    return [Route("POST", "messages", "messages", api.world.numbers.get, _Sending(api).answer, limit="none")]


class _Sending:
    def __init__(self, api: GraphApi) -> None:
        self._api = api

    def answer(self, call: Call, number: Number) -> Outcome:
        api, payload = self._api, call.body
        rules = Rules(number.account.templates, number.digits, api.allowed_recipients, api.missing_template_status)
        refused = refusal_of(payload, rules)
        if refused is not None:
            return refused
        if payload.get("status") == "read":
            return {"success": True}
        user = _recipient(payload).key
        now = api.clock.now()
        refused = self._refused(payload, number, user, now)
        if refused is not None:
            return refused
        category = _category(payload, rules)
        entry = api.book.accept(payload, call.number, number.id, now, category)
        if category == "MARKETING" and api.limiter.marketing(user, now):
            entry.failed = 131049
        fails = api.faults.next("messages", "outcome", user, number.id)
        if fails is not None:
            entry.failed = fails.code
        before = api.stories.begin(entry, number)
        message = {"id": entry.wamid}
        if entry.type == "template":
            message["message_status"] = "accepted"
        if entry.recipient_type == "group":
            message["group_id"] = user
        answer = {"messaging_product": "whatsapp", "contacts": [_contact(payload, user)], "messages": [message]}
        return Taken(answer, entry, before)

    def _refused(self, payload: dict[str, Any], number: Number, user: str, now: float) -> Refusal | None:
        api = self._api
        blocked = number.blocked(now)
        if blocked is not None:
            return Refusal(blocked.code)
        to_group = recipient_type_of(payload) == "group"
        cold = not to_group and not api.inbox.is_open(number, user)
        if cold and api.service_window and payload.get("type") != "template":
            return Refusal(
                131047,
                "Message failed to send because more than 24 hours have passed since the customer last replied to "
                "this number.",
            )
        return api.limiter.send(number, user, now, cold=cold, to_group=to_group, flow=_flow(payload))


def _recipient(payload: dict[str, Any]) -> Party:
    return Party.of(payload.get("to") or payload["recipient"], recipient_type_of(payload))


def _contact(payload: dict[str, Any], user: str) -> dict[str, str]:
    to = payload.get("to")
    return {"input": to, "wa_id": user} if to else {"input": user, "user_id": user}


def _category(payload: dict[str, Any], rules: Rules) -> str | None:
    if payload.get("type") != "template":
        return None
    content = payload["template"]
    found = rules.template(content["name"], content["language"]["code"])
    return None if found is None else found.category


def _flow(payload: dict[str, Any]) -> str | None:
    """The flow that a message opens."""
    at: Any = payload.get("interactive")
    for key in ("action", "parameters", "flow_id"):
        at = at.get(key) if isinstance(at, dict) else None
    return at if isinstance(at, str) else None

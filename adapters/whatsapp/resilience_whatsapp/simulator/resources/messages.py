"""`POST /{phone-number-id}/messages`: a message is checked, booked and answered; or a message is marked as read.

`marketing_messages` is the same for marketing templates.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from resilience_whatsapp.simulator.book import recipient_type_of
from resilience_whatsapp.simulator.envelopes import Refusal
from resilience_whatsapp.simulator.routing import Call, Outcome, Route, Taken
from resilience_whatsapp.simulator.state.standing import MESSAGING
from resilience_whatsapp.simulator.state.world import Number
from resilience_whatsapp.simulator.templates.definitions import SimTemplate
from resilience_whatsapp.simulator.validation import Rules, refusal_of
from resilience_whatsapp.simulator.webhooks.events import Party

if TYPE_CHECKING:
    from resilience_whatsapp.simulator.api import GraphApi

SYNCING = 600.0
"""Seconds after its approval in which a template cannot be sent as a marketing message."""


def routes(api: GraphApi) -> list[Route]:
    """The sending, of all messages and of marketing messages."""
    sending, numbers = _Sending(api), api.world.numbers.get
    return [
        Route("POST", "messages", "messages", numbers, sending.answer, limit="none", permission=MESSAGING),
        Route(
            "POST",
            "marketing_messages",
            "marketing_messages",
            numbers,
            sending.market,
            limit="none",
            permission=MESSAGING,
        ),
    ]


class _Sending:
    def __init__(self, api: GraphApi) -> None:
        self._api = api

    def answer(self, call: Call, number: Number) -> Outcome:
        written, rules = call.body, self._rules(call, number)
        refused = self._invalid(call, rules)
        if refused is not None:
            return refused
        if call.body.get("status") == "read":
            return {"success": True}
        template = _template(call.body, rules)
        to_marketing = (
            template is not None and template.category == "MARKETING" and not number.account.standing.marketing
        )
        return Refusal(131063) if to_marketing else self._taken(call, number, template, written)

    def market(self, call: Call, number: Number) -> Outcome:
        """The Marketing Messages API: for marketing templates only, 10 minutes after they were approved."""
        written, rules = call.body, self._rules(call, number)
        refused = self._invalid(call, rules)
        if refused is not None:
            return refused
        template = None if call.body.get("status") == "read" else _template(call.body, rules)
        if template is None or template.category != "MARKETING":
            return Refusal(134100)
        if not number.account.standing.marketing_api:
            return Refusal(134102)
        if template.approved_at is not None and self._api.clock.now() < template.approved_at + SYNCING:
            return Refusal(134101)
        outcome = self._taken(call, number, template, written)
        if isinstance(outcome, Taken):
            outcome.content["success"] = True
        return outcome

    def _invalid(self, call: Call, rules: Rules) -> Refusal | None:
        """Why the message is refused; from then on the call has it as it is addressed."""
        call.body = self._addressed(call.body)
        return refusal_of(call.body, rules)

    def _addressed(self, body: Any) -> Any:
        """The message with its recipient as an international number: see `country_code` of `Simulator`."""
        country, to = self._api.country_code, body.get("to") if isinstance(body, dict) else None
        if country is None or not isinstance(to, str) or to[:1] in ("", "+") or body.get("recipient_type") == "group":
            return body
        return {**body, "to": f"+{country}{to}"}

    def _rules(self, call: Call, number: Number) -> Rules:
        api = self._api
        return Rules(
            number.account.templates,
            number.digits,
            api.allowed_recipients,
            api.missing_template_status,
            call.version,
            lambda kind, content: api.media.refusal_of(kind, content, number, api.clock.now()),
        )

    def _taken(self, call: Call, number: Number, template: SimTemplate | None, written: dict[str, Any]) -> Outcome:
        api, payload = self._api, call.body
        user = _recipient(payload).key
        now = api.clock.now()
        refused = number.refusal_of(payload) or self._refused(payload, number, user, now)
        if refused is not None:
            return refused
        category = None if template is None else template.category
        entry = api.book.accept(payload, call.number, number.id, now, category)
        if category == "MARKETING" and api.limiter.marketing(user, now):
            entry.failed = 131049
        if number.account.standing.payment == "fails_later":
            entry.failed = 131042
        fails = api.faults.next("messages", "outcome", user, number.id)
        if fails is not None:
            entry.failed = fails.code
        before = api.stories.begin(entry, number)
        message = {"id": entry.wamid}
        if entry.type == "template":
            message["message_status"] = "accepted"
        if entry.recipient_type == "group":
            message["group_id"] = user
        answer = {"messaging_product": "whatsapp", "contacts": [_contact(written, user)], "messages": [message]}
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


def _template(payload: dict[str, Any], rules: Rules) -> SimTemplate | None:
    """The template of a message that was not refused."""
    if payload.get("type") != "template":
        return None
    content = payload["template"]
    return rules.template(content["name"], content["language"]["code"])


def _flow(payload: dict[str, Any]) -> str | None:
    """The flow that a message opens."""
    at: Any = payload.get("interactive")
    for key in ("action", "parameters", "flow_id"):
        at = at.get(key) if isinstance(at, dict) else None
    return at if isinstance(at, str) else None

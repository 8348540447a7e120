"""Templates one by one: `POST` and `DELETE /{waba-id}/message_templates`, `GET` and `POST /{template-id}`."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from aiohttp import web

from resilience_whatsapp.simulator import wire
from resilience_whatsapp.simulator.routing import Call, Outcome, Route, asked_of
from resilience_whatsapp.simulator.state import health
from resilience_whatsapp.simulator.state.world import Account
from resilience_whatsapp.simulator.templates.life import InAccount, TemplateChange, find

if TYPE_CHECKING:
    from resilience_whatsapp.simulator.api import GraphApi


def routes(api: GraphApi) -> list[Route]:
    """Creation, deletion, and the template itself."""
    templates = _Templates(api)
    accounts = api.world.accounts.get
    return [
        Route("POST", "message_templates", "template", accounts, templates.create, read=_content),
        Route("DELETE", "message_templates", "template", accounts, templates.delete),
        Route("GET", "", "template", templates.find, templates.node),
        Route("POST", "", "template", templates.find, templates.edit, read=_content),
        Route("POST", "unpause", "template", templates.find, templates.unpause),
    ]


async def _content(request: web.Request) -> Any:
    """The body. Some clients send it as a JSON text within JSON."""
    body = await wire.json_of(request)
    if isinstance(body, str):
        try:
            return json.loads(body)
        except (ValueError, RecursionError):
            return None
    return body


class _Templates:
    def __init__(self, api: GraphApi) -> None:
        self._api = api

    def find(self, template_id: str) -> InAccount | None:
        for account in self._api.world.accounts.values():
            template = find(account, template_id)
            if template is not None:
                return InAccount(template, account)
        return None

    def create(self, call: Call, account: Account) -> Outcome:
        return self._api.template_life.create(account, call.body)

    def edit(self, call: Call, found: InAccount) -> Outcome:
        return self._api.template_life.edit(found, call.body)

    def delete(self, call: Call, account: Account) -> Outcome:
        return self._api.template_life.delete(account, call.request.query)

    def unpause(self, call: Call, found: InAccount) -> Outcome:
        template = found.template
        if template.status != "PAUSED":
            return {"success": False, "reason": "The template is not paused"}
        self._api.template_life.change(found.account, template.name, template.language, TemplateChange("APPROVED"))
        return {"success": True}

    def node(self, call: Call, found: InAccount) -> Outcome:
        asked = asked_of(call)
        node = found.template.as_json(found.account.id, asked)
        if "health_status" in asked:
            status = health.of_template(found.template, found.account, call.token, self._api.clock.now())
            node["health_status"] = status
        return node

"""`GET /{waba-id}/message_templates`: the templates of an account, page by page."""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING

from aiohttp import web

from resilience_whatsapp.simulator import wire
from resilience_whatsapp.simulator.envelopes import Refusal
from resilience_whatsapp.simulator.routing import Call, Outcome, Route
from resilience_whatsapp.simulator.state.world import Account
from resilience_whatsapp.simulator.templates.definitions import BadQueryError, listing

if TYPE_CHECKING:
    from resilience_whatsapp.simulator.api import GraphApi


def routes(api: GraphApi) -> list[Route]:
    """The listing."""
    return [Route("GET", "message_templates", "message_templates", api.world.accounts.get, _listed)]


def _listed(call: Call, account: Account) -> Outcome:
    try:
        page = listing(
            account.templates, call.request.query, wire.origin_of(call.request) + call.request.path, account.id
        )
    except BadQueryError as error:
        return Refusal(100, str(error))
    # The API is known to send an ETag; that it would answer 304 is a guess, which a client must not rely on.
    tag = f'"{hashlib.sha256(json.dumps(page).encode()).hexdigest()[:32]}"'
    if call.request.headers.get("If-None-Match") == tag:
        return web.Response(status=304, headers={"ETag": tag})
    return web.json_response(page, headers={"ETag": tag})

"""`GET /{waba-id}/message_templates`: the templates of an account, page by page."""

from __future__ import annotations

from typing import TYPE_CHECKING

from resilience_whatsapp.simulator.envelopes import Refusal
from resilience_whatsapp.simulator.routing import Call, Outcome, Route
from resilience_whatsapp.simulator.templates import BadQueryError, listing
from resilience_whatsapp.simulator.world import Account

if TYPE_CHECKING:
    from resilience_whatsapp.simulator.api import GraphApi


def routes(api: GraphApi) -> list[Route]:
    """The listing."""
    return [Route("GET", "message_templates", "message_templates", api.world.accounts.get, _listed)]


def _listed(call: Call, account: Account) -> Outcome:
    try:
        return listing(account.templates, call.request.query, str(call.request.url.with_query(None)), account.id)
    except BadQueryError as error:
        return Refusal(100, str(error))

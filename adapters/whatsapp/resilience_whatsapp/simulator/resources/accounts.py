"""`GET /{waba-id}`: what the API says of a business account, and `GET /{waba-id}/phone_numbers`: its numbers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from resilience_whatsapp.simulator.resources.numbers import node_of
from resilience_whatsapp.simulator.routing import Call, Outcome, Route, fields_of
from resilience_whatsapp.simulator.state import health
from resilience_whatsapp.simulator.state.world import Account

if TYPE_CHECKING:
    from resilience_whatsapp.simulator.api import GraphApi


def routes(api: GraphApi) -> list[Route]:
    """The account itself, and its numbers."""
    accounts = _Accounts(api)
    find = api.world.accounts.get
    return [
        Route("GET", "", "account", find, accounts.node),
        Route("GET", "phone_numbers", "phone_numbers", find, accounts.numbers),
    ]


class _Accounts:
    def __init__(self, api: GraphApi) -> None:
        self._api = api

    def node(self, call: Call, account: Account) -> Outcome:
        node = {
            "id": account.id,
            "name": account.standing.name,
            "timezone_id": "1",
            "message_template_namespace": f"simulator_{account.id}",
        }
        more = {
            "currency": "USD",
            "health_status": health.of_account(account, call.token, self._api.clock.now()),
            "owner_business_info": {"name": account.standing.name, "id": account.portfolio.id},
        }
        return fields_of(call, node, more)

    def numbers(self, call: Call, account: Account) -> Outcome:
        rows = [node_of(self._api, call, number) for number in account.numbers]
        return {"data": rows, "paging": {"cursors": {"before": "MAZDZD", "after": "MjQZD"}}} if rows else {"data": []}

"""`/{waba-id}/subscribed_apps`: which apps hear the webhooks of an account. `/me/permissions`: what a token may do.

The shapes are those of the Graph API at large: the documentation of WhatsApp names the calls alone.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from aiohttp import web

from resilience_whatsapp.simulator import versions
from resilience_whatsapp.simulator.envelopes import Refusal
from resilience_whatsapp.simulator.routing import Call, Outcome, Route
from resilience_whatsapp.simulator.state.world import Account

if TYPE_CHECKING:
    from resilience_whatsapp.simulator.api import GraphApi

_PERMISSIONS = r"/v{major:\d{1,4}}.{minor:\d{1,4}}/me/permissions"


def routes(api: GraphApi) -> list[Route]:
    """The subscriptions of an account."""
    find = api.world.accounts.get
    return [
        Route("GET", "subscribed_apps", "subscribed_apps", find, _listed),
        Route("POST", "subscribed_apps", "subscribed_apps", find, _subscribe),
        Route("DELETE", "subscribed_apps", "subscribed_apps", find, _unsubscribe),
    ]


def raw_routes(api: GraphApi) -> list[web.RouteDef]:
    """What a token may do: its path names no object."""

    async def permissions(request: web.Request) -> web.StreamResponse:
        return await api.serve_other(request, "permissions", lambda: _permissions(api, request))

    return [web.get(_PERMISSIONS, permissions)]


def _listed(call: Call, account: Account) -> Outcome:
    return {"data": [_row(app_id) for app_id in sorted(account.apps)]}


def _row(app_id: str) -> dict[str, Any]:
    link = f"https://www.facebook.com/games/?app_id={app_id}"
    return {"whatsapp_business_api_data": {"link": link, "name": "Simulator", "id": app_id}}


def _subscribe(call: Call, account: Account) -> Outcome:
    account.apps.add(call.token.app_id)
    return {"success": True}


def _unsubscribe(call: Call, account: Account) -> Outcome:
    account.apps.discard(call.token.app_id)
    return {"success": True}


def _permissions(api: GraphApi, request: web.Request) -> Outcome:
    version = int(request.match_info["major"]), int(request.match_info["minor"])
    token = versions.refusal_of(version) or api.token_of(request)
    if isinstance(token, Refusal):
        return token
    return {"data": [{"permission": name, "status": "granted"} for name in sorted(token.rights.permissions)]}

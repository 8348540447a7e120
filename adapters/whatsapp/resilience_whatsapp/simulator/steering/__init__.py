"""The routes under `/_sim`, with which other processes steer the simulator and ask it. `GET /_sim` lists them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from aiohttp import web

from resilience_whatsapp.simulator.steering import changes, runs

if TYPE_CHECKING:
    from resilience_whatsapp.simulator.server import Simulator


def routes(simulator: Simulator) -> list[web.RouteDef]:
    """All of them."""
    known = [*runs.routes(simulator), *changes.routes(simulator)]
    names = sorted({f"{route.method} {route.path}" for route in known}, key=lambda name: name.split()[::-1])

    async def listed(request: web.Request) -> web.Response:
        return web.json_response({"routes": names})

    async def unknown(request: web.Request) -> web.Response:
        return web.json_response({"error": "there is no such route; GET /_sim lists them"}, status=404)

    return [web.get("/_sim", listed), *known, web.route("*", "/_sim{rest:(/.*)?}", unknown)]

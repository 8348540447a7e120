"""The pages as an application of aiohttp; the only module here that imports it."""

from __future__ import annotations

import asyncio
from typing import cast

from aiohttp import web

from resilience_core.health._health import Asked, Health
from resilience_core.health._stream import PATIENCE

_LOOK = 0.25
"""Seconds between two looks whether the client is still there: aiohttp does not tell a handler."""


def application(health: Health) -> web.Application:
    """An application to be mounted with `add_subapp`, or served by itself."""

    async def handle(request: web.Request) -> web.StreamResponse:
        headers = {name.lower(): value for name, value in request.headers.items()}
        transport = request.transport  # None if it is gone already
        peer = None if transport is None else transport.get_extra_info("peername")
        client = peer[0] if isinstance(peer, tuple) else None  # not for a unix socket
        path = "/" + request.match_info.get("page", "")
        answer = health.answer(Asked(request.method, path, headers, client, request))
        if answer.stream is None:
            return web.Response(status=answer.status, headers=answer.headers, body=answer.body)
        response = web.StreamResponse(headers=answer.headers)
        try:
            await response.prepare(request)
            while (frame := await answer.stream.frame(_LOOK)) is not None and request.transport is not None:
                if frame:
                    async with asyncio.timeout(PATIENCE):
                        await response.write(frame)
        except TimeoutError:  # it takes nothing any more, not even that this is the end
            cast("asyncio.Transport", transport).abort()  # it was there, or nothing could have been written
        except ConnectionError:
            pass  # it went while we wrote
        finally:
            answer.stream.close()
        return response

    async def close(_: web.Application) -> None:
        health.close()

    app = web.Application()
    app.router.add_route("*", "/{page:.*}", handle)
    app.router.add_route("*", "", handle)
    app.on_shutdown.append(close)
    return app

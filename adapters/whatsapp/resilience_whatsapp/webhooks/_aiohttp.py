"""The receiver as a handler of aiohttp."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from aiohttp import web

from resilience_whatsapp.webhooks._read import MAX_WEBHOOK
from resilience_whatsapp.webhooks._receiver import WebhookReceiver

__all__ = ["aiohttp_application", "aiohttp_handler"]


def aiohttp_handler(receiver: WebhookReceiver) -> Callable[[web.Request], Awaitable[web.Response]]:
    """A handler for all methods of one address: `app.router.add_route("*", "/webhooks", aiohttp_handler(receiver))`.

    It reads at most 3 MiB by itself, whatever `client_max_size` of the application is. Start and close the receiver
    with the application.
    """

    async def handle(request: web.Request) -> web.Response:
        body = await _read(request)
        if body is None:
            answer = receiver.too_long()
        else:
            answer = await receiver.answer(request.method, request.query, request.headers, body)
        return web.Response(status=answer.status, text=answer.body, headers=answer.headers)

    return handle


def aiohttp_application(receiver: WebhookReceiver, path: str = "/") -> web.Application:
    """An application with this one address, which starts and closes the receiver; to be served, or mounted."""
    app = web.Application()
    app.router.add_route("*", path, aiohttp_handler(receiver))

    async def start(_: web.Application) -> None:
        await receiver.start()

    async def close(_: web.Application) -> None:
        await receiver.aclose()

    app.on_startup.append(start)
    app.on_cleanup.append(close)
    return app


async def _read(request: web.Request) -> bytes | None:
    if (request.content_length or 0) > MAX_WEBHOOK:
        return None
    parts: list[bytes] = []
    length = 0
    async for part in request.content.iter_any():
        length += len(part)
        if length > MAX_WEBHOOK:
            return None
        parts.append(part)
    return b"".join(parts)

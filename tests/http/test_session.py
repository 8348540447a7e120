"""A guarded aiohttp session against a real server on the loopback."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from io import BytesIO
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from resilience_core import CircuitBreaker, Pipeline, Retry
from resilience_http import HttpStatusError, ResilientSession, classify_exception


def guard(*, idempotent: bool) -> Pipeline:
    retry = Retry(base_delay=0, max_delay=0)
    return Pipeline(retry, CircuitBreaker("api"), classify=classify_exception, idempotent=idempotent)


@asynccontextmanager
async def client_of(handler: Any) -> AsyncIterator[ResilientSession]:
    app = web.Application()
    app.router.add_route("*", "/", handler)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    host, port = runner.addresses[0][:2]
    async with aiohttp.ClientSession(f"http://{host}:{port}") as session:
        yield ResilientSession(session, guard(idempotent=True), guard(idempotent=False))
    await runner.cleanup()


def test_idempotent_requests_are_repeated_and_others_are_not() -> None:
    async def story() -> None:
        seen: list[tuple[str, bytes]] = []

        async def handle(request: web.Request) -> web.Response:
            seen.append((request.method, await request.read()))
            return web.Response(status=502 if len(seen) < 3 else 200, text="ok")

        async with client_of(handle) as client:
            response = await client.request("PUT", "/", data=b"body")
            assert await response.text() == "ok"
            assert seen == [("PUT", b"body")] * 3
            seen.clear()
            with pytest.raises(HttpStatusError) as caught:
                await client.request("POST", "/", data=b"body")
            assert (caught.value.status, len(seen)) == (502, 1)
            assert client.resends == 0

    asyncio.run(story())


def test_a_body_that_can_be_sent_once_is_refused_and_a_function_is_called_anew() -> None:
    async def story() -> None:
        seen: list[bytes] = []

        async def handle(request: web.Request) -> web.Response:
            seen.append(await request.read())
            return web.Response(status=503 if len(seen) < 2 else 200)

        async def once() -> AsyncIterator[bytes]:
            yield b"x"

        async with client_of(handle) as client:
            for body in (BytesIO(b"x"), iter([b"x"]), once()):
                with pytest.raises(TypeError, match="makes it anew"):
                    await client.request("PUT", "/", data=body)
            await client.request("PUT", "/", data=lambda: BytesIO(b"stream"))
            assert seen == [b"stream"] * 2

    asyncio.run(story())


def test_redirects_are_not_followed() -> None:
    async def story() -> None:
        async def handle(request: web.Request) -> web.Response:
            raise web.HTTPFound("http://127.0.0.1:9/")

        async with client_of(handle) as client:
            with pytest.raises(HttpStatusError) as caught:
                await client.request("GET", "/")
            assert caught.value.status == 302

    asyncio.run(story())


def test_what_aiohttp_sends_again_by_itself_is_counted() -> None:
    async def story() -> None:
        requests = 0

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            """Answers once on each connection, and hangs up when the second request has arrived."""
            nonlocal requests
            await reader.readuntil(b"\r\n\r\n")
            requests += 1
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
            try:
                await reader.readuntil(b"\r\n\r\n")
                requests += 1
            except asyncio.IncompleteReadError:
                pass
            writer.close()

        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        async with aiohttp.ClientSession(f"http://127.0.0.1:{port}") as session:
            client = ResilientSession(session, guard(idempotent=True), guard(idempotent=False))
            for _ in range(2):
                response = await client.request("GET", "/")
                await response.read()
            assert (requests, client.resends) == (3, 1)
            with pytest.raises(aiohttp.ClientError):
                await (await client.request("POST", "/")).read()
            assert client.resends == 1
        server.close()

    asyncio.run(story())

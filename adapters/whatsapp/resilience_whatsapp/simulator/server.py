"""The HTTP side: routes, token check, faults, and the book.

POST /vN.M/{phone}/messages            GET /vN.M/{waba}/message_templates
POST /_sim/faults   DELETE /_sim/faults   GET /_sim/book   POST /_sim/reset
"""

from __future__ import annotations

import asyncio
import json
import socket
import struct
from collections.abc import Awaitable, Callable, Iterable, Sequence
from types import TracebackType
from typing import Any

from aiohttp import web

from resilience_whatsapp.simulator.book import Book
from resilience_whatsapp.simulator.envelopes import NO_TOKEN, Refusal, unknown_object
from resilience_whatsapp.simulator.faults import Fault, FaultError, Script
from resilience_whatsapp.simulator.templates import DEFAULT_TEMPLATES, SimTemplate, listing
from resilience_whatsapp.simulator.validation import refusal_of

TOKEN = "simulator-token"
PHONE_NUMBER_ID = "106540352242922"
WABA_ID = "102290129340398"
OWN_NUMBER = "15550783881"

Answer = Callable[[], Awaitable[web.StreamResponse]]


class Simulator:
    """A Graph API on the loopback; start it with `async with`.

    Args:
        host, port: where to listen; port 0 takes a free one.
        token: the only token that is accepted.
        phone_number_id, waba_id: the only objects that exist.
        templates: of the business account.
        allowed_recipients: digits of the only numbers that may be written to, as for a test number; default all.
    """

    def __init__(
        self,
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        token: str = TOKEN,
        phone_number_id: str = PHONE_NUMBER_ID,
        waba_id: str = WABA_ID,
        templates: Sequence[SimTemplate] = DEFAULT_TEMPLATES,
        allowed_recipients: Iterable[str] | None = None,
    ) -> None:
        self.host = host
        self.port = port
        self.token = token
        self.phone_number_id = phone_number_id
        self.waba_id = waba_id
        self.templates = list(templates)
        self.allowed_recipients = None if allowed_recipients is None else frozenset(allowed_recipients)
        self.book = Book()
        self._script = Script()
        self._runner: web.AppRunner | None = None
        self._site: web.TCPSite | None = None

    # --- steering it ---------------------------------------------------------------------------------------------

    @property
    def base_url(self) -> str:
        """Where it listens, without the version."""
        return f"http://{self.host}:{self.port}"

    def script(self, *faults: Fault) -> None:
        """Append faults; each is met by the next matching requests, in order."""
        self._script.add(faults)

    def clear_faults(self) -> None:
        """From now on all is well."""
        self._script.clear()

    async def start(self) -> None:
        """Begin to listen."""
        app = web.Application()
        app.router.add_post(r"/{version:v\d+\.\d+}/{object}/messages", self._messages)
        app.router.add_get(r"/{version:v\d+\.\d+}/{object}/message_templates", self._message_templates)
        app.router.add_post("/_sim/faults", self._add_faults)
        app.router.add_delete("/_sim/faults", self._delete_faults)
        app.router.add_get("/_sim/book", self._show_book)
        app.router.add_post("/_sim/reset", self._reset)
        # Handlers that hang on purpose must end with the connection, and must not delay the stop.
        self._runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0.1, access_log=None)
        await self._runner.setup()
        await self.start_listening()

    async def start_listening(self) -> None:
        """Accept connections (again), on the same port as before."""
        assert self._runner is not None, "start() first"
        self._site = web.TCPSite(self._runner, self.host, self.port, reuse_address=True)
        await self._site.start()
        if not self.port:
            self.port = self._runner.addresses[0][1]

    async def stop_listening(self) -> None:
        """Be dead: new connections are refused, and the open ones are reset."""
        assert self._runner is not None, "start() first"
        if self._site is not None:
            await self._site.stop()
            self._site = None
        server = self._runner.server
        for connection in list(server.connections) if server is not None else []:
            if connection.transport is not None:
                _reset_transport(connection.transport)

    async def stop(self) -> None:
        """End."""
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None

    async def __aenter__(self) -> Simulator:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.stop()

    # --- the API -------------------------------------------------------------------------------------------------

    async def _messages(self, request: web.Request) -> web.StreamResponse:
        async def answer() -> web.StreamResponse:
            refused, payload = await self._refused(request)
            if refused is not None:
                return refused.response()
            if payload.get("status") == "read":
                return web.json_response({"success": True})
            return self._accept(payload)

        return await self._served(request, "messages", self.phone_number_id, answer)

    async def _refused(self, request: web.Request) -> tuple[Refusal | None, dict[str, Any]]:
        try:
            payload = await request.json()
        except ValueError:
            return Refusal(400, 100, "The request body is no JSON"), {}
        if isinstance(payload, dict) and payload.get("status") == "read" and payload.get("message_id"):
            return None, payload
        return refusal_of(payload, self.templates, OWN_NUMBER, self.allowed_recipients), payload

    def _accept(self, payload: dict[str, Any]) -> web.Response:
        entry = self.book.accept({"type": "text", **payload})
        message = {"id": entry.wamid}
        if entry.type == "template":
            message["message_status"] = "accepted"
        contact = {"input": entry.recipient, "wa_id": "".join(sign for sign in entry.recipient if sign.isalnum())}
        entry.answered = True  # taken back by the faults that swallow the answer
        return web.json_response({"messaging_product": "whatsapp", "contacts": [contact], "messages": [message]})

    async def _message_templates(self, request: web.Request) -> web.StreamResponse:
        async def answer() -> web.StreamResponse:
            return web.json_response(listing(self.templates, request.query, f"{self.base_url}{request.path}"))

        return await self._served(request, "message_templates", self.waba_id, answer)

    async def _served(self, request: web.Request, route: str, object_id: str, answer: Answer) -> web.StreamResponse:
        self.book.requests[route] += 1
        fault = self._script.next(route)
        if fault is not None and fault.kind == "reset_before_read":
            return _reset(request)
        if request.headers.get("Authorization") != f"Bearer {self.token}":
            return NO_TOKEN.response()
        if request.match_info["object"] != object_id:
            return unknown_object(request.match_info["object"]).response()
        return await answer() if fault is None else await self._faulty(request, fault, answer)

    async def _faulty(self, request: web.Request, fault: Fault, answer: Answer) -> web.StreamResponse:
        if fault.kind == "error":
            refusal = Refusal(fault.status, fault.code, subcode=fault.subcode, is_transient=fault.is_transient)
            return refusal.response(fault.headers)
        if fault.kind == "string_error":
            return web.json_response({"error": "Something went wrong"}, status=fault.status)
        if fault.kind == "empty":
            return web.Response(status=fault.status, headers=fault.headers)
        if fault.kind == "html" and not fault.accepted:
            return _html(fault.status)
        if fault.kind == "delay":
            await asyncio.sleep(fault.seconds)
            return await answer()
        return await self._swallowed(request, fault, answer)

    async def _swallowed(self, request: web.Request, fault: Fault, answer: Answer) -> web.StreamResponse:
        """The message is taken, and the client does not learn it."""
        booked = len(self.book.entries)
        response = await answer()
        for entry in self.book.entries[booked:]:
            entry.answered = False
        if fault.kind == "html":
            return _html(fault.status)
        if fault.kind == "no_messages":
            return web.json_response({})
        if fault.kind == "malformed":
            text = getattr(response, "text", None) or "{}"
            return web.Response(text=text[: len(text) // 2], content_type="application/json")
        if fault.kind == "hang_after_accept":
            await asyncio.sleep(fault.seconds)
        return _reset(request)

    # --- the admin routes ----------------------------------------------------------------------------------------

    async def _add_faults(self, request: web.Request) -> web.Response:
        try:
            content = await request.json()
            faults = [Fault.from_json(row) for row in (content if isinstance(content, list) else [content])]
        except (FaultError, json.JSONDecodeError) as error:
            return web.json_response({"error": str(error)}, status=400)
        self.script(*faults)
        return web.json_response({"pending": len(self._script)})

    async def _delete_faults(self, request: web.Request) -> web.Response:
        self.clear_faults()
        return web.json_response({"pending": 0})

    async def _show_book(self, request: web.Request) -> web.Response:
        return web.json_response(self.book.as_json())

    async def _reset(self, request: web.Request) -> web.Response:
        self.book.clear()
        self.clear_faults()
        return web.json_response({"success": True})


def _html(status: int) -> web.Response:
    page = f"<!DOCTYPE html><html><head><title>Error</title></head><body><h1>{status}</h1></body></html>"
    return web.Response(text=page, status=status, content_type="text/html")


def _reset(request: web.Request) -> web.Response:
    transport = request.transport
    if transport is not None:
        _reset_transport(transport)
    return web.Response(status=500)  # goes nowhere: the connection is gone


def _reset_transport(transport: asyncio.BaseTransport) -> None:
    raw = transport.get_extra_info("socket")
    if raw is not None:
        # Linger of zero seconds: closing sends RST instead of FIN.
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    if isinstance(transport, asyncio.WriteTransport):
        transport.abort()

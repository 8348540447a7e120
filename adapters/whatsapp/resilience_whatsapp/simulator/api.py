"""The Graph API's side of the simulator: token, objects, faults, answers, and the book.

Every request is counted on arrival, then meets its fault. A message that was read is carried out whether or not the
client waits for the answer: that is what makes a time-out ambiguous. Nothing here is ever logged.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from aiohttp import web

from resilience_whatsapp.simulator import wire
from resilience_whatsapp.simulator.book import Book, Entry
from resilience_whatsapp.simulator.envelopes import NO_TOKEN, Refusal, html, unknown_object
from resilience_whatsapp.simulator.faults import Fault, Script
from resilience_whatsapp.simulator.templates import DEFAULT_TEMPLATES, BadQueryError, SimTemplate, listing
from resilience_whatsapp.simulator.validation import Rules, digits_of, refusal_of

TOKEN = "simulator-token"
PHONE_NUMBER_ID = "106540352242922"
WABA_ID = "102290129340398"
OWN_NUMBER = "15550783881"

_UNBOOKED = {"html", "json", "empty"}
"""Kinds that book the message only when the fault says `accepted`."""

Answer = Callable[[], tuple[web.Response, Entry | None]]


class GraphApi:
    """State and handlers; the attributes may be changed while it runs (a new token, a template paused)."""

    def __init__(
        self,
        *,
        token: str = TOKEN,
        phone_number_id: str = PHONE_NUMBER_ID,
        waba_id: str = WABA_ID,
        own_number: str = OWN_NUMBER,
        templates: Sequence[SimTemplate] = DEFAULT_TEMPLATES,
        allowed_recipients: Iterable[str] | None = None,
        missing_template_status: int = 404,
    ) -> None:
        self.token = token
        self.phone_number_id = phone_number_id
        self.waba_id = waba_id
        self.own_number = own_number
        self.templates = list(templates)
        self.allowed_recipients = None if allowed_recipients is None else frozenset(allowed_recipients)
        self.missing_template_status = missing_template_status
        self.book = Book()
        self._script = Script()
        self._died = asyncio.Event()  # set when the server dies: who waits then is not carried out any more

    def routes(self) -> list[web.RouteDef]:
        """What the API answers to."""
        version = r"/{version:v\d+\.\d+}"
        return [
            web.post(version + "/{object}/messages", self._messages),
            web.get(version + "/{object}/message_templates", self._message_templates),
            web.get(version + "/{object}", self._phone_number),
            web.route("*", "/{path:.*}", self._unknown),
        ]

    async def _messages(self, request: web.Request) -> web.StreamResponse:
        number = self.book.arrive("messages")
        fault = self._script.next("messages")
        if fault is not None and fault.kind == "reset_before_read":
            return wire.reset(request)
        payload = await wire.json_of(request)
        return await self._served(request, fault, self.phone_number_id, lambda: self._sent(payload, number))

    async def _message_templates(self, request: web.Request) -> web.StreamResponse:
        self.book.arrive("message_templates")
        fault = self._script.next("message_templates")
        return await self._served(request, fault, self.waba_id, lambda: (self._listed(request), None))

    async def _phone_number(self, request: web.Request) -> web.StreamResponse:
        self.book.arrive("phone_number")
        fault = self._script.next("phone_number")
        return await self._served(request, fault, self.phone_number_id, lambda: (self._number(request), None))

    async def _unknown(self, request: web.Request) -> web.StreamResponse:
        self.book.arrive("unknown")
        return Refusal(2500, message=f"Unknown path components: {request.path}").response()

    # --- proper answers --------------------------------------------------------------------------------------------

    def _sent(self, payload: Any, number: int) -> tuple[web.Response, Entry | None]:
        rules = Rules(self.templates, self.own_number, self.allowed_recipients, self.missing_template_status)
        refused = refusal_of(payload, rules)
        if refused is not None:
            return refused.response(), None
        if payload.get("status") == "read":
            return web.json_response({"success": True}), None
        entry = self.book.accept(payload, number)
        message = {"id": entry.wamid}
        if entry.type == "template":
            message["message_status"] = "accepted"
        contact = {"input": entry.recipient}
        if payload.get("to"):
            contact["wa_id"] = digits_of(entry.recipient)
        else:
            contact["user_id"] = entry.recipient
        answer = {"messaging_product": "whatsapp", "contacts": [contact], "messages": [message]}
        return web.json_response(answer), entry

    def _listed(self, request: web.Request) -> web.Response:
        try:
            page = listing(self.templates, request.query, str(request.url.with_query(None)))
        except BadQueryError as error:
            return Refusal(100, str(error)).response()
        return web.json_response(page)

    def _number(self, request: web.Request) -> web.Response:
        node: dict[str, Any] = {
            "verified_name": "Simulator",
            "code_verification_status": "VERIFIED",
            "display_phone_number": self.own_number,
            "quality_rating": "GREEN",
            "platform_type": "CLOUD_API",
            "throughput": {"level": "STANDARD"},
            "id": self.phone_number_id,
        }
        fields = {name.strip() for name in request.query.get("fields", "").split(",") if name.strip()}
        return web.json_response({key: node[key] for key in node if not fields or key in fields or key == "id"})

    # --- faults ----------------------------------------------------------------------------------------------------

    async def _served(
        self, request: web.Request, fault: Fault | None, object_id: str, answer: Answer
    ) -> web.StreamResponse:
        if fault is not None and fault.kind == "reset_before_read":
            return wire.reset(request)
        if request.headers.get("Authorization") != f"Bearer {self.token}":
            return NO_TOKEN.response()
        if request.match_info["object"] != object_id:
            return unknown_object(request.method, request.match_info["object"]).response()
        if fault is None:
            return self._answered(request, answer)
        if fault.kind == "delay":
            died = await self._dies_within(fault.seconds)
            return wire.reset(request) if died else self._answered(request, answer)
        return await self._faulty(request, fault, answer)

    def _answered(self, request: web.Request, answer: Answer) -> web.Response:
        response, entry = answer()
        if entry is not None:
            entry.answered = wire.is_open(request)
        return response

    async def _faulty(self, request: web.Request, fault: Fault, answer: Answer) -> web.StreamResponse:
        if fault.kind == "error":
            return Refusal(fault.code, fault.details, fault.status, fault.subcode, fault.is_transient).response(
                fault.headers
            )
        if fault.kind == "string_error":
            return web.json_response({"error": "Something went wrong"}, status=fault.status or 500)
        proper = answer()[0] if fault.accepted or fault.kind not in _UNBOOKED else None
        if fault.kind == "html":
            return html(fault.status or 502, fault.headers)
        if fault.kind == "json":
            return web.json_response(fault.body, status=fault.status or 400, headers=fault.headers)
        if fault.kind == "empty":
            return web.Response(status=fault.status or 500, headers=fault.headers)
        if fault.kind == "no_messages":
            return web.json_response({}, headers=fault.headers)
        if fault.kind == "malformed":
            text = (proper.text or "") if proper is not None else ""
            return web.Response(text=text[: len(text) // 2], content_type="application/json", headers=fault.headers)
        if fault.kind == "hang_after_accept":
            await self._dies_within(fault.seconds)
        return wire.reset(request)

    async def _dies_within(self, seconds: float) -> bool:
        with contextlib.suppress(TimeoutError):
            return await asyncio.wait_for(self._died.wait(), seconds)
        return False

"""How an answer reaches the client, or does not: the faults, as they are met on the wire."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from aiohttp import web
from attrs import frozen

from resilience_whatsapp.simulator import wire
from resilience_whatsapp.simulator.clock import SimClock
from resilience_whatsapp.simulator.envelopes import Refusal, html
from resilience_whatsapp.simulator.faults import Fault
from resilience_whatsapp.simulator.routing import Call, Outcome, Taken

_UNBOOKED = {"html", "json", "empty"}
"""Kinds that book the message only when the fault says `accepted`."""

Answer = Callable[[], Outcome]


@frozen
class Server:
    """One life of the server: what waits in it is dropped when it dies."""

    clock: SimClock
    died: asyncio.Event

    async def serve(self, call: Call, fault: Fault | None, answer: Answer) -> web.StreamResponse:
        """Carry out and answer, as the fault wants it."""
        if fault is None:
            return await self._answered(call, answer)
        if fault.kind == "delay":
            died = await self.clock.within(fault.seconds, self.died)
            return wire.reset(call.request) if died else await self._answered(call, answer)
        return await self._faulty(call, fault, answer)

    async def _answered(self, call: Call, answer: Answer) -> web.Response:
        outcome = answer()
        if isinstance(outcome, Taken):
            if outcome.before is not None:
                await outcome.before
            outcome.entry.answered = wire.is_open(call.request)
        return response_of(outcome)

    async def _faulty(self, call: Call, fault: Fault, answer: Answer) -> web.StreamResponse:
        if fault.kind == "error":
            return Refusal(fault.code, fault.details, fault.status, fault.subcode, fault.is_transient).response(
                fault.headers
            )
        if fault.kind == "string_error":
            return web.json_response({"error": "Something went wrong"}, status=fault.status or 500)
        proper = response_of(answer()) if fault.accepted or fault.kind not in _UNBOOKED else None
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
            await self.clock.within(fault.seconds, self.died)
        return wire.reset(call.request)


def response_of(outcome: Outcome) -> web.Response:
    """The outcome as an answer."""
    if isinstance(outcome, web.Response):
        return outcome
    if isinstance(outcome, Refusal):
        return outcome.response()
    return web.json_response(outcome.content if isinstance(outcome, Taken) else outcome)

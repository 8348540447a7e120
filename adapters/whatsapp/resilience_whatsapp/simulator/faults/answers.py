"""How an answer reaches the client, or does not: the faults, as they are met on the wire."""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import Callable, Mapping
from functools import lru_cache

from aiohttp import web
from attrs import frozen

from resilience_whatsapp.simulator import wire
from resilience_whatsapp.simulator.book import Entry
from resilience_whatsapp.simulator.clock import SimClock
from resilience_whatsapp.simulator.envelopes import Refusal, html, without_code
from resilience_whatsapp.simulator.faults.script import Fault
from resilience_whatsapp.simulator.limits.headers import usage, usage_headers
from resilience_whatsapp.simulator.routing import Outcome, Taken

_UNBOOKED = {"error", "string_error", "html", "json", "empty", "no_code", "gzip_bomb", "huge"}
"""Kinds that book the message only when the fault says `accepted`."""
_NEVER_BOOKED = {"error", "string_error"}
_CHUNK = 1 << 16

Answer = Callable[[], Outcome]


@frozen
class Server:
    """One life of the server: what waits in it is dropped when it dies."""

    clock: SimClock
    died: asyncio.Event

    async def serve(
        self, request: web.Request, fault: Fault | None, answer: Answer, account_id: str
    ) -> web.StreamResponse:
        """Carry out and answer, as the fault wants it."""
        if fault is None:
            return await self._proper(request, answer)
        if fault.kind == "delay":
            died = await self.clock.within(fault.seconds, self.died)
            return wire.reset(request) if died else await self._proper(request, answer)
        if fault.kind == "usage":
            row = usage("whatsapp_business_management", fault.percent, int(fault.seconds // 60))
            response = await self._proper(request, answer)
            response.headers.update(usage_headers(fault.percent, account_id, [row]))
            return response
        if fault.kind == "trickle":
            return await self._trickled(request, fault, answer)
        return await self._faulty(request, fault, answer)

    async def _proper(self, request: web.Request, answer: Answer) -> web.Response:
        response, entry = await self._carried_out(answer)
        if entry is not None:
            entry.answered = wire.is_open(request)
        return response

    async def _carried_out(self, answer: Answer) -> tuple[web.Response, Entry | None]:
        outcome = answer()
        if isinstance(outcome, Taken):
            if outcome.before is not None:
                await outcome.before
            return response_of(outcome), outcome.entry
        return response_of(outcome), None

    async def _trickled(self, request: web.Request, fault: Fault, answer: Answer) -> web.StreamResponse:
        proper, entry = await self._carried_out(answer)
        body = wire.bytes_of(proper)
        stream = await self._begun(request, proper.status, {**fault.headers}, len(body))
        for position in range(len(body)):
            if await self.clock.within(fault.seconds / len(body), self.died) or not wire.is_open(request):
                return wire.reset(request)
            await wire.write(stream, body[position : position + 1])
        if entry is not None:
            entry.answered = wire.is_open(request)
        return stream

    async def _faulty(self, request: web.Request, fault: Fault, answer: Answer) -> web.StreamResponse:
        booked = fault.kind not in _NEVER_BOOKED and (fault.accepted or fault.kind not in _UNBOOKED)
        proper = (await self._carried_out(answer))[0] if booked else None
        body = wire.bytes_of(proper) if proper is not None else b""
        if fault.kind in ("gzip_bomb", "huge"):
            return await self._big(request, fault)
        if fault.kind == "cut_after_accept":
            stream = await self._begun(request, 200, fault.headers, len(body))
            await wire.write(stream, body[: min(fault.size, len(body) - 1)])
        if fault.kind in ("hang_after_accept", "cut_after_accept"):
            await self.clock.within(fault.seconds, self.died)
        made_up = _made_up(fault, body)
        return wire.reset(request) if made_up is None else made_up

    async def _big(self, request: web.Request, fault: Fault) -> web.StreamResponse:
        if fault.kind == "gzip_bomb":
            packed = await asyncio.to_thread(_packed_zeros, fault.size)
            stream = await self._begun(
                request, fault.status or 500, {**fault.headers, "Content-Encoding": "gzip"}, len(packed)
            )
            await wire.write(stream, packed)
            return stream
        stream = await self._begun(request, fault.status or 500, fault.headers, fault.size)
        left = fault.size
        text = b'{"error": "'
        while left > 0 and await wire.write(stream, text[:left]):
            left -= len(text[:left])
            text = b"x" * _CHUNK
        return stream

    async def _begun(
        self, request: web.Request, status: int, headers: Mapping[str, str], length: int
    ) -> web.StreamResponse:
        stream = web.StreamResponse(status=status, headers={"Content-Type": "application/json"})
        stream.headers.update(headers)
        stream.content_length = length
        await stream.prepare(request)
        return stream


def _made_up(fault: Fault, body: bytes) -> web.Response | None:
    """What is answered instead, with the headers of the fault; None is nothing at all."""
    response = _instead(fault, body)
    if response is not None:
        response.headers.update(fault.headers)
    return response


def _instead(fault: Fault, body: bytes) -> web.Response | None:
    if fault.kind == "error":
        return Refusal(fault.code, fault.details, fault.status, fault.subcode, fault.is_transient).response()
    if fault.kind == "string_error":
        return web.json_response({"error": "Something went wrong"}, status=fault.status or 500)
    if fault.kind == "no_code":
        return web.json_response(without_code(), status=fault.status or 500)
    if fault.kind == "html":
        return html(fault.status or 502)
    if fault.kind == "json":
        return web.json_response(fault.body, status=fault.status or 400)
    if fault.kind == "empty":
        return web.Response(status=fault.status or 500)
    if fault.kind == "no_messages":
        return web.json_response({})
    if fault.kind == "malformed":
        return web.Response(body=body[: len(body) // 2], content_type="application/json")
    return None


def response_of(outcome: Outcome) -> web.Response:
    """The outcome as an answer."""
    if isinstance(outcome, web.Response):
        return outcome
    if isinstance(outcome, Refusal):
        return outcome.response()
    return web.json_response(outcome.content if isinstance(outcome, Taken) else outcome)


@lru_cache(maxsize=4)
def _packed_zeros(size: int) -> bytes:
    packer = zlib.compressobj(9, wbits=31)
    block, packed = bytes(_CHUNK), list[bytes]()
    for _ in range(size // _CHUNK):
        packed.append(packer.compress(block))
    return b"".join([*packed, packer.compress(bytes(size % _CHUNK)), packer.flush()])

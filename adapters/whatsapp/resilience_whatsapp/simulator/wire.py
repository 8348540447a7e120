"""What aiohttp has no word for: a reset instead of an answer, a body that may be anything."""

from __future__ import annotations

import asyncio
import json
import math
import socket
import struct
from typing import Any

from aiohttp import web


def is_open(request: web.Request) -> bool:
    """Whether the client is still there, as far as this side knows."""
    return request.transport is not None and not request.transport.is_closing()


def reset(request: web.Request) -> web.Response:
    """Close the connection with RST; the response returned goes nowhere."""
    if request.transport is not None:
        reset_transport(request.transport)
    return web.Response(status=500)


def reset_transport(transport: asyncio.Transport) -> None:
    """Close a connection with RST."""
    raw = transport.get_extra_info("socket")
    if raw is not None and not transport.is_closing():
        # Linger of zero seconds: closing sends RST instead of FIN.
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    transport.abort()


async def write(stream: web.StreamResponse, data: bytes) -> bool:
    """Write, if anybody is still there; whether somebody was."""
    try:
        await stream.write(data)
    except ConnectionError:
        return False
    return True


def bytes_of(response: web.Response) -> bytes:
    """Its body."""
    return response.body if isinstance(response.body, bytes) else b""


async def json_of(request: web.Request) -> Any:
    """The body; None when it is no JSON (unknown charset, absurd nesting and a wrong compression included)."""
    try:
        return await request.json()
    except (ValueError, LookupError, RecursionError, web.RequestPayloadError):
        return None


async def large_json_of(request: web.Request) -> Any:
    """The same for a body that may be large: it is parsed in a thread, while others are answered."""
    try:
        return await asyncio.to_thread(json.loads, await request.read())
    except (ValueError, RecursionError, web.RequestPayloadError):
        return None


def origin_of(request: web.Request) -> str:
    """The address that the client called, or the one it reached when its `Host` is none."""
    try:
        return str(request.url.origin())
    except ValueError:
        host, port = request.transport.get_extra_info("sockname")[:2] if request.transport is not None else ("", 0)
        return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def is_duration(value: object) -> bool:
    """Whether it is a number of seconds that time can be told by: neither negative nor without end."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value < math.inf

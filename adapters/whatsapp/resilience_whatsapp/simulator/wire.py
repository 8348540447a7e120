"""What aiohttp has no word for: a reset instead of an answer, a body that may be anything."""

from __future__ import annotations

import asyncio
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


def reset_transport(transport: asyncio.BaseTransport) -> None:
    """Close a connection with RST."""
    raw = transport.get_extra_info("socket")
    if raw is not None and not transport.is_closing():
        # Linger of zero seconds: closing sends RST instead of FIN.
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    if isinstance(transport, asyncio.WriteTransport):
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
    """The body; None when it is no JSON (unknown charset and absurd nesting included)."""
    try:
        return await request.json()
    except (ValueError, LookupError, RecursionError):
        return None

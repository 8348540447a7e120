"""The admin routes, with which other processes script faults and read the book.

POST /_sim/faults   DELETE /_sim/faults   GET /_sim/book   POST /_sim/reset
"""

from __future__ import annotations

from aiohttp import web

from resilience_whatsapp.simulator import wire
from resilience_whatsapp.simulator.book import Book
from resilience_whatsapp.simulator.faults import Fault, FaultError, Script


class Admin:
    """Handlers over a book and a script."""

    def __init__(self, book: Book, script: Script) -> None:
        self._book = book
        self._script = script

    def routes(self) -> list[web.RouteDef]:
        """What it answers to."""
        return [
            web.post("/_sim/faults", self._add),
            web.delete("/_sim/faults", self._clear),
            web.get("/_sim/book", self._show),
            web.post("/_sim/reset", self._reset),
        ]

    async def _add(self, request: web.Request) -> web.Response:
        content = await wire.json_of(request)
        try:
            # All or nothing: a list with one bad row scripts none of them.
            faults = [Fault.from_json(row) for row in (content if isinstance(content, list) else [content])]
        except FaultError as error:
            return web.json_response({"error": str(error)}, status=400)
        self._script.add(faults)
        return web.json_response({"pending": len(self._script)})

    async def _clear(self, request: web.Request) -> web.Response:
        self._script.clear()
        return web.json_response({"pending": 0})

    async def _show(self, request: web.Request) -> web.Response:
        return web.json_response(self._book.as_json())

    async def _reset(self, request: web.Request) -> web.Response:
        self._book.clear()
        self._script.clear()
        return web.json_response({"success": True})

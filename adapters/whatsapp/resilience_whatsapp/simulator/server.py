"""The simulator as a server: it listens, dies, listens again on the same port, and stops.

While it is dead nothing is carried out: connections are refused, open ones are reset, waiting requests are dropped.
"""

from __future__ import annotations

import asyncio
from types import TracebackType
from typing import Unpack

from aiohttp import web

from resilience_whatsapp.simulator import wire
from resilience_whatsapp.simulator.admin import Admin
from resilience_whatsapp.simulator.api import GraphApi, Options
from resilience_whatsapp.simulator.faults import Fault


class Simulator(GraphApi):
    """A Graph API on the loopback; start it with `async with`.

    Args:
        host, port: where to listen; port 0 takes a free one.
        token: the default token, which reaches every account.
        phone_number_id, waba_id: the default objects; `world` has the methods to add others.
        own_number: digits of the default number; it cannot write to itself.
        templates: of the default account.
        allowed_recipients: digits of the only numbers that may be written to, as for a test number; default all.
        missing_template_status: 404 as documented, or 400 as also seen, with error 132001.
        clock: what times everything; `SimClock(speed=60)` for haste, `ManualClock()` for tests; default real time.
    """

    def __init__(
        self,
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        **options: Unpack[Options],
    ) -> None:
        super().__init__(**options)
        self.host = host
        self.port = port
        self._runner: web.AppRunner | None = None
        self._site: web.TCPSite | None = None

    @property
    def base_url(self) -> str:
        """Where it listens, without the version."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"http://{host}:{self.port}"

    def script(self, *faults: Fault) -> None:
        """Append faults; each is met by the next matching requests, in order."""
        self._script.add(faults)

    def clear_faults(self) -> None:
        """From now on all is well; who waits already waits on."""
        self._script.clear()

    async def start(self) -> None:
        """Begin to listen; raises `OSError` when the port is taken, and then nothing is left behind."""
        app = web.Application()
        app.add_routes([*Admin(self.book, self._script).routes(), *self.routes()])
        self._runner = web.AppRunner(app, shutdown_timeout=0.1, access_log=None)
        await self._runner.setup()
        try:
            await self.start_listening()
        except BaseException:
            await self.stop()
            raise

    async def start_listening(self) -> None:
        """Accept connections (again), on the same port as before."""
        assert self._runner is not None, "start() first"
        if self._site is not None:
            return
        self._died = asyncio.Event()  # one for each life: who waits in the last one stays dead, whatever loop this is
        site = web.TCPSite(self._runner, self.host, self.port, reuse_address=True)
        try:
            await site.start()
        except BaseException:
            await site.stop()
            raise
        self._site = site
        self.port = self.port or self._runner.addresses[0][1]

    async def stop_listening(self) -> None:
        """Be dead: new connections are refused, the open ones are reset, delayed messages are never booked."""
        assert self._runner is not None, "start() first"
        self._died.set()
        if self._site is not None:
            await self._site.stop()
            self._site = None
        server = self._runner.server
        for connection in list(server.connections) if server is not None else []:
            if connection.transport is not None:
                wire.reset_transport(connection.transport)

    async def stop(self) -> None:
        """End; it may be started again."""
        if self._runner is not None:
            self._died.set()
            await self._runner.cleanup()
            self._runner = self._site = None

    async def __aenter__(self) -> Simulator:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.stop()

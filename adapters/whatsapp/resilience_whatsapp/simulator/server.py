"""The simulator as a server: it listens, dies, listens again on the same port, and stops.

While it is dead nothing is carried out: connections are refused, open ones are reset, waiting requests are dropped.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from types import TracebackType
from typing import Any, TypedDict, Unpack

from aiohttp import web

from resilience_whatsapp.simulator import steering, wire
from resilience_whatsapp.simulator.api import GraphApi, Options
from resilience_whatsapp.simulator.clock import Timer
from resilience_whatsapp.simulator.faults.script import Fault
from resilience_whatsapp.simulator.webhooks.delivery import Delivered
from resilience_whatsapp.simulator.webhooks.receivers import Receiver

_MAX_BODY = 64 * 1024 * 1024
"""Bytes of a body: 20,000 records for the report take 1 or 2 MB, aiohttp's own limit is 1 MB."""


class ClientOptions(TypedDict):
    """What a client must know."""

    token: str
    phone_number_id: str
    waba_id: str
    base_url: str


class Simulator(GraphApi):
    """A Graph API on the loopback; start it with `async with`.

    Args:
        host, port: where to listen; port 0 takes a free one.
        token: the default token, which reaches every account.
        phone_number_id, waba_id: the default objects; `world` has the methods to add others.
        own_number: digits of the default number; it cannot write to itself.
        templates: of the default account.
        allowed_recipients: digits of the only numbers that may be written to, as for a test number; default all.
        country_code: of the sending numbers (`"1"`): recipients without `+` get it prepended, as documented, and may be
            other people then. None takes them as international, as many senders write them.
        missing_template_status: 404 as documented, or 400 as also seen, with error 132001.
        numbers, accounts: how many numbers each account has, and how many accounts there are, each of a portfolio of
            its own; the ids of the others count up from the first.
        clock: what times everything; `ManualClock()` stands still until a test advances it.
        speed: seconds of the API in a second of real time, when no clock is given.
        seed: of all that happens by chance: the same seed and the same requests in the same order make the same story.
        limits: `Limits.none()` by default, so that nothing surprises; `Limits.real()` has those of the API.
        service_window: whether free-form messages to users who did not write within 24 h are refused (131047).
        webhooks: who is told: addresses, or `Receiver`s with a handshake, a version or accounts of their own.
        webhook_batch: at most so many statuses and messages in one body.
        webhook_backlog: how many of them wait at most to be sent again to a receiver that did not take them; then the
            oldest are forgotten, and counted as `dropped`. Ten times as many may wait for their first delivery.
        app_secret: signs the webhooks.
        statuses: when the statuses of a message are told.
        business_key: what a message stands for, told from its payload; default recipient and content. The report
            counts those that were accepted more than once.
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
        self._deaths: list[Fault] = []
        self._timers: list[Timer] = []
        self._dead = 0  # faults that keep it dead now
        self._tasks: set[asyncio.Task[None]] = set()
        self._runner: web.AppRunner | None = None
        self._site: web.TCPSite | None = None

    @property
    def base_url(self) -> str:
        """Where it listens, without the version."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"http://{host}:{self.port}"

    @property
    def client_options(self) -> ClientOptions:
        """The default token, number and account, and the address: `GraphClient(**simulator.client_options)`."""
        return {
            "token": self.token,
            "phone_number_id": self.phone_number_id,
            "waba_id": self.waba_id,
            "base_url": self.base_url,
        }

    def script(self, *faults: Fault) -> None:
        """Append faults; each is met by the next matching requests, in order. A fault `dead` is for the server."""
        self.faults.add(fault for fault in faults if fault.kind != "dead")
        self._deaths += [fault for fault in faults if fault.kind == "dead"]
        if self._runner is not None:
            self._plan_deaths()

    def clear_faults(self) -> None:
        """From now on all is well; who waits already waits on. Of a fault that it is dead of, it comes back."""
        self.faults.clear()
        self._deaths.clear()
        for timer in self._timers:
            timer.cancel()
        self._timers.clear()
        if self._dead:
            self._dead = 0
            self._spawn(self.start_listening)

    def reset(self) -> None:
        """Forget the book, the faults, what was used of the limits, and how many webhooks were told."""
        self.book.clear()
        self.clear_faults()
        self.limiter.clear()
        self.webhooks.delivered = Delivered()

    async def subscribe(self, receiver: str | Receiver) -> None:
        """Tell `receiver` by webhook from now on; raises `WebhookError` when it does not pass its handshake."""
        await self.webhooks.subscribe(receiver if isinstance(receiver, Receiver) else Receiver(receiver))

    def _plan_deaths(self) -> None:
        for fault in self._deaths:
            back = fault.at + (fault.lasts or 0.0)
            self._timers += [self.clock.call_later(fault.at, self._die), self.clock.call_later(back, self._come_back)]
        self._deaths.clear()

    def _die(self) -> None:
        self._dead += 1
        if self._dead == 1:
            self._spawn(self.stop_listening)

    def _come_back(self) -> None:
        """Of deaths that overlap the last one decides."""
        self._dead -= 1
        if self._dead == 0:
            self._spawn(self.start_listening)

    def _spawn(self, step: Callable[[], Coroutine[Any, Any, None]]) -> None:
        task = asyncio.get_running_loop().create_task(step())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def start(self) -> None:
        """Begin to listen; raises `OSError` when the port is taken, and then nothing is left behind."""
        app = web.Application(client_max_size=_MAX_BODY)
        app.add_routes([*steering.routes(self), *self.routes()])
        self._runner = web.AppRunner(app, shutdown_timeout=0.1, access_log=None)
        await self._runner.setup()
        try:
            await self.start_listening()
            self.webhooks.open()
            self._plan_deaths()
            for receiver in self._first_receivers:
                await self.subscribe(receiver)
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
        site, self._site = self._site, None
        if site is not None:
            await site.stop()
        server = self._runner.server
        for connection in list(server.connections) if server is not None else []:
            if connection.transport is not None:
                wire.reset_transport(connection.transport)

    async def stop(self) -> None:
        """End; it may be started again."""
        if self._runner is not None:
            self._died.set()
            for timer in self._timers:
                timer.cancel()
            self._timers.clear()
            self._dead = 0
            await asyncio.gather(*self._tasks, return_exceptions=True)
            await self.webhooks.close()
            await self._runner.cleanup()
            self._runner = self._site = None

    async def __aenter__(self) -> Simulator:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.stop()

"""The simulator for blocking tests: in an event loop of its own, in a thread.

The thread lives exactly as long as the `with` block, also when the simulator cannot start.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine, Mapping
from concurrent.futures import Future
from types import TracebackType
from typing import Any, TypeVar

from resilience_whatsapp.simulator.book import Book
from resilience_whatsapp.simulator.clock import ManualClock
from resilience_whatsapp.simulator.faults.script import Fault
from resilience_whatsapp.simulator.report import Report
from resilience_whatsapp.simulator.server import ClientOptions, Simulator
from resilience_whatsapp.simulator.webhooks.receivers import Receiver

T = TypeVar("T")


class SimulatorThread:
    """`with SimulatorThread() as simulator:`; takes the options of `Simulator`."""

    def __init__(self, **options: Any) -> None:
        self.simulator = Simulator(**options)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stop: asyncio.Event | None = None
        self._thread: threading.Thread | None = None

    @property
    def base_url(self) -> str:
        """Where it listens, without the version."""
        return self.simulator.base_url

    @property
    def client_options(self) -> ClientOptions:
        """What a client must know; see `Simulator.client_options`."""
        return self.simulator.client_options

    @property
    def book(self) -> Book:
        """What it accepted."""
        return self.simulator.book

    def script(self, *faults: Fault) -> None:
        """Append faults."""
        self.do(lambda simulator: simulator.script(*faults))

    def clear_faults(self) -> None:
        """From now on all is well."""
        self.do(lambda simulator: simulator.clear_faults())

    def inbound(self, sender: str, text: str = "Hello", **options: Any) -> str:
        """A user writes; see `Simulator.inbound`."""
        return self.do(lambda simulator: simulator.inbound(sender, text, **options))

    def report(self, records: Mapping[str, Any] | None = None) -> Report:
        """What it knows, and what `records` are worth."""
        return self.do(lambda simulator: simulator.report(records))

    def subscribe(self, receiver: str | Receiver) -> None:
        """Tell `receiver` by webhook from now on."""
        self._run(self.simulator.subscribe(receiver))

    def advance(self, seconds: float) -> None:
        """Let time pass, with `clock=ManualClock()`; raises `TypeError` with another clock."""
        clock = self.simulator.clock
        if not isinstance(clock, ManualClock):
            raise TypeError("advance() needs SimulatorThread(clock=ManualClock())")
        self._run(clock.advance(seconds))

    def do(self, step: Callable[[Simulator], T]) -> T:
        """What `step` gives for the simulator, in its own thread: for all that has no method here."""

        async def done() -> T:
            return step(self.simulator)

        return self._run(done())

    def stop_listening(self) -> None:
        """Be dead: connections are refused."""
        self._run(self.simulator.stop_listening())

    def start_listening(self) -> None:
        """Accept connections again."""
        self._run(self.simulator.start_listening())

    def _run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        if self._loop is None:
            coroutine.close()
            raise RuntimeError("use SimulatorThread as a context manager")
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result()

    async def _serve(self, started: Future[None]) -> None:
        try:
            await self.simulator.start()
        except BaseException as error:
            started.set_exception(error)
            return
        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        started.set_result(None)
        await self._stop.wait()
        await self.simulator.stop()

    def __enter__(self) -> SimulatorThread:
        started: Future[None] = Future()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve(started)), name="graph-api-simulator")
        self._thread.start()
        try:
            started.result()
        except BaseException:
            self._thread.join()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        assert self._loop is not None
        assert self._stop is not None
        assert self._thread is not None
        self._loop.call_soon_threadsafe(self._stop.set)
        self._loop = None
        self._thread.join()

"""The simulator for blocking tests: in an event loop of its own, in a thread."""

from __future__ import annotations

from types import TracebackType
from typing import Any

from anyio.from_thread import BlockingPortal, start_blocking_portal

from resilience_whatsapp.simulator.book import Book
from resilience_whatsapp.simulator.faults import Fault
from resilience_whatsapp.simulator.server import Simulator


class SimulatorThread:
    """`with SimulatorThread() as simulator:`; takes the options of `Simulator`."""

    def __init__(self, **options: Any) -> None:
        self.simulator = Simulator(**options)
        self._context = start_blocking_portal("asyncio")
        self._portal: BlockingPortal | None = None

    @property
    def base_url(self) -> str:
        """Where it listens, without the version."""
        return self.simulator.base_url

    @property
    def book(self) -> Book:
        """What it accepted."""
        return self.simulator.book

    def script(self, *faults: Fault) -> None:
        """Append faults."""
        self._run(self.simulator.script, *faults)

    def clear_faults(self) -> None:
        """From now on all is well."""
        self._run(self.simulator.clear_faults)

    def stop_listening(self) -> None:
        """Be dead: connections are refused."""
        self._run(self.simulator.stop_listening)

    def start_listening(self) -> None:
        """Accept connections again."""
        self._run(self.simulator.start_listening)

    def _run(self, function: Any, *args: Any) -> None:
        assert self._portal is not None, "use it as a context manager"
        self._portal.call(function, *args)

    def __enter__(self) -> SimulatorThread:
        self._portal = self._context.__enter__()
        self._run(self.simulator.start)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._run(self.simulator.stop)
        self._context.__exit__(None, None, None)

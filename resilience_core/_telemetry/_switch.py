"""Whether telemetry is recorded, where it goes, and what of it.

Without a provider nothing is recorded, and calls look at one flag. A provider can come before the policies are made or
after: it is looked for by the first thousand calls of the process, whenever a function is decorated, by one retry in
fifty, and when a reader collects the first time, which the API's placeholder of a meter provider lets happen.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypeAlias, cast
from weakref import WeakSet

from resilience_core import _schema as schema
from resilience_core._events import Event, everywhere
from resilience_core._fork import renewed_after_fork
from resilience_core._version import __version__
from resilience_core._weave.nesting import nesting

if TYPE_CHECKING:
    from opentelemetry.metrics import MeterProvider
    from opentelemetry.trace import TracerProvider

    from resilience_core._telemetry._instruments import Instruments
    from resilience_core._telemetry._spans import Spans

SpanMode: TypeAlias = Literal["call+attempt", "call", "none"]
EventMode: TypeAlias = Literal["span", "log", "both", "none"]
LOOKS = 1_000
"""Calls that look for a provider before they stop doing so."""
SELDOM = 50
"""Of so many retries, one looks for a provider."""


class Settings(NamedTuple):
    """What is recorded where there is a provider."""

    spans: SpanMode = "call+attempt"
    """A span for each call, and for each attempt where several are possible."""
    events: EventMode = "span"
    """Where what happens to a call is told: on its span, as log records, both or nowhere."""
    attempt_durations: bool = False
    """Whether `resilience.attempt.duration` is recorded: a second record for each call."""
    store_durations: bool = False
    """Whether `resilience.store.operation.duration` is recorded."""


class Stores:
    """The fleets of this process that are still alive."""

    def __init__(self) -> None:
        self._known: WeakSet[Any] = WeakSet()
        self._lock = renewed_after_fork(threading.Lock())  # one may be made while a reader collects

    def add(self, store: Any) -> None:
        """A fleet was made."""
        with self._lock:
            self._known.add(store)

    def __iter__(self) -> Iterator[Any]:
        with self._lock:
            return iter(list(self._known))


stores = Stores()


class Telemetry:
    """The telemetry of a process."""

    __slots__ = (
        "_given",
        "_lock",
        "_of_global",
        "_passed",
        "_told",
        "_unhear",
        "attempts",
        "instruments",
        "looks",
        "on",
        "recording",
        "settings",
        "spans",
    )

    def __init__(self) -> None:
        self.on = True
        """The flag that calls read: somebody records, or is still looked for."""
        self.recording = False
        """Whether there is a provider."""
        self.attempts = False
        """Whether single attempts are recorded."""
        self.settings = Settings()
        self.instruments: Instruments = cast("Any", None)
        """Made before anything can be recorded."""
        self.spans: Spans | None = None
        self.looks = LOOKS
        self._passed = 0
        self._of_global: Instruments | None = None  # made once: they stay with the API's placeholder for ever
        self._given: tuple[MeterProvider | None, TracerProvider | None] | None = None
        self._unhear: Callable[[], None] | None = None
        self._told: set[str] = set()
        self._lock = renewed_after_fork(threading.RLock())

    # --- finding a provider ------------------------------------------------------------------------------------------

    def prepare(self) -> None:
        """Make the instruments once, and look whether a provider is there; when a function is decorated."""
        if self._of_global is None:
            with self._lock:
                self._make_instruments()
        self.look()

    def look(self) -> bool:
        """Whether somebody records now. Looks for providers that have come since."""
        if self.spans is None or not self.recording:
            with self._lock:  # or a provider that is set now could be overlooked for ever
                metrics, traces = self._providers()
                if metrics is not None or traces is not None:
                    self._begin(traces)
                elif not self.recording:
                    self.looks -= 1
                    self.on = self.looks > 0 and self._given is None
        return self.recording

    def look_now_and_then(self) -> None:
        """Look once in so many times: a call that is retried can notice a provider that has come late."""
        self._passed += 1
        if self._passed >= SELDOM:
            self._passed = 0
            self.look()

    def _providers(self) -> tuple[MeterProvider | None, TracerProvider | None]:
        """Providers that record: those that were given, else the global ones unless they are placeholders."""
        if self._given is not None:
            return self._given
        from opentelemetry import metrics, trace

        meter, tracer = metrics.get_meter_provider(), trace.get_tracer_provider()
        return (meter if records(meter) else None, tracer if records(tracer) else None)

    def _begin(self, traces: TracerProvider | None) -> None:
        self._make_instruments()
        if traces is not None and self.spans is None and self.settings.spans != "none":
            from resilience_core._telemetry._spans import Spans

            self.spans = Spans(traces.get_tracer(schema.SCOPE, __version__, schema_url=schema.SCHEMA_URL))
        if self._unhear is None:
            self._unhear = everywhere.subscribe(self._hear)
        self.attempts = self.settings.attempt_durations or (
            self.spans is not None and self.settings.spans == "call+attempt"
        )
        nesting.trace(self.attempts)  # so that retries tell the number of the attempt that runs
        self.on = self.recording = True

    def _make_instruments(self) -> None:
        if self._of_global is None:
            self._of_global = self._instruments_of(None)
        if self._given is None:
            self.instruments = self._of_global

    def _instruments_of(self, provider: MeterProvider | None) -> Instruments:
        from opentelemetry import metrics

        from resilience_core._telemetry._instruments import Instruments

        meter = metrics.get_meter(schema.SCOPE, __version__, provider, schema.SCHEMA_URL)
        return Instruments(meter, self.collected if provider is None else _known_already)

    def collected(self) -> None:
        """A reader collects: so there is a provider, and perhaps one of traces has come, too.

        Called while the reader holds locks of the SDK, for which somebody may wait who holds ours: never wait here.
        """
        if self._given is None and self._lock.acquire(blocking=False):
            try:
                self._begin(self._providers()[1])
            finally:
                self._lock.release()

    # --- settings ----------------------------------------------------------------------------------------------------

    def use(self, meters: MeterProvider | None, traces: TracerProvider | None) -> None:
        """Record with these providers instead of the global ones; None records no metrics, or no spans."""
        with self._lock:
            from opentelemetry.metrics import NoOpMeterProvider

            self._stop()
            self._given = (meters, traces)
            self.instruments = self._instruments_of(meters or NoOpMeterProvider())
            self.look()

    def use_global(self) -> None:
        """Record with the global providers, if there are any."""
        with self._lock:
            self._stop()
            self._given = None
            self._make_instruments()
            self.looks, self.on = LOOKS, True

    def uses(self, meters: MeterProvider | None, traces: TracerProvider | None) -> bool:
        """Whether these providers are those that were given last."""
        given = self._given
        return given is not None and given[0] is meters and given[1] is traces

    def providers(self) -> tuple[MeterProvider | None, TracerProvider | None]:
        """Those that metrics and spans go to now; None where nobody takes them."""
        with self._lock:
            return self._providers()

    @contextmanager
    def lent(self, meters: MeterProvider, traces: TracerProvider, settings: Settings) -> Generator[None, None, None]:
        """Record with these providers and settings for a while, and then go on as before."""
        with self._lock:
            given, instruments, before = self._given, self.instruments, self.settings
            self.settings = settings
            self.use(meters, traces)
        try:
            yield
        finally:
            with self._lock:
                self.settings = before
                self.use_global()
                if given is not None:
                    self._given, self.instruments = given, instruments
                    self.look()

    def configure(self, settings: Settings) -> None:
        """Record other things from now on."""
        with self._lock:
            self.settings = settings
            if self.recording:
                self.spans = None
                self._begin(self._providers()[1])

    def _stop(self) -> None:
        if self._unhear is not None:
            self._unhear()
        self._unhear = self.spans = None
        self.on = self.recording = self.attempts = False
        nesting.trace(False)

    # --- recording ---------------------------------------------------------------------------------------------------

    def _hear(self, event: Event) -> None:
        spans, mode = self.spans, self.settings.events
        self.guard("metrics", self.instruments.hear, event)
        if mode in ("span", "both") and spans is not None:
            self.guard("span events", spans.tell, event)
        if mode in ("log", "both"):
            self.guard("events", emit_event, event)

    def guard(self, what: str, record: Callable[..., None], *args: Any) -> None:
        """Record something; that it fails must not change a call."""
        try:
            record(*args)
        except Exception as error:
            self.failed(what, error)

    def failed(self, what: str, error: Exception) -> None:
        """Recording has failed, in a provider, an exporter or a view: told once, and the call goes on."""
        if what not in self._told:
            self._told.add(what)
            from resilience_core._event_log import say  # here, not above: nobody logs while all is well

            text = f"Recording {what} failed ({type(error).__name__}); told once"
            say("resilience.telemetry.failed", text, error=error)

    def count_reload(self, outcome: str) -> None:
        """One changed configuration file: applied ("success") or refused ("error")."""
        self.prepare()
        self.guard("metrics", self.instruments.add, schema.RELOADS, 1, {schema.OUTCOME: outcome})

    def store_operation(self, store: str, operation: str, seconds: float, error: BaseException | None) -> None:
        """One exchange with the store of a fleet."""
        if self.recording and self.settings.store_durations:
            attributes = {schema.STORE_TYPE: store, schema.STORE_OPERATION: operation}
            if error is not None:
                attributes[schema.ERROR_TYPE] = type(error).__name__
            self.guard("metrics", self.instruments.record, schema.STORE_DURATION, seconds, attributes)


def records(provider: MeterProvider | TracerProvider) -> bool:
    """Whether it is more than what the API has in place of a provider."""
    return not type(provider).__module__.startswith(("opentelemetry.metrics", "opentelemetry.trace"))


def _known_already() -> None:
    """A reader collects, of a provider that was given."""


def emit_event(event: Event) -> None:
    """Tell an event as a log record of OpenTelemetry, which is what is to follow after events on spans."""
    from opentelemetry._logs import SeverityNumber, get_logger

    from resilience_core._event_records import record_of

    record = record_of(event)
    severity = {
        logging.DEBUG: SeverityNumber.DEBUG,
        logging.WARNING: SeverityNumber.WARN,
        logging.ERROR: SeverityNumber.ERROR,
    }
    get_logger(schema.SCOPE, __version__, schema_url=schema.SCHEMA_URL).emit(
        timestamp=time.time_ns(),
        severity_number=severity.get(record.level, SeverityNumber.INFO),
        body=record.text,
        attributes=dict(record.attributes),
        event_name=record.name,
    )


telemetry = Telemetry()
"""The telemetry of this process."""

"""OpenTelemetry set up in one line, and what of the telemetry is recorded.

Nothing here is needed where an application sets up OpenTelemetry itself: the policies record through its API, and
whichever provider is set, before or after the policies are made, gets it. `setup` is for programs that have none yet;
it needs the extra `otel`: `pip install 'resilience-framework[otel]'`.
"""

from __future__ import annotations

import inspect
import os
import sys
import threading
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, get_args

from resilience_core import _validation as check
from resilience_core._errors import ConfigurationError
from resilience_core._event_log import one_line
from resilience_core._telemetry import Settings, note_attributes, telemetry
from resilience_core._telemetry._switch import EventMode, SpanMode, records
from resilience_core._validation import Seconds
from resilience_core._weave.nesting import FRAME

if TYPE_CHECKING:
    from opentelemetry.sdk.metrics import MeterProvider
    from opentelemetry.sdk.metrics.export import MetricReader, MetricsData
    from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
    from opentelemetry.sdk.trace.export import SpanExporter

__all__ = ["Exporter", "OpenTelemetry", "annotate", "configure", "resend_count", "setup"]

Exporter: TypeAlias = Literal["otlp", "prometheus", "console"]


def configure(
    *,
    spans: SpanMode | None = None,
    events: EventMode | None = None,
    attempt_durations: bool | None = None,
    store_durations: bool | None = None,
) -> None:
    """Choose what is recorded in this process, wherever it goes; what is not named stays.

    Args:
        spans: "call+attempt" (default): a span for each call, and one for each attempt where several are possible;
            "call"; or "none".
        events: where it is told what happened to a call (a retry, a rejection, a fallback): on its "span" (default),
            as a "log" record of OpenTelemetry's, "both" or "none".
        attempt_durations: record `resilience.attempt.duration`, a second record for each call. Default False.
        store_durations: record `resilience.store.operation.duration`, of fleets. Default False.

    Raises:
        ConfigurationError: a value is none of these; nothing has changed then.
    """
    telemetry.configure(
        settings_with(spans=spans, events=events, attempt_durations=attempt_durations, store_durations=store_durations)
    )


def settings_with(**given: Any) -> Settings:
    """The settings of now, but for those that are given and not None."""
    known: dict[str, tuple[Any, ...]] = {"spans": get_args(SpanMode), "events": get_args(EventMode)}
    settings = telemetry.settings._replace(**{name: value for name, value in given.items() if value is not None})
    for name, value in given.items():
        _one_of(name, value, known.get(name, (True, False)))
    return settings


def _one_of(name: str, value: Any, known: tuple[Any, ...]) -> Any:
    if value is not None and not any(value is one or (isinstance(one, str) and value == one) for one in known):
        raise ConfigurationError(f"{name} must be one of {', '.join(map(repr, known))}, not {value!r}")
    return value


def resend_count() -> int:
    """How often the request that is being made was made before, for the attribute `http.request.resend_count`.

    0 for a first attempt and outside of retries; of nested retries the attempts' numbers are multiplied, and those of
    hedges do not count. The span of an attempt has the attribute already; instrumentations of
    HTTP clients do not set it on theirs, and this is for their request hooks:

        AioHttpClientInstrumentor().instrument(request_hook=lambda span, _: span.set_attribute(
            "http.request.resend_count", resend_count()))

    Counted while attempts are recorded (`configure(spans="call+attempt")`).
    """
    frame = FRAME.get()
    return 0 if frame is None else frame.product() - 1


def annotate(attributes: Mapping[str, Any], *, call: bool = False) -> None:
    """Add attributes to the span of the attempt that is running, for adapters that know more of it than the core.

    Nothing happens where no span is recorded, and it costs next to nothing then. It never raises. What is given ends
    up in traces: no keys, tokens, texts or addresses.

    Args:
        attributes: of OpenTelemetry's kinds; those that are None are left out.
        call: add them to the span of the whole call instead.
    """
    note_attributes(attributes, call)


class OpenTelemetry:
    """What `setup` has set up. Also a context manager, which shuts it down at the end."""

    def __init__(
        self, meters: MeterProvider, traces: TracerProvider, close: Callable[[], None], port: int | None = None
    ) -> None:
        self.meter_provider: MeterProvider = meters
        self.tracer_provider: TracerProvider = traces
        self.prometheus_port: int | None = port
        """Where Prometheus finds the metrics; None without that exporter."""
        self._close = close
        self._lock = threading.Lock()
        self._closed = False

    def flush(self, timeout: Seconds = 10.0) -> None:
        """Export what was recorded so far; gives up after `timeout` seconds. Blocks the thread."""
        milliseconds = round(check.seconds("flush: timeout", timeout) * 1000)
        self.meter_provider.force_flush(milliseconds)
        self.tracer_provider.force_flush(milliseconds)

    def shutdown(self) -> None:
        """Export what is left, and end. Once is enough; more does no harm.

        Policies record nothing after it, unless they do so elsewhere by now: in what was set up later.
        """
        with self._lock:
            if self._closed:
                return
            self._closed = True
        if telemetry.uses(self.meter_provider, self.tracer_provider):
            telemetry.use(None, None)
        try:
            self.meter_provider.shutdown()
            self.tracer_provider.shutdown()
        finally:
            self._close()

    def __enter__(self) -> OpenTelemetry:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.shutdown()


def setup(
    *exporters: Exporter,
    service_name: str = "unknown_service",
    endpoint: str | None = None,
    headers: Mapping[str, str] | None = None,
    interval: Seconds = 60.0,
    prometheus_host: str = "127.0.0.1",
    prometheus_port: int = 9464,
    resource: Mapping[str, str] | None = None,
    set_global: bool = True,
    spans: SpanMode | None = None,
    events: EventMode | None = None,
    attempt_durations: bool | None = None,
    store_durations: bool | None = None,
) -> OpenTelemetry:
    """Set OpenTelemetry up, for a program that has not done so.

    Args:
        exporters: where it goes: "otlp" (default; over HTTP, to `endpoint` or as the `OTEL_EXPORTER_OTLP_*` variables
            say), "prometheus" (metrics only: an endpoint to be scraped), "console" (one line each, on stdout).
        service_name: what the service is called.
        endpoint: address of the OTLP receiver without path: `http://collector:4318`.
        headers: headers of the OTLP requests, such as a token.
        interval: seconds (or timedelta) between two exports of metrics, for "otlp" and "console".
        prometheus_host: address that the endpoint for Prometheus listens on.
        prometheus_port: its port; 0 takes a free one.
        resource: further attributes of the service.
        set_global: make the providers those of the process, so that other instrumentations use them, too.
        spans, events, attempt_durations, store_durations: as in `configure`.

    Raises:
        ConfigurationError: an option cannot be, the extra `otel` is not installed, or the process has providers
            already (they are used without any set-up).
    """
    chosen: tuple[Exporter, ...] = exporters or ("otlp",)
    for exporter in chosen:
        _one_of("exporters", exporter, get_args(Exporter))
    if len(set(chosen)) < len(chosen):
        raise ConfigurationError(f"exporters: each one once, not {', '.join(map(repr, chosen))}")
    seconds = check.seconds("setup: interval", interval)
    settings = settings_with(
        spans=spans, events=events, attempt_durations=attempt_durations, store_durations=store_durations
    )
    try:
        from opentelemetry.sdk.metrics import MeterProvider
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor, SimpleSpanProcessor
    except ImportError as error:
        raise _missing(error) from error
    if set_global:
        _refuse_second()
    about = Resource.create({"service.name": service_name, **(resource or {})})
    with ExitStack() as undo:  # if one exporter cannot be, nothing stays of the others
        readers: list[MetricReader] = []
        port: int | None = None
        close: Callable[[], None] = _nothing
        traces = TracerProvider(resource=about)
        undo.callback(traces.shutdown)
        if "prometheus" in chosen:
            reader, port, close = _prometheus(prometheus_host, prometheus_port)
            undo.callback(close)
            undo.callback(reader.shutdown)
            readers.append(reader)
        for exporter in chosen:
            if exporter != "prometheus":
                reader, span_exporter = _otlp(endpoint, headers, seconds) if exporter == "otlp" else _console(seconds)
                undo.callback(reader.shutdown)
                readers.append(reader)
                batched = BatchSpanProcessor if exporter == "otlp" else SimpleSpanProcessor
                traces.add_span_processor(batched(span_exporter))
        meters = MeterProvider(readers, resource=about)
        undo.pop_all()
    if set_global:
        from opentelemetry import metrics, trace

        metrics.set_meter_provider(meters)
        trace.set_tracer_provider(traces)
    telemetry.configure(settings)
    telemetry.use(meters, traces)
    return OpenTelemetry(meters, traces, close, port)


def _nothing() -> None:
    """What there is to be closed where nothing was opened."""


def _missing(error: ImportError) -> ConfigurationError:
    return ConfigurationError(
        f"setup needs OpenTelemetry's SDK and exporters ({error.name} is missing): "
        "pip install 'resilience-framework[otel]'"
    )


def _refuse_second() -> None:
    from opentelemetry import metrics, trace

    for provider in (metrics.get_meter_provider(), trace.get_tracer_provider()):
        if records(provider):
            raise ConfigurationError(
                "OpenTelemetry is set up already in this process, and is used as it is: leave setup() out, or give "
                "set_global=False for providers that only the policies use"
            )


def _otlp(endpoint: str | None, headers: Mapping[str, str] | None, seconds: float) -> tuple[MetricReader, SpanExporter]:
    try:
        from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    except ImportError as error:
        raise _missing(error) from error
    from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader

    base = None if endpoint is None else endpoint.rstrip("/")
    given = None if headers is None else dict(headers)
    metrics = OTLPMetricExporter(endpoint=base and f"{base}/v1/metrics", headers=given)
    traces = OTLPSpanExporter(endpoint=base and f"{base}/v1/traces", headers=given)
    return PeriodicExportingMetricReader(metrics, seconds * 1000), traces


def _prometheus(host: str, port: int) -> tuple[MetricReader, int, Callable[[], None]]:
    try:
        from opentelemetry.exporter.prometheus import PrometheusMetricReader
        from prometheus_client import REGISTRY, CollectorRegistry, start_http_server
    except ImportError as error:
        raise _missing(error) from error
    # A registry of its own, so that two set-ups do not show each other's metrics; older exporters know only the one of
    # the process.
    own = "registry" in inspect.signature(PrometheusMetricReader).parameters
    registry = CollectorRegistry() if own else REGISTRY
    try:
        server, thread = start_http_server(port, host, registry)
    except OSError as error:
        raise ConfigurationError(
            f"prometheus_port: nothing can listen on {host} port {port} ({error.strerror}); 0 takes a free port"
        ) from error
    given: dict[str, Any] = {"registry": registry} if own else {}
    reader = PrometheusMetricReader(**given)
    process = os.getpid()

    def end() -> None:
        if os.getpid() == process:  # the thread that would have to notice is not in the child of a fork
            server.shutdown()
            thread.join()
        server.server_close()

    return reader, server.server_port, end


def _console(seconds: float) -> tuple[MetricReader, SpanExporter]:
    from opentelemetry.sdk.metrics.export import ConsoleMetricExporter, PeriodicExportingMetricReader
    from opentelemetry.sdk.trace.export import ConsoleSpanExporter

    metrics = ConsoleMetricExporter(sys.stdout, metric_lines)
    return PeriodicExportingMetricReader(metrics, seconds * 1000), ConsoleSpanExporter(
        out=sys.stdout, formatter=span_line
    )


def span_line(span: ReadableSpan) -> str:
    """A span as one line: trace, name, duration, attributes, events."""
    context, start, end = span.get_span_context(), span.start_time or 0, span.end_time or 0
    trace = "" if context is None else f"{context.trace_id:032x}"[-8:]
    events = "".join(f" +{event.name}" for event in span.events)
    text = f"span {trace} {span.name}: {(end - start) / 1e9:.3f} s{_attributes(span.attributes)}{events}"
    return f"{one_line(text)}\n"


def metric_lines(data: MetricsData) -> str:
    """Metrics as one line a series: name, value (count and sum of a histogram), attributes."""
    lines: list[str] = []
    for resource in data.resource_metrics:
        for scope in resource.scope_metrics:
            for metric in scope.metrics:
                for point in metric.data.data_points:
                    read: Any = point
                    value = getattr(read, "value", None)
                    told = f"count={read.count} sum={read.sum:.3f}" if value is None else f"{value:g}"
                    lines.append(f"metric {metric.name}: {told}{_attributes(point.attributes)}")
    return "".join(f"{one_line(line)}\n" for line in lines)


def _attributes(attributes: Mapping[str, Any] | None) -> str:
    return "".join(f" {key.removeprefix('resilience.')}={value}" for key, value in sorted((attributes or {}).items()))

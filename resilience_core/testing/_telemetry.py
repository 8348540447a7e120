"""What was recorded through OpenTelemetry, kept for assertions. Needs the extra `otel`."""

from __future__ import annotations

from collections.abc import Generator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from attrs import frozen

from resilience_core._errors import ConfigurationError
from resilience_core._telemetry import telemetry
from resilience_core.otel import settings_with

if TYPE_CHECKING:
    from opentelemetry.sdk.metrics.export import InMemoryMetricReader
    from opentelemetry.sdk.trace import ReadableSpan
    from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter


@frozen
class MetricPoint:
    """One series of a metric, at the moment when it was asked for."""

    name: str
    attributes: Mapping[str, Any]
    value: float
    """What a counter has counted, or a state is; of a histogram, how many values it got."""
    sum: float
    """The sum of a histogram's values; of anything else, the same as `value`."""


class TelemetryRecorder:
    """The spans and metrics of all policies so far."""

    def __init__(self, reader: InMemoryMetricReader, exporter: InMemorySpanExporter) -> None:
        self._reader = reader
        self._exporter = exporter

    @property
    def spans(self) -> list[ReadableSpan]:
        """Finished spans, in the order of their ends."""
        return list(self._exporter.get_finished_spans())

    def spans_named(self, name: str) -> list[ReadableSpan]:
        """Those of one name: `resilience graph`, `attempt`, `wait backoff`."""
        return [span for span in self.spans if span.name == name]

    def points(self, metric: str, attributes: Mapping[str, Any] | None = None) -> list[MetricPoint]:
        """The series of a metric that have these attributes, and perhaps more."""
        wanted = (attributes or {}).items()
        return [point for point in self._collect() if point.name == metric and wanted <= dict(point.attributes).items()]

    def value(self, metric: str, attributes: Mapping[str, Any] | None = None) -> float:
        """The values of those series in all; 0 where there are none."""
        return sum(point.value for point in self.points(metric, attributes))

    def sum(self, metric: str, attributes: Mapping[str, Any] | None = None) -> float:
        """The sums of those series in all; 0 where there are none."""
        return sum(point.sum for point in self.points(metric, attributes))

    def _collect(self) -> list[MetricPoint]:
        data = self._reader.get_metrics_data()
        found: list[MetricPoint] = []
        for resource in data.resource_metrics if data is not None else ():
            for scope in resource.scope_metrics:
                for metric in scope.metrics:
                    for point in metric.data.data_points:
                        read: Any = point
                        value = getattr(read, "value", None)
                        number, total = (read.count, read.sum) if value is None else (value, value)
                        found.append(MetricPoint(metric.name, dict(point.attributes or {}), number, total))
        return found


@contextmanager
def record_telemetry(**settings: Any) -> Generator[TelemetryRecorder, None, None]:
    """Record the telemetry of all policies of the process, in place of whatever provider it has.

    Args:
        settings: as of `resilience_core.otel.configure`, for the time of recording.

    Raises:
        ConfigurationError: the extra `otel` is not installed, or a setting is none.
    """
    try:
        from opentelemetry.sdk.metrics import MeterProvider
        from opentelemetry.sdk.metrics.export import InMemoryMetricReader
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import SimpleSpanProcessor
        from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
    except ImportError as error:
        raise ConfigurationError(
            "record_telemetry needs OpenTelemetry's SDK: pip install 'resilience-framework[otel]'"
        ) from error
    reader, exporter = InMemoryMetricReader(), InMemorySpanExporter()
    meters, traces = MeterProvider([reader]), TracerProvider()
    traces.add_span_processor(SimpleSpanProcessor(exporter))
    try:
        with telemetry.lent(meters, traces, settings_with(**settings)):
            yield TelemetryRecorder(reader, exporter)
    finally:
        meters.shutdown()
        traces.shutdown()

"""When telemetry is recorded: whenever there is a provider, however late it came."""

from __future__ import annotations

import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import TracerProvider

from resilience_core import CircuitBreaker, ConfigurationError
from resilience_core import _schema as s
from resilience_core._telemetry import Settings, Telemetry, telemetry
from resilience_core._telemetry._switch import LOOKS
from resilience_core.otel import configure
from resilience_core.testing import record_telemetry

ROOT = Path(__file__).parent.parent.parent
STORY = """
import asyncio, sys
from opentelemetry import metrics, trace
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

reader, exporter = InMemoryMetricReader(), InMemorySpanExporter()

def set_metrics():
    metrics.set_meter_provider(MeterProvider([reader]))

def set_traces():
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    trace.set_tracer_provider(provider)

order = sys.argv[1]
if order == "first":
    set_metrics()
    set_traces()
from resilience_core import *

guard = Pipeline(Retry(on=ConnectionError, base_delay=0, max_delay=0), CircuitBreaker("graph"), name="p")
failing = []

@guard
def work():
    if failing:
        raise failing.pop()

@guard
async def async_work():
    work.__wrapped__()

def settle():  # no call looks for a provider any more
    for _ in range(1_100):
        work()

if order == "before the first calls":
    work()
    set_metrics()
    set_traces()
elif order == "metrics after a thousand calls":
    settle()
    set_traces()
    set_metrics()
    reader.get_metrics_data()  # a reader collects sooner or later
elif order == "traces after a thousand calls":
    settle()
    set_traces()
    for _ in range(50):
        failing.append(ConnectionError())
        work()  # one of so many that have to try again sees it
elif order == "a function decorated later":
    settle()
    set_metrics()
    set_traces()
    guard(lambda: 1)

exporter.clear()
work()
asyncio.run(async_work())
guard.call(work.__wrapped__)
print(len([span for span in exporter.get_finished_spans() if span.name == "resilience p"]))
if order != "traces after a thousand calls":
    count = 0
    for resource in reader.get_metrics_data().resource_metrics:
        for scope in resource.scope_metrics:
            assert scope.scope.name == "resilience_core" and scope.scope.version
            assert scope.schema_url.startswith("https://opentelemetry.io/schemas/")
            for metric in scope.metrics:
                if metric.name == "resilience.call.duration":
                    count += sum(point.count for point in metric.data.data_points)
    print(count)
"""


@pytest.mark.parametrize(
    ("order", "metrics"),
    [
        ("first", "3"),
        ("before the first calls", "3"),
        ("metrics after a thousand calls", "3"),
        ("traces after a thousand calls", None),
        ("a function decorated later", "3"),
    ],
)
def test_providers_are_found_whenever_they_come(order: str, metrics: str | None) -> None:
    done = subprocess.run([sys.executable, "-c", STORY, order], capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    spans, *counted = done.stdout.split()
    assert spans == "3"
    assert counted == ([] if metrics is None else [metrics])


def test_who_finds_no_provider_stops_looking() -> None:
    alone = Telemetry()
    for _ in range(LOOKS - 1):
        assert not alone.look()
    assert alone.on
    assert not alone.look()
    assert not alone.on


def test_a_provider_that_is_set_while_a_call_looks_for_one_is_not_overlooked() -> None:
    meters = MeterProvider()
    setting = threading.Thread(target=lambda: watched.use(meters, None))

    class Watched(Telemetry):
        __slots__ = ()

        def _providers(self) -> Any:
            found = super()._providers()
            if setting.ident is None:
                setting.start()
                setting.join(0.1)  # as long as it takes, or until it is clear that it has to wait
            return found

    watched = Watched()
    watched.looks = 1
    watched.look()
    setting.join()
    try:
        assert watched.recording
        assert watched.on
    finally:
        watched.use_global()
        meters.shutdown()


def test_recording_leaves_everything_as_it_was_also_inside_of_itself() -> None:
    breaker = CircuitBreaker("graph")
    reader = InMemoryMetricReader()
    meters, traces = MeterProvider([reader]), TracerProvider()
    telemetry.use(meters, traces)
    try:
        with record_telemetry() as outer:
            with record_telemetry(spans="none") as inner:
                breaker.call(int)
            assert telemetry.settings == Settings()
            breaker.call(int)
            assert [each.value("resilience.call.duration") for each in (outer, inner)] == [1, 1]
            assert [len(each.spans) for each in (outer, inner)] == [1, 0]
        assert telemetry.uses(meters, traces)
        breaker.call(int)
        data: Any = reader.get_metrics_data()
        assert "resilience.call.duration" in {
            metric.name for metric in data.resource_metrics[0].scope_metrics[0].metrics
        }
        with pytest.raises(ConfigurationError, match="spans must be one of"), record_telemetry(spans="few"):
            raise AssertionError("it does not begin")
        assert telemetry.uses(meters, traces)
    finally:
        telemetry.use_global()
        meters.shutdown()
        traces.shutdown()


def test_reading_what_was_recorded_begins_no_recording() -> None:
    with record_telemetry() as recorded:
        CircuitBreaker("graph").call(int)
    assert recorded.value("resilience.call.duration") == 1
    assert not telemetry.recording


def test_a_policy_of_before_records_in_every_provider_that_is_used() -> None:
    breaker = CircuitBreaker("graph")
    for _ in range(2):
        with record_telemetry() as recorded:
            breaker.call(int)
            assert recorded.value("resilience.call.duration", {s.POLICY: "graph"}) == 1
            assert len(recorded.spans) == 1
    with record_telemetry(spans="none") as recorded:
        breaker.call(int)
        configure(spans="call")
        breaker.call(int)
        assert len(recorded.spans) == 1


def test_metrics_alone_and_nothing_at_all() -> None:
    reader = InMemoryMetricReader()
    meters = MeterProvider([reader])
    try:
        telemetry.use(meters, None)
        assert telemetry.spans is None
        CircuitBreaker("graph").call(int)
        assert reader.get_metrics_data() is not None
        telemetry.use(None, None)
        assert not telemetry.recording
        assert not telemetry.on
        CircuitBreaker("graph").call(int)
        telemetry.prepare()
    finally:
        telemetry.use_global()
        meters.shutdown()


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"spans": "all"}, "spans must be one of 'call\\+attempt', 'call', 'none', not 'all'"),
        ({"events": 1}, "events must be one of 'span', 'log', 'both', 'none', not 1"),
        ({"attempt_durations": "yes"}, "attempt_durations must be one of True, False, not 'yes'"),
        ({"store_durations": 1}, "store_durations must be one of True, False, not 1"),
    ],
)
def test_what_cannot_be_recorded_is_refused(options: dict[str, Any], problem: str) -> None:
    with pytest.raises(ConfigurationError, match=problem):
        configure(**options)
    assert telemetry.settings == Settings()


def test_a_reader_that_collects_while_somebody_holds_our_lock_does_not_wait_for_it() -> None:
    """The SDK holds a lock of its own then, for which the other one may be waiting."""
    telemetry.prepare()
    held, release = threading.Event(), threading.Event()

    def hold() -> None:
        with telemetry._lock:
            held.set()
            release.wait()

    thread = threading.Thread(target=hold)
    thread.start()
    held.wait()
    telemetry.collected()
    assert not telemetry.recording
    release.set()
    thread.join()


def test_a_reader_that_collects_is_a_provider_even_where_none_can_be_seen() -> None:
    """One that an application keeps to itself, behind the API's placeholder."""
    telemetry.use_global()
    telemetry.collected()
    try:
        assert telemetry.recording
        assert telemetry.look()
    finally:
        telemetry.use_global()

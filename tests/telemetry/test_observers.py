"""Whoever watches, or judges, and is slow or fails: the call is what it would have been."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator, Sequence
from typing import Any

import pytest
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SimpleSpanProcessor, SpanExporter, SpanExportResult

from resilience_core import CircuitBreaker, CircuitState, Event, Fallback, Pipeline, Retry, subscribe
from resilience_core._telemetry import telemetry
from tests.worlds import Script, World


@pytest.fixture(autouse=True)
def as_before() -> Iterator[None]:
    yield
    telemetry.use_global()


def stack() -> tuple[Pipeline, CircuitBreaker]:
    breaker = CircuitBreaker("graph", failure_threshold=3)
    retry = Retry(on=ConnectionError, base_delay=1, jitter="none")
    return Pipeline(Fallback(value="instead"), retry, breaker, name="p"), breaker


async def outcome(world: World) -> tuple[Any, ...]:
    """What a call with two failed attempts, and one with nothing but failures, come to."""
    policy, breaker = stack()
    guarded = world.guard(policy, Script(ConnectionError(), ConnectionError(), 5, *[ConnectionError()] * 3).fn)
    first, second = await guarded(), await guarded()
    decisions = [decision.action for decision in policy.explain()[-1].decisions]
    return first, second, breaker.state, breaker.snapshot()["rejected"], decisions


class Raises(SpanProcessor):
    def on_start(self, span: Any, parent_context: Any = None) -> None:
        raise RuntimeError("at the start")

    def on_end(self, span: ReadableSpan) -> None:
        raise RuntimeError("at the end")


class Exporter(SpanExporter):
    def __init__(self, fails: bool = False) -> None:
        self.fails = fails
        self.asked, self.may_go_on = threading.Event(), threading.Event()

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        self.asked.set()
        if self.fails:
            raise RuntimeError("the exporter")
        self.may_go_on.wait()
        return SpanExportResult.SUCCESS


def test_a_listener_that_raises(world: World) -> None:
    async def story() -> None:
        expected = await outcome(world)
        end = subscribe(lambda event: 1 / 0)  # type: ignore[arg-type,return-value]
        try:
            assert await outcome(world) == expected
        finally:
            end()

    world.run(story)


def test_a_listener_that_takes_its_time(world: World) -> None:
    async def story() -> None:
        expected = await outcome(world)
        heard: list[Event] = []
        end = subscribe(lambda event: (heard.append(event), threading.Event().wait(0.001)))  # type: ignore[func-returns-value,arg-type,return-value]
        try:
            assert await outcome(world) == expected
        finally:
            end()
        assert heard

    world.run(story)


def test_a_handler_and_a_filter_of_the_log_that_raise(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logging, "raiseExceptions", False)

    class Handler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            raise RuntimeError("the handler")

    def refuse(record: logging.LogRecord) -> bool:
        raise RuntimeError("the filter")

    async def story() -> None:
        expected = await outcome(world)
        root = logging.getLogger("resilience_core")
        handler = Handler()
        handler.addFilter(refuse)
        root.addHandler(handler)
        try:
            assert await outcome(world) == expected
        finally:
            root.removeHandler(handler)

    world.run(story)


def test_processors_and_exporters_that_raise(world: World) -> None:
    async def story() -> None:
        expected = await outcome(world)
        for processor in (Raises(), SimpleSpanProcessor(Exporter(fails=True))):
            traces = TracerProvider(shutdown_on_exit=False)
            traces.add_span_processor(processor)
            telemetry.use(None, traces)
            assert await outcome(world) == expected

    world.run(story)


def test_an_exporter_that_hangs_is_not_waited_for(world: World) -> None:
    async def story() -> None:
        expected = await outcome(world)
        exporter, traces = Exporter(), TracerProvider(shutdown_on_exit=False)
        traces.add_span_processor(BatchSpanProcessor(exporter, schedule_delay_millis=1))
        telemetry.use(None, traces)
        assert await outcome(world) == expected
        assert exporter.asked.wait(30), "it has something, and hangs"
        assert await outcome(world) == expected
        exporter.may_go_on.set()
        traces.shutdown()

    world.run(story)


def test_a_reader_that_never_collects_and_a_view_that_fails(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    async def story() -> None:
        expected = await outcome(world)
        meters = MeterProvider([InMemoryMetricReader()], shutdown_on_exit=False)
        telemetry.use(meters, None)
        assert await outcome(world) == expected
        monkeypatch.setattr(meters._measurement_consumer, "consume_measurement", lambda _: 1 / 0)
        assert await outcome(world) == expected
        meters.shutdown()

    world.run(story)


def test_a_predicate_that_raises_judges_nothing_and_hides_nothing(world: World) -> None:
    def predicate(error: BaseException) -> bool:
        raise RuntimeError("the predicate")

    async def story() -> None:
        policy = Pipeline(Retry(on=predicate, base_delay=1), CircuitBreaker("graph", on=predicate), name="p")
        with pytest.raises(ConnectionError):
            await world.call(policy, Script(ConnectionError()).fn)
        assert policy.policies[1].state is CircuitState.CLOSED  # type: ignore[attr-defined]

    world.run(story)

"""The spans of calls, attempts and waits."""

from __future__ import annotations

import asyncio
import contextvars
import gc
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import anyio
import pytest
from opentelemetry import trace

from resilience_core import (
    Bulkhead,
    CircuitBreaker,
    CircuitOpenError,
    Coalesce,
    Fallback,
    Hedge,
    Pipeline,
    Retry,
    StaleCache,
    Timeout,
    TimeoutExceeded,
)
from resilience_core import _schema as s
from resilience_core._telemetry import telemetry
from resilience_core.otel import resend_count
from resilience_core.testing import TelemetryRecorder, record_telemetry, run_virtual
from tests.worlds import Script, World, drive


def told(span: Any, *keys: str) -> tuple[Any, ...]:
    return tuple(span.attributes.get(key) for key in keys)


def test_a_call_with_retries_is_a_tree(world: World) -> None:
    async def story() -> None:
        seen: list[int] = []
        script = Script(ConnectionError(), KeyError(), 5)

        async def fn() -> Any:
            seen.append(resend_count())
            return await script()

        retry = Retry(on=(ConnectionError, KeyError), base_delay=1, jitter="none")
        policy = Pipeline(Fallback(value=0), retry, CircuitBreaker("graph"), name="send")
        guarded = world.guard(policy, fn)
        with record_telemetry() as recorded:
            assert await guarded() == 5
            (call,) = recorded.spans_named("resilience send")
            attempts, waits = recorded.spans_named("attempt"), recorded.spans_named("wait backoff")
            assert len(recorded.spans) == 6
            assert {span.parent.span_id for span in (*attempts, *waits) if span.parent} == {call.context.span_id}
            kept = (s.ATTEMPT_NUMBER, s.ATTEMPT_KIND, s.OUTCOME, s.ERROR_TYPE, s.RESEND_COUNT, s.POLICY)
            assert [told(span, *kept) for span in attempts] == [
                (1, "initial", "error", "ConnectionError", None, "send"),
                (2, "retry", "error", "KeyError", 1, "send"),
                (3, "retry", "success", None, 2, "send"),
            ]
            assert [told(span, s.WAITED) for span in waits] == [(1,), (2,)]
            kept = (s.ATTEMPTS, s.RETRIES, s.HEDGES, s.WAITED, s.OUTCOME, s.CIRCUIT_STATE, s.ERROR_TYPE)
            assert told(call, *kept) == (3, 2, 0, 3, "success", "closed", None)
            assert [event.name for event in call.events] == ["resilience.retry.scheduled"] * 2
            assert call.status.status_code is trace.StatusCode.UNSET
        assert seen == [0, 1, 2]
        assert resend_count() == 0

    world.run(story)


def test_a_failure_is_an_error_of_its_class_and_nothing_more(world: World) -> None:
    async def story() -> None:
        guarded = world.guard(CircuitBreaker("graph", failure_threshold=1), Script(ValueError("+33612345678")).fn)
        with record_telemetry() as recorded:
            with pytest.raises(ValueError):
                await guarded()
            with pytest.raises(CircuitOpenError):
                await guarded()
            failed, rejected = recorded.spans_named("resilience graph")
            assert (failed.status.status_code, failed.status.description) == (trace.StatusCode.ERROR, "ValueError")
            assert told(rejected, s.OUTCOME, s.CIRCUIT_STATE) == ("rejected", "open")
            assert [event.name for event in rejected.events] == ["resilience.call.rejected"]
            assert [event.name for event in failed.events] == ["resilience.circuit_breaker.transition"]
            assert not [span for span in recorded.spans if "33612345678" in span.to_json()]
            assert recorded.spans_named("attempt") == [], "one attempt is the call"

    world.run(story)


def test_the_probe_of_a_circuit_says_so(world: World) -> None:
    async def story() -> None:
        breaker = CircuitBreaker("graph", failure_threshold=1, recovery_timeout=1)
        policy = Pipeline(Retry(on=(ValueError, CircuitOpenError), base_delay=2, jitter="none"), breaker, name="p")
        with record_telemetry() as recorded:
            assert await world.call(policy, Script(ValueError(), 1).fn) == 1
            kinds = [told(span, s.ATTEMPT_KIND) for span in recorded.spans_named("attempt")]
            assert kinds == [("initial",), ("probe",)]

    world.run(story)


def test_a_coroutine_that_is_driven_by_hand_and_closed_leaves_no_span_current(caplog: pytest.LogCaptureFixture) -> None:
    class Never:
        def __await__(self) -> Any:
            yield

    async def never() -> None:
        await Never()

    guarded = Pipeline(Retry(on=ValueError), CircuitBreaker("b"), name="p")(never)
    with record_telemetry() as recorded:
        coroutine = guarded()
        coroutine.send(None)
        assert trace.get_current_span().is_recording()
        coroutine.close()
        assert trace.get_current_span() is trace.INVALID_SPAN
        coroutine = guarded()
        contextvars.copy_context().run(coroutine.send, None)
        coroutine.close()  # in another context
        assert {told(span, s.OUTCOME) for span in recorded.spans} == {("cancelled",)}
    assert not caplog.records


def test_a_cancelled_call_says_so() -> None:
    async def story() -> None:
        never = Pipeline(Retry(on=ValueError), CircuitBreaker("b"), name="p")(anyio.sleep_forever)
        with record_telemetry() as recorded:
            with anyio.move_on_after(1):
                await never()
            (attempt,) = recorded.spans_named("attempt")
            (call,) = recorded.spans_named("resilience p")
            for span in (attempt, call):
                assert told(span, s.OUTCOME) == ("cancelled",)
                assert span.status.status_code is trace.StatusCode.UNSET

    run_virtual(story)


@pytest.mark.parametrize(
    ("mode", "names"), [("call", {"resilience p"}), ("none", set()), ("call+attempt", {"resilience p", "attempt"})]
)
def test_which_spans_there_are_is_chosen(mode: Any, names: set[str]) -> None:
    policy = Pipeline(Retry(on=ValueError, base_delay=0, max_delay=0), name="p")
    with record_telemetry(spans=mode) as recorded:
        assert policy.call(int) == 0
        assert {span.name for span in recorded.spans} == names
        assert recorded.value("resilience.call.duration") == 1


def test_a_mark_that_cannot_be_set_changes_no_call(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    async def story() -> None:
        breaker = CircuitBreaker("graph", failure_threshold=1, recovery_timeout=1)
        guarded = world.guard(breaker, Script(ConnectionError(), 1).fn)
        with record_telemetry():
            monkeypatch.setattr(telemetry.spans, "probe", lambda: 1 / 0)
            with pytest.raises(ConnectionError):
                await guarded()
            clock = breaker.clock
            clock.sleep(2) if world.name == "blocking" else await clock.async_sleep(2)
            assert await guarded() == 1

    world.run(story)


def test_the_loop_of_a_retry_tells_its_waits(world: World) -> None:
    async def story() -> None:
        retry, script = Retry("again", on=ConnectionError, base_delay=2, jitter="none"), Script(ConnectionError(), 1)
        with record_telemetry() as recorded:
            if world.name == "blocking":
                for attempt in retry:
                    with attempt:
                        drive(script())
            else:
                async for attempt in retry:
                    with attempt:
                        await script()
            (wait,) = recorded.spans_named("wait backoff")
            assert told(wait, s.POLICY, s.WAITED) == ("again", 2)

    world.run(story)


def test_the_loop_of_a_retry_has_spans_of_its_attempts() -> None:
    retry = Retry("loop", on=ValueError, base_delay=0, max_delay=0, max_attempts=2)
    with record_telemetry() as recorded:
        with pytest.raises(ValueError):
            for attempt in retry:
                with attempt:
                    int("x")
        spans = recorded.spans_named("attempt")
        assert [told(span, s.ATTEMPT_NUMBER, s.POLICY, s.ERROR_TYPE) for span in spans] == [
            (1, "loop", "ValueError"),
            (2, "loop", "ValueError"),
        ]
        assert recorded.value("resilience.call.duration") == 0


def test_a_sampler_is_obeyed_and_what_is_inside_stays_in_the_trace() -> None:
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import SimpleSpanProcessor
    from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
    from opentelemetry.sdk.trace.sampling import ALWAYS_OFF

    from resilience_core._telemetry import telemetry

    exporter, provider = InMemorySpanExporter(), TracerProvider(ALWAYS_OFF)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    seen: list[Any] = []

    def look() -> None:
        seen.append(trace.get_current_span().get_span_context().is_valid)

    telemetry.use(None, provider)
    try:
        Pipeline(Retry(on=ValueError, base_delay=0, max_delay=0), name="p").call(look)
        with pytest.raises(ZeroDivisionError):
            CircuitBreaker("b", failure_threshold=1).call(lambda: 1 / 0)
    finally:
        telemetry.use_global()
        provider.shutdown()
    assert seen == [True]
    assert exporter.get_finished_spans() == ()


def test_a_metric_has_the_trace_of_its_call_as_exemplar() -> None:
    from opentelemetry.sdk.metrics import AlwaysOnExemplarFilter, MeterProvider
    from opentelemetry.sdk.metrics.export import InMemoryMetricReader
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import SimpleSpanProcessor
    from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

    from resilience_core._telemetry import telemetry

    reader, exporter, traces = InMemoryMetricReader(), InMemorySpanExporter(), TracerProvider()
    traces.add_span_processor(SimpleSpanProcessor(exporter))
    meters = MeterProvider([reader], exemplar_filter=AlwaysOnExemplarFilter())
    telemetry.use(meters, traces)
    try:
        CircuitBreaker("b").call(int)
        data = reader.get_metrics_data()
    finally:
        telemetry.use_global()
        meters.shutdown()
        traces.shutdown()
    assert data is not None
    (metric,) = [
        metric for metric in data.resource_metrics[0].scope_metrics[0].metrics if metric.name.endswith("call.duration")
    ]
    (span,) = exporter.get_finished_spans()
    (exemplar,) = metric.data.data_points[0].exemplars
    assert exemplar.trace_id == span.context.trace_id
    assert exemplar.span_id == span.context.span_id


def parents(recorded: TelemetryRecorder, call: str, inner: str) -> bool:
    """Whether all spans called `inner` are in the trace of the one called `call`."""
    (outer,) = recorded.spans_named(call)
    spans = recorded.spans_named(inner)
    return bool(spans) and {span.context.trace_id for span in spans} == {outer.context.trace_id}


def test_threads_and_tasks_of_ours_keep_the_trace() -> None:
    inside = Pipeline(Retry(on=ValueError, base_delay=0, max_delay=0), name="inside")

    def work() -> int:
        return inside.call(int)

    async def async_work() -> int:
        return inside.call(int)

    with record_telemetry() as recorded:
        Pipeline(Timeout(30, thread=True), name="threads").call(work)
        assert parents(recorded, "resilience threads", "resilience inside")
    with record_telemetry() as recorded:
        Pipeline(Hedge(delay=30, idempotent=True), name="hedges").call(work)
        assert parents(recorded, "resilience hedges", "resilience inside")
    cache = StaleCache(fresh_for=1, stale_for=1)
    for policy in (Hedge(delay=30, idempotent=True), Coalesce(key=lambda: 1), Timeout(30), cache):
        with record_telemetry() as recorded:
            asyncio.run(Pipeline(policy, name="tasks")(async_work)())
            assert parents(recorded, "resilience tasks", "resilience inside")


def test_task_groups_keep_the_trace_and_pools_of_threads_need_a_copy_of_the_context() -> None:
    inside = CircuitBreaker("inside")

    async def fan_out() -> None:
        async def one() -> None:
            await inside.acall(anyio.sleep, 0)

        async with anyio.create_task_group() as group:
            for _ in range(3):
                group.start_soon(one)
            await anyio.to_thread.run_sync(lambda: inside.call(int))

    def pool() -> None:
        with ThreadPoolExecutor(1) as threads:
            threads.submit(contextvars.copy_context().run, inside.call, int).result()

    with record_telemetry() as recorded:
        asyncio.run(CircuitBreaker("around").acall(fan_out))
        assert len(recorded.spans_named("resilience inside")) == 4
        assert parents(recorded, "resilience around", "resilience inside")
    with record_telemetry() as recorded:
        CircuitBreaker("around").call(pool)
        assert parents(recorded, "resilience around", "resilience inside")


def test_a_coroutine_that_is_abandoned_harms_nothing(caplog: pytest.LogCaptureFixture) -> None:
    class Never:
        def __await__(self) -> Any:
            yield

    async def hang() -> None:
        await Never()

    with record_telemetry() as recorded:
        coroutine: Any = Pipeline(Retry(on=ValueError), CircuitBreaker("b"), name="p")(hang)()
        contextvars.copy_context().run(coroutine.send, None)
        coroutine.close()  # by somebody else, in another context
        gc.collect()
        (span,) = recorded.spans_named("resilience p")
        assert told(span, s.OUTCOME) == ("cancelled",)
    assert "detach" not in caplog.text


def test_waits_that_nobody_felt_have_no_span() -> None:
    with record_telemetry() as recorded:
        policy = Pipeline(Retry(on=ValueError, base_delay=0.0001, max_delay=0.0001, max_attempts=2), name="p")
        with pytest.raises(ValueError):
            policy.call(int, "x")
        assert recorded.spans_named("wait backoff") == []


def test_a_stream_has_a_span_until_its_end_and_it_is_current_only_while_it_opens() -> None:
    current: list[Any] = []

    @Bulkhead("stream", max_concurrent=1)
    def numbers() -> Any:
        current.append(trace.get_current_span().get_span_context().is_valid)
        yield 1
        current.append(trace.get_current_span().get_span_context().is_valid)
        yield 2

    with record_telemetry() as recorded:
        assert list(numbers()) == [1, 2]
        assert len(recorded.spans_named("resilience stream")) == 1
    assert current == [True, False]


def test_events_go_where_they_are_asked_for() -> None:
    from opentelemetry import _logs
    from opentelemetry.sdk._logs import LoggerProvider
    from opentelemetry.sdk._logs.export import InMemoryLogRecordExporter, SimpleLogRecordProcessor

    exporter, provider = InMemoryLogRecordExporter(), LoggerProvider()
    provider.add_log_record_processor(SimpleLogRecordProcessor(exporter))
    policy = Pipeline(Fallback(value=0), CircuitBreaker("graph", failure_threshold=1), name="p")
    told_on_spans: dict[str, int] = {}
    told_in_logs: dict[str, int] = {}
    before = _logs.get_logger_provider
    try:
        _logs._internal._LOGGER_PROVIDER = provider  # can be set once in a process, and this one has other tests
        for mode in ("span", "log", "both", "none"):
            policy.policies[1].reset()  # type: ignore[attr-defined]
            exporter.clear()
            with record_telemetry(events=mode) as recorded:
                assert policy.call(int, "x") == 0
                (span,) = recorded.spans_named("resilience p")
                told_on_spans[mode] = len(span.events)
            told_in_logs[mode] = len(exporter.get_finished_logs())
            if mode == "both":
                names = [entry.log_record.event_name for entry in exporter.get_finished_logs()]
                assert names == ["resilience.circuit_breaker.transition", "resilience.fallback.used"]
                assert span.context.trace_id == exporter.get_finished_logs()[0].log_record.trace_id
    finally:
        _logs._internal._LOGGER_PROVIDER = None
        provider.shutdown()
    assert before is _logs.get_logger_provider
    assert told_on_spans == {"span": 2, "log": 0, "both": 2, "none": 0}
    assert told_in_logs == {"span": 0, "log": 2, "both": 2, "none": 0}


def test_a_time_out_in_a_call_is_told_on_its_attempt() -> None:
    async def story() -> None:
        policy = Pipeline(Retry(on=TimeoutExceeded, max_attempts=2, base_delay=0, max_delay=0), Timeout(1), name="p")
        with record_telemetry() as recorded:
            with pytest.raises(TimeoutExceeded):
                await policy(anyio.sleep_forever)()
            attempts = recorded.spans_named("attempt")
            assert [[event.name for event in span.events] for span in attempts] == [["resilience.timeout"]] * 2
            assert [told(span, s.OUTCOME) for span in attempts] == [("timeout",)] * 2

    run_virtual(story)

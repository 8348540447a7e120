"""What is counted and measured of calls."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import pytest

from resilience_core import (
    AdaptiveConcurrency,
    Bulkhead,
    BulkheadFullError,
    CallRejected,
    CircuitBreaker,
    CircuitOpenError,
    Coalesce,
    Event,
    FailureRate,
    Fallback,
    Hedge,
    Keyed,
    Pipeline,
    RateLimiter,
    RejectionReason,
    Retry,
    RetryBudget,
    StaleCache,
    Timeout,
    TimeoutExceeded,
    TimeWindow,
    Verdict,
)
from resilience_core import _schema as s
from resilience_core._telemetry import outcome_of, telemetry
from resilience_core._telemetry._instruments import OTHER, Few
from resilience_core.testing import TelemetryRecorder, record_telemetry, run_virtual, run_virtual_trio, virtual_time
from tests._cost import size, untraced
from tests.fleet.members import wait_until
from tests.worlds import Script, World, drive


def test_outcomes() -> None:
    assert outcome_of(None) == "success"
    assert outcome_of(ValueError()) == "error"
    assert outcome_of(CallRejected("n", RejectionReason.DEADLINE)) == "rejected"
    assert outcome_of(TimeoutExceeded("n", 1)) == "timeout"
    assert outcome_of(asyncio.CancelledError()) == "cancelled"


def calls(recorded: TelemetryRecorder, **attributes: Any) -> float:
    names = {"outcome": s.OUTCOME, "retried": s.RETRIED, "degraded": s.DEGRADED, "error": s.ERROR_TYPE}
    return recorded.value("resilience.call.duration", {names[key]: value for key, value in attributes.items()})


def test_a_call_is_one_record_with_how_it_ended(world: World) -> None:
    async def story() -> None:
        fn = Script(1, ConnectionError(), 2, ConnectionError(), ConnectionError(), KeyError(), ValueError(), 3).fn
        policy = Pipeline(
            Fallback(value="instead", on=KeyError),
            Retry(on=ConnectionError, max_attempts=2, base_delay=1, jitter="none"),
            name="p",
        )
        guarded = world.guard(policy, fn)
        with record_telemetry() as recorded:
            assert [await guarded(), await guarded()] == [1, 2]
            with pytest.raises(ConnectionError):
                await guarded()
            assert await guarded() == "instead"
            with pytest.raises(ValueError):
                await world.call(policy, fn)
            assert await world.call(policy, fn) == 3
            assert calls(recorded, outcome="success", retried=False, degraded=False) == 2
            assert calls(recorded, outcome="success", retried=True) == 1
            assert calls(recorded, outcome="error", retried=True, error="ConnectionError") == 1
            assert calls(recorded, outcome="success", degraded=True) == 1
            assert calls(recorded, outcome="error", error="ValueError") == 1
            assert calls(recorded) == 6
            assert {point.attributes[s.POLICY] for point in recorded.points("resilience.call.duration")} == {"p"}
            assert (recorded.value("resilience.call.retries"), recorded.sum("resilience.call.retries")) == (2, 2)
            assert recorded.sum("resilience.retry.delay", {s.POLICY: "p", s.DELAY_SOURCE: "backoff"}) == 2
            assert recorded.value("resilience.retry.suppressed", {s.SUPPRESSED_REASON: "attempts_exhausted"}) == 1
            assert recorded.value("resilience.fallbacks", {s.FALLBACK_KIND: "value", s.ERROR_TYPE: "KeyError"}) == 1
        assert not telemetry.recording

    world.run(story)


def test_a_result_that_was_judged_bad_is_no_success(world: World) -> None:
    async def story() -> None:
        guarded = world.guard(
            Pipeline(
                Retry(base_delay=0, max_delay=0),
                classify=lambda error: Verdict.TRANSIENT,
                classify_result=lambda value: Verdict.TRANSIENT,
            ),
            Script(5).fn,
        )
        with record_telemetry() as recorded:
            assert await guarded() == 5
            assert calls(recorded, outcome="error", retried=True) == 1
            (span,) = recorded.spans_named("resilience pipeline")
            assert span.status.status_code.name == "ERROR"

    world.run(story)


def test_rejections_transitions_and_open_times(world: World) -> None:
    async def story() -> None:
        breaker = CircuitBreaker("graph", failure_threshold=2, recovery_timeout=10)
        script = Script(ConnectionError(), ConnectionError(), 1)
        guarded = world.guard(breaker, script.fn)
        with record_telemetry() as recorded:
            for _ in range(2):
                with pytest.raises(ConnectionError):
                    await guarded()
            for _ in range(3):
                with pytest.raises(CircuitOpenError):
                    await guarded()
            breaker.shadow(reason="trial")
            breaker.reset()
            reason = {s.POLICY: "graph", s.REJECTION_REASON: "circuit_open"}
            assert recorded.value("resilience.rejections", reason) == 3
            assert calls(recorded, outcome="rejected", error="CircuitOpenError") == 3
            opened = {s.CIRCUIT_STATE: "open", s.PREVIOUS_STATE: "closed", s.TRANSITION_REASON: "consecutive_failures"}
            assert recorded.value("resilience.circuit_breaker.transitions", opened) == 1
            assert recorded.value("resilience.circuit_breaker.open.duration", {s.POLICY: "graph"}) == 1

    world.run(story)


def test_a_rejection_in_shadow_mode_is_none() -> None:
    limiter = RateLimiter("sms", rate=1, per=60, enforce=0.0)
    with record_telemetry() as recorded:
        for _ in range(3):
            limiter.call(int)
        assert limiter.snapshot()["would_reject"] == 2
        assert recorded.value("resilience.rejections") == 0


def test_states_are_read_when_a_reader_collects_and_policies_of_one_name_are_one_series() -> None:
    rate = FailureRate(0.5, window=TimeWindow(60), minimum_calls=4)
    keep = [
        *(CircuitBreaker("twin", trip=rate) for _ in range(2)),
        Bulkhead("db", max_concurrent=3, max_queue=2, max_wait=1),
        AdaptiveConcurrency("adaptive"),
        RateLimiter("mail", rate=5),
        RateLimiter("by user", rate=5, key=lambda user: user),
        RetryBudget("budget"),
        Timeout(3, name="slow"),
        StaleCache("stored", fresh_for=1, stale_for=1),
    ]
    keep[0].force_open()  # type: ignore[attr-defined]
    with record_telemetry() as recorded:

        def states(name: str) -> dict[Any, float]:
            points = recorded.points("resilience.circuit_breaker.status", {s.POLICY: name})
            return {point.attributes[s.CIRCUIT_STATE]: point.value for point in points}

        assert states("twin") == dict.fromkeys(s.STATES, 0) | {"closed": 1, "forced_open": 1}
        for metric, name, value in (
            ("bulkhead.usage", "db", 0),
            ("bulkhead.limit", "db", 3),
            ("bulkhead.limit", "adaptive", 20),
            ("bulkhead.queue.limit", "db", 2),
            ("rate_limiter.permits.available", "mail", 5),
            ("rate_limiter.rate", "mail", 5),
            ("timeout.abandoned", "slow", 0),
            ("cache.entries", "stored", 0),
        ):
            (point,) = recorded.points(f"resilience.{metric}", {s.POLICY: name})
            assert point.value == value, metric
        assert recorded.points("resilience.rate_limiter.permits.available", {s.POLICY: "by user"}) == []
        assert recorded.value("resilience.retry.budget.available", {s.POLICY: "budget"}) > 0


def test_of_policies_of_one_name_the_worst_ratio_counts() -> None:
    rate = FailureRate(0.9, window=TimeWindow(60), minimum_calls=4)
    good, bad = (CircuitBreaker("ratios", trip=rate) for _ in range(2))
    for _ in range(4):
        good.call(int)
    with pytest.raises(ValueError):
        bad.call(int, "x")
    for _ in range(3):
        bad.call(int)
    with record_telemetry() as recorded:
        assert recorded.value("resilience.circuit_breaker.failure_ratio", {s.POLICY: "ratios"}) == 0.25
        assert recorded.value("resilience.circuit_breaker.window.calls", {s.POLICY: "ratios"}) == 8


def test_waits_for_slots_and_permits(world: World) -> None:
    if world.name == "blocking":
        pytest.skip("a blocking world has one thread of control: nobody else could leave")

    async def story() -> None:
        import anyio

        bulkhead = Bulkhead("db", max_concurrent=1, max_queue=1, max_wait=5)
        limiter = RateLimiter("mail", rate=1, per=2, max_wait=5)

        async def hold(seconds: float) -> None:
            await anyio.sleep(seconds)

        slow, mail = bulkhead(hold), limiter(hold)
        with record_telemetry() as recorded:
            async with anyio.create_task_group() as group:
                group.start_soon(slow, 3)
                await anyio.sleep(0.5)
                await slow(0)
                group.start_soon(slow, 30)
                await anyio.sleep(0.5)
                with pytest.raises(BulkheadFullError):
                    await slow(0)
                with anyio.move_on_after(1):
                    await slow(0)
                group.cancel_scope.cancel()
            await mail(0)
            await mail(0)
            with anyio.move_on_after(1):
                await mail(0)
            waits = {
                point.attributes[s.OUTCOME]: (point.value, point.sum)
                for point in recorded.points("resilience.bulkhead.wait.duration")
            }
            assert waits == {"acquired": (1, 2.5), "rejected": (1, 5), "cancelled": (1, 1)}
            waits = {
                point.attributes[s.OUTCOME]: (point.value, point.sum)
                for point in recorded.points("resilience.rate_limiter.wait.duration")
            }
            assert waits == {"acquired": (1, 2), "cancelled": (1, 1)}
            assert [span.attributes[s.OUTCOME] for span in recorded.spans_named("wait bulkhead")] == [  # type: ignore[index]
                "acquired",
                "rejected",
                "cancelled",
            ]
            assert len(recorded.spans_named("wait rate_limiter")) == 2
            assert calls(recorded, outcome="cancelled") == 3

    world.run(story)


def test_time_outs_say_whether_another_attempt_may_follow() -> None:
    import trio

    async def story() -> None:
        retry = Retry(on=TimeoutExceeded, max_attempts=2, base_delay=0, max_delay=0)
        policy = Pipeline(Timeout(10), Pipeline(retry, Timeout(3), name="inner"), name="p")
        never = policy(trio.sleep_forever)
        with record_telemetry() as recorded:
            with pytest.raises(TimeoutExceeded):
                await never()
            assert recorded.value("resilience.timeouts", {s.TIMEOUT_SCOPE: "attempt", s.POLICY: "p"}) == 2
            with pytest.raises(TimeoutExceeded):
                await Timeout(3, name="alone").acall(trio.sleep_forever)
            assert recorded.value("resilience.timeouts", {s.TIMEOUT_SCOPE: "total", s.POLICY: "alone"}) == 1

    run_virtual_trio(story)


def test_hedges_and_who_wins() -> None:
    import anyio

    async def story() -> None:
        waits = [5, 0, 0]

        async def fetch() -> None:
            await anyio.sleep(waits.pop(0))

        fetched = Pipeline(Hedge(delay=1, idempotent=True), name="p")(fetch)
        with record_telemetry(attempt_durations=True) as recorded:
            await fetched()
            await fetched()
            assert recorded.value("resilience.hedge.wins", {s.ATTEMPT_KIND: "hedge", s.POLICY: "p"}) == 1
            assert recorded.sum("resilience.call.hedges", {s.POLICY: "p"}) == 1
            kinds = {point.attributes[s.ATTEMPT_KIND] for point in recorded.points("resilience.attempt.duration")}
            assert kinds == {"initial", "hedge"}
            (hedged, plain) = recorded.spans_named("resilience p")
            assert (hedged.attributes[s.HEDGES], plain.attributes[s.HEDGES]) == (1, 0)  # type: ignore[index]

    run_virtual(story)


def test_the_first_attempt_can_win_a_hedged_call() -> None:
    import anyio

    async def story() -> None:
        waits = [2, 5]

        async def fetch() -> None:
            await anyio.sleep(waits.pop(0))

        with record_telemetry() as recorded:
            await Hedge("h", delay=1, idempotent=True)(fetch)()
            assert recorded.value("resilience.hedge.wins", {s.ATTEMPT_KIND: "initial", s.POLICY: "h"}) == 1

    run_virtual(story)


def test_lookups_and_ages_of_a_cache(world: World) -> None:
    async def story() -> None:
        fn = Script(1, ConnectionError(), ConnectionError(), KeyError()).fn
        cache = StaleCache(
            "kept",
            fresh_for=10,
            stale_for=10,
            key=lambda: 1,
            negative_on=KeyError,
            negative_for=100,
            on=ConnectionError,
        )
        guarded = world.guard(cache, fn)
        clock = cache.clock
        with record_telemetry() as recorded:
            assert await guarded() == 1
            assert await guarded() == 1
            clock.sleep(15) if world.name == "blocking" else await clock.async_sleep(15)
            assert await guarded() == 1
            clock.sleep(15) if world.name == "blocking" else await clock.async_sleep(15)
            with pytest.raises(ConnectionError):
                await guarded()
            for _ in range(2):
                with pytest.raises(KeyError):
                    await guarded()
            found = {
                point.attributes[s.CACHE_RESULT]: point.value for point in recorded.points("resilience.cache.lookups")
            }
            assert found == {"miss": 3, "hit": 1, "stale": 1, "negative": 1}
            assert recorded.sum("resilience.cache.age", {s.CACHE_RESULT: "stale"}) == 15
            assert recorded.value("resilience.fallbacks", {s.FALLBACK_KIND: "cache"}) == 1
            assert calls(recorded, degraded=True) == 1

    world.run(story)


def test_a_fallback_that_fails_has_not_answered(world: World) -> None:
    async def story() -> None:
        instead = Script(OSError(), 7).fn
        called = (lambda: drive(instead())) if world.name == "blocking" else instead
        retry = Retry("again", on=OSError, base_delay=0, max_delay=0)
        policy = Pipeline(retry, Fallback("kept", call=called, on=ConnectionError), name="p")
        guarded = world.guard(policy, Script(ConnectionError(), 1, ConnectionError()).fn)
        with record_telemetry() as recorded:
            assert await guarded() == 1
            assert calls(recorded, outcome="success", retried=True, degraded=False) == 1
            assert recorded.value("resilience.fallbacks") == 0
            assert await guarded() == 7
            assert calls(recorded, outcome="success", degraded=True) == 1
            assert recorded.value("resilience.fallbacks") == 1

    world.run(story)


def test_an_answer_that_a_retry_was_not_content_with_is_not_the_answer(world: World) -> None:
    async def story() -> None:
        retry = Retry(
            "again",
            on=OSError,
            classify_result=lambda value: Verdict.SUCCESS if value else Verdict.TRANSIENT,
            base_delay=0,
            max_delay=0,
        )
        policy = Pipeline(retry, Fallback(value=None, on=ConnectionError), name="p")
        guarded = world.guard(policy, Script(ConnectionError(), 1).fn)
        with record_telemetry() as recorded:
            assert await guarded() == 1
            assert calls(recorded, outcome="success", retried=True, degraded=False) == 1

    world.run(story)


def test_who_shares_an_answer_that_is_not_the_real_one_has_one_that_is_not() -> None:
    async def story() -> None:
        both = asyncio.Barrier(2)

        async def fails() -> Any:
            await asyncio.sleep(1)
            raise ConnectionError

        policy = Pipeline(Coalesce(key=lambda: 1), Fallback(value=0), name="p")
        guarded = policy(fails)
        with record_telemetry() as recorded:

            async def ask() -> None:
                await both.wait()
                assert await guarded() == 0

            await asyncio.gather(ask(), ask())
            assert calls(recorded, degraded=True) == 2

    run_virtual(story)


def test_retries_behind_a_caller_who_has_an_old_value_are_counted_and_are_not_his(world: World) -> None:
    async def story() -> None:
        cache = StaleCache("kept", fresh_for=10, stale_for=100, key=lambda: 1, while_revalidating=True)
        retry = Retry(on=ConnectionError, base_delay=0, max_delay=0)
        guarded = world.guard(Pipeline(cache, retry, name="p"), Script(1, ConnectionError(), ConnectionError(), 2).fn)
        with record_telemetry() as recorded:
            assert await guarded() == 1
            clock = cache.clock
            clock.sleep(15) if world.name == "blocking" else await clock.async_sleep(15)
            assert await guarded() == 1
            if world.name == "blocking":
                wait_until(lambda: cache.snapshot()["fetching"] == 0, "the refresh is over")
            else:
                await clock.async_sleep(1)
            assert await guarded() == 2
            assert calls(recorded) == calls(recorded, outcome="success", retried=False) == 3
            assert recorded.sum("resilience.call.retries", {s.POLICY: "p", s.OUTCOME: "success"}) == 2
            assert len(recorded.spans_named("resilience p")) == 3

    world.run(story)


def test_a_refresh_that_fails_counts_its_retries_too(world: World) -> None:
    async def story() -> None:
        cache = StaleCache("kept", fresh_for=10, stale_for=100, key=lambda: 1, while_revalidating=True)
        retry = Retry(on=ConnectionError, base_delay=0, max_delay=0, max_attempts=2)
        guarded = world.guard(Pipeline(cache, retry, name="p"), Script(1, *[ConnectionError()] * 2).fn)
        clock = cache.clock
        assert await guarded() == 1
        clock.sleep(15) if world.name == "blocking" else await clock.async_sleep(15)
        with record_telemetry() as recorded:
            assert await guarded() == 1
            if world.name == "blocking":
                wait_until(lambda: cache.snapshot()["fetching"] == 0, "the refresh is over")
            else:
                await clock.async_sleep(1)
            assert recorded.sum("resilience.call.retries", {s.OUTCOME: "error"}) == 1
            assert calls(recorded) == 1

    world.run(story)


def test_a_stale_value_served_while_a_new_one_is_fetched_is_no_fallback() -> None:
    from resilience_core._events import StaleServed

    with record_telemetry() as recorded:
        telemetry._hear(StaleServed("kept", 0.0, "op", 3.0))
        assert recorded.value("resilience.fallbacks") == 0


def test_a_hundred_thousand_recipients_add_no_series() -> None:
    breakers = Keyed(
        lambda key: CircuitBreaker("per-recipient"), key=lambda to: to, name="by recipient", max_keys=1_000
    )
    policy = Pipeline(breakers, RateLimiter("users", rate=1e9, per=1, key=lambda to: to), name="send")

    @policy
    def send(to: str) -> None:
        if to.endswith("7"):
            raise ConnectionError(to)

    def series(recorded: TelemetryRecorder) -> set[Any]:
        return {
            (metric.name, tuple(point.attributes.items()))
            for metric in s.METRICS
            for point in recorded.points(metric.full_name)
            if point.attributes.get(s.POLICY) in ("send", "each", "by recipient", "users")
        }

    with record_telemetry(spans="none") as recorded:
        few: set[Any] = set()
        recipients = size(100_000, 20_000)
        with untraced():
            for number in range(recipients):
                try:
                    send(f"+336{number:08}")
                except ConnectionError:
                    pass
                if number == 10:
                    few = series(recorded)
        assert series(recorded) == few
        assert recorded.value("resilience.call.duration") == recipients


def test_names_beyond_a_limit_are_one_series() -> None:
    few = Few(2)
    assert [few(name) for name in ("a", "b", "c", "a", "d")] == ["a", "b", OTHER, "a", OTHER]
    kinds = [type(f"Odd{number}", (Exception,), {}) for number in range(105)]

    @CircuitBreaker("odd", failure_threshold=1_000)
    def fail(number: int) -> None:
        raise kinds[number]

    with record_telemetry(spans="none") as recorded:
        for number in range(105):
            with pytest.raises(kinds[number]):
                fail(number)
        assert len(recorded.points("resilience.call.duration")) == 101
        assert calls(recorded, error=OTHER) == 5


def test_an_error_says_of_itself_what_it_is_called() -> None:
    class GraphError(Exception):
        telemetry_type = "131026"

    def send() -> None:
        raise GraphError

    with record_telemetry() as recorded:
        with pytest.raises(GraphError):
            CircuitBreaker("graph").call(send)
        assert calls(recorded, error="131026") == 1


def test_an_error_that_fails_to_say_what_it_is_called_changes_no_call(world: World) -> None:
    class Odd(ConnectionError):
        @property
        def telemetry_type(self) -> str:
            raise ValueError

    async def story() -> None:
        policy = Pipeline(Retry(on=ConnectionError, base_delay=0, max_delay=0), CircuitBreaker("graph"), name="p")
        with record_telemetry() as recorded:
            assert await world.call(policy, Script(Odd(), 1).fn) == 1
            with pytest.raises(Odd):
                await world.call(policy, Script(Odd()).fn)
            assert calls(recorded) == 2
            assert recorded.points("resilience.call.duration", {s.ERROR_TYPE: Odd.__qualname__})

    world.run(story)


def test_caches_and_waits_have_names_as_all_else_has(monkeypatch: pytest.MonkeyPatch) -> None:
    with record_telemetry() as recorded:
        Pipeline(StaleCache(fresh_for=10, stale_for=10, key=lambda: 1), name="p").call(lambda: 1)
        (point,) = recorded.points("resilience.cache.lookups")
        assert point.attributes[s.POLICY] == "p", "it was given no name"
        monkeypatch.setattr(telemetry.instruments, "_policies", Few(1))
        for name in ("a", "b", "c"):
            StaleCache(name, fresh_for=10, stale_for=10, key=lambda: 1).call(lambda: 1)
            telemetry.instruments.wait(s.BULKHEAD_WAIT, name, 1.0, "acquired")
        for metric in ("resilience.cache.lookups", "resilience.bulkhead.wait.duration"):
            assert {point.attributes[s.POLICY] for point in recorded.points(metric)} <= {"p", "a", OTHER}


def test_a_policy_that_cannot_tell_its_state_hides_no_other_one(caplog: pytest.LogCaptureFixture) -> None:
    class Broken(Bulkhead):
        def snapshot(self) -> dict[str, Any]:
            raise OSError("+33612345678")

    kept = [Broken("broken one", max_concurrent=1), Bulkhead("beside a broken one", max_concurrent=7)]
    with record_telemetry() as recorded:
        assert recorded.value("resilience.bulkhead.limit", {s.POLICY: kept[1].name}) == 7
    assert "33612345678" not in caplog.text


@pytest.mark.parametrize("kind", ["blocking", "async"])
def test_a_stream_is_measured_until_its_end(kind: str) -> None:
    breaker = CircuitBreaker("feed")

    @breaker
    def numbers(good: bool) -> Any:
        yield 1
        if not good:
            raise ConnectionError
        yield 2

    @breaker
    async def async_numbers(good: bool) -> Any:
        yield 1
        if not good:
            raise ConnectionError
        yield 2

    @breaker
    async def unopened(good: bool) -> Any:
        raise ConnectionError
        yield

    async def use() -> None:
        assert [item async for item in async_numbers(True)] == [1, 2]
        with pytest.raises(ConnectionError):
            [item async for item in async_numbers(False)]
        with pytest.raises(ConnectionError):
            [item async for item in unopened(False)]

    with record_telemetry() as recorded:
        if kind == "async":
            asyncio.run(use())
        else:
            stream = numbers(True)
            assert next(stream) == 1
            assert calls(recorded) == 0, "it is not over"
            assert list(stream) == [2]
            with pytest.raises(ConnectionError):
                list(numbers(False))
            with pytest.raises(ConnectionError):
                list(breaker(_unopened)())
        assert calls(recorded, outcome="success") == 1
        assert calls(recorded, outcome="error") == 2
        assert len(recorded.spans_named("resilience feed")) == 3
    assert list(numbers(True)) == [1, 2]  # and unmeasured


def _unopened() -> Any:
    raise ConnectionError
    yield


class Broken:
    """A recorder of metrics or spans that fails at everything."""

    def __getattr__(self, name: str) -> Any:
        raise RuntimeError("the exporter is broken")


def test_what_fails_while_recording_never_changes_a_call(
    world: World, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def story() -> None:
        cache = StaleCache("kept", fresh_for=1, stale_for=1, key=lambda: 1)
        retry = Retry(on=ConnectionError, base_delay=1, jitter="none", max_attempts=2)
        policy = Pipeline(Fallback(value=0), cache, retry, name="p")
        guarded = world.guard(policy, Script(ConnectionError(), 5).fn)
        limited = world.guard(RateLimiter("slow", rate=1, per=1, max_wait=5), Script(1).fn)
        with record_telemetry(events="both", attempt_durations=True):
            assert telemetry.instruments is not None
            monkeypatch.setattr(telemetry.instruments, "call_duration", None)
            monkeypatch.setattr(telemetry.instruments, "_record", Broken())
            monkeypatch.setattr(telemetry.instruments, "_hear", Broken())
            assert telemetry.spans is not None
            tracer = telemetry.spans._tracer
            telemetry.spans._tracer = Broken()  # type: ignore[assignment]
            assert await guarded() == 5
            assert [await limited(), await limited()] == [1, 1]
            telemetry.store_operation("redis", "read", 1.0, None)
            telemetry.configure(
                telemetry.settings.__class__(events="both", store_durations=True, attempt_durations=True)
            )
            monkeypatch.setattr(telemetry.instruments, "_record", Broken())
            telemetry.store_operation("redis", "read", 1.0, OSError())
            assert telemetry.spans is not None
            telemetry.spans._tracer = tracer
            monkeypatch.setattr(type(telemetry.spans), "end", lambda *_: Broken().x)
            monkeypatch.setattr(type(telemetry.spans), "tell", lambda *_: Broken().x)
            assert await world.call(Pipeline(retry, name="q"), Script(ConnectionError(), 7).fn) == 7

    telemetry._told.clear()
    with caplog.at_level(logging.WARNING, "resilience_core.otel"):
        world.run(story)
    told = [record.getMessage() for record in caplog.records if record.name == "resilience_core.otel"]
    assert len(told) == len(set(told)), "each once"
    assert any("metrics" in line for line in told)
    assert any("spans" in line for line in told)


def test_a_listener_that_raises_does_not_keep_events_from_the_metrics() -> None:
    breaker = CircuitBreaker("graph", failure_threshold=1)
    breaker.subscribe(lambda event: 1 / 0)  # type: ignore[arg-type,return-value]
    with record_telemetry() as recorded:
        with pytest.raises(ValueError):
            breaker.call(int, "x")
        assert recorded.value("resilience.circuit_breaker.transitions") == 1


def test_events_of_others_are_heard_and_not_counted() -> None:
    class Odd(Event):
        pass

    with record_telemetry() as recorded:
        telemetry._hear(Odd("p", 0.0))
        assert recorded.value("resilience.rejections") == 0


def test_exchanges_with_a_store_are_measured_where_it_is_asked_for() -> None:
    with record_telemetry(store_durations=True) as recorded:
        telemetry.store_operation("redis", "read", 0.5, None)
        telemetry.store_operation("redis", "read", 0.5, OSError())
        assert recorded.sum("resilience.store.operation.duration", {s.STORE_OPERATION: "read"}) == 1
        assert recorded.value("resilience.store.operation.duration", {s.ERROR_TYPE: "OSError"}) == 1
    telemetry.store_operation("redis", "read", 0.5, None)


def test_metrics_without_spans_are_told_of_everything_too(world: World) -> None:
    async def story() -> None:
        retry = Retry(on=ConnectionError, base_delay=1, jitter="none")
        limited = Pipeline(retry, RateLimiter("slow", rate=1, per=3, max_wait=5), name="p")
        breaker = CircuitBreaker("probed", failure_threshold=1, recovery_timeout=0.5)
        guarded = world.guard(Pipeline(retry, breaker, name="q"), Script(ConnectionError(), 2).fn)
        with record_telemetry(spans="none", attempt_durations=True) as recorded:
            fn = Script(ConnectionError(), 1).fn
            assert [await world.call(limited, fn), await world.call(limited, fn)] == [1, 1]
            assert await guarded() == 2
            assert recorded.value("resilience.attempt.duration", {s.ATTEMPT_KIND: "retry"}) == 2
            assert recorded.value("resilience.rate_limiter.wait.duration") == 2
            assert recorded.spans == []

    world.run(story)


def test_the_state_of_stores_is_observed() -> None:
    from resilience_core._telemetry import stores

    class Store:
        store_type = "of a test"
        state = "connected"

    kept = [Store(), Store(), Store()]
    kept[1].state, kept[2].state = "degraded", "idle"
    for store in kept:
        stores.add(store)
    with record_telemetry() as recorded:
        points = recorded.points("resilience.store.status", {s.STORE_TYPE: "of a test"})
        assert {point.attributes[s.STORE_STATE]: point.value for point in points} == {"connected": 1, "degraded": 1}


def test_the_waits_of_guarded_blocks_are_measured() -> None:
    with record_telemetry() as recorded, virtual_time():
        limiter = RateLimiter("blocks", rate=1, per=2, max_wait=5)
        for _ in range(2):
            with limiter.guard():
                pass
        assert recorded.sum("resilience.rate_limiter.wait.duration", {s.POLICY: "blocks"}) == 2
        assert recorded.value("resilience.call.duration") == 0


def test_log_records_that_cannot_be_emitted_change_nothing(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("opentelemetry._logs.get_logger", lambda *_, **__: 1 / 0)
    telemetry._told.clear()
    with record_telemetry(events="log"):
        assert Pipeline(Fallback(value=0), name="p").call(int, "x") == 0
    assert "Recording events failed (ZeroDivisionError)" in caplog.text


def test_a_blocking_wait_that_is_interrupted_was_a_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    class Interrupted:
        def wake(self) -> bool:
            return True

        def wait(self, timeout: float | None, usual: bool = False) -> bool:
            raise KeyboardInterrupt

    monkeypatch.setattr("resilience_core._policies.bulkhead.ThreadWaiter", Interrupted)
    monkeypatch.setattr("resilience_core._policies.rate_limiter.pause", lambda clock, wait: Interrupted().wait(wait))
    bulkhead = Bulkhead("db", max_concurrent=1, max_queue=1, max_wait=5)
    limiter = RateLimiter("mail", rate=1, per=60, max_wait=100)
    limiter.call(int)
    with record_telemetry() as recorded, bulkhead.guard():
        for gate in (bulkhead, limiter):
            with pytest.raises(KeyboardInterrupt):
                gate.call(int)
        for source in ("bulkhead", "rate_limiter"):
            assert recorded.value(f"resilience.{source}.wait.duration", {s.OUTCOME: "cancelled"}) == 1


def test_a_reload_is_applied_whatever_the_meter_does(caplog: pytest.LogCaptureFixture) -> None:
    telemetry._told.clear()
    with record_telemetry(), pytest.MonkeyPatch.context() as patch:
        patch.setattr(telemetry.instruments, "_record", Broken())
        telemetry.count_reload("success")
    assert "metrics" in caplog.text

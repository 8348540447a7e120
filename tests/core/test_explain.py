"""Why was my call rejected? Every kind of unhappy end, told in words and as values."""

from __future__ import annotations

import copy
import json
import pickle
import re
from collections.abc import Callable
from typing import Any

import anyio
import pytest

from resilience_core import (
    AIMD,
    AdaptiveConcurrency,
    AdaptiveRetry,
    AdaptiveThrottle,
    Bulkhead,
    CallRejected,
    Chaos,
    CircuitBreaker,
    Coalesce,
    ConfigurationError,
    CountWindow,
    Deadline,
    FailureRate,
    Fallback,
    Gate,
    Hedge,
    Judgement,
    Pipeline,
    Priority,
    ProbeRate,
    RampStep,
    RateLimiter,
    RejectionReason,
    Retry,
    RetryBudget,
    RetryBudgetExhausted,
    StaleCache,
    Timeout,
    TimeoutExceeded,
    TokenQuota,
    Verdict,
    current_priority,
    deadline,
    explain,
    prioritised,
)
from resilience_core.testing import run_virtual, virtual_time
from tests.worlds import ManualClock, Script, World

TIME = r"\d\d:\d\d:\d\d"


def boom() -> None:
    raise ConnectionResetError


def error_of(fn: Callable[[], Any]) -> Exception:
    """What `fn` raises."""
    with pytest.raises(Exception) as raised:
        fn()
    return raised.value


def open_circuit(breaker: CircuitBreaker, failures: int = 5) -> None:
    for _ in range(failures):
        error_of(lambda: breaker.call(boom))


# --- every rejection kind --------------------------------------------------------------------------------------------


def circuit_open() -> Exception:
    with virtual_time() as clock:
        breaker = CircuitBreaker("graph")
        open_circuit(breaker)
        clock.advance(29)
        return error_of(lambda: breaker.call(boom))


def circuit_open_by_rate() -> Exception:
    breaker = CircuitBreaker("graph", trip=FailureRate(0.5, CountWindow(20), minimum_calls=10))
    open_circuit(breaker, 10)
    return error_of(lambda: breaker.call(boom))


def circuit_open_after_probe() -> Exception:
    with virtual_time() as clock:
        breaker = CircuitBreaker("graph")
        open_circuit(breaker)
        clock.advance(60)
        error_of(lambda: breaker.call(boom))
        return error_of(lambda: breaker.call(boom))


def circuit_forced_open() -> Exception:
    with virtual_time():
        breaker = CircuitBreaker("graph")
        breaker.force_open(actor="ann", reason="migration", for_=600)
        return error_of(lambda: breaker.call(boom))


def circuit_forced_open_without_words() -> Exception:
    breaker = CircuitBreaker("graph")
    breaker.force_open()
    return error_of(lambda: breaker.call(boom))


def circuit_ramping() -> Exception:
    with virtual_time() as clock:
        breaker = CircuitBreaker("graph", success_threshold=1, ramp=[RampStep(0.1, 10)])
        open_circuit(breaker)
        clock.advance(60)
        breaker.call(int)
        breaker.call(int)
        return error_of(lambda: breaker.call(int))


def probe_limit() -> Exception:
    with virtual_time() as clock:
        breaker = CircuitBreaker("graph")
        open_circuit(breaker)
        clock.advance(60)
        return breaker.call(lambda: error_of(lambda: breaker.call(int)))


def bulkhead_full() -> Exception:
    bulkhead = Bulkhead("graph", max_concurrent=1)
    return bulkhead.call(lambda: error_of(lambda: bulkhead.call(int)))


def bulkhead_wait_timeout() -> Exception:
    async def story() -> Exception:
        bulkhead = Bulkhead("graph", max_concurrent=1, max_queue=2, max_wait=3)
        async with bulkhead.guard():
            with pytest.raises(CallRejected) as raised:
                await bulkhead.acall(anyio.sleep, 0)
        return raised.value

    error: Exception = run_virtual(story)
    return error


def threads_abandoned() -> Exception:
    timeout = Timeout(0.001, thread=True, max_abandoned=1)
    timeout._abandoned.append(None)
    return error_of(lambda: timeout.call(int))


def rate_limited() -> Exception:
    with virtual_time():
        limiter = RateLimiter("graph", rate=1, per=10)
        limiter.call(int)
        return error_of(lambda: limiter.call(int))


def rate_limited_by_key_and_wait() -> Exception:
    with virtual_time():
        limiter = RateLimiter("graph", rate=1, per=10, max_wait=4, key=lambda *_: "a")
        limiter.call(int)
        return error_of(lambda: limiter.call(int))


def rate_limited_by_the_server() -> Exception:
    with virtual_time():
        limiter = RateLimiter("graph", rate=100, classify=lambda error: Judgement(Verdict.THROTTLED, retry_after=7.0))
        error_of(lambda: limiter.call(boom))
        return error_of(lambda: limiter.call(int))


def throttled() -> Exception:
    throttle = AdaptiveThrottle("graph", maximum=1.0)
    errors = [error_of(lambda: throttle.call(boom)) for _ in range(500)]
    return next(error for error in errors if isinstance(error, CallRejected))


def concurrency_limited() -> Exception:
    limit = AdaptiveConcurrency("graph", law=AIMD(initial=1, minimum=1))
    return limit.call(lambda: error_of(lambda: limit.call(int)))


def shed() -> Exception:
    limit = AdaptiveConcurrency("graph", law=AIMD(initial=2, minimum=1), priority=current_priority)

    def inside() -> Exception:
        with prioritised(Priority.BACKGROUND):
            return error_of(lambda: limit.call(int))

    return limit.call(inside)


def unfair_share() -> Exception:
    limit = AdaptiveConcurrency("graph", law=AIMD(initial=4, minimum=1), user=lambda *_: "a")
    # One user alone may have all; a second one with a call inside halves that.
    limit._slots.admit(None, "b")
    return limit.call(lambda: limit.call(lambda: error_of(lambda: limit.call(int))))


def deadline_passed() -> Exception:
    with virtual_time(), deadline(0):
        return error_of(lambda: Deadline(5).call(int))


def deadline_while_waiting() -> Exception:
    async def story() -> Exception:
        coalesce = Coalesce("graph", key=lambda *_: "a")
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(coalesce.acall, anyio.sleep, 10)
            await anyio.sleep(1)
            with deadline(2), pytest.raises(CallRejected) as raised:
                await coalesce.acall(anyio.sleep, 10)
        return raised.value

    error: Exception = run_virtual(story)
    return error


def paced() -> Exception:
    with virtual_time():
        retry = AdaptiveRetry(classify=lambda error: Verdict.THROTTLED, base_delay=0)
        for _ in range(20):
            error_of(lambda: retry.call(boom))
        with deadline(0.1):
            return error_of(lambda: [retry.call(int) for _ in range(20)])


class Closed(Gate):
    """Somebody's gate, which says no more than it must."""

    kind = "closed"
    name = "closed"

    def enter(self, args: Any, kwargs: Any) -> Any:
        raise CallRejected(self.name, RejectionReason.RETRY_BUDGET)

    def settle(self, permit: Any, judgement: Judgement) -> None:
        """Nothing was admitted."""


def gate_of_somebody_else() -> Exception:
    return error_of(lambda: Closed().call(int))


def budget_exhausted() -> Exception:
    return RetryBudgetExhausted("graph", RejectionReason.RETRY_BUDGET)


REJECTIONS = {
    circuit_open: rf"circuit breaker 'graph' rejected the call: open since {TIME} after 5 consecutive failures, "
    r"last ConnectionResetError, next probe in 31 s",
    circuit_open_by_rate: rf"circuit breaker 'graph' rejected the call: open since {TIME} after 50% failures of the "
    r"last 20 calls \(at least 10 calls\), last ConnectionResetError, next probe in (60|59\.\d+) s",
    circuit_open_after_probe: rf"circuit breaker 'graph' rejected the call: open since {TIME} after a failed probe, "
    r"last ConnectionResetError, next probe in 60 s",
    circuit_forced_open: rf"circuit breaker 'graph' rejected the call: opened by hand by ann \(migration\) at {TIME}, "
    rf"until {TIME}",
    circuit_forced_open_without_words: rf"circuit breaker 'graph' rejected the call: opened by hand at {TIME}",
    circuit_ramping: r"circuit breaker 'graph' rejected the call: closed again, and admits 10% of the calls, "
    r"last ConnectionResetError",
    probe_limit: r"circuit breaker 'graph' rejected the call: half open, and 1 of 1 probes are out, "
    r"last ConnectionResetError",
    bulkhead_full: r"bulkhead 'graph' rejected the call: 1 of 1 slots are taken, and 0 of 0 waiting places",
    bulkhead_wait_timeout: r"bulkhead 'graph' rejected the call: none of 1 slots came free within 3 s",
    threads_abandoned: r"timeout rejected the call: 1 threads that it gave up still run, and no more than that may",
    rate_limited: r"rate limiter 'graph' rejected the call: 1 calls per 10 s, burst 1, are used up; "
    r"its turn comes in 10 s",
    rate_limited_by_key_and_wait: r"rate limiter 'graph' rejected the call: 1 calls per 10 s, burst 1, are used up "
    r"for this key; its turn comes in 10 s, more than the 4 s it may wait",
    rate_limited_by_the_server: r"rate limiter 'graph' rejected the call: closed for 7 s as the server asked",
    throttled: r"adaptive throttle 'graph' rejected the call: of the last \d+ requests the server took on 0, "
    r"so \d+% are rejected here",
    concurrency_limited: r"adaptive concurrency 'graph' rejected the call: 1 calls run, the limit is 1 now",
    shed: r"adaptive concurrency 'graph' rejected the call: 1 of 2 calls run, and the rest is kept for more important "
    r"ones",
    unfair_share: r"adaptive concurrency 'graph' rejected the call: 3 of 4 calls run, and this user has a full share "
    r"of them",
    deadline_passed: r"deadline rejected the call: the deadline passed before the call",
    deadline_while_waiting: r"policy 'graph' rejected the call: the deadline passed while it waited for the call of "
    r"somebody else",
    paced: r"adaptive retry rejected the call: [\d.]+ calls per 1 s, burst 1, are used up; its turn comes in [\d.]+ s"
    r", more than the 0.[\d]+ s it may wait",
    gate_of_somebody_else: r"policy 'closed' rejected the call: the retry budget is used up",
    budget_exhausted: r"policy 'graph' rejected the call: the retry budget is used up",
}


@pytest.mark.parametrize("make", REJECTIONS, ids=lambda make: make.__name__)
def test_why_was_my_call_rejected(make: Callable[[], CallRejected]) -> None:
    error = make()
    rejection = error.explain().decisions[0]
    assert re.fullmatch(REJECTIONS[make], rejection.text), rejection.text
    assert rejection.inputs["reason"] is error.reason
    assert {**error.inputs, **rejection.inputs, "kind": None} == {**rejection.inputs, "kind": None}
    assert json.loads(json.dumps(error.explain().as_dict()))["decisions"][0]["action"] == "rejected"
    for copied in (pickle.loads(pickle.dumps(error)), copy.copy(error)):
        assert copied.explain().decisions[0].text == rejection.text, "also where the policy is not at hand"


def test_every_reason_to_reject_is_explained_above() -> None:
    explained = {make().reason for make in REJECTIONS}  # type: ignore[attr-defined]
    assert explained == set(RejectionReason)


def test_a_time_out_and_a_wrong_option_explain_themselves() -> None:
    assert [str(decision) for decision in TimeoutExceeded("graph", 8.0).explain().decisions] == [
        "timeout 'graph' gave the call up after 8 s; whether it took effect is unknown"
    ]
    error = error_of(lambda: Bulkhead("b", max_concurrent=0))
    assert isinstance(error, ConfigurationError)
    assert error.explain().decisions[0].text == "the call was refused by ConfigurationError"


def test_an_error_that_no_policy_saw_is_only_told() -> None:
    explanation = explain(ValueError("secret"))
    assert str(explanation) == "the call ended with ValueError:\n  the call raised ValueError"


# --- the story of one call -------------------------------------------------------------------------------------------


def told(error: BaseException) -> list[str]:
    return [decision.text for decision in explain(error).decisions]


def test_decisions_come_in_their_order_through_all_attempts(world: World) -> None:
    async def story() -> None:
        breaker = CircuitBreaker("graph", failure_threshold=2)
        retry = Retry("again", max_attempts=3, base_delay=1, jitter="none")
        pipeline = Pipeline(retry, breaker, name="send", classify=lambda error: Verdict.TRANSIENT)
        guarded = world.guard(pipeline, Script(ConnectionResetError(), ConnectionRefusedError()).fn)
        with pytest.raises(CallRejected) as raised:
            await guarded()
        texts = told(raised.value)
        assert re.fullmatch(rf".* opens after 2 .*; rejects until {TIME}", texts.pop(4))
        assert re.fullmatch(r".* rejected the call: open since .* next probe in 58 s", texts.pop(5))
        assert texts == [
            "the call raised ConnectionResetError",
            "circuit breaker 'graph' counts it as a failure (transient, ConnectionResetError): 1 of 2 in a row",
            "retry 'again' attempt 1 of 3 failed (transient); tries again in 1 s (backoff)",
            "the call raised ConnectionRefusedError",
            "retry 'again' attempt 2 of 3 failed (transient); tries again in 2 s (backoff)",
            "retry 'again' gives up after attempt 3 of 3 (ignored): a circuit that rejects is not asked again",
        ]
        assert explain(raised.value).operation.endswith("scripted")

    world.run(story)


@pytest.mark.parametrize(
    ("retry", "error", "told_last"),
    [
        (Retry(on=OSError, max_attempts=1), OSError(), "(transient): that was the last one"),
        (Retry(on=OSError), ValueError(), "(ignored): such an outcome is not tried again"),
        (
            Retry(classify=lambda error: Verdict.UNKNOWN),
            OSError(),
            "(unknown): it may have been carried out, and the call is not declared idempotent",
        ),
        (
            Retry(classify=lambda error: Judgement(Verdict.THROTTLED, retry_after=21_600.0)),
            OSError(),
            "(throttled): the server asks for 2.16e+04 s, more than max_delay",
        ),
        (
            Retry(on=OSError, max_elapsed=0.5, jitter="none"),
            OSError(),
            "(transient): the next attempt, 1 s later, would begin after the deadline",
        ),
        (
            Retry(on=OSError, budget=RetryBudget("b", law=TokenQuota(1, retry_cost=5))),
            OSError(),
            "(transient): the retry budget is used up",
        ),
    ],
    ids=["exhausted", "permanent", "unknown", "retry after", "deadline", "budget"],
)
def test_why_a_retry_gave_up(retry: Retry, error: Exception, told_last: str) -> None:
    def fail() -> None:
        raise error

    raised = error_of(lambda: retry.call(fail))
    assert raised is error
    last = told(raised)[-1]
    assert last.startswith("retry gives up after attempt 1 of ")
    assert last.endswith(told_last)


def test_a_retry_inside_another_one_says_that_it_leaves_it_to_that() -> None:
    inner = Retry("inner", on=ConnectionError, only_outermost=True)
    outer = Retry("outer", on=ConnectionError, max_attempts=1)
    assert "retry 'inner' gives up after attempt 1 of 3 (transient): the retry around makes the attempts" in told(
        error_of(lambda: outer.call(inner(boom)))
    )


def test_a_wait_that_the_server_asked_for_is_told_as_that() -> None:
    with virtual_time():
        retry = Retry(classify=lambda error: Judgement(Verdict.THROTTLED, retry_after=3.0), max_attempts=2)
        limiter = RateLimiter("graph", rate=10, max_wait=5, classify=retry.classify)
        texts = told(error_of(lambda: Pipeline(retry, limiter, name="asked").call(boom)))
    assert texts[1:3] == [
        "rate limiter 'graph' starts no call for 3 s, as the server asked",
        "retry attempt 1 of 2 failed (throttled); tries again in 3 s (as the server asked)",
    ]


def test_what_a_breaker_does_not_count_is_told_and_what_it_cannot_count_is_not() -> None:
    breaker = CircuitBreaker("graph", classify=lambda error: Verdict.PERMANENT)
    assert told(error_of(lambda: breaker.call(boom)))[1] == (
        "circuit breaker 'graph' does not count it against the dependency (permanent)"
    )

    def late() -> None:
        breaker.reset()
        boom()

    assert told(error_of(lambda: breaker.call(late))) == ["the call raised ConnectionResetError"]


def test_an_error_that_closes_a_circuit_says_so() -> None:
    with virtual_time() as clock:
        breaker = CircuitBreaker(
            "graph",
            success_threshold=1,
            classify=lambda error: Verdict.PERMANENT if isinstance(error, ValueError) else Verdict.TRANSIENT,
        )
        open_circuit(breaker)
        clock.advance(60)
        probe = error_of(lambda: breaker.call(int, "x"))
    assert told(probe)[1] == "circuit breaker 'graph' takes it for a good probe and closes (permanent: it answered)"


def test_a_sample_of_probes_is_not_told_as_failures_in_a_row() -> None:
    with virtual_time() as clock:
        breaker = CircuitBreaker("graph", probe_rate=ProbeRate(10, 0.5))
        open_circuit(breaker)
        clock.advance(60)
        probe = error_of(lambda: breaker.call(boom))
    assert told(probe)[1] == "circuit breaker 'graph' counts it as a failure (transient, ConnectionResetError)"


def test_windows_tell_what_they_hold() -> None:
    breaker = CircuitBreaker("graph", trip=FailureRate(0.5, CountWindow(20), minimum_calls=10))
    breaker.call(int)
    assert told(error_of(lambda: breaker.call(boom)))[1].endswith(": 1 of 2 calls in its window")


def test_a_fault_on_purpose_is_told_as_that() -> None:
    chaos = Chaos(error=ConnectionError, error_rate=1.0, enabled=True)
    assert told(error_of(lambda: chaos.call(int))) == [
        "the call raised ConnectionError",
        "chaos injected this error on purpose",
    ]


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_the_callers_exception_stays_picklable_and_keeps_its_story(protocol: int) -> None:
    error = error_of(lambda: CircuitBreaker("pickled").call(boom))
    assert told(pickle.loads(pickle.dumps(error, protocol))) == told(error)


def test_an_exception_that_is_raised_again_in_another_call_begins_a_new_story() -> None:
    error = ConnectionResetError()
    pipeline = Pipeline(CircuitBreaker("reused"), name="reused")

    def fail() -> None:
        raise error

    for count in (1, 2, 3):
        assert error_of(lambda: pipeline.call(fail)) is error
        assert told(error)[1].endswith(f"{count} of 5 in a row")
        assert len(told(error)) == 2


def test_an_exception_that_is_raised_again_through_a_retry_alone_begins_a_new_story() -> None:
    error = ConnectionResetError()
    retry = Retry(on=ConnectionError, max_attempts=2, base_delay=0)

    def fail() -> None:
        raise error

    lengths = []
    for _ in range(3):
        assert error_of(lambda: retry.call(fail)) is error
        lengths.append(len(told(error)))
    assert lengths == [3, 3, 3]
    script = iter([True, False])

    def fail_once() -> str:
        if next(script):
            raise error
        return "ok"

    assert retry.call(fail_once) == "ok"
    error_of(lambda: retry.call(fail))
    assert len(told(error)) == 3


def test_a_pipeline_around_another_goes_on_with_its_story() -> None:
    inner = Pipeline(CircuitBreaker("inner"), name="inner")
    outer = Pipeline(CircuitBreaker("outer"), name="outer")
    texts = told(error_of(lambda: outer.call(inner(boom))))
    assert [text[:32] for text in texts[1:]] == ["circuit breaker 'inner' counts i", "circuit breaker 'outer' counts i"]
    assert len(outer.explain()[0].decisions) == 3
    assert len(inner.explain()[0].decisions) == 2


def test_a_story_is_bounded_and_keeps_its_beginning_and_its_end() -> None:
    retry = Retry(on=ConnectionError, max_attempts=500, base_delay=0)
    texts = told(error_of(lambda: retry.call(boom)))
    assert len(texts) == 64
    assert texts[1].startswith("retry attempt 1 of 500")
    assert texts[-1].startswith("retry gives up after attempt 500")
    one = ConnectionError()

    def again() -> None:
        raise one

    texts = told(error_of(lambda: retry.call(again)))
    assert len(texts) == 64
    assert texts[1].startswith("retry attempt 1 of 500")


def test_nothing_of_the_caller_is_in_a_story() -> None:
    breaker = CircuitBreaker("graph")
    pipeline = Pipeline(Fallback(value="s3cret"), Retry(on=ValueError, base_delay=0), breaker, name="private")

    def fail(number: str) -> None:
        raise ValueError(number)

    assert pipeline.call(fail, "+33612345678") == "s3cret"
    (call,) = pipeline.explain()
    assert not re.search("33612345678|s3cret", f"{call} {call.as_dict()} {call!r}")


# --- the last unhappy calls of a pipeline ----------------------------------------------------------------------------


def test_a_pipeline_remembers_calls_that_were_saved_and_calls_that_were_not(world: World) -> None:
    async def story() -> None:
        pipeline = Pipeline(
            Retry(on=ConnectionError, max_attempts=2, base_delay=0), CircuitBreaker("graph"), name="send"
        )
        guarded = world.guard(
            pipeline, Script("fine", ConnectionError(), "saved", ConnectionError(), ConnectionError()).fn
        )
        assert await guarded() == "fine"
        assert pipeline.explain() == []
        assert await guarded() == "saved"
        with pytest.raises(ConnectionError):
            await guarded()
        saved, failed = pipeline.explain()
        assert saved.error_type is None
        assert saved.decisions[-1].text == "retry attempt 2 succeeded"
        assert str(saved).splitlines()[0].endswith("scripted was answered all the same:")
        assert failed.error_type == "ConnectionError"
        assert failed.decisions[-1].text.endswith("that was the last one")

    world.run(story)


def test_fallbacks_and_stale_values_are_remembered_too(world: World) -> None:
    async def story() -> None:
        def other() -> str:
            return "other"

        fallback = Pipeline(Fallback(call=other), name="fallback_story")
        assert await world.guard(fallback, Script(ConnectionError()).fn)() == "other"
        assert fallback.explain()[0].decisions[-1].text == "fallback answers what another function answers instead"
        cache = Pipeline(StaleCache("listing", fresh_for=0, stale_for=60), name="cache_story")
        guarded = world.guard(cache, Script("old", ConnectionError()).fn)
        assert await guarded() == await guarded() == "old"
        (call,) = cache.explain()
        assert re.fullmatch(
            r"stale cache 'listing' answers with a value that was fetched \S+ s ago", call.decisions[-1].text
        )

    world.run(story)


def test_a_fallback_that_fails_itself_is_one_unhappy_call() -> None:
    def other() -> None:
        raise LookupError

    pipeline = Pipeline(Fallback(call=other), name="fails twice")
    error_of(lambda: pipeline.call(boom))
    (call,) = pipeline.explain()
    assert call.error_type == "LookupError"


def test_what_a_fallback_was_to_replace_is_told_where_the_fallback_fails(world: World) -> None:
    def other() -> None:
        raise LookupError

    async def fail() -> None:
        boom()

    async def story() -> None:
        pipeline = Pipeline(Fallback(call=other), CircuitBreaker("first"), name="fails twice")
        with pytest.raises(LookupError) as caught:
            await world.call(pipeline, fail)
        texts = told(caught.value)
        assert texts[0] == "the call raised ConnectionResetError"
        assert texts[1].startswith("circuit breaker 'first' counts it")
        assert texts[-1] == "the call raised LookupError"

    world.run(story)


def test_other_options_leave_the_reason_of_an_open_circuit_as_it_was() -> None:
    breaker = CircuitBreaker("as it was", failure_threshold=2)
    for _ in range(2):
        error_of(lambda: breaker.call(boom))
    before = told(error_of(lambda: breaker.call(boom)))
    breaker.reconfigure(failure_threshold=9)
    assert told(error_of(lambda: breaker.call(boom))) == before
    breaker.reconfigure(recovery_timeout=600)
    assert told(error_of(lambda: breaker.call(boom))) != before


def test_errors_of_other_peoples_classes_are_told_as_far_as_they_go() -> None:
    class Bare(CallRejected):
        def __init__(self) -> None:
            Exception.__init__(self, "secret")

    class BareTimeout(TimeoutExceeded):
        def __init__(self) -> None:
            Exception.__init__(self, "secret")

    class OwnReason(CallRejected):
        def __init__(self) -> None:
            super().__init__("own", RejectionReason.CIRCUIT_OPEN, None, None, {"reason": "another", "x": 1})

    def raising(error: Exception) -> Callable[[], None]:
        def fail() -> None:
            raise error

        return fail

    for error, text in (
        (Bare(), "was refused by "),
        (BareTimeout(), "was refused by "),
        (OwnReason(), "the circuit is open"),
    ):
        seen = error_of(lambda: CircuitBreaker("foreign").call(raising(error)))  # noqa: B023 - called at once
        assert text in told(seen)[0]
        assert "secret" not in str(explain(seen))


def test_late_answers_and_hedges_are_remembered() -> None:
    async def story() -> None:
        pipeline = Pipeline(Hedge(delay=1), name="hedged", idempotent=True)
        await pipeline.acall(anyio.sleep, 2)

        async def late(error: Exception) -> None:
            await anyio.sleep(3)
            raise error

        with pytest.raises(ConnectionError):
            await pipeline.acall(late, ConnectionError())
        answered, failed = pipeline.explain()
        assert answered.decisions[-1].text == "hedge started 2 attempts, because the first was late"
        assert [decision.action for decision in failed.decisions] == ["raised", "hedged"]

    run_virtual(story)


def test_streams_are_remembered(world: World) -> None:
    async def story() -> None:
        pipeline = Pipeline(CircuitBreaker("stream"), name="stream")
        if world.name == "blocking":

            @pipeline
            def numbers() -> Any:
                yield 1
                raise ConnectionError

            with pytest.raises(ConnectionError):
                list(numbers())
        else:

            @pipeline
            async def items() -> Any:
                yield 1
                raise ConnectionError

            with pytest.raises(ConnectionError):
                [item async for item in items()]
        assert [call.error_type for call in pipeline.explain()] == ["ConnectionError"]

    world.run(story)


def test_many_equal_rejections_are_one_entry_and_push_nothing_out() -> None:
    pipeline = Pipeline(CircuitBreaker("graph", failure_threshold=1), name="flood", history=3)
    for _ in range(50):
        error_of(lambda: pipeline.call(boom))
    opened, rejected = pipeline.explain()
    assert opened.decisions[-1].action == "opened"
    assert rejected.times == 49
    assert "call ended with CircuitOpenError (49 times in a row):" in str(rejected)


def test_only_so_many_calls_are_kept_and_none_if_none_are_wanted() -> None:
    kept, none = Pipeline(Timeout(5), name="kept", history=2), Pipeline(Timeout(5), name="none", history=0)

    @none
    def fail() -> None:
        raise ConnectionError

    for _ in range(5):
        error_of(lambda: kept.call(boom))
        error_of(lambda: none.call(boom))
        error_of(fail)
    assert (len(kept.explain()), len(none.explain())) == (2, 0)


def test_cancellation_is_no_unhappy_call() -> None:
    async def story() -> None:
        pipeline = Pipeline(CircuitBreaker("cancelled"), name="cancelled")
        with anyio.move_on_after(1):
            await pipeline.acall(anyio.sleep, 10)
        assert pipeline.explain() == []

    run_virtual(story)


def test_callers_who_share_a_call_each_have_their_entry() -> None:
    async def story() -> None:
        pipeline = Pipeline(CircuitBreaker("shared"), Coalesce("shared"), name="shared")
        error = ConnectionError()

        @pipeline
        async def fetch() -> None:
            await anyio.sleep(1)
            raise error

        async def ask() -> None:
            with pytest.raises(ConnectionError):
                await fetch()

        async with anyio.create_task_group() as tasks:
            for _ in range(3):
                tasks.start_soon(ask)
        assert sum(call.times for call in pipeline.explain()) == 3

    run_virtual(story)


def test_times_are_those_of_the_policys_clock() -> None:
    breaker = CircuitBreaker("timed", clock=ManualClock(1000.0))
    error = error_of(lambda: breaker.call(boom))
    assert explain(error).decisions[1].at == 1000.0
    assert re.fullmatch(rf"{TIME} circuit breaker 'timed' counts .*", str(explain(error).decisions[1]))


def test_an_open_circuit_gives_the_reason_of_its_last_change_whoever_tells_late() -> None:
    breaker = CircuitBreaker("late", failure_threshold=2)
    for _ in range(2):
        error_of(lambda: breaker.call(boom))
    earlier = breaker._circuit.last_transition
    breaker.force_open(actor="ann", reason="migration")
    breaker._tell(earlier)  # as a thread does that was interrupted between the change and this
    assert error_of(lambda: breaker.call(boom)).explain().decisions[0].inputs["actor"] == "ann"  # type: ignore[attr-defined]

"""Verdicts, errors, events, registry, clock: the words that all policies share."""

from __future__ import annotations

import asyncio
import copy
import gc
import logging
import pickle
import time

import pytest

from resilience_core import (
    BulkheadFullError,
    CallRejected,
    CircuitBreaker,
    CircuitOpenError,
    Clock,
    ConfigurationError,
    DeadlineExceeded,
    Event,
    Judgement,
    LastFailure,
    Pipeline,
    RateLimitedError,
    RejectionReason,
    ResilienceError,
    RetryBudgetExhausted,
    Timeout,
    TimeoutExceeded,
    Verdict,
    judgement_of,
    registry,
    subscribe,
)
from resilience_core._clock import SYSTEM
from resilience_core._events import Bus, everywhere
from resilience_core._verdicts import BadResult, Judge, count_every_error, forget_judgement, judge_from


def test_a_classifier_is_asked_once_and_again_after_forgetting() -> None:
    asked = []

    def classify(error: Exception) -> Verdict:
        asked.append(error)
        return Verdict.TRANSIENT

    judge, error = Judge(classify), ValueError()
    assert [judge(error).verdict, judge(error).verdict] == [Verdict.TRANSIENT] * 2
    assert len(asked) == 1
    forget_judgement(error)
    judge(error)
    assert len(asked) == 2
    other = Judge(lambda error: Judgement(Verdict.PERMANENT, reason="other"))
    assert other(error) == Judgement(Verdict.PERMANENT, reason="other")
    assert judgement_of(error) == Judgement(Verdict.PERMANENT, reason="other")
    assert judgement_of(KeyError()) is None


def test_the_mark_travels_with_a_pickled_error() -> None:
    error = ValueError("x")
    Judge(lambda error: Judgement(Verdict.THROTTLED, retry_after=3.0))(error)
    judgement = judgement_of(pickle.loads(pickle.dumps(error)))
    assert judgement == Judgement(Verdict.THROTTLED, retry_after=3.0)
    assert Judge(count_every_error).explained(error).reason == "ValueError"


def test_three_answers_are_fixed() -> None:
    judge = Judge(count_every_error)
    assert judge(CircuitOpenError("b", RejectionReason.CIRCUIT_OPEN)).verdict is Verdict.IGNORED
    assert judge(TimeoutExceeded("t", 1.0)).verdict is Verdict.UNKNOWN
    assert judge(ResilienceError()).verdict is Verdict.TRANSIENT
    for interrupt in (KeyboardInterrupt(), SystemExit(), GeneratorExit(), asyncio.CancelledError()):
        assert judge(interrupt).verdict is Verdict.IGNORED
    assert judge(BadResult(5, Judgement(Verdict.THROTTLED))).verdict is Verdict.THROTTLED
    picky = Judge(lambda error: Verdict.UNKNOWN if isinstance(error, KeyError) else Verdict.PERMANENT)
    group = ExceptionGroup("g", [ValueError(), ExceptionGroup("h", [KeyError(), ValueError()])])
    assert picky(group).verdict is Verdict.UNKNOWN
    assert picky(ExceptionGroup("g", [ValueError()])).verdict is Verdict.PERMANENT


@pytest.mark.parametrize("classify", [lambda error: 1 / 0, lambda error: "transient"])
def test_a_classifier_that_fails_means_unknown_and_is_logged(
    classify: object, caplog: pytest.LogCaptureFixture
) -> None:
    assert Judge(classify)(ValueError()).verdict is Verdict.UNKNOWN  # type: ignore[arg-type]
    assert "classifier failed" in caplog.text


def test_on_is_the_short_form() -> None:
    for on in (OSError, (OSError, KeyError), lambda error: isinstance(error, OSError)):
        judge = judge_from(on=on, classify=None)
        assert judge is not None
        assert judge(ConnectionError()).verdict is Verdict.TRANSIENT
        assert judge(ValueError()).verdict is Verdict.IGNORED
    assert judge_from(on=None, classify=None) is None
    with pytest.raises(ConfigurationError):
        judge_from(on=OSError, classify=count_every_error)


ERRORS = [
    cls("name", RejectionReason.DEADLINE, 2.5, LastFailure("ValueError", 1.0))
    for cls in (
        CallRejected,
        CircuitOpenError,
        BulkheadFullError,
        RateLimitedError,
        RetryBudgetExhausted,
        DeadlineExceeded,
    )
]


@pytest.mark.parametrize("error", [*ERRORS, TimeoutExceeded("name", 2.5)])
def test_errors_pickle_copy_and_print(error: CallRejected | TimeoutExceeded) -> None:
    for again in (pickle.loads(pickle.dumps(error)), copy.copy(error), copy.deepcopy(error)):
        assert type(again) is type(error)
        assert (str(again), vars(again)) == (str(error), vars(error))
    assert "name" in str(error)
    assert "2.5 s" in str(error)


def test_rejections_say_why() -> None:
    assert str(
        CircuitOpenError("graph", RejectionReason.CIRCUIT_OPEN, 31.0, LastFailure("ConnectionResetError", 0.0))
    ) == ("'graph' rejected the call: the circuit is open, last failure ConnectionResetError, try again in 31 s")
    assert str(CallRejected("x", RejectionReason.BULKHEAD_FULL)) == (
        "'x' rejected the call: all slots and waiting places are taken"
    )
    assert isinstance(TimeoutExceeded("t", 1.0), TimeoutError)
    assert TimeoutExceeded("t", 1.0).errno is None
    assert isinstance(ConfigurationError(), ValueError)


def test_a_listener_cannot_hurt_and_is_told_off_once(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(everywhere, "listeners", ())  # those of other tests end when they are collected
    bus, heard = Bus(), []

    def broken(event: Event) -> None:
        raise RuntimeError("listener")

    end_broken = bus.subscribe(broken)
    end = bus.subscribe(heard.append)
    end_global = subscribe(heard.append)
    event = Event("p", 0.0)
    assert bus.hears(Event)
    with caplog.at_level(logging.ERROR, "resilience_core.events"):
        bus.emit(event)
        bus.emit(event)
    assert len(caplog.records) == 1
    assert heard == [event] * 4
    everywhere.emit(event)
    assert heard == [event] * 5
    for unsubscribe in (end, end_broken, end_global, end):
        unsubscribe()
    assert not bus.hears(Event)


def test_the_registry_finds_living_policies() -> None:
    breaker = CircuitBreaker("found by name")
    pipeline = Pipeline(Timeout(1), name="found by name")
    assert registry.get("found by name", "circuit_breaker") is breaker
    assert registry.find("found by name") == [breaker, pipeline]
    with pytest.raises(LookupError, match="2 policies"):
        registry.get("found by name")
    assert {"kind": "circuit_breaker", "name": "found by name"}.items() <= registry.snapshot()[0].items() or any(
        row["name"] == "found by name" for row in registry.snapshot()
    )
    del breaker, pipeline
    gc.collect()
    with pytest.raises(LookupError, match="no policy"):
        registry.get("found by name")


def test_the_system_clock_waits() -> None:
    assert SYSTEM.now == time.monotonic
    Clock().sleep(0)
    asyncio.run(Clock().async_sleep(0))  # type: ignore[arg-type]

"""What adapters add to spans."""

from __future__ import annotations

import logging
from typing import Any

import pytest

from resilience_core import CircuitBreaker, Pipeline, Retry
from resilience_core._telemetry import telemetry
from resilience_core.otel import annotate
from resilience_core.testing import record_telemetry


def answer() -> None:
    annotate({"http.response.status_code": 200, "absent": None})
    annotate({"messaging.system": "post"}, call=True)


def guarded() -> Any:
    return Pipeline(Retry(on=ConnectionError), name="p")(answer)


def test_an_adapter_tells_of_the_attempt_and_of_its_call() -> None:
    with record_telemetry() as recorded:
        guarded()()
    (call,), (attempt,) = recorded.spans_named("resilience p"), recorded.spans_named("attempt")
    assert attempt.attributes is not None
    assert attempt.attributes["http.response.status_code"] == 200
    assert "absent" not in attempt.attributes
    assert call.attributes is not None
    assert call.attributes["messaging.system"] == "post"
    assert "messaging.system" not in attempt.attributes


def test_without_spans_of_attempts_all_is_on_that_of_the_call() -> None:
    with record_telemetry(spans="call") as recorded:
        guarded()()
    (call,) = recorded.spans
    assert call.attributes is not None
    assert call.attributes["http.response.status_code"] == 200


def test_without_spans_and_outside_of_calls_it_does_nothing() -> None:
    annotate({"a": 1})
    guarded()()
    with record_telemetry(spans="none") as recorded:
        annotate({"a": 1})
        guarded()()
    assert recorded.spans == []


def test_a_span_that_refuses_attributes_does_not_change_the_call(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    telemetry._told.clear()
    with record_telemetry():
        assert telemetry.spans is not None
        monkeypatch.setattr(type(telemetry.spans), "annotate", lambda *_: 1 / 0)
        with caplog.at_level(logging.WARNING, "resilience_core.otel"):
            CircuitBreaker("b").call(answer)
    (record,) = caplog.records
    assert record.getMessage().startswith("Recording spans failed (ZeroDivisionError); told once")

"""Judging results, and what is recorded of calls."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from typing import Any

import pytest

from resilience_core import (
    CallRejected,
    CircuitBreaker,
    Fallback,
    Pipeline,
    RejectionReason,
    Retry,
    StaleCache,
    TimeoutExceeded,
    Verdict,
)
from resilience_core import _telemetry as module
from resilience_core._telemetry import CallRecord, Telemetry, outcome_of, telemetry
from resilience_core._weave.site import Kind, Site
from tests.worlds import Script, World


def test_a_classifier_of_results_that_fails_changes_nothing(world: World, caplog: pytest.LogCaptureFixture) -> None:
    async def story() -> None:
        guarded = world.guard(Pipeline(CircuitBreaker("b"), classify_result=lambda value: 1 / 0), Script(5).fn)
        assert await guarded() == 5

    world.run(story)
    assert "classify_result failed" in caplog.text


def test_the_last_bad_result_is_returned(world: World) -> None:
    async def story() -> None:
        guarded = world.guard(
            Pipeline(
                Fallback(value=0, on=KeyError),
                Pipeline(Retry(base_delay=0, max_delay=0), classify_result=lambda value: Verdict.TRANSIENT),
                classify=lambda error: Verdict.PERMANENT,
            ),
            Script(1, 2, 3, 4).fn,
        )
        assert await guarded() == 3

    world.run(story)


def test_outcomes() -> None:
    assert outcome_of(None) == "success"
    assert outcome_of(ValueError()) == "error"
    assert outcome_of(CallRejected("n", RejectionReason.DEADLINE)) == "rejected"
    assert outcome_of(TimeoutExceeded("n", 1)) == "timeout"
    assert outcome_of(asyncio.CancelledError()) == "cancelled"


MEASURE = """
import asyncio, sys
from opentelemetry import metrics
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader

reader = InMemoryMetricReader()
provider_first = sys.argv[1] == "first"
if provider_first:
    metrics.set_meter_provider(MeterProvider([reader]))
from resilience_core import *

breaker = CircuitBreaker("graph", failure_threshold=3)
outcomes = [ConnectionError(), 5, ConnectionError(), ConnectionError(), ConnectionError()]

def work():
    outcome = outcomes.pop(0)
    if isinstance(outcome, Exception):
        raise outcome
    return outcome

async def async_work():
    return work()

guard = Pipeline(Fallback(value="instead", on=CircuitOpenError), Retry(on=ConnectionError, base_delay=0, max_delay=0),
                 breaker, name="p")
guarded, guarded_async = guard(work), guard(async_work)
if not provider_first:
    metrics.set_meter_provider(MeterProvider([reader]))
    reader.get_metrics_data()  # the first collection tells that somebody listens
assert guarded() == 5
try:
    asyncio.run(guarded_async())
except ConnectionError:
    pass
assert guard.call(work) == "instead"
assert asyncio.run(guard.acall(async_work)) == "instead"
for resource in reader.get_metrics_data().resource_metrics:
    for scope in resource.scope_metrics:
        for metric in scope.metrics:
            for point in metric.data.data_points:
                value = getattr(point, "count", None) or getattr(point, "value", None)
                print(metric.name, value, sorted(point.attributes.items()))
"""


@pytest.mark.parametrize("order", ["first", "later"])
def test_duration_transitions_and_states_reach_a_real_provider(order: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, order], capture_output=True, text=True, check=False, cwd=module.__file__[:-29]
    )
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    durations = [line for line in lines if line.startswith("resilience.call.duration")]
    assert len(durations) == 4
    retried = "('resilience.call.retried', True)"
    assert [retried in line for line in durations].count(True) == 2
    assert sum("('resilience.degraded', True)" in line for line in durations) == 2
    assert sum(
        "'error.type', 'ConnectionError'" in line and "'resilience.outcome', 'error'" in line for line in durations
    )
    (transition,) = [line for line in lines if line.startswith("resilience.circuit_breaker.transitions")]
    assert "('resilience.transition.reason', 'consecutive_failures')" in transition
    states = [line for line in lines if line.startswith("resilience.circuit_breaker.status")]
    assert len(states) == 6
    assert [" 1 " in line for line in states if "'open')" in line] == [True]


def test_in_this_process_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same paths under coverage: the flag is up, and a histogram of our own listens."""
    recorded: list[Any] = []

    class Histogram:
        def record(self, seconds: float, attributes: dict[str, Any]) -> None:
            recorded.append(attributes)

    class Counter:
        def add(self, amount: int, attributes: dict[str, Any]) -> None:
            recorded.append(attributes)

    monkeypatch.setattr(telemetry, "on", True)
    monkeypatch.setattr(telemetry, "_duration", Histogram())
    monkeypatch.setattr(telemetry, "_transitions", Counter())
    policy = Pipeline(
        Fallback(value=0),
        StaleCache(fresh_for=0, stale_for=100, key=lambda: 1),
        Retry(on=ConnectionError, base_delay=0, max_delay=0, max_attempts=2),
        CircuitBreaker("b", failure_threshold=3),
    )
    script = Script(ConnectionError(), 5, ConnectionError())
    guarded = policy(script.fn)
    assert [asyncio.run(guarded()), asyncio.run(guarded())] == [5, 5]
    assert asyncio.run(policy.acall(script.fn)) == 5
    assert policy(lambda: 7)() == 7 or True
    assert policy.call(lambda: 7) == 7 or True
    with pytest.raises(KeyError):
        CircuitBreaker("c")(lambda: {}["x"])()
    assert {attributes.get("resilience.outcome") for attributes in recorded} == {"success", "error", None}
    assert any(attributes.get("resilience.degraded") for attributes in recorded)

    async def fails() -> None:
        raise KeyError

    with pytest.raises(KeyError):
        asyncio.run(CircuitBreaker("c")(fails)())


def test_nothing_is_recorded_before_it_is_prepared() -> None:
    unprepared = Telemetry()
    unprepared.record(Site("o", "p", Kind.BLOCKING), 1.0, CallRecord(), None)
    unprepared.count_transition("p", "closed", "open", "manual")
    assert not unprepared.on


def test_states_are_observed_from_the_registry() -> None:
    breaker = CircuitBreaker("observed by a test")
    observing = Telemetry()
    points = [
        (point.value, (point.attributes or {})["resilience.circuit_breaker.state"])
        for point in observing._observe_states(None)  # type: ignore[arg-type]
        if (point.attributes or {})["resilience.policy.name"] == breaker.name
    ]
    assert (1, "closed") in points
    assert sum(value for value, _ in points) == 1
    assert observing.on

"""Breakers under threads: nothing is lost, nobody is let in twice."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from resilience_core import (
    CallRejected,
    CircuitBreaker,
    CircuitState,
    CircuitTransition,
    ConsecutiveFailures,
    CountWindow,
    FailureRate,
)
from resilience_core._machines.rates import Rate
from resilience_core._machines.trip_rules import Consecutive
from resilience_core.testing import VirtualClock, record_events

FILE = "breaker/concurrency.json"
COMPARED = ("errors", "requests", "successes", "ignored", "failures", "consecutive_failures", "half_open_transitions")
SKIPS = {
    "pybreaker-redis-fail-max-bound": "shared state belongs to the fleet, which counts exactly",
    "polly-lock-on-failure": "no lock is held while the user's code runs (DESIGN 7)",
}


def choose(content: list[dict[str, Any]], directory: Path) -> list[dict[str, Any]]:
    return content


def skip(vector: dict[str, Any]) -> str | None:
    return SKIPS.get(vector["id"])


def run(vector: dict[str, Any]) -> None:
    RUNNERS[vector["id"]](vector["setup"], vector["expect"])


class Ignored(Exception):
    pass


def _together(workers: int, work: Callable[[], None]) -> None:
    barrier = threading.Barrier(workers)

    def start() -> None:
        barrier.wait()
        work()

    threads = [threading.Thread(target=start) for _ in range(workers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def _calls(breaker: CircuitBreaker, setup: dict[str, Any]) -> dict[str, int]:
    counts = {"requests": 0, "successes": 0, "ignored": 0, "failures": 0, "rejected": 0}
    lock = threading.Lock()

    def outcome(kind: str) -> None:
        if kind != "success":
            raise Ignored if kind == "ignored" else ConnectionError

    guarded = breaker(outcome)

    def work() -> None:
        own = dict.fromkeys(counts, 0)
        for number in range(setup["calls_per_worker"]):
            kind = setup["outcome_pattern"][number % len(setup["outcome_pattern"])]
            own["requests"] += 1
            try:
                guarded(kind)
                own["successes"] += 1
            except Ignored:
                own["ignored"] += 1
            except ConnectionError:
                own["failures"] += 1
            except CallRejected:
                own["rejected"] += 1
        with lock:
            for key, value in own.items():
                counts[key] += value

    _together(setup["workers"], work)
    return counts


def _parallel(setup: dict[str, Any], expect: dict[str, Any]) -> None:
    calls = setup["workers"] * setup["calls_per_worker"]
    breaker = CircuitBreaker("b", trip=FailureRate(0.6, CountWindow(calls), minimum_calls=3), on=ConnectionError)
    counts = _calls(breaker, setup)
    assert counts["rejected"] == expect["errors"]
    for key in ("requests", "successes", "ignored", "failures"):
        assert counts[key] == expect["counts"][key]
    memory = breaker._circuit.memory
    assert isinstance(memory, Rate)
    assert (memory.window.calls, memory.window.bad) == (counts["successes"], counts["failures"])


def _failures(setup: dict[str, Any], expect: dict[str, Any]) -> None:
    breaker = CircuitBreaker("b", trip=ConsecutiveFailures(setup["failure_threshold"]))
    _calls(breaker, setup)
    memory = breaker._circuit.memory
    assert isinstance(memory, Consecutive)
    assert memory.count == expect["consecutive_failures"]


def _half_open(setup: dict[str, Any], expect: dict[str, Any]) -> None:
    clock = VirtualClock()
    breaker = CircuitBreaker("b", failure_threshold=1, recovery_timeout=setup["open_duration"], clock=clock)
    breaker.force(CircuitState.OPEN)
    clock.advance(setup["open_duration"])
    with record_events(breaker) as events:
        _calls(breaker, setup)
    changes = [event for event in events.of(CircuitTransition) if event.state == "half_open"]
    assert len(changes) == expect["half_open_transitions"]


def _permits(setup: dict[str, Any], expect: dict[str, Any]) -> None:
    assert expect == {"admitted": "<= k"}
    for permitted in (1, 3):
        clock = VirtualClock()
        breaker = CircuitBreaker("b", half_open_max_calls=permitted, clock=clock)
        breaker.force(CircuitState.OPEN)
        clock.advance(60)
        admitted: list[int] = []

        def enter(breaker: CircuitBreaker = breaker, admitted: list[int] = admitted) -> None:
            try:
                breaker.enter((), {})
                admitted.append(1)
            except CallRejected:
                pass

        _together(16, enter)
        assert len(admitted) == permitted


RUNNERS = {
    "gobreaker-parallel-10x10000": _parallel,
    "pybreaker-fail-3x500": _failures,
    "pybreaker-half-open-5-threads": _half_open,
    "r4j-1432-half-open-permits-race": _permits,
}

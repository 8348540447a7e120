"""The health report: what is well, what is not, and what is a reason to send no requests."""

from __future__ import annotations

import json
from collections.abc import Generator
from typing import Any

import pytest

from resilience_core import (
    Bulkhead,
    CircuitBreaker,
    CircuitState,
    ConfigurationError,
    FailureRate,
    RateLimiter,
    RetryBudget,
    StaleCache,
)
from resilience_core.health import health_report
from resilience_core.health._report import MOST_CHECKS
from resilience_core.registry import Registry
from resilience_core.testing import VirtualClock, virtual_time


@pytest.fixture
def clock() -> Generator[VirtualClock]:
    with virtual_time() as virtual:
        yield virtual


def of(*policies: Any) -> Registry:
    own = Registry()
    for policy in policies:
        own.add(policy)
    own.kept = policies  # type: ignore[attr-defined] - it alone would let them go
    return own


def the_check(report: dict[str, Any], key: str) -> dict[str, Any]:
    json.dumps(report, allow_nan=False)
    (check,) = report["checks"][key]
    return check  # type: ignore[no-any-return]


def fail() -> None:
    raise ConnectionError("a secret")


def opened(name: str, **options: Any) -> CircuitBreaker:
    breaker = CircuitBreaker(name, **{"failure_threshold": 1, **options})
    with pytest.raises(ConnectionError):
        breaker.call(fail)
    return breaker


def test_all_is_well() -> None:
    bulkhead, breaker = Bulkhead("uploads", max_concurrent=2), CircuitBreaker("graph")
    report = health_report(of(bulkhead, breaker))
    assert (report["status"], "notes" in report, "omitted" in report) == ("pass", False, False)
    assert the_check(report, "graph:circuit_breaker.state") == {
        "componentType": "circuit_breaker",
        "status": "pass",
        "observedValue": "closed",
        "state": "closed",
        "rejected": 0,
        "would_reject": 0,
        "ramp": 1.0,
        "probes": 0,
    }
    assert (
        the_check(report, "uploads:bulkhead.usage").items()
        >= {
            "observedValue": 0,
            "observedUnit": "calls",
            "limit": 2,
            "status": "pass",
        }.items()
    )
    assert health_report(of())["checks"] == {}
    assert health_report()["status"] in ("pass", "warn")


def test_an_open_breaker_is_a_warning_and_says_why_since_when_and_until_when(clock: VirtualClock) -> None:
    breaker = opened("graph", trip=FailureRate(0.5, minimum_calls=1), failure_threshold=5)
    clock.advance(1000)
    report = health_report(of(breaker))
    assert report["status"] == "warn"
    check = the_check(report, "graph:circuit_breaker.state")
    assert (
        check.items()
        >= {
            "status": "warn",
            "observedValue": "open",
            "time": "2023-11-14T22:13:20.000+00:00",
            "reason": "failure_ratio",
            "next_probe_in": 0.0,
            "failure_ratio": 0.0,
            "window_calls": 0,
            "last_error_type": "ConnectionError",
        }.items()
    )
    assert "secret" not in json.dumps(report)


def test_each_kind_has_its_own_measure() -> None:
    budget, limiter = RetryBudget("budget"), RateLimiter("limiter", rate=5, per=1)
    cache = StaleCache(fresh_for=1, stale_for=1, name="cache")
    report = health_report(of(budget, limiter, cache))
    assert the_check(report, "limiter:rate_limiter.permits")["observedValue"] == 5
    assert the_check(report, "cache:stale_cache.entries")["observedValue"] == 0
    assert the_check(report, "budget:retry_budget.balance")["observedUnit"] == "tokens"


def test_a_bulkhead_without_room_is_a_warning() -> None:
    bulkhead = Bulkhead("uploads", max_concurrent=1)
    with bulkhead.guard():
        assert health_report(of(bulkhead))["status"] == "warn"
    assert health_report(of(bulkhead))["status"] == "pass"


class _Odd:
    def __init__(self, name: str, kind: str, told: Any) -> None:
        self.name = name
        self.kind = kind  # type: ignore[misc]
        self.told = told
        self.clock = VirtualClock()

    def snapshot(self) -> Any:
        if isinstance(self.told, Exception):
            raise self.told
        return self.told


def test_a_policy_that_cannot_be_read_fails_in_its_own_check_only() -> None:
    report = health_report(of(_Odd("raises", "odd", ValueError("a secret")), CircuitBreaker("graph")))
    assert report["status"] == "warn"
    assert the_check(report, "raises:odd") == {
        "componentType": "odd",
        "status": "fail",
        "output": "unreadable: ValueError",
    }


@pytest.mark.parametrize(
    ("kind", "told"),
    [
        ("bulkhead", {}),
        ("bulkhead", {"usage": "many", "limit": 1, "queue_usage": 0, "queue_limit": 0}),
        ("circuit_breaker", {"state": "open"}),
        ("circuit_breaker", {"state": "forced_open", "since": 1e300}),
        ("odd", {"state": ["a", "list"], "status": "mine"}),
    ],
)
def test_a_policy_of_somebody_else_may_tell_anything(kind: str, told: dict[str, Any]) -> None:
    report = health_report(of(_Odd("odd", kind, told), _Odd("odd", kind, told)), critical=["odd"])
    assert report["status"] in ("pass", "warn")
    (check,) = next(iter(report["checks"].values()))
    assert check["status"] in ("pass", "warn")
    assert "time" not in check


def test_policies_of_one_name_are_one_check_in_which_the_worst_counts(clock: VirtualClock) -> None:
    rule = FailureRate(0.5, minimum_calls=4)
    half = CircuitBreaker("graph", trip=rule)
    with pytest.raises(ConnectionError):
        half.call(fail)
    bad = opened("graph")
    with pytest.raises(Exception, match="graph"):
        bad.call(fail)
    unreadable = _Odd("graph", "circuit_breaker", ValueError())
    others = [CircuitBreaker("graph", trip=rule) for _ in range(8)]
    check = the_check(health_report(of(half, bad, *others)), "graph:circuit_breaker.state")
    assert (
        check.items()
        >= {
            "status": "warn",
            "state": "open",
            "count": 10,
            "states": {"open": 1, "closed": 9},
            "rejected": 1,
            "failure_ratio": 1.0,
            "window_calls": 1,
            "next_probe_in": 60.0,
        }.items()
    )
    check = the_check(health_report(of(bad, unreadable)), "graph:circuit_breaker.state")
    assert (check["status"], check["states"]) == ("fail", {"unreadable": 1, "open": 1})
    alike = [Bulkhead("uploads", max_concurrent=2) for _ in range(3)]
    check = the_check(health_report(of(*alike)), "uploads:bulkhead.usage")
    assert (check["limit"], check["count"], "states" in check) == (6, 3, False)


def test_of_very_many_the_best_are_left_out_and_counted() -> None:
    well = [CircuitBreaker(f"b{number}") for number in range(MOST_CHECKS + 4)]
    bad = opened("zzz")
    report = health_report(of(*well, bad))
    assert (len(report["checks"]), report["omitted"]) == (MOST_CHECKS, 5)
    assert next(iter(report["checks"])) == "zzz:circuit_breaker.state"


@pytest.mark.parametrize(
    ("state", "status"),
    [("shadow", "pass"), ("disabled", "warn"), ("forced_open", "warn"), ("half_open", "warn"), ("closed", "pass")],
)
def test_what_was_done_by_hand_is_seen(state: str, status: str) -> None:
    breaker = CircuitBreaker("graph")
    breaker.force(CircuitState(state))
    assert (
        health_report(of(_Odd("graph", "circuit_breaker", {**breaker.snapshot(), "state": state})))["status"] == status
    )


def test_start_up_that_is_not_finished_fails() -> None:
    report = health_report(of(), started=False)
    assert report == {"status": "fail", "notes": ["start-up is not finished"], "checks": {}}


def test_a_critical_breaker_that_is_down_for_longer_than_the_grace_fails(clock: VirtualClock) -> None:
    breaker, other = opened("graph", recovery_timeout=300), opened("other", recovery_timeout=300)
    look = lambda: health_report(of(breaker, other), critical=["graph"], ready_grace=60)  # noqa: E731
    clock.advance(60)
    assert look()["status"] == "warn"
    clock.advance(0.1)
    report = look()
    assert (report["status"], report["notes"]) == ("fail", ["'graph' is down for too long"])
    assert the_check(report, "graph:circuit_breaker.state")["status"] == "fail"
    assert the_check(report, "other:circuit_breaker.state")["status"] == "warn"
    breaker.reset()
    assert look()["status"] == "warn"


def test_an_outage_longer_than_the_grace_is_seen_through_probes_that_fail(clock: VirtualClock) -> None:
    breaker = opened("graph", recovery_timeout=10)
    for _ in range(10):
        clock.advance(10)
        with pytest.raises(ConnectionError):
            breaker.call(fail)
    clock.advance(5)
    assert health_report(of(breaker), critical=["graph"], ready_grace=60)["status"] == "fail"


def test_a_circuit_that_would_probe_with_the_next_request_gets_requests(clock: VirtualClock) -> None:
    breaker = opened("graph", recovery_timeout=100)
    look = lambda: health_report(of(breaker), critical=["graph"], ready_grace=60)["status"]  # noqa: E731
    clock.advance(99)
    assert look() == "fail"
    clock.advance(1)
    assert look() == "warn", "else nobody would call, and it would stay open for ever"
    assert breaker.call(lambda: 1) == 1
    assert (breaker.state, look()) == ("half_open", "warn")


def test_a_critical_breaker_that_is_forced_open_counts_until_that_ends(clock: VirtualClock) -> None:
    breaker = CircuitBreaker("graph")
    look = lambda: health_report(of(breaker), critical=["graph"], ready_grace=1)["status"]  # noqa: E731
    breaker.force_open(for_=100)
    clock.advance(99)
    assert look() == "fail"
    clock.advance(1)
    assert look() == "warn"
    breaker.force_open()
    clock.advance(1000)
    assert look() == "fail"


def test_a_critical_name_that_nobody_has_is_a_warning() -> None:
    report = health_report(of(Bulkhead("grahp", max_concurrent=2)), critical=["grahp"])
    assert report["status"] == "warn"
    assert the_check(report, "grahp:circuit_breaker.state")["output"] == "no such breaker is alive"


@pytest.mark.parametrize("grace", [-1, "soon", float("nan")])
def test_a_grace_is_a_number_of_seconds(grace: Any) -> None:
    with pytest.raises(ConfigurationError, match="ready_grace"):
        health_report(of(), ready_grace=grace)

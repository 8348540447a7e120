"""Budgets of retries, AWS's adaptive rate, and the SRE throttle."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from resilience_core import ConfigurationError, InFlightRatio, TokenQuota, TokenThrottle, TrafficRatio
from resilience_core._machines import pace
from resilience_core._machines.budget import RatioAccount, ThrottleAccount
from resilience_core._machines.throttle import rejection

FILE = "retry_quota.json"
COMPARED = ("granted", "available", "tokens", "above_threshold", "withdrawals_total", "value", "rejection", "k", "rate")
COMPARED += ("fill_rate", "measured_rate", "max_rate", "max_capacity")
FRACTIONS = "smithy's optional refill of a quota by time or by fractions of successes is not offered"
SKIPS: dict[str, str] = {}


def choose(content: list[dict[str, Any]], directory: Path) -> list[dict[str, Any]]:
    return content


def skip(vector: dict[str, Any]) -> str | None:
    if vector["kind"] == "fractional_refill":
        return FRACTIONS
    return SKIPS.get(vector["id"])


def run(vector: dict[str, Any]) -> None:
    checked = RUNNERS[vector["kind"]](vector["config"], vector["steps"])
    assert checked, "nothing in it that this runner compares"


def _near(got: float, step: dict[str, Any], wanted: float) -> bool:
    return bool(got == pytest.approx(wanted, rel=1e-9, abs=step.get("tolerance", 1e-9)))


def _quota(config: dict[str, Any], steps: list[dict[str, Any]]) -> int:
    costs = config.get("costs", {})
    account = TokenQuota(config["capacity"], no_retry_increment=config.get("no_retry_increment", 1)).start()
    paid, checked = 0.0, 0
    for number, step in enumerate(steps):
        if step["op"] == "acquire":
            # Which error costs what is the caller's table; the account is told the cost.
            got = account.pay(step["cost"] if "cost" in step else costs[step["error"]])
            paid = got if got is not None else paid
            if "granted" in step:
                assert (got is not None) == step["granted"], f"step {number}: {got}"
                checked += 1
        elif step["op"] == "call_end":
            account.ended(step["result"] == "success", paid, 1 if step.get("retried") else 0, counted=True)
        if "available" in step:
            assert _near(account.available, step, step["available"]), f"step {number}: {account.available}"
            checked += 1
    return checked


def _throttle(config: dict[str, Any], steps: list[dict[str, Any]]) -> int:
    law = TokenThrottle(config["max_tokens"], token_ratio=config["token_ratio"])
    account = ThrottleAccount(law)
    for number, step in enumerate(steps):
        if step["op"] == "failure":
            account.failed()
        elif step["op"] == "success":
            account.ended(True, 0.0, 0, counted=True)
        assert _near(account.tokens, step, step["tokens"]), f"step {number}: {account.tokens}"
        assert (account.take(0.0, False) is not None) == step["above_threshold"], f"step {number}"
    return len(steps)


def _ratio(config: dict[str, Any], steps: list[dict[str, Any]]) -> int:
    law = TrafficRatio(
        config["percent_can_retry"], minimum_per_second=config["min_retries_per_second"], ttl=config["ttl_seconds"]
    )
    account = RatioAccount(law)
    checked = 0
    for number, step in enumerate(steps):
        if step["op"] == "balance":
            assert abs(account.balance(0.0) - step["value"]) < 1e-6, f"step {number}: {account.balance(0.0)}"
            checked += 1
            continue
        taken = 0
        for _ in range(step["times"]):
            account.began(0.0)
            if "try_withdraw" in step["each"]:
                taken += account.take(0.0, False) is not None
        if "withdrawals_total" in step:
            assert abs(taken - step["withdrawals_total"]) <= step["tolerance"], f"step {number}: {taken}"
            checked += 1
    return checked


def _in_flight(config: dict[str, Any], steps: list[dict[str, Any]]) -> int:
    account = InFlightRatio(config["max_rate"], minimum=config["min_concurrency"]).start()
    checked = 0
    for number, step in enumerate(steps):
        if step["op"] == "set":
            account.calls, account.retries = step["executions"], step["retries"]
            continue
        granted = account.take(0.0, False) is not None
        assert granted == step["granted"], f"step {number}: {granted}"
        checked += 1
    return checked


def _client_throttle(config: dict[str, Any], steps: list[dict[str, Any]]) -> int:
    k = config["k"] if "k" in config else 1 / config["success_rate_threshold"]
    for number, step in enumerate(steps):
        got = rejection(step["executions"], step["successes"], k, config.get("max_rejection", 1.0))
        if "between" in step:
            low, high = step["between"]
            assert low <= got <= high, f"step {number}: {got}"
        else:
            assert _near(got, step, step["rejection"]), f"step {number}: {got}"
    return len(steps)


def _cubic(config: dict[str, Any], steps: list[dict[str, Any]]) -> int:
    cubic = pace.Cubic(config["w_max"], config["last_fail"])
    for number, step in enumerate(steps):
        if step["op"] == "success":
            assert cubic.succeeded(step["at"]) == pytest.approx(step["rate"], abs=1e-6), f"step {number}"
        elif step["op"] == "throttle":
            assert cubic.throttled(step["current_rate"], step["at"]) == pytest.approx(step["rate"]), f"step {number}"
        if "k" in step:
            assert cubic.k == pytest.approx(step["k"]), f"step {number}: {cubic.k}"
    return len(steps)


def _clocker(config: dict[str, Any], steps: list[dict[str, Any]]) -> int:
    clocker = pace.Clocker(config["start"])
    for number, step in enumerate(steps):
        times = step["at"] if isinstance(step["at"], list) else [step["at"]]
        for at in times:
            rate = clocker.record(at)
        if "between" in step:
            low, high = step["between"]
            assert low <= rate <= high, f"step {number}: {rate}"
        else:
            near = step.get("tolerance", 1e-6)
            assert rate == pytest.approx(step["rate"], abs=near), f"step {number}: {rate}"
    return len(steps)


def _token_bucket(config: dict[str, Any], steps: list[dict[str, Any]]) -> int:
    bucket = pace.TokenBucket(config["max_rate"], config["start"], config["min_rate"])
    checked = 0
    for number, step in enumerate(steps):
        if step["op"] == "set_rate":
            bucket.set_rate(step["rate"], step["at"])
            for key, got in (("max_rate", bucket.rate), ("max_capacity", bucket.capacity)):
                if key in step:
                    assert got == step[key], f"step {number}: {key} {got}"
                    checked += 1
            continue
        granted = bucket.wait_for(step["at"], step.get("amount", 1)) == 0
        if granted:
            bucket.take(step["at"])
        assert granted == step["granted"], f"step {number}: {granted}"
        checked += 1
    return checked


def _adaptive(config: dict[str, Any], steps: list[dict[str, Any]]) -> int:
    made = pace.Pace(0.0)
    for number, step in enumerate(steps):
        made.after(step["throttled"], step["at"])
        assert made.measured == pytest.approx(step["measured_rate"], abs=1e-6), f"step {number}: {made.measured}"
        assert made.bucket.rate == pytest.approx(step["fill_rate"], abs=1e-6), f"step {number}: {made.bucket.rate}"
    return len(steps)


def _validation(config: dict[str, Any], steps: list[dict[str, Any]]) -> int:
    name, value = config["invalid"].split("=")
    name = {"min_retries_per_second": "minimum_per_second"}.get(name, name)
    assert re.fullmatch(r"-?\d+", value)
    with pytest.raises(ConfigurationError, match=name):
        TrafficRatio(**{name: int(value)})
    return 1


RUNNERS = {
    "retry_quota": _quota,
    "token_throttle": _throttle,
    "retry_budget_ratio": _ratio,
    "concurrency_budget": _in_flight,
    "client_throttle": _client_throttle,
    "cubic": _cubic,
    "rate_clocker": _clocker,
    "token_bucket": _token_bucket,
    "adaptive_update": _adaptive,
    "validation": _validation,
}

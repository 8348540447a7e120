"""Rate limits: GCRA, and what of other algorithms it can express."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from resilience_core._machines.bucket import Bucket

FILE = "rate_limit.json"
COMPARED = ("allowed", "act_at", "wait", "waited", "remaining", "tokens_before", "next_free_at")
COSTS = "permits are taken one at a time: a call that counts as several is not offered"
OTHER = {
    "fixed_window": "fixed windows let twice the limit pass at their edge: GCRA is the one law offered",
    "sliding_log": "a log of all calls grows with the limit: GCRA is the one law offered",
    "sliding_counter": "an approximation of a window: GCRA is the one law offered",
    "sliding_segments": "windows in segments, with queues by number of permits: GCRA is the one law offered",
    "cycle_reservation": "permits per cycle, lost at its end: GCRA is the one law offered",
    "bursty_reservation": "permits per period, lost at its end: GCRA is the one law offered",
    "token_bucket": COSTS,
}
SKIPS = {"go-jump-backwards": "the clock is monotonic; what a bucket tells observers is as of the time they ask"}


def choose(content: list[dict[str, Any]], directory: Path) -> list[dict[str, Any]]:
    return content


def skip(vector: dict[str, Any]) -> str | None:
    if vector["id"] in SKIPS:
        return SKIPS[vector["id"]]
    if vector["algorithm"] in OTHER:
        return OTHER[vector["algorithm"]]
    if "store" in vector:
        return "stores with compare-and-swap belong to the fleet"
    if any(step.get("n", 1) != 1 for step in vector["steps"]):
        return COSTS
    if vector["config"].get("rate") in (0, "inf"):
        return "a rate is a positive, finite number here; what needs no limit needs no limiter"
    if any(step["op"] in ("set_rate", "set_burst") for step in vector["steps"]):
        return "rates are changed with a reload, not in a bucket that owes permits"
    return None


def run(vector: dict[str, Any]) -> None:
    config = vector["config"]
    interval = config["interval"] if "interval" in config else 1 / config["rate"]
    bucket = Bucket(interval, config.get("burst", 1))
    checked = 0
    for number, step in enumerate(vector["steps"]):
        expect = step["expect"]
        if step["op"] == "peek":
            for index in range(step["count"]):
                fresh, at = Bucket(interval, config["burst"]), step["at_from"] + index * step["step"]
                assert fresh.available(at) == expect["remaining"], f"step {number} at {at}"
                assert fresh.take(at, 0.0) == expect["retry_after"], f"step {number} at {at}"
            checked += 1
            continue
        for _ in range(step.get("times") or 1):
            checked += _take(bucket, step, expect, number)
    assert checked, "nothing in it that this runner compares"


def _take(bucket: Bucket, step: dict[str, Any], expect: dict[str, Any], number: int) -> int:
    at, checked = step["at"], 0
    if "tokens_before" in expect:
        assert bucket.available(at) == max(0, expect["tokens_before"]), f"step {number}: {bucket.available(at)}"
        checked += 1
    patient = step["op"] in ("reserve", "acquire", "wait")
    wait = bucket.take(at, step.get("max_wait", 1e9) if patient else 0.0)
    if "allowed" in expect:
        assert (wait >= 0) == expect["allowed"], f"step {number}: {wait}"
        checked += 1
    for key, got in (("wait", wait), ("waited", wait), ("act_at", at + wait), ("next_free_at", bucket.tat)):
        if key in expect and not (step.get("times") and key != "next_free_at" and step["times"] > 1):
            assert got == pytest.approx(expect[key], abs=1e-9), f"step {number}: {key} {got}"
            checked += 1
    return checked

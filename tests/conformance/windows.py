"""Window arithmetic: calls, failures and rates; also of slow calls, which have a window of their own here."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from resilience_core import CountWindow, TimeWindow

FILE = "breaker/windows.json"
COMPARED = ("calls", "failures", "successes", "failure_rate", "slow", "slow_rate")
SKIPS: dict[str, str] = {}


def choose(content: list[dict[str, Any]], directory: Path) -> list[dict[str, Any]]:
    return content


def skip(vector: dict[str, Any]) -> str | None:
    return SKIPS.get(vector["id"])


def run(vector: dict[str, Any]) -> None:
    config = vector["config"]
    if config["type"] == "count":
        law: CountWindow | TimeWindow = CountWindow(config["size"])
    elif config["type"] == "time_epoch_buckets":
        law = TimeWindow(config["bucket_seconds"] * config["buckets"], buckets=config["buckets"])
    else:
        law = TimeWindow(config["seconds"], buckets=config["sub_windows"])
    failed, slow = law.start(), law.start()
    for number, step in enumerate(vector["timeline"]):
        assert step["op"] in ("record", "read"), f"nothing of ours does {step['op']!r}"
        at = float(step["at"])
        if step["op"] == "record":
            for _ in range(step.get("times") or 1):
                failed.add(step["outcome"].endswith("failure"), at)
                slow.add(step["outcome"].startswith("slow"), at)
        failed.turn(at)
        slow.turn(at)
        got = {
            "calls": failed.calls,
            "failures": failed.bad,
            "successes": failed.calls - failed.bad,
            "failure_rate": failed.bad / failed.calls if failed.calls else 0,
            "slow": slow.bad,
            "slow_rate": slow.bad / slow.calls if slow.calls else 0,
        }
        near = 0.005 if config.get("rates_rounded_to_2_decimals") else 1e-9
        for key, value in step.get("expect", {}).items():
            if key in got:
                assert got[key] == pytest.approx(value, abs=near if key.endswith("rate") else 0), (
                    f"step {number}: {key}"
                )

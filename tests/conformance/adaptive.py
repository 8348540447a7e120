"""Adaptive limits: Vegas, AIMD, Gradient2, their measurements, and permits."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from resilience_core import AIMD, ConfigurationError, Gradient2, Vegas
from resilience_core._machines.concurrency import Ewma, log10_root
from resilience_core._machines.slots import Slots

FILE = "adaptive_concurrency.json"
COMPARED = ("limit", "value", "allowed", "inflight", "waiters")
NO_SUCH = {
    "queue_gradient": "failsafe-go's combination of windows is not offered; Steady is our own default",
    "envoy_gradient": "Envoy's gradient needs phases of measuring at a concurrency of 3; Steady is our own default",
    "max_window": "a part of failsafe-go's limiter that ours do not have",
    "moving_median": "a part of failsafe-go's limiter that ours do not have",
    "coefficient_of_variation": "a part of failsafe-go's limiter that ours do not have",
    "correlation_window": "a part of failsafe-go's limiter that ours do not have",
    "function_square_root": "Netflix's table of square roots is not used by the three laws offered",
    "max_limit_factor": "a part of failsafe-go's limiter that ours do not have",
    "sample_window": "Netflix's windowed limit is not offered; Steady has windows of its own",
    "queue_rejection": "an adaptive limit has no queue here: it rejects at once",
    "partitioned_permits": "shares are by priority class here, not guaranteed to named partitions",
}
SKIPS = {
    "log10-factor": "a factor of log10 is Vegas' alpha and beta here",
    "bypass-not-counted": "no call passes a limit uncounted; shadow mode and CRITICAL priority are what is offered",
    "lifo-backlog-order": "queues are first in, first out, and adaptive limits have none",
    "failsafe-invalid-factor-under-1": "an option that ours do not have",
    "failsafe-invalid-window-min-over-max": "an option that ours do not have",
    "failsafe-invalid-queue-max-under-1": "an option that ours do not have",
    "failsafe-invalid-queue-initial-over-max": "an option that ours do not have",
}


def choose(content: list[dict[str, Any]], directory: Path) -> list[dict[str, Any]]:
    return content


def skip(vector: dict[str, Any]) -> str | None:
    return NO_SUCH.get(vector["algorithm"]) or SKIPS.get(vector["id"])


def run(vector: dict[str, Any]) -> None:
    RUNNERS[vector["algorithm"]](vector)


NAMES = {
    "initial_limit": "initial",
    "min_limit": "minimum",
    "max_limit": "maximum",
    "smoothing": "smoothing",
    "alpha": "alpha_exact",
    "beta": "beta_exact",
}


def _limit(vector: dict[str, Any]) -> None:
    law = {"vegas": Vegas, "aimd": AIMD, "gradient2": Gradient2}[vector["algorithm"]]
    limit = law(**{NAMES[name]: value for name, value in vector["config"].items()}).start()
    for number, step in enumerate(vector["steps"]):
        expect = step["expect"]
        if expect.get("error"):
            with pytest.raises(ValueError):
                limit.sample(step["rtt"], step["inflight"], False, 0.0, lambda: 0.5)
            continue
        for _ in range(step.get("times") or 1):
            limit.sample(step["rtt"], step["inflight"], step.get("dropped", False), 0.0, lambda: 0.5)
        got = limit.limit if vector["algorithm"] == "gradient2" else int(limit.limit)
        assert got == pytest.approx(expect["limit"], abs=1e-4), f"step {number}: {got}"


def _ewma(vector: dict[str, Any]) -> None:
    average = Ewma(vector["config"]["window"], vector["config"]["warmup"])
    for number, step in enumerate(vector["steps"]):
        for value in step.get("values", [step.get("value")]):
            average.add(value)
        expect = step["expect"]
        got = round(average.value) if expect.get("rounded") else average.value
        assert got == pytest.approx(expect["value"], abs=expect.get("tolerance", 1e-9)), f"step {number}: {got}"


def _log10(vector: dict[str, Any]) -> None:
    for number, step in enumerate(vector["steps"]):
        assert log10_root(step["n"]) == step["expect"]["value"], f"step {number}"


def _validation(vector: dict[str, Any]) -> None:
    options = {NAMES[name]: value for name, value in vector["config"].items()}
    assert vector["steps"][0]["expect"]["error"]
    for law in (Vegas, Gradient2, AIMD):
        with pytest.raises(ConfigurationError, match="initial"):
            law(**options)


class _Waiter:
    def wake(self) -> bool:
        return True


def _permits(vector: dict[str, Any]) -> None:
    slots = Slots(vector["config"]["limit"], max_queue=100)
    for number, step in enumerate(vector["steps"]):
        expect, allowed = step.get("expect", {}), True
        for _ in range(step.get("times") or 1):
            allowed = _permit(slots, step["op"])
        got = {"allowed": allowed, "inflight": slots.size - len(slots.free), "waiters": len(slots.waiting)}
        for key in set(got) & set(expect):
            assert got[key] == expect[key], f"step {number}: {key} {got[key]}"


def _permit(slots: Slots, op: str) -> bool:
    if op == "acquire":
        if not slots.free:
            return False
        del slots.free[-1]
    elif op == "release":
        slots.free.append(None)
        slots.hand_over()
    elif op == "enqueue":
        slots.queue(_Waiter())
    else:
        assert op in ("acquire_cancelled", "acquire_timed"), f"nothing of ours does {op!r}"
        ticket = slots.queue(_Waiter())
        assert ticket is not None
        assert not slots.leave(ticket)
    return True


RUNNERS = {
    "vegas": _limit,
    "aimd": _limit,
    "gradient2": _limit,
    "ewma": _ewma,
    "function_log10_root": _log10,
    "validation": _validation,
    "permits": _permits,
}

"""The 12 core scenarios: what any breaker with these settings must do. Compares `admitted` and `state`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from resilience_core import CircuitState, ConsecutiveFailures, Verdict
from resilience_core._machines.circuit import Circuit, CircuitRules

FILE = "breaker/scenarios.json"
OUTCOMES = {"success": Verdict.SUCCESS, "failure": Verdict.TRANSIENT, "ignored": Verdict.IGNORED}


def choose(content: list[dict[str, Any]], directory: Path) -> list[dict[str, Any]]:
    core = json.loads((directory / "breaker" / "portable.json").read_text())["core"]
    return [vector for vector in content if vector["id"] in core]


def skip(vector: dict[str, Any]) -> str | None:
    return None


def _circuit(config: dict[str, Any]) -> Circuit:
    trip = config["trip"]
    # "2 failures of the last 2" is two in a row.
    threshold = trip["threshold"] if trip["type"] == "consecutive_failures" else trip["failures"]
    half_open = config["half_open"]
    rules = CircuitRules(
        ConsecutiveFailures(threshold),
        success_threshold=half_open.get("successes_to_close", half_open.get("permitted_calls", 1)),
        recovery_timeout=config["open_duration"],
        half_open_max_calls=half_open.get("permitted_calls", 1),
    )
    return Circuit(rules)


def run(vector: dict[str, Any]) -> None:
    circuit = _circuit(vector["config"])
    for number, step in enumerate(vector["timeline"]):
        assert step["op"] == "call", f"unknown op {step['op']}"
        expected = step.get("expect", {})
        for _ in range(step.get("times") or 1):
            permit = circuit.admit(step["at"], 60.0)
            if permit:
                circuit.settle(permit, OUTCOMES[step["outcome"]], step["at"])
            assert bool(permit) == expected.get("admitted", bool(permit)), f"step {number}: admitted {bool(permit)}"
        if "state" in expected:
            assert circuit.state is CircuitState(expected["state"]), f"step {number}: {circuit.state.value}"

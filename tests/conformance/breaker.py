"""Breaker scenarios: the machine with the settings and the timeline of each. Compares `admitted` and `state`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from resilience_core import (
    CircuitState,
    ConsecutiveFailures,
    CountWindow,
    FailureRate,
    ProbeRate,
    RecoveryBackoff,
    SlowCallRate,
    TimeWindow,
    Verdict,
)
from resilience_core._machines.circuit import Circuit, CircuitRules
from resilience_core._machines.rates import Rate
from resilience_core._machines.trip_rules import TripRule

FILE = "breaker/scenarios.json"
COMPARED = ("admitted", "state", "trip")
OUTCOMES = {"success": Verdict.SUCCESS, "failure": Verdict.TRANSIENT, "ignored": Verdict.IGNORED}
STATES = {"metrics_only": "shadow", "isolated": "forced_open"}
LEASE = 1e9
LAZY = "a read of the state moves nothing here: OPEN becomes HALF_OPEN with the next request"
SKIPS = {
    "gobreaker-custom-rate-interval": "fixed intervals that forget all at once are not offered: windows slide",
    "gobreaker-two-step": LAZY,
    "gobreaker-distributed-transitions": LAZY,
    "polly-adv-1091": LAZY,
    "polly-adv-1127": LAZY,
    "polly-adv-1175": LAZY,
    "polly-adv-1253": LAZY,
    "polly-adv-1997": LAZY,
    "polly-cons-166": LAZY,
    "polly-cons-923": LAZY,
    "polly-cons-336": LAZY,
    "opossum-volume-does-not-affect-half-open": "a timer moves it in opossum; " + LAZY,
    "polly-v8-half-open-attempt-counter": "counts openings from 0; ours from 1, tested with RecoveryBackoff",
    "polly-v8-clock-near-max-overflow": "a remark about the range of .NET's clock",
    "r4j-success-can-open": "a success never opens a circuit here: only what counts against the dependency evaluates",
    "r4j-ignored-four-then-success": "a success never opens a circuit here",
    "r4j-open-for-2h": "a forced state that ends closes the circuit: nothing was learnt about the dependency",
    "r4j-open-until": "a forced state that ends closes the circuit",
    "r4j-half-open-slow-back": "opens at the second slow probe of four already: as soon as it is certain",
    "r4j-half-open-max-wait-open": "a half-open circuit has no time limit: each probe's lease has one",
    "failsafego-time-failures": "a number of failures in a period, whatever the successes, is not offered; use a rate",
    "failsafego-time-rate": "the number of probes follows from the trip rule there; here probe_rate says it",
    "opossum-warm-up": "no warm-up: minimum_calls is what keeps a few early failures from opening it",
    "opossum-imported-open-state-expired": "an imported OPEN becomes HALF_OPEN with the next request, not at once",
}


def choose(content: list[dict[str, Any]], directory: Path) -> list[dict[str, Any]]:
    return content


def skip(vector: dict[str, Any]) -> str | None:
    return SKIPS.get(vector["id"])


def _window(window: dict[str, Any] | None) -> CountWindow | TimeWindow:
    if window is None or window["type"] == "count":
        return CountWindow(window["size"] if window else 100)
    return TimeWindow(window["seconds"], buckets=window.get("sub_windows", 10))


def _rule(config: dict[str, Any]) -> TripRule:
    trip = config["trip"]
    if trip["type"] == "consecutive_failures":
        return ConsecutiveFailures(trip["threshold"])
    window = _window(config.get("window"))
    if trip["type"] in ("failures_of_last", "failures_in_period"):
        if trip["failures"] == trip.get("of_last", trip["failures"]):
            return ConsecutiveFailures(trip["failures"])  # "2 failures of the last 2" is two in a row
        return FailureRate(trip["failures"] / trip["of_last"], window, minimum_calls=trip["of_last"])
    rule: TripRule = FailureRate(trip["failure_rate"], window, minimum_calls=max(1, trip.get("minimum_calls", 10)))
    if "slow_rate" in trip:
        slow = SlowCallRate(
            trip["slow_rate"], window, slower_than=trip["slow_seconds"], minimum_calls=trip["minimum_calls"]
        )
        return slow | rule
    return rule


def _circuit(vector: dict[str, Any]) -> Circuit:
    config = vector["config"]
    half_open, open_for = config.get("half_open") or {}, config.get("open_duration", 60)
    backoff = None
    if isinstance(open_for, dict):
        backoff = RecoveryBackoff(multiplier=open_for["multiplier"], max_timeout=1e9, jitter=0.0)
        open_for = open_for["initial"]
    permitted = half_open.get("permitted_calls", half_open.get("of_last", half_open.get("successes_to_close", 1)))
    rate, trip = None, config["trip"]
    if trip["type"] == "failures_of_last" and trip["failures"] < trip["of_last"] and "successes" not in half_open:
        permitted = trip["of_last"]
        rate = ProbeRate(permitted, trip["failures"] / permitted)
    if vector["semantics"] == "resilience4j":
        rate = ProbeRate(permitted, config["trip"]["failure_rate"])
    if "successes" in half_open and half_open["successes"] < half_open["of_last"]:
        # n successes of m close it: so many failures that n cannot be reached any more open it
        rate = ProbeRate(permitted, (permitted - half_open["successes"] + 1) / permitted)
    successes = half_open.get("successes_to_close", half_open.get("successes"))
    if successes is None:
        successes = permitted if vector["semantics"] == "gobreaker" else 1
    return Circuit(
        CircuitRules(
            _rule(config),
            success_threshold=successes,
            recovery_timeout=max(open_for, 1e-9),
            half_open_max_calls=permitted,
            recovery_backoff=backoff,
            probe_rate=rate,
        )
    )


def run(vector: dict[str, Any]) -> None:
    circuit = _circuit(vector)
    out: dict[str, int] = {}
    began: dict[str, float] = {}
    for number, step in enumerate(vector["timeline"]):
        expected, at, op = step.get("expect", {}), float(step.get("at", 0.0)), step["op"]
        for _ in range(step.get("times") or 1):
            admitted = _do(circuit, op, step, at, out, began)
            if "trip" in expected:
                assert admitted == expected["trip"], f"step {number}: trips {admitted}"
            if "admitted" in expected:
                assert admitted == expected["admitted"], f"step {number}: admitted {admitted}"
        if "state" in expected:
            wanted = STATES.get(expected["state"], expected["state"])
            assert circuit.state.value == wanted, f"step {number}: {circuit.state.value}"


def _do(
    circuit: Circuit, op: str, step: dict[str, Any], at: float, out: dict[str, int], began: dict[str, float]
) -> bool | None:
    name, verdict = str(step.get("call")), OUTCOMES.get(step.get("outcome", ""), Verdict.SUCCESS)
    duration = step.get("duration", 0.0)
    if op in ("call", "begin", "acquire"):
        permit = circuit.admit(at, LEASE)
        if permit and op == "call":
            circuit.settle(permit, verdict, at + duration, duration)
        elif permit:
            out[name], began[name] = permit, at
        return bool(permit)
    if op == "end":
        circuit.settle(out.pop(name, 0), verdict, at, duration or at - began.get(name, at))
    elif op == "release":
        circuit.settle(out.pop(name, 0), Verdict.IGNORED, at)
    elif op == "record":
        permit = circuit.admit(at, LEASE)
        circuit.settle(permit, verdict, at, duration)
    elif op == "force":
        wanted = step.get("to", step.get("state"))
        circuit.force(CircuitState(STATES.get(wanted, wanted)), at)
    elif op == "evaluate_on_failure":
        memory, seen = circuit.memory, step["window_snapshot"]
        assert isinstance(memory, Rate)
        # The last failure, the one that evaluates, is what the record below adds.
        memory.window.calls, memory.window.bad = seen["calls"] - 1, seen["failure_rate"] * seen["calls"] - 1
        return memory.record(True, at, 0.0) is not None
    elif op == "reset":
        circuit.force(CircuitState.CLOSED, at)
    else:
        assert op in ("state", "none"), f"nothing of ours does {op!r}"
    return None

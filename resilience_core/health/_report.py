"""The health report: a pure look at the policies, in the shape of `application/health+json`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable
from datetime import UTC, datetime
from typing import Any, TypeAlias, TypeGuard

from resilience_core._clock import SYSTEM
from resilience_core._validation import Seconds, seconds
from resilience_core._views import rows_of
from resilience_core.registry import Registry, registry

Row: TypeAlias = dict[str, Any]

MOST_CHECKS = 1000
"""Checks in one report; of more, those that are best are left out, and their number is told."""
GRACE = 60.0
_YEAR_9999 = 253_370_764_800.0  # a clock can say anything, and a date cannot
_ORDER = {"fail": 0, "warn": 1, "pass": 2}
_BREAKER = "circuit_breaker"

# What is measured of each kind, and in what unit; of other kinds the check has their state, if they tell one.
_MEASURED = {
    _BREAKER: ("state", None),
    "bulkhead": ("usage", "calls"),
    "adaptive_concurrency": ("usage", "calls"),
    "rate_limiter": ("permits", "permits"),
    "retry_budget": ("balance", "tokens"),
    "stale_cache": ("entries", "entries"),
    "fleet": ("state", None),
}
# The worst first. Nothing is wrong with the last ones.
_STATES = ("unreadable", "forced_open", "open", "half_open", "degraded", "disabled", "shadow", "idle", "connected")
_WELL = ("closed", "shadow", "idle", "connected", None)
# How the numbers of several policies of one name become one: the others are added up.
_COMBINED: dict[str, Callable[[Iterable[float]], float]] = {"failure_ratio": max, "slow_ratio": max, "permits": min}
_OF_THE_WORST = {"since", "down_since", "next_probe_in", "ramp"}


def health_report(
    registry: Registry = registry,
    *,
    critical: Collection[str] = (),
    ready_grace: Seconds = GRACE,
    started: bool = True,
) -> dict[str, Any]:
    """How this process is, as `application/health+json`: `status`, `checks`, and `notes` where it is not ready.

    It reads memory only. `status` is `fail` when the process should get no requests: it has not `started`, or a breaker
    that is `critical` rejects its calls and has been down for more than `ready_grace`. It is `warn` when any check is
    not well: a circuit that is not closed, a full bulkhead, a store that is lost, a policy that cannot be read. The
    last one is `fail` in its own check, but no reason to send no requests.

    A circuit that is open but would let the next request through as a probe does not count as rejecting: without
    requests it could never close.

    Args:
        registry: whose policies are told.
        critical: names of breakers without which this process is of no use. Keep in mind that all processes of a fleet
            lose the same dependency at the same time.
        ready_grace: seconds (or timedelta) that a critical breaker may be down.
        started: whether start-up is finished.

    Returns:
        `checks` has a list with one check under `name:kind.measurement` ("graph:circuit_breaker.state"). Policies of
        one kind and name are one check: the worst state counts, numbers are added up (of ratios the largest is told),
        `count` is how many there are and `states` how many are in which. There are at most 1,000 checks; of more,
        `omitted` tells the number.

    Raises:
        ConfigurationError: `ready_grace` is not a positive number of seconds.
    """
    return report_of(rows_of(registry), critical, seconds("health_report: ready_grace", ready_grace), started)


def report_of(rows: list[Row], critical: Collection[str], grace: float, started: bool) -> dict[str, Any]:
    """The report about those rows."""
    groups: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        groups.setdefault((row["name"], row["kind"]), []).append(row)
    late = set(down_too_long(rows, critical, grace))
    checks: dict[str, Any] = {}
    for (name, kind), alike in groups.items():
        measured, unit = _MEASURED.get(kind, ("state", None))
        check = _check(_merged(alike), measured, unit, kind == _BREAKER and name in late)
        checks[f"{name}:{kind}.{measured}" if kind in _MEASURED else f"{name}:{kind}"] = [check]
    for name in sorted(set(critical) - {name for name, kind in groups if kind == _BREAKER}):
        output = "no such breaker is alive"
        checks[f"{name}:{_BREAKER}.state"] = [{"componentType": _BREAKER, "status": "warn", "output": output}]
    ordered = sorted(checks.items(), key=lambda each: (_ORDER[each[1][0]["status"]], each[0]))
    well = all(check["status"] == "pass" for _, (check,) in ordered)
    report: dict[str, Any] = {"status": "fail" if late or not started else "pass" if well else "warn"}
    notes = [*([] if started else ["start-up is not finished"]), *(f"{name!r} is down for too long" for name in late)]
    if notes:
        report["notes"] = sorted(notes)
    report["checks"] = dict(ordered[:MOST_CHECKS])
    if len(ordered) > MOST_CHECKS:
        report["omitted"] = len(ordered) - MOST_CHECKS
    return report


def down_too_long(rows: Iterable[Row], critical: Collection[str], grace: float) -> list[str]:
    """The names of the critical breakers that reject their calls and have been down for more than `grace` seconds."""
    now = SYSTEM.wall()
    return [
        row["name"]
        for row in rows
        if row["name"] in critical
        and row["kind"] == _BREAKER
        and _rejects(row, now)
        and now - (row.get("down_since") or now) > grace
    ]


def _rejects(row: Row, now: float) -> bool:
    """Whether the next call is certainly rejected: only then does it help to send no requests."""
    if row.get("state") == "open":
        wait = row.get("next_probe_in")
        return wait is None or wait > 0
    if row.get("state") == "forced_open":
        until = (row.get("forced") or {}).get("until")
        return until is None or until > now
    return False


def _state(row: Row) -> Any:
    return "unreadable" if "unreadable" in row else row.get("state")


def _badness(row: Row) -> int:
    state = _state(row)
    return _STATES.index(state) if state in _STATES else len(_STATES)


def worst_first(rows: list[Row]) -> list[Row]:
    """The rows in the order of what needs looking at."""
    return sorted(rows, key=_badness)


def _merged(alike: list[Row]) -> Row:
    """Policies of one name as one row."""
    if len(alike) == 1:
        return alike[0]
    ordered = worst_first(alike)
    merged: Row = dict(ordered[0])
    for key in merged.keys() - _OF_THE_WORST:
        numbers = [each[key] for each in ordered if _a_number(each.get(key))]
        if numbers:
            merged[key] = _COMBINED.get(key, sum)(numbers)
    merged["count"] = len(alike)
    states = [str(_state(row)) for row in ordered if _state(row) is not None]
    if states:
        merged["states"] = dict(Counter(states))
    return merged


def _a_number(value: Any) -> TypeGuard[float]:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _check(row: Row, measured: str, unit: str | None, late: bool) -> dict[str, Any]:
    check: dict[str, Any] = {"componentType": row["kind"], "status": _status(row, late)}
    if "unreadable" in row:
        check["output"] = f"unreadable: {row['unreadable']}"
    if row.get(measured) is not None:
        check["observedValue"] = row[measured]
        if unit is not None:
            check["observedUnit"] = unit
    since = row.get("since")
    if row["kind"] == _BREAKER and _a_number(since) and 0 <= since < _YEAR_9999:
        check["time"] = datetime.fromtimestamp(since, UTC).isoformat(timespec="milliseconds")
    told = {key: value for key, value in row.items() if key not in ("kind", "name", "unreadable") and value is not None}
    return told | check  # in this order: whatever a policy calls its own, the status is ours


def _status(row: Row, late: bool) -> str:
    if late or "unreadable" in row:
        return "fail"
    kind = row["kind"]
    if kind in (_BREAKER, "fleet"):
        return "pass" if row.get("state") in _WELL else "warn"
    pairs = [(row.get(usage), row.get(limit)) for usage, limit in (("usage", "limit"), ("queue_usage", "queue_limit"))]
    full = kind == "bulkhead" and all(
        _a_number(usage) and _a_number(limit) and usage >= limit for usage, limit in pairs
    )
    return "warn" if full else "pass"

"""Policies as rows of plain values for people: names of the field, times as seconds since the epoch.

A row has what JSON can carry and nothing else. A policy that cannot tell its state is a row, too: it says so.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from math import isfinite
from typing import Any

from resilience_core._clock import SYSTEM, Clock
from resilience_core.registry import Named

# What a snapshot calls it, and what a row does. Everything else keeps its name.
_CALLED: dict[str, dict[str, str]] = {
    "circuit_breaker": {"retry_after": "next_probe_in", "last_failure": "last_error_type"},
    "bulkhead": {"in_flight": "usage", "waiting": "queue_usage"},
    "adaptive_concurrency": {"in_flight": "usage"},
    "rate_limiter": {"available": "permits"},
    "fleet": {"store": "store_type"},
}
_DEEPEST = 4


def rows_of(policies: Iterable[Named]) -> list[dict[str, Any]]:
    """A row for each policy, and one (`kind` "fleet") for each fleet that shares state of any of them."""
    rows: list[dict[str, Any]] = []
    fleets: dict[int, Any] = {}
    for policy in policies:
        rows.append(row_of(policy))
        fleet = getattr(policy, "fleet", None)
        if fleet is not None:
            fleets[id(fleet)] = fleet
    return rows + [_row("fleet", fleet) for fleet in fleets.values()]


def row_of(policy: Named) -> dict[str, Any]:
    """`kind`, `name` and the state of one policy; instead of the state `unreadable`, the class of what went wrong."""
    return _row(policy.kind, policy)


def _row(kind: str, policy: Any) -> dict[str, Any]:
    row: dict[str, Any] = {"kind": kind, "name": policy.name}
    try:
        told: Mapping[str, Any] = policy.snapshot()
        called = _CALLED.get(kind, {})
        state = {called.get(key, key): plain(value) for key, value in told.items()}
        if kind == "circuit_breaker":
            _date(state, policy.clock)
        return row | state
    except Exception as error:  # a policy of the user's own, perhaps: the others are to be seen all the same
        return row | {"unreadable": type(error).__qualname__}


def _date(state: dict[str, Any], clock: Clock) -> None:
    """Turn seconds of the policy's clock into seconds since the epoch."""
    offset = clock.wall() - clock.now()
    forced = state.get("forced")
    for times, key in ((state, "since"), (state, "down_since"), (forced or {}, "until")):
        if times.get(key) is not None:
            times[key] = round(times[key] + offset, 3)


def plain(value: Any, depth: int = 0) -> Any:
    """`value` as JSON can carry it; of an object that is no plain value only its class."""
    if value is None or isinstance(value, (bool, int)):
        return value
    if isinstance(value, float):
        return value if isfinite(value) else None
    if isinstance(value, str):
        return str(value)  # of a StrEnum its value
    if depth < _DEEPEST:
        if isinstance(value, Mapping):
            return {str(key): plain(each, depth + 1) for key, each in value.items()}
        if isinstance(value, (list, tuple)):
            return [plain(each, depth + 1) for each in value]
    return type(value).__qualname__


def wall() -> float:
    """Seconds since the epoch now, as rows and messages give them."""
    return round(SYSTEM.wall(), 3)

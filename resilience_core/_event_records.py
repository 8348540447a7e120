"""Events as records with flat attributes: what logs, span events, the feed and the command line show of each of them.

The attributes are those of the schema. Free text is in them only where a person wrote it for this purpose (why somebody
forced a state): never arguments, messages of errors, or keys.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Any

from attrs import frozen

from resilience_core import _schema as s
from resilience_core._config_events import ConfigurationRefused, ConfigurationReloaded
from resilience_core._events import (
    ChaosInjected,
    CircuitTransition,
    Event,
    FallbackUsed,
    HedgeStarted,
    HedgeWon,
    LimitChanged,
    Reconfigured,
    Rejection,
    RetryScheduled,
    RetrySuppressed,
    StaleServed,
    TimeoutExpired,
)
from resilience_core._fleet_events import RecordIgnored, StoreDegraded, StoreRecovered


@frozen
class EventRecord:
    """An event in words: its name, how loud it is, a sentence, and attributes."""

    name: str
    """The value of `event.name`."""
    level: int
    """A level of `logging`."""
    text: str
    """One sentence, in which names are quoted so that they cannot break a line."""
    attributes: Mapping[str, Any]


def record_of(event: Event) -> EventRecord:
    """The record of any event, those of a user's own policies included."""
    describe = next(_RECORDS[kind] for kind in type(event).__mro__ if kind in _RECORDS)
    name, text, attributes, *level = describe(event)
    told = {s.POLICY: event.policy} | {key: value for key, value in attributes.items() if value is not None}
    return EventRecord(f"{s.PREFIX}.{name}", level[0] if level else event.level, text, told)


def error_type(error: BaseException) -> str:
    """The value of `error.type`: the class, or what an adapter's error says of itself by `telemetry_type`."""
    try:
        told = getattr(error, "telemetry_type", None)
        return str(told) if told else type(error).__qualname__
    except Exception:  # a property of somebody else's
        return type(error).__qualname__


def _transition(event: CircuitTransition) -> tuple[Any, ...]:
    by = "" if event.actor is None else f" by {event.actor!r}"
    words = {"half_open": "lets a probe through", "forced_open": "is forced open", "disabled": "is disabled"}
    state = words.get(event.state, f"is {event.state}" if event.state != "shadow" else "is in shadow mode")
    attributes = {
        s.PREVIOUS_STATE: event.previous_state,
        s.CIRCUIT_STATE: event.state,
        s.TRANSITION_REASON: event.reason,
        s.ACTOR: event.actor,
        s.NOTE: event.note,
        s.CONTROL_FOR: None if event.until is None else round(event.until - event.at, 3),
    }
    level = logging.WARNING if event.state in ("open", "forced_open") else logging.INFO
    by_hand = event.reason == "manual" or event.actor is not None  # here, or in another process of the fleet
    name = "control.applied" if by_hand else "circuit_breaker.transition"
    return name, f"Circuit {event.policy!r} {state}{by} ({event.reason})", attributes, level


def _rejection(event: Rejection) -> tuple[Any, ...]:
    attributes = {
        s.REJECTION_REASON: event.reason.value,
        s.OPERATION: event.operation,
        s.RETRY_AFTER: event.retry_after,
        s.ENFORCED: None if event.enforced else False,
    }
    verb = "rejected" if event.enforced else "would have rejected"
    return "call.rejected", f"{event.policy!r} {verb} a call ({event.reason.value})", attributes


def _retry(event: RetryScheduled) -> tuple[Any, ...]:
    attributes = {
        s.OPERATION: event.operation,
        s.ATTEMPT_NUMBER: event.attempt,
        s.DELAY: event.delay,
        s.DELAY_SOURCE: event.delay_source,
        s.ERROR_TYPE: error_type(event.error),
    }
    text = f"{event.policy!r} tries {event.operation!r} again in {event.delay:.3g} s after attempt {event.attempt}"
    return "retry.scheduled", f"{text} ({error_type(event.error)})", attributes


def _suppressed(event: RetrySuppressed) -> tuple[Any, ...]:
    attributes = {
        s.OPERATION: event.operation,
        s.ATTEMPT_NUMBER: event.attempt,
        s.SUPPRESSED_REASON: event.reason,
        s.ERROR_TYPE: error_type(event.error),
    }
    text = f"{event.policy!r} gives {event.operation!r} up after attempt {event.attempt} ({event.reason})"
    return "retry.suppressed", text, attributes


def _timeout(event: TimeoutExpired) -> tuple[Any, ...]:
    attributes = {s.OPERATION: event.operation, s.TIMEOUT: event.seconds, s.TIMEOUT_SCOPE: event.scope}
    return "timeout", f"{event.policy!r} gave {event.operation!r} up after {event.seconds:.3g} s", attributes


def _fallback(event: FallbackUsed) -> tuple[Any, ...]:
    cause = error_type(event.error)
    attributes = {s.OPERATION: event.operation, s.FALLBACK_KIND: event.kind, s.ERROR_TYPE: cause}
    return "fallback.used", f"{event.policy!r} answered for {event.operation!r} ({cause})", attributes


def _stale(event: StaleServed) -> tuple[Any, ...]:
    cause = None if event.error is None else error_type(event.error)
    attributes = {s.OPERATION: event.operation, s.AGE: event.age, s.ERROR_TYPE: cause}
    text = f"{event.policy!r} answered {event.operation!r} with a value {event.age:.3g} s old"
    return "cache.stale_served", text if cause is None else f"{text} ({cause})", attributes


def _hedge_started(event: HedgeStarted) -> tuple[Any, ...]:
    attributes = {s.OPERATION: event.operation, s.ATTEMPT_NUMBER: event.attempt}
    return "hedge.started", f"{event.policy!r} started attempt {event.attempt} of {event.operation!r}", attributes


def _hedge_won(event: HedgeWon) -> tuple[Any, ...]:
    attributes = {s.OPERATION: event.operation, s.ATTEMPTS: event.attempts, s.ATTEMPT_NUMBER: event.winner}
    text = f"Attempt {event.winner} of {event.attempts} answered {event.operation!r}"
    return "hedge.won", text, attributes


def _chaos(event: ChaosInjected) -> tuple[Any, ...]:
    attributes = {s.OPERATION: event.operation, s.FAULT: event.fault}
    return "chaos.injected", f"{event.policy!r} injected a fault into {event.operation!r} ({event.fault})", attributes


def _limit(event: LimitChanged) -> tuple[Any, ...]:
    attributes = {s.PREVIOUS_LIMIT: event.previous, s.LIMIT: event.limit, s.LIMIT_REASON: event.reason}
    text = f"The limit of {event.policy!r} went from {event.previous} to {event.limit} ({event.reason})"
    return "limit.changed", text, attributes


def _reconfigured(event: Reconfigured) -> tuple[Any, ...]:
    changed = [option for option, _, _ in event.changes]
    return "config.changed", f"{event.policy!r} got other options: {', '.join(changed)}", {s.CHANGED: changed}


def _reloaded(event: ConfigurationReloaded) -> tuple[Any, ...]:
    text = f"Configuration {event.policy!r} is applied: {', '.join(event.changed) or 'no change'}"
    return "config.reloaded", text, {s.CHANGED: list(event.changed)}


def _refused(event: ConfigurationRefused) -> tuple[Any, ...]:
    # Their number, not their texts, which show what somebody wrote: the log of whoever reads the file has those.
    text = f"Configuration {event.policy!r} is refused: {len(event.problems)} problems"
    return "config.reload_failed", text, {s.PROBLEMS: len(event.problems)}


def _degraded(event: StoreDegraded) -> tuple[Any, ...]:
    text = f"The store of fleet {event.policy!r} is lost ({event.reason}): every process decides by itself"
    return "store.degraded", text, {s.ERROR_TYPE: event.reason}


def _recovered(event: StoreRecovered) -> tuple[Any, ...]:
    text = f"The store of fleet {event.policy!r} is back after {event.seconds:.1f} s"
    return "store.recovered", text, {s.OUTAGE: event.seconds}


def _ignored(event: RecordIgnored) -> tuple[Any, ...]:
    text = f"What the store holds for {event.policy!r} is not understood and is ignored: {event.problem}"
    return "store.record_ignored", text, {s.STORE_PROBLEM: event.problem}


def _other(event: Event) -> tuple[Any, ...]:
    kind = type(event).__qualname__
    return f"event.{kind}", f"{event.policy!r}: {kind}", {}


_RECORDS: dict[type, Callable[[Any], tuple[Any, ...]]] = {
    CircuitTransition: _transition,
    Rejection: _rejection,
    RetryScheduled: _retry,
    RetrySuppressed: _suppressed,
    TimeoutExpired: _timeout,
    FallbackUsed: _fallback,
    StaleServed: _stale,
    HedgeStarted: _hedge_started,
    HedgeWon: _hedge_won,
    ChaosInjected: _chaos,
    LimitChanged: _limit,
    Reconfigured: _reconfigured,
    ConfigurationReloaded: _reloaded,
    ConfigurationRefused: _refused,
    StoreDegraded: _degraded,
    StoreRecovered: _recovered,
    RecordIgnored: _ignored,
    Event: _other,
}

"""What is logged, as data, and how: one line for each event, with the record's attributes as flat `extra` keys.

A line never has text of an error, an argument or a key in it. Where code of somebody else failed, it tells the class
of what was raised and where that happened: its message could have anything in it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any, TypeAlias

from attrs import evolve, field, frozen

from resilience_core import _schema as s
from resilience_core._config_events import ConfigurationRefused, ConfigurationReloaded
from resilience_core._event_records import EventRecord, record_of
from resilience_core._events import (
    CONTROL,
    LOUDEST,
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

EVENT_NAME = "event.name"
SUMMARY = "resilience.call.rejections"
Level: TypeAlias = int | Callable[[EventRecord], int | None] | None
"""A level of `logging`, a function that chooses one for each record, or None: not to be logged."""


@frozen
class Line:
    """One kind of line."""

    name: str
    """The value of `event.name`."""
    logger: str
    level: int
    """The usual level; the highest one where there are several."""
    tells: str
    """When it is written."""
    event: type[Event] | None = field(default=None, repr=False)


def _of(event: type[Event], name: str, tells: str, logger: logging.Logger | None = None) -> Line:
    return Line(f"{s.PREFIX}.{name}", (logger or event.logger).name, event.level, tells, event)


def _own(name: str, logger: str, level: int, tells: str) -> Line:
    return Line(f"{s.PREFIX}.{name}", f"resilience_core.{logger}", level, tells)


LINES: dict[str, Line] = {
    line.name: line
    for line in (
        _of(CircuitTransition, "circuit_breaker.transition", "a circuit opened (other changes: INFO)"),
        _of(CircuitTransition, "control.applied", "somebody opened a circuit by hand (other states: INFO)", CONTROL),
        _own("call.rejections", "rejections", logging.INFO, "calls are rejected: at once, then every 30 s how many"),
        _of(Rejection, "call.rejected", "a call was rejected"),
        _of(RetryScheduled, "retry.scheduled", "an attempt failed, and another one follows"),
        _of(RetrySuppressed, "retry.suppressed", "an attempt failed, and no other one follows"),
        _of(TimeoutExpired, "timeout", "a call was given up"),
        _of(FallbackUsed, "fallback.used", "a fallback answered"),
        _of(StaleServed, "cache.stale_served", "a cache answered with an old value"),
        _own("cache.refresh_failed", "cache", logging.INFO, "an old value could not be refreshed behind the caller"),
        _own("cache.store_failed", "cache", logging.WARNING, "the store or the file of a cache failed"),
        _of(HedgeStarted, "hedge.started", "an attempt was late, and a further one was started"),
        _of(HedgeWon, "hedge.won", "a hedged call has its answer"),
        _of(LimitChanged, "limit.changed", "an adaptive limit changed"),
        _of(ChaosInjected, "chaos.injected", "a fault was injected on purpose"),
        _of(Reconfigured, "config.changed", "a policy got other options"),
        _of(ConfigurationReloaded, "config.reloaded", "a configuration file was applied"),
        _of(ConfigurationRefused, "config.reload_failed", "a configuration file was refused"),
        _own("config.unused", "config", logging.INFO, "a configuration names policies that are not there"),
        _own("config.not_taken", "config", logging.ERROR, "a policy failed while it took new options over"),
        _of(StoreDegraded, "store.degraded", "the store of a fleet is lost"),
        _of(StoreRecovered, "store.recovered", "the store of a fleet is back"),
        _of(RecordIgnored, "store.record_ignored", "what the store holds is not understood"),
        _own("store.not_told", "store", logging.ERROR, "a policy or a listener failed when it was told of the store"),
        _own("store.not_shared", "store", logging.WARNING, "a value is too large, and only its process uses it"),
        _own("store.failed_again", "store", logging.DEBUG, "the store failed while a process left it"),
        _own("telemetry.failed", "otel", logging.WARNING, "a provider or an exporter raised: told once for each use"),
        _own("listener.failed", "events", logging.ERROR, "a listener raised: told once for each"),
        _own("classifier.failed", "verdicts", logging.ERROR, "a classifier raised"),
        _own("health.details_failed", "health", logging.ERROR, "who sees details could not be decided: told once"),
    )
}
"""All of them, by name, but those of your own classes of events: `resilience.event.<class>`."""

_levels: dict[str, Level] = {}


def use_levels(levels: Mapping[str, Level]) -> None:
    """Log the lines of these names at other levels, and all others as usual. Names and levels are known to be good."""
    global _levels
    _levels = dict(levels)
    loudest: dict[type[Event], int] = {}
    for line in LINES.values():
        kinds = [other for other in LINES.values() if other.event is line.event]
        if line.event is not None and any(other.name in levels for other in kinds):
            loudest[line.event] = max(_loudest(levels.get(other.name, other.level)) for other in kinds)
    LOUDEST.clear()
    LOUDEST.update(loudest)


def _loudest(level: Level) -> int:
    if callable(level):
        return logging.CRITICAL  # what it says is known only when there is a record
    return logging.NOTSET if level is None else level


def level_of(record: EventRecord) -> int | None:
    """At which level it is logged; None for not at all."""
    level = _levels.get(record.name, record.level)
    if not callable(level):
        return level
    try:
        chosen = level(record)
        return None if chosen is None else int(chosen)
    except Exception:  # of somebody else's; the line is written all the same
        return record.level


def log_event(event: Event, *, text: str | None = None, error: BaseException | None = None) -> None:
    """Log one event, in other words where these are given."""
    record = record_of(event)
    if text is not None:
        record = evolve(record, text=text)
    by_hand = record.name == "resilience.control.applied"
    _write(CONTROL if by_hand else event.logger, record, error)


def say(
    name: str, text: str, attributes: Mapping[str, Any] | None = None, *, error: BaseException | None = None
) -> None:
    """Log what is no event; for what code of somebody else raised, with the class and where that was."""
    line = LINES[name]
    _write(logging.getLogger(line.logger), EventRecord(name, line.level, text, attributes or {}), error)


def _write(logger: logging.Logger, record: EventRecord, error: BaseException | None) -> None:
    try:
        level = level_of(record)
        if level is None or not logger.isEnabledFor(level):
            return
        extra = {EVENT_NAME: record.name, **record.attributes}
        text = record.text
        if error is not None:
            extra[s.ERROR_TYPE] = type(error).__qualname__
            extra[s.STACKTRACE], place = _where(error.__traceback__)
            named = type(error).__qualname__
            text = f"{text} ({place if named in text else f'{named} {place}'})"
        logger.log(level, one_line(text), extra=extra)
    except Exception:
        pass  # a filter or handler of somebody else raised: a call must not fail by that, and nobody is left to be told


def _where(traceback: TracebackType | None) -> tuple[str, str]:
    """The frames, outermost first, and the innermost one; without what was raised, whose text may tell anything."""
    frames = ["nowhere"] if traceback is None else []
    while traceback is not None:
        code = traceback.tb_frame.f_code
        frames.append(f"{code.co_filename}:{traceback.tb_lineno} in {code.co_qualname}")
        traceback = traceback.tb_next
    return "\n".join(frames), f"at {frames[-1]}"


def one_line(text: str) -> str:
    """`text` without what breaks a line or speaks to a terminal: shown as in the repr of a string."""
    if text.isprintable():
        return text
    return "".join(each if each.isprintable() else repr(each)[1:-1] for each in text)

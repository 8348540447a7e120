"""Events in the log: each as one line of its class's logger, with the record's attributes as flat `extra` keys."""

from __future__ import annotations

from resilience_core._event_records import record_of
from resilience_core._events import Event

EVENT_NAME = "event.name"


def log_event(event: Event) -> None:
    """Log one event."""
    record = record_of(event)
    event.logger.log(record.level, record.text, extra={EVENT_NAME: record.name, **record.attributes})

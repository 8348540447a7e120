"""Events, kept for assertions."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from typing import TypeVar

from resilience_core._events import Event, subscribe
from resilience_core._weave.edge import Policy

E = TypeVar("E", bound=Event)


class EventRecorder(list[Event]):
    """The events so far, in order."""

    def of(self, kind: type[E]) -> list[E]:
        """Those of one class."""
        return [event for event in self if isinstance(event, kind)]


@contextmanager
def record_events(policy: Policy | None = None) -> Generator[EventRecorder, None, None]:
    """Record the events of one policy or pipeline, or of all policies of the process."""
    recorder = EventRecorder()
    end = subscribe(recorder.append) if policy is None else policy.subscribe(recorder.append)
    try:
        yield recorder
    finally:
        end()

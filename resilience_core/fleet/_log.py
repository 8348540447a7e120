"""The log of the agents' threads, which is never in the middle of a line while the process forks.

The standard library frees its own locks in the child, but not that of a handler's stream.
"""

from __future__ import annotations

from resilience_core._event_log import log_event, say
from resilience_core._events import Event
from resilience_core._fork import no_forks
from resilience_core._schema import POLICY


def log_told(event: Event, fault: BaseException | None = None) -> None:
    """Log an event, and where a fault of our own that led to it happened."""
    with no_forks:
        log_event(event, error=fault)


def log_failure(name: str, text: str, error: BaseException) -> None:
    """Log what is no event."""
    with no_forks:
        say(name, text, error=error)


def log_not_shared(name: str, problem: str) -> None:
    """Log that something is kept by this process only."""
    with no_forks:
        say("resilience.store.not_shared", f"The store {name!r} cannot share all: {problem}", {POLICY: name})

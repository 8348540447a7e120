"""The log of the agents' threads, which is never in the middle of a line while the process forks.

The standard library frees its own locks in the child, but not that of a handler's stream: a thread of the child that
logs would wait for ever for one that the parent's agent held. At the begin of an outage, when all agents log, one fork
in two was so.
"""

from __future__ import annotations

import os
import threading

from resilience_core._event_log import log_event, say
from resilience_core._events import Event

LONGEST = 1.0
"""Seconds that a fork waits at most: a handler that hangs must not hold it up."""


class _Log:
    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._forking = False
        os.register_at_fork(before=self._before, after_in_parent=self._in_parent, after_in_child=self._in_child)

    def event(self, event: Event, fault: BaseException | None = None) -> None:
        """Log an event, and where a fault of our own that led to it happened."""
        with self._lock:
            log_event(event, error=fault)

    def say(self, name: str, text: str, error: BaseException) -> None:
        """Log what is no event."""
        with self._lock:
            say(name, text, error=error)

    def _before(self) -> None:
        self._forking = self._lock.acquire(timeout=LONGEST)

    def _in_parent(self) -> None:
        if self._forking:
            self._lock.release()

    def _in_child(self) -> None:
        self._lock = threading.RLock()


log = _Log()

"""The log of the agents' threads, which is never in the middle of a line while the process forks.

The standard library frees its own locks in the child, but not that of a handler's stream: a thread of the child that
logs would wait for ever for one that the parent's agent held. At the begin of an outage, when all agents log, one fork
in two was so.
"""

from __future__ import annotations

import logging
import os
import threading
from typing import Any

LONGEST = 1.0
"""Seconds that a fork waits at most: a handler that hangs must not hold it up."""


class _Log(logging.LoggerAdapter[logging.Logger]):
    def __init__(self, name: str) -> None:
        super().__init__(logging.getLogger(name))
        self._lock = threading.RLock()
        self._forking = False
        os.register_at_fork(before=self._before, after_in_parent=self._in_parent, after_in_child=self._in_child)

    def log(self, level: int, msg: object, *args: Any, exc_info: Any = None, **_: Any) -> None:
        """Log what is to be logged, one line after the other."""
        with self._lock:
            self.logger.log(level, msg, *args, exc_info=exc_info, stacklevel=2)

    def _before(self) -> None:
        self._forking = self._lock.acquire(timeout=LONGEST)

    def _in_parent(self) -> None:
        if self._forking:
            self._lock.release()

    def _in_child(self) -> None:
        self._lock = threading.RLock()


logger = _Log("resilience_core.store")

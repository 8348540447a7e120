"""The log of the agents' threads, which is never in the middle of a line while the process forks.

The standard library frees its own locks in the child, but not that of a handler's stream.
"""

from __future__ import annotations

import logging
from typing import Any

from resilience_core.fleet._forks import no_forks


class _Log(logging.LoggerAdapter[logging.Logger]):
    def log(self, level: int, msg: object, *args: Any, exc_info: Any = None, **_: Any) -> None:
        """Log what is to be logged."""
        with no_forks:
            self.logger.log(level, msg, *args, exc_info=exc_info, stacklevel=2)


logger = _Log(logging.getLogger("resilience_core.store"))

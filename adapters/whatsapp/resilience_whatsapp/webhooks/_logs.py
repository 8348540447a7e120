"""What the receiver logs: no traceback and no error text, because both may be personal."""

from __future__ import annotations

import logging

__all__ = ["LOGGER_NAME", "StoreTrouble", "log_error", "told"]

LOGGER_NAME = "resilience_whatsapp.webhooks"
logger = logging.getLogger(LOGGER_NAME)


def told(error: BaseException) -> dict[str, str]:
    """What a line says of an error."""
    return {"error": type(error).__name__}


def log_error(what: str, error: Exception) -> None:
    """A line of its own, outside of the handling of the error: no traceback is added to it."""
    logger.error(what, extra=told(error))


class StoreTrouble:
    """Whether the inbox fails. One line for each time that it begins to, not for each thing that fails."""

    def __init__(self) -> None:
        self.fails = False

    def failed(self, what: str, error: Exception) -> None:
        """It did."""
        if not self.fails:
            log_error(what, error)
        self.fails = True

    def worked(self) -> None:
        """It did not."""
        if self.fails:
            logger.info("The inbox of webhooks works again")
        self.fails = False

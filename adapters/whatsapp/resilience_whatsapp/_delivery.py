"""What happens to one send while it is under way: its attempts, and whether one of them may have been carried out."""

from __future__ import annotations

from contextvars import ContextVar
from typing import Any

from attrs import define, field

from resilience_whatsapp._clock import SYSTEM
from resilience_whatsapp.errors import GraphError, surely_not_carried_out
from resilience_whatsapp.graph import Wire
from resilience_whatsapp.records import MessageRecord, MessageStatus


@define
class AttemptTold:
    """One request of a send, for its history."""

    at: float
    """Seconds since the epoch."""
    began: float
    """Monotonic seconds."""
    duration: float | None = None
    """Seconds; None while it is under way."""
    error: BaseException | None = None


@define
class Sending:
    """The state of one send."""

    attempts: int = 0
    unknown: int = 0
    """Attempts that left and whose fate nobody told."""
    possible_duplicate: bool = False
    wire: Wire | None = field(default=None)
    told: list[AttemptTold] = field(factory=list)

    def begin(self, wire: Wire | None) -> None:
        """One more request."""
        self.attempts += 1
        self.wire = wire
        self.told.append(AttemptTold(SYSTEM.wall(), SYSTEM.now()))
        if self.unknown:
            self.possible_duplicate = True

    def accepted(self) -> None:
        """The API took the message."""
        self._end(None)

    def failed(self, error: BaseException) -> None:
        """The request ended by `error`. Where the wire cannot tell, what may have left counts as left."""
        self._end(error)
        if surely_not_carried_out(error):
            return
        if self.wire is None or self.wire.left:
            self.unknown += 1

    def _end(self, error: BaseException | None) -> None:
        last = self.told[-1]
        last.duration, last.error = SYSTEM.now() - last.began, error

    def status(self) -> MessageStatus:
        """What it means for the message that the send ended in an error."""
        if self.unknown:
            return MessageStatus.UNKNOWN
        return MessageStatus.FAILED if self.attempts else MessageStatus.REJECTED


ACTIVE: ContextVar[Any] = ContextVar("resilience_whatsapp_active", default=None)
"""The client whose call is running, so that it logs the retries of its own calls only."""


def carry(error: BaseException, record: MessageRecord) -> None:
    """Put the record of a send on the error that ended it, also where the error's class lets nobody set anything."""
    object.__setattr__(error, "record", record)


def name_of_error(error: BaseException) -> str:
    """An error as logs and records show it: its class and Graph code; its text could carry a number."""
    if isinstance(error, GraphError) and error.code is not None:
        return f"{type(error).__name__}({error.code})"
    return type(error).__name__

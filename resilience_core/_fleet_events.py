"""What fleets tell. Apart from the other events, because only who shares state needs it."""

from __future__ import annotations

import logging
from typing import ClassVar

from attrs import frozen

from resilience_core._events import Event

_STORE = logging.getLogger("resilience_core.store")


@frozen
class StoreDegraded(Event):
    """The store of a fleet cannot be reached: each process decides by itself. `reason` is the error's class name."""

    logger: ClassVar[logging.Logger] = _STORE
    level: ClassVar[int] = logging.WARNING

    reason: str


@frozen
class StoreRecovered(Event):
    """The store answers again, after `seconds`."""

    logger: ClassVar[logging.Logger] = _STORE
    level: ClassVar[int] = logging.INFO

    seconds: float


@frozen
class RecordIgnored(Event):
    """What the store holds for a policy is not understood, and counts as missing."""

    logger: ClassVar[logging.Logger] = _STORE
    level: ClassVar[int] = logging.WARNING

    problem: str

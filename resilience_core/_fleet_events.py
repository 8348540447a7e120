"""What fleets tell. Apart from the other events, because only who shares state needs it."""

from __future__ import annotations

import logging

from attrs import frozen

from resilience_core._events import Event


@frozen
class StoreDegraded(Event):
    """The store of a fleet cannot be reached: each process decides by itself. `reason` is the error's class name."""

    logger = logging.getLogger("resilience_core.store")
    level = logging.WARNING

    reason: str


@frozen
class StoreRecovered(Event):
    """The store answers again, after `seconds`."""

    logger = logging.getLogger("resilience_core.store")
    level = logging.INFO

    seconds: float


@frozen
class RecordIgnored(Event):
    """What the store holds for a policy is not understood, and counts as missing."""

    logger = logging.getLogger("resilience_core.store")
    level = logging.WARNING

    problem: str

"""What becomes of an accepted message: sent, delivered, read or played, or failed; and when each is told.

The times and the choices come from the simulator's seed.
"""

from __future__ import annotations

import random
from collections.abc import Awaitable

from attrs import frozen

from resilience_whatsapp.simulator.book import Entry
from resilience_whatsapp.simulator.clock import SimClock
from resilience_whatsapp.simulator.faults.script import Fault, Script
from resilience_whatsapp.simulator.state.world import Number
from resilience_whatsapp.simulator.webhooks.delivery import Webhooks
from resilience_whatsapp.simulator.webhooks.events import Event, Party, status_event


@frozen
class Statuses:
    """When the statuses of a message are told: seconds after the one before, from the least to the most.

    `delivers`, `reads` and `plays` are the parts of the messages that get so far; only audio is played.
    """

    sent: tuple[float, float] = (0.1, 1.0)
    delivered: tuple[float, float] = (0.2, 3.0)
    read: tuple[float, float] = (1.0, 60.0)
    played: tuple[float, float] = (1.0, 30.0)
    delivers: float = 1.0
    reads: float = 0.7
    plays: float = 0.5

    def __attrs_post_init__(self) -> None:
        for name in ("sent", "delivered", "read", "played"):
            least, most = getattr(self, name)
            if not 0 <= least <= most:
                raise ValueError(f"statuses.{name} must be two numbers of seconds, the least and the most")
        for name in ("delivers", "reads", "plays"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"statuses.{name} must be a number from 0 to 1")


class Stories:
    """Plans what is told of each message, and tells it in its time."""

    def __init__(
        self, statuses: Statuses, clock: SimClock, draws: random.Random, script: Script, webhooks: Webhooks
    ) -> None:
        self.statuses = statuses
        self._clock = clock
        self._random = draws
        self._script = script
        self._webhooks = webhooks

    def begin(self, entry: Entry, number: Number) -> Awaitable[None] | None:
        """Plan what becomes of `entry`; what must be told before its answer, if anything."""
        plan = self._plan(entry)
        entry.end = plan[-1][1]
        if not self._webhooks.wanted:
            return None
        party = Party.of(entry.recipient, entry.recipient_type)
        faults = [self._script.next("messages", "webhook", party.key, number.id) for _ in plan]
        steps = list(plan)
        for index, fault in enumerate(faults):
            if fault is not None and fault.kind == "webhook_reorder" and index + 1 < len(steps):
                steps[index], steps[index + 1] = (
                    (steps[index + 1][0], steps[index][1]),
                    (steps[index][0], steps[index + 1][1]),
                )
        early: Awaitable[None] | None = None
        now = self._clock.now()
        for (after, status), fault in zip(steps, faults, strict=True):
            event = status_event(entry, number, status, now + after)
            if fault is not None and fault.kind == "webhook_early" and early is None:
                early = self._webhooks.tell_first(event)
            elif fault is None or fault.kind != "webhook_lost":
                self._tell(event, after, fault)
        return early

    def _plan(self, entry: Entry) -> list[tuple[float, str]]:
        """The statuses, each with the seconds from now."""
        statuses, draws = self.statuses, self._random
        after = draws.uniform(*statuses.sent)
        if entry.failed is not None:
            return [(after, "failed")]
        plan = [(after, "sent")]
        steps = [("delivered", statuses.delivered, statuses.delivers), ("read", statuses.read, statuses.reads)]
        if entry.type == "audio":
            steps.append(("played", statuses.played, statuses.plays))
        for name, span, share in steps:
            if draws.random() >= share:
                break
            after += draws.uniform(*span)
            plan.append((after, name))
        return plan

    def _tell(self, event: Event, after: float, fault: Fault | None) -> None:
        kind = None if fault is None else fault.kind
        if fault is not None and kind == "webhook_late":
            after += fault.seconds
        event.misses = int(kind == "webhook_dead")
        event.forged = kind == "webhook_signature"
        event.again = kind == "webhook_rebatch"
        self._webhooks.later(after, lambda: self._webhooks.add(event))
        if kind == "webhook_duplicate":
            self._webhooks.later(after, lambda: self._webhooks.repeat(event))

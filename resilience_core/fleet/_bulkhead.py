"""A bulkhead's share in its fleet: slots leased from the store, as many as are used and a few more.

    a slot at hand --> go on, no I/O
       \\-- none: have the agent lease more, wait in the queue (the fleet's time-out at most) --> go on, or be rejected

The local machine (`_machines/slots.py`) has the size of the lease, and changes with it. A lease is renewed three times
within its life; of a member that is gone the slots come back when it ends. A process that was stopped for longer than
that finds its calls still running and its slots given away: its next word says so (the lease's token is unknown), and
it takes what is free then.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from resilience_core._fork import renew
from resilience_core.fleet._agent import NEVER, Item
from resilience_core.fleet._circuit import draw
from resilience_core.fleet._link import Request

if TYPE_CHECKING:
    from resilience_core._policies.bulkhead import Bulkhead
    from resilience_core.fleet._fleet import BaseFleet

LEASE = 6.0
"""Seconds for which slots are leased."""
IDLE = 1.0
"""Seconds after which half of the unused slots are given back."""
REFUSED_FOR, LONGEST_REFUSAL = 0.05, 0.4
"""Seconds for which the store's word holds that there are no more: at first, and when it says so again and again."""


class SharedBulkhead(Item):
    """The agent's end of one bulkhead."""

    def __init__(self, fleet: BaseFleet, bulkhead: Bulkhead) -> None:
        self._fleet = fleet
        self._bulkhead = bulkhead
        self.key: str = fleet.keys.other("bulkhead", bulkhead.name)
        self.channels = (f"{self.key}:changes",)
        self.patience: float = 1.5 * fleet.timeout
        """Seconds that a call waits for an answer of the store: the agent's word that it is gone comes first."""
        self._clear()

    def _clear(self) -> None:
        self.joined = False
        self.alone = False
        self._token = draw()
        self._holder = self._fleet.holder()
        self._wanting = False
        self._asked_at: float | None = None  # since when nothing was answered
        self._refused_until = 0.0
        self._refusal = REFUSED_FOR / 2
        self._renew_at = NEVER
        self._look_at = NEVER
        self._shared_out = False  # somebody else wants slots

    # --- by callers, under the bulkhead's lock ---------------------------------------------------------------------

    def more(self) -> bool:
        """There is no slot at hand: whether it is worth waiting for the store to give some."""
        if not self.joined:
            self.joined, alone = self._fleet.join(self)
            if alone:
                self._go_alone()
        now = time.monotonic()
        if self._asked_at is not None and now - self._asked_at > 3 * self._fleet.timeout:
            self._go_alone()  # it drips: the agent is busy with an answer that does not end
        if self.alone or now < self._refused_until or self._has_all():
            return False
        self._wanting = True
        self._fleet.agent.wake()
        if self._asked_at is None:
            self._asked_at = now
        return now - self._asked_at <= self.patience  # else somebody has waited in vain already

    def _has_all(self) -> bool:
        return self._bulkhead._slots.size >= self._bulkhead.max_concurrent

    def resized(self) -> None:
        """The options have changed."""
        if self.alone:
            self._go_alone()
        elif self.joined:
            self._wanting = True
            self._fleet.agent.wake()

    def _go_alone(self) -> None:
        """Decide without the store, until it answers."""
        self.alone = True
        bulkhead = self._bulkhead
        bulkhead._slots.resize(0 if bulkhead.fail_closed else bulkhead.max_concurrent, bulkhead.max_queue)

    # --- by the agent ----------------------------------------------------------------------------------------------

    def due(self, now: float) -> float:
        if self._wanting or self._shared_out or self.alone:
            return 0.0
        waits = self._bulkhead._slots.callers > 0
        return min(self._renew_at, self._look_at, self._refused_until if waits else NEVER)

    def requests(self, now: float) -> list[Request]:
        bulkhead = self._bulkhead
        with bulkhead._lock:
            wanting, self._wanting = self._wanting or bulkhead._slots.callers > 0, False
            crowded, self._shared_out = self._shared_out, False
            slots = bulkhead._slots
            used = slots.taken + slots.callers
            want = slots.size + slots.debt
            if self.alone:  # what it allowed itself meanwhile is not what it needs of the fleet
                want = max(used, 1)
            elif wanting:
                want = max(want, used + min(slots.size // 4, bulkhead.max_concurrent // 16), 1)
            elif crowded or now >= self._look_at:
                spare = max(0, want - used)
                slots.resize(used + (0 if crowded else spare // 2), bulkhead.max_queue)
                want = slots.size + slots.debt
        return [self._request(min(want, bulkhead.max_concurrent))]

    def _request(self, want: int) -> Request:
        args = (
            self._holder,
            self._token,
            want,
            self._bulkhead.max_concurrent,
            round(LEASE * 1000),
            self.channels[0],
            self._fleet.host_time(),
        )

        def answer(reply: Any, sent: float, received: float) -> None:
            leased, free, _ = reply
            self._answered(want, leased, free, sent, received)

        return Request("slots", self.key, args, answer)

    def _answered(self, want: int, leased: int, free: int, sent: float, received: float) -> None:
        bulkhead = self._bulkhead
        with bulkhead._lock:
            self.alone = False
            self._asked_at = None
            slots = bulkhead._slots
            slots.resize(leased, bulkhead.max_queue)
            if leased < want:
                self._refusal = min(LONGEST_REFUSAL, 2 * self._refusal)
                self._refused_until = received + self._refusal
            else:
                self._refusal = REFUSED_FOR / 2
            if leased < want or self._has_all():
                slots.dismiss()
            used = slots.taken
        self._renew_at = sent + LEASE / 3 if leased else NEVER
        self._look_at = received + IDLE if leased > used else NEVER
        if leased and leased == used:
            self._look_at = received + 2 * IDLE

    def heard(self, channel: str, content: bytes, now: float) -> None:
        with self._bulkhead._lock:
            slots = self._bulkhead._slots
            self._shared_out = not self.alone and bool(slots.free) and not slots.callers

    def lost(self, now: float) -> None:
        with self._bulkhead._lock:
            self._wanting = False
            self._asked_at = None
            self._renew_at = self._look_at = NEVER
            self._go_alone()
            self._bulkhead._slots.dismiss()

    def found(self, now: float) -> None:
        """The next answer tells."""

    def proven(self) -> bool:
        return not self.alone

    def after_fork(self) -> None:
        renew(self._bulkhead._lock)
        self._bulkhead._slots.start_over(0)
        self._clear()

    def goodbye(self, now: float) -> list[Request]:
        with self._bulkhead._lock:
            leased = self._bulkhead._slots.size
        return [self._request(0)] if leased else []

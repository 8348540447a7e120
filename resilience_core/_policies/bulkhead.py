"""Limit how many calls run at once: the bulkhead. Its law is in `_machines/slots.py`."""

from __future__ import annotations

import threading
from typing import Any, ClassVar

from attrs import define, field, setters

from resilience_core import _validation as check
from resilience_core._errors import BulkheadFullError, ConfigurationError, RejectionReason
from resilience_core._machines.slots import Slots, Ticket, Wakeable
from resilience_core._schema import BULKHEAD_WAIT
from resilience_core._telemetry import Wait, telemetry
from resilience_core._validation import to_optional_seconds
from resilience_core._verdicts import Judgement
from resilience_core._weave.deadline import within_deadline
from resilience_core._weave.gate import Gate, stream_gate, stream_gate_async
from resilience_core._weave.rejections import tell_rejection
from resilience_core._weave.sharing import Fleet
from resilience_core._weave.site import Args, AsyncCall, Call, Kwargs, Site
from resilience_core._weave.waiting import ThreadWaiter, async_waiter


@define(eq=False, on_setattr=setters.frozen)
class Bulkhead(Gate):
    """Lets at most `max_concurrent` calls run at once; the budget is one across all threads and event loops.

    Args:
        name: identifies the bulkhead in errors, events and metrics.
        max_concurrent: calls that may run at once, at most a million.
        max_queue: calls that may wait for a slot, in order of arrival; 0 rejects at once.
        max_wait: seconds (or timedelta) that a call may wait; needed with a queue. A nearer deadline shortens it.
        enforce: share of the limit's effect (shadow mode below 1): a call that finds no slot and is spared neither
            waits nor takes one.
        fleet: the slots are those of all processes that have a bulkhead of this name in the same fleet (a
            `RedisFleet`); each leases as many as it uses.
        fail_closed: reject while the store cannot be reached; else each process has `max_concurrent` slots meanwhile.

    Raises:
        BulkheadFullError: from the guarded call, which was not made.
        ConfigurationError: from a blocking call that would have to wait on the thread of a running event loop: it
            would stop the loop, and with it perhaps the call that it waits for.
    """

    kind: ClassVar[str] = "bulkhead"

    name: str = field(validator=check.name)
    max_concurrent: int = field(kw_only=True, validator=check.count_from(1, 1_000_000))
    max_queue: int = field(default=0, kw_only=True, validator=check.count_from(0))
    max_wait: float | None = field(
        default=None, kw_only=True, converter=to_optional_seconds, validator=check.optional(check.positive_seconds)
    )
    fleet: Fleet | None = field(
        default=None, kw_only=True, repr=False, validator=check.optional(check.has("share_bulkhead", "a RedisFleet"))
    )
    fail_closed: bool = field(default=False, kw_only=True, validator=check.boolean)
    spares_itself: ClassVar[bool] = True
    fixed: ClassVar[frozenset[str]] = Gate.fixed | {"fleet", "fail_closed"}
    _slots: Slots = field(init=False, repr=False, on_setattr=setters.NO_OP)
    _lock: threading.Lock = field(init=False, repr=False, factory=threading.Lock)
    _rejected: int = field(init=False, repr=False, default=0, on_setattr=setters.NO_OP)
    _shared: Any = field(init=False, repr=False, default=None, on_setattr=setters.NO_OP)

    def _validate(self) -> None:
        if self.fail_closed and self.fleet is None:
            raise ConfigurationError("Bulkhead: fail_closed tells what to do without a fleet's store: give fleet=, too")
        if self.max_queue and self.max_wait is None:
            raise ConfigurationError("Bulkhead: max_queue needs max_wait, or a queued call could wait for ever")

    def _build(self) -> None:
        self._slots = Slots(self.max_concurrent if self.fleet is None else 0, self.max_queue)
        if self.fleet is not None:
            self._shared = self.fleet.share_bulkhead(self)

    def _adopt(self, other: Bulkhead, changed: frozenset[str]) -> None:
        with self._lock:
            if self._shared is None:
                self._slots.resize(self.max_concurrent, self.max_queue)
            else:
                self._slots.max_queue = self.max_queue
                self._shared.resized()

    @property
    def in_flight(self) -> int:
        """Slots that are taken."""
        return self._slots.taken

    @property
    def waiting(self) -> int:
        """Calls in the queue."""
        return self._slots.callers

    def at_rest(self) -> bool:
        """Whether no call is inside or waits."""
        return self.in_flight == 0 and not self.waiting

    def snapshot(self) -> dict[str, Any]:
        """Usage and limits now, and rejections so far."""
        return {
            "in_flight": self.in_flight,
            "limit": self._slots.size,
            "waiting": self.waiting,
            "queue_limit": self._slots.max_queue,
            "rejected": self._rejected,
            "would_reject": self.spared,
        }

    def _sentence(self) -> str:
        queue = f", {self.max_queue} may wait up to {self.max_wait:g} s" if self.max_queue else ""
        return f"bulkhead {self.name!r}: {self.max_concurrent} calls at once{queue}"

    # --- the gate ----------------------------------------------------------------------------------------------

    def enter(self, args: Args, kwargs: Kwargs) -> bool:
        """Take a slot, waiting for it if that is allowed; False without one, where shadow mode spared the call."""
        return self._take() or self._wait("block")

    async def enter_async(self, args: Args, kwargs: Kwargs) -> bool:
        """Take a slot, waiting for it if that is allowed; False without one, where shadow mode spared the call."""
        return self._take() or await self._wait_async("block")

    def settle(self, permit: bool, judgement: Judgement) -> None:
        """Give the slot back; what came of the call does not matter here."""
        if permit:
            self._release()

    def _take(self) -> bool:
        slots = self._slots
        try:
            if slots.waiting:
                return False
            del slots.free[-1]
        except IndexError:
            return False
        return True

    def _release(self) -> None:
        self._slots.free.append(None)
        if self._slots.waiting:
            self._hand_over()

    def _hand_over(self) -> None:
        with self._lock:
            self._slots.hand_over()

    def _wait(self, operation: str) -> bool:
        """Whether a slot was had in the end; False where shadow mode lets the call go without."""
        if self._spared(operation):
            return False
        waiter = ThreadWaiter()
        ticket = self._queue(waiter, operation)
        timed = self._timed()
        try:
            patience = self._patience(ticket)
            waiter.wait(patience, patience == self.max_wait)
        except BaseException:
            self._abandon(ticket)
            if timed is not None:
                timed.over("cancelled")
            raise
        self._leave(ticket, operation, patience, timed)
        return True

    async def _wait_async(self, operation: str) -> bool:
        """Whether a slot was had in the end; False where shadow mode lets the call go without."""
        if self._spared(operation):
            return False
        waiter = async_waiter()
        ticket = self._queue(waiter, operation)
        timed = self._timed()
        try:
            patience = self._patience(ticket)
            await waiter.wait(patience, patience == self.max_wait)
        except BaseException:
            self._abandon(ticket)
            if timed is not None:
                timed.over("cancelled")
            raise
        self._leave(ticket, operation, patience, timed)
        return True

    def _timed(self) -> Wait | None:
        return Wait("bulkhead", BULKHEAD_WAIT, self.name, self.clock) if telemetry.recording else None

    def _spared(self, operation: str) -> bool:
        if not self.spares(RejectionReason.BULKHEAD_FULL, operation):
            return False
        if self._shared is not None:  # it goes without a slot, but the next ones would like to have some
            with self._lock:
                self._shared.more()
        return True

    def _patience(self, ticket: Ticket[Wakeable]) -> float:
        return within_deadline(self._shared.patience if ticket.hopeful else self.max_wait or 0.0)

    def _queue(self, waiter: Wakeable, operation: str) -> Ticket[Wakeable]:
        with self._lock:
            ticket = self._slots.queue(waiter, self._shared is not None and self._shared.more())
        if ticket is None:
            raise self._rejection(RejectionReason.BULKHEAD_FULL, operation)
        return ticket

    def _leave(self, ticket: Ticket[Wakeable], operation: str, patience: float, timed: Wait | None) -> None:
        with self._lock:
            granted = self._slots.leave(ticket)
        if timed is not None:
            timed.over("acquired" if granted else "rejected")
        if not granted:
            waited = RejectionReason.BULKHEAD_FULL if ticket.hopeful else RejectionReason.BULKHEAD_WAIT_TIMEOUT
            raise self._rejection(waited, operation, patience)

    def _abandon(self, ticket: Ticket[Wakeable]) -> None:
        with self._lock:
            granted = self._slots.leave(ticket)
        if granted:  # handed over in the moment of the cancellation: pass it on
            self._release()

    def _rejection(self, reason: RejectionReason, operation: str, patience: float = 0.0) -> BulkheadFullError:
        self._rejected += 1
        tell_rejection(self.bus, self.name, self.clock.now(), reason, operation, total=self._rejected)
        slots = self._slots
        inputs = {
            "kind": self.kind,
            "limit": slots.size,
            "in_flight": slots.taken,
            "queue_limit": slots.max_queue,
            "waiting": slots.callers,
            "patience": patience,
        }
        return BulkheadFullError(self.name, reason, inputs=inputs)

    # --- the weaves ----------------------------------------------------------------------------------------------

    def bind(self, call: Call, site: Site) -> Call:
        """Weave the bulkhead around a blocking call."""
        if site.streaming:
            return stream_gate(self, call, site)
        free, waiting = self._slots.free, self._slots.waiting
        wait, hand_over, operation = self._wait, self._hand_over, site.operation

        def guarded(args: Args, kwargs: Kwargs) -> Any:
            if waiting or not free:
                if not wait(operation):
                    return call(args, kwargs)
            else:
                try:
                    del free[-1]
                except IndexError:  # another thread took the last one since the look
                    if not wait(operation):
                        return call(args, kwargs)
            try:
                return call(args, kwargs)
            finally:
                free.append(None)
                if waiting:
                    hand_over()

        return guarded

    def bind_async(self, call: AsyncCall, site: Site) -> AsyncCall:
        """Weave the bulkhead around an async call."""
        if site.streaming:
            return stream_gate_async(self, call, site)
        free, waiting = self._slots.free, self._slots.waiting
        wait, hand_over, operation = self._wait_async, self._hand_over, site.operation

        async def guarded(args: Args, kwargs: Kwargs) -> Any:
            if waiting or not free:
                if not await wait(operation):
                    return await call(args, kwargs)
            else:
                try:
                    del free[-1]
                except IndexError:
                    if not await wait(operation):
                        return await call(args, kwargs)
            try:
                return await call(args, kwargs)
            finally:
                free.append(None)
                if waiting:
                    hand_over()

        return guarded

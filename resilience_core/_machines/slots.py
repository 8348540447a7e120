"""The bulkhead's law: a number of slots, and a bounded first-in-first-out queue of those who wait for one.

    take:    `del free[-1]`          an IndexError says that all are taken
    return:  `free.append(None)`, then, if anybody waits, `hand_over()` under the lock

A list of free slots is atomic by itself: `del` takes one or raises. `free.pop()` would not do: a signal that comes
between the pop and the use of its result loses the slot.

What must never happen: more holders than slots; a slot that is free while somebody waits (returning appends before it
looks for waiters, waiting enqueues before it looks for slots, so one of the two sees the other); a slot handed to a
waiter who is not there any more (`Ticket.granted` is decided under the lock, once).

A bulkhead that shrinks while its slots are out is in debt: for each slot too many a `_Collector` stands at the head of
the queue and keeps the next slot that comes back. Returning a slot needs no look at the size, then or ever.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Generic, Protocol, TypeVar


class Wakeable(Protocol):
    """A waiting caller; False from `wake` means that nobody is there any more."""

    def wake(self) -> bool: ...


W = TypeVar("W", bound=Wakeable)


class Ticket(Generic[W]):
    """A place in the queue."""

    __slots__ = ("granted", "hopeful", "waiter")

    def __init__(self, waiter: W, hopeful: bool = False) -> None:
        self.waiter = waiter
        self.granted = False
        self.hopeful = hopeful  # beyond the queue's length, because more slots may come from elsewhere


class _Collector:
    """Waits for a slot that is to be there no more."""

    def __init__(self, slots: Slots) -> None:
        self._slots = slots

    def wake(self) -> bool:
        """Keep the slot for good."""
        self._slots.debt -= 1
        return True


class Slots:
    """Free slots and the queue. All methods run under the owner's lock; `free` alone is used without it."""

    __slots__ = ("debt", "free", "max_queue", "size", "waiting")

    def __init__(self, size: int, max_queue: int) -> None:
        self.size = size
        self.max_queue = max_queue
        self.debt = 0  # slots that are still out beyond the size
        self.free: list[None] = [None] * size
        # In order of arrival; ordered, to leave from the middle, and from the front without a look at who left before.
        self.waiting: OrderedDict[Ticket[Wakeable], None] = OrderedDict()

    @property
    def taken(self) -> int:
        """Slots that are out."""
        return self.size + self.debt - len(self.free)

    @property
    def callers(self) -> int:
        """Callers in the queue."""
        return len(self.waiting) - self.debt

    def resize(self, size: int, max_queue: int) -> None:
        """Be of another size from now on; whoever holds a slot or waits for one keeps his place."""
        grow = size - self.size
        self.size, self.max_queue = size, max_queue
        for ticket in [ticket for ticket in self.waiting if isinstance(ticket.waiter, _Collector)]:
            if grow > 0:
                del self.waiting[ticket]
                self.debt -= 1
                grow -= 1
        self.free.extend([None] * grow)  # of nothing, where it shrinks
        for _ in range(-grow):
            try:
                del self.free[-1]
            except IndexError:  # all that is left is out
                self._owe()
        self.hand_over()

    def _owe(self) -> None:
        ticket: Ticket[Wakeable] = Ticket(_Collector(self))
        self.waiting[ticket] = None
        self.waiting.move_to_end(ticket, last=False)
        self.debt += 1

    def queue(self, waiter: Wakeable, hopeful: bool = False) -> Ticket[Wakeable] | None:
        """Join the queue; None when it is full. The ticket may be granted at once."""
        full = self.callers >= self.max_queue and not (self.free and not self.waiting)
        if full and not hopeful:
            return None
        ticket = Ticket(waiter, full)
        self.waiting[ticket] = None
        self.hand_over()
        return ticket

    def dismiss(self) -> None:
        """There will be no more slots: wake those who had no place in the queue but hoped."""
        for ticket in [ticket for ticket in self.waiting if ticket.hopeful]:
            del self.waiting[ticket]
            ticket.waiter.wake()

    def start_over(self, size: int) -> None:
        """As new; whoever held a slot or waited for one is not there any more."""
        self.size, self.debt = size, 0
        self.waiting.clear()
        self.free[:] = [None] * size

    def hand_over(self) -> None:
        """Give free slots to those who wait, in order; whoever cannot be woken is passed over."""
        while self.waiting and self.free:
            ticket, _ = self.waiting.popitem(last=False)
            del self.free[-1]
            ticket.granted = True
            if not ticket.waiter.wake():
                ticket.granted = False
                self.free.append(None)

    def leave(self, ticket: Ticket[Wakeable]) -> bool:
        """Give up waiting; True if a slot had been granted, which the caller now holds."""
        if ticket.granted:
            return True
        self.waiting.pop(ticket, None)
        return False

"""What the outbox asks of the place where its rows are, and that place for tests: memory."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from typing import Protocol, TypeAlias

from resilience_whatsapp._copies import replaced
from resilience_whatsapp.outbox._row import OutboxRow
from resilience_whatsapp.records import MessageStatus

Change: TypeAlias = Callable[[OutboxRow], OutboxRow]
"""A pure rule: from the row as it is to the row as it shall be; the same row changes nothing. It may be asked again,
with a newer row, when somebody else was quicker."""

WAITING = (MessageStatus.QUEUED, MessageStatus.IN_FLIGHT)
TO_LOOK_AT = frozenset({MessageStatus.DEAD, MessageStatus.UNKNOWN})
"""What a person may want to look at: kept for longer."""


class OutboxStore(Protocol):
    """Where rows are. Every method is atomic, between threads and between all processes that share the store.

    Times are seconds since the epoch. Methods raise `OutboxStoreError` when the store cannot be reached.
    """

    async def add(self, row: OutboxRow) -> OutboxRow:
        """Keep a new row, durably, before this returns.

        If there is a row with its key (or its id), that one is returned, and nothing is kept. A row that is to be
        `in_flight` and is `ordered` is kept as `queued` while another ordered one of its lane and recipient is
        `queued` or `in_flight`; what is returned says so.
        """
        ...

    async def change(self, row: OutboxRow, rule: Change) -> OutboxRow | None:
        """Apply a rule to the row as it is now (`row` is what the caller read); None if there is no such row.

        Whenever anything changes, `fence` is raised by one.
        """
        ...

    def post(self, row: OutboxRow, rule: Change) -> None:
        """The same soon, without waiting for it; a later `get` of the row in this process sees it."""
        ...

    async def take(self, lane: str, now: float, lease: float, limit: int) -> list[OutboxRow]:
        """Up to `limit` rows of the lane that are `queued`, due and not expired; they are `in_flight` now, due at
        `now + lease`. Higher priority first, then the older one. Of the ordered ones of a recipient only the oldest,
        and none while one is in flight."""
        ...

    async def next_due(self, lane: str) -> float | None:
        """When the next queued row of the lane is due; None if there is none."""
        ...

    async def overdue(self, now: float, lease: float, limit: int) -> list[OutboxRow]:
        """Rows that are `in_flight` or `unknown` and whose time is over, and `queued` ones that are expired."""
        ...

    async def get(self, row_id: str) -> OutboxRow | None:
        """The row, if there is one."""
        ...

    async def find(self, key: str) -> OutboxRow | None:
        """The row with this idempotency key, if there is one."""
        ...

    async def rows(self, state: MessageStatus, *, limit: int = 100, changed_before: float = ...) -> list[OutboxRow]:
        """Rows in a state, the latest changed first."""
        ...

    async def counts(self) -> dict[MessageStatus, int]:
        """How many rows there are in each state; those without any may be missing."""
        ...

    async def purge(self, changed_before: float, dead_before: float, limit: int) -> int:
        """Forget rows for which nothing is due and that did not change since; `dead` and `unknown` ones have a time of
        their own. How many there were."""
        ...

    async def flush(self) -> None:
        """Wait for what was posted."""
        ...

    async def aclose(self) -> None:
        """Finish, and let go of the file or the connection."""
        ...


class MemoryStore:
    """Rows in a dictionary: for tests, of one event loop; nothing outlives the process."""

    def __init__(self) -> None:
        self._rows: dict[str, OutboxRow] = {}  # in the order in which they came
        self._keys: dict[str, str] = {}

    async def add(self, row: OutboxRow) -> OutboxRow:
        """As `OutboxStore.add`."""
        known = self._rows.get(row.id) or self._rows.get(self._keys.get(row.key or "", ""))
        if known is not None:
            return known
        if row.ordered and row.state is MessageStatus.IN_FLIGHT and any(True for _ in self._line(row)):
            row = replaced(row, state=MessageStatus.QUEUED, due=row.created_at)
        self._rows[row.id] = row
        if row.key is not None:
            self._keys[row.key] = row.id
        return row

    def _line(self, row: OutboxRow) -> Iterable[OutboxRow]:
        """The other ordered rows of its lane and recipient that are not over, the oldest first."""
        pair = (row.lane, row.recipient)
        for other in self._rows.values():
            if (
                other.ordered
                and other.id != row.id
                and (other.lane, other.recipient) == pair
                and other.state in WAITING
            ):
                yield other

    async def change(self, row: OutboxRow, rule: Change) -> OutboxRow | None:
        """As `OutboxStore.change`."""
        return self._change(row.id, rule)

    def _change(self, row_id: str, rule: Change) -> OutboxRow | None:
        known = self._rows.get(row_id)
        if known is None:
            return None
        new = rule(known)
        if new is not known:
            self._rows[row_id] = new = replaced(new, fence=known.fence + 1)
        return new

    def post(self, row: OutboxRow, rule: Change) -> None:
        """As `OutboxStore.post`."""
        self._change(row.id, rule)

    async def take(self, lane: str, now: float, lease: float, limit: int) -> list[OutboxRow]:
        """As `OutboxStore.take`."""
        taken: list[OutboxRow] = []
        ages = {row_id: age for age, row_id in enumerate(self._rows)}
        for row in sorted(self._rows.values(), key=lambda row: (-row.priority, ages[row.id])):
            if len(taken) == limit:
                break
            if row.state is not MessageStatus.QUEUED or row.lane != lane:
                continue
            if (row.due or 0.0) > now or now > row.not_after:
                continue
            if row.ordered and any(
                other.state is MessageStatus.IN_FLIGHT or ages[other.id] < ages[row.id] for other in self._line(row)
            ):
                continue
            self._rows[row.id] = row = replaced(
                row, state=MessageStatus.IN_FLIGHT, due=now + lease, fence=row.fence + 1
            )
            taken.append(row)
        return taken

    async def next_due(self, lane: str) -> float | None:
        """As `OutboxStore.next_due`."""
        queued = (row for row in self._rows.values() if row.state is MessageStatus.QUEUED and row.lane == lane)
        return min((row.due or 0.0 for row in queued), default=None)

    async def overdue(self, now: float, lease: float, limit: int) -> list[OutboxRow]:
        """As `OutboxStore.overdue`."""
        watched = (MessageStatus.IN_FLIGHT, MessageStatus.UNKNOWN)
        found = [
            row
            for row in self._rows.values()
            if (row.state in watched and row.due is not None and row.due <= now)
            or (row.state is MessageStatus.QUEUED and now > row.not_after)
        ]
        return found[:limit]

    async def get(self, row_id: str) -> OutboxRow | None:
        """As `OutboxStore.get`."""
        return self._rows.get(row_id)

    async def find(self, key: str) -> OutboxRow | None:
        """As `OutboxStore.find`."""
        return self._rows.get(self._keys.get(key, ""))

    async def rows(
        self, state: MessageStatus, *, limit: int = 100, changed_before: float = float("inf")
    ) -> list[OutboxRow]:
        """As `OutboxStore.rows`."""
        found = [row for row in self._rows.values() if row.state is state and row.changed_at < changed_before]
        return sorted(found, key=lambda row: -row.changed_at)[:limit]

    async def counts(self) -> dict[MessageStatus, int]:
        """As `OutboxStore.counts`."""
        return dict(Counter(row.state for row in self._rows.values()))

    async def purge(self, changed_before: float, dead_before: float, limit: int) -> int:
        """As `OutboxStore.purge`."""
        old = [
            row
            for row in self._rows.values()
            if row.due is None and row.changed_at < (dead_before if row.state in TO_LOOK_AT else changed_before)
        ]
        for row in old[:limit]:
            del self._rows[row.id]
            if row.key is not None:
                del self._keys[row.key]
        return len(old[:limit])

    async def flush(self) -> None:
        """As `OutboxStore.flush`: nothing is ever under way."""

    async def aclose(self) -> None:
        """As `OutboxStore.aclose`."""

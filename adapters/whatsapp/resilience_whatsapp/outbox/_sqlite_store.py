"""The outbox in an SQLite file: durable, quick through group commit, shared by the processes of one machine."""

from __future__ import annotations

import asyncio
import logging
import os
import sqlite3
from collections.abc import Callable
from contextlib import suppress
from typing import Any, TypeVar

from resilience_whatsapp._copies import replaced
from resilience_whatsapp._sqlite import Database, Synchronous
from resilience_whatsapp.outbox._row import (
    UNREADABLE_FOR,
    Codec,
    OutboxRow,
    OutboxStoreError,
    UnreadableRowError,
    body_of,
    hidden,
    row_of,
)
from resilience_whatsapp.outbox._store import TO_LOOK_AT, Change
from resilience_whatsapp.records import MessageStatus

T = TypeVar("T")
_SCHEMA = (
    """
    CREATE TABLE outbox (
      seq INTEGER PRIMARY KEY,
      id TEXT NOT NULL UNIQUE,
      lane TEXT NOT NULL,
      key TEXT,
      pair TEXT,
      priority INTEGER NOT NULL,
      not_after REAL NOT NULL,
      state TEXT NOT NULL,
      due REAL,
      fence INTEGER NOT NULL,
      changed REAL NOT NULL,
      body BLOB NOT NULL
    ) STRICT;
    CREATE UNIQUE INDEX outbox_key ON outbox (key) WHERE key IS NOT NULL;
    CREATE INDEX outbox_queue ON outbox (lane, priority DESC, seq, due, not_after, pair) WHERE state = 'queued';
    CREATE INDEX outbox_later ON outbox (lane, due) WHERE state = 'queued';
    CREATE INDEX outbox_expiry ON outbox (not_after) WHERE state = 'queued';
    CREATE INDEX outbox_due ON outbox (due) WHERE state IN ('in_flight', 'unknown');
    CREATE INDEX outbox_pair ON outbox (pair, seq) WHERE pair IS NOT NULL AND state IN ('queued', 'in_flight');
    CREATE INDEX outbox_state ON outbox (state, changed)
    """,
)
_COLUMNS = "id, lane, key, pair, priority, not_after, state, due, fence, changed, body"
_READ = "body, state, due, fence, id"
_IN_LINE = "p.pair = outbox.pair AND p.state IN ('queued', 'in_flight')"
_TAKE = f"""
    SELECT {_READ} FROM outbox INDEXED BY outbox_queue
    WHERE lane = ? AND state = 'queued' AND due <= ? AND not_after >= ?
    AND (pair IS NULL OR NOT EXISTS (
      SELECT 1 FROM outbox AS p WHERE {_IN_LINE} AND (p.seq < outbox.seq OR p.state = 'in_flight')))
    ORDER BY priority DESC, seq LIMIT ?
"""
_ANY_DUE = """
    SELECT 1 FROM outbox INDEXED BY outbox_later WHERE lane = ? AND state = 'queued' AND due <= ? LIMIT 1
"""
_OVERDUE = f"""
    SELECT {_READ} FROM outbox INDEXED BY outbox_due WHERE state IN ('in_flight', 'unknown') AND due <= ?
    UNION ALL
    SELECT {_READ} FROM outbox INDEXED BY outbox_expiry WHERE state = 'queued' AND not_after < ?
    LIMIT ?
"""
_OLD = "SELECT seq FROM outbox WHERE state IN ({}) AND changed < ? AND due IS NULL LIMIT ?"
_WAITING = (MessageStatus.QUEUED, MessageStatus.IN_FLIGHT)
_logger = logging.getLogger("resilience_whatsapp.outbox")


class SQLiteStore:
    """Rows in an SQLite file, which is made if it is missing, with the mode 0600.

    Several processes of one machine may share it. A row is on the disk before the request leaves; how it ended is
    written with the next rows, at most 10 ms later: what a crash loses of that is `unknown`, which is safe.

    Args:
        path: the file; on a local disk.
        synchronous: `full` waits for the disk and survives a power cut. `normal` does not wait: it survives `kill -9`,
            but after a power cut a message may have been sent of which there is no row.
        codec: encodes what is kept of each message, for example encrypts it.
        secret: with a codec: text of 16 or more characters with which the names are made under which keys and
            recipients are found; else somebody with the file could try numbers out.

    Raises:
        ConfigurationError: the path is none of a database that can be used.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        synchronous: Synchronous = "full",
        codec: Codec | None = None,
        secret: str = "",
    ) -> None:
        self._database = Database(path, "outbox", _SCHEMA, synchronous=synchronous)
        self._codec = codec
        self._secret = secret.encode()

    async def add(self, row: OutboxRow) -> OutboxRow:
        """As `OutboxStore.add`."""
        body = body_of(row, self._codec)
        key = None if row.key is None else hidden(self._secret, "key", row.key)
        pair = hidden(self._secret, "pair", row.lane, row.recipient) if row.ordered else None

        def work(connection: sqlite3.Connection) -> OutboxRow:
            known = self._one(connection, "key = ? AND key IS NOT NULL", key) if key is not None else None
            if known is not None:
                return known
            new = row
            if pair is not None and row.state is MessageStatus.IN_FLIGHT:
                ahead = "SELECT 1 FROM outbox WHERE pair = ? AND state IN ('queued', 'in_flight') LIMIT 1"
                if connection.execute(ahead, (pair,)).fetchone() is not None:
                    new = replaced(row, state=MessageStatus.QUEUED, due=row.created_at)
            values = (new.id, new.lane, key, pair, new.priority, new.not_after, new.state.value, new.due, new.fence)
            cursor = connection.execute(
                f"INSERT INTO outbox ({_COLUMNS}) VALUES (?,?,?,?,?,?,?,?,?,?,?) ON CONFLICT (id) DO NOTHING",
                (*values, new.changed_at, body),
            )
            return new if cursor.rowcount else self._one(connection, "id = ?", new.id) or new

        return await self._run(work)

    async def change(self, row: OutboxRow, rule: Change) -> OutboxRow | None:
        """As `OutboxStore.change`."""
        return await self._run(lambda connection: self._apply(connection, row, rule))

    def post(self, row: OutboxRow, rule: Change) -> None:
        """As `OutboxStore.post`."""
        self._database.post(lambda connection: self._apply(connection, row, rule), again_on=(OutboxStoreError,))

    def _apply(self, connection: sqlite3.Connection, row: OutboxRow, rule: Change) -> OutboxRow | None:
        new = self._write(connection, row, rule(row))  # mostly nobody else has touched it
        if new is not None:
            return new
        known = self._one(connection, "id = ?", row.id)
        return None if known is None else self._write(connection, known, rule(known))

    def _write(self, connection: sqlite3.Connection, old: OutboxRow, new: OutboxRow) -> OutboxRow | None:
        """The row that is there now; None if `old` was not."""
        if new is old:
            found = connection.execute("SELECT 1 FROM outbox WHERE id = ? AND fence = ?", (old.id, old.fence))
            return None if found.fetchone() is None else old
        new = replaced(new, fence=old.fence + 1)
        values = (new.state.value, new.due, new.fence, new.not_after, new.changed_at)
        cursor = connection.execute(
            "UPDATE outbox SET state=?, due=?, fence=?, not_after=?, changed=?, body=? WHERE id=? AND fence=?",
            (*values, body_of(new, self._codec), old.id, old.fence),
        )
        return new if cursor.rowcount else None

    async def take(self, lane: str, now: float, lease: float, limit: int) -> list[OutboxRow]:
        """As `OutboxStore.take`."""

        def work(connection: sqlite3.Connection) -> list[OutboxRow]:
            if connection.execute(_ANY_DUE, (lane, now)).fetchone() is None:
                return []  # a night's messages that wait for the morning are not looked through each second
            found = connection.execute(_TAKE, (lane, now, now, limit)).fetchall()
            taken = [
                replaced(row, state=MessageStatus.IN_FLIGHT, due=now + lease, fence=row.fence + 1)
                for row in self._readable(connection, found, now)
            ]
            connection.executemany(
                "UPDATE outbox SET state = 'in_flight', due = ?, fence = ? WHERE id = ?",
                [(row.due, row.fence, row.id) for row in taken],
            )
            return taken

        return await self._run(work)

    async def next_due(self, lane: str) -> float | None:
        """As `OutboxStore.next_due`."""
        query = "SELECT min(due) FROM outbox WHERE lane = ? AND state = 'queued'"
        found = await self._run(lambda connection: connection.execute(query, (lane,)).fetchone())
        return None if found[0] is None else float(found[0])

    async def overdue(self, now: float, lease: float, limit: int) -> list[OutboxRow]:
        """As `OutboxStore.overdue`."""
        return await self._run(
            lambda connection: self._readable(
                connection, connection.execute(_OVERDUE, (now, now, limit)).fetchall(), now
            )
        )

    async def get(self, row_id: str) -> OutboxRow | None:
        """As `OutboxStore.get`."""
        return await self._run(lambda connection: self._one(connection, "id = ?", row_id))

    async def find(self, key: str) -> OutboxRow | None:
        """As `OutboxStore.find`."""
        name = hidden(self._secret, "key", key)
        return await self._run(lambda connection: self._one(connection, "key = ?", name))

    async def rows(self, state: MessageStatus, *, limit: int = 100, changed_before: float = 1e18) -> list[OutboxRow]:
        """As `OutboxStore.rows`."""
        query = f"SELECT {_READ} FROM outbox WHERE state = ? AND changed < ? ORDER BY changed DESC LIMIT ?"

        def work(connection: sqlite3.Connection) -> list[OutboxRow]:
            rows: list[OutboxRow] = []
            for each in connection.execute(query, (state.value, changed_before, limit)):
                with suppress(UnreadableRowError):
                    rows.append(self._row(each))
            return rows

        return await self._run(work)

    async def counts(self) -> dict[MessageStatus, int]:
        """As `OutboxStore.counts`."""
        query = "SELECT state, count(*) FROM outbox GROUP BY state"
        found = await self._run(lambda connection: connection.execute(query).fetchall())
        return {MessageStatus(state): count for state, count in found}

    async def purge(self, changed_before: float, dead_before: float, limit: int) -> int:
        """As `OutboxStore.purge`."""
        finished = [state for state in MessageStatus if state not in (*_WAITING, *TO_LOOK_AT)]

        def work(connection: sqlite3.Connection) -> int:
            gone: list[tuple[int]] = []
            for states, before in ((finished, changed_before), (sorted(TO_LOOK_AT), dead_before)):
                named = ", ".join(f"'{state}'" for state in states)
                gone += connection.execute(_OLD.format(named), (before, limit - len(gone))).fetchall()
            connection.executemany("DELETE FROM outbox WHERE seq = ?", gone)
            return len(gone)

        return await self._run(work)

    async def flush(self) -> None:
        """As `OutboxStore.flush`."""
        await self._run(lambda connection: None)

    async def aclose(self) -> None:
        """As `OutboxStore.aclose`."""
        await asyncio.to_thread(self._database.close)

    # --- helpers -----------------------------------------------------------------------------------------------------

    async def _run(self, work: Callable[[sqlite3.Connection], T]) -> T:
        try:
            return await self._database.run(work)
        except sqlite3.Error as error:
            name = getattr(error, "sqlite_errorname", type(error).__name__)
            raise OutboxStoreError(f"the file of the outbox cannot be used ({name})") from error
        except UnreadableRowError as error:
            raise OutboxStoreError(str(error)) from None

    def _one(self, connection: sqlite3.Connection, where: str, value: Any) -> OutboxRow | None:
        found = connection.execute(f"SELECT {_READ} FROM outbox WHERE {where}", (value,)).fetchone()
        return None if found is None else self._row(found)

    def _row(self, found: tuple[Any, ...]) -> OutboxRow:
        return row_of(found[0], self._codec, *found[1:4])

    def _readable(self, connection: sqlite3.Connection, found: list[tuple[Any, ...]], now: float) -> list[OutboxRow]:
        """Those that can be read; the others are set aside for a minute, so that they stop nobody."""
        rows: list[OutboxRow] = []
        for each in found:
            try:
                rows.append(self._row(each))
            except UnreadableRowError as error:
                _logger.warning("%s; it is looked at again in %g s", error, UNREADABLE_FOR)
                later = now + UNREADABLE_FOR
                connection.execute(
                    "UPDATE outbox SET due = ?, not_after = max(not_after, ?) WHERE id = ?", (later, later, each[4])
                )
        return rows

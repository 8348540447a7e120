"""The inbox in an SQLite file: what was answered with 200 outlives the process and a power cut.

One thread writes (`_sqlite.Database`), so that a slow disk never stops the loop, and bodies that arrive while it is
busy share one wait for the disk. Several processes may use one file.
"""

from __future__ import annotations

import asyncio
import os
import sqlite3
from collections.abc import Sequence
from typing import Any

from resilience_whatsapp._sqlite import Database
from resilience_whatsapp.webhooks._inbox import (
    MAX_LOST,
    Claim,
    Claimed,
    InboxCounts,
    InboxFull,
    Listening,
    SetAside,
    Taken,
    merged,
)

__all__ = ["SQLiteInbox"]

# `due` of a claimed row is the end of its lease, so that one index serves both. States: 0 waiting, 1 done, 2 aside.
SCHEMA = (
    """
    CREATE TABLE webhook_items (
        id INTEGER PRIMARY KEY AUTOINCREMENT, key BLOB NOT NULL UNIQUE, state INTEGER NOT NULL DEFAULT 0,
        taken REAL NOT NULL, due REAL NOT NULL, claims INTEGER NOT NULL DEFAULT 0,
        failures INTEGER NOT NULL DEFAULT 0, passed TEXT NOT NULL DEFAULT '', content TEXT
    ) STRICT;
    CREATE INDEX webhook_items_waiting ON webhook_items (due, id) WHERE state = 0 AND claims = failures;
    CREATE INDEX webhook_items_lost ON webhook_items (due, id) WHERE state = 0 AND claims <> failures;
    CREATE INDEX webhook_items_passed ON webhook_items (passed, taken) WHERE state = 0;
    CREATE INDEX webhook_items_aside ON webhook_items (id) WHERE state = 2;
    CREATE INDEX webhook_items_taken ON webhook_items (taken) WHERE state <> 0;
    CREATE TABLE webhook_receivers (
        name TEXT PRIMARY KEY, started REAL NOT NULL, last REAL NOT NULL, heard REAL
    ) STRICT
    """,
)
_CLEAN = "FROM webhook_items WHERE state = 0 AND claims = failures"
_LOST = "FROM webhook_items WHERE state = 0 AND claims <> failures"
_ASIDE_COLUMNS = "id, taken, content, passed"
_WAITING = f"SELECT (SELECT count(*) {_CLEAN}) + (SELECT count(*) {_LOST})"
_ASIDE = "SELECT count(*) FROM webhook_items WHERE state = 2"


class SQLiteInbox:
    """An inbox in a file; see `Inbox` for its methods.

    Args:
        path: the file; may be that of the outbox or the history.

    Raises:
        ConfigurationError: the path cannot be opened, or is no database.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._database = Database(path, "webhooks", SCHEMA, synchronous="full")

    async def take(self, items: Sequence[tuple[bytes, str]], now: float, limit: int) -> Taken:
        """As `Inbox` says."""

        def work(db: sqlite3.Connection) -> Taken:
            before = db.total_changes
            db.executemany(
                "INSERT INTO webhook_items (key, taken, due, content) VALUES (?, ?, ?, ?) ON CONFLICT DO NOTHING",
                [(key, now, now, text) for key, text in items],
            )
            new = db.total_changes - before
            waiting = db.execute(_WAITING).fetchone()[0]
            if new and waiting > limit:
                raise InboxFull
            return Taken(new, waiting)

        return await self._database.run(work)

    async def claim(self, most: int, now: float, until: float, lost: bool) -> Claim:
        """As `Inbox` says."""

        def work(db: sqlite3.Connection) -> Claim:
            hopeless = db.execute(
                f"UPDATE webhook_items SET state = 2 WHERE id IN (SELECT id {_LOST} AND due <= ? "
                f"AND claims - failures >= ?) RETURNING {_ASIDE_COLUMNS}",
                (now, MAX_LOST),
            ).fetchall()
            columns, order = "SELECT id, taken, content, failures, passed", "AND due <= ? ORDER BY due, id LIMIT ?"
            rows = db.execute(f"{columns} {_LOST} {order}", (now, 1)).fetchall() if lost else []
            again = len(rows)
            rows += db.execute(f"{columns} {_CLEAN} {order}", (now, most - again)).fetchall()
            db.executemany(
                "UPDATE webhook_items SET claims = claims + 1, due = ? WHERE id = ?", [(until, row[0]) for row in rows]
            )
            firsts = [db.execute(f"SELECT min(due) {part}").fetchone()[0] for part in (_CLEAN, _LOST)]
            claimed = [
                Claimed(row[0], row[1], row[2], row[3], _names(row[4]), until, at < again)
                for at, row in enumerate(rows)
            ]
            due = min((each for each in firsts if each is not None), default=None)
            return Claim(claimed, [_aside(row) for row in hopeless], due)

        return await self._database.run(work)

    async def done(self, item: int) -> None:
        """As `Inbox` says. Not waited for: if the process dies now, it is done again, as if it had died before."""
        self._database.post(
            lambda db: db.execute("UPDATE webhook_items SET state = 1, content = NULL WHERE id = ?", (item,))
        )

    async def put_off(self, item: int, passed: frozenset[str], due: float | None) -> None:
        """As `Inbox` says."""
        names = "\n".join(sorted(passed))
        state, when = (2, 0.0) if due is None else (0, due)
        statement = "UPDATE webhook_items SET failures = failures + 1, passed = ?, state = ?, due = ? WHERE id = ?"
        await self._database.run(lambda db: db.execute(statement, (names, state, when, item)))

    async def give_back(self, items: Sequence[Claimed], now: float) -> None:
        """As `Inbox` says."""
        statement = "UPDATE webhook_items SET claims = claims - 1, due = ? WHERE id = ? AND state = 0 AND due = ?"
        rows = [(now, item.id, item.until) for item in items]
        await self._database.run(lambda db: db.executemany(statement, rows))

    async def set_aside(self, most: int) -> list[SetAside]:
        """As `Inbox` says."""
        query = f"SELECT {_ASIDE_COLUMNS} FROM webhook_items WHERE state = 2 ORDER BY id LIMIT ?"
        rows = await self._database.run(lambda db: db.execute(query, (most,)).fetchall())
        return [_aside(row) for row in rows]

    async def again(self, items: Sequence[int], now: float) -> int:
        """As `Inbox` says."""
        statement = "UPDATE webhook_items SET state = 0, due = ?, claims = 0, failures = 0 WHERE id = ? AND state = 2"

        def work(db: sqlite3.Connection) -> int:
            return db.executemany(statement, [(now, item) for item in items]).rowcount

        return max(0, await self._database.run(work))

    async def counts(self) -> InboxCounts:
        """As `Inbox` says."""

        def work(db: sqlite3.Connection) -> InboxCounts:
            return InboxCounts(db.execute(_WAITING).fetchone()[0], db.execute(_ASIDE).fetchone()[0])

        return await self._database.run(work)

    async def beat(self, receiver: str, started: float, now: float, heard: float | None) -> None:
        """As `Inbox` says."""
        statement = "INSERT OR REPLACE INTO webhook_receivers (name, started, last, heard) VALUES (?, ?, ?, ?)"
        await self._database.run(lambda db: db.execute(statement, (receiver, started, now, heard)))

    async def listening(self) -> Listening:
        """As `Inbox` says."""

        def work(db: sqlite3.Connection) -> Listening:
            rows = db.execute("SELECT started, last, heard FROM webhook_receivers").fetchall()
            heard = max((row[2] for row in rows if row[2] is not None), default=None)
            oldest = db.execute("SELECT passed, min(taken) FROM webhook_items WHERE state = 0 GROUP BY passed")
            waiting = {_names(passed): taken for passed, taken in oldest}
            return Listening(merged([(row[0], row[1]) for row in rows]), heard, waiting)

        return await self._database.run(work)

    async def forget(self, before: float, most: int) -> int:
        """As `Inbox` says."""

        def work(db: sqlite3.Connection) -> int:
            db.execute("DELETE FROM webhook_receivers WHERE last < ?", (before,))
            old = "SELECT id FROM webhook_items WHERE state <> 0 AND taken < ? ORDER BY taken LIMIT ?"
            return db.execute(f"DELETE FROM webhook_items WHERE id IN ({old})", (before, most)).rowcount

        return await self._database.run(work)

    async def aclose(self) -> None:
        """As `Inbox` says."""
        await asyncio.to_thread(self._database.close)


def _aside(row: Any) -> SetAside:
    return SetAside(row[0], row[1], row[2], _names(row[3]))


def _names(text: str) -> frozenset[str]:
    return frozenset(text.split("\n")) - {""}

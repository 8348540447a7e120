"""The tables of the history, and what is done with them: functions of a connection, within somebody's transaction."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from attrs import frozen

from resilience_whatsapp._error_table import ErrorClass
from resilience_whatsapp.history._stories import HistoryPage, MessageStory, Step, Trouble, status_after
from resilience_whatsapp.records import MessageStatus

SCHEMA = (
    """
    CREATE TABLE history_messages (
        number INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT NOT NULL UNIQUE, wamid TEXT, recipient TEXT, user_id TEXT,
        kind TEXT, template TEXT, language TEXT, status TEXT NOT NULL, attempts INTEGER NOT NULL,
        possible_duplicate INTEGER NOT NULL, created REAL NOT NULL, updated REAL NOT NULL,
        error TEXT, error_class TEXT, code INTEGER, subcode INTEGER, fbtrace_id TEXT
    ) STRICT;
    CREATE INDEX history_by_wamid ON history_messages (wamid) WHERE wamid IS NOT NULL;
    CREATE INDEX history_by_created ON history_messages (created, number);
    CREATE INDEX history_by_recipient ON history_messages (recipient, created, number) WHERE recipient IS NOT NULL;
    CREATE INDEX history_by_status ON history_messages (status, created, number);
    CREATE INDEX history_by_template ON history_messages (template, created, number) WHERE template IS NOT NULL;
    CREATE TABLE history_steps (
        message INTEGER NOT NULL, at REAL NOT NULL, status TEXT NOT NULL, source TEXT NOT NULL, duration REAL,
        error TEXT, error_class TEXT, code INTEGER, subcode INTEGER, fbtrace_id TEXT
    ) STRICT;
    CREATE INDEX history_steps_by_message ON history_steps (message, at);
    CREATE UNIQUE INDEX history_steps_told_once ON history_steps (message, status) WHERE source = 'webhook'
    """,
)
_TROUBLE = "error, error_class, code, subcode, fbtrace_id"
_MESSAGE = (
    "number, id, wamid, recipient, user_id, kind, template, language, status, attempts, possible_duplicate, "
    f"created, updated, {_TROUBLE}"
)
_FILTERS = {
    "recipient": "recipient = ?",
    "status": "status = ?",
    "template": "template = ?",
    "user_id": "user_id = ?",
    "since": "created >= ?",
    "until": "created < ?",
}


@frozen
class Facts:
    """What is told of a message; None for what is not told."""

    id: str | None = None
    wamid: str | None = None
    recipient: str | None = None
    user_id: str | None = None
    kind: str | None = None
    template: str | None = None
    language: str | None = None
    attempts: int | None = None
    possible_duplicate: bool | None = None
    created: float | None = None


def add(db: sqlite3.Connection, facts: Facts, steps: Sequence[Step]) -> None:
    """Add to the message's story, or begin it. The last step says where it stands. What is told twice is kept once."""
    last = steps[-1]
    row = _find(db, facts)
    if row is None:
        number = _begin(db, facts, last)
    else:
        number = row[0]
        known = MessageStatus(row[1])
        status = status_after(known, last.status, last.source, accepted=row[2] is not None)
        changes: dict[str, Any] = {
            "id": facts.id,
            "wamid": facts.wamid,
            "recipient": facts.recipient,
            "user_id": facts.user_id,
            "kind": facts.kind,
            "template": facts.template,
            "language": facts.language,
            "attempts": facts.attempts,
            "possible_duplicate": facts.possible_duplicate,
            "created": facts.created,
            "status": status.value,
        }
        changes = {name: value for name, value in changes.items() if value is not None}
        if last.trouble is not None:
            changes |= dict(zip(_TROUBLE.split(", "), _flat(last.trouble), strict=True))
        sets = ", ".join(f"{name} = ?" for name in changes)
        statement = f"UPDATE history_messages SET {sets}, updated = max(updated, ?) WHERE number = ?"
        db.execute(statement, (*changes.values(), last.at, number))
    db.executemany(
        f"INSERT INTO history_steps (message, at, status, source, duration, {_TROUBLE}) "
        "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING",
        [(number, step.at, step.status.value, step.source, step.duration, *_flat(step.trouble)) for step in steps],
    )


def _find(db: sqlite3.Connection, facts: Facts) -> Any:
    """By our id, else by the platform's. A message that only webhooks told of has the wamid as its id."""
    for column, value in (("id", facts.id), ("wamid", facts.wamid)):
        if value is not None:
            row = db.execute(
                f"SELECT number, status, wamid FROM history_messages WHERE {column} = ?", (value,)
            ).fetchone()
            if row is not None:
                return row
    return None


def _begin(db: sqlite3.Connection, facts: Facts, last: Step) -> int:
    created = last.at if facts.created is None else facts.created
    values = (
        facts.id or facts.wamid,
        facts.wamid,
        facts.recipient,
        facts.user_id,
        facts.kind,
        facts.template,
        facts.language,
        last.status.value,
        facts.attempts or 0,
        bool(facts.possible_duplicate),
        created,
        last.at,
        *_flat(last.trouble),
    )
    columns = _MESSAGE.removeprefix("number, ")
    marks = ", ".join("?" * len(values))
    number = db.execute(f"INSERT INTO history_messages ({columns}) VALUES ({marks})", values).lastrowid
    assert number is not None
    return number


def get(db: sqlite3.Connection, column: str, value: str) -> MessageStory | None:
    """The story of one message, with its steps."""
    query = f"SELECT {_MESSAGE} FROM history_messages WHERE {column} = ? ORDER BY number DESC LIMIT 1"
    row = db.execute(query, (value,)).fetchone()
    if row is None:
        return None
    steps = db.execute(
        f"SELECT at, status, source, duration, {_TROUBLE} FROM history_steps WHERE message = ? ORDER BY at, rowid",
        (row[0],),
    )
    return _story(
        row,
        tuple(Step(step[0], MessageStatus(step[1]), step[2], step[3], _trouble(step[4:])) for step in steps),
    )


def find(db: sqlite3.Connection, filters: Mapping[str, Any], most: int, after: tuple[float, int] | None) -> HistoryPage:
    """A page of those that fit all filters, the newest first."""
    terms = [_FILTERS[name] for name, value in filters.items() if value is not None]
    values = [value for value in filters.values() if value is not None]
    if after is not None:
        terms.append("(created, number) < (?, ?)")
        values += after
    where = f"WHERE {' AND '.join(terms)}" if terms else ""
    query = f"SELECT {_MESSAGE} FROM history_messages {where} ORDER BY created DESC, number DESC LIMIT ?"
    rows = db.execute(query, (*values, most + 1)).fetchall()
    last = rows[most - 1] if len(rows) > most else None
    token = None if last is None else f"{last[11]!r}_{last[0]}"
    return HistoryPage(tuple(_story(row, ()) for row in rows[:most]), token)


def count(db: sqlite3.Connection, since: float) -> dict[MessageStatus, int]:
    """How many stand where, of those begun since then."""
    query = "SELECT status, count(*) FROM history_messages WHERE created >= ? GROUP BY status"
    return {MessageStatus(status): number for status, number in db.execute(query, (since,))}


def forget(db: sqlite3.Connection, before: float, keep: int, most: int) -> int:
    """Drop at most `most` messages: those begun before that time, and the oldest beyond `keep`."""
    old = "SELECT number FROM history_messages WHERE created < ? ORDER BY created LIMIT ?"
    numbers = [row[0] for row in db.execute(old, (before, most))]
    # Numbers only grow: the distance to the newest bounds how many there are, without counting a million rows.
    beyond = "SELECT number FROM history_messages WHERE number <= (SELECT max(number) FROM history_messages) - ?"
    numbers += [row[0] for row in db.execute(f"{beyond} ORDER BY number LIMIT ?", (keep, most - len(numbers)))]
    for table, column in (("history_steps", "message"), ("history_messages", "number")):
        db.executemany(f"DELETE FROM {table} WHERE {column} = ?", [(number,) for number in numbers])
    return len(numbers)


def _flat(trouble: Trouble | None) -> tuple[Any, ...]:
    if trouble is None:
        return (None,) * 5
    kind = None if trouble.error_class is None else trouble.error_class.value
    return trouble.name, kind, trouble.code, trouble.subcode, trouble.fbtrace_id


def _trouble(columns: Iterable[Any]) -> Trouble | None:
    name, kind, code, subcode, trace = columns
    return None if name is None else Trouble(name, None if kind is None else ErrorClass(kind), code, subcode, trace)


def _story(row: Any, steps: tuple[Step, ...]) -> MessageStory:
    id_, wamid, recipient, user, kind, template, language, status, attempts, duplicate, created, updated = row[1:13]
    return MessageStory(
        id_,
        wamid,
        recipient,
        user,
        kind,
        template,
        language,
        MessageStatus(status),
        attempts,
        bool(duplicate),
        created,
        updated,
        _trouble(row[13:]),
        steps,
    )

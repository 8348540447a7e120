"""Rows for tests, and each kind of store that there is."""

from __future__ import annotations

import itertools
from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from resilience_whatsapp.outbox import MemoryStore, OutboxRow, OutboxStore, RedisStore, SQLiteStore
from resilience_whatsapp.records import MessageStatus
from tests._redis import RedisServer

NOW = 1_000_000.0
SECRET = "a secret of the tests"
_numbers = itertools.count()
Opener = Callable[[], AbstractAsyncContextManager[OutboxStore]]
"""Opens the store, the same one each time."""


def a_row(**changes: Any) -> OutboxRow:
    values: dict[str, Any] = {
        "id": f"row-{next(_numbers)}",
        "lane": "100",
        "user_id": "7",
        "recipient": "+33612345678",
        "payload": {"to": "+33612345678", "text": {"body": "é"}},
        "kind": "text",
        "delivery": "at_most_once",
        "not_after": NOW + 1000,
        "state": MessageStatus.QUEUED,
        "due": NOW,
        "created_at": NOW,
        "changed_at": NOW,
        "kept": True,
    }
    return OutboxRow(**{**values, **changes})


@pytest.fixture(params=["memory", "sqlite", "redis"])
def opener(request: pytest.FixtureRequest, tmp_path: Path) -> Opener:
    """Each test runs once with each store."""
    if request.param == "memory":
        memory = MemoryStore()

        @asynccontextmanager
        async def open_memory() -> AsyncGenerator[OutboxStore]:
            yield memory

        return open_memory
    if request.param == "sqlite":
        return lambda: opened(SQLiteStore(tmp_path / "outbox.db"))
    server: RedisServer = request.getfixturevalue("redis_server")
    name = f"outbox-{next(_numbers)}"
    return lambda: opened(RedisStore(server.url, secret=SECRET, name=name))


@asynccontextmanager
async def opened(store: OutboxStore) -> AsyncGenerator[OutboxStore]:
    """Closed in the end, also when the test fails."""
    try:
        yield store
    finally:
        await store.aclose()

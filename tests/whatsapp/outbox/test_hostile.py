"""What is around an outbox ends, hangs or fails at the worst moment: nothing is lost, and rows tell the truth."""

from __future__ import annotations

import asyncio
import logging
import sqlite3
from pathlib import Path
from typing import Any

import pytest
from attrs import evolve

from resilience_core import CircuitBreaker
from resilience_whatsapp import MessageStatus, _sqlite
from resilience_whatsapp.outbox import Drop, MemoryStore, Outbox, OutboxRow, OutboxStoreError, SQLiteStore
from resilience_whatsapp.outbox import _machine as machine
from tests.whatsapp.fakes import OK, RECIPIENT, Stub
from tests.whatsapp.outbox.stores import NOW, SECRET, a_row, opened
from tests.whatsapp.outbox.test_sending import UNKNOWN_END, made, run, send, until, until_state


class Slowly(MemoryStore):
    """As a file or a server does it: who is cancelled while he takes or changes has taken or changed all the same."""

    def __init__(self) -> None:
        super().__init__()
        self.asked, self.go = asyncio.Event(), asyncio.Event()
        self.go.set()

    async def take(self, *arguments: Any) -> list[OutboxRow]:
        taken = await super().take(*arguments)
        if taken:
            self.asked.set()
            await self.go.wait()
        return taken

    async def change(self, *arguments: Any) -> OutboxRow | None:
        changed = await super().change(*arguments)
        self.asked.set()
        await self.go.wait()
        return changed


@pytest.mark.parametrize("patience", [10.0, 0.0])
def test_what_was_taken_while_it_ends_stays_queued(patience: float) -> None:
    async def story() -> None:
        stub, store, breaker = Stub(OK), Slowly(), CircuitBreaker("whatsapp_api")
        service = made(stub, store=store, breaker=breaker, when_down="queue")
        breaker.force_open(reason="test")
        record = await send(service)
        breaker.reset()
        store.go.clear()
        async with service.outbox.running(drain_timeout=patience):
            await store.asked.wait()
            asyncio.get_running_loop().call_later(0.01, store.go.set)
        row = await service.outbox.get(record.id)
        assert (row.state, row.reason, stub.payloads) == ("queued", "put back", [])

    run(story)


def test_a_listener_that_raises_hides_no_outcome(caplog: pytest.LogCaptureFixture) -> None:
    class Broken:
        def add(self, *arguments: Any, **options: Any) -> None:
            raise ZeroDivisionError

    async def story() -> None:
        stub, breaker = Stub(OK), CircuitBreaker("whatsapp_api")
        service = made(stub, breaker=breaker, when_down="queue")
        service.history = Broken()
        assert (await send(service)).status == "accepted"
        breaker.force_open(reason="test")
        record = await send(service)
        breaker.reset()
        async with service.outbox.running():
            await until_state(service, record.id, "accepted")
        assert len(stub.payloads) == 2

    run(story)
    assert "could not be told" in caplog.text


class Failing:
    """A codec whose keys are away for a time."""

    failures = 0

    def encode(self, content: bytes) -> bytes:
        if self.failures:
            self.failures -= 1
            raise ZeroDivisionError(content)
        return content

    def decode(self, content: bytes) -> bytes:
        return content


def test_a_codec_that_fails_for_a_time_loses_no_outcome(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_sqlite, "AGAIN_AFTER", 0.001)

    async def story() -> None:
        codec = Failing()

        class Sending(Stub):
            async def send_message(self, payload: Any) -> Any:
                codec.failures = 3
                return await super().send_message(payload)

        async with opened(SQLiteStore(tmp_path / "a.db", codec=codec, secret=SECRET)) as store:
            service = made(Sending(OK), store=store)
            codec.failures = 1
            with pytest.raises(OutboxStoreError, match=r"the codec of the outbox failed \(ZeroDivisionError\)"):
                await send(service)
            codec.failures = 0
            record = await send(service)
            await until_state(service, record.id, "accepted")

    run(story)


def test_a_file_that_is_locked_while_a_send_ends_learns_how_it_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_sqlite, "BUSY_TIMEOUT", 0.01)
    monkeypatch.setattr(_sqlite, "AGAIN_AFTER", 0.001)
    holder = sqlite3.connect(tmp_path / "a.db", isolation_level=None)

    class Locking(Stub):
        async def send_message(self, payload: Any) -> Any:
            holder.execute("BEGIN IMMEDIATE")
            return await super().send_message(payload)

    async def story() -> None:
        async with opened(SQLiteStore(tmp_path / "a.db")) as store:
            service = made(Locking(OK), store=store)
            record = await send(service)
            with pytest.raises(OutboxStoreError, match="SQLITE_BUSY"):
                await service.outbox.get(record.id)
            holder.execute("ROLLBACK")
            assert (await service.outbox.get(record.id)).state == "accepted"
        holder.close()

    run(story)

"""What is around an outbox ends, hangs or fails at the worst moment: nothing is lost, and rows tell the truth."""

from __future__ import annotations

import asyncio
import sqlite3
from pathlib import Path
from typing import Any

import pytest
from attrs import evolve

from resilience_core import CircuitBreaker, CircuitOpenError
from resilience_core.testing import run_virtual
from resilience_whatsapp import GraphTransientError, MessageStatus, ResilientWhatsAppClient, WhatsAppService, _sqlite
from resilience_whatsapp.outbox import MemoryStore, Outbox, OutboxRow, OutboxStoreError, SQLiteStore
from resilience_whatsapp.outbox import _machine as machine
from tests.whatsapp.fakes import OK, FakeClock, Stub
from tests.whatsapp.outbox.stores import NOW, SECRET, a_row, opened
from tests.whatsapp.outbox.test_sending import made, run, run_in_real_time, send, until, until_state


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


def test_an_error_that_lets_nobody_set_anything_is_raised_as_it_is_with_the_record() -> None:
    class Closed(Exception):
        def __setattr__(self, name: str, value: Any) -> None:
            raise AttributeError(name)

    async def story() -> None:
        service = made(Stub(Closed()))
        with pytest.raises(Closed) as raised:
            await send(service)
        assert raised.value.__dict__["record"].status is MessageStatus.UNKNOWN

    run(story)


class Unanswered(MemoryStore):
    """As Redis does it that dies while it answers: the row is kept, nobody hears of it, and writes come later."""

    def __init__(self) -> None:
        super().__init__()
        self.adds = 0
        self.back = asyncio.Event()
        self.posts: list[asyncio.Task[None]] = []

    async def add(self, row: OutboxRow) -> OutboxRow:
        self.adds += 1
        kept = await super().add(row)
        if self.adds == 1:
            raise OutboxStoreError("no answer")
        return kept

    def post(self, row: OutboxRow, rule: Any) -> None:
        async def later() -> None:
            await self.back.wait()
            self._change(row.id, rule)

        self.posts.append(asyncio.get_running_loop().create_task(later()))

    async def get(self, row_id: str) -> OutboxRow | None:
        await asyncio.gather(*self.posts)
        return await super().get(row_id)


def test_who_hands_a_message_over_again_while_its_first_row_is_being_given_up_sends_it() -> None:
    async def story() -> None:
        stub, store = Stub(OK), Unanswered()
        service = made(stub, store=store, when_down="queue")
        with pytest.raises(OutboxStoreError):
            await send(service, idempotency_key="order-7")
        again = asyncio.ensure_future(send(service, idempotency_key="order-7"))
        await asyncio.sleep(0)
        store.back.set()
        record = await again
        assert (record.status, len(stub.payloads)) == ("accepted", 1)
        row = await service.outbox.get(record.id)
        assert (row.state, row.attempts) == ("accepted", 1)

    run(story)


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

    run_in_real_time(story)


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

    run_in_real_time(story)


@pytest.mark.parametrize("delivery", ["at_most_once", "at_least_once"])
def test_a_second_send_by_key_that_is_cut_short_while_it_is_written_is_not_sent(delivery: str) -> None:
    async def story() -> None:
        stub, store, breaker = Stub(OK), Slowly(), CircuitBreaker("whatsapp_api")
        service = made(stub, store=store, breaker=breaker, delivery=delivery, lease=0.02, send_timeout=0.01)
        breaker.force_open(reason="test")
        with pytest.raises(CircuitOpenError):
            await send(service, idempotency_key="k")
        breaker.reset()
        store.go.clear()
        task = asyncio.create_task(send(service, idempotency_key="k"))
        await store.asked.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        store.go.set()
        assert (await service.outbox.find("k")).state == "rejected"
        assert (await send(service, idempotency_key="k")).status == "accepted"
        assert len(stub.payloads) == 1

    run(story)


def test_who_is_cut_short_takes_no_row_away_from_who_was_quicker(tmp_path: Path) -> None:
    class Beaten(SQLiteStore):
        """Another process has changed the row just before, and then the caller is cancelled."""

        async def change(self, row: OutboxRow, rule: Any) -> OutboxRow | None:
            await super().change(row, lambda known: evolve(known, state=MessageStatus.IN_FLIGHT, changed_at=NOW))
            await super().change(row, rule)
            raise asyncio.CancelledError

    async def story() -> None:
        async with opened(Beaten(tmp_path / "a.db")) as store:
            stub, breaker = Stub(OK), CircuitBreaker("whatsapp_api")
            service = made(stub, store=store, breaker=breaker)
            breaker.force_open(reason="test")
            with pytest.raises(CircuitOpenError):
                await send(service, idempotency_key="k")
            with pytest.raises(asyncio.CancelledError):
                await send(service, idempotency_key="k")
            assert (await service.outbox.find("k")).state == "in_flight"

    run_in_real_time(story)


class Stopped(MemoryStore):
    """The process is stopped when its row is written; `meanwhile` happens to the row before it goes on."""

    def __init__(self, clock: FakeClock, meanwhile: Any) -> None:
        super().__init__()
        self._clock, self._meanwhile = clock, meanwhile

    async def add(self, row: OutboxRow) -> OutboxRow:
        kept = await super().add(row)
        self._clock.time += 1_000.0
        self._meanwhile(self, kept)
        return kept


@pytest.mark.parametrize(("delivery", "state"), [("at_most_once", "unknown"), ("at_least_once", "queued")])
def test_who_was_stopped_beyond_his_lease_before_the_first_byte_sends_nothing_that_others_have(
    delivery: str, state: str
) -> None:
    def others(store: MemoryStore, row: OutboxRow) -> None:
        store.post(row, lambda known: machine.orphaned(known, clock.time, machine.Rules()))

    clock = FakeClock()

    async def story() -> None:
        stub = Stub(OK)
        service = made(stub, store=Stopped(clock, others), clock=clock, delivery=delivery)
        record = await send(service)
        assert (record.status, stub.payloads) == (state, [])
        service = made(stub, store=Stopped(clock, lambda *_: None), clock=clock, delivery=delivery)
        record = await send(service)
        assert (record.status, len(stub.payloads)) == ("accepted", 1), "nobody has noticed: a new lease"
        assert (await service.outbox.get(record.id)).attempts == 1

    run(story)


def test_a_downtime_that_fails_delays_what_is_unknown_and_nothing_else(caplog: pytest.LogCaptureFixture) -> None:
    async def story() -> None:
        store = MemoryStore()
        rows = [a_row(state=MessageStatus.UNKNOWN), a_row(state=MessageStatus.IN_FLIGHT), a_row()]
        for row in rows:
            await store.add(row)
        failing = [True]

        def downtime() -> Any:
            if failing:
                raise ZeroDivisionError
            return ()

        outbox = Outbox(store, poll=0.01, downtime=downtime)
        async with outbox.running():

            async def settled() -> bool:
                return {(await outbox.get(row.id)).state for row in rows[1:]} == {"unknown", "dead"}

            await until(settled)
            assert (await outbox.get(rows[0].id)).reason is None
            failing.clear()

            async def given_up() -> bool:
                return (await outbox.get(rows[0].id)).reason == "no echo"

            await until(given_up)

    run(story)
    assert "`downtime` failed" in caplog.text


def test_many_rows_that_expire_share_the_waits_for_the_disk(tmp_path: Path) -> None:
    async def story() -> None:
        async with opened(SQLiteStore(tmp_path / "a.db")) as store:
            for some in [[a_row() for _ in range(100)] for _ in range(2)]:
                await asyncio.gather(*map(store.add, some))
            batches, outbox = [], Outbox(store)
            line = store._database._line
            next_batch = line.next_batch

            def counted(*arguments: Any) -> Any:
                batches.append(1)
                return next_batch(*arguments)

            line.next_batch = counted
            await outbox._drainer._settle_overdue()
            assert (await outbox.counts())[MessageStatus.DEAD] == 200
            assert len(batches) < 60

    run_in_real_time(story)


def test_an_outbox_is_in_the_time_of_the_policies() -> None:
    async def story() -> None:
        stub, breaker = Stub(GraphTransientError(131000, None, 500, "platform"), OK), CircuitBreaker("whatsapp_api")
        outbox = Outbox(MemoryStore(), when_down="queue", base_delay=300.0)
        service = WhatsAppService(ResilientWhatsAppClient(stub, breaker), outbox=outbox)
        record = await send(service)
        assert record.status == "queued"
        async with outbox.running():
            while (await outbox.get(record.id)).state == "queued":
                await asyncio.sleep(5)
        assert (await outbox.get(record.id)).state == "accepted"

    run_virtual(story)


def test_many_that_are_not_due_cost_nothing(tmp_path: Path) -> None:
    async def story() -> None:
        async with opened(SQLiteStore(tmp_path / "a.db", synchronous="normal")) as store:
            await asyncio.gather(*(store.add(a_row(due=NOW + 100)) for _ in range(1_000)))
            steps: list[int] = []
            # Called after each 100 instructions of SQLite's machine; a full scan takes several for each row.
            await store._database.run(lambda db: db.set_progress_handler(lambda: steps.append(100), 100))
            assert await store.take("100", NOW, 180.0, 10) == []
            assert sum(steps) < 1_000
            assert len(await store.take("100", NOW + 100, 180.0, 10)) == 10

    run_in_real_time(story)


@pytest.mark.parametrize("when_down", ["raise", "queue"])
def test_what_expired_while_it_was_written_is_not_sent(when_down: str) -> None:
    clock = FakeClock()

    async def story() -> None:
        stub = Stub(OK)
        service = made(stub, store=Stopped(clock, lambda *_: None), clock=clock)
        with pytest.raises(OutboxStoreError, match="not_after") as caught:
            await send(service, not_after=clock.wall() + 500, when_down=when_down)
        row = await service.outbox.get(caught.value.record.id)
        assert (row.state, caught.value.record.status, stub.payloads) == ("rejected", "rejected", [])

    run(story)

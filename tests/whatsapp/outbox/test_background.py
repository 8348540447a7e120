"""The background work: what it does when things around it fail, the blocking face, and real HTTP."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from resilience_core import CircuitBreaker, RejectionReason, Retry
from resilience_whatsapp import (
    AmbiguousOutcomeError,
    GateClosedError,
    GraphClient,
    GraphRequestError,
    GraphThrottledError,
    GraphTransientError,
    MessageStatus,
    ResilientWhatsAppClient,
    SendReceipt,
    ServiceClosedError,
    Template,
    TemplatePage,
    WhatsAppService,
)
from resilience_whatsapp._clock import SYSTEM
from resilience_whatsapp.history import History
from resilience_whatsapp.messages import Text
from resilience_whatsapp.outbox import (
    IdempotencyKeyError,
    MemoryStore,
    Outbox,
    OutboxRow,
    OutboxStoreError,
    RedisStore,
    SQLiteStore,
    _drain,
    _row,
)
from resilience_whatsapp.simulator import Fault, Simulator, SimulatorThread
from tests._redis import RedisServer
from tests.whatsapp.fakes import OK, RECIPIENT, Stub
from tests.whatsapp.outbox.stores import NOW, SECRET, a_row
from tests.whatsapp.outbox.test_sending import (
    PATIENCE,
    QUICK,
    Slow,
    made,
    run,
    run_in_real_time,
    send,
    until,
    until_state,
)


class Faulty(MemoryStore):
    """Fails as often as it is told to."""

    failures = 0
    error: Exception = OutboxStoreError("the store is away")

    async def take(self, *arguments: Any) -> list[OutboxRow]:
        if self.failures:
            self.failures -= 1
            raise self.error
        return await super().take(*arguments)


@pytest.mark.parametrize("error", [OutboxStoreError("the store is away"), ZeroDivisionError("a bug")])
def test_a_store_that_fails_for_a_time_is_asked_again(error: Exception, caplog: pytest.LogCaptureFixture) -> None:
    async def story() -> None:
        store, breaker = Faulty(), CircuitBreaker("whatsapp_api")
        service = made(Stub(OK), store=store, breaker=breaker, when_down="queue")
        breaker.force_open(reason="test")
        record = await send(service)
        store.failures, store.error = 3, error
        breaker.reset()
        async with service.outbox.running():
            await until_state(service, record.id, "accepted")
        assert store.failures == 0

    run(story)
    assert "trying again in 0.01 s" in caplog.text


def test_what_the_store_cannot_keep_is_not_sent() -> None:
    class Full(MemoryStore):
        async def add(self, row: OutboxRow) -> OutboxRow:
            raise OutboxStoreError("full")

    async def story() -> None:
        stub = Stub(OK)
        with pytest.raises(OutboxStoreError):
            await send(made(stub, store=Full()))
        assert stub.payloads == []

    run(story)


def test_a_send_that_is_cancelled_while_its_row_is_written_is_rejected(tmp_path: Path) -> None:
    async def story() -> None:
        stub, store = Stub(OK), SQLiteStore(tmp_path / "a.db")
        service = made(stub, store=store, delivery="at_least_once", lease=0.02, send_timeout=0.01)
        task = asyncio.create_task(send(service))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        counts = await service.outbox.counts()
        assert {state: count for state, count in counts.items() if count} == {MessageStatus.REJECTED: 1}
        async with service.outbox.running():
            await asyncio.sleep(0.05)
        assert stub.payloads == []
        await store.aclose()

    run_in_real_time(story)


def test_while_the_circuit_probes_the_next_probe_follows_the_last_one_at_once() -> None:
    """A fleet takes the right to probe from a member that pauses for 0.2 s, and its successes with it."""

    async def story() -> None:
        breaker = CircuitBreaker("whatsapp_api", failure_threshold=1, success_threshold=3, recovery_timeout=0.05)
        stub = Stub(GraphTransientError(131016, None, 503, "platform", None), OK)
        # At this pace the second probe would have a day to wait.
        service = made(stub, breaker=breaker, when_down="queue", first_rate=1e-5, rate=1e-5)
        for _ in range(4):
            await send(service)
        async with service.outbox.running():

            async def closed() -> bool:
                return breaker.state == "closed" and len(stub.payloads) >= 4

            await until(closed)

    run(story)


def test_a_circuit_that_may_be_probed_makes_no_request_while_nothing_is_queued() -> None:
    class Counting(MemoryStore):
        takes = 0

        async def take(self, *arguments: Any) -> list[OutboxRow]:
            self.takes += 1
            return await super().take(*arguments)

    async def story() -> None:
        breaker, store = CircuitBreaker("whatsapp_api", failure_threshold=1, recovery_timeout=0.01), Counting()
        stub = Stub(GraphTransientError(131016, None, 503, "platform", None))
        service = made(stub, breaker=breaker, store=store)
        with pytest.raises(GraphTransientError):
            await send(service)
        async with service.outbox.running():

            async def looked() -> bool:
                return store.takes >= 2

            await until(looked)
        assert (len(stub.payloads), breaker.state) == (1, "open")

    run(story)


@pytest.mark.parametrize(("scope", "waits"), [("pair", 0.0), ("marketing", 0.0), ("throughput", 0.006)])
def test_a_gate_that_is_closed_for_some_messages_does_not_slow_the_others_down(scope: str, waits: float) -> None:
    class Shut(Stub):
        async def send_message(self, payload: Mapping[str, Any]) -> SendReceipt:
            inputs = {"scope": scope, "code": None, "latched": False}
            raise GateClosedError("whatsapp_gate", RejectionReason.THROTTLED, 0.006, None, inputs)

    async def story() -> None:
        service = made(Shut(OK), when_down="queue", first_rate=10.0, ramp_every=1e-6)
        lane = service.outbox._drainer._lanes[""]
        now = SYSTEM.now()
        lane.pace.grant(now, 1)
        assert lane.pace.rate(now + 1.0) == 5000.0
        record = await send(service)
        assert record.status == "queued"
        assert lane.pace.rate(now + 1.0) == 5000.0  # not begun anew
        assert max(0.0, lane.paused_until - now) == pytest.approx(waits)

    run(story)


def test_a_limit_of_the_number_makes_all_wait() -> None:
    async def story() -> None:
        stub = Stub(GraphThrottledError(130429, None, 429, "phone_number", 10.0), OK)
        breaker = CircuitBreaker("whatsapp_api")
        service = made(stub, breaker=breaker, when_down="queue", first_rate=4.0, rate=50.0)
        breaker.force_open(reason="test")
        for _ in range(3):
            await send(service)
        breaker.reset()
        async with service.outbox.running():

            async def one_failed() -> bool:
                return len(stub.payloads) == 1

            await until(one_failed)
            lane = service.outbox._drainer._lanes[""]

            async def paused() -> bool:
                return lane.paused_until > asyncio.get_running_loop().time() + 9

            await until(paused)

            async def all_sent() -> bool:
                return (await service.outbox.counts())[MessageStatus.ACCEPTED] == 3

            await until(all_sent)
        assert len(stub.payloads) == 4

    run(story)


def test_old_rows_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_drain, "PURGE_EVERY", 0.0)
    monkeypatch.setattr(_drain, "BATCH", 2)

    async def story() -> None:
        service = made(Stub(OK), keep_for=0.05)
        for _ in range(5):
            await send(service)
        async with service.outbox.running():

            async def gone() -> bool:
                return sum((await service.outbox.counts()).values()) == 0

            await until(gone)

    run(story)


def test_a_slow_check_does_not_outlast_the_lease() -> None:
    async def story() -> None:
        breaker, stub = CircuitBreaker("whatsapp_api"), Stub(OK)
        slow = [0.06, 0.0]

        async def check(row: OutboxRow) -> None:
            await asyncio.sleep(slow.pop(0) if slow else 0.0)

        service = made(stub, breaker=breaker, when_down="queue", rechecks=[check], lease=0.3, send_timeout=0.25)
        breaker.force_open(reason="test")
        record = await send(service)
        breaker.reset()
        async with service.outbox.running():
            row = await until_state(service, record.id, "accepted")
        assert (row.attempts, row.fence) == (1, 5), "taken, put back, taken, accepted"

    run(story)


def test_a_message_that_expires_during_the_checks_is_dropped() -> None:
    async def story() -> None:
        breaker, stub = CircuitBreaker("whatsapp_api"), Stub(OK)

        async def check(row: OutboxRow) -> None:
            await asyncio.sleep(row.not_after - SYSTEM.wall() + 0.001)

        service = made(stub, breaker=breaker, when_down="queue", rechecks=[check])
        breaker.force_open(reason="test")
        record = await send(service, not_after=SYSTEM.wall() + 0.05)
        breaker.reset()
        async with service.outbox.running():
            row = await until_state(service, record.id, "dead")
        assert (row.reason, stub.payloads) == ("expired", [])

    run(story)


def test_a_service_that_comes_while_it_runs_is_served() -> None:
    class Numbered(Stub):
        phone_number_id = "200"

    async def story() -> None:
        service = made(Stub(OK), when_down="queue")
        async with service.outbox.running():
            breaker, stub = CircuitBreaker("other"), Numbered(OK)
            breaker.force_open(reason="test")
            other = WhatsAppService(ResilientWhatsAppClient(stub, breaker), outbox=service.outbox)
            record = await send(other)
            breaker.reset()
            row = await until_state(other, record.id, "accepted")
            assert row.lane == "200"

    run(story)


def test_a_service_that_is_closed_leaves_what_is_queued_to_the_next_one() -> None:
    async def story() -> None:
        breaker, stub, store = CircuitBreaker("whatsapp_api"), Slow(OK), MemoryStore()
        service = made(stub, breaker=breaker, store=store, when_down="queue")
        async with service.outbox.running():
            breaker.force_open(reason="test")
            first = await send(service)
            breaker.reset()
            await stub.begun.wait()
            breaker.force_open(reason="test")
            later = await send(service, "later")
            asyncio.get_running_loop().call_later(0.02, stub.go.set)
            await service.aclose()
            assert (await store.get(first.id)).state == "accepted"
            breaker.reset()
            await service.outbox.detach(service._sender)
            with pytest.raises(ServiceClosedError):
                await send(service)
            await asyncio.sleep(0.03)
            assert (await store.get(later.id)).state == "queued"
            heir = WhatsAppService(ResilientWhatsAppClient(Stub(OK)), outbox=service.outbox)
            await until_state(heir, later.id, "accepted")

    run(story)


def test_a_service_that_is_closed_cuts_short_what_takes_too_long_and_puts_back_what_was_just_taken() -> None:
    async def story() -> None:
        taking, go = asyncio.Event(), asyncio.Event()

        class Waiting(MemoryStore):
            async def take(self, *arguments: Any) -> list[OutboxRow]:
                found = await super().take(*arguments)
                if found and found[0].payload["text"]["body"] == "second":
                    taking.set()
                    await go.wait()
                return found

        breaker, stub, store = CircuitBreaker("whatsapp_api"), Slow(OK), Waiting()
        service = made(stub, breaker=breaker, store=store, when_down="queue", rate=4.0, first_rate=4.0)
        breaker.force_open(reason="test")
        first, second = await send(service, "first", priority=9), await send(service, "second")
        breaker.reset()
        async with service.outbox.running():
            await taking.wait()
            closing = asyncio.create_task(service.aclose(0.01))
            await asyncio.sleep(0.05)
            go.set()
            await closing
            await until_state(service, second.id, "queued")
            assert (await store.get(first.id)).state == "unknown"

    run(story)


def test_a_template_that_a_new_listing_is_without_waits_for_the_next_listing() -> None:
    class Listing(Stub):
        listed: tuple[Template, ...] = ()

        async def get_templates_page(self, after: str | None) -> TemplatePage:
            return TemplatePage(self.listed)

    async def story() -> None:
        breaker, stub = CircuitBreaker("whatsapp_api"), Listing(OK)
        service = made(stub, breaker=breaker, when_down="queue", templates_fresh_for=0.0)
        breaker.force_open(reason="test")
        record = await service.send_template_message(7, RECIPIENT, "sale", "fr")
        breaker.reset()
        await asyncio.sleep(0.005)
        await service.get_approved_templates()
        async with service.outbox.running():

            async def held() -> bool:
                return (await service.outbox.get(record.id)).reason == "the template cannot be used"

            await until(held)
            assert stub.payloads == []
        row = await service.outbox.get(record.id)
        stub.listed = (Template("sale", "fr", "APPROVED"),)
        await asyncio.sleep(0.005)
        await service.get_approved_templates()
        assert service._sender.template_wait(row) == 0.0

    run(story)


def test_who_joins_a_send_with_another_text_is_told_and_after_an_error_tries_himself() -> None:
    async def story() -> None:
        stub = Slow(ConnectionRefusedError("down"), OK)
        service = made(stub)
        first = asyncio.create_task(send(service, idempotency_key="k"))
        await stub.begun.wait()
        joined = asyncio.create_task(send(service, idempotency_key="k"))
        other = asyncio.create_task(send(service, "another", idempotency_key="k"))
        await asyncio.sleep(0.01)
        stub.go.set()
        with pytest.raises(ConnectionRefusedError):
            await first
        with pytest.raises(IdempotencyKeyError):
            await other
        assert (await joined).status == "accepted"
        assert (await service.outbox.find("k")).state == "accepted"
        again = Slow(OK)
        service = made(again)
        first = asyncio.create_task(send(service, idempotency_key="k"))
        await again.begun.wait()
        other = asyncio.create_task(send(service, "another", idempotency_key="k"))
        await asyncio.sleep(0.01)
        again.go.set()
        await first
        with pytest.raises(IdempotencyKeyError):
            await other

    run(story)


def test_of_many_who_joined_a_send_that_failed_one_tries_again() -> None:
    async def story() -> None:
        stub = Slow(ConnectionRefusedError("down"), OK)
        service = made(stub)
        first = asyncio.create_task(send(service, idempotency_key="k"))
        await stub.begun.wait()
        joined = [asyncio.create_task(send(service, idempotency_key="k")) for _ in range(5)]
        await asyncio.sleep(0.01)
        stub.go.set()
        with pytest.raises(ConnectionRefusedError):
            await first
        records = await asyncio.gather(*joined)
        assert len(stub.payloads) == 2
        assert len({record.id for record in records}) == 1

    run(story)


def test_an_ordered_message_that_was_rejected_takes_a_new_place() -> None:
    async def story() -> None:
        stub = Stub(GraphRequestError(100, None, 400, "request"), OK)
        service = made(stub, when_down="queue")
        with pytest.raises(GraphRequestError):
            await send(service, idempotency_key="k", ordered=True)
        record = await send(service, idempotency_key="k", ordered=True)
        assert record.status == "queued"
        async with service.outbox.running():
            await until_state(service, record.id, "accepted")

    run(story)


def test_by_hand_also_what_is_unknown_is_sent_again() -> None:
    async def story() -> None:
        stub = Stub(AmbiguousOutcomeError(502, "x"), OK)
        service = made(stub)
        with pytest.raises(AmbiguousOutcomeError) as caught:
            await send(service)
        row_id = caught.value.record.id
        assert (await service.outbox.retry(row_id)).state == "unknown"
        assert (await service.outbox.retry(row_id, may_duplicate=True)).state == "queued"
        async with service.outbox.running():
            row = await until_state(service, row_id, "accepted")
        assert row.possible_duplicate
        assert [row.id for row in await service.outbox.rows("accepted", changed_before=SYSTEM.wall() + 1)] == [row_id]

    run(story)


def test_an_echo_lets_the_next_ordered_message_go() -> None:
    async def story() -> None:
        stub = Slow(OK)
        service = made(stub, when_down="queue")
        async with service.outbox.running(drain_timeout=0.01):
            first = asyncio.create_task(send(service, "a", ordered=True))
            await stub.begun.wait()
            second = await send(service, "b", ordered=True)
            assert second.status == "queued"
            stub.begun.clear()
            [row] = await service.outbox.rows("in_flight")
            await service.outbox.settle(row.id, "wamid.a", "sent", SYSTEM.wall())
            await stub.begun.wait()
            stub.go.set()
            assert (await first).status == "accepted"
            await until_state(service, second.id, "accepted")

    run(story)


def test_a_wake_up_for_a_loop_that_has_ended_is_no_error() -> None:
    service = made(Stub(OK), when_down="queue")

    async def left() -> None:
        service.outbox._drainer.start()

    asyncio.run(left())  # never stopped
    service.outbox._drainer.wake()


def test_what_the_file_cannot_read_stops_nobody(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async def story() -> None:
        store = SQLiteStore(tmp_path / "a.db")
        bad, good = await store.add(a_row(key="k")), await store.add(a_row())
        await store._run(lambda db: db.execute("UPDATE outbox SET body = ? WHERE id = ?", (b"rubbish", bad.id)))
        assert [row.id for row in await store.take("100", NOW, 30.0, 1)] == []
        assert [row.id for row in await store.take("100", NOW, 30.0, 1)] == [good.id]
        assert await store.next_due("100") == NOW + _row.UNREADABLE_FOR
        assert await store.rows(MessageStatus.QUEUED) == []
        with pytest.raises(OutboxStoreError, match="cannot be read"):
            await store.get(bad.id)
        with pytest.raises(OutboxStoreError, match="cannot be used"):
            await store._run(lambda db: db.execute("NONSENSE"))
        await store.aclose()

    asyncio.run(story())
    assert "it is looked at again in 60 s" in caplog.text


def test_the_blocking_face_sends_what_is_queued_until_it_is_closed(tmp_path: Path) -> None:
    with SimulatorThread() as api:
        http = GraphClient(
            token=api.simulator.token, phone_number_id=api.simulator.phone_number_id, base_url=api.base_url
        )
        breaker = CircuitBreaker("whatsapp_api")
        outbox = Outbox(SQLiteStore(tmp_path / "a.db"), **QUICK)
        client = ResilientWhatsAppClient(http, breaker, Retry(max_attempts=1))
        with WhatsAppService.blocking(client, outbox=outbox) as service:
            breaker.force_open(reason="test")
            record = service.send_text(7, RECIPIENT, "hi", when_down="queue", idempotency_key="k")
            assert record.status == "queued"
            breaker.reset()
            end = time.monotonic() + PATIENCE
            while service.send_text(7, RECIPIENT, "hi", idempotency_key="k").status != "accepted":
                assert time.monotonic() < end
        assert api.book.duplicates() == {}
        assert len(api.book.entries) == 1
        assert not [thread for thread in threading.enumerate() if thread.name == "whatsapp-outbox"]


def test_threads_with_one_key_send_once_through_real_http(tmp_path: Path) -> None:
    with SimulatorThread() as api:
        http = GraphClient(
            token=api.simulator.token, phone_number_id=api.simulator.phone_number_id, base_url=api.base_url
        )
        outbox = Outbox(SQLiteStore(tmp_path / "a.db"))
        with WhatsAppService.blocking(ResilientWhatsAppClient(http), outbox=outbox) as service:
            found: list[str] = []

            def work() -> None:
                found.append(service.send_text(7, RECIPIENT, "hi", idempotency_key="k").id)

            threads = [threading.Thread(target=work) for _ in range(8)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        assert len(set(found)) == 1
        assert len(found) == 8
        assert len(api.book.entries) == 1


@pytest.mark.parametrize("kind", ["sqlite", "redis"])
def test_an_outage_delays_all_and_loses_none(kind: str, tmp_path: Path, request: Any) -> None:
    """The API is dead for a time; then a second service with the same store sends, too."""

    async def story() -> None:
        def store() -> Any:
            if kind == "sqlite":
                return SQLiteStore(tmp_path / "a.db", synchronous="normal")
            server: RedisServer = request.getfixturevalue("redis_server")
            return RedisStore(server.url, secret=SECRET, name="outage")

        async with Simulator() as api:
            services = []
            for number in range(2):
                http = GraphClient(token=api.token, phone_number_id=api.phone_number_id, base_url=api.base_url)
                breaker = CircuitBreaker(f"api-{number}", failure_threshold=3, recovery_timeout=0.2)
                outbox = Outbox(
                    store(), when_down="queue", **{**QUICK, "first_rate": 50.0, "base_delay": 0.05, "max_delay": 0.2}
                )
                client = ResilientWhatsAppClient(http, breaker, Retry(max_attempts=1))
                services.append(WhatsAppService(client, outbox=outbox, delivery="at_most_once"))
            one, two = services
            await api.stop_listening()
            async with one.outbox.running():
                records = await asyncio.gather(
                    *(one.send(7, f"+3361234{number:04}", Text("hi")) for number in range(30))
                )
                assert {record.status for record in records} == {"queued"}
                await api.start_listening()
                api.script(Fault("error", code=131000, times=3))
                async with two.outbox.running():

                    async def all_sent() -> bool:
                        return (await two.outbox.counts())[MessageStatus.ACCEPTED] == 30

                    await until(all_sent)
            assert len(api.book.entries) == 30
            assert api.book.duplicates() == {}
            for service in services:
                await service.outbox.aclose()
                await service.client.http_client.aclose()

    run_in_real_time(story)


def test_logs_show_neither_number_nor_text(caplog: pytest.LogCaptureFixture) -> None:
    async def story() -> None:
        async def check(row: OutboxRow) -> None:
            raise ValueError("a check of the user's")

        breaker = CircuitBreaker("whatsapp_api")
        service = made(Stub(OK), breaker=breaker, when_down="queue", rechecks=[check])
        breaker.force_open(reason="test")
        record = await send(service, "very secret")
        breaker.reset()
        async with service.outbox.running():

            async def held() -> bool:
                return (await service.outbox.get(record.id)).reason == "a check failed"

            await until(held)

    with caplog.at_level(logging.DEBUG):
        run(story)
    assert caplog.records
    assert "612345678" not in caplog.text
    assert "very secret" not in caplog.text


def test_the_history_is_told_of_every_step_and_the_webhooks_settle_it() -> None:
    async def story() -> None:
        history = History()
        breaker, trouble = CircuitBreaker("whatsapp_api"), GraphTransientError(131000, None, 500, "platform")
        store = MemoryStore()
        outbox = Outbox(store, when_down="queue", **QUICK)
        client = ResilientWhatsAppClient(Stub(trouble, OK, AmbiguousOutcomeError(502, "x")), breaker)
        service = WhatsAppService(client, outbox=outbox, history=history, delivery="at_most_once")
        breaker.force_open(reason="test")
        async with outbox.running():
            record = await send(service)
            breaker.reset()
            await until_state(service, record.id, "accepted")
            with pytest.raises(AmbiguousOutcomeError) as caught:
                await send(service)
            unknown = caught.value.record

        told = await history.get(record.id)
        assert [step.status for step in told.steps] == ["queued", "in_flight", "queued", "in_flight", "accepted"]
        assert (told.status, told.attempts) == ("accepted", 2)
        assert (await history.get(unknown.id)).status == "unknown"
        await history.aclose()

    run_in_real_time(story)


def test_drained_waits_for_a_send_that_is_under_way_and_for_what_is_put_off() -> None:
    async def story() -> None:
        stub = Slow(GraphTransientError(2, None, 503, "platform"), OK)
        service = made(stub)
        await service.outbox.store.add(a_row(lane="", not_after=SYSTEM.wall() + 60, due=0.0))
        async with service.outbox.running():
            waiting = asyncio.ensure_future(service.outbox.drained())
            await stub.begun.wait()
            done, _ = await asyncio.wait((waiting,), timeout=0.1)
            assert not done
            stub.go.set()
            await waiting
            assert (await service.outbox.counts())[MessageStatus.ACCEPTED] == 1
            assert len(stub.payloads) == 2

    run(story)

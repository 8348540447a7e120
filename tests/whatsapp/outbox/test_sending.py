"""What `send` does with an outbox, and what the outbox does with what was queued."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from resilience_core import CircuitBreaker, CircuitOpenError, ConfigurationError, Retry
from resilience_core.testing import run_virtual
from resilience_whatsapp import (
    AmbiguousOutcomeError,
    GraphAuthError,
    GraphRequestError,
    GraphThrottledError,
    GraphTransientError,
    MessageStatus,
    ResilientWhatsAppClient,
    SendReceipt,
    WhatsAppService,
)
from resilience_whatsapp._clock import SYSTEM
from resilience_whatsapp.errors import graph_error
from resilience_whatsapp.messages import Text
from resilience_whatsapp.outbox import Drop, Hold, IdempotencyKeyError, MemoryStore, Outbox, OutboxRow, SQLiteStore
from tests.whatsapp.fakes import OK, RECIPIENT, Stub

QUICK = {"poll": 0.01, "rate": 5000.0, "first_rate": 5000.0, "base_delay": 0.001, "max_delay": 0.002}
UNKNOWN_END = AmbiguousOutcomeError(502, "an answer that is not the API's")
PATIENCE = 60.0
"""Seconds until a story is given up."""


def made(stub: Any, *, breaker: CircuitBreaker | None = None, attempts: int = 1, **options: Any) -> WhatsAppService:
    """A service with an outbox in memory."""
    delivery = options.pop("delivery", "at_most_once")
    store = options.pop("store", None) or MemoryStore()
    of_service = {name: options.pop(name) for name in ("templates_fresh_for",) if name in options}
    outbox = Outbox(store, **{**QUICK, **options})
    circuit = breaker or CircuitBreaker("whatsapp_api", failure_threshold=1000)
    retry = Retry(max_attempts=attempts, base_delay=0.001)
    return WhatsAppService(
        ResilientWhatsAppClient(stub, circuit, retry), delivery=delivery, outbox=outbox, **of_service
    )


async def send(service: WhatsAppService, text: str = "hi", to: str = RECIPIENT, **options: Any) -> Any:
    return await service.send(7, to, Text(text), **options)


async def until(met: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(PATIENCE):
        while not await met():
            await asyncio.sleep(0.002)


async def until_state(service: WhatsAppService, row_id: str, state: str) -> OutboxRow:
    found: list[OutboxRow] = []

    async def there() -> bool:
        row = await service.outbox.get(row_id)
        found[:] = [row]
        return row is not None and row.state == state

    await until(there)
    return found[0]


def run(story: Callable[[], Awaitable[None]]) -> None:
    """In virtual time: no lease, deadline or pause ends because the machine is slow."""
    run_virtual(lambda: asyncio.wait_for(story(), PATIENCE))


def run_in_real_time(story: Callable[[], Awaitable[None]]) -> None:
    """For stories in which threads, files or servers have a part: virtual time would run away while these work."""
    asyncio.run(asyncio.wait_for(story(), PATIENCE))


def test_the_row_is_kept_before_the_request_and_its_id_travels_with_it() -> None:
    store, seen = MemoryStore(), []

    class Looking(Stub):
        async def send_message(self, payload: Mapping[str, Any]) -> SendReceipt:
            row = await store.get(payload["biz_opaque_callback_data"])
            seen.append(None if row is None else row.state)
            return await super().send_message(payload)

    async def story() -> None:
        service = made(Looking(OK), store=store)
        record = await send(service)
        assert seen == [MessageStatus.IN_FLIGHT]
        assert (record.status, record.wamid, record.attempts) == ("accepted", "wamid.ok", 1)
        row = await service.outbox.get(record.id)
        assert (row.state, row.wamid, row.attempts, row.due) == ("accepted", "wamid.ok", 1, None)

    run(story)


def test_with_raise_an_open_circuit_is_told_and_nothing_is_sent_later() -> None:
    async def story() -> None:
        breaker = CircuitBreaker("whatsapp_api")
        stub = Stub(OK)
        service = made(stub, breaker=breaker)
        breaker.force_open(reason="test")
        with pytest.raises(CircuitOpenError) as caught:
            await send(service)
        record = caught.value.record
        assert (record.status, record.attempts) == ("rejected", 0)
        breaker.reset()
        async with service.outbox.running():
            await asyncio.sleep(0.05)
        assert (await service.outbox.get(record.id)).state == "rejected"
        assert stub.payloads == []

    run(story)


def test_with_queue_an_open_circuit_keeps_it_and_it_is_sent_after_recovery() -> None:
    async def story() -> None:
        breaker, stub = CircuitBreaker("whatsapp_api"), Stub(OK)
        service = made(stub, breaker=breaker, when_down="queue")
        breaker.force_open(reason="test")
        async with service.outbox.running():
            record = await send(service)
            assert (record.status, record.attempts, record.wamid) == ("queued", 0, None)
            await asyncio.sleep(0.05)
            assert stub.payloads == []
            breaker.reset()
            row = await until_state(service, record.id, "accepted")
        assert (row.wamid, row.attempts) == ("wamid.ok", 1)
        assert stub.payloads[0]["biz_opaque_callback_data"] == record.id

    run(story)


@pytest.mark.parametrize(
    ("error", "raised", "queued"),
    [
        (graph_error(131000, None, False, 500), "failed", "queued"),
        (graph_error(130429, None, False, 429), "failed", "queued"),
        (graph_error(190, None, False, 401), "failed", "queued"),
        (graph_error(131031, None, False, 403), "failed", "queued"),
        (graph_error(131042, None, False, 400), "failed", "queued"),
        (ConnectionRefusedError("down"), "failed", "queued"),
        (graph_error(100, None, False, 400), "failed", None),
        (graph_error(131026, None, False, 400), "failed", None),
        (graph_error(132000, None, False, 400), "failed", None),
        (UNKNOWN_END, "unknown", None),
    ],
)
def test_errors_are_raised_and_what_helps_to_wait_for_is_queued_if_asked_for(
    error: Exception, raised: str, queued: str | None
) -> None:
    async def story() -> None:
        service = made(Stub(error))
        with pytest.raises(type(error)) as caught:
            await send(service)
        assert caught.value.record.status == raised
        row = await service.outbox.get(caught.value.record.id)
        assert (row.state, row.kept) == (raised, False)
        if queued is None:
            with pytest.raises(type(error)):
                await send(service, when_down="queue")
        else:
            record = await send(service, when_down="queue")
            assert record.status == queued
            assert record.attempts == 1

    run(story)


def test_a_key_sends_once_and_gives_the_record_again() -> None:
    async def story() -> None:
        stub = Stub(OK)
        service = made(stub)
        first = await send(service, idempotency_key="order-7")
        again = await send(service, idempotency_key="order-7")
        assert (again.id, again.wamid, again.status) == (first.id, first.wamid, "accepted")
        assert len(stub.payloads) == 1
        with pytest.raises(IdempotencyKeyError):
            await send(service, "another text", idempotency_key="order-7")
        with pytest.raises(IdempotencyKeyError):
            await send(service, to="+441234567890", idempotency_key="order-7")
        assert len(stub.payloads) == 1

    run(story)


class Slow(Stub):
    """Answers when it is told to."""

    def __init__(self, *outcomes: Any) -> None:
        super().__init__(*outcomes)
        self.go = asyncio.Event()
        self.begun = asyncio.Event()
        self.most = self._now = 0

    async def send_message(self, payload: Mapping[str, Any]) -> SendReceipt:
        self.begun.set()
        self._now += 1
        self.most = max(self.most, self._now)
        try:
            await self.go.wait()
            return await super().send_message(payload)
        finally:
            self._now -= 1


def test_many_at_once_with_one_key_send_once_and_get_one_record() -> None:
    async def story() -> None:
        stub = Slow(OK)
        service = made(stub)
        sends = [asyncio.create_task(send(service, idempotency_key="k")) for _ in range(20)]
        await stub.begun.wait()
        stub.go.set()
        records = await asyncio.gather(*sends)
        assert len(stub.payloads) == 1
        assert len({record.id for record in records}) == 1
        assert {record.status for record in records} == {"accepted"}

    run(story)


def test_a_message_that_was_certainly_not_sent_is_tried_again_with_its_key_and_its_id() -> None:
    async def story() -> None:
        breaker = CircuitBreaker("whatsapp_api")
        stub = Stub(GraphTransientError(2, None, 500, "platform"), OK)
        service = made(stub, breaker=breaker)
        breaker.force_open(reason="test")
        with pytest.raises(CircuitOpenError) as rejected:
            await send(service, idempotency_key="k")
        breaker.reset()
        with pytest.raises(GraphTransientError) as failed:
            await send(service, idempotency_key="k")
        record = await send(service, idempotency_key="k")
        assert rejected.value.record.id == failed.value.record.id == record.id
        assert [payload["biz_opaque_callback_data"] for payload in stub.payloads] == [record.id] * 2
        assert record.status == "accepted"

    run(story)


def test_of_many_who_try_a_failed_message_again_with_its_key_one_sends(tmp_path: Path) -> None:
    async def story() -> None:
        store, stub = SQLiteStore(tmp_path / "a.db"), Stub(GraphTransientError(2, None, 500, "platform"), OK)
        service = made(stub, store=store)
        with pytest.raises(GraphTransientError):
            await send(service, idempotency_key="k")
        others = [made(stub, store=store) for _ in range(5)]  # as if in other processes
        records = await asyncio.gather(*(send(other, idempotency_key="k") for other in others))
        assert len(stub.payloads) == 2
        assert len({record.id for record in records}) == 1
        await store.aclose()

    run_in_real_time(story)


@pytest.mark.parametrize("delivery", ["at_most_once", "at_least_once"])
def test_an_unknown_outcome_is_not_repeated_by_its_key(delivery: str) -> None:
    async def story() -> None:
        stub = Stub(UNKNOWN_END)
        service = made(stub, delivery=delivery)
        with pytest.raises(AmbiguousOutcomeError):
            await send(service, idempotency_key="k")
        record = await send(service, idempotency_key="k")
        assert (record.status, len(stub.payloads)) == ("unknown", 1)

    run(story)


def test_an_echo_settles_what_is_unknown_also_after_the_deadline() -> None:
    async def story() -> None:
        service = made(Stub(UNKNOWN_END), echo_within=0.02)
        outbox = service.outbox
        with pytest.raises(AmbiguousOutcomeError) as caught:
            await send(service)
        row_id = caught.value.record.id
        async with outbox.running():

            async def given_up() -> bool:
                return (await outbox.get(row_id)).due is None

            await until(given_up)
        row = await outbox.get(row_id)
        assert (row.state, row.reason) == ("unknown", "no echo")
        row = await outbox.settle(row_id, "wamid.1", "sent", 123.0)
        assert (row.state, row.wamid, row.told_at) == ("sent", "wamid.1", 123.0)
        assert (await outbox.settle(row_id, "wamid.1", "read", 125.0)).state == "read"
        assert (await outbox.settle(row_id, "wamid.1", "delivered", 124.0)).state == "read"
        assert (await outbox.settle(row_id, "wamid.1", "deleted", 126.0)).state == "read"
        assert await outbox.settle("nobody", "wamid.2", "sent", 1.0) is None

    run(story)


def test_at_least_once_sends_again_without_an_echo_and_says_so() -> None:
    async def story() -> None:
        stub = Stub(UNKNOWN_END, OK)
        service = made(stub, delivery="at_least_once", when_down="queue", echo_within=0.02)
        async with service.outbox.running():
            record = await send(service)
            assert record.status == "unknown"
            row = await until_state(service, record.id, "accepted")
        assert (row.attempts, row.possible_duplicate) == (2, True)
        assert len(stub.payloads) == 2

    run(story)


def test_the_deadline_of_an_echo_does_not_run_while_the_receiver_is_down() -> None:
    async def story() -> None:
        down: list[tuple[float, float | None]] = [(SYSTEM.wall() - 5, None)]
        stub = Stub(UNKNOWN_END, OK)
        service = made(stub, delivery="at_least_once", when_down="queue", echo_within=0.02, downtime=lambda: list(down))
        async with service.outbox.running():
            record = await send(service)
            await asyncio.sleep(0.15)
            assert (await service.outbox.get(record.id)).state == "unknown"
            down[:] = [(down[0][0], SYSTEM.wall())]
            await until_state(service, record.id, "accepted")

    run(story)


def test_an_expired_message_is_not_sent() -> None:
    async def story() -> None:
        breaker, stub = CircuitBreaker("whatsapp_api"), Stub(OK)
        service = made(stub, breaker=breaker, when_down="queue")
        breaker.force_open(reason="test")
        soon = datetime.fromtimestamp(SYSTEM.wall(), UTC) + timedelta(seconds=0.03)
        async with service.outbox.running():
            record = await send(service, not_after=soon)
            row = await until_state(service, record.id, "dead")
            breaker.reset()
            await asyncio.sleep(0.03)
        assert row.reason == "expired"
        assert stub.payloads == []
        assert await service.outbox.dead_letters() == [row]

    run(story)


def test_queued_messages_go_by_priority_and_ordered_ones_one_after_the_other() -> None:
    async def story() -> None:
        breaker, stub = CircuitBreaker("whatsapp_api"), Slow(OK)
        service = made(stub, breaker=breaker, when_down="queue")
        breaker.force_open(reason="test")
        for text in ("a", "b"):
            await send(service, text, ordered=True)
        await send(service, "low", priority=0)
        await send(service, "high", priority=9)
        breaker.reset()
        async with service.outbox.running():

            async def three() -> bool:
                return stub.most == 3

            await until(three)
            assert (await service.outbox.counts())[MessageStatus.QUEUED] == 1
            stub.go.set()

            async def all_sent() -> bool:
                return (await service.outbox.counts())[MessageStatus.ACCEPTED] == 4

            await until(all_sent)
        assert [payload["text"]["body"] for payload in stub.payloads] == ["high", "a", "low", "b"]

    run(story)


def test_trouble_of_the_platform_is_repeated_so_often_and_then_given_up_and_retried_by_hand() -> None:
    async def story() -> None:
        trouble = GraphTransientError(131000, None, 500, "platform")
        stub = Stub(*[trouble] * 4, OK)
        service = made(stub, when_down="queue", max_attempts=4)
        async with service.outbox.running():
            record = await send(service)
            row = await until_state(service, record.id, "dead")
            assert (row.attempts, row.error) == (4, "GraphTransientError(131000)")
            assert row.reason == "given up after 4 attempts"
            assert (await service.outbox.retry(record.id)).state == "queued"
            row = await until_state(service, record.id, "accepted")
            assert (row.attempts, row.error) == (5, None)
            assert (await service.outbox.retry(record.id)).state == "accepted"
            assert await service.outbox.retry("nobody") is None

    run(story)


def test_a_limit_spends_no_attempt_and_a_refusal_is_dead_at_once() -> None:
    async def story() -> None:
        limit = GraphThrottledError(131056, None, 400, "pair", 0.001)
        refusal = GraphRequestError(100, None, 400, "request")
        stub = Stub(*[limit] * 6, refusal, OK)
        service = made(stub, when_down="queue", max_attempts=2)
        async with service.outbox.running():
            record = await send(service)
            row = await until_state(service, record.id, "dead")
        assert (row.attempts, row.troubles, row.reason) == (7, 0, "refused for good")

    run(story)


def test_what_a_person_must_repair_stops_all_and_is_tried_with_one_message_at_a_time() -> None:
    async def story() -> None:
        auth = GraphAuthError(190, None, 401, "token")
        breaker, stub = CircuitBreaker("whatsapp_api"), Stub(auth, auth, OK)
        service = made(stub, breaker=breaker, when_down="queue", hold_for=0.5, first_rate=5.0)
        breaker.force_open(reason="test")
        for _ in range(5):
            await send(service)
        breaker.reset()
        async with service.outbox.running():

            async def all_sent() -> bool:
                return (await service.outbox.counts())[MessageStatus.ACCEPTED] == 5

            await until(all_sent)
        assert len(stub.payloads) == 7, "two that failed, and each message once"

    run(story)


def test_checks_before_a_send_hold_or_drop_it_and_a_gate_makes_it_wait() -> None:
    async def story() -> None:
        breaker, stub = CircuitBreaker("whatsapp_api"), Stub(OK)
        asked: list[str] = []

        async def check(row: OutboxRow) -> Hold | Drop | None:
            asked.append(row.payload["text"]["body"])
            if asked[-1] == "opted out":
                return Drop("opted out")
            return Hold(0.01, "quiet hours") if asked.count("held") == 1 and asked[-1] == "held" else None

        class Closed:
            waits = [0.01, None, None, None]

            async def allowed(self, row: OutboxRow) -> float | None:
                return self.waits.pop(0) if self.waits else None

        service = made(stub, breaker=breaker, when_down="queue", rechecks=[check], gate=Closed())
        breaker.force_open(reason="test")
        out, held = await send(service, "opted out"), await send(service, "held")
        breaker.reset()
        async with service.outbox.running():
            row = await until_state(service, out.id, "dead")
            assert row.reason == "opted out"
            row = await until_state(service, held.id, "accepted")
        assert (row.attempts, asked.count("held")) == (1, 3)

    run(story)


def test_a_check_that_fails_makes_the_message_wait(caplog: pytest.LogCaptureFixture) -> None:
    async def story() -> None:
        breaker, stub = CircuitBreaker("whatsapp_api"), Stub(OK)
        failing = [True]

        async def check(row: OutboxRow) -> None:
            if failing:
                failing.clear()
                raise ZeroDivisionError

        service = made(stub, breaker=breaker, when_down="queue", rechecks=[check], hold_for=0.01)
        breaker.force_open(reason="test")
        record = await send(service)
        breaker.reset()
        async with service.outbox.running():
            await until_state(service, record.id, "accepted")

    run(story)
    assert "A check before a send failed" in caplog.text


def test_at_the_end_sends_under_way_finish_or_are_put_back() -> None:
    async def story() -> None:
        breaker, stub = CircuitBreaker("whatsapp_api"), Slow(OK)
        service = made(stub, breaker=breaker, when_down="queue")
        breaker.force_open(reason="test")
        record = await send(service)
        breaker.reset()
        async with service.outbox.running(drain_timeout=10.0):
            await stub.begun.wait()
            asyncio.get_running_loop().call_later(0.02, stub.go.set)
        assert (await service.outbox.get(record.id)).state == "accepted"
        stub.go.clear()
        stub.begun.clear()
        breaker.force_open(reason="test")
        other = await send(service, "other")
        breaker.reset()
        async with service.outbox.running(drain_timeout=0.01):
            await stub.begun.wait()
        # The stub does not tell whether a request had left: so it may have.
        assert (await service.outbox.get(other.id)).state == "unknown"

    run(story)


def test_what_a_dead_process_left_in_flight_is_unknown_and_under_at_least_once_sent_again() -> None:
    async def story() -> None:
        store, stub = MemoryStore(), Slow(OK)
        service = made(stub, store=store, lease=0.2, send_timeout=0.1)
        sends = [
            asyncio.create_task(send(service, f"{number}", delivery=delivery))
            for number, delivery in enumerate(("at_most_once", "at_least_once"))
        ]
        await stub.begun.wait()
        await asyncio.sleep(0.01)
        rows = await store.rows(MessageStatus.IN_FLIGHT)
        assert len(rows) == 2
        for task in sends:  # what kill -9 leaves: rows that nobody changes any more
            task.cancel()
        store.post = lambda row, rule: None  # type: ignore[method-assign]
        await asyncio.gather(*sends, return_exceptions=True)
        del store.post
        stub.go.set()
        heir = made(stub, store=store, lease=0.2, send_timeout=0.1)
        async with heir.outbox.running():
            by_delivery = {row.delivery: row.id for row in rows}
            once = await until_state(heir, by_delivery["at_most_once"], "unknown")
            again = await until_state(heir, by_delivery["at_least_once"], "accepted")
        assert once.reason == "the sender died"
        assert (again.possible_duplicate, again.attempts) == (True, 2)
        assert [payload["text"]["body"] for payload in stub.payloads] == ["1"]

    run(story)


def test_a_cancelled_send_is_not_sent_later() -> None:
    async def story() -> None:
        stub = Slow(OK)
        service = made(stub, when_down="queue")
        task = asyncio.create_task(send(service))
        await stub.begun.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        async with service.outbox.running():
            await asyncio.sleep(0.05)
        assert (await service.outbox.counts())[MessageStatus.UNKNOWN] == 1
        assert stub.payloads == []

    run(story)


def test_options_of_the_outbox_are_checked() -> None:
    async def story() -> None:
        service = made(Stub(OK))
        for options, words in (
            ({"priority": 10}, "priority"),
            ({"priority": True}, "priority"),
            ({"idempotency_key": ""}, "idempotency_key"),
            ({"idempotency_key": "x" * 256}, "idempotency_key"),
            ({"not_after": datetime(2020, 1, 1)}, "time zone"),
            ({"not_after": "soon"}, "not_after"),
            ({"not_after": 5.0}, "later than now"),
            ({"not_after": True}, "not_after"),
            ({"idempotency_key": 7}, "idempotency_key"),
            ({"ordered": True}, "when_down='queue'"),
            ({"when_down": "later"}, "when_down"),
        ):
            with pytest.raises(ConfigurationError, match=words):
                await send(service, **options)
        bare = WhatsAppService(ResilientWhatsAppClient(Stub(OK)))
        with pytest.raises(ConfigurationError, match="idempotency_key: for this the service needs outbox"):
            await send(bare, idempotency_key="k")

    run(story)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"lease": 5.0, "send_timeout": 5.0}, "lease"),
        ({"max_attempts": 0}, "max_attempts"),
        ({"max_attempts": True}, "max_attempts"),
        ({"base_delay": 0}, "base_delay"),
        ({"base_delay": True}, "base_delay"),
        ({"base_delay": 9.0, "max_delay": 5.0}, "max_delay"),
        ({"echo_within": float("nan")}, "echo_within"),
        ({"rate": float("inf")}, "rate"),
        ({"poll": "1"}, "poll"),
        ({"max_concurrent": 0}, "max_concurrent"),
        ({"when_down": "wait"}, "when_down"),
    ],
)
def test_numbers_that_cannot_work_are_refused(options: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigurationError, match=words):
        Outbox(MemoryStore(), **options)


def test_two_services_of_one_number_cannot_share_an_outbox_and_it_runs_once() -> None:
    async def story() -> None:
        service = made(Stub(OK))
        with pytest.raises(ConfigurationError, match="already"):
            WhatsAppService(ResilientWhatsAppClient(Stub(OK)), outbox=service.outbox)
        async with service.outbox.running():
            with pytest.raises(ConfigurationError, match="running already"):
                async with service.outbox.running():
                    pass

    run(story)


def test_a_template_that_is_set_aside_parks_its_messages() -> None:
    async def story() -> None:
        stub = Stub(graph_error(132015, None, False, 400), OK)
        service = made(stub, when_down="queue")
        record = await service.send_template_message(7, RECIPIENT, "sale", "fr")
        assert (record.status, record.error) == ("queued", "GraphTemplateError(132015)")
        again = await service.send_template_message(7, RECIPIENT, "sale", "fr")
        assert (again.status, again.attempts) == ("queued", 0)
        row = await service.outbox.get(again.id)
        assert row.due - SYSTEM.wall() > 200
        assert len(stub.payloads) == 1

    run(story)

"""`send_many` with an outbox: what each row may say of it, and what its result says."""

from __future__ import annotations

import time
from typing import Any

from resilience_core import CircuitBreaker, CircuitOpenError, ConfigurationError
from resilience_whatsapp import GraphClient, Outgoing, ResilientWhatsAppClient, SendResult, WhatsAppService
from resilience_whatsapp.messages import Text
from resilience_whatsapp.outbox import MemoryStore, Outbox
from resilience_whatsapp.simulator import SimulatorThread
from tests.whatsapp.fakes import OK, Stub
from tests.whatsapp.outbox.test_sending import made, run


def row(number: int, **options: Any) -> Outgoing:
    return Outgoing(7, f"+3361{number:07}", Text("my private words"), **options)


def broken() -> CircuitBreaker:
    breaker = CircuitBreaker("whatsapp_api")
    breaker.force_open(reason="the test")
    return breaker


def test_rows_that_cannot_be_sent_now_end_as_queued_and_are_sent_later_each_once() -> None:
    async def story() -> None:
        stub, breaker = Stub(OK), broken()
        service = made(stub, breaker=breaker)
        rows = [row(number, when_down="queue", idempotency_key=f"{number}", priority=7) for number in range(20)]
        bulk = service.send_many(rows)
        results = [result async for result in bulk]
        assert {result.status for result in results} == {"queued"}
        assert all(result.error is None for result in results)
        assert (bulk.progress.queued, bulk.progress.done, bulk.progress.failed) == (20, 20, 0)
        assert {kept.priority for kept in await service.outbox.rows("queued")} == {7}
        breaker.reset()
        async with service.outbox.running():
            await service.outbox.drained()
        again = service.send_many(rows)
        assert {result.status async for result in again} == {"accepted"}
        assert again.progress.accepted == len(stub.payloads) == 20

    run(story)


def test_a_queue_row_holds_up_nobody_and_the_circuit_stops_the_others() -> None:
    async def story() -> None:
        service = made(Stub(OK), breaker=broken())
        bulk = service.send_many(
            [row(1, when_down="queue", ordered=True, not_after=time.time() + 60), row(2), row(3)], concurrency=1
        )
        results: list[SendResult] = []
        try:
            async for result in bulk:
                results.append(result)  # noqa: PERF401 - those before an error count
        except CircuitOpenError:
            pass
        assert [(result.index, result.status) for result in results] == [(0, "queued"), (1, "rejected")]
        assert (await service.outbox.rows("queued"))[0].ordered

    run(story)


def test_an_option_of_an_outbox_without_one_is_an_error_of_its_row() -> None:
    async def story() -> None:
        service = WhatsAppService(ResilientWhatsAppClient(Stub(OK)))
        results = [result async for result in service.send_many([row(1, idempotency_key="a"), row(2)])]
        by_index = {result.index: result for result in results}
        assert isinstance(by_index[0].error, ConfigurationError)
        assert by_index[1].status == "accepted"

    run(story)


def test_blocking_callers_queue_rows_too() -> None:
    breaker = broken()
    with SimulatorThread() as api:
        simulator = api.simulator

        http = GraphClient(**simulator.client_options)
        client = ResilientWhatsAppClient(http, breaker)
        with WhatsAppService.blocking(client, outbox=Outbox(MemoryStore())) as service:
            results = list(service.send_many([row(1, when_down="queue"), row(2, when_down="queue")]))
        assert [result.status for result in results] == ["queued", "queued"]
        assert not api.book.entries


def test_no_repr_of_a_row_shows_its_key_or_its_text() -> None:
    assert "secret" not in repr(row(1, idempotency_key="secret"))
    assert "private" not in repr(row(1))

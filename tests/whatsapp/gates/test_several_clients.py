"""Clients that come and go while their gates stay."""

from __future__ import annotations

import asyncio
import gc
import weakref
from typing import Any

import pytest

from resilience_core import CircuitBreaker
from resilience_whatsapp import GateClosedError, Gates, GraphClient, ResilientWhatsAppClient, WhatsAppService
from tests.whatsapp.fakes import OK, FakeClock, Stub
from tests.whatsapp.gates.test_gates import ANN, Api, Row, Stage, run


def test_a_client_that_is_gone_is_kept_by_no_gate_breaker_or_http_client() -> None:
    http = GraphClient(token="t", phone_number_id="1", waba_id="2")
    gates, breaker = Gates(), CircuitBreaker("kept")
    gone = list[weakref.ref[Any]]()
    for _ in range(3):
        client = ResilientWhatsAppClient(http, breaker, gates=gates)
        assert client.door is not None
        gone += [weakref.ref(client), weakref.ref(client.door)]
        del client
    gc.collect()
    assert [ref() for ref in gone] == [None] * 6
    assert http.header_listeners == []
    stays = ResilientWhatsAppClient(http, breaker, gates=gates)
    (hear,) = http.header_listeners
    hear({"X-App-Usage": '{"call_count":80}'})
    assert stays.door is not None
    assert stays.door.usage() == 80.0
    slow = gates.slowdown_of("2")
    del stays
    gc.collect()
    hear({"X-App-Usage": '{"call_count":90}'})  # of an answer that was under way
    assert slow.percent == 80.0


def test_the_probe_is_made_by_the_client_that_asks_and_not_by_one_that_was_closed() -> None:
    async def story() -> None:
        stage = Stage()
        closed = stage.api
        closed.health = RuntimeError("the session is closed")
        api = Api()
        service = WhatsAppService(ResilientWhatsAppClient(api, gates=stage.gates))
        stage.gates.observe_webhook_error(131042, waba_id="2")
        stage.clock.pass_(60.0)
        assert (await service.send_text("user", ANN, "hello")).status == "accepted"
        assert (api.probes, closed.probes) == (["account"], [])

    run(story)


def test_news_count_once_for_a_number_however_many_clients_it_has() -> None:
    async def story() -> None:
        stage = Stage(throughput=10.0, throughput_share=1.0, pair_burst=None)
        others = [ResilientWhatsAppClient(Api(), gates=stage.gates) for _ in range(4)]
        for _ in range(5):
            stage.gates.observe_inbound(phone_number_id="1")
        assert [await stage.send() for _ in range(5)] == ["accepted"] * 5
        assert (await stage.refused()).scope == "throughput"
        assert len(others) == 4

    run(story)


def test_the_usage_that_one_client_is_told_slows_down_the_listings_of_all_clients_of_the_account() -> None:
    async def answer(*_: object) -> str:
        return "answer"

    async def story() -> None:
        clock = FakeClock()
        gates = Gates(clock=clock, management_max_wait=1.0)
        clients = []
        for number in ("1", "9"):
            http = GraphClient(token="t", phone_number_id=number, waba_id="2")
            clients.append(ResilientWhatsAppClient(http, gates=gates))
        http.header_listeners[0]({"X-App-Usage": '{"call_count":100}'})
        for client in clients:
            assert client.door is not None
            with pytest.raises(GateClosedError):
                await client.door.manage(answer)

    run(story)


def test_if_one_level_cannot_be_read_no_number_has_another_one() -> None:
    async def story() -> None:
        stage = Stage(throughput=10.0)
        broken = Api()
        broken.phone_number_id, broken.health = "9", TimeoutError()
        other = ResilientWhatsAppClient(broken, gates=stage.gates)
        with pytest.raises(TimeoutError):
            await stage.gates.discover()
        for number in ("1", "9"):
            pacer = stage.gates.throughput_of(number)
            assert pacer is not None
            assert pacer.learned.level == 10.0
        assert other.door is not None

    run(story)


def test_a_message_that_its_pair_keeps_back_takes_no_turn_of_the_number() -> None:
    async def story(max_wait: float) -> None:
        stage = Stage(throughput=3.0, throughput_share=1.0, pair_burst=1, max_wait=max_wait)
        assert await stage.send() == "accepted"
        for _ in range(10):
            assert (await stage.refused()).scope == "pair"
        began = stage.clock.time
        assert [await stage.send(f"+3360000000{number}") for number in range(2)] == ["accepted"] * 2
        assert stage.clock.time == began
        assert await stage.gates.allowed(Row(ANN)) == pytest.approx(6.0)

    for max_wait in (0.0, 2.0):
        asyncio.run(story(max_wait))


def test_the_pair_of_a_user_is_remembered_while_many_others_are_written_to() -> None:
    gates = Gates(throughput=None, pair_burst=1)
    assert gates.pairs is not None
    gates.pairs.limiter.close_for(256.0, "1", ANN[1:])
    for number in range(20_000):
        gates.pairs.limiter.enter(("1", str(number)), {})
    assert gates.pairs.limiter.wait_for("1", ANN[1:]) > 200.0


def test_a_recipient_that_a_webhook_tells_of_is_known_though_the_number_has_no_client_yet() -> None:
    gates = Gates()
    gates.observe_webhook_error(131026, phone_number_id="7", recipient=ANN)
    assert gates.recipients.wait(ANN[1:], None, None, False) > 86_000


def test_the_level_is_read_by_the_client_of_a_number_that_can() -> None:
    async def story() -> None:
        stage = Stage(throughput=10.0)
        other: Any = Stub(OK)
        other.phone_number_id = "1"
        door = stage.gates.attach(other)
        await stage.gates.discover()
        assert door.throughput is not None
        assert door.throughput.learned.level == 80.0
        assert stage.api.probes == ["number"]

    run(story)

"""Gates over real HTTP, against the simulator."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from resilience_core import CircuitBreaker, Clock, Retry
from resilience_whatsapp import (
    GateClosedError,
    Gates,
    GraphAuthError,
    GraphClient,
    GraphThrottledError,
    ResilientWhatsAppClient,
    WhatsAppService,
)
from resilience_whatsapp.simulator import Fault, Limits, ManualClock, Simulator
from tests.whatsapp.fakes import RECIPIENT, FakeClock


def service_of(http: GraphClient, gates: Gates, max_attempts: int = 1) -> WhatsAppService:
    clock = FakeClock()
    retry = Retry(max_attempts=max_attempts, base_delay=0.001, clock=clock)
    return WhatsAppService(ResilientWhatsAppClient(http, CircuitBreaker("gated"), retry, gates=gates))


def http_of(api: Simulator) -> GraphClient:
    at: Any = api
    return GraphClient(token=at.token, phone_number_id=at.phone_number_id, waba_id=at.waba_id, base_url=api.base_url)


def test_a_token_that_is_replaced_opens_the_gate_that_the_old_one_closed() -> None:
    async def story() -> None:
        async with Simulator() as api, http_of(api) as http:
            service = service_of(http, Gates())
            good, http.token = http.token, "expired"
            with pytest.raises(GraphAuthError):
                await service.send_text("user", RECIPIENT, "1")
            with pytest.raises(GateClosedError) as caught:
                await service.send_text("user", RECIPIENT, "2")
            assert caught.value.scope == "credential"
            http.token = good
            assert (await service.send_text("user", RECIPIENT, "3")).status == "accepted"
            assert api.book.requests["messages"] == 2

    asyncio.run(story())


def test_usage_of_answers_slows_listings_down_and_never_sends() -> None:
    async def story() -> None:
        async with Simulator() as api, http_of(api) as http:
            gates = Gates(management_max_wait=0.0)
            service = service_of(http, gates)
            row = {"type": "whatsapp_business_management", "call_count": 95, "estimated_time_to_regain_access": 0}
            headers = {"X-Business-Use-Case-Usage": json.dumps({http.waba_id: [row]})}
            api.script(Fault("json", "message_templates", status=200, body={"data": []}, headers=headers))
            assert (await service.get_approved_templates()).source == "api"
            assert service.client.door is not None
            assert service.client.door.usage() == 95.0
            service.forget_templates()
            assert (await service.get_approved_templates()).source == "api"  # the first call after the news
            service.forget_templates()
            assert (await service.get_approved_templates()).source == "default"  # the next one is too early
            assert api.book.requests["message_templates"] == 2
            assert (await service.send_text("user", RECIPIENT, "1")).status == "accepted"

    asyncio.run(story())


def test_many_at_once_that_meet_one_limit_count_as_one_hit() -> None:
    async def story() -> None:
        async with Simulator() as api, http_of(api) as http:
            service = service_of(http, Gates())
            api.script(Fault("error", "messages", times=5, code=131056))
            ended = await asyncio.gather(
                *(service.send_text("user", RECIPIENT, str(number)) for number in range(5)), return_exceptions=True
            )
            assert [type(each) for each in ended] == [GraphThrottledError] * 5
            with pytest.raises(GateClosedError) as caught:
                await service.send_text("user", RECIPIENT, "again")
            assert caught.value.retry_after is not None
            assert caught.value.retry_after <= 1.0  # 4 ** 0, not 4 ** 4
            assert (await service.send_text("user", "+33687654321", "another")).status == "accepted"

    asyncio.run(story())


class Load:
    """Messages that are sent as soon as the gates let them through, in the simulator's time."""

    def __init__(self, api: Simulator, clock: ManualClock, service: WhatsAppService) -> None:
        self.api, self.clock, self.service = api, clock, service
        self.kept_back = 0

    async def send(self, recipients: list[str]) -> None:
        waiting = recipients
        while waiting:
            ended = await asyncio.gather(*map(self._send, waiting))
            self.kept_back += sum(wait is not None for wait in ended)
            soonest = min((wait for wait in ended if wait is not None), default=0.0)
            waiting = [who for who, wait in zip(waiting, ended, strict=True) if wait is not None]
            await self.clock.advance(max(soonest, 0.5))  # not each for itself: it would take long

    async def _send(self, recipient: str) -> float | None:
        try:
            await self.service.send_text("user", recipient, "hello")
        except (GateClosedError, GraphThrottledError) as error:
            return 1.0 if error.retry_after is None else error.retry_after
        return None


def gated(api: Simulator, http: GraphClient, clock: ManualClock, **options: Any) -> WhatsAppService:
    began = clock.now()
    times = Clock(now=lambda: clock.now() - began, wall=clock.now)
    client = ResilientWhatsAppClient(
        http, CircuitBreaker("gated"), Retry(max_attempts=1), gates=Gates(clock=times, **options)
    )
    return WhatsAppService(client)


def test_a_load_over_all_limits_is_sent_without_one_refusal() -> None:
    async def story() -> None:
        clock = ManualClock()
        limits = Limits(throughput=80.0, pair_seconds=6.0)
        async with Simulator(clock=clock, limits=limits) as api, http_of(api) as http:
            load = Load(api, clock, gated(api, http, clock))
            began = clock.now()
            await load.send([f"+3361234567{number % 3}" for number in range(150)])
            assert api.book.requests["messages"] == len(api.book.entries) == 150
            assert api.report().as_json()["limits"] == {}
            assert load.kept_back > 0
            assert clock.now() - began == pytest.approx(6 * (50 - 44), abs=2.0)  # and no longer than it must take

    asyncio.run(story())


def test_limits_that_are_lower_than_believed_are_respected_after_their_first_warnings() -> None:
    async def story() -> None:
        clock = ManualClock()
        limits = Limits(throughput=20.0, pair_seconds=6.0, pair_burst=10)
        async with Simulator(clock=clock, limits=limits) as api, http_of(api) as http:
            load = Load(api, clock, gated(api, http, clock))
            await load.send([f"+336123{number % 50:05d}" for number in range(300)])
            refused = api.report().as_json()["limits"]["throughput"]["refused"]
            assert refused <= 0.35 * 300  # the first burst, which nobody could know of, is most of it
            before = api.book.requests["messages"]
            await load.send([f"+336987{number:05d}" for number in range(100)])
            assert api.book.requests["messages"] - before <= 110

    asyncio.run(story())

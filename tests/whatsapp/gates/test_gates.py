"""What a closed gate does to sends and listings, what opens it, and what it leaves alone."""

from __future__ import annotations

import asyncio
import copy
import logging
import math
import pickle
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import pytest
from attrs import frozen

from resilience_core import (
    Bulkhead,
    BulkheadFullError,
    CallRejected,
    CircuitBreaker,
    CircuitState,
    ConfigurationError,
    Rejection,
    Retry,
    registry,
)
from resilience_core.testing import record_events
from resilience_whatsapp import (
    EntityHealth,
    GateClosedError,
    Gates,
    GraphClient,
    GraphThrottledError,
    Health,
    MessageStatus,
    NumberStatus,
    Outgoing,
    ResilientWhatsAppClient,
    Template,
    TemplatePage,
    WhatsAppService,
)
from resilience_whatsapp.errors import graph_error
from resilience_whatsapp.gates._switch import PROBE_TIMEOUT
from resilience_whatsapp.messages import FlowMessage, GroupId, TemplateMessage, Text, UserId
from resilience_whatsapp.outbox import MemoryStore, Outbox
from resilience_whatsapp.webhooks import AccountError, InboundMessage, StatusUpdate, WebhookUpdate, gating
from tests.whatsapp.fakes import OK, RECIPIENT, FakeClock, Stub

ANN, BOB, CARL = RECIPIENT, "+33687654321", "+4915112345678"
HELD = 300.0


def healthy(sendable: str | None = "AVAILABLE") -> Health:
    return Health(sendable, (EntityHealth("WABA", "2", sendable),))


def status_of(health: Health | None) -> NumberStatus:
    return NumberStatus("1", None, None, None, None, "STANDARD", None, None, None, health)


class Api(Stub):
    """A stub with the reads that probes make; `health` answers them, or is raised."""

    phone_number_id = "1"
    waba_id: str | None = "2"
    token: Any = "token-1"

    def __init__(self, *outcomes: Any) -> None:
        super().__init__(*(outcomes or (OK,)))
        self.health: Any = healthy()
        self.hang: Callable[[], Awaitable[Any]] | None = None
        self.probes: list[str] = []
        self.listed: Any = TemplatePage((Template("offer", "fr", "APPROVED", "MARKETING"),))

    async def get_templates_page(self, after: str | None) -> TemplatePage:
        self.pages += 1
        if isinstance(self.listed, Exception):
            raise self.listed
        page: TemplatePage = self.listed
        return page

    async def _health(self, what: str) -> Health | None:
        self.probes.append(what)
        if self.hang is not None:
            await self.hang()
        health: Health | None = self.health
        if isinstance(self.health, BaseException):
            raise self.health
        return health

    async def get_number_status(self) -> NumberStatus:
        return status_of(await self._health("number"))

    async def get_account_health(self) -> Health:
        health = await self._health("account")
        assert health is not None
        return health


class Stage:
    """A service with gates, over a stub, in virtual time."""

    def __init__(self, *outcomes: Any, api: Any = None, max_attempts: int = 1, **options: Any) -> None:
        self.clock = FakeClock()
        self.api: Any = Api(*outcomes) if api is None else api
        self.gates = Gates(clock=self.clock, **options)
        self.breaker = CircuitBreaker("whatsapp_api", clock=self.clock)
        retry = Retry(max_attempts=max_attempts, clock=self.clock)
        self.client = ResilientWhatsAppClient(self.api, self.breaker, retry, gates=self.gates)
        self.service = WhatsAppService(self.client, template_quarantine={})

    async def send(self, recipient: Any = ANN) -> str:
        return (await self.service.send_text("user", recipient, "hello")).status.value

    async def template(self, name: str = "offer", recipient: Any = ANN) -> str:
        return (await self.service.send("user", recipient, TemplateMessage(name, "fr"))).status.value

    async def refused(self, send: Callable[..., Awaitable[Any]] | None = None, *args: Any) -> GateClosedError:
        """A send that a gate keeps back."""
        asked = len(self.api.payloads)
        with pytest.raises(GateClosedError) as caught:
            await (send or self.send)(*args)
        assert len(self.api.payloads) == asked
        return caught.value

    async def fails(self, error: Exception, *args: Any) -> None:
        """A send that the API refuses."""
        self.api.outcomes = [error]
        with pytest.raises(type(error)):
            await self.send(*args)
        self.api.outcomes = [OK]


def told(code: int | None, status: int = 400, wait: float | None = None) -> Any:
    return graph_error(code, None, False, status, wait)


def run(story: Callable[[], Awaitable[Any]]) -> None:
    asyncio.run(story())  # type: ignore[arg-type]


# --- what a closed gate means ------------------------------------------------------------------------------------


def test_a_send_that_a_gate_keeps_back_costs_no_attempt_and_no_failure_and_its_error_names_nobody() -> None:
    async def story() -> None:
        stage = Stage(max_attempts=3)
        stage.gates.observe_webhook_error(131026, recipient=ANN)
        error = await stage.refused()
        assert isinstance(error, CallRejected)
        assert (error.scope, error.code, error.latched) == ("recipient", 131026, False)
        assert error.retry_after == 86_400.0
        assert (error.record.status, error.record.attempts) == (MessageStatus.REJECTED, 0)
        assert error.record.error == "GateClosedError"
        assert stage.breaker.at_rest()
        assert stage.clock.time == 1000.0
        for text in (str(error), repr(error), str(error.explain()), str(stage.gates.snapshot())):
            assert ANN[1:] not in text
        for twin in (copy.copy(error), pickle.loads(pickle.dumps(error))):
            assert (twin.scope, twin.code, twin.retry_after) == (error.scope, error.code, error.retry_after)
        assert await stage.send(BOB) == "accepted"

    run(story)


def test_without_gates_nothing_is_kept_back() -> None:
    async def story() -> None:
        api = Api(told(131042))
        client = ResilientWhatsAppClient(api)
        service = WhatsAppService(client)
        assert client.gates is None
        for _ in range(3):
            with pytest.raises(Exception, match="131042"):
                await service.send_text("user", ANN, "hello")
        assert len(api.payloads) == 3

    run(story)


def test_an_open_circuit_costs_no_permit_of_a_gate() -> None:
    async def story() -> None:
        stage = Stage(pair_burst=1)
        stage.breaker.force_open()
        for _ in range(3):
            with pytest.raises(CallRejected):
                await stage.send()
        stage.breaker.reset()
        assert await stage.send() == "accepted"

    run(story)


# --- pairs ---------------------------------------------------------------------------------------------------------


def test_one_message_in_6_seconds_to_each_user_after_a_burst_and_others_overtake() -> None:
    async def story() -> None:
        stage = Stage(pair_burst=2)
        assert [await stage.send() for _ in range(2)] == ["accepted"] * 2
        error = await stage.refused()
        assert (error.scope, error.code, error.latched) == ("pair", None, False)
        assert error.retry_after == pytest.approx(6.0)
        assert await stage.send(BOB) == "accepted"
        assert await stage.gates.allowed(Row(ANN)) == pytest.approx(6.0)
        assert await stage.gates.allowed(Row(BOB)) is None
        stage.clock.pass_(6.0)
        assert await stage.send() == "accepted"

    run(story)


def test_a_pair_that_is_too_early_for_the_api_waits_4_to_the_x_and_the_retry_waits_as_long() -> None:
    async def story() -> None:
        stage = Stage(told(131056), told(131056), OK, max_attempts=3)
        began = stage.clock.time
        assert await stage.send() == "accepted"
        assert stage.clock.time - began == pytest.approx(1.0 + 4.0)
        stage.api.outcomes = [told(131056) for _ in range(3)]
        with pytest.raises(GraphThrottledError) as caught:
            await stage.send()  # 1 s, 4 s, and then 16 s, which is more than the retry may wait
        assert caught.value.retry_after == 16.0
        assert (await stage.refused()).retry_after == pytest.approx(16.0)
        stage.api.outcomes = [OK]
        assert await stage.send(BOB) == "accepted"
        stage.clock.pass_(16.0)
        assert await stage.send() == "accepted"
        stage.api.outcomes, began = [told(131056), OK], stage.clock.time
        assert await stage.send() == "accepted"
        assert stage.clock.time - began == pytest.approx(1.0)  # a success ended the series

    run(story)


def test_a_message_waits_for_its_turn_where_that_is_allowed() -> None:
    async def story() -> None:
        stage = Stage(pair_burst=1, max_wait=10.0)
        began = stage.clock.time
        assert [await stage.send() for _ in range(2)] == ["accepted"] * 2
        assert stage.clock.time - began == pytest.approx(6.0)
        assert stage.gates.pairs is not None
        stage.gates.pairs.limiter.close_for(20.0, "1", ANN[1:])
        assert (await stage.refused()).retry_after == pytest.approx(20.0)

    run(story)


def test_users_without_a_number_and_groups_are_pairs_too() -> None:
    async def story() -> None:
        stage = Stage(pair_burst=1)
        for recipient in (UserId("US.1349"), GroupId("g")):
            assert await stage.send(recipient) == "accepted"
            assert (await stage.refused(stage.send, recipient)).scope == "pair"

    run(story)


# --- throughput ----------------------------------------------------------------------------------------------------


def test_the_throughput_is_a_share_of_the_level_and_messages_that_come_in_count() -> None:
    async def story() -> None:
        stage = Stage(throughput=10.0, throughput_share=0.8, pair_burst=None)
        assert [await stage.send() for _ in range(8)] == ["accepted"] * 8
        error = await stage.refused()
        assert error.scope == "throughput"
        assert error.retry_after == pytest.approx(1 / 8)
        stage.clock.pass_(1.0)
        for _ in range(9):
            stage.gates.observe_inbound(phone_number_id="1")
        assert (await stage.refused()).retry_after == pytest.approx(2 / 8)
        stage.gates.observe_inbound(phone_number_id="another")
        assert (await stage.refused()).retry_after == pytest.approx(2 / 8)
        assert await stage.gates.allowed(Row(ANN)) == pytest.approx(2 / 8)

    run(story)


def test_over_the_limit_the_rate_is_cut_and_comes_back() -> None:
    async def story() -> None:
        stage = Stage(pair_burst=None, max_attempts=1)
        await stage.fails(told(130429))
        assert (await stage.refused()).retry_after == pytest.approx(1.0)
        pacer = stage.client.door.throughput  # type: ignore[union-attr]
        assert pacer is not None
        assert pacer.limiter.rate == pytest.approx(68 * 0.7)
        stage.clock.pass_(1.0)
        assert await stage.send() == "accepted"
        stage.clock.pass_(60.0)
        assert await stage.send() == "accepted"
        assert (pacer.limiter.rate, pacer.moving) == (pytest.approx(68.0), False)

    run(story)


def test_hits_in_a_row_close_it_for_longer_and_a_success_ends_the_series() -> None:
    async def story() -> None:
        stage = Stage(pair_burst=None)
        for wait in (1.0, 2.0, 4.0):
            await stage.fails(told(130429))
            assert (await stage.refused()).retry_after == pytest.approx(wait)
            stage.clock.pass_(wait)
        assert await stage.send() == "accepted"
        await stage.fails(told(130429, wait=7.0))
        assert (await stage.refused()).retry_after == pytest.approx(7.0)

    run(story)


def test_a_circuit_that_closes_begins_slowly() -> None:
    async def story() -> None:
        stage = Stage(pair_burst=None)
        stage.api.outcomes = [told(131016, 500)]
        for _ in range(5):
            with pytest.raises(Exception, match="131016"):
                await stage.send()
        stage.api.outcomes = [OK]
        stage.clock.pass_(60.0)
        assert [await stage.send() for _ in range(2)] == ["accepted"] * 2
        assert stage.breaker.state is CircuitState.CLOSED
        pacer = stage.client.door.throughput  # type: ignore[union-attr]
        assert pacer is not None
        assert pacer.limiter.rate == pytest.approx(68 / 8)
        stage.clock.pass_(10.0)
        assert await stage.send() == "accepted"
        assert pacer.limiter.rate == pytest.approx(68.0)

    run(story)


@pytest.mark.parametrize(
    ("level", "rate"), [("HIGH", 850.0), ("STANDARD", 68.0), (20.0, 17.0), ("NOT_APPLICABLE", 68.0), (-1.0, 68.0)]
)
def test_the_level_that_the_api_tells_is_taken_over(level: Any, rate: float) -> None:
    stage = Stage()
    stage.gates.observe_throughput(level, phone_number_id="1")
    pacer = stage.client.door.throughput  # type: ignore[union-attr]
    assert pacer is not None
    assert pacer.limiter.rate == pytest.approx(rate)


def test_the_level_is_read_from_the_api_where_the_client_can_ask() -> None:
    async def story() -> None:
        stage = Stage(throughput=10.0)
        other = Stub(OK)
        other.phone_number_id = "9"  # type: ignore[attr-defined]
        door = stage.gates.attach(other)
        await stage.gates.discover()
        assert door.throughput is not None
        assert door.throughput.learned.level == 10.0
        pacer = stage.gates.throughput_of("1")
        assert pacer is not None
        assert pacer.learned.level == 80.0
        stage.api.health = TimeoutError()
        with pytest.raises(TimeoutError):
            await stage.gates.discover()

    run(story)


def test_pacers_can_be_switched_off() -> None:
    async def story() -> None:
        stage = Stage(throughput=None, pair_burst=None)
        for error in (told(130429), told(131056)):
            await stage.fails(error)
        assert [await stage.send() for _ in range(200)] == ["accepted"] * 200
        stage.gates.observe_throughput("HIGH")
        stage.gates.observe_inbound()
        assert await stage.gates.allowed(Row(ANN)) is None
        stage.breaker.force(CircuitState.OPEN)
        stage.clock.pass_(60.0)
        assert [await stage.send() for _ in range(2)] == ["accepted"] * 2  # closes, and has nothing to begin slowly

    run(story)


# --- app and management --------------------------------------------------------------------------------------------


def test_the_limit_of_the_app_stops_sends_until_the_next_one_finds_room() -> None:
    async def story() -> None:
        stage = Stage()
        await stage.fails(told(4, wait=HELD))
        error = await stage.refused()
        assert (error.scope, error.code, error.latched) == ("app", 4, False)
        assert error.retry_after == pytest.approx(HELD)
        stage.clock.pass_(HELD)
        assert await stage.gates.allowed(Row(ANN)) is None
        await stage.fails(told(4))
        assert (await stage.refused()).retry_after == pytest.approx(120.0)  # twice as long as the first time without
        stage.clock.pass_(120.0)
        assert await stage.send() == "accepted"
        assert await stage.gates.allowed(Row(ANN)) is None

    run(story)


def test_a_request_that_shows_nothing_leaves_the_gate_half_open() -> None:
    async def story() -> None:
        stage = Stage()
        await stage.fails(told(4))
        stage.clock.pass_(60.0)
        await stage.fails(TimeoutError())
        await stage.fails(told(131000, 500))
        assert await stage.send() == "accepted"

    run(story)


@pytest.mark.parametrize("code", [4, 17, 341, 613, 80007, 10, None])
def test_a_listing_that_is_over_its_limit_or_not_permitted_keeps_no_message_back(code: int | None) -> None:
    async def story() -> None:
        stage = Stage()
        stage.api.listed = told(code, 429)
        assert (await stage.service.get_approved_templates()).source == "default"
        assert stage.api.pages == 1
        assert (await stage.service.get_approved_templates()).source == "default"
        assert stage.api.pages == 1  # the gate is closed
        assert await stage.send() == "accepted"
        assert stage.breaker.at_rest()

    run(story)


def test_filing_and_deleting_templates_counts_as_management_and_reads_of_the_number_pass_all_gates() -> None:
    async def story() -> None:
        stage = Stage()
        asked: list[str] = []

        async def delete_template(name: str, template_id: str | None) -> None:
            asked.append(name)
            raise told(80007)

        stage.api.delete_template = delete_template
        for outcome in (GraphThrottledError, GateClosedError):
            with pytest.raises(outcome):
                await stage.client.call("delete_template", "offer", None)
        assert asked == ["offer"]
        assert (await stage.client.call("get_number_status")).id == "1"
        assert await stage.send() == "accepted"

    run(story)


def test_many_failed_listings_of_a_limit_never_open_the_circuit_of_sends() -> None:
    async def story() -> None:
        stage = Stage(max_attempts=3)
        stage.api.listed = told(80007)
        for _ in range(20):
            await stage.service.get_approved_templates()
            stage.clock.pass_(4_000.0)
        assert stage.api.pages == 20  # each time one: the retry does not wait a minute
        assert await stage.send() == "accepted"

    run(story)


def test_usage_headers_slow_listings_down_before_the_limit_and_keep_no_message_back() -> None:
    async def story() -> None:
        http = GraphClient(token="t", phone_number_id="1", waba_id="2")
        stage = Stage(api=http, management_max_wait=20.0)
        door = stage.client.door
        assert door is not None
        (hear,) = http.header_listeners

        async def answer(*_: Any) -> str:
            return "answer"

        hear({"X-App-Usage": '{"call_count":80}'})
        assert door.usage() == 80.0
        began = stage.clock.time
        assert [await door.manage(answer) for _ in range(3)] == ["answer"] * 3
        assert stage.clock.time - began == pytest.approx(2 * 6.0)
        row = '[{"type":"whatsapp_business_management","call_count":100,"estimated_time_to_regain_access":2}]'
        hear({"X-Business-Use-Case-Usage": '{"2":' + row + "}"})
        with pytest.raises(GateClosedError) as caught:
            await door.manage(answer)
        assert caught.value.scope == "management"
        assert caught.value.retry_after == pytest.approx(120.0)  # the API tells minutes
        hear({"Content-Type": "text/html"})
        assert await door.send(answer, {"to": ANN}) == "answer"

    run(story)


# --- credential ----------------------------------------------------------------------------------------------------


def test_a_refused_token_stops_everything_until_there_is_another_one() -> None:
    async def story() -> None:
        stage = Stage()
        await stage.fails(told(190, 401))
        error = await stage.refused()
        assert (error.scope, error.code, error.latched) == ("credential", 190, True)
        assert (await stage.service.get_approved_templates()).source == "default"
        assert stage.api.pages == 0
        stage.api.token = "token-2"
        assert await stage.gates.allowed(Row(ANN)) is None
        assert await stage.send() == "accepted"
        assert stage.api.probes == []

    run(story)


def test_two_clients_of_one_number_see_that_its_token_was_replaced() -> None:
    async def story() -> None:
        stage = Stage()
        other = WhatsAppService(ResilientWhatsAppClient(stage.api, gates=stage.gates))
        stage.api.listed = told(190, 401)
        await other.get_approved_templates()
        assert (await stage.refused()).scope == "credential"
        stage.api.token = "token-2"
        assert await stage.send() == "accepted"
        assert stage.api.probes == []

    run(story)


def test_a_token_of_a_function_is_found_to_be_new_by_a_read_or_told() -> None:
    async def story() -> None:
        stage = Stage()
        stage.api.token = lambda: "secret"
        stage.api.health = told(190, 401)
        await stage.fails(told(190, 401))
        stage.clock.pass_(60.0)
        assert (await stage.refused()).retry_after == pytest.approx(120.0)
        stage.api.health = told(100)  # let in, and refused for something else
        stage.clock.pass_(120.0)
        assert await stage.send() == "accepted"
        assert stage.api.probes == ["number"] * 2
        await stage.fails(told(190, 401))
        stage.gates.new_token(phone_number_id="1")
        assert await stage.send() == "accepted"

    run(story)


def test_a_permission_that_is_missing_is_found_again_by_the_next_message_after_a_wait() -> None:
    async def story() -> None:
        stage = Stage()
        await stage.fails(told(10, 403))
        assert (await stage.refused()).scope == "permission"
        assert (await stage.service.get_approved_templates()).source == "api"
        stage.clock.pass_(60.0)
        assert await stage.send() == "accepted"

    run(story)


# --- account, number: probed by health_status ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("code", "scope", "read"),
    [(131042, "account", "account"), (368, "account", "account"), (133010, "number", "number")],
)
def test_what_must_be_repaired_is_found_out_by_a_read_and_never_by_a_message(code: int, scope: str, read: str) -> None:
    async def story() -> None:
        stage = Stage()
        stage.api.health = healthy("BLOCKED")
        stage.gates.observe_webhook_error(code, phone_number_id="1", recipient=ANN)
        waits = []
        for _ in range(4):
            error = await stage.refused()
            assert (error.scope, error.code, error.latched) == (scope, code, True)
            assert error.retry_after is not None
            waits.append(error.retry_after)
            assert (await stage.refused(stage.send, BOB)).retry_after == error.retry_after  # no second read
            stage.clock.pass_(error.retry_after)
        assert waits == pytest.approx([60.0, 120.0, 240.0, 480.0])
        assert stage.api.payloads == []
        stage.api.health = healthy("LIMITED")
        assert await stage.send() == "accepted"
        assert stage.api.probes == [read] * 4
        assert (await stage.service.get_approved_templates()).source == "api"  # never kept back

    run(story)


def test_after_a_good_read_few_messages_go_first_and_an_error_by_webhook_shuts_it_for_longer() -> None:
    async def story() -> None:
        stage = Stage()
        stage.gates.observe_webhook_error(131042, waba_id="2")
        stage.clock.pass_(60.0)
        ended = []
        for _ in range(10):
            try:
                ended.append(await stage.send())
            except GateClosedError as error:
                ended.append(error.scope)
        assert ended.count("accepted") in (2, 3)
        stage.gates.observe_webhook_error(131042, waba_id="2")
        assert (await stage.refused()).retry_after == pytest.approx(120.0)
        stage.clock.pass_(120.0)
        assert await stage.send() == "accepted"
        stage.clock.pass_(30.0)
        assert [await stage.send() for _ in range(10)] == ["accepted"] * 10

    run(story)


def test_a_read_that_fails_or_hangs_leaves_it_shut_and_a_cancelled_one_is_made_again() -> None:
    async def story() -> None:
        stage = Stage()
        stage.gates.observe_webhook_error(131031)
        stage.clock.pass_(60.0)
        stage.api.health = TimeoutError()
        assert (await stage.refused()).retry_after == pytest.approx(120.0)
        stage.clock.pass_(120.0)
        arrived = asyncio.Event()

        async def hang() -> None:
            arrived.set()
            await asyncio.Event().wait()

        stage.api.hang = hang
        caught = asyncio.create_task(stage.send())
        await arrived.wait()
        assert (await stage.refused(stage.send, BOB)).scope == "account"  # one finds out, the others do not wait
        caught.cancel()
        with pytest.raises(asyncio.CancelledError):
            await caught
        stage.api.health, stage.api.hang = healthy(), None
        assert await stage.send() == "accepted"

    run(story)


def test_a_read_may_not_take_longer_than_its_time(monkeypatch: pytest.MonkeyPatch) -> None:
    assert PROBE_TIMEOUT == 10.0
    monkeypatch.setattr("resilience_whatsapp.gates._switch.PROBE_TIMEOUT", 0.001)

    async def story() -> None:
        stage = Stage()
        stage.gates.observe_webhook_error(131031)
        stage.clock.pass_(60.0)
        stage.api.hang = asyncio.Event().wait
        assert (await stage.refused()).retry_after == pytest.approx(120.0)

    run(story)


def test_a_number_that_tells_no_health_is_open_again() -> None:
    async def story() -> None:
        stage = Stage()
        stage.api.waba_id = None
        stage = Stage(api=stage.api)
        stage.api.health = None
        await stage.fails(told(131042))
        stage.clock.pass_(60.0)
        assert await stage.send() == "accepted"
        assert stage.api.probes == ["number"]

    run(story)


def test_what_nobody_can_look_at_is_not_latched() -> None:
    async def story() -> None:
        stage = Stage(api=Stub(OK))
        for code in (131042, 190, 133010, 131063):
            await stage.fails(told(code))
            assert await stage.send() == "accepted"
        stage.gates.observe_restriction()
        assert await stage.send() == "accepted"

    run(story)


def test_quality_limits_wait_for_an_hour_before_the_first_read() -> None:
    async def story() -> None:
        stage = Stage()
        await stage.fails(told(131048))
        assert (await stage.refused()).retry_after == pytest.approx(3_600.0)

    run(story)


def test_a_restriction_that_a_webhook_tells_lasts_until_its_end() -> None:
    async def story() -> None:
        stage = Stage()
        stage.gates.observe_restriction(waba_id="another")
        assert await stage.send() == "accepted"
        stage.gates.observe_restriction(waba_id="2", until=stage.clock.wall() + 7_200.0)
        assert (await stage.refused()).retry_after == pytest.approx(7_200.0)
        assert await stage.gates.allowed(Row(ANN)) == pytest.approx(7_200.0)
        stage.gates.open("account", phone_number_id="1")
        assert await stage.send() == "accepted"
        stage.gates.observe_restriction(waba_id="2")
        stage.clock.pass_(60.0)
        assert await stage.gates.allowed(Row(ANN)) is None  # it has looked
        assert stage.api.probes == ["account"]

    run(story)


def test_a_person_can_shut_and_open_any_gate_by_its_name() -> None:
    async def story() -> None:
        stage = Stage(name="by_hand")
        breaker = registry.get("by_hand.account.2")
        assert isinstance(breaker, CircuitBreaker)
        breaker.force_open(actor="ann", reason="an audit")
        error = await stage.refused()
        assert (error.retry_after, error.code) == (None, None)
        assert await stage.gates.allowed(Row(ANN)) == 60.0
        breaker.reset()
        app = registry.get("by_hand.app.messages")
        assert isinstance(app, CircuitBreaker)
        app.force_open()
        assert await stage.gates.allowed(Row(ANN)) == 60.0
        app.reset()
        assert await stage.send() == "accepted"

    run(story)


def test_further_errors_of_a_gate_that_is_shut_do_not_prolong_it() -> None:
    async def story() -> None:
        stage = Stage()
        for _ in range(3):
            stage.gates.observe_webhook_error(131042)
            stage.clock.pass_(10.0)
        assert (await stage.refused()).retry_after == pytest.approx(30.0)

    run(story)


# --- templates and marketing ---------------------------------------------------------------------------------------


def test_limits_of_templates_and_of_marketing_leave_other_messages_alone() -> None:
    async def story() -> None:
        stage = Stage()
        await stage.service.get_approved_templates()
        stage.gates.observe_webhook_error(131063, recipient=ANN)
        assert (await stage.refused(stage.template)).scope == "marketing"
        assert await stage.template("login") == "accepted"
        stage.gates.observe_webhook_error(131064)
        assert (await stage.refused(stage.template, "login")).scope == "templates"
        assert await stage.send() == "accepted"
        assert await stage.gates.allowed(Row(ANN)) is None
        assert await stage.gates.allowed(Row(ANN, "login")) == pytest.approx(3_600.0)

    run(story)


def test_who_wants_no_marketing_gets_no_offers_and_all_the_rest() -> None:
    async def story() -> None:
        stage = Stage()
        await stage.service.get_approved_templates()
        stage.gates.observe_preference(ANN[1:], stopped=True)
        error = await stage.refused(stage.template)
        assert (error.code, error.retry_after, error.latched) == (131050, None, True)
        assert await stage.gates.allowed(Row(ANN, "offer")) == math.inf
        assert await stage.template("login") == "accepted"
        assert await stage.send() == "accepted"
        assert await stage.template("offer", BOB) == "accepted"
        stage.gates.observe_preference(ANN, stopped=False)
        assert await stage.template() == "accepted"

    run(story)


def test_without_a_list_a_template_that_met_a_marketing_limit_is_known_to_be_marketing() -> None:
    async def story() -> None:
        stage = Stage()
        stage.gates.observe_webhook_error(131049, recipient=ANN[1:], template=("sale", "fr"))
        assert (await stage.refused(stage.template, "sale")).retry_after == pytest.approx(86_400.0)
        assert await stage.template("login") == "accepted"
        assert await stage.template("sale", BOB) == "accepted"
        stage.clock.pass_(86_400.0)
        assert await stage.template("sale") == "accepted"

    run(story)


def test_a_template_that_a_webhook_tells_is_unusable_is_set_aside_by_the_one_quarantine() -> None:
    async def story() -> None:
        stage = Stage()
        stage.service = WhatsAppService(stage.client)
        stage.gates.observe_webhook_error(132015, template=("offer", "fr"))
        with pytest.raises(Exception, match="132015") as caught:
            await stage.template()
        assert caught.value.local  # type: ignore[attr-defined]
        assert await stage.gates.allowed(Row(ANN, "offer")) == pytest.approx(300.0, abs=5.0)
        assert await stage.gates.allowed(Row(ANN, "login")) is None
        stage.gates.observe_webhook_error(132015)  # of which template, nobody says

    run(story)


# --- recipients ----------------------------------------------------------------------------------------------------


def test_who_cannot_be_reached_is_tried_again_the_next_day_or_when_he_writes() -> None:
    async def story() -> None:
        stage = Stage()
        await stage.fails(told(131026))
        assert (await stage.refused()).retry_after == pytest.approx(86_400.0)
        assert (await stage.refused(stage.template)).scope == "recipient"
        assert await stage.gates.allowed(Row(ANN)) == pytest.approx(86_400.0)
        stage.gates.observe_inbound(recipient=ANN[1:])
        assert await stage.send() == "accepted"
        await stage.fails(told(130403))
        assert (await stage.refused()).retry_after is None
        stage.clock.pass_(1e9)
        assert (await stage.refused()).retry_after is None

    run(story)


def test_a_country_that_is_closed_keeps_others_open() -> None:
    async def story() -> None:
        stage = Stage()
        await stage.fails(told(130497))
        assert (await stage.refused(stage.send, BOB)).code == 130497
        assert await stage.send(CARL) == "accepted"
        assert await stage.send(UserId("FR.1")) == "accepted"

    run(story)


def test_a_throttled_flow_keeps_others_open() -> None:
    async def story() -> None:
        stage = Stage()

        async def flow(flow_id: str) -> str:
            message = FlowMessage(body="Book", flow_cta="Open", flow_id=flow_id)
            return (await stage.service.send("user", ANN, message)).status.value

        stage.api.outcomes = [told(132069)]
        with pytest.raises(GraphThrottledError):
            await flow("7")
        stage.api.outcomes = [OK]
        assert (await stage.refused(flow, "7")).retry_after == pytest.approx(3_600.0)
        assert await flow("8") == "accepted"
        assert await stage.send() == "accepted"
        stage.api.outcomes = [told(132069)]
        with pytest.raises(GraphThrottledError):
            await stage.template("booking")
        stage.api.outcomes = [OK]
        assert (await stage.refused(stage.template, "booking")).code == 132069
        stage.gates.observe_webhook_error(132069, recipient=ANN)  # of which flow, nobody says
        assert await stage.template("login") == "accepted"

    run(story)


def test_waits_of_recipients_can_be_chosen_and_are_told_to_listeners() -> None:
    async def story() -> None:
        stage = Stage(recipient_waits={131026: 10.0})
        await stage.fails(told(131049))
        assert await stage.send() == "accepted"
        await stage.fails(told(131026))
        with record_events(stage.gates.recipients) as events:
            assert (await stage.refused()).retry_after == pytest.approx(10.0)
        (event,) = events.of(Rejection)
        assert ANN[1:] not in repr(event)
        stage.gates.observe_webhook_error(131026)  # of whom, nobody says
        assert stage.gates.recipients.snapshot() == {"marks": 1, "rejected": 1}

    run(story)


# --- several clients, bulkheads, looking in --------------------------------------------------------------------------


def test_two_numbers_of_one_account_share_its_gate_and_have_their_own_pacers() -> None:
    async def story() -> None:
        clock = FakeClock()
        gates = Gates(clock=clock, throughput=2.0, throughput_share=1.0)
        services = []
        for number in ("1", "9"):
            api = Api()
            api.phone_number_id = number
            services.append(WhatsAppService(ResilientWhatsAppClient(api, gates=gates)))
        assert gates.attach(Api()).throughput is gates.throughput_of("1")
        first, second = services
        for _ in range(2):
            await first.send_text("user", ANN, "hello")
        with pytest.raises(GateClosedError):
            await first.send_text("user", BOB, "hello")
        await second.send_text("user", BOB, "hello")
        gates.observe_webhook_error(133010, phone_number_id="1")
        clock.pass_(1.0)
        await second.send_text("user", BOB, "hello")
        gates.observe_webhook_error(131031, phone_number_id="1")
        for service in services:
            with pytest.raises(GateClosedError) as caught:
                await service.send_text("user", BOB, "hello")
            assert caught.value.scope == "account"
        assert await gates.allowed(Row(ANN, lane="9")) == pytest.approx(60.0)
        assert await gates.allowed(Row(ANN, lane="unknown")) is None

    run(story)


def test_webhooks_reach_the_gates_by_their_listener() -> None:
    async def story() -> None:
        stage = Stage()
        listen = gating(stage.gates)
        ours: Any = {"topic": "messages", "waba_id": "2", "phone_number_id": "1"}

        async def hear(update: WebhookUpdate) -> None:
            answer = listen(update)
            if answer is not None:
                await answer

        failed = StatusUpdate(**ours, wamid="w", status="failed", recipient=ANN[1:], errors=(told(131026),))
        await hear(failed)
        assert (await stage.refused()).code == 131026
        await hear(InboundMessage(**ours, wamid="w", kind="text", sender=ANN[1:]))
        assert await stage.send() == "accepted"
        await hear(AccountError(topic="messages", waba_id="2", phone_number_id="8", errors=(told(131042),)))
        assert (await stage.refused()).code == 131042  # another number of the same account

    run(story)


@pytest.mark.parametrize(("waba", "reached"), [("2", True), ("7", False), (None, True)])
def test_news_of_an_account_reach_its_clients_and_those_that_do_not_know_theirs(
    waba: str | None, reached: bool
) -> None:
    async def story() -> None:
        api = Api()
        api.waba_id = waba
        stage = Stage(api=api)
        stage.gates.observe_restriction(waba_id="2")
        if reached:
            assert (await stage.refused()).scope == "account"
        else:
            assert await stage.send() == "accepted"

    run(story)


def test_of_many_messages_one_that_a_gate_keeps_back_holds_up_no_other() -> None:
    async def story() -> None:
        stage = Stage()
        stage.gates.observe_webhook_error(131026, recipient=ANN)
        stage.gates.observe_webhook_error(131064)
        rows = [Outgoing("user", ANN, Text("1")), Outgoing("user", BOB, TemplateMessage("t", "fr"))]
        rows.append(Outgoing("user", BOB, Text("2")))
        ended = {result.index: result async for result in stage.service.send_many(rows)}
        assert [ended[index].status for index in range(3)] == ["rejected", "rejected", "accepted"]
        assert stage.clock.time == 1000.0

    run(story)


def test_many_messages_wait_for_a_limit_of_all_and_stop_for_what_must_be_repaired() -> None:
    async def story() -> None:
        stage = Stage(throughput=2.0, throughput_share=1.0)
        rows = [Outgoing("user", f"+3361234567{number}", Text("hello")) for number in range(6)]
        ended = [result async for result in stage.service.send_many(rows)]
        assert [result.status for result in ended] == ["accepted"] * 6
        assert len(stage.api.payloads) == 6
        for code in (131042, 10):
            stage = Stage()
            await stage.fails(told(code))
            with pytest.raises(GateClosedError):
                async for result in stage.service.send_many(rows):
                    assert result.status == "rejected"

    run(story)


def test_a_bulkhead_for_each_kind_keeps_listings_from_taking_the_slots_of_messages() -> None:
    async def story() -> None:
        bulkheads = {
            "messages": Bulkhead("sends", max_concurrent=1),
            "management": Bulkhead("listings", max_concurrent=1),
        }
        stage = Stage(bulkheads=bulkheads)
        door, hold, inside = stage.client.door, asyncio.Event(), asyncio.Event()
        assert door is not None

        async def long(*_: Any) -> str:
            inside.set()
            await hold.wait()
            return "listed"

        listing = asyncio.create_task(door.manage(long))
        await inside.wait()
        with pytest.raises(BulkheadFullError):
            await door.manage(long)
        assert await stage.send() == "accepted"
        await stage.fails(told(131000, 500))
        assert await stage.send() == "accepted"
        hold.set()
        assert await listing == "listed"
        assert await door.manage(long) == "listed"

    run(story)


def test_a_message_that_a_later_gate_keeps_back_gives_its_permit_of_an_earlier_one_back() -> None:
    async def story() -> None:
        stage = Stage(pair_burst=1)
        await stage.fails(told(4))
        stage.clock.pass_(60.0)
        assert stage.gates.pairs is not None
        stage.gates.pairs.limiter.close_for(100.0, "1", ANN[1:])
        assert (await stage.refused()).scope == "pair"
        assert await stage.send(BOB) == "accepted"  # the probe of the app's gate was free

    run(story)


def test_the_snapshot_shows_every_gate_and_nobody() -> None:
    async def story() -> None:
        stage = Stage()
        await stage.send()
        assert len(Gates(throughput=None, pair_burst=None).snapshot()) == 1
        rows = {row["name"]: row for row in stage.gates.snapshot()}
        assert all(row["open"] for row in rows.values())
        assert {row["scope"] for row in rows.values()} == {
            "app", "management", "credential", "permission", "account", "templates", "marketing", "number",
            "throughput", "pair", "recipient",
        }  # fmt: skip
        assert rows["whatsapp_gate.throughput.1"]["rate"] == pytest.approx(68.0)
        assert rows["whatsapp_gate.pair"]["pairs"] == 1
        await stage.fails(told(131031))
        rows = {row["name"]: row for row in stage.gates.snapshot()}
        account = rows["whatsapp_gate.account.2"]
        assert (account["open"], account["code"], account["state"]) == (False, 131031, "open")
        assert account["retry_after"] == pytest.approx(60.0)
        assert ANN[1:] not in str(rows)

    run(story)


def test_nothing_that_is_logged_names_a_recipient_or_a_token(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)

    async def story() -> None:
        stage = Stage(pair_burst=1)
        await stage.send()
        for code in (131056, 131026, 131042, 190, 4, 130429):
            stage.gates.observe_webhook_error(code, recipient=ANN)
            await stage.refused()

    run(story)
    assert caplog.records
    assert ANN[1:] not in caplog.text
    assert "token-1" not in caplog.text


@pytest.mark.parametrize(
    "options",
    [
        {"throughput": 0},
        {"throughput": math.nan},
        {"throughput": True},
        {"throughput_share": 1.5},
        {"pair_burst": 0},
        {"pair_burst": 1.5},
        {"max_wait": -1},
        {"max_wait": math.inf},
        {"management_max_wait": "1"},
        {"recipient_waits": {131026: -1.0}},
        {"recipient_waits": {1: 1.0}},
        {"recipient_waits": []},
        {"bulkheads": {"messages": 1}},
        {"bulkheads": {"media": Bulkhead("media", max_concurrent=1)}},
        {"name": ""},
    ],
)
def test_options_that_cannot_be_are_refused_with_their_name(options: Mapping[str, Any]) -> None:
    with pytest.raises(ConfigurationError, match=next(iter(options)).removesuffix("s")):
        Gates(**options)


@pytest.mark.parametrize("scope", ["pair", "recipient", "throughput", "template", "nothing"])
def test_only_what_is_latched_can_be_opened_by_hand(scope: str) -> None:
    with pytest.raises(ConfigurationError, match="scope must be one of app, management, credential"):
        Gates().open(scope)


@frozen
class Row:
    recipient: str
    template: str | None = None
    language: str | None = "fr"
    lane: str = "1"


def test_an_outbox_queues_a_message_that_a_gate_keeps_back() -> None:
    async def story() -> None:
        gates, api = Gates(), Api()
        outbox = Outbox(MemoryStore(), gate=gates, when_down="queue", poll=0.02, hold_for=0.02)
        service = WhatsAppService(ResilientWhatsAppClient(api, gates=gates), outbox=outbox)
        async with outbox.running():
            assert (await service.send_text("user", ANN, "hello")).status == "accepted"
            gates.observe_webhook_error(131042)
            queued = await service.send_text("user", ANN, "hello?")
            assert queued.status == "queued"
            assert len(api.payloads) == 1

    run(story)


@pytest.mark.parametrize("asked_between", [False, True])
def test_late_refusals_of_a_token_that_was_replaced_do_not_keep_the_new_one_back(asked_between: bool) -> None:
    class Slow(Api):
        """Answers what was asked with the first token when it is told to."""

        def __init__(self) -> None:
            super().__init__()
            self.turns: list[asyncio.Event] = []

        async def send_message(self, payload: Mapping[str, Any]) -> Any:
            if self.token == "token-1":
                self.turns.append(asyncio.Event())
                await self.turns[-1].wait()
                raise told(190)
            return await super().send_message(payload)

    async def story() -> None:
        api = Slow()
        stage = Stage(api=api)
        sends = [asyncio.create_task(stage.send()) for _ in range(2)]
        while len(api.turns) < 2:
            await asyncio.sleep(0)
        api.turns[0].set()
        await asyncio.wait(sends, return_when=asyncio.FIRST_COMPLETED)
        api.token = "token-2"
        if asked_between:
            await stage.send(BOB)
        api.turns[1].set()
        await asyncio.wait(sends)
        assert await stage.send(CARL) == "accepted"
        assert api.probes == [], "nobody had to look"
        assert [str(send.exception()) for send in sends]

    run(story)

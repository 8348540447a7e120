"""Reads that find out whether something was repaired, and what they cannot tell."""

from __future__ import annotations

from typing import Any

import pytest

from resilience_whatsapp import GateClosedError, GraphClient
from tests.whatsapp.gates.test_gates import BOB, Row, Stage, healthy, run, told


@pytest.mark.parametrize("error", [told(10, 403), told(200, 403), told(100)])
def test_an_account_that_the_token_may_not_read_is_found_out_by_few_messages(error: Any) -> None:
    async def story() -> None:
        stage = Stage()
        stage.api.health = error
        stage.gates.observe_webhook_error(131042, waba_id="2")
        assert (await stage.refused()).scope == "account"
        stage.clock.pass_(60.0)
        ended = []
        for _ in range(10):
            try:
                ended.append(await stage.send())
            except GateClosedError as refused:
                ended.append(refused.scope)
        assert ended.count("accepted") in (2, 3)  # else it would be shut for ever
        stage.gates.observe_webhook_error(131042, waba_id="2")
        assert (await stage.refused()).retry_after == pytest.approx(120.0)

    run(story)


def test_a_read_that_meets_a_refused_token_shuts_the_gate_of_credentials_and_says_nothing_of_the_account() -> None:
    async def story() -> None:
        stage = Stage()
        stage.api.health = told(190, 401)
        stage.gates.observe_webhook_error(131042, waba_id="2")
        stage.clock.pass_(60.0)
        assert await stage.gates.allowed(Row(BOB)) == pytest.approx(60.0)
        error = await stage.refused()
        assert (error.scope, error.code) == ("credential", 190)
        assert stage.api.probes == ["account"]
        stage.api.token, stage.api.health = "token-2", healthy()
        assert await stage.send() == "accepted"  # the account is looked at again at once

    run(story)


@pytest.mark.parametrize(
    ("error", "let_in"),
    [
        (told(131016, 503), False),
        (told(2, 400), False),
        (told(4), False),
        (TimeoutError(), False),
        (told(10), True),
        (healthy(), True),
    ],
)
def test_a_token_is_good_only_if_the_api_says_something_that_it_says_to_those_it_lets_in(
    error: Any, let_in: bool
) -> None:
    async def story() -> None:
        stage = Stage()
        stage.api.token = lambda: "secret"
        await stage.fails(told(190, 401))
        stage.clock.pass_(60.0)
        stage.api.health = error
        if let_in:
            assert await stage.send() == "accepted"
        else:
            assert (await stage.refused()).scope == "credential"

    run(story)


def test_an_answer_to_a_token_that_is_refused_says_nothing_of_the_limit_of_the_app() -> None:
    async def story() -> None:
        stage = Stage()
        await stage.fails(told(4))
        stage.clock.pass_(60.0)
        await stage.fails(told(190, 401))
        stage.api.token = "token-2"
        await stage.fails(told(4))
        assert (await stage.refused()).retry_after == pytest.approx(120.0)  # the second time, not the first one again

    run(story)


@pytest.mark.parametrize("error", [told(4), told(80007), told(131016, 503)])
def test_a_read_that_is_refused_for_a_limit_or_meets_trouble_leaves_the_account_shut(error: Any) -> None:
    async def story() -> None:
        stage = Stage()
        stage.gates.observe_webhook_error(131042, waba_id="2")
        stage.clock.pass_(60.0)
        stage.api.health = error
        assert (await stage.refused()).retry_after == pytest.approx(120.0)

    run(story)


def test_a_restriction_that_is_over_when_it_is_told_keeps_nothing_back() -> None:
    async def story() -> None:
        stage = Stage()
        stage.gates.observe_restriction(waba_id="2", until=stage.clock.wall() - 1.0)
        assert await stage.send() == "accepted"

    run(story)


def test_refusals_that_webhooks_tell_one_after_the_other_count_as_one_burst() -> None:
    async def story() -> None:
        stage = Stage()
        for code in (130429, 131056):
            for _ in range(30):  # of messages that were accepted at once
                stage.gates.observe_webhook_error(code, phone_number_id="1", recipient=BOB)
                stage.clock.pass_(0.01)
        pacer = stage.client.door.throughput  # type: ignore[union-attr]
        assert pacer is not None
        assert pacer.learned.rate(stage.clock.time) >= 0.7 * 68
        assert (await stage.refused(stage.send, BOB)).retry_after <= 1.0  # type: ignore[operator]
        stage.clock.pass_(10.0)
        stage.gates.observe_webhook_error(131056, phone_number_id="1", recipient=BOB)
        assert (await stage.refused(stage.send, BOB)).retry_after == pytest.approx(4.0)

    run(story)


def test_messages_that_came_in_faster_than_the_limit_hold_sends_back_for_a_second_at_most() -> None:
    async def story() -> None:
        stage = Stage(throughput=10.0, throughput_share=1.0, pair_burst=None)
        for _ in range(1_000):
            stage.gates.observe_inbound(phone_number_id="1")
        wait = (await stage.refused()).retry_after
        assert wait is not None
        assert 0 < wait <= 1.1

    run(story)


@pytest.mark.parametrize(
    ("sent", "told_by_webhook"),
    [
        ("+5511987654321", "551187654321"),
        ("+551187654321", "5511987654321"),
        ("+525512345678", "5215512345678"),
        ("+5511932345678", "5511932345678"),
    ],
)
def test_numbers_of_brazil_and_mexico_are_one_user_in_both_of_their_forms(sent: str, told_by_webhook: str) -> None:
    async def story() -> None:
        stage = Stage()
        stage.gates.observe_webhook_error(131026, recipient=told_by_webhook)
        assert (await stage.refused(stage.send, sent)).scope == "recipient"
        assert await stage.gates.allowed(Row(sent)) == pytest.approx(86_400.0)
        stage.gates.observe_inbound(recipient=told_by_webhook)
        assert await stage.send(sent) == "accepted"
        assert await stage.send("+551132345678") == "accepted"  # a landline is nobody's mobile number

    run(story)


def test_usage_of_the_app_does_not_hide_that_of_the_account() -> None:
    async def answer(*_: object) -> str:
        return "answer"

    async def story() -> None:
        http = GraphClient(token="t", phone_number_id="1", waba_id="2")
        stage = Stage(api=http)
        (hear,) = http.header_listeners
        row = '[{"type":"whatsapp_business_management","call_count":95,"estimated_time_to_regain_access":0}]'
        hear({"X-Business-Use-Case-Usage": '{"2":' + row + "}"})
        hear({"X-App-Usage": '{"call_count":3}'})  # of a send
        assert stage.client.door is not None
        assert stage.client.door.usage() == 95.0
        began = stage.clock.time
        for _ in range(2):
            await stage.client.door.manage(answer)
        assert stage.clock.time - began == pytest.approx(24.0)

    run(story)

"""Several portfolios, accounts, numbers and tokens, and the service window of each user with each number."""

from __future__ import annotations

from typing import Any

import pytest

from resilience_whatsapp.simulator import Limits, ManualClock, SimTemplate, Simulator
from tests.whatsapp.simulator.tools import USER, Api, clock_of, receiver, run


def test_each_token_reaches_its_accounts_until_it_expires() -> None:
    async def story(api: Api) -> None:
        world, clock = api.simulator.world, clock_of(api)
        other = world.add_account(world.add_portfolio(), templates=[SimTemplate("only here", "fr")])
        world.add_token("narrow", accounts=[other.id], expires_at=clock.now() + 60.0)
        assert await api.list_code("narrow", other.id) is None
        assert await api.list_code("narrow") == 100
        assert await api.list_code(waba_id=other.id) is None
        await clock.advance(60.0)
        headers = {"Authorization": "Bearer narrow"}
        status, answer, _ = await api.ask("GET", f"/v25.0/{other.id}/message_templates", headers=headers)
        error = answer["error"]
        assert (status, error["code"], error["error_subcode"]) == (401, 190, 463)

    run(story, clock=ManualClock())


def test_numbers_of_different_accounts_have_their_own_templates_and_senders() -> None:
    async def story(api: Api) -> None:
        world = api.simulator.world
        assert (len(world.accounts), len(world.numbers), len(world.portfolios)) == (2, 6, 2)
        first, *_, last = world.numbers.values()
        assert first is api.simulator.number
        assert (last.account is first.account, len({number.digits for number in world.numbers.values()})) == (False, 6)
        last.account.templates.append(SimTemplate("only here", "fr"))
        template = {"type": "template", "template": {"name": "only here", "language": {"code": "fr"}}}
        assert [await api.code(phone=number.id, **template) for number in (first, last)] == [132001, None]
        assert await api.code(phone=last.id, to=last.digits) == 131021
        assert await api.code(phone=last.id, to=first.digits) is None
        assert [entry.phone_number_id for entry in api.simulator.book.entries] == [last.id] * 2

    run(story, numbers=3, accounts=2)


def test_any_version_is_taken() -> None:
    async def story(api: Api) -> None:
        assert [(await api.send(version=version))[0] for version in ("v23.0", "v25.0", "v26.0")] == [200] * 3
        assert (await api.send(version="25.0"))[1]["error"]["code"] == 2500

    run(story)


def test_the_defaults_can_be_changed_while_it_runs() -> None:
    async def story(api: Api) -> None:
        old = api.simulator.token
        api.simulator.token = "new"
        assert await api.list_code("new") is None
        assert await api.list_code(old) == 190
        api.simulator.templates = [SimTemplate("a", "fr")]
        assert [each.name for each in api.simulator.account.templates] == ["a"]

    run(story)


def test_free_form_messages_need_a_user_who_wrote_within_a_day() -> None:
    async def story(api: Api) -> None:
        template = {"type": "template", "template": {"name": "welcome_message", "language": {"code": "fr"}}}
        assert await api.code() == 131047
        assert await api.code(**template) is None
        assert await api.code(recipient_type="group", to="a group") is None
        api.simulator.inbound("+33 6 12 34 56 78")
        assert await api.code() is None
        second = api.simulator.world.add_number(api.simulator.account)
        assert await api.code(phone=second.id) == 131047, "each number has its own window"
        await clock_of(api).advance(86_399.0)
        assert await api.code() is None
        await clock_of(api).advance(1.0)
        assert await api.code() == 131047
        assert await api.code(to=None, recipient="US.1") == 131047
        api.simulator.inbound("US.1")
        assert await api.code(to=None, recipient="US.1") is None

    run(story, clock=ManualClock(), service_window=True)


def test_the_api_writes_some_numbers_in_another_way_and_knows_their_user_by_it() -> None:
    async def story(api: Api) -> None:
        for to, wa_id in (
            ("+52 55 1234 5678", "5215512345678"),
            ("+521 55 1234 5678", "5215512345678"),
            ("+55 31 91234-5678", "553112345678"),
            ("+55 11 91234-5678", "5511912345678"),
            ("+33 6 12 34 56 78", USER),
        ):
            assert (await api.send(to=to))[1]["contacts"] == [{"input": to, "wa_id": wa_id}]
        assert await api.code(to="+52 55 1234 5678") == 131056
        assert await api.code(to="+521 55 1234 5678") == 131056

    run(story, clock=ManualClock(), limits=Limits(pair_seconds=6.0, pair_burst=2))


def test_a_group_is_no_pair_and_is_told_as_one() -> None:
    async def story(api: Api) -> None:
        async with receiver() as hook:
            await api.simulator.subscribe(hook.url)
            for _ in range(2):
                answer = (await api.send(to="Y2FwaV9ncm91cDo=", recipient_type="group"))[1]
                assert answer["messages"][0]["group_id"] == "Y2FwaV9ncm91cDo="
            await clock_of(api).advance(1.0)
            await hook.until(1)
            status = hook.statuses()[0]
            assert (status["recipient_id"], status["recipient_type"]) == ("Y2FwaV9ncm91cDo=", "group")

    run(story, clock=ManualClock(), limits=Limits(pair_seconds=6.0, pair_burst=1))


def test_who_is_known_by_number_is_known_however_it_is_written() -> None:
    simulator = Simulator(service_window=True)
    simulator.inbound("+" + USER)
    assert simulator.inbox.is_open(simulator.number, USER)


def test_a_number_without_plus_gets_the_country_of_the_sender_if_that_is_asked_for() -> None:
    async def story(api: Api) -> list[Any]:
        told = []
        for to in ("33612345678", "+33612345678", "(631) 555-1234"):
            answer = (await api.send(to=to))[1]
            told.append(answer["contacts"][0] if "contacts" in answer else answer["error"]["code"])
        assert await api.code(to="g1", recipient_type="group") is None
        told.append(api.simulator.book.entries[0].recipient)
        return told

    right = {"input": "+33612345678", "wa_id": "33612345678"}
    assert run(story) == [{**right, "input": "33612345678"}, right, 100, "33612345678"]
    assert run(story, country_code="1") == [
        {"input": "33612345678", "wa_id": "133612345678"},
        right,
        {"input": "(631) 555-1234", "wa_id": "16315551234"},
        "+133612345678",
    ]
    with pytest.raises(ValueError, match="country_code must be the 1 to 3 digits"):
        Simulator(country_code="+1")

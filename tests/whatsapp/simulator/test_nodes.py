"""Numbers, accounts and their health: what their nodes tell, what refuses sends, and what webhooks tell of changes."""

from __future__ import annotations

from typing import Any

import pytest

from resilience_whatsapp.simulator import Limits, ManualClock, SimTemplate
from resilience_whatsapp.simulator.state.changes import ChangeError
from resilience_whatsapp.status import read_health, read_number_status
from tests.whatsapp.simulator.tools import Api, clock_of, receiver, run, until

MARKETING = {"type": "template", "template": {"name": "welcome_message", "language": {"code": "fr"}}}
UTILITY = {"type": "template", "template": {"name": "hello_world", "language": {"code": "en_US"}}}
CODE = SimTemplate("code", "fr", category="AUTHENTICATION")


def play(story: Any, **options: Any) -> Any:
    return run(story, **{"clock": ManualClock(), **options})


def told(story: Any, count: int, **options: Any) -> list[dict[str, Any]]:
    """What webhooks tell of a story, when there is so much."""

    async def heard(api: Api) -> list[dict[str, Any]]:
        async with receiver() as hook:
            await api.simulator.subscribe(hook.url)
            await story(api)
            await until(lambda: len(hook.values()) >= count)
            return hook.values()

    found: list[dict[str, Any]] = play(heard, **options)
    return found


async def node(api: Api, object_id: str | None = None, fields: str = "", edge: str = "") -> Any:
    query = f"?fields={fields}" if fields else ""
    return (await api.ask("GET", f"/v25.0/{object_id or api.simulator.phone_number_id}{edge}{query}"))[1]


async def health(api: Api, object_id: str | None = None) -> dict[str, Any]:
    found: dict[str, Any] = (await node(api, object_id, "health_status"))["health_status"]
    return found


def codes_of(told: dict[str, Any]) -> dict[str, list[int]]:
    return {
        entity["entity_type"]: [error["error_code"] for error in entity["errors"]]
        for entity in told["entities"]
        if "errors" in entity
    }


# --- nodes --------------------------------------------------------------------------------------------------------


def test_an_account_and_its_numbers_have_nodes() -> None:
    async def story(api: Api) -> None:
        waba = api.simulator.waba_id
        assert (await node(api, waba))["name"] == "Simulator"
        assert set(await node(api, waba, "currency,owner_business_info")) == {"currency", "owner_business_info", "id"}
        listed = await node(api, waba, "display_phone_number", "/phone_numbers")
        ids = [number.id for number in api.simulator.account.numbers]
        assert [row["id"] for row in listed["data"]] == ids
        assert len(ids) == 3
        empty = api.simulator.world.add_account(api.simulator.account.portfolio)
        assert await node(api, empty.id, edge="/phone_numbers") == {"data": []}
        assert (await node(api, "5"))["error"]["error_subcode"] == 33

    play(story, numbers=3)


@pytest.mark.parametrize(("users", "tier"), [(None, "TIER_UNLIMITED"), (250, "TIER_250"), (2000, "TIER_2K")])
def test_a_number_tells_its_limit_and_its_state(users: int | None, tier: str) -> None:
    async def story(api: Api) -> None:
        api.simulator.change.number(throughput_level="HIGH", quality="YELLOW", code_verification_status="EXPIRED")
        content = await api.session.get(
            f"{api.simulator.base_url}/v25.0/{api.simulator.phone_number_id}"
            "?fields=status,quality_rating,throughput,whatsapp_business_manager_messaging_limit,name_status,"
            "code_verification_status,health_status"
        )
        status = read_number_status(200, await content.read())
        assert (status.status, status.quality_rating, status.throughput) == ("CONNECTED", "YELLOW", "HIGH")
        assert (status.messaging_limit, status.name_status) == (tier, "APPROVED")
        assert (status.code_verification_status, status.health) != ("VERIFIED", None)

    play(story, limits=Limits.none(messaging=users))


def test_a_number_is_registered_with_a_pin_and_deregistered() -> None:
    async def story(api: Api) -> None:
        async def post(edge: str, payload: Any) -> Any:
            return (await api.ask("POST", f"/v25.0/{api.simulator.phone_number_id}/{edge}", payload))[1]

        assert await post("deregister", {}) == {"success": True}
        assert await api.code() == 133010
        assert (await node(api, fields="status"))["status"] == "DISCONNECTED"
        for payload in ({}, {"messaging_product": "whatsapp", "pin": "12"}):
            assert (await post("register", payload))["error"]["code"] == 100
        assert await post("register", {"messaging_product": "whatsapp", "pin": "123456"}) == {"success": True}
        assert await api.code() is None

    play(story)


# --- what refuses sends, and health -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "code", "entity", "grade"),
    [
        ({"registered": False}, 133010, "PHONE_NUMBER", "BLOCKED"),
        ({"certificate": False}, 131045, "PHONE_NUMBER", "BLOCKED"),
        ({"name_status": "DECLINED"}, 131037, "PHONE_NUMBER", "BLOCKED"),
        ({"payment": "refused"}, 131042, "WABA", "BLOCKED"),
        ({"block": 131031}, 131031, "WABA", "BLOCKED"),
        ({"block": 368}, 368, "WABA", "BLOCKED"),
        ({"block": 131064}, 131064, "WABA", "BLOCKED"),
        ({"closed_countries": ["33"]}, 130497, "WABA", "LIMITED"),
        ({"marketing": False}, 131063, "WABA", "LIMITED"),
    ],
)
def test_a_state_refuses_sends_and_is_told_by_health(
    change: dict[str, Any], code: int, entity: str, grade: str
) -> None:
    async def story(api: Api) -> None:
        assert await health(api) == {
            "can_send_message": "AVAILABLE",
            "entities": [
                {"entity_type": kind, "id": object_id, "can_send_message": "AVAILABLE"}
                for kind, object_id in (
                    ("PHONE_NUMBER", api.simulator.phone_number_id),
                    ("WABA", api.simulator.waba_id),
                    ("BUSINESS", api.simulator.account.portfolio.id),
                    ("APP", api.simulator.world.tokens[api.simulator.token].app_id),
                )
            ],
        }
        of_number = entity == "PHONE_NUMBER"
        if "block" in change:
            api.simulator.block(change["block"], waba_id=api.simulator.waba_id)
        else:
            (api.simulator.change.number if of_number else api.simulator.change.account)(**change)
        assert await api.code(**MARKETING) == code
        assert api.simulator.book.entries == []
        found = await health(api)
        assert (found["can_send_message"], codes_of(found)) == (grade, {entity: [code]})
        account = await health(api, api.simulator.waba_id)
        assert account["can_send_message"] == ("AVAILABLE" if of_number else grade)
        url = f"{api.simulator.base_url}/v25.0/{api.simulator.phone_number_id}?fields=health_status"
        async with api.session.get(url) as response:
            read = read_health(200, await response.read())
        assert [error.code for each in read.entities for error in each.errors] == [code]

    play(story)


def test_some_states_leave_other_messages_alone() -> None:
    async def story(api: Api) -> None:
        change = api.simulator.change
        change.account(closed_countries=["98"], marketing=False)
        change.number(name_status="PENDING_REVIEW")
        assert await api.code(**UTILITY) is None
        assert await api.code(to=None, recipient="US.1349") is None
        assert await api.code(to="+98 912 345 67 89") == 130497
        found = await health(api)
        assert found["entities"][0]["additional_info"]
        assert found["can_send_message"] == "LIMITED"

    play(story)


def test_a_block_of_an_account_ends_by_itself_or_is_lifted() -> None:
    async def story(api: Api) -> None:
        waba = api.simulator.waba_id
        api.simulator.block(368, waba_id=waba, seconds=3600)
        assert (await api.code(), (await health(api))["can_send_message"]) == (368, "BLOCKED")
        await clock_of(api).advance(3600)
        assert (await api.code(), (await health(api))["can_send_message"]) == (None, "AVAILABLE")
        api.simulator.block(131031, waba_id=waba)
        assert await api.code() == 131031
        api.simulator.unblock(waba_id=waba)
        api.simulator.unblock(waba_id=waba)
        assert await api.code() is None

    play(story)


def test_a_payment_problem_may_be_told_by_webhook_alone() -> None:
    async def story(api: Api) -> None:
        api.simulator.change.account(payment="fails_later")
        assert await api.code() is None
        await clock_of(api).advance(60)

    (value,) = told(story, 1)
    assert (value["statuses"][0]["status"], value["statuses"][0]["errors"][0]["code"]) == ("failed", 131042)


def test_groups_exist_only_when_they_are_known() -> None:
    async def story(api: Api) -> None:
        to_group: dict[str, Any] = {"recipient_type": "group", "to": "g1"}
        assert await api.code(**to_group) is None
        api.simulator.change.account(groups={"g1": 3, "g2": 0, "g3": -1})
        codes = {group: await api.code(**{**to_group, "to": group}) for group in ("g1", "g2", "g3", "g4")}
        assert codes == {"g1": None, "g2": 131020, "g3": 131207, "g4": 131041}

    play(story)


def test_an_authentication_template_needs_a_number() -> None:
    async def story(api: Api) -> None:
        content = {"type": "template", "template": {"name": "code", "language": {"code": "fr"}}}
        assert await api.code(**content) is None
        assert await api.code(**content, to=None, recipient="US.1349") == 131062

    play(story, templates=[CODE])


def test_versions_that_have_ended_are_refused() -> None:
    async def story(api: Api) -> None:
        status, answer, _ = await api.send(version="v20.0")
        assert (status, answer["error"]["code"], "v26.0" in answer["error"]["message"]) == (400, 100, True)
        for version in ("v21.0", "v26.0", "v27.0"):
            assert (await api.send(version=version))[0] == 200

    play(story)


# --- marketing messages -------------------------------------------------------------------------------------------


def test_marketing_messages_take_approved_marketing_templates_after_ten_minutes() -> None:
    async def story(api: Api) -> None:
        async def market(**content: Any) -> Any:
            path = f"/v25.0/{api.simulator.phone_number_id}/marketing_messages"
            payload = {"messaging_product": "whatsapp", "to": "+33612345678", **content}
            return (await api.ask("POST", path, payload))[1]

        async def code(**content: Any) -> int | None:
            found: int | None = (await market(**content)).get("error", {}).get("code")
            return found

        new = {"type": "template", "template": {"name": "new_offer", "language": {"code": "fr"}}}
        assert (await market(**MARKETING))["success"]
        assert await code(**UTILITY) == 134100
        assert await code(type="text", text={"body": "hi"}) == 134100
        assert await code(**new) == 132001
        api.simulator.change.template("new_offer", status="APPROVED")
        assert await code(**new) == 134101
        await clock_of(api).advance(600)
        assert await code(**new) is None
        api.simulator.change.account(marketing=False)
        assert await code(**new) is None, "they have an API of their own"
        assert await api.code(**new) == 131063
        api.simulator.change.account(marketing_api=False)
        assert await code(**new) == 134102
        api.simulator.change.account(marketing_api=True)
        api.simulator.block(368)
        assert await code(**new) == 368

    offer = SimTemplate("new_offer", "fr", status="PENDING", category="MARKETING")
    play(story, templates=[SimTemplate("welcome_message", "fr", category="MARKETING"), CODE, *_HELLO, offer])


_HELLO = [SimTemplate("hello_world", "en_US")]


# --- what is told -------------------------------------------------------------------------------------------------


def test_quality_and_blocks_are_told_by_webhook() -> None:
    async def story(api: Api) -> None:
        change = api.simulator.change
        change.number(quality="RED")
        change.number(quality="RED")
        change.number(quality="GREEN")
        waba = api.simulator.waba_id
        api.simulator.block(131031, waba_id=waba)
        api.simulator.unblock(waba_id=waba)
        api.simulator.block(368, waba_id=waba, seconds=60)
        api.simulator.unblock(waba_id=waba)

    values = told(story, 5, limits=Limits.none(messaging=250))
    assert [value["event"] for value in values] == [
        "FLAGGED",
        "UNFLAGGED",
        "DISABLED_UPDATE",
        "DISABLED_UPDATE",
        "ACCOUNT_RESTRICTION",
    ]
    assert values[0]["current_limit"] == "TIER_250"
    assert [value["ban_info"]["waba_ban_state"] for value in values[2:4]] == ["DISABLE", "REINSTATE"]
    assert values[4]["restriction_info"][0]["expiration"] == 1_800_000_060


@pytest.mark.parametrize(
    ("kind", "change", "field"),
    [
        ("number", {"quality": "BLUE"}, "quality"),
        ("number", {"throughput_level": "LOW"}, "throughput_level"),
        ("number", {"name_status": "NICE"}, "name_status"),
        ("number", {"phone_number_id": "5"}, "phone_number_id"),
        ("account", {"waba_id": "5"}, "waba_id"),
        ("account", {"payment": "none"}, "payment"),
        ("account", {"closed_countries": ["FR"]}, "closed_countries"),
    ],
)
def test_a_change_that_cannot_be_names_its_field(kind: str, change: dict[str, Any], field: str) -> None:
    async def story(api: Api) -> None:
        with pytest.raises(ChangeError, match=rf"^{field} must be "):
            getattr(api.simulator.change, kind)(**change)
        assert await api.code() is None

    play(story)

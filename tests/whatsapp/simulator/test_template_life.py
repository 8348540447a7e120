"""The life of templates in the simulator: created, reviewed, edited, paused, deleted; what is told; what sends meet."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from resilience_whatsapp.simulator import ManualClock, SimTemplate
from resilience_whatsapp.simulator.state.changes import ChangeError
from tests.whatsapp.simulator.tools import Api, Receiver, clock_of, receiver, run, until

CORPUS = Path(__file__).parents[4] / "shared" / "corpus"
BODY = [{"type": "BODY", "text": "Parcel {{1}} is here."}]
NEW = {"name": "parcel_here", "language": "fr", "category": "UTILITY", "components": BODY}
LIVE = SimTemplate("order", "fr", components=BODY)


def play(story: Any, **options: Any) -> Any:
    return run(
        story, **{"clock": ManualClock(), "templates": [LIVE, SimTemplate("order", "es", components=BODY)], **options}
    )


def heard(story: Any, **options: Any) -> Any:
    async def with_receiver(api: Api) -> Any:
        async with receiver() as hook:
            await api.simulator.subscribe(hook.url)
            return await story(api, hook)

    return play(with_receiver, **options)


async def listed(api: Api, query: str = "") -> list[Any]:
    found: list[Any] = (await api.ask("GET", f"/v25.0/{api.simulator.waba_id}/message_templates{query}"))[1]["data"]
    return found


async def create(api: Api, **changes: Any) -> Any:
    path = f"/v25.0/{api.simulator.waba_id}/message_templates"
    return (await api.ask("POST", path, {**NEW, **changes}))[1]


async def edit(api: Api, template_id: str, payload: Any) -> Any:
    return (await api.ask("POST", f"/v25.0/{template_id}", payload))[1]


async def delete(api: Api, query: str) -> Any:
    return (await api.ask("DELETE", f"/v25.0/{api.simulator.waba_id}/message_templates?{query}"))[1]


async def send(api: Api, name: str = "order", language: str = "fr", *values: str, version: str = "v25.0") -> int | None:
    parameters = [{"type": "text", "text": value} for value in values or ("7",)]
    components = [{"type": "body", "parameters": parameters}]
    content = {"name": name, "language": {"code": language}, "components": components}
    return await api.code(type="template", template=content, version=version)


def topics(hook: Receiver) -> list[str]:
    return [
        change["field"] for body in hook.bodies for entry in json.loads(body)["entry"] for change in entry["changes"]
    ]


# --- create -------------------------------------------------------------------------------------------------------


def test_a_new_template_is_pending_until_it_was_reviewed() -> None:
    async def story(api: Api, hook: Receiver) -> None:
        answer = await create(api)
        assert answer == {"id": answer["id"], "status": "PENDING", "category": "UTILITY"}
        assert await send(api, "parcel_here") == 132001
        await clock_of(api).advance(60)
        assert await send(api, "parcel_here") is None
        await hook.until(1)
        assert hook.values() == [
            {
                "event": "APPROVED",
                "message_template_id": int(answer["id"]),
                "message_template_name": "parcel_here",
                "message_template_language": "fr",
                "reason": "NONE",
                "message_template_category": "UTILITY",
            }
        ]
        node = (await api.ask("GET", f"/v25.0/{answer['id']}"))[1]
        assert node in await listed(api)
        assert node["components"] == BODY

    heard(story, statuses=None)


def test_a_review_may_end_badly_and_the_edited_template_is_reviewed_again() -> None:
    async def story(api: Api, hook: Receiver) -> None:
        api.simulator.change.review(seconds=5, status="REJECTED")
        template_id = (await create(api))["id"]
        await clock_of(api).advance(5)
        (row,) = await listed(api, "?fields=status,rejected_reason,quality_score&name=parcel_here")
        assert (row["status"], row["rejected_reason"], row["quality_score"]["score"]) == ("REJECTED", "SCAM", "UNKNOWN")
        api.simulator.change.review(status="APPROVED")
        better = [{"type": "BODY", "text": "Your parcel {{1}} is here."}, {"type": "FOOTER", "text": "Bye"}]
        assert await edit(api, template_id, {"components": better}) == {"success": True}
        await clock_of(api).advance(5)
        assert await send(api, "parcel_here") is None
        await until(lambda: len(hook.values()) >= 3)
        assert topics(hook)[:3] == [
            "message_template_status_update",
            "message_template_components_update",
            "message_template_status_update",
        ]
        assert hook.values()[1]["message_template_element"] == better[0]["text"]
        assert hook.values()[1]["message_template_footer"] == "Bye"

    heard(story)


@pytest.mark.parametrize(
    ("changes", "subcode"),
    [
        ({"name": "Parcel Here"}, None),
        ({"language": ""}, None),
        ({"category": "NEWS"}, None),
        ({"components": "text"}, None),
        ({"components": []}, 2388072),
        ({"components": [{"type": "BODY"}]}, 2388072),
        ({"components": [{"type": "BODY", "text": "x" * 1025}]}, 2388040),
        ({"components": [*BODY, {"type": "HEADER", "format": "TEXT", "text": "x" * 61}]}, 2388040),
        ({"components": [*BODY, {"type": "FOOTER", "text": ""}]}, 2388073),
        ({"components": [{"type": "BODY", "text": "{{1}} is here"}]}, 2388299),
        ({"components": [{"type": "BODY", "text": "here is {{1}}"}]}, 2388299),
        ({"components": [*BODY, {"type": "BUTTONS", "buttons": [5]}]}, None),
        ({"components": [*BODY, {"type": "BUTTONS"}]}, None),
        ({"name": "order"}, 2388024),
    ],
)
def test_a_new_template_is_checked(changes: dict[str, Any], subcode: int | None) -> None:
    async def story(api: Api) -> None:
        error = (await create(api, **changes))["error"]
        assert (error["code"], error.get("error_subcode")) == (100, subcode)
        assert isinstance(error.get("error_data"), str) == (subcode is not None), "which has a text for people"
        assert ("error_user_title" in error, "error_user_msg" in error) == (subcode is not None,) * 2
        assert len(await listed(api)) == 2

    play(story)


def test_an_account_has_at_most_250_templates() -> None:
    async def story(api: Api) -> None:
        assert (await create(api))["error"]["error_subcode"] == 2388019
        path = f"/v25.0/{api.simulator.waba_id}/message_templates"
        for body in (b"5", b'"5"', b'"{"'):
            async with api.session.post(api.simulator.base_url + path, data=body) as response:
                assert (await response.json())["error"]["code"] == 100

    play(story, templates=[SimTemplate(f"t{number}", "fr") for number in range(250)])


@pytest.mark.skipif(not CORPUS.is_dir(), reason=f"no samples at {CORPUS}: they are not part of the project")
@pytest.mark.parametrize("name", [path.stem for path in sorted(CORPUS.glob("request_create_template__*.json"))])
def test_the_samples_of_new_templates_are_taken_and_can_be_sent(name: str) -> None:
    async def story(api: Api) -> None:
        sample = json.loads((CORPUS / f"{name}.json").read_text())
        path = f"/v25.0/{api.simulator.waba_id}/message_templates"
        assert (await api.ask("POST", path, sample))[0] == 200
        assert (await api.ask("POST", path, json.dumps(sample)))[1]["error"]["error_subcode"] == 2388024, (
            "a text of JSON"
        )
        await clock_of(api).advance(60)
        (row,) = await listed(api, f"?name={sample['name']}&status=approved")
        texts = {part["type"]: part.get("text", "") for part in row["components"]}
        components = [
            {"type": kind.lower(), "parameters": [{"type": "text", "text": "x"}] * texts[kind].count("{{")}
            for kind in ("HEADER", "BODY")
            if kind in texts
        ]
        if sample["category"] == "AUTHENTICATION":
            value = {"type": "text", "text": "x"}
            components.append({"type": "button", "sub_type": "url", "index": "0", "parameters": [value]})
        content = {"name": sample["name"], "language": {"code": sample["language"]}, "components": components}
        assert await api.code(type="template", template=content) is None

    play(story)


def test_a_template_of_authentication_keeps_the_words_and_buttons_that_it_brings() -> None:
    async def story(api: Api) -> None:
        url = {"type": "URL", "text": "Help", "url": "https://example.org/"}
        otp = {"type": "OTP", "otp_type": "ZERO_TAP", "text": "Copy"}
        own = [
            {"type": "BODY", "text": "The code {{1}} is yours."},
            {"type": "FOOTER", "text": "Ours"},
            {"type": "BUTTONS", "buttons": [url, otp]},
        ]
        assert (await create(api, category="authentication", components=own))["category"] == "AUTHENTICATION"
        (row,) = await listed(api, "?name=parcel_here")
        assert row["components"][:2] == own[:2]
        first, second = row["components"][2]["buttons"]
        assert (first, second["type"], "otp_type=ZERO_TAP" in second["url"]) == (url, "URL", True)

    play(story)


# --- edit and delete ----------------------------------------------------------------------------------------------


def test_an_approved_template_is_edited_once_a_day_and_ten_times_a_month() -> None:
    async def story(api: Api) -> None:
        template_id = LIVE.id_in(api.simulator.waba_id)
        api.simulator.change.review(seconds=1)
        edited = 0
        for _ in range(15):
            edited += (await edit(api, template_id, {"components": BODY})).get("success", False)
            await clock_of(api).advance(1)
            assert "error" in await edit(api, template_id, {"components": BODY}), "twice in a day"
            await clock_of(api).advance(86_400)
        assert edited == 10
        await clock_of(api).advance(20 * 86_400)
        assert (await edit(api, template_id, {"components": BODY}))["success"]

    play(story)


@pytest.mark.parametrize(
    "payload", [5, {}, {"components": "x"}, {"components": []}, {"category": "MARKETING"}, {"category": "NEWS"}]
)
def test_what_is_no_edit_changes_nothing(payload: Any) -> None:
    async def story(api: Api) -> None:
        assert (await edit(api, LIVE.id_in(api.simulator.waba_id), payload))["error"]["code"] == 100
        assert await send(api) is None

    play(story)


def test_a_category_is_edited_while_the_template_is_not_approved_and_pending_ones_are_not_edited() -> None:
    async def story(api: Api) -> None:
        template_id = LIVE.id_in(api.simulator.waba_id)
        api.simulator.change.template("order", "fr", status="PAUSED")
        assert (await edit(api, template_id, {"category": "MARKETING"}))["success"]
        assert (await edit(api, template_id, {"category": "UTILITY"}))["error"]["error_subcode"] == 2388039
        assert {row["category"] for row in await listed(api, "?language=fr")} == {"MARKETING"}

    play(story)


@pytest.mark.parametrize(
    ("query", "left"),
    [
        ("name=order", []),
        ("name=order&hsm_id={fr}", ["es"]),
        ("hsm_id={fr}", ["es"]),
        ('hsm_ids=["{fr}"]', ["es"]),
        ("hsm_ids={fr}", ["es"]),
        ("hsm_ids={fr},{es}", []),
        ("name=other", None),
        ("name=order&hsm_id=5", None),
        ("", None),
    ],
)
def test_templates_are_deleted_by_name_and_id(query: str, left: list[str] | None) -> None:
    async def story(api: Api, hook: Receiver) -> None:
        ids = {each.language: each.id_in(api.simulator.waba_id) for each in api.simulator.templates}
        answer = await delete(api, query.format(**ids))
        if left is None:
            assert answer["error"]["code"] == 100
            assert len(await listed(api)) == 2
            return
        assert answer == {"success": True}
        assert [row["language"] for row in await listed(api)] == left
        await until(lambda: len(hook.values()) == 2 - len(left))
        assert {value["event"] for value in hook.values()} == {"DELETED"}

    heard(story)


# --- what Meta does -----------------------------------------------------------------------------------------------


def test_a_template_is_paused_between_two_sends_and_comes_back() -> None:
    async def story(api: Api) -> None:
        assert await send(api) is None
        assert api.simulator.change.template("order", "fr", status="PAUSED", after=5, lasts=3 * 3600) == 1
        assert await send(api) is None
        await clock_of(api).advance(5)
        assert (await send(api), await send(api, "order", "es")) == (132015, None)
        template_id = LIVE.id_in(api.simulator.waba_id)
        health = (await api.ask("GET", f"/v25.0/{template_id}?fields=health_status,status"))[1]
        assert (health["status"], health["health_status"]["can_send_message"]) == ("PAUSED", "BLOCKED")
        assert health["health_status"]["entities"][0]["errors"][0]["error_code"] == 132015
        await clock_of(api).advance(3 * 3600)
        assert await send(api) is None

    play(story)


def test_who_ends_a_pause_by_hand_is_not_overruled_by_its_end() -> None:
    async def story(api: Api) -> None:
        change, path = api.simulator.change, f"/v25.0/{LIVE.id_in(api.simulator.waba_id)}/unpause"
        change.template("order", "fr", status="PAUSED", lasts=60)
        assert (await api.ask("POST", path))[1] == {"success": True}
        assert (await api.ask("POST", path))[1]["success"] is False
        change.template("order", "fr", status="DISABLED")
        await clock_of(api).advance(60)
        assert await send(api) == 132016
        change.template("order", "fr", status="PAUSED", lasts=60)
        change.template("order", "fr", status="DELETED")
        change.template("order", "es", status="DISABLED", after=5)
        api.simulator.templates = []
        await clock_of(api).advance(60)
        assert api.simulator.templates == []

    play(story)


def test_a_deleted_template_is_not_reviewed() -> None:
    async def story(api: Api) -> None:
        await create(api)
        assert (await delete(api, "name=parcel_here"))["success"]
        await clock_of(api).advance(60)
        assert len(await listed(api)) == 2

    play(story)


def test_every_change_is_told_by_its_webhook() -> None:
    buttons = [{"type": "URL", "text": "Open", "url": "https://example.org/", "secret": "not told"}]
    components = [
        {"type": "HEADER", "format": "TEXT", "text": "Parcel"},
        {"type": "HEADER", "format": "IMAGE"},
        *BODY,
        {"type": "BUTTONS", "buttons": buttons},
    ]

    async def story(api: Api, hook: Receiver) -> None:
        change = api.simulator.change
        change.template("order", "fr", quality="YELLOW", category="MARKETING", components=components, status="DISABLED")
        change.template("order", "fr", quality="YELLOW", category="MARKETING", status="DISABLED")
        await until(lambda: len(hook.values()) >= 4)
        assert topics(hook) == [
            "message_template_components_update",
            "template_category_update",
            "message_template_quality_update",
            "message_template_status_update",
        ]
        parts, category, quality, status = hook.values()
        assert parts["message_template_title"] == "Parcel"
        assert parts["message_template_buttons"] == [
            {
                "message_template_button_type": "URL",
                "message_template_button_text": "Open",
                "message_template_button_url": "https://example.org/",
            }
        ]
        assert (category["previous_category"], category["new_category"]) == ("UTILITY", "MARKETING")
        assert (quality["previous_quality_score"], quality["new_quality_score"]) == ("UNKNOWN", "YELLOW")
        assert (status["event"], status["reason"]) == ("DISABLED", "NONE")
        (row,) = await listed(api, "?quality_score=YELLOW&name_or_content=here")
        assert row["previous_category"] == "UTILITY"

    heard(story)


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"name": "other"}, "name"),
        ({"name": "order", "language": "de"}, "name"),
        ({"name": "order", "status": "GONE"}, "status"),
        ({"name": "order", "quality": "BLUE"}, "quality"),
        ({"name": "order", "category": "NEWS"}, "category"),
        ({"name": "order", "components": [{"type": "FOOTER"}]}, "components"),
        ({"name": "order", "after": -1}, "after"),
        ({"name": "order", "lasts": -1}, "lasts"),
        ({"name": "order", "waba_id": "5"}, "waba_id"),
    ],
)
def test_a_change_that_cannot_be_names_its_field(change: dict[str, Any], field: str) -> None:
    async def story(api: Api) -> None:
        before = list(api.simulator.templates)
        with pytest.raises(ChangeError, match=rf"^{field} must be "):
            api.simulator.change.template(**change)
        assert api.simulator.templates == before

    play(story)


@pytest.mark.parametrize(("change", "field"), [({"seconds": -1}, "seconds"), ({"status": "LOST"}, "status")])
def test_a_review_that_cannot_be_names_its_field(change: dict[str, Any], field: str) -> None:
    async def story(api: Api) -> None:
        with pytest.raises(ChangeError, match=rf"^review.{field} must be "):
            api.simulator.change.review(**change)

    play(story)


# --- listing ------------------------------------------------------------------------------------------------------


def test_a_listing_has_an_etag_and_is_not_sent_again_while_it_is_the_same() -> None:
    async def story(api: Api) -> None:
        path = f"/v25.0/{api.simulator.waba_id}/message_templates"
        tag = (await api.ask("GET", path))[2]["ETag"]
        async with api.session.get(api.simulator.base_url + path, headers={"If-None-Match": tag}) as response:
            assert (response.status, await response.read(), response.headers["ETag"]) == (304, b"", tag)
        api.simulator.change.template("order", status="PAUSED")
        status, page, headers = await api.ask("GET", path, headers={"If-None-Match": tag})
        assert (status, page["data"][0]["status"], headers["ETag"] != tag) == (200, "PAUSED", True)

    play(story)


@pytest.mark.parametrize(
    ("query", "count"),
    [
        ('?status=["approved","PAUSED"]', 2),
        ('?language=["fr","de"]', 1),
        ("?content=Parcel", 2),
        ("?content=order", 0),
        ("?name_or_content=order", 2),
        ("?quality_score=GREEN", 0),
    ],
)
def test_a_listing_is_filtered_by_one_value_or_several(query: str, count: int) -> None:
    async def story(api: Api) -> None:
        assert len(await listed(api, query)) == count

    play(story)


@pytest.mark.parametrize("query", ['?status=["APPROVED"', "?status=[5]", '?language=["fr",{}]'])
def test_a_filter_that_is_none_is_refused(query: str) -> None:
    async def story(api: Api) -> None:
        answer = (await api.ask("GET", f"/v25.0/{api.simulator.waba_id}/message_templates{query}"))[1]
        assert answer["error"]["code"] == 100

    play(story)


def test_the_templates_of_accounts_do_not_mix() -> None:
    async def story(api: Api) -> None:
        world = api.simulator.world
        other = world.add_account(api.simulator.account.portfolio, templates=[LIVE])
        ids = {LIVE.id_in(api.simulator.waba_id), LIVE.id_in(other.id)}
        assert len(ids) == 2
        for template_id in ids:
            assert (await api.ask("GET", f"/v25.0/{template_id}"))[1]["id"] == template_id
        api.simulator.change.template("order", waba_id=other.id, status="PAUSED")
        assert await send(api) is None

    play(story)

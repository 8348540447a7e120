"""Other processes change templates, tokens, numbers and accounts of the simulator."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from resilience_whatsapp.simulator import DEFAULT_TEMPLATES, ManualClock
from resilience_whatsapp.simulator.state.standing import MESSAGING
from tests.whatsapp.simulator.tools import Api, clock_of, run


def play(story: Any) -> Any:
    return run(story, clock=ManualClock())


def test_a_template_is_paused_and_reviews_are_set_from_outside() -> None:
    async def story(api: Api) -> None:
        change = {"name": "order_confirmation", "status": "PAUSED", "lasts": 60}
        assert (await api.ask("POST", "/_sim/templates", change))[:2] == (200, {"changed": 2})
        assert {each.status for each in api.simulator.templates if each.name == "order_confirmation"} == {"PAUSED"}
        await clock_of(api).advance(60)
        assert api.simulator.templates == list(DEFAULT_TEMPLATES)
        review = {"review": {"seconds": 5, "status": "REJECTED"}}
        assert (await api.ask("POST", "/_sim/templates", review))[:2] == (200, {"success": True})
        life = api.simulator.template_life
        assert (life.review_seconds, life.review_status) == (5, "REJECTED")

    play(story)


def test_tokens_numbers_and_accounts_are_changed_from_outside() -> None:
    async def story(api: Api) -> None:
        async def change(what: str, **content: Any) -> None:
            assert (await api.ask("POST", f"/_sim/{what}", content))[:2] == (200, {"success": True})

        await change("tokens", revoked=460)
        assert await api.code() == 190
        await change("tokens", revoked=False, permissions=[MESSAGING], accounts=[api.simulator.waba_id])
        assert (await api.code(), await api.list_code()) == (None, 10)
        await change("tokens", token="another")
        assert await api.list_code("another") is None
        await change("numbers", registered=False, quality=None)
        assert await api.code() == 133010
        await change("numbers", registered=True)
        await change("accounts", payment="refused", groups={"g": 1}, marketing=True)
        assert await api.code() == 131042

    play(story)


def test_a_file_is_kept_as_if_a_message_had_brought_it() -> None:
    async def story(api: Api) -> None:
        url = f"{api.simulator.base_url}/_sim/media"
        query = {"phone_number_id": api.simulator.phone_number_id}
        async with api.session.post(url, data=b"x", params=query, headers={"Content-Type": "image/png"}) as response:
            media_id = (await response.json())["id"]
        assert await api.code(type="image", image={"id": media_id}) is None
        async with api.session.post(url, data=b"x", params={"phone_number_id": "5"}) as response:
            assert (response.status, await response.json()) == (
                400,
                {"error": "phone_number_id must be that of a number"},
            )

    play(story)


@pytest.mark.parametrize(
    ("what", "content", "error"),
    [
        ("templates", 5, "the body must be an object with any of name, language, "),
        ("templates", {"status": "PAUSED"}, "name must be given"),
        ("templates", {"name": "x"}, "name must be that of a template of the account, in that language"),
        ("templates", {"name": 5}, "name has a value of another type than it must have"),
        ("templates", {"name": "x", "components": [5]}, "components has a value of another type"),
        ("templates", {"name": "x", "after": True}, "after has a value of another type"),
        ("templates", {"review": {"seconds": "5"}}, "seconds has a value of another type"),
        ("tokens", {"revoked": "yes"}, "revoked has a value of another type"),
        ("tokens", {"permissions": "all"}, "permissions has a value of another type"),
        ("tokens", {"denied_code": 1.5}, "denied_code has a value of another type"),
        ("numbers", {"registered": 1}, "registered has a value of another type"),
        ("numbers", {"colour": "red"}, "the body must be an object with any of phone_number_id, quality, "),
        ("accounts", {"groups": {"g": "x"}}, "groups has a value of another type"),
        ("accounts", {"payment": "late"}, "payment must be one of ok, refused, fails_later"),
    ],
)
def test_what_cannot_be_is_refused_with_its_field(what: str, content: Any, error: str) -> None:
    async def story(api: Api) -> None:
        status, answer, _ = await api.ask("POST", f"/_sim/{what}", content)
        assert (status, answer["error"][: len(error)]) == (400, error)
        assert await api.code() is None

    play(story)


def test_the_routes_of_steering_are_listed_and_others_are_told_so() -> None:
    async def story(api: Api) -> None:
        routes = (await api.ask("GET", "/_sim"))[1]["routes"]
        assert {"POST /_sim/faults", "GET /_sim/report", "POST /_sim/numbers"} <= {*routes}
        page = (Path(__file__).parents[3] / "docs" / "simulator.md").read_text()
        assert [route for route in routes if route.split()[1].rpartition("/")[2] not in page] == []
        for method, path in (("GET", "/_sim/nothing"), ("GET", "/_sim/faults"), ("DELETE", "/_sim/")):
            status, answer, _ = await api.ask(method, path)
            assert (status, "GET /_sim" in answer["error"]) == (404, True)

    run(story)

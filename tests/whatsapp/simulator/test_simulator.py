"""The simulator answers as the API does, and clients that no one here wrote work against it."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import aiohttp
import pytest

from resilience_whatsapp.simulator import DEFAULT_TEMPLATES, Fault, FaultError, SimTemplate, Simulator, SimulatorThread

NUMBER = "+33612345678"


async def post(simulator: Simulator, payload: Any, *, token: str | None = None, phone: str | None = None) -> Any:
    url = f"{simulator.base_url}/v25.0/{phone or simulator.phone_number_id}/messages"
    headers = {"Authorization": f"Bearer {token or simulator.token}"}
    body = payload if isinstance(payload, bytes) else json.dumps(payload).encode()
    async with aiohttp.ClientSession() as session, session.post(url, data=body, headers=headers) as response:
        return response.status, await response.json()


def message(**changes: Any) -> dict[str, Any]:
    return {"messaging_product": "whatsapp", "to": NUMBER, "type": "text", "text": {"body": "hi"}, **changes}


def template(name: str, language: str = "fr", **content: Any) -> dict[str, Any]:
    return message(type="template", template={"name": name, "language": {"code": language}, **content})


def run(story: Any, **options: Any) -> Any:
    async def inside() -> Any:
        async with Simulator(**options) as simulator:
            return await story(simulator)

    return asyncio.run(inside())


def body(*parameters: Any) -> list[dict[str, Any]]:
    return [{"type": "body", "parameters": list(parameters)}]


TEXT = {"type": "text", "text": "1"}
BODY = body(TEXT, TEXT)


@pytest.mark.parametrize(
    ("payload", "status", "code"),
    [
        (b"no json", 400, 100),
        ([], 400, 100),
        (message(messaging_product="x"), 400, 100),
        ({"messaging_product": "whatsapp"}, 400, 100),
        (message(to="12"), 400, 100),
        (message(to="{{Recipient}}"), 400, 100),
        (message(to=5), 400, 100),
        (message(to="", recipient=5), 400, 100),
        (message(to="a group's id", recipient_type="group"), 200, None),
        (message(to=None, recipient="US.13491208655302741918"), 200, None),
        (message(to="+15550783881"), 400, 131021),
        (message(biz_opaque_callback_data="x" * 513), 400, 131009),
        (message(biz_opaque_callback_data=5), 400, 131009),
        (message(biz_opaque_callback_data="x" * 512), 200, None),
        (message(biz_opaque_callback_data=None), 200, None),
        (message(type="poll"), 400, 131051),
        (message(type=["text"]), 400, 131051),
        (message(text=None), 400, 131008),
        (message(text={}), 400, 131008),
        (message(text=[]), 400, 131008),
        (message(text={"body": ""}), 400, 131008),
        (message(text={"body": "x" * 4096}), 200, None),
        (message(text={"body": "x" * 4097}), 400, 131009),
        (message(text={"body": 5}), 400, 131009),
        (message(type="template", template={"name": "x"}), 400, 131008),
        (template("missing"), 404, 132001),
        (template("welcome_message", "en"), 404, 132001),
        (template("draft_offer"), 404, 132001),
        (template("paused_offer"), 400, 132015),
        (template("order_confirmation"), 400, 132000),
        (template("order_confirmation", components=BODY), 200, None),
        (template("order_confirmation", components=5), 400, 131009),
        (template("order_confirmation", components=[5]), 400, 131009),
        (template("order_confirmation", components=[{"type": "body", "parameters": 5}]), 400, 131009),
        (template("order_confirmation", components=body(5, 5)), 400, 131008),
        (template("order_confirmation", components=body({"type": "text"}, {"type": "text"})), 400, 131008),
        (template("order_confirmation", components=body({"type": "text", "text": 5}, TEXT)), 400, 131009),
        (
            template("order_confirmation", components=body(TEXT, {"type": "currency", "currency": {"code": "EUR"}})),
            200,
            None,
        ),
        (template("order_confirmation", components=[{"type": "header", "parameters": {}}, *BODY]), 200, None),
        (template("welcome_message", components=[{"type": "header", "parameters": [TEXT]}]), 400, 132000),
        (template("welcome_message", components=[{"type": "button", "sub_type": "url", "index": 0}]), 200, None),
        (template("welcome_message"), 200, None),
        (message(type="location", location={"latitude": 1}), 200, None),
        (template("disabled"), 400, 132016),
        (message(type="contacts", contacts=[{"name": {}}]), 200, None),
        (message(type="contacts", contacts={"name": {}}), 400, 131008),
        ({"messaging_product": "whatsapp", "status": "read", "message_id": "wamid.x"}, 200, None),
        ({"messaging_product": "whatsapp", "status": "read"}, 400, 100),
        ({"messaging_product": "whatsapp", "status": "sent", "message_id": "wamid.x"}, 400, 100),
        ({"status": "read", "message_id": "wamid.x"}, 400, 100),
        (b"[" * 100_000, 400, 100),
        (b"\xff", 400, 100),
    ],
)
def test_messages_are_checked_as_the_api_does(payload: Any, status: int, code: int | None) -> None:
    async def story(simulator: Simulator) -> None:
        got_status, answer = await post(simulator, payload)
        assert (got_status, answer.get("error", {}).get("code")) == (status, code)
        assert len(simulator.book.entries) == (status == 200 and "success" not in answer)

    run(story, templates=[*DEFAULT_TEMPLATES, SimTemplate("disabled", "fr", status="DISABLED")])


def test_who_may_ask_for_what() -> None:
    async def story(simulator: Simulator) -> None:
        status, answer = await post(simulator, message(), token="wrong")
        assert (status, answer["error"]["code"]) == (401, 190)
        status, answer = await post(simulator, message(), phone="5")
        assert (status, answer["error"]["code"], answer["error"]["error_subcode"]) == (400, 100, 33)
        status, answer = await post(simulator, message())
        assert answer["error"]["code"] == 131030

    run(story, allowed_recipients=["1"])


def test_listings_filter_and_page_in_both_directions() -> None:
    async def story(simulator: Simulator) -> None:
        async def get(**query: str) -> Any:
            url = f"{simulator.base_url}/v25.0/{simulator.waba_id}/message_templates"
            headers = {"Authorization": f"Bearer {simulator.token}"}
            async with aiohttp.ClientSession() as session, session.get(url, params=query, headers=headers) as response:
                return await response.json()

        first = await get(limit="2")
        assert (len(first["data"]), "next" in first["paging"]) == (2, True)
        second = await get(limit="2", after=first["paging"]["cursors"]["after"])
        back = await get(limit="2", before=second["paging"]["cursors"]["before"])
        assert back["data"] == first["data"]
        assert len((await get(status="approved"))["data"]) == 6
        assert len((await get(name="order_confirmation", language="fr"))["data"]) == 1
        named = await get(category="marketing", fields="name")
        assert all(set(row) == {"name", "id"} for row in named["data"])
        last = await get(limit="100")
        assert len(last["data"]) == 9
        assert "next" not in last["paging"]
        assert "after" in last["paging"]["cursors"]
        assert await get(name="missing") == {"data": []}

    run(story)


# --- steering -------------------------------------------------------------------------------------


def test_faults_and_book_over_the_admin_routes() -> None:
    async def story(simulator: Simulator) -> None:
        async with aiohttp.ClientSession(simulator.base_url) as session:
            async with session.post("/_sim/faults", json=[{"kind": "error", "code": 4, "times": 2}]) as response:
                assert await response.json() == {"pending": 1}
            assert (await post(simulator, message()))[1]["error"]["code"] == 4
            async with session.delete("/_sim/faults") as response:
                assert await response.json() == {"pending": 0}
            for _ in range(2):
                await post(simulator, message(biz_opaque_callback_data="id"))
            async with session.get("/_sim/book") as response:
                book = await response.json()
            assert book["duplicates"] == {"id": 2}
            assert [entry["answered"] for entry in book["entries"]] == [True, True]
            assert book["requests"] == {"messages": 3}
            for bad, named in (
                ({"kind": "nonsense"}, "kind"),
                ({"kind": "error", "route": "x"}, "route"),
                ({"kind": "error", "times": 0}, "times"),
                ({"kind": "error", "status": 99}, "status"),
                ({"kind": "error", "code": "x"}, "code"),
                ({"kind": "error", "subcode": "x"}, "subcode"),
                ({"kind": "error", "is_transient": "x"}, "is_transient"),
                ({"kind": "delay", "seconds": -1}, "seconds"),
                ({"kind": "html", "accepted": "x"}, "accepted"),
                ({"kind": "error", "headers": {"a": 1}}, "headers"),
                ({"kind": "error", "typo": 1}, "typo"),
                ({}, "kind"),
                (5, "object"),
            ):
                async with session.post("/_sim/faults", json=bad) as response:
                    assert response.status == 400
                    assert named in (await response.json())["error"]
            async with session.post("/_sim/faults", data=b"{") as response:
                assert response.status == 400
            async with session.post("/_sim/reset") as response:
                assert (await response.json())["success"]
            assert simulator.book.entries == []

    run(story)


def test_faults_wait_for_their_route_and_may_last() -> None:
    with pytest.raises(FaultError):
        Fault("error", times=True)

    async def story(simulator: Simulator) -> None:
        simulator.script(
            Fault("empty", route="message_templates"), Fault("error", route="*", code=4, times=None), Fault("malformed")
        )
        for _ in range(3):
            assert (await post(simulator, message()))[1]["error"]["code"] == 4

    run(story)


def test_a_thread_serves_blocking_tests() -> None:
    with SimulatorThread(templates=[SimTemplate("a", "fr")]) as simulator:
        simulator.script(Fault("error", code=4))
        simulator.clear_faults()
        simulator.stop_listening()
        simulator.start_listening()
        assert asyncio.run(post(simulator.simulator, template("a")))[0] == 200
        assert len(simulator.book.entries) == 1

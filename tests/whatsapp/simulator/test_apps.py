"""Which apps hear an account's webhooks, and what a token may do."""

from __future__ import annotations

from typing import Any

import pytest

from resilience_whatsapp.simulator import Fault, ManualClock
from tests.whatsapp.simulator.tools import USER, Api, receiver, run, until


async def permissions(api: Api, token: str | None = None, version: str = "v26.0") -> tuple[int, Any]:
    headers = {"Authorization": f"Bearer {token or api.simulator.token}"}
    return (await api.ask("GET", f"/{version}/me/permissions", headers=headers))[:2]


def test_a_token_is_told_its_permissions() -> None:
    async def story(api: Api) -> None:
        both = [
            {"permission": "whatsapp_business_management", "status": "granted"},
            {"permission": "whatsapp_business_messaging", "status": "granted"},
        ]
        assert await permissions(api) == (200, {"data": both})
        api.simulator.change.token("sender", permissions=["whatsapp_business_messaging"])
        assert await permissions(api, "sender") == (200, {"data": both[1:]})
        assert api.simulator.book.requests["permissions"] == 2

    run(story)


@pytest.mark.parametrize(("token", "version", "code"), [("other", "v26.0", 190), (None, "v20.0", 100)])
def test_who_may_not_ask_is_told_no_permissions(token: str | None, version: str, code: int) -> None:
    async def story(api: Api) -> None:
        assert (await permissions(api, token, version))[1]["error"]["code"] == code

    run(story)


@pytest.mark.parametrize("fault", [[], [Fault("webhook_early"), Fault("webhook_duplicate")]], ids=["", "early"])
def test_an_account_without_a_subscribed_app_is_told_of_to_nobody(fault: list[Fault]) -> None:
    async def story(api: Api) -> None:
        path = f"/v26.0/{api.simulator.waba_id}/subscribed_apps"
        [row] = (await api.ask("GET", path))[1]["data"]
        assert row["whatsapp_business_api_data"]["id"] == api.simulator.world.tokens[api.simulator.token].app_id
        async with receiver() as hook:
            await api.simulator.subscribe(hook.url)
            assert (await api.ask("DELETE", path))[1] == {"success": True}
            assert (await api.ask("GET", path))[1] == {"data": []}
            api.simulator.script(*fault)
            await api.send()
            api.simulator.inbound(USER)
            await api.simulator.clock.advance(3600.0)  # type: ignore[attr-defined]
            assert api.simulator.webhooks.so_far().told == 0
            assert (await api.ask("POST", path))[1] == {"success": True}
            api.simulator.inbound(USER)
            await hook.until(1)
            await until(lambda: api.simulator.webhooks.so_far().pending == 0)
            assert len(hook.bodies) == 1

    run(story, clock=ManualClock())

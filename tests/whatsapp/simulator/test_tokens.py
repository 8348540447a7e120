"""Tokens of the simulator: expired, revoked, with other rights, of other accounts."""

from __future__ import annotations

from typing import Any

import pytest

from resilience_whatsapp.errors import GraphAuthError
from resilience_whatsapp.graph import GraphClient
from resilience_whatsapp.simulator import ManualClock, Simulator
from resilience_whatsapp.simulator.state.changes import ChangeError
from resilience_whatsapp.simulator.state.standing import MANAGEMENT, MESSAGING
from tests.whatsapp.simulator.tools import Api, clock_of, run


def play(story: Any, **options: Any) -> Any:
    return run(story, **{"clock": ManualClock(), **options})


def test_a_token_expires_in_its_time() -> None:
    async def story(api: Api) -> None:
        api.simulator.change.token(expires_in=60)
        assert await api.code() is None
        await clock_of(api).advance(60)
        status, answer, _ = await api.send()
        assert (status, answer["error"]["code"], answer["error"]["error_subcode"]) == (401, 190, 463)
        api.simulator.change.token(revoked=False)
        assert await api.code() is None

    play(story)


@pytest.mark.parametrize(("revoked", "subcode"), [(True, 467), (460, 460), (463, 463)])
def test_a_token_is_revoked_with_a_subcode(revoked: int, subcode: int) -> None:
    async def story(api: Api) -> None:
        api.simulator.change.token(revoked=revoked)
        status, answer, _ = await api.send()
        assert (status, answer["error"]["code"], answer["error"]["error_subcode"]) == (401, 190, subcode)
        api.simulator.change.token(revoked=False)
        assert await api.code() is None

    play(story)


@pytest.mark.parametrize(("code", "status"), [(10, 403), (200, 403), (3, 500)])
def test_a_missing_permission_refuses_what_needs_it_and_nothing_else(code: int, status: int) -> None:
    async def story(api: Api) -> None:
        api.simulator.change.token(permissions=[MESSAGING], denied_code=code)
        assert await api.code() is None
        path = f"/v25.0/{api.simulator.waba_id}/message_templates"
        got, answer, _ = await api.ask("GET", path)
        assert (got, answer["error"]["code"]) == (status, code)
        api.simulator.change.token(permissions=[MANAGEMENT])
        assert await api.code() == code
        assert await api.list_code() is None

    play(story)


def test_tokens_of_different_rights_live_side_by_side() -> None:
    async def story(api: Api) -> None:
        simulator = api.simulator
        mine, other = simulator.waba_id, simulator.world.add_account(simulator.account.portfolio).id
        simulator.change.token("first", accounts=[mine])
        simulator.change.token("second", accounts=[other])
        answers = {
            (token, waba): await api.list_code(token, waba) for token in ("first", "second") for waba in (mine, other)
        }
        assert answers == {("first", mine): None, ("first", other): 100, ("second", mine): 100, ("second", other): None}
        assert "first" not in repr(simulator.world.tokens["first"])

    play(story)


def test_the_client_knows_a_revoked_token() -> None:
    async def story(api: Api) -> None:
        simulator: Simulator = api.simulator
        simulator.change.token(revoked=460)
        options = {"phone_number_id": simulator.phone_number_id, "base_url": simulator.base_url}
        async with GraphClient(token=simulator.token, **options) as client:
            with pytest.raises(GraphAuthError) as refused:
                await client.get_number_status()
        assert (refused.value.code, refused.value.subcode) == (190, 460)

    play(story)


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"value": ""}, "token"),
        ({"accounts": ["5"]}, "accounts"),
        ({"permissions": ["everything"]}, "permissions"),
        ({"denied_code": 100}, "denied_code"),
        ({"expires_in": -1}, "expires_in"),
        ({"revoked": 5}, "revoked"),
    ],
)
def test_a_change_that_cannot_be_names_its_field(change: dict[str, Any], field: str) -> None:
    async def story(api: Api) -> None:
        with pytest.raises(ChangeError, match=rf"^{field} must be "):
            api.simulator.change.token(**change)
        assert list(api.simulator.world.tokens) == [api.simulator.token]

    play(story)

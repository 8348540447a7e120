"""Gates that several processes share, on a real Redis."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest

from resilience_core import ConfigurationError
from resilience_whatsapp import GateClosedError, Gates, ResilientWhatsAppClient, WhatsAppService
from tests.fleet.members import PATIENCE, Fleets
from tests.whatsapp.fakes import OK, RECIPIENT
from tests.whatsapp.gates.test_gates import Api, healthy

SECRET = "sixteen characters, and more"
BOB = "+33687654321"


def member(fleets: Fleets, name: str, **options: Any) -> tuple[WhatsAppService, Gates, Api, Any]:
    fleet = fleets.member(name, secret=SECRET)
    api = Api(OK)
    gates = Gates(fleet=fleet, **options)
    return WhatsAppService(ResilientWhatsAppClient(api, gates=gates)), gates, api, fleet


async def send(service: WhatsAppService, recipient: str = RECIPIENT) -> str:
    try:
        return (await service.send_text("user", recipient, "hello")).status.value
    except GateClosedError as error:
        return error.scope


async def until(service: WhatsAppService, outcome: str, recipient: str) -> None:
    """Send until it ends so: what others did is told by Redis."""
    end = time.monotonic() + PATIENCE
    while await send(service, recipient) != outcome:
        assert time.monotonic() < end, outcome
        await asyncio.sleep(0.01)


def test_a_pair_has_one_limit_in_all_members_and_redis_does_not_know_whose(fleets: Fleets) -> None:
    async def story() -> None:
        first, _, _, one = member(fleets, "a", pair_burst=4)
        second, _, _, two = member(fleets, "b", pair_burst=4)
        ended = [await send(service) for _ in range(4) for service in (first, second)]
        assert one.wait_ready(PATIENCE)
        assert two.wait_ready(PATIENCE)
        assert ended.count("accepted") in (4, 5)  # a turn of 6 s may have come while this ran
        assert set(ended) == {"accepted", "pair"}
        assert await send(second, BOB) == "accepted"
        keys = fleets.written()
        assert any("whatsapp_gate.pair" in key for key in keys)
        assert not [key for key in keys if RECIPIENT[1:] in key or BOB[1:] in key]
        kept = str([fleets.client.dump(key) for key in keys])
        assert RECIPIENT[1:] not in kept

    asyncio.run(story())


def test_what_shuts_the_account_for_one_member_shuts_it_for_all_and_so_does_what_opens_it(fleets: Fleets) -> None:
    async def story() -> None:
        first, gates, api, _ = member(fleets, "a", pair_burst=None, throughput=None)
        second, _, other, fleet = member(fleets, "b", pair_burst=None, throughput=None)
        assert [await send(service) for service in (first, second)] == ["accepted"] * 2
        assert fleet.wait_ready(PATIENCE)
        api.health = other.health = healthy("BLOCKED")
        gates.observe_webhook_error(131042, waba_id="2")
        assert await send(first) == "account"
        await until(second, "account", BOB)
        assert other.probes == api.probes == []
        gates.open("account")
        await until(second, "accepted", BOB)

    asyncio.run(story())


def test_without_redis_each_member_goes_on_by_itself(fleets: Fleets) -> None:
    async def story() -> None:
        fleet = fleets.member("alone", source="redis://127.0.0.1:1/0", secret=SECRET, timeout=0.2)
        service = WhatsAppService(ResilientWhatsAppClient(Api(OK), gates=Gates(fleet=fleet, pair_burst=2)))
        assert [await send(service) for _ in range(3)] == ["accepted", "accepted", "pair"]

    asyncio.run(story())


def test_a_fleet_that_could_not_hide_recipients_is_refused(fleets: Fleets) -> None:
    for options in ({}, {"pair_burst": None}):
        with pytest.raises(ConfigurationError, match="secret"):
            Gates(fleet=fleets.member("open"), **options)

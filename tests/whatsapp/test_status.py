"""What the API says of a number and an account; it is read or refused, and shows no number."""

from __future__ import annotations

import asyncio
import json
import random
from contextlib import suppress
from typing import Any

import pytest
from aiohttp import web

from resilience_core import ConfigurationError
from resilience_whatsapp import (
    AmbiguousOutcomeError,
    EntityHealth,
    GraphAuthError,
    GraphClient,
    GraphSenderError,
    Health,
    WhatsAppError,
)
from resilience_whatsapp.simulator import Simulator
from resilience_whatsapp.status import read_health, read_number_status
from tests._cost import size
from tests.whatsapp.corpus import Sample, samples
from tests.whatsapp.test_errors import anything

BLOCKED = {
    "can_send_message": "BLOCKED",
    "entities": [
        {"entity_type": "WABA", "id": "5", "can_send_message": "BLOCKED", "errors": [{"error_code": 131042}, 5]},
        {"entity_type": "APP", "id": "6", "can_send_message": "AVAILABLE"},
        {},
        5,
    ],
}


def test_the_number_of_the_simulator_tells_its_status() -> None:
    async def story() -> None:
        async with Simulator() as simulator:
            options: dict[str, Any] = {"phone_number_id": simulator.phone_number_id, "base_url": simulator.base_url}
            async with GraphClient(token=simulator.token, **options) as client:
                status = await client.get_number_status()
                assert (status.id, status.quality_rating) == (simulator.phone_number_id, "GREEN")
                assert (status.throughput, status.messaging_limit) == ("STANDARD", "TIER_UNLIMITED")
                assert status.health is not None
                assert status.health.can_send_message == "AVAILABLE"
                assert status.display_phone_number == simulator.own_number
                assert simulator.own_number not in repr(status)
                with pytest.raises(ConfigurationError, match="waba_id"):
                    await client.get_account_health()
            async with GraphClient(token="wrong", **options) as client:
                with pytest.raises(GraphAuthError):
                    await client.get_number_status()

    asyncio.run(story())


def test_the_health_of_an_account_is_asked_of_the_account() -> None:
    asked: list[tuple[str, str]] = []

    async def answer(request: web.Request) -> web.Response:
        asked.append((request.path, request.query["fields"]))
        return web.json_response({"health_status": BLOCKED, "id": "5"})

    async def story() -> Health:
        app = web.Application()
        app.router.add_get("/{path:.*}", answer)
        runner = web.AppRunner(app, shutdown_timeout=0.1)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        base_url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        try:
            async with GraphClient(token="t", phone_number_id="1", waba_id="5", base_url=base_url) as client:
                return await client.get_account_health()
        finally:
            await runner.cleanup()

    health = asyncio.run(story())
    assert asked == [("/v25.0/5", "health_status")]
    assert health.blocked
    account, app = health.entities
    assert (account.entity_type, account.id, account.can_send_message) == ("WABA", "5", "BLOCKED")
    assert isinstance(account.errors[0], GraphSenderError)
    assert app == EntityHealth("APP", "6", "AVAILABLE")


def test_a_number_may_tell_its_health_too() -> None:
    status = read_number_status(200, json.dumps({"id": "1", "health_status": BLOCKED}).encode())
    assert status.health is not None
    assert status.health.blocked
    assert "display_phone_number=None" in repr(status)


def test_answers_that_tell_nothing_are_ambiguous() -> None:
    for read in (read_number_status, read_health):
        for body in (b"", b"[]", b"{}", b'{"health_status": 5}'):
            with pytest.raises(AmbiguousOutcomeError):
                read(200, body)
    assert read_health(200, b'{"health_status": {"entities": 5}}') == Health(None)


def test_any_json_is_read_or_refused() -> None:
    draw = random.Random(9)
    for _ in range(size(10_000, 1_000)):
        rows = [{"entity_type": "APP", "errors": anything(draw, 2)}, anything(draw, 2)]
        told = draw.choice([anything(draw, 3), {"entities": rows, "can_send_message": anything(draw, 1)}])
        body = json.dumps({"id": anything(draw, 1), "health_status": told, "throughput": anything(draw, 2)}).encode()
        for read in (read_number_status, read_health):
            with suppress(WhatsAppError):
                assert read(200, body) is not None


KINDS = ("response.phone_number", "response.get_business_phone_number", "response.messaging_limit")
NUMBERS = [sample for kind in KINDS for sample in samples(kind)]


@pytest.mark.parametrize("sample", NUMBERS, ids=lambda sample: sample.file)
def test_each_sample_of_a_number_parses(sample: Sample) -> None:
    status = read_number_status(200, sample.body)
    content = sample.content
    assert status.id == content["id"]
    for name in ("verified_name", "quality_rating", "display_phone_number", "name_status", "code_verification_status"):
        assert getattr(status, name) == content.get(name)
    assert status.throughput == content.get("throughput", {}).get("level")
    assert status.messaging_limit == content.get("whatsapp_business_manager_messaging_limit")


@pytest.mark.parametrize("sample", samples("response.health_status"), ids=lambda sample: sample.file)
def test_each_sample_of_a_health_parses(sample: Sample) -> None:
    told = sample.content["health_status"]
    health = read_health(200, sample.body)
    assert health.can_send_message == told["can_send_message"]
    assert [each.entity_type for each in health.entities] == [row["entity_type"] for row in told["entities"]]

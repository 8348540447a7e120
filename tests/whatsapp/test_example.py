"""The program of docs/whatsapp/README.md, as it is written there: sending, and an outage, with its log lines."""

from __future__ import annotations

import asyncio
import json
import logging
import re
import runpy
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from resilience_core.testing import virtual_time
from resilience_whatsapp import DEVELOPMENT, PRODUCTION, GraphClient, GraphTransientError, Settings, from_mapping
from resilience_whatsapp.simulator import Fault, Simulator
from tests._redis import RedisServer
from tests.fleet.members import PATIENCE

PAGE = (Path(__file__).parents[2] / "docs" / "whatsapp" / "README.md").read_text("utf-8")
NUMBER = "+33612345678"


@pytest.fixture
def program(own_redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """What the first block of the page defines, as a file; its Redis is nobody else's."""
    monkeypatch.setenv("REDIS_URL", own_redis_server.url)
    block = re.search(r"^```python\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
    assert block is not None
    file = tmp_path / "program.py"
    file.write_text(block.group(1), "utf-8")
    defined = runpy.run_path(str(file))
    yield SimpleNamespace(**defined)
    defined["fleet"].close()


def graph_client(api: Simulator) -> GraphClient:
    return GraphClient(token=api.token, phone_number_id=api.phone_number_id, waba_id=api.waba_id, base_url=api.base_url)


def test_it_sends_and_lists_templates(program: Any) -> None:
    async def story() -> None:
        async with Simulator() as api, graph_client(api) as http_client:
            service = program.whatsapp_service(http_client)
            record = await program.welcome(service, SimpleNamespace(id=42), NUMBER)
            assert (record.status, record.attempts, record.user_id) == ("accepted", 1, "42")
            sources = [(await service.get_approved_templates()).source for _ in range(2)]
            assert sources == ["api", "cache"]

    asyncio.run(story())


def test_an_outage_opens_the_circuit_for_all_servers_and_the_log_tells(
    program: Any, own_redis_server: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    async def story() -> None:
        async with Simulator() as api, graph_client(api) as http_client:
            service = program.whatsapp_service(http_client)
            await service.get_approved_templates()
            assert program.fleet.wait_ready(PATIENCE)
            api.script(Fault("error", status=503, code=131016, times=None))
            with pytest.raises(GraphTransientError):
                await program.welcome(service, "user-1", NUMBER)
            for _ in range(3):
                assert (await program.welcome(service, "user-1", NUMBER)).startswith("WhatsApp is down, ask again in ")
            assert api.book.requests["messages"] == 5
            assert (await service.get_approved_templates()).source == "cache"

    with caplog.at_level(logging.WARNING, logger="shop.whatsapp"), virtual_time():
        asyncio.run(story())
    assert program.fleet.flush(PATIENCE)
    assert json.loads(own_redis_server.ask("GET", "circuit_breaker:whatsapp_api"))["state"] == "open"
    assert 0 < own_redis_server.ask("TTL", "circuit_breaker:whatsapp_api") <= 300

    ours = [record for record in caplog.records if record.name == "shop.whatsapp"]
    assert [(record.levelname, record.getMessage()) for record in ours] == [
        ("WARNING", "Retrying operation"),
        ("WARNING", "Retrying operation"),
        ("WARNING", "Retrying operation"),
        ("WARNING", "Retrying operation"),  # decided before it was known that the circuit is open
        ("CRITICAL", "WhatsApp service is down (circuit open)"),
        ("CRITICAL", "WhatsApp service is down (circuit open)"),
        ("CRITICAL", "WhatsApp service is down (circuit open)"),
        ("WARNING", "Using cached templates due to circuit breaker open"),
    ]
    retried, down = vars(ours[0]), vars(ours[4])
    assert (retried["attempt"], retried["error"]) == (1, "GraphTransientError(131016)")
    assert 750 <= retried["delay_ms"] <= 1250
    assert (down["user_id"], down["recipient"], down["template"]) == ("user-1", "+33******78", "welcome_message")
    assert NUMBER not in caplog.text


def test_the_page_s_table_has_the_numbers_of_the_presets() -> None:
    rows = re.findall(
        r"^\| (default|`[A-Z]+`) \| (\d+) \| (\d+) \| (\d+) s \| (\d+) \| ([\d,]+) ms \|$", PAGE, re.MULTILINE
    )
    presets = {"default": from_mapping({}), "`PRODUCTION`": PRODUCTION, "`DEVELOPMENT`": DEVELOPMENT}
    assert len(rows) == len(presets)
    for name, failures, successes, seconds, attempts, wait in rows:
        assert presets[name] == Settings(
            failure_threshold=int(failures),
            success_threshold=int(successes),
            recovery_timeout=float(seconds),
            max_attempts=int(attempts),
            base_delay=int(wait.replace(",", "")) / 1000,
        )

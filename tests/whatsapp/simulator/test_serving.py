"""Listening, listings, odd paths, the thread and the command."""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import runpy
import signal
import socket
import subprocess
import sys
import threading
from typing import Any
from urllib.request import urlopen

import aiohttp
import pytest

from resilience_whatsapp.simulator import Fault, Limits, SimTemplate, Simulator, SimulatorThread
from resilience_whatsapp.simulator.__main__ import add_arguments, main, run

TEXT = {"messaging_product": "whatsapp", "to": "+33612345678", "type": "text", "text": {"body": "secret words"}}


def get(*paths: str, **options: Any) -> list[tuple[int, Any]]:
    async def inside() -> list[tuple[int, Any]]:
        answers = []
        async with Simulator(**options) as simulator:
            async with aiohttp.ClientSession(headers={"Authorization": f"Bearer {simulator.token}"}) as session:
                for path in paths:
                    full = path.format(phone=simulator.phone_number_id, waba=simulator.waba_id)
                    async with session.get(simulator.base_url + full) as response:
                        answers.append((response.status, await response.json()))
        return answers

    return asyncio.run(inside())


# --- listings -------------------------------------------------------------------------------------


def test_following_next_gives_every_row_once_and_keeps_the_filters() -> None:
    async def inside() -> list[dict[str, Any]]:
        rows = []
        async with Simulator() as simulator:
            headers = {"Authorization": f"Bearer {simulator.token}"}
            base = f"{simulator.base_url}/v25.0/{simulator.waba_id}/message_templates"
            address: str | None = base + "?status=approved&fields=name,status&limit=2"
            async with aiohttp.ClientSession(headers=headers) as session:
                while address is not None:
                    async with session.get(address) as response:
                        page = await response.json()
                    rows += page["data"]
                    assert "after" in page["paging"]["cursors"]
                    address = page["paging"].get("next")
        return rows

    rows = asyncio.run(inside())
    assert len({row["id"] for row in rows}) == len(rows) == 6
    assert all(row.keys() == {"id", "name", "status"} and row["status"] == "APPROVED" for row in rows)


@pytest.mark.parametrize(
    "query", ["limit=%C2%B2", "limit=0", "limit=-1", "limit=x", "after=nonsense", "after=eHg=", "before=%C3%A9"]
)
def test_a_listing_that_cannot_be_given_is_refused_with_an_envelope(query: str) -> None:
    [(status, answer)] = get("/v25.0/{waba}/message_templates?" + query)
    assert (status, answer["error"]["code"]) == (400, 100)


def test_pages_beyond_the_end_are_empty() -> None:
    [(_, only)] = get("/v25.0/{waba}/message_templates", templates=[SimTemplate("a", "fr")])
    after = only["paging"]["cursors"]["after"]
    before = only["paging"]["cursors"]["before"]
    beyond, ahead, none = get(
        f"/v25.0/{{waba}}/message_templates?after={after}",
        f"/v25.0/{{waba}}/message_templates?before={before}",
        "/v25.0/{waba}/message_templates?name=missing",
        templates=[SimTemplate("a", "fr")],
    )
    assert beyond == ahead == none == (200, {"data": []})


# --- paths and objects ----------------------------------------------------------------------------


def test_unknown_paths_and_objects_are_refused_with_envelopes() -> None:
    answers = get("/", "/v25.0/a/b/c", "/25/1/messages", "/v25.0/5/message_templates", "/v99.1/5")
    assert [(status, answer["error"]["code"]) for status, answer in answers] == [(400, 2500)] * 3 + [(400, 100)] * 2
    assert all(answer["error"]["error_subcode"] == 33 for _, answer in answers[3:])


def test_the_number_shows_the_fields_that_are_asked_for() -> None:
    [(status, answer)] = get("/v25.0/{phone}?fields=quality_rating,throughput")
    assert (status, set(answer)) == (200, {"quality_rating", "throughput", "id"})


def test_a_missing_template_may_answer_400_as_production_does() -> None:
    with SimulatorThread(missing_template_status=400) as simulator:
        content = {"name": "missing", "language": {"code": "fr"}}
        status, answer = asyncio.run(post(simulator, {**TEXT, "type": "template", "template": content}))
    assert (status, answer["error"]["code"]) == (400, 132001)


def test_a_business_scoped_user_id_comes_back_as_such() -> None:
    with SimulatorThread() as simulator:
        payload = {key: TEXT[key] for key in TEXT if key != "to"}
        _, answer = asyncio.run(post(simulator, {**payload, "recipient": "US.1349"}))
        assert answer["contacts"] == [{"input": "US.1349", "user_id": "US.1349"}]
        assert simulator.book.entries[0].recipient == "US.1349"


async def post(simulator: SimulatorThread, payload: Any) -> tuple[int, Any]:
    url = f"{simulator.base_url}/v25.0/{simulator.simulator.phone_number_id}/messages"
    headers = {"Authorization": f"Bearer {simulator.simulator.token}"}
    async with aiohttp.ClientSession(headers=headers) as session, session.post(url, json=payload) as response:
        return response.status, await response.json()


def test_neither_tokens_nor_numbers_nor_words_are_logged(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    with SimulatorThread(token="a-token") as simulator:
        assert asyncio.run(post(simulator, TEXT))[0] == 200
        assert asyncio.run(post(simulator, {**TEXT, "to": "5"}))[0] == 400
    for secret in ("a-token", "33612345678", "secret words"):
        assert secret not in caplog.text


# --- listening ------------------------------------------------------------------------------------


def test_a_taken_port_is_an_error_that_leaves_no_thread() -> None:
    before = set(threading.enumerate())
    with SimulatorThread() as first:
        with pytest.raises(OSError, match="address already in use"):
            SimulatorThread(port=first.simulator.port).__enter__()
    assert set(threading.enumerate()) == before


def test_it_cannot_come_back_while_another_has_its_port() -> None:
    async def story() -> None:
        async with Simulator() as simulator:
            await simulator.stop_listening()
            await simulator.stop_listening()
            async with Simulator(port=simulator.port):
                with pytest.raises(OSError, match="address already in use"):
                    await simulator.start_listening()
            await simulator.start_listening()

    asyncio.run(story())


def test_it_may_be_started_again() -> None:
    simulator = SimulatorThread()
    with pytest.raises(RuntimeError, match="context manager"):
        simulator.stop_listening()
    for number in (1, 2):
        with simulator:
            simulator.script(Fault("delay", seconds=0.001))  # waits in the loop of this life
            asyncio.run(post(simulator, {**TEXT, "biz_opaque_callback_data": None}))
        assert len(simulator.book.entries) == number
    assert not simulator.book.by_opaque()


def test_an_ipv6_address_is_written_as_one() -> None:
    assert Simulator(host="::1", port=80).base_url == "http://[::1]:80"


# --- the command ----------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_command_serves_and_ends_cleanly_on_a_signal(number: signal.Signals) -> None:
    command = [sys.executable, "-m", "resilience_whatsapp.simulator", "--port", "0", "--token", "t", "--waba-id", "77"]
    command += ["--scenario", "unpaid"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        first = process.stdout.readline()
        assert first.startswith("Graph API simulator on http://127.0.0.1:")
        assert "business account 77" in process.stdout.readline()
        with urlopen(first.split()[-1] + "/_sim/book") as response:
            assert json.load(response)["entries"] == []
        process.send_signal(number)
        assert process.wait(60) == 0
        assert process.stderr.read() == ""


def test_the_command_says_why_it_cannot_listen(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert main(["--port", str(port)]) == 1
    assert f"cannot listen on 127.0.0.1 port {port}" in capsys.readouterr().err


def test_the_module_is_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["simulator", "--port", "70000"])
    monkeypatch.delitem(sys.modules, "resilience_whatsapp.simulator.__main__")
    with pytest.raises(SystemExit) as ended:
        runpy.run_module("resilience_whatsapp.simulator", run_name="__main__")
    assert ended.value.code == 1


def test_the_command_takes_all_that_the_simulator_can_be_told(capsys: pytest.CaptureFixture[str]) -> None:
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    told = [
        "--speed",
        "60",
        "--seed",
        "7",
        "--limits",
        "real",
        "--limit",
        "throughput=1000",
        "--limit",
        "messaging=none",
    ]
    told += ["--limit", "usage_from=12.5", "--limit", "enforced=false", "--numbers", "2", "--accounts", "2"]
    told += ["--service-window", "--scenario", "unpaid", "--app-secret", "s", "--webhook", "http://127.0.0.1:1/"]
    stopped: list[str] = []

    async def serve(simulator: Simulator, scenarios: list[str]) -> None:
        async with simulator:
            stopped.extend(scenarios)
            assert simulator.limits == Limits.real(throughput=1000, messaging=None, usage_from=12.5, enforced=False)
            assert (simulator.clock.speed, simulator.service_window) == (60.0, True)
            assert len(simulator.world.numbers) == 4
            assert len(simulator.webhooks.receivers) == 1

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("resilience_whatsapp.simulator.__main__._serve", serve)
        assert run(parser.parse_args(told)) == 0
    assert stopped == ["unpaid"]


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (["--limit", "typo=1"], "is no limit; known are throughput"),
        (["--limit", "pair_burst=x"], "is no number"),
        (["--numbers", "0"], "must be 1 or more"),
        (["--scenario", "x"], "invalid choice"),
    ],
)
def test_the_command_refuses_options_that_cannot_be(
    options: list[str], text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(options)
    assert ended.value.code == 2
    assert text in capsys.readouterr().err


def test_the_command_says_which_value_it_cannot_take(capsys: pytest.CaptureFixture[str]) -> None:
    for options, text in (
        (["--speed", "0"], "speed must be"),
        (["--limit", "messaging=0"], "limits.messaging must be"),
        (["--webhook", "nowhere"], "url must begin with http"),
    ):
        assert main(options) == 2
        assert text in capsys.readouterr().err
    assert main(["--webhook", "http://127.0.0.1:1/", "--verify-token", "x"]) == 1
    assert "did not answer the handshake" in capsys.readouterr().err

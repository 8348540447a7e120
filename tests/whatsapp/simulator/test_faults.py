"""Each fault as a client meets it, and what the book says about it afterwards."""

from __future__ import annotations

import asyncio
import itertools
import json
import math
from typing import Any

import aiohttp
import pytest

from resilience_whatsapp.simulator import Fault, FaultError, ManualClock, Simulator

TEXT = {"messaging_product": "whatsapp", "to": "+33612345678", "type": "text", "text": {"body": "hi"}}


def run(story: Any, **options: Any) -> Any:
    async def inside() -> Any:
        async with Simulator(**options) as simulator:
            async with aiohttp.ClientSession(headers={"Authorization": f"Bearer {simulator.token}"}) as session:
                return await story(simulator, session)

    return asyncio.run(inside())


def url(simulator: Simulator) -> str:
    return f"{simulator.base_url}/v25.0/{simulator.phone_number_id}/messages"


async def send(simulator: Simulator, session: aiohttp.ClientSession, payload: Any = TEXT, **options: Any) -> Any:
    async with session.post(url(simulator), json=payload, **options) as response:
        return response.status, response.headers, await response.text()


async def until(condition: Any) -> None:
    while not condition():
        await asyncio.sleep(0)


@pytest.mark.parametrize(
    ("fault", "status", "content_type", "body", "booked"),
    [
        (Fault("html"), 502, "text/html", "<h1>502</h1>", 0),
        (Fault("html", status=503, accepted=True), 503, "text/html", "<h1>503</h1>", 1),
        (Fault("malformed"), 200, "application/json", '{"messaging_product"', 1),
        (Fault("no_messages"), 200, "application/json", "{}", 1),
        (Fault("string_error"), 500, "application/json", '{"error": "Something went wrong"}', 0),
        (Fault("empty", status=204), 204, None, "", 0),
        (Fault("empty", accepted=True), 500, None, "", 1),
        (Fault("json", body={"error": {}}), 400, "application/json", '{"error": {}}', 0),
        (Fault("json", status=200, body=[None], accepted=True), 200, "application/json", "[null]", 1),
    ],
    ids=lambda value: value.kind if isinstance(value, Fault) else "",
)
def test_odd_answers(fault: Fault, status: int, content_type: str | None, body: str, booked: int) -> None:
    async def story(simulator: Simulator, session: aiohttp.ClientSession) -> None:
        simulator.script(fault)
        got, headers, text = await send(simulator, session)
        assert got == status
        assert body in text
        if content_type is not None:
            assert headers["Content-Type"].startswith(content_type)
        assert [entry.answered for entry in simulator.book.entries] == [False] * booked
        if fault.kind == "malformed":
            with pytest.raises(json.JSONDecodeError):
                json.loads(text)
        assert (await send(simulator, session))[0] == 200
        assert simulator.book.entries[-1].answered

    run(story)


@pytest.mark.parametrize(
    ("kind", "booked"), [("reset_before_read", 0), ("reset_after_accept", 1), ("hang_after_accept", 1)]
)
def test_connections_that_end_without_an_answer(kind: str, booked: int) -> None:
    async def story(simulator: Simulator, session: aiohttp.ClientSession) -> None:
        simulator.script(Fault(kind, seconds=0.01))
        with pytest.raises((aiohttp.ClientOSError, aiohttp.ServerDisconnectedError)):
            await send(simulator, session)
        assert [entry.answered for entry in simulator.book.entries] == [False] * booked
        assert simulator.book.requests["messages"] == 1

    run(story)


def test_a_reset_is_one_on_the_wire() -> None:
    async def story(simulator: Simulator, session: aiohttp.ClientSession) -> None:
        simulator.script(Fault("reset_before_read"))
        reader, writer = await asyncio.open_connection("127.0.0.1", simulator.port)
        writer.write(
            b"POST /v25.0/1/messages HTTP/1.1\r\nHost: x\r\nContent-Length: 99\r\n\r\n"
        )  # the body never comes
        with pytest.raises(ConnectionResetError):
            await reader.read()
        writer.close()

    run(story)


@pytest.mark.parametrize("kind", ["reset_before_read", "reset_after_accept", "delay", "error"])
def test_listings_meet_faults_too(kind: str) -> None:
    async def story(simulator: Simulator, session: aiohttp.ClientSession) -> None:
        simulator.script(Fault(kind, route="message_templates", seconds=0))
        address = f"{simulator.base_url}/v25.0/{simulator.waba_id}/message_templates"
        statuses: list[int | str] = []
        for _ in range(2):
            try:
                async with session.get(address) as response:
                    statuses.append(response.status)
            except (aiohttp.ClientOSError, aiohttp.ServerDisconnectedError):
                statuses.append("reset")
        assert statuses[-1] == 200
        assert simulator.book.entries == []

    run(story)


def test_a_message_whose_client_gave_up_is_booked_all_the_same() -> None:
    """That is what makes a read time-out ambiguous: a simulator that forgot it would hide every duplicate."""

    async def story(simulator: Simulator, session: aiohttp.ClientSession) -> None:
        simulator.script(Fault("delay", seconds=60.0))
        waiting = asyncio.create_task(send(simulator, session))
        await until(lambda: simulator.book.requests["messages"])
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        assert simulator._runner is not None
        server = simulator._runner.server
        assert server is not None
        async with asyncio.timeout(40):
            await until(lambda: all(each.transport is None for each in server.connections))
        assert simulator.book.entries == []
        assert isinstance(simulator.clock, ManualClock)
        await simulator.clock.advance(60.0)
        assert [entry.answered for entry in simulator.book.entries] == [False]

    run(story, clock=ManualClock())


def test_what_waits_when_the_server_dies_is_not_carried_out() -> None:
    async def story(simulator: Simulator, session: aiohttp.ClientSession) -> None:
        simulator.script(Fault("delay", seconds=3600))
        async with asyncio.timeout(40):
            waiting = asyncio.create_task(send(simulator, session))
            await until(lambda: simulator.book.requests["messages"])
            await simulator.stop_listening()
            with pytest.raises((aiohttp.ClientOSError, aiohttp.ServerDisconnectedError)):
                await waiting
            with pytest.raises(aiohttp.ClientConnectorError):
                await send(simulator, session)
            await simulator.start_listening()
            await simulator.start_listening()  # it listens already: nothing happens
            assert (await send(simulator, session))[0] == 200
        assert len(simulator.book.entries) == 1

    run(story)


def test_stopping_does_not_wait_for_delays() -> None:
    async def story() -> None:
        simulator = Simulator()
        await simulator.start()
        simulator.script(Fault("delay", seconds=3600), Fault("hang_after_accept", seconds=3600))
        async with aiohttp.ClientSession(headers={"Authorization": f"Bearer {simulator.token}"}) as session:
            waiting = [asyncio.create_task(send(simulator, session)) for _ in range(2)]
            await until(lambda: simulator.book.requests["messages"] == 2)
            async with asyncio.timeout(40):
                await simulator.stop()
            ends = await asyncio.gather(*waiting, return_exceptions=True)
        assert all(isinstance(end, (aiohttp.ClientOSError, aiohttp.ServerDisconnectedError)) for end in ends)
        await simulator.stop()  # stopped already

    asyncio.run(story())


def test_errors_come_with_status_code_and_headers() -> None:
    async def story(simulator: Simulator, session: aiohttp.ClientSession) -> None:
        usage = '{"1":[{"type":"whatsapp","call_count":100,"estimated_time_to_regain_access":2}]}'
        simulator.script(
            Fault("error", code=2),
            Fault("error", code=2, status=400, is_transient=False),
            Fault("error", code=80007, headers={"Retry-After": "7", "X-Business-Use-Case-Usage": usage}),
            Fault("error", code=190, subcode=463),
            Fault("error", code=424242, details="who knows"),
        )
        answers = [await send(simulator, session) for _ in range(5)]
        assert [status for status, _, _ in answers] == [503, 400, 400, 401, 400]
        errors = [json.loads(text)["error"] for _, _, text in answers]
        assert [error.get("is_transient") for error in errors] == [True, False, None, None, None]
        assert (answers[2][1]["Retry-After"], answers[2][1]["X-Business-Use-Case-Usage"]) == ("7", usage)
        assert errors[3]["error_subcode"] == 463
        assert errors[4]["error_data"]["details"] == "who knows"
        assert len({error["fbtrace_id"] for error in errors}) == 5

    run(story)


def test_faults_come_in_order_per_route_and_one_fault_may_be_scripted_often() -> None:
    again = Fault("error", code=4, times=2)

    async def story(simulator: Simulator, session: aiohttp.ClientSession) -> None:
        async def codes(count: int) -> list[int | None]:
            answers = [json.loads((await send(simulator, session))[2]) for _ in range(count)]
            return [answer.get("error", {}).get("code") for answer in answers]

        simulator.script(Fault("error", route="message_templates", code=80007), again, Fault("error", code=2))
        assert await codes(4) == [4, 4, 2, None]
        simulator.script(again)
        assert await codes(3) == [4, 4, None]
        assert again.times == 2
        simulator.script(Fault("error", route="*", code=1, times=None))
        simulator.script(again)
        assert await codes(2) == [1, 1]
        simulator.clear_faults()
        assert await codes(1) == [None]

    run(story)


def test_a_refused_message_is_not_booked_by_a_fault() -> None:
    async def story(simulator: Simulator, session: aiohttp.ClientSession) -> None:
        for kind in ("malformed", "no_messages", "delay"):
            simulator.script(Fault(kind, seconds=0))
            await send(simulator, session, {**TEXT, "type": "poll"})
        async with session.post(url(simulator), headers={"Authorization": "Bearer x"}, json=TEXT) as response:
            assert response.status == 401
        assert simulator.book.entries == []

    run(story)


def test_requests_are_numbered_by_arrival_not_by_acceptance() -> None:
    async def story(simulator: Simulator, session: aiohttp.ClientSession) -> None:
        simulator.script(Fault("delay", seconds=60.0))
        slow = asyncio.create_task(send(simulator, session, {**TEXT, "biz_opaque_callback_data": "slow"}))
        await until(lambda: simulator.book.requests["messages"])
        await send(simulator, session, {**TEXT, "biz_opaque_callback_data": "fast"})
        assert isinstance(simulator.clock, ManualClock)
        await simulator.clock.advance(60.0)
        await slow
        assert [(entry.opaque, entry.request) for entry in simulator.book.entries] == [("fast", 2), ("slow", 1)]

    run(story, clock=ManualClock())


def test_a_wamid_is_never_given_twice() -> None:
    async def story(simulator: Simulator, session: aiohttp.ClientSession) -> None:
        wamids = set()
        for number in itertools.count(1):
            await send(simulator, session)
            wamids |= {entry.wamid for entry in simulator.book.entries}
            assert len(wamids) == number
            if number == 4:
                break
            simulator.book.clear()

    run(story)


@pytest.mark.parametrize(
    ("options", "field"),
    [
        ({"kind": 5}, "kind"),
        ({"times": 1.0}, "times"),
        ({"times": -1}, "times"),
        ({"status": True}, "status"),
        ({"status": 600}, "status"),
        ({"code": None}, "code"),
        ({"subcode": True}, "subcode"),
        ({"is_transient": 1}, "is_transient"),
        ({"accepted": 0}, "accepted"),
        ({"seconds": math.nan}, "seconds"),
        ({"seconds": math.inf}, "seconds"),
        ({"seconds": True}, "seconds"),
        ({"headers": {"a": "b\r\nc: d"}}, "headers"),
        ({"headers": {"a b": "c"}}, "headers"),
        ({"headers": {5: "c"}}, "headers"),
        ({"headers": ["a"]}, "headers"),
        ({"details": 5}, "details"),
    ],
)
def test_what_cannot_be_scripted_is_refused_with_its_field(options: dict[str, Any], field: str) -> None:
    with pytest.raises(FaultError, match=rf"^fault\.{field} must be "):
        Fault(**{"kind": "error", **options})


def test_one_bad_row_scripts_none() -> None:
    async def story(simulator: Simulator, session: aiohttp.ClientSession) -> None:
        rows = [{"kind": "error"}, {"kind": "error", "seconds": "1"}]
        async with session.post(f"{simulator.base_url}/_sim/faults", json=rows) as response:
            assert response.status == 400
        assert (await send(simulator, session))[0] == 200

    run(story)

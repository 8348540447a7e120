"""The faults that break an answer on its way, and faults that come by share, by schedule, or with the whole server."""

from __future__ import annotations

import asyncio
import contextlib
import json
from typing import Any

import aiohttp
import pytest

from resilience_whatsapp.simulator import Fault, FaultError, Limits, ManualClock, SimClock, Simulator, SimulatorThread
from resilience_whatsapp.simulator.faults.scenarios import SCENARIOS
from tests.whatsapp.simulator.tools import TEXT, Api, clock_of, run, until

LOST = (aiohttp.ClientOSError, aiohttp.ServerDisconnectedError, aiohttp.ClientPayloadError)


def booked(api: Api) -> list[bool]:
    """For each message that was booked, whether it was answered."""
    return [entry.answered for entry in api.simulator.book.entries]


async def raw(api: Api) -> bytes:
    """The body of the answer to a send, as far as it comes."""
    url = f"{api.simulator.base_url}/v25.0/{api.simulator.phone_number_id}/messages"
    got = b""
    async with api.session.post(url, json=TEXT) as response:
        with pytest.raises(LOST):
            while True:
                got += await response.content.readany() or _nothing()
    return got


def _nothing() -> bytes:
    raise aiohttp.ServerDisconnectedError


# --- on the wire ----------------------------------------------------------------------------------


def test_an_answer_that_trickles_is_whole_in_the_end() -> None:
    async def story(api: Api) -> None:
        api.simulator.script(Fault("trickle", seconds=0.1, route="*", times=2))
        status, answer, _ = await api.send()
        assert (status, answer["messages"][0]["id"]) == (200, api.simulator.book.entries[0].wamid)
        assert booked(api) == [True]
        assert (await api.ask("GET", f"/v25.0/{api.simulator.phone_number_id}"))[1]["id"]

    run(story)


def test_who_cannot_wait_for_a_trickle_has_sent_a_message_all_the_same() -> None:
    async def story(api: Api) -> None:
        api.simulator.script(Fault("trickle", seconds=3600.0, times=2))
        for count in (1, 2):
            waiting = asyncio.create_task(patient(api))
            await until(lambda count=count: len(api.simulator.book.entries) == count)
            if count == 1:
                waiting.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await waiting
            else:
                await api.simulator.stop_listening()
                with pytest.raises(LOST):
                    await waiting
        assert booked(api) == [False, False]

    run(story)


async def patient(api: Api) -> None:
    url = f"{api.simulator.base_url}/v25.0/{api.simulator.phone_number_id}/messages"
    async with api.session.post(url, json=TEXT) as response:
        await response.read()


@pytest.mark.parametrize(("size", "expected"), [(1, b"{"), (10_000, None)])
def test_an_answer_is_cut_after_some_bytes(size: int, expected: bytes | None) -> None:
    async def story(api: Api) -> None:
        api.simulator.script(Fault("cut_after_accept", size=size, seconds=0.01))
        got = await raw(api)
        if expected is None:
            assert got.endswith(b"}]"), "never the whole answer"
        else:
            assert got == expected
        assert booked(api) == [False]

    run(story)


def test_a_small_body_may_unpack_to_a_large_one() -> None:
    async def story(api: Api) -> None:
        api.simulator.script(Fault("gzip_bomb", size=3_000_000))
        url = f"{api.simulator.base_url}/v25.0/{api.simulator.phone_number_id}/messages"
        async with api.session.post(url, json=TEXT) as response:
            assert response.status == 500
            assert int(response.headers["Content-Length"]) < 10_000
            assert len(await response.read()) == 3_000_000
        assert booked(api) == []

    run(story)


def test_a_huge_body_comes_as_long_as_somebody_reads() -> None:
    async def story(api: Api) -> None:
        api.simulator.script(
            Fault("huge", size=200_000, accepted=True),
            Fault("huge", size=500_000_000, status=200),
            Fault("huge", size=5),
        )
        url = f"{api.simulator.base_url}/v25.0/{api.simulator.phone_number_id}/messages"
        async with api.session.post(url, json=TEXT) as response:
            assert (response.status, len(await response.read())) == (500, 200_000)
        async with api.session.post(url, json=TEXT) as response:
            assert response.status == 200
            await response.content.read(100_000)
            response.close()
        async with api.session.post(url, json=TEXT) as response:
            assert await response.read() == b'{"err'
        assert booked(api) == [False]

    run(story)


def test_an_envelope_may_lack_its_code() -> None:
    async def story(api: Api) -> None:
        api.simulator.script(Fault("no_code"), Fault("no_code", status=400, accepted=True))
        for expected in (500, 400):
            status, answer, _ = await api.send()
            assert (status, "code" in answer["error"], "message" in answer["error"]) == (expected, False, True)
        assert booked(api) == [False]

    run(story)


def test_usage_headers_can_be_made_up() -> None:
    async def story(api: Api) -> None:
        for percent in (80, 95, 100):
            api.simulator.script(Fault("usage", percent=percent, seconds=180.0))
            status, _, headers = await api.send()
            row = json.loads(headers["X-Business-Use-Case-Usage"])[api.simulator.waba_id][0]
            assert (status, row["call_count"], row["estimated_time_to_regain_access"]) == (200, percent, 3)
            assert json.loads(headers["X-App-Usage"])["call_count"] == percent
        assert booked(api) == [True] * 3

    run(story, limits=Limits(throughput=3.0, usage_from=1.0))


# --- when -----------------------------------------------------------------------------------------


def test_a_brown_out_hits_its_share_and_the_same_seed_hits_the_same() -> None:
    def hits(seed: int) -> list[bool]:
        async def story(api: Api) -> list[bool]:
            api.simulator.script(Fault("error", code=131016, share=0.25, times=None))
            return [await api.code() is not None for _ in range(200)]

        return run(story, seed=seed)

    first = hits(7)
    assert 30 <= sum(first) <= 70
    assert hits(7) == first
    assert hits(8) != first


def test_a_fault_begins_and_ends_by_the_clock() -> None:
    async def story(api: Api) -> None:
        api.simulator.script(Fault("error", code=2, at=30.0, lasts=60.0, times=None), Fault("error", code=4, lasts=1.0))
        seen = [await api.code()]
        for seconds in (29.0, 1.0, 59.0, 1.0):
            await clock_of(api).advance(seconds)
            seen.append(await api.code())
        assert seen == [4, None, 2, 2, None]
        assert len(api.simulator.faults) == 0

    run(story, clock=ManualClock())


def test_a_fault_may_be_that_of_one_number_alone() -> None:
    async def story(api: Api) -> None:
        first, second = api.simulator.world.numbers
        api.simulator.script(
            Fault("error", code=4, object_id=second, times=None), Fault("fail_later", code=131026, object_id=first)
        )
        assert [await api.code(phone=number) for number in (first, second, first)] == [None, 4, None]
        assert [entry.failed for entry in api.simulator.book.entries] == [131026, None]

    run(story, numbers=2)


def test_the_whole_api_is_dead_for_a_while_and_comes_back() -> None:
    async def story(api: Api) -> None:
        api.simulator.script(Fault("dead", at=30.0, lasts=60.0))
        await clock_of(api).advance(30.0)
        await until(lambda: api.simulator._site is None)
        with pytest.raises(aiohttp.ClientConnectorError):
            await api.code()
        await clock_of(api).advance(60.0)
        await until(lambda: api.simulator._site is not None)
        assert await api.code() is None
        api.simulator.script(Fault("dead", at=1.0, lasts=1.0))
        api.simulator.clear_faults()
        await clock_of(api).advance(10.0)
        assert await api.code() is None

    run(story, clock=ManualClock())


def test_a_death_may_be_scripted_before_the_start() -> None:
    async def story() -> None:
        simulator = Simulator(clock=ManualClock())
        simulator.script(Fault("dead", at=5.0, lasts=1.0), Fault("error", code=4))
        async with simulator, asyncio.timeout(40):
            assert isinstance(simulator.clock, ManualClock)
            await simulator.clock.advance(5.0)
            await until(lambda: simulator._site is None)
        await simulator.start()
        await simulator.stop()

    asyncio.run(story())


def test_the_script_of_requests_has_no_death() -> None:
    with pytest.raises(FaultError, match="server dies by itself"):
        Simulator().faults.add([Fault("dead", lasts=1.0)])


@pytest.mark.parametrize(
    ("options", "field"),
    [
        ({"share": 0}, "share"),
        ({"share": 1.5}, "share"),
        ({"share": True}, "share"),
        ({"at": -1}, "at"),
        ({"lasts": "1"}, "lasts"),
        ({"kind": "dead"}, "lasts"),
        ({"size": 0}, "size"),
        ({"size": 1.5}, "size"),
        ({"percent": 0}, "percent"),
        ({"to": 5}, "to"),
        ({"object_id": 5}, "object_id"),
    ],
)
def test_what_cannot_be_scripted_is_refused_with_its_field(options: dict[str, Any], field: str) -> None:
    with pytest.raises(FaultError, match=rf"^fault\.{field} must be "):
        Fault(**{"kind": "error", **options})


def test_answers_get_lost_in_the_scenario_of_that_name_and_in_none_about_webhooks() -> None:
    def lost(name: str) -> int:
        async def story(api: Api) -> int:
            api.simulator.script(*SCENARIOS[name])
            for _ in range(60):
                with contextlib.suppress(aiohttp.ClientError):
                    await patient(api)
            assert len(api.simulator.book.entries) == 60
            return booked(api).count(False)

        return run(story, seed=3, speed=600.0)

    told = {name: lost(name) for name in ("answers-lost", "webhooks-unruly", "unpaid", "undeliverable")}
    assert told["answers-lost"] > 0
    assert told["webhooks-unruly"] == told["unpaid"] == told["undeliverable"] == 0


def test_chaos_is_all_that_goes_wrong_together() -> None:
    parts = ("answers-lost", "brown-out", "outage", "webhooks-unruly")
    assert all(fault in SCENARIOS["chaos"] for name in parts for fault in SCENARIOS[name])
    assert len(SCENARIOS["chaos"]) == sum(len(SCENARIOS[name]) for name in parts)


# --- time -----------------------------------------------------------------------------------------


def test_time_passes_so_many_times_as_fast() -> None:
    async def story() -> float:
        clock = SimClock(1000.0)
        before = clock.now()
        await clock.sleep(100.0)
        return clock.now() - before

    assert 100.0 <= asyncio.run(story()) < 5000.0
    for speed in (0, -1.0, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="speed must be"):
            SimClock(speed)


def test_a_manual_clock_does_all_that_is_due_in_its_order() -> None:
    async def story() -> list[Any]:
        clock, done = ManualClock(start=0.0), list[Any]()
        clock.call_later(3.0, lambda: done.append(("third", clock.now())))
        clock.call_later(1.0, lambda: done.append(("first", clock.now())))
        clock.call_later(2.0, lambda: done.append("never")).cancel()
        clock.call_later(1.0, lambda: clock.call_later(1.0, lambda: done.append(("second", clock.now()))))
        await clock.advance(3.0)
        await clock.advance(0.5)
        return [*done, clock.now()]

    assert asyncio.run(story()) == [("first", 1.0), ("second", 2.0), ("third", 3.0), 3.5]


def test_a_thread_can_do_all_of_it() -> None:
    with SimulatorThread(speed=60.0) as simulator:
        assert simulator.inbound("33612345678", "Hi").startswith("wamid.")
        simulator.do(lambda api: api.block(131031, seconds=1.0))
        assert simulator.report().accepted == 0
        simulator.subscribe("http://127.0.0.1:1/")
        assert len(simulator.simulator.webhooks.receivers) == 1
        with pytest.raises(TypeError, match="ManualClock"):
            simulator.advance(1.0)
    with SimulatorThread(clock=ManualClock(start=0.0)) as simulator:
        simulator.advance(5.0)
        assert simulator.simulator.clock.now() == 5.0

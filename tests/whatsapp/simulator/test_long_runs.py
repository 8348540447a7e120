"""Runs of days with many messages: seeds that hold, deaths that overlap, dead receivers, memory that ends."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from resilience_whatsapp.simulator import Fault, Limits, ManualClock, Simulator
from resilience_whatsapp.simulator.faults.script import Script
from resilience_whatsapp.simulator.limits.limiter import DAY, Limiter
from resilience_whatsapp.simulator.limits.meters import Kept, Pairs, PerUser
from resilience_whatsapp.simulator.report import report_of
from resilience_whatsapp.simulator.webhooks.delivery import POSTS
from tests.whatsapp.simulator.tools import USER, Api, clock_of, receiver, run, until

# --- seeds ------------------------------------------------------------------------------------------------------------


def test_whether_anybody_is_told_by_webhook_does_not_change_which_requests_meet_a_fault() -> None:
    def hits(told: bool) -> list[bool]:
        async def story(api: Api) -> list[bool]:
            api.simulator.script(
                Fault("error", code=131016, share=0.4, times=None), Fault("webhook_lost", share=0.9, times=None)
            )
            if told:
                await api.simulator.subscribe("http://127.0.0.1:1/")
            return [await api.code() is not None for _ in range(40)]

        return run(story, seed=7, clock=ManualClock())

    assert hits(told=True) == hits(told=False)


def test_a_fault_whose_time_is_over_is_forgotten_whichever_ends_first() -> None:
    clock = ManualClock(start=0.0)
    script = Script(clock, "seed")
    script.add(Fault("error", lasts=seconds, times=None, route="media") for seconds in (30.0, 10.0, 20.0))
    left = []
    for _ in range(4):
        left.append(len(script))
        asyncio.run(clock.advance(10.0))
    assert left == [3, 2, 1, 0]


# --- deaths -----------------------------------------------------------------------------------------------------------


def listens(simulator: Simulator) -> bool:
    return simulator._site is not None


async def passed(api: Api, seconds: float) -> bool:
    await clock_of(api).advance(seconds)
    return listens(api.simulator)


def test_a_server_that_is_dead_comes_back_when_its_faults_are_cleared() -> None:
    async def story(api: Api) -> None:
        api.simulator.script(Fault("dead", lasts=3600.0))
        assert not await passed(api, 1.0)
        api.simulator.clear_faults()
        await until(lambda: listens(api.simulator))
        assert await api.code() is None
        await api.simulator.stop_listening()
        api.simulator.clear_faults()
        assert not await passed(api, 1.0), "who stopped it by hand starts it by hand"

    run(story, clock=ManualClock())


def test_of_deaths_that_overlap_the_last_one_decides() -> None:
    async def story(api: Api) -> None:
        api.simulator.script(Fault("dead", at=1.0, lasts=10.0), Fault("dead", at=5.0, lasts=20.0))
        assert [await passed(api, seconds) for seconds in (0.5, 1.0, 10.0, 10.0, 5.0)] == [
            True,
            False,
            False,
            False,
            True,
        ]

    run(story, clock=ManualClock())


def test_a_death_without_a_length_is_over_at_once() -> None:
    async def story(api: Api) -> None:
        api.simulator.script(Fault("dead", lasts=0.0))
        await clock_of(api).advance(0.0)
        await until(lambda: listens(api.simulator))
        assert await api.code() is None

    run(story, clock=ManualClock())


# --- receivers that never answer --------------------------------------------------------------------------------------


def test_bodies_that_are_sent_again_do_not_come_all_at_once() -> None:
    async def story(api: Api) -> None:
        async with receiver() as hook:
            hook.answers = [500] * 20
            await api.simulator.subscribe(hook.url)
            for count in range(1, 21):
                api.simulator.inbound(USER)
                await hook.until(count)
            await until(lambda: api.simulator.webhooks.so_far().repeated == 20)
            hook.stuck = asyncio.Event()
            await clock_of(api).advance(5.0)
            await hook.until(20 + POSTS)
            assert api.simulator.webhooks.so_far().pending == 20
            hook.stuck.set()
            await hook.until(40)
            await until(lambda: api.simulator.webhooks.so_far().pending == 0)
            assert len(hook.bodies) == 40

    run(story, clock=ManualClock())


def test_what_waits_for_a_dead_receiver_is_bounded_and_the_oldest_is_forgotten() -> None:
    async def story(api: Api) -> None:
        await api.simulator.subscribe("http://127.0.0.1:1/")
        for index in range(8):
            api.simulator.inbound(USER, str(index))
            await until(lambda index=index: api.simulator.webhooks.so_far().failed == index + 1)
        await until(lambda: api.simulator.webhooks.so_far().pending == 5)
        so_far = api.simulator.webhooks.so_far()
        assert (so_far.told, so_far.dropped) == (8, 3)
        async with receiver() as hook:
            await api.simulator.subscribe(hook.url)
            api.simulator.webhooks.unsubscribe("http://127.0.0.1:1/")
            await clock_of(api).advance(5.0)
            await hook.until(5)
            texts = [message["text"]["body"] for value in hook.values() for message in value["messages"]]
            assert sorted(texts) == ["3", "4", "5", "6", "7"]
            await until(lambda: api.simulator.webhooks.so_far().pending == 0)

    run(story, clock=ManualClock(), webhook_backlog=5)


def test_what_waits_for_a_receiver_that_hangs_is_bounded() -> None:
    async def story(api: Api) -> None:
        async with receiver() as hook:
            hook.stuck = asyncio.Event()
            await api.simulator.subscribe(hook.url)
            for count in range(POSTS):
                api.simulator.inbound(USER)
                await hook.until(count + 1)
            for _ in range(24):
                api.simulator.inbound(USER)
            so_far = api.simulator.webhooks.so_far()
            assert (so_far.dropped, so_far.pending) == (4, POSTS + 20), "ten times the two that may be repeated"
            hook.stuck.set()
            await until(lambda: api.simulator.webhooks.so_far().pending == 0)

    run(story, clock=ManualClock(), webhook_backlog=2, webhook_batch=1)


def test_a_body_that_is_due_can_still_be_forgotten() -> None:
    async def story(api: Api) -> None:
        async with receiver() as hook:
            hook.answers = [500] * (POSTS + 2)
            await api.simulator.subscribe(hook.url)
            for count in range(1, POSTS + 3):
                api.simulator.inbound(USER, str(count))
                await hook.until(count)
            await until(lambda: api.simulator.webhooks.so_far().repeated == POSTS + 2)
            hook.stuck = asyncio.Event()
            await clock_of(api).advance(5.0)  # eight of them are under way, two are due
            await hook.until(2 * POSTS + 2)
            old, hook.stuck = hook.stuck, None
            hook.answers = [500] * (POSTS + 2)
            for count in range(POSTS + 2):  # as many that fail as may be kept: those that were due are forgotten
                api.simulator.inbound(USER, "new")
                await hook.until(2 * POSTS + 3 + count)
            await until(lambda: api.simulator.webhooks.so_far().dropped == 2)
            old.set()
            await until(lambda: api.simulator.webhooks.so_far().pending == POSTS + 2)
            assert len(hook.bodies) == 3 * POSTS + 4, "what was forgotten is not sent"

    run(story, clock=ManualClock(), webhook_backlog=POSTS + 2, webhook_batch=1)


# --- memory -----------------------------------------------------------------------------------------------------------


def test_what_is_over_is_forgotten_when_much_is_kept() -> None:
    kept = Kept[int, float](lambda ends, now: ends <= now)
    for number in range(100_000):
        kept.put(number, number + 10.0, float(number))
        assert len(kept) <= 2048
    assert kept.get(99_999) == 100_009.0
    assert kept.get(99_990) is not None
    assert kept.get(0) is None


@pytest.mark.parametrize("strict", [False, True])
def test_pairs_that_have_paid_back_are_forgotten(strict: bool) -> None:
    pairs = Pairs(6.0, 45, strict)
    for number in range(20_000):
        pairs.take(("1", str(number)), float(number))
    assert len(pairs._debts) <= 2048


def test_users_are_forgotten_a_day_after_their_last_marketing_message() -> None:
    limiter = Limiter(Limits(marketing=2))
    for number in range(5_000):
        assert not limiter.marketing(str(number), number * 60.0)
    assert len(limiter._marketing._times) <= 2 * DAY / 60.0
    now = 5_000 * 60.0
    assert [limiter.marketing("a", now), limiter.marketing("a", now + 1), limiter.marketing("a", now + 2)] == [
        False,
        False,
        True,
    ]
    assert limiter._marketing.wait("a", 2, now + 2) == DAY - 2
    assert not limiter.marketing("a", now + DAY)


def test_the_wait_of_one_user_ends_when_the_oldest_that_counts_leaves_the_window() -> None:
    users = PerUser(10.0)
    for now in (0.0, 1.0, 2.0):
        users.take("a", now)
    assert [users.wait("a", limit, 3.0) for limit in (4, 3, 2, 1)] == [0.0, 7.0, 8.0, 9.0]


# --- large books ------------------------------------------------------------------------------------------------------


def test_a_book_can_be_read_in_parts() -> None:
    async def story(api: Api) -> None:
        for index in range(5):
            await api.send(biz_opaque_callback_data=str(index))
        _, part, _ = await api.ask("GET", "/_sim/book?first=3&limit=10")
        assert [row["opaque"] for row in part["entries"]] == ["3", "4"]
        _, part, _ = await api.ask("GET", "/_sim/book?first=1&limit=1")
        assert ([row["opaque"] for row in part["entries"]], part["accepted"]) == (["1"], 5)
        for query in ("first=-1", "limit=x", "limit=-1"):
            assert (await api.ask("GET", f"/_sim/book?{query}"))[0] == 400

    run(story)


def test_a_report_does_not_keep_others_waiting_and_is_that_of_its_moment(monkeypatch: pytest.MonkeyPatch) -> None:
    async def story(api: Api) -> None:
        await api.send(biz_opaque_callback_data="a")
        loop, asked, go_on = asyncio.get_running_loop(), asyncio.Event(), asyncio.Event()

        def slow(*arguments: Any) -> Any:
            loop.call_soon_threadsafe(asked.set)
            asyncio.run_coroutine_threadsafe(go_on.wait(), loop).result()
            return report_of(*arguments)

        monkeypatch.setattr("resilience_whatsapp.simulator.api.report_of", slow)
        waiting = asyncio.create_task(api.ask("POST", "/_sim/report", {"records": {"a": "sent"}}))
        await asked.wait()
        await api.send(biz_opaque_callback_data="b")
        go_on.set()
        report = (await waiting)[1]
        assert (report["accepted"], report["compared"]["unrecorded"]) == (1, 0)

    run(story)


def test_what_was_told_can_be_asked_for_alone() -> None:
    async def story(api: Api) -> None:
        async with receiver() as hook:
            await api.simulator.subscribe(hook.url)
            api.simulator.inbound(USER)
            await hook.until(1)
            await until(lambda: api.simulator.webhooks.so_far().pending == 0)
            told = (await api.ask("GET", "/_sim/webhooks"))[1]
            assert (told["told"], told["posts"], told["pending"]) == (1, 1, 0)
            assert told == (await api.ask("GET", "/_sim/report"))[1]["webhooks"]

    run(story)

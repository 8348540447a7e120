"""One rate limit, one set of slots and one budget for many members, on a real Redis."""

from __future__ import annotations

import asyncio
import functools
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest
import trio

from resilience_core import (
    Bulkhead,
    BulkheadFullError,
    CallRejected,
    ConfigurationError,
    InFlightRatio,
    Judgement,
    RateLimitedError,
    RateLimiter,
    Retry,
    RetryBudget,
    TokenQuota,
    TokenThrottle,
    TrafficRatio,
    Verdict,
    deadline,
)
from resilience_core._machines.bucket import Bucket
from resilience_core.fleet._link import Request
from resilience_core.redis import RedisFleet
from resilience_core.redis._link import RedisLink
from tests.fleet.members import PATIENCE, Fleets, run_in, wait_until
from tests.worlds import World

SECRET = "sixteen characters, and more"


def admitted(policy: Any, *args: Any, times: int = 1) -> int:
    """How many of so many calls were made."""
    made = 0
    for _ in range(times):
        try:
            policy.call(lambda *args: None, *args)
        except CallRejected:
            continue
        made += 1
    return made


def limiters(fleets: Fleets, count: int, **options: Any) -> list[RateLimiter]:
    settings = {"rate": 1.0, "per": 100.0, "burst": 10, **options}
    return [RateLimiter("sms", fleet=fleet, **settings) for fleet in fleets.members(count, secret=SECRET)]


# --- the rate limiter --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("strict", [True, False])
def test_the_limit_is_one_for_all(fleets: Fleets, strict: bool) -> None:
    first, second, third = limiters(fleets, 3, strict=strict)
    made = [admitted(limiter, times=2) for limiter in (first, second, third) for _ in range(4)]
    assert sum(made) == 10 if strict else 8 <= sum(made) <= 10  # the others are at the hand of one member
    with pytest.raises(RateLimitedError) as caught:
        third.call(print)
    assert 0 < caught.value.retry_after <= 100


@pytest.mark.parametrize("strict", [True, False])
def test_all_worlds_get_their_permits(fleets: Fleets, world: World, strict: bool) -> None:
    first, second = limiters(fleets, 2, strict=strict)
    assert admitted(second, times=4) == 4

    async def call() -> str:
        return "ok"

    guarded = world.guard(first, call)

    async def story() -> int:
        made = 0
        for _ in range(12):
            try:
                await guarded()
                made += 1
            except RateLimitedError:
                pass
        return made

    made = run_in(world, story)
    assert made == 6 if strict else 4 <= made <= 6


def test_many_threads_and_members_never_get_more_than_there_are(fleets: Fleets) -> None:
    members = limiters(fleets, 3, burst=200)
    made = [0] * 9

    def work(number: int) -> None:
        made[number] = admitted(members[number % 3], times=60)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(9)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(made) <= 200 + 5  # what comes anew while the test runs
    assert all(limiter.fleet.flush(PATIENCE) for limiter in members)  # the last batches have come
    wait_until(lambda: not any(limiter._shared._holding for limiter in members), "unused permits are given back")
    assert all(limiter.fleet.flush(PATIENCE) for limiter in members)
    (newcomer,) = limiters(fleets, 1, burst=200)  # who has not been told to wait
    assert admitted(newcomer, times=200) + sum(made) >= 200, "and none is lost"


def test_a_strict_limit_asks_once_for_each_call(fleets: Fleets) -> None:
    (limiter,) = limiters(fleets, 1, strict=True, burst=50)
    admitted(limiter)
    before = limiter.fleet.snapshot()["commands"]
    assert admitted(limiter, times=20) == 20
    assert limiter.fleet.snapshot()["commands"] - before == 20


def test_batches_ask_far_less_often(fleets: Fleets) -> None:
    (limiter,) = limiters(fleets, 1, burst=4_000)
    assert admitted(limiter, times=2_000) == 2_000
    assert limiter.fleet.snapshot()["commands"] < 500


def test_unused_permits_go_back(fleets: Fleets) -> None:
    first, second = limiters(fleets, 2, burst=64)
    used = admitted(first, times=20)
    assert first.fleet.flush(PATIENCE)  # the last batch has come
    wait_until(lambda: first._bucket.left == 0 and not first._shared._holding)
    assert first.fleet.flush(PATIENCE)  # they are on their way
    assert used + admitted(second, times=64) == 64


def test_a_member_that_leaves_gives_its_permits_back(fleets: Fleets, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "resilience_core.fleet._limiter.BATCH_LASTS", PATIENCE
    )  # none goes back by itself before it leaves
    first, second = limiters(fleets, 2, burst=64)
    used = admitted(first, times=20)
    wait_until(lambda: first._bucket.left > 0)
    left = first._bucket.left
    first.fleet.close()
    assert left > 0
    assert used + admitted(second, times=64) == 64


def test_every_key_has_a_limit_of_its_own_and_redis_sees_none(fleets: Fleets) -> None:
    first, second = limiters(fleets, 2, strict=True, burst=2, key=lambda user: user)
    assert [admitted(first, "+33612345678"), admitted(second, "+33612345678"), admitted(first, "+33612345678")] == [
        1,
        1,
        0,
    ]
    assert admitted(second, "ann") == 1
    keys = fleets.written()
    assert len(keys) == 2
    assert all(key.startswith(f"{fleets.prefix}rc:{{{fleets.prefix}rate_limiter:sms}}:") for key in keys)
    assert not any("336" in key or "ann" in key for key in keys)
    other = RateLimiter("other", rate=1, fleet=fleets.member(secret=SECRET), strict=True, key=lambda user: user)
    admitted(other, "ann")
    tails = {key.rpartition(":")[2] for key in fleets.written()}
    assert len(tails) == 3, "one user is not recognised from limiter to limiter"


def test_keys_must_be_written_alike_by_all_processes(fleets: Fleets) -> None:
    (limiter,) = limiters(fleets, 1, key=lambda user: user)
    assert admitted(limiter, ("tenant", 7, None, 1.5, b"x", True)) == 1
    with pytest.raises(
        ConfigurationError, match=r"key must answer text, bytes, a number or a tuple of them.*not a object"
    ):
        limiter.call(lambda user: None, object())


def test_waits_for_its_turn_as_the_store_says(fleets: Fleets) -> None:
    first, second = limiters(fleets, 2, rate=20, per=1, burst=1, max_wait=5, strict=True)
    started = time.monotonic()
    assert admitted(first, times=3) + admitted(second, times=3) == 6
    assert time.monotonic() - started >= 0.24, "five of the six had to wait 50 ms each"


def test_a_pause_that_the_server_asks_for_is_everybodys(fleets: Fleets) -> None:
    def throttled() -> None:
        raise ZeroDivisionError

    asked = Judgement(Verdict.THROTTLED, retry_after=60.0)
    first, second = limiters(fleets, 2, strict=True, classify=lambda error: asked)
    with pytest.raises(ZeroDivisionError):
        first.call(throttled)
    assert first.fleet.flush(PATIENCE)
    with pytest.raises(RateLimitedError) as caught:
        second.call(print)
    assert caught.value.retry_after == pytest.approx(60, abs=5)


def test_a_cancelled_caller_loses_no_permit(fleets: Fleets) -> None:
    (limiter,) = limiters(fleets, 1, strict=True, burst=10)
    admitted(limiter)

    async def cancelled() -> None:
        task = asyncio.ensure_future(limiter.acall(asyncio.sleep, 10))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    async def story() -> None:
        for _ in range(5):
            await cancelled()

    asyncio.run(story())
    wait_until(lambda: not limiter._shared._asked)
    assert limiter.fleet.flush(PATIENCE)
    assert admitted(limiter, times=20) >= 4, "permits of calls that were cancelled before they began came back"


def test_a_cancelled_trio_task_does_not_either(fleets: Fleets) -> None:
    (limiter,) = limiters(fleets, 1, strict=True, burst=3)

    async def story() -> None:
        for _ in range(6):
            with trio.move_on_after(0):
                await limiter.acall(trio.sleep, 10)

    trio.run(story)
    assert limiter.fleet.flush(PATIENCE)
    assert admitted(limiter, times=3) == 3


def test_shadow_mode_admits_beyond_the_limit(fleets: Fleets) -> None:
    (limiter,) = limiters(fleets, 1, strict=True, burst=1, enforce=0.0)
    assert admitted(limiter, times=4) == 4
    assert limiter.snapshot()["would_reject"] == 3


def test_another_rate_holds_at_once(fleets: Fleets) -> None:
    first, second = limiters(fleets, 2, strict=True, burst=5)
    assert admitted(first, times=9) == 5
    for limiter in (first, second):
        limiter.reconfigure(rate=1_000.0, per=1.0, burst=100)
    wait_until(lambda: admitted(second) == 1)
    assert first.snapshot()["available"] == 0


def test_a_limiter_at_rest_and_its_snapshot(fleets: Fleets) -> None:
    (limiter,) = limiters(fleets, 1, burst=100)
    assert limiter.at_rest()
    admitted(limiter, times=30)
    wait_until(limiter.at_rest, "what was not used went back")
    assert limiter.snapshot() == {"rate": 0.01, "available": 0, "keys": 0, "rejected": 0, "would_reject": 0}


def test_the_lua_law_is_the_machines_law(fleets: Fleets) -> None:
    """The same calls at the same times: the script and `Bucket` agree, but for what the script rounds."""
    link = RedisLink(fleets.url, 2.0)
    key = f"{fleets.prefix}rc:{{{fleets.prefix}rate_limiter:law}}"
    # Redis tells whole microseconds: a longest wait between two of them is never met exactly, so no rounding decides.
    interval, burst, most = 0.01, 3, 0.015_000_5
    bucket = Bucket(interval, burst)
    replies: list[tuple[Any, int]] = []
    for _ in range(200):
        args = (round(interval * 1e9), burst, round(most * 1e9), 1, 0, 0, 0, 0, "", 0)
        (reply,) = link.run([Request("take", key, args, lambda *_: None)])
        anchor, _, last, _ = map(int, fleets.client.get(key).split(":"))
        replies.append((reply, anchor * 10**9 + last))
    origin = replies[0][1]
    for (served, _, soonest, _, *waits), at in replies:
        wait = bucket.take((at - origin) / 1e9, most)
        if wait >= 0:
            assert served == 1
            assert waits[0] / 1e9 == pytest.approx(wait, abs=2e-6)
        else:
            assert served == 0
            assert soonest / 1e9 == pytest.approx(-1.0 - wait, abs=2e-6)
    link.close()


def script(fleets: Fleets, name: str, key: str, *args: Any) -> Any:
    link = RedisLink(fleets.url, 2.0)
    (reply,) = link.run([Request(name, key, args, lambda *_: None)])
    link.close()
    return reply


def take(fleets: Fleets, key: str, *, askers: int = 1, extra: int = 0, returned: int = 0, close: int = 0) -> Any:
    return script(fleets, "take", key, 10**9, 5, 0, askers, extra, returned, close, 0, "", 0)


def test_a_server_whose_clock_is_set_back_locks_nobody_out_and_resets_nothing(fleets: Fleets) -> None:
    key = f"{fleets.prefix}rc:{{{fleets.prefix}rate_limiter:back}}"
    assert take(fleets, key, askers=5)[0] == 5
    anchor, tat, last, closed = map(int, fleets.client.get(key).split(":"))
    hour = 3_600 * 10**9
    fleets.client.set(key, f"{anchor}:{tat + hour}:{last + hour}:{closed + hour}", px=60_000)  # written an hour ahead
    served, _, soonest, *_ = take(fleets, key)
    assert served == 0, "what was taken stays taken"
    assert soonest <= 1.1e9, "and the next permit comes in time"


def test_an_old_anchor_is_moved_without_a_loss(fleets: Fleets) -> None:
    key = f"{fleets.prefix}rc:{{{fleets.prefix}rate_limiter:old}}"
    assert take(fleets, key, askers=5)[0] == 5
    anchor, tat, last, closed = map(int, fleets.client.get(key).split(":"))
    weeks = 3_000_000
    fleets.client.set(key, f"{anchor - weeks}:{tat + weeks * 10**9}:{last + weeks * 10**9}:{closed}", px=60_000)
    assert take(fleets, key)[0] == 0
    assert int(fleets.client.get(key).split(":")[0]) >= anchor


@pytest.mark.parametrize("value", ["", "x", "1:2:3", "9" * 80, "1:9999999999999999:1:9999999999999999999"])
def test_no_value_closes_a_limit_for_long(fleets: Fleets, value: str) -> None:
    key = f"{fleets.prefix}rc:{{{fleets.prefix}rate_limiter:poison}}"
    fleets.client.set(key, value, px=60_000)
    served, _, soonest, *_ = take(fleets, key)
    assert served == 1 or soonest <= 86_400 * 10**9
    assert 0 < fleets.client.pttl(key) <= 86_400_000 + 1


def test_what_was_lost_cannot_be_given_back(fleets: Fleets) -> None:
    key = f"{fleets.prefix}rc:{{{fleets.prefix}rate_limiter:lost}}"
    take(fleets, key, askers=0, returned=100)
    assert take(fleets, key, askers=9)[0] == 5


# --- the bulkhead ------------------------------------------------------------------------------------------------


def bulkheads(fleets: Fleets, count: int, **options: Any) -> list[Bulkhead]:
    settings = {"max_concurrent": 4, **options}
    return [Bulkhead("db", fleet=fleet, **settings) for fleet in fleets.members(count)]


def entered(bulkhead: Bulkhead) -> Callable[[], None] | None:
    """Take a slot; how to give it back, or None where there is none."""
    guard = bulkhead.guard()
    try:
        guard.__enter__()
    except BulkheadFullError:
        return None
    return functools.partial(guard.__exit__, None, None, None)


def test_the_slots_are_those_of_all(fleets: Fleets) -> None:
    first, second = bulkheads(fleets, 2)
    held = [entered(bulkhead) for bulkhead in (first, second, first, second)]
    assert all(held)
    assert entered(first) is None
    assert entered(second) is None
    held[0]()
    wait_until(lambda: entered(second), "a slot that one gives back is the other's")
    assert first.snapshot()["rejected"] >= 1


@pytest.mark.parametrize("name", ["shop", "caf\u00e9 \udc80"])
def test_two_bulkheads_of_one_name_in_one_member_share_their_slots(fleets: Fleets, name: str) -> None:
    """The lease of the second took the place of the first one's: together they had twice the slots."""
    fleet = fleets.member(name)
    first, second = (Bulkhead("db", max_concurrent=4, fleet=fleet) for _ in range(2))
    held = [entered(bulkhead) for bulkhead in (first, second, first, second)]
    assert all(held)
    assert entered(first) is entered(second) is None
    assert fleet.connected


def test_who_has_all_slots_already_rejects_without_a_wait(fleets: Fleets, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each call too many waited 1.5 time-outs for slots that there are not, and had the store asked for them."""
    monkeypatch.setattr("resilience_core.fleet._bulkhead.IDLE", PATIENCE)
    bulkhead = Bulkhead("db", max_concurrent=2, fleet=fleets.member(timeout=PATIENCE))
    full = asyncio.Event()

    async def hold() -> None:
        await full.wait()

    async def call() -> bool:
        try:
            await bulkhead.acall(hold)
        except BulkheadFullError:
            full.set()
            return False
        return True

    async def story() -> list[bool]:
        return await asyncio.gather(*(call() for _ in range(3)))  # at once: none of them knows how many there are

    started = time.monotonic()
    assert sorted(asyncio.run(story())) == [False, True, True]
    held = [entered(bulkhead) for _ in range(2)]
    assert all(held)
    assert not any(entered(bulkhead) for _ in range(20))
    assert bulkhead._shared._wanting is False
    assert time.monotonic() - started < PATIENCE


def test_in_all_worlds_the_queue_gets_what_the_store_gives(fleets: Fleets, world: World) -> None:
    first, second = bulkheads(fleets, 2, max_queue=5, max_wait=10)
    held = [entered(second) for _ in range(3)]

    async def call() -> str:
        return "ok"

    guarded = world.guard(first, call)

    async def story() -> list[str]:
        return [await guarded() for _ in range(3)]

    assert run_in(world, story) == ["ok"] * 3
    assert all(held)


def test_slots_of_a_member_that_is_gone_come_back(fleets: Fleets, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("resilience_core.fleet._bulkhead.LEASE", 0.6)
    first, second = bulkheads(fleets, 2)
    held = [entered(first) for _ in range(4)]
    assert all(held)
    first.fleet.agent._stopping = True  # as dead: it neither renews nor says goodbye
    monkeypatch.setattr(first._shared, "goodbye", lambda now: [])
    first.fleet.agent.wake()
    wait_until(lambda: entered(second))


def test_a_member_that_comes_late_takes_what_is_free(fleets: Fleets, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its lease has lapsed while it was stopped: what it says of it takes nothing from others."""
    first, second = bulkheads(fleets, 2)
    held = [entered(first) for _ in range(4)]
    key = f"{fleets.prefix}rc:{{{fleets.prefix}bulkhead:db}}"
    fleets.client.delete(key)
    others = [wait_until(lambda: entered(second)) for _ in range(4)]
    assert all(held) and all(others)  # noqa: PT018
    first._shared._renew_at = 0.0
    first.fleet.agent.wake()
    wait_until(lambda: first._slots.size == 0)
    assert first._slots.debt == 4, "calls that run cannot be stopped"
    for give_back in held:
        give_back()
    assert entered(first) is None
    others[0]()
    wait_until(lambda: entered(first))


def test_a_member_at_rest_holds_no_slots(fleets: Fleets) -> None:
    first, second = bulkheads(fleets, 2)
    held = [entered(first) for _ in range(4)]
    for give_back in held:
        give_back()
    assert first._slots.size == 4
    assert all(wait_until(lambda: entered(second)) for _ in range(4)), "what others want is given up at once"
    wait_until(lambda: first._slots.size == 0)


def test_idle_slots_are_given_back_also_when_nobody_wants_them(fleets: Fleets) -> None:
    (first,) = bulkheads(fleets, 1)
    held = [entered(first) for _ in range(4)]
    for give_back in held:
        give_back()
    wait_until(lambda: first._slots.size == 0 and not fleets.written())


def test_another_size_holds_at_once(fleets: Fleets) -> None:
    first, second = bulkheads(fleets, 2)
    held = [entered(first) for _ in range(4)]
    for bulkhead in (first, second):
        bulkhead.reconfigure(max_concurrent=6)
    held += [wait_until(lambda: entered(second)) for _ in range(2)]
    assert all(held)
    assert entered(second) is None
    third = Bulkhead("db", max_concurrent=4, fleet=fleets.member())
    third.reconfigure(max_concurrent=5)  # before any call
    assert entered(third) is None


def test_a_guarded_call_in_shadow_mode_asks_for_slots_too(fleets: Fleets) -> None:
    (first,) = bulkheads(fleets, 1, enforce=0.0)
    assert admitted(first) == 1
    wait_until(lambda: first._slots.size > 0)


def test_poisoned_slots_are_removed(fleets: Fleets) -> None:
    key = f"{fleets.prefix}rc:{{{fleets.prefix}bulkhead:db}}"
    fleets.client.hset(key, mapping={"ghost": "ab:4:99999999999999", "x": "rubbish", "y": "a:9:1"})
    (first,) = bulkheads(fleets, 1)
    assert all(entered(first) for _ in range(4))
    assert fleets.client.hlen(key) == 1
    fleets.client.delete(key)
    fleets.client.set(key, "another type")
    first._shared._renew_at = 0.0
    first.fleet.agent.wake()
    wait_until(lambda: fleets.client.type(key) == "hash")


# --- the budget --------------------------------------------------------------------------------------------------


def budgets(fleets: Fleets, count: int, law: Any) -> list[RetryBudget]:
    made = [RetryBudget("retries", law=law, fleet=fleet) for fleet in fleets.members(count)]
    for budget in made:
        budget.began()
        wait_until(lambda budget=budget: budget._account.known)
    return made


def taken(budget: RetryBudget, times: int) -> int:
    """Retries that were granted; one that is refused is asked for again once the store has been asked."""
    made = 0
    for _ in range(times):
        granted = budget.take() is not None
        if not granted:
            assert budget.fleet.flush(PATIENCE)
            granted = budget.take() is not None
        made += granted
    return made


def assert_just(budget: RetryBudget, retries: int) -> None:
    """So many are granted in the end, and no more: on a slow machine a batch goes back before it is spent."""
    made = 0

    def all_made() -> bool:
        nonlocal made
        made += taken(budget, 1)
        return made >= retries

    wait_until(all_made)
    assert made + taken(budget, 10) == retries


def test_a_quota_is_one_for_all(fleets: Fleets) -> None:
    first, second = budgets(fleets, 2, TokenQuota(100, retry_cost=5))
    assert taken(first, 8) + taken(second, 20) <= 20
    wait_until(lambda: taken(first, 1) + taken(second, 1) == 0)
    assert first.snapshot()["granted"] + second.snapshot()["granted"] == 20


def test_a_success_gives_back_to_all(fleets: Fleets) -> None:
    first, second = budgets(fleets, 2, TokenQuota(10, retry_cost=5))
    assert wait_until(lambda: taken(first, 1))
    assert wait_until(lambda: taken(first, 1))
    wait_until(lambda: taken(second, 1) == 0)
    first.ended(True, 5.0, 1)
    wait_until(lambda: taken(second, 1) == 1, "what one earns another may spend")


def test_a_share_of_the_traffic_of_all(fleets: Fleets) -> None:
    law = TrafficRatio(0.1, minimum_per_second=0, ttl=1_000)
    first, second = budgets(fleets, 2, law)
    for _ in range(200):
        first.began()
    wait_until(lambda: float(stored(fleets).split(":")[0]) > 15)
    made = sum(taken(second, 1) for _ in range(60))
    assert 15 <= made <= 20


def stored(fleets: Fleets) -> str:
    return str(fleets.client.get(f"{fleets.prefix}rc:{{{fleets.prefix}retry_budget:retries}}"))


def test_a_level_is_one_for_all(fleets: Fleets) -> None:
    first, second = budgets(fleets, 2, TokenThrottle(10, token_ratio=1.0))
    assert second.take() == 0.0
    for _ in range(6):
        first.failed()
    assert first.take() is None
    wait_until(lambda: second.snapshot()["balance"] == 0 or second.failed() or second.take() is None)
    for _ in range(30):
        second.ended(True, 0.0, 0)
        first.ended(True, 0.0, 0)
    wait_until(lambda: first.take() == 0.0)


def test_tokens_that_are_not_spent_go_back(fleets: Fleets) -> None:
    first, second = budgets(fleets, 2, TokenQuota(50, retry_cost=5))
    assert taken(first, 3) == 3
    wait_until(lambda: stored(fleets).startswith("35."))
    assert_just(second, 7)


def test_a_member_that_leaves_gives_its_tokens_back(fleets: Fleets) -> None:
    first, second = budgets(fleets, 2, TokenQuota(50, retry_cost=5))
    assert taken(first, 5) == 5
    first.fleet.close()
    assert_just(second, 5)
    assert first.take() is not None, "and goes on with an account of its own"


def test_a_retry_spends_from_the_fleet(fleets: Fleets) -> None:
    (budget,) = budgets(fleets, 1, TokenQuota(10, retry_cost=5))
    retry = Retry(on=ZeroDivisionError, max_attempts=9, base_delay=0.01, jitter="none", budget=budget)
    calls = []

    @retry
    def boom() -> None:
        calls.append(1)
        assert budget.fleet.flush(PATIENCE)
        raise ZeroDivisionError

    for _ in range(6):
        with pytest.raises(ZeroDivisionError):
            boom()
    assert len(calls) == 6 + 2, "two retries were to be had in all"


def test_other_numbers_hold_at_once(fleets: Fleets) -> None:
    (budget,) = budgets(fleets, 1, TokenQuota(10, retry_cost=5))
    budget.reconfigure(law=TokenQuota(10, retry_cost=10))
    assert wait_until(lambda: taken(budget, 1)) == 1
    assert budget.snapshot()["granted"] == 1
    with pytest.raises(ConfigurationError, match="fleet cannot be changed"):
        budget.altered({"fleet": None})


# --- what is refused ---------------------------------------------------------------------------------------------


def test_what_cannot_be_is_refused_at_construction(fleets: Fleets) -> None:
    fleet = fleets.member()
    with pytest.raises(ConfigurationError, match=r"needs RedisFleet\(secret=...\)"):
        RateLimiter("sms", rate=1, key=lambda user: user, fleet=fleet)
    with pytest.raises(ConfigurationError, match="strict and fail_closed tell how a limit is shared"):
        RateLimiter("sms", rate=1, strict=True)
    with pytest.raises(ConfigurationError, match="fail_closed tells what to do without a fleet's store"):
        Bulkhead("db", max_concurrent=1, fail_closed=True)
    with pytest.raises(ConfigurationError, match="a fleet shares TrafficRatio, TokenQuota and TokenThrottle"):
        RetryBudget("retries", law=InFlightRatio(), fleet=fleet)
    for made in (
        lambda: RateLimiter("sms", rate=1, fleet="redis://"),
        lambda: Bulkhead("db", max_concurrent=1, fleet="redis://"),
        lambda: RetryBudget("retries", fleet="redis://"),
    ):
        with pytest.raises(ConfigurationError, match="fleet must be a RedisFleet"):
            made()


# --- what happens between a question and its answer ----------------------------------------------------------------


class Woken:
    """A waiter that nobody waits with."""

    def wake(self) -> bool:
        return True


def test_a_caller_that_is_cancelled_with_a_permit_in_his_hand_gives_it_back(fleets: Fleets) -> None:
    (limiter,) = limiters(fleets, 1, strict=True, burst=3)
    admitted(limiter)
    asking = limiter._bucket.ask(Woken())
    wait_until(lambda: asking._wait is not None)
    asking.abandon()
    assert limiter.fleet.flush(PATIENCE)
    assert admitted(limiter, times=5) == 2


def test_a_strict_limit_rejects_who_got_no_answer_in_time(fleets: Fleets) -> None:
    (limiter,) = limiters(fleets, 1, strict=True)
    admitted(limiter)
    asking = limiter._bucket.ask(Woken())
    assert asking.answer(limiter.clock.now(), 0.0) < 0 or asking._wait is not None
    assert limiter._bucket.unanswered(limiter.clock.now(), 0.0) == -1.0 - limiter._shared.patience
    (lenient,) = limiters(fleets, 1)
    admitted(lenient)
    assert lenient._bucket.unanswered(lenient.clock.now(), 0.0) == 0.0, "batches are not exact, so a local one may help"


def test_a_permit_that_a_deadline_leaves_no_time_for_goes_back(fleets: Fleets) -> None:
    (first,) = limiters(fleets, 1, rate=1.0, per=200.0, burst=1, max_wait=1_000.0, strict=True)
    admitted(first)
    with deadline(50.0), pytest.raises(RateLimitedError):
        first.call(print)
    assert first.fleet.flush(PATIENCE)
    (key,) = fleets.written()
    _, tat, last, _ = map(int, str(fleets.client.get(key)).split(":"))
    assert tat - last <= 200e9, "of two permits that were taken one went back"


def test_the_member_that_was_asked_for_a_pause_keeps_it_at_once(fleets: Fleets) -> None:
    asked = Judgement(Verdict.THROTTLED, retry_after=60.0)
    (limiter,) = limiters(fleets, 1, strict=True, classify=lambda error: asked)

    def throttled() -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        limiter.call(throttled)
    with pytest.raises(RateLimitedError) as caught:
        limiter.call(print)
    assert caught.value.retry_after == pytest.approx(60, abs=5)
    assert "as the server asked" in str(caught.value.explain())


def test_the_wait_is_told_as_far_as_the_process_knows_it(fleets: Fleets) -> None:
    first, second = limiters(fleets, 2, burst=2)
    assert first.wait_for() == 0.0
    while admitted(first):  # until the store has said that there is none
        pass
    assert first.wait_for() == pytest.approx(100, abs=10)
    second.spend()  # nothing is at hand, and nobody waits to find that out
    first.close_for(1_000.0)
    assert first.wait_for() == pytest.approx(1_000, abs=10)
    assert first.fleet.flush(PATIENCE)
    with pytest.raises(RateLimitedError) as caught:
        second.call(print)
    assert caught.value.retry_after == pytest.approx(1_000, abs=10)


def test_the_wait_of_a_process_by_itself_is_that_of_its_own_limit() -> None:
    limiter = RateLimiter("sms", rate=1.0, per=200.0, burst=1, fleet=RedisFleet("redis://127.0.0.1:1/0"))
    wait_until(lambda: admitted(limiter) == 0 and limiter._bucket.alone)
    assert limiter.wait_for() == pytest.approx(200, abs=10)
    limiter.spend()
    assert limiter.wait_for() == pytest.approx(400, abs=10)
    limiter.fleet.close()


def test_permits_at_hand_mean_no_wait(fleets: Fleets) -> None:
    (limiter,) = limiters(fleets, 1, rate=1_000.0, per=1.0, burst=1_000)
    wait_until(lambda: admitted(limiter, times=20) and limiter._bucket.left > 0)
    limiter._bucket.denied_until = limiter.clock.now() + 50.0
    left = limiter._bucket.left
    assert limiter.wait_for() == 0.0
    limiter.spend()
    assert limiter._bucket.left < left


def test_permits_of_a_process_by_itself_go_back_too() -> None:
    limiter = RateLimiter("sms", rate=1.0, per=2.0, burst=1, max_wait=5.0, fleet=RedisFleet("redis://127.0.0.1:1/0"))
    wait_until(lambda: admitted(limiter) == 1 and limiter._bucket.alone)
    with deadline(0.001), pytest.raises(RateLimitedError):
        limiter.call(print)
    limiter.fleet.close()


def test_blocks_are_guarded_by_a_shared_limit(fleets: Fleets) -> None:
    first, second = limiters(fleets, 2, strict=True, burst=2)
    with first.guard():
        pass

    async def story() -> None:
        async with second.guard():
            pass

    asyncio.run(story())
    with pytest.raises(RateLimitedError), first.guard():
        raise AssertionError("there were two permits")


def test_keys_that_are_forgotten_give_their_permits_back(fleets: Fleets) -> None:
    first, second = limiters(fleets, 2, burst=64, key=lambda user: user, max_keys=1)
    used = sum(admitted(first, "ann") for _ in range(20))
    admitted(first, "bob")
    wait_until(lambda: not first._shared._holding, "ann's bucket is forgotten here, but not what it holds")
    assert first.fleet.flush(PATIENCE)
    assert used + sum(admitted(second, "ann") for _ in range(64)) >= 60


def test_many_callers_of_one_loop_are_answered_in_one_batch(fleets: Fleets) -> None:
    (limiter,) = limiters(fleets, 1, strict=True, burst=10_000)
    admitted(limiter)
    before = limiter.fleet.snapshot()["commands"]

    async def story() -> None:
        await asyncio.gather(*(limiter.acall(asyncio.sleep, 0) for _ in range(3_000)))

    asyncio.run(story())
    assert limiter.fleet.snapshot()["commands"] - before < 1_500

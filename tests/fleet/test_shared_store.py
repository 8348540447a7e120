"""A store for stale caches that a fleet shares, with a real Redis."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import pytest
import trio

from resilience_core import ConfigurationError, RecordIgnored, StaleCache, StoreDegraded
from resilience_core.fleet import SharedStore, StoreFleet
from resilience_core.redis import RedisFleet
from resilience_core.testing import FaultProxy, VirtualClock
from tests._redis import HOST, RedisServer
from tests.fleet.members import PATIENCE, Fleets, run_in, wait_until
from tests.worlds import Script, World

SELDOM: dict[str, Any] = {"poll_interval": 9.0, "ttl": 100.0}


def key(fleets: Fleets) -> str:
    return f"{fleets.prefix}rc:{{{fleets.prefix}shared_store:prices}}"


def stores(fleets: Fleets, count: int, **options: Any) -> list[SharedStore]:
    """A store of one name in each of so many members, all of them ready."""
    members = fleets.members(count, **options.pop("fleet_options", {}))
    made = [SharedStore("prices", fleet=fleet, **options) for fleet in members]
    for store in made:
        store.get("joins")
        assert store.fleet.wait_ready(PATIENCE)
    return made


def settled(*stores: SharedStore) -> None:
    assert all(store.fleet.flush(PATIENCE) for store in stores)


def value(store: SharedStore, name: str) -> Any:
    found = store.get(name)
    return None if found is None else found[0]


def wait_for_all(stores: Iterable[SharedStore], **expected: Any) -> None:
    """Until all of them have these values."""
    for store in stores:
        for name, wanted in expected.items():
            wait_until(partial(_has, store, name, wanted), f"{name}={wanted!r}")


def _has(store: SharedStore, name: str, wanted: Any) -> bool:
    return bool(value(store, name) == wanted)


def test_what_one_member_sets_the_others_have_and_what_one_forgets_all_forget(fleets: Fleets) -> None:
    first, second, third = stores(fleets, 3)
    now = first.clock.wall()
    first.set("a", {"price": 5}, now - 10)
    second.set("b", "text", now)
    wait_for_all((first, second, third), a={"price": 5}, b="text")
    for store in (first, second, third):
        assert store.get("a") == ({"price": 5}, now - 10)
        assert len(store) == 2
    third.delete("a")
    wait_until(lambda: value(first, "a") is value(second, "a") is None)
    assert value(second, "b") == "text"
    first.clear()
    wait_until(lambda: len(second) == len(third) == 0)
    settled(first, second, third)
    assert fleets.client.ttl(key(fleets)) > 86_000


def test_a_newcomer_finds_what_is_there_and_reading_costs_no_command(fleets: Fleets) -> None:
    (first,) = stores(fleets, 1)
    first.set("a", 1, first.clock.wall())
    settled(first)
    (newcomer,) = stores(fleets, 1)
    assert value(newcomer, "a") == 1
    assert newcomer.snapshot() == {"entries": 1, "known": True}
    settled(newcomer)
    before = newcomer.fleet.agent.commands
    for _ in range(10_000):
        newcomer.get("a")
    assert newcomer.fleet.agent.commands - before <= 5, "but for the poll"


def test_a_stale_cache_over_it_fetches_once_for_all(world: World, fleets: Fleets) -> None:
    script = Script("fetched", "fetched again")

    async def story() -> None:
        caches = [StaleCache(fresh_for=10, stale_for=20, store=store) for store in stores(fleets, 2)]
        first, second = (world.guard(cache, script.fn) for cache in caches)
        assert await first("ann") == "fetched"
        wait_until(lambda: caches[1].entry("ann") is not None)
        assert await second("ann") == "fetched"
        caches[1].invalidate("ann")
        wait_until(lambda: caches[0].entry("ann") is None)
        assert await first("ann") == "fetched again"
        assert caches[0].snapshot()["entries"] == 1

    run_in(world, story)
    wait_until(lambda: len(fleets.client.hgetall(key(fleets))) == 3)
    (text,) = [text for field, text in fleets.client.hgetall(key(fleets)).items() if len(field) == 32]
    assert json.loads(str(text).partition(":")[2])["value"] == "fetched again"
    assert not [field for field in fleets.client.hkeys(key(fleets)) if "ann" in field], "keys are digests"


def test_what_is_seeded_serves_until_redis_tells_and_is_offered_to_a_redis_that_has_nothing(fleets: Fleets) -> None:
    fleet = fleets.member()
    seeded = SharedStore("prices", fleet=fleet)
    now = seeded.clock.wall()
    seeded.seed("a", "of the file", now - 60)
    assert seeded.get("a") == ("of the file", now - 60)
    assert fleet.wait_ready(PATIENCE)
    settled(seeded)
    (other,) = stores(fleets, 1)
    assert value(other, "a") == "of the file"
    other.delete("a")
    settled(other)
    late = SharedStore("prices", fleet=fleets.member())
    late.seed("a", "of a file", now - 60)
    late.seed("b", "of a file", now - 60)
    late.get("joins")
    assert late.fleet.wait_ready(PATIENCE)
    settled(late)
    assert len(late) == 0, "the fleet has forgotten it"
    late.seed("a", "too late", now - 60)
    assert len(late) == 0


def test_of_what_two_members_set_apart_the_later_one_counts(fleets: Fleets, redis_server: RedisServer) -> None:
    with FaultProxy((HOST, redis_server.port)) as proxy:
        (first,) = stores(fleets, 1)
        fleet = fleets.member("cut", source=f"redis://{HOST}:{proxy.port}/0")
        proxy.refuse()
        away = SharedStore("prices", fleet=fleet)
        now = away.clock.wall()
        for name, here, there in (("a", 1, 2), ("b", 2, 1)):
            away.set(name, "away", now + here - 10)
            first.set(name, "first", now + there - 10)
        settled(first)
        proxy.heal()
        wait_for_all((first, away), a="first", b="away")


def test_an_entry_ends_with_its_life_in_all_members(fleets: Fleets) -> None:
    clock = VirtualClock()
    first, second = stores(fleets, 2, lives=60, clock=clock)
    first.set("old", 1, clock.wall() - 50)
    first.set("new", 1, clock.wall())
    wait_for_all((second,), old=1, new=1)
    clock.advance(10)
    assert (value(second, "old"), value(second, "new")) == (None, 1)
    second.set("another", 2, clock.wall())
    wait_until(lambda: len(first) == len(second) == 2, "the lapsed one is gone")
    clock.advance(50)
    assert value(first, "new") is None


def test_what_was_fetched_before_everybody_forgot_cannot_come_back(fleets: Fleets, redis_server: RedisServer) -> None:
    with FaultProxy((HOST, redis_server.port)) as proxy:
        (first,) = stores(fleets, 1)
        cleared: list[str] = []
        fleet = fleets.member("cut", source=f"redis://{HOST}:{proxy.port}/0")
        away = SharedStore("prices", fleet=fleet, on_clear=lambda: cleared.append("told"))
        away.get("joins")
        assert fleet.wait_ready(PATIENCE)
        first.set("a", "old", first.clock.wall())
        wait_until(lambda: value(away, "a") == "old")
        heard: list[Any] = []
        fleet.subscribe(heard.append)
        proxy.reset(new=True)
        wait_until(lambda: not fleet.connected)
        assert value(away, "a") == "old", "its copy serves it"
        away.set("a", "old, fetched alone", away.clock.wall())
        assert value(away, "a") == "old, fetched alone"
        first.clear()
        first.set("b", "new", first.clock.wall())
        settled(first)
        proxy.heal()
        wait_until(lambda: value(away, "b") == "new")
        settled(away, first)
        assert (value(away, "a"), value(first, "a")) == (None, None)
        assert cleared == ["told"]
        assert [type(event) for event in heard].count(StoreDegraded) == 1


def test_what_was_said_while_redis_was_away_is_told_later(fleets: Fleets, redis_server: RedisServer) -> None:
    with FaultProxy((HOST, redis_server.port)) as proxy:
        first, second = stores(fleets, 2)
        fleet = fleets.member("cut", source=f"redis://{HOST}:{proxy.port}/0")
        away = SharedStore("prices", fleet=fleet)
        first.set("kept", 1, first.clock.wall())
        first.set("dropped", 1, first.clock.wall())
        wait_until(lambda: value(away, "dropped") == 1)
        proxy.reset(new=True)
        wait_until(lambda: not fleet.connected)
        away.set("mine", 2, away.clock.wall())
        away.delete("dropped")
        first.set("theirs", 3, first.clock.wall())
        settled(first)
        proxy.heal()
        wait_for_all((first, second, away), mine=2, theirs=3, dropped=None, kept=1)


def test_a_redis_that_lost_everything_is_given_it_again(fleets: Fleets, own_redis_server: RedisServer) -> None:
    with Fleets(own_redis_server.url, "lost:") as own:
        first, second = stores(own, 2, max_bytes=300, fleet_options=SELDOM)
        first.set("a", 1, first.clock.wall())
        first.set("large", "x" * 300, first.clock.wall())
        wait_until(lambda: value(second, "a") == 1)
        own_redis_server.restart()
        wait_until(lambda: len(own.client.keys("*")) > 0 and value(first, "a") == 1)
        (newcomer,) = stores(own, 1, fleet_options=SELDOM)
        wait_until(lambda: value(newcomer, "a") == value(second, "a") == 1)
        # Lost between two looks of a member that has something to say.
        settled(first, second, newcomer)
        own.client.delete(key(own))
        second.set("b", 2, second.clock.wall())
        wait_for_all((first, second, newcomer), a=1, b=2)


def test_who_writes_to_a_redis_that_has_lost_everything_tells_all_that_it_knows(fleets: Fleets) -> None:
    (first,) = stores(fleets, 1, fleet_options=SELDOM)
    first.set("a", 1, first.clock.wall())
    settled(first)
    fleets.client.delete(key(fleets))
    first.set("b", 2, first.clock.wall())
    settled(first)
    (newcomer,) = stores(fleets, 1)
    wait_for_all((newcomer,), a=1, b=2)


def test_a_change_that_begins_an_era_anew_is_followed_by_all_that_is_known_and_one_among_others_by_a_look() -> None:
    """The same, turn by turn: the test is agent and store."""
    fleet = RedisFleet("redis://127.0.0.1:1")
    fleet.agent.attach = lambda item: True  # type: ignore[method-assign]
    store = SharedStore("turns", fleet=fleet)
    share = store._share
    store.set("a", 1, store.clock.wall())
    share._read([b"first", 0], 0.0, 0.0)
    (first,) = share.requests(0.0)
    first.answer([1, b"first", 0, 1, []], 0.0, 0.0)
    assert not share.pending()
    known = list(share.entries)
    store.set("b", 2, store.clock.wall())
    (second,) = share.requests(0.0)
    second.answer([1, b"second", 0, 1, []], 0.0, 0.0)
    assert list(share._unsaid) == known, "the store has lost everything, and was told of b only"
    (third,) = share.requests(0.0)
    third.answer([1, b"second", 5, 6, []], 0.0, 0.0)
    assert [request.script for request in share.requests(0.0)] == ["entries"], "others have changed something, too"


def test_members_that_write_at_the_same_time_lose_nothing(fleets: Fleets) -> None:
    members = stores(fleets, 4)
    for number in range(200):
        members[number % 4].set(str(number), number, members[0].clock.wall())
    wait_for_all(members, **{str(number): number for number in range(200)})


def test_a_value_stays_the_same_object_when_its_own_member_hears_of_it_again(fleets: Fleets) -> None:
    first, second = stores(fleets, 2)
    mine = [1]
    second.set("b", 1, second.clock.wall())
    first.set("a", mine, first.clock.wall())
    second.set("c", 1, second.clock.wall())
    wait_for_all((first,), b=1, c=1)
    assert value(first, "a") is mine
    first._share._changes = 0  # as after a fork: everything is read again
    first._share.known = False
    first.fleet.agent.wake()
    settled(first)
    assert value(first, "a") is mine


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"1:not json", "1"),
        (b"no change", "1"),
        (b"1:[]", "1"),
        (b'1:{"version":2,"value":1,"at":1,"until":9e9}', "1"),
        (b'1:{"version":1,"value":1,"at":"1","until":9e9}', "1"),
        (b'1:{"version":1,"value":1,"at":1,"until":1e999}', "1"),
        (b'1:{"version":1,"value":1,"at":true,"until":9e9}', "1"),
        (b'1:{"version":1,"value":"poison","at":1,"until":9e9}', "1"),
        (b"1:" + b"[" * 100_000, "1"),
        (b"1:\xff\xfe", "1"),
    ],
)
def test_what_cannot_be_read_counts_as_missing_and_is_told(fleets: Fleets, content: bytes, problem: str) -> None:
    def decode(raw: Any) -> Any:
        return raw + 0  # a text is none of ours

    first, second = stores(fleets, 2, decode=decode, fleet_options={"poll_interval": 0.05})
    first.set("good", 1, first.clock.wall())
    first.set("bad", 2, first.clock.wall())
    wait_until(lambda: value(second, "bad") == 2)
    settled(first, second)
    heard: list[RecordIgnored] = []
    second.fleet.subscribe(heard.append)  # type: ignore[arg-type]
    field = second._field("bad")
    fleets.client.hset(key(fleets), mapping={field: content.replace(b"1:", b"50:", 1), "changes": "50"})
    wait_until(lambda: value(second, "bad") is None)
    assert value(second, "good") == 1
    wait_until(lambda: heard)
    assert (heard[0].policy, heard[0].problem) == ("prices", f"entries that cannot be read: {problem}")
    first.set("bad", 3, first.clock.wall())
    wait_until(lambda: value(second, "bad") == 3)


def test_a_time_in_the_future_makes_nothing_younger_or_longer_lived(fleets: Fleets) -> None:
    clock = VirtualClock()
    first, second = stores(fleets, 2, lives=60, clock=clock)
    first.set("a", 1, clock.wall() + 10**6)
    wait_until(lambda: value(second, "a") == 1)
    assert second.get("a") == (1, clock.wall())
    clock.advance(60)
    assert second.get("a") is None


@pytest.mark.parametrize(
    ("poison", "problem"),
    [
        (lambda client, key: client.set(key, "text"), "another type"),
        (lambda client, key: client.hset(key, mapping={"era": "e" * 65, "changes": "1"}), "era cannot be read"),
        (lambda client, key: client.hset(key, mapping={"era": "e", "changes": "inf"}), "era cannot be read"),
        (lambda client, key: client.hset(key, mapping={"era": "e", "changes": "9" * 16}), "era cannot be read"),
        (lambda client, key: client.hset(key, mapping={"era": "e"}), "era cannot be read"),
        (
            lambda client, key: client.hset(key, mapping={"era": "e", "changes": "1", "x": "1:" + "9" * 999}),
            "max_entries or max_bytes",
        ),
    ],
)
def test_a_poisoned_key_is_told_and_replaced(fleets: Fleets, poison: Callable[..., Any], problem: str) -> None:
    poison(fleets.client, key(fleets))
    fleet = fleets.member()
    heard: list[RecordIgnored] = []
    fleet.subscribe(heard.append)  # type: ignore[arg-type]
    store = SharedStore("prices", fleet=fleet, max_bytes=900)
    store.get("joins")
    wait_until(lambda: heard)
    assert problem in heard[0].problem
    store.clear()
    store.set("a", 1, store.clock.wall())
    settled(store)
    (newcomer,) = stores(fleets, 1)
    assert value(newcomer, "a") == 1


def test_what_is_too_large_is_kept_by_its_member_only_and_told(
    fleets: Fleets, caplog: pytest.LogCaptureFixture
) -> None:
    first, second = stores(fleets, 2, max_bytes=400)
    first.set("a", "small", first.clock.wall())
    wait_until(lambda: value(second, "a") == "small")
    first.set("a", "x" * 500, first.clock.wall())
    assert value(first, "a") == "x" * 500
    wait_until(lambda: value(second, "a") is None, "what was there before is out of date")
    settled(first, second)
    assert value(first, "a") == "x" * 500
    first.set("b", "y" * 150, first.clock.wall())
    first.set("c", "z" * 150, first.clock.wall())
    settled(first)
    assert len(first) == 3
    wait_until(lambda: len(second) == 1)
    told = [record.getMessage() for record in caplog.records if "cannot share" in record.getMessage()]
    assert len(told) == 2
    assert "bytes, max_bytes is 400" in told[0]
    assert "max_entries or max_bytes would be exceeded" in told[1]


def test_at_most_max_entries_are_kept_and_shared(fleets: Fleets) -> None:
    first, second = stores(fleets, 2, max_entries=3)
    for number in range(9):
        first.set(str(number), number, first.clock.wall())
        settled(first)
    assert [value(first, str(number)) for number in range(9)] == [0, 1, 2, None, None, None, 6, 7, 8]
    wait_until(lambda: len(second) == 3)


def test_a_value_that_json_cannot_carry_is_refused(fleets: Fleets) -> None:
    (store,) = stores(fleets, 1)
    for wrong in (object(), float("nan")):
        with pytest.raises((TypeError, ValueError)):
            store.set("a", wrong, 0.0)
    assert store.get("a") is None


def test_a_change_of_an_era_that_is_over_is_refused_and_the_copy_dropped(fleets: Fleets) -> None:
    first, second = stores(fleets, 2, fleet_options=SELDOM)
    first.set("a", 1, first.clock.wall())
    wait_for_all((second,), a=1)
    settled(first, second)
    fleets.client.hset(key(fleets), "era", "another")  # and the news of it is lost
    second.set("b", 1, second.clock.wall())
    wait_for_all((second,), b=None)
    assert value(second, "a") == 1, "it is of the new era, too"
    assert value(first, "b") is None


def test_who_is_not_the_first_to_write_writes_all_the_same(fleets: Fleets) -> None:
    (first,) = stores(fleets, 1, fleet_options=SELDOM)
    fleets.client.hset(key(fleets), mapping={"era": "of somebody faster", "changes": "1"})
    first.set("a", 1, first.clock.wall())
    settled(first)
    (newcomer,) = stores(fleets, 1)
    wait_for_all((newcomer,), a=1)


def test_who_forgets_before_he_knows_what_is_there_forgets_it(fleets: Fleets, redis_server: RedisServer) -> None:
    (first,) = stores(fleets, 1)
    for name in ("a", "b"):
        with FaultProxy((HOST, redis_server.port)) as proxy:
            fleet = fleets.member("cut", source=f"redis://{HOST}:{proxy.port}/0")
            away = SharedStore("prices", fleet=fleet)
            first.set(name, 1, first.clock.wall())
            settled(first)
            if name == "b":
                proxy.refuse()
                away.get("joins")
                wait_until(lambda fleet=fleet: fleet.state == "degraded")  # type: ignore[misc]
            away.clear()
            away._share.lost(0.0)  # once more
            proxy.heal()
            wait_for_all((first, away), **{name: None})


def test_a_listener_that_fails_is_logged_and_harms_nobody(fleets: Fleets, caplog: pytest.LogCaptureFixture) -> None:
    def on_clear() -> None:
        raise ZeroDivisionError

    (first,) = stores(fleets, 1)
    second = SharedStore("prices", fleet=fleets.member(), on_clear=on_clear)
    first.set("a", 1, first.clock.wall())
    wait_until(lambda: value(second, "a") == 1)
    first.clear()
    wait_until(lambda: "on_clear of the shared store" in caplog.text)
    first.set("b", 1, first.clock.wall())
    wait_until(lambda: value(second, "b") == 1)
    assert second.fleet.connected


@pytest.mark.parametrize("run", [asyncio.run, trio.run])
def test_waiting_for_a_change(run: Any, fleets: Fleets) -> None:
    first, second = stores(fleets, 2)

    async def story() -> None:
        assert await second.wait_for(lambda: True, 0)
        assert not await second.wait_for(lambda: False, 0.01)
        first.set("a", 1, first.clock.wall())
        assert await second.wait_for(lambda: value(second, "a") == 1, PATIENCE)
        answers = iter((False, True))
        assert await second.wait_for(lambda: next(answers), PATIENCE)
        assert not second._share._waiters

    run(story() if run is asyncio.run else story)


def test_the_child_of_a_fork_is_a_member_of_its_own(fleets: Fleets) -> None:
    first, second = stores(fleets, 2)
    first.set("a", 1, first.clock.wall())
    wait_until(lambda: value(second, "a") == 1)
    settled(first, second)
    child = os.fork()
    if child == 0:
        try:
            good = value(first, "a") == 1
            first.set("child", 2, first.clock.wall())
            good = good and first.fleet.flush(PATIENCE)
        finally:
            os._exit(0 if good else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    wait_until(lambda: value(first, "child") == value(second, "child") == 2)


def test_a_member_that_leaves_says_what_is_left(fleets: Fleets) -> None:
    first, second = stores(fleets, 2)
    first.set("a", 1, first.clock.wall())
    first.fleet.close()
    wait_until(lambda: value(second, "a") == 1)
    first.set("b", 1, first.clock.wall())
    assert value(first, "b") == 1, "it goes on by itself"
    second.fleet.close()


def test_the_fleet_s_secret_hides_the_keys(fleets: Fleets) -> None:
    plain, hidden = (fleets.member(secret=secret).keys for secret in (None, "sixteen letters!"))
    assert plain.digest("prices", "a") != hidden.digest("prices", "a") != hidden.digest("others", "a")


def test_options(fleets: Fleets) -> None:
    fleet = fleets.member()
    wrong: list[dict[str, Any]] = [
        {"max_entries": 0},
        {"max_bytes": True},
        {"lives": 0},
        {"encode": 5},
        {"on_clear": "x"},
        {"fleet": object()},
    ]
    for options in wrong:
        with pytest.raises(ConfigurationError, match=f"SharedStore: {next(iter(options))} must"):
            SharedStore("prices", **{"fleet": fleet, **options})
    with pytest.raises(ConfigurationError, match="SharedStore: name"):
        SharedStore("", fleet=fleet)

    class Table:
        def get_state(self, name: str) -> None: ...
        def set_state(self, name: str, state: Any) -> None: ...

    with pytest.raises(ConfigurationError, match="use a RedisFleet"):
        SharedStore("prices", fleet=StoreFleet(Table()))
    assert repr(SharedStore("prices", fleet=fleet)) == "SharedStore('prices')"

"""What a shared store tells of its changes: as much as there are, whatever it holds; and all when that is not known."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from resilience_core import ConfigurationError, RecordIgnored
from resilience_core.fleet import SharedStore
from resilience_core.fleet._link import Request
from resilience_core.fleet._store import SAID_AT_ONCE
from resilience_core.redis import RedisFleet
from resilience_core.testing import FaultProxy, VirtualClock
from tests._redis import HOST, RedisServer
from tests.fleet.members import Fleets, wait_until
from tests.fleet.test_shared_store import SELDOM, key, settled, stores, value, wait_for_all

LINES = 256


def log(fleets: Fleets) -> str:
    return f"{key(fleets)}:log"


def look(store: SharedStore, since: int, era: str | None = None) -> list[Any]:
    """What Redis answers to somebody who knows so many changes."""
    share = store._share
    args = (share._era if era is None else era, since, store.max_entries, store.max_bytes)
    link = store.fleet.open_link()
    (reply,) = link.run([Request("entries", share.key, args, lambda *_: None, share._sisters)])
    link.close()
    assert not isinstance(reply, Exception)
    return list(reply)


def changed(reply: list[Any]) -> int:
    """How many entries an answer by the log tells."""
    assert len(reply) == 4, "it tells everything"
    return len(reply[2]) // 2


def write(store: SharedStore, **values: Any) -> int:
    """Set them, one change each; the number of the last one."""
    for name, each in values.items():
        store.set(name, each, store.clock.wall())
        settled(store)
    return store._share._changes


def test_a_look_is_told_what_has_changed_since_and_nothing_else(fleets: Fleets) -> None:
    (store,) = stores(fleets, 1)
    before = write(store, **{str(number): number for number in range(50)})
    write(store, a=1, b=2)
    write(store, a=3)
    reply = look(store, before)
    assert changed(reply) == 2, "of three changes, to two entries"
    assert sorted(reply[2][::2]) == sorted(store._field(name).encode() for name in "ab")
    assert reply[3] == []
    store.delete("a")
    store.delete("never was")
    settled(store)
    reply = look(store, before)
    assert changed(reply) == 1
    assert store._field("a").encode() in reply[3]
    assert look(store, store._share._changes)[2:] == []
    assert len(look(store, -1)[2]) == 2 * (50 + 1 + 2), "a newcomer is told all"
    assert len(look(store, before, "another era")[2]) == 2 * (50 + 1 + 2)
    assert len(look(store, 10**6)) == 3, "a Redis that knows less than the reader: nobody knows what it lacks"


def test_who_is_too_far_behind_is_told_all_and_the_log_is_bounded(fleets: Fleets) -> None:
    (store,) = stores(fleets, 1)
    last = 0
    for number in range(LINES + 40):
        last = write(store, **{str(number % 5): number})
    assert len(look(store, last - LINES)) == 4
    assert len(look(store, last - LINES - 1)) == 3
    assert fleets.client.hlen(log(fleets)) == LINES + 1
    assert fleets.client.ttl(log(fleets)) > 86_000


def test_a_change_of_very_many_entries_is_not_in_the_log(fleets: Fleets, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody makes one."""
    monkeypatch.setattr("resilience_core.fleet._store.SAID_AT_ONCE", 2 * LINES)
    first, second = stores(fleets, 2)
    write(first, a=1)
    with first._share._lock:  # so that the agent says all of them at once
        for number in range(LINES + 1):
            field, entry = first._field(str(number)), first._entry(number, first.clock.wall(), False)
            first._share._put(field, entry)
            first._share._unsaid[field] = entry.at, entry.text
    first.fleet.agent.wake()
    settled(first)
    assert len(look(first, first._share._changes - 1)) == 3
    wait_for_all((second,), **{str(LINES): LINES})


@pytest.mark.parametrize(
    "spoil",
    [
        lambda client, log, era: client.delete(log),
        lambda client, log, era: client.set(log, "text", px=9_000),
        lambda client, log, era: client.delete(log) and client.set(log, "text", px=9_000),
        lambda client, log, era: client.hset(log, "state", "x"),
        lambda client, log, era: client.hset(log, "state", f"{era}:3:"),
        lambda client, log, era: client.hset(log, "state", "another:4:1:1"),
        lambda client, log, era: client.hdel(log, "state"),
        lambda client, log, era: client.hset(log, "4", "x" * 20_000),
        lambda client, log, era: client.hdel(log, "4"),
    ],
)
def test_a_log_that_cannot_be_trusted_is_not_used_and_made_anew(fleets: Fleets, spoil: Callable[..., Any]) -> None:
    first, second = stores(fleets, 2, fleet_options=SELDOM)
    assert write(first, a=1, b=1, c=1, d=1) == 4
    wait_for_all((second,), d=1)
    settled(first, second)
    spoil(fleets.client, log(fleets), first._share._era)
    assert len(look(first, 3)) == 3
    write(second, e=1)
    wait_for_all((first,), a=1, b=1, c=1, d=1, e=1)
    assert len(look(first, 4)) == 4, "whoever is up to date goes on with the log"
    state = str(fleets.client.hget(log(fleets), "state"))
    entries = {name: text for name, text in fleets.client.hgetall(key(fleets)).items() if len(name) == 32}
    size = sum(len(name) + len(str(text)) for name, text in entries.items())
    assert state == f"{first._share._era}:5:{len(entries)}:{size}"


def test_a_log_that_names_what_is_no_entry_or_too_much_leads_to_no_more_than_a_look(fleets: Fleets) -> None:
    (store,) = stores(fleets, 1, max_entries=3)
    last = write(store, a=1, b=1)
    fleets.client.hset(log(fleets), str(last), "era,changes,nobody")
    reply = look(store, last - 1)
    assert (changed(reply), reply[3]) == (0, [b"nobody"])
    fleets.client.hset(log(fleets), str(last), "x0,x1,x2,x3")
    assert len(look(store, last - 1)) == 3, "as many as all may be: then all are told"
    for number in range(4):
        fleets.client.hset(key(fleets), f"x{number}", "1:{}")
    fleets.client.hset(log(fleets), str(last), "x0,x1,x2,x3")
    assert look(store, last - 1)[2] == b"it holds more than max_entries or max_bytes"


def test_what_is_counted_is_counted_anew_now_and_then(fleets: Fleets) -> None:
    first, second = stores(fleets, 2, max_entries=3)
    write(first, a=1, b=1)
    era = first._share._era
    fleets.client.hset(key(fleets), "changes", "1021")
    fleets.client.hset(log(fleets), "state", f"{era}:1021:9:9")  # a lie
    wait_until(lambda: (first.fleet.agent.wake(), first._share._changes == 1021)[1])
    write(first, c=1)
    wait_until(lambda: second._share._changes == 1022)
    assert value(second, "c") is None, "there seems to be no room"
    write(first, c=2, d=1)
    wait_for_all((second,), a=1, b=1, d=1)


def test_room_that_is_given_back_is_used_again(fleets: Fleets) -> None:
    first, second = stores(fleets, 2, max_entries=2)
    for name in "abcdef":
        write(first, **{name: 1})
        wait_for_all((second,), **{name: 1})
        if name > "a":
            first.delete(chr(ord(name) - 1))
            settled(first)
    second.clear()
    wait_until(lambda: len(first) == 0)
    write(first, g=1, h=1)
    wait_for_all((second,), g=1, h=1)


def test_an_era_that_nobody_can_read_is_replaced_by_whoever_writes(fleets: Fleets) -> None:
    (store,) = stores(fleets, 1, fleet_options=SELDOM)
    write(store, a=1)
    heard: list[RecordIgnored] = []
    store.fleet.subscribe(heard.append)  # type: ignore[arg-type]
    fleets.client.hset(key(fleets), mapping={"changes": "inf"})
    write(store, b=1)
    (newcomer,) = stores(fleets, 1)
    wait_for_all((newcomer,), a=1, b=1)
    assert not heard


def test_what_fills_more_than_one_change_is_told_in_several(fleets: Fleets, redis_server: RedisServer) -> None:
    (first,) = stores(fleets, 1, max_entries=3 * SAID_AT_ONCE)
    with FaultProxy((HOST, redis_server.port)) as proxy:
        proxy.refuse()
        fleet = fleets.member("cut", source=f"redis://{HOST}:{proxy.port}/0")
        away = SharedStore("prices", fleet=fleet, max_entries=3 * SAID_AT_ONCE)
        for number in range(SAID_AT_ONCE + 20):
            away.set(str(number), number, away.clock.wall())
        proxy.heal()
        wait_until(lambda: len(first) == SAID_AT_ONCE + 20)
    assert first._share._changes == 2
    assert changed(look(first, 0)) == SAID_AT_ONCE + 20, "and the others need not read everything"


def test_what_has_ended_leaves_redis_also_when_it_is_much_and_an_answer_is_lost(fleets: Fleets) -> None:
    clock = VirtualClock()
    (store,) = stores(fleets, 1, lives=60, clock=clock, max_entries=3 * SAID_AT_ONCE)
    for number in range(SAID_AT_ONCE + 20):
        store.set(str(number), number, clock.wall())
    settled(store)
    assert fleets.client.hlen(key(fleets)) == SAID_AT_ONCE + 22
    store.fleet.close()
    clock.advance(60)
    alone = stores(fleets, 1, lives=60, clock=clock, max_entries=3 * SAID_AT_ONCE)[0]
    with alone._share._lock:
        field = alone._field("new")
        alone._share._unsaid[field] = clock.wall(), alone._entry(1, clock.wall(), False).text
        alone._share._put(field, alone._entry(1, clock.wall(), False))
        alone._share._drop_lapsed(clock.wall())
    assert len(alone) == 1
    alone.fleet.agent.wake()
    settled(alone)
    assert fleets.client.hlen(key(fleets)) == 3


def test_a_change_that_was_lost_is_told_again_with_what_had_ended() -> None:
    """Turn by turn: the test is agent and store."""
    clock = VirtualClock()
    fleet = RedisFleet("redis://127.0.0.1:1")
    fleet.agent.attach = lambda item: True  # type: ignore[method-assign]
    store = SharedStore("turns", fleet=fleet, clock=clock, lives=60)
    share = store._share
    share._read([b"era", 0], 0.0, 0.0)
    store.set("old", 1, clock.wall())
    share.requests(0.0)[0].answer([1, b"era", 0, 1, []], 0.0, 0.0)
    clock.advance(60)
    store.set("new", 1, clock.wall())
    share.requests(0.0)
    share.lost(0.0)
    new = share.entries[store._field("new")]
    assert share._unsaid == {store._field("new"): (new.at, new.text), store._field("old"): (new.at - 60, None)}


def test_who_is_away_for_long_remembers_so_much_of_what_he_never_had_and_no_more() -> None:
    store = SharedStore("away", fleet=RedisFleet("redis://127.0.0.1:1"), max_entries=3)
    for name in "abcde":
        store.delete(name)
    store.delete("a")
    assert len(store._share._unsaid) == 3
    store.set("f", 1, store.clock.wall())
    store.delete("f")
    assert list(store._share._unsaid)[-1] == store._field("f"), "what he had is told"
    store.fleet.close()


def test_in_a_lasting_store_all_tell_what_they_know_to_a_redis_that_has_lost_it(own_redis_server: RedisServer) -> None:
    with Fleets(own_redis_server.url, "lasting:") as own:
        first, second = stores(own, 2, lasting=True)
        write(first, both=1)
        wait_for_all((second,), both=1)
        own_redis_server.stop()
        for store, name in ((first, "a"), (second, "b")):
            wait_until(lambda store=store: not store.fleet.connected)  # type: ignore[misc]
            store.set(name, 1, store.clock.wall())
        first.set("later", "no", first.clock.wall())
        second.set("later", "yes", second.clock.wall() + 1)
        own_redis_server.start()
        wait_for_all((first, second), both=1, a=1, b=1, later="yes")
        settled(first, second)
        (newcomer,) = stores(own, 1, lasting=True)
        wait_for_all((newcomer,), both=1, a=1, b=1, later="yes")


def test_in_a_lasting_store_what_is_said_in_an_era_that_is_lost_is_said_again(fleets: Fleets) -> None:
    first, second = stores(fleets, 2, lasting=True, fleet_options=SELDOM)
    write(first, a=1)
    wait_for_all((second,), a=1)
    settled(first, second)
    fleets.client.hset(key(fleets), "era", "another")  # and the news of it is lost
    second.set("b", 1, second.clock.wall())
    settled(second)
    (newcomer,) = stores(fleets, 1, lasting=True)
    wait_for_all((newcomer,), a=1, b=1)
    assert fleets.client.hget(key(fleets), "changes") == "2", "and what the store has is not told once more"


def test_what_the_copy_has_no_room_for_does_not_disturb_what_is_heard() -> None:
    """Turn by turn: the test is agent and store."""
    fleet = RedisFleet("redis://127.0.0.1:1")
    fleet.agent.attach = lambda item: True  # type: ignore[method-assign]
    store = SharedStore("turns", fleet=fleet, max_entries=2)
    for name in "abc":
        store.set(name, 1, store.clock.wall())
    theirs = store._entry(2, store.clock.wall() + 9, False).text.encode()
    fields = [store._field(name).encode() for name in "abc"]
    share = store._share
    share._read([b"era", 1, [fields[0], b"1:" + theirs, fields[2], b"1:" + theirs]], 0.0, 0.0)
    assert [value(store, name) for name in "abc"] == [2, 1, 2]
    assert list(share._unsaid) == [fields[1].decode()]


def test_what_made_room_before_anybody_heard_of_it_is_not_remembered() -> None:
    store = SharedStore("away", fleet=RedisFleet("redis://127.0.0.1:1"), max_entries=3, makes_room=True)
    now = store.clock.wall()
    for number in range(50):
        store.set(str(number), number, now, lives=100 + number)
    assert list(store._share._unsaid) == list(store._share.entries)
    assert len(store) == 3
    store.fleet.close()


def test_an_entry_may_end_earlier_than_the_others_and_not_later(fleets: Fleets) -> None:
    clock = VirtualClock()
    first, second = stores(fleets, 2, lives=60, clock=clock)
    now = clock.wall()
    first.set("short", 1, now, lives=10)
    first.set("long", 1, now, lives=1_000)
    wait_for_all((second,), short=1, long=1)
    clock.advance(10)
    assert (value(first, "short"), value(second, "short"), value(second, "long")) == (None, None, 1)
    second.set("another", 1, clock.wall())
    wait_until(lambda: len(first) == len(second) == 2)
    clock.advance(50)
    assert value(second, "long") is None


def test_those_that_end_first_make_room_for_new_ones(fleets: Fleets) -> None:
    first, second = stores(fleets, 2, max_entries=200, makes_room=True)
    now = first.clock.wall()
    for number in range(200):
        first.set(str(number), number, now, lives=1_000 + number)
    wait_until(lambda: len(second) == 200)
    first.set("7", "again", now, lives=2_000)
    wait_until(lambda: value(second, "7") == "again")
    assert len(first) == 200, "it is no new one"
    first.set("new", 1, now, lives=3_000)
    wait_until(lambda: value(second, "new") == 1)
    wait_until(lambda: len(second) == len(first) == 199)
    for store in (first, second):
        assert [value(store, str(number)) for number in range(4)] == [None, None, 2, 3]


def test_a_version_tells_of_changes_by_others(fleets: Fleets) -> None:
    first, second = stores(fleets, 2)
    settled(first, second)
    before = second.version, first.version
    write(first, a=1)
    wait_until(lambda: value(second, "a") == 1)
    assert second.version != before[0]
    assert first.version == before[1], "its own word is no news"
    before = second.version, first.version
    first.clear()
    wait_until(lambda: second.version != before[0] and len(second) == 0)


def test_personal_keys_need_a_secret(fleets: Fleets) -> None:
    with pytest.raises(ConfigurationError, match=r"SharedStore 'marks' needs RedisFleet\(secret="):
        SharedStore("marks", fleet=fleets.member(), personal=True)
    SharedStore("marks", fleet=fleets.member(secret="sixteen letters!"), personal=True)


def test_what_is_gone_by_the_log_stays_where_it_was_never_shared_or_is_to_be_said() -> None:
    """Turn by turn: the test is agent and store."""
    fleet = RedisFleet("redis://127.0.0.1:1")
    fleet.agent.attach = lambda item: True  # type: ignore[method-assign]
    store = SharedStore("turns", fleet=fleet)
    share = store._share
    share._read([b"era", 0], 0.0, 0.0)
    for name in ("shared", "refused", "anew"):
        store.set(name, 1, store.clock.wall())
    refused = store._field("refused").encode()
    share.requests(0.0)[0].answer([1, b"era", 0, 1, [refused]], 0.0, 0.0)
    store.set("anew", 2, store.clock.wall())
    fields = [store._field(name).encode() for name in ("shared", "refused", "anew", "unknown")]
    share._read([b"era", 2, [], fields], 0.0, 0.0)
    assert sorted(share.entries) == sorted(field.decode() for field in fields[1:3])
    assert share._changes == 2


def turns(**options: Any) -> tuple[SharedStore, VirtualClock]:
    """A store of which the test is the agent and Redis; it was told an empty one."""
    clock = VirtualClock()
    fleet = RedisFleet("redis://127.0.0.1:1")
    fleet.agent.attach = lambda item: True  # type: ignore[method-assign]
    store = SharedStore("turns", fleet=fleet, clock=clock, **options)
    store._share._read([b"era", 0], 0.0, 0.0)
    return store, clock


def hear(store: SharedStore, name: str, value: Any, at: float) -> None:
    """Another member has set it at that time."""
    text = store._entry(value, at, False).text.encode()
    store._share._read([b"era", 9, [store._field(name).encode(), b"9:" + text], []], 0.0, 0.0)


def test_what_was_forgotten_before_others_set_it_anew_is_not_forgotten_after_an_outage() -> None:
    store, clock = turns(lives=60)
    share = store._share
    for name in ("early", "late", "ended"):
        store.set(name, "old", clock.wall())
    share.requests(0.0)[0].answer([1, b"era", 0, 1, []], 0.0, 0.0)
    clock.advance(50)
    share.lost(0.0)
    store.delete("early")
    clock.advance(5)
    anew = clock.wall()
    clock.advance(5)
    store.delete("late")
    share._drop_lapsed(clock.wall())
    for name in ("early", "late", "ended"):
        hear(store, name, "new", anew)
    assert [value(store, name) for name in ("early", "late", "ended")] == ["new", None, "new"]
    assert list(share._unsaid) == [store._field("late")]


def test_of_what_the_copy_has_no_room_for_nothing_waits_to_be_said() -> None:
    store, clock = turns(max_entries=3)
    store._share.lost(0.0)
    for number in range(50):
        store.set(str(number), number, clock.wall())
    assert len(store) == len(store._share._unsaid) == 3


@pytest.mark.parametrize("name", ["one more", "0"])
def test_a_copy_that_has_too_much_gives_up_what_ends_first_and_tells_it(name: str) -> None:
    """As after an outage in which others filled the store, too."""
    store, clock = turns(max_entries=4, makes_room=True)
    for number in range(6):
        hear(store, str(number), number, clock.wall() - number)
    assert len(store) == 6
    store.set(name, "x", clock.wall())
    assert [value(store, str(number)) for number in (1, 2, 5)] == [1, 2, None]
    assert len(store) <= 4
    assert {store._field(gone) for gone in ("4", "5")} <= store._share._unsaid.keys()


def test_what_takes_the_place_of_a_shared_entry_and_makes_room_is_forgotten_by_all() -> None:
    store, clock = turns(max_entries=2, makes_room=True)
    hear(store, "a", 1, clock.wall() - 1)
    store.set("a", 2, clock.wall(), lives=5)
    for name in "bc":
        store.set(name, 1, clock.wall())
    assert value(store, "a") is None
    assert store._field("a") in store._share._unsaid, "else the store's word of before would come back"
    share = store._share
    share.requests(0.0)[0].answer([1, b"era", 9, 10, [store._field("b").encode()]], 0.0, 0.0)
    assert [share.entries[store._field(name)].shared for name in "bc"] == [False, True]


def test_what_the_store_has_stays_in_the_copy_when_there_is_too_much_of_its_own() -> None:
    store, clock = turns(max_entries=3)
    for name in "abc":
        hear(store, name, 1, clock.wall())
    store._share.lost(0.0)
    for number in range(9):
        store.set(str(number), number, clock.wall())
    assert [value(store, name) for name in "abc"] == [1, 1, 1]
    assert [value(store, str(number)) for number in (5, 6, 8)] == [None, 6, 8]


@pytest.mark.parametrize("heard_meanwhile", [False, True])
def test_what_made_room_is_told_where_the_store_has_one_of_before(heard_meanwhile: bool) -> None:
    """Else the others would have it for ever, and this one not: it is gone here, and no change."""
    store, clock = turns(max_entries=2, makes_room=True)
    store._share.lost(0.0)
    if heard_meanwhile:
        store.set("a", 2, clock.wall(), lives=5)
        hear(store, "a", 1, clock.wall() - 1)
        assert value(store, "a") == 2, "it is later"
    else:
        hear(store, "a", 1, clock.wall() - 1)
        store.delete("a")
        store.set("a", 2, clock.wall(), lives=5)
    for name in "bc":
        store.set(name, 1, clock.wall())
    assert value(store, "a") is None
    assert store._share._unsaid[store._field("a")] == (clock.wall(), None)

"""The state feed: what it remembers, what it hands out to whom, and that it never stands in a call's way."""

from __future__ import annotations

import asyncio
import gc
import json
import os
import threading
import weakref
from collections.abc import Generator
from typing import Any
from unittest.mock import Mock

import pytest
import trio

from resilience_core import (
    AdaptiveConcurrency,
    Bulkhead,
    CircuitBreaker,
    CircuitOpenError,
    ConfigurationError,
    Event,
    FailureRate,
    Policy,
    RateLimiter,
    Retry,
    RetryBudget,
    registry,
)
from resilience_core._events import everywhere
from resilience_core.feed import DROPPED, LEFT_OUT, Client, Feed
from resilience_core.feed import feed as feed_of_process
from resilience_core.registry import Registry
from resilience_core.testing import virtual_time


@pytest.fixture
def feed() -> Generator[Feed]:
    made = Feed()
    made.start()
    yield made
    made.stop()


def fail() -> None:
    raise ConnectionError("a secret")


def break_it(breaker: CircuitBreaker) -> None:
    for _ in range(breaker.failure_threshold):
        with pytest.raises(ConnectionError):
            breaker.call(fail)


def poke(name: str) -> None:
    """One event of a policy of that name."""
    CircuitBreaker(name).force_open()


def rejected(breaker: CircuitBreaker, times: int = 1) -> None:
    for _ in range(times):
        with pytest.raises(CircuitOpenError):
            breaker.call(fail)


def names(messages: list[dict[str, Any]]) -> list[str]:
    return [message["event.name"].removeprefix("resilience.") for message in messages]


def drained(client: Client) -> list[dict[str, Any]]:
    return list(iter(lambda: client.get(0), None))


def test_a_feed_hears_nothing_before_its_first_use_and_nothing_after_its_end() -> None:
    made = Feed()
    breaker = CircuitBreaker("lazy", failure_threshold=1)
    break_it(breaker)
    assert made.history() == []
    breaker.reset()
    assert names(made.history()) == ["control.applied"]
    client = made.client()
    boot = made.boot
    made.stop()
    breaker.force_open()
    assert (client.closed, client.get(), made.clients, made.last_id) == (True, None, 0, 0)
    assert made.boot != boot
    made.stop()


def test_a_message_is_plain_and_has_the_attributes_of_the_schema_flat(feed: Feed) -> None:
    with virtual_time():
        breaker = CircuitBreaker("plain", failure_threshold=1)
        breaker.force_open(actor="ann", reason="drill", for_=60)
        break_it(CircuitBreaker("other", failure_threshold=1))
    by_hand, opened = feed.history()
    assert by_hand == {
        "id": 1,
        "time": 1_700_000_000.0,
        "event.name": "resilience.control.applied",
        "level": "WARNING",
        "text": "Circuit 'plain' is forced open by 'ann' (manual)",
        "resilience.policy.name": "plain",
        "resilience.circuit_breaker.previous_state": "closed",
        "resilience.circuit_breaker.state": "forced_open",
        "resilience.transition.reason": "manual",
        "resilience.control.actor": "ann",
        "resilience.control.note": "drill",
        "resilience.control.duration": 60.0,
    }
    assert "secret" not in json.dumps(opened)


def test_history_can_be_asked_for_policies_events_a_beginning_and_an_end(feed: Feed) -> None:
    first, second = (CircuitBreaker(name, failure_threshold=1) for name in ("first", "second"))
    for breaker in (first, second):
        break_it(breaker)
        rejected(breaker)
    assert [message["id"] for message in feed.history()] == [1, 2, 3, 4]
    assert [message["id"] for message in feed.history(after=2)] == [3, 4]
    assert [message["id"] for message in feed.history(limit=1)] == [4]
    assert feed.history(limit=0) == []
    assert [message["id"] for message in feed.history(names=["second"])] == [3, 4]
    assert [message["id"] for message in feed.history(events=["resilience.call.rejected"])] == [2, 4]


def test_a_flood_of_rejections_does_not_wash_away_what_opened_the_circuit() -> None:
    made = Feed(keep=10)
    client = made.client()
    with virtual_time() as clock:
        breaker = CircuitBreaker("flood", failure_threshold=1)
        break_it(breaker)
        rejected(breaker, 250)
        assert (made.last_id, made.left_out) == (101, 150)
        clock.advance(1)
        rejected(breaker)
        assert made.snapshot()["left_out"] == 150
    found = made.history()
    assert names(found)[0] == "circuit_breaker.transition"
    assert names(found)[-2:] == ["feed.left_out", "call.rejected"]
    assert found[-2]["count"] == 150
    assert len(found) == 11
    assert names(made.history(names=["flood"], events=["nothing"])) == ["feed.left_out"], "it may have been among them"
    assert len(drained(client)) == 103
    made.stop()


def test_a_client_that_is_too_slow_loses_the_oldest_messages_and_is_told_how_many() -> None:
    made = Feed(queue=2)
    with made.client() as client:
        for _ in range(5):
            poke("poked")
        dropped, *rest = drained(client)
        assert (dropped["event.name"], dropped["count"], dropped["id"]) == (DROPPED, 3, 3)
        assert [message["id"] for message in rest] == [4, 5]
        assert client.dropped == 3
        poke("poked")
        assert [message["id"] for message in drained(client)] == [6]
    assert made.clients == 0
    made.stop()


def test_a_client_that_comes_back_gets_what_it_missed_and_learns_what_is_forgotten() -> None:
    made = Feed(keep=3)
    made.start()
    for _ in range(5):
        poke("poked")
    with made.client(after=3) as client, made.client(after=0) as late, made.client(after=5) as none:
        assert [message["id"] for message in drained(client)] == [4, 5]
        assert [(message["id"], message.get("count")) for message in drained(late)] == [
            (2, 2),
            (3, None),
            (4, None),
            (5, None),
        ]
        assert drained(none) == []
        poke("poked")
        assert [message["id"] for message in drained(none)] == [6]
    made.stop()


def test_a_client_gets_only_what_it_asked_for(feed: Feed) -> None:
    with feed.client(names={"asked for"}) as client:
        poke("not asked for")
        poke("asked for")
        assert [message["resilience.policy.name"] for message in drained(client)] == ["asked for"]


def test_a_thread_waits_for_the_next_message(feed: Feed) -> None:
    with feed.client() as client:
        assert client.get(0.001) is None
        got: list[Any] = []
        reader = threading.Thread(target=lambda: got.append(client.get(30)))
        reader.start()
        while client._waiter is None:
            pass
        with pytest.raises(RuntimeError, match="a client for each reader"):
            client.get(0)
        poke("poked")
        reader.join(30)
        assert [message["id"] for message in got] == [1]
        reader = threading.Thread(target=lambda: got.append(client.get()))
        reader.start()
        while client._waiter is None:
            pass
        client.close()
        reader.join(30)
        assert got[1:] == [None]


@pytest.mark.parametrize("run", [lambda story: asyncio.run(story()), trio.run], ids=["asyncio", "trio"])
def test_a_task_waits_for_a_message_from_any_thread(feed: Feed, run: Any) -> None:

    async def story() -> None:
        with feed.client() as client:
            poke("poked")
            assert (await client.aget())["id"] == 1  # type: ignore[index]
            assert await client.aget(0.001) is None
            elsewhere = threading.Thread(target=poke, args=["poked"])
            elsewhere.start()
            assert (await client.aget(30))["id"] == 2  # type: ignore[index]
            elsewhere.join()
            with pytest.raises(ConfigurationError, match="blocking call"):
                client.get()

    run(story)


def test_a_reader_with_a_full_queue_lets_others_run(feed: Feed) -> None:
    async def story() -> None:
        turns = 0

        async def other() -> None:
            nonlocal turns
            while True:
                turns += 1
                await asyncio.sleep(0)

        with feed.client() as client:
            for _ in range(10):
                poke("busy")
            task = asyncio.ensure_future(other())
            for _ in range(10):
                assert await client.aget(0) is not None
            task.cancel()
        assert turns >= 9

    asyncio.run(story())


def test_a_reader_that_is_cancelled_loses_nothing(feed: Feed) -> None:

    async def story() -> None:
        with feed.client() as client:
            reader = asyncio.ensure_future(client.aget())
            while client._waiter is None:
                await asyncio.sleep(0)
            reader.cancel()
            poke("poked")
            with pytest.raises(asyncio.CancelledError):
                await reader
            assert (await client.aget(0))["id"] == 1  # type: ignore[index]

    asyncio.run(story())


def test_a_reader_whose_event_loop_is_gone_is_forgotten(feed: Feed) -> None:
    client = feed.client()
    loop = asyncio.new_event_loop()
    reader = loop.create_task(client.aget())
    while client._waiter is None:
        loop.run_until_complete(asyncio.sleep(0))
    reader._log_destroy_pending = False  # type: ignore[attr-defined]
    loop.close()
    poke("nobody reads")
    poke("nobody reads")
    assert (client.closed, feed.clients) == (True, 0)
    reader.get_coro().close()


def test_a_forgotten_client_and_a_forgotten_feed_are_gone() -> None:
    before = everywhere.listeners
    made = Feed()
    client = made.client()
    poke("poked")
    seen = weakref.ref(client)
    del client
    gc.collect()
    assert (seen(), made.clients) == (None, 0)
    poke("poked")
    with made.client():
        assert len(made._clients) == 1
    listener = everywhere.listeners[-1]
    gone = weakref.ref(made)
    del made
    gc.collect()
    assert gone() is None
    assert everywhere.listeners == before
    listener(Event("nobody", 0.0))  # another thread was just about to tell


class Unplugged(ConnectionError):
    """An exception that can be referred to weakly."""


def test_the_feed_holds_neither_policies_nor_errors(feed: Feed) -> None:
    breaker = CircuitBreaker("held by nobody")
    retry = Retry("also held by nobody", max_attempts=2, on=ConnectionError, base_delay=0.001)
    error = Unplugged()
    gone = weakref.ref(breaker), weakref.ref(retry), weakref.ref(error)
    with pytest.raises(Unplugged):
        retry.call(breaker.call, Mock(side_effect=error))
    assert names(feed.history()) == ["retry.scheduled", "retry.suppressed"]
    feed.snapshot()
    del breaker, retry, error
    gc.collect()
    assert [each() for each in gone] == [None, None, None]


@pytest.mark.parametrize("option", [{"keep": 0}, {"queue": True}, {"keep": 1.5}])
def test_a_feed_remembers_something(option: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError, match="must be an int of at least 1"):
        Feed(**option)


def test_the_child_of_a_fork_starts_afresh(feed: Feed) -> None:
    client, closed = feed.client(), feed.client()
    poke("before the fork")
    closed.close()
    read, write = os.pipe()
    child = os.fork()
    if not child:
        poke("not heard: nobody has asked yet")
        state = [client.closed, feed.boot, feed.last_id, len(feed.history())]
        poke("in the child")
        os.write(write, json.dumps([*state, len(feed.history())]).encode())
        os._exit(0)
    os.close(write)
    with os.fdopen(read) as told:
        lost, boot, *rest = json.loads(told.read())
    os.waitpid(child, 0)
    assert (lost, rest) == (True, [0, 0, 1])
    assert boot != feed.boot
    assert (client.closed, feed.last_id) == (False, 1)


# --- snapshots -------------------------------------------------------------------------------------------------------


def rows(*policies: Any) -> dict[str, dict[str, Any]]:
    own = Registry()
    for policy in policies:
        own.add(policy)
    made = Feed(registry=own)
    snapshot = made.snapshot()
    made.stop()
    assert json.loads(json.dumps(snapshot, allow_nan=False)) == snapshot
    return {row["name"]: row for row in snapshot["policies"]}


def test_a_snapshot_tells_people_how_a_breaker_is() -> None:
    with virtual_time() as clock:
        breaker = CircuitBreaker("breaker", trip=FailureRate(0.5, minimum_calls=2))
        for _ in range(2):
            with pytest.raises(ConnectionError):
                breaker.call(fail)
        rejected(breaker)
        clock.advance(10)
        row = rows(breaker)["breaker"]
        assert row == {
            "kind": "circuit_breaker",
            "name": "breaker",
            "state": "open",
            "reason": "failure_ratio",
            "since": 1_700_000_000.0,
            "down_since": 1_700_000_000.0,
            "next_probe_in": 50.0,
            "rejected": 1,
            "would_reject": 0,
            "failure_ratio": 0.0,
            "slow_ratio": None,
            "window_calls": 0,
            "ramp": 1.0,
            "forced": None,
            "probes": 0,
            "last_error_type": "ConnectionError",
        }
        breaker.force_open(actor="ann", reason="drill", for_=5)
        row = rows(breaker)["breaker"]
        assert row["forced"] == {"actor": "ann", "reason": "drill", "until": 1_700_000_015.0}
        breaker.force_open()
        assert rows(breaker)["breaker"]["forced"] == {"actor": None, "reason": None, "until": None}


def test_a_snapshot_tells_people_how_other_policies_are() -> None:
    budget = RetryBudget("budget")
    found = rows(
        Bulkhead("bulkhead", max_concurrent=2),
        RateLimiter("limiter", rate=5, per=1),
        budget,
        AdaptiveConcurrency("adaptive"),
    )
    assert {key: found["bulkhead"][key] for key in ("usage", "limit", "queue_usage", "queue_limit", "rejected")} == {
        "usage": 0,
        "limit": 2,
        "queue_usage": 0,
        "queue_limit": 0,
        "rejected": 0,
    }
    assert found["limiter"]["permits"] == 5
    assert found["budget"].keys() >= {"balance", "granted", "refused"}
    assert found["adaptive"]["usage"] == 0


class _Odd:
    kind = "odd"
    clock = None

    def __init__(self, name: str, told: Any) -> None:
        self.name = name
        self.told = told

    def snapshot(self) -> Any:
        if isinstance(self.told, Exception):
            raise self.told
        return self.told


def test_a_policy_that_cannot_tell_its_state_does_not_hide_the_others() -> None:
    found = rows(_Odd("raises", ValueError("a secret")), _Odd("not a mapping", 7), _Odd("well", {"state": "fine"}))
    assert found["raises"] == {"kind": "odd", "name": "raises", "unreadable": "ValueError"}
    assert found["not a mapping"]["unreadable"] == "AttributeError"
    assert found["well"]["state"] == "fine"


def test_what_is_no_plain_value_is_told_by_its_class() -> None:
    deep: Any = [[[[["too deep"]]]]]
    told = {"inf": float("inf"), "object": object(), "nested": {1: (True, None)}, "deep": deep, "half": 0.5}
    assert rows(_Odd("odd", told))["odd"] == {
        "kind": "odd",
        "name": "odd",
        "inf": None,
        "object": "object",
        "nested": {"1": [True, None]},
        "deep": [[[["list"]]]],
        "half": 0.5,
    }


class _Fleet:
    name = "orders"
    state = "idle"

    def snapshot(self) -> dict[str, Any]:
        return {"member": "m", "store": "redis", "state": self.state, "losses": 0, "commands": 3}


def test_each_fleet_of_the_policies_is_told_once() -> None:
    fleet = _Fleet()
    sharing = [_Odd(f"p{number}", {}) for number in range(2)]
    for policy in sharing:
        policy.fleet = fleet  # type: ignore[attr-defined]
    row = rows(*sharing)["orders"]
    assert row["kind"] == "fleet"
    assert (row["state"], row["store_type"]) == ("idle", "redis")
    fleet.state = "degraded"
    assert rows(*sharing)["orders"]["state"] == "degraded"
    fleet.state = "connected"
    assert rows(*sharing)["orders"]["state"] == "connected"


def test_the_process_has_a_feed_of_its_registry() -> None:
    breaker = CircuitBreaker("of the process")
    assert isinstance(breaker, Policy)
    try:
        found = feed_of_process.snapshot()["policies"]
        assert any(row["name"] == "of the process" for row in found)
        assert len(found) >= len(list(registry))
    finally:
        feed_of_process.stop()
    assert LEFT_OUT.startswith("resilience.")

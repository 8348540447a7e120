"""What a member makes of records that come at an awkward moment, turn by turn: the test is agent and store."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Generator
from types import SimpleNamespace
from typing import Any

import pytest

from resilience_core import CircuitBreaker, CircuitOpenError, CircuitState, CircuitTransition
from resilience_core._clock import SYSTEM
from resilience_core._machines import shared_circuit
from resilience_core._machines.shared_circuit import MOST_VOTES, SECOND, Record, from_text, to_text
from resilience_core.fleet import _circuit
from resilience_core.redis import RedisFleet
from resilience_core.testing import virtual_time


@pytest.fixture(autouse=True)
def of_its_own_time(monkeypatch: pytest.MonkeyPatch) -> Generator[None]:
    """Time passes where a test says so, and with each answer: on a slow machine a lease of 10 ms was over too soon."""
    with virtual_time() as clock:
        monkeypatch.setattr(_circuit, "time", SimpleNamespace(monotonic=clock.now))
        yield


class Broken(Exception):
    pass


def broken() -> None:
    raise Broken


ANSWERED_IN = 0.0002
"""Seconds."""


class Store:
    """Texts of records; answers what is due as the scripts do."""

    def __init__(self) -> None:
        self.texts: dict[str, bytes] = {}
        self.ahead = 0.0  # seconds by which its clock is before the hosts'

    def turn(self, breaker: CircuitBreaker) -> int:
        """One turn of the agent; how much was asked."""
        shared = breaker._shared
        now = SYSTEM.now()
        requests = shared.requests(now) if shared.due(now) <= now else []
        for request in requests:
            answer = self.answer(request)
            SYSTEM.sleep(ANSWERED_IN)
            request.answer(answer, now, SYSTEM.now())
        return len(requests)

    def settle(self, breaker: CircuitBreaker) -> None:
        """Turns until nothing is due; a lost race is tried again after a pause."""
        end = SYSTEM.now() + 5.0
        shared = breaker._shared
        while SYSTEM.now() < end and (shared._changes or shared.due(SYSTEM.now()) <= SYSTEM.now()):
            self.turn(breaker)
            SYSTEM.sleep(0.002)

    def answer(self, request: Any) -> Any:
        micros, text = round((SYSTEM.wall() + self.ahead) * SECOND), self.texts.get(request.key)
        if request.script == "read":
            return text, micros, 100_000
        expected, new, _, _ = request.args
        if (text or b"") != expected:
            return 0, text, micros
        self.texts[request.key] = new
        return 1, None, micros

    def record(self, breaker: CircuitBreaker) -> Record:
        record = from_text(self.texts[breaker._shared.key].decode())
        assert record is not None
        return record


def member(store: Store, name: str = "m", *, newborn: bool = False, **options: Any) -> CircuitBreaker:
    fleet = RedisFleet("redis://127.0.0.1:1", member=name)
    fleet.agent.attach = lambda item: True  # type: ignore[method-assign]
    breaker = CircuitBreaker("c", fleet=fleet, **{"failure_threshold": 1, "recovery_timeout": 0.01, **options})
    breaker(lambda: 1)()
    for _ in range(0 if newborn else 2):
        store.turn(breaker)
    return breaker


def opened(store: Store, breaker: CircuitBreaker) -> None:
    with pytest.raises(Broken):
        breaker(broken)()
    store.turn(breaker)
    assert store.record(breaker).state is CircuitState.OPEN
    SYSTEM.sleep(0.02)


def test_who_has_closed_it_does_not_open_it_again_for_a_record_of_before() -> None:
    store = Store()
    breaker, other = member(store, success_threshold=1), member(store, "other")
    opened(store, breaker)
    store.turn(other)
    changes: list[Any] = []
    breaker.subscribe(changes.append)
    breaker(lambda: 1)()  # a good probe: closed here, and about to be written
    assert breaker.state is CircuitState.CLOSED
    key = breaker._shared.key
    store.texts[key] = store.texts[key].replace(b'"wanted": ""', b'"wanted": "other/1"')
    breaker._shared._follow(store.record(breaker), store.texts[key], SYSTEM.now())  # another one would probe
    assert breaker.state is CircuitState.CLOSED
    store.settle(breaker)
    assert store.record(breaker).state is breaker.state is CircuitState.CLOSED
    assert [change.state for change in changes] == ["half_open", "closed"]


def test_who_has_closed_it_with_a_lease_that_was_taken_over_follows_the_fleet_again() -> None:
    store = Store()
    breaker = member(store, success_threshold=1)
    opened(store, breaker)
    breaker(lambda: 1)()
    key = breaker._shared.key
    lease = store.record(breaker).lease
    assert lease is not None
    taken = store.texts[key].replace(lease.id.encode(), b"another").replace(lease.holder.encode(), b"another/1")
    store.texts[key] = taken
    store.settle(breaker)
    assert store.texts[key] == taken
    assert breaker.state is CircuitState.OPEN


def test_the_lease_of_a_cancelled_probe_is_passed_on_before_it_ends() -> None:
    store = Store()
    breaker = member(store)
    opened(store, breaker)

    async def cancelled() -> None:
        task = asyncio.ensure_future(breaker(asyncio.sleep)(60))
        await asyncio.sleep(0)
        store.turn(breaker)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    fleet = breaker.fleet
    assert isinstance(fleet, RedisFleet)
    asyncio.run(cancelled())
    woken: list[int] = []
    fleet.agent.wake = lambda: woken.append(1)  # type: ignore[method-assign]

    async def again() -> None:
        task = asyncio.ensure_future(breaker(asyncio.sleep)(60))
        await asyncio.sleep(0)
        woken.clear()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    asyncio.run(again())
    assert woken, "nobody would look at the lease before the next poll"


@pytest.fixture
def short_leases(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shared_circuit, "USE_WITHIN", SECOND // 20)
    monkeypatch.setattr(shared_circuit, "MARGIN", SECOND // 2)
    monkeypatch.setattr(_circuit, "MARGIN", SECOND // 2)


def hanging_probe(store: Store, breaker: CircuitBreaker) -> None:
    """A probe that never ends, and whose lease is over."""
    opened(store, breaker)
    breaker.guard().__enter__()
    assert breaker.state is CircuitState.HALF_OPEN
    store.turn(breaker)
    while breaker.clock.now() < breaker._circuit.probe_until:
        SYSTEM.sleep(0.005)


def turns(store: Store, breaker: CircuitBreaker) -> None:
    for _ in range(3):  # with leases as short as these, something is always due
        store.turn(breaker)


@pytest.mark.usefixtures("short_leases")
def test_a_probe_that_never_ends_does_not_keep_the_circuit_from_closing() -> None:
    """Where no other member calls, nobody else would take the lease over: it was open for ever."""
    store = Store()
    breaker = member(store, probe_timeout=0.01, success_threshold=1)
    hanging_probe(store, breaker)
    turns(store, breaker)
    assert breaker(lambda: "made")() == "made"
    turns(store, breaker)
    assert store.record(breaker).state is breaker.state is CircuitState.CLOSED


@pytest.mark.usefixtures("short_leases")
def test_who_wants_the_lease_of_a_probe_that_never_ends_gets_it() -> None:
    store = Store()
    breaker, other = member(store, probe_timeout=0.01), member(store, "other")
    hanging_probe(store, breaker)
    store.turn(other)  # the next poll is not due, so it asks only after it has heard
    other._shared.heard(other._shared.channels[0], store.texts[other._shared.key], SYSTEM.now())
    with pytest.raises(CircuitOpenError):
        other(lambda: 1)()
    store.turn(other)
    breaker._shared.heard(breaker._shared.channels[0], store.texts[other._shared.key], SYSTEM.now())
    end, holder = SYSTEM.now() + 5.0, ""
    while holder != other._shared.holder and SYSTEM.now() < end:
        store.turn(breaker)
        lease = store.record(breaker).lease
        holder = "" if lease is None else lease.holder
        SYSTEM.sleep(0.005)
    assert holder == other._shared.holder


@pytest.mark.usefixtures("short_leases")
def test_who_has_overslept_the_lease_and_the_life_of_the_record_asks_anew() -> None:
    """It was half open for ever: no lease to probe with, no record to ask for one."""
    store = Store()
    breaker = member(store, probe_timeout=0.01, success_threshold=1)
    hanging_probe(store, breaker)
    changes: list[Any] = []
    breaker.subscribe(changes.append)
    del store.texts[breaker._shared.key]
    breaker._shared.found(SYSTEM.now())  # asks for it now
    store.turn(breaker)
    with pytest.raises(CircuitOpenError):
        breaker(lambda: 1)()
    turns(store, breaker)
    assert breaker(lambda: "made")() == "made"
    turns(store, breaker)
    assert store.record(breaker).state is breaker.state is CircuitState.CLOSED
    states = [change.state for change in changes if isinstance(change, CircuitTransition)]
    assert states == ["open", "half_open", "closed"]


def test_who_probes_alone_in_an_outage_goes_on_when_the_store_comes_back_empty() -> None:
    store = Store()
    breaker = member(store, success_threshold=1)
    opened(store, breaker)
    with breaker.guard():
        breaker._shared.lost(SYSTEM.now())
        store.texts.clear()
        breaker._shared.found(SYSTEM.now())
        store.turn(breaker)
        assert breaker.state is CircuitState.HALF_OPEN
    assert breaker.state is CircuitState.CLOSED


def test_an_opening_of_before_the_fleet_s_good_probes_is_no_vote() -> None:
    """A process was stopped when it had opened its circuit: the fleet, which has recovered since, opened for it."""
    store = Store()
    late, other = member(store, "late", success_threshold=1), member(store, "other", success_threshold=1)
    with pytest.raises(Broken):
        late(broken)()
    assert late._shared.own_opening
    opened(store, other)
    assert other(lambda: "made")() == "made"
    store.settle(other)
    good = store.texts[other._shared.key]
    assert store.record(other).state is CircuitState.CLOSED
    store.settle(late)
    assert store.texts[other._shared.key] == good
    assert late.state is CircuitState.CLOSED


def reset_later(store: Store, person: CircuitBreaker) -> None:
    """By hand, surely after what has been so far: by more than what is uncertain about the server's clock."""
    SYSTEM.sleep(10 * ANSWERED_IN)
    person.reset()
    store.settle(person)


@pytest.mark.parametrize("resets_after", [False, True])
def test_a_reset_by_hand_undoes_the_openings_of_before_it_and_no_later_one(resets_after: bool) -> None:
    """The store answers late: a member has opened its circuit when it hears of a reset of before that."""
    store = Store()
    person, late = member(store, "person"), member(store, "late")
    store.settle(person)
    if not resets_after:
        opened(store, person)
        person.reset()
        store.settle(person)
        assert store.record(person).reason == "manual"
    with pytest.raises(Broken):
        late(broken)()
    if resets_after:
        reset_later(store, person)
    closed: list[Any] = []
    late.subscribe(lambda event: closed.append(event) if event.state == "closed" else None)
    store.settle(late)
    assert late.state is (CircuitState.CLOSED if resets_after else CircuitState.OPEN)
    assert bool(closed) is resets_after, "not for a moment"


@pytest.mark.parametrize("resets_after", [False, True])
def test_a_reset_by_hand_forgets_the_failures_of_before_it_and_no_later_ones(resets_after: bool) -> None:
    """The store answers late: a member has seen failures when it first hears of the circuit, which was reset once."""
    store = Store()
    person, late = member(store, "person"), member(store, "late", newborn=True, failure_threshold=3)
    store.settle(person)
    if not resets_after:
        person.reset()
        store.settle(person)
    for _ in range(2):
        with pytest.raises(Broken):
            late(broken)()
    if resets_after:
        reset_later(store, person)
    store.turn(late)
    assert late.state is CircuitState.CLOSED
    with pytest.raises(Broken):
        late(broken)()
    assert late.state is (CircuitState.CLOSED if resets_after else CircuitState.OPEN)


def test_an_unreadable_message_is_no_reason_to_write_at_once() -> None:
    """Members of two versions would answer each other without a pause: 600 rounds a second were measured."""
    store = Store()
    breaker = member(store)
    store.settle(breaker)
    shared = breaker._shared
    newer = store.texts[shared.key].replace(b'"version": 1', b'"version": 2')
    store.texts[shared.key] = newer
    for _ in range(10):
        shared.heard(shared.channels[0], newer, SYSTEM.now())
        assert store.turn(breaker) == 0


@pytest.mark.parametrize("reason", ["x" * 5_000, "é" * 5_000, '"\n' * 2_000, ""])
def test_a_state_forced_with_a_long_reason_is_readable_for_all(reason: str) -> None:
    store = Store()
    breaker = member(store)
    breaker.force_open(reason=reason, actor="a" * 3_000)
    store.turn(breaker)
    assert store.record(breaker).state is CircuitState.FORCED_OPEN


def test_who_has_forced_a_state_is_not_known_any_more_when_the_record_does_not_tell() -> None:
    store = Store()
    person, other = member(store, "person"), member(store, "other")
    person.force_open(actor="ann")
    store.settle(person)
    for told in (True, False, False, True):
        content = json.loads(store.texts[other._shared.key])
        content["forced"] = {"actor": "ann", "reason": None, "until": None} if told else None
        store.texts[other._shared.key] = json.dumps(content).encode()
        other._shared.found(SYSTEM.now())
        other._shared._poll_at = 0.0
        store.turn(other)
        assert other.state is CircuitState.FORCED_OPEN
        forced = other.snapshot()["forced"]
        assert (forced["actor"] if told else forced) == ("ann" if told else None)


def test_a_state_forced_for_years_is_readable_for_all() -> None:
    store = Store()
    breaker = member(store)
    breaker.force_open(for_=10 * 365 * 24 * 3600)
    store.turn(breaker)
    assert store.record(breaker).state is CircuitState.FORCED_OPEN


def test_an_open_time_of_years_is_readable_for_all() -> None:
    store = Store()
    fleet = RedisFleet("redis://127.0.0.1:1")
    fleet.agent.attach = lambda item: True  # type: ignore[method-assign]
    breaker = CircuitBreaker("c", fleet=fleet, failure_threshold=1, recovery_timeout=2 * 365 * 24 * 3600)
    breaker(lambda: 1)()
    store.turn(breaker)
    store.turn(breaker)
    with pytest.raises(Broken):
        breaker(broken)()
    store.turn(breaker)
    assert store.record(breaker).state is CircuitState.OPEN


@pytest.mark.parametrize("name", ["x" * 200, "é" * 200, "\U0001f600" * 200, '"' * 200, "\udc80" * 10])
def test_the_record_has_room_for_all_members_whatever_they_are_called(name: str) -> None:
    store = Store()
    first = member(store, name)
    record = store.record(first)
    holders = [f"{first._shared.holder[:-4]}{number:04d}" for number in range(MOST_VOTES)]
    votes = tuple((holder, record.since) for holder in holders)
    full = Record(record.state, record.epoch, record.since, "x" * 1_000, members=tuple(holders), votes=votes)
    assert from_text(to_text(full)) == full


@pytest.mark.usefixtures("short_leases")
def test_a_clock_of_the_server_that_is_set_back_keeps_nobody_from_probing_for_a_dead_holder() -> None:
    """Nobody could take its lease before the clock had caught up: the circuit was open for an hour."""
    store = Store()
    store.ahead = 3_600.0
    dead = member(store, "dead")
    others = [member(store, name, success_threshold=1) for name in ("second", "third")]
    opened(store, dead)
    store.ahead = 0.0

    def look() -> None:
        for other in others:
            other._shared._poll_at = 0.0
            store.turn(other)
            store.turn(other)

    for other in others:
        other._shared._fresh = False
    look()
    before = store.record(dead)
    end = SYSTEM.now() + 5.0
    while not any(made(other) for other in others):
        assert SYSTEM.now() < end, store.record(dead)
        look()
        SYSTEM.sleep(0.005)
    assert store.record(dead).epoch == before.epoch, "no other era has begun"
    for other in others:
        store.settle(other)
    look()
    assert {other.state for other in others} == {CircuitState.CLOSED}


def made(breaker: CircuitBreaker) -> bool:
    try:
        return breaker(lambda: True)()
    except CircuitOpenError:
        return False


def test_only_one_member_writes_the_record_that_a_clock_set_back_has_made_one_of_the_future() -> None:
    store = Store()
    store.ahead = 3_600.0
    breakers = [member(store, name) for name in ("first", "second")]
    store.settle(breakers[0])
    epoch = store.record(breakers[0]).epoch
    store.ahead = 0.0
    asked: list[Any] = []
    for breaker in breakers:
        breaker._shared._poll_at = 0.0
        store.turn(breaker)  # all of them have seen it
        asked.append(breaker._shared.requests(SYSTEM.now()))
    for requests in asked:
        for request in requests:
            request.answer(store.answer(request), SYSTEM.now(), SYSTEM.now())
    written = store.texts[breakers[0]._shared.key]
    assert abs(store.record(breakers[0]).written / SECOND - SYSTEM.wall()) < 60
    for breaker in breakers:
        breaker._shared._poll_at = 0.0
        store.settle(breaker)
        assert breaker._shared.era == epoch
    assert store.texts[breakers[0]._shared.key] == written

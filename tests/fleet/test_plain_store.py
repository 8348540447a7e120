"""Circuits shared through a store of the user's own."""

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections.abc import Generator, Mapping
from typing import Any

import pytest

from resilience_core import (
    Bulkhead,
    CircuitBreaker,
    CircuitState,
    ConfigurationError,
    RateLimiter,
    RetryBudget,
    StoreDegraded,
    StoreRecovered,
)
from resilience_core.fleet import StateStore, StoreFleet
from resilience_core.fleet._link import Request
from resilience_core.testing import record_telemetry
from tests.fleet.members import PATIENCE, fail, ok, wait_until


class Table:
    """As a row in any database would do it."""

    def __init__(self) -> None:
        self.rows: dict[str, dict[str, Any]] = {}
        self.broken = False
        self.threads: set[str] = set()

    def get_state(self, name: str) -> Mapping[str, Any] | None:
        self.threads.add(threading.current_thread().name)
        if self.broken:
            raise OSError("the database is away")
        return self.rows.get(name)

    def set_state(self, name: str, state: Mapping[str, Any]) -> None:
        self.rows[name] = dict(sorted(state.items()))  # a database keeps no order of fields


@pytest.fixture
def table() -> Table:
    return Table()


@pytest.fixture
def breakers(table: Table) -> Generator[list[CircuitBreaker]]:
    fleets = [StoreFleet(table, member=f"m{number}", poll_interval=0.5) for number in range(2)]
    made = [CircuitBreaker("graph", fleet=fleet, recovery_timeout=0.3) for fleet in fleets]
    for breaker in made:
        ok(breaker)
        assert breaker.fleet.wait_ready(PATIENCE)
        assert breaker.fleet.flush(PATIENCE)
    wait_until(lambda: made[0]._shared.era == made[1]._shared.era != "")
    yield made
    for fleet in fleets:
        fleet.close()


def test_a_circuit_opens_for_all_and_one_probes(table: Table, breakers: list[CircuitBreaker]) -> None:
    first, second = breakers
    assert isinstance(table, StateStore)
    fail(first, 3)
    wait_until(lambda: table.rows["circuit_breaker:graph"]["failures"] == 3)
    wait_until(lambda: second._shared.alert)
    fail(second, 2)
    wait_until(lambda: first.state is second.state is CircuitState.OPEN)
    holder = wait_until(lambda: next((each for each in breakers if ok(each) == "ok"), None))
    wait_until(lambda: ok(holder) == "ok" and first.state is second.state is CircuitState.CLOSED)
    assert table.threads == {"resilience-fleet"}, "no call waits for the store"


def test_who_writes_after_somebody_else_is_told_what_that_was(table: Table) -> None:
    link, key = StoreFleet(table).open_link(), "circuit_breaker:graph"

    def write(expected: str, content: str) -> list[Any]:
        return link.run([Request("swap", key, (expected, content, 1, ""), lambda *_: None)])

    ((written, current, _),) = write("", '{"failures": 1}')
    assert (written, current) == (1, None)
    ((written, current, _),) = write("", '{"failures": 2}')
    assert (written, current) == (0, b'{"failures": 1}')
    assert table.rows[key] == {"failures": 1}


def test_a_store_that_fails_is_an_outage(table: Table, breakers: list[CircuitBreaker]) -> None:
    first, second = breakers
    table.broken = True
    wait_until(lambda: not first.fleet.connected and not second.fleet.connected)
    fail(first, 5)
    assert (first.state, second.state) == (CircuitState.OPEN, CircuitState.CLOSED)
    table.broken = False
    wait_until(lambda: second.state is CircuitState.OPEN, "what one has decided meanwhile is everybody's then")
    assert first.fleet.snapshot()["store"] == "memory"


def test_what_a_store_or_a_listener_raises_does_not_end_the_agent(breakers: list[CircuitBreaker]) -> None:
    """A store that runs a loop raises its CancelledError, which is no Exception: nothing was shared any more."""
    first, second = breakers
    told: list[type[Any]] = []

    def leave(event: Any) -> None:
        told.append(type(event))
        raise SystemExit

    first.fleet.subscribe(leave)
    store = first.fleet._store
    get_state = store.get_state

    def cancelled(name: str) -> Any:
        raise asyncio.CancelledError

    store.get_state = cancelled
    wait_until(lambda: told == [StoreDegraded] and not second.fleet.connected)
    store.get_state = get_state
    wait_until(lambda: told[:2] == [StoreDegraded, StoreRecovered] and second.fleet.connected)
    fail(first, 5)
    wait_until(lambda: second.state is CircuitState.OPEN)


def test_many_circuits_are_no_slow_store(table: Table, monkeypatch: pytest.MonkeyPatch) -> None:
    """They are asked for one after the other: from so many on, the store was lost with each look at all of them."""
    fleet = StoreFleet(table, poll_interval=100.0, ttl=1_000.0)
    breakers = [CircuitBreaker(f"c{number}", fleet=fleet) for number in range(20)]
    store: Any = fleet._store
    get_state = store.get_state

    def slow(name: str) -> Any:
        time.sleep(0.05)
        return get_state(name)

    monkeypatch.setattr(store, "get_state", slow)
    monkeypatch.setattr(fleet.agent, "_bound", 0.3)  # of which one call takes a sixth, and all of them three
    for breaker in breakers:
        ok(breaker)
    assert fleet.flush(PATIENCE)
    assert fleet.snapshot()["losses"] == 0
    fleet.close()


def test_a_record_whose_time_is_up_counts_as_missing(table: Table) -> None:
    fleet = StoreFleet(table, poll_interval=0.02, ttl=0.3)
    breaker = CircuitBreaker("graph", fleet=fleet)
    ok(breaker)
    wait_until(lambda: breaker._shared.era)
    fail(breaker, 2)
    assert fleet.flush(PATIENCE)
    epoch = table.rows["circuit_breaker:graph"]["epoch"]
    end = time.monotonic() + PATIENCE
    while table.rows["circuit_breaker:graph"]["epoch"] == epoch:
        assert time.monotonic() < end
        time.sleep(0.01)
    assert table.rows["circuit_breaker:graph"]["failures"] == 0
    fleet.close()


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")  # from 3.12 on: this process has threads
def test_a_fork_goes_on_with_a_membership_of_its_own(table: Table, breakers: list[CircuitBreaker]) -> None:
    first, _ = breakers
    child = os.fork()
    if child == 0:
        code = 1
        try:
            ok(first)
            fleet = first.fleet
            code = 0 if fleet.wait_ready(PATIENCE) and str(os.getpid()) in fleet.member else 2
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_what_a_plain_store_cannot_do_is_refused(table: Table) -> None:
    fleet = StoreFleet(table)
    for make in (
        lambda: RateLimiter("sms", rate=1, fleet=fleet),
        lambda: Bulkhead("db", max_concurrent=1, fleet=fleet),
        lambda: RetryBudget("retries", fleet=fleet),
    ):
        with pytest.raises(ConfigurationError, match=r"a StoreFleet shares circuits only.*use a RedisFleet"):
            make()
    with pytest.raises(ConfigurationError, match=r"store must have get_state\(name\) and set_state\(name, state\)"):
        StoreFleet(object())


def test_exchanges_with_the_store_are_measured(table: Table) -> None:
    with record_telemetry(store_durations=True) as recorded:
        fleet = StoreFleet(table, poll_interval=0.02)
        breaker = CircuitBreaker("graph", fleet=fleet)
        ok(breaker)
        assert fleet.wait_ready(PATIENCE)
        store = {"resilience.store.type": "memory", "resilience.store.operation": "exchange"}
        assert recorded.value("resilience.store.operation.duration", store) > 0
        table.broken = True
        failed = store | {"error.type": "OSError"}
        wait_until(lambda: recorded.value("resilience.store.operation.duration", failed))
        lost = {"resilience.store.state": "degraded"}
        wait_until(lambda: recorded.value("resilience.store.status", lost) >= 1)
        fleet.close()

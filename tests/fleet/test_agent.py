"""The agent's life: when it starts, what it survives, how it ends."""

from __future__ import annotations

import gc
import json
import logging
import os
import pickle
import signal
import subprocess
import sys
import threading
import time
import weakref
from pathlib import Path
from typing import Any

import pytest

from resilience_core import Bulkhead, CircuitBreaker, CircuitState, RateLimiter, RetryBudget, TokenQuota
from resilience_core.fleet._agent import Agent, Item
from resilience_core.fleet._link import Request
from resilience_core.redis import RedisFleet
from tests.fleet.members import PATIENCE, Fleets, fail, ok, wait_until

PROGRAM = Path(__file__).with_name("_program.py")
ROOT = Path(__file__).parent.parent.parent

pytestmark = pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")  # from 3.12 on: this process has threads


def run(what: str, fleets: Fleets) -> str:
    """The output of a program that shares a circuit."""
    done = subprocess.run(
        [sys.executable, "-W", "ignore::DeprecationWarning", str(PROGRAM), what, fleets.url, fleets.prefix],
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert done.returncode == 0, done.stderr
    assert not done.stderr, done.stderr
    return done.stdout


def agents() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "resilience-fleet"]


def test_making_a_fleet_and_its_policies_starts_nothing(fleets: Fleets) -> None:
    before = agents()
    fleet = fleets.member()
    breaker = CircuitBreaker("graph", fleet=fleet)
    assert agents() == before
    assert fleets.written() == []
    ok(breaker)
    assert len(agents()) == len(before) + 1
    assert fleet.wait_ready(PATIENCE)


def test_one_thread_serves_all_policies_of_a_fleet(fleets: Fleets) -> None:
    before = len(agents())
    fleet = fleets.member()
    policies = [CircuitBreaker(f"c{number}", fleet=fleet) for number in range(5)]
    policies += [RateLimiter("sms", rate=9, fleet=fleet), Bulkhead("db", max_concurrent=3, fleet=fleet)]
    for policy in policies:
        assert policy.call(lambda: 1) == 1
    assert len(agents()) == before + 1
    assert fleet.wait_ready(PATIENCE)
    assert fleet.flush(PATIENCE)
    assert len(fleets.written()) == 7


def test_a_program_that_makes_no_call_starts_no_thread(fleets: Fleets) -> None:
    assert run("idle", fleets) == "threads 1\n"


def test_what_a_program_saw_is_written_when_it_ends(fleets: Fleets) -> None:
    for _ in range(3):
        run("at-once", fleets)
    assert json.loads(fleets.record())["failures"] == 3


@pytest.mark.parametrize("how", ["fork", "mp-fork", "mp-forkserver", "mp-spawn"])
def test_children_of_all_kinds_are_members_of_their_own(fleets: Fleets, how: str) -> None:
    out = run(how, fleets)
    assert "children [0, 0, 0, 0]" in out
    assert "threads ['resilience-fleet']" in out
    # The parent's failure, and four of the children; where the program is loaded anew no other is made.
    wait_until(lambda: json.loads(fleets.record())["state"] == "open", "all failures count, the children's too")
    assert len(json.loads(fleets.record())["members"]) == 5


def test_a_fork_while_calls_are_made_leaves_no_lock_held(fleets: Fleets) -> None:
    fleet = fleets.member()
    breaker = CircuitBreaker("graph", fleet=fleet, failure_threshold=10**6)
    limiter = RateLimiter("sms", rate=10**6, fleet=fleet)
    bulkhead = Bulkhead("db", max_concurrent=10_000, fleet=fleet)
    budget = RetryBudget("retries", law=TokenQuota(10**6), fleet=fleet)
    stopping = threading.Event()

    def work() -> None:
        while not stopping.is_set():
            fail(breaker)
            limiter.call(lambda: None)
            bulkhead.call(lambda: None)
            budget.began()
            budget.take()

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    try:
        for _ in range(25):
            child = os.fork()
            if child == 0:
                code = 1
                try:
                    signal.alarm(30)  # a lock that is held for ever ends the child by a signal
                    fail(breaker)
                    limiter.call(lambda: None)
                    bulkhead.call(lambda: None)
                    budget.began()
                    budget.take()
                    code = 0 if fleet.wait_ready(PATIENCE) else 3
                finally:
                    os._exit(code)
            assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    finally:
        stopping.set()
        for thread in threads:
            thread.join()


def test_a_child_uses_no_connection_of_its_parent(fleets: Fleets) -> None:
    (breaker,) = fleets.breakers(1)
    numbers = {client["addr"] for client in fleets.client.client_list()}
    parents = sockets()
    link: Any = breaker.fleet.agent._link
    pool = link._client.connection_pool
    own = [link._news.connection, *pool._available_connections, *pool._in_use_connections]
    agents_own = {connection._sock.fileno() for connection in own}
    assert agents_own <= set(parents)
    child = os.fork()
    if child == 0:
        code = 1
        try:
            inherited = [fd for fd, number in sockets().items() if parents.get(fd) == number and fd in agents_own]
            code = 0 if not inherited else 4
            ok(breaker)
            code = code or (0 if breaker.fleet.wait_ready(PATIENCE) else 3)
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    fail(breaker, 5)
    assert breaker.fleet.flush(PATIENCE)
    assert breaker.fleet.snapshot()["losses"] == 0, "the parent's connections were left alone"
    assert numbers <= {client["addr"] for client in fleets.client.client_list()}


def sockets() -> dict[int, str]:
    """The open sockets of this process by their numbers."""
    found = {}
    for entry in Path("/proc/self/fd").iterdir():
        try:
            target = str(entry.readlink())
        except OSError:
            continue
        if target.startswith("socket:"):
            found[int(entry.name)] = target
    return found


def test_close_reports_ends_the_thread_and_leaves_the_policies_working(fleets: Fleets) -> None:
    (breaker,) = fleets.breakers(1)
    fail(breaker, 2)
    before = len(agents())
    breaker.fleet.close()
    breaker.fleet.close()  # again: harmless
    assert len(agents()) == before - 1
    assert json.loads(fleets.record())["failures"] == 2
    assert not breaker.fleet.connected
    fail(breaker, 3)
    assert breaker.state is CircuitState.OPEN, "by itself"
    late = CircuitBreaker("late", fleet=breaker.fleet)
    assert ok(late) == "ok"
    assert Bulkhead("late", max_concurrent=1, fleet=breaker.fleet).call(lambda: 1) == 1
    assert RateLimiter("late", rate=1, fleet=breaker.fleet).call(lambda: 1) == 1
    assert not breaker.fleet.wait_ready(0.01)
    assert not breaker.fleet.flush(0.01)


def test_policies_that_nobody_holds_are_forgotten(fleets: Fleets) -> None:
    fleet = fleets.member()
    breaker = CircuitBreaker("graph", fleet=fleet)
    ok(breaker)
    assert fleet.wait_ready(PATIENCE)
    gone = weakref.ref(breaker)
    del breaker
    wait_until(lambda: gc.collect() >= 0 and gone() is None)
    assert fleet.agent._all() == []


def test_a_fleet_cannot_be_pickled_and_shows_no_address(fleets: Fleets) -> None:
    fleet = RedisFleet("redis://:password@localhost:1/0")
    assert "password" not in repr(fleet)
    assert repr(RedisFleet.__new__(RedisFleet)) == "RedisFleet(name=None, member=None)"
    with pytest.raises(TypeError, match="one process's membership"):
        pickle.dumps(fleet)


def test_no_thread_to_be_had_is_no_error(fleets: Fleets, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    fleet = fleets.member()
    assert ok(CircuitBreaker("graph", fleet=fleet)) == "ok"
    assert Bulkhead("db", max_concurrent=1, fleet=fleet).call(lambda: 1) == 1
    assert RateLimiter("sms", rate=1, fleet=fleet).call(lambda: 1) == 1


def test_a_server_that_does_not_answer_costs_a_call_nothing() -> None:
    fleet = RedisFleet("redis://127.0.0.1:1/0")  # nobody listens there
    breaker = CircuitBreaker("graph", fleet=fleet)
    started = time.monotonic()
    for _ in range(2_000):
        ok(breaker)
    assert time.monotonic() - started < 2_000 * fleet.timeout / 10
    assert fail(breaker, 5) == "failed"
    assert ok(breaker) == "rejected"
    assert fleet.snapshot()["state"] == "degraded"
    fleet.close()


def test_losing_and_finding_the_store_is_logged_without_its_address(
    own_redis_server: Any, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, "resilience_core.store"):
        fleet = RedisFleet(own_redis_server.url, timeout=0.5, name="shop")
        breaker = CircuitBreaker("graph", fleet=fleet)
        ok(breaker)
        assert fleet.wait_ready(PATIENCE)
        own_redis_server.kill()
        wait_until(lambda: not fleet.connected)
        own_redis_server.start()
        assert fleet.wait_ready(PATIENCE)
        fleet.close()
    lines = [record.getMessage() for record in caplog.records]
    assert lines[0] == "The store of fleet 'shop' is lost (ConnectionError): every process decides by itself"
    assert lines[1].startswith("The store of fleet 'shop' is back after ")
    assert str(own_redis_server.port) not in " ".join(lines)


class Broken(Item):
    """An item with a fault of its own."""

    mended = False

    def due(self, now: float) -> float:
        if self.mended:
            return now + 1
        raise ZeroDivisionError

    def requests(self, now: float) -> list[Request]:
        return []

    def lost(self, now: float) -> None:
        raise ZeroDivisionError

    def found(self, now: float) -> None:
        pass

    def after_fork(self) -> None:
        pass


def test_a_fault_of_our_own_does_not_end_the_agent(fleets: Fleets, caplog: pytest.LogCaptureFixture) -> None:
    (breaker,) = fleets.breakers(1)
    agent: Agent = breaker.fleet.agent
    broken = Broken()
    assert agent.attach(broken)
    wait_until(lambda: not agent.connected)
    assert ok(breaker) == "ok"
    broken.mended = True
    assert breaker.fleet.wait_ready(PATIENCE)
    told = [
        record.getMessage().partition(" (at ")[0] for record in caplog.records if "in Broken." in record.getMessage()
    ]
    assert "The store of fleet 'fleet' is lost (ZeroDivisionError): every process decides by itself" in told
    assert any(line.startswith("A policy could not be told that the store is lost (ZeroDiv") for line in told)

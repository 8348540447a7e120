"""The agent's life: when it starts, what it survives, how it ends."""

from __future__ import annotations

import errno
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
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import Any

import pytest

from resilience_core import Bulkhead, CallRejected, CircuitBreaker, CircuitState, RateLimiter, RetryBudget, TokenQuota
from resilience_core.fleet._agent import NEVER, Agent, Item
from resilience_core.fleet._link import Request
from resilience_core.redis import RedisFleet
from tests._cost import size
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
        timeout=120,
        check=False,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert done.returncode == 0, done.stderr
    assert not done.stderr, done.stderr
    return done.stdout


def agents() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "resilience-fleet"]


def test_a_policy_that_joins_later_is_ready_with_its_answer_and_not_with_the_next_look(fleets: Fleets) -> None:
    fleet = fleets.member(poll_interval=60.0, ttl=600.0)
    breakers: list[CircuitBreaker] = []
    for name in ("first", "second"):
        breakers.append(CircuitBreaker(name, fleet=fleet))
        ok(breakers[-1])
        began = time.monotonic()
        assert fleet.wait_ready(PATIENCE)  # true also at its end, when nobody has told it
        assert time.monotonic() - began < PATIENCE / 2


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


def test_a_fleet_is_ready_when_the_store_has_answered_for_the_policy_that_came_last(fleets: Fleets) -> None:
    (first,) = fleets.breakers(1)
    late = CircuitBreaker("late", fleet=first.fleet)
    ok(late)
    assert late.fleet.wait_ready(PATIENCE)
    assert late._shared.era


def test_an_agent_that_has_nothing_to_do_sleeps(fleets: Fleets, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a circuit there are no news, and it woke up twenty times a second to look for them."""
    fleet, sleeps = fleets.member(), []
    wait = fleet.agent._wait

    def noted(until: float, descriptors: Any) -> None:
        sleeps.append(until)
        wait(until, descriptors)

    monkeypatch.setattr(fleet.agent, "_wait", noted)
    RateLimiter("sms", rate=9, strict=True, fleet=fleet).call(lambda: None)
    assert fleet.wait_ready(PATIENCE)
    wait_until(lambda: sleeps[-1:] == [NEVER])


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


def test_children_of_a_process_that_made_its_policies_and_never_called_them_are_members_of_their_own(
    fleets: Fleets,
) -> None:
    """A server that loads the program before it forks: all of its workers had one name, and all had the lease."""
    fleet = fleets.member()
    breaker = CircuitBreaker("graph", fleet=fleet, failure_threshold=3, recovery_timeout=0.1)
    bulkhead = Bulkhead("db", max_concurrent=4, fleet=fleet)
    children = []
    asked, ask = os.pipe()
    for _ in range(3):
        child = os.fork()
        if child == 0:
            code = 1
            try:
                signal.alarm(90)
                fail(breaker)
                guard = bulkhead.guard()
                guard.__enter__()
                wait_until(lambda: breaker.state is CircuitState.OPEN, "three of three have failed")
                os.close(ask)
                os.read(asked, 1)  # until all have seen it, and the parent says so
                code = 0 if breaker._shared.lease is None else 2
            finally:
                os._exit(code)
        children.append(child)
    wait_until(lambda: json.loads(fleets.record() or "{}").get("state") == "open")
    assert len(json.loads(fleets.record())["members"]) == 3
    key = f"{fleets.prefix}rc:{{{fleets.prefix}bulkhead:db}}"
    wait_until(lambda: fleets.client.hlen(key) == 3, "three members have leases of slots")
    os.close(ask)
    codes = sorted(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children)
    os.close(asked)
    assert codes == [0, 0, 2], "one of them has the lease"


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
        for _ in range(size(25, 8)):
            child = os.fork()
            if child == 0:
                code = 1
                try:
                    signal.alarm(90)  # a lock that is held for ever ends the child by a signal
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


def test_an_agent_that_has_said_the_last_word_does_not_sleep_before_it_ends(fleets: Fleets) -> None:
    fleet = fleets.member(timeout=PATIENCE)
    limiter = RateLimiter("sms", rate=9, strict=True, fleet=fleet)
    limiter.call(lambda: None)
    assert fleet.flush(PATIENCE)
    with limiter._shared.lock:  # so that the agent is still at it when it is told to end
        limiter._shared._wanting[limiter._bucket] = True
        ending = threading.Thread(target=fleet.close)
        ending.start()
        wait_until(lambda: fleet.agent._stopping)
    ending.join(PATIENCE)
    assert not ending.is_alive()


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


def refuse(*_: Any) -> Any:
    raise RuntimeError("can't start new thread")


def refuse_files() -> Any:
    raise OSError(errno.EMFILE, "Too many open files")


@pytest.mark.parametrize(
    ("what", "how"), [("threading.Thread.start", refuse), ("os.pipe", refuse_files)], ids=["thread", "file"]
)
def test_no_thread_and_no_file_to_be_had_is_no_error_and_not_for_ever(
    fleets: Fleets, monkeypatch: pytest.MonkeyPatch, what: str, how: Any
) -> None:
    """Whoever came first in a bad moment shared nothing any more, and rejected all calls if it fails closed."""
    budget = RetryBudget("retries", law=TokenQuota(10), fleet=fleets.member())
    policies: list[Any] = [
        CircuitBreaker("graph", fleet=fleets.member()),
        Bulkhead("db", max_concurrent=1, fleet=fleets.member()),
        RateLimiter("sms", rate=100, fleet=fleets.member()),
    ]
    closed: list[Any] = [
        Bulkhead("closed", max_concurrent=1, fail_closed=True, fleet=fleets.member()),
        RateLimiter("closed", rate=100, fail_closed=True, fleet=fleets.member()),
    ]
    with monkeypatch.context() as patched:
        patched.setattr(what, how)
        for _ in range(2):
            assert [policy.call(lambda: 1) for policy in policies] == [1, 1, 1]
            for policy in closed:
                with pytest.raises(CallRejected):
                    policy.call(lambda: 1)
            budget.began()
            assert budget.take() is not None

    def used() -> bool:
        budget.began()
        for policy in (*policies, *closed):
            with suppress(CallRejected), policy.guard() if policy is policies[1] else nullcontext():
                policy.call(lambda: 1)
        return all(policy.fleet.connected for policy in (*policies, *closed, budget))

    wait_until(used)


def test_a_server_that_does_not_answer_costs_a_call_nothing() -> None:
    fleet = RedisFleet("redis://127.0.0.1:1/0")  # nobody listens there
    breaker = CircuitBreaker("graph", fleet=fleet)
    started = time.monotonic()
    for _ in range(2_000):
        ok(breaker)
    assert time.monotonic() - started < 2_000 * fleet.timeout / 10
    assert fail(breaker, 5) == "failed"
    assert ok(breaker) == "rejected"
    wait_until(lambda: fleet.snapshot()["state"] == "degraded", "who has found nobody says so")
    fleet.close()


def test_losing_and_finding_the_store_is_logged_without_its_address(
    own_redis_server: Any, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, "resilience_core.store"):
        fleet = RedisFleet(own_redis_server.url, timeout=5.0, name="shop")
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

    def goodbye(self, now: float) -> list[Request]:
        return []


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

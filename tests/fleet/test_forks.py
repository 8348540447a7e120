"""Locks of the user's - of listeners, of handlers of the log, of a store - are free in the child of a fork."""

from __future__ import annotations

import logging
import os
import signal
import socket
import tempfile
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from resilience_core import Bulkhead, CircuitBreaker, _fork
from resilience_core._fleet_events import StoreDegraded
from resilience_core.admin import AdminSocket
from resilience_core.fleet import StoreFleet
from resilience_core.fleet._log import log_told
from resilience_core.registry import Registry
from resilience_core.testing import record_telemetry
from tests.fleet.members import PATIENCE, Fleets, fail, ok

pytestmark = pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")  # from 3.12 on: this process has threads

_noticed: list[Callable[[], None]] = []
os.register_at_fork(before=lambda: [notice() for notice in _noticed])


def in_child(work: Callable[[], Any]) -> Any:
    """What the work in a child answers, as the code with which it ends; a child that hangs ends by a signal."""
    child = os.fork()
    if child == 0:
        code = 99
        try:
            signal.alarm(int(PATIENCE))
            code = int(work())
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


class Locked:
    """Something of the user's with a lock, in which a thread is while the process begins to fork."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.entered, self.forking = threading.Event(), threading.Event()

    def work(self, *_: Any) -> None:
        with self.lock:
            if not self.forking.is_set():
                self.entered.set()
                assert self.forking.wait(PATIENCE)
                time.sleep(0.05)  # the other thread would have forked long ago

    def free(self) -> bool:
        return self.lock.acquire(timeout=0.5)

    def is_free_in_a_child(self) -> bool:
        assert self.entered.wait(PATIENCE)
        _noticed.append(self.forking.set)
        try:
            return in_child(self.free) == 1
        finally:
            _noticed.remove(self.forking.set)


def test_the_lock_of_a_listener_of_the_fleet(fleets: Fleets) -> None:
    (breaker,) = fleets.breakers(1)
    listener = Locked()
    breaker.fleet.subscribe(listener.work)
    fleets.client.set(f"{fleets.prefix}circuit_breaker:graph", "rubbish")
    assert listener.is_free_in_a_child()


def test_the_lock_of_a_listener_of_a_circuit_that_follows_the_fleet(fleets: Fleets) -> None:
    first, second = fleets.breakers(2)
    listener = Locked()
    second.subscribe(listener.work)
    fail(first, 5)
    assert listener.is_free_in_a_child()


def test_the_lock_of_a_handler_of_the_log() -> None:
    class Handler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            handler.work()

    handler, own = Locked(), Handler()
    logging.getLogger("resilience_core.store").addHandler(own)
    thread = threading.Thread(target=log_told, args=(StoreDegraded("f", 0.0, "OSError"),))
    thread.start()
    try:
        assert handler.is_free_in_a_child()
    finally:
        thread.join()
        logging.getLogger("resilience_core.store").removeHandler(own)


def test_the_locks_of_what_is_imported_with_the_first_connection(fleets: Fleets) -> None:
    """One child in five whose parent forked right after its first call could not resolve a name, for ever."""
    fleet, imports = fleets.member(), Locked()
    agent = fleet.agent
    open_link = agent._open_link

    def connect() -> Any:
        imports.work()
        return open_link()

    agent._open_link = connect
    breaker = CircuitBreaker("graph", fleet=fleet)
    ok(breaker)
    assert imports.is_free_in_a_child()
    assert fleet.wait_ready(PATIENCE)


@pytest.mark.parametrize("function", ["get_state", "set_state"])
def test_the_lock_of_a_store(function: str) -> None:
    store, rows = Locked(), {}

    class Table:
        def get_state(self, name: str) -> Any:
            if function == "get_state":
                store.work()
            return rows.get(name)

        def set_state(self, name: str, state: Any) -> None:
            if function == "set_state":
                store.work()
            rows[name] = dict(state)

    fleet = StoreFleet(Table(), poll_interval=PATIENCE, ttl=10 * PATIENCE)
    breaker = CircuitBreaker("graph", fleet=fleet)
    ok(breaker)
    assert store.is_free_in_a_child()
    fleet.close()


class Slow(Bulkhead):
    """A policy that tells its state under a lock."""

    lock = Locked()

    def snapshot(self) -> dict[str, Any]:
        type(self).lock.work()
        return super().snapshot()


@pytest.fixture
def slow(monkeypatch: pytest.MonkeyPatch) -> Slow:
    monkeypatch.setattr(Slow, "lock", Locked())
    return Slow("slow", max_concurrent=1)


def test_a_policy_that_the_admin_socket_asks(slow: Slow) -> None:
    registry = Registry()
    registry.add(slow)
    with tempfile.TemporaryDirectory() as place, AdminSocket(f"{place}/s", registry=registry) as admin:
        with socket.socket(socket.AF_UNIX) as line:
            line.connect(str(admin.path))
            line.sendall(b'{"command": "status"}\n')
            assert slow.lock.is_free_in_a_child()
            assert line.recv(1)


def test_a_policy_that_the_reader_of_a_meter_asks(slow: Slow) -> None:
    with record_telemetry() as recorded:
        reader = threading.Thread(target=recorded.value, args=("resilience.bulkhead.limit",))
        reader.start()
        assert slow.lock.is_free_in_a_child()
        reader.join()


def test_a_listener_that_hangs_does_not_hold_up_a_fork_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_fork, "LONGEST", 0.05)
    held, done = threading.Event(), threading.Event()

    def hang() -> None:
        with _fork.no_forks:
            held.set()
            done.wait(PATIENCE)

    def work() -> bool:
        with _fork.no_forks:  # it is as if nobody was in there
            return _fork.no_forks._inside == [threading.get_ident()]

    thread = threading.Thread(target=hang)
    thread.start()
    held.wait(PATIENCE)
    assert in_child(work) == 1
    done.set()
    thread.join()
    assert in_child(work) == 1


def test_who_forks_inside_waits_for_nobody() -> None:
    with _fork.no_forks, _fork.no_forks:
        assert in_child(lambda: _fork.no_forks._inside == []) == 1
        _fork.no_forks._renew()  # as the child does, in which all of them are left then
    assert _fork.no_forks._inside == []


def test_nobody_begins_while_another_thread_forks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_fork, "LONGEST", PATIENCE)
    began: list[bool] = []

    def begin() -> None:
        with _fork.no_forks:
            began.append(_fork.no_forks._forking == 0)

    thread = threading.Thread(target=begin)
    _fork.no_forks._before()
    thread.start()
    assert not began
    _fork.no_forks._in_parent()
    thread.join()
    assert began == [True]

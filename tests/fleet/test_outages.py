"""Redis as an outage: whatever happens to it, calls go on by local verdicts, nobody waits, and all is shared again."""

from __future__ import annotations

import asyncio
import functools
import itertools
import json
import os
import random
import signal
import socket
import threading
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from typing import Any

import pytest
import redis
import trio

from resilience_core import (
    Bulkhead,
    BulkheadFullError,
    CallRejected,
    CircuitBreaker,
    CircuitState,
    Event,
    FailureRate,
    RateLimitedError,
    RateLimiter,
    RecordIgnored,
    RetryBudget,
    StoreDegraded,
    StoreRecovered,
    TimeWindow,
    TokenQuota,
)
from resilience_core.fleet._link import Request
from resilience_core.redis import RedisFleet
from resilience_core.redis._link import RedisLink
from resilience_core.testing import FaultProxy
from tests._redis import HOST, RedisServer, running_redis
from tests.fleet.members import PATIENCE, Fleets, fail, ok, wait_until

TIMEOUT = 0.2
"""Of the members that have the outage, in seconds."""
PATIENT = 5.0
"""Of those that are to have none: a slow machine must not look like one."""
SOON = 20.0
"""Seconds within which all is shared again when a fault has ended."""
OUTAGE = 0.3
"""Seconds that a fault lasts at least after it was noticed: several attempts to connect fall into that."""
_names = (f"outage{number}:" for number in itertools.count())


# --- one policy in one member ----------------------------------------------------------------------------------------


class Share:
    """A policy of one member, and what its fleet has told."""

    writes = True
    """Whether using it writes to Redis."""
    listens = False
    """Whether it needs a channel."""

    def __init__(self, fleet: RedisFleet) -> None:
        self.fleet = fleet
        self.heard: list[Event] = []
        fleet.subscribe(self.heard.append)

    def ready(self) -> None:
        self.join()
        assert self.fleet.wait_ready(PATIENCE)
        assert self.fleet.flush(PATIENCE)

    def join(self) -> None:
        """The first call, with which the fleet begins to work for it."""
        self.use()

    def use(self) -> bool:
        """One call: whether it was made. Whatever is raised but the policy's own rejection fails the test."""
        raise NotImplementedError

    def need_the_store(self) -> None:
        """Do something that the store is told of."""
        self.use()

    def notice(self) -> None:
        """Use it until the outage is told of."""
        while not self.told:
            started = time.monotonic()
            self.need_the_store()
            assert time.monotonic() - started < SOON
            time.sleep(0.005)

    def shares_nothing(self) -> bool:
        """Whether it decides alone."""
        return not self.fleet.connected

    def alone(self) -> None:
        """What it decides without the store is what it decides in one process."""
        raise NotImplementedError

    @property
    def told(self) -> list[type[Event]]:
        return [type(event) for event in self.heard]


class Circuit(Share):
    listens = True

    def __init__(self, fleet: RedisFleet) -> None:
        self.breaker = CircuitBreaker("c", fleet=fleet, failure_threshold=3, recovery_timeout=600)
        super().__init__(fleet)

    def use(self) -> bool:
        return ok(self.breaker) == "ok"

    def need_the_store(self) -> None:
        fail(self.breaker)

    def alone(self) -> None:
        assert fail(self.breaker, 3) in ("failed", "rejected")
        assert self.breaker.state is CircuitState.OPEN
        assert not self.use()

    @staticmethod
    def shared(one: Circuit, other: Circuit) -> None:
        # Until it does: failures of before a record that was lost, or not understood, count no more.
        wait_until(lambda: fail(one.breaker) and other.breaker.state is CircuitState.OPEN, "one's failures open both")


class Limit(Share):
    fail_closed, strict = False, False

    def __init__(self, fleet: RedisFleet) -> None:
        self.limiter = RateLimiter(
            "l", rate=1, per=1_000, burst=5, fleet=fleet, strict=self.strict, fail_closed=self.fail_closed
        )
        self.made = 0
        super().__init__(fleet)

    def use(self) -> bool:
        try:
            self.limiter.call(lambda: None)
        except RateLimitedError:
            return False
        self.made += 1
        return True

    def alone(self) -> None:
        made = sum(self.use() for _ in range(10))
        # Perhaps some of its own were used up before: while the outage was noticed, on a slow machine for long.
        assert made == 0 if self.fail_closed else made <= 5 <= self.made, "the limit of one process"
        assert not self.use()

    @staticmethod
    def shared(one: Limit, other: Limit) -> None:
        lost, refused = len(other.told), 0
        while (
            refused < 3
        ):  # once is not enough: where an answer comes late it is refused, too, and what was there stays
            refused = 0 if one.use() else refused + 1
            one.fleet.flush(PATIENCE)
        if other.use():
            wait_until(lambda: len(other.told) > lost, "one has used up what both may, and other is not alone")


class StrictLimit(Limit):
    strict = True


class ClosedLimit(Limit):
    fail_closed = True


class StrictClosedLimit(ClosedLimit):
    strict = True


class Slots(Share):
    listens = True
    fail_closed = False

    def __init__(self, fleet: RedisFleet) -> None:
        self.bulkhead = Bulkhead("b", max_concurrent=2, fleet=fleet, fail_closed=self.fail_closed)
        super().__init__(fleet)

    def enter(self) -> Callable[[], None] | None:
        guard = self.bulkhead.guard()
        try:
            guard.__enter__()
        except BulkheadFullError:
            return None
        return functools.partial(guard.__exit__, None, None, None)

    def use(self) -> bool:
        leave = self.enter()
        if leave is not None:
            leave()
        return leave is not None

    def need_the_store(self) -> None:
        with suppress(BulkheadFullError), self.bulkhead.guard(), self.bulkhead.guard():
            pass

    def alone(self) -> None:
        entered = [self.enter() for _ in range(3)]
        assert [leave is not None for leave in entered] == [not self.fail_closed] * 2 + [False]
        for leave in entered:
            if leave is not None:
                leave()

    @staticmethod
    def shared(one: Slots, other: Slots) -> None:
        held = [wait_until(one.enter, "a slot") for _ in range(2)]
        # Not at once where all keys were lost: leases that are not known any more are found out when they are renewed.
        wait_until(lambda: not other.use(), "one has all slots of both")
        for leave in held:
            leave()


class ClosedSlots(Slots):
    fail_closed = True


class Budget(Share):
    def __init__(self, fleet: RedisFleet) -> None:
        self.granted = 0
        self.budget = RetryBudget("r", law=TokenQuota(6, retry_cost=2), fleet=fleet)
        super().__init__(fleet)

    def join(self) -> None:
        self.budget.began()

    def need_the_store(self) -> None:
        self.budget.began()
        self.use()

    def use(self) -> bool:
        granted = self.budget.take() is not None
        self.granted += granted
        return granted

    def alone(self) -> None:
        for _ in range(5):
            self.use()
        assert 1 <= self.granted <= 3, "the budget of one process"
        assert not self.use()

    @staticmethod
    def shared(one: Budget, other: Budget) -> None:
        lost = len(other.told)
        for _ in range(10):
            one.fleet.flush(PATIENCE)
            one.use()
        for _ in range(5):
            other.fleet.flush(PATIENCE)
            if other.use():
                wait_until(lambda: len(other.told) > lost, "one has spent what both had, and other is not alone")


KINDS: list[Any] = [Circuit, Limit, StrictLimit, ClosedLimit, StrictClosedLimit, Slots, ClosedSlots, Budget]


# --- the story of an outage ------------------------------------------------------------------------------------------


class Rig:
    """Members of fleets that are to have an outage, each with one policy, and a partner of each."""

    def __init__(self, server: RedisServer, proxy: FaultProxy | None = None) -> None:
        self.server = server
        self.proxy = proxy
        self._url = server.url
        self._fleets: list[RedisFleet] = []

    def fleet(self, prefix: str, *, through_proxy: bool, **options: Any) -> RedisFleet:
        url = f"redis://{HOST}:{self.proxy.port}/0" if self.proxy and through_proxy else self._url
        settings = {"timeout": TIMEOUT, "poll_interval": 0.2, "ttl": 30.0, **options}
        fleet = RedisFleet(url, prefix=prefix, **settings)
        self._fleets.append(fleet)
        return fleet

    def pairs(self, kinds: list[Any], timeout: float = TIMEOUT) -> list[tuple[Any, Any]]:
        """Of each kind one that is to have the outage, and one that has it only if the server itself has."""
        made = []
        for kind in kinds:
            prefix = next(_names)
            partner = {"timeout": timeout if self.proxy is None else 5.0}
            one = kind(self.fleet(prefix, through_proxy=True, timeout=timeout))
            other = kind(self.fleet(prefix, through_proxy=False, **partner))
            one.ready()
            other.ready()
            made.append((one, other))
        return made

    def close(self) -> None:
        for fleet in self._fleets:
            fleet.close()


@pytest.fixture
def rig(redis_server: RedisServer) -> Generator[Rig]:
    """Behind a proxy, so that the server itself goes on."""
    with FaultProxy((HOST, redis_server.port)) as proxy:
        made = Rig(redis_server, proxy)
        yield made
        proxy.heal()
        made.close()


@contextmanager
def own_rig(**options: Any) -> Iterator[Rig]:
    """With a server that nobody else needs."""
    with running_redis(**options) as server:
        made = Rig(server)
        yield made
        made.close()


def outage(rig: Rig, begin: Callable[[], Any], end: Callable[[], Any], kinds: list[Any]) -> None:
    """The whole story: noticed once, decided alone, without a wait, and shared again soon after."""
    pairs = rig.pairs(kinds)
    ones = [one for one, _ in pairs]
    wait_until(lambda: all(one.fleet.connected for one in ones))  # on a slow machine some were not, for a moment
    for one in ones:
        one.heard.clear()
    begin()
    with ThreadPoolExecutor(len(ones)) as pool:  # side by side: each of them has to wait for a time-out
        for noticed in [pool.submit(one.notice) for one in ones]:
            noticed.result(PATIENCE)
    for one in ones:
        one.alone()
    calls_take_no_time(ones)
    for one in ones:
        assert one.told == [StoreDegraded], f"{type(one).__name__}: told once, and of no recovery"
        assert not one.fleet.connected
    end()
    ended = time.monotonic()
    wait_until(lambda: all(one.told[:2] == [StoreDegraded, StoreRecovered] for one in ones), "the end is noticed")
    wait_until(lambda: all(other.fleet.connected for _, other in pairs))
    assert time.monotonic() - ended < SOON
    for one, other in pairs:
        type(one).shared(one, other)
        assert one.told[::2] == [StoreDegraded] * len(one.told[::2])
        assert one.told[1::2] == [StoreRecovered] * len(one.told[1::2])


def calls_take_no_time(shares: list[Share], lasts: float = OUTAGE) -> None:
    """For a while use all of them, over and over: but for two of each, and a few, no call waits for an answer.

    A machine that has no time for this process makes some calls long, but not each of them.
    """
    waited = [0] * len(shares)
    end, calls = time.monotonic() + lasts, 0
    while calls < 50 or time.monotonic() < end:
        for number, share in enumerate(shares):
            started = time.monotonic()
            share.use()
            waited[number] += time.monotonic() - started >= TIMEOUT / 2
        calls += 1
        time.sleep(0.002)
    assert max(waited) <= 2 + calls // 25, f"of {calls} calls of each waited {waited}"


PROXY_FAULTS: dict[str, Callable[[FaultProxy], Any]] = {
    "refused": lambda proxy: (proxy.refuse(), proxy.reset()),
    "black hole": lambda proxy: proxy.black_hole(),
    "reset": lambda proxy: proxy.reset(new=True),
    "slow": lambda proxy: proxy.latency(TIMEOUT),
    "throttled": lambda proxy: proxy.throttle(20),
    "cut at once": lambda proxy: proxy.cut_after(0),
    "cut in the first reply": lambda proxy: proxy.cut_after(3),
    "cut in a later reply": lambda proxy: proxy.cut_after(21),
}


@pytest.mark.parametrize("fault", PROXY_FAULTS.values(), ids=PROXY_FAULTS)
def test_an_outage_of_the_network(rig: Rig, fault: Callable[[FaultProxy], Any]) -> None:
    proxy = rig.proxy
    assert proxy is not None
    outage(rig, lambda: fault(proxy), proxy.heal, KINDS)


def load_slowly(server: RedisServer) -> None:
    """Have the server read its keys anew, which takes it for ever: until the delay is taken away."""
    with server.client() as client:
        client.mset({f"ballast{number}": "x" * 1_000 for number in range(1_000)})
    server.ask("CONFIG", "SET", "key-load-delay", 10_000)
    with server.client() as client:
        connection = client.connection_pool.get_connection()
        connection.send_command("DEBUG", "RELOAD")  # its answer comes when all is loaded
        wait_until(lambda: server.ask("INFO", "persistence")["loading"])
        connection.disconnect()


SERVER_FAULTS: dict[str, tuple[Callable[[RedisServer], Any], Callable[[RedisServer], Any], list[Any]]] = {
    "killed, and back empty": (lambda server: server.kill(), lambda server: server.start(), KINDS),
    "hung": (lambda server: server.pause(), lambda server: server.resume(), KINDS),
    "read-only": (
        lambda server: server.ask("REPLICAOF", HOST, 1),
        lambda server: server.ask("REPLICAOF", "NO", "ONE"),
        KINDS,
    ),
    "out of memory": (
        lambda server: server.ask("CONFIG", "SET", "maxmemory", 1),
        lambda server: server.ask("CONFIG", "SET", "maxmemory", 0),
        KINDS,
    ),
    "loading": (
        load_slowly,
        lambda server: server.ask("CONFIG", "SET", "key-load-delay", 0),
        KINDS,
    ),
    "without the right to run scripts": (
        lambda server: server.ask("ACL", "SETUSER", "default", "-evalsha"),
        lambda server: server.ask("ACL", "SETUSER", "default", "+evalsha"),
        KINDS,
    ),
    "without the right to listen": (
        lambda server: server.ask("ACL", "SETUSER", "default", "resetchannels"),
        lambda server: server.ask("ACL", "SETUSER", "default", "allchannels"),
        [kind for kind in KINDS if kind.listens],
    ),
    "without the right to write": (
        lambda server: server.ask("ACL", "SETUSER", "default", "-@write", "+evalsha"),
        lambda server: server.ask("ACL", "SETUSER", "default", "+@write"),
        KINDS,
    ),
    "without the right to read": (
        lambda server: server.ask("ACL", "SETUSER", "default", "-get", "-hget", "-hgetall"),
        lambda server: server.ask("ACL", "SETUSER", "default", "+get", "+hget", "+hgetall"),
        KINDS,
    ),
}
SLOW_TO_LOAD = ("--enable-debug-command", "yes", "--rdbcompression", "no")
SLOW_TO_LOAD += ("--loading-process-events-interval-bytes", "1024")


@pytest.mark.parametrize(("begin", "end", "kinds"), SERVER_FAULTS.values(), ids=SERVER_FAULTS)
def test_an_outage_of_the_server(begin: Any, end: Any, kinds: list[Any]) -> None:
    with own_rig(arguments=SLOW_TO_LOAD if begin is load_slowly else ()) as rig:
        outage(rig, lambda: begin(rig.server), lambda: end(rig.server), kinds)


# --- before and while it is noticed ----------------------------------------------------------------------------------


def test_a_store_that_hangs_from_the_start_is_an_outage_too(rig: Rig) -> None:
    proxy = rig.proxy
    assert proxy is not None
    proxy.black_hole()
    shares = [kind(rig.fleet(next(_names), through_proxy=True)) for kind in KINDS]
    with ThreadPoolExecutor(len(shares)) as pool:
        for noticed in [pool.submit(share.notice) for share in shares]:
            noticed.result(PATIENCE)
    for share in shares:
        share.alone()
    latecomers = [kind(share.fleet) for kind in KINDS for share in shares[:1]]  # policies that begin in the outage
    calls_take_no_time([*shares, *latecomers], lasts=0.0)
    assert all(share.told == [StoreDegraded] for share in shares)
    proxy.heal()
    wait_until(lambda: all(share.told == [StoreDegraded, StoreRecovered] for share in shares))
    wait_until(lambda: not any(share.shares_nothing() for share in latecomers), "latecomers share, too")


class DrippingProxy:
    """Passes requests on at once, and answers byte by byte: each byte comes in time, the whole answer does not."""

    def __init__(self, server: RedisServer) -> None:
        self.pause = 0.0
        self._server = server
        self._listener = socket.create_server((HOST, 0))
        self.port = self._listener.getsockname()[1]
        self._sockets = [self._listener]
        self._run(self._accept)

    def _run(self, work: Callable[..., None], *args: Any) -> None:
        threading.Thread(target=work, args=args, daemon=True).start()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                server = socket.create_connection((HOST, self._server.port))
                self._sockets += [client, server]
                self._run(self._pass, client, server, False)
                self._run(self._pass, server, client, True)

    def _pass(self, source: socket.socket, target: socket.socket, slowly: bool) -> None:
        with suppress(OSError):
            while data := source.recv(1 if slowly and self.pause else 65_536):
                if slowly:
                    time.sleep(self.pause)
                target.sendall(data)
        for end in (source, target):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        for each in self._sockets:
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()


def test_while_an_answer_drips_in_one_call_waits_for_it_and_no_other(redis_server: RedisServer) -> None:
    proxy = DrippingProxy(redis_server)
    with Fleets(redis_server.url, "") as fleets:
        source = f"redis://{HOST}:{proxy.port}/0"
        ones = [kind(fleets.member(source=source, prefix=next(_names), timeout=TIMEOUT)) for kind in KINDS]
        for one in ones:
            one.ready()
            one.heard.clear()
        proxy.pause = TIMEOUT / 4
        calls_take_no_time(ones, lasts=0.0)
        slots = next(one for one in ones if type(one) is Slots)
        wait_until(lambda: slots.bulkhead._shared.alone or slots.need_the_store())
        slots.alone()
        # It is an outage when an answer has ended that took too long. That of a circuit, a whole record, would take a
        # minute here: its verdicts are local meanwhile.
        short = [one for one in ones if type(one) is not Circuit]
        with ThreadPoolExecutor(len(short)) as pool:
            for noticed in [pool.submit(one.notice) for one in short]:
                noticed.result(PATIENCE)
        proxy.pause = 0.0
        wait_until(lambda: all(one.told[-1] is StoreRecovered for one in short))
        proxy.close()


def test_what_a_bulkhead_allowed_itself_in_an_outage_is_not_what_it_leases_after_it(rig: Rig) -> None:
    ((one, other),) = rig.pairs([Slots])
    assert rig.proxy is not None
    rig.proxy.refuse()
    rig.proxy.reset()
    one.notice()
    assert one.bulkhead.snapshot()["limit"] == 2
    rig.proxy.heal()
    wait_until(lambda: StoreRecovered in one.told)
    assert one.bulkhead.snapshot()["limit"] <= 1
    assert other.use()


def test_no_loop_is_blocked_while_redis_hangs(rig: Rig) -> None:
    """Tasks go on while another one waits for a permit; a circuit does not wait at all."""
    pairs = rig.pairs([Circuit, StrictLimit, Slots])
    (circuit, _), (limit, _), (slots, _) = pairs
    assert rig.proxy is not None

    async def nothing() -> str:
        return "ok"

    async def all_of(sleep: Callable[[float], Any]) -> None:
        with suppress(CallRejected):
            await limit.limiter.acall(nothing)
        with suppress(CallRejected):
            async with slots.bulkhead.guard(), slots.bulkhead.guard():
                await sleep(0)
        assert await circuit.breaker.acall(nothing) == "ok"

    async def with_asyncio() -> int:
        ticks = 0
        waiting = asyncio.ensure_future(all_of(asyncio.sleep))
        while not waiting.done():
            await asyncio.sleep(TIMEOUT / 50)
            ticks += 1
        await waiting
        return ticks

    async def with_trio() -> int:
        ticks = 0
        done = trio.Event()

        async def wait() -> None:
            await all_of(trio.sleep)
            done.set()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(wait)
            while not done.is_set():
                await trio.sleep(TIMEOUT / 50)
                ticks += 1
        return ticks

    for run in (lambda: asyncio.run(with_asyncio()), lambda: trio.run(with_trio)):
        wait_until(lambda: all(one.fleet.connected for one, _ in pairs))
        rig.proxy.black_hole()
        assert run() >= 3
        wait_until(lambda: StoreDegraded in limit.told)
        rig.proxy.heal()


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")  # from 3.12 on: this process has threads
def test_a_fork_while_redis_hangs(rig: Rig) -> None:
    """The child decides alone as its parent does, and shares when Redis is back, on connections of its own."""
    pairs = rig.pairs(KINDS)
    ones = [one for one, _ in pairs]
    for one in ones:
        one.heard.clear()
    assert rig.proxy is not None
    rig.proxy.black_hole()
    pairs[1][0].use()  # the agent of this one waits for an answer while the process forks
    readable, writable = os.pipe()
    child = os.fork()
    if child == 0:
        signal.alarm(int(PATIENCE))  # a child that hangs ends with a signal
        code = 1
        try:
            started = time.monotonic()
            for one in ones:
                one.heard.clear()
                one.need_the_store()
            assert time.monotonic() - started < SOON
            os.write(writable, b"!")
            wait_until(lambda: all(one.fleet.connected or one.need_the_store() for one in ones))
            code = 0
        finally:
            os._exit(code)
    assert os.read(readable, 1) == b"!", "all its calls have ended while Redis hung"
    rig.proxy.heal()
    assert os.waitpid(child, 0) == (child, 0)
    for end in (readable, writable):
        os.close(end)
    wait_until(lambda: all(one.fleet.connected for one in ones), "and the parent goes on, too")


# --- news ------------------------------------------------------------------------------------------------------------


class FirstElsewhere(redis.Connection):
    """The first connection of each process goes to another port: it is the one for news."""

    ports: list[int] = []

    def __init__(self, *, port: int, **options: Any) -> None:
        super().__init__(port=self.ports.pop() if self.ports else port, **options)


def test_without_news_the_next_look_at_the_record_tells(redis_server: RedisServer) -> None:
    with FaultProxy((HOST, redis_server.port)) as news, Fleets(redis_server.url, next(_names)) as fleets:
        FirstElsewhere.ports = [news.port]
        pool = redis.ConnectionPool(connection_class=FirstElsewhere, host=HOST, port=redis_server.port)
        with redis.Redis(connection_pool=pool) as source:
            one = Circuit(fleets.member(source=source, poll_interval=0.2, timeout=0.5))
            one.ready()
        assert news.accepted == 1
        other = Circuit(fleets.member())
        other.ready()
        news.black_hole()
        Circuit.shared(other, one)
        assert one.told == []
        late = CircuitBreaker("late", fleet=one.fleet)
        ok(late)
        wait_until(lambda: StoreDegraded in one.told, "a subscription that is not confirmed shows that nobody is there")
        wait_until(lambda: one.told[-1] is StoreRecovered, "and it begins anew")


def test_news_that_come_while_a_subscription_is_confirmed_are_not_lost(fleets: Fleets) -> None:
    link = RedisLink(fleets.url, 5.0)
    link.listen([f"{fleets.prefix}a"])
    fleets.client.publish(f"{fleets.prefix}a", "early")
    link.listen([f"{fleets.prefix}a", f"{fleets.prefix}b"])
    fleets.client.publish(f"{fleets.prefix}b", "late")
    heard: list[tuple[str, bytes]] = []
    wait_until(lambda: heard.extend(link.news()) or len(heard) == 2)
    assert heard == [(f"{fleets.prefix}a", b"early"), (f"{fleets.prefix}b", b"late")]
    link.listen([])
    assert link.descriptors() == [], "of a connection that nobody reads nobody sees the end"
    link.close()


# --- what is no outage -----------------------------------------------------------------------------------------------


@pytest.fixture
def short_leases(monkeypatch: pytest.MonkeyPatch) -> None:
    """Slots whose lease was lost are found out soon."""
    monkeypatch.setattr("resilience_core.fleet._bulkhead.LEASE", 0.6)


@pytest.mark.parametrize("lost", [["SCRIPT", "FLUSH"], ["FLUSHALL"]], ids=" ".join)
def test_lost_scripts_and_lost_keys_are_no_outage(lost: list[str], short_leases: None) -> None:
    with own_rig() as rig:
        pairs = rig.pairs(KINDS, PATIENT)
        for _ in range(3):
            rig.server.ask(*lost)
            for one, _ in pairs:
                one.use()
            assert all(share.fleet.flush(PATIENCE) for pair in pairs for share in pair)
        for one, other in pairs:
            type(one).shared(one, other)
            assert one.told == other.told == []


@pytest.mark.parametrize("count", [1, 2])
def test_scripts_that_are_lost_again_and_again_are_no_outage(
    count: int, fleets: Fleets, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between any two commands of ours: the second attempt needs nothing that the first one left at the server."""
    send = RedisLink._send

    def after_a_flush(link: RedisLink, requests: Sequence[Request], **options: bool) -> list[Any]:
        fleets.client.script_flush()
        return send(link, requests, **options)

    monkeypatch.setattr(RedisLink, "_send", after_a_flush)
    link = RedisLink(fleets.url, 5.0)
    requests = [Request("read", f"{fleets.prefix}{number}", (), lambda *_: None) for number in range(count)]
    assert [type(reply) for reply in link.run(requests)] == [tuple] * count
    link.close()


def test_a_server_that_does_not_tell_its_time_is_no_outage() -> None:
    with own_rig(users=["default on nopass ~* &* +@all -time"]) as rig:
        for one, other in rig.pairs(KINDS, PATIENT):
            type(one).shared(one, other)
            assert one.told == other.told == []


def poison(client: redis.Redis, key: str, number: int) -> None:
    """Put something else into the place of a key: by turns each type, and texts that may look right."""
    chance = random.Random(number)
    digits = "".join(chance.choices("0123456789", k=chance.choice((1, 3, 20, 40, 58))))
    text = chance.choice(
        (
            "",
            "\0",
            digits,
            "nan",
            f"{digits}:{digits}:{digits}",
            f"{digits}:{digits}:{digits}:{digits}",
            f"-1:-{digits}:{digits}:-{digits}",
            f"{digits}.5:{digits}",
            f"ab:{digits}:{digits}",
            f"ab:2:{int(time.time() * 1000) + 1_800_000}",
            "[" * 100_000,
            json.dumps({"version": 1, "state": "open", "written": digits}),
            chance.randbytes(200).decode("latin-1"),
        )
    )
    # In one step: a member's agent writes what is missing, and may do so between a deletion and what takes the place.
    with client.pipeline(transaction=True) as both:
        both.delete(key)
        kind = number % 6
        if kind == 0:
            both.rpush(key, text)
        elif kind == 1:
            both.zadd(key, {text: 1})
        elif kind == 2:
            both.hset(key, mapping={"=": text, "ghost": text, "m": text})
        elif kind == 3:
            both.xadd(key, {"field": text})
        else:
            both.set(key, text)
        both.execute()


def epoch_in(client: redis.Redis, key: str) -> Any:
    try:
        return json.loads(client.get(key))["epoch"]
    except (redis.ResponseError, TypeError, KeyError, ValueError, RecursionError):  # not healed so far
        return None


SCRIPTS: dict[str, tuple[Any, ...]] = {
    "read": (),
    "swap": ("", "{}", 1_000, "channel"),
    "take": (10**9, 5, 0, 1, 1, 1, 0, 0),
    "slots": ("m", "ab", 2, 4, 6_000, "channel", 0),
    "budget": ("500", "0", "0", "500", "1.0", "5.0", "5", 1_000, 0),
    "window": ("m", 3, 1, 10_000, "channel", 0),
}


@pytest.mark.parametrize("name", SCRIPTS)
def test_no_value_and_no_type_makes_a_script_fail(fleets: Fleets, name: str) -> None:
    link, key = RedisLink(fleets.url, 5.0), f"{fleets.prefix}poisoned"
    for number in range(150):
        poison(fleets.client, key, number)
        for _ in range(2):
            (reply,) = link.run([Request(name, key, SCRIPTS[name], lambda *_: None)])
            assert not isinstance(reply, Exception), (number, reply)
        assert name in ("read", "swap") or fleets.client.pttl(key) > 0, "what is there lapses"
    link.close()


@pytest.mark.parametrize("number", range(6))
def test_poisoned_keys_are_no_outage_and_heal(rig: Rig, number: int, short_leases: None) -> None:
    pairs = rig.pairs(KINDS, PATIENT)
    rates = FailureRate(0.5, window=TimeWindow(60), minimum_calls=4)
    heard: list[Event] = []
    for prefix in {one.fleet.keys.prefix for one, _ in pairs[:1]}:
        rated = [
            CircuitBreaker("rate", trip=rates, fleet=rig.fleet(prefix, through_proxy=False, timeout=PATIENT))
            for _ in range(2)
        ]
        for breaker in rated:
            breaker.fleet.subscribe(heard.append)
            fail(breaker)
            assert breaker.fleet.flush(PATIENCE)
    with rig.server.client() as client:
        for one, _ in pairs:
            for key in client.keys(f"{one.fleet.keys.prefix}*"):
                poison(client, key, number)
        for one, other in pairs:
            one.need_the_store()
            type(one).shared(one, other)
            heard += [*one.heard, *other.heard]
        # With another record another era has begun, and failures of the one before count no more.
        key = rated[0].fleet.keys.circuit("rate")
        wait_until(
            lambda: {epoch_in(client, key), *(breaker._shared.era for breaker in rated)} == {rated[0]._shared.era}
        )
    for breaker in rated:
        fail(breaker, 3)
    wait_until(lambda: all(breaker.state is CircuitState.OPEN for breaker in rated))
    assert all(isinstance(event, RecordIgnored) for event in heard), heard

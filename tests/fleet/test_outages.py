"""Redis as an outage: whatever happens to it, calls go on by local verdicts, nobody waits, and all is shared again."""

from __future__ import annotations

import functools
import itertools
import time
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from typing import Any

import pytest
import redis

from resilience_core import (
    Bulkhead,
    BulkheadFullError,
    CircuitBreaker,
    CircuitState,
    Event,
    RateLimitedError,
    RateLimiter,
    RetryBudget,
    StoreDegraded,
    StoreRecovered,
    TokenQuota,
)
from resilience_core.redis import RedisFleet
from resilience_core.testing import FaultProxy
from tests._redis import HOST, RedisServer, running_redis
from tests.fleet.members import PATIENCE, fail, ok, wait_until

TIMEOUT = 0.25
"""Of the members that have the outage, in seconds."""
SOON = 5.0
"""Seconds within which all is shared again when a fault has ended."""
OUTAGE = 0.5
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
        self.join()
        assert fleet.wait_ready(PATIENCE)
        assert fleet.flush(PATIENCE)

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
        fail(one.breaker, 3)
        wait_until(lambda: other.breaker.state is CircuitState.OPEN, "what one knows reaches the other")


class Limit(Share):
    fail_closed, strict = False, False

    def __init__(self, fleet: RedisFleet) -> None:
        self.limiter = RateLimiter(
            "l", rate=1, per=1_000, burst=5, fleet=fleet, strict=self.strict, fail_closed=self.fail_closed
        )
        super().__init__(fleet)

    def use(self) -> bool:
        try:
            self.limiter.call(lambda: None)
        except RateLimitedError:
            return False
        return True

    def alone(self) -> None:
        made = sum(self.use() for _ in range(10))
        assert made == 0 if self.fail_closed else 1 <= made <= 5, "the limit of one process"
        assert not self.use()

    @staticmethod
    def shared(one: Limit, other: Limit) -> None:
        while one.use():
            pass
        assert not other.use(), "one has used up what both may"


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
        assert other.enter() is None, "one has all slots of both"
        for leave in held:
            leave()


class ClosedSlots(Slots):
    fail_closed = True


class Budget(Share):
    def __init__(self, fleet: RedisFleet) -> None:
        self.budget = RetryBudget("r", law=TokenQuota(6, retry_cost=2), fleet=fleet)
        super().__init__(fleet)

    def join(self) -> None:
        self.budget.began()

    def use(self) -> bool:
        return self.budget.take() is not None

    def alone(self) -> None:
        assert 1 <= sum(self.use() for _ in range(10)) <= 3, "the budget of one process"
        assert not self.use()

    @staticmethod
    def shared(one: Budget, other: Budget) -> None:
        for _ in range(10):
            one.fleet.flush(PATIENCE)
            one.use()
        for _ in range(5):
            other.fleet.flush(PATIENCE)
            assert not other.use(), "one has spent what both had"


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

    def pairs(self, kinds: list[Any]) -> list[tuple[Any, Any]]:
        """Of each kind one that is to have the outage, and one that has it only if the server itself has."""
        made = []
        for kind in kinds:
            prefix = next(_names)
            partner = {} if self.proxy is None else {"timeout": 5.0}
            made.append(
                (
                    kind(self.fleet(prefix, through_proxy=True)),
                    kind(self.fleet(prefix, through_proxy=False, **partner)),
                )
            )
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
    """For a while use all of them, over and over: together the calls wait for less than two answers would."""
    spent = [0.0] * len(shares)
    end, calls = time.monotonic() + lasts, 0
    while calls < 50 or time.monotonic() < end:
        for number, share in enumerate(shares):
            started = time.monotonic()
            share.use()
            spent[number] += time.monotonic() - started
        calls += 1
        time.sleep(0.002)
    assert max(spent) < 2 * TIMEOUT, f"seconds that the calls of each waited: {spent}"


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
    with server.client(socket_timeout=0.1) as client, suppress(redis.TimeoutError):
        client.execute_command("DEBUG", "RELOAD")


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

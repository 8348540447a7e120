"""The same story on every kind of Redis that a fleet may find: servers, addresses, clients, clusters, users."""

from __future__ import annotations

import contextlib
import gc
import itertools
import os
import signal
import time
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
from redis.backoff import ConstantBackoff
from redis.cache import CacheConfig
from redis.crc import key_slot
from redis.exceptions import NoPermissionError
from redis.retry import Retry
from redis.sentinel import Sentinel

from resilience_core import (
    Bulkhead,
    BulkheadFullError,
    CallRejected,
    CircuitBreaker,
    CircuitState,
    ConsecutiveFailures,
    Event,
    FailureRate,
    RateLimitedError,
    RateLimiter,
    RetryBudget,
    StoreDegraded,
    StoreRecovered,
    TimeWindow,
    TokenQuota,
)
from resilience_core.fleet import SharedStore
from resilience_core.redis import RedisFleet
from resilience_core.testing import FaultProxy
from tests._redis import (
    HOST,
    RedisCluster,
    RedisSentinel,
    RedisServer,
    other_redis_servers,
    running_redis,
    running_redis_sentinel,
)
from tests.fleet.members import PATIENCE, fail, ok, wait_until

OPEN, CLOSED = CircuitState.OPEN, CircuitState.CLOSED
_prefixes = (f"d{number}:" for number in itertools.count())

# What docs/fleet.md says that the user of a fleet needs; with a prefix p: `~p:circuit_breaker:* ~p:rc:*` and `&p:rc:*`.
ACL_KEYS = "~circuit_breaker:* ~rc:*"
ACL_CHANNELS = "&rc:*"
ACL_COMMANDS = (
    "+evalsha +eval +subscribe +unsubscribe "  # of the agent
    "+publish +get +set +del +pttl +pexpire +hget +hgetall +hset +hdel +time"  # of its scripts
)
ACL = f"on >{{password}} resetkeys {ACL_KEYS} resetchannels {ACL_CHANNELS} -@all {ACL_COMMANDS}"
ACL_CLUSTER = "+cluster|slots +command +asking"
"""What redis-py asks a cluster for, beside that."""
PASSWORD = "pass:word"


# --- the story -------------------------------------------------------------------------------------------------------


class Members:
    """Members of fleets, closed at the end, and what they were told."""

    def __init__(self) -> None:
        self.made: list[RedisFleet] = []
        self.heard: list[Event] = []

    def member(self, source: Any, **options: Any) -> RedisFleet:
        settings = {"timeout": 4.0, "poll_interval": 0.2, "ttl": 30.0, **options}
        fleet = RedisFleet(source, **settings)
        fleet.subscribe(self.heard.append)
        self.made.append(fleet)
        return fleet

    @property
    def told(self) -> list[type[Event]]:
        return [type(event) for event in self.heard]

    def close(self) -> None:
        for fleet in self.made:
            fleet.close()


@pytest.fixture
def members() -> Generator[Members]:
    made = Members()
    yield made
    made.close()


def tell(members: Members, source: Any, look: list[redis.Redis] | None = None, prefix: str | None = None) -> None:
    """Two members share a circuit, a limit, slots, a budget and values; the keys of each are in one slot, and lapse."""
    prefix = next(_prefixes) if prefix is None else prefix
    one, other = (members.member(source, prefix=prefix) for _ in range(2))
    heard: list[Event] = []
    for fleet in (one, other):
        fleet.subscribe(heard.append)
    share_a_circuit(one, other)
    share_a_limit(one, other)
    share_slots(one, other)
    share_a_budget(one, other)
    share_values(one, other)
    if look is not None:
        check_keys(look, prefix)
    assert heard == [], "nothing was lost meanwhile"


def share_a_circuit(one: RedisFleet, other: RedisFleet, name: str = "graph") -> None:
    trip = ConsecutiveFailures(5) | FailureRate(0.9, window=TimeWindow(30), minimum_calls=1_000)
    breakers = [
        CircuitBreaker(name, fleet=fleet, trip=trip, recovery_timeout=0.2, success_threshold=1)
        for fleet in (one, other)
    ]
    first, second = breakers
    for breaker in breakers:
        ok(breaker)
        assert breaker.fleet.wait_ready(PATIENCE)
        assert breaker.fleet.flush(PATIENCE)
    wait_until(lambda: first._shared.era == second._shared.era)
    fail(first, 3)
    assert one.flush(PATIENCE)
    assert first.state is second.state is CLOSED
    fail(second, 2)
    wait_until(lambda: first.state is second.state is OPEN, "failures of both count")
    wait_until(lambda: ok(second) == "ok", "one probes")
    wait_until(lambda: first.state is second.state is CLOSED, "and closes for both")


def share_a_limit(one: RedisFleet, other: RedisFleet, name: str = "sms") -> None:
    first, second = (RateLimiter(name, rate=1, per=1_000, burst=4, strict=True, fleet=each) for each in (one, other))
    assert [admitted(limiter) for limiter in (first, second, first, second, first, second)] == [True] * 4 + [False] * 2


def share_slots(one: RedisFleet, other: RedisFleet, name: str = "db") -> None:
    first, second = (Bulkhead(name, max_concurrent=2, fleet=fleet) for fleet in (one, other))
    with first.guard():
        with second.guard(), pytest.raises(BulkheadFullError):
            first.call(print)
        wait_until(lambda: admitted(first), "what one gives back is the other's")


def share_a_budget(one: RedisFleet, other: RedisFleet, name: str = "retries") -> None:
    first, second = (RetryBudget(name, law=TokenQuota(6, retry_cost=2), fleet=fleet) for fleet in (one, other))
    for budget in (first, second):
        budget.began()
        assert budget.fleet.wait_ready(PATIENCE)
        assert budget.fleet.flush(PATIENCE)
    granted = 0
    for budget in [first] * 8 + [second] * 8:
        granted += budget.take() is not None
        assert budget.fleet.flush(PATIENCE)
    assert granted == 3


def share_values(one: RedisFleet, other: RedisFleet, name: str = "prices") -> None:
    first, second = (SharedStore(name, fleet=fleet) for fleet in (one, other))
    for store in (first, second):
        assert store.get("tea") is None
        assert store.fleet.wait_ready(PATIENCE)
    first.set("tea", 5, time.time())
    wait_until(lambda: second.get("tea") is not None, "what one sets the other has")
    second.clear()
    wait_until(lambda: len(first) == 0, "and what one forgets the other does")
    assert other.flush(PATIENCE)


def admitted(policy: Any) -> bool:
    try:
        policy.call(lambda: None)
    except (RateLimitedError, BulkheadFullError):
        return False
    return True


def check_keys(clients: list[redis.Redis], prefix: str) -> None:
    found = {key: client for client in clients for key in client.keys(f"{prefix}*")}
    kinds = {"circuit_breaker": "graph", "rate_limiter": "sms", "retry_budget": "retries", "shared_store": "prices"}
    for kind, name in kinds.items():
        own = [key for key in found if f"{prefix}{kind}:{name}" in key]
        assert own, name
        assert len({key_slot(key.encode()) for key in own}) == 1
    assert all(client.pttl(key) > 0 for key, client in found.items()), "every key lapses"


# --- one server ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("program", other_redis_servers())
def test_every_server_with_a_user_that_may_do_nothing_else(members: Members, program: Path) -> None:
    with running_redis(program) as server, server.client() as look:
        allow(server)
        tell(members, user_url(server), [look], prefix="")
        refused = [each for each in look.acl_log() if each["username"] == "fleet"]
        # Redis-py says its own name at each connection, and does not mind when that is refused.
        assert {each["object"] for each in refused} <= {"client", "client|setinfo"}


def test_over_a_unix_socket(members: Members, redis_server: RedisServer) -> None:
    tell(members, redis_server.unix_url)


def test_with_a_password_in_the_address_and_another_database(members: Members) -> None:
    with running_redis(password="secret") as server, server.client(db=3) as look:
        tell(members, server.url.replace("/0", "/3"), [look])
    assert "secret" not in repr(members.made)


def test_behind_tls(members: Members, redis_tls: RedisServer) -> None:
    assert redis_tls.certificates is not None
    with redis_tls.client() as look:
        tell(members, f"{redis_tls.url}?ssl_ca_certs={redis_tls.certificates.authority}", [look])
        tell(members, look, [look])


CLIENTS: dict[str, dict[str, Any]] = {
    "that decodes": {"decode_responses": True},
    "with one connection": {"max_connections": 1},
    "that is patient": {"socket_timeout": 60, "socket_connect_timeout": 60, "retry": Retry(ConstantBackoff(1), 60)},
    "that repeats": {"retry_on_error": [redis.ConnectionError, redis.TimeoutError]},
    "of RESP 3": {"protocol": 3},
    "that caches": {"protocol": 3, "cache_config": CacheConfig()},
    "that looks after its connections": {"health_check_interval": 1, "client_name": "mine", "socket_keepalive": True},
}


@contextlib.contextmanager
def client_of(port: int, settings: dict[str, Any]) -> Iterator[redis.Redis]:
    """Also of a pool that the user has made."""
    with contextlib.ExitStack() as stack:
        client = stack.enter_context(redis.Redis(HOST, port, **settings))
        if settings.get("max_connections") == 1:
            pool = redis.BlockingConnectionPool(host=HOST, port=port, max_connections=1, timeout=60)
            stack.callback(pool.disconnect)
            client = redis.Redis(connection_pool=pool)
        yield client


@pytest.mark.parametrize("settings", CLIENTS.values(), ids=CLIENTS)
def test_with_a_client(members: Members, redis_server: RedisServer, settings: dict[str, Any]) -> None:
    """Its connections are not used, and neither are its time-outs and attempts."""
    with FaultProxy((HOST, redis_server.port)) as proxy, client_of(proxy.port, settings) as client:
        if settings.get("max_connections") == 1:  # the user's own connection is in use all the time
            client.connection_pool.get_connection()
        tell(members, client)
        impatient(members, client, proxy)


OPTIONS = "socket_timeout=60&socket_connect_timeout=60&retry_on_timeout=yes&max_connections=1&protocol=3"


def test_with_an_address_that_has_settings(members: Members, redis_server: RedisServer) -> None:
    with FaultProxy((HOST, redis_server.port)) as proxy:
        url = f"redis://{HOST}:{proxy.port}/0?{OPTIONS}&decode_responses=yes&health_check_interval=1"
        tell(members, url)
        impatient(members, url, proxy)


def impatient(members: Members, source: Any, proxy: FaultProxy) -> None:
    """The fleet's own time-outs count, and nothing is tried twice."""
    fleet = members.member(source, prefix=next(_prefixes), timeout=0.2)
    limiter = RateLimiter("l", rate=1, strict=True, fail_closed=True, fleet=fleet)
    wait_until(lambda: admitted(limiter))  # at first it has no connection, which may take longer than it waits
    members.heard.clear()
    proxy.black_hole()
    started = time.monotonic()
    assert not admitted(limiter)
    wait_until(lambda: StoreDegraded in members.told)
    assert time.monotonic() - started < 30  # a client's own time-out is a minute
    proxy.heal()
    wait_until(lambda: fleet.connected)


# --- the user --------------------------------------------------------------------------------------------------------


def allow(server: RedisServer, *, without: str = "", cluster: bool = False, prefix: str = "") -> None:
    """A user "fleet" that may do exactly what a fleet needs, less one permission."""
    rules = ["reset", *ACL.format(password=PASSWORD).split(), *(ACL_CLUSTER.split() if cluster else ())]
    assert not without or without in rules
    for place, rule in enumerate(rules):
        if rule[0] in "~&":
            rules[place] = rule[0] + prefix + rule[1:]
    left = [
        rule for rule in rules if rule != (without[0] + prefix + without[1:] if without[:1] in ("~", "&") else without)
    ]
    server.ask("ACL", "SETUSER", "fleet", *left)


def user_url(server: RedisServer) -> str:
    return f"redis://fleet:{PASSWORD.replace(':', '%3A')}@{HOST}:{server.port}/0"


@pytest.fixture(scope="module")
def acl_server() -> Generator[RedisServer]:
    with running_redis() as server:
        yield server


def use_all(members: Members, server: RedisServer, prefix: str = "") -> RedisFleet:
    """Have one member do all that a fleet ever does, in a store that has a key of another type."""
    with server.client() as client:
        client.flushdb()
        client.set(f"{prefix}rc:{{{prefix}bulkhead:db}}", "no slots")
    fleet = members.member(user_url(server), prefix=prefix)
    trip = ConsecutiveFailures(5) | FailureRate(0.9, window=TimeWindow(30), minimum_calls=1_000)
    graph, gone = (CircuitBreaker(name, fleet=fleet, trip=trip) for name in ("graph", "gone"))
    for breaker in (graph, gone):
        fail(breaker)
    flushed(members, fleet)
    fail(graph)
    fail(gone)
    with contextlib.suppress(CallRejected):
        RateLimiter("sms", rate=1, strict=True, fleet=fleet).call(lambda: None)
    bulkhead = Bulkhead("db", max_concurrent=2, fleet=fleet)
    with contextlib.suppress(CallRejected):
        bulkhead.call(lambda: None)
    budget = RetryBudget("retries", fleet=fleet)
    budget.began()
    prices = SharedStore("prices", fleet=fleet)
    prices.set("tea", 5, time.time())
    flushed(members, fleet)
    prices.delete("tea")
    flushed(members, fleet)
    del gone, breaker
    wait_until(lambda: gc.collect() >= 0 and "gone" not in str([item.channels for item in fleet.agent._all()]))
    fail(graph)
    flushed(members, fleet)
    return fleet


def flushed(members: Members, fleet: RedisFleet) -> None:
    """All was written, or something was refused."""
    wait_until(lambda: StoreDegraded in members.told or fleet.flush(0.05))


NEEDED = [*ACL_KEYS.split(), ACL_CHANNELS, *ACL_COMMANDS.split()]
SPARED = ["+time"]
"""Without it the fleet relies on the clocks of its members."""


@pytest.mark.parametrize("permission", NEEDED)
def test_each_permission_is_needed(members: Members, acl_server: RedisServer, permission: str) -> None:
    allow(acl_server, without=permission)
    fleet = use_all(members, acl_server)
    if permission in SPARED:
        assert members.heard == []
        assert fleet.connected
    else:
        wait_until(lambda: StoreDegraded in members.told, "without it the store is lost")


@pytest.mark.parametrize("prefix", ["", "p:"])
def test_all_permissions_suffice(members: Members, acl_server: RedisServer, prefix: str) -> None:
    allow(acl_server, prefix=prefix)
    fleet = use_all(members, acl_server, prefix)
    assert members.heard == []
    assert fleet.connected


def test_the_user_can_touch_nothing_else(acl_server: RedisServer) -> None:
    allow(acl_server)
    with acl_server.client(username="fleet", password=PASSWORD) as client:
        client.set("rc:mine", "x", px=1_000)
        for command in (
            ("GET", "other"),
            ("SET", "xrc:", "1"),
            ("SUBSCRIBE", "other"),
            ("PUBLISH", "other", "x"),
            ("EVAL", "return 1", 1, "other"),
            ("SCRIPT", "LOAD", "return 1"),
            ("SCRIPT", "FLUSH"),
            ("KEYS", "*"),
            ("SCAN", 0),
            ("FLUSHDB",),
            ("CONFIG", "GET", "*"),
            ("ACL", "LIST"),
            ("CLIENT", "LIST"),
            ("INFO",),
            ("SAVE",),
        ):
            with pytest.raises(NoPermissionError):
                client.execute_command(*command)


# --- sentinels -------------------------------------------------------------------------------------------------------


def test_with_a_sentinel_also_after_a_failover(members: Members) -> None:
    """Its sentinel hangs for a while, too, and the client would wait for it for ever."""
    with running_redis_sentinel() as group, FaultProxy((HOST, group.sentinel.port)) as proxy:
        sentinel = Sentinel([(HOST, proxy.port)], socket_timeout=None)
        source = sentinel.master_for(RedisSentinel.name)
        tell(members, source)
        fleet = members.made[0]
        breaker = CircuitBreaker("local", fleet=fleet, failure_threshold=2)
        assert ok(breaker) == "ok"
        assert fleet.flush(PATIENCE)
        proxy.black_hole()
        group.primary.kill()
        wait_until(lambda: not fleet.connected)
        fail(breaker, 2)
        assert breaker.state is OPEN
        time.sleep(1.0)  # it asks the sentinel, in vain: what is asked now is never answered
        proxy.heal()
        group.wait_for_failover()
        wait_until(lambda: fleet.connected)
        assert fleet.snapshot()["losses"] == 1
        assert StoreRecovered in members.told
        tell(members, source)
        sentinel.close()
        source.close()


# --- clusters --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def cluster(redis_cluster: RedisCluster) -> RedisCluster:
    for node in redis_cluster.nodes:
        allow(node, cluster=True, prefix="d*:")
    return redis_cluster


def cluster_client(cluster: RedisCluster, **options: Any) -> redis.RedisCluster:
    return cluster.client(**{"username": "fleet", "password": PASSWORD, **options})


def spread(cluster: RedisCluster, prefix: str) -> list[str]:
    """A name for each node, whose circuit is there."""
    found: dict[int, str] = {}
    for number in range(1_000):
        name = f"graph{number}"
        found.setdefault(cluster.owner(f"{prefix}circuit_breaker:{name}").port, name)
        if len(found) == len(cluster.primaries):
            break
    return list(found.values())


@pytest.mark.parametrize("settings", [{}, {"max_connections": 1, "socket_timeout": 60}], ids=["", "with settings"])
def test_on_a_cluster(members: Members, cluster: RedisCluster, settings: dict[str, Any]) -> None:
    client, prefix = cluster_client(cluster, **settings), next(_prefixes)
    one, other = (members.member(client, prefix=prefix) for _ in range(2))
    for name in spread(cluster, prefix):
        share_a_circuit(one, other, name)
    assert members.heard == []
    with contextlib.ExitStack() as stack:
        tell(members, client, [stack.enter_context(node.client()) for node in cluster.primaries])
    client.close()


def test_with_a_slot_that_moves(members: Members, cluster: RedisCluster) -> None:
    client, prefix = cluster_client(cluster), next(_prefixes)
    one, other = (members.member(client, prefix=prefix) for _ in range(2))
    share_a_circuit(one, other)
    slot = cluster.slot(f"{prefix}circuit_breaker:graph")
    source = cluster.owner(slot)
    target = next(node for node in cluster.primaries if node is not source)
    with cluster.moving(slot, target):
        share_a_circuit(one, other)  # still there
        cluster.move_keys(slot, target)
        share_a_circuit(one, other)  # ASK: not there any more
        cluster.move_slot(slot, target)
    share_a_circuit(one, other)  # MOVED
    cluster.move_slot(slot, source)
    share_a_circuit(one, other)
    client.close()


def test_a_client_of_one_node_of_a_cluster_decides_alone(members: Members, cluster: RedisCluster) -> None:
    """MOVED is no answer to it: an outage that is told once, and lasts."""
    prefix = next(_prefixes)
    owner = cluster.owner(f"{prefix}circuit_breaker:graph")
    node = next(node for node in cluster.primaries if node is not owner)
    fleet = members.member(node.url, prefix=prefix, timeout=0.5)
    breaker = CircuitBreaker("graph", fleet=fleet, failure_threshold=3)
    fail(breaker, 3)
    assert breaker.state is OPEN
    wait_until(lambda: StoreDegraded in members.told)
    commands = fleet.snapshot()["commands"]
    wait_until(lambda: fleet.snapshot()["commands"] >= commands + 3, "it is tried again")
    assert members.told == [StoreDegraded]


def test_a_node_of_a_cluster_that_dies(members: Members, own_redis_cluster: RedisCluster) -> None:
    cluster = own_redis_cluster
    client, prefix = cluster.client(), next(_prefixes)
    one, other = (members.member(client, prefix=prefix, timeout=1.0) for _ in range(2))
    share_a_circuit(one, other)
    assert members.heard == []
    breaker = CircuitBreaker("local", fleet=one, failure_threshold=3)
    limiter = RateLimiter("local", rate=1, per=100, burst=2, strict=True, fleet=one)
    assert ok(breaker) == "ok"
    assert admitted(limiter)
    node = cluster.owner(f"{prefix}rc:{{{prefix}rate_limiter:local}}")
    node.kill()

    def lost() -> bool:
        started = time.monotonic()
        admitted(limiter)
        fail(breaker)
        assert time.monotonic() - started < 30  # a client's own time-out is a minute
        return StoreDegraded in members.told

    wait_until(lost)
    fail(breaker, 3)
    assert breaker.state is OPEN
    for each in cluster.nodes:  # and then all of them: there is not even one to ask for the others
        each.kill()
    wait_until(lambda: one.agent._link is None and one.agent._pause > 0.5)
    for each in cluster.nodes:
        each.start()
    cluster.wait_until_ok()
    wait_until(lambda: one.connected)
    share_a_circuit(one, other, "another")
    client.close()


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")  # from 3.12 on: this process has threads
def test_a_fork_on_a_cluster(members: Members, cluster: RedisCluster) -> None:
    """The child has connections of its own, and the parent keeps its own."""
    client, prefix = cluster_client(cluster), next(_prefixes)
    fleet = members.member(client, prefix=prefix)
    breaker = CircuitBreaker("graph", fleet=fleet, failure_threshold=4)
    fail(breaker, 2)
    assert fleet.wait_ready(PATIENCE)
    assert fleet.flush(PATIENCE)
    child = os.fork()
    if child == 0:
        signal.alarm(int(PATIENCE))  # a child that hangs ends with a signal
        code = 1
        try:
            fail(breaker)
            code = not (fleet.wait_ready(PATIENCE) and fleet.flush(PATIENCE))
        finally:
            os._exit(code)
    assert os.waitpid(child, 0) == (child, 0)
    fail(breaker)
    wait_until(lambda: breaker.state is OPEN, "three of the parent and one of the child")
    assert members.heard == []
    client.close()

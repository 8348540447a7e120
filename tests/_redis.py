"""Real Redis servers for the tests: one, one to kill, a cluster, a primary with replica and sentinel, one behind TLS.

Without a redis-server the fixtures fail, and the message says how to get one. Each starts its own processes and ends
exactly these. Everything works from Redis 6.2 on, and with Valkey.
"""

from __future__ import annotations

import contextlib
import itertools
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import redis
from redis.cluster import ClusterNode
from redis.crc import key_slot
from redis.sentinel import Sentinel

from tools.redis_server import RedisServerMissing, all_redis_servers, find_redis_server, version_of

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable, Sequence

HOST = "127.0.0.1"
START_LIMIT = 40.0  # seconds until the first PONG; it takes 20 ms on an idle machine
STOP_LIMIT = 20.0
ASK_LIMIT = 20.0
AGREE_LIMIT = 60.0  # seconds until several servers are of one mind: 2 to 3 on an idle machine
SLOTS = 16384
HIGHEST_PORT = 55535  # a node of a cluster also listens on its port + 10000
AT_ONCE = ("--repl-diskless-sync", "yes", "--repl-diskless-sync-delay", "0")  # Redis 7 waits 5 s for more replicas
WITHOUT_TLS = (
    "'tls-port ",
    "'tls-cert-file ",
    "Failed finding TLS support",
    "Missing implement of connection type tls",
)


class RedisServerNotStarted(RuntimeError):
    """It ended before it answered; the text is the end of its log."""


@dataclass(frozen=True)
class Certificates:
    """Paths of PEM files: one authority, and what it signed for the server and for a client."""

    authority: Path
    server: Path
    server_key: Path
    client: Path
    client_key: Path

    @classmethod
    def make(cls, directory: Path) -> Certificates:
        import trustme  # here, not above: few tests need it, and all would wait for it

        authority = trustme.CA()
        paths = cls(*(directory / name for name in ("ca.pem", "server.pem", "server.key", "client.pem", "client.key")))
        authority.cert_pem.write_to_path(paths.authority)
        for certificate, key, names in (
            (paths.server, paths.server_key, ("localhost", HOST)),
            (paths.client, paths.client_key, ("client",)),
        ):
            signed = authority.issue_cert(*names)
            signed.cert_chain_pems[0].write_to_path(certificate)
            signed.private_key_pem.write_to_path(key)
        return paths


class RedisServer:
    """One redis-server process without persistence: after a restart it is empty, on the same port.

    Args:
        program: the binary.
        arguments: more of them for its command line, such as `("--maxmemory", "1mb")`.
        password: of the user `default`, demanded from everybody.
        users: ACL rules, one user each, such as `"alice on >secret ~* +@all"`.
        tls: speak TLS with these certificates, and nothing else, on the port.
        config: the text of its configuration file, which it may rewrite.
        highest_port: no port above it is taken.
    """

    def __init__(
        self,
        program: Path,
        *,
        arguments: Iterable[str] = (),
        password: str | None = None,
        users: Iterable[str] = (),
        tls: bool = False,
        config: str | None = None,
        highest_port: int = 65535,
    ) -> None:
        self.program = program
        self._directory = Path(tempfile.mkdtemp(prefix="rf-redis-"))  # short: the path of a unix socket is limited
        self._process: subprocess.Popen[bytes] | None = None
        self._highest_port = highest_port
        self._paused = False
        self._was_up = False  # then its port is known to others, and it keeps it
        self.socket_path = self._directory / "s"
        self.port = 0
        self.password = password
        self.certificates = Certificates.make(self._directory) if tls else None
        self._arguments: list[str] = []
        if config is not None:
            (self._directory / "config").write_text(config)
            self._arguments.append(str(self._directory / "config"))  # it must come first
        self._arguments += ["--bind", HOST, "--unixsocket", str(self.socket_path), "--dir", str(self._directory)]
        self._arguments += ["--save", "", "--appendonly", "no", "--daemonize", "no"]
        if password is not None:
            self._arguments += ["--requirepass", password]
        for user in users:
            self._arguments += ["--user", *user.split()]
        if (tls := self.certificates) is not None:
            self._arguments += ["--tls-cert-file", str(tls.server), "--tls-key-file", str(tls.server_key)]
            self._arguments += ["--tls-ca-cert-file", str(tls.authority), "--tls-auth-clients", "no"]
        self._arguments += arguments

    @property
    def url(self) -> str:
        scheme = "redis" if self.certificates is None else "rediss"
        user = "" if self.password is None else f":{self.password}@"
        return f"{scheme}://{user}{HOST}:{self.port}/0"

    @property
    def unix_url(self) -> str:
        user = "" if self.password is None else f":{self.password}@"
        return f"unix://{user}{self.socket_path}?db=0"

    @property
    def pid(self) -> int:
        return self._running().pid

    @property
    def is_up(self) -> bool:
        """Neither stopped nor paused."""
        return self._process is not None and not self._paused

    def client(self, **options: Any) -> redis.Redis:
        """A new client over TCP that tries once, decodes answers and trusts the server's authority."""
        usual: dict[str, Any] = {"port": self.port, "password": self.password, "decode_responses": True, "retry": None}
        if self.certificates is not None:
            usual |= {"ssl": True, "ssl_ca_certs": str(self.certificates.authority)}
        return redis.Redis(HOST, **{**usual, **options})

    def ask(self, *command: Any) -> Any:
        """The answer to one command, on a connection of its own that needs neither port nor TLS; errors are raised."""
        with redis.Redis.from_url(self.unix_url, decode_responses=True, retry=None, socket_timeout=ASK_LIMIT) as client:
            return client.execute_command(*command)

    def start(self) -> None:
        """Starts on a free port, or on the one it had before; returns when PING is answered.

        Raises:
            RedisServerNotStarted: its arguments are wrong, or another process has the port that it had before.
        """
        self._launch()
        self._await_pong()

    def stop(self) -> None:
        """Ends exactly the process that `start` began; harmless when there is none."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """The server dies without a word, as in a crash."""
        self._end(signal.SIGKILL)

    def restart(self) -> None:
        self.stop()
        self.start()

    def pause(self) -> None:
        """The process stops answering, its connections stay open: a hung server."""
        self._running().send_signal(signal.SIGSTOP)
        self._paused = True

    def resume(self) -> None:
        self._running().send_signal(signal.SIGCONT)
        self._paused = False

    def close(self) -> None:
        self.kill()  # nothing is to be saved, and SIGTERM takes up to 0.1 s
        shutil.rmtree(self._directory, ignore_errors=True)

    def _running(self) -> subprocess.Popen[bytes]:
        assert self._process is not None, "the server is not running"
        return self._process

    def _log(self) -> Path:
        return self._directory / "log"

    def _launch(self) -> None:
        """Begins to start; `_await_pong` waits for the end of that, so that several can start side by side."""
        assert self._process is None, "the server is running"
        self.port = self.port or _free_port(self._highest_port)
        ports = (
            ["--port", str(self.port)] if self.certificates is None else ["--port", "0", "--tls-port", str(self.port)]
        )
        config, options = (self._arguments[:1], self._arguments[1:])
        if config[0].startswith("--"):
            config, options = [], self._arguments
        with self._log().open("wb") as log:
            self._process = subprocess.Popen(
                [self.program, *config, *ports, *options], stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )

    def _await_pong(self) -> None:
        for attempts_left in range(4, -1, -1):
            process = self._running()
            end = time.monotonic() + START_LIMIT
            while process.poll() is None and time.monotonic() < end:
                if _answers(self.socket_path):
                    self._was_up = True
                    return
                time.sleep(0.01)
            self.kill()
            log = self._log().read_text()
            if not attempts_left or self._was_up or "Address already in use" not in log:
                raise RedisServerNotStarted(f"{self.program} did not start:\n{log[-2000:]}")
            self.port = 0  # another process was faster
            self._launch()

    def _end(self, how: signal.Signals) -> None:
        process, self._process = self._process, None
        self._paused = False
        if process is None:
            return
        process.send_signal(signal.SIGCONT)  # a paused process would not hear SIGTERM
        process.send_signal(how)
        try:
            process.wait(STOP_LIMIT)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _free_port(highest: int = 65535) -> int:
    while True:
        with socket.socket() as probe:
            probe.bind((HOST, 0))
            port: int = probe.getsockname()[1]
        if port <= highest:
            return port


def _answers(path: Path) -> bool:
    """Over the unix socket: there nobody else can answer, and it is opened after the port."""
    try:
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(1.0)
            connection.connect(str(path))
            connection.sendall(b"PING\r\n")
            return connection.recv(16).startswith((b"+PONG", b"-NOAUTH"))
    except OSError:
        return False


def until(condition: Callable[[], Any], what: str, limit: float = AGREE_LIMIT) -> Any:
    """Asks other processes again and again; returns the first answer that is true. Errors of connections are a no."""
    end = time.monotonic() + limit
    while time.monotonic() < end:
        with contextlib.suppress(redis.ConnectionError, redis.TimeoutError):
            if answer := condition():
                return answer
        time.sleep(0.01)
    raise TimeoutError(f"not within {limit} s: {what}")


def usable_redis_server() -> Path:
    try:
        return find_redis_server()
    except RedisServerMissing as error:
        pytest.fail(str(error), pytrace=False)


def other_redis_servers() -> list[Any]:
    """All different servers of this machine, for `pytest.mark.parametrize`: paths, named by version."""
    return [pytest.param(path, id=version_of(path)) for path in all_redis_servers()]


@contextlib.contextmanager
def running_redis(program: Path | None = None, **options: Any) -> Generator[RedisServer]:
    """A server with the options of `RedisServer`, of the first usable binary if none is named."""
    server = RedisServer(program or usable_redis_server(), **options)
    try:
        server.start()
        yield server
    finally:
        server.close()


@contextlib.contextmanager
def running_redis_tls(program: Path | None = None, **options: Any) -> Generator[RedisServer]:
    """A server that speaks TLS only; skips the test if the binary was built without TLS."""
    program = program or usable_redis_server()
    with contextlib.ExitStack() as stack:
        try:
            server = stack.enter_context(running_redis(program, tls=True, **options))
        except RedisServerNotStarted as error:
            if any(words in str(error) for words in WITHOUT_TLS):
                pytest.skip(f"{program} was built without TLS")
            raise
        yield server


@contextlib.contextmanager
def _started(servers: Sequence[RedisServer]) -> Generator[None]:
    """All of them, side by side."""
    try:
        for server in servers:
            server._launch()
        for server in servers:
            server._await_pong()
        yield
    finally:
        for server in servers:
            server.close()


class RedisCluster:
    """A Redis Cluster: `primaries`, each with a third of the slots if there are three, and their `replicas`."""

    def __init__(self, primaries: list[RedisServer], replicas: list[RedisServer]) -> None:
        self.primaries = primaries
        self.replicas = replicas

    @property
    def nodes(self) -> list[RedisServer]:
        return self.primaries + self.replicas

    @property
    def url(self) -> str:
        return self.primaries[0].url

    def client(self, **options: Any) -> redis.RedisCluster:
        """A new client that knows all nodes and decodes answers."""
        startup = [ClusterNode(HOST, node.port) for node in self.nodes if node.is_up]
        return redis.RedisCluster(startup_nodes=startup, **{"decode_responses": True, **options})

    def owner(self, key: str | int) -> RedisServer:
        """The node that serves a key, or a slot, as the nodes that are up see it."""
        slot = key if isinstance(key, int) else self.slot(key)
        first = next(node for node in self.nodes if node.is_up)
        for low, high, (_, port, *_rest), *_replicas in first.ask("CLUSTER", "SLOTS"):
            if low <= slot <= high:
                return next(node for node in self.nodes if node.port == port)
        raise LookupError(f"nobody serves slot {slot}")

    @staticmethod
    def slot(key: str) -> int:
        return key_slot(key.encode())

    def wait_until_ok(self) -> None:
        """Returns when all nodes that are up say `cluster_state:ok` and know each other."""
        for node in self.nodes:
            if node.is_up:
                until(lambda node=node: self._is_ok(node), f"the cluster is ok for {node.port}")

    def wait_until_down(self) -> None:
        """Returns when all nodes that are up have noticed that slots are not served."""
        for node in self.nodes:
            if node.is_up:
                until(lambda node=node: _cluster_info(node)["cluster_state"] == "fail", f"{node.port} misses a node")

    @contextlib.contextmanager
    def moving(self, slot: int, target: RedisServer) -> Generator[RedisServer]:
        """The slot is on its way to `target` and stays where it was afterwards; gives the node that has it.

        Inside, that node answers ASK for keys of the slot that it does not have, and `target` takes them after ASKING.
        """
        source = self.owner(slot)
        target.ask("CLUSTER", "SETSLOT", slot, "IMPORTING", _id(source))
        source.ask("CLUSTER", "SETSLOT", slot, "MIGRATING", _id(target))
        try:
            yield source
        finally:
            for node in (source, target):
                if node.is_up and self.owner(slot) is source:
                    node.ask("CLUSTER", "SETSLOT", slot, "STABLE")

    def move_keys(self, slot: int, target: RedisServer) -> int:
        """Moves all keys of a slot that is `moving`; returns how many."""
        source, count = self.owner(slot), 0
        while keys := source.ask("CLUSTER", "GETKEYSINSLOT", slot, 100):
            source.ask("MIGRATE", HOST, target.port, "", 0, 5000, "KEYS", *keys)
            count += len(keys)
        return count

    def move_slot(self, slot: int, target: RedisServer) -> None:
        """Moves a slot with its keys; who asks the node that had it is answered MOVED from now on."""
        source = self.owner(slot)
        if source is target:
            return
        with self.moving(slot, target):
            self.move_keys(slot, target)
            # The new owner first: it takes a new epoch with it, and the others believe it.
            for node in (target, source, *(each for each in self.primaries if each not in (source, target))):
                if node.is_up:
                    node.ask("CLUSTER", "SETSLOT", slot, "NODE", _id(target))
        for node in self.nodes:
            if node.is_up:
                until(lambda node=node: _slot_owner(node, slot) == target.port, f"{node.port} knows the new owner")

    def _is_ok(self, node: RedisServer) -> bool:
        known = [line for line in node.ask("CLUSTER", "NODES").splitlines() if "handshake" not in line]
        return _cluster_info(node)["cluster_state"] == "ok" and len(known) == len(self.nodes)


def _id(node: RedisServer) -> str:
    found: str = node.ask("CLUSTER", "MYID")
    return found


def _cluster_info(node: RedisServer) -> dict[str, str]:
    return dict(line.split(":", 1) for line in node.ask("CLUSTER", "INFO").splitlines() if ":" in line)


def _slot_owner(node: RedisServer, slot: int) -> int | None:
    for low, high, (_, port, *_rest), *_replicas in node.ask("CLUSTER", "SLOTS"):
        if low <= slot <= high:
            return int(port)
    return None


@contextlib.contextmanager
def running_redis_cluster(
    program: Path | None = None,
    *,
    primaries: int = 3,
    replicas: int = 0,
    node_timeout: float = 3.0,
    arguments: Iterable[str] = (),
) -> Generator[RedisCluster]:
    """A cluster that is ok for all its nodes. 2 of the seconds this takes are a primary's own (CLUSTER_WRITABLE_DELAY).

    Args:
        program: the binary; the first usable one if none is named.
        primaries: how many; the slots are spread over them evenly.
        replicas: how many each primary has.
        node_timeout: seconds after which nodes take one that is silent for dead.
        arguments: more of them for the command line of each node.
    """
    program = program or usable_redis_server()
    options = [
        "--cluster-enabled",
        "yes",
        "--cluster-node-timeout",
        str(int(node_timeout * 1000)),
        *AT_ONCE,
        *arguments,
    ]
    nodes = [
        RedisServer(program, arguments=options, highest_port=HIGHEST_PORT) for _ in range(primaries * (1 + replicas))
    ]
    cluster = RedisCluster(nodes[:primaries], nodes[primaries:])
    with _started(nodes):
        for number, node in enumerate(cluster.primaries):
            node.ask("CLUSTER", "SET-CONFIG-EPOCH", number + 1)  # all 0 would be a conflict, solved slowly
            share = range(SLOTS * number // primaries, SLOTS * (number + 1) // primaries)
            node.ask("CLUSTER", "ADDSLOTS", *share)
        for one, other in combinations(nodes, 2):  # all pairs: gossip takes longer
            one.ask("CLUSTER", "MEET", HOST, other.port)
        for number, node in enumerate(cluster.replicas):
            primary = cluster.primaries[number % primaries]
            _replicate(node, primary)
        cluster.wait_until_ok()
        yield cluster


def _replicate(node: RedisServer, primary: RedisServer) -> None:
    wanted = _id(primary)

    def knows() -> bool:
        try:
            node.ask("CLUSTER", "REPLICATE", wanted)
        except redis.ResponseError:  # not met yet
            return False
        return True

    until(knows, f"{node.port} knows its primary")


class RedisSentinel:
    """A primary, its replica, and a sentinel that makes the replica the primary when the primary is gone."""

    name = "mymaster"

    def __init__(self, primary: RedisServer, replica: RedisServer, sentinel: RedisServer) -> None:
        self.primary = primary
        self.replica = replica
        self.sentinel = sentinel

    def client(self, **options: Any) -> Sentinel:
        """A new client of the sentinel: `.master_for(name)` and `.slave_for(name)` give clients of the servers."""
        return Sentinel([(HOST, self.sentinel.port)], **{"decode_responses": True, "retry": None, **options})

    def current_primary(self) -> RedisServer:
        """The one that the sentinel names at the moment."""
        _, port = self.sentinel.ask("SENTINEL", "GET-MASTER-ADDR-BY-NAME", self.name)
        return next(server for server in (self.primary, self.replica) if server.port == int(port))

    def wait_for_failover(self) -> RedisServer:
        """Returns the new primary when clients are given another than `primary` and that one takes writes."""

        def promoted() -> RedisServer | None:
            with self.client() as client:
                _, port = client.discover_master(self.name)  # a ConnectionError while the old one is known to be down
            return self.replica if port == self.replica.port and self.replica.ask("ROLE")[0] == "master" else None

        found: RedisServer = until(promoted, "the sentinel has made the replica the primary", limit=2 * AGREE_LIMIT)
        return found


@contextlib.contextmanager
def running_redis_sentinel(program: Path | None = None, *, down_after: float = 1.5) -> Generator[RedisSentinel]:
    """One sentinel with a quorum of 1 over one primary and one replica, which it has seen.

    Args:
        program: the binary; the first usable one if none is named.
        down_after: seconds of silence after which the sentinel takes the primary for dead.
    """
    program = program or usable_redis_server()
    with contextlib.ExitStack() as stack:
        primary = stack.enter_context(running_redis(program, arguments=AT_ONCE))
        follow = ("--replicaof", HOST, str(primary.port), *AT_ONCE)
        replica = stack.enter_context(running_redis(program, arguments=follow))
        # Before the sentinel looks: it asks a primary for its replicas only every 10 s.
        until(lambda: replica.ask("ROLE")[3] == "connected", "the replica follows")
        name = RedisSentinel.name
        config = (
            f"sentinel monitor {name} {HOST} {primary.port} 1\n"
            f"sentinel down-after-milliseconds {name} {int(down_after * 1000)}\n"
            f"sentinel failover-timeout {name} 2000\n"  # an attempt that fails is made again after twice this
        )
        sentinel = stack.enter_context(running_redis(program, arguments=("--sentinel",), config=config))
        # A replica is promoted only if its last INFO is younger than five periods of pings, and once the primary is
        # down it is asked for one each second, whatever the period: with shorter ones there is often no good replica.
        # A stall of the machine is no reason to sit still for 30 s ("tilt").
        periods = {"info-period": 100, "ping-period": 400, "ask-period": 100, "tilt-trigger": 30_000}
        with contextlib.suppress(redis.ResponseError):  # Redis 6.2 has its periods of 1 s and more for ever
            sentinel.ask("SENTINEL", "DEBUG", *itertools.chain.from_iterable(periods.items()))
        until(lambda: _sees_replica(sentinel), "the sentinel sees the replica")
        yield RedisSentinel(primary, replica, sentinel)


def _sees_replica(sentinel: RedisServer) -> bool:
    return any(
        each["flags"] in ("slave", {"slave"}) and each["master-link-status"] == "ok"
        for each in sentinel.ask("SENTINEL", "REPLICAS", RedisSentinel.name)
    )


@pytest.fixture(scope="session")
def redis_server() -> Generator[RedisServer]:
    """Shared by all tests of the session: use keys of your own, never stop it."""
    with running_redis() as server:
        yield server


@pytest.fixture
def own_redis_server() -> Generator[RedisServer]:
    """One for this test alone, which may kill, pause and restart it."""
    with running_redis() as server:
        yield server


@pytest.fixture(scope="session")
def redis_tls() -> Generator[RedisServer]:
    """Behind TLS, shared as `redis_server` is; skips where the binary was built without TLS."""
    with running_redis_tls() as server:
        yield server


@pytest.fixture(scope="session")
def redis_cluster() -> Generator[RedisCluster]:
    """Three primaries, shared by all tests of the session: never stop one, and bring slots back."""
    with running_redis_cluster() as cluster:
        yield cluster


@pytest.fixture
def own_redis_cluster() -> Generator[RedisCluster]:
    """Three primaries for this test alone; takes over 2 s."""
    with running_redis_cluster() as cluster:
        yield cluster


@pytest.fixture
def redis_sentinel() -> Generator[RedisSentinel]:
    """Primary, replica and sentinel for this test alone, which may kill each of them."""
    with running_redis_sentinel() as group:
        yield group

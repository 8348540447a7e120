"""The fixture serves a real Redis, and leaves nothing behind."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import pytest
import redis

from tests._redis import (
    RedisServer,
    RedisServerNotStarted,
    other_redis_servers,
    running_redis,
    running_redis_cluster,
    running_redis_sentinel,
    running_redis_tls,
    until,
)
from tools.redis_server import all_redis_servers, checked, find_redis_server, version_of

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests._redis import RedisCluster, RedisSentinel


def connect(url: str, **options: Any) -> redis.Redis:
    return redis.Redis.from_url(url, decode_responses=True, **options)


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_serves_over_tcp_and_over_its_unix_socket(redis_server: RedisServer) -> None:
    with connect(redis_server.url) as over_tcp, connect(redis_server.unix_url) as over_socket:
        over_tcp.set("redis-fixture:key", "value")
        assert over_socket.get("redis-fixture:key") == "value"


def test_is_at_least_redis_6_2_and_keeps_nothing_on_disk(redis_server: RedisServer) -> None:
    with connect(redis_server.url) as client:
        information: Any = client.info()
        assert tuple(map(int, information["redis_version"].split(".")[:2])) >= (6, 2)
        assert information["aof_enabled"] == 0
        assert client.config_get("save") == {"save": ""}


def test_stops_exactly_its_own_process(redis_server: RedisServer) -> None:
    with running_redis() as server:
        pid = server.pid
        assert alive(pid)
        assert pid != redis_server.pid
        server.stop()
        assert not alive(pid)
        server.stop()  # again: harmless
    assert alive(redis_server.pid)


def test_removes_its_directory() -> None:
    with running_redis() as server:
        directory = server.socket_path.parent
        assert directory.is_dir()
    assert not directory.exists()


def test_comes_back_empty_on_the_same_port(own_redis_server: RedisServer) -> None:
    with connect(own_redis_server.url) as client:
        client.set("key", "value")
    port, pid = own_redis_server.port, own_redis_server.pid
    own_redis_server.kill()
    assert not alive(pid)
    with connect(own_redis_server.url) as client, pytest.raises(redis.ConnectionError):
        client.ping()
    own_redis_server.start()
    assert own_redis_server.port == port
    with connect(own_redis_server.url) as client:
        assert client.get("key") is None


def test_pause_hangs_the_server_until_resume(own_redis_server: RedisServer) -> None:
    with connect(own_redis_server.url, socket_timeout=0.2, retry=None) as client:
        own_redis_server.pause()
        with pytest.raises(redis.TimeoutError):
            client.ping()
    own_redis_server.resume()
    with connect(own_redis_server.url) as client:
        assert client.ping()


def test_stops_even_while_paused(own_redis_server: RedisServer) -> None:
    pid = own_redis_server.pid
    own_redis_server.pause()
    own_redis_server.stop()
    assert not alive(pid)


def test_a_wrong_redis_server_variable_fails_with_the_remedy(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("REDIS_SERVER", str(tmp_path / "absent"))
    with pytest.raises(pytest.fail.Exception, match=r"REDIS_SERVER=.*absent is not an executable file"):
        running_redis().__enter__()


def test_without_any_server_the_message_says_what_to_do(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, old_server: Callable[[], Path]
) -> None:
    monkeypatch.delenv("REDIS_SERVER", raising=False)
    monkeypatch.setenv("PATH", str(old_server().parent))
    monkeypatch.setattr("tools.redis_server.ROOT", tmp_path)
    monkeypatch.setattr("sys.platform", "sunos")
    with pytest.raises(pytest.fail.Exception, match=r"too old(.|\n)*no ready-made binary(.|\n)*set REDIS_SERVER="):
        running_redis().__enter__()


def test_takes_another_port_when_one_was_taken_and_keeps_the_one_it_had(redis_server: RedisServer) -> None:
    with running_redis() as server:
        server.stop()
        port = server.port
        with running_redis(arguments=("--port", str(port))):
            with pytest.raises(RedisServerNotStarted, match="Address already in use"):
                server.start()
        server.start()
        assert server.port == port
    newcomer = RedisServer(redis_server.program)
    newcomer.port = redis_server.port
    try:
        newcomer.start()
        assert newcomer.port != redis_server.port
        assert newcomer.client().ping()
    finally:
        newcomer.close()


def test_arguments_of_the_command_line_reach_the_server() -> None:
    with running_redis(arguments=("--maxmemory", "3mb", "--maxmemory-policy", "allkeys-lru")) as server:
        assert server.client().config_get("maxmemory*policy") == {"maxmemory-policy": "allkeys-lru"}
        assert server.client().config_get("maxmemory") == {"maxmemory": str(3 << 20)}


def test_wrong_arguments_are_told_with_the_log() -> None:
    with pytest.raises(RedisServerNotStarted, match=r"(?s)did not start.*no-such-option"):
        running_redis(arguments=("--no-such-option", "1")).__enter__()


def test_a_password_is_demanded() -> None:
    with running_redis(password="secret") as server:
        assert server.client().ping()
        assert connect(server.unix_url).ping()
        assert server.ask("PING")
        with pytest.raises(redis.AuthenticationError):
            server.client(password=None).ping()
        with pytest.raises(redis.AuthenticationError):
            server.client(password="wrong").ping()


def test_users_may_do_what_their_rules_say(tmp_path: Path) -> None:
    rules = ("reader on >r ~public:* +get +ping", "default off")
    acl_file = tmp_path / "users.acl"
    acl_file.write_text("".join(f"user {rule}\n" for rule in rules))
    for options in ({"users": rules}, {"arguments": ("--aclfile", str(acl_file))}):
        with running_redis(**options) as server:
            reader = server.client(username="reader", password="r")
            assert reader.get("public:key") is None
            with pytest.raises(redis.exceptions.NoPermissionError):
                reader.get("private:key")
            with pytest.raises(redis.exceptions.NoPermissionError):
                reader.set("public:key", 1)
            with pytest.raises(redis.AuthenticationError):
                server.client().ping()


@pytest.mark.parametrize("program", other_redis_servers())
def test_every_server_of_this_machine_runs(program: Path) -> None:
    with running_redis(program) as server:
        assert server.client().set("key", "value")
        information: Any = server.client().info("server")
        reported = information.get("valkey_version") or information["redis_version"]
        assert version_of(program).endswith(f"-{reported}")


def test_each_version_is_named_once_and_the_usual_one_first() -> None:
    servers = all_redis_servers()
    assert servers[0] == find_redis_server()
    assert len({version_of(each) for each in servers}) == len(servers)


def test_a_server_behind_a_link_is_started_by_the_name_of_the_link(tmp_path: Path) -> None:
    """Debian's redis-server is a link to redis-check-rdb, a program that looks at its own name."""
    program = tmp_path / "behind" / "redis-check-rdb"
    program.parent.mkdir()
    program.write_text('#!/bin/sh\necho "Redis server v=7.0.1 as ${0##*/}"\n')
    program.chmod(0o755)
    link = tmp_path / "redis-server"
    link.symlink_to(program)
    assert checked(str(link)) == link


def test_over_tls_only_those_who_trust_the_authority_are_served(redis_tls: RedisServer) -> None:
    assert redis_tls.url.startswith("rediss://")
    assert redis_tls.client().ping()
    with pytest.raises(redis.ConnectionError, match="CERTIFICATE_VERIFY_FAILED"):
        redis_tls.client(ssl_ca_certs=None).ping()
    with redis.Redis(port=redis_tls.port, retry=None, socket_timeout=5) as plain, pytest.raises(redis.ConnectionError):
        plain.ping()


def test_tls_can_demand_a_certificate_of_the_client(redis_tls: RedisServer) -> None:
    with running_redis_tls(redis_tls.program, arguments=("--tls-auth-clients", "yes")) as server:
        certificates = server.certificates
        assert certificates is not None
        known = {"ssl_certfile": str(certificates.client), "ssl_keyfile": str(certificates.client_key)}
        assert server.client(**known).ping()
        with pytest.raises(redis.ConnectionError):
            server.client().ping()


def test_a_binary_without_tls_skips_and_other_errors_do_not(tmp_path: Path) -> None:
    without = tmp_path / "redis-server"
    without.write_text(
        "#!/bin/sh\necho '*** FATAL CONFIG FILE ERROR (Redis 6.2.14) ***'\necho \">>> 'tls-port \\\"1\\\"'\"\nexit 1\n"
    )
    without.chmod(0o755)
    with pytest.raises(pytest.skip.Exception, match="redis-server was built without TLS"):
        running_redis_tls(without).__enter__()
    without.write_text("#!/bin/sh\necho something else\nexit 1\n")
    with pytest.raises(RedisServerNotStarted, match="something else"):
        running_redis_tls(without).__enter__()


def test_the_cluster_serves_all_slots_from_three_primaries(redis_cluster: RedisCluster) -> None:
    assert len(redis_cluster.primaries) == 3
    client = redis_cluster.client()
    keys = [f"redis-fixture:{number}" for number in range(50)]
    for key in keys:
        client.set(key, key)
    assert [client.get(key) for key in keys] == keys
    assert {redis_cluster.owner(key).port for key in keys} == {node.port for node in redis_cluster.primaries}
    for key in keys:
        client.delete(key)


def test_a_key_of_another_node_is_answered_with_moved(redis_cluster: RedisCluster) -> None:
    slot = redis_cluster.slot("key")
    owner = redis_cluster.owner("key")
    assert owner is redis_cluster.owner(slot)
    other = next(node for node in redis_cluster.primaries if node is not owner)
    assert owner.ask("GET", "key") is None
    with pytest.raises(redis.exceptions.MovedError) as caught:
        other.ask("GET", "key")
    assert (caught.value.slot_id, caught.value.port) == (slot, owner.port)


def test_a_slot_moves_with_its_keys_and_back(redis_cluster: RedisCluster) -> None:
    client = redis_cluster.client()
    keys = [f"{{moved}}:{number}" for number in range(150)]
    for key in keys:
        client.set(key, key)
    slot = redis_cluster.slot("{moved}")
    source = redis_cluster.owner(slot)
    target = next(node for node in redis_cluster.primaries if node is not source)
    redis_cluster.move_slot(slot, target)
    redis_cluster.move_slot(slot, target)  # again: nothing to do
    assert redis_cluster.owner(slot) is target
    assert target.ask("CLUSTER", "COUNTKEYSINSLOT", slot) == 150
    with pytest.raises(redis.exceptions.MovedError):
        source.ask("GET", keys[0])
    assert client.get(keys[0]) == keys[0], "the client follows"
    redis_cluster.move_slot(slot, source)
    assert source.ask("GET", keys[0]) == keys[0]
    for key in keys:
        client.delete(key)


def test_a_slot_on_its_way_is_answered_with_ask(redis_cluster: RedisCluster) -> None:
    client = redis_cluster.client()
    client.set("{asked}:here", "here")
    client.set("{asked}:there", "there")
    slot = redis_cluster.slot("{asked}")
    owner = redis_cluster.owner(slot)
    target = next(node for node in redis_cluster.primaries if node is not owner)
    with redis_cluster.moving(slot, target) as source:
        assert source is owner
        assert source.ask("GET", "{asked}:here") == "here"
        with pytest.raises(redis.exceptions.AskError) as caught:
            source.ask("GET", "{asked}:new")
        assert caught.value.port == target.port
        assert redis_cluster.move_keys(slot, target) == 2
        assert client.get("{asked}:there") == "there", "the client asks there"
        with pytest.raises(redis.exceptions.MovedError):
            target.ask("GET", "{asked}:there")  # without ASKING
        client.delete("{asked}:here", "{asked}:there")
    assert source.ask("GET", "{asked}:new") is None, "the slot stayed"


def test_a_node_of_an_own_cluster_hangs_comes_back_and_dies(own_redis_cluster: RedisCluster) -> None:
    first, second, third = own_redis_cluster.primaries
    pids = [node.pid for node in own_redis_cluster.nodes]
    first.pause()
    assert not first.is_up
    with first.client(socket_timeout=0.1) as client, pytest.raises(redis.TimeoutError):
        client.ping()
    assert own_redis_cluster.owner(16000) is third, "the others answer"
    first.resume()
    assert first.ask("PING")
    first.kill()
    own_redis_cluster.wait_until_down()
    with pytest.raises(redis.exceptions.ClusterDownError):
        second.ask("GET", next(key for key in map(str, range(100)) if own_redis_cluster.owner(key) is second))
    assert [alive(pid) for pid in pids] == [False, True, True]


def test_a_replica_takes_over_from_a_primary_that_died_which_comes_back_as_replica() -> None:
    with running_redis_cluster(replicas=1, node_timeout=1.5) as cluster:
        pids = [node.pid for node in cluster.nodes]
        assert len(cluster.replicas) == 3
        dead, heir = cluster.primaries[0], cluster.replicas[0]
        assert heir.ask("ROLE")[:3] == ["slave", "127.0.0.1", dead.port]
        dead.kill()
        until(lambda: heir.ask("ROLE")[0] == "master", "the replica takes over")
        until(lambda: cluster.owner(0) is heir, "the others know")
        cluster.wait_until_ok()
        assert cluster.client().set("key", "value")
        dead.start()
        until(lambda: dead.ask("ROLE")[:3] == ["slave", "127.0.0.1", heir.port], "it follows its heir")
        pids += [node.pid for node in cluster.nodes]
    assert not any(map(alive, pids))


def test_the_sentinel_makes_the_replica_the_primary(redis_sentinel: RedisSentinel) -> None:
    assert redis_sentinel.current_primary() is redis_sentinel.primary
    name = redis_sentinel.name
    client = redis_sentinel.client(socket_timeout=5)
    client.master_for(name).set("key", "value")
    until(lambda: client.slave_for(name).get("key") == "value", "the replica follows")
    redis_sentinel.primary.kill()
    assert redis_sentinel.wait_for_failover() is redis_sentinel.replica
    assert redis_sentinel.current_primary() is redis_sentinel.replica
    assert client.master_for(name).get("key") == "value"
    assert client.master_for(name).set("key", "written after")


def test_the_sentinels_processes_end_with_it() -> None:
    with running_redis_sentinel() as group:
        pids = [server.pid for server in (group.primary, group.replica, group.sentinel)]
        assert all(map(alive, pids))
    assert not any(map(alive, pids))


def test_what_never_comes_true_is_told() -> None:
    with pytest.raises(TimeoutError, match=r"not within 0\.01 s: pigs fly"):
        until(lambda: False, "pigs fly", limit=0.01)


@pytest.fixture
def old_server(tmp_path: Path) -> Callable[[], Path]:
    def make() -> Path:
        program = tmp_path / "redis-server"
        program.write_text("#!/bin/sh\necho 'Redis server v=6.0.16 sha=0'\n")
        program.chmod(0o755)
        return program

    return make

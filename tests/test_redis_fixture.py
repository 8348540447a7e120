"""The fixture serves a real Redis, and leaves nothing behind."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import pytest
import redis

from tests._redis import running_redis

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests._redis import RedisServer


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


@pytest.fixture
def old_server(tmp_path: Path) -> Callable[[], Path]:
    def make() -> Path:
        program = tmp_path / "redis-server"
        program.write_text("#!/bin/sh\necho 'Redis server v=6.0.16 sha=0'\n")
        program.chmod(0o755)
        return program

    return make

"""A real Redis for the tests: the fixtures `redis_server` (one a session) and `own_redis_server` (to kill and restart).

Neither skips: without a redis-server they fail, and the message says how to get one.
"""

from __future__ import annotations

import contextlib
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tools.redis_server import RedisServerMissing, find_redis_server

if TYPE_CHECKING:
    from collections.abc import Generator

HOST = "127.0.0.1"
START_LIMIT = 10.0  # seconds until the first PONG; it takes 20 ms on an idle machine
STOP_LIMIT = 5.0


class RedisServer:
    """One redis-server process without persistence: after a restart it is empty, on the same port."""

    def __init__(self, program: Path) -> None:
        self._program = program
        self._directory = Path(tempfile.mkdtemp(prefix="rf-redis-"))  # short: the path of a unix socket is limited
        self._process: subprocess.Popen[bytes] | None = None
        self.socket_path = self._directory / "s"
        self.port = 0

    @property
    def url(self) -> str:
        return f"redis://{HOST}:{self.port}/0"

    @property
    def unix_url(self) -> str:
        return f"unix://{self.socket_path}?db=0"

    @property
    def pid(self) -> int:
        assert self._process is not None, "the server is not running"
        return self._process.pid

    def start(self) -> None:
        """Starts on a free port, or on the one it had before; returns when PING is answered."""
        assert self._process is None, "the server is running"
        for _ in range(5):
            port = self.port or _free_port()
            if self._try_start(port):
                self.port = port
                return
        raise RuntimeError(f"redis-server did not start:\n{self._log().read_text()[-2000:]}")

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

    def resume(self) -> None:
        self._running().send_signal(signal.SIGCONT)

    def close(self) -> None:
        self.stop()
        shutil.rmtree(self._directory, ignore_errors=True)

    def _running(self) -> subprocess.Popen[bytes]:
        assert self._process is not None, "the server is not running"
        return self._process

    def _log(self) -> Path:
        return self._directory / "log"

    def _try_start(self, port: int) -> bool:
        options = ["--port", str(port), "--bind", HOST, "--unixsocket", str(self.socket_path), "--save", ""]
        options += ["--appendonly", "no", "--daemonize", "no", "--dir", str(self._directory)]
        with self._log().open("wb") as log:
            process = subprocess.Popen([self._program, *options], stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        self._process = process
        end = time.monotonic() + START_LIMIT
        while process.poll() is None and time.monotonic() < end:
            if _answers(port) and process.poll() is None:
                return True
            time.sleep(0.01)
        self.kill()  # it has ended already if another process had taken the port
        return False

    def _end(self, how: signal.Signals) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        process.send_signal(signal.SIGCONT)  # a paused process would not hear SIGTERM
        process.send_signal(how)
        try:
            process.wait(STOP_LIMIT)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        port: int = probe.getsockname()[1]
        return port


def _answers(port: int) -> bool:
    try:
        with socket.create_connection((HOST, port), timeout=1.0) as connection:
            connection.sendall(b"PING\r\n")
            return connection.recv(16).startswith(b"+PONG")
    except OSError:
        return False


@contextlib.contextmanager
def running_redis() -> Generator[RedisServer]:
    try:
        program = find_redis_server()
    except RedisServerMissing as error:
        pytest.fail(str(error), pytrace=False)
    server = RedisServer(program)
    try:
        server.start()
        yield server
    finally:
        server.close()


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

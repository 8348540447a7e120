"""A redis-server of one's own: to be killed, paused, filled up, and started with any options."""

from __future__ import annotations

import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import redis

from tools.redis_server import find_redis_server

HOST = "127.0.0.1"
START_LIMIT = 15.0  # seconds until it answers, if only that it is still loading
ADMIN, PASSWORD = "prover", "let-me-see"


class Server:
    """One process; after a restart it has the same port and the same directory."""

    def __init__(self, *options: str) -> None:
        self._program = find_redis_server()
        self._directory = Path(tempfile.mkdtemp(prefix="rf-proof-"))
        self._process: subprocess.Popen[bytes] | None = None
        self.port = 0
        self.start(*options)

    @property
    def url(self) -> str:
        """What members connect to."""
        return f"redis://{HOST}:{self.port}/0"

    def client(self) -> redis.Redis:
        """A connection that stays useful whatever members may do: of a user of its own."""
        return redis.Redis(host=HOST, port=self.port, username=ADMIN, password=PASSWORD, socket_timeout=20.0)

    def start(self, *options: str) -> None:
        """Start it; returns when it answers."""
        for _ in range(5):
            port = self.port or _free_port()
            if self._try_start(port, options):
                self.port = port
                return
        raise RuntimeError(f"redis-server did not start:\n{(self._directory / 'log').read_text()[-1000:]}")

    def _try_start(self, port: int, options: Sequence[str]) -> bool:
        command: list[Any] = [self._program, "--port", str(port), "--bind", HOST, "--save", "", "--appendonly", "no"]
        command += ["--daemonize", "no", "--dir", self._directory, "--maxclients", "1000"]
        command += ["--user", ADMIN, "on", f">{PASSWORD}", "~*", "&*", "+@all", *options]
        with (self._directory / "log").open("wb") as log:
            process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        self._process = process
        end = time.monotonic() + START_LIMIT
        while process.poll() is None and time.monotonic() < end:
            if _answers(port):
                return True
            time.sleep(0.01)
        self.kill()
        return False

    def kill(self) -> None:
        """It dies without a word."""
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.wait()

    def pause(self) -> None:
        """It hangs: its connections stay open, nothing is answered."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        """It goes on."""
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    def close(self) -> None:
        """End it, and remove what it wrote."""
        self.kill()
        shutil.rmtree(self._directory, ignore_errors=True)


def _free_port() -> int:
    while True:
        with socket.socket() as probe:
            probe.bind((HOST, 0))
            port: int = probe.getsockname()[1]
        if port < 55_000:  # a member of a cluster listens 10,000 above it, too
            return port


def _answers(port: int) -> bool:
    try:
        with socket.create_connection((HOST, port), timeout=1.0) as connection:
            connection.sendall(b"PING\r\n")
            return connection.recv(16).startswith((b"+PONG", b"-LOADING"))
    except OSError:
        return False

"""The simulator in a process of its own, and the way to steer it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

TOKENS = ("first-token", "second-token")
"""The first one expires in the middle of the story."""
SHIPPING_UPDATE = {
    "name": "shipping_update",
    "language": "fr",
    "components": [{"type": "BODY", "text": "Votre colis {{1}} arrive {{2}}."}],
}


class World:
    """A Graph API with one number, and a directory for what the programs write."""

    def __init__(self, *, speed: float, seed: int, limits: Mapping[str, Any]) -> None:
        self.speed = speed
        self._directory = tempfile.TemporaryDirectory(prefix="rf-proof-")
        self.directory = Path(self._directory.name)
        self.token_file = self.directory / "token"
        self.token_file.write_text(TOKENS[0])
        command = [sys.executable, "-m", "resilience_whatsapp.simulator", "--token", TOKENS[0]]
        command += ["--speed", str(speed), "--seed", str(seed), "--limits", "real"]
        for name, value in limits.items():
            command += ["--limit", f"{name}={'none' if value is None else value}"]
        self._process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=QUIET
        )
        assert self._process.stdout is not None
        self.base_url = self._process.stdout.readline().split()[-1]
        self.epoch = time.time()  # the simulator's clock began some milliseconds before
        words = self._process.stdout.readline().replace(",", " ").split()
        self.phone_number_id, self.waba_id = words[3], words[-1]

    def now(self) -> float:
        """The API's time."""
        return self.epoch + (time.time() - self.epoch) * self.speed

    def until(self, moment: float) -> None:
        """Sleep until a moment of the API's time."""
        time.sleep(max(0.0, (moment - self.now()) / self.speed))

    def steer(self, method: str, path: str, content: Any = None) -> Any:
        """One request to a steering route."""
        return self._ask(method, f"/_sim/{path}", content, {})

    def graph(self, method: str, path: str, content: Any = None) -> Any:
        """One request to the API itself."""
        return self._ask(method, f"/v25.0/{path}", content, {"Authorization": f"Bearer {self.token_file.read_text()}"})

    def _ask(self, method: str, path: str, content: Any, headers: Mapping[str, str]) -> Any:
        data = None if content is None else json.dumps(content).encode()
        request = urllib.request.Request(
            self.base_url + path,
            data=data,
            method=method,
            headers={"Content-Type": "application/json", **headers},
        )
        with urllib.request.urlopen(request, timeout=60.0) as response:
            return json.load(response)

    def script(self, faults: Sequence[Mapping[str, Any]]) -> None:
        """Faults, each a mapping of the fields of `simulator.Fault`."""
        self.steer("POST", "faults", list(faults))

    def close(self) -> None:
        """End it, and remove what was written."""
        end(self._process)
        self._directory.cleanup()

    def cpu(self) -> float:
        """Seconds of CPU that the simulator has used."""
        return cpu_of(self._process)


QUIET = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1"}


def start(program: str, task: Mapping[str, Any], errors: Path) -> subprocess.Popen[bytes]:
    """A program of this package, in the API's time."""
    command = [sys.executable, "-m", "proofs.whatsapp.scaled", program, json.dumps(task)]
    with errors.open("ab") as file:
        return subprocess.Popen(command, stderr=file, env=QUIET)


def end(process: subprocess.Popen[Any], patience: float = 10.0) -> None:
    """Ask it to end, and see to it that it does."""
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(patience)
        except subprocess.TimeoutExpired:
            process.kill()
    process.wait()
    if process.stdout is not None:
        process.stdout.close()


def cpu_of(process: subprocess.Popen[Any]) -> float:
    """Seconds of CPU that a process has used; 0 where that is not known."""
    try:
        fields = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

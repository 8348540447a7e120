"""The command line for real: as a program of its own, against two processes, one fleet and a Redis."""

from __future__ import annotations

import json
import os
import select
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

import pytest

from resilience_core.cli import main
from tests._redis import RedisServer
from tests.cli.conftest import Told
from tests.fleet.members import wait_until

ROOT = Path(__file__).parent.parent.parent
PREFIX = "cli:"


class Program:
    """One of the two processes."""

    def __init__(self, url: str, env: dict[str, str]) -> None:
        words = [sys.executable, str(Path(__file__).with_name("_program.py")), url, PREFIX]
        self.process = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=env)
        self.pid = str(self.process.pid)
        self.path = Path()

    def do(self, what: str) -> str:
        assert self.process.stdin is not None
        print(what, file=self.process.stdin, flush=True)
        return self.line()

    def line(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def end(self) -> None:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.close()
        self.process.wait(60)
        self.process.stdout.close()


class World:
    """Two processes, and a shell in which the command line is a program."""

    def __init__(self, url: str, directory: Path) -> None:
        unset = ("XDG_RUNTIME_DIR", "REDIS_URL", "RESILIENCE_REDIS_URL", "NO_COLOR")
        self.env = {name: value for name, value in os.environ.items() if name not in unset}
        self.env |= {"TMPDIR": str(directory), "PYTHONWARNINGS": "ignore::DeprecationWarning"}
        self.fleet = ("--redis-url", url, "--prefix", PREFIX)
        self.one, self.other = Program(url, self.env), Program(url, self.env)
        for program in (self.one, self.other):
            program.path = Path(program.line())

    def start(self, *words: str) -> subprocess.Popen[str]:
        """A command line as a program."""
        command = [sys.executable, "-m", "resilience_core", *words]
        return subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=self.env, cwd=ROOT
        )

    def run(self, *words: str) -> Told:
        with self.start(*words) as program:
            out, err = program.communicate(timeout=120)
        return Told(program.returncode, out, err)


@pytest.fixture(scope="module")
def processes(redis_server: RedisServer) -> Generator[World]:
    directory = Path(tempfile.mkdtemp(prefix="rc"))
    made = World(redis_server.url, directory)
    yield made
    made.one.end()
    made.other.end()
    assert not made.one.path.exists()
    shutil.rmtree(directory)


@pytest.fixture
def quick(
    processes: World,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path_factory: pytest.TempPathFactory,
) -> Callable[..., Told]:
    """The same without a new program: for what is asked again and again."""
    tmp_path_factory.getbasetemp()  # before another place is named for such things
    monkeypatch.setattr(tempfile, "tempdir", processes.env["TMPDIR"])
    for name in ("XDG_RUNTIME_DIR", "REDIS_URL", "RESILIENCE_REDIS_URL"):
        monkeypatch.delenv(name, raising=False)

    def run(*words: str) -> Told:
        return Told(main(words), *capsys.readouterr())

    return run


def states(told: Told) -> dict[str, str]:
    return {each["name"]: each["state"] for each in json.loads(told.out)["circuits"]}


def test_of_several_processes_one_must_be_named(processes: World, quick: Callable[..., Told]) -> None:
    told = processes.run("status")
    pids = sorted([processes.one.pid, processes.other.pid])
    assert told.code == 2
    assert told.err.splitlines()[0] == "resilience: 2 processes serve an admin socket"
    assert sorted(told.err.splitlines()[1].split()[3::2]) == [f"{pids[0]},", pids[1]] or pids[0] in told.err
    told = processes.run("status", "--pid", processes.one.pid, "--json")
    assert told.code == 0
    assert states(told) == {"graph": "closed", "pay": "closed"}
    assert quick("status", "--socket", str(processes.other.path)).out.startswith(f"process {processes.other.pid} (")
    assert quick("status", "--pid", "1").code == 3


def test_a_circuit_of_one_process_is_forced_and_reset(processes: World, quick: Callable[..., Told]) -> None:
    pid = ("--pid", processes.one.pid)
    told = processes.run("open", "pay", *pid, "--for", "10m", "--reason", "a pause", "--actor", "ann")
    assert told.code == 0, told.err
    assert told.out.startswith("pay: forced_open (manual) by ann until ")
    assert told.out.endswith(": a pause\n")
    assert quick("status", *pid).code == 1
    assert quick("status", "--pid", processes.other.pid).code == 0
    for command, state in (("disable", "disabled"), ("shadow", "shadow"), ("close", "closed"), ("reset", "closed")):
        assert processes.run(command, "pay", *pid).out.startswith(f"pay: {state} (manual)")
    told = processes.run("history", "pay", *pid, "--json")
    attributes = [each["resilience.circuit_breaker.state"] for each in json.loads(told.out)]
    assert attributes == ["forced_open", "disabled", "shadow", "closed", "closed"]


def test_events_are_followed_until_ctrl_c(processes: World, quick: Callable[..., Told]) -> None:
    pid = ("--pid", processes.one.pid)
    follower = processes.start("events", "--follow", "--json", "--since", "0", *pid)
    assert follower.stdout is not None
    processes.one.do("fail pay")
    processes.one.do("fail pay")
    seen: list[dict[str, Any]] = []
    while not seen or seen[-1].get("resilience.circuit_breaker.state") != "open":
        seen.append(json.loads(follower.stdout.readline()))
    assert seen[-1]["resilience.transition.reason"] == "consecutive_failures"
    follower.send_signal(signal.SIGINT)
    _, err = follower.communicate(timeout=120)
    assert (follower.returncode, err) == (130, "")
    told = processes.run("events", "--since", str(seen[-1]["id"] - 1), *pid)
    assert told.out.splitlines()[0].endswith("WARNING  Circuit 'pay' is open (consecutive_failures)")
    assert quick("reset", "pay", *pid).code == 0


def test_a_reader_that_goes_away_ends_it_silently(processes: World, quick: Callable[..., Told]) -> None:
    pid = ("--pid", processes.other.pid)
    quick("disable", "pay", *pid)
    watcher = processes.start("watch", "--interval", "1s", "--json", *pid)
    assert watcher.stdout is not None
    assert watcher.stderr is not None
    assert states(Told(0, watcher.stdout.readline(), ""))["pay"] == "disabled"
    watcher.stdout.close()
    assert watcher.wait(60) == 141
    assert watcher.stderr.read() == ""
    watcher.stderr.close()
    quick("reset", "pay", *pid)


def test_a_fleet_is_forced_and_all_processes_follow(processes: World, quick: Callable[..., Told]) -> None:
    follower = processes.start("events", "--follow", *processes.fleet)
    told = processes.run("status", *processes.fleet)
    assert told.code == 0
    assert [line.split()[:2] for line in told.out.splitlines()[1:3]] == [["CIRCUIT", "STATE"], ["graph", "closed"]]
    told = processes.run("open", "graph", *processes.fleet, "--reason", "maintenance", "--actor", "ann", "--for", "1h")
    assert told.code == 0, told.err
    for program in (processes.one, processes.other):

        def follows(pid: str = program.pid) -> bool:
            circuit = json.loads(quick("status", "graph", "--pid", pid, "--json").out)["circuits"][0]
            return (circuit["state"], circuit["actor"], circuit["note"]) == ("forced_open", "ann", "maintenance")

        wait_until(follows)
    assert follower.stdout is not None
    line = ""
    while "ann" not in line:  # it may have begun to listen a moment too late for the first one
        quick("open", "graph", *processes.fleet, "--reason", "maintenance", "--actor", "ann")
        if select.select([follower.stdout], [], [], 0.5)[0]:
            line = follower.stdout.readline()
    assert line.endswith("WARNING  Circuit 'graph' is forced open by 'ann' (manual): maintenance\n") or "1h" in line
    follower.send_signal(signal.SIGINT)
    follower.communicate(timeout=120)
    assert follower.returncode == 130
    told = quick("history", *processes.fleet)
    assert "is forced open by 'ann'" in told.out.splitlines()[0]
    assert told.out.splitlines()[-1] == "(the last change of each circuit: a fleet's record keeps no other one)"
    assert quick("close", "graph", *processes.fleet).code == 0
    told = quick("watch", "--times", "1", *processes.fleet)
    assert told.code == 0
    assert told.out.split("  ")[1].startswith("graph: closed (manual) by ")


def test_the_doctor_looks_at_a_process(processes: World) -> None:
    told = processes.run("doctor", "--pid", processes.one.pid)
    assert told.code == 1
    assert "warning  breaker-outside-retry: " in told.out
    assert "ok       telemetry: no provider is set" in told.out


def test_configuration_and_completion_need_no_target(processes: World, tmp_path: Path) -> None:
    file = tmp_path / "r.toml"
    file.write_text("[policies.graph.retry]\nmax_attempts = 4\n")
    assert processes.run("config", "check", str(file)) == (0, f"{file}: no problems\n", "")
    told = processes.run("config", "show", str(file))
    assert told.code == 0
    assert "# r.toml" in next(line for line in told.out.splitlines() if line.startswith("max_attempts = 4"))
    told = processes.run("completion", "bash")
    assert (told.code, told.err) == (0, "")
    assert "complete -F _resilience resilience" in told.out


def test_the_child_of_a_fork_serves_nothing_of_its_parent(processes: World, quick: Callable[..., Told]) -> None:
    assert processes.one.do("fork") == "None True True"
    assert quick("status", "--pid", processes.one.pid).code == 0


def test_a_process_that_was_killed_is_not_found_any_more(processes: World, quick: Callable[..., Told]) -> None:
    url = processes.fleet[1]
    third = Program(url, processes.env)
    path = Path(third.line())
    follower = processes.start("events", "--follow", "--since", "0", "--pid", third.pid)
    quick("reset", "pay", "--pid", third.pid)
    assert follower.stdout is not None
    while "closed" not in follower.stdout.readline():
        pass
    third.process.kill()
    _, err = follower.communicate(timeout=120)
    assert follower.returncode == 3
    assert "does not answer: ConnectionResetError" in err or "Connection reset" in err
    third.process.wait()
    assert path.exists()
    told = quick("status", "--pid", third.pid)
    assert (told.code, path.stem in told.err.splitlines()[1]) == (3, False)
    third.end()

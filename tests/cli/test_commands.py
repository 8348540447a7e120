"""The words of the command line, what they answer, and how it ends: in this process, because only `main` matters."""

from __future__ import annotations

import importlib.metadata
import io
import json
import os
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

import pytest
import redis
from opentelemetry.metrics import NoOpMeterProvider

from resilience_core import Bulkhead, CircuitBreaker, CircuitState, Pipeline, Retry
from resilience_core.admin import AdminSocket, _facts
from resilience_core.cli import _commands, _doctor, _process, _redis, _show, _text, main
from resilience_core.cli._completion import script
from resilience_core.cli._parser import parse, parser
from resilience_core.registry import Registry
from resilience_core.testing import record_telemetry
from tests._redis import HOST, RedisServer
from tests.cli.conftest import Told
from tests.fleet.members import Fleets, ok

Run = Callable[..., Told]


@pytest.fixture
def policies() -> Registry:
    return Registry()


@pytest.fixture
def admin(place: Path, policies: Registry) -> Generator[AdminSocket]:
    """The one process that serves; it is this one."""
    with AdminSocket(registry=policies) as made:
        yield made


def added(registry: Registry, *breakers: Any) -> Any:
    for breaker in breakers:
        registry.add(breaker)
    return breakers[0]


# --- words -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "seconds"), [("90", 90), ("90s", 90), ("1.5m", 90), ("1h30m", 5400), ("2d", 172_800), (" 10M ", 600)]
)
def test_durations_are_written_as_people_do(text: str, seconds: float) -> None:
    assert _text.seconds_of(text) == seconds


@pytest.mark.parametrize("text", ["", "x", "0", "0s", "-5", "1h 30m", "401d", "9" * 400, "1e3", "nan", "٣s", "m"])
def test_what_is_no_duration_is_refused(run: Run, text: str) -> None:
    with pytest.raises(ValueError, match="duration"):
        _text.seconds_of(text)
    told = run("open", "x", f"--for={text}")
    assert told.code == 2
    assert "duration" in told.err


def test_durations_are_told_in_two_units() -> None:
    told = [_text.lasting(each) for each in (-1, 0.04, 9.96, 59.6, 61, 3600, 90_061)]
    assert told == ["0.0s", "0.0s", "10.0s", "1m", "1m 1s", "1h", "1d 1h"]


def test_moments_of_another_day_have_their_date() -> None:
    now = time.time()
    assert _text.clock(None) == "-"
    assert len(_text.clock(now)) == 8
    assert len(_text.clock(now - 3 * 86400)) == 19


@pytest.mark.parametrize(
    ("words", "error", "suggestion"),
    [
        (["statsu"], "unknown command 'statsu'; did you mean 'status'?", "commands are status, watch"),
        (["config", "chek"], "unknown command 'chek'; did you mean 'check'?", "commands are check, show"),
        (["status", "--jsno"], "unknown argument '--jsno'; did you mean '--json'?", "see resilience status --help"),
        (["status", "a", "b\n"], r"unknown argument 'b\\n'", "see resilience status --help"),
        ([], "the following arguments are required: COMMAND", "see resilience --help"),
        (["open"], "the following arguments are required: NAME", "see resilience open --help"),
        (["open", ""], "argument NAME: a name has 1 to 1000 characters", "see resilience open --help"),
        (["close", "a", "--for", "9"], "unknown argument '--for'", "see resilience close --help"),
        (["status", "--pid", "x"], "argument --pid: 'x' is no whole number", "see resilience status --help"),
        (["completion", "csh"], "argument SHELL: invalid choice: 'csh'", "see resilience completion --help"),
        (["status", "--pid", "1", "--redis-url", "x"], "--pid and --redis-url exclude each other", "name one target"),
        (["status", "--pid", "1", "--prefix", "x"], "--prefix is that of a fleet", "leave it out"),
        (["config", "check", "missing.toml"], "there is no file 'missing.toml'", "a relative path begins"),
        (["status", "--redis-url", "http://h"], "RedisFleet: source must be a redis://", ""),
        (["status", "--redis-url", "redis://h", "--prefix", "{"], "prefix must consist of up to 64", ""),
        (["status", "--redis-url", "redis://me:secret@h:x/0"], "the address of Redis is no URL that redis-py", ""),
    ],
)
def test_wrong_usage_ends_with_2_and_tells_the_fix(run: Run, words: list[str], error: str, suggestion: str) -> None:
    told = run(*words)
    assert (told.code, told.out) == (2, "")
    first, *rest = told.err.splitlines()
    assert first.startswith(f"resilience: {error}")
    assert "".join(rest).strip().startswith(suggestion)
    assert "secret" not in told.err


def test_help_has_examples_that_can_be_parsed(run: Run) -> None:
    assert run("--help").code == 0
    assert run("--version").out.startswith("resilience ")
    whole = parser()
    for name, command in whole.commands.items():
        told = run(name, "--help")
        assert told.code == 0
        examples = told.out.partition("examples:\n")[2].splitlines()
        assert examples, name
        assert command.description
        assert command.description in " ".join(told.out.split())
    assert parse(["open", "graph", "--for", "10m"]).seconds == 600
    assert "the same as reset" in " ".join(run("close", "--help").out.split())


def test_what_is_not_printable_is_escaped(run: Run, admin: AdminSocket, policies: Registry) -> None:
    breaker = added(policies, CircuitBreaker("evil\x1b[2J\n\u202e"))
    breaker.force_open(actor="a\rb", reason="\x07")
    told = run("status")
    assert "evil\\x1b[2J\\n\\u202e" in told.out
    assert "a\\rb" in told.out
    assert not {"\x1b", "\r", "\x07", "\u202e"} & set(told.out + run("history").out + run("status", breaker.name).out)


def test_a_process_that_answers_what_it_likes_does_not_speak_to_the_terminal(run: Run, place: Path) -> None:
    evil = "\x1b[2J"
    circuit = dict.fromkeys(("name", "state", "reason", "actor", "note", evil), evil) | {"since": 1.0, "until": 2.0}
    policy = {"name": evil, "kind": evil, evil: evil}
    answers = {
        "status": {"process": {"pid": evil, "program": evil}, "circuits": [circuit], "policies": [policy]},
        "history": {"boot": "x", "events": [{"id": evil, "time": 1.0, "level": evil, "text": evil}]},
    }
    with socket.socket(socket.AF_UNIX) as listening:
        path = str(place / "evil.sock")
        listening.bind(path)
        listening.listen()

        def serve() -> None:
            for _ in range(5):
                connection, _ = listening.accept()
                with connection, connection.makefile("rb") as lines:
                    command = json.loads(lines.readline())["command"]
                    connection.sendall(
                        json.dumps({"ok": True} | answers.get(command, answers["status"])).encode() + b"\n"
                    )

        thread = threading.Thread(target=serve)
        thread.start()
        for words in (["status"], ["status", "x"], ["history"], ["open", "x"], ["watch", "--times", "1"]):
            told = run(*words, "--socket", path)
            assert "\x1b" not in told.out + told.err
            assert "\\x1b[2J" in told.out
        thread.join()


# --- a process -------------------------------------------------------------------------------------------------------


def test_without_a_target_it_ends_with_3_and_says_how_to_get_one(run: Run) -> None:
    told = run("status")
    assert told.code == 3
    assert told.err.startswith(
        "resilience: no process of yours serves an admin socket, and no fleet is named\n  start "
    )
    told = run("status", "--pid", 1)
    assert (told.code, "name the path with --socket" in told.err) == (3, True)
    told = run("status", "--socket", "missing.sock", "--json")
    assert told.code == 3
    assert json.loads(told.out)["code"] == 3
    assert "the process at missing.sock does not answer: No such file or directory" in told.err


def test_status_ends_with_1_when_a_circuit_is_open(run: Run, admin: AdminSocket, policies: Registry) -> None:
    assert "no circuits" in run("status").out
    graph, pay = CircuitBreaker("graph"), CircuitBreaker("pay", recovery_timeout=30)
    kept = added(policies, graph, pay, slots := Bulkhead("slots", max_concurrent=3))
    told = run("status")
    assert told.code == 0
    assert told.out.startswith(f"process {os.getpid()} (")
    assert [line.split()[:2] for line in told.out.splitlines()[2:4]] == [["graph", "closed"], ["pay", "closed"]]
    assert "slots   bulkhead  limit=3" in told.out
    assert told.out.endswith("0 of 2 circuits not closed\n")
    graph.disable()
    assert run("status").code == 0
    pay.force(CircuitState.OPEN)
    told = run("status")
    assert told.code == 1
    assert "  in " in next(line for line in told.out.splitlines() if line.startswith("pay"))
    assert told.out.endswith("1 of 2 circuits not closed\n")
    assert run("status", "graph").code == 0
    told = run("status", "slots")
    assert told.code == 0
    assert "  limit" in told.out
    assert run("status", "grpah").err.startswith("resilience: nothing in this process is called 'grpah'; did you mean")
    assert kept.name == slots.name or kept is graph


def test_what_is_over_ends_with_the_next_call_and_lists_are_told_in_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert _show._until(time.time() - 1) == "next call"
    _show._one(_text.Screen(), {"name": "x", "members": ["a", "b"], "votes": []})
    assert capsys.readouterr().out == "\ncircuit_breaker x\n  members  a, b\n  votes    -\n"
    assert _show._now({"name": "x", "kind": "retry", "rate": 2.5, "on": False}) == "rate=2.5"
    assert _show._now({"name": "x", "kind": "retry"}) == "-"


def test_json_is_one_document_or_one_object_a_line(run: Run, admin: AdminSocket, policies: Registry) -> None:
    breaker = added(policies, CircuitBreaker("graph"))
    told = json.loads(run("open", "graph", "--json").out)
    assert [each["state"] for each in told["circuits"]] == ["forced_open"]
    assert json.loads(run("status", "--json").out)["target"]["pid"] == os.getpid()
    assert [each["resilience.policy.name"] for each in json.loads(run("history", "--json").out)] == ["graph"]
    assert [json.loads(line)["id"] for line in run("events", "--json").out.splitlines()] == [1]
    looks = run("watch", "--json", "--times", 2, "--interval", "0.001").out.splitlines()
    assert [json.loads(line)["circuits"][0]["state"] for line in looks] == ["forced_open"] * 2
    assert breaker.state is CircuitState.FORCED_OPEN


def test_history_says_when_there_is_none_and_events_tell_why(run: Run, admin: AdminSocket, policies: Registry) -> None:
    assert run("history").out == "no circuit has changed its state\n"
    breaker = added(policies, CircuitBreaker("graph"))
    breaker.shadow(actor="ann", reason="we look", for_=600)
    told = run("events")
    assert told.out.split("  ", 2)[2].endswith(
        "INFO     Circuit 'graph' is in shadow mode by 'ann' (manual): we look (for 10m)\n"
    )


def test_watch_appends_what_has_changed_where_nobody_looks(run: Run, admin: AdminSocket, policies: Registry) -> None:
    graph, gone = CircuitBreaker("graph"), CircuitBreaker("gone")
    added(policies, graph, gone)
    steps: list[Callable[[], Any]] = [lambda: None, lambda: policies.remove(gone), lambda: graph.force_open(reason="r")]

    def sleep(seconds: float) -> None:
        assert seconds == 5.0
        steps.pop(0)()

    out = io.StringIO()
    options = parse(["watch", "--times", "4", "--interval", "5s"])
    assert _commands.watch(options, _text.Screen(out=out), _process.by_number(os.getpid()), sleep) == 1
    lines = [line.split("  ", 1)[1] for line in out.getvalue().splitlines()]
    assert lines == ["gone: closed", "graph: closed", "gone: gone", "graph: forced_open (manual): r"]


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_colours_are_for_terminals_only_and_never_the_only_sign(
    place: Path, monkeypatch: pytest.MonkeyPatch, admin: AdminSocket, policies: Registry
) -> None:
    breaker = added(policies, CircuitBreaker("graph"))

    def told(**env: str) -> str:
        for name in ("NO_COLOR", "TERM"):
            monkeypatch.delenv(name, raising=False)
        for name, value in env.items():
            monkeypatch.setenv(name, value)
        with monkeypatch.context() as patch:
            patch.setattr(sys, "stdout", Terminal())
            assert main(["watch", "--times", "1"]) == 0
            return sys.stdout.getvalue()

    assert "\x1b[32mclosed\x1b[0m" in told(TERM="xterm")
    assert told(TERM="xterm").startswith("\x1b[H\x1b[2J")
    assert "\x1b[32m" not in told(TERM="xterm", NO_COLOR="1")
    assert "\x1b" not in told(TERM="dumb")
    assert breaker.state is CircuitState.CLOSED


def test_a_letter_that_the_terminal_does_not_have_is_escaped(
    place: Path, monkeypatch: pytest.MonkeyPatch, admin: AdminSocket, policies: Registry
) -> None:
    breaker = added(policies, CircuitBreaker("größe"))
    out = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(out, encoding="ascii"))
    assert main(["status"]) == 0
    assert b"gr\\xf6\\xdfe" in out.getvalue()
    assert breaker.name == "größe"


def test_ctrl_c_ends_it_silently(run: Run, admin: AdminSocket, monkeypatch: pytest.MonkeyPatch) -> None:
    def pressed(*_: object) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr(_process.Process, "status", pressed)
    assert run("watch") == (130, "", "")


def test_a_process_that_wants_no_request_is_still_heard(
    run: Run, admin: AdminSocket, monkeypatch: pytest.MonkeyPatch
) -> None:
    from resilience_core.admin import _peer, _server

    monkeypatch.setattr(_server, "peer_of", lambda connection: _peer.Peer(os.geteuid() + 1))
    told = run("status")
    assert told.code == 2
    assert told.err == "resilience: this process serves its own user only\n  sudo -u that user\n"


# --- a fleet ---------------------------------------------------------------------------------------------------------


def test_a_fleet_is_named_by_the_environment_and_its_own_variable_wins(
    run: Run, fleets: Fleets, monkeypatch: pytest.MonkeyPatch
) -> None:
    (breaker,) = fleets.breakers(1)
    monkeypatch.setenv("REDIS_URL", fleets.url)
    told = run("status", "--prefix", fleets.prefix)
    assert told.code == 0
    assert told.out.startswith(f"fleet at {HOST}:")
    with AdminSocket():
        assert run("status").out.startswith("process ")
        monkeypatch.setenv("RESILIENCE_REDIS_URL", fleets.url)
        assert run("status").out.startswith("fleet ")
        assert run("doctor", "--json").code == 0
    assert breaker.name == "graph"


def test_a_fleet_s_circuits_are_told_and_forced(run: Run, fleets: Fleets) -> None:
    one, _ = fleets.breakers(2)
    target = ("--redis-url", fleets.url, "--prefix", fleets.prefix)
    told = run("open", "graph", "--reason", "a pause", "--for", "10m", *target)
    assert (told.code, told.err) == (0, "")
    told = run("status", "graph", *target)
    assert told.code == 1
    assert "  note      a pause\n" in told.out
    assert json.loads(run("events", "--json", *target).out)["resilience.control.note"] == "a pause"
    assert run("shadow", "graph", *target).code == 0
    assert run("open", "grahp", *target).err.startswith(
        "resilience: no circuit of this fleet is called 'grahp'; did you"
    )
    assert run("events", "--since", 1, *target).code == 2
    fleets.client.set(f"{fleets.prefix}circuit_breaker:a%20b", "rubbish", ex=30)
    fleets.client.hset(f"{fleets.prefix}circuit_breaker:hash", "x", "y")
    told = run("status", *target)
    assert [line.split("  ")[0] for line in told.out.splitlines()[2:5]] == ["a b", "graph", "hash"]
    assert "unreadable_record" in told.out
    assert run("history", *target).code == 0
    assert run("status", "hash", *target).code == 0
    fleets.client.delete(f"{fleets.prefix}circuit_breaker:hash")
    assert ok(one) == "ok"


def test_a_record_that_has_lapsed_meanwhile_is_left_out(fleets: Fleets, monkeypatch: pytest.MonkeyPatch) -> None:
    fleet = _redis.Fleet(fleets.url, fleets.prefix)
    monkeypatch.setattr(fleet, "_names", lambda: iter(["lapsed"]))
    assert fleet.circuits() == []
    fleet.close()


def test_half_open_is_who_probes() -> None:
    text = (
        '{"version": 1, "state": "half_open", "since": "100.000000", "reason": "tripped", "failures": 5, "members": [],'
        '"votes": {}, "open_until": "160.000000", "openings": 1, "lease": {"id": "i", "holder": "web-1", "use_by":'
        '"162.000000", "expires": "170.000000", "used": true, "wanted": ""}, "forced": null, "epoch": "e",'
        '"written": "100.000000", "by": "web-1:2"}'
    )
    circuit = _redis.circuit_of("a%20b", text.encode(), 161_000_000)
    assert (circuit["name"], circuit["state"], circuit["lease"], circuit["until"]) == ("a b", "half_open", "web-1", 160)
    assert _redis.message_of(circuit, "open")["text"] == "Circuit 'a b' lets a probe through (tripped)"


class Followed(_redis.Fleet):
    """Does something when it has begun to listen."""

    then: Callable[[], Any]

    def circuits(self) -> list[dict[str, Any]]:
        known = super().circuits()
        self.then()
        return known


def test_a_fleet_s_changes_are_followed_and_nothing_else(fleets: Fleets, monkeypatch: pytest.MonkeyPatch) -> None:
    (breaker,) = fleets.breakers(1)
    fleet = Followed(fleets.url, fleets.prefix)
    channel = f"{fleets.prefix}rc:{{{fleets.prefix}circuit_breaker:graph}}:changes"
    steps: list[Callable[[], Any]] = [
        lambda: fleets.client.publish(channel, "window"),
        lambda: fleets.client.publish(f"{fleets.prefix}rc:{{{fleets.prefix}bulkhead:graph}}:changes", "more"),
        lambda: fleets.client.publish(channel.replace("graph", "other"), fleets.record()),
        lambda: fleets.client.publish(channel, fleets.record()),  # the same again
        lambda: breaker.force_open(actor="ann"),
        lambda: breaker.fleet.flush(5),
        lambda: fleets.client.publish(channel, "rubbish"),
    ]
    fleet.then = lambda: [step() for step in steps]
    changes = fleet.follow("graph", None)
    message = next(changes)
    assert message["resilience.control.actor"] == "ann"
    assert message["resilience.circuit_breaker.previous_state"] == "closed"
    assert next(changes)["resilience.transition.reason"] == "unreadable_record"
    changes.close()
    fleet.then = lambda: fleets.client.publish(channel.replace("graph", "other"), fleets.record())
    everything = fleet.follow(None, None)
    assert next(everything)["resilience.policy.name"] == "other"
    everything.close()
    fleet.close()


def test_a_fleet_that_says_nothing_is_listened_to_further(fleets: Fleets) -> None:
    fleet = _redis.Fleet(fleets.url, fleets.prefix)
    channel = f"{fleets.prefix}rc:{{{fleets.prefix}circuit_breaker:graph}}:changes"
    told = [{"channel": b"", "data": 1}, None, None, {"channel": channel.encode(), "data": b"rubbish"}, None]

    class News:
        def get_message(self, timeout: float) -> Any:
            return told.pop(0)

        def psubscribe(self, pattern: str) -> None:
            assert pattern == f"{fleets.prefix}rc:*"

        def __enter__(self) -> Any:
            return self

        def __exit__(self, *_: object) -> None:
            pass

    fleet.client.pubsub = News
    assert next(fleet.follow(None, None))["resilience.policy.name"] == "graph"
    with pytest.raises(_text.Failure, match="TimeoutError"):  # no confirmation
        next(fleet.follow(None, None))
    fleet.close()


def test_without_redis_py_a_fleet_cannot_be_asked(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "resilience_core.redis", None)
    told = run("status", "--redis-url", "redis://127.0.0.1:1/0")
    assert told.code == 2
    assert told.err.startswith("resilience: a fleet needs redis-py: ")
    assert told.err.endswith("\n  pip install redis\n")


def test_a_store_that_is_away_ends_with_3_and_shows_no_password(run: Run, place: Path) -> None:
    for command in ("status", "history", "doctor"):
        told = run(command, "--redis-url", "redis://me:hunter2@127.0.0.1:1/3")
        assert told.code == 3
        assert "127.0.0.1:1/3" in told.err
        assert "ConnectionError" in told.err
        assert "hunter2" not in told.out + told.err
    told = run("status", "--redis-url", f"unix://{place}/no.sock?db=2")
    assert f"{place}/no.sock/2" in told.err


def test_a_control_that_redis_does_not_take_ends_with_3(
    run: Run, fleets: Fleets, monkeypatch: pytest.MonkeyPatch
) -> None:
    (breaker,) = fleets.breakers(1)
    target = ("--redis-url", fleets.url, "--prefix", fleets.prefix)
    from resilience_core.fleet import BaseFleet

    monkeypatch.setattr(BaseFleet, "flush", lambda self, timeout: False)
    told = run("open", "graph", *target)
    assert told.code == 3
    assert "Redis did not take it within 5 s" in told.err
    assert breaker.name == "graph"


USER = (
    "on >secret resetkeys ~circuit_breaker:* ~rc:* resetchannels &rc:* -@all +evalsha +eval +subscribe"
    " +unsubscribe +publish +get +set +del +pttl +pexpire +hget +hgetall +hset +hdel"
)


def test_rights_that_are_missing_are_named(run: Run, redis_server: RedisServer) -> None:
    admin = redis.Redis.from_url(redis_server.url)
    url = f"redis://doctor:secret@{HOST}:{redis_server.port}/0"
    target = ("--redis-url", url)
    admin.execute_command("ACL", "SETUSER", "doctor", *USER.split())
    try:
        told = run("doctor", *target)
        assert told.code == 1
        assert "error    rights: the user may not: time, scan, psubscribe\n" in told.out
        assert "ACL SETUSER ... +time +scan +psubscribe" in told.out
        assert "version: not told" in told.out
        told = run("status", *target)
        assert told.code == 3
        assert told.err.startswith("resilience: Redis refuses: ")
        assert "scan" in told.err
        admin.execute_command("ACL", "SETUSER", "doctor", "+scan", "+time", "+psubscribe")
        assert run("doctor", *target).code == 0
        admin.execute_command("ACL", "SETUSER", "doctor", "-get")
        told = run("status", "graph", *target)
        assert told.code == 3
        assert "get" in told.err
    finally:
        admin.execute_command("ACL", "DELUSER", "doctor")
        admin.close()


class Told8:
    """A fleet whose Redis says what the test wants."""

    refused = redis.exceptions.NoPermissionError

    def __init__(self, info: dict[str, Any], now: float) -> None:
        self.client = self
        self._info, self._now = info, now

    def info(self, section: str) -> dict[str, Any]:
        return self._info

    def now(self) -> int:
        return round(self._now * 1_000_000)


def test_an_old_redis_and_clocks_that_differ_are_told() -> None:
    def verdict(info: dict[str, Any]) -> tuple[str, str]:
        check = _doctor._version(Told8(info, 0.0))
        return check.verdict, check.text

    assert verdict({"redis_version": "6.0.9"}) == ("error", "redis 6.0.9")
    assert verdict({"redis_version": "7.2", "valkey_version": "9.0.1"}) == ("ok", "valkey 9.0.1")
    assert verdict({"redis_version": "x"})[0] == "error"
    for now, text in ((102.0, "this host is 2.0 s behind Redis"), (98.0, "this host is 2.0 s ahead of Redis")):
        check = _doctor._skew(Told8({}, now), lambda: 100.0)
        assert (check.verdict, check.text) == ("warning", text)
    assert _doctor._skew(Told8({}, 100.2), lambda: 100.0).verdict == "ok"


# --- the doctor ------------------------------------------------------------------------------------------------------


def test_the_doctor_looks_at_what_is_there(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_facts, "PACKAGES", ("attrs", "no-such-package"))
    told = run("doctor")
    assert told.code == 0
    assert told.out.startswith("this environment\n")
    assert f"attrs {importlib.metadata.version('attrs')}; not installed: no-such-package" in told.out
    assert "(no process and no fleet: " in told.out
    told = run("doctor", "--json")
    assert json.loads(told.out)["target"] is None


def test_the_doctor_tells_what_lint_finds_and_who_takes_telemetry(
    run: Run, admin: AdminSocket, policies: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "ok       pipelines: nothing is wrong" in run("doctor").out
    with pytest.warns(match="breaker-outside-retry"):
        wrong = Pipeline(CircuitBreaker("b"), Retry(on=OSError), name="upside_down")
    again = Pipeline(wrong, name="outer")
    added(policies, wrong, again, CircuitBreaker("c"))

    class Provider:
        """One that somebody has set."""

    monkeypatch.setattr("opentelemetry.trace.get_tracer_provider", Provider)
    monkeypatch.setattr("opentelemetry.metrics.get_meter_provider", NoOpMeterProvider)
    told = run("doctor")
    assert told.code == 1
    assert told.out.count("warning  breaker-outside-retry: ") == 1
    assert "Put the circuit breaker inside the retry. See docs/lint.md#breaker-outside-retry" in told.out
    assert "ok       telemetry: traces: Provider\n" in told.out
    with record_telemetry():  # providers that only the policies use
        assert "ok       telemetry: metrics: MeterProvider, traces: TracerProvider\n" in run("doctor").out


# --- configuration and completion ------------------------------------------------------------------------------------

GOOD = """
[budgets.all]
law = { type = "TokenQuota" }
[policies.graph.retry]
max_attempts = 4
budget = "all"
[environments.staging.policies.graph.retry]
max_attempts = 2
"""


def test_config_check_tells_everything_at_once(run: Run, tmp_path: Path) -> None:
    file = tmp_path / "r.toml"
    file.write_text("[policies.graph.retry]\nmax_attempts = 0\nbase_delya = 3\n")
    told = run("config", "check", file)
    assert told.code == 1
    assert "policies.graph.retry.max_attempts: " in told.out
    assert "did you mean 'base_delay'?" in told.out
    assert told.out.endswith("r.toml: 2 problems\n")
    assert run("config", "show", file).code == 1
    problems = json.loads(run("config", "check", file, "--json").out)["problems"]
    assert len(problems) == 2
    file.write_text("[policies.graph.retry]\nmax_attempts = 0\n")
    assert run("config", "check", file).out.endswith("r.toml: 1 problem\n")


def test_config_show_tells_who_set_it(run: Run, tmp_path: Path) -> None:
    file = tmp_path / "r.toml"
    file.write_text(GOOD)
    assert run("config", "check", file) == (0, f"{file}: no problems\n", "")
    assert "max_attempts = 4 " in run("config", "show", file).out
    assert "max_attempts = 2 " in run("config", "show", file, "--env", "staging").out
    assert run("config", "show", file, "--env", "stagnig").code == 1
    told = json.loads(run("config", "show", file, "--json").out)
    assert told["policies"]["graph"]["retry"]["max_attempts"] == 4
    assert told["set_by"]["policies.graph.retry.max_attempts"] == "r.toml"
    assert told["budgets"]["all"]["law"]


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_knows_all_commands_and_the_shell_takes_it(run: Run, shell: str) -> None:
    told = run("completion", shell)
    assert told.code == 0
    for word in ("status", "shadow", "follow", "check", "prefix"):
        assert word in told.out
    if shutil.which(shell):
        subprocess.run([shell, "-n"], input=told.out, text=True, check=True, timeout=120)


@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
@pytest.mark.parametrize(
    ("words", "completed"),
    [("resilience sta", "status"), ("resilience open --re", "--reason\n--redis-url"), ("resilience config sh", "show")],
)
def test_bash_completes(words: str, completed: str) -> None:
    line = words.split()
    program = f'{script("bash")}\nCOMP_WORDS=({words}); COMP_CWORD={len(line) - 1}; _resilience; printf "%s\\n" '
    found = subprocess.run(
        ["bash", "-c", program + '"${COMPREPLY[@]}"'], capture_output=True, text=True, check=True, timeout=120
    )
    assert found.stdout.strip() == completed


def test_the_command_line_is_light() -> None:
    code = (
        "import sys, resilience_core.cli as c; c.main(['status', '--socket', 'none']); "
        "print(*{name.partition('.')[0] for name in sys.modules})"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120)
    assert not set(found.stdout.split()) & {"redis", "aiohttp", "asyncio", "trio", "anyio", "opentelemetry", "cattrs"}


def test_times_of_a_circuit_are_shown_as_times() -> None:
    out, now = io.StringIO(), time.time()
    row = {"name": "graph", "state": "open", "since": now, "down_since": now, "until": None}
    _show._one(_text.Screen(out=out), row)
    shown = dict(line.split() for line in out.getvalue().splitlines()[2:])
    assert shown["since"] == shown["down_since"] == _text.clock(now)
    assert shown["until"] == "-"

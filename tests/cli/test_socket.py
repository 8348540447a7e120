"""The admin socket: who may connect, what it answers, and what a bad client can do: nothing."""

from __future__ import annotations

import errno
import json
import os
import socket
import struct
import threading
import time
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

import pytest

from resilience_core import CircuitBreaker, CircuitTransition, ConfigurationError, subscribe
from resilience_core._events import everywhere
from resilience_core.admin import AdminSocket, _peer, _places, _server, _socket
from resilience_core.registry import Registry
from resilience_core.testing import record_telemetry
from tests.fleet.members import run_in, wait_until
from tests.worlds import World


class Line:
    """A client that speaks the protocol, well or badly."""

    def __init__(self, path: Path) -> None:
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.socket.settimeout(10)
        self.socket.connect(str(path))
        self.lines = self.socket.makefile("rb")

    def send(self, content: Any) -> None:
        text = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.socket.sendall(text + b"\n")

    def read(self) -> Any:
        line = self.lines.readline()
        return json.loads(line) if line else None

    def ask(self, content: Any) -> Any:
        self.send(content)
        return self.read()

    def close(self) -> None:
        self.lines.close()
        self.socket.close()

    def __enter__(self) -> Line:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


@pytest.fixture
def policies() -> Registry:
    return Registry()


@pytest.fixture
def admin(place: Path, policies: Registry) -> Generator[AdminSocket]:
    with AdminSocket(place / "own" / "a.sock", registry=policies) as made:
        yield made


def added(registry: Registry, name: str, **options: Any) -> CircuitBreaker:
    breaker = CircuitBreaker(name, **options)
    registry.add(breaker)
    return breaker


# --- where it is -----------------------------------------------------------------------------------------------------


def test_directory_and_socket_are_open_to_their_user_only(place: Path) -> None:
    before = os.umask(0)
    try:
        with AdminSocket(place / "own" / "a.sock") as admin:
            assert admin.path is not None
            assert admin.path.parent.stat().st_mode & 0o777 == 0o700
            assert admin.path.stat().st_mode & 0o777 == 0o600
            assert list(admin.path.parent.iterdir()) == [admin.path]
    finally:
        os.umask(before)
    assert not (place / "own" / "a.sock").exists()


@pytest.mark.parametrize("runtime", [True, False], ids=["with XDG_RUNTIME_DIR", "without"])
def test_the_default_place_is_of_the_user_and_the_process(
    place: Path, monkeypatch: pytest.MonkeyPatch, runtime: bool
) -> None:
    if runtime:
        (place / "run").mkdir(mode=0o700)
        monkeypatch.setenv("XDG_RUNTIME_DIR", str(place / "run"))
    expected = place / "run" / "resilience" if runtime else place / f"resilience-{os.geteuid()}"
    admin = AdminSocket()
    assert admin.path is None
    with admin:
        assert admin.path == expected / f"{os.getpid()}.sock"
        assert list(_places.sockets()) == [admin.path]
    assert admin.path is None


def test_a_runtime_directory_that_is_not_there_is_passed_over(place: Path) -> None:
    for wrong in ("relative", str(place / "missing")):
        assert _places.directories({"XDG_RUNTIME_DIR": wrong}) == (place / f"resilience-{os.geteuid()}",)


def refused(path: Any, match: str, **options: Any) -> None:
    with pytest.raises(ConfigurationError, match=match):
        AdminSocket(path, **options).start()


def test_a_directory_that_is_not_safe_is_refused(place: Path) -> None:
    (place / "open").mkdir(mode=0o755)
    refused(place / "open" / "a.sock", "is open to other users: chmod 700 it")
    (place / "link").symlink_to(place)
    refused(place / "link" / "a.sock", "is a symbolic link")
    (place / "file").write_text("")
    refused(place / "file" / "a.sock", "cannot be made: File exists")
    assert "is no directory" in str(_places.problem_of(place / "file"))
    (place / "foreign").mkdir(mode=0o700)
    stranger = os.geteuid() + 4321
    if os.geteuid() == 0:
        os.chown(place / "foreign", 4321, -1)
        refused(place / "foreign" / "a.sock", "belongs to user 4321, not to 0")
    with pytest.raises(ConfigurationError, match=r"belongs to user \d+, not to"):
        _places.prepare(place / "foreign" / "a.sock", stranger + 1)


def test_sockets_in_directories_that_are_not_safe_are_not_found(place: Path) -> None:
    (place / f"resilience-{os.geteuid()}").mkdir(mode=0o777)
    (place / f"resilience-{os.geteuid()}").chmod(0o777)
    assert list(_places.sockets()) == []


def test_a_path_that_cannot_be_is_refused_with_the_reason(place: Path) -> None:
    refused(place / ("x" * 100), "and a unix socket's can have 103")
    (place / "own").mkdir(mode=0o700)
    (place / "own" / "a.sock").write_text("")
    refused(place / "own" / "a.sock", "is there and no socket")
    room = _places.LONGEST_PATH - len(os.fsencode(place / "own")) - 1
    refused(place / "own" / ("x" * room), "cannot be served: AF_UNIX path too long")
    refused(3, "path must be a path or None, not 3")
    refused("a\0b", "must not have a NUL")
    refused(None, "control must be True or False", control=1)


def test_what_a_dead_process_has_left_is_replaced_and_what_lives_is_not(place: Path) -> None:
    own = place / f"resilience-{os.geteuid()}"
    own.mkdir(mode=0o700)
    for name in ("a.sock", "12345.sock"):
        dead = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        dead.bind(str(own / name))
        dead.close()
    with AdminSocket(own / "a.sock"):
        refused(own / "a.sock", "a process serves at .* already")
        with AdminSocket() as admin:
            assert sorted(each.name for each in own.iterdir()) == sorted([f"{os.getpid()}.sock", "a.sock"])
            assert admin.path is not None
            admin.path.unlink()  # by somebody else; closing does not mind
    assert list(own.iterdir()) == []


def test_one_that_is_closed_hears_nothing_any_more(place: Path, policies: Registry) -> None:
    before = everywhere.listeners
    with AdminSocket(registry=policies) as admin, Line(admin.path or place) as line:
        assert line.ask({"command": "events"})["ok"]
        assert len(everywhere.listeners) == len(before) + 2
    assert everywhere.listeners == before


def test_a_socket_that_is_another_s_by_now_is_left_alone(place: Path) -> None:
    admin = AdminSocket(place / "own" / "a.sock")
    admin.start()
    (place / "own" / "a.sock").unlink()
    with AdminSocket(place / "own" / "a.sock") as other:
        admin.close()
        assert other.path is not None
        assert other.path.exists()
        admin.close()  # nothing


def test_one_that_was_never_started_has_nothing_to_leave_in_a_child() -> None:
    admin = AdminSocket()
    admin.after_fork()
    assert admin.path is None


def test_at_the_end_of_the_process_it_is_removed(place: Path) -> None:
    admin = AdminSocket(place / "own" / "a.sock")
    admin.start()
    _socket._at_exit()
    assert list((place / "own").iterdir()) == []


# --- who is there ----------------------------------------------------------------------------------------------------


class Credentials:
    """A connection whose kernel says what the test wants."""

    def __init__(self, answer: bytes | OSError) -> None:
        self.answer = answer

    def getsockopt(self, *_: int) -> bytes:
        if isinstance(self.answer, OSError):
            raise self.answer
        return self.answer


def test_the_kernel_says_who_has_connected() -> None:
    assert _peer.peer_of(Credentials(struct.pack("=iII", 7, 1000, 100)), 17) == _peer.Peer(1000, 7)
    darwin = struct.pack("=IIhxx16I", 0, 501, 1, *[0] * 16)
    assert _peer.peer_of(Credentials(darwin), None) == _peer.Peer(501)
    assert _peer.peer_of(Credentials(struct.pack("=II", 9, 501)), None) == _peer.Peer()  # another layout
    assert _peer.peer_of(Credentials(OSError(errno.ENOPROTOOPT, "no")), None) == _peer.Peer()
    assert _peer.peer_of(Credentials(b""), 17) == _peer.Peer()


def test_the_user_and_root_may_enter_and_nobody_else() -> None:
    own = os.geteuid()
    assert [_peer.Peer(user).may_enter() for user in (own, 0, None, own + 1)] == [True, True, True, False]


def test_an_actor_is_a_user_on_a_host() -> None:
    host = socket.gethostname()
    assert _peer.Peer(2_000_000_123).actor == f"2000000123@{host}"
    assert _peer.Peer().actor == _peer.Peer(os.geteuid()).actor == f"{_peer.user_name(os.geteuid())}@{host}"


def test_another_user_is_told_so_and_served_nothing(admin: AdminSocket, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_server, "peer_of", lambda connection: _peer.Peer(os.geteuid() + 1))
    with Line(admin.path) as line:
        assert line.read() == _server.refusal("this process serves its own user only", "sudo -u that user")
        assert line.read() is None


# --- what it answers -------------------------------------------------------------------------------------------------


def test_status_and_snapshot_tell_of_all_policies(admin: AdminSocket, policies: Registry) -> None:
    breaker = added(policies, "graph")
    with Line(admin.path) as line:
        told = line.ask({"command": "status"})
        assert told["ok"]
        assert told["process"]["pid"] == os.getpid()
        assert [(each["name"], each["state"], each["until"]) for each in told["circuits"]] == [
            ("graph", "closed", None)
        ]
        breaker.force_open(actor="ann", for_=60)
        (circuit,) = line.ask({"command": "status", "name": "graph"})["circuits"]
        assert (circuit["state"], circuit["actor"]) == ("forced_open", "ann")
        assert circuit["until"] == pytest.approx(time.time() + 60, abs=20)
        breaker.force(breaker.state.OPEN)
        (circuit,) = line.ask({"command": "status", "name": "graph"})["circuits"]
        assert circuit["until"] == pytest.approx(time.time() + 60, abs=20)
        assert line.ask({"command": "snapshot"})["policies"][0]["state"] == "open"


def test_a_policy_that_cannot_tell_its_state_is_unknown_and_hides_no_other(
    admin: AdminSocket, policies: Registry
) -> None:
    class Broken(CircuitBreaker):
        def snapshot(self) -> dict[str, Any]:
            raise ValueError("secret")

    kept = added(policies, "good")
    policies.add(broken := Broken("bad"))
    with Line(admin.path) as line:
        circuits = line.ask({"command": "status"})["circuits"]
    assert [(each["name"], each["state"], each["reason"]) for each in circuits] == [
        (broken.name, "unknown", "ValueError"),
        (kept.name, "closed", None),
    ]


@pytest.mark.parametrize(
    ("command", "state"),
    [
        ("open", "forced_open"),
        ("close", "closed"),
        ("reset", "closed"),
        ("disable", "disabled"),
        ("shadow", "shadow"),
    ],
)
def test_a_control_forces_all_circuits_of_the_name_and_is_an_event(
    admin: AdminSocket, policies: Registry, command: str, state: str
) -> None:
    breakers = [added(policies, "graph"), added(policies, "graph")]
    other = added(policies, "other")
    heard: list[Any] = []
    end = subscribe(heard.append)
    with Line(admin.path) as line:
        told = line.ask({"command": command, "name": "graph", "reason": "a test"})
    end()
    assert [each["state"] for each in told["circuits"]] == [state, state]
    assert [each.state.value for each in breakers] == [state, state]
    assert other.state.value == "closed"
    events = [each for each in heard if isinstance(each, CircuitTransition)]
    assert [(each.state, each.actor, each.note) for each in events] == [(state, _peer.Peer().actor, "a test")] * 2


def test_it_serves_blocking_asyncio_and_trio_programs_alike(world: World, place: Path, policies: Registry) -> None:
    breaker = added(policies, "graph")

    async def story() -> None:
        with AdminSocket(place / "own" / "a.sock", registry=policies) as admin, Line(admin.path) as line:
            line.ask({"command": "events"})
            with Line(admin.path) as other:  # while the loop stands still, which waits for the answer
                assert other.ask({"command": "open", "name": "graph", "actor": "ann"})["ok"]
            assert line.read()["resilience.control.actor"] == "ann"

    run_in(world, story)
    assert breaker.state.value == "forced_open"


def test_a_control_that_changes_no_state_is_an_event_but_no_transition(policies: Registry) -> None:
    breaker = added(policies, "graph")
    heard: list[Any] = []
    breaker.subscribe(heard.append)
    with record_telemetry() as recorded:
        breaker.force_open(actor="ann", reason="a pause")
        breaker.force_open(actor="bob", reason="a longer one", for_=60)
        breaker.force_open(reason="nobody's")
        assert recorded.value("resilience.circuit_breaker.transitions") == 1
    assert [(each.actor, each.note) for each in heard] == [("ann", "a pause"), ("bob", "a longer one")]


def test_a_socket_without_control_only_tells(place: Path, policies: Registry) -> None:
    breaker = added(policies, "graph")
    with AdminSocket(place / "own" / "a.sock", registry=policies, control=False) as admin, Line(admin.path) as line:
        assert line.ask({"command": "status"})["process"]["control"] is False
        assert "only tells" in line.ask({"command": "open", "name": "graph"})["error"]
    assert breaker.state.value == "closed"


@pytest.mark.parametrize(
    ("request_", "error", "suggestion"),
    [
        (b"{", "a request is a JSON object in one line", 'send {"command": "status"}'),
        (b"[" * 60_000, "a request is a JSON object in one line", 'send {"command": "status"}'),
        ([1], "a request is a JSON object in one line", 'send {"command": "status"}'),
        ({"command": "statsu"}, "unknown command; did you mean 'status'?", "commands are status, snapshot, history, "),
        ({"command": ["x"]}, "unknown command", "commands are "),
        ({"command": "status", "nmae": "x"}, "unknown field 'nmae'; did you mean 'name'?", ""),
        ({"command": "status", "name": 3}, "name must be a text of 1 to 1000 characters", ""),
        ({"command": "status", "name": "x" * 1001}, "name must be a text of 1 to 1000 characters", ""),
        (
            {"command": "status", "name": "grap"},
            "nothing in this process is called 'grap'; did you",
            "there are 'graph'",
        ),
        (
            {"command": "history", "name": "grap"},
            "nothing in this process is called 'grap'; did you",
            "there are 'graph'",
        ),
        ({"command": "history", "after": True}, "after must be a number, 0 or more", ""),
        ({"command": "history", "after": -1}, "after must be a number, 0 or more", ""),
        ({"command": "history", "changes": 3}, "changes must be true or false", ""),
        ({"command": "open"}, "name is missing", "name the circuit"),
        ({"command": "open", "name": "x"}, "nothing in this process is called 'x'", "there are 'graph'"),
        ({"command": "open", "name": "graph", "for": 0}, "CircuitBreaker: for_ must be a positive number", ""),
        ({"command": "reset", "name": "graph", "for": 9}, "CircuitBreaker: for_ does not go with closed", ""),
    ],
)
def test_a_bad_request_is_refused_with_the_fix_and_the_connection_goes_on(
    admin: AdminSocket, policies: Registry, request_: Any, error: str, suggestion: str
) -> None:
    kept = added(policies, "graph")
    with Line(admin.path) as line:
        told = line.ask(request_)
        assert told["ok"] is False
        assert told["error"].startswith(error)
        assert told["suggestion"].startswith(suggestion)
        assert line.ask({"command": "status"})["ok"]
    assert kept.state.value == "closed"


def test_events_are_followed_as_they_happen(admin: AdminSocket, policies: Registry) -> None:
    breaker, other = added(policies, "graph"), added(policies, "other")
    with Line(admin.path) as line, Line(admin.path) as named:
        first = line.ask({"command": "events"})
        assert first["ok"]
        named.ask({"command": "events", "name": "other"})
        breaker.force_open(actor="ann", reason="why")
        other.disable()
        message = line.read()
        assert message["event.name"] == "resilience.control.applied"
        assert message["resilience.control.note"] == "why"
        assert named.read()["resilience.policy.name"] == "other"
        line.send({"command": "status"})  # is not read any more
        with Line(admin.path) as late:
            late.ask({"command": "events", "after": 0})
            assert [late.read()["id"], late.read()["id"]] == [message["id"], message["id"] + 1]
        history = Line(admin.path)
        told = history.ask({"command": "history", "name": "graph", "changes": True})
        assert told["boot"] == first["boot"]
        assert [each["id"] for each in told["events"]] == [message["id"]]
        history.close()
    commands = admin._commands
    wait_until(lambda: commands._streams == 0)


def test_a_flood_rings_once_until_somebody_looks(admin: AdminSocket, policies: Registry) -> None:
    commands = admin._commands
    rung: list[int] = []
    commands._wake = lambda: rung.append(1)
    commands._ring(object())
    commands._ring(object())
    assert rung == [1]


def test_a_failure_inside_is_told_by_its_class_and_the_thread_goes_on(
    admin: AdminSocket, policies: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(self: Registry) -> Any:
        raise RuntimeError("secret")

    with Line(admin.path) as line:
        monkeypatch.setattr(type(admin._commands._feed), "snapshot", broken)
        told = line.ask({"command": "status"})
        assert told["error"] == "the process failed to answer: RuntimeError"
        monkeypatch.undo()
        assert line.ask({"command": "status"})["ok"]


# --- bad clients -----------------------------------------------------------------------------------------------------


def test_a_request_that_is_too_long_ends_its_connection(admin: AdminSocket) -> None:
    with Line(admin.path) as line:
        line.send(b"x" * (_server.LONGEST_LINE + 10))
        assert line.read()["error"] == "a request has at most 65536 bytes"
        assert line.read() is None


def test_more_clients_than_there_may_be_are_told_so(admin: AdminSocket) -> None:
    lines = [Line(admin.path) for _ in range(_server.MOST_CLIENTS)]
    assert all(line.ask({"command": "status"})["ok"] for line in lines)
    with Line(admin.path) as further:
        assert further.read()["error"].startswith("16 clients are connected")
    lines[0].close()
    wait_until(lambda: len(admin._server._clients) < _server.MOST_CLIENTS)
    with Line(admin.path) as further:
        assert further.ask({"command": "status"})["ok"]
    for line in lines[1:]:
        line.close()


def test_a_client_that_does_not_read_is_dropped_and_nobody_waits_for_it(
    admin: AdminSocket, policies: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_server, "MOST_WAITING", 300_000)
    breaker = added(policies, "graph")
    with Line(admin.path) as deaf, Line(admin.path) as other:
        deaf.ask({"command": "events"})
        wait_until(lambda: admin._commands._streams == 1)
        for _ in range(800):
            breaker.force_open(actor="x" * 300, reason="y" * 1000)
            assert other.ask({"command": "status", "name": "graph"})["ok"]
            if not admin._commands._streams:
                break
        wait_until(lambda: admin._commands._streams == 0)
        assert other.ask({"command": "status"})["ok"]


def test_an_answer_that_is_larger_than_a_socket_arrives_in_parts(admin: AdminSocket, policies: Registry) -> None:
    breaker = added(policies, "graph")
    with Line(admin.path) as line:
        for _ in range(400):
            breaker.force_open(actor="x" * 300, reason="y" * 1000)
        line.send({"command": "history"})
        wait_until(lambda: any(client.waiting for client in admin._server._clients.values()))
        assert len(line.read()["events"]) == 400


def test_patience_has_an_end_but_not_for_a_stream_that_has_nothing_to_tell(
    place: Path, policies: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    with AdminSocket(place / "own" / "a.sock", registry=policies) as admin:
        with Line(admin.path) as stream:
            stream.ask({"command": "events"})
            monkeypatch.setattr(_server, "PATIENCE", 0.1)
            for client in admin._server._clients.values():
                client.until = 0.0  # its time is over, too
            with Line(admin.path) as silent:
                assert silent.read() is None
            breaker = added(policies, "graph")
            time.sleep(0.15)
            breaker.disable()
            assert stream.read()["event.name"] == "resilience.control.applied"


def test_a_connection_that_breaks_harms_nothing(admin: AdminSocket, policies: Registry) -> None:
    breaker = added(policies, "graph")
    server = admin._server
    gone = Line(admin.path)
    gone.ask({"command": "events"})
    (client,) = server._clients.values()
    gone.close()
    wait_until(lambda: not server._clients)
    server._put(client, {})
    server._drop(client)
    server._ready(client.connection, 3)
    breaker.disable()
    with Line(admin.path) as line:
        assert line.ask({"command": "status"})["ok"]


class Broken:
    """A socket of which every use fails."""

    def __getattr__(self, name: str) -> Callable[..., Any]:
        def fails(*_: Any) -> Any:
            raise OSError(errno.EMFILE, "no")

        return fails


def test_what_a_socket_can_fail_with_is_survived(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_server, "SPIN", 0.0)
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listening.bind(str(place / "a.sock"))
    listening.listen()
    server = _server.Server(listening, lambda request, peer: {})
    server._accept(Broken(), 1)
    one, other = socket.socketpair()
    for use in (server._receive, lambda client: server._put(client, {})):
        broken = Broken()
        broken.fileno, broken.close = one.fileno, one.fileno
        client = _server._Client(broken, _peer.Peer(), 0.0)
        server._clients[broken] = client
        server._selector.register(broken, 1, None)
        use(client)
        assert not server._clients
    for _ in range(100_000):  # a bell that rings already
        server.wake()
    server._bell.close()
    server.wake()
    server.abandon()
    one.close()
    other.close()


def test_it_serves_from_one_daemon_thread_that_ends_with_it(place: Path) -> None:
    with AdminSocket(place / "own" / "a.sock"):
        (thread,) = (each for each in threading.enumerate() if each.name == "resilience-admin")
        assert thread.daemon
    assert not thread.is_alive()


def test_there_is_nothing_else_to_be_imported() -> None:
    import resilience_core.admin

    with pytest.raises(AttributeError, match="no attribute 'Nothing'"):
        _ = resilience_core.admin.Nothing

"""The proxy breaks real connections the way it was told, at once, and leaves nothing behind."""

from __future__ import annotations

import errno
import os
import re
import signal
import socket
import socketserver
import struct
import sys
import threading
import time
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import redis

from resilience_core import ConfigurationError
from resilience_core.testing import FaultProxy, _fault_proxy

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

    from tests._redis import RedisServer

LIMIT = 10.0  # seconds after which something that must happen is taken for missing
SILENCE = 0.1  # seconds without an answer that count as none
FLOOD = 32 << 20  # bytes: more than the buffers of all sockets and the proxy hold


class Server(socketserver.ThreadingTCPServer):
    """Hands every connection to `serve`, in a thread of its own; `ends` counts the connections it saw the end of."""

    daemon_threads = True
    allow_reuse_address = True

    def __init__(self, serve: Callable[[socket.socket], None]) -> None:
        self.ends = threading.Semaphore(0)
        self.accepted = threading.Semaphore(0)

        class Handler(socketserver.BaseRequestHandler):
            server: Server

            def handle(self) -> None:
                self.server.accepted.release()
                with suppress(ConnectionError):
                    serve(self.request)

            def finish(self) -> None:
                self.server.ends.release()

        super().__init__(("127.0.0.1", 0), Handler)

    @property
    def address(self) -> tuple[str, int]:
        return "127.0.0.1", self.server_address[1]


def echo(connection: socket.socket) -> None:
    while chunk := connection.recv(1 << 16):
        connection.sendall(chunk)


@contextmanager
def running(serve: Callable[[socket.socket], None]) -> Generator[Server]:
    with Server(serve) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


@pytest.fixture
def server() -> Generator[Server]:
    with running(echo) as server:
        yield server


@pytest.fixture
def proxy(server: Server) -> Generator[FaultProxy]:
    with FaultProxy(server.address) as proxy:
        yield proxy


def connect(proxy: FaultProxy) -> socket.socket:
    return socket.create_connection(("127.0.0.1", proxy.port), timeout=LIMIT)


def ask(connection: socket.socket, question: bytes) -> bytes:
    connection.sendall(question)
    return receive(connection, len(question))


def receive(connection: socket.socket, count: int) -> bytes:
    """As many bytes, or fewer where the connection ends before."""
    answer = b""
    while len(answer) < count and (chunk := connection.recv(count - len(answer))):
        answer += chunk
    return answer


def is_silent(connection: socket.socket) -> bool:
    connection.settimeout(SILENCE)
    try:
        connection.recv(1)
    except TimeoutError:
        return True
    finally:
        connection.settimeout(LIMIT)
    return False


def until(condition: Callable[[], bool]) -> bool:
    """For what no event tells: the server's kernel closes a socket some time after its process did."""
    end = time.monotonic() + LIMIT
    while not condition() and time.monotonic() < end:
        time.sleep(0.001)
    return condition()


def test_forwards_in_both_directions_and_counts(proxy: FaultProxy) -> None:
    assert (proxy.connections, proxy.accepted) == (0, 0)
    with connect(proxy) as first, connect(proxy) as second:
        assert ask(first, b"one") == b"one"
        assert ask(second, b"two") == b"two"
        assert (proxy.connections, proxy.accepted) == (2, 2)
    assert until(lambda: proxy.connections == 0)
    assert proxy.accepted == 2


def test_a_connection_is_counted_as_soon_as_it_stands(proxy: FaultProxy) -> None:
    with connect(proxy) as busy:
        stop = threading.Event()

        def chatter() -> None:  # the proxy's thread is in the middle of something whenever it is asked
            while not stop.is_set():
                ask(busy, b"x")

        thread = threading.Thread(target=chatter)
        thread.start()
        try:
            for number in range(2, 200):
                connect(proxy).close()
                assert proxy.accepted == number
        finally:
            stop.set()
            thread.join()


def test_carries_more_than_all_buffers_hold_although_nobody_reads(proxy: FaultProxy) -> None:
    with connect(proxy) as client:
        sender = threading.Thread(target=client.sendall, args=(b"x" * FLOOD,))
        sender.start()
        sender.join(SILENCE)
        assert len(receive(client, FLOOD)) == FLOOD
        sender.join()


def test_a_sender_feels_that_what_it_sends_is_not_taken(proxy: FaultProxy) -> None:
    with connect(proxy) as client:
        proxy.throttle(1e-300)
        client.settimeout(SILENCE)
        with pytest.raises(TimeoutError):
            for _ in range(FLOOD >> 16):
                client.send(b"x" * (1 << 16))


def test_the_end_of_the_stream_passes_and_the_answer_still_comes() -> None:
    def after_the_end(connection: socket.socket) -> None:
        question = b"".join(iter(lambda: connection.recv(99), b""))
        connection.sendall(question.upper())

    with running(after_the_end) as server, FaultProxy(server.address) as proxy, connect(proxy) as client:
        client.sendall(b"half closed")
        client.shutdown(socket.SHUT_WR)
        assert receive(client, 99) == b"HALF CLOSED"
        assert until(lambda: proxy.connections == 0)


def test_latency_delays_each_direction(proxy: FaultProxy) -> None:
    with connect(proxy) as existing:
        ask(existing, b"warm")
        proxy.latency(0.05)
        with connect(proxy) as new:
            for client in (existing, new):
                before = time.monotonic()
                assert ask(client, b"slow") == b"slow"
                assert time.monotonic() - before >= 2 * 0.05


def test_latency_zero_and_heal_hasten_what_is_under_way(proxy: FaultProxy) -> None:
    for end in (lambda: proxy.latency(0), proxy.heal):
        with connect(proxy) as client:
            proxy.latency(3_000_000.0)  # longer than any selector can wait
            client.sendall(b"held")
            assert is_silent(client)
            end()
            assert receive(client, 4) == b"held"


def test_latency_keeps_the_order(proxy: FaultProxy) -> None:
    with connect(proxy) as client:
        proxy.latency(0.02)
        client.sendall(b"first ")
        assert proxy.connections == 1  # the proxy has read it
        client.sendall(b"second")
        assert receive(client, 12) == b"first second"


def test_throttle_lets_through_so_many_bytes_a_second(proxy: FaultProxy) -> None:
    with connect(proxy) as existing:
        ask(existing, b"warm")
        proxy.throttle(10_000)
        with connect(proxy) as new:
            for client in (existing, new):
                before = time.monotonic()
                assert ask(client, b"x" * 2_000) == b"x" * 2_000
                assert time.monotonic() - before >= 1_800 / 10_000  # all but the first piece of 200 bytes


def test_throttled_data_drips(proxy: FaultProxy) -> None:
    with connect(proxy) as client:
        proxy.throttle(1)
        client.sendall(b"x" * 1000)
        assert len(client.recv(1000)) < 1000


def test_a_throttle_that_would_wait_for_ever_ends_with_heal_and_with_the_next_throttle(proxy: FaultProxy) -> None:
    with connect(proxy) as client:
        proxy.throttle(1e-300)
        client.sendall(b"abcd")
        assert client.recv(4) == b"a"
        assert is_silent(client)
        proxy.throttle(1e-290)
        assert client.recv(4) == b"b"
        assert is_silent(client)
        proxy.heal()
        assert receive(client, 2) == b"cd"


def test_black_hole_swallows_what_open_and_new_connections_send(server: Server, proxy: FaultProxy) -> None:
    with connect(proxy) as existing:
        ask(existing, b"warm")
        proxy.black_hole()
        with connect(proxy) as new:
            for client in (existing, new):
                client.sendall(b"lost")
                assert is_silent(client)
            assert proxy.connections == 2
            proxy.heal()
            for client in (existing, new):
                assert ask(client, b"found") == b"found"


def test_black_hole_swallows_requests_that_are_under_way(proxy: FaultProxy) -> None:
    with connect(proxy) as client:
        proxy.latency(1000)
        client.sendall(b"lost")
        assert proxy.connections == 1  # the proxy has read it
        proxy.black_hole()
        proxy.heal()
        assert ask(client, b"found") == b"found"


def test_black_hole_swallows_answers_that_are_under_way() -> None:
    said = threading.Event()

    def serve(connection: socket.socket) -> None:
        connection.sendall(b"lost")
        said.set()
        echo(connection)

    with running(serve) as server, FaultProxy(server.address) as proxy:
        proxy.latency(1000)
        with connect(proxy) as client:
            assert said.wait(LIMIT)
            assert proxy.connections == 1  # the proxy has read it
            proxy.black_hole()
            proxy.heal()
            assert ask(client, b"found") == b"found"


def test_black_hole_lets_clients_go(server: Server, proxy: FaultProxy) -> None:
    with connect(proxy) as client:
        ask(client, b"warm")
        proxy.black_hole()
    assert server.ends.acquire(timeout=LIMIT), "the server hears of it"
    assert until(lambda: proxy.connections == 0)


def test_a_server_that_goes_away_behind_a_black_hole_is_missed_after_it() -> None:
    leave = threading.Event()

    def serve(connection: socket.socket) -> None:
        assert leave.wait(LIMIT)

    with running(serve) as server, FaultProxy(server.address) as proxy, connect(proxy) as client:
        assert server.accepted.acquire(timeout=LIMIT)
        proxy.black_hole()
        leave.set()
        assert server.ends.acquire(timeout=LIMIT)
        assert is_silent(client)
        proxy.heal()
        assert client.recv(1) == b""


@pytest.fixture(params=["tcp", "unix"])
def nobody(request: pytest.FixtureRequest) -> Generator[Any]:
    """An address where nobody listens; its port is kept from others."""
    with socket.socket() as keeper:
        keeper.bind(("127.0.0.1", 0))
        yield keeper.getsockname() if request.param == "tcp" else Path("rf-no-such-socket")


def test_black_hole_needs_no_server(nobody: Any) -> None:
    with FaultProxy(nobody) as proxy:
        proxy.black_hole()
        with connect(proxy) as stays:
            with connect(proxy) as leaves:
                leaves.sendall(b"lost")
                assert is_silent(leaves)
            assert until(lambda: proxy.connections == 1)
            proxy.heal()
            with pytest.raises(ConnectionResetError):
                stays.recv(1)


def test_without_a_server_connections_are_reset(nobody: Any) -> None:
    with FaultProxy(nobody) as proxy:
        with pytest.raises(ConnectionResetError), connect(proxy) as client:
            client.recv(1)
        assert (proxy.accepted, proxy.connections) == (1, 0)


def test_refuse_refuses_new_connections_and_leaves_open_ones_alone(proxy: FaultProxy) -> None:
    with connect(proxy) as existing:
        port = proxy.port
        ask(existing, b"warm")
        for _ in range(2):  # the second changes nothing
            proxy.refuse()
            with pytest.raises(ConnectionRefusedError):
                connect(proxy)
        assert ask(existing, b"still") == b"still"
        proxy.heal()
        assert proxy.port == port
        with connect(proxy) as new:
            assert ask(new, b"again") == b"again"


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere no two sockets are bound to one port")
def test_heal_tells_when_the_port_was_taken(proxy: FaultProxy) -> None:
    proxy.refuse()
    with socket.socket() as thief:
        thief.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        thief.bind(("127.0.0.1", proxy.port))
        thief.listen()
        with pytest.raises(OSError, match=os.strerror(errno.EADDRINUSE)):
            proxy.heal()
    proxy.heal()
    with connect(proxy) as client:
        assert ask(client, b"mine") == b"mine"


def test_reset_breaks_open_connections_at_once(server: Server, proxy: FaultProxy) -> None:
    with connect(proxy) as first, connect(proxy) as second:
        for client in (first, second):
            ask(client, b"warm")
        proxy.reset()
        assert proxy.connections == 0
        for client in (first, second):
            with pytest.raises(ConnectionResetError):
                client.recv(1)
    for _ in range(2):
        assert server.ends.acquire(timeout=LIMIT), "the server hears of it"
    with connect(proxy) as new:
        assert ask(new, b"new ones live") == b"new ones live"


def test_reset_of_new_connections_lasts_until_heal(proxy: FaultProxy) -> None:
    proxy.reset(new=True)
    proxy.reset()  # does not end it
    for number in range(1, 4):
        with pytest.raises(ConnectionResetError), connect(proxy) as client:
            client.recv(1)
        assert (proxy.accepted, proxy.connections) == (number, 0)
    proxy.heal()
    with connect(proxy) as client:
        assert ask(client, b"healed") == b"healed"


@pytest.mark.parametrize("count", [0, 1, 5])
def test_cut_after_ends_the_answer_in_the_middle(server: Server, proxy: FaultProxy, count: int) -> None:
    with connect(proxy) as existing:
        assert ask(existing, b"whole answer") == b"whole answer"
        proxy.cut_after(count)
        with connect(proxy) as new:
            for client in (existing, new):
                assert ask(client, b"0123456789") == b"0123456789"[:count]
                assert client.recv(1) == b"", "closed, not reset"
        assert proxy.connections == 0
    for _ in range(2):
        assert server.ends.acquire(timeout=LIMIT), "the server hears of it"


def test_cut_after_counts_over_several_answers_and_each_connection_for_itself(proxy: FaultProxy) -> None:
    proxy.cut_after(5)
    with connect(proxy) as first, connect(proxy) as second:
        assert ask(first, b"abc") == b"abc"
        assert ask(second, b"xyz") == b"xyz"
        assert ask(first, b"def") == b"de"
        assert ask(second, b"uvw") == b"uv"


def test_cut_after_ends_with_an_orderly_end_although_not_all_was_read() -> None:
    answer = threading.Event()

    def serve(connection: socket.socket) -> None:
        assert answer.wait(LIMIT)
        connection.sendall(b"abcdef")

    with running(serve) as server, FaultProxy(server.address) as proxy, connect(proxy) as client:
        proxy.cut_after(1)
        proxy.throttle(1e-300)  # one byte in each direction, and no more
        client.sendall(b"x" * (_fault_proxy.MOST_WAITING * 5 // 4))  # more than the proxy keeps
        answer.set()
        assert receive(client, 99) == b"a"
        assert client.recv(1) == b""


def test_heal_ends_a_cut_that_has_not_happened(proxy: FaultProxy) -> None:
    with connect(proxy) as client:
        proxy.cut_after(4)
        assert ask(client, b"abc") == b"abc"
        proxy.heal()
        assert ask(client, b"defghi") == b"defghi"


def test_faults_add_up(proxy: FaultProxy) -> None:
    proxy.latency(0.05)
    proxy.cut_after(2)
    with connect(proxy) as client:
        before = time.monotonic()
        assert ask(client, b"abcd") == b"ab"
        assert time.monotonic() - before >= 2 * 0.05


def test_a_client_that_resets_is_passed_on(server: Server, proxy: FaultProxy) -> None:
    with connect(proxy) as client:
        ask(client, b"warm")
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    assert server.ends.acquire(timeout=LIMIT)
    assert until(lambda: proxy.connections == 0)


def test_a_server_that_resets_is_passed_on() -> None:
    def serve(connection: socket.socket) -> None:
        connection.recv(1)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        socket.close(connection.detach())

    with running(serve) as server, FaultProxy(server.address) as proxy, connect(proxy) as client:
        client.sendall(b"x")
        with pytest.raises(ConnectionResetError):
            client.recv(1)


def test_a_server_that_talks_to_a_client_that_left_is_stopped() -> None:
    def serve(connection: socket.socket) -> None:
        while True:
            connection.sendall(b"x" * 1000)

    with running(serve) as server, FaultProxy(server.address) as proxy:
        with connect(proxy) as client:
            assert client.recv(1) == b"x"
            client.shutdown(socket.SHUT_WR)
            assert proxy.connections == 1
        assert server.ends.acquire(timeout=LIMIT)
        assert until(lambda: proxy.connections == 0)


def test_serves_many_connections_at_once_while_faults_are_switched(proxy: FaultProxy) -> None:
    answered: list[int] = []

    def talk(number: int) -> None:
        while True:
            try:
                with connect(proxy) as client:
                    if ask(client, b"%d" % number * 1000) == b"%d" % number * 1000:
                        answered.append(number)
                        return
            except ConnectionError:
                pass

    threads = [threading.Thread(target=talk, args=(number,)) for number in range(30)]
    for thread in threads:
        thread.start()
    for _ in range(10):
        proxy.reset()
        proxy.refuse()
        proxy.heal()
        proxy.cut_after(100)
        proxy.throttle(100_000)
        proxy.latency(0.001)
        proxy.heal()
    for thread in threads:
        thread.join()
    assert sorted(answered) == list(range(30))


def test_close_ends_connections_port_and_thread(server: Server) -> None:
    proxy = FaultProxy(server.address)
    (thread,) = [each for each in threading.enumerate() if each.name == f"FaultProxy-{proxy.port}"]
    with connect(proxy) as client:
        ask(client, b"warm")
        proxy.close()
        proxy.close()  # again: harmless
        assert client.recv(1) == b""
    assert not thread.is_alive()
    with pytest.raises(ConnectionRefusedError):
        connect(proxy)
    assert server.ends.acquire(timeout=LIMIT), "the server hears of it"


@pytest.mark.parametrize("fault", ["heal", "black_hole", "refuse", "reset"])
def test_leaves_no_descriptor_open(server: Server, fault: str) -> None:
    def descriptors() -> int:
        return len(list(Path("/dev/fd").iterdir()))

    before = descriptors()
    for _ in range(10):
        with FaultProxy(server.address) as proxy, connect(proxy) as client, connect(proxy):
            ask(client, b"warm")
            getattr(proxy, fault)()
    assert until(lambda: descriptors() <= before)


def test_no_fault_can_be_switched_on_a_closed_proxy(server: Server) -> None:
    proxy = FaultProxy(server.address)
    proxy.close()
    for use in (proxy.heal, proxy.refuse, proxy.reset, proxy.black_hole, lambda: proxy.connections):
        with pytest.raises(RuntimeError, match=f"the FaultProxy on port {proxy.port} is closed"):
            use()


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")  # from 3.12 on: this process has threads
def test_in_the_child_of_a_fork_the_proxy_is_closed_and_the_parents_goes_on(proxy: FaultProxy) -> None:
    child = os.fork()
    if child == 0:
        signal.alarm(int(LIMIT))  # a child that hangs ends with a signal
        try:
            proxy.heal()
        except RuntimeError:
            proxy.close()
            os._exit(0)
        os._exit(1)
    assert os.waitpid(child, 0) == (child, 0)
    with connect(proxy) as client:
        assert ask(client, b"parent") == b"parent"


@pytest.mark.parametrize(
    "upstream",
    [
        6379,
        "",
        "x" * 104,
        ("localhost",),
        ("localhost", "6379"),
        ("localhost", True),
        ("localhost", 0),
        ("localhost", 65536),
        (None, 6379),
        ("x" * 100, 6379),
        ("\0", 6379),
    ],
    ids=repr,
)
def test_an_upstream_that_cannot_work_is_refused(upstream: Any) -> None:
    with pytest.raises(ConfigurationError, match="FaultProxy: upstream"):
        FaultProxy(upstream)


@pytest.mark.parametrize(
    ("method", "argument", "values"),
    [
        ("latency", "seconds", [-1, float("nan"), float("inf"), True, "1", None]),
        ("throttle", "bytes_per_second", [0, -1, float("nan"), float("inf"), True, "1", None]),
        ("cut_after", "count", [-1, 1.5, True, "1", None]),
        ("reset", "new", [1, "yes", None]),
    ],
)
def test_arguments_that_cannot_work_are_refused_by_name(
    proxy: FaultProxy, method: str, argument: str, values: list[Any]
) -> None:
    for value in values:
        with pytest.raises(
            ConfigurationError, match=f"FaultProxy: {argument} must be .*, not {re.escape(repr(value))}"
        ):
            getattr(proxy, method)(**{argument: value})


def test_says_what_it_is(server: Server, proxy: FaultProxy) -> None:
    assert repr(proxy) == f"<FaultProxy 127.0.0.1:{proxy.port} to {server.address!r}>"


@pytest.mark.parametrize("over", ["tcp", "unix"])
def test_stands_before_a_real_redis(redis_server: RedisServer, over: str) -> None:
    upstream = ("localhost", redis_server.port) if over == "tcp" else redis_server.socket_path
    with FaultProxy(upstream) as proxy:
        with redis.Redis(port=proxy.port, retry=None, socket_timeout=LIMIT) as client:
            assert client.echo("hello") == b"hello"
            proxy.reset(new=True)
            with pytest.raises(redis.ConnectionError, match="reset"):
                client.ping()
            proxy.heal()
            assert client.ping()
            proxy.cut_after(3)
            with pytest.raises(redis.ConnectionError):
                client.echo("cut in the middle")
            proxy.heal()
            proxy.refuse()
            with pytest.raises(redis.ConnectionError, match="refused"):
                client.ping()
            proxy.heal()
            assert client.ping()
        proxy.black_hole()
        with (
            redis.Redis(port=proxy.port, retry=None, socket_timeout=SILENCE) as client,
            pytest.raises(redis.TimeoutError),
        ):
            client.ping()

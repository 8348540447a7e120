"""A TCP proxy that breaks connections on demand: real sockets, real errors, one thread.

All state belongs to that thread. Callers hand it functions and wait until they ran, after everything that had happened
on the sockets before: a count is exact, and no byte slips past a fault that was switched on before it was sent.
"""

from __future__ import annotations

import errno
import math
import os
import selectors
import socket
import struct
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from queue import SimpleQueue
from typing import Any, Final, TypeAlias, TypeVar

from resilience_core._errors import ConfigurationError
from resilience_core._fork import renewed_after_fork
from resilience_core._validation import _is_number, refuse

T = TypeVar("T")
Upstream: TypeAlias = "tuple[str, int] | str | os.PathLike[str]"

HOST: Final = "127.0.0.1"
CHUNK: Final = 1 << 16
MOST_WAITING: Final = 1 << 20  # bytes per direction; beyond, the sender feels it, as with a full socket
TRICKLE: Final = 0.02  # seconds between two pieces of throttled data, so that a slow answer drips instead of jumping
LONGEST_PAUSE: Final = 3600.0  # seconds; selectors take no time of any length
LONGEST_PATH: Final = 103  # bytes, where systems have the least room for the path of a socket
AT_ONCE: Final = struct.pack("ii", 1, 0)  # SO_LINGER of 0 s: close() sends RST


def _is_whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


class _Way:
    """One direction of a connection: what its source sent waits here until its target may have it."""

    def __init__(self, source: socket.socket, target: socket.socket, *, blocked: bool) -> None:
        self.source = source
        self.target = target
        self.waiting: deque[tuple[float, memoryview]] = deque()  # with the time of arrival; empty: end of the stream
        self.size = 0
        self.ended = False  # the source will send no more
        self.told = False  # and the target knows
        self.blocked = blocked  # the target takes nothing at the moment
        self.sent_at = -math.inf
        self.sent = 0

    def append(self, chunk: bytes) -> None:
        self.waiting.append((time.monotonic(), memoryview(chunk)))
        self.size += len(chunk)

    def lose_all(self) -> None:
        self.waiting = deque(item for item in self.waiting if not item[1])  # the end of a stream is no data
        self.size = 0

    def took(self, count: int) -> None:
        arrived, chunk = self.waiting.popleft()
        if count < len(chunk):
            self.waiting.appendleft((arrived, chunk[count:]))
        self.size -= count
        self.sent, self.sent_at = count, time.monotonic()


class _Connection:
    def __init__(self, client: socket.socket, server: socket.socket, left: int | None) -> None:
        self.client = client
        self.server = server
        self.up = _Way(client, server, blocked=True)  # until the connection to the server stands
        self.down = _Way(server, client, blocked=False)
        self.left = left  # bytes of the answer until it is cut
        self.gone = False  # the client cannot be served any more
        self.lost = False  # the server cannot be reached any more


class FaultProxy:
    """Stands between a client and a server on TCP and, when told, does to their connections what networks do.

    Listens on a free port of 127.0.0.1 and forwards to `upstream`. Faults can be switched while connections are open;
    they act on these and on new ones, add up, and last until `heal()`. When a method returns, its fault is in force.

        with FaultProxy(("127.0.0.1", 6379)) as proxy:
            client = connect(port=proxy.port)
            proxy.black_hole()     # the server hangs
            proxy.heal()

    A connection whose server is not there or breaks off is reset. One daemon thread does all the work; `close()` or the
    end of the `with` block ends it and closes all sockets.

    Args:
        upstream: where to forward to: `(host, port)` or the path of a unix socket. A name is resolved once, here, and
            its first IPv4 address taken if it has one.

    Raises:
        ConfigurationError: an argument that cannot work, of this or of any method.
        RuntimeError: from any method but `close()`, once the proxy is closed.

    Attributes:
        port: where the proxy listens on 127.0.0.1; the same through all faults.
    """

    def __init__(self, upstream: Upstream) -> None:
        self._family, self._address = self._resolve(upstream)
        self._latency = 0.0
        self._rate: float | None = None
        self._hole = False
        self._refusing = False
        self._resetting = False
        self._cut: int | None = None
        self._accepted = 0
        self._open: set[_Connection] = set()
        self._orders: SimpleQueue[Callable[[], None]] = SimpleQueue()
        self._heard = False
        self._stopping = False
        self._closed = False
        self._lock = renewed_after_fork(threading.Lock())  # no order may come after the last one
        self._listener = self._bind(0)
        self.port: int = self._listener.getsockname()[1]
        self._selector = selectors.DefaultSelector()
        self._awake, self._waker = socket.socketpair()
        self._selector.register(self._awake, selectors.EVENT_READ, self._hear)
        self._listen()
        self._thread = threading.Thread(target=self._serve, name=f"FaultProxy-{self.port}", daemon=True)
        self._thread.start()

    # What callers see

    @property
    def connections(self) -> int:
        """Connections that are open now."""
        return self._ask(lambda: len(self._open))

    @property
    def accepted(self) -> int:
        """Connections that were accepted so far, reset ones too."""
        return self._ask(lambda: self._accepted)

    def latency(self, seconds: float) -> None:
        """Delay every chunk, and the end of the stream, by so many seconds in each direction; 0 ends it.

        A request and its answer take twice as long. Data that is under way already is delayed or hastened, too.
        """
        if not _is_number(seconds) or seconds < 0:
            raise refuse(self, "seconds", seconds, "a finite number of seconds, 0 or more")
        self._ask(lambda: setattr(self, "_latency", seconds))

    def throttle(self, bytes_per_second: float) -> None:
        """Let through at most so many bytes in a second, per connection and direction."""
        if not _is_number(bytes_per_second) or bytes_per_second <= 0:
            raise refuse(self, "bytes_per_second", bytes_per_second, "a positive, finite number")

        def slow_down() -> None:
            self._rate = bytes_per_second
            for connection in self._open:
                connection.up.sent = connection.down.sent = 0  # what went before is not counted at the new rate

        self._ask(slow_down)

    def black_hole(self) -> None:
        """Accept connections and data, and never answer: a hung server, or a network that drops everything.

        What is sent in either direction is lost for ever, also that which is under way. When it has healed, open
        connections carry what is sent from then on, and those whose server went away meanwhile end.
        """

        def swallow() -> None:
            self._hole = True
            for connection in self._open:
                connection.up.lose_all()
                connection.down.lose_all()

        self._ask(swallow)

    def refuse(self) -> None:
        """Refuse new connections, as a server that is not running; open ones are left alone (`reset()` ends these).

        Raises:
            OSError: another process took the port in the moment between listening and refusing.
        """

        def stop() -> None:
            if not self._refusing:
                self._selector.unregister(self._listener)
                self._listener.close()
                # Bound, but not listening: who connects is refused, and nobody else is given the port.
                self._listener = self._bind(self.port)
                self._refusing = True

        self._ask(stop)

    def reset(self, *, new: bool = False) -> None:
        """Break all open connections at once, with RST to both sides: "connection reset by peer".

        Args:
            new: also accept and reset every new connection until `heal()`; clients notice while they connect, or at
                the first use.
        """
        if not isinstance(new, bool):
            raise refuse(self, "new", new, "True or False")

        def break_all() -> None:
            self._resetting |= new
            for connection in list(self._open):
                self._drop(connection, hard=True)

        self._ask(break_all)

    def cut_after(self, count: int) -> None:
        """Close each connection when `count` bytes of the answer were delivered, wherever in a reply that is.

        Counted from now for open connections, from their start for new ones. 0: the answer's first byte closes it.
        """
        if not _is_whole(count) or count < 0:
            raise refuse(self, "count", count, "a whole number, 0 or more")
        self._ask(lambda: self._cut_at(count))

    def heal(self) -> None:
        """End all faults. Open connections go on; what a fault held back is delivered now.

        Raises:
            OSError: another process listens on the port, which it took while connections were refused.
        """

        def mend() -> None:
            if self._refusing:
                self._listen()
            self._latency, self._rate = 0.0, None
            self._hole = self._refusing = self._resetting = False
            self._cut_at(None)

        self._ask(mend)

    def close(self) -> None:
        """Close all connections and the port, and end the thread; harmless when repeated."""
        with self._lock:
            first, self._closed = not self._closed, True
        if first and self._thread.is_alive():  # in the child of a fork there is no such thread
            self._order(lambda: setattr(self, "_stopping", True))
        self._thread.join()
        self._waker.close()

    def __enter__(self) -> FaultProxy:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<FaultProxy {HOST}:{self.port} to {self._address!r}>"

    # Both threads

    def _resolve(self, upstream: Any) -> tuple[int, Any]:
        if isinstance(upstream, (str, os.PathLike)):
            if not 0 < len(os.fsencode(upstream)) <= LONGEST_PATH:
                raise refuse(self, "upstream", upstream, f"a path of 1 to {LONGEST_PATH} bytes, as systems demand it")
            return socket.AF_UNIX, os.fspath(upstream)
        expected = "(host, port) or the path of a unix socket"
        if not isinstance(upstream, tuple) or len(upstream) != 2:
            raise refuse(self, "upstream", upstream, expected)
        host, port = upstream
        if not isinstance(host, str) or not _is_whole(port) or not 0 < port < 1 << 16:
            raise refuse(self, "upstream", upstream, expected)
        try:
            found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        except (OSError, UnicodeError) as error:
            raise ConfigurationError(f"FaultProxy: upstream {upstream!r} cannot be resolved: {error}") from error
        family, _, _, _, address = min(found, key=lambda info: info[0] != socket.AF_INET)
        return family, address

    @staticmethod
    def _bind(port: int) -> socket.socket:
        listener = socket.socket()
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # old connections may still hold the port
        listener.setblocking(False)
        listener.bind((HOST, port))
        return listener

    def _listen(self) -> None:
        self._listener.listen(128)
        self._selector.register(self._listener, selectors.EVENT_READ, self._accept)

    def _order(self, function: Callable[[], None]) -> None:
        self._orders.put(function)
        self._waker.send(b"\0")

    def _ask(self, function: Callable[[], T]) -> T:
        """Runs it in the proxy's thread."""
        answer: Future[T] = Future()

        def run() -> None:
            try:
                answer.set_result(function())
            except OSError as error:
                answer.set_exception(error)

        with self._lock:
            if self._closed or not self._thread.is_alive():
                raise RuntimeError(f"the FaultProxy on port {self.port} is closed")
            self._order(run)
        return answer.result()

    # The proxy's thread

    def _serve(self) -> None:
        while not self._stopping:
            self._advance()
            for key, events in self._selector.select(self._pause()):
                key.data(events)
            self._advance()
            if self._heard:
                self._heard = False
                self._orders.get()()
        for connection in list(self._open):
            self._drop(connection)
        for each in (self._selector, self._listener, self._awake):
            each.close()

    def _hear(self, _: int) -> None:
        # One order a round: what the sockets had before it was given was then told in the same round, and came first.
        self._awake.recv(1)
        self._heard = True

    def _pause(self) -> float | None:
        """Seconds until something is due that no socket will tell."""
        due = min((self._due(each, way) for each in self._open for way in (each.up, each.down)), default=math.inf)
        return None if due == math.inf else min(max(0.0, due - time.monotonic()), LONGEST_PAUSE)

    def _accept(self, _: int) -> None:
        while True:
            try:
                client, _address = self._listener.accept()
                server = socket.socket(self._family)
            except OSError:  # no more of them; also out of file descriptors, and then the next round tries again
                return
            self._accepted += 1
            connection = _Connection(client, server, self._cut)
            self._open.add(connection)
            if self._resetting:
                self._drop(connection, hard=True)
                continue
            for end in (client, server):
                end.setblocking(False)
                with suppress(OSError):  # a unix socket knows no such option
                    end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            connection.lost = server.connect_ex(self._address) not in (0, errno.EINPROGRESS)

    def _advance(self) -> None:
        """Delivers what is due, ends what is over, and asks the sockets for what is wanted next."""
        now = time.monotonic()
        for connection in list(self._open):
            up, down = connection.up, connection.down
            for way in (up, down):
                while not connection.gone and self._due(connection, way) <= now:
                    self._deliver(connection, way)
            if connection not in self._open:
                continue  # cut
            if connection.gone or (connection.lost and (up.ended or not self._hole)):
                self._drop(connection, hard=True)
            elif up.told and (down.told or (down.ended and self._hole)):
                self._drop(connection)
            else:
                self._watch(connection, up, down)
                self._watch(connection, down, up)

    def _watch(self, connection: _Connection, way: _Way, back: _Way) -> None:
        """Asks the source of `way`, which is the target of `back`, for what is wanted of it."""
        wanted = 0
        if not way.ended and way.size < MOST_WAITING:
            wanted |= selectors.EVENT_READ
        if back.blocked:
            wanted |= selectors.EVENT_WRITE
        if connection.lost and way is connection.down:
            wanted = 0  # a broken socket would report its error for ever
        key = self._selector.get_map().get(way.source)
        current = 0 if key is None else key.events
        if wanted != current:
            if current:
                self._selector.unregister(way.source)
            if wanted:
                # Closing is left to _advance: the next event of this round may be of the same connection.
                def act(events: int) -> None:
                    if events & selectors.EVENT_WRITE:
                        back.blocked = False
                    if events & selectors.EVENT_READ:
                        self._read(connection, way)

                self._selector.register(way.source, wanted, act)

    def _read(self, connection: _Connection, way: _Way) -> None:
        try:
            chunk = way.source.recv(CHUNK)
        except OSError:
            if way is connection.up:
                connection.gone = True
            else:
                connection.lost = True
            return
        way.ended = not chunk
        if way.ended or not self._hole:
            way.append(chunk)

    def _due(self, connection: _Connection, way: _Way) -> float:
        """When the next of what waits may be delivered."""
        if not way.waiting or way.blocked or (self._hole and way is connection.down):
            return math.inf
        due = way.waiting[0][0] + self._latency
        return due if self._rate is None else max(due, way.sent_at + way.sent / self._rate)

    def _deliver(self, connection: _Connection, way: _Way) -> None:
        chunk = way.waiting[0][1]
        count = len(chunk) if self._rate is None else min(len(chunk), max(1, int(self._rate * TRICKLE)))
        left = connection.left if way is connection.down and chunk else None
        if left is not None:
            count = min(count, left)
        try:
            if chunk:
                count = way.target.send(chunk[:count])
            else:
                way.target.shutdown(socket.SHUT_WR)
                way.told = True
        except BlockingIOError:
            way.blocked = True
            return
        except OSError:
            connection.gone = True
            return
        way.took(count)
        if left is not None:
            connection.left = left - count
            if connection.left == 0:
                # Said before closing: where something is left unread, the kernel closes with RST instead.
                with suppress(OSError):
                    connection.client.shutdown(socket.SHUT_WR)
                self._drop(connection)
                connection.gone = True

    def _cut_at(self, count: int | None) -> None:
        self._cut = count
        for connection in self._open:
            connection.left = count

    def _drop(self, connection: _Connection, *, hard: bool = False) -> None:
        self._open.discard(connection)
        for end in (connection.client, connection.server):
            if end in self._selector.get_map():
                self._selector.unregister(end)
            if hard:
                with suppress(OSError):  # some systems refuse that for a connection that is already broken
                    end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, AT_ONCE)
            end.close()

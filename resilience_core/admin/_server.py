"""The thread that serves a socket: lines in, lines out, and no client can hold up another one or the process.

One thread for all clients, which never waits for one of them: what a client does not take is kept for it up to a limit,
and beyond that the client is dropped. The calls that the process guards do not notice any of it.
"""

from __future__ import annotations

import json
import selectors
import socket
import threading
import time
from collections.abc import Iterable
from typing import Any, Protocol

from resilience_core._fork import no_forks
from resilience_core.admin._peer import Peer, peer_of

MOST_CLIENTS = 16
"""Connections at once; a further one is told so and closed."""
LONGEST_LINE = 65_536
"""Bytes of a request."""
MOST_WAITING = 4 * 1024 * 1024
"""Bytes that wait for a client before it is dropped."""
PATIENCE = 30.0
"""Seconds that a client may take for a request, or for taking an answer."""

SPIN = 0.05
"""Seconds until a connection that could not be accepted is looked at again."""


class Answers(Protocol):
    """What a request is answered with."""

    def __call__(self, request: dict[str, Any], peer: Peer) -> dict[str, Any] | Stream: ...


class Stream(Protocol):
    """An answer without end."""

    def take(self) -> Iterable[dict[str, Any]]:
        """What there is to be told now; must not wait."""
        ...

    def close(self) -> None:
        """The client is gone."""
        ...


def line_of(message: dict[str, Any]) -> bytes:
    """A message as it goes over the socket."""
    return json.dumps(message, default=str).encode() + b"\n"


def refusal(error: str, suggestion: str = "") -> dict[str, Any]:
    """The answer to a request that is not carried out, and what to do instead."""
    return {"ok": False, "error": error, "suggestion": suggestion}


class _Client:
    """One connection."""

    def __init__(self, connection: socket.socket, peer: Peer, now: float) -> None:
        self.connection = connection
        self.peer = peer
        self.received = b""
        self.waiting = b""
        self.stream: Stream | None = None
        self.ending = False
        """Whether it is closed when it has taken what waits."""
        self.until = now + PATIENCE


class Server:
    """Serves a socket that listens, from `start` to `stop`."""

    def __init__(self, listening: socket.socket, answer: Answers) -> None:
        self._listening = listening
        self._answer = answer
        self._clients: dict[socket.socket, _Client] = {}
        self._selector = selectors.DefaultSelector()
        self._bell, self._ear = socket.socketpair()
        self._ended = False
        for each in (listening, self._bell, self._ear):
            each.setblocking(False)
        self._selector.register(listening, selectors.EVENT_READ, self._accept)
        self._selector.register(self._ear, selectors.EVENT_READ, self._heard)
        self._thread = threading.Thread(target=self._run, name="resilience-admin", daemon=True)

    def start(self) -> None:
        """Begin to serve."""
        self._thread.start()

    def wake(self) -> None:
        """A stream has something to tell. From any thread, at any time; never waits."""
        try:
            self._bell.send(b"!")
        except OSError:  # it is full, so it will ring anyway; or closed
            pass

    def stop(self) -> None:
        """End the thread and all connections."""
        self._ended = True
        self.wake()
        self._thread.join()

    def abandon(self) -> None:
        """In the child of a fork: close what is the parent's, without a word to anybody.

        Nothing is unregistered: the selector's list is the parent's, too, and would lose it there.
        """
        for each in (self._listening, self._bell, self._ear, *self._clients):
            each.close()
        self._selector.close()

    # --- in the thread -----------------------------------------------------------------------------------------------

    def _run(self) -> None:
        while not self._ended:
            for key, events in self._selector.select(self._pause()):
                if not self._ended:
                    key.data(key.fileobj, events)
            self._drop_late()
        for client in list(self._clients.values()):
            self._drop(client)
        self.abandon()

    def _pause(self) -> float | None:
        """Seconds until a client's patience ends."""
        ends = [client.until for client in self._clients.values()]
        return max(0.0, min(ends) - time.monotonic()) if ends else None

    def _drop_late(self) -> None:
        now = time.monotonic()
        for client in [each for each in self._clients.values() if each.until <= now]:
            if client.stream is not None and not client.waiting:
                client.until = now + PATIENCE  # it listens, and there was nothing to hear
            else:
                self._drop(client)

    def _heard(self, ear: socket.socket, _: int) -> None:
        ear.recv(4096)
        for client in list(self._clients.values()):
            self._told(client)

    def _accept(self, listening: socket.socket, _: int) -> None:
        try:
            connection, _address = listening.accept()
        except OSError:  # gone again; or no file descriptors are left, and then this must not spin
            time.sleep(SPIN)
            return
        connection.setblocking(False)
        client = _Client(connection, peer_of(connection), time.monotonic())
        self._clients[connection] = client
        self._selector.register(connection, selectors.EVENT_READ, self._ready)
        if not client.peer.may_enter():
            self._end_with(client, refusal("this process serves its own user only", "sudo -u that user"))
        elif len(self._clients) > MOST_CLIENTS:
            self._end_with(client, refusal(f"{MOST_CLIENTS} clients are connected, which is the limit", "try again"))

    def _ready(self, connection: socket.socket, events: int) -> None:
        client = self._clients.get(connection)
        if client is None:  # dropped by what came before it in this turn
            return
        if events & selectors.EVENT_READ:
            self._receive(client)
        if events & selectors.EVENT_WRITE and connection in self._clients:
            self._send(client)

    def _receive(self, client: _Client) -> None:
        try:
            received = client.connection.recv(LONGEST_LINE)
        except OSError:
            received = b""
        if not received:
            self._drop(client)
            return
        if client.ending or client.stream is not None:  # it has said what it wants; the rest is not read
            return
        *lines, client.received = (client.received + received).split(b"\n")
        if max(map(len, (*lines, client.received))) > LONGEST_LINE:
            self._end_with(client, refusal(f"a request has at most {LONGEST_LINE} bytes", "send less"))
            return
        for line in lines:
            if line.strip() and self._serve(client, line):
                break

    def _serve(self, client: _Client, line: bytes) -> bool:
        """Answer one request; whether that takes the rest of the connection."""
        client.until = time.monotonic() + PATIENCE
        try:
            request = json.loads(line)
        except (ValueError, RecursionError):
            request = None
        if not isinstance(request, dict):
            self._put(client, refusal("a request is a JSON object in one line", 'send {"command": "status"}'))
            return False
        try:
            with no_forks:  # policies, listeners and the log have locks
                answer = self._answer(request, client.peer)
        except Exception as error:  # of a policy or a listener of the user's: the process and this thread go on
            answer = refusal(f"the process failed to answer: {type(error).__name__}", "look into its log")
        if isinstance(answer, dict):
            self._put(client, answer)
            return False
        client.stream = answer
        self._told(client)
        return True

    def _told(self, client: _Client) -> None:
        """Pass on what its stream has to tell."""
        if client.stream is not None:
            for message in client.stream.take():
                self._put(client, message)

    def _end_with(self, client: _Client, message: dict[str, Any]) -> None:
        client.ending = True
        self._put(client, message)

    def _put(self, client: _Client, message: dict[str, Any]) -> None:
        if client.connection not in self._clients:
            return
        client.waiting += line_of(message)
        if len(client.waiting) > MOST_WAITING:
            self._drop(client)
        else:
            self._send(client)

    def _send(self, client: _Client) -> None:
        try:
            sent = client.connection.send(client.waiting)
        except BlockingIOError:
            sent = 0
        except OSError:
            self._drop(client)
            return
        client.waiting = client.waiting[sent:]
        if sent:
            client.until = time.monotonic() + PATIENCE
        if client.ending and not client.waiting:
            self._drop(client)
            return
        events = selectors.EVENT_READ | (selectors.EVENT_WRITE if client.waiting else 0)
        self._selector.modify(client.connection, events, self._ready)

    def _drop(self, client: _Client) -> None:
        if self._clients.pop(client.connection, None) is None:
            return
        self._selector.unregister(client.connection)
        client.connection.close()
        if client.stream is not None:
            client.stream.close()

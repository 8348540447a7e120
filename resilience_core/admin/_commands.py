"""What may be asked of a process through its socket. Every answer is plain values; every control is an event."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from resilience_core import _schema as s
from resilience_core._errors import ConfigurationError
from resilience_core._events import Event, everywhere
from resilience_core._machines.circuit import CircuitState
from resilience_core._policies.circuit_breaker import CircuitBreaker
from resilience_core._validation import did_you_mean
from resilience_core._version import __version__
from resilience_core.admin._facts import environment, findings, providers
from resilience_core.admin._peer import Peer
from resilience_core.admin._server import Stream, refusal
from resilience_core.feed import Client, Feed
from resilience_core.feed import feed as feed_of_the_process
from resilience_core.registry import Registry
from resilience_core.registry import registry as everything

CONTROLS = {
    "open": CircuitState.FORCED_OPEN,
    "close": CircuitState.CLOSED,
    "reset": CircuitState.CLOSED,
    "disable": CircuitState.DISABLED,
    "shadow": CircuitState.SHADOW,
}
"""What is forced by hand; "close" is another word for "reset"."""
CHANGES = (f"{s.PREFIX}.circuit_breaker.transition", f"{s.PREFIX}.control.applied")
"""Events that a history consists of."""
LONGEST_WORD = 1_000
"""Characters of a name, a reason or an actor: what a fleet's record can hold."""


class Refused(Exception):
    """A request that is not carried out; what to do instead."""

    def __init__(self, error: str, suggestion: str = "") -> None:
        super().__init__(error)
        self.suggestion = suggestion


class Commands:
    """Answers requests with what a registry's policies and the process's events tell."""

    def __init__(self, registry: Registry, *, control: bool) -> None:
        self._registry = registry
        self._control = control
        self._feed = feed_of_the_process if registry is everything else Feed(registry=registry)
        self._wake: Callable[[], None] = _nobody
        self._streams = 0
        self._end: Callable[[], None] = _nobody
        self._rung = False
        self._commands: dict[str, Callable[[_Request, Peer], dict[str, Any] | Stream]] = {
            "status": self._status,
            "snapshot": self._snapshot,
            "history": self._history,
            "events": self._events,
            "doctor": self._doctor,
            **dict.fromkeys(CONTROLS, self._force),
        }

    def start(self, wake: Callable[[], None]) -> None:
        """Remember what happens from now on; `wake` is called when a stream has something to tell."""
        self._wake = wake
        self._feed.start()

    def close(self) -> None:
        """Hear nothing any more; the feed of the process goes on for others."""
        self._ring_no_more()
        if self._feed is not feed_of_the_process:
            self._feed.stop()

    def _ring_no_more(self) -> None:
        self._end()
        self._end, self._streams = _nobody, 0

    def __call__(self, request: dict[str, Any], peer: Peer) -> dict[str, Any] | Stream:
        """The answer to one request."""
        command = request.get("command")
        known = isinstance(command, str) and command in self._commands
        if not known or not isinstance(command, str):
            hint = did_you_mean(command, self._commands) if isinstance(command, str) else ""
            return refusal(f"unknown command{hint}", f"commands are {', '.join(self._commands)}")
        try:
            return self._commands[command](_Request(request), peer)
        except Refused as error:
            return refusal(str(error), error.suggestion)
        except ConfigurationError as error:
            return refusal(str(error))

    # --- what is told ------------------------------------------------------------------------------------------------

    def _process(self) -> dict[str, Any]:
        # The program's name alone: its arguments may hold a password.
        program = Path(sys.argv[0]).name if sys.argv else ""
        return {"pid": os.getpid(), "program": program, "version": __version__, "control": self._control}

    def _status(self, request: _Request, _: Peer) -> dict[str, Any]:
        name = request.text("name")
        request.done()
        told = self._feed.snapshot()
        circuits = [_circuit(row, told["time"]) for row in told["policies"] if row["kind"] == CircuitBreaker.kind]
        others = [row for row in told["policies"] if row["kind"] not in (CircuitBreaker.kind, "pipeline")]
        if name is not None:
            circuits = [each for each in circuits if each["name"] == name]
            others = [row for row in others if row["name"] == name]
            if not circuits and not others:
                raise self._unknown(name, {row["name"] for row in told["policies"] if row["kind"] != "pipeline"})
        return {"ok": True, "process": self._process(), "time": told["time"], "circuits": circuits, "policies": others}

    def _snapshot(self, request: _Request, _: Peer) -> dict[str, Any]:
        request.done()
        return {"ok": True, "process": self._process(), **self._feed.snapshot()}

    def _history(self, request: _Request, _: Peer) -> dict[str, Any]:
        name, after, changes = request.text("name"), request.number("after"), request.flag("changes")
        request.done()
        self._check(name)
        messages = self._feed.history(
            int(after or 0), names=None if name is None else (name,), events=CHANGES if changes else None
        )
        return {"ok": True, "boot": self._feed.boot, "events": messages}

    def _events(self, request: _Request, _: Peer) -> Stream:
        name, after = request.text("name"), request.number("after")
        request.done()
        self._check(name)
        client = self._feed.client(None if after is None else int(after), names=None if name is None else (name,))
        if not self._streams:
            self._end = everywhere.subscribe(self._ring)  # behind the feed, which has the message by then
        self._streams += 1
        return _Following(self, client, self._feed.boot)

    def _check(self, name: str | None) -> None:
        if name is not None and not self._registry.find(name):
            raise self._unknown(name, {policy.name for policy in self._registry})

    def _ring(self, _: Event) -> None:
        if not self._rung:  # once for all that happens until the thread looks
            self._rung = True
            self._wake()

    def looked(self) -> None:
        """What happens from now on rings anew."""
        self._rung = False

    def left(self) -> None:
        """A stream has ended."""
        self._streams -= 1
        if not self._streams:
            self._ring_no_more()

    def _doctor(self, request: _Request, _: Peer) -> dict[str, Any]:
        request.done()
        return {
            "ok": True,
            "process": self._process(),
            "environment": environment(),
            "findings": findings(self._registry),
            "providers": providers(),
        }

    # --- what is done ------------------------------------------------------------------------------------------------

    def _force(self, request: _Request, peer: Peer) -> dict[str, Any]:
        command, name = str(request.text("command")), request.text("name")
        seconds, reason = request.number("for"), request.text("reason")
        actor = request.text("actor") or peer.actor
        request.done()
        if not self._control:
            raise Refused("this process only tells: its socket was started with control=False")
        if name is None:
            raise Refused("name is missing", "name the circuit")
        breakers = [each for each in self._registry.find(name, CircuitBreaker.kind) if isinstance(each, CircuitBreaker)]
        if not breakers:
            raise self._unknown(name, {each.name for each in self._registry if isinstance(each, CircuitBreaker)})
        for breaker in breakers:
            breaker.force(CONTROLS[command], reason=reason, actor=actor, for_=seconds)
        return self._status(_Request({"command": "status", "name": name}), peer)

    @staticmethod
    def _unknown(name: str, known: Iterable[str]) -> Refused:
        names = ", ".join(map(repr, sorted(known)))
        return Refused(
            f"nothing in this process is called {name!r}{did_you_mean(name, known)}", f"there are {names or 'none'}"
        )


class _Request:
    """Fields of a request, each of which is of one type and at most so long."""

    def __init__(self, content: dict[str, Any]) -> None:
        self._content = content
        self._read = {"command"}

    def text(self, field: str) -> str | None:
        """A text."""
        value = self._take(field)
        if value is not None and (not isinstance(value, str) or not 0 < len(value) <= LONGEST_WORD):
            raise Refused(f"{field} must be a text of 1 to {LONGEST_WORD} characters")
        return value

    def number(self, field: str) -> float | None:
        """A number."""
        value = self._take(field)
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < 2**53:
            raise Refused(f"{field} must be a number, 0 or more")
        return value

    def flag(self, field: str) -> bool:
        """True or False."""
        value = self._take(field)
        if value not in (None, True, False):
            raise Refused(f"{field} must be true or false")
        return bool(value)

    def _take(self, field: str) -> Any:
        self._read.add(field)
        return self._content.get(field)

    def done(self) -> None:
        """Refuse what was not read: it would be a wish that is not fulfilled."""
        for field in self._content:
            if field not in self._read:
                raise Refused(f"unknown field {field!r}{did_you_mean(field, self._read)}")


class _Following:
    """A stream of the feed's messages."""

    def __init__(self, commands: Commands, client: Client, boot: str) -> None:
        self._commands = commands
        self._client = client
        self._first: dict[str, Any] | None = {"ok": True, "boot": boot}

    def take(self) -> Iterator[dict[str, Any]]:
        """What has come since."""
        first, self._first = self._first, None
        if first is not None:
            yield first
        self._commands.looked()
        while (message := self._client.get(0)) is not None:
            yield message

    def close(self) -> None:
        """The reader is gone."""
        self._client.close()
        self._commands.left()


def _circuit(row: dict[str, Any], now: float) -> dict[str, Any]:
    """A breaker's row as circuits are told of processes and of fleets alike."""
    if "unreadable" in row:
        return {"name": row["name"], "state": "unknown", "reason": row["unreadable"]} | dict.fromkeys(_COMMON)
    rest = {key: value for key, value in row.items() if key not in ("kind", "next_probe_in", "forced")}
    forced, probe = row["forced"] or {}, row["next_probe_in"]
    return rest | {
        "until": forced.get("until") if probe is None else round(now + probe, 3),
        "actor": forced.get("actor"),
        "note": forced.get("reason"),
    }


_COMMON = ("since", "until", "actor", "note")


def _nobody() -> None:
    """Stands where there is nothing to be done."""

"""A fleet as the target: its records in Redis are read, and a short-lived member of it forces states.

Redis-py is loaded here, when a fleet is asked for, and not before. The address may have a password in it, so it is
never shown: what is shown is host, port and database.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Generator, Iterator
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

from resilience_core import _schema as s
from resilience_core._errors import ConfigurationError
from resilience_core._event_records import record_of
from resilience_core._events import CircuitTransition
from resilience_core._machines.circuit import CircuitState
from resilience_core._machines.shared_circuit import SECOND, Record, from_text
from resilience_core._validation import did_you_mean
from resilience_core.admin._commands import CONTROLS
from resilience_core.admin._peer import Peer
from resilience_core.cli._text import Failure, printable, unusable
from resilience_core.fleet._names import encoded

if TYPE_CHECKING:
    from resilience_core.redis import RedisFleet

PATIENCE = 5.0
"""Seconds that Redis may take to connect, to answer, and to take what a control writes."""
UNREACHABLE = 3
_BATCH = 500


class Fleet:
    """The processes that share server, database and prefix."""

    def __init__(self, url: str, prefix: str = "") -> None:
        try:
            from resilience_core.redis import RedisFleet
        except ImportError as error:
            raise Failure(2, f"a fleet needs redis-py: {error}", "pip install redis") from error
        import redis
        from redis.exceptions import NoPermissionError, RedisError

        self.errors = (RedisError, OSError)
        self.refused = NoPermissionError
        try:
            self.member: RedisFleet = RedisFleet(
                url, prefix=prefix, member="command-line", timeout=PATIENCE, name="command-line"
            )
            self.client: Any = redis.Redis.from_url(
                url, socket_timeout=PATIENCE, socket_connect_timeout=PATIENCE, decode_responses=False
            )
        except ConfigurationError as error:
            raise unusable(error) from error
        except ValueError as error:  # of redis-py, whose text may quote the address
            raise Failure(2, "the address of Redis is no URL that redis-py understands") from error
        self.prefix = prefix
        self.keys = self.member.keys
        self.place = self._place()
        self.title = f"fleet at {self.place}" + (f" with prefix {prefix!r}" if prefix else "")

    def _place(self) -> str:
        settings = self.client.connection_pool.connection_kwargs
        where = settings.get("path") or f"{settings.get('host')}:{settings.get('port')}"
        return printable(f"{where}/{settings.get('db') or 0}")

    @contextlib.contextmanager
    def reached(self) -> Generator[None]:
        """Errors of Redis as failures: 3, and what to grant where a right is missing."""
        try:
            yield
        except self.refused as error:
            # "... has no permissions to run the 'scan' command": the server's text tells what, and no secret.
            raise Failure(
                UNREACHABLE,
                f"Redis refuses: {printable(error)}",
                "docs/command-line.md names the rights that are needed",
            ) from error
        except self.errors as error:
            raise Failure(
                UNREACHABLE,
                f"Redis does not answer ({self.title}): {type(error).__name__}",
                "check address, password and network with: resilience doctor",
            ) from error

    # --- reading -----------------------------------------------------------------------------------------------------

    def now(self) -> int:
        """The server's time in microseconds; this host's where the server does not tell."""
        try:
            seconds, micros = self.client.time()
        except self.refused:
            return time.time_ns() // 1000
        return int(seconds) * SECOND + int(micros)

    def circuits(self) -> list[dict[str, Any]]:
        """All circuits that have a record, by name."""
        with self.reached():
            names = sorted(self._names())
            now = self.now()
            found = []
            for at in range(0, len(names), _BATCH):
                batch = names[at : at + _BATCH]
                for name, text in zip(batch, self._texts(batch), strict=True):
                    if text is not None:  # else it has lapsed just now
                        found.append(circuit_of(name, text, now))
            return found

    def _names(self) -> Iterator[str]:
        begin = f"{self.prefix}circuit_breaker:"
        for key in self.client.scan_iter(match=f"{begin}*", count=_BATCH):
            yield key.decode("utf-8", "replace").removeprefix(begin)

    def _texts(self, names: list[str]) -> list[bytes | None]:
        with self.client.pipeline(transaction=False) as pipeline:
            for name in names:
                pipeline.get(f"{self.prefix}circuit_breaker:{name}")
            replies = pipeline.execute(raise_on_error=False)
        for reply in replies:
            if isinstance(reply, self.refused):
                raise reply
        # What is no text is of another type, and no record.
        return [reply if isinstance(reply, bytes) else None if reply is None else b"" for reply in replies]

    def circuit(self, name: str) -> dict[str, Any]:
        """The circuit of that name.

        Raises:
            Failure: there is none (2); Redis does not answer (3).
        """
        with self.reached():
            (text,) = self._texts([encoded(name)])
            if text is not None:
                return circuit_of(name, text, self.now(), told=name)
        known = [each["name"] for each in self.circuits()]
        raise Failure(
            2,
            f"no circuit of this fleet is called {printable(name)!r}{did_you_mean(name, known)}",
            "circuits are known from their first call on: " + (", ".join(map(printable, known)) or "there are none"),
        )

    def _changes(self) -> Iterator[dict[str, Any]]:
        """Circuits whenever their state changes, by hand or by themselves; without an end."""
        begin, end = f"{self.prefix}rc:{{{self.prefix}circuit_breaker:", "}:changes"
        with self.reached(), self.client.pubsub() as news:
            news.psubscribe(f"{self.prefix}rc:*")  # as the right to it is granted, word for word
            if news.get_message(timeout=PATIENCE) is None:  # confirmed first: what is read below misses nothing then
                raise TimeoutError
            known = {each["name"]: each for each in self.circuits()}
            while True:
                message = news.get_message(timeout=PATIENCE)
                channel = "" if message is None else message["channel"].decode("utf-8", "replace")
                if message is None or message["data"] == b"window" or not channel.startswith(begin):
                    continue  # nothing, or counts of a rate, or a bulkhead's
                circuit = circuit_of(channel[len(begin) : -len(end)], message["data"], self.now())
                before = known.get(circuit["name"])
                if before is None or _is_news(circuit, before):
                    known[circuit["name"]] = circuit
                    yield message_of(circuit, None if before is None else before["state"])

    # --- as a target -------------------------------------------------------------------------------------------------

    def status(self, name: str | None) -> dict[str, Any]:
        """The circuits that have a record."""
        circuits = self.circuits() if name is None else [self.circuit(name)]
        return {"target": {"kind": "fleet", "place": self.place, "prefix": self.prefix}, "circuits": circuits}

    def history(self, name: str | None) -> list[dict[str, Any]]:
        """The last change of each circuit: a record keeps no other one."""
        circuits = self.circuits() if name is None else [self.circuit(name)]
        return sorted(map(message_of, circuits), key=lambda message: message["time"] or 0.0)

    def events(self, name: str | None, after: int | None) -> list[dict[str, Any]]:
        """The same."""
        _no_numbers(after)
        return self.history(name)

    def follow(self, name: str | None, after: int | None) -> Iterator[dict[str, Any]]:
        """Changes of state."""
        _no_numbers(after)
        if name is not None:
            self.circuit(name)
        for message in self._changes():
            if name in (None, message[s.POLICY]):
                yield message

    # --- forcing -----------------------------------------------------------------------------------------------------

    def force(
        self, command: str, name: str, *, seconds: float | None, reason: str | None, actor: str | None
    ) -> list[dict[str, Any]]:
        """Have all members enter a state; the circuit as it is then.

        Raises:
            Failure: there is no such circuit (2); Redis did not take it (3).
        """
        from resilience_core._policies.circuit_breaker import CircuitBreaker

        self.circuit(name)
        state, actor = CONTROLS[command], actor or Peer().actor
        breaker = CircuitBreaker(name, fleet=self.member)
        breaker.force(state, actor=actor, reason=reason, for_=seconds)
        written = self.member.flush(PATIENCE)
        self.member.close()
        circuit = self.circuit(name) if written else {}
        if circuit.get("state") != state or circuit.get("actor") != actor:
            raise Failure(
                UNREACHABLE,
                f"Redis did not take it within {PATIENCE:g} s ({self.title})",
                "look with: resilience status; check the rights with: resilience doctor",
            )
        return [circuit]

    def close(self) -> None:
        """Close the connections."""
        self.member.close()
        self.client.close()


def circuit_of(key: str, text: bytes, now: int, told: str | None = None) -> dict[str, Any]:
    """What a record says, as plain values; moments are seconds since the epoch."""
    name = unquote(key, errors="replace") if told is None else told
    record = from_text(text.decode("utf-8", "replace"))
    if record is None:  # members take it for closed, and tell that
        return {"name": name, "state": "closed", "reason": "unreadable_record"} | dict.fromkeys(_REST)
    record = record.at(now)
    return {"name": name, "state": _state(record), "reason": record.reason, **_details(record)}


_REST = ("since", "until", "actor", "note", "failures", "members", "votes", "openings", "lease", "written", "by")


def _state(record: Record) -> str:
    lease = record.lease
    return (CircuitState.HALF_OPEN if lease is not None and lease.used else record.state).value


def _details(record: Record) -> dict[str, Any]:
    control, lease = record.control, record.lease
    until = record.open_until if record.state is CircuitState.OPEN else None if control is None else control.until
    return {
        "since": record.since / SECOND,
        "until": None if not until else until / SECOND,
        "actor": None if control is None else control.actor,
        "note": None if control is None else control.reason,
        "failures": record.failures,
        "members": list(record.members),
        "votes": len(record.votes),
        "openings": record.openings,
        "lease": None if lease is None else lease.holder,
        "written": record.written / SECOND,
        "by": record.by,
    }


def message_of(circuit: dict[str, Any], previous: str | None = None) -> dict[str, Any]:
    """The change that led to a circuit's state, as a message of the feed; without a number."""
    since, until = circuit["since"], circuit["until"]
    by_hand = circuit["reason"] == "manual"
    event = CircuitTransition(
        circuit["name"],
        since or 0.0,
        previous,  # type: ignore[arg-type] # unknown, and then not told
        circuit["state"],
        circuit["reason"],
        circuit["actor"],
        circuit["note"],
        until if by_hand else None,
    )
    record = record_of(event)
    level = logging.getLevelName(record.level)
    return {"time": since, "event.name": record.name, "level": level, "text": record.text, **record.attributes}


def _is_news(circuit: dict[str, Any], before: dict[str, Any]) -> bool:
    """Whether it has another state, and is no older copy that comes late."""
    late = circuit["written"] is not None and circuit["written"] <= (before["written"] or 0.0)
    return not late and any(before[each] != circuit[each] for each in ("state", "since", "reason"))


def _no_numbers(after: int | None) -> None:
    if after is not None:
        raise Failure(2, "--since is a number of a process's event, and a fleet's have none", "leave it out")

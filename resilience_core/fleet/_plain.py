"""Circuits shared through a store of the user's own: any database with two functions."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

from resilience_core import _validation as check
from resilience_core._errors import ConfigurationError
from resilience_core._fork import no_forks
from resilience_core._machines.shared_circuit import SECOND, from_text
from resilience_core._validation import Seconds
from resilience_core.fleet._fleet import BaseFleet
from resilience_core.fleet._link import Link, Request


@runtime_checkable
class StateStore(Protocol):
    """Keeps one mapping of plain values for each key. Called from the fleet's own thread only; may raise anything."""

    def get_state(self, name: str) -> Mapping[str, Any] | None:
        """What was kept last; None for nothing."""
        ...

    def set_state(self, name: str, state: Mapping[str, Any]) -> None:
        """Keep this instead."""
        ...


class StoreFleet(BaseFleet):
    """A fleet whose circuits are shared through a `StateStore`. For Redis there is `RedisFleet`, which does it better.

    What a plain store cannot do: between reading a state and writing another one, a second member can write, too, and
    one of both is lost. So of failures at the same moment some may not be counted, and two members may both hold the
    lease of a probe until they read again: one probe too many, `poll_interval` at the longest. Nobody is told of
    changes, they are seen when the state is read again. Leases rely on the clocks of the hosts, which must agree to
    within a second. Limiters, bulkheads and budgets are refused: they cannot be counted so.

    Args:
        store: the store.
        member: what this process is called in records that people read; default the host's name.
        name: identifies the fleet in events and logs.
        poll_interval: seconds (or timedelta) between two looks at each record.
        ttl: seconds after which a record that nobody has written to counts as missing.

    Raises:
        ConfigurationError: an option cannot be.
    """

    def __init__(
        self,
        store: StateStore,
        *,
        member: str | None = None,
        name: str = "fleet",
        poll_interval: Seconds = 0.5,
        ttl: Seconds = 300.0,
    ) -> None:
        if not isinstance(store, StateStore):
            raise ConfigurationError("StoreFleet: store must have get_state(name) and set_state(name, state)")
        self._store = store
        super().__init__(
            name=name,
            prefix="",
            member=member,
            secret=None,
            timeout=check.seconds("StoreFleet: poll_interval", poll_interval),
            poll_interval=poll_interval,
            ttl=ttl,
        )

    def store_errors(self) -> tuple[type[BaseException], ...]:
        """Anything: it is the user's."""
        return (Exception,)

    def open_link(self) -> Link:
        """There is nothing to connect to: the store sees to that."""
        return PlainLink(self._store, self.ttl)


class PlainLink:
    """Answers as Redis' scripts do, but not in one step."""

    def __init__(self, store: StateStore, ttl: float) -> None:
        self._store = store
        self._ttl = round(ttl * SECOND)

    def run(self, requests: Sequence[Request]) -> list[Any]:
        """One after the other."""
        return [self._read(request) if request.script == "read" else self._swap(request) for request in requests]

    def round_trips(self, requests: int) -> int:
        """Each is asked by itself."""
        return requests

    def _current(self, key: str, now: int) -> bytes | None:
        with no_forks:
            state = self._store.get_state(key)
        if state is None:
            return None
        text = json.dumps(dict(state), sort_keys=True)
        record = from_text(text)
        if record is not None and now > record.written + record.lasts(record.written, self._ttl):
            return None  # nobody removes it, but its time is up
        return text.encode()

    def _read(self, request: Request) -> Any:
        now = time.time_ns() // 1000
        return self._current(request.key, now), now, 1000 * self._ttl

    def _swap(self, request: Request) -> Any:
        now = time.time_ns() // 1000
        expected, text = request.args[0], request.args[1]
        current = self._current(request.key, now)
        if (json.loads(current) if current else None) != (json.loads(expected) if expected else None):
            return 0, current, now
        with no_forks:
            self._store.set_state(request.key, json.loads(text))
        return 1, None, now

    def listen(self, channels: Iterable[str]) -> None:
        """Nobody tells."""

    def news(self) -> list[tuple[str, bytes]]:
        """Nothing."""
        return []

    def descriptors(self) -> list[int]:
        """Nothing to watch."""
        return []

    def close(self) -> None:
        """The store is the user's."""

    def abandon(self) -> None:
        """The store is the user's, also after a fork."""

"""Single flight: one call per key at a time; everybody else who asks meanwhile waits for that one.

A leader that is cancelled harms nobody but its own caller: the next in line leads instead.
"""

from __future__ import annotations

import threading
from collections.abc import Hashable
from typing import Any

from resilience_core._errors import DeadlineExceeded, RejectionReason
from resilience_core._telemetry import is_degraded, note_degraded
from resilience_core._weave.waiting import Waiter


class Flight:
    """One call that is under way, and those who wait for it."""

    __slots__ = ("degraded", "error", "landed", "over", "value", "waiters")

    def __init__(self) -> None:
        self.waiters: dict[Waiter, None] = {}
        self.over = False
        self.landed = False  # False after waking: the call was cancelled and somebody else must make it
        self.value: Any = None
        self.error: Exception | None = None
        self.degraded = False
        """Whether something else has answered in place of the call."""


class Flights:
    """The calls that are under way, by key."""

    __slots__ = ("_flights", "_lock")

    def __init__(self) -> None:
        self._flights: dict[Hashable, Flight] = {}
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._flights)

    def board(self, key: Hashable, waiter: Waiter) -> tuple[Flight, bool]:
        """The call for `key`, and whether the caller is the one to make it."""
        with self._lock:
            flight = self._flights.get(key)
            if flight is None:
                flight = self._flights[key] = Flight()
                return flight, True
            flight.waiters[waiter] = None
            return flight, False

    def lead(self, key: Hashable) -> Flight | None:
        """Begin the call for `key`; None when somebody makes it already."""
        with self._lock:
            if key in self._flights:
                return None
            flight = self._flights[key] = Flight()
            return flight

    def land(self, key: Hashable, flight: Flight, value: Any, error: BaseException | None) -> None:
        """End the call, and wake those who wait."""
        with self._lock:
            del self._flights[key]
            flight.over = True
            flight.landed = error is None or isinstance(error, Exception)
            flight.value = value
            flight.error = error if isinstance(error, Exception) else None
            flight.degraded = is_degraded()
            waiters, flight.waiters = flight.waiters, {}
        for waiter in waiters:
            waiter.wake()

    def arrive(self, flight: Flight, waiter: Waiter, woken: bool, name: str) -> bool:
        """After waiting: whether the flight has landed; False when it was cancelled and the next one must lead.

        Raises:
            DeadlineExceeded: neither, the wait ended first.
        """
        with self._lock:
            flight.waiters.pop(waiter, None)
            given_up = not woken and not flight.landed
        if given_up:
            inputs = {"when": "while it waited for the call of somebody else"}
            raise DeadlineExceeded(name, RejectionReason.DEADLINE, inputs=inputs)
        if flight.degraded:
            note_degraded()
        return flight.landed

"""How a fleet counts rates: every member tells what is in its window, and the store keeps the sum.

Nothing is told while nothing is bad anywhere: a healthy fleet sends no command. The first bad call of a member makes
all of them tell, good calls too, or the share of bad ones would be too large.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from resilience_core._machines.rates import FailureRate, Rate, SlowCallRate
from resilience_core._machines.trip_rules import AnyCounter, AnyOf
from resilience_core._machines.windows import TimeWindow
from resilience_core.fleet._agent import NEVER
from resilience_core.fleet._link import Request

if TYPE_CHECKING:
    from resilience_core._policies.circuit_breaker import CircuitBreaker
    from resilience_core.fleet._fleet import BaseFleet

TOLD_EVERY = 0.1
"""Seconds between two reports of one member."""
COUNTED_FOR = 60.0
"""Seconds for which what a member has told of a window of calls counts; a window of seconds counts for those."""


def rates_of(breaker: CircuitBreaker) -> list[tuple[FailureRate | SlowCallRate, Rate]]:
    """The rules about rates of a breaker, each with its memory."""
    rule, memory = breaker._circuit.rules.trip, breaker._circuit.memory
    if isinstance(rule, AnyOf) and isinstance(memory, AnyCounter):
        pairs: list[tuple[Any, Any]] = list(zip(rule.rules, memory.counters, strict=True))
    else:
        pairs = [(rule, memory)]
    return [pair for pair in pairs if isinstance(pair[0], (FailureRate, SlowCallRate)) and isinstance(pair[1], Rate)]


class SharedWindows:
    """The windows of one breaker. `reached` is told the reason when the fleet's rate is."""

    def __init__(self, fleet: BaseFleet, breaker: CircuitBreaker, key: str, reached: Callable[[str], None]) -> None:
        self._fleet = fleet
        self._breaker = breaker
        self._key = key
        self._channel = fleet.keys.sister(key, "changes")
        self._reached = reached
        self.clear()

    def clear(self) -> None:
        """Nothing has been told."""
        self._alert_until = 0.0
        self._next = 0.0
        self._told: dict[int, tuple[int, int]] = {}
        self.dirty: bool = False
        """Whether a call was counted since the last report (set by callers)."""

    def heard(self, now: float) -> None:
        """Some member has bad calls: tell what is here."""
        rates = rates_of(self._breaker)
        if rates:
            self._alert_until = now + max(_lasts(rule) for rule, _ in rates)

    def due(self, now: float) -> float:
        """When something is to be told."""
        if self.dirty or now < self._alert_until:
            return self._next
        return NEVER

    def requests(self, member: str, era: str, now: float) -> list[Request]:
        """What is to be told now: what has changed since the last time."""
        self.dirty = False
        self._next = now + TOLD_EVERY
        asked = []
        with self._breaker._lock:
            for place, (rule, memory) in enumerate(rates_of(self._breaker)):
                memory.window.turn(self._breaker.clock.now())
                content = memory.window.calls, memory.window.bad
                if self._told.get(place, (0, 0)) != content:
                    self._told[place] = content
                    asked.append(self._request(place, rule, content, member, era))
                if content[1]:
                    self._alert_until = max(self._alert_until, now + 2 * TOLD_EVERY)
        return asked

    def _request(
        self, place: int, rule: FailureRate | SlowCallRate, content: tuple[int, int], member: str, era: str
    ) -> Request:
        key = self._fleet.keys.sister(self._key, f"window{place}:{era}")
        calls, bad = content

        def answer(reply: Any, sent: float, received: float) -> None:
            all_calls, all_bad = reply
            if bad and all_calls >= rule.minimum_calls and all_bad >= rule.rate * all_calls - 1e-9:
                self._reached("slow_ratio" if isinstance(rule, SlowCallRate) else "failure_ratio")

        lasts = round(_lasts(rule) * 1000)
        return Request("window", key, (member, calls, bad, lasts, self._channel, self._fleet.host_time()), answer)


def _lasts(rule: FailureRate | SlowCallRate) -> float:
    return rule.window.seconds if isinstance(rule.window, TimeWindow) else COUNTED_FOR

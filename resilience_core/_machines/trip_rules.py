"""When a closed circuit opens: values that begin an empty memory, and those memories.

    ConsecutiveFailures(5)                              failures without a success between them
    FailureRate(...), SlowCallRate(...)                 shares of the calls of a window: `rates.py`
    ConsecutiveFailures(5) | FailureRate(0.5)           whichever is met first

Only a call that counts against the dependency evaluates a rule: a success never opens a circuit.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, ClassVar, Protocol

from attrs import field, frozen

from resilience_core import _validation as check


class TripCounter(Protocol):
    """The memory of a closed circuit: what was seen so far, and whether it is enough to open."""

    @property
    def quiet(self) -> bool:
        """True while there is nothing that a success would have to change."""
        ...

    def record(self, failed: bool, now: float, duration: float) -> str | None:
        """Count a call that ended at `now` after `duration` seconds; the transition reason when it must open."""
        ...


class TripRule(Protocol):
    """A frozen value that says when to open; `start` begins an empty memory."""

    def start(self) -> TripCounter: ...


def resumed(rule: TripRule, memory: TripCounter, now: float) -> TripCounter:
    """The memory with which `rule` goes on where another one stops; an empty one where it cannot tell."""
    resume = getattr(rule, "resume", None)
    if resume is None:
        return rule.start()
    if isinstance(memory, AnyCounter) and not isinstance(rule, AnyOf):
        fitting = [each for each in memory.counters if resume(each, now) is each]
        return fitting[0] if fitting else rule.start()
    counter: TripCounter = resume(memory, now)
    return counter


class Combinable:
    """Gives a rule the operator `|`, also with rules of other people."""

    __slots__ = ()

    def __or__(self, other: TripRule) -> AnyOf:
        return AnyOf((self, other))  # type: ignore[arg-type]

    def __ror__(self, other: TripRule) -> AnyOf:
        return AnyOf((other, self))  # type: ignore[arg-type]


@frozen
class ConsecutiveFailures(Combinable):
    """Open after `threshold` failures without a success between them."""

    threshold: int = field(default=5, validator=check.count_from(1))
    timed: ClassVar[bool] = False

    def start(self) -> Consecutive:
        """An empty memory."""
        return Consecutive(self.threshold)

    def resume(self, memory: TripCounter, now: float) -> TripCounter:
        """Go on with the failures of another rule of this kind, else with none."""
        if not isinstance(memory, Consecutive):
            return self.start()
        memory.threshold = self.threshold
        return memory

    def __str__(self) -> str:
        return f"{self.threshold} consecutive failures"


class Consecutive:
    """Failures in a row."""

    __slots__ = ("count", "quiet", "threshold")

    def __init__(self, threshold: int) -> None:
        self.threshold: int = threshold
        self.count: int = 0
        self.quiet: bool = True

    def record(self, failed: bool, now: float, duration: float) -> str | None:
        """Count one failure, or forget them all."""
        self.count = self.count + 1 if failed else 0
        self.quiet = not failed
        return "consecutive_failures" if failed and self.count >= self.threshold else None

    def told(self) -> tuple[int, int, str]:
        """How far it has come: what was counted, of how many, and what they are."""
        return self.count, self.threshold, "in a row"

    def export(self, now: float) -> dict[str, Any]:
        """The count."""
        return {"failures": self.count}

    def restore(self, saved: dict[str, Any], now: float) -> None:
        """Take over a saved count; it cannot open the circuit by itself."""
        self.count = min(int(saved["failures"]), self.threshold - 1)
        self.quiet = self.count == 0


def _flat(rules: Iterable[TripRule]) -> tuple[TripRule, ...]:
    """`a | b | c` is one choice of three."""
    return tuple(each for rule in rules for each in (rule.rules if isinstance(rule, AnyOf) else (rule,)))


def _each_a_rule(owner: Any, attribute: Any, value: tuple[Any, ...]) -> None:
    for rule in value:
        check.has("start", "a trip rule")(owner, attribute, rule)


@frozen
class AnyOf(Combinable):
    """Open when any of `rules` says so; `first | second` makes one."""

    rules: tuple[TripRule, ...] = field(converter=_flat, validator=_each_a_rule)

    @property
    def timed(self) -> bool:
        """Whether any of them needs to know how long calls take."""
        return any(getattr(rule, "timed", True) for rule in self.rules)

    def too_slow(self, duration: float) -> bool:
        """Whether any of them calls it slow."""
        asked = (getattr(rule, "too_slow", None) for rule in self.rules)
        return any(too_slow(duration) for too_slow in asked if too_slow is not None)

    def start(self) -> AnyCounter:
        """An empty memory of each."""
        return AnyCounter([rule.start() for rule in self.rules])

    def resume(self, memory: TripCounter | AnyCounter, now: float) -> AnyCounter:
        """Go on with the memories of other rules, each rule with the first one that it can use."""
        left = list(memory.counters) if isinstance(memory, AnyCounter) else [memory]
        counters = []
        for rule in self.rules:
            counter = resumed(rule, AnyCounter(left), now)
            left = [other for other in left if other is not counter]
            counters.append(counter)
        return AnyCounter(counters)

    def __str__(self) -> str:
        return " or ".join(str(rule) for rule in self.rules)


class AnyCounter:
    """Several memories side by side; every call is told to each."""

    __slots__ = ("counters",)

    def __init__(self, counters: list[TripCounter]) -> None:
        self.counters: list[TripCounter] = counters

    @property
    def quiet(self) -> bool:
        """Whether a success changes nothing in any of them."""
        return all(counter.quiet for counter in self.counters)

    def record(self, failed: bool, now: float, duration: float) -> str | None:
        """The first reason to open."""
        reasons = [counter.record(failed, now, duration) for counter in self.counters]
        return next((reason for reason in reasons if reason is not None), None)

    def shares(self, now: float) -> dict[str, float]:
        """Those of all rules about rates; of two alike, and of two windows, the first one."""
        found: dict[str, float] = {}
        for counter in self.counters:
            shares = getattr(counter, "shares", None)
            if shares is not None:
                found = shares(now) | found
        return found

    def export(self, now: float) -> dict[str, Any]:
        """The content of those that can be saved."""
        saved = (getattr(counter, "export", None) for counter in self.counters)
        return {"each": [None if export is None else export(now) for export in saved]}

    def restore(self, saved: dict[str, Any], now: float) -> None:
        """Take over what was saved of each."""
        for counter, content in zip(self.counters, saved["each"], strict=True):
            if content is not None:
                counter.restore(content, now)  # type: ignore[attr-defined]

"""When a closed circuit opens: values that begin an empty memory, and those memories.

    ConsecutiveFailures(5)                              failures without a success between them
    FailureRate(0.5, CountWindow(100))                  share of failures among the calls of a window
    SlowCallRate(0.5, TimeWindow(30), slower_than=2.0)  share of calls that took that long
    ConsecutiveFailures(5) | FailureRate(0.5)           whichever is met first

Only a call that counts against the dependency evaluates a rule: a success never opens a circuit. A rate that is exactly
the threshold opens it. Below `minimum_calls` a rate says nothing.
"""

from __future__ import annotations

from typing import Any, Protocol

from attrs import field, frozen

from resilience_core import _validation as check
from resilience_core._errors import ConfigurationError
from resilience_core._machines.windows import CountWindow, TimeWindow, Window
from resilience_core._validation import to_seconds


class TripCounter(Protocol):
    """The memory of a closed circuit: what was seen so far, and whether it is enough to open."""

    quiet: bool
    """True while there is nothing that a success would have to change."""

    def record(self, failed: bool, now: float, duration: float) -> str | None:
        """Count a call that ended at `now` after `duration` seconds; the transition reason when it must open."""
        ...


class TripRule(Protocol):
    """A frozen value that says when to open; `start` begins an empty memory."""

    def start(self) -> TripCounter: ...


class _Combinable:
    """Gives a rule the operator `|`, also with rules of other people."""

    __slots__ = ()

    def __or__(self, other: TripRule) -> AnyOf:
        return AnyOf((self, other))  # type: ignore[arg-type]

    def __ror__(self, other: TripRule) -> AnyOf:
        return AnyOf((other, self))  # type: ignore[arg-type]


@frozen
class ConsecutiveFailures(_Combinable):
    """Open after `threshold` failures without a success between them."""

    threshold: int = field(default=5, validator=check.count_from(1))
    timed = False

    def start(self) -> Consecutive:
        """An empty memory."""
        return Consecutive(self.threshold)

    def __str__(self) -> str:
        return f"{self.threshold} consecutive failures"


class Consecutive:
    """Failures in a row."""

    __slots__ = ("count", "quiet", "threshold")

    def __init__(self, threshold: int) -> None:
        self.threshold = threshold
        self.count = 0
        self.quiet = True

    def record(self, failed: bool, now: float, duration: float) -> str | None:
        """Count one failure, or forget them all."""
        self.count = self.count + 1 if failed else 0
        self.quiet = not failed
        return "consecutive_failures" if failed and self.count >= self.threshold else None

    def export(self, now: float) -> dict[str, Any]:
        """The count."""
        return {"failures": self.count}

    def restore(self, saved: dict[str, Any], now: float) -> None:
        """Take over a saved count; it cannot open the circuit by itself."""
        self.count = min(int(saved["failures"]), self.threshold - 1)
        self.quiet = self.count == 0


def _a_window(owner: Any, attribute: Any, value: object) -> None:
    if not isinstance(value, (CountWindow, TimeWindow)):
        raise check.refuse(owner, attribute.name, value, "a CountWindow or a TimeWindow")


def _a_share(owner: Any, attribute: Any, value: float) -> None:
    check.ratio(owner, attribute, value)
    if value == 0:
        raise check.refuse(owner, attribute.name, value, "above 0 and at most 1")


@frozen
class FailureRate(_Combinable):
    """Open when at least `rate` (0 to 1) of the calls in `window` failed, once it holds `minimum_calls`."""

    rate: float = field(default=0.5, validator=_a_share)
    window: CountWindow | TimeWindow = field(factory=CountWindow, validator=_a_window)
    minimum_calls: int = field(default=10, kw_only=True, validator=check.count_from(1))
    timed = False

    @property
    def clocked(self) -> bool:
        """Whether it needs to know when calls end."""
        return isinstance(self.window, TimeWindow)

    def __attrs_post_init__(self) -> None:
        _refuse_unreachable(self, self.minimum_calls, self.window)

    def start(self) -> Rate:
        """An empty memory."""
        return Rate(self.window.start(), self.rate, self.minimum_calls)

    def __str__(self) -> str:
        return f"{self.rate:.0%} failures of {_told(self.window)} (at least {self.minimum_calls} calls)"


@frozen
class SlowCallRate(_Combinable):
    """Open when at least `rate` (0 to 1) of the calls in `window` took `slower_than` seconds or longer."""

    rate: float = field(default=0.5, validator=_a_share)
    window: CountWindow | TimeWindow = field(factory=CountWindow, validator=_a_window)
    slower_than: float = field(kw_only=True, converter=to_seconds, validator=check.positive_seconds)
    minimum_calls: int = field(default=10, kw_only=True, validator=check.count_from(1))
    timed = True

    def __attrs_post_init__(self) -> None:
        _refuse_unreachable(self, self.minimum_calls, self.window)

    def too_slow(self, duration: float) -> bool:
        """Whether a call that took so long counts as slow; a slow probe is a bad one."""
        return duration >= self.slower_than

    def start(self) -> SlowRate:
        """An empty memory."""
        return SlowRate(self.window.start(), self.rate, self.minimum_calls, self.slower_than)

    def __str__(self) -> str:
        return f"{self.rate:.0%} of {_told(self.window)} slower than {self.slower_than:g} s"


def _refuse_unreachable(rule: object, minimum_calls: int, window: CountWindow | TimeWindow) -> None:
    if minimum_calls > window.capacity:
        raise ConfigurationError(
            f"{type(rule).__name__}: minimum_calls ({minimum_calls}) is more than the window holds "
            f"({window.capacity}), so it would never open: enlarge the window or lower minimum_calls"
        )


def _told(window: CountWindow | TimeWindow) -> str:
    return f"the last {window.size} calls" if isinstance(window, CountWindow) else f"the last {window.seconds:g} s"


class Rate:
    """Failures among the calls of a window."""

    __slots__ = ("minimum_calls", "pass_good", "rate", "window")
    quiet = False

    def __init__(self, window: Window, rate: float, minimum_calls: int) -> None:
        self.window = window
        self.rate = rate
        self.minimum_calls = minimum_calls
        self.pass_good = window.add_good

    def record(self, failed: bool, now: float, duration: float) -> str | None:
        """Count one call; evaluate if it failed."""
        return "failure_ratio" if self._reached(failed, now) else None

    def _reached(self, bad: bool, now: float) -> bool:
        window = self.window
        window.add(bad, now)
        if not bad or window.calls < self.minimum_calls:
            return False
        return window.bad >= self.rate * window.calls - 1e-9

    def export(self, now: float) -> dict[str, Any]:
        """The window's content."""
        return self.window.export(now)

    def restore(self, saved: dict[str, Any], now: float) -> None:
        """Take over a saved window; it opens the circuit with the next failure at the earliest."""
        self.window.restore(saved, now)


class SlowRate(Rate):
    """Slow calls among the calls of a window."""

    __slots__ = ("slower_than",)

    def __init__(self, window: Window, rate: float, minimum_calls: int, slower_than: float) -> None:
        super().__init__(window, rate, minimum_calls)
        self.slower_than = slower_than
        self.pass_good = self._pass_fast

    def _pass_fast(self, now: float, duration: float) -> bool:
        return duration < self.slower_than and self.window.add_good(now, duration)

    def record(self, failed: bool, now: float, duration: float) -> str | None:
        """Count one call, good or bad; evaluate if it was slow."""
        return "slow_ratio" if self._reached(duration >= self.slower_than, now) else None


def _each_a_rule(owner: Any, attribute: Any, value: tuple[Any, ...]) -> None:
    for rule in value:
        check.has("start", "a trip rule")(owner, attribute, rule)


@frozen
class AnyOf(_Combinable):
    """Open when any of `rules` says so; `first | second` makes one."""

    rules: tuple[TripRule, ...] = field(validator=_each_a_rule)

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

    def __str__(self) -> str:
        return " or ".join(str(rule) for rule in self.rules)


class AnyCounter:
    """Several memories side by side; every call is told to each."""

    __slots__ = ("counters",)

    def __init__(self, counters: list[TripCounter]) -> None:
        self.counters = counters

    @property
    def quiet(self) -> bool:
        """Whether a success changes nothing in any of them."""
        return all(counter.quiet for counter in self.counters)

    def record(self, failed: bool, now: float, duration: float) -> str | None:
        """The first reason to open."""
        reasons = [counter.record(failed, now, duration) for counter in self.counters]
        return next((reason for reason in reasons if reason is not None), None)

    def export(self, now: float) -> dict[str, Any]:
        """The content of those that can be saved."""
        saved = (getattr(counter, "export", None) for counter in self.counters)
        return {"each": [None if export is None else export(now) for export in saved]}

    def restore(self, saved: dict[str, Any], now: float) -> None:
        """Take over what was saved of each."""
        for counter, content in zip(self.counters, saved["each"], strict=True):
            if content is not None:
                counter.restore(content, now)  # type: ignore[attr-defined]

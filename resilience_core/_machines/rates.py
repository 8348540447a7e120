"""Trip rules that look at shares of the calls in a window.

    FailureRate(0.5, CountWindow(100))                  share of failures
    SlowCallRate(0.5, TimeWindow(30), slower_than=2.0)  share of calls that took that long

A rate that is exactly the threshold opens the circuit. Below `minimum_calls` a rate says nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar, TypeAlias

from attrs import field, frozen

from resilience_core import _validation as check
from resilience_core._errors import ConfigurationError
from resilience_core._machines.trip_rules import Combinable, TripCounter
from resilience_core._machines.windows import CountWindow, TimeWindow, Window, resumed_window
from resilience_core._validation import to_seconds

PassGood: TypeAlias = Callable[[float, float], bool]
"""Counts a good call that ended at a time after a duration, if that needs no lock; False when it did not."""


def _a_window(owner: Any, attribute: Any, value: object) -> None:
    if not isinstance(value, (CountWindow, TimeWindow)):
        raise check.refuse(owner, attribute.name, value, "a CountWindow or a TimeWindow")


def _a_share(owner: Any, attribute: Any, value: float) -> None:
    check.ratio(owner, attribute, value)
    if value == 0:
        raise check.refuse(owner, attribute.name, value, "above 0 and at most 1")


@frozen
class FailureRate(Combinable):
    """Open when at least `rate` (0 to 1) of the calls in `window` failed, once it holds `minimum_calls`."""

    rate: float = field(default=0.5, validator=_a_share)
    window: CountWindow | TimeWindow = field(factory=CountWindow, validator=_a_window)
    minimum_calls: int = field(default=10, kw_only=True, validator=check.count_from(1))
    timed: ClassVar[bool] = False

    @property
    def clocked(self) -> bool:
        """Whether it needs to know when calls end."""
        return isinstance(self.window, TimeWindow)

    def __attrs_post_init__(self) -> None:
        _refuse_unreachable(self, self.minimum_calls, self.window)

    def start(self) -> Rate:
        """An empty memory."""
        return Rate(self.window.start(), self.rate, self.minimum_calls)

    def resume(self, memory: TripCounter, now: float) -> TripCounter:
        """Go on with the calls in another rule's window, if that counted failures, too."""
        if type(memory) is not Rate:
            return self.start()
        memory.rate, memory.minimum_calls = self.rate, self.minimum_calls
        memory.look_through(resumed_window(self.window, memory.window, now))
        return memory

    def __str__(self) -> str:
        return f"{self.rate:.0%} failures of {_told(self.window)} (at least {self.minimum_calls} calls)"


@frozen
class SlowCallRate(Combinable):
    """Open when at least `rate` (0 to 1) of the calls in `window` took `slower_than` seconds or longer."""

    rate: float = field(default=0.5, validator=_a_share)
    window: CountWindow | TimeWindow = field(factory=CountWindow, validator=_a_window)
    slower_than: float = field(kw_only=True, converter=to_seconds, validator=check.positive_seconds)
    minimum_calls: int = field(default=10, kw_only=True, validator=check.count_from(1))
    timed: ClassVar[bool] = True

    def __attrs_post_init__(self) -> None:
        _refuse_unreachable(self, self.minimum_calls, self.window)

    def too_slow(self, duration: float) -> bool:
        """Whether a call that took so long counts as slow; a slow probe is a bad one."""
        return duration >= self.slower_than

    def start(self) -> SlowRate:
        """An empty memory."""
        return SlowRate(self.window.start(), self.rate, self.minimum_calls, self.slower_than)

    def resume(self, memory: TripCounter, now: float) -> TripCounter:
        """Go on with the calls in another rule's window, if that counted slow calls by the same measure."""
        if not isinstance(memory, SlowRate) or memory.slower_than != self.slower_than:
            return self.start()
        memory.rate, memory.minimum_calls = self.rate, self.minimum_calls
        memory.look_through(resumed_window(self.window, memory.window, now))
        return memory

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
    quiet: bool = False
    measures: ClassVar[str] = "failure_ratio"

    def __init__(self, window: Window, rate: float, minimum_calls: int) -> None:
        self.window: Window = window
        self.rate: float = rate
        self.minimum_calls: int = minimum_calls
        self.pass_good: PassGood = window.add_good

    def look_through(self, window: Window) -> None:
        """Count into another window from now on."""
        self.window = window
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

    def shares(self, now: float) -> dict[str, float]:
        """The share that it looks at, by the reason for which it opens, and the number of calls in its window.

        For observers: changes nothing, and needs no lock.
        """
        calls, bad = self.window.look(now)
        return {self.measures: bad / calls if calls else 0.0, "window_calls": calls}

    def told(self) -> tuple[int, int, str]:
        """How far it has come: what was counted, of how many, and what they are."""
        return self.window.bad, self.window.calls, "calls in its window"

    def export(self, now: float) -> dict[str, Any]:
        """The window's content."""
        return self.window.export(now)

    def restore(self, saved: dict[str, Any], now: float) -> None:
        """Take over a saved window; it opens the circuit with the next failure at the earliest."""
        self.window.restore(saved, now)


class SlowRate(Rate):
    """Slow calls among the calls of a window."""

    __slots__ = ("slower_than",)
    measures = "slow_ratio"

    def __init__(self, window: Window, rate: float, minimum_calls: int, slower_than: float) -> None:
        super().__init__(window, rate, minimum_calls)
        self.slower_than: float = slower_than
        self.pass_good: PassGood = self._pass_fast

    def look_through(self, window: Window) -> None:
        """Count into another window from now on."""
        self.window = window  # `_pass_fast` finds it there

    def _pass_fast(self, now: float, duration: float) -> bool:
        return duration < self.slower_than and self.window.add_good(now, duration)

    def record(self, failed: bool, now: float, duration: float) -> str | None:
        """Count one call, good or bad; evaluate if it was slow."""
        return "slow_ratio" if self._reached(duration >= self.slower_than, now) else None

"""Let calls fail, hang or lie on purpose, to see what the policies around them do. Off by default."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any, ClassVar

from attrs import define, field, setters

from resilience_core import _validation as check
from resilience_core._errors import ConfigurationError
from resilience_core._events import ChaosInjected
from resilience_core._story import note
from resilience_core._validation import to_seconds
from resilience_core._weave.edge import Policy
from resilience_core._weave.results import refuse_streams
from resilience_core._weave.site import Args, AsyncCall, Call, Kwargs, Site
from resilience_core._weave.waiting import pause, pause_async

_NO_RESULT: Any = object()


def _a_schedule(owner: Any, attribute: Any, value: tuple[Any, ...] | None) -> None:
    for span in value or ():
        numbers = isinstance(span, tuple) and len(span) == 2 and all(isinstance(end, (int, float)) for end in span)
        if not numbers or not 0 <= span[0] < span[1]:
            raise check.refuse(owner, attribute.name, value, "pairs (from, to) of seconds with 0 <= from < to")


@define(eq=False, on_setattr=setters.frozen)
class Chaos(Policy):
    """Injects latency, errors and results; put it innermost. Does nothing until it is `enabled`.

    The same seed gives the same faults for the same sequence of calls.

    Args:
        name: identifies the policy in events.
        error: what to raise: an exception class, or a function without arguments that makes an exception.
        error_rate: share of the calls that raise it, 0 to 1.
        latency: seconds (or timedelta) to wait before the call.
        latency_rate: share of the calls that wait.
        result: what to answer instead of making the call.
        result_rate: share of the calls that are answered so.
        schedule: pairs (from, to) of seconds since it was enabled: faults happen only then. None for always.
        seed: of the random numbers; None for other ones each time.
        enabled: whether faults happen; `enable()` and `disable()` change it.
    """

    kind: ClassVar[str] = "chaos"

    name: str = field(default="chaos", validator=check.name)
    error: Callable[[], BaseException] | None = field(
        default=None, kw_only=True, validator=check.optional(check.function)
    )
    error_rate: float = field(default=0.0, kw_only=True, validator=check.ratio)
    latency: float = field(default=0.0, kw_only=True, converter=to_seconds, validator=check.non_negative_seconds)
    latency_rate: float = field(default=0.0, kw_only=True, validator=check.ratio)
    result: Any = field(default=_NO_RESULT, kw_only=True, repr=False)
    result_rate: float = field(default=0.0, kw_only=True, validator=check.ratio)
    schedule: tuple[tuple[float, float], ...] | None = field(default=None, kw_only=True, validator=_a_schedule)
    seed: int | None = field(
        default=None, kw_only=True, validator=check.optional(check.instance_of(int, "a whole number"))
    )
    enabled: bool = field(default=False, kw_only=True, validator=check.boolean, on_setattr=setters.NO_OP)
    _random: random.Random = field(init=False, repr=False, on_setattr=setters.NO_OP)
    _since: float = field(init=False, repr=False, default=0.0, on_setattr=setters.NO_OP)
    _injected: int = field(init=False, repr=False, default=0, on_setattr=setters.NO_OP)

    def _validate(self) -> None:
        if (self.error is None) is not (self.error_rate == 0):
            raise ConfigurationError("Chaos: error and error_rate go together: give both or neither")
        if (self.latency == 0) is not (self.latency_rate == 0):
            raise ConfigurationError("Chaos: latency and latency_rate go together: give both or neither")
        if (self.result is _NO_RESULT) is not (self.result_rate == 0):
            raise ConfigurationError("Chaos: result and result_rate go together: give both or neither")

    def _build(self) -> None:
        self._random = random.Random(self.seed)
        self._since = self.clock.now()

    def _adopt(self, other: Chaos, changed: frozenset[str]) -> None:
        if self.enabled and changed & {"enabled", "seed"}:
            self.enable()

    def enable(self) -> None:
        """Let faults happen from now on; the schedule and the seed begin anew."""
        self._random.seed(self.seed)
        self._since = self.clock.now()
        self.enabled = True

    def disable(self) -> None:
        """Let calls pass untouched."""
        self.enabled = False

    def snapshot(self) -> dict[str, Any]:
        """Whether faults happen, and how many have."""
        return {"enabled": self.enabled, "injected": self._injected}

    def _sentence(self) -> str:
        faults = [
            f"{self.error_rate:.0%} errors" if self.error_rate else "",
            f"{self.latency_rate:.0%} wait {self.latency:g} s" if self.latency_rate else "",
            f"{self.result_rate:.0%} other results" if self.result_rate else "",
        ]
        return f"chaos ({'on' if self.enabled else 'off'}): {', '.join(filter(None, faults)) or 'nothing'}"

    def _plan(self, operation: str) -> tuple[float, BaseException | None, bool]:
        """What happens to this call: seconds to wait, what to raise, whether to answer `result`."""
        passed = self.clock.now() - self._since
        if self.schedule is not None and not any(start <= passed < end for start, end in self.schedule):
            return 0.0, None, False
        # Three draws for each call, whatever they decide: one rate does not shift what another one draws.
        waits, fails, lies = (self._random.random() for _ in range(3))
        wait = self.latency if waits < self.latency_rate else 0.0
        error = self.error() if self.error is not None and fails < self.error_rate else None
        answered = error is None and lies < self.result_rate
        for fault, happens in (("latency", wait > 0), ("error", error is not None), ("result", answered)):
            if happens:
                self._injected += 1
                if self.bus.hears(ChaosInjected):
                    self.bus.emit(ChaosInjected(self.name, self.clock.now(), operation, fault))
        return wait, error, answered

    def _told(self, error: BaseException, operation: str) -> BaseException:
        note(error, self.clock.wall(), self.kind, self.name, operation, "injected", "error")
        return error

    def bind(self, call: Call, site: Site) -> Call:
        """Weave the faults around a blocking call."""
        self._admit(site)
        clock, operation = self.clock, site.operation

        def guarded(args: Args, kwargs: Kwargs) -> Any:
            if self.enabled:
                wait, error, answered = self._plan(operation)
                if wait:
                    pause(clock, wait)
                if error is not None:
                    raise self._told(error, operation)
                if answered:
                    return self.result
            return call(args, kwargs)

        return guarded

    def bind_async(self, call: AsyncCall, site: Site) -> AsyncCall:
        """Weave the faults around an async call."""
        self._admit(site)
        clock, operation = self.clock, site.operation

        async def guarded(args: Args, kwargs: Kwargs) -> Any:
            if self.enabled:
                wait, error, answered = self._plan(operation)
                if wait:
                    await pause_async(clock, wait)
                if error is not None:
                    raise self._told(error, operation)
                if answered:
                    return self.result
            return await call(args, kwargs)

        return guarded

    def _admit(self, site: Site) -> None:
        if self.result_rate:
            refuse_streams(site, "Chaos with a result")

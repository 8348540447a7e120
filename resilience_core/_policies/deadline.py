"""Deadlines: by when the caller wants an answer, seen by every policy and client below.

A deadline cancels nothing. Waits end by it, retries that could not finish in time are not started, and a call that
begins after it is not made. `Timeout` sets one too, and gives the call up.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, MutableMapping
from contextvars import Token
from types import TracebackType
from typing import Any, ClassVar

from attrs import define, field, setters

from resilience_core import _validation as check
from resilience_core._clock import SYSTEM, Clock
from resilience_core._errors import ConfigurationError, DeadlineExceeded, RejectionReason
from resilience_core._validation import Seconds, to_seconds
from resilience_core._weave.deadline import DEADLINE, remaining, shortened
from resilience_core._weave.edge import Policy
from resilience_core._weave.rejections import tell_rejection
from resilience_core._weave.site import Args, AsyncCall, Call, Kwargs, Site

HEADER = "x-envoy-expected-rq-timeout-ms"
"""Carries a deadline between services as the milliseconds that are left; the name that Envoy gives it."""


@define(eq=False, on_setattr=setters.frozen)
class Deadline(Policy):
    """Sets a deadline `seconds` from the beginning of each call; one that is nearer already stays.

    Args:
        seconds: how long the caller is willing to wait (seconds or timedelta).
        name: identifies the policy in errors and events.

    Raises:
        DeadlineExceeded: from the guarded call, which was not made, when an outer deadline has passed already.
    """

    kind: ClassVar[str] = "deadline"

    seconds: float = field(converter=to_seconds, validator=check.positive_seconds)
    name: str = field(default="deadline", kw_only=True, validator=check.name)

    _rejected: int = field(init=False, repr=False, default=0, on_setattr=setters.NO_OP)

    def snapshot(self) -> dict[str, Any]:
        """Calls that came too late so far."""
        return {"rejected": self._rejected}

    def _sentence(self) -> str:
        return f"deadline: {self.seconds:g} s for everything inside, nothing is cancelled"

    def _refuse_late(self, operation: str) -> None:
        if remaining() == 0.0:
            self._rejected += 1
            now, total, reason = self.clock.now(), self._rejected, RejectionReason.DEADLINE
            tell_rejection(self.bus, self.name, now, reason, operation, total=total)
            inputs = {"kind": self.kind, "when": "before the call"}
            raise DeadlineExceeded(self.name, RejectionReason.DEADLINE, inputs=inputs)

    def bind(self, call: Call, site: Site) -> Call:
        """Set the deadline around a blocking call."""
        clock, seconds, operation, refuse_late = self.clock, self.seconds, site.operation, self._refuse_late

        def guarded(args: Args, kwargs: Kwargs) -> Any:
            refuse_late(operation)
            token = DEADLINE.set(shortened(seconds, clock))
            try:
                return call(args, kwargs)
            finally:
                DEADLINE.reset(token)

        return guarded

    def bind_async(self, call: AsyncCall, site: Site) -> AsyncCall:
        """Set the deadline around an async call."""
        clock, seconds, operation, refuse_late = self.clock, self.seconds, site.operation, self._refuse_late

        async def guarded(args: Args, kwargs: Kwargs) -> Any:
            refuse_late(operation)
            token = DEADLINE.set(shortened(seconds, clock))
            try:
                return await call(args, kwargs)
            finally:
                DEADLINE.reset(token)

        return guarded


class deadline:  # noqa: N801 - used like a function: `with deadline(5):`
    """`with deadline(5):` gives the code inside, blocking or async, so many seconds (or a timedelta).

    A nearer deadline stays: nested ones only shorten. Nothing is cancelled. The object can be used once at a time.
    """

    __slots__ = ("_clock", "_seconds", "_token")

    def __init__(self, seconds: Seconds, *, clock: Clock = SYSTEM) -> None:
        self._seconds = to_seconds(seconds)
        if isinstance(self._seconds, bool) or not math.isfinite(self._seconds) or self._seconds < 0:
            raise ConfigurationError(f"deadline: seconds must be a finite number, 0 or more, not {seconds!r}")
        self._clock = clock
        self._token: Token[tuple[float, Clock] | None] | None = None

    def __enter__(self) -> None:
        self._token = DEADLINE.set(shortened(self._seconds, self._clock))

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._token is not None:
            DEADLINE.reset(self._token)
            self._token = None


def inject_deadline(headers: MutableMapping[str, str], header: str = HEADER) -> None:
    """Write what remains of the deadline into `headers`, in whole milliseconds; without a deadline, nothing."""
    left = remaining()
    if left is not None:
        headers[header] = str(int(left * 1000))


def deadline_from(headers: Mapping[str, str], header: str = HEADER) -> float | None:
    """The seconds that a request's headers leave, for `with deadline(...)`; None without a header that makes sense.

    Names are compared without regard to case. Accepted are 1 to 9 ASCII digits, and nothing else.
    """
    value = next((value for name, value in headers.items() if name.lower() == header.lower()), None)
    if value is None or not value.isascii() or not value.isdigit() or len(value) > 9:
        return None
    return int(value) / 1000

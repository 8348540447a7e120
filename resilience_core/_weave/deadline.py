"""The time by which the caller wants an answer, carried through blocking and async code by a context variable."""

from __future__ import annotations

from contextvars import ContextVar

from resilience_core._clock import Clock

DEADLINE: ContextVar[tuple[float, Clock] | None] = ContextVar("resilience_deadline", default=None)
"""The nearest deadline and the clock that it was read from."""


def remaining() -> float | None:
    """Seconds until the nearest deadline of the code that is running, 0 when it has passed; None without one."""
    deadline = DEADLINE.get()
    return None if deadline is None else max(0.0, deadline[0] - deadline[1].now())


def shortened(seconds: float, clock: Clock) -> tuple[float, Clock]:
    """The deadline `seconds` from now, or the present one if that is nearer: nested deadlines only shorten."""
    present = DEADLINE.get()
    at = clock.now() + seconds
    if present is not None and present[0] - present[1].now() < seconds:
        return present
    return at, clock


def within_deadline(seconds: float) -> float:
    """`seconds`, or what remains until the deadline if that is less."""
    left = remaining()
    return seconds if left is None else min(seconds, left)

"""How rejections are told: each one to listeners and to a log at DEBUG, and to all other logs how many there were.

An open circuit rejects a hundred thousand calls in a second. So the log gets a line with the first one, and then, while
calls are being rejected, one every 30 seconds of the policy's clock. The counts of all lines together are all
rejections but those after the last line. Between two looks at the log a rejection costs one comparison.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable
from math import inf
from typing import Any

from resilience_core._errors import RejectionReason
from resilience_core._events import Bus, Rejection, everywhere, logged
from resilience_core._fork import renewed_after_fork

EVERY = 30.0
"""Seconds between two lines about one policy."""
LOOK = 1.0
"""Seconds between two looks at what the log wants."""

_lock = renewed_after_fork(threading.Lock())


class Series:
    """What was rejected since the last line; the policies of a `Keyed`, which have one name, share one."""

    __slots__ = ("rejected", "since", "spared")

    def __init__(self) -> None:
        self.since: float | None = None
        """When the last line was written; None before the first one."""
        self.rejected = 0
        self.spared = 0


class Tally:
    """How many rejections of one policy its series has counted."""

    __slots__ = ("rejected", "series", "spared")

    def __init__(self, series: Series) -> None:
        self.series = series
        self.rejected = 0
        self.spared = 0

    def count(self, total: int, enforced: bool) -> None:
        """Of one kind there were `total` so far; fewer than before where a state was imported."""
        if enforced:
            self.series.rejected += max(0, total - self.rejected)
            self.rejected = total
        else:
            self.series.spared += max(0, total - self.spared)
            self.spared = total


def share_series(buses: Iterable[Bus], series: Iterable[Series]) -> None:
    """Count what each of these policies rejects in a series that others have, too; before its first call."""
    for bus, one in zip(buses, series, strict=True):
        bus.tally = Tally(one)


def tell_rejection(
    bus: Bus,
    policy: str,
    now: float,
    reason: RejectionReason,
    operation: str,
    retry_after: float | None = None,
    *,
    total: int,
    enforced: bool = True,
) -> None:
    """A call was rejected, or would have been.

    Args:
        bus: the policy's.
        policy: its name.
        now: seconds of its clock.
        reason: why.
        operation: the call site.
        retry_after: seconds until the next call may be admitted, if known.
        total: calls that this policy has rejected so far, this one included; where not enforced, that it would have.
        enforced: False where shadow mode let the call through.
    """
    if bus.listeners or everywhere.listeners:
        bus.tell(Rejection(policy, now, reason, operation, retry_after, enforced))
    if now < bus.silent_until:
        return
    from resilience_core._event_log import log_event, say  # here, not above: nobody logs while all is well

    each = logged(Rejection)
    with _lock:
        if bus.tally is None:
            bus.tally = Tally(Series())
        bus.tally.count(total, enforced)
        series = bus.tally.series
        told = _due(series, now)
        bus.silent_until = -inf if each else min(now + LOOK, series.since + EVERY)
    if each:
        log_event(Rejection(policy, now, reason, operation, retry_after, enforced))
    if told is not None:
        say("resilience.call.rejections", *_in_words(policy, reason, *told))


def _due(series: Series, now: float) -> tuple[int, int, float | None] | None:
    """What a line has to tell now, if one is due: rejections, those not enforced, seconds since the last line."""
    since = series.since
    if since is not None and since <= now < since + EVERY:  # a clock of another test may begin anew
        return None
    told = series.rejected, series.spared, None if since is None else now - since
    series.since, series.rejected, series.spared = now, 0, 0
    return told


def _in_words(
    policy: str, reason: RejectionReason, rejected: int, spared: int, seconds: float | None
) -> tuple[str, dict[str, Any]]:
    from resilience_core import _schema as s

    parts = [f"rejected {_calls(rejected)}"] if rejected or not spared else []
    if spared:
        parts.append(f"would have rejected {_calls(spared)}")
    during = "" if seconds is None else f" in {seconds:.0f} s"
    attributes = {
        s.POLICY: policy,
        s.REJECTION_REASON: reason.value,
        s.REJECTED: rejected,
        s.SPARED: spared,
        s.REJECTED_FOR: seconds,
    }
    told = {key: value for key, value in attributes.items() if value is not None and (key != s.SPARED or spared)}
    return f"{policy!r} {' and '.join(parts)}{during} ({reason.value})", told


def _calls(count: int) -> str:
    return "1 call" if count == 1 else f"{count:,} calls"

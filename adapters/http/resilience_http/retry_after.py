"""`Retry-After` (RFC 9110, section 10.2.3), read so that no server can hurt its client with it.

Accepted is what the RFC allows and nothing else: a number of seconds (1*DIGIT, optional white space around it), or a
date in one of its three forms (section 5.6.7). Everything else is no hint. Never raises; takes time linear in the
length of the value.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta

CAP = 21_600.0
"""Seconds: no hint is longer than six hours, whatever the server says."""

_SECONDS = re.compile(r"[ \t]*([0-9]+)[ \t]*\Z")
_LONGEST_NUMBER = 10  # digits; more is above every cap, and int() refuses some thousand of them
_LONGEST_DATE = 64
_MONTHS = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"]
_MONTH = "(?P<month>" + "|".join(_MONTHS) + ")"
_TIME = "(?P<hour>[0-9]{2}):(?P<minute>[0-9]{2}):(?P<second>[0-9]{2})"
_DATES = tuple(
    re.compile(rf"[ \t]*{form}[ \t]*\Z")
    for form in (
        # IMF-fixdate: Sun, 06 Nov 1994 08:49:37 GMT. One-digit days and UTC occur in the wild and are unambiguous.
        rf"[A-Z][a-z]{{2}}, (?P<day>[0-9]{{1,2}}) {_MONTH} (?P<year>[0-9]{{4}}) {_TIME} (?:GMT|UTC)",
        # rfc850-date: Sunday, 06-Nov-94 08:49:37 GMT
        rf"[A-Z][a-z]{{5,8}}, (?P<day>[0-9]{{2}})-{_MONTH}-(?P<year>[0-9]{{2}}) {_TIME} GMT",
        # asctime-date: Sun Nov  6 08:49:37 1994
        rf"[A-Z][a-z]{{2}} {_MONTH} (?P<day>[ 0-9][0-9]) {_TIME} (?P<year>[0-9]{{4}})",
    )
)


def parse_retry_after(value: str | None, *, now: datetime | float | None = None, cap: float = CAP) -> float | None:
    """Seconds to wait, from 0 to `cap`, or None where the value is no valid hint.

    Args:
        value: the header's value.
        now: what a date is compared with: an aware datetime or seconds since the epoch; default the wall clock.
        cap: the longest answer, in seconds.
    """
    if value is None:
        return None
    number = _SECONDS.match(value)
    if number is not None:
        digits = number[1].lstrip("0")
        return cap if len(digits) > _LONGEST_NUMBER else min(cap, float(digits or "0"))
    if len(value) > _LONGEST_DATE:
        return None
    moment = _moment(now)
    date = _parse_date(value, moment)
    if date is None:
        return None
    return min(cap, max(0.0, (date - moment).total_seconds()))


def retry_after(headers: Mapping[str, str], *, now: datetime | float | None = None, cap: float = CAP) -> float | None:
    """The hint among `headers`, whatever the case of their names; the longest where there are several."""
    values = [value for name, value in headers.items() if name.lower() == "retry-after"]
    hints = [hint for value in values if (hint := parse_retry_after(value, now=now, cap=cap)) is not None]
    return max(hints, default=None)


def _moment(now: datetime | float | None) -> datetime:
    if isinstance(now, datetime):
        return now
    return datetime.now(UTC) if now is None else datetime.fromtimestamp(now, UTC)


def _parse_date(value: str, now: datetime) -> datetime | None:
    for form in _DATES:
        found = form.match(value)
        if found is not None:
            year = int(found["year"])
            if year < 100:
                # A two-digit year more than 50 years ahead is the past one with the same digits (RFC 9110, 5.6.7).
                year += now.year // 100 * 100
                year -= 100 if year > now.year + 50 else 0
            try:
                return datetime(
                    year,
                    _MONTHS.index(found["month"]) + 1,
                    int(found["day"]),
                    int(found["hour"]),
                    int(found["minute"]),
                    0,
                    tzinfo=UTC,
                ) + timedelta(seconds=min(60, int(found["second"])))  # 60: a leap second
            except (ValueError, OverflowError):
                return None
    return None

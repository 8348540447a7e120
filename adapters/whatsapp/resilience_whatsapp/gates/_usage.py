"""How much of the limits of management calls is used, as headers of answers tell, and how that slows such calls down.

    below SLOW_FROM percent   no pause
    from there on             pauses between calls, growing evenly up to LONGEST seconds at 100 percent
    at 100 percent            closed for as long as the API estimates, at least CLOSED seconds

`X-App-Usage` is about the app, `X-Business-Use-Case-Usage` about each business account; all times of the API are in
minutes. The rows of type `whatsapp` are about messages, and slow nothing down here: sends have limits of their own.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from attrs import frozen

from resilience_whatsapp._envelope import parse

SLOW_FROM = 75.0
LONGEST = 30.0
CLOSED = 60.0
_APP_HEADER = "x-app-usage"
_CASE_HEADER = "x-business-use-case-usage"
_SHARES = ("call_count", "total_cputime", "total_time")
_MANAGEMENT = "whatsapp_business_management"
_MOST_MINUTES = 100_000


@frozen
class Usage:
    """What one answer tells."""

    percent: float
    """The largest share of any limit that is used."""
    regain: float
    """Seconds after which calls are possible again; 0 where they are."""
    of: str = "app"
    """Whose limits: `app` or `account`."""


def read_usage(headers: Mapping[str, str], waba_id: str | None) -> list[Usage]:
    """What the headers of an answer tell about management calls for this account: of the app, of the account, both."""
    app, own = list[Usage](), list[Usage]()
    for name, value in headers.items():
        lowered = name.lower()
        if lowered == _APP_HEADER:
            app += _usage(_parsed(value))
        elif lowered == _CASE_HEADER:
            told = _parsed(value)
            accounts = told.items() if isinstance(told, dict) else ()
            for account, rows in accounts:
                if waba_id is None or account == waba_id:
                    for row in rows if isinstance(rows, list) else ():
                        if isinstance(row, dict) and row.get("type") == _MANAGEMENT:
                            own += _usage(row)
    return [
        Usage(max(each.percent for each in found), max(each.regain for each in found), of)
        for of, found in (("app", app), ("account", own))
        if found
    ]


def _parsed(value: str) -> Any:
    return parse(value.encode("utf-8", "replace"))


def _usage(row: Any) -> Iterator[Usage]:
    if not isinstance(row, dict):
        return
    shares = [number for key in _SHARES if (number := _number(row.get(key))) is not None]
    if shares:
        minutes = _number(row.get("estimated_time_to_regain_access")) or 0.0
        yield Usage(max(shares), 60.0 * min(minutes, _MOST_MINUTES))


def _number(value: Any) -> float | None:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value <= _MOST_MINUTES:
        return None
    return float(value)


class Slowdown:
    """The pauses between management calls; times are seconds of any one clock.

    The usage of the app and of the account are kept apart: most answers tell of one of them only, and a low one must
    not hide a high one.
    """

    __slots__ = ("_free_at", "_percents")

    def __init__(self) -> None:
        self._percents: dict[str, float] = {}
        self._free_at = float("-inf")

    @property
    def percent(self) -> float:
        """The largest share that is used, as was told last."""
        return max(self._percents.values(), default=0.0)

    def told(self, usage: Usage, now: float) -> None:
        """An answer told the usage."""
        self._percents[usage.of] = usage.percent
        if usage.regain > 0 or usage.percent >= 100.0:
            self._free_at = max(self._free_at, now + max(usage.regain, CLOSED))

    def pause(self) -> float:
        """Seconds between two calls at the present usage."""
        return LONGEST * min(1.0, max(0.0, self.percent - SLOW_FROM) / (100.0 - SLOW_FROM))

    def wait(self, now: float) -> float:
        """Seconds until the next call may be made; takes no turn."""
        return max(0.0, self._free_at - now)

    def take(self, now: float, max_wait: float) -> float:
        """Take a turn: the seconds to wait for it; or -1 - wait where that is over `max_wait`, and none is taken."""
        wait = self.wait(now)
        if wait > max_wait:
            return -1.0 - wait
        self._free_at = now + wait + self.pause()
        return wait

"""What is known not to be reachable for a time: recipients, countries, flows. Each mark has a code and an end.

A mark of marketing (131049, 131050, 130472) keeps marketing templates back and nothing else: who wants no offers wants
the login code all the same. Which templates are marketing tells the list of templates, where one is kept; a template
that met such a code is marketing, too.

What must never happen: more than `MOST` marks (the oldest makes room); a mark that outlives its end.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Mapping
from itertools import islice
from types import MappingProxyType

from attrs import frozen

MOST = 10_000
_HOUR, _DAY = 3_600.0, 86_400.0

RECIPIENT_WAITS: Mapping[int, float] = MappingProxyType(
    {
        130403: math.inf,  # blocked by the business itself
        130472: math.inf,  # an experiment keeps marketing from this user
        130497: _DAY,  # the account may not write to this country
        131026: _DAY,  # no such user; or an app too old for that message, so that it is tried again
        131049: _DAY,  # no more marketing for now: trying earlier makes it worse
        131050: math.inf,  # wants no marketing of this business
        131207: _HOUR,  # the group is suspended
        132069: _HOUR,  # the flow is limited to a few messages in an hour
    }
)
"""Seconds for which each error code keeps messages back; `inf` is until told otherwise."""

MARKETING_ONLY = frozenset({130472, 131049, 131050})
OF_COUNTRY = 130497
OF_FLOW = 132069

# ITU-T E.164 country codes of one and two digits; all others have three. Zones 1 and 7 are shared by countries.
_TWO_DIGITS = frozenset(
    map(str, (20, 27, 30, 31, 32, 33, 34, 36, 39, 40, 41, 43, 44, 45, 46, 47, 48, 49, 51, 52, 53, 54, 55, 56, 57, 58))
) | frozenset(map(str, (60, 61, 62, 63, 64, 65, 66, 81, 82, 84, 86, 90, 91, 92, 93, 94, 95, 98)))


def country_of(recipient: str) -> str:
    """The country of a number (digits without `+`) or a user id (`US.13...`); the recipient itself where unknown."""
    if recipient.isdigit():
        if recipient[0] in "17":
            return recipient
        return recipient[:2] if recipient[:2] in _TWO_DIGITS else recipient[:3]
    head, dot, _ = recipient.partition(".")
    return head if dot and len(head) == 2 else recipient


@frozen
class Mark:
    """Why something is not reachable, and until when."""

    code: int
    until: float


class Marks:
    """Marks by key. Times are seconds of any one clock. The caller holds a lock around every method that changes."""

    __slots__ = ("_marks",)

    def __init__(self) -> None:
        self._marks: OrderedDict[tuple[str, ...], Mark] = OrderedDict()

    def __len__(self) -> int:
        return len(self._marks)

    def put(self, key: tuple[str, ...], code: int, until: float) -> None:
        """Mark it; a mark that lasts longer stays."""
        known = self._marks.get(key)
        if known is None or known.until <= until:
            self._marks[key] = Mark(code, until)
            self._marks.move_to_end(key)
            if len(self._marks) > MOST:
                self._marks.popitem(last=False)

    def find(self, key: tuple[str, ...], now: float) -> Mark | None:
        """The mark that holds at `now`."""
        mark = self._marks.get(key)
        return mark if mark is not None and now < mark.until else None

    def drop_ended(self, now: float) -> None:
        """Forget some of the oldest marks that have ended: at most 64, so that it costs little."""
        for key in [key for key, mark in islice(self._marks.items(), 64) if mark.until <= now]:
            del self._marks[key]

    def remove(self, key: tuple[str, ...]) -> None:
        """It is reachable."""
        self._marks.pop(key, None)

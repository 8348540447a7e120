"""The cache's law: what a stored value may be used for at its age.

0 ... fresh_for ......... FRESH     served without asking
... fresh_for + stale_for STALE     asked anew; served when that fails
later ................... EXPIRED   never served
"""

from __future__ import annotations

from enum import StrEnum


class Freshness(StrEnum):
    """What a value's age allows."""

    FRESH = "fresh"
    STALE = "stale"
    EXPIRED = "expired"


def freshness(age: float, fresh_for: float, stale_for: float) -> Freshness:
    """Judge an age in seconds. A negative age (the wall clock was set back) counts as fresh from now."""
    if age < fresh_for:
        return Freshness.FRESH
    return Freshness.STALE if age < fresh_for + stale_for else Freshness.EXPIRED

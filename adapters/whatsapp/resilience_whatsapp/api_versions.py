"""Versions of the Graph API, and when each of them ends. As of November 2026, from Meta's list of versions."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import date, timedelta
from types import MappingProxyType
from typing import Literal, TypeAlias

API_VERSIONS: Mapping[str, date | None] = MappingProxyType(
    {
        "v20.0": date(2026, 9, 24),
        "v21.0": date(2027, 1, 21),
        "v22.0": date(2027, 5, 20),
        "v23.0": date(2027, 10, 8),
        "v24.0": date(2028, 2, 18),
        "v25.0": date(2028, 7, 29),
        "v26.0": None,
    }
)
"""The day on which a version ends; None where it is not announced."""

SOON = timedelta(days=90)
VersionState: TypeAlias = Literal["ended", "ends_soon", "supported", "not_known"]


def state_of_version(version: str, today: date) -> tuple[VersionState, date | None]:
    """Whether a version (`v25.0`) can still be used, and the day on which it ends or has ended, where it is known.

    One that is older than all that are listed has ended; of a newer one nothing is known here. "Soon" is 90 days.
    """
    if version not in API_VERSIONS:
        return ("ended" if _numbers(version) < _numbers(next(iter(API_VERSIONS))) else "not_known"), None
    end = API_VERSIONS[version]
    if end is None:
        return "supported", None
    if end <= today:
        return "ended", end
    return ("ends_soon" if end - today <= SOON else "supported"), end


def _numbers(version: str) -> list[int]:
    return [int(part) for part in re.findall("[0-9]+", version)]

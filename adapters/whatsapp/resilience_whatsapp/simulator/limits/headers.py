"""The headers that tell how much of a limit is used."""

from __future__ import annotations

import json
from typing import Any


def usage(kind: str, percent: float, minutes: int) -> dict[str, Any]:
    """A row of `X-Business-Use-Case-Usage`; the time to wait is in minutes."""
    return {
        "type": kind,
        "call_count": int(percent),
        "total_cputime": int(percent / 2),
        "total_time": int(percent / 2),
        "estimated_time_to_regain_access": minutes,
    }


def usage_headers(app_percent: float, account_id: str, rows: list[dict[str, Any]]) -> dict[str, str]:
    """`X-App-Usage` and `X-Business-Use-Case-Usage`, those of them that have something to tell."""
    headers: dict[str, str] = {}
    if app_percent > 0.0:
        half = int(app_percent / 2)
        headers["X-App-Usage"] = json.dumps({"call_count": int(app_percent), "total_cputime": half, "total_time": half})
    if rows:
        headers["X-Business-Use-Case-Usage"] = json.dumps({account_id: rows})
    return headers

"""`Retry-After`: what RFC 9110 says decides where the sources contradict each other."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from resilience_http import parse_retry_after
from resilience_http.retry_after import CAP

FILE = "retry_after.json"
OTHER_HEADERS = "another vendor's header; only Retry-After is read"
COMPARED = ("seconds", "sleep", "delay", "no_hint")
SKIPS = {
    "azure-date-with-offset": "RFC 9110 dates end in GMT; an offset is no valid hint",
    "urllib3-sleep-5": "a date that has passed means 0 seconds (httpx-retries-past says so, too)",
    "urllib3-sleep-6": "whether hints are respected at all is the classifier's choice",
    "httpx-retries-no-zone": "RFC 9110 dates end in GMT",
    "httpx-retries-zero-falls-back": "0 means 0 (rfc9110-zero)",
    "httpx-retries-precedence": "needs a retry loop; tests/policies/test_retry.py shows that retry_after wins",
    "httpx-retries-future": "relative to the time of the run; the fixed dates say the same",
    "httpx-retries-past": "relative to the time of the run; the fixed dates say the same",
    "urllib3-status-413": "which statuses have a hint is classify_status's table",
    "urllib3-status-429": "which statuses have a hint is classify_status's table",
    "urllib3-status-500": "which statuses have a hint is classify_status's table",
    "azure-not-on-success": "which statuses have a hint is classify_status's table",
    "smithy-hint-1": "AWS's rule for its own header",
    "smithy-hint-3": "AWS's rule for its own header",
    "grpc-pushback-123": OTHER_HEADERS,
    "grpc-pushback-negative": OTHER_HEADERS,
}


def choose(content: list[dict[str, Any]], directory: Path) -> list[dict[str, Any]]:
    return content


def skip(vector: dict[str, Any]) -> str | None:
    headers = vector["input"].get("headers", {})
    if any(name.lower() != "retry-after" for name in headers):
        return OTHER_HEADERS
    return SKIPS.get(vector["id"])


def run(vector: dict[str, Any]) -> None:
    given = vector["input"]
    value = given["header"] if "header" in given else next(iter(given["headers"].values()))
    now = datetime.fromisoformat(given["now"]) if "now" in given else None
    got = parse_retry_after(value, now=now, cap=given.get("cap", CAP))
    expect = vector.get("expect_safe") or vector["expect"]
    if expect.get("no_hint") or expect.get("invalid"):
        assert got is None, f"{got} for {value!r}"
        return
    wanted = next(expect[key] for key in ("seconds", "sleep", "delay") if key in expect)
    assert got == pytest.approx(CAP if wanted == "cap" else wanted), f"{got} for {value!r}"

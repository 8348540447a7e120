"""What HTTP outcomes mean, and Retry-After read from anything."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Mapping
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any

import aiohttp
import pytest
from hypothesis import given
from hypothesis import strategies as st

from resilience_core import Judgement, Verdict
from resilience_http import (
    HttpStatusError,
    classify_exception,
    classify_response,
    classify_status,
    is_idempotent,
    parse_retry_after,
    retry_after,
)

NOW = datetime(2026, 1, 1, tzinfo=UTC)
KEY: Any = SimpleNamespace(host="h", port=1, ssl=True, is_ssl=True)
REQUEST: Any = SimpleNamespace(real_url="u", url="u", method="GET", headers={})


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("120", 120.0),
        (" \t7 ", 7.0),
        ("0", 0.0),
        ("007", 7.0),
        ("9" * 5000, 21_600.0),
        ("Thu, 01 Jan 2026 00:01:00 GMT", 60.0),
        ("Thu, 1 Jan 2026 00:01:00 UTC", 60.0),
        ("Thursday, 01-Jan-26 00:01:00 GMT", 60.0),
        ("Sunday, 06-Nov-94 08:49:37 GMT", 0.0),
        ("Thu Jan  1 00:01:00 2026", 60.0),
        ("Thu, 01 Jan 2026 00:00:60 GMT", 60.0),
        ("Fri, 31 Dec 9999 23:59:59 GMT", 21_600.0),
        ("Fri, 31 Dec 9999 23:59:60 GMT", None),
        ("Thu, 31 Feb 2026 00:01:00 GMT", None),
        ("Thu, 01 Jan 2026 00:01:00 +0100", None),
        ("1.5", None),
        ("-1", None),
        ("٣", None),
        ("1_000", None),
        ("x" * 100, None),
        ("", None),
        (None, None),
    ],
)
def test_retry_after(value: str | None, seconds: float | None) -> None:
    assert parse_retry_after(value, now=NOW) == seconds
    assert parse_retry_after(value, now=NOW.timestamp()) == seconds


def test_the_wall_clock_is_the_default_and_the_cap_holds() -> None:
    assert parse_retry_after("Sun, 06 Nov 1994 08:49:37 GMT") == 0.0
    assert parse_retry_after("100", cap=5.0) == 5.0


@given(st.text(max_size=80) | st.from_regex(r"\w{3}, \d{1,3} \w{3} \d{2,5} \d\d:\d\d:\d\d GMT", fullmatch=True))
def test_no_text_makes_it_raise(value: str) -> None:
    hint = parse_retry_after(value)
    assert hint is None or 0.0 <= hint <= 21_600.0


def test_the_longest_hint_of_several_headers() -> None:
    assert retry_after({"Retry-After": "1", "retry-after": "5", "RETRY-AFTER": "soon"}) == 5.0
    assert retry_after({"Other": "1"}) is None


@pytest.mark.parametrize(
    ("status", "headers", "verdict"),
    [
        (200, None, Verdict.SUCCESS),
        (304, None, Verdict.SUCCESS),
        (301, None, Verdict.PERMANENT),
        (400, None, Verdict.PERMANENT),
        (408, None, Verdict.TRANSIENT),
        (425, None, Verdict.TRANSIENT),
        (429, {"Retry-After": "3"}, Verdict.THROTTLED),
        (500, None, Verdict.UNKNOWN),
        (501, None, Verdict.PERMANENT),
        (502, None, Verdict.UNKNOWN),
        (503, None, Verdict.UNKNOWN),
        (503, {"Retry-After": "3"}, Verdict.TRANSIENT),
        (504, None, Verdict.UNKNOWN),
        (505, None, Verdict.PERMANENT),
    ],
)
def test_statuses(status: int, headers: Mapping[str, str] | None, verdict: Verdict) -> None:
    judgement = classify_status(status, headers)
    assert judgement.verdict is verdict
    if headers:
        assert judgement.retry_after == 3.0
    assert classify_response(SimpleNamespace(status=status, headers=headers or {})).verdict is verdict


@pytest.mark.parametrize(
    ("error", "verdict"),
    [
        (aiohttp.ClientConnectorError(KEY, OSError(111, "refused")), Verdict.TRANSIENT),
        (aiohttp.ClientConnectorDNSError(KEY, OSError(1, "dns")), Verdict.TRANSIENT),
        (aiohttp.ClientConnectorCertificateError(KEY, Exception("certificate")), Verdict.TRANSIENT),
        (aiohttp.ServerFingerprintMismatch(b"a", b"b", "h", 1), Verdict.TRANSIENT),
        (aiohttp.ConnectionTimeoutError(), Verdict.TRANSIENT),
        (aiohttp.SocketTimeoutError(), Verdict.UNKNOWN),
        (aiohttp.ServerTimeoutError(), Verdict.UNKNOWN),
        (aiohttp.ServerDisconnectedError(), Verdict.UNKNOWN),
        (aiohttp.ClientOSError(104, "reset"), Verdict.UNKNOWN),
        (aiohttp.ClientPayloadError(), Verdict.UNKNOWN),
        (aiohttp.InvalidURL("x"), Verdict.PERMANENT),
        (aiohttp.TooManyRedirects(REQUEST, ()), Verdict.PERMANENT),
        (aiohttp.ClientResponseError(REQUEST, (), status=503), Verdict.UNKNOWN),
        (aiohttp.ClientError(), Verdict.UNKNOWN),
        (socket.gaierror(), Verdict.TRANSIENT),
        (ConnectionRefusedError(), Verdict.TRANSIENT),
        (ConnectionError(), Verdict.TRANSIENT),
        (ConnectionResetError(), Verdict.UNKNOWN),
        (BrokenPipeError(), Verdict.UNKNOWN),
        (ssl.SSLError(), Verdict.TRANSIENT),
        (TimeoutError(), Verdict.UNKNOWN),
        (OSError(), Verdict.UNKNOWN),
        (ValueError(), Verdict.PERMANENT),
        (HttpStatusError("GET", 429, "3"), Verdict.THROTTLED),
        (HttpStatusError("GET", 502), Verdict.UNKNOWN),
    ],
)
def test_exceptions(error: Exception, verdict: Verdict) -> None:
    assert classify_exception(error).verdict is verdict


def test_a_status_error_keeps_to_itself_what_it_must() -> None:
    assert str(HttpStatusError("POST", 429, "3")) == "POST was answered with HTTP 429"
    assert classify_exception(HttpStatusError("POST", 429, "3")) == Judgement(
        Verdict.THROTTLED, retry_after=3.0, reason="http 429"
    )


def test_idempotent_methods() -> None:
    assert [is_idempotent(method) for method in ("get", "PUT", "DELETE", "POST", "PATCH")] == [True] * 3 + [False] * 2


def test_a_status_error_is_told_by_its_status() -> None:
    assert HttpStatusError("GET", 503).telemetry_type == "503"

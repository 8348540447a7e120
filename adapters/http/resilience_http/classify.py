"""What the outcome of an HTTP request means.

    never left the machine, or the server says that it did not act    TRANSIENT
    may have been carried out                                         UNKNOWN
    the server asks for less                                          THROTTLED
    this request is wrong                                             PERMANENT

Statuses (RFC 9110 unless noted):

| status | verdict | why |
|---|---|---|
| 2xx, 304 | SUCCESS | |
| 408, 425 | TRANSIENT | the request did not arrive whole (15.5.9); it was not processed (RFC 8470) |
| 429 | THROTTLED | RFC 6585 |
| 503 with a valid Retry-After | TRANSIENT | refused because of load, with a time to come back (15.6.4) |
| 501, 505 | PERMANENT | the server cannot do this at all (15.6.2, 15.6.6) |
| other 5xx | UNKNOWN | it failed while acting, or a gateway lost the answer |
| other 3xx, 4xx | PERMANENT | |
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Mapping
from typing import Any

import aiohttp

from resilience_core import Judgement, Verdict
from resilience_http.errors import HttpStatusError
from resilience_http.retry_after import retry_after

IDEMPOTENT_METHODS = frozenset({"GET", "HEAD", "OPTIONS", "TRACE", "PUT", "DELETE"})
"""RFC 9110, section 9.2.2."""

# From specific to general: the first class that matches decides.
_EXCEPTIONS: tuple[tuple[tuple[type[BaseException], ...], Verdict, str], ...] = (
    ((aiohttp.InvalidURL, aiohttp.NonHttpUrlClientError, aiohttp.TooManyRedirects), Verdict.PERMANENT, "bad request"),
    ((aiohttp.ServerFingerprintMismatch,), Verdict.TRANSIENT, "tls"),
    ((aiohttp.ClientConnectorError,), Verdict.TRANSIENT, "connect"),  # DNS, refused, TLS, certificate, proxy
    ((aiohttp.ConnectionTimeoutError,), Verdict.TRANSIENT, "connect timeout"),
    ((aiohttp.ServerTimeoutError,), Verdict.UNKNOWN, "read timeout"),
    ((aiohttp.ClientConnectionError, aiohttp.ClientPayloadError), Verdict.UNKNOWN, "connection lost"),
    ((socket.gaierror,), Verdict.TRANSIENT, "dns"),
    ((ConnectionRefusedError,), Verdict.TRANSIENT, "connect"),
    ((ConnectionResetError, BrokenPipeError, ConnectionAbortedError), Verdict.UNKNOWN, "connection lost"),
    ((ConnectionError,), Verdict.TRANSIENT, "connect"),
    ((ssl.SSLError,), Verdict.TRANSIENT, "tls"),
    ((TimeoutError, asyncio.TimeoutError), Verdict.UNKNOWN, "timeout"),
    ((OSError,), Verdict.UNKNOWN, "os error"),
    ((aiohttp.ClientError,), Verdict.UNKNOWN, "client error"),
)


def is_idempotent(method: str) -> bool:
    """Whether repeating a request with this method has the effect of one (RFC 9110, section 9.2.2)."""
    return method.upper() in IDEMPOTENT_METHODS


def classify_status(status: int, headers: Mapping[str, str] | None = None) -> Judgement:
    """Judge an answer by its status and its `Retry-After`; the table is in the module's docstring."""
    hint = None if headers is None else retry_after(headers)
    reason = f"http {status}"
    if 200 <= status < 300 or status == 304:
        return Judgement(Verdict.SUCCESS)
    if status == 429:
        return Judgement(Verdict.THROTTLED, retry_after=hint, reason=reason)
    if status in (408, 425):
        return Judgement(Verdict.TRANSIENT, retry_after=hint, reason=reason)
    if status >= 500 and status not in (501, 505):
        refused = status == 503 and hint is not None
        return Judgement(Verdict.TRANSIENT if refused else Verdict.UNKNOWN, retry_after=hint, reason=reason)
    return Judgement(Verdict.PERMANENT, reason=reason)


def classify_response(response: Any) -> Judgement:
    """Judge anything with `.status` and `.headers`, such as an `aiohttp.ClientResponse`."""
    return classify_status(response.status, response.headers)


def classify_exception(error: BaseException) -> Judgement:
    """Judge an exception of aiohttp, of the socket layer, or our own `HttpStatusError`; anything else is PERMANENT.

    What is not about the connection is an error of the program, and repeating it would not help.
    """
    if isinstance(error, HttpStatusError):
        return classify_status(error.status, {"Retry-After": error.retry_after_header or ""})
    if isinstance(error, aiohttp.ClientResponseError) and error.status:
        return classify_status(error.status, dict(error.headers or {}))
    for classes, verdict, reason in _EXCEPTIONS:
        if isinstance(error, classes):
            return Judgement(verdict, reason=reason)
    return Judgement(Verdict.PERMANENT, reason=type(error).__qualname__)

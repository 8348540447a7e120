"""Resilient calls to any HTTP API: what its answers mean, and an aiohttp session that is guarded."""

from resilience_http._version import __version__
from resilience_http.classify import (
    IDEMPOTENT_METHODS,
    classify_exception,
    classify_response,
    classify_status,
    is_idempotent,
)
from resilience_http.errors import HttpStatusError
from resilience_http.retry_after import parse_retry_after, retry_after
from resilience_http.session import ResilientSession

__all__ = [
    "IDEMPOTENT_METHODS",
    "HttpStatusError",
    "ResilientSession",
    "__version__",
    "classify_exception",
    "classify_response",
    "classify_status",
    "is_idempotent",
    "parse_retry_after",
    "retry_after",
]

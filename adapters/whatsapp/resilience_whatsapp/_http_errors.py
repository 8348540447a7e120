"""What the exceptions of HTTP clients other than ours mean: httpx, requests, and whatever carries an HTTP status.

None of these libraries is imported: their classes are known by name.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from resilience_core import Judgement, Verdict
from resilience_http import classify_exception, classify_status

_NEVER_LEFT = ("httpx.ConnectError", "httpx.ConnectTimeout", "httpx.PoolTimeout", "requests.ConnectTimeout")
_MAY_HAVE_LEFT = ("httpx.TransportError", "httpx.DecodingError")


def judge_http_error(error: Exception) -> Judgement | None:
    """What an error means; None for one that tells nothing of the request, such as a `ValueError`."""
    status, headers = _answer_in(error)
    if status is not None:
        return classify_status(status, headers)
    names = {f"{cls.__module__.partition('.')[0]}.{cls.__qualname__}" for cls in type(error).__mro__}
    for known, verdict in ((_NEVER_LEFT, Verdict.TRANSIENT), (_MAY_HAVE_LEFT, Verdict.UNKNOWN)):
        if not names.isdisjoint(known):
            return Judgement(verdict, reason=type(error).__qualname__)
    # The socket layer has subclasses of ConnectionError for all that it knows; this one was raised by a client.
    if isinstance(error, RuntimeError) or type(error) is ConnectionError:
        return Judgement(Verdict.UNKNOWN, reason=type(error).__qualname__)
    judgement = classify_exception(error)
    nothing = judgement.verdict is Verdict.PERMANENT and judgement.reason == type(error).__qualname__
    return None if nothing else judgement


def _answer_in(error: Exception) -> tuple[int | None, Mapping[str, str] | None]:
    """The status and the headers of the answer that an error is about."""
    for holder in (error, _part(error, "response")):
        for name in ("status_code", "status"):
            status = _part(holder, name)
            if type(status) is int and 400 <= status < 600:
                headers = _part(holder, "headers")
                return status, headers if isinstance(headers, Mapping) else None
    return None, None


def _part(holder: Any, name: str) -> Any:
    try:
        return getattr(holder, name, None)
    except Exception:  # of a property of theirs: it tells nothing
        return None

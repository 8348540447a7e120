"""Templates that the API said cannot be used, set aside for a time so that nobody asks for them in vain.

Only what is wrong with the template itself sets it aside. An error that is about the values of one message (132000 and
the like) says nothing of the next message, and one caller's mistake must not stop the others.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Collection, Mapping
from types import MappingProxyType
from typing import Any

from resilience_core import ConfigurationError
from resilience_whatsapp.errors import GraphTemplateError
from resilience_whatsapp.templates._store import Aside, TemplateKey

TEMPLATE_QUARANTINE: Mapping[int, float] = MappingProxyType(
    {
        132001: 60.0,  # does not exist: it may just have been made
        132007: 300.0,  # its content breaks a policy
        132015: 300.0,  # paused, for hours: found out again with one request every five minutes
        132016: 3600.0,  # disabled for good
        132068: 300.0,  # its flow is blocked
        134101: 60.0,  # not yet known everywhere
        134102: 300.0,  # not usable for marketing
    }
)
"""Seconds for which each error code sets a template aside."""

_PARTS = {"code": int, "subcode": int, "http_status": int, "scope": str, "fbtrace_id": str}
"""What is kept of an error."""
_LONGEST = 256  # characters of a text that others have written


class Quarantine:
    """Which templates are set aside, until when, and why.

    Args:
        seconds: by error code. They are this process's own also for what others have set aside.
        now: the time, in seconds since the epoch.
        kept: where it is kept.
    """

    def __init__(self, seconds: Mapping[int, float], now: Callable[[], float], kept: Aside) -> None:
        self._seconds = dict(_checked(seconds))
        self._now = now
        self._kept = kept

    def __len__(self) -> int:
        return len(self._kept)

    def put(self, key: TemplateKey, error: GraphTemplateError) -> float:
        """Set a template aside because of `error`; the seconds for which it is, 0 if it is not."""
        seconds = self._seconds.get(error.code or 0, 0.0)
        if seconds > 0:
            self._kept.set(_text(key), {part: getattr(error, part) for part in _PARTS}, self._now())
        return seconds

    def error_for(self, key: TemplateKey) -> GraphTemplateError | None:
        """The error to raise instead of a request; None for a template that is not set aside.

        A new one each time: two sends must not share the record that theirs carries.
        """
        found = self._kept.get(_text(key))  # also where nothing is set aside: a fleet is joined with it
        if found is None or not _is_error(found[0]):
            return None
        told, since = found
        seconds = self._seconds.get(told["code"], 0.0)
        left = since + seconds - self._now()
        if not 0 < left <= seconds:  # more than all of it: the clock was set back
            return None
        error = GraphTemplateError(**told, retry_after=left)
        error.local = True
        return error

    def release(self, keys: Collection[TemplateKey], asked: float) -> None:
        """End it for templates that a listing shows as approved, if they were set aside before it was asked for."""
        if self._kept:
            for text in map(_text, keys):
                found = self._kept.get(text)
                if found is not None and found[1] <= asked:
                    self._kept.delete(text)

    def clear(self) -> None:
        """End it for all."""
        self._kept.clear()


def _text(key: TemplateKey) -> str:
    return json.dumps(key)


def _is_error(told: Any) -> bool:
    """Whether this is what `put` has written, here, in a process before this one or in another one."""
    if not isinstance(told, dict) or told.keys() != _PARTS.keys() or told["code"] is None or told["scope"] is None:
        return False
    fits = (
        value is None or (type(value) is _PARTS[part] and len(str(value)) <= _LONGEST) for part, value in told.items()
    )
    return all(fits)


def _checked(seconds: Any) -> Mapping[int, float]:
    if not isinstance(seconds, Mapping):
        raise ConfigurationError("template_quarantine must be a mapping of error codes to seconds; {} switches it off")
    for code, value in seconds.items():
        number = isinstance(value, (int, float)) and not isinstance(value, bool)
        if type(code) is not int or not number or not 0 <= value < math.inf:
            raise ConfigurationError(
                "template_quarantine must have error codes as keys and seconds from 0 as values, such as {132001: 60.0}"
            )
    return seconds

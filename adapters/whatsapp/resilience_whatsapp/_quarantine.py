"""Templates that the API said cannot be used, set aside for a time so that nobody asks for them in vain.

Only what is wrong with the template itself sets it aside. An error that is about the values of one message (132000 and
the like) says nothing of the next message, and one caller's mistake must not stop the others.
"""

from __future__ import annotations

import math
import threading
from collections import OrderedDict
from collections.abc import Callable, Collection, Mapping
from types import MappingProxyType
from typing import Any, TypeAlias

from attrs import frozen

from resilience_core import ConfigurationError
from resilience_whatsapp.errors import GraphTemplateError

TemplateKey: TypeAlias = tuple[str, str]
"""A template's name and its language."""

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

MAX_TEMPLATES = 1_000


@frozen
class _SetAside:
    error: GraphTemplateError
    since: float
    until: float


class Quarantine:
    """Which templates are set aside, until when, and why. At most `MAX_TEMPLATES`: the oldest one makes room."""

    def __init__(self, seconds: Mapping[int, float], now: Callable[[], float]) -> None:
        self._seconds = dict(_checked(seconds))
        self._now = now
        self._lock = threading.Lock()
        self._aside: OrderedDict[TemplateKey, _SetAside] = OrderedDict()

    def __len__(self) -> int:
        return len(self._aside)

    def put(self, key: TemplateKey, error: GraphTemplateError) -> float:
        """Set a template aside because of `error`; the seconds for which it is, 0 if it is not."""
        seconds = self._seconds.get(error.code or 0, 0.0)
        if seconds > 0:
            now = self._now()
            with self._lock:
                self._aside[key] = _SetAside(error, now, now + seconds)
                self._aside.move_to_end(key)
                if len(self._aside) > MAX_TEMPLATES:
                    self._aside.popitem(last=False)
        return seconds

    def error_for(self, key: TemplateKey) -> GraphTemplateError | None:
        """The error to raise instead of a request; None for a template that is not set aside.

        A new one each time: two sends must not share the record that theirs carries.
        """
        if not self._aside:
            return None
        now = self._now()
        with self._lock:
            found = self._aside.get(key)
            if found is None:
                return None
            if now >= found.until:
                del self._aside[key]
                return None
        told = found.error
        error = type(told)(told.code, told.subcode, told.http_status, told.scope, found.until - now, told.fbtrace_id)
        error.local = True
        return error

    def release(self, keys: Collection[TemplateKey], asked: float) -> None:
        """End it for templates that a listing shows as approved, if they were set aside before it was asked for."""
        with self._lock:
            for key in [key for key, aside in self._aside.items() if key in keys and aside.since <= asked]:
                del self._aside[key]

    def clear(self) -> None:
        """End it for all."""
        with self._lock:
            self._aside.clear()


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

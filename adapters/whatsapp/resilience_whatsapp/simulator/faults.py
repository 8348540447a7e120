"""The scriptable faults: a list, consumed in order by the requests that match.

| kind | what the client sees | booked |
|---|---|---|
| `error` | `status` and an envelope with `code` (and `subcode`, `is_transient`, `details`) | no |
| `json` | `status` (400) and `body`, whatever it is: an error without code, an odd success | if `accepted` |
| `delay` | the proper answer, `seconds` later | yes, even if the client has gone by then |
| `reset_before_read` | the connection is reset before the request is handled | no |
| `reset_after_accept` | the connection is reset instead of an answer | yes |
| `hang_after_accept` | nothing for `seconds`, then the connection is reset | yes |
| `html` | an HTML page with `status` (502) | if `accepted` |
| `malformed` | 200 and half of the JSON | yes |
| `no_messages` | 200 and `{}` | yes |
| `string_error` | `status` (500) and `{"error": "..."}` | no |
| `empty` | `status` (500) and no body | if `accepted` |

`status` left out is the usual one of the kind, for `error` that of the code. `headers` go with every answer that a
fault makes up. What is refused (validation) is never booked. A dead server is `Simulator.stop_listening()`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from attrs import evolve, field, fields, frozen

KINDS = (
    "error",
    "json",
    "delay",
    "reset_before_read",
    "reset_after_accept",
    "hang_after_accept",
    "html",
    "malformed",
    "no_messages",
    "string_error",
    "empty",
)
ROUTES = ("messages", "message_templates", "phone_number", "*")
_HEADER_NAME = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")
_HEADER_VALUE = re.compile(r"[\t\x20-\x7e]*")


class FaultError(ValueError):
    """A fault that cannot be scripted; the text names the field."""


@frozen
class Fault:
    """One fault; `times` matching requests meet it, or all of them until cleared when `times` is None."""

    kind: str
    route: str = "messages"
    times: int | None = 1
    status: int | None = None
    code: int = 131000
    subcode: int | None = None
    is_transient: bool | None = None
    seconds: float = 1.0
    accepted: bool = False
    headers: Mapping[str, str] = field(factory=dict)
    details: str | None = None
    body: Any = None

    def __attrs_post_init__(self) -> None:
        _require("kind", self.kind in KINDS, f"one of {', '.join(KINDS)}")
        _require("route", self.route in ROUTES, f"one of {', '.join(ROUTES)}")
        _require("times", self.times is None or (_is_int(self.times) and self.times > 0), "a positive number or null")
        _require("status", self.status is None or _is_status(self.status), "an HTTP status or null")
        _require("code", _is_int(self.code), "a number")
        _require("subcode", self.subcode is None or _is_int(self.subcode), "a number or null")
        _require(
            "is_transient", self.is_transient is None or isinstance(self.is_transient, bool), "true, false or null"
        )
        _require("seconds", _is_duration(self.seconds), "a number from 0 to 3600")
        _require("accepted", isinstance(self.accepted, bool), "true or false")
        _require("headers", _are_headers(self.headers), "a mapping of header names to texts of one line")
        _require("details", self.details is None or isinstance(self.details, str), "a text or null")

    @classmethod
    def from_json(cls, content: Any) -> Fault:
        """A fault from the admin route's form; raises `FaultError`."""
        known = [attribute.name for attribute in fields(cls)]
        if not isinstance(content, Mapping):
            raise FaultError(f"a fault must be an object with {', '.join(known)}")
        for key in content:
            _require(str(key), key in known, f"no field; known are {', '.join(known)}")
        _require("kind", "kind" in content, f"given, one of {', '.join(KINDS)}")
        return cls(**content)


def _is_int(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_status(value: int) -> bool:
    return _is_int(value) and 200 <= value <= 599


def _is_duration(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value <= 3600


def _are_headers(value: object) -> bool:
    # A line break would be refused only while answering: the client would see a fault that nobody scripted.
    return isinstance(value, Mapping) and all(
        isinstance(name, str)
        and isinstance(text, str)
        and _HEADER_NAME.fullmatch(name)
        and _HEADER_VALUE.fullmatch(text)
        for name, text in value.items()
    )


def _require(name: str, holds: bool, expected: str) -> None:
    if not holds:
        raise FaultError(f"fault.{name} must be {expected}")


class Script:
    """The faults still to come. It counts on copies: the same `Fault` may be scripted again and again."""

    def __init__(self) -> None:
        self._faults: list[Fault] = []

    def add(self, faults: Iterable[Fault]) -> None:
        """Append to the list."""
        self._faults += faults

    def clear(self) -> None:
        """From now on all is well."""
        self._faults.clear()

    def next(self, route: str) -> Fault | None:
        """The fault that the next request on `route` meets, if any."""
        for index, fault in enumerate(self._faults):
            if fault.route in ("*", route):
                if fault.times == 1:
                    del self._faults[index]
                elif fault.times is not None:
                    self._faults[index] = evolve(fault, times=fault.times - 1)
                return fault
        return None

    def __len__(self) -> int:
        return len(self._faults)

"""The scriptable faults: a list, consumed in order by the requests that match.

| kind | what the client sees | booked |
|---|---|---|
| `error` | `status` and an envelope with `code` (and `subcode`, `is_transient`, `headers`) | no |
| `delay` | the proper answer, `seconds` later | yes |
| `reset_before_read` | the connection is reset before the request is handled | no |
| `reset_after_accept` | the connection is reset instead of an answer | yes |
| `hang_after_accept` | nothing for `seconds`, then the connection is reset | yes |
| `html` | an HTML page with `status` (502) | if `accepted` |
| `malformed` | 200 and half of the JSON | yes |
| `no_messages` | 200 and `{}` | yes |
| `string_error` | `status` and `{"error": "..."}` | no |
| `empty` | `status` and no body | no |
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from attrs import define, field, fields

KINDS = (
    "error",
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
ROUTES = ("messages", "message_templates", "*")


class FaultError(ValueError):
    """A fault that cannot be scripted; the text names the field."""


@define
class Fault:
    """One fault; `times` matching requests meet it, or all of them when `times` is None."""

    kind: str
    route: str = "messages"
    times: int | None = 1
    status: int = 500
    code: int = 131000
    subcode: int | None = None
    is_transient: bool | None = None
    seconds: float = 1.0
    accepted: bool = False
    headers: dict[str, str] = field(factory=dict)

    def __attrs_post_init__(self) -> None:
        _require("kind", self.kind in KINDS, f"one of {', '.join(KINDS)}")
        _require("route", self.route in ROUTES, f"one of {', '.join(ROUTES)}")
        _require("times", self.times is None or (_is_int(self.times) and self.times > 0), "a positive number or null")
        _require("status", _is_int(self.status) and 200 <= self.status <= 599, "an HTTP status")
        _require("code", _is_int(self.code), "a number")
        _require("subcode", self.subcode is None or _is_int(self.subcode), "a number or null")
        _require("is_transient", self.is_transient in (None, True, False), "true, false or null")
        _require("seconds", _is_duration(self.seconds), "a number from 0 to 3600")
        _require("accepted", self.accepted in (True, False), "true or false")
        _require("headers", _is_texts(self.headers), "a mapping of texts")

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


def _is_duration(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value <= 3600


def _is_texts(value: object) -> bool:
    return isinstance(value, dict) and all(isinstance(text, str) for text in value.values())


def _require(name: str, holds: bool, expected: str) -> None:
    if not holds:
        raise FaultError(f"fault.{name} must be {expected}")


class Script:
    """The faults still to come."""

    def __init__(self) -> None:
        self._faults: list[Fault] = []

    def add(self, faults: Iterable[Fault]) -> None:
        """Append to the list."""
        self._faults += [faults] if isinstance(faults, Fault) else list(faults)

    def clear(self) -> None:
        """From now on all is well."""
        self._faults.clear()

    def next(self, route: str) -> Fault | None:
        """The fault that the next request on `route` meets, if any."""
        for fault in self._faults:
            if fault.route in ("*", route):
                if fault.times is not None:
                    fault.times -= 1
                    if not fault.times:
                        self._faults.remove(fault)
                return fault
        return None

    def __len__(self) -> int:
        return len(self._faults)

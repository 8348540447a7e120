"""The scriptable faults: a list, met in order by the requests that match.

What the client sees instead of the proper answer:

| kind | what the client sees | booked |
|---|---|---|
| `error` | `status` and an envelope with `code` (and `subcode`, `is_transient`, `details`) | no |
| `json` | `status` (400) and `body`, whatever it is: an error without code, an odd success | if `accepted` |
| `string_error` | `status` (500) and `{"error": "..."}` | no |
| `no_code` | `status` (500) and an envelope without `code` | if `accepted` |
| `html` | an HTML page with `status` (502) | if `accepted` |
| `empty` | `status` (500) and no body | if `accepted` |
| `gzip_bomb` | `status` (500) and a few KB that unpack to `size` bytes | if `accepted` |
| `huge` | `status` (500) and `size` bytes of JSON | if `accepted` |
| `malformed` | 200 and half of the JSON | yes |
| `no_messages` | 200 and `{}` | yes |
| `delay` | the proper answer, `seconds` later | yes, even if the client has gone by then |
| `trickle` | the proper answer, byte by byte over `seconds` | yes |
| `usage` | the proper answer, with usage headers that say `percent`, and `seconds` to wait in minutes | yes |
| `reset_before_read` | the connection is reset before the request is handled | no |
| `reset_after_accept` | the connection is reset instead of an answer | yes |
| `hang_after_accept` | nothing for `seconds`, then the connection is reset | yes |
| `cut_after_accept` | `size` bytes of the answer, nothing for `seconds`, then the connection is reset | yes |

What becomes of a message after a proper answer, and of the webhooks that tell it:

| kind | what happens |
|---|---|
| `fail_later` | the message is accepted, and fails with `code` by webhook |
| `webhook_early` | the first status arrives before the answer of the send |
| `webhook_late` | the status is told `seconds` later |
| `webhook_duplicate` | the status is delivered twice |
| `webhook_reorder` | the status changes places with the next one of its message |
| `webhook_rebatch` | the status is delivered again later, in one body with others |
| `webhook_signature` | the signature is wrong at the first delivery |
| `webhook_dead` | the first delivery reaches nobody |
| `webhook_lost` | the status is never told |

And `dead`: for `lasts` seconds from `at` on nothing listens; who waits is dropped.

`status` left out is the usual one of the kind, for `error` that of the code. `headers` go with every answer that a
fault makes up. What is refused (validation, limits) is never booked. `times` requests meet a fault, or all of them
while it lasts when `times` is None. `share` of the requests meet it, by the simulator's seed: a brown-out. It begins
`at` seconds after it was scripted, and ends `lasts` seconds later. All seconds are the API's: `speed` shortens them.
"""

from __future__ import annotations

import math
import random
import re
from collections.abc import Iterable, Mapping
from typing import Any, Literal

from attrs import define, field, fields, frozen

from resilience_whatsapp.simulator.clock import SimClock

ANSWERS = (
    "error",
    "json",
    "delay",
    "reset_before_read",
    "reset_after_accept",
    "hang_after_accept",
    "cut_after_accept",
    "html",
    "malformed",
    "no_messages",
    "string_error",
    "no_code",
    "empty",
    "trickle",
    "usage",
    "gzip_bomb",
    "huge",
)
OUTCOMES = ("fail_later",)
WEBHOOKS = (
    "webhook_early",
    "webhook_late",
    "webhook_duplicate",
    "webhook_reorder",
    "webhook_rebatch",
    "webhook_signature",
    "webhook_dead",
    "webhook_lost",
)
KINDS = (*ANSWERS, *OUTCOMES, *WEBHOOKS, "dead")
ROUTES = (
    "messages",
    "marketing_messages",
    "message_templates",
    "template",
    "phone_number",
    "phone_numbers",
    "register",
    "account",
    "media",
    "media_download",
    "subscribed_apps",
    "permissions",
    "*",
)
MAX_SECONDS = 30 * 86_400
MAX_SIZE = 1 << 30
Stage = Literal["answer", "outcome", "webhook"]
STAGES: tuple[Stage, ...] = ("answer", "outcome", "webhook")
_HEADER_NAME = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")
_FRAMING = ("content-length", "transfer-encoding")
"""Headers that the server sets: with others the answer would end somewhere else."""
_HEADER_VALUE = re.compile(r"[\t\x20-\x7e]*")


class FaultError(ValueError):
    """A fault that cannot be scripted; the text names the field."""


@frozen
class Fault:
    """One fault; `times` matching requests meet it, or all of them until cleared when `times` is None.

    Raises `FaultError`, which names the field.
    """

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
    share: float = 1.0
    """The part of the matching requests, by the seed."""
    at: float = 0.0
    """Seconds after it was scripted from which on it is met."""
    lasts: float | None = None
    """Seconds for which it is met; None is without end."""
    size: int = 10_000_000
    """Bytes, of `huge`, `gzip_bomb` and `cut_after_accept`."""
    percent: int = 80
    """Of `usage`."""
    to: str | None = None
    """Digits or user id of the only recipient whose messages meet it: of `fail_later` and webhooks."""
    object_id: str | None = None
    """Of the only number, account or other object whose requests meet it."""

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
        _require("seconds", _is_duration(self.seconds), f"a number from 0 to {MAX_SECONDS}")
        _require("accepted", isinstance(self.accepted, bool), "true or false")
        _require(
            "headers",
            _are_headers(self.headers),
            "a mapping of header names to texts of one line, without Content-Length and Transfer-Encoding",
        )
        _require("share", _is_number(self.share) and 0 < self.share <= 1, "a number above 0, at most 1")
        _require("at", _is_duration(self.at), f"a number from 0 to {MAX_SECONDS}")
        _require(
            "lasts",
            _is_duration(self.lasts) or (self.lasts is None and self.kind != "dead"),
            f"a number from 0 to {MAX_SECONDS}, or null but for `dead`",
        )
        _require("size", _is_int(self.size) and 0 < self.size <= MAX_SIZE, f"a number from 1 to {MAX_SIZE}")
        _require("percent", _is_int(self.percent) and 0 < self.percent <= 1000, "a number from 1 to 1000")
        _require("to", self.to is None or isinstance(self.to, str), "a text or null")
        _require("object_id", self.object_id is None or isinstance(self.object_id, str), "a text or null")
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


def _is_duration(value: Any) -> bool:
    return _is_number(value) and 0 <= value <= MAX_SECONDS


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _are_headers(value: object) -> bool:
    # A line break would be refused only while answering: the client would see a fault that nobody scripted.
    return isinstance(value, Mapping) and all(
        isinstance(name, str)
        and isinstance(text, str)
        and _HEADER_NAME.fullmatch(name)
        and name.lower() not in _FRAMING
        and _HEADER_VALUE.fullmatch(text)
        for name, text in value.items()
    )


def _require(name: str, holds: bool, expected: str) -> None:
    if not holds:
        raise FaultError(f"fault.{name} must be {expected}")


@define(eq=False)
class _Pending:
    fault: Fault
    begins: float
    ends: float | None
    left: int | None


class Script:
    """The faults still to come. It counts on its own: the same `Fault` may be scripted again and again."""

    def __init__(self, clock: SimClock, seed: str) -> None:
        self._clock = clock
        self._pending: dict[Stage, list[_Pending]] = {stage: [] for stage in STAGES}
        # A stream for each stage: whether anybody is told by webhook does not change which requests meet a fault.
        self._draws = {stage: random.Random(f"{seed}/{stage}") for stage in STAGES}
        self._next_end: dict[Stage, float] = dict.fromkeys(STAGES, math.inf)

    def add(self, faults: Iterable[Fault]) -> None:
        """Append to the list."""
        now = self._clock.now()
        for fault in faults:
            if fault.kind == "dead":
                raise FaultError("fault.kind must be one that a request meets: the server dies by itself")
            begins = now + fault.at
            ends = None if fault.lasts is None else begins + fault.lasts
            stage = stage_of(fault)
            self._pending[stage].append(_Pending(fault, begins, ends, fault.times))
            self._next_end[stage] = min(self._next_end[stage], math.inf if ends is None else ends)

    def clear(self) -> None:
        """From now on all is well."""
        for faults in self._pending.values():
            faults.clear()

    def next(
        self, route: str, stage: Stage = "answer", recipient: str | None = None, object_id: str | None = None
    ) -> Fault | None:
        """The fault that the next request on `route` meets, if any; `object_id` is that of its path."""
        pending = self._pending[stage]
        if not pending:
            return None
        now = self._clock.now()
        self._forget(stage, now)
        for row in pending:
            fault = row.fault
            if (
                now < row.begins
                or fault.route not in ("*", route)
                or (fault.object_id is not None and fault.object_id != object_id)
                or (fault.to is not None and fault.to != recipient)
                or (fault.share < 1.0 and self._draws[stage].random() >= fault.share)
            ):
                continue
            if row.left is not None:
                row.left -= 1
                if row.left == 0:
                    pending.remove(row)
            return fault
        return None

    def __len__(self) -> int:
        now = self._clock.now()
        for stage in STAGES:
            self._forget(stage, now)
        return sum(map(len, self._pending.values()))

    def _forget(self, stage: Stage, now: float) -> None:
        if now < self._next_end[stage]:
            return
        pending = self._pending[stage]
        pending[:] = [row for row in pending if row.ends is None or row.ends > now]
        self._next_end[stage] = min((row.ends for row in pending if row.ends is not None), default=math.inf)


def stage_of(fault: Fault) -> Stage:
    """When a fault is met: while answering, for what becomes of a message, or for a webhook."""
    if fault.kind in OUTCOMES:
        return "outcome"
    return "webhook" if fault.kind in WEBHOOKS else "answer"

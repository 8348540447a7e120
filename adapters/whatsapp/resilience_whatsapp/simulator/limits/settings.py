"""The limits of the API, each in its scope, with its error.

| limit | scope | over it |
|---|---|---|
| `throughput` | number, messages in and out in a second | 130429 |
| `pair_seconds`, `pair_burst` | number and user | 131056 |
| `messaging` | portfolio, different users outside service windows in 24 h | `messaging_code` |
| `marketing` | user, marketing templates in 24 h, whoever sends | accepted, then 131049 by webhook |
| `spam` | number, messages to users who never wrote, in an hour | 131048 for `spam_seconds` |
| `management` | app and account, calls in an hour | 80007 |
| `app`, `app_users` | app, calls but sends in an hour | 4 |
| `token` | token, calls but sends in an hour | 17 |
| `flow` | flow that is throttled, messages in an hour | 132069 |

A limit that is None does not exist. All of them are None unless said otherwise; `Limits.real()` has those of the
documentation, and guesses, marked below, for those that it does not tell.
"""

from __future__ import annotations

import math
from typing import Any

from attrs import evolve, fields, frozen

HOUR = 3600.0


class LimitsError(ValueError):
    """A number that cannot be a limit; the text names it."""


@frozen
class Limits:
    """How much is allowed; None is without limit. Raises `LimitsError` for a number that cannot be a limit."""

    throughput: float | None = None
    """Messages in a second, of a number with level `STANDARD`; `Number.throughput` is for one number alone."""
    throughput_high: float = 1000.0
    """The same with level `HIGH`, where `throughput` is not None."""
    upgrade_seconds: float = 60.0
    """How long an upgrade takes, with error 131057."""
    pair_seconds: float | None = None
    pair_burst: int = 45
    pair_strict: bool = False
    """Whether all that a burst borrowed must be paid back before the next message (`limits.meters.Pairs`)."""
    messaging: int | None = None
    messaging_code: int = 131048
    """The documentation names no code."""
    marketing: int | None = None
    spam: int | None = None
    spam_seconds: float = 4 * HOUR
    management: int | None = None
    """Of an account with a number; one without has 200."""
    app: int | None = None
    """For each user of the app."""
    app_users: int = 100
    token: int | None = None
    flow: int | None = None
    usage_from: float = 25.0
    """Percent of a limit from which on answers have the usage headers."""
    status: int | None = None
    """HTTP status of what is refused: 400, 403 and 429 were all seen. None is the usual one of each code."""
    enforced: bool = True
    """False only counts what is too much, and refuses nothing."""

    def __attrs_post_init__(self) -> None:
        for attribute in fields(Limits):
            value: Any = getattr(self, attribute.name)
            if isinstance(attribute.default, bool):
                if not isinstance(value, bool):
                    raise LimitsError(f"limits.{attribute.name} must be true or false")
            elif value is not None or attribute.default is not None:
                _require_limit(attribute.name, value, whole="int" in str(attribute.type))

    @classmethod
    def none(cls, **changes: Any) -> Limits:
        """No limits but those of `changes`."""
        return cls(**changes)

    @classmethod
    def real(cls, **changes: Any) -> Limits:
        """Those of the API as of 2026-11; what `changes` names is different.

        Guesses, because nothing is published: `marketing=2` and `app_users=100`. `spam` and `token` adapt, or have no
        published number: they are None.
        """
        documented = cls(
            throughput=80.0,
            pair_seconds=6.0,
            messaging=250,
            marketing=2,
            management=5000,
            app=200,
            flow=10,
        )
        return evolve(documented, **changes)


def _require_limit(name: str, value: Any, *, whole: bool) -> None:
    number = isinstance(value, (int, float)) and not isinstance(value, bool) and 0 < value < math.inf
    if not number:
        raise LimitsError(f"limits.{name} must be a number above 0{'' if name in _GIVEN else ', or None for no limit'}")
    if whole and not isinstance(value, int):
        raise LimitsError(f"limits.{name} must be a whole number")
    if name == "status" and not 200 <= value <= 599:
        raise LimitsError("limits.status must be an HTTP status or None")


_GIVEN = frozenset(attribute.name for attribute in fields(Limits) if attribute.default is not None)
"""Those that are never without limit."""

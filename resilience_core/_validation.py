"""Refuse bad options at construction, with the field and the fix in the text.

Each check is an attrs validator. A `bool` is never a number here, and no duration, rate or ratio may be NaN or
infinite.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from datetime import timedelta
from typing import Any, TypeAlias

from attrs import Attribute

from resilience_core._errors import ConfigurationError

Validator: TypeAlias = Callable[[Any, "Attribute[Any]", Any], None]
Seconds: TypeAlias = float | timedelta
"""What every duration option takes: seconds, or a timedelta."""


def to_seconds(value: Seconds) -> float:
    """A timedelta as float seconds; anything else is left for the validator to judge."""
    return value.total_seconds() if isinstance(value, timedelta) else value


def to_optional_seconds(value: Seconds | None) -> float | None:
    """As `to_seconds`, for options that may be None."""
    return None if value is None else to_seconds(value)


def refuse(owner: object, field: str, value: object, expected: str) -> ConfigurationError:
    """The error for one field: who, which field, what was given, what is expected instead."""
    return ConfigurationError(f"{type(owner).__name__}: {field} must be {expected}, not {value!r}")


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """ "; did you mean 'jitter'?" where one of the known names looks like `name`, else nothing."""
    from difflib import get_close_matches  # here, not above: only who made a mistake pays for it

    close = get_close_matches(name, list(known), n=1)
    return f"; did you mean {close[0]!r}?" if close else ""


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _number_check(expected: str, accepts: Callable[[float], bool]) -> Validator:
    def check(owner: Any, attribute: Attribute[Any], value: Any) -> None:
        if not _is_number(value) or not accepts(value):
            raise refuse(owner, attribute.name, value, expected)

    return check


positive_seconds = _number_check("a positive, finite number of seconds", lambda value: value > 0)
non_negative_seconds = _number_check("a finite number of seconds, 0 or more", lambda value: value >= 0)
positive_number = _number_check("a positive, finite number", lambda value: value > 0)
non_negative_number = _number_check("a finite number, 0 or more", lambda value: value >= 0)
multiplier = _number_check("a finite number, 1 or more", lambda value: value >= 1)
ratio = _number_check("a number from 0 to 1", lambda value: 0 <= value <= 1)


def count_from(lowest: int) -> Validator:
    """An `int` (no bool) of at least `lowest`."""

    def check(owner: Any, attribute: Attribute[Any], value: Any) -> None:
        if not isinstance(value, int) or isinstance(value, bool) or value < lowest:
            raise refuse(owner, attribute.name, value, f"a whole number, {lowest} or more")

    return check


def boolean(owner: Any, attribute: Attribute[Any], value: Any) -> None:
    """True or False, nothing that merely looks like it."""
    if not isinstance(value, bool):
        raise refuse(owner, attribute.name, value, "True or False")


def name(owner: Any, attribute: Attribute[Any], value: Any) -> None:
    """A non-empty string; a function here means that the decorator was used without its arguments."""
    kind = type(owner).__name__
    if callable(value):
        raise ConfigurationError(
            f"{kind}: {attribute.name} must be a string, not the function {getattr(value, '__name__', value)!r}; "
            f"@{kind} was used without its arguments: write @{kind}(...)"
        )
    if not isinstance(value, str) or not value:
        raise refuse(owner, attribute.name, value, "a non-empty string")


def function(owner: Any, attribute: Attribute[Any], value: Any) -> None:
    """Anything that can be called."""
    if not callable(value):
        raise refuse(owner, attribute.name, value, "a function")


def on(owner: Any, attribute: Attribute[Any], value: Any) -> None:
    """An exception class, a non-empty tuple of them, or a predicate."""
    classes = value if isinstance(value, tuple) and value else (value,)
    if all(isinstance(cls, type) and issubclass(cls, BaseException) for cls in classes):
        return
    if isinstance(value, (tuple, type)) or not callable(value):
        raise refuse(owner, attribute.name, value, "an exception class, a tuple of them or a predicate")


def instance_of(kind: type, fix: str) -> Validator:
    """An instance of `kind`; `fix` says how to get one."""

    def check(owner: Any, attribute: Attribute[Any], value: Any) -> None:
        if not isinstance(value, kind):
            raise refuse(owner, attribute.name, value, fix)

    return check


def optional(check: Validator) -> Validator:
    """None, or what `check` accepts."""

    def checked(owner: Any, attribute: Attribute[Any], value: Any) -> None:
        if value is not None:
            check(owner, attribute, value)

    return checked


def has(method: str, what: str) -> Validator:
    """An object with a method of that name, for options that take any implementation of a protocol."""

    def check(owner: Any, attribute: Attribute[Any], value: Any) -> None:
        if isinstance(value, type) or not callable(getattr(value, method, None)):
            raise refuse(owner, attribute.name, value, f"{what} (an object with a method {method!r})")

    return check

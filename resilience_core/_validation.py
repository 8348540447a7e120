"""Refuse bad options at construction, with the field and the fix in the text.

Each check is an attrs validator. A `bool` is never a number here, and no duration, rate or ratio may be NaN or
infinite.
"""

from __future__ import annotations

import math
import re
import sys
from collections.abc import Callable, Iterable
from datetime import timedelta
from typing import Any, TypeAlias

from attrs import Attribute

from resilience_core._errors import ConfigurationError

Validator: TypeAlias = Callable[[Any, "Attribute[Any]", Any], None]
Schema: TypeAlias = dict[str, Any]
"""What a check accepts, in the words of JSON Schema; under `schema` on the check, so that both stand in one place."""
Seconds: TypeAlias = float | timedelta
"""What every duration option takes: seconds, or a timedelta."""


def to_seconds(value: Seconds) -> float:
    """A timedelta as float seconds; anything else is left for the validator to judge."""
    return value.total_seconds() if isinstance(value, timedelta) else value


def to_optional_seconds(value: Seconds | None) -> float | None:
    """As `to_seconds`, for options that may be None."""
    return None if value is None else to_seconds(value)


_LONGEST_SHOWN = 60
_SECRETIVE = re.compile(r"(\d\D{0,2}){6}|[A-Za-z0-9+/]{16}")
"""Six digits as in a phone number, or so many characters without a break as in a key."""


def refuse(owner: object, field: str, value: object, expected: str) -> ConfigurationError:
    """The error for one field: who, which field, what was given, what is expected instead."""
    return ConfigurationError(f"{type(owner).__name__}: {field} must be {expected}, not {shown(value)}")


def shown(value: object) -> str:
    """A wrong value as an error tells it; where it may be a token or a phone number in the wrong place, only its size.

    Errors about configurations are logged.
    """
    text = repr(value)
    plain = isinstance(value, (int, float)) or type(value).__module__ == "datetime"
    if plain or (len(text) <= _LONGEST_SHOWN and not _SECRETIVE.search(text)):
        return text
    size = f" of {len(value)}" if isinstance(value, (str, bytes, list, tuple, dict)) else ""
    return f"a {type(value).__name__}{size} that is not shown here"


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """ "; did you mean 'jitter'?" where one of the known names looks like `name`, else nothing."""
    from difflib import get_close_matches  # here, not above: only who made a mistake pays for it

    lowered = {each.lower(): each for each in known}
    close = get_close_matches(name.lower(), lowered, n=1)
    return f"; did you mean {lowered[close[0]]!r}?" if close else ""


def _is_number(value: object) -> bool:
    # Compared, not asked `isfinite`: that raises for a whole number beyond the range of a float.
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) <= sys.float_info.max


def schema_of(check: object) -> Schema:
    """What a check accepts; nothing for one that does not tell."""
    schema: Schema = getattr(check, "schema", {})
    return schema


def _telling(check: Validator, schema: Schema) -> Validator:
    check.schema = schema  # type: ignore[attr-defined] # functions may have attributes of their own
    return check


def _number_check(expected: str, **bounds: float) -> Validator:
    above, lowest = bounds.get("exclusiveMinimum", -math.inf), bounds.get("minimum", -math.inf)
    highest = bounds.get("maximum", math.inf)

    def check(owner: Any, attribute: Attribute[Any], value: Any) -> None:
        if not _is_number(value) or not (above < value and lowest <= value <= highest):
            raise refuse(owner, attribute.name, value, expected)

    return _telling(check, {"type": "number", **bounds})


positive_seconds = _number_check("a positive, finite number of seconds", exclusiveMinimum=0)
non_negative_seconds = _number_check("a finite number of seconds, 0 or more", minimum=0)
positive_number = _number_check("a positive, finite number", exclusiveMinimum=0)
non_negative_number = _number_check("a finite number, 0 or more", minimum=0)
multiplier = _number_check("a finite number, 1 or more", minimum=1)
ratio = _number_check("a number from 0 to 1", minimum=0, maximum=1)


def seconds(what: str, value: Seconds) -> float:
    """A positive duration that is no option of an attrs class; `what` names it in the error."""
    found = to_seconds(value)
    if not _is_number(found) or found <= 0:
        raise ConfigurationError(f"{what} must be a positive, finite number of seconds, not {value!r}")
    return found


def count_from(lowest: int, highest: int | None = None) -> Validator:
    """An `int` (no bool) of at least `lowest`, and at most `highest` where as much memory would be taken at once."""
    expected = f"a whole number, {lowest} or more" if highest is None else f"a whole number from {lowest} to {highest}"
    bounds = {"minimum": lowest} if highest is None else {"minimum": lowest, "maximum": highest}
    most = sys.float_info.max if highest is None else highest  # a count meets floats in sums

    def check(owner: Any, attribute: Attribute[Any], value: Any) -> None:
        if not isinstance(value, int) or isinstance(value, bool) or not lowest <= value <= most:
            raise refuse(owner, attribute.name, value, expected)

    return _telling(check, {"type": "integer", **bounds})


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

    return _telling(checked, schema_of(check))


def has(method: str, what: str) -> Validator:
    """An object with a method of that name, for options that take any implementation of a protocol."""

    def check(owner: Any, attribute: Attribute[Any], value: Any) -> None:
        if isinstance(value, type) or not callable(getattr(value, method, None)):
            raise refuse(owner, attribute.name, value, f"{what} (an object with a method {method!r})")

    return check

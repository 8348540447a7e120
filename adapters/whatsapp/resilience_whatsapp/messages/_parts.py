"""What all parts of a message have in common: they check themselves, become the API's JSON, and can be read from it.

A part is an attrs class. Its fields are named as in the JSON, and the validator of a field also reads it: so a part is
written down once. Nothing of its content is ever in its `repr` or in an error: it may be personal.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Collection, Iterable, Mapping
from functools import cache
from typing import Any, TypeVar

from attrs import NOTHING, Attribute, fields, frozen

from resilience_whatsapp.errors import InvalidMessageError

P = TypeVar("P", bound="Part")


class Part:
    """A part of a message."""

    __slots__ = ()

    def __repr__(self) -> str:
        return f"<{type(self).__name__}>"

    def content(self) -> Any:
        """The API's JSON for it."""
        found = {}
        kind: Any = type(self)
        for name in _names(kind):
            value = getattr(self, name)
            if value is not None and value != ():
                found[name] = plain(value)
        return found

    @classmethod
    def read(cls: type[P], value: Any) -> P:
        """The part that `value` stands for.

        Raises:
            InvalidMessageError: it has a field that this part does not have, lacks one, or one is wrong.
        """
        given = taken(value, cls.__name__, *(attribute.name for attribute in _fields(cls)))
        options: dict[str, Any] = {}
        for attribute in _fields(cls):
            if given[attribute.name] is not None:
                options[attribute.name] = _check_of(attribute).read(given[attribute.name])
            elif attribute.default is NOTHING:
                raise InvalidMessageError(f"{cls.__name__}.{attribute.name} is missing")
        return cls(**options)


def _fields(part: type[Any]) -> tuple[Attribute[Any], ...]:
    return fields(part)  # type: ignore[no-any-return]


@cache  # asked for each part of each message
def _names(part: type[Any]) -> tuple[str, ...]:
    return tuple(attribute.name for attribute in _fields(part))


def _check_of(attribute: Attribute[Any]) -> Check:
    assert isinstance(attribute.validator, Check), "each field of a part that is read has one"
    return attribute.validator


def plain(value: Any) -> Any:
    """A value of a field as JSON."""
    if type(value) is str:
        return value
    if isinstance(value, Part):
        return value.content()
    return [plain(each) for each in value] if isinstance(value, tuple) else value


def taken(value: Any, where: str, *names: str) -> dict[str, Any]:
    """The fields of an object of JSON, None for those that are absent; there may be no others."""
    if not isinstance(value, Mapping):
        raise InvalidMessageError(f"{where} must be an object")
    for name in value:
        if name not in names:
            # Only what looks like a name of the API is shown: other keys may hold anything.
            shown = repr(name) if re.fullmatch("[a-z_]{1,40}", str(name)) else "of another name"
            raise InvalidMessageError(f"{where} has no field {shown}; it has {', '.join(names)}")
    return {name: value.get(name) for name in names}


def as_tuple(values: Any) -> tuple[Any, ...]:
    """For fields with several values; one that is not iterable is left to the validator."""
    if type(values) is list or type(values) is tuple:  # nearly always; to ask for `Iterable` takes longer
        return tuple(values)
    return tuple(values) if isinstance(values, Iterable) and not isinstance(values, str) else (values,)


def refuse(instance: Any, attribute: Attribute[Any], trouble: str) -> InvalidMessageError:
    """The error for a field."""
    return InvalidMessageError(f"{type(instance).__name__}.{attribute.name} {trouble}")


class Check:
    """A validator that also reads the field's JSON. None is good wherever it is the default."""

    def __call__(self, instance: Any, attribute: Attribute[Any], value: Any) -> None:
        if value is None and attribute.default is None:
            return
        trouble = self.trouble(value)
        if trouble is not None:
            raise refuse(instance, attribute, trouble)

    def trouble(self, value: Any) -> str | None:
        """What is wrong with it, as the end of a sentence that begins with the field."""
        raise NotImplementedError

    def read(self, value: Any) -> Any:
        """What the field is given for this JSON."""
        return value


@frozen
class Words(Check):
    """A text of `least` to `most` characters; its form, where it has one, is told in `form`."""

    most: int
    least: int = 1
    pattern: str | None = None
    form: str = ""

    def trouble(self, value: Any) -> str | None:
        """See `Check`."""
        if not isinstance(value, str):
            return "must be a text"
        if not self.least <= len(value) <= self.most:
            return f"must have {self.least} to {self.most} characters, not {len(value)}"
        if self.least and not value.strip():
            return "must not be blank"
        if self.pattern is not None and not re.fullmatch(self.pattern, value):
            return f"must be {self.form}"
        return None


LINK = Words(2048, pattern=r"https?://[^\s/]\S*", form="a link that begins with https:// or http://")
WAMID = Words(512, pattern=r"\S+", form="the id of a message, without blanks")


@frozen
class Number(Check):
    """A number from `least` to `most`."""

    least: float
    most: float
    whole: bool = False

    def trouble(self, value: Any) -> str | None:
        """See `Check`."""
        kinds = (int,) if self.whole else (int, float)
        if isinstance(value, bool) or not isinstance(value, kinds) or not self.least <= value <= self.most:
            return f"must be a {'whole ' if self.whole else ''}number from {self.least:g} to {self.most:g}"
        return None


class Flag(Check):
    """True or false."""

    def trouble(self, value: Any) -> str | None:
        """See `Check`."""
        return None if isinstance(value, bool) else "must be True or False"


class Data(Check):
    """An object of JSON of the caller's own."""

    def trouble(self, value: Any) -> str | None:
        """See `Check`."""
        try:
            good = isinstance(value, Mapping) and bool(json.dumps(dict(value), allow_nan=False))
        except (TypeError, ValueError, RecursionError):
            good = False
        return None if good else "must be a mapping that can be written as JSON"


@frozen
class OneOf(Check):
    """One of some words."""

    words: Collection[str]

    def trouble(self, value: Any) -> str | None:
        """See `Check`."""
        return None if isinstance(value, str) and value in self.words else f"must be one of {', '.join(self.words)}"


@frozen
class One(Check):
    """One part of these kinds; `reader` reads it where there are several kinds."""

    kinds: tuple[type[Part], ...]
    reader: Callable[[Any], Any] | None = None

    def trouble(self, value: Any) -> str | None:
        """See `Check`."""
        return (
            None if isinstance(value, self.kinds) else f"must be a {' or '.join(kind.__name__ for kind in self.kinds)}"
        )

    def read(self, value: Any) -> Any:
        """See `Check`."""
        return (self.reader or self.kinds[0].read)(value)


@frozen
class Many(Check):
    """`least` to `most` parts of these kinds, in a tuple."""

    kinds: tuple[type[Part], ...]
    least: int
    most: int
    reader: Callable[[Any], Any] | None = None

    def trouble(self, value: Any) -> str | None:
        """See `Check`."""
        for each in value:
            if not isinstance(each, self.kinds):
                return f"must hold only {' or '.join(kind.__name__ for kind in self.kinds)}"
        if not self.least <= len(value) <= self.most:
            return f"must hold {self.least} to {self.most}, not {len(value)}"
        return None

    def read(self, value: Any) -> Any:
        """See `Check`."""
        reader = self.reader or self.kinds[0].read
        return [reader(each) for each in value] if isinstance(value, list) else (value,)


def all_different(instance: Any, field_name: str, values: Iterable[Any], what: str) -> None:
    """Refuse a field in which something stands twice."""
    listed = list(values)
    if len(set(listed)) != len(listed):
        raise InvalidMessageError(f"{type(instance).__name__}.{field_name}: each {what} must be there once only")

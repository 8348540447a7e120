"""Configurations made at random from the options of the classes: every kind of value that an option can have."""

from __future__ import annotations

from typing import Any, get_args, get_origin

import attrs
from hypothesis import strategies as st

from resilience_core._machines.trip_rules import TripRule
from resilience_core._policies.retry_budget import RetryBudget
from resilience_core._validation import schema_of
from resilience_core.config._classes import SECTIONS, Option, options_of

TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
NAMES = TEXTS.filter(bool)
BUDGET = "shared"

PLAIN = st.recursive(
    st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False) | TEXTS | st.dates() | st.datetimes(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=5,
)
"""What TOML can express, without a nan: that is not even equal to itself."""


def _numbers(option: Option) -> st.SearchStrategy[Any]:
    told = schema_of(option.attribute.validator)
    lowest = told.get("minimum", told.get("exclusiveMinimum", 0))
    highest = told.get("maximum", 1 if option.name == "rate" and not told else 1000)
    if option.type is int:
        return st.integers(max(lowest, 1), highest)
    numbers = st.floats(lowest, highest, exclude_min="exclusiveMinimum" in told)
    return numbers | st.integers(1, highest) if highest > 1 else numbers


def value(option: Option) -> st.SearchStrategy[Any]:
    """A strategy for good values of an option, as far as its own range goes."""
    kind = option.type
    if option.duration:
        texts = st.builds("{}{}".format, st.integers(1, 500), st.sampled_from(["ms", "s", " m"]))
        return _numbers(option) | texts
    if kind in (int, float):
        return _numbers(option)
    if kind is bool:
        return st.booleans()
    if kind is Any:
        return PLAIN
    if kind is RetryBudget:
        return st.just(BUDGET)
    if option.classes:
        tables = st.one_of(*(table(cls, named=True) for cls in option.classes))
        return tables | st.lists(tables, min_size=1, max_size=3) if kind is TripRule else tables
    if get_origin(kind) is tuple:
        member = get_args(kind)[0]
        if isinstance(member, type) and attrs.has(member):
            return st.lists(table(member), max_size=3)
        return st.lists(st.tuples(st.integers(0, 9), st.integers(10, 20)).map(list), max_size=3)
    return TEXTS if not get_args(kind) else st.sampled_from(get_args(kind))


def table(cls: type[Any], *, named: bool = False) -> st.SearchStrategy[dict[str, Any]]:
    """A strategy for tables that make an object of the class, if their options go together."""
    options = options_of(cls).values()
    needed = {option.name: value(option) for option in options if option.default is attrs.NOTHING}
    others = {option.name: value(option) for option in options if option.default is not attrs.NOTHING}
    if named:
        needed["type"] = st.just(cls.__name__)
    return st.fixed_dictionaries(needed, optional=others)


SECTION = {section: table(cls) for section, cls in SECTIONS.items()}
BUDGETS = st.fixed_dictionaries({BUDGET: table(RetryBudget)})

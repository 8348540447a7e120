"""From plain data to the values of options: cattrs takes the tables apart, the classes' own validators judge.

Wrong types are never made right: a text is no number in a file. Only what comes from environment variables is text by
nature, and read as what the option is.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any, Literal, TypeAlias, get_args, get_origin

import attrs
from cattrs import (
    ClassValidationError,
    Converter,
    ForbiddenExtraKeysError,
    IterableValidationError,
    IterableValidationNote,
)
from cattrs.gen import make_dict_structure_fn, override

from resilience_core._errors import ConfigurationError
from resilience_core._machines.trip_rules import AnyOf, TripRule
from resilience_core._policies.retry_budget import RetryBudget
from resilience_core._validation import did_you_mean, shown
from resilience_core.config._classes import Option, from_code, options_of
from resilience_core.config._problems import Problem

Path_: TypeAlias = tuple[str, ...]
UNSET: Any = object()
"""The value of an option that nobody set."""


class EnvironmentText(str):
    """The value of an environment variable: text that stands for whatever the option is."""

    __slots__ = ()


LARGEST = 2**63 - 1
"""The largest integer that TOML knows."""


def too_long(value: object) -> bool:
    """Whether it is an integer that TOML does not know; one of thousands of digits could not even be told."""
    return isinstance(value, int) and not -LARGEST - 1 <= value <= LARGEST


UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0}
_DURATION = re.compile(rf"(\d+(?:\.\d+)?)\s*({'|'.join(UNITS)})", re.ASCII)


def seconds_in(text: str) -> float | None:
    """The seconds that a text such as "250ms", "1.5s", "2m", "24h" or "1d" stands for; None for any other text."""
    match = _DURATION.fullmatch(text.strip())
    return None if match is None else float(match[1]) * UNITS[match[2]]


def _from_text(option: Option, text: EnvironmentText) -> Any:
    """What the text of an environment variable stands for; the text itself where it stands for nothing."""
    if option.optional and text.lower() in ("none", "null"):
        return None
    if option.type in (str, Path) or option.type is RetryBudget or option.duration:
        return _number(text) if option.duration and seconds_in(text) is None else str(text)
    if option.type in (int, float):
        return _number(text)
    try:
        return json.loads(text.lower() if option.type is bool else text)
    except (ValueError, RecursionError):
        return str(text)


def _number(text: str) -> Any:
    for kind in (int, float):
        try:
            return kind(text) if re.fullmatch(r"[-+0-9.eE]+", text, re.ASCII) else str(text)
        except ValueError:
            continue
    return str(text)


def value_of(cls: type[Any], option: Option, raw: Any) -> Any:
    """The value of one option of `cls`, checked.

    Raises:
        ConfigurationError: the option's own validator refuses it; an exception group of cattrs for nested values.
    """
    if isinstance(raw, EnvironmentText):
        raw = _from_text(option, raw)
    value = _shaped(option, raw)
    attribute = option.attribute
    convert: Any = attribute.converter
    if convert is not None:
        try:
            value = convert(value)
        except (TypeError, ValueError, AttributeError):
            raise ConfigurationError(f"must be {_expected(option)}, not {shown(raw)}") from None
    if attribute.validator is not None and option.type is not RetryBudget:
        owner = object.__new__(cls)  # the validators ask for nothing but its class
        attribute.validator(owner, attribute, value)
    return value


def _shaped(option: Option, raw: Any) -> Any:
    """`raw` as an object of the option's classes, where it has some."""
    if raw is None:
        return raw
    if too_long(raw):
        raise ConfigurationError(f"is a number of more than 64 bits, and can be at most {LARGEST}")
    if option.duration and isinstance(raw, str):
        seconds = seconds_in(raw)
        if seconds is None:
            raise ConfigurationError(
                f'must be seconds, or a text with a unit such as "250ms" or "2m", not {shown(raw)}'
            )
        return seconds
    if option.type is RetryBudget and not isinstance(raw, str):
        raise ConfigurationError(f"must be the name of a table in [budgets], not {shown(raw)}")
    if get_origin(option.type) is Literal and raw not in get_args(option.type):
        known = [str(name) for name in get_args(option.type)]
        raise ConfigurationError(f"must be one of {', '.join(known)}, not {shown(raw)}{did_you_mean(str(raw), known)}")
    if option.type is TripRule and isinstance(raw, list):
        if not raw:
            raise ConfigurationError("must have at least one rule, not []")
        return AnyOf(_each(raw, lambda each: _member(option.classes, each)))
    if get_origin(option.type) is tuple:
        return _sequence(option, raw)
    return _member(option.classes, raw) if option.classes else raw


def _sequence(option: Option, raw: Any) -> Any:
    """A list of tables as objects, a list of lists as tuples."""
    if not isinstance(raw, list):
        raise ConfigurationError(f"must be a list, not {shown(raw)}")
    member = get_args(option.type)[0]
    if isinstance(member, type) and attrs.has(member):
        return _each(raw, lambda each: _member((member,), each))
    return tuple(tuple(each) if isinstance(each, list) else each for each in raw)


def _each(raw: list[Any], make: Callable[[Any], Any]) -> tuple[Any, ...]:
    """What `make` makes of each; all errors at once, with their places, as cattrs tells them."""
    made: list[Any] = []
    errors: list[Exception] = []
    for index, each in enumerate(raw):
        try:
            made.append(make(each))
        except (ConfigurationError, ClassValidationError) as error:
            error.add_note(IterableValidationNote(f"item {index}", index, list))
            errors.append(error)
    if errors:
        raise IterableValidationError("items", errors, list)  # pyright: ignore[reportCallIssue] # its __new__ is an ExceptionGroup's
    return tuple(made)


def _member(classes: tuple[type[Any], ...], raw: Any) -> Any:
    """A table as an object of one of the classes, which `type` names where there are several."""
    names = {cls.__name__: cls for cls in classes}
    if not isinstance(raw, Mapping):
        raise ConfigurationError(f"must be a table{_with_type(names)}, not {shown(raw)}")
    content = dict(raw)
    kind = content.pop("type", classes[0].__name__ if len(classes) == 1 else None)
    if not isinstance(kind, str) or kind not in names:
        given = "type is missing" if kind is None else f"type {kind!r} is unknown"
        known = f"one of {', '.join(names)}" if len(names) > 1 else f"{classes[0].__name__}, or left out"
        raise ConfigurationError(f"{given}; it must be {known}{did_you_mean(str(kind), names)}")
    return converter().structure(content, names[kind])


def _with_type(names: Mapping[str, Any]) -> str:
    return f" with type = one of {', '.join(names)}" if len(names) > 1 else ""


def _expected(option: Option) -> str:
    return "a path" if option.type is Path else "a number of seconds"


# --- cattrs --------------------------------------------------------------------------------------------------------


@cache
def converter() -> Any:
    """Structures tables into the classes of options and values: every error at once, no unknown keys."""
    made = Converter(detailed_validation=True, forbid_extra_keys=True)
    made.register_structure_hook_factory(attrs.has, lambda cls: _structurer(cls, made))
    return made


def _structurer(cls: type[Any], made: Converter) -> Callable[[Mapping[str, Any], Any], Any]:
    owner = _OWNERS.get(cls, cls)
    hooks: dict[str, Any] = {
        option.attribute.name: override(struct_hook=_hook(owner, option), rename=option.name)
        for option in options_of(owner).values()
    }
    return make_dict_structure_fn(cls, made, _cattrs_forbid_extra_keys=True, **hooks)


def _hook(owner: type[Any], option: Option) -> Callable[[Any, Any], Any]:
    return lambda raw, _: value_of(owner, option, raw)


_OWNERS: dict[type[Any], type[Any]] = {}
"""The policy whose options a generated class holds."""


def options_class(policy: type[Any]) -> type[Any]:
    """A class with the options of a policy, all of them unset by default: a policy itself would begin its state."""
    made = _CLASSES.get(policy)
    if made is None:
        names = [option.attribute.name for option in options_of(policy).values()]
        fields = {name: attrs.field(default=UNSET, kw_only=True) for name in names}
        made = _CLASSES[policy] = attrs.make_class(f"{policy.__name__}Options", fields, frozen=True)
        _OWNERS[made] = policy
    return made


_CLASSES: dict[type[Any], type[Any]] = {}


def section_options(policy: type[Any], content: Mapping[str, Any], path: Path_) -> tuple[dict[str, Any], list[Problem]]:
    """The options that a table sets, and what is wrong with it."""
    try:
        structured = converter().structure(content, options_class(policy))
    except (ClassValidationError, ConfigurationError) as error:
        return {}, list(problems_of(error, path, policy))
    values = {option.name: getattr(structured, option.attribute.name) for option in options_of(policy).values()}
    return {name: value for name, value in values.items() if value is not UNSET}, []


def problems_of(error: BaseException, path: Path_, cls: type[Any] | None = None) -> Iterator[Problem]:
    """What cattrs or a validator has found, as problems in their places."""
    if isinstance(error, (ClassValidationError, IterableValidationError)):
        noted, plain = error.group_exceptions()
        owner = _OWNERS.get(error.cl, error.cl) if isinstance(error, ClassValidationError) else None
        for each, note in noted:
            if isinstance(note, IterableValidationNote):
                yield from problems_of(each, (*path[:-1], f"{path[-1]}[{note.index}]"), owner)
            else:
                yield from problems_of(each, (*path, _option_name(owner, note.name)), owner)
        for each in plain:
            yield from problems_of(each, path, owner)
    elif isinstance(error, ForbiddenExtraKeysError):
        owner = _OWNERS.get(error.cl, error.cl)
        for key in sorted(map(str, error.extra_fields)):
            yield unknown_option(owner, key, path)
    elif isinstance(error, KeyError):
        yield Problem(".".join(path), "is missing", "Set it: it has no default")
    else:
        yield Problem(".".join(path), _without_owner(str(error), cls, path[-1] if path else ""))


def _option_name(owner: type[Any] | None, attribute: str) -> str:
    assert owner is not None  # only classes have attributes
    return next((option.name for option in options_of(owner).values() if option.attribute.name == attribute), attribute)


def unknown_option(owner: Any, key: str, path: Path_) -> Problem:
    """The problem of an option that does not exist, or that a configuration cannot set."""
    where = ".".join((*path, key))
    known = sorted(options_of(owner))
    fields = {attribute.alias for attribute in attrs.fields(owner) if attribute.init}
    if key == "name" and key in fields:
        return Problem(where, "is not configured", "It is the name of the stack")
    if key in from_code(owner) or (key in ("clock", "chance") and key in fields):
        fix = f'Pass it to build(..., code={{"{path[-1]}": {{"{key}": ...}}}})'
        return Problem(where, "is a function or an object, which comes from code", fix)
    possible = f"It has {', '.join(known)}" if known else "It has no options that a configuration can set"
    return Problem(where, f"unknown option{did_you_mean(key, known)}", possible)


def _without_owner(text: str, cls: type[Any] | None, name: str) -> str:
    """A validator's text without the class and the option that stand in the path already."""
    if cls is not None:
        text = text.removeprefix(f"{cls.__name__}: ")
    text = text.removeprefix(f"{name} ").replace("must be True or False", "must be true or false")
    return re.sub(r", not (True|False)$", lambda found: found[0].lower(), text)  # as a file has them

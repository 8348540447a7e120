"""What is in force, as TOML that can be loaded again, each value with who set it."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from datetime import date, datetime, time
from pathlib import Path
from typing import Any

import attrs

from resilience_core._machines.trip_rules import AnyOf
from resilience_core._policies.retry_budget import RetryBudget
from resilience_core.config._classes import SECTIONS, options_of
from resilience_core.config._configuration import Configuration, Stack

_TIMES = (date, datetime, time)
_ALIGNED = 60
"""Characters up to which lines count for the place of the comments; a table on one line does not push all others."""


def show(configuration: Configuration) -> str:
    """What is in force: every option that a configuration can set, the defaults included, each with who set it."""
    lines: list[str] = []
    for name, options in configuration.budgets.items():
        origins = {option: _origin(configuration, ("budgets", name, option)) for option in options}
        lines += [f"[budgets.{_key(name)}]", *_options(RetryBudget, options, origins), ""]
    for stack in configuration.stacks.values():
        lines += _stack(stack)
    return "\n".join(lines)


def _origin(configuration: Configuration, path: tuple[str, ...]) -> str:
    return configuration.origins.get(path, "built-in stack")


def effective(stack: Stack) -> dict[str, dict[str, Any]]:
    """The value of every option of every section, the defaults included."""
    return {section: effective_options(SECTIONS[section], options) for section, options in stack.sections.items()}


def effective_options(cls: type[Any], options: Mapping[str, Any]) -> dict[str, Any]:
    """The value of every option of a policy, the defaults included; those that code must give are left out."""
    every = {
        option.name: options.get(option.name, option.default)
        for option in options_of(cls).values()
        if option.name in options or option.type is not RetryBudget
    }
    return {name: value for name, value in every.items() if value is not attrs.NOTHING and _plain(value)}


def _plain(value: Any) -> bool:
    """Whether it is a value that a configuration can have written, and not a placeholder for "not given"."""
    return (
        value is None
        or isinstance(value, (bool, int, float, str, Path, Mapping, list, tuple, *_TIMES))
        or attrs.has(type(value))
    )


def _stack(stack: Stack) -> Iterator[str]:
    head = f"policies.{_key(stack.name)}"
    own = {"idempotent": stack.idempotent, "allow": stack.allow or None}
    told = [f"{name} = {_toml(value)}" for name, value in own.items() if value is not None]
    if told:
        yield from (f"[{head}]", *told, "")
    for section, options in stack.sections.items():
        yield f"[{head}.{section}]"
        origins = {option: stack.origins.get((section, option), "") for option in options}
        yield from _options(SECTIONS[section], options, origins)
        yield ""


def _options(cls: type[Any], options: Mapping[str, Any], origins: Mapping[str, str]) -> Iterator[str]:
    lines = []
    for name, value in effective_options(cls, options).items():
        if value is not None:  # TOML has no word for it, and leaving the option out says the same
            lines.append((f"{name} = {_toml(value)}", origins.get(name) or "default"))
    width = max((len(line) for line, _ in lines if len(line) <= _ALIGNED), default=0)
    for line, origin in lines:
        yield f"{line:<{width}}  # {origin}"


def _key(name: str) -> str:
    return name if re.fullmatch(r"[A-Za-z0-9_-]+", name) else _quoted(name)


def _quoted(text: str) -> str:
    """A TOML string: as in JSON, but DEL is a control character, and there are no surrogates."""
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")


def _toml(value: Any) -> str:
    """A value in TOML; tables on one line."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (int, float)):
        return repr(value)
    if isinstance(value, AnyOf):
        return _toml(value.rules)
    if attrs.has(type(value)):
        fields = {name: getattr(value, option.attribute.name) for name, option in options_of(type(value)).items()}
        return _toml({"type": type(value).__name__, **fields})
    if isinstance(value, Mapping):
        pairs = [f"{_key(str(name))} = {_toml(each)}" for name, each in value.items() if each is not None]
        return "{ " + ", ".join(pairs) + " }" if pairs else "{}"
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(_toml(each) for each in value)}]"
    return value.isoformat() if isinstance(value, _TIMES) else _quoted(str(value))

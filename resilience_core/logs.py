"""What this framework logs, and at which level: see docs/logs.md."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import TypeAlias

from resilience_core._errors import ConfigurationError
from resilience_core._event_log import LINES as _LINES
from resilience_core._event_log import Level, Line, use_levels
from resilience_core._event_records import EventRecord
from resilience_core._validation import did_you_mean

__all__ = ["LINES", "EventRecord", "GivenLevel", "Line", "set_levels"]

LINES: Mapping[str, Line] = MappingProxyType(_LINES)
"""Every kind of line by the value of its `event.name`: where it goes, and at which level."""

GivenLevel: TypeAlias = int | str | Callable[[EventRecord], int | None] | None
"""A level's number or name; a function that chooses one for each record; None for a line that is not to be written."""


def set_levels(levels: Mapping[str, GivenLevel]) -> None:
    """Log the lines of these names at other levels, and all others as usual; `set_levels({})` ends that.

    Args:
        levels: by the value of `event.name`, such as `"resilience.retry.scheduled"`. A function gets the record (name,
            usual level, text, attributes) and answers a level, or None for a line that is not to be written; it is
            called in the caller's thread or task. Where it raises, the usual level stays. With a function, the event is
            made even if it is not logged in the end.

    Raises:
        ConfigurationError: a name or a level that there is not; nothing has changed then.
    """
    use_levels({_name(name): _level(name, level) for name, level in levels.items()})


def _name(name: str) -> str:
    if name not in _LINES:
        hint = did_you_mean(str(name), _LINES) or "; resilience_core.logs.LINES has all of them"
        raise ConfigurationError(f"set_levels: nothing that is logged is called {name!r}{hint}")
    return name


def _level(name: str, level: GivenLevel) -> Level:
    known = logging.getLevelNamesMapping()
    if isinstance(level, str) and level in known:
        return known[level]
    if level is None or callable(level) or (isinstance(level, int) and not isinstance(level, bool) and level > 0):
        return level
    names = ", ".join(each for each in known if each != "NOTSET")
    raise ConfigurationError(
        f"set_levels: the level of {name!r} must be a positive number, one of {names}, a function or None, "
        f"not {level!r}"
    )

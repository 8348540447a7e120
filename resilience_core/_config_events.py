"""What a watched configuration file tells; apart from the other events, because few programs watch one."""

from __future__ import annotations

import logging
from typing import ClassVar

from attrs import frozen

from resilience_core._events import Event

_CONFIG = logging.getLogger("resilience_core.config")


@frozen
class ConfigurationReloaded(Event):
    """A configuration file has changed and was applied; `policy` names the file."""

    logger: ClassVar[logging.Logger] = _CONFIG
    level: ClassVar[int] = logging.INFO

    changed: tuple[str, ...]
    """Names of what got other options."""


@frozen
class ConfigurationRefused(Event):
    """A configuration file has changed to something that cannot be; nothing was applied. `policy` names the file."""

    logger: ClassVar[logging.Logger] = _CONFIG
    level: ClassVar[int] = logging.ERROR

    problems: tuple[str, ...]

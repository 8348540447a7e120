"""How important the code is that runs now: five classes, carried by a context variable."""

from __future__ import annotations

from contextvars import ContextVar, Token
from enum import IntEnum
from types import TracebackType
from typing import Any

from resilience_core._errors import ConfigurationError


class Priority(IntEnum):
    """Classes of requests; under overload the last one is shed first."""

    CRITICAL = 0
    HIGH = 1
    NORMAL = 2
    LOW = 3
    BACKGROUND = 4


PRIORITY: ContextVar[Priority] = ContextVar("resilience_priority", default=Priority.NORMAL)


def current_priority(*args: Any, **kwargs: Any) -> Priority:
    """The class of the code that runs now; takes any arguments, so that it can be a policy's `priority=` itself."""
    return PRIORITY.get()


class prioritised:  # noqa: N801 - used like a function: `with prioritised(Priority.LOW):`
    """`with prioritised(Priority.LOW):` sets the class of the code inside. The object can be used once at a time."""

    __slots__ = ("_priority", "_token")

    def __init__(self, priority: Priority) -> None:
        if not isinstance(priority, Priority):
            raise ConfigurationError(f"prioritised: priority must be a Priority, not {priority!r}")
        self._priority = priority
        self._token: Token[Priority] | None = None

    def __enter__(self) -> None:
        self._token = PRIORITY.set(self._priority)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._token is not None:
            PRIORITY.reset(self._token)
            self._token = None

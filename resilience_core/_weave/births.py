"""Notices stateful policies that are made anew for each call: such a one knows nothing of the calls before.

Remembered are weak references by the line of the user's code that made them, for one line at most as many as it takes
to tell. Those made for calls that are over may still be there until the garbage collector comes: what tells is that few
of all are left, not how many. What a `Keyed` factory makes, and what is made on trial, is meant to be many.
"""

from __future__ import annotations

import sys
import threading
import warnings
from collections.abc import Generator
from contextlib import contextmanager
from contextvars import ContextVar
from types import FrameType
from typing import Any
from weakref import ref

from resilience_core._fork import renewed_after_fork
from resilience_core.registry import trying

ENOUGH = 100
"""A line is judged when it has made so many."""
FEW = 0.1
"""The share that is left of policies made for each call."""
MANY = 80
"""So many are left only if somebody keeps them."""
_LINES = 1_000  # of the user's code that are watched at most

_PACKAGE = __file__.rpartition("_weave")[0]  # with its slash; importing pathlib for that would take 5 ms
_EXPECTED: ContextVar[bool] = ContextVar("resilience_many_policies", default=False)
_made: dict[tuple[str, int], _Line | None] = {}  # None once it was told
_lock = renewed_after_fork(threading.Lock())


class CompositionWarning(UserWarning):
    """Policies that are put together in a way that harms; `docs/lint.md` has each case and its cure."""


class PolicyPerCallWarning(CompositionWarning):
    """One line of code makes a stateful policy for each call."""


class _Line:
    """What a line has made: how many, and those that were left at the last look."""

    __slots__ = ("refs", "total")

    def __init__(self) -> None:
        self.refs: list[ref[Any]] = []
        self.total = 0


@contextmanager
def expected() -> Generator[None, None, None]:
    """Many policies may be made inside."""
    token = _EXPECTED.set(True)
    try:
        yield
    finally:
        _EXPECTED.reset(token)


def users_frame() -> tuple[FrameType, int]:
    """The nearest frame outside of this package (and of the methods that attrs made), and its stack level."""
    frame, level = sys._getframe(1), 1
    while frame.f_code.co_filename.startswith((_PACKAGE, "<attrs generated")) and frame.f_back is not None:
        frame, level = frame.f_back, level + 1
    return frame, level


def note(policy: Any) -> None:
    """A stateful policy was made."""
    if _EXPECTED.get() or trying():
        return
    frame, level = users_frame()
    line = (frame.f_code.co_filename, frame.f_lineno)
    with _lock:
        made = _made.get(line)
        if made is None:
            if line in _made or len(_made) >= _LINES:
                return
            made = _made[line] = _Line()
        made.refs.append(ref(policy))
        made.total += 1
        if len(made.refs) < ENOUGH:
            return
        made.refs = [each for each in made.refs if each() is not None]
        left, total = len(made.refs), made.total
        told = left <= FEW * total
        if told:
            _made[line] = None
        elif left > MANY:
            made.refs, made.total = [], 0
    if told:
        warnings.warn(
            PolicyPerCallWarning(
                f"policy-per-call: this line has made {total} policies like the {policy.kind.replace('_', ' ')} "
                f"{policy.name!r}, of which {left} are left: a policy that is made for each call knows nothing "
                "of the calls before. Make it once, at import, and use it for all of them; one for each key is what "
                "Keyed is for. See docs/lint.md#policy-per-call"
            ),
            stacklevel=level,
        )

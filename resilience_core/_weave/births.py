"""Notices stateful policies that are made anew for each call: such a one knows nothing of the calls before.

Remembered are weak references by the line of the user's code that made them, for one line at most as many as it takes
to tell. What a `Keyed` factory makes, and what is made on trial, is meant to be many.
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

ENOUGH, FEW = 100, 10
"""So many made by one line, of which so few are still there, are one per call."""
_LINES = 1_000  # of the user's code that are watched at most

_PACKAGE = __file__.rpartition("_weave")[0]  # with its slash; importing pathlib for that would take 5 ms
_EXPECTED: ContextVar[bool] = ContextVar("resilience_many_policies", default=False)
_made: dict[tuple[str, int], list[ref[Any]] | None] = {}  # None once it was told
_lock = renewed_after_fork(threading.Lock())


class CompositionWarning(UserWarning):
    """Policies that are put together in a way that harms; `docs/lint.md` has each case and its cure."""


class PolicyPerCallWarning(CompositionWarning):
    """One line of code makes a stateful policy for each call."""


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
            made = _made[line] = []
        made.append(ref(policy))
        if len(made) < ENOUGH:
            return
        alive = [each for each in made if each() is not None]
        told = len(alive) <= FEW
        _made[line] = None if told else alive[-FEW:]
    if told:
        warnings.warn(
            PolicyPerCallWarning(
                f"policy-per-call: this line has made {ENOUGH} policies like the {policy.kind.replace('_', ' ')} "
                f"{policy.name!r}, of which {len(alive)} are left: a policy that is made for each call knows nothing "
                "of the calls before. Make it once, at import, and use it for all of them; one for each key is what "
                "Keyed is for. See docs/lint.md#policy-per-call"
            ),
            stacklevel=level,
        )

"""What tests cost: how much the long ones do, and which of their processes are watched by coverage."""

from __future__ import annotations

import os
import sys
from collections.abc import Generator
from contextlib import contextmanager

LONG = bool(os.environ.get("PROVE_LONG"))
"""Whether everything is done in full: `make prove-long`."""


def size(full: int, usual: int) -> int:
    """How often a long test repeats what it does: in full, or as often as `make check` has time for."""
    return full if LONG else usual


def unmeasured() -> dict[str, str]:
    """The environment of a process that coverage leaves alone, because all that it runs is measured elsewhere."""
    return {name: value for name, value in os.environ.items() if not name.startswith("COVERAGE_PROCESS_")}


@contextmanager
def untraced() -> Generator[None]:
    """What is done in it by this thread, coverage does not see: long repetitions of what is measured elsewhere.

    A decorator, too. Threads that are started in it are measured as ever.
    """
    trace = sys.gettrace()
    sys.settrace(None)
    try:
        yield
    finally:
        sys.settrace(trace)

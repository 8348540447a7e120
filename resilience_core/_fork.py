"""Locks across a fork: whoever held one of them is not in the child, where it would stay held for ever."""

from __future__ import annotations

import os
from typing import Any, TypeVar
from weakref import WeakSet

L = TypeVar("L")
_locks: WeakSet[Any] = WeakSet()


def renewed_after_fork(lock: L) -> L:
    """A lock of `threading` that is free in the child of a fork, whoever holds it in the parent then."""
    _locks.add(lock)
    return lock


def _renew() -> None:
    for lock in _locks:
        lock._at_fork_reinit()  # what the standard library does with locks of its own


os.register_at_fork(after_in_child=_renew)

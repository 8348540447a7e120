"""Forks: locks that are free in the child, and threads of ours that hold none of the user's while a process forks.

A lock that a thread holds while the process forks is held for ever in the child, where that thread is not. Locks of
our own are renewed there. Those of listeners, handlers of the log, stores and policies are not ours to renew; so the
threads that we start (a fleet's agent, the admin socket) and those that ask us (the reader of a meter) use them where
no fork happens. A program may fork without a thought of that, because it has one thread as far as it knows: at the
begin of an outage, when all agents log, one fork in two left the child a log that nobody could write to.
"""

from __future__ import annotations

# First: who is registered last is asked first before a fork, and must not hold the locks of the log.
import logging  # noqa: F401  # pyright: ignore[reportUnusedImport]
import os
import threading
from typing import Any, TypeVar
from weakref import WeakSet

L = TypeVar("L")
_locks: WeakSet[Any] = WeakSet()


def renewed_after_fork(lock: L) -> L:
    """A lock of `threading` that is free in the child of a fork, whoever holds it in the parent then."""
    _locks.add(lock)
    return lock


def renew(lock: Any) -> None:
    """In the child of a fork: the lock is free, whoever held it in the parent."""
    lock._at_fork_reinit()  # what the standard library does with locks of its own


def _renew() -> None:
    for lock in _locks:
        renew(lock)


os.register_at_fork(after_in_child=_renew)


# --- threads of ours -------------------------------------------------------------------------------------------------

LONGEST = 1.0
"""Seconds that a fork waits at most: a listener that hangs must not hold it up for ever."""


class NoForks:
    """`with no_forks:` the process does not fork, unless that takes too long. Any number of threads at a time."""

    def __init__(self) -> None:
        self._renew()
        os.register_at_fork(before=self._before, after_in_parent=self._in_parent, after_in_child=self._renew)

    def _renew(self) -> None:
        self._changed = threading.Condition()
        self._inside: list[int] = []  # numbers of threads
        self._forking = 0  # threads that do it now

    def __enter__(self) -> None:
        me = threading.get_ident()
        with self._changed:
            if me not in self._inside:  # else whoever forks waits for it
                self._changed.wait_for(lambda: not self._forking, LONGEST)
            self._inside.append(me)

    def __exit__(self, *_: Any) -> None:
        me = threading.get_ident()
        with self._changed:
            if me in self._inside:  # it is not in the child of a fork that was made inside
                self._inside.remove(me)
            self._changed.notify_all()

    def _before(self) -> None:
        me = threading.get_ident()
        with self._changed:
            self._forking += 1
            self._changed.wait_for(lambda: all(thread == me for thread in self._inside), LONGEST)

    def _in_parent(self) -> None:
        with self._changed:
            self._forking -= 1
            self._changed.notify_all()


no_forks = NoForks()

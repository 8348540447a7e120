"""Locks in the child of a fork. Real forks are in `tests/config/test_reload.py`; here is what runs in the child."""

from __future__ import annotations

import threading

from resilience_core import _fork


def test_a_lock_that_is_held_is_free_in_the_child_and_one_that_nobody_keeps_is_forgotten() -> None:
    before = len(_fork._locks)
    kept, forgotten = (_fork.renewed_after_fork(threading.Lock()) for _ in range(2))
    kept.acquire()
    del forgotten
    _fork._renew()
    assert not kept.locked()
    assert len(_fork._locks) == before + 1

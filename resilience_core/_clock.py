"""Time, waiting and chance, in one place, so that tests can replace all three.

Policies read `clock.now()` (seconds, monotonic) for every decision and never the wall clock; `wall()` (seconds since
the epoch) is only for what outlives the process. The four functions are attributes, looked up at each call: that is
what lets `resilience_core.testing.virtual_time` switch policies that were decorated at import.
"""

from __future__ import annotations

import os
import time
from collections.abc import Awaitable, Callable
from random import Random

# Not the numbers of the `random` module: a program that seeds it to repeat its results would have them disturbed, by
# a fleet's thread at any moment, and all processes of a fleet that seed it alike would wait alike.
_own = Random()
os.register_at_fork(after_in_child=_own.seed)


async def _sleep_in_any_world(seconds: float) -> None:
    import anyio  # here, not above: a program that never waits must not pay for the import

    await anyio.sleep(seconds)


class Clock:
    """Monotonic seconds, wall seconds, and the two ways to wait."""

    __slots__ = ("async_sleep", "now", "sleep", "wall")

    def __init__(
        self,
        now: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
        sleep: Callable[[float], None] = time.sleep,
        async_sleep: Callable[[float], Awaitable[None]] = _sleep_in_any_world,
    ) -> None:
        self.now: Callable[[], float] = now
        self.wall: Callable[[], float] = wall
        self.sleep: Callable[[float], None] = sleep
        self.async_sleep: Callable[[float], Awaitable[None]] = async_sleep


class Chance:
    """Where jitter comes from: `random()` answers a float in [0, 1)."""

    __slots__ = ("random",)

    def __init__(self, source: Callable[[], float] = _own.random) -> None:
        self.random: Callable[[], float] = source


SYSTEM = Clock()
"""The clock of every policy that is not given one."""
CHANCE = Chance()
"""The randomness of every policy that is not given one."""

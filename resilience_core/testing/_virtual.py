"""A clock that passes only when somebody waits or says so."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager

from resilience_core._clock import SYSTEM, Clock


class VirtualClock(Clock):
    """Time as tests want it: waiting takes no time and moves the clock.

    Good for one caller at a time, whatever its world. For several tasks that wait for each other use `run_virtual` or
    `run_virtual_trio`, where the event loop itself keeps virtual time.

    Attributes:
        slept: the seconds of every wait, in order.
    """

    __slots__ = ("_monotonic", "_wall", "slept")

    def __init__(self, start: float = 1000.0, wall: float = 1_700_000_000.0) -> None:
        self._monotonic = start
        self._wall = wall
        self.slept: list[float] = []
        super().__init__(
            lambda: self._monotonic, lambda: self._wall + self._monotonic - start, self._sleep, self._async_sleep
        )

    def advance(self, seconds: float) -> None:
        """Let time pass; raises `ValueError` for a negative number."""
        if seconds < 0:
            raise ValueError(f"time does not run backwards: {seconds!r}")
        self._monotonic += seconds

    def _sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.advance(seconds)

    async def _async_sleep(self, seconds: float) -> None:
        import anyio.lowlevel

        self._sleep(seconds)
        await anyio.lowlevel.checkpoint()  # a wait lets others run and can be cancelled, however short


@contextmanager
def swapped(clock: Clock) -> Generator[None, None, None]:
    """Let the clock of all policies that were not given one be `clock`."""
    before = SYSTEM.now, SYSTEM.wall, SYSTEM.sleep, SYSTEM.async_sleep
    SYSTEM.now, SYSTEM.wall, SYSTEM.sleep, SYSTEM.async_sleep = clock.now, clock.wall, clock.sleep, clock.async_sleep
    try:
        yield
    finally:
        SYSTEM.now, SYSTEM.wall, SYSTEM.sleep, SYSTEM.async_sleep = before


@contextmanager
def virtual_time(start: float = 1000.0) -> Generator[VirtualClock, None, None]:
    """Virtual time for every policy of the process that was not given a clock, also for those decorated at import."""
    clock = VirtualClock(start)
    with swapped(clock):
        yield clock

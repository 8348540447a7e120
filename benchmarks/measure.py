"""Nanoseconds per call: contenders take turns within one run, and the median of the rounds counts.

Async contenders are driven by one coroutine inside a running event loop, so that what is measured is the `await`.
"""

from __future__ import annotations

import asyncio
import gc
import statistics
import time
from collections.abc import Callable
from typing import Any


def _calls_for(once: Callable[[int], float], target: float) -> int:
    calls = 100
    while once(calls) < target / 4 and calls < 10_000_000:
        calls *= 4
    return calls


def _blocking(fn: Callable[[], Any]) -> Callable[[int], float]:
    def once(calls: int) -> float:
        numbers = range(calls)
        started = time.perf_counter()
        for _ in numbers:
            fn()
        return time.perf_counter() - started

    return once


def _awaiting(fn: Callable[[], Any], runner: asyncio.Runner) -> Callable[[int], float]:
    async def loop(calls: int) -> float:
        numbers = range(calls)
        started = time.perf_counter()
        for _ in numbers:
            await fn()
        return time.perf_counter() - started

    return lambda calls: runner.run(loop(calls))


def compare(
    contenders: dict[str, Callable[[], Any]], *, awaited: bool, rounds: int, seconds: float
) -> dict[str, float]:
    """Median nanoseconds per call of each contender, measured in turns of about `seconds`."""
    with asyncio.Runner() as runner:
        timers = {name: _awaiting(fn, runner) if awaited else _blocking(fn) for name, fn in contenders.items()}
        calls = {name: _calls_for(timer, seconds) for name, timer in timers.items()}
        samples: dict[str, list[float]] = {name: [] for name in contenders}
        gc.collect()
        gc.disable()
        try:
            for _ in range(rounds):
                for name, timer in timers.items():
                    samples[name].append(timer(calls[name]) / calls[name] * 1e9)
        finally:
            gc.enable()
    return {name: statistics.median(values) for name, values in samples.items()}

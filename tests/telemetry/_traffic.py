"""Traffic through every policy, good and bad, so that every metric has something to tell."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from resilience_core import (
    AdaptiveConcurrency,
    AdaptiveRetry,
    Bulkhead,
    BulkheadFullError,
    CircuitBreaker,
    CircuitOpenError,
    FailureRate,
    Fallback,
    Hedge,
    Pipeline,
    Policy,
    RateLimiter,
    Retry,
    RetryBudget,
    SlowCallRate,
    StaleCache,
    Timeout,
    TimeoutExceeded,
    TokenQuota,
    config,
)
from resilience_core.fleet import StoreFleet
from resilience_core.testing import VirtualClock
from tests.fleet.members import PATIENCE, wait_until


class Table:
    """The store of a fleet that can break."""

    def __init__(self) -> None:
        self.rows: dict[str, dict[str, Any]] = {}
        self.broken = False

    def get_state(self, name: str) -> Mapping[str, Any] | None:
        if self.broken:
            raise OSError
        return self.rows.get(name)

    def set_state(self, name: str, state: Mapping[str, Any]) -> None:
        self.rows[name] = dict(state)


def failing(times: int) -> Any:
    left = [times]

    def work() -> int:
        left[0] -= 1
        if left[0] >= 0:
            raise ConnectionError
        return 1

    return work


async def nap(seconds: float) -> int:
    await asyncio.sleep(seconds)
    return 1


@contextmanager
def traffic(directory: Path) -> Generator[None]:
    """Drive it; what it went through lives until the end."""
    retry = Retry("traffic.again", on=ConnectionError, max_attempts=3, base_delay=0.001, max_delay=0.001)
    keep: list[Policy] = [retry, *circuits(), *stand_ins()]
    Pipeline(retry, name="traffic.shop").call(failing(1))  # rescued
    Pipeline(retry, name="traffic.shop").call(int)
    with pytest.raises(ConnectionError):
        Pipeline(retry, name="traffic.shop").call(failing(9))
    poor = Retry(
        "traffic.poor",
        on=ConnectionError,
        base_delay=0,
        max_delay=0,
        budget=RetryBudget("traffic.spent", law=TokenQuota()),
    )
    for _ in range(60):
        with pytest.raises(ConnectionError):
            Pipeline(poor, name="traffic.shop").call(failing(9))
    keep += [poor, poor.budget]  # type: ignore[list-item]
    keep += asyncio.run(limits())
    reload(directory)
    table = Table()
    fleet, lost = StoreFleet(Table(), poll_interval=0.3), StoreFleet(table, poll_interval=0.3)
    try:
        for each in (fleet, lost):
            keep.append(CircuitBreaker("traffic.shared", fleet=each))
            keep[-1].call(int)
            assert each.wait_ready(PATIENCE)
        table.broken = True
        wait_until(lambda: not lost.connected)
        yield
    finally:
        fleet.close()
        lost.close()


def circuits() -> list[Policy]:
    clock = VirtualClock()  # by a real one a slow machine comes to the next call when the time is over
    breaker = CircuitBreaker("traffic.circuit", failure_threshold=1, recovery_timeout=0.01, clock=clock)
    with pytest.raises(ConnectionError):
        breaker.call(failing(1))
    with pytest.raises(CircuitOpenError):
        breaker.call(int)
    clock.advance(0.01)
    breaker.call(int)
    slow = CircuitBreaker("traffic.slow", trip=SlowCallRate(0.5, slower_than=60))
    rated = CircuitBreaker("traffic.rated", trip=FailureRate(0.5))
    slow.call(int)
    rated.call(int)
    return [breaker, slow, rated]


def stand_ins() -> list[Policy]:
    cache = StaleCache("traffic.kept", fresh_for=0.0, stale_for=60, key=lambda: 1, on=ConnectionError)
    work = Pipeline(Fallback("traffic.instead", value=0, on=ConnectionError), name="traffic.shop")
    work.call(failing(1))
    answers = [1, None]

    def fetch() -> int:
        answer = answers.pop(0)
        if answer is None:
            raise ConnectionError
        return answer

    fetched = cache(fetch)
    fetched()
    time.sleep(0.001)
    fetched()
    return [cache]


async def limits() -> list[Policy]:
    bulkhead = Bulkhead("traffic.slots", max_concurrent=1, max_queue=1, max_wait=30)
    limiter = RateLimiter("traffic.permits", rate=1, per=0.02, max_wait=30)
    held = asyncio.create_task(bulkhead.acall(nap, 0.02))
    waiting = asyncio.create_task(bulkhead.acall(nap, 0))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    with pytest.raises(BulkheadFullError):
        await bulkhead.acall(nap, 0)
    await held
    await waiting
    await limiter.acall(nap, 0)
    await limiter.acall(nap, 0)
    short = Timeout(0.001, name="traffic.short")
    with pytest.raises(TimeoutExceeded):
        await short.acall(nap, 60)
    waits = [60.0, 0.0]
    hedge = Hedge("traffic.twice", delay=0.001, idempotent=True)

    async def either() -> int:
        return await nap(waits.pop(0))

    await hedge.acall(either)
    adaptive: list[Policy] = [
        AdaptiveRetry("traffic.slowed", on=ConnectionError),
        AdaptiveConcurrency("traffic.adaptive"),
    ]
    for policy in adaptive:
        await policy.acall(nap, 0)
    return [bulkhead, limiter, short, hedge, *adaptive]


def reload(directory: Path) -> None:
    path = directory / "resilience.toml"
    path.write_text("[stacks.a.retry]\nmax_attempts = 2\n")
    watcher = config.Watcher(path)
    watcher.poll()
    path.write_text("[stacks.a.retry]\nmax_attempts = -2\n")
    watcher.poll()

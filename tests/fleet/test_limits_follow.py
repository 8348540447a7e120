"""What a limiter and a budget do between a connection and an answer, and between two answers."""

from __future__ import annotations

import time
from typing import Any

from resilience_core import RateLimiter, RetryBudget, TrafficRatio
from resilience_core.fleet._budget import EARNED_EVERY
from resilience_core.redis import RedisFleet


def test_a_connection_alone_lets_no_call_wait_for_the_store() -> None:
    """A server that hangs accepts connections: every attempt to reach it cost callers a time-out."""
    fleet = RedisFleet("redis://127.0.0.1:1", timeout=20.0)
    fleet.agent.attach = lambda item: True  # type: ignore[method-assign]
    limiter = RateLimiter("l", rate=10.0, fleet=fleet, strict=True)
    share = limiter._shared
    share.lost(time.monotonic())
    share.found(time.monotonic())
    began = time.monotonic()
    limiter(lambda: 1)()
    assert time.monotonic() - began < 20.0, "it waited for a store that has not answered yet"
    (greeting,) = share.requests(time.monotonic())
    assert share.alone
    greeting.answer((None, 0, -2), 0.0, 0.0)
    assert not share.alone
    assert share.requests(time.monotonic()) == []


def test_what_is_earned_is_told_once_a_second_and_not_forgotten() -> None:
    """A member with nothing else to say told it after up to a minute, one that was kept awake every 50 ms."""
    fleet = RedisFleet("redis://127.0.0.1:1")
    woken: list[int] = []
    fleet.agent.attach = lambda item: True  # type: ignore[method-assign]
    fleet.agent.wake = lambda: woken.append(1)  # type: ignore[method-assign]
    budget = RetryBudget("retries", law=TrafficRatio(0.25, minimum_per_second=0), fleet=fleet)
    budget.began()
    account: Any = budget._account
    share, now = account._share, time.monotonic()
    (request,) = share.requests(now)
    request.answer((b"0.0", b"1.0"), now, now)
    assert share.due(now) == float("inf")
    for _ in range(3):
        budget.began()
    assert share.due(now) == float("inf"), "it pays for nothing so far"
    assert woken == []
    for _ in range(50):
        budget.began()
    assert woken == [1], "once: then the agent knows"
    assert share.due(now) == now + EARNED_EVERY
    (request,) = share.requests(now + EARNED_EVERY)
    assert request.args[4] == "13.250000"

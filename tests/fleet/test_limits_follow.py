"""What a limiter does between a connection and an answer."""

from __future__ import annotations

import time

from resilience_core import RateLimiter
from resilience_core.redis import RedisFleet


def test_a_connection_alone_lets_no_call_wait_for_the_store() -> None:
    """A server that hangs accepts connections: every attempt to reach it cost callers a time-out."""
    fleet = RedisFleet("redis://127.0.0.1:1", timeout=5.0)
    fleet.agent.attach = lambda item: True  # type: ignore[method-assign]
    limiter = RateLimiter("l", rate=10.0, fleet=fleet, strict=True)
    share = limiter._shared
    share.lost(time.monotonic())
    share.found(time.monotonic())
    began = time.monotonic()
    limiter(lambda: 1)()
    assert time.monotonic() - began < 5.0, "it waited for a store that has not answered yet"
    (greeting,) = share.requests(time.monotonic())
    assert share.alone
    greeting.answer((None, 0, -2), 0.0, 0.0)
    assert not share.alone
    assert share.requests(time.monotonic()) == []

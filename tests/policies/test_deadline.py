"""Deadlines: only ever nearer, obeyed by every wait, carried between services."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any

import pytest

from resilience_core import (
    Bulkhead,
    BulkheadFullError,
    ConfigurationError,
    Deadline,
    DeadlineExceeded,
    Pipeline,
    RateLimitedError,
    RateLimiter,
    Rejection,
    Retry,
    deadline,
    deadline_from,
    inject_deadline,
    remaining,
)
from resilience_core.testing import VirtualClock, record_events, run_virtual, virtual_time
from tests.worlds import Script, World


def test_nested_ones_only_shorten() -> None:
    with virtual_time() as clock:
        assert remaining() is None
        with deadline(5):
            with deadline(timedelta(seconds=60)):
                assert remaining() == pytest.approx(5)
            with deadline(2):
                assert remaining() == pytest.approx(2)
                clock.advance(3)
                assert remaining() == 0
            assert remaining() == pytest.approx(2)
        assert remaining() is None


def test_as_a_policy_it_makes_no_call_after_an_outer_deadline(world: World) -> None:
    async def story() -> None:
        seen = []

        async def look() -> None:
            seen.append(remaining())

        clock = VirtualClock()
        policy = Deadline(10, clock=clock)
        guarded = world.guard(policy, look)
        await guarded()
        with deadline(4, clock=clock):
            await guarded()
            clock.advance(4)
            with record_events(policy) as events, pytest.raises(DeadlineExceeded):
                await guarded()
        assert seen == [pytest.approx(10), pytest.approx(4)]
        assert [event.reason for event in events.of(Rejection)] == ["deadline"]
        assert policy.snapshot() == {"rejected": 1}
        with deadline(0, clock=clock), pytest.raises(DeadlineExceeded):
            await guarded()
        assert policy.describe()["text"] == "deadline: 10 s for everything inside, nothing is cancelled"

    world.run(story)


@pytest.mark.filterwarnings("ignore:plan-exceeds-deadline")  # what then happens is shown here
def test_a_retry_that_cannot_finish_in_time_is_not_started(world: World) -> None:
    async def story() -> None:
        clock, script = VirtualClock(), Script(ConnectionError())
        stack = Pipeline(
            Deadline(2.5, clock=clock), Retry(on=ConnectionError, max_attempts=9, jitter="none", clock=clock)
        )
        with pytest.raises(ConnectionError):
            await world.guard(stack, script.fn)()
        assert clock.slept == [1.0]
        assert script.calls == 2

    world.run(story)


def test_queues_obey() -> None:
    async def story() -> None:
        bulkhead = Bulkhead("b", max_concurrent=1, max_queue=5, max_wait=100)
        limiter = RateLimiter("l", rate=0.1, burst=1, max_wait=100)
        holder = asyncio.create_task(bulkhead.acall(asyncio.sleep, 50))
        await limiter.acall(asyncio.sleep, 0)
        started = asyncio.get_running_loop().time()
        with deadline(3):
            with pytest.raises(RateLimitedError):
                await limiter.acall(asyncio.sleep, 0)
            with pytest.raises(BulkheadFullError):
                await bulkhead.acall(asyncio.sleep, 0)
        assert asyncio.get_running_loop().time() - started == pytest.approx(3)
        await holder

    run_virtual(story)


def test_it_travels_in_a_header() -> None:
    headers: dict[str, str] = {}
    inject_deadline(headers)
    assert headers == {}
    with virtual_time(), deadline(1.2345):
        inject_deadline(headers)
        inject_deadline(headers, "grpc-ish")
    assert headers == {"x-envoy-expected-rq-timeout-ms": "1234", "grpc-ish": "1234"}
    assert deadline_from({"X-Envoy-Expected-RQ-Timeout-Ms": "1500"}) == 1.5
    assert deadline_from({"mine": "20"}, "mine") == 0.02


@pytest.mark.parametrize("value", ["", "-1", "1.5", "1e3", "١", "1" * 10, "0x1", " 5", "inf"])
def test_a_header_that_makes_no_sense_is_no_deadline(value: str) -> None:
    assert deadline_from({"x-envoy-expected-rq-timeout-ms": value}) is None
    assert deadline_from({}) is None


@pytest.mark.parametrize("value", [-1, float("nan"), float("inf"), True])
def test_bad_numbers_are_refused(value: Any) -> None:
    with pytest.raises(ConfigurationError, match="seconds"):
        deadline(value)


def test_left_without_having_been_entered_it_does_nothing() -> None:
    deadline(5).__exit__(None, None, None)
    assert remaining() is None

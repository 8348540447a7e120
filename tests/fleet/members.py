"""Members of one fleet in one process, and ways to wait for what they do."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Callable, Coroutine, Generator
from typing import Any

import pytest
import redis
import trio

from resilience_core import CircuitBreaker, CircuitOpenError
from resilience_core.redis import RedisFleet
from tests._redis import RedisServer
from tests.worlds import World, drive

_prefixes = (f"t{number}:" for number in itertools.count())
PATIENCE = 40.0
"""Seconds until a test gives up: only a broken program waits so long."""


def wait_until(met: Callable[[], Any], what: str = "") -> Any:
    """Wait for something that another thread or process does."""
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        found = met()
        if found:
            return found
        time.sleep(0.002)
    raise AssertionError(f"it did not happen within {PATIENCE} s: {what or met}")


def run_in(world: World, story: Callable[[], Coroutine[Any, Any, Any]]) -> Any:
    """Run the story in real time: another thread and another process take part in it."""
    if world.name == "asyncio":
        return asyncio.run(story())
    return trio.run(story) if world.name == "trio" else drive(story())


class Fleets:
    """Makes members of one fleet, and looks into its Redis."""

    def __init__(self, url: str, prefix: str) -> None:
        self.url = url
        self.prefix = prefix
        self.client = redis.Redis.from_url(url, decode_responses=True)
        self._made: list[RedisFleet] = []

    def member(self, name: str = "m", **options: Any) -> RedisFleet:
        """One more. Time-outs are long: a slow machine is no outage."""
        settings = {"prefix": self.prefix, "timeout": 8.0, "poll_interval": 0.5, "ttl": 30.0, **options}
        source = settings.pop("source", self.url)
        fleet = RedisFleet(source, member=name, **settings)
        self._made.append(fleet)
        return fleet

    def members(self, count: int, **options: Any) -> list[RedisFleet]:
        return [self.member(f"m{number}", **options) for number in range(count)]

    def breakers(self, count: int, name: str = "graph", **options: Any) -> list[CircuitBreaker]:
        """A breaker in each of so many members, all of them ready."""
        fleets = self.members(count, **options.pop("fleet_options", {}))
        breakers = [CircuitBreaker(name, fleet=fleet, **options) for fleet in fleets]
        for breaker, fleet in zip(breakers, fleets, strict=True):
            ok(breaker)
            assert fleet.wait_ready(PATIENCE)
        assert all(fleet.flush(PATIENCE) for fleet in fleets)
        for breaker in breakers:
            wait_until(lambda breaker=breaker: breaker._shared.era == breakers[0]._shared.era != "")
        return breakers

    def record(self, name: str = "graph") -> str:
        found = self.client.get(f"{self.prefix}circuit_breaker:{name}")
        return "" if found is None else str(found)

    def written(self) -> list[str]:
        return sorted(self.client.keys(f"{self.prefix}*"))

    def close(self) -> None:
        for fleet in self._made:
            fleet.close()
        self.client.close()

    def __enter__(self) -> Fleets:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


@pytest.fixture
def fleets(redis_server: RedisServer) -> Generator[Fleets]:
    made = Fleets(redis_server.url, next(_prefixes))
    yield made
    made.close()


def ok(breaker: CircuitBreaker) -> str:
    """A call that succeeds; "rejected" if it was not made."""
    try:
        return breaker.call(lambda: "ok")
    except CircuitOpenError:
        return "rejected"


def fail(breaker: CircuitBreaker, times: int = 1) -> str:
    """Calls that fail; what became of the last one."""
    last = ""
    for _ in range(times):
        try:
            breaker.call(_boom)
        except CircuitOpenError:
            last = "rejected"
        except ZeroDivisionError:
            last = "failed"
    return last


def _boom() -> None:
    raise ZeroDivisionError

"""What happens seldom: between a decision and its record, at the edge of a lease, on the way out."""

from __future__ import annotations

import asyncio
import importlib.util
import json
import os
import sys
import time
from types import SimpleNamespace
from typing import Any

import pytest
import redis

from resilience_core import (
    Bulkhead,
    CircuitBreaker,
    CircuitState,
    ConfigurationError,
    RateLimitedError,
    RateLimiter,
    RetryBudget,
    TokenQuota,
)
from resilience_core.fleet import StoreFleet, _agent
from resilience_core.redis import _link
from resilience_core.testing import FaultProxy
from tests._redis import HOST, RedisServer
from tests.fleet.members import PATIENCE, Fleets, fail, ok, wait_until


@pytest.fixture
def proxy(redis_server: RedisServer) -> Any:
    with FaultProxy((HOST, redis_server.port)) as made:
        yield made


def through(fleets: Fleets, proxy: FaultProxy, **options: Any) -> Any:
    return fleets.member("cut", source=f"redis://{HOST}:{proxy.port}/0", **options)


def cut(proxy: FaultProxy, fleet: Any) -> None:
    proxy.reset(new=True)
    wait_until(lambda: not fleet.connected)


def test_an_idle_holder_keeps_the_lease_and_its_next_request_is_the_probe(
    fleets: Fleets, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("resilience_core._machines.shared_circuit.USE_WITHIN", 1_200_000)
    (breaker,) = fleets.breakers(1, recovery_timeout=0.1)
    fail(breaker, 5)
    assert breaker.fleet.flush(PATIENCE)
    first = json.loads(fleets.record())["lease"]
    wait_until(lambda: float(json.loads(fleets.record())["lease"]["use_by"]) > float(first["use_by"]) + 0.5)
    assert json.loads(fleets.record())["lease"]["id"] == first["id"]
    assert ok(breaker) == "ok", "whenever it comes, without a rejection before"
    assert breaker.state is CircuitState.HALF_OPEN


def test_a_lease_in_use_is_not_given_up(fleets: Fleets) -> None:
    (breaker,) = fleets.breakers(1, recovery_timeout=0.05)
    fail(breaker, 5)
    assert breaker.fleet.flush(PATIENCE)
    guard = breaker.guard()

    def entered() -> bool:
        try:
            guard.__enter__()
        except Exception:
            return False
        return True

    wait_until(entered)
    held = breaker._shared.lease
    assert breaker._shared._passed_on(held) == []
    assert breaker._shared.lease is held
    guard.__exit__(None, None, None)


def test_a_failed_probe_of_a_circuit_that_only_this_member_has_opened_is_a_vote_again(fleets: Fleets) -> None:
    first, second = fleets.breakers(2, quorum=2, failure_threshold=3, recovery_timeout=0.1)
    fail(first, 3)
    assert first.fleet.flush(PATIENCE)
    until = json.loads(fleets.record())["votes"][first._shared.holder]
    wait_until(lambda: fail(first) == "failed")
    assert first.state is CircuitState.OPEN
    assert first.fleet.flush(PATIENCE)
    assert float(json.loads(fleets.record())["votes"][first._shared.holder]) > float(until)
    assert second.state is CircuitState.CLOSED


def test_the_holder_probes_also_when_the_store_is_lost_meanwhile(fleets: Fleets, proxy: FaultProxy) -> None:
    breaker = CircuitBreaker("graph", fleet=through(fleets, proxy), recovery_timeout=0.3)
    ok(breaker)
    assert breaker.fleet.wait_ready(PATIENCE)
    fail(breaker, 5)
    assert breaker.fleet.flush(PATIENCE)
    cut(proxy, breaker.fleet)
    assert breaker.state is CircuitState.OPEN
    wait_until(lambda: ok(breaker) == "ok" and breaker.state is CircuitState.CLOSED)
    proxy.heal()
    assert breaker.fleet.wait_ready(PATIENCE)
    assert breaker.fleet.flush(PATIENCE)
    assert json.loads(fleets.record())["state"] == "closed", "what the probes have decided is written late"


def test_failures_of_before_a_change_that_a_newcomer_did_not_know_of_count_no_more(
    fleets: Fleets, proxy: FaultProxy
) -> None:
    (first,) = fleets.breakers(1)
    proxy.refuse()
    newcomer = CircuitBreaker("graph", fleet=through(fleets, proxy))
    fail(newcomer, 2)
    failed_at = time.monotonic()
    wait_until(lambda: time.monotonic() > failed_at + 0.6)  # longer than what is uncertain about the server's clock
    first.reset()
    assert first.fleet.flush(PATIENCE)
    proxy.heal()
    assert newcomer.fleet.wait_ready(PATIENCE)
    assert newcomer.fleet.flush(PATIENCE)
    assert newcomer._shared.dropped == 2
    assert json.loads(fleets.record())["failures"] == 0


def test_closing_without_a_store_is_quick_and_silent(fleets: Fleets, proxy: FaultProxy) -> None:
    breaker = CircuitBreaker("graph", fleet=through(fleets, proxy))
    ok(breaker)
    assert breaker.fleet.wait_ready(PATIENCE)
    breaker._shared._fresh = False  # as between two answers
    assert breaker._shared.goodbye(0.0) == []
    breaker._shared.heard(breaker._shared.channels[0], b"{}", 0.0)
    assert breaker._shared._fresh is False, "it will be asked for anyway"
    cut(proxy, breaker.fleet)
    breaker.fleet.close()
    assert ok(breaker) == "ok"


def test_news_about_rates_means_nothing_to_a_circuit_that_counts_failures(fleets: Fleets) -> None:
    first, second = fleets.breakers(2)
    fleets.client.publish(first._shared.channels[0], "window")
    fleets.client.publish(first._shared.channels[0], "rubbish")
    fail(first, 5)
    wait_until(lambda: second.state is CircuitState.OPEN)


def test_a_blocking_call_in_an_event_loop_is_refused_and_loses_no_permit(fleets: Fleets) -> None:
    limiter = RateLimiter("sms", rate=1, per=100, burst=2, fleet=fleets.member(), strict=True)
    limiter.call(len, "")

    async def story() -> None:
        with pytest.raises(ConfigurationError, match="must not wait on the thread of a running asyncio loop"):
            limiter.call(len, "")

    asyncio.run(story())
    assert limiter.fleet.flush(PATIENCE)
    assert limiter.call(len, "ab") == 2


class Gone:
    """A waiter whose loop has ended."""

    def wake(self) -> bool:
        return False


@pytest.mark.parametrize("strict", [True, False])
def test_the_permit_of_a_caller_whose_loop_has_ended_is_not_used_twice(fleets: Fleets, strict: bool) -> None:
    limiter = RateLimiter("sms", rate=1, per=100, burst=3, fleet=fleets.member(), strict=strict)
    limiter.call(len, "")
    limiter._bucket.ask(Gone())
    assert limiter.fleet.flush(PATIENCE)
    made = 0
    for _ in range(5):
        try:
            limiter.call(len, "")
            made += 1
        except RateLimitedError:
            pass
    assert made == (1 if strict else 2)


def test_more_callers_than_one_answer_can_serve(fleets: Fleets, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("resilience_core.fleet._limiter.MOST_ASKERS", 3)
    limiter = RateLimiter("sms", rate=1, per=100, burst=50, fleet=fleets.member(), strict=True)
    limiter.call(len, "")
    assert limiter.fleet.flush(PATIENCE)
    assert limiter._shared._request(limiter._bucket, limiter.clock.now(), True) is None, "nothing is to be fetched"

    async def story() -> None:
        await asyncio.gather(*(limiter.acall(asyncio.sleep, 0) for _ in range(40)))

    asyncio.run(story())


def test_another_size_without_a_store() -> None:
    from resilience_core.redis import RedisFleet

    bulkhead = Bulkhead("db", max_concurrent=2, fleet=RedisFleet("redis://127.0.0.1:1/0"))
    assert bulkhead.call(len, "ab") == 2
    wait_until(lambda: bulkhead._shared.alone)
    bulkhead.reconfigure(max_concurrent=5)
    assert bulkhead.snapshot()["limit"] == 5
    bulkhead.fleet.close()


def test_a_budget_tells_its_own_balance_until_the_store_has_answered() -> None:
    from resilience_core.redis import RedisFleet

    budget = RetryBudget("retries", law=TokenQuota(7), fleet=RedisFleet("redis://127.0.0.1:1/0"))
    assert budget.snapshot()["balance"] == 7
    budget.fleet.close()


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")  # from 3.12 on: this process has threads
def test_a_fork_with_a_fleet_that_was_never_used(fleets: Fleets) -> None:
    breaker = CircuitBreaker("graph", fleet=fleets.member())
    child = os.fork()
    if child == 0:
        code = 1
        try:
            ok(breaker)
            code = 0 if breaker.fleet.wait_ready(PATIENCE) else 2
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_what_fails_on_the_way_out_is_told_to_nobody_but_the_log(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("DEBUG", "resilience_core.store"):
        _agent._quietly(lambda: 1 / 0, "The store failed once more", "resilience.store.failed_again")
    assert caplog.records[0].getMessage().startswith("The store failed once more (ZeroDivisionError at ")


def test_an_older_redis_py_has_no_notices_to_turn_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "redis.maint_notifications", None)
    spec = importlib.util.spec_from_file_location("older_link", _link.__file__)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert module._notices == {}


def test_news_whose_connection_is_gone_are_a_lost_store(fleets: Fleets) -> None:
    link = _link.RedisLink(fleets.url, 2.0)
    link.listen([f"{fleets.prefix}rc:news"])
    assert link.news() == []
    link._news.connection.disconnect()
    with pytest.raises(redis.ConnectionError, match="the connection for news was closed"):
        link.news()
    link.close()


def test_news_are_read_while_there_is_something_to_read() -> None:
    """The half of a message, or one of which redis-py tells nothing, is not the end of them."""
    message = {"type": "message", "channel": b"news", "data": b"x"}
    came, more = iter([None, message, None]), iter([True, False])
    link = _link.RedisLink("redis://127.0.0.1:1", 2.0)
    connection = SimpleNamespace(_sock=object(), can_read=lambda timeout: next(more))
    link._news = SimpleNamespace(subscribed=True, connection=connection, get_message=lambda timeout: next(came))
    assert link.news() == [("news", b"x")]


def test_slots_are_a_process_s_own_while_an_answer_does_not_end(fleets: Fleets) -> None:
    bulkhead = Bulkhead("db", max_concurrent=2, fleet=fleets.member())
    assert bulkhead.call(len, "ab") == 2
    share = bulkhead._shared
    share._asked_at = time.monotonic() - 100 * share.patience
    with bulkhead._lock:
        assert share.more() is False
    assert bulkhead.snapshot()["limit"] == 2


class Slow:
    """A store that takes its time."""

    def get_state(self, name: str) -> None:
        time.sleep(0.1)

    def set_state(self, name: str, state: Any) -> None:
        raise AssertionError("it is given up before")


def test_a_store_that_answers_too_slowly_and_one_that_cannot_be_opened_are_lost(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    fleet = StoreFleet(Slow(), poll_interval=0.01, ttl=1.0)
    breaker = CircuitBreaker("graph", fleet=fleet)
    ok(breaker)
    wait_until(lambda: fleet.snapshot()["losses"] == 1)

    def refuse() -> Any:
        tried.append(1)
        raise OSError

    tried: list[int] = []
    monkeypatch.setattr(fleet.agent, "_open_link", refuse)
    wait_until(lambda: len(tried) > 1)
    assert ok(breaker) == "ok"
    fleet.close()

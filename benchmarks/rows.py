"""The rows: what is compared with what, and the ratio that ours must reach."""

from __future__ import annotations

import asyncio
import importlib
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from typing import Any, cast

from attrs import field, frozen

from benchmarks import by_hand
from resilience_core import (
    AdaptiveConcurrency,
    AdaptiveThrottle,
    Bulkhead,
    CircuitBreaker,
    CircuitOpenError,
    CircuitState,
    Coalesce,
    CountWindow,
    FailureRate,
    Fallback,
    Hedge,
    Keyed,
    Pipeline,
    RateLimiter,
    Retry,
    RetryBudget,
    StaleCache,
    Timeout,
    TimeWindow,
)
from resilience_core import _schema as s
from resilience_core._telemetry import telemetry
from resilience_core._telemetry._switch import SpanMode
from resilience_core.testing import record_telemetry

NEVER_REACHED = 1e9  # calls per second


def nothing() -> int:
    return 1


async def nothing_async() -> int:
    return 1


@frozen
class Row:
    """One scenario: `ours` against others, with the ratio that `ours / against` must not exceed."""

    name: str
    contenders: dict[str, Callable[[], Any]]
    asked: dict[str, float] = field(factory=dict)
    awaited: bool = False


def stack(*, timeout: float | None = None) -> Pipeline:
    inner = (Timeout(timeout),) if timeout is not None else ()
    return Pipeline(
        Fallback(value=None),
        Retry(on=ConnectionError),
        CircuitBreaker("b"),
        Bulkhead("b", max_concurrent=1000),
        RateLimiter("l", rate=NEVER_REACHED),
        *inner,
    )


def rejecting(breaker: CircuitBreaker) -> Callable[[], Any]:
    breaker.force(CircuitState.OPEN)
    guarded = breaker(nothing)

    def reject() -> None:
        try:
            guarded()
        except CircuitOpenError:
            pass

    return reject


def rejecting_peer(peer: Any) -> Callable[[], Any]:
    """circuitbreaker's rejection, raised and caught."""

    def fail() -> None:
        raise ConnectionError

    guarded = peer.CircuitBreaker(failure_threshold=1)(fail)

    def reject() -> None:
        try:
            guarded()
        except (peer.CircuitBreakerError, ConnectionError):
            pass

    return reject


def nopanic_stack(fn: Callable[..., Any]) -> Callable[[Any], Callable[[], Any]]:
    """The five policies of nopanic around `fn`."""

    def make(peer: Any) -> Callable[[], Any]:
        guarded: Callable[[], Any] = peer.compose(
            peer.fallback(None),
            peer.retry(on=ConnectionError),
            peer.circuit_breaker(),
            peer.bulkhead(1000),
            peer.rate_limit(NEVER_REACHED),
        )(fn)
        return guarded

    return make


def flaky() -> Callable[[], int]:
    fails = [False]

    def fn() -> int:
        fails[0] = not fails[0]
        if fails[0]:
            raise ConnectionError
        return 1

    return fn


def with_peer(row: Row, module: str, make: Callable[[Any], Callable[[], Any]], ratio: float | None = None) -> Row:
    """Add another library to a row, if it is installed."""
    try:
        imported = importlib.import_module(module)
    except ImportError:
        return row
    row.contenders[module] = make(imported)
    if ratio is not None:
        row.asked[module] = ratio
    return row


def timeout_by_asyncio() -> Callable[[], Any]:
    async def call() -> int:
        async with asyncio.timeout(30):
            return await nothing_async()

    return call


def semaphore(make: Callable[[], Any]) -> Callable[[], Any]:
    """A call inside a semaphore of asyncio, made when the loop runs."""
    made: list[Any] = []

    async def call() -> int:
        if not made:
            made.append(make())
        async with made[0]:
            return await nothing_async()

    return call


def threading_semaphore() -> Callable[[], Any]:
    made = threading.Semaphore(1000)

    def call() -> int:
        with made:
            return nothing()

    return call


def rows() -> list[Row]:
    """All scenarios whose policies exist so far."""
    breaker_row = Row(
        "breaker closed, blocking",
        {"ours": CircuitBreaker("b")(nothing), "by hand": by_hand.breaker(nothing)},
        {"by hand": 1.5},
    )
    async_row = Row(
        "breaker closed, async",
        {"ours": CircuitBreaker("b")(nothing_async), "by hand": by_hand.breaker_async(nothing_async)},
        {"by hand": 1.5},
        awaited=True,
    )
    blocking_stack = Row(
        "five-policy stack, blocking",
        {"ours": stack()(nothing), "by hand": by_hand.stack(nothing)},
        {"by hand": 1.5},
    )
    async_stack = Row(
        "five-policy stack, async",
        {"ours": stack()(nothing_async), "by hand": by_hand.stack_async(nothing_async)},
        {"by hand": 1.8},
        awaited=True,
    )
    no_wait = Retry(on=ConnectionError, base_delay=0, max_delay=0)
    return [
        with_peer(breaker_row, "circuitbreaker", lambda peer: peer.CircuitBreaker()(nothing), 0.5),
        with_peer(async_row, "circuitbreaker", lambda peer: peer.CircuitBreaker()(nothing_async), 0.5),
        with_peer(
            Row("breaker open, raise and catch", {"ours": rejecting(CircuitBreaker("b"))}),
            "circuitbreaker",
            rejecting_peer,
            0.8,
        ),
        with_peer(
            Row(
                "breaker with a rate window, blocking",
                {
                    "ours": CircuitBreaker("b", trip=FailureRate(0.5, CountWindow(100)))(nothing),
                    "by hand": by_hand.windowed_breaker(nothing),
                },
                {"by hand": 1.5},
            ),
            "nopanic",
            lambda peer: peer.circuit_breaker()(nothing),
            0.6,
        ),
        Row(
            "breaker with a time window, blocking",
            {"ours": CircuitBreaker("b", trip=FailureRate(0.5, TimeWindow(30)))(nothing)},
        ),
        Row(
            "breaker with a rate window, async",
            {"ours": CircuitBreaker("b", trip=FailureRate(0.5, CountWindow(100)))(nothing_async)},
            awaited=True,
        ),
        Row(
            "retry with a budget, first try succeeds",
            {"ours": Retry(on=ConnectionError, budget=RetryBudget("b"))(nothing), "by hand": by_hand.retry(nothing)},
        ),
        Row(
            "adaptive concurrency, slot free, blocking",
            {"ours": AdaptiveConcurrency("a")(nothing), "threading.Semaphore": threading_semaphore()},
        ),
        Row("adaptive throttle, blocking", {"ours": AdaptiveThrottle("t")(nothing)}),
        Row(
            "one breaker per key, blocking",
            {"ours": Keyed(lambda key: CircuitBreaker("k"), key=lambda: 1)(nothing)},
        ),
        Row("coalesce, nobody else asks, blocking", {"ours": Coalesce()(nothing)}),
        Row("hedge, first in time, async", {"ours": Hedge(delay=30, idempotent=True)(nothing_async)}, awaited=True),
        Row(
            "retry, first try succeeds, blocking",
            {"ours": Retry(on=ConnectionError)(nothing), "by hand": by_hand.retry(nothing)},
            {"by hand": 1.3},
        ),
        Row(
            "retry, first try succeeds, async",
            {"ours": Retry(on=ConnectionError)(nothing_async), "by hand": by_hand.retry_async(nothing_async)},
            {"by hand": 1.3},
            awaited=True,
        ),
        Row(
            "retry, one failure then success, no delay",
            {"ours": no_wait(flaky()), "by hand": by_hand.retry(flaky())},
            {"by hand": 2.0},
        ),
        Row(
            "fallback, not needed, blocking",
            {"ours": Fallback(value=None)(nothing), "by hand": by_hand.fallback(nothing)},
        ),
        Row(
            "cache, fresh, blocking",
            {"ours": StaleCache(fresh_for=3600, stale_for=0)(nothing), "by hand": by_hand.cache(nothing)},
        ),
        Row(
            "bulkhead, slot free, blocking",
            {
                "ours": Bulkhead("b", max_concurrent=1000)(nothing),
                "by hand": by_hand.bulkhead(nothing),
                "threading.Semaphore": threading_semaphore(),
            },
            {"threading.Semaphore": 0.2},
        ),
        Row(
            "bulkhead, slot free, async",
            {
                "ours": Bulkhead("b", max_concurrent=1000)(nothing_async),
                "asyncio.Semaphore": semaphore(lambda: asyncio.Semaphore(1000)),
            },
            {"asyncio.Semaphore": 0.6},
            awaited=True,
        ),
        Row(
            "rate limiter, token free, blocking",
            {"ours": RateLimiter("l", rate=NEVER_REACHED)(nothing), "by hand": by_hand.limiter(nothing)},
            {"by hand": 1.3},
        ),
        Row(
            "rate limiter, token free, async",
            {
                "ours": RateLimiter("l", rate=NEVER_REACHED)(nothing_async),
                "by hand": by_hand.limiter_async(nothing_async),
            },
            {"by hand": 1.3},
            awaited=True,
        ),
        Row(
            "timeout, async, never fires",
            {"ours": Timeout(30)(nothing_async), "asyncio.timeout": timeout_by_asyncio()},
            {"asyncio.timeout": 0.6},
            awaited=True,
        ),
        with_peer(blocking_stack, "nopanic", nopanic_stack(nothing), 0.25),
        with_peer(async_stack, "nopanic", nopanic_stack(nothing_async), 0.25),
        Row("five-policy stack with a timeout, async", {"ours": stack(timeout=30)(nothing_async)}, awaited=True),
    ]


quick = False
"""Whether the rows with one figure are only tried, as the others are with `--quick`."""


def repeated(times: int) -> int:
    """How often something is measured."""
    return 1 if quick else times


def million_calls_per_second() -> float:
    """8 threads on one closed breaker around a trivial call."""
    guarded, calls, start = CircuitBreaker("b")(nothing), 50_000, threading.Barrier(9)

    def work() -> None:
        start.wait()
        for _ in range(calls):
            guarded()

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    start.wait()
    started = time.perf_counter()
    for thread in threads:
        thread.join()
    return 8 * calls / (time.perf_counter() - started) / 1e6


def tasks_against_a_semaphore() -> float:
    """10,000 asyncio tasks through 100 slots: our time divided by that of `asyncio.Semaphore`."""

    async def through(enter: Callable[[], Any]) -> float:
        async def task() -> None:
            async with enter():
                await asyncio.sleep(0)

        started = time.perf_counter()
        await asyncio.gather(*(task() for _ in range(10_000)))
        return time.perf_counter() - started

    async def compared() -> float:
        bulkhead = Bulkhead("b", max_concurrent=100, max_queue=10_000, max_wait=60)
        semaphore = asyncio.Semaphore(100)
        turns = [(await through(bulkhead.guard), await through(lambda: semaphore)) for _ in range(repeated(5))]
        return statistics.median(ours / theirs for ours, theirs in turns)

    return asyncio.run(compared())


def timeout_on_trio() -> float:
    """Our time-out on trio: its time divided by that of `trio.fail_after`."""
    import trio

    guarded = Timeout(30)(nothing_async)

    async def by_trio() -> int:
        with trio.fail_after(30):
            return await nothing_async()

    async def timed(call: Callable[[], Any]) -> float:
        started = time.perf_counter()
        for _ in range(5_000):
            await call()
        return time.perf_counter() - started

    async def compared() -> float:
        turns = [(await timed(guarded), await timed(by_trio)) for _ in range(repeated(7))]
        return statistics.median(ours / theirs for ours, theirs in turns)

    return trio.run(compared)


def window_growth() -> float:
    """The time to count a call in the slowest of windows of 10 and 100,000 calls or buckets, against the fastest."""

    def timed(window: CountWindow | TimeWindow) -> float:
        made = window.start()
        for number in range(100_000):
            made.add(False, number * 0.001)
        started = time.perf_counter()
        for number in range(20_000):
            made.add(number % 50 == 0, 100 + number * 0.001)
        return time.perf_counter() - started

    sizes = (10, 1_000, 100_000)
    counts = [[timed(CountWindow(size)) for size in sizes] for _ in range(repeated(5))]
    times = [[timed(TimeWindow(size / 1000)) for size in sizes] for _ in range(repeated(5))]
    return max(statistics.median(turn[-1] / turn[0] for turn in turns) for turns in (counts, times))


def nanoseconds_per_policy() -> float:
    """What each further policy of the cheapest kind adds to a blocking call."""
    one = Pipeline(Fallback(value=None))(nothing)
    nine = Pipeline(*(Fallback(value=None) for _ in range(9)))(nothing)

    def timed(call: Callable[[], Any]) -> float:
        started = time.perf_counter()
        for _ in range(20_000):
            call()
        return (time.perf_counter() - started) / 20_000 * 1e9

    return statistics.median((timed(nine) - timed(one)) / 8 for _ in range(repeated(7)))


def least(calls: dict[str, Callable[[], Any]], *, times: int, turns: int) -> dict[str, float]:
    """Nanoseconds per call of each: they take turns, and the least disturbed turn of each counts.

    What is compared here differs by less than what other processes add to a median.
    """
    numbers = range(times)

    def timed(call: Callable[[], Any]) -> float:
        started = time.perf_counter()
        for _ in numbers:
            call()
        return (time.perf_counter() - started) / times * 1e9

    found = {name: [timed(call)] for name, call in calls.items()}
    for _ in range(turns):
        for name, call in calls.items():
            found[name].append(timed(call))
    return {name: min(samples) for name, samples in found.items()}


def telemetry_nanoseconds() -> float:
    """What recording the metrics of one call costs, the SDK's share included."""
    return _recorded_nanoseconds(spans="none")


def span_nanoseconds() -> float:
    """The same with a span of the call, sampled and handed to a processor that keeps it in memory."""
    return _recorded_nanoseconds(spans="call")


def _quiet() -> Callable[[], Any]:
    guarded = CircuitBreaker("b")(nothing)
    while telemetry.on:  # calls that still look for a provider are neither off nor on
        guarded()
    return guarded


def _recorded_nanoseconds(spans: SpanMode) -> float:
    guarded = _quiet()
    off = least({"off": guarded}, times=1_000, turns=repeated(30))["off"]
    with record_telemetry(spans=spans) as recorder:
        on = least({"on": guarded}, times=1_000, turns=repeated(30))["on"]
        assert recorder.value("resilience.call.duration") == 1_000 * (1 + repeated(30))
    return on - off


def own_nanoseconds() -> float:
    """What of the cost of the metrics is ours: a recorded call against an unrecorded one and the SDK's `record`."""
    guarded = _quiet()
    off = least({"off": guarded}, times=1_000, turns=repeated(30))["off"]
    with record_telemetry(spans="none"):
        guarded()
        instruments = telemetry.instruments
        assert instruments is not None
        record = instruments.call_duration
        series = {s.POLICY: "b", s.OPERATION: "nothing", s.OUTCOME: "success", s.RETRIED: False, s.DEGRADED: False}
        times = least({"on": guarded, "record": lambda: record(0.01, series)}, times=1_000, turns=repeated(30))
    return times["on"] - times["record"] - off


def telemetry_off_nanoseconds() -> float:
    """What the flag costs that calls look at where nobody records: a guarded call against one without that look."""
    guarded = _quiet()
    call = cast("Any", guarded).__resilience__.weave(CircuitBreaker("b"))[0]

    def without_flag(*args: Any, **kwargs: Any) -> Any:
        return call(args, kwargs)

    times = least({"with": guarded, "without": without_flag}, times=2_000, turns=repeated(100))
    return times["with"] - times["without"]


def bytes_per_breaker() -> float:
    """Memory of one breaker with everything that belongs to it alone."""
    import gc
    import tracemalloc

    keep: list[CircuitBreaker] = [CircuitBreaker("b") for _ in range(100)]
    gc.collect()
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    keep += [CircuitBreaker("b") for _ in range(1000)]
    used = tracemalloc.get_traced_memory()[0] - before
    tracemalloc.stop()
    return used / 1000


def import_milliseconds() -> float:
    """The fastest of five imports in fresh processes, less that of an empty one."""
    code = "import time; a = time.perf_counter(); import resilience_core; print((time.perf_counter() - a) * 1000)"
    runs = [
        float(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout)
        for _ in range(repeated(5))
    ]
    return min(runs)

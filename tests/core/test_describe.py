"""What a call can cost at worst, and the picture of a pipeline: computed from the configuration alone."""

from __future__ import annotations

import json
import math
import re
from typing import Any

import pytest

from resilience_core import (
    AdaptiveRetry,
    Bulkhead,
    Chaos,
    CircuitBreaker,
    Coalesce,
    Deadline,
    Event,
    Fallback,
    Gate,
    Hedge,
    Pipeline,
    Policy,
    RateLimiter,
    Reconfigured,
    Retry,
    StaleCache,
    Timeout,
    Verdict,
    WorstCase,
)
from resilience_core.testing import run_virtual
from tests.worlds import Script


def unknown(error: Exception) -> Verdict:
    return Verdict.UNKNOWN


def retry(name: str = "retry", **options: Any) -> Retry:
    return Retry(name, on=ConnectionError, jitter="none", **options)


class Doubling(Gate):
    """Somebody's policy that makes each call twice."""

    kind = "doubling"
    name = "doubling"

    def enter(self, args: Any, kwargs: Any) -> None: ...

    def settle(self, permit: Any, judgement: Any) -> None: ...

    def worst_case(self, inner: WorstCase) -> WorstCase:
        return WorstCase(2 * inner.requests, 2 * inner.seconds, 2 * inner.calls)


class Silent(Doubling):
    """One that does not say what it costs."""

    worst_case = None  # type: ignore[assignment]


@pytest.mark.parametrize(
    ("policies", "requests", "seconds", "calls"),
    [
        ([CircuitBreaker("b")], 1, 0, 1),
        ([Timeout(8)], 1, 8, 0),
        ([Timeout(30), Timeout(8)], 1, 8, 0),
        ([retry()], 3, 3, 3),
        ([retry(), Timeout(8)], 3, 27, 0),
        ([Timeout(20), retry(), Timeout(8)], 3, 20, 0),
        ([Retry(on=OSError), Timeout(8)], 3, 27.75, 0),
        ([Retry(classify=unknown), Timeout(8)], 3, 44, 0),
        ([retry(max_attempts=1), Timeout(8)], 1, 8, 0),
        ([retry(max_elapsed=5), Timeout(8)], 3, 13, 0),
        ([retry(max_elapsed=50), Timeout(8)], 3, 27, 0),
        ([retry(max_elapsed=5)], 3, 5, 1),
        ([retry(), retry("inner", only_outermost=True), Timeout(1)], 3, 6, 0),
        ([AdaptiveRetry(on=OSError), Timeout(8)], 3, math.inf, 0),
        ([Timeout(9), AdaptiveRetry(on=OSError), Timeout(2)], 3, 9, 0),
        ([AdaptiveRetry(on=OSError, max_attempts=1), Timeout(8)], 1, math.inf, 0),
        ([AdaptiveRetry(on=OSError, max_elapsed=5), Timeout(8)], 3, math.inf, 0),
        ([Deadline(10), AdaptiveRetry(on=OSError), Timeout(8)], 3, 18, 0),
        ([Deadline(10), retry(), Timeout(8)], 3, 18, 0),
        ([Deadline(10), retry()], 3, 10, 1),
        ([Deadline(60), retry(), Timeout(8)], 3, 27, 0),
        ([Deadline(2), Bulkhead("b", max_concurrent=1, max_queue=1, max_wait=3), Timeout(1)], 1, 3, 0),
        ([Deadline(60)], 1, 0, 1),
        ([Hedge(delay=2, idempotent=True), Timeout(8)], 2, 10, 0),
        ([Hedge(delay=2, max_hedges=3, idempotent=True)], 4, 6, 1),
        ([Hedge(delay=2, quantile=0.9, idempotent=True), Timeout(8)], 2, 16, 0),
        ([Hedge(delay=20, quantile=0.9, idempotent=True), Timeout(8)], 2, 28, 0),
        ([Hedge(delay=2, quantile=0.9, idempotent=True)], 2, 2, 2),
        ([Bulkhead("b", max_concurrent=1), Timeout(8)], 1, 8, 0),
        ([Bulkhead("b", max_concurrent=1, max_queue=1, max_wait=3), Timeout(8)], 1, 11, 0),
        ([RateLimiter("l", rate=1, max_wait=2), Timeout(8)], 1, 10, 0),
        ([Fallback(value=1), Timeout(8)], 1, 8, 0),
        ([Fallback(call=len), Timeout(8)], 1, 8, 1),
        ([Chaos(latency=2, latency_rate=0.1), Timeout(8)], 1, 10, 0),
        ([StaleCache(fresh_for=1, stale_for=1), Coalesce(), Deadline(60), Timeout(8)], 1, 8, 0),
        ([Doubling(), Timeout(8)], 2, 16, 0),
        ([Silent(), Timeout(8)], 1, 8, 0),
        ([Pipeline(retry(), name="a"), Pipeline(Timeout(8), name="a")], 3, 27, 0),
    ],
    ids=lambda value: "-".join(policy.kind for policy in value) if isinstance(value, list) else "",
)
@pytest.mark.filterwarnings("ignore::resilience_core.CompositionWarning")  # a plan that does not fit has a worst case
def test_the_worst_case_follows_from_the_configuration(
    policies: list[Policy], requests: int, seconds: float, calls: int
) -> None:
    pipeline = Pipeline(*policies, name="worst", idempotent=True)
    assert pipeline.worst_case() == WorstCase(requests, seconds, calls)
    told = json.loads(json.dumps(pipeline.describe()))["worst_case"]
    assert told == {"requests": requests, "seconds": None if math.isinf(seconds) else seconds, "calls": calls}


@pytest.mark.parametrize(
    ("worst", "told"),
    [
        (WorstCase(3, 27.75, 0), "3 requests in 27.75 s"),
        (WorstCase(1, 8, 0), "1 request in 8 s"),
        (WorstCase(3, 3.75, 3), "3 requests, 3.75 s and 3 calls of any length"),
        (WorstCase(1, 0, 1), "1 request, a call of any length"),
        (WorstCase(3, math.inf, 0), "3 requests, waits without a bound"),
    ],
    ids=str,
)
def test_the_worst_case_is_told_in_a_sentence(worst: WorstCase, told: str) -> None:
    assert str(worst) == told


def test_a_real_outage_costs_what_was_computed_and_no_more() -> None:
    async def story() -> None:
        from asyncio import get_running_loop, sleep

        pipeline = Pipeline(retry(), Timeout(8), name="real", idempotent=True, classify=unknown)

        async def hanging() -> None:
            script.calls += 1
            await sleep(1000)

        script = Script(None)
        began = get_running_loop().time()
        pipeline.reconfigure(Retry(classify=unknown, jitter="none"), Timeout(8))
        with pytest.raises(TimeoutError):
            await pipeline.acall(hanging)
        worst = pipeline.worst_case()
        assert script.calls == worst.requests == 3
        assert get_running_loop().time() - began == pytest.approx(27)
        assert worst.seconds >= 27

    run_virtual(story)


def test_the_text_ends_with_the_worst_case_also_around_other_pipelines() -> None:
    pipeline = Pipeline(Pipeline(retry(), name="inner"), CircuitBreaker("b"), Timeout(8), name="outer")
    assert str(pipeline).splitlines() == [
        "pipeline 'outer'",
        "  pipeline 'inner'",
        "    retry: 3 attempts, first wait 1 s, x2, at most 10 s, none jitter",
        "    circuit breaker 'b': opens after 5 consecutive failures, rejects for 60 s, closes after 2 good probes",
        "      timeout: gives the call up after 8 s",
        "  worst case: 3 requests in 27 s; a blocking call is not interrupted",
    ]
    assert pipeline.describe()["text"] == str(pipeline)


def test_the_picture_shows_the_chain_and_its_detours() -> None:
    pipeline = Pipeline(
        Fallback(value=1),
        Pipeline(Retry(on=OSError), Bulkhead("b", max_concurrent=1), name="inner"),
        Hedge(delay=1, idempotent=True),
        name="drawn",
        allow={"retry-outside-hedge": "to have both in one picture"},
    )
    lines = pipeline.describe()["mermaid"].splitlines()
    assert lines[0] == "flowchart LR"
    assert lines[1:7] == [
        '  caller(["caller"])',
        '  p0["fallback<br>answers a fixed value"]',
        '  p1["retry<br>3 attempts, first wait 1 s, x2, at most 10 s, proportional jitter"]',
        "  p2[\"bulkhead 'b'<br>1 calls at once\"]",
        '  p3["hedge<br>up to 1 further attempts, each after 1 s"]',
        '  function(["the function"])',
    ]
    assert lines[7:] == [
        "  caller --> p0 --> p1 --> p2 --> p3 --> function",
        '  p0 -. "answers instead" .-> caller',
        '  p2 -. "again" .-> p1',
        '  p2 -. "BulkheadFullError" .-> caller',
        '  p3 -. "once more, if late" .-> function',
    ]


def test_the_picture_shows_what_rejects() -> None:
    pipeline = Pipeline(AdaptiveRetry(on=OSError), Silent(), Timeout(8), name="drawn")
    detours = [line.strip() for line in pipeline.describe()["mermaid"].splitlines() if "-." in line]
    assert detours == [
        'p1 -. "again" .-> p0',
        'p0 -. "RateLimitedError" .-> caller',
        'p1 -. "CallRejected" .-> caller',
        'p2 -. "TimeoutExceeded" .-> caller',
    ]


@pytest.mark.parametrize("name", ['q"u[o]t{e}', "line\nbreak", "#35; `x`", "<b>&amp;|;", "a\\b", "é"])
def test_no_name_can_break_the_picture(name: str) -> None:
    pipeline = Pipeline(CircuitBreaker(name), Silent(), name="safe")
    for line in pipeline.describe()["mermaid"].splitlines():
        label = re.fullmatch(r'  \w+\(?\["(.*)"\]\)?', line)
        inside = "" if label is None else re.sub(r"<br>|#\d+;", "", label[1])
        assert not re.search(r'["#&<>;`\\|]', inside)
        assert label is not None or re.fullmatch(r"  [\w >-]+|flowchart LR|  \w+ -. \"[\w ,]+\" .-> \w+", line), line


def test_the_value_of_a_fallback_may_be_a_users_and_is_told_by_its_kind_only() -> None:
    fallback = Fallback(value="secret")
    assert fallback.describe()["options"]["value"] == "str"
    assert "secret" not in repr(fallback) + str(fallback.describe()) + str(Pipeline(fallback, name="told").describe())
    heard: list[Event] = []
    end = fallback.subscribe(heard.append)
    fallback.reconfigure(value="hidden")
    end()
    assert [event.changes for event in heard if isinstance(event, Reconfigured)] == [(("value", "str", "str"),)]

"""The stacks that most people want, with every number as docs/standard.md argues it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from resilience_core import (
    Bulkhead,
    CircuitBreaker,
    CircuitOpenError,
    ConfigurationError,
    Fallback,
    Hedge,
    RateLimiter,
    Retry,
    Verdict,
    lint,
    standard,
    standard_hedging,
)
from tests.worlds import Script, World

PAGE = Path(__file__).parents[2] / "docs" / "standard.md"


def kinds(pipeline: Any) -> list[str]:
    return [policy.kind for policy in pipeline]


def test_the_standard_stack_stands_in_its_order() -> None:
    pipeline = standard("graph", on=ConnectionError)
    assert kinds(pipeline) == ["timeout", "retry", "circuit_breaker", "bulkhead", "timeout"]
    assert {policy.name for policy in pipeline} == {"timeout", "retry", "graph"}
    assert pipeline.name == "graph"
    assert str(pipeline.worst_case()) == "3 requests in 27.75 s"


def test_the_hedging_stack_stands_in_its_order() -> None:
    pipeline = standard_hedging("graph", on=ConnectionError, idempotent=True)
    assert kinds(pipeline) == ["timeout", "hedge", "circuit_breaker", "bulkhead", "timeout"]
    assert str(pipeline.worst_case()) == "2 requests in 16 s"


def test_parts_of_ones_own_take_the_place_of_the_defaults() -> None:
    parts: dict[str, Any] = {
        "circuit_breaker": CircuitBreaker("own", failure_threshold=9),
        "bulkhead": Bulkhead("own", max_concurrent=3),
        "rate_limiter": RateLimiter("own", rate=80),
        "fallback": Fallback(value=None),
    }
    retry = Retry(on=OSError, max_attempts=2)
    pipeline = standard("graph", on=OSError, retry=retry, total_timeout=20, attempt_timeout=5, **parts)
    assert kinds(pipeline) == [
        "fallback", "timeout", "retry", "circuit_breaker", "bulkhead", "rate_limiter", "timeout"
    ]  # fmt: skip
    assert list(pipeline)[2] is retry
    assert set(parts.values()) <= set(pipeline)
    hedge = Hedge(delay=1)
    hedging = standard_hedging("graph", on=OSError, idempotent=True, hedge=hedge, **parts)
    assert list(hedging)[2] is hedge


def test_there_is_nothing_to_find_in_them() -> None:
    for pipeline in (
        standard("graph", on=ConnectionError),
        standard("graph", classify=lambda error: Verdict.UNKNOWN, idempotent=True),
        standard("graph", on=OSError, fallback=Fallback(value=1), rate_limiter=RateLimiter("graph", rate=5)),
        standard_hedging("graph", on=ConnectionError, idempotent=True),
    ):
        assert lint(pipeline) == ()


def test_what_is_meant_to_be_so_can_be_allowed() -> None:
    retry = Retry(on=OSError, max_attempts=9)
    allow = {"plan-exceeds-deadline": "most attempts fail at once"}
    assert lint(standard("graph", on=OSError, retry=retry, allow=allow)) == ()
    hedging = {"attempt-timeout-above-total": "shown here"}
    assert lint(standard_hedging("graph", on=OSError, idempotent=True, attempt_timeout=60, allow=hedging)) == ()


@pytest.mark.parametrize("stack", [standard, standard_hedging])
@pytest.mark.parametrize(
    "given", [{}, {"on": OSError, "classify": lambda error: Verdict.UNKNOWN}], ids=["none", "both"]
)
def test_it_must_be_said_what_a_failure_is(stack: Any, given: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError, match=r"say what a failure is by exactly one of on=.* and classify="):
        stack("graph", idempotent=True, **given)


def test_a_hedge_must_be_asked_for_with_open_eyes() -> None:
    for idempotent in (False, 1):
        with pytest.raises(ConfigurationError, match="say idempotent=True if that does no harm, or use standard"):
            standard_hedging("graph", on=OSError, idempotent=idempotent)  # type: ignore[arg-type]


def test_an_outage_opens_the_circuit_and_is_retried_within_the_budget(world: World) -> None:
    async def story() -> None:
        pipeline = standard("graph", on=ConnectionError)
        guarded = world.guard(pipeline, Script(ConnectionError()).fn)
        with pytest.raises(ConnectionError):
            await guarded()
        with pytest.raises(CircuitOpenError):
            await guarded()
        with pytest.raises(CircuitOpenError):
            await guarded()

    world.run(story)


def test_every_default_stands_on_the_page_that_argues_it() -> None:
    """The numbers of the page's tables are those of the code."""
    rows = dict(re.findall(r"^\| `([\w. ]+)` \| ([^|]+?) \|", PAGE.read_text(), re.MULTILINE))
    plain, hedging = standard("s", on=OSError), standard_hedging("h", on=OSError, idempotent=True)
    total, retry, breaker, bulkhead, attempt = plain
    hedge = list(hedging)[1]
    assert isinstance(retry, Retry)
    assert retry.budget is not None
    assert isinstance(hedge, Hedge)
    assert hedge.budget is not None
    real = {
        "total_timeout": f"{total.seconds:g} s",  # type: ignore[attr-defined]
        "attempt_timeout": f"{attempt.seconds:g} s",  # type: ignore[attr-defined]
        "retry.max_attempts": f"{retry.max_attempts}",
        "retry.base_delay": f"{retry.base_delay:g} s",
        "retry.multiplier": f"{retry.multiplier:g}",
        "retry.max_delay": f"{retry.max_delay:g} s",
        "retry.jitter": f"{retry.jitter}, {retry.jitter_share:.0%}",
        "retry.budget": str(retry.budget.law),
        "circuit_breaker.failure_threshold": f"{breaker.failure_threshold}",  # type: ignore[attr-defined]
        "circuit_breaker.recovery_timeout": f"{breaker.recovery_timeout:g} s",  # type: ignore[attr-defined]
        "circuit_breaker.success_threshold": f"{breaker.success_threshold}",  # type: ignore[attr-defined]
        "circuit_breaker.half_open_max_calls": f"{breaker.half_open_max_calls}",  # type: ignore[attr-defined]
        "bulkhead.max_concurrent": f"{bulkhead.max_concurrent}",  # type: ignore[attr-defined]
        "bulkhead.max_queue": f"{bulkhead.max_queue}",  # type: ignore[attr-defined]
        "rate_limiter": "none",
        "fallback": "none",
        "hedge.delay": f"{hedge.delay:g} s",
        "hedge.quantile": f"{hedge.quantile:g}",
        "hedge.minimum_samples": f"{hedge.minimum_samples}",
        "hedge.max_hedges": f"{hedge.max_hedges}",
        "hedge.budget": str(hedge.budget.law),
    }
    assert rows == real

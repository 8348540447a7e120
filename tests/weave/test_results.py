"""Judging results."""

from __future__ import annotations

import pytest

from resilience_core import CircuitBreaker, Fallback, Pipeline, Retry, Verdict
from tests.worlds import Script, World


def test_a_classifier_of_results_that_fails_changes_nothing(world: World, caplog: pytest.LogCaptureFixture) -> None:
    async def story() -> None:
        guarded = world.guard(Pipeline(CircuitBreaker("b"), classify_result=lambda value: 1 / 0), Script(5).fn)
        assert await guarded() == 5

    world.run(story)
    assert "classify_result failed" in caplog.text


def test_the_last_bad_result_is_returned(world: World) -> None:
    async def story() -> None:
        guarded = world.guard(
            Pipeline(
                Fallback(value=0, on=KeyError),
                Pipeline(Retry(base_delay=0, max_delay=0), classify_result=lambda value: Verdict.TRANSIENT),
                classify=lambda error: Verdict.PERMANENT,
            ),
            Script(1, 2, 3, 4).fn,
        )
        assert await guarded() == 3

    world.run(story)

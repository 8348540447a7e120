"""The lint is silent where a composition only looks like a wrong one; and over all pipelines of the documentation."""

from __future__ import annotations

import re
import warnings
from pathlib import Path
from typing import Any

import pytest

from resilience_core import (
    AdaptiveRetry,
    Bulkhead,
    Chaos,
    CircuitBreaker,
    Coalesce,
    CompositionWarning,
    ConfigurationError,
    Constant,
    Deadline,
    Fallback,
    Hedge,
    Keyed,
    Pipeline,
    Policy,
    RateLimiter,
    ResilienceError,
    Retry,
    RetryBudget,
    StaleCache,
    Timeout,
    Verdict,
    lint,
)
from resilience_core import _lint_rules as rules
from resilience_core.registry import registry

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


class Theirs(Policy):
    """Somebody's policy: what it does inside is not known."""

    kind = "theirs"
    name = "theirs"

    def bind(self, call: Any, site: Any) -> Any:
        return call

    def bind_async(self, call: Any, site: Any) -> Any:
        return call


def retry(name: str = "retry", **options: Any) -> Retry:
    return Retry(name, **{"on": ConnectionError, **options})


def breaker(name: str = "b", **options: Any) -> CircuitBreaker:
    return CircuitBreaker(name, **options)


def hedge(**options: Any) -> Hedge:
    return Hedge(delay=1.0, idempotent=True, **options)


def cache() -> StaleCache:
    return StaleCache(fresh_for=1, stale_for=1, while_revalidating=True)


def codes(*policies: Policy, **options: Any) -> list[str]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", CompositionWarning)
        return [finding.code for finding in lint(Pipeline(*policies, **options))]


@pytest.mark.parametrize(
    "policies",
    [
        [breaker("service"), retry(), breaker("host")],
        [RateLimiter("user", rate=1), retry(), RateLimiter("server", rate=5)],
        [breaker(), retry(max_attempts=1)],
        [RateLimiter("l", rate=5), retry(max_attempts=1)],
        [retry(max_attempts=1), hedge()],
        [retry(max_attempts=1), Fallback(value=1)],
        [retry(), retry("inner", max_attempts=1)],
    ],
    ids=["two breakers", "two limiters", *(f"one attempt {number}" for number in range(5))],
)
def test_a_policy_that_stands_inside_as_well_or_a_retry_that_makes_one_attempt(policies: list[Policy]) -> None:
    assert codes(*policies) == []


def test_a_retry_and_a_hedge_with_one_budget() -> None:
    budget = RetryBudget("both")
    assert codes(retry(budget=budget), hedge(budget=budget)) == []
    assert codes(retry(budget=budget), hedge(budget=RetryBudget("other"))) == ["retry-outside-hedge"]


@pytest.mark.parametrize(
    ("between", "told"),
    [
        ([Timeout(5)], False),  # what the time-out ends, the fallback inside it does not see
        ([Chaos(error=ConnectionError, error_rate=0.1)], False),
        ([Theirs()], False),
        ([Keyed(lambda key: breaker(), key=len)], False),
        ([breaker(), Bulkhead("b", max_concurrent=1), Coalesce()], True),
    ],
    ids=["timeout", "chaos", "theirs", "keyed", "gates"],
)
def test_a_fallback_inside_a_retry_that_sees_failures_from_between(between: list[Policy], told: bool) -> None:
    allow = {"fallback-inside-retry": "looked at here"} if told else None
    pipeline = Pipeline(retry(), *between, Fallback(value=1), allow=allow)
    assert lint(pipeline) == ()  # an `allow` that were not needed would be found


def test_a_fallback_inside_a_retry_that_asks_for_rejections_or_judges_results() -> None:
    assert codes(retry(on=(OSError, ResilienceError)), breaker(), Fallback(value=1)) == []
    assert codes(retry(classify_result=lambda value: Verdict.SUCCESS), Fallback(value=1)) == []
    assert codes(retry(on=lambda error: True), breaker(), Fallback(value=1, on=OSError)) == []


def test_a_fallback_with_a_call_is_told_as_what_it_is() -> None:
    with pytest.raises(ConfigurationError, match="so nothing is tried again unless the fallback fails, too"):
        Pipeline(retry(), Fallback(call=len))
    with pytest.raises(ConfigurationError, match=r"so nothing is tried again \("):
        Pipeline(retry(), Fallback(value=1))


def test_a_fetch_in_the_background_is_not_bound_by_its_callers_time() -> None:
    assert codes(Timeout(2), cache(), Timeout(5)) == []
    assert codes(Deadline(2), cache(), retry(), Timeout(1)) == []
    above_total = {"attempt-timeout-above-total": "both bind the fetch"}
    assert codes(Timeout(30), cache(), Timeout(5), Timeout(8), allow=above_total) == []


def test_a_stream_may_take_longer_for_an_item_than_for_its_opening() -> None:
    above_total = {"attempt-timeout-above-total": "both bind every item"}
    assert codes(Timeout(5), Timeout(9, per_item=True)) == []
    assert codes(Timeout(5, per_item=True), Timeout(9, per_item=True), allow=above_total) == []


def test_retries_of_different_failures_do_not_multiply() -> None:
    assert codes(retry("token", on=PermissionError), retry("net", on=(ConnectionError, TimeoutError))) == []
    assert codes(retry("all", on=OSError), retry("net", on=ConnectionError)) == ["nested-retries"]
    assert codes(retry("net", on=ConnectionError), retry("all", on=OSError)) == ["nested-retries"]
    assert codes(retry("net"), retry("some", on=lambda error: True)) == ["nested-retries"]


def test_three_retries_are_one_finding_with_their_product() -> None:
    with pytest.warns(CompositionWarning, match="3 x 3 x 2 = 18 requests"):
        Pipeline(retry("a"), retry("b"), AdaptiveRetry("c", on=ConnectionError, max_attempts=2))
    with pytest.warns(CompositionWarning, match="3 x 2 = 6 requests"):
        Pipeline(retry("a"), retry("b", only_outermost=True), retry("c", max_attempts=2))


def test_waits_of_a_function_may_have_a_jitter_of_their_own() -> None:
    assert codes(retry(backoff=lambda number: 1.0, jitter="none")) == []
    assert codes(retry(backoff=Constant(1), jitter="none")) == ["jitter-missing"]


@pytest.mark.parametrize("inside", [Theirs(), Keyed(lambda key: Timeout(5), key=len)], ids=["theirs", "keyed"])
def test_what_may_be_a_timeout_is_taken_for_one(inside: Policy) -> None:
    assert codes(Timeout(30), breaker(), inside) == []


def test_a_call_left_behind_in_a_thread_is_counted_when_it_ends() -> None:
    assert codes(Timeout(30, thread=True), breaker()) == []
    assert codes(Timeout(30), Timeout(20), breaker()) == ["breaker-without-inner-timeout"], "told once"


def test_pipelines_that_contain_each_other_are_no_strangers() -> None:
    shared = breaker("shared")
    inner = Pipeline(shared, name="orders")
    outer = Pipeline(Bulkhead("mail", max_concurrent=1), inner, shared, name="mail")
    assert lint(outer) == ()
    assert lint(inner) == ()


def test_a_pipeline_that_gave_a_policy_up_is_no_strangers() -> None:
    shared = breaker("shared")
    first = Pipeline(shared, name="orders")
    first.reconfigure(breaker("own"))
    assert lint(Pipeline(shared, name="mail")) == ()
    assert lint(first) == ()


def test_what_two_pipelines_inside_make_together_is_allowed_further_out_only() -> None:
    pipelines = [Pipeline(breaker(), name="first"), Pipeline(retry(), name="second")]
    allow = {"breaker-outside-retry": "looked at here"}
    with pytest.warns(CompositionWarning, match="in pipeline 'both'"):
        both = Pipeline(*pipelines, name="both")
    assert (
        lint(Pipeline(Pipeline(Bulkhead("o", max_concurrent=1), name="third"), both, name="outermost", allow=allow))
        == ()
    )


def test_a_plan_that_max_elapsed_shortens_is_told_with_what_it_takes() -> None:
    assert codes(Timeout(10), retry(max_elapsed=20)) == [], "attempts of any length are no plan"
    assert codes(Timeout(20), retry(max_elapsed=10), Timeout(8)) == []
    with pytest.warns(CompositionWarning, match="take 18 s, and everything ends after 10 s"):
        Pipeline(Timeout(10), retry(max_elapsed=10), Timeout(8))
    assert codes(Timeout(10), Timeout(9), retry(), Timeout(8)) == ["plan-exceeds-deadline"], "told once"
    assert codes(Deadline(20), AdaptiveRetry(on=OSError), Timeout(8)) == ["plan-exceeds-deadline"]
    assert codes(Deadline(30), AdaptiveRetry(on=OSError), Timeout(8)) == []


def test_a_hedge_that_nobody_declared_can_be_allowed() -> None:
    pipeline = Pipeline(Hedge(delay=1), allow={"hedge-not-idempotent": "a pipeline around declares it"})
    assert lint(pipeline) == ()


def test_a_pipeline_that_is_refused_is_not_registered() -> None:
    with pytest.raises(ConfigurationError) as refused:
        Pipeline(Timeout(5), Timeout(9), name="refused and gone")
    assert registry.find("refused and gone") == []
    assert refused.value is not None


@pytest.mark.usefixtures("redis_for_docs")
@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_there_is_nothing_to_find_in_the_pipelines_of_the_documentation(
    page: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[Pipeline] = []
    enlist = rules.enlist

    def collecting(pipeline: Pipeline) -> None:
        made.append(pipeline)
        enlist(pipeline)

    monkeypatch.setattr(rules, "enlist", collecting)
    if page.name == "lint.md":
        pytest.skip("this page is about what is wrong")
    namespace: dict[str, Any] = {}
    for block in re.findall(r"^```python\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL):
        exec(compile(block, str(page), "exec"), namespace)  # noqa: S102 - the code of our own pages
    assert [str(finding) for pipeline in made for finding in lint(pipeline)] == []
    assert made or "Pipeline(" not in page.read_text()

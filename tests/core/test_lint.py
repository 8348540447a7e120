"""What is wrong with the way policies are put together: each rule finds what it is for, and nothing else."""

from __future__ import annotations

import gc
import re
import warnings
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from resilience_core import (
    AdaptiveConcurrency,
    AdaptiveThrottle,
    Bulkhead,
    CircuitBreaker,
    Coalesce,
    CompositionWarning,
    ConfigurationError,
    Deadline,
    Fallback,
    Finding,
    Hedge,
    Keyed,
    Pipeline,
    Policy,
    RateLimiter,
    Retry,
    RetryBudget,
    StaleCache,
    Timeout,
    lint,
)
from resilience_core import _lint as rules
from resilience_core._weave import births
from resilience_core.registry import on_trial

ROOT = Path(__file__).parents[2]
HEDGE = {"delay": 1.0, "idempotent": True}


def retry(name: str = "retry", **options: Any) -> Retry:
    return Retry(name, **{"on": ConnectionError, **options})


def breaker(**options: Any) -> CircuitBreaker:
    return CircuitBreaker("b", **options)


# Code, severity, the wrong composition, and the one that is right.
CASES: list[tuple[str, str, Callable[[], list[Policy]], Callable[[], list[Policy]]]] = [
    ("breaker-outside-retry", "warning", lambda: [breaker(), retry()], lambda: [retry(), breaker()]),
    (
        "limiter-outside-retry",
        "warning",
        lambda: [RateLimiter("l", rate=5), retry()],
        lambda: [Bulkhead("l", max_concurrent=5), retry(), RateLimiter("l", rate=5)],
    ),
    (
        "limiter-outside-retry",
        "warning",
        lambda: [AdaptiveThrottle("l"), retry()],
        lambda: [retry(), AdaptiveThrottle("l")],
    ),
    (
        "limiter-outside-retry",
        "warning",
        lambda: [AdaptiveConcurrency("l"), retry()],
        lambda: [retry(), AdaptiveConcurrency("l")],
    ),
    ("retry-outside-hedge", "warning", lambda: [retry(), Hedge(**HEDGE)], lambda: [Hedge(**HEDGE), retry()]),
    (
        "hedge-not-idempotent",
        "error",
        lambda: [Hedge(delay=1, idempotent=False)],
        lambda: [Hedge(delay=1, idempotent=True)],
    ),
    (
        "fallback-inside-retry",
        "error",
        lambda: [retry(), Fallback(value=1)],
        lambda: [Fallback(value=1), retry()],
    ),
    (
        "fallback-inside-retry",
        "error",
        lambda: [retry(on=(ConnectionError, TimeoutError)), Fallback(value=1, on=OSError)],
        lambda: [retry(on=(ConnectionError, ValueError)), Fallback(value=1, on=OSError)],
    ),
    (
        "attempt-timeout-above-total",
        "error",
        lambda: [Timeout(5), Timeout(9)],
        lambda: [Timeout(5), Timeout(5)],
    ),
    ("attempt-timeout-above-total", "error", lambda: [Deadline(5), Timeout(9)], lambda: [Deadline(5), Timeout(4)]),
    (
        "plan-exceeds-deadline",
        "warning",
        lambda: [Timeout(20), retry(), Timeout(8)],
        lambda: [Timeout(27.75), retry(), Timeout(8)],
    ),
    ("plan-exceeds-deadline", "warning", lambda: [Deadline(3), retry()], lambda: [Deadline(3.75), retry()]),
    (
        "nested-retries",
        "warning",
        lambda: [retry("outer"), retry("inner", max_attempts=4)],
        lambda: [retry("outer"), retry("inner", only_outermost=True)],
    ),
    ("jitter-missing", "warning", lambda: [retry(jitter="none")], lambda: [retry(jitter="none", base_delay=0)]),
    ("jitter-missing", "warning", lambda: [retry(jitter_share=0)], lambda: [retry(jitter="full", jitter_share=0)]),
    (
        "breaker-without-inner-timeout",
        "warning",
        lambda: [Timeout(30), breaker()],
        lambda: [Timeout(30), breaker(), Timeout(8)],
    ),
    (
        "lease-not-above-timeout",
        "error",
        lambda: [breaker(probe_timeout=8), Timeout(8)],
        lambda: [breaker(probe_timeout=9), Timeout(8)],
    ),
]


def build(policies: list[Policy], **options: Any) -> Pipeline:
    return Pipeline(*policies, **options)


@pytest.mark.filterwarnings("default::resilience_core.CompositionWarning")
@pytest.mark.parametrize(("code", "severity", "wrong", "right"), CASES, ids=[case[0] for case in CASES])
def test_a_wrong_composition_is_told_when_it_is_made_and_a_right_one_is_not(
    code: str, severity: str, wrong: Any, right: Any
) -> None:
    if severity == "error":
        with pytest.raises(ConfigurationError) as refused:
            build(wrong())
        told = str(refused.value)
        assert told.startswith("Pipeline 'pipeline' cannot work.\n")
    else:
        with pytest.warns(CompositionWarning) as warned:
            build(wrong())
        assert [warning.filename for warning in warned] == [__file__], "it points at the line of the user"
        (told,) = [str(warning.message) for warning in warned]
    assert re.search(rf"^{code}: .+ \(.+ in pipeline 'pipeline'\)\. .+\. See docs/lint\.md#{code}$", told, re.MULTILINE)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert lint(build(right())) == ()


@pytest.mark.parametrize(("code", "severity", "wrong", "right"), CASES, ids=[case[0] for case in CASES])
def test_every_finding_can_be_silenced_with_a_reason(code: str, severity: str, wrong: Any, right: Any) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        allowed = build(wrong(), allow={code: "shown here"})
    assert lint(allowed) == ()


def test_every_rule_is_shown_above_and_has_its_section() -> None:
    shown = {case[0] for case in CASES} | {"shared-by-strangers", "unused-allow", "policy-per-call"}
    assert shown == set(rules.CODES)
    sections = re.findall(r"^## (.+)$", (ROOT / "docs" / "lint.md").read_text(), re.MULTILINE)
    assert set(sections) >= shown


def test_messages_carry_the_numbers() -> None:
    def told(*policies: Policy) -> Finding:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            (finding,) = lint(Pipeline(*policies, name="numbers"))
        return finding

    assert told(Timeout(20), retry(), Timeout(8)).message == (
        "3 attempts of up to 8 s and waits of up to 3.75 s take 27.75 s, and everything ends after 20 s"
    )
    assert told(Timeout(20), retry(), Timeout(8)).fix == "Give the whole 27.75 s, or let max_attempts be 2"
    assert told(Timeout(5), retry(), Timeout(5)).fix == "Give the whole 18.75 s, or let max_attempts be 1"
    assert told(Timeout(3), retry()).message == (
        "3 attempts and waits of up to 3.75 s take 3.75 s for the waits alone, and everything ends after 3 s"
    )
    assert "3 x 4 = 12 requests" in told(retry("one"), retry("two", max_attempts=4)).message
    assert told(retry(), Hedge(delay=1, max_hedges=2, idempotent=True)).message.startswith(
        "every attempt is hedged, which makes up to 9 requests of one call"
    )
    finding = told(breaker(), retry())
    assert finding.where == "circuit breaker 'b' and retry 'retry' in pipeline 'numbers'"
    assert finding.docs == "docs/lint.md#breaker-outside-retry"


# --- where a finding belongs -----------------------------------------------------------------------------------------


def test_what_a_pipeline_inside_has_told_is_not_told_again() -> None:
    with pytest.warns(CompositionWarning, match="in pipeline 'inner'"):
        inner = Pipeline(breaker(), retry(), name="inner")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        outer = Pipeline(Bulkhead("o", max_concurrent=1), inner, name="outer")
    assert [finding.code for finding in lint(outer)] == ["breaker-outside-retry"], "but it is there when asked"


def test_what_two_pipelines_make_together_is_told_by_the_outer_one() -> None:
    inner = Pipeline(retry(), name="inner")
    with pytest.warns(CompositionWarning, match=r"circuit breaker 'b' and retry 'retry' in pipeline 'outer'"):
        Pipeline(breaker(), inner, name="outer")


def test_an_allow_holds_for_what_lies_inside() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        inner = Pipeline(breaker(), retry(), name="inner", allow={"breaker-outside-retry": "shown here"})
        outer = Pipeline(Bulkhead("o", max_concurrent=1), Pipeline(inner, name="middle"), name="outer")
        assert lint(outer) == ()
    with pytest.warns(CompositionWarning, match="nested-retries"):
        twice = Pipeline(retry("above"), inner, name="twice")
    assert [finding.code for finding in lint(twice)] == ["nested-retries"]
    with pytest.warns(CompositionWarning):
        plain = Pipeline(breaker(), retry(), name="plain")
    assert lint(Pipeline(plain, name="around", allow={"breaker-outside-retry": "shown here"})) == ()


@pytest.mark.parametrize(
    ("allow", "told"),
    [
        ({"breaker-outside-rety": "x"}, "is no code; did you mean 'breaker-outside-retry'?; the codes are breaker-"),
        ({"breaker-outside-retry": " "}, "allow['breaker-outside-retry'] must say why, in words, not ' '"),
        ({"breaker-outside-retry": True}, "must say why, in words, not True"),
        (["breaker-outside-retry"], 'Pipeline: allow must be a mapping of codes to reasons, {"code": "why"}, not ['),
    ],
    ids=["unknown", "empty", "no words", "no mapping"],
)
def test_silence_needs_a_code_and_a_reason(allow: Any, told: str) -> None:
    with pytest.raises(ConfigurationError) as refused:
        Pipeline(breaker(), retry(), allow=allow)
    assert told in str(refused.value)


def test_an_allow_that_silences_nothing_is_found() -> None:
    with pytest.warns(CompositionWarning, match=r"unused-allow: it allows nested-retries, and nothing of that kind"):
        pipeline = Pipeline(retry(), name="tidy", allow={"nested-retries": "once upon a time"})
    assert [finding.code for finding in lint(pipeline)] == ["unused-allow"]


# --- single rules ----------------------------------------------------------------------------------------------------


def test_two_retries_with_one_budget_do_not_multiply() -> None:
    budget = RetryBudget("one")
    assert lint(Pipeline(retry("a", budget=budget), retry("b", budget=budget))) == ()
    with pytest.warns(CompositionWarning, match="nested-retries"):
        Pipeline(retry("a", budget=budget), retry("b", budget=RetryBudget("two")))


def test_who_declares_a_hedged_call_idempotent_may_stand_further_out() -> None:
    inner = Pipeline(Hedge(delay=1), name="inner")  # nobody's error so far
    assert [finding.message for finding in lint(inner)] == [
        "a hedged call may be carried out twice, and the call is not declared idempotent"
    ]
    assert lint(Pipeline(inner, name="outer", idempotent=True)) == ()
    with pytest.raises(ConfigurationError, match="declared not to be idempotent"):
        Pipeline(inner, name="outer", idempotent=False)
    with pytest.raises(ConfigurationError, match="declared not to be idempotent"):
        Pipeline(Hedge(delay=1), idempotent=False)
    assert lint(Pipeline(Hedge(delay=1, idempotent=True), idempotent=False)) == ()


@pytest.mark.parametrize(
    ("replaced", "retried"),
    [(ConnectionRefusedError, ConnectionError), (lambda error: True, OSError), (OSError, lambda error: True)],
    ids=["narrower", "predicate", "retries by predicate"],
)
def test_a_fallback_inside_a_retry_that_leaves_it_something_is_fine(replaced: Any, retried: Any) -> None:
    assert lint(Pipeline(retry(on=retried), Fallback(value=1, on=replaced))) == ()


def test_a_retry_that_makes_one_attempt_needs_neither_time_nor_jitter() -> None:
    assert lint(Pipeline(Timeout(5), retry(max_attempts=1, jitter="none"), Timeout(5))) == ()


def test_waits_in_queues_are_no_part_of_the_plan() -> None:
    bulkhead = Bulkhead("q", max_concurrent=1, max_queue=5, max_wait=60)
    assert lint(Pipeline(Timeout(30), retry(), bulkhead, Timeout(8))) == ()


def test_a_policy_shared_by_pipelines_of_one_family_is_fine() -> None:
    shared = CircuitBreaker("graph")
    pipelines = [Pipeline(shared, name=name) for name in ("graph.send", "graph.read", "graph", "graph.send")]
    pipelines.append(Pipeline(shared))  # without a name nothing is known of it
    assert [lint(pipeline) for pipeline in pipelines] == [()] * 5


def test_a_policy_shared_by_strangers_is_found() -> None:
    for shared in (CircuitBreaker("graph"), StaleCache("graph", fresh_for=1, stale_for=1), Coalesce("graph")):
        first = Pipeline(shared, name="orders")
        with pytest.warns(CompositionWarning, match="shared-by-strangers: pipeline 'orders' has it, too"):
            second = Pipeline(shared, name="mail")
        assert [finding.code for finding in lint(first)] == ["shared-by-strangers"]
        del first
        gc.collect()
        assert lint(second) == (), "it is no stranger's any more"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        one = RateLimiter("all", rate=5)
        kept = [
            Pipeline(one, name=name, allow={"shared-by-strangers": "one quota for all"}) for name in ("mail", "sms")
        ]
    assert lint(kept[0]) == ()


def test_a_stateless_policy_may_be_shared_by_anybody() -> None:
    shared = retry()
    kept = [Pipeline(shared, name=name) for name in ("orders", "mail")]
    assert lint(kept[1]) == ()


# --- decorators one above the other ----------------------------------------------------------------------------------


def test_decorators_one_above_the_other_are_a_chain() -> None:
    with pytest.warns(
        CompositionWarning, match=r"breaker-outside-retry: .*\(circuit breaker 'b' and retry 'retry'\)"
    ) as warned:

        @breaker()
        @retry()
        def fetch() -> None: ...

    assert [warning.filename for warning in warned] == [__file__]
    assert [finding.code for finding in lint(fetch)] == ["breaker-outside-retry"]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        again = Bulkhead("above", max_concurrent=1)(fetch)
    assert len(lint(again)) == 1, "told once, found again"


def test_decorators_that_can_never_work_are_refused() -> None:
    with pytest.raises(ConfigurationError, match=r"What guards fetch cannot work.\nattempt-timeout-above-total"):

        @Timeout(5)
        @Timeout(9)
        def fetch() -> None: ...


def test_a_decorated_function_keeps_what_its_pipeline_allows() -> None:
    @Pipeline(breaker(), retry(), allow={"breaker-outside-retry": "shown here"})
    def fetch() -> None: ...

    assert lint(fetch) == ()


def test_lint_takes_a_single_policy_and_nothing_that_is_none() -> None:
    assert [finding.where for finding in lint(retry(jitter="none"))] == ["retry 'retry'"]
    with pytest.raises(TypeError, match="lint needs a pipeline, a policy or a function guarded by one, not <built-in"):
        lint(len)


# --- policies made for each call -------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("default:policy-per-call")
def test_a_policy_that_is_made_for_each_call_is_noticed_once() -> None:
    def fetch() -> None:
        CircuitBreaker("per_call").call(int)

    def often() -> None:
        for _ in range(9 * births.ENOUGH):
            fetch()

    with pytest.warns(births.PolicyPerCallWarning) as warned:
        often()
    (told,) = warned
    assert re.search(
        r"this line has made \d+ policies like the circuit breaker 'per_call', of which", str(told.message)
    )
    assert told.filename == __file__


@pytest.mark.filterwarnings("default:policy-per-call")
def test_it_is_noticed_also_where_the_garbage_collector_comes_late() -> None:
    late: deque[CircuitBreaker] = deque(maxlen=births.ENOUGH * 6 // 10)

    def often() -> None:
        for _ in range(9 * births.ENOUGH):
            late.append(CircuitBreaker("late"))

    with pytest.warns(births.PolicyPerCallWarning, match="of which 61 are left"):
        often()


@pytest.mark.filterwarnings("error:policy-per-call")
def test_policies_that_are_kept_or_meant_to_be_many_are_not_noticed() -> None:
    kept = [CircuitBreaker("kept") for _ in range(3 * births.ENOUGH)]
    assert len(kept) == 3 * births.ENOUGH
    keyed = Keyed(lambda key: CircuitBreaker("keyed"), key=lambda key: key, max_keys=1)
    for key in range(2 * births.ENOUGH):
        keyed.call(lambda key: key, key)
    breaker = CircuitBreaker("tuned")
    for threshold in range(1, 2 * births.ENOUGH):
        breaker.reconfigure(failure_threshold=threshold)
    for _ in range(2 * births.ENOUGH):
        Retry(on=OSError)  # it knows nothing anyway


@pytest.mark.filterwarnings("error:policy-per-call")
def test_only_so_many_lines_are_watched(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(births, "_LINES", len(births._made))
    for _ in range(2 * births.ENOUGH):
        CircuitBreaker("unwatched")


# --- reloading -------------------------------------------------------------------------------------------------------


def test_a_change_that_cannot_work_is_refused_and_one_that_harms_is_told() -> None:
    attempts, attempt = retry(), Timeout(8)
    pipeline = Pipeline(Timeout(30), attempts, attempt, name="tuned")
    with pytest.raises(ConfigurationError, match="attempt-timeout-above-total"):
        attempt.reconfigure(seconds=60)
    assert attempt.seconds == 8
    with pytest.warns(CompositionWarning, match="plan-exceeds-deadline: 9 attempts"):
        attempts.reconfigure(max_attempts=9)
    assert attempts.max_attempts == 9
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        attempts.reconfigure(base_delay=1.0)
    pipeline.reconfigure(allow={"plan-exceeds-deadline": "most attempts fail at once"})
    assert lint(pipeline) == ()


def test_a_pipeline_on_trial_is_nobodys_neighbour() -> None:
    shared = CircuitBreaker("graph")
    with on_trial():
        trial = Pipeline(shared, name="orders")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert lint(Pipeline(shared, name="mail")) == ()
    assert trial.name == "orders"


# --- no false alarms -------------------------------------------------------------------------------------------------


def test_the_documentation_passes_but_for_the_page_about_what_is_wrong() -> None:
    """Every other page runs with warnings as errors (pyproject.toml), and none of them silences anything."""
    settings = (ROOT / "pyproject.toml").read_text()
    assert re.search(r'filterwarnings = \[\s*"error",', settings)
    for page in [ROOT / "README.md", *(ROOT / "docs").rglob("*.md")]:
        if page.name != "lint.md":
            assert not re.search(r"allow=|catch_warnings|simplefilter", page.read_text()), page

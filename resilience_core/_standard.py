"""The stacks that most people want. docs/standard.md argues every number, with its source."""

from __future__ import annotations

from collections.abc import Mapping

from resilience_core._errors import ConfigurationError
from resilience_core._machines.budget import TrafficRatio
from resilience_core._pipeline import Pipeline
from resilience_core._policies.bulkhead import Bulkhead
from resilience_core._policies.circuit_breaker import CircuitBreaker
from resilience_core._policies.fallback import Fallback
from resilience_core._policies.hedge import Hedge
from resilience_core._policies.rate_limiter import RateLimiter
from resilience_core._policies.retry import Retry
from resilience_core._policies.retry_budget import RetryBudget
from resilience_core._policies.timeout import Timeout
from resilience_core._validation import Seconds
from resilience_core._verdicts import Classifier, On, ResultClassifier
from resilience_core._weave.edge import Policy

TOTAL_TIMEOUT = 30.0
ATTEMPT_TIMEOUT = 8.0
MAX_CONCURRENT = 100
HEDGE_DELAY = 2.0
HEDGE_QUANTILE = 0.95
HEDGE_RATIO = 0.05
"""Of the calls that may be hedged: what a delay at the 95th percentile makes of them while all is well."""


def standard(
    name: str,
    *,
    on: On | None = None,
    classify: Classifier | None = None,
    classify_result: ResultClassifier | None = None,
    idempotent: bool | None = None,
    allow: Mapping[str, str] | None = None,
    fallback: Fallback | None = None,
    total_timeout: Seconds = TOTAL_TIMEOUT,
    retry: Retry | None = None,
    circuit_breaker: CircuitBreaker | None = None,
    bulkhead: Bulkhead | None = None,
    rate_limiter: RateLimiter | None = None,
    attempt_timeout: Seconds = ATTEMPT_TIMEOUT,
) -> Pipeline:
    """A pipeline for calls to one dependency, in the order that works.

        [fallback] > total 30 s > retry, 3 attempts > circuit breaker > bulkhead, 100 > [limiter] > attempt 8 s

    Args:
        name: of the pipeline, its breaker, its bulkhead and its retry budget.
        on: failures that count and are retried (class, tuple or predicate); all others say nothing.
        classify: judges exceptions, in place of `on`.
        classify_result: judges returned values.
        idempotent: whether a call may be carried out twice without harm; only then are unknown outcomes, time-outs
            among them, retried.
        allow: as in `Pipeline`, for parts of your own.
        fallback: put around everything; none by default.
        total_timeout: seconds for the whole call, retries and waits included.
        retry: in place of the default: 3 attempts, after about 1 s and 2 s, within a budget of a tenth of the calls.
        circuit_breaker: in place of the default: opens after 5 failures in a row for 60 s, closes after 2 successes.
        bulkhead: in place of the default: 100 calls at once, none waits.
        rate_limiter: none by default: no number fits everybody.
        attempt_timeout: seconds for one attempt.

    Raises:
        ConfigurationError: neither `on` nor `classify` is given, or both; or the parts do not go together.
    """
    _one_of("standard", on, classify)
    if retry is None:
        retry = Retry(on=on, budget=RetryBudget(name))
    gates = _gates(name, on, circuit_breaker, bulkhead, rate_limiter, attempt_timeout)
    policies = (fallback, Timeout(total_timeout), retry, *gates)
    return Pipeline(
        *(policy for policy in policies if policy is not None),
        name=name,
        classify=classify,
        classify_result=classify_result,
        idempotent=idempotent,
        allow=allow,
    )


def standard_hedging(
    name: str,
    *,
    idempotent: bool = False,
    on: On | None = None,
    classify: Classifier | None = None,
    classify_result: ResultClassifier | None = None,
    allow: Mapping[str, str] | None = None,
    fallback: Fallback | None = None,
    total_timeout: Seconds = TOTAL_TIMEOUT,
    hedge: Hedge | None = None,
    circuit_breaker: CircuitBreaker | None = None,
    bulkhead: Bulkhead | None = None,
    rate_limiter: RateLimiter | None = None,
    attempt_timeout: Seconds = ATTEMPT_TIMEOUT,
) -> Pipeline:
    """The same for calls whose slow tail hurts: a late attempt gets a second one beside it, in place of retries.

        [fallback] > total 30 s > hedge > circuit breaker > bulkhead, 100 > [limiter] > attempt 8 s

    Args:
        name: of the pipeline, its breaker, its bulkhead and its budget.
        idempotent: must be said: a hedged call may be carried out twice.
        on: failures that count (class, tuple or predicate); all others say nothing.
        classify: judges exceptions, in place of `on`.
        classify_result: judges returned values.
        allow: as in `Pipeline`, for parts of your own.
        fallback: put around everything; none by default.
        total_timeout: seconds for the whole call.
        hedge: in place of the default: one more attempt when the first takes longer than 95 % of the recent ones (2 s
            until 20 are known), for at most one call in twenty.
        circuit_breaker: as in `standard`.
        bulkhead: as in `standard`.
        rate_limiter: as in `standard`.
        attempt_timeout: seconds for one attempt.

    Raises:
        ConfigurationError: `idempotent=True` was not said; neither `on` nor `classify` is given, or both; or the parts
            do not go together.
    """
    if idempotent is not True:
        raise ConfigurationError(
            "standard_hedging: a hedged call may be carried out twice; say idempotent=True if that does no harm, or "
            "use standard()"
        )
    _one_of("standard_hedging", on, classify)
    if hedge is None:
        budget = RetryBudget(name, law=TrafficRatio(HEDGE_RATIO))
        hedge = Hedge(delay=HEDGE_DELAY, quantile=HEDGE_QUANTILE, budget=budget)
    gates = _gates(name, on, circuit_breaker, bulkhead, rate_limiter, attempt_timeout)
    policies = (fallback, Timeout(total_timeout), hedge, *gates)
    return Pipeline(
        *(policy for policy in policies if policy is not None),
        name=name,
        classify=classify,
        classify_result=classify_result,
        idempotent=idempotent,
        allow=allow,
    )


def _one_of(function: str, on: On | None, classify: Classifier | None) -> None:
    if (on is None) is (classify is None):
        raise ConfigurationError(
            f"{function}: say what a failure is by exactly one of on= (for example on=ConnectionError) and classify="
        )


def _gates(
    name: str,
    on: On | None,
    circuit_breaker: CircuitBreaker | None,
    bulkhead: Bulkhead | None,
    rate_limiter: RateLimiter | None,
    attempt_timeout: Seconds,
) -> list[Policy | None]:
    """What is passed by every attempt: decided first by what does not wait."""
    return [
        circuit_breaker or CircuitBreaker(name, on=on),
        bulkhead or Bulkhead(name, max_concurrent=MAX_CONCURRENT),
        rate_limiter,
        Timeout(attempt_timeout),
    ]

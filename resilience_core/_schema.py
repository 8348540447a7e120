"""What is told to operators, as data: the attributes, metrics, spans and events, each defined here and nowhere else.

Instruments, log records, the feed, the dashboard, the alert rules and the table in docs/observability.md are made from
it. No semantic convention exists for resilience; the names follow the rules of OpenTelemetry's, and shared attributes
(`error.type`, `http.request.resend_count`) keep their meaning.
"""

from __future__ import annotations

from typing import Literal, NamedTuple, TypeAlias

SCOPE = "resilience_core"
"""Name of the instrumentation scope."""
SCHEMA_URL = "https://opentelemetry.io/schemas/1.37.0"
PREFIX = "resilience"

# Attributes. Those of metrics have few values; `ATTEMPT_NUMBER` and what follows it is for spans and events only.
POLICY = f"{PREFIX}.policy.name"
OPERATION = f"{PREFIX}.operation.name"
OUTCOME = f"{PREFIX}.outcome"
RETRIED = f"{PREFIX}.call.retried"
DEGRADED = f"{PREFIX}.degraded"
ERROR_TYPE = "error.type"
REJECTION_REASON = f"{PREFIX}.rejection.reason"
CIRCUIT_STATE = f"{PREFIX}.circuit_breaker.state"
PREVIOUS_STATE = f"{PREFIX}.circuit_breaker.previous_state"
TRANSITION_REASON = f"{PREFIX}.transition.reason"
ATTEMPT_KIND = f"{PREFIX}.attempt.kind"
DELAY_SOURCE = f"{PREFIX}.retry.delay_source"
SUPPRESSED_REASON = f"{PREFIX}.retry.suppressed_reason"
TIMEOUT_SCOPE = f"{PREFIX}.timeout.scope"
FALLBACK_KIND = f"{PREFIX}.fallback.kind"
CACHE_RESULT = f"{PREFIX}.cache.result"
STORE_TYPE = f"{PREFIX}.store.type"
STORE_STATE = f"{PREFIX}.store.state"
STORE_OPERATION = f"{PREFIX}.store.operation"
ATTEMPT_NUMBER = f"{PREFIX}.attempt.number"
ATTEMPTS = f"{PREFIX}.call.attempts"
RETRIES = f"{PREFIX}.call.retries"
HEDGES = f"{PREFIX}.call.hedges"
WAITED = f"{PREFIX}.wait.duration"
WAIT_SOURCE = f"{PREFIX}.wait.source"
DELAY = f"{PREFIX}.retry.delay"
RETRY_AFTER = f"{PREFIX}.rejection.retry_after"
ENFORCED = f"{PREFIX}.rejection.enforced"
REJECTED = f"{PREFIX}.rejections.count"
SPARED = f"{PREFIX}.rejections.not_enforced"
REJECTED_FOR = f"{PREFIX}.rejections.duration"
TIMEOUT = f"{PREFIX}.timeout.duration"
AGE = f"{PREFIX}.cache.age"
FAULT = f"{PREFIX}.chaos.fault"
LIMIT = f"{PREFIX}.limit"
PREVIOUS_LIMIT = f"{PREFIX}.limit.previous"
LIMIT_REASON = f"{PREFIX}.limit.reason"
ACTOR = f"{PREFIX}.control.actor"
NOTE = f"{PREFIX}.control.note"
CONTROL_FOR = f"{PREFIX}.control.duration"
CHANGED = f"{PREFIX}.config.changed"
PROBLEMS = f"{PREFIX}.config.problems"
STORE_PROBLEM = f"{PREFIX}.store.problem"
OUTAGE = f"{PREFIX}.store.outage"
RESEND_COUNT = "http.request.resend_count"
STACKTRACE = "code.stacktrace"

STATES = ("closed", "open", "half_open", "forced_open", "disabled", "shadow")
"""Values of `CIRCUIT_STATE`."""
OUTCOMES = ("success", "error", "rejected", "timeout", "cancelled")
"""Values of `OUTCOME`."""

Instrument: TypeAlias = Literal["histogram", "counter", "gauge", "up_down_counter"]

_CALL = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)
_REQUEST = (0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10)
_COUNT = (1, 2, 3, 4, 5, 10)
_OPEN = (1, 5, 15, 30, 60, 300, 900, 3600)
_AGE = (1, 5, 15, 60, 300, 900, 3600, 21600, 86400)


class Metric(NamedTuple):
    """One metric."""

    name: str
    """Without the prefix."""
    instrument: Instrument
    unit: str
    description: str
    attributes: tuple[str, ...]
    answers: str
    """The question of an operator that it answers."""
    observed: bool = False
    """Read from the policies when a reader collects: it costs calls nothing."""
    buckets: tuple[float, ...] = ()
    opt_in: bool = False
    """Recorded only where `resilience_core.otel.configure` asks for it."""

    @property
    def full_name(self) -> str:
        """As OpenTelemetry knows it."""
        return f"{PREFIX}.{self.name}"

    @property
    def prometheus_name(self) -> str:
        """As a Prometheus exporter names it: of a histogram, the base of `_count`, `_sum` and `_bucket`.

        Exporters differ in whether they add `_ratio` to the unit 1, but none adds it twice: what is a ratio ends so.
        """
        unit = {"s": "_seconds", "{permit}/s": "_per_second"}.get(self.unit, "")
        total = "_total" if self.instrument == "counter" else ""
        return f"{prometheus_label(self.full_name)}{unit}{total}"


def prometheus_label(attribute: str) -> str:
    """An attribute as a Prometheus exporter names it."""
    return attribute.replace(".", "_")


CALL_DURATION = Metric(
    "call.duration",
    "histogram",
    "s",
    "Response time of guarded calls, retries and waits included",
    (POLICY, OPERATION, OUTCOME, ERROR_TYPE, RETRIED, DEGRADED),
    "How long do callers wait, how many calls are there, and how many succeed, before and after retries?",
    buckets=_CALL,
)
ATTEMPT_DURATION = Metric(
    "attempt.duration",
    "histogram",
    "s",
    "Duration of single attempts",
    (POLICY, OUTCOME, ERROR_TYPE, ATTEMPT_KIND),
    "How long does one try take?",
    buckets=_REQUEST,
    opt_in=True,
)
CALL_RETRIES = Metric(
    "call.retries",
    "histogram",
    "{retry}",
    "Retries of the calls that retried",
    (POLICY, OPERATION, OUTCOME),
    "How many retries are there (sum), and how many calls needed one (count)?",
    buckets=_COUNT,
)
RETRY_DELAY = Metric(
    "retry.delay",
    "histogram",
    "s",
    "Waits before retries",
    (POLICY, DELAY_SOURCE),
    "How long do calls back off?",
    buckets=_CALL,
)
RETRY_SUPPRESSED = Metric(
    "retry.suppressed",
    "counter",
    "{retry}",
    "Failed attempts after which no further one was made",
    (POLICY, SUPPRESSED_REASON),
    "Why do retries stop?",
)
BUDGET_AVAILABLE = Metric(
    "retry.budget.available",
    "gauge",
    "{token}",
    "What is left in a retry budget",
    (POLICY,),
    "Is there budget left for retries?",
    observed=True,
)
TRANSITIONS = Metric(
    "circuit_breaker.transitions",
    "counter",
    "{transition}",
    "Changes of a circuit's state",
    (POLICY, PREVIOUS_STATE, CIRCUIT_STATE, TRANSITION_REASON),
    "How often do circuits open?",
)
STATUS = Metric(
    "circuit_breaker.status",
    "up_down_counter",
    "1",
    "1 for the state a circuit is in",
    (POLICY, CIRCUIT_STATE),
    "Which circuits are open now?",
    observed=True,
)
FAILURE_RATIO = Metric(
    "circuit_breaker.failure_ratio",
    "gauge",
    "1",
    "Failures among the calls in a breaker's window",
    (POLICY,),
    "How close is a circuit to opening?",
    observed=True,
)
SLOW_RATIO = Metric(
    "circuit_breaker.slow_ratio",
    "gauge",
    "1",
    "Slow calls among the calls in a breaker's window",
    (POLICY,),
    "How close is a circuit to opening because calls are slow?",
    observed=True,
)
WINDOW_CALLS = Metric(
    "circuit_breaker.window.calls",
    "gauge",
    "{call}",
    "Calls in a breaker's window",
    (POLICY,),
    "On how many calls do the ratios stand?",
    observed=True,
)
OPEN_DURATION = Metric(
    "circuit_breaker.open.duration",
    "histogram",
    "s",
    "How long circuits were open before they let a probe through",
    (POLICY,),
    "How long are circuits open?",
    buckets=_OPEN,
)
REJECTIONS = Metric(
    "rejections",
    "counter",
    "{call}",
    "Calls that were not made",
    (POLICY, OPERATION, REJECTION_REASON),
    "How many calls are rejected, and why?",
)
TIMEOUTS = Metric(
    "timeouts",
    "counter",
    "{timeout}",
    "Calls and attempts that were given up",
    (POLICY, TIMEOUT_SCOPE),
    "How many calls run out of time?",
)
ABANDONED = Metric(
    "timeout.abandoned",
    "up_down_counter",
    "{thread}",
    "Threads that were abandoned and still run",
    (POLICY,),
    "Do abandoned threads pile up?",
    observed=True,
)
BULKHEAD_USAGE = Metric(
    "bulkhead.usage",
    "up_down_counter",
    "{call}",
    "Calls inside",
    (POLICY,),
    "How many calls are in flight?",
    observed=True,
)
BULKHEAD_LIMIT = Metric(
    "bulkhead.limit",
    "up_down_counter",
    "{call}",
    "Calls that may be inside",
    (POLICY,),
    "How many calls may be in flight?",
    observed=True,
)
QUEUE_USAGE = Metric(
    "bulkhead.queue.usage",
    "up_down_counter",
    "{call}",
    "Calls that wait for a slot",
    (POLICY,),
    "How long is the queue?",
    observed=True,
)
QUEUE_LIMIT = Metric(
    "bulkhead.queue.limit",
    "up_down_counter",
    "{call}",
    "Calls that may wait for a slot",
    (POLICY,),
    "How long may the queue become?",
    observed=True,
)
BULKHEAD_WAIT = Metric(
    "bulkhead.wait.duration",
    "histogram",
    "s",
    "Waits for a slot",
    (POLICY, OUTCOME),
    "How long do calls wait for a slot?",
    buckets=_CALL,
)
LIMITER_WAIT = Metric(
    "rate_limiter.wait.duration",
    "histogram",
    "s",
    "Waits for a permit",
    (POLICY, OUTCOME),
    "How long do calls wait for the rate limit?",
    buckets=_CALL,
)
PERMITS = Metric(
    "rate_limiter.permits.available",
    "gauge",
    "{permit}",
    "Permits at hand",
    (POLICY,),
    "How much of a rate limit is left?",
    observed=True,
)
LIMITER_RATE = Metric(
    "rate_limiter.rate",
    "gauge",
    "{permit}/s",
    "Permits per second, as set or as learnt from throttling",
    (POLICY,),
    "How fast may calls be made now?",
    observed=True,
)
FALLBACKS = Metric(
    "fallbacks",
    "counter",
    "{fallback}",
    "Failed calls that something else answered",
    (POLICY, FALLBACK_KIND, ERROR_TYPE),
    "How many answers are not the real ones?",
)
CALL_HEDGES = Metric(
    "call.hedges",
    "histogram",
    "{hedge}",
    "Further attempts of the calls that were hedged",
    (POLICY,),
    "How much more traffic does hedging make?",
    buckets=(1, 2, 3, 5),
)
HEDGE_WINS = Metric(
    "hedge.wins",
    "counter",
    "{call}",
    "Hedged calls, by the attempt that answered first",
    (POLICY, ATTEMPT_KIND),
    "Does hedging pay?",
)
CACHE_LOOKUPS = Metric(
    "cache.lookups",
    "counter",
    "{lookup}",
    "Answers of a cache",
    (POLICY, CACHE_RESULT),
    "How much of the traffic does a cache take?",
)
CACHE_AGE = Metric(
    "cache.age",
    "histogram",
    "s",
    "Age of what a cache answered with",
    (POLICY, CACHE_RESULT),
    "How old are the answers?",
    buckets=_AGE,
)
CACHE_ENTRIES = Metric(
    "cache.entries",
    "up_down_counter",
    "{entry}",
    "Entries of a cache",
    (POLICY,),
    "How large is a cache?",
    observed=True,
)
STORE_STATUS = Metric(
    "store.status",
    "up_down_counter",
    "1",
    "1 for the state that the store of a fleet is in",
    (STORE_TYPE, STORE_STATE),
    "Is state shared right now?",
    observed=True,
)
STORE_DURATION = Metric(
    "store.operation.duration",
    "histogram",
    "s",
    "Exchanges with the store of a fleet",
    (STORE_TYPE, STORE_OPERATION, ERROR_TYPE),
    "How fast is the store?",
    buckets=_REQUEST,
    opt_in=True,
)
RELOADS = Metric(
    "config.reloads",
    "counter",
    "{reload}",
    "Configuration files that have changed, applied (success) or refused (error)",
    (OUTCOME,),
    "Was the last change of the configuration taken?",
)

METRICS: tuple[Metric, ...] = tuple(each for each in globals().copy().values() if isinstance(each, Metric))
"""All of them, in this order."""

CALL_SPAN = f"{PREFIX} {{name}}"
"""Name of the span of a call, with the policy's name."""
ATTEMPT_SPAN = "attempt"
WAIT_SPAN = "wait {source}"
"""Name of the span of a wait: `bulkhead`, `rate_limiter` or `backoff`."""
SHORTEST_WAIT = 0.001
"""Seconds that a wait must have lasted to get a span."""

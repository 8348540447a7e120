"""Composable resilience policies for blocking, asyncio and trio code."""

from typing import TYPE_CHECKING, Any

from resilience_core._clock import Chance, Clock
from resilience_core._errors import (
    BulkheadFullError,
    CallRejected,
    CircuitOpenError,
    ConfigurationError,
    DeadlineExceeded,
    LastFailure,
    RateLimitedError,
    RejectionReason,
    ResilienceError,
    RetryBudgetExhausted,
    TimeoutExceeded,
)
from resilience_core._events import (
    ChaosInjected,
    CircuitTransition,
    Event,
    FallbackUsed,
    HedgeStarted,
    HedgeWon,
    LimitChanged,
    Listener,
    Reconfigured,
    Rejection,
    RetryScheduled,
    RetrySuppressed,
    StaleServed,
    TimeoutExpired,
    subscribe,
)
from resilience_core._machines.backoff import Constant, Exponential, Linear
from resilience_core._machines.circuit import CircuitState
from resilience_core._machines.freshness import Freshness
from resilience_core._machines.trip_rules import AnyOf, ConsecutiveFailures, TripCounter, TripRule
from resilience_core._pipeline import Pipeline
from resilience_core._policies.bulkhead import Bulkhead
from resilience_core._policies.circuit_breaker import CircuitBreaker
from resilience_core._policies.fallback import Fallback
from resilience_core._policies.rate_limiter import RateLimiter
from resilience_core._policies.retry import Attempt, Retry
from resilience_core._policies.timeout import Timeout
from resilience_core._verdicts import Classifier, Judgement, ResultClassifier, Verdict, judgement_of
from resilience_core._version import __version__
from resilience_core._weave.births import CompositionWarning
from resilience_core._weave.deadline import remaining
from resilience_core._weave.edge import Policy
from resilience_core._weave.gate import Gate
from resilience_core._weave.priority import Priority, current_priority, prioritised
from resilience_core._weave.sharing import Fleet
from resilience_core._weave.site import AsyncCall, Call, Site
from resilience_core.registry import registry

if TYPE_CHECKING:
    from resilience_core._config_events import ConfigurationRefused, ConfigurationReloaded
    from resilience_core._describe import WorstCase
    from resilience_core._explain import Decision, Explanation, explain
    from resilience_core._fleet_events import RecordIgnored, StoreDegraded, StoreRecovered
    from resilience_core._lint import lint
    from resilience_core._lint_rules import Finding
    from resilience_core._machines.budget import InFlightRatio, TokenQuota, TokenThrottle, TrafficRatio
    from resilience_core._machines.concurrency import AIMD, Gradient2, Steady, Vegas
    from resilience_core._machines.rates import FailureRate, SlowCallRate
    from resilience_core._machines.recovery import ProbeRate, RampStep, RecoveryBackoff
    from resilience_core._machines.windows import CountWindow, TimeWindow
    from resilience_core._policies._stores import CacheStore, FileStore, MemoryStore
    from resilience_core._policies.adaptive_concurrency import AdaptiveConcurrency
    from resilience_core._policies.adaptive_retry import AdaptiveRetry
    from resilience_core._policies.adaptive_throttle import AdaptiveThrottle
    from resilience_core._policies.chaos import Chaos
    from resilience_core._policies.coalesce import Coalesce
    from resilience_core._policies.deadline import Deadline, deadline, deadline_from, inject_deadline
    from resilience_core._policies.hedge import Hedge
    from resilience_core._policies.keyed import Keyed
    from resilience_core._policies.retry_budget import RetryBudget
    from resilience_core._policies.stale_cache import CacheEntry, StaleCache
    from resilience_core._standard import standard, standard_hedging

__all__ = [
    "AIMD",
    "AdaptiveConcurrency",
    "AdaptiveRetry",
    "AdaptiveThrottle",
    "AnyOf",
    "AsyncCall",
    "Attempt",
    "Bulkhead",
    "BulkheadFullError",
    "CacheEntry",
    "CacheStore",
    "Call",
    "CallRejected",
    "Chance",
    "Chaos",
    "ChaosInjected",
    "CircuitBreaker",
    "CircuitOpenError",
    "CircuitState",
    "CircuitTransition",
    "Classifier",
    "Clock",
    "Coalesce",
    "CompositionWarning",
    "ConfigurationError",
    "ConfigurationRefused",
    "ConfigurationReloaded",
    "ConsecutiveFailures",
    "Constant",
    "CountWindow",
    "Deadline",
    "DeadlineExceeded",
    "Decision",
    "Event",
    "Explanation",
    "Exponential",
    "FailureRate",
    "Fallback",
    "FallbackUsed",
    "FileStore",
    "Finding",
    "Fleet",
    "Freshness",
    "Gate",
    "Gradient2",
    "Hedge",
    "HedgeStarted",
    "HedgeWon",
    "InFlightRatio",
    "Judgement",
    "Keyed",
    "LastFailure",
    "LimitChanged",
    "Linear",
    "Listener",
    "MemoryStore",
    "Pipeline",
    "Policy",
    "Priority",
    "ProbeRate",
    "RampStep",
    "RateLimitedError",
    "RateLimiter",
    "Reconfigured",
    "RecordIgnored",
    "RecoveryBackoff",
    "Rejection",
    "RejectionReason",
    "ResilienceError",
    "ResultClassifier",
    "Retry",
    "RetryBudget",
    "RetryBudgetExhausted",
    "RetryScheduled",
    "RetrySuppressed",
    "Site",
    "SlowCallRate",
    "StaleCache",
    "StaleServed",
    "Steady",
    "StoreDegraded",
    "StoreRecovered",
    "TimeWindow",
    "Timeout",
    "TimeoutExceeded",
    "TimeoutExpired",
    "TokenQuota",
    "TokenThrottle",
    "TrafficRatio",
    "TripCounter",
    "TripRule",
    "Vegas",
    "Verdict",
    "WorstCase",
    "__version__",
    "current_priority",
    "deadline",
    "deadline_from",
    "explain",
    "inject_deadline",
    "judgement_of",
    "lint",
    "prioritised",
    "registry",
    "remaining",
    "standard",
    "standard_hedging",
    "subscribe",
]

# Imported on first use, because making their classes takes as long as all the rest together.
_LAZY = {
    "AIMD": "_machines.concurrency",
    "AdaptiveConcurrency": "_policies.adaptive_concurrency",
    "AdaptiveRetry": "_policies.adaptive_retry",
    "AdaptiveThrottle": "_policies.adaptive_throttle",
    "CacheEntry": "_policies.stale_cache",
    "CacheStore": "_policies._stores",
    "Chaos": "_policies.chaos",
    "Coalesce": "_policies.coalesce",
    "ConfigurationRefused": "_config_events",
    "ConfigurationReloaded": "_config_events",
    "CountWindow": "_machines.windows",
    "Deadline": "_policies.deadline",
    "Decision": "_explain",
    "Explanation": "_explain",
    "FailureRate": "_machines.rates",
    "FileStore": "_policies._stores",
    "Finding": "_lint_rules",
    "Gradient2": "_machines.concurrency",
    "Hedge": "_policies.hedge",
    "InFlightRatio": "_machines.budget",
    "Keyed": "_policies.keyed",
    "MemoryStore": "_policies._stores",
    "ProbeRate": "_machines.recovery",
    "RampStep": "_machines.recovery",
    "RecordIgnored": "_fleet_events",
    "RecoveryBackoff": "_machines.recovery",
    "RetryBudget": "_policies.retry_budget",
    "SlowCallRate": "_machines.rates",
    "StaleCache": "_policies.stale_cache",
    "Steady": "_machines.concurrency",
    "StoreDegraded": "_fleet_events",
    "StoreRecovered": "_fleet_events",
    "TimeWindow": "_machines.windows",
    "TokenQuota": "_machines.budget",
    "TokenThrottle": "_machines.budget",
    "TrafficRatio": "_machines.budget",
    "Vegas": "_machines.concurrency",
    "WorstCase": "_describe",
    "deadline": "_policies.deadline",
    "deadline_from": "_policies.deadline",
    "explain": "_explain",
    "inject_deadline": "_policies.deadline",
    "lint": "_lint",
    "standard": "_standard",
    "standard_hedging": "_standard",
}


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    value = globals()[name] = getattr(import_module(f"{__name__}.{_LAZY[name]}"), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})

"""Composable resilience policies for blocking, asyncio and trio code."""

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
    CircuitTransition,
    Event,
    FallbackUsed,
    Listener,
    Rejection,
    RetryScheduled,
    RetrySuppressed,
    StaleServed,
    TimeoutExpired,
    subscribe,
)
from resilience_core._machines.backoff import Constant, Exponential, Linear
from resilience_core._machines.budget import InFlightRatio, TokenQuota, TokenThrottle, TrafficRatio
from resilience_core._machines.circuit import CircuitState, ProbeRate, RampStep, RecoveryBackoff
from resilience_core._machines.freshness import Freshness
from resilience_core._machines.trip_rules import (
    AnyOf,
    ConsecutiveFailures,
    FailureRate,
    SlowCallRate,
    TripCounter,
    TripRule,
)
from resilience_core._machines.windows import CountWindow, TimeWindow
from resilience_core._pipeline import Pipeline
from resilience_core._policies.bulkhead import Bulkhead
from resilience_core._policies.circuit_breaker import CircuitBreaker
from resilience_core._policies.fallback import Fallback
from resilience_core._policies.rate_limiter import RateLimiter
from resilience_core._policies.retry import Attempt, Retry
from resilience_core._policies.retry_budget import RetryBudget
from resilience_core._policies.stale_cache import CacheEntry, StaleCache
from resilience_core._policies.timeout import Timeout
from resilience_core._verdicts import Classifier, Judgement, ResultClassifier, Verdict, judgement_of
from resilience_core._version import __version__
from resilience_core._weave.deadline import remaining
from resilience_core._weave.edge import Policy
from resilience_core._weave.gate import Gate
from resilience_core._weave.site import AsyncCall, Call, Site
from resilience_core.registry import registry

__all__ = [
    "AnyOf",
    "AsyncCall",
    "Attempt",
    "Bulkhead",
    "BulkheadFullError",
    "CacheEntry",
    "Call",
    "CallRejected",
    "Chance",
    "CircuitBreaker",
    "CircuitOpenError",
    "CircuitState",
    "CircuitTransition",
    "Classifier",
    "Clock",
    "ConfigurationError",
    "ConsecutiveFailures",
    "Constant",
    "CountWindow",
    "DeadlineExceeded",
    "Event",
    "Exponential",
    "FailureRate",
    "Fallback",
    "FallbackUsed",
    "Freshness",
    "Gate",
    "InFlightRatio",
    "Judgement",
    "LastFailure",
    "Linear",
    "Listener",
    "Pipeline",
    "Policy",
    "ProbeRate",
    "RampStep",
    "RateLimitedError",
    "RateLimiter",
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
    "TimeWindow",
    "Timeout",
    "TimeoutExceeded",
    "TimeoutExpired",
    "TokenQuota",
    "TokenThrottle",
    "TrafficRatio",
    "TripCounter",
    "TripRule",
    "Verdict",
    "__version__",
    "judgement_of",
    "registry",
    "remaining",
    "subscribe",
]

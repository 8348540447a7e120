"""The metrics: instruments made from the schema, fed by finished calls, by events, and by what policies tell of now.

Reading a policy's state is done when a reader collects. Policies of one name are one series: their numbers are added
up, so that however many there are, a name is a handful of series.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

from resilience_core import _schema as s
from resilience_core._event_records import error_type
from resilience_core._events import (
    CircuitTransition,
    Event,
    FallbackUsed,
    HedgeWon,
    Rejection,
    RetryScheduled,
    RetrySuppressed,
    StaleServed,
    TimeoutExpired,
)
from resilience_core._fork import no_forks
from resilience_core._telemetry._recording import called
from resilience_core._telemetry._switch import stores, telemetry
from resilience_core.registry import Named, registry

if TYPE_CHECKING:
    from opentelemetry.metrics import CallbackOptions, Meter, Observation

OTHER = "_OTHER"
"""In place of the names beyond the limits: OpenTelemetry's word for it in `error.type`."""
POLICIES, OPERATIONS, ERRORS = 1_000, 1_000, 100
"""Names that become attributes of metrics; so many error types for each place where calls are guarded."""


class Few:
    """Lets so many different names pass, and answers `OTHER` for all further ones."""

    __slots__ = ("_known", "_most")

    def __init__(self, most: int) -> None:
        self._known: set[str] = set()
        self._most = most

    def __call__(self, name: str) -> str:
        if name in self._known:
            return name
        if len(self._known) >= self._most:
            return OTHER
        self._known.add(name)
        return name


Read = Callable[[Mapping[str, Any]], Iterable[tuple[float, dict[str, Any]]]]
"""From a snapshot to values with attributes."""


def _value(key: str) -> Read:
    def read(snapshot: Mapping[str, Any]) -> Iterable[tuple[float, dict[str, Any]]]:
        value = snapshot.get(key)
        return () if value is None else ((value, {}),)

    return read


def _state(snapshot: Mapping[str, Any]) -> Iterable[tuple[float, dict[str, Any]]]:
    return [(int(snapshot["state"] == state), {s.CIRCUIT_STATE: state}) for state in s.STATES]


# Each observed metric: of which kinds of policies, and what of their snapshots.
_OBSERVED: dict[s.Metric, tuple[tuple[str, ...], Read]] = {
    s.STATUS: (("circuit_breaker",), _state),
    s.FAILURE_RATIO: (("circuit_breaker",), _value("failure_ratio")),
    s.SLOW_RATIO: (("circuit_breaker",), _value("slow_ratio")),
    s.WINDOW_CALLS: (("circuit_breaker",), _value("window_calls")),
    s.BUDGET_AVAILABLE: (("retry_budget",), _value("balance")),
    s.ABANDONED: (("timeout",), _value("abandoned_threads")),
    s.BULKHEAD_USAGE: (("bulkhead", "adaptive_concurrency"), _value("in_flight")),
    s.BULKHEAD_LIMIT: (("bulkhead", "adaptive_concurrency"), _value("limit")),
    s.QUEUE_USAGE: (("bulkhead",), _value("waiting")),
    s.QUEUE_LIMIT: (("bulkhead",), _value("queue_limit")),
    s.PERMITS: (("rate_limiter",), _value("available")),
    s.LIMITER_RATE: (("rate_limiter", "adaptive_retry"), _value("rate")),
    s.CACHE_ENTRIES: (("stale_cache",), _value("entries")),
}


_ONE_OF_MANY = (s.FAILURE_RATIO, s.SLOW_RATIO)
"""Of several policies of one name, the largest value counts: the sum of ratios means nothing."""


def _told(policy: Named, read: Read) -> Iterable[tuple[float, dict[str, Any]]]:
    """What one policy tells; nothing where that fails, so that the others are told all the same."""
    try:
        with no_forks:  # it has a lock, and readers have threads
            return tuple(read(policy.snapshot()))
    except Exception as error:  # of a policy of somebody else's
        telemetry.failed("states", error)
        return ()


class Instruments:
    """The instruments of one meter."""

    def __init__(self, meter: Meter, collected: Callable[[], None]) -> None:
        self._collected = collected
        self._policies, self._operations, self._errors = Few(POLICIES), Few(OPERATIONS), Few(ERRORS)
        self._record: dict[s.Metric, Callable[..., None]] = {}
        self._hear: dict[type, Callable[[Any], None]] = {
            CircuitTransition: self._transition,
            Rejection: self._rejection,
            RetryScheduled: self._retry,
            RetrySuppressed: self._suppressed,
            TimeoutExpired: self._timeout,
            FallbackUsed: self._fallback,
            StaleServed: self._stale,
            HedgeWon: self._hedge,
        }
        for metric in s.METRICS:
            if metric.observed:
                make = getattr(meter, f"create_observable_{metric.instrument}")
                make(metric.full_name, [self._reader(metric)], metric.unit, metric.description)
            elif metric.instrument == "histogram":
                self._record[metric] = meter.create_histogram(
                    metric.full_name,
                    metric.unit,
                    metric.description,
                    explicit_bucket_boundaries_advisory=metric.buckets,
                ).record
            else:
                self._record[metric] = meter.create_counter(metric.full_name, metric.unit, metric.description).add
        self.call_duration = self._record[s.CALL_DURATION]

    def record(self, metric: s.Metric, value: float, attributes: dict[str, Any]) -> None:
        """Record one value of a histogram."""
        self._record[metric](value, attributes)

    add = record
    """Add to a counter."""

    # --- calls -------------------------------------------------------------------------------------------------------

    def series(self, site: Any, outcome: str, error: BaseException | None, retried: bool, degraded: bool) -> Any:
        """The attributes of calls that ended so at `site`, made once."""
        kind = None if error is None else error_type(error)
        key = (outcome, kind, retried, degraded)
        found = site.series.get(key)
        if found is None:
            if len(site.series) >= ERRORS and kind is not None:
                kind, key = OTHER, (outcome, OTHER, retried, degraded)
            found = site.series[key] = {
                s.POLICY: self._policies(site.pipeline),
                s.OPERATION: self._operations(site.operation),
                s.OUTCOME: outcome,
                s.RETRIED: retried,
                s.DEGRADED: degraded,
            }
            if kind is not None:
                found[s.ERROR_TYPE] = kind
        return found

    def attempt(self, policy: str, seconds: float, outcome: str, error: BaseException | None, kind: str) -> None:
        """Record one attempt."""
        attributes = {s.POLICY: self._policies(policy), s.OUTCOME: outcome, s.ATTEMPT_KIND: kind}
        if error is not None:
            attributes[s.ERROR_TYPE] = self._errors(error_type(error))
        self.record(s.ATTEMPT_DURATION, seconds, attributes)

    def wait(self, metric: s.Metric, policy: str, seconds: float, outcome: str) -> None:
        """Record one wait for a slot or a permit."""
        self.record(metric, seconds, {s.POLICY: self._name(policy), s.OUTCOME: outcome})

    def lookup(self, cache: str, result: str, age: float | None) -> None:
        """Count one look into a cache, and record the age of what it answered."""
        attributes = {s.POLICY: self._name(cache), s.CACHE_RESULT: result}
        self.add(s.CACHE_LOOKUPS, 1, attributes)
        if age is not None:
            self.record(s.CACHE_AGE, age, attributes)

    # --- events ------------------------------------------------------------------------------------------------------

    def hear(self, event: Event) -> None:
        """Count what a policy tells."""
        told = self._hear.get(type(event))
        if told is not None:
            told(event)

    def _transition(self, event: CircuitTransition) -> None:
        if event.previous_state == event.state:  # forced again, by somebody else or for longer
            return
        policy = {s.POLICY: self._name(event.policy)}
        states = {s.PREVIOUS_STATE: str(event.previous_state), s.CIRCUIT_STATE: str(event.state)}
        self.add(s.TRANSITIONS, 1, policy | states | {s.TRANSITION_REASON: event.reason})
        if event.previous_state == "open" and event.lasted is not None:
            self.record(s.OPEN_DURATION, event.lasted, policy)

    def _rejection(self, event: Rejection) -> None:
        if event.enforced:
            attributes = self._of(event.policy, event.operation) | {s.REJECTION_REASON: event.reason.value}
            self.add(s.REJECTIONS, 1, attributes)

    def _retry(self, event: RetryScheduled) -> None:
        attributes = {s.POLICY: self._name(event.policy), s.DELAY_SOURCE: event.delay_source}
        self.record(s.RETRY_DELAY, event.delay, attributes)

    def _suppressed(self, event: RetrySuppressed) -> None:
        attributes = {s.POLICY: self._name(event.policy), s.SUPPRESSED_REASON: event.reason}
        self.add(s.RETRY_SUPPRESSED, 1, attributes)

    def _timeout(self, event: TimeoutExpired) -> None:
        self.add(s.TIMEOUTS, 1, {s.POLICY: self._name(event.policy), s.TIMEOUT_SCOPE: event.scope})

    def _fallback(self, event: FallbackUsed) -> None:
        self._instead(event.policy, event.kind, event.error)

    def _stale(self, event: StaleServed) -> None:
        if event.error is not None:
            self._instead(event.policy, "cache", event.error)

    def _instead(self, policy: str, kind: str, error: BaseException) -> None:
        cause = self._errors(error_type(error))  # an adapter's may be what a server answered
        attributes = {s.POLICY: self._name(policy), s.FALLBACK_KIND: kind, s.ERROR_TYPE: cause}
        self.add(s.FALLBACKS, 1, attributes)

    def _hedge(self, event: HedgeWon) -> None:
        kind = "initial" if event.winner == 1 else "hedge"
        self.add(s.HEDGE_WINS, 1, {s.POLICY: self._name(event.policy), s.ATTEMPT_KIND: kind})

    def _of(self, policy: str, operation: str) -> dict[str, Any]:
        return {s.POLICY: self._name(policy), s.OPERATION: self._operations(operation)}

    def _name(self, policy: str) -> str:
        return self._policies(called(policy))

    # --- states ------------------------------------------------------------------------------------------------------

    def _reader(self, metric: s.Metric) -> Callable[[CallbackOptions], Iterable[Observation]]:
        if metric is s.STORE_STATUS:
            return self._read_stores
        kinds, read = _OBSERVED[metric]
        join = max if metric in _ONE_OF_MANY else float.__add__

        def observe(options: CallbackOptions) -> Iterable[Observation]:
            from opentelemetry.metrics import Observation

            self._collected()
            found: dict[tuple[Any, ...], tuple[float, dict[str, Any]]] = {}
            for policy in registry:
                if policy.kind in kinds:
                    for value, more in _told(policy, read):
                        attributes = {s.POLICY: self._policies(policy.name), **more}
                        key = tuple(attributes.values())
                        before = found.get(key)
                        found[key] = (float(value) if before is None else join(before[0], float(value)), attributes)
            return [Observation(value, attributes) for value, attributes in found.values()]

        return observe

    def _read_stores(self, options: CallbackOptions) -> Iterable[Observation]:
        from opentelemetry.metrics import Observation

        found: dict[str, list[int]] = {}
        for store in stores:
            if store.state != "idle":  # nobody has looked for it, so nothing is wrong with it
                counts = found.setdefault(store.store_type, [0, 0])
                counts[0 if store.state == "connected" else 1] += 1
        return [
            Observation(count, {s.STORE_TYPE: kind, s.STORE_STATE: state})
            for kind, counts in found.items()
            for count, state in zip(counts, ("connected", "degraded"), strict=True)
        ]

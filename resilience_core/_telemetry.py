"""What the hot path records, through the OpenTelemetry API only; without a provider it costs one flag.

One histogram record per call (`resilience.call.duration`), a counter on the unhappy path
(`resilience.circuit_breaker.transitions`), and states that are read when a reader collects them
(`resilience.circuit_breaker.status`). The flag goes up when a meter provider is there at decoration, or with the first
collection of the observable, which is how a provider that is set later makes itself known.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextvars import ContextVar
from time import perf_counter
from typing import TYPE_CHECKING, Any

from resilience_core._errors import CallRejected, TimeoutExceeded
from resilience_core._version import __version__
from resilience_core._weave.site import AsyncCall, Call, Site
from resilience_core.registry import registry

if TYPE_CHECKING:
    from opentelemetry.metrics import CallbackOptions, Counter, Histogram, Observation

PREFIX = "resilience"
SCHEMA_URL = "https://opentelemetry.io/schemas/1.37.0"
DURATION_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)


class CallRecord:
    """What one call met on its way; only unhappy paths write to it."""

    __slots__ = ("degraded", "retries")

    def __init__(self) -> None:
        self.retries = 0
        self.degraded = False


CURRENT: ContextVar[CallRecord | None] = ContextVar("resilience_call", default=None)


def note_retry() -> None:
    """The call that is running makes one more attempt."""
    record = CURRENT.get()
    if record is not None:
        record.retries += 1


def note_degraded() -> None:
    """The call that is running will be answered by a fallback or a stale value."""
    record = CURRENT.get()
    if record is not None:
        record.degraded = True


class Telemetry:
    """The instruments, made at the first decoration because importing the API takes as long as this whole package."""

    __slots__ = ("_duration", "_reloads", "_transitions", "on")

    def __init__(self) -> None:
        self.on = False
        self._duration: Histogram | None = None
        self._transitions: Counter | None = None
        self._reloads: Counter | None = None

    def prepare(self) -> None:
        """Make the instruments once, and look whether a provider is there."""
        from opentelemetry import metrics

        if self._duration is None:
            meter = metrics.get_meter("resilience_core", __version__, schema_url=SCHEMA_URL)
            self._transitions = meter.create_counter(
                f"{PREFIX}.circuit_breaker.transitions", "{transition}", "Changes of a circuit's state"
            )
            self._reloads = meter.create_counter(
                f"{PREFIX}.config.reloads", "{reload}", "Configuration files that have changed"
            )
            meter.create_observable_up_down_counter(
                f"{PREFIX}.circuit_breaker.status", [self._observe_states], "1", "1 for the state a circuit is in"
            )
            self._duration = meter.create_histogram(
                f"{PREFIX}.call.duration",
                "s",
                "Response time of guarded calls, retries and waits included",
                explicit_bucket_boundaries_advisory=DURATION_BUCKETS,
            )
        if not type(metrics.get_meter_provider()).__module__.startswith("opentelemetry.metrics"):
            self.on = True  # not the API's own placeholder: somebody set a real one

    def _observe_states(self, options: CallbackOptions) -> Iterable[Observation]:
        from opentelemetry.metrics import Observation

        self.on = True
        for policy in registry:
            if policy.kind == "circuit_breaker":
                state = policy.snapshot()["state"]
                for known in ("closed", "open", "half_open", "forced_open", "disabled", "shadow"):
                    yield Observation(
                        int(state == known),
                        {f"{PREFIX}.policy.name": policy.name, f"{PREFIX}.circuit_breaker.state": known},
                    )

    def count_transition(self, policy: str, previous: str, state: str, reason: str) -> None:
        """One change of a circuit's state."""
        if self._transitions is not None:
            self._transitions.add(
                1,
                {
                    f"{PREFIX}.policy.name": policy,
                    f"{PREFIX}.circuit_breaker.previous_state": previous,
                    f"{PREFIX}.circuit_breaker.state": state,
                    f"{PREFIX}.transition.reason": reason,
                },
            )

    def count_reload(self, outcome: str) -> None:
        """One changed configuration file: applied ("success") or refused ("error")."""
        if self._reloads is not None:
            self._reloads.add(1, {f"{PREFIX}.outcome": outcome})

    def record(self, site: Site, seconds: float, record: CallRecord, error: BaseException | None) -> None:
        """One finished call."""
        if self._duration is None:
            return
        attributes: dict[str, Any] = {
            f"{PREFIX}.policy.name": site.pipeline,
            f"{PREFIX}.operation.name": site.operation,
            f"{PREFIX}.outcome": outcome_of(error),
            f"{PREFIX}.call.retried": record.retries > 0,
            f"{PREFIX}.degraded": record.degraded,
        }
        if error is not None:
            attributes["error.type"] = type(error).__name__
        self._duration.record(seconds, attributes)


def outcome_of(error: BaseException | None) -> str:
    """The value of `resilience.outcome`."""
    if error is None:
        return "success"
    if isinstance(error, CallRejected):
        return "rejected"
    if isinstance(error, TimeoutExceeded):
        return "timeout"
    return "error" if isinstance(error, Exception) else "cancelled"


telemetry = Telemetry()
"""The telemetry of this process; `telemetry.on` is the flag that the edge reads."""


def measured(call: Call, site: Site) -> Call:
    """`call` with its duration recorded."""

    def guarded(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        record = CallRecord()
        token = CURRENT.set(record)
        failure: BaseException | None = None
        started = perf_counter()
        try:
            return call(args, kwargs)
        except BaseException as error:
            failure = error
            raise
        finally:
            CURRENT.reset(token)
            telemetry.record(site, perf_counter() - started, record, failure)
            failure = None  # else error -> traceback -> this frame -> error keeps all of them alive

    return guarded


def measured_async(call: AsyncCall, site: Site) -> AsyncCall:
    """The twin of `measured` for async code."""

    async def guarded(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        record = CallRecord()
        token = CURRENT.set(record)
        failure: BaseException | None = None
        started = perf_counter()
        try:
            return await call(args, kwargs)
        except BaseException as error:
            failure = error
            raise
        finally:
            CURRENT.reset(token)
            telemetry.record(site, perf_counter() - started, record, failure)
            failure = None  # else error -> traceback -> this frame -> error keeps all of them alive

    return guarded

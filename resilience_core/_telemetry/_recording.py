"""Around each call and each attempt: how long it took, how it ended, what it met on its way.

One `CallRecord` travels with a call in a context variable, and only unhappy paths write to it. A duration is recorded
before the span ends and while it is current, because that is how a metric gets its exemplar.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextvars import ContextVar, Token
from time import perf_counter
from typing import TYPE_CHECKING, Any

from resilience_core import _schema as s
from resilience_core._errors import CallRejected, TimeoutExceeded
from resilience_core._telemetry._switch import telemetry
from resilience_core._weave.nesting import FRAME
from resilience_core._weave.site import Args, AsyncCall, Call, Kwargs, Site

if TYPE_CHECKING:
    from resilience_core._clock import Clock
    from resilience_core._telemetry._spans import Open


def outcome_of(error: BaseException | None) -> str:
    """The value of `resilience.outcome`."""
    if error is None:
        return "success"
    if isinstance(error, CallRejected):
        return "rejected"
    if isinstance(error, TimeoutExceeded):
        return "timeout"
    return "error" if isinstance(error, Exception) else "cancelled"


class CallRecord:
    """One call from its begin to its end, and what it met on its way."""

    __slots__ = (
        "_answers",
        "_open",
        "_site",
        "_spans",
        "_started",
        "_token",
        "bad",
        "degraded",
        "hedges",
        "retries",
        "waited",
    )

    def __init__(self, site: Site, *, answers: bool = True) -> None:
        self._site = site
        self._answers = answers  # or nobody waits for it, and it has neither a duration nor a span
        self._spans = telemetry.spans if answers else None  # kept: others may be set while the call runs
        self._open: Open | None = None
        self.bad = False
        self.degraded = False
        self.hedges = 0
        self.retries = 0
        self.waited = 0.0
        if self._spans is not None:
            try:
                self._open = self._spans.begin(site)
            except Exception as error:
                telemetry.failed("spans", error)
        self._token: Token[CallRecord | None] = CURRENT.set(self)
        self._started = perf_counter()

    @property
    def pipeline(self) -> str:
        """Name of the outermost policy."""
        return self._site.pipeline

    def annotate(self, attributes: Mapping[str, Any], call: bool) -> None:
        """Add attributes to the span of the call, or else to the one that is current."""
        if self._open is not None and self._spans is not None:
            telemetry.guard("spans", self._spans.annotate, self._open if call else None, attributes)

    def leave(self) -> None:
        """The call is current no more; that of a stream goes on."""
        try:
            CURRENT.reset(self._token)
        except ValueError:  # whoever closes an abandoned coroutine may do so in another context
            return
        if self._open is not None and self._spans is not None:
            self._spans.leave(self._open)

    def end(self, error: BaseException | None, *, left: bool = False) -> None:
        """The call is over: record it. `left` when it was left before."""
        seconds = perf_counter() - self._started
        outcome = "error" if self.bad and error is None else outcome_of(error)
        instruments, site = telemetry.instruments, self._site
        try:
            series = instruments.series(site, outcome, error, self.retries > 0, self.degraded)
            if self._answers:
                instruments.call_duration(seconds, series)
            if self.retries:
                some = {key: series[key] for key in (s.POLICY, s.OPERATION, s.OUTCOME)}
                instruments.record(s.CALL_RETRIES, self.retries, some)
            if self.hedges:
                instruments.record(s.CALL_HEDGES, self.hedges, {s.POLICY: series[s.POLICY]})
        except Exception as failure:
            telemetry.failed("metrics", failure)
        if not left:
            self.leave()
        if self._open is not None and self._spans is not None:
            telemetry.guard("spans", self._spans.end, self._open, outcome, error, self._told())

    def _told(self) -> dict[str, Any]:
        told: dict[str, Any] = {
            s.ATTEMPTS: 1 + self.retries + self.hedges,
            s.RETRIES: self.retries,
            s.HEDGES: self.hedges,
            s.DEGRADED: self.degraded,
        }
        if self.waited:
            told[s.WAITED] = self.waited
        return told


CURRENT: ContextVar[CallRecord | None] = ContextVar("resilience_call", default=None)
_KINDS = frozenset({"retry", "adaptive_retry", "timeout", "fallback", "hedge", "stale_cache", "deadline", "chaos"})
"""Names of policies that were given none."""


def called(policy: str) -> str:
    """What a policy is called in telemetry: its name, or that of the pipeline it is in if it was given none."""
    if policy in _KINDS:
        record = CURRENT.get()
        if record is not None:
            return record.pipeline
    return policy


# --- what policies note -----------------------------------------------------------------------------------------------


def note_attributes(attributes: Mapping[str, Any], call: bool) -> None:
    """Something that an adapter knows of the attempt that is running, or of its call."""
    record = CURRENT.get()
    if record is not None:
        record.annotate(attributes, call)


def note_retry() -> None:
    """The call that is running makes one more attempt; what answered in place of the last one is not the answer."""
    record = CURRENT.get()
    if record is not None:
        record.retries += 1
        record.degraded = False
    elif not telemetry.recording:
        telemetry.look_now_and_then()


def note_hedge() -> None:
    """The call that is running makes one more attempt at the same time."""
    record = CURRENT.get()
    if record is not None:
        record.hedges += 1


def note_degraded() -> None:
    """The call that is running will be answered by a fallback or a stale value."""
    record = CURRENT.get()
    if record is not None:
        record.degraded = True


def is_degraded() -> bool:
    """Whether the call that is running will be answered so, as far as is known."""
    record = CURRENT.get()
    return record is not None and record.degraded


def leave_call() -> None:
    """What runs from here on, in a context of its own, is no part of the call that began it."""
    CURRENT.set(None)


def note_bad_result() -> None:
    """The call that is running will be answered by a value that was judged bad."""
    record = CURRENT.get()
    if record is not None:
        record.bad = True


def note_probe() -> None:
    """The attempt that is running is the probe of a circuit."""
    spans = telemetry.spans  # once: others may be set meanwhile
    if telemetry.attempts and spans is not None:
        telemetry.guard("spans", spans.probe)


def note_wait(source: str, policy: str, seconds: float, outcome: str = "acquired") -> None:
    """The call that is running has waited: for `bulkhead`, `rate_limiter` or `backoff`."""
    record = CURRENT.get()
    if record is not None:
        record.waited += seconds
    spans = telemetry.spans
    if spans is not None:
        telemetry.guard("spans", spans.waited, source, called(policy), seconds, outcome)


def note_lookup(cache: str, result: str, age: float | None = None) -> None:
    """A cache was asked: `hit`, `miss`, `stale` or `negative`, with the age of what it answered."""
    telemetry.guard("metrics", telemetry.instruments.lookup, cache, result, age)


class Wait:
    """A wait for a slot or a permit, timed by the policy's clock."""

    __slots__ = ("_clock", "_metric", "_policy", "_source", "_started")

    def __init__(self, source: str, metric: s.Metric, policy: str, clock: Clock) -> None:
        self._source, self._metric, self._policy, self._clock = source, metric, policy, clock
        self._started = clock.now()

    def over(self, outcome: str) -> None:
        """It has ended: `acquired`, `rejected` or `cancelled`."""
        seconds = max(0.0, self._clock.now() - self._started)
        note_wait(self._source, self._policy, seconds, outcome)
        telemetry.guard("metrics", telemetry.instruments.wait, self._metric, self._policy, seconds, outcome)


# --- calls ------------------------------------------------------------------------------------------------------------


def _recorded(call: Call, begin: Callable[[], CallRecord | _Attempt | None]) -> Call:
    """`call` with what `begin` begins ended with it; None where nobody records."""

    def guarded(args: Args, kwargs: Kwargs) -> Any:
        record = begin()
        if record is None:
            return call(args, kwargs)
        try:
            result = call(args, kwargs)
        except BaseException as error:
            record.end(error)
            raise
        record.end(None)
        return result

    return guarded


def _recorded_async(call: AsyncCall, begin: Callable[[], CallRecord | _Attempt | None]) -> AsyncCall:
    """The twin of `_recorded` for async code."""

    async def guarded(args: Args, kwargs: Kwargs) -> Any:
        record = begin()
        if record is None:
            return await call(args, kwargs)
        try:
            result = await call(args, kwargs)
        except BaseException as error:
            record.end(error)
            raise
        record.end(None)
        return result

    return guarded


def _beginner(site: Site) -> Callable[[], CallRecord | None]:
    return lambda: CallRecord(site) if telemetry.recording or telemetry.look() else None


def _beginner_behind(site: Site) -> Callable[[], CallRecord | None]:
    return lambda: CallRecord(site, answers=False) if telemetry.recording else None


def measured(call: Call, site: Site) -> Call:
    """`call` with its duration recorded."""
    return _recorded(call, _beginner(site))


def measured_async(call: AsyncCall, site: Site) -> AsyncCall:
    """The twin of `measured` for async code."""
    return _recorded_async(call, _beginner(site))


def unanswered(call: Call, site: Site) -> Call:
    """`call` as it is made behind a caller who has his answer already: its retries are counted, and no call is."""
    return _recorded(call, _beginner_behind(site))


def unanswered_async(call: AsyncCall, site: Site) -> AsyncCall:
    """The twin of `unanswered` for async code."""
    return _recorded_async(call, _beginner_behind(site))


def measured_opening(call: Call, site: Site) -> Call:
    """A call that opens a stream, with the duration recorded until the stream has ended."""

    def guarded(args: Args, kwargs: Kwargs) -> Any:
        if not telemetry.on or (not telemetry.recording and not telemetry.look()):
            return call(args, kwargs)
        record = CallRecord(site)
        try:
            stream = call(args, kwargs)
        except BaseException as error:
            record.end(error)
            raise
        record.leave()
        stream.on_end(lambda error: record.end(error, left=True))
        return stream

    return guarded


def measured_opening_async(call: AsyncCall, site: Site) -> AsyncCall:
    """The twin of `measured_opening` for async code."""

    async def guarded(args: Args, kwargs: Kwargs) -> Any:
        if not telemetry.on or (not telemetry.recording and not telemetry.look()):
            return await call(args, kwargs)
        record = CallRecord(site)
        try:
            stream = await call(args, kwargs)
        except BaseException as error:
            record.end(error)
            raise
        record.leave()
        stream.on_end(lambda error: record.end(error, left=True))
        return stream

    return guarded


# --- attempts ---------------------------------------------------------------------------------------------------------


class _Attempt:
    """One attempt from its begin to its end."""

    __slots__ = ("_kind", "_open", "_policy", "_spans", "_started")

    def __init__(self, policy: str, number: int, repeated: str) -> None:
        kind = "initial" if number == 1 else repeated
        self._policy, self._kind, self._spans = called(policy), kind, telemetry.spans
        self._open: Open | None = None
        if self._spans is not None and telemetry.settings.spans == "call+attempt":
            try:
                self._open = self._spans.begin_attempt(self._policy, kind, number)
            except Exception as error:
                telemetry.failed("spans", error)
        self._started = perf_counter()

    def end(self, error: BaseException | None) -> None:
        """The attempt is over."""
        seconds, outcome = perf_counter() - self._started, outcome_of(error)
        if telemetry.settings.attempt_durations:
            record = telemetry.instruments.attempt
            telemetry.guard("metrics", record, self._policy, seconds, outcome, error, self._kind)
        if self._open is not None and self._spans is not None:
            if not isinstance(error, GeneratorExit):  # of an abandoned coroutine, perhaps in another context: as above
                self._spans.leave(self._open)
            telemetry.guard("spans", self._spans.end, self._open, outcome, error, {})


def begun_attempt(policy: str, number: int) -> _Attempt | None:
    """An attempt of a retry's loop that begins now, if attempts are recorded."""
    return _Attempt(policy, number, "retry") if telemetry.attempts else None


def _number() -> int:
    frame = FRAME.get()
    return 1 if frame is None else frame.attempt


def _beginner_of_attempts(policy: str, number: Callable[[], int], repeated: str) -> Callable[[], _Attempt | None]:
    return lambda: _Attempt(policy, number(), repeated) if telemetry.attempts else None


def attempted(call: Call, policy: str, number: Callable[[], int] = _number, repeated: str = "retry") -> Call:
    """`call` as the attempts of a policy that may make several; `number` tells which one it is."""
    return _recorded(call, _beginner_of_attempts(policy, number, repeated))


def attempted_async(
    call: AsyncCall, policy: str, number: Callable[[], int] = _number, repeated: str = "retry"
) -> AsyncCall:
    """The twin of `attempted` for async code."""
    return _recorded_async(call, _beginner_of_attempts(policy, number, repeated))

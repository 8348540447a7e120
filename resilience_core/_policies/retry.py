"""Try again what may succeed a moment later: retry with backoff and jitter (`_machines/backoff.py`)."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from types import TracebackType
from typing import TYPE_CHECKING, Any, ClassVar

from attrs import define, field, frozen, setters

from resilience_core import _validation as check
from resilience_core._clock import CHANCE, Chance
from resilience_core._errors import CallRejected, CircuitOpenError, ConfigurationError, TimeoutExceeded
from resilience_core._events import RetryScheduled, RetrySuppressed
from resilience_core._machines.backoff import JITTERS, Backoff, Exponential, JitterName, Schedule
from resilience_core._story import Journal, Story, follow
from resilience_core._telemetry import attempted, attempted_async, begun_attempt, note_retry, note_wait, telemetry
from resilience_core._validation import to_optional_seconds, to_seconds
from resilience_core._verdicts import (
    Classifier,
    Judge,
    Judgement,
    On,
    ResultClassifier,
    Verdict,
    forget_judgement,
    judge_from,
)
from resilience_core._weave.deadline import remaining
from resilience_core._weave.edge import Policy
from resilience_core._weave.nesting import FRAME, Frame, nesting, unmark
from resilience_core._weave.results import judging_results, judging_results_async
from resilience_core._weave.site import Args, AsyncCall, Call, Kind, Kwargs, Site
from resilience_core.registry import trying

if TYPE_CHECKING:
    from resilience_core._policies.retry_budget import RetryBudget

_NOTE = "resilience: gave up after"


def _known_jitter(owner: Retry, attribute: Any, value: object) -> None:
    if value not in JITTERS:
        raise check.refuse(owner, attribute.name, value, f"one of {', '.join(JITTERS)}")


class _Tally:
    """What was counted. Apart from the policy, whose attributes are guarded: setting one of those costs a call."""

    __slots__ = ("gave_up", "retried")

    def __init__(self) -> None:
        self.retried = 0
        self.gave_up = 0


@define(eq=False, on_setattr=setters.frozen)
class Retry(Policy):
    """Makes up to `max_attempts` attempts, waiting longer each time.

    `TRANSIENT` and `THROTTLED` outcomes are tried again; `UNKNOWN` ones, which may have been carried out, only where
    the call is declared idempotent; rejections by other policies never, unless `on` names their class. What is raised
    in the end is the last original error, the same object, with a note that tells attempts and time.

    Args:
        name: identifies the policy in events and metrics.
        on: exceptions to retry (class, tuple or predicate); there is no default. Without `on` and `classify` the
            pipeline's classifier decides; without one the policy is refused.
        classify: judges exceptions instead of `on`.
        classify_result: judges returned values; when the attempts are used up, the last value is returned.
        max_attempts: attempts in all, the first one included.
        base_delay: seconds (or timedelta) before the first retry, before jitter.
        multiplier: growth of the wait from retry to retry.
        max_delay: seconds that no wait exceeds, jitter included.
        jitter: "proportional" (plus or minus `jitter_share`), "none", "full", "equal", "decorrelated" or
            "decorrelated_v2".
        jitter_share: spread of the proportional jitter, 0 to 1.
        backoff: another growth, as a function of the retry's number (from 1) that answers seconds.
        max_elapsed: seconds since the first attempt began, after which no retry is started.
        idempotent: whether an UNKNOWN outcome may be tried again; None leaves it to the pipeline.
        budget: bounds the retries of all who share it; a retry is charged when it is decided, before its wait. When
            it is used up, the original error is raised.
        only_outermost: make no retries inside another retry, whose attempts would multiply with these.
        chance: where jitter comes from.

    A `retry_after` given by the classifier replaces the backoff; one that is longer than `max_delay`, `max_elapsed`
    or the deadline allow ends the call at once, because a shorter wait would be in vain.
    """

    kind: ClassVar[str] = "retry"
    repeats: ClassVar[bool] = True

    name: str = field(default="retry", validator=check.name)
    on: On | None = field(default=None, kw_only=True, validator=check.optional(check.on))
    classify: Classifier | None = field(default=None, kw_only=True, validator=check.optional(check.function))
    classify_result: ResultClassifier | None = field(
        default=None, kw_only=True, validator=check.optional(check.function)
    )
    max_attempts: int = field(default=3, kw_only=True, validator=check.count_from(1))
    base_delay: float = field(default=1.0, kw_only=True, converter=to_seconds, validator=check.non_negative_seconds)
    multiplier: float = field(default=2.0, kw_only=True, validator=check.multiplier)
    max_delay: float = field(default=10.0, kw_only=True, converter=to_seconds, validator=check.non_negative_seconds)
    jitter: JitterName = field(default="proportional", kw_only=True, validator=_known_jitter)
    jitter_share: float = field(default=0.25, kw_only=True, validator=check.ratio)
    backoff: Backoff | None = field(default=None, kw_only=True, validator=check.optional(check.function))
    max_elapsed: float | None = field(
        default=None, kw_only=True, converter=to_optional_seconds, validator=check.optional(check.positive_seconds)
    )
    idempotent: bool | None = field(default=None, kw_only=True, validator=check.optional(check.boolean))
    budget: RetryBudget | None = field(
        default=None, kw_only=True, validator=check.optional(check.has("take", "a RetryBudget"))
    )
    only_outermost: bool = field(default=False, kw_only=True, validator=check.boolean)
    chance: Chance = field(
        default=CHANCE,
        kw_only=True,
        repr=False,
        validator=check.instance_of(Chance, "a resilience_core.Chance"),
    )
    schedule: Schedule = field(init=False, repr=False, on_setattr=setters.NO_OP)
    _judge: Judge | None = field(init=False, repr=False, on_setattr=setters.NO_OP)
    _tally: _Tally = field(init=False, repr=False, factory=_Tally)

    def _validate(self) -> None:
        if self.backoff is None and self.max_delay < self.base_delay:
            raise ConfigurationError(
                f"Retry: max_delay ({self.max_delay:g} s) must not be below base_delay ({self.base_delay:g} s)"
            )

    def _build(self) -> None:
        backoff = self.backoff or Exponential(self.base_delay, self.multiplier)
        self.schedule = Schedule(backoff, self.max_delay, self.jitter, self.jitter_share)
        self._judge = judge_from(on=self.on, classify=self.classify)
        if self.only_outermost and not trying():
            nesting.want()

    def _adopt(self, other: Retry, changed: frozenset[str]) -> None:
        self.schedule, self._judge = other.schedule, other._judge
        if self.only_outermost:
            nesting.want()

    def snapshot(self) -> dict[str, Any]:
        """Further attempts that were started, and calls that failed in the end, so far."""
        return {"retried": self._tally.retried, "gave_up": self._tally.gave_up}

    def stretched(self, delay: float, longest: float) -> float:
        """A wait as it comes from the schedule; what adapts to failures makes it longer, up to `longest`."""
        return delay

    def worst_case_delay(self) -> float:
        """Seconds that the waits of one call can add up to, as configured."""
        return self.schedule.longest_in_all(self.max_attempts - 1)

    def _sentence(self) -> str:
        delay = f"{self.base_delay:g} s" if self.backoff is None else repr(self.backoff)
        budget = "" if self.budget is None else f", within the budget {self.budget.name!r}"
        return (
            f"{self.kind.replace('_', ' ')}: {self.max_attempts} attempts, first wait {delay}, x{self.multiplier:g}, "
            f"at most {self.max_delay:g} s, {self.jitter} jitter{budget}"
        )

    def judge_at(self, site: Site) -> Judge:
        """`on` or `classify` of this policy, else the pipeline's judge; refused where there is neither."""
        judge = self._judge or site.judge
        if judge is None:
            raise ConfigurationError(
                f"Retry around {site.operation}: say what to retry, by on= (for example on=ConnectionError) or by the "
                "pipeline's classify="
            )
        return judge

    def __iter__(self) -> Iterator[Attempt]:
        """`for attempt in retry:` with the attempt's code in `with attempt:`."""
        return _Attempts(self)

    def __aiter__(self) -> AsyncIterator[Attempt]:
        """`async for attempt in retry:` with the attempt's code in `with attempt:`."""
        return _Attempts(self)

    # --- the weaves: the happy path is one frame, all else is in `again` ------------------------------------------

    def bind(self, call: Call, site: Site) -> Call:
        """Weave the retry around a blocking call."""
        if self.classify_result is not None:
            call = judging_results(call, self.classify_result, site)
        rules = self._rules(site)
        begin, end = rules.begin, rules.end
        clock, timed, sleep = self.clock, self.max_elapsed is not None, _sleeper(self)
        attempt = attempted(call, self.name)

        def guarded(args: Args, kwargs: Kwargs) -> Any:
            if nesting.watched:
                return marked(args, kwargs)
            started = clock.now() if timed else 0.0
            try:
                return call(args, kwargs)
            except Exception as error:
                tries = _Tries(rules, started)
                delay = tries.after(error)
                if delay is None:
                    raise
            return again(tries, delay, args, kwargs)

        def again(tries: _Tries, delay: float, args: Args, kwargs: Kwargs) -> Any:
            token = FRAME.set(tries.frame())  # from the second attempt on, all retries inside can see this one
            try:
                while True:
                    sleep(delay)
                    try:
                        result = attempt(args, kwargs)
                    except Exception as error:
                        next_delay = tries.after(error)
                        if next_delay is None:
                            raise
                        delay = next_delay
                    else:
                        tries.end()
                        return result
            finally:
                unmark(token)

        def marked(args: Args, kwargs: Kwargs) -> Any:
            frame = begin()
            token = FRAME.set(frame)
            started = clock.now() if timed else 0.0
            success, result, tries, delay = False, None, None, None
            try:
                try:
                    result = attempt(args, kwargs)
                except Exception as error:
                    tries = _Tries(rules, started)
                    delay = tries.after(error)
                    if delay is None:
                        raise
                if tries is not None and delay is not None:
                    result = again(tries, delay, args, kwargs)
                success = True
            finally:
                unmark(token)
                end(frame, success)
            return result

        return marked if rules.marks else guarded

    def bind_async(self, call: AsyncCall, site: Site) -> AsyncCall:
        """Weave the retry around an async call."""
        if self.classify_result is not None:
            call = judging_results_async(call, self.classify_result, site)
        rules = self._rules(site)
        begin, end = rules.begin, rules.end
        clock, timed, sleep = self.clock, self.max_elapsed is not None, _async_sleeper(self)
        attempt = attempted_async(call, self.name)

        async def guarded(args: Args, kwargs: Kwargs) -> Any:
            if nesting.watched:
                return await marked(args, kwargs)
            started = clock.now() if timed else 0.0
            try:
                return await call(args, kwargs)
            except Exception as error:
                tries = _Tries(rules, started)
                delay = tries.after(error)
                if delay is None:
                    raise
            return await again(tries, delay, args, kwargs)

        async def again(tries: _Tries, delay: float, args: Args, kwargs: Kwargs) -> Any:
            token = FRAME.set(tries.frame())  # from the second attempt on, all retries inside can see this one
            try:
                while True:
                    await sleep(delay)
                    try:
                        result = await attempt(args, kwargs)
                    except Exception as error:
                        next_delay = tries.after(error)
                        if next_delay is None:
                            raise
                        delay = next_delay
                    else:
                        tries.end()
                        return result
            finally:
                unmark(token)

        async def marked(args: Args, kwargs: Kwargs) -> Any:
            frame = begin()
            token = FRAME.set(frame)
            started = clock.now() if timed else 0.0
            success, result, tries, delay = False, None, None, None
            try:
                try:
                    result = await attempt(args, kwargs)
                except Exception as error:
                    tries = _Tries(rules, started)
                    delay = tries.after(error)
                    if delay is None:
                        raise
                if tries is not None and delay is not None:
                    result = await again(tries, delay, args, kwargs)
                success = True
            finally:
                unmark(token)
                end(frame, success)
            return result

        return marked if rules.marks else guarded

    def _rules(self, site: Site) -> _Rules:
        return _Rules(
            self,
            judge=self.judge_at(site),
            idempotent=site.idempotent if self.idempotent is None else self.idempotent,
            operation=site.operation,
            max_attempts=self.max_attempts,
            max_delay=self.max_delay,
            max_elapsed=self.max_elapsed,
            schedule=self.schedule,
            budget=self.budget,
            only_outermost=self.only_outermost,
            journal=site.journal,
        )


def _sleeper(retry: Retry) -> Callable[[float], None]:
    clock, name = retry.clock, retry.name

    def sleep(seconds: float) -> None:
        if seconds > 0:
            clock.sleep(seconds)
            if telemetry.recording:
                note_wait("backoff", name, seconds)

    return sleep


def _async_sleeper(retry: Retry) -> Callable[[float], Awaitable[None]]:
    clock, name = retry.clock, retry.name

    async def sleep(seconds: float) -> None:
        await clock.async_sleep(seconds)  # also for 0 seconds: a retry loop must not starve its event loop
        if telemetry.recording:
            note_wait("backoff", name, seconds)

    return sleep


@frozen(eq=False, kw_only=True)
class _Rules:
    """What is the same for every call at one site: the options as they were when the retry was woven.

    Calls that are under way when the options change go on by these.
    """

    retry: Retry = field(kw_only=False)
    judge: Judge
    idempotent: bool
    operation: str
    max_attempts: int
    max_delay: float
    max_elapsed: float | None
    schedule: Schedule
    budget: RetryBudget | None
    only_outermost: bool
    journal: Journal | None

    @property
    def marks(self) -> bool:
        """Whether every call is marked in its context."""
        return self.budget is not None or self.only_outermost

    def begin(self) -> Frame:
        """Mark a call in its context, and count it in the budget unless a retry around it has done so."""
        outer, budget = FRAME.get(), self.budget
        if budget is None or (outer is not None and outer.counted_in(budget)):
            return Frame(self.retry, None, outer)
        budget.began()
        return Frame(self.retry, budget, outer)

    def end(self, frame: Frame, success: bool) -> None:
        """The call that `begin` marked is over."""
        budget = self.budget
        if budget is not None:
            budget.ended(success, frame.paid, frame.retries, counted=frame.account is budget)


class _Tries:
    """One call that has failed at least once: decides after each failure, and keeps what the next decision needs."""

    __slots__ = ("_first_failure", "_last", "_memory", "_outer", "_own", "_rules", "_started", "_story", "number")

    def __init__(self, rules: _Rules, started: float, frame: Frame | None = None) -> None:
        self._rules = rules
        frame = frame or FRAME.get()
        mine = frame is not None and frame.owner is rules.retry
        self._own = frame if mine else None  # where this call is marked
        self._outer = frame.outer if mine and frame is not None else frame  # that of a retry around it
        self._started = started
        self._first_failure = 0.0
        self._memory = 0.0
        self._last: Exception | None = None
        self._story: Story | None = None
        self.number = 1  # of the attempt that is running, or has just failed

    def after(self, error: Exception) -> float | None:
        """Seconds to wait before the next attempt, or None when `error` is to be raised."""
        retry = self._rules.retry
        now = retry.clock.now()
        if self.number == 1:
            self._first_failure = now
        judgement = self._rules.judge(error)
        refused = self._refusal(error, judgement)
        if refused is not None:
            self._give_up(error, judgement, refused, now)
            return None
        delay, source, memory = self._wait(judgement)
        too_long = self._too_long(delay, source, now)
        if too_long is not None:
            self._give_up(error, judgement, too_long, now, delay)
            return None
        if self._rules.budget is not None and not self._paid(self._rules.budget, error):
            self._give_up(error, judgement, "budget", now)
            return None
        self._note(error, "retried", judgement, delay, source)
        forget_judgement(error)
        note_retry()
        retry._tally.retried += 1
        if retry.bus.hears(RetryScheduled):
            operation = self._rules.operation
            made = self.number * (1 if self._outer is None else self._outer.product())
            retry.bus.emit(RetryScheduled(retry.name, now, operation, self.number, delay, source, error, made))
        self.number += 1
        if self._own is not None:
            self._own.attempt = self.number
        self._memory = memory
        self._last = error
        return delay

    def frame(self) -> Frame:
        """What retries inside see of this call."""
        if self._own is None:
            self._own = Frame(self._rules.retry, None, self._outer)
            self._own.attempt = self.number
        return self._own

    def end(self) -> None:
        """The call succeeded: let go of the last error, whose traceback leads back here."""
        self._last = None
        rules, retry = self._rules, self._rules.retry
        if self._story is not None:
            self._story.told = True
        if rules.journal is not None:
            entry = (retry.clock.wall(), retry.kind, retry.name, rules.operation, "answered", self.number)
            rules.journal.answered(self._story, rules.operation, entry)

    def _note(self, error: Exception, action: str, judgement: Judgement, *values: Any) -> None:
        rules, retry = self._rules, self._rules.retry
        at, kind, name, operation = retry.clock.wall(), retry.kind, retry.name, rules.operation
        story = self._story = follow(self._story, error, at, kind, name, operation)
        story.note((at, kind, name, operation, action, self.number, rules.max_attempts, judgement.verdict, *values))

    def _paid(self, budget: RetryBudget, error: Exception) -> bool:
        paid = budget.take(costly=isinstance(error, TimeoutExceeded))
        if paid is None:
            return False
        assert self._own is not None  # a retry with a budget marks its calls
        self._own.paid = paid
        self._own.retries += 1
        return True

    def _refusal(self, error: Exception, judgement: Judgement) -> str | None:
        verdict, rules = judgement.verdict, self._rules
        if verdict is Verdict.UNKNOWN and not rules.idempotent:
            return "not_idempotent"
        if verdict not in (Verdict.TRANSIENT, Verdict.THROTTLED, Verdict.UNKNOWN):
            return "circuit_open" if isinstance(error, CircuitOpenError) else "not_retryable"
        if rules.budget is not None:
            rules.budget.failed()
        if rules.only_outermost and self._outer is not None:
            return "nested"
        return "attempts_exhausted" if self.number >= rules.max_attempts else None

    def _wait(self, judgement: Judgement) -> tuple[float, str, float]:
        if judgement.retry_after is not None:
            return max(0.0, judgement.retry_after), "retry_after", self._memory
        rules, retry = self._rules, self._rules.retry
        delay, memory = rules.schedule.delay(self.number, self._memory, retry.chance.random)
        return retry.stretched(delay, rules.max_delay), "backoff", memory

    def _too_long(self, delay: float, source: str, now: float) -> str | None:
        rules = self._rules
        if source == "retry_after" and delay > rules.max_delay:
            return "retry_after"
        if rules.max_elapsed is not None and now + delay - self._started >= rules.max_elapsed:
            return "deadline"
        left = remaining()
        return "deadline" if left is not None and delay >= left else None

    def _give_up(
        self, error: Exception, judgement: Judgement, reason: str, now: float, delay: float | None = None
    ) -> None:
        retry = self._rules.retry
        self._note(error, "gave_up", judgement, reason, delay)
        retry._tally.gave_up += 1
        if isinstance(error, CallRejected) and error.__cause__ is None:
            error.__cause__ = self._last  # what went wrong before the next attempt was refused
        self._last = None
        if self.number > 1:
            _replace_note(error, f"{_NOTE} {self.number} attempts, {now - self._first_failure:.3g} s after the first")
        if retry.bus.hears(RetrySuppressed):
            retry.bus.emit(RetrySuppressed(retry.name, now, self._rules.operation, self.number, reason, error))


def _replace_note(error: Exception, note: str) -> None:
    notes = getattr(error, "__notes__", None)
    if notes:
        notes[:] = [line for line in notes if not str(line).startswith(_NOTE)]
    error.add_note(note)


class Attempt:
    """One attempt of `for attempt in retry:`; failures inside its `with` block are what the retry decides about."""

    __slots__ = ("_attempts", "_recorded", "number")

    def __init__(self, attempts: _Attempts, number: int) -> None:
        self._attempts = attempts
        self._recorded: Any = None
        self.number: int = number

    def __enter__(self) -> Attempt:
        self._recorded = begun_attempt(self._attempts.policy, self.number)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> bool:
        if self._recorded is not None:
            self._recorded.end(error)
        return self._attempts.attempted(error)


class _Attempts(Iterator[Attempt], AsyncIterator[Attempt]):
    """The attempts of one loop. Ends after the first that did not fail."""

    __slots__ = ("_delay", "_frame", "_retry", "_rules", "_tries")

    def __init__(self, retry: Retry) -> None:
        site = Site(operation="block", pipeline=retry.name, kind=Kind.BLOCKING)
        started = retry.clock.now() if retry.max_elapsed is not None else 0.0
        self._retry = retry
        self._rules = retry._rules(site)
        self._frame = self._rules.begin()
        self._tries = _Tries(self._rules, started, self._frame)
        self._delay: float | None = 0.0  # before the next attempt; None when there is none

    @property
    def policy(self) -> str:
        """Name of the retry."""
        return self._retry.name

    def attempted(self, error: BaseException | None) -> bool:
        """Whether the attempt's error is swallowed because another attempt follows."""
        if isinstance(error, Exception):
            self._delay = self._tries.after(error)
        if self._delay is None:
            self._rules.end(self._frame, success=error is None)
        return self._delay is not None

    def _next(self) -> Attempt:
        self._delay = None  # unless it fails, this attempt is the last
        return Attempt(self, self._tries.number)

    def __next__(self) -> Attempt:
        if self._delay is None:
            self._tries.end()
            raise StopIteration
        if self._tries.number > 1:
            _sleeper(self._retry)(self._delay)
        return self._next()

    async def __anext__(self) -> Attempt:
        if self._delay is None:
            self._tries.end()
            raise StopAsyncIteration
        if self._tries.number > 1:
            await _async_sleeper(self._retry)(self._delay)
        return self._next()

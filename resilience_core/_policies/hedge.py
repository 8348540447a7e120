"""Start a second attempt when the first is late, and take whichever answers first.

In event loops the loser is cancelled, and cleans up in the background. A thread cannot be cancelled: in blocking code
the loser runs on to its end, its effects included, and is counted as a straggler until then.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any, ClassVar, TypeAlias

from attrs import define, field, setters

from resilience_core import _validation as check
from resilience_core._errors import ConfigurationError
from resilience_core._events import HedgeStarted, HedgeWon
from resilience_core._machines.latency import Latencies
from resilience_core._policies.retry_budget import RetryBudget
from resilience_core._story import note
from resilience_core._telemetry import attempted, attempted_async, note_hedge
from resilience_core._validation import to_seconds
from resilience_core._verdicts import Judge, Verdict
from resilience_core._weave.background import Job, spawn_awaited, spawn_awaited_async, wind_up, wind_up_async
from resilience_core._weave.edge import Policy
from resilience_core._weave.results import refuse_streams
from resilience_core._weave.site import Args, AsyncCall, Call, Kwargs, Site
from resilience_core._weave.waiting import ThreadWaiter, Waiter, async_waiter

OnEnd: TypeAlias = Callable[[Job], None]
_REMEMBERED = 512  # latencies: enough for a p99, and a shift of 4 KB at most


@define(eq=False, on_setattr=setters.frozen)
class Hedge(Policy):
    """Answers with the fastest of up to `1 + max_hedges` attempts, each started when the last one is late.

    An attempt that fails while others run is waited out by them; a failure judged PERMANENT is an answer. When all
    fail, the last failure is raised. Only for calls that may be carried out twice: it is refused where neither it nor
    its pipeline is declared `idempotent`.

    Args:
        name: identifies the policy in events and metrics.
        delay: seconds (or timedelta) after which an attempt is late.
        quantile: take for the delay what this share (0 to 1) of the recent good attempts did not exceed; `delay`
            serves until there are `minimum_samples` of them, and is needed for that.
        minimum_samples: good attempts before `quantile` is believed.
        max_hedges: further attempts for one call.
        budget: a `RetryBudget` that bounds the further attempts of all who share it.
        max_stragglers: losers that still run (or clean up) at which no further attempts are started.
        idempotent: whether the call may be carried out twice; None leaves it to the pipeline.

    Raises:
        ConfigurationError: at decoration, for calls not declared idempotent.
        TypeError: at decoration, for generators.
    """

    kind: ClassVar[str] = "hedge"
    repeats: ClassVar[bool] = True

    name: str = field(default="hedge", validator=check.name)
    delay: float = field(kw_only=True, converter=to_seconds, validator=check.positive_seconds)
    quantile: float | None = field(default=None, kw_only=True, validator=check.optional(check.ratio))
    minimum_samples: int = field(default=20, kw_only=True, validator=check.count_from(1))
    max_hedges: int = field(default=1, kw_only=True, validator=check.count_from(1))
    budget: RetryBudget | None = field(
        default=None, kw_only=True, validator=check.optional(check.instance_of(RetryBudget, "a RetryBudget"))
    )
    max_stragglers: int = field(default=16, kw_only=True, validator=check.count_from(1))
    idempotent: bool | None = field(default=None, kw_only=True, validator=check.optional(check.boolean))
    _latencies: Latencies = field(init=False, repr=False, factory=lambda: Latencies(_REMEMBERED))
    _stragglers: set[Job] = field(init=False, repr=False, factory=set)
    _lock: threading.Lock = field(init=False, repr=False, factory=threading.Lock)
    _started: int = field(init=False, repr=False, default=0, on_setattr=setters.NO_OP)
    _won: int = field(init=False, repr=False, default=0, on_setattr=setters.NO_OP)

    def _validate(self) -> None:
        if self.minimum_samples > _REMEMBERED:
            raise ConfigurationError(f"Hedge: minimum_samples must be at most {_REMEMBERED}, the samples remembered")

    def current_delay(self) -> float:
        """Seconds after which an attempt counts as late now."""
        with self._lock:
            if self.quantile is None or len(self._latencies) < self.minimum_samples:
                return self.delay
            return self._latencies.quantile(self.quantile)

    def snapshot(self) -> dict[str, Any]:
        """The delay now, further attempts started and won, and losers that still run."""
        return {
            "delay": self.current_delay(),
            "hedges": self._started,
            "won": self._won,
            "stragglers": len(self._stragglers),
        }

    def _sentence(self) -> str:
        after = f"{self.delay:g} s"
        if self.quantile is not None:
            after = f"the {self.quantile:.0%} quantile of recent latencies ({after} at first)"
        return f"hedge: up to {self.max_hedges} further attempts, each after {after}"

    def _admit(self, site: Site) -> None:
        refuse_streams(site, "Hedge")
        if not (site.idempotent if self.idempotent is None else self.idempotent):
            raise ConfigurationError(
                f"Hedge around {site.operation}: a hedged call may be carried out twice; declare it with "
                "idempotent=True (here or on the pipeline) if that does no harm"
            )

    def bind(self, call: Call, site: Site) -> Call:
        """Weave the hedge around a blocking call: every attempt runs in a thread of its own."""
        self._admit(site)
        judge = site.judge
        name, begin, new_waiter, end_all = self.name, spawn_awaited, ThreadWaiter, wind_up

        def guarded(args: Args, kwargs: Kwargs) -> Any:
            def start(number: int, on_end: OnEnd) -> Job:
                attempt = attempted(call, name, lambda: number, "hedge")
                return begin(lambda: attempt(args, kwargs), on_end)

            race = _Race(self, judge, site, start)
            try:
                while not race.decided():
                    waiter = new_waiter()
                    if race.nothing_ended(waiter) and not waiter.wait(race.patience()):
                        race.hedge()
            except BaseException:
                end_all(race.abandon())
                raise
            return race.result()

        return guarded

    def bind_async(self, call: AsyncCall, site: Site) -> AsyncCall:
        """Weave the hedge around an async call."""
        self._admit(site)
        judge = site.judge
        name, begin, new_waiter, end_all = self.name, spawn_awaited_async, async_waiter, wind_up_async

        async def guarded(args: Args, kwargs: Kwargs) -> Any:
            def start(number: int, on_end: OnEnd) -> Job:
                attempt = attempted_async(call, name, lambda: number, "hedge")
                return begin(lambda: attempt(args, kwargs), on_end)

            race = _Race(self, judge, site, start)
            try:
                while not race.decided():
                    waiter = new_waiter()
                    if race.nothing_ended(waiter) and not await waiter.wait(race.patience()):
                        race.hedge()
            except BaseException:
                await end_all(race.abandon())
                raise
            return race.result()

        return guarded


class _Race:
    """The attempts of one call."""

    def __init__(
        self,
        hedge: Hedge,
        judge: Judge | None,
        site: Site,
        start: Callable[[int, OnEnd], Job],
    ) -> None:
        self._hedge = hedge
        self._judge = judge
        self._site = site
        self._operation = site.operation
        self._start = start
        self._lock = threading.Lock()
        self._running: dict[Job, tuple[int, float]] = {}  # number of the attempt, and when it began
        self._ended: list[Job] = []  # and not looked at so far
        self._waiter: Waiter | None = None
        self._failed: Job | None = None
        self._winner: Job | None = None
        self._numbers: dict[Job, int] = {}
        self._number = 0
        self._latest = 0.0  # when the last attempt began
        self._paid = 0.0
        self._may_hedge = True
        self._over = False
        # As they are now, whatever the options become meanwhile.
        self._budget, self._max_hedges, self._max_stragglers = hedge.budget, hedge.max_hedges, hedge.max_stragglers
        if self._budget is not None:
            self._budget.began()
        try:
            self._run()
        except BaseException:  # no more threads to be had
            self._settle(success=False)
            raise

    def _run(self) -> None:
        self._number += 1
        began = self._latest = self._hedge.clock.now()
        number = self._number
        placed = threading.Event()  # a thread may end before its job has its place in `_running`

        def on_end(job: Job) -> None:
            placed.wait()
            self._note_end(job)

        job = self._start(number, on_end)
        with self._lock:
            self._running[job] = (number, began)
            self._numbers[job] = number
        placed.set()

    def _note_end(self, job: Job) -> None:
        with self._lock:
            number, began = self._running.pop(job)
            if not self._over:
                self._ended.append(job)
            waiter, self._waiter = self._waiter, None
        hedge = self._hedge
        with hedge._lock:
            hedge._stragglers.discard(job)
            if job.error is None:
                hedge._latencies.add(hedge.clock.now() - began)
            if job.error is None and not self._over and number > 1:
                hedge._won += 1
        if waiter is not None:
            waiter.wake()

    def nothing_ended(self, waiter: Waiter) -> bool:
        """Let `waiter` be woken by the next attempt that ends; False when one has ended already."""
        with self._lock:
            if self._ended:
                return False
            self._waiter = waiter
            return True

    def decided(self) -> bool:
        """Whether the call has its answer."""
        with self._lock:
            ended, self._ended = self._ended, []
            running = len(self._running)
        for job in ended:
            if job.error is None or self._is_answer(job.error):
                self._winner = job
                break
            if self._budget is not None:
                self._budget.failed()
            self._failed = job
        if self._winner is None and self._failed is not None and not running and not self._ended:
            self._winner = self._failed
        return self._winner is not None

    def _is_answer(self, error: BaseException) -> bool:
        if not isinstance(error, Exception):
            return True
        return self._judge is not None and self._judge(error).verdict is Verdict.PERMANENT

    def patience(self) -> float | None:
        """Seconds until the next attempt is due; None when there will be none."""
        hedge = self._hedge
        if not self._may_hedge or self._number > self._max_hedges:
            return None
        return max(0.0, self._latest + hedge.current_delay() - hedge.clock.now())

    def hedge(self) -> None:
        """Start one more attempt, if stragglers and budget allow it."""
        hedge = self._hedge
        with self._lock:
            self._waiter = None
            busy = bool(self._ended)
        if busy:
            return
        paid = 0.0
        if len(hedge._stragglers) >= self._max_stragglers:
            self._may_hedge = False
            return
        if self._budget is not None:
            granted = self._budget.take()
            if granted is None:
                self._may_hedge = False
                return
            paid = granted
        self._paid = paid
        hedge._started += 1
        note_hedge()
        if hedge.bus.hears(HedgeStarted):
            hedge.bus.emit(HedgeStarted(hedge.name, hedge.clock.now(), self._operation, self._number + 1))
        self._run()

    def abandon(self) -> list[Job]:
        """The caller is gone: the attempts that still run."""
        losers = self._lose()
        self._settle(success=False)
        return losers

    def _lose(self) -> list[Job]:
        with self._lock:
            self._over = True
            losers = list(self._running)
        with self._hedge._lock:
            self._hedge._stragglers.update(job for job in losers if not job.done)
        return losers

    def _settle(self, success: bool) -> None:
        if self._budget is not None:
            self._budget.ended(success, self._paid, self._number - 1)

    def _tell_story(self, error: BaseException | None) -> None:
        hedge, journal = self._hedge, self._site.journal
        entry = (hedge.clock.wall(), hedge.kind, hedge.name, self._operation, "hedged", self._number)
        if error is not None:
            note(error, *entry)
        elif journal is not None:
            journal.answered(None, self._operation, entry)

    def result(self) -> Any:
        """The answer; the other attempts are cancelled and go their way."""
        winner = self._winner
        assert winner is not None
        for job in self._lose():
            job.cancel()
        self._settle(success=winner.error is None)
        if self._number > 1:
            self._tell_story(winner.error)
        if winner.error is not None:
            try:
                raise winner.error
            finally:
                winner.error = self._failed = self._winner = None  # else error -> traceback -> this frame -> error
        hedge = self._hedge
        if self._number > 1 and hedge.bus.hears(HedgeWon):
            hedge.bus.emit(
                HedgeWon(hedge.name, hedge.clock.now(), self._operation, self._number, self._numbers[winner])
            )
        return winner.value

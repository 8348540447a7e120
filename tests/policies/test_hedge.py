"""Hedges, in all worlds: the fastest answers, losers go, budgets and stragglers bound them."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest
import trio

from resilience_core import (
    ConfigurationError,
    Hedge,
    HedgeStarted,
    HedgeWon,
    Pipeline,
    Retry,
    RetryBudget,
    TokenQuota,
    Verdict,
)
from resilience_core._machines.latency import Latencies
from resilience_core.testing import record_events, run_virtual, run_virtual_trio
from tests.worlds import Script, World


class Attempts:
    """An async function whose attempts take and answer what is told, on asyncio or trio."""

    def __init__(self, sleep: Any, *plans: tuple[float, Any]) -> None:
        self.sleep, self.plans = sleep, plans
        self.started, self.cancelled, self.finished = 0, 0, 0

    async def __call__(self) -> Any:
        seconds, outcome = self.plans[min(self.started, len(self.plans) - 1)]
        self.started += 1
        try:
            await self.sleep(seconds)
        except BaseException:
            self.cancelled += 1
            raise
        self.finished += 1
        if isinstance(outcome, BaseException):
            raise outcome
        return outcome

    def guarded(self, *policies: Any, **options: Any) -> Any:
        async def fn() -> Any:
            return await self()

        return Pipeline(*policies, idempotent=True, **options)(fn)


BOTH = pytest.mark.parametrize(
    ("run", "sleep", "now"),
    [
        (run_virtual, asyncio.sleep, lambda: asyncio.get_running_loop().time()),
        (run_virtual_trio, trio.sleep, trio.current_time),
    ],
    ids=["asyncio", "trio"],
)


def test_an_answer_in_time_starts_nothing_else(world: World) -> None:
    async def story() -> None:
        hedge, script = Hedge(delay=50, idempotent=True), Script("ok")
        assert await world.guard(hedge, script.fn)() == "ok"
        assert script.calls == 1
        assert hedge.snapshot() == {"delay": 50, "hedges": 0, "won": 0, "stragglers": 0}

    world.run(story)


def test_an_early_failure_is_raised_unchanged_and_starts_nothing_else(world: World) -> None:
    async def story() -> None:
        boom = ConnectionError("boom")
        hedge, script = Hedge(delay=50, idempotent=True), Script(boom)
        with pytest.raises(ConnectionError) as caught:
            await world.guard(hedge, script.fn)()
        assert caught.value is boom
        assert script.calls == 1

    world.run(story)


@BOTH
def test_the_winner_answers_at_once_and_the_loser_is_cancelled(run: Any, sleep: Any, now: Any) -> None:
    async def story() -> None:
        hedge = Hedge(delay=1)
        attempts = Attempts(sleep, (10, "slow"), (1, "fast"))
        started = now()
        with record_events(hedge) as events:
            assert await attempts.guarded(hedge)() == "fast"
        assert now() - started == pytest.approx(2)
        await sleep(0.01)
        assert (attempts.started, attempts.cancelled, attempts.finished) == (2, 1, 1)
        assert [type(event) for event in events] == [HedgeStarted, HedgeWon]
        assert hedge.snapshot() == {"delay": 1, "hedges": 1, "won": 1, "stragglers": 0}

    run(story)


@BOTH
def test_the_first_may_still_win_and_all_may_fail(run: Any, sleep: Any, now: Any) -> None:
    async def story() -> None:
        hedge = Hedge(delay=1, max_hedges=2)
        assert await Attempts(sleep, (1.5, "first"), (9, "second")).guarded(hedge)() == "first"
        last = ConnectionError("last")
        failing = Attempts(sleep, (5, OSError()), (1, OSError()), (9, last))
        with pytest.raises(ConnectionError) as caught:
            await failing.guarded(hedge)()
        assert caught.value is last
        assert failing.finished == 3
        assert hedge.snapshot()["won"] == 0

    run(story)


@BOTH
def test_a_permanent_failure_is_an_answer(run: Any, sleep: Any, now: Any) -> None:
    async def story() -> None:
        attempts = Attempts(sleep, (10, "slow"), (1, ValueError("wrong")))
        guarded = attempts.guarded(Hedge(delay=1), classify=lambda error: Verdict.PERMANENT)
        with pytest.raises(ValueError, match="wrong"):
            await guarded()
        await sleep(0.01)
        assert attempts.cancelled == 1

    run(story)


@BOTH
def test_a_budget_bounds_the_further_attempts(run: Any, sleep: Any, now: Any) -> None:
    async def story() -> None:
        budget = RetryBudget("h", law=TokenQuota(10, retry_cost=5, no_retry_increment=0))
        hedge = Hedge(delay=1, budget=budget)
        for _ in range(4):
            with pytest.raises(ConnectionError):
                await Attempts(sleep, (2, ConnectionError())).guarded(hedge)()
        assert hedge.snapshot()["hedges"] == 2
        assert budget.snapshot() == {"balance": 0, "granted": 2, "refused": 2}

    run(story)


@BOTH
def test_losers_that_will_not_go_bound_the_further_attempts(run: Any, sleep: Any, now: Any) -> None:
    async def story() -> None:
        async def stubborn(seconds: float) -> None:
            if seconds < 5:
                await sleep(seconds)
                return
            if sleep is trio.sleep:
                with trio.CancelScope(shield=True):
                    await trio.sleep(seconds)
                return
            try:
                await asyncio.sleep(seconds)
            except asyncio.CancelledError:
                await asyncio.sleep(seconds)

        hedge = Hedge(delay=1, max_stragglers=1)
        assert await Attempts(stubborn, (100, "slow"), (1, "fast")).guarded(hedge)() == "fast"
        assert hedge.snapshot()["stragglers"] == 1
        assert await Attempts(sleep, (3, "unhedged"), (1, "never")).guarded(hedge)() == "unhedged"
        assert hedge.snapshot()["hedges"] == 1
        await sleep(300)
        assert hedge.snapshot()["stragglers"] == 0

    run(story)


@BOTH
def test_a_cancelled_caller_takes_its_attempts_along(run: Any, sleep: Any, now: Any) -> None:
    attempts = Attempts(sleep, (10, "slow"))
    hedge = Hedge(delay=1)

    async def on_asyncio() -> None:
        task = asyncio.create_task(attempts.guarded(hedge)())
        await asyncio.sleep(2)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        assert attempts.cancelled == 2
        assert asyncio.all_tasks() == {asyncio.current_task()}

    async def on_trio() -> None:
        with trio.move_on_after(2):
            await attempts.guarded(hedge)()
        assert attempts.cancelled == 2

    run(on_trio if sleep is trio.sleep else on_asyncio)
    assert hedge.snapshot()["stragglers"] == 0


@BOTH
def test_the_delay_follows_a_quantile_of_good_attempts(run: Any, sleep: Any, now: Any) -> None:
    async def story() -> None:
        hedge = Hedge(delay=100, quantile=0.9, minimum_samples=10)
        for number in range(10):
            await Attempts(sleep, (1 + number, "ok")).guarded(hedge)()
        assert hedge.current_delay() == pytest.approx(9)
        assert "90% quantile" in hedge.describe()["text"]

    run(story)


def test_threads_race_too_and_the_loser_runs_to_its_end() -> None:
    release, started = threading.Event(), []

    def call() -> str:
        started.append(1)
        if len(started) == 1:
            release.wait(20)
            return "slow"
        return "fast"

    hedge = Hedge(delay=0.01, idempotent=True)
    assert hedge(call)() == "fast"
    assert hedge.snapshot()["stragglers"] == 1
    release.set()
    while hedge.snapshot()["stragglers"]:
        threading.Event().wait(0.001)
    assert hedge.snapshot()["hedges"] == 1


def test_an_interrupted_blocking_caller_leaves_stragglers_that_are_counted() -> None:
    release = threading.Event()
    hedge = Hedge(delay=5, idempotent=True, budget=RetryBudget("h"))

    class Interrupted(BaseException):
        pass

    from resilience_core._policies import hedge as module

    class Waiter(module.ThreadWaiter):  # type: ignore[misc,name-defined]
        def wait(self, timeout: float | None, usual: bool = False) -> bool:
            raise Interrupted

    before, module.ThreadWaiter = module.ThreadWaiter, Waiter  # type: ignore[attr-defined]
    try:
        guarded = hedge(lambda: release.wait(20))
        with pytest.raises(Interrupted):
            guarded()
    finally:
        module.ThreadWaiter = before  # type: ignore[attr-defined]
    assert hedge.snapshot()["stragglers"] == 1
    release.set()
    while hedge.snapshot()["stragglers"]:
        threading.Event().wait(0.001)


@pytest.mark.parametrize("run", [run_virtual, run_virtual_trio])
def test_a_blocking_hedge_is_refused_in_an_event_loop(run: Any) -> None:
    async def story() -> None:
        with pytest.raises(ConfigurationError, match="loop"):
            Hedge(delay=1, idempotent=True).call(len, "abc")

    run(story)


def test_it_refuses_what_may_not_be_done_twice() -> None:
    for policy in (
        Hedge(delay=1),
        Pipeline(Hedge(delay=1)),
        Pipeline(Hedge(delay=1, idempotent=False), allow={"hedge-not-idempotent": "so that the hedge is asked"}),
    ):
        with pytest.raises(ConfigurationError, match="idempotent"):
            policy(len)

    def stream() -> Any:
        yield 1

    with pytest.raises(TypeError, match="stream"):
        Hedge(delay=1, idempotent=True)(stream)


def test_results_that_were_judged_bad_lose() -> None:
    async def story() -> None:
        attempts = Attempts(asyncio.sleep, (2, "bad"), (2, "good"))
        guarded = attempts.guarded(
            Hedge(delay=1), classify_result=lambda result: Verdict.TRANSIENT if result == "bad" else Verdict.SUCCESS
        )
        assert await guarded() == "good"

    run_virtual(story)


def test_extra_attempts_stay_within_the_budget_of_retries_and_hedges_together() -> None:
    async def story() -> None:
        budget = RetryBudget("shared", law=TokenQuota(50, retry_cost=5, no_retry_increment=0))
        calls = 0

        async def fn() -> None:
            nonlocal calls
            calls += 1
            await asyncio.sleep(2)
            raise ConnectionError

        guarded = Pipeline(
            Retry(on=ConnectionError, budget=budget, base_delay=0.1),
            Hedge(delay=1, budget=budget),
            idempotent=True,
        )(fn)
        for _ in range(30):
            with pytest.raises(ConnectionError):
                await guarded()
        assert calls == 30 + 10

    run_virtual(story)


def test_latencies_keep_the_last_ones_in_order() -> None:
    latencies = Latencies(3)
    for seconds in (5, 1, 3, 2):
        latencies.add(seconds)
    assert len(latencies) == 3
    assert [latencies.quantile(share) for share in (0.0, 0.34, 0.67, 1.0)] == [1, 2, 3, 3]


def test_an_attempt_that_ends_between_two_looks_is_not_missed() -> None:
    from resilience_core._policies.hedge import _Race
    from resilience_core._weave.background import Job
    from resilience_core._weave.site import Kind, Site

    hedge = Hedge(delay=5, idempotent=True)
    assert hedge.describe()["text"] == "hedge: up to 1 further attempts, each after 5 s"
    ends: list[Any] = []

    def start(number: int, on_end: Any) -> Job:
        ends.append(on_end)
        return Job(on_end)

    race = _Race(hedge, None, Site(operation="op", pipeline="hedge", kind=Kind.BLOCKING), start)
    (job,) = race._running
    job.value = "answer"
    job._end()
    assert race.nothing_ended(object()) is False  # type: ignore[arg-type]

    class Interrupted(BaseException):
        pass

    assert race._is_answer(Interrupted()), "an interrupt is for the caller at once"
    race.hedge()
    assert len(ends) == 1, "the time-out of the wait came too late: there is an answer already"
    assert race.decided()
    assert race.result() == "answer"

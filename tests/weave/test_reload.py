"""Policies get other options while they are in use: all or none, state kept, calls under way undisturbed."""

from __future__ import annotations

import asyncio
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from attrs import define, field, frozen

from resilience_core import (
    AIMD,
    AdaptiveConcurrency,
    AdaptiveRetry,
    AdaptiveThrottle,
    Bulkhead,
    BulkheadFullError,
    Chaos,
    CircuitBreaker,
    CircuitState,
    Coalesce,
    ConfigurationError,
    Deadline,
    Event,
    Fallback,
    Gate,
    Hedge,
    InFlightRatio,
    Judgement,
    Keyed,
    Pipeline,
    Policy,
    RateLimitedError,
    RateLimiter,
    Reconfigured,
    Retry,
    RetryBudget,
    StaleCache,
    Timeout,
    TimeoutExceeded,
    TokenQuota,
    TrafficRatio,
    Verdict,
    registry,
    subscribe,
)
from resilience_core._weave.reload import reconfigure
from resilience_core.testing import run_virtual, virtual_time
from tests._cost import size
from tests.worlds import Script, World


class Failing:
    """Raises for ever, and counts."""

    def __init__(self, error: Exception | None = None) -> None:
        self.calls = 0
        self.error = error or ConnectionError()

    def __call__(self) -> None:
        self.calls += 1
        raise self.error


def fail(policy: Policy, error: type[Exception] = ConnectionError, times: int = 1) -> None:
    for _ in range(times):
        with pytest.raises(error):
            policy.call(Failing(error()))


# --- state ---------------------------------------------------------------------------------------------------------


def test_a_breaker_keeps_what_it_counted_and_its_circuit() -> None:
    with virtual_time() as clock:
        breaker = CircuitBreaker("kept", failure_threshold=5)
        fail(breaker, times=3)
        breaker.reconfigure(failure_threshold=4)
        fail(breaker)
        assert breaker.state is CircuitState.OPEN
        breaker.reconfigure(recovery_timeout=10)
        assert breaker.retry_after() == 10
        assert breaker.state is CircuitState.OPEN
        clock.advance(10)
        assert breaker.call(lambda: 5) == 5
        assert breaker.state is CircuitState.HALF_OPEN
        breaker.reconfigure(success_threshold=1)
        assert breaker.call(lambda: 5) == 5
        assert breaker.state is CircuitState.CLOSED


def test_a_bulkhead_is_smaller_at_once_and_loses_no_slot() -> None:
    bulkhead = Bulkhead("kept", max_concurrent=3)
    inside = [bulkhead.guard() for _ in range(3)]
    for block in inside:
        block.__enter__()
    bulkhead.reconfigure(max_concurrent=1)
    assert (bulkhead.in_flight, bulkhead.waiting, bulkhead.snapshot()["limit"]) == (3, 0, 1)
    for block in inside:
        with pytest.raises(BulkheadFullError):
            bulkhead.call(lambda: None)
        block.__exit__(None, None, None)
    assert bulkhead.call(lambda: bulkhead.in_flight) == 1
    assert bulkhead.at_rest()


def test_a_limiter_keeps_the_permits_that_were_taken_for_each_key() -> None:
    with virtual_time():
        limiter = RateLimiter("kept", rate=5, per=60, key=lambda user: user, max_keys=3)
        limited = limiter(lambda user: user)
        for user in "aaaabbc":
            limited(user)
        limiter.reconfigure(rate=6)
        assert [limited("a"), limited("a")] == ["a", "a"]
        with pytest.raises(RateLimitedError):
            limited("a")
        limiter.reconfigure(max_keys=1)
        assert limiter.snapshot()["keys"] == 1


def test_a_cache_keeps_its_entries_and_drops_the_oldest_beyond_a_smaller_bound() -> None:
    cache = StaleCache("kept", fresh_for=60, stale_for=0, negative_for=60, negative_on=KeyError)
    fetch = cache({1: "one", 2: "two", 3: "three"}.__getitem__)
    for key in (1, 2, 3):
        fetch(key)
    for key in (7, 8, 9):
        with pytest.raises(KeyError):
            fetch(key)
    cache.reconfigure(stale_for=30)
    assert (cache.snapshot()["entries"], cache.snapshot()["negative"]) == (3, 3)
    cache.reconfigure(max_entries=1)
    assert (cache.snapshot()["entries"], cache.snapshot()["negative"]) == (1, 1)
    assert cache.entry(3) is not None


def test_a_store_of_somebody_else_sets_its_own_bounds() -> None:
    class Store:
        def __init__(self) -> None:
            self.kept: dict[str, Any] = {}

        def get(self, key: str) -> Any:
            return self.kept.get(key)

        def set(self, key: str, value: Any, stored_at: float) -> None:
            self.kept[key] = (value, stored_at)

        def delete(self, key: str) -> None:
            self.kept.pop(key, None)

        def clear(self) -> None:
            self.kept.clear()

    store = Store()
    cache = StaleCache("kept", fresh_for=60, stale_for=0, store=store)
    assert cache.call(len, "four") == 4
    cache.reconfigure(max_entries=1, fresh_for=30)
    assert len(store.kept) == 1


def test_adaptive_policies_keep_what_they_learnt() -> None:
    limit = AdaptiveConcurrency("kept", law=AIMD(initial=50, minimum=1, maximum=100))
    with limit.guard():
        limit.reconfigure(law=AIMD(initial=20, minimum=1, maximum=20))
        assert (limit.limit, limit.snapshot()["in_flight"]) == (20, 1)
        limit.reconfigure(enforce=0.5)
    assert limit.at_rest()
    throttle = AdaptiveThrottle("kept")
    fail(throttle, times=5)
    throttle.reconfigure(window=60, k=3.0)
    assert throttle.snapshot()["requests"] == 5
    retry = AdaptiveRetry(on=ConnectionError, max_attempts=1)
    fail(retry, times=3)
    learnt = retry.snapshot()["failing"]
    retry.reconfigure(max_attempts=2, base_delay=0)
    assert retry.snapshot()["failing"] == learnt > 0


def test_a_budget_keeps_what_was_spent_and_its_kind_of_law() -> None:
    budget = RetryBudget("kept", law=TokenQuota(100))
    heard: list[Event] = []
    end = subscribe(heard.append)
    budget.take()
    budget.reconfigure(law=TokenQuota(100))
    assert not heard, "nothing has changed"
    budget.reconfigure(law=TokenQuota(50))
    end()
    assert budget.snapshot()["balance"] == 45
    budget.reconfigure(law=TokenQuota(60))
    assert [(event.policy, event.changes) for event in heard if isinstance(event, Reconfigured)] == [
        ("kept", (("law", "100 tokens, 5 a retry", "50 tokens, 5 a retry"),))
    ]
    with pytest.raises(ConfigurationError, match="law must stay a TokenQuota while it is in use, not become a Traf"):
        budget.reconfigure(law=TrafficRatio())
    assert budget.snapshot()["balance"] == 55


@frozen
class OwnLaw:
    """Somebody's law, whose account cannot go on under other numbers."""

    tokens: float

    def start(self) -> OwnAccount:
        return OwnAccount(self.tokens)


@define
class OwnAccount:
    tokens: float

    def began(self, now: float) -> None: ...
    def failed(self) -> None: ...
    def ended(self, success: bool, paid: float, retries: int, counted: bool) -> None: ...
    def balance(self, now: float) -> float:
        return self.tokens

    def take(self, now: float, costly: bool) -> float | None:
        self.tokens -= 1
        return 1.0


def test_an_account_of_somebody_else_that_cannot_go_on_begins_anew() -> None:
    budget = RetryBudget("own", law=OwnLaw(9))
    budget.take()
    budget.reconfigure(law=OwnLaw(5))
    assert (budget.law, budget._account) == (OwnLaw(5), OwnAccount(5))


def test_a_call_ends_in_the_budget_that_it_began_in() -> None:
    first, second = RetryBudget("first", law=InFlightRatio()), RetryBudget("second", law=InFlightRatio())
    retry = Retry(on=ConnectionError, base_delay=0, budget=first)
    hedge = Hedge(delay=60, idempotent=True, budget=first)
    retry.call(lambda: retry.reconfigure(budget=second))
    hedge.call(lambda: hedge.reconfigure(budget=second))
    for budget in (first, second):
        assert budget._account.calls == 0, budget.name  # type: ignore[attr-defined]


def test_chaos_begins_when_it_is_switched_on() -> None:
    chaos = Chaos(error=OSError, error_rate=1.0)
    assert chaos.call(len, "four") == 4
    chaos.reconfigure(enabled=True)
    fail(chaos, OSError)
    chaos.reconfigure(error_rate=0.5, seed=7)
    chaos.reconfigure(enabled=False)
    assert chaos.call(len, "four") == 4


@pytest.mark.parametrize(
    ("policy", "options", "told"),
    [
        (Timeout(5), {"seconds": 3}, "after 3 s"),
        (Deadline(5), {"seconds": 3}, "3 s for everything"),
        (Fallback(value=1), {"value": 2}, "a fixed value"),
        (Coalesce(), {"key": len}, "share one call"),
        (Hedge(delay=1, idempotent=True), {"max_hedges": 2}, "up to 2 further"),
        (Keyed(lambda key: Bulkhead("k", max_concurrent=1), key=len), {"max_keys": 5}, "up to 5 of them"),
        (Retry(on=OSError), {"max_attempts": 7}, "7 attempts"),
    ],
    ids=lambda value: getattr(value, "kind", None),
)
def test_every_policy_says_how_it_is_set_now(policy: Policy, options: dict[str, Any], told: str) -> None:
    policy.reconfigure(**options)
    assert told in policy.describe()["text"]


# --- calls under way -----------------------------------------------------------------------------------------------


def test_calls_under_way_keep_their_retry_rules_and_new_ones_have_the_new(world: World) -> None:
    async def story() -> None:
        retry = Retry(on=ConnectionError, max_attempts=3, base_delay=1, jitter="none")
        seen: list[int] = []

        async def flaky() -> None:
            seen.append(len(seen))
            if len(seen) == 1:
                retry.reconfigure(max_attempts=2)
            raise ConnectionError

        guarded = world.guard(retry, flaky)
        with pytest.raises(ConnectionError):
            await guarded()
        assert len(seen) == 3, "the call that was under way"
        with pytest.raises(ConnectionError):
            await guarded()
        assert len(seen) == 5, "the next one"

    world.run(story)


def test_a_call_in_place_has_the_new_rules_too(world: World) -> None:
    async def story() -> None:
        retry = Retry(on=ConnectionError, max_attempts=1)
        script = Script(ConnectionError())
        for attempts in (1, 3):
            retry.reconfigure(max_attempts=attempts, base_delay=0)
            script.calls = 0
            with pytest.raises(ConnectionError):
                await world.call(retry, script.fn)
            assert script.calls == attempts

    world.run(story)


def test_a_time_out_that_runs_ends_after_the_seconds_it_began_with() -> None:
    async def story() -> None:
        timeout = Timeout(5)

        async def slow() -> None:
            timeout.reconfigure(seconds=60)
            await asyncio.sleep(1000)

        loop = asyncio.get_running_loop()
        began = loop.time()
        with pytest.raises(TimeoutExceeded, match="after 5 s"):
            await timeout(slow)()
        assert loop.time() - began == pytest.approx(5)

    run_virtual(story)


def test_an_open_stream_keeps_its_structure_and_gives_its_slot_back() -> None:
    bulkhead = Bulkhead("stream", max_concurrent=2)
    pipeline = Pipeline(bulkhead, name="stream")

    @pipeline
    def numbers() -> Any:
        yield from range(3)

    stream = numbers()
    assert next(stream) == 0
    pipeline.reconfigure(Fallback(value=[7]))
    assert list(numbers()) == [0, 1, 2]
    assert bulkhead.in_flight == 1
    assert list(stream) == [1, 2]
    assert bulkhead.at_rest()


def test_an_open_async_stream_keeps_its_structure() -> None:
    async def story() -> None:
        bulkhead = Bulkhead("stream", max_concurrent=2)
        pipeline = Pipeline(bulkhead, name="stream")

        @pipeline
        async def numbers() -> Any:
            yield 0
            yield 1

        stream = numbers()
        assert await anext(stream) == 0
        pipeline.reconfigure(Retry(on=OSError))
        assert [item async for item in numbers()] == [0, 1]
        assert bulkhead.in_flight == 1
        assert [item async for item in stream] == [1]
        assert bulkhead.at_rest()

    run_virtual(story)


def test_blocks_of_a_loop_keep_their_rules() -> None:
    retry = Retry(on=ConnectionError, max_attempts=3, base_delay=0)
    attempts = 0
    with pytest.raises(ConnectionError):
        for attempt in retry:
            retry.reconfigure(max_attempts=1)
            with attempt:
                attempts += 1
                raise ConnectionError
    assert attempts == 3


# --- structure -----------------------------------------------------------------------------------------------------


def test_a_pipeline_gets_another_structure_and_its_policies_keep_their_state(world: World) -> None:
    async def story() -> None:
        breaker = CircuitBreaker("structure", failure_threshold=3)
        pipeline = Pipeline(breaker, name="structure")
        guarded = world.guard(pipeline, Script(ConnectionError()).fn)
        for _ in range(2):
            with pytest.raises(ConnectionError):
                await guarded()
        pipeline.reconfigure(Fallback(value="instead"), breaker)
        assert await guarded() == "instead"
        assert breaker.state is CircuitState.OPEN, "its third failure"
        assert [policy.kind for policy in pipeline] == ["fallback", "circuit_breaker"]

    world.run(story)


def test_listeners_follow_the_structure_of_a_pipeline() -> None:
    heard: list[str] = []
    first, second = CircuitBreaker("first"), CircuitBreaker("second")
    kept = CircuitBreaker("kept")
    pipeline = Pipeline(first, kept, name="heard")
    end = pipeline.subscribe(lambda event: heard.append(event.policy))
    pipeline.reconfigure(second, kept)
    for breaker in (first, second, kept):
        breaker.force_open()
    assert heard == ["heard", "second", "kept"]
    end()
    second.reset()
    assert heard == ["heard", "second", "kept"]


def test_a_nested_pipeline_is_rewoven_where_it_is_used() -> None:
    inner = Pipeline(Timeout(5), name="inner")
    outer = Pipeline(Bulkhead("outer", max_concurrent=1), inner, name="outer")
    script = Failing()
    guarded = outer(script.__call__)
    inner.reconfigure(Retry(on=ConnectionError, max_attempts=4, base_delay=0), classify=None)
    with pytest.raises(ConnectionError):
        guarded()
    assert script.calls == 4
    inner.policies[0].reconfigure(max_attempts=2)
    with pytest.raises(ConnectionError):
        guarded()
    assert script.calls == 6


def test_the_policies_of_keys_can_be_changed_one_by_one() -> None:
    keyed = Keyed(
        lambda key: Retry("keyed_retry", on=ConnectionError, max_attempts=2, base_delay=0), key=lambda key: key
    )
    script = {"a": Failing(), "b": Failing()}
    guarded = keyed(lambda key: script[key]())
    for attempts in (2, 3):
        for key in "ab":
            script[key].calls = 0
            with pytest.raises(ConnectionError):
                guarded(key)
        assert (script["a"].calls, script["b"].calls) == (attempts, 2)
        policy = keyed.policy_of("a")
        assert policy is not None
        policy.reconfigure(max_attempts=3)


@pytest.fixture
def many_switches() -> Iterator[None]:
    """Threads take turns ten times as often: more orders of events are seen, and who waits for a lock gets it sooner.

    With the usual 5 ms a thread that changes options in a loop has taken the lock again before a caller's turn comes:
    the callers then waited for 10 to 30 s and did little else.
    """
    usual = sys.getswitchinterval()
    sys.setswitchinterval(usual / 10)
    yield
    sys.setswitchinterval(usual)


def test_keys_come_and_policies_are_made_while_options_change(many_switches: None) -> None:
    retries: list[Retry] = []

    def factory(key: int) -> Retry:
        retries.append(Retry("coming key", on=ConnectionError, base_delay=0))
        return retries[-1]

    keyed = Keyed(factory, key=lambda key: key, max_keys=5_000)
    timeout = Timeout(30)
    guarded = Pipeline(timeout, keyed, name="coming")(lambda key: key)
    over, failures = threading.Event(), []

    def changing() -> None:
        seconds = 30
        try:
            while not over.is_set():
                seconds = 60 - seconds % 2
                timeout.reconfigure(seconds=seconds)
                keyed.reconfigure(max_keys=5_000 + seconds)
                assert registry.get("coming") is not None
        except BaseException as error:
            failures.append(error)
            raise

    thread = threading.Thread(target=changing)
    thread.start()
    try:
        assert [guarded(key) for key in range(2_000)] == list(range(2_000))
    finally:
        over.set()
        thread.join()
    assert failures == []
    assert len(retries) == len(keyed._entries) == 2_000


def test_weaves_of_keys_for_a_structure_that_is_gone_are_dropped() -> None:
    keyed = Keyed(lambda key: Bulkhead("keyed", max_concurrent=1), key=lambda key: key)
    timeout = Timeout(5)
    guarded = Pipeline(timeout, keyed, name="gone")(lambda key: key)
    for seconds in (4, 3, 2):
        timeout.reconfigure(seconds=seconds)
        assert guarded("a") == "a"
    assert len(keyed._entries["a"].weaves) <= 2
    keyed.reconfigure(max_keys=7)
    assert guarded("a") == "a"


@define(eq=False, slots=False)
class Counting(Gate):
    """Somebody's gate, which judges for itself and keeps no machine."""

    kind = "counting"
    name: str = "counting"
    on: Any = None
    failed: int = field(default=0, init=False)

    def _build(self) -> None:
        self.judge_by(self.on, None)

    def enter(self, args: Any, kwargs: Any) -> None: ...

    def settle(self, permit: Any, judgement: Judgement) -> None:
        self.failed += judgement.verdict is Verdict.TRANSIENT


def test_a_gate_of_somebody_else_judges_by_its_new_options() -> None:
    gate = Counting(on=ConnectionError)
    for error in (ConnectionError, ValueError):
        fail(gate, error)
    assert gate.failed == 1
    gate.reconfigure(on=(ConnectionError, ValueError))
    for error in (ConnectionError, ValueError):
        fail(gate, error)
    assert gate.failed == 3


# --- refusals ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("policy", "options", "told"),
    [
        (Retry(on=OSError), {"max_attemps": 5}, "no option is called 'max_attemps'; did you mean 'max_attempts'?"),
        (Retry(on=OSError), {"max_attempts": 0}, "max_attempts must be a whole number, 1 or more, not 0"),
        (Retry(on=OSError), {"base_delay": 20}, "max_delay (10 s) must not be below base_delay (20 s)"),
        (Retry(on=OSError), {"name": "b"}, "name cannot be changed while it is in use: make another Retry"),
        (Timeout(5), {"seconds": 0}, "seconds must be a positive, finite number of seconds, not 0"),
        (StaleCache(fresh_for=1, stale_for=1), {"file": "x"}, "file cannot be changed while it is in use"),
        (Pipeline(Timeout(5)), {"policies": ()}, "give at least one policy"),
        (Pipeline(Timeout(5)), {"clock": None}, "clock cannot be changed"),
        (RetryBudget("b"), {"laws": None}, "no option is called 'laws'; did you mean 'law'?"),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
def test_bad_options_change_nothing_and_say_why(policy: Any, options: dict[str, Any], told: str) -> None:
    before = policy.describe()
    with pytest.raises(ConfigurationError) as refused:
        reconfigure({policy: options})
    assert told in str(refused.value)
    assert policy.describe() == before


class Three(Bulkhead):
    """Somebody's bulkhead, which is always made the same way."""

    def __init__(self) -> None:
        super().__init__("three", max_concurrent=3)


def test_a_policy_that_is_not_made_from_its_options_cannot_be_changed() -> None:
    three = Three()
    with pytest.raises(ConfigurationError, match=r"Three .three.: it cannot be changed, because it is not made"):
        three.reconfigure(max_concurrent=4)
    assert three.max_concurrent == 3


class TakesNothing(Bulkhead):
    """A policy whose hook fails when its real options change."""

    def _adopt(self, other: Any, changed: frozenset[str]) -> None:
        raise RuntimeError("a bug of somebody else")


class NoPipelineOfOurs(Pipeline):
    def __init__(self) -> None:
        super().__init__(Timeout(3), name="of theirs")


def test_a_pipeline_of_somebody_else_that_cannot_be_made_anew_says_so() -> None:
    pipeline = NoPipelineOfOurs()
    with pytest.raises(ConfigurationError, match="NoPipelineOfOurs 'of theirs': it cannot be changed"):
        pipeline.reconfigure(idempotent=True)


def test_a_hook_of_somebody_else_that_fails_is_told_and_the_others_go_on(caplog: pytest.LogCaptureFixture) -> None:
    failing, other = TakesNothing("failing", max_concurrent=1), Bulkhead("other", max_concurrent=1)
    reconfigure({failing: {"max_concurrent": 2}, other: {"max_concurrent": 2}})
    assert other.snapshot()["limit"] == 2
    assert "bulkhead 'failing' did not take all of its new options over" in caplog.text


def test_one_bad_option_among_many_changes_none_of_them() -> None:
    first, second = Bulkhead("first", max_concurrent=1), Retry(on=OSError)
    with pytest.raises(ConfigurationError):
        reconfigure({first: {"max_concurrent": 5}, second: {"max_attempts": -1}})
    assert first.max_concurrent == first.snapshot()["limit"] == 1


@pytest.mark.parametrize("decorated", [True, False], ids=["decorated", "in place"])
def test_what_a_guarded_function_cannot_have_is_refused_before_anything_changes(decorated: bool) -> None:
    async def story() -> None:
        async def ok() -> int:
            return 5

        timeout = Timeout(5)
        pipeline = Pipeline(timeout, name="refused")
        guarded: Callable[[], Any] = pipeline(ok) if decorated else lambda: pipeline.acall(ok)
        assert await guarded() == 5
        with pytest.raises(ConfigurationError, match="a hedged call may be carried out twice"):
            pipeline.reconfigure(timeout, Hedge(delay=1))
        with pytest.raises(ConfigurationError, match="thread=True is for blocking functions"):
            timeout.reconfigure(thread=True)
        assert list(pipeline) == [timeout]
        assert not timeout.thread
        assert await guarded() == 5

    run_virtual(story)


def test_a_call_in_place_in_blocking_code_is_tried_out_too() -> None:
    timeout = Timeout(5)
    assert timeout.call(len, "four") == 4
    with pytest.raises(ConfigurationError, match="per_item needs an async stream"):
        timeout.reconfigure(per_item=True)
    assert timeout.call(len, "four") == 4


def test_a_pipeline_that_guards_nothing_so_far_is_tried_out_too() -> None:
    breaker = CircuitBreaker("alone")
    pipeline = Pipeline(breaker, name="unused", classify_result=None)
    with pytest.raises(ConfigurationError, match="failure_threshold"):
        breaker.reconfigure(failure_threshold=0)
    breaker.reconfigure(failure_threshold=9)
    assert "after 9 consecutive" in str(pipeline)


def test_a_trial_leaves_no_trace_in_the_registry() -> None:
    breaker = CircuitBreaker("traceless")
    breaker.reconfigure(failure_threshold=9)
    with pytest.raises(ConfigurationError):
        breaker.reconfigure(failure_threshold=0)
    assert registry.find("traceless") == [breaker]


@pytest.mark.filterwarnings("ignore:nested-retries")  # until only_outermost is set
def test_only_outermost_watches_from_the_moment_it_is_set() -> None:
    inner = Retry("inner", on=ConnectionError, max_attempts=2, base_delay=0)
    outer = Retry("outer", on=ConnectionError, max_attempts=2, base_delay=0)
    script = Failing()
    guarded = outer(inner(script.__call__))
    inner.reconfigure(only_outermost=True)
    with pytest.raises(ConnectionError):
        guarded()
    assert script.calls == 2


# --- what is told --------------------------------------------------------------------------------------------------


def test_listeners_learn_what_was_changed_and_not_what_stayed() -> None:
    heard: list[Event] = []
    bulkhead = Bulkhead("told", max_concurrent=5)
    bulkhead.subscribe(heard.append)
    bulkhead.reconfigure(max_concurrent=5)
    assert not heard
    bulkhead.reconfigure(max_concurrent=7, max_queue=0)
    (event,) = heard
    assert isinstance(event, Reconfigured)
    assert event.changes == (("max_concurrent", 5, 7),)


def test_values_that_cannot_be_compared_count_as_changed() -> None:
    class Odd:
        def __eq__(self, other: object) -> bool:
            raise ValueError

        __hash__ = None  # type: ignore[assignment]

    fallback = Fallback(value=Odd())
    new = Odd()
    fallback.reconfigure(value=new)
    assert fallback.call(Failing()) is new


def test_a_listener_may_call_and_decorate_while_it_is_told() -> None:
    retry = Retry(on=OSError)
    done = threading.Event()

    def listener(event: Event) -> None:
        thread = threading.Thread(target=lambda: (retry(len)("four"), done.set()))
        thread.start()
        thread.join(10)

    retry.subscribe(listener)
    retry.reconfigure(max_attempts=9)
    assert done.is_set(), "no lock is held while listeners are told"


# --- under load ----------------------------------------------------------------------------------------------------

CALLS, THREADS, TASKS, RELOADS = size(100_000, 10_000), 4, 8, size(100, 30)


def test_under_load_no_permit_is_lost_and_no_call_fails(many_switches: None) -> None:
    """Calls by threads and tasks, options and structure changed meanwhile: in full 10^5 calls and 100 changes."""
    bulkhead = Bulkhead("load", max_concurrent=64, max_queue=100, max_wait=60)
    limiter, breaker = RateLimiter("load", rate=1e9), CircuitBreaker("load")
    retry = Retry(on=ConnectionError, max_attempts=3, base_delay=0)
    pipeline = Pipeline(retry, breaker, bulkhead, limiter, name="load")
    guarded, guarded_async = pipeline(lambda: 1), pipeline(_one)
    answers: list[int] = []
    errors: list[BaseException] = []
    reloaded = threading.Event()

    def thread() -> None:
        done = 0
        while done < CALLS // 2 // THREADS or not reloaded.is_set():
            done += guarded()
        answers.append(done)

    async def task() -> None:
        done = 0
        while done < CALLS // 2 // TASKS or not reloaded.is_set():
            done += await guarded_async()
        answers.append(done)

    async def tasks() -> None:
        await asyncio.gather(*(task() for _ in range(TASKS)))

    def noting_errors(work: Callable[[], object]) -> None:
        try:
            work()
        except BaseException as error:
            errors.append(error)

    works = [thread] * THREADS + [lambda: asyncio.run(tasks())]
    workers = [threading.Thread(target=noting_errors, args=(work,)) for work in works]
    for worker in workers:
        worker.start()
    for reload in range(RELOADS):
        bulkhead.reconfigure(max_concurrent=(3, 64, 7)[reload % 3])
        retry.reconfigure(max_attempts=2 + reload % 5)
        limiter.reconfigure(rate=1e9 + reload)
        breaker.reconfigure(failure_threshold=3 + reload % 7)
        rest = (retry, breaker, bulkhead, limiter)
        pipeline.reconfigure(*(rest if reload % 2 else (*rest, Timeout(60))))
    reloaded.set()
    for worker in workers:
        worker.join()
    assert not errors
    assert sum(answers) >= CALLS
    bulkhead.reconfigure(max_concurrent=64)
    slots = bulkhead._slots
    assert (bulkhead.in_flight, len(slots.free), slots.debt, len(slots.waiting)) == (0, 64, 0, 0)
    assert breaker.at_rest()


async def _one() -> int:
    await asyncio.sleep(0)  # the slot is held across a switch to another task
    return 1

"""A configuration for policies that are in use: as a whole or not at all, and again whenever its file changes."""

from __future__ import annotations

import logging
import os
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from attrs import define

from resilience_core import (
    Bulkhead,
    CircuitBreaker,
    CircuitState,
    CompositionWarning,
    ConfigurationError,
    ConfigurationRefused,
    ConfigurationReloaded,
    Event,
    FailureRate,
    Fallback,
    Gate,
    Judgement,
    Pipeline,
    RateLimiter,
    Retry,
    RetryBudget,
    StaleCache,
    Timeout,
    TokenQuota,
    config,
    registry,
    subscribe,
)
from resilience_core._telemetry import telemetry
from resilience_core._weave import births, reload
from resilience_core.config import _watch
from resilience_core.testing import record_telemetry


def boom() -> None:
    raise ConnectionError


def toml(text: str, **options: Any) -> config.Configuration:
    return config.from_toml(text, **options)


# --- applying --------------------------------------------------------------------------------------------------------


def test_policies_made_in_code_are_set_by_their_name() -> None:
    breaker, bulkhead = CircuitBreaker("applied"), Bulkhead("applied", max_concurrent=3)
    for _ in range(4):
        with pytest.raises(ConnectionError):
            breaker.call(boom)
    changed = registry.apply(
        toml(
            "[policies.applied.circuit_breaker]\nfailure_threshold = 9\n[policies.applied.bulkhead]\nmax_concurrent = 7"
        )
    )
    assert changed == {
        "policies.applied.circuit_breaker": (("failure_threshold", 5, 9),),
        "policies.applied.bulkhead": (("max_concurrent", 3, 7),),
    }
    assert breaker.snapshot()["state"] == CircuitState.CLOSED
    assert bulkhead.snapshot()["limit"] == 7


def test_policies_without_a_name_are_set_through_their_pipeline() -> None:
    total, retry, attempt = Timeout(30), Retry(on=ConnectionError), Timeout(8)
    pipeline = Pipeline(Fallback(value=1), total, retry, CircuitBreaker("x"), attempt, name="applied.send")
    registry.apply(
        toml(
            """
            [policies."applied.send"]
            idempotent = true
            timeout = { seconds = 20 }
            retry = { max_attempts = 2 }
            attempt_timeout = { seconds = 5 }
            """
        )
    )
    assert (total.seconds, retry.max_attempts, attempt.seconds, pipeline.idempotent) == (20, 2, 5, True)


def test_the_one_time_out_of_a_pipeline_is_the_total_or_the_attempts_by_where_it_stands() -> None:
    outside, inside = Timeout(30), Timeout(30)
    kept = [
        Pipeline(outside, Pipeline(Retry(on=OSError), name="sub"), name="one.out"),
        Pipeline(CircuitBreaker("x"), inside, name="one.in"),
    ]
    registry.apply(toml('[policies."one.out".timeout]\nseconds = 25\n[policies."one.in".attempt_timeout]\nseconds = 4'))
    assert (outside.seconds, inside.seconds, len(kept)) == (25, 4, 2)


def test_policies_that_no_section_sets_are_left_alone() -> None:
    @define(eq=False, slots=False)
    class Own(Gate):
        kind = "own"
        name: str

        def enter(self, args: Any, kwargs: Any) -> None:
            """Everybody may."""

        def settle(self, permit: None, judgement: Judgement) -> None:
            """Learns nothing."""

    attempt = Timeout(5)
    kept = Pipeline(Retry(on=OSError), Own("gate"), attempt, name="with.own")
    registry.apply(toml('[policies."with.own"]\nattempt_timeout = { seconds = 4 }'))
    assert (attempt.seconds, kept.policies[1].kind) == (4, "own")


def test_all_pipelines_of_one_name_are_set() -> None:
    retry, other = Retry(on=OSError), Retry(on=OSError)
    kept = [Pipeline(each, name="twice") for each in (retry, other)]
    registry.apply(toml("[policies.twice.retry]\nmax_attempts = 6"))
    assert (retry.max_attempts, other.max_attempts, len(kept)) == (6, 6, 2)


def test_a_stack_that_nobody_has_yet_is_no_error() -> None:
    assert registry.apply(toml("[policies.nobody.retry]\nmax_attempts = 6")) == {}


def test_budgets_are_set_too() -> None:
    budget = RetryBudget("applied_budget", law=TokenQuota(100))
    registry.apply(toml('[budgets.applied_budget]\nlaw = { type = "TokenQuota", capacity = 50 }'))
    assert budget.snapshot()["balance"] == 50


def test_one_thing_that_cannot_be_changes_nothing_at_all() -> None:
    bulkhead, budget = Bulkhead("whole", max_concurrent=3), RetryBudget("whole_budget", law=TokenQuota(100))
    text = '[policies.whole.bulkhead]\nmax_concurrent = 9\n[budgets.whole_budget]\nlaw = { type = "TrafficRatio" }'
    with pytest.raises(ConfigurationError, match="law must stay a TokenQuota"):
        registry.apply(toml(text))
    assert (bulkhead.max_concurrent, bulkhead.snapshot()["limit"], budget.law) == (3, 3, TokenQuota(100))


def test_a_section_that_a_pipeline_made_in_code_lacks_is_told() -> None:
    retry = Retry(on=OSError)
    pipeline = Pipeline(retry, name="lacking")
    with pytest.raises(config.InvalidConfiguration) as refused:
        registry.apply(
            toml("[policies.lacking.retry]\nmax_attempts = 9\n[policies.lacking.bulkhead]\nmax_concurrent = 2")
        )
    assert str(refused.value) == (
        "1 problem in the configuration (the text)\n"
        "policies.lacking.bulkhead: the pipeline 'lacking' has no such policy, and was not built by a configuration\n"
        "  Put it in where the pipeline is composed, or take the section out\n"
        "  (in the text)"
    )
    assert (retry.max_attempts, len(list(pipeline))) == (3, 1)


def test_an_option_that_is_not_named_any_more_becomes_what_it_was_in_code() -> None:
    retry = Retry(on=OSError, max_attempts=7)
    pipeline = Pipeline(retry, name="back")
    registry.apply(toml("[policies.back.retry]\nmax_attempts = 2\nbase_delay = 0.5"))
    assert (retry.max_attempts, retry.base_delay) == (2, 0.5)
    registry.apply(toml("[policies.back.retry]\nbase_delay = 0.25"))
    assert (retry.max_attempts, retry.base_delay) == (7, 0.25)
    registry.apply(toml("[policies.back.retry]\nmultiplier = 3.0"))
    assert (retry.max_attempts, retry.base_delay, retry.multiplier) == (7, 1.0, 3.0)
    assert len(list(pipeline)) == 1


def test_what_is_allowed_reaches_a_pipeline_made_in_code() -> None:
    with pytest.warns(CompositionWarning):
        pipeline = Pipeline(Timeout(3), Retry(on=OSError), name="allowing")
    registry.apply(
        toml('[policies.allowing]\nallow = { plan-exceeds-deadline = "it is" }\nretry = {}\ntimeout = { seconds = 3 }')
    )
    assert pipeline.allow == {"plan-exceeds-deadline": "it is"}


def test_the_same_again_changes_nothing_and_is_no_change_of_what_is_fixed(tmp_path: Path) -> None:
    cache = StaleCache(fresh_for=60, stale_for=600, name="again", file=tmp_path / "cache")
    text = f'[policies.again.stale_cache]\nfresh_for = 30\nstale_for = 600\nfile = "{tmp_path / "cache"}"'
    assert registry.apply(toml(text)) == {"policies.again.stale_cache": (("fresh_for", 60, 30),)}
    assert registry.apply(toml(text)) == {}
    assert cache.fresh_for == 30


def test_two_stacks_that_set_one_policy_add_up_also_the_second_time() -> None:
    shared = CircuitBreaker("sharing_one")
    kept = Pipeline(shared, Timeout(30), name="sharing_two")
    text = """
        [policies.sharing_one.circuit_breaker]
        failure_threshold = 9
        [policies.sharing_two.circuit_breaker]
        recovery_timeout = 20
        """
    for _ in range(2):
        registry.apply(toml(text))
        assert (shared.failure_threshold, shared.recovery_timeout) == (9, 20)
    assert len(kept.policies) == 2


def test_two_stacks_that_contradict_each_other_are_told() -> None:
    shared = CircuitBreaker("quarrel_one")
    kept = Pipeline(shared, Timeout(30), name="quarrel_two")
    with pytest.raises(config.InvalidConfiguration) as refused:
        registry.apply(
            toml(
                "[policies.quarrel_one.circuit_breaker]\nfailure_threshold = 9\n"
                "[policies.quarrel_two.circuit_breaker]\nfailure_threshold = 8"
            )
        )
    assert str(refused.value) == (
        "1 problem in the configuration (the text)\n"
        "policies.quarrel_two.circuit_breaker.failure_threshold: "
        "is set to 8 here, and to 9 by policies.quarrel_one.circuit_breaker\n"
        "  Both set the same policy: say it in one place\n"
        "  (in the text)"
    )
    assert (shared.failure_threshold, len(kept.policies)) == (5, 2)


def test_a_rule_takes_the_place_of_the_threshold_that_code_gave_and_gives_it_back() -> None:
    breaker = CircuitBreaker("ruled", failure_threshold=7)
    for _ in range(2):
        registry.apply(toml('[policies.ruled.circuit_breaker]\ntrip = { type = "FailureRate", rate = 0.4 }'))
        assert breaker.trip == FailureRate(0.4)
    registry.apply(toml("[policies.ruled.circuit_breaker]\nrecovery_timeout = 5"))
    assert (breaker.trip, breaker.failure_threshold, breaker.recovery_timeout) == (None, 7, 5)
    registry.apply(toml("[policies.ruled.circuit_breaker]\nfailure_threshold = 3"))
    assert (breaker.trip, breaker.failure_threshold) == (None, 3)


def test_what_a_file_does_not_speak_of_any_more_is_as_code_made_it() -> None:
    breaker, budget = CircuitBreaker("gone"), RetryBudget("gone_budget", law=TokenQuota(100))
    attempt = Timeout(5)
    kept = Pipeline(Retry(on=OSError, idempotent=True), attempt, name="gone.too", idempotent=False)
    text = """
        [policies.gone.circuit_breaker]
        failure_threshold = 9
        [policies."gone.too"]
        idempotent = true
        attempt_timeout = { seconds = 4 }
        [budgets.gone_budget]
        law = { type = "TokenQuota", capacity = 50 }
        """
    registry.apply(toml(text, source="gone.toml"))
    assert (breaker.failure_threshold, attempt.seconds, kept.idempotent, budget.law) == (9, 4, True, TokenQuota(50))
    registry.apply(toml("", source="another.toml"))
    assert breaker.failure_threshold == 9
    changed = registry.apply(toml("", source="gone.toml"))
    assert (breaker.failure_threshold, attempt.seconds, kept.idempotent, budget.law) == (5, 5, False, TokenQuota(100))
    assert set(changed) == {
        "policies.gone.circuit_breaker",
        "policies.gone.too",
        "policies.gone.too.attempt_timeout",
        "budgets.gone_budget",
    }
    assert registry.apply(toml("", source="gone.toml")) == {}


def test_what_did_not_take_its_options_is_not_told_as_changed(caplog: pytest.LogCaptureFixture) -> None:
    class Failing(Bulkhead):
        def _adopt(self, other: Any, changed: frozenset[str]) -> None:
            raise RuntimeError("a bug of somebody else")

    failing, limiter = Failing("half", max_concurrent=1), RateLimiter("half", rate=1)
    changed = registry.apply(toml("[policies.half]\nbulkhead = { max_concurrent = 2 }\nrate_limiter = { rate = 2 }"))
    assert set(changed) == {"policies.half.rate_limiter"}
    assert (failing.name, limiter.rate) == ("half", 2)
    assert "did not take all of its new options over" in caplog.text


def test_listeners_are_told_when_everything_is_done_and_may_wait_for_others() -> None:
    breaker = CircuitBreaker("telling")
    done, waited = threading.Event(), []

    def listener(event: Event) -> None:
        if not done.is_set():
            done.set()
            other = threading.Thread(target=lambda: breaker.reconfigure(recovery_timeout=7))
            other.start()
            other.join(20)
            waited.append(other.is_alive())

    end = breaker.subscribe(listener)
    registry.apply(toml("[policies.telling.circuit_breaker]\nfailure_threshold = 9"))
    end()
    assert waited == [False], "another thread cannot change anything meanwhile"
    assert (breaker.failure_threshold, breaker.recovery_timeout) == (9, 7)


# --- pipelines that a configuration built ----------------------------------------------------------------------------

BUILT = """
[policies.built]
retry = { max_attempts = 5 }
circuit_breaker = { failure_threshold = 4 }
"""


def test_a_built_pipeline_gets_other_sections_and_keeps_the_state_of_those_that_stay() -> None:
    calls = []
    pipeline = toml(BUILT).build("built", on=ConnectionError, code={"circuit_breaker": {"on": ConnectionError}})
    retry, breaker = pipeline.policies

    @pipeline
    def send(user: str) -> str:
        calls.append(user)
        return "sent"

    for _ in range(3):
        with pytest.raises(ConnectionError):
            breaker.call(boom)
    changed = registry.apply(
        toml(
            """
            [policies.built]
            circuit_breaker = { failure_threshold = 4 }
            bulkhead = { max_concurrent = 5 }
            attempt_timeout = { seconds = 9 }
            """
        )
    )
    assert [policy.kind for policy in pipeline] == ["circuit_breaker", "bulkhead", "timeout"]
    assert set(changed) == {"policies.built"}
    assert pipeline.policies[0] is breaker
    assert send("u") == "sent"
    for _ in range(4):
        with pytest.raises(ConnectionError):
            breaker.call(boom)
    assert breaker.snapshot()["state"] == "open"
    registry.apply(toml(BUILT))
    new, same = pipeline.policies
    assert (new.kind, same, new is retry) == ("retry", breaker, False)
    assert (new.max_attempts, new.on) == (5, ConnectionError)  # type: ignore[attr-defined]


def test_what_a_built_pipeline_is_not_told_any_more_becomes_its_default() -> None:
    pipeline = toml(BUILT).build("built", on=ConnectionError)
    retry, breaker = pipeline.policies
    registry.apply(toml("[policies.built]\nretry = {}\ncircuit_breaker = { recovery_timeout = 5 }"))
    assert (retry.max_attempts, breaker.failure_threshold, breaker.recovery_timeout) == (3, 5, 5)  # type: ignore[attr-defined]
    registry.apply(toml("[policies.built]\nretry = {}\ncircuit_breaker = {}"))
    assert breaker.recovery_timeout == 60  # type: ignore[attr-defined]


def test_code_keeps_the_last_word_on_idempotence() -> None:
    said, unsaid = (
        toml(f"[policies.{name}.retry]").build(name, on=OSError, idempotent=value)
        for name, value in (("said", False), ("unsaid", None))
    )
    for name in ("said", "unsaid"):
        registry.apply(toml(f"[policies.{name}]\nidempotent = true\nretry = {{}}"))
    assert (said.idempotent, unsaid.idempotent) == (False, True)


def test_a_built_pipeline_that_code_has_changed_since_is_nobodys_to_rebuild() -> None:
    pipeline = toml(BUILT).build("built", on=ConnectionError)
    pipeline.reconfigure(*pipeline.policies, Bulkhead("built", max_concurrent=1))
    registry.apply(toml("[policies.built]\nretry = { max_attempts = 2 }"))
    assert [policy.kind for policy in pipeline] == ["retry", "circuit_breaker", "bulkhead"]
    assert pipeline.policies[0].max_attempts == 2  # type: ignore[attr-defined]


def test_a_new_section_that_only_code_can_complete_is_refused_and_leaves_no_phantom() -> None:
    text = BUILT.replace("built", "phantom")
    pipeline = toml(text).build("phantom", on=ConnectionError)
    with pytest.raises(config.InvalidConfiguration, match=r"policies\.phantom\.fallback: .*\n.*only code can give"):
        registry.apply(toml(text + "bulkhead = { max_concurrent = 2 }\nfallback = {}"))
    assert registry.find("phantom", "bulkhead") == []
    assert [policy.kind for policy in pipeline] == ["retry", "circuit_breaker"]
    registry.apply(toml(text + "bulkhead = { max_concurrent = 2 }\nattempt_timeout = { seconds = 3 }"))
    assert registry.find("phantom", "bulkhead") == [pipeline.policies[2]]


def test_what_a_built_pipeline_was_told_of_itself_goes_back_too() -> None:
    pipeline = toml("[policies.itself]\nidempotent = true\nretry = {}").build("itself", on=OSError)
    assert pipeline.idempotent
    registry.apply(toml("[policies.itself]\nretry = {}"))
    assert pipeline.idempotent is None


def test_a_refused_change_of_structure_leaves_everything_as_it_was() -> None:
    pipeline = toml("[policies.built.timeout]\nseconds = 5").build("built")
    before = str(pipeline)
    with pytest.raises(ConfigurationError):
        registry.apply(
            config.Configuration(
                {"built": config.Stack("built", {"timeout": {"seconds": 5.0}, "attempt_timeout": {"seconds": 9.0}})}
            )
        )
    assert str(pipeline) == before
    registry.apply(toml("[policies.built]\ntimeout = { seconds = 5 }\nattempt_timeout = { seconds = 4 }"))
    assert [policy.seconds for policy in pipeline] == [5, 4]  # type: ignore[attr-defined]


# --- the watcher -----------------------------------------------------------------------------------------------------


@pytest.fixture
def heard() -> Iterator[list[Event]]:
    events: list[Event] = []
    end = subscribe(events.append)
    yield events
    end()


def test_every_change_of_the_file_is_applied_once(tmp_path: Path, heard: list[Event]) -> None:
    path = tmp_path / "resilience.toml"
    limiter = RateLimiter("watched", rate=1)
    watcher = config.Watcher(path)
    path.write_text("[policies.watched.rate_limiter]\nrate = 5\n")
    assert [watcher.poll(), watcher.poll()] == [True, False]
    assert limiter.rate == 5
    path.write_text("[policies.watched.rate_limiter]\nrate = 6\n")
    assert [watcher.poll(), watcher.poll()] == [True, False]
    assert limiter.rate == 6
    told = [event for event in heard if isinstance(event, ConfigurationReloaded)]
    assert [(event.policy, event.changed) for event in told] == [
        ("resilience.toml", ("policies.watched.rate_limiter",)),
        ("resilience.toml", ("policies.watched.rate_limiter",)),
    ]


def test_a_wrong_file_changes_nothing_is_reported_once_and_watched_on(
    tmp_path: Path, heard: list[Event], caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "resilience.toml"
    limiter = RateLimiter("watched", rate=1)
    watcher = config.Watcher(path)
    with caplog.at_level(logging.INFO, "resilience_core.config"):
        path.write_text("[policies.watched.rate_limiter]\nrate = -5\n")
        assert [watcher.poll(), watcher.poll()] == [False, False]
        assert isinstance(watcher.error, config.InvalidConfiguration)
        path.unlink()
        assert [watcher.poll(), watcher.poll()] == [False, False]
        path.write_text("[policies.watched.rate_limiter]\nrate = 5\n")
        assert watcher.poll()
    assert watcher.error is None
    assert limiter.rate == 5
    refused = [event for event in heard if isinstance(event, ConfigurationRefused)]
    assert [event.problems[0].partition("\n")[0] for event in refused] == [
        "policies.watched.rate_limiter.rate: must be a positive, finite number, not -5",
        f"there is no file {str(path)!r}",
    ]
    assert [(record.levelname, vars(record)["event.name"]) for record in caplog.records] == [
        ("ERROR", "resilience.config.reload_failed"),
        ("ERROR", "resilience.config.reload_failed"),
        ("INFO", "resilience.config.changed"),
        ("INFO", "resilience.config.reloaded"),
    ]


def test_a_file_that_living_functions_cannot_have_is_refused_too(tmp_path: Path) -> None:
    path = tmp_path / "resilience.toml"
    pipeline = toml("[policies.streaming.retry]").build("streaming", on=OSError, idempotent=True)

    @pipeline
    def numbers() -> Any:
        yield 1

    watcher = config.Watcher(path)
    path.write_text("[policies.streaming.hedge]\ndelay = 1\n")
    assert not watcher.poll()
    assert "cannot guard" in str(watcher.error)
    assert list(numbers()) == [1]


def test_the_thread_sees_changes_and_ends_when_it_is_told(tmp_path: Path) -> None:
    path = tmp_path / "resilience.toml"
    limiter = RateLimiter("watched", rate=1)
    seen: dict[float, threading.Event] = {rate: threading.Event() for rate in (5, 6)}

    def listener(event: Event) -> None:
        seen[limiter.rate].set()

    end = limiter.subscribe(listener)
    path.write_text("[policies.watched.rate_limiter]\nrate = 5\n")
    with config.Watcher(path, interval=0.01) as watcher:
        watcher.start()
        assert seen[5].wait(20)
        path.write_text("[policies.watched.rate_limiter]\nrate = 6\n")
        assert seen[6].wait(20)
        thread = watcher._thread
    end()
    assert thread is not None
    assert not thread.is_alive()
    watcher.close()


def test_a_watcher_survives_what_it_cannot_foresee(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    broken, mended = threading.Event(), threading.Event()

    def load(*args: Any, **options: Any) -> Any:
        if not broken.is_set():
            broken.set()
            raise RuntimeError("a bug")
        mended.set()
        return config.from_toml("")

    monkeypatch.setattr(_watch, "load", load)
    path = tmp_path / "resilience.toml"
    path.write_text("")
    with config.Watcher(path, interval=0.01) as watcher:
        assert broken.wait(20)
        assert mended.wait(20)  # of the same file
    assert watcher.error is None
    assert "Configuration 'resilience.toml' is refused, nothing has changed: RuntimeError (at " in caplog.text


def in_a_fork(check: Callable[[], bool]) -> bool:
    """What `check` answers in a child of a fork; False for a child that hangs."""
    child = os.fork()
    if child == 0:
        signal.alarm(60)  # ends a child that waits for a lock for ever
        os._exit(0 if check() else 1)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
forks = pytest.mark.filterwarnings("ignore:.*use of fork:DeprecationWarning")  # that is what is tried here


@needs_fork
@forks
def test_a_child_of_a_fork_can_look_for_itself(tmp_path: Path) -> None:
    path = tmp_path / "resilience.toml"
    path.write_text("[policies.forked.rate_limiter]\nrate = 5\n")
    limiter = RateLimiter("forked", rate=1)
    watcher = config.Watcher(path)
    with watcher._lock, reload.lock, births._lock, registry._lock:  # a look is under way when the process forks
        assert in_a_fork(lambda: watcher.poll() and limiter.rate == 5 and watcher._thread is None)
    assert limiter.rate == 1


@needs_fork
@forks
def test_a_thread_that_a_fork_left_behind_can_be_started_anew_and_closed(tmp_path: Path) -> None:
    watcher = config.Watcher(tmp_path / "resilience.toml", interval=60)

    def again() -> bool:
        watcher.close()  # of a thread that is not here: nothing to wait for
        watcher.start()
        anew = watcher._thread is not thread and watcher._thread is not None and watcher._thread.is_alive()
        watcher.close()
        return anew

    with watcher:
        thread = watcher._thread
        with watcher._lock:
            assert in_a_fork(again)
            assert watcher._lock.locked(), "in the parent all is as it was"
        assert watcher._thread is thread
    assert thread is not None
    assert not thread.is_alive()


def test_a_name_that_no_file_can_have_is_a_file_that_is_not_there() -> None:
    watcher = config.Watcher("a\0b.toml")
    assert not watcher.poll()
    assert watcher.error is not None


def test_it_can_be_closed_by_what_it_tells(tmp_path: Path) -> None:
    path = tmp_path / "resilience.toml"
    path.write_text("")
    closed = threading.Event()
    watcher = config.Watcher(path, interval=60)

    def listener(event: Event) -> None:
        if isinstance(event, ConfigurationReloaded):
            watcher.close()
            closed.set()

    end = subscribe(listener)
    with watcher:
        assert closed.wait(20)
    end()
    watcher.close()


@pytest.mark.parametrize("interval", [0, -1, float("nan"), True, "2"])
def test_an_interval_that_cannot_be_is_refused(interval: Any) -> None:
    with pytest.raises(ConfigurationError, match="Watcher: interval must be a positive, finite number of seconds"):
        config.Watcher("x.toml", interval=interval)


def test_reloads_are_counted() -> None:
    with record_telemetry() as recorded:
        telemetry.count_reload("success")
        telemetry.count_reload("error")
        assert {
            outcome: recorded.value("resilience.config.reloads", {"resilience.outcome": outcome})
            for outcome in ("success", "error")
        } == {"success": 1, "error": 1}

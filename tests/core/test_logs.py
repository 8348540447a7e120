"""What is logged, where, at which level, and how often."""

from __future__ import annotations

import functools
import io
import json
import logging
import re
import subprocess
import sys
import threading
import warnings
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest
import structlog
from opentelemetry.sdk._logs import LoggerProvider, LoggingHandler
from opentelemetry.sdk._logs.export import InMemoryLogRecordExporter, SimpleLogRecordProcessor

from resilience_core import (
    AdaptiveRetry,
    Bulkhead,
    BulkheadFullError,
    CallRejected,
    ChaosInjected,
    CircuitBreaker,
    CircuitTransition,
    ConfigurationError,
    ConfigurationRefused,
    ConfigurationReloaded,
    Deadline,
    Event,
    FallbackUsed,
    HedgeStarted,
    HedgeWon,
    Keyed,
    LimitChanged,
    RateLimitedError,
    RateLimiter,
    Reconfigured,
    RecordIgnored,
    Rejection,
    RejectionReason,
    Retry,
    RetryScheduled,
    RetrySuppressed,
    StaleServed,
    StoreDegraded,
    StoreRecovered,
    TimeoutExpired,
    deadline,
    logs,
)
from resilience_core._event_log import log_event, one_line, say
from resilience_core._event_records import EventRecord, record_of
from resilience_core._events import Bus, everywhere
from resilience_core._weave.rejections import EVERY, LOOK
from resilience_core.testing import virtual_time
from tests.worlds import ManualClock

DOCS = Path(__file__).parents[2] / "docs" / "logs.md"
ERROR = ValueError("+33612345678")
EVENTS: list[Event] = [
    CircuitTransition("p", 1.0, "closed", "open", "failure_ratio", lasted=1.0),
    CircuitTransition("p", 1.0, "closed", "forced_open", "manual", "ann", "migration", 61.0),
    Rejection("p", 1.0, RejectionReason.RATE_LIMITED, "f", 2.0),
    RetryScheduled("p", 1.0, "f", 1, 0.5, "backoff", ERROR),
    RetrySuppressed("p", 1.0, "f", 3, "attempts_exhausted", ERROR),
    TimeoutExpired("p", 1.0, "f", 2.0),
    FallbackUsed("p", 1.0, "f", "value", ERROR),
    StaleServed("p", 1.0, "f", 60.0, ERROR),
    HedgeStarted("p", 1.0, "f", 2),
    HedgeWon("p", 1.0, "f", 2, 2),
    LimitChanged("p", 1.0, 20, 10, "drop"),
    ChaosInjected("p", 1.0, "f", "latency"),
    Reconfigured("p", 1.0, (("max_attempts", 3, 5),)),
    ConfigurationReloaded("resilience.toml", 1.0, ("policies.p",)),
    ConfigurationRefused("resilience.toml", 1.0, ("policies.p: no",)),
    StoreDegraded("fleet", 1.0, "ConnectionError"),
    StoreRecovered("fleet", 1.0, 12.0),
    RecordIgnored("p", 1.0, "no version"),
]


@pytest.fixture(autouse=True)
def usual_levels() -> Generator[None]:
    yield
    logs.set_levels({})


@pytest.fixture
def heard(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    caplog.set_level(logging.INFO, "resilience_core")
    return caplog


def name_of(record: logging.LogRecord) -> Any:
    return vars(record)["event.name"]


def told(caplog: pytest.LogCaptureFixture, name: str) -> list[dict[str, Any]]:
    return [vars(record) for record in caplog.records if name_of(record) == name]


# --- where and at which level ----------------------------------------------------------------------


def test_each_event_is_one_line_of_its_logger_at_its_level_with_flat_keys(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "resilience_core")
    for event in EVENTS:
        Bus().emit(event)
    assert len(caplog.records) == len(EVENTS)
    for event, record in zip(EVENTS, caplog.records, strict=True):
        line = logs.LINES[name_of(record)]
        assert (record.name, record.levelno) == (line.logger, line.level)
        attributes = record_of(event).attributes
        assert attributes.items() <= vars(record).items()
        assert all(key.startswith(("resilience.", "error.type")) for key in attributes)
        assert ERROR.args[0] not in str(vars(record))


def test_all_kinds_of_events_are_among_the_lines() -> None:
    assert {type(event) for event in EVENTS} == {line.event for line in logs.LINES.values() if line.event}
    assert {record_of(event).name for event in EVENTS} == {name for name, line in logs.LINES.items() if line.event}


def test_the_table_of_the_docs_is_what_the_code_does() -> None:
    rows = re.findall(r"^\| `(resilience\.[\w.]+)` \| `\.(\w+)` \| (\w+) \| (.*) \|$", DOCS.read_text(), re.MULTILINE)
    assert rows == [
        (name, line.logger.removeprefix("resilience_core."), logging.getLevelName(line.level), line.tells)
        for name, line in logs.LINES.items()
    ]


def test_an_opening_is_a_warning_and_is_heard_where_no_info_is(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING, "resilience_core")
    clock = ManualClock()
    breaker = CircuitBreaker("graph", failure_threshold=1, recovery_timeout=10, success_threshold=1, clock=clock)
    fail(breaker)
    clock.time += 10
    breaker.call(int)
    assert [(record.levelname, record.getMessage()) for record in caplog.records] == [
        ("WARNING", "Circuit 'graph' is open (consecutive_failures)")
    ]


def test_half_open_and_closed_are_infos(heard: pytest.LogCaptureFixture) -> None:
    clock = ManualClock()
    breaker = CircuitBreaker("graph", failure_threshold=1, recovery_timeout=10, success_threshold=1, clock=clock)
    fail(breaker)
    clock.time += 10
    breaker.call(int)
    changes = [each for each in heard.records if name_of(each) == "resilience.circuit_breaker.transition"]
    assert [each.levelname for each in changes] == ["WARNING", "INFO", "INFO"]


def test_what_is_done_by_hand_has_a_logger_of_its_own(heard: pytest.LogCaptureFixture) -> None:
    other = logging.getLogger("resilience_core.circuit_breaker")
    other.setLevel(logging.CRITICAL)
    try:
        breaker = CircuitBreaker("graph", clock=ManualClock())
        breaker.force_open(actor="ann\n", reason="migration", for_=60)
        breaker.reset(actor="ann")
    finally:
        other.setLevel(logging.NOTSET)
    first, second = heard.records
    assert first.getMessage() == "Circuit 'graph' is forced open by 'ann\\n' (manual)"
    assert (first.name, first.levelname, second.levelname) == ("resilience_core.control", "WARNING", "INFO")
    assert vars(first) | {
        "event.name": "resilience.control.applied",
        "resilience.control.actor": "ann\n",
        "resilience.control.note": "migration",
        "resilience.control.duration": 60.0,
    } == vars(first)


def fail(breaker: CircuitBreaker) -> None:
    with pytest.raises(ZeroDivisionError):
        breaker.call(lambda: 1 / 0)


def test_without_a_log_nothing_is_written_to_stderr() -> None:
    code = "from resilience_core import CircuitBreaker; CircuitBreaker('b').force_open()"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("", "")


def test_no_name_breaks_a_line_or_speaks_to_a_terminal(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "resilience_core")
    evil = "a\r\nCRITICAL all is lost\x1b[31m\u2028"
    kind = type(evil, (Exception,), {})
    for event in (
        CircuitTransition(evil, 1.0, "closed", "open", "manual", evil, evil),
        Rejection(evil, 1.0, RejectionReason.DEADLINE, evil),
        RetryScheduled(evil, 1.0, evil, 1, 0.5, "backoff", kind()),
        RetrySuppressed(evil, 1.0, evil, 1, evil, kind()),
        TimeoutExpired(evil, 1.0, evil, 2.0),
        FallbackUsed(evil, 1.0, evil, "value", kind()),
        StaleServed(evil, 1.0, evil, 60.0, kind()),
        HedgeStarted(evil, 1.0, evil, 2),
        HedgeWon(evil, 1.0, evil, 2),
        ChaosInjected(evil, 1.0, evil, evil),
        LimitChanged(evil, 1.0, 1, 2, evil),
        Reconfigured(evil, 1.0, ((evil, 1, 2),)),
        ConfigurationReloaded(evil, 1.0, (evil,)),
        ConfigurationRefused(evil, 1.0, (evil,)),
        StoreDegraded(evil, 1.0, evil),
        StoreRecovered(evil, 1.0, 1.0),
        RecordIgnored(evil, 1.0, evil),
        Event(evil, 1.0),
    ):
        Bus().emit(event)
    say("resilience.listener.failed", evil, error=kind())
    log_event(ConfigurationRefused(evil, 1.0, (evil,)), text=evil)
    assert len(caplog.records) == 20
    assert all(record.getMessage().isprintable() for record in caplog.records)
    assert one_line("plain 'text' é") == "plain 'text' é"


# --- other levels ------------------------------------------------------------------------------------


def test_levels_are_set_by_name_and_set_back(heard: pytest.LogCaptureFixture) -> None:
    logs.set_levels({"resilience.retry.scheduled": logging.WARNING, "resilience.timeout": "ERROR"})
    heard.set_level(logging.WARNING, "resilience_core")
    retry, timeout = EVENTS[3], EVENTS[5]
    for event in (retry, timeout):
        Bus().emit(event)
    logs.set_levels({})
    for event in (retry, timeout):
        Bus().emit(event)
    assert [record.levelname for record in heard.records] == ["WARNING", "ERROR"]


def test_a_line_can_be_turned_off_and_its_event_is_then_not_made(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "resilience_core")
    assert Bus().hears(RetryScheduled)
    logs.set_levels({"resilience.retry.scheduled": None, "resilience.control.applied": None})
    assert not Bus().hears(RetryScheduled)
    assert Bus().hears(CircuitTransition), "what is not done by hand is still logged"
    CircuitBreaker("graph").force_open()
    Bus().emit(EVENTS[3])
    assert caplog.records == []


def test_a_function_chooses_for_each_record(heard: pytest.LogCaptureFixture) -> None:
    def choose(record: EventRecord) -> int | None:
        number: int = record.attributes["resilience.attempt.number"]
        return {1: None, 2: logging.INFO, 3: logging.ERROR}[number]

    logs.set_levels({"resilience.retry.scheduled": choose})
    for number in (1, 2, 3, 4):  # the last one makes it raise
        Bus().emit(RetryScheduled("p", 1.0, "f", number, 0.5, "backoff", ERROR))
    assert [record.levelname for record in heard.records] == ["INFO", "ERROR", "INFO"]


@pytest.mark.parametrize(
    ("levels", "words"),
    [
        ({"resilience.retry.schedulde": 10}, "did you mean 'resilience.retry.scheduled'"),
        ({"": 10}, "resilience_core.logs.LINES has all of them"),
        ({"resilience.timeout": "LOUD"}, "the level of 'resilience.timeout' must be"),
        ({"resilience.timeout": True}, "must be"),
        ({"resilience.timeout": 0}, "must be"),
    ],
)
def test_wrong_names_and_levels_are_refused_and_change_nothing(levels: Any, words: str) -> None:
    logs.set_levels({"resilience.timeout": None})
    with pytest.raises(ConfigurationError, match=words):
        logs.set_levels({"resilience.retry.scheduled": None, **levels})
    assert not Bus().hears(TimeoutExpired)
    logger = logging.getLogger("resilience_core")
    logger.setLevel(logging.INFO)
    try:
        assert Bus().hears(RetryScheduled)
    finally:
        logger.setLevel(logging.NOTSET)


def test_a_log_that_raises_changes_no_call(heard: pytest.LogCaptureFixture) -> None:
    def refuse(record: logging.LogRecord) -> bool:
        raise RuntimeError("a filter of somebody else")

    heard.handler.addFilter(refuse)
    try:
        breaker = CircuitBreaker("graph", failure_threshold=1)
        fail(breaker)
        with pytest.raises(CallRejected):
            breaker.call(int)
    finally:
        heard.handler.removeFilter(refuse)


def test_a_listener_that_raises_is_told_by_its_name_and_place_only(heard: pytest.LogCaptureFixture) -> None:
    secret = "+33612345678"

    def listener(who: str, event: Event) -> None:
        raise KeyError(who)

    bus = Bus()
    bus.subscribe(functools.partial(listener, secret))
    bus.subscribe(functools.partial(listener, secret).func.__get__(secret))
    bus.emit(Event("p", 1.0))
    texts = [record.getMessage() for record in heard.records]
    assert texts[0].startswith("Listener 'partial' failed on Event; it is kept, and this is told once (KeyError at ")
    assert "listener' failed on Event" in texts[1]
    assert secret not in str([vars(record) for record in heard.records])
    assert "in test_a_listener_that_raises" in vars(heard.records[0])["code.stacktrace"]


def test_what_was_done_by_hand_in_another_process_of_a_fleet_is_a_control_here_too() -> None:
    record = record_of(CircuitTransition("p", 1.0, "closed", "forced_open", "remote", "ann", "migration", 61.0))
    assert record.name == "resilience.control.applied"
    assert record.attributes["resilience.transition.reason"] == "remote"
    assert record_of(CircuitTransition("p", 1.0, "closed", "open", "remote")).name == (
        "resilience.circuit_breaker.transition"
    )


# --- rejections ----------------------------------------------------------------------------------------

SUMMARY = "resilience.call.rejections"


def rejected(breaker: CircuitBreaker, times: int = 1) -> None:
    for _ in range(times):
        with pytest.raises(CallRejected):
            breaker.call(int)


def test_rejections_are_told_at_once_and_then_every_thirty_seconds(heard: pytest.LogCaptureFixture) -> None:
    clock = ManualClock()
    breaker = CircuitBreaker("graph", clock=clock)
    breaker.force_open()
    heard.clear()
    rejected(breaker)
    assert [record.getMessage() for record in heard.records] == ["'graph' rejected 1 call (circuit_forced_open)"]
    began = clock.time
    for number in range(1, 1205):
        clock.time = began + EVERY * (number / 1204)
        rejected(breaker)
    first, second = heard.records
    assert second.getMessage() == "'graph' rejected 1,204 calls in 30 s (circuit_forced_open)"
    assert (second.name, second.levelname) == ("resilience_core.rejections", "INFO")
    assert vars(second) | {
        "event.name": SUMMARY,
        "resilience.policy.name": "graph",
        "resilience.rejection.reason": "circuit_forced_open",
        "resilience.rejections.count": 1204,
    } == vars(second)
    assert vars(second)["resilience.rejections.duration"] == pytest.approx(EVERY)
    assert not hasattr(first, "resilience.rejections.duration")


def test_the_counts_of_all_lines_are_all_rejections(heard: pytest.LogCaptureFixture) -> None:
    clock = ManualClock()
    breaker = CircuitBreaker("graph", clock=clock)
    breaker.force_open()
    for pause in (0, 0.5, 3, 29, 31, 3600, 0.1, 2, 40):
        clock.time += pause
        rejected(breaker, 7)
    clock.time += EVERY
    rejected(breaker)
    assert sum(each["resilience.rejections.count"] for each in told(heard, SUMMARY)) == 64
    clock.time = 0.0  # the clock of another test: it begins anew, and so does the log
    breaker.bus.silent_until = 0.0
    rejected(breaker)
    assert told(heard, SUMMARY)[-1]["resilience.rejections.count"] == 1


def test_each_rejection_is_told_at_debug_and_to_listeners(caplog: pytest.LogCaptureFixture) -> None:
    clock = ManualClock()
    breaker = CircuitBreaker("graph", clock=clock)
    breaker.force_open()
    caplog.set_level(logging.INFO, "resilience_core")
    rejected(breaker, 3)
    caplog.set_level(logging.DEBUG, "resilience_core")
    clock.time += LOOK  # so late at most does an open circuit see that somebody wants to know more
    seen: list[Event] = []
    end = breaker.subscribe(seen.append)
    rejected(breaker, 3)
    end()
    assert len(seen) == 3
    assert len(told(caplog, "resilience.call.rejected")) == 3
    assert len(told(caplog, SUMMARY)) == 1


def test_a_log_that_is_turned_on_later_is_told_of_its_own_time_only(caplog: pytest.LogCaptureFixture) -> None:
    clock = ManualClock()
    breaker = CircuitBreaker("graph", clock=clock)
    breaker.force_open()
    for _ in range(5):
        rejected(breaker, 10)
        clock.time += EVERY
    caplog.set_level(logging.INFO, "resilience_core")
    rejected(breaker)
    assert [each["resilience.rejections.count"] for each in told(caplog, SUMMARY)] == [10]


def test_shadow_mode_tells_what_would_have_been(heard: pytest.LogCaptureFixture) -> None:
    clock = ManualClock()
    limiter = RateLimiter("graph", rate=0.001, burst=1, max_wait=0, enforce=0.0, clock=clock)
    for _ in range(4):
        limiter.call(int)
    clock.time += EVERY
    limiter.call(int)
    limiter.reconfigure(enforce=1.0)
    clock.time += LOOK
    with pytest.raises(RateLimitedError):
        limiter.call(int)
    clock.time += EVERY
    with pytest.raises(RateLimitedError):
        limiter.call(int)
    assert [each["message"].removeprefix("'graph' ") for each in told(heard, SUMMARY)] == [
        "would have rejected 1 call (rate_limited)",
        "would have rejected 3 calls in 30 s (rate_limited)",
        "rejected 2 calls in 31 s (rate_limited)",
    ]
    assert told(heard, SUMMARY)[1]["resilience.rejections.not_enforced"] == 3


def test_a_state_that_is_imported_takes_nothing_back(heard: pytest.LogCaptureFixture) -> None:
    bus = Bus()
    clock = ManualClock()
    limiter = RateLimiter("graph", rate=0.001, burst=1, max_wait=0, clock=clock)
    limiter.call(int)
    for total in (5, 2, 3):
        limiter._rejected = total - 1
        with pytest.raises(RateLimitedError):
            limiter.call(int)
        clock.time += EVERY
    assert [each["resilience.rejections.count"] for each in told(heard, SUMMARY)] == [5, 0, 1]
    assert bus.tally is None


def test_the_policies_of_all_keys_share_their_lines(heard: pytest.LogCaptureFixture) -> None:
    clock = ManualClock()
    keyed = Keyed(lambda key: RateLimiter("per user", rate=0.001, burst=1, max_wait=0, clock=clock), key=lambda n: n)
    guarded = keyed(lambda n: n)

    def everybody() -> None:
        for number in range(20):
            with pytest.raises(RateLimitedError):
                guarded(number)

    for number in range(20):
        guarded(number)
    everybody()
    clock.time += EVERY
    everybody()
    clock.time += EVERY
    everybody()
    assert [each["resilience.rejections.count"] for each in told(heard, SUMMARY)] == [1, 20, 20]


def test_every_policy_that_rejects_says_so(heard: pytest.LogCaptureFixture) -> None:
    inside = threading.Event()
    bulkhead, done = Bulkhead("bulkhead", max_concurrent=1, max_queue=0), threading.Event()

    def hold() -> None:
        inside.set()
        done.wait(20)

    thread = threading.Thread(target=bulkhead.call, args=(hold,))
    thread.start()
    inside.wait(20)
    with pytest.raises(BulkheadFullError):
        bulkhead.call(int)
    done.set()
    thread.join()
    with virtual_time() as clock:

        def late() -> None:
            clock.advance(2)
            Deadline(5, name="deadline").call(int)

        with deadline(1), pytest.raises(CallRejected):
            late()
    assert [each["message"] for each in told(heard, SUMMARY)] == [
        "'bulkhead' rejected 1 call (bulkhead_full)",
        "'deadline' rejected 1 call (deadline)",
    ]
    for policy in (AdaptiveRetry("retry"), Retry("other")):
        assert policy.bus.tally is None


# --- who reads it ------------------------------------------------------------------------------------


def test_structlog_shows_the_keys_unchanged() -> None:
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                structlog.processors.JSONRenderer(),
            ],
            foreign_pre_chain=[structlog.stdlib.add_log_level, structlog.stdlib.ExtraAdder()],
        )
    )
    emitted_to(handler, EVENTS[0])
    assert json.loads(stream.getvalue()) == {
        "event": "Circuit 'p' is open (failure_ratio)",
        "level": "warning",
        "event.name": "resilience.circuit_breaker.transition",
        **record_of(EVENTS[0]).attributes,
    }


def test_the_handler_of_opentelemetry_makes_attributes_of_them() -> None:
    exporter, provider = InMemoryLogRecordExporter(), LoggerProvider()
    provider.add_log_record_processor(SimpleLogRecordProcessor(exporter))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it moves to another package one day
        handler = LoggingHandler(logger_provider=provider)
    emitted_to(handler, EVENTS[0])
    (exported,) = exporter.get_finished_logs()
    attributes = dict(exported.log_record.attributes or {})
    assert exported.log_record.body == "Circuit 'p' is open (failure_ratio)"
    expected = {"event.name": "resilience.circuit_breaker.transition", **record_of(EVENTS[0]).attributes}
    assert expected.items() <= attributes.items()
    provider.shutdown()


def emitted_to(handler: logging.Handler, event: Event) -> None:
    logger = logging.getLogger("resilience_core")
    logger.addHandler(handler)
    try:
        everywhere.emit(event)
    finally:
        logger.removeHandler(handler)

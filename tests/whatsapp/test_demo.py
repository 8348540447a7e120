"""The demo tells the truth: its last line comes from the simulator's book, and the blind retry fails."""

from __future__ import annotations

import asyncio
import io
import re
import subprocess
import sys

import pytest
from attrs import evolve

from resilience_core._telemetry import telemetry
from resilience_whatsapp import demo
from resilience_whatsapp._demo_telemetry import Printed, compared, recorded
from resilience_whatsapp.simulator import Simulator
from resilience_whatsapp.simulator.book import Entry

LINE = re.compile(
    r"demo: (\w+) accepted=(\d+) rejected=(\d+) unknown=(\d+) lost=(\d+) duplicated=(\d+) circuit_opened=(\d+) "
    r"template_source=(\w+)"
)


def last_line(out: str) -> tuple[str, ...]:
    found = LINE.fullmatch(out.strip().splitlines()[-1])
    assert found is not None, out
    return found.groups()


def test_nothing_is_lost_or_sent_twice(capsys: pytest.CaptureFixture[str]) -> None:
    assert asyncio.run(demo.main(False)) == 0
    out = capsys.readouterr().out
    word, accepted, rejected, unknown, lost, duplicated, opened, source = last_line(out)
    assert (word, lost, duplicated, source) == ("ok", "0", "0", "cache")
    assert all(int(count) > 0 for count in (accepted, rejected, unknown, opened))
    assert "WARNING Using cached templates due to circuit breaker open" in out
    for told in ("Retrying operation", "WhatsApp service is down", "closed -> open", "half_open -> closed"):
        assert told in out
    assert "\x1b[" not in out
    assert demo.RECIPIENT not in out


def test_the_blind_retry_sends_duplicates_and_fails() -> None:
    command = [sys.executable, "-m", "resilience_whatsapp.demo", "--naive"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    word, *_, duplicated, _, _ = last_line(done.stdout)
    assert done.returncode == 1
    assert word == "FAILED"
    assert int(duplicated) > 0
    assert "messages twice" in done.stderr


def entry(opaque: str) -> Entry:
    return Entry("w", "r", "text", None, opaque, 1)


@pytest.mark.parametrize(
    ("statuses", "booked", "line"),
    [
        ({"a": "accepted"}, [], "lost=1 duplicated=0"),
        ({}, ["a"], "lost=1 duplicated=0"),
        ({"a": "accepted"}, ["a", "a"], "lost=0 duplicated=1"),
        ({"a": "accepted"}, ["a"], "lost=0 duplicated=0"),
    ],
)
def test_what_is_wrong_is_counted(
    statuses: dict[str, str], booked: list[str], line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    simulator = Simulator()
    simulator.book.entries = [entry(opaque) for opaque in booked]
    assert demo.verdict(simulator, demo.Outcome(statuses), by_hand=True) == 1
    assert line in capsys.readouterr().out


def test_colours_are_for_terminals_only(capsys: pytest.CaptureFixture[str]) -> None:
    demo.Teller(coloured=True).say("accepted", "x")
    assert "\x1b[32m" in capsys.readouterr().out


def test_the_naive_story_in_this_process(capsys: pytest.CaptureFixture[str]) -> None:
    assert asyncio.run(demo.main(True)) == 1
    assert "duplicated=2" in capsys.readouterr().out


def test_spans_and_metrics_tell_the_same_numbers_as_the_book() -> None:
    command = [sys.executable, "-m", "resilience_whatsapp.demo", "--otel", "console"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    lines = done.stdout.splitlines()
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.fullmatch(
        r"otel: ok calls=24 accepted=\d+ requests=\d+ retries=\d+ circuit_opened=1 equal to the book", lines[-1]
    )
    last_line("\n".join(lines[:-1]))
    assert sum(line.startswith("span ") for line in lines) > 24
    assert sum(line.startswith("metric ") for line in lines) > 20
    assert demo.RECIPIENT[1:] not in done.stdout
    assert Simulator().token not in done.stdout


PRINTED = """\
span ab resilience whatsapp: 0.1 s operation.name=ResilientWhatsAppClient._send_once messaging.message.id=w
span ab attempt: 0.1 s attempt.number=1
metric resilience.call.duration: count=1 sum=0.1 operation.name=ResilientWhatsAppClient._send_once outcome=success
"""


LATE = """\
span cd resilience whatsapp: 0.8 s operation.name=ResilientWhatsAppClient._send_once error.type=SocketTimeoutError
span cd attempt: 0.8 s attempt.number=1
metric resilience.call.duration: count=1 sum=0.8 operation.name=ResilientWhatsAppClient._send_once outcome=error
"""


def test_an_answer_that_comes_when_nobody_waits_for_it_any_more_is_none(capsys: pytest.CaptureFixture[str]) -> None:
    simulator = Simulator()
    simulator.book.entries = [evolve(entry(one), wamid=wamid, answered=True) for one, wamid in (("a", "w"), ("b", "x"))]
    simulator.book.requests["messages"] = 2
    printed = Printed(io.StringIO())
    printed.write(PRINTED + LATE)
    assert compared(printed, simulator, {"a": "accepted", "b": "unknown"}, 0) == 0
    said = "otel: ok calls=2 accepted=1 requests=2 retries=0 circuit_opened=0 equal to the book"
    assert capsys.readouterr().out.strip() == said


@pytest.mark.parametrize(
    ("answered", "requests", "circuit_opened", "said"),
    [
        (True, 1, 0, "otel: ok calls=1 accepted=1 requests=1 retries=0 circuit_opened=0 equal to the book"),
        (False, 1, 0, "otel: FAILED .* not the book's: accepted is 0 there, other messages are booked"),
        (True, 2, 0, "otel: FAILED .* not the book's: requests is 2 there"),
        (True, 1, 1, "otel: FAILED .* not the book's: circuit_opened is 1 there"),
    ],
)
def test_telemetry_that_tells_other_numbers_fails(
    answered: bool, requests: int, circuit_opened: int, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    simulator = Simulator()
    simulator.book.entries = [evolve(entry("a"), answered=answered)]
    simulator.book.requests["messages"] = requests
    printed = Printed(io.StringIO())
    printed.write(PRINTED)
    code = compared(printed, simulator, {"a": "accepted"}, circuit_opened)
    assert re.fullmatch(said, capsys.readouterr().out.strip())
    assert code == ("FAILED" in said)


def test_with_prometheus_the_endpoint_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    try:
        with recorded("prometheus") as printed:
            assert not printed.isatty()
            print("the story", flush=True)
        assert re.search(
            r"metrics at http://127.0.0.1:\d+/metrics until the story ends\nthe story", capsys.readouterr().out
        )
    finally:
        telemetry.use_global()

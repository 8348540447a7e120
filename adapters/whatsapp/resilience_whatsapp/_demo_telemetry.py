"""The demo's telemetry: what was printed of spans and metrics, read again and compared with the simulator's book."""

from __future__ import annotations

import io
import sys
from collections.abc import Generator, Mapping
from contextlib import contextmanager, redirect_stdout
from typing import TextIO

from attrs import frozen

from resilience_core import otel
from resilience_whatsapp.simulator import Simulator

SEND = "ResilientWhatsAppClient._send_once"
_NOT_MADE = {"CircuitOpenError", "ClientConnectorError"}
"""Attempts that brought the API no request: rejected, or nobody listened."""


@frozen
class Line:
    """A span or a series as it was printed."""

    name: str
    trace: str
    numbers: Mapping[str, float]
    attributes: Mapping[str, str]


class Printed(io.TextIOBase):
    """Passes on what is printed, and keeps the lines of telemetry."""

    def __init__(self, out: TextIO) -> None:
        super().__init__()
        self.out = out
        self.text: list[str] = []

    def write(self, text: str) -> int:
        """Print and keep."""
        self.text.append(text)
        return self.out.write(text)

    def flush(self) -> None:
        """As the stream behind it."""
        self.out.flush()

    def isatty(self) -> bool:
        """As the stream behind it."""
        return self.out.isatty()

    def lines(self, kind: str) -> list[Line]:
        """All spans, or all series."""
        return [_line(line) for line in "".join(self.text).splitlines() if line.startswith(f"{kind} ")]


def _line(text: str) -> Line:
    head, told = text.split(": ", maxsplit=1)
    name = head.split(" ", maxsplit=1)[1]
    trace = ""
    if text.startswith("span "):
        trace, name = name.split(" ", maxsplit=1)
    pairs = dict(word.split("=", maxsplit=1) for word in told.split() if "=" in word)
    numbers: dict[str, float] = {key: float(pairs[key]) for key in pairs.keys() & {"count", "sum"}}
    if not numbers:
        numbers["value"] = float(told.split(maxsplit=1)[0])
    return Line(name, trace, numbers, pairs)


@contextmanager
def recorded(exporter: otel.Exporter) -> Generator[Printed]:
    """Record the story; what was printed, complete at the end."""
    printed = Printed(sys.stdout)
    with (
        redirect_stdout(printed),
        otel.setup(
            exporter, service_name="whatsapp-demo", set_global=False, interval=3_600, prometheus_port=0
        ) as handle,
    ):
        if handle.prometheus_port is not None:
            print(f"metrics at http://127.0.0.1:{handle.prometheus_port}/metrics until the story ends")
        yield printed


def compared(printed: Printed, simulator: Simulator, statuses: Mapping[str, str], circuit_opened: int) -> int:
    """Compare what was printed with the book, print the last line, and answer the exit code."""
    calls = {span.trace: span for span in printed.lines("span") if span.attributes.get("operation.name") == SEND}
    attempts = [span for span in printed.lines("span") if span.name == "attempt" and span.trace in calls]
    ids = {
        span.attributes["messaging.message.id"] for span in calls.values() if "messaging.message.id" in span.attributes
    }
    # An answer that came when the sender did not wait any more was none for him.
    late = {one for one, status in statuses.items() if status == "unknown"}
    answered = {entry.wamid for entry in simulator.book.entries if entry.answered and entry.opaque not in late}
    # Written into a connection whose other end was dead already: it left, and nobody read it.
    unread = sum(status == "unknown" for one, status in statuses.items() if one not in simulator.book.by_opaque())
    opened = {"circuit_breaker.previous_state": "closed", "circuit_breaker.state": "open"}
    pairs = {
        "calls": (_total(printed, "resilience.call.duration", "count", {"operation.name": SEND}), len(statuses)),
        "accepted": (
            _total(printed, "resilience.call.duration", "count", {"operation.name": SEND, "outcome": "success"}),
            len(answered),
        ),
        "requests": (
            sum(span.attributes.get("error.type") not in _NOT_MADE for span in attempts) - unread,
            simulator.book.requests["messages"],
        ),
        "retries": (
            _total(printed, "resilience.call.retries", "sum", {"operation.name": SEND}),
            len(attempts) - len(calls),
        ),
        "circuit_opened": (_total(printed, "resilience.circuit_breaker.transitions", "value", opened), circuit_opened),
    }
    wrong = [f"{name} is {true:g} there" for name, (told, true) in pairs.items() if told != true]
    wrong += ["other messages are booked"] * (ids != answered)
    said = " ".join(f"{name}={told:g}" for name, (told, _) in pairs.items())
    end = f"not the book's: {', '.join(wrong)}" if wrong else "equal to the book"
    print(f"otel: {'FAILED' if wrong else 'ok'} {said} {end}")
    return 1 if wrong else 0


def _total(printed: Printed, metric: str, number: str, attributes: Mapping[str, str]) -> float:
    return sum(
        line.numbers[number]
        for line in printed.lines("metric")
        if line.name == metric and attributes.items() <= line.attributes.items()
    )

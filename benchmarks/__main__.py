"""Prints each row: nanoseconds, ratios, and whether what was asked is met."""

from __future__ import annotations

import argparse
import json
import platform
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks import rows as all_rows
from benchmarks import whatsapp
from benchmarks.measure import compare
from benchmarks.rows import (
    bytes_per_breaker,
    import_milliseconds,
    million_calls_per_second,
    nanoseconds_per_policy,
    own_nanoseconds,
    rows,
    span_nanoseconds,
    tasks_against_a_semaphore,
    telemetry_nanoseconds,
    telemetry_off_nanoseconds,
    timeout_on_trio,
    window_growth,
)


def measured(options: argparse.Namespace) -> list[dict[str, Any]]:
    """One mapping a row, printed as it is measured."""
    found: list[dict[str, Any]] = []
    rounds, seconds = (2, 0.002) if options.quick else (9, 0.05)
    for row in rows():
        if options.only and options.only not in row.name:
            continue
        times = compare(row.contenders, awaited=row.awaited, rounds=rounds, seconds=seconds)
        ours = times["ours"]
        print(f"{row.name:<44} ours {ours:7.0f} ns")
        found.append({"row": row.name, "nanoseconds": times, "ratios": {}})
        for other, nanoseconds in times.items():
            if other == "ours":
                continue
            found[-1]["ratios"][other] = ours / nanoseconds
            print(f"    {other:<20} {nanoseconds:7.0f} ns  {judged(ours / nanoseconds, row.asked.get(other))}")
    return found


SINGLE: tuple[tuple[str, Callable[[], float], float, bool], ...] = (
    ("8 threads on one breaker, million calls/s", million_calls_per_second, 4, True),
    # 84 ms, the limit, times 1.3, where asyncio.Semaphore takes 186 ms
    ("10,000 tasks, 100 slots, against a semaphore", tasks_against_a_semaphore, 0.59, False),
    ("window of 100,000 calls against one of 10", window_growth, 1.2, False),
    ("timeout on trio, against trio.fail_after", timeout_on_trio, 1.2, False),
    ("each further policy, ns", nanoseconds_per_policy, 100, False),
    ("telemetry off, ns a call", telemetry_off_nanoseconds, 100, False),
    ("telemetry on, metrics with the SDK, ns", telemetry_nanoseconds, 8_000, False),
    ("telemetry on, our share of the metrics, ns", own_nanoseconds, 2_000, False),
    ("telemetry on, metrics and a span, ns", span_nanoseconds, 45_000, False),
    ("bytes per breaker", bytes_per_breaker, 600, False),
    ("import, milliseconds", import_milliseconds, 90, False),
    ("whatsapp send, against a bare aiohttp POST", whatsapp.send_against_post, 1.3, False),
    ("whatsapp send, CPU of it against the POST's", whatsapp.cpu_against_post, 1.5, False),
    ("whatsapp send with telemetry, against a POST", lambda: whatsapp.send_against_post(telemetry=True), 1.7, False),
    ("whatsapp send with an outbox, against a POST", lambda: whatsapp.send_against_post(outbox="normal"), 2.0, False),
    (
        "the same, waiting for the disk, 32 at once",
        lambda: whatsapp.send_against_post(outbox="full", at_once=32),
        2.0,
        False,
    ),
    ("whatsapp outbox, of a core at 80 messages/s", whatsapp.outbox_core_at_80, 0.25, False),
    ("whatsapp gates, all of them open, ns a send", whatsapp.gates_nanoseconds, 3_000, False),
    ("whatsapp sends/s over 8 numbers", whatsapp.sends_per_second, 1_000, True),
)
"""Rows with one figure: name, how it is measured, what is asked, and whether more is better."""


def single(name: str, measure: Callable[[], float], asked: float, more_is_better: bool) -> dict[str, Any]:
    """Measure and print one of them."""
    value = measure()
    met = value >= asked if more_is_better else value <= asked
    sign = ">=" if more_is_better else "<="
    print(f"{name:<44} {value:10.2f}      asked {sign} {asked}: {'met' if met else 'MISSED'}")
    return {"row": name, "value": value, "asked": asked, "met": met}


def judged(measured: float, asked: float | None) -> str:
    """A ratio and what is asked of it."""
    if asked is None:
        return f"{measured:.2f}x"
    return f"{measured:.2f}x  asked <= {asked}x: {'met' if measured <= asked else 'MISSED'}"


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a smoke test: the figures mean nothing")
    parser.add_argument("--only", help="rows whose name contains this")
    parser.add_argument("--json", type=Path, help="write the figures to this file, too")
    options = parser.parse_args()
    all_rows.quick = options.quick
    print(f"Python {platform.python_version()}, {platform.machine()}; medians of one run, ratios count\n")
    found = measured(options)
    found += [single(*row) for row in SINGLE if not options.only or options.only in row[0]]
    if options.json:
        options.json.write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()

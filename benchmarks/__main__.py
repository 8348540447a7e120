"""Prints each row: nanoseconds, ratios, and whether what was asked is met."""

from __future__ import annotations

import argparse
import json
import platform
from pathlib import Path
from typing import Any

from benchmarks.measure import compare
from benchmarks.rows import bytes_per_breaker, import_milliseconds, rows


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
    print(f"Python {platform.python_version()}, {platform.machine()}; medians of one run, ratios count\n")
    found = measured(options)
    if not options.only:
        size, imported = bytes_per_breaker(), import_milliseconds()
        print(f"bytes per breaker{'':<31} {size:7.0f}     {judged(size, 600).replace('x', '')}")
        print(f"import, milliseconds{'':<28} {imported:7.0f}     {judged(imported, 90).replace('x', '')}")
        found += [{"row": "bytes per breaker", "value": size}, {"row": "import", "milliseconds": imported}]
    if options.json:
        options.json.write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()

"""What the proofs answer: rows of a table."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from attrs import asdict, frozen

NEVER = float("inf")
"""Stands for what did not happen, in any unit: a finite figure might come to be, on a slow machine."""


@frozen
class Row:
    """One figure: what was asked, and what was measured."""

    bar: str
    what: str
    asked: str
    measured: str
    sample: str
    met: bool

    def as_values(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


def zero(bar: str, what: str, found: int, sample: str) -> Row:
    """Something that must not be."""
    return Row(bar, what, "0", f"{found:,}", sample, found == 0)


def none(bar: str, what: str, found: list[str], sample: str) -> Row:
    """A list that must be empty."""
    return Row(bar, what, "none", "; ".join(found)[:200] or "none", sample, not found)


def at_most(bar: str, what: str, value: float, bound: float, sample: str, unit: str = "s") -> Row:
    """A figure that must not be above a bound."""
    return Row(bar, what, f"<= {bound:g} {unit}", f"{value:.3g} {unit}", sample, value <= bound)


def shown(bar: str, what: str, measured: str, sample: str) -> Row:
    """A figure of which nothing is asked."""
    return Row(bar, what, "-", measured, sample, True)


def printed(row: Row) -> None:
    """One line of the table."""
    verdict = "met" if row.met else "missed"
    print(f"{row.bar:>7}  {row.what:<64} {row.asked:>10} {row.measured:>12}  {verdict:<6}  {row.sample}", flush=True)


def exit_code(rows: list[Row], file: Path | None) -> int:
    """1 when a bar is missed; prints the last line, and writes the rows to a file as JSON if one is named."""
    if file is not None:
        file.write_text(json.dumps([row.as_values() for row in rows], indent=1))
    missed = sum(not row.met for row in rows)
    print(f"\n{len(rows)} rows, {missed} missed")
    return 1 if missed else 0


def percentile(values: list[float], share: float) -> float:
    """The smallest value that `share` of all do not exceed."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]

"""What the proofs answer: rows of a table."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from attrs import asdict, field, frozen

from proofs.crew import Crew, leave
from proofs.server import Server

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


@frozen
class Stage:
    """What a proof works with."""

    crew: Crew
    server: Server
    small: bool
    members: list[int] = field(init=False)

    @members.default
    def _members(self) -> list[int]:
        return list(range(self.crew.size))

    def size(self, full: int, small: int) -> int:
        """A number of the full form, or of the small one."""
        return small if self.small else full

    def leave(self) -> list[str]:
        """All leave their fleets; what exceptions came where none may come."""
        return self.leave_all()[0]

    def leave_all(self) -> tuple[list[str], int]:
        """The same, and how often members had lost the store."""
        found: dict[str, int] = {}
        lost = 0
        for told, losses in self.crew.all(leave):
            lost += losses
            for what, times in told.items():
                found[what] = found.get(what, 0) + times
        return [f"{times} x {what}" for what, times in found.items()], lost


Proof = Callable[[Stage], list[Row]]


def zero(bar: str, what: str, found: int, sample: str) -> Row:
    """Something that must not be."""
    return Row(bar, what, "0", f"{found:,}", sample, found == 0)


def none(bar: str, what: str, found: list[str], sample: str) -> Row:
    """A list that must be empty."""
    return Row(bar, what, "none", "; ".join(found)[:200] or "none", sample, not found)


def at_most(bar: str, what: str, value: float, bound: float, sample: str, unit: str = "s") -> Row:
    """A figure that must not be above a bound."""
    return Row(bar, what, f"<= {bound:g} {unit}", f"{value:.3g} {unit}", sample, value <= bound)


def timed(stage: Stage, bar: str, what: str, value: float, bound: float, sample: str, unit: str = "s") -> Row:
    """The same; in the small form, which must say the same on any machine, only that it happened at all."""
    if not stage.small:
        return at_most(bar, what, value, bound, sample, unit)
    return Row(bar, what, "happens", f"{value:.3g} {unit}", sample, value < NEVER)


def shown(bar: str, what: str, measured: str, sample: str) -> Row:
    """A figure of which nothing is asked."""
    return Row(bar, what, "-", measured, sample, True)


def percentile(values: list[float], share: float) -> float:
    """The smallest value that `share` of all do not exceed."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]

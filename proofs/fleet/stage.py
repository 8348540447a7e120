"""What a proof of fleets works with: members, a Redis, and how large it is."""

from __future__ import annotations

from collections.abc import Callable

from attrs import field, frozen

from proofs.fleet.crew import Crew, leave
from proofs.redis_server import Server
from proofs.table import NEVER, Row, at_most


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


def timed(stage: Stage, bar: str, what: str, value: float, bound: float, sample: str, unit: str = "s") -> Row:
    """The same; in the small form, which must say the same on any machine, only that it happened at all."""
    if not stage.small:
        return at_most(bar, what, value, bound, sample, unit)
    return Row(bar, what, "happens", f"{value:.3g} {unit}", sample, value < NEVER)

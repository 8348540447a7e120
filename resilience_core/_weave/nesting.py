"""Retries inside retries: who is outside, and how many attempts that makes.

A retry that shares a budget, or that is to act only when it is the outermost one, marks its calls in a context
variable; the others do so only while such a retry exists in the process, or attempts are recorded by telemetry, because
a mark costs as much as half a retry.
"""

from __future__ import annotations

from contextvars import ContextVar, Token
from typing import Any


class Frame:
    """One call that a retry is making."""

    __slots__ = ("account", "attempt", "outer", "owner", "paid", "retries")

    def __init__(self, owner: Any, account: Any, outer: Frame | None) -> None:
        self.owner = owner
        """The retry that makes it."""
        self.account = account
        """The budget that this call was counted in; None where an outer frame was counted in it already."""
        self.outer = outer
        self.attempt = 1
        self.paid = 0.0
        self.retries = 0

    def product(self) -> int:
        """The number of the attempt that runs, multiplied over all retries around it."""
        return self.attempt * (1 if self.outer is None else self.outer.product())

    def counted_in(self, account: Any) -> bool:
        """Whether this call, or one around it, was counted in that budget."""
        return self.account is account or (self.outer is not None and self.outer.counted_in(account))


FRAME: ContextVar[Frame | None] = ContextVar("resilience_retry", default=None)


def unmark(token: Token[Frame | None]) -> None:
    """The call is over that was marked when `token` was made."""
    try:
        FRAME.reset(token)
    except ValueError:  # whoever closes an abandoned coroutine does so in another context
        pass


class Nesting:
    """Whether all retries of the process mark their calls."""

    __slots__ = ("_wanted", "watched")

    def __init__(self) -> None:
        self.watched = False
        self._wanted = False

    def want(self) -> None:
        """From now on: a retry has been made that acts only when it is the outermost one."""
        self._wanted = self.watched = True

    def trace(self, on: bool) -> None:
        """While attempts are recorded, which have numbers."""
        self.watched = on or self._wanted


nesting = Nesting()

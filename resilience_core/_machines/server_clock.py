"""What time it is on a server, told from its answers: never before `earliest`, never after `latest`.

    the server read its clock between `sent` and `received`, so at the local time t its clock shows
        at least   server + (t - received) - drift        at most   server + (t - sent) + drift

Local times are monotonic seconds, the server's whole microseconds; how wrong the local wall clock is does not matter.
The most precise answer of late is kept: one that took longer replaces it only when that has become old, because clocks
drift apart: in an open time of two hours by more than a lease has of margin.
"""

from __future__ import annotations

_DRIFT = 200e-6  # of a second in each second: twice what a quartz clock is allowed
_JUMP = 1.0  # seconds by which a server's clock must differ from what was expected, to count as set anew


class ServerClock:
    """Maps local time to a server's and back."""

    __slots__ = ("_at", "_error", "_server", "known")

    def __init__(self) -> None:
        self.known: bool = False
        self._server = 0.0  # microseconds at the local time `_at`, at least
        self._at = 0.0
        self._error = 0.0  # seconds by which it may be more

    def observe(self, server: int, sent: float, received: float) -> None:
        """Learn from an answer with the server's time."""
        error = (received - sent) * (1 + _DRIFT)
        old = self._error + _DRIFT * (received - self._at)
        jumped = self.known and abs(self.earliest(received) - server) > (_JUMP + error + old) * 1e6
        if not self.known or jumped or error <= old:
            self.known, self._server, self._at, self._error = True, float(server), received, error

    def earliest(self, now: float) -> int:
        """The server's time at the local time `now`, in microseconds, at least."""
        passed = now - self._at
        return round(self._server + (passed - _DRIFT * abs(passed)) * 1e6)

    def latest(self, now: float) -> int:
        """The same, at most."""
        passed = now - self._at
        return round(self._server + (passed + self._error + _DRIFT * abs(passed)) * 1e6)

    def surely_at(self, moment: int, now: float) -> float:
        """The local time from which on the server surely shows `moment` or later."""
        left = (moment - self.earliest(now)) / 1e6
        return now + left / (1 - _DRIFT if left > 0 else 1 + _DRIFT)

    def surely_before(self, moment: int, now: float) -> float:
        """The local time until which the server surely shows less than `moment`."""
        left = (moment - self.latest(now)) / 1e6
        return now + left / (1 + _DRIFT if left > 0 else 1 - _DRIFT)

"""Reject at the client what the server would reject anyway: Google SRE's client-side throttling.

    rejection probability = max(0, (requests - K * accepts) / (requests + 1))

over the last two minutes; K = 2. `requests` are counted before the local decision, so that the probability falls only
as the server accepts again. Source: "Site Reliability Engineering", chapter 21, "Handling Overload".
"""

from __future__ import annotations

from resilience_core._machines.windows import TimeRing


def rejection(requests: float, accepts: float, k: float, maximum: float = 1.0) -> float:
    """The probability with which a request is to be rejected at the client."""
    return min(maximum, max(0.0, (requests - k * accepts) / (requests + 1)))


class Throttle:
    """Requests and accepts of the last `seconds`. The caller holds a lock around every method."""

    __slots__ = ("_accepts", "_requests")

    def __init__(self, seconds: float) -> None:
        self._requests = TimeRing(seconds, 24)
        self._accepts = TimeRing(seconds, 24)

    def resume(self, seconds: float, now: float) -> None:
        """Look back over so many seconds from now on, with what is known of them."""
        other = Throttle(seconds)
        if other._requests.width != self._requests.width:
            other._requests.take_over(self._requests, now)
            other._accepts.take_over(self._accepts, now)
            self._requests, self._accepts = other._requests, other._accepts

    def request(self, now: float) -> None:
        """Count a request, before it is decided about."""
        self._requests.add(False, now)

    def accept(self, now: float) -> None:
        """Count an answer by which the server showed that it took the request on."""
        self._accepts.add(False, now)

    def rejection(self, now: float, k: float, maximum: float) -> float:
        """The probability now."""
        self._requests.turn(now)
        self._accepts.turn(now)
        return rejection(self._requests.calls, self._accepts.calls, k, maximum)

    def counts(self, now: float) -> tuple[int, int]:
        """Requests and accepts in the window."""
        self._requests.turn(now)
        self._accepts.turn(now)
        return self._requests.calls, self._accepts.calls

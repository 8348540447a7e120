"""The pacer of one number: a rate limiter of the core whose rate is learnt."""

from __future__ import annotations

from resilience_core import Clock, Fleet, RateLimiter
from resilience_whatsapp.gates._growth import Growth
from resilience_whatsapp.gates._rate import LearnedRate
from resilience_whatsapp.gates._shared import SharedPace

LEVELS = {"STANDARD": 80.0, "HIGH": 1_000.0}
"""Messages a second, in and out, by what the API calls the level."""
_INBOUND_AHEAD = 1.0
_STEP = 0.15
"""A rate that is this share away from the limiter's is set anew: each time costs a line in the log."""


class Throughput:
    """How many messages a second a number may send."""

    def __init__(
        self,
        name: str,
        level: float,
        share: float,
        *,
        max_wait: float,
        clock: Clock,
        fleet: Fleet | None,
        pace: SharedPace | None = None,
    ) -> None:
        self._pace = pace
        self._clock = clock
        self.learned: LearnedRate = LearnedRate(level, share)
        self.growth: Growth = Growth(1.0, 2.0, 60.0)
        self.limiter: RateLimiter = RateLimiter(
            name, rate=self.learned.ceiling, max_wait=max_wait, clock=clock, fleet=fleet
        )
        self.moving: bool = False
        """Whether the rate is on its way to another one: then `follow` is called before each send."""

    def follow(self, now: float) -> None:
        """Set the limiter to the rate of this moment."""
        rate = self.learned.rate(now)
        self.moving = not self.learned.settled(now)
        if abs(rate - self.limiter.rate) > (_STEP * self.limiter.rate if self.moving else 0.0):
            self.limiter.reconfigure(rate=rate)

    def hear(self) -> None:
        """Take over what other processes have learnt, if they have said something."""
        pace = self._pace
        if pace is None or not pace.news():
            return
        level, cut = pace.level(), pace.cut()
        if level is not None:
            self.learned.use_level(level)
        if cut is not None:
            share, at, hits, last = cut
            self.learned.resume(share, at)
            self.growth.resume(hits, last)
        self.follow(self._clock.now())

    def _tell(self) -> None:
        if self._pace is not None:
            self._pace.tell_cut(*self.learned.cut(), self.growth.hits, self.growth.last)

    def succeeded(self, began: float) -> None:
        """A request that began at `began` got through."""
        if self.growth.hits and self.growth.succeeded(began):
            self._tell()

    def hit(self, began: float, told: float | None) -> float:
        """A request that began at `began` was over the limit: the seconds to wait."""
        self.hear()
        now = self._clock.now()
        grown = self.growth.hit(began, now)
        wait = max(grown, told or 0.0)
        if self.learned.hit(began, now):
            self.follow(now)
        if grown > 0:
            self._tell()
        if wait > 0:
            self.limiter.close_for(wait)
        return wait

    def restart(self) -> None:
        """Begin slowly: the API has just come back."""
        now = self._clock.now()
        self.learned.restart(now)
        self.follow(now)

    def came_in(self) -> None:
        """A message came in. The limit is about one second: more than that of them is not held against sends."""
        self.hear()  # who never sends follows nothing else, and each would count for more than it is
        if self.moving:
            self.follow(self._clock.now())
        if self.limiter.wait_for() < _INBOUND_AHEAD:
            self.limiter.spend()

    def use_level(self, level: float) -> None:
        """The API says another level."""
        self.learned.use_level(level)
        self.follow(self._clock.now())
        if self._pace is not None:
            self._pace.tell_level(level)

"""The pacer of one number: a rate limiter of the core whose rate is learnt."""

from __future__ import annotations

from resilience_core import Clock, Fleet, RateLimiter
from resilience_whatsapp.gates._growth import Growth
from resilience_whatsapp.gates._rate import LearnedRate

LEVELS = {"STANDARD": 80.0, "HIGH": 1_000.0}
"""Messages a second, in and out, by what the API calls the level."""
_INBOUND_AHEAD = 1.0
_STEP = 0.15
"""A rate that is this share away from the limiter's is set anew: each time costs a line in the log."""


class Throughput:
    """How many messages a second a number may send."""

    def __init__(
        self, name: str, level: float, share: float, *, max_wait: float, clock: Clock, fleet: Fleet | None
    ) -> None:
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

    def hit(self, began: float, told: float | None) -> float:
        """A request that began at `began` was over the limit: the seconds to wait."""
        now = self._clock.now()
        wait = max(self.growth.hit(began, now), told or 0.0)
        if self.learned.hit(began, now):
            self.follow(now)
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
        if self.limiter.wait_for() < _INBOUND_AHEAD:
            self.limiter.spend()

    def use_level(self, level: float) -> None:
        """The API says another level."""
        self.learned.use_level(level)
        self.follow(self._clock.now())

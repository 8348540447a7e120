"""The rate that a client allows itself after it was throttled: AWS's "adaptive" retry mode.

    at a throttle        rate = beta * min(measured, current);  w_max = that rate before beta;  t_fail = now
    at a success         rate = C * (t - t_fail - K)^3 + w_max,   K = cbrt(w_max * (1 - beta) / C)
    always               rate <= 2 * measured,  rate >= 0.5 per second
    measured             requests per half second, smoothed: 0.8 * new + 0.2 * old

beta = 0.7, C = 0.4. Source: the retry behaviour of the AWS SDKs, as in botocore's `retries/adaptive.py`. Until the
first throttle nothing is limited. AWS recommends it for clients of one resource.

The caller holds a lock around every method here.
"""

from __future__ import annotations

BETA = 0.7
SCALE = 0.4
SMOOTHING = 0.8
BUCKET = 0.5
MINIMUM_RATE = 0.5
MAXIMUM_ADJUSTMENT = 2.0


class Cubic:
    """The curve back to the rate that was too much."""

    __slots__ = ("_last_throttle", "_w_max")

    def __init__(self, w_max: float = 0.0, last_throttle: float = 0.0) -> None:
        self._w_max = w_max
        self._last_throttle = last_throttle

    @property
    def k(self) -> float:
        """Seconds from the throttle until the old rate is reached again."""
        return float((self._w_max * (1 - BETA) / SCALE) ** (1 / 3))

    def throttled(self, rate: float, now: float) -> float:
        """The rate after a throttle at `rate`."""
        self._w_max = rate
        self._last_throttle = now
        return rate * BETA

    def succeeded(self, now: float) -> float:
        """The rate that the curve allows at `now`."""
        return SCALE * (now - self._last_throttle - self.k) ** 3 + self._w_max


class Clocker:
    """Measures the rate of requests."""

    __slots__ = ("_count", "_last_bucket", "rate")

    def __init__(self, now: float) -> None:
        self._last_bucket = (now // BUCKET) * BUCKET
        self._count = 0
        self.rate = 0.0

    def record(self, now: float) -> float:
        """Count one request; the smoothed rate."""
        self._count += 1
        bucket = (now // BUCKET) * BUCKET
        if bucket > self._last_bucket:
            current = self._count / (bucket - self._last_bucket)
            self.rate = current * SMOOTHING + self.rate * (1 - SMOOTHING)
            self._count = 0
            self._last_bucket = bucket
        return self.rate


class TokenBucket:
    """Begins empty, fills at `rate` up to `capacity`; a request takes one token, ahead of time if it must."""

    __slots__ = ("_filled_at", "capacity", "minimum_rate", "rate", "tokens")

    def __init__(self, rate: float, now: float, minimum_rate: float = MINIMUM_RATE) -> None:
        self.minimum_rate = minimum_rate
        self.tokens = 0.0
        self._filled_at = now
        self.rate = self.capacity = 0.0
        self.set_rate(rate, now)

    def set_rate(self, rate: float, now: float) -> None:
        """Fill at `rate` from now on, but not slower than the minimum."""
        self._fill(now)
        self.rate = max(rate, self.minimum_rate)
        self.capacity = max(rate, 1.0)
        self.tokens = min(self.tokens, self.capacity)

    def _fill(self, now: float) -> None:
        passed = max(0.0, now - self._filled_at)
        self.tokens = min(self.capacity, self.tokens + passed * self.rate)
        self._filled_at = now

    def wait_for(self, now: float, amount: float = 1.0) -> float:
        """Seconds until `amount` tokens are there; takes nothing."""
        self._fill(now)
        return max(0.0, (amount - self.tokens) / self.rate)

    def take(self, now: float) -> float:
        """Take one token, now or from the future; seconds to wait for it."""
        wait = self.wait_for(now)
        self.tokens -= 1.0
        return wait

    def give_back(self) -> None:
        """Return a token that was taken."""
        self.tokens = min(self.capacity, self.tokens + 1.0)


class Pace:
    """All of it together: how long to wait before a request, and what to learn from its outcome."""

    __slots__ = ("_clocker", "_cubic", "bucket", "enabled")

    def __init__(self, now: float) -> None:
        self._clocker = Clocker(now)
        self._cubic = Cubic(0.0, now)
        self.bucket = TokenBucket(0.0, now)
        self.enabled = False

    @property
    def measured(self) -> float:
        """Requests per second, smoothed."""
        return self._clocker.rate

    def before(self, now: float) -> float:
        """Take a place for one request; seconds to wait for it."""
        return self.bucket.take(now) if self.enabled else 0.0

    def after(self, throttled: bool, now: float) -> None:
        """Learn from the outcome of one request."""
        measured = self._clocker.record(now)
        if throttled:
            rate = min(measured, self.bucket.rate) if self.enabled else measured
            allowed = self._cubic.throttled(rate, now)
            self.enabled = True
        else:
            allowed = self._cubic.succeeded(now)
        self.bucket.set_rate(min(allowed, MAXIMUM_ADJUSTMENT * measured), now)

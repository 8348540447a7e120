"""How many retries a fleet of calls may make: four laws, each a value that begins an account.

    TrafficRatio(0.1)    Finagle: retries <= ratio of the calls of the last `ttl` seconds, plus a floor per second
    InFlightRatio(0.2)   Envoy: retries under way <= ratio of calls under way, but never below a floor
    TokenQuota(500)      AWS: a retry costs tokens, a success gives some back
    TokenThrottle(10)    gRPC A6: a failure costs one token, a success gives `token_ratio`; retries while over half

Sources: com.twitter.finagle.service.RetryBudget; Envoy "retry budget"; botocore and smithy-rs retry quota; gRPC
proposal A6. A retry is charged when it is decided, so that calls that wait for their backoff are counted already.

What must never happen: more retries than the law allows, whatever the order of events; an account below zero; a
refund of more than the last retry's cost (AWS).

The caller holds a lock around every method here.
"""

from __future__ import annotations

from typing import Any, Protocol

from attrs import field, frozen

from resilience_core import _validation as check
from resilience_core._validation import to_seconds


class Account(Protocol):
    """What is left of a budget."""

    def began(self, now: float) -> None:
        """A call begins (its first attempt)."""
        ...

    def failed(self) -> None:
        """An attempt failed in a way that could be retried."""
        ...

    def take(self, now: float, costly: bool) -> float | None:
        """Pay for one more attempt: the cost, or None when there is not enough. `costly` after a time-out."""
        ...

    def ended(self, success: bool, paid: float, retries: int, counted: bool) -> None:
        """A call ends after so many extra attempts, the last of which cost `paid`.

        `counted` is whether it began with `began`; a nested retry's call was counted further out.
        """
        ...

    def balance(self, now: float) -> float:
        """Extra attempts (TokenQuota: tokens) that could be paid for now."""
        ...

    def adopt(self, law: Any, now: float) -> None:
        """Go on under another law of the same kind with what is there."""
        ...


class Law(Protocol):
    """A value that begins an account."""

    def start(self) -> Account: ...


@frozen
class TrafficRatio:
    """Extra attempts may be `ratio` of the calls of the last `ttl` seconds, plus `minimum_per_second` at any rate."""

    ratio: float = field(default=0.1, validator=check.non_negative_number)
    minimum_per_second: float = field(default=1.0, kw_only=True, validator=check.non_negative_number)
    ttl: float = field(default=10.0, kw_only=True, converter=to_seconds, validator=check.positive_seconds)

    def start(self) -> RatioAccount:
        """An account with its floor."""
        return RatioAccount(self)

    def __str__(self) -> str:
        return f"{self.ratio:.0%} of the calls of the last {self.ttl:g} s, and {self.minimum_per_second:g}/s"


class RatioAccount:
    """Deposits and withdrawals of the last `ttl` seconds in ten buckets."""

    __slots__ = ("_buckets", "_index", "_law", "_sum")
    BUCKETS = 10

    def __init__(self, law: TrafficRatio) -> None:
        self._law = law
        self._buckets = [0.0] * self.BUCKETS
        self._index: int | None = None
        self._sum = 0.0

    def _turn(self, now: float) -> int:
        index = int((now + 1e-9) // (self._law.ttl / self.BUCKETS))
        if self._index is None or index > self._index:
            first = index if self._index is None else max(self._index + 1, index - self.BUCKETS + 1)
            for passed in range(first, index + 1):
                place = passed % self.BUCKETS
                self._sum -= self._buckets[place]
                self._buckets[place] = 0.0
            self._index = index
        return self._index % self.BUCKETS

    def _book(self, amount: float, now: float) -> None:
        self._buckets[self._turn(now)] += amount
        self._sum += amount

    def began(self, now: float) -> None:
        """Deposit a share of a retry."""
        self._book(self._law.ratio, now)

    def failed(self) -> None:
        """Failures cost nothing here."""

    def balance(self, now: float) -> float:
        """Retries at hand."""
        self._turn(now)
        return max(0.0, self._sum + self._law.minimum_per_second * self._law.ttl)

    def take(self, now: float, costly: bool) -> float | None:
        """Withdraw one retry."""
        if self.balance(now) < 1.0 - 1e-6:
            return None
        self._book(-1.0, now)
        return 1.0

    def ended(self, success: bool, paid: float, retries: int, counted: bool) -> None:
        """Nothing is given back: the attempt was made."""

    def adopt(self, law: TrafficRatio, now: float) -> None:
        """What was earned and spent stays; with other buckets it counts as of now."""
        self._turn(now)
        old, self._law = self._law, law
        if law.ttl != old.ttl:
            earned, self._sum = self._sum, 0.0
            self._buckets = [0.0] * self.BUCKETS
            self._index = None
            self._book(earned, now)


@frozen
class InFlightRatio:
    """Extra attempts under way may be `ratio` of the calls under way, and `minimum` at any rate."""

    ratio: float = field(default=0.2, validator=check.ratio)
    minimum: int = field(default=3, kw_only=True, validator=check.count_from(0))

    def start(self) -> InFlightAccount:
        """An account of nothing under way."""
        return InFlightAccount(self)

    def __str__(self) -> str:
        return f"{self.ratio:.0%} of the calls under way, or {self.minimum}"


class InFlightAccount:
    """Calls and extra attempts under way."""

    __slots__ = ("_law", "calls", "retries")

    def __init__(self, law: InFlightRatio) -> None:
        self._law = law
        self.calls: int = 0
        self.retries: int = 0

    def began(self, now: float) -> None:
        """One more call."""
        self.calls += 1

    def failed(self) -> None:
        """Failures cost nothing here."""

    def balance(self, now: float) -> float:
        """Extra attempts that could be started now."""
        return max(0.0, max(float(self._law.minimum), self._law.ratio * self.calls) - self.retries)

    def take(self, now: float, costly: bool) -> float | None:
        """One more extra attempt; it counts until its call ends."""
        if self.balance(now) < 1.0 - 1e-9:
            return None
        self.retries += 1
        return 1.0

    def ended(self, success: bool, paid: float, retries: int, counted: bool) -> None:
        """The call and its extra attempts are over."""
        self.calls -= counted
        self.retries -= retries

    def adopt(self, law: InFlightRatio, now: float) -> None:
        """What is under way stays under way."""
        self._law = law


@frozen
class TokenQuota:
    """Tokens, at first `capacity`: a retry costs `retry_cost` (`timeout_cost` after a time-out).

    A call that succeeds gives back what its last retry cost, or `no_retry_increment` when it needed none.
    """

    capacity: float = field(default=500, validator=check.positive_number)
    retry_cost: float = field(default=5, kw_only=True, validator=check.positive_number)
    timeout_cost: float = field(default=10, kw_only=True, validator=check.positive_number)
    no_retry_increment: float = field(default=1, kw_only=True, validator=check.non_negative_number)

    def start(self) -> QuotaAccount:
        """A full account."""
        return QuotaAccount(self)

    def __str__(self) -> str:
        return f"{self.capacity:g} tokens, {self.retry_cost:g} a retry"


class QuotaAccount:
    """Tokens left."""

    __slots__ = ("_law", "available")

    def __init__(self, law: TokenQuota) -> None:
        self._law = law
        self.available: float = float(law.capacity)

    def began(self, now: float) -> None:
        """Calls cost nothing."""

    def failed(self) -> None:
        """Failures cost nothing; retries do."""

    def balance(self, now: float) -> float:
        """Tokens left."""
        return self.available

    def take(self, now: float, costly: bool) -> float | None:
        """Pay for a retry."""
        return self.pay(self._law.timeout_cost if costly else self._law.retry_cost)

    def pay(self, cost: float) -> float | None:
        """Pay `cost` tokens; None when there are not so many."""
        if cost > self.available:
            return None
        self.available -= cost
        return cost

    def ended(self, success: bool, paid: float, retries: int, counted: bool) -> None:
        """Give back the last cost, or the increment of a first-try success."""
        if success and (retries or counted):
            refund = paid if retries else self._law.no_retry_increment
            self.available = min(self._law.capacity, self.available + refund)

    def adopt(self, law: TokenQuota, now: float) -> None:
        """What was spent stays spent."""
        self.available = max(0.0, law.capacity - (self._law.capacity - self.available))
        self._law = law


@frozen
class TokenThrottle:
    """At first `max_tokens`; a failure that could be retried costs one, a success gives `token_ratio`.

    Retries are made while there are more than half.
    """

    max_tokens: float = field(default=10, validator=check.positive_number)
    token_ratio: float = field(default=0.1, kw_only=True, validator=check.positive_number)

    def start(self) -> ThrottleAccount:
        """A full account."""
        return ThrottleAccount(self)

    def __str__(self) -> str:
        return f"{self.max_tokens:g} tokens, one a failure, {self.token_ratio:g} back a success"


class ThrottleAccount:
    """Tokens left."""

    __slots__ = ("_law", "tokens")

    def __init__(self, law: TokenThrottle) -> None:
        self._law = law
        self.tokens: float = float(law.max_tokens)

    def began(self, now: float) -> None:
        """Calls cost nothing."""

    def failed(self) -> None:
        """One token."""
        self.tokens = max(0.0, self.tokens - 1)

    def balance(self, now: float) -> float:
        """Tokens above the half where retries end."""
        return max(0.0, self.tokens - self._law.max_tokens / 2)

    def take(self, now: float, costly: bool) -> float | None:
        """Whether a retry may be made; the failure has been paid for already."""
        return 0.0 if self.tokens > self._law.max_tokens / 2 else None

    def ended(self, success: bool, paid: float, retries: int, counted: bool) -> None:
        """A success gives a part of a token."""
        if success and counted:
            self.tokens = min(self._law.max_tokens, self.tokens + self._law.token_ratio)

    def adopt(self, law: TokenThrottle, now: float) -> None:
        """What was spent stays spent."""
        self.tokens = max(0.0, law.max_tokens - (self._law.max_tokens - self.tokens))
        self._law = law

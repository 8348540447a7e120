"""A retry budget's share in its fleet: what is earned goes to the store now and then, what is spent comes in batches.

    TrafficRatio     the balance of the fleet decays with the time constant `ttl`, so that it holds as many tokens as a
                     window of `ttl` seconds would, and is refilled with the floor
    TokenQuota       one quota for all
    TokenThrottle    one level for all: nothing is fetched, the level known last decides

A retry never waits for the store: where no token is at hand it is refused, and some are fetched for the next one.
While the store is away, and until it has answered for the first time, the process's own account decides.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from attrs import frozen

from resilience_core._errors import ConfigurationError
from resilience_core._fork import renew
from resilience_core._machines.budget import Account, Law, TokenQuota, TokenThrottle, TrafficRatio
from resilience_core.fleet._agent import NEVER, Item
from resilience_core.fleet._link import Request

if TYPE_CHECKING:
    from resilience_core._policies.retry_budget import RetryBudget
    from resilience_core.fleet._fleet import BaseFleet

EARNED_EVERY, SPENT_EVERY = 1.0, 0.05
"""Seconds between two reports of what was earned, and of what was lost."""
IDLE = 1.0
"""Seconds after which tokens that were not spent are given back."""
QUICK = 0.25
"""Seconds within which a batch was used up quickly: the next one is twice as large."""
LARGEST_BATCH = 16
"""Retries that one batch pays for at most."""
REFUSED_FOR = 0.05
"""Seconds for which the store's word holds that there are no more."""


@frozen
class Terms:
    """A law in the terms of the store."""

    capacity: float
    refill: float
    decay: float
    start: float
    cost: float
    per_call: float
    """Earned by every call that begins."""
    level: bool = False
    """Whether a level decides, and nothing is fetched."""


def terms_of(law: Law, name: str) -> Terms:
    """The terms of a law.

    Raises:
        ConfigurationError: a fleet cannot share it.
    """
    if isinstance(law, TrafficRatio):
        floor = law.minimum_per_second
        return Terms(1e12, floor, law.ttl, floor * law.ttl, 1.0, law.ratio)
    if isinstance(law, TokenQuota):
        return Terms(law.capacity, 0.0, 0.0, law.capacity, law.retry_cost, 0.0)
    if isinstance(law, TokenThrottle):
        return Terms(law.max_tokens, 0.0, 0.0, law.max_tokens, 1.0, 0.0, level=True)
    raise ConfigurationError(
        f"RetryBudget {name!r}: a fleet shares TrafficRatio, TokenQuota and TokenThrottle, not a {type(law).__name__}: "
        "calls that are under way end with their process, and nobody else can count them"
    )


class SharedAccount:
    """An account whose tokens are the fleet's; the lock around it is the budget's."""

    def __init__(self, share: SharedBudget, law: Law, name: str) -> None:
        self._share = share
        self._name = name
        self._law = law
        self.own: Account = law.start()
        self.terms: Terms = terms_of(law, name)
        self.clear()

    def clear(self) -> None:
        """Forget what the store has said."""
        self.known: bool = False
        self.hand = 0.0  # tokens fetched and not spent
        self.earned = 0.0  # and not reported; below 0 lost
        self.level = 0.0  # of the store, as it was known last
        self.wanting: bool = False
        self.batch: int = 1
        self.filled_at: float = float("-inf")
        self.refused_until: float = float("-inf")

    def began(self, now: float) -> None:
        """A call begins."""
        self.own.began(now)
        self._earn(self.terms.per_call)
        self._share.join()

    def failed(self) -> None:
        """An attempt failed."""
        self.own.failed()
        if self.terms.level:
            self._earn(-1.0)
            self._share.wake()

    def _earn(self, tokens: float) -> None:
        before, cost = self.earned, self.terms.cost
        # What no balance could hold need not be told.
        self.earned = min(before + tokens, self.terms.capacity, 1000.0 * cost)
        if before < cost <= self.earned:  # others could pay with it
            self._share.wake()

    def take(self, now: float, costly: bool) -> float | None:
        """Pay for one more attempt with what is at hand."""
        if not self.known:
            return self.own.take(now, costly)
        if self.terms.level:
            return 0.0 if self.level + self.earned > self.terms.capacity / 2 else None
        law = self._law
        cost = law.timeout_cost if costly and isinstance(law, TokenQuota) else self.terms.cost
        paid = cost <= self.hand
        if paid:
            self.hand -= cost
        if self.hand < cost and now >= self.refused_until:
            self.wanting = True
            self._share.wake()
        return cost if paid else None

    def ended(self, success: bool, paid: float, retries: int, counted: bool) -> None:
        """A call ends."""
        self.own.ended(success, paid, retries, counted)
        law = self._law
        if not success:
            return
        if isinstance(law, TokenQuota) and (retries or counted):
            self._earn(paid if retries else law.no_retry_increment)
        elif isinstance(law, TokenThrottle) and counted:
            self._earn(law.token_ratio)

    def balance(self, now: float) -> float:
        """Tokens at hand and, as far as it is known, in the store."""
        if not self.known:
            return self.own.balance(now)
        spare = self.terms.capacity / 2 if self.terms.level else 0.0
        return max(0.0, self.level + self.hand + self.earned - spare)

    def adopt(self, law: Any, now: float) -> None:
        """Go on under other numbers."""
        self.own.adopt(law, now)
        self._law, self.terms = law, terms_of(law, self._name)


class SharedBudget(Item):
    """The agent's end of one budget."""

    def __init__(self, fleet: BaseFleet, budget: RetryBudget) -> None:
        self._fleet = fleet
        self._budget = budget
        self.key: str = fleet.keys.other("retry_budget", budget.name)
        self.account: SharedAccount = SharedAccount(self, budget.law, budget.name)
        self.joined = False
        self._told_at = 0.0

    # --- by callers, under the budget's lock -----------------------------------------------------------------------

    def join(self) -> None:
        """With the first call the agent begins to work for this budget; where it cannot, with a later one."""
        if not self.joined:
            self.joined = self._fleet.join(self)[0]

    def wake(self) -> None:
        """Something is wanted, or lost."""
        self.join()
        self._fleet.agent.wake()

    # --- by the agent ----------------------------------------------------------------------------------------------

    def due(self, now: float) -> float:
        account = self.account
        if not account.known or account.wanting:
            return 0.0
        if account.earned < 0:
            return self._told_at + SPENT_EVERY
        full = account.level >= account.terms.capacity
        if account.earned >= account.terms.cost and not full:
            return self._told_at + EARNED_EVERY
        return account.filled_at + IDLE if account.hand > 0 else NEVER

    def pending(self) -> bool:
        account = self.account
        return not account.known or account.wanting or account.earned < 0

    def requests(self, now: float) -> list[Request]:
        account, terms = self.account, self.account.terms
        with self._budget._lock:
            wanted = 0.0
            if account.wanting and not terms.level:
                if now - account.filled_at < QUICK:
                    account.batch = min(LARGEST_BATCH, 2 * account.batch)
                account.filled_at = now
                wanted = terms.cost * account.batch
            elif account.hand > 0 and now - account.filled_at >= IDLE:  # nobody spends them
                account.earned += account.hand
                account.hand, account.batch = 0.0, 1
            account.wanting = False
            earned, account.earned = account.earned, 0.0
        self._told_at = now
        lives = max(round(self._fleet.ttl * 1000), round(2000 * terms.decay))
        args = (terms.capacity, terms.refill, terms.decay, terms.start, earned, wanted, terms.cost, lives)

        def answer(reply: Any, sent: float, received: float) -> None:
            given, balance = map(float, reply)
            with self._budget._lock:
                account.known = True
                account.hand += given
                account.level = balance
                if given < wanted:
                    account.refused_until = self._budget.clock.now() + REFUSED_FOR

        return [Request("budget", self.key, (*map(_decimal, args), self._fleet.host_time()), answer)]

    def lost(self, now: float) -> None:
        with self._budget._lock:
            self.account.clear()

    def found(self, now: float) -> None:
        """The next answer tells."""

    def proven(self) -> bool:
        return self.account.known

    def after_fork(self) -> None:
        renew(self._budget._lock)
        self.account.clear()
        self.joined = False

    def goodbye(self, now: float) -> list[Request]:
        with self._budget._lock:
            account = self.account
            account.earned += account.hand
            account.hand = 0.0
            account.wanting = False
            nothing = not account.known or account.earned == 0
        return [] if nothing else self.requests(now)


def _decimal(value: object) -> str:
    return f"{value:.6f}" if isinstance(value, float) else str(value)

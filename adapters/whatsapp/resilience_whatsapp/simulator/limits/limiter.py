"""The limits at work: what was used of each, what is too much, and the headers that warn before."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from functools import partial
from typing import Any, Literal, TypeAlias, TypeVar

from attrs import define, field, frozen

from resilience_whatsapp.simulator.envelopes import Refusal
from resilience_whatsapp.simulator.limits.headers import usage, usage_headers
from resilience_whatsapp.simulator.limits.meters import Bucket, Pairs, PerUser, Rolling, Users
from resilience_whatsapp.simulator.limits.settings import HOUR, Limits
from resilience_whatsapp.simulator.state.world import Account, Block, Number, Token

DAY = 86_400.0
GRACE = 2.0
"""Seconds after a refusal in which further ones are taken for requests that were under way."""

T = TypeVar("T")


@define
class Tally:
    """What was too much in one scope of one object."""

    refused: int = 0
    """Requests over the limit."""
    episodes: int = 0
    """Times that the limit was met: refusals that came while one had to wait belong to one episode."""
    after_warning: int = 0
    """Refusals of an episode later than `GRACE` seconds after its first: the sender did not listen."""
    _first: float = 0.0
    _free: float = 0.0

    def note(self, now: float, wait: float) -> None:
        """One more; it would have had to wait for `wait` seconds."""
        self.refused += 1
        if now >= self._free:
            self.episodes += 1
            self._first = now
        elif now > self._first + GRACE:
            self.after_warning += 1
        self._free = max(self._free, now + wait)


Scope: TypeAlias = Literal["throughput", "pair", "messaging", "marketing", "spam", "management", "app", "token", "flow"]

_DETAILS: Mapping[Scope, str] = {
    "throughput": "Cloud API message throughput has been reached.",
    "pair": "Message failed to send because there were too many messages sent from this phone number to the same phone "
    "number in a short period of time.",
}


@frozen
class _Check:
    """One limit that a message meets: how long it would have to wait, and what it uses up."""

    scope: Scope
    key: str
    code: int
    wait: float
    take: Callable[[], None]


@define
class Limiter:
    """The limits at work: what was used of them, and what was too much."""

    limits: Limits
    tallies: dict[tuple[Scope, str], Tally] = field(factory=dict)
    throttled_flows: set[str] = field(factory=set)
    _buckets: dict[str, Bucket] = field(factory=dict)
    _pairs: Pairs | None = None
    _users: dict[str, Users] = field(factory=dict)
    _marketing: PerUser = field(factory=lambda: PerUser(DAY))
    _spam: dict[str, Rolling] = field(factory=dict)
    _calls: dict[Hashable, Rolling] = field(factory=dict)

    # --- messages --------------------------------------------------------------------------------------------------

    def send(
        self, number: Number, user: str, now: float, *, cold: bool, to_group: bool, flow: str | None
    ) -> Refusal | None:
        """Whether a message may go; `cold` is outside the service window. What is refused uses nothing up."""
        checks = self._checks(number, user, now, cold=cold, to_group=to_group, flow=flow)
        for check in checks:
            if check.wait > 0.0 and self._over(check.scope, check.key, now, check.wait):
                if check.scope == "spam":
                    number.block = Block(check.code, now + check.wait)
                return self._refusal(check.code, _DETAILS.get(check.scope))
        for check in checks:
            if check.wait == 0.0:  # what is not enforced does not use up what is not there
                check.take()
        return None

    def _checks(
        self, number: Number, user: str, now: float, *, cold: bool, to_group: bool, flow: str | None
    ) -> list[_Check]:
        limits, checks = self.limits, list[_Check]()
        bucket = self._bucket(number)
        if bucket is not None:
            wait = bucket.wait(now)
            # Refusals within a second are one episode: a token comes back every few milliseconds.
            told = max(wait, 1.0) if wait > 0.0 else 0.0
            checks.append(_Check("throughput", number.id, 130429, told, partial(bucket.take, now)))
        pairs = None if to_group else self._pairs_of()
        if pairs is not None:
            pair = (number.id, user)
            taken = partial(pairs.take, pair, now)
            checks.append(_Check("pair", f"{number.id}/{user}", 131056, pairs.wait(pair, now), taken))
        if flow is not None and flow in self.throttled_flows and limits.flow is not None:
            opened = _of(self._calls, ("flow", flow), lambda: Rolling(HOUR))
            checks.append(_Check("flow", flow, 132069, opened.wait(limits.flow, now), partial(opened.add, now)))
        if cold and limits.spam is not None:
            sent = _of(self._spam, number.id, lambda: Rolling(HOUR))
            wait = limits.spam_seconds if sent.count(now) >= limits.spam else 0.0
            checks.append(_Check("spam", number.id, 131048, wait, partial(sent.add, now)))
        if cold and limits.messaging is not None:
            portfolio = number.account.portfolio.id
            users = _of(self._users, portfolio, lambda: Users(DAY))
            wait = users.wait(user, limits.messaging, now)
            taken = partial(users.take, user, now)
            checks.append(_Check("messaging", portfolio, limits.messaging_code, wait, taken))
        return checks

    def clear(self) -> None:
        """Forget what was used and what was too much."""
        for kept in (self.tallies, self._buckets, self._users, self._spam, self._calls):
            kept.clear()
        self._pairs, self._marketing = None, PerUser(DAY)

    def change(self, limits: Limits) -> None:
        """Other limits from now on; what was used of the rates is forgotten, what was counted is not."""
        self.limits = limits
        self._buckets.clear()
        self._pairs = None

    def marketing(self, user: str, now: float) -> bool:
        """Whether one more marketing template would be too much for this user; it is counted if not."""
        if self.limits.marketing is None:
            return False
        wait = self._marketing.wait(user, self.limits.marketing, now)
        if wait > 0.0 and self._over("marketing", user, now, wait):
            return True
        self._marketing.take(user, now)
        return False

    def inbound(self, number: Number, now: float) -> None:
        """A message came in: it counts for the throughput."""
        bucket = self._bucket(number)
        if bucket is not None:
            bucket.take(now)

    def _bucket(self, number: Number) -> Bucket | None:
        rate = number.throughput
        if rate is None and self.limits.throughput is not None:
            rate = self.limits.throughput_high if number.throughput_level == "HIGH" else self.limits.throughput
        if rate is None:
            return None
        bucket = self._buckets.get(number.id)
        if bucket is None or bucket.rate != rate:
            bucket = self._buckets[number.id] = Bucket(rate)
        return bucket

    def _pairs_of(self) -> Pairs | None:
        limits = self.limits
        if self._pairs is None and limits.pair_seconds is not None:
            self._pairs = Pairs(limits.pair_seconds, limits.pair_burst, limits.pair_strict)
        return self._pairs

    # --- calls -----------------------------------------------------------------------------------------------------

    def call(self, token: Token, account: Account, now: float, *, management: bool) -> Refusal | None:
        """Whether a call that is no send may be made; it is counted if so."""
        found = self._meters(token, account, management=management)
        for code, scope, key, limit, meter in found:
            wait = meter.wait(limit, now)
            if wait > 0.0 and self._over(scope, key, now, wait):
                return self._refusal(code)
        for *_, meter in found:
            meter.add(now)
        return None

    def headers(self, token: Token, account: Account, now: float, number: Number | None = None) -> dict[str, str]:
        """The usage headers of an answer; none as long as little is used."""
        app, rows = 0.0, list[dict[str, Any]]()
        for _, scope, _, limit, meter in self._meters(token, account, management=True):
            used = 100.0 * meter.count(now) / limit
            if used < self.limits.usage_from:
                continue
            if scope == "management":
                minutes = -(-meter.wait(limit, now) // 60.0)
                rows.append(usage("whatsapp_business_management", used, int(minutes)))
            else:
                app = max(app, used)
        bucket = None if number is None else self._bucket(number)
        if bucket is not None and (used := bucket.used(now)) >= self.limits.usage_from:
            rows.append(usage("whatsapp", used, 0))
        return usage_headers(app, account.id, rows)

    def _meters(
        self, token: Token, account: Account, *, management: bool
    ) -> list[tuple[int, Scope, str, int, Rolling]]:
        limits, found = self.limits, list[tuple[int, Scope, str, int, Rolling]]()
        if limits.app is not None:
            meter = _of(self._calls, ("app", token.app_id), lambda: Rolling(HOUR))
            found.append((4, "app", token.app_id, limits.app * limits.app_users, meter))
        if limits.token is not None:
            meter = _of(self._calls, ("token", token.value), lambda: Rolling(HOUR))
            found.append((17, "token", token.app_id, limits.token, meter))
        if management and limits.management is not None:
            meter = _of(self._calls, ("management", token.app_id, account.id), lambda: Rolling(HOUR))
            limit = limits.management if account.numbers else min(200, limits.management)
            found.append((80007, "management", f"{token.app_id}/{account.id}", limit, meter))
        return found

    def _over(self, scope: Scope, key: str, now: float, wait: float) -> bool:
        """Note that it is too much; whether that is refused."""
        _of(self.tallies, (scope, key), Tally).note(now, wait)
        return self.limits.enforced

    def _refusal(self, code: int, details: str | None = None) -> Refusal:
        return Refusal(code, details, status=self.limits.status)


def _of(kept: dict[Any, T], key: Hashable, make: Callable[[], T]) -> T:
    found = kept.get(key)
    if found is None:
        found = kept[key] = make()
    return found

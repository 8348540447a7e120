"""The limits of the API, each in its scope, with its error and the headers that warn of it.

| limit | scope | over it |
|---|---|---|
| `throughput` | number, messages in and out in a second | 130429 |
| `pair_seconds`, `pair_burst` | number and user | 131056 |
| `messaging` | portfolio, different users outside service windows in 24 h | `messaging_code` |
| `marketing` | user, marketing templates in 24 h, whoever sends | accepted, then 131049 by webhook |
| `spam` | number, messages to users who never wrote, in an hour | 131048 for `spam_seconds` |
| `management` | app and account, calls in an hour | 80007 |
| `app`, `app_users` | app, calls but sends in an hour | 4 |
| `token` | token, calls but sends in an hour | 17 |
| `flow` | flow that is throttled, messages in an hour | 132069 |

A limit that is None does not exist. All of them are None unless said otherwise; `Limits.real()` has those of the
documentation, and guesses, marked below, for those that it does not tell.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Hashable
from typing import Any, Literal, TypeVar

from attrs import define, evolve, field, fields, frozen

from resilience_whatsapp.simulator.envelopes import Refusal
from resilience_whatsapp.simulator.meters import Bucket, Pairs, Rolling, Users
from resilience_whatsapp.simulator.world import Account, Block, Number, Token

HOUR = 3600.0
DAY = 86_400.0
GRACE = 2.0
"""Seconds after a refusal in which further ones are taken for requests that were under way."""

T = TypeVar("T")


class LimitsError(ValueError):
    """A number that cannot be a limit; the text names it."""


@frozen
class Limits:
    """How much is allowed; None is without limit. Raises `LimitsError` for a number that cannot be a limit."""

    throughput: float | None = None
    """Messages in a second, of a number with level `STANDARD`; `Number.throughput` is for one number alone."""
    throughput_high: float = 1000.0
    """The same with level `HIGH`, where `throughput` is not None."""
    upgrade_seconds: float = 60.0
    """How long an upgrade takes, with error 131057."""
    pair_seconds: float | None = None
    pair_burst: int = 45
    pair_strict: bool = False
    """Whether all that a burst borrowed must be paid back before the next message (`meters.Pairs`)."""
    messaging: int | None = None
    messaging_code: int = 131048
    """The documentation names no code."""
    marketing: int | None = None
    spam: int | None = None
    spam_seconds: float = 4 * HOUR
    management: int | None = None
    """Of an account with a number; one without has 200."""
    app: int | None = None
    """For each user of the app."""
    app_users: int = 100
    token: int | None = None
    flow: int | None = None
    usage_from: float = 25.0
    """Percent of a limit from which on answers have the usage headers."""
    status: int | None = None
    """HTTP status of what is refused: 400, 403 and 429 were all seen. None is the usual one of each code."""
    enforced: bool = True
    """False only counts what is too much, and refuses nothing."""

    def __attrs_post_init__(self) -> None:
        for attribute in fields(Limits):
            value = getattr(self, attribute.name)
            if isinstance(attribute.default, bool):
                if not isinstance(value, bool):
                    raise LimitsError(f"limits.{attribute.name} must be true or false")
            elif value is None and attribute.default is None:
                continue
            elif not isinstance(value, (int, float)) or isinstance(value, bool) or not value > 0:
                optional = ", or None for no limit" if attribute.default is None else ""
                raise LimitsError(f"limits.{attribute.name} must be a number above 0{optional}")

    @classmethod
    def none(cls, **changes: Any) -> Limits:
        """No limits but those of `changes`."""
        return cls(**changes)

    @classmethod
    def real(cls, **changes: Any) -> Limits:
        """Those of the API as of 2026-11; what `changes` names is different.

        Guesses, because nothing is published: `marketing=2` and `app_users=100`. `spam` and `token` adapt, or have no
        published number: they are None.
        """
        documented = cls(
            throughput=80.0,
            pair_seconds=6.0,
            messaging=250,
            marketing=2,
            management=5000,
            app=200,
            flow=10,
        )
        return evolve(documented, **changes)


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


Scope = Literal["throughput", "pair", "messaging", "marketing", "spam", "management", "app", "token", "flow"]


@define
class Limiter:
    """The limits at work: what was used of them, and what was too much."""

    limits: Limits
    tallies: dict[tuple[Scope, str], Tally] = field(factory=dict)
    throttled_flows: set[str] = field(factory=set)
    _buckets: dict[str, Bucket] = field(factory=dict)
    _pairs: Pairs | None = None
    _users: dict[str, Users] = field(factory=dict)
    _marketing: dict[str, Rolling] = field(factory=dict)
    _spam: dict[str, Rolling] = field(factory=dict)
    _calls: dict[Hashable, Rolling] = field(factory=dict)

    # --- messages --------------------------------------------------------------------------------------------------

    def send(self, number: Number, user: str, now: float, *, cold: bool, flow: str | None) -> Refusal | None:
        """Whether a message may go; `cold` is outside the service window. What is refused uses nothing up."""
        limits = self.limits
        pair = (number.id, user)
        bucket = self._bucket(number)
        wait = 0.0 if bucket is None else bucket.wait(now)
        if wait > 0.0 and self._over("throughput", number.id, now, max(wait, 1.0)):
            return self._refusal(130429, "Cloud API message throughput has been reached.")
        pairs = self._pairs_of()
        wait = 0.0 if pairs is None else pairs.wait(pair, now)
        if wait > 0.0 and self._over("pair", f"{number.id}/{user}", now, wait):
            return self._refusal(
                131056,
                "Message failed to send because there were too many messages sent from this phone number to the same "
                "phone number in a short period of time.",
            )
        if flow is not None and flow in self.throttled_flows and limits.flow is not None:
            sent = _of(self._calls, ("flow", flow), lambda: Rolling(HOUR))
            wait = sent.wait(limits.flow, now)
            if wait > 0.0 and self._over("flow", flow, now, wait):
                return self._refusal(132069)
            sent.add(now)
        if cold:
            refused = self._cold(number, user, now)
            if refused is not None:
                return refused
        # What only counts does not use up what is not there: each request is judged by the limit alone.
        if bucket is not None and bucket.wait(now) == 0.0:
            bucket.take(now)
        if pairs is not None and pairs.wait(pair, now) == 0.0:
            pairs.take(pair, now)
        return None

    def clear(self) -> None:
        """Forget what was used and what was too much."""
        for kept in (self.tallies, self._buckets, self._users, self._marketing, self._spam, self._calls):
            kept.clear()
        self._pairs = None

    def change(self, limits: Limits) -> None:
        """Other limits from now on; what was used of the rates is forgotten, what was counted is not."""
        self.limits = limits
        self._buckets.clear()
        self._pairs = None

    def _cold(self, number: Number, user: str, now: float) -> Refusal | None:
        limits = self.limits
        if limits.spam is not None:
            sent = _of(self._spam, number.id, lambda: Rolling(HOUR))
            if sent.count(now) >= limits.spam and self._over("spam", number.id, now, limits.spam_seconds):
                number.block = Block(131048, now + limits.spam_seconds)
                return self._refusal(131048)
            sent.add(now)
        if limits.messaging is not None:
            portfolio = number.account.portfolio.id
            users = _of(self._users, portfolio, lambda: Users(DAY))
            wait = users.wait(user, limits.messaging, now)
            if wait > 0.0 and self._over("messaging", portfolio, now, wait):
                return self._refusal(limits.messaging_code)
            users.take(user, now)
        return None

    def marketing(self, user: str, now: float) -> bool:
        """Whether one more marketing template would be too much for this user; it is counted if not."""
        if self.limits.marketing is None:
            return False
        sent = _of(self._marketing, user, lambda: Rolling(DAY))
        wait = sent.wait(self.limits.marketing, now)
        if wait > 0.0 and self._over("marketing", user, now, wait):
            return True
        sent.add(now)
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


def usage(kind: str, percent: float, minutes: int) -> dict[str, Any]:
    """A row of `X-Business-Use-Case-Usage`; the time to wait is in minutes."""
    return {
        "type": kind,
        "call_count": int(percent),
        "total_cputime": int(percent / 2),
        "total_time": int(percent / 2),
        "estimated_time_to_regain_access": minutes,
    }


def usage_headers(app_percent: float, account_id: str, rows: list[dict[str, Any]]) -> dict[str, str]:
    """`X-App-Usage` and `X-Business-Use-Case-Usage`, those of them that have something to tell."""
    headers: dict[str, str] = {}
    if app_percent > 0.0:
        half = int(app_percent / 2)
        headers["X-App-Usage"] = json.dumps({"call_count": int(app_percent), "total_cputime": half, "total_time": half})
    if rows:
        headers["X-Business-Use-Case-Usage"] = json.dumps({account_id: rows})
    return headers


def _of(kept: dict[Any, T], key: Hashable, make: Callable[[], T]) -> T:
    found = kept.get(key)
    if found is None:
        found = kept[key] = make()
    return found

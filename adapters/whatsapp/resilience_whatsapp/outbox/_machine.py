"""What a row of the outbox may become: pure rules. Time, chance and what happened are arguments.

                       held, put back
                   ┌────────────────────┐
                   ▼                    │
    new ───────▶ queued ── begun ──▶ in_flight ── accepted ──▶ accepted ▶ sent ▶ delivered ▶ read ▶ played
     │             │ ▲                │  │  │                      └──────────▶ failed ▲
     │       expired │ revived        │  │  └─ no verdict ──▶ unknown ── echo ──▶ sent, delivered, ..., failed
     │       dropped │ (by hand)      │  │                     │  └ no echo in time: at_least_once ▶ queued
     ▼             ▼ │                │  └── trouble, a limit: queued again, later
    in_flight     dead ◀──────────────┘
    (sent at once)      refused for good, given up            rejected, failed: the same where an exception told it

What must never happen:
  * a row that may have been sent goes back to `queued` under at_most_once;
  * a row is lost: each state either is an end, or has a `due` time at which somebody looks at it;
  * an echo is ignored: whatever was believed, a message of which a webhook tells was accepted.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from attrs import field, frozen

from resilience_core import ConfigurationError
from resilience_whatsapp._copies import replaced
from resilience_whatsapp._error_table import ErrorClass
from resilience_whatsapp.outbox._row import OutboxRow
from resilience_whatsapp.records import DELIVERY_RANK, MessageStatus, later_status

Random = Callable[[], float]
"""Answers a float in [0, 1)."""
Interval = tuple[float, float | None]
"""Seconds since the epoch, from and to; None: until now."""

QUEUED, IN_FLIGHT, UNKNOWN = MessageStatus.QUEUED, MessageStatus.IN_FLIGHT, MessageStatus.UNKNOWN
ACCEPTED, FAILED = MessageStatus.ACCEPTED, MessageStatus.FAILED
REJECTED, DEAD = MessageStatus.REJECTED, MessageStatus.DEAD
NOT_SENT = (REJECTED, DEAD)
PRIORITIES = range(10)
MAX_THROTTLE_WAIT = 256.0


def _positive(instance: Rules, attribute: object, value: Any) -> None:
    name = getattr(attribute, "name", "")
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not number or not 0 < value < float("inf"):
        raise ConfigurationError(f"Outbox: {name} must be a positive, finite number of seconds, not {value!r}")


@frozen(kw_only=True)
class Rules:
    """The numbers of an outbox; all times are seconds."""

    max_attempts: int = 8
    base_delay: float = field(default=1.0, validator=_positive)
    max_delay: float = field(default=300.0, validator=_positive)
    hold_for: float = field(default=60.0, validator=_positive)
    send_timeout: float = field(default=120.0, validator=_positive)
    lease: float = field(default=180.0, validator=_positive)
    echo_within: float = field(default=300.0, validator=_positive)
    expire_after: float = field(default=86_400.0, validator=_positive)
    keep_for: float = field(default=7 * 86_400.0, validator=_positive)
    keep_dead_for: float = field(default=30 * 86_400.0, validator=_positive)

    def __attrs_post_init__(self) -> None:
        if type(self.max_attempts) is not int or self.max_attempts < 1:
            raise ConfigurationError(f"Outbox: max_attempts must be a whole number from 1, not {self.max_attempts!r}")
        if self.lease <= self.send_timeout:
            raise ConfigurationError(
                f"Outbox: lease ({self.lease:g} s) must be longer than send_timeout ({self.send_timeout:g} s): a row "
                "whose lease is over counts as that of a dead sender"
            )
        if self.max_delay < self.base_delay:
            raise ConfigurationError("Outbox: max_delay must not be shorter than base_delay")


@frozen(kw_only=True)
class Ending:
    """How a send ended that was not accepted."""

    error: str
    """As `name_of_error` tells it."""
    error_class: ErrorClass | None
    """None where nothing was asked of the API, or the error is none of the API's."""
    attempts: int = 0
    """Requests that were begun."""
    unknown: int = 0
    """Those of them whose fate nobody told."""
    wait: float | None = None
    """Seconds to wait, where somebody told."""
    refused_by_us: bool = False
    """An open circuit, a limit, a template set aside: no request was made, and a later one may succeed."""
    cancelled: bool = False
    """Our own shutdown ended it."""


def full_jitter(attempt: int, base: float, cap: float, random: Random) -> float:
    """Seconds before the next attempt after `attempt` failed ones. Source: AWS, "Exponential Backoff And Jitter"."""
    return random() * min(cap, base * 2.0 ** min(attempt - 1, 60))


# --- sending -------------------------------------------------------------------------------------------------------


def begun(row: OutboxRow, now: float, rules: Rules) -> OutboxRow:
    """A sender takes it: nobody else may, until its lease is over. Stores do the same without reading the body."""
    assert row.state in (QUEUED, *NOT_SENT, FAILED)
    return replaced(row, state=IN_FLIGHT, due=now + rules.lease)


def accepted(row: OutboxRow, wamid: str, attempts: int, unknown: int, now: float) -> OutboxRow:
    """The API took it, with the last of `attempts` requests in all, of which `unknown` ended without a verdict.

    They count from the first one on, so that what is written twice, or was counted by others meanwhile, counts once.
    """
    attempts, unknown = max(row.attempts, attempts), max(row.unknown, unknown)
    again = row.possible_duplicate or (unknown > 0 and attempts > 1) or row.wamid not in (None, wamid)
    told = row.state in DELIVERY_RANK or (row.state is FAILED and row.wamid == wamid)  # by an echo that was quicker
    new = {
        "state": row.state if told else ACCEPTED,
        "due": None,
        "wamid": row.wamid if told else wamid,
        "attempts": attempts,
        "unknown": unknown,
        "troubles": 0,
        "throttled": 0,
        "possible_duplicate": again,
        "error": row.error if told else None,
        "reason": None,
    }
    same = all(getattr(row, name) == value for name, value in new.items())
    return row if same else replaced(row, **new, changed_at=now)


def ended(row: OutboxRow, ending: Ending, now: float, random: Random, rules: Rules, *, told: bool) -> OutboxRow:
    """A send that was not accepted. `told`: an exception tells the caller, and the outbox leaves the rest to him."""
    row = replaced(
        row,
        attempts=row.attempts + ending.attempts,
        unknown=row.unknown + ending.unknown,
        possible_duplicate=row.possible_duplicate
        or (row.unknown > 0 and ending.attempts > 0)
        or (ending.unknown > 0 and ending.attempts > ending.unknown),
        kept=row.kept and not told,
        error=ending.error,
        changed_at=now,
    )
    if ending.unknown:
        return _unknown(row, "no verdict came back", now, rules)
    if told:
        return _over(row, REJECTED if row.attempts == 0 else FAILED, "the caller was told")
    if ending.cancelled or ending.refused_by_us:
        wait = ending.wait or 0.0
        return _again(row, now + wait, "put back" if ending.cancelled else "refused by a policy of ours")
    return _judged(row, ending, now, random, rules)


def _judged(row: OutboxRow, ending: Ending, now: float, random: Random, rules: Rules) -> OutboxRow:
    wait, kind = ending.wait or 0.0, ending.error_class
    if kind in (ErrorClass.TRANSIENT, ErrorClass.AMBIGUOUS):  # ambiguous, and yet nothing left: no connection
        row = replaced(row, troubles=row.troubles + 1)
        if row.troubles >= rules.max_attempts:
            return _over(row, DEAD, f"given up after {row.troubles} attempts")
        pause = full_jitter(row.troubles, rules.base_delay, rules.max_delay, random)
        return _again(row, now + max(wait, pause), "the platform is in trouble")
    if kind is ErrorClass.THROTTLE:
        pause = ending.wait or min(MAX_THROTTLE_WAIT, 4.0**row.throttled)  # Meta: 4^X seconds, X from 0
        row = replaced(row, throttled=min(row.throttled + 1, 10))
        return _again(row, now + pause * (1 + random() / 4), "a limit is reached")
    if kind in (ErrorClass.AUTH, ErrorClass.POLICY, ErrorClass.SENDER):
        return _again(row, now + max(wait, rules.hold_for), f"{kind.name.lower()}: somebody must repair it")
    if kind in (ErrorClass.RECIPIENT, ErrorClass.TEMPLATE) and wait > 0 and now + wait <= row.not_after:
        return _again(row, now + wait, f"{kind.name.lower()}: not before the stated wait is over")
    return _over(row, DEAD, "refused for good")


def orphaned(row: OutboxRow, now: float, rules: Rules) -> OutboxRow:
    """Found in flight after its lease: the sender died, and a request may have left."""
    if row.state is not IN_FLIGHT:
        return row
    row = replaced(row, attempts=row.attempts + 1, unknown=row.unknown + 1, error=None, changed_at=now)
    if row.delivery == "at_least_once" and now <= row.not_after:
        # Nobody was told how it ended, so it is the outbox's now, whatever `when_down` said.
        return _again(replaced(row, kept=True), now, "the sender died; sent again")
    return _unknown(row, "the sender died", now, rules)


def given_up(row: OutboxRow, kept: OutboxRow, now: float) -> OutboxRow:
    """Its caller was told that it could not be kept as `kept`; nobody has touched it, and nobody will."""
    if (row.fence, row.changed_at, row.not_after) != (kept.fence, kept.changed_at, kept.not_after):
        return row
    return replaced(_over(row, REJECTED, "the caller was told"), kept=False, changed_at=now)


def renewed(row: OutboxRow, fence: int, now: float, rules: Rules) -> OutboxRow:
    """A new lease for who has the row with this fence; the row as it is if somebody else has it."""
    return replaced(row, due=now + rules.lease) if row.fence == fence and row.state is IN_FLIGHT else row


def held(row: OutboxRow, until: float, reason: str, now: float) -> OutboxRow:
    """It was not sent, and is not before `until`; no attempt is spent."""
    return replaced(_again(row, until, reason), changed_at=now)


def dropped(row: OutboxRow, reason: str, now: float) -> OutboxRow:
    """It is not to be sent any more."""
    return replaced(_over(row, DEAD, reason), changed_at=now)


def overdue(row: OutboxRow, now: float, downtime: Iterable[Interval], rules: Rules) -> OutboxRow:
    """What becomes of a row that something must be done with now; the same row if that is not so."""
    if row.state is QUEUED and now > row.not_after:
        return dropped(row, "expired", now)
    if row.due is None or now < row.due:
        return row
    if row.state is IN_FLIGHT:
        return orphaned(row, now, rules)
    if row.state is UNKNOWN:
        return _without_echo(row, now, downtime, rules)
    return row


def _without_echo(row: OutboxRow, now: float, downtime: Iterable[Interval], rules: Rules) -> OutboxRow:
    since = now - rules.echo_within if row.unknown_since is None else row.unknown_since
    heard = now - since - within(downtime, since, now)
    if heard < rules.echo_within:  # our ears were shut for a time, which does not count
        return replaced(row, due=now + rules.echo_within - heard)
    if row.kept and row.delivery == "at_least_once" and now <= row.not_after:
        return replaced(_again(row, now, "no echo; sent again"), changed_at=now)
    return replaced(row, due=None, reason="no echo", changed_at=now)


def within(intervals: Iterable[Interval], since: float, until: float) -> float:
    """Seconds of `since` to `until` that lie within any of the intervals, which may overlap."""
    covered, reached = 0.0, since
    for begin, end in sorted((begin, until if end is None else end) for begin, end in intervals):
        begin, end = max(begin, reached), min(end, until)
        if end > begin:
            covered += end - begin
            reached = end
    return covered


# --- what webhooks and people tell -----------------------------------------------------------------------------------


def echoed(
    row: OutboxRow, wamid: str | None, status: str, at: float, now: float, error: str | None = None
) -> OutboxRow:
    """A webhook tells of the message: it was accepted, whatever was believed. Unknown statuses change nothing."""
    try:
        told = MessageStatus(status)
    except ValueError:
        return row
    if told not in DELIVERY_RANK and told is not FAILED:
        return row
    was_accepted = row.state in DELIVERY_RANK or (row.state is FAILED and row.wamid is not None)
    state = later_status(row.state, told) if was_accepted else told
    first = row.wamid or wamid
    twice = was_accepted and wamid != first
    if twice:  # it was sent twice, and both were accepted: that one failed says nothing of the other one
        failed = row.state is FAILED and told is not FAILED
        state, first = (told, wamid) if failed else (row.state if told is FAILED else state, first)
    again = row.possible_duplicate or twice
    if state is row.state and first == row.wamid and again is row.possible_duplicate:
        return row
    return replaced(
        row,
        state=state,
        wamid=first,
        due=None,
        attempts=row.attempts + 1 if row.state is IN_FLIGHT else max(row.attempts, 1),
        possible_duplicate=again,
        error=None if state is not FAILED else row.error if row.state is FAILED else error,
        reason=None,
        changed_at=now,
        told_at=at,
    )


def revived(row: OutboxRow, now: float, not_after: float) -> OutboxRow:
    """By hand, or by the same key: sent anew."""
    row = replaced(row, kept=True, troubles=0, throttled=0, not_after=not_after, changed_at=now)
    return _again(row, now, "revived")


def may_be_sent_anew(row: OutboxRow) -> bool:
    """Whether the message was certainly not sent, and will not be by the outbox itself."""
    return row.unknown == 0 and (row.state in NOT_SENT or (row.state is FAILED and row.wamid is None))


def _again(row: OutboxRow, due: float, reason: str) -> OutboxRow:
    return replaced(row, state=QUEUED, due=due, reason=reason, unknown_since=None)


def _over(row: OutboxRow, state: MessageStatus, reason: str) -> OutboxRow:
    # A row that may have been sent by an earlier request is not "not sent".
    return replaced(row, state=UNKNOWN if row.unknown else state, due=None, reason=reason)


def _unknown(row: OutboxRow, reason: str, now: float, rules: Rules) -> OutboxRow:
    return replaced(row, state=UNKNOWN, due=now + rules.echo_within, reason=reason, unknown_since=now)

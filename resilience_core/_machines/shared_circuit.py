"""The law of a circuit that a fleet shares: a record, and the changes that members make to it.

             failures of all, or votes                    probes of the lease's holder
    CLOSED ---------------------------> OPEN + a lease ----------------------------------> CLOSED
                                         ^        |                                (2 in a row)
                                         +--------+ one fails: another epoch, another lease

A record is replaced as a whole, by compare-and-swap: `apply` of a change answers the record that is to be, or None
where the change does not apply (any more). Whoever loses the race applies it to the record that won.

* **Epochs** name eras: one for each change of state, random, compared for equality. A count from another era changes
  nothing, also when all keys were lost meanwhile: nothing that is drawn anew equals what was.
* **HALF_OPEN is local to the holder of the lease**, the right to probe. It is granted with the opening to whoever
  opens, usable from `open_until` until `use_by`, and prolonged while nobody else wants it. Used, it lasts until
  `expires`, longer than a probe may take. Who wants it takes it over at `takeover_at`, never before: `MARGIN` after
  an unused one has lapsed, in which the holder's word that it is in use can still arrive.
* **Times** are the server's, in whole microseconds. As text they are strings: a JSON number loses digits in cjson. When
  its clock is set back, a record from the future is moved to the present as a whole.

What must never happen: two probes at once while leases outlast calls; a result that counts for a lease or an era that
it does not belong to; a record without an end that nobody can leave.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from typing import Any, Protocol, TypeAlias

from attrs import evolve, field, frozen

from resilience_core._machines.circuit import CircuitState

VERSION = 1
"""Of the record. Fields may be added within a version; another version's records count as missing."""
SECOND = 1_000_000
USE_WITHIN = 2 * SECOND
"""How long an unused lease lasts beyond `open_until`, unless its holder prolongs it."""
MARGIN = 1 * SECOND
"""How late the word that a lease is in use may reach the store."""
SET_BACK = 5 * SECOND
"""How far a record must be from the future to show that the server's clock was set back: clocks of hosts, which count
where the server's is not told, may differ by less."""
LONGEST = 400 * 24 * 3600 * SECOND
"""What a record holds ends within this time after it was written: a poisoned one must not hold a fleet for years."""
DEEPEST = 16
"""Levels of what a newer library added: whoever can read more of them may not be able to write them again."""
LONGEST_WORD = 1_000
MOST_VOTES = 64
"""Members whose votes are kept; a quorum cannot ask for more."""
LONGEST_TEXT = 131_072
"""Room for twice so many members with the longest names, and for words of which each letter is an escape."""

Draw: TypeAlias = Callable[[], str]
"""Draws a new epoch: random, never used before."""

_FORCED = (CircuitState.FORCED_OPEN, CircuitState.DISABLED, CircuitState.SHADOW)
_TIME = re.compile(r"\d{1,12}\.\d{6}", re.ASCII)


@frozen
class Lease:
    """The right to probe."""

    id: str
    holder: str
    """Empty when it was given back: anybody may take it over at once."""
    use_by: int
    expires: int
    used: bool = False
    wanted: str = ""
    """The first member that asked for it in vain."""

    @property
    def takeover_at(self) -> int:
        """From when on another member may take it over."""
        if not self.holder:
            return 0
        return self.expires if self.used else self.use_by + MARGIN


@frozen
class Control:
    """Who forced a state, why, and until when (server time; None for until told otherwise)."""

    actor: str | None = None
    reason: str | None = None
    until: int | None = None


@frozen
class Record:
    """What a fleet knows of a circuit."""

    state: CircuitState
    epoch: str
    since: int
    reason: str
    written: int = 0
    """Grows with every change, so that an older copy that arrives late is known as such."""
    by: str = ""
    """Who wrote it: `member:number`, by which a writer knows his own work after a lost reply."""
    failures: int = 0
    members: tuple[str, ...] = ()
    """Those that have counted the failures."""
    votes: tuple[tuple[str, int], ...] = ()
    """Members whose own circuit has opened, and until when each vote stands."""
    open_until: int = 0
    openings: int = 0
    lease: Lease | None = None
    control: Control | None = None
    extra: tuple[tuple[str, Any], ...] = field(default=(), hash=False)
    """Fields of a newer library, kept as they are."""

    @property
    def forced(self) -> bool:
        """Whether it is in a state that was entered by hand."""
        return self.state in _FORCED

    def at(self, now: int) -> Record:
        """The record as it is to be read at `now`: a forced state may have ended."""
        until = None if self.control is None else self.control.until
        if until is None or now < until or not self.forced:
            return self
        return evolve(self, state=CircuitState.CLOSED, reason="forced_expired", control=None)

    def moved(self, now: int) -> Record:
        """The record as if it had just been written, if the server's clock was set back since it was.

        Else all that it says would last for as much longer: if the lease's holder is dead, nobody probes until then.
        """
        back = self.written - now
        if back <= SET_BACK:
            return self

        def earlier(moment: int) -> int:
            return max(0, moment - back)

        lease, control = self.lease, self.control
        if lease is not None:
            lease = evolve(lease, use_by=earlier(lease.use_by), expires=earlier(lease.expires))
        if control is not None and control.until is not None:
            control = evolve(control, until=earlier(control.until))
        return evolve(
            self,
            since=earlier(self.since),
            written=now,
            votes=tuple((member, earlier(until)) for member, until in self.votes),
            open_until=earlier(self.open_until),
            lease=lease,
            control=control,
        )

    def lasts(self, now: int, shortest: int) -> int:
        """Microseconds that it must be kept: never less than twice the open time, nor than a forced state."""
        until = 0 if self.control is None or self.control.until is None else self.control.until
        return max(shortest, 2 * (self.open_until - self.since), until - now + shortest)


def new_record(now: int, draw: Draw) -> Record:
    """The record of a circuit of which nothing is known: closed."""
    return Record(CircuitState.CLOSED, draw(), now, "created")


@frozen
class Opening:
    """What a member that opens a circuit brings along."""

    holder: str
    seconds: Callable[[int], float]
    """The open time of the n-th opening in a row."""
    quorum: int = 1

    def opened(self, record: Record, reason: str, now: int, draw: Draw) -> Record:
        """The record of an open circuit, whose lease is the holder's."""
        openings = record.openings + 1
        until = now + _at_most_longest(round(self.seconds(openings) * SECOND))
        return evolve(
            record,
            state=CircuitState.OPEN,
            epoch=draw(),
            since=now,
            reason=reason[:LONGEST_WORD] or "tripped",
            open_until=until,
            openings=openings,
            votes=(),
            lease=Lease(draw(), self.holder, until + USE_WITHIN, until + USE_WITHIN),
            control=None,
        )


class Change(Protocol):
    """What a member wants to be changed."""

    def apply(self, record: Record, now: int, draw: Draw) -> Record | None:
        """The record that is to be; None where this does not apply."""
        ...


@frozen
class Failures:
    """So many calls of this era failed."""

    epoch: str
    count: int
    member: str
    threshold: int | None
    """How many in a row open it; None where another rule decides."""
    opening: Opening

    def apply(self, record: Record, now: int, draw: Draw) -> Record | None:
        """Count them, and open when that is enough."""
        if record.state is not CircuitState.CLOSED or record.epoch != self.epoch:
            return None
        members = record.members
        if self.member not in members and len(members) < MOST_VOTES:
            members = (*members, self.member)
        counted = evolve(record, failures=record.failures + self.count, members=members)
        enough = self.threshold is not None and counted.failures >= self.threshold
        if enough and len(members) >= self.opening.quorum:
            return self.opening.opened(counted, "consecutive_failures", now, draw)
        return counted


@frozen
class Success:
    """A call of this era succeeded while failures were counted: they were not in a row."""

    epoch: str

    def apply(self, record: Record, now: int, draw: Draw) -> Record | None:
        """Forget the failures. Votes stand: a member that opened by itself has seen enough."""
        if record.state is not CircuitState.CLOSED or record.epoch != self.epoch or not record.failures:
            return None
        return evolve(record, failures=0, members=())


@frozen
class Trip:
    """The circuit of one member has opened by its own rule: a vote, and with enough of them the fleet's opening."""

    epoch: str
    member: str
    reason: str
    stands: int
    """Microseconds that the vote counts."""
    opening: Opening

    def apply(self, record: Record, now: int, draw: Draw) -> Record | None:
        """Vote, and open when there are votes of a quorum."""
        if record.state is not CircuitState.CLOSED or record.epoch != self.epoch:
            return None
        votes = [(member, until) for member, until in record.votes if now < until and member != self.member]
        votes = [*votes, (self.member, now + _at_most_longest(self.stands))][-MOST_VOTES:]
        if len(votes) >= self.opening.quorum:
            return self.opening.opened(record, self.reason, now, draw)
        return evolve(record, votes=tuple(votes))


@frozen
class Untrip:
    """The circuit of that member has closed again."""

    member: str

    def apply(self, record: Record, now: int, draw: Draw) -> Record | None:
        """Take the vote back."""
        votes = tuple(vote for vote in record.votes if vote[0] != self.member)
        return None if votes == record.votes else evolve(record, votes=votes)


@frozen
class UseLease:
    """The holder has begun to probe; until told otherwise it does so for at most `lasts` microseconds."""

    lease: str
    lasts: int

    def apply(self, record: Record, now: int, draw: Draw) -> Record | None:
        """Keep others off for as long."""
        held = _held(record, self.lease)
        if held is None:
            return None
        # Not before it could have been taken over unused: until then the word of another probe may still arrive.
        expires = max(held.takeover_at, now + _at_most_longest(self.lasts) + MARGIN)
        return evolve(record, lease=evolve(held, used=True, expires=expires))


@frozen
class RenewLease:
    """The holder has not used it so far, and would like to keep it."""

    lease: str

    def apply(self, record: Record, now: int, draw: Draw) -> Record | None:
        """Prolong it, unless somebody wants it."""
        held = _held(record, self.lease)
        if held is None or held.wanted:
            return None
        until = max(now, record.open_until) + USE_WITHIN
        return evolve(record, lease=evolve(held, use_by=until, expires=until, used=False))


@frozen
class PassLease:
    """The holder does not probe, and will not with this lease."""

    lease: str

    def apply(self, record: Record, now: int, draw: Draw) -> Record | None:
        """Give it to whoever wants it, else to whoever asks first."""
        held = _held(record, self.lease)
        if held is None:
            return None
        until = max(now, record.open_until) + USE_WITHIN
        return evolve(record, lease=Lease(draw(), held.wanted, until, until))


@frozen
class AskForLease:
    """A member that is rejected would probe if it might."""

    member: str

    def apply(self, record: Record, now: int, draw: Draw) -> Record | None:
        """Take the lease over if it is free, else say that it is wanted."""
        held = record.lease
        if record.state is not CircuitState.OPEN or (held is not None and held.holder == self.member):
            return None
        if held is None or now >= held.takeover_at:
            until = max(now, record.open_until) + USE_WITHIN
            return evolve(record, lease=Lease(draw(), self.member, until, until))
        return None if held.wanted else evolve(record, lease=evolve(held, wanted=self.member))


@frozen
class ProbeFailed:
    """A probe of this lease failed."""

    lease: str
    opening: Opening
    reason: str = "probe_failed"

    def apply(self, record: Record, now: int, draw: Draw) -> Record | None:
        """Open again, for another open time and with another lease."""
        return None if _held(record, self.lease) is None else self.opening.opened(record, self.reason, now, draw)


@frozen
class ProbesSucceeded:
    """Enough probes of this lease succeeded."""

    lease: str
    keep_openings: bool = False
    """While a ramp lasts the circuit is not closed for good."""

    def apply(self, record: Record, now: int, draw: Draw) -> Record | None:
        """Close."""
        if _held(record, self.lease) is None:
            return None
        closed = Record(CircuitState.CLOSED, draw(), now, "probe_succeeded", extra=record.extra)
        return evolve(closed, openings=record.openings) if self.keep_openings else closed


@frozen
class Force:
    """A state entered by hand; from CLOSED on, nothing is remembered of the time before."""

    state: CircuitState
    control: Control
    opening: Opening

    def apply(self, record: Record, now: int, draw: Draw) -> Record | None:
        """Enter it."""
        control = self.control
        if control.until is not None:
            control = evolve(control, until=now + _at_most_longest(control.until - now))
        if self.state is CircuitState.OPEN:
            return evolve(self.opening.opened(record, "manual", now, draw), control=control)
        entered = Record(self.state, draw(), now, "manual", extra=record.extra)
        return evolve(entered, control=control)


@frozen
class OpenAnew:
    """The record of an open circuit is lost, and a member whose turn it would be to ask asks."""

    member: str

    def apply(self, record: Record, now: int, draw: Draw) -> Record | None:
        """What is known of the lost one stays true: it is open, and due for a probe, which is this member's now."""
        if record.state is not CircuitState.CLOSED or record.reason != "created" or record.failures:
            return None
        until = now + USE_WITHIN
        lease = Lease(draw(), self.member, until, until)
        opened = evolve(record, state=CircuitState.OPEN, epoch=draw(), since=now, reason="lost", lease=lease)
        return evolve(opened, open_until=now, openings=1)


def _at_most_longest(span: int) -> int:
    """A longer one would make the record one that nobody reads."""
    return min(span, LONGEST)


def _held(record: Record, lease: str) -> Lease | None:
    """The lease of that id, if it is the one that counts."""
    held = record.lease
    return held if record.state is CircuitState.OPEN and held is not None and held.id == lease else None


# --- as text ---------------------------------------------------------------------------------------------------------


def time_text(moment: int) -> str:
    """Seconds since the epoch with six digits after the point: a string, for cjson keeps 14 digits of a number."""
    return f"{moment // SECOND}.{moment % SECOND:06d}"


def to_text(record: Record) -> str:
    """JSON that a person can read, too."""
    lease, control = record.lease, record.control
    shown = CircuitState.HALF_OPEN if lease is not None and lease.used else record.state
    content: dict[str, Any] = {
        "version": VERSION,
        "state": shown.value,
        "since": time_text(record.since),
        "reason": record.reason,
        "failures": record.failures,
        "members": list(record.members),
        "votes": {member: time_text(until) for member, until in record.votes},
        "open_until": time_text(record.open_until) if record.open_until else None,
        "openings": record.openings,
        "lease": None
        if lease is None
        else {
            "id": lease.id,
            "holder": lease.holder,
            "use_by": time_text(lease.use_by),
            "expires": time_text(lease.expires),
            "used": lease.used,
            "wanted": lease.wanted,
        },
        "forced": None
        if control is None
        else {
            "actor": control.actor,
            "reason": control.reason,
            "until": None if control.until is None else time_text(control.until),
        },
        "epoch": record.epoch,
        "written": time_text(record.written),
        "by": record.by,
    }
    return json.dumps({**content, **dict(record.extra)})


_FIELDS = frozenset(
    ("version", "state", "since", "reason", "failures", "members", "votes", "open_until", "openings", "lease")
) | frozenset(("forced", "epoch", "written", "by"))


def from_text(text: str) -> Record | None:
    """The record that a text holds; None for anything else, of another version, or out of range."""
    if len(text) > LONGEST_TEXT:
        return None
    try:
        content = json.loads(text)
        return _record(content) if content["version"] == VERSION else None
    except (ValueError, TypeError, KeyError, RecursionError):
        return None


def _record(content: Mapping[str, Any]) -> Record:
    state = CircuitState(content["state"])
    lease, control = content["lease"], content["forced"]
    record = Record(
        state=CircuitState.OPEN if state is CircuitState.HALF_OPEN else state,
        epoch=_word(content["epoch"]),
        since=_moment(content["since"]),
        reason=_word(content["reason"]),
        written=_moment(content["written"]),
        by=_text(content["by"]),
        failures=_count(content["failures"]),
        members=tuple(map(_word, _all_of(content["members"], list))),
        votes=tuple((_word(name), _moment(until)) for name, until in _all_of(content["votes"], dict).items()),
        open_until=0 if content["open_until"] is None else _moment(content["open_until"]),
        openings=_count(content["openings"]),
        lease=None if lease is None else _lease(lease),
        control=None if control is None else _control(control),
        extra=tuple((name, _shallow(value)) for name, value in content.items() if name not in _FIELDS),
    )
    ends = [record.open_until, *(until for _, until in record.votes)]
    ends += [] if record.lease is None else [record.lease.use_by, record.lease.expires]
    ends += [] if record.control is None or record.control.until is None else [record.control.until]
    latest = max(record.since, record.written) + LONGEST + USE_WITHIN + MARGIN
    if max(ends) > latest or (record.state is CircuitState.OPEN) != (record.lease is not None):
        raise ValueError("out of range")
    return record


def _lease(content: Mapping[str, Any]) -> Lease:
    if not isinstance(content["used"], bool):
        raise TypeError
    return Lease(
        _word(content["id"]),
        _text(content["holder"]),
        _moment(content["use_by"]),
        _moment(content["expires"]),
        content["used"],
        _text(content["wanted"]),
    )


def _control(content: Mapping[str, Any]) -> Control:
    actor, reason, until = content["actor"], content["reason"], content["until"]
    return Control(
        None if actor is None else _text(actor),
        None if reason is None else _text(reason),
        None if until is None else _moment(until),
    )


def _shallow(value: Any, levels: int = DEEPEST) -> Any:
    inner: Any = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    if inner and not levels:
        raise ValueError
    for each in inner:
        _shallow(each, levels - 1)
    return value


def _text(value: Any) -> str:
    if not isinstance(value, str) or len(value) > LONGEST_WORD:
        raise TypeError
    return value


def _word(value: Any) -> str:
    if not _text(value):
        raise ValueError
    return str(value)


def _count(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < 2**31:
        raise TypeError
    return value


def _moment(value: Any) -> int:
    if not _TIME.fullmatch(_text(value)):
        raise ValueError
    seconds, _, micros = value.partition(".")
    return int(seconds) * SECOND + int(micros)


def _all_of(value: Any, kind: type[list[Any]] | type[dict[str, Any]]) -> Any:
    if not isinstance(value, kind) or len(value) > MOST_VOTES:
        raise TypeError
    return value

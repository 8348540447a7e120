"""A circuit breaker's share in its fleet: what its calls report, and what the fleet's record says to it.

Under the breaker's lock, by callers: `admitted`, `learnt`, `forced`; without it: `join`, `rejected`. All of them
leave word and return. The agent turns that into changes (`_machines/shared_circuit.py`), writes them by
compare-and-swap, and has every record that it sees followed by the breaker's own machine.

While the store is away the machine is on its own, with what was known last: an open circuit stays open as long as it
was to be, and then probes when nobody else could have the lease any more.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from attrs import evolve

from resilience_core._clock import CHANCE
from resilience_core._fork import no_forks, renew
from resilience_core._machines.circuit import Circuit, CircuitState, Forced, Transition
from resilience_core._machines.server_clock import ServerClock
from resilience_core._machines.shared_circuit import (
    LONGEST,
    LONGEST_WORD,
    MARGIN,
    SECOND,
    AskForLease,
    Change,
    Control,
    Failures,
    Force,
    Lease,
    OpenAnew,
    Opening,
    PassLease,
    ProbeFailed,
    ProbesSucceeded,
    Record,
    RenewLease,
    Success,
    Trip,
    Untrip,
    UseLease,
    from_text,
    new_record,
    to_text,
)
from resilience_core._machines.trip_rules import AnyOf, ConsecutiveFailures
from resilience_core._verdicts import FAILURES, Verdict
from resilience_core.fleet._agent import NEVER, Item
from resilience_core.fleet._link import Request
from resilience_core.fleet._windows import SharedWindows

if TYPE_CHECKING:
    from resilience_core._policies.circuit_breaker import CircuitBreaker
    from resilience_core.fleet._fleet import BaseFleet

SUCCESS_EVERY = 0.05
"""Seconds between two successes that one member reports."""
NEWBORN = 5.0
"""Seconds for which failures count that were seen before the store first answered."""
IDLE_HOLDER = 0.2
"""Seconds after which a holder without calls passes a lease on that somebody wants."""
SPREAD = 0.1
"""Seconds over which members spread that all want the same at the same moment."""
_CLOSED, _OPEN, _HALF_OPEN = CircuitState.CLOSED, CircuitState.OPEN, CircuitState.HALF_OPEN


def draw() -> str:
    """A new epoch: 64 random bits."""
    return uuid4().hex[:16]


class SharedCircuit(Item):
    """The agent's end of one breaker."""

    def __init__(self, fleet: BaseFleet, breaker: CircuitBreaker) -> None:
        self._fleet = fleet
        self._breaker = breaker
        self.key: str = fleet.keys.circuit(breaker.name)
        self.channels = (fleet.keys.sister(self.key, "changes"),)
        self._windows = SharedWindows(fleet, breaker, self.key, self._rate_reached)
        self._clear()

    def _clear(self) -> None:
        self.joined = False
        self.holder = self._fleet.holder()
        self.era = ""
        """The epoch that this member's calls belong to; empty without the store, and until it knows of the next one."""
        self._last_era = ""
        self.lease: Lease | None = None
        """The lease, while it is this member's."""
        self.alert = False
        """Whether the fleet has counted failures, so that a success matters."""
        self.own_opening = False
        """Whether the circuit has opened by its own rule, which the fleet has not taken up (yet)."""
        self._clock = ServerClock()
        self._record: Record | None = None
        self._text: bytes | None = None  # as it is in the store; None for none
        self._words: deque[Callable[[], Change]] = deque()  # of callers
        self._changes: list[Change] = []  # to be written
        self._sent: list[Change] = []
        self._early = 0  # failures before the first answer
        self._early_at = 0.0
        self._fresh = False  # whether the record was read since the store was found
        self._unproven = False  # whether the store has to take a write before it counts as found
        self._interested = False
        self._takeover_at = 0.0
        self._synced_at = 0.0
        self._success_at = 0.0
        self._poll_at = 0.0
        self._retry_at = 0.0  # after a lost race
        self._conflicts = 0
        self._number = 0
        self._used_at = 0.0
        self._windows.clear()
        self.dropped = 0
        """Results of another era, which count no more."""

    # --- by callers ------------------------------------------------------------------------------------------------

    def join(self) -> None:
        """With the first call the agent begins to work for this breaker; where it cannot, with a later one."""
        if self.joined:
            return
        self.joined = self._fleet.join(self)[0]
        breaker = self._breaker
        with breaker._lock:  # the agent may have been faster than this line
            breaker._circuit.watch(self.alert or not self.joined)

    def admitted(self, circuit: Circuit, now: float, lasts: float) -> None:
        """A permit was given; matters for probes."""
        if circuit.state is not _HALF_OPEN:
            return
        self._interested = False
        held = self.lease
        if held is not None:
            circuit.probe_until = max(circuit.probe_until, now + lasts)
            self._used_at = now
            self._say(lambda: UseLease(held.id, round(lasts * SECOND)))

    def learnt(self, before: CircuitState, circuit: Circuit, verdict: Verdict, now: float, changed: bool) -> None:
        """A result was counted by the machine, which was in state `before`."""
        failed = verdict in FAILURES
        if before is _CLOSED:
            if not isinstance(circuit.rules.trip, ConsecutiveFailures) and self.era:
                self._windows.dirty = True
                self._fleet.agent.wake()
            if failed:
                self._failed(now)
                if changed:
                    self._tripped(circuit, now)
            elif verdict is Verdict.SUCCESS:
                self._early = 0
                if self.alert and now - self._success_at >= SUCCESS_EVERY:
                    self._success_at = now
                    era = self.era
                    self._say(lambda: Success(era))
        elif before is _HALF_OPEN and not changed:
            self._fleet.agent.wake()  # the probe has ended: if it told nothing, the lease may be passed on
        elif before is _HALF_OPEN:
            held = self.lease
            if circuit.state is _OPEN:
                if held is None:
                    self._tripped(circuit, now)
                else:
                    opening = self._opening(circuit.open_until - now)
                    self._say(lambda: ProbeFailed(held.id, opening))
            elif held is not None:
                ramp = circuit.ramp_since is not None
                self.era = ""
                self._say(lambda: ProbesSucceeded(held.id, ramp))
            else:
                self.own_opening = False
                self._say(lambda: Untrip(self.holder))

    def _failed(self, now: float) -> None:
        era = self.era
        if not era:
            if now - self._early_at > NEWBORN:
                self._early, self._early_at = 0, now
            self._early += 1
            return
        threshold = self._threshold()
        if threshold is not None:
            self._say(lambda: Failures(era, 1, self.holder, threshold, self._opening()))

    def _threshold(self) -> int | None:
        """Failures in a row that open the circuit; None where another rule decides."""
        rule = self._breaker._circuit.rules.trip
        rules = rule.rules if isinstance(rule, AnyOf) else (rule,)
        return next((each.threshold for each in rules if isinstance(each, ConsecutiveFailures)), None)

    def _rate_reached(self, reason: str) -> None:
        """The fleet's rate is what the rule asks for, though perhaps no member's own is."""
        breaker = self._breaker
        with breaker._lock:
            seconds = self._opening().seconds(breaker._circuit.openings + 1)
            self._vote(reason, seconds)

    def _tripped(self, circuit: Circuit, now: float) -> None:
        self.own_opening = True
        change = circuit.last_transition
        reason = "consecutive_failures" if change is None else change.reason
        self._vote(reason, circuit.open_until - now)

    def _vote(self, reason: str, seconds: float) -> None:
        era = self.era
        stands = round(max(1.0, seconds) * SECOND)
        if era:  # else it is said when the store answers, if it is still true then
            self._say(lambda: Trip(era, self.holder, reason, stands, self._opening(seconds)))

    def rejected(self, circuit: Circuit) -> None:
        """A call was rejected: somebody would probe, if he might."""
        if not self._interested and circuit.state is _OPEN:
            self.join()
            self._interested = True
            self._fleet.agent.wake()

    def forced(self, change: Transition, now: float) -> None:
        """A state was entered by hand."""
        by = change.forced or Forced()
        lasts = None if by.until is None else by.until - now
        self.own_opening = False
        self.era = ""
        self._say(lambda: self._force(change.state, by, lasts))

    def _force(self, state: CircuitState, by: Forced, lasts: float | None) -> Force:
        until = None if lasts is None else self._server_now() + min(round(lasts * SECOND), LONGEST - SECOND)
        return Force(state, Control(_short(by.actor), _short(by.reason), until), self._opening())

    def _say(self, word: Callable[[], Change]) -> None:
        self._words.append(word)
        self._fleet.agent.wake()

    def _opening(self, first: float | None = None) -> Opening:
        """How this member opens; `first` seconds where its own machine has decided already."""
        breaker = self._breaker
        rules = breaker._circuit.rules

        def seconds(opening: int) -> float:
            if first is not None:
                return max(0.0, first)
            if rules.recovery_backoff is None:
                return rules.recovery_timeout
            return rules.recovery_backoff.seconds(rules.recovery_timeout, opening, breaker.chance.random)

        return Opening(self.holder, seconds, breaker.quorum)

    # --- by the agent ----------------------------------------------------------------------------------------------

    def due(self, now: float) -> float:
        """At once while there is something to be written; else with the next poll, or when the lease needs it."""
        if not self._fresh:
            return 0.0
        if self._words or self._changes:
            return self._retry_at
        return min(self._poll_at, self._lease_due(now), self._windows.due(now) if self.era else NEVER)

    def pending(self) -> bool:
        return not self._fresh or bool(self._words or self._changes)

    def proven(self) -> bool:
        return self._fresh and not self._unproven

    def _lease_due(self, now: float) -> float:
        """When something is to be done about the lease."""
        record = self._record
        if record is None:
            return self._takeover_at if self._interested and self._open_and_due() else NEVER
        held = record.lease
        if record.state is not _OPEN or held is None:
            return NEVER
        opens = self._clock.surely_at(record.open_until, now)
        if held.holder != self.holder:
            if not self._interested:
                return NEVER
            return self._takeover_at if held.wanted else min(self._takeover_at, opens)
        if self._probing():
            return NEVER
        if held.wanted:
            used_at = now - (self._breaker.clock.now() - self._used_at)
            return max(opens, used_at if held.used else 0.0) + IDLE_HOLDER
        return self._clock.surely_before((held.expires if held.used else held.use_by) - SECOND, now)

    def _probing(self) -> bool:
        """Whether a probe is out that can still count: one that never ends must not keep its lease for ever."""
        breaker = self._breaker
        return bool(breaker._circuit.probes) and breaker.clock.now() < breaker._circuit.probe_until

    def _open_and_due(self) -> bool:
        breaker = self._breaker
        circuit = breaker._circuit
        return circuit.state is _OPEN and breaker.clock.now() >= circuit.open_until and not self.own_opening

    def requests(self, now: float) -> list[Request]:
        if not self._fresh:
            return [self._reading()]
        self._take_words()
        self._see_to_the_lease(now)
        if self._changes:
            return self._writing(now)
        asked = self._windows.requests(self.holder, self.era, now) if self.era and self._windows.due(now) <= now else []
        return [*asked, self._reading()] if now >= self._poll_at else asked

    def _reading(self) -> Request:
        return Request("read", self.key, (), self._read)

    def _take_words(self) -> None:
        while self._words:
            change = self._words.popleft()()
            last = self._changes[-1] if self._changes else None
            if isinstance(change, Failures) and isinstance(last, Failures) and last.epoch == change.epoch:
                self._changes[-1] = evolve(last, count=last.count + change.count)
            else:
                self._changes.append(change)

    def _see_to_the_lease(self, now: float) -> None:
        if self._lease_due(now) > now:
            return
        record = self._record
        if record is None:
            self._changes.append(OpenAnew(self.holder))
            return
        held = record.lease
        assert held is not None
        if held.holder != self.holder:
            self._changes.append(AskForLease(self.holder))
        elif not held.wanted:
            self._changes.append(RenewLease(held.id))
        else:
            self._changes += self._passed_on(held)

    def _passed_on(self, held: Lease) -> list[Change]:
        """Give the lease away, unless it is in use; from then on no call can begin to use it."""
        breaker = self._breaker
        with breaker._lock:
            if self._probing():
                return []
            breaker._circuit.probe_until = float("-inf")
            self.lease = None
        return [PassLease(held.id)]

    def _server_now(self) -> int:
        return self._clock.earliest(time.monotonic())

    def _writing(self, now: float) -> list[Request]:
        """Apply what is to be changed to what is known, and offer that to the store."""
        server = self._clock.earliest(now)
        known = None if self._record is None else self._record.moved(server)
        before = None if known is None else known.at(server)
        record = before or new_record(server, draw)
        kept: list[Change] = []
        for change in self._changes:
            changed = change.apply(record, server, draw)
            if changed is None:
                self.dropped += isinstance(change, (Failures, Trip, ProbeFailed, ProbesSucceeded))
            else:
                record = changed
                kept.append(change)
        self._changes = []
        if not kept and not self._unproven and known is self._record:
            self._poll_at = now  # what was said was not to be: see what is
            return []
        self._number += 1
        written = max(server, 0 if before is None else before.written + 1)
        record = evolve(record, written=written, by=f"{self.holder}:{self._number}")
        self._sent = kept
        text = to_text(record).encode()
        lasts = record.lasts(server, round(self._fleet.ttl * SECOND)) // 1000

        def answer(reply: Any, sent: float, received: float) -> None:
            self._written(reply, record, text, sent, received)

        return [Request("swap", self.key, (self._text or b"", text, lasts, self.channels[0]), answer)]

    # --- answers ---------------------------------------------------------------------------------------------------

    def _written(self, reply: Any, record: Record, text: bytes, sent: float, received: float) -> None:
        done, current, server = reply
        self._clock.observe(server, sent, received)
        changes, self._sent = self._sent, []
        if done:
            self._unproven = False
            self._conflicts, self._retry_at = 0, 0.0
            self._plan(received)
            self._follow(record, text, received)
        else:  # another one was faster: the same on what that one wrote
            self._changes = changes + self._changes
            self._conflicts += 1
            self._retry_at = received + CHANCE.random() * min(0.05, 0.002 * self._conflicts)
            self._see(current, received)

    def _read(self, reply: Any, sent: float, received: float) -> None:
        current, server, left = reply
        self._clock.observe(server, sent, received)
        self._plan(received)
        self._see(current, received)
        record = self._record
        if record is None:
            self._unproven = bool(self._changes)
        elif self._unproven:
            self._changes.append(_Keep())
        if record is not None and record.forced and left < self._fleet.ttl * 500:
            self._changes.append(_Keep())  # it holds until told otherwise, so the record must not lapse
        if record is not None and record.moved(server) is not record:
            self._changes.append(_Move())

    def _plan(self, now: float) -> None:
        self._poll_at = now + self._fleet.poll_interval * (0.9 + 0.2 * CHANCE.random())

    def _see(self, current: bytes | None, now: float) -> None:
        """Take what the store has for what is true."""
        self._text = current
        record = None if current is None else from_text(current.decode("utf-8", "replace"))
        if record is not None:
            self._follow(record, current, now)
        else:
            if current is not None:
                self._fleet.ignored(self._breaker.name, "unreadable record")
            self._miss(now)

    def heard(self, channel: str, content: bytes, now: float) -> None:
        if not self._fresh:  # it will be asked for
            return
        if content == b"window":
            self._windows.heard(now)
            return
        record = from_text(content.decode("utf-8", "replace"))
        known = self._record
        if record is None:  # left to the next poll: members of two versions would outdo each other without a pause
            return
        if known is None or record.written > known.written:  # else an older copy that comes late
            self._follow(record, content, now)

    def _miss(self, now: float) -> None:
        """There is no record: its time was up, or it was lost. What it said last stays true here for its time."""
        lost, self._record, self._fresh = self._record, None, True
        circuit = self._breaker._circuit
        held = self.lease
        if lost is not None and circuit.state is not _CLOSED and not self.own_opening:
            local = self._breaker.clock.now()
            mine = held is not None and local < circuit.probe_until
            if mine or lost.forced:  # nobody else can have another one: it is true for all
                self._changes.append(_Restore(lost))
                return
        if circuit.state is _CLOSED or self.own_opening:
            self._changes.append(_Begin())
        elif circuit.state is _HALF_OPEN:
            self._stop_probing()

    def _stop_probing(self) -> None:
        """Half open with a lease that is over and a record that is lost: open for all, until somebody asks anew."""
        breaker = self._breaker
        with breaker._lock:
            circuit, local = breaker._circuit, breaker.clock.now()
            if circuit.state is not _HALF_OPEN or local < circuit.probe_until:
                return
            circuit.enter(_OPEN, local, "remote", None)
            circuit.open_until = local
            self.lease = None
            change = circuit.last_transition
        self._tell(change)

    def _follow(self, seen: Record, text: bytes | None, now: float) -> None:
        """Have the breaker do what the record says."""
        record = seen.at(self._clock.earliest(now))
        first, self._record, self._text, self._fresh = not self._fresh, seen, text, True
        breaker = self._breaker
        clock = self._clock
        ahead = breaker.clock.now() - now  # from the agent's seconds to the breaker's
        self._takeover_at = now
        with breaker._lock:
            if record.epoch == self._last_era and not first and self._ahead():
                return  # the record is of before: it would undo what has just been done here
            before = breaker._circuit.last_transition
            if record.state is _OPEN:
                self._follow_open(record, now, ahead, first)
            else:
                self._follow_other(record, clock, now, ahead, first)
            self.alert = record.state is _CLOSED and record.failures > 0
            breaker._circuit.watch(self.alert)
            change = breaker._circuit.last_transition
        self._synced_at = now
        if change is not before:
            self._tell(change)

    def _tell(self, change: Transition | None) -> None:
        with no_forks:  # listeners and meters have locks
            self._breaker._tell(change)

    def _follow_open(self, record: Record, now: float, ahead: float, first: bool) -> None:
        circuit, held, clock = self._breaker._circuit, record.lease, self._clock
        assert held is not None
        longest = (record.open_until - record.since) / SECOND  # if the server's clock was set back
        opens = min(clock.surely_at(record.open_until, now), now + longest)
        if record.epoch != self._last_era or first or circuit.state not in (_OPEN, _HALF_OPEN):
            self._begin(record.epoch)
            self._interested = False
            self.own_opening = False
            was_open = circuit.state is _OPEN
            circuit.enter(_OPEN, now + ahead, "remote", _forced(record, clock, now, ahead))
            circuit.openings = record.openings
            # A failed probe that the store has not heard of: the circuit stays open for longer.
            latest = circuit.open_until if first and was_open else 0.0
            circuit.open_until = max(latest, max(opens, now) + ahead)
        if held.holder == self.holder:
            if self.lease is None or self.lease.id != held.id:
                self.lease = held
                self._interested = False  # until a call is rejected again
            until = held.expires - MARGIN if held.used else held.use_by
            circuit.probe_until = max(circuit.probe_until, clock.surely_before(until, now) + ahead)
        else:
            if circuit.state is _HALF_OPEN:  # it was this member's, and has been taken over
                circuit.enter(_OPEN, now + ahead, "remote", None)
                circuit.open_until = max(opens, now) + ahead
            self.lease = None
            circuit.probe_until = float("-inf")
            longest = (held.takeover_at - record.since) / SECOND
            spread = SPREAD * CHANCE.random()
            self._takeover_at = min(clock.surely_at(held.takeover_at, now), now + max(0.0, longest)) + spread

    def _ahead(self) -> bool:
        """Whether this member has left the era that the record is of, and has not written that yet."""
        return not self.era and bool(self._last_era) and bool(self._words or self._changes or self._sent)

    def _follow_other(self, record: Record, clock: ServerClock, now: float, ahead: float, first: bool) -> None:
        circuit = self._breaker._circuit
        self.lease = None
        if record.epoch == self.era and not first and record.state is circuit.state:
            return
        known = self._last_era
        decided = not self.era and not first and self._wrote(record)  # here, by a probe or by hand: it counts since
        self._begin(record.epoch)
        forced = _forced(record, clock, now, ahead)
        if record.state is _CLOSED and record.reason == "created" and circuit.state is _OPEN:
            # The record was lost, and somebody began anew. What it said stays true here, and is said again.
            self.own_opening = self.own_opening or now - self._synced_at < self._fleet.ttl
        # Good probes of the fleet, and a person, say more than an opening of before, which whoever was stopped had no
        # time to tell. Where it cannot be known which was first, the probes may have been, and the person was not.
        opened = circuit.opened_at - ahead
        tested = record.reason == "probe_succeeded" and clock.latest(opened) < record.since
        reset = record.reason == "manual" and clock.earliest(opened) < record.since
        if record.state is _CLOSED and self.own_opening and not tested and not reset:
            if circuit.state is _OPEN and (record.epoch != known or first):  # it is still true: said again
                self._vote("lost", max(0.0, circuit.open_until - now - ahead))
        # A closed circuit is not forced, whatever the record says of who closed it.
        elif record.state is not circuit.state or (record.state is not _CLOSED and not _alike(forced, circuit.forced)):
            self.own_opening = False
            circuit.enter(record.state, now + ahead, "remote", forced)
            circuit.openings = record.openings
            if record.state is _CLOSED and record.reason == "probe_succeeded":
                circuit.start_ramp(now + ahead)
        elif record.epoch != known and not decided and (known or not self._early_count(record, ahead)):
            circuit.begin_era()
        self._count_early(record, now, ahead)

    def _wrote(self, record: Record) -> bool:
        """Whether the record is this member's own work."""
        return record.by.startswith(f"{self.holder}:")

    def _begin(self, era: str) -> None:
        if era != self._last_era:
            self._windows.clear()
        self.era = self._last_era = era

    def _count_early(self, record: Record, now: float, ahead: float) -> None:
        """Failures that were seen before the store first answered: they count, if they are of this era, and fresh."""
        early, at, counts = self._early, self._early_at - ahead, self._early_count(record, ahead)
        self._early, self._early_at = 0, 0.0
        if not early or record.state is not _CLOSED or now - at > NEWBORN or not counts:
            self.dropped += early
            return
        for _ in range(early):
            self._failed(now + ahead)

    def _early_count(self, record: Record, ahead: float) -> bool:
        """Whether failures that were seen before the store first answered are of this era; none are of any."""
        # An era that began because there was no record began for them, too: nothing had changed before.
        if not self._early or record.reason == "created" or self._wrote(record):
            return True
        return self._clock.latest(self._early_at - ahead) >= record.since

    # --- without the store -----------------------------------------------------------------------------------------

    def lost(self, now: float) -> None:
        self._fresh = False
        self._conflicts, self._retry_at = 0, 0.0
        self._take_words()
        unsaid = sum(change.count for change in self._changes if isinstance(change, Failures))
        if unsaid:
            self._early += unsaid
            self._early_at = self._breaker.clock.now()
        # What a person or a probe has decided is not lost. Of failures that were sent, nobody knows whether they count:
        # they are not counted twice.
        kept = (Force, ProbeFailed, ProbesSucceeded)
        self._changes = [change for change in [*self._sent, *self._changes] if isinstance(change, kept)]
        # What refuses writes may well be read: only a write shows that it is over.
        self._unproven = self._unproven or bool(self._sent)
        self._sent = []
        self.era = ""
        self._windows.clear()
        if self._record is not None and not self._record.forced:
            self._record = None
        breaker = self._breaker
        with breaker._lock:
            circuit = breaker._circuit
            self.alert = False
            circuit.watch(False)
            if circuit.state is _OPEN and circuit.probe_until != float("inf"):
                if self.lease is None:
                    ahead = breaker.clock.now() - now
                    circuit.open_until = max(circuit.open_until, self._takeover_at + ahead)
                circuit.probe_until = float("inf")
            elif circuit.state is _HALF_OPEN:
                circuit.probe_until = float("inf")

    def found(self, now: float) -> None:
        self._fresh = False

    def after_fork(self) -> None:
        breaker = self._breaker
        renew(breaker._lock)
        self._clear()
        circuit = breaker._circuit
        circuit.probe_until = float("inf")
        circuit.watch(True)

    def goodbye(self, now: float) -> list[Request]:
        if not self._fresh or self._sent:
            return []
        self._take_words()
        held = self.lease
        if held is not None:
            self._changes += self._passed_on(held)
        return self._writing(now) if self._changes else []


def _short(text: str | None) -> str | None:
    """What was said by hand, so that others accept it in a record."""
    return None if text is None else text[:LONGEST_WORD]


def _forced(record: Record, clock: ServerClock, now: float, ahead: float) -> Forced | None:
    control = record.control
    if control is None:
        return None
    until = None if control.until is None else clock.surely_at(control.until, now) + ahead
    return Forced(control.actor, control.reason, until)


def _alike(one: Forced | None, other: Forced | None) -> bool:
    """Whether both say the same; their ends are told by different clocks."""
    if one is None or other is None:
        return one is other
    ends = (one.until or 0.0) - (other.until or 0.0)
    return (one.actor, one.reason) == (other.actor, other.reason) and abs(ends) < 1.0


class _Begin:
    """There was no record: an era begins, and with it the count."""

    def apply(self, record: Record, now: int, draw: Callable[[], str]) -> Record | None:
        return record if record.reason == "created" and record.since == now else None


class _Keep:
    """The record is good, but must not lapse."""

    def apply(self, record: Record, now: int, draw: Callable[[], str]) -> Record | None:
        return record


class _Move:
    """The server's clock was set back: the record is to be written as `moved`, if nobody has done so meanwhile."""

    def apply(self, record: Record, now: int, draw: Callable[[], str]) -> Record | None:
        return None


class _Restore:
    """The record was lost, and somebody still knows it for sure."""

    def __init__(self, lost: Record) -> None:
        self._lost = lost

    def apply(self, record: Record, now: int, draw: Callable[[], str]) -> Record | None:
        return self._lost if record.reason == "created" and record.since == now else None

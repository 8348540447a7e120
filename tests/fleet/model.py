"""The protocol of a shared circuit, written down once more in the plainest way, to be searched and to be compared with.

Nothing here is taken from the library. A state consists of what the store holds, of each process with its calls and
with what it has yet to write, and of how far the time of each lease has come:

    WAITING (the circuit's open time) -> USABLE (its holder may probe) -> LAPSED (nobody may) -> OVER (anybody may ask)

A step is one thing that one process does, or that happens to it: a call begins or ends, a word is written, the record
is seen, asked for, kept, given away or lost, a process crashes, or hangs as long as it likes and goes on with what it
knew, time passes. `Model.steps` gives every step that a state allows.

Time passes over a lease whose holder is at work only within what the protocol promises: a call ends before the lease
in use does, and the word that it is in use arrives before an unused one is over.

The four invariants:

    I1  one probe at once, but for those whose lease has ended under them: their holder hung, or all keys were lost
    I2  a result changes only the era, or the lease, that its call was admitted in
    I3  no wedge: whatever has happened, the circuit can close again when the dependency is well
    I4  the circuit closes only after as many successes in a row, of probes of the lease that counts, as are needed
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, TypeAlias

WAITING, USABLE, LAPSED, OVER = range(4)
NOBODY, GONE = -1, -2
Id: TypeAlias = Any
"""A number; where epochs are counters, a pair: which it really is, and the number that the protocol sees."""
Word: TypeAlias = tuple[str, Id]
"""What a process has to write: `fail`, `trip`, `ok` of an era; `use`, `good`, `bad` of a lease; `reset`."""
Label: TypeAlias = tuple[Any, ...]


class Record(NamedTuple):
    """What the store holds."""

    open: bool
    epoch: Id
    why: str
    failures: int = 0
    lease: Id = 0
    holder: int = NOBODY
    wanted: int = NOBODY
    used: bool = False


class Call(NamedTuple):
    """A call that is out."""

    probe: bool
    id: Id
    """The era, or the lease, that it was admitted in."""
    tag: int = 0
    stalled: bool = False
    """It hangs: its lease need not outlast it any more."""
    over: bool = False
    """Its lease has ended under it."""


class Process(NamedTuple):
    """What one process knows and does."""

    up: bool = True
    view: str = "new"
    """`new` (has not seen the store), `closed`, `open`, `half_open`."""
    epoch: Id = 0
    lease: Id = 0
    """The lease that it has, as far as it knows."""
    good: int = 0
    bad: int = 0
    calls: tuple[Call, ...] = ()
    words: tuple[Word, ...] = ()
    copy: Any = None
    """What it has read and is about to write anew; only where that is not one step."""


class Lease(NamedTuple):
    """How far the time of a lease has come."""

    id: Id
    phase: int
    good: int = 0
    """Probes of it that succeeded, in a row."""
    forgiven: bool = False
    """Ended under a holder that hung, or was lost: a probe of it may meet another one."""


class State(NamedTuple):
    """Everything at one moment."""

    record: Record | None
    processes: tuple[Process, ...]
    leases: tuple[Lease, ...] = ()
    crashes: int = 0
    hangs: int = 0
    losses: int = 0


class Violation(Exception):
    """A step that must not be."""


Draw: TypeAlias = Callable[[], Id]


class Model:
    """The protocol; with `faults`, a broken one."""

    def __init__(
        self,
        *,
        successes: int = 1,
        failures: int = 1,
        faults: frozenset[str] = frozenset(),
        most_words: int = 2,
        resets: bool = False,
        brief: bool = True,
    ) -> None:
        self.successes = successes
        self.failures = failures
        self.faults = faults
        self.most_words = most_words
        self.resets = resets
        self.brief = brief

    # --- names -----------------------------------------------------------------------------------------------------

    def same(self, one: Id, other: Id) -> bool:
        """Whether the protocol takes them for the same."""
        if "counter_epochs" in self.faults:
            return bool(one) and bool(other) and one[1] == other[1]
        return bool(one == other)

    def counts(self, word: Id, record: Id) -> bool:
        """Whether a result of `word` counts for what the record names."""
        return "fence_removed" in self.faults or self.same(word, record)

    def drawing(self, state: State) -> Draw:
        """Draws names that appear nowhere in the state."""
        last = max(_names(state), default=0)
        record = state.record
        count = 0
        if record is not None and "counter_epochs" in self.faults:
            count = max(record.epoch[1], record.lease[1] if record.lease else 0)

        def draw() -> Id:
            nonlocal last, count
            last += 1
            if "counter_epochs" not in self.faults:
                return last
            count += 1
            return last, count

        return draw

    # --- the record ------------------------------------------------------------------------------------------------

    def opened(self, state: State, by: int, why: str, draw: Draw) -> State:
        """Open, with the lease for whoever opened it."""
        epoch, lease = draw(), draw()
        leases = (*state.leases, Lease(lease, WAITING))
        return state._replace(record=Record(True, epoch, why, lease=lease, holder=by), leases=leases)

    def write(self, state: State, at: int, word: Word, draw: Draw) -> State | None:
        """The word of process `at` carried out in the store; None where it does not count (any more)."""
        record, (what, name) = state.record, word
        if what == "reset":
            return _forgiven(state)._replace(record=Record(False, draw(), "manual"))
        if record is None or record.open != (what in ("use", "good", "bad")):
            return None
        if not self.counts(name, record.lease if record.open else record.epoch):
            return None
        if name != (record.lease if record.open else record.epoch):
            raise Violation(f"I2: {what} of {name} changes {record}")
        if what == "use":
            return _timed(state, record.lease, USABLE)._replace(record=record._replace(used=True))
        if what == "good":
            held = _lease(state, record.lease)
            if held.good < self.successes:
                raise Violation(f"I4: closes after {held.good} successes")
            return state._replace(record=Record(False, draw(), "probe_succeeded"))
        if what == "bad":
            return self.opened(state, at, "probe_failed", draw)
        if what == "ok":
            return state._replace(record=record._replace(failures=0)) if record.failures else None
        failures = record.failures + (what == "fail")
        if what == "trip" or failures >= self.failures:
            return self.opened(state, at, "failures", draw)
        return state._replace(record=record._replace(failures=failures))

    def ask(self, state: State, at: int, draw: Draw) -> State | None:
        """A member that may not probe takes the lease over, or says that it wants it."""
        record = state.record
        if record is None or not record.open or record.holder == at:
            return None
        phase = _lease(state, record.lease).phase
        if record.holder == NOBODY or phase >= (LAPSED if "takeover_without_margin" in self.faults else OVER):
            return self.handed(state, at, draw)
        return state._replace(record=record._replace(wanted=at)) if record.wanted == NOBODY else None

    def handed(self, state: State, to: int, draw: Draw) -> State:
        """Another lease in the place of the one that is."""
        record = state.record
        assert record is not None
        phase = min(USABLE, _lease(state, record.lease).phase)
        lease = draw()
        record = record._replace(lease=lease, holder=to, wanted=NOBODY, used=False)
        return state._replace(record=record, leases=(*state.leases, Lease(lease, phase)))

    def keep(self, state: State, at: int) -> State | None:
        """A holder that does not probe keeps the lease, if nobody wants it."""
        record = state.record
        if (
            record is None
            or not record.open
            or record.holder != at
            or record.wanted != NOBODY
            or self.probes(state, at)
        ):
            return None
        return _timed(state, record.lease, USABLE)._replace(record=record._replace(used=False))

    def give(self, state: State, at: int, draw: Draw) -> State | None:
        """It gives the lease to who wants it, and has none any more."""
        record = state.record
        if record is None or not record.open or record.holder != at or self.probes(state, at):
            return None
        state = _with(state, at, state.processes[at]._replace(lease=0))
        return self.handed(state, record.wanted, draw)

    def begin(self, state: State, draw: Draw) -> State | None:
        """There is no record: an era begins."""
        return None if state.record is not None else state._replace(record=Record(False, draw(), "created"))

    def restore(self, state: State, at: int, used: bool = True, wanted: int = NOBODY) -> State | None:
        """The record was lost, but its holder knows it."""
        process = state.processes[at]
        if state.record is not None or not process.lease or process.view not in ("open", "half_open"):
            return None
        record = Record(True, process.epoch, "restored", 0, process.lease, at, wanted, used)
        return state._replace(record=record)

    def open_anew(self, state: State, at: int, draw: Draw) -> State | None:
        """The record was lost, or is the one that somebody began who did not know it: it was open."""
        record, process = state.record, state.processes[at]
        others = record is not None and not record.open and record.why == "created" and not record.failures
        if process.view not in ("open", "half_open") or (record is not None and not others):
            return None
        if others and (record is None or process.epoch == record.epoch):
            return None
        opened = self.opened(state, at, "lost", draw)
        assert opened.record is not None
        return _timed(opened, opened.record.lease, USABLE)

    # --- a process -------------------------------------------------------------------------------------------------

    def probes(self, state: State, at: int) -> int:
        """Its probes that are out, but for those that count as lost."""
        return sum(call.probe and not call.over for call in state.processes[at].calls)

    def see(self, state: State, at: int) -> State:
        """It does what the record says."""
        record, process = state.record, state.processes[at]
        if record is None:
            return state
        if ("good", record.lease) in process.words or ("bad", record.lease) in process.words:
            return state  # it knows more than what it sees
        if not record.open:
            if process.epoch != record.epoch or process.view != "closed":
                process = process._replace(view="closed", epoch=record.epoch, good=0, bad=0)
            return _with(state, at, process._replace(lease=0))
        if process.epoch != record.epoch or process.view not in ("open", "half_open"):
            process = process._replace(view="open", epoch=record.epoch, good=0, bad=0)
        if record.holder == at:
            return _with(state, at, process._replace(lease=record.lease))
        return _with(state, at, process._replace(view="open", lease=0, good=0))

    def may_probe(self, state: State, at: int) -> bool:
        """Whether it believes that the next call may be a probe."""
        process = state.processes[at]
        if process.view not in ("open", "half_open") or not process.lease or self.probes(state, at):
            return False
        told = ("use", process.lease) in process.words  # its own clock says that the lease lasts, told or not
        return told or _lease(state, process.lease).phase == USABLE

    def admit(self, state: State, at: int, tag: int = 0) -> State | None:
        """A call begins."""
        process = state.processes[at]
        if process.view in ("new", "closed"):
            return _with(state, at, process._replace(calls=(*process.calls, Call(False, process.epoch, tag))))
        if not self.may_probe(state, at):
            return None
        good = process.good if process.view == "half_open" else 0
        # Of a probe that hung for longer than its lease nothing is learnt any more once there is another one.
        out = tuple(each._replace(id=0) if each.over else each for each in process.calls)
        call = Call(True, process.lease, tag, over=_lease(state, process.lease).forgiven)
        words = (*process.words, ("use", process.lease))
        process = process._replace(view="half_open", good=good, calls=(*out, call), words=words)
        return _with(state, at, process)

    def end(self, state: State, at: int, call: Call, outcome: str) -> State:
        """A call ends: `ok`, `fail` or `cancelled`."""
        process = state.processes[at]
        process = process._replace(calls=tuple(each for each in process.calls if each is not call))
        if call.probe and outcome != "cancelled":
            state = _counted(state, call.id, outcome == "ok", self.successes)
        if outcome == "cancelled" or (call.probe and not call.id):
            return _with(state, at, process)
        if call.probe:
            current = process.view == "half_open" and self.counts(call.id, process.lease)
            return _with(state, at, self._probed(process, outcome) if current else process)
        if process.view != "closed" or not self.counts(call.id, process.epoch):
            return _with(state, at, process)
        if outcome == "ok":
            return _with(state, at, process._replace(bad=0))  # whether that is worth a word is its own affair
        bad = process.bad + 1
        words: tuple[Word, ...] = (("fail", process.epoch),)
        if bad >= self.failures:  # in a search the second word says it all
            words = (("trip", process.epoch),) if self.brief else (*words, ("trip", process.epoch))
            process, bad = process._replace(view="open", lease=0), 0
        return _with(state, at, process._replace(bad=bad, words=(*process.words, *words)))

    def _probed(self, process: Process, outcome: str) -> Process:
        if outcome == "fail":
            words = (*process.words, ("bad", process.lease))
            return process._replace(view="open", lease=0, good=0, words=words)
        good = process.good + 1
        if good < self.successes:
            return process._replace(good=good)
        words = (*process.words, ("good", process.lease))
        return process._replace(view="closed", lease=0, good=0, bad=0, words=words)

    # --- what happens to it ----------------------------------------------------------------------------------------

    def crash(self, state: State, at: int) -> State:
        """It is gone, with its calls; another one starts in its place and knows nothing."""
        record = state.record
        if record is not None:
            holder = GONE if record.holder == at else record.holder
            record = record._replace(holder=holder, wanted=GONE if record.wanted == at else record.wanted)
        return _with(state._replace(record=record, crashes=state.crashes + 1), at, Process())

    def lose(self, state: State) -> State:
        """All keys are lost."""
        return _forgiven(state)._replace(record=None, losses=state.losses + 1)

    def pass_time(self, state: State, lease: Lease) -> State | None:
        """The next phase of a lease; None where the protocol's promises would be broken."""
        if lease.phase == OVER or (lease.phase > WAITING and "lease_never_expires" in self.faults):
            return None
        record = state.record
        marked = record is not None and record.lease == lease.id and record.used
        forgiven = lease.forgiven
        processes = list(state.processes)
        if lease.phase == LAPSED or (lease.phase == USABLE and marked):
            for at, process in enumerate(processes):
                running = [call for call in process.calls if call.probe and call.id == lease.id and not call.over]
                telling = ("use", lease.id) in process.words
                if process.up and (telling or any(not call.stalled for call in running)):
                    return None
                if running:
                    calls = tuple(call._replace(over=True) if call in running else call for call in process.calls)
                    processes[at] = process._replace(calls=calls)
                forgiven = forgiven or telling
        after = lease._replace(phase=lease.phase + 1, forgiven=forgiven)
        leases = tuple(after if each is lease else each for each in state.leases)
        return state._replace(processes=tuple(processes), leases=leases)

    # --- every step ------------------------------------------------------------------------------------------------

    def steps(self, state: State) -> Iterator[tuple[Label, State]]:
        """Every step that the state allows."""
        draw = self.drawing(state)
        for lease in state.leases:
            after = self.pass_time(state, lease)
            if after is not None:
                yield ("time", lease.id), after
        for at, process in enumerate(state.processes):
            if process.up:
                yield from self._steps_of(state, at, process, draw)
            else:
                yield ("wake", at), _with(state, at, process._replace(up=True))
            if not state.crashes:
                yield ("crash", at), self.crash(state, at)
            if process.up and not state.hangs:
                yield ("hang", at), _with(state, at, process._replace(up=False))._replace(hangs=1)
        if state.record is not None and not state.losses:
            yield ("lose",), self.lose(state)

    def _steps_of(self, state: State, at: int, process: Process, draw: Draw) -> Iterator[tuple[Label, State]]:
        if not any(not call.stalled for call in process.calls) and len(process.words) < self.most_words:
            admitted = self.admit(state, at)
            if admitted is not None:
                yield ("begin", at), admitted
        for call in process.calls:
            if len(process.words) < self.most_words:
                for outcome in ("ok", "fail", "cancelled"):
                    yield ("end", at, outcome), self.end(state, at, call, outcome)
            if call.probe and not call.stalled and not state.hangs:
                calls = tuple(each._replace(stalled=True) if each is call else each for each in process.calls)
                yield ("stall", at), _with(state, at, process._replace(calls=calls))._replace(hangs=1)
        if "not_atomic" in self.faults:
            yield from self._in_two_steps(state, at, process, draw)
            return
        seen = self.see(state, at)
        if seen != state:
            yield ("see", at), seen
        for label, after in self._writes(state, at, process, draw):
            yield label, self.see(after, at)

    def _writes(self, state: State, at: int, process: Process, draw: Draw) -> Iterator[tuple[Label, State]]:
        if process.words:
            rest = _with(state, at, process._replace(words=process.words[1:]))
            yield ("write", at, process.words[0][0]), self.write(rest, at, process.words[0], draw) or rest
        made: list[tuple[str, State | None]] = []
        if process.view == "open" and not process.lease:
            made.append(("ask", self.ask(state, at, draw)))
        if state.record is not None:
            made.append(("keep", self.keep(state, at)))
            if state.record.wanted != NOBODY:
                made.append(("give", self.give(state, at, draw)))
            if not state.record.open and process.view == "open" and not process.lease:
                made.append(("open_anew", self.open_anew(state, at, draw)))
        elif process.view in ("new", "closed"):
            made.append(("begin_era", self.begin(state, draw)))
        else:
            over = not process.lease or _lease(state, process.lease).phase >= LAPSED
            made.append(("open_anew", self.open_anew(state, at, draw) if over else None))
            made.append(("restore", None if over else self.restore(state, at)))
        if self.resets:
            made.append(("reset", self.write(state, at, ("reset", 0), draw)))
        for name, after in made:
            if after is not None and after != state:
                yield (name, at), after

    def _in_two_steps(self, state: State, at: int, process: Process, draw: Draw) -> Iterator[tuple[Label, State]]:
        """The fault `not_atomic`: what is written was made of what had been read, whatever has happened since."""
        if process.copy is None:
            yield ("read", at), _with(state, at, process._replace(copy=(state.record,)))
            return
        bare = process._replace(copy=None)
        before = _with(state._replace(record=process.copy[0]), at, bare)
        yield ("see", at), self.see(_with(state, at, bare), at)
        for label, after in self._writes(before, at, bare, draw):
            yield (*label, "blindly"), self.see(after, at)

    # --- invariants of a state -------------------------------------------------------------------------------------

    def check(self, state: State) -> None:
        """I1."""
        probes = sum(self.probes(state, at) for at in range(len(state.processes)))
        if probes > 1:
            raise Violation(f"I1: {probes} probes at once in {state}")

    def at_rest(self, state: State) -> bool:
        """Whether calls are admitted wherever a process is at work."""
        closed = state.record is not None and not state.record.open
        views = [process.view for process in state.processes if process.up]
        return not views or (closed and all(view == "closed" for view in views))


def helps(label: Label) -> bool:
    """Whether this is a step of a fleet in which nothing breaks any more: hung processes and calls stay hung."""
    if label[0] == "end":
        return bool(label[2] == "ok")
    return label[0] not in ("crash", "hang", "stall", "wake", "lose", "reset")


# --- parts of a state ------------------------------------------------------------------------------------------------


def _with(state: State, at: int, process: Process) -> State:
    processes = state.processes
    return state._replace(processes=(*processes[:at], process, *processes[at + 1 :]))


def _forgiven(state: State) -> State:
    """What is known of the leases is gone: probes that are out, or will be under one of them, may meet others."""
    processes = tuple(
        process._replace(calls=tuple(call._replace(over=call.probe) for call in process.calls))
        for process in state.processes
    )
    leases = tuple(lease._replace(forgiven=True) for lease in state.leases)
    return state._replace(processes=processes, leases=leases)


def _lease(state: State, name: Id) -> Lease:
    return next(lease for lease in state.leases if lease.id == name)


def _timed(state: State, name: Id, phase: int) -> State:
    """The lease gets time: not before the circuit's open time is over."""
    leases = tuple(
        lease._replace(phase=phase) if lease.id == name and (lease.phase > WAITING or phase == USABLE) else lease
        for lease in state.leases
    )
    return state._replace(leases=leases)


def _counted(state: State, name: Id, good: bool, most: int) -> State:
    leases = tuple(
        lease._replace(good=min(most, lease.good + 1) if good else 0) if lease.id == name else lease
        for lease in state.leases
    )
    return state._replace(leases=leases)


# --- the search ------------------------------------------------------------------------------------------------------


def canonical(state: State, fenced: bool) -> State:
    """The same state with names and processes in a fixed order: which they are does not matter, only who is whose."""
    record = state.record

    def place(at: int) -> Any:
        process = state.processes[at]
        mine = record is not None and record.holder == at, record is not None and record.wanted == at
        now = record is not None and record.epoch == process.epoch
        words = tuple(what for what, _ in process.words)
        calls = tuple((call.probe, call.stalled, call.over, call.id == process.lease) for call in process.calls)
        return (mine, process.view, process.up, now, process.good, words, calls)

    order = sorted(range(len(state.processes)), key=place)
    where = {old: new for new, old in enumerate(order)} | {NOBODY: NOBODY, GONE: GONE}

    def moved(one: Record | None) -> Record | None:
        return None if one is None else one._replace(holder=where[one.holder], wanted=where[one.wanted])

    processes = tuple(
        process if process.copy is None else process._replace(copy=(moved(process.copy[0]),))
        for process in (state.processes[at] for at in order)
    )
    state = state._replace(record=moved(record), processes=processes)
    if fenced:
        state = _forgotten(state)
    names = _names(state)

    def named(name: Id, otherwise: int) -> Id:
        if not name:
            return name
        return (names.get(name[0], otherwise), name[1]) if isinstance(name, tuple) else names.get(name, otherwise)

    def renamed(one: Record | None) -> Record | None:
        return None if one is None else one._replace(epoch=named(one.epoch, STALE), lease=named(one.lease, STALE))

    processes = tuple(
        process._replace(
            epoch=named(process.epoch, OWN),
            lease=named(process.lease, STALE),
            calls=tuple(
                call._replace(id=named(call.id, OWN if call.id == process.epoch else STALE)) for call in process.calls
            ),
            words=tuple((what, named(name, STALE)) for what, name in process.words),
            copy=None if process.copy is None else (renamed(process.copy[0]),),
        )
        for process in state.processes
    )
    kept = [lease._replace(id=named(lease.id, STALE)) for lease in state.leases]
    kept = sorted(lease for lease in kept if _real(lease.id) != STALE)
    return state._replace(record=renamed(state.record), processes=processes, leases=tuple(kept))


def _forgotten(state: State) -> State:
    """Without what can never count again: whatever becomes of it, nothing follows for the others."""
    record = state.record
    era = record.epoch if record is not None and not record.open else None
    comes_back = record is None or not state.losses  # a lost record, from the process that had its lease

    def live(name: Id) -> bool:
        return bool(name) and (
            (record is not None and name == record.lease)
            or (comes_back and any(process.lease == name for process in state.processes))
        )

    processes = []
    for process in state.processes:
        calls = tuple(
            call
            for call in process.calls
            if (live(call.id) or not call.over if call.probe else call.id == era or process.view == "new")
        )
        words = tuple(
            word
            for word in process.words
            if (word[0] == "use" and word[1] == process.lease)
            or (live(word[1]) if word[0] in ("use", "good", "bad") else word[1] == era)
        )
        if process.lease and not live(process.lease) and not calls and not words:
            lease = next(lease for lease in state.leases if lease.id == process.lease)
            if lease.phase == OVER:
                process = process._replace(lease=0, view="open", good=0)
        processes.append(process._replace(calls=calls, words=words))
    return state._replace(processes=tuple(processes))


STALE, OWN = -1, -2
"""In the place of names that can never count again; those of a process that are the same to it are told apart."""


def _real(name: Id) -> int:
    return int(name[0] if isinstance(name, tuple) else name)


def _names(state: State) -> dict[int, int]:
    """New names for those that count, or may count again: the record's, and what holders of leases could restore."""
    records = [state.record, *(process.copy[0] for process in state.processes if process.copy is not None)]
    found = [name for record in records if record is not None for name in (record.epoch, record.lease)]
    for process in state.processes:
        if process.lease:
            found += [process.lease, *([process.epoch] if state.record is None or not state.losses else [])]
    names: dict[int, int] = {}
    for name in found:
        if name:
            names.setdefault(_real(name), len(names) + 1)
    return names


class Searched(NamedTuple):
    """What a search has found."""

    states: int
    steps: int
    violation: str
    """Empty where there is none."""
    trace: tuple[Label, ...]
    """The steps that lead to it."""


def search(
    model: Model, processes: int = 3, *, crashes: int = 1, hangs: int = 1, losses: int = 1, most: int = 1_000_000
) -> Searched:
    """Breadth first through every state that can be, up to the first violation."""
    gc.disable()  # it would look at all the states again and again: there are no cycles among them
    try:
        return _search(model, processes, crashes, hangs, losses, most)
    finally:
        gc.enable()


def _search(model: Model, processes: int, crashes: int, hangs: int, losses: int, most: int) -> Searched:
    first = 1 if "counter_epochs" not in model.faults else (1, 1)
    known = tuple(Process(view="closed", epoch=first) for _ in range(processes))
    start = State(Record(False, first, "created"), known, (), 1 - crashes, 1 - hangs, 1 - losses)
    fenced = not model.faults & {"fence_removed", "counter_epochs"}
    start = canonical(start, fenced)
    numbers: dict[State, int] = {start: 0}
    plainly: dict[State, State] = {}  # half of what the steps lead to was met before, by the same names
    states = [start]
    came: list[tuple[int, Label]] = [(-1, ())]
    back: list[list[int]] = [[]]  # over steps of a fleet in which nothing breaks
    count = at = 0

    def trace(number: int, *more: Label) -> tuple[Label, ...]:
        steps = list(more)
        while number > 0:
            number, label = came[number]
            steps.insert(0, label)
        return tuple(steps)

    while at < len(states) and len(states) < most:
        state = states[at]
        stepping = model.steps(state)
        label: Label = ()
        while True:
            try:
                label, after = next(stepping)
                model.check(after)
            except StopIteration:
                break
            except Violation as found:
                return Searched(len(states), count, str(found), trace(at, label))
            count += 1
            plain = plainly.get(after)
            if plain is None:
                plain = plainly[after] = canonical(after, fenced)
            after = plain
            number = numbers.get(after)
            if number is None:
                number = numbers[after] = len(states)
                states.append(after)
                came.append((at, label))
                back.append([])
            if helps(label):
                back[number].append(at)
        at += 1
    if at < len(states):
        return Searched(len(states), count, "not all states were seen", ())
    wedged = _wedged(model, states, back)
    if wedged is not None:
        return Searched(len(states), count, f"I3: never closed again: {states[wedged]}", trace(wedged))
    return Searched(len(states), count, "", ())


def _wedged(model: Model, states: list[State], back: list[list[int]]) -> int | None:
    """The first state from which no state at rest can be reached."""
    ahead = [number for number, state in enumerate(states) if model.at_rest(state)]
    reached = set(ahead)
    while ahead:
        for number in back[ahead.pop()]:
            if number not in reached:
                reached.add(number)
                ahead.append(number)
    return next((number for number in range(len(states)) if number not in reached), None)

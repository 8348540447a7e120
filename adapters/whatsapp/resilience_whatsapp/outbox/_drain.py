"""Sends what is queued: by priority, in order where asked for, slowly at first, and each only if it is still right."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Mapping, Sequence
from typing import Any, Protocol, TypeAlias

from attrs import define, field, frozen

from resilience_core import CallRejected, Clock, ConfigurationError, Verdict
from resilience_whatsapp._delivery import Sending, name_of_error
from resilience_whatsapp._error_table import ErrorClass
from resilience_whatsapp.errors import AmbiguousOutcomeError, GraphError, GraphTemplateError, classify_graph
from resilience_whatsapp.gates import GateClosedError
from resilience_whatsapp.outbox import _machine as machine
from resilience_whatsapp.outbox._machine import Ending, Interval, Random, Rules
from resilience_whatsapp.outbox._pace import Pace
from resilience_whatsapp.outbox._row import OutboxRow, OutboxStoreError
from resilience_whatsapp.outbox._store import OutboxStore
from resilience_whatsapp.records import MessageRecord, MessageStatus

PURGE_EVERY = 60.0
BATCH = 200
TOGETHER = 20
"""Changes that are asked for at once: a file writes them with one wait for the disk."""
_ONE_MESSAGE = frozenset({"pair", "recipient", "template", "group", "flow", "request", "message"})
"""Scopes of a limit that leave the other messages of the number alone."""
_SOME_MESSAGES = frozenset({"templates", "marketing"})
"""Scopes of gates that leave those that are no templates, or no offers, alone."""
_NEEDS_REPAIR = (ErrorClass.AUTH, ErrorClass.POLICY, ErrorClass.SENDER)
_logger = logging.getLogger("resilience_whatsapp.outbox")


class Sender(Protocol):
    """What the outbox asks of a service."""

    @property
    def lane(self) -> str:
        """The id of the sending number."""
        ...

    async def attempt(
        self, record: MessageRecord, payload: Mapping[str, Any], sending: Sending, *, retries: bool
    ) -> MessageRecord:
        """Send it now; with `retries`, repeat the request as the client's retry policy says."""
        ...

    def tell(self, record: MessageRecord, sending: Sending, error: BaseException | None = None) -> None:
        """Hear where a message stands now, and of the requests that were made for it."""
        ...

    def closed_for(self) -> float:
        """Seconds for which the circuit is open; 0 if a request may be made."""
        ...

    def is_probing(self) -> bool:
        """Whether the circuit lets single requests through, to see how it goes."""
        ...

    def template_wait(self, row: OutboxRow) -> float:
        """Seconds for which the row's template cannot be used, as far as is known; 0 if it can."""
        ...


class Gate(Protocol):
    """A limit of some scope, or something that a person must repair."""

    async def allowed(self, row: OutboxRow) -> float | None:
        """None if the row may be sent now; else seconds after which to ask again."""
        ...


@frozen
class Hold:
    """Not now: the row is looked at again after so many seconds."""

    seconds: float
    reason: str


@frozen
class Drop:
    """Not any more: the row is dead."""

    reason: str


Recheck: TypeAlias = Callable[[OutboxRow], Awaitable[Hold | Drop | None]]
"""Asked before a queued row is sent: the 24 hour window, an opt-out, anything that changed since."""


def ending_of(error: BaseException, sending: Sending, template_wait: float = 0.0) -> Ending:
    """How a send ended, as the machine sees it."""
    wait: float | None = None
    kind: ErrorClass | None = None
    refused = isinstance(error, CallRejected) and sending.unknown == 0
    if isinstance(error, CallRejected):
        wait = error.retry_after
    elif isinstance(error, (GraphError, AmbiguousOutcomeError)):
        kind, wait = error.error_class, error.wait
        if isinstance(error, GraphTemplateError):
            refused, wait = error.local, max(template_wait, wait or 0.0)
    elif isinstance(error, Exception):
        kind = _CLASSES.get(classify_graph(error).verdict)
    return Ending(
        error=name_of_error(error),
        error_class=kind,
        attempts=sending.attempts,
        unknown=sending.unknown,
        wait=wait,
        refused_by_us=refused,
        cancelled=not isinstance(error, Exception),
    )


def accepting(row: OutboxRow, wamid: str, sending: Sending, now: float) -> Callable[[OutboxRow], OutboxRow]:
    """The rule that a send which began with `row` was accepted."""
    attempts, unknown = row.attempts + sending.attempts, row.unknown + sending.unknown
    return lambda known: machine.accepted(known, wamid, attempts, unknown, now)


_CLASSES = {
    Verdict.TRANSIENT: ErrorClass.TRANSIENT,
    Verdict.UNKNOWN: ErrorClass.AMBIGUOUS,
    Verdict.THROTTLED: ErrorClass.THROTTLE,
}


@define(eq=False)
class _Lane:
    """One number: its sender, and how fast and whether at all it sends."""

    sender: Sender
    pace: Pace
    paused_until: float = 0.0
    detached: bool = False
    taken: int = 0
    """Rows, ever."""
    taking: bool = False
    sends: set[asyncio.Task[None]] = field(factory=set)
    takes: set[asyncio.Task[list[OutboxRow]]] = field(factory=set)


class Drainer:
    """The background work of an outbox, in one event loop at a time."""

    def __init__(
        self,
        store: OutboxStore,
        rules: Rules,
        clock: Clock,
        random: Random,
        *,
        gate: Gate | None,
        rechecks: Sequence[Recheck],
        downtime: Callable[[], Iterable[Interval]],
        poll: float,
        pace: tuple[float, float, float],
        max_concurrent: int,
    ) -> None:
        self._store, self._rules, self._clock, self._random = store, rules, clock, random
        self._gate, self._rechecks, self._downtime = gate, tuple(rechecks), downtime
        self._poll, self._pace, self._max_concurrent = poll, pace, max_concurrent
        self._lanes: dict[str, _Lane] = {}
        self._loop: asyncio.AbstractEventLoop | None = None
        self._wakes: dict[str, asyncio.Event] = {}
        self._care: list[asyncio.Task[None]] = []
        self._drains: list[asyncio.Task[None]] = []
        self._stopping = False

    # --- life --------------------------------------------------------------------------------------------------------

    def attach(self, sender: Sender) -> None:
        """One more number."""
        if sender.lane in self._lanes:
            raise ConfigurationError(
                f"this outbox sends for the phone number id {sender.lane!r} already; give the other service an outbox "
                "of its own, with another store"
            )
        self._lanes[sender.lane] = _Lane(sender, Pace(*self._pace))
        if self._loop is not None:
            self._start_lane(self._lanes[sender.lane])

    def start(self) -> None:
        """Begin, in the running loop."""
        if self._loop is not None:
            raise ConfigurationError("this outbox is running already")
        self._loop, self._stopping = asyncio.get_running_loop(), False
        self._care = [self._loop.create_task(self._look_after(), name="whatsapp-outbox-care")]
        for lane in self._lanes.values():
            self._start_lane(lane)

    def _start_lane(self, lane: _Lane) -> None:
        assert self._loop is not None
        lane.pace.restart()
        self._wakes[lane.sender.lane] = asyncio.Event()
        self._drains.append(self._loop.create_task(self._drain(lane), name="whatsapp-outbox-drain"))

    async def stop(self, patience: float) -> None:
        """Begin nothing more; what is under way has `patience` seconds."""
        self._stopping = True
        self.wake()
        try:
            # Those that drain end by themselves: cancelled in the middle of a take they would not know what they have.
            ending = [*self._drains, *(send for lane in self._lanes.values() for send in lane.sends)]
            if ending:
                await asyncio.wait(ending, timeout=patience)
        finally:
            left = [*self._care, *self._drains, *(send for lane in self._lanes.values() for send in lane.sends)]
            for task in left:
                task.cancel()
            await asyncio.gather(*left, return_exceptions=True)
            takes = [take for lane in self._lanes.values() for take in lane.takes]
            await asyncio.gather(*takes, return_exceptions=True)
            self._care.clear()
            self._drains.clear()
            self._wakes.clear()
            self._loop = None

    async def detach(self, sender: Sender, patience: float) -> None:
        """One number less; what is under way for it has `patience` seconds."""
        lane = self._lanes.get(sender.lane)
        if lane is None or lane.sender is not sender:
            return
        del self._lanes[sender.lane]
        lane.detached = True
        self.wake()
        sends = [*lane.sends]
        if sends:
            await asyncio.wait(sends, timeout=patience)
        for send in sends:
            send.cancel()
        await asyncio.gather(*sends, return_exceptions=True)

    def wake(self) -> None:
        """Something may be due; from any thread."""
        loop = self._loop
        if loop is None:
            return
        for event in list(self._wakes.values()):
            try:
                loop.call_soon_threadsafe(event.set)
            except RuntimeError:  # the loop has ended
                return

    # --- sending -----------------------------------------------------------------------------------------------------

    async def _drain(self, lane: _Lane) -> None:
        wake = self._wakes[lane.sender.lane]
        while not self._stopping and not lane.detached:
            wake.clear()
            wait = await self._guarded(self._round(lane), self._poll)
            try:
                async with asyncio.timeout(wait):
                    await wake.wait()
            except TimeoutError:
                pass

    async def _guarded(self, work: Coroutine[Any, Any, float], otherwise: float) -> float:
        """A store that fails now may be well in a second; nothing may end the background work."""
        try:
            return await work
        except OutboxStoreError as error:
            _logger.warning("%s; trying again in %g s", error, otherwise)
        except Exception:
            _logger.exception("The outbox met an error of its own; trying again in %g s", otherwise)
        return otherwise

    async def _round(self, lane: _Lane) -> float:
        """Take what may be sent now, and begin to send it; seconds until the next look."""
        sender, now = lane.sender, self._clock.now()
        closed = sender.closed_for()
        if closed > 0:
            lane.pace.restart()
            return min(closed, self._poll)
        if now < lane.paused_until:
            return min(lane.paused_until - now, self._poll)
        probing = sender.is_probing()
        free = (1 if probing else self._max_concurrent) - len(lane.sends)
        # Probes are few and one at a time; a pause between them is not: a fleet passes the right to probe on from a
        # member that pauses, and what the probes told is lost with it.
        granted = min(1, max(0, free)) if probing else lane.pace.grant(now, free)
        if granted == 0:
            return self._poll if free <= 0 else lane.pace.wait(now)
        wall = self._clock.wall()
        lane.taking = True
        try:
            rows = await self._taken(lane, wall, granted)
            lane.taken += len(rows)
            self._begin_sends(lane, rows)
        finally:
            lane.taking = False
        if self._stopping or lane.detached:
            return self._poll
        if len(rows) == granted:
            return self._poll if probing else lane.pace.wait(now)
        if not probing:
            lane.pace.give_back(granted - len(rows), now)
        due = await self._store.next_due(sender.lane)
        later = self._poll if due is None or due <= wall else min(self._poll, due - wall)
        return max(later, lane.pace.wait(now))

    async def _taken(self, lane: _Lane, wall: float, most: int) -> list[OutboxRow]:
        """What the store gives. Cut short, it may have given all the same: that is put back."""
        take = asyncio.ensure_future(self._store.take(lane.sender.lane, wall, self._rules.lease, most))
        lane.takes.add(take)
        take.add_done_callback(lane.takes.discard)
        try:
            return await asyncio.shield(take)
        except asyncio.CancelledError:
            take.add_done_callback(self._taken_too_late)
            raise

    def _taken_too_late(self, take: asyncio.Task[list[OutboxRow]]) -> None:
        if not take.cancelled() and take.exception() is None:
            self._put_back(take.result())

    def _begin_sends(self, lane: _Lane, rows: list[OutboxRow]) -> None:
        if self._stopping or lane.detached:  # meanwhile: its client is closed, or will be
            self._put_back(rows)
            return
        for row in rows:
            send = asyncio.get_running_loop().create_task(self._send(lane, row), name="whatsapp-outbox-send")
            lane.sends.add(send)
            send.add_done_callback(lambda done: self._sent(lane, done))

    async def drained(self) -> None:
        """Return when nothing is queued for any number here, and no send of a queued message is under way."""
        while not await self._is_drained():
            await asyncio.sleep(self._poll / 3)  # not each time at the moment when the drainer looks, too

    async def _is_drained(self) -> bool:
        lanes = list(self._lanes.values())
        taken = [lane.taken for lane in lanes]
        if any(lane.sends for lane in lanes):
            return False
        await self._store.flush()  # of sends that ended, what is to be tried again
        for lane in lanes:
            if await self._store.next_due(lane.sender.lane) is not None:
                return False
        # What was taken, or is just being taken, may have been the last that was queued.
        return not any(lane.taking or lane.sends for lane in lanes) and taken == [lane.taken for lane in lanes]

    def tell(self, row: OutboxRow) -> None:
        """Tell the sender of its number where a row stands, if there is one here."""
        lane = self._lanes.get(row.lane)
        if lane is not None:
            lane.sender.tell(row.record(), Sending())

    def _sent(self, lane: _Lane, send: asyncio.Task[None]) -> None:
        lane.sends.discard(send)
        self.wake()

    async def _send(self, lane: _Lane, row: OutboxRow) -> None:
        sender, fence, sending = lane.sender, row.fence, Sending()
        try:
            decided = await self._still_right(sender, row)
            if decided is not None:
                self._store.post(row, decided)
                sender.tell(decided(row).record(), sending)
                return
            async with asyncio.timeout(self._rules.send_timeout):
                record = await sender.attempt(row.record(), row.payload, sending, retries=False)
        except BaseException as error:
            ending, now = ending_of(error, sending, sender.template_wait(row)), self._clock.wall()
            judged = machine.ended(row, ending, now, self._random, self._rules, told=False)
            self._store.post(row, lambda known: judged if known.fence == fence else known)
            self.learn(sender, ending, error)
            sender.tell(judged.record(), sending, error)
            if not isinstance(error, Exception):
                raise
            return
        rule = accepting(row, record.wamid or "", sending, self._clock.wall())
        self._store.post(row, rule)  # before anybody else can do harm
        sender.tell(rule(row).record(), sending)

    async def _still_right(self, sender: Sender, row: OutboxRow) -> Callable[[OutboxRow], OutboxRow] | None:
        """None if it is to be sent now; else what becomes of it."""
        verdict: Hold | Drop | None = None
        for ask in (self._ask_template(sender), *self._rechecks, self._ask_gate):
            try:
                verdict = await ask(row)
            except Exception:
                _logger.exception("A check before a send failed; the message waits")
                verdict = Hold(self._rules.hold_for, "a check failed")
            if verdict is not None:
                break
        now, fence, found = self._clock.wall(), row.fence, verdict
        if now > row.not_after:
            found = Drop("expired")
        elif found is None and (row.due or now) - now < self._rules.send_timeout:
            found = Hold(0.0, "the checks took too long")  # the lease must not end during the send
        if found is None:
            return None
        judged = (
            machine.dropped(row, found.reason, now)
            if isinstance(found, Drop)
            else machine.held(row, now + found.seconds, found.reason, now)
        )
        return lambda known: judged if known.fence == fence else known

    def _put_back(self, rows: Iterable[OutboxRow]) -> None:
        now = self._clock.wall()
        for row in rows:
            self._store.post(row, self._held(row, now))

    def _held(self, row: OutboxRow, now: float) -> Callable[[OutboxRow], OutboxRow]:
        return lambda known: machine.held(known, now, "put back", now) if known.fence == row.fence else known

    def _ask_template(self, sender: Sender) -> Recheck:
        async def ask(row: OutboxRow) -> Hold | None:
            wait = sender.template_wait(row)
            return Hold(wait, "the template cannot be used") if wait > 0 else None

        return ask

    async def _ask_gate(self, row: OutboxRow) -> Hold | None:
        wait = None if self._gate is None else await self._gate.allowed(row)
        return None if wait is None else Hold(min(wait, self._rules.expire_after), "a gate is closed")

    def learn(self, sender: Sender, ending: Ending, error: BaseException) -> None:
        """What the end of one send says for those that wait."""
        lane, now = self._lanes.get(sender.lane), self._clock.now()
        if lane is None or ending.cancelled:
            return
        if ending.error_class in _NEEDS_REPAIR:
            lane.paused_until = now + max(ending.wait or 0.0, self._rules.hold_for)
            lane.pace.restart()
        elif ending.error_class is ErrorClass.THROTTLE:
            if getattr(error, "scope", None) not in _ONE_MESSAGE:
                lane.paused_until = max(lane.paused_until, now + (ending.wait or 1.0))
                lane.pace.slow_down(now)
        elif isinstance(error, GateClosedError):
            if error.scope not in _ONE_MESSAGE | _SOME_MESSAGES:
                lane.paused_until = max(lane.paused_until, now + min(ending.wait or self._poll, self._poll))
        elif isinstance(error, CallRejected):
            # Somebody else of the fleet probes: it is enough to look now and then.
            lane.paused_until = max(lane.paused_until, now + min(ending.wait or self._poll, self._poll))
            lane.pace.restart()
        elif ending.unknown or ending.error_class in (ErrorClass.TRANSIENT, ErrorClass.AMBIGUOUS):
            lane.pace.slow_down(now)

    # --- care --------------------------------------------------------------------------------------------------------

    async def _look_after(self) -> None:
        purged = self._clock.now()
        while not self._stopping:
            wait = await self._guarded(self._settle_overdue(), self._poll)
            if self._clock.now() - purged >= PURGE_EVERY:
                purged = self._clock.now()
                await self._guarded(self._purge(), 0.0)
            await asyncio.sleep(wait)

    async def _settle_overdue(self) -> float:
        now = self._clock.wall()
        rows = found = await self._store.overdue(now, self._rules.lease, BATCH)
        intervals: Sequence[Interval] = ()
        if any(row.state is MessageStatus.UNKNOWN for row in rows):
            try:
                intervals = tuple(self._downtime())
            except Exception:
                _logger.exception("`downtime` failed; what is unknown waits")
                rows = [row for row in rows if row.state is not MessageStatus.UNKNOWN]
        for some in (rows[at : at + TOGETHER] for at in range(0, len(rows), TOGETHER)):
            await asyncio.gather(*(self._settle_one(row, now, intervals) for row in some))
        if rows:
            self.wake()
        return 0.0 if len(rows) == len(found) == BATCH else self._poll

    async def _settle_one(self, row: OutboxRow, now: float, intervals: Sequence[Interval]) -> None:
        changed = await self._store.change(row, self._overdue(row, now, intervals))
        if changed is not None and changed.state is not row.state:
            self.tell(changed)

    def _overdue(self, row: OutboxRow, now: float, intervals: Iterable[Interval]) -> Callable[[OutboxRow], OutboxRow]:
        fence = row.fence
        if row.state is MessageStatus.IN_FLIGHT:  # the store says that its lease is over, by whatever clock
            return lambda known: machine.orphaned(known, now, self._rules) if known.fence == fence else known
        return lambda known: machine.overdue(known, now, intervals, self._rules)

    async def _purge(self) -> float:
        now = self._clock.wall()
        while await self._store.purge(now - self._rules.keep_for, now - self._rules.keep_dead_for, BATCH) == BATCH:
            await asyncio.sleep(0)
        return 0.0

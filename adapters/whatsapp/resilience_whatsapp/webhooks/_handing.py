"""Handing out: each update goes from the inbox to one listener after the other, until all have had it.

    claimed -> lane -> listener 1 -> listener 2 -> ... -> done
                           |
                           +-> put off, longer each time -> set aside

A lane keeps the order of what belongs together. Never: a listener called again after it had the update and the next
one failed; one update that fails holding up another one.
"""

from __future__ import annotations

import asyncio
import inspect
from collections import deque
from collections.abc import Awaitable, Callable, Mapping
from typing import TypeAlias, TypeVar

from attrs import frozen

from resilience_core import Clock
from resilience_whatsapp.webhooks._inbox import Claimed, Inbox, SetAside
from resilience_whatsapp.webhooks._logs import StoreTrouble, log_error, logger, told
from resilience_whatsapp.webhooks._read import Part, update_of
from resilience_whatsapp.webhooks._updates import StatusUpdate, UnknownUpdate, WebhookUpdate

__all__ = ["LEASE", "AsideUpdate", "Handing", "Listener", "OnSetAside", "on"]

U = TypeVar("U", bound=WebhookUpdate)
Listener: TypeAlias = Callable[[WebhookUpdate], Awaitable[None] | None]
"""Takes any `WebhookUpdate`; `on` makes one that takes a single type.

A plain function is called in the event loop and must be quick; a coroutine function may take its time. It has had the
update when it returns; when it raises, it gets it again later.
"""

LEASE = 60.0
"""Seconds after which somebody else may claim what a process has claimed and not finished."""
_TOGETHER = 64
_PATIENCE = 5.0


def on(kind: type[U], listener: Callable[[U], Awaitable[None] | None]) -> Listener:
    """A listener that gets updates of one type only: `on(StatusUpdate, save)`."""

    def choose(update: WebhookUpdate) -> Awaitable[None] | None:
        return listener(update) if isinstance(update, kind) else None

    return choose


@frozen
class AsideUpdate:
    """An update that no longer is tried: it failed too often, or killed the process."""

    id: int
    taken_at: float
    """Seconds since the epoch."""
    update: WebhookUpdate
    missing: tuple[str, ...]
    """The listeners that have not had it."""


OnSetAside: TypeAlias = Callable[[AsideUpdate], Awaitable[None] | None]


class Handing:
    """Claims what is due and hands it to the listeners; arguments as for the receiver."""

    def __init__(
        self,
        inbox: Inbox,
        listeners: Mapping[str, Listener],
        clock: Clock,
        trouble: StoreTrouble,
        *,
        max_tries: int,
        patience: float,
        on_set_aside: OnSetAside | None,
    ) -> None:
        self._inbox = inbox
        self._listeners = dict(listeners)
        self._clock = clock
        self._trouble = trouble
        self._max_tries = max_tries
        self._patience = patience
        self._on_set_aside = on_set_aside
        self._running = False
        self._wake = asyncio.Event()
        self._lanes: dict[str, deque[Claimed]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._held: set[int] = set()
        self._alarm: asyncio.Task[None] | None = None
        self._alarm_at = 0.0
        self._lost_held = False
        self.handled = self.failed = self.unknown = 0

    # --- life --------------------------------------------------------------------------------------------------------

    def start(self) -> asyncio.Task[None]:
        """Begin; what waited from before comes first."""
        self._running = True
        return asyncio.create_task(self._hand_out())

    def wake(self) -> None:
        """Something new may be due."""
        self._wake.set()

    def stop(self) -> None:
        """Claim no more. Cancelled in the middle of a claim instead, it would not know what it has claimed."""
        self._running = False
        self._no_alarm()
        self._wake.set()

    async def finish(self) -> None:
        """Give running listeners 5 s, and give back what they have not finished."""
        waiting = [item for lane in self._lanes.values() for item in lane]
        for lane in self._lanes.values():
            lane.clear()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=_PATIENCE)
        for task in tuple(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._held.clear()
        self._lost_held = False
        try:
            await self._inbox.give_back(waiting, self._clock.wall())
        except Exception as error:
            self._trouble.failed("Webhook updates cannot be given back: their leases end", error)

    # --- claiming ----------------------------------------------------------------------------------------------------

    async def _hand_out(self) -> None:
        while self._running:
            self._wake.clear()
            if len(self._held) < _TOGETHER:
                try:
                    wait = await self._claim(_TOGETHER - len(self._held))
                except Exception as error:
                    self._trouble.failed("Webhooks cannot be read from where they are kept", error)
                    wait = 1.0
                self._ring_after(wait)
            await self._wake.wait()

    def _ring_after(self, seconds: float) -> None:
        """Wake up then, by the clock, whatever else happens; an alarm that rings earlier is as good."""
        at = self._clock.now() + seconds
        if seconds <= 0:
            self._wake.set()
        elif self._alarm is None or self._alarm.done() or at < self._alarm_at:
            self._no_alarm()
            self._alarm, self._alarm_at = asyncio.create_task(self._ring(seconds)), at

    async def _ring(self, seconds: float) -> None:
        await self._clock.async_sleep(seconds)
        self._wake.set()

    def _no_alarm(self) -> None:
        if self._alarm is not None:
            self._alarm.cancel()

    async def _claim(self, room: int) -> float:
        """Claim what there is room for; seconds until the next time, unless something happens before."""
        now = self._clock.wall()
        claim = await self._inbox.claim(room, now, now + LEASE, not self._lost_held)
        for item in claim.items:
            self._enter(item)
        for row in claim.lost:
            aside = self.aside(row)
            topic = {"topic": aside.update.topic}
            logger.error("A webhook update is set aside: the process ended during each try", extra=topic)
            await self._tell(aside)
        if len(claim.items) == room:
            return 0.0  # there may be more, if there is room again
        wait = LEASE if claim.due is None else max(0.0, claim.due - self._clock.wall())
        # What is due may be one that has to wait for the other one that was lost.
        return min(LEASE, max(wait, 1.0) if self._lost_held else wait)

    def _enter(self, item: Claimed) -> None:
        if item.id in self._held:
            return  # the machine slept longer than its lease: it is still being handled
        lane = _lane_of(Part.loads(item.text))
        self._held.add(item.id)
        self._lost_held = self._lost_held or item.lost
        if lane in self._lanes:
            self._lanes[lane].append(item)
            return
        self._lanes[lane] = deque([item])
        task = asyncio.create_task(self._run(lane))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _run(self, lane: str) -> None:
        waiting = self._lanes[lane]
        try:
            while waiting:
                item = waiting.popleft()
                try:
                    await self._handle(item)
                except Exception as error:  # of the inbox: its lease ends, and it comes again
                    self._trouble.failed("What became of a webhook update cannot be kept", error)
                finally:
                    self._held.discard(item.id)
                    if item.lost:
                        self._lost_held = False
                    self._wake.set()
        finally:
            del self._lanes[lane]

    # --- one update --------------------------------------------------------------------------------------------------

    async def _handle(self, item: Claimed) -> None:
        if self._clock.wall() > item.until - self._patience:
            # It waited so long behind others that somebody else may claim it before the listeners are through.
            await self._inbox.give_back([item], self._clock.wall())
            return
        update = update_of(Part.loads(item.text))
        if isinstance(update, UnknownUpdate) or (isinstance(update, StatusUpdate) and update.kind is None):
            self.unknown += 1
        passed = set(item.passed)
        for name, listener in self._listeners.items():
            if name in passed:
                continue
            try:
                async with asyncio.timeout(max(0.0, min(self._patience, item.until - self._clock.wall()))):
                    answer = listener(update)
                    if inspect.isawaitable(answer):
                        await answer
            except asyncio.CancelledError:
                await self._inbox.give_back([item], self._clock.wall())
                raise
            except Exception as error:
                await self._failed(item, update, name, frozenset(passed), error)
                return
            passed.add(name)
        await self._inbox.done(item.id)
        self.handled += 1

    async def _failed(
        self, item: Claimed, update: WebhookUpdate, listener: str, passed: frozenset[str], error: Exception
    ) -> None:
        self.failed += 1
        tries = item.failures + 1
        facts = {"listener": listener, "topic": update.topic, "tries": tries, **told(error)}
        if tries < self._max_tries:
            logger.warning("A webhook update was not handled: it is tried again", extra=facts)
            wait = min(3600.0, 4.0 ** min(item.failures, 10))
            await self._inbox.put_off(item.id, passed, self._clock.wall() + wait)
            return
        logger.error("A webhook update is set aside: it failed too often", extra=facts)
        await self._inbox.put_off(item.id, passed, None)
        await self._tell(AsideUpdate(item.id, item.taken, update, self._missing(passed)))

    async def _tell(self, aside: AsideUpdate) -> None:
        if self._on_set_aside is None:
            return
        try:
            async with asyncio.timeout(self._patience):
                answer = self._on_set_aside(aside)
                if inspect.isawaitable(answer):
                    await answer
        except Exception as error:
            log_error("on_set_aside failed", error)

    def aside(self, row: SetAside) -> AsideUpdate:
        """What was set aside, as an update."""
        return AsideUpdate(row.id, row.taken, update_of(Part.loads(row.text)), self._missing(row.passed))

    def _missing(self, passed: frozenset[str]) -> tuple[str, ...]:
        return tuple(name for name in self._listeners if name not in passed)


def _lane_of(part: Part) -> str:
    """What keeps its order: the statuses of one message, the messages of one sender, other news of one topic."""
    wamid, sender = part.content.get("id"), part.content.get("from") or part.content.get("from_user_id")
    who = wamid if part.kind == "status" else sender if part.kind == "message" else None
    return f"{part.kind} {part.topic} {who if isinstance(who, str) else ''}"

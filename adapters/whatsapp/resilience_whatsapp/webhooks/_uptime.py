"""When receivers were up, on disk: deadlines that wait for news pause while nobody could hear them."""

from __future__ import annotations

import uuid

from resilience_core import Clock
from resilience_whatsapp.webhooks._inbox import Inbox, Interval, Listening, merged
from resilience_whatsapp.webhooks._logs import StoreTrouble

__all__ = ["HEARTBEAT", "Uptime"]

HEARTBEAT = 10.0
"""Seconds between two notes on disk that this receiver is up."""
_PRUNED_AT_ONCE = 5_000


class Uptime:
    """Notes that this receiver is up, and knows when any was."""

    def __init__(self, inbox: Inbox, clock: Clock, kept_for: float, trouble: StoreTrouble) -> None:
        self._inbox = inbox
        self._clock = clock
        self._kept_for = kept_for
        self._trouble = trouble
        self._name = ""
        self._since = self._last = 0.0
        self._listening = Listening([], None, {})
        self.running = False
        self.heard: float | None = None
        """When this receiver last heard from the platform."""

    async def begin(self) -> None:
        """From now on it is up."""
        self._last = 0.0
        await self.beat()
        self.running = True

    async def beat(self) -> None:
        """It is up now."""
        now = self._clock.wall()
        if not self._is_awake(now):  # new, or the machine slept, or the disk was full
            self._name, self._since = uuid.uuid4().hex, now
        await self._inbox.beat(self._name, self._since, now, self.heard)
        self._last = now
        await self.look()
        self._trouble.worked()

    async def look(self) -> Listening:
        """What the inbox knows, also of other receivers."""
        self._listening = await self._inbox.listening()
        return self._listening

    async def keep(self) -> None:
        """Note again and again that it is up, and drop what is old, for as long as this runs."""
        while True:
            await self._clock.async_sleep(HEARTBEAT)
            try:
                await self.beat()
                while await self._inbox.forget(self._clock.wall() - self._kept_for, _PRUNED_AT_ONCE) == _PRUNED_AT_ONCE:
                    pass
            except Exception as error:
                self._trouble.failed("The inbox of webhooks fails: old ones are not dropped", error)

    def up(self) -> list[Interval]:
        """When any receiver was up, as far as is known without asking the inbox."""
        mine = [(self._since, self._clock.wall())] if self._is_up() else []
        return merged([*self._listening.up, *mine])

    def down(self, listener: str | None) -> list[tuple[float, float | None]]:
        """When none was, or something waited that the listener (any, for None) has not had; None is "until now"."""
        up = self.up()
        ends = [0.0, *(end for _, end in up)]
        starts: list[float | None] = [start for start, _ in up]
        down = list(zip(ends, [*starts, None], strict=True))
        if self._is_up():
            del down[-1]
        return down + [(taken, None) for passed, taken in self._listening.waiting.items() if listener not in passed]

    def _is_up(self) -> bool:
        # Whoever slept, or was stopped, learns of it with the next beat only, and must not say before that it was up.
        return self.running and self._is_awake(self._clock.wall()) and not self._trouble.fails

    def _is_awake(self, now: float) -> bool:
        return 0 <= now - self._last <= 3 * HEARTBEAT

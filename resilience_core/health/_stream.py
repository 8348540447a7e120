"""The feed as server-sent events.

    retry: 2000                         once: how long a browser waits before it connects again

    id: <boot>-<number>                 from the snapshot on, everything newer follows
    event: snapshot
    data: {"boot": ..., "policies": [...], ...}

    id: <boot>-<number>
    event: event
    data: {"id": ..., "event.name": ..., ...}

    : heartbeat                         when nothing else was sent for a while

A client that connects again says the last id it has seen. If that is of this process, what it missed comes after the
snapshot; if it is of another one, or of a life before, the snapshot is all there is to tell.
"""

from __future__ import annotations

import json
from math import inf
from time import monotonic
from typing import TYPE_CHECKING, Any

from resilience_core.feed import Client

if TYPE_CHECKING:
    from resilience_core.health._health import Health

PATIENCE = 60.0
"""Seconds that a client may take for one frame; then its place is free for another one."""
_TIMES = ("since", "down_since", "until")


class Stream:
    """What one client gets. Ask for one `frame()` after the other in an event loop, and close it in the end."""

    def __init__(self, health: Health, last_event_id: str) -> None:
        self._health = health
        feed = health.feed
        feed.start()
        boot, _, number = last_event_id.partition("-")
        known = boot == feed.boot and number.isascii() and number.isdecimal() and len(number) < 20
        self._after = min(int(number), feed.last_id) if known else None
        self._client: Client = feed.client(self._after)
        self._sent: Any = None
        self._look_at = self._beat_at = 0.0

    @property
    def ended(self) -> bool:
        """Whether nothing comes any more."""
        return self._client.closed

    def close(self) -> None:
        """End it, from any thread."""
        self._client.close()
        self._health.leave(self)

    async def frame(self, at_most: float = inf) -> bytes | None:
        """The next piece; None when it has ended.

        It is empty when there is nothing to send yet, after `at_most` seconds or earlier: then look whether the other
        end is still there.
        """
        health, client = self._health, self._client
        if self._sent is None:
            return self._first()
        message = await client.aget(max(0.001, min(at_most, min(self._look_at, self._beat_at) - monotonic())))
        if self.ended:
            return None
        frame = b"" if message is None else self._frame("event", message, message["id"])
        now = monotonic()
        if now >= self._look_at:
            self._look_at = now + health.interval
            state = health.recent_state()
            lasting = _lasting(state["policies"])
            if lasting != self._sent:
                self._sent = lasting
                frame += self._frame("snapshot", state, None)  # no id: what came before it may be in the queue still
        if frame:
            self._beat_at = now + health.heartbeat
        elif now >= self._beat_at:
            self._beat_at = now + health.heartbeat
            frame = b": heartbeat\n\n"
        return frame

    def _first(self) -> bytes:
        state = self._health.state()
        self._sent = _lasting(state["policies"])
        now = monotonic()
        self._look_at, self._beat_at = now + self._health.interval, now + self._health.heartbeat
        begun = state["id"] if self._after is None else self._after
        return b"retry: 2000\n\n" + self._frame("snapshot", state, begun)

    def _frame(self, event: str, data: dict[str, Any], number: int | None) -> bytes:
        text = json.dumps(data, allow_nan=False)  # one line, whatever is in it
        identity = "" if number is None else f"id: {self._health.feed.boot}-{number}\n"
        return f"{identity}event: {event}\ndata: {text}\n\n".encode()


def _lasting(value: Any) -> Any:
    """What of a snapshot is compared with the next one: without what passes by itself, and with times in full seconds.

    A time comes from two clocks, one of which is set now and then: its last digits change while nothing happens.
    """
    if isinstance(value, list):
        return [_lasting(each) for each in value]
    if not isinstance(value, dict):
        return value
    return {
        key: round(each) if key in _TIMES and each is not None else _lasting(each)
        for key, each in value.items()
        if key != "next_probe_in"
    }

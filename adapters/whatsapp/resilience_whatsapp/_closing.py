"""Closing a service: no new calls, time for those under way, and an end for those that take longer."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any, TypeVar

from resilience_core import ConfigurationError
from resilience_whatsapp.errors import ServiceClosedError

T = TypeVar("T")
_CUT_WITHIN = 5.0
"""Seconds that a call which was cut short may take to end; one that refuses to end is left alone then."""


class Calls:
    """The calls of a service that are under way."""

    def __init__(self) -> None:
        self.closed = False
        self._scopes: set[asyncio.Timeout] = set()
        self._idle: asyncio.Event | None = None

    async def run(self, call: Callable[..., Awaitable[T]], *args: object) -> T:
        """Carry out a call, unless the service is closed.

        Raises:
            ServiceClosedError: it is closed and the call was not begun, or it was closed and the call cut short.
        """
        if self.closed:
            raise ServiceClosedError("the service is closed: nothing was done; make a new one")
        # A scope of its own: cancelling the task would also end what the caller does after this call.
        scope = asyncio.timeout(None)
        try:
            async with scope:
                self._scopes.add(scope)
                try:
                    return await call(*args)
                finally:
                    self._scopes.discard(scope)
                    if self._idle is not None and not self._scopes:
                        self._idle.set()
        except TimeoutError as error:
            if not scope.expired():
                raise
            cut = ServiceClosedError("the service was closed, and the call cut short at the end of its time")
            cut.record = getattr(error.__cause__, "record", None)
            raise cut from None

    async def drain(self, seconds: float) -> None:
        """Take no more calls; return when none is under way: after `seconds` those that are left are cut short."""
        self.closed = True
        await self._emptied(seconds)
        now = asyncio.get_running_loop().time()
        for scope in list(self._scopes):
            if not scope.expired():
                scope.reschedule(now)
        await self._emptied(_CUT_WITHIN)

    async def _emptied(self, seconds: float) -> None:
        if not self._scopes or not seconds:
            return
        if self._idle is None:
            self._idle = asyncio.Event()
        with suppress(TimeoutError):
            await asyncio.wait_for(self._idle.wait(), seconds)


def checked_drain(drain: Any) -> float:
    """The time that calls under way get.

    Raises:
        ConfigurationError: it is no number of seconds.
    """
    if isinstance(drain, bool) or not isinstance(drain, (int, float)) or not 0 <= drain < float("inf"):
        raise ConfigurationError("aclose: drain must be a finite number of seconds, 0 or more")
    return float(drain)

"""Give a call up when it takes too long.

Async code is cancelled (on asyncio exactly as `asyncio.timeout` does it, on trio by a cancel scope). Blocking code
cannot be interrupted in Python: it gets a deadline that retries, queue waits and clients obey, and a call that returns
late returns its result; `thread=True` runs it in a thread that can be abandoned.
"""

from __future__ import annotations

import contextvars
import threading
from collections.abc import Awaitable, Callable
from typing import Any, ClassVar

from attrs import define, field, setters

from resilience_core import _validation as check
from resilience_core._errors import BulkheadFullError, ConfigurationError, RejectionReason, TimeoutExceeded
from resilience_core._events import TimeoutExpired
from resilience_core._validation import to_seconds
from resilience_core._weave.deadline import DEADLINE, shortened
from resilience_core._weave.edge import Policy
from resilience_core._weave.site import Args, AsyncCall, Call, Kind, Kwargs, Site
from resilience_core._weave.streams import AsyncStream
from resilience_core._weave.waiting import ThreadWaiter


@define(eq=False, on_setattr=setters.frozen)
class Timeout(Policy):
    """Raises `TimeoutExceeded` (also a built-in `TimeoutError`) when a call takes longer than `seconds`.

    Whether the call was carried out is unknown then, so policies around judge it `UNKNOWN`. Everything inside sees
    the deadline through `remaining()`; an outer deadline that is nearer stays.

    Args:
        seconds: how long the call may take (seconds or timedelta). For a stream: until its first item.
        name: identifies the policy; default the pipeline's name is told in errors.
        thread: run a blocking call in a thread of its own, so that its caller can be answered in time. The thread
            itself cannot be stopped: it is abandoned, and counted until it ends.
        max_abandoned: abandoned threads at which further calls are rejected with `BulkheadFullError`.
        per_item: limit each further item of an async stream to `seconds`, too.
    """

    kind: ClassVar[str] = "timeout"

    seconds: float = field(converter=to_seconds, validator=check.positive_seconds)
    name: str = field(default="timeout", kw_only=True, validator=check.name)
    thread: bool = field(default=False, kw_only=True, validator=check.boolean)
    max_abandoned: int = field(default=16, kw_only=True, validator=check.count_from(1))
    per_item: bool = field(default=False, kw_only=True, validator=check.boolean)
    _expirations: int = field(init=False, repr=False, default=0, on_setattr=setters.NO_OP)
    _abandoned: list[None] = field(init=False, repr=False, factory=list)

    def snapshot(self) -> dict[str, Any]:
        """Calls given up so far, and threads that were abandoned and still run."""
        return {"seconds": self.seconds, "expired": self._expirations, "abandoned_threads": len(self._abandoned)}

    def _sentence(self) -> str:
        where = ", in a thread" if self.thread else ""
        return f"timeout: gives the call up after {self.seconds:g} s{where}"

    def _expired(self, site: Site, seconds: float, repeated: bool) -> TimeoutExceeded:
        self._expirations += 1
        if self.bus.hears(TimeoutExpired):
            scope = "attempt" if repeated else "total"
            self.bus.emit(TimeoutExpired(self.name, self.clock.now(), site.operation, seconds, scope))
        return TimeoutExceeded(site.pipeline if self.name == self.kind else self.name, seconds)

    def bind(self, call: Call, site: Site) -> Call:
        """Set the deadline around a blocking call, or run it in a thread."""
        site.inner_timeout = self.seconds
        if self.per_item:
            raise ConfigurationError("Timeout: per_item needs an async stream; a blocking step cannot be interrupted")
        if self.thread:
            if site.streaming:
                raise TypeError(f"Timeout: thread=True cannot guard the generator {site.operation}")
            call = self._in_thread(call, site)
        clock, seconds = self.clock, self.seconds

        def guarded(args: Args, kwargs: Kwargs) -> Any:
            token = DEADLINE.set(shortened(seconds, clock))
            try:
                return call(args, kwargs)
            finally:
                DEADLINE.reset(token)

        return guarded

    def bind_async(self, call: AsyncCall, site: Site) -> AsyncCall:
        """Cancel an async call that takes too long."""
        if self.thread:
            raise ConfigurationError("Timeout: thread=True is for blocking functions; async ones are cancelled")
        if self.per_item and site.kind is not Kind.ASYNC_STREAM:
            raise ConfigurationError(f"Timeout: per_item needs an async stream, and {site.operation} is none")
        site.inner_timeout = self.seconds
        limited = self._limited(call, site)
        if not self.per_item:
            return limited
        step = self._limited(lambda fetch, _: fetch(), site)

        async def opened(args: Args, kwargs: Kwargs) -> Any:
            stream: AsyncStream = await limited(args, kwargs)
            stream.wrap_steps(lambda fetch: step(fetch, None))
            return stream

        return opened

    def _limited(self, start: Callable[[Any, Any], Awaitable[Any]], site: Site) -> Callable[[Any, Any], Awaitable[Any]]:
        """`start`, awaited for at most `seconds` in whichever event loop runs."""
        clock, seconds, expired, repeated = self.clock, self.seconds, self._expired, site.repeated

        async def in_asyncio(loop: AbstractEventLoop, first: Any, second: Any) -> Any:
            expiry = expiry_in(loop)
            entry = expiry.enter(loop)
            token = DEADLINE.set(shortened(seconds, clock))
            try:
                result = await start(first, second)
            except CancelledError as error:
                if expiry.leave(entry, True):
                    raise expired(site, seconds, repeated) from error
                raise
            except BaseException:
                expiry.leave(entry, False)
                raise
            finally:
                DEADLINE.reset(token)
            expiry.leave(entry, False)  # a call that swallowed our cancellation returns its result
            return result

        async def in_trio(first: Any, second: Any) -> Any:
            import trio

            token = DEADLINE.set(shortened(seconds, clock))
            try:
                with trio.move_on_after(seconds) as scope:
                    return await start(first, second)
            finally:
                DEADLINE.reset(token)
            assert scope.cancelled_caught
            raise expired(site, seconds, repeated)

        def limited(first: Any, second: Any) -> Awaitable[Any]:
            loop = _get_running_loop()
            return in_trio(first, second) if loop is None else in_asyncio(loop, first, second)

        # Here, not above: importing asyncio takes as long as all of this package, and only async code needs it.
        from asyncio import AbstractEventLoop, CancelledError, _get_running_loop

        from resilience_core._weave.expiry import expiry_finder

        expiry_in = expiry_finder(seconds)
        return limited

    def _in_thread(self, call: Call, site: Site) -> Call:
        seconds, repeated = self.seconds, site.repeated

        def guarded(args: Args, kwargs: Kwargs) -> Any:
            if len(self._abandoned) >= self.max_abandoned:
                inputs = {"kind": self.kind, "abandoned": len(self._abandoned)}
                raise BulkheadFullError(self.name, RejectionReason.BULKHEAD_FULL, inputs=inputs)
            worker = _Worker(call, args, kwargs, self._abandoned)
            return worker.result(seconds, lambda: self._expired(site, seconds, repeated))

        return guarded


class _Worker:
    """One blocking call in a thread of its own, which its caller may abandon."""

    def __init__(self, call: Call, args: Args, kwargs: Kwargs, abandoned: list[None]) -> None:
        self._waiter = ThreadWaiter()
        self._abandoned = abandoned
        self._lock = threading.Lock()
        self._done = False
        self._left = False
        self._value: Any = None
        self._error: BaseException | None = None
        context = contextvars.copy_context()
        thread = threading.Thread(
            target=context.run, args=(self._run, call, args, kwargs), name="resilience-timeout", daemon=True
        )
        thread.start()

    def _run(self, call: Call, args: Args, kwargs: Kwargs) -> None:
        try:
            self._value = call(args, kwargs)
        except BaseException as error:
            self._error = error
        with self._lock:
            self._done = True
            if self._left:
                del self._abandoned[-1]
        self._waiter.wake()

    def result(self, seconds: float, expired: Callable[[], TimeoutExceeded]) -> Any:
        try:
            self._waiter.wait(seconds)
        finally:  # also when the caller is interrupted
            with self._lock:
                if not self._done:
                    self._left = True
                    self._abandoned.append(None)
        if self._left:
            raise expired()
        if self._error is not None:
            try:
                raise self._error
            finally:
                self._error = None  # else error -> traceback -> this frame -> self -> error
        return self._value

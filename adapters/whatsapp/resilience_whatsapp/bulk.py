"""Many messages: so many at a time, one row after the other, and all that go out slow down or stop together.

    a row ends in                                          what happens
    -----------------------------------------------------  --------------------------------------------------------
    accepted, kept by an outbox for later, or an error     a result; the next row is begun
     of this row alone
    a limit of the number, account or app (not of a pair)  all wait, and the row is sent again; then one at a time,
                                                            one more with each row that ends well
    the open circuit                                       `when_open="stop"`: no more rows are begun, those under way
                                                            end, and the error is raised. "wait": as for a limit
    a refused token, policy or sender; a limit for hours;   no wait cures it: as "stop"
    a service that is closed, a deadline that has passed

A row is sent again only if it surely was not sent: a record that says `unknown` is a result. So no row is lost, and
none is sent twice, whatever the delivery; within one send its delivery decides, as always.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable, Coroutine, Iterable, Iterator
from datetime import datetime
from types import TracebackType
from typing import Any, Literal, TypeAlias, TypeVar, get_args

from anyio import CancelScope
from attrs import evolve, field, frozen

from resilience_core import CallRejected, CircuitOpenError, Clock, ConfigurationError, DeadlineExceeded
from resilience_whatsapp._delivery import name_of_error
from resilience_whatsapp._error_table import ErrorClass, RetryAdvice
from resilience_whatsapp.errors import GraphError, GraphThrottledError, ServiceClosedError
from resilience_whatsapp.gates import GateClosedError
from resilience_whatsapp.messages import Message, Recipient
from resilience_whatsapp.outbox._options import OutboxOptions
from resilience_whatsapp.records import DELIVERY_RANK, Delivery, MessageRecord, MessageStatus, mask_recipient

__all__ = ["BulkProgress", "BulkSend", "Outgoing", "SendResult", "WhenOpen"]

WhenOpen: TypeAlias = Literal["stop", "wait"]
_NOT_SENT = (MessageStatus.REJECTED, MessageStatus.FAILED)
_COUNTED = {
    MessageStatus.UNKNOWN: "unknown",
    MessageStatus.QUEUED: "queued",
    MessageStatus.IN_FLIGHT: "queued",
}
_ONE_ROW = ("pair", "message", "recipient", "template", "flow", "group", "request")
_SOME_ROWS = ("templates", "marketing")  # of gates
_INCURABLE = (ErrorClass.AUTH, ErrorClass.POLICY, ErrorClass.SENDER)
_FOR_HOURS = (RetryAdvice.WAIT_HOURS, RetryAdvice.LIFTED, RetryAdvice.REVIEW)
_FIRST_WAIT, _LONGEST_WAIT = 1.0, 60.0
"""Seconds, where nobody tells how long: 1, 2, 4, ... 60."""


@frozen
class Outgoing:
    """One row: a message to one recipient; the arguments of `WhatsAppService.send`, those of an outbox included.

    A row with `when_down="queue"` never holds up the others: what cannot be sent now is kept by the outbox, and its
    result says `queued`. What `send_many(when_open=...)` says is for the other rows.
    """

    user: Any = field(repr=False)
    recipient: str | Recipient = field(repr=lambda value: mask_recipient(value) if isinstance(value, str) else "...")
    message: Message
    reply_to: str | None = field(default=None, kw_only=True)
    delivery: Delivery | None = field(default=None, kw_only=True)
    opaque_data: str | None = field(default=None, kw_only=True, repr=False)
    idempotency_key: str | None = field(default=None, kw_only=True, repr=False)
    when_down: Literal["raise", "queue"] | None = field(default=None, kw_only=True)
    not_after: float | datetime | None = field(default=None, kw_only=True)
    priority: int | None = field(default=None, kw_only=True)
    ordered: bool | None = field(default=None, kw_only=True)

    def keeping(self) -> OutboxOptions:
        """The options of an outbox that are given."""
        given: OutboxOptions = {}
        if self.idempotency_key is not None:
            given["idempotency_key"] = self.idempotency_key
        if self.when_down is not None:
            given["when_down"] = self.when_down
        if self.not_after is not None:
            given["not_after"] = self.not_after
        if self.priority is not None:
            given["priority"] = self.priority
        if self.ordered is not None:
            given["ordered"] = self.ordered
        return given


@frozen
class SendResult:
    """How one row ended."""

    index: int
    """Which row, counted from 0."""
    outgoing: Outgoing
    record: MessageRecord | None
    """None for a row that is no message: no request was made."""
    error: BaseException | None
    """None for one that the API accepted, or that the outbox has kept."""

    @property
    def status(self) -> MessageStatus:
        """As the record tells; `rejected` without one."""
        return MessageStatus.REJECTED if self.record is None else self.record.status


@frozen
class BulkProgress:
    """How far it is."""

    begun: int = 0
    """Rows that were read."""
    accepted: int = 0
    queued: int = 0
    """Rows that the outbox has kept, and sends later."""
    failed: int = 0
    """Rows that surely were not sent."""
    unknown: int = 0
    """Rows of which it is not known whether they were sent."""
    resent: int = 0
    """Times that a row was sent again after a limit or an open circuit; it had surely not been sent."""

    @property
    def done(self) -> int:
        """Rows that ended."""
        return self.accepted + self.queued + self.failed + self.unknown


Progress: TypeAlias = Callable[[BulkProgress], object]
Send: TypeAlias = Callable[[Outgoing], Awaitable[MessageRecord]]
_Row: TypeAlias = tuple[int, Outgoing]
_End: TypeAlias = tuple[MessageRecord | None, BaseException | None]
T = TypeVar("T")


class BulkSend:
    """Rows on their way; iterate over it to send them and to get a `SendResult` for each, as they end.

    Made by `WhatsAppService.send_many`. Rows are read as there is room, and only while somebody waits for a result: who
    takes results slowly slows it down, and at most `concurrency` rows and results are held. Leaving the loop begins no
    more rows; `aclose()` (or `async with`) waits for those under way. Cancelling the loop cuts them short.
    What was sent is told by the results that were handed out, and after that by `leftover`.

    Raises (from the loop, after the results of all rows that were begun):
        CircuitOpenError, GraphError, ServiceClosedError: why it stopped; rows that were not read were not sent.
        Any error of the iterable that gives the rows.
    """

    def __init__(
        self,
        send: Send,
        rows: Iterable[Outgoing] | AsyncIterable[Outgoing] | None,
        *,
        concurrency: int,
        when_open: WhenOpen,
        wait_at_most: float,
        progress: Progress | None,
        clock: Clock,
        logger: logging.Logger,
    ) -> None:
        _check("concurrency", type(concurrency) is int and 1 <= concurrency <= 10_000, "a whole number, 1 to 10,000")
        _check("when_open", when_open in get_args(WhenOpen), f"one of {', '.join(get_args(WhenOpen))}")
        _check("wait_at_most", _is_time(wait_at_most), "a finite number of seconds")
        _check("progress", progress is None or callable(progress), "a function")
        self.progress = BulkProgress()
        self.leftover: tuple[SendResult, ...] = ()
        """Results that nobody took, once it was cut short or closed."""
        self._send = send
        self._rows = None if rows is None else _iterator(rows)  # None: they are handed over, see `step`
        self._concurrency = self._room = concurrency
        self._waits = when_open == "wait"
        self._wait_at_most = wait_at_most
        self._tell = progress
        self._clock = clock
        self._logger = logger
        self._running: dict[asyncio.Future[_End], _Row] = {}
        self._reading: asyncio.Future[Outgoing] | None = None
        self._pausing: asyncio.Future[None] | None = None
        self._news: deque[asyncio.Future[Any]] = deque()  # of the three above: what has ended
        self._bell = asyncio.Event()
        self._again: deque[tuple[_Row, _End]] = deque()
        self._results: deque[SendResult] = deque()
        self._over = False  # no more rows are read
        self._stopped: BaseException | None = None
        self._pauses = 0  # in a row, without a success
        self._waited = 0.0
        self._progress_failed = False

    def __aiter__(self) -> AsyncIterator[SendResult]:
        return self

    async def __anext__(self) -> SendResult:
        try:
            while not self._results:
                self._begin()
                if self._idle:
                    self._end()
                    raise StopAsyncIteration
                await self._listen()
        except asyncio.CancelledError:
            await self._cut()
            raise
        return self._results.popleft()

    async def step(self, rows: deque[Outgoing], over: bool) -> tuple[SendResult | None, int] | None:
        """For rows that are handed over instead of read from here: take them, and give a result if there is one, and
        for how many more rows there is room; None when all is done. Not for applications.
        """
        try:
            self._over = self._over or over
            while rows:
                self._took(rows.popleft())
            self._begin()
            while not self._results and not self._wanted():
                if self._idle:
                    self._end()
                    return None
                await self._listen()
                self._begin()
        except asyncio.CancelledError:
            await self._cut()
            raise
        result = self._results.popleft() if self._results else None
        return result, self._wanted()

    def _wanted(self) -> int:
        return 0 if self._over or self._pausing is not None else max(0, self._room - self._held)

    async def aclose(self, rows: Iterable[Outgoing] = ()) -> None:
        """Begin no more rows, and wait for those under way; their results are in `leftover`. Idempotent.

        `rows` are some that were read elsewhere and are not sent: they become results, too. Not for applications.
        """
        self._over = True
        self._stopped = self._stopped or _ended_error()
        self._forget_waits()
        for row in rows:
            self._not_begun(row)
        try:
            while self._running:
                await self._listen()
        except asyncio.CancelledError:
            await self._cut()
            raise
        self._leave()

    async def __aenter__(self) -> BulkSend:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.aclose()

    # --- beginning ---------------------------------------------------------------------------------------------------

    @property
    def _held(self) -> int:
        return len(self._running) + len(self._results)

    @property
    def _idle(self) -> bool:
        return not self._running and not self._again and self._reading is None and self._pausing is None

    def _begin(self) -> None:
        """Begin as many rows as there is room for."""
        while self._pausing is None and self._held < self._room:
            if self._again:
                self.progress = evolve(self.progress, resent=self.progress.resent + 1)
                self._start(self._again.popleft()[0])
            elif self._over or self._reading is not None or self._rows is None:
                return
            elif isinstance(self._rows, AsyncIterator):
                self._reading = self._watched(_next(self._rows))
            else:
                self._read(self._rows.__next__)

    def _read(self, take: Callable[[], Outgoing]) -> None:
        try:
            row = take()
        except (StopIteration, StopAsyncIteration):
            self._over = True
        except Exception as error:
            self._over = True
            self._stopped = self._stopped or error
        else:
            self._took(row)

    def _took(self, row: Outgoing) -> None:
        index = self.progress.begun
        self.progress = evolve(self.progress, begun=index + 1)
        self._start((index, row))

    def _start(self, row: _Row) -> None:
        self._running[self._watched(self._send_row(row[1]))] = row

    async def _send_row(self, row: Outgoing) -> _End:
        try:
            if not isinstance(row, Outgoing):
                raise ConfigurationError(f"send_many: each row must be an Outgoing, not a {type(row).__name__}")
            return await self._send(row), None
        except (Exception, asyncio.CancelledError) as error:  # who cuts it short wants to know what became of it
            return getattr(error, "record", None), error

    def _watched(self, what: Coroutine[Any, Any, T]) -> asyncio.Future[T]:
        # Not asyncio.wait, which looks at all that are under way for each one that ends.
        task = asyncio.ensure_future(what)
        task.add_done_callback(self._heard)
        return task

    def _heard(self, what: asyncio.Future[Any]) -> None:
        self._news.append(what)
        self._bell.set()

    async def _listen(self) -> None:
        await self._bell.wait()
        self._bell.clear()
        while self._news:
            self._ended(self._news.popleft())

    # --- ending ------------------------------------------------------------------------------------------------------

    def _ended(self, what: asyncio.Future[Any]) -> None:
        if what is self._reading:
            self._reading = None
            self._read(what.result)
        elif what is self._pausing:
            self._pausing = None
        elif what in self._running:
            row = self._running.pop(what)
            self._row_ended(row, (None, asyncio.CancelledError()) if what.cancelled() else what.result())

    def _row_ended(self, row: _Row, end: _End) -> None:
        record, error = end
        if error is None:
            if record is None or record.status not in DELIVERY_RANK:  # kept by an outbox: it says nothing of limits
                return self._result(row, end)
            self._pauses, self._waited = 0, 0.0
            self._room = min(self._concurrency, self._room + 1)
            return self._result(row, end)
        held = None if self._stopped is not None else _held_up(error)
        if held is None:
            return self._result(row, end)
        if held == "stop" or (held == "down" and not self._waits) or not self._pause(error):
            self._stop(error)
        elif record is None or record.status in _NOT_SENT:
            return self._again.append((row, end))
        return self._result(row, end)

    def _pause(self, error: BaseException) -> bool:
        """Hold all rows for a time, and then begin with one; False when it has waited long enough."""
        self._room = 1
        if self._pausing is not None:
            return True
        told = error.wait if isinstance(error, GraphError) else getattr(error, "retry_after", None)
        grown = min(_LONGEST_WAIT, _FIRST_WAIT * 2.0 ** min(self._pauses, 16))
        seconds = grown if told is None else max(0.0, told)
        if self._waited + seconds > self._wait_at_most:
            return False
        self._pauses += 1
        self._waited += seconds
        self._pausing = self._watched(_slept(self._clock, seconds))
        return True

    def _stop(self, error: BaseException) -> None:
        self._stopped = error
        self._over = True
        self._forget_waits()

    def _result(self, row: _Row, end: _End) -> None:
        result = SendResult(*row, *end)
        # With a key that is known, the status is that of the first send, and whatever webhooks have told of it since.
        name = "accepted" if result.status in DELIVERY_RANK else _COUNTED.get(result.status, "failed")
        self.progress = evolve(self.progress, **{name: getattr(self.progress, name) + 1})
        self._results.append(result)
        if self._tell is None:
            return
        try:
            self._tell(self.progress)
        except Exception as trouble:
            if not self._progress_failed:  # one line for a million rows
                self._progress_failed = True
                self._logger.warning("The progress callback failed", extra={"error": name_of_error(trouble)})

    def _end(self) -> None:
        stopped, self._stopped = self._stopped, None
        if stopped is not None:
            raise stopped

    # --- cutting short -----------------------------------------------------------------------------------------------

    async def _cut(self) -> None:
        self._over = True
        self._stopped = self._stopped or _ended_error()
        self._forget_waits()
        for task in self._running:
            task.cancel()
        if self._running:
            with CancelScope(shield=True):  # a scope of anyio cancels every wait within it, this one included
                await asyncio.wait(self._running)
        for task in list(self._running):
            self._ended(task)
        self._leave()

    def _forget_waits(self) -> None:
        """End all that is waited for; rows that were read and are not under way become results."""
        if self._pausing is not None:
            self._pausing.cancel()
        reading, self._reading, self._pausing = self._reading, None, None
        if reading is not None and not reading.cancel() and not reading.cancelled() and reading.exception() is None:
            self._not_begun(reading.result())
        while self._again:
            self._result(*self._again.popleft())

    def _not_begun(self, row: Outgoing) -> None:
        index = self.progress.begun
        self.progress = evolve(self.progress, begun=index + 1)
        self._result((index, row), (None, self._stopped))

    def _leave(self) -> None:
        self.leftover += tuple(self._results)
        self._results.clear()
        self._stopped = None


def _ended_error() -> ServiceClosedError:
    return ServiceClosedError("no more rows are sent: this was closed or cut short")


async def _slept(clock: Clock, seconds: float) -> None:
    await clock.async_sleep(seconds)


def _held_up(error: BaseException) -> Literal["limit", "down", "stop"] | None:
    """Whether the rows after this one would meet the same."""
    if isinstance(error, CircuitOpenError):
        return "down"
    if isinstance(error, (ServiceClosedError, DeadlineExceeded)):
        return "stop"
    if isinstance(error, GateClosedError) and (error.scope in _ONE_ROW or error.scope in _SOME_ROWS):
        return None
    if isinstance(error, GateClosedError) and (error.latched or error.scope == "permission"):
        return "stop"
    if isinstance(error, CallRejected):
        return "limit"
    if isinstance(error, GraphThrottledError):
        if error.scope in _ONE_ROW:
            return None
        return "stop" if error.advice in _FOR_HOURS else "limit"
    return "stop" if isinstance(error, GraphError) and error.error_class in _INCURABLE else None


def _check(name: str, good: bool, expected: str) -> None:
    if not good:
        raise ConfigurationError(f"send_many: {name} must be {expected}")


def _is_time(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value < float("inf")


def _iterator(rows: Any) -> Iterator[Outgoing] | AsyncIterator[Outgoing]:
    if isinstance(rows, AsyncIterable):
        return aiter(rows)
    """An iterator over the rows.

    Raises:
        ConfigurationError: they are not iterable.
    """
    _check("messages", isinstance(rows, Iterable), "an iterable, or an async one, of Outgoing")
    found: Iterator[Outgoing] = iter(rows)
    return found


async def _next(rows: AsyncIterator[Outgoing]) -> Outgoing:
    return await anext(rows)

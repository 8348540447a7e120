"""Guarded generators: "open and fetch the first item" is the call, and the gates stay with the stream until it ends.

Retry and fallback are woven around the opening unchanged, so a retry re-opens only before the first item was handed
out. A gate hangs its `settle` on the stream: it runs when the stream is exhausted, fails, or is closed by its consumer
(which is a success: the items that were asked for came), and before any clean-up of the generator is awaited.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Generator, Iterable
from typing import Any, Protocol, TypeAlias

from resilience_core._weave.site import Args, AsyncCall, Call, Kwargs

Settler: TypeAlias = Callable[[BaseException | None], None]
"""Told once how the stream ended: None for well."""
Step: TypeAlias = Callable[[Callable[[], Awaitable[Any]]], Awaitable[Any]]
"""Wraps the fetching of each further item, as `Timeout(per_item=True)` does."""


class AnyStream(Protocol):
    """What gates see of a stream."""

    def on_end(self, settle: Settler) -> None: ...


class _Ending:
    """The settlers of a stream; they run once, inner gates first."""

    __slots__ = ("_settlers", "ended")

    def __init__(self) -> None:
        self._settlers: list[Settler] = []
        self.ended = False

    def on_end(self, settle: Settler) -> None:
        self._settlers.append(settle)

    def end(self, error: BaseException | None) -> None:
        settlers, self._settlers = self._settlers, []
        self.ended = True
        for settle in settlers:
            settle(error)

    def end_thrown(self, error: BaseException, thrown: BaseException) -> None:
        # What the consumer threw in and gets back says nothing about the dependency.
        self.end(GeneratorExit() if error is thrown else error)


_NOTHING = object()


class Stream(_Ending):
    """An open generator whose first item is already here. Speaks the generator protocol, for `yield from`."""

    __slots__ = ("_first", "_generator", "_stop")

    def __init__(self, generator: Generator[Any, Any, Any]) -> None:
        super().__init__()
        self._generator = generator
        self._first: Any = _NOTHING
        self._stop: StopIteration | None = None
        try:
            self._first = next(generator)
        except StopIteration as stop:
            self._stop = stop

    def __iter__(self) -> Stream:
        return self

    def __next__(self) -> Any:
        return self.send(None)

    def send(self, value: Any) -> Any:
        """The next item."""
        if self._first is not _NOTHING:
            first, self._first = self._first, _NOTHING
            return first
        if self._stop is not None:
            self.end(None)
            raise StopIteration(self._stop.value)
        try:
            return self._generator.send(value)
        except StopIteration:
            self.end(None)
            raise
        except BaseException as error:
            self.end(error)
            raise

    def throw(self, thrown: BaseException) -> Any:
        """Raise `thrown` where the generator stands."""
        try:
            return self._generator.throw(thrown)
        except StopIteration:
            self.end(None)
            raise
        except BaseException as error:
            self.end_thrown(error, thrown)
            raise

    def close(self) -> None:
        """The consumer wants no more."""
        self.end(None)
        self._generator.close()


END = object()
"""What an `AsyncStream` answers instead of an item when there is none left."""


class AsyncStream(_Ending):
    """An open async generator whose first item is already here, or `END`."""

    __slots__ = ("_generator", "_step", "first")

    def __init__(self, generator: AsyncGenerator[Any, Any]) -> None:
        super().__init__()
        self._generator = generator
        self._step: Step | None = None
        self.first: Any = END

    async def open(self) -> AsyncStream:
        """Fetch the first item."""
        try:
            self.first = await anext(self._generator)
        except StopAsyncIteration:
            self.first = END
        return self

    def wrap_steps(self, step: Step) -> None:
        """Fetch every further item through `step`; the last one given is the outermost."""
        inner = self._step
        self._step = step if inner is None else lambda fetch: step(lambda: inner(fetch))

    async def send(self, value: Any) -> Any:
        """The next item, or `END`."""
        try:
            if self._step is None:
                return await self._generator.asend(value)
            return await self._step(lambda: self._generator.asend(value))
        except StopAsyncIteration:
            self.end(None)
            return END
        except BaseException as error:
            self.end(error)
            raise

    async def throw(self, thrown: BaseException) -> Any:
        """Raise `thrown` where the generator stands; the next item, or `END`."""
        try:
            return await self._generator.athrow(thrown)
        except StopAsyncIteration:
            self.end(None)
            return END
        except BaseException as error:
            self.end_thrown(error, thrown)
            raise

    async def close(self) -> None:
        """The consumer wants no more. Gates learn it first: the clean-up may take long, or be cancelled."""
        self.end(None)
        await self._generator.aclose()


def opening(fn: Callable[..., Any]) -> Call:
    """The innermost call of a guarded generator function."""

    def call(args: Args, kwargs: Kwargs) -> Stream:
        return Stream(fn(*args, **kwargs))

    return call


def opening_async(fn: Callable[..., Any]) -> AsyncCall:
    """The innermost call of a guarded async generator function."""

    def call(args: Args, kwargs: Kwargs) -> Awaitable[AsyncStream]:
        return AsyncStream(fn(*args, **kwargs)).open()

    return call


def stream_of(values: Iterable[Any]) -> Stream:
    """A stream of what an iterable yields, for fallbacks."""

    def generate() -> Generator[Any, Any, Any]:
        yield from values

    return Stream(generate())


async def async_stream_of(values: AsyncIterator[Any] | Iterable[Any]) -> AsyncStream:
    """The same for async code; takes both kinds of iterables."""

    async def generate() -> AsyncGenerator[Any, Any]:
        if isinstance(values, Iterable):
            for value in values:
                yield value
        else:
            async for value in values:
                yield value

    return await AsyncStream(generate()).open()


def stream_edge(call: Call, tell: Callable[[Exception], None] | None) -> Callable[..., Generator[Any, Any, Any]]:
    """What the caller of a guarded generator function calls: a generator function itself.

    `tell` learns of what the caller gets instead of an item.
    """

    def wrapper(*args: Any, **kwargs: Any) -> Generator[Any, Any, Any]:
        try:
            return (yield from call(args, kwargs))
        except Exception as error:
            if tell is not None:
                tell(error)
            raise

    return wrapper


def async_stream_edge(
    call: AsyncCall, tell: Callable[[Exception], None] | None
) -> Callable[..., AsyncGenerator[Any, Any]]:
    """What the caller of a guarded async generator function calls: an async generator function itself.

    `tell` learns of what the caller gets instead of an item.
    """

    async def wrapper(*args: Any, **kwargs: Any) -> AsyncGenerator[Any, Any]:
        try:
            stream: AsyncStream = await call(args, kwargs)
            item = stream.first
            if item is END:
                stream.end(None)
            while item is not END:
                try:
                    sent = yield item
                except GeneratorExit:
                    await stream.close()
                    raise
                except BaseException as error:
                    item = await stream.throw(error)
                else:
                    item = await stream.send(sent)
        except Exception as error:
            if tell is not None:
                tell(error)
            raise

    return wrapper

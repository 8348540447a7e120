"""Answer something else when the call fails."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable
from typing import Any, ClassVar

from attrs import define, field, setters

from resilience_core import _validation as check
from resilience_core._errors import ConfigurationError
from resilience_core._events import FallbackUsed
from resilience_core._story import end_story, follow, story_of
from resilience_core._telemetry import note_degraded
from resilience_core._verdicts import BadResult, On
from resilience_core._weave.edge import Policy
from resilience_core._weave.site import Args, AsyncCall, Call, Kind, Kwargs, Site, kind_of
from resilience_core._weave.streams import async_stream_of, stream_of

_NOT_GIVEN: Any = object()


@define(eq=False, on_setattr=setters.frozen)
class Fallback(Policy):
    """Replaces a failure by a value, or by what another function answers to the same arguments.

    Args:
        name: identifies the policy in events and metrics.
        value: what to answer; for a stream, an iterable of items.
        call: called with the arguments of the failed call; inside it `sys.exception()` is the error. For async code it
            may be async or not; for a stream it is a generator function of the same kind.
        on: failures to replace (class, tuple or predicate); default every `Exception`, rejections by the policies
            inside included, and every result that was judged bad.

    Raises:
        ConfigurationError: not exactly one of `value` and `call` is given.
    """

    kind: ClassVar[str] = "fallback"

    name: str = field(default="fallback", validator=check.name)
    value: Any = field(default=_NOT_GIVEN, kw_only=True, repr=False)
    replacement: Callable[..., Any] | None = field(
        default=None, kw_only=True, alias="call", validator=check.optional(check.function)
    )
    on: On | None = field(default=None, kw_only=True, validator=check.optional(check.on))
    _used: int = field(init=False, repr=False, default=0, on_setattr=setters.NO_OP)

    def snapshot(self) -> dict[str, Any]:
        """Failures replaced so far."""
        return {"used": self._used}

    def _validate(self) -> None:
        if (self.value is _NOT_GIVEN) is (self.replacement is None):
            raise ConfigurationError("Fallback: give exactly one of value= and call=")

    def _sentence(self) -> str:
        if self.replacement is None:
            return "fallback: answers a fixed value"
        return f"fallback: calls {getattr(self.replacement, '__qualname__', 'a function')}"

    def _replaces(self) -> Callable[[Exception], bool]:
        on = self.on
        if on is None:
            return lambda error: True
        if isinstance(on, (type, tuple)):
            return lambda error: isinstance(error, on)
        return lambda error: not isinstance(error, BadResult) and on(error)

    def _tell(self, error: Exception, operation: str) -> None:
        self._used += 1
        note_degraded()
        if self.bus.hears(FallbackUsed):
            used = "value" if self.replacement is None else "call"
            self.bus.emit(FallbackUsed(self.name, self.clock.now(), operation, used, error))

    def _hand_on(self, error: Exception, second: Exception, operation: str) -> None:
        """Let the story of what was to be replaced go on with that of the replacement's own failure."""
        at = self.clock.wall()
        story = story_of(error, at, self.kind, self.name, operation)
        follow(story, second, at, self.kind, self.name, operation)

    def _journal(self, error: Exception, site: Site) -> None:
        if site.journal is not None:
            at, used = self.clock.wall(), "value" if self.replacement is None else "call"
            story = story_of(error, at, self.kind, self.name, site.operation)
            site.journal.answered(story, site.operation, (at, self.kind, self.name, site.operation, "replaced", used))
        end_story(error)

    def bind(self, call: Call, site: Site) -> Call:
        """Weave the fallback around a blocking call."""
        replaces, tell, operation = self._replaces(), self._tell, site.operation
        answer = self._answer(site)

        def guarded(args: Args, kwargs: Kwargs) -> Any:
            try:
                return call(args, kwargs)
            except Exception as error:
                if not replaces(error):
                    raise
                try:
                    result = answer(args, kwargs)
                except Exception as second:
                    self._hand_on(error, second, operation)
                    raise
                tell(error, operation)
                self._journal(error, site)
                return result

        return guarded

    def bind_async(self, call: AsyncCall, site: Site) -> AsyncCall:
        """Weave the fallback around an async call."""
        replaces, tell, operation = self._replaces(), self._tell, site.operation
        answer = self._answer_async(site)

        async def guarded(args: Args, kwargs: Kwargs) -> Any:
            try:
                return await call(args, kwargs)
            except Exception as error:
                if not replaces(error):
                    raise
                try:
                    result = await answer(args, kwargs)
                except Exception as second:
                    self._hand_on(error, second, operation)
                    raise
                tell(error, operation)
                self._journal(error, site)
                return result

        return guarded

    def _answer(self, site: Site) -> Call:
        replacement, value, arguments, streaming = self.replacement, self.value, site.arguments, site.streaming
        if replacement is not None and kind_of(replacement) in (Kind.ASYNC, Kind.ASYNC_STREAM):
            raise TypeError(f"Fallback: call= is async and {site.operation} is not; give a blocking function")

        def answer(args: Args, kwargs: Kwargs) -> Any:
            if replacement is None:
                return stream_of(value) if streaming else value
            own, named = arguments(args, kwargs)
            result = replacement(*own, **named)
            return stream_of(result) if streaming else result

        return answer

    def _answer_async(self, site: Site) -> Callable[[Args, Kwargs], Awaitable[Any]]:
        replacement, value, arguments, streaming = self.replacement, self.value, site.arguments, site.streaming

        async def answer(args: Args, kwargs: Kwargs) -> Any:
            if replacement is None:
                return await async_stream_of(value) if streaming else value
            own, named = arguments(args, kwargs)
            result = replacement(*own, **named)
            if inspect.isawaitable(result):
                result = await result
            return await async_stream_of(result) if streaming else result

        return answer

"""Gates: policies that decide at the door and learn at the exit, written once for all worlds.

A permit that `enter` gave ends in exactly one `settle`, whatever ends the call; a block is guarded with
`with gate.guard():` or `async with gate.guard():`, a stream until its end.
"""

from __future__ import annotations

from abc import abstractmethod
from types import TracebackType
from typing import Any

from attrs import define, setters

from resilience_core._verdicts import Judge, Judgement, Verdict, count_every_error
from resilience_core._weave.edge import Policy
from resilience_core._weave.site import Args, AsyncCall, Call, Kwargs, Site
from resilience_core._weave.streams import AnyStream

DONE = Judgement(Verdict.SUCCESS)
"""The judgement of every call that returned."""
EVERY_ERROR = Judge(count_every_error)
"""The judge of a gate that neither was given one nor finds one in its pipeline."""


@define(eq=False, on_setattr=setters.frozen)
class Gate(Policy):
    """A policy made of two functions. `enter` must not wait; a gate that waits overrides `enter_async`, too."""

    @abstractmethod
    def enter(self, args: Args, kwargs: Kwargs) -> Any:
        """Admit the call with these arguments (none for a guarded block) and answer a permit.

        Raises:
            CallRejected: it is not admitted.
        """

    async def enter_async(self, args: Args, kwargs: Kwargs) -> Any:
        """The same for async code."""
        return self.enter(args, kwargs)

    @abstractmethod
    def settle(self, permit: Any, judgement: Judgement) -> None:
        """Take the permit back and learn from the outcome. Never waits, never raises."""

    def judge_at(self, site: Site) -> Judge:
        """Who judges the outcomes at `site`: the pipeline's judge, or one for which every exception is a failure."""
        return site.judge or EVERY_ERROR

    def judge_of_blocks(self) -> Judge:
        """Who judges how guarded blocks end."""
        return EVERY_ERROR

    def guard(self) -> Guard:
        """Guard one block of code; the object can be used once at a time."""
        return Guard(self)

    def bind(self, call: Call, site: Site) -> Call:
        """Weave `enter` and `settle` around a blocking call."""
        enter, settle, judge, arguments = self.enter, self.settle, self.judge_at(site), site.arguments
        if site.streaming:
            return stream_gate(self, call, site)

        def guarded(args: Args, kwargs: Kwargs) -> Any:
            permit = enter(*arguments(args, kwargs))
            try:
                result = call(args, kwargs)
            except BaseException as error:
                settle(permit, judge.explained(error))
                raise
            settle(permit, DONE)
            return result

        return guarded

    def bind_async(self, call: AsyncCall, site: Site) -> AsyncCall:
        """Weave `enter_async` and `settle` around an async call."""
        enter, settle, judge, arguments = self.enter_async, self.settle, self.judge_at(site), site.arguments
        if site.streaming:
            return stream_gate_async(self, call, site)

        async def guarded(args: Args, kwargs: Kwargs) -> Any:
            permit = await enter(*arguments(args, kwargs))
            try:
                result = await call(args, kwargs)
            except BaseException as error:
                settle(permit, judge.explained(error))
                raise
            settle(permit, DONE)
            return result

        return guarded


def _hang_on(stream: AnyStream, gate: Gate, permit: Any, judge: Judge) -> None:
    stream.on_end(lambda error: gate.settle(permit, DONE if error is None else judge.explained(error)))


def stream_gate(gate: Gate, call: Call, site: Site) -> Call:
    """Weave a gate around the opening of a stream; it settles when the stream ends."""
    judge, arguments = gate.judge_at(site), site.arguments

    def guarded(args: Args, kwargs: Kwargs) -> Any:
        permit = gate.enter(*arguments(args, kwargs))
        try:
            stream = call(args, kwargs)
        except BaseException as error:
            gate.settle(permit, judge.explained(error))
            raise
        _hang_on(stream, gate, permit, judge)
        return stream

    return guarded


def stream_gate_async(gate: Gate, call: AsyncCall, site: Site) -> AsyncCall:
    """The twin of `stream_gate` for async streams."""
    judge, arguments = gate.judge_at(site), site.arguments

    async def guarded(args: Args, kwargs: Kwargs) -> Any:
        permit = await gate.enter_async(*arguments(args, kwargs))
        try:
            stream = await call(args, kwargs)
        except BaseException as error:
            gate.settle(permit, judge.explained(error))
            raise
        _hang_on(stream, gate, permit, judge)
        return stream

    return guarded


class Guard:
    """One guarded block; works with `with` and with `async with`."""

    __slots__ = ("_gate", "_permit")

    def __init__(self, gate: Gate) -> None:
        self._gate = gate
        self._permit: Any = None

    def __enter__(self) -> None:
        self._permit = self._gate.enter((), {})

    async def __aenter__(self) -> None:
        self._permit = await self._gate.enter_async((), {})

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        permit, self._permit = self._permit, None
        self._gate.settle(permit, DONE if error is None else self._gate.judge_of_blocks().explained(error))

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.__exit__(kind, error, traceback)

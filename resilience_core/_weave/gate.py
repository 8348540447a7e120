"""Gates: policies that decide at the door and learn at the exit, written once for all worlds.

A permit that `enter` gave ends in exactly one `settle`, whatever ends the call; a block is guarded with
`with gate.guard():` or `async with gate.guard():`, a stream until its end.
"""

from __future__ import annotations

from abc import abstractmethod
from types import TracebackType
from typing import Any, ClassVar

from attrs import define, field, setters

from resilience_core import _validation as check
from resilience_core._clock import CHANCE
from resilience_core._errors import CallRejected, RejectionReason
from resilience_core._verdicts import Classifier, Judge, Judgement, On, Verdict, count_every_error, judge_from
from resilience_core._weave.edge import Policy
from resilience_core._weave.rejections import tell_rejection
from resilience_core._weave.site import Args, AsyncCall, Call, Kwargs, Site
from resilience_core._weave.streams import AnyStream

DONE = Judgement(Verdict.SUCCESS)
"""The judgement of every call that returned."""
EVERY_ERROR = Judge(count_every_error)
"""The judge of a gate that neither was given one nor finds one in its pipeline."""
SPARED: Any = object()
"""The permit of a call that was let through in shadow mode."""


@define(eq=False, on_setattr=setters.frozen)
class Gate(Policy):
    """A policy made of two functions. `enter` must not wait; a gate that waits overrides `enter_async`, too.

    Args:
        enforce: share of the rejections that are carried out, 0 to 1. Below 1 the gate is in shadow mode: it judges
            as always, but the other calls that it would have rejected are made all the same, counted as
            `would_reject` in the snapshot and told as a `Rejection` with `enforced=False`.
    """

    stateful: ClassVar[bool] = True
    spares_itself: ClassVar[bool] = False
    """True for gates whose `enter` already lets the calls pass that shadow mode spares."""

    enforce: float = field(default=1.0, kw_only=True, validator=check.ratio)
    spared: int = field(init=False, default=0, repr=False, on_setattr=setters.NO_OP)
    """Calls that were made although the gate would have rejected them."""
    own_judge: Judge | None = field(init=False, default=None, repr=False, on_setattr=setters.NO_OP)
    """What the gate's own `on` or `classify` made; None leaves judging to the pipeline."""

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

    def judge_by(self, on: On | None, classify: Classifier | None) -> None:
        """Let the gate judge for itself, by one of the two; for `_build`."""
        self.own_judge = judge_from(on=on, classify=classify)

    def _adopt(self, other: Any, changed: frozenset[str]) -> None:
        self.own_judge = other.own_judge

    def judge_at(self, site: Site) -> Judge:
        """Who judges the outcomes at `site`: the gate's own judge, else the pipeline's, else any error is a failure."""
        return self.own_judge or site.judge or EVERY_ERROR

    def judge_of_blocks(self) -> Judge:
        """Who judges how guarded blocks end: the gate's own judge, else any error is a failure."""
        return self.own_judge or EVERY_ERROR

    def spares(self, reason: RejectionReason, operation: str, retry_after: float | None = None) -> bool:
        """Whether a call that is to be rejected is made all the same; counts and tells it."""
        if self.enforce == 1.0 or CHANCE.random() < self.enforce:
            return False
        self.spared += 1
        tell_rejection(
            self.bus, self.name, self.clock.now(), reason, operation, retry_after, total=self.spared, enforced=False
        )
        return True

    def enter_or_spare(self, args: Args, kwargs: Kwargs, operation: str) -> Any:
        """`enter`, with shadow mode around it for gates that do not see to that themselves."""
        if self.spares_itself or self.enforce == 1.0:
            return self.enter(args, kwargs)
        try:
            return self.enter(args, kwargs)
        except CallRejected as rejection:
            if not self.spares(rejection.reason, operation, rejection.retry_after):
                raise
        return SPARED

    async def enter_or_spare_async(self, args: Args, kwargs: Kwargs, operation: str) -> Any:
        """The same for async code."""
        if self.spares_itself or self.enforce == 1.0:
            return await self.enter_async(args, kwargs)
        try:
            return await self.enter_async(args, kwargs)
        except CallRejected as rejection:
            if not self.spares(rejection.reason, operation, rejection.retry_after):
                raise
        return SPARED

    def leave(self, permit: Any, judgement: Judgement) -> None:
        """`settle`, unless the call had no permit because shadow mode spared it."""
        if permit is not SPARED:
            self.settle(permit, judgement)

    def guard(self) -> Guard:
        """Guard one block of code; the object can be used once at a time."""
        return Guard(self)

    def bind(self, call: Call, site: Site) -> Call:
        """Weave `enter` and `settle` around a blocking call."""
        if site.streaming:
            return stream_gate(self, call, site)
        enter, leave, judge = self.enter_or_spare, self.leave, self.judge_at(site)
        arguments, operation = site.arguments, site.operation

        def guarded(args: Args, kwargs: Kwargs) -> Any:
            permit = enter(*arguments(args, kwargs), operation)
            try:
                result = call(args, kwargs)
            except BaseException as error:
                leave(permit, judge.explained(error))
                raise
            leave(permit, DONE)
            return result

        return guarded

    def bind_async(self, call: AsyncCall, site: Site) -> AsyncCall:
        """Weave `enter_async` and `settle` around an async call."""
        if site.streaming:
            return stream_gate_async(self, call, site)
        enter, leave, judge = self.enter_or_spare_async, self.leave, self.judge_at(site)
        arguments, operation = site.arguments, site.operation

        async def guarded(args: Args, kwargs: Kwargs) -> Any:
            permit = await enter(*arguments(args, kwargs), operation)
            try:
                result = await call(args, kwargs)
            except BaseException as error:
                leave(permit, judge.explained(error))
                raise
            leave(permit, DONE)
            return result

        return guarded


def _hang_on(stream: AnyStream, gate: Gate, permit: Any, judge: Judge) -> None:
    stream.on_end(lambda error: gate.leave(permit, DONE if error is None else judge.explained(error)))


def stream_gate(gate: Gate, call: Call, site: Site) -> Call:
    """Weave a gate around the opening of a stream; it settles when the stream ends."""
    judge, arguments, operation = gate.judge_at(site), site.arguments, site.operation

    def guarded(args: Args, kwargs: Kwargs) -> Any:
        permit = gate.enter_or_spare(*arguments(args, kwargs), operation)
        try:
            stream = call(args, kwargs)
        except BaseException as error:
            gate.leave(permit, judge.explained(error))
            raise
        _hang_on(stream, gate, permit, judge)
        return stream

    return guarded


def stream_gate_async(gate: Gate, call: AsyncCall, site: Site) -> AsyncCall:
    """The twin of `stream_gate` for async streams."""
    judge, arguments, operation = gate.judge_at(site), site.arguments, site.operation

    async def guarded(args: Args, kwargs: Kwargs) -> Any:
        permit = await gate.enter_or_spare_async(*arguments(args, kwargs), operation)
        try:
            stream = await call(args, kwargs)
        except BaseException as error:
            gate.leave(permit, judge.explained(error))
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
        gate = self._gate
        self._permit = gate.enter((), {}) if gate.enforce == 1.0 else gate.enter_or_spare((), {}, "block")

    async def __aenter__(self) -> None:
        gate = self._gate
        if gate.enforce == 1.0:
            self._permit = await gate.enter_async((), {})
        else:
            self._permit = await gate.enter_or_spare_async((), {}, "block")

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        permit, self._permit = self._permit, None
        self._gate.leave(permit, DONE if error is None else self._gate.judge_of_blocks().explained(error))

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.__exit__(kind, error, traceback)

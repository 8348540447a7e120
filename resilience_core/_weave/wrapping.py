"""The wrappers between a caller and the weave: decorated functions and calls in place.

    @policy                     caller -> wrapper -> policy ... policy -> function
    policy.call(fn, *args)      woven once per policy; travels as ((fn, args), kwargs)

Only the outermost wrapper packs arguments and only the innermost call unpacks them. The weave is the wrapper's own
variable, so that another one can take its place (`reload.py`) at no cost for the calls.
"""

from __future__ import annotations

import functools
from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING, Any, TypeVar, cast

from resilience_core._telemetry import (
    measured,
    measured_async,
    measured_opening,
    measured_opening_async,
    note_bad_result,
    telemetry,
)
from resilience_core._verdicts import BadResult
from resilience_core._weave.reload import Substitutes, lock, weavers
from resilience_core._weave.site import (
    Args,
    AsyncCall,
    Call,
    Kind,
    Kwargs,
    Site,
    behind_function,
    kind_of,
    name_of,
    refuse_unguarded,
)
from resilience_core._weave.streams import async_stream_edge, opening, opening_async, stream_edge

if TYPE_CHECKING:
    from resilience_core._weave.edge import Policy

C = TypeVar("C", Call, AsyncCall)


def decorate(policy: Policy, fn: Any) -> Any:
    """Weave `policy` around `fn` and give the result fn's name, signature and kind."""
    if isinstance(fn, staticmethod):
        return staticmethod(decorate(policy, cast("Any", fn).__func__))
    kind = kind_of(fn)
    wrap = {
        Kind.BLOCKING: _wrap_blocking,
        Kind.ASYNC: _wrap_async,
        Kind.STREAM: _wrap_stream,
        Kind.ASYNC_STREAM: _wrap_async_stream,
    }[kind]
    telemetry.prepare()
    guarded = Guarded(policy, fn, kind)
    with lock:
        wrapper = functools.update_wrapper(wrap(guarded), fn)
        weavers.add(guarded)
    cast("Any", wrapper).__resilience__ = guarded
    for check in decoration_checks:
        check(wrapper)
    return wrapper


decoration_checks: list[Callable[[Any], None]] = []
"""Asked about every function that was decorated; for the lint, which knows all policies and so stands above this."""


class Guarded:
    """A decorated function: what guards it, and the weave that its calls run through. Its `__resilience__`."""

    __slots__ = ("__weakref__", "inner", "kind", "policy", "swap", "weave")

    def __init__(self, policy: Policy, inner: Callable[..., Any], kind: Kind) -> None:
        self.policy = policy
        self.inner = inner
        self.kind = kind
        # Set by the wrapper: how a policy is woven around the function, and where the result goes.
        self.weave: Callable[[Policy], Any]
        self.swap: Callable[[Any], None]

    def site(self, policy: Policy) -> Site:
        """A new site of this function."""
        return Site(operation=name_of(self.inner), pipeline=policy.name, kind=self.kind, journal=self.policy.journal)

    def teller(self) -> Callable[[Exception], None] | None:
        """What is to be told of the errors that callers get; None where nobody keeps a journal."""
        policy, operation = self.policy, name_of(self.inner)
        journal, clock, name = policy.journal, policy.clock, policy.name
        if journal is None:
            return None
        failed = journal.failed

        def tell(error: Exception) -> None:
            failed(error, clock.wall(), name, operation)

        return tell

    def concerns(self, changed: Mapping[Any, Any]) -> bool:
        """Whether the function is guarded by any of the changed policies."""
        return self.policy.concerns(changed)

    def try_out(self, substitutes: Substitutes) -> None:
        """Weave with the substitutes, for nothing but to see that it can be done."""
        self.weave(self.policy.with_substitutes(substitutes))

    def reweave(self) -> None:
        """Let calls from now on run through a new weave."""
        self.swap(self.weave(self.policy))


def _wrap_blocking(guarded: Guarded) -> Callable[..., Any]:
    fn = guarded.inner

    def innermost(args: Args, kwargs: Kwargs) -> Any:
        return fn(*args, **kwargs)

    def weave(policy: Policy) -> tuple[Call, Call]:
        site = guarded.site(policy)
        call = _woven(policy, innermost, site)
        return call, measured(call, site)

    call, recorded = weave(guarded.policy)

    def swap(woven: tuple[Call, Call]) -> None:
        nonlocal call, recorded
        call, recorded = woven

    guarded.weave, guarded.swap = weave, swap

    tell = guarded.teller()
    if tell is None:

        def wrapper(*args: Any, **kwargs: Any) -> Any:
            if telemetry.on:
                return recorded(args, kwargs)
            return call(args, kwargs)

        return wrapper

    def told_wrapper(*args: Any, **kwargs: Any) -> Any:
        try:
            if telemetry.on:
                return recorded(args, kwargs)
            return call(args, kwargs)
        except Exception as error:
            tell(error)
            raise

    return told_wrapper


def _wrap_async(guarded: Guarded) -> Callable[..., Any]:
    fn = guarded.inner

    def innermost(args: Args, kwargs: Kwargs) -> Awaitable[Any]:
        coroutine: Awaitable[Any] = fn(*args, **kwargs)
        return coroutine

    def weave(policy: Policy) -> tuple[AsyncCall, AsyncCall]:
        site = guarded.site(policy)
        call = _woven_async(policy, innermost, site)
        return call, measured_async(call, site)

    call, recorded = weave(guarded.policy)

    def swap(woven: tuple[AsyncCall, AsyncCall]) -> None:
        nonlocal call, recorded
        call, recorded = woven

    guarded.weave, guarded.swap = weave, swap

    tell = guarded.teller()
    if tell is None:

        async def wrapper(*args: Any, **kwargs: Any) -> Any:
            if telemetry.on:
                return await recorded(args, kwargs)
            return await call(args, kwargs)

        return wrapper

    async def told_wrapper(*args: Any, **kwargs: Any) -> Any:
        try:
            if telemetry.on:
                return await recorded(args, kwargs)
            return await call(args, kwargs)
        except Exception as error:
            tell(error)
            raise

    return told_wrapper


def _wrap_stream(guarded: Guarded) -> Callable[..., Any]:
    return _wrap_opening(guarded, opening(guarded.inner), _woven_opening, stream_edge)


def _wrap_async_stream(guarded: Guarded) -> Callable[..., Any]:
    return _wrap_opening(guarded, opening_async(guarded.inner), _woven_opening_async, async_stream_edge)


def _wrap_opening(
    guarded: Guarded,
    innermost: C,
    woven: Callable[[Policy, C, Site], C],
    edge: Callable[[C, Callable[[Exception], None] | None], Callable[..., Any]],
) -> Callable[..., Any]:
    """A wrapper around the call that opens a stream; both kinds of calls are passed on as they are."""

    def weave(policy: Policy) -> C:
        return woven(policy, innermost, guarded.site(policy))

    call = weave(guarded.policy)

    def swap(another: C) -> None:
        nonlocal call
        call = another

    guarded.weave, guarded.swap = weave, swap

    def open_stream(args: Args, kwargs: Kwargs) -> Any:
        return call(args, kwargs)

    return edge(cast("C", open_stream), guarded.teller())


def _woven_opening(policy: Policy, innermost: Call, site: Site) -> Call:
    return measured_opening(policy.bind(innermost, site), site)


def _woven_opening_async(policy: Policy, innermost: AsyncCall, site: Site) -> AsyncCall:
    return measured_opening_async(policy.bind_async(innermost, site), site)


def _woven(policy: Policy, innermost: Call, site: Site) -> Call:
    call = policy.bind(innermost, site)
    if not site.returns_bad_results:
        return call

    def returning_bad_results(args: Args, kwargs: Kwargs) -> Any:
        try:
            return call(args, kwargs)
        except BadResult as bad:
            note_bad_result()
            return bad.result

    return returning_bad_results


def _woven_async(policy: Policy, innermost: AsyncCall, site: Site) -> AsyncCall:
    call = policy.bind_async(innermost, site)
    if not site.returns_bad_results:
        return call

    async def returning_bad_results(args: Args, kwargs: Kwargs) -> Any:
        try:
            return await call(args, kwargs)
        except BadResult as bad:
            note_bad_result()
            return bad.result

    return returning_bad_results


def weave_in_place(policy: Policy) -> Call:
    """The weave behind `policy.call`."""
    site = Site(
        operation="call", pipeline=policy.name, kind=Kind.BLOCKING, journal=policy.journal, arguments=behind_function
    )

    def innermost(args: Args, kwargs: Kwargs) -> Any:
        fn, own = args
        result = fn(*own, **kwargs)
        refuse_unguarded(result, fn)
        return result

    telemetry.prepare()
    call = _woven(policy, innermost, site)
    recorded = measured(call, site)

    def in_place(args: Args, kwargs: Kwargs) -> Any:
        return recorded(args, kwargs) if telemetry.on else call(args, kwargs)

    return in_place


def weave_in_place_async(policy: Policy) -> AsyncCall:
    """The weave behind `policy.acall`."""
    site = Site(
        operation="acall", pipeline=policy.name, kind=Kind.ASYNC, journal=policy.journal, arguments=behind_function
    )

    def innermost(args: Args, kwargs: Kwargs) -> Awaitable[Any]:
        fn, own = args
        result = fn(*own, **kwargs)
        if not isinstance(result, Awaitable):
            raise TypeError(f"acall needs an async function, and {name_of(fn)} is none: use call() for blocking code")
        return result

    telemetry.prepare()
    call = _woven_async(policy, innermost, site)
    recorded = measured_async(call, site)

    def in_place(args: Args, kwargs: Kwargs) -> Awaitable[Any]:
        return recorded(args, kwargs) if telemetry.on else call(args, kwargs)

    return in_place

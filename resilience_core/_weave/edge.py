"""The edge between the caller and the woven policies: decorator, call in place, and the base of all policies.

    @policy                     caller -> wrapper -> policy ... policy -> function
    policy.call(fn, *args)      woven once per policy; travels as ((fn, args), kwargs)

Only the outermost wrapper packs arguments and only the innermost call unpacks them.
"""

from __future__ import annotations

import functools
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Iterator
from typing import Any, ClassVar, ParamSpec, TypeVar, cast

import attrs
from attrs import define, field, setters

from resilience_core import _validation as check
from resilience_core._clock import SYSTEM, Clock
from resilience_core._events import Bus, Listener
from resilience_core._telemetry import measured, measured_async, telemetry
from resilience_core._verdicts import BadResult
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
from resilience_core.registry import registry

P = ParamSpec("P")
T = TypeVar("T")


@define(eq=False, on_setattr=setters.frozen)
class Policy(ABC):
    """Protects a call. Options are frozen; what changes lives in the policy's machine.

    Use it as a decorator, through `call` and `acall`, or inside a `Pipeline`. To write one, implement `bind` and
    `bind_async` (or derive from `Gate`), and name its `kind`.
    """

    kind: ClassVar[str]
    """What it is, in snake case: "circuit_breaker"."""

    clock: Clock = field(
        default=SYSTEM, kw_only=True, repr=False, validator=check.instance_of(Clock, "a resilience_core.Clock")
    )
    bus: Bus = field(init=False, factory=Bus, repr=False)
    _in_place: Call | None = field(init=False, default=None, repr=False, on_setattr=setters.NO_OP)
    _in_place_async: AsyncCall | None = field(init=False, default=None, repr=False, on_setattr=setters.NO_OP)

    name = ""  # replaced by a field in each policy

    def __attrs_post_init__(self) -> None:
        self._validate()
        self._build()
        if self.name != self.kind:
            registry.add(self)

    def _validate(self) -> None:  # noqa: B027 - most policies need neither this nor _build
        """Refuse options that do not go together; each alone is checked by its field."""

    def _build(self) -> None:  # noqa: B027
        """Make the machines; called when the options are known to be good (attrs runs validators after defaults)."""

    @abstractmethod
    def bind(self, call: Call, site: Site) -> Call:
        """Weave this policy around a blocking call."""

    @abstractmethod
    def bind_async(self, call: AsyncCall, site: Site) -> AsyncCall:
        """Weave this policy around an async call."""

    def __call__(self, fn: Callable[P, T], /) -> Callable[P, T]:
        """Decorate a function, coroutine function, method, callable object or (async) generator function.

        Raises:
            TypeError: it is none of these, or it is a stream and this policy refuses streams.
            ConfigurationError: the policy lacks something that it needs here.
        """
        return cast("Callable[P, T]", decorate(self, fn))

    def call(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """Call a blocking function under this policy, once."""
        woven = self._in_place
        if woven is None:
            woven = self._in_place = weave_in_place(self)
        return cast("T", woven((fn, args), kwargs))

    async def acall(self, fn: Callable[P, Awaitable[T]], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """Call an async function under this policy, once."""
        woven = self._in_place_async
        if woven is None:
            woven = self._in_place_async = weave_in_place_async(self)
        return cast("T", await woven((fn, args), kwargs))

    def subscribe(self, listener: Listener) -> Callable[[], None]:
        """Tell `listener` of this policy's events from now on; call what is returned to stop that."""
        return self.bus.subscribe(listener)

    def at_rest(self) -> bool:
        """Whether forgetting what this policy knows would change nothing: no calls inside, nothing counted."""
        return True

    def parts(self) -> Iterator[Policy]:
        """This policy and those inside it."""
        yield self

    def snapshot(self) -> dict[str, Any]:
        """State and counters now, as plain values."""
        return {}

    def describe(self) -> dict[str, Any]:
        """What this policy is and how it is set, as plain values; `text` says it in one sentence."""
        options = {
            option.name: plain(getattr(self, option.name))
            for option in attrs.fields(type(self))
            if option.init and option.name not in ("name", "clock")
        }
        return {"kind": self.kind, "name": self.name, "text": self._sentence(), "options": options}

    def _sentence(self) -> str:
        return f"{self.kind.replace('_', ' ')} {self.name!r}"


def plain(value: Any) -> Any:
    """An option's value as something that JSON can carry: functions and classes by their names."""
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, (tuple, list)):
        return [plain(item) for item in value]
    if attrs.has(type(value)):
        return {"type": type(value).__name__, **attrs.asdict(value)}
    return getattr(value, "__qualname__", type(value).__qualname__)


def decorate(policy: Policy, fn: Any) -> Any:
    """Weave `policy` around `fn` and give the result fn's name, signature and kind."""
    if isinstance(fn, staticmethod):
        return staticmethod(decorate(policy, cast("Any", fn).__func__))
    kind = kind_of(fn)
    site = Site(operation=name_of(fn), pipeline=policy.name, kind=kind)
    wrap = {
        Kind.BLOCKING: _wrap_blocking,
        Kind.ASYNC: _wrap_async,
        Kind.STREAM: _wrap_stream,
        Kind.ASYNC_STREAM: _wrap_async_stream,
    }[kind]
    telemetry.prepare()
    return functools.update_wrapper(wrap(policy, fn, site), fn)


def _wrap_blocking(policy: Policy, fn: Callable[..., Any], site: Site) -> Callable[..., Any]:
    def innermost(args: Args, kwargs: Kwargs) -> Any:
        return fn(*args, **kwargs)

    call = _woven(policy, innermost, site)
    recorded = measured(call, site)

    def wrapper(*args: Any, **kwargs: Any) -> Any:
        if telemetry.on:
            return recorded(args, kwargs)
        return call(args, kwargs)

    return wrapper


def _wrap_async(policy: Policy, fn: Callable[..., Any], site: Site) -> Callable[..., Any]:
    def innermost(args: Args, kwargs: Kwargs) -> Awaitable[Any]:
        coroutine: Awaitable[Any] = fn(*args, **kwargs)
        return coroutine

    call = _woven_async(policy, innermost, site)
    recorded = measured_async(call, site)

    async def wrapper(*args: Any, **kwargs: Any) -> Any:
        if telemetry.on:
            return await recorded(args, kwargs)
        return await call(args, kwargs)

    return wrapper


def _wrap_stream(policy: Policy, fn: Callable[..., Any], site: Site) -> Callable[..., Any]:
    return stream_edge(_woven(policy, opening(fn), site))


def _wrap_async_stream(policy: Policy, fn: Callable[..., Any], site: Site) -> Callable[..., Any]:
    return async_stream_edge(_woven_async(policy, opening_async(fn), site))


def _woven(policy: Policy, innermost: Call, site: Site) -> Call:
    call = policy.bind(innermost, site)
    if not site.returns_bad_results:
        return call

    def returning_bad_results(args: Args, kwargs: Kwargs) -> Any:
        try:
            return call(args, kwargs)
        except BadResult as bad:
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
            return bad.result

    return returning_bad_results


def weave_in_place(policy: Policy) -> Call:
    """The weave behind `policy.call`."""
    site = Site(operation="call", pipeline=policy.name, kind=Kind.BLOCKING, arguments=behind_function)

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
    site = Site(operation="acall", pipeline=policy.name, kind=Kind.ASYNC, arguments=behind_function)

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

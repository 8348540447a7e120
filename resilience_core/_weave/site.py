"""What is known of a guarded call at decoration, resolved once so that no call has to ask again."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Awaitable, Callable
from enum import Enum
from types import AsyncGeneratorType, CoroutineType, GeneratorType
from typing import TYPE_CHECKING, Any, TypeAlias

from attrs import define, evolve, field

from resilience_core._verdicts import Judge

if TYPE_CHECKING:
    from resilience_core._story import Journal

Args: TypeAlias = tuple[Any, ...]
Kwargs: TypeAlias = dict[str, Any]
Call: TypeAlias = Callable[[Args, Kwargs], Any]
"""A blocking call on its way through the policies: arguments travel packed, as two positional parameters."""
AsyncCall: TypeAlias = Callable[[Args, Kwargs], Awaitable[Any]]
"""The same for async code."""
Unpack: TypeAlias = Callable[[Args, Kwargs], tuple[Args, Kwargs]]


class Kind(Enum):
    """What a call to the guarded function yields."""

    BLOCKING = "blocking"
    ASYNC = "async"
    STREAM = "stream"
    ASYNC_STREAM = "async stream"


def as_they_are(args: Args, kwargs: Kwargs) -> tuple[Args, Kwargs]:
    """The arguments of a decorated function travel unchanged."""
    return args, kwargs


def behind_function(args: Args, kwargs: Kwargs) -> tuple[Args, Kwargs]:
    """`policy.call(fn, *args)` travels as `((fn, args), kwargs)`."""
    return args[1], kwargs


@define
class Site:
    """One place where a policy guards a call. Policies that are woven later (further out) see what inner ones noted."""

    operation: str
    """Low-cardinality name of the guarded function."""
    pipeline: str
    """Name of the outermost policy."""
    kind: Kind
    judge: Judge | None = None
    """The pipeline's judge; None when neither pipeline nor function brought one."""
    journal: Journal | None = None
    """Where the outermost pipeline keeps its unhappy calls; None where nobody does."""
    idempotent: bool = False
    arguments: Unpack = as_they_are
    inner_timeout: float | None = None
    """Seconds of the nearest time-out further in, noted by it while weaving."""
    returns_bad_results: bool = False
    """Whether some policy judges results, so that the edge must unwrap the last bad one."""
    repeated: bool = False
    """Whether a policy around may make several attempts."""
    circuit: Any = None
    """The machine of the outermost circuit breaker, noted by it while weaving."""
    series: dict[Any, dict[str, Any]] = field(factory=dict, repr=False)
    """The attributes of metrics, made when calls first end so; nested sites have the same."""

    @property
    def streaming(self) -> bool:
        """Whether the call opens a stream instead of returning a value."""
        return self.kind in (Kind.STREAM, Kind.ASYNC_STREAM)

    def inner(self, judge: Judge | None, idempotent: bool | None) -> Site:
        """The site as a nested pipeline sees it, with that pipeline's own defaults where it has some."""
        return evolve(
            self,
            judge=judge or self.judge,
            idempotent=self.idempotent if idempotent is None else idempotent,
        )


def kind_of(fn: Any) -> Kind:
    """Tell what calling `fn` yields; raises `TypeError` for what cannot be guarded."""
    if isinstance(fn, (classmethod, property)) or not callable(fn):
        hint = "; put the policy below @classmethod or @property" if isinstance(fn, (classmethod, property)) else ""
        raise TypeError(f"cannot guard {type(fn).__name__} {fn!r}: it is not a function{hint}")
    if isinstance(fn, type):
        raise TypeError(f"cannot guard the class {fn.__name__}: guard its __init__, a factory function or its methods")
    inner = fn
    while isinstance(inner, functools.partial):
        inner = inner.func
    # A callable object is what its __call__ is; inspect looks at functions and methods only.
    for candidate in (inner, type(inner).__call__):
        if inspect.iscoroutinefunction(candidate):
            return Kind.ASYNC
        if inspect.isasyncgenfunction(candidate):
            return Kind.ASYNC_STREAM
        if inspect.isgeneratorfunction(candidate):
            return Kind.STREAM
    return Kind.BLOCKING


def name_of(fn: Any) -> str:
    """A name for `fn` that does not vary from call to call."""
    inner = fn
    while isinstance(inner, functools.partial):
        inner = inner.func
    name = getattr(inner, "__qualname__", None) or type(inner).__qualname__
    return str(name).replace("<locals>.", "")


_UNGUARDED = (CoroutineType, GeneratorType, AsyncGeneratorType)


def refuse_unguarded(result: Any, fn: Any) -> None:
    """Refuse what a plain function must not return: its work would happen later, outside the policies."""
    if isinstance(result, _UNGUARDED):
        if isinstance(result, (CoroutineType, GeneratorType)):
            result.close()
        raise TypeError(
            f"{name_of(fn)} returned a {type(result).__name__}, whose work happens outside the policies: "
            "declare it `async def`, use acall(), or decorate the generator function itself"
        )

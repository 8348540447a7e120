"""Which options a configuration can set: the fields of the policies' own classes that plain data can express.

Nothing is listed again here but the order of the sections and which classes stand for a protocol ("a trip rule").
"""

from __future__ import annotations

import functools
import operator
import types
import typing
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin

import attrs

import resilience_core
from resilience_core._machines.backoff import Backoff, Constant, Exponential, JitterName, Linear
from resilience_core._machines.budget import InFlightRatio, Law, TokenQuota, TokenThrottle, TrafficRatio
from resilience_core._machines.concurrency import AIMD, Gradient2, LimitLaw, Steady, Vegas
from resilience_core._machines.rates import FailureRate, SlowCallRate
from resilience_core._machines.trip_rules import ConsecutiveFailures, TripRule
from resilience_core._policies.adaptive_concurrency import AdaptiveConcurrency
from resilience_core._policies.adaptive_retry import AdaptiveRetry
from resilience_core._policies.adaptive_throttle import AdaptiveThrottle
from resilience_core._policies.bulkhead import Bulkhead
from resilience_core._policies.chaos import Chaos
from resilience_core._policies.circuit_breaker import CircuitBreaker
from resilience_core._policies.coalesce import Coalesce
from resilience_core._policies.deadline import Deadline
from resilience_core._policies.fallback import Fallback
from resilience_core._policies.hedge import Hedge
from resilience_core._policies.rate_limiter import RateLimiter
from resilience_core._policies.retry import Retry
from resilience_core._policies.retry_budget import RetryBudget
from resilience_core._policies.stale_cache import StaleCache
from resilience_core._policies.timeout import Timeout
from resilience_core._validation import to_optional_seconds, to_seconds

SECTIONS: dict[str, type[Any]] = {
    "fallback": Fallback,
    "stale_cache": StaleCache,
    "coalesce": Coalesce,
    "timeout": Timeout,
    "deadline": Deadline,
    "retry": Retry,
    "adaptive_retry": AdaptiveRetry,
    "hedge": Hedge,
    "circuit_breaker": CircuitBreaker,
    "adaptive_throttle": AdaptiveThrottle,
    "adaptive_concurrency": AdaptiveConcurrency,
    "bulkhead": Bulkhead,
    "rate_limiter": RateLimiter,
    "attempt_timeout": Timeout,
    "chaos": Chaos,
}
"""The sections of a stack in their order, outermost first: a configuration cannot build a wrong one."""

FAMILIES: dict[Any, tuple[type[Any], ...]] = {
    TripRule: (ConsecutiveFailures, FailureRate, SlowCallRate),
    Law: (TrafficRatio, InFlightRatio, TokenQuota, TokenThrottle),
    LimitLaw: (Steady, Vegas, Gradient2, AIMD),
    Backoff: (Constant, Linear, Exponential),
}
"""The classes that stand for a protocol in a configuration, as `{type = "...", ...}`."""

_NOT_CONFIGURED = frozenset({"name", "clock", "chance"})
_PLAIN = (bool, int, float, str, Path)


@attrs.frozen
class Option:
    """One option of a policy, or of a value such as a trip rule."""

    name: str
    attribute: attrs.Attribute[Any]
    type: Any
    """Its resolved type without None."""
    optional: bool
    """Whether it may be None."""

    @property
    def duration(self) -> bool:
        """Whether it is a number of seconds."""
        converter: Any = self.attribute.converter
        return converter in (to_seconds, to_optional_seconds)

    @property
    def classes(self) -> tuple[type[Any], ...]:
        """The classes of which its value is one; empty for plain values, and for a budget, which is named."""
        return () if self.type is RetryBudget else classes_of(self.type)

    @property
    def default(self) -> Any:
        """What it is without being set; `attrs.NOTHING` where it must be."""
        default = self.attribute.default
        factory = getattr(default, "factory", None)
        return default if factory is None else factory()


def classes_of(kind: Any) -> tuple[type[Any], ...]:
    """The attrs classes that a type admits."""
    if kind in FAMILIES:
        return FAMILIES[kind]
    members = get_args(kind) if get_origin(kind) in (Union, types.UnionType) else (kind,)
    return members if all(isinstance(member, type) and attrs.has(member) for member in members) else ()


def options_of(cls: type[Any]) -> dict[str, Option]:
    """The options of a class that a configuration can set, by name."""
    if cls not in _found:
        _found[cls] = _expressible_options(cls)
    return _found[cls]


_found: dict[type[Any], dict[str, Option]] = {}  # not `cache`: mypy takes type[Any] for unhashable


def _expressible_options(cls: type[Any]) -> dict[str, Option]:
    hints = typing.get_type_hints(cls, localns=_names())
    found = {}
    for attribute in attrs.fields(cls):
        if not attribute.init or attribute.name in _NOT_CONFIGURED:
            continue
        kind, optional = _without_none(hints[attribute.name])
        option = Option(str(attribute.alias), attribute, kind, optional)
        if _expressible(option):
            found[option.name] = option
    return found


def from_code(cls: type[Any]) -> frozenset[str]:
    """The options of a class that only code can give."""
    names = {str(attribute.alias) for attribute in attrs.fields(cls) if attribute.init}
    return frozenset(names - set(options_of(cls)) - _NOT_CONFIGURED)


@cache
def _names() -> dict[str, Any]:
    """What annotations may name that their own modules import for types only."""
    public = {name: getattr(resilience_core, name) for name in resilience_core.__all__}
    return {**public, "Callable": Callable}


def _without_none(kind: Any) -> tuple[Any, bool]:
    if get_origin(kind) not in (Union, types.UnionType):
        return kind, False
    members = [member for member in get_args(kind) if member is not type(None)]
    if len(members) == len(get_args(kind)):
        return kind, False
    return functools.reduce(operator.or_, members), True


def _expressible(option: Option) -> bool:
    kind = option.type
    return (
        kind in _PLAIN
        or kind is Any
        or kind is RetryBudget
        or kind == JitterName
        or get_origin(kind) in (tuple, Literal)
        or bool(option.classes)
    )

"""One policy for each key: a breaker per host, a bulkhead per tenant, a pipeline per shard.

What fails for one key then rejects that key alone. Keys live in memory and appear nowhere else: all policies carry the
name that the factory gives them, which must not depend on the key, because names become attributes of metrics.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Generator, Hashable, Mapping
from contextlib import contextmanager
from itertools import count, islice
from typing import Any, ClassVar
from weakref import ref

from attrs import define, evolve, field, setters

from resilience_core import _validation as check
from resilience_core._errors import ConfigurationError
from resilience_core._events import Event
from resilience_core._validation import to_optional_seconds
from resilience_core._weave import births
from resilience_core._weave.edge import Policy
from resilience_core._weave.gate import Gate
from resilience_core._weave.rejections import Series, share_series
from resilience_core._weave.reload import lock, weavers
from resilience_core._weave.site import Args, AsyncCall, Call, Kwargs, Site
from resilience_core.registry import registry

_LOOKED_AT = 64  # of the entries used longest ago, when one must leave: the cost of an eviction is bounded


class _Entry:
    """The policy of one key, its weave for each call site, and how many calls are inside it."""

    __slots__ = ("lock", "pins", "policy", "used_at", "weaves")

    def __init__(self) -> None:
        self.lock = threading.Lock()  # held while the factory runs for this key
        self.policy: Policy | None = None
        self.weaves: dict[int, Any] = {}
        self.pins = 0
        self.used_at = 0.0


@define(eq=False, on_setattr=setters.frozen)
class Keyed(Policy):
    """Gives every key a policy of its own, made by `factory` when the key is first seen.

    Beyond `max_keys` the key used longest ago is forgotten, those at rest first; one that has a call inside never is,
    so for as long as all are in use there can be more.

    Args:
        factory: makes the policy for a key: `lambda key: CircuitBreaker("graph")`. The name must be the same for all.
        key: a function of the guarded call's arguments.
        name: identifies this policy in events and metrics.
        max_keys: keys remembered.
        idle: seconds (or timedelta) without a call after which a key is forgotten; None for never.

    Raises:
        ConfigurationError: from the first call of a key whose policy has another name than those before.
    """

    kind: ClassVar[str] = "keyed"

    factory: Callable[[Any], Policy] = field(validator=check.function)
    key: Callable[..., Hashable] = field(kw_only=True, validator=check.function)
    name: str = field(default="keyed", kw_only=True, validator=check.name)
    max_keys: int = field(default=10_000, kw_only=True, validator=check.count_from(1))
    idle: float | None = field(
        default=None, kw_only=True, converter=to_optional_seconds, validator=check.optional(check.positive_seconds)
    )
    _entries: OrderedDict[Hashable, _Entry] = field(init=False, repr=False, factory=OrderedDict)
    _lock: threading.Lock = field(init=False, repr=False, factory=threading.Lock)
    _names: tuple[str, ...] | None = field(init=False, repr=False, default=None, on_setattr=setters.NO_OP)
    _series: tuple[Series, ...] = field(init=False, repr=False, default=(), on_setattr=setters.NO_OP)
    _sites: count[int] = field(init=False, repr=False, factory=count)
    _woven: dict[int, ref[Any]] = field(init=False, repr=False, factory=dict)
    _evicted: int = field(init=False, repr=False, default=0, on_setattr=setters.NO_OP)

    def policy_of(self, key: Hashable) -> Policy | None:
        """The policy of a key, if it is remembered."""
        entry = self._entries.get(key)
        return None if entry is None else entry.policy

    @contextmanager
    def guard(self, key: Hashable) -> Generator[None, None, None]:
        """Guard a block of code with the policy of `key`, which must be a gate; in blocking code."""
        entry = self._pin(key)
        try:
            policy = entry.policy
            if not isinstance(policy, Gate):
                raise TypeError(f"Keyed {self.name!r}: only gates guard blocks, and the factory made another policy")
            with policy.guard():
                yield
        finally:
            self._unpin(entry)

    def at_rest(self) -> bool:
        """Whether none of them remembers anything."""
        return all(entry.policy is None or entry.policy.at_rest() for entry in list(self._entries.values()))

    def snapshot(self) -> dict[str, Any]:
        """Keys remembered and forgotten, keys with calls inside, and keys whose policy is not at rest."""
        entries = list(self._entries.values())
        return {
            "keys": len(entries),
            "evicted": self._evicted,
            "in_use": sum(entry.pins > 0 for entry in entries),
            "not_at_rest": sum(entry.policy is not None and not entry.policy.at_rest() for entry in entries),
        }

    def _sentence(self) -> str:
        return f"keyed {self.name!r}: one policy for each key, up to {self.max_keys} of them"

    def concerns(self, changed: Mapping[Any, Any]) -> bool:
        """Whether this policy, or that of any key, is among the changed ones."""
        inside = (entry.policy for entry in self._all() if entry.policy is not None)
        return any(part in changed for policy in (self, *inside) for part in policy.parts())

    def _all(self) -> list[_Entry]:
        with self._lock:
            return list(self._entries.values())

    def reweave(self) -> None:
        """Let the next call of each key weave anew."""
        Policy.reweave(self)
        for entry in self._all():
            entry.weaves.clear()

    # --- entries -----------------------------------------------------------------------------------------------------

    def _pin(self, key: Hashable) -> _Entry:
        """The entry of `key`, with one more call inside."""
        now = self.clock.now() if self.idle is not None else 0.0
        with self._lock:
            entry = self._entries.get(key)
            if entry is None:
                entry = self._entries[key] = _Entry()
                entry.pins = 1
                self._forget(now)
            else:
                self._entries.move_to_end(key)
                entry.pins += 1
            entry.used_at = now
        if entry.policy is None:
            try:
                self._create(key, entry)
            except BaseException:
                self._discard(key, entry)
                raise
        return entry

    def _unpin(self, entry: _Entry) -> None:
        with self._lock:
            entry.pins -= 1

    def _discard(self, key: Hashable, entry: _Entry) -> None:
        with self._lock:
            entry.pins -= 1
            if not entry.pins and self._entries.get(key) is entry:
                del self._entries[key]

    def _create(self, key: Hashable, entry: _Entry) -> None:
        with entry.lock:  # this key's alone: all who ask for it wait for the one factory call, and nobody else does
            if entry.policy is not None:
                return
            with births.expected():
                policy = self.factory(key)
            if not isinstance(policy, Policy):
                raise ConfigurationError(
                    f"Keyed {self.name!r}: factory must make a policy, not {type(policy).__name__}"
                )
            if any(getattr(part, "fleet", None) is not None for part in policy.parts()):
                raise ConfigurationError(
                    f"Keyed {self.name!r}: factory must not make policies that a fleet shares: they are shared by "
                    "name, and with one name for all, all keys would be one; give each shard a policy with a name "
                    "of its own, or limit by RateLimiter(key=...)"
                )
            names = tuple(part.name for part in policy.parts())
            if self._names is None:
                self._names = names
                self._series = tuple(Series() for _ in names)
            elif names != self._names:
                raise ConfigurationError(
                    f"Keyed {self.name!r}: factory must give the policies of all keys the same name, because names "
                    "become attributes of metrics and keys must not"
                )
            parts = tuple(policy.parts())
            share_series((part.bus for part in parts), self._series)
            for part in parts:
                registry.remove(part)  # thousands of one name: this policy stands for them
            policy.subscribe(self._relay)
            entry.policy = policy

    def _relay(self, event: Event) -> None:
        self.bus.deliver(event)

    def _forget(self, now: float) -> None:
        entries = self._entries
        if self.idle is not None:
            for key, entry in list(islice(entries.items(), _LOOKED_AT)):
                if entry.pins or now - entry.used_at < self.idle:
                    break
                self._evict(key)
        excess = len(entries) - self.max_keys
        if excess <= 0:
            return
        busy: list[Hashable] = []
        for key, entry in list(islice(entries.items(), _LOOKED_AT)):
            if entry.pins:
                continue
            if entry.policy is not None and not entry.policy.at_rest():
                busy.append(key)
                continue
            self._evict(key)
            excess -= 1
            if not excess:
                return
        for key in busy[:excess]:
            self._evict(key)

    def _evict(self, key: Hashable) -> None:
        del self._entries[key]
        self._evicted += 1

    # --- the weaves ----------------------------------------------------------------------------------------------

    def _number(self) -> int:
        """A number for a new call site; what was woven for sites that are gone is dropped."""
        gone = [number for number, guarded in self._woven.items() if guarded() is None]
        for number in gone:
            del self._woven[number]
            for entry in self._all():
                entry.weaves.pop(number, None)
        weavers.add(self)  # a policy of a key may get other options
        return next(self._sites)

    def _inner(self, site: Site) -> Site:
        if not site.streaming:
            site.returns_bad_results = True  # what a factory will make is not known yet
        return evolve(site)

    def bind(self, call: Call, site: Site) -> Call:
        """Weave the policy of the call's key around a blocking call."""
        number, arguments, key_of, inner = self._number(), site.arguments, self.key, self._inner(site)
        pin, unpin, streaming = self._pin, self._unpin, site.streaming

        def weave(entry: _Entry) -> Call:
            assert entry.policy is not None
            with lock:  # not in the middle of a change of its options, or the old ones would stay
                woven = entry.weaves[number] = entry.policy.bind(call, evolve(inner))
            return woven

        def guarded(args: Args, kwargs: Kwargs) -> Any:
            own, named = arguments(args, kwargs)
            entry = pin(key_of(*own, **named))
            try:
                woven = entry.weaves.get(number) or weave(entry)
                result = woven(args, kwargs)
            except BaseException:
                unpin(entry)
                raise
            if streaming:
                result.on_end(lambda error: unpin(entry))
            else:
                unpin(entry)
            return result

        self._woven[number] = ref(guarded)
        return guarded

    def bind_async(self, call: AsyncCall, site: Site) -> AsyncCall:
        """Weave the policy of the call's key around an async call."""
        number, arguments, key_of, inner = self._number(), site.arguments, self.key, self._inner(site)
        pin, unpin, streaming = self._pin, self._unpin, site.streaming

        def weave(entry: _Entry) -> AsyncCall:
            assert entry.policy is not None
            with lock:  # not in the middle of a change of its options, or the old ones would stay
                woven = entry.weaves[number] = entry.policy.bind_async(call, evolve(inner))
            return woven

        async def guarded(args: Args, kwargs: Kwargs) -> Any:
            own, named = arguments(args, kwargs)
            entry = pin(key_of(*own, **named))
            try:
                woven = entry.weaves.get(number) or weave(entry)
                result = await woven(args, kwargs)
            except BaseException:
                unpin(entry)
                raise
            if streaming:
                result.on_end(lambda error: unpin(entry))
            else:
                unpin(entry)
            return result

        self._woven[number] = ref(guarded)
        return guarded

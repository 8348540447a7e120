"""The base of all policies: a decorator, callable in place, and adjustable while it is in use."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Iterator, Mapping
from typing import Any, ClassVar, ParamSpec, TypeVar, cast

import attrs
from attrs import define, field, setters

from resilience_core import _validation as check
from resilience_core._clock import SYSTEM, Clock
from resilience_core._errors import ConfigurationError
from resilience_core._events import Bus, Listener, Reconfigured
from resilience_core._story import Journal
from resilience_core._weave import births
from resilience_core._weave.reload import Changes, Substitutes, lock, reconfigure, refuse_fixed, weavers
from resilience_core._weave.site import AsyncCall, Call, Site
from resilience_core._weave.wrapping import decorate, weave_in_place, weave_in_place_async
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
    stateful: ClassVar[bool] = False
    """Whether one call leaves something behind that the next ones are judged by."""
    repeats: ClassVar[bool] = False
    """Whether it may make several attempts for one call."""
    fixed: ClassVar[frozenset[str]] = frozenset({"name", "clock"})
    """Options that cannot be changed while the policy is in use: its state or its identity depends on them."""

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
        if self.stateful:
            births.note(self)

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
            with lock:
                woven = self._in_place = weave_in_place(self)
                weavers.add(self)
        try:
            return cast("T", woven((fn, args), kwargs))
        except Exception as error:
            self.tell_unhappy(error, "call")
            raise

    async def acall(self, fn: Callable[P, Awaitable[T]], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """Call an async function under this policy, once."""
        woven = self._in_place_async
        if woven is None:
            with lock:
                woven = self._in_place_async = weave_in_place_async(self)
                weavers.add(self)
        try:
            return cast("T", await woven((fn, args), kwargs))
        except Exception as error:
            self.tell_unhappy(error, "acall")
            raise

    def subscribe(self, listener: Listener) -> Callable[[], None]:
        """Tell `listener` of this policy's events from now on; call what is returned to stop that."""
        return self.bus.subscribe(listener)

    @property
    def journal(self) -> Journal | None:
        """Where unhappy calls are kept; pipelines have one."""
        return None

    def tell_unhappy(self, error: Exception, operation: str) -> None:
        """A caller gets `error`: if there is a journal, its story goes there."""
        journal = self.journal
        if journal is not None:
            journal.failed(error, self.clock.wall(), self.name, operation)

    # --- other options while it is in use ---------------------------------------------------------------------------

    def reconfigure(self, **options: Any) -> None:
        """Change options while calls are made; those that are not named stay.

        State is kept: what a breaker counted, permits, tokens, windows, cached values. Calls that are under way keep
        the structure and the retry rules that they began with; the limits of gates apply at once. `Reconfigured` tells
        listeners what was changed.

        Raises:
            ConfigurationError: the options cannot be, here or in a pipeline around; nothing has changed then.
            TypeError: a function that is guarded already cannot be guarded so; nothing has changed then.
        """
        reconfigure({self: options})

    def altered(self, options: Mapping[str, Any]) -> Policy:
        """A new policy that is set as this one, but for `options`."""
        refuse_fixed(self, options, self._options(), self.fixed)
        return unless_foreign(self, lambda: attrs.evolve(self, **options))

    def take_over(self, other: Policy) -> Changes:
        """Take the options of `other` over, and let the machine go on under them; what has changed."""
        changes = []
        for option, attribute in self._options().items():
            before, after = getattr(self, attribute), getattr(other, attribute)
            if option not in self.fixed and not same(before, after):
                object.__setattr__(self, attribute, after)  # options are frozen for everybody else
                changes.append((option, self._shown(attribute, before), self._shown(attribute, after)))
        if changes:
            self._adopt(other, frozenset(name for name, _, _ in changes))
        return tuple(changes)

    def tell_changes(self, changes: Changes) -> None:
        """Tell listeners which options were changed."""
        if self.bus.hears(Reconfigured):
            self.bus.emit(Reconfigured(self.name, self.clock.now(), changes))

    def _adopt(self, other: Any, changed: frozenset[str]) -> None:  # noqa: B027 - most keep nothing beside their options
        """Let the machines go on under the `changed` options, just taken over from `other`. Must not fail."""

    def with_substitutes(self, substitutes: Substitutes) -> Policy:
        """What stands in this policy's place when some are replaced."""
        substitute: Policy = substitutes.get(self, self)
        return substitute

    @classmethod
    def _options(cls) -> dict[str, str]:
        """The attribute behind each option."""
        return {str(option.alias): option.name for option in attrs.fields(cls) if option.init}

    # As a weaver: the two weaves of `call` and `acall`.

    def concerns(self, changed: Mapping[Any, Any]) -> bool:
        """Whether this policy, or one inside it, is among the changed ones."""
        return any(part in changed for part in self.parts())

    def try_out(self, substitutes: Substitutes) -> None:
        """Weave for calls in place with the substitutes, for nothing but to see that it can be done."""
        substitute = self.with_substitutes(substitutes)
        if self._in_place is not None:
            weave_in_place(substitute)
        if self._in_place_async is not None:
            weave_in_place_async(substitute)

    def reweave(self) -> None:
        """Weave anew for calls in place."""
        if self._in_place is not None:
            self._in_place = weave_in_place(self)
        if self._in_place_async is not None:
            self._in_place_async = weave_in_place_async(self)

    # --- looking in -------------------------------------------------------------------------------------------------

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
            option.name: self._shown(option.name, getattr(self, option.name))
            for option in attrs.fields(type(self))
            if option.init and option.name not in ("name", "clock")
        }
        return {"kind": self.kind, "name": self.name, "text": self._sentence(), "options": options}

    def _shown(self, attribute: str, value: Any) -> Any:
        """An option's value as a plain one; of what may be a user's data, only the kind."""
        return plain(value) if attrs.fields_dict(type(self))[attribute].repr else type(value).__qualname__

    def _sentence(self) -> str:
        return f"{self.kind.replace('_', ' ')} {self.name!r}"


def unless_foreign(policy: Policy, make: Callable[[], T]) -> T:
    """What `make` makes; refused for a class of somebody else whose `__init__` takes other things."""
    try:
        return make()
    except TypeError as error:
        raise ConfigurationError(
            f"{type(policy).__name__} {policy.name!r}: it cannot be changed, because it is not made from its options: "
            f"{error}"
        ) from error


def same(before: Any, after: Any) -> bool:
    """Whether two values of an option are equal, as far as they can be compared."""
    try:
        return before is after or bool(before == after)
    except Exception:  # a user's value: an array, say, has no one answer
        return False


def plain(value: Any) -> Any:
    """An option's value as something that JSON can carry: functions and classes by their names."""
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, (tuple, list)):
        return [plain(item) for item in value]
    if attrs.has(type(value)):
        shown = (option.name for option in attrs.fields(type(value)) if option.init and option.repr)
        return {"type": type(value).__name__, **{name: plain(getattr(value, name)) for name in shown}}
    return getattr(value, "__qualname__", type(value).__qualname__)

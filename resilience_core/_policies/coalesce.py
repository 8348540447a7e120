"""Let callers who ask for the same thing at the same time share one call."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Any, ClassVar

from attrs import define, field, setters

from resilience_core import _validation as check
from resilience_core._weave.deadline import remaining
from resilience_core._weave.edge import Policy
from resilience_core._weave.flights import Flights
from resilience_core._weave.results import refuse_streams
from resilience_core._weave.site import Args, AsyncCall, Call, Kwargs, Site
from resilience_core._weave.waiting import ThreadWaiter, async_waiter


@define(eq=False, on_setattr=setters.frozen)
class Coalesce(Policy):
    """Makes one call per key at a time; everybody who asks meanwhile gets its result or its error.

    Nothing is kept: who asks after it has ended makes a new call (`StaleCache` keeps). A caller that is cancelled
    harms nobody else: the next in line makes the call instead.

    Args:
        name: identifies the policy in events and metrics.
        key: a function of the guarded call's arguments; default the arguments themselves, which must be hashable.
    """

    kind: ClassVar[str] = "coalesce"
    stateful: ClassVar[bool] = True

    name: str = field(default="coalesce", validator=check.name)
    key: Callable[..., Hashable] | None = field(default=None, kw_only=True, validator=check.optional(check.function))
    _flights: Flights = field(init=False, repr=False, factory=Flights)
    _shared: int = field(init=False, repr=False, default=0, on_setattr=setters.NO_OP)

    def snapshot(self) -> dict[str, Any]:
        """Calls under way, and callers so far who shared one."""
        return {"fetching": len(self._flights), "shared": self._shared}

    def _sentence(self) -> str:
        return "coalesce: callers who ask for the same at the same time share one call"

    def _key(self, args: Args, kwargs: Kwargs) -> Hashable:
        return self.key(*args, **kwargs) if self.key is not None else (args, tuple(sorted(kwargs.items())))

    def _share(self, value: Any, error: Exception | None) -> Any:
        self._shared += 1
        if error is not None:
            raise error
        return value

    def bind(self, call: Call, site: Site) -> Call:
        """Weave single flight around a blocking call."""
        refuse_streams(site, "Coalesce")
        arguments, flights, name = site.arguments, self._flights, self.name
        new_waiter = ThreadWaiter

        def guarded(args: Args, kwargs: Kwargs) -> Any:
            key = self._key(*arguments(args, kwargs))
            while True:
                waiter = new_waiter()
                flight, leads = flights.board(key, waiter)
                if leads:
                    try:
                        value = call(args, kwargs)
                    except BaseException as error:
                        flights.land(key, flight, None, error)
                        raise
                    flights.land(key, flight, value, None)
                    return value
                woken = waiter.wait(remaining())
                if flights.arrive(flight, waiter, woken, name):
                    return self._share(flight.value, flight.error)

        return guarded

    def bind_async(self, call: AsyncCall, site: Site) -> AsyncCall:
        """Weave single flight around an async call."""
        refuse_streams(site, "Coalesce")
        arguments, flights, name = site.arguments, self._flights, self.name
        new_waiter = async_waiter

        async def guarded(args: Args, kwargs: Kwargs) -> Any:
            key = self._key(*arguments(args, kwargs))
            while True:
                waiter = new_waiter()
                flight, leads = flights.board(key, waiter)
                if leads:
                    try:
                        value = await call(args, kwargs)
                    except BaseException as error:
                        flights.land(key, flight, None, error)
                        raise
                    flights.land(key, flight, value, None)
                    return value
                woken = await waiter.wait(remaining())
                if flights.arrive(flight, waiter, woken, name):
                    return self._share(flight.value, flight.error)

        return guarded

"""What all fleets have in common: a member, its keys, its agent, and how it ends."""

from __future__ import annotations

import atexit
import os
import socket
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ClassVar, NoReturn
from weakref import WeakMethod, WeakSet

from resilience_core import _validation as check
from resilience_core._errors import ConfigurationError
from resilience_core._events import Bus, Event, Listener
from resilience_core._fleet_events import RecordIgnored, StoreDegraded, StoreRecovered
from resilience_core._fork import no_forks
from resilience_core._telemetry import stores, telemetry
from resilience_core._validation import Seconds
from resilience_core.fleet._agent import Agent, Item
from resilience_core.fleet._circuit import SharedCircuit, draw
from resilience_core.fleet._link import Link
from resilience_core.fleet._log import log_told
from resilience_core.fleet._names import Keys, encoded

if TYPE_CHECKING:
    from resilience_core._policies.bulkhead import Bulkhead
    from resilience_core._policies.circuit_breaker import CircuitBreaker
    from resilience_core._policies.rate_limiter import RateLimiter
    from resilience_core._policies.retry_budget import RetryBudget
    from resilience_core.fleet._store import SharedStore

_fleets: WeakSet[BaseFleet] = WeakSet()


class BaseFleet(ABC):
    """One process's membership in a fleet. Cheap to make: the agent starts with the first call that needs it."""

    store_type: ClassVar[str] = "memory"
    """The value of the telemetry attribute `resilience.store.type`."""

    def __init__(
        self,
        *,
        name: Any,
        prefix: Any,
        member: Any,
        secret: Any,
        timeout: Seconds,
        poll_interval: Seconds,
        ttl: Seconds,
    ) -> None:
        kind = type(self).__name__
        if not isinstance(name, str) or not name:
            raise ConfigurationError(f"{kind}: name must be a non-empty string, not {name!r}")
        if member is not None and (not isinstance(member, str) or not 0 < len(member) <= 200):
            raise ConfigurationError(f"{kind}: member must be a string of 1 to 200 characters, not {member!r}")
        self.name: str = name
        self.keys: Keys = Keys(prefix, secret)
        self.timeout: float = check.seconds(f"{kind}: timeout", timeout)
        self.poll_interval: float = check.seconds(f"{kind}: poll_interval", poll_interval)
        self.ttl: float = check.seconds(f"{kind}: ttl", ttl)
        if self.ttl < 10 * self.poll_interval:
            raise ConfigurationError(
                f"{kind}: ttl ({self.ttl:g} s) must be at least ten times poll_interval ({self.poll_interval:g} s), or "
                "records lapse between two looks at them"
            )
        self._given_member = member
        self.member: str = self._member_id()
        self._shares: WeakSet[Item] = WeakSet()
        self.bus: Bus = Bus()
        self.agent: Agent = Agent(
            self.open_link, self._on_lost, self._on_found, self._on_start, self._on_exchange, self.timeout
        )
        _fleets.add(self)
        stores.add(self)

    def _member_id(self) -> str:
        name = self._given_member or socket.gethostname()[:64]
        return f"{name}-{os.getpid()}-{draw()[:6]}"

    @abstractmethod
    def open_link(self) -> Link:
        """Connect; called by the agent."""

    @abstractmethod
    def store_errors(self) -> tuple[type[BaseException], ...]:
        """What a store raises that is away, or not as it should be."""

    # --- for users -------------------------------------------------------------------------------------------------

    @property
    def connected(self) -> bool:
        """Whether state is shared right now; else every policy decides by itself."""
        return self.agent.connected

    @property
    def state(self) -> str:
        """`connected`, `degraded` (the store is lost), or `idle` as long as nobody has looked for it."""
        if self.agent.connected:
            return "connected"
        return "degraded" if self.agent.lost else "idle"

    def wait_ready(self, timeout: Seconds = 1.0) -> bool:
        """Wait until the store has answered for every policy that was called; False after `timeout` seconds.

        For start-up and tests: calls never need it. Blocks the thread.
        """
        return self.agent.wait_connected(check.seconds("wait_ready: timeout", timeout))

    def flush(self, timeout: Seconds = 1.0) -> bool:
        """Wait until everything that was to be reported has been written; False after `timeout` seconds."""
        return self.agent.settle(check.seconds("flush: timeout", timeout))

    def close(self) -> None:
        """Leave the fleet: report what is left, give leases back, end the thread.

        Waits a few time-outs at most. Policies go on by themselves; there is no way back. Also done at exit.
        """
        self.agent.close(4 * self.timeout)

    def subscribe(self, listener: Listener) -> Callable[[], None]:
        """Tell `listener` of `StoreDegraded`, `StoreRecovered` and `RecordIgnored`; call what is returned to stop.

        It is called in the agent's thread, as listeners of policies are for what the fleet did.
        """
        return self.bus.subscribe(listener)

    def snapshot(self) -> dict[str, Any]:
        """Whether the store is there, how often it was lost, and how many commands were sent to it."""
        agent = self.agent
        return {
            "member": self.member,
            "store": self.store_type,
            "state": self.state,
            "losses": agent.losses,
            "commands": agent.commands,
        }

    def __repr__(self) -> str:
        # Without the address, which may have a password in it. One that was refused is shown, too, by error collectors.
        shown = ", ".join(f"{each}={vars(self).get(each)!r}" for each in ("name", "member"))
        return f"{type(self).__name__}({shown})"

    def __reduce__(self) -> NoReturn:
        raise TypeError(f"{type(self).__name__} is one process's membership and cannot be pickled: make one in each")

    # --- for policies ----------------------------------------------------------------------------------------------

    def share_circuit(self, breaker: CircuitBreaker) -> Any:
        """The share of a circuit breaker in this fleet."""
        return self.keep(SharedCircuit(self, breaker))

    def share_limiter(self, limiter: RateLimiter) -> Any:
        """That of a rate limiter."""
        raise self._cannot("RateLimiter", limiter.name)

    def share_bulkhead(self, bulkhead: Bulkhead) -> Any:
        """That of a bulkhead."""
        raise self._cannot("Bulkhead", bulkhead.name)

    def share_budget(self, budget: RetryBudget) -> Any:
        """That of a retry budget."""
        raise self._cannot("RetryBudget", budget.name)

    def share_store(self, store: SharedStore) -> Any:
        """That of a store for caches."""
        raise self._cannot("SharedStore", store.name)

    def _cannot(self, kind: str, name: str) -> ConfigurationError:
        return ConfigurationError(
            f"{kind} {name!r}: a {type(self).__name__} shares circuits only, because its store cannot count for all at "
            "once: use a RedisFleet"
        )

    def keep(self, share: Any) -> Any:
        """Have the share renewed in the child of a fork."""
        self._shares.add(share)
        return share

    def join(self, item: Item) -> tuple[bool, bool]:
        """Have the agent work for a policy: whether that is settled, and whether the policy is alone for now."""
        attached = self.agent.attach(item)
        return attached or self.agent.closed, not attached or self.agent.lost

    def holder(self) -> str:
        """What one policy of this member is called in the store: two of one name in one process are two."""
        member = self.member
        if not (member.isascii() and member.isprintable()):  # as escapes it would fill the record
            member = encoded(member)
        return f"{member}/{draw()[:4]}"

    @staticmethod
    def host_time() -> int:
        """Microseconds since the epoch on this host: for stores that do not tell theirs, and for nothing else."""
        return time.time_ns() // 1000

    def ignored(self, policy: str, problem: str) -> None:
        """Something in the store could not be understood and counts as missing."""
        self._tell(RecordIgnored(policy, time.monotonic(), problem))

    def _tell(self, event: Event, fault: BaseException | None = None) -> None:
        log_told(event, fault)
        with no_forks:
            self.bus.tell(event)

    def _on_lost(self, error: BaseException) -> None:
        reason = type(error).__name__  # not its text: that may tell an address
        fault = None if isinstance(error, self.store_errors()) else error  # of our own: where it happened matters
        self._tell(StoreDegraded(self.name, time.monotonic(), reason), fault)

    def _on_found(self, seconds: float) -> None:
        self._tell(StoreRecovered(self.name, time.monotonic(), seconds))

    def _on_exchange(self, seconds: float, error: BaseException | None) -> None:
        if telemetry.recording:
            with no_forks:  # a meter has locks
                telemetry.store_operation(self.store_type, "exchange", seconds, error)

    def after_fork(self) -> None:
        """In the child of a fork: another member, with an agent of its own."""
        self.member = self._member_id()
        self.agent.after_fork()
        for share in list(self._shares):  # also of policies that were not called so far: they have names and locks, too
            share.after_fork()

    def _on_start(self) -> None:
        _at_exit(self)


def _at_exit(fleet: BaseFleet) -> None:
    """Have the fleet closed when the process ends: before the modules are taken down, after the user's own code."""
    closing = WeakMethod(fleet.close)

    def close() -> None:
        method = closing()
        if method is not None:
            method()

    processes = sys.modules.get("multiprocessing.process")
    if processes is not None and processes.parent_process() is not None:
        from multiprocessing.util import Finalize  # such a child ends without a look at atexit

        Finalize(None, close, exitpriority=0)
    else:
        atexit.register(close)


def _after_fork() -> None:
    for fleet in list(_fleets):
        fleet.after_fork()


os.register_at_fork(after_in_child=_after_fork)

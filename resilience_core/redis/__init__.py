"""A fleet that shares its state through Redis (6.2 and newer, or Valkey). Needs the extra `redis`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from resilience_core._errors import ConfigurationError
from resilience_core._validation import Seconds
from resilience_core.fleet import BaseFleet
from resilience_core.fleet._budget import SharedBudget
from resilience_core.fleet._bulkhead import SharedBulkhead
from resilience_core.fleet._limiter import SharedLimiter
from resilience_core.fleet._link import Link
from resilience_core.fleet._store import SharedEntries, SharedStore

if TYPE_CHECKING:
    import redis as redis_py

    from resilience_core._policies.bulkhead import Bulkhead
    from resilience_core._policies.rate_limiter import RateLimiter
    from resilience_core._policies.retry_budget import RetryBudget

__all__ = ["RedisFleet"]


class RedisFleet(BaseFleet):
    """One process's membership in a fleet whose state is in Redis.

    Give it to `CircuitBreaker`, `RateLimiter`, `Bulkhead` and `RetryBudget` as `fleet=`. Policies of one kind and name
    are one in all processes that share server, database and prefix. The same objects serve blocking code, asyncio and
    trio. A thread of its own talks to Redis; no call waits for it, but for one that needs a permit that only Redis can
    give, and that for `timeout` at most.

    Args:
        source: a URL (`redis://`, `rediss://`, `unix://`), or a client of redis-py: `redis.Redis`, also one of a
            Sentinel (`sentinel.master_for(...)`), or `redis.RedisCluster`. Of a client only the settings are used:
            connections, time-outs and attempts are the fleet's own.
        prefix: stands before all keys.
        member: what this process is called in records that people read; default the host's name. The number of the
            process and a few random digits are added.
        name: identifies the fleet in events and logs.
        secret: 16 or more characters that all members know; needed where keys are personal (rate limiters with `key=`,
            a `SharedStore(personal=True)`), which are kept as HMACs.
        timeout: seconds (or timedelta) for connecting and for each answer; beyond, Redis counts as lost.
        poll_interval: seconds between two looks at each record: the safety net for news that was lost.
        ttl: seconds for which records are kept.

    Raises:
        ConfigurationError: an option cannot be.
    """

    store_type: ClassVar[str] = "redis"

    def __init__(
        self,
        source: str | redis_py.Redis | redis_py.RedisCluster,
        *,
        prefix: str = "",
        member: str | None = None,
        name: str = "fleet",
        secret: str | bytes | None = None,
        timeout: Seconds = 0.1,
        poll_interval: Seconds = 2.0,
        ttl: Seconds = 300.0,
    ) -> None:
        if isinstance(source, str):
            if not source.startswith(("redis://", "rediss://", "unix://")):
                raise ConfigurationError("RedisFleet: source must be a redis://, rediss:// or unix:// URL, or a client")
        elif not hasattr(source, "connection_pool") and not hasattr(source, "nodes_manager"):
            raise ConfigurationError(
                "RedisFleet: source must be a URL or a client of redis-py for blocking code, not a "
                f"{type(source).__name__}"
            )
        from resilience_core.redis._link import RedisLink  # here: redis-py takes half a second to load

        self._source: Any = source
        self._link = RedisLink
        super().__init__(
            name=name,
            prefix=prefix,
            member=member,
            secret=secret,
            timeout=timeout,
            poll_interval=poll_interval,
            ttl=ttl,
        )

    def share_limiter(self, limiter: RateLimiter) -> Any:
        """The share of a rate limiter in this fleet."""
        if limiter.key is not None:
            self.keys.check_personal(f"RateLimiter {limiter.name!r}")
        return self.keep(SharedLimiter(self, limiter))

    def share_bulkhead(self, bulkhead: Bulkhead) -> Any:
        """That of a bulkhead."""
        return self.keep(SharedBulkhead(self, bulkhead))

    def share_budget(self, budget: RetryBudget) -> Any:
        """That of a retry budget."""
        return self.keep(SharedBudget(self, budget))

    def share_store(self, store: SharedStore) -> Any:
        """That of a store for caches."""
        if store.personal:
            self.keys.check_personal(f"SharedStore {store.name!r}")
        return self.keep(SharedEntries(self, store))

    def open_link(self) -> Link:
        """Connect."""
        return self._link(self._source, self.timeout)

    def store_errors(self) -> tuple[type[BaseException], ...]:
        """What redis-py raises."""
        return self._link.errors

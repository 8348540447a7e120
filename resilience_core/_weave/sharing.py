"""What a policy knows of the fleet that it is shared in: how to begin, and nothing of what is behind."""

from __future__ import annotations

from typing import Any, Protocol


class Fleet(Protocol):
    """Shares policies among processes: `resilience_core.redis.RedisFleet`, `resilience_core.fleet.StoreFleet`."""

    def share_circuit(self, breaker: Any) -> Any:
        """The share of a circuit breaker in this fleet."""
        ...

    def share_limiter(self, limiter: Any) -> Any:
        """That of a rate limiter."""
        ...

    def share_bulkhead(self, bulkhead: Any) -> Any:
        """That of a bulkhead."""
        ...

    def share_budget(self, budget: Any) -> Any:
        """That of a retry budget."""
        ...

"""Settings for a kind of environment: the two presets, and the mapping that configuration files hold."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from attrs import evolve, field, frozen

from resilience_core import CircuitBreaker, ConfigurationError, Fleet, Retry, Timeout
from resilience_core.config import PRESETS, from_legacy

BREAKER_NAME = "whatsapp_api"
RETRY_NAME = "whatsapp_retry"


@frozen
class Settings:
    """Numbers for breaker, retry and total time-out of a client; durations are seconds."""

    failure_threshold: int = 5
    success_threshold: int = 2
    recovery_timeout: float = 60.0
    max_attempts: int = 3
    base_delay: float = 1.0
    multiplier: float = 2.0
    max_delay: float = 10.0
    total_timeout: float | None = field(default=None)

    def __attrs_post_init__(self) -> None:
        # The policies check their own options: a bad number is refused here and now.
        self.circuit_breaker()
        self.retry_policy()
        if self.total_timeout is not None:
            _total(self.total_timeout)

    def circuit_breaker(self, name: str = BREAKER_NAME, *, fleet: Fleet | None = None) -> CircuitBreaker:
        """A new breaker with these numbers; with a `fleet` (a `RedisFleet`) it is one for many servers."""
        return CircuitBreaker(
            name,
            failure_threshold=self.failure_threshold,
            success_threshold=self.success_threshold,
            recovery_timeout=self.recovery_timeout,
            fleet=fleet,
        )

    def retry_policy(self, name: str = RETRY_NAME) -> Retry:
        """A new retry policy with these numbers."""
        return Retry(
            name,
            max_attempts=self.max_attempts,
            base_delay=self.base_delay,
            multiplier=self.multiplier,
            max_delay=self.max_delay,
        )


def _total(seconds: float) -> None:
    try:
        Timeout(seconds)
    except ConfigurationError as error:
        raise ConfigurationError(f"total_timeout: {error}") from None


def _preset(name: str) -> Settings:
    return Settings(**PRESETS[name]["circuit_breaker"], **PRESETS[name]["retry"])


DEFAULT = _preset("default")
"""5 failures, 2 successes, 60 s; 3 attempts from 1 s."""
PRODUCTION = _preset("production")
"""10 failures, 3 successes, 120 s; 5 attempts from 2,000 ms."""
DEVELOPMENT = _preset("development")
"""3 failures, 1 success, 30 s; 2 attempts from 500 ms."""


def from_mapping(mapping: Mapping[str, Any], base: Settings = DEFAULT) -> Settings:
    """Settings from a mapping; what it does not name keeps the value of `base`.

    Keys: `circuit_breaker` with `failure_threshold`, `success_threshold`, `timeout` (seconds); `retry` with
    `max_attempts`, `base_delay_ms`, `multiplier`, `max_delay_ms` (milliseconds); `total_timeout` (seconds). The same
    mapping stands for a stack of a configuration: `resilience_core.config.from_legacy`.

    Raises:
        ConfigurationError: an unknown key, or a value that the policy behind it refuses; tells all of them, each with
            its key.
    """
    sections = from_legacy(mapping, BREAKER_NAME, source="the settings").stacks[BREAKER_NAME].sections
    changes = {**sections.get("circuit_breaker", {}), **sections.get("retry", {})}
    if "timeout" in sections:
        changes["total_timeout"] = sections["timeout"]["seconds"]
    return evolve(base, **changes)

"""Settings for a kind of environment: the two presets, and the mapping that configuration files hold."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from typing import Any

from attrs import evolve, field, frozen

from resilience_core import CircuitBreaker, ConfigurationError, Retry, Timeout

BREAKER_NAME = "whatsapp_api"
_SECTIONS = {
    "circuit_breaker": {
        "failure_threshold": "failure_threshold",
        "success_threshold": "success_threshold",
        "timeout": "recovery_timeout",
    },
    "retry": {
        "max_attempts": "max_attempts",
        "base_delay_ms": "base_delay",
        "multiplier": "multiplier",
        "max_delay_ms": "max_delay",
    },
}
_MILLISECONDS = ("base_delay_ms", "max_delay_ms")


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

    def circuit_breaker(self, name: str = BREAKER_NAME) -> CircuitBreaker:
        """A new breaker with these numbers."""
        return CircuitBreaker(
            name,
            failure_threshold=self.failure_threshold,
            success_threshold=self.success_threshold,
            recovery_timeout=self.recovery_timeout,
        )

    def retry_policy(self) -> Retry:
        """A new retry policy with these numbers."""
        return Retry(
            "whatsapp_retry",
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


DEFAULT = Settings()
"""5 failures, 2 successes, 60 s; 3 attempts from 1 s."""
PRODUCTION = Settings(failure_threshold=10, success_threshold=3, recovery_timeout=120.0, max_attempts=5, base_delay=2.0)
"""10 failures, 3 successes, 120 s; 5 attempts from 2,000 ms."""
DEVELOPMENT = Settings(failure_threshold=3, success_threshold=1, recovery_timeout=30.0, max_attempts=2, base_delay=0.5)
"""3 failures, 1 success, 30 s; 2 attempts from 500 ms."""


def from_mapping(mapping: Mapping[str, Any], base: Settings = DEFAULT) -> Settings:
    """Settings from a mapping; what it does not name keeps the value of `base`.

    Keys: `circuit_breaker` with `failure_threshold`, `success_threshold`, `timeout` (seconds); `retry` with
    `max_attempts`, `base_delay_ms`, `multiplier`, `max_delay_ms` (milliseconds); `total_timeout` (seconds).

    Raises:
        ConfigurationError: an unknown key, or a value that the policy behind it refuses; the text names the key.
    """
    changes: dict[str, Any] = {}
    for section, content in mapping.items():
        if section == "total_timeout":
            changes["total_timeout"] = content
            continue
        known = _SECTIONS.get(section)
        if known is None:
            raise ConfigurationError(f"{section}: unknown key, expected {', '.join((*_SECTIONS, 'total_timeout'))}")
        if not isinstance(content, Mapping):
            raise ConfigurationError(f"{section}: expected a mapping with {', '.join(known)}, not {content!r}")
        for key, value in content.items():
            if key not in known:
                raise ConfigurationError(f"{section}.{key}: unknown key, expected {', '.join(known)}")
            changes[known[key]] = _seconds(f"{section}.{key}", value) if key in _MILLISECONDS else value
    return evolve(base, **changes)


def _seconds(path: str, milliseconds: Any) -> float:
    if isinstance(milliseconds, timedelta):
        return milliseconds.total_seconds()
    if not isinstance(milliseconds, (int, float)) or isinstance(milliseconds, bool):
        raise ConfigurationError(f"{path}: must be a number of milliseconds, not {milliseconds!r}")
    return milliseconds / 1000

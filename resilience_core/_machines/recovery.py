"""How a circuit comes back: growing open times, probes judged by a sample, and a ramp after closing."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TypeAlias

from attrs import field, frozen

from resilience_core import _validation as check
from resilience_core._errors import ConfigurationError
from resilience_core._validation import to_seconds

Random: TypeAlias = Callable[[], float]


@frozen
class RecoveryBackoff:
    """Lets the open time grow with each recovery that failed.

        open time n = min(max_timeout, recovery_timeout * multiplier ** (n - 1)), plus or minus `jitter` of it

    n counts the openings since the circuit was last closed for good; jitter never leads above `max_timeout`.
    """

    multiplier: float = field(default=2.0, kw_only=True, validator=check.multiplier)
    max_timeout: float = field(default=600.0, kw_only=True, converter=to_seconds, validator=check.positive_seconds)
    jitter: float = field(default=0.1, kw_only=True, validator=check.ratio)

    def seconds(self, recovery_timeout: float, opening: int, random: Random) -> float:
        """The open time of opening number `opening` (from 1) in a row."""
        try:
            growth: float = recovery_timeout * self.multiplier ** (opening - 1)
        except OverflowError:
            growth = self.max_timeout
        spread = 1 + self.jitter * (2 * random() - 1)
        return min(self.max_timeout, min(self.max_timeout, growth) * spread)


@frozen
class ProbeRate:
    """Judges a half-open circuit by a sample instead of successes in a row.

    Of `calls` probes, `failure_rate` (0 to 1) or more that fail open the circuit again, fewer close it; decided as soon
    as the probes that are still missing cannot change it.
    """

    calls: int = field(default=10, validator=check.count_from(1))
    failure_rate: float = field(default=0.5, validator=check.ratio)

    def __attrs_post_init__(self) -> None:
        if self.failure_rate == 0:
            raise ConfigurationError("ProbeRate: failure_rate must be above 0, or no probe could close the circuit")

    def verdict(self, good: int, bad: int) -> bool | None:
        """True to close, False to open, None to wait for more."""
        enough = math.ceil(self.failure_rate * self.calls - 1e-9)
        if bad >= enough:
            return False
        return True if self.calls - good < enough else None


@frozen
class RampStep:
    """After closing, admit `share` (0 to 1) of the calls for `duration` seconds."""

    share: float = field(validator=check.ratio)
    duration: float = field(converter=to_seconds, validator=check.positive_seconds)

    def __attrs_post_init__(self) -> None:
        if self.share == 0:
            raise ConfigurationError("RampStep: share must be above 0: a step that admits nothing learns nothing")

"""Circuits in the state that a test needs, and jitter that is the same in every run."""

from __future__ import annotations

import random
from collections.abc import Generator
from contextlib import contextmanager

from resilience_core._clock import CHANCE
from resilience_core._machines.circuit import CircuitState
from resilience_core._policies.circuit_breaker import CircuitBreaker


@contextmanager
def forced_state(breaker: CircuitBreaker, state: CircuitState) -> Generator[None, None, None]:
    """Hold `breaker` in `state`; afterwards it is closed and has forgotten everything.

    OPEN and HALF_OPEN obey their own rules from there on; FORCED_OPEN, DISABLED and SHADOW stay.
    """
    breaker.force(state)
    try:
        yield
    finally:
        breaker.reset()


@contextmanager
def seeded(seed: int) -> Generator[None, None, None]:
    """Make the jitter of all policies that were not given a `Chance` repeatable."""
    before = CHANCE.random
    CHANCE.random = random.Random(seed).random
    try:
        yield
    finally:
        CHANCE.random = before

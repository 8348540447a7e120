"""Fixtures for users' tests; none of them acts unless it is asked for."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest


def pytest_configure(config: pytest.Config) -> None:
    """Tests make a policy for each test, and mean it."""
    config.addinivalue_line("filterwarnings", "ignore:policy-per-call")


if TYPE_CHECKING:
    from resilience_core.testing import EventRecorder, TelemetryRecorder, VirtualClock


@pytest.fixture
def virtual_clock() -> Iterator[VirtualClock]:
    """Virtual time for the test: waits of policies take no time."""
    from resilience_core.testing import virtual_time  # inside: a plugin is loaded before coverage starts

    with virtual_time() as clock:
        yield clock


@pytest.fixture
def resilience_events() -> Iterator[EventRecorder]:
    """All events of all policies during the test."""
    from resilience_core.testing import record_events

    with record_events() as recorder:
        yield recorder


@pytest.fixture
def resilience_telemetry() -> Iterator[TelemetryRecorder]:
    """The telemetry of all policies during the test."""
    from resilience_core.testing import record_telemetry

    with record_telemetry() as recorder:
        yield recorder


@pytest.fixture
def resilience_seed() -> Iterator[None]:
    """The same jitter in every run of the test."""
    from resilience_core.testing import seeded

    with seeded(0):
        yield

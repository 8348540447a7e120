"""Fixtures for users' tests: a simulator of the WhatsApp API that listens on the loopback, in a thread.

Switch them on with `pytest_plugins = ["resilience_whatsapp.testing"]` in the root `conftest.py` or in a test module.
The package itself never imports this module: nobody else needs pytest.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from resilience_whatsapp.simulator import SimulatorThread

__all__ = ["whatsapp_simulator", "whatsapp_simulator_options", "whatsapp_simulators"]


@pytest.fixture
def whatsapp_simulator_options() -> dict[str, Any]:
    """Options for all simulators of the tests that see this fixture: override it in a conftest. None by default."""
    return {}


@pytest.fixture
def whatsapp_simulators(whatsapp_simulator_options: dict[str, Any]) -> Iterator[Callable[..., SimulatorThread]]:
    """Makes simulators: `whatsapp_simulators(speed=60)` starts one; all of them end with the test.

    Takes the options of `Simulator`, which come before those of `whatsapp_simulator_options`.
    """
    with ExitStack() as running:

        def start(**options: Any) -> SimulatorThread:
            return running.enter_context(SimulatorThread(**{**whatsapp_simulator_options, **options}))

        yield start


@pytest.fixture
def whatsapp_simulator(whatsapp_simulators: Callable[..., SimulatorThread]) -> SimulatorThread:
    """A running simulator with the options of `whatsapp_simulator_options`."""
    return whatsapp_simulators()

"""`simulate`: the simulator of the API, as `python -m resilience_whatsapp.simulator`."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from collections.abc import Mapping

from resilience_core.cli import Screen
from resilience_whatsapp.simulator import __main__ as simulator

TOLD = "serve a simulator of the API on this host, for tests and trials"
EXAMPLES = "resilience-whatsapp simulate --port 8080\n  resilience-whatsapp simulate --limits real --speed 60"


def add_arguments(parser: ArgumentParser) -> None:
    """See `Command`."""
    simulator.add_arguments(parser)


def run(options: Namespace, screen: Screen, env: Mapping[str, str]) -> int:
    """Serve until told to stop; the exit code."""
    return simulator.run(options)

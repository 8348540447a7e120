"""`simulate`: the simulator of the API; its words are those of `python -m resilience_whatsapp.simulator`."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from collections.abc import Mapping

from resilience_core.cli import Screen
from resilience_whatsapp.simulator.__main__ import main as simulator

TOLD = "serve a simulator of the API on this host, for tests and trials"
EXAMPLES = "resilience-whatsapp simulate --port 8080\n  resilience-whatsapp simulate --help"


def add_arguments(parser: ArgumentParser) -> None:
    """See `Command`. `main` puts `--` in front of the words, so that none of them is taken for one of ours."""
    parser.add_argument("words", nargs="*", help="see simulate --help")


def run(options: Namespace, screen: Screen, env: Mapping[str, str]) -> int:
    """Serve until told to stop; the exit code."""
    return simulator(options.words)

"""A world in which no other process serves and no environment variable names a fleet, and what tests do in it."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Generator
from pathlib import Path
from typing import NamedTuple

import pytest

from resilience_core.cli import main
from resilience_core.feed import feed
from tests.fleet.members import fleets as fleets


class Told(NamedTuple):
    """What a command line has ended with."""

    code: int
    out: str
    err: str


@pytest.fixture
def place(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> Generator[Path]:
    """A short directory for sockets: pytest's own are too long for them."""
    tmp_path_factory.getbasetemp()  # before another place is named for such things
    directory = Path(tempfile.mkdtemp(prefix="rc"))
    monkeypatch.setattr(tempfile, "tempdir", str(directory))
    monkeypatch.setenv("TMPDIR", str(directory))
    for name in ("XDG_RUNTIME_DIR", "REDIS_URL", "RESILIENCE_REDIS_URL", "NO_COLOR", "RESILIENCE_ENVIRONMENT"):
        monkeypatch.delenv(name, raising=False)
    yield directory
    feed.stop()  # else it would hear the events of all tests that come after this one
    shutil.rmtree(directory)


@pytest.fixture
def run(place: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., Told]:
    """Carry a command line out in this process."""

    def run(*words: object) -> Told:
        code = main([str(word) for word in words])
        return Told(code, *capsys.readouterr())

    return run

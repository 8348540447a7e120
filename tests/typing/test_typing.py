"""The types that users see are checked by mypy and by pyright."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

CHECKED = Path(__file__).with_name("check_types.py")


@pytest.mark.parametrize("tool", ["mypy", "pyright"])
def test_decorating_keeps_every_type(tool: str) -> None:
    program = Path(sys.executable).with_name(tool)
    if not program.exists():
        pytest.skip(f"{tool} is not installed here; `make types` installs it and checks the same file")
    command = [str(program), "--strict", str(CHECKED)] if tool == "mypy" else [str(program), str(CHECKED)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=CHECKED.parent.parent.parent)
    assert done.returncode == 0, done.stdout

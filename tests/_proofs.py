"""Runs the proofs in their small form, as their tests need it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests._cost import unmeasured

ROOT = Path(__file__).parents[1]


def proved(package: str, file: Path, *options: str) -> tuple[int, list[dict[str, Any]], str]:
    """Exit code, rows, and what it printed."""
    command = [sys.executable, "-m", package, "--small", "--json", str(file), *options]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT, env=unmeasured(), timeout=280)
    rows = json.loads(file.read_text()) if file.exists() else []
    return done.returncode, rows, done.stdout + done.stderr

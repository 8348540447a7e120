"""The benchmark runs and prints every row; what it measures is not judged here."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from benchmarks.__main__ import SINGLE, judged
from benchmarks.rows import rows
from tests._cost import unmeasured


def test_every_row_is_measured(tmp_path: Path) -> None:
    figures = tmp_path / "figures.json"
    command = [sys.executable, "-m", "benchmarks", "--quick", "--json", str(figures)]
    root = Path(__file__).parent.parent
    # Under coverage it would measure coverage, and for four times as long.
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=root, env=unmeasured())
    assert done.returncode == 0, done.stderr
    found = json.loads(figures.read_text())
    assert [row["row"] for row in found] == [row.name for row in rows()] + [row[0] for row in SINGLE]
    assert all(row["nanoseconds"]["ours"] > 0 for row in found[: len(rows())])


def test_met_and_missed() -> None:
    assert judged(1.0, 1.0).endswith("met")
    assert judged(1.1, 1.0).endswith("MISSED")
    assert judged(1.1, None) == "1.10x"

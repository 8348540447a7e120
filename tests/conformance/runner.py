"""Runs test vectors of other systems against our machines: one module a file, one verdict a vector.

Each module offers `FILE`, `run(vector)`, which raises `AssertionError` where we differ, and `skip(vector)`, which
answers a one-line reason where a vector asks for something that we do not have or decided otherwise.
"""

from __future__ import annotations

import json
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from tests.conformance import adaptive, backoff, breaker, quota, rate_limit, retry_after, stress, windows

MODULES: tuple[ModuleType, ...] = (breaker, windows, stress, backoff, quota, rate_limit, adaptive, retry_after)
SHARED = Path(__file__).parents[3] / "shared" / "vectors"


def vectors(module: ModuleType, directory: Path) -> list[dict[str, Any]]:
    """The vectors of a module's file that belong to our profile."""
    content = json.loads((directory / module.FILE).read_text())["vectors"]
    chosen: list[dict[str, Any]] = module.choose(content, directory)
    return chosen


def report(directory: Path) -> tuple[list[str], int, int, int]:
    """Lines to print, and how many passed, failed, were skipped."""
    lines, passed, failed, skipped = [], 0, 0, 0
    for module in MODULES:
        if not (directory / module.FILE).exists():
            lines.append(f"{module.FILE}: not in this directory")
            continue
        for vector in vectors(module, directory):
            reason = module.skip(vector)
            if reason is not None:
                skipped += 1
                lines.append(f"skipped {vector['id']}: {reason}")
                continue
            try:
                module.run(vector)
                passed += 1
            except (AssertionError, pytest.fail.Exception) as error:
                failed += 1
                lines.append(f"FAILED {vector['id']}: {error}")
    return lines, passed, failed, skipped


def skips_as_markdown(directory: Path) -> str:
    """Every vector that is not followed, by file, algorithm and reason."""
    lines: list[str] = []
    for module in MODULES:
        reasons: dict[tuple[str, str], list[str]] = {}
        for vector in vectors(module, directory):
            reason = module.skip(vector)
            if reason is not None:
                algorithm = vector.get("algorithm", vector.get("kind", vector.get("semantics", "any")))
                name = algorithm["name"] if isinstance(algorithm, dict) else algorithm
                reasons.setdefault((name, reason), []).append(vector["id"])
        if reasons:
            lines += ["", f"### {module.FILE}", ""]
        for (name, reason), ids in sorted(reasons.items()):
            lines.append(f"* {name}: {reason}: {', '.join(f'`{each}`' for each in ids)}")
    return "\n".join(lines).strip()

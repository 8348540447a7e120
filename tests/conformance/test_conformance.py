"""The vectors as tests; the runner compares, and a changed expectation is caught."""

from __future__ import annotations

import copy
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from tests._cost import unmeasured
from tests.conformance import breaker
from tests.conformance.runner import MODULES, SHARED, vectors

pytestmark = pytest.mark.skipif(not SHARED.is_dir(), reason="the vectors are not part of the project")
CASES = [(module, vector) for module in MODULES for vector in (vectors(module, SHARED) if SHARED.is_dir() else [])]


@pytest.mark.parametrize(("module", "vector"), CASES, ids=[vector["id"] for _, vector in CASES])
def test_vector(module: ModuleType, vector: dict[str, Any]) -> None:
    reason = module.skip(vector)
    if reason is not None:
        pytest.skip(reason)
    module.run(vector)


def test_the_12_core_scenarios_all_run() -> None:
    core = json.loads((SHARED / "breaker" / "portable.json").read_text())["core"]
    assert len(core) == 12
    assert not set(core) & set(breaker.SKIPS)
    assert set(core) <= {vector["id"] for vector in vectors(breaker, SHARED)}


def test_every_allowed_skip_exists() -> None:
    for module in MODULES:
        ids = {vector["id"] for vector in vectors(module, SHARED)}
        assert set(module.SKIPS) <= ids


def test_the_docs_list_every_skip_with_its_reason() -> None:
    page = (Path(__file__).parents[2] / "docs" / "conformance.md").read_text()
    for module, vector in CASES:
        reason = module.skip(vector)
        if reason is not None:
            assert f"`{vector['id']}`" in page, vector["id"]
            assert reason in page, reason


def changed(expect: Any, compared: tuple[str, ...]) -> Iterator[Any]:
    """The same expectation with one value changed, for each value that is compared."""
    if isinstance(expect, dict):
        for key in expect:
            if key in compared:
                for value in changed(expect[key], compared):
                    yield {**expect, key: value}
    elif isinstance(expect, bool):
        yield not expect
    elif isinstance(expect, str):
        yield "half_open" if expect == "closed" else "closed" if expect in ("open", "half_open") else 1.0
    elif isinstance(expect, (int, float)):
        yield expect + 3  # more than any tolerance that a vector allows
    elif isinstance(expect, list):
        for index in range(len(expect)):
            for value in changed(expect[index], compared):
                yield [*expect[:index], value, *expect[index + 1 :]]


def mutants() -> Iterator[tuple[ModuleType, dict[str, Any]]]:
    for module, vector in CASES:
        if module.skip(vector) is not None:
            continue
        part = next((name for name in ("timeline", "steps") if name in vector), None)
        if part is None:
            key = "expect_safe" if vector.get("expect_safe") else "expect"
            for expect in changed(vector[key], module.COMPARED):
                if expect.get("no_hint") is False:
                    expect = {"seconds": 1.0}
                yield module, {**vector, key: expect}
            continue
        for index, step in enumerate(vector[part]):
            if step.get("op") == "set_rate":
                continue  # its rate is an input
            inside = "expect" in step
            for expect in changed(step["expect"] if inside else step, module.COMPARED):
                mutant = copy.deepcopy(vector)
                mutant[part][index] = {**step, "expect": expect} if inside else expect
                yield module, mutant


def test_a_changed_expectation_is_caught() -> None:
    found = list(mutants())
    assert len(found) > 1000
    missed = [mutant["id"] for module, mutant in found if not caught(module, mutant)]
    assert not missed


def caught(module: ModuleType, mutant: dict[str, Any]) -> bool:
    try:
        module.run(mutant)
    except (AssertionError, pytest.fail.Exception):
        return True
    return False


def test_the_command_prints_counts_and_reasons(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tests.conformance"]
    root = Path(__file__).parents[2]
    env = unmeasured()  # `test_vector` runs the same vectors in this process
    done = subprocess.run([*command, str(SHARED)], capture_output=True, text=True, check=False, cwd=root, env=env)
    lines = done.stdout.splitlines()
    assert done.returncode == 0, done.stdout
    assert lines[-1].split(",")[1] == " 0 failed"
    assert f", {len(lines) - 1} skipped" in lines[-1]
    empty = subprocess.run([*command, str(tmp_path)], capture_output=True, text=True, check=False, cwd=root, env=env)
    assert empty.stdout.splitlines()[-1] == "0 passed, 0 failed, 0 skipped"

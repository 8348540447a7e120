"""The JSON Schema is that of the classes, and says of a file what loading it would, as far as a schema can."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator

import resilience_core
from resilience_core import config
from resilience_core.config import _schema as module
from tests.config._golden import read

ROOT = Path(__file__).parents[2]
SCHEMA = config.schema()
JUDGED = [case for case in read() if case.document() is not None]
VALUES = """
[budgets.shared]
law = { type = "TokenQuota", capacity = 100 }
[policies.all]
idempotent = true
allow = { plan-exceeds-deadline = "the later attempts are rare" }
fallback = { value = { items = [], at = "none" } }
stale_cache = { fresh_for = "1m", stale_for = "1.5h", file = "cache.json" }
coalesce = true
timeout = { seconds = 30, thread = true }
deadline = { seconds = "40 s" }
retry = { jitter = "full", backoff = { type = "Linear", increment = "250ms" }, budget = "shared", max_elapsed = 20 }
circuit_breaker.trip = [{ type = "ConsecutiveFailures", threshold = 9 }, { type = "SlowCallRate", slower_than = 2 }]
circuit_breaker.ramp = [{ share = 0.1, duration = "10s" }, { type = "RampStep", share = 0.5, duration = 10 }]
circuit_breaker.probe_rate = { calls = 5 }
adaptive_throttle = { k = 1.5 }
adaptive_concurrency = { law = { type = "AIMD", initial = 30, timeout = "500ms" } }
bulkhead = { max_concurrent = 10, max_queue = 5, max_wait = 0.5 }
rate_limiter = { rate = 80.5, per = "1m", burst = 10 }
attempt_timeout = { seconds = 8 }
chaos = { latency = 0.1, latency_rate = 0.01, schedule = [[0, 10], [20.5, 30]], seed = 7 }
[policies.slow]
extends = "standard_hedging"
idempotent = true
bulkhead = false
"""


def blocks(page: Path) -> list[str]:
    """The TOML in the code of a docs page."""
    text = page.read_text("utf-8")
    written = re.findall(r'(?:write_text|from_toml)\("""(.*?)"""', text, re.DOTALL)
    return [*re.findall(r"```toml\n(.*?)```", text, re.DOTALL), *written]


def accepted(document: Any) -> bool:
    return not list(Draft202012Validator(SCHEMA).iter_errors(document))


def test_the_checked_in_file_is_current() -> None:
    command = f".venv/bin/python -m {module.__name__}"
    assert module.FILE.read_text("utf-8") == module.as_text(), f"run {command}"


def test_the_command_writes_the_file_as_it_is() -> None:
    before = module.FILE.read_text("utf-8")
    subprocess.run([sys.executable, "-m", module.__name__], check=True, cwd=ROOT)
    assert module.FILE.read_text("utf-8") == before


def test_whoever_imports_its_module_can_still_ask_for_it() -> None:
    code = "import resilience_core.config._schema\nfrom resilience_core import config\nconfig.schema()"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


def test_it_is_valid() -> None:
    assert SCHEMA["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    Draft202012Validator.check_schema(SCHEMA)


def test_it_accepts_every_kind_of_value_and_so_does_the_loader() -> None:
    config.from_toml(VALUES)
    assert accepted(tomllib.loads(VALUES))


def test_it_accepts_what_is_shown() -> None:
    assert accepted(tomllib.loads(config.show(config.from_toml(VALUES))))


def test_it_accepts_the_configurations_of_the_documentation() -> None:
    good = 0
    for page in (ROOT / "docs" / "configuration.md", ROOT / "docs" / "reload.md"):
        for text in blocks(page):
            try:
                config.from_toml(text)
            except config.InvalidConfiguration:
                continue
            good += 1
            assert accepted(tomllib.loads(text)), text
    assert good >= 3


@pytest.mark.parametrize("case", JUDGED, ids=lambda case: case.name)
def test_it_refuses_what_is_wrong_unless_it_cannot_express_that(case: Any) -> None:
    assert accepted(case.document()) is (case.beyond_schema is not None)


def test_most_of_what_is_wrong_can_be_expressed() -> None:
    assert sum(case.beyond_schema is None for case in JUDGED) >= 100


def options() -> Iterator[tuple[str, dict[str, Any]]]:
    for name, table in SCHEMA["$defs"].items():
        for option, told in table["properties"].items():
            yield f"{name}.{option}", told


@pytest.mark.parametrize(("name", "told"), list(options()))
def test_every_option_is_described(name: str, told: dict[str, Any]) -> None:
    assert told["description"].endswith((".", "?")) or len(told["description"]) > 10


def test_every_value_that_is_a_table_is_described() -> None:
    def tables(node: Any) -> Iterator[dict[str, Any]]:
        if isinstance(node, dict):
            if "const" in node.get("properties", {}).get("type", {}):
                yield node
            for each in node.values():
                yield from tables(each)
        elif isinstance(node, list):
            for each in node:
                yield from tables(each)

    found = list(tables(SCHEMA))
    assert len(found) > 20
    assert all(table["description"] for table in found)


def test_it_lies_in_the_package_that_the_wheel_contains() -> None:
    assert module.FILE.parent == Path(resilience_core.__file__).parent / "config"
    wheel = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["tool"]["hatch"]["build"]["targets"]["wheel"]
    assert wheel == {"packages": ["resilience_core"]}  # all files below it, those that git ignores excepted
    ignored = subprocess.run(["git", "check-ignore", module.FILE], cwd=ROOT, capture_output=True, check=False)
    assert ignored.returncode != 0

"""Who may import whom: DESIGN's layers, read from the source."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
CORE = ROOT / "resilience_core"
WHATSAPP = ROOT / "adapters" / "whatsapp" / "resilience_whatsapp"
LAYERS = {
    1: (
        "_version",
        "_errors",
        "_fork",
        "_validation",
        "_verdicts",
        "_events",
        "_config_events",
        "_fleet_events",
        "_schema",
        "_event_records",
        "_event_log",
        "_story",
        "_explain",
        "_machines",
    ),
    2: ("_clock", "_telemetry", "registry", "_weave", "_views"),
    3: ("_policies",),
    4: ("_pipeline", "_describe", "_lint", "_lint_rules", "_standard"),
    5: ("testing", "config", "fleet", "feed", "otel", "logs"),
    6: ("redis", "health", "admin"),
    7: ("cli", "__main__"),
}
FORBIDDEN_IN_MACHINES = {"time", "threading", "asyncio", "logging", "random", "contextvars", "socket"}


def imports_of(path: Path) -> set[str]:
    """Modules that a file imports at any depth; imports for types only are left out."""
    found: set[str] = set()
    tree = ast.parse(path.read_text())
    typing_only = {
        id(node)
        for block in ast.walk(tree)
        if isinstance(block, ast.If) and ast.unparse(block.test) == "TYPE_CHECKING"
        for node in ast.walk(block)
    }
    for node in ast.walk(tree):
        if id(node) in typing_only:
            continue
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            found.add(node.module or "")
            if node.module in ("resilience_core", "resilience_core._machines"):
                found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def files(top: Path) -> list[Path]:
    return sorted(top.rglob("*.py"))


def layer_of(module: str) -> int | None:
    part = module.removeprefix("resilience_core.").split(".")[0]
    return next((number for number, names in LAYERS.items() if part in names), None)


@pytest.mark.parametrize("path", files(CORE), ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_of_the_core_point_down(path: Path) -> None:
    module = ".".join(path.relative_to(ROOT).with_suffix("").parts)
    own = layer_of(module)
    for imported in imports_of(path):
        assert not imported.startswith(("resilience_http", "resilience_whatsapp"))
        assert not imported.startswith("aiohttp") or module == "resilience_core.health._aiohttp"
        assert not imported.startswith("redis") or own in (layer_of("redis"), layer_of("cli"))
        # Programs that ask for it get it set up, and tests a recorder; nothing else knows the SDK.
        assert not imported.startswith("opentelemetry.sdk") or module in (
            "resilience_core.otel",
            "resilience_core.testing._telemetry",
        )
        if own is None or not imported.startswith("resilience_core."):
            continue
        other = layer_of(imported)
        if other is not None:
            assert other <= own, f"{module} (layer {own}) imports {imported} (layer {other})"


def test_there_are_no_cycles() -> None:
    graph: dict[str, set[str]] = {}
    for path in files(CORE):
        module = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        top_level = ast.parse(path.read_text()).body
        graph[module] = set()
        for node in top_level:
            if isinstance(node, ast.ImportFrom) and node.module == "resilience_core":
                graph[module] |= {f"resilience_core.{alias.name}" for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module is not None:
                graph[module].add(node.module)
    done: set[str] = set()

    def visit(module: str, above: tuple[str, ...]) -> None:
        assert module not in above, " -> ".join((*above, module))
        if module in graph and module not in done:
            for imported in graph[module]:
                visit(imported, (*above, module))
            done.add(module)

    for module in graph:
        visit(module, ())


@pytest.mark.parametrize("path", files(CORE / "_machines"), ids=lambda path: path.name)
def test_machines_know_neither_time_nor_threads(path: Path) -> None:
    assert not {name.split(".")[0] for name in imports_of(path)} & FORBIDDEN_IN_MACHINES


def test_importing_the_core_loads_nothing_heavy() -> None:
    code = "import sys, resilience_core; print(*sorted(sys.modules))"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    modules = {name.split(".")[0] for name in loaded.stdout.split()}
    assert not modules & {"redis", "aiohttp", "asyncio", "trio", "anyio", "opentelemetry", "pytest", "cattrs"}


def test_the_adapters_use_public_names_of_the_core_only() -> None:
    for path in [*files(ROOT / "adapters" / "http" / "resilience_http"), *files(WHATSAPP)]:
        for name in imports_of(path):
            if name.startswith("resilience_core"):
                assert not any(part.startswith("_") for part in name.split(".")), f"{path}: {name}"


def test_the_simulator_imports_nothing_of_the_client() -> None:
    for path in files(WHATSAPP / "simulator"):
        for name in imports_of(path):
            assert not name.startswith(("resilience_core", "resilience_http")), f"{path}: {name}"
            if name.startswith("resilience_whatsapp"):
                assert name.startswith("resilience_whatsapp.simulator"), f"{path}: {name}"


def test_what_is_loaded_on_first_use_is_listed_once() -> None:
    import resilience_core

    code = "import sys, resilience_core; print(*sorted(sys.modules))"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    for name, module in resilience_core._LAZY.items():
        assert name in resilience_core.__all__
        assert name in dir(resilience_core)
        assert f"resilience_core.{module}" not in loaded.stdout.split(), f"{module} is loaded at import"
    with pytest.raises(AttributeError, match="no attribute 'Nothing'"):
        _ = resilience_core.Nothing


def test_the_public_names_are_the_ones_that_are_written_down() -> None:
    import resilience_core

    written = (ROOT / "tests" / "public_api.txt").read_text().split()
    assert sorted(resilience_core.__all__) == written
    assert all(hasattr(resilience_core, name) for name in written)

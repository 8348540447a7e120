"""The blocking and the async weave of a policy are the same text but for `async`, `await` and a few names."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

CORE = Path(__file__).parent.parent / "resilience_core"
# Each async name and the blocking one that stands in its place.
NAMES = {
    "bind_async": "bind",
    "AsyncCall": "Call",
    "async_sleep": "sleep",
    "_async_sleeper": "_sleeper",
    "stream_gate_async": "stream_gate",
    "judging_results_async": "judging_results",
    "enter_async": "enter",
    "enter_or_spare_async": "enter_or_spare",
    "_wait_async": "_wait",
    "_answer_async": "_answer",
    "_weave_async": "_weave",
    "measured_async": "measured",
    "measured_opening_async": "measured_opening",
    "attempted_async": "attempted",
    "unanswered_async": "unanswered",
    "_recorded_async": "_recorded",
    "async_waiter": "ThreadWaiter",
    "pause_async": "pause",
    "spawn_async": "spawn",
    "spawn_awaited_async": "spawn_awaited",
    "wind_up_async": "wind_up",
    "_paced_async": "_paced",
}
MUST_HAVE_ONE = (
    "bind_async",
    "enter_or_spare_async",
    "judging_results_async",
    "measured_async",
    "measured_opening_async",
    "attempted_async",
    "_recorded_async",
    "stream_gate_async",
    "_paced_async",
    "_wait_async",
)
EXEMPT = {"timeout.py": "blocking code cannot be interrupted: it gets a deadline or a thread instead of a cancellation"}


class Strip(ast.NodeTransformer):
    """Turns an async function into its blocking twin."""

    def visit_AsyncFunctionDef(self, node: ast.AsyncFunctionDef) -> ast.AST:
        plain = ast.FunctionDef(**{name: getattr(node, name) for name in node._fields})
        return self.visit(ast.copy_location(plain, node))

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.AST:
        node.name = NAMES.get(node.name, node.name)
        if ast.get_docstring(node) is not None:
            node.body = node.body[1:]
        self.generic_visit(node)
        return node

    def visit_Await(self, node: ast.Await) -> ast.AST:
        return self.visit(node.value)

    def visit_Name(self, node: ast.Name) -> ast.AST:
        node.id = NAMES.get(node.id, node.id)
        return node

    def visit_Attribute(self, node: ast.Attribute) -> ast.AST:
        self.generic_visit(node)
        node.attr = NAMES.get(node.attr, node.attr)
        return node


def stripped(node: ast.AST) -> str:
    return ast.dump(Strip().visit(node))


def pairs(path: Path) -> list[tuple[str, ast.AST, ast.AST]]:
    found = []
    for holder in ast.walk(ast.parse(path.read_text())):
        functions = {
            node.name: node
            for node in ast.iter_child_nodes(holder)
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))
        }
        for name, node in functions.items():
            twin = functions.get(NAMES.get(name, ""))
            if name in (
                "bind_async",
                "stream_gate_async",
                "judging_results_async",
                "measured_async",
                "_wait_async",
                "_paced_async",
            ):
                assert twin is not None, f"{path}: {name} has no twin"
                found.append((f"{path.name}:{name}", twin, node))
    return found


def all_pairs() -> list[tuple[str, ast.AST, ast.AST]]:
    sources = [*(CORE / "_policies").glob("*.py"), *(CORE / "_weave").glob("*.py"), *(CORE / "_telemetry").glob("*.py")]
    return [pair for path in sources if path.name not in (*EXEMPT, "edge.py") for pair in pairs(path)]


@pytest.mark.parametrize(("name", "blocking", "other"), all_pairs(), ids=[pair[0] for pair in all_pairs()])
def test_twins_are_equal(name: str, blocking: ast.AST, other: ast.AST) -> None:
    assert stripped(blocking) == stripped(other)


def test_there_are_twins() -> None:
    assert len(all_pairs()) >= 10


def test_a_difference_is_caught() -> None:
    blocking = ast.parse("def bind(self, call: Call): return call(1)")
    other = ast.parse("async def bind_async(self, call: AsyncCall): return await call(2)")
    assert stripped(blocking) != stripped(other)

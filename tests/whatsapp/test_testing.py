"""The fixtures for users' tests."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

DOCS = Path(__file__).parents[2] / "docs" / "whatsapp" / "simulator.md"
MORE = """
import pytest

pytest_plugins = ["resilience_whatsapp.testing"]

@pytest.fixture
def whatsapp_simulator_options():
    return {"seed": 3, "numbers": 5}

def test_the_fixture_of_options_is_for_all(whatsapp_simulator, whatsapp_simulators):
    assert len(whatsapp_simulator.simulator.world.numbers) == 5
    other = whatsapp_simulators(numbers=1)
    assert len(other.simulator.world.numbers) == 1
    assert other.base_url != whatsapp_simulator.base_url

def test_they_end_with_the_test(whatsapp_simulator):
    import threading
    assert sum(thread.name == "graph-api-simulator" for thread in threading.enumerate()) == 1

def test_options_exist(whatsapp_simulators):
    with pytest.raises(TypeError, match="colour"):
        whatsapp_simulators(colour="red")
"""


def test_the_fixtures_and_the_recipe_of_the_documentation_work_in_a_users_pytest(tmp_path: Path) -> None:
    blocks = re.findall(r"```python\n(.*?)```", DOCS.read_text(), re.DOTALL)
    (recipe,) = [block for block in blocks if "pytest_plugins" in block]
    (tmp_path / "test_recipe.py").write_text(recipe)
    (tmp_path / "test_more.py").write_text(MORE)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", f"--rootdir={tmp_path}"]
    environment = {**os.environ, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}  # what else is installed only takes time
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, "6 passed" in done.stdout) == (0, True), done.stdout

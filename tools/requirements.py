"""Writes `requirements/*.txt`: everything pinned and hashed, from one resolution. Run by `make requirements`; needs uv.

The inputs are the three `pyproject.toml`. All groups are resolved together first, and that answer constrains each file,
so any set of the files can be installed side by side. The files name no index: where packages come from is the
configuration of the machine that installs them.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
PROJECTS = (ROOT, ROOT / "adapters" / "http", ROOT / "adapters" / "whatsapp")
OLDEST_PYTHON = "3.11"
HEADER = "# Written by `make requirements` from the pyproject.toml files: do not edit.\n"


def read_project(directory: Path) -> dict[str, Any]:
    return tomllib.loads((directory / "pyproject.toml").read_text())


def wanted() -> dict[str, list[str]]:
    """The unpinned requirements of each file; `base` is all that the three distributions and their extras need."""
    projects = [read_project(directory) for directory in PROJECTS]
    ours = {project["project"]["name"] for project in projects}
    base: set[str] = set()
    for project in projects:
        base.update(project["project"]["dependencies"])
        for extra in project["project"].get("optional-dependencies", {}).values():
            base.update(extra)
    outside = sorted(line for line in base if re.split(r"[^A-Za-z0-9._-]", line, maxsplit=1)[0] not in ours)
    return {"base": outside, **projects[0]["dependency-groups"]}


def compile_pins(uv: str, requirements: list[str], constraints: Path | None, *, hashes: bool) -> str:
    command = [uv, "--no-config", "pip", "compile", "-", "--universal", "--python-version", OLDEST_PYTHON]
    command += ["--quiet", "--no-header", "--no-annotate", "--no-emit-index-url", "--no-emit-find-links"]
    if constraints is not None:
        command += ["--constraints", str(constraints)]
    if hashes:
        command.append("--generate-hashes")
    done = subprocess.run(command, input="\n".join(requirements), text=True, stdout=subprocess.PIPE, check=False)
    if done.returncode != 0:
        sys.exit(done.returncode)  # uv has said why
    return done.stdout


def main() -> int:
    uv = shutil.which("uv")
    if uv is None:
        print("make requirements needs uv: install it with `python3 -m pip install uv` (in a venv of its own)")
        return 1
    files = wanted()
    together = sorted({line for lines in files.values() for line in lines})
    with tempfile.TemporaryDirectory() as scratch:
        constraints = Path(scratch, "constraints.txt")
        constraints.write_text(compile_pins(uv, together, None, hashes=False))
        for name, lines in files.items():
            pins = compile_pins(uv, lines, constraints, hashes=True)
            (ROOT / "requirements" / f"{name}.txt").write_text(HEADER + pins)
            print(f"requirements/{name}.txt: {pins.count('==')} packages")
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""Runs pytest with the arguments given on every other supported CPython that this machine has. Standard library only.

"Other" than the one that runs this script. Each gets an environment of its own, `.venv-3.12` and so on. An interpreter
counts when it really runs: version managers put names on PATH that do not.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SUPPORTED = ((3, 11), (3, 12), (3, 13))


def answer(*command: str) -> str:
    """What a program prints, or nothing if it is missing or fails."""
    if shutil.which(command[0]) is None:
        return ""
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, check=False)
    return done.stdout.strip() if done.returncode == 0 else ""


def runs(interpreter: str, version: tuple[int, int]) -> bool:
    code = "import sys; print(sys.implementation.name, sys.version_info[:2])"
    return answer(interpreter, "-c", code) == f"cpython {version}"


def find(version: tuple[int, int]) -> str | None:
    """The interpreter's path: from PATH, or the newest one of pyenv."""
    name = f"python{version[0]}.{version[1]}"
    if runs(name, version):
        # Not the name on PATH: a shim finds something else in another directory or on another day.
        return answer(name, "-c", "import sys; print(sys.executable)")
    kept = re.findall(rf"^{version[0]}\.{version[1]}\.(\d+)$", answer("pyenv", "versions", "--bare"), re.MULTILINE)
    for patch in sorted(map(int, kept), reverse=True):
        path = f"{answer('pyenv', 'root')}/versions/{version[0]}.{version[1]}.{patch}/bin/python"
        if runs(path, version):
            return path
    return None


def test_on(interpreter: str, version: tuple[int, int], arguments: list[str]) -> bool:
    venv = ROOT / f".venv-{version[0]}.{version[1]}"
    setup = [interpreter, str(ROOT / "tools" / "bootstrap.py"), "--venv", str(venv), "base", "test"]
    if subprocess.run(setup, cwd=ROOT, check=False).returncode != 0:
        return False
    pytest = [str(venv / "bin" / "python"), "-m", "pytest", *arguments]
    return subprocess.run(pytest, cwd=ROOT, check=False).returncode == 0


def main() -> int:
    failed: list[str] = []
    for version in SUPPORTED:
        if version == sys.version_info[:2]:
            continue
        label = f"CPython {version[0]}.{version[1]}"
        interpreter = find(version)
        if interpreter is None:
            print(f"{label}: not on this machine", flush=True)
            continue
        print(f"{label}:", flush=True)
        if not test_on(interpreter, version, sys.argv[1:]):
            failed.append(label)
    if failed:
        print(f"failed on {', '.join(failed)}")
    return bool(failed)


if __name__ == "__main__":
    sys.exit(main())

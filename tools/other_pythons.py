"""Runs pytest with the arguments given on every other supported CPython that this machine has. Standard library only.

With `--set-up` alone it only makes their environments.

"Other" than the one that runs this script. Each gets an environment of its own, `.venv-3.12` and so on. An interpreter
counts when it really runs: version managers put names on PATH that do not.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
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


def venv_of(version: tuple[int, int]) -> Path:
    return ROOT / f".venv-{version[0]}.{version[1]}"


def set_up(interpreter: str, version: tuple[int, int]) -> bool:
    command = [interpreter, str(ROOT / "tools" / "bootstrap.py"), "--venv", str(venv_of(version)), "base", "test"]
    return subprocess.run(command, cwd=ROOT, check=False).returncode == 0


def test_on(version: tuple[int, int], arguments: list[str]) -> bool:
    pytest = [str(venv_of(version) / "bin" / "python"), "-m", "pytest", *arguments]
    return subprocess.run(pytest, cwd=ROOT, check=False).returncode == 0


def main() -> int:
    arguments = sys.argv[1:]
    only_set_up = arguments == ["--set-up"]
    others = [version for version in SUPPORTED if version != sys.version_info[:2]]
    found = {version: path for version in others if (path := find(version)) is not None}
    with ThreadPoolExecutor(len(others)) as side_by_side:  # each set-up uses one core
        done = dict(zip(found, side_by_side.map(set_up, found.values(), found), strict=True))
    failed: list[str] = []
    for version in others:
        label = f"CPython {version[0]}.{version[1]}"
        if not only_set_up:
            print(f"{label}:" if version in found else f"{label}: not on this machine", flush=True)
        if version in found and not (done[version] and (only_set_up or test_on(version, arguments))):
            failed.append(label)
    if failed:
        print(f"failed on {', '.join(failed)}")
    return bool(failed)


if __name__ == "__main__":
    sys.exit(main())

"""Makes the virtual environment of this tree: `python tools/bootstrap.py [--venv DIR] GROUP...`. Standard library only.

A group is a file of `requirements/`: pinned, hashed, and installed with `--require-hashes`. The three distributions are
then installed editable. Where pip finds packages is the machine's own configuration: nothing here names an index.

Laws:
* A venv is whole or made anew. Its stamp (`resilience-bootstrap.json`) is removed before packages are installed and
  written after, so one that was interrupted has none. Changed pins or another interpreter also mean a new venv.
* Nothing to do costs one comparison of hashes.
* Two runs at once for one venv (`make -j`, two terminals) take turns.
* What fails is told in a few lines, with what to do about it.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import hashlib
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Generator, Sequence

ROOT = Path(__file__).resolve().parent.parent
REQUIREMENTS = ROOT / "requirements"
PROJECTS = (ROOT, ROOT / "adapters" / "http", ROOT / "adapters" / "whatsapp")
STAMP = "resilience-bootstrap.json"
OLDEST_PYTHON = (3, 11)
ONLY_AS_SOURCE = ("pyfailsafe",)  # a peer of the benchmarks


class SetupError(Exception):
    """The set-up cannot go on; the text tells why and what to do."""


def main() -> int:
    parser = argparse.ArgumentParser(description="Make or update the virtual environment.")
    parser.add_argument("--venv", type=Path, default=ROOT / ".venv")
    parser.add_argument("groups", nargs="+", metavar="GROUP", help="a file of requirements/, without .txt")
    options = parser.parse_args()
    try:
        check_interpreter()
        groups = check_groups(options.groups)
        with one_at_a_time(options.venv):
            update(options.venv, groups)
    except SetupError as error:
        print(f"\nset-up failed: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nset-up interrupted: the next run starts it again", file=sys.stderr)
        return 130
    return 0


def check_interpreter() -> None:
    if sys.version_info < OLDEST_PYTHON:
        have = ".".join(map(str, sys.version_info[:3]))
        raise SetupError(
            f"Python {have} ({sys.executable}) is too old: 3.11 or newer is needed.\n"
            "Install one and name it: make PYTHON=/path/to/python3.12 ..."
        )


def check_groups(names: Sequence[str]) -> list[str]:
    for name in names:
        if not (REQUIREMENTS / f"{name}.txt").is_file():
            raise SetupError(f"no such group: {name} (there is no requirements/{name}.txt)")
    return sorted({*names, "base", "build"})  # `build` holds the backend that installs the distributions


@contextlib.contextmanager
def one_at_a_time(venv: Path) -> Generator[None]:
    cache = ROOT / ".cache"
    cache.mkdir(exist_ok=True)
    with (cache / f"bootstrap-{venv.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # given back when the file is closed, however this process ends
        yield


def update(venv: Path, groups: list[str]) -> None:
    stamp = venv / STAMP
    have = read_stamp(stamp)
    want = wanted_stamp(groups, have)
    if have == want:
        return
    begun = time.monotonic()
    if not may_grow(have, want) or not python_of(venv).exists():
        have = NOTHING
        make_venv(venv)
    missing = [name for name in want["groups"] if name not in have["groups"]]
    if missing:
        stamp.unlink(missing_ok=True)
        try:
            install(venv, missing)
        except SetupError:
            # pip ended by itself and has cleaned up (an index out of reach, say): what was there before is good.
            write_stamp(stamp, {**have, "interpreter": want["interpreter"]})
            raise
        write_stamp(stamp, {**want, "projects": have["projects"]})
    if have["projects"] != want["projects"]:
        install_projects(venv)  # if it ends half-way, it is simply done again
        write_stamp(stamp, want)
    say(f"{venv.name} is ready ({', '.join(want['groups'])}; {time.monotonic() - begun:.0f} s)")


# The stamp


NOTHING: dict[str, Any] = {"interpreter": None, "groups": {}, "projects": {}}


def read_stamp(stamp: Path) -> dict[str, Any]:
    try:
        content: dict[str, Any] = json.loads(stamp.read_text())
    except (OSError, ValueError):
        return NOTHING  # no venv, or a half-made one
    return content if content.keys() == NOTHING.keys() else NOTHING


def may_grow(have: dict[str, Any], want: dict[str, Any]) -> bool:
    """Whether groups may be added to the venv as it is: same interpreter, and the same pins for what it holds."""
    unchanged: bool = have["groups"].items() <= want["groups"].items()
    return have["interpreter"] == want["interpreter"] and unchanged


def write_stamp(stamp: Path, content: dict[str, Any]) -> None:
    new = stamp.with_suffix(".new")
    new.write_text(json.dumps(content, indent=1))
    new.replace(stamp)


def wanted_stamp(groups: list[str], have: dict[str, Any]) -> dict[str, Any]:
    """Groups that were asked for earlier stay: `make demo` after `make check` has nothing to do."""
    earlier = [name for name in have["groups"] if (REQUIREMENTS / f"{name}.txt").is_file()]
    return {
        "interpreter": [sys.version, sys.prefix, str(ROOT)],
        "groups": {name: digest((REQUIREMENTS / f"{name}.txt").read_bytes()) for name in sorted({*groups, *earlier})},
        "projects": {str(path.relative_to(ROOT)): project_digest(path / "pyproject.toml") for path in PROJECTS},
    }


def project_digest(pyproject: Path) -> str:
    """What an installed distribution is made from. The settings of linters may change without a new installation."""
    import tomllib  # not before the check: Python 3.10 has none

    content = tomllib.loads(pyproject.read_text())
    relevant = [content.get("build-system"), content.get("project"), content.get("tool", {}).get("hatch")]
    return digest(json.dumps(relevant, sort_keys=True).encode())


def digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


# The steps


def make_venv(venv: Path) -> None:
    if importlib.util.find_spec("venv") and importlib.util.find_spec("ensurepip"):
        module = ["venv"]
    elif importlib.util.find_spec("virtualenv"):
        module = ["virtualenv", "--quiet"]
    else:
        version = f"{sys.version_info[0]}.{sys.version_info[1]}"
        raise SetupError(
            f"{sys.executable} has no `ensurepip`, so it cannot make virtual environments.\n"
            f"Debian, Ubuntu: apt-get install python{version}-venv. "
            f"Without root: {sys.executable} -m pip install --user virtualenv"
        )
    say(f"making {venv.name} with Python {sys.version.split()[0]}")
    shutil.rmtree(venv, ignore_errors=True)
    run([sys.executable, "-m", *module, str(venv)], "the virtual environment could not be made")


def install(venv: Path, groups: list[str]) -> None:
    say(f"installing {', '.join(groups)}")
    # Wheels only, so that no compiler is needed; what exists as source alone is built with `build`, which comes first.
    options = ["--require-hashes", "--only-binary=:all:", *(f"--no-binary={name}" for name in ONLY_AS_SOURCE)]
    for step in (["build"], [name for name in groups if name != "build"]):
        files = [part for name in step if name in groups for part in ("-r", str(REQUIREMENTS / f"{name}.txt"))]
        if files:
            run(pip(venv, "--no-build-isolation", *options, *files), "packages could not be installed")


def install_projects(venv: Path) -> None:
    say("installing this tree (editable)")
    paths = [part for path in PROJECTS for part in ("-e", str(path))]
    # The backend comes from the hashed `build` group, dependencies from `base`: pip fetches nothing here.
    run(pip(venv, "--no-build-isolation", "--no-deps", *paths), "the distributions of this tree could not be installed")


def python_of(venv: Path) -> Path:
    return venv / "bin" / "python"


def pip(venv: Path, *arguments: str) -> list[str]:
    command = [str(python_of(venv)), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-input"]
    return [*command, *arguments]


def run(command: list[str], failure: str) -> None:
    environment = {name: value for name, value in os.environ.items() if name not in {"PYTHONPATH", "PYTHONHOME"}}
    out, err = subprocess.PIPE, subprocess.STDOUT
    done = subprocess.run(command, env=environment, stdout=out, stderr=err, text=True, errors="replace", check=False)
    if done.returncode != 0:
        raise SetupError(f"{failure}.\n{explain(done.stdout)}")


# What to tell when a step fails. The first pattern found in its output wins.
REMEDIES = {
    r"DO NOT MATCH THE HASHES": "The index serves another file than the one that was locked: do not use that index.",
    r"No space left|Errno 28": "The disk is full.",
    r"Retrying \(|NewConnectionError|ProxyError|SSLError|ReadTimeout|Temporary failure in name": (
        "The package index cannot be reached: check network, proxy, certificates (`pip config list` shows settings)."
    ),
    r"from versions: none": (
        "The index cannot be reached, or has no wheel of it for this Python and platform: check network and settings\n"
        "(`pip config list` shows them), or try another interpreter, make PYTHON=/path/to/python3.12 ..."
    ),
    r"No matching distribution found for": (
        "The index has no wheel of it for this Python and platform: try another, make PYTHON=/path/to/python3.12 ..."
    ),
    r"ensurepip": "Debian, Ubuntu: apt-get install python3-venv.",
}


def explain(output: str) -> str:
    """The lines that name the culprit (the last ones when none does), and the remedy."""
    errors = [line for line in output.splitlines() if re.search(r"error|not match|hash|failed", line, re.IGNORECASE)]
    shown = list(dict.fromkeys(errors))[-6:] or output.splitlines()[-12:]
    remedies = [text for pattern, text in REMEDIES.items() if re.search(pattern, output, re.IGNORECASE)]
    return "\n".join([*(f"  {line.strip()[:400]}" for line in shown), *remedies[:1]])


def say(text: str) -> None:
    print(f"set-up: {text}", flush=True)


if __name__ == "__main__":
    sys.exit(main())

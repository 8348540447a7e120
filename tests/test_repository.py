"""What the tree itself promises: locked dependencies, nothing of anybody's machine, three sound distributions."""

from __future__ import annotations

import re
import subprocess
import tomllib
import zipfile
from pathlib import Path
from typing import Any

import pytest
from hatchling.builders.wheel import WheelBuilder
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parent.parent
PROJECTS = {
    "resilience_core": ROOT,
    "resilience_http": ROOT / "adapters" / "http",
    "resilience_whatsapp": ROOT / "adapters" / "whatsapp",
}
LOCKS = sorted((ROOT / "requirements").glob("*.txt"))

# Written so that this file does not match itself.
OF_A_MACHINE = {
    "an index option": r"--(?:extra-)?index[-]url|--find[-]links|--trusted[-]host|(?:UV|PIP|PIP_EXTRA)_INDEX[_]URL",
    "an index host": r"pypi[.]org|pythonhosted[.]org|npmjs[.]org",
    "a local index": r"file:[/]{3}",
    "a machine path": r"(?<![\w.~*-])/(?:root|work|tmp|home|opt|Users)/\w",
}


def metadata(package: str) -> dict[str, Any]:
    return tomllib.loads((PROJECTS[package] / "pyproject.toml").read_text())


def texts() -> list[tuple[str, str]]:
    """All files that are or will be committed."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listing = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True).stdout
    found: list[tuple[str, str]] = []
    for name in filter(None, listing.split("\0")):
        path = ROOT / name
        if path.is_file() and b"\0" not in (content := path.read_bytes()):
            found.append((name, content.decode()))
    return found


def pins(lock: Path) -> list[str]:
    """One string per package, continued lines joined, comments left out."""
    joined = lock.read_text().replace("\\\n", " ")
    return [line for line in joined.splitlines() if line.strip() and not line.lstrip().startswith("#")]


@pytest.mark.parametrize("what", OF_A_MACHINE)
def test_no_file_names(what: str) -> None:
    pattern = re.compile(OF_A_MACHINE[what])
    offences = [
        f"{name}:{number}: {line.strip()[:100]}"
        for name, text in texts()
        if pattern.search(text)
        for number, line in enumerate(text.splitlines(), start=1)
        if pattern.search(line)
    ]
    assert not offences, "\n".join(offences)


def test_the_patterns_find_what_they_should() -> None:
    slash = "/"
    samples = {
        "an index option": "--" + "index-url",
        "an index host": "files." + "pythonhosted" + ".org",
        "a local index": "file:" + 3 * slash + "srv",
        "a machine path": slash + "tmp" + slash + "x",
    }
    for what, sample in samples.items():
        assert re.search(OF_A_MACHINE[what], sample), what


@pytest.mark.parametrize("lock", LOCKS, ids=lambda lock: lock.stem)
def test_every_requirement_is_pinned_and_hashed(lock: Path) -> None:
    lines = pins(lock)
    assert lines
    for line in lines:
        assert re.fullmatch(r"[a-z0-9.-]+==[\w.!+-]+(?: ; [^#]+?)?(?:\s+--hash=sha256:[0-9a-f]{64})+\s*", line), line


def test_one_version_of_each_package_in_all_locks() -> None:
    versions: dict[tuple[str, str], set[str]] = {}
    for lock in LOCKS:
        for line in pins(lock):
            requirement = Requirement(line.split("--hash")[0])
            # Two versions of one package are one too many, except for different interpreters within one resolution.
            versions.setdefault((requirement.name, str(requirement.marker or "")), set()).add(
                str(requirement.specifier)
            )
    assert {key: found for key, found in versions.items() if len(found) > 1} == {}


def test_the_locks_satisfy_what_the_projects_ask_for() -> None:
    ours = {metadata(package)["project"]["name"] for package in PROJECTS}
    groups: dict[str, list[str]] = dict(metadata("resilience_core")["dependency-groups"])
    groups["base"] = []
    for package in PROJECTS:
        project = metadata(package)["project"]
        groups["base"] += project["dependencies"]
        for extra in project.get("optional-dependencies", {}).values():
            groups["base"] += extra
    assert {lock.stem for lock in LOCKS} == {*groups, "redis-server", "valkey-server"}
    for group, asked in groups.items():
        locked = [Requirement(line.split("--hash")[0]) for line in pins(ROOT / "requirements" / f"{group}.txt")]
        for wanted in map(Requirement, asked):
            if wanted.name in ours:
                continue
            held = [pin for pin in locked if canonicalize_name(pin.name) == canonicalize_name(wanted.name)]
            assert held, f"{group}: {wanted} is not locked: make requirements"
            for pin in held:
                (exact,) = pin.specifier
                assert wanted.specifier.contains(exact.version), f"{group}: {wanted} against {pin}: make requirements"


def test_the_three_versions_are_equal() -> None:
    found = {
        package: re.findall(r'^__version__ = "(.+)"$', (directory / package / "_version.py").read_text(), re.MULTILINE)
        for package, directory in PROJECTS.items()
    }
    assert len({str(versions) for versions in found.values()}) == 1, found
    assert len(found["resilience_core"]) == 1


@pytest.fixture(scope="module", params=PROJECTS)
def wheel(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, dict[str, bytes]]:
    """Package name and files of a wheel, built in this process."""
    directory = tmp_path_factory.mktemp(request.param)
    (path,) = WheelBuilder(str(PROJECTS[request.param])).build(directory=str(directory), versions=["standard"])
    with zipfile.ZipFile(path) as archive:
        return request.param, {name: archive.read(name) for name in archive.namelist()}


def test_a_wheel_holds_its_package_its_types_and_nothing_else(wheel: tuple[str, dict[str, bytes]]) -> None:
    package, files = wheel
    tops = {name.split("/", maxsplit=1)[0] for name in files}
    assert {top for top in tops if not top.endswith(".dist-info")} == {package}
    assert f"{package}/py.typed" in files
    assert not [name for name in files if "__pycache__" in name or name.endswith((".pyc", ".orig", ".rej"))]
    sources = {f"{package}/{path.relative_to(PROJECTS[package] / package)}" for path in sources_of(package)}
    assert sources <= files.keys()


def sources_of(package: str) -> list[Path]:
    return [path for path in (PROJECTS[package] / package).rglob("*.py") if "__pycache__" not in path.parts]


def test_a_wheel_ships_the_licence_and_says_what_it_needs(wheel: tuple[str, dict[str, bytes]]) -> None:
    package, files = wheel
    (info,) = {name.split("/")[0] for name in files if ".dist-info/" in name}
    assert files[f"{info}/licenses/LICENSE"] == (ROOT / "LICENSE").read_bytes()
    described = files[f"{info}/METADATA"].decode()
    assert "License-Expression: MIT" in described
    assert "Requires-Python: >=3.11" in described
    assert "Classifier: Typing :: Typed" in described
    required = {Requirement(line) for line in re.findall(r"^Requires-Dist: (.+)$", described, re.MULTILINE)}
    assert {need.name for need in required if need.marker is None} == {
        Requirement(line).name for line in metadata(package)["project"]["dependencies"]
    }

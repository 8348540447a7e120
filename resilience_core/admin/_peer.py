"""Who is at the other end of a unix socket, as the kernel says; a second lock behind the one of the directory."""

from __future__ import annotations

import os
import pwd
import socket
import struct
from typing import Any

from attrs import frozen

_LOCAL_PEERCRED = 1
"""macOS and the BSDs: what getpeereid() asks; Python has no name for it, nor for the level, which is 0."""


@frozen
class Peer:
    """A process of a user."""

    user: int | None = None
    """Its effective user; None where the platform does not tell."""
    process: int | None = None

    def may_enter(self) -> bool:
        """Whether it is this user, or root."""
        return self.user in (None, 0, os.geteuid())

    @property
    def actor(self) -> str:
        """What it is called in events, if it gives no name itself: `user@host`."""
        return f"{user_name(os.geteuid() if self.user is None else self.user)}@{socket.gethostname()}"


def user_name(user: int) -> str:
    """Its name, or its number where it has none."""
    try:
        return pwd.getpwuid(user).pw_name
    except KeyError:
        return str(user)


def peer_of(connection: Any, linux: int | None = getattr(socket, "SO_PEERCRED", None)) -> Peer:
    """Who has connected; `linux` is the option that asks there."""
    try:
        if linux is not None:
            process, user, _ = struct.unpack("=iII", connection.getsockopt(socket.SOL_SOCKET, linux, 12))
            return Peer(user, process)
        version, user = struct.unpack("=II", connection.getsockopt(0, _LOCAL_PEERCRED, 76)[:8])
        return Peer() if version else Peer(user)
    except (OSError, struct.error):
        return Peer()

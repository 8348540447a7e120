"""A socket through which the command line sees into a running process, and forces its circuits.

Only the user that runs the process (and root) can connect: the directory is 0700, the socket 0600, and the kernel is
asked who is there. Nothing is on a network. What may be asked is in docs/command-line.md.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from resilience_core.admin._socket import AdminSocket

__all__ = ["AdminSocket"]


def __getattr__(name: str) -> Any:
    # On first use: the command line looks for sockets here, and has no use for what serves them.
    if name != "AdminSocket":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from resilience_core.admin._socket import AdminSocket

    globals()[name] = AdminSocket
    return AdminSocket

"""Which process, or which fleet, is meant."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from resilience_core.cli._text import Failure

if TYPE_CHECKING:
    from resilience_core.cli._redis import Fleet

OWN_ADDRESS = "RESILIENCE_REDIS_URL"
"""Names a fleet, before any process is looked for."""
ADDRESS = "REDIS_URL"
"""The same, where no process of this user serves: many programs set it for purposes of their own."""


class Target(Protocol):
    """What commands are carried out on. Circuits and messages are plain values, alike for processes and fleets."""

    title: str

    def status(self, name: str | None) -> dict[str, Any]:
        """`target`, `circuits`, and of a process `policies`."""
        ...

    def history(self, name: str | None) -> list[dict[str, Any]]:
        """Changes of state, oldest first."""
        ...

    def events(self, name: str | None, after: int | None) -> list[dict[str, Any]]:
        """What is remembered."""
        ...

    def follow(self, name: str | None, after: int | None) -> Iterator[dict[str, Any]]:
        """What happens, without an end."""
        ...

    def force(
        self, command: str, name: str, *, seconds: float | None, reason: str | None, actor: str | None
    ) -> list[dict[str, Any]]:
        """The circuits that were forced, as they are then."""
        ...

    def close(self) -> None:
        """Close what is open."""
        ...


def target_of(options: Namespace, env: Mapping[str, str]) -> Target:
    """The target that the options name, or the environment does, or the one process that serves.

    Raises:
        Failure: they name none, or more than one.
    """
    given = [flag for flag in ("socket", "pid", "redis_url") if getattr(options, flag) is not None]
    if len(given) > 1:
        flags = " and ".join(f"--{flag.replace('_', '-')}" for flag in given)
        raise Failure(2, f"{flags} exclude each other", "name one target")
    if options.prefix and (options.socket is not None or options.pid is not None):
        raise Failure(2, "--prefix is that of a fleet, and does not go with a process", "leave it out")
    from resilience_core.cli import _process

    if options.socket is not None:
        return _process.Process(Path(options.socket))
    if options.pid is not None:
        return _process.by_number(options.pid)
    url = options.redis_url or env.get(OWN_ADDRESS)
    if url:
        return fleet_at(url, options.prefix)
    process = None if options.prefix else _process.only()
    if process is not None:
        return process
    if env.get(ADDRESS):
        return fleet_at(env[ADDRESS], options.prefix)
    raise Failure(
        3,
        "no process of yours serves an admin socket, and no fleet is named",
        f"start resilience_core.admin.AdminSocket in it, or give --socket, --redis-url or {OWN_ADDRESS}",
    )


def fleet_at(url: str, prefix: str | None) -> Fleet:
    """The fleet at an address."""
    from resilience_core.cli._redis import Fleet

    return Fleet(url, prefix or "")

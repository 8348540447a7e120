"""A running process as the target: requests through its admin socket."""

from __future__ import annotations

import contextlib
import json
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from resilience_core.admin._places import is_stale, sockets
from resilience_core.cli._text import Failure, printable

PATIENCE = 5.0
"""Seconds that a process may take for an answer."""
UNREACHABLE = 3


class Process:
    """One process, by the path of its socket."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.title = f"process at {printable(path)}"

    def ask(self, command: str, **options: Any) -> dict[str, Any]:
        """The answer to a request.

        Raises:
            Failure: it cannot be reached (3), or refuses (2).
        """
        answers = self._answers(command, options, PATIENCE)
        try:
            return next(answers)
        finally:
            answers.close()

    # --- as a target -------------------------------------------------------------------------------------------------

    def status(self, name: str | None) -> dict[str, Any]:
        """Its circuits and other policies."""
        answer = self.ask("status", name=name)
        target = {"kind": "process", **answer["process"], "socket": str(self.path)}
        return {"target": target, "circuits": answer["circuits"], "policies": answer["policies"]}

    def history(self, name: str | None) -> list[dict[str, Any]]:
        """The changes of state that it remembers, oldest first."""
        return list(self.ask("history", name=name, changes=True)["events"])

    def events(self, name: str | None, after: int | None) -> list[dict[str, Any]]:
        """All events that it remembers."""
        return list(self.ask("history", name=name, after=after)["events"])

    def follow(self, name: str | None, after: int | None) -> Iterator[dict[str, Any]]:
        """Its events; fails when it ends."""
        answers = self._answers("events", {"name": name, "after": after}, None)
        next(answers)  # that it follows
        yield from answers

    def force(
        self, command: str, name: str, *, seconds: float | None, reason: str | None, actor: str | None
    ) -> list[dict[str, Any]]:
        """Its circuits of that name, forced."""
        options = {"name": name, "for": seconds, "reason": reason, "actor": actor}
        return list(self.ask(command, **options)["circuits"])

    def close(self) -> None:
        """Nothing stays open between two requests."""

    def _answers(self, command: str, options: dict[str, Any], timeout: float | None) -> Any:
        request = {"command": command} | {name: value for name, value in options.items() if value is not None}
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
                connection.settimeout(PATIENCE)
                connection.connect(str(self.path))
                with contextlib.suppress(BrokenPipeError):  # it wants no request, and has perhaps said why
                    connection.sendall(json.dumps(request).encode() + b"\n")
                connection.settimeout(timeout)
                with connection.makefile("rb") as lines:
                    for line in lines:
                        yield _accepted(json.loads(line))
        except (OSError, ValueError) as error:
            raise self._unreachable(error) from error
        raise self._unreachable(ConnectionResetError())

    def _unreachable(self, error: Exception) -> Failure:
        reason = getattr(error, "strerror", None) or type(error).__name__
        return Failure(
            UNREACHABLE,
            f"the {self.title} does not answer: {reason}",
            "does it run, as your user, with resilience_core.admin.AdminSocket started?",
        )


def _accepted(answer: dict[str, Any]) -> dict[str, Any]:
    if not answer.get("ok", True):
        raise Failure(2, printable(answer.get("error", "it refuses")), printable(answer.get("suggestion", "")))
    return answer


def found() -> list[Path]:
    """The sockets of this user's processes that live."""
    return [path for path in sockets() if not is_stale(path)]


def by_number(number: int) -> Process:
    """The process with that number.

    Raises:
        Failure: it does not serve (3).
    """
    for path in found():
        if path.stem == str(number):
            return Process(path)
    raise Failure(UNREACHABLE, f"process {number} serves no admin socket to you", _known())


def only() -> Process | None:
    """The one process that serves; None if there is none.

    Raises:
        Failure: there are several, and which one is meant must be said (2).
    """
    paths = found()
    if len(paths) > 1:
        raise Failure(2, f"{len(paths)} processes serve an admin socket", _known())
    return Process(paths[0]) if paths else None


def _known() -> str:
    numbers = [path.stem for path in found()]
    if not numbers:
        return "start resilience_core.admin.AdminSocket in it, or name the path with --socket"
    return "choose one: " + ", ".join(f"--pid {printable(number)}" for number in numbers)

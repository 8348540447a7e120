"""The commands that are carried out on a process or on a fleet."""

from __future__ import annotations

import time
from argparse import Namespace
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from resilience_core.cli import _show
from resilience_core.cli._target import Target, target_of
from resilience_core.cli._text import Screen


def status(options: Namespace, screen: Screen, target: Target) -> int:
    """How everything is."""
    told = target.status(options.name)
    if screen.as_json:
        screen.document(told)
    else:
        _show.status(screen, told, options.name)
    return _code(told)


def _code(told: Mapping[str, Any]) -> int:
    return 1 if _show.how_many_open(told["circuits"]) else 0


def watch(options: Namespace, screen: Screen, target: Target, sleep: Callable[[float], None] = time.sleep) -> int:
    """The status, drawn again on a terminal; elsewhere what has changed, a line for each circuit."""
    known: dict[str, tuple[Any, ...]] = {}
    looks = 0
    while True:
        told = target.status(options.name)
        if screen.as_json:
            screen.object(told)
        elif screen.terminal:
            screen.clear()
            _show.status(screen, told, options.name)
        else:
            known = _show.changed(screen, told, known)
        looks += 1
        if looks == options.times:
            return _code(told)
        sleep(options.interval)


def events(options: Namespace, screen: Screen, target: Target) -> int:
    """What has happened, or what happens."""
    messages: Callable[..., Iterable[dict[str, Any]]] = target.follow if options.follow else target.events
    for message in messages(options.name, options.since):
        _tell(screen, message)
    return 0


def history(options: Namespace, screen: Screen, target: Target) -> int:
    """Changes of state."""
    found = target.history(options.name)
    if screen.as_json:
        screen.document(found)
        return 0
    for message in found:
        _show.message(screen, message)
    if not found:
        screen.say("no circuit has changed its state")
    elif all("id" not in message for message in found):
        screen.say("(the last change of each circuit: a fleet's record keeps no other one)")
    return 0


def force(options: Namespace, screen: Screen, target: Target) -> int:
    """A state by hand."""
    circuits = target.force(
        options.command,
        options.name,
        seconds=getattr(options, "seconds", None),
        reason=options.reason,
        actor=options.actor,
    )
    if screen.as_json:
        screen.document({"circuits": circuits})
    else:
        for circuit in circuits:
            screen.say(_show.forced(screen, circuit))
    return 0


def _tell(screen: Screen, message: Mapping[str, Any]) -> None:
    if screen.as_json:
        screen.object(message)
    else:
        _show.message(screen, message)


_COMMANDS: dict[str, Callable[[Namespace, Screen, Target], int]] = {
    "status": status,
    "watch": watch,
    "events": events,
    "history": history,
    **dict.fromkeys(("open", "close", "reset", "disable", "shadow"), force),
}


def run(options: Namespace, screen: Screen, env: Mapping[str, str]) -> int:
    """Carry out a command on its target; the exit code."""
    target = target_of(options, env)
    try:
        return _COMMANDS[options.command](options, screen, target)
    finally:
        target.close()

"""How answers look on the terminal."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

from resilience_core import _schema as s
from resilience_core.cli._text import Screen, clock, lasting, printable

OPEN = ("open", "forced_open", "half_open", "unknown")
"""States that make `status` end with 1: calls are rejected, or nobody knows."""


def how_many_open(circuits: Sequence[Mapping[str, Any]]) -> int:
    """How many of them are not closed by their own rules."""
    return sum(circuit["state"] in OPEN for circuit in circuits)


def title_of(target: Mapping[str, Any]) -> str:
    """The first line of a status."""
    if target["kind"] == "fleet":
        prefix = f", prefix {target['prefix']!r}" if target["prefix"] else ""
        return f"fleet at {printable(target['place'])}{prefix}"
    return f"process {printable(target['pid'])} ({printable(target['program'])})"


def status(screen: Screen, told: Mapping[str, Any], name: str | None = None) -> None:
    """All circuits as a table, and other policies; of one name everything that is known."""
    circuits, others = told["circuits"], told.get("policies", [])
    screen.say(title_of(told["target"]))
    if name is not None:
        for row in (*circuits, *others):
            _one(screen, row)
        return
    if circuits:
        head = ("CIRCUIT", "STATE", "SINCE", "WHY", "UNTIL", "BY", "NOTE")
        screen.table(head, [_row(circuit) for circuit in circuits])
    if others:
        screen.say()
        screen.table(("POLICY", "KIND", "NOW"), [(row["name"], row["kind"], _now(row)) for row in others])
    screen.say()
    count = how_many_open(circuits)
    screen.say("no circuits" if not circuits else f"{count} of {len(circuits)} circuits not closed")


def changed(
    screen: Screen, told: Mapping[str, Any], known: Mapping[str, tuple[Any, ...]]
) -> dict[str, tuple[Any, ...]]:
    """A line for each circuit that is new or has another state than at the last look; what is known now."""
    now: dict[str, tuple[Any, ...]] = {}
    for circuit in told["circuits"]:
        now[circuit["name"]] = (*now.get(circuit["name"], ()), circuit["state"], circuit["reason"], circuit["actor"])
    for circuit in told["circuits"]:
        if known.get(circuit["name"]) != now[circuit["name"]]:
            screen.say(f"{clock(time.time())}  {forced(screen, circuit)}")
    for name in known:
        if name not in now:
            screen.say(f"{clock(time.time())}  {printable(name)}: gone")
    return now


def forced(screen: Screen, circuit: Mapping[str, Any]) -> str:
    """A circuit in one line."""
    text = f"{printable(circuit['name'])}: {screen.colour(circuit['state'], printable(circuit['state']))}"
    if circuit["reason"] is not None:
        text += f" ({printable(circuit['reason'])})"
    if circuit["actor"] is not None:
        text += f" by {printable(circuit['actor'])}"
    if circuit["until"] is not None:
        text += f" until {clock(circuit['until'])}"
    return text if circuit["note"] is None else f"{text}: {printable(circuit['note'])}"


def _row(circuit: Mapping[str, Any]) -> tuple[Any, ...]:
    since = circuit["since"]
    return (
        circuit["name"],
        circuit["state"],
        None if since is None else f"{lasting(time.time() - since)} ago",
        circuit["reason"],
        _until(circuit["until"]),
        circuit["actor"],
        circuit["note"],
    )


def _until(until: float | None) -> str | None:
    """When it ends; what is over ends with the next call."""
    if until is None:
        return None
    left = until - time.time()
    return f"in {lasting(left)}" if left > 0 else "next call"


def _now(row: Mapping[str, Any]) -> str:
    """Numbers and words of a policy that say something."""
    plain = {
        key: each for key, each in row.items() if key not in ("name", "kind") and not isinstance(each, (dict, list))
    }
    told = [f"{key}={_short(each)}" for key, each in plain.items() if each not in (None, False, "")]
    return " ".join(told) or "-"


def _short(value: Any) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def _one(screen: Screen, row: Mapping[str, Any]) -> None:
    screen.say()
    screen.say(f"{printable(row.get('kind', 'circuit_breaker'))} {printable(row['name'])}")
    rest = {printable(key): value for key, value in row.items() if key not in ("kind", "name")}
    width = max(map(len, rest), default=0)
    for key, value in rest.items():
        if key in ("since", "down_since", "until") and value is not None:
            value = clock(value)
        elif isinstance(value, list):
            value = ", ".join(map(str, value)) or None
        text = printable("-" if value is None else value)
        screen.say(f"  {key:<{width}}  {screen.colour(text) if key == 'state' else text}")


def message(screen: Screen, told: Mapping[str, Any]) -> None:
    """An event in one line: its number, when, how loud, and what."""
    number = f"{printable(told['id']):>5}  " if "id" in told else ""
    level = printable(told.get("level", "INFO"))
    colour = {"WARNING": "warning", "ERROR": "error"}.get(level, "")
    screen.say(f"{number}{clock(told.get('time'))}  {screen.colour(colour, f'{level:<7}')}  {words_of(told)}")


def words_of(told: Mapping[str, Any]) -> str:
    """The sentence of a message, and what people have said or set with it."""
    text = str(told.get("text", ""))
    if told.get(s.NOTE):
        text += f": {told[s.NOTE]}"
    if told.get(s.CONTROL_FOR):
        text += f" (for {lasting(told[s.CONTROL_FOR])})"
    return printable(text)

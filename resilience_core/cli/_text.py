"""What goes to the terminal: escaped names, tables, colours where somebody looks, durations that people write."""

from __future__ import annotations

import json
import os
import re
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TextIO

from resilience_core._errors import ConfigurationError

_UNITS = {"d": 86400.0, "h": 3600.0, "m": 60.0, "s": 1.0}
_DURATION = re.compile(r"(?:\d+(?:\.\d+)?[dhms])+", re.ASCII)
_PLAIN = re.compile(r"\d+(?:\.\d+)?", re.ASCII)
LONGEST = 400 * 86400.0
"""Seconds for which a state can be forced: what a fleet's record can hold."""
_COLOURS = {
    "closed": "32",
    "open": "31",
    "forced_open": "31;1",
    "half_open": "33",
    "disabled": "35",
    "shadow": "36",
} | {
    "ok": "32",
    "warning": "33",
    "error": "31",
}


def seconds_of(text: str) -> float:
    """The seconds in "90", "90s", "10m", "1h30m" or "2d".

    Raises:
        ValueError: it is no such duration, or not above 0, or too long.
    """
    word = text.strip().lower()
    if _PLAIN.fullmatch(word):
        seconds = float(word)
    elif _DURATION.fullmatch(word):
        parts = re.findall(r"(\d+(?:\.\d+)?)([dhms])", word)
        seconds = sum(float(number) * _UNITS[unit] for number, unit in parts)
    else:
        raise ValueError(f"{printable(text)!r} is no duration: write 90, 90s, 10m, 1h30m or 2d")
    if not 0 < seconds <= LONGEST:
        raise ValueError(f"a duration must be above 0 and at most 400d, not {printable(text)!r}")
    return seconds


def lasting(seconds: float) -> str:
    """A duration in its two largest units: "1h 30m", "4.2s"."""
    if seconds < 10:
        return f"{max(0.0, seconds):.1f}s"
    left, words = round(seconds), []
    for unit, size in (("d", 86400), ("h", 3600), ("m", 60), ("s", 1)):
        count, left = divmod(left, size)
        if count:
            words.append(f"{count}{unit}")
    return " ".join(words[:2])


def clock(moment: float | None) -> str:
    """A moment (seconds since the epoch) on this host's clock, with the day unless that is today."""
    if moment is None:
        return "-"
    then = time.localtime(moment)
    today = time.localtime()[:3] == then[:3]
    return time.strftime("%H:%M:%S" if today else "%Y-%m-%d %H:%M:%S", then)


def printable(value: Any) -> str:
    """A text in one line that cannot move the cursor: whatever is not printable is shown escaped."""
    text = str(value)
    if text.isprintable():
        return text
    return "".join(each if each.isprintable() else each.encode("unicode_escape").decode() for each in text)


class Screen:
    """Where answers go: one JSON document, or text."""

    def __init__(
        self, *, as_json: bool = False, out: TextIO | None = None, env: Mapping[str, str] = os.environ
    ) -> None:
        self.out: TextIO = sys.stdout if out is None else out
        self.as_json = as_json
        self.terminal: bool = self.out.isatty() and env.get("TERM") != "dumb"
        self.coloured: bool = self.terminal and not env.get("NO_COLOR")

    def document(self, content: Any) -> None:
        """One JSON document."""
        self.out.write(json.dumps(content, indent=2, default=str) + "\n")

    def object(self, content: Mapping[str, Any]) -> None:
        """One JSON object in a line."""
        self.out.write(json.dumps(content, default=str) + "\n")
        self.out.flush()

    def say(self, text: str = "") -> None:
        """One line."""
        self.out.write(text + "\n")
        self.out.flush()

    def clear(self) -> None:
        """An empty terminal, to be written on from the top."""
        self.out.write("\x1b[H\x1b[2J")

    def colour(self, word: str, text: str | None = None) -> str:
        """`text` (by default the word itself) in the colour of a state or severity."""
        text = word if text is None else text
        code = _COLOURS.get(word)
        return f"\x1b[{code}m{text}\x1b[0m" if self.coloured and code else text

    def table(self, head: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
        """Columns as wide as they need to be; the second one is a state or a severity."""
        cells = [[printable("-" if cell is None else cell) for cell in row] for row in rows]
        widths = [max(len(row[column]) for row in (*cells, head)) for column in range(len(head))]
        for number, row in enumerate((head, *cells)):
            padded = [f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)]
            if number:
                padded[1] = self.colour(row[1], padded[1])
            self.say("  ".join(padded).rstrip())


class Failure(Exception):
    """What a command ends with other than success: an exit code, and a text for the error stream."""

    def __init__(self, code: int, text: str, suggestion: str = "") -> None:
        super().__init__(text)
        self.code = code
        self.text = text
        self.suggestion = suggestion


def unusable(error: ConfigurationError) -> Failure:
    """The failure that a bad option is."""
    return Failure(2, str(error))

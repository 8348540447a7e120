"""What is wrong with a configuration: all of it at once, each with its place, the fix, and where it was written."""

from __future__ import annotations

from collections.abc import Iterable

from attrs import frozen

from resilience_core._errors import ConfigurationError

_TOLD = 50
"""Problems that the text of an error tells; whoever has made more of them mends these first."""
_LONGEST_LINE = 1000


@frozen
class Problem:
    """One thing that is wrong."""

    path: str
    """Where: "policies.graph.retry.max_attempts"; empty for the whole."""
    message: str
    """What is wrong, with the value that was given."""
    fix: str = ""
    """What to write instead."""
    source: str = ""
    """Who wrote it: a file, an environment variable, an overlay, a preset."""

    def __str__(self) -> str:
        lines = [f"{self.path}: {self.message}" if self.path else self.message]
        if self.fix:
            lines.append(f"  {self.fix}")
        if self.source:
            lines.append(f"  (in {self.source})")
        return "\n".join(line if len(line) <= _LONGEST_LINE else f"{line[:_LONGEST_LINE]}..." for line in lines)


class InvalidConfiguration(ConfigurationError):
    """A configuration that cannot be used; nothing of it was.

    Attributes:
        problems: everything that is wrong with it.
    """

    def __init__(self, problems: Iterable[Problem], source: str = "") -> None:
        self.problems: tuple[Problem, ...] = tuple(problems)
        self.source: str = source
        count = "1 problem" if len(self.problems) == 1 else f"{len(self.problems)} problems"
        headline = f"{count} in the configuration" + (f" ({source})" if source else "")
        rest = len(self.problems) - _TOLD
        more = [f"... and {rest} more"] if rest > 0 else []
        super().__init__("\n".join([headline, *map(str, self.problems[:_TOLD]), *more]))

    def __reduce__(self) -> tuple[type[InvalidConfiguration], tuple[tuple[Problem, ...], str]]:
        return type(self), (self.problems, self.source)

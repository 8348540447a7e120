"""What the agent needs of a store: answers to requests, and news. The agent is its only user, from one thread."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Protocol

from attrs import frozen


@frozen
class Request:
    """One script on one key of an object and perhaps on its sisters, and who wants the answer."""

    script: str
    key: str
    args: tuple[Any, ...]
    answer: Callable[[Any, float, float], None]
    """Called with the answer and the local times before and after."""
    sisters: tuple[str, ...] = ()
    """More keys, of the same slot."""


class Link(Protocol):
    """An open connection to the store. Every method may raise; then the link is closed, and another one is opened."""

    def run(self, requests: Sequence[Request]) -> list[Any]:
        """The answers in their order; an exception in the place of one that failed."""
        ...

    def round_trips(self, requests: int) -> int:
        """How many answers `run` waits for, one after the other."""
        ...

    def listen(self, channels: Iterable[str]) -> None:
        """Hear these channels, and no others."""
        ...

    def news(self) -> list[tuple[str, bytes]]:
        """What was published since the last time: channel and content. Does not wait."""
        ...

    def descriptors(self) -> list[int]:
        """What to watch for news; empty where there are none."""
        ...

    def close(self) -> None:
        """Let go of all connections."""
        ...

    def abandon(self) -> None:
        """In the child of a fork: let go of them without a word, they are the parent's."""
        ...


OpenLink = Callable[[], Link]

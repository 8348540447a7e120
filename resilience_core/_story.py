"""What policies decided about a call, noted on the exception that passes through them.

Nothing is noted anywhere while calls go well. A retry hands the notes about one attempt's exception on to the next
one's; who ends the matter (a retry that succeeds in the end, a fallback, the edge) gives them to the pipeline's
journal.
Noted are names, numbers and reasons, never arguments or exceptions: a story keeps nobody's data alive. `_explain.py`
puts them into words when somebody asks.

    error -> Story -> entries (when, kind, policy, operation, action, values ...)
"""

from __future__ import annotations

from collections import deque
from typing import Any, TypeAlias

from resilience_core._errors import CallRejected, ConfigurationError, TimeoutExceeded

Entry: TypeAlias = tuple[Any, ...]
"""Seconds since the epoch (None where nobody looked), kind, policy, operation, action, and the action's values."""

_STORY = "_resilience_story"
_BEGINNING, _LONGEST = 8, 64  # entries of a story: beyond, what is told is how it began and how it ended


class Story:
    """The entries about one exception."""

    __slots__ = ("entries", "told")

    def __init__(self, entries: list[Entry]) -> None:
        self.entries: list[Entry] = entries
        self.told: bool = False
        """Whether the exception has left the outermost policy that wrote here."""

    def __reduce__(self) -> tuple[Any, ...]:
        return _restored, (self.entries, self.told)  # for the oldest pickle protocols, too, which know no slots

    def note(self, entry: Entry) -> None:
        """Go on with one more entry."""
        if len(self.entries) >= _LONGEST:
            del self.entries[_BEGINNING]
        self.entries.append(entry)


def _restored(entries: list[Entry], told: bool) -> Story:
    story = Story(entries)
    story.told = told
    return story


def story_of(error: BaseException, at: float | None, kind: str, policy: str, operation: str) -> Story:
    """The story of `error` that a policy can go on with, begun with how the exception came about."""
    story: Story | None = error.__dict__.get(_STORY)
    if story is not None and _continues(story, (kind, policy, operation)):
        if not story.told:
            return story
        begun = Story(list(story.entries))
    else:
        begun = Story([_origin(error, at, operation)])
    error.__dict__[_STORY] = begun
    return begun


def _continues(story: Story, place: tuple[str, str, str]) -> bool:
    """Whether it is still about the same call: a function may raise the same object again in the next one.

    Within one call a policy has its say again only after a retry around it has decided to try again.
    """
    for entry in reversed(story.entries):
        if entry[4] == "retried" and not story.told:
            return True
        if entry[1:4] == place:
            return False
    return True


def end_story(error: BaseException) -> None:
    """The call that `error` belongs to is over: what is noted next is about another one."""
    story: Story | None = error.__dict__.get(_STORY)
    if story is not None:
        story.told = True


def note(error: BaseException, at: float, kind: str, policy: str, operation: str, *what: Any) -> Story:
    """Note a decision about `error`: the action, then its values."""
    story = story_of(error, at, kind, policy, operation)
    story.note((at, kind, policy, operation, *what))
    return story


def follow(story: Story | None, error: BaseException, at: float, kind: str, policy: str, operation: str) -> Story:
    """The story of `error`, which another attempt of the same call ended with, after that of the attempts before."""
    own = story_of(error, at, kind, policy, operation)
    if story is not None and story is not own:
        entries = [*story.entries, *own.entries]
        own.entries = (
            entries if len(entries) <= _LONGEST else [*entries[:_BEGINNING], *entries[_BEGINNING - _LONGEST :]]
        )
    return own


_OURS = (CallRejected, TimeoutExceeded, ConfigurationError)
_REJECTED = 5  # arguments of a rejection


def _origin(error: BaseException, at: float | None, operation: str) -> Entry:
    if not isinstance(error, _OURS):
        return at, None, None, operation, "raised", type(error).__qualname__
    if isinstance(error, CallRejected) and len(error.args) == _REJECTED:
        name, reason, retry_after, last_failure, inputs = error.args  # as its properties, which are calls
        last = None if last_failure is None else last_failure.error_type
        return at, None, name, operation, "rejected", reason, retry_after, last, inputs or {}
    if isinstance(error, TimeoutExceeded) and hasattr(error, "seconds"):
        return at, "timeout", error.name, operation, "timed_out", error.seconds
    # A ConfigurationError, whose text may have anything in it; or a class of somebody else that lacks what ours have.
    return at, None, None, operation, "refused", type(error).__qualname__


def told_about(error: BaseException) -> tuple[Entry, ...]:
    """All that is noted about `error`, without noting anything: at least how it came about."""
    story: Story | None = error.__dict__.get(_STORY)
    return (_origin(error, None, ""),) if story is None else tuple(story.entries)


class Unhappy:
    """One call that did not simply succeed, and how often the same happened in a row."""

    __slots__ = ("entries", "error_type", "operation", "times")

    def __init__(self, operation: str, error_type: str | None, entries: tuple[Entry, ...]) -> None:
        self.operation = operation
        self.error_type = error_type
        """Class of the error that the caller got; None when he got an answer."""
        self.entries = entries
        self.times = 1

    def alike(self, other: Unhappy) -> bool:
        """Whether both are rejections for the same reasons: an open circuit must not push everything else out."""
        mine, others = self.entries, other.entries
        return (
            mine[0][4] == "rejected"
            and len(mine) == len(others)
            and [entry[1:6] for entry in mine] == [entry[1:6] for entry in others]
        )


class Journal:
    """The last unhappy calls of a pipeline."""

    __slots__ = ("calls",)

    def __init__(self, size: int) -> None:
        self.calls: deque[Unhappy] = deque(maxlen=size)

    def failed(self, error: BaseException, at: float, pipeline: str, operation: str) -> None:
        """The caller gets `error`, and its story ends here."""
        story: Story | None = error.__dict__.get(_STORY)
        if story is None and isinstance(error, CallRejected):
            self._rejected(error, at, operation)
            return
        if story is None or not story.told:  # several callers may get the same exception, from one fetch
            story = story_of(error, at, "pipeline", pipeline, operation)
            story.told = True
        self._keep(Unhappy(operation, type(error).__qualname__, tuple(story.entries)))

    def _rejected(self, error: CallRejected, at: float, operation: str) -> None:
        """As `failed`, for a rejection that no policy further out had a word on: what an open circuit does all day."""
        entry = _origin(error, at, operation)
        last = self.calls[-1] if self.calls else None
        if last is not None and len(last.entries) == 1 and last.entries[0][2:6] == entry[2:6]:
            last.entries = (entry,)
            last.times += 1
        else:
            self.calls.append(Unhappy(operation, type(error).__qualname__, (entry,)))

    def answered(self, story: Story | None, operation: str, entry: Entry) -> None:
        """The caller gets an answer after all, by what `entry` tells."""
        before: tuple[Entry, ...] = ()
        if story is not None:
            story.told = True
            before = tuple(story.entries)
        self._keep(Unhappy(operation, None, (*before, entry)))

    def _keep(self, call: Unhappy) -> None:
        calls = self.calls
        if calls and calls[-1].alike(call):
            call.times += calls[-1].times
            calls[-1] = call
        else:
            calls.append(call)

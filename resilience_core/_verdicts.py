"""What an outcome means, in one vocabulary that all policies share.

A *classifier* turns an exception into a `Verdict`; a `Judge` asks it at most once per attempt and leaves the answer
on the exception, so that a retry, a breaker and a limiter around the same call never disagree.

Three answers are fixed before any classifier is asked: a rejection by one of our own policies says nothing about the
dependency (`IGNORED`), our own time-out leaves open whether the call was carried out (`UNKNOWN`), and an
`ExceptionGroup` is as bad as its worst leaf.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum
from itertools import count
from typing import Any, TypeAlias

from attrs import field, frozen

from resilience_core._errors import CallRejected, ConfigurationError, ResilienceError, TimeoutExceeded


class Verdict(Enum):
    """What one outcome says about the dependency, and whether the call took effect."""

    SUCCESS = "success"
    """Done."""
    TRANSIENT = "transient"
    """The dependency is in trouble and the call was **not** carried out."""
    UNKNOWN = "unknown"
    """The dependency is in trouble and the call **may have been** carried out."""
    THROTTLED = "throttled"
    """The dependency is alive and asks for less."""
    PERMANENT = "permanent"
    """The dependency is alive; this request is wrong."""
    IGNORED = "ignored"
    """Says nothing about the dependency: cancelled, rejected by ourselves, or not named by `on=`."""


FAILURES = frozenset({Verdict.TRANSIENT, Verdict.UNKNOWN})
"""The verdicts that count against the dependency."""


@frozen
class Judgement:
    """A verdict with what else the outcome told us.

    `retry_after` is in seconds; `scope` names what a throttle applies to; `reason` is short, and free of user data.
    """

    verdict: Verdict
    retry_after: float | None = field(default=None, kw_only=True)
    scope: str | None = field(default=None, kw_only=True)
    reason: str | None = field(default=None, kw_only=True)


Classifier: TypeAlias = Callable[[Exception], Verdict | Judgement]
"""Judges an exception."""
ResultClassifier: TypeAlias = Callable[[Any], Verdict | Judgement]
"""Judges a returned value."""
On: TypeAlias = type[BaseException] | tuple[type[BaseException], ...] | Callable[[Exception], bool]
"""The short form of a classifier: what it names is TRANSIENT, all else IGNORED."""

_MARK = "_resilience_judgement"
_judge_numbers = count(1)
_PLAIN = {verdict: Judgement(verdict) for verdict in Verdict}
_SEVERITY = (
    Verdict.SUCCESS,
    Verdict.IGNORED,
    Verdict.PERMANENT,
    Verdict.THROTTLED,
    Verdict.TRANSIENT,
    Verdict.UNKNOWN,
)


class BadResult(Exception):
    """Carries a returned value that was judged bad outwards through the policies; the edge returns the value."""

    def __init__(self, result: Any, judgement: Judgement) -> None:
        super().__init__(result, judgement)
        self.result = result
        self.judgement = judgement


class Judge:
    """Asks one classifier, once per attempt, and remembers the answer on the exception itself.

    The mark carries a number instead of this object, so that the caller's exception stays picklable.
    """

    __slots__ = ("_classify", "_number", "_ours")

    def __init__(self, classify: Classifier, *, ours: tuple[type[BaseException], ...] = ()) -> None:
        self._classify = classify
        self._ours = ours  # errors of this framework that `on=` names explicitly: they are asked about, too
        self._number = next(_judge_numbers)

    def __call__(self, error: BaseException) -> Judgement:
        """The judgement of `error`. Never raises; a classifier that raises is logged and the outcome is UNKNOWN."""
        marked = error.__dict__.get(_MARK)
        if marked is not None and marked[0] == self._number:
            judgement: Judgement = marked[1]
            return judgement
        judgement = self._decide(error)
        error.__dict__[_MARK] = (self._number, judgement)
        return judgement

    def explained(self, error: BaseException) -> Judgement:
        """The judgement, with the name of the exception's class for a reason where the classifier gave none."""
        judgement = self(error)
        if judgement.reason is not None:
            return judgement
        return Judgement(
            judgement.verdict,
            retry_after=judgement.retry_after,
            scope=judgement.scope,
            reason=type(error).__qualname__,
        )

    def _decide(self, error: BaseException) -> Judgement:
        if isinstance(error, BadResult):
            return error.judgement
        if isinstance(error, BaseExceptionGroup):
            leaves = [self._decide(leaf) for leaf in error.exceptions]
            return max(leaves, key=lambda judgement: _SEVERITY.index(judgement.verdict))
        if not isinstance(error, Exception):
            return _PLAIN[Verdict.IGNORED]
        if isinstance(error, ResilienceError) and not isinstance(error, self._ours):
            if isinstance(error, CallRejected):
                return _PLAIN[Verdict.IGNORED]
            if isinstance(error, TimeoutExceeded):
                return _PLAIN[Verdict.UNKNOWN]
        try:
            return as_judgement(self._classify(error))
        except Exception as failure:
            from resilience_core._event_log import say  # here, not above: it knows all events, and few classifiers fail

            text = f"A classifier failed on {type(error).__name__}; the outcome is judged UNKNOWN"
            say("resilience.classifier.failed", text, error=failure)
            return Judgement(Verdict.UNKNOWN, reason="classifier failed")


def as_judgement(answer: Verdict | Judgement) -> Judgement:
    """Give a classifier's short answer the long form; raises `TypeError` for anything else."""
    if isinstance(answer, Judgement):
        return answer
    if isinstance(answer, Verdict):
        return _PLAIN[answer]
    raise TypeError(f"a classifier must answer a Verdict or a Judgement, not {type(answer).__name__}")


def judgement_of(error: BaseException) -> Judgement | None:
    """What the policies made of `error`, or None when none of them judged it."""
    marked = error.__dict__.get(_MARK)
    return None if marked is None else marked[1]


def forget_judgement(error: BaseException) -> None:
    """Let the next attempt judge afresh, should it raise the very same object."""
    error.__dict__.pop(_MARK, None)


def judge_from(*, on: On | None, classify: Classifier | None) -> Judge | None:
    """The judge that a policy's own options ask for; None when it leaves judging to the pipeline.

    Raises:
        ConfigurationError: both are given, or `on` is not an exception class, a tuple of them or a predicate.
    """
    if classify is not None:
        if on is not None:
            raise ConfigurationError("on and classify exclude each other: give the one or the other")
        return Judge(classify)
    if on is None:
        return None
    if isinstance(on, (type, tuple)):
        classes = on if isinstance(on, tuple) else (on,)
        ours = tuple(cls for cls in classes if issubclass(cls, ResilienceError))
        return Judge(lambda error: Verdict.TRANSIENT if isinstance(error, classes) else Verdict.IGNORED, ours=ours)
    predicate = on
    return Judge(lambda error: Verdict.TRANSIENT if predicate(error) else Verdict.IGNORED)


def count_every_error(error: Exception) -> Verdict:
    """The breaker's classifier when nobody gave one: any exception speaks against the dependency."""
    return Verdict.TRANSIENT

"""Why a call ended as it did, in words: the decisions that `_story.py` has noted, each with what it was based on."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from attrs import field, frozen

from resilience_core._errors import REASONS, RejectionReason
from resilience_core._story import Entry, Unhappy, told_about
from resilience_core._verdicts import Verdict


def _clock_time(at: float) -> str:
    """Time of day as log lines show it: local, to the second."""
    return time.strftime("%H:%M:%S", time.localtime(at))


def _seconds(value: float) -> str:
    return f"{value:.3g} s"


_OPENED = {
    "consecutive_failures": "after {rule}",
    "failure_ratio": "after {rule}",
    "slow_ratio": "after {rule}",
    "probe_failed": "after a failed probe",
    "ramp_failed": "after a failure in its ramp",
    "manual": "by hand",
    "remote": "as the fleet has it",
    "imported": "as it was saved",
}


def _since(inputs: Mapping[str, Any]) -> str:
    why = _OPENED.get(inputs["because"], "after {because}").format_map(inputs)
    return f"since {_clock_time(inputs['since'])} {why}"


def _forced(inputs: Mapping[str, Any]) -> str:
    actor = f" by {inputs['actor']}" if inputs.get("actor") else ""
    note = f" ({inputs['note']})" if inputs.get("note") else ""
    until = f", until {_clock_time(inputs['until'])}" if inputs.get("until") is not None else ""
    return f"opened by hand{actor}{note} at {_clock_time(inputs['since'])}{until}"


def _full(inputs: Mapping[str, Any]) -> str:
    if "abandoned" in inputs:
        return f"{inputs['abandoned']} threads that it gave up still run, and no more than that may"
    return (
        f"{inputs['in_flight']} of {inputs['limit']} slots are taken, "
        f"and {inputs['waiting']} of {inputs['queue_limit']} waiting places"
    )


def _limited(inputs: Mapping[str, Any]) -> str:
    keyed = " for this key" if inputs["keyed"] else ""
    if inputs["closed_for"]:
        return f"closed{keyed} for {_seconds(inputs['closed_for'])} as the server asked"
    waits = f", more than the {_seconds(inputs['patience'])} it may wait" if inputs["patience"] else ""
    return (
        f"{inputs['rate']:g} calls per {inputs['per']:g} s, burst {inputs['burst']}, are used up{keyed}; "
        f"its turn comes in {_seconds(inputs['wait'])}{waits}"
    )


_REJECTIONS: dict[str, Callable[[Mapping[str, Any]], str]] = {
    RejectionReason.CIRCUIT_OPEN: lambda inputs: f"open {_since(inputs)}",
    RejectionReason.CIRCUIT_FORCED_OPEN: _forced,
    RejectionReason.CIRCUIT_RAMPING: lambda inputs: f"closed again, and admits {inputs['share']:.0%} of the calls",
    RejectionReason.PROBE_LIMIT: lambda inputs: (
        f"half open, and {inputs['probes']} of {inputs['max_probes']} probes are out"
    ),
    RejectionReason.BULKHEAD_FULL: _full,
    RejectionReason.BULKHEAD_WAIT_TIMEOUT: lambda inputs: (
        f"none of {inputs['limit']} slots came free within {_seconds(inputs['patience'])}"
    ),
    RejectionReason.RATE_LIMITED: _limited,
    RejectionReason.THROTTLED: lambda inputs: (
        f"of the last {inputs['requests']} requests the server took on {inputs['accepts']}, "
        f"so {inputs['probability']:.0%} are rejected here"
    ),
    RejectionReason.CONCURRENCY_LIMITED: lambda inputs: (
        f"{inputs['in_flight']} calls run, the limit is {inputs['limit']} now"
    ),
    RejectionReason.SHED: lambda inputs: (
        f"{inputs['in_flight']} of {inputs['limit']} calls run, and the rest is kept for more important ones"
    ),
    RejectionReason.UNFAIR_SHARE: lambda inputs: (
        f"{inputs['in_flight']} of {inputs['limit']} calls run, and this user has a full share of them"
    ),
    RejectionReason.DEADLINE: lambda inputs: f"the deadline passed {inputs['when']}",
}


_ALWAYS = ("reason", "retry_after", "last_failure")


def _rejected(values: Mapping[str, Any]) -> str:
    reason = values["reason"]
    try:
        text = _REJECTIONS[reason](values)
    except KeyError:  # a gate of somebody else, which rejects for a reason of its own or gives other inputs
        text = REASONS.get(reason, str(reason))
    if values["last_failure"] is not None:
        text += f", last {values['last_failure']}"
    if values["retry_after"] is not None and reason != RejectionReason.RATE_LIMITED:
        text += f", next probe in {_seconds(max(0.0, values['retry_after']))}"
    return f"rejected the call: {text}"


def _counted(values: Mapping[str, Any]) -> str:
    if values["verdict"] not in ("transient", "unknown"):
        return f"does not count it against the dependency ({values['verdict']})"
    text = f"counts it as a failure ({values['verdict']}, {values['because']})"
    return text if values["count"] is None else f"{text}: {values['count']} of {values['of']} {values['unit']}"


def _opened(values: Mapping[str, Any]) -> str:
    why = _OPENED.get(values["reason"], "after {reason}").format_map(values)
    return f"opens {why} ({values['verdict']}, {values['because']}); rejects until {_clock_time(values['until'])}"


def _retried(values: Mapping[str, Any]) -> str:
    asked = "as the server asked" if values["source"] == "retry_after" else values["source"]
    return (
        f"attempt {values['attempt']} of {values['max_attempts']} failed ({values['verdict']}); "
        f"tries again in {_seconds(values['delay'])} ({asked})"
    )


_GAVE_UP = {
    "attempts_exhausted": "that was the last one",
    "not_retryable": "such an outcome is not tried again",
    "not_idempotent": "it may have been carried out, and the call is not declared idempotent",
    "circuit_open": "a circuit that rejects is not asked again",
    "nested": "the retry around makes the attempts",
    "retry_after": "the server asks for {delay:.3g} s, more than max_delay",
    "deadline": "the next attempt, {delay:.3g} s later, would begin after the deadline",
    "budget": "the retry budget is used up",
}


def _gave_up(values: Mapping[str, Any]) -> str:
    why = _GAVE_UP[values["reason"]].format_map(values)
    return f"gives up after attempt {values['attempt']} of {values['max_attempts']} ({values['verdict']}): {why}"


def _replaced(values: Mapping[str, Any]) -> str:
    answer = "a fixed value" if values["used"] == "value" else "what another function answers"
    return f"answers {answer} instead"


def _served_stale(values: Mapping[str, Any]) -> str:
    return f"answers with a value that was fetched {_seconds(values['age'])} ago"


_ACTIONS: dict[str, tuple[tuple[str, ...], Callable[[Mapping[str, Any]], str]]] = {
    "raised": (("error_type",), lambda values: f"raised {values['error_type']}"),
    "refused": (("error_type",), lambda values: f"was refused by {values['error_type']}"),
    "rejected": ((*_ALWAYS, "inputs"), _rejected),
    "timed_out": (
        ("seconds",),
        lambda values: f"gave the call up after {_seconds(values['seconds'])}; whether it took effect is unknown",
    ),
    "counted": (("verdict", "because", "count", "of", "unit"), _counted),
    "opened": (("verdict", "because", "reason", "rule", "until"), _opened),
    "closed": (("verdict",), lambda values: f"takes it for a good probe and closes ({values['verdict']}: it answered)"),
    "closed_for": (
        ("seconds",),
        lambda values: f"starts no call for {_seconds(values['seconds'])}, as the server asked",
    ),
    "retried": (("attempt", "max_attempts", "verdict", "delay", "source"), _retried),
    "gave_up": (("attempt", "max_attempts", "verdict", "reason", "delay"), _gave_up),
    "answered": (("attempt",), lambda values: f"attempt {values['attempt']} succeeded"),
    "replaced": (("used",), _replaced),
    "served_stale": (("age", "because"), _served_stale),
    "hedged": (("attempts",), lambda values: f"started {values['attempts']} attempts, because the first was late"),
    "injected": (("fault",), lambda values: f"injected this {values['fault']} on purpose"),
}
"""The names of each action's values, and how they are told."""


@frozen
class Decision:
    """One decision about a call, or what it was about."""

    at: float | None
    """Seconds since the epoch, where it was looked at."""
    kind: str | None
    """What decided: "retry", "circuit_breaker"; None for the guarded function."""
    policy: str | None
    """Its name."""
    operation: str
    """Low-cardinality name of the guarded function; empty where it is not known."""
    action: str
    """"raised", "rejected", "counted", "opened", "retried", "gave_up", "answered", "replaced", ..."""
    inputs: Mapping[str, Any]
    """What it was based on, by name."""

    @property
    def text(self) -> str:
        """The decision as a sentence, without the time."""
        said = _ACTIONS[self.action][1](self.inputs)
        if self.kind is not None and self.kind != self.policy:
            return f"{self.kind.replace('_', ' ')} {self.policy!r} {said}"
        return f"{(self.kind or 'the call').replace('_', ' ')} {said}"

    def __str__(self) -> str:
        when = "" if self.at is None else f"{_clock_time(self.at)} "
        return f"{when}{self.text}"


@frozen
class Explanation:
    """Why a call ended as it did: decisions in their order, innermost and earliest first."""

    error_type: str | None
    """Class of the error that the caller got; None when he got an answer."""
    decisions: tuple[Decision, ...]
    operation: str = field(default="", kw_only=True)
    times: int = field(default=1, kw_only=True)
    """How often in a row it happened so; the decisions are those of the last time."""

    def as_dict(self) -> dict[str, Any]:
        """The same as plain values."""
        return {
            "error_type": self.error_type,
            "operation": self.operation,
            "times": self.times,
            "decisions": [
                {
                    "at": decision.at,
                    "kind": decision.kind,
                    "policy": decision.policy,
                    "operation": decision.operation,
                    "action": decision.action,
                    "inputs": dict(decision.inputs),
                    "text": decision.text,
                }
                for decision in self.decisions
            ],
        }

    def __str__(self) -> str:
        what = self.operation or "the call"
        ended = "was answered all the same" if self.error_type is None else f"ended with {self.error_type}"
        times = f" ({self.times} times in a row)" if self.times > 1 else ""
        return "\n  ".join([f"{what} {ended}{times}:", *map(str, self.decisions)])


def _decision(entry: Entry) -> Decision:
    at, kind, policy, operation, action, *values = entry
    inputs: dict[str, Any] = {
        name: value.value if isinstance(value, Verdict) else value
        for name, value in zip(_ACTIONS[action][0], values, strict=True)
    }
    if action == "rejected":
        inputs = {**inputs.pop("inputs"), **inputs}
        kind = inputs.pop("kind", "policy")
    return Decision(at, kind, policy, operation, action, inputs)


def _explanation(operation: str, error_type: str | None, entries: Iterable[Entry], times: int = 1) -> Explanation:
    return Explanation(error_type, tuple(map(_decision, entries)), operation=operation, times=times)


def explain(error: BaseException) -> Explanation:
    """Why a guarded call ended with `error`: what every policy that it passed through decided, and why.

    Knows what is noted on the exception itself, and so also tells it of one that was pickled. For an exception that no
    policy has seen it says only that it was raised.
    """
    entries = told_about(error)
    operation = next((entry[3] for entry in reversed(entries) if entry[3]), "")
    return _explanation(operation, type(error).__qualname__, entries)


def explain_calls(calls: Iterable[Unhappy]) -> list[Explanation]:
    """The same for calls of a journal."""
    return [_explanation(call.operation, call.error_type, call.entries, call.times) for call in calls]

"""The rules of the lint: each looks at a chain of policies, outermost first, and answers findings.

A finding belongs to the innermost pipeline that has all the policies in question. A rule that is not sure is silent:
what a factory makes, and what policies of other people do inside, is not known here.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Literal, TypeAlias
from weakref import WeakKeyDictionary, WeakSet

from attrs import field, frozen

from resilience_core._describe import planned_waits, worst_case
from resilience_core._errors import ResilienceError
from resilience_core._machines.backoff import Constant, Exponential, Linear
from resilience_core._pipeline import Pipeline
from resilience_core._weave.edge import Policy
from resilience_core._weave.gate import Gate

Severity: TypeAlias = Literal["error", "warning"]


@frozen
class Finding:
    """One thing that is wrong with a composition."""

    code: str
    """Names the rule, and its section in docs/lint.md."""
    severity: Severity
    """"error" for what can never work, "warning" for what harms."""
    where: str
    """The policies in question, and the pipeline that has them."""
    message: str
    fix: str
    holder: Pipeline | None = field(default=None, eq=False, repr=False)
    """The innermost pipeline that has them all; None for decorators one above the other."""
    undecided: bool = field(default=False, eq=False, repr=False)
    """Whether a pipeline around may still put it right, so that it is not told when this one is made."""

    @property
    def docs(self) -> str:
        """Where it is explained."""
        return f"docs/lint.md#{self.code}"

    def __str__(self) -> str:
        return f"{self.code}: {self.message} ({self.where}). {self.fix}. See {self.docs}"


@frozen(eq=False)
class _Place:
    """A policy in a chain, and the pipelines that it is in, outermost first."""

    policy: Any
    holders: tuple[Pipeline, ...]


Chain: TypeAlias = list[_Place]


def places(policies: Iterable[Policy], holders: tuple[Pipeline, ...]) -> Iterator[_Place]:
    for policy in policies:
        if isinstance(policy, Pipeline):
            yield from places(policy.policies, (*holders, policy))
        else:
            yield _Place(policy, holders)


def _finding(
    code: str,
    severity: Severity,
    places: Iterable[_Place],
    message: str,
    fix: str,
    *,
    holders: int | None = None,
    undecided: bool = False,
) -> Finding:
    """A finding about these places; `holders` says how many of their pipelines matter, all by default."""
    places = list(places)
    common: list[Pipeline] = []
    for level in zip(*(place.holders for place in places), strict=False):
        if any(pipeline is not level[0] for pipeline in level):
            break
        common.append(level[0])
    common = common[: len(common) if holders is None else holders]
    holder = common[-1] if common else None
    where = " and ".join(_named(place.policy) for place in places)
    if holder is not None:
        where += f" in pipeline {holder.name!r}"
    return Finding(code, severity, where, message, fix, holder, undecided)


def _named(policy: Policy) -> str:
    return f"{policy.kind.replace('_', ' ')} {policy.name!r}"


def _is(place: _Place, kinds: Iterable[str]) -> bool:
    """Whether it is of one of the kinds; a retry that makes one attempt is none."""
    policy = place.policy
    return policy.kind in kinds and not (policy.kind in _RETRIES and policy.max_attempts == 1)


def _pairs(chain: Chain, outer: Iterable[str], inner: Iterable[str]) -> Iterator[tuple[_Place, _Place]]:
    """Policies of the kinds `outer` with one of the kinds `inner` somewhere inside; of several, the outermost."""
    for index, place in enumerate(chain):
        if _is(place, outer):
            inside = next((other for other in chain[index + 1 :] if _is(other, inner)), None)
            if inside is not None:
                yield place, inside


def _inside(chain: Chain, place: _Place) -> Chain:
    return chain[chain.index(place) + 1 :]


def _once_more(chain: Chain, outer: _Place, inner: _Place) -> bool:
    """Whether a policy of the kind of `outer` stands inside `inner`, too: then the outer one is there on purpose."""
    return any(place.policy.kind == outer.policy.kind for place in _inside(chain, inner))


def _opaque(policy: Policy) -> bool:
    """Whether it may do more than is known here: made by a factory, or by somebody else. Gates only reject."""
    ours = type(policy).__module__.startswith("resilience_core.")
    return policy.kind == "keyed" or not (ours or isinstance(policy, Gate))


def _waited_for(inside: Chain) -> Chain:
    """What a caller's time-out reaches: not the fetches that a cache makes in the background."""
    for index, place in enumerate(inside):
        if place.policy.kind == "stale_cache" and place.policy.while_revalidating:
            return inside[:index]
    return inside


_RETRIES = ("retry", "adaptive_retry")
_LIMITERS = ("rate_limiter", "adaptive_throttle", "adaptive_concurrency")
_TOTALS = ("timeout", "deadline")


# --- the rules -----------------------------------------------------------------------------------------------------


def _breaker_outside_retry(chain: Chain) -> Iterator[Finding]:
    for breaker, retry in _pairs(chain, ("circuit_breaker",), _RETRIES):
        if _once_more(chain, breaker, retry):
            continue
        attempts = retry.policy.max_attempts
        yield _finding(
            "breaker-outside-retry",
            "warning",
            (breaker, retry),
            f"the circuit breaker sees one failure where up to {attempts} attempts failed, so an outage is noticed "
            f"{attempts} times as late, and an open circuit cannot end the attempts",
            "Put the circuit breaker inside the retry",
        )


def _limiter_outside_retry(chain: Chain) -> Iterator[Finding]:
    for limiter, retry in _pairs(chain, _LIMITERS, _RETRIES):
        if _once_more(chain, limiter, retry):
            continue
        attempts = retry.policy.max_attempts
        counted = {
            "rate_limiter": f"one permit pays for up to {attempts} requests",
            "adaptive_throttle": f"the server's refusals are counted once for up to {attempts} requests",
            "adaptive_concurrency": "the waits between attempts are taken for the latency of the dependency",
        }[limiter.policy.kind]
        yield _finding(
            "limiter-outside-retry",
            "warning",
            (limiter, retry),
            counted,
            "Put it inside the retry: an attempt is a request",
        )


def _retry_outside_hedge(chain: Chain) -> Iterator[Finding]:
    for retry, hedge in _pairs(chain, _RETRIES, ("hedge",)):
        if retry.policy.budget is not None and retry.policy.budget is hedge.policy.budget:
            continue
        requests = retry.policy.max_attempts * (1 + hedge.policy.max_hedges)
        yield _finding(
            "retry-outside-hedge",
            "warning",
            (retry, hedge),
            f"every attempt is hedged, which makes up to {requests} requests of one call, most of them when the "
            "dependency is slow already",
            "Put the hedge outside, give both the same budget, or choose one of the two: a hedge is a retry that does "
            "not wait",
        )


def _hedge_not_idempotent(chain: Chain) -> Iterator[Finding]:
    for place in chain:
        hedge = place.policy
        if hedge.kind != "hedge" or hedge.idempotent is True:
            continue
        levels = range(len(place.holders), 0, -1)
        declared = next((level for level in levels if place.holders[level - 1].idempotent is not None), None)
        if hedge.idempotent is None and declared is not None and place.holders[declared - 1].idempotent:
            continue
        undeclared = hedge.idempotent is None and declared is None
        yield _finding(
            "hedge-not-idempotent",
            "error",
            (place,),
            "a hedged call may be carried out twice, and the call is "
            + ("not declared idempotent" if undeclared else "declared not to be idempotent"),
            "Declare idempotent=True on the pipeline if that does no harm, else take the hedge out",
            holders=1 if undeclared else declared,
            undecided=undeclared,  # until a function is guarded: then the hedge refuses it
        )


def _fallback_inside_retry(chain: Chain) -> Iterator[Finding]:
    for retry, fallback in _pairs(chain, _RETRIES, ("fallback",)):
        retried = _classes(retry.policy.on)
        between = _inside(chain, retry)[: _inside(chain, retry).index(fallback)]
        if (
            _covers(fallback.policy.on, retried)
            and retry.policy.classify_result is None  # that would judge what the fallback answers
            and not any(_fails_by_itself(place.policy, retried) for place in between)
        ):
            value = fallback.policy.replacement is None
            yield _finding(
                "fallback-inside-retry",
                "error",
                (retry, fallback),
                "the fallback replaces every failure before the retry sees one, so nothing is tried again"
                + ("" if value else " unless the fallback fails, too"),
                "Put the fallback outside the retry",
            )


def _classes(on: Any) -> tuple[type[BaseException], ...] | None:
    """The exception classes that an option names; None where it does not tell them."""
    classes = on if isinstance(on, tuple) else (on,)
    return classes if all(isinstance(cls, type) for cls in classes) else None


def _covers(replaced: Any, retried: tuple[type[BaseException], ...] | None) -> bool:
    """Whether a fallback for `replaced` leaves nothing to a retry of `retried`, as far as classes tell."""
    classes = _classes(replaced)
    if classes is None or retried is None:
        return replaced is None
    return all(issubclass(cls, classes) for cls in retried)


def _fails_by_itself(policy: Policy, retried: tuple[type[BaseException], ...] | None) -> bool:
    """Whether a policy between a retry and a fallback raises what the retry may try again."""
    if policy.kind in ("timeout", "chaos") or _opaque(policy):
        return True
    return retried is not None and any(issubclass(cls, ResilienceError) for cls in retried)  # rejections, if asked for


def _attempt_timeout_above_total(chain: Chain) -> Iterator[Finding]:
    for index, outer in enumerate(chain):
        if outer.policy.kind not in _TOTALS:
            continue
        for inner in _waited_for(chain[index + 1 :]):
            if inner.policy.kind != "timeout" or (inner.policy.per_item and not getattr(outer.policy, "per_item", 0)):
                continue  # the first item in time, all others by their own
            if inner.policy.seconds > outer.policy.seconds:
                yield _finding(
                    "attempt-timeout-above-total",
                    "error",
                    (outer, inner),
                    f"the {inner.policy.seconds:g} s inside can never pass, because everything ends after "
                    f"{outer.policy.seconds:g} s",
                    f"Give the inner one less than {outer.policy.seconds:g} s, or the outer one more than "
                    f"{inner.policy.seconds:g} s",
                )


def _plan_exceeds_deadline(chain: Chain) -> Iterator[Finding]:
    for index, outer in enumerate(chain):
        inside = _waited_for(chain[index + 1 :])
        place = next((place for place in inside if _is(place, _RETRIES)), None)
        if outer.policy.kind not in _TOTALS or place is None:
            continue
        total, retry = outer.policy.seconds, place.policy
        between = [nearer.policy for nearer in inside[: inside.index(place)]]
        if any(policy.kind in _TOTALS and policy.seconds <= total for policy in between):
            continue  # found with that one
        attempt = worst_case([further.policy for further in _inside(inside, place)], planned=True).seconds
        plan = retry.max_attempts * attempt + planned_waits(retry)
        if retry.max_elapsed is not None:
            plan = min(plan, retry.max_elapsed + attempt)
        if plan <= total:
            continue
        yield _finding(
            "plan-exceeds-deadline",
            "warning",
            (outer, place),
            f"{retry.max_attempts} attempts{f' of up to {attempt:g} s' if attempt else ''} and waits of up to "
            f"{planned_waits(retry):g} s take {plan:g} s{'' if attempt else ' for the waits alone'}, "
            f"and everything ends after {total:g} s",
            f"Give the whole {plan:g} s, or let max_attempts be {_fitting(retry, attempt, total)}",
        )


def _fitting(retry: Any, attempt: float, total: float) -> int:
    """The most attempts that fit into `total` seconds, at least 1; all of them do not. Nobody needs more than 1000."""
    attempts, spent = 1, attempt
    while attempts < 1000 and (spent := spent + retry.schedule.longest(attempts) + attempt) <= total:
        attempts += 1
    return attempts


def _nested_retries(chain: Chain) -> Iterator[Finding]:
    retries = [place for place in chain if _is(place, _RETRIES)]
    retries = [place for place in retries if place is retries[0] or not place.policy.only_outermost]
    retries = [place for place in retries if any(_meet(place, other) for other in retries if other is not place)]
    budgets = {place.policy.budget for place in retries}
    if len(retries) < 2 or (len(budgets) == 1 and None not in budgets):
        return
    attempts = [place.policy.max_attempts for place in retries]
    yield _finding(
        "nested-retries",
        "warning",
        retries,
        f"the attempts multiply: {' x '.join(map(str, attempts))} = {math.prod(attempts)} requests of one call, when "
        "the dependency can bear them least",
        "Retry in one place; or give the inner one only_outermost=True, or all of them the same budget",
    )


def _meet(one: _Place, other: _Place) -> bool:
    """Whether two retries may try the same failure again, as far as classes tell."""
    mine, theirs = _classes(one.policy.on), _classes(other.policy.on)
    if mine is None or theirs is None:
        return True
    return any(issubclass(cls, theirs) for cls in mine) or any(issubclass(cls, mine) for cls in theirs)


def _jitter_missing(chain: Chain) -> Iterator[Finding]:
    for place in chain:
        retry = place.policy
        if not _is(place, _RETRIES) or not planned_waits(retry):
            continue
        if not isinstance(retry.backoff, (Constant, Linear, Exponential, type(None))):
            continue  # a function of the user's may bring a jitter of its own
        if retry.jitter == "none" or (retry.jitter == "proportional" and retry.jitter_share == 0):
            yield _finding(
                "jitter-missing",
                "warning",
                (place,),
                "without jitter, all clients that failed together come back together",
                'Leave jitter at "proportional", or take "full"',
            )


def _breaker_without_inner_timeout(chain: Chain) -> Iterator[Finding]:
    for index, breaker in enumerate(chain):
        if breaker.policy.kind != "circuit_breaker":
            continue
        inside = [place.policy for place in chain[index + 1 :]]
        if any(policy.kind == "timeout" or _opaque(policy) for policy in inside):
            continue
        # A thread that was left behind ends some time, and is counted then.
        cancels = [place for place in chain[:index] if place.policy.kind == "timeout" and not place.policy.thread]
        if cancels:
            yield _finding(
                "breaker-without-inner-timeout",
                "warning",
                (cancels[-1], breaker),
                f"a call that hangs is ended from outside after {cancels[-1].policy.seconds:g} s, which counts neither "
                "for nor against the dependency: the circuit never opens for one that hangs",
                "Put a Timeout inside the circuit breaker, shorter than the one outside",
            )


def _lease_not_above_timeout(chain: Chain) -> Iterator[Finding]:
    for breaker, timeout in _pairs(chain, ("circuit_breaker",), ("timeout",)):
        lease, seconds = breaker.policy.probe_timeout, timeout.policy.seconds
        if lease is not None and lease <= seconds:
            yield _finding(
                "lease-not-above-timeout",
                "error",
                (breaker, timeout),
                f"a probe may run for {seconds:g} s, and after probe_timeout ({lease:g} s) another one takes its place",
                f"Give probe_timeout more than {seconds:g} s, or leave it out: then it is {2 * seconds:g} s",
            )


def _shared_by_strangers(chain: Chain) -> Iterator[Finding]:
    for place in chain:
        if not place.policy.stateful or not place.holders:
            continue
        own = place.holders[-1]
        for other in sorted(_members.get(place.policy, ()), key=lambda pipeline: pipeline.name):
            if place.policy in other.policies and not _related(own, other):
                yield _finding(
                    "shared-by-strangers",
                    "warning",
                    (place,),
                    f"pipeline {other.name!r} has it, too: what fails or is busy there is rejected here",
                    "Give each dependency a policy of its own; if both call the same one, let their names begin alike "
                    f"({_family(own.name)!r}, {_family(own.name) + '.read'!r})",
                )
                break


def _related(one: Pipeline, other: Pipeline) -> bool:
    """Whether their names begin alike, or one is inside the other."""
    if Pipeline.kind in (one.name, other.name) or _family(one.name) == _family(other.name):
        return True
    return one in other.parts() or other in one.parts()


def _family(name: str) -> str:
    """What comes before the first dot."""
    return name.partition(".")[0]


_members: WeakKeyDictionary[Policy, WeakSet[Pipeline]] = WeakKeyDictionary()
"""The living pipelines that have a stateful policy."""


def enlist(pipeline: Pipeline) -> None:
    """Remember that a pipeline has its policies."""
    for policy in pipeline.policies:
        if policy.stateful:
            _members.setdefault(policy, WeakSet()).add(pipeline)


RULES: dict[str, Callable[[Chain], Iterator[Finding]]] = {
    "breaker-outside-retry": _breaker_outside_retry,
    "limiter-outside-retry": _limiter_outside_retry,
    "retry-outside-hedge": _retry_outside_hedge,
    "hedge-not-idempotent": _hedge_not_idempotent,
    "fallback-inside-retry": _fallback_inside_retry,
    "attempt-timeout-above-total": _attempt_timeout_above_total,
    "plan-exceeds-deadline": _plan_exceeds_deadline,
    "nested-retries": _nested_retries,
    "jitter-missing": _jitter_missing,
    "breaker-without-inner-timeout": _breaker_without_inner_timeout,
    "lease-not-above-timeout": _lease_not_above_timeout,
    "shared-by-strangers": _shared_by_strangers,
}

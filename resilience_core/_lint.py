"""What is wrong with the way policies are put together: found when it is built, not at three in the morning.

A pipeline and the pipelines inside it are one chain, outermost first, and so are decorators one above the other. Each
rule looks at the chain and answers findings; a finding belongs to the innermost pipeline that has all the policies in
question, which reports it once, when it is made. What can never work is an error and refused, what merely harms is a
`CompositionWarning`. Either is silenced by `Pipeline(..., allow={"code": "the reason"})`.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Literal, TypeAlias
from weakref import WeakKeyDictionary, WeakSet

from attrs import field, frozen

from resilience_core import _validation as check
from resilience_core._describe import planned_waits, worst_case
from resilience_core._errors import ConfigurationError
from resilience_core._pipeline import Pipeline
from resilience_core._validation import did_you_mean
from resilience_core._weave.births import CompositionWarning, users_frame
from resilience_core._weave.edge import Policy
from resilience_core.registry import trying

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


def _places(policies: Iterable[Policy], holders: tuple[Pipeline, ...]) -> Iterator[_Place]:
    for policy in policies:
        if isinstance(policy, Pipeline):
            yield from _places(policy.policies, (*holders, policy))
        else:
            yield _Place(policy, holders)


def _finding(
    code: str, severity: Severity, places: Iterable[_Place], message: str, fix: str, *, holders: int | None = None
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
    return Finding(code, severity, where, message, fix, holder)


def _named(policy: Policy) -> str:
    kind = policy.kind.replace("_", " ")
    return kind if policy.name == policy.kind else f"{kind} {policy.name!r}"


def _pairs(chain: Chain, outer: Iterable[str], inner: Iterable[str]) -> Iterator[tuple[_Place, _Place]]:
    """Policies of the kinds `outer` with one of the kinds `inner` somewhere inside; of several, the outermost."""
    for index, place in enumerate(chain):
        if place.policy.kind in outer:
            inside = next((other for other in chain[index + 1 :] if other.policy.kind in inner), None)
            if inside is not None:
                yield place, inside


_RETRIES = ("retry", "adaptive_retry")
_LIMITERS = ("rate_limiter", "adaptive_throttle", "adaptive_concurrency")
_TOTALS = ("timeout", "deadline")


# --- the rules -----------------------------------------------------------------------------------------------------


def _breaker_outside_retry(chain: Chain) -> Iterator[Finding]:
    for breaker, retry in _pairs(chain, ("circuit_breaker",), _RETRIES):
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
        requests = retry.policy.max_attempts * (1 + hedge.policy.max_hedges)
        yield _finding(
            "retry-outside-hedge",
            "warning",
            (retry, hedge),
            f"every attempt is hedged, which makes up to {requests} requests of one call, most of them when the "
            "dependency is slow already",
            "Put the hedge outside, or choose one of the two: a hedge is a retry that does not wait",
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
            # An outer pipeline may still declare it: until a function is guarded this is nobody's error.
            holders=0 if undeclared else declared,
        )


def _fallback_inside_retry(chain: Chain) -> Iterator[Finding]:
    for retry, fallback in _pairs(chain, _RETRIES, ("fallback",)):
        if _covers(fallback.policy.on, retry.policy.on):
            yield _finding(
                "fallback-inside-retry",
                "error",
                (retry, fallback),
                "the fallback replaces every failure before the retry sees one, so nothing is ever tried again",
                "Put the fallback outside the retry",
            )


def _covers(replaced: Any, retried: Any) -> bool:
    """Whether a fallback for `replaced` leaves nothing to a retry of `retried`, as far as classes tell."""
    if replaced is None:
        return True
    classes = [on if isinstance(on, tuple) else (on,) for on in (replaced, retried)]
    if not all(isinstance(cls, type) for each in classes for cls in each):
        return False
    return all(issubclass(cls, classes[0]) for cls in classes[1])


def _attempt_timeout_above_total(chain: Chain) -> Iterator[Finding]:
    for index, outer in enumerate(chain):
        if outer.policy.kind not in _TOTALS:
            continue
        for inner in chain[index + 1 :]:
            if inner.policy.kind == "timeout" and inner.policy.seconds > outer.policy.seconds:
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
        inside = chain[index + 1 :]
        retry = next((place for place in inside if place.policy.kind == "retry"), None)
        if outer.policy.kind not in _TOTALS or retry is None or retry.policy.max_attempts == 1:
            continue
        total = outer.policy.seconds
        plan = worst_case([place.policy for place in inside], planned=True)
        if plan.seconds <= total:
            continue
        within = inside[inside.index(retry) + 1 :]
        attempt = worst_case([place.policy for place in within], planned=True).seconds
        yield _finding(
            "plan-exceeds-deadline",
            "warning",
            (outer, retry),
            f"{retry.policy.max_attempts} attempts{f' of up to {attempt:g} s' if attempt else ''} and waits of up to "
            f"{planned_waits(retry.policy):g} s take {plan.seconds:g} s{'' if attempt else ' for the waits alone'}, "
            f"and everything ends after {total:g} s",
            f"Give the whole {plan.seconds:g} s, or let max_attempts be {_fitting(retry.policy, attempt, total)}",
        )


def _fitting(retry: Any, attempt: float, total: float) -> int:
    """The most attempts that fit into `total` seconds, at least 1."""
    attempts, spent = 1, attempt
    while attempts < retry.max_attempts:
        spent += retry.schedule.longest(attempts) + attempt
        if spent > total:
            break
        attempts += 1
    return attempts


def _nested_retries(chain: Chain) -> Iterator[Finding]:
    for outer, inner in _pairs(chain, _RETRIES, _RETRIES):
        one, other = outer.policy, inner.policy
        if other.only_outermost or (one.budget is not None and one.budget is other.budget):
            continue
        yield _finding(
            "nested-retries",
            "warning",
            (outer, inner),
            f"the attempts multiply: {one.max_attempts} x {other.max_attempts} = "
            f"{one.max_attempts * other.max_attempts} requests of one call, when the dependency can bear them least",
            "Retry in one place; or give the inner one only_outermost=True, or both the same budget",
        )


def _jitter_missing(chain: Chain) -> Iterator[Finding]:
    for place in chain:
        retry = place.policy
        if retry.kind not in _RETRIES or retry.max_attempts == 1 or not planned_waits(retry):
            continue
        if retry.jitter == "none" or (retry.jitter == "proportional" and retry.jitter_share == 0):
            yield _finding(
                "jitter-missing",
                "warning",
                (place,),
                "without jitter, all clients that failed together come back together",
                'Leave jitter at "proportional", or take "full"',
            )


def _breaker_without_inner_timeout(chain: Chain) -> Iterator[Finding]:
    for outer, breaker in _pairs(chain, ("timeout",), ("circuit_breaker",)):
        inside = chain[chain.index(breaker) + 1 :]
        if all(place.policy.kind != "timeout" for place in inside):
            yield _finding(
                "breaker-without-inner-timeout",
                "warning",
                (outer, breaker),
                f"a call that hangs is ended from outside after {outer.policy.seconds:g} s, which counts neither for "
                "nor against the dependency: the circuit never opens for one that hangs",
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
            if other is not own and not _related(own.name, other.name):
                yield _finding(
                    "shared-by-strangers",
                    "warning",
                    (place,),
                    f"pipeline {other.name!r} has it, too: what fails or is busy there is rejected here",
                    "Give each dependency a policy of its own; if both call the same one, let their names begin alike "
                    f"({_family(own.name)!r}, {_family(own.name) + '.read'!r})",
                )
                break


def _related(one: str, other: str) -> bool:
    return "pipeline" in (one, other) or _family(one) == _family(other)


def _family(name: str) -> str:
    """What comes before the first dot."""
    return name.partition(".")[0]


_members: WeakKeyDictionary[Policy, WeakSet[Pipeline]] = WeakKeyDictionary()
"""The living pipelines that have a stateful policy."""

_RULES: dict[str, Callable[[Chain], Iterator[Finding]]] = {
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
UNUSED = "unused-allow"
CODES = (*_RULES, UNUSED, "policy-per-call")
"""All codes; the last one is found while policies are made (`_weave/births.py`)."""


# --- asking, and being asked -----------------------------------------------------------------------------------------


def check_allow(owner: object, attribute: Any, value: Any) -> None:
    """Refuse what silences nothing: unknown codes, and codes without a reason."""
    if not isinstance(value, Mapping):
        raise check.refuse(owner, "allow", value, 'a mapping of codes to reasons, {"code": "why"}')
    for code, reason in value.items():
        if code not in _RULES:
            raise ConfigurationError(
                f"Pipeline: allow has {code!r}, which is no code{did_you_mean(str(code), _RULES)}; "
                f"the codes are {', '.join(_RULES)}"
            )
        if not isinstance(reason, str) or not reason.strip():
            raise ConfigurationError(f"Pipeline: allow[{code!r}] must say why, in words, not {reason!r}")


def lint(composed: Any) -> tuple[Finding, ...]:
    """What is wrong with a pipeline, with a single policy, or with a guarded function.

    A function may have several decorators of this framework one above the other: they are one chain, too. What `allow`
    silences is left out.
    """
    return tuple(finding for finding in _all_findings(composed) if not _allowed(finding, composed))


def _all_findings(composed: Any) -> list[Finding]:
    chain = list(_places(_policies_of(composed), ()))
    return [finding for rule in _RULES.values() for finding in rule(chain)] + list(_unused(composed, chain))


def _policies_of(composed: Any) -> list[Policy]:
    """The policies of what is composed, outermost first."""
    if isinstance(composed, Policy):
        return [composed]
    found: list[Policy] = []
    guarded = getattr(composed, "__resilience__", None)
    while guarded is not None:
        found.append(guarded.policy)
        guarded = getattr(guarded.inner, "__resilience__", None)
    if not found:
        raise TypeError(f"lint needs a pipeline, a policy or a function guarded by one, not {composed!r}")
    return found


def _allowed(finding: Finding, composed: Any) -> bool:
    """Whether the pipeline that has it, or one around that, allows it."""
    holder = finding.holder
    if holder is None:
        return False
    roots = [policy for policy in _policies_of(composed) if isinstance(policy, Pipeline)]
    around = next((path for root in roots for path in _paths(root) if path[-1] is holder), (holder,))
    return any(finding.code in pipeline.allow for pipeline in around)


def _paths(pipeline: Pipeline, above: tuple[Pipeline, ...] = ()) -> Iterator[tuple[Pipeline, ...]]:
    yield (*above, pipeline)
    for policy in pipeline.policies:
        if isinstance(policy, Pipeline):
            yield from _paths(policy, (*above, pipeline))


def _unused(composed: Any, chain: Chain) -> Iterator[Finding]:
    """An `allow` that silences nothing hides nothing but its own age."""
    if not isinstance(composed, Pipeline):
        return
    found = {finding.code for rule in _RULES.values() for finding in rule(chain)}
    for code in composed.allow:
        if code not in found and code != "shared-by-strangers":  # the other pipeline may not be there yet
            yield Finding(
                UNUSED,
                "warning",
                f"pipeline {composed.name!r}",
                f"it allows {code}, and nothing of that kind is in it",
                f"Take {code!r} out of allow",
            )


def at_construction(pipeline: Pipeline, instead_of: Pipeline | None = None) -> None:
    """Refuse or warn of what is wrong with a new pipeline, except for what a pipeline inside has told before.

    `instead_of` is the pipeline that it is tried out for: what is wrong with that already is not told again.
    """
    findings = [finding for finding in lint(pipeline) if finding.holder is pipeline or finding.code == UNUSED]
    _report(f"Pipeline {pipeline.name!r}", findings, () if instead_of is None else lint(instead_of))


def decorated(function: Any) -> None:
    """The same for a function that was guarded just now, also with one decorator above the other."""
    inner = function.__resilience__.inner
    told = lint(inner) if hasattr(inner, "__resilience__") else ()
    findings = [finding for finding in _all_findings(function) if finding.holder is None]
    _report(f"What guards {function.__name__}", findings, told)


def _report(what: str, findings: Iterable[Finding], told: Iterable[Finding]) -> None:
    known = {(finding.code, finding.where) for finding in told}
    new = [finding for finding in findings if (finding.code, finding.where) not in known]
    errors = [str(finding) for finding in new if finding.severity == "error"]
    if errors:
        raise ConfigurationError("\n".join([f"{what} cannot work.", *errors]))
    for finding in new:
        _, level = users_frame()
        warnings.warn(CompositionWarning(str(finding)), stacklevel=level)


def enlist(pipeline: Pipeline) -> None:
    """Remember that a pipeline has its policies; of one on trial that is nobody's business."""
    if not trying():
        for policy in pipeline.policies:
            if policy.stateful:
                _members.setdefault(policy, WeakSet()).add(pipeline)

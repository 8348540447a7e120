"""What is wrong with the way policies are put together: found when it is built, not at three in the morning.

A pipeline and the pipelines inside it are one chain, outermost first, and so are decorators one above the other. Each
rule looks at the chain and answers findings; a finding belongs to the innermost pipeline that has all the policies in
question, which reports it once, when it is made. What can never work is an error and refused, what merely harms is a
`CompositionWarning`. Either is silenced by `Pipeline(..., allow={"code": "the reason"})`.
"""

from __future__ import annotations

import warnings
from collections.abc import Container, Iterable, Iterator, Mapping
from typing import Any

from resilience_core import _validation as check
from resilience_core._errors import ConfigurationError
from resilience_core._lint_rules import RULES, Finding, places
from resilience_core._pipeline import Pipeline
from resilience_core._validation import did_you_mean
from resilience_core._weave.births import CompositionWarning, users_frame
from resilience_core._weave.edge import Policy

UNUSED = "unused-allow"
CODES = (*RULES, UNUSED, "policy-per-call")
"""All codes; the last one is found while policies are made (`_weave/births.py`)."""


def check_allow(owner: object, attribute: Any, value: Any) -> None:
    """Refuse what silences nothing: unknown codes, and codes without a reason."""
    if not isinstance(value, Mapping):
        raise check.refuse(owner, "allow", value, 'a mapping of codes to reasons, {"code": "why"}')
    for code, reason in value.items():
        if code not in RULES:
            raise ConfigurationError(
                f"Pipeline: allow has {code!r}, which is no code{did_you_mean(str(code), RULES)}; "
                f"the codes are {', '.join(RULES)}"
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
    chain = list(places(_policies_of(composed), ()))
    findings = [finding for rule in RULES.values() for finding in rule(chain)]
    return findings + list(_unused(composed, {finding.code for finding in findings}))


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


def _unused(composed: Any, found: Container[str]) -> Iterator[Finding]:
    """An `allow` that silences nothing hides nothing but its own age."""
    if not isinstance(composed, Pipeline):
        return
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
    own = [finding for finding in lint(pipeline) if finding.holder is pipeline or finding.code == UNUSED]
    findings = [finding for finding in own if not finding.undecided]
    _report(f"Pipeline {pipeline.name!r}", findings, () if instead_of is None else lint(instead_of))


def decorated(function: Any) -> None:
    """The same for a function that was guarded just now, also with one decorator above the other."""
    inner = function.__resilience__.inner
    told = lint(inner) if hasattr(inner, "__resilience__") else ()
    findings = [finding for finding in _all_findings(function) if finding.holder is None and not finding.undecided]
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

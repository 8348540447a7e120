"""What a pipeline can cost at worst, and how it looks: computed from its configuration alone.

    worst case of a chain = fold from the innermost policy outwards:
      requests   most calls of the guarded function that one call can make
      seconds    what is bounded of its duration, waits included
      calls      how many durations that nobody bounds come on top

What is assumed: nobody else's cancellation (a caller who shares a fetch waits for one fetch), and that asyncio or trio
runs it. A blocking call cannot be interrupted: there a `Timeout` without a thread bounds the waits, and a late call is
waited for. Chaos counts whether it is on or not. What a `Keyed` factory makes is not known, and not counted. A cache or
a shared call costs what one call costs. A `Deadline` interrupts nothing: it bounds waits, and when the last attempt
begins.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from attrs import evolve, field, frozen

from resilience_core._pipeline import Pipeline
from resilience_core._weave.edge import Policy
from resilience_core._weave.gate import Gate


@frozen
class WorstCase:
    """The most that one call can cost, as configured."""

    requests: int = 1
    """Calls of the guarded function."""
    seconds: float = 0.0
    """Time that the configuration bounds: time-outs and waits; infinite where a wait has no bound."""
    calls: int = field(default=1)
    """Durations of calls (of the guarded function, or a fallback's) that come on top because nothing bounds them."""

    def __str__(self) -> str:
        requests = "1 request" if self.requests == 1 else f"{self.requests} requests"
        if math.isinf(self.seconds):
            return f"{requests}, waits without a bound"
        if not self.calls:
            return f"{requests} in {self.seconds:g} s"
        unbounded = "a call" if self.calls == 1 else f"{self.calls} calls"
        waits = f"{self.seconds:g} s and " if self.seconds else ""
        return f"{requests}, {waits}{unbounded} of any length"


def chain_of(policies: Iterable[Policy]) -> Iterator[Policy]:
    """The policies of pipelines in their place, outermost first."""
    for policy in policies:
        if isinstance(policy, Pipeline):
            yield from chain_of(policy)
        else:
            yield policy


def worst_case(chain: Sequence[Policy], *, planned: bool = False) -> WorstCase:
    """The worst case of policies, outermost first.

    `planned` leaves out what the configuration does not plan with: longer waits that servers ask for, and waits in
    queues, which a deadline shortens.
    """
    cost = WorstCase()
    for index, policy in reversed(list(enumerate(chain))):
        if policy.kind in _RETRIES:
            cost = _retry(policy, cost, planned, chain[:index])
        elif policy.kind in _QUEUES:
            cost = cost if planned else _queue(policy, cost, chain[:index])
        elif policy.kind in _KINDS:
            cost = _KINDS[policy.kind](policy, cost)
        else:
            own = getattr(policy, "worst_case", None)  # somebody else's policy
            cost = cost if own is None else own(cost)
    return cost


def in_words(chain: Sequence[Policy]) -> str:
    """The worst case in a sentence."""
    cancels = any(policy.kind == "timeout" and not getattr(policy, "thread", False) for policy in chain)
    return f"{worst_case(chain)}{'; a blocking call is not interrupted' if cancels else ''}"


_RETRIES = ("retry", "adaptive_retry")
_QUEUES = ("bulkhead", "rate_limiter")


def _patience(outer: Iterable[Any]) -> float:
    """Seconds after which a deadline outside lets nobody wait any more, nor begin another attempt."""
    return min((policy.seconds for policy in outer if policy.kind == "deadline"), default=math.inf)


def _timeout(policy: Any, inner: WorstCase) -> WorstCase:
    seconds = policy.seconds if inner.calls else min(policy.seconds, inner.seconds)
    return evolve(inner, seconds=seconds, calls=0)


def _retry(policy: Any, inner: WorstCase, planned: bool, outer: Sequence[Policy]) -> WorstCase:
    nested = any(other.kind in _RETRIES for other in outer)
    attempts = 1 if nested and policy.only_outermost else policy.max_attempts
    waits = planned_waits(policy) if attempts > 1 else 0.0
    latest = math.inf if policy.max_elapsed is None else policy.max_elapsed  # that the last attempt begins
    if policy.kind == "adaptive_retry" and not planned:
        waits = latest = math.inf  # an attempt, once begun, waits for its turn behind as many as there are
    elif policy.on is None and not planned:
        waits = max(waits, policy.max_delay * (attempts - 1))  # a classifier may tell `retry_after`, up to this
    latest = min(latest, _patience(outer))
    requests, calls = inner.requests * attempts, inner.calls * attempts
    seconds = inner.seconds * attempts + waits
    if latest + inner.seconds < seconds or (calls > inner.calls and latest < math.inf):
        return WorstCase(requests, latest + inner.seconds, inner.calls)
    return WorstCase(requests, seconds, calls)


def planned_waits(retry: Any) -> float:
    """Seconds that the waits of one call can add up to by the retry's own schedule."""
    waits: float = retry.worst_case_delay()
    return waits


def _hedge(policy: Any, inner: WorstCase) -> WorstCase:
    hedges = policy.max_hedges
    requests = inner.requests * (1 + hedges)
    if policy.quantile is None:
        return WorstCase(requests, inner.seconds + hedges * policy.delay, inner.calls)
    if inner.calls:  # each waits for as long as some good attempt took
        return WorstCase(requests, inner.seconds + hedges * policy.delay, inner.calls * (1 + hedges))
    return WorstCase(requests, inner.seconds + hedges * max(policy.delay, inner.seconds), 0)


def _queue(policy: Any, inner: WorstCase, outer: Sequence[Policy]) -> WorstCase:
    waits = policy.max_wait if policy.kind == "rate_limiter" or policy.max_queue else 0.0
    return evolve(inner, seconds=inner.seconds + min(waits, _patience(outer)))


def _fallback(policy: Any, inner: WorstCase) -> WorstCase:
    return inner if policy.replacement is None else evolve(inner, calls=inner.calls + 1)


def _chaos(policy: Any, inner: WorstCase) -> WorstCase:
    return evolve(inner, seconds=inner.seconds + policy.latency)


_KINDS: dict[str, Callable[[Any, WorstCase], WorstCase]] = {
    "timeout": _timeout,
    "hedge": _hedge,
    "fallback": _fallback,
    "chaos": _chaos,
}
"""How each kind changes the cost of what is inside it; those not named do not."""


# --- the picture ---------------------------------------------------------------------------------------------------

_REJECTS = {
    "circuit_breaker": "CircuitOpenError",
    "bulkhead": "BulkheadFullError",
    "adaptive_concurrency": "BulkheadFullError",
    "rate_limiter": "RateLimitedError",
    "adaptive_throttle": "RateLimitedError",
    "adaptive_retry": "RateLimitedError",
    "deadline": "DeadlineExceeded",
    "timeout": "TimeoutExceeded",
}
_ESCAPES = str.maketrans({sign: f"#{ord(sign)};" for sign in '#"&<>;`\\|'} | {"\n": " ", "\r": " "})


def mermaid(chain: Sequence[Policy]) -> str:
    """The chain as a Mermaid flowchart: calls go along solid arrows, dotted ones are what happens when they do not."""
    nodes = [f"p{index}" for index in range(len(chain))]
    lines = ["flowchart LR", '  caller(["caller"])']
    lines += [f'  {node}["{_label(policy)}"]' for node, policy in zip(nodes, chain, strict=True)]
    lines += ['  function(["the function"])', f"  {' --> '.join(['caller', *nodes, 'function'])}"]
    for node, inner, policy in zip(nodes, [*nodes[1:], "function"], chain, strict=True):
        lines += [f'  {source} -. "{text}" .-> {target}' for source, text, target in _detours(policy, node, inner)]
    return "\n".join(lines)


def _detours(policy: Policy, node: str, inner: str) -> Iterator[tuple[str, str, str]]:
    if policy.kind in _RETRIES:
        yield inner, "again", node
    if policy.kind == "hedge":
        yield node, "once more, if late", inner
    if policy.kind in ("fallback", "stale_cache"):
        yield node, "answers instead", "caller"
    if policy.kind in _REJECTS or isinstance(policy, Gate):
        yield node, _REJECTS.get(policy.kind, "CallRejected"), "caller"


def _label(policy: Policy) -> str:
    text: str = policy.describe()["text"]
    kind, _, rest = text.partition(": ")
    return kind.translate(_ESCAPES) + (f"<br>{rest.translate(_ESCAPES)}" if rest else "")

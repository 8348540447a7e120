"""Several policies as one, the first one outermost."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from math import isfinite
from typing import TYPE_CHECKING, Any, ClassVar, cast

from attrs import asdict, define, field, setters

from resilience_core import _validation as check
from resilience_core._errors import ConfigurationError
from resilience_core._events import Listener
from resilience_core._story import Journal
from resilience_core._verdicts import Classifier, Judge, ResultClassifier, judge_from
from resilience_core._weave.edge import Policy, unless_foreign
from resilience_core._weave.reload import Substitutes, refuse_fixed
from resilience_core._weave.results import judging_results, judging_results_async
from resilience_core._weave.site import AsyncCall, Call, Site
from resilience_core._weave.wrapping import decoration_checks
from resilience_core.registry import trying


def _each_a_policy(owner: Pipeline, attribute: Any, value: tuple[Any, ...]) -> None:
    if not value:
        raise ConfigurationError("Pipeline: give at least one policy, the outermost first")
    for policy in value:
        if not isinstance(policy, Policy):
            hint = "; call it with its options" if isinstance(policy, type) else ""
            raise ConfigurationError(f"Pipeline: {policy!r} is not a policy{hint}")
    for index, policy in enumerate(value):
        if policy in value[:index]:
            raise ConfigurationError(f"Pipeline: the {policy.kind} {policy.name!r} is in it twice")


if TYPE_CHECKING:
    from resilience_core._describe import WorstCase
    from resilience_core._explain import Explanation


class _Listening:
    """A listener to all policies of a pipeline, whichever they are."""

    def __init__(self, listener: Listener) -> None:
        self._listener = listener
        self._ends: dict[Policy, Callable[[], None]] = {}

    def follow(self, policies: tuple[Policy, ...]) -> None:
        """Listen to these and to no others."""
        for policy in [policy for policy in self._ends if policy not in policies]:
            self._ends.pop(policy)()
        for policy in policies:
            if policy not in self._ends:
                self._ends[policy] = policy.subscribe(self._listener)


def _reasons(owner: Pipeline, attribute: Any, value: Any) -> None:
    if value != {}:
        from resilience_core._lint import check_allow  # here, not above: it knows pipelines

        check_allow(owner, attribute, value)


@define(eq=False, on_setattr=setters.frozen, init=False)
class Pipeline(Policy):
    """Composes policies; the first is the outermost. Pipelines nest.

    Args:
        policies: policies and pipelines, outermost first.
        name: identifies the pipeline in errors, events and metrics.
        classify: the default classifier of all policies in it that were not given `on` or `classify` of their own.
        classify_result: judges returned values, once per attempt; what it does not call a SUCCESS is a failure to
            every policy, and the last such value is returned in the end.
        idempotent: whether a call may be carried out twice without harm. Only then are UNKNOWN outcomes retried.
        history: unhappy calls that are kept for `explain()`; 0 for none.
        allow: what `lint` finds and is meant to be so: its code, and the reason.

    What can never work is refused, and what harms is warned of, when a pipeline is made: docs/lint.md.
    """

    kind: ClassVar[str] = "pipeline"
    fixed: ClassVar[frozenset[str]] = frozenset({*Policy.fixed, "history"})

    policies: tuple[Policy, ...] = field(validator=_each_a_policy)
    name: str = field(default="pipeline", kw_only=True, validator=check.name)
    classify: Classifier | None = field(default=None, kw_only=True, validator=check.optional(check.function))
    classify_result: ResultClassifier | None = field(
        default=None, kw_only=True, validator=check.optional(check.function)
    )
    idempotent: bool | None = field(default=None, kw_only=True, validator=check.optional(check.boolean))
    _judge: Judge | None = field(init=False, repr=False, on_setattr=setters.NO_OP)
    history: int = field(default=20, kw_only=True, validator=check.count_from(0))
    allow: Mapping[str, str] = field(factory=dict, kw_only=True, validator=_reasons)
    _journal: Journal = field(init=False, repr=False, on_setattr=setters.NO_OP)
    _listening: tuple[_Listening, ...] = field(init=False, repr=False, default=(), on_setattr=setters.NO_OP)

    def __init__(
        self,
        *policies: Policy,
        name: str = "pipeline",
        classify: Classifier | None = None,
        classify_result: ResultClassifier | None = None,
        idempotent: bool | None = None,
        history: int = 20,
        allow: Mapping[str, str] | None = None,
    ) -> None:
        cast("Any", self).__attrs_init__(
            policies,
            name=name,
            classify=classify,
            classify_result=classify_result,
            idempotent=idempotent,
            history=history,
            allow={} if allow is None else allow,
        )

    def _build(self) -> None:
        self._judge = judge_from(on=None, classify=self.classify)
        self._journal = Journal(self.history)
        if not trying():  # on trial it is `with_substitutes` that knows what it is tried out for
            from resilience_core import _lint, _lint_rules  # here, not above: they know pipelines

            _lint.at_construction(self)  # before it is registered: what is refused must not be found there
            _lint_rules.enlist(self)

    @property
    def journal(self) -> Journal | None:
        """Where unhappy calls are kept."""
        return self._journal if self.history else None

    def explain(self) -> list[Explanation]:
        """Why the last calls that did not simply succeed ended as they did, the latest last.

        These are calls that raised, and calls that were answered only by a retry, a hedge, a fallback or a stale value.
        The same rejection many times in a row is one entry. A pipeline inside another one leaves it to that.
        """
        from resilience_core._explain import explain_calls  # here, not above: nobody asks while all is well

        return explain_calls(list(self._journal.calls))

    # --- other options, another structure ----------------------------------------------------------------------------

    def reconfigure(self, *policies: Policy, **options: Any) -> None:
        """Change the structure, the options or both while calls are made.

        Args:
            policies: all policies from now on, outermost first; those that were in it before keep their state. None
                to leave the structure as it is.
            options: options of the pipeline; those of a policy inside are changed by its own `reconfigure`.

        Raises:
            ConfigurationError: it cannot be so; nothing has changed then.
            TypeError: a function that is guarded already cannot be guarded so; nothing has changed then.
        """
        Policy.reconfigure(self, **(options | {"policies": policies} if policies else options))

    def altered(self, options: Mapping[str, Any]) -> Pipeline:
        """A new pipeline that is set as this one, but for `options`."""
        known = {option: name for option, name in self._options().items() if option != "clock"}
        refuse_fixed(self, options, known, self.fixed)
        values = {option: getattr(self, name) for option, name in known.items()} | dict(options)
        policies = values.pop("policies")
        return unless_foreign(self, lambda: type(self)(*policies, **values))

    def with_substitutes(self, substitutes: Substitutes) -> Policy:
        """This pipeline with substitutes for those that have one, itself included."""
        done: Policy | None = substitutes.wholes.get(self)
        if done is not None:
            return done
        base: Pipeline = substitutes.get(self, self)
        policies = tuple(policy.with_substitutes(substitutes) for policy in base.policies)
        if policies != base.policies:
            base = base.altered({"policies": policies})
        if base is not self:
            from resilience_core import _lint

            _lint.at_construction(base, instead_of=self)
        substitutes.wholes[self] = base
        return base

    def _adopt(self, other: Pipeline, changed: frozenset[str]) -> None:
        self._judge = other._judge
        for listening in self._listening:
            listening.follow(self.policies)
        from resilience_core import _lint_rules

        _lint_rules.enlist(self)

    def __iter__(self) -> Iterator[Policy]:
        return iter(self.policies)

    def bind(self, call: Call, site: Site) -> Call:
        """Weave all policies around a blocking call, the last one first."""
        inner = site.inner(self._judge, self.idempotent)
        if self.classify_result is not None:
            call = judging_results(call, self.classify_result, inner)
        for policy, repeated in self._from_within(site):
            inner.repeated = repeated
            call = policy.bind(call, inner)
        self._pass_outwards(inner, site)
        return call

    def bind_async(self, call: AsyncCall, site: Site) -> AsyncCall:
        """Weave all policies around an async call, the last one first."""
        inner = site.inner(self._judge, self.idempotent)
        if self.classify_result is not None:
            call = judging_results_async(call, self.classify_result, inner)
        for policy, repeated in self._from_within(site):
            inner.repeated = repeated
            call = policy.bind_async(call, inner)
        self._pass_outwards(inner, site)
        return call

    def _from_within(self, site: Site) -> list[tuple[Policy, bool]]:
        """The policies, the innermost first, and whether one further out may make several attempts."""
        found, repeated = [], site.repeated
        for policy in self.policies:
            found.append((policy, repeated))
            repeated = repeated or policy.repeats
        return found[::-1]

    @staticmethod
    def _pass_outwards(inner: Site, site: Site) -> None:
        site.inner_timeout = inner.inner_timeout
        site.circuit = inner.circuit
        site.returns_bad_results = inner.returns_bad_results

    def at_rest(self) -> bool:
        """Whether all policies inside are."""
        return all(policy.at_rest() for policy in self.policies)

    def parts(self) -> Iterator[Policy]:
        """The pipeline and all policies inside."""
        yield self
        for policy in self.policies:
            yield from policy.parts()

    def subscribe(self, listener: Listener) -> Callable[[], None]:
        """Tell `listener` of the events of every policy inside; call what is returned to stop that."""
        listening = _Listening(listener)
        listening.follow(self.policies)
        self._listening = (*self._listening, listening)
        end_own = self.bus.subscribe(listener)

        def unsubscribe() -> None:
            end_own()
            self._listening = tuple(each for each in self._listening if each is not listening)
            listening.follow(())

        return unsubscribe

    def snapshot(self) -> dict[str, Any]:
        """The snapshots of the policies inside, outermost first."""
        return {
            "policies": [{"kind": policy.kind, "name": policy.name, **policy.snapshot()} for policy in self.policies]
        }

    def describe(self) -> dict[str, Any]:
        """What the pipeline does, as plain values: the policies in order, outermost first.

        `text` is the pipeline as text, `mermaid` as a flowchart, and `worst_case` the most that one call can cost:
        `requests`, `seconds` (None for no bound) and `calls` of any length on top, as in `WorstCase`.
        """
        from resilience_core._describe import chain_of, mermaid

        worst = self.worst_case()
        return {
            "kind": self.kind,
            "name": self.name,
            "text": str(self),
            "idempotent": bool(self.idempotent),
            "worst_case": {**asdict(worst), "seconds": worst.seconds if isfinite(worst.seconds) else None},
            "mermaid": mermaid(list(chain_of(self))),
            "policies": [policy.describe() for policy in self.policies],
        }

    def worst_case(self) -> WorstCase:
        """The most that one call can cost, computed from the configuration.

        It is that of async calls: a blocking one cannot be interrupted, so a `Timeout` without `thread=True` bounds
        only its waits.
        """
        from resilience_core._describe import chain_of, worst_case  # here, not above: only who asks pays for it

        return worst_case(list(chain_of(self)))

    def __str__(self) -> str:
        """One line a policy, each further in than the last, and what a call can cost at worst."""
        from resilience_core._describe import chain_of, in_words

        return "\n".join([*self._lines(), f"  worst case: {in_words(list(chain_of(self)))}"])

    def _lines(self) -> list[str]:
        lines = [f"pipeline {self.name!r}"]
        for depth, policy in enumerate(self.policies, 1):
            inner = policy._lines() if isinstance(policy, Pipeline) else policy.describe()["text"].splitlines()
            lines += [f"{'  ' * depth}{line}" for line in inner]
        return lines


def _lint_decorated(function: Any) -> None:
    from resilience_core import _lint

    _lint.decorated(function)


decoration_checks.append(_lint_decorated)

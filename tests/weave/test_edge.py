"""Decorating and calling in place: kinds, names, signatures, and what is refused."""

from __future__ import annotations

import asyncio
import functools
import inspect
from typing import Any

import pytest

from resilience_core import (
    Bulkhead,
    CallRejected,
    CircuitBreaker,
    CircuitOpenError,
    ConfigurationError,
    Fallback,
    Gate,
    Judgement,
    Pipeline,
    Policy,
    RejectionReason,
    Retry,
    Timeout,
    Verdict,
    registry,
)
from resilience_core._weave.site import Kind, as_they_are, kind_of, name_of
from resilience_core.testing import record_events


def guard() -> Pipeline:
    return Pipeline(Retry(on=ConnectionError, base_delay=0, max_delay=0), CircuitBreaker("b"), name="p")


def double(number: int, *, plus: int = 0) -> int:
    """Twice."""
    return number * 2 + plus


class Doubler:
    def __call__(self, number: int) -> int:
        return number * 2

    def method(self, number: int) -> int:
        return number * 2

    async def async_method(self, number: int) -> int:
        return number * 2


class AsyncDoubler:
    async def __call__(self, number: int) -> int:
        return number * 2


def test_name_signature_and_kind_are_kept() -> None:
    guarded = guard()(double)
    assert guarded(2, plus=1) == 5
    assert (guarded.__name__, guarded.__doc__) == ("double", "Twice.")
    assert inspect.signature(guarded) == inspect.signature(double)
    assert inspect.iscoroutinefunction(guard()(AsyncDoubler().__call__))

    async def stream() -> Any:
        yield 1

    def blocking_stream() -> Any:
        yield 1

    assert inspect.isasyncgenfunction(guard()(stream))
    assert inspect.isgeneratorfunction(guard()(blocking_stream))


def test_whatever_can_be_called_can_be_guarded() -> None:
    assert guard()(functools.partial(double, plus=3))(2) == 7
    assert guard()(Doubler())(2) == 4
    assert guard()(Doubler().method)(2) == 4
    assert asyncio.run(guard()(AsyncDoubler())(2)) == 4  # type: ignore[arg-type]
    assert asyncio.run(guard()(functools.partial(AsyncDoubler()))(2)) == 4  # type: ignore[arg-type]
    assert guard()(len)([1]) == 1

    class Service:
        policy = guard()

        @policy
        def method(self, number: int) -> int:
            return number * 2

        @policy
        async def async_method(self, number: int) -> int:
            return number * 2

        @policy
        @staticmethod
        def static(number: int) -> int:
            return number * 2

        @classmethod
        @policy
        def class_method(cls, number: int) -> int:
            return number * 2

    service = Service()
    assert [service.method(2), service.static(2), service.class_method(2)] == [4, 4, 4]
    assert asyncio.run(service.async_method(2)) == 4


@pytest.mark.parametrize(
    ("thing", "hint"),
    [(5, "not a function"), (classmethod(double), "below @classmethod"), (property(double), "below"), (dict, "class")],
)
def test_what_cannot_be_guarded_is_refused(thing: Any, hint: str) -> None:
    with pytest.raises(TypeError, match=hint):
        guard()(thing)


@pytest.mark.parametrize("policy", [CircuitBreaker, Retry, Timeout, Bulkhead, Fallback])
def test_a_decorator_without_its_arguments_says_what_is_missing(policy: Any) -> None:
    with pytest.raises((ConfigurationError, TypeError)) as caught:
        policy(double)
    if policy in (CircuitBreaker, Retry, Fallback):
        assert f"write @{policy.__name__}(...)" in str(caught.value)


def test_a_pipeline_refuses_what_is_no_policy() -> None:
    with pytest.raises(ConfigurationError, match="at least one"):
        Pipeline()
    with pytest.raises(ConfigurationError, match="call it with its options"):
        Pipeline(Retry)  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError, match="not a policy"):
        Pipeline(double)  # type: ignore[arg-type]
    breaker = CircuitBreaker("b")
    with pytest.raises(ConfigurationError, match="twice"):
        Pipeline(breaker, Timeout(1), breaker)


def test_in_place() -> None:
    policy = guard()
    assert policy.call(double, 2, plus=1) == 5
    assert policy.call(double, number=3) == 6
    assert asyncio.run(policy.acall(AsyncDoubler().__call__, 2)) == 4


@pytest.mark.filterwarnings("ignore:coroutine")
def test_in_place_refuses_the_wrong_world() -> None:
    async def fn() -> None: ...
    def stream() -> Any:
        yield 1

    async def async_stream() -> Any:
        yield 1

    for wrong in (fn, stream, async_stream):
        with pytest.raises(TypeError, match="outside the policies"):
            guard().call(wrong)
    with pytest.raises(TypeError, match="use call"):
        asyncio.run(guard().acall(double, 2))  # type: ignore[arg-type]


def test_kinds_and_names() -> None:
    assert kind_of(double) is Kind.BLOCKING
    assert kind_of(functools.partial(AsyncDoubler())) is Kind.ASYNC
    assert name_of(functools.partial(double)) == "double"
    assert name_of(Doubler()) == "Doubler"
    assert as_they_are((1,), {}) == ((1,), {})


def test_describe_and_snapshot() -> None:
    policy = Pipeline(
        Timeout(30),
        Pipeline(Retry(on=(KeyError, OSError)), CircuitBreaker("b"), Timeout(8), name="inner"),
        name="outer",
        idempotent=True,
    )
    assert str(policy).splitlines() == [
        "pipeline 'outer'",
        "  timeout: gives the call up after 30 s",
        "    pipeline 'inner'",
        "      retry: 3 attempts, first wait 1 s, x2, at most 10 s, proportional jitter",
        "        circuit breaker 'b': opens after 5 consecutive failures, rejects for 60 s, closes after 2 good probes",
        "          timeout: gives the call up after 8 s",
        "  worst case: 3 requests in 27.75 s; a blocking call is not interrupted",
    ]
    told = policy.describe()
    assert (told["idempotent"], told["policies"][0]["options"]["seconds"]) == (True, 30)
    assert told["policies"][1]["policies"][0]["options"]["on"] == ["KeyError", "OSError"]
    assert [each["kind"] for each in policy.snapshot()["policies"]] == ["timeout", "pipeline"]
    assert policy in list(registry)
    assert [each.kind for each in policy] == ["timeout", "pipeline"]


def test_a_pipeline_hears_all_its_policies() -> None:
    policy = Pipeline(Retry(on=ConnectionError, base_delay=0, max_delay=0), CircuitBreaker("b", failure_threshold=2))
    with record_events(policy) as events:
        with pytest.raises(CircuitOpenError):
            Pipeline(policy)(_down)()
    assert {event.policy for event in events} == {"b", "retry"}
    heard = len(events)
    with pytest.raises(CircuitOpenError):
        policy.call(_down)
    assert len(events) == heard


def _down() -> None:
    raise ConnectionError


# --- a policy and a gate of one's own ------------------------------------------------------------------------------


class Maintenance(Gate):
    """Rejects while `closed`; a third party's gate in a dozen lines."""

    kind = "maintenance"
    name = "maintenance"

    def enter(self, args: Any, kwargs: Any) -> int:
        if CLOSED:
            raise CallRejected(self.name, RejectionReason.CIRCUIT_FORCED_OPEN)
        ENTERED.append(args)
        return len(ENTERED)

    def settle(self, permit: int, judgement: Judgement) -> None:
        SETTLED.append((permit, judgement.verdict))


CLOSED: list[bool] = []
ENTERED: list[Any] = []
SETTLED: list[Any] = []


def test_a_gate_of_one_s_own_works_everywhere() -> None:
    CLOSED.clear()
    ENTERED.clear()
    SETTLED.clear()
    gate = Maintenance()

    @gate
    def fn(fails: bool) -> int:
        if fails:
            raise ConnectionError
        return 1

    @gate
    async def async_fn(fails: bool) -> int:
        return fn.__wrapped__(fails)  # type: ignore[attr-defined, no-any-return]

    @gate
    def stream() -> Any:
        yield 1

    @gate
    async def async_stream() -> Any:
        yield 1

    assert fn(False) == 1
    with pytest.raises(ConnectionError):
        fn(True)

    async def story() -> None:
        assert await async_fn(False) == 1
        with pytest.raises(ConnectionError):
            await async_fn(True)
        async with gate.guard():
            pass
        assert [item async for item in async_stream()] == [1]

    asyncio.run(story())
    assert list(stream()) == [1]
    with pytest.raises(ValueError), gate.guard():
        raise ValueError
    good, bad = Verdict.SUCCESS, Verdict.TRANSIENT
    assert [verdict for _, verdict in SETTLED] == [good, bad, good, bad, good, good, good, bad]
    assert [permit for permit, _ in SETTLED] == list(range(1, 9))
    assert ENTERED[:2] == [(False,), (True,)]
    CLOSED.append(True)
    with pytest.raises(CallRejected):
        fn(False)
    assert gate.describe()["text"] == "maintenance 'maintenance'"


class Silent(Policy):
    """The smallest policy."""

    kind = "silent"
    name = "silent"

    def bind(self, call: Any, site: Any) -> Any:
        return call

    def bind_async(self, call: Any, site: Any) -> Any:
        return call


def test_the_smallest_policy() -> None:
    assert Silent().call(double, 2) == 4
    assert Silent().snapshot() == {}

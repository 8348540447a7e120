"""Pipelines as a configuration describes them."""

from __future__ import annotations

from typing import Any

import pytest

from resilience_core import (
    CompositionWarning,
    ConfigurationError,
    RateLimitedError,
    RetryBudget,
    TrafficRatio,
    Verdict,
    config,
    registry,
    standard,
    standard_hedging,
)
from resilience_core.redis import RedisFleet
from resilience_core.testing import virtual_time
from tests._redis import RedisServer
from tests.worlds import Script, World

STACK = """
[policies.graph]
extends = "standard"
idempotent = true
[policies.graph.rate_limiter]
rate = 2
[policies.graph.fallback]
"""


def plain(pipeline: Any) -> list[Any]:
    """What a pipeline is made of, without the functions."""
    return [(policy["kind"], policy["name"], policy["options"]) for policy in pipeline.describe()["policies"]]


def test_the_built_in_stacks_are_those_of_the_functions() -> None:
    text = '[policies.graph]\nextends = "standard"\n[policies.fast]\nextends = "standard_hedging"\nidempotent = true\n'
    configuration = config.from_toml(text)
    assert plain(configuration.build("graph", on=OSError)) == plain(standard("graph", on=OSError))
    hedging = standard_hedging("fast", on=OSError, idempotent=True)
    assert plain(configuration.build("fast", on=OSError)) == plain(hedging)


def test_what_only_code_can_give_comes_from_code(world: World) -> None:
    async def story() -> None:
        configuration = config.from_toml(STACK)
        pipeline = configuration.build(
            "graph",
            classify=lambda error: Verdict.TRANSIENT,
            classify_result=lambda result: Verdict.SUCCESS,
            code={"fallback": {"call": lambda user: "instead", "on": ConnectionError}, "rate_limiter": {"key": str}},
        )
        assert [policy.kind for policy in pipeline] == [
            "fallback",
            "timeout",
            "retry",
            "circuit_breaker",
            "bulkhead",
            "rate_limiter",
            "timeout",
        ]
        assert (pipeline.name, pipeline.idempotent) == ("graph", True)
        guarded = world.guard(pipeline, Script("fine").fn)
        assert [await guarded("a"), await guarded("a"), await guarded("b")] == ["fine"] * 3
        with pytest.raises(RateLimitedError):
            await guarded("a")

    world.run(story)


def test_on_goes_to_who_counts_and_who_retries_unless_code_says_otherwise() -> None:
    configuration = config.from_toml(STACK)
    _, _, retry, breaker, *_ = configuration.build(
        "graph", on=OSError, code={"fallback": {"call": len}, "circuit_breaker": {"on": ValueError}}
    )
    assert (retry.on, breaker.on) == (OSError, ValueError)  # type: ignore[attr-defined]


def test_code_goes_before_the_configuration_for_idempotence() -> None:
    configuration = config.from_toml(STACK)
    assert (
        configuration.build("graph", on=OSError, idempotent=False, code={"fallback": {"call": len}}).idempotent is False
    )


def test_a_budget_of_one_name_is_one_for_all_who_name_it() -> None:
    configuration = config.from_toml(
        """
        [budgets.shared]
        law = { type = "TrafficRatio", ratio = 0.3 }
        [policies.a.retry]
        budget = "shared"
        [policies.b.retry]
        budget = "shared"
        """
    )
    (first,), (second,) = configuration.build("a", on=OSError), configuration.build("b", on=OSError)
    assert first.budget is second.budget  # type: ignore[attr-defined]
    assert first.budget.law == TrafficRatio(0.3)  # type: ignore[attr-defined]
    living = RetryBudget("of_code")
    (retry,) = config.from_toml('[policies.c]\nretry = { budget = "of_code" }\n[budgets.of_code]\n').build(
        "c", on=OSError
    )
    assert retry.budget is living  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("name", "code", "told"),
    [
        ("graf", {}, "no stack is called 'graf'; did you mean 'graph'?; there are graph"),
        ("graph", {"hedge": {}}, "code is given for 'hedge', which the stack 'graph' does not have; it has fallback, "),
        ("graph", {"retry": {"max_attempts": 3}}, "code gives retry.max_attempts, which is configured; code can give "),
        (
            "graph",
            {"retry": {"max": 3}},
            "code gives retry.max, which is no option of it; code can give chance, classify",
        ),
        ("graph", {}, "Fallback: give exactly one of value= and call="),
    ],
    ids=["stack", "section", "configured", "unknown", "missing"],
)
def test_what_does_not_fit_is_refused(name: str, code: dict[str, Any], told: str) -> None:
    with pytest.raises(ConfigurationError) as refused:
        config.from_toml(STACK).build(name, on=OSError, code=code)
    assert told in str(refused.value)


def test_an_empty_configuration_has_no_stack_to_build() -> None:
    with pytest.raises(ConfigurationError, match="no stack is called 'graph'; there are none"):
        config.from_toml("").build("graph")


def test_reading_registers_nothing_and_warns_of_nothing() -> None:
    before = {id(policy) for policy in registry}
    configuration = config.from_toml(
        """
        [policies.silent.timeout]
        seconds = 3
        [policies.silent.retry]
        [policies.silent.bulkhead]
        max_concurrent = 5
        """
    )
    assert {id(policy) for policy in registry} <= before
    with pytest.warns(CompositionWarning, match="plan-exceeds-deadline"):
        configuration.build("silent", on=OSError)


def test_what_is_meant_to_be_so_is_allowed_in_the_configuration() -> None:
    configuration = config.from_toml(
        """
        [policies.graph]
        allow = { plan-exceeds-deadline = "most attempts fail at once" }
        timeout = { seconds = 3 }
        retry = {}
        """
    )
    assert configuration.build("graph", on=OSError).allow == {"plan-exceeds-deadline": "most attempts fail at once"}


def test_a_pipeline_from_a_configuration_works(world: World) -> None:
    async def story() -> None:
        configuration = config.from_mapping(
            {"policies": {"graph": {"retry": {"base_delay": 0.5, "jitter": "none"}, "circuit_breaker": {}}}}
        )
        pipeline = configuration.build("graph", on=ConnectionError)
        assert await world.guard(pipeline, Script(ConnectionError(), "ok").fn)() == "ok"

    with virtual_time():
        world.run(story)


SHARED = """
[policies.shared]
extends = "standard"
[policies.shared.circuit_breaker]
quorum = 2
[policies.shared.rate_limiter]
rate = 100
burst = 3
per = "100 s"
strict = true
[policies.shared.bulkhead]
fail_closed = true
"""


def test_a_fleet_comes_from_code_and_how_it_shares_from_the_configuration(redis_server: RedisServer) -> None:
    configuration = config.from_toml(SHARED)
    fleet = RedisFleet(redis_server.url, prefix="configured:", timeout=2.0)
    with pytest.raises(ConfigurationError, match="give fleet="):
        configuration.build("shared", on=OSError)
    code = {section: {"fleet": fleet} for section in ("circuit_breaker", "rate_limiter", "bulkhead")}
    pipeline = configuration.build("shared", on=OSError, code=code)
    assert [pipeline.call(len, "ab") for _ in range(3)] == [2, 2, 2]
    with pytest.raises(RateLimitedError):
        pipeline.call(len, "ab")
    breaker = registry.get("shared", "circuit_breaker")
    assert breaker.quorum == 2
    registry.apply(config.from_toml(SHARED.replace("quorum = 2", "quorum = 3")))
    assert breaker.quorum == 3
    fleet.close()

"""Every option of every policy refuses what cannot work, with its name in the text."""

from __future__ import annotations

import math
from datetime import timedelta
from typing import Any

import attrs
import pytest

from resilience_core import (
    AIMD,
    AdaptiveConcurrency,
    AdaptiveRetry,
    AdaptiveThrottle,
    AnyOf,
    Bulkhead,
    Chaos,
    CircuitBreaker,
    Coalesce,
    ConfigurationError,
    ConsecutiveFailures,
    Constant,
    CountWindow,
    Deadline,
    Exponential,
    FailureRate,
    Fallback,
    Gradient2,
    Hedge,
    InFlightRatio,
    Keyed,
    Linear,
    Pipeline,
    Policy,
    ProbeRate,
    RampStep,
    RateLimiter,
    RecoveryBackoff,
    Retry,
    RetryBudget,
    SlowCallRate,
    StaleCache,
    Steady,
    Timeout,
    TimeWindow,
    TokenQuota,
    TokenThrottle,
    TrafficRatio,
    Vegas,
    Verdict,
)

POSITIVE: list[Any] = [0, -1, math.nan, math.inf, True, "1", None]
SECONDS: list[Any] = [-1, math.nan, math.inf, -math.inf, True, "1"]
COUNT: list[Any] = [0, -1, 1.0, True, "1", math.nan, None]
FUNCTION: list[Any] = [5, "f"]
FLAG: list[Any] = [1, "yes"]
NAME: list[Any] = ["", 5, None, lambda: None]
FLEET: list[Any] = ["redis://localhost", 5]
ON: list[Any] = [5, (), (5,), int, (ValueError, int), "ValueError"]
ANY = object()  # any value is a good one

SHARE: list[Any] = [-0.1, 1.1, math.nan, True, None, "1"]
NUMBER: list[Any] = [-1, math.nan, math.inf, True, "1", None]
LIMIT: list[Any] = [-1, 1.5, True, None, 10**9]

REQUIRED: dict[type[Any], dict[str, Any]] = {
    CircuitBreaker: {"name": "n"},
    Retry: {"on": ValueError},
    Timeout: {"seconds": 1},
    Fallback: {"value": 1},
    Bulkhead: {"name": "n", "max_concurrent": 1},
    RateLimiter: {"name": "n", "rate": 1},
    StaleCache: {"fresh_for": 1, "stale_for": 1},
    Constant: {},
    Linear: {},
    Exponential: {},
    AdaptiveRetry: {"on": ValueError},
    Hedge: {"delay": 1},
    Coalesce: {},
    Chaos: {},
    Deadline: {"seconds": 1},
    Keyed: {"factory": lambda key: Coalesce(), "key": lambda: 1},
    AdaptiveConcurrency: {"name": "n"},
    AdaptiveThrottle: {"name": "n"},
    RetryBudget: {"name": "n"},
    TrafficRatio: {},
    InFlightRatio: {},
    TokenQuota: {},
    TokenThrottle: {},
    ConsecutiveFailures: {},
    FailureRate: {},
    SlowCallRate: {"slower_than": 1},
    AnyOf: {"rules": ()},
    CountWindow: {},
    TimeWindow: {},
    ProbeRate: {},
    RampStep: {"share": 0.5, "duration": 1},
    RecoveryBackoff: {},
    AIMD: {},
    Vegas: {},
    Gradient2: {},
    Steady: {},
}
REFUSED: dict[type[Any], dict[str, Any]] = {
    CircuitBreaker: {
        "fleet": FLEET,
        "quorum": [*COUNT, 65],
        "name": NAME,
        "failure_threshold": COUNT,
        "success_threshold": COUNT,
        "recovery_timeout": POSITIVE,
        "trip": [5, "rule", attrs.define(type("NoStart", (), {}))],
        "recovery_backoff": [5, RecoveryBackoff],
        "max_retry_after": POSITIVE[:-1],
        "half_open_max_calls": COUNT,
        "probe_rate": [0.5],
        "ramp": [(0.5,), [5]],
        "chance": [5, None],
        "enforce": SHARE,
        "probe_timeout": POSITIVE[:-1],
        "on": ON,
        "classify": FUNCTION,
        "classify_result": FUNCTION,
        "clock": [5, None],
    },
    Retry: {
        "name": NAME,
        "on": ON,
        "classify": FUNCTION,
        "classify_result": FUNCTION,
        "max_attempts": COUNT,
        "base_delay": SECONDS,
        "multiplier": [0, 0.5, -1, math.nan, math.inf, True],
        "max_delay": [*SECONDS, 0.5],
        "jitter": ["some", None, 1],
        "jitter_share": [-0.1, 1.1, math.nan, True],
        "backoff": FUNCTION,
        "max_elapsed": POSITIVE[:-1],
        "idempotent": FLAG,
        "budget": [5, RetryBudget],
        "only_outermost": FLAG,
        "chance": [5, None],
        "clock": [5, None],
    },
    Timeout: {
        "seconds": POSITIVE,
        "name": NAME,
        "thread": FLAG,
        "max_abandoned": COUNT,
        "per_item": FLAG,
        "clock": [5],
    },
    Fallback: {"name": NAME, "value": ANY, "replacement": FUNCTION, "on": ON, "clock": [5]},
    Bulkhead: {
        "name": NAME,
        "fleet": FLEET,
        "fail_closed": FLAG,
        "max_concurrent": COUNT,
        "max_queue": [-1, 1.0, True, None],
        "max_wait": POSITIVE[:-1],
        "enforce": SHARE,
        "clock": [5],
    },
    RateLimiter: {
        "fleet": FLEET,
        "strict": FLAG,
        "fail_closed": FLAG,
        "name": NAME,
        "rate": POSITIVE,
        "per": POSITIVE,
        "burst": COUNT[:-1],
        "key": FUNCTION,
        "max_keys": COUNT,
        "max_wait": [*SECONDS, None],
        "enforce": SHARE,
        "classify": FUNCTION,
        "clock": [5],
    },
    StaleCache: {
        "name": NAME,
        "fresh_for": [*SECONDS, None],
        "stale_for": [*SECONDS, None],
        "key": FUNCTION,
        "on": ON,
        "max_entries": COUNT,
        "while_revalidating": FLAG,
        "negative_for": [*SECONDS, None],
        "negative_on": ON,
        "store": [5, {}],
        "file": ANY,  # Path() refuses what is no path with a TypeError of its own
        "encode": [*FUNCTION, None],
        "decode": [*FUNCTION, None],
        "clock": [5],
    },
    Constant: {"delay": SECONDS},
    Linear: {"base": SECONDS, "increment": SECONDS},
    Exponential: {"base": SECONDS, "multiplier": [0.5, math.nan]},
    Hedge: {
        "name": NAME,
        "delay": POSITIVE,
        "quantile": SHARE[:4],
        "minimum_samples": [*COUNT, 513],
        "max_hedges": COUNT,
        "budget": [5],
        "max_stragglers": COUNT,
        "idempotent": FLAG,
        "clock": [5],
    },
    Coalesce: {"name": NAME, "key": FUNCTION, "clock": [5]},
    Chaos: {
        "name": NAME,
        "error": FUNCTION,
        "error_rate": SHARE,
        "latency": [*SECONDS, None],
        "latency_rate": SHARE,
        "result": ANY,
        "result_rate": SHARE,
        "schedule": [((5, 1),), (5,), ((1, 2, 3),), (("a", "b"),)],
        "seed": ["x", 1.5],
        "enabled": FLAG,
        "clock": [5],
    },
    Deadline: {"seconds": POSITIVE, "name": NAME, "clock": [5]},
    Keyed: {
        "factory": [*FUNCTION, None],
        "key": [*FUNCTION, None],
        "name": NAME,
        "max_keys": COUNT,
        "idle": POSITIVE[:-1],
        "clock": [5],
    },
    AdaptiveConcurrency: {
        "name": NAME,
        "law": [5, Steady],
        "priority": FUNCTION,
        "user": FUNCTION,
        "classify": FUNCTION,
        "chance": [5, None],
        "enforce": SHARE,
        "clock": [5],
    },
    AdaptiveThrottle: {
        "name": NAME,
        "k": [0, 0.5, math.nan, None],
        "window": POSITIVE,
        "minimum_requests": COUNT,
        "maximum": SHARE,
        "priority": FUNCTION,
        "classify": FUNCTION,
        "chance": [5, None],
        "enforce": SHARE,
        "clock": [5],
    },
    RetryBudget: {"name": NAME, "law": [5, TrafficRatio], "clock": [5], "fleet": FLEET},
    TrafficRatio: {"ratio": NUMBER, "minimum_per_second": NUMBER, "ttl": POSITIVE},
    InFlightRatio: {"ratio": SHARE, "minimum": LIMIT[:-1]},
    TokenQuota: {
        "capacity": [0, *NUMBER],
        "retry_cost": [0, *NUMBER],
        "timeout_cost": [0, *NUMBER],
        "no_retry_increment": NUMBER,
    },
    TokenThrottle: {"max_tokens": [0, *NUMBER], "token_ratio": [0, *NUMBER]},
    ConsecutiveFailures: {"threshold": COUNT},
    FailureRate: {"rate": [0, *SHARE], "window": [5, None], "minimum_calls": [*COUNT, 101]},
    SlowCallRate: {
        "rate": [0, *SHARE],
        "window": [5, None],
        "slower_than": POSITIVE,
        "minimum_calls": [*COUNT, 101],
    },
    AnyOf: {"rules": [(5,)]},
    CountWindow: {"size": COUNT},
    TimeWindow: {"seconds": POSITIVE, "buckets": COUNT},
    ProbeRate: {"calls": COUNT, "failure_rate": [0, *SHARE]},
    RampStep: {"share": [0, *SHARE], "duration": POSITIVE},
    RecoveryBackoff: {"multiplier": [0.5, math.nan, None], "max_timeout": POSITIVE, "jitter": SHARE},
    AIMD: {"initial": LIMIT, "minimum": LIMIT, "maximum": COUNT, "backoff": SHARE, "timeout": POSITIVE},
    Vegas: {
        "initial": LIMIT,
        "minimum": LIMIT,
        "maximum": COUNT,
        "alpha": [0, *NUMBER],
        "beta": [0, *NUMBER],
        "alpha_exact": COUNT[:-1],
        "beta_exact": COUNT[:-1],
        "smoothing": SHARE,
        "probe_multiplier": COUNT,
    },
    Gradient2: {
        "initial": LIMIT,
        "minimum": LIMIT,
        "maximum": COUNT,
        "tolerance": [0.5, math.nan],
        "queue": LIMIT[:-1],
        "smoothing": SHARE,
        "long_window": COUNT,
    },
    Steady: {
        "initial": LIMIT,
        "minimum": LIMIT,
        "maximum": COUNT,
        "tolerance": [0.5, math.nan],
        "healthy_latency": POSITIVE[:-1],
        "overload_share": SHARE,
        "backoff": SHARE,
        "window": POSITIVE,
        "minimum_samples": COUNT,
        "remeasure_after": COUNT,
    },
}
REFUSED[AdaptiveRetry] = {**REFUSED[Retry], "stretch": [0.5, math.nan, None]}


def options() -> list[tuple[type[Any], str, str]]:
    return [
        (cls, option.name, option.alias or option.name)
        for cls in REQUIRED
        for option in attrs.fields(cls)
        if option.init
    ]


@pytest.mark.parametrize(("cls", "field", "alias"), options())
def test_each_option_refuses_what_cannot_work(cls: type[Any], field: str, alias: str) -> None:
    bad_values = REFUSED[cls][field]  # a KeyError here: a new option, without a value that it refuses
    if bad_values is ANY:
        return
    assert bad_values
    for bad in bad_values:
        given = {**REQUIRED[cls], alias: bad}
        if alias == "replacement" or field == "replacement":
            given.pop("value")
        with pytest.raises(ConfigurationError, match=field):
            cls(**given)


def test_every_policy_is_in_the_table() -> None:
    def leaves(cls: type[Policy]) -> set[type[Policy]]:
        found = {cls}
        for sub in cls.__subclasses__():
            found |= leaves(sub)
        return found

    ours = {cls for cls in leaves(Policy) if cls.__module__.startswith("resilience_core._policies")}
    assert {cls.__name__ for cls in ours} <= {cls.__name__ for cls in REQUIRED}


def test_pipeline_options() -> None:
    for bad in (
        {"name": ""},
        {"classify": 5},
        {"classify_result": 5},
        {"idempotent": 1},
    ):
        with pytest.raises(ConfigurationError, match=next(iter(bad))):
            Pipeline(Timeout(1), **bad)  # type: ignore[arg-type]


def test_durations_take_timedeltas() -> None:
    assert CircuitBreaker("b", recovery_timeout=timedelta(minutes=1)).recovery_timeout == 60.0
    assert Retry(on=OSError, max_elapsed=timedelta(seconds=5)).max_elapsed == 5.0
    assert Timeout(timedelta(milliseconds=1)).seconds == 0.001


def test_options_are_frozen() -> None:
    with pytest.raises(attrs.exceptions.FrozenAttributeError):
        CircuitBreaker("b").failure_threshold = 3  # type: ignore[misc]


def test_on_and_classify_exclude_each_other() -> None:
    with pytest.raises(ConfigurationError, match="exclude"):
        CircuitBreaker("b", on=OSError, classify=lambda error: Verdict.TRANSIENT)


@pytest.mark.parametrize(
    "wrong", ["EAAGabcdefghijklmnop", "+33 6 12 34 56 78", "a" * 61, ["0612345678"], {"key": "x" * 80}]
)
def test_a_wrong_value_that_may_be_a_secret_is_not_shown(wrong: object) -> None:
    with pytest.raises(ConfigurationError, match=r"Timeout: seconds must be .* that is not shown here") as caught:
        Timeout(wrong)  # type: ignore[arg-type]
    assert repr(wrong)[1:-1] not in str(caught.value)


def test_all_other_wrong_values_are_shown() -> None:
    for wrong in ("ten", -1234567890, timedelta(days=-123456), object, [1, 2]):
        with pytest.raises(ConfigurationError) as caught:
            Timeout(wrong)  # type: ignore[arg-type]
        assert "not shown" not in str(caught.value)


def test_the_size_of_what_has_none_is_not_told() -> None:
    class Odd:
        def __repr__(self) -> str:
            return "x" * 100

    with pytest.raises(ConfigurationError, match="not a Odd that is not shown here"):
        Timeout(Odd())  # type: ignore[arg-type]

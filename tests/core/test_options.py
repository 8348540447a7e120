"""Every option of every policy refuses what cannot work, with its name in the text."""

from __future__ import annotations

import math
from datetime import timedelta
from typing import Any

import attrs
import pytest

from resilience_core import (
    Bulkhead,
    CircuitBreaker,
    ConfigurationError,
    Constant,
    Exponential,
    Fallback,
    Linear,
    Pipeline,
    Policy,
    RateLimiter,
    Retry,
    StaleCache,
    Timeout,
    Verdict,
)

POSITIVE: list[Any] = [0, -1, math.nan, math.inf, True, "1", None]
SECONDS: list[Any] = [-1, math.nan, math.inf, -math.inf, True, "1"]
COUNT: list[Any] = [0, -1, 1.0, True, "1", math.nan, None]
FUNCTION: list[Any] = [5, "f"]
FLAG: list[Any] = [1, "yes"]
NAME: list[Any] = ["", 5, None, lambda: None]
ON: list[Any] = [5, (), (5,), int, (ValueError, int), "ValueError"]
ANY = object()  # any value is a good one

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
}
REFUSED: dict[type[Any], dict[str, Any]] = {
    CircuitBreaker: {
        "name": NAME,
        "failure_threshold": COUNT,
        "success_threshold": COUNT,
        "recovery_timeout": POSITIVE,
        "trip": [5, "rule", attrs.define(type("NoStart", (), {}))],
        "half_open_max_calls": COUNT,
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
        "max_concurrent": COUNT,
        "max_queue": [-1, 1.0, True, None],
        "max_wait": POSITIVE[:-1],
        "clock": [5],
    },
    RateLimiter: {
        "name": NAME,
        "rate": POSITIVE,
        "per": POSITIVE,
        "burst": COUNT[:-1],
        "key": FUNCTION,
        "max_keys": COUNT,
        "max_wait": [*SECONDS, None],
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
        "file": ANY,  # Path() refuses what is no path with a TypeError of its own
        "encode": [*FUNCTION, None],
        "decode": [*FUNCTION, None],
        "clock": [5],
    },
    Constant: {"delay": SECONDS},
    Linear: {"base": SECONDS, "increment": SECONDS},
    Exponential: {"base": SECONDS, "multiplier": [0.5, math.nan]},
}


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

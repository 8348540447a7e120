"""Delays between attempts."""

from __future__ import annotations

import math
import random
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from resilience_core import ConfigurationError, Constant, Exponential, Linear, Retry
from resilience_core._machines.backoff import Backoff, JitterName, Schedule

FILE = "backoff.json"
EXACT = 1e-6
WHOLE_MILLISECONDS = 1e-2  # resilience4j truncates to milliseconds at every step
COMPARED = ("delays", "delays_for_random")
SKIPS = {
    "tenacity-random": "uniform waits are not offered: full jitter over a constant is the same with low = 0",
    "aiohttp-retry-random-uniform": "uniform waits are not offered",
    "tenacity-additive-jitter": "additive jitter is not offered: proportional jitter grows with the delay",
    "tenacity-additive-jitter-min": "additive jitter and a floor are not offered",
    "stamina-never-over-cap": "additive jitter is not offered",
    "polly-decorrelated-ceiling-property": "a property in words; our property test checks 0 to cap",
    "r4j-reject-zero-delay": "a delay of 0 is allowed here: retry at once",
    "r4j-reject-retry-index-0": "the number of the retry is ours, not an input",
    "grpc-java-pushback": "a server's hint is the classifier's retry_after, tested with Retry",
}


def choose(content: list[dict[str, Any]], directory: Path) -> list[dict[str, Any]]:
    return content


def skip(vector: dict[str, Any]) -> str | None:
    return SKIPS.get(vector["id"])


def _fibonacci(multiplier: float) -> Backoff:
    def delay(retry: int) -> float:
        before, last = 1, 1
        for _ in range(retry):
            before, last = last, before + last
        return multiplier * last

    return delay


def _backoff(algorithm: dict[str, Any]) -> Backoff:
    name = algorithm["name"]
    if name == "constant":
        return Constant(_number(algorithm.get("delay", algorithm.get("base"))))
    if name == "linear":
        start = algorithm.get("start", algorithm.get("base"))
        return Linear(start, algorithm.get("step", start))
    if name == "list":
        return lambda retry: algorithm["delays"][min(retry, len(algorithm["delays"])) - 1]
    if name == "fibonacci":
        return _fibonacci(algorithm["multiplier"])
    if name == "exponential_first_free":
        growth = Exponential(algorithm["factor"], algorithm["multiplier"])
        return lambda retry: 0.0 if retry == 1 else growth(retry)
    base = algorithm["base"] * algorithm.get("multiplier", 2) ** algorithm.get("first_exponent", 0)
    return Exponential(base, algorithm.get("multiplier", 2))


def _number(value: Any) -> float:
    return 7.0 if isinstance(value, str) else float(value)  # "any in [...]"


def _schedule(algorithm: dict[str, Any]) -> Schedule:
    jitter = algorithm.get("jitter", "none")
    names: dict[str, JitterName] = {"plus_minus": "proportional", "fraction": "proportional"}
    chosen: JitterName = names.get(jitter, jitter)
    if algorithm["name"] in ("decorrelated", "decorrelated_v2"):
        chosen = algorithm["name"]
    return Schedule(_backoff(algorithm), algorithm.get("cap", math.inf), chosen, algorithm.get("jitter_fraction", 0.25))


def run(vector: dict[str, Any]) -> None:
    algorithm, expect = vector["algorithm"], vector["expect"]
    if algorithm["name"] == "any":
        _refused(algorithm["invalid"])
        return
    schedule = _schedule(algorithm)
    retries = expect.get("retry") or expect.get("attempt") or []
    near = WHOLE_MILLISECONDS if vector["id"].startswith("r4j") else EXACT
    checked = 0
    if "delays" in expect:
        for retry, delay in zip(retries, expect["delays"], strict=True):
            if delay is None:  # not stated
                continue
            assert schedule.delay(retry, 0.0, lambda: 0.5)[0] == pytest.approx(delay, rel=near), f"retry {retry}"
        checked += 1
    if "delays_for_random" in expect:
        _fixed_random(schedule, algorithm, expect, retries)
        checked += 1
    if "bound_each" in expect:
        expect = {**expect, "bounds": [expect["bound_each"]] * len(retries)}
    if "bounds" in expect:
        _bounds(schedule, expect, retries or [1] * len(expect["bounds"]), near)
        checked += 1
    checked += _properties(schedule, algorithm, expect, retries)
    assert checked, "nothing in it that this runner compares"


def _refused(invalid: str) -> None:
    options: dict[str, Any] = {"negative_delay": {"base_delay": -1}, "negative_cap": {"max_delay": -1}}[invalid]
    with pytest.raises(ConfigurationError):
        Retry(on=ValueError, **options)


def _fixed_random(schedule: Schedule, algorithm: dict[str, Any], expect: dict[str, Any], retries: list[int]) -> None:
    wanted = expect["delays_for_random"]
    draws = expect["with_random"] if isinstance(expect["with_random"], list) else [expect["with_random"]] * len(wanted)
    memory = 0.0
    for index, (draw, delay) in enumerate(zip(draws, wanted, strict=True)):
        retry = retries[index] if retries else index + 1
        got, memory = schedule.delay(retry, memory, lambda draw=draw: draw)
        assert got == pytest.approx(delay, rel=1e-6), f"retry {retry} with {draw}: {got}"


def _bounds(schedule: Schedule, expect: dict[str, Any], retries: list[int], near: float) -> None:
    previous = expect.get("previous", [0.0] * len(expect["bounds"]))
    for retry, memory, (low, high) in zip(retries, previous, expect["bounds"], strict=True):
        for draw in (0.0, 0.25, 0.5, 0.75, 1 - 2**-53):
            got = schedule.delay(retry, memory, lambda draw=draw: draw)[0]
            assert low * (1 - near) <= got <= high * (1 + near), f"retry {retry}: {got} not in [{low}, {high}]"


def _properties(schedule: Schedule, algorithm: dict[str, Any], expect: dict[str, Any], retries: list[int]) -> int:
    chance = random.Random(1).random
    checked = 0
    if expect.get("strictly_positive") or isinstance(expect.get("at_most"), (int, float)):
        for retry in retries:
            got = schedule.delay(retry, 0.0, chance)[0]
            assert 0 < got <= expect.get("at_most", math.inf), f"retry {retry}: {got}"
        checked += 1
    if "delays_at_most" in expect:
        assert schedule.delay(retries[0], 0.0, chance)[0] > 0
        checked += 1
    if "uniform_on" in expect:
        low, high = expect["uniform_on"]
        bins = [0] * expect["histogram_bins"]
        for _ in range(expect["samples"]):
            bins[int((schedule.delay(retries[0], 0.0, chance)[0] - low) / (high - low) * len(bins))] += 1
        mean = expect["samples"] / len(bins)
        assert all(abs(count - mean) <= expect["bin_tolerance"] * mean for count in bins)
        checked += 1
    if expect.get("strictly_increasing"):
        delays = [schedule.delay(retry, 0.0, lambda: 0.5)[0] for retry in retries]
        assert all(earlier < later for earlier, later in pairwise(delays))
        checked += 1
    if isinstance(expect.get("at_least"), str):
        delay = _number(algorithm["delay"])
        share = algorithm["jitter_fraction"]
        for _ in range(1000):
            assert (1 - share) * delay <= schedule.delay(1, 0.0, chance)[0] <= (1 + share) * delay
        checked += 1
    return checked

"""Numbers that nobody means, or that mean "without end", are refused or taken at once: no hang, no overflow."""

from __future__ import annotations

import math
from typing import Any

import pytest

from resilience_core import (
    Bulkhead,
    CompositionWarning,
    ConfigurationError,
    Constant,
    CountWindow,
    Exponential,
    Linear,
    Pipeline,
    Retry,
    StaleCache,
    Timeout,
    TimeWindow,
)
from resilience_core._machines.backoff import Backoff, Schedule

pytestmark = pytest.mark.timeout(60)


@pytest.mark.parametrize("retries", [0, 1, 7, 1000, 1001, 5000])
@pytest.mark.parametrize("backoff", [Constant(2), Exponential(1, 2), Exponential(0)], ids=repr)
def test_the_waits_of_many_retries_add_up_as_those_of_few(backoff: Backoff, retries: int) -> None:
    schedule = Schedule(backoff, 10, "proportional", 0.25)
    one_by_one = sum(schedule.longest(retry) for retry in range(1, retries + 1))
    assert schedule.longest_in_all(retries) == pytest.approx(one_by_one)


def test_what_still_grows_after_a_thousand_waits_is_never_told_too_short() -> None:
    schedule = Schedule(Linear(0, 0.001), 1e9, "none", 0)
    one_by_one = sum(schedule.longest(retry) for retry in range(1, 2001))
    assert one_by_one < schedule.longest_in_all(2000) < 2 * one_by_one


def test_a_backoff_of_whole_numbers_grows_no_longer_than_a_float_can() -> None:
    assert Exponential(1, 2)(10**9) == math.inf
    assert Exponential(3, 1)(10**9) == 3


@pytest.mark.filterwarnings("ignore::resilience_core.CompositionWarning")
def test_retries_without_end_are_composed_and_told_at_once() -> None:
    retry = Retry(on=OSError, max_attempts=10**12)
    assert "1000000000000 requests" in str(Pipeline(retry, name="patient"))
    assert Pipeline(Timeout(60), Retry(on=OSError, max_attempts=10**12)).worst_case().seconds == 60


def test_the_attempts_that_would_fit_are_looked_for_among_the_first_thousand() -> None:
    with pytest.warns(CompositionWarning, match="or let max_attempts be 1000"):
        Pipeline(Timeout(1e6), Retry(on=OSError, max_attempts=10**12, base_delay=1, multiplier=1, max_delay=1))


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (lambda: Bulkhead("b", max_concurrent=10**9), "max_concurrent must be a whole number from 1 to 1000000"),
        (lambda: CountWindow(10**9), "size must be a whole number from 1 to 1000000"),
        (lambda: TimeWindow(30, buckets=10**9), "buckets must be a whole number from 1 to 100000"),
        (lambda: Retry(on=OSError, max_attempts=10**400), "max_attempts must be a whole number, 1 or more"),
        (lambda: Retry(on=OSError, base_delay=10**400), "base_delay must be a finite number of seconds, 0 or more"),
        (lambda: Timeout(10**400), "seconds must be a positive, finite number of seconds"),
    ],
    ids=["slots", "calls", "buckets", "attempts", "delay", "time-out"],
)
def test_what_no_machine_could_hold_or_count_is_refused(make: Any, told: str) -> None:
    with pytest.raises(ConfigurationError, match=told):
        make()


def test_counts_that_take_no_memory_by_themselves_may_be_as_large_as_you_like() -> None:
    assert StaleCache("s", fresh_for=1, stale_for=2, max_entries=10**12).max_entries == 10**12

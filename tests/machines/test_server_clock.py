"""What time it is on a server: bounds that hold whatever the network and the clocks do."""

from __future__ import annotations

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from resilience_core._machines.server_clock import ServerClock
from tests._cost import size

SERVER = 1_700_000_000_000_000  # microseconds
ROUNDED = 2  # microseconds that floats of this size may be off


def test_nothing_is_known_at_first() -> None:
    clock = ServerClock()
    assert not clock.known
    clock.observe(SERVER, 10.0, 10.5)
    assert clock.known


def test_an_answer_tells_the_time_but_for_how_long_it_took() -> None:
    clock = ServerClock()
    clock.observe(SERVER, 10.0, 10.5)
    assert (clock.earliest(10.5), clock.latest(10.5)) == (SERVER, SERVER + 500_100)
    assert clock.earliest(110.5) == SERVER + 100_000_000 - 20_000, "clocks drift apart"
    assert clock.latest(110.5) == SERVER + 100_500_100 + 20_000


def test_the_more_precise_answer_is_kept_until_drift_has_made_it_worse() -> None:
    clock = ServerClock()
    clock.observe(SERVER, 10.0, 10.001)
    clock.observe(SERVER + 900_000, 10.5, 11.0)
    assert clock.latest(11.0) - clock.earliest(11.0) < 2_000, "an answer that took longer tells less"
    clock.observe(SERVER + 2_000_100, 12.0, 12.0001)
    assert clock.latest(12.0001) - clock.earliest(12.0001) == 100
    clock.observe(SERVER + 102_000_000, 112.0, 112.01)
    assert clock.latest(112.01) - clock.earliest(112.01) == 10_002, "100 s later 10 ms are good"


@pytest.mark.parametrize("seconds", [-3600, -2, 2, 3600])
def test_a_clock_that_was_set_is_followed_at_once(seconds: int) -> None:
    clock = ServerClock()
    clock.observe(SERVER, 10.0, 10.001)
    there = SERVER + (1 + seconds) * 1_000_000
    clock.observe(there, 10.5, 11.0)
    assert clock.earliest(11.0) == there
    assert clock.latest(11.0) == there + 500_100


@pytest.mark.parametrize("seconds", [-1.4, 1.4])
def test_what_the_network_can_explain_is_no_clock_that_was_set(seconds: float) -> None:
    clock = ServerClock()
    clock.observe(SERVER, 10.0, 10.001)
    clock.observe(SERVER + 1_000_000 + round(seconds * 1_000_000), 10.5, 11.0)
    assert SERVER + 990_000 < clock.earliest(11.0) <= SERVER + 1_000_000


def test_the_past_is_told_too() -> None:
    clock = ServerClock()
    clock.observe(SERVER, 10.0, 10.1)
    assert clock.earliest(9.1) <= SERVER - 1_000_000
    assert SERVER - 900_000 <= clock.latest(9.1) <= SERVER - 899_000


spans = st.floats(0.0, 120.0)
delays = st.floats(0.0, 3.0)
drifts = st.floats(-200e-6, 200e-6)
answers = st.lists(st.tuples(spans, delays, delays), min_size=1, max_size=8)


@settings(deadline=None, max_examples=size(300, 100))
@given(drifts, answers, spans, st.floats(0.0, 5_000.0))
@example(-200e-6, [(0.0, 0.0, 0.0)], 100.0, 60.0)
@example(200e-6, [(0.0, 0.0, 0.001), (60.0, 0.5, 0.0)], 100.0, 60.0)
def test_the_true_time_is_always_between_earliest_and_latest(
    drift: float, taken: list[tuple[float, float, float]], later: float, wait: float
) -> None:
    def truth(local: float) -> float:
        return SERVER + (local - 1000.0) * (1 + drift) * 1e6

    clock, now = ServerClock(), 1000.0
    for pause, there, back in taken:
        sent = now + pause
        now = sent + there + back
        clock.observe(int(truth(sent + there)), sent, now)
        assert clock.earliest(now) - ROUNDED <= truth(now) <= clock.latest(now) + ROUNDED
    for asked in (now, now + later, now - min(later, 5.0)):
        assert clock.earliest(asked) - ROUNDED <= truth(asked) <= clock.latest(asked) + ROUNDED
    moment = clock.earliest(now) + round(wait * 1e6)
    assert truth(clock.surely_at(moment, now)) >= moment - ROUNDED
    assert truth(clock.surely_before(moment, now)) <= moment + ROUNDED
    assert clock.surely_before(moment, now) <= clock.surely_at(moment, now)


@settings(deadline=None)
@given(st.integers(1_000, 7_200_000_000), st.floats(0.0, 100.0))
def test_when_a_moment_has_surely_come_earliest_says_so_too(ahead: int, later: float) -> None:
    """Else whoever sleeps until then finds that it is too early."""
    clock = ServerClock()
    clock.observe(SERVER, 10.0, 10.001)
    now = 10.001 + later
    moment = clock.latest(now) + ahead
    assert abs(clock.earliest(clock.surely_at(moment, now)) - moment) <= ROUNDED
    assert abs(clock.latest(clock.surely_before(moment, now)) - moment) <= ROUNDED

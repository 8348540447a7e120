"""How fast queued messages are sent."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from resilience_whatsapp.outbox._pace import GRAIN, Pace


def granted_in(pace: Pace, start: float, seconds: float, want: int = 1000) -> int:
    """What is granted to somebody who asks whenever he may."""
    now, count = start, 0
    while now < start + seconds:
        count += pace.grant(now, want)
        now += max(pace.wait(now), 1e-3)
    return count


def test_it_begins_slowly_and_doubles_up_to_its_limit() -> None:
    pace = Pace(1.0, 64.0, 1.0)
    each_second = [granted_in(pace, 100.0 + second, 1.0) for second in range(10)]
    assert each_second[0] == 1
    assert all(later >= earlier for earlier, later in pairwise(each_second))
    assert each_second[3] >= 6
    assert 55 <= each_second[-1] <= 72


def test_trouble_halves_it_and_a_restart_begins_anew() -> None:
    pace = Pace(1.0, 64.0, 1.0)
    assert pace.rate(5.0) == 1.0
    pace.grant(0.0, 1)
    assert pace.rate(20.0) == 64.0
    pace.slow_down(20.0)
    assert (pace.rate(20.0), pace.rate(21.0)) == (32.0, 64.0)
    for _ in range(20):
        pace.slow_down(30.0)
    assert pace.rate(30.0) == 1.0
    pace.restart()
    assert pace.rate(90.0) == 1.0


def test_what_was_not_needed_is_given_back() -> None:
    pace = Pace(8.0, 8.0, 1.0)
    assert pace.grant(0.0, 5) == 2
    assert pace.grant(0.0, 5) == 0
    pace.give_back(2, 0.0)
    assert pace.wait(0.0) == 0.0
    assert pace.grant(0.0, 0) == 0
    assert pace.grant(0.0, 5) == 2


@given(
    first=st.floats(0.1, 10.0),
    factor=st.floats(1.0, 100.0),
    steps=st.lists(st.tuples(st.floats(0.0, 5.0), st.integers(0, 50), st.sampled_from(["", "slow", "restart"]))),
)
def test_never_more_than_the_limit_allows_in_any_time(first: float, factor: float, steps: list) -> None:
    pace, now, most = Pace(first, first * factor, 1.0), 0.0, first * factor
    grants: list[tuple[float, int]] = []
    for pause, want, what in steps:
        now += pause
        if what == "slow":
            pace.slow_down(now)
        elif what:
            pace.restart()
        count = pace.grant(now, want)
        assert 0 <= count <= max(want, 0)
        if count:
            assert count <= max(1, most * GRAIN)
            grants.append((now, count))
    for (begin, count), (end, _) in pairwise(grants):
        assert end - begin >= count / most - 1e-9

"""The pacers against the law of the other side: what they let through is never over the limit."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from resilience_core import RateLimitedError
from resilience_core.testing import VirtualClock
from resilience_whatsapp.gates._pairs import BURST, Pairs
from resilience_whatsapp.gates._throughput import Throughput
from resilience_whatsapp.simulator.limits import meters as simulated


def takes(server: simulated.Bucket, now: float) -> bool:
    """Whether a message would be taken; what is refused uses nothing up."""
    fits = server.wait(now) == 0.0
    if fits:
        server.take(now)
    return fits


def takes_of(server: simulated.Pairs, recipient: str, now: float) -> bool:
    """The same for a pair."""
    fits = server.wait(("1", recipient), now) == 0.0
    if fits:
        server.take(("1", recipient), now)
    return fits


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.sampled_from("ab"), st.sampled_from([0.0, 0.0, 0.0, 0.3, 6.0, 40.0]), st.sampled_from([0.0, 0.1, 5.9])
        ),
        max_size=250,
    )
)
def test_what_the_pacer_of_pairs_lets_through_is_never_too_early_for_the_api(
    steps: list[tuple[str, float, float]],
) -> None:
    clock, server, arrivals = VirtualClock(), simulated.Pairs(6.0, 45), list[tuple[float, str]]()
    pairs = Pairs("pairs", BURST, max_wait=0.0, clock=clock, fleet=None)
    for recipient, passed, delay in steps:
        clock.advance(passed)
        try:
            pairs.limiter.enter(("1", recipient), {})
        except RateLimitedError:
            continue
        arrivals.append((clock.now() + delay, recipient))
    assert all(takes_of(server, recipient, at) for at, recipient in sorted(arrivals))  # they overtake each other


def test_with_as_many_as_the_api_lends_a_first_message_that_is_late_makes_a_later_one_too_early() -> None:
    clock, server, arrivals = VirtualClock(), simulated.Pairs(6.0, 45), list[float]()
    pairs = Pairs("pairs", BURST + 1, max_wait=0.0, clock=clock, fleet=None)
    for number in range(46):
        clock.advance(6.0 if number == 45 else 0.0)
        pairs.limiter.enter(("1", "a"), {})
        arrivals.append(clock.now() + (0.0 if number == 45 else 0.05))
    assert [takes_of(server, "a", at) for at in arrivals] == [True] * 45 + [False]


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.sampled_from(["out", "out", "in"]), st.sampled_from([0.0, 0.001, 0.02, 0.3])), max_size=400),
    st.sampled_from([5.0, 20.0, 80.0]),
)
def test_what_the_pacer_of_a_number_lets_through_is_never_over_its_throughput(
    steps: list[tuple[str, float]], level: float
) -> None:
    clock, server = VirtualClock(), simulated.Bucket(level)
    pacer = Throughput("throughput", level, 0.85, max_wait=0.0, clock=clock, fleet=None)
    for what, passed in steps:
        clock.advance(passed)
        if what == "in":
            pacer.limiter.spend()
            server.take(clock.now())
            continue
        try:
            pacer.limiter.enter((), {})
        except RateLimitedError:
            continue
        assert takes(server, clock.now())


def test_a_burst_of_44_and_then_10_in_a_minute() -> None:
    clock = VirtualClock()
    pairs = Pairs("pairs", BURST, max_wait=0.0, clock=clock, fleet=None)
    let = 0
    for second in range(601):
        for _ in range(50 if second == 0 else 1):
            try:
                pairs.limiter.enter(("1", "a"), {})
            except RateLimitedError:
                continue
            let += 1
        clock.advance(1.0)
    assert let == 44 + 100


@pytest.mark.parametrize("true_level", [20.0, 50.0])
def test_the_rate_of_a_number_that_is_slower_than_believed_is_learnt_and_nearly_used(true_level: float) -> None:
    clock, server = VirtualClock(), simulated.Bucket(true_level)
    pacer = Throughput("throughput", 80.0, 0.85, max_wait=0.0, clock=clock, fleet=None)
    hits = taken = 0
    for _ in range(300 * 20):
        clock.advance(0.05)
        for _ in range(5):
            began = clock.now()
            if pacer.moving:
                pacer.follow(began)
            try:
                pacer.limiter.enter((), {})
            except RateLimitedError:
                break
            if takes(server, began):
                taken += 1
                pacer.growth.succeeded(began)
            else:
                hits += 1
                pacer.hit(began, None)
    assert taken >= 0.6 * true_level * 300
    assert hits <= 0.02 * taken


def test_hits_of_requests_that_were_under_way_change_nothing_more() -> None:
    clock = VirtualClock()
    pacer = Throughput("throughput", 80.0, 0.85, max_wait=0.0, clock=clock, fleet=None)
    began = clock.now()
    clock.advance(1.0)
    assert pacer.hit(began, None) == 1.0
    rate = pacer.limiter.rate
    clock.advance(0.5)
    assert pacer.hit(began, None) == 0.0
    assert pacer.limiter.rate == rate
    assert pacer.limiter.wait_for() == pytest.approx(0.5)


def test_pairs_that_were_too_early_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("resilience_whatsapp.gates._pairs.MOST", 2)
    pairs = Pairs("pairs", 45, max_wait=0.0, clock=VirtualClock(), fleet=None)
    for recipient in "abc":
        assert pairs.hit("1", recipient, 1000.0, 7.0) == 7.0
    assert [recipient for _, recipient in pairs.growths] == ["b", "c"]
    pairs.succeeded("1", "b", 999.0)  # of before
    pairs.succeeded("1", "a", 2000.0)
    pairs.succeeded("1", "c", 2000.0)
    assert [recipient for _, recipient in pairs.growths] == ["b"]

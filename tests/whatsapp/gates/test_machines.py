"""The rules of the gates, without time, network or locks."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from resilience_whatsapp import ERROR_CODES
from resilience_whatsapp.errors import GraphThrottledError, graph_error
from resilience_whatsapp.gates._growth import Growth
from resilience_whatsapp.gates._marks import MOST, Marks, country_of
from resilience_whatsapp.gates._rate import CUT, LearnedRate
from resilience_whatsapp.gates._routes import Scope, scope_of
from resilience_whatsapp.gates._usage import CLOSED, LONGEST, Slowdown, Usage, read_usage

# --- growing waits -----------------------------------------------------------------------------------------------


def test_the_wait_of_a_pair_is_4_to_the_power_of_the_hits_before() -> None:
    growth = Growth(1.0, 4.0, 256.0)
    assert [growth.hit(float(now), float(now)) for now in range(6)] == [1, 4, 16, 64, 256, 256]


def test_requests_that_were_under_way_at_a_hit_count_as_the_same_one() -> None:
    growth = Growth(1.0, 4.0, 256.0)
    assert growth.hit(began=9.0, now=10.0) == 1.0
    assert growth.hit(began=9.5, now=10.2) == 0.0
    assert growth.hits == 1
    assert growth.hit(began=11.0, now=11.1) == 4.0


def test_only_a_success_of_a_request_from_after_the_hit_ends_the_series() -> None:
    growth = Growth(1.0, 4.0, 256.0)
    growth.hit(10.0, 10.0)
    assert not growth.succeeded(began=9.9)
    assert growth.hits == 1
    assert growth.succeeded(began=11.0)
    assert growth.hit(12.0, 12.0) == 1.0


def test_a_series_without_end_does_not_overflow() -> None:
    growth = Growth(1.0, 4.0, 256.0)
    for now in range(5_000):
        assert growth.hit(float(now), float(now)) <= 256.0


# --- the learnt rate ---------------------------------------------------------------------------------------------


def test_the_rate_is_the_share_of_the_level_until_a_hit_cuts_it() -> None:
    learned = LearnedRate(80.0, 0.85)
    assert learned.rate(0.0) == pytest.approx(68.0)
    assert learned.settled(0.0)
    assert learned.hit(began=0.0, now=10.0)
    assert learned.rate(10.0) == pytest.approx(68.0 * CUT)
    assert not learned.settled(10.0)
    assert learned.rate(15.0) > learned.rate(10.0)
    assert learned.rate(40.0) == pytest.approx(68.0)
    assert learned.settled(40.0)


def test_hits_of_requests_from_before_a_cut_cut_nothing() -> None:
    learned = LearnedRate(80.0, 0.85)
    learned.hit(began=0.0, now=10.0)
    assert not learned.hit(began=9.9, now=10.5)
    assert learned.rate(10.0) == pytest.approx(68.0 * CUT)
    assert learned.hit(began=10.5, now=10.5)
    assert learned.rate(10.5) < 68.0 * CUT


def test_a_slow_start_begins_at_an_eighth_and_doubles() -> None:
    learned = LearnedRate(80.0, 0.85)
    learned.restart(100.0)
    assert [learned.rate(100.0 + seconds) for seconds in (0.0, 2.0, 4.0, 6.0, 60.0)] == pytest.approx(
        [8.5, 17.0, 34.0, 68.0, 68.0]
    )


def test_another_level_moves_the_ceiling_and_what_was_cut_in_proportion() -> None:
    learned = LearnedRate(80.0, 0.85)
    learned.hit(0.0, 0.0)
    learned.use_level(1_000.0)
    assert learned.rate(0.0) == pytest.approx(850.0 * CUT)
    learned.use_level(1_000.0)
    assert learned.rate(1e6) == pytest.approx(850.0)


@given(
    st.lists(
        st.tuples(st.sampled_from(["hit", "restart", "level"]), st.floats(0, 100), st.floats(0.1, 2_000)), max_size=40
    )
)
def test_the_rate_is_never_above_the_ceiling_nor_below_the_least(steps: list[tuple[str, float, float]]) -> None:
    learned, now = LearnedRate(80.0, 0.85), 0.0
    for what, passed, level in steps:
        now += passed
        if what == "hit":
            learned.hit(now, now)
        elif what == "restart":
            learned.restart(now)
        else:
            learned.use_level(level)
        assert 1.0 <= learned.rate(now) <= max(1.0, learned.ceiling)


# --- usage -------------------------------------------------------------------------------------------------------

CASE = "X-Business-Use-Case-Usage"


@pytest.mark.parametrize(
    ("headers", "told"),
    [
        ({}, None),
        ({"X-App-Usage": '{"call_count":28,"total_cputime":25,"total_time":25}'}, Usage(28.0, 0.0)),
        ({"x-app-usage": '{"call_count":1,"total_cputime":91.5,"total_time":25}'}, Usage(91.5, 0.0)),
        (
            {
                CASE: '{"7":[{"type":"whatsapp_business_management","call_count":100,'
                '"estimated_time_to_regain_access":2}]}'
            },
            Usage(100.0, 120.0, "account"),  # minutes
        ),
        ({CASE: '{"7":[{"type":"whatsapp","call_count":99}]}'}, None),
        ({CASE: '{"8":[{"type":"whatsapp_business_management","call_count":99}]}'}, None),
        ({CASE: "not json", "X-App-Usage": "[1]"}, None),
        ({CASE: '{"7":{"type":"whatsapp_business_management"}}'}, None),
        ({CASE: '{"7":[1]}'}, None),
        ({CASE: "[]"}, None),
        ({"X-App-Usage": '{"call_count":true,"total_time":-1,"total_cputime":1e9}'}, None),
        ({"X-App-Usage": '{"call_count":NaN}'}, None),
    ],
)
def test_usage_is_read_from_both_headers(headers: dict[str, str], told: Usage | None) -> None:
    assert read_usage(headers, "7") == ([] if told is None else [told])


def test_without_an_account_all_rows_count() -> None:
    headers = {CASE: '{"8":[{"type":"whatsapp_business_management","call_count":99}]}'}
    assert read_usage(headers, None) == [Usage(99.0, 0.0, "account")]


@given(st.text(max_size=200))
def test_no_header_can_raise_anything(text: str) -> None:
    read_usage({CASE: text, "X-App-Usage": text}, "7")


def test_pauses_grow_from_three_quarters_of_the_limit_on() -> None:
    pauses = []
    for percent in (0.0, 75.0, 80.0, 87.5, 100.0, 130.0):
        slow = Slowdown()
        slow.told(Usage(percent, 0.0), 0.0)
        pauses.append(slow.pause())
    assert pauses == pytest.approx([0.0, 0.0, LONGEST / 5, LONGEST / 2, LONGEST, LONGEST])


def test_calls_take_turns_and_one_that_may_not_wait_so_long_takes_none() -> None:
    slow = Slowdown()
    slow.told(Usage(87.5, 0.0), 0.0)
    assert slow.take(0.0, 30.0) == 0.0
    assert slow.take(0.0, 30.0) == pytest.approx(15.0)
    assert slow.take(0.0, 20.0) == pytest.approx(-1.0 - 30.0)
    assert slow.take(0.0, 30.0) == pytest.approx(30.0)


def test_a_full_limit_closes_for_as_long_as_the_api_estimates() -> None:
    slow = Slowdown()
    slow.told(Usage(100.0, 0.0), 0.0)
    assert slow.wait(0.0) == CLOSED
    slow.told(Usage(100.0, 300.0), 10.0)
    assert slow.wait(10.0) == 300.0
    slow.told(Usage(20.0, 0.0), 20.0)
    assert slow.wait(20.0) == 290.0  # a lower number does not take the estimate back
    assert slow.wait(400.0) == 0.0


# --- marks -------------------------------------------------------------------------------------------------------


def test_a_mark_holds_until_its_end_and_a_longer_one_stays() -> None:
    marks = Marks()
    marks.put(("recipient", "33"), 131049, 10.0)
    marks.put(("recipient", "33"), 131026, 5.0)
    found = marks.find(("recipient", "33"), 9.9)
    assert found is not None
    assert found.code == 131049
    assert marks.find(("recipient", "33"), 10.0) is None
    assert marks.find(("recipient", "34"), 0.0) is None
    marks.remove(("recipient", "33"))
    marks.remove(("recipient", "33"))
    assert len(marks) == 0


def test_marks_are_bounded_and_those_that_ended_go_first() -> None:
    marks = Marks()
    for number in range(MOST + 5):
        marks.put(("recipient", str(number)), 131026, math.inf)
    assert len(marks) == MOST
    marks = Marks()
    for number in range(100):
        marks.put(("recipient", str(number)), 131026, float(number))
    marks.drop_ended(1_000.0)
    assert len(marks) <= 36


@pytest.mark.parametrize(
    ("recipient", "country"),
    [
        ("33612345678", "33"),
        ("919812345678", "91"),
        ("4915112345678", "49"),
        ("351912345678", "351"),
        ("971501234567", "971"),
        ("16505551234", "16505551234"),
        ("79161234567", "79161234567"),
        ("US.13491208655302741918", "US"),
        ("group-id", "group-id"),
        ("a.b", "a.b"),
        ("", ""),
    ],
)
def test_the_country_of_a_recipient(recipient: str, country: str) -> None:
    assert country_of(recipient) == country


# --- which gate ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("code", "scope"),
    [
        (4, Scope.APP),
        (17, Scope.APP),
        (341, Scope.APP),
        (613, Scope.APP),
        (80007, Scope.MANAGEMENT),
        (130429, Scope.THROUGHPUT),
        (131056, Scope.PAIR),
        (131208, Scope.PAIR),
        (131049, Scope.RECIPIENT),
        (131050, Scope.RECIPIENT),
        (131026, Scope.RECIPIENT),
        (130403, Scope.RECIPIENT),
        (130497, Scope.RECIPIENT),
        (132069, Scope.RECIPIENT),
        (132001, Scope.TEMPLATE),
        (132015, Scope.TEMPLATE),
        (190, Scope.CREDENTIAL),
        (0, Scope.CREDENTIAL),
        (102, Scope.CREDENTIAL),
        (104, Scope.CREDENTIAL),
        (3, Scope.PERMISSION),
        (10, Scope.PERMISSION),
        (200, Scope.PERMISSION),
        (299, Scope.PERMISSION),
        (131005, Scope.PERMISSION),
        (131031, Scope.ACCOUNT),
        (368, Scope.ACCOUNT),
        (131042, Scope.ACCOUNT),
        (134011, Scope.ACCOUNT),
        (131063, Scope.MARKETING),
        (131064, Scope.TEMPLATES),
        (131048, Scope.NUMBER),
        (133010, Scope.NUMBER),
        (131037, Scope.NUMBER),
        (131045, Scope.NUMBER),
        (33, Scope.NUMBER),
        (131047, None),  # another message, a template, may go
        (131030, None),
        (131000, None),
        (2, None),
        (100, None),
        (131009, None),
        (131044, None),
        (131215, None),
        (138000, None),
        (133016, None),
        (131062, None),
    ],
)
def test_the_gate_of_each_code(code: int, scope: Scope | None) -> None:
    assert scope_of(graph_error(code, None, False, 400)) is scope


def test_answers_without_a_code_close_what_their_status_says() -> None:
    assert scope_of(GraphThrottledError(None, None, 429, "app")) is Scope.APP
    assert scope_of(graph_error(None, None, False, 401)) is Scope.CREDENTIAL
    assert scope_of(graph_error(None, None, False, 400)) is None


def test_every_known_code_has_an_answer() -> None:
    found: dict[Any, list[int]] = {}
    for code in ERROR_CODES:
        found.setdefault(scope_of(graph_error(code, None, False, 400)), []).append(code)
    assert found[Scope.NUMBER] == [33, 131037, 131045, 131048, 133010]
    assert found[Scope.ACCOUNT] == [368, 131031, 131042, 134011]
    assert found[Scope.PERMISSION] == [3, 10, 200, 131005]

"""The tests' own Prometheus answers as the real one does."""

from __future__ import annotations

import math

import pytest

from tests.telemetry.promql import Prometheus, Scrape, parse, selectors

FIRST = """\
# TYPE calls_total counter
calls_total{outcome="success",policy="a"} 10
"""
LAST = """\
calls_total{outcome="success",policy="a"} 14
calls_total{outcome="error",policy="a"} 6
calls_total{outcome="error",policy="b \\"x\\""} 2
limit 5
wait_bucket{le="1"} 2
wait_bucket{le="2"} 4
wait_bucket{le="+Inf"} 4
"""
PROMETHEUS = Prometheus(Scrape.of(FIRST), Scrape.of(LAST), seconds=2)


@pytest.mark.parametrize(
    ("query", "value"),
    [
        ("sum (calls_total)", 22),
        ('sum (calls_total{outcome=~"succ.*|none"})', 14),
        ('sum (calls_total{outcome!~"succ.*", policy!="a"})', 2),
        ("sum (increase(calls_total[5m]))", 12),
        ("sum (rate(calls_total[5m]))", 6),
        ("sum (calls_total offset 5m)", 10),
        ("sum (calls_total unless calls_total offset 5m)", 8),
        ("sum (calls_total and calls_total offset 5m)", 14),
        ('(sum (calls_total{outcome="none"}) or vector(0)) / sum (calls_total)', 0),
        ("max (2 * calls_total - 1)", 27),
        ("min (calls_total > 2)", 6),
        ("1 + 2 * 3 - 4 / 2", 5),
        ("histogram_quantile(0.5, sum by (le) (wait_bucket))", 1),
        ("histogram_quantile(0.75, sum by (le) (wait_bucket))", 1.5),
        ("max by (policy) (limit) / 5", 1),
    ],
)
def test_queries(query: str, value: float) -> None:
    assert PROMETHEUS.value(query) == value


def test_groups_and_what_is_not_there() -> None:
    assert PROMETHEUS.query("sum by (policy) (calls_total)") == {
        frozenset({("policy", "a")}): 20,
        frozenset({("policy", 'b \\"x\\"')}): 2,
    }
    assert PROMETHEUS.query("nothing") == {}
    assert math.isnan(PROMETHEUS.value("limit / 0"))


@pytest.mark.parametrize(
    "wrong", ["sum (", "sum by (a calls", "a b", 'a{b="c"', "a{b}", "a[5]", "rate(a) )", "* 2", "%"]
)
def test_what_is_no_query_is_refused(wrong: str) -> None:
    with pytest.raises(AssertionError):
        parse(wrong)


def test_a_rate_needs_a_window() -> None:
    with pytest.raises(AssertionError, match="window"):
        PROMETHEUS.query("rate(calls_total)")
    assert [selector.name for selector in selectors(parse("sum by (x) (rate(a[5m])) / b"))] == ["a", "b"]

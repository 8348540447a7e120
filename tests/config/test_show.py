"""What is shown is what is in force, with who set it, and it can be loaded again."""

from __future__ import annotations

import datetime
from typing import Any

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from resilience_core import RetryBudget, config
from resilience_core.config._classes import SECTIONS
from resilience_core.config._configuration import Configuration
from resilience_core.config._show import effective_options
from tests._cost import size
from tests.config._generated import BUDGETS, NAMES, PLAIN, SECTION

EXAMPLE = """
extends = "production"
[budgets.shared]
[policies."orders.api"]
extends = "standard"
idempotent = true
allow = { plan-exceeds-deadline = "late attempts are rare" }
bulkhead = false
[policies."orders.api".retry]
base_delay = "250ms"
budget = "shared"
[policies."orders.api".circuit_breaker]
trip = { type = "FailureRate", window = { type = "TimeWindow", seconds = "1m" } }
[policies."orders.api".fallback]
[environments.night.policies."orders.api".timeout]
seconds = 90
"""

SHOWN = """\
[budgets.shared]
law = { type = "TrafficRatio", ratio = 0.1, minimum_per_second = 1.0, ttl = 10.0 }  # default

[policies."orders.api"]
idempotent = true
allow = { plan-exceeds-deadline = "late attempts are rare" }

[policies."orders.api".fallback]

[policies."orders.api".timeout]
seconds = 90        # environment 'night' of resilience.toml
thread = false      # default
max_abandoned = 16  # default
per_item = false    # default

[policies."orders.api".retry]
"""


def in_force(configuration: Configuration) -> dict[str, Any]:
    """All effective values, and what stacks have beside their sections."""
    stacks = {
        name: (configuration.effective()[name], stack.idempotent, dict(stack.allow))
        for name, stack in configuration.stacks.items()
    }
    budgets = {name: effective_options(RetryBudget, told) for name, told in configuration.budgets.items()}
    return {"stacks": stacks, "budgets": budgets}


def loaded(document: dict[str, Any]) -> Configuration:
    """The configuration; a combination that is refused is none of those that this is about."""
    try:
        return config.from_mapping(document)
    except config.InvalidConfiguration:
        assume(False)
        raise


@pytest.mark.parametrize("section", SECTIONS)
def test_a_section_that_is_shown_can_be_loaded_and_has_the_same_values(section: str) -> None:
    @settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.filter_too_much, HealthCheck.too_slow])
    @given(NAMES, SECTION[section], BUDGETS, st.booleans())
    def shown_and_loaded(name: str, options: dict[str, Any], budgets: dict[str, Any], idempotent: bool) -> None:
        stack = {section: options, "idempotent": idempotent}
        configuration = loaded({"policies": {name: stack}, "budgets": budgets})
        again = config.from_toml(config.show(configuration))
        assert in_force(again) == in_force(configuration)

    shown_and_loaded()


@settings(max_examples=size(200, 100), deadline=None)
@given(PLAIN)
def test_any_value_of_a_fallback_is_shown_so_that_it_can_be_loaded(value: Any) -> None:
    configuration = config.from_mapping({"policies": {"graph": {"fallback": {"value": value}}}})
    again = config.from_toml(config.show(configuration))
    assert again.stacks["graph"].sections["fallback"] == {"value": value}


@pytest.mark.parametrize(
    "value",
    [
        "\x7f",
        "\U0001f600",
        'quote " and \\',
        "line\nline",
        datetime.time(1, 2),
        [True, {"a b": [1.5]}],
        {},
        float("inf"),
    ],
)
def test_texts_dates_and_tables_are_shown_in_the_words_of_toml(value: Any) -> None:
    configuration = config.from_mapping({"policies": {"graph": {"fallback": {"value": value}}}})
    assert config.from_toml(config.show(configuration)).stacks["graph"].sections["fallback"] == {"value": value}


def test_the_text_names_every_option_and_who_set_it() -> None:
    shown = config.show(config.from_toml(EXAMPLE, environment="night", source="resilience.toml"))
    assert shown.startswith(SHOWN)
    assert shown.removeprefix(SHOWN).split("\n\n")[0] == (
        "max_attempts = 5         # preset 'production'\n"
        "base_delay = 0.25        # resilience.toml\n"
        "multiplier = 2.0         # default\n"
        "max_delay = 10.0         # default\n"
        'jitter = "proportional"  # default\n'
        "jitter_share = 0.25      # default\n"
        'budget = "shared"        # resilience.toml\n'
        "only_outermost = false   # default"
    )


def test_a_stack_that_extends_nothing_is_shown_with_who_set_what() -> None:
    text = "[policies.graph.timeout]\nseconds = 30\n"
    env = {"RESILIENCE__POLICIES__GRAPH__TIMEOUT__THREAD": "true"}
    shown = config.show(config.from_toml(text, env=env, source="a.toml"))
    assert shown == (
        "[policies.graph.timeout]\n"
        "seconds = 30        # a.toml\n"
        "thread = true       # environment variable RESILIENCE__POLICIES__GRAPH__TIMEOUT__THREAD\n"
        "max_abandoned = 16  # default\n"
        "per_item = false    # default\n"
    )


def test_a_budget_that_a_built_in_stack_brings_is_shown_as_such() -> None:
    shown = config.show(config.from_toml('[policies.fast]\nextends = "standard_hedging"\nidempotent = true'))
    line = 'law = { type = "TrafficRatio", ratio = 0.05, minimum_per_second = 1.0, ttl = 10.0 }  # built-in stack\n'
    assert shown.startswith(f"[budgets.fast]\n{line}")
    assert "delay = 2.0           # built-in stack 'standard_hedging'" in shown


def test_several_trip_rules_are_shown_as_a_list() -> None:
    rules = '[{ type = "ConsecutiveFailures", threshold = 9 }, { type = "ConsecutiveFailures", threshold = 5 }]'
    shown = config.show(config.from_toml(f"[policies.graph.circuit_breaker]\ntrip = {rules}"))
    assert f"trip = {rules}  # the text" in shown

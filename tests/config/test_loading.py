"""What is in force, and who wrote it: layers, overlays, stacks that extend one another, environment variables."""

from __future__ import annotations

import pickle
import subprocess
import sys
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from resilience_core import (
    AnyOf,
    ConfigurationError,
    ConsecutiveFailures,
    FailureRate,
    ProbeRate,
    SlowCallRate,
    TimeWindow,
    TokenQuota,
    TrafficRatio,
    Verdict,
    config,
)
from resilience_core.config import InvalidConfiguration, Problem, _configuration

ROOT = Path(__file__).parents[2]
FILE = "resilience.toml"


def toml(text: str, environment: str | None = None, **env: str) -> config.Configuration:
    variables = {f"RESILIENCE__{name}": value for name, value in env.items()}
    return config.from_toml(text, environment=environment, env=variables or None, source=FILE)


def options(configuration: config.Configuration, section: str, stack: str = "graph") -> Mapping[str, Any]:
    return configuration.stacks[stack].sections[section]


def origin(configuration: config.Configuration, section: str, option: str, stack: str = "graph") -> str:
    return configuration.stacks[stack].origins[section, option]


def problems(text: str, environment: str | None = None, **env: str) -> list[str]:
    with pytest.raises(InvalidConfiguration) as caught:
        toml(text, environment, **env)
    return [f"{problem.path}: {problem.message}" for problem in caught.value.problems]


# --- layers ----------------------------------------------------------------------------------------------------------

LAYERED = """
extends = "default"
[defaults.retry]
multiplier = 3
max_delay = 40
[policies.graph.retry]
max_delay = 50
jitter_share = 0.5
only_outermost = true
[environments.base.policies.graph.retry]
jitter_share = 0.4
only_outermost = false
[environments.live]
extends = "base"
[environments.live.policies.graph.retry]
only_outermost = true
max_elapsed = 90
"""


def test_later_layers_win_option_by_option_and_each_option_knows_its_own() -> None:
    found = toml(LAYERED, "live", POLICIES__GRAPH__RETRY__MAX_ELAPSED="2m")
    layers = {
        "max_attempts": (3, "preset 'default'"),
        "base_delay": (1.0, "preset 'default'"),
        "multiplier": (3, FILE),
        "max_delay": (50.0, FILE),
        "jitter_share": (0.4, f"environment 'base' of {FILE}"),
        "only_outermost": (True, f"environment 'live' of {FILE}"),
        "max_elapsed": (120.0, "environment variable RESILIENCE__POLICIES__GRAPH__RETRY__MAX_ELAPSED"),
    }
    assert options(found, "retry") == {name: value for name, (value, _) in layers.items()}
    assert {name: origin(found, "retry", name) for name in layers} == {
        name: source for name, (_, source) in layers.items()
    }


def test_without_an_environment_overlays_say_nothing() -> None:
    assert options(toml(LAYERED), "retry")["jitter_share"] == 0.5


@pytest.mark.parametrize(
    ("preset", "breaker", "retry"),
    [("default", (5, 2, 60), (3, 1)), ("production", (10, 3, 120), (5, 2)), ("development", (3, 1, 30), (2, 0.5))],
)
def test_presets_are_extended_by_the_file_or_chosen_as_an_environment(
    preset: str, breaker: tuple[int, ...], retry: tuple[float, ...]
) -> None:
    text = "[policies.graph]\nretry = {}\ncircuit_breaker = {}\n"
    for found in (
        toml(f'extends = "{preset}"\n{text}'),
        toml(text, preset),
        toml(f'{text}[environments.night]\nextends = "{preset}"', "night"),
    ):
        assert tuple(options(found, "circuit_breaker").values()) == breaker
        assert tuple(options(found, "retry").values()) == retry
        assert origin(found, "retry", "max_attempts") == f"preset {preset!r}"


def test_an_overlay_of_a_presets_name_goes_before_the_preset_and_may_extend_it() -> None:
    text = "[policies.graph]\nretry = {}\n[environments.production.defaults.retry]\nbase_delay = 4\n"
    assert dict(options(toml(text, "production"), "retry")) == {"base_delay": 4.0}
    extending = text + '[environments.production]\nextends = "production"\n'
    assert dict(options(toml(extending, "production"), "retry")) == {"max_attempts": 5, "base_delay": 4.0}


def test_a_value_that_is_a_table_is_replaced_as_a_whole() -> None:
    text = """
    [policies.graph.circuit_breaker]
    trip = { type = "FailureRate", rate = 0.9, minimum_calls = 7 }
    [environments.live.policies.graph.circuit_breaker]
    trip = { type = "FailureRate", window = { type = "TimeWindow", seconds = "1m" } }
    """
    assert options(toml(text, "live"), "circuit_breaker")["trip"] == FailureRate(window=TimeWindow(60))


def test_the_environment_is_chosen_by_a_variable_unless_the_call_chooses() -> None:
    env = {"RESILIENCE_ENVIRONMENT": "base"}
    assert options(config.from_toml(LAYERED, env=env), "retry")["only_outermost"] is False
    assert options(config.from_toml(LAYERED, environment="live", env=env), "retry")["only_outermost"] is True
    assert options(config.from_toml(LAYERED, env={}), "retry")["only_outermost"] is True
    assert options(config.from_toml(LAYERED, env={"RESILIENCE_ENVIRONMENT": ""}), "retry")["only_outermost"] is True


# --- sections --------------------------------------------------------------------------------------------------------


def test_defaults_add_no_section() -> None:
    found = toml(
        'extends = "production"\n[defaults.bulkhead]\nmax_concurrent = 5\n[policies.graph.timeout]\nseconds = 9'
    )
    assert list(found.stacks["graph"].sections) == ["timeout"]


def test_sections_stand_in_the_order_of_the_pipeline_whatever_the_files() -> None:
    found = toml("[policies.graph]\nattempt_timeout = {seconds = 1}\nretry = {}\ntimeout = {seconds = 9}")
    assert list(found.stacks["graph"].sections) == ["timeout", "retry", "attempt_timeout"]


def test_a_section_is_switched_off_and_comes_back_with_what_the_later_layer_says() -> None:
    text = """
    [policies.graph]
    timeout = { seconds = 30 }
    retry = { max_attempts = 7, base_delay = 2 }
    [environments.off.policies.graph]
    retry = false
    [environments.back]
    extends = "off"
    [environments.back.policies.graph.retry]
    max_attempts = 2
    """
    assert "retry" not in toml(text, "off").stacks["graph"].sections
    assert dict(options(toml(text, "back"), "retry")) == {"max_attempts": 2}


def test_a_section_that_is_only_switched_on_has_its_defaults_or_what_it_had() -> None:
    text = "[policies.graph]\nretry = {}\n[policies.full.retry]\nmax_attempts = 7\n"
    on = "[environments.on.policies]\ngraph = { coalesce = true }\nfull = { retry = true }\n"
    found = toml(text + on, "on")
    assert dict(options(found, "coalesce")) == {}
    assert dict(options(found, "retry", "full")) == {"max_attempts": 7}


def test_a_table_in_a_mapping_may_be_none_which_says_nothing() -> None:
    found = config.from_mapping({"policies": {"graph": {"retry": {}, "bulkhead": None}}})
    assert list(found.stacks["graph"].sections) == ["retry"]


def test_a_trip_rule_takes_the_place_of_a_default_threshold_and_the_other_way_round() -> None:
    stack = "[policies.graph.circuit_breaker]\n"
    rules = 'trip = { type = "FailureRate" }\nprobe_rate = { calls = 5 }\n'
    tripping = toml(f'extends = "production"\n{stack}{rules}')
    assert set(options(tripping, "circuit_breaker")) == {"recovery_timeout", "trip", "probe_rate"}
    counting = toml(f"[defaults.circuit_breaker]\n{rules}{stack}failure_threshold = 4\nsuccess_threshold = 1")
    assert dict(options(counting, "circuit_breaker")) == {"failure_threshold": 4, "success_threshold": 1}


def test_a_trip_rule_in_the_defaults_takes_the_place_of_the_presets_threshold() -> None:
    text = 'extends = "production"\n[defaults.circuit_breaker]\ntrip = { type = "FailureRate" }\n'
    found = toml(text + "[policies.graph.circuit_breaker]")
    assert set(options(found, "circuit_breaker")) == {"success_threshold", "recovery_timeout", "trip"}
    assert problems(text + "failure_threshold = 4\n[policies.graph.circuit_breaker]") == [
        "policies.graph.circuit_breaker: failure_threshold and trip exclude each other; keep trip"
    ]


# --- values ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("250ms", 0.25), ("1.5s", 1.5), ("2m", 120.0), ("24h", 86_400.0), ("1d", 86_400.0), (" 3 s ", 3.0)],
)
def test_durations_may_have_a_unit(text: str, seconds: float) -> None:
    assert options(toml(f'[policies.graph.timeout]\nseconds = "{text}"'), "timeout")["seconds"] == seconds


def test_durations_in_a_mapping_may_be_timedeltas() -> None:
    found = config.from_mapping({"policies": {"graph": {"timeout": {"seconds": timedelta(minutes=2)}}}})
    assert options(found, "timeout")["seconds"] == 120.0


def test_nested_values_are_the_objects_that_policies_take() -> None:
    found = toml("""
    [policies.graph.circuit_breaker]
    trip = [{ type = "ConsecutiveFailures", threshold = 9 }, { type = "SlowCallRate", slower_than = "2s" }]
    [policies.graph.chaos]
    schedule = [[0, 10], [20.5, 30]]
    [policies.graph.stale_cache]
    fresh_for = 1
    stale_for = 2
    negative_for = 3
    file = "cache.json"
    """)
    assert options(found, "circuit_breaker")["trip"] == AnyOf((ConsecutiveFailures(9), SlowCallRate(slower_than=2)))
    assert options(found, "chaos")["schedule"] == ((0, 10), (20.5, 30))
    assert options(found, "stale_cache")["file"] == Path("cache.json")


def test_what_code_will_give_is_not_missed() -> None:
    found = toml("[policies.graph]\nfallback = {}\nchaos = { error_rate = 0.1 }\ncoalesce = {}")
    assert {name: dict(told) for name, told in found.stacks["graph"].sections.items()} == {
        "fallback": {},
        "coalesce": {},
        "chaos": {"error_rate": 0.1},
    }


def test_trying_a_cache_out_does_not_touch_its_file(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    broken = tmp_path / "cache.json"
    broken.write_text("{")
    toml(f'[policies.graph.stale_cache]\nfresh_for = 1\nstale_for = 1\nfile = "{broken}"')
    assert (broken.read_text(), caplog.messages) == ("{", [])


# --- stacks that extend one another ----------------------------------------------------------------------------------


def test_a_stack_has_what_the_one_has_that_it_extends() -> None:
    found = toml("""
    [policies.graph]
    extends = "base"
    idempotent = false
    bulkhead = false
    [policies.graph.retry]
    max_delay = 20
    [policies.base]
    extends = "standard"
    idempotent = true
    allow = { plan-exceeds-deadline = "late attempts are rare" }
    retry = { multiplier = 3, max_delay = 30 }
    """)
    graph = found.stacks["graph"]
    assert list(graph.sections) == ["timeout", "retry", "circuit_breaker", "attempt_timeout"]
    assert dict(graph.sections["retry"]) == {"budget": "graph", "multiplier": 3, "max_delay": 20.0}
    assert graph.idempotent is False
    assert graph.allow == {"plan-exceeds-deadline": "late attempts are rare"}
    assert graph.origins["circuit_breaker",] == "built-in stack 'standard'"
    assert graph.origins["retry", "budget"] == "built-in stack 'standard'"


def test_true_keeps_the_section_of_the_stack_that_is_extended_and_false_in_between_removes_it() -> None:
    text = """
    [policies.base.retry]
    max_attempts = 7
    [policies.middle]
    extends = "base"
    retry = {switch}
    coalesce = true
    [policies.graph]
    extends = "middle"
    """
    assert dict(options(toml(text.replace("{switch}", "true")), "retry")) == {"max_attempts": 7}
    assert list(toml(text.replace("{switch}", "false")).stacks["graph"].sections) == ["coalesce"]


def test_defaults_lie_between_the_built_in_stack_and_the_stacks_of_the_file() -> None:
    text = '[policies.graph]\nextends = "standard"\n[defaults.bulkhead]\nmax_concurrent = 50\n'
    assert options(toml(text), "bulkhead")["max_concurrent"] == 50
    own = text + "[policies.graph.bulkhead]\nmax_concurrent = 60"
    assert options(toml(own), "bulkhead")["max_concurrent"] == 60


def test_a_wrong_default_is_told_once_and_not_as_an_error_of_stacks() -> None:
    text = "[defaults.retry]\nmax_attempts = 0\nbase_delay = 2\n[policies.a]\nretry = {}\n[policies.b]\nretry = {}"
    assert problems(text) == ["defaults.retry.max_attempts: must be a whole number, 1 or more, not 0"]


def test_an_error_of_an_extended_stack_is_told_once_and_where_it_was_written() -> None:
    text = "[policies.a]\nextends = 'base'\n[policies.base.retry]\nmax_attempts = 0\njiter = 1\n[policies.base.retr]\n"
    assert [problem.split(":")[0] for problem in problems(text)] == [
        "policies.base.retr",
        "policies.base.retry.max_attempts",
        "policies.base.retry.jiter",
    ]


def test_what_a_stack_does_to_an_extended_one_is_its_own_error() -> None:
    text = "[policies.base.retry]\nbase_delay = 5\n[policies.a]\nextends = 'base'\n[policies.a.retry]\nmax_delay = 2"
    assert problems(text) == ["policies.a.retry: max_delay (2 s) must not be below base_delay (5 s)"]


# --- budgets ---------------------------------------------------------------------------------------------------------


def test_budgets_are_named_and_may_be_shared() -> None:
    found = toml("""
    [budgets.shared]
    law = { type = "TokenQuota", capacity = 100 }
    [policies.a.retry]
    budget = "shared"
    [policies.b.retry]
    budget = "shared"
    """)
    assert found.budgets == {"shared": {"law": TokenQuota(capacity=100)}}
    (a,), (b,) = (found.build(name, on=OSError).policies for name in ("a", "b"))
    assert a.budget is b.budget  # type: ignore[attr-defined]


def test_built_in_stacks_bring_a_budget_called_like_the_stack_unless_there_is_one() -> None:
    text = '[policies.graph]\nextends = "standard"\n[policies.fast]\nextends = "standard_hedging"\nidempotent = true\n'
    assert toml(text).budgets == {"graph": {}, "fast": {"law": TrafficRatio(0.05)}}
    own = toml(text + '[budgets.fast]\nlaw = { type = "TrafficRatio", ratio = 0.2 }')
    assert own.budgets["fast"] == {"law": TrafficRatio(0.2)}


# --- environment variables -------------------------------------------------------------------------------------------

NAMES = '[policies."Orders.api-v2".retry]\n[budgets.my-budget]\n[policies.graph]\nextends = "standard"\n'


def test_names_of_variables_are_compared_without_case_and_signs_of_stacks_are_underlines() -> None:
    env = {
        "resilience__policies__orders_api_v2__Retry__max_attempts": "7",
        "RESILIENCE__BUDGETS__MY_BUDGET__LAW": '{"type": "TokenQuota", "capacity": 50}',
        "RESILIENCE__DEFAULTS__RETRY__BASE_DELAY": "250ms",
        "RESILIENCE_OTHER": "of somebody else",
        "PATH": "/bin",
    }
    found = config.from_toml(NAMES, env=env)
    assert dict(options(found, "retry", "Orders.api-v2")) == {"base_delay": 0.25, "max_attempts": 7}
    assert found.budgets["my-budget"] == {"law": TokenQuota(capacity=50)}
    assert origin(found, "retry", "base_delay") == "environment variable RESILIENCE__DEFAULTS__RETRY__BASE_DELAY"


def test_nothing_is_read_from_the_environment_unless_it_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RESILIENCE__POLICIES__GRAPH__RETRY__MAX_ATTEMPTS", "7")
    monkeypatch.setenv("RESILIENCE_ENVIRONMENT", "nowhere")
    assert "max_attempts" not in options(toml(NAMES), "retry")


@pytest.mark.parametrize(
    ("variable", "text", "value"),
    [
        ("RETRY__MAX_ATTEMPTS", "7", 7),
        ("RETRY__MULTIPLIER", "1.5", 1.5),
        ("RETRY__MULTIPLIER", "3e0", 3.0),
        ("RETRY__BASE_DELAY", "0.5", 0.5),
        ("RETRY__BASE_DELAY", "2", 2),
        ("RETRY__BASE_DELAY", "500ms", 0.5),
        ("RETRY__MAX_ELAPSED", "None", None),
        ("RETRY__MAX_ELAPSED", "null", None),
        ("RETRY__JITTER", "full", "full"),
        ("RETRY__ONLY_OUTERMOST", "true", True),
        ("RETRY__ONLY_OUTERMOST", "False", False),
        ("RETRY__IDEMPOTENT", "null", None),
        ("RETRY__BUDGET", "my-budget", "my-budget"),
        ("RETRY__BUDGET", "none", None),
        ("CIRCUIT_BREAKER__TRIP", '{"type": "ConsecutiveFailures", "threshold": 9}', ConsecutiveFailures(9)),
        ("CIRCUIT_BREAKER__RAMP", "[]", ()),
        ("FALLBACK__VALUE", "plain text", "plain text"),
        ("FALLBACK__VALUE", '{"items": []}', {"items": []}),
        ("FALLBACK__VALUE", "null", None),
        ("STALE_CACHE__FILE", "7", Path("7")),
        ("CHAOS__SEED", "-3", -3),
    ],
)
def test_the_text_of_a_variable_is_read_as_what_the_option_is(variable: str, text: str, value: Any) -> None:
    section, _, option = variable.lower().partition("__")
    base = NAMES + "[policies.graph.stale_cache]\nfresh_for = 1\nstale_for = 1\n"
    found = toml(base, **{f"POLICIES__GRAPH__{variable}": text})
    read = options(found, section)[option]
    assert (read, type(read)) == (value, type(value))


def test_variables_switch_sections_and_set_what_a_stack_has_beside_them() -> None:
    found = toml(
        NAMES + "[policies.other.coalesce]\n",
        POLICIES__GRAPH__BULKHEAD="false",
        POLICIES__GRAPH__COALESCE="TRUE",
        POLICIES__GRAPH__IDEMPOTENT="true",
        POLICIES__OTHER__EXTENDS="standard",
    )
    graph = found.stacks["graph"]
    assert "bulkhead" not in graph.sections
    assert "coalesce" in graph.sections
    assert graph.idempotent is True
    assert len(found.stacks["other"].sections) == 6


def test_a_section_that_variables_switch_on_may_have_options_from_variables() -> None:
    found = toml(NAMES, POLICIES__GRAPH__RATE_LIMITER="true", POLICIES__GRAPH__RATE_LIMITER__RATE="5")
    assert dict(options(found, "rate_limiter")) == {"rate": 5}


def test_a_variable_may_have_any_number_of_digits() -> None:
    assert problems(NAMES, POLICIES__GRAPH__RETRY__MAX_ATTEMPTS="9" * 400) == [
        f"policies.graph.retry.max_attempts: is a number of more than 64 bits, and can be at most {2**63 - 1}"
    ]


def test_json_of_any_depth_is_an_error_that_is_told() -> None:
    (problem,) = problems(NAMES, POLICIES__GRAPH__CIRCUIT_BREAKER__TRIP="[" * 10_000)
    assert problem.startswith("policies.graph.circuit_breaker.trip: must be a table with type = one of")


# --- the older mapping -----------------------------------------------------------------------------------------------

LEGACY = {
    "circuit_breaker": {"failure_threshold": 10, "success_threshold": 3, "timeout": 120},
    "retry": {"max_attempts": 5, "base_delay_ms": 500, "multiplier": 3, "max_delay_ms": timedelta(seconds=20)},
    "total_timeout": 90,
}


def test_the_older_mapping_sets_what_it_names() -> None:
    found = config.from_legacy(LEGACY, "orders")
    assert list(found.stacks) == ["orders"]
    assert {name: dict(told) for name, told in found.stacks["orders"].sections.items()} == {
        "timeout": {"seconds": 90},
        "retry": {"max_attempts": 5, "base_delay": 0.5, "multiplier": 3, "max_delay": 20.0},
        "circuit_breaker": {"failure_threshold": 10, "success_threshold": 3, "recovery_timeout": 120},
    }
    assert config.from_mapping(LEGACY).stacks["whatsapp_api"].sections == found.stacks["orders"].sections


def test_an_empty_older_mapping_is_a_stack_without_sections() -> None:
    assert config.from_legacy({}).stacks["whatsapp_api"].sections == {}


def test_problems_of_the_older_mapping_have_its_own_paths() -> None:
    wrong: dict[str, Any] = {"total_timeout": 0, "retry": {"max_delay_ms": timedelta(-1)}, "circuit": 1}
    with pytest.raises(InvalidConfiguration) as caught:
        config.from_legacy(wrong)
    assert [problem.path for problem in caught.value.problems] == ["circuit", "total_timeout", "retry.max_delay_ms"]


@pytest.mark.parametrize("huge", [10**400, -(10**5000), float("nan")], ids=["huge", "unprintable", "nan"])
def test_no_number_of_milliseconds_is_too_much_for_a_message(huge: float) -> None:
    with pytest.raises(InvalidConfiguration, match=r"must be a number of milliseconds|more than 64 bits"):
        config.from_legacy({"retry": {"base_delay_ms": huge}})


# --- files -----------------------------------------------------------------------------------------------------------


def test_a_file_is_read_with_its_mark_and_windows_line_ends(tmp_path: Path) -> None:
    path = tmp_path / FILE
    path.write_bytes(b"\xef\xbb\xbf[policies.graph.retry]\r\nmax_attempts = 7\r\n")
    found = config.load(path)
    assert (options(found, "retry"), found.source) == ({"max_attempts": 7}, FILE)
    assert config.load(str(path), environment="production") != found


def test_a_file_that_is_as_large_as_may_be_is_read(tmp_path: Path) -> None:
    path = tmp_path / FILE
    text = b"[policies.graph.retry]\n"
    path.write_bytes(text + b"#" * (1024 * 1024 - len(text)))
    assert "graph" in config.load(path).stacks


@pytest.mark.parametrize("text", ["a = " + "1" * 5000, "a = " + "[" * 50_000, "a = " + "{a=" * 50_000])
def test_toml_that_python_cannot_read_is_no_toml(text: str) -> None:
    with pytest.raises(InvalidConfiguration, match="this is no TOML: "):
        config.from_toml(text)


def test_checking_tells_what_is_wrong_with_any_overlay_once(tmp_path: Path) -> None:
    path = tmp_path / FILE
    path.write_text("""
    [policies.graph]
    extends = "standard"
    retry = { max_attempts = 0 }
    [environments.a.policies.graph.timeout]
    seconds = 0
    [environments.b.policies.graph.bulkhead]
    max_queue = -1
    """)
    assert [problem.path for problem in config.check(path)] == [
        "policies.graph.retry.max_attempts",
        "policies.graph.timeout.seconds",
        "policies.graph.bulkhead.max_queue",
    ]
    assert len(config.check(path, environment="a")) == 2
    env = {"RESILIENCE__POLICIES__GRAPH__RETRY__MAX_ATTEMPTS": "3"}
    assert [problem.path for problem in config.check(path, environment="a", env=env)] == [
        "policies.graph.timeout.seconds"
    ]


def test_checking_never_raises(tmp_path: Path) -> None:
    assert config.check(tmp_path / "missing.toml")[0].message.startswith("there is no file")
    path = tmp_path / FILE
    path.write_text("environments = 5\n[policies.graph.retry]")
    assert [problem.path for problem in config.check(path)] == ["environments"]
    path.write_text("[policies.graph.retry]\n[environments.a]")
    assert config.check(path) == ()


def test_a_mapping_that_contains_itself_is_nested_too_deeply() -> None:
    ring: dict[str, Any] = {}
    ring["a"] = [ring]
    with pytest.raises(InvalidConfiguration, match=r"a\.0\.a\.0\.a: is nested too deeply"):
        config.from_mapping(ring)


# --- errors ----------------------------------------------------------------------------------------------------------


def test_the_error_carries_its_problems_also_through_a_pickle() -> None:
    with pytest.raises(ConfigurationError) as caught:
        toml("[policies.graph.retry]\nmax_attemps = 5")
    error = caught.value
    assert isinstance(error, InvalidConfiguration)
    assert error.problems == (
        Problem(
            "policies.graph.retry.max_attemps",
            "unknown option; did you mean 'max_attempts'?",
            "It has backoff, base_delay, budget, idempotent, jitter, jitter_share, max_attempts, max_delay, "
            "max_elapsed, multiplier, only_outermost",
            FILE,
        ),
    )
    again = pickle.loads(pickle.dumps(error))
    assert (str(again), again.problems, again.source) == (str(error), error.problems, FILE)


def test_an_error_without_a_source_has_a_headline_too() -> None:
    assert str(InvalidConfiguration([Problem("a", "is wrong")])) == "1 problem in the configuration\na: is wrong"


def test_a_name_that_the_package_does_not_have_is_an_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'lod'"):
        config.lod  # type: ignore[attr-defined]
    assert all(getattr(config, name) is not None for name in config.__all__)


def test_importing_the_package_does_not_import_cattrs() -> None:
    code = "import sys, resilience_core.config; assert 'cattrs' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


def test_effective_values_are_those_that_the_policies_have() -> None:
    found = toml('[policies.graph]\nextends = "standard"\n')
    pipeline = found.build("graph", on=OSError)
    for policy, (section, effective) in zip(pipeline.policies, found.effective()["graph"].items(), strict=True):
        for name, value in effective.items():
            if name != "budget":
                assert getattr(policy, name) == value, (section, name)


def test_the_stand_in_for_a_classifier_says_nothing() -> None:
    assert _configuration._judge_nothing(OSError()) is Verdict.UNKNOWN


def test_a_rule_that_is_written_later_takes_the_place_of_a_threshold_and_the_other_way_round() -> None:
    text = """
    [policies.base.circuit_breaker]
    failure_threshold = 9
    probe_rate = { calls = 5 }
    [policies.graph]
    extends = "base"
    circuit_breaker = { trip = { type = "ConsecutiveFailures", threshold = 4 } }
    [environments.staging.policies.graph.circuit_breaker]
    success_threshold = 3
    [environments.back]
    extends = "staging"
    [environments.back.policies.graph.circuit_breaker]
    failure_threshold = 7
    """
    trip = ConsecutiveFailures(4)
    assert options(toml(text), "circuit_breaker") == {"probe_rate": ProbeRate(5), "trip": trip}
    assert options(toml(text, "staging"), "circuit_breaker") == {"trip": trip, "success_threshold": 3}
    assert options(toml(text, "back"), "circuit_breaker") == {"success_threshold": 3, "failure_threshold": 7}

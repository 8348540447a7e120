"""Whatever is handed in, a configuration or `InvalidConfiguration` comes out, soon."""

from __future__ import annotations

import datetime
import pickle
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from resilience_core import config, registry
from resilience_core._policies.retry_budget import RetryBudget
from resilience_core.config._classes import SECTIONS, Option, from_code, options_of
from tests._cost import size

fuzz = settings(max_examples=size(300, 60))

# --- what is handed in -----------------------------------------------------------------------------------------------

WORDS = (
    *("extends", "policies", "defaults", "budgets", "environments", "idempotent", "allow", "type", "name", "graph"),
    *("standard", "standard_hedging", "production", "development", "none", "retry-outside-hedge", "a.b", "", "é\n"),
    *("250ms", "2 h", "9" * 400 + "s", "-1s", "nan", "1e400", "[1", '{"type": "FailureRate"}', "TimeWindow", "[]"),
)
HUGE = (10**9, 2**63, 10**400, -(10**400), 1e308, 5e-324, 1e16)

words = st.one_of(st.sampled_from(WORDS), st.sampled_from([*SECTIONS]), st.text(max_size=8))
leaves = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-2, 30),
    st.sampled_from(HUGE),
    st.floats(),
    words,
    st.just(b"bytes"),
    st.just(datetime.date(2026, 1, 1)),
    st.timedeltas(),
)
keys = st.one_of(words, st.integers(0, 3), st.none())
junk = st.recursive(
    leaves, lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(keys, inner, max_size=3)), max_leaves=6
)


def table_of(cls: type[Any], depth: int = 2) -> st.SearchStrategy[Any]:
    """A table for a class: some of its options, most of them plausible."""
    values = {name: value_of(option, depth) for name, option in options_of(cls).items()}
    strange = dict.fromkeys((*sorted(from_code(cls)), "name", "max_attempt"), junk)
    return st.fixed_dictionaries({}, optional={**values, **strange})


def value_of(option: Option, depth: int) -> st.SearchStrategy[Any]:
    plausible: list[st.SearchStrategy[Any]] = [st.integers(0, 10), st.floats(0, 1), st.booleans(), junk]
    if depth:
        one = [named(cls, depth - 1) for cls in option.classes]
        plausible += [*one, *(st.lists(each, max_size=2) for each in one)]
    return st.one_of(*plausible)


def named(cls: type[Any], depth: int) -> st.SearchStrategy[Any]:
    kinds = st.one_of(st.just(cls.__name__), junk)
    return st.builds(lambda table, kind: {**table, "type": kind}, table_of(cls, depth), kinds)


LEGACY = ("circuit_breaker", "retry", "total_timeout")
NAMES = st.sampled_from(["graph", "a.b", "A-B", "other"])
CHOICES = st.sampled_from([*config.PRESETS, "staging", "graph", "other", "standard"])
section_tables = {section: st.one_of(table_of(cls), junk) for section, cls in SECTIONS.items()}
stacks = st.fixed_dictionaries(
    {}, optional={"extends": st.one_of(CHOICES, junk), "idempotent": leaves, "allow": junk, **section_tables}
)
parts: dict[Any, st.SearchStrategy[Any]] = {
    "extends": st.one_of(CHOICES, junk),
    "policies": st.dictionaries(NAMES, st.one_of(stacks, junk), max_size=3),
    "defaults": st.one_of(st.fixed_dictionaries({}, optional=section_tables), junk),
    "budgets": st.dictionaries(NAMES, st.one_of(table_of(RetryBudget), junk), max_size=2),
}
overlays = st.one_of(st.fixed_dictionaries({}, optional=parts), junk)
documents = st.fixed_dictionaries(
    {}, optional={**parts, "environments": st.dictionaries(CHOICES, overlays, max_size=2)}
)
variables = st.dictionaries(
    st.one_of(
        words.map("RESILIENCE__{}".format),
        st.lists(st.one_of(words, NAMES), min_size=1, max_size=4).map(lambda names: "RESILIENCE__" + "__".join(names)),
        st.tuples(NAMES, st.sampled_from([*SECTIONS]), words).map("__".join).map("resilience__policies__{}".format),
    ),
    st.one_of(words, st.sampled_from(["true", "false", "5", "1.5", "null", "9" * 5000])),
    max_size=4,
)

# --- what comes out --------------------------------------------------------------------------------------------------


def comes_out(read: Any, *given: Any, **options: Any) -> config.Configuration | config.InvalidConfiguration:
    """The configuration, or the error of one that is refused in the way it should be."""
    before = len(list(registry))
    found: Any
    try:
        found = read(*given, **options)
    except config.InvalidConfiguration as error:
        found = error
    if isinstance(found, config.InvalidConfiguration):
        assert found.problems
        assert all(problem.message for problem in found.problems)
        assert all(str(problem) in str(found) for problem in found.problems[:50])
        assert pickle.loads(pickle.dumps(found)).problems == found.problems
    assert len(list(registry)) <= before
    return found  # type: ignore[no-any-return] # `read` is one of several


@fuzz
@given(given_=junk)
@example(given_={"extends": []})
@example(given_={"environments": {"a": {"extends": {}}}})
@example(given_={"policies": {"a": {"extends": []}}})
@example(given_={"policies": {"a": {"circuit_breaker": {"trip": {"type": []}}}}})
def test_any_value_is_a_configuration_or_invalid(given_: Any) -> None:
    comes_out(config.from_mapping, given_)


@pytest.mark.parametrize(
    "given_",
    [
        {"policies": {"a": {"retry": {"max_attempts": 16**5000}}}},
        {"policies": {"a": {"retry": {"base_delay": 16**5000}}}},
        {"policies": {"a": {"retry": 16**5000}}},
        {"policies": {"a": {"fallback": {"value": 16**5000}, "idempotent": 16**5000}}},
        {"policies": 16**5000, "extends": 16**5000},
        {16**5000: 1},
    ],
    ids=["count", "seconds", "section", "value", "table", "key"],
)
def test_a_number_too_long_to_be_written_is_a_configuration_or_invalid(given_: Any) -> None:
    comes_out(config.from_mapping, given_)


@fuzz
@given(document=documents, environment=st.one_of(st.none(), CHOICES, words), env=st.one_of(st.none(), variables))
def test_any_document_is_a_configuration_or_invalid(document: Any, environment: Any, env: Any) -> None:
    comes_out(config.from_mapping, document, environment=environment, env=env)


@fuzz
@given(given_=st.one_of(junk, st.fixed_dictionaries({}, optional=dict.fromkeys(LEGACY, junk))))
def test_any_older_mapping_is_a_configuration_or_invalid(given_: Any) -> None:
    comes_out(config.from_legacy, given_)


TOML = Path(__file__).parents[2].joinpath("docs", "configuration.md").read_text("utf-8").split("```")[1][5:]


@fuzz
@given(text=st.text())
@example(text="a = " + "9" * 5000)
@example(text="[policies.a.retry]\nmax_attempts = 0x" + "f" * 5000)
@example(text="a = " + "[" * 5000)
@example(text="a" + ".a" * 5000 + " = 1")
@example(text="extends = 1979-05-27")
def test_any_text_is_a_configuration_or_invalid(text: str) -> None:
    comes_out(config.from_toml, text)


@fuzz
@given(at=st.integers(0, len(TOML)), cut=st.integers(0, 30), put=st.one_of(words, st.text(max_size=3)))
def test_a_good_text_with_a_slip_is_a_configuration_or_invalid(at: int, cut: int, put: str) -> None:
    comes_out(config.from_toml, TOML[:at] + put + TOML[at + cut :], environment="staging")


@fuzz
@given(content=st.binary(max_size=200))
def test_any_file_is_a_configuration_or_invalid(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    path = tmp_path_factory.getbasetemp() / "fuzzed.toml"
    path.write_bytes(content)
    found = comes_out(config.load, path)
    assert isinstance(found, config.InvalidConfiguration) == bool(config.check(path))


@pytest.mark.parametrize("path", ["", "\0", "no/such/file", "/dev/null/x", "x" * 5000])
def test_any_path_is_a_configuration_or_invalid(path: str) -> None:
    assert isinstance(comes_out(config.load, path), config.InvalidConfiguration)
    assert config.check(path)


LARGE = {
    "unknown options": "[policies.a.retry]\n" + "".join(f"max_attempt{number} = 1\n" for number in range(10_000)),
    "stacks": "".join(f"[policies.a{number}]\nextends = 'standard'\n" for number in range(1000)),
    "stacks in a chain": "".join(f"[policies.a{number}]\nextends = 'a{number + 1}'\n" for number in range(2000)),
    "stacks in a ring": "".join(f"[policies.a{number}]\nextends = 'a{(number + 1) % 30}'\n" for number in range(30)),
    "overlays in a chain": "".join(f"[environments.e{number}]\nextends = 'e{number + 1}'\n" for number in range(2000)),
    "wrong rules": f"[policies.a.circuit_breaker]\ntrip = [{'{}, ' * 5000}]",
    "a long text": f"[policies.a.retry]\njitter = '{'x' * 500_000}'",
}


@pytest.mark.timeout(90)
@pytest.mark.parametrize("text", LARGE.values(), ids=LARGE)
def test_a_large_text_is_judged_soon_and_in_few_words(text: str) -> None:
    found = comes_out(config.from_toml, text, environment="e0" if "environments" in text else None)
    assert isinstance(found, config.Configuration) or len(str(found)) < 100_000

"""Every wrong configuration ends in an error that is worth reading: golden.txt has them all, input and text.

`RESILIENCE_REWRITE_GOLDEN=1 pytest -n 0 tests/config/test_golden.py` writes the errors anew; review the diff as a
user would read it. A new case needs only its head, as tests/config/_golden.py describes, and that command.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from resilience_core import config
from tests.config._golden import FILE, Case, read, write

CASES = read()
REWRITE = os.environ.get("RESILIENCE_REWRITE_GOLDEN") == "1"


def error_of(case: Case) -> str:
    try:
        case.load()
    except config.InvalidConfiguration as error:
        return str(error)
    pytest.fail(f"the configuration {case.name!r} is accepted")


@pytest.fixture(autouse=True)
def _in_an_empty_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_the_error_says_what_is_wrong_where_and_how_to_mend_it(case: Case) -> None:
    assert error_of(case) == case.error


def test_the_errors_are_not_being_rewritten(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if not REWRITE:
        return
    assert CASES
    errors = {}
    for number, case in enumerate(CASES):
        (tmp_path / str(number)).mkdir()
        monkeypatch.chdir(tmp_path / str(number))
        errors[case.name] = error_of(case)
    write(errors)
    pytest.fail(f"{FILE.name} is rewritten, review the diff")


def test_there_are_at_least_a_hundred_and_each_has_a_name_of_its_own() -> None:
    assert len({case.name for case in CASES}) == len(CASES) >= 100


def test_rewriting_changes_nothing_but_errors() -> None:
    assert "\n".join(case.text(case.error) for case in CASES) == FILE.read_text("utf-8")

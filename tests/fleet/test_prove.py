"""The proofs of a fleet hold in their small form, and each of them fails when what it proves is broken."""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from random import Random
from typing import Any

import pytest

from proofs.fleet.limits import most_in_any_window
from proofs.fleet.plants import PLANTS
from proofs.fleet.probing import most_at_once
from tests._cost import LONG
from tests._proofs import proved

SLOW = {"store_error_raised", "lease_never_expires", "no_ttl", "client_clock", "batch_returned_twice"} | {
    "slots_never_come_back",
    "no_news",
    "command_per_call",
}
"""What takes more than five seconds to be seen: `make prove-long`."""
CHOSEN = [name for name in PLANTS if LONG or name not in SLOW]


@pytest.mark.timeout(300)
def test_every_bar_is_met(tmp_path: Path) -> None:
    code, rows, printed = proved("proofs.fleet", tmp_path / "rows.json")
    missed = [row for row in rows if not row["met"]]
    assert not missed, printed
    assert code == 0, printed
    assert {row["bar"] for row in rows} >= {str(number) for number in range(6, 20)}


@pytest.fixture(scope="module")
def planted(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """All plants, some at a time: most of the time they wait."""
    directory = tmp_path_factory.mktemp("planted")
    with ThreadPoolExecutor(4) as pool:
        found: dict[str, Future[Any]] = {
            name: pool.submit(proved, "proofs.fleet", directory / f"{name}.json", "--plant", name) for name in CHOSEN
        }
        yield found


@pytest.mark.timeout(300)
@pytest.mark.parametrize("plant", CHOSEN)
def test_a_planted_fault_is_seen_by_its_bar(planted: dict[str, Future[Any]], plant: str) -> None:
    code, rows, printed = planted[plant].result()
    missed = [row for row in rows if not row["met"]]
    assert code == 1, printed
    assert missed, printed
    assert "the proof itself" not in {row["what"] for row in missed}, printed


def test_most_at_once() -> None:
    assert most_at_once([(0, 10), (10, 20), (20, 30)]) == (1, 0)
    assert most_at_once([(0, 10), (5, 20), (6, 7), (15, 30)]) == (3, 3)


def test_the_most_in_any_window_is_what_trying_all_windows_gives() -> None:
    chance = Random(17)
    for _ in range(100):
        rate = chance.choice([5.0, 50.0, 500.0])
        calls = []
        for _ in range(chance.randrange(1, 30)):
            began = chance.randrange(10**9)
            calls.append((began, began + chance.randrange(10**8)))
        windows = [(a, b) for a, _ in calls for _, b in calls if a <= b]
        tried = max(sum(a <= x and y <= b for x, y in calls) - rate * (b - a) / 1e9 for a, b in windows)
        assert most_in_any_window(calls, rate) == pytest.approx(tried, abs=1e-6) or tried <= 0

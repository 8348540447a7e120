"""The protocol of a shared circuit, searched in every interleaving; and faults that the search must find."""

from __future__ import annotations

import pytest

from tests._cost import LONG, untraced
from tests.fleet.model import Model, Searched, search


def searched(
    processes: int, *faults: str, crashes: int = 0, hangs: int = 0, losses: int = 0, successes: int = 1
) -> Searched:
    """What a search finds; it must have seen every state."""
    model = Model(faults=frozenset(faults), successes=successes)
    with untraced():  # nothing of the library is in it
        found = search(model, processes, crashes=crashes, hangs=hangs, losses=losses, most=5_000_000)
    print(f"{processes} processes, {crashes} crash, {hangs} hang, {losses} loss: {found.states} states")
    return found


@pytest.mark.parametrize("what", ["crashes", "hangs", "losses"])
def test_three_processes_keep_the_four_invariants(what: str) -> None:
    """Whatever one process does, or what happens to it or to all keys, in whatever order."""
    found = searched(3, **{what: 1})
    assert found.violation == "", found.trace
    assert found.states > 5_000


@pytest.mark.parametrize("successes", [1, 2])
def test_a_process_that_is_alone_keeps_them_too(successes: int) -> None:
    """Nobody else would take over what it has forgotten."""
    found = searched(1, crashes=1, hangs=1, losses=1, successes=successes)
    assert found.violation == "", found.trace
    assert found.states > 3_000


@pytest.mark.parametrize(
    "what",
    [
        "crashes",
        *(
            pytest.param(what, marks=pytest.mark.skipif(not LONG, reason="`make prove-long` searches them"))
            for what in ("hangs", "losses")
        ),
    ],
)
def test_two_successes_are_needed_where_two_are_asked_for(what: str) -> None:
    found = searched(3, successes=2, **{what: 1})
    assert found.violation == "", found.trace
    assert found.states > 5_000


@pytest.mark.timeout(3_600)
@pytest.mark.skipif(not LONG, reason="minutes: `make prove-long` searches them")
@pytest.mark.parametrize("events", [(1, 1, 0), (1, 0, 1), (0, 1, 1)], ids=["crash+hang", "crash+loss", "hang+loss"])
def test_three_processes_of_which_two_things_happen_to_keep_them_too(events: tuple[int, int, int]) -> None:
    crashes, hangs, losses = events
    found = searched(3, crashes=crashes, hangs=hangs, losses=losses)
    assert found.violation == "", found.trace


@pytest.mark.timeout(600)
@pytest.mark.skipif(not LONG, reason="half a minute: `make prove-long` searches them")
def test_two_processes_to_which_everything_happens_keep_them() -> None:
    found = searched(2, crashes=1, hangs=1, losses=1)
    assert found.violation == "", found.trace


@pytest.mark.parametrize(
    ("fault", "events", "invariant"),
    [
        ("fence_removed", {}, "I2"),
        ("counter_epochs", {"losses": 1}, "I2"),
        ("takeover_without_margin", {}, "I1"),
        ("not_atomic", {}, "I1"),
        ("lease_never_expires", {"crashes": 1}, "I3"),
    ],
)
def test_a_planted_fault_breaks_the_invariant_that_it_should(
    fault: str, events: dict[str, int], invariant: str
) -> None:
    """With the fewest events that show it; `make prove-long` has it found among all of them."""
    found = searched(2, fault, **({"crashes": 1, "hangs": 1, "losses": 1} if LONG else events))
    assert found.violation.startswith(invariant), found
    assert found.trace, "and the way to it is told"


def test_a_search_that_was_cut_off_proves_nothing() -> None:
    found = search(Model(), 3, most=100)
    assert found.violation == "not all states were seen"

"""The proof of the WhatsApp adapter holds in its small form, and its bars fail when what they prove is broken."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from attrs import evolve

from proofs.whatsapp import bars
from proofs.whatsapp.load import Job, jobs
from proofs.whatsapp.plants import PLANTS
from proofs.whatsapp.story import MOMENTS, Told, dead_for, length_of
from tests._cost import LONG
from tests._proofs import proved

PACKAGE = "proofs.whatsapp"
CHOSEN = [name for name in PLANTS if LONG]
"""Each takes as long as the proof: `make prove-long`."""
LENGTH = length_of(400)
OUTAGE = MOMENTS.dead * LENGTH


@pytest.mark.timeout(300)
@pytest.mark.parametrize("store", ["sqlite", "redis"] if LONG else ["sqlite"])
def test_every_bar_is_met(tmp_path: Path, store: str) -> None:
    code, rows, printed = proved(PACKAGE, tmp_path / "rows.json", "--store", store)
    assert not [row for row in rows if not row["met"]], printed
    assert rows, printed
    assert code == 0, printed
    assert {row["bar"] for row in rows} >= {"lost", "twice", "unknown", "limits", "circuit"}


@pytest.fixture(scope="module")
def planted(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """All plants, two at a time."""
    directory = tmp_path_factory.mktemp("planted")
    with ThreadPoolExecutor(2) as pool:
        found: dict[str, Future[Any]] = {
            name: pool.submit(
                proved, "proofs.whatsapp", directory / f"{name}.json", "--plant", name, *PLANTS[name].options
            )
            for name in CHOSEN
        }
        yield found


@pytest.mark.timeout(900)
@pytest.mark.parametrize("plant", CHOSEN)
def test_a_planted_fault_is_seen_by_its_bar(planted: dict[str, Future[Any]], plant: str) -> None:
    code, rows, printed = planted[plant].result()
    assert code == 1, printed
    assert PLANTS[plant].bar in {row["bar"] for row in rows if not row["met"]}, printed
    assert "the proof itself" not in {row["what"] for row in rows}, printed


# --- the bars themselves, over stories that are made up --------------------------------------------------------------


def row(state: str = "read", **told: Any) -> dict[str, Any]:
    """What the outbox knows of a message."""
    plain = {"unknown": 0, "possible_duplicate": False, "wamid": "wamid.1", "due": None, "reason": None, "error": None}
    return {"state": state, **plain, **told}


def a_story(**changes: Any) -> Told:
    """One in which all went well: two messages, an outage in which the circuit opened."""
    load = [Job("job-0", 0.0, "+331", "t", "at_most_once"), Job("job-1", 1.0, "+332", "t", "at_least_once")]
    clear = dict.fromkeys(("lost", "pending", "unknown_accepted", "unknown_not_accepted", "ended_but_accepted"), ())
    back = OUTAGE + dead_for(LENGTH)
    good = Told(
        report={"compared": clear, "duplicates_by_key": {}, "limits": {}, "pairs": {}},
        book=[{"at": 1000.0 + at, "opaque": opaque} for at, opaque in ((1.0, "row-0"), (back + 60.0, "row-1"))],
        jobs=load,
        owners={"row-0": "job-0", "row-1": "job-1"},
        rows={"job-0": row(), "job-1": row()},
        openings=[{"at": 1000.0 + OUTAGE + 1.0, "from": "closed", "why": "consecutive_failures", "last": "connect"}],
        began=1000.0,
        length=LENGTH,
        seconds=300.0,
        cpu={},
        trouble="",
        in_time=True,
    )
    return evolve(good, **changes)


def missed(found: Told) -> set[str]:
    """The texts of the bars that are missed."""
    return {each.what for each in bars.chaos(found) if not each.met}


def reported(**changes: Any) -> Mapping[str, Any]:
    return {**a_story().report, **changes}


def compared(**changes: Any) -> Mapping[str, Any]:
    return reported(compared={**a_story().report["compared"], **changes})


def test_a_story_in_which_all_went_well_meets_every_bar() -> None:
    assert missed(a_story()) == set()


TWICE = {"rows": {"job-0": row(), "job-1": row(unknown=1, possible_duplicate=True)}}


def test_a_second_send_is_allowed_where_the_outcome_was_unknown_and_is_counted() -> None:
    assert missed(a_story(report=reported(duplicates_by_key={"job-1": 2}), **TWICE)) == set()


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"in_time": False}, "everything is settled"),
        ({"rows": {"job-0": row()}, "report": compared(lost=["job-1"])}, "messages without a record"),
        ({"report": compared(lost=["row-1"])}, "messages said to be sent that the API never accepted"),
        ({"report": compared(pending=["row-1"])}, "messages still to be sent at the end"),
        (
            {"rows": {"job-0": row(), "job-1": row("dead", wamid=None)}},
            "messages given up though nothing was wrong with them",
        ),
        ({"report": reported(duplicates_by_key={"job-0": 2})}, "sent twice under at_most_once"),
        (
            {
                "report": reported(duplicates_by_key={"job-1": 2}),
                "rows": {"job-0": row(), "job-1": row(possible_duplicate=True)},
            },
            "sent twice under at_least_once, though no outcome was unknown",
        ),
        (
            {"report": reported(duplicates_by_key={"job-1": 2}), "rows": {"job-0": row(), "job-1": row(unknown=1)}},
            "sent twice under at_least_once, not counted as possible",
        ),
        ({"report": compared(unknown_accepted=["row-1"])}, "still unknown, though the API accepted them"),
        (
            {"rows": {"job-0": row(), "job-1": row("unknown", reason="no verdict came back")}},
            'still unknown, and not "no echo"',
        ),
        ({"report": compared(ended_but_accepted=["row-1"])}, "said to be ended, though the API accepted them"),
        ({"report": reported(pairs={"1/331": 2})}, "pairs that broke their limit more than once"),
        (
            {"report": reported(limits={"throughput": {"refused": 9, "episodes": 2, "after_warning": 1}})},
            "throughput: requests over it later than 2 s after a warning",
        ),
        (
            {"openings": [{**a_story().openings[0], "last": "graph 131056"}]},
            "opened for anything but trouble of the platform",
        ),
        ({"openings": []}, "opened before the outage was over"),
        ({"book": a_story().book[:1]}, "until a message is accepted after the outage"),
    ],
)
def test_each_bar_sees_what_it_is_about(changes: dict[str, Any], what: str) -> None:
    assert what in missed(a_story(**changes))


@pytest.mark.parametrize(
    ("more", "shown"),
    [
        ((), "never"),
        (
            [{"at": 1000.0 + LENGTH * 0.7, "from": "closed", "why": "consecutive_failures", "last": "connection lost"}],
            f"at {LENGTH * 0.7:.0f} s (consecutive_failures: connection lost)",
        ),
        ([{"at": 1110.0, "from": "closed", "why": "remote", "last": ""}], "at 110 s (remote: )"),
        # What others hear of is the same one.
        ([{**a_story().openings[0], "at": a_story().openings[0]["at"] + 40.0, "why": "remote"}], "never"),
    ],
)
def test_openings_outside_the_times_of_trouble_are_shown(more: Sequence[dict[str, Any]], shown: str) -> None:
    found = a_story(openings=[*a_story().openings, *more])
    [row] = [row for row in bars.chaos(found) if "outside the times of trouble" in row.what]
    assert row.measured == shown
    assert missed(found) == set()


def test_one_violation_of_a_pair_is_allowed() -> None:
    assert missed(a_story(report=reported(pairs={"1/331": 1, "1/332": 1}))) == set()


def test_the_table_counts_messages_and_not_requests() -> None:
    found = a_story(report=reported(duplicates_by_key={"job-1": 3}))
    found.book = [*found.book, *({"at": 2000.0, "opaque": "row-1"} for _ in range(2))]
    [line] = bars.compared({"ours": found})
    assert dict(zip(bars.COLUMNS[:6], line, strict=False)) == {
        "sender": "ours",
        "sent": "2",
        "never sent": "0",
        "of these, nobody knows": "0",
        "sent twice": "1",
        "copies": "2",
    }


def test_the_load_is_the_same_for_the_same_seed() -> None:
    first, again, other = (jobs(200, 40, 10.0, 0.1, seed) for seed in (1, 1, 2))
    assert first == again != other
    assert [job.due for job in first] == [number / 10.0 for number in range(200)]
    assert {job.delivery for job in first} == {"at_most_once", "at_least_once"}

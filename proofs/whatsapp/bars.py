"""What must hold after the story, row by row."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

from proofs.table import NEVER, Row, at_most, none, shown, zero
from proofs.whatsapp.story import MOMENTS, SENDERS, Told, dead_for
from resilience_whatsapp._error_table import ErrorClass
from resilience_whatsapp.errors import graph_error

EXPECTED_TROUBLE = 10.0
"""Seconds after trouble of the platform in which a circuit may still open because of it."""
RECOVERY = 195.0
"""Seconds until the first message after an outage. The circuit is open for 60. Of all requests 4 % fail: a round
of probes fails once in a while, and another 60 follow. Three rounds that fail are one in a thousand."""
OURS = ("consecutive_failures", "failure_rate", "probe_failed", "quorum")
"""Reasons for which a member opens the circuit itself; others hear of it."""
HEARD_FOR = 60.0
"""Seconds for which a circuit is open at least."""
NOT_FOUND = "no echo"


def chaos(found: Told) -> list[Row]:
    """The rows of our sender."""
    report, compared = found.report, found.report["compared"]
    jobs = {job.id: job for job in found.jobs}
    twice = report["duplicates_by_key"]
    once = [job for job in twice if jobs[job].delivery == "at_most_once"]
    more = [job for job in twice if jobs[job].delivery == "at_least_once"]
    rows = found.rows
    missing = [job for job in jobs if job not in rows]
    unexcused = [job for job in more if job not in rows or not rows[job]["unknown"]]
    uncounted = [job for job in more if job not in rows or not rows[job]["possible_duplicate"]]
    counted = sum(row["possible_duplicate"] for row in rows.values())
    given_up = _given_up(found)
    held = [row for row in rows.values() if row["state"] == "unknown"]
    of_once = f"{sum(job.delivery == 'at_most_once' for job in found.jobs):,} messages"
    of_more = f"{sum(job.delivery == 'at_least_once' for job in found.jobs):,} messages"
    all_of_them = f"{len(jobs):,} messages"
    ambiguous = f"{sum(row['unknown'] > 0 for row in rows.values()):,} whose outcome was unknown for a time"
    pairs = report["pairs"]
    openings = f"{len(_openings(found))} openings"
    opened = sum(_in_outage(found, each) for each in found.openings)
    return [
        Row("end", "everything is settled", "yes", "yes" if found.in_time else "no",
            f"{found.seconds:.0f} s of the API's time", found.in_time),
        zero("lost", "messages without a record", len(missing), all_of_them),
        zero("lost", "messages said to be sent that the API never accepted", len(compared["lost"]) - len(missing),
             all_of_them),
        zero("lost", "messages still to be sent at the end", len(compared["pending"]), all_of_them),
        none("lost", "messages given up though nothing was wrong with them", given_up, all_of_them),
        zero("twice", "sent twice under at_most_once", len(once), of_once),
        zero("twice", "sent twice under at_least_once, though no outcome was unknown", len(unexcused), of_more),
        zero("twice", "sent twice under at_least_once, not counted as possible", len(uncounted), of_more),
        shown("twice", "sent twice under at_least_once, outcome unknown", f"{len(more):,}", f"{counted:,} counted"),
        zero("unknown", "still unknown, though the API accepted them", len(compared["unknown_accepted"]), ambiguous),
        zero("unknown", f'still unknown, and not "{NOT_FOUND}"', sum(row["reason"] != NOT_FOUND for row in held),
             ambiguous),
        shown("unknown", f'"{NOT_FOUND}": the API never had them', f"{len(held):,}", ambiguous),
        zero("unknown", "said to be ended, though the API accepted them", len(compared["ended_but_accepted"]),
             all_of_them),
        zero("limits", "pairs that broke their limit more than once", sum(times > 1 for times in pairs.values()),
             f"{len({job.to for job in found.jobs}):,} pairs, most {max(pairs.values(), default=0)}"),
        *_limits(report["limits"]),
        none("circuit", "opened for anything but trouble of the platform", _by_refusals(found), openings),
        # Five of the 4 % that always fail may follow each other: platform trouble, and nobody's fault.
        shown("circuit", "opened by those that always fail, outside the times of trouble",
              "; ".join(_outside(found)) or "never", openings),
        Row("circuit", "opened before the outage was over", ">= 1", f"{opened}", f"{SENDERS} senders", opened > 0),
        at_most("again", "until a message is accepted after the outage", recovery(found), RECOVERY, "API's time"),
    ]  # fmt: skip


def _given_up(found: Told) -> list[str]:
    """Rows at an end without the API having accepted the message: nothing in the story is a reason for that."""
    ended = (row for row in found.rows.values() if row["state"] in ("dead", "failed", "rejected") and not row["wamid"])
    counts = Counter(f"{row['state']}: {row['reason']} ({row['error']})" for row in ended)
    return [f"{times} {what}" for what, times in counts.most_common()]


def _limits(limits: Mapping[str, Any]) -> Iterable[Row]:
    """Of those that were met; that of pairs has a stricter row."""
    for scope, broken in sorted(limits.items()):
        if scope == "pair":
            continue
        sample = f"{broken['refused']:,} refused in {broken['episodes']:,} times that it was met"
        yield zero(
            "limits", f"{scope}: requests over it later than 2 s after a warning", broken["after_warning"], sample
        )


def _windows(found: Told) -> list[tuple[float, float]]:
    length = found.length
    return [
        (MOMENTS.brown_out[0] * length, MOMENTS.brown_out[1] * length),
        (MOMENTS.dead * length, MOMENTS.dead * length + dead_for(length)),
        (MOMENTS.platform[0] * length, MOMENTS.platform[1] * length),
    ]


def _in_outage(found: Told, opening: Mapping[str, Any]) -> bool:
    """In the brown-out before it, too: then it is open already."""
    (begins, _), (_, ends), _ = _windows(found)
    return bool(begins <= opening["at"] - found.began <= ends)


def _openings(found: Told) -> list[Mapping[str, Any]]:
    """Of closed circuits, each once. A probe that fails keeps open what was open.

    Failures of several members may open it together: then all of them hear of it. What is heard within a minute of
    another opening is the same one, told to a process that has just started, or by a Redis that is back.
    """
    known, last = list[Mapping[str, Any]](), -HEARD_FOR
    for opening in sorted(found.openings, key=lambda each: float(each["at"])):
        if opening["from"] == "closed" and (opening["why"] in OURS or opening["at"] - last > HEARD_FOR):
            known.append(opening)
        last = opening["at"]
    return known


def _by_refusals(found: Told) -> list[str]:
    """Openings whose last failure says nothing against the platform."""
    return [_shown(found, opening) for opening in found.openings if not _is_trouble(opening["last"])]


def _is_trouble(failure: str) -> bool:
    """`failure` is the reason that the classifier gave: `graph <code>` for what the API answered."""
    code = failure.removeprefix("graph ")
    return not code.isdecimal() or graph_error(int(code), None, False, None).error_class is ErrorClass.TRANSIENT


def _outside(found: Told) -> list[str]:
    """Openings when the platform was as well as it ever is in this story."""
    expected = [(begins, ends - begins + EXPECTED_TROUBLE) for begins, ends in _windows(found)]
    return [
        _shown(found, opening)
        for opening in _openings(found)
        if not any(0.0 <= opening["at"] - found.began - begins <= lasts for begins, lasts in expected)
    ]


def _shown(found: Told, opening: Mapping[str, Any]) -> str:
    return f"at {opening['at'] - found.began:.0f} s ({opening['why']}: {opening['last']})"


def recovery(found: Told) -> float:
    """Seconds of the API's time from the end of the outage to the first message that it accepted."""
    since = found.began + _windows(found)[1][1]
    return min((entry["at"] - since for entry in found.book if entry["at"] >= since), default=NEVER)


def caught_up(found: Told) -> float:
    """Seconds of the API's time from the last message that fell due to the last one that was accepted."""
    last = max((entry["at"] for entry in found.book), default=NEVER)
    return max(0.0, last - found.began - found.length)


COLUMNS = (
    "sender",
    "sent",
    "never sent",
    "of these, nobody knows",
    "sent twice",
    "copies",
    "thought to have failed, but sent",
    "over a limit",
    "after its warning",
    "first after the outage",
    "last after the end",
)


def compared(results: Mapping[str, Told]) -> list[list[str]]:
    """Side by side: a line for each kind of sender, in the order of `COLUMNS`."""
    lines = []
    for kind, found in results.items():
        booked = {found.owners.get(entry["opaque"] or "", entry["opaque"]) for entry in found.book}
        twice, limits = found.report["duplicates_by_key"], found.report["limits"].values()
        lines.append(
            [
                kind,
                f"{len(booked):,}",
                f"{len(found.jobs) - len(booked):,}",
                f"{len(found.report['compared']['lost']):,}",
                f"{len(twice):,}",
                f"{sum(times - 1 for times in twice.values()):,}",
                f"{len(found.report['compared']['ended_but_accepted']):,}",
                f"{sum(each['refused'] for each in limits):,}",
                f"{sum(each['after_warning'] for each in limits):,}",
                f"{recovery(found):.1f} s",
                f"{caught_up(found):.0f} s",
            ]
        )
    return lines

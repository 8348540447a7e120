"""The simulator's judgement: what it accepted, against what the sender says, and what limits the sender broke.

The sender's records are a mapping of opaque id (`biz_opaque_callback_data`) to state. A state is one of `STATES`, or
None for a message that the sender was asked to send and has no record of.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

from attrs import asdict, field, frozen

from resilience_whatsapp.simulator.book import Book, Entry
from resilience_whatsapp.simulator.limits.limiter import Scope, Tally
from resilience_whatsapp.simulator.webhooks.delivery import Delivered

TAKEN = frozenset({"accepted", "sent", "delivered", "read", "played"})
PENDING = frozenset({"queued", "in_flight"})
ENDED = frozenset({"failed", "dead", "rejected"})
STATES = TAKEN | PENDING | ENDED | {"unknown"}
Tallies: TypeAlias = "Mapping[tuple[Scope, str], Tally]"


class RecordsError(ValueError):
    """Records that cannot be compared; the text says why."""


@frozen
class Broken:
    """One limit, over all objects of its scope."""

    refused: int = 0
    """Requests that were too many."""
    episodes: int = 0
    """Times that the limit was met, whatever many requests met it together."""
    after_warning: int = 0
    """Requests later than 2 s after an episode began and before it was over: the sender did not listen."""
    worst: int = 0
    """The most requests that were too many for one object: a pair, a number, ..."""


@frozen
class Compared:
    """The sender's records against the book; lists are of opaque ids."""

    records: int
    lost: tuple[str, ...] = ()
    """Said to be accepted (or not recorded at all), but never accepted by the API."""
    pending: tuple[str, ...] = ()
    """Still to be sent, as the sender says."""
    unknown_accepted: tuple[str, ...] = ()
    """Unknown to the sender; the API accepted them."""
    unknown_not_accepted: tuple[str, ...] = ()
    """Unknown to the sender; the API never accepted them."""
    ended_but_accepted: tuple[str, ...] = ()
    """Given up by the sender, though the API accepted them and does not fail them."""
    unrecorded: int = 0
    """Messages of the book whose opaque id the sender does not know, or that have none."""


@frozen
class Report:
    """What the simulator knows."""

    requests: Mapping[str, int]
    accepted: int
    answered: int
    """Accepted, and the client was still there to be told."""
    failed: Mapping[int, int]
    """Accepted, and failed by webhook: how many for each code."""
    duplicates: Mapping[str, int]
    """Opaque ids that were accepted more than once, and how often."""
    duplicates_by_key: Mapping[str, int]
    """The same for what messages stand for in the business."""
    limits: Mapping[str, Broken]
    """By scope; scopes whose limit was never met are left out."""
    pairs: Mapping[str, int]
    """Requests that were too many, for each `number/user` that had one."""
    webhooks: Delivered
    compared: Compared | None = field(default=None)
    """None without records."""

    def as_json(self) -> dict[str, Any]:
        """As the steering route gives it."""
        return asdict(self)


def report_of(book: Book, tallies: Tallies, delivered: Delivered, records: Mapping[str, Any] | None) -> Report:
    """Judge; raises `RecordsError` for records that are none."""
    states = None if records is None else {opaque: _state(opaque, row) for opaque, row in records.items()}
    keys = {opaque: row["key"] for opaque, row in (records or {}).items() if isinstance(row, Mapping) and "key" in row}
    return Report(
        requests=dict(book.requests),
        accepted=len(book.entries),
        answered=sum(entry.answered for entry in book.entries),
        failed=dict(Counter(entry.failed for entry in book.entries if entry.failed is not None)),
        duplicates=book.duplicates(),
        duplicates_by_key=_repeated(book.entries, keys),
        limits=_broken(tallies),
        pairs={key: tally.refused for (scope, key), tally in tallies.items() if scope == "pair"},
        webhooks=delivered,
        compared=None if states is None else _compared(book, states),
    )


def _state(opaque: object, row: Any) -> str | None:
    state = row.get("state") if isinstance(row, Mapping) else row
    if not isinstance(opaque, str) or not (state is None or (isinstance(state, str) and state in STATES)):
        raise RecordsError(
            f"records must map opaque ids to a state (or to an object with state and key); states are null and "
            f"{', '.join(sorted(STATES))}"
        )
    return state


def _repeated(entries: Sequence[Entry], keys: Mapping[str, str]) -> dict[str, int]:
    counts = Counter(keys.get(entry.opaque or "", entry.key) for entry in entries)
    return {key: count for key, count in counts.items() if key is not None and count > 1}


def _broken(tallies: Tallies) -> dict[str, Broken]:
    found: dict[str, Broken] = {}
    for (scope, _), tally in tallies.items():
        old = found.get(scope, Broken())
        found[scope] = Broken(
            old.refused + tally.refused,
            old.episodes + tally.episodes,
            old.after_warning + tally.after_warning,
            max(old.worst, tally.refused),
        )
    return found


def _compared(book: Book, states: Mapping[str, str | None]) -> Compared:
    booked: dict[str, bool] = {}  # whether one of the messages is not going to fail
    unrecorded = 0
    for entry in book.entries:
        if entry.opaque is None or entry.opaque not in states:
            unrecorded += 1
        else:
            booked[entry.opaque] = booked.get(entry.opaque, False) or entry.failed is None
    lost, pending, ended = list[str](), list[str](), list[str]()
    unknown: dict[bool, list[str]] = {True: [], False: []}
    for opaque, state in states.items():
        if state == "unknown":
            unknown[opaque in booked].append(opaque)
        elif state in PENDING:
            pending.append(opaque)
        elif state in ENDED:
            if booked.get(opaque, False):
                ended.append(opaque)
        elif opaque not in booked:
            lost.append(opaque)
    return Compared(
        len(states), tuple(lost), tuple(pending), tuple(unknown[True]), tuple(unknown[False]), tuple(ended), unrecorded
    )

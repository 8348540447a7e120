"""The rules of a row: every state with every event, and what must never happen."""

from __future__ import annotations

from itertools import permutations
from typing import Any

import pytest
from attrs import evolve

from resilience_core import ConfigurationError
from resilience_whatsapp._error_table import ErrorClass
from resilience_whatsapp.outbox import OutboxRow
from resilience_whatsapp.outbox import _machine as machine
from resilience_whatsapp.outbox._machine import Ending, Rules
from resilience_whatsapp.records import DELIVERY_RANK, MessageStatus, later_status
from tests.whatsapp.outbox.stores import NOW, a_row

RULES = Rules()
S = MessageStatus
HALF = lambda: 0.5  # noqa: E731


def ending(kind: ErrorClass | None = None, **changes: Any) -> Ending:
    return Ending(**{"error": "E", "error_class": kind, "attempts": 1, **changes})


def after(row: OutboxRow, end: Ending, *, told: bool = False, now: float = NOW) -> OutboxRow:
    return machine.ended(row, end, now, HALF, RULES, told=told)


def flying(**changes: Any) -> OutboxRow:
    return a_row(state=S.IN_FLIGHT, due=NOW + 180, **changes)


@pytest.mark.parametrize(
    ("end", "state", "wait"),
    [
        (ending(ErrorClass.TRANSIENT), S.QUEUED, 0.5),
        (ending(ErrorClass.TRANSIENT, wait=20.0), S.QUEUED, 20.0),
        (ending(ErrorClass.AMBIGUOUS), S.QUEUED, 0.5),  # nothing had left
        (ending(ErrorClass.AMBIGUOUS, unknown=1), S.UNKNOWN, 300.0),
        (ending(ErrorClass.THROTTLE), S.QUEUED, 1.125),
        (ending(ErrorClass.THROTTLE, wait=60.0), S.QUEUED, 67.5),
        (ending(ErrorClass.AUTH), S.QUEUED, 60.0),
        (ending(ErrorClass.POLICY), S.QUEUED, 60.0),
        (ending(ErrorClass.SENDER, wait=90.0), S.QUEUED, 90.0),
        (ending(ErrorClass.REQUEST), S.DEAD, None),
        (ending(ErrorClass.RECIPIENT), S.DEAD, None),
        (ending(ErrorClass.RECIPIENT, wait=86_400.0), S.DEAD, None),  # it expires before
        (ending(ErrorClass.RECIPIENT, wait=600.0), S.QUEUED, 600.0),
        (ending(ErrorClass.TEMPLATE), S.DEAD, None),
        (ending(ErrorClass.TEMPLATE, wait=300.0), S.QUEUED, 300.0),
        (ending(None), S.DEAD, None),
        (ending(None, attempts=0, refused_by_us=True, wait=30.0), S.QUEUED, 30.0),
        (ending(None, attempts=0, refused_by_us=True), S.QUEUED, 0.0),
        (ending(None, attempts=0, cancelled=True), S.QUEUED, 0.0),
        (ending(None, unknown=1, cancelled=True), S.UNKNOWN, 300.0),
    ],
)
@pytest.mark.parametrize("delivery", ["at_most_once", "at_least_once"])
def test_how_a_send_of_the_outbox_can_end(delivery: str, end: Ending, state: MessageStatus, wait: float | None) -> None:
    row = after(flying(delivery=delivery), end)
    assert row.state is state
    assert row.due == (None if wait is None else NOW + wait)
    assert (row.attempts, row.unknown, row.error) == (end.attempts, end.unknown, "E")


@pytest.mark.parametrize(
    ("end", "state"),
    [
        (ending(None, attempts=0, refused_by_us=True), S.REJECTED),
        (ending(ErrorClass.TRANSIENT), S.FAILED),
        (ending(ErrorClass.REQUEST), S.FAILED),
        (ending(ErrorClass.AMBIGUOUS, unknown=1), S.UNKNOWN),
        (ending(None, attempts=0, cancelled=True), S.REJECTED),
    ],
)
def test_how_a_send_ends_of_which_an_exception_tells(end: Ending, state: MessageStatus) -> None:
    row = after(flying(), end, told=True)
    assert (row.state, row.kept) == (state, False)
    if state is S.UNKNOWN:
        late = machine.overdue(evolve(row, delivery="at_least_once"), NOW + 300, (), RULES)
        assert (late.state, late.due) == (S.UNKNOWN, None), "what the caller was told of is never repeated"


def test_attempts_are_spent_by_trouble_only_and_then_it_is_dead() -> None:
    row = flying()
    for number in range(1, 8):
        row = after(evolve(row, state=S.IN_FLIGHT), ending(ErrorClass.TRANSIENT))
        assert (row.state, row.troubles) == (S.QUEUED, number)
        assert row.due == NOW + min(300.0, 2.0 ** (number - 1)) / 2
        row = after(evolve(row, state=S.IN_FLIGHT), ending(ErrorClass.THROTTLE))
        assert row.due == NOW + min(256.0, 4.0 ** (number - 1)) * 1.125
        assert row.troubles == number
    row = after(evolve(row, state=S.IN_FLIGHT), ending(ErrorClass.TRANSIENT))
    assert (row.state, row.reason) == (S.DEAD, "given up after 8 attempts")


def test_what_may_have_been_sent_is_never_called_dead() -> None:
    row = flying(delivery="at_least_once", unknown=1)
    assert after(row, ending(ErrorClass.REQUEST)).state is S.UNKNOWN
    assert machine.dropped(row, "opted out", NOW).state is S.UNKNOWN
    assert not machine.may_be_sent_anew(after(row, ending(ErrorClass.REQUEST)))


ECHOES = ["sent", "delivered", "read", "played", "failed"]


@pytest.mark.parametrize("state", list(S))
@pytest.mark.parametrize("status", ECHOES)
def test_an_echo_is_believed_in_every_state(state: MessageStatus, status: str) -> None:
    accepted = state in DELIVERY_RANK
    row = a_row(state=state, due=None, wamid="wamid.1" if accepted else None)
    told = machine.echoed(row, "wamid.1", status, 5.0, NOW + 1)
    assert told.state == (later_status(state, S(status)) if accepted else status)
    assert (told.wamid, told.due) == ("wamid.1", None)
    assert machine.echoed(told, "wamid.1", status, 6.0, NOW + 2) is told, "a second time changes nothing"
    for unknown in ("deleted", "unknown", "queued", "accepted?", ""):
        assert machine.echoed(row, "wamid.1", unknown, 5.0, NOW) is row


def test_statuses_come_in_any_order_and_end_the_same() -> None:
    for told in (("sent", "delivered", "read"), ("sent", "failed"), ("delivered", "failed", "sent"), tuple(ECHOES)):
        ends = set()
        for order in permutations(told):
            row = a_row(state=S.UNKNOWN, due=NOW)
            for status in order:
                row = machine.echoed(row, "w", status, 5.0, NOW)
            ends.add(row.state)
        assert len(ends) == 1, (told, ends)


def test_an_echo_before_the_answer_stands_and_the_answer_is_counted_once() -> None:
    row = machine.echoed(flying(), "wamid.1", "delivered", 5.0, NOW)
    row = machine.accepted(row, "wamid.1", 1, 0, NOW)
    assert (row.state, row.wamid, row.attempts) == (S.DELIVERED, "wamid.1", 1)
    row = machine.accepted(row, "wamid.1", 2, 1, NOW)
    assert (row.attempts, row.unknown, row.possible_duplicate) == (2, 1, True), "also what only the answer tells"
    row = machine.accepted(flying(), "wamid.2", 1, 0, NOW)
    assert machine.accepted(row, "wamid.2", 1, 0, NOW) is row
    failed = machine.echoed(flying(), "wamid.3", "failed", 5.0, NOW, "GraphSenderError(131042)")
    assert failed.error == "GraphSenderError(131042)"
    assert not machine.may_be_sent_anew(failed)
    assert machine.accepted(failed, "wamid.3", 1, 0, NOW) is failed
    other = machine.accepted(failed, "wamid.4", 2, 1, NOW)
    assert (other.state, other.wamid, other.error, other.possible_duplicate) == (S.ACCEPTED, "wamid.4", None, True)


def test_of_a_message_that_was_accepted_twice_the_better_end_counts_and_it_is_a_duplicate() -> None:
    for first, second in (("sent", "failed"), ("failed", "sent")):
        row = machine.echoed(flying(delivery="at_least_once"), f"wamid.{first}", first, 5.0, NOW, "E")
        row = machine.echoed(row, f"wamid.{second}", second, 6.0, NOW, "E")
        assert (row.state, row.wamid, row.possible_duplicate, row.error) == (S.SENT, "wamid.sent", True, None)
        again = machine.echoed(row, "wamid.failed", "failed", 7.0, NOW, "E")
        assert again is row
    row = machine.echoed(
        machine.echoed(flying(), "wamid.1", "failed", 5.0, NOW, "A"), "wamid.2", "failed", 6.0, NOW, "B"
    )
    assert (row.state, row.wamid, row.error, row.possible_duplicate) == (S.FAILED, "wamid.1", "A", True)


def test_the_answer_that_comes_after_the_lease_is_believed() -> None:
    for delivery, state in (("at_most_once", S.UNKNOWN), ("at_least_once", S.QUEUED)):
        row = machine.orphaned(flying(delivery=delivery), NOW + 181, RULES)
        assert row.state is state
        row = machine.accepted(row, "wamid.1", 1, 0, NOW + 182)
        assert (row.state, row.due, row.attempts) == (S.ACCEPTED, None, 1)
        assert not row.possible_duplicate, "nobody has sent it a second time"


def test_left_in_flight_is_unknown_or_sent_again_and_then_it_may_be_a_duplicate() -> None:
    row = machine.orphaned(flying(), NOW + 181, RULES)
    assert (row.state, row.unknown, row.reason) == (S.UNKNOWN, 1, "the sender died")
    row = machine.orphaned(flying(delivery="at_least_once", kept=False), NOW + 181, RULES)
    assert (row.state, row.due, row.kept, row.possible_duplicate) == (S.QUEUED, NOW + 181, True, False)
    again = machine.accepted(machine.begun(row, NOW + 182, RULES), "w", 2, 1, NOW + 183)
    assert again.possible_duplicate
    refused = after(machine.begun(row, NOW + 182, RULES), ending(ErrorClass.TRANSIENT))
    assert refused.possible_duplicate
    late = machine.orphaned(flying(delivery="at_least_once", not_after=NOW), NOW + 181, RULES)
    assert late.state is S.UNKNOWN, "what is expired is not sent again"
    queued = a_row()
    assert machine.orphaned(queued, NOW, RULES) is queued


def test_two_requests_of_one_send_are_a_possible_duplicate_if_the_first_had_no_verdict() -> None:
    assert machine.accepted(flying(), "w", 2, 1, NOW).possible_duplicate
    assert not machine.accepted(flying(), "w", 2, 0, NOW).possible_duplicate
    assert after(flying(), ending(ErrorClass.TRANSIENT, attempts=2, unknown=1)).possible_duplicate


@pytest.mark.parametrize(
    ("row", "downtime", "state", "due"),
    [
        (a_row(), (), S.QUEUED, NOW),
        (a_row(not_after=NOW - 1), (), S.DEAD, None),
        (a_row(not_after=NOW - 1, unknown=1), (), S.UNKNOWN, None),
        (flying(), (), S.IN_FLIGHT, NOW + 180),
        (flying(not_after=NOW + 1000), (), S.IN_FLIGHT, NOW + 180),
        (evolve(flying(), due=NOW), (), S.UNKNOWN, NOW + 300),
        (a_row(state=S.UNKNOWN, due=NOW, unknown_since=NOW - 300), (), S.UNKNOWN, None),
        (a_row(state=S.UNKNOWN, due=NOW, unknown_since=None), (), S.UNKNOWN, None),
        (a_row(state=S.UNKNOWN, due=NOW, unknown_since=NOW - 300), [(NOW - 100, NOW - 40)], S.UNKNOWN, NOW + 60),
        (a_row(state=S.UNKNOWN, due=NOW, unknown_since=NOW - 300), [(NOW - 100, None)], S.UNKNOWN, NOW + 100),
        (
            a_row(state=S.UNKNOWN, due=NOW, unknown_since=NOW - 300, delivery="at_least_once", unknown=1),
            (),
            S.QUEUED,
            NOW,
        ),
        (
            a_row(state=S.UNKNOWN, due=NOW, unknown_since=NOW - 300, delivery="at_least_once", not_after=NOW - 1),
            (),
            S.UNKNOWN,
            None,
        ),
        (a_row(state=S.ACCEPTED, due=None), (), S.ACCEPTED, None),
    ],
)
def test_what_becomes_of_rows_whose_time_has_come(
    row: OutboxRow, downtime: Any, state: MessageStatus, due: float | None
) -> None:
    found = machine.overdue(row, NOW, downtime, RULES)
    assert (found.state, found.due) == (state, due)


def test_time_within_intervals_that_overlap_counts_once() -> None:
    assert machine.within([], 0, 10) == 0
    assert machine.within([(2, 4), (3, 5), (8, None), (-5, 1), (20, 30)], 0, 10) == 3 + 2 + 1


def test_by_hand_a_row_is_sent_anew_with_new_time_and_attempts() -> None:
    row = machine.revived(a_row(state=S.DEAD, due=None, troubles=8, throttled=3), NOW, NOW + 50)
    assert (row.state, row.due, row.troubles, row.throttled, row.not_after) == (S.QUEUED, NOW, 0, 0, NOW + 50)


@pytest.mark.parametrize("state", list(S))
def test_only_what_was_certainly_not_sent_may_be_sent_anew(state: MessageStatus) -> None:
    assert machine.may_be_sent_anew(a_row(state=state)) == (state in (S.DEAD, S.REJECTED, S.FAILED))
    assert not machine.may_be_sent_anew(a_row(state=state, unknown=1))
    assert machine.may_be_sent_anew(a_row(state=state, wamid="w")) == (state in (S.DEAD, S.REJECTED))


def test_what_could_not_be_kept_is_rejected_unless_somebody_has_it_already() -> None:
    kept = flying()
    row = machine.given_up(kept, kept, NOW)
    assert (row.state, row.due, row.kept) == (S.REJECTED, None, False)
    assert machine.given_up(evolve(kept, state=S.QUEUED, due=NOW), kept, NOW).state is S.REJECTED
    taken = evolve(kept, fence=1)
    assert machine.given_up(taken, kept, NOW) is taken


def test_a_held_row_spends_nothing_and_a_row_shows_neither_number_nor_text() -> None:
    row = machine.held(flying(), NOW + 9, "quiet hours", NOW)
    assert (row.state, row.due, row.attempts, row.reason) == (S.QUEUED, NOW + 9, 0, "quiet hours")
    shown = repr(a_row(key="order of +33612345678"))
    assert "33612345678" not in shown
    assert "é" not in shown


def test_rules_refuse_numbers_that_cannot_work() -> None:
    with pytest.raises(ConfigurationError, match="lease"):
        Rules(lease=1.0)

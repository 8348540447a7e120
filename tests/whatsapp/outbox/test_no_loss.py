"""Whatever dies, and whenever: no row is lost, and under at_most_once no message is requested twice."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from attrs import evolve
from hypothesis import Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, multiple, rule

from resilience_whatsapp._error_table import ErrorClass
from resilience_whatsapp.outbox import MemoryStore, OutboxRow, OutboxStore, SQLiteStore
from resilience_whatsapp.outbox import _machine as machine
from resilience_whatsapp.outbox._machine import Ending, Rules
from resilience_whatsapp.records import MessageStatus
from tests._cost import size, untraced
from tests.whatsapp.outbox.stores import NOW, a_row

RULES = Rules(max_attempts=3, lease=20.0, send_timeout=10.0, echo_within=30.0, expire_after=500.0)
S = MessageStatus
CLASSES = [None, *ErrorClass]


class Outboxes(RuleBasedStateMachine):
    """Several senders on one store, any of which may die between any two steps.

    A sender's step is: take rows; make the request (the API may take the message); write the end. Dying forgets the
    rest of the steps. The API's book, `requested` and `booked`, is the truth that rows are compared with.
    """

    held = Bundle("held")

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.store: OutboxStore = self.make_store()
        self.now = NOW
        self.ids: list[str] = []
        self.requested: dict[str, int] = {}
        self.booked: dict[str, str] = {}
        self.failed: dict[str, int] = {}
        """Requests that certainly were not carried out."""

    def make_store(self) -> OutboxStore:
        return MemoryStore()

    def do(self, what: Any) -> Any:
        return self.loop.run_until_complete(what)

    @rule(
        delivery=st.sampled_from(["at_most_once", "at_least_once"]),
        ordered=st.booleans(),
        recipient=st.sampled_from(["+33612345678", "+441234567890"]),
        direct=st.booleans(),
        kept=st.booleans(),
        priority=st.integers(0, 9),
        target=held,
    )
    def add(self, delivery: str, ordered: bool, recipient: str, direct: bool, kept: bool, priority: int) -> Any:
        row = a_row(
            delivery=delivery,
            ordered=ordered and kept,
            recipient=recipient,
            kept=kept or not direct,
            priority=priority,
            state=S.IN_FLIGHT if direct else S.QUEUED,
            due=self.now + (RULES.lease if direct else 0),
            not_after=self.now + RULES.expire_after,
            created_at=self.now,
            changed_at=self.now,
        )
        self.ids.append(row.id)
        kept_row = self.do(self.store.add(row))
        return kept_row if kept_row.state is S.IN_FLIGHT else multiple()

    @rule(limit=st.integers(1, 3), target=held)
    def take(self, limit: int) -> Any:
        rows = self.do(self.store.take("100", self.now, RULES.lease, limit))
        for row in rows:
            if row.delivery == "at_most_once":
                assert self.requested.get(row.id, 0) <= self.failed.get(row.id, 0), "it may have been sent"
        return multiple(*rows)

    def request(self, row: OutboxRow) -> None:
        self.requested[row.id] = self.requested.get(row.id, 0) + 1

    @rule(row=consumes(held))
    def accept_and_die(self, row: OutboxRow) -> None:
        if self.now < (row.due or 0):
            self.request(row)
            self.booked.setdefault(row.id, f"wamid.{row.id}")

    @rule(row=consumes(held))
    def accept(self, row: OutboxRow) -> None:
        if self.now < (row.due or 0):  # a sender ends before its lease
            self.request(row)
            wamid = self.booked.setdefault(row.id, f"wamid.{row.id}")
            self.do(self.store.change(row, lambda known: machine.accepted(known, wamid, 1, 0, self.now)))

    @rule(row=consumes(held), kind=st.sampled_from(CLASSES), left=st.booleans(), took=st.booleans(), told=st.booleans())
    def fail(self, row: OutboxRow, kind: ErrorClass | None, left: bool, took: bool, told: bool) -> None:
        if self.now >= (row.due or 0):
            return
        unknown = left and kind is ErrorClass.AMBIGUOUS
        self.request(row)
        if not unknown:
            self.failed[row.id] = self.failed.get(row.id, 0) + 1
        elif took:
            self.booked.setdefault(row.id, f"wamid.{row.id}")
        end = Ending(error="E", error_class=kind, attempts=1, unknown=int(unknown), wait=None)
        told = told and not row.kept
        judged = machine.ended(row, end, self.now, lambda: 0.5, RULES, told=told)
        self.do(self.store.change(row, lambda known: judged if known.fence == row.fence else known))

    @rule(row=consumes(held))
    def put_back(self, row: OutboxRow) -> None:
        if self.now < (row.due or 0) and self.requested.get(row.id, 0) <= self.failed.get(row.id, 0):
            back = machine.held(row, self.now, "put back", self.now)
            self.do(self.store.change(row, lambda known: back if known.fence == row.fence else known))

    @rule(seconds=st.sampled_from([1.0, 15.0, 25.0, 40.0, 600.0]))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds

    @rule()
    def look_after(self) -> None:
        for row in self.do(self.store.overdue(self.now, 0.0, 100)):
            self.do(self.store.change(row, lambda known: machine.overdue(known, self.now, (), RULES)))

    @rule(status=st.sampled_from(["sent", "delivered", "read", "failed"]), which=st.randoms())
    def echo(self, status: str, which: Any) -> None:
        if self.booked:
            row_id = which.choice(sorted(self.booked))
            row = self.do(self.store.get(row_id))
            told = self.do(
                self.store.change(
                    row, lambda known: machine.echoed(known, self.booked[row_id], status, self.now, self.now)
                )
            )
            assert told.state in (S.SENT, S.DELIVERED, S.READ, S.FAILED)

    @invariant()
    def nothing_is_lost(self) -> None:
        counts = self.do(self.store.counts())
        assert sum(counts.values()) == len(self.ids)

    @invariant()
    def nothing_is_sent_twice_under_at_most_once(self) -> None:
        for row_id in self.requested:
            row = self.do(self.store.get(row_id))
            perhaps = self.requested[row_id] - self.failed.get(row_id, 0)
            assert perhaps <= 1 or row.delivery == "at_least_once"
            if row_id in self.booked:
                assert row.state not in (S.DEAD, S.REJECTED)
                assert row.state is not S.FAILED or row.wamid is not None

    @invariant()
    def every_row_is_over_or_somebody_will_look_at_it(self) -> None:
        for state in S:
            for row in self.do(self.store.rows(state, limit=1000)):
                if state in (S.QUEUED, S.IN_FLIGHT):
                    assert row.due is not None
                elif state is not S.UNKNOWN:
                    assert row.due is None

    @invariant()
    def of_a_recipient_one_ordered_row_is_in_flight(self) -> None:
        flying = [row.recipient for row in self.do(self.store.rows(S.IN_FLIGHT, limit=1000)) if row.ordered]
        assert len(flying) == len(set(flying))

    def teardown(self) -> None:
        self.now += 10_000.0
        for _ in range(3):
            self.look_after()
            self.now += 10_000.0
        counts = self.do(self.store.counts())
        assert not counts.get(S.QUEUED)
        assert not counts.get(S.IN_FLIGHT)
        self.do(self.store.aclose())
        self.loop.close()


class OutboxesInAFile(Outboxes):
    """The same with an SQLite file."""

    directory: Any = None
    number = 0

    def make_store(self) -> OutboxStore:
        OutboxesInAFile.number += 1
        return SQLiteStore(self.directory / f"{self.number}.db", synchronous="normal")


@untraced()
def test_in_memory_nothing_is_lost_or_sent_twice() -> None:
    case = Outboxes.TestCase()
    case.settings = settings(max_examples=size(2000, 25), stateful_step_count=40)
    case.runTest()


@untraced()
def test_in_a_file_nothing_is_lost_or_sent_twice(tmp_path: Any) -> None:
    OutboxesInAFile.directory = tmp_path
    case = OutboxesInAFile.TestCase()
    case.settings = settings(max_examples=size(200, 5), stateful_step_count=25)
    case.runTest()


@untraced()
def test_a_planted_fault_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    def careless(row: OutboxRow, now: float, rules: Rules) -> OutboxRow:
        return evolve(row, state=S.QUEUED, due=now) if row.state is S.IN_FLIGHT else row

    monkeypatch.setattr(machine, "orphaned", careless)
    case = Outboxes.TestCase()
    case.settings = settings(
        max_examples=1000,
        stateful_step_count=40,
        phases=[Phase.generate],
        report_multiple_bugs=False,
        database=None,
        derandomize=True,
    )
    with pytest.raises(AssertionError):
        case.runTest()

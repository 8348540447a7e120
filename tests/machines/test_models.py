"""Slots and buckets against plain models; hedges against a calculation of who must win."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from resilience_core import Hedge, RetryBudget, TokenQuota
from resilience_core._machines.bucket import Bucket
from resilience_core._machines.slots import Slots, Ticket
from resilience_core.testing import run_virtual
from tests._cost import size


class Waiter:
    def __init__(self, there: bool) -> None:
        self.there = there

    def wake(self) -> bool:
        return self.there


class SlotsModel(RuleBasedStateMachine):
    """Two slots and a queue of three: who holds, who waits, in which order."""

    def __init__(self) -> None:
        super().__init__()
        self.slots = Slots(2, max_queue=3)
        self.holders = 0
        self.queue: list[tuple[Ticket[Any], Waiter]] = []

    def granted(self) -> None:
        """Take those who were woken out of the model's queue, in order."""
        while self.queue and self.holders < 2:
            ticket, waiter = self.queue.pop(0)
            assert ticket.granted == waiter.there
            self.holders += waiter.there

    @rule()
    def take(self) -> None:
        free = self.holders < 2 and not self.queue
        if self.slots.free and not self.slots.waiting:
            del self.slots.free[-1]
            self.holders += 1
            assert free
        else:
            assert not free

    @rule(there=st.booleans())
    def wait(self, there: bool) -> None:
        full = len(self.queue) >= 3 and not (self.holders < 2 and not self.queue)
        waiter = Waiter(there)
        ticket = self.slots.queue(waiter)
        assert (ticket is None) == full
        if ticket is not None:
            self.queue.append((ticket, waiter))
            self.granted()

    @rule()
    def give_back(self) -> None:
        if self.holders:
            self.holders -= 1
            self.slots.free.append(None)
            self.slots.hand_over()
            self.granted()

    @rule(data=st.data())
    def leave(self, data: st.DataObject) -> None:
        if self.queue:
            ticket, _ = self.queue.pop(data.draw(st.integers(0, len(self.queue) - 1)))
            assert not self.slots.leave(ticket)

    @invariant()
    def agree(self) -> None:
        assert len(self.slots.free) == 2 - self.holders
        assert list(self.slots.waiting) == [ticket for ticket, _ in self.queue]


class BucketModel(RuleBasedStateMachine):
    """Permits counted as tokens that come back one by one."""

    INTERVAL, BURST = 2, 3

    def __init__(self) -> None:
        super().__init__()
        self.bucket = Bucket(float(self.INTERVAL), self.BURST)
        self.now = 0
        self.spent = 0.0  # tokens missing, as of now
        self.closed_until = 0
        self.reserved: float | None = None

    @rule(seconds=st.integers(1, 5))
    def pass_time(self, seconds: int) -> None:
        self.now += seconds
        self.spent = max(0.0, self.spent - seconds / self.INTERVAL)

    @rule(max_wait=st.sampled_from([0, 1, 4, 20]))
    def take(self, max_wait: int) -> None:
        needed = max(0.0, (self.spent - self.BURST + 1) * self.INTERVAL, self.closed_until - self.now)
        wait = self.bucket.take(float(self.now), float(max_wait))
        if needed > max_wait:
            assert wait == pytest.approx(-1 - needed)
            return
        assert wait == pytest.approx(needed)
        self.spent += 1
        self.reserved = self.bucket.tat

    @rule()
    def give_back_the_last(self) -> None:
        if self.reserved is not None and self.spent >= 1:
            self.bucket.give_back(self.reserved)
            self.spent -= 1
            self.reserved = None

    @rule(seconds=st.integers(1, 8))
    def close(self, seconds: int) -> None:
        self.closed_until = max(self.closed_until, self.now + seconds)
        self.bucket.close_until(float(self.now + seconds))

    @invariant()
    def agree(self) -> None:
        expected = 0 if self.now < self.closed_until else max(0, int(self.BURST - self.spent + 1e-9))
        assert self.bucket.available(float(self.now)) == expected


class HedgeModel(RuleBasedStateMachine):
    """One hedge with a budget, calls whose attempts take and yield what is drawn."""

    DELAY = 3

    def __init__(self) -> None:
        super().__init__()
        self.budget = RetryBudget("h", law=TokenQuota(20, retry_cost=5, no_retry_increment=2))
        self.hedge = Hedge(delay=self.DELAY, max_hedges=2, idempotent=True, budget=self.budget)
        self.balance = 20.0

    # Ends of attempts and starts of further ones never fall on the same moment: 3n + 1 and 3n + 2 against 3n.
    @rule(plans=st.lists(st.tuples(st.sampled_from([1, 2, 4, 5, 7, 11]), st.booleans()), min_size=3, max_size=3))
    def call(self, plans: list[tuple[int, bool]]) -> None:
        started: list[int] = []

        async def attempt() -> int:
            number = len(started)
            started.append(number)
            seconds, good = plans[number]
            await asyncio.sleep(seconds)
            if not good:
                raise ConnectionError(number)
            return number

        async def story() -> tuple[Any, float]:
            begun = asyncio.get_running_loop().time()
            try:
                got: Any = await self.hedge(attempt)()
            except ConnectionError as error:
                got = error
            took = asyncio.get_running_loop().time() - begun
            await asyncio.sleep(0.1)
            assert asyncio.all_tasks() == {asyncio.current_task()}
            return got, took

        got, took = run_virtual(story)
        winner, at, hedges = self.expected(plans)
        assert len(started) == 1 + hedges
        assert took == pytest.approx(at)
        assert got == winner if winner is not None else isinstance(got, ConnectionError)
        if winner is not None:
            self.balance = min(20.0, self.balance + (5 if hedges else 2))

    def expected(self, plans: list[tuple[int, bool]]) -> tuple[int | None, float, int]:
        """Who wins, when, and how many further attempts were started."""
        ends: list[tuple[float, int, bool]] = [(plans[0][0], 0, plans[0][1])]
        latest, may = 0.0, True
        while True:
            ends.sort()
            due = latest + self.DELAY if may and len(ends) < 3 else float("inf")
            won = next((end for end in ends if end[2]), None)
            over = won[0] if won is not None else max(end[0] for end in ends)
            if over < due:
                return (won[1] if won is not None else None), over, len(ends) - 1
            if self.balance < 5:
                may = False
                continue
            self.balance -= 5
            number = len(ends)
            ends.append((due + plans[number][0], number, plans[number][1]))
            latest = due

    @invariant()
    def agree(self) -> None:
        assert self.budget.snapshot()["balance"] == pytest.approx(self.balance)
        assert self.hedge.snapshot()["stragglers"] == 0


for model in (SlotsModel, BucketModel, HedgeModel):
    model.TestCase.settings = settings(max_examples=size(50, 25), stateful_step_count=30, deadline=None)
TestSlots, TestBucket, TestHedge = SlotsModel.TestCase, BucketModel.TestCase, HedgeModel.TestCase

"""The contract that every store keeps."""

from __future__ import annotations

import asyncio
from collections import Counter

from attrs import evolve

from resilience_whatsapp.outbox import OutboxRow, OutboxStore
from resilience_whatsapp.records import MessageStatus
from tests.whatsapp.outbox.stores import NOW, Opener, a_row
from tests.whatsapp.outbox.stores import opener as opener

QUEUED, IN_FLIGHT, UNKNOWN = MessageStatus.QUEUED, MessageStatus.IN_FLIGHT, MessageStatus.UNKNOWN
ACCEPTED, DEAD = MessageStatus.ACCEPTED, MessageStatus.DEAD
LEASE = 30.0


def becomes(state: MessageStatus, due: float | None = None, **changes: object):
    return lambda row: evolve(row, state=state, due=due, **changes)


async def take(store: OutboxStore, limit: int = 10, now: float = NOW, lane: str = "100") -> list[str]:
    return [row.id for row in await store.take(lane, now, LEASE, limit)]


def test_what_was_kept_is_read_again_as_it_was(opener: Opener) -> None:
    async def story() -> None:
        row = a_row(key="order-7", template="t", language="fr", reason="é", ordered=True, attempts=3, unknown=1)
        async with opener() as store:
            assert await store.add(row) == row
        async with opener() as store:
            assert await store.get(row.id) == row == await store.find("order-7")
            assert await store.get("another") is None
            assert await store.find("another") is None
            assert await store.rows(QUEUED) == [row]
            assert await store.rows(DEAD) == []
            assert {state: count for state, count in (await store.counts()).items() if count} == {QUEUED: 1}

    asyncio.run(story())


def test_a_key_keeps_one_row_only_and_an_id_too(opener: Opener) -> None:
    async def story() -> None:
        async with opener() as store:
            first = await store.add(a_row(key="k"))
            assert await store.add(a_row(key="k", recipient="+441234567890")) == first
            assert await store.add(evolve(first, user_id="other")) == first
            assert (await store.counts())[QUEUED] == 1
            found = await asyncio.gather(*(store.add(a_row(key="many")) for _ in range(20)))
            assert len({row.id for row in found}) == 1
            assert (await store.counts())[QUEUED] == 2

    asyncio.run(story())


def test_due_rows_are_taken_once_by_priority_and_age_and_only_of_the_lane(opener: Opener) -> None:
    async def story() -> None:
        async with opener() as store:
            low, first, second = a_row(priority=1), a_row(), a_row()
            later, expired, other = a_row(due=NOW + 5), a_row(not_after=NOW - 1), a_row(lane="200")
            high = a_row(priority=9)
            for row in (low, first, second, later, expired, other, high):
                await store.add(row)
            assert await take(store, 2) == [high.id, first.id]
            assert await take(store) == [second.id, low.id]
            assert await take(store) == []
            assert await store.next_due("100") in (later.due, expired.due)
            assert await take(store, now=NOW + 5) == [later.id]
            assert await take(store, lane="200") == [other.id]
            assert await store.next_due("200") is None
            found = await store.get(first.id)
            assert found is not None
            assert (found.state, found.due, found.fence) == (IN_FLIGHT, NOW + LEASE, 1)

    asyncio.run(story())


def test_of_two_who_take_at_once_each_row_goes_to_one(opener: Opener) -> None:
    async def story() -> None:
        async with opener() as store, opener() as other:
            ids = [(await store.add(a_row())).id for _ in range(30)]
            found = await asyncio.gather(*(take(each, 3) for each in (store, other) * 10))
            assert sorted(row_id for rows in found for row_id in rows) == sorted(ids)

    asyncio.run(story())


def test_of_ordered_rows_of_a_recipient_one_is_in_flight_and_others_overtake(opener: Opener) -> None:
    async def story() -> None:
        async with opener() as store:
            rows = [a_row(ordered=True) for _ in range(3)]
            free, other = a_row(), a_row(ordered=True, recipient="+441234567890")
            for row in (*rows, free, other):
                await store.add(row)
            assert await take(store) == [rows[0].id, free.id, other.id]
            assert await take(store) == []
            await change(store, rows[0].id, becomes(QUEUED, NOW + 50))  # it is first all the same
            assert await take(store) == []
            assert await take(store, now=NOW + 50) == [rows[0].id]
            await change(store, rows[0].id, becomes(ACCEPTED))
            assert await take(store) == [rows[1].id]
            await change(store, rows[1].id, becomes(DEAD))
            assert await take(store) == [rows[2].id]

    asyncio.run(story())


async def change(store: OutboxStore, row_id: str, rule) -> OutboxRow:
    row = await store.get(row_id)
    assert row is not None
    changed = await store.change(row, rule)
    assert changed is not None
    return changed


def test_an_older_ordered_row_that_comes_back_waits_for_the_one_in_flight(opener: Opener) -> None:
    async def story() -> None:
        async with opener() as store:
            rows = [await store.add(a_row(ordered=True)) for _ in range(3)]
            assert await take(store) == [rows[0].id]
            await change(store, rows[0].id, becomes(UNKNOWN, NOW + 9))
            assert await take(store) == [rows[1].id]
            await change(store, rows[0].id, becomes(QUEUED, NOW))
            assert await take(store) == []
            await change(store, rows[1].id, becomes(ACCEPTED))
            assert await take(store) == [rows[0].id]
            await change(store, rows[0].id, becomes(ACCEPTED))
            assert await take(store) == [rows[2].id]

    asyncio.run(story())


def test_a_row_sent_at_once_is_in_flight_but_queued_behind_ordered_ones(opener: Opener) -> None:
    async def story() -> None:
        async with opener() as store:
            now = {"state": IN_FLIGHT, "due": NOW + LEASE}
            first = await store.add(a_row(ordered=True, **now))
            assert first.state is IN_FLIGHT
            second = await store.add(a_row(ordered=True, **now))
            assert (second.state, second.due) == (QUEUED, NOW)
            assert (await store.get(second.id)) == second
            assert (await store.add(a_row(**now))).state is IN_FLIGHT
            assert await take(store) == []
            await change(store, first.id, becomes(ACCEPTED))
            assert await take(store) == [second.id]

    asyncio.run(story())


def test_a_change_is_made_to_the_row_as_it_is_now(opener: Opener) -> None:
    async def story() -> None:
        async with opener() as store:
            read = await store.add(a_row())
            first = await store.change(read, lambda row: evolve(row, attempts=row.attempts + 1))
            second = await store.change(read, lambda row: evolve(row, attempts=row.attempts + 1))
            assert first is not None
            assert second is not None
            assert [(row.attempts, row.fence) for row in (first, second)] == [(1, 1), (2, 2)]
            assert await store.change(read, lambda row: row) == second, "the same row changes nothing"
            assert await store.get(read.id) == second
            assert await store.change(a_row(), lambda row: row) is None
            many = await asyncio.gather(
                *(store.change(read, lambda row: evolve(row, attempts=row.attempts + 1)) for _ in range(20))
            )
            assert sorted(row.attempts for row in many if row is not None) == list(range(3, 23))

    asyncio.run(story())


def test_what_is_posted_is_seen_by_the_next_look_and_outlives_the_end(opener: Opener) -> None:
    async def story() -> None:
        async with opener() as store:
            rows = [await store.add(a_row(state=IN_FLIGHT, due=NOW + 1)) for _ in range(3)]
            store.post(rows[0], becomes(ACCEPTED, wamid="w"))
            found = await store.get(rows[0].id)
            assert found is not None
            assert found.state is ACCEPTED
            store.post(rows[1], becomes(ACCEPTED))
            await store.flush()
            store.post(rows[2], becomes(DEAD))
        async with opener() as store:
            assert {state: count for state, count in (await store.counts()).items() if count} == {ACCEPTED: 2, DEAD: 1}

    asyncio.run(story())


def test_what_is_over_is_purged_and_the_rest_stays(opener: Opener) -> None:
    async def story() -> None:
        async with opener() as store:
            old, new = a_row(state=ACCEPTED, due=None, key="k"), a_row(state=ACCEPTED, due=None, changed_at=NOW + 9)
            dead, waiting = a_row(state=DEAD, due=None), a_row(state=UNKNOWN, due=NOW + 99)
            for row in (old, new, dead, waiting, a_row()):
                await store.add(row)
            assert await store.purge(NOW + 5, NOW, 100) == 1
            assert await store.get(old.id) is None
            assert await store.find("k") is None
            assert await store.purge(NOW + 5, NOW, 100) == 0
            assert await store.purge(NOW + 50, NOW + 50, 1) == 1
            assert await store.purge(NOW + 50, NOW + 50, 9) == 1
            assert Counter({k: v for k, v in (await store.counts()).items() if v}) == {QUEUED: 1, UNKNOWN: 1}
            again = await store.add(a_row(key="k"))
            assert again.id != old.id

    asyncio.run(story())


def test_rows_are_listed_from_the_latest_change_on_page_by_page(opener: Opener) -> None:
    async def story() -> None:
        async with opener() as store:
            rows = [await store.add(a_row(state=DEAD, due=None, changed_at=NOW + number)) for number in range(5)]
            page = await store.rows(DEAD, limit=2)
            assert page == [rows[4], rows[3]]
            assert await store.rows(DEAD, limit=9, changed_before=page[-1].changed_at) == [rows[2], rows[1], rows[0]]

    asyncio.run(story())


def test_what_is_overdue_is_found_and_what_is_not_is_left_alone(opener: Opener) -> None:
    async def story() -> None:
        async with opener() as store:
            left = [await store.add(a_row(state=IN_FLIGHT, due=NOW + 1)), await store.add(a_row(ordered=True))]
            assert await take(store) == [left[1].id]
            silent = await store.add(a_row(state=UNKNOWN, due=NOW + 1))
            expired = await store.add(a_row(not_after=NOW + 1))
            for row in (a_row(state=UNKNOWN, due=None), a_row(state=UNKNOWN, due=NOW + 999), a_row()):
                await store.add(row)
            assert await store.overdue(NOW, 999.0, 100) == []
        async with opener() as heir:
            await asyncio.sleep(0.01)
            found = await heir.overdue(NOW + LEASE + 1, 0.005, 100)
            assert {row.id for row in found} == {left[0].id, left[1].id, silent.id, expired.id}
            for row in found:
                await heir.change(row, becomes(ACCEPTED if row.state is IN_FLIGHT else DEAD))
            assert await heir.overdue(NOW + LEASE + 1, 0.0, 100) == []

    asyncio.run(story())


def test_a_row_that_was_given_up_cannot_be_changed_by_who_had_it(opener: Opener) -> None:
    async def story() -> None:
        async with opener() as store, opener() as heir:
            await store.add(a_row())
            [mine] = await store.take("100", NOW, LEASE, 1)
            await asyncio.sleep(0.01)
            [left] = await heir.overdue(NOW + LEASE + 1, 0.005, 1)
            assert left == mine
            await heir.change(left, becomes(UNKNOWN, NOW + 99))
            fenced = await store.change(mine, lambda row: evolve(row, state=QUEUED) if row.fence == mine.fence else row)
            assert fenced is not None
            assert fenced.state is UNKNOWN
            assert await take(store) == []

    asyncio.run(story())

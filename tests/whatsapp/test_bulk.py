"""Many messages: one result for each row, nothing sent twice, and all slow down or stop together."""

from __future__ import annotations

import asyncio
import logging
import random
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import suppress
from typing import Any

import pytest
from anyio import CancelScope

from resilience_core import (
    BulkheadFullError,
    CircuitBreaker,
    CircuitOpenError,
    ConfigurationError,
    DeadlineExceeded,
    RejectionReason,
)
from resilience_whatsapp import (
    AmbiguousOutcomeError,
    BulkProgress,
    BulkSend,
    GraphAuthError,
    GraphRecipientError,
    GraphThrottledError,
    GraphTransientError,
    InvalidMessageError,
    MessageStatus,
    Outgoing,
    SendReceipt,
    SendResult,
    ServiceClosedError,
    WhatsAppService,
    Wire,
)
from resilience_whatsapp.bulk import WhenOpen
from resilience_whatsapp.messages import Text
from tests._cost import size
from tests.whatsapp.fakes import FakeClock, Stub, WireStub, service_over

ACCEPTED, FAILED, REJECTED, UNKNOWN = (
    MessageStatus.ACCEPTED,
    MessageStatus.FAILED,
    MessageStatus.REJECTED,
    MessageStatus.UNKNOWN,
)
THROTTLED = GraphThrottledError(130429, None, 400, "phone_number")
AMBIGUOUS = AmbiguousOutcomeError(502, "an answer that is not the API's")


def number_of(index: int) -> str:
    return f"+3361{index:07d}"


def rows(many: int, **options: Any) -> Iterator[Outgoing]:
    return (Outgoing("u", number_of(index), Text("hi"), **options) for index in range(many))


class Api(Stub):
    """Takes all but what `trouble` says of a number and its attempt; waits where it is told to."""

    def __init__(self, trouble: Callable[[int, int], Any] = lambda index, attempt: None) -> None:
        super().__init__(None)
        self.trouble = trouble
        self.attempts: Counter[int] = Counter()
        self.accepted: Counter[int] = Counter()
        self.running = self.most = 0

    async def send_message(self, payload: Mapping[str, Any]) -> SendReceipt:
        index = int(payload["to"][5:])
        self.attempts[index] += 1
        self.running += 1
        self.most = max(self.most, self.running)
        try:
            outcome = self.trouble(index, self.attempts[index])
            await (outcome.wait() if isinstance(outcome, asyncio.Event) else asyncio.sleep(0))
        finally:
            self.running -= 1
        if isinstance(outcome, BaseException):
            raise outcome
        self.accepted[index] += 1
        return SendReceipt(f"wamid.{index}")


def everything(service: WhatsAppService, messages: Any, **options: Any) -> tuple[list[SendResult], Any, BulkSend]:
    """All results, the error of the loop, and the object."""

    async def story() -> Any:
        bulk = service.send_many(messages, **options)
        results: list[SendResult] = []
        try:
            async for result in bulk:
                results.append(result)  # noqa: PERF401 - those before an error count
        except Exception as error:
            return results, error, bulk
        return results, None, bulk

    found: tuple[list[SendResult], Any, BulkSend] = asyncio.run(story())
    return found


def statuses(results: list[SendResult]) -> dict[int, MessageStatus]:
    assert len({result.index for result in results}) == len(results)
    return {result.index: result.status for result in sorted(results, key=lambda result: result.index)}


def test_each_row_has_one_result_and_no_more_are_under_way_than_asked_for() -> None:
    api = Api()
    results, error, bulk = everything(service_over(api, FakeClock()), rows(200), concurrency=7)
    assert error is None
    assert statuses(results) == dict.fromkeys(range(200), ACCEPTED)
    assert all(result.record.recipient == number_of(result.index) for result in results if result.record)
    assert api.most == 7
    assert bulk.progress == BulkProgress(begun=200, accepted=200)
    assert (bulk.progress.done, bulk.leftover) == (200, ())


def test_results_come_as_rows_end_not_as_they_begin() -> None:
    async def story() -> None:
        slow = asyncio.Event()
        api = Api(lambda index, attempt: slow if index == 0 else None)
        order = []
        async for result in service_over(api, FakeClock()).send_many(rows(50), concurrency=2):
            order.append(result.index)
            if len(order) == 49:
                slow.set()
        assert order[-1] == 0
        assert sorted(order) == list(range(50))

    asyncio.run(story())


def test_rows_are_read_as_there_is_room_for_them_and_a_million_are_not_held() -> None:
    read = taken = most = 0

    def many() -> Iterator[Outgoing]:
        nonlocal read
        for row in rows(size(50_000, 2_000)):
            read += 1
            yield row

    async def story() -> None:
        nonlocal taken, most
        async for result in service_over(Api(), FakeClock()).send_many(many(), concurrency=5):
            assert result.status is ACCEPTED
            taken += 1
            most = max(most, read - taken)

    asyncio.run(story())
    assert taken == size(50_000, 2_000)
    assert most <= 5


def test_rows_may_come_from_an_async_iterable_that_waits() -> None:
    async def slow(many: int) -> AsyncIterator[Outgoing]:
        for row in rows(many):
            await asyncio.sleep(0)
            yield row

    results, error, _ = everything(service_over(Api(), FakeClock()), slow(20), concurrency=3)
    assert (error, len(results)) == (None, 20)
    assert everything(service_over(Api(), FakeClock()), slow(0))[0] == []


def test_results_do_not_wait_for_rows_that_do_not_come() -> None:
    async def story() -> None:
        more = asyncio.Event()

        async def slow() -> AsyncIterator[Outgoing]:
            first, second = rows(2)
            yield first
            await more.wait()
            yield second

        bulk = service_over(Api(), FakeClock()).send_many(slow())
        assert (await anext(bulk)).index == 0
        more.set()
        assert (await anext(bulk)).index == 1
        with pytest.raises(StopAsyncIteration):
            await anext(bulk)

    asyncio.run(story())


def test_one_row_that_fails_stops_nothing() -> None:
    def trouble(index: int, attempt: int) -> Any:
        return {
            3: GraphRecipientError(131026, None, 400, "recipient"),
            5: AMBIGUOUS,
            7: GraphThrottledError(131056, None, 400, "pair"),
        }.get(index)

    many = [*rows(10), Outgoing("u", "0612345678", Text("hi")), Outgoing("u", number_of(99), Text("hi"))]
    service = service_over(Api(trouble), FakeClock(), delivery="at_most_once")
    results, error, bulk = everything(service, many, concurrency=3)
    assert error is None
    told = statuses(results)
    assert {index: status for index, status in told.items() if status is not ACCEPTED} == {
        3: FAILED,
        5: UNKNOWN,
        7: FAILED,
        10: REJECTED,
    }
    by_index = {result.index: result for result in results}
    assert isinstance(by_index[3].error, GraphRecipientError)
    assert by_index[5].record is not None
    assert isinstance(by_index[10].error, InvalidMessageError)
    assert by_index[10].record is None
    assert bulk.progress == BulkProgress(begun=12, accepted=8, failed=3, unknown=1)


def test_what_is_no_row_is_told_of_that_row() -> None:
    results, error, _ = everything(service_over(Api(), FakeClock()), [*rows(1), "a text", *rows(1)], concurrency=1)
    assert (error, [result.status for result in results]) == (None, [ACCEPTED, REJECTED, ACCEPTED])
    assert "must be an Outgoing, not a str" in str(results[1].error)


def test_rows_that_cannot_be_read_on_end_it_after_those_under_way() -> None:
    def broken() -> Iterator[Outgoing]:
        yield from rows(5)
        raise OSError("the file is gone")

    for concurrency in (1, 10):
        results, error, _ = everything(service_over(Api(), FakeClock()), broken(), concurrency=concurrency)
        assert (len(results), type(error)) == (5, OSError)


# --- limits and outages -----------------------------------------------------------------------------


def test_a_limit_holds_all_and_every_row_is_sent_in_the_end() -> None:
    clock = FakeClock()

    api = Api(lambda index, attempt: THROTTLED if index >= 20 and clock.time < 1010 else None)
    results, error, bulk = everything(service_over(api, clock, max_attempts=1), rows(40), concurrency=8)
    assert error is None
    assert statuses(results) == dict.fromkeys(range(40), ACCEPTED)
    assert set(api.accepted.values()) == {1}
    # All waited for it together: those that were under way, and then one after each wait of 1, 2, 4 and 8 s.
    assert bulk.progress.resent <= 8 + 3
    assert sum(api.attempts.values()) == 40 + bulk.progress.resent
    assert clock.time == 1015


def test_the_wait_that_the_api_names_is_kept() -> None:
    clock = FakeClock()
    told = GraphThrottledError(80007, None, 400, "app+waba", 300.0)
    api = Api(lambda index, attempt: told if clock.time < 1300 else None)
    results, error, _ = everything(service_over(api, clock), rows(5), concurrency=2)
    assert (error, statuses(results)) == (None, dict.fromkeys(range(5), ACCEPTED))
    assert 1300 <= clock.time < 1400


def test_after_a_pause_it_begins_with_one() -> None:
    clock = FakeClock()
    most_after = []

    def trouble(index: int, attempt: int) -> Any:
        if clock.time > 1000:
            most_after.append(api.running)
        return GraphThrottledError(130429, None, 400, "phone_number", 60.0) if clock.time < 1060 else None

    api = Api(trouble)
    everything(service_over(api, clock, max_attempts=1), rows(30), concurrency=8)
    assert most_after[0] == 1
    assert max(most_after) > 4


def down_until(clock: FakeClock, end: float) -> Api:
    return Api(lambda index, attempt: ConnectionRefusedError() if clock.time < end else None)


def test_by_default_an_open_circuit_stops_it_and_says_which_rows_were_not_sent() -> None:
    clock, many = FakeClock(), rows(1_000)
    service = service_over(down_until(clock, 5_000), clock)
    results, error, bulk = everything(service, many, concurrency=4)
    assert isinstance(error, CircuitOpenError)
    assert {result.status for result in results} == {FAILED}
    assert len(results) == bulk.progress.begun < 20
    # The rows that were not read are still there to be sent later.
    assert 1_000 - len(list(many)) == bulk.progress.begun


def test_it_can_wait_for_the_circuit_and_then_sends_every_row_once() -> None:
    clock = FakeClock()
    api = down_until(clock, 1_000 + 290)
    results, error, bulk = everything(service_over(api, clock), rows(100), concurrency=8, when_open="wait")
    assert error is None
    # Those that met the outage before the circuit opened ended with it; all others were sent.
    told = Counter(statuses(results).values())
    assert told[ACCEPTED] + told[FAILED] == 100
    assert told[FAILED] <= 8
    assert set(api.accepted.values()) == {1}
    assert bulk.progress.resent > 0
    assert clock.time < 1_000 + 290 + 130


def test_it_does_not_wait_for_ever() -> None:
    clock = FakeClock()
    service = service_over(down_until(clock, 1e9), clock)
    results, error, bulk = everything(service, rows(100), concurrency=4, when_open="wait", wait_at_most=600)
    assert isinstance(error, CircuitOpenError)
    assert 1_000 < clock.time < 1_000 + 700
    assert len(results) == bulk.progress.begun == bulk.progress.failed < 100


def test_what_was_waited_before_a_message_was_accepted_does_not_count() -> None:
    clock = FakeClock()
    api = Api(lambda index, attempt: THROTTLED if index in (5, 10) and attempt <= 3 else None)
    service = service_over(api, clock, max_attempts=1)
    results, error, _ = everything(service, rows(15), concurrency=1, wait_at_most=10)
    assert (error, len(results)) == (None, 15)
    assert clock.time == 1_000 + 2 * (1 + 2 + 4)


@pytest.mark.parametrize("when_open", ["stop", "wait"])
@pytest.mark.parametrize(
    "trouble",
    [
        GraphAuthError(190, None, 401, "token"),
        GraphThrottledError(131048, None, 400, "phone_number"),
        DeadlineExceeded("mine", RejectionReason.DEADLINE),
    ],
)
def test_what_no_wait_cures_stops_it_before_all_rows_are_burnt(trouble: Any, when_open: Any) -> None:
    api = Api(lambda index, attempt: trouble if index >= 10 else None)
    service = service_over(api, FakeClock(), max_attempts=1)
    results, error, bulk = everything(service, rows(1_000), concurrency=4, when_open=when_open)
    assert error is trouble
    assert Counter(statuses(results).values()) == {ACCEPTED: 10, FAILED: bulk.progress.begun - 10}
    assert bulk.progress.begun <= 14


def test_a_refusal_of_ones_own_policies_is_waited_out() -> None:
    full = BulkheadFullError("mine", RejectionReason.BULKHEAD_FULL)
    api = Api(lambda index, attempt: full if attempt <= 2 and index == 3 else None)
    clock = FakeClock()
    results, error, _ = everything(service_over(api, clock, max_attempts=1), rows(10), concurrency=4)
    assert (error, statuses(results)) == (None, dict.fromkeys(range(10), ACCEPTED))
    assert clock.time == 1_000 + 1 + 2


def test_a_row_that_may_have_been_sent_is_not_sent_again() -> None:
    """An unknown outcome, and the circuit opens before the next attempt."""
    clock = FakeClock()
    api = Api(lambda index, attempt: AMBIGUOUS if index == 0 else None)
    service = service_over(api, clock, breaker=lambda: CircuitBreaker("whatsapp_api", failure_threshold=1, clock=clock))
    results, error, bulk = everything(service, rows(5), concurrency=1, when_open="wait")
    assert error is None
    assert statuses(results) == {0: UNKNOWN} | dict.fromkeys(range(1, 5), ACCEPTED)
    assert api.attempts[0] == 1
    assert bulk.progress.unknown == 1


# --- progress ---------------------------------------------------------------------------------------


def test_progress_is_told_after_each_row() -> None:
    told: list[BulkProgress] = []
    everything(service_over(Api(), FakeClock()), rows(20), concurrency=3, progress=told.append)
    assert [each.done for each in told] == list(range(1, 21))


def test_progress_that_fails_changes_nothing_and_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    called = []

    def broken(progress: BulkProgress) -> None:
        called.append(progress)
        raise ValueError("Zebulon")

    with caplog.at_level(logging.WARNING):
        results, error, _ = everything(service_over(Api(), FakeClock()), rows(20), progress=broken)
    assert (error, len(results), len(called)) == (None, 20, 20)
    (line,) = [record for record in caplog.records if "progress" in record.message]
    assert line.error == "ValueError"  # type: ignore[attr-defined]
    assert "Zebulon" not in caplog.text


# --- ending early -----------------------------------------------------------------------------------


def test_who_cancels_it_learns_what_became_of_every_row_that_was_begun() -> None:
    async def story() -> None:
        never = asyncio.Event()
        api = WireStub(SendReceipt("wamid.x"), left=[True] * 100)
        api.send_message = _held_after(api.send_message, 6, never)  # type: ignore[method-assign]
        bulk = service_over(api, FakeClock(), delivery="at_most_once").send_many(rows(100), concurrency=4)
        handed: list[SendResult] = []

        async def consume() -> None:
            async for result in bulk:
                handed.append(result)  # noqa: PERF401 - those before the end count

        task = asyncio.ensure_future(consume())
        while bulk.progress.done < 6 or len(api.payloads) < 6:
            await asyncio.sleep(0)
        for _ in range(20):
            await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        told = statuses([*handed, *bulk.leftover])
        assert len(told) == bulk.progress.begun == 10
        assert Counter(told.values()) == {ACCEPTED: 6, UNKNOWN: 4}
        with pytest.raises(StopAsyncIteration):
            await anext(bulk)

    asyncio.run(story())


def test_a_scope_of_anyio_that_ends_it_loses_nothing_either() -> None:
    async def story() -> None:
        api = Api(lambda index, attempt: asyncio.Event() if index >= 4 else None)
        bulk = service_over(api, FakeClock(), delivery="at_most_once").send_many(rows(100), concurrency=3)
        handed: list[SendResult] = []
        with CancelScope() as scope:
            async for result in bulk:
                handed.append(result)
                if len(handed) == 4:
                    asyncio.get_running_loop().call_soon(scope.cancel)
        assert Counter(statuses([*handed, *bulk.leftover]).values()) == {ACCEPTED: 4, UNKNOWN: 3}

    asyncio.run(story())


def _held_after(send: Any, many: int, gate: asyncio.Event) -> Any:
    count = 0

    async def send_message(payload: Mapping[str, Any], *, wire: Any) -> Any:
        nonlocal count
        count += 1
        if count > many:
            wire.left = True
            await gate.wait()
        return await send(payload, wire=wire)

    return send_message


def test_who_leaves_the_loop_can_wait_for_those_under_way() -> None:
    async def story() -> None:
        api = Api()
        many = rows(100)
        handed = []
        async with service_over(api, FakeClock()).send_many(many, concurrency=4) as bulk:
            async for result in bulk:
                handed.append(result)
                if len(handed) == 10:
                    break
        told = statuses([*handed, *bulk.leftover])
        assert set(told.values()) == {ACCEPTED}
        assert len(told) == bulk.progress.begun == sum(api.accepted.values()) < 20
        await bulk.aclose()
        assert len(bulk.leftover) == len(told) - 10
        assert 100 - len(list(many)) == bulk.progress.begun

    asyncio.run(story())


def test_closing_ends_a_pause_and_tells_of_the_rows_that_waited() -> None:
    async def story() -> None:
        api = Api(lambda index, attempt: GraphThrottledError(130429, None, 400, "phone_number", 500.0))
        clock = FakeClock()
        held = asyncio.Event()

        async def wait(seconds: float) -> None:
            await held.wait()

        service = service_over(api, clock, max_attempts=1)
        clock.async_sleep = wait
        bulk = service.send_many(rows(10), concurrency=3)
        task = asyncio.ensure_future(anext(bulk))
        for _ in range(30):
            await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert statuses(list(bulk.leftover)) == {0: FAILED, 1: FAILED, 2: FAILED}
        assert all(isinstance(result.error, GraphThrottledError) for result in bulk.leftover)

        again = service.send_many(rows(10), concurrency=3)
        task = asyncio.ensure_future(anext(again))
        for _ in range(30):
            await asyncio.sleep(0)
        await again.aclose()
        assert statuses(list(again.leftover)) == {0: FAILED, 1: FAILED, 2: FAILED}
        with pytest.raises(StopAsyncIteration):
            await task

    asyncio.run(story())


def test_a_row_that_was_read_but_not_begun_is_told_as_not_sent() -> None:
    async def story() -> None:
        async def one_by_one() -> AsyncIterator[Outgoing]:
            for row in rows(10):
                yield row

        stuck = asyncio.Event()
        bulk = service_over(Api(lambda index, attempt: stuck), FakeClock()).send_many(one_by_one(), concurrency=3)
        task = asyncio.ensure_future(anext(bulk))
        await asyncio.sleep(0)  # it began to read
        await asyncio.sleep(0)  # it has read, and its reader does not know yet
        closing = asyncio.ensure_future(bulk.aclose())
        stuck.set()
        await closing
        result = await task if not task.done() or task.exception() is None else None
        told = statuses([*bulk.leftover, *([] if result is None else [result])])
        assert len(told) == bulk.progress.begun

    asyncio.run(story())


def test_who_cancels_the_closing_cuts_those_under_way_short() -> None:
    async def story() -> None:
        stuck = asyncio.Event()
        api = Api(lambda index, attempt: stuck if index else None)
        bulk = service_over(api, FakeClock(), delivery="at_most_once").send_many(rows(10), concurrency=3)
        assert (await anext(bulk)).status is ACCEPTED
        closing = asyncio.ensure_future(bulk.aclose())
        await asyncio.sleep(0)
        closing.cancel()
        with pytest.raises(asyncio.CancelledError):
            await closing
        assert statuses(list(bulk.leftover)) == {1: UNKNOWN, 2: UNKNOWN}

    asyncio.run(story())


def test_a_service_that_is_closed_stops_it() -> None:
    async def story() -> None:
        service = service_over(Api(), FakeClock())
        handed = []
        with pytest.raises(ServiceClosedError):
            async for result in service.send_many(rows(100), concurrency=4):
                handed.append(result)
                if len(handed) == 10:
                    await service.aclose()
        told = statuses(handed)
        assert set(told.values()) <= {ACCEPTED, REJECTED}
        assert len(told) < 20

    asyncio.run(story())


@pytest.mark.parametrize(
    ("messages", "options", "told"),
    [
        ([], {"concurrency": 0}, "concurrency"),
        ([], {"concurrency": True}, "concurrency"),
        ([], {"concurrency": 1.5}, "concurrency"),
        ([], {"when_open": "queue"}, "when_open must be one of stop, wait"),
        ([], {"wait_at_most": -1}, "wait_at_most"),
        ([], {"wait_at_most": float("inf")}, "wait_at_most"),
        ([], {"progress": 5}, "progress"),
        (5, {}, "messages must be an iterable"),
    ],
)
def test_what_cannot_work_is_refused_at_once(messages: Any, options: Any, told: str) -> None:
    with pytest.raises(ConfigurationError, match=told):
        service_over(Stub(None), FakeClock()).send_many(messages, **options)


def test_a_row_shows_no_recipient() -> None:
    (row,) = rows(1)
    assert number_of(0) not in repr(row)
    assert number_of(0)[1:] not in repr(SendResult(0, row, None, None))


class Unreliable:
    """Refuses, loses connections before and after it has taken a message, and counts what it took."""

    def __init__(self, draw: random.Random) -> None:
        self.draw = draw
        self.taken: Counter[int] = Counter()

    async def send_message(self, payload: Mapping[str, Any], *, wire: Wire) -> SendReceipt:
        index, chance = int(payload["to"][5:]), self.draw.random()
        await asyncio.sleep(0)
        if chance < 0.2:
            raise THROTTLED if chance < 0.15 else ConnectionRefusedError()
        wire.left = True
        if chance < 0.25:
            raise GraphTransientError(2, None, 500, "platform")
        self.taken[index] += 1
        await asyncio.sleep(0)
        if chance < 0.45:
            raise ConnectionResetError
        return SendReceipt(f"wamid.{index}")

    async def get_templates_page(self, after: str | None) -> Any:
        raise AssertionError


@pytest.mark.parametrize("end", ["all", "leave", "cancel", "close", "broken rows"])
def test_however_it_ends_each_row_is_told_once_and_as_it_was(end: str) -> None:
    async def one(draw: random.Random) -> None:
        api, many = Unreliable(draw), draw.randrange(1, 60)
        clock = FakeClock()
        delivery = draw.choice(("at_most_once", "at_least_once"))
        breaker = CircuitBreaker("bulk", failure_threshold=draw.choice((3, 1000)), recovery_timeout=1, clock=clock)
        service = service_over(api, clock, breaker=lambda: breaker, max_attempts=draw.choice((1, 3)), delivery=delivery)

        def given() -> Iterator[Outgoing]:
            yield from rows(many // 2)
            if end == "broken rows":
                raise LookupError
            yield from (Outgoing("u", number_of(index), Text("hi")) for index in range(many // 2, many))

        async def waited_for() -> AsyncIterator[Outgoing]:
            for row in given():
                await asyncio.sleep(0)
                yield row

        source = given() if draw.random() < 0.5 else waited_for()
        when_open: WhenOpen = draw.choice(("stop", "wait"))
        bulk = service.send_many(source, concurrency=draw.choice((1, 3, 20)), when_open=when_open)
        results: list[SendResult] = []

        async def loop() -> None:
            async for result in bulk:
                results.append(result)
                if end == "leave" and len(results) > many // 3:
                    break
            await bulk.aclose()

        loops = asyncio.ensure_future(loop())
        for _ in range(draw.randrange(60) if end in ("cancel", "close") else 0):
            await asyncio.sleep(0)
        if end == "cancel":
            loops.cancel()
        elif end == "close":
            await service.aclose(0.0)
        with suppress(asyncio.CancelledError, CircuitOpenError, ServiceClosedError, LookupError):
            await loops

        told = statuses([*results, *bulk.leftover])
        assert list(told) == list(range(bulk.progress.begun))
        assert bulk.progress.done == len(told)
        assert set(api.taken) <= set(told)  # nothing was sent of a row that was not begun
        for result in (*results, *bulk.leftover):
            taken = api.taken[result.index]
            assert taken or result.status is not ACCEPTED
            assert not taken or result.status in (ACCEPTED, UNKNOWN)
            assert taken <= 1 or (result.record is not None and result.record.possible_duplicate)
            assert taken <= 1 or delivery == "at_least_once"

    for seed in range(size(300, 20)):
        asyncio.run(one(random.Random(seed)))

"""Bulkheads: one budget over threads and loops, an honest queue."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from typing import Any

import pytest
import trio

from resilience_core import (
    Bulkhead,
    BulkheadFullError,
    ConfigurationError,
    Rejection,
    RejectionReason,
    Timeout,
)
from resilience_core._telemetry import telemetry
from resilience_core._weave.waiting import AsyncioWaiter, ThreadWaiter, TrioWaiter
from resilience_core.testing import record_events, run_virtual, run_virtual_trio
from tests.worlds import Script, World

BOTH = pytest.mark.parametrize(
    ("run", "sleep"), [(run_virtual, asyncio.sleep), (run_virtual_trio, trio.sleep)], ids=["asyncio", "trio"]
)


async def together(*functions: Any) -> list[Any]:
    """Run async functions concurrently in either world; exceptions are results."""
    import anyio

    results: list[Any] = [None] * len(functions)

    async def one(index: int) -> None:
        try:
            results[index] = await functions[index]()
        except Exception as error:
            results[index] = error

    async with anyio.create_task_group() as group:
        for index in range(len(functions)):
            group.start_soon(one, index)
            await anyio.lowlevel.checkpoint()
    return results


def at_rest(bulkhead: Bulkhead) -> bool:
    return bulkhead.in_flight == 0 and bulkhead.waiting == 0


def test_it_rejects_at_once_without_a_queue(world: World) -> None:
    async def story() -> None:
        bulkhead = Bulkhead("b", max_concurrent=1)

        async def inner() -> Any:
            assert bulkhead.in_flight == 1
            with record_events(bulkhead) as events, pytest.raises(BulkheadFullError) as caught:
                await world.guard(bulkhead, Script("never").fn)()
            assert caught.value.reason is RejectionReason.BULKHEAD_FULL
            assert len(events.of(Rejection)) == 1
            return "outer"

        assert await world.guard(bulkhead, inner)() == "outer"
        assert at_rest(bulkhead)
        assert bulkhead.snapshot()["rejected"] == 1

    world.run(story)


def test_slots_come_back_from_failures_and_interrupts(world: World) -> None:
    async def story() -> None:
        bulkhead = Bulkhead("b", max_concurrent=1)
        for error in (ValueError(), KeyboardInterrupt(), asyncio.CancelledError()):
            with pytest.raises(type(error)):
                await world.guard(bulkhead, Script(error).fn)()
        assert at_rest(bulkhead)

    world.run(story)


@BOTH
def test_the_queue_is_first_in_first_out_and_bounded(run: Any, sleep: Any) -> None:
    async def story() -> None:
        bulkhead = Bulkhead("b", max_concurrent=1, max_queue=3, max_wait=100)
        order: list[int] = []

        def caller(number: int) -> Any:
            async def work() -> None:
                order.append(number)
                await sleep(1)

            return lambda: bulkhead.acall(work)

        results = await together(*(caller(number) for number in range(5)))
        assert order == [0, 1, 2, 3]
        assert isinstance(results[4], BulkheadFullError)
        assert at_rest(bulkhead)

    run(story)


@BOTH
def test_a_waiter_gives_up_after_max_wait_or_at_the_deadline(run: Any, sleep: Any) -> None:
    async def story() -> None:
        bulkhead = Bulkhead("b", max_concurrent=1, max_queue=5, max_wait=2)

        async def waits() -> Any:
            return await bulkhead.acall(sleep, 0)

        async def waits_shorter() -> Any:
            async with bulkhead.guard():
                pass

        shorter = Timeout(1)(Timeout(1)(waits_shorter))
        results = await together(lambda: bulkhead.acall(sleep, 10), waits, shorter)
        assert results[0] is None
        assert results[1].reason is RejectionReason.BULKHEAD_WAIT_TIMEOUT
        assert isinstance(results[2], Exception)
        assert at_rest(bulkhead)

    run(story)


@pytest.fixture
def unrecorded() -> Iterator[None]:
    """Nobody records, whatever other tests have set."""
    telemetry.use(None, None)
    yield
    telemetry.use_global()


@pytest.mark.usefixtures("unrecorded")
def test_a_cancelled_waiter_leaks_nothing() -> None:
    async def story() -> None:
        bulkhead = Bulkhead("b", max_concurrent=1, max_queue=5, max_wait=100)
        release = asyncio.Event()
        holder = asyncio.create_task(bulkhead.acall(release.wait))
        await asyncio.sleep(0)
        waiting = asyncio.create_task(bulkhead.acall(asyncio.sleep, 0))
        granted = asyncio.create_task(bulkhead.acall(asyncio.sleep, 0))
        await asyncio.sleep(0)
        assert bulkhead.waiting == 2
        waiting.cancel()
        await asyncio.sleep(0)
        assert bulkhead.waiting == 1
        release.set()
        asyncio.get_running_loop().call_soon(granted.cancel)  # runs after the hand-over, before the task wakes
        await holder
        last = asyncio.create_task(bulkhead.acall(asyncio.sleep, 0))
        await asyncio.gather(waiting, granted, return_exceptions=True)
        await last
        assert at_rest(bulkhead)

    run_virtual(story)


def test_a_slot_handed_over_at_the_moment_of_the_time_out_is_not_lost() -> None:
    async def story() -> None:
        for round_ in range(300):
            bulkhead = Bulkhead("b", max_concurrent=1, max_queue=2, max_wait=1.0)
            results = await asyncio.gather(
                bulkhead.acall(asyncio.sleep, 1.0 if round_ % 3 else 0.999),
                bulkhead.acall(asyncio.sleep, 0),
                bulkhead.acall(asyncio.sleep, 0),
                return_exceptions=True,
            )
            assert results[0] is None
            assert all(each is None or isinstance(each, BulkheadFullError) for each in results)
            assert at_rest(bulkhead)

    run_virtual(story)


def test_threads_and_loops_share_one_budget() -> None:
    bulkhead = Bulkhead("b", max_concurrent=3, max_queue=1000, max_wait=50)
    lock, running, most, done = threading.Lock(), 0, 0, 0

    def enter() -> None:
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)

    def leave() -> None:
        nonlocal running, done
        with lock:
            running -= 1
            done += 1

    def in_thread() -> None:
        for _ in range(30):
            with bulkhead.guard():
                enter()
                leave()

    async def task() -> None:
        for _ in range(10):
            async with bulkhead.guard():
                enter()
                await asyncio.sleep(0)
                leave()

    async def main() -> None:
        await asyncio.gather(*(task() for _ in range(10)))

    async def trio_task() -> None:
        for _ in range(10):
            async with bulkhead.guard():
                enter()
                await trio.sleep(0)
                leave()

    async def trio_main() -> None:
        async with trio.open_nursery() as nursery:
            for _ in range(10):
                nursery.start_soon(trio_task)

    threads = [
        *(threading.Thread(target=in_thread) for _ in range(4)),
        *(threading.Thread(target=lambda: asyncio.run(main())) for _ in range(2)),
        threading.Thread(target=lambda: trio.run(trio_main)),
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most <= 3
    assert done == 4 * 30 + 3 * 100
    assert at_rest(bulkhead)


def test_a_thread_waits_and_is_woken_or_gives_up() -> None:
    bulkhead = Bulkhead("b", max_concurrent=1, max_queue=1, max_wait=0.01)
    guarded = bulkhead(lambda: "done")
    with bulkhead.guard(), pytest.raises(BulkheadFullError) as caught:
        guarded()
    assert caught.value.reason is RejectionReason.BULKHEAD_WAIT_TIMEOUT
    assert guarded() == "done"
    assert at_rest(bulkhead)


@pytest.mark.usefixtures("unrecorded")
def test_a_thread_interrupted_while_waiting_leaks_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(self: ThreadWaiter, timeout: float | None, usual: bool = False) -> bool:
        raise KeyboardInterrupt

    bulkhead = Bulkhead("b", max_concurrent=1, max_queue=1, max_wait=1)
    monkeypatch.setattr(ThreadWaiter, "wait", interrupted)
    with bulkhead.guard():
        with pytest.raises(KeyboardInterrupt):
            bulkhead.call(lambda: None)
        assert bulkhead.waiting == 0
    assert at_rest(bulkhead)


@BOTH
def test_a_blocking_wait_on_the_thread_of_a_loop_is_refused(run: Any, sleep: Any) -> None:
    async def story() -> None:
        bulkhead = Bulkhead("b", max_concurrent=1, max_queue=1, max_wait=1)
        async with bulkhead.guard():
            with pytest.raises(ConfigurationError, match="loop"):
                bulkhead.call(lambda: None)
        assert bulkhead.call(lambda: 5) == 5

    run(story)


def test_a_woven_call_hands_its_slot_to_a_waiting_thread() -> None:
    bulkhead = Bulkhead("b", max_concurrent=1, max_queue=1, max_wait=50)
    entered, release = threading.Event(), threading.Event()

    @bulkhead
    def hold() -> None:
        entered.set()
        release.wait()

    holder = threading.Thread(target=hold)
    holder.start()
    entered.wait()
    waiter = threading.Thread(target=bulkhead(lambda: None))
    waiter.start()
    while not bulkhead.waiting:
        threading.Event().wait(0.001)
    release.set()
    holder.join()
    waiter.join()
    assert at_rest(bulkhead)


def test_a_waiter_is_woken_from_another_thread() -> None:
    async def wait_asyncio() -> bool:
        waiter = AsyncioWaiter()
        threading.Thread(target=waiter.wake).start()
        return await waiter.wait(50)

    async def wait_trio() -> bool:
        waiter = TrioWaiter()
        threading.Thread(target=waiter.wake).start()
        return await waiter.wait(None)

    assert asyncio.run(wait_asyncio())
    assert trio.run(wait_trio)


def test_a_waiter_whose_loop_is_gone_passes_the_slot_on() -> None:
    async def make() -> AsyncioWaiter:
        return AsyncioWaiter()

    async def make_trio() -> TrioWaiter:
        return TrioWaiter()

    assert asyncio.run(make()).wake() is False
    assert trio.run(make_trio).wake() is False


def test_the_race_for_the_last_slot_between_look_and_take() -> None:
    """Another thread may take the slot between the look and the take: then the caller is rejected, not crashed."""

    class Stolen(list[None]):
        def __delitem__(self, index: Any) -> None:
            raise IndexError

    async def fn() -> None: ...

    spared = Bulkhead("b", max_concurrent=1, enforce=0.0)
    object.__setattr__(spared._slots, "free", Stolen([None]))
    assert spared(lambda: 5)() == 5
    assert asyncio.run(spared(fn)()) is None
    assert spared.spared == 2
    waits = Bulkhead("b", max_concurrent=1, max_queue=1, max_wait=5)

    class StolenOnce(list[None]):
        stolen = False

        def __delitem__(self, index: Any) -> None:
            if not self.stolen:
                self.stolen = True
                raise IndexError
            super().__delitem__(index)

    for run in (lambda: waits.call(len, "abc"), lambda: asyncio.run(waits(fn)())):
        object.__setattr__(waits._slots, "free", StolenOnce([None]))
        run()
        assert waits.in_flight == 0, "back in the queue, it got the slot that came free again"
    bulkhead = Bulkhead("b", max_concurrent=1)
    object.__setattr__(bulkhead._slots, "free", Stolen([None]))
    guarded = bulkhead(lambda: None)
    guarded_async = bulkhead(fn)
    object.__setattr__(bulkhead._slots, "waiting", {"somebody": None})
    with pytest.raises(BulkheadFullError):
        guarded()
    with pytest.raises(BulkheadFullError):
        asyncio.run(guarded_async())


def test_options() -> None:
    with pytest.raises(ConfigurationError, match="max_wait"):
        Bulkhead("b", max_concurrent=1, max_queue=1)
    assert "2 may wait" in Bulkhead("b", max_concurrent=1, max_queue=2, max_wait=1).describe()["text"]

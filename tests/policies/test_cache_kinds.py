"""What else a cache remembers: failures; where: stores; and when it asks: behind the caller's back."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, rule

from resilience_core import ConfigurationError, Hedge, RetryBudget, StaleCache, StaleServed, deadline, remaining
from resilience_core.testing import VirtualClock, record_events, run_virtual, run_virtual_trio
from tests._cost import size
from tests.worlds import Script, World


class Missing(Exception):
    pass


def cache(**options: Any) -> tuple[StaleCache, VirtualClock]:
    clock = VirtualClock()
    return StaleCache(clock=clock, **{"fresh_for": 10, "stale_for": 100, **options}), clock


def test_failures_that_will_not_go_away_are_remembered(world: World) -> None:
    async def story() -> None:
        policy, clock = cache(negative_for=30, negative_on=Missing, max_entries=2)
        script = Script(Missing("no"), Missing("no"), "here", "again")
        guarded = world.guard(policy, script.fn)
        for _ in range(3):
            with pytest.raises(Missing):
                await guarded(1)
        assert script.calls == 1
        assert policy.snapshot()["negative"] == 1
        clock.advance(30)
        with pytest.raises(Missing):
            await guarded(1)
        assert script.calls == 2
        policy.invalidate(1)
        assert await guarded(1) == "here"
        assert policy.snapshot()["negative"] == 0

    world.run(story)


def test_remembered_failures_are_bounded_and_cleared(world: World) -> None:
    async def story() -> None:
        policy, _ = cache(negative_for=30, negative_on=lambda error: isinstance(error, Missing), max_entries=2)
        script = Script(Missing())
        guarded = world.guard(policy, script.fn)
        for key in (1, 2, 3, 3):
            with pytest.raises(Missing):
                await guarded(key)
        assert (script.calls, policy.snapshot()["negative"]) == (3, 2)
        policy.clear()
        assert policy.snapshot()["negative"] == 0
        other = Script(ConnectionError())
        with pytest.raises(ConnectionError):
            await world.guard(policy, other.fn)()
        assert policy.snapshot()["negative"] == 0

    world.run(story)


@pytest.mark.parametrize("run", [run_virtual, run_virtual_trio])
def test_a_stale_value_is_served_at_once_while_a_new_one_is_fetched(run: Any) -> None:
    async def story() -> None:
        import anyio

        from resilience_core._clock import SYSTEM

        policy = StaleCache(fresh_for=10, stale_for=100, while_revalidating=True)
        calls = 0
        seen: list[float | None] = []

        async def fetch() -> int:
            nonlocal calls
            calls += 1
            seen.append(remaining())
            await anyio.sleep(2)
            if calls == 3:
                raise ConnectionError
            return calls

        guarded = policy(fetch)
        assert await guarded() == 1
        await anyio.sleep(10)
        started = SYSTEM.now()
        with record_events(policy) as events, deadline(0.5):
            assert [await guarded() for _ in range(3)] == [1, 1, 1]
        assert SYSTEM.now() == started, "nobody waited"
        assert [event.error for event in events.of(StaleServed)] == [None] * 3
        assert policy.snapshot()["fetching"] == 1
        await anyio.sleep(3)
        assert (await guarded(), calls) == (2, 2)
        assert seen == [None, None], "a refresh is not bound by the deadline of whoever set it off"
        await anyio.sleep(10)
        assert await guarded() == 2
        await anyio.sleep(3)
        assert (calls, policy.snapshot()["fetching"]) == (3, 0), "the refresh failed, and that hurt nobody"
        assert await guarded() == 2

    run(story)


def test_threads_revalidate_in_a_thread() -> None:
    policy, clock = cache(while_revalidating=True)
    release = threading.Event()
    calls = []

    def fetch() -> int:
        calls.append(threading.current_thread().name)
        if len(calls) > 1:
            release.wait(20)
        return len(calls)

    guarded = policy(fetch)
    assert guarded() == 1
    clock.advance(10)
    assert [guarded(), guarded()] == [1, 1]
    release.set()
    while policy.snapshot()["fetching"]:
        threading.Event().wait(0.001)
    assert guarded() == 2
    assert calls[1] == "resilience-job"
    assert "meanwhile" in policy.describe()["text"]


def test_a_refresh_that_is_cut_off_leaves_the_key_free() -> None:
    policy = StaleCache(fresh_for=1, stale_for=10_000, while_revalidating=True)
    calls = 0

    async def fetch() -> int:
        nonlocal calls
        calls += 1
        if calls == 2:
            await asyncio.sleep(500)
        return calls

    guarded = policy(fetch)

    async def first() -> None:
        await guarded()
        await asyncio.sleep(2)
        assert await guarded() == 1
        await asyncio.sleep(1)

    run_virtual(first)  # the loop ends and cancels the refresh
    assert policy.snapshot()["fetching"] == 0


def test_a_refresh_that_never_began_leaves_the_key_free(monkeypatch: pytest.MonkeyPatch) -> None:
    policy, clock = cache(while_revalidating=True)
    guarded = policy(lambda: "value")
    guarded()
    clock.advance(10)

    def none_left(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", none_left)
    assert guarded() == "value"
    assert policy.snapshot()["fetching"] == 0
    with pytest.raises(RuntimeError):
        Hedge(delay=1, idempotent=True, budget=RetryBudget("b")).call(len, "abc")

    async def fetch() -> str:
        return "value"

    def none_at_all(*args: Any) -> None:
        raise RuntimeError("no loop")

    with monkeypatch.context() as patch:
        patch.setattr("resilience_core._policies.stale_cache.spawn_async", none_at_all)
        without, its_clock = cache(while_revalidating=True)
        stale = without(fetch)

        async def ask_twice() -> None:
            await stale()
            its_clock.advance(10)
            assert await stale() == "value"
            assert without.snapshot()["fetching"] == 0

        run_virtual(ask_twice)
    other = StaleCache(fresh_for=1, stale_for=100, while_revalidating=True)
    guarded_async = other(fetch)

    async def story() -> None:
        await guarded_async()
        await asyncio.sleep(2)
        assert await guarded_async() == "value"
        for task in asyncio.all_tasks() - {asyncio.current_task()}:
            task.cancel()  # before its first step
        await asyncio.sleep(0)
        await asyncio.sleep(0)

    run_virtual(story)
    assert other.snapshot()["fetching"] == 0


def test_a_cleared_file_is_empty(tmp_path: Any) -> None:
    policy, _ = cache(file=tmp_path / "cache.json")
    assert policy(lambda: 5)() == 5
    policy.clear()
    again, _ = cache(file=tmp_path / "cache.json")
    assert again.snapshot()["entries"] == 0
    unhashable, _ = cache()
    with pytest.raises(TypeError):
        unhashable(len)([1])


class Store:
    """Somebody's database."""

    def __init__(self) -> None:
        self.content: dict[str, tuple[Any, float]] = {}
        self.broken = False

    def _check(self) -> None:
        if self.broken:
            raise OSError("database gone")

    def get(self, key: str) -> tuple[Any, float] | None:
        self._check()
        return self.content.get(key)

    def set(self, key: str, value: Any, stored_at: float) -> None:
        self._check()
        assert isinstance(key, str)
        self.content[key] = (value, stored_at)

    def delete(self, key: str) -> None:
        self._check()
        self.content.pop(key, None)

    def clear(self) -> None:
        self._check()
        self.content.clear()


def test_a_store_of_one_s_own(world: World) -> None:
    async def story() -> None:
        store = Store()
        policy, clock = cache(store=store)
        script = Script("one", "two", "three")
        guarded = world.guard(policy, script.fn)
        assert [await guarded(5), await guarded(5)] == ["one", "one"]
        assert policy.snapshot()["entries"] is None
        another = StaleCache(fresh_for=10, stale_for=100, store=store, clock=clock)
        assert await world.guard(another, script.fn)(5) == "one", "shared"
        entry = policy.entry(5)
        assert entry is not None
        assert entry.value == "one"
        policy.invalidate(5)
        assert await guarded(5) == "two"
        policy.clear()
        assert not store.content
        store.broken = True
        assert await guarded(5) == "three", "a store that fails is a cache that is empty"
        policy.clear()

    world.run(story)


def test_what_goes_together() -> None:
    with pytest.raises(ConfigurationError, match="store and file"):
        cache(store=Store(), file="x")
    for options in ({"negative_for": 5}, {"negative_on": OSError}):
        with pytest.raises(ConfigurationError, match="go together"):
            cache(**options)


class AgainstAPlainModel(RuleBasedStateMachine):
    """A cache of three keys, and a dictionary."""

    def __init__(self) -> None:
        super().__init__()
        self.clock = VirtualClock()
        self.policy = StaleCache(
            fresh_for=10, stale_for=20, negative_for=5, negative_on=Missing, max_entries=2, clock=self.clock
        )
        self.kept: dict[int, tuple[int, float]] = {}  # in order of use
        self.missing: dict[int, float] = {}
        self.asked = 0
        self.answers: Any = None
        self.guarded = self.policy(self.fetch)

    def fetch(self, key: int) -> int:
        self.asked += 1
        if isinstance(self.answers, Exception):
            raise self.answers
        return self.asked

    @rule(seconds=st.sampled_from([1, 4, 9, 25]))
    def pass_time(self, seconds: int) -> None:
        self.clock.advance(seconds)

    @rule(key=st.integers(0, 2))
    def invalidate(self, key: int) -> None:
        self.policy.invalidate(key)
        self.kept.pop(key, None)
        self.missing.pop(key, None)

    @rule(key=st.integers(0, 2), answers=st.sampled_from([None, ConnectionError(), Missing()]))
    def ask(self, key: int, answers: Any) -> None:
        self.answers, before, now = answers, self.asked, self.clock.now()
        try:
            got: Any = self.guarded(key)
        except Exception as error:
            got = type(error)
        value, stored_at = self.kept.get(key, (None, -1000.0))
        if key in self.kept:
            self.kept[key] = self.kept.pop(key)
        if now - stored_at < 10:
            assert (got, self.asked) == (value, before)
        elif now < self.missing.get(key, 0):
            assert (got, self.asked) == (Missing, before)
        else:
            assert self.asked == before + 1
            if answers is None:
                assert got == self.asked
                self.kept.pop(key, None)
                self.kept[key] = (got, now)
                self.missing.pop(key, None)
                if len(self.kept) > 2:
                    del self.kept[next(iter(self.kept))]
            else:
                assert got == (value if now - stored_at < 30 else type(answers))
                if isinstance(answers, Missing):
                    self.missing.pop(key, None)
                    self.missing[key] = now + 5
                    while len(self.missing) > 2:
                        del self.missing[next(iter(self.missing))]


AgainstAPlainModel.TestCase.settings = settings(max_examples=size(80, 40), stateful_step_count=50, deadline=None)
TestAgainstAPlainModel = AgainstAPlainModel.TestCase

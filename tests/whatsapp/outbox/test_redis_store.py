"""What is special to Redis: what is in it, and what happens when it does not answer."""

from __future__ import annotations

import asyncio
import builtins
import itertools
from typing import Any

import pytest
import redis.asyncio

from resilience_core import ConfigurationError
from resilience_core.testing import FaultProxy, run_virtual
from resilience_whatsapp.outbox import OutboxStoreError, RedisStore, _redis_store
from resilience_whatsapp.records import MessageStatus
from tests._redis import HOST, RedisServer
from tests.whatsapp.outbox.stores import NOW, SECRET, a_row
from tests.whatsapp.outbox.test_stores import becomes

_names = (f"special-{number}" for number in itertools.count())
LEASE = 30.0


@pytest.fixture
def name() -> str:
    return next(_names)


class Reversed:
    """Stands for encryption."""

    def encode(self, content: bytes) -> bytes:
        return content[::-1]

    def decode(self, content: bytes) -> bytes:
        return content[::-1]


class Broken(Reversed):
    def decode(self, content: bytes) -> bytes:
        raise ValueError(content)


def test_no_key_has_a_number_and_with_a_codec_no_value_either(redis_server: RedisServer, name: str) -> None:
    async def story() -> None:
        store = RedisStore(redis_server.url, secret=SECRET, name=name, prefix="p:", codec=Reversed())
        row = await store.add(a_row(key="order of +33612345678", ordered=True))
        await store.add(a_row(ordered=True, state=MessageStatus.IN_FLIGHT, due=NOW + 9))
        assert await store.find("order of +33612345678") == row
        client = redis_server.client()
        keys = [key.decode() if isinstance(key, bytes) else key for key in client.keys(f"*{name}*")]
        assert keys
        for key in keys:
            assert key.startswith(f"p:rc:{{p:outbox:{name}}}:")
            content = repr((key, client.dump(key)))
            assert "612345678" not in content
            assert "order of" not in content
        await store.aclose()

    asyncio.run(story())


def test_what_cannot_be_decoded_stays_and_stops_nobody(
    redis_server: RedisServer, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    async def story() -> None:
        store = RedisStore(redis_server.url, secret=SECRET, name=name)
        first, second = await store.add(a_row(key="k")), await store.add(a_row())
        client = redis_server.client()
        client.hset(f"rc:{{outbox:{name}}}:rows", first.id, b"rubbish")
        assert [row.id for row in await store.take("100", NOW, LEASE, 5)] == [second.id]
        for read in (store.get(first.id), store.find("k"), store.add(a_row(key="k"))):
            with pytest.raises(OutboxStoreError, match="cannot be read"):
                await read
        blind = RedisStore(redis_server.url, secret=SECRET, name=name, codec=Broken())
        assert await blind.rows(MessageStatus.IN_FLIGHT) == []
        await blind.aclose()
        assert (await store.counts())[MessageStatus.IN_FLIGHT] == 2
        await store.aclose()

    asyncio.run(story())
    assert "cannot be read (JSONDecodeError)" in caplog.text
    assert "rubbish" not in caplog.text


def test_many_that_cannot_be_decoded_hold_up_no_other_that_is_overdue(redis_server: RedisServer, name: str) -> None:
    async def story() -> None:
        store = RedisStore(redis_server.url, secret=SECRET, name=name)
        blind = [await store.add(a_row(not_after=NOW - 2)) for _ in range(3)]
        row = await store.add(a_row(not_after=NOW - 1))
        client = redis_server.client()
        client.hset(f"rc:{{outbox:{name}}}:rows", mapping={each.id: b"rubbish" for each in blind})
        assert await store.overdue(NOW, LEASE, 3) == []
        assert [each.id for each in await store.overdue(NOW, LEASE, 3)] == [row.id]
        client.hset(f"rc:{{outbox:{name}}}:rows", blind[0].id, client.hget(f"rc:{{outbox:{name}}}:rows", row.id))
        assert len(await store.overdue(NOW + 61, LEASE, 3)) == 2
        await store.aclose()

    asyncio.run(story())


def test_a_redis_that_does_not_answer_holds_up_the_end_for_a_bounded_time(caplog: pytest.LogCaptureFixture) -> None:
    class Hanging(RedisStore):
        async def _change(self, *_: Any) -> None:
            await asyncio.sleep(5.0)
            raise OutboxStoreError("no answer")

    async def story() -> None:
        store = Hanging("redis://127.0.0.1:1", secret=SECRET)
        store.post(a_row(), lambda row: row)
        await store.flush()
        assert asyncio.get_running_loop().time() < 40

    run_virtual(story)
    assert "How a send ended could not be written" in caplog.text


def test_rows_whose_answer_was_lost_are_given_again(redis_server: RedisServer, name: str) -> None:
    async def story() -> None:
        store = RedisStore(redis_server.url, secret=SECRET, name=name)
        rows = [await store.add(a_row()) for _ in range(3)]
        run = store._run

        async def run_and_lose_the_answer(*arguments: Any) -> Any:
            await run(*arguments)
            raise OutboxStoreError("lost")

        store._run = run_and_lose_the_answer  # type: ignore[method-assign]
        with pytest.raises(OutboxStoreError):
            await store.take("100", NOW, LEASE, 2)
        del store._run
        found = await store.take("100", NOW, LEASE, 2)
        assert [row.id for row in found] == [row.id for row in rows[:2]]
        await store.change(found[0], becomes(MessageStatus.ACCEPTED))
        assert [row.id for row in await store.take("100", NOW, LEASE, 2)] == [rows[2].id]
        await store.aclose()

    asyncio.run(story())


def test_the_end_of_a_send_is_offered_until_redis_answers(redis_server: RedisServer, name: str) -> None:
    async def story() -> None:
        with FaultProxy((HOST, redis_server.port)) as proxy:
            store = RedisStore(f"redis://{HOST}:{proxy.port}/0", secret=SECRET, name=name)
            row = await store.add(a_row(state=MessageStatus.IN_FLIGHT, due=NOW + 9))
            proxy.reset(new=True)
            store.post(row, becomes(MessageStatus.ACCEPTED))
            store.post(row, lambda known: known)
            await asyncio.sleep(0.05)
            with pytest.raises(OutboxStoreError, match="cannot be used"):
                await store.counts()
            proxy.heal()
            found = await store.get(row.id)
            assert found is not None
            assert found.state is MessageStatus.ACCEPTED
            await store.aclose()

    asyncio.run(story())


def test_without_redis_for_too_long_it_is_given_up(
    redis_server: RedisServer, name: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(_redis_store, "POST_PATIENCE", 0.0)

    async def story() -> None:
        with FaultProxy((HOST, redis_server.port)) as proxy:
            store = RedisStore(f"redis://{HOST}:{proxy.port}/0", secret=SECRET, name=name)
            row = await store.add(a_row(state=MessageStatus.IN_FLIGHT, due=NOW + 9))
            proxy.reset(new=True)
            store.post(row, becomes(MessageStatus.ACCEPTED))
            await store.flush()
            await store.aclose()

    asyncio.run(story())
    assert "How a send ended could not be written" in caplog.text


def test_a_sender_that_ends_leaves_the_group_unless_it_has_something_in_flight(
    redis_server: RedisServer, name: str
) -> None:
    async def story() -> None:
        client = redis_server.client()
        stores = [RedisStore(redis_server.url, secret=SECRET, name=name) for _ in range(2)]
        stream = f"rc:{{outbox:{name}}}:ready:5:100"
        for store in stores:
            await store.add(a_row())
            assert len(await store.take("100", NOW, LEASE, 5)) == 1
        [row] = await stores[0].rows(MessageStatus.IN_FLIGHT, limit=1)
        await stores[0].change(row, becomes(MessageStatus.ACCEPTED))
        for store in stores:
            await store.aclose()
        assert len(client.xinfo_consumers(stream, "senders")) == 1
        heir = RedisStore(redis_server.url, secret=SECRET, name=name)
        await asyncio.sleep(0.01)
        assert len(await heir.overdue(NOW, 0.001, 5)) == 1
        await heir.aclose()
        await heir.aclose()

    asyncio.run(story())


def test_each_loop_has_a_connection_of_its_own(redis_server: RedisServer, name: str) -> None:
    store = RedisStore(redis_server.url, secret=SECRET, name=name)

    async def one() -> int:
        await store.add(a_row())
        found = (await store.counts())[MessageStatus.QUEUED]
        await store.aclose()
        return found

    assert [asyncio.run(one()), asyncio.run(one())] == [1, 2]


def test_garbage_in_the_streams_is_cleared_away(redis_server: RedisServer, name: str) -> None:
    async def story() -> None:
        client = redis_server.client()
        store = RedisStore(redis_server.url, secret=SECRET, name=name)
        row = await store.add(a_row())
        base = f"rc:{{outbox:{name}}}"
        client.xadd(f"{base}:ready:5:100", {"id": "nobody"})
        client.zadd(f"{base}:timed", {"nobody": 1})
        client.zadd(f"{base}:later:100", {"nobody": 1})
        assert await store.next_due("100") == 0.0
        assert [each.id for each in await store.take("100", NOW, LEASE, 5)] == [row.id]
        assert await store.overdue(NOW, 999.0, 5) == []
        assert client.xlen(f"{base}:ready:5:100") == 1
        assert client.zcard(f"{base}:timed") == 0
        client.hset(f"{base}:heads", row.id, client.hget(f"{base}:heads", row.id).replace('"fence":"1"', '"fence":"x"'))
        with pytest.raises(OutboxStoreError, match="its head"):
            await store.get(row.id)
        await store.aclose()

    asyncio.run(story())


def test_more_at_once_than_there_are_connections_wait_for_one(redis_server: RedisServer, name: str) -> None:
    async def story() -> None:
        store = RedisStore(redis_server.url, secret=SECRET, name=name)
        many = 150  # redis-py opens 100 connections, and then raises
        await asyncio.gather(*(store.add(a_row()) for _ in range(many)))
        assert (await store.counts())[MessageStatus.QUEUED] == many
        await store.aclose()

    asyncio.run(story())


def test_a_client_that_was_given_stays_open(redis_server: RedisServer, name: str) -> None:
    async def story() -> None:
        client = redis.asyncio.Redis.from_url(redis_server.url)
        store = RedisStore(client, secret=SECRET, name=name)
        await store.add(a_row())
        await store.aclose()
        assert await client.ping()
        await client.aclose()

    asyncio.run(story())


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"secret": "short"}, "secret"),
        ({"secret": 5}, "secret"),
        ({"name": "a b"}, "name"),
        ({"name": ""}, "name"),
        ({"prefix": "{"}, "prefix"),
    ],
)
def test_arguments_that_cannot_be_used_are_refused(options: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigurationError, match=words):
        RedisStore("redis://127.0.0.1:1", **{"secret": SECRET, **options})


def test_without_the_package_redis_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without(name: str, *args: Any, **kwargs: Any) -> Any:
        if name.startswith("redis"):
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ConfigurationError, match="pip install redis"):
        RedisStore("redis://127.0.0.1:1", secret=SECRET)

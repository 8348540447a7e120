"""The outbox in Redis: many sender processes on many machines; what a dead one had in flight is claimed by another.

`outbox.lua` has the rules; each method is one run of it, which is atomic. Redis must keep its word: see "Redis" in
`docs/whatsapp/outbox.md` for what that asks of its configuration.
"""

from __future__ import annotations

import asyncio
import logging
import re
import uuid
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

from resilience_core import ConfigurationError
from resilience_whatsapp._copies import replaced
from resilience_whatsapp.outbox._row import (
    UNREADABLE_FOR,
    Codec,
    OutboxRow,
    OutboxStoreError,
    UnreadableRowError,
    body_of,
    hidden,
    row_of,
)
from resilience_whatsapp.outbox._store import Change
from resilience_whatsapp.records import MessageStatus

ORDER = (
    MessageStatus.QUEUED,
    MessageStatus.IN_FLIGHT,
    MessageStatus.ACCEPTED,
    MessageStatus.SENT,
    MessageStatus.DELIVERED,
    MessageStatus.READ,
    MessageStatus.PLAYED,
    MessageStatus.REJECTED,
    MessageStatus.FAILED,
    MessageStatus.UNKNOWN,
    MessageStatus.DEAD,
)
"""The script's order of the states."""
CONNECTIONS = 20
"""Of each process and event loop; what does not find one waits for it, as long as for an answer."""
POST_PATIENCE = 20.0
"""Seconds for which the end of a send is offered to a Redis that does not answer; later it is `unknown`."""
_PARTS = ("rows", "heads", "keys", "pairs", "flying", "seq", "timed", "lanes", *(f"state:{state}" for state in ORDER))
_logger = logging.getLogger("resilience_whatsapp.outbox")


class RedisStore:
    """Rows in Redis (6.2 and newer, or Valkey), shared by any number of processes.

    No key has anything personal in it. The values must hold the messages, because they are sent from there: whoever
    can read this Redis can read them, unless a `codec` encrypts them.

    Args:
        source: a URL (`redis://`, `rediss://`, `unix://`), or a client of `redis.asyncio` that answers bytes.
        secret: 16 or more characters, the same in all processes: idempotency keys and recipients are found under
            names that are made with it.
        name: of the outbox, so that several can share a Redis.
        prefix: before each key, as for a `RedisFleet`.
        codec: encodes what is kept of each message, for example encrypts it.
        timeout: seconds for one answer.

    Raises:
        ConfigurationError: the `redis` package is missing, or an argument cannot be used.
    """

    def __init__(
        self,
        source: Any,
        *,
        secret: str,
        name: str = "outbox",
        prefix: str = "",
        codec: Codec | None = None,
        timeout: float = 5.0,
    ) -> None:
        texts: dict[str, Any] = {"secret": secret, "name": name, "prefix": prefix}
        if not isinstance(texts["secret"], str) or len(secret) < 16:
            raise ConfigurationError("RedisStore: secret must be a text of 16 or more characters, the same everywhere")
        for field, form in (("name", r"[A-Za-z0-9_.-]{1,64}"), ("prefix", r"[A-Za-z0-9_.:-]{0,64}")):
            if not isinstance(texts[field], str) or not re.fullmatch(form, texts[field]):
                raise ConfigurationError(f"RedisStore: {field} must consist of up to 64 of A-Z a-z 0-9 _ . -")
        try:
            import redis.asyncio
            from redis.exceptions import RedisError
        except ImportError:
            raise ConfigurationError("RedisStore needs the package redis: pip install redis") from None
        if isinstance(source, str):
            try:
                redis.asyncio.ConnectionPool.from_url(source)  # connects nowhere
            except ValueError:  # whose text may quote a password
                raise ConfigurationError("RedisStore: source is no URL that redis-py understands") from None
        self._module, self._error = redis.asyncio, RedisError
        self._source, self._timeout = source, timeout
        self._secret, self._codec = secret.encode(), codec
        self._base = f"{prefix}rc:{{{prefix}outbox:{name}}}"
        self._consumer = uuid.uuid4().hex
        self._clients: WeakKeyDictionary[asyncio.AbstractEventLoop, tuple[Any, Any]] = WeakKeyDictionary()
        self._unanswered: dict[str, str] = {}
        self._posts: dict[str, asyncio.Task[None]] = {}
        self._script_text = Path(__file__).with_name("outbox.lua").read_text(encoding="utf-8")

    async def add(self, row: OutboxRow) -> OutboxRow:
        """As `OutboxStore.add`."""
        name = "" if row.key is None else hidden(self._secret, "key", row.key)
        pair = hidden(self._secret, "pair", row.lane, row.recipient) if row.ordered else ""
        found = await self._run(
            row.lane,
            "add",
            *(row.id, name, pair, row.priority, row.state.value, _text(row.due), repr(row.not_after)),
            *(repr(row.changed_at), repr(row.created_at), row.lane, body_of(row, self._codec)),
        )
        return self._row(found)

    async def change(self, row: OutboxRow, rule: Change) -> OutboxRow | None:
        """As `OutboxStore.change`."""
        await self._posted(row.id)
        return await self._change(row, rule)

    async def _change(self, row: OutboxRow, rule: Change) -> OutboxRow | None:
        while True:
            new = rule(row)
            body = b"" if new is row else body_of(new, self._codec)
            found = await self._run(
                row.lane,
                "change",
                *(row.id, row.fence, new.state.value, _text(new.due), repr(new.not_after), repr(new.changed_at), body),
            )
            if found is None:
                return None
            if isinstance(found, bytes):
                return row if new is row else replaced(new, fence=row.fence + 1)
            row = self._row(found)

    def post(self, row: OutboxRow, rule: Change) -> None:
        """As `OutboxStore.post`; offered again for 20 s while Redis does not answer."""
        before = self._posts.get(row.id)
        task = asyncio.get_running_loop().create_task(self._post(row, rule, before), name="whatsapp-outbox-write")
        self._posts[row.id] = task
        task.add_done_callback(lambda done: self._posts.get(row.id) is done and self._posts.pop(row.id))

    async def _post(self, row: OutboxRow, rule: Change, before: asyncio.Task[None] | None) -> None:
        if before is not None:
            await before
        now = asyncio.get_running_loop().time
        pause, end = 0.05, now() + POST_PATIENCE  # with the time-outs: the end of a process waits for this
        while True:
            try:
                await self._change(row, rule)
                return
            except OutboxStoreError as error:
                if now() >= end:
                    _logger.warning("How a send ended could not be written: %s", error)
                    return
            await asyncio.sleep(pause)
            pause = min(1.0, pause * 2)

    async def _posted(self, row_id: str) -> None:
        task = self._posts.get(row_id)
        if task is not None and task.get_loop() is asyncio.get_running_loop():
            await asyncio.shield(task)

    async def take(self, lane: str, now: float, lease: float, limit: int) -> list[OutboxRow]:
        """As `OutboxStore.take`."""
        token = self._unanswered.pop(lane, None) or uuid.uuid4().hex
        try:
            found = await self._run(lane, "take", repr(now), repr(now + lease), limit, token)
        except BaseException:
            self._unanswered[lane] = token  # asked again with the same one, the script gives the same rows
            raise
        return self._readable(found)

    async def next_due(self, lane: str) -> float | None:
        """As `OutboxStore.next_due`."""
        found = await self._run(lane, "next_due")
        return None if found is None else float(found)

    async def overdue(self, now: float, lease: float, limit: int) -> list[OutboxRow]:
        """As `OutboxStore.overdue`. For how long something is in flight the server's clock tells."""
        timed = await self._run("", "timed", repr(now), limit)
        rows = self._readable(timed)
        if len(rows) < len(timed):
            read = {row.id for row in rows}
            blind = [each[0] for each in timed if each[0].decode() not in read]
            await self._run("", "postpone", repr(now + UNREADABLE_FOR), *blind)
        for lane in await self._run("", "lanes"):
            rows += self._readable(await self._run(lane.decode(), "claim", int(lease * 1000), limit))
        return rows

    async def get(self, row_id: str) -> OutboxRow | None:
        """As `OutboxStore.get`."""
        await self._posted(row_id)
        found = await self._run("", "get", row_id)
        return None if found is None else self._row(found)

    async def find(self, key: str) -> OutboxRow | None:
        """As `OutboxStore.find`."""
        found = await self._run("", "find", hidden(self._secret, "key", key))
        return None if found is None else await self.get(found[0].decode())

    async def rows(self, state: MessageStatus, *, limit: int = 100, changed_before: float = 1e18) -> list[OutboxRow]:
        """As `OutboxStore.rows`."""
        return self._readable(await self._run("", "rows", state.value, limit, repr(changed_before)))

    async def counts(self) -> dict[MessageStatus, int]:
        """As `OutboxStore.counts`."""
        return dict(zip(ORDER, await self._run("", "counts"), strict=True))

    async def purge(self, changed_before: float, dead_before: float, limit: int) -> int:
        """As `OutboxStore.purge`."""
        return int(await self._run("", "purge", repr(changed_before), repr(dead_before), limit))

    async def flush(self) -> None:
        """As `OutboxStore.flush`."""
        await asyncio.gather(*list(self._posts.values()))

    async def aclose(self) -> None:
        """As `OutboxStore.aclose`; a client that was given stays open."""
        await self.flush()
        found = self._clients.pop(asyncio.get_running_loop(), None)
        if found is None:
            return
        client, script = found
        try:
            for lane in await self._run_script(script, "", "lanes"):
                await self._run_script(script, lane.decode(), "quit")
        except OutboxStoreError:
            pass  # it is cleared away when somebody claims what it had
        if client is not self._source:
            await client.aclose()

    # --- helpers -----------------------------------------------------------------------------------------------------

    async def _run(self, lane: str, op: str, *arguments: Any) -> Any:
        return await self._run_script(self._script(), lane, op, *arguments)

    async def _run_script(self, script: Any, lane: str, op: str, *arguments: Any) -> Any:
        of_lane = ("later", "direct", *(f"ready:{priority}" for priority in range(10)), f"taken:{self._consumer}")
        keys = [*(f"{self._base}:{part}" for part in _PARTS), *(f"{self._base}:{part}:{lane}" for part in of_lane)]
        try:
            return await script(keys=keys, args=[op, self._consumer, *arguments])
        except (self._error, OSError, TimeoutError) as error:
            raise OutboxStoreError(f"the outbox in Redis cannot be used ({type(error).__name__})") from error

    def _script(self) -> Any:
        """Of a client of the running loop: a connection belongs to one."""
        loop = asyncio.get_running_loop()
        found = self._clients.get(loop)
        if found is None:
            client = self._source
            if isinstance(client, str):
                # The usual pool raises when all its connections are in use, and then a message would be refused.
                pool = self._module.BlockingConnectionPool.from_url(
                    client,
                    max_connections=CONNECTIONS,
                    timeout=self._timeout,
                    socket_timeout=self._timeout,
                    socket_connect_timeout=self._timeout,
                )
                client = self._module.Redis.from_pool(pool)
            found = self._clients[loop] = (client, client.register_script(self._script_text))
        return found[1]

    def _row(self, found: list[bytes]) -> OutboxRow:
        try:
            return self._decoded(found)
        except UnreadableRowError as error:
            raise OutboxStoreError(str(error)) from None

    def _decoded(self, found: list[bytes]) -> OutboxRow:
        _, body, state, due, fence = found
        try:
            when, number = float(due) if due else None, int(fence)
        except ValueError:
            raise UnreadableRowError("a row of the outbox cannot be read (its head)") from None
        return row_of(body, self._codec, state.decode(), when, number)

    def _readable(self, found: list[list[bytes]]) -> list[OutboxRow]:
        """Those that can be read. The others stay as they are, and are looked at again later."""
        rows: list[OutboxRow] = []
        for each in found:
            try:
                rows.append(self._decoded(each))
            except UnreadableRowError as error:
                _logger.warning("%s", error)
        return rows


def _text(due: float | None) -> str:
    return "" if due is None else repr(due)

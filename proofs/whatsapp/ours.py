"""What our sender has besides its processes: an outbox file, a receiver of webhooks, and a Redis."""

from __future__ import annotations

import asyncio
import subprocess
import time
from collections.abc import Awaitable, Callable, Mapping
from contextlib import ExitStack
from functools import partial
from typing import Any, TypeVar

from proofs.redis_server import Server
from proofs.whatsapp.senders.ours import store_of
from proofs.whatsapp.story import Side
from proofs.whatsapp.world import World, cpu_of, end, start
from resilience_whatsapp.outbox import OutboxStore
from resilience_whatsapp.records import MessageStatus

T = TypeVar("T")
PROGRAM = "proofs.whatsapp.receiver"
PATIENCE, SMALL_PATIENCE = 120.0, 60.0
"""Seconds of the API's time: a webhook may be 40 late, and what is not taken comes again after 5, 10, 20, ..."""
MANY = 10**6
FAR = 3600.0
"""Seconds: what a gate keeps back for longer is not waited for."""


DURABLE = ("--appendonly", "yes", "--appendfsync", "always", "--maxmemory-policy", "noeviction")
"""What an outbox asks of its Redis."""


def prepare(
    world: World, stack: ExitStack, task: Mapping[str, Any], store: str = "sqlite", small: bool = False
) -> Side:
    """Start what it needs; `store` is `sqlite` or `redis`."""
    patience = SMALL_PATIENCE if small else PATIENCE
    server = Server(*DURABLE)
    stack.callback(server.close)
    options = {"redis": server.url, "store": store, "rate": 64.0, "echo_within": patience, "lease": patience}
    receiver = _Receiver(world, {**task, "options": {**task["options"], **options}})
    stack.callback(receiver.close)

    def ask(question: Callable[[OutboxStore], Awaitable[T]]) -> T:
        return asyncio.run(_asked(store_of(store, world.directory, server.url, world.speed), question))

    return Side(
        options=options,
        steps={
            "kill_redis": server.kill,
            "start_redis": lambda: server.start(*DURABLE),
            "kill_receiver": receiver.kill,
        },
        settled=lambda: ask(partial(_settled, world.phone_number_id, world.now())),
        records=lambda: ask(_records),
        cpu=lambda: {"receiver": cpu_of(receiver.process)},
    )


async def _asked(store: OutboxStore, question: Callable[[OutboxStore], Awaitable[T]]) -> T:
    try:
        return await question(store)
    finally:
        await store.aclose()


class _Receiver:
    """The process that the platform tells."""

    def __init__(self, world: World, task: Mapping[str, Any]) -> None:
        self._task, self._errors = task, world.directory / "errors"
        self.process: subprocess.Popen[bytes] = start(PROGRAM, task, self._errors)
        port = world.directory / "receiver-port"
        deadline = time.monotonic() + 30.0
        while not port.exists():
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"the receiver did not start:\n{self._errors.read_text()[-3000:]}")
            time.sleep(0.02)
        world.steer("POST", "webhooks", {"url": f"http://127.0.0.1:{port.read_text()}/webhooks/"})

    def kill(self) -> None:
        """With -9; started again at once, as a supervisor would."""
        self.process.kill()
        self.process.wait()
        self.process = start(PROGRAM, self._task, self._errors)

    def close(self) -> None:
        """End it."""
        end(self.process)


async def _settled(lane: str, now: float, store: OutboxStore) -> bool:
    """Whether nothing is left that is sent, or of which something is still to be heard."""
    counts = await store.counts()
    if counts.get(MessageStatus.IN_FLIGHT):
        return False
    due = await store.next_due(lane)
    if counts.get(MessageStatus.QUEUED) and (due is None or due < now + FAR):
        return False
    return all(row.due is None for row in await store.rows(MessageStatus.UNKNOWN, limit=MANY))


async def _records(store: OutboxStore) -> tuple[dict[str, str], dict[str, Any]]:
    found = [row for state in MessageStatus for row in await store.rows(state, limit=MANY)]
    owners = {row.id: str(row.key) for row in found}
    return owners, {
        str(row.key): {
            "state": str(row.state),
            "possible_duplicate": row.possible_duplicate,
            "unknown": row.unknown,
            "wamid": row.wamid,
            "due": row.due,
            "reason": row.reason,
            "error": row.error,
        }
        for row in found
    }

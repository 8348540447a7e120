"""Real processes that are killed with `kill -9` in the middle of sends, against the simulator in another process."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from resilience_whatsapp.outbox import Outbox, OutboxStore, RedisStore, SQLiteStore
from resilience_whatsapp.records import MessageStatus
from resilience_whatsapp.simulator import Fault, SimulatorThread
from tests._cost import size, unmeasured
from tests._redis import RedisServer
from tests.whatsapp.outbox.stores import SECRET

COUNT = size(2000, 48)
KILLS = size(20, 1)  # one takes two processes of a second each
PATIENCE = 50.0
PROGRAM = Path(__file__).with_name("_sender.py")


def start(where: str, simulator: SimulatorThread) -> subprocess.Popen[str]:
    api = simulator.simulator
    command = [sys.executable, str(PROGRAM), where, simulator.base_url, api.token, api.phone_number_id, str(COUNT)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=unmeasured())


@pytest.mark.parametrize("kind", ["sqlite", "redis"])
def test_killed_senders_lose_nothing_and_send_nothing_twice(kind: str, tmp_path: Path, request: Any) -> None:
    if kind == "redis":
        server: RedisServer = request.getfixturevalue("redis_server")
        where = server.url
    else:
        where = str(tmp_path / "outbox.db")
    with SimulatorThread() as simulator:
        # Some answers come late, so that many requests are under way when the sender dies.
        simulator.script(*(Fault("delay", times=3, seconds=0.15) for _ in range(COUNT)))
        lost = 0
        for kill in range(1, KILLS + 1):
            sender = start(where, simulator)
            wait_for(lambda kill=kill: len(simulator.book.entries) >= COUNT * kill // (KILLS + 1), sender)
            sender.kill()
            lost += sender.communicate()[0].count("lost")
        simulator.clear_faults()
        last = start(where, simulator)
        told = last.communicate(timeout=PATIENCE)[0]
        assert told.endswith("done\n")
        assert last.returncode == 0
        lost += told.count("lost")
        rows = asyncio.run(settled(kind, where, simulator))
        booked: dict[str, int] = {}
        for entry in simulator.book.entries:
            booked[entry.recipient] = booked.get(entry.recipient, 0) + 1
    assert len(rows) == COUNT, "no message is without a row"
    cut_short = 0
    for row in rows:
        times = booked.get(row.recipient, 0)
        if row.delivery == "at_most_once":
            assert times <= 1, "sent twice"
            assert (row.state == "sent") == (times == 1), "what was accepted is told by the webhook, and nothing else"
            assert row.state in ("sent", "unknown")
            cut_short += row.reason == "no echo"
        else:
            assert times >= 1, "lost"
            assert times == 1 or row.possible_duplicate
    assert cut_short <= KILLS * 12 + lost


def wait_for(met: Any, sender: subprocess.Popen[str]) -> None:
    end = time.monotonic() + PATIENCE
    while not met():
        assert sender.poll() is None, "it ended by itself"
        assert time.monotonic() < end
        time.sleep(0.002)


async def settled(kind: str, where: str, simulator: SimulatorThread) -> list[Any]:
    """All rows, after the webhooks of everything that was accepted have come."""
    store: OutboxStore = RedisStore(where, secret=SECRET, name="killed") if kind == "redis" else SQLiteStore(where)
    outbox = Outbox(store)
    for entry in simulator.book.entries:
        assert entry.opaque is not None
        assert await outbox.settle(entry.opaque, entry.wamid, "sent", time.time()) is not None
    rows = [row for state in MessageStatus for row in await outbox.rows(state, limit=10_000)]
    await outbox.aclose()
    return rows

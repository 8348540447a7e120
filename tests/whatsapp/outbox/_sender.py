"""A process that sends numbered messages, and may be killed: `_sender.py <store> <url> <token> <number> <count>`.

Message n has the key `n`, goes to a recipient of its own, and is at_least_once if n is odd. Prints `lost` for each
whose answer did not come in time, as on a machine that has no time for us, and `done` when all were sent or given up.
"""

from __future__ import annotations

import asyncio
import sys

from resilience_core import CircuitBreaker, Retry
from resilience_whatsapp import (
    AmbiguousOutcomeError,
    GraphClient,
    MessageStatus,
    ResilientWhatsAppClient,
    WhatsAppService,
)
from resilience_whatsapp.messages import Text
from resilience_whatsapp.outbox import Outbox, OutboxStore, RedisStore, SQLiteStore

STORE, URL, TOKEN, NUMBER, COUNT = sys.argv[1:6]
AT_ONCE = 12


async def main() -> None:
    store: OutboxStore
    if STORE.startswith("redis://"):
        store = RedisStore(STORE, secret="a secret of the tests", name="killed")
    else:
        store = SQLiteStore(STORE, synchronous="normal")  # what kill -9 asks for; a power cut is not tested
    outbox = Outbox(store, when_down="queue", lease=1.5, send_timeout=1.0, echo_within=0.5, poll=0.05, first_rate=500.0)
    http = GraphClient(token=TOKEN, phone_number_id=NUMBER, base_url=URL)
    breaker = CircuitBreaker("whatsapp_api", failure_threshold=1000)
    service = WhatsAppService(ResilientWhatsAppClient(http, breaker, Retry(max_attempts=1)), outbox=outbox)
    todo = iter(range(int(COUNT)))

    async def work() -> None:
        for number in todo:
            try:
                await service.send(
                    7,
                    f"+3361{number:07}",
                    Text(f"message {number}"),
                    idempotency_key=f"{number}",
                    delivery="at_least_once" if number % 2 else "at_most_once",
                )
            except (AmbiguousOutcomeError, OSError):  # of these also TimeoutError is one
                print("lost", flush=True)

    async with http, outbox.running():
        await asyncio.gather(*(work() for _ in range(AT_ONCE)))
        while True:
            counts = await outbox.counts()
            unsettled = [row for row in await outbox.rows("unknown", limit=1000) if row.due is not None]
            if not counts[MessageStatus.IN_FLIGHT] and not counts[MessageStatus.QUEUED] and not unsettled:
                break
            await asyncio.sleep(0.05)
    await outbox.aclose()
    print("done", flush=True)


asyncio.run(main())

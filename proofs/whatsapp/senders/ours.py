"""The service with an outbox and gates, as its documentation shows it. After a crash it knows what it was told."""

from __future__ import annotations

import asyncio
import json
import signal
import sys
import time
from pathlib import Path

import aiohttp

from proofs.whatsapp.load import LANGUAGE, Job, components
from proofs.whatsapp.receiver import APP_SECRET, VERIFY_TOKEN
from proofs.whatsapp.senders.common import Task, send_all
from resilience_core import CallRejected, CircuitBreaker, CircuitTransition, Event
from resilience_core.redis import RedisFleet
from resilience_whatsapp import Gates, GraphClient, ResilientWhatsAppClient, WhatsAppError, WhatsAppService
from resilience_whatsapp.gates import RECIPIENT_WAITS
from resilience_whatsapp.outbox import Outbox, OutboxRow, OutboxStore, OutboxStoreError, RedisStore, SQLiteStore
from resilience_whatsapp.settings import DEFAULT
from resilience_whatsapp.webhooks import SQLiteInbox, WebhookReceiver

FLEET_SECRET = "the secret of the fleet of the proof"
REDIS_TIMEOUT, CONNECT_TIMEOUT = 0.25, 1.5
"""Real seconds."""
LISTED_EVERY = 30.0
"""Seconds between two listings of templates, which have limits of their own."""


class _Scaled(RedisStore):
    """For how long something is in flight the server's clock tells, which is the real one."""

    def __init__(self, url: str, speed: float) -> None:
        super().__init__(url, secret=FLEET_SECRET)
        self._speed = speed

    async def overdue(self, now: float, lease: float, limit: int) -> list[OutboxRow]:
        return await super().overdue(now, lease / self._speed, limit)


RECIPIENT_WAITS_HERE = {**RECIPIENT_WAITS, 131026: 20.0, 131049: 20.0}
"""Seconds. Any message may fail by webhook with these, 1.5 % do: kept back for a day by all senders, most of those who
get many would get none of the others, and what is never sent proves nothing."""


def store_of(kind: str, directory: Path, redis: str, speed: float) -> OutboxStore:
    """The file or the Redis in which all senders keep their messages."""
    return SQLiteStore(directory / "outbox.db") if kind == "sqlite" else _Scaled(redis, speed)


def _told(breaker: CircuitBreaker) -> str:
    failure = breaker.last_failure
    return "" if failure is None else failure.error_type


def client_of(task: Task) -> tuple[GraphClient, ResilientWhatsAppClient, RedisFleet]:
    """The client of one process, its gates and its breaker shared with the others."""
    # Redis is as far away as ever: its time-out is in real seconds.
    fleet = RedisFleet(str(task.options["redis"]), secret=FLEET_SECRET, timeout=REDIS_TIMEOUT * task.speed)
    http = GraphClient(
        token=task.token,
        phone_number_id=task.phone_number_id,
        waba_id=task.waba_id,
        base_url=task.base_url,
        # The network takes real time: a busy machine must not look like an API that is down.
        connect_timeout=max(5.0, CONNECT_TIMEOUT * task.speed),
        read_timeout=max(30.0, 2 * CONNECT_TIMEOUT * task.speed),
    )
    breaker = DEFAULT.circuit_breaker(fleet=fleet)
    gates = Gates(fleet=fleet, recipient_waits=RECIPIENT_WAITS_HERE)
    client = ResilientWhatsAppClient(http, breaker, DEFAULT.retry_policy(), breakers="kind", gates=gates)
    return http, client, fleet


async def main(task: Task) -> None:
    """Send its part, and what is queued, until it is told to end."""
    http, client, fleet = client_of(task)
    # The receiver is another process; its inbox tells when it was up.
    ears = WebhookReceiver(
        SQLiteInbox(task.directory / "webhooks.db"), {}, app_secrets=APP_SECRET, verify_token=VERIFY_TOKEN
    )
    outbox = Outbox(
        store_of(task.options["store"], task.directory, task.options["redis"], task.speed),
        when_down="queue",
        rate=float(task.options["rate"]),
        echo_within=float(task.options["echo_within"]),
        lease=float(task.options["lease"]),
        send_timeout=float(task.options["lease"]) / 2,
        gate=client.gates,
        downtime=lambda: ears.downtime("outbox"),
    )
    service = WhatsAppService(client, outbox=outbox, fleet=fleet)
    opened = task.directory / f"opened-{task.share}"

    def note(event: Event) -> None:
        if isinstance(event, CircuitTransition) and event.state == "open":
            row = {"at": time.time(), "from": event.previous_state, "why": event.reason}
            with opened.open("a") as file:
                file.write(json.dumps({**row, "last": _told(client.circuit_breaker)}) + "\n")

    client.circuit_breaker.subscribe(note)
    fleet.subscribe(lambda event: print(f"{time.time():.1f} {event}", file=sys.stderr))

    async def listing() -> None:
        while True:
            try:
                await service.get_approved_templates()
            except (WhatsAppError, CallRejected, aiohttp.ClientError, TimeoutError):
                pass  # it has limits and troubles of its own: messages must not care
            service.forget_templates()
            await asyncio.sleep(LISTED_EVERY)

    async def hearing() -> None:
        while True:
            await ears.up_intervals()
            await asyncio.sleep(5.0)

    async def send(job: Job) -> str:
        while True:
            try:
                return await handed_over(job)
            except OutboxStoreError:
                await asyncio.sleep(1.0)  # it was not kept, and not sent: the caller's own loop goes on

    async def handed_over(job: Job) -> str:
        try:
            record = await service.send_template_message(
                f"user-{task.share}",
                job.to,
                job.template,
                LANGUAGE,
                components=components(job),
                delivery=job.delivery,
                idempotency_key=job.id,
            )
        except OutboxStoreError:
            raise
        except (WhatsAppError, CallRejected, aiohttp.ClientError, TimeoutError) as error:
            return f"raised {type(error).__name__}"
        return record.status

    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    async with http, outbox.running():
        others = [asyncio.create_task(work()) for work in (listing, hearing)]
        await send_all(task, send, at_once=64)
        (task.directory / f"done-{task.share}").touch()
        await stop.wait()
        for other in others:
            other.cancel()
    await outbox.aclose()
    fleet.close()

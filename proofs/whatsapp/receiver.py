"""The program that the platform tells what became of messages: it settles what the senders do not know."""

from __future__ import annotations

import asyncio
import signal

from aiohttp import web

from proofs.whatsapp.senders.common import Task
from resilience_whatsapp.outbox import Outbox
from resilience_whatsapp.webhooks import SQLiteInbox, WebhookReceiver, aiohttp_application, gating, settling

APP_SECRET = "simulator-app-secret"
VERIFY_TOKEN = "proof"


async def main(task: Task) -> None:
    """Listen until it is told to end; its port stands in a file."""
    from proofs.whatsapp.senders.ours import client_of, store_of  # which imports this module

    http, client, fleet = client_of(task)
    outbox = Outbox(store_of(task.options["store"], task.directory, task.options["redis"], task.speed))
    listeners = {"outbox": settling(outbox)}
    if client.gates is not None:
        listeners["gates"] = gating(client.gates)
    receiver = WebhookReceiver(
        SQLiteInbox(task.directory / "webhooks.db"),
        listeners,
        app_secrets=APP_SECRET,
        verify_token=VERIFY_TOKEN,
    )
    app = web.Application()
    app.add_subapp("/webhooks", aiohttp_application(receiver))
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    file = task.directory / "receiver-port"
    port = int(file.read_text()) if file.exists() else 0  # after a crash the same one
    await web.TCPSite(runner, "127.0.0.1", port).start()
    file.with_suffix(".new").write_text(str(runner.addresses[0][1]))
    file.with_suffix(".new").rename(file)
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    async with http:
        await stop.wait()
        await runner.cleanup()
    await outbox.aclose()
    fleet.close()

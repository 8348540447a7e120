"""The whole way: sends whose answers are lost, and the simulator's signed webhooks, which settle them."""

from __future__ import annotations

import asyncio
from pathlib import Path

from aiohttp import web

from resilience_core import CircuitBreaker, Retry
from resilience_whatsapp import AmbiguousOutcomeError, GraphClient, ResilientWhatsAppClient, WhatsAppService
from resilience_whatsapp.outbox import Outbox, SQLiteStore
from resilience_whatsapp.simulator import Fault, Receiver, Simulator, Statuses
from resilience_whatsapp.webhooks import SqliteInbox, WebhookReceiver, aiohttp_handler, settling
from tests.whatsapp.outbox.test_sending import QUICK, until

MESSAGES = 30


def test_every_send_whose_answer_was_lost_is_settled_by_its_webhook_and_none_is_sent_twice(tmp_path: Path) -> None:
    async def story() -> None:
        outbox = Outbox(SQLiteStore(tmp_path / "a.db", synchronous="normal"), **QUICK)
        async with Simulator(speed=600, statuses=Statuses(reads=1.0, delivers=1.0), seed=3) as api:
            receiver = WebhookReceiver(
                SqliteInbox(tmp_path / "a.db"),  # one file for both
                {"outbox": settling(outbox)},
                app_secrets=api.webhooks.app_secret,
                verify_token="verify",
            )
            outbox._drainer._downtime = lambda: receiver.downtime("outbox")
            await receiver.start()
            app = web.Application()
            app.router.add_route("*", "/", aiohttp_handler(receiver))
            runner = web.AppRunner(app, access_log=None)
            await runner.setup()
            await web.TCPSite(runner, "127.0.0.1", 0).start()
            await api.subscribe(Receiver(f"http://127.0.0.1:{runner.addresses[0][1]}/", verify_token="verify"))
            for _ in range(4):
                api.script(Fault("reset_after_accept"), Fault("html", accepted=True), Fault("malformed"))
                api.script(Fault("webhook_early"), Fault("webhook_reorder"))
            breaker = CircuitBreaker("whatsapp_api", failure_threshold=100)
            lost = 0
            async with GraphClient(**api.client_options) as http, outbox.running():
                client = ResilientWhatsAppClient(http, breaker, Retry(max_attempts=1))
                service = WhatsAppService(client, delivery="at_most_once", outbox=outbox)
                for number in range(MESSAGES):
                    try:
                        await service.send_text(
                            7, f"+3361234{number:04}", "hi", idempotency_key=f"{number}", opaque_data="the user's own"
                        )
                    except AmbiguousOutcomeError:
                        lost += 1
                    except OSError:  # the connection was reset
                        lost += 1

                async def all_read() -> bool:
                    return (await outbox.counts()).get("read") == MESSAGES  # type: ignore[call-overload]

                await until(all_read)
            assert lost >= 8
            assert len(api.book.entries) == MESSAGES
            assert api.book.duplicates() == {}
            await receiver.aclose()
            await runner.cleanup()
        await outbox.aclose()

    asyncio.run(story())

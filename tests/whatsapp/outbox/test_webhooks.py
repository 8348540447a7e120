"""The whole way: sends whose answers are lost, and the simulator's signed webhooks, which settle them."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

from aiohttp import web

from resilience_core import CircuitBreaker, Clock, Retry
from resilience_whatsapp import AmbiguousOutcomeError, GraphClient, ResilientWhatsAppClient, WhatsAppService
from resilience_whatsapp.outbox import Outbox, SQLiteStore
from resilience_whatsapp.simulator import Fault, Receiver, Simulator, Statuses
from resilience_whatsapp.webhooks import SQLiteInbox, WebhookReceiver, aiohttp_handler, settling
from tests.whatsapp.outbox.test_sending import QUICK, until

MESSAGES = 30


def test_every_send_whose_answer_was_lost_is_settled_by_its_webhook_and_none_is_sent_twice(tmp_path: Path) -> None:
    async def story() -> None:
        outbox = Outbox(SQLiteStore(tmp_path / "a.db", synchronous="normal"), **QUICK)
        async with Simulator(speed=600, statuses=Statuses(reads=1.0, delivers=1.0), seed=3) as api:
            receiver = WebhookReceiver(
                SQLiteInbox(tmp_path / "a.db"),  # one file for both
                {"outbox": settling(outbox)},
                app_secrets=api.webhooks.app_secret,
                verify_token="verify",
            )
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


def test_while_the_receiver_is_down_no_unknown_message_is_given_up_and_the_late_webhook_settles_it(
    tmp_path: Path,
) -> None:
    """Answers are lost, the address is gone for longer than an echo is awaited, and the webhooks come after that."""

    async def story() -> None:
        ahead = 0.0  # seconds that the machines' clocks are set forward
        clock = Clock(wall=lambda: time.time() + ahead)
        receiver: WebhookReceiver | None = None
        outbox = Outbox(
            SQLiteStore(tmp_path / "a.db", synchronous="normal"),
            downtime=lambda: receiver.downtime("outbox") if receiver is not None else [(0.0, None)],
            echo_within=20.0,
            clock=clock,
            when_down="queue",
            **QUICK,
        )

        def receives(secret: str) -> WebhookReceiver:
            return WebhookReceiver(
                SQLiteInbox(tmp_path / "inbox.db"),
                {"outbox": settling(outbox)},
                app_secrets=secret,
                verify_token="verify",
                clock=clock,
            )

        async def handle(request: web.Request) -> web.Response:
            return web.Response(status=502) if receiver is None else await aiohttp_handler(receiver)(request)

        app = web.Application()
        app.router.add_route("*", "/", handle)
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        async with Simulator(speed=100, statuses=Statuses(reads=1.0, delivers=1.0), seed=3) as api:
            secret = api.webhooks.app_secret
            receiver = receives(secret)
            await receiver.start()
            await api.subscribe(Receiver(f"http://127.0.0.1:{runner.addresses[0][1]}/", verify_token="verify"))
            await receiver.aclose()
            receiver = None
            api.script(Fault("reset_after_accept", times=3))
            breaker = CircuitBreaker("whatsapp_api", failure_threshold=100)
            async with GraphClient(**api.client_options) as http, outbox.running():
                client = ResilientWhatsAppClient(http, breaker, Retry(max_attempts=1))
                service = WhatsAppService(client, delivery="at_least_once", outbox=outbox)
                ids = [(await service.send_text(7, f"+3361234{number:04}", "hi")).id for number in range(3)]

                async def states() -> set[str]:
                    rows = [await outbox.get(row_id) for row_id in ids]
                    return {row.state for row in rows if row is not None}

                assert await states() == {"unknown"}
                ahead = 3600.0  # an hour without a receiver: at_least_once would have sent them again

                async def looked_at() -> bool:
                    rows = [await outbox.get(row_id) for row_id in ids]
                    return all(row is not None and row.due is not None and row.due > clock.wall() for row in rows)

                await until(looked_at)
                assert await states() == {"unknown"}
                receiver = receives(secret)
                await receiver.start()

                async def read() -> bool:
                    return await states() == {"read"}

                await until(read)
                assert len(api.book.entries) == 3
                assert api.book.duplicates() == {}

                # And with ears open for as long as an echo is awaited, silence is an answer.
                api.script(Fault("webhook_lost", times=None), Fault("reset_after_accept"))
                row_id = (await service.send_text(7, "+33699999999", "hi")).id
                assert receiver is not None
                ahead += 21.0

                async def sent_again() -> bool:
                    row = await outbox.get(row_id)
                    return row is not None and row.possible_duplicate

                await until(sent_again)
                assert len(api.book.entries) == 5
            await receiver.aclose()
        await runner.cleanup()
        await outbox.aclose()

    asyncio.run(story())

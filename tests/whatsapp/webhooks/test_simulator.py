"""Against the simulator, which sends signed webhooks early, late, twice, mixed up, and to a receiver that is down."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from aiohttp import web

from resilience_whatsapp import GraphClient, ResilientWhatsAppClient, WhatsAppService
from resilience_whatsapp.history import History
from resilience_whatsapp.simulator import Fault, Receiver, Simulator, Statuses
from resilience_whatsapp.webhooks import (
    InboundMessage,
    SQLiteInbox,
    StatusUpdate,
    WebhookReceiver,
    aiohttp_handler,
    on,
)
from tests._cost import size

TOKEN = "verify"
FAULTS = ("early", "late", "duplicate", "reorder", "rebatch", "signature", "dead")
MESSAGES = size(400, 60)


class Site:
    """An address that stays, and a receiver behind it that comes and goes."""

    def __init__(self, directory: Path, secret: str, history: History) -> None:
        self.directory = directory
        self.secret = secret
        self.history = history
        self.seen: Counter[tuple[str, str]] = Counter()
        self.messages: list[InboundMessage] = []
        self.receiver: WebhookReceiver | None = None
        self.url = ""

    async def open(self) -> None:
        """Begin to listen, behind what was kept before."""
        self.receiver = WebhookReceiver(
            SQLiteInbox(self.directory / "webhooks.db"),
            {
                "history": self.history.on_update,
                "count": on(StatusUpdate, lambda update: self.seen.update([(update.wamid, update.status)])),
                "inbound": on(InboundMessage, self.messages.append),
            },
            app_secrets=self.secret,
            verify_token=TOKEN,
        )
        await self.receiver.start()

    async def close(self) -> None:
        """Nobody listens: the address answers 502."""
        receiver, self.receiver = self.receiver, None
        assert receiver is not None
        await receiver.aclose()

    async def handle(self, request: web.Request) -> web.Response:
        if self.receiver is None:
            return web.Response(status=502)
        return await aiohttp_handler(self.receiver)(request)


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(40):
        while not condition():
            await asyncio.sleep(0.01)


def test_each_status_is_handled_once_and_each_message_ends_as_it_did_whatever_the_webhooks_do(tmp_path: Path) -> None:
    async def main() -> None:
        history = History(tmp_path / "history.db")
        statuses = Statuses(reads=0.5, delivers=0.9)
        async with Simulator(speed=600, statuses=statuses, webhook_batch=5, seed=7) as api:
            site = Site(tmp_path, api.webhooks.app_secret, history)
            await site.open()
            app = web.Application()
            app.router.add_route("*", "/", site.handle)
            runner = web.AppRunner(app, access_log=None)
            await runner.setup()
            await web.TCPSite(runner, "127.0.0.1", 0).start()
            await api.subscribe(Receiver(f"http://127.0.0.1:{runner.addresses[0][1]}/", verify_token=TOKEN))
            api.script(*(Fault(f"webhook_{kind}", times=5) for kind in FAULTS))  # type: ignore[arg-type]
            api.script(Fault("fail_later", code=131026, times=5))
            async with GraphClient(**api.client_options) as http:
                service = WhatsAppService(ResilientWhatsAppClient(http), history=history)
                for number in range(MESSAGES):
                    if number == MESSAGES // 3:
                        await site.close()
                    if number == MESSAGES // 2:
                        await site.open()
                    await service.send_text("ann", f"+336123456{number % 90 + 10}", "Hi", opaque_data=f"order {number}")
            wamid = api.inbound("33612345678", "né @ / 👍")
            expected = {(entry.wamid, status) for entry in api.book.entries for status in expected_of(entry)}
            await until(lambda: expected <= set(site.seen) and bool(site.messages))
            assert set(site.seen) == expected
            assert set(site.seen.values()) == {1}
            assert [(each.wamid, each.content["text"]["body"]) for each in site.messages] == [(wamid, "né @ / 👍")]
            for entry in api.book.entries:
                story = await history.get_by_wamid(entry.wamid)
                assert story is not None
                assert (story.id, story.status) == ((entry.opaque or "").split(":")[0], entry.end)
            assert (await history.count()).keys() >= {"sent", "delivered", "read", "failed"}
            await site.close()
            await runner.cleanup()
        await history.aclose()

    asyncio.run(main())


def expected_of(entry: Any) -> list[str]:
    """All that is told of a message that ends so."""
    order = ["sent", "delivered", "read", "played"]
    return ["failed"] if entry.failed is not None else order[: order.index(entry.end) + 1]

"""Statuses reach the outbox by the echo of its id, and news of templates the list of templates."""

from __future__ import annotations

import asyncio
import inspect
import time
from typing import Any

from resilience_whatsapp.errors import graph_error
from resilience_whatsapp.webhooks import StatusUpdate, TemplateUpdate, WebhookUpdate, forgetting_templates, settling
from tests.whatsapp.fakes import FakeClock, Stub, service_over

ID = "0123456789abcdef" * 2


class Outbox:
    def __init__(self) -> None:
        self.told: list[Any] = []

    async def settle(self, row_id: str, wamid: str, status: str, at: float, *, error: str | None = None) -> None:
        self.told.append((row_id, wamid, status, at, error))


def tell(listener: Any, *updates: WebhookUpdate) -> None:
    async def main() -> None:
        for update in updates:
            answer = listener(update)
            if inspect.isawaitable(answer):
                await answer

    asyncio.run(main())


def test_an_outbox_is_told_of_its_own_messages_only() -> None:
    outbox, before = Outbox(), time.time()
    common: Any = {"topic": "messages", "wamid": "w"}
    payment = graph_error(131042, None, False, None)
    tell(
        settling(outbox),
        StatusUpdate(**common, status="failed", record_id=ID, at=5.0, errors=(payment,)),
        StatusUpdate(**common, status="sent", opaque_data="somebody else's"),
        TemplateUpdate(topic="x", name=None, language=None, event=None),
        StatusUpdate(**common, status="sent", record_id=ID),
    )
    first, second = outbox.told
    assert first == (ID, "w", "failed", 5.0, "GraphSenderError(131042)")
    assert (second[:3], second[4]) == ((ID, "w", "sent"), None)
    assert second[3] >= before


def test_news_of_a_template_let_the_list_be_asked_for_anew() -> None:
    stub = Stub(None)
    service = service_over(stub, FakeClock())

    async def ask() -> str:
        return (await service.get_approved_templates()).source

    update = TemplateUpdate(topic="message_template_status_update", name="t", language="fr", event="PAUSED")
    assert asyncio.run(ask()) == "api"
    tell(forgetting_templates(service), StatusUpdate(topic="messages", wamid="w", status="sent"))
    assert asyncio.run(ask()) == "cache"
    tell(forgetting_templates(service), update)
    assert asyncio.run(ask()) == "api"

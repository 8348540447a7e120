"""Statuses reach the outbox by the echo of its id, news of templates the list of templates, and the gates all of it."""

from __future__ import annotations

import asyncio
import inspect
import time
from typing import Any

import pytest
from attrs import evolve

from resilience_whatsapp import GraphTemplateError
from resilience_whatsapp.errors import graph_error
from resilience_whatsapp.history import History
from resilience_whatsapp.webhooks import (
    AccountError,
    AccountUpdate,
    InboundMessage,
    PreferenceUpdate,
    QualityUpdate,
    StatusUpdate,
    TemplateUpdate,
    UnknownUpdate,
    WebhookUpdate,
    forgetting_templates,
    gating,
    settling,
)
from tests.whatsapp.fakes import OK, RECIPIENT, FakeClock, Stub, service_over

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


def test_a_template_that_a_webhook_calls_paused_is_set_aside_until_one_calls_it_approved() -> None:
    stub = Stub(OK)
    service = service_over(stub, FakeClock())
    update = TemplateUpdate(topic="message_template_status_update", name="t", language="fr", event="PAUSED")
    other = TemplateUpdate(topic="message_template_quality_update", name="other", language="fr", event="GREEN")
    for news in (update, other):  # news of another one changes nothing
        tell(forgetting_templates(service), news)
    with pytest.raises(GraphTemplateError) as caught:
        asyncio.run(service.send_template_message("u", RECIPIENT, "t", "fr"))
    assert (caught.value.code, caught.value.local, stub.payloads) == (132015, True, [])
    tell(forgetting_templates(service), evolve(update, event="APPROVED"))
    assert asyncio.run(service.send_template_message("u", RECIPIENT, "t", "fr")).status == "accepted"


# --- gates ----------------------------------------------------------------------------------------------------------


class Gates:
    """Notes its calls."""

    def __init__(self) -> None:
        self.calls: list[Any] = []

    def __getattr__(self, name: str) -> Any:
        return lambda *args, **named: self.calls.append((name.removeprefix("observe_"), *args, named))


OURS: Any = {"waba_id": "waba", "phone_number_id": "7"}


def test_errors_of_messages_and_of_the_account_reach_the_gates() -> None:
    gates = Gates()
    errors = (graph_error(131042, None, False, None), graph_error(None, None, False, None))
    failed = StatusUpdate(topic="messages", wamid="w", status="failed", recipient="336", errors=errors, **OURS)
    account = AccountError(topic="messages", errors=(graph_error(130429, None, False, None),), **OURS)
    tell(gating(gates), failed, account, UnknownUpdate(topic="x", why="y"))
    assert gates.calls == [
        ("webhook_error", 131042, {**OURS, "recipient": "336", "template": None}),
        ("webhook_error", 130429, {**OURS, "recipient": None, "template": None}),
    ]


def test_the_template_of_an_error_about_it_comes_from_the_history() -> None:
    gates = Gates()
    service = service_over(Stub(None), FakeClock(), history=(history := History()))

    async def main() -> None:
        sent = await service.send_template_message("ann", "+33612345678", "welcome", "fr")
        text = await service.send_text("ann", "+33612345678", "Hi")
        listener = gating(gates, template_of=history.template_of)
        errors = (graph_error(132015, None, False, None),)
        for ids in (
            {"record_id": sent.id, "wamid": "new"},
            {"record_id": ID, "wamid": sent.wamid},
            {"wamid": text.wamid},
            {"wamid": "unknown"},
        ):
            answer = listener(StatusUpdate(topic="messages", status="failed", errors=errors, **ids))  # type: ignore[arg-type]
            assert answer is not None
            await answer

    asyncio.run(main())
    history.close()
    assert [call[2]["template"] for call in gates.calls] == [("welcome", "fr"), ("welcome", "fr"), None, None]


@pytest.mark.parametrize(
    ("code", "asked"), [(131049, True), (131050, True), (130472, True), (132069, True), (131026, False)]
)
def test_the_template_of_a_marketing_limit_is_asked_for_as_it_tells_which_ones_are_marketing(
    code: int, asked: bool
) -> None:
    gates: Any = Gates()

    async def template_of(_: StatusUpdate) -> tuple[str, str]:
        return "offer", "fr"

    errors = (graph_error(code, None, False, None),)
    tell(
        gating(gates, template_of=template_of),
        StatusUpdate(topic="messages", wamid="w", status="failed", errors=errors, recipient="336"),
    )
    assert [call[2]["template"] for call in gates.calls] == [("offer", "fr") if asked else None]


def test_a_user_with_a_number_and_an_id_is_known_by_both() -> None:
    gates: Any = Gates()
    both: Any = {"recipient": "336", "recipient_user_id": "US.1"}
    errors = (graph_error(131026, None, False, None), graph_error(130429, None, False, None))
    tell(
        gating(gates),
        StatusUpdate(topic="messages", wamid="w", status="failed", errors=errors, **both),
        InboundMessage(topic="messages", wamid="m", kind="text", sender="336", sender_user_id="US.1"),
        PreferenceUpdate(
            topic="user_preferences", user="336", user_id="US.1", category="marketing_messages", value="stop"
        ),
    )
    assert [(call[1], call[2]["recipient"]) for call in gates.calls if call[0] == "webhook_error"] == [
        (131026, "336"),
        (130429, "336"),
        (131026, "US.1"),
    ]
    assert gates.calls[3:] == [
        ("inbound", {"phone_number_id": None, "recipient": ["336", "US.1"]}),
        ("preference", "336", {"stopped": True}),
        ("preference", "US.1", {"stopped": True}),
    ]


def test_only_what_stops_messages_is_a_restriction() -> None:
    gates = Gates()

    def news(event: str, *restrictions: Any, **content: Any) -> AccountUpdate:
        return AccountUpdate(topic="account_update", event=event, restrictions=restrictions, content=content, **OURS)

    messaging, numbers = "RESTRICTED_BIZ_INITIATED_MESSAGING", "RESTRICTED_ADD_PHONE_NUMBER_ACTION"
    tell(
        gating(gates),
        news(
            "ACCOUNT_RESTRICTION", (messaging, 5.0), ("RESTRICTED_CUSTOMER_INITIATED_MESSAGING", 9.0), (numbers, 99.0)
        ),
        news("ACCOUNT_RESTRICTION", (messaging, None), (messaging, 9.0)),
        news("ACCOUNT_RESTRICTION", (numbers, 9.0)),
        news("ACCOUNT_VIOLATION", (messaging, 5.0)),
        news("DISABLED_UPDATE", ban_info={"waba_ban_state": "DISABLE"}),
        news("DISABLED_UPDATE", ban_info={"waba_ban_state": "REINSTATE"}),
        news("DISABLED_UPDATE"),
    )
    assert gates.calls == [
        ("restriction", {"waba_id": "waba", "until": 9.0}),
        ("restriction", {"waba_id": "waba", "until": None}),
        ("restriction", {"waba_id": "waba"}),
    ]


def test_who_writes_who_wants_no_marketing_and_an_upgrade_reach_the_gates() -> None:
    gates = Gates()

    def prefers(**facts: Any) -> PreferenceUpdate:
        usual = {"user": "336", "user_id": None, "category": "marketing_messages", "value": "stop"}
        return PreferenceUpdate(topic="user_preferences", **{**usual, **facts})

    def upgraded(display: str | None, event: str = "THROUGHPUT_UPGRADE") -> QualityUpdate:
        return QualityUpdate(topic="phone_number_quality_update", event=event, display_number=display)

    tell(
        gating(gates, numbers={"+33 1 23": "7"}),
        InboundMessage(topic="messages", wamid="m", kind="text", sender_user_id="US.1", phone_number_id="7"),
        prefers(),
        prefers(user=None, user_id="US.1", value="resume"),
        prefers(user=None),
        prefers(category="other"),
        prefers(value="?"),
        upgraded("33123"),
        upgraded("999"),
        upgraded(None),
        upgraded("33123", "FLAGGED"),
    )
    assert gates.calls == [
        ("inbound", {"phone_number_id": "7", "recipient": ["US.1"]}),
        ("preference", "336", {"stopped": True}),
        ("preference", "US.1", {"stopped": False}),
        ("throughput", "HIGH", {"phone_number_id": "7"}),
    ]

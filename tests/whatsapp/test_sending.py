"""Every message goes the same way: one record, one policy, the API's own JSON on the wire."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from typing import Any

import pytest

from resilience_core import CircuitBreaker, ConfigurationError, Retry
from resilience_whatsapp import (
    AmbiguousOutcomeError,
    GraphClient,
    GraphRequestError,
    GraphTemplateError,
    MessageStatus,
    ResilientWhatsAppClient,
    WhatsAppService,
)
from resilience_whatsapp._envelope import read_success
from resilience_whatsapp.messages import (
    GroupId,
    InvalidMessageError,
    Message,
    MessageRequest,
    PhoneNumber,
    TemplateBody,
    TemplateMessage,
    Text,
    UserId,
)
from resilience_whatsapp.simulator import Fault, Simulator, SimulatorThread
from tests.whatsapp.corpus import Sample, samples
from tests.whatsapp.fakes import OK, RECIPIENT, FakeClock, Stub, service_over
from tests.whatsapp.test_messages import MESSAGES

FILES = {"image": "image/png", "audio": "audio/ogg", "sticker": "image/webp"}
PLAIN = [message for message, _ in MESSAGES if not isinstance(message, TemplateMessage)]


def client_of(simulator: Any) -> ResilientWhatsAppClient:
    at = getattr(simulator, "simulator", simulator)
    http = GraphClient(token=at.token, phone_number_id=at.phone_number_id, base_url=simulator.base_url)
    return ResilientWhatsAppClient(http, CircuitBreaker("sending"), Retry(max_attempts=3, base_delay=0.001))


def test_the_simulator_takes_every_message() -> None:
    async def story() -> None:
        async with Simulator() as simulator:
            client = client_of(simulator)
            service = WhatsAppService(client)
            for message in PLAIN:
                if message.kind in FILES:
                    simulator.add_media(b"file", FILES[message.kind], media_id="1")
                record = await service.send("user", RECIPIENT, message)
                assert (record.status, record.kind) == (MessageStatus.ACCEPTED, message.kind)
                assert (record.template, record.language) == (None, None)
                entry = simulator.book.entries[-1]
                assert (entry.wamid, entry.type, entry.opaque) == (record.wamid, message.kind, record.id)
            with pytest.raises(GraphTemplateError):
                await service.send("user", RECIPIENT, TemplateMessage("absent", "fr"))
            record = await service.send("user", RECIPIENT, TemplateMessage("welcome_message", "fr"))
            assert (record.template, record.language, record.kind) == ("welcome_message", "fr", "template")
            await client.http_client.aclose()  # type: ignore[attr-defined]

    asyncio.run(story())


@pytest.mark.parametrize(
    ("recipient", "fields"),
    [
        ("+33 6 12 34 56 78", {"recipient_type": "individual", "to": RECIPIENT}),
        (PhoneNumber(RECIPIENT), {"recipient_type": "individual", "to": RECIPIENT}),
        (UserId("US.1349"), {"recipient_type": "individual", "recipient": "US.1349"}),
        (GroupId("g"), {"recipient_type": "group", "to": "g"}),
    ],
)
def test_each_kind_of_recipient_is_written_as_the_api_wants_it(recipient: Any, fields: dict[str, Any]) -> None:
    stub = Stub(OK)
    service = service_over(stub, FakeClock())

    async def story() -> None:
        sent = [
            await service.send("u", recipient, Text("a"), reply_to="wamid.0"),
            await service.send_text("u", recipient, "a"),
            await service.send_template_message("u", recipient, "t", "fr", components=[TemplateBody("a")]),
        ]
        for record, payload in zip(sent, stub.payloads, strict=True):
            assert payload.items() >= {**fields, "biz_opaque_callback_data": record.id}.items()
            assert record.recipient == (fields.get("to") or fields["recipient"])
        assert stub.payloads[0]["context"] == {"message_id": "wamid.0"}

    asyncio.run(story())


def test_components_may_be_types_or_the_apis_own_form() -> None:
    stub = Stub(OK)
    raw = {"type": "body", "parameters": [{"type": "text", "text": "a"}]}

    async def story() -> None:
        service = service_over(stub, FakeClock())
        await service.send_template_message("u", RECIPIENT, "t", "fr", components=[raw])
        await service.send_template_message("u", RECIPIENT, "t", "fr", components=[TemplateBody("a")])

    asyncio.run(story())
    assert [payload["template"]["components"] for payload in stub.payloads] == [[raw], [raw]]


@pytest.mark.parametrize(
    ("recipient", "message", "options"),
    [("0612345678", Text("a"), {}), (RECIPIENT, "a", {}), (RECIPIENT, Text("a"), {"opaque_data": "x" * 513})],
)
def test_a_message_that_cannot_be_right_makes_no_request(recipient: str, message: Any, options: dict[str, Any]) -> None:
    stub = Stub(OK)
    with pytest.raises(InvalidMessageError):
        asyncio.run(service_over(stub, FakeClock()).send("u", recipient, message, **options))
    assert not stub.payloads


def test_logs_and_records_show_no_content(caplog: pytest.LogCaptureFixture) -> None:
    stub = Stub(GraphRequestError(100, None, 400, "request"))
    with caplog.at_level(logging.DEBUG), pytest.raises(GraphRequestError) as caught:
        asyncio.run(service_over(stub, FakeClock()).send("u", RECIPIENT, Text("Zebulon")))
    shown = f"{caplog.text} {caught.value!r} {caught.value} {caught.value.record!r}"
    assert "Zebulon" not in shown
    assert RECIPIENT not in shown


# --- marks ------------------------------------------------------------------------------------------


def test_a_mark_is_repeated_and_is_no_message() -> None:
    async def story() -> None:
        async with Simulator() as simulator:
            client = client_of(simulator)
            service = WhatsAppService(client, delivery="at_most_once")
            simulator.script(Fault("error", code=131000, status=500), Fault("reset_after_accept"))
            await service.mark_as_read("wamid.1", typing=True)
            assert simulator.book.requests["messages"] == 3
            assert not simulator.book.entries
            simulator.script(Fault("error", code=100, status=400))
            with pytest.raises(GraphRequestError):
                await service.mark_as_read("wamid.1")
            await client.http_client.aclose()  # type: ignore[attr-defined]

    asyncio.run(story())


def test_an_http_client_that_cannot_mark_is_named() -> None:
    with pytest.raises(ConfigurationError, match="mark_as_read") as caught:
        asyncio.run(service_over(Stub(OK), FakeClock()).mark_as_read("wamid.1"))
    assert "Stub" in str(caught.value)


def test_the_answer_to_a_mark_says_success_or_is_ambiguous() -> None:
    read_success(200, b'{"success": true}')
    for body in (b"{}", b'{"success": "true"}', b"", b"[]"):
        with pytest.raises(AmbiguousOutcomeError):
            read_success(200, body)


@pytest.mark.parametrize("sample", samples("response.mark_read"), ids=lambda sample: sample.file)
def test_each_sample_of_an_answer_to_a_mark_parses(sample: Sample) -> None:
    read_success(200, sample.body)


# --- blocking ---------------------------------------------------------------------------------------


def test_the_blocking_service_sends_and_marks_alike() -> None:
    with SimulatorThread() as simulator, WhatsAppService.blocking(client_of(simulator)) as service:
        record = service.send("u", RECIPIENT, Text("a"), reply_to="wamid.0")
        service.mark_as_read("wamid.0", typing=True)
        assert [entry.wamid for entry in simulator.book.entries] == [record.wamid]


def test_a_client_of_ones_own_may_mark() -> None:
    class Marking(Stub):
        async def mark_as_read(self, payload: Mapping[str, Any]) -> None:
            self.payloads.append(payload)

    stub = Marking(OK)
    asyncio.run(service_over(stub, FakeClock()).mark_as_read("wamid.1"))
    assert stub.payloads == [{"messaging_product": "whatsapp", "status": "read", "message_id": "wamid.1"}]


def test_a_request_is_what_the_service_sends() -> None:
    stub = Stub(OK)
    message: Message = Text("a")
    record = asyncio.run(service_over(stub, FakeClock()).send("u", RECIPIENT, message, opaque_data="o"))
    assert stub.payloads[0] == MessageRequest(RECIPIENT, message, opaque_data=f"{record.id}:o").payload()

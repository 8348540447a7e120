"""What traces and metrics tell of sends: the API's answers, and nothing of the recipient or the text."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from resilience_core.testing import TelemetryRecorder, record_telemetry
from resilience_whatsapp import (
    AmbiguousOutcomeError,
    GraphClient,
    GraphError,
    ResilientWhatsAppClient,
    Settings,
    WhatsAppService,
)
from resilience_whatsapp.errors import graph_error
from resilience_whatsapp.simulator import Fault, Simulator

RECIPIENT = "+33612345678"
TEXT = "the secret text"


def send(*faults: Fault, spans: str = "call+attempt", delivery: Any = "at_least_once") -> tuple[Any, TelemetryRecorder]:
    """One text through the faults: its record or error, and what was recorded."""

    async def story() -> Any:
        async with Simulator() as simulator:
            simulator.script(*faults)
            http_client = GraphClient(
                token=simulator.token, phone_number_id=simulator.phone_number_id, base_url=simulator.base_url
            )
            async with http_client:
                settings = Settings(base_delay=0.001, max_delay=0.001)
                client = ResilientWhatsAppClient(http_client, retry_policy=settings.retry_policy())
                service = WhatsAppService(client, delivery=delivery)
                try:
                    return await service.send_text("user", RECIPIENT, TEXT)
                except Exception as error:
                    return error

    with record_telemetry(spans=spans) as recorded:
        return asyncio.run(story()), recorded


def attributes(recorded: TelemetryRecorder, name: str) -> list[dict[str, Any]]:
    return [dict(span.attributes or {}) for span in recorded.spans_named(name)]


def test_the_span_of_a_send_says_what_was_sent_and_how_it_was_answered() -> None:
    record, recorded = send(Fault("error", status=400, code=2, subcode=99, is_transient=True))
    (call,) = attributes(recorded, "resilience whatsapp")
    assert call["messaging.system"] == "whatsapp"
    assert call["messaging.operation.type"] == call["messaging.operation.name"] == "send"
    assert call["messaging.message.id"] == record.wamid
    assert call["whatsapp.phone_number_id"] == Simulator().phone_number_id
    assert call["http.response.status_code"] == 200
    assert call["resilience.operation.name"] == "ResilientWhatsAppClient._send_once"
    assert "error.type" not in call
    failed, made = attributes(recorded, "attempt")
    assert failed["whatsapp.error.code"] == 2
    assert failed["whatsapp.error.subcode"] == 99
    assert failed["http.response.status_code"] == 400
    assert failed["error.type"] == "2"
    assert made["http.response.status_code"] == 200
    assert made["http.request.resend_count"] == 1
    assert "whatsapp.error.code" not in made


def test_a_failed_send_is_told_by_graphs_code() -> None:
    error, recorded = send(Fault("error", code=131026))
    assert isinstance(error, GraphError)
    (call,) = attributes(recorded, "resilience whatsapp")
    assert call["error.type"] == "131026"
    assert "messaging.message.id" not in call
    assert recorded.value("resilience.call.duration", {"error.type": "131026"}) == 1


def test_an_answer_that_tells_nothing_is_told_by_its_status() -> None:
    error, recorded = send(Fault("html", status=502), delivery="at_most_once")
    assert isinstance(error, AmbiguousOutcomeError)
    (attempt,) = attributes(recorded, "attempt")
    assert attempt["http.response.status_code"] == 502
    assert attempt["error.type"] == "AmbiguousOutcomeError"


def test_without_spans_of_attempts_the_codes_are_on_that_of_the_call() -> None:
    _, recorded = send(Fault("error", code=131026), spans="call")
    (call,) = attributes(recorded, "resilience whatsapp")
    assert call["whatsapp.error.code"] == 131026


def test_listing_templates_tells_its_answers_too() -> None:
    async def story() -> None:
        async with Simulator() as simulator:
            simulator.script(Fault("error", route="message_templates", code=4))
            http_client = GraphClient(
                token=simulator.token,
                phone_number_id=simulator.phone_number_id,
                waba_id=simulator.waba_id,
                base_url=simulator.base_url,
            )
            async with http_client:
                settings = Settings(base_delay=0.001, max_delay=0.001)
                client = ResilientWhatsAppClient(http_client, retry_policy=settings.retry_policy())
                await WhatsAppService(client).get_approved_templates()

    with record_telemetry() as recorded:
        asyncio.run(story())
    failed, *made = attributes(recorded, "attempt")
    assert failed["whatsapp.error.code"] == 4
    assert {attempt["http.response.status_code"] for attempt in made} == {200}


@pytest.mark.parametrize("spans", ["call+attempt", "call", "none"])
def test_neither_recipient_nor_text_nor_address_is_in_any_signal(spans: str) -> None:
    record, recorded = send(Fault("error", status=500, code=131000), Fault("reset_after_accept"), spans=spans)
    told = [span.to_json() for span in recorded.spans]
    told += [
        str(dict(point.attributes))
        for name in ("resilience.call.duration", "resilience.retry.delay", "resilience.call.retries")
        for point in recorded.points(name)
    ]
    assert told
    assert bool(recorded.spans) == (spans != "none")
    for secret in (RECIPIENT, RECIPIENT[1:], TEXT, Simulator().token, "127.0.0.1", "http://", record.id):
        assert not [text for text in told if secret in text], secret


def test_an_error_without_a_code_is_told_by_its_class() -> None:
    assert graph_error(None, None, False, 403).telemetry_type is None
    assert graph_error(10, None, False, 403).telemetry_type == "10"

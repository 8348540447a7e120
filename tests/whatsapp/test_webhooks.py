"""Errors that come by webhook are typed as those of answers; whatever comes is read or refused."""

from __future__ import annotations

import json
import random
import tracemalloc
from typing import Any

import pytest

from resilience_whatsapp import (
    ERROR_CODES,
    ErrorClass,
    GraphRecipientError,
    GraphSenderError,
    GraphThrottledError,
    InvalidWebhookError,
    WhatsAppError,
)
from resilience_whatsapp._envelope import content_of, read_send, usage_wait
from resilience_whatsapp.webhooks import MAX_WEBHOOK, WebhookItem, read_webhook
from tests._cost import size
from tests.whatsapp.corpus import Sample, needs_corpus, samples
from tests.whatsapp.test_errors import anything


def webhook(**value: Any) -> bytes:
    value = {"metadata": {"phone_number_id": "7"}, **value}
    return json.dumps({"entry": [{"id": "waba", "changes": [{"field": "messages", "value": value}]}]}).encode()


def test_an_echo_of_ours_gives_the_record_and_the_data_of_the_user() -> None:
    record_id = "0123456789abcdef" * 2
    for echo, told in ((record_id, (record_id, None)), (f"{record_id}:order 7", (record_id, "order 7"))):
        status = {"id": "wamid.1", "status": "sent", "biz_opaque_callback_data": echo}
        (item,) = read_webhook(webhook(statuses=[status]))
        assert (item.record_id, item.opaque_data) == told


def test_a_failed_status_carries_its_error_and_its_echo() -> None:
    status = {
        "id": "wamid.1",
        "status": "failed",
        "recipient_id": "33612345678",
        "biz_opaque_callback_data": "Zebulon",
        "errors": [{"code": 131042, "title": "Zebulon"}, {"code": "131026"}],
    }
    (item,) = read_webhook(webhook(statuses=[status]))
    told = (item.kind, item.topic, item.waba_id, item.phone_number_id, item.wamid, item.status, item.opaque_data)
    assert told == ("status", "messages", "waba", "7", "wamid.1", "failed", "Zebulon")
    assert item.record_id is None
    payment, recipient = item.errors
    assert isinstance(payment, GraphSenderError)
    assert isinstance(recipient, GraphRecipientError)
    assert (payment.http_status, payment.scope) == (None, "waba")
    assert item.content == status
    for secret in ("Zebulon", "33612345678"):
        assert secret not in repr(item)
        assert secret not in str(payment)


def test_errors_of_the_account_messages_and_other_news_are_told_apart() -> None:
    items = read_webhook(
        webhook(errors=[{"code": 130429}], statuses=[{"id": "s"}], messages=[{"id": "m", "errors": [{"code": 131051}]}])
    )
    assert [(item.kind, item.wamid, len(item.errors)) for item in items] == [
        ("error", None, 1),
        ("status", "s", 0),
        ("message", "m", 1),
    ]
    assert isinstance(items[0].errors[0], GraphThrottledError)
    (news,) = read_webhook(webhook(event="ACCOUNT_RESTRICTION"))
    assert (news.kind, news.wamid, news.errors) == ("other", None, ())


def test_an_error_of_an_unknown_code_is_one_of_the_request() -> None:
    (item,) = read_webhook(webhook(errors=[{"code": 999_999}, {}, {"code": 1}]))
    assert {error.error_class for error in item.errors} == {ErrorClass.REQUEST}
    (item,) = read_webhook(webhook(errors=[{"code": 999_999, "is_transient": True}]))
    assert item.errors[0].error_class is ErrorClass.TRANSIENT


@pytest.mark.parametrize(
    "body",
    [b"", b"{", b"[]", b"{}", b'{"entry": {}}', b"[" * 100_000, b"\xff", b" " * (MAX_WEBHOOK + 1)],
    ids=["empty", "cut", "list", "bare", "object", "nested", "bytes", "long"],
)
def test_what_is_no_webhook_is_refused(body: bytes) -> None:
    with pytest.raises(InvalidWebhookError) as caught:
        read_webhook(body)
    assert isinstance(caught.value, WhatsAppError)


def test_what_is_not_understood_within_a_webhook_is_left_out() -> None:
    strange: list[Any] = [5, {}, {"changes": 5}, {"changes": [{}]}, {"changes": [{"field": "x", "value": 5}]}]
    for entries in [[entry] for entry in strange]:
        assert read_webhook(json.dumps({"entry": entries}).encode()) == ()


def test_any_json_is_read_or_refused() -> None:
    draw = random.Random(5)
    for _ in range(size(20_000, 3_000)):
        value = {key: anything(draw, 3) for key in ("errors", "statuses", "messages", "metadata")}
        value["statuses"] = draw.choice([value["statuses"], [value["statuses"]]])
        change = draw.choice([{"field": "messages", "value": value}, anything(draw, 3)])
        items = read_webhook(json.dumps({"entry": [{"id": anything(draw, 1), "changes": [change]}]}).encode())
        assert all(isinstance(item, WebhookItem) for item in items)


def test_a_full_webhook_costs_memory_in_proportion() -> None:
    statuses = [{"id": f"wamid.{number}", "status": "sent", "timestamp": "1"} for number in range(30_000)]
    body = webhook(statuses=statuses)
    tracemalloc.start()
    try:
        assert len(read_webhook(body)) == 30_000
        assert tracemalloc.get_traced_memory()[1] < 30 * len(body)
    finally:
        tracemalloc.stop()


# --- samples ----------------------------------------------------------------------------------------


@needs_corpus
def test_there_are_samples_of_webhooks_and_answers() -> None:
    assert len(samples("webhook")) >= 60
    assert len(samples("response")) >= 25


@pytest.mark.parametrize("sample", samples("webhook"), ids=lambda sample: sample.file)
def test_each_sample_of_a_webhook_parses(sample: Sample) -> None:
    items = read_webhook(sample.body)
    assert items
    codes = {error.code for item in items for error in item.errors}
    assert codes == set(sample.error_codes)
    for error in (error for item in items for error in item.errors):
        row = ERROR_CODES[error.code or 0]
        assert (error.error_class, error.scope) == (row.error_class, row.scope)
    kind = sample.kind.split(".")[1]
    if kind == "status":
        assert {item.kind for item in items} == {"status"}
        assert all(item.wamid and item.status for item in items)
    if kind.startswith("message"):
        assert {item.kind for item in items} == {"message"}


@pytest.mark.parametrize("sample", samples("error.webhook_object"), ids=lambda sample: sample.file)
def test_each_sample_of_an_error_in_a_webhook_has_its_class(sample: Sample) -> None:
    (item,) = read_webhook(webhook(statuses=[{"id": "w", "status": "failed", **sample.content}]))
    assert [error.code for error in item.errors] == list(sample.error_codes)
    assert [error.known for error in item.errors] == [ERROR_CODES[code] for code in sample.error_codes]


@pytest.mark.parametrize("sample", samples("response"), ids=lambda sample: sample.file)
def test_no_sample_of_a_good_answer_is_taken_for_an_error(sample: Sample) -> None:
    assert content_of(sample.http_status or 200, sample.body, None) == sample.content


@pytest.mark.parametrize("sample", samples("response.marketing_message"), ids=lambda sample: sample.file)
def test_a_marketing_message_is_answered_as_any_other(sample: Sample) -> None:
    assert read_send(200, sample.body).wamid == sample.content["messages"][0]["id"]


@pytest.mark.parametrize("sample", samples("headers.usage"), ids=lambda sample: sample.file)
def test_headers_without_an_estimate_ask_for_no_wait(sample: Sample) -> None:
    assert usage_wait(sample.content) is None

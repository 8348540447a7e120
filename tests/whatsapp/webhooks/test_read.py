"""Errors that come by webhook are typed as those of answers; whatever comes is read or refused."""

from __future__ import annotations

import json
import random
import tracemalloc
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from resilience_whatsapp import (
    ERROR_CODES,
    ErrorClass,
    GraphRecipientError,
    GraphSenderError,
    GraphThrottledError,
    InvalidWebhookError,
    MessageStatus,
    WhatsAppError,
)
from resilience_whatsapp._envelope import content_of, read_send, usage_wait
from resilience_whatsapp.webhooks import (
    MAX_WEBHOOK,
    AccountError,
    AccountUpdate,
    InboundMessage,
    PreferenceUpdate,
    Pricing,
    QualityUpdate,
    StatusUpdate,
    TemplateUpdate,
    UnknownUpdate,
    WebhookUpdate,
    read_webhook,
)
from resilience_whatsapp.webhooks._read import Part, parts_of, update_of
from tests._cost import size
from tests.whatsapp.corpus import Sample, needs_corpus, samples
from tests.whatsapp.test_errors import anything


def webhook(**value: Any) -> bytes:
    value = {"metadata": {"phone_number_id": "7"}, **value}
    return json.dumps({"entry": [{"id": "waba", "changes": [{"field": "messages", "value": value}]}]}).encode()


def test_a_failed_status_carries_its_error_and_its_echo() -> None:
    status = {
        "id": "wamid.1",
        "status": "failed",
        "timestamp": 1700000000,
        "recipient_id": "33612345678",
        "recipient_user_id": "US.1",
        "biz_opaque_callback_data": "Zebulon",
        "errors": [{"code": 131042, "title": "Zebulon"}, {"code": "131026"}],
    }
    (update,) = read_webhook(webhook(statuses=[status]))
    assert isinstance(update, StatusUpdate)
    told = (update.topic, update.waba_id, update.phone_number_id, update.wamid, update.kind, update.opaque_data)
    assert told == ("messages", "waba", "7", "wamid.1", MessageStatus.FAILED, "Zebulon")
    assert (update.at, update.recipient, update.recipient_user_id) == (1_700_000_000.0, "33612345678", "US.1")
    assert update.record_id is None
    payment, recipient = update.errors
    assert isinstance(payment, GraphSenderError)
    assert isinstance(recipient, GraphRecipientError)
    assert (payment.http_status, payment.scope) == (None, "waba")
    assert update.content == status
    for secret in ("Zebulon", "33612345678", "US.1"):
        assert secret not in repr(update)
        assert secret not in str(payment)


def test_an_echo_of_ours_gives_the_record_and_the_data_of_the_user() -> None:
    record_id = "0123456789abcdef" * 2
    for echo, told in ((record_id, (record_id, None)), (f"{record_id}:order 7", (record_id, "order 7"))):
        status = {"id": "wamid.1", "status": "sent", "biz_opaque_callback_data": echo}
        (update,) = read_webhook(webhook(statuses=[status]))
        assert isinstance(update, StatusUpdate)
        assert (update.record_id, update.opaque_data) == told


def test_a_status_of_both_shapes_is_read() -> None:
    old = {
        "id": "w",
        "status": "sent",
        "timestamp": "1700000000",
        "conversation": {"id": "c", "origin": {"type": "utility"}},
        "pricing": {"billable": True, "pricing_model": "CBP", "category": "utility"},
    }
    new = {"id": "w", "status": "delivered", "pricing": {"billable": 1, "pricing_model": "PMP", "type": "regular"}}
    bare = {"id": "w", "status": "deleted", "recipient_id": "g", "recipient_participant_id": "33612345678"}
    first, second, third = read_webhook(webhook(statuses=[old, new, bare], contacts=[{"user_id": "US.1"}]))
    assert isinstance(first, StatusUpdate)
    assert isinstance(second, StatusUpdate)
    assert isinstance(third, StatusUpdate)
    assert (first.conversation_id, first.pricing) == ("c", Pricing(True, "CBP", None, "utility"))
    assert (second.conversation_id, second.pricing) == (None, Pricing(None, "PMP", "regular", None))
    assert (second.recipient, second.recipient_user_id, second.at) == (None, "US.1", None)
    assert (third.kind, third.pricing, third.participant, third.recipient_user_id) == (None, None, "33612345678", None)


def test_a_message_has_an_envelope_whatever_its_kind() -> None:
    contacts = [{"wa_id": "1", "profile": {"name": "Ann"}}, {"user_id": "US.2"}]
    text = {"id": "m1", "from": "1", "type": "text", "text": {"body": "Hi"}, "context": {"id": "m0"}}
    reaction = {"id": "m2", "from_user_id": "US.2", "type": "reaction", "reaction": {"message_id": "m1"}}
    new = {"id": "m3", "from": "3", "hologram": {}, "errors": [{"code": 131051}], "group_id": "g"}
    updates = read_webhook(webhook(messages=[text, reaction, new], contacts=contacts))
    told = [
        (u.kind, u.sender, u.sender_user_id, u.sender_name, u.reply_to, u.group_id, len(u.errors))
        for u in updates
        if isinstance(u, InboundMessage)
    ]
    assert told == [
        ("text", "1", None, "Ann", "m0", None, 0),
        ("reaction", None, "US.2", None, "m1", None, 0),
        ("unknown", "3", None, None, None, "g", 1),
    ]
    assert "Ann" not in repr(updates)


def news(topic: str, **value: Any) -> WebhookUpdate:
    entry = {"id": "waba", "time": 1_700_000_000, "changes": [{"field": topic, "value": value}]}
    (update,) = read_webhook(json.dumps({"entry": [entry]}).encode())
    assert (update.topic, update.waba_id, update.at) == (topic, "waba", 1_700_000_000.0)
    return update


def test_news_of_the_account_have_types() -> None:
    rows = [{"restriction_type": "RESTRICTED_BIZ_INITIATED_MESSAGING", "expiration": "1748540794"}, {}, 5]
    update = news("account_update", event="ACCOUNT_RESTRICTION", restriction_info=rows)
    assert isinstance(update, AccountUpdate)
    assert update.restrictions == (("RESTRICTED_BIZ_INITIATED_MESSAGING", 1_748_540_794.0),)
    update = news("business_capability_update", max_daily_conversations_per_business=2000)
    assert isinstance(update, AccountUpdate)
    assert (update.event, update.limit) == (None, "2000")
    update = news("phone_number_quality_update", event="THROUGHPUT_UPGRADE", display_phone_number="336")
    assert isinstance(update, QualityUpdate)
    assert (update.event, update.display_number, update.limit) == ("THROUGHPUT_UPGRADE", "336", None)


@pytest.mark.parametrize(
    ("topic", "value", "event", "previous"),
    [
        ("message_template_status_update", {"event": "PAUSED"}, "PAUSED", None),
        ("message_template_components_update", {"event": "x"}, None, None),
        ("message_template_quality_update", {"new_quality_score": "RED", "previous_quality_score": "G"}, "RED", "G"),
        ("template_category_update", {"new_category": "MARKETING", "previous_category": 5}, "MARKETING", None),
    ],
)
def test_news_of_templates_have_types(topic: str, value: dict[str, Any], event: Any, previous: Any) -> None:
    update = news(topic, message_template_name="t", message_template_language="fr", **value)
    assert isinstance(update, TemplateUpdate)
    assert (update.name, update.language, update.event, update.previous) == ("t", "fr", event, previous)


def test_a_user_who_wants_no_marketing_is_told() -> None:
    rows = [{"wa_id": "336", "category": "marketing_messages", "value": "stop", "timestamp": 1_731_705_721}, {}]
    stop, empty = read_webhook(webhook(user_preferences=rows))
    assert isinstance(stop, PreferenceUpdate)
    assert isinstance(empty, PreferenceUpdate)
    assert (stop.user, stop.stopped, stop.at, empty.user, empty.stopped) == ("336", True, 1_731_705_721.0, None, False)


def test_errors_of_the_account_messages_and_other_news_are_told_apart() -> None:
    error, status, message = read_webhook(
        webhook(
            errors=[{"code": 130429}],
            statuses=[{"id": "s", "status": "sent"}],
            messages=[{"id": "m", "errors": [{"code": 131051}]}],
        )
    )
    assert isinstance(error, AccountError)
    assert isinstance(error.errors[0], GraphThrottledError)
    assert isinstance(status, StatusUpdate)
    assert isinstance(message, InboundMessage)
    assert isinstance(news("flows", event="x"), UnknownUpdate)


def test_an_error_of_an_unknown_code_is_one_of_the_request() -> None:
    (item,) = read_webhook(webhook(errors=[{"code": 999_999}, {}, {"code": 1}]))
    assert isinstance(item, AccountError)
    assert {error.error_class for error in item.errors} == {ErrorClass.REQUEST}
    (item,) = read_webhook(webhook(errors=[{"code": 999_999, "is_transient": True}]))
    assert isinstance(item, AccountError)
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


def test_what_is_not_understood_within_a_webhook_is_kept() -> None:
    strange: list[Any] = [
        5,
        {"changes": 5},
        {"changes": [{}]},
        {"changes": [{"field": "x", "value": 5}]},
        {"changes": [{"field": "x", "value": {"statuses": 5}}]},
        {"changes": [{"field": "x", "value": {"statuses": [{"id": "no status"}]}}]},
        {"changes": [{"field": "x", "value": {"messages": [{"no": "id"}]}}]},
        {"changes": [{"field": "x", "value": {"messages": [json.loads("[" * 200 + "]" * 200)]}}]},
    ]
    for entry in strange:
        (update,) = read_webhook(json.dumps({"entry": [entry]}).encode())
        assert isinstance(update, UnknownUpdate)
    assert read_webhook(b'{"entry": [{}]}') == ()


NAMES = [
    "id", "status", "statuses", "messages", "errors", "metadata", "phone_number_id", "contacts", "wa_id", "from",
    "timestamp", "pricing", "recipient_id", "field", "value", "changes", "entry", "time", "code", "user_preferences",
    "type", "context", "reaction", "restriction_info", "expiration", "conversation", "profile", "user_id",
]  # fmt: skip
LEAVES = st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.sampled_from(["sent", "messages"])
ANY_JSON = st.recursive(
    LEAVES,
    lambda below: st.lists(below, max_size=4) | st.dictionaries(st.sampled_from(NAMES) | st.text(), below, max_size=5),
    max_leaves=25,
)


@settings(max_examples=size(3_000, 150))
@given(ANY_JSON, st.sampled_from(["messages", "account_update", "message_template_status_update", "x"]), ANY_JSON)
def test_any_json_is_read_or_refused_and_kept_as_it_was_read(value: Any, topic: str, other: Any) -> None:
    change = {"field": topic, "value": value}
    for content in (other, {"entry": other}, {"entry": [{"id": "1", "changes": [change, other]}, other]}):
        body = json.dumps(content).encode()
        try:
            parts = parts_of(body)
        except InvalidWebhookError:
            continue
        for part in parts:
            kept = Part.loads(part.dumps())
            assert kept.dumps() == part.dumps()
            assert repr(update_of(kept)) == repr(update_of(part))
            assert len(part.key()) == 16


def test_any_status_is_read_or_refused() -> None:
    draw = random.Random(5)
    for _ in range(size(20_000, 1_500)):
        value = {key: anything(draw, 3) for key in ("errors", "statuses", "messages", "metadata", "contacts")}
        value["statuses"] = draw.choice([value["statuses"], [value["statuses"]]])
        change = draw.choice([{"field": "messages", "value": value}, anything(draw, 3)])
        items = read_webhook(json.dumps({"entry": [{"id": anything(draw, 1), "changes": [change]}]}).encode())
        assert all(isinstance(item, WebhookUpdate) for item in items)


@pytest.mark.parametrize("text", ["", "[", "[1]", "5", '{"a": 1, "b": 2}'])
def test_what_is_kept_and_cannot_be_read_any_more_is_unknown(text: str) -> None:
    assert isinstance(update_of(Part.loads(text)), UnknownUpdate)


# --- what is told again -----------------------------------------------------------------------------


def keys(**value: Any) -> list[bytes]:
    return [part.key() for part in parts_of(webhook(**value))]


def test_what_is_told_again_in_another_body_has_the_same_key() -> None:
    one, two = {"id": "w1", "status": "sent"}, {"id": "w2", "status": "sent"}
    first = keys(statuses=[one, two])
    assert keys(statuses=[{**two, "pricing": {}}], messages=[{"id": "w1"}])[0] == first[1]
    assert len({*first, *keys(statuses=[{"id": "w1", "status": "read"}]), *keys(messages=[{"id": "w1"}])}) == 4


def test_each_member_of_a_group_reads_by_itself() -> None:
    read = {"id": "w", "status": "read", "recipient_type": "group"}
    assert len(set(keys(statuses=[{**read, "recipient_participant_id": who} for who in ("1", "2")]))) == 2


def test_news_are_known_by_content_and_time_and_without_a_time_are_new_each_time() -> None:
    def entry(time: Any, **value: Any) -> list[bytes]:
        change = {"field": "account_update", "value": value}
        return [part.key() for part in parts_of(json.dumps({"entry": [{"time": time, "changes": [change]}]}).encode())]

    assert entry(1, event="x") == entry(1, event="x")
    assert entry(1, event="x") != entry(2, event="x")
    assert entry(None, event="x") != entry(None, event="x")
    assert entry(1, timestamp=9) == entry(2, timestamp=9)
    assert keys(errors=[{"code": 130429}]) != keys(errors=[{"code": 130429}])


def test_a_full_webhook_costs_memory_in_proportion() -> None:
    count = size(30_000, 6_000)
    statuses = [{"id": f"wamid.{number}", "status": "sent", "timestamp": "1"} for number in range(count)]
    body = webhook(statuses=statuses)
    tracemalloc.start()
    try:
        assert len(read_webhook(body)) == count
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
    errors = [error for item in items for error in getattr(item, "errors", ())]
    assert {error.code for error in errors} == set(sample.error_codes)
    for error in errors:
        row = ERROR_CODES[error.code or 0]
        assert (error.error_class, error.scope) == (row.error_class, row.scope)
    kind = sample.kind.split(".")[1]
    expected = next((type_ for name, type_ in TYPES.items() if kind.startswith(name)), None)
    if expected is not None:
        assert {type(item) for item in items} == {expected}


TYPES = {
    "status": StatusUpdate,
    "message": InboundMessage,
    "smb": InboundMessage,
    "system": InboundMessage,
    "errors": AccountError,
    "account": AccountUpdate,
    "phone": QualityUpdate,
    "template": TemplateUpdate,
    "user_preferences": PreferenceUpdate,
}


@pytest.mark.parametrize("sample", samples("error.webhook_object"), ids=lambda sample: sample.file)
def test_each_sample_of_an_error_in_a_webhook_has_its_class(sample: Sample) -> None:
    (item,) = read_webhook(webhook(statuses=[{"id": "w", "status": "failed", **sample.content}]))
    assert isinstance(item, StatusUpdate)
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

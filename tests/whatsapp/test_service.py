"""Records, delivery, templates, settings: what the service promises about each send."""

from __future__ import annotations

import asyncio
import json
import re
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from attrs import evolve

from resilience_core import CircuitOpenError, ConfigurationError, TimeoutExceeded, lint
from resilience_whatsapp import (
    DEFAULT_TEMPLATES,
    DEVELOPMENT,
    MAX_OPAQUE_DATA,
    PRODUCTION,
    AmbiguousOutcomeError,
    GraphRequestError,
    GraphTransientError,
    InvalidMessageError,
    MessageStatus,
    ResilientWhatsAppClient,
    Settings,
    Template,
    TemplatePage,
    WhatsAppService,
    from_mapping,
    join_opaque_data,
    mask_recipient,
    split_opaque_data,
)
from tests.whatsapp.fakes import OK, RECIPIENT, FakeClock, Stub, WireStub, service_over

UNKNOWN = AmbiguousOutcomeError(502, "an answer that is not the API's")
TRANSIENT = GraphTransientError(131000, None, 500, "platform")


def send(service: WhatsAppService, **options: Any) -> Any:
    async def run() -> Any:
        return await service.send_text("u", RECIPIENT, "hi", **options)

    return asyncio.run(run())


def failed(service: WhatsAppService, **options: Any) -> tuple[Any, Any]:
    with pytest.raises(Exception) as caught:
        send(service, **options)
    return caught.value, caught.value.record  # type: ignore[attr-defined]


def test_a_record_tells_what_happened() -> None:
    stub = Stub(TRANSIENT, OK)
    record = send(service_over(stub, FakeClock()))
    assert (record.status, record.wamid, record.attempts) == (MessageStatus.ACCEPTED, "wamid.ok", 2)
    assert not record.possible_duplicate
    assert record.duration >= 0
    assert stub.payloads[0]["biz_opaque_callback_data"] == record.id
    assert RECIPIENT not in repr(record)


def test_the_users_own_opaque_data_is_sent_beside_the_id() -> None:
    stub = Stub(OK)
    record = send(service_over(stub, FakeClock()), opaque_data="order: 7")
    assert stub.payloads[0]["biz_opaque_callback_data"] == f"{record.id}:order: 7"
    assert split_opaque_data(f"{record.id}:order: 7") == (record.id, "order: 7")


@pytest.mark.parametrize("data", ["x", ":", "a:b\n", "é" * MAX_OPAQUE_DATA, "0" * 32])
def test_what_is_sent_beside_the_id_comes_back_and_fits(data: str) -> None:
    record_id = "0123456789abcdef" * 2
    echo = join_opaque_data(record_id, data)
    assert len(echo) <= 512
    assert split_opaque_data(echo) == (record_id, data)
    assert split_opaque_data(join_opaque_data(record_id, None)) == (record_id, None)


@pytest.mark.parametrize("echo", ["order 7", "", "0" * 31, "0" * 33, "0" * 32 + ":", "G" * 32, None])
def test_an_echo_that_no_record_of_ours_begins_is_all_the_users(echo: str | None) -> None:
    assert split_opaque_data(echo) == (None, echo)


@pytest.mark.parametrize("data", ["", "x" * (MAX_OPAQUE_DATA + 1), 5])
def test_opaque_data_that_do_not_fit_are_refused_before_anything_is_sent(data: Any) -> None:
    stub = Stub(OK)
    with pytest.raises(InvalidMessageError, match="opaque_data must"):
        asyncio.run(service_over(stub, FakeClock()).send_text("u", RECIPIENT, "hi", opaque_data=data))
    assert not stub.payloads


def test_at_least_once_sends_an_unknown_outcome_again_and_says_so() -> None:
    stub = Stub(UNKNOWN, OK)
    record = send(service_over(stub, FakeClock()))
    assert (record.status, record.attempts, record.possible_duplicate) == (MessageStatus.ACCEPTED, 2, True)


@pytest.mark.parametrize(
    "error", [UNKNOWN, ConnectionResetError(), TimeoutError(), RuntimeError("session trouble"), BrokenPipeError()]
)
def test_at_most_once_never_sends_an_unknown_outcome_again(error: Exception) -> None:
    stub = Stub(error, OK)
    raised, record = failed(service_over(stub, FakeClock(), delivery="at_most_once"))
    assert raised is error
    assert (record.status, record.attempts, len(stub.payloads)) == (MessageStatus.UNKNOWN, 1, 1)


def test_at_most_once_retries_what_was_surely_not_carried_out() -> None:
    stub = Stub(TRANSIENT, ConnectionRefusedError(), OK)
    record = send(service_over(stub, FakeClock(), delivery="at_most_once"))
    assert (record.status, record.attempts, record.possible_duplicate) == (MessageStatus.ACCEPTED, 3, False)


def test_each_message_can_choose_its_delivery() -> None:
    service = service_over(Stub(UNKNOWN, OK), FakeClock(), delivery="at_least_once")
    _, record = failed(service, delivery="at_most_once")
    assert (record.status, record.delivery) == (MessageStatus.UNKNOWN, "at_most_once")


@pytest.mark.parametrize(
    "error", [ConnectionError(), OSError("x"), RuntimeError("x"), TimeoutError(), UNKNOWN, TRANSIENT]
)
def test_the_users_retry_list_is_retried_in_full_by_default(error: Exception) -> None:
    stub = Stub(error)
    _, record = failed(service_over(stub, FakeClock()))
    assert record.attempts == 3


@pytest.mark.parametrize("error", [GraphRequestError(100, None, 400, "request"), ConfigurationError("bug")])
def test_a_wrong_request_is_not_retried(error: Exception) -> None:
    _, record = failed(service_over(Stub(error), FakeClock()))
    assert (record.status, record.attempts) == (MessageStatus.FAILED, 1)


def test_the_wire_decides_whether_a_cut_off_send_is_unknown() -> None:
    for left, status in ((True, MessageStatus.UNKNOWN), (False, MessageStatus.FAILED)):
        stub = WireStub(asyncio.CancelledError(), left=[left])
        service = service_over(stub, FakeClock(), delivery="at_most_once")

        async def cancelled(service: WhatsAppService = service) -> Any:
            try:
                await service.send_text("u", RECIPIENT, "hi")
            except asyncio.CancelledError as error:
                return error.record  # type: ignore[attr-defined]
            raise AssertionError("not cancelled")

        assert asyncio.run(cancelled()).status is status


@pytest.mark.filterwarnings("ignore:plan-exceeds-deadline")  # what then happens is shown here
def test_the_total_time_out_ends_a_send_whose_fate_is_then_unknown() -> None:
    class Hanging(Stub):
        async def send_message(self, payload: Any) -> Any:
            await asyncio.Event().wait()

    raised, record = failed(service_over(Hanging(OK), FakeClock(), total_timeout=0.01))
    assert isinstance(raised, TimeoutExceeded)
    assert record.status is MessageStatus.UNKNOWN


def test_a_rejected_send_made_no_request() -> None:
    service = service_over(Stub(OK), FakeClock())
    service.client.circuit_breaker.force_open()
    raised, record = failed(service)
    assert isinstance(raised, CircuitOpenError)
    assert (record.status, record.attempts) == (MessageStatus.REJECTED, 0)


# --- templates ------------------------------------------------------------------------------------

PAGES = (
    TemplatePage((Template("a", "fr", "APPROVED"),), "cursor"),
    TemplatePage((Template("b", "fr", "APPROVED"),), None),
)


def listings(service: WhatsAppService, number: int, between: Any = None) -> list[Any]:
    async def run() -> list[Any]:
        found = []
        for _ in range(number):
            found.append(await service.get_approved_templates())
            if between is not None:
                between()
        return found

    return asyncio.run(run())


def cached_service(stub: Any, clock: FakeClock, **options: Any) -> WhatsAppService:
    service = service_over(stub, clock, max_attempts=1, **options)
    object.__setattr__(service._templates._cache, "clock", clock)
    return service


def test_all_pages_are_listed() -> None:
    (listing,) = listings(service_over(Stub(*PAGES), FakeClock()), 1)
    assert [template.name for template in listing] == ["a", "b"]
    assert (listing.source, len(listing), listing[1].name) == ("api", 2, "b")
    assert ("a", "fr") in listing
    assert ("a", "en") not in listing


def test_half_a_listing_is_no_listing() -> None:
    (listing,) = listings(service_over(Stub(PAGES[0], ConnectionError()), FakeClock(), max_attempts=1), 1)
    assert (listing.source, listing.templates, listing.age) == ("default", DEFAULT_TEMPLATES, None)
    assert [(each.name, each.language) for each in listing] == [("welcome_message", "fr"), ("order_confirmation", "fr")]


def test_a_listing_that_never_ends_is_given_up() -> None:
    stub = Stub(PAGES[0])
    (listing,) = listings(service_over(stub, FakeClock()), 1)
    assert listing.source == "default"
    assert stub.pages == 1000


def test_cached_templates_serve_for_a_day() -> None:
    clock = FakeClock()
    service = cached_service(Stub(PAGES[1], ConnectionError()), clock)

    def later() -> None:
        clock.time += 12 * 3600

    first, second, third = listings(service, 3, later)
    assert (first.source, first.age) == ("api", 0.0)
    assert (second.source, second.age) == ("cache", 12 * 3600)
    assert third.source == "default"


def test_templates_are_served_for_an_hour_without_asking() -> None:
    clock, stub = FakeClock(), Stub(PAGES[1])
    service = cached_service(stub, clock)

    def later() -> None:
        clock.time += 1800

    sources = [(listing.source, listing.age) for listing in listings(service, 3, later)]
    assert sources == [("api", 0.0), ("cache", 1800.0), ("api", 0.0)]
    assert stub.pages == 2


def test_a_template_file_outlives_the_process(tmp_path: Path) -> None:
    file = tmp_path / "templates.json"
    listings(service_over(Stub(PAGES[1]), FakeClock(), template_file=file), 1)
    (again,) = listings(service_over(Stub(ConnectionError()), FakeClock(), max_attempts=1, template_file=file), 1)
    assert (again.source, again.templates) == ("cache", PAGES[1].templates)


# --- settings -------------------------------------------------------------------------------------


def test_the_presets_have_the_users_numbers() -> None:
    assert (PRODUCTION.failure_threshold, PRODUCTION.success_threshold, PRODUCTION.recovery_timeout) == (10, 3, 120)
    assert (PRODUCTION.max_attempts, PRODUCTION.base_delay) == (5, 2.0)
    assert (DEVELOPMENT.failure_threshold, DEVELOPMENT.success_threshold, DEVELOPMENT.recovery_timeout) == (3, 1, 30)
    assert (DEVELOPMENT.max_attempts, DEVELOPMENT.base_delay) == (2, 0.5)
    assert PRODUCTION.circuit_breaker().failure_threshold == 10
    assert PRODUCTION.retry_policy().base_delay == 2.0


def test_the_defaults_are_the_users() -> None:
    client = ResilientWhatsAppClient(Stub(OK))
    breaker, retry = client.circuit_breaker, client.retry_policy
    assert (breaker.name, breaker.failure_threshold) == ("whatsapp_api", 5)
    assert (breaker.success_threshold, breaker.recovery_timeout) == (2, 60.0)
    assert (retry.max_attempts, retry.base_delay, retry.multiplier, retry.max_delay) == (3, 1.0, 2.0, 10.0)
    assert [policy["kind"] for policy in client.describe()["policies"]] == ["retry", "circuit_breaker"]


def test_a_client_says_what_it_does_and_what_that_can_cost() -> None:
    client = ResilientWhatsAppClient(Stub(OK), total_timeout=60)
    told = client.describe()
    assert [line.strip().partition(":")[0] for line in told["text"].splitlines()] == [
        "pipeline 'whatsapp'",
        "timeout",
        "retry",
        "circuit breaker 'whatsapp_api'",
        "worst case",
    ]
    assert told["text"].endswith("worst case: 3 requests in 60 s; a blocking call is not interrupted")
    assert told["worst_case"] == {"requests": 3, "seconds": 60, "calls": 0}
    assert told["mermaid"].startswith("flowchart LR\n")
    assert json.loads(json.dumps(told)) == told
    assert lint(client._once) == lint(client._repeatable) == ()


def test_a_client_says_why_a_send_was_rejected() -> None:
    service = service_over(Stub(ConnectionRefusedError()), FakeClock())
    for _ in range(2):
        raised, _ = failed(service)
    assert isinstance(raised, CircuitOpenError)
    told = str(raised.explain())
    assert re.search(r"circuit breaker 'whatsapp_api' rejected the call: open since \S+ after 5 consecutive", told)
    assert [call.error_type for call in service.client.explain()] == ["ConnectionRefusedError", "CircuitOpenError"]
    assert RECIPIENT.lstrip("+") not in f"{told} {service.client.explain()}"


def test_settings_from_the_users_mapping() -> None:
    settings = from_mapping(
        {
            "circuit_breaker": {"failure_threshold": 10, "success_threshold": 3, "timeout": timedelta(minutes=2)},
            "retry": {"max_attempts": 5, "base_delay_ms": 2000, "multiplier": 3, "max_delay_ms": timedelta(seconds=9)},
            "total_timeout": 30,
        }
    )
    assert settings.circuit_breaker().recovery_timeout == 120.0
    assert settings == Settings(10, 3, 120.0, 5, 2.0, 3, 9.0, 30)
    assert from_mapping({}) == Settings()
    assert from_mapping({"retry": {"max_attempts": 4}}, base=PRODUCTION) == evolve(PRODUCTION, max_attempts=4)


@pytest.mark.parametrize(
    ("mapping", "named"),
    [
        ({"breaker": {}}, "breaker"),
        ({"retry": 3}, "retry"),
        ({"retry": {"attempts": 3}}, "retry.attempts"),
        ({"retry": {"base_delay_ms": "2"}}, "retry.base_delay_ms"),
        ({"retry": {"base_delay_ms": True}}, "retry.base_delay_ms"),
        ({"retry": {"max_attempts": 0}}, "max_attempts"),
        ({"circuit_breaker": {"failure_threshold": True}}, "failure_threshold"),
        ({"circuit_breaker": {"timeout": float("nan")}}, "circuit_breaker.timeout"),
        ({"total_timeout": -1}, "total_timeout"),
    ],
)
def test_a_bad_mapping_is_refused_with_the_key(mapping: dict[str, Any], named: str) -> None:
    with pytest.raises(ConfigurationError, match=named):
        from_mapping(mapping)


def test_everything_that_is_wrong_with_a_mapping_is_told_at_once() -> None:
    with pytest.raises(ConfigurationError) as refused:
        from_mapping({"retry": {"max_attempts": 0, "base_delay_ms": "2"}, "circuit_braker": {}, "total_timeout": "x"})
    assert [line.partition(":")[0] for line in str(refused.value).splitlines() if not line.startswith(" ")] == [
        "4 problems in the configuration (the settings)",
        "retry.base_delay_ms",
        "circuit_braker",
        "total_timeout",
        "retry.max_attempts",
    ]


def test_bad_arguments_are_refused_at_construction() -> None:
    with pytest.raises(ConfigurationError, match="total_timeout: Timeout: seconds must be a positive"):
        Settings(total_timeout=-1)
    with pytest.raises(ConfigurationError, match="delivery"):
        service_over(Stub(OK), FakeClock(), delivery="exactly_once")
    with pytest.raises(ConfigurationError, match="send_message"):
        ResilientWhatsAppClient(object())  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("recipient", "masked"),
    [("+33612345678", "+33******78"), ("33612345678", "33******78"), ("+1234", "******"), ("", "******")],
)
def test_masking(recipient: str, masked: str) -> None:
    assert mask_recipient(recipient) == masked


@pytest.mark.parametrize("user", ["7", 7, SimpleNamespace(id=7, phone=RECIPIENT), {"id": 7, "phone": RECIPIENT}])
def test_of_a_user_only_the_id_is_kept(user: Any) -> None:
    assert asyncio.run(service_over(Stub(OK), FakeClock()).send_text(user, RECIPIENT, "hi")).user_id == "7"


def test_a_user_without_an_id_is_refused_without_being_shown() -> None:
    stub = Stub(OK)
    with pytest.raises(InvalidMessageError, match=r"^user must be an id, or an object or mapping with an .id.$"):
        asyncio.run(service_over(stub, FakeClock()).send_text({"phone": RECIPIENT}, RECIPIENT, "hi"))
    assert not stub.payloads

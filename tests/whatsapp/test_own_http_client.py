"""HTTP clients of the user's own: whatever they raise or answer, the record tells the truth and nothing is doubled."""

from __future__ import annotations

import asyncio
import gc
import weakref
from types import SimpleNamespace
from typing import Any

import aiohttp
import pytest
from attrs import frozen

from resilience_core import ConfigurationError, Retry, Verdict
from resilience_whatsapp import GraphClient, MessageStatus, ResilientWhatsAppClient, WhatsAppService, classify_graph
from tests.whatsapp.fakes import OK, RECIPIENT, FakeClock, Stub, WireStub, service_over


def failed(service: WhatsAppService, **options: Any) -> tuple[Exception, Any]:
    with pytest.raises(Exception) as caught:
        asyncio.run(service.send_text("u", RECIPIENT, "hi", **options))
    return caught.value, caught.value.record  # type: ignore[attr-defined]


def exception(name: str, *bases: type[Exception], **attributes: Any) -> Exception:
    """An error of a library that need not be there, as `httpx.ReadTimeout`, with the classes it derives from there."""
    module, _, own = name.rpartition(".")
    error: Exception = type(own, bases or (Exception,), {"__module__": module})("x")
    vars(error).update(attributes)
    return error


HTTPX = type("TransportError", (Exception,), {"__module__": "httpx"})


@pytest.mark.parametrize(
    "error", [ValueError("no JSON"), KeyError("messages"), exception("sms.GatewayError")], ids=repr
)
def test_an_error_that_tells_nothing_is_not_repeated_and_leaves_the_outcome_unknown(error: Exception) -> None:
    stub = Stub(error)
    raised, record = failed(service_over(stub, FakeClock()))
    assert raised is error
    assert (record.status, record.attempts) == (MessageStatus.UNKNOWN, 1)


def test_the_wire_of_a_client_that_has_one_tells_more_than_the_error() -> None:
    for left, status in ((True, MessageStatus.UNKNOWN), (False, MessageStatus.FAILED)):
        _, record = failed(service_over(WireStub(ValueError("x"), left=[left]), FakeClock()))
        assert record.status is status


@pytest.mark.parametrize("answer", [{"messages": [{"id": "wamid.1"}]}, None, SimpleNamespace(wamid=7)])
def test_an_answer_that_is_no_receipt_is_named_and_not_repeated(answer: Any) -> None:
    class Client(Stub):
        async def send_message(self, payload: Any) -> Any:
            self.payloads.append(payload)
            return answer

    client = Client(OK)
    error, record = failed(service_over(client, FakeClock()))
    assert str(error) == (
        f"http_client.send_message must answer a SendReceipt, not {type(answer).__name__}: it may have been sent"
    )
    assert (record.status, record.attempts, len(client.payloads)) == (MessageStatus.UNKNOWN, 1, 1)


def test_a_receipt_of_the_users_own_will_do() -> None:
    class Client(Stub):
        async def send_message(self, payload: Any) -> Any:
            return SimpleNamespace(wamid="wamid.7")

    record = asyncio.run(service_over(Client(OK), FakeClock()).send_text("u", RECIPIENT, "hi"))
    assert (record.status, record.wamid) == ("accepted", "wamid.7")


def test_an_error_whose_attributes_cannot_be_set_stays_itself_and_has_the_record() -> None:
    @frozen
    class Strict(Exception):
        pass

    raised, record = failed(service_over(Stub(Strict()), FakeClock()))
    assert isinstance(raised, Strict)
    assert record.attempts == 1


def answered(name: str, status: Any, headers: Any = None, *bases: type[Exception]) -> Exception:
    return exception(name, *bases, response=SimpleNamespace(status_code=status, headers=headers or {}))


@pytest.mark.parametrize(
    ("error", "verdict"),
    [
        (answered("httpx.HTTPStatusError", 429, {"Retry-After": "7"}), Verdict.THROTTLED),
        (answered("httpx.HTTPStatusError", 502), Verdict.UNKNOWN),
        (answered("requests.exceptions.HTTPError", 503, None, OSError), Verdict.UNKNOWN),
        (answered("requests.exceptions.HTTPError", 504, None, OSError), Verdict.UNKNOWN),
        (answered("requests.exceptions.HTTPError", 400, None, OSError), Verdict.PERMANENT),
        (answered("httpx.HTTPStatusError", "odd"), Verdict.PERMANENT),
        (exception("mine.HttpError", status=503), Verdict.UNKNOWN),
        (exception("mine.HttpError", status=200), Verdict.PERMANENT),
        (exception("mine.HttpError", status_code=404), Verdict.PERMANENT),
        (exception("httpx.ReadTimeout", HTTPX), Verdict.UNKNOWN),
        (exception("httpx.ConnectError", HTTPX), Verdict.TRANSIENT),
        (exception("httpx.ConnectTimeout", HTTPX), Verdict.TRANSIENT),
        (exception("httpx.PoolTimeout", HTTPX), Verdict.TRANSIENT),
        (exception("mine.ReadTimeout"), Verdict.PERMANENT),
        (ConnectionError("lost, or never there"), Verdict.UNKNOWN),
        (ConnectionRefusedError(), Verdict.TRANSIENT),
        (aiohttp.InvalidURL("x"), Verdict.PERMANENT),
    ],
    ids=lambda each: each.name if isinstance(each, Verdict) else type(each).__name__,
)
def test_errors_of_other_http_libraries_are_understood(error: Exception, verdict: Verdict) -> None:
    assert classify_graph(error).verdict is verdict


def test_a_wait_that_another_library_s_answer_tells_is_heard() -> None:
    error = answered("httpx.HTTPStatusError", 429, {"Retry-After": "7"})
    assert classify_graph(error).retry_after == 7.0
    assert classify_graph(answered("httpx.HTTPStatusError", 429, "no headers")).retry_after is None


def test_what_another_library_s_answer_refused_was_not_sent() -> None:
    for error, status in (
        (answered("httpx.HTTPStatusError", 404), MessageStatus.FAILED),
        (answered("httpx.HTTPStatusError", 502), MessageStatus.UNKNOWN),
        (aiohttp.InvalidURL("x"), MessageStatus.FAILED),
    ):
        _, record = failed(service_over(Stub(error), FakeClock(), max_attempts=1))
        assert record.status is status, error


def test_an_error_with_hostile_attributes_is_one_that_tells_nothing() -> None:
    class Hostile(Exception):
        @property
        def status(self) -> int:
            raise RuntimeError("not now")

    raised, record = failed(service_over(Stub(Hostile()), FakeClock()))
    assert isinstance(raised, Hostile)
    assert record.status is MessageStatus.UNKNOWN


@pytest.mark.parametrize("token", ["line\n", "", None, 5, "é"])
def test_a_token_function_that_answers_no_token_makes_no_request(token: Any) -> None:
    client = GraphClient(token=lambda: token, phone_number_id="1", base_url="http://127.0.0.1:1")
    error, record = failed(WhatsAppService(ResilientWhatsAppClient(client)))
    assert isinstance(error, ConfigurationError)
    assert str(error) == (
        "GraphClient: token must be a function that answers a non-empty string of visible ASCII characters"
    )
    assert (record.status, record.attempts) == (MessageStatus.FAILED, 1)


def test_that_a_client_cannot_list_templates_is_an_error_of_the_log(caplog: pytest.LogCaptureFixture) -> None:
    service = WhatsAppService(ResilientWhatsAppClient(GraphClient(token="t", phone_number_id="1")))
    templates = asyncio.run(service.get_approved_templates())
    assert (templates.source, ("welcome_message", "fr") in templates) == ("default", True)
    (told,) = [record for record in caplog.records if record.levelname == "ERROR"]
    assert told.getMessage() == "Templates cannot be listed"
    assert "waba_id must be given to list templates" in told.__dict__["error"]


def test_a_retry_policy_does_not_keep_the_clients_that_used_it() -> None:
    retry = Retry("kept_for_long")
    clients = [weakref.ref(ResilientWhatsAppClient(Stub(OK), None, retry)) for _ in range(3)]
    gc.collect()
    assert [client() for client in clients] == [None] * 3
    assert len(retry.bus.listeners) == 1

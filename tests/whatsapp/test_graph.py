"""Every answer of the API becomes a typed result or error; nothing personal gets out."""

from __future__ import annotations

import asyncio
import gc
import json
import pickle
import threading
import traceback
from contextlib import suppress
from typing import Any

import aiohttp
import pytest
from hypothesis import given
from hypothesis import strategies as st

from resilience_core import CircuitBreaker, ConfigurationError, Retry, Verdict
from resilience_whatsapp import (
    ERROR_CODES,
    AmbiguousOutcomeError,
    ErrorClass,
    GraphAuthError,
    GraphClient,
    GraphError,
    GraphRequestError,
    GraphThrottledError,
    GraphTransientError,
    ResilientWhatsAppClient,
    WhatsAppError,
    WhatsAppService,
    Wire,
    classify_graph,
)
from resilience_whatsapp._envelope import read_send, read_templates, usage_wait
from resilience_whatsapp.errors import class_of, graph_error
from resilience_whatsapp.graph import _Body
from resilience_whatsapp.simulator import Fault, Simulator, SimulatorThread
from tests.whatsapp.corpus import CORPUS, SHARED, needs_corpus, needs_facts
from tests.whatsapp.fakes import RECIPIENT

NUMBER = "+33612345678"


def envelope(**error: Any) -> bytes:
    return json.dumps({"error": error}).encode()


# --- the envelope ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "body", "error", "code"),
    [
        (400, envelope(code=2, is_transient=True), GraphTransientError, 2),
        (500, envelope(code=131000), GraphTransientError, 131000),
        (400, envelope(code=130429), GraphThrottledError, 130429),
        (401, envelope(code=190, error_subcode=463), GraphAuthError, 190),
        (403, envelope(code=299), GraphAuthError, 299),
        (400, envelope(code=1), GraphRequestError, 1),
        (500, envelope(code=1), GraphTransientError, 1),
        (400, envelope(code="131008"), GraphRequestError, 131008),
        (400, envelope(code=999_999), GraphRequestError, 999_999),
        (400, envelope(code=999_999, is_transient=True), GraphTransientError, 999_999),
        (503, envelope(code=999_999), GraphTransientError, 999_999),
        (429, envelope(message="no code"), GraphThrottledError, None),
        (401, envelope(message="no code"), GraphAuthError, None),
        (200, envelope(code=131047), GraphError, 131047),
        (400, envelope(code=True), GraphRequestError, None),
        (404, b"<html>", GraphRequestError, None),
        (302, b"", GraphRequestError, None),
        (429, b"", GraphThrottledError, None),
        (502, b"<html>", AmbiguousOutcomeError, None),
        (500, b'{"error": "a string"}', AmbiguousOutcomeError, None),
        (200, b'{"error": "a string"}', AmbiguousOutcomeError, None),
        (200, b"", AmbiguousOutcomeError, None),
        (200, b"{", AmbiguousOutcomeError, None),
        (200, b"\xff\xfe", AmbiguousOutcomeError, None),
        (200, b"[" * 100_000, AmbiguousOutcomeError, None),
        (200, b"9" * 10_000, AmbiguousOutcomeError, None),
        (200, b"{}", AmbiguousOutcomeError, None),
        (200, b'{"messages": []}', AmbiguousOutcomeError, None),
        (200, b'{"messages": [{"id": 5}]}', AmbiguousOutcomeError, None),
        (200, b'{"messages": ["x"]}', AmbiguousOutcomeError, None),
        (200, b"[]", AmbiguousOutcomeError, None),
    ],
)
def test_each_bad_answer_has_its_error(status: int, body: bytes, error: type[WhatsAppError], code: int | None) -> None:
    with pytest.raises(error) as caught:
        read_send(status, body)
    assert getattr(caught.value, "code", None) == code
    again = pickle.loads(pickle.dumps(caught.value))
    assert (type(again), str(again)) == (type(caught.value), str(caught.value))


def test_a_good_answer() -> None:
    body = {"contacts": [{"input": NUMBER, "wa_id": "33612345678"}], "messages": [{"id": "w", "message_status": "x"}]}
    receipt = read_send(200, json.dumps(body).encode())
    assert (receipt.wamid, receipt.wa_id, receipt.message_status) == ("w", "33612345678", "x")
    assert "612345678" not in repr(receipt)
    assert "None" in repr(read_send(200, b'{"messages": [{"id": "w"}]}'))


def test_pages_of_templates() -> None:
    row = {"name": "a", "language": "fr", "status": "APPROVED", "category": "UTILITY", "components": [1]}
    paging = {"cursors": {"after": "c"}, "next": "https://x"}
    page = read_templates(200, json.dumps({"data": [row, {}, 5], "paging": paging}).encode())
    assert ([template.name for template in page.templates], page.next_after) == (["a"], "c")
    last = read_templates(200, json.dumps({"data": [row], "paging": {"cursors": {"after": "c"}}}).encode())
    assert last.next_after is None
    assert read_templates(200, b'{"data": []}').templates == ()
    with pytest.raises(AmbiguousOutcomeError):
        read_templates(200, b'{"data": {}}')


@given(st.sampled_from([200, 302, 400, 404, 429, 500, 503]), st.binary(max_size=200))
def test_no_bytes_raise_anything_else(status: int, body: bytes) -> None:
    for read in (read_send, read_templates):
        with pytest.raises(WhatsAppError):
            read(status, body)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["error", "code", "error_subcode", "is_transient", "messages", "id", "data", "paging"]),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)


@given(st.sampled_from([200, 400, 500]), json_values)
def test_no_json_raises_anything_else(status: int, content: Any) -> None:
    for read in (read_send, read_templates):
        with suppress(WhatsAppError):
            assert read(status, json.dumps(content).encode()) is not None


def test_waits_are_the_longer_of_two_headers_and_minutes_are_minutes() -> None:
    usage = json.dumps({"1": [{"estimated_time_to_regain_access": 5}, {"estimated_time_to_regain_access": "x"}, 3]})
    assert usage_wait({"Retry-After": "7", "X-Business-Use-Case-Usage": usage}) == 300.0
    assert usage_wait({"Retry-After": "700", "x-business-use-case-usage": usage}) == 700.0
    for nonsense in ("", "[]", "{", '{"1": 5}', '{"1": [{"estimated_time_to_regain_access": 0}]}'):
        assert usage_wait({"X-Business-Use-Case-Usage": nonsense}) is None


def test_an_answer_without_an_error_is_not_searched_for_waits() -> None:
    def looked_for() -> float:
        raise AssertionError

    assert read_send(200, b'{"messages": [{"id": "w"}]}', looked_for).wamid == "w"
    with pytest.raises(GraphError) as told:
        read_send(400, b'{"error": {"code": 4}}', lambda: 7.0)
    assert told.value.retry_after == 7.0


# --- the table ------------------------------------------------------------------------------------


@needs_facts
def test_the_table_agrees_with_the_facts() -> None:
    classes = {
        "transient_retry": ErrorClass.TRANSIENT,
        "throttled_wait": ErrorClass.THROTTLE,
        "auth": ErrorClass.AUTH,
        "permanent_request": ErrorClass.REQUEST,
        "recipient_problem": ErrorClass.RECIPIENT,
        "template_problem": ErrorClass.TEMPLATE,
        "policy_block": ErrorClass.POLICY,
        "sender_problem": ErrorClass.SENDER,
    }
    rows = json.loads((SHARED / "facts" / "whatsapp-errors.json").read_text())["codes"]
    numbered = [row for row in rows if isinstance(row["code"], int)]
    assert len(numbered) > 140
    for row in numbered:
        ours = ERROR_CODES[row["code"]]
        told = (classes[row["class"]], row["scope"], row["ambiguous"])
        assert (ours.error_class, ours.scope, ours.ambiguity) == told, row["code"]
    assert ERROR_CODES.keys() == {row["code"] for row in numbered}


@needs_corpus
def test_every_error_sample_parses_to_its_code() -> None:
    index = json.loads((CORPUS / "index.json").read_text())["samples"]
    samples = [row for row in index if row["kind"] == "error.envelope"]
    assert len(samples) >= 40
    for row in samples:
        body = (CORPUS / row["file"]).read_bytes()
        told = json.loads(body)["error"]
        with pytest.raises(GraphError) as caught:
            read_send(row.get("http_status") or 400, body)
        error = caught.value
        assert (error.code, error.subcode) == (told["code"], told.get("error_subcode")), row["file"]
        assert error.code in row["error_codes"]
        assert error.fbtrace_id == told.get("fbtrace_id")
        assert told["message"] not in str(error)


@needs_corpus
def test_every_sample_of_a_good_answer_parses() -> None:
    for file in CORPUS.glob("response_send_message*.json"):
        content = json.loads(file.read_text())
        assert read_send(200, file.read_bytes()).wamid == content["messages"][0]["id"]
    for file in CORPUS.glob("response_template_list*.json"):
        content = json.loads(file.read_text())
        page = read_templates(200, file.read_bytes())
        assert len(page.templates) == sum("status" in row and "language" in row for row in content["data"])
        assert (page.next_after is not None) == ("next" in content.get("paging", {}))


def test_verdicts() -> None:
    assert class_of(100, 33, False, 400) == (ErrorClass.REQUEST, "request")
    for code, verdict in ((131000, Verdict.TRANSIENT), (130429, Verdict.THROTTLED), (131026, Verdict.PERMANENT)):
        judgement = classify_graph(graph_error(code, None, False, 500, 7.0))
        assert (judgement.verdict, judgement.retry_after, judgement.reason) == (verdict, 7.0, f"graph {code}")
    assert classify_graph(AmbiguousOutcomeError(502, "html", 3.0)).retry_after == 3.0
    assert classify_graph(RuntimeError()).verdict is Verdict.UNKNOWN
    assert classify_graph(KeyError()).verdict is Verdict.PERMANENT
    assert "no code" in str(graph_error(None, None, False, 404))
    assert "190/463" in str(graph_error(190, 463, False, 401))


# --- over HTTP ------------------------------------------------------------------------------------

TEMPLATE = {
    "messaging_product": "whatsapp",
    "to": NUMBER,
    "type": "template",
    "template": {"name": "welcome_message", "language": {"code": "fr"}},
}


def client_for(simulator: Simulator, **options: Any) -> GraphClient:
    defaults: dict[str, Any] = {
        "token": simulator.token,
        "phone_number_id": simulator.phone_number_id,
        "waba_id": simulator.waba_id,
        "base_url": simulator.base_url,
    }
    return GraphClient(**{**defaults, **options})


@pytest.mark.parametrize(
    ("fault", "error", "left", "booked"),
    [
        (None, None, True, 1),
        (Fault("error", status=400, code=2), GraphTransientError, True, 0),
        (Fault("reset_before_read"), aiohttp.ClientError, True, 0),
        (Fault("reset_after_accept"), aiohttp.ClientError, True, 1),
        (Fault("hang_after_accept", seconds=30), TimeoutError, True, 1),
        (Fault("html", status=502, accepted=True), AmbiguousOutcomeError, True, 1),
        (Fault("html", status=502), AmbiguousOutcomeError, True, 0),
        (Fault("malformed"), AmbiguousOutcomeError, True, 1),
        (Fault("no_messages"), AmbiguousOutcomeError, True, 1),
        (Fault("string_error"), AmbiguousOutcomeError, True, 0),
        (Fault("empty", status=500), AmbiguousOutcomeError, True, 0),
    ],
)
def test_sending_through_each_fault(
    fault: Fault | None, error: type[Exception] | None, left: bool, booked: int
) -> None:
    async def story() -> None:
        patience = 0.2 if error is TimeoutError else 20.0  # on a slow machine each answer would come too late
        async with Simulator() as simulator, client_for(simulator, read_timeout=patience) as client:
            if fault is not None:
                simulator.script(fault)
            wire = Wire()
            if error is None:
                assert (await client.send_message(TEMPLATE, wire=wire)).message_status == "accepted"
            else:
                with pytest.raises(error):
                    await client.send_message(TEMPLATE, wire=wire)
            assert (wire.left, len(simulator.book.entries)) == (left, booked)
            assert simulator.book.requests["messages"] == 1, "a POST is never sent again by aiohttp"

    asyncio.run(story())


def test_nothing_leaves_for_a_dead_server() -> None:
    async def story() -> None:
        async with Simulator() as simulator:
            async with client_for(simulator) as client:
                await simulator.stop_listening()
                wire = Wire()
                with pytest.raises(aiohttp.ClientConnectorError):
                    await client.send_message(TEMPLATE, wire=wire)
                assert not wire.left
                await simulator.start_listening()
                await client.send_message(TEMPLATE)

    asyncio.run(story())


def test_tokens_may_be_functions_and_sessions_may_be_given() -> None:
    async def story() -> None:
        async with Simulator() as simulator, aiohttp.ClientSession() as session:

            async def token() -> str:
                return simulator.token

            for given in (token, lambda: simulator.token):
                client = client_for(simulator, token=given, session=session)
                assert (await client.send_message(TEMPLATE)).wamid
                await client.aclose()
            assert not session.closed
            with pytest.raises(GraphAuthError):
                await client_for(simulator, token="wrong", session=session).send_message(TEMPLATE)
            with pytest.raises(GraphRequestError) as caught:
                await client_for(simulator, phone_number_id="1", session=session).send_message(TEMPLATE)
            assert (caught.value.code, caught.value.subcode) == (100, 33)
            assert not session.trace_configs  # a session of somebody else's is left as it is
            first = await client_for(simulator, session=session).get_templates_page(limit=4)
            second = await client_for(simulator, session=session).get_templates_page(first.next_after, limit=4)
            assert (len(first.templates), len(second.templates), second.next_after) == (4, 2, None)
            with pytest.raises(ConfigurationError, match="waba_id"):
                await client_for(simulator, waba_id=None, session=session).get_templates_page()

    asyncio.run(story())


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("token", ""),
        ("token", "a\nb"),
        ("token", 5),
        ("phone_number_id", "+33"),
        ("phone_number_id", None),
        ("waba_id", "x"),
        ("base_url", "graph.facebook.com"),
        ("base_url", "https://x/path"),
        ("api_version", "25"),
        ("connect_timeout", 0),
        ("connect_timeout", float("nan")),
        ("read_timeout", float("inf")),
        ("read_timeout", True),
    ],
)
def test_bad_options_are_refused_by_name(option: str, value: Any) -> None:
    good: dict[str, Any] = {"token": "secret-token", "phone_number_id": "1"}
    with pytest.raises(ConfigurationError, match=option) as caught:
        GraphClient(**{**good, option: value})
    assert "secret-token" not in str(caught.value)
    assert "secret-token" not in repr(GraphClient(**good))


def test_the_token_is_in_no_frame_that_an_error_collector_shows() -> None:
    async def token() -> str:
        return "EAAGsecret"

    async def story() -> None:
        for given_token in ("EAAGsecret", lambda: "EAAGsecret", token):
            async with GraphClient(token=given_token, phone_number_id="1", base_url="http://127.0.0.1:1") as client:
                with pytest.raises(aiohttp.ClientError) as caught:
                    await client.send_message({})
                shown = traceback.TracebackException.from_exception(caught.value, capture_locals=True)
                frames = [frame for frame in shown.stack if "resilience_whatsapp" in frame.filename]
                assert "_request" in {frame.name for frame in frames}
                assert "EAAGsecret" not in str([frame.locals for frame in frames])

    asyncio.run(story())


def test_any_object_of_the_api_can_be_read() -> None:
    async def story() -> None:
        async with Simulator() as simulator, client_for(simulator) as client:
            answer = await client.get_object(simulator.phone_number_id, fields="quality_rating")
            assert answer.content == {"quality_rating": "GREEN", "id": simulator.phone_number_id}
            assert "Date" in answer.headers
            assert "GREEN" not in repr(answer)
            with pytest.raises(GraphError, match="code 100/33"):
                await client.get_object("5")
            for path in ("", "/", "../5", "5?x=1", "5//x", "5\n"):
                with pytest.raises(ConfigurationError, match="path"):
                    await client.get_object(path)

    asyncio.run(story())


def test_a_body_marks_its_wire_however_aiohttp_writes_it() -> None:
    class Writer:
        async def write(self, chunk: bytes) -> None:
            assert chunk == b"{}"

    async def story(method: str, *further: None) -> bool:
        wire = Wire()
        await getattr(_Body(b"{}", wire), method)(Writer(), *further)
        await getattr(_Body(b"{}", None), method)(Writer(), *further)
        return wire.left

    assert asyncio.run(story("write"))
    assert asyncio.run(story("write_with_length", None))


@pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning")  # of what a loop that has ended could not close
def test_each_event_loop_has_connections_of_its_own() -> None:
    with SimulatorThread() as simulator:
        options: dict[str, Any] = dict(simulator.client_options)
        client = GraphClient(**options)
        service = WhatsAppService(ResilientWhatsAppClient(client, CircuitBreaker("loops"), Retry(max_attempts=1)))

        async def two() -> list[Any]:
            return [await service.send_text("u", RECIPIENT, "hi") for _ in range(2)]

        def loops() -> None:
            for _ in range(3):
                assert [record.status for record in asyncio.run(two())] == ["accepted", "accepted"]

        threads = [threading.Thread(target=loops) for _ in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert simulator.book.requests["messages"] == 12
        asyncio.run(service.aclose())
        assert not client._sessions
        gc.collect()  # now, while their warnings are ignored

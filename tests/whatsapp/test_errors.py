"""Every code has its class, advice, wait and ambiguity; every body has a documented error, at a bounded cost."""

from __future__ import annotations

import asyncio
import gzip
import json
import pickle
import random
import time
import tracemalloc
import zlib
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest
from aiohttp import web

from resilience_core import Verdict
from resilience_whatsapp import (
    ERROR_CODES,
    ERROR_SUBCODES,
    AmbiguousOutcomeError,
    ErrorClass,
    ErrorCode,
    GraphClient,
    GraphError,
    GraphRequestError,
    GraphSenderError,
    GraphThrottledError,
    RetryAdvice,
    WhatsAppError,
    classify_graph,
)
from resilience_whatsapp._envelope import read_created, read_send, read_success, read_templates
from resilience_whatsapp.errors import graph_error
from resilience_whatsapp.media import read_media, read_upload
from resilience_whatsapp.status import read_health, read_number_status
from tests._cost import size
from tests.whatsapp.corpus import Sample, needs_corpus, samples
from tests.whatsapp.error_page import PAGE, written
from tests.whatsapp.fakes import RECIPIENT, FakeClock, Stub, service_over

VERDICTS = {ErrorClass.TRANSIENT: Verdict.TRANSIENT, ErrorClass.THROTTLE: Verdict.THROTTLED}


@pytest.mark.parametrize("row", [*ERROR_CODES.values(), *ERROR_SUBCODES.values()], ids=lambda row: str(row.code))
def test_each_code_has_its_error_and_its_verdict(row: ErrorCode) -> None:
    error = graph_error(row.code, row.subcode, False, 500)
    assert error.known is row
    told = (error.error_class, error.scope, error.advice, error.wait, error.ambiguity)
    assert told == (row.error_class, row.scope, row.advice, row.wait, row.ambiguity)
    judgement = classify_graph(error)
    assert judgement.verdict is VERDICTS.get(row.error_class, Verdict.PERMANENT)
    assert judgement.scope == row.scope


def test_a_subcode_agrees_with_its_code() -> None:
    for (code, _), row in ERROR_SUBCODES.items():
        assert (row.error_class, row.scope) == (ERROR_CODES[code].error_class, ERROR_CODES[code].scope)


def test_code_1_is_the_platforms_trouble_or_a_bad_request() -> None:
    for status, transient in ((500, False), (400, True)):
        platform = graph_error(1, None, transient, status)
        assert (platform.error_class, platform.ambiguity) == (ErrorClass.TRANSIENT, "medium")
    for status in (400, 401, 429):
        request = graph_error(1, None, False, status)
        told = (request.error_class, request.scope, request.advice, request.ambiguity)
        assert told == (ErrorClass.REQUEST, "request", RetryAdvice.NEVER, "none")


def test_a_header_says_more_about_the_wait_than_the_table() -> None:
    assert GraphThrottledError(132069, None, 400, "flow").wait == 3600.0
    assert GraphThrottledError(132069, None, 400, "flow", 7.0).wait == 7.0
    assert classify_graph(GraphThrottledError(132069, None, 400, "flow")).retry_after == 3600.0
    assert GraphThrottledError(None, None, 429, "app").wait is None
    # That marketing may be sent again tomorrow is no reason to keep a retry waiting.
    assert classify_graph(graph_error(131049, None, False, 400)).retry_after is None


@pytest.mark.parametrize("code", [131048, 131064])
def test_a_restriction_that_lasts_for_hours_is_not_tried_again_within_seconds(code: int) -> None:
    stub = Stub(graph_error(code, None, False, 400))
    with pytest.raises(GraphThrottledError) as caught:
        asyncio.run(service_over(stub, FakeClock()).send_text("u", RECIPIENT, "hi"))
    assert (caught.value.wait, len(stub.payloads)) == (3600.0, 1)


def test_codes_that_are_not_in_the_table_have_the_advice_of_their_class() -> None:
    for status, advice in ((400, RetryAdvice.NEVER), (401, RetryAdvice.FIX), (429, RetryAdvice.WAIT)):
        error = graph_error(999_999, None, False, status)
        assert (error.known, error.advice, error.ambiguity) == (None, advice, "none")
    assert GraphSenderError(None, None, 400, "waba").advice is RetryAdvice.FIX
    assert graph_error(250, None, False, 400).known is ERROR_CODES[200]


def test_an_ambiguous_answer_says_how_ambiguous_it_is() -> None:
    for status, ambiguity in ((503, "medium"), (502, "high"), (200, "high")):
        error = AmbiguousOutcomeError(status, "an answer that is not the API's", 3.0)
        assert (error.ambiguity, error.wait, error.advice) == (ambiguity, 3.0, RetryAdvice.RECONCILE)
        assert error.error_class is ErrorClass.AMBIGUOUS
        assert pickle.loads(pickle.dumps(error)).wait == 3.0


def test_an_error_without_a_status_came_by_webhook() -> None:
    assert str(graph_error(131026, None, False, None)) == (
        "WhatsApp API: this recipient cannot be reached (code 131026, by webhook)"
    )
    assert graph_error(999_999, None, False, None).error_class is ErrorClass.REQUEST


def test_the_page_is_made_of_the_table() -> None:
    page = PAGE.read_text()
    assert page == written(page), "run: python -m tests.whatsapp.error_page"


@needs_corpus
def test_there_are_samples_of_errors() -> None:
    assert len(samples("error.envelope")) >= 40


@pytest.mark.parametrize("sample", samples("error.envelope"), ids=lambda sample: sample.file)
def test_each_sample_has_the_class_of_the_table(sample: Sample) -> None:
    told = sample.content["error"]
    for read in (read_send, read_templates):
        with pytest.raises(GraphError) as caught:
            read(sample.http_status or 400, sample.body)
        error = caught.value
        assert error.code in sample.error_codes
        assert (error.error_class, error.scope) == (
            ERROR_CODES[told["code"]].error_class,
            ERROR_CODES[told["code"]].scope,
        )
        assert (error.subcode, error.fbtrace_id) == (told.get("error_subcode"), told.get("fbtrace_id"))
        assert told["message"] not in str(error)


@pytest.mark.parametrize("sample", samples("response.send_message"), ids=lambda sample: sample.file)
def test_each_sample_of_an_answer_to_a_send_parses(sample: Sample) -> None:
    receipt = read_send(200, sample.body)
    message = sample.content["messages"][0]
    assert (receipt.wamid, receipt.message_status) == (message["id"], message.get("message_status"))
    assert receipt.wa_id == sample.content["contacts"][0].get("wa_id")


@pytest.mark.parametrize("sample", samples("response.template_list"), ids=lambda sample: sample.file)
def test_each_sample_of_a_listing_parses(sample: Sample) -> None:
    page = read_templates(200, sample.body)
    rows = [row for row in sample.content["data"] if {"name", "language", "status"} <= row.keys()]
    told = [(row["name"], row["language"], row["status"], row.get("components", [])) for row in rows]
    assert [(each.name, each.language, each.status, each.components) for each in page.templates] == told
    assert (page.next_after is not None) is ("next" in sample.content.get("paging", {}))


# --- whatever comes ---------------------------------------------------------------------------------

KEYS = ["error", "code", "error_subcode", "is_transient", "fbtrace_id", "message", "messages", "contacts", "id", "data"]
OTHERS = [read_success, read_created, read_upload, read_media, read_number_status, read_health]
MORE = [
    *("paging", "next", "cursors", "after", "name", "language", "status", "components", "error_data", "wa_id", "é"),
    *("success", "url", "sha256", "file_size", "health_status", "entities", "entity_type", "errors", "throughput"),
]
VALUES: list[Any] = [
    None,
    True,
    False,
    0,
    1,
    2,
    -1,
    190,
    131056,
    10**30,
    1.5,
    -1e308,
    "",
    "131047",
    "x" * 300,
    "\ud800",
]


def anything(draw: random.Random, depth: int) -> Any:
    """A value of JSON whose keys are those that the reader looks for."""
    kind = draw.random()
    if depth == 0 or kind < 0.3:
        return draw.choice(VALUES)
    if kind < 0.5:
        return [anything(draw, depth - 1) for _ in range(draw.randrange(3))]
    return {draw.choice(KEYS + MORE): anything(draw, depth - 1) for _ in range(draw.randrange(1, 5))}


def a_body(draw: random.Random) -> bytes:
    """JSON, JSON that was cut or damaged, or mere bytes."""
    kind = draw.random()
    if kind < 0.1:
        return draw.randbytes(draw.randrange(60))
    content = anything(draw, 4)
    if kind < 0.5:
        content = {"error": content}
    body = bytearray(json.dumps(content).encode("utf-8", "surrogatepass"))
    if kind > 0.9:
        del body[draw.randrange(len(body) + 1) :]
    elif kind > 0.8:
        body[draw.randrange(len(body))] = draw.randrange(256)
    return bytes(body)


def error_in(read: Callable[[int, bytes], Any], status: int, body: bytes) -> WhatsAppError | None:
    """The documented error; any other one fails the test."""
    try:
        read(status, body)
    except WhatsAppError as error:
        return error
    return None


def test_no_body_raises_anything_but_the_documented_errors() -> None:
    draw = random.Random(7)
    for _ in range(size(100_000, 10_000)):
        status, body = draw.choice([200, 201, 204, 301, 400, 401, 404, 429, 500, 503, 599]), a_body(draw)
        for read in (read_send, read_templates, draw.choice(OTHERS)):
            error = error_in(read, status, body)
            if error is not None:
                assert classify_graph(error).verdict is not Verdict.SUCCESS
                assert isinstance(error, (GraphError, AmbiguousOutcomeError))
                assert str(error).startswith("WhatsApp API: ")


@pytest.mark.parametrize(
    "body",
    [
        b'{"error":' * 7_000,
        b"[" * 65_536,
        b'{"error":{"code":' + b"9" * 65_000 + b"}}",
        b'{"error":{"code":"' + b"9" * 65_000 + b'"}}',
        b'{"error":{"fbtrace_id":"' + b"x" * 65_000 + b'"}}',
        b'{"messages":[' + b"{}," * 20_000 + b"{}]}",
    ],
    ids=["nested", "lists", "number", "digits", "long", "many"],
)
@pytest.mark.parametrize("status", [200, 400, 500])
def test_hostile_bodies_cost_little(status: int, body: bytes) -> None:
    tracemalloc.start()
    try:
        started = time.process_time()
        with suppress(WhatsAppError):
            read_send(status, body)
        assert time.process_time() - started < 5.0
        assert tracemalloc.get_traced_memory()[1] < 20_000_000
    finally:
        tracemalloc.stop()


GOOD = json.dumps({"messages": [{"id": "wamid.1"}]}).encode()
REFUSED = json.dumps({"error": {"code": 100}}).encode()


@pytest.mark.parametrize(
    ("status", "body", "encoding", "error"),
    [
        (200, gzip.compress(GOOD), "gzip", None),
        (200, zlib.compress(GOOD), "deflate", None),
        (200, GOOD, "identity", None),
        (400, gzip.compress(REFUSED), "GZIP", GraphRequestError),
        (500, gzip.compress(b" " * 50_000_000, 1), "gzip", AmbiguousOutcomeError),
        (200, gzip.compress(GOOD)[:-12], "gzip", AmbiguousOutcomeError),
        (200, b"not packed", "gzip", AmbiguousOutcomeError),
        (200, GOOD, "br", None),
        (400, b"x" * 10_000_000, "identity", GraphRequestError),
    ],
    ids=["gzip", "deflate", "plain", "error", "bomb", "cut", "lie", "unknown", "long"],
)
def test_packed_and_endless_answers_are_read_to_64_kib(
    status: int, body: bytes, encoding: str, error: type[WhatsAppError] | None
) -> None:
    async def answer(request: web.Request) -> web.StreamResponse:
        await request.read()
        response = web.StreamResponse(status=status, headers={"Content-Encoding": encoding})
        await response.prepare(request)
        with suppress(ConnectionError):  # the client hangs up when it has read enough
            await response.write(body)
        return response

    async def story() -> None:
        app = web.Application()
        app.router.add_post("/{path:.*}", answer)
        runner = web.AppRunner(app, shutdown_timeout=0.1)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        base_url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        try:
            async with GraphClient(token="t", phone_number_id="1", base_url=base_url) as client:
                tracemalloc.start()
                if error is None:
                    assert (await client.send_message({})).wamid == "wamid.1"
                else:
                    with pytest.raises(error):
                        await client.send_message({})
                assert tracemalloc.get_traced_memory()[1] < 30_000_000
        finally:
            tracemalloc.stop()
            await runner.cleanup()

    asyncio.run(story())

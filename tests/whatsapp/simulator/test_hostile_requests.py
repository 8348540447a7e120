"""Requests that nobody should send: each is answered with an envelope or says what is wrong, and harms nobody else."""

from __future__ import annotations

import asyncio
import contextlib
import json
from typing import Any

import pytest

from resilience_whatsapp.simulator import Fault, FaultError, Limits, LimitsError, ManualClock, SimTemplate, wire
from tests.whatsapp.simulator.tools import TEXT, USER, Api, clock_of, receiver, run, until

ORDER = SimTemplate("order", "fr", components=[{"type": "BODY", "text": "Votre commande est ici."}])
FORM = {"Content-Type": "multipart/form-data; boundary=X"}


async def answer_of(api: Api, method: str, path: str, **options: Any) -> tuple[int, Any]:
    async with api.session.request(method, api.simulator.base_url + path, **options) as response:
        return response.status, json.loads(await response.text())


def form(*parts: tuple[str, bytes]) -> bytes:
    rows = [b"--X\r\n" + head.encode() + b"\r\n\r\n" + body + b"\r\n" for head, body in parts]
    return b"".join([*rows, b"--X--\r\n"])


def named(name: str, more: str = "") -> str:
    return f'Content-Disposition: form-data; name="{name}"' + more


# --- messages ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fields", [{"to": None, "recipient": "\ud800"}, {"to": "\ud800", "recipient_type": "group"}])
def test_half_a_surrogate_in_the_name_of_a_recipient_is_taken_and_told(fields: dict[str, Any]) -> None:
    async def story(api: Api) -> None:
        async with receiver() as hook:
            await api.simulator.subscribe(hook.url)
            assert await api.code(**fields) is None
            await clock_of(api).advance(3600.0)
            await until(lambda: len(hook.statuses()) >= 2 and api.simulator.webhooks.so_far().pending == 0)

    run(story, clock=ManualClock())


def test_a_read_receipt_to_marketing_messages_is_no_marketing_message_whatever_else_it_has() -> None:
    async def story(api: Api) -> None:
        content = {"messaging_product": "whatsapp", "status": "read", "message_id": "wamid.x", "type": "template"}
        path = f"/v25.0/{api.simulator.phone_number_id}/marketing_messages"
        assert (await api.ask("POST", path, content))[1]["error"]["code"] == 134100

    run(story)


def test_the_index_of_a_button_may_have_any_number_of_digits() -> None:
    async def story(api: Api) -> None:
        button = {"type": "button", "index": "9" * 5000}
        content = {"name": "order", "language": {"code": "fr"}, "components": [button]}
        assert await api.code(type="template", template=content) == 132018

    run(story, templates=[ORDER])


def test_a_body_that_is_not_packed_as_it_says_is_refused() -> None:
    async def story(api: Api) -> None:
        headers = {"Content-Encoding": "gzip", "Content-Type": "application/json"}
        path = f"/v25.0/{api.simulator.phone_number_id}/messages"
        status, answer = await answer_of(api, "POST", path, data=b"no gzip", headers=headers)
        assert (status, answer["error"]["code"]) == (400, 100)

    run(story)


# --- media ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "body",
    [
        b"--X\r\nno header\r\n\r\nabc\r\n--X--\r\n",
        b'--X\r\nContent-Disposition: form-data; name="' + b"a" * 200_000 + b'"\r\n\r\nabc\r\n--X--\r\n',
        form((named("messaging_product"), b"whatsapp"), (named("type"), b"image/png;\r\nX: y"), (named("file"), b"a")),
    ],
    ids=["header", "long header", "type of two lines"],
)
def test_an_upload_that_is_no_form_or_has_no_type_is_refused(body: bytes) -> None:
    async def story(api: Api) -> None:
        path = f"/v25.0/{api.simulator.phone_number_id}/media"
        status, answer = await answer_of(api, "POST", path, data=body, headers=FORM)
        assert (status, answer["error"]["code"]) == (400, 100)

    run(story)


def test_fields_of_an_upload_that_nobody_knows_change_nothing() -> None:
    async def story(api: Api) -> None:
        path = f"/v25.0/{api.simulator.phone_number_id}/media"
        known = (named("messaging_product"), b"whatsapp"), (named("file", "\r\nContent-Type: image/png"), b"abc")
        status, answer = await answer_of(
            api, "POST", path, data=form(*known, *((named(f"x{index}"), b"y") for index in range(5))), headers=FORM
        )
        assert (status, answer.keys()) == (200, {"id"})

    run(story)


@pytest.mark.parametrize("host", [b"[", b""])
def test_a_client_without_a_usable_host_is_told_an_url_all_the_same(host: bytes) -> None:
    async def story(api: Api) -> None:
        media_id = api.simulator.add_media(b"a picture", "image/png")
        reader, writer = await asyncio.open_connection("127.0.0.1", api.simulator.port)
        token = api.simulator.token.encode()
        writer.write(
            b"GET /v25.0/%s HTTP/1.1\r\nHost: %s\r\nAuthorization: Bearer %s\r\nConnection: close\r\n\r\n"
            % (media_id.encode(), host, token)
        )
        head, _, body = (await reader.read()).partition(b"\r\n\r\n")
        writer.close()
        await writer.wait_closed()
        assert head.startswith(b"HTTP/1.1 200")
        assert json.loads(body)["url"].startswith(api.simulator.base_url)

    run(story)


# --- steering ---------------------------------------------------------------------------------------------------------

STEERING = [
    ("block", '{"code": 368, "waba_id": "102290129340398", "seconds": Infinity}', "seconds"),
    ("block", '{"code": 368, "waba_id": "102290129340398", "seconds": NaN}', "seconds"),
    ("block", '{"code": 368, "waba_id": "102290129340398", "seconds": -1}', "seconds"),
    ("block", '{"code": 368, "waba_id": "102290129340398", "seconds": true}', "seconds"),
    ("block", '{"code": true}', "code"),
    ("limits", '{"status": 9999}', "status"),
    ("limits", '{"status": 429.5}', "status"),
    ("limits", '{"messaging_code": 1.5}', "messaging_code"),
    ("limits", '{"messaging": 1e999}', "messaging"),
    ("limits", '{"messaging": 2.5}', "messaging"),
    ("limits", '{"throughput": 1e999}', "throughput"),
    ("inbound", '{"from": "33612345678", "kind": "from"}', "kind"),
    ("inbound", '{"from": "33612345678", "kind": ""}', "kind"),
    (
        "templates",
        '{"name": "order", "components": [{"type": "BODY"}, {"type": "BUTTONS", "buttons": 5}]}',
        "components",
    ),
    (
        "templates",
        '{"name": "order", "components": [{"type": "BODY"}, {"type": "BUTTONS", "buttons": [5]}]}',
        "components",
    ),
    ("templates", '{"name": "order", "status": "PAUSED", "after": 1e999}', "after"),
    ("templates", '{"name": "order", "status": "PAUSED", "lasts": 1e999}', "lasts"),
    ("templates", '{"review": {"seconds": 1e999}}', "seconds"),
    ("tokens", '{"expires_in": 1e999}', "expires_in"),
    ("report", "no JSON", "records"),
    ("webhooks", '{"url": "http://[::1"}', "url"),
    ("webhooks", '{"url": "http://127.0.0.1:99999/"}', "url"),
    ("webhooks", '{"url": "http://\\ud800/"}', "url"),
    ("webhooks", '{"url": "http://127.0.0.1/", "app_secret": "\\ud800"}', "app_secret"),
    ("webhooks", '{"url": "http://127.0.0.1/", "verify_token": "\\ud800"}', "verify_token"),
    ("faults", '{"kind": "error", "headers": {"Content-Length": "5"}}', "headers"),
    ("faults", '{"kind": "error", "headers": {"transfer-encoding": "chunked"}}', "headers"),
]


@pytest.mark.parametrize(("route", "body", "field"), STEERING)
def test_steering_that_cannot_be_is_refused_with_the_name_of_the_field(route: str, body: str, field: str) -> None:
    async def story(api: Api) -> None:
        status, answer = await answer_of(api, "POST", f"/_sim/{route}", data=body)
        assert (status, field in answer["error"]) == (400, True), answer
        assert await api.code() is None
        assert not api.simulator.webhooks.receivers

    run(story, templates=[ORDER])


@pytest.mark.parametrize("kind", ["error", "string_error", "no_code", "json", "html", "empty"])
def test_what_a_fault_makes_up_has_its_headers_and_also_another_content_type(kind: str) -> None:
    async def story(api: Api) -> None:
        api.simulator.script(Fault(kind, body={}, headers={"Retry-After": "7", "Content-Type": "text/odd"}))
        url = f"{api.simulator.base_url}/v25.0/{api.simulator.phone_number_id}/messages"
        async with api.session.post(url, json=TEXT) as response:
            assert (response.headers["Retry-After"], response.headers["Content-Type"]) == ("7", "text/odd")

    run(story)


def test_limits_are_whole_where_things_are_counted() -> None:
    with pytest.raises(LimitsError, match=r"limits\.pair_burst must be a whole number"):
        Limits(pair_burst=1.5)  # type: ignore[arg-type]
    with pytest.raises(LimitsError, match=r"limits\.status must be an HTTP status"):
        Limits(status=99)
    with pytest.raises(FaultError, match=r"fault\.headers"):
        Fault("error", headers={"content-length": "5"})


def test_one_receiver_that_cannot_be_told_does_not_lose_what_others_are_told() -> None:
    async def story(api: Api) -> None:
        async with receiver() as hook:
            await api.simulator.subscribe("http://a..b/")
            await api.simulator.subscribe(hook.url)
            api.simulator.inbound(USER)
            await hook.until(1)
            await until(lambda: api.simulator.report().webhooks.repeated == 1)

    run(story)


def test_a_connection_that_is_closed_already_can_be_reset_again() -> None:
    async def story(api: Api) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", api.simulator.port)
        assert api.simulator._runner is not None
        server = api.simulator._runner.server
        assert server is not None
        await until(lambda: server.connections)
        (transport,) = [connection.transport for connection in server.connections]
        assert transport is not None
        wire.reset_transport(transport)
        wire.reset_transport(transport)
        with pytest.raises(ConnectionResetError):
            await reader.read()
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()

    run(story)

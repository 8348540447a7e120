"""The simulator's answers have the keys and the types of real ones, which are read in place and never copied."""

from __future__ import annotations

import asyncio
import json
from collections import defaultdict
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from resilience_whatsapp.simulator import Fault, ManualClock, Receiver, SimTemplate, Simulator, Statuses
from resilience_whatsapp.simulator.webhooks.events import failure
from tests.whatsapp.simulator.tools import Api, clock_of, receiver, run

CORPUS = Path(__file__).parents[4] / "shared" / "corpus"
pytestmark = pytest.mark.skipif(not CORPUS.is_dir(), reason=f"no samples at {CORPUS}: they are not part of the project")
TEXT = {"messaging_product": "whatsapp", "to": "+33612345678", "type": "text", "text": {"body": "hi"}}
TEMPLATE = {**TEXT, "type": "template", "template": {"name": "order_confirmation", "language": {"code": "fr"}}}
ALWAYS = {"message", "type", "code", "fbtrace_id"}
SEEN_ELSEWHERE = {"error_user_title", "error_user_msg"}
"""Keys of template and registration errors (136024); no error of a send has them."""


def sample(name: str) -> Any:
    return json.loads((CORPUS / f"{name}.json").read_text())


def samples(kind: str) -> list[str]:
    return [path.stem for path in sorted(CORPUS.glob(f"{kind}__*.json"))]


def shape(content: Any) -> Any:
    if isinstance(content, dict):
        return {key: shape(value) for key, value in content.items()}
    if isinstance(content, list):
        return [shape(content[0])] if content else []
    return type(content).__name__


def ask(method: str, path: str, payload: Any = None, *, fault: Fault | None = None, token: bool = True, **options: Any):
    files: dict[str, str] = options.pop("files", {})

    async def inside() -> tuple[int, Any]:
        async with Simulator(**options) as simulator:
            for media_id, mime_type in files.items():
                simulator.add_media(b"file", mime_type, media_id=media_id)
            if fault is not None:
                simulator.script(fault)
            headers = {"Authorization": f"Bearer {simulator.token}"} if token else {}
            url = f"{simulator.base_url}/v25.0/" + path.format(phone=simulator.phone_number_id, waba=simulator.waba_id)
            async with (
                aiohttp.ClientSession(headers=headers) as session,
                session.request(method, url, json=payload) as response,
            ):
                assert response.content_type == "application/json"
                return response.status, await response.json()

    return asyncio.run(inside())


def send(payload: Any, **options: Any) -> tuple[int, Any]:
    return ask("POST", "{phone}/messages", payload, **options)


# --- errors ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", samples("error_envelope"))
def test_scripted_envelopes_have_the_keys_of_every_sample(name: str) -> None:
    real = sample(name)["error"]
    fault = Fault(
        "error",
        code=real["code"],
        subcode=real.get("error_subcode"),
        is_transient=real.get("is_transient"),
        details=real.get("error_data", {}).get("details"),
    )
    simulated = send(TEXT, fault=fault)[1]["error"]
    assert simulated.keys() >= ALWAYS
    for key in real.keys() - SEEN_ELSEWHERE:
        assert key in simulated
        if isinstance(real[key], dict):
            assert shape(real[key]).items() <= shape(simulated[key]).items()
        else:
            assert type(simulated[key]) is type(real[key])


def test_scripted_envelopes_have_no_key_that_no_sample_of_their_code_has() -> None:
    seen: dict[int, set[str]] = defaultdict(lambda: set(ALWAYS))
    for name in samples("error_envelope"):
        real = sample(name)["error"]
        seen[real["code"]] |= real.keys()
    for code, keys in seen.items():
        if code >= 130000:
            keys.add("error_data")  # a sample without it comes from a test that left it out
        assert set(send(TEXT, fault=Fault("error", code=code))[1]["error"]) <= keys, code


@pytest.mark.parametrize(
    ("name", "status", "provoke"),
    [
        ("error_envelope__whaloc_captured_132000", 400, lambda: send(TEMPLATE)),
        ("error_envelope__400_100_param_to", 400, lambda: send({**TEXT, "to": "12"})),
        ("error_envelope__java_phonenumbernotfounderror", 400, lambda: ask("GET", "454545")),
        ("error_envelope__java_phonenumbernotfounderror", 400, lambda: ask("POST", "454545/messages", TEXT)),
    ],
    ids=["132000", "100 to", "100/33 get", "100/33 post"],
)
def test_what_the_simulator_refuses_looks_exactly_like_a_sample(name: str, status: int, provoke: Any) -> None:
    got, answer = provoke()
    real = sample(name)
    assert got == status
    assert shape(answer) == shape(real)
    assert [answer["error"].get(key) for key in ("code", "type", "error_subcode")] == [
        real["error"].get(key) for key in ("code", "type", "error_subcode")
    ]


def test_a_refused_token_and_recipient_have_the_keys_of_a_sample() -> None:
    status, refused = send(TEXT, token=False)
    real = sample("error_envelope__401_190_invalid_token")
    real["error"].pop("error_subcode")  # 463 says expired; a token that never was one has none
    assert (status, shape(refused)) == (401, shape(real))
    status, refused = send(TEXT, allowed_recipients=["1"])
    real = sample("error_envelope__400_131030_with_subcode")
    assert (status, refused["error"]["error_subcode"]) == (400, real["error"]["error_subcode"])
    assert refused["error"].keys() == real["error"].keys() | {"error_data"}


@pytest.mark.parametrize("name", samples("error_envelope"))
def test_any_sample_can_be_replayed_as_it_is(name: str) -> None:
    assert send(TEXT, fault=Fault("json", status=418, body=sample(name))) == (418, sample(name))


# --- answers --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "answer"),
    [
        ("response_send_message__example_response", lambda: send(TEXT)),
        (
            "response_send_message__schema_example_with_message_status",
            lambda: send({**TEMPLATE, "template": {"name": "welcome_message", "language": {"code": "fr"}}}),
        ),
        (
            "response_mark_read__send_typing_indicator_and_read_receipt",
            lambda: send(sample("request_mark_read__send_typing_indicator_and_read_receipt")),
        ),
        ("response_get_business_phone_number__pywa_docstring", lambda: ask("GET", "{phone}")),
    ],
    ids=["text", "template", "read", "number"],
)
def test_answers_have_exactly_the_keys_of_a_sample(name: str, answer: Any) -> None:
    status, content = answer()
    assert (status, shape(content)) == (200, shape(sample(name)))


def test_a_listing_has_the_keys_of_the_samples() -> None:
    templates = [SimTemplate("a", "fr", header_parameters=1, parameters=2), SimTemplate("b", "fr")]
    listed = ask("GET", "{waba}/message_templates?limit=1", templates=templates)[1]
    real = sample("response_template_list__doc_status_approved_filter")
    assert shape(listed["paging"]) == shape(real["paging"])
    row = listed["data"][0]
    assert shape(real["data"][0]).items() <= shape(row).items()
    with_header = sample("response_template_list__java_rettemplate1")["data"][0]
    assert row.keys() - with_header.keys() == {"parameter_format"}
    body = next(component for component in with_header["components"] if component["type"] == "BODY")
    assert shape(row["components"][1]) == shape(body)
    last = ask("GET", "{waba}/message_templates", templates=templates)[1]
    assert shape(last["paging"]) == shape(sample("response_template_list__openapi_example_response")["paging"])


@pytest.mark.parametrize("name", samples("request_send_message"))
def test_requests_of_the_samples_are_taken(name: str) -> None:
    payload = {**sample(name), "to": "+33612345678"}
    templates = []
    if payload.get("type") == "template":
        content = payload["template"]
        counts = {"header": 0, "body": 0}
        for component in content.get("components", []):
            if component["type"] in counts:
                counts[component["type"]] += len(component["parameters"])
        language = content["language"]["code"]
        templates = [
            SimTemplate(content["name"], language, parameters=counts["body"], header_parameters=counts["header"])
        ]
    status, answer = send(payload, templates=templates, files=files_of(payload))
    assert (status, list(answer)) == (200, ["messaging_product", "contacts", "messages"])


def files_of(content: Any) -> dict[str, str]:
    """The ids of files anywhere in a message, with a type that fits."""
    types = {"image": "image/png", "sticker": "image/webp", "video": "video/mp4"}
    found: dict[str, str] = {}
    for key, inner in content.items() if isinstance(content, dict) else ():
        if key in types and "id" in inner:
            found[inner["id"]] = types[key]
        for each in inner if isinstance(inner, list) else [inner]:
            found |= files_of(each)
    return found


# --- webhooks -------------------------------------------------------------------------------------


def told(version: str, **message: Any) -> tuple[list[Any], list[Any]]:
    """Statuses and messages as a receiver of this version gets them."""

    async def story(api: Api) -> tuple[list[Any], list[Any]]:
        async with receiver() as hook:
            await api.simulator.subscribe(Receiver(hook.url, version=version))
            await api.send(biz_opaque_callback_data="id", **message)
            api.simulator.inbound("16505551234", "Does it come in another color?")
            for count in (2, 3, 4):
                await clock_of(api).advance(1.0)
                await hook.until(count)
            inbound = [value for value in hook.values() if "messages" in value]
            return hook.statuses(), inbound

    statuses = Statuses(sent=(1, 1), delivered=(1, 1), read=(1, 1), reads=1.0)
    return run(story, clock=ManualClock(), statuses=statuses)


def value_of(name: str) -> Any:
    return sample(name)["entry"][0]["changes"][0]["value"]


def test_a_status_of_an_old_version_has_the_keys_of_a_sample() -> None:
    sent = told("v23.0")[0][0]
    real = value_of("webhook_status__pywa_with_tracker")["statuses"][0]
    assert sent.pop("pricing").keys() == real.pop("pricing").keys() | {"type"}, "which came with PMP"
    assert shape(sent) == shape(real)


def test_a_status_of_a_new_version_has_the_keys_of_a_sample_and_of_the_request() -> None:
    sent = told("v25.0")[0][0]
    real = value_of("webhook_status__doc_v24_no_conversation_no_pricing")["statuses"][0]
    assert sent.keys() - real.keys() == {"pricing", "biz_opaque_callback_data"}
    assert shape(real).items() <= shape(sent).items()


def test_a_message_that_came_in_has_the_keys_of_a_sample() -> None:
    assert shape(told("v25.0")[1][0]) == shape(value_of("webhook_message__whaloc_text"))


def test_a_failure_has_the_keys_of_a_sample() -> None:
    real = value_of("webhook_status__java_reengagementmessageerror")["statuses"][0]["errors"][0]
    assert shape(failure(131047)) == shape(real)

"""Clients that no one here wrote send through the simulator, unchanged but for their base address.

* pywa has no setting for that address: it writes Meta's into the `httpx.Client` that it is given. Assigning `base_url`
  of that session afterwards is public httpx.
* heyoo keeps its addresses in attributes.
* waba-sdk has a setting.

Nothing of them is patched. The test of each is the same story, told in its own words.
"""

from __future__ import annotations

import asyncio
import hashlib
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import heyoo
import httpx
import pytest

from resilience_whatsapp.simulator import Fault, SimTemplate, SimulatorThread

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # what another library warns about at import is not ours
    import pywa.types.templates as pywa_templates
    import waba_sdk
    from pywa.client import WhatsApp
    from pywa.errors import WhatsAppError
    from pywa.types.templates import BodyText, TemplateLanguage
    from waba_sdk import templates as waba_templates

NUMBER = "+33612345678"
PICTURE = b"\xff\xd8\xff" + bytes(2000)
TEMPLATE = "order_confirmation"
CREATED = SimTemplate(
    "reservation",
    "en_US",
    components=[
        {"type": "HEADER", "format": "IMAGE"},
        {"type": "BODY", "text": "Your table for {{guests}} on {{day}} is confirmed."},
        {"type": "BUTTONS", "buttons": [{"type": "URL", "text": "Open", "url": "https://example.org/{{1}}"}]},
    ],
    parameter_format="NAMED",
)
body_params: Any = BodyText.params  # works on the class and on an instance, which its types cannot say


@pytest.fixture
def simulator() -> Iterator[SimulatorThread]:
    with SimulatorThread() as running:
        yield running


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    path = tmp_path / "door.jpg"
    path.write_bytes(PICTURE)
    return path


def booked(simulator: SimulatorThread) -> list[tuple[str, str | None, bool]]:
    return [(entry.type, entry.template, entry.answered) for entry in simulator.book.entries]


# --- pywa ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def client(simulator: SimulatorThread) -> Iterator[WhatsApp]:
    api = simulator.simulator
    with httpx.Client() as session:
        whatsapp = WhatsApp(phone_id=api.phone_number_id, waba_id=api.waba_id, token=api.token, session=session)
        session.base_url = f"{simulator.base_url}/v26.0"
        yield whatsapp


def test_pywa_sends_a_text_and_a_template(simulator: SimulatorThread, client: WhatsApp) -> None:
    assert client.send_message(to=NUMBER, text="bonjour").id.startswith("wamid.")
    sent = client.send_template(
        to=NUMBER,
        name=TEMPLATE,
        language=TemplateLanguage.FRENCH,
        params=[body_params("7", "demain")],
        tracker="order-7",
    )
    last = simulator.book.entries[-1]
    assert (sent.id, last.opaque, last.answered) == (last.wamid, "order-7", True)
    assert [entry.template for entry in simulator.book.entries] == [None, TEMPLATE]


def test_pywa_uploads_sends_downloads_and_deletes_media(
    simulator: SimulatorThread, client: WhatsApp, picture: Path
) -> None:
    media = client.upload_media(picture)
    client.send_image(to=NUMBER, image=media.id, caption="this door")
    client.send_image(to=NUMBER, image=picture)  # uploads it by itself
    assert booked(simulator) == [("image", None, True)] * 2
    told = client.get_media_url(media.id)
    assert (told.sha256, told.file_size) == (hashlib.sha256(PICTURE).hexdigest(), len(PICTURE))
    assert client.get_media_bytes(told.url) == PICTURE
    assert client.delete_media(media.id)
    with pytest.raises(WhatsAppError) as gone:
        client.send_image(to=NUMBER, image=media.id)
    assert gone.value.code == 100


def test_pywa_creates_reads_edits_and_deletes_templates(simulator: SimulatorThread, client: WhatsApp) -> None:
    listed = client.get_templates(statuses=[pywa_templates.TemplateStatus.APPROVED], name=TEMPLATE)
    assert [(each.name, each.language.value) for each in listed] == [(TEMPLATE, "fr"), (TEMPLATE, "en_US")]
    created = client.create_template(
        pywa_templates.Template(
            name="parcel_here",
            language=TemplateLanguage.ENGLISH_US,
            category=pywa_templates.TemplateCategory.UTILITY,
            components=[BodyText("Parcel {{1}} is here.", "7")],
        )
    )
    assert created.status == pywa_templates.TemplateStatus.PENDING
    assert client.get_template(created.id).name == "parcel_here"
    with pytest.raises(WhatsAppError) as refused:
        client.update_template(created.id, new_components=[BodyText("Parcel {{1}} came.", "7")])
    assert (refused.value.subcode, refused.value.user_title) == (2388039, "Template status can't be changed")
    assert client.delete_template("parcel_here")
    assert len(client.get_templates(name="parcel_here")) == 0


def test_pywa_reads_number_and_account(simulator: SimulatorThread, client: WhatsApp) -> None:
    number = client.get_business_phone_number()
    assert (number.quality_rating, number.id) == ("GREEN", simulator.simulator.phone_number_id)
    assert client.get_business_account().id == simulator.simulator.waba_id
    assert [each.id for each in client.get_business_phone_numbers()] == [number.id]
    assert client.register_phone_number(pin="123456")


def test_pywa_marks_as_read(simulator: SimulatorThread, client: WhatsApp) -> None:
    assert client.mark_message_as_read("wamid.x")
    assert simulator.book.entries == []


def test_pywa_understands_the_errors(simulator: SimulatorThread, client: WhatsApp) -> None:
    with pytest.raises(WhatsAppError) as refused:
        client.send_template(to=NUMBER, name=TEMPLATE, language=TemplateLanguage.FRENCH, params=[])
    assert (refused.value.code, refused.value.status_code) == (132000, 400)
    assert "expected number of params (2)" in str(refused.value.details)
    simulator.script(Fault("error", code=131056), Fault("html"))
    for code in (131056, 502):  # pywa takes the status for the code of an answer that is no JSON
        with pytest.raises(WhatsAppError) as failed:
            client.send_message(to=NUMBER, text="bonjour")
        assert failed.value.code == code


# --- heyoo --------------------------------------------------------------------------------------------------------


@pytest.fixture
def functions(simulator: SimulatorThread) -> Any:
    api = simulator.simulator
    whatsapp = heyoo.WhatsApp(api.token, api.phone_number_id)
    whatsapp.base_url = whatsapp.v15_base_url = f"{simulator.base_url}/v26.0"
    whatsapp.url = f"{whatsapp.base_url}/{api.phone_number_id}/messages"
    return whatsapp


def test_heyoo_sends_texts_templates_and_media(
    simulator: SimulatorThread, functions: Any, picture: Path, tmp_path: Path
) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)  # it never closes the file that it uploads
        media_id = functions.upload_media(str(picture))["id"]
    parameters = [{"type": "text", "text": "7"}, {"type": "text", "text": "demain"}]
    answers = [
        functions.send_message("bonjour", NUMBER),
        functions.send_template(TEMPLATE, NUMBER, [{"type": "body", "parameters": parameters}], lang="fr"),
        functions.send_image(media_id, NUMBER, link=False),
        functions.send_image("https://example.org/door.jpg", NUMBER),
    ]
    assert [answer["messages"][0]["id"] for answer in answers] == [entry.wamid for entry in simulator.book.entries]
    assert booked(simulator) == [
        ("text", None, True),
        ("template", TEMPLATE, True),
        ("image", None, True),
        ("image", None, True),
    ]
    assert functions.mark_as_read("wamid.x") == {"success": True}
    saved = functions.download_media(functions.query_media_url(media_id), "image/jpeg", str(tmp_path / "again"))
    assert Path(saved).read_bytes() == PICTURE
    assert functions.delete_media(media_id) == {"success": True}


def test_heyoo_is_told_of_errors(simulator: SimulatorThread, functions: Any) -> None:
    answer = functions.send_template("missing", NUMBER, [], lang="fr")
    assert (answer["error"]["code"], answer["error"]["type"]) == (132001, "OAuthException")
    functions.headers["Authorization"] = "Bearer another"
    assert functions.send_message("bonjour", NUMBER)["error"]["code"] == 190
    assert functions.query_media_url("5") is None
    assert simulator.book.entries == []


# --- waba-sdk -----------------------------------------------------------------------------------------------------


def test_waba_sdk_tells_the_same_story(simulator: SimulatorThread) -> None:
    api = simulator.simulator
    api.templates.append(CREATED)

    async def story() -> None:
        async with waba_sdk.WhatsApp(
            token=api.token,
            phone_number_id=api.phone_number_id,
            waba_id=api.waba_id,
            api_version="v26.0",
            base_url=simulator.base_url,
            max_retries=0,
        ) as client:
            media_id = await client.media.upload(PICTURE, mime_type="image/jpeg")
            await client.send_text(NUMBER, "bonjour")
            await client.send_image(NUMBER, media_id=media_id)
            await client.send_template(
                NUMBER,
                TEMPLATE,
                "fr",
                components=[
                    {"type": "body", "parameters": [{"type": "text", "text": text} for text in ("7", "demain")]}
                ],
            )
            assert (await client.media.download(media_id)).content == PICTURE
            assert await client.mark_read("wamid.x", typing=True) == {"success": True}
            await templates(client)
            await errors(client)

    async def templates(client: Any) -> None:
        listed = await client.templates.list(status=[waba_templates.TemplateStatus.APPROVED], limit=50)
        assert {(each.name, each.language) for each in listed.data} >= {(TEMPLATE, "fr"), ("reservation", "en_US")}
        created = await client.templates.create(
            waba_templates.TemplateCreate(
                name="parcel_here",
                language="fr",
                category=waba_templates.TemplateCategory.UTILITY,
                components=[{"type": "BODY", "text": "Bonjour !"}],
            )
        )
        assert (await client.templates.get(created.id)).status == "PENDING"
        assert (await client.templates.delete(template_id=created.id))["success"]

    async def errors(client: Any) -> None:
        with pytest.raises(waba_sdk.WhatsAppError) as refused:
            await client.send_template(NUMBER, TEMPLATE, "fr")
        assert (refused.value.error_code, refused.value.status_code) == (132000, 400)
        simulator.script(Fault("error", code=4))
        with pytest.raises(waba_sdk.RateLimitError):
            await client.send_text(NUMBER, "bonjour")

    asyncio.run(story())
    assert booked(simulator) == [("text", None, True), ("image", None, True), ("template", TEMPLATE, True)]

"""Media of the simulator: upload, look-up, download in two hops, deletion, and what messages may do with an id."""

from __future__ import annotations

import base64
import hashlib
from typing import Any

import aiohttp
import pytest

from resilience_whatsapp.simulator import Fault, ManualClock
from resilience_whatsapp.simulator.state.media import INBOUND_LIFE, LIMITS, UPLOAD_LIFE, URL_LIFE
from resilience_whatsapp.webhooks import InboundMessage, read_webhook
from tests.whatsapp.simulator.tools import USER, Api, clock_of, receiver, run

PICTURE = b"\xff\xd8\xff picture"


def play(story: Any, **options: Any) -> Any:
    return run(story, **{"clock": ManualClock(), **options})


async def upload(api: Api, content: bytes = PICTURE, mime_type: str = "image/jpeg", **changes: Any) -> tuple[int, Any]:
    fields = {"messaging_product": "whatsapp", "type": mime_type, **changes}
    form = aiohttp.FormData()
    form.add_field("file", content, filename="a", content_type=mime_type)
    for name, value in fields.items():
        if value is not None:
            form.add_field(name, value)
    return await post(api, form)


async def post(api: Api, data: Any, **options: Any) -> tuple[int, Any]:
    url = f"{api.simulator.base_url}/v25.0/{api.simulator.phone_number_id}/media"
    async with api.session.post(url, data=data, **options) as response:
        return response.status, await response.json()


async def node(api: Api, media_id: str, query: str = "", **options: Any) -> Any:
    return (await api.ask("GET", f"/v25.0/{media_id}{query}", **options))[1]


async def download(api: Api, url: str, **options: Any) -> tuple[int, bytes, str]:
    async with api.session.get(url, **options) as response:
        return response.status, await response.read(), response.content_type


def code_of(answer: Any) -> int | None:
    return answer.get("error", {}).get("code")


def test_a_file_comes_back_as_it_was_with_its_checksum_size_and_type() -> None:
    async def story(api: Api) -> None:
        status, answer = await upload(api)
        assert status == 200
        told = await node(api, answer["id"], f"?phone_number_id={api.simulator.phone_number_id}")
        assert told == {
            "url": told["url"],
            "mime_type": "image/jpeg",
            "sha256": hashlib.sha256(PICTURE).hexdigest(),
            "file_size": len(PICTURE),
            "id": answer["id"],
            "messaging_product": "whatsapp",
        }
        assert await download(api, told["url"]) == (200, PICTURE, "image/jpeg")
        assert api.simulator.book.requests == {"media": 2, "media_download": 1}

    play(story)


def test_a_download_needs_the_token_and_its_url_lives_five_minutes() -> None:
    async def story(api: Api) -> None:
        media_id = (await upload(api))[1]["id"]
        url = (await node(api, media_id))["url"]
        for headers in ({"Authorization": ""}, {"Authorization": "Bearer another"}):
            assert (await download(api, url, headers=headers))[0] == 401
        assert (await download(api, url.replace("hash=", "hash=é")))[0] == 404
        assert (await download(api, url.split("?", maxsplit=1)[0]))[0] == 404
        await clock_of(api).advance(URL_LIFE - 1)
        assert (await download(api, url))[0] == 200
        await clock_of(api).advance(1)
        assert (await download(api, url))[0] == 404
        assert (await download(api, (await node(api, media_id))["url"]))[1] == PICTURE

    play(story)


def test_a_deleted_file_is_gone_for_look_ups_downloads_and_messages() -> None:
    async def story(api: Api) -> None:
        media_id = (await upload(api))[1]["id"]
        url = (await node(api, media_id))["url"]
        other = f"?phone_number_id={api.simulator.phone_number_id}5"
        assert (await api.ask("DELETE", f"/v25.0/{media_id}{other}"))[1]["error"]["error_subcode"] == 33
        assert (await node(api, media_id, other))["error"]["error_subcode"] == 33
        assert (await api.ask("DELETE", f"/v25.0/{media_id}"))[:2] == (200, {"success": True})
        assert (await node(api, media_id))["error"]["error_subcode"] == 33
        assert (await download(api, url))[0] == 404
        assert await api.code(type="image", image={"id": media_id}) == 100

    play(story)


def test_an_upload_lives_thirty_days() -> None:
    async def story(api: Api) -> None:
        media_id = (await upload(api))[1]["id"]
        await clock_of(api).advance(UPLOAD_LIFE - 1)
        assert await api.code(type="image", image={"id": media_id}) is None
        await clock_of(api).advance(1)
        assert await api.code(type="image", image={"id": media_id}) == 100

    play(story)


def test_the_file_of_an_inbound_message_can_be_read_for_seven_days() -> None:
    async def story(api: Api) -> None:
        async with receiver() as hook:
            await api.simulator.subscribe(hook.url)
            api.simulator.inbound_media(USER, PICTURE, "image/jpeg", caption="a door")
            await hook.until(1)
            (update,) = read_webhook(hook.bodies[0])
            assert isinstance(update, InboundMessage)
            assert update.kind == "image"
            told = hook.values()[0]["messages"][0]
        assert (told["type"], told["image"]["caption"]) == ("image", "a door")
        assert base64.b64decode(told["image"]["sha256"]) == hashlib.sha256(PICTURE).digest()
        media_id = told["image"]["id"]
        assert (await download(api, (await node(api, media_id))["url"]))[1] == PICTURE
        await clock_of(api).advance(INBOUND_LIFE)
        assert code_of(await node(api, media_id)) == 100

    play(story)


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"messaging_product": None}, 100),
        ({"messaging_product": "messenger"}, 100),
        ({"mime_type": "application/zip"}, 100),
        ({"content": b""}, 100),
        ({"content": bytes(LIMITS["sticker"] + 1), "mime_type": "image/webp"}, 131053),
        ({"content": bytes(LIMITS["sticker"]), "mime_type": "image/webp"}, None),
        ({"mime_type": "audio/ogg; codecs=opus"}, None),
        ({"type": None}, None),  # the file says its type
    ],
)
def test_uploads_are_checked(changes: dict[str, Any], code: int | None) -> None:
    async def story(api: Api) -> None:
        assert code_of((await upload(api, **changes))[1]) == code

    play(story)


def test_what_is_no_form_is_refused() -> None:
    async def story(api: Api) -> None:
        assert code_of((await post(api, b"{}"))[1]) == 100
        broken = {"Content-Type": "multipart/form-data; boundary=x"}
        assert code_of((await post(api, b"--y\r\n", headers=broken))[1]) == 100
        whole = b"--x\r\nContent-Disposition: form-data; name=messaging_product\r\n\r\nwhatsapp\r\n--x--\r\n"
        assert code_of((await post(api, whole, headers=broken))[1]) == 100
        nested = b"--x\r\nContent-Type: multipart/mixed; boundary=z\r\n\r\n--z--\r\n--x--\r\n"
        assert code_of((await post(api, nested, headers=broken))[1]) == 100
        untyped = whole.replace(b"--x--", b"--x\r\nContent-Disposition: form-data; name=file\r\n\r\na\r\n--x--")
        assert code_of((await post(api, untyped, headers=broken))[1]) == 100

    play(story)


def test_a_message_takes_a_file_of_its_kind_and_number_only() -> None:
    async def story(api: Api) -> None:
        picture = (await upload(api))[1]["id"]
        another = api.simulator.world.add_number(api.simulator.account)
        foreign = api.simulator.add_media(PICTURE, "image/jpeg", phone_number_id=another.id)
        assert await api.code(type="image", image={"id": picture}) is None
        assert await api.code(type="document", document={"id": picture}) is None
        assert await api.code(type="video", video={"id": picture}) == 131053
        assert await api.code(type="image", image={"id": foreign}) == 100
        assert await api.code(type="image", image={"id": 5}) == 131008
        assert await api.code(type="image", image={"caption": "no file"}) == 131008
        assert await api.code(type="image", image={"link": "https://example.org/a.jpg"}) is None
        for media_id, code in ((picture, None), ("5", 100)):
            header = {"type": "image", "image": {"id": media_id}}
            assert await api.code(type="interactive", interactive={"type": "button", "header": header}) == code

    play(story)


def test_media_meet_faults_like_all_else() -> None:
    async def story(api: Api) -> None:
        api.simulator.script(Fault("error", route="media", code=2), Fault("html", route="media_download"))
        assert code_of((await upload(api))[1]) == 2
        media_id = (await upload(api))[1]["id"]
        url = (await node(api, media_id))["url"]
        assert (await download(api, url))[0] == 502
        api.simulator.script(Fault("reset_before_read", route="media_download", times=2))
        with pytest.raises(aiohttp.ClientError):
            await download(api, url)
        assert (await download(api, url))[1] == PICTURE

    play(story)


def test_no_id_is_given_twice_and_a_file_does_not_show_its_content() -> None:
    async def story(api: Api) -> None:
        first = (await upload(api))[1]["id"]
        assert "picture" not in repr(api.simulator.media.find(first, 0.0))
        api.simulator.media.clear()
        assert (await upload(api))[1]["id"] != first

    play(story)


def test_of_a_file_that_is_far_too_large_only_a_part_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    async def story(api: Api) -> None:
        monkeypatch.setattr("resilience_whatsapp.simulator.resources.media.LARGEST", 10)
        media_id = (await upload(api, bytes(100_000)))[1]["id"]
        assert 10 < (await node(api, media_id))["file_size"] < 100_000

    play(story)

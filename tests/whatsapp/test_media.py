"""Files go up once and come down whole: types, sizes and checksums are checked, and nothing is held in memory."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import io
import threading
import tracemalloc
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from resilience_core import (
    CircuitBreaker,
    CircuitOpenError,
    CircuitState,
    Clock,
    ConfigurationError,
    Retry,
    TimeoutExceeded,
)
from resilience_core.redis import RedisFleet
from resilience_whatsapp import (
    AmbiguousOutcomeError,
    GraphClient,
    GraphRequestError,
    GraphTransientError,
    InvalidMessageError,
    MediaCorruptError,
    MediaFile,
    MediaInfo,
    MediaTooLargeError,
    ResilientWhatsAppClient,
    Sink,
    UploadedMedia,
    WhatsAppService,
    media_limit,
)
from resilience_whatsapp.media import read_media, read_upload
from resilience_whatsapp.messages import Document, Image
from resilience_whatsapp.simulator import Fault, Simulator
from resilience_whatsapp.simulator.clock import ManualClock
from tests._cost import size
from tests._redis import RedisServer
from tests.whatsapp.corpus import Sample, samples
from tests.whatsapp.fakes import OK, RECIPIENT, FakeClock, Stub, service_over

PNG = b"\x89PNG\r\n" + bytes(range(256)) * 40
MB = 1024 * 1024


@asynccontextmanager
async def over(simulator: Any, **options: Any) -> AsyncGenerator[WhatsAppService]:
    """The service over a simulator, or anything with its address."""
    token = getattr(simulator, "token", "t")
    http = GraphClient(token=token, phone_number_id="106540352242922", waba_id="5", base_url=simulator.base_url)
    retry = Retry(max_attempts=3, base_delay=0.001)
    breaker = CircuitBreaker("files", failure_threshold=options.pop("failure_threshold", 5))
    client_options = {name: options.pop(name) for name in ("breakers", "media_timeout") if name in options}
    client = ResilientWhatsAppClient(http, breaker, retry, **client_options)
    async with http:
        yield WhatsAppService(client, **options)


def run(story: Callable[[Any, WhatsAppService], Awaitable[None]], **options: Any) -> None:
    async def all_of_it() -> None:
        clock = options.pop("clock", None)
        async with Simulator(clock=clock) as simulator, over(simulator, **options) as service:
            await story(simulator, service)

    asyncio.run(all_of_it())


# --- uploads ----------------------------------------------------------------------------------------


def test_what_goes_up_comes_down_whole(tmp_path: Path) -> None:
    path = tmp_path / "photo.png"
    path.write_bytes(PNG)

    async def story(simulator: Simulator, service: WhatsAppService) -> None:
        sent = await service.upload_media(path)
        assert (sent.mime_type, sent.size, sent.sha256) == ("image/png", len(PNG), hashlib.sha256(PNG).hexdigest())
        assert not sent.reused
        record = await service.send("u", RECIPIENT, Image(id=sent.id))
        assert simulator.book.entries[-1].wamid == record.wamid

        info = await service.get_media(sent.id)
        assert (info.id, info.mime_type, info.sha256) == (sent.id, "image/png", sent.sha256)
        got = await service.download_media(sent.id, max_bytes=MB)
        assert (got.content, got.verified, got.size) == (PNG, True, len(PNG))
        assert "mid=" not in repr(got)

        to_file = await service.download_media(info, max_bytes=len(PNG), to=tmp_path / "back.png")
        assert to_file.content is None
        assert (tmp_path / "back.png").read_bytes() == PNG
        assert sorted(each.name for each in tmp_path.iterdir()) == ["back.png", "photo.png"]

        file = io.BytesIO(b"before" + b"x" * 2 * len(PNG))
        file.seek(6)
        await service.download_media(sent.id, max_bytes=MB, to=file)
        assert file.getvalue() == b"before" + PNG

        await service.delete_media(sent.id)
        with pytest.raises(GraphRequestError):
            await service.get_media(sent.id)

    run(story)


@pytest.mark.parametrize(
    "source", [PNG, bytearray(PNG), memoryview(PNG), io.BytesIO(PNG)], ids=lambda source: type(source).__name__
)
def test_each_kind_of_source_is_uploaded_with_its_type(source: Any) -> None:
    async def story(simulator: Simulator, service: WhatsAppService) -> None:
        sent = await service.upload_media(source, mime_type="image/png")
        (kept,) = simulator.media._media.values()
        assert (kept.content, kept.mime_type, kept.id) == (PNG, "image/png", sent.id)

    run(story)


def test_an_open_file_is_uploaded_from_where_it_stands_and_stays_open() -> None:
    file = io.BytesIO(b"skipped" + PNG)
    file.seek(7)

    async def story(simulator: Simulator, service: WhatsAppService) -> None:
        simulator.script(Fault("error", route="*", code=131000, status=500))
        sent = await service.upload_media(file, filename="a.png")
        assert (sent.mime_type, sent.sha256) == ("image/png", hashlib.sha256(PNG).hexdigest())
        (kept,) = simulator.media._media.values()
        assert kept.content == PNG
        assert not file.closed

    run(story)


def test_an_upload_is_repeated_after_an_unknown_outcome() -> None:
    async def story(simulator: Simulator, service: WhatsAppService) -> None:
        simulator.script(Fault("html", route="*"), Fault("reset_before_read", route="*"))
        await service.upload_media(PNG, mime_type="image/png")
        assert simulator.book.requests["media"] == 3

    run(story)


@pytest.mark.parametrize(
    ("source", "options", "told"),
    [
        (b"", {"mime_type": "image/png"}, "image/png must have 1 to 5242880 bytes, not 0"),
        (bytes(5 * MB + 1), {"mime_type": "image/jpeg"}, "1 to 5242880 bytes, not 5242881"),
        (bytes(16 * MB + 1), {"mime_type": "audio/ogg; codecs=opus"}, "1 to 16777216 bytes"),
        (bytes(200 * 1024), {"mime_type": "image/webp"}, "1 to 102400 bytes"),
        (PNG, {}, "mime_type must be given"),
        (PNG, {"filename": "a.unheard-of"}, "mime_type must be given"),
        (PNG, {"mime_type": "png"}, "mime_type must be given"),
        (PNG, {"mime_type": "image/png\r\nX: y"}, "mime_type must be given"),
        (5, {"mime_type": "image/png"}, "file must be bytes, a path"),
        (io.StringIO("text"), {"mime_type": "image/png"}, 'open it with "rb"'),
    ],
)
def test_what_the_api_would_refuse_is_refused_before_the_upload(source: Any, options: Any, told: str) -> None:
    stub = Stub(OK)
    with pytest.raises(InvalidMessageError) as refused:
        asyncio.run(service_over(stub, FakeClock()).upload_media(source, **options))
    assert told in str(refused.value)


def test_a_file_that_cannot_be_rewound_is_refused_with_the_fix() -> None:
    class Pipe(io.RawIOBase):
        def readable(self) -> bool:
            return True

    pipe: Any
    for pipe in (Pipe(), type("Odd", (), {"read": lambda self, most: b""})()):
        with pytest.raises(InvalidMessageError, match="give its path or its bytes"):
            asyncio.run(MediaFile.of(pipe, "image/png"))


def test_a_file_that_is_not_there_is_no_trouble_of_the_api(tmp_path: Path) -> None:
    async def story(simulator: Simulator, service: WhatsAppService) -> None:
        with pytest.raises(FileNotFoundError):
            await service.upload_media(tmp_path / "absent.png")
        assert not simulator.book.requests["media"]

    run(story)


@pytest.mark.parametrize("change", ["longer", "shorter", "other", "gone"])
def test_a_file_that_changes_under_way_is_told_and_counts_against_nobody(tmp_path: Path, change: str) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(PNG)

    async def story(simulator: Simulator, service: WhatsAppService) -> None:
        file = await MediaFile.of(path)
        if change == "gone":
            path.unlink()
        else:
            path.write_bytes({"longer": b"x" + PNG, "shorter": PNG[1:], "other": PNG[:-1] + b"x"}[change])
        with pytest.raises(InvalidMessageError, match="could not be read as announced"):
            await service._media.upload(file)
        assert service.client.breaker_for("media").snapshot()["state"] == CircuitState.CLOSED  # type: ignore[union-attr]
        path.write_bytes(PNG)
        assert not (await service.upload_media(path)).reused
        assert simulator.book.requests["media"] <= 2

    run(story)


def test_names_of_files_cannot_break_the_form() -> None:
    async def story(simulator: Simulator, service: WhatsAppService) -> None:
        await service.upload_media(PNG, mime_type="image/png", filename='a"\r\nX: y/é.png')
        (kept,) = simulator.media._media.values()
        assert kept.content == PNG

    run(story)


@pytest.mark.parametrize(
    ("mime_type", "start", "limit"),
    [
        ("image/png", b"", 5 * MB),
        ("IMAGE/JPEG", b"", 5 * MB),
        ("video/mp4", b"", 16 * MB),
        ("audio/ogg; codecs=opus", b"", 16 * MB),
        ("application/pdf", b"", 100 * MB),
        ("image/webp", b"RIFF....WEBPVP8X....\x02", 500 * 1024),
        ("image/webp", b"RIFF....WEBPVP8X....\x10", 100 * 1024),
        ("image/webp", b"RIFF....WEBPVP8 ", 100 * 1024),
        ("image/webp", b"", 500 * 1024),
    ],
)
def test_the_limits_are_those_of_the_documentation(mime_type: str, start: bytes, limit: int) -> None:
    assert media_limit(mime_type, start) == limit


class Sinkhole:
    """A server that counts uploads, and gives the files that it is told to give."""

    def __init__(self, **answers: Any) -> None:
        self.taken: list[tuple[int, int]] = []
        self.asked: list[str] = []
        self.tokens: list[str | None] = []
        self.answers = answers
        self.content = PNG

    async def __aenter__(self) -> Sinkhole:
        app = web.Application(client_max_size=1)
        app.add_routes(
            [
                web.post("/v25.0/{number}/media", self._upload),
                web.get("/v25.0/{media}", self._info),
                web.get("/file/{number}", self._file),
            ]
        )
        self._runner = web.AppRunner(app, access_log=None)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        self.base_url = f"http://127.0.0.1:{self._runner.addresses[0][1]}"
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._runner.cleanup()

    async def _upload(self, request: web.Request) -> web.Response:
        read = 0
        async for chunk in request.content.iter_any():
            read += len(chunk)
            if self.answers.pop("abort", False):
                assert request.transport is not None
                request.transport.abort()
        self.taken.append((read, request.content_length or 0))
        return web.json_response({"id": "1"})

    async def _info(self, request: web.Request) -> web.Response:
        self.asked.append("info")
        number = self.asked.count("info")
        told = {
            "id": request.match_info["media"],
            "url": f"{self.base_url}/file/{number}",
            "mime_type": "image/png",
            "sha256": hashlib.sha256(PNG).hexdigest(),
            "file_size": len(PNG),
        }
        return web.json_response(told | self.answers.get("info", {}))

    async def _file(self, request: web.Request) -> web.StreamResponse:
        self.asked.append("file")
        self.tokens.append(request.headers.get("Authorization"))
        status = self.answers.get("statuses", {}).get(int(request.match_info["number"]), 200)
        if status == 302:
            raise web.HTTPFound(f"{self.base_url}/file/99")
        if status == "cut":
            response = web.StreamResponse(headers={"Content-Length": str(len(PNG))})
            await response.prepare(request)
            await response.write(PNG[:100])
            assert request.transport is not None
            request.transport.abort()
            return response
        if self.answers.get("chunked"):
            response = web.StreamResponse()
            await response.prepare(request)
            await response.write(self.content)
            return response
        return web.Response(status=status, body=self.content if status == 200 else b"<html>")


def test_a_large_file_is_uploaded_and_downloaded_in_pieces(tmp_path: Path) -> None:
    whole = size(100 * MB, 20 * MB)
    path = tmp_path / "large.pdf"
    with path.open("wb") as file:
        file.truncate(whole)

    async def story() -> int:
        async with Sinkhole() as server, over(server) as service:
            await service.upload_media(PNG, mime_type="image/png")  # what is loaded once is loaded now
            tracemalloc.start()
            await service.upload_media(path)
            _, peak = tracemalloc.get_traced_memory()
            tracemalloc.stop()
            read, announced = server.taken[-1]
            assert read == announced > whole  # a length is sent, as no upload in chunks of unknown number is
            return peak

    assert asyncio.run(story()) < whole / 4


def test_an_upload_that_the_server_cuts_is_repeated_and_not_the_files_fault() -> None:
    async def story() -> None:
        async with Sinkhole(abort=True) as server, over(server) as service:
            await service.upload_media(bytes(8 * MB), mime_type="application/pdf")
            assert server.taken[-1][0] == server.taken[-1][1] > 8 * MB

    asyncio.run(story())


def test_a_connection_that_breaks_is_not_taken_for_trouble_with_the_file() -> None:
    class Broken:
        async def write(self, chunk: bytes) -> None:
            raise ConnectionResetError

    async def story() -> None:
        body = (await MediaFile.of(PNG, "image/png")).body()
        with pytest.raises(ConnectionResetError):
            await body.write(Broken())  # type: ignore[arg-type]
        assert body.trouble is None

    asyncio.run(story())


# --- the ids of uploads -----------------------------------------------------------------------------


def test_the_same_content_is_uploaded_once_while_its_id_is_good() -> None:
    async def story(simulator: Simulator, service: WhatsAppService) -> None:
        clock = FakeClock()
        object.__setattr__(service._media._cache, "clock", clock)
        first = await service.upload_media(PNG, mime_type="image/png")
        again = await service.upload_media(io.BytesIO(PNG), mime_type="image/png")
        assert (again.id, first.reused, again.reused) == (first.id, False, True)
        assert (await service.upload_media(PNG + b"x", mime_type="image/png")).id != first.id
        assert (await service.upload_media(PNG, mime_type="image/jpeg")).id != first.id
        assert simulator.book.requests["media"] == 3
        clock.time += 29 * 24 * 3600
        later = await service.upload_media(PNG, mime_type="image/png")
        assert (later.reused, later.id == first.id) == (False, False)

    run(story)


def test_many_who_upload_the_same_at_once_share_one_upload() -> None:
    async def story(simulator: Simulator, service: WhatsAppService) -> None:
        sent = await asyncio.gather(*(service.upload_media(PNG, mime_type="image/png") for _ in range(20)))
        assert len({each.id for each in sent}) == 1
        assert simulator.book.requests["media"] == 1

    run(story)


def test_a_deleted_or_forgotten_file_is_uploaded_anew() -> None:
    async def story(simulator: Simulator, service: WhatsAppService) -> None:
        first = await service.upload_media(PNG, mime_type="image/png")
        await service.delete_media(first.id)
        second = await service.upload_media(PNG, mime_type="image/png")
        service.forget_media("of nobody")
        assert (await service.upload_media(PNG, mime_type="image/png")).id == second.id
        service.forget_media(second.id)
        third = await service.upload_media(PNG, mime_type="image/png")
        service.forget_media()
        fourth = await service.upload_media(PNG, mime_type="image/png")
        assert len({first.id, second.id, third.id, fourth.id}) == 4

    run(story)


def test_ids_outlive_the_process_in_a_file_and_belong_to_one_number(tmp_path: Path) -> None:
    file = tmp_path / "media.json"

    async def story(simulator: Simulator, service: WhatsAppService) -> None:
        first = await service.upload_media(PNG, mime_type="image/png")
        async with over(simulator, media_file=file) as after_a_restart:
            again = await after_a_restart.upload_media(PNG, mime_type="image/png")
            assert (again.id, again.reused) == (first.id, True)
            await after_a_restart.delete_media(first.id)  # of an id that it knows from the file only
            assert not (await after_a_restart.upload_media(PNG, mime_type="image/png")).reused
        number = simulator.world.add_number(next(iter(simulator.world.accounts.values())))
        http = GraphClient(token=simulator.token, phone_number_id=number.id, base_url=simulator.base_url)
        async with http:
            other = WhatsAppService(ResilientWhatsAppClient(http), media_file=file)
            assert not (await other.upload_media(PNG, mime_type="image/png")).reused

    run(story, media_file=file)


def test_no_more_ids_are_kept_than_stated(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("resilience_whatsapp._media_ids.MAX_MEDIA_IDS", 2)

    async def story(simulator: Simulator, service: WhatsAppService) -> None:
        for number in range(4):
            await service.upload_media(PNG + bytes([number]), mime_type="image/png")
        assert len(service._media._known) == service._media._cache.snapshot()["entries"] == 2

    run(story)


# --- downloads --------------------------------------------------------------------------------------


def test_a_stale_url_is_asked_for_anew_once() -> None:
    clock = ManualClock()

    async def story(simulator: Simulator, service: WhatsAppService) -> None:
        sent = await service.upload_media(PNG, mime_type="image/png")
        info = await service.get_media(sent.id)
        await clock.advance(301)
        assert (await service.download_media(info, max_bytes=MB)).content == PNG
        assert simulator.book.requests["media_download"] == 2

    run(story, clock=clock)


def test_a_url_that_is_stale_again_is_an_error() -> None:
    async def story() -> None:
        async with Sinkhole(statuses=dict.fromkeys(range(1, 9), 404)) as server, over(server) as service:
            with pytest.raises(GraphRequestError) as refused:
                await service.download_media("7", max_bytes=MB)
            assert refused.value.http_status == 404
            assert server.asked == ["info", "file", "info", "file"]

    asyncio.run(story())


def download(to: Any = None, *, max_bytes: int = MB, content: bytes = PNG, **answers: Any) -> tuple[Any, list[str]]:
    """The download or its error, and what was asked of the server."""

    async def story() -> Any:
        async with Sinkhole(**answers) as server, over(server) as service:
            server.content = content
            try:
                return await service.download_media("7", max_bytes=max_bytes, to=to), server.asked
            except Exception as error:
                return error, server.asked

    found: tuple[Any, list[str]] = asyncio.run(story())
    return found


@pytest.mark.parametrize("first", [500, 503, 429, "cut"])
def test_a_download_that_fails_half_way_begins_anew(tmp_path: Path, first: Any) -> None:
    for to in (None, tmp_path / "a.png", io.BytesIO()):
        got, asked = download(to, statuses={1: first})
        assert (got.size, got.verified) == (len(PNG), True)
        assert asked == ["info", "file"] * 2
    assert (tmp_path / "a.png").read_bytes() == PNG


def test_what_an_attempt_left_behind_is_gone_in_the_next(tmp_path: Path) -> None:
    info = MediaInfo("7", "u", None, hashlib.sha256(PNG).hexdigest(), len(PNG))

    async def story(to: Any) -> None:
        sink = Sink(to, len(PNG))
        for content in (b"half of another", PNG):
            await sink.begin(None)
            await sink.write(content)
        assert (await sink.finish(info)).verified

    for to in (None, tmp_path / "a.png", io.BytesIO()):
        asyncio.run(story(to))
    assert (tmp_path / "a.png").read_bytes() == PNG


def test_the_token_goes_to_the_host_that_the_api_names_and_to_no_other() -> None:
    async def story() -> None:
        async with Sinkhole(statuses={1: 302}) as server, over(server) as service:
            with pytest.raises(GraphRequestError):
                await service.download_media("7", max_bytes=MB)
            assert server.tokens == ["Bearer t"]

    asyncio.run(story())
    for url in ("FILE:///etc/passwd", "http://user@host/a", "http://", "ftp://a/b", "x"):
        error, asked = download(info={"url": url})
        assert isinstance(error, AmbiguousOutcomeError)
        assert "file" not in asked


def test_a_secure_api_cannot_name_an_insecure_host() -> None:
    http = GraphClient(token="t", phone_number_id="1")
    info = MediaInfo("7", "http://127.0.0.1:9/a", None, None, None)
    with pytest.raises(AmbiguousOutcomeError, match="no token is sent"):
        asyncio.run(http.fetch_media(info, None))  # type: ignore[arg-type]


@pytest.mark.parametrize("content", [PNG[:-1] + b"x", PNG[1:], PNG + b"x", b""])
def test_what_is_not_what_the_api_told_is_an_error_and_leaves_no_file(tmp_path: Path, content: bytes) -> None:
    error, asked = download(tmp_path / "a.png", content=content)
    assert isinstance(error, MediaCorruptError)
    assert (error.media_id, error.size, error.announced) == ("7", len(content), len(PNG))
    assert "came damaged" in str(error)
    assert asked == ["info", "file"]
    assert not list(tmp_path.iterdir())


def test_the_checksum_may_be_in_base64_or_absent() -> None:
    digest = hashlib.sha256(PNG).digest()
    got, _ = download(info={"sha256": base64.b64encode(digest).decode()})
    assert got.verified
    for told in ("<HASH>", None, 5, "A" * 40):
        got, _ = download(info={"sha256": told})
        assert (got.verified, got.sha256) == (False, digest.hex())
    error, _ = download(content=PNG[:-1] + b"x", info={"sha256": base64.b64encode(digest).decode()})
    assert isinstance(error, MediaCorruptError)


@pytest.mark.parametrize(
    ("answers", "asked"),
    [
        ({}, ["info"]),
        ({"info": {"file_size": None}}, ["info", "file"]),
        ({"info": {"file_size": None}, "chunked": True}, ["info", "file"]),
    ],
)
def test_no_more_than_the_caller_takes_is_taken(tmp_path: Path, answers: Any, asked: list[str]) -> None:
    for to in (None, tmp_path / "a.png"):
        error, made = download(to, max_bytes=len(PNG) - 1, **answers)
        assert isinstance(error, MediaTooLargeError)
        assert f"max_bytes is {len(PNG) - 1}" in str(error)
        assert made == asked
    assert not list(tmp_path.iterdir())
    got, _ = download(max_bytes=len(PNG), **answers)
    assert got.size == len(PNG)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"max_bytes": 0}, "max_bytes"),
        ({"max_bytes": True}, "max_bytes"),
        ({"max_bytes": 5, "to": object()}, "rewound"),
    ],
)
def test_a_download_that_cannot_work_makes_no_request(options: Any, told: str) -> None:
    with pytest.raises(InvalidMessageError, match=told):
        asyncio.run(service_over(Stub(OK), FakeClock()).download_media("7", **options))


@pytest.mark.parametrize("media_id", ["", "../x", "a/b", "a b", "..", "1?x", 5, None])
def test_what_is_no_id_makes_no_request(media_id: Any) -> None:
    service = service_over(Stub(OK), FakeClock())
    for call in (service.get_media, service.delete_media):
        with pytest.raises(InvalidMessageError, match="media_id"):
            asyncio.run(call(media_id))
    with pytest.raises(InvalidMessageError, match="media_id"):
        asyncio.run(service.download_media(media_id, max_bytes=5))


def test_a_disk_that_does_not_take_it_is_no_trouble_of_the_api(tmp_path: Path) -> None:
    async def story() -> None:
        async with Sinkhole() as server, over(server, failure_threshold=1) as service:
            with pytest.raises(FileNotFoundError):
                await service.download_media("7", max_bytes=MB, to=tmp_path / "absent" / "a.png")
            closed = io.BytesIO()
            task = asyncio.ensure_future(service.download_media("7", max_bytes=MB, to=closed))
            await asyncio.sleep(0)
            closed.close()
            with pytest.raises(ValueError, match="closed"):
                await task
            assert (await service.download_media("7", max_bytes=MB)).content == PNG

    asyncio.run(story())


# --- the circuits -----------------------------------------------------------------------------------


@pytest.mark.parametrize("breakers", ["client", "kind"])
def test_downloads_that_fail_do_not_open_the_circuit_of_messages(breakers: Any) -> None:
    async def story() -> None:
        async with Simulator() as simulator, over(simulator, failure_threshold=2, breakers=breakers) as service:
            sent = await service.upload_media(PNG, mime_type="image/png")
            simulator.script(Fault("error", route="*", code=131000, status=500, times=2))
            with pytest.raises(CircuitOpenError) as rejected:
                await service.download_media(sent.id, max_bytes=MB)
            assert rejected.value.name == "files.media"
            with pytest.raises(CircuitOpenError):
                await service.upload_media(PNG + b"x", mime_type="image/png")
            assert service.client.circuit_breaker.state is CircuitState.CLOSED
            assert (await service.send_text("u", RECIPIENT, "hi")).wamid
            assert [call.error_type for call in service.client.explain()][-1] == "CircuitOpenError"

    asyncio.run(story())


def test_a_fleet_shares_the_breaker_of_files_and_leaves_that_of_messages_alone(redis_server: RedisServer) -> None:
    class Broken(Stub):
        async def get_media(self, media_id: str) -> MediaInfo:
            raise GraphTransientError(131000, None, 500, "platform")

    fleets = [RedisFleet(redis_server.url, prefix="media:", timeout=2.0) for _ in range(2)]
    one, other = (
        service_over(
            Broken(OK), Clock(), max_attempts=1, breaker=partial(CircuitBreaker, "m", failure_threshold=2, fleet=fleet)
        )
        for fleet in fleets
    )

    async def story() -> None:
        for service, fleet in zip((one, other), fleets, strict=True):
            with pytest.raises(GraphTransientError):
                await service.get_media("7")
            assert await asyncio.to_thread(fleet.flush, 10)
        media = other.client.breaker_for("media")
        assert media is not None
        while media.state is not CircuitState.OPEN:
            await asyncio.sleep(0.001)  # the news comes from another thread, over a real connection
        assert other.client.circuit_breaker.state is CircuitState.CLOSED
        assert (await other.send_text("u", RECIPIENT, "hi")).wamid

    asyncio.run(asyncio.wait_for(story(), 30))
    for fleet in fleets:
        fleet.close()


def test_with_breakers_by_kind_a_listing_does_not_open_the_circuit_of_messages() -> None:
    for breakers, opened in (("client", CircuitState.OPEN), ("kind", CircuitState.CLOSED)):
        stub = Stub(GraphTransientError(131000, None, 500, "platform"))
        clock = FakeClock()
        circuit = CircuitBreaker("api", failure_threshold=1, clock=clock)
        client = ResilientWhatsAppClient(stub, circuit, Retry(clock=clock), breakers=breakers)  # type: ignore[arg-type]
        asyncio.run(WhatsAppService(client).get_approved_templates())
        assert client.circuit_breaker.state is opened
        breaker = client.breaker_for("templates")
        assert breaker is not None
        assert (breaker.state, breaker.clock) == (CircuitState.OPEN, clock)
    assert client.breaker_for("status") is None
    with pytest.raises(ConfigurationError, match="breakers must be one of client, kind"):
        ResilientWhatsAppClient(stub, breakers="number")  # type: ignore[arg-type]


@pytest.mark.filterwarnings("ignore:plan-exceeds-deadline")  # what then happens is shown here
def test_files_have_a_time_out_of_their_own() -> None:
    async def story() -> None:
        async with Simulator() as simulator, over(simulator, media_timeout=0.05) as service:
            simulator.script(Fault("delay", route="*", seconds=30))
            with pytest.raises(TimeoutExceeded):
                await service.upload_media(PNG, mime_type="image/png")

    asyncio.run(story())


def test_an_http_client_without_media_is_named() -> None:
    service = service_over(Stub(OK), FakeClock())
    with pytest.raises(ConfigurationError, match="'upload_media'"):
        asyncio.run(service.upload_media(PNG, mime_type="image/png"))
    with pytest.raises(ConfigurationError, match="'get_media'"):
        asyncio.run(service.download_media("7", max_bytes=5))


# --- answers ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("sample", samples("response.media_upload"), ids=lambda sample: sample.file)
def test_each_sample_of_an_answer_to_an_upload_parses(sample: Sample) -> None:
    assert read_upload(200, sample.body) == sample.content["id"]


@pytest.mark.parametrize(
    "sample",
    [*samples("response.media_url"), *samples("response.media_get"), *samples("response.get_media_url")],
    ids=lambda sample: sample.file,
)
def test_each_sample_of_an_answer_about_a_file_parses(sample: Sample) -> None:
    info = read_media(200, sample.body)
    assert (info.id, info.url, info.file_size) == (
        sample.content["id"],
        sample.content["url"],
        int(sample.content["file_size"]),
    )


def test_answers_without_what_was_asked_for_are_ambiguous() -> None:
    for body in (b"{}", b'{"id": ""}', b'{"id": 5, "url": "x"}', b'{"id": "5"}', b"[]", b""):
        with pytest.raises(AmbiguousOutcomeError):
            read_media(200, body)
    for body in (b"{}", b'{"id": ""}', b'{"id": 5}', b""):
        with pytest.raises(AmbiguousOutcomeError):
            read_upload(200, body)
    assert read_media(200, b'{"id": "5", "url": "x", "file_size": -1}').file_size is None


def test_nothing_shows_where_a_file_is_or_what_it_is_called() -> None:
    file = asyncio.run(MediaFile.of(PNG, "image/png", "Zebulon.png"))
    info = MediaInfo("7", "https://host/Zebulon", "image/png", None, None)
    for shown in (repr(file), repr(info), repr(UploadedMedia("1", "a", "b", 1)), str(Document(id="1"))):
        assert "Zebulon" not in shown
    with pytest.raises(TypeError, match="not held in memory"):
        file.body().decode()


def test_an_id_that_is_used_again_and_again_can_be_forgotten_however_many_came_after_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("resilience_whatsapp._media_ids.MAX_MEDIA_IDS", 3)

    async def story(simulator: Simulator, service: WhatsAppService) -> None:
        logo = await service.upload_media(b"logo", mime_type="image/png")
        for other in (b"1", b"2"):
            await service.upload_media(other, mime_type="image/png")
        assert (await service.upload_media(b"logo", mime_type="image/png")).reused
        await service.upload_media(b"3", mime_type="image/png")
        assert (await service.upload_media(b"logo", mime_type="image/png")).reused
        service.forget_media(logo.id)
        assert not (await service.upload_media(b"logo", mime_type="image/png")).reused

    run(story)


def test_a_download_that_is_cancelled_while_its_file_is_opened_leaves_no_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opening, cancelled = threading.Event(), threading.Event()
    really_open = Path.open

    def slowly(path: Path, *args: Any) -> Any:
        opening.set()
        assert cancelled.wait(30)
        return really_open(path, *args)

    async def story() -> None:
        async with Sinkhole() as server, over(server) as service:
            loading = asyncio.ensure_future(service.download_media("1", max_bytes=MB, to=tmp_path / "got.png"))
            assert await asyncio.to_thread(opening.wait, 30)
            loading.cancel()
            with pytest.raises(asyncio.CancelledError):
                await loading
            cancelled.set()

    monkeypatch.setattr(Path, "open", slowly)
    asyncio.run(story())  # waits for the threads, too
    assert list(tmp_path.iterdir()) == []

"""Single requests to the Graph API over aiohttp: no retries, no policies, no redirects.

Every possible answer becomes a typed result or a typed error (`_envelope.py`). `Wire` tells whether a request had left
the machine when it was cut short.
"""

from __future__ import annotations

import asyncio
import inspect
import json
import re
import zlib
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from functools import partial
from types import TracebackType
from typing import Any, Protocol, TypeAlias

import aiohttp
from aiohttp.abc import AbstractStreamWriter
from attrs import define, field, frozen

from resilience_core import ConfigurationError
from resilience_whatsapp._envelope import (
    SendReceipt,
    Template,
    TemplatePage,
    TemplateReceipt,
    content_of,
    read_created,
    read_send,
    read_success,
    read_templates,
    usage_wait,
)
from resilience_whatsapp.errors import AmbiguousOutcomeError, InvalidMessageError
from resilience_whatsapp.media import CHUNK, MediaFile, MediaInfo, Sink, media_id_of, read_media, read_upload
from resilience_whatsapp.messages import TemplateDefinition
from resilience_whatsapp.records import mask_recipient
from resilience_whatsapp.status import NUMBER_FIELDS, Health, NumberStatus, read_health, read_number_status

DEFAULT_BASE_URL = "https://graph.facebook.com"
DEFAULT_API_VERSION = "v25.0"
_SEND_LIMIT = 64 * 1024  # bytes read of an answer to a send, and of any error
_LIST_LIMIT = 4 * 1024 * 1024
_GZIP_OR_ZLIB = zlib.MAX_WBITS | 32  # tells them apart by their first bytes
Token: TypeAlias = str | Callable[[], str | Awaitable[str]]

__all__ = [
    "GraphAnswer",
    "GraphClient",
    "GraphTransport",
    "SendReceipt",
    "Template",
    "TemplatePage",
    "TemplateReceipt",
    "Wire",
    "mask_recipient",
]


class _Unseen(str):
    """A text that does not show itself in a debugger or an error collector."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "'...'"


@define
class Wire:
    """What became of one request: handed to `send_message`, readable whatever ends it."""

    left: bool = False
    """Whether a byte of its body may have left the machine: without one, there is nothing to carry out."""


@frozen
class GraphAnswer:
    """What the API answered about an object, as it is; it may hold anything, and does not show it."""

    content: Mapping[str, Any] = field(repr=False)
    headers: Mapping[str, str] = field(repr=False)
    """Of the answer; their names in any case."""


class GraphTransport(Protocol):
    """What a resilient client needs of an HTTP client; `send_message` may also take `wire: Wire`."""

    async def send_message(self, payload: Mapping[str, Any]) -> SendReceipt:
        """Make one request to send `payload`."""
        ...

    async def get_templates_page(self, after: str | None) -> TemplatePage:
        """Make one request for the approved templates after the cursor."""
        ...


def _check(field_name: str, good: bool, expected: str) -> None:
    if not good:
        raise ConfigurationError(f"GraphClient: {field_name} must be {expected}")


async def _answered(token: Any) -> Any:
    return await token if inspect.isawaitable(token) else token


def _bearer(token: object) -> str:
    """The header's value; empty for what is no token."""
    good = isinstance(token, str) and re.fullmatch(r"[!-~]+", token) is not None
    return _Unseen(f"Bearer {token}" if good else "")


@define(eq=False, kw_only=True)
class GraphClient:
    """Makes single requests to the Graph API.

    Args:
        token: the bearer token, or a function (async or not) that answers it, asked for each request.
        phone_number_id: the sending number's id.
        waba_id: the business account's id; needed for templates.
        base_url: where the API lives.
        api_version: such as `v25.0`.
        connect_timeout: seconds to connect, waiting for a free connection included.
        read_timeout: seconds without a byte from the server.
        session: a session to use, which stays yours to close; default one of our own for each event loop, made at its
            first request.
    """

    token: Token = field(repr=False)
    phone_number_id: str
    waba_id: str | None = None
    base_url: str = DEFAULT_BASE_URL
    api_version: str = DEFAULT_API_VERSION
    connect_timeout: float = 5.0
    read_timeout: float = 30.0
    session: aiohttp.ClientSession | None = field(default=None, repr=False)
    _sessions: dict[asyncio.AbstractEventLoop, aiohttp.ClientSession] = field(factory=dict, init=False, repr=False)
    header_listeners: list[Callable[[Mapping[str, str]], None]] = field(factory=list, init=False, repr=False)
    """Called with the headers of every answer, before it is judged: they tell how much of the limits is used."""

    def __attrs_post_init__(self) -> None:
        good_token = callable(self.token) or _bearer(self.token) != ""
        _check("token", good_token, "a non-empty string of visible ASCII characters, or a function")
        for name in ("phone_number_id", "waba_id"):
            value = getattr(self, name)
            fits = (value is None and name == "waba_id") or (isinstance(value, str) and re.fullmatch(r"[0-9]+", value))
            _check(name, bool(fits), "a string of digits")
        _check("base_url", bool(re.fullmatch(r"https?://[^\s/?#]+/?", self.base_url)), "http(s)://host[:port]")
        _check("api_version", bool(re.fullmatch(r"v[0-9]+\.[0-9]+", self.api_version)), "of the form v25.0")
        for name in ("connect_timeout", "read_timeout"):
            value = getattr(self, name)
            number = isinstance(value, (int, float)) and not isinstance(value, bool)
            _check(name, number and 0 < value < float("inf"), "a positive, finite number of seconds")

    # --- requests ------------------------------------------------------------------------------------------------

    async def send_message(self, payload: Mapping[str, Any], *, wire: Wire | None = None) -> SendReceipt:
        """Send one message.

        Raises:
            GraphError: the API refused it.
            AmbiguousOutcomeError: an answer came that tells nothing.
            aiohttp.ClientError, TimeoutError: the connection failed; `wire` tells whether the request had left.
        """
        status, headers, body = await self._request(
            "POST", f"{self.phone_number_id}/messages", json_body=payload, wire=wire, limit=_SEND_LIMIT
        )
        return read_send(status, body, partial(usage_wait, headers))

    async def mark_as_read(self, payload: Mapping[str, Any]) -> None:
        """Make one request to say that a message was read, as `messages.MarkAsRead` writes it. It may be repeated.

        Raises:
            GraphError, AmbiguousOutcomeError, aiohttp.ClientError, TimeoutError: as for `send_message`.
        """
        status, headers, body = await self._request(
            "POST", f"{self.phone_number_id}/messages", json_body=payload, limit=_SEND_LIMIT
        )
        read_success(status, body, partial(usage_wait, headers))

    async def get_templates_page(self, after: str | None = None, *, limit: int = 100) -> TemplatePage:
        """One page of approved templates, after the cursor of the page before.

        Raises:
            ConfigurationError: the client was made without `waba_id`.
            GraphError, AmbiguousOutcomeError, aiohttp.ClientError, TimeoutError: as for `send_message`.
        """
        _check("waba_id", self.waba_id is not None, "given to list templates")
        params = {"status": "APPROVED", "limit": str(limit)} | ({} if after is None else {"after": after})
        status, headers, body = await self._request(
            "GET", f"{self.waba_id}/message_templates", params=params, limit=_LIST_LIMIT
        )
        return read_templates(status, body, partial(usage_wait, headers))

    async def get_number_status(self) -> NumberStatus:
        """What the API says of the sending number: quality, limits, and whether it can send.

        Raises:
            GraphError, AmbiguousOutcomeError, aiohttp.ClientError, TimeoutError: as for `send_message`.
        """
        params = {"fields": ",".join(NUMBER_FIELDS)}
        status, headers, body = await self._request("GET", self.phone_number_id, params=params, limit=_SEND_LIMIT)
        return read_number_status(status, body, partial(usage_wait, headers))

    async def get_account_health(self) -> Health:
        """Whether the business account can send messages.

        Raises:
            ConfigurationError: the client was made without `waba_id`.
            GraphError, AmbiguousOutcomeError, aiohttp.ClientError, TimeoutError: as for `send_message`.
        """
        waba_id = self.waba_id or ""
        _check("waba_id", waba_id != "", "given to ask for the account's health")
        params = {"fields": "health_status"}
        status, headers, body = await self._request("GET", waba_id, params=params, limit=_SEND_LIMIT)
        return read_health(status, body, partial(usage_wait, headers))

    async def get_object(self, path: str, **params: str) -> GraphAnswer:
        """Read any object or list of the API: what this client has no method for.

        Args:
            path: behind the version: an id, or as in `102290129340398/subscribed_apps`.
            params: of the query, as in `fields="id,name"`.

        Raises:
            ConfigurationError: the path is none.
            GraphError, AmbiguousOutcomeError, aiohttp.ClientError, TimeoutError: as for `send_message`.
        """
        _check("path", re.fullmatch(r"\w+(/\w+)*", path, re.ASCII) is not None, "ids and names with / between them")
        status, headers, body = await self._request("GET", path, params=params, limit=_LIST_LIMIT)
        return GraphAnswer(content_of(status, body, partial(usage_wait, headers)), headers)

    async def _request(
        self,
        method: str,
        path: str,
        *,
        limit: int,
        json_body: Mapping[str, Any] | None = None,
        params: Mapping[str, str] | None = None,
        wire: Wire | None = None,
    ) -> tuple[int, Mapping[str, str], bytes]:
        headers = {"Authorization": await self._authorization(), "Accept-Encoding": "identity"}  # no compressed bombs
        async with (await self._session()).request(
            method,
            self._url(path),
            data=None if json_body is None else _Body(json.dumps(json_body).encode(), wire),
            params=params,
            headers=headers,
            allow_redirects=False,  # the token goes to this host only
            timeout=aiohttp.ClientTimeout(total=None, connect=self.connect_timeout, sock_read=self.read_timeout),
            auto_decompress=False,  # aiohttp would unpack a bomb before anybody could count its bytes
        ) as response:
            for listener in self.header_listeners:
                listener(response.headers)
            cap = limit if response.status == 200 else _SEND_LIMIT
            body = await _read(response, cap)
            return response.status, response.headers, body

    async def _authorization(self) -> str:
        """In a frame of its own, which is gone before anything can fail: error collectors show the locals of frames."""
        header = _bearer(self.token if isinstance(self.token, str) else await _answered(self.token()))
        _check("token", header != "", "a function that answers a non-empty string of visible ASCII characters")
        return header

    # --- media and the management of templates ------------------------------------------------------------------

    async def upload_media(self, file: MediaFile) -> str:
        """Make one request to upload a file; its id. Uploading it twice does no harm.

        Raises:
            InvalidMessageError: the file was changed since it was looked at, or cannot be read any more.
            GraphError, AmbiguousOutcomeError, aiohttp.ClientError, TimeoutError: as for `send_message`.
        """
        body = file.body()
        form = aiohttp.MultipartWriter("form-data")
        for name, value in (("messaging_product", "whatsapp"), ("type", file.mime_type)):
            form.append(value).set_content_disposition("form-data", name=name)
        body.set_content_disposition("form-data", name="file", filename=file.filename)
        form.append_payload(body)
        try:
            async with self._answer("POST", self._url(f"{self.phone_number_id}/media"), data=form) as response:
                return read_upload(
                    response.status, await _read(response, _SEND_LIMIT), partial(usage_wait, response.headers)
                )
        except Exception:
            if body.trouble is not None:
                raise InvalidMessageError(
                    f"upload: file could not be read as announced ({type(body.trouble).__name__})"
                ) from body.trouble
            raise

    async def get_media(self, media_id: str) -> MediaInfo:
        """Make one request for what the API says of a file; its `url` is good for 5 minutes.

        Raises:
            InvalidMessageError: this is no id.
            GraphError, AmbiguousOutcomeError, aiohttp.ClientError, TimeoutError: as for `send_message`.
        """
        params = {"phone_number_id": self.phone_number_id}
        status, headers, body = await self._request("GET", media_id_of(media_id), params=params, limit=_SEND_LIMIT)
        return read_media(status, body, partial(usage_wait, headers))

    async def fetch_media(self, info: MediaInfo, sink: Sink) -> None:
        """Make one request for the content of a file, with the token, into `sink`.

        Raises:
            GraphError: the API refused it; with `http_status` 404 the URL may be too old.
            AmbiguousOutcomeError: an answer came that is none, or the URL is not one for a token.
            MediaTooLargeError: it is larger than the sink takes.
            aiohttp.ClientError, TimeoutError: the connection failed.
        """
        secure = info.url.startswith("https://") or self.base_url.startswith("http://")
        if not secure or not re.match(r"https?://[^\s/@]+/", info.url):
            raise AmbiguousOutcomeError(200, "a URL of a file to which no token is sent")
        async with self._answer("GET", info.url) as response:
            if response.status != 200:
                content_of(response.status, await _read(response, _SEND_LIMIT), partial(usage_wait, response.headers))
            await sink.begin(response.content_length)
            async for chunk in response.content.iter_chunked(CHUNK):
                await sink.write(chunk)

    async def delete_media(self, media_id: str) -> None:
        """Make one request to delete a file.

        Raises:
            InvalidMessageError, GraphError, AmbiguousOutcomeError, aiohttp.ClientError, TimeoutError: as for
                `get_media`.
        """
        params = {"phone_number_id": self.phone_number_id}
        status, headers, body = await self._request("DELETE", media_id_of(media_id), params=params, limit=_SEND_LIMIT)
        read_success(status, body, partial(usage_wait, headers))

    async def create_template(self, definition: TemplateDefinition) -> TemplateReceipt:
        """Make one request to file a template for approval. A second one with its name and language is refused.

        Raises:
            ConfigurationError: the client was made without `waba_id`.
            GraphError, AmbiguousOutcomeError, aiohttp.ClientError, TimeoutError: as for `send_message`.
        """
        _check("waba_id", self.waba_id is not None, "given to file templates")
        status, headers, body = await self._request(
            "POST", f"{self.waba_id}/message_templates", json_body=definition.payload(), limit=_SEND_LIMIT
        )
        return read_created(status, body, partial(usage_wait, headers))

    async def delete_template(self, name: str, template_id: str | None = None) -> None:
        """Make one request to delete a template in all its languages, or in the one that has this id.

        Raises:
            ConfigurationError: the client was made without `waba_id`.
            GraphError, AmbiguousOutcomeError, aiohttp.ClientError, TimeoutError: as for `send_message`.
        """
        _check("waba_id", self.waba_id is not None, "given to delete templates")
        params = {"name": name} | ({} if template_id is None else {"hsm_id": template_id})
        status, headers, body = await self._request(
            "DELETE", f"{self.waba_id}/message_templates", params=params, limit=_SEND_LIMIT
        )
        read_success(status, body, partial(usage_wait, headers))

    def _url(self, path: str) -> str:
        return f"{self.base_url.rstrip('/')}/{self.api_version}/{path}"

    @asynccontextmanager
    async def _answer(self, method: str, url: str, *, data: Any = None) -> AsyncGenerator[aiohttp.ClientResponse]:
        """An answer whose body is still to be read: it may be large."""
        headers = {"Authorization": await self._authorization(), "Accept-Encoding": "identity"}
        async with (await self._session()).request(
            method,
            url,
            data=data,
            headers=headers,
            allow_redirects=False,  # the token goes to the host that the API named only
            timeout=aiohttp.ClientTimeout(total=None, connect=self.connect_timeout, sock_read=self.read_timeout),
            auto_decompress=False,
        ) as response:
            yield response

    # --- the session -----------------------------------------------------------------------------------------------

    async def _session(self) -> aiohttp.ClientSession:
        """The session for this event loop: the connections of another one, which may have ended, are of no use here."""
        if self.session is not None:
            return self.session
        loop = asyncio.get_running_loop()
        session = self._sessions.get(loop)
        if session is None or session.closed:
            session = self._sessions[loop] = aiohttp.ClientSession()
            await self._close_ended()
        return session

    async def _close_ended(self) -> None:
        for loop in list(self._sessions):
            session = self._sessions.pop(loop, None) if loop.is_closed() else None
            if session is not None:
                await session.close()

    async def aclose(self) -> None:
        """Close the session that was made here for this event loop; a session that was given stays open."""
        session = self._sessions.pop(asyncio.get_running_loop(), None)
        if session is not None:
            await session.close()
        await self._close_ended()

    async def __aenter__(self) -> GraphClient:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.aclose()


class _Body(aiohttp.BytesPayload):
    """The JSON of a request; marks the request's `Wire` just before it is written.

    A trace of the session can do the same, but has every request of that session pay for it, and changes a session
    that may be somebody else's.
    """

    def __init__(self, value: bytes, wire: Wire | None) -> None:
        super().__init__(value, content_type="application/json")
        self._wire = wire

    def _mark(self) -> None:
        if self._wire is not None:
            self._wire.left = True

    async def write(self, writer: AbstractStreamWriter) -> None:
        """As aiohttp calls it up to 3.11."""
        self._mark()
        await super().write(writer)

    async def write_with_length(self, writer: AbstractStreamWriter, content_length: int | None) -> None:
        """As aiohttp calls it since 3.12."""
        self._mark()
        await super().write_with_length(writer, content_length)


async def _read(response: aiohttp.ClientResponse, cap: int) -> bytes:
    """At most `cap` bytes of the body; a longer one is cut, and then is no valid JSON."""
    chunks: list[bytes] = []
    size = 0
    while size < cap:
        chunk = await response.content.read(cap - size)
        if not chunk:
            break
        chunks.append(chunk)
        size += len(chunk)
        if response.content.at_eof():
            break
    return _unpacked(b"".join(chunks), response.headers.get("Content-Encoding"), cap)


def _unpacked(body: bytes, encoding: str | None, cap: int) -> bytes:
    """What a server packed although asked not to: at most `cap` bytes; what cannot be unpacked stays as it is."""
    if encoding is None or encoding.strip().lower() not in ("gzip", "x-gzip", "deflate"):
        return body
    try:
        return zlib.decompressobj(_GZIP_OR_ZLIB).decompress(body, cap)
    except zlib.error:
        return body

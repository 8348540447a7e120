"""Single requests to the Graph API over aiohttp: no retries, no policies, no redirects.

Every possible answer becomes a typed result or a typed error (`_envelope.py`). `Wire` tells whether a request had left
the machine when it was cut short.
"""

from __future__ import annotations

import inspect
import json
import re
import zlib
from collections.abc import Awaitable, Callable, Mapping
from types import SimpleNamespace, TracebackType
from typing import Any, Protocol, TypeAlias

import aiohttp
from attrs import define, field

from resilience_core import ConfigurationError
from resilience_whatsapp._envelope import (
    SendReceipt,
    Template,
    TemplatePage,
    read_send,
    read_success,
    read_templates,
    usage_wait,
)
from resilience_whatsapp.records import mask_recipient
from resilience_whatsapp.status import NUMBER_FIELDS, Health, NumberStatus, read_health, read_number_status

DEFAULT_BASE_URL = "https://graph.facebook.com"
DEFAULT_API_VERSION = "v25.0"
_SEND_LIMIT = 64 * 1024  # bytes read of an answer to a send, and of any error
_LIST_LIMIT = 4 * 1024 * 1024
_GZIP_OR_ZLIB = zlib.MAX_WBITS | 32  # tells them apart by their first bytes
Token: TypeAlias = str | Callable[[], str | Awaitable[str]]

__all__ = ["GraphClient", "GraphTransport", "SendReceipt", "Template", "TemplatePage", "Wire", "mask_recipient"]


class _Unseen(str):
    """A text that does not show itself in a debugger or an error collector."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "'...'"


@define
class Wire:
    """What became of one request: handed to `send_message`, readable whatever ends it."""

    left: bool = False
    """Whether its first byte may have left the machine."""


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


def _good_token(token: object) -> bool:
    return callable(token) or (isinstance(token, str) and re.fullmatch(r"[!-~]+", token) is not None)


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
        session: a session to use, which stays yours to close; default one of our own, made at the first request.
    """

    token: Token = field(repr=False)
    phone_number_id: str
    waba_id: str | None = None
    base_url: str = DEFAULT_BASE_URL
    api_version: str = DEFAULT_API_VERSION
    connect_timeout: float = 5.0
    read_timeout: float = 30.0
    session: aiohttp.ClientSession | None = field(default=None, repr=False)
    header_listeners: list[Callable[[Mapping[str, str]], None]] = field(factory=list, init=False, repr=False)
    """Called with the headers of every answer, before it is judged: they tell how much of the limits is used."""
    _own: aiohttp.ClientSession | None = field(default=None, init=False, repr=False)

    def __attrs_post_init__(self) -> None:
        _check("token", _good_token(self.token), "a non-empty string of visible ASCII characters, or a function")
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
        return read_send(status, body, usage_wait(headers))

    async def mark_as_read(self, payload: Mapping[str, Any]) -> None:
        """Make one request to say that a message was read, as `messages.MarkAsRead` writes it. It may be repeated.

        Raises:
            GraphError, AmbiguousOutcomeError, aiohttp.ClientError, TimeoutError: as for `send_message`.
        """
        status, headers, body = await self._request(
            "POST", f"{self.phone_number_id}/messages", json_body=payload, limit=_SEND_LIMIT
        )
        read_success(status, body, usage_wait(headers))

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
        return read_templates(status, body, usage_wait(headers))

    async def get_number_status(self) -> NumberStatus:
        """What the API says of the sending number: quality, limits, and whether it can send.

        Raises:
            GraphError, AmbiguousOutcomeError, aiohttp.ClientError, TimeoutError: as for `send_message`.
        """
        params = {"fields": ",".join(NUMBER_FIELDS)}
        status, headers, body = await self._request("GET", self.phone_number_id, params=params, limit=_SEND_LIMIT)
        return read_number_status(status, body, usage_wait(headers))

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
        return read_health(status, body, usage_wait(headers))

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
        data = None
        if json_body is not None:
            data = json.dumps(json_body).encode()
            headers["Content-Type"] = "application/json"
        async with self._session().request(
            method,
            f"{self.base_url.rstrip('/')}/{self.api_version}/{path}",
            data=data,
            params=params,
            headers=headers,
            allow_redirects=False,  # the token goes to this host only
            timeout=aiohttp.ClientTimeout(total=None, connect=self.connect_timeout, sock_read=self.read_timeout),
            trace_request_ctx=wire,
            auto_decompress=False,  # aiohttp would unpack a bomb before anybody could count its bytes
        ) as response:
            for listener in self.header_listeners:
                listener(response.headers)
            cap = limit if response.status == 200 else _SEND_LIMIT
            body = await _read(response, cap)
            return response.status, dict(response.headers), body

    async def _authorization(self) -> str:
        """In a frame of its own, which is gone before anything can fail: error collectors show the locals of frames."""
        token = self.token if isinstance(self.token, str) else self.token()
        return _Unseen(f"Bearer {await token if inspect.isawaitable(token) else token}")

    # --- the session -----------------------------------------------------------------------------------------------

    def _session(self) -> aiohttp.ClientSession:
        session = self.session or self._own
        if session is None or (session is self._own and session.closed):
            session = self._own = aiohttp.ClientSession()
        if not any(isinstance(config, _WireTrace) for config in session.trace_configs):
            trace = _WireTrace()
            trace.freeze()
            session.trace_configs.append(trace)
        return session

    async def aclose(self) -> None:
        """Close the session that was made here; a session that was given stays open."""
        if self._own is not None:
            await self._own.close()
            self._own = None

    async def __aenter__(self) -> GraphClient:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.aclose()


class _WireTrace(aiohttp.TraceConfig):
    """Marks a request's `Wire` just before its headers are written."""

    def __init__(self) -> None:
        super().__init__()
        self.on_request_headers_sent.append(self._mark)

    @staticmethod
    async def _mark(session: aiohttp.ClientSession, context: SimpleNamespace, params: Any) -> None:
        wire = context.trace_request_ctx
        if isinstance(wire, Wire):
            wire.left = True


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
    return _unpacked(b"".join(chunks), response.headers.get("Content-Encoding"), cap)


def _unpacked(body: bytes, encoding: str | None, cap: int) -> bytes:
    """What a server packed although asked not to: at most `cap` bytes; what cannot be unpacked stays as it is."""
    if encoding is None or encoding.strip().lower() not in ("gzip", "x-gzip", "deflate"):
        return body
    try:
        return zlib.decompressobj(_GZIP_OR_ZLIB).decompress(body, cap)
    except zlib.error:
        return body

"""A Graph client that survives: the breaker sits inside the retry, because an attempt is what fails.

    total time-out (if given) -> retry -> breaker -> one request

Two pipelines share the same policies: one for sends that may be repeated after an unknown outcome (and for reads), one
for sends that may not. Files have a breaker of their own: they are large, and come from another host; that they cannot
be had says nothing of messages. What is asked of a number or account passes no breaker: it tells why nothing can be
sent, and must answer just then. The spans of sends tell what OpenTelemetry says of messaging, and the API's answer; no
recipient, text or token is in any of them.
"""

from __future__ import annotations

import inspect
import logging
import threading
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from typing import Any, Literal, TypeAlias, TypeVar, cast, get_args
from weakref import WeakSet

from attrs import evolve, frozen

from resilience_core import (
    CircuitBreaker,
    ConfigurationError,
    Event,
    Explanation,
    Pipeline,
    Policy,
    Retry,
    RetryScheduled,
    Timeout,
)
from resilience_core.otel import annotate
from resilience_whatsapp._delivery import ACTIVE, Sending, name_of_error
from resilience_whatsapp.errors import AmbiguousOutcomeError, GraphError, MediaTooLargeError, classify_graph
from resilience_whatsapp.gates import Gates
from resilience_whatsapp.graph import GraphTransport, SendReceipt, TemplatePage, Wire
from resilience_whatsapp.media import DownloadedMedia, MediaInfo, Sink, SinkError
from resilience_whatsapp.records import Delivery
from resilience_whatsapp.settings import DEFAULT

LOGGER_NAME = "resilience_whatsapp.service"
T = TypeVar("T")
Kind: TypeAlias = Literal["messages", "templates", "media", "status"]
"""What a request is about."""
Breakers: TypeAlias = Literal["client", "kind"]


@frozen
class _Operation:
    """A method of the HTTP client besides the two that each one has."""

    kind: Kind
    hint: str
    repeatable: bool = True
    """Whether it may be made again after an unknown outcome."""


_OPERATIONS = {
    "mark_as_read": _Operation("messages", "mark_as_read(payload)"),
    "create_template": _Operation("templates", "create_template(definition)", repeatable=False),
    "delete_template": _Operation("templates", "delete_template(name, template_id)", repeatable=False),
    "upload_media": _Operation("media", "upload_media(file)"),
    "get_media": _Operation("media", "get_media(media_id)"),
    "delete_media": _Operation("media", "delete_media(media_id)"),
    "get_number_status": _Operation("status", "get_number_status()"),
    "get_account_health": _Operation("status", "get_account_health()"),
}


class ResilientWhatsAppClient:
    """Guards every request of an `http_client` with a breaker and one retry policy.

    Args:
        http_client: makes single requests: a `GraphClient`, or anything with `send_message(payload)` and
            `get_templates_page(after)`; for all else it needs the methods of `GraphClient` of the same name.
        circuit_breaker: default `whatsapp_api`: opens after 5 failures in a row, for 60 s, closes after 2 successes.
        retry_policy: default 3 attempts, after 1 s and 2 s, at most 10 s. Without `on` or `classify` of its own it
            retries what `classify_graph` calls TRANSIENT, THROTTLED or (for repeatable calls) UNKNOWN.
        logger: where the WhatsApp service's lines go; default the logger `resilience_whatsapp.service`.
        total_timeout: seconds for one call, retries and waits included; not for files.
        media_timeout: the same for the upload or download of a file; default none, as its size is not known.
        breakers: `client`: messages and templates share `circuit_breaker`. `kind`: templates have one of their own, so
            that listing them never opens the circuit of the messages. In both cases files have one of their own. Those
            have the same numbers, and the name of `circuit_breaker` with `.templates` or `.media` behind it.
        name: of its calls in traces and metrics; for processes with several numbers.
        gates: limits and latches beside the breaker; default none (`docs/whatsapp/gates.md`).
    """

    def __init__(
        self,
        http_client: GraphTransport,
        circuit_breaker: CircuitBreaker | None = None,
        retry_policy: Retry | None = None,
        logger: logging.Logger | None = None,
        *,
        total_timeout: float | None = None,
        media_timeout: float | None = None,
        breakers: Breakers = "client",
        name: str = "whatsapp",
        gates: Gates | None = None,
    ) -> None:
        self.http_client = _checked(http_client)
        self.circuit_breaker = circuit_breaker or DEFAULT.circuit_breaker()
        self.retry_policy = retry_policy or DEFAULT.retry_policy()
        self.logger = logger or logging.getLogger(LOGGER_NAME)
        self.gates = gates
        self.door = None if gates is None else gates.attach(http_client)
        if self.door is not None:
            self.door.follow(self.circuit_breaker)
        self._send_message: Callable[..., Awaitable[SendReceipt]] = http_client.send_message
        self._tells_wire = "wire" in inspect.signature(http_client.send_message).parameters
        if breakers not in get_args(Breakers):
            raise ConfigurationError(f"breakers must be one of {', '.join(get_args(Breakers))}, not {breakers!r}")
        self._name = name
        self._breakers: dict[Kind, CircuitBreaker] = {"messages": self.circuit_breaker}
        if breakers == "client":
            self._breakers["templates"] = self.circuit_breaker
        self._totals = {
            False: () if total_timeout is None else (Timeout(total_timeout, name="whatsapp_total"),),
            True: () if media_timeout is None else (Timeout(media_timeout, name="whatsapp_media_total"),),
        }
        self._pipelines: dict[tuple[CircuitBreaker | None, bool, bool], Pipeline] = {}
        self._repeatable = self._pipeline("messages", idempotent=True)
        self._once = self._pipeline("messages", idempotent=False)
        self._sends: dict[bool, Callable[..., Awaitable[SendReceipt]]] = {
            repeatable: pipeline(self._send_once)
            for repeatable, pipeline in ((True, self._repeatable), (False, self._once))
        }
        self._lists: Callable[[str | None], Awaitable[TemplatePage]] = self._pipeline("templates", idempotent=True)(
            self._list_once
        )
        self._calls: dict[str, Callable[..., Awaitable[Any]]] = {}
        self._single: Callable[..., Awaitable[SendReceipt]] | None = None
        self._told = {
            "messaging.system": "whatsapp",
            "messaging.operation.type": "send",
            "messaging.operation.name": "send",
            "whatsapp.phone_number_id": getattr(http_client, "phone_number_id", None),
        }
        _log_retries_of(self.retry_policy)

    async def send(
        self, payload: Mapping[str, Any], delivery: Delivery, sending: Sending, *, retries: bool = True
    ) -> SendReceipt:
        """Send one message; `sending` learns of every attempt, also when this raises or is cancelled.

        Without `retries` there is one attempt at most.
        """
        if retries:
            return await self._guarded(self._sends[delivery == "at_least_once"], payload, sending)
        if self._single is None:
            self._single = self._pipeline("messages", idempotent=False, retries=False)(self._send_once)
        return await self._guarded(self._single, payload, sending)

    async def get_templates_page(self, after: str | None) -> TemplatePage:
        """One page of approved templates."""
        return await self._guarded(self._lists, after)

    async def mark_as_read(self, payload: Mapping[str, Any]) -> None:
        """Say that a message was read, as `messages.MarkAsRead` writes it; repeated after an unknown outcome.

        Raises:
            ConfigurationError: the HTTP client has no method `mark_as_read(payload)`.
        """
        await self.call("mark_as_read", payload)

    async def call(self, operation: str, *args: Any) -> Any:
        """Make a request other than to send a message or to list templates: a method of `GraphClient`, by its name.

        Raises:
            ConfigurationError: the HTTP client has no such method.
        """
        guarded = self._calls.get(operation)
        if guarded is None:
            known = _OPERATIONS[operation]
            method = self._method(operation, known.hint)
            if self.door is not None and known.kind == "templates":
                method = partial(self.door.manage, method)
            once = self._plain(operation, method)
            guarded = self._calls[operation] = self._pipeline(known.kind, idempotent=known.repeatable)(once)
        return await self._guarded(guarded, *args)

    async def download_media(self, media: str | MediaInfo, sink: Sink) -> DownloadedMedia:
        """Fetch a file into `sink`: ask for its URL, if that is not given, and read it. A URL that is too old is asked
        for once more.

        Raises:
            ConfigurationError: the HTTP client has no methods `get_media` and `fetch_media`.
            MediaTooLargeError, MediaCorruptError: see there.
            OSError: it cannot be written.
        """
        guarded = self._calls.get("download_media")
        if guarded is None:
            guarded = self._calls["download_media"] = self._pipeline("media", idempotent=True)(self._download_once)
        try:
            downloaded: DownloadedMedia = await self._guarded(guarded, media, sink)
            return downloaded
        except SinkError as error:
            raise error.trouble from None
        finally:
            sink.abandon()

    def breaker_for(self, kind: Kind) -> CircuitBreaker | None:
        """The breaker that requests of this kind pass; None for `status`, which passes none."""
        if kind == "status":
            return None
        if kind not in self._breakers:
            breaker = self.circuit_breaker
            self._breakers[kind] = evolve(breaker, name=f"{breaker.name}.{kind}")
        return self._breakers[kind]

    def describe(self) -> dict[str, Any]:
        """How its requests are guarded, as plain values: see `Pipeline.describe`."""
        return self._once.describe()

    def explain(self) -> list[Explanation]:
        """Why its last requests that did not simply succeed ended as they did, the latest last."""
        calls = [call for pipeline in self._pipelines.values() for call in pipeline.explain()]
        return sorted(calls, key=lambda call: call.decisions[-1].at or 0.0)

    def _pipeline(self, kind: Kind, *, idempotent: bool, retries: bool = True) -> Pipeline:
        """The policies for requests of a kind; those that pass the same breaker share them."""
        breaker = self.breaker_for(kind)
        if (breaker, idempotent, retries) not in self._pipelines:
            total = self._totals[kind == "media"]
            gates: tuple[Policy, ...] = () if breaker is None else (breaker,)
            allow = {"breaker-without-inner-timeout": "the HTTP client has time-outs of its own"} if total else None
            self._pipelines[breaker, idempotent, retries] = Pipeline(
                *total,
                *((self.retry_policy,) if retries else ()),
                *gates,
                name=self._name,
                classify=classify_graph,
                allow=allow,
                idempotent=idempotent,
            )
        return self._pipelines[breaker, idempotent, retries]

    def _method(self, name: str, hint: str) -> Callable[..., Awaitable[Any]]:
        # Not of the protocol: a client of the user's may be without it.
        found: Any = getattr(self.http_client, name, None)
        if not callable(found):
            raise ConfigurationError(
                f"http_client must have an async method {name!r} for this; {type(self.http_client).__name__} "
                f"has none. Give a GraphClient, or add {hint}"
            )
        return cast(Callable[..., Awaitable[Any]], found)

    def _plain(self, name: str, method: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
        """One request, whose answer is noted on its span."""

        async def once(*args: Any) -> Any:
            try:
                answer = await method(*args)
            except Exception as error:
                _annotate_error(error)
                raise
            annotate({"http.response.status_code": 200})
            return answer

        once.__qualname__ = f"{type(self).__name__}.{name}"  # the operation's name in traces and metrics
        return once

    async def _guarded(self, call: Callable[..., Awaitable[T]], *args: Any) -> T:
        token = ACTIVE.set(self)
        try:
            return await call(*args)
        finally:
            ACTIVE.reset(token)

    async def _send_once(self, payload: Mapping[str, Any], sending: Sending) -> SendReceipt:
        """One attempt: inside the breaker, so that an open circuit costs no permit of a gate."""
        if self.door is None:
            return await self._request_send(payload, sending)
        return await self.door.send(self._request_send, payload, sending)

    async def _request_send(self, payload: Mapping[str, Any], sending: Sending) -> SendReceipt:
        annotate(self._told, call=True)
        wire = Wire() if self._tells_wire else None
        sending.begin(wire)
        try:
            if wire is None:
                receipt = await self._send_message(payload)
            else:
                receipt = await self._send_message(payload, wire=wire)
            if not isinstance(getattr(receipt, "wamid", None), str):
                raise TypeError(
                    f"http_client.send_message must answer a SendReceipt, not {type(receipt).__name__}: "
                    "it may have been sent"
                )
        except BaseException as error:
            sending.failed(error)
            _annotate_error(error)
            raise
        sending.accepted()
        annotate({"http.response.status_code": 200})  # there is no other one with a receipt
        annotate({"messaging.message.id": receipt.wamid, "http.response.status_code": 200}, call=True)
        return receipt

    async def _list_once(self, after: str | None) -> TemplatePage:
        if self.door is None:
            return await self._request_list(after)
        return await self.door.manage(self._request_list, after)

    async def _request_list(self, after: str | None) -> TemplatePage:
        try:
            page = await self.http_client.get_templates_page(after)
        except Exception as error:
            _annotate_error(error)
            raise
        annotate({"http.response.status_code": 200})
        return page

    async def _download_once(self, media: str | MediaInfo, sink: Sink) -> DownloadedMedia:
        get_media = self._method("get_media", "get_media(media_id)")
        fetch_media = self._method("fetch_media", "fetch_media(info, sink)")
        try:
            info: MediaInfo = media if isinstance(media, MediaInfo) else await get_media(media)
            if info.file_size is not None and info.file_size > sink.max_bytes:
                raise MediaTooLargeError(sink.max_bytes, info.file_size)
            try:
                await fetch_media(info, sink)
            except GraphError as error:
                if error.http_status != _GONE:
                    raise
                info = await get_media(info.id)
                await fetch_media(info, sink)
            downloaded = await sink.finish(info)
        except Exception as error:
            _annotate_error(error)
            raise
        annotate({"http.response.status_code": 200})
        return downloaded

    def log_retry(self, event: RetryScheduled) -> None:
        """Tell that a call of this client is made once more."""
        self.logger.warning(
            "Retrying operation",
            extra={
                "attempt": event.attempt,
                "delay_ms": round(event.delay * 1000),
                "error": name_of_error(event.error),
            },
        )


_logged: WeakSet[Retry] = WeakSet()
_logging = threading.Lock()


def _log_retries_of(policy: Retry) -> None:
    """Have each retry told to the client whose call it is.

    Once for each policy, not for each client: a policy that outlives its clients must not keep them.
    """

    def told(event: Event) -> None:
        client = ACTIVE.get()
        if isinstance(event, RetryScheduled) and client is not None and client.retry_policy is policy:
            client.log_retry(event)

    with _logging:
        if policy not in _logged:
            _logged.add(policy)
            policy.subscribe(told)


_GONE = 404  # what the API answers for a URL of a file that is older than 5 minutes


def _annotate_error(error: BaseException) -> None:
    """What the API answered: the status on both spans (the call's has the last one), Graph's codes on the attempt's."""
    if isinstance(error, (GraphError, AmbiguousOutcomeError)):
        annotate({"http.response.status_code": error.http_status}, call=True)
        codes = (error.code, error.subcode) if isinstance(error, GraphError) else (None, None)
        annotate(
            {
                "http.response.status_code": error.http_status,
                "whatsapp.error.code": codes[0],
                "whatsapp.error.subcode": codes[1],
            }
        )


def _checked(http_client: GraphTransport) -> GraphTransport:
    for method in ("send_message", "get_templates_page"):
        if not callable(getattr(http_client, method, None)):
            raise ConfigurationError(
                f"http_client must have an async method {method!r}; {type(http_client).__name__} has none. "
                "Give a GraphClient, or a class with send_message(payload) and get_templates_page(after)"
            )
    return http_client

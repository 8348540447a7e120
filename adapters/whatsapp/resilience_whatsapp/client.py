"""A Graph client that survives: the breaker sits inside the retry, because an attempt is what fails.

    total time-out (if given) -> retry -> breaker -> one request

Two pipelines share the same policies: one for sends that may be repeated after an unknown outcome (and for reads), one
for sends that may not. The spans of sends tell what OpenTelemetry says of messaging, and the API's answer; no
recipient, text or token is in any of them.
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, TypeVar

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
from resilience_whatsapp.errors import AmbiguousOutcomeError, GraphError, classify_graph
from resilience_whatsapp.gates import Gates
from resilience_whatsapp.graph import GraphTransport, SendReceipt, TemplatePage, Wire
from resilience_whatsapp.records import Delivery
from resilience_whatsapp.settings import DEFAULT

LOGGER_NAME = "resilience_whatsapp.service"
T = TypeVar("T")


class ResilientWhatsAppClient:
    """Guards every request of an `http_client` with one breaker and one retry policy.

    Args:
        http_client: makes single requests: a `GraphClient`, or anything with `send_message(payload)` and
            `get_templates_page(after)`.
        circuit_breaker: default `whatsapp_api`: opens after 5 failures in a row, for 60 s, closes after 2 successes.
        retry_policy: default 3 attempts, after 1 s and 2 s, at most 10 s. Without `on` or `classify` of its own it
            retries what `classify_graph` calls TRANSIENT, THROTTLED or (for repeatable calls) UNKNOWN.
        logger: where the WhatsApp service's lines go; default the logger `resilience_whatsapp.service`.
        total_timeout: seconds for one call, retries and waits included.
        gates: limits and latches beside the breaker; default none (`docs/whatsapp-gates.md`).
    """

    def __init__(
        self,
        http_client: GraphTransport,
        circuit_breaker: CircuitBreaker | None = None,
        retry_policy: Retry | None = None,
        logger: logging.Logger | None = None,
        *,
        total_timeout: float | None = None,
        gates: Gates | None = None,
    ) -> None:
        self.http_client = _checked(http_client)
        self.circuit_breaker = circuit_breaker or DEFAULT.circuit_breaker()
        self.retry_policy = retry_policy or DEFAULT.retry_policy()
        self.logger = logger or logging.getLogger(LOGGER_NAME)
        self.gates = gates
        self.door = None if gates is None else gates.attach(http_client)
        if self.door is not None:
            self.circuit_breaker.subscribe(self.door.hear_breaker)
        self._send_message: Callable[..., Awaitable[SendReceipt]] = http_client.send_message
        self._tells_wire = "wire" in inspect.signature(http_client.send_message).parameters
        total = (Timeout(total_timeout, name="whatsapp_total"),) if total_timeout is not None else ()
        policies: tuple[Policy, ...] = (*total, self.retry_policy, self.circuit_breaker)
        allow = {"breaker-without-inner-timeout": "the HTTP client has time-outs of its own"} if total else None
        options: dict[str, Any] = {"name": "whatsapp", "classify": classify_graph, "allow": allow}
        self._repeatable = Pipeline(*policies, **options, idempotent=True)
        self._once = Pipeline(*policies, **options, idempotent=False)
        self._sends: dict[bool, Callable[..., Awaitable[SendReceipt]]] = {
            repeatable: pipeline(self._send_once)
            for repeatable, pipeline in ((True, self._repeatable), (False, self._once))
        }
        self._lists: Callable[[str | None], Awaitable[TemplatePage]] = self._repeatable(self._list_once)
        self._marks: Callable[[Mapping[str, Any]], Awaitable[None]] = self._repeatable(self._mark_once)
        self._told = {
            "messaging.system": "whatsapp",
            "messaging.operation.type": "send",
            "messaging.operation.name": "send",
            "whatsapp.phone_number_id": getattr(http_client, "phone_number_id", None),
        }
        self.retry_policy.subscribe(self._log_retry)

    async def send(self, payload: Mapping[str, Any], delivery: Delivery, sending: Sending) -> SendReceipt:
        """Send one message; `sending` learns of every attempt, also when this raises or is cancelled."""
        return await self._guarded(self._sends[delivery == "at_least_once"], payload, sending)

    async def get_templates_page(self, after: str | None) -> TemplatePage:
        """One page of approved templates."""
        return await self._guarded(self._lists, after)

    async def mark_as_read(self, payload: Mapping[str, Any]) -> None:
        """Say that a message was read, as `messages.MarkAsRead` writes it; repeated after an unknown outcome.

        Raises:
            ConfigurationError: the HTTP client has no method `mark_as_read(payload)`.
        """
        if not callable(getattr(self.http_client, "mark_as_read", None)):
            raise ConfigurationError(
                f"http_client must have an async method 'mark_as_read' for this; {type(self.http_client).__name__} "
                "has none. Give a GraphClient, or add mark_as_read(payload)"
            )
        await self._guarded(self._marks, payload)

    def describe(self) -> dict[str, Any]:
        """How its requests are guarded, as plain values: see `Pipeline.describe`."""
        return self._once.describe()

    def explain(self) -> list[Explanation]:
        """Why its last requests that did not simply succeed ended as they did, the latest last."""
        calls = [*self._repeatable.explain(), *self._once.explain()]
        return sorted(calls, key=lambda call: call.decisions[-1].at or 0.0)

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
        except BaseException as error:
            sending.failed(error)
            _annotate_error(error)
            raise
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

    async def _mark_once(self, payload: Mapping[str, Any]) -> None:
        # Not of the protocol: a client of the user's may be without it.
        mark: Callable[[Mapping[str, Any]], Awaitable[None]] = getattr(self.http_client, "mark_as_read")  # noqa: B009
        try:
            await mark(payload)
        except Exception as error:
            _annotate_error(error)
            raise
        annotate({"http.response.status_code": 200})

    def _log_retry(self, event: Event) -> None:
        if isinstance(event, RetryScheduled) and ACTIVE.get() is self:
            self.logger.warning(
                "Retrying operation",
                extra={
                    "attempt": event.attempt,
                    "delay_ms": round(event.delay * 1000),
                    "error": name_of_error(event.error),
                },
            )


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

"""Stub HTTP clients and a virtual clock for tests that need no server."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from resilience_core import CircuitBreaker, Clock, Retry
from resilience_whatsapp import ResilientWhatsAppClient, SendReceipt, Template, TemplatePage, WhatsAppService, Wire

RECIPIENT = "+33612345678"


class FakeClock(Clock):
    """Time that passes only by sleeping."""

    def __init__(self) -> None:
        self.time = 1000.0
        super().__init__(lambda: self.time, lambda: self.time, self.pass_, self._pass_async)

    def pass_(self, seconds: float) -> None:
        self.time += seconds

    async def _pass_async(self, seconds: float) -> None:
        self.time += seconds
        await asyncio.sleep(0)


class Stub:
    """Answers each request with the next outcome, and the last one for ever."""

    def __init__(self, *outcomes: Any) -> None:
        self.outcomes = list(outcomes)
        self.payloads: list[Mapping[str, Any]] = []
        self.pages = 0

    def _next(self) -> Any:
        outcome = self.outcomes.pop(0) if len(self.outcomes) > 1 else self.outcomes[0]
        if isinstance(outcome, BaseException):
            raise outcome
        return outcome

    async def send_message(self, payload: Mapping[str, Any]) -> SendReceipt:
        self.payloads.append(payload)
        outcome = self._next()
        return outcome if isinstance(outcome, SendReceipt) else SendReceipt(f"wamid.{len(self.payloads)}")

    async def get_templates_page(self, after: str | None) -> TemplatePage:
        self.pages += 1
        outcome = self._next()
        return outcome if isinstance(outcome, TemplatePage) else TemplatePage((Template("t", "fr", "APPROVED"),))


class WireStub(Stub):
    """A stub that tells, as `GraphClient` does, whether the request had left: `left` for each request in turn."""

    def __init__(self, *outcomes: Any, left: Iterable[bool]) -> None:
        super().__init__(*outcomes)
        self._left = iter(left)

    async def send_message(  # type: ignore[override]
        self, payload: Mapping[str, Any], *, wire: Wire
    ) -> SendReceipt:
        wire.left = next(self._left)
        return await super().send_message(payload)


def service_over(
    stub: Any,
    clock: Clock,
    *,
    breaker: Callable[..., CircuitBreaker] | None = None,
    max_attempts: int = 3,
    total_timeout: float | None = None,
    **options: Any,
) -> WhatsAppService:
    """The service with the default numbers, in the clock's time."""
    circuit = CircuitBreaker("whatsapp_api", clock=clock) if breaker is None else breaker()
    retry = Retry(max_attempts=max_attempts, clock=clock)
    return WhatsAppService(ResilientWhatsAppClient(stub, circuit, retry, total_timeout=total_timeout), **options)


OK = SendReceipt("wamid.ok")

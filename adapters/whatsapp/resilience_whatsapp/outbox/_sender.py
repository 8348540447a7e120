"""A service as the outbox sees it."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from resilience_core import CircuitState
from resilience_whatsapp._clock import SYSTEM
from resilience_whatsapp._delivery import Sending
from resilience_whatsapp.outbox._row import OutboxRow
from resilience_whatsapp.records import MessageRecord

if TYPE_CHECKING:
    from resilience_whatsapp.service import WhatsAppService

_logger = logging.getLogger("resilience_whatsapp.outbox")
LISTING_BINDS = 300.0
"""Seconds for which a listing without a template keeps queued messages of it back."""
FORCED_FOR = 1.0
"""Seconds after which a circuit that was opened by hand is looked at again."""


class ServiceSender:
    """Makes the requests of one service."""

    def __init__(self, service: WhatsAppService) -> None:
        self._service = service

    @property
    def lane(self) -> str:
        """As `Sender.lane`; empty for an HTTP client that does not tell its number."""
        return str(getattr(self._service.client.http_client, "phone_number_id", ""))

    async def attempt(
        self, record: MessageRecord, payload: Mapping[str, Any], sending: Sending, *, retries: bool
    ) -> MessageRecord:
        """As `Sender.attempt`."""
        return await self._service._send(record, payload, sending, retries=retries)

    def tell(self, record: MessageRecord, sending: Sending, error: BaseException | None = None) -> None:
        """As `Sender.tell`: the service's history and alarms. What they raise changes nothing for the message."""
        try:
            self._service._tell(record, sending, error)
        except Exception as trouble:
            failed = type(trouble).__name__  # no traceback: it may show the message
        else:
            return
        _logger.error("The history or the alarms could not be told of a message (%s)", failed)

    def closed_for(self) -> float:
        """As `Sender.closed_for`."""
        breaker = self._service.client.circuit_breaker
        if breaker.state is CircuitState.OPEN:
            return breaker.retry_after() or 0.0
        return FORCED_FOR if breaker.state is CircuitState.FORCED_OPEN else 0.0

    def is_probing(self) -> bool:
        """As `Sender.is_probing`."""
        return self._service.client.circuit_breaker.state in (CircuitState.OPEN, CircuitState.HALF_OPEN)

    def template_wait(self, row: OutboxRow) -> float:
        """As `Sender.template_wait`: it is set aside, or a listing that is newer than the row is without it."""
        if row.template is None or row.language is None:
            return 0.0
        key = (row.template, row.language)
        aside = self._service._templates.quarantine.error_for(key)
        if aside is not None:
            return aside.retry_after or 0.0
        entry = self._service._templates.kept()
        clock = SYSTEM if self._service.outbox is None else self._service.outbox.clock
        if entry is None or entry.age >= min(LISTING_BINDS, clock.wall() - row.created_at):
            return 0.0  # an old listing proves nothing: then the API is asked
        listed = any((each.name, each.language) == key for each in entry.value.templates)
        return 0.0 if listed else LISTING_BINDS - entry.age

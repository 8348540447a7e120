"""Listeners that tie webhooks to the other parts."""

from __future__ import annotations

import time
from typing import Protocol

from resilience_whatsapp._delivery import name_of_error
from resilience_whatsapp.webhooks._handing import Listener, on
from resilience_whatsapp.webhooks._updates import StatusUpdate, TemplateUpdate

__all__ = ["forgetting_templates", "settling"]


class Settles(Protocol):
    """An `Outbox`."""

    async def settle(self, row_id: str, wamid: str, status: str, at: float, *, error: str | None = None) -> object:
        """What a webhook tells of a message."""
        ...


class ForgetsTemplates(Protocol):
    """A `WhatsAppService`."""

    def forget_templates(self) -> None:
        """Ask for the list anew."""
        ...


def settling(outbox: Settles) -> Listener:
    """Tells an outbox what became of its messages: what was unknown is settled by it.

    The outbox finds the message by the echo of its id, so that a webhook that comes before the answer finds it, too.
    """

    async def settle(update: StatusUpdate) -> None:
        if update.record_id is not None:
            at = time.time() if update.at is None else update.at
            error = name_of_error(update.errors[0]) if update.errors else None
            await outbox.settle(update.record_id, update.wamid, update.status, at, error=error)

    return on(StatusUpdate, settle)


def forgetting_templates(service: ForgetsTemplates) -> Listener:
    """Lets a service ask for its list of templates anew when one of them was approved, paused or changed."""
    return on(TemplateUpdate, lambda _: service.forget_templates())

"""The service for blocking callers: one event loop in a background thread, shared by all of them."""

from __future__ import annotations

from contextlib import ExitStack
from functools import partial
from types import TracebackType
from typing import Any

from anyio.from_thread import start_blocking_portal

from resilience_whatsapp.client import ResilientWhatsAppClient
from resilience_whatsapp.messages import Message, Recipient
from resilience_whatsapp.records import MessageRecord
from resilience_whatsapp.service import WhatsAppService
from resilience_whatsapp.templates import TemplateList


class BlockingWhatsAppService:
    """`WhatsAppService` without `await`. Safe to use from many threads at once; `close()` ends its loop.

    Built by `WhatsAppService.blocking(client, ...)`; use it as a context manager.
    """

    def __init__(self, client: ResilientWhatsAppClient, **options: Any) -> None:
        self.service = WhatsAppService(client, **options)
        self._stack = ExitStack()
        self._portal = self._stack.enter_context(start_blocking_portal("asyncio"))
        aclose = getattr(client.http_client, "aclose", None)
        if aclose is not None:
            self._stack.callback(self._portal.call, aclose)

    def send(self, user: Any, recipient: str | Recipient, message: Message, **options: Any) -> MessageRecord:
        """As `WhatsAppService.send`."""
        return self._portal.call(partial(self.service.send, user, recipient, message, **options))

    def send_template_message(
        self, user: Any, recipient: str | Recipient, template_name: str, language_code: str, **options: Any
    ) -> MessageRecord:
        """As `WhatsAppService.send_template_message`."""
        send = partial(self.service.send_template_message, user, recipient, template_name, language_code, **options)
        return self._portal.call(send)

    def send_text(self, user: Any, recipient: str | Recipient, body: str, **options: Any) -> MessageRecord:
        """As `WhatsAppService.send_text`."""
        return self._portal.call(partial(self.service.send_text, user, recipient, body, **options))

    def mark_as_read(self, message_id: str, *, typing: bool = False) -> None:
        """As `WhatsAppService.mark_as_read`."""
        self._portal.call(partial(self.service.mark_as_read, message_id, typing=typing))

    def get_approved_templates(self) -> TemplateList:
        """As `WhatsAppService.get_approved_templates`."""
        return self._portal.call(self.service.get_approved_templates)

    def forget_templates(self) -> None:
        """As `WhatsAppService.forget_templates`."""
        self._portal.call(self.service.forget_templates)

    def handle_template_update(
        self, topic: str, *, name: str | None = None, language: str | None = None, event: str | None = None
    ) -> bool:
        """As `WhatsAppService.handle_template_update`."""
        handle = partial(self.service.handle_template_update, topic, name=name, language=language, event=event)
        return self._portal.call(handle)

    def close(self) -> None:
        """Close the HTTP client and end the background loop; calls under way finish first."""
        self._stack.close()

    def __enter__(self) -> BlockingWhatsAppService:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

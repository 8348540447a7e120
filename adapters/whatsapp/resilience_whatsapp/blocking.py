"""The service for blocking callers: one event loop in a background thread, shared by all of them."""

from __future__ import annotations

import asyncio
import atexit
import os
import threading
import weakref
from collections import deque
from collections.abc import Callable, Coroutine, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import ExitStack, suppress
from functools import partial
from itertools import islice
from types import TracebackType
from typing import Any, TypeVar, Unpack

import anyio
from anyio.from_thread import BlockingPortal

from resilience_core import ConfigurationError
from resilience_whatsapp.bulk import BulkProgress, BulkSend, Outgoing, Progress, SendResult, WhenOpen
from resilience_whatsapp.client import ResilientWhatsAppClient
from resilience_whatsapp.errors import ServiceClosedError
from resilience_whatsapp.graph import TemplateReceipt
from resilience_whatsapp.media import DownloadedMedia, MediaInfo, MediaSource, MediaTarget, UploadedMedia
from resilience_whatsapp.messages import Message, Recipient, TemplateDefinition
from resilience_whatsapp.messages._template import Component
from resilience_whatsapp.outbox._options import OutboxOptions
from resilience_whatsapp.records import Delivery, MessageRecord
from resilience_whatsapp.service import WhatsAppService
from resilience_whatsapp.status import Health, NumberStatus
from resilience_whatsapp.templates import TemplateList

T = TypeVar("T")


class BlockingWhatsAppService:
    """`WhatsAppService` without `await`. Safe to use from many threads at once; `close()` ends its loop.

    Built by `WhatsAppService.blocking(client, ...)`; use it as a context manager, or `close()` it: else the end of the
    program does, without waiting for calls under way. A call that is interrupted (Ctrl-C) is cut short. A process that
    was forked needs a new one: the thread of its loop stayed with the parent. With an outbox it also sends what is
    queued, until it is closed.
    """

    def __init__(self, client: ResilientWhatsAppClient, **options: Any) -> None:
        self.service = WhatsAppService(client, **options)
        self._process = os.getpid()
        self._closed = False
        self._closing = threading.Lock()
        self._loop = _Loop()
        self._portal = self._loop.portal
        self._stack = ExitStack()
        if self.service.outbox is not None:
            self._stack.callback(self._portal.call, self.service.outbox.aclose)
            self._stack.enter_context(self._portal.wrap_async_context_manager(self.service.outbox.running()))
        _open.add(self)
        weakref.finalize(self, _let_go, self._portal, self._process).atexit = False

    def _call(self, call: Callable[..., Coroutine[Any, Any, T]], *args: Any, **options: Any) -> T:
        if os.getpid() != self._process:
            raise ServiceClosedError("this service was made before the process was forked: make a new one")
        task = _Task()
        future: Future[T] | None = None
        try:
            future = self._portal.start_task_soon(task.run, partial(call, *args, **options))
            return future.result()
        except BaseException as error:
            if isinstance(error, RuntimeError) and future is None and self._closed:
                raise ServiceClosedError("the service is closed: nothing was done; make a new one") from None
            if not isinstance(error, Exception) and (future is None or not future.done()):
                # An interrupt can come at any time, also before there is a future to cancel.
                with suppress(RuntimeError):  # the loop has ended, and the call with it
                    self._portal.start_task_soon(_in_loop, task.cancel)
            raise

    def send(
        self,
        user: Any,
        recipient: str | Recipient,
        message: Message,
        *,
        reply_to: str | None = None,
        delivery: Delivery | None = None,
        opaque_data: str | None = None,
        **keeping: Unpack[OutboxOptions],
    ) -> MessageRecord:
        """As `WhatsAppService.send`."""
        options: dict[str, Any] = {"reply_to": reply_to, "delivery": delivery, "opaque_data": opaque_data, **keeping}
        return self._call(self.service.send, user, recipient, message, **options)

    def send_template_message(
        self,
        user: Any,
        recipient: str | Recipient,
        template_name: str,
        language_code: str,
        *,
        components: Sequence[Mapping[str, Any] | Component] = (),
        delivery: Delivery | None = None,
        opaque_data: str | None = None,
        **keeping: Unpack[OutboxOptions],
    ) -> MessageRecord:
        """As `WhatsAppService.send_template_message`."""
        options: dict[str, Any] = {
            "components": components,
            "delivery": delivery,
            "opaque_data": opaque_data,
            **keeping,
        }
        return self._call(self.service.send_template_message, user, recipient, template_name, language_code, **options)

    def send_text(
        self,
        user: Any,
        recipient: str | Recipient,
        body: str,
        *,
        preview_url: bool = False,
        delivery: Delivery | None = None,
        opaque_data: str | None = None,
        **keeping: Unpack[OutboxOptions],
    ) -> MessageRecord:
        """As `WhatsAppService.send_text`."""
        options: dict[str, Any] = {
            "preview_url": preview_url,
            "delivery": delivery,
            "opaque_data": opaque_data,
            **keeping,
        }
        return self._call(self.service.send_text, user, recipient, body, **options)

    def send_many(
        self,
        messages: Iterable[Outgoing],
        *,
        concurrency: int = 10,
        when_open: WhenOpen = "stop",
        wait_at_most: float = 3600.0,
        progress: Progress | None = None,
    ) -> BlockingBulkSend:
        """As `WhatsAppService.send_many`, with a plain `for`. The rows are read in the caller's thread; `progress` is
        called in another.
        """
        if not isinstance(messages, Iterable):
            raise ConfigurationError("send_many: messages must be an iterable of Outgoing")
        bulk = self.service._bulk(None, concurrency, when_open, wait_at_most, progress)
        return BlockingBulkSend(bulk, messages, self._call)

    def mark_as_read(self, message_id: str, *, typing: bool = False) -> None:
        """As `WhatsAppService.mark_as_read`."""
        self._call(self.service.mark_as_read, message_id, typing=typing)

    def upload_media(
        self, file: MediaSource, *, mime_type: str | None = None, filename: str | None = None
    ) -> UploadedMedia:
        """As `WhatsAppService.upload_media`."""
        return self._call(self.service.upload_media, file, mime_type=mime_type, filename=filename)

    def download_media(
        self, media: str | MediaInfo, *, max_bytes: int, to: MediaTarget | None = None
    ) -> DownloadedMedia:
        """As `WhatsAppService.download_media`."""
        return self._call(self.service.download_media, media, max_bytes=max_bytes, to=to)

    def get_media(self, media_id: str) -> MediaInfo:
        """As `WhatsAppService.get_media`."""
        return self._call(self.service.get_media, media_id)

    def delete_media(self, media_id: str) -> None:
        """As `WhatsAppService.delete_media`."""
        self._call(self.service.delete_media, media_id)

    def forget_media(self, media_id: str | None = None) -> None:
        """As `WhatsAppService.forget_media`."""
        self._call(_in_loop, self.service.forget_media, media_id)

    def get_number_status(self) -> NumberStatus:
        """As `WhatsAppService.get_number_status`."""
        return self._call(self.service.get_number_status)

    def get_account_health(self) -> Health:
        """As `WhatsAppService.get_account_health`."""
        return self._call(self.service.get_account_health)

    def create_template(self, definition: TemplateDefinition) -> TemplateReceipt:
        """As `WhatsAppService.create_template`."""
        return self._call(self.service.create_template, definition)

    def delete_template(self, name: str, *, template_id: str | None = None) -> None:
        """As `WhatsAppService.delete_template`."""
        self._call(self.service.delete_template, name, template_id=template_id)

    def get_approved_templates(self) -> TemplateList:
        """As `WhatsAppService.get_approved_templates`."""
        return self._call(self.service.get_approved_templates)

    def forget_templates(self) -> None:
        """As `WhatsAppService.forget_templates`."""
        self._call(_in_loop, self.service.forget_templates)

    def handle_template_update(
        self, topic: str, *, name: str | None = None, language: str | None = None, event: str | None = None
    ) -> bool:
        """As `WhatsAppService.handle_template_update`."""
        handle = partial(self.service.handle_template_update, topic, name=name, language=language, event=event)
        about_a_template: bool = self._call(_in_loop, handle)
        return about_a_template

    def close(self, drain: float = 10.0) -> None:
        """As `WhatsAppService.aclose`; then the background loop is ended. Calls after it raise `ServiceClosedError`."""
        if os.getpid() != self._process:
            return  # the loop is the parent's
        with self._closing:
            if not self._closed:
                self._call(self.service.aclose, drain)
                self._closed = True
                self._stack.close()
                self._loop.end()
                _open.discard(self)

    def __enter__(self) -> BlockingWhatsAppService:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


class _Loop:
    """An event loop in a thread of its own.

    Not `start_blocking_portal`: what that leaves behind waits for the thread when it is collected, which never ends
    where the thread is not any more: at the end of a program that did not close the service, and in a forked child.
    """

    def __init__(self) -> None:
        started: Future[BlockingPortal] = Future()
        self._thread = threading.Thread(target=anyio.run, args=(_serve, started), name="whatsapp", daemon=True)
        self._thread.start()
        self.portal = started.result()

    def end(self) -> None:
        """Stop it, and wait until it has."""
        self.portal.call(self.portal.stop)
        self._thread.join()


async def _serve(started: Future[BlockingPortal]) -> None:
    async with BlockingPortal() as portal:
        started.set_result(portal)
        await portal.sleep_until_stopped()


def _let_go(portal: BlockingPortal, process: int) -> None:
    """End the loop of a service that is not used any more, without waiting: this may be any thread."""
    if os.getpid() == process:
        with suppress(RuntimeError):  # it has ended
            portal.start_task_soon(portal.stop, True)


_open: weakref.WeakSet[BlockingWhatsAppService] = weakref.WeakSet()


@atexit.register
def _close_all() -> None:
    """At the end of a program that did not do it; its threads have ended by then."""
    for service in list(_open):
        with suppress(Exception):
            service.close(0.0)


class _Task:
    """A call in the loop that can be cancelled from outside, whether it has begun or not."""

    def __init__(self) -> None:
        self._task: asyncio.Task[Any] | None = None
        self._cancelled = False

    async def run(self, call: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """Carry out the call."""
        self._task = asyncio.current_task()
        if self._cancelled:
            raise asyncio.CancelledError
        return await call()

    def cancel(self) -> None:
        """End it; in the loop."""
        self._cancelled = True
        if self._task is not None:
            self._task.cancel()


async def _in_loop(act: Callable[..., T], *args: Any, **options: Any) -> T:
    """What is not a coroutine is done in the loop all the same: nothing there is made for other threads."""
    return act(*args, **options)


class BlockingBulkSend:
    """`BulkSend` without `await`: iterate over it with `for`, in one thread."""

    def __init__(self, bulk: BulkSend, rows: Iterable[Outgoing], call: Callable[..., Any]) -> None:
        self._bulk = bulk
        self._rows = iter(rows)
        self._call = call
        self._read: deque[Outgoing] = deque()  # and not yet taken by the other thread
        self._room = 0
        self._over = False
        self._trouble: BaseException | None = None

    @property
    def progress(self) -> BulkProgress:
        """How far it is."""
        return self._bulk.progress

    @property
    def leftover(self) -> tuple[SendResult, ...]:
        """As `BulkSend.leftover`."""
        return self._bulk.leftover

    def __iter__(self) -> Iterator[SendResult]:
        return self

    def __next__(self) -> SendResult:
        try:
            while (step := self._call(self._bulk.step, self._taken(), self._over)) is not None:
                result, self._room = step
                if result is not None:
                    found: SendResult = result
                    return found
        except (KeyboardInterrupt, SystemExit):
            self.close()
            raise
        trouble, self._trouble = self._trouble, None
        if trouble is not None:
            raise trouble
        raise StopIteration

    def _taken(self) -> deque[Outgoing]:
        """As many rows as there is room for."""
        try:
            self._read.extend(islice(self._rows, self._room))
        except Exception as error:  # those before it are sent
            self._trouble, self._over = error, True
        self._over = self._over or len(self._read) < self._room
        self._room = 0
        return self._read

    def close(self) -> None:
        """As `BulkSend.aclose`."""
        self._over = True
        rows, self._read = self._read, deque()
        self._call(self._bulk.aclose, rows)

    def __enter__(self) -> BlockingBulkSend:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

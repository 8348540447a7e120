"""Sending WhatsApp messages through an API that fails: the service that applications talk to."""

from __future__ import annotations

import os
from collections.abc import AsyncIterable, Iterable, Mapping, Sequence
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, Any, Unpack

from resilience_core import CircuitOpenError, ConfigurationError
from resilience_whatsapp._clock import SYSTEM
from resilience_whatsapp._closing import Calls, checked_drain
from resilience_whatsapp._copies import replaced
from resilience_whatsapp._delivery import Sending, carry, name_of_error
from resilience_whatsapp._media_ids import MediaIds
from resilience_whatsapp._opaque import check_opaque_data, join_opaque_data
from resilience_whatsapp.bulk import BulkSend, Outgoing, Progress, WhenOpen
from resilience_whatsapp.client import ResilientWhatsAppClient
from resilience_whatsapp.errors import GraphTemplateError, InvalidMessageError, ServiceClosedError
from resilience_whatsapp.graph import TemplateReceipt
from resilience_whatsapp.media import (
    DownloadedMedia,
    MediaFile,
    MediaInfo,
    MediaSource,
    MediaTarget,
    Sink,
    UploadedMedia,
    media_id_of,
)
from resilience_whatsapp.messages import (
    MarkAsRead,
    Message,
    MessageRequest,
    RawComponent,
    Recipient,
    TemplateDefinition,
    TemplateMessage,
    Text,
)
from resilience_whatsapp.messages._parts import Part
from resilience_whatsapp.messages._template import Component
from resilience_whatsapp.outbox._options import OutboxOptions
from resilience_whatsapp.outbox._sender import ServiceSender
from resilience_whatsapp.records import DELIVERIES, Delivery, MessageRecord, MessageStatus, mask_recipient
from resilience_whatsapp.status import Health, NumberStatus
from resilience_whatsapp.templates import TEMPLATE_QUARANTINE, TemplateList
from resilience_whatsapp.templates._book import TEMPLATES_FRESH_FOR, TemplateBook

if TYPE_CHECKING:
    from resilience_core.fleet import BaseFleet
    from resilience_whatsapp.alarms import Alarms
    from resilience_whatsapp.blocking import BlockingWhatsAppService
    from resilience_whatsapp.history import History
    from resilience_whatsapp.outbox import Outbox


class WhatsAppService:
    """Sends messages and lists templates through a `ResilientWhatsAppClient`.

    Args:
        client: makes the requests.
        delivery: what happens to a send whose outcome is unknown. `at_least_once` sends it again (the record says
            `possible_duplicate`); `at_most_once` never does (the record says `unknown`). Each send can choose.
        mask_recipients: whether logs show recipients as `+33******78`.
        templates_fresh_for: seconds during which the template list is served without asking the API. After that it is
            asked for anew, and the old one is served only while that fails, until it is 24 h old.
        template_file: where the list, and which templates are set aside, are kept so that they outlive the process.
        fleet: a `RedisFleet`: the list and what is set aside are those of all its members that send for the same
            business account: `http_client.waba_id`. One member fetches, the others use its list; what one forgets all
            forget.
        template_quarantine: seconds, by error code, for which a template is set aside after a send of it failed with
            that `GraphTemplateError`: further sends of it in its language fail at once with the same error, marked
            `local`, without a request. Codes that are not in it, or have 0, set nothing aside; `{}` switches it off.
        validate_templates: compare the parameters of a template message, before it is sent, with what the list of
            templates says, if one is kept that is younger than 24 h; it is never asked for because of this.
        media_file: where the ids of uploaded files are kept so that they outlive the process; one for each number.
        history: is told how each send ended, and of its attempts: `resilience_whatsapp.history`.
        alarms: is told the errors of sends, and calls somebody for those that need it: `resilience_whatsapp.alarms`.
        outbox: keeps every message before it is sent: `resilience_whatsapp.outbox`.
    """

    def __init__(
        self,
        client: ResilientWhatsAppClient,
        *,
        delivery: Delivery = "at_least_once",
        mask_recipients: bool = True,
        templates_fresh_for: float = TEMPLATES_FRESH_FOR,
        template_file: str | os.PathLike[str] | None = None,
        fleet: BaseFleet | None = None,
        template_quarantine: Mapping[int, float] = TEMPLATE_QUARANTINE,
        validate_templates: bool = True,
        media_file: str | os.PathLike[str] | None = None,
        history: History | None = None,
        alarms: Alarms | None = None,
        outbox: Outbox | None = None,
    ) -> None:
        self.client = client
        self.history = history
        self.alarms = alarms
        self._calls = Calls()
        self._media = MediaIds(client, media_file)
        self.delivery: Delivery = _checked(delivery)
        self._mask_recipients = mask_recipients
        self._logger = client.logger
        self._templates = TemplateBook(
            client,
            self._calls,
            fresh_for=templates_fresh_for,
            file=template_file,
            fleet=fleet,
            quarantine=template_quarantine,
            checks=validate_templates,
        )
        if client.door is not None:  # the gate of templates, and which of them are marketing
            client.door.quarantine = self._templates.quarantine
            client.door.category_of = self._templates.category_of
        self.outbox = outbox
        self._sender = ServiceSender(self)
        if outbox is not None:
            outbox.attach(self._sender)

    @staticmethod
    def blocking(client: ResilientWhatsAppClient, **options: Any) -> BlockingWhatsAppService:
        """The same service for blocking callers; takes the same options, and is a context manager."""
        from resilience_whatsapp.blocking import BlockingWhatsAppService  # it imports this module

        return BlockingWhatsAppService(client, **options)

    async def send(
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
        """Send any message of `resilience_whatsapp.messages`.

        Args:
            user: on whose behalf: any object with `.id`, a mapping with `"id"`, or an id. Logs show that.
            recipient: a phone number with `+` and country code, a `PhoneNumber`, a `UserId` or a `GroupId`.
            message: what is sent.
            reply_to: the id of a message of the recipient, which is quoted.
            delivery: overrides the service's choice for this message.
            opaque_data: your own data, which webhooks about the message bring back (`StatusUpdate.opaque_data`), beside
                the record's id; 1 to 479 characters.
            keeping: with an outbox, its `OutboxOptions`: `idempotency_key`, `when_down`, `not_after`, `priority`,
                `ordered`.

        Raises:
            ConfigurationError: an option of the outbox, without one.
            OutboxStoreError, IdempotencyKeyError: the outbox could not keep it, or knows the key for another message;
                nothing was sent.
            InvalidMessageError: a number without `+`, or something that the API would refuse, such as parameters that
                do not fit the template; nothing was sent.
            CircuitOpenError: the service is down; nothing was sent by this call's last attempt.
            ServiceClosedError: `aclose` was called; the record tells whether it may have been sent.
            GraphError, AmbiguousOutcomeError, TimeoutExceeded: as the API or the time-out ended it. A
                `GraphTemplateError` with `local` comes from an earlier send: the template is set aside.
            All but the first carry the record as `.record`.
        """
        check_opaque_data(opaque_data)
        request = MessageRequest(recipient, message, reply_to=reply_to)
        payload = request.payload()
        if isinstance(message, TemplateMessage):
            self._templates.check_fit(message, payload)
        record = self._new_record(user, request, delivery)
        try:
            if self.outbox is not None:
                return await self._calls.run(
                    partial(
                        self.outbox.send, self._sender, record, partial(_with_echo, payload, opaque_data), **keeping
                    )
                )
            if keeping:
                raise ConfigurationError(f"{', '.join(keeping)}: for this the service needs outbox=Outbox(...)")
            return await self._calls.run(self._send, record, _with_echo(payload, opaque_data, record.id))
        except ServiceClosedError as error:
            error.record = replaced(error.record or record, error=name_of_error(error))
            raise

    async def send_template_message(
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
        """Send a template; otherwise as `send`.

        Args:
            user, recipient, delivery, opaque_data, keeping: as for `send`.
            template_name: the template's name.
            language_code: its language, exactly as approved: `fr`, `en_US`.
            components: header, body and button parameters, as types or in the API's own form; of the latter only
                their number is checked.
        """
        parts = [part if isinstance(part, Part) else RawComponent(part) for part in components]
        message = TemplateMessage(template_name, language_code, parts)
        return await self.send(user, recipient, message, delivery=delivery, opaque_data=opaque_data, **keeping)

    async def send_text(
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
        """Send a text within the recipient's service window; otherwise as `send`."""
        message = Text(body, preview_url)
        return await self.send(user, recipient, message, delivery=delivery, opaque_data=opaque_data, **keeping)

    async def mark_as_read(self, message_id: str, *, typing: bool = False) -> None:
        """Tell the sender of a message that it was read; with `typing`, also that an answer is coming.

        Saying it twice does no harm: it is repeated after an unknown outcome, whatever the delivery.

        Raises:
            InvalidMessageError: `message_id` is empty or has blanks.
            ConfigurationError: the HTTP client cannot do it.
            CircuitOpenError, GraphError, AmbiguousOutcomeError, TimeoutExceeded: as for `send`, without a record.
        """
        await self._calls.run(self.client.mark_as_read, MarkAsRead(message_id, typing).payload())

    def send_many(
        self,
        messages: Iterable[Outgoing] | AsyncIterable[Outgoing],
        *,
        concurrency: int = 10,
        when_open: WhenOpen = "stop",
        wait_at_most: float = 3600.0,
        progress: Progress | None = None,
    ) -> BulkSend:
        """Send many messages, so many at a time: iterate over the answer with `async for`.

        Args:
            messages: the rows, read one by one as there is room; an iterable that waits for something (a file, a
                database) should be an async one.
            concurrency: rows that are under way at once.
            when_open: what an open circuit does: `stop` begins no more rows and raises it after the results of those
                under way; `wait` holds all until it admits a probe, and goes on. Limits always hold all for a time.
            wait_at_most: seconds of waiting, since the last message that was accepted, before it stops all the same.
            progress: called with a `BulkProgress` after each row that ended. What it raises is logged once.

        Raises:
            ConfigurationError: an argument cannot work.
        """
        return self._bulk(messages, concurrency, when_open, wait_at_most, progress)

    def _bulk(
        self,
        messages: Iterable[Outgoing] | AsyncIterable[Outgoing] | None,
        concurrency: int,
        when_open: WhenOpen,
        wait_at_most: float,
        progress: Progress | None,
    ) -> BulkSend:
        return BulkSend(
            self._send_outgoing,
            messages,
            concurrency=concurrency,
            when_open=when_open,
            wait_at_most=wait_at_most,
            progress=progress,
            clock=self.client.retry_policy.clock,
            logger=self._logger,
        )

    async def _send_outgoing(self, row: Outgoing) -> MessageRecord:
        return await self.send(
            row.user,
            row.recipient,
            row.message,
            reply_to=row.reply_to,
            delivery=row.delivery,
            opaque_data=row.opaque_data,
            **row.keeping(),
        )

    # --- media -----------------------------------------------------------------------------------------------------

    async def upload_media(
        self, file: MediaSource, *, mime_type: str | None = None, filename: str | None = None
    ) -> UploadedMedia:
        """Upload a file; its `id` is for `Image(id=...)` and its like. The same content is uploaded once in 29 days.

        Args:
            file: bytes, a path, or a file opened for reading bytes, from where it stands; read in pieces.
            mime_type: such as `image/png`; default by the name.
            filename: its name; default that of the path.

        Raises:
            InvalidMessageError: its type is not known, or it is empty or too large for its type; no request was made.
            OSError: it cannot be read.
            CircuitOpenError: uploads and downloads fail; the circuit is not that of messages.
            GraphError, AmbiguousOutcomeError, TimeoutExceeded: as the API or the time-out ended it.
        """
        return await self._calls.run(self._upload, file, mime_type, filename)

    async def _upload(self, file: MediaSource, mime_type: str | None, filename: str | None) -> UploadedMedia:
        return await self._media.upload(await MediaFile.of(file, mime_type, filename))

    async def download_media(
        self, media: str | MediaInfo, *, max_bytes: int, to: MediaTarget | None = None
    ) -> DownloadedMedia:
        """Download a file: of a message that came in, or an upload.

        Args:
            media: its id, or what `get_media` told (then its URL is tried first).
            max_bytes: the most that is taken.
            to: a path, written as a whole or not at all; or a file opened for writing bytes, written from where it
                stands on, what follows is cut off. Default: the result has the bytes.

        Raises:
            InvalidMessageError: `media` is no id, or an argument cannot work.
            MediaTooLargeError: it has more than `max_bytes`.
            MediaCorruptError: its checksum or size is not what the API told.
            OSError: it cannot be written.
            CircuitOpenError, GraphError, AmbiguousOutcomeError, TimeoutExceeded: as for `upload_media`.
        """
        sink = Sink(to, max_bytes)
        known = media if isinstance(media, MediaInfo) else media_id_of(media)
        return await self._calls.run(self.client.download_media, known, sink)

    async def get_media(self, media_id: str) -> MediaInfo:
        """What the API says of a file: its type, size and checksum, and a URL for 5 minutes.

        Raises:
            InvalidMessageError: this is no id.
            CircuitOpenError, GraphError, AmbiguousOutcomeError, TimeoutExceeded: as for `upload_media`.
        """
        info: MediaInfo = await self._calls.run(self.client.call, "get_media", media_id_of(media_id))
        return info

    async def delete_media(self, media_id: str) -> None:
        """Delete a file; its content is uploaded anew when it is needed again.

        Raises:
            InvalidMessageError: this is no id.
            CircuitOpenError, GraphError, AmbiguousOutcomeError, TimeoutExceeded: as for `upload_media`.
        """
        self._media.forget(media_id_of(media_id))
        await self._calls.run(self.client.call, "delete_media", media_id)

    def forget_media(self, media_id: str | None = None) -> None:
        """Forget the id of an upload, or all: for one that the API does not know any more. Nothing is deleted there."""
        self._media.forget(media_id)

    # --- number and account ----------------------------------------------------------------------------------------

    async def get_number_status(self) -> NumberStatus:
        """What the API says of the sending number: quality, limits, and whether it can send. Also while the circuit is
        open: it passes no breaker.

        Raises:
            GraphError, AmbiguousOutcomeError, TimeoutExceeded: as for `send`, without a record.
        """
        status: NumberStatus = await self._calls.run(self.client.call, "get_number_status")
        return status

    async def get_account_health(self) -> Health:
        """Whether the business account can send messages, and what stands in the way; otherwise as `get_number_status`.

        Raises:
            ConfigurationError: the HTTP client was made without `waba_id`.
        """
        health: Health = await self._calls.run(self.client.call, "get_account_health")
        return health

    # --- templates -------------------------------------------------------------------------------------------------

    async def create_template(self, definition: TemplateDefinition) -> TemplateReceipt:
        """File a template for approval, and forget the list of templates.

        Not repeated after an unknown outcome: the API would refuse the second one because of the first.

        Raises:
            ConfigurationError: the HTTP client was made without `waba_id`.
            CircuitOpenError, GraphError, AmbiguousOutcomeError, TimeoutExceeded: as for `send`, without a record.
        """
        if not isinstance(definition, TemplateDefinition):
            raise InvalidMessageError("create_template: definition must be a TemplateDefinition")
        try:
            receipt: TemplateReceipt = await self._calls.run(self.client.call, "create_template", definition)
        finally:
            self.forget_templates()
        return receipt

    async def delete_template(self, name: str, *, template_id: str | None = None) -> None:
        """Delete a template in all languages, or in the one that has this id, and forget the list of templates.

        Raises:
            As `create_template`.
        """
        try:
            await self._calls.run(self.client.call, "delete_template", name, template_id)
        finally:
            self.forget_templates()

    async def get_approved_templates(self) -> TemplateList:
        """The approved templates, all pages: from the API, else from up to 24 h ago, else the built-in ones.

        A list that is younger than `templates_fresh_for` is served without asking; while the circuit is open the log
        says so, as it does of an older one. Who asks while somebody else's request is under way waits for that one;
        with a fleet also for that of another member, for at most 15 s.
        Never raises: `source` and `age` of the result say what it is worth. That the HTTP client was made without
        `waba_id`, so that nobody is asked, is logged as an error each time.
        """
        return await self._templates.approved()

    def forget_templates(self) -> None:
        """Forget the list of templates, in the file and in the fleet too, and which are set aside.

        For when a person tells that templates were approved, changed, paused or deleted. The next call asks the API;
        the old list is not served any more, not even while the API fails.
        """
        self._templates.forget()

    def handle_template_update(
        self, topic: str, *, name: str | None = None, language: str | None = None, event: str | None = None
    ) -> bool:
        """Take a webhook about a template into account: the list is forgotten, in the file and in the fleet too.

        A template that is told to be `PAUSED` or `DISABLED` is set aside, as if a send of it had failed because of
        that; one with another status, or that was edited, is not set aside any more.

        Args:
            topic: the webhook's `field`; others than those of templates change nothing.
            name, language: `message_template_name` and `message_template_language`.
            event: that of `message_template_status_update`.

        Returns:
            Whether it was about a template.
        """
        return self._templates.handle_update(topic, name, language, event)

    async def aclose(self, drain: float = 10.0) -> None:
        """Take no more calls, let those under way end, and close the HTTP client. Idempotent.

        What an outbox has queued stays queued; the outbox is not closed.

        Calls after it raise `ServiceClosedError`, `get_approved_templates` answers what it has.

        Args:
            drain: seconds for calls under way; those that are left then are cut short with a `ServiceClosedError`. The
                record of a send tells the truth: `unknown` where its request had left, else `failed` or `rejected`.

        Raises:
            ConfigurationError: `drain` is no number of seconds.
        """
        await self._calls.drain(checked_drain(drain))
        if self.outbox is not None:
            await self.outbox.detach(self._sender, drain)
        close = getattr(self.client.http_client, "aclose", None)
        if close is not None:
            await close()

    async def __aenter__(self) -> WhatsAppService:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.aclose()

    # --- one send --------------------------------------------------------------------------------------------------

    def _new_record(self, user: Any, request: MessageRequest, delivery: Delivery | None) -> MessageRecord:
        template = request.message if isinstance(request.message, TemplateMessage) else None
        return MessageRecord(
            id=os.urandom(16).hex(),
            user_id=_user_id(user),
            recipient=request.recipient.key,
            kind=request.message.kind,
            template=None if template is None else template.name,
            language=None if template is None else template.language,
            delivery=self.delivery if delivery is None else _checked(delivery),
            status=MessageStatus.REJECTED,
            wamid=None,
            attempts=0,
            possible_duplicate=False,
            started_at=SYSTEM.wall(),
            duration=0.0,
            error=None,
        )

    async def _send(
        self,
        record: MessageRecord,
        payload: Mapping[str, Any],
        sending: Sending | None = None,
        *,
        retries: bool = True,
    ) -> MessageRecord:
        kept = sending is not None  # by an outbox, which tells what became of it: it may send it again
        sending = Sending() if sending is None else sending
        started = SYSTEM.now()
        key = None if record.template is None or record.language is None else (record.template, record.language)
        era = self._templates.era
        try:
            known = None if key is None else self._templates.quarantine.error_for(key)
            if known is not None:
                raise known
            receipt = await self.client.send(payload, record.delivery, sending, retries=retries)
        except BaseException as error:
            ended = _ended(record, sending, started, sending.status(), error=name_of_error(error))
            carry(error, ended)
            if isinstance(error, CircuitOpenError):
                self._log_down(ended)
            if key is not None and isinstance(error, GraphTemplateError):
                self._templates.learn(key, error, era)
            if not kept:
                self._tell(ended, sending, error)
            raise
        accepted = _ended(record, sending, started, MessageStatus.ACCEPTED, wamid=receipt.wamid)
        if not kept:
            self._tell(accepted, sending)
        return accepted

    def _tell(self, record: MessageRecord, sending: Sending, error: BaseException | None = None) -> None:
        if self.history is not None:
            self.history.add(record, error, attempts=sending.told)
        if self.alarms is not None and error is not None:
            number = getattr(self.client.http_client, "phone_number_id", None)
            self.alarms.on_error(error, phone_number_id=number)

    def _log_down(self, record: MessageRecord) -> None:
        recipient = mask_recipient(record.recipient) if self._mask_recipients else record.recipient
        self._logger.critical(
            "WhatsApp service is down (circuit open)",
            extra={"user_id": record.user_id, "recipient": recipient, "template": record.template},
        )


def _with_echo(payload: Mapping[str, Any], opaque_data: str | None, record_id: str) -> dict[str, Any]:
    return {**payload, "biz_opaque_callback_data": join_opaque_data(record_id, opaque_data)}


def _ended(
    record: MessageRecord,
    sending: Sending,
    started: float,
    status: MessageStatus,
    *,
    wamid: str | None = None,
    error: str | None = None,
) -> MessageRecord:
    return replaced(
        record,
        status=status,
        wamid=wamid,
        attempts=sending.attempts,
        possible_duplicate=sending.possible_duplicate,
        duration=SYSTEM.now() - started,
        error=error,
    )


def _user_id(user: Any) -> str:
    if not isinstance(user, Mapping):
        return str(getattr(user, "id", user))
    if "id" not in user:  # all of it must not get into logs
        raise InvalidMessageError('user must be an id, or an object or mapping with an "id"')
    return str(user["id"])


def _checked(delivery: str) -> Delivery:
    for known in DELIVERIES:
        if delivery == known:
            return known
    raise ConfigurationError(f"delivery must be one of {', '.join(DELIVERIES)}, not {delivery!r}")

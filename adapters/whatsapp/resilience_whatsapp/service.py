"""Sending WhatsApp messages through an API that fails: the service that applications talk to."""

from __future__ import annotations

import os
import time
import uuid
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from attrs import Factory, asdict, evolve, field, frozen

from resilience_core import CircuitOpenError, CircuitState, ConfigurationError, Event, StaleCache, StaleServed
from resilience_whatsapp._delivery import Sending, name_of_error
from resilience_whatsapp._quarantine import TEMPLATE_QUARANTINE, Quarantine, TemplateKey
from resilience_whatsapp._template_fit import check_fit
from resilience_whatsapp.client import ResilientWhatsAppClient
from resilience_whatsapp.errors import GraphTemplateError
from resilience_whatsapp.graph import Template
from resilience_whatsapp.messages import (
    MarkAsRead,
    Message,
    MessageRequest,
    RawComponent,
    Recipient,
    TemplateMessage,
    Text,
)
from resilience_whatsapp.messages._parts import Part
from resilience_whatsapp.messages._template import Component
from resilience_whatsapp.records import DELIVERIES, Delivery, MessageRecord, MessageStatus, mask_recipient
from resilience_whatsapp.templates import DEFAULT_TEMPLATES, TemplateList

if TYPE_CHECKING:
    from resilience_whatsapp.blocking import BlockingWhatsAppService

TEMPLATES_FRESH_FOR = 3600.0
TEMPLATES_SERVED_FOR = 24 * 3600.0
_REJECTING = (CircuitState.OPEN, CircuitState.FORCED_OPEN)
_MAX_PAGES = 1_000  # a cursor that never ends must not keep us for ever
_MISFITS = (132000, 132012, 132018)
"""The values do not fit, although the listing, if there is one, did not object: it may be out of date."""


@frozen(eq=False)
class _Listing:
    """One fetched listing; compared by identity, which tells a new one from the same one served again."""

    templates: tuple[Template, ...]
    # What messages are compared with; without those that the API has contradicted since.
    by_key: dict[TemplateKey, Template] = field(
        init=False,
        default=Factory(lambda self: {(each.name, each.language): each for each in self.templates}, takes_self=True),
    )

    def as_rows(self) -> list[dict[str, Any]]:
        return [asdict(template) for template in self.templates]

    @classmethod
    def from_rows(cls, rows: list[dict[str, Any]]) -> _Listing:
        return cls(tuple(Template(**row) for row in rows))


class WhatsAppService:
    """Sends messages and lists templates through a `ResilientWhatsAppClient`.

    Args:
        client: makes the requests.
        delivery: what happens to a send whose outcome is unknown. `at_least_once` sends it again (the record says
            `possible_duplicate`); `at_most_once` never does (the record says `unknown`). Each send can choose.
        mask_recipients: whether logs show recipients as `+33******78`.
        templates_fresh_for: seconds during which the template list is served without asking the API. After that it is
            asked for anew, and the old one is served only while that fails, until it is 24 h old.
        template_file: where the list is kept so that it outlives the process.
        template_quarantine: seconds, by error code, for which a template is set aside after a send of it failed with
            that `GraphTemplateError`: further sends of it in its language fail at once with the same error, marked
            `local`, without a request. Codes that are not in it, or have 0, set nothing aside; `{}` switches it off.
        validate_templates: compare the parameters of a template message, before it is sent, with what the list of
            templates says, if one is kept that is younger than 24 h; it is never asked for because of this.
    """

    def __init__(
        self,
        client: ResilientWhatsAppClient,
        *,
        delivery: Delivery = "at_least_once",
        mask_recipients: bool = True,
        templates_fresh_for: float = TEMPLATES_FRESH_FOR,
        template_file: str | os.PathLike[str] | None = None,
        template_quarantine: Mapping[int, float] = TEMPLATE_QUARANTINE,
        validate_templates: bool = True,
    ) -> None:
        self.client = client
        self.delivery: Delivery = _checked(delivery)
        self._validates = validate_templates
        self._mask_recipients = mask_recipients
        self._logger = client.logger
        self._cache = StaleCache(
            "whatsapp_templates",
            fresh_for=templates_fresh_for,
            stale_for=max(0.0, TEMPLATES_SERVED_FOR - templates_fresh_for),
            key=lambda: "approved",
            file=template_file,
            encode=_Listing.as_rows,
            decode=_Listing.from_rows,
        )
        self._cache.subscribe(self._log_stale)
        self._templates = self._cache(self._fetch_templates)
        self._forgotten = 0
        self._quarantine = Quarantine(template_quarantine, self._now)
        if client.door is not None:  # the gate of templates, and which of them are marketing
            client.door.quarantine, client.door.category_of = self._quarantine, self._category_of

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
    ) -> MessageRecord:
        """Send any message of `resilience_whatsapp.messages`.

        Args:
            user: on whose behalf: any object with `.id`, or an id.
            recipient: a phone number with `+` and country code, a `PhoneNumber`, a `UserId` or a `GroupId`.
            message: what is sent.
            reply_to: the id of a message of the recipient, which is quoted.
            delivery: overrides the service's choice for this message.
            opaque_data: what webhooks echo as `biz_opaque_callback_data`, at most 512 characters; default the
                record's id.

        Raises:
            InvalidMessageError: a number without `+`, or something that the API would refuse, such as parameters that
                do not fit the template; nothing was sent.
            CircuitOpenError: the service is down; nothing was sent by this call's last attempt.
            GraphError, AmbiguousOutcomeError, TimeoutExceeded: as the API or the time-out ended it. A
                `GraphTemplateError` with `local` comes from an earlier send: the template is set aside.
            All but the first carry the record as `.record`.
        """
        request = MessageRequest(recipient, message, reply_to=reply_to, opaque_data=opaque_data)
        if self._validates and isinstance(message, TemplateMessage):
            self._check_fit(message)
        record = self._new_record(user, request, delivery)
        return await self._send(record, request)

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
    ) -> MessageRecord:
        """Send a template; otherwise as `send`.

        Args:
            user, recipient, delivery, opaque_data: as for `send`.
            template_name: the template's name.
            language_code: its language, exactly as approved: `fr`, `en_US`.
            components: header, body and button parameters, as types or in the API's own form; of the latter only
                their number is checked.
        """
        parts = [part if isinstance(part, Part) else RawComponent(part) for part in components]
        message = TemplateMessage(template_name, language_code, parts)
        return await self.send(user, recipient, message, delivery=delivery, opaque_data=opaque_data)

    async def send_text(
        self,
        user: Any,
        recipient: str | Recipient,
        body: str,
        *,
        preview_url: bool = False,
        delivery: Delivery | None = None,
        opaque_data: str | None = None,
    ) -> MessageRecord:
        """Send a text within the recipient's service window; otherwise as `send`."""
        message = Text(body, preview_url)
        return await self.send(user, recipient, message, delivery=delivery, opaque_data=opaque_data)

    async def mark_as_read(self, message_id: str, *, typing: bool = False) -> None:
        """Tell the sender of a message that it was read; with `typing`, also that an answer is coming.

        Saying it twice does no harm: it is repeated after an unknown outcome, whatever the delivery.

        Raises:
            InvalidMessageError: `message_id` is empty or has blanks.
            ConfigurationError: the HTTP client cannot do it.
            CircuitOpenError, GraphError, AmbiguousOutcomeError, TimeoutExceeded: as for `send`, without a record.
        """
        await self.client.mark_as_read(MarkAsRead(message_id, typing).payload())

    async def get_approved_templates(self) -> TemplateList:
        """The approved templates, all pages: from the API, else from up to 24 h ago, else the built-in ones.

        A list that is younger than `templates_fresh_for` is served without asking; while the circuit is open the log
        says so, as it does of an older one. Who asks while somebody else's request is under way waits for that one.
        Never raises for an API that fails: `source` and `age` of the result say what it is worth.
        """
        before, asked = self._cache.entry(), self._now()
        try:
            listing: _Listing = await self._templates()
        except Exception as error:
            self._log_templates("default", error)
            return TemplateList(DEFAULT_TEMPLATES, "default", None)
        if before is not None and before.value is listing:
            if before.freshness == "fresh" and self.client.circuit_breaker.state in _REJECTING:
                self._log_templates("cached", None)  # nobody was asked, and nobody could be
            return TemplateList(listing.templates, "cache", before.age + self._now() - asked)
        return TemplateList(listing.templates, "api", 0.0)

    def forget_templates(self) -> None:
        """Forget the list of templates, in the file too, and which are set aside: the next call asks the API.

        For when a webhook or a person tells that a template was approved, changed, paused or deleted. The old list is
        not served any more, not even while the API fails.
        """
        self._forgotten += 1
        self._quarantine.clear()
        self._cache.invalidate()

    async def _fetch_templates(self) -> _Listing:
        """The whole listing or nothing: half a list would hide templates that exist.

        Approved ones only, whatever an HTTP client of the user's answers. A listing that was to be forgotten while it
        was under way is asked for again: it may be of the time before.
        """
        templates: list[Template] = []
        after: str | None = None
        begun, asked = self._forgotten, self._now()
        for _ in range(_MAX_PAGES):
            page = await self.client.get_templates_page(after)
            templates += (template for template in page.templates if template.status.upper() == "APPROVED")
            after = page.next_after
            if begun != self._forgotten:
                templates, after, begun, asked = [], None, self._forgotten, self._now()
            elif after is None:
                listing = _Listing(tuple(templates))
                self._quarantine.release(listing.by_key, asked)
                return listing
        raise RuntimeError(f"the template listing did not end after {_MAX_PAGES} pages")

    def _now(self) -> float:
        return self._cache.clock.now()

    def _log_stale(self, event: Event) -> None:
        if isinstance(event, StaleServed) and event.error is not None:
            self._log_templates("cached", event.error)

    def _log_templates(self, which: str, error: BaseException | None) -> None:
        """Tell which templates are used; without an error because the circuit is open anyway."""
        circuit_open = error is None or isinstance(error, CircuitOpenError)
        reason = "due to circuit breaker open" if circuit_open else "because fetching them failed"
        told = None if error is None else name_of_error(error)
        self._logger.warning("Using %s templates %s", which, reason, extra={"error": told})

    # --- one send --------------------------------------------------------------------------------------------------

    def _new_record(self, user: Any, request: MessageRequest, delivery: Delivery | None) -> MessageRecord:
        template = request.message if isinstance(request.message, TemplateMessage) else None
        return MessageRecord(
            id=uuid.uuid4().hex,
            user_id=str(getattr(user, "id", user)),
            recipient=request.recipient.key,
            kind=request.message.kind,
            template=None if template is None else template.name,
            language=None if template is None else template.language,
            delivery=self.delivery if delivery is None else _checked(delivery),
            status=MessageStatus.REJECTED,
            wamid=None,
            attempts=0,
            possible_duplicate=False,
            started_at=time.time(),
            duration=0.0,
            error=None,
        )

    async def _send(self, record: MessageRecord, request: MessageRequest) -> MessageRecord:
        payload = {"biz_opaque_callback_data": record.id, **request.payload()}
        sending = Sending()
        started = time.monotonic()
        key = None if record.template is None or record.language is None else (record.template, record.language)
        forgotten = self._forgotten
        try:
            known = None if key is None else self._quarantine.error_for(key)
            if known is not None:
                raise known
            receipt = await self.client.send(payload, record.delivery, sending)
        except BaseException as error:
            ended = _ended(record, sending, started, sending.status(), error=name_of_error(error))
            error.record = ended  # type: ignore[attr-defined]
            if isinstance(error, CircuitOpenError):
                self._log_down(ended)
            if key is not None and isinstance(error, GraphTemplateError):
                self._learn(key, error, forgotten)
            raise
        return _ended(record, sending, started, MessageStatus.ACCEPTED, wamid=receipt.wamid)

    def _check_fit(self, message: TemplateMessage) -> None:
        entry = self._cache.entry()
        if entry is None or entry.freshness == "expired":
            return
        template = entry.value.by_key.get((message.name, message.language))
        if template is not None:
            check_fit(message.content().get("components", ()), template.components)

    def _category_of(self, name: str, language: str) -> str | None:
        entry = self._cache.entry()
        template = None if entry is None else entry.value.by_key.get((name, language))
        return None if template is None else template.category

    def _learn(self, key: TemplateKey, error: GraphTemplateError, forgotten: int) -> None:
        """What the API's answer to one send says of the template, for the sends after it."""
        if error.local or forgotten != self._forgotten:
            return  # known already, or an answer of the time before
        seconds = self._quarantine.put(key, error)
        if seconds > 0:
            told = {"template": key[0], "language": key[1], "error": name_of_error(error), "seconds": seconds}
            self._logger.warning("Template set aside: sends of it fail at once", extra=told)
        entry = self._cache.entry() if error.code in _MISFITS else None
        if entry is not None:
            entry.value.by_key.pop(key, None)

    def _log_down(self, record: MessageRecord) -> None:
        recipient = mask_recipient(record.recipient) if self._mask_recipients else record.recipient
        self._logger.critical(
            "WhatsApp service is down (circuit open)",
            extra={"user_id": record.user_id, "recipient": recipient, "template": record.template},
        )


def _ended(
    record: MessageRecord,
    sending: Sending,
    started: float,
    status: MessageStatus,
    *,
    wamid: str | None = None,
    error: str | None = None,
) -> MessageRecord:
    return evolve(
        record,
        status=status,
        wamid=wamid,
        attempts=sending.attempts,
        possible_duplicate=sending.possible_duplicate,
        duration=time.monotonic() - started,
        error=error,
    )


def _checked(delivery: str) -> Delivery:
    for known in DELIVERIES:
        if delivery == known:
            return known
    raise ConfigurationError(f"delivery must be one of {', '.join(DELIVERIES)}, not {delivery!r}")

"""Listeners that tie webhooks to the other parts."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Protocol, TypeAlias

from attrs import evolve

from resilience_whatsapp._clock import SYSTEM
from resilience_whatsapp._delivery import name_of_error
from resilience_whatsapp._error_table import ErrorClass
from resilience_whatsapp.errors import GraphError
from resilience_whatsapp.gates._marks import MARKETING_ONLY, OF_FLOW
from resilience_whatsapp.webhooks._handing import Listener, on
from resilience_whatsapp.webhooks._updates import (
    AccountError,
    AccountUpdate,
    InboundMessage,
    PreferenceUpdate,
    QualityUpdate,
    StatusUpdate,
    TemplateUpdate,
    WebhookUpdate,
)

__all__ = ["forgetting_templates", "gating", "settling"]

TemplateOf: TypeAlias = Callable[[StatusUpdate], Awaitable[tuple[str, str] | None]]


class Settles(Protocol):
    """An `Outbox`."""

    async def settle(self, row_id: str, wamid: str, status: str, at: float, *, error: str | None = None) -> object:
        """What a webhook tells of a message."""
        ...


class ForgetsTemplates(Protocol):
    """A `WhatsAppService`."""

    def handle_template_update(
        self, topic: str, *, name: str | None = None, language: str | None = None, event: str | None = None
    ) -> bool:
        """Ask for the list anew, and set the template aside or not any more."""
        ...


def settling(outbox: Settles) -> Listener:
    """Tells an outbox what became of its messages: what was unknown is settled by it.

    The outbox finds the message by the echo of its id, so that a webhook that comes before the answer finds it, too.
    """

    async def settle(update: StatusUpdate) -> None:
        if update.record_id is not None:
            at = SYSTEM.wall() if update.at is None else update.at
            error = name_of_error(update.errors[0]) if update.errors else None
            await outbox.settle(update.record_id, update.wamid, update.status, at, error=error)

    return on(StatusUpdate, settle)


def forgetting_templates(service: ForgetsTemplates) -> Listener:
    """Lets a service ask for its list of templates anew when one of them was approved, paused or changed.

    One that is paused or disabled is set aside, as `WhatsAppService.handle_template_update` says.
    """

    def tell(update: TemplateUpdate) -> None:
        service.handle_template_update(update.topic, name=update.name, language=update.language, event=update.event)

    return on(TemplateUpdate, tell)


class Observes(Protocol):
    """`Gates`: what they learn from webhooks."""

    def observe_webhook_error(
        self,
        code: int,
        *,
        phone_number_id: str | None = None,
        waba_id: str | None = None,
        recipient: str | None = None,
        template: tuple[str, str] | None = None,
    ) -> None:
        """An error of a message that was accepted, or of the account."""
        ...

    def observe_restriction(self, *, waba_id: str | None = None, until: float | None = None) -> None:
        """The account may not send."""
        ...

    def observe_throughput(self, level: str | float, *, phone_number_id: str | None = None) -> None:
        """How fast a number may send."""
        ...

    def observe_inbound(
        self, *, phone_number_id: str | None = None, recipient: str | Sequence[str] | None = None
    ) -> None:
        """Somebody wrote."""
        ...

    def observe_preference(self, recipient: str, *, stopped: bool) -> None:
        """Somebody wants no marketing messages, or takes them again."""
        ...


def gating(
    gates: Observes, *, template_of: TemplateOf | None = None, numbers: Mapping[str, str] | None = None
) -> Listener:
    """Tells the gates what only webhooks know: errors of messages that were accepted, restrictions, inbound messages.

    Args:
        gates: told of it.
        template_of: finds the template of a message, for an error that is about it: webhooks do not tell. Such as
            `history.template_of`.
        numbers: phone number ids by their digits. An upgrade of a number's throughput is told with its digits alone;
            of one that is not here it changes nothing.
    """
    ids = {_digits(number): phone for number, phone in (numbers or {}).items()}

    async def status(update: StatusUpdate) -> None:
        template = None
        if template_of is not None and any(map(_is_of_template, update.errors)):
            template = await template_of(update)
        _tell_errors(gates, update, update.recipient or update.recipient_user_id, template)
        if update.recipient is not None and update.recipient_user_id is not None:
            # Messages to the id of a user who has a number, too: his marks are of both.
            of_user = tuple(error for error in update.errors if error.error_class is ErrorClass.RECIPIENT)
            _tell_errors(gates, evolve(update, errors=of_user), update.recipient_user_id, template)

    def listen(update: WebhookUpdate) -> Awaitable[None] | None:
        if isinstance(update, StatusUpdate):
            return status(update)
        if isinstance(update, AccountError):
            _tell_errors(gates, update, None, None)
        elif isinstance(update, AccountUpdate):
            _tell_restriction(gates, update)
        elif isinstance(update, InboundMessage):
            who = [each for each in (update.sender, update.sender_user_id) if each is not None]
            gates.observe_inbound(phone_number_id=update.phone_number_id, recipient=who)
        elif isinstance(update, PreferenceUpdate):
            for user in (update.user, update.user_id):
                if user is not None and update.category == "marketing_messages" and update.value in ("stop", "resume"):
                    gates.observe_preference(user, stopped=update.stopped)
        elif isinstance(update, QualityUpdate) and update.event == "THROUGHPUT_UPGRADE":
            phone = update.phone_number_id or ids.get(_digits(update.display_number or ""))
            if phone is not None:
                gates.observe_throughput("HIGH", phone_number_id=phone)
        return None

    return listen


def _tell_errors(
    gates: Observes, update: StatusUpdate | AccountError, recipient: str | None, template: tuple[str, str] | None
) -> None:
    for error in update.errors:
        if error.code is not None:
            gates.observe_webhook_error(
                error.code,
                phone_number_id=update.phone_number_id,
                waba_id=update.waba_id,
                recipient=recipient,
                template=template,
            )


def _is_of_template(error: GraphError) -> bool:
    """Whether the gates want to know of which template: also to learn which are marketing, and which have a flow."""
    return error.error_class is ErrorClass.TEMPLATE or error.code in MARKETING_ONLY or error.code == OF_FLOW


def _tell_restriction(gates: Observes, update: AccountUpdate) -> None:
    """Of the restrictions those that stop messages, for the longest of their times; and an account that is disabled."""
    ban = update.content.get("ban_info")
    if update.event == "DISABLED_UPDATE" and isinstance(ban, Mapping) and ban.get("waba_ban_state") == "DISABLE":
        gates.observe_restriction(waba_id=update.waba_id)
    times = [until for kind, until in update.restrictions if "INITIATED_MESSAGING" in kind]
    if update.event == "ACCOUNT_RESTRICTION" and times:
        until = None if None in times else max(each for each in times if each is not None)
        gates.observe_restriction(waba_id=update.waba_id, until=until)


def _digits(number: str) -> str:
    return "".join(each for each in number if each.isdigit())

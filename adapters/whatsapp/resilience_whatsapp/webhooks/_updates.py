"""What webhooks tell, as types. None of them shows a number, a text or an id of a user in its `repr`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from attrs import field, frozen

from resilience_whatsapp.errors import GraphError
from resilience_whatsapp.records import MessageStatus

__all__ = [
    "AccountError",
    "AccountUpdate",
    "InboundMessage",
    "PreferenceUpdate",
    "Pricing",
    "QualityUpdate",
    "StatusUpdate",
    "TemplateUpdate",
    "UnknownUpdate",
    "WebhookUpdate",
]


_TOLD = {
    status.value: status
    for status in (
        MessageStatus.SENT,
        MessageStatus.DELIVERED,
        MessageStatus.READ,
        MessageStatus.PLAYED,
        MessageStatus.FAILED,
    )
}


@frozen(kw_only=True)
class WebhookUpdate:
    """One thing that a webhook tells."""

    topic: str
    """What was subscribed to, `field` in the API's JSON: `messages`, `account_update`, ..."""
    waba_id: str | None = None
    phone_number_id: str | None = None
    at: float | None = None
    """When it happened, in seconds since the epoch, as the API tells it."""
    content: Mapping[str, Any] = field(repr=False, factory=dict)
    """The API's JSON of it. Personal."""


@frozen
class Pricing:
    """What a message costs: it comes with `sent` and with one of `delivered` and `read`."""

    billable: bool | None
    model: str | None
    """`PMP`, by message; `CBP`, by conversation, until July 2025."""
    type: str | None
    """`regular`, `free_customer_service` or `free_entry_point`; from v24.0 on."""
    category: str | None
    """`marketing`, `utility`, `authentication`, `service`, ..."""


@frozen(kw_only=True)
class StatusUpdate(WebhookUpdate):
    """What became of a message that was sent."""

    wamid: str
    status: str
    """`sent`, `delivered`, `read`, `played`, `failed`, or one that is not known: then `kind` is None."""
    recipient: str | None = field(default=None, repr=False)
    """The `wa_id`, or the id of a group; None for a user who hides the number."""
    recipient_user_id: str | None = field(default=None, repr=False)
    """The recipient's business-scoped id."""
    participant: str | None = field(default=None, repr=False)
    """Of a message to a group, whose status it is."""
    record_id: str | None = None
    """The id of the `MessageRecord` of the message; None where the echo is not ours."""
    opaque_data: str | None = field(default=None, repr=False)
    """What was given as `opaque_data` when it was sent; all of the echo where it is not ours."""
    conversation_id: str | None = None
    """Until v23.0, and for free entry points."""
    pricing: Pricing | None = None
    errors: tuple[GraphError, ...] = ()
    """Typed as those of answers; they have no `http_status`."""

    @property
    def kind(self) -> MessageStatus | None:
        """The status, if it is a known one; what several mean together tells `records.later_status`."""
        return _TOLD.get(self.status)


@frozen(kw_only=True)
class InboundMessage(WebhookUpdate):
    """A message that somebody sent to the number, or did with one: reactions, edits and deletions are messages."""

    wamid: str
    kind: str
    """The API's `type`: `text`, `image`, `interactive`, `button`, `reaction`, `unsupported`, ..."""
    sender: str | None = field(default=None, repr=False)
    """The `wa_id`; None for a user who hides the number."""
    sender_user_id: str | None = field(default=None, repr=False)
    sender_name: str | None = field(default=None, repr=False)
    group_id: str | None = field(default=None, repr=False)
    reply_to: str | None = None
    """The id of the message that it quotes or answers."""
    errors: tuple[GraphError, ...] = ()


@frozen(kw_only=True)
class AccountError(WebhookUpdate):
    """Errors that are not about one message."""

    errors: tuple[GraphError, ...]


@frozen(kw_only=True)
class AccountUpdate(WebhookUpdate):
    """News of the business account: `account_update`, `account_alerts`, `account_review_update`, ..."""

    event: str | None
    """`ACCOUNT_RESTRICTION`, `DISABLED_UPDATE`, `VERIFIED_ACCOUNT`, ..."""
    restrictions: tuple[tuple[str, float | None], ...] = ()
    """What is restricted, and until when in seconds since the epoch."""
    limit: str | None = None
    """How many users may be written to in a day, where `business_capability_update` tells it."""


@frozen(kw_only=True)
class TemplateUpdate(WebhookUpdate):
    """A template was approved, paused, rejected, edited, moved to another category, or its quality changed."""

    name: str | None
    language: str | None
    event: str | None
    """The new status, category or quality, as `topic` says; None for edited components."""
    previous: str | None = None
    reason: str | None = None


@frozen(kw_only=True)
class QualityUpdate(WebhookUpdate):
    """`phone_number_quality_update`: the quality, throughput or limit of the sending number changed."""

    event: str | None
    """`THROUGHPUT_UPGRADE`, `ONBOARDING`, `UPGRADE`, `DOWNGRADE`, `FLAGGED`, `UNFLAGGED`, ..."""
    display_number: str | None = field(default=None, repr=False)
    limit: str | None = None


@frozen(kw_only=True)
class PreferenceUpdate(WebhookUpdate):
    """A user stopped marketing messages, or takes them again."""

    user: str | None = field(repr=False)
    """The `wa_id`; None for a user who hides the number."""
    user_id: str | None = field(repr=False)
    category: str | None
    value: str | None
    """`stop` or `resume`."""

    @property
    def stopped(self) -> bool:
        """Whether the user does not want such messages."""
        return self.value == "stop"


@frozen(kw_only=True)
class UnknownUpdate(WebhookUpdate):
    """What is not understood, kept as it came."""

    why: str
    """In words of ours."""

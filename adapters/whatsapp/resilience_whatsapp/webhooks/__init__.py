"""Webhooks: who posted them, what they tell, and a receiver that loses none and hands out none twice.

Many errors come by them only, after a send was accepted.
"""

from resilience_whatsapp.webhooks._aiohttp import aiohttp_application, aiohttp_handler
from resilience_whatsapp.webhooks._handing import AsideUpdate, Listener, on
from resilience_whatsapp.webhooks._inbox import (
    Claim,
    Claimed,
    Inbox,
    InboxCounts,
    InboxFull,
    Listening,
    MemoryInbox,
    SetAside,
    Taken,
)
from resilience_whatsapp.webhooks._inbox_sqlite import SQLiteInbox
from resilience_whatsapp.webhooks._listeners import forgetting_templates, gating, settling
from resilience_whatsapp.webhooks._read import MAX_WEBHOOK, read_webhook
from resilience_whatsapp.webhooks._receiver import ReceiverStatus, WebhookAnswer, WebhookReceiver
from resilience_whatsapp.webhooks._signature import SIGNATURE_HEADER, answer_handshake, sign, verify_signature
from resilience_whatsapp.webhooks._updates import (
    AccountError,
    AccountUpdate,
    InboundMessage,
    PreferenceUpdate,
    Pricing,
    QualityUpdate,
    StatusUpdate,
    TemplateUpdate,
    UnknownUpdate,
    WebhookUpdate,
)

__all__ = [
    "MAX_WEBHOOK",
    "SIGNATURE_HEADER",
    "AccountError",
    "AccountUpdate",
    "AsideUpdate",
    "Claim",
    "Claimed",
    "InboundMessage",
    "Inbox",
    "InboxCounts",
    "InboxFull",
    "Listener",
    "Listening",
    "MemoryInbox",
    "PreferenceUpdate",
    "Pricing",
    "QualityUpdate",
    "ReceiverStatus",
    "SQLiteInbox",
    "SetAside",
    "StatusUpdate",
    "Taken",
    "TemplateUpdate",
    "UnknownUpdate",
    "WebhookAnswer",
    "WebhookReceiver",
    "WebhookUpdate",
    "aiohttp_application",
    "aiohttp_handler",
    "answer_handshake",
    "forgetting_templates",
    "gating",
    "on",
    "read_webhook",
    "settling",
    "sign",
    "verify_signature",
]

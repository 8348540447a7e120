"""Sending WhatsApp messages through Meta's Cloud API while it fails, throttles or lies."""

from resilience_whatsapp._error_table import ERROR_CODES, ERROR_SUBCODES, Ambiguity, ErrorClass, ErrorCode, RetryAdvice
from resilience_whatsapp._opaque import MAX_OPAQUE_DATA, join_opaque_data, split_opaque_data
from resilience_whatsapp._version import __version__
from resilience_whatsapp.blocking import BlockingBulkSend, BlockingWhatsAppService
from resilience_whatsapp.bulk import BulkProgress, BulkSend, Outgoing, SendResult
from resilience_whatsapp.client import ResilientWhatsAppClient
from resilience_whatsapp.errors import (
    AmbiguousOutcomeError,
    GraphAuthError,
    GraphError,
    GraphPolicyError,
    GraphRecipientError,
    GraphRequestError,
    GraphSenderError,
    GraphTemplateError,
    GraphThrottledError,
    GraphTransientError,
    InvalidMessageError,
    InvalidWebhookError,
    MediaCorruptError,
    MediaTooLargeError,
    ServiceClosedError,
    WhatsAppError,
    classify_graph,
)
from resilience_whatsapp.gates import GateClosedError, Gates
from resilience_whatsapp.graph import (
    GraphAnswer,
    GraphClient,
    GraphTransport,
    SendReceipt,
    Template,
    TemplatePage,
    TemplateReceipt,
    Wire,
)
from resilience_whatsapp.media import DownloadedMedia, MediaFile, MediaInfo, Sink, UploadedMedia, media_limit
from resilience_whatsapp.records import Delivery, MessageRecord, MessageStatus, mask_recipient
from resilience_whatsapp.service import WhatsAppService
from resilience_whatsapp.settings import DEVELOPMENT, PRODUCTION, Settings, from_mapping
from resilience_whatsapp.status import EntityHealth, Health, NumberStatus
from resilience_whatsapp.templates import DEFAULT_TEMPLATES, TEMPLATE_QUARANTINE, TemplateList

__all__ = [
    "DEFAULT_TEMPLATES",
    "DEVELOPMENT",
    "ERROR_CODES",
    "ERROR_SUBCODES",
    "MAX_OPAQUE_DATA",
    "PRODUCTION",
    "TEMPLATE_QUARANTINE",
    "Ambiguity",
    "AmbiguousOutcomeError",
    "BlockingBulkSend",
    "BlockingWhatsAppService",
    "BulkProgress",
    "BulkSend",
    "Delivery",
    "DownloadedMedia",
    "EntityHealth",
    "ErrorClass",
    "ErrorCode",
    "GateClosedError",
    "Gates",
    "GraphAnswer",
    "GraphAuthError",
    "GraphClient",
    "GraphError",
    "GraphPolicyError",
    "GraphRecipientError",
    "GraphRequestError",
    "GraphSenderError",
    "GraphTemplateError",
    "GraphThrottledError",
    "GraphTransientError",
    "GraphTransport",
    "Health",
    "InvalidMessageError",
    "InvalidWebhookError",
    "MediaCorruptError",
    "MediaFile",
    "MediaInfo",
    "MediaTooLargeError",
    "MessageRecord",
    "MessageStatus",
    "NumberStatus",
    "Outgoing",
    "ResilientWhatsAppClient",
    "RetryAdvice",
    "SendReceipt",
    "SendResult",
    "ServiceClosedError",
    "Settings",
    "Sink",
    "Template",
    "TemplateList",
    "TemplatePage",
    "TemplateReceipt",
    "UploadedMedia",
    "WhatsAppError",
    "WhatsAppService",
    "Wire",
    "__version__",
    "classify_graph",
    "from_mapping",
    "join_opaque_data",
    "mask_recipient",
    "media_limit",
    "split_opaque_data",
]

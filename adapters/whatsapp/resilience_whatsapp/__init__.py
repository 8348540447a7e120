"""Sending WhatsApp messages through Meta's Cloud API while it fails, throttles or lies."""

from resilience_whatsapp._error_table import ERROR_CODES, ERROR_SUBCODES, Ambiguity, ErrorClass, ErrorCode, RetryAdvice
from resilience_whatsapp._quarantine import TEMPLATE_QUARANTINE
from resilience_whatsapp._version import __version__
from resilience_whatsapp.blocking import BlockingWhatsAppService
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
    WhatsAppError,
    classify_graph,
)
from resilience_whatsapp.gates import GateClosedError, Gates
from resilience_whatsapp.graph import GraphClient, GraphTransport, SendReceipt, Template, TemplatePage, Wire
from resilience_whatsapp.records import Delivery, MessageRecord, MessageStatus, mask_recipient
from resilience_whatsapp.service import WhatsAppService
from resilience_whatsapp.settings import DEVELOPMENT, PRODUCTION, Settings, from_mapping
from resilience_whatsapp.status import EntityHealth, Health, NumberStatus
from resilience_whatsapp.templates import DEFAULT_TEMPLATES, TemplateList

__all__ = [
    "DEFAULT_TEMPLATES",
    "DEVELOPMENT",
    "ERROR_CODES",
    "ERROR_SUBCODES",
    "PRODUCTION",
    "TEMPLATE_QUARANTINE",
    "Ambiguity",
    "AmbiguousOutcomeError",
    "BlockingWhatsAppService",
    "Delivery",
    "EntityHealth",
    "ErrorClass",
    "ErrorCode",
    "GateClosedError",
    "Gates",
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
    "MessageRecord",
    "MessageStatus",
    "NumberStatus",
    "ResilientWhatsAppClient",
    "RetryAdvice",
    "SendReceipt",
    "Settings",
    "Template",
    "TemplateList",
    "TemplatePage",
    "WhatsAppError",
    "WhatsAppService",
    "Wire",
    "__version__",
    "classify_graph",
    "from_mapping",
    "mask_recipient",
]

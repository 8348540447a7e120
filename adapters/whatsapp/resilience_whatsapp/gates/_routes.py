"""Which gate an error of the API concerns: by its code, then by its class and scope."""

from __future__ import annotations

from enum import Enum

from resilience_whatsapp._error_table import ErrorClass
from resilience_whatsapp.errors import GraphError
from resilience_whatsapp.gates._marks import RECIPIENT_WAITS


class Scope(Enum):
    """What a gate is about; the value is the `scope` of a `GateClosedError`."""

    APP = "app"
    MANAGEMENT = "management"
    CREDENTIAL = "credential"
    PERMISSION = "permission"
    ACCOUNT = "account"
    TEMPLATES = "templates"
    MARKETING = "marketing"
    NUMBER = "number"
    THROUGHPUT = "throughput"
    PAIR = "pair"
    RECIPIENT = "recipient"
    TEMPLATE = "template"


_BY_CODE = {
    0: Scope.CREDENTIAL,
    102: Scope.CREDENTIAL,
    104: Scope.CREDENTIAL,
    190: Scope.CREDENTIAL,
    80007: Scope.MANAGEMENT,
    130429: Scope.THROUGHPUT,
    131048: Scope.NUMBER,
    131056: Scope.PAIR,
    131063: Scope.MARKETING,
    131064: Scope.TEMPLATES,
    131208: Scope.PAIR,
    **dict.fromkeys(RECIPIENT_WAITS, Scope.RECIPIENT),
}
_NOBODYS = frozenset({131044, 131215})
"""About calls, and about groups as such: they say nothing of messages."""
_THROTTLES = {"app": Scope.APP, "token": Scope.APP, "endpoint": Scope.APP, "page": Scope.APP}
_SENDERS = {"waba": Scope.ACCOUNT, "phone_number": Scope.NUMBER}

FIRST_WAIT = {131048: 3_600.0, 131064: 3_600.0, 131063: 3_600.0}
"""Seconds until the first probe, where a minute would be in vain."""


def scope_of(error: GraphError) -> Scope | None:
    """The gate that the error closes; None for an error that says nothing of later messages."""
    code, kind = error.code, error.error_class
    if code in _BY_CODE:
        return _BY_CODE[code]
    if code in _NOBODYS:
        return None
    if kind is ErrorClass.AUTH:
        return Scope.CREDENTIAL if code is None else Scope.PERMISSION
    if kind is ErrorClass.THROTTLE:
        return _THROTTLES.get(error.scope)
    if kind is ErrorClass.TEMPLATE:
        return Scope.TEMPLATE
    if kind in (ErrorClass.POLICY, ErrorClass.SENDER):
        return _SENDERS.get(error.scope)
    return None

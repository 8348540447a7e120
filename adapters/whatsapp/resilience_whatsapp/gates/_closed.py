"""The error of a call that a gate kept back."""

from __future__ import annotations

from resilience_core import CallRejected
from resilience_whatsapp.errors import WhatsAppError


class GateClosedError(WhatsAppError, CallRejected):
    """A gate is closed, so the request was not made: it costs no attempt, and the circuit breaker counts nothing.

    `retry_after` is the seconds after which asking again can help; None where only a person or a webhook opens it.
    `name` is the gate's in metrics and in the registry. Neither names a recipient.
    """

    @property
    def scope(self) -> str:
        """What the gate is about: `app`, `management`, `credential`, `permission`, `account`, `templates`,
        `marketing`, `number`, `throughput`, `pair` or `recipient`."""
        scope: str = self.inputs["scope"]
        return scope

    @property
    def code(self) -> int | None:
        """The API's error code that closed it; None for a limit that is kept from the start, or closed by others."""
        code: int | None = self.inputs["code"]
        return code

    @property
    def latched(self) -> bool:
        """Whether a repair is needed: waiting alone opens it only as far as a probe finds it repaired."""
        latched: bool = self.inputs["latched"]
        return latched

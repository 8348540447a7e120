"""Gates beside the circuit breaker: limits and latches of the API, one for each scope. See docs/whatsapp-gates.md."""

from resilience_whatsapp.gates._closed import GateClosedError
from resilience_whatsapp.gates._gates import Gates
from resilience_whatsapp.gates._marks import RECIPIENT_WAITS

__all__ = ["RECIPIENT_WAITS", "GateClosedError", "Gates"]

"""An embedded simulator of Meta's Graph API for WhatsApp, for demos and tests. It imports nothing of the client."""

from resilience_whatsapp.simulator.book import Book, Entry
from resilience_whatsapp.simulator.faults import Fault, FaultError
from resilience_whatsapp.simulator.server import Simulator
from resilience_whatsapp.simulator.templates import DEFAULT_TEMPLATES, SimTemplate
from resilience_whatsapp.simulator.thread import SimulatorThread

__all__ = ["DEFAULT_TEMPLATES", "Book", "Entry", "Fault", "FaultError", "SimTemplate", "Simulator", "SimulatorThread"]

"""An embedded simulator of Meta's Graph API for WhatsApp, for demos and tests. It imports nothing of the client."""

from resilience_whatsapp.simulator.book import Book, Entry
from resilience_whatsapp.simulator.changes import ChangeError, Changes
from resilience_whatsapp.simulator.clock import ManualClock, SimClock
from resilience_whatsapp.simulator.faults import Fault, FaultError
from resilience_whatsapp.simulator.limits import Limits, LimitsError
from resilience_whatsapp.simulator.receivers import Receiver, WebhookError
from resilience_whatsapp.simulator.report import Broken, Compared, RecordsError, Report
from resilience_whatsapp.simulator.server import Simulator
from resilience_whatsapp.simulator.stories import Statuses
from resilience_whatsapp.simulator.templates import DEFAULT_TEMPLATES, SimTemplate
from resilience_whatsapp.simulator.thread import SimulatorThread
from resilience_whatsapp.simulator.world import Account, Block, Number, Portfolio, Token, World

__all__ = [
    "DEFAULT_TEMPLATES",
    "Account",
    "Block",
    "Book",
    "Broken",
    "ChangeError",
    "Changes",
    "Compared",
    "Entry",
    "Fault",
    "FaultError",
    "Limits",
    "LimitsError",
    "ManualClock",
    "Number",
    "Portfolio",
    "Receiver",
    "RecordsError",
    "Report",
    "SimClock",
    "SimTemplate",
    "Simulator",
    "SimulatorThread",
    "Statuses",
    "Token",
    "WebhookError",
    "World",
]

"""An embedded simulator of Meta's Graph API for WhatsApp, for demos and tests. It imports nothing of the client.

server, thread, __main__        it listens: in asyncio, in a thread, as a command
api, routing, resources/        a request finds its handler: messages, media, templates, numbers, accounts, apps
validation, templates/, limits/ what is refused, and with which code
state/                          who exists: portfolios, accounts, numbers, tokens, files; and what changes them
faults/                         what goes wrong by script
webhooks/                       what is told, and when
book, report                    what was accepted, and what a sender's records are worth
steering/                       the routes under `/_sim`
clock, wire, envelopes, codes   time, connections, the shape and the texts of errors
"""

from resilience_whatsapp.simulator.book import Book, Entry
from resilience_whatsapp.simulator.clock import ManualClock, SimClock
from resilience_whatsapp.simulator.faults.scenarios import SCENARIOS
from resilience_whatsapp.simulator.faults.script import Fault, FaultError
from resilience_whatsapp.simulator.limits.settings import Limits, LimitsError
from resilience_whatsapp.simulator.report import Broken, Compared, RecordsError, Report
from resilience_whatsapp.simulator.server import Simulator
from resilience_whatsapp.simulator.state.changes import ChangeError, Changes
from resilience_whatsapp.simulator.state.world import Account, Block, Number, Portfolio, Token, World
from resilience_whatsapp.simulator.templates.definitions import DEFAULT_TEMPLATES, SimTemplate
from resilience_whatsapp.simulator.thread import SimulatorThread
from resilience_whatsapp.simulator.webhooks.receivers import Receiver, WebhookError
from resilience_whatsapp.simulator.webhooks.statuses import Statuses

__all__ = [
    "DEFAULT_TEMPLATES",
    "SCENARIOS",
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

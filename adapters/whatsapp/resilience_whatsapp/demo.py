"""The main job, told as it happens: `python -m resilience_whatsapp.demo [--naive] [--otel console]`.

Sends messages through the service while a simulated API goes healthy -> slow -> failing -> dead -> back, over real HTTP
and in real time, with waits short enough for a demonstration. Then it compares its records with the simulator's book.
`--naive` sends the same messages with a blind retry instead, and shows what that costs. `--otel console` prints spans
and metrics, too, and compares them with the book; `otlp` and `prometheus` export them.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import sys
import time
import uuid
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import get_args

from attrs import define, field

from resilience_core import CircuitTransition, Event
from resilience_core.otel import Exporter
from resilience_whatsapp._demo_telemetry import compared, recorded
from resilience_whatsapp.client import ResilientWhatsAppClient
from resilience_whatsapp.graph import GraphClient
from resilience_whatsapp.service import WhatsAppService
from resilience_whatsapp.settings import Settings
from resilience_whatsapp.simulator import Fault, Simulator

RECIPIENT = "+33600000000"
DEMO_SETTINGS = Settings(recovery_timeout=1.5, base_delay=0.15, max_delay=0.5)
READ_TIMEOUT = 0.8
_COLOURS = {"accepted": 32, "rejected": 33, "unknown": 35, "failed": 31, "circuit": 36, "phase": 1}


@define
class Teller:
    """Prints the story; plain where nobody looks at a terminal."""

    started: float = field(factory=time.monotonic)
    coloured: bool = field(factory=lambda: sys.stdout.isatty() and "NO_COLOR" not in os.environ)

    def say(self, kind: str, text: str) -> None:
        """One line."""
        word = f"{kind:<9}"
        if self.coloured:
            word = f"\x1b[{_COLOURS.get(kind, 0)}m{word}\x1b[0m"
        print(f"{time.monotonic() - self.started:6.2f} s  {word} {text}", flush=True)


class TellingHandler(logging.Handler):
    """Tells what the service logs about retries and templates."""

    def __init__(self, teller: Teller) -> None:
        super().__init__(logging.WARNING)
        self._teller = teller

    def emit(self, record: logging.LogRecord) -> None:
        """One log record as a line of the story."""
        attempt, delay = getattr(record, "attempt", None), getattr(record, "delay_ms", None)
        more = "" if attempt is None else f": attempt {attempt} failed, the next one in {delay} ms"
        error = getattr(record, "error", None)
        self._teller.say("log", f"{record.levelname} {record.getMessage()}{more}{f' ({error})' if error else ''}")


@define
class Outcome:
    """What the sender believes, by the ids of its messages."""

    statuses: dict[str, str] = field(factory=dict)
    circuit_opened: int = 0
    template_source: str = "none"
    client: ResilientWhatsAppClient | None = None
    """Kept, so that the state of its policies can be told at the end."""


Send = Callable[[], Awaitable[None]]


async def resilient(simulator: Simulator, http_client: GraphClient, teller: Teller) -> Outcome:
    """The story with the service."""
    outcome = Outcome()
    logger = logging.getLogger("resilience_whatsapp.service")
    logger.propagate = False
    logger.addHandler(TellingHandler(teller))
    client = ResilientWhatsAppClient(
        http_client, DEMO_SETTINGS.circuit_breaker(), DEMO_SETTINGS.retry_policy(), logger, total_timeout=5.0
    )
    # Always asked anew, so that the story shows what happens when the API cannot be asked; the default is every hour.
    service = WhatsAppService(client, delivery="at_most_once", templates_fresh_for=0.0)
    outcome.client = client

    def watch(event: Event) -> None:
        if isinstance(event, CircuitTransition):
            teller.say("circuit", f"{event.previous_state} -> {event.state} ({event.reason})")
            outcome.circuit_opened += event.state == "open" and event.previous_state == "closed"

    client.circuit_breaker.subscribe(watch)

    async def send() -> None:
        try:
            record = await service.send_template_message("demo", RECIPIENT, "welcome_message", "fr")
        except Exception as error:
            record = getattr(error, "record")  # noqa: B009 - every error of a send carries it
        outcome.statuses[record.id] = record.status.value
        attempts = f"{record.attempts} attempt{'s' if record.attempts != 1 else ''}"
        teller.say(
            record.status.value, f"{attempts}, {record.duration:.2f} s{f', {record.error}' if record.error else ''}"
        )

    async def list_templates() -> None:
        listing = await service.get_approved_templates()
        outcome.template_source = listing.source
        age = "" if listing.age is None else f", {listing.age:.1f} s old"
        teller.say("templates", f"{len(listing)} from {listing.source}{age}")

    async def recover() -> None:
        await asyncio.sleep(client.circuit_breaker.retry_after() or 0.0)

    await play(simulator, teller, send, list_templates, recover)
    return outcome


async def naive(simulator: Simulator, http_client: GraphClient, teller: Teller) -> Outcome:
    """The same with a blind retry: three attempts, whatever went wrong."""
    outcome = Outcome()

    async def send() -> None:
        message_id = uuid.uuid4().hex
        payload = {
            "messaging_product": "whatsapp",
            "to": RECIPIENT,
            "type": "template",
            "template": {"name": "welcome_message", "language": {"code": "fr"}},
            "biz_opaque_callback_data": message_id,
        }
        status = "failed"
        for attempt in (1, 2, 3):
            try:
                await http_client.send_message(payload)
            except Exception as error:
                teller.say("log", f"attempt {attempt}: {type(error).__name__}")
                await asyncio.sleep(0.1)
            else:
                status = "accepted"
                break
        outcome.statuses[message_id] = status
        teller.say(status, f"{attempt} attempts")

    async def nothing() -> None:
        """It has neither templates nor a circuit."""

    await play(simulator, teller, send, nothing, nothing)
    return outcome


async def play(simulator: Simulator, teller: Teller, send: Send, list_templates: Send, recover: Send) -> None:
    """The five acts."""

    async def sends(number: int) -> None:
        for _ in range(number):
            await send()

    teller.say("phase", "the API is healthy")
    await list_templates()
    await sends(4)
    teller.say("phase", "the API is slow")
    simulator.script(Fault("delay", seconds=0.2, times=3))
    await sends(3)
    teller.say("phase", "the API is failing")
    simulator.script(
        Fault("error", status=400, code=2, is_transient=True),  # platform trouble, as it really arrives: with HTTP 400
        Fault("error", status=429, code=130429, headers={"Retry-After": "0"}),
        Fault("reset_after_accept"),
        Fault("delay", seconds=0),
        Fault("html", status=502, accepted=True),
        Fault("error", status=500, code=131000),
        Fault("delay", seconds=0),
        Fault("hang_after_accept", seconds=READ_TIMEOUT * 4),
        Fault("malformed"),
        Fault("delay", seconds=0),
    )
    await sends(7)
    simulator.clear_faults()
    teller.say("phase", "the API is dead")
    await simulator.stop_listening()
    await sends(5)
    await list_templates()
    teller.say("phase", "the API is back")
    await simulator.start_listening()
    await recover()
    await sends(5)


def verdict(simulator: Simulator, outcome: Outcome, by_hand: bool) -> int:
    """Compare records and book, print the last line, and answer the exit code."""
    counts = Counter(outcome.statuses.values())
    booked = simulator.book.by_opaque()
    duplicated = len(simulator.book.duplicates())
    accepted = {message_id for message_id, status in outcome.statuses.items() if status == "accepted"}
    lost = len(accepted - booked.keys()) + len(booked.keys() - outcome.statuses.keys())
    happened = counts["accepted"] and counts["rejected"] and counts["unknown"] and outcome.circuit_opened
    good = not lost and not duplicated and bool(happened)
    print(
        f"demo: {'ok' if good else 'FAILED'} accepted={counts['accepted']} rejected={counts['rejected']} "
        f"unknown={counts['unknown']} lost={lost} duplicated={duplicated} "
        f"circuit_opened={outcome.circuit_opened} template_source={outcome.template_source}"
    )
    if by_hand and duplicated:
        print(f"the blind retry sent {duplicated} messages twice", file=sys.stderr)
    return 0 if good else 1


async def main(by_hand: bool, exporter: Exporter | None = None) -> int:
    """Play and judge."""
    if exporter is None:
        simulator, outcome = await tell(by_hand)
        return verdict(simulator, outcome, by_hand)
    with recorded(exporter) as printed:
        simulator, outcome = await tell(by_hand)
    code = verdict(simulator, outcome, by_hand)
    if exporter == "console":
        code |= compared(printed, simulator, outcome.statuses, outcome.circuit_opened)
    return code


async def tell(by_hand: bool) -> tuple[Simulator, Outcome]:
    """Play; the simulator with its book, and what the sender believes."""
    teller = Teller()
    async with Simulator() as simulator:
        teller.say("phase", f"a Graph API simulator listens on {simulator.base_url}")
        http_client = GraphClient(
            token=simulator.token,
            phone_number_id=simulator.phone_number_id,
            waba_id=simulator.waba_id,
            base_url=simulator.base_url,
            connect_timeout=1.0,
            read_timeout=READ_TIMEOUT,
        )
        async with http_client:
            return simulator, await (naive if by_hand else resilient)(simulator, http_client, teller)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m resilience_whatsapp.demo", description=__doc__)
    parser.add_argument("--naive", action="store_true", help="send with a blind retry, and see the duplicates")
    parser.add_argument("--otel", choices=get_args(Exporter), help="where spans and metrics go")
    chosen = parser.parse_args()
    if chosen.naive and chosen.otel:
        parser.error("--otel: a blind retry has no telemetry; leave --naive out")
    sys.exit(asyncio.run(main(chosen.naive, chosen.otel)))

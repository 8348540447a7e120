"""A process that sends, or one that only receives webhooks: `python _program.py sends|receives <url> <prefix>`."""

from __future__ import annotations

import asyncio
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[3]))

from resilience_core.redis import RedisFleet
from resilience_whatsapp import GateClosedError, Gates, ResilientWhatsAppClient, WhatsAppService
from resilience_whatsapp.errors import graph_error
from resilience_whatsapp.webhooks import StatusUpdate, gating
from tests.whatsapp.fakes import OK, RECIPIENT
from tests.whatsapp.gates.test_gates import Api

WHAT, URL, PREFIX = sys.argv[1:4]
PATIENCE = 30.0

fleet = RedisFleet(URL, prefix=PREFIX, secret="sixteen characters, and more", timeout=2.0)
gates = Gates(fleet=fleet)


async def sends() -> None:
    service = WhatsAppService(ResilientWhatsAppClient(Api(OK), gates=gates))
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        try:
            await service.send_text("user", RECIPIENT, "hello")
        except GateClosedError as error:
            if error.scope == "recipient":
                print("kept back", error.code, flush=True)
                return
        else:
            print("sent", flush=True)
        await asyncio.sleep(0.05)


async def receives() -> None:
    ours: Any = {"topic": "messages", "waba_id": "2", "phone_number_id": "1"}
    errors = (graph_error(131026, None, False, None),)
    update = StatusUpdate(**ours, wamid="wamid.1", status="failed", recipient=RECIPIENT[1:], errors=errors)
    told = gating(gates)(update)
    assert told is not None
    await told
    assert fleet.flush(PATIENCE)
    print("told", flush=True)


asyncio.run(sends() if WHAT == "sends" else receives())
fleet.close()

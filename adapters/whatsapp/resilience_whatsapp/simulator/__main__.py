"""`python -m resilience_whatsapp.simulator --port N`"""

from __future__ import annotations

import argparse
import asyncio
import signal
import sys
from collections.abc import Sequence

from resilience_whatsapp.simulator.api import PHONE_NUMBER_ID, TOKEN, WABA_ID
from resilience_whatsapp.simulator.server import Simulator


def _arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m resilience_whatsapp.simulator",
        description="A simulator of Meta's Graph API for WhatsApp; ends on SIGINT or SIGTERM.",
    )
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=0, help="0 takes a free port (default)")
    parser.add_argument("--token", default=TOKEN, help="the only token that is accepted")
    parser.add_argument("--phone-number-id", default=PHONE_NUMBER_ID)
    parser.add_argument("--waba-id", default=WABA_ID)
    return parser.parse_args(arguments)


async def _serve(options: argparse.Namespace) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    async with Simulator(
        host=options.host,
        port=options.port,
        token=options.token,
        phone_number_id=options.phone_number_id,
        waba_id=options.waba_id,
    ) as simulator:
        print(f"Graph API simulator on {simulator.base_url}", flush=True)
        print(f"phone number id {simulator.phone_number_id}, business account {simulator.waba_id}", flush=True)
        await stop.wait()


def main(arguments: Sequence[str] | None = None) -> int:
    """Serve until told to stop; 1 when it cannot listen."""
    options = _arguments(arguments)
    try:
        asyncio.run(_serve(options))
    except (OSError, OverflowError) as error:  # a port beyond 65535 is an OverflowError
        print(f"cannot listen on {options.host} port {options.port}: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())

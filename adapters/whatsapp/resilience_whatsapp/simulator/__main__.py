"""`python -m resilience_whatsapp.simulator --port N`"""

from __future__ import annotations

import argparse
import asyncio
import signal
import sys
from collections.abc import Sequence
from typing import Any

from attrs import fields

from resilience_whatsapp.simulator.api import PHONE_NUMBER_ID, TOKEN, WABA_ID
from resilience_whatsapp.simulator.faults.scenarios import SCENARIOS
from resilience_whatsapp.simulator.limits.settings import Limits
from resilience_whatsapp.simulator.server import Simulator
from resilience_whatsapp.simulator.webhooks.delivery import APP_SECRET
from resilience_whatsapp.simulator.webhooks.receivers import VERSION, Receiver, WebhookError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What the command takes; for other commands that have it as a part."""
    parser.add_argument("--host", default="127.0.0.1", help="where to listen (%(default)s)")
    parser.add_argument("--port", type=int, default=0, help="0 takes a free port (default)")
    parser.add_argument("--token", default=TOKEN, help="the token that is accepted (%(default)s)")
    parser.add_argument("--phone-number-id", default=PHONE_NUMBER_ID, help="of the first number (%(default)s)")
    parser.add_argument("--waba-id", default=WABA_ID, help="of the first account (%(default)s)")
    parser.add_argument("--numbers", type=_positive, default=1, metavar="N", help="of each account; their ids count up")
    parser.add_argument("--accounts", type=_positive, default=1, metavar="N", help="each of a portfolio of its own")
    parser.add_argument("--speed", type=float, default=1.0, help="seconds of the API in a second of real time")
    parser.add_argument("--seed", type=int, default=0, help="of all that happens by chance")
    parser.add_argument("--limits", choices=("none", "real"), default="none", help="those of the real API, or none")
    parser.add_argument(
        "--limit", action="append", default=[], type=_limit, metavar="NAME=NUMBER", help="another number for one limit"
    )
    parser.add_argument(
        "--service-window", action="store_true", help="refuse free-form messages to users who did not write in 24 h"
    )
    parser.add_argument(
        "--country-code", metavar="DIGITS", help="of the sending numbers: recipients without + get it, as documented"
    )
    parser.add_argument("--webhook", action="append", default=[], metavar="URL", help="who is told; may be repeated")
    parser.add_argument("--verify-token", help="make the handshake with the receivers, with this token")
    parser.add_argument("--webhook-version", default=VERSION, help="of the API, in whose shape webhooks are")
    parser.add_argument("--app-secret", default=APP_SECRET, help="signs the webhooks (%(default)s)")
    parser.add_argument(
        "--scenario", action="append", default=[], choices=sorted(SCENARIOS), help="faults that belong together"
    )


def run(options: argparse.Namespace) -> int:
    """Serve until told to stop; 1 when it cannot, 2 for options that it cannot take."""
    try:
        limits = Limits.real(**dict(options.limit)) if options.limits == "real" else Limits(**dict(options.limit))
        simulator = Simulator(
            host=options.host,
            port=options.port,
            token=options.token,
            phone_number_id=options.phone_number_id,
            waba_id=options.waba_id,
            numbers=options.numbers,
            accounts=options.accounts,
            speed=options.speed,
            seed=options.seed,
            limits=limits,
            service_window=options.service_window,
            country_code=options.country_code,
            webhooks=[
                Receiver(url, verify_token=options.verify_token, version=options.webhook_version)
                for url in options.webhook
            ],
            app_secret=options.app_secret,
        )
    except ValueError as error:  # WebhookError is one
        print(error, file=sys.stderr)
        return 2
    try:
        asyncio.run(_serve(simulator, options.scenario))
    except (OSError, OverflowError) as error:  # a port beyond 65535 is an OverflowError
        print(f"cannot listen on {options.host} port {options.port}: {error}", file=sys.stderr)
        return 1
    except WebhookError as error:
        print(f"a webhook cannot be told: {error}", file=sys.stderr)
        return 1
    return 0


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; gives its exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m resilience_whatsapp.simulator",
        description="A simulator of Meta's Graph API for WhatsApp; ends on SIGINT or SIGTERM.",
    )
    add_arguments(parser)
    return run(parser.parse_args(arguments))


async def _serve(simulator: Simulator, scenarios: Sequence[str]) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    async with simulator:
        for name in scenarios:
            simulator.script(*SCENARIOS[name])
        print(f"Graph API simulator on {simulator.base_url}", flush=True)
        for sender in simulator.world.numbers.values():
            print(f"phone number id {sender.id}, business account {sender.account.id}", flush=True)
        await stop.wait()


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError("must be 1 or more")
    return number


def _limit(text: str) -> tuple[str, Any]:
    """`throughput=1000` or `messaging=none`."""
    name, _, value = text.partition("=")
    known = {attribute.name: attribute.type for attribute in fields(Limits)}
    if name not in known:
        raise argparse.ArgumentTypeError(f"{name!r} is no limit; known are {', '.join(known)}")
    if value == "none":
        return name, None
    if value in ("true", "false"):
        return name, value == "true"
    try:
        return name, float(value) if "." in value else int(value)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{value!r} is no number, none, true or false") from None


if __name__ == "__main__":
    sys.exit(main())

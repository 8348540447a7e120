"""What a send through the whole WhatsApp client costs, against a bare aiohttp POST of the same message.

The simulator runs in a process of its own, so that its work is not counted as the client's. Both contenders keep one
connection alive, send the same message, and read and parse the answer. They take turns within one run; the median of
the turns' ratios counts.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import json
import statistics
import subprocess
import sys
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator, Sequence
from typing import Any

import aiohttp
from attrs import frozen

from benchmarks import rows
from resilience_core.testing import record_telemetry
from resilience_whatsapp import GraphClient, ResilientWhatsAppClient, WhatsAppService
from resilience_whatsapp.messages import TemplateBody
from resilience_whatsapp.simulator import Simulator
from resilience_whatsapp.simulator.api import TOKEN

RECIPIENT = "+33612345678"
NUMBERS = 8
"""Sending numbers of the row about throughput."""
AT_ONCE = 4
"""Sends under way for each of them."""

Call = Callable[[], Awaitable[Any]]


async def _serve(numbers: int) -> None:
    async with Simulator(numbers=numbers) as simulator:
        print(json.dumps([[simulator.base_url, number] for number in simulator.world.numbers]), flush=True)
        while await asyncio.to_thread(sys.stdin.readline):  # a line asks for the time used; the end ends it
            print(time.process_time(), flush=True)


@frozen
class Server:
    """A simulator in another process, without limits: where it listens, and for which numbers."""

    process: subprocess.Popen[str]
    places: Sequence[tuple[str, str]]

    def cpu(self) -> float:
        """Seconds of CPU that the process has used."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        return float(self.process.stdout.readline())


@contextlib.contextmanager
def server(numbers: int) -> Generator[Server]:
    """Start it, and end it."""
    command = [sys.executable, "-m", "benchmarks.whatsapp", str(numbers)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        yield Server(process, [(base_url, number) for base_url, number in json.loads(process.stdout.readline())])
        process.communicate()  # closes its stdin, which ends it


@contextlib.asynccontextmanager
async def contenders(base_url: str, number: str) -> AsyncGenerator[dict[str, Call]]:
    """`ours` and `bare`: each sends one template message with two values."""
    url, headers = f"{base_url}/v25.0/{number}/messages", {"Authorization": f"Bearer {TOKEN}"}
    async with (
        aiohttp.ClientSession() as session,
        GraphClient(token=TOKEN, phone_number_id=number, base_url=base_url) as http,
    ):
        service = WhatsAppService(ResilientWhatsAppClient(http))

        async def ours() -> Any:
            body = TemplateBody(["Ann", "Monday"])
            record = await service.send_template_message(7, RECIPIENT, "order_confirmation", "en_US", components=[body])
            assert record.wamid

        async def bare() -> Any:
            body = {"type": "body", "parameters": [{"type": "text", "text": text} for text in ("Ann", "Monday")]}
            payload = {
                "biz_opaque_callback_data": "0123456789abcdef0123456789abcdef",
                "messaging_product": "whatsapp",
                "recipient_type": "individual",
                "to": RECIPIENT,
                "type": "template",
                "template": {"name": "order_confirmation", "language": {"code": "en_US"}, "components": [body]},
            }
            async with session.post(url, json=payload, headers=headers) as response:
                assert (await response.json())["messages"][0]["id"]

        yield {"ours": ours, "bare": bare}


async def _timed(call: Call, times: int) -> tuple[float, float]:
    """Seconds of the clock, and of this process' CPU, of one call."""
    started, used = time.perf_counter(), time.process_time()
    for _ in range(times):
        await call()
    return (time.perf_counter() - started) / times, (time.process_time() - used) / times


@frozen
class Cost:
    """Medians over the turns: ours divided by the bare POST, and microseconds."""

    ratio: float
    cpu_ratio: float
    microseconds: dict[str, float]
    cpu_microseconds: dict[str, float]


async def _turns(place: tuple[str, str], turns: int, times: int) -> Cost:
    async with contenders(*place) as calls:
        found: dict[str, list[tuple[float, float]]] = {name: [] for name in calls}
        for call in calls.values():
            await _timed(call, times)
        for _ in range(turns):
            for name, call in calls.items():
                found[name].append(await _timed(call, times))
    pairs = list(zip(found["ours"], found["bare"], strict=True))
    return Cost(
        ratio=statistics.median(ours[0] / bare[0] for ours, bare in pairs),
        cpu_ratio=statistics.median(ours[1] / bare[1] for ours, bare in pairs),
        microseconds={name: statistics.median(each[0] for each in all_of) * 1e6 for name, all_of in found.items()},
        cpu_microseconds={name: statistics.median(each[1] for each in all_of) * 1e6 for name, all_of in found.items()},
    )


@functools.cache  # two rows are of one measurement
def _cost(telemetry: bool) -> Cost:
    turns, times = (1, 5) if rows.quick else (40, 50)
    with server(1) as simulators, contextlib.ExitStack() as stack:
        if telemetry:
            stack.enter_context(record_telemetry(spans="call"))
        return asyncio.run(_turns(simulators.places[0], turns, times))


def send_against_post(*, telemetry: bool = False) -> float:
    """The time of a send, divided by that of a bare POST; with `telemetry`, metrics and a span of it are recorded."""
    found = _cost(telemetry)
    for name, microseconds in found.microseconds.items():
        print(f"    {name:<20} {microseconds:7.0f} us, of which CPU {found.cpu_microseconds[name]:4.0f} us")
    return found.ratio


def cpu_against_post() -> float:
    """The CPU time of the client's process for a send, divided by that for a bare POST."""
    return _cost(False).cpu_ratio


@frozen
class Throughput:
    """What one client process sent over many numbers, and whose the time was."""

    per_second: float
    client_share: float
    """Of the second: CPU of the client process."""
    simulator_share: float


async def _many(simulators: Server, sends: int) -> Throughput:
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
        services = [
            WhatsAppService(
                ResilientWhatsAppClient(
                    GraphClient(token=TOKEN, phone_number_id=number, base_url=base_url, session=session),
                )
            )
            for base_url, number in simulators.places
        ]

        async def work(service: WhatsAppService, times: int) -> None:
            body = TemplateBody(["Ann", "Monday"])
            for _ in range(times):
                await service.send_template_message(7, RECIPIENT, "order_confirmation", "en_US", components=[body])

        async def all_of(times: int) -> None:
            await asyncio.gather(*(work(service, times) for service in services for _ in range(AT_ONCE)))

        await all_of(2)  # connections
        theirs, used, started = simulators.cpu(), time.process_time(), time.perf_counter()
        times = max(1, sends // (len(services) * AT_ONCE))
        await all_of(times)
        seconds = time.perf_counter() - started
        return Throughput(
            per_second=times * len(services) * AT_ONCE / seconds,
            client_share=(time.process_time() - used) / seconds,
            simulator_share=(simulators.cpu() - theirs) / seconds,
        )


def sends_per_second() -> float:
    """Sends from one process, over `NUMBERS` numbers with a shared session and `AT_ONCE` sends under way for each."""
    with server(NUMBERS) as simulators:
        found = asyncio.run(_many(simulators, 100 if rows.quick else 6_000))
    shares = f"client {found.client_share:.2f}, simulator {found.simulator_share:.2f}"
    print(f"    CPU seconds of each second: {shares}")
    return found.per_second


if __name__ == "__main__":
    asyncio.run(_serve(int(sys.argv[1])))

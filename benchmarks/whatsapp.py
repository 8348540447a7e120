"""What a send through the whole WhatsApp client costs, against a bare aiohttp POST of the same message.

The simulator runs in a process of its own, so that its work is not counted as the client's. Both contenders keep one
connection alive, send the same message, and read and parse the answer. They take turns of some 20 ms. The medians of
the calls of two turns that follow each other are compared, and the median of these ratios counts: so neither what other
processes take from some of the calls matters much, nor that they take more of some turns than of others.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator, Sequence
from typing import Any, Literal

import aiohttp
from attrs import frozen

from benchmarks import rows
from resilience_core.testing import record_telemetry
from resilience_whatsapp import Gates, GraphClient, ResilientWhatsAppClient, WhatsAppService
from resilience_whatsapp.messages import TemplateBody
from resilience_whatsapp.outbox import Outbox, SQLiteStore
from resilience_whatsapp.simulator import Simulator
from resilience_whatsapp.simulator.api import TOKEN

RECIPIENT = "+33612345678"
NUMBERS = 8
"""Sending numbers of the row about throughput."""
AT_ONCE = 4
"""Sends under way for each of them."""

Call = Callable[[], Awaitable[Any]]
Durable = Literal["full", "normal"]
"""What an outbox survives: a power cut, for which each send waits for the disk; or `kill -9`."""


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
async def _outbox(durable: Durable | None) -> AsyncGenerator[Outbox | None]:
    """One in a file of its own, if one is used."""
    if durable is None:
        yield None
        return
    with tempfile.TemporaryDirectory(prefix="rf-bench-") as directory:
        outbox = Outbox(SQLiteStore(f"{directory}/outbox.db", synchronous=durable))
        async with outbox.running():
            yield outbox
        await outbox.aclose()


@contextlib.asynccontextmanager
async def contenders(base_url: str, number: str, outbox: Durable | None = None) -> AsyncGenerator[dict[str, Call]]:
    """`ours` and `bare`: each sends one template message with two values."""
    url, headers = f"{base_url}/v25.0/{number}/messages", {"Authorization": f"Bearer {TOKEN}"}
    async with (
        aiohttp.ClientSession() as session,
        GraphClient(token=TOKEN, phone_number_id=number, base_url=base_url) as http,
        _outbox(outbox) as kept,
    ):
        service = WhatsAppService(ResilientWhatsAppClient(http), outbox=kept)

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


@frozen
class Cost:
    """Of each turn, by contender: the median of its calls, in microseconds of the clock and of this process' CPU."""

    wall: dict[str, list[float]]
    cpu: dict[str, list[float]]

    def ratio(self, which: dict[str, list[float]]) -> float:
        """Ours divided by the bare POST."""
        return statistics.median(ours / bare for ours, bare in zip(which["ours"], which["bare"], strict=True))


async def _turn(call: Call, times: int, at_once: int = 1) -> tuple[float, float]:
    wall: list[float] = []
    cpu: list[float] = []
    for _ in range(times):
        started, used = time.perf_counter(), time.process_time()
        if at_once == 1:
            await call()
        else:
            await asyncio.gather(*(call() for _ in range(at_once)))
        cpu.append((time.process_time() - used) * 1e6 / at_once)
        wall.append((time.perf_counter() - started) * 1e6 / at_once)
    return statistics.median(wall), statistics.median(cpu)


async def _turns(place: tuple[str, str], turns: int, times: int, outbox: Durable | None, at_once: int) -> Cost:
    async with contenders(*place, outbox) as calls:
        for call in calls.values():
            await _turn(call, times, at_once)  # connections
        found = Cost({name: [] for name in calls}, {name: [] for name in calls})
        for _ in range(turns):
            for name, call in calls.items():
                wall, cpu = await _turn(call, times, at_once)
                found.wall[name].append(wall)
                found.cpu[name].append(cpu)
        return found


@functools.cache  # two rows are of one measurement
def cost(*, telemetry: bool = False, outbox: Durable | None = None, at_once: int = 1) -> Cost:
    """Of a send; with `telemetry`, metrics and a span of it are recorded; with `outbox`, it is kept in a file first, as
    durable as that.

    With `at_once` above 1, what is measured is that many sends together, divided by their number.
    """
    turns, times = (1, 5) if rows.quick else (100, 30) if at_once == 1 else (40, 3)
    with server(1) as simulator, contextlib.ExitStack() as stack:
        if telemetry:
            stack.enter_context(record_telemetry(spans="call"))
        return asyncio.run(_turns(simulator.places[0], turns, times, outbox, at_once))


def send_against_post(*, telemetry: bool = False, outbox: Durable | None = None, at_once: int = 1) -> float:
    """The time of a send, divided by that of a bare POST."""
    found = cost(telemetry=telemetry, outbox=outbox, at_once=at_once)
    for name, wall in found.wall.items():
        cpu = statistics.median(found.cpu[name])
        print(f"    {name:<20} {statistics.median(wall):7.0f} us, of which CPU {cpu:4.0f} us")
    return found.ratio(found.wall)


def cpu_against_post(*, outbox: Durable | None = None) -> float:
    """The CPU time of the client's process for a send, divided by that for a bare POST."""
    found = cost(outbox=outbox)
    return found.ratio(found.cpu)


@frozen
class Throughput:
    """What one client process sent over many numbers, and whose the time was."""

    per_second: float
    client_share: float
    """Of the second: CPU of the client process."""
    simulator_share: float


async def _many(simulator: Server, sends: int, turns: int) -> list[Throughput]:
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
        services = [
            WhatsAppService(
                ResilientWhatsAppClient(
                    GraphClient(token=TOKEN, phone_number_id=number, base_url=base_url, session=session)
                )
            )
            for base_url, number in simulator.places
        ]
        times = max(1, sends // (len(services) * AT_ONCE))

        async def work(service: WhatsAppService) -> None:
            for _ in range(times):
                body = TemplateBody(["Ann", "Monday"])
                await service.send_template_message(7, RECIPIENT, "order_confirmation", "en_US", components=[body])

        async def turn() -> Throughput:
            theirs, used, started = simulator.cpu(), time.process_time(), time.perf_counter()
            await asyncio.gather(*(work(service) for service in services for _ in range(AT_ONCE)))
            seconds = time.perf_counter() - started
            return Throughput(
                per_second=times * len(services) * AT_ONCE / seconds,
                client_share=(time.process_time() - used) / seconds,
                simulator_share=(simulator.cpu() - theirs) / seconds,
            )

        await turn()  # connections
        return [await turn() for _ in range(turns)]


def sends_per_second() -> float:
    """Sends from one process, over `NUMBERS` numbers with a shared session and `AT_ONCE` sends under way for each.

    The best of some turns of about a second: in the others, other processes had the machine.
    """
    sends, turns = (100, 1) if rows.quick else (2_000, 8)
    with server(NUMBERS) as simulator:
        best = max(asyncio.run(_many(simulator, sends, turns)), key=lambda turn: turn.per_second)
    print(f"    CPU seconds of each second: client {best.client_share:.2f}, simulator {best.simulator_share:.2f}")
    return best.per_second


@frozen
class Paced:
    """What sending to one number at a pace takes."""

    per_second: dict[str, float]
    """Messages, by contender."""
    cores: dict[str, float]
    """CPU of the client process, threads and kernel included, as part of one core."""

    @property
    def beyond(self) -> float:
        """Of a core, what ours takes more than the bare POST, in the median of the turns."""
        return self.cores["ours"] - self.cores["bare"]


async def _paced(place: tuple[str, str], rate: float, seconds: float, turns: int) -> Paced:
    async with contenders(*place, "full") as calls:
        found: dict[str, list[tuple[float, float]]] = {name: [] for name in calls}
        for _ in range(turns):
            for name, call in calls.items():
                await _turn(call, 5)
                sends = set[asyncio.Task[Any]]()
                used, started = time.process_time(), time.perf_counter()
                for number in range(int(rate * seconds)):
                    await asyncio.sleep(started + number / rate - time.perf_counter())
                    send = asyncio.ensure_future(call())
                    sends.add(send)
                    send.add_done_callback(sends.discard)
                if sends:
                    await asyncio.gather(*sends)
                took = time.perf_counter() - started
                found[name].append((int(rate * seconds) / took, (time.process_time() - used) / took))
        return Paced(
            {name: statistics.median(each for each, _ in turned) for name, turned in found.items()},
            {name: statistics.median(each for _, each in turned) for name, turned in found.items()},
        )


def paced(rate: float, seconds: float = 4.0, turns: int = 5) -> Paced:
    """Send to one number at `rate` a second through an outbox, and as bare POSTs, in turns of so many seconds."""
    with server(1) as simulator:
        return asyncio.run(_paced(simulator.places[0], rate, seconds, turns))


def outbox_core_at_80() -> float:
    """Of a core, what 80 messages a second to one number take through an outbox, beyond bare POSTs."""
    found = paced(82.0, *((0.2, 1) if rows.quick else (4.0, 5)))
    for name, share in found.cores.items():
        print(f"    {name:<20} {share:7.3f} of a core at {found.per_second[name]:.1f} a second")
    return found.beyond


class _Nowhere:
    """An HTTP client with the reads that gates need, and no network."""

    phone_number_id, waba_id, token = "106540352242922", "102290129340398", TOKEN

    async def get_number_status(self) -> None: ...

    async def get_account_health(self) -> None: ...


async def _through(send: Callable[[dict[str, str]], Awaitable[Any]], times: int) -> float:
    payloads = [{"to": f"+3361200{number:04d}", "type": "text"} for number in range(1_000)]
    started = time.process_time()
    for _ in range(times):
        for payload in payloads:
            await send(payload)
    return (time.process_time() - started) * 1e9 / (times * len(payloads))


async def _request(payload: dict[str, str]) -> None: ...


def gates_nanoseconds() -> float:
    """CPU of the way through all gates while they are open, for 1,000 recipients: the best of some turns."""
    times, turns = (1, 1) if rows.quick else (10, 7)
    costs = []
    for _ in range(turns):
        door = Gates(throughput=1e9, pair_burst=1_000).attach(_Nowhere())

        async def send(payload: dict[str, str], door: Any = door) -> None:
            await door.send(_request, payload)

        costs.append(asyncio.run(_through(send, times)) - asyncio.run(_through(_request, times)))
    return min(costs)


if __name__ == "__main__":
    asyncio.run(_serve(int(sys.argv[1])))

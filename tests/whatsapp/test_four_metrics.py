"""The four metrics that were asked for say what the API's book says: the queries of the docs on a real endpoint."""

from __future__ import annotations

import asyncio
import itertools
import time
import urllib.request
from typing import Any

import pytest
from attrs import define, frozen

from resilience_core import CircuitBreaker, CircuitOpenError, CircuitState, otel
from resilience_core import _schema as s
from resilience_core._telemetry import Settings as Recorded
from resilience_core._telemetry import telemetry
from resilience_whatsapp import GraphClient, ResilientWhatsAppClient, Settings, WhatsAppService
from resilience_whatsapp.simulator import Fault, Simulator
from tests.telemetry.promql import Prometheus, Scrape
from tests.whatsapp.fakes import FakeClock
from tools.queries import Queries

SLOW, BACKOFF, RECOVERY = 0.15, 0.05, 60.0
DOWN = Fault("error", status=500, code=131000, times=3)
ACTS: tuple[tuple[str, tuple[Fault, ...]], ...] = (
    ("sent", ()),
    ("sent", ()),
    ("slow", (Fault("delay", seconds=SLOW),)),
    ("rescued", (Fault("error", status=500, code=131000),)),
    ("rescued by the last try", (Fault("error", status=429, code=130429, times=2),)),
    ("refused for good", (Fault("error", code=131026),)),
    ("down", (DOWN,)),
    ("not made", ()),
    ("not made", ()),
    ("recovered", ()),
    ("down again", (DOWN,)),
    ("not made", ()),
    ("recovered", ()),
)


@frozen
class Send:
    """What the book and a clock say of one send."""

    requests: int
    booked: int
    seconds: float


@define
class Truth:
    """What the book says of all of them."""

    sends: list[Send]

    @property
    def retries(self) -> int:
        return sum(max(0, send.requests - 1) for send in self.sends)

    @property
    def opened(self) -> int:
        """A send that brings no request after one that did: the circuit has opened in between."""
        made = [bool(send.requests) for send in self.sends]
        return sum(before and not after for before, after in itertools.pairwise(made))

    def success(self, *, first_try: bool) -> float:
        good = [send for send in self.sends if send.booked and (send.requests == 1 or not first_try)]
        return len(good) / len(self.sends)


async def play(simulator: Simulator, client: ResilientWhatsAppClient, clock: FakeClock) -> Truth:
    service, truth = WhatsAppService(client), Truth([])
    for act, faults in ACTS:
        simulator.script(*faults)
        if act == "recovered":
            clock.time += RECOVERY
        before, booked, started = simulator.book.requests["messages"], len(simulator.book.entries), time.perf_counter()
        try:
            await service.send_text("user", "+33612345678", "hello")
        except CircuitOpenError:
            assert act == "not made"
        except Exception:
            assert act in ("refused for good", "down", "down again")
        seconds = time.perf_counter() - started
        requests = simulator.book.requests["messages"] - before
        truth.sends.append(Send(requests, len(simulator.book.entries) - booked, seconds))
    assert client.circuit_breaker.state is CircuitState.CLOSED
    return truth


@pytest.fixture(scope="module")
def told() -> Any:
    """What the book says, and what Prometheus would see."""

    async def story(handle: otel.OpenTelemetry) -> tuple[Truth, Prometheus]:
        async with Simulator() as simulator:
            http_client = GraphClient(
                token=simulator.token, phone_number_id=simulator.phone_number_id, base_url=simulator.base_url
            )
            clock = FakeClock()  # of the circuit only: it does not recover while a slow machine makes calls
            circuit = CircuitBreaker(
                "graph", failure_threshold=3, success_threshold=1, recovery_timeout=RECOVERY, clock=clock
            )
            retry = Settings(base_delay=BACKOFF, max_delay=BACKOFF).retry_policy()
            async with http_client:
                client = ResilientWhatsAppClient(http_client, circuit, retry)
                first = await scrape(handle)
                truth = await play(simulator, client, clock)
                return truth, Prometheus(first, await scrape(handle), seconds=300)

    async def scrape(handle: otel.OpenTelemetry) -> Scrape:
        url = f"http://127.0.0.1:{handle.prometheus_port}/metrics"
        answer = await asyncio.to_thread(lambda: urllib.request.urlopen(url).read().decode())
        return Scrape.of(answer)

    try:
        with otel.setup("prometheus", prometheus_port=0, set_global=False, spans="none") as handle:
            return asyncio.run(story(handle))
    finally:
        telemetry.use_global()
        telemetry.configure(Recorded())


QUERIES = Queries("5m")


def test_times_that_circuits_opened(told: tuple[Truth, Prometheus]) -> None:
    truth, prometheus = told
    assert prometheus.value(QUERIES.openings([s.POLICY])) == truth.opened == 2


def test_retries(told: tuple[Truth, Prometheus]) -> None:
    truth, prometheus = told
    assert prometheus.value(QUERIES.retries([s.POLICY])) == truth.retries == 7


def test_success_before_and_after_retries(told: tuple[Truth, Prometheus]) -> None:
    truth, prometheus = told
    after, before = QUERIES.success_after_retries(), QUERIES.success_before_retries()
    assert prometheus.value(after) == pytest.approx(truth.success(first_try=False)) == pytest.approx(7 / 13)
    assert prometheus.value(before) == pytest.approx(truth.success(first_try=True)) == pytest.approx(5 / 13)
    assert prometheus.value(QUERIES.degraded()) == 0


def test_response_time_including_retries(told: tuple[Truth, Prometheus]) -> None:
    truth, prometheus = told
    assert prometheus.value("sum (increase(resilience_call_duration_seconds_count[5m]))") == len(truth.sends)
    seconds = prometheus.value("sum (increase(resilience_call_duration_seconds_sum[5m]))")
    assert SLOW + 0.5 * BACKOFF * truth.retries <= seconds <= sum(send.seconds for send in truth.sends)
    assert prometheus.value(QUERIES.mean(s.CALL_DURATION)) == pytest.approx(seconds / len(truth.sends))
    slowest = max(send.seconds for send in truth.sends)
    assert prometheus.value(QUERIES.response_time(1)) >= max(SLOW, BACKOFF)
    quantiles = [prometheus.value(QUERIES.response_time(share)) for share in (0.5, 0.95, 0.99)]
    assert quantiles == sorted(quantiles)
    bounds = (0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)
    assert quantiles[-1] <= next(bound for bound in bounds if bound >= slowest)

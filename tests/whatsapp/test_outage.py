"""The user's outage test: with a stub (no sleeping), and through real HTTP; and the three log lines."""

from __future__ import annotations

import asyncio
import functools
import logging
import socket
import threading
from typing import Any

import pytest

from resilience_core import CircuitBreaker, CircuitOpenError, CircuitState, Clock, Retry
from resilience_core.redis import RedisFleet
from resilience_whatsapp import (
    DEVELOPMENT,
    GraphClient,
    MessageStatus,
    ResilientWhatsAppClient,
    Settings,
    WhatsAppService,
)
from resilience_whatsapp.simulator import Fault, Simulator, SimulatorThread
from tests._redis import RedisServer
from tests.whatsapp.fakes import OK, RECIPIENT, FakeClock, Stub, service_over


class User:
    id = 42


async def failing_send(service: WhatsAppService) -> BaseException:
    with pytest.raises(Exception) as caught:
        await service.send_template_message(User(), RECIPIENT, "welcome_message", "fr")
    return caught.value


def test_with_defaults_the_circuit_opens_during_the_second_failing_send() -> None:
    clock, stub = FakeClock(), Stub(ConnectionError("down"))
    service = service_over(stub, clock)

    async def story() -> None:
        first = await failing_send(service)
        assert isinstance(first, ConnectionError)
        assert len(stub.payloads) == 3
        second = await failing_send(service)
        assert isinstance(second, CircuitOpenError)
        assert isinstance(second.__cause__, ConnectionError)
        assert len(stub.payloads) == 5
        for _ in range(4):
            assert isinstance(await failing_send(service), CircuitOpenError)
        assert len(stub.payloads) == 5

    asyncio.run(story())


def test_after_five_failed_sends_of_one_attempt_the_next_fails_at_once() -> None:
    clock, stub = FakeClock(), Stub(ConnectionError("down"))
    service = service_over(stub, clock, max_attempts=1)

    async def story() -> None:
        for number in range(1, 6):
            assert isinstance(await failing_send(service), ConnectionError)
            assert len(stub.payloads) == number
        before = clock.time
        rejected = await failing_send(service)
        assert isinstance(rejected, CircuitOpenError)
        assert rejected.retry_after == 60.0
        assert clock.time == before
        assert len(stub.payloads) == 5

    asyncio.run(story())


def test_failed_sends_of_two_servers_open_the_circuit_of_both(redis_server: RedisServer) -> None:
    """As the one before, but the five failed sends are those of two servers."""
    fleets = [RedisFleet(redis_server.url, prefix="outage:", timeout=8.0) for _ in range(2)]
    stubs = [Stub(ConnectionError("down")), Stub(ConnectionError("down"))]
    one, other = (
        service_over(stub, Clock(), breaker=functools.partial(Settings().circuit_breaker, fleet=fleet), max_attempts=1)
        for stub, fleet in zip(stubs, fleets, strict=True)
    )

    async def story() -> None:
        for service, fleet in zip((one, other, one, other, one), (*fleets, *fleets, fleets[0]), strict=True):
            assert isinstance(await failing_send(service), ConnectionError)
            assert await asyncio.to_thread(fleet.flush, 10)
        while other.client.circuit_breaker.state is not CircuitState.OPEN:
            await asyncio.sleep(0.001)  # the news comes from another thread, over a real connection
        for service in (one, other):
            assert isinstance(await failing_send(service), CircuitOpenError)
        assert [len(stub.payloads) for stub in stubs] == [3, 2]

    asyncio.run(asyncio.wait_for(story(), 30))
    for fleet in fleets:
        fleet.close()


def test_after_sixty_seconds_the_next_request_probes_and_two_successes_close() -> None:
    clock, stub = FakeClock(), Stub(*[ConnectionError("down")] * 5, OK)
    service = service_over(stub, clock, max_attempts=1)
    breaker = service.client.circuit_breaker

    async def story() -> None:
        for _ in range(5):
            await failing_send(service)
        clock.time += 59.999
        assert isinstance(await failing_send(service), CircuitOpenError)
        clock.time += 0.001
        assert breaker.state is CircuitState.OPEN, "it is the next request that probes, not time"
        await service.send_text(1, RECIPIENT, "hi")
        assert breaker.state is CircuitState.HALF_OPEN
        await service.send_text(1, RECIPIENT, "hi")
        assert breaker.state is CircuitState.CLOSED

    asyncio.run(story())


def test_a_failed_probe_opens_it_again_at_once_and_reset_closes_it() -> None:
    clock, stub = FakeClock(), Stub(*[ConnectionError("down")] * 6, OK)
    service = service_over(stub, clock, max_attempts=1)
    breaker = service.client.circuit_breaker

    async def story() -> None:
        for _ in range(5):
            await failing_send(service)
        clock.time += 60
        assert isinstance(await failing_send(service), ConnectionError)
        assert breaker.state is CircuitState.OPEN
        assert isinstance(await failing_send(service), CircuitOpenError)
        breaker.reset()
        assert (await service.send_text(1, RECIPIENT, "hi")).status is MessageStatus.ACCEPTED

    asyncio.run(story())


def real_client(simulator: Any, clock: FakeClock, max_attempts: int) -> tuple[GraphClient, WhatsAppService]:
    http_client = GraphClient(
        token=simulator.token,
        phone_number_id=simulator.phone_number_id,
        waba_id=simulator.waba_id,
        base_url=simulator.base_url,
    )
    client = ResilientWhatsAppClient(
        http_client, CircuitBreaker("whatsapp_api", clock=clock), Retry(max_attempts=max_attempts, clock=clock)
    )
    return http_client, WhatsAppService(client)


@pytest.mark.parametrize(("max_attempts", "requests"), [(1, [1, 2, 3, 4, 5, 5, 5]), (3, [3, 5, 5, 5])])
def test_the_outage_over_real_http(max_attempts: int, requests: list[int]) -> None:
    async def story() -> None:
        clock = FakeClock()
        async with Simulator() as simulator:
            http_client, service = real_client(simulator, clock, max_attempts)
            simulator.script(Fault("error", status=503, code=131016, times=5))
            async with http_client:
                for expected in requests:
                    error = await failing_send(service)
                    assert simulator.book.requests["messages"] == expected
                assert isinstance(error, CircuitOpenError)
                clock.time += 60
                for _ in range(2):
                    record = await service.send_template_message("u", RECIPIENT, "welcome_message", "fr")
                    assert record.status is MessageStatus.ACCEPTED
                assert service.client.circuit_breaker.state is CircuitState.CLOSED
                assert [entry.wamid for entry in simulator.book.entries][-1] == record.wamid
                assert simulator.book.by_opaque().keys() >= {record.id}

    asyncio.run(story())


def test_a_dead_server_is_never_reached_and_nothing_is_unknown() -> None:
    async def story() -> None:
        with socket.socket() as unused:
            unused.bind(("127.0.0.1", 0))
            port = unused.getsockname()[1]
            http_client = GraphClient(token="t", phone_number_id="1", base_url=f"http://127.0.0.1:{port}")
            clock = FakeClock()
            client = ResilientWhatsAppClient(
                http_client, CircuitBreaker("whatsapp_api", clock=clock), Retry(clock=clock)
            )
            async with http_client:
                error = await failing_send(WhatsAppService(client, delivery="at_most_once"))
        assert error.record.status is MessageStatus.FAILED  # type: ignore[attr-defined]
        assert error.record.attempts == 3  # type: ignore[attr-defined]

    asyncio.run(story())


# --- logs -----------------------------------------------------------------------------------------


def lines(caplog: pytest.LogCaptureFixture, message: str) -> list[logging.LogRecord]:
    return [record for record in caplog.records if record.getMessage() == message]


@pytest.mark.parametrize("options", [{}, {"templates_fresh_for": 0.0}], ids=["by default", "asked each time"])
def test_the_three_lines_have_the_words_levels_and_keys_of_the_user(
    caplog: pytest.LogCaptureFixture, options: dict[str, Any]
) -> None:
    clock, stub = FakeClock(), Stub(OK, ConnectionError(f"cannot reach {RECIPIENT}"))
    service = service_over(stub, clock, **options)

    async def story() -> None:
        await service.get_approved_templates()
        for _ in range(3):
            await failing_send(service)
        assert (await service.get_approved_templates()).source == "cache"

    with caplog.at_level(logging.DEBUG, logger="resilience_whatsapp.service"):
        asyncio.run(story())
    down = lines(caplog, "WhatsApp service is down (circuit open)")
    assert [record.levelname for record in down] == ["CRITICAL"] * 2
    assert vars(down[0]) | {"user_id": "42", "recipient": "+33******78", "template": "welcome_message"} == vars(down[0])
    retries: list[Any] = lines(caplog, "Retrying operation")
    assert [(each.levelname, each.attempt, each.error) for each in retries] == [
        ("WARNING", 1, "ConnectionError"),
        ("WARNING", 2, "ConnectionError"),
        ("WARNING", 1, "ConnectionError"),
        ("WARNING", 2, "ConnectionError"),
    ]
    assert 750 <= retries[0].delay_ms <= 1250
    assert 1500 <= retries[1].delay_ms <= 2500
    cached = lines(caplog, "Using cached templates due to circuit breaker open")
    assert [record.levelname for record in cached] == ["WARNING"]
    assert {each.name for each in (*down, *retries, *cached)} == {"resilience_whatsapp.service"}
    ours = {each.name for each in caplog.records} - {"resilience_whatsapp.service"}
    assert all(name.startswith("resilience_core.") for name in ours)
    assert RECIPIENT not in caplog.text
    assert "612345678" not in str([vars(record) for record in caplog.records])


def test_recipients_can_be_shown(caplog: pytest.LogCaptureFixture) -> None:
    clock, stub = FakeClock(), Stub(ConnectionError("down"))
    service = service_over(stub, clock, mask_recipients=False)

    async def story() -> None:
        for _ in range(2):
            await failing_send(service)

    asyncio.run(story())
    (down,) = lines(caplog, "WhatsApp service is down (circuit open)")
    assert vars(down)["recipient"] == RECIPIENT


def test_two_clients_with_one_retry_policy_log_their_own_retries_only() -> None:
    clock = FakeClock()
    retry = Retry(max_attempts=2, clock=clock)
    loggers = [logging.getLogger("test.one"), logging.getLogger("test.two")]
    seen: list[str] = []
    for logger in loggers:
        handler = logging.Handler()
        handler.emit = lambda record: seen.append(record.name)  # type: ignore[method-assign]
        logger.addHandler(handler)
    clients = [ResilientWhatsAppClient(Stub(ConnectionError()), None, retry, logger) for logger in loggers]
    asyncio.run(failing_send(WhatsAppService(clients[1])))  # type: ignore[arg-type]
    assert seen == ["test.two"]


# --- blocking callers -----------------------------------------------------------------------------


def test_blocking_callers_send_over_real_http_from_many_threads() -> None:
    with SimulatorThread() as simulator:
        http_client = GraphClient(
            token=simulator.simulator.token,
            phone_number_id=simulator.simulator.phone_number_id,
            waba_id=simulator.simulator.waba_id,
            base_url=simulator.base_url,
        )
        simulator.script(Fault("error", status=503, code=131016))
        settings = DEVELOPMENT
        client = ResilientWhatsAppClient(
            http_client, settings.circuit_breaker(), Retry(max_attempts=2, base_delay=0.0, max_delay=0.0)
        )
        with WhatsAppService.blocking(client, delivery="at_most_once") as service:
            records: list[Any] = []
            threads = [
                threading.Thread(target=lambda: records.append(service.send_text("u", RECIPIENT, "hi")))
                for _ in range(8)
            ]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            template = service.send_template_message("u", RECIPIENT, "welcome_message", "fr")
            assert service.get_approved_templates().source == "api"
        assert {record.status for record in [*records, template]} == {MessageStatus.ACCEPTED}
        assert sorted(record.attempts for record in records) == [1] * 7 + [2]
        assert len(simulator.book.entries) == 9

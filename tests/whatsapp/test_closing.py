"""Closing: no new sends, time for those under way, and the truth about those that were cut short."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from resilience_core import CircuitBreaker, ConfigurationError, Retry
from resilience_whatsapp import (
    GraphClient,
    GraphTransientError,
    MessageStatus,
    ResilientWhatsAppClient,
    SendReceipt,
    ServiceClosedError,
    WhatsAppService,
)
from resilience_whatsapp.messages import Text
from resilience_whatsapp.simulator import Fault, Simulator
from tests.whatsapp.fakes import OK, RECIPIENT, FakeClock, Stub, WireStub, service_over


class Held(Stub):
    """Holds each send until it is let go."""

    def __init__(self) -> None:
        super().__init__(OK)
        self.arrived = asyncio.Event()
        self.go = asyncio.Event()
        self.closed = 0

    async def send_message(self, payload: Any) -> SendReceipt:
        self.arrived.set()
        await self.go.wait()
        return await super().send_message(payload)

    async def aclose(self) -> None:
        self.closed += 1


def test_sends_under_way_end_well_and_new_ones_are_refused() -> None:
    async def story() -> None:
        api = Held()
        service = service_over(api, FakeClock())
        under_way = asyncio.ensure_future(service.send_text("u", RECIPIENT, "hi"))
        await api.arrived.wait()
        closing = asyncio.ensure_future(service.aclose(drain=30))
        await asyncio.sleep(0)
        with pytest.raises(ServiceClosedError, match="make a new one") as refused:
            await service.send_text("u", RECIPIENT, "hi")
        record = refused.value.record
        assert (record.status, record.attempts, record.error) == (MessageStatus.REJECTED, 0, "ServiceClosedError")
        assert not closing.done()
        api.go.set()
        assert (await under_way).status is MessageStatus.ACCEPTED
        await closing
        assert (len(api.payloads), api.closed) == (1, 1)

    asyncio.run(story())


@pytest.mark.parametrize(("left", "status"), [(True, MessageStatus.UNKNOWN), (False, MessageStatus.FAILED)])
def test_a_send_that_is_cut_short_tells_whether_it_may_have_left(left: bool, status: MessageStatus) -> None:
    async def story() -> None:
        arrived = asyncio.Event()

        class Hanging(WireStub):
            async def send_message(self, payload: Any, *, wire: Any) -> Any:  # type: ignore[override]
                wire.left = left
                arrived.set()
                await asyncio.Event().wait()

        service = service_over(Hanging(OK, left=[]), FakeClock())
        after = []

        async def caller() -> None:
            with pytest.raises(ServiceClosedError, match="cut short") as cut:
                await service.send_text("u", RECIPIENT, "hi")
            await asyncio.sleep(0)  # the caller itself is not cancelled
            after.append(cut.value.record)

        task = asyncio.ensure_future(caller())
        await arrived.wait()
        await service.aclose(drain=0)
        await task
        assert (after[0].status, after[0].error, after[0].attempts) == (status, "ServiceClosedError", 1)

    asyncio.run(story())


def test_a_send_that_waits_for_its_next_attempt_is_cut_as_failed() -> None:
    async def story() -> None:
        clock = FakeClock()
        waiting = asyncio.Event()

        async def wait(seconds: float) -> None:
            waiting.set()
            await asyncio.Event().wait()

        clock.async_sleep = wait
        service = service_over(Stub(GraphTransientError(131000, None, 500, "platform")), clock)
        task = asyncio.ensure_future(service.send_text("u", RECIPIENT, "hi"))
        await waiting.wait()
        await service.aclose(drain=0.001)
        with pytest.raises(ServiceClosedError) as cut:
            await task
        assert cut.value.record.status is MessageStatus.FAILED

    asyncio.run(story())


def test_a_time_out_of_a_send_stays_its_own_while_the_service_closes() -> None:
    async def story() -> None:
        service = service_over(Stub(TimeoutError()), FakeClock(), max_attempts=1)
        with pytest.raises(TimeoutError) as own:
            await service.send_text("u", RECIPIENT, "hi")
        assert not isinstance(own.value, ServiceClosedError)

    asyncio.run(story())


def test_whoever_cancels_a_send_gets_the_cancellation() -> None:
    async def story() -> None:
        api = Held()
        service = service_over(api, FakeClock())
        task = asyncio.ensure_future(service.send_text("u", RECIPIENT, "hi"))
        await api.arrived.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError) as cancelled:
            await task
        assert cancelled.value.record.status is MessageStatus.UNKNOWN  # type: ignore[attr-defined]
        await service.aclose()

    asyncio.run(story())


def test_closing_twice_or_at_once_is_closing() -> None:
    async def story() -> None:
        api = Held()
        service = service_over(api, FakeClock())
        under_way = asyncio.ensure_future(service.send_text("u", RECIPIENT, "hi"))
        await api.arrived.wait()
        closings = [asyncio.ensure_future(service.aclose(drain=0.01)) for _ in range(3)]
        with pytest.raises(ServiceClosedError):
            await under_way
        await asyncio.gather(*closings)
        await service.aclose()

    asyncio.run(story())


def test_everything_is_refused_after_closing_but_what_is_known_of_templates() -> None:
    async def story() -> None:
        async with Simulator() as simulator:
            http = GraphClient(
                token=simulator.token,
                phone_number_id=simulator.phone_number_id,
                waba_id=simulator.waba_id,
                base_url=simulator.base_url,
            )
            async with WhatsAppService(ResilientWhatsAppClient(http), templates_fresh_for=0) as service:
                await service.get_approved_templates()
            assert not http._sessions  # its session is closed
            asked = dict(simulator.book.requests)
            for call in (
                service.send("u", RECIPIENT, Text("hi")),
                service.mark_as_read("wamid.1"),
                service.upload_media(b"x", mime_type="image/png"),
                service.download_media("7", max_bytes=1),
                service.get_media("7"),
                service.delete_media("7"),
                service.get_number_status(),
                service.get_account_health(),
                service.delete_template("t"),
            ):
                with pytest.raises(ServiceClosedError):
                    await call
            assert dict(simulator.book.requests) == asked
            assert (await service.get_approved_templates()).source == "default"  # the deletion forgot the list

    asyncio.run(story())


def test_a_session_that_was_given_stays_open() -> None:
    import aiohttp

    async def story() -> None:
        async with Simulator() as simulator, aiohttp.ClientSession() as session:
            http = GraphClient(
                token=simulator.token,
                phone_number_id=simulator.phone_number_id,
                base_url=simulator.base_url,
                session=session,
            )
            client = ResilientWhatsAppClient(http, CircuitBreaker("given"), Retry(max_attempts=1))
            service = WhatsAppService(client)
            simulator.script(Fault("delay", seconds=0.05))
            sending = asyncio.ensure_future(service.send_text("u", RECIPIENT, "hi"))
            while not simulator.book.requests["messages"]:
                await asyncio.sleep(0.001)
            await service.aclose()
            assert (await sending).status is MessageStatus.ACCEPTED
            assert not session.closed

    asyncio.run(story())


@pytest.mark.parametrize("drain", [-1, float("inf"), float("nan"), True, "5", None])
def test_a_drain_that_is_no_time_is_refused_and_closes_nothing(drain: Any) -> None:
    async def story() -> None:
        service = service_over(Stub(OK), FakeClock())
        with pytest.raises(ConfigurationError, match="drain"):
            await service.aclose(drain)
        assert (await service.send_text("u", RECIPIENT, "hi")).status is MessageStatus.ACCEPTED

    asyncio.run(story())


def test_a_call_that_refuses_to_end_does_not_hold_up_closing_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("resilience_whatsapp._closing._CUT_WITHIN", 0.01)

    async def story() -> None:
        started, end = asyncio.Event(), asyncio.Event()

        class Stubborn(Stub):
            async def send_message(self, payload: Any) -> SendReceipt:
                started.set()
                while not end.is_set():
                    try:
                        await end.wait()
                    except asyncio.CancelledError:
                        continue
                return OK

        service = service_over(Stubborn(OK), FakeClock())
        task = asyncio.ensure_future(service.send_text("u", RECIPIENT, "hi"))
        await started.wait()
        await service.aclose(drain=0)
        await service.aclose(drain=0)
        end.set()
        await asyncio.wait([task])

    asyncio.run(story())

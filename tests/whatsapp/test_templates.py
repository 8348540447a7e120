"""The list of templates, what is known of each one, and what that spares: against the simulator, over real HTTP."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from resilience_core import CircuitBreaker, Retry
from resilience_whatsapp import (
    DEFAULT_TEMPLATES,
    GraphClient,
    ResilientWhatsAppClient,
    SendReceipt,
    Template,
    TemplatePage,
    WhatsAppService,
)
from resilience_whatsapp.simulator import Fault, SimTemplate, Simulator, SimulatorThread
from tests.whatsapp.fakes import FakeClock, Stub, service_over

HOUR = 3600.0
TWO_PAGES = [SimTemplate(f"t{number}", "fr") for number in range(120)]


def graph_client(simulator: Any) -> GraphClient:
    return GraphClient(
        token=simulator.token,
        phone_number_id=simulator.phone_number_id,
        waba_id=simulator.waba_id,
        base_url=simulator.base_url,
    )


@asynccontextmanager
async def served(
    clock: FakeClock, *, templates: list[SimTemplate] | None = None, **options: Any
) -> AsyncGenerator[tuple[Simulator, WhatsAppService], None]:
    """A service in the clock's time over a simulator; one attempt for each request."""
    async with Simulator() if templates is None else Simulator(templates=templates) as simulator:
        http_client = graph_client(simulator)
        breaker, retry = CircuitBreaker("whatsapp_api", clock=clock), Retry(max_attempts=1, clock=clock)
        service = WhatsAppService(ResilientWhatsAppClient(http_client, breaker, retry), **options)
        object.__setattr__(service._cache, "clock", clock)
        async with http_client:
            yield simulator, service


def asked(simulator: Simulator) -> int:
    return simulator.book.requests["message_templates"]


def test_a_list_is_fresh_for_an_hour_then_stale_for_a_day_in_all_then_the_built_in_one() -> None:
    async def story() -> list[Any]:
        clock = FakeClock()
        found: list[Any] = []
        async with served(clock) as (simulator, service):
            for passed in (0.0, HOUR - 1, 1.0, 23 * HOUR - 1, 1.0):
                clock.time += passed
                listing = await service.get_approved_templates()
                found.append((listing.source, listing.age, asked(simulator)))
                if len(found) == 1:
                    simulator.script(Fault("error", route="message_templates", times=None))
            assert listing.templates == DEFAULT_TEMPLATES
        return found

    assert asyncio.run(story()) == [
        ("api", 0.0, 1),
        ("cache", HOUR - 1, 1),
        ("cache", HOUR, 2),
        ("cache", 24 * HOUR - 1, 3),
        ("default", None, 4),
    ]


def test_only_an_old_list_is_warned_of_while_the_circuit_is_open(caplog: pytest.LogCaptureFixture) -> None:
    async def story() -> None:
        clock = FakeClock()
        async with served(clock) as (_, service):
            await service.get_approved_templates()
            service.client.circuit_breaker.force_open()
            assert (await service.get_approved_templates()).source == "cache"
            clock.time += 23 * HOUR
            listing = await service.get_approved_templates()
            assert (listing.source, listing.age) == ("cache", 23 * HOUR)
            clock.time += HOUR
            assert (await service.get_approved_templates()).source == "default"

    with caplog.at_level(logging.WARNING, logger="resilience_whatsapp.service"):
        asyncio.run(story())
    ours = [record for record in caplog.records if record.name == "resilience_whatsapp.service"]
    assert [(record.levelname, record.getMessage()) for record in ours] == [
        ("WARNING", "Using cached templates due to circuit breaker open"),
        ("WARNING", "Using default templates due to circuit breaker open"),
    ]


def test_the_list_is_all_pages_or_nothing() -> None:
    async def story() -> None:
        clock = FakeClock()
        async with served(clock, templates=TWO_PAGES) as (simulator, service):
            proper, refused = Fault("delay", seconds=0, route="message_templates"), Fault("error", route="*", code=4)
            simulator.script(proper, refused)
            assert (await service.get_approved_templates()).source == "default"
            whole = await service.get_approved_templates()
            assert (whole.source, len(whole), asked(simulator)) == ("api", 120, 4)
            clock.time += HOUR
            simulator.templates.pop(0)
            simulator.script(proper, refused)
            old = await service.get_approved_templates()
            assert (old.source, old.templates) == ("cache", whole.templates)

    asyncio.run(story())


def test_many_who_ask_at_once_share_one_listing() -> None:
    async def story() -> None:
        async with served(FakeClock(), templates=TWO_PAGES) as (simulator, service):
            listings = await asyncio.gather(*(service.get_approved_templates() for _ in range(20)))
            assert {(listing.source, listing.age, len(listing)) for listing in listings} == {("api", 0.0, 120)}
            assert asked(simulator) == 2

    asyncio.run(story())


def test_the_age_counts_the_time_of_the_attempt_that_failed() -> None:
    class Slow(Stub):
        async def get_templates_page(self, after: str | None) -> TemplatePage:
            clock.time += 7.0
            return await super().get_templates_page(after)

    clock = FakeClock()
    service = service_over(Slow(SendReceipt("w"), ConnectionError()), clock, max_attempts=1)
    object.__setattr__(service._cache, "clock", clock)

    async def story() -> None:
        await service.get_approved_templates()
        clock.time += HOUR
        listing = await service.get_approved_templates()
        assert (listing.source, listing.age) == ("cache", HOUR + 7.0)

    asyncio.run(story())


def test_what_is_not_approved_is_never_listed_whatever_the_http_client_answers() -> None:
    rows = tuple(Template(status.lower(), "fr", status) for status in ("APPROVED", "PAUSED", "DISABLED", "REJECTED"))
    service = service_over(Stub(TemplatePage((*rows, Template("small", "fr", "approved")))), FakeClock())
    listing = asyncio.run(service.get_approved_templates())
    assert [template.name for template in listing] == ["approved", "small"]


# --- forgetting -----------------------------------------------------------------------------------


def test_a_forgotten_list_is_asked_for_anew_and_never_served_again(tmp_path: Path) -> None:
    file = tmp_path / "templates.json"

    async def story() -> None:
        async with served(FakeClock(), template_file=file) as (simulator, service):
            await service.get_approved_templates()
            simulator.templates.append(SimTemplate("brand_new", "fr"))
            assert ("brand_new", "fr") not in await service.get_approved_templates()
            service.forget_templates()
            listing = await service.get_approved_templates()
            assert (listing.source, asked(simulator)) == ("api", 2)
            assert ("brand_new", "fr") in listing
            service.forget_templates()
            simulator.script(Fault("error", route="message_templates", times=None))
            assert (await service.get_approved_templates()).source == "default"
        async with served(FakeClock(), template_file=file) as (simulator, service):
            assert service._cache.entry() is None, "it was forgotten in the file, too"

    asyncio.run(story())


def test_a_listing_that_is_under_way_when_it_is_forgotten_is_asked_for_again() -> None:
    class Held(Stub):
        async def get_templates_page(self, after: str | None) -> TemplatePage:
            page = await super().get_templates_page(after)
            if self.pages == 1:
                here.set()
                await go_on.wait()
            return page

    here, go_on = asyncio.Event(), asyncio.Event()
    old, new = (TemplatePage((Template(name, "fr", "APPROVED"),)) for name in ("old", "new"))
    stub = Held(old, new)
    service = service_over(stub, FakeClock())

    async def story() -> None:
        task = asyncio.ensure_future(service.get_approved_templates())
        await here.wait()
        service.forget_templates()
        go_on.set()
        for listing in (await task, await service.get_approved_templates()):
            assert [template.name for template in listing] == ["new"]
        assert stub.pages == 2

    asyncio.run(story())


def test_blocking_callers_forget_templates_too() -> None:
    with SimulatorThread() as simulator:
        http_client = graph_client(simulator.simulator)
        with WhatsAppService.blocking(ResilientWhatsAppClient(http_client)) as service:
            sources = [service.get_approved_templates().source for _ in range(2)]
            service.forget_templates()
            sources.append(service.get_approved_templates().source)
        assert sources == ["api", "cache", "api"]

"""The list of templates, what is known of each one, and what that spares: against the simulator, over real HTTP."""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from resilience_core import CircuitBreaker, ConfigurationError, Retry
from resilience_whatsapp import (
    DEFAULT_TEMPLATES,
    TEMPLATE_QUARANTINE,
    GraphClient,
    GraphTemplateError,
    MessageStatus,
    ResilientWhatsAppClient,
    SendReceipt,
    Template,
    TemplatePage,
    WhatsAppService,
)
from resilience_whatsapp.simulator import Fault, SimTemplate, Simulator, SimulatorThread
from resilience_whatsapp.templates._quarantine import Quarantine
from resilience_whatsapp.templates._store import AsideInMemory
from tests.whatsapp.fakes import RECIPIENT, FakeClock, Stub, service_over

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
        object.__setattr__(service._templates._cache, "clock", clock)
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


def test_every_list_that_is_served_while_the_circuit_is_open_is_warned_of(caplog: pytest.LogCaptureFixture) -> None:
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
    object.__setattr__(service._templates._cache, "clock", clock)

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
            assert service._templates._cache.entry() is None, "it was forgotten in the file, too"

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


# --- setting aside --------------------------------------------------------------------------------


async def refused(service: WhatsAppService, name: str = "nowhere", language: str = "fr") -> Any:
    with pytest.raises(GraphTemplateError) as caught:
        await service.send_template_message("u", RECIPIENT, name, language)
    return caught.value


def sent(simulator: Simulator) -> int:
    return simulator.book.requests["messages"]


def test_a_template_that_does_not_exist_is_asked_for_once_a_minute() -> None:
    async def story() -> None:
        clock = FakeClock()
        async with served(clock) as (simulator, service):
            first = await refused(service)
            assert (first.local, first.record.attempts, first.retry_after) == (False, 1, None)
            clock.time += 20
            second, third = await refused(service), await refused(service)
            assert sent(simulator) == 1
            assert type(second) is type(first)
            for field in ("code", "subcode", "http_status", "scope", "advice", "fbtrace_id", "error_class"):
                assert getattr(second, field) == getattr(first, field), field
            assert (second.local, second.retry_after) == (True, 40.0)
            assert (second.record.status, second.record.attempts) == (MessageStatus.REJECTED, 0)
            assert (second.record.error, first.record.error) == ("GraphTemplateError(132001)",) * 2
            assert second.record.id != third.record.id
            assert "none was made" in str(second)
            assert "none was made" not in str(first)
            await refused(service, language="en_US")
            assert sent(simulator) == 2, "another language is another template"
            clock.time += 39.9
            assert (await refused(service)).local
            clock.time += 0.2
            assert not (await refused(service)).local
            assert sent(simulator) == 3
            assert service.client.circuit_breaker.snapshot()["state"] == "closed"

    asyncio.run(story())


@pytest.mark.parametrize(("code", "seconds"), sorted(TEMPLATE_QUARANTINE.items()))
def test_each_code_sets_aside_for_its_time(code: int, seconds: float) -> None:
    async def story() -> None:
        clock = FakeClock()
        async with served(clock) as (simulator, service):
            simulator.script(Fault("error", code=code))
            assert (await refused(service, "welcome_message")).code == code
            clock.time += seconds - 0.5
            assert (await refused(service, "welcome_message")).local
            clock.time += 0.5
            record = await service.send_template_message("u", RECIPIENT, "welcome_message", "fr")
            assert record.status is MessageStatus.ACCEPTED

    asyncio.run(story())


def test_the_page_has_the_codes_and_their_times() -> None:
    page = (Path(__file__).parents[2] / "docs" / "whatsapp.md").read_text("utf-8")
    rows = re.findall(r"^\| (13\d{4}) \| [^|]+ \| (\d+) \|$", page, re.MULTILINE)
    assert {int(code): float(seconds) for code, seconds in rows} == TEMPLATE_QUARANTINE


@pytest.mark.parametrize("code", [132000, 132005, 132008, 132012, 132018])
def test_wrong_values_in_one_message_do_not_stop_the_next_one(code: int) -> None:
    async def story() -> None:
        async with served(FakeClock()) as (simulator, service):
            simulator.script(Fault("error", code=code))
            await refused(service, "welcome_message")
            await service.send_template_message("u", RECIPIENT, "welcome_message", "fr")

    asyncio.run(story())


@pytest.mark.parametrize("quarantine", [{}, {132001: 0}])
def test_it_can_be_switched_off(quarantine: dict[int, float]) -> None:
    async def story() -> None:
        async with served(FakeClock(), template_quarantine=quarantine) as (simulator, service):
            assert not (await refused(service)).local
            assert not (await refused(service)).local
            assert sent(simulator) == 2

    asyncio.run(story())


@pytest.mark.parametrize("wrong", [60.0, {"132001": 60.0}, {132001: -1}, {132001: float("inf")}, {132001: True}])
def test_a_wrong_quarantine_is_refused(wrong: Any) -> None:
    with pytest.raises(ConfigurationError, match="template_quarantine must"):
        service_over(Stub(), FakeClock(), template_quarantine=wrong)


def test_a_listing_that_shows_it_approved_or_forgetting_ends_it() -> None:
    async def story() -> None:
        async with served(FakeClock()) as (simulator, service):
            await service.get_approved_templates()
            await refused(service)
            simulator.templates.append(SimTemplate("nowhere", "fr"))
            assert (await service.get_approved_templates()).source == "cache"
            assert (await refused(service)).local, "an old list says nothing new"
            service.forget_templates()
            await service.send_template_message("u", RECIPIENT, "nowhere", "fr")

            simulator.script(Fault("error", code=132016))
            await refused(service)
            assert (await refused(service)).local
            assert len(await service.get_approved_templates()) == 7
            await service.send_template_message("u", RECIPIENT, "nowhere", "fr")

    asyncio.run(story())


def test_an_answer_of_the_time_before_forgetting_sets_nothing_aside() -> None:
    async def story() -> None:
        async with served(FakeClock()) as (simulator, service):
            simulator.script(Fault("delay", seconds=0.05))
            under_way = asyncio.ensure_future(refused(service))
            while sent(simulator) == 0:
                await asyncio.sleep(0)
            service.forget_templates()
            assert not (await under_way).local
            assert not (await refused(service)).local
            assert (await refused(service)).local

    asyncio.run(story())


def test_a_listing_releases_only_what_it_shows_and_what_was_set_aside_before_it_was_asked_for() -> None:
    clock = FakeClock()
    quarantine = Quarantine({132015: 60.0}, clock.now, AsideInMemory())
    error = GraphTemplateError(132015, None, 400, "template")
    for name in ("shown", "hidden"):
        quarantine.put((name, "fr"), error)
    asked_at = clock.now()
    clock.time += 1
    quarantine.put(("later", "fr"), error)
    quarantine.release({("shown", "fr"), ("later", "fr")}, asked_at)
    aside = [name for name in ("shown", "hidden", "later") if quarantine.error_for((name, "fr")) is not None]
    assert aside == ["hidden", "later"]


def test_at_most_a_thousand_are_set_aside_and_the_oldest_makes_room() -> None:
    quarantine = Quarantine(TEMPLATE_QUARANTINE, FakeClock().now, AsideInMemory())
    error = GraphTemplateError(132001, None, 404, "template")
    for number in range(1_000):
        quarantine.put((str(number), "fr"), error)
    quarantine.put(("0", "fr"), error)
    quarantine.put(("one more", "fr"), error)
    assert len(quarantine) == 1_000
    assert quarantine.error_for(("1", "fr")) is None
    assert quarantine.error_for(("0", "fr")) is not None


def test_setting_aside_is_logged_once_and_only_templates_are_set_aside(caplog: pytest.LogCaptureFixture) -> None:
    async def story() -> None:
        async with served(FakeClock()) as (simulator, service):
            for _ in range(3):
                await refused(service)
            simulator.script(Fault("error", code=132001))
            with pytest.raises(GraphTemplateError):
                await service.send_text("u", RECIPIENT, "hi")
            await service.send_text("u", RECIPIENT, "hi")

    with caplog.at_level(logging.WARNING, logger="resilience_whatsapp.service"):
        asyncio.run(story())
    (line,) = caplog.records
    assert (line.levelname, line.getMessage()) == ("WARNING", "Template set aside: sends of it fail at once")
    told = {"template": "nowhere", "language": "fr", "error": "GraphTemplateError(132001)", "seconds": 60.0}
    assert vars(line) | told == vars(line)


def test_blocking_callers_get_the_local_error_too() -> None:
    with SimulatorThread() as simulator:
        http_client = graph_client(simulator.simulator)
        with WhatsAppService.blocking(ResilientWhatsAppClient(http_client)) as service:
            found: list[Any] = []
            for _ in range(2):
                with pytest.raises(GraphTemplateError) as caught:
                    service.send_template_message("u", RECIPIENT, "nowhere", "fr")
                found.append((caught.value.local, caught.value.record.attempts))
            service.forget_templates()
            with pytest.raises(GraphTemplateError) as caught:
                service.send_template_message("u", RECIPIENT, "nowhere", "fr")
            assert not caught.value.local
        assert found == [(False, 1), (True, 0)]

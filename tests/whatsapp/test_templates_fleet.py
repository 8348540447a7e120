"""Templates that many processes share: through Redis with a fleet, over restarts with a file, and what webhooks say."""

from __future__ import annotations

import asyncio
import json
import logging
from pathlib import Path
from typing import Any

import pytest

from resilience_core import CircuitBreaker, ConfigurationError, Retry
from resilience_core.testing import FaultProxy
from resilience_whatsapp import (
    DEFAULT_TEMPLATES,
    GraphTemplateError,
    InvalidMessageError,
    MessageStatus,
    ResilientWhatsAppClient,
    SendReceipt,
    Template,
    TemplatePage,
    WhatsAppService,
)
from resilience_whatsapp.messages import TemplateBody, TemplateMessage
from tests._redis import HOST, RedisServer
from tests.fleet.members import PATIENCE, Fleets, wait_until
from tests.fleet.members import fleets as fleets
from tests.whatsapp.corpus import needs_corpus, samples
from tests.whatsapp.fakes import RECIPIENT, FakeClock, Stub, service_over

ACCOUNT = "102290129340398"
TWO_PLACES = [{"type": "BODY", "text": "{{1}} {{2}}", "example": {"body_text": [["Ann", "7"]]}}]
LISTED = TemplatePage((Template("order", "fr", "APPROVED", "UTILITY", TWO_PLACES),))
OK = SendReceipt("wamid.ok")


class Account(Stub):
    """The API of one business account, as each process asks it."""

    waba_id = ACCOUNT


def member(
    fleets: Fleets, *outcomes: Any, source: str | None = None, **options: Any
) -> tuple[WhatsAppService, Account]:
    """A service of a member of its own, which knows what the fleet knows."""
    fleet = fleets.member(**({} if source is None else {"source": source}))
    api = Account(*(outcomes or (LISTED,)))
    breaker, retry = CircuitBreaker("whatsapp_api"), Retry(max_attempts=1)
    service = WhatsAppService(ResilientWhatsAppClient(api, breaker, retry), fleet=fleet, **options)
    has_list(service)
    service._templates.quarantine.error_for(("joins", ""))
    if source is None:
        assert fleet.wait_ready(PATIENCE)
    return service, api


def has_list(service: WhatsAppService) -> bool:
    return service._templates._cache.entry() is not None


def listed(service: WhatsAppService) -> str:
    return asyncio.run(service.get_approved_templates()).source


def send(service: WhatsAppService, name: str = "order") -> Any:
    """The error of a send, or None."""
    try:
        asyncio.run(service.send_template_message("u", RECIPIENT, name, "fr", components=[TemplateBody(["1", "2"])]))
    except GraphTemplateError as error:
        return error
    return None


def test_one_member_fetches_and_the_others_use_its_list(fleets: Fleets) -> None:
    first, first_api = member(fleets)
    second, second_api = member(fleets)
    assert listed(first) == "api"
    wait_until(lambda: has_list(second))
    found = asyncio.run(second.get_approved_templates())
    assert (found.source, [template.name for template in found]) == ("cache", ["order"])
    assert found.age is not None
    assert found.age >= 0
    newcomer, newcomer_api = member(fleets)
    assert listed(newcomer) == "cache"
    assert (first_api.pages, second_api.pages, newcomer_api.pages) == (1, 0, 0)
    assert second._templates._cache.snapshot()["entries"] == 1
    with pytest.raises(InvalidMessageError, match="takes 2 parameters, 1 given"):
        asyncio.run(second.send("u", RECIPIENT, TemplateMessage("order", "fr", [TemplateBody(["7"])])))


def test_a_newcomer_waits_for_what_the_fleet_knows_and_does_not_ask_the_api(fleets: Fleets) -> None:
    first, _ = member(fleets)
    listed(first)
    assert first._templates._store._shared is not None
    assert first._templates._store._shared.fleet.flush(PATIENCE)
    api = Account(LISTED)
    newcomer = WhatsAppService(ResilientWhatsAppClient(api), fleet=fleets.member())
    assert listed(newcomer) == "cache", "its very first call"
    assert api.pages == 0


def test_many_members_that_ask_at_once_fetch_once_when_one_of_them_was_first(fleets: Fleets) -> None:
    class Slow(Account):
        async def get_templates_page(self, after: str | None) -> TemplatePage:
            page = await super().get_templates_page(after)
            fetching.set()
            await go_on.wait()
            return page

    fetching, go_on = asyncio.Event(), asyncio.Event()
    others = [member(fleets) for _ in range(3)]
    slow = Slow(LISTED)
    first = WhatsAppService(ResilientWhatsAppClient(slow), fleet=fleets.member())

    def told(service: WhatsAppService) -> bool:
        shared = service._templates._store._shared
        return shared is not None and shared.get("fetching") is not None

    async def story() -> list[str]:
        fetch = asyncio.create_task(first.get_approved_templates())
        await fetching.wait()
        while not all(told(service) for service, _ in others):
            await asyncio.sleep(0.002)
        asking = [asyncio.create_task(service.get_approved_templates()) for service, _ in others]
        await asyncio.sleep(0.01)
        assert not any(task.done() for task in asking)
        go_on.set()
        return [listing.source for listing in await asyncio.gather(fetch, *asking)]

    assert asyncio.run(story()) == ["api", "cache", "cache", "cache"]
    assert [api.pages for _, api in others] == [0, 0, 0]


def test_a_fetch_that_fails_or_is_cancelled_lets_the_others_try_at_once(fleets: Fleets) -> None:
    first, _ = member(fleets, ConnectionError())
    second, second_api = member(fleets)
    assert listed(first) == "default"
    assert listed(second) == "api"
    assert second_api.pages == 1
    wait_until(lambda: has_list(first))
    assert listed(first) == "cache"


def test_a_member_that_died_while_it_fetched_is_waited_for_only_so_long(fleets: Fleets) -> None:
    first, first_api = member(fleets)
    shared = first._templates._store._shared
    assert shared is not None
    shared.set("fetching", "somebody who is gone", shared.clock.wall() - 15)
    assert listed(first) == "api"
    assert first_api.pages == 1


def test_what_one_member_forgets_all_forget(fleets: Fleets, tmp_path: Path) -> None:
    first, _ = member(fleets)
    second, second_api = member(fleets, template_file=tmp_path / "templates.json")
    assert listed(second) == "api"
    wait_until(lambda: has_list(first))
    first.forget_templates()
    wait_until(lambda: not has_list(second))
    wait_until(lambda: "order" not in (tmp_path / "templates.json").read_text())
    assert listed(second) == "api"
    assert second_api.pages == 2


def test_a_list_that_was_fetched_before_others_forgot_is_asked_for_again(fleets: Fleets) -> None:
    class Held(Account):
        async def get_templates_page(self, after: str | None) -> TemplatePage:
            page = await super().get_templates_page(after)
            if self.pages == 1:
                era = service._templates.era
                other.forget_templates()
                while service._templates.era is era:
                    await asyncio.sleep(0.002)
            return page

    old, new = (TemplatePage((Template(name, "fr", "APPROVED"),)) for name in ("old", "new"))
    other, _ = member(fleets)
    listed(other)
    api = Held(old, new)
    service = WhatsAppService(ResilientWhatsAppClient(api), fleet=fleets.member(), templates_fresh_for=0.0)
    found = asyncio.run(service.get_approved_templates())
    assert [template.name for template in found] == ["new"]
    wait_until(lambda: has_list(other))
    assert [template.name for template in asyncio.run(other.get_approved_templates())] == ["new"]


def test_what_one_member_sets_aside_all_set_aside_and_a_listing_of_any_ends_it(fleets: Fleets) -> None:
    paused = GraphTemplateError(132015, None, 400, "template", None, "Az8or2yhqkZfEZ")
    first, _ = member(fleets, paused, LISTED)
    second, second_api = member(fleets)
    error = send(first)
    assert (error.code, error.local) == (132015, False)
    wait_until(lambda: len(second._templates.quarantine) == 1)
    told = send(second)
    assert (told.code, told.local, told.http_status, told.fbtrace_id) == (132015, True, 400, "Az8or2yhqkZfEZ")
    assert 0 < told.retry_after <= 300
    assert told.record.status is MessageStatus.REJECTED
    assert second_api.payloads == []
    newcomer, _ = member(fleets)
    assert send(newcomer).local
    assert listed(second) == "api"
    wait_until(lambda: len(first._templates.quarantine) == len(newcomer._templates.quarantine) == 0)
    assert send(first) is send(second) is send(newcomer) is None


def test_each_member_s_own_seconds_count(fleets: Fleets) -> None:
    first, _ = member(fleets, GraphTemplateError(132015, None, 400, "template"))
    careless, _ = member(fleets, OK, template_quarantine={})
    send(first)
    wait_until(lambda: len(careless._templates.quarantine) == 1)
    assert send(careless) is None


def test_accounts_share_nothing_and_redis_has_neither_samples_nor_numbers(fleets: Fleets) -> None:
    buttons = {"type": "BUTTONS", "buttons": [{"type": "PHONE_NUMBER", "phone_number": "+15550783881"}]}
    with_number = Template("order", "fr", "APPROVED", "UTILITY", [*TWO_PLACES, buttons])
    first, _ = member(fleets, TemplatePage((with_number,)))

    class Other(Account):
        waba_id = "57438975935"

    api = Other(LISTED)
    other = WhatsAppService(ResilientWhatsAppClient(api), fleet=fleets.member())
    asyncio.run(first.get_approved_templates())
    send(first)
    assert listed(other) == "api"
    wait_until(lambda: len(fleets.written()) == 4)
    keys = fleets.written()
    assert all(f"{{{fleets.prefix}shared_store:whatsapp_templates." in key for key in keys), keys
    content = "".join(str(fleets.client.hgetall(key)) for key in keys)
    assert "order" in content
    for private in ("15550783881", "Ann", RECIPIENT.lstrip("+")):
        assert private not in content


@pytest.mark.parametrize(
    "poison",
    [
        5,
        [{"name": "x"}],
        [{"name": "x", "language": "fr", "status": "PAUSED"}],
        [{"name": "x", "language": "fr", "status": "APPROVED", "components": "text"}],
        [{"name": "x", "language": 5, "status": "APPROVED"}],
        [{"name": "x" * 513, "language": "fr", "status": "APPROVED"}],
        [{"name": "x", "language": "fr", "status": "APPROVED", "category": 5}],
    ],
)
def test_a_poisoned_list_is_ignored_and_told(fleets: Fleets, caplog: pytest.LogCaptureFixture, poison: Any) -> None:
    first, api = member(fleets)
    shared = first._templates._store._shared
    assert shared is not None
    shared.encode = lambda value: poison
    shared.set("'approved'", None, shared.clock.wall())
    assert shared.fleet.flush(PATIENCE)
    second, api = member(fleets)
    assert "entries that cannot be read: 1" in caplog.text
    assert listed(second) == "api"
    assert api.pages == 1


@pytest.mark.parametrize(
    "poison",
    [
        "text",
        {},
        {"code": "132015", "subcode": None, "http_status": 400, "scope": "template", "fbtrace_id": None},
        {"code": 132015, "subcode": None, "http_status": 400, "scope": "t" * 257, "fbtrace_id": None},
        {"code": 132015, "subcode": None, "http_status": 400, "scope": None, "fbtrace_id": None},
        {"code": 1, "subcode": None, "http_status": 400, "scope": "template", "fbtrace_id": None},
    ],
)
def test_a_poisoned_error_sets_nothing_aside(fleets: Fleets, poison: Any) -> None:
    service, _ = member(fleets, OK)
    service._templates.quarantine._kept.set(json.dumps(["order", "fr"]), poison, service._templates._now())
    assert len(service._templates.quarantine) == 1
    assert send(service) is None


def test_without_redis_each_member_goes_on_by_itself_and_says_so_once(
    fleets: Fleets, redis_server: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    with FaultProxy((HOST, redis_server.port)) as proxy:
        proxy.refuse()
        alone, api = member(fleets, source=f"redis://{HOST}:{proxy.port}/0")
        assert [listed(alone), listed(alone)] == ["api", "cache"]
        assert send(alone) is None
        alone.forget_templates()
        assert listed(alone) == "api"
        assert api.pages == 2
        told = [record for record in caplog.records if "resilience.store.degraded" in str(vars(record))]
        assert len(told) == 1
        proxy.heal()
        fleet = alone._templates._store._shared.fleet  # type: ignore[union-attr]
        assert fleet.wait_ready(PATIENCE)
        assert fleet.flush(PATIENCE)
    newcomer, newcomer_api = member(fleets)
    assert listed(newcomer) == "cache", "what it fetched alone is everybody's now"
    assert newcomer_api.pages == 0


def test_a_send_never_asks_redis(fleets: Fleets) -> None:
    service, _ = member(fleets)
    listed(service)
    fleet = service._templates._store._shared.fleet  # type: ignore[union-attr]
    assert fleet.flush(PATIENCE)
    before = fleet.snapshot()["commands"]

    async def story() -> None:
        for _ in range(300):
            await service.send_template_message("u", RECIPIENT, "order", "fr", components=[TemplateBody(["1", "2"])])

    asyncio.run(story())
    assert fleet.snapshot()["commands"] - before < 30, "but for its looks at two keys every 0.5 s"


def test_with_a_fleet_the_file_is_for_a_start_without_redis(
    fleets: Fleets, redis_server: RedisServer, tmp_path: Path
) -> None:
    file = tmp_path / "templates.json"
    first, _ = member(fleets, template_file=file)
    listed(first)
    with FaultProxy((HOST, redis_server.port)) as proxy:
        proxy.refuse()
        restarted, api = member(fleets, source=f"redis://{HOST}:{proxy.port}/0", template_file=file)
        assert listed(restarted) == "cache"
        assert api.pages == 0


# --- over restarts, with a file -------------------------------------------------------------------


def aside(file: Path, clock: FakeClock, *outcomes: Any) -> WhatsAppService:
    """A process that keeps it in the file."""
    service = service_over(Stub(*outcomes), clock, max_attempts=1, template_file=file)
    object.__setattr__(service._templates._cache, "clock", clock)
    return service


def test_what_is_set_aside_outlives_the_process_in_the_template_file(tmp_path: Path) -> None:
    file, clock = tmp_path / "templates.json", FakeClock()
    first = aside(file, clock, LISTED, GraphTemplateError(132015, 7, 400, "template", None, "trace"))
    asyncio.run(first.get_approved_templates())
    assert not send(first).local
    clock.time += 100
    again = aside(file, clock, OK)
    error = send(again)
    assert (error.code, error.subcode, error.local, error.retry_after) == (132015, 7, True, 200.0)
    assert listed(again) == "cache", "the list is in the same file"
    clock.time += 200
    assert send(again) is None
    later = aside(file, clock, OK)
    later.forget_templates()
    assert len(aside(file, clock, OK)._templates.quarantine) == 0


def test_a_clock_that_was_set_back_sets_nothing_aside_for_longer(tmp_path: Path) -> None:
    file, clock = tmp_path / "templates.json", FakeClock()
    send(aside(file, clock, GraphTemplateError(132015, None, 400, "template")))
    clock.time -= 500
    assert send(aside(file, clock, OK)) is None


@pytest.mark.parametrize(
    "entries",
    [
        {"set aside": [[], 1]},
        {"set aside": [{"x": 5, "y": [1], "z": [1, "now"]}, 1]},
        {"'approved'": [{"no": "list"}, 1]},
        {"'approved'": [5, 1]},
    ],
)
def test_a_file_with_anything_else_is_of_no_use_and_does_no_harm(tmp_path: Path, entries: Any) -> None:
    file = tmp_path / "templates.json"
    file.write_text(json.dumps({"version": 1, "entries": entries}))
    service = aside(file, FakeClock(), LISTED, OK)
    assert not has_list(service)
    assert len(service._templates.quarantine) == 0
    assert listed(service) == "api"


def test_a_list_of_a_file_of_before_is_read(tmp_path: Path) -> None:
    file, clock = tmp_path / "templates.json", FakeClock()
    rows: list[Any] = [{"name": "order", "language": "fr", "status": "APPROVED", "category": None, "components": []}]
    file.write_text(json.dumps({"version": 1, "entries": {"'approved'": [rows, clock.time]}}))
    assert listed(aside(file, clock, OK)) == "cache"


# --- what webhooks tell ---------------------------------------------------------------------------

STATUS = "message_template_status_update"


def told(service: WhatsAppService, topic: str, event: str | None = None, language: str | None = "fr") -> bool:
    return service.handle_template_update(topic, name="order", language=language, event=event)


@pytest.mark.parametrize(
    "topic",
    [
        STATUS,
        "message_template_components_update",
        "message_template_quality_update",
        "template_category_update",
    ],
)
def test_a_webhook_about_a_template_makes_the_list_forgotten(topic: str) -> None:
    stub = Stub(LISTED)
    service = service_over(stub, FakeClock())
    listed(service)
    assert told(service, topic)
    assert service.handle_template_update(topic), "also when it does not say which one"
    assert listed(service) == "api"
    assert stub.pages == 2
    for other in ("messages", "account_update"):
        assert not service.handle_template_update(other, name="order", language="fr")
    assert listed(service) == "cache"


@pytest.mark.parametrize(("event", "code"), [("PAUSED", 132015), ("disabled", 132016)])
def test_a_webhook_sets_a_template_aside_and_another_one_ends_it(
    event: str, code: int, caplog: pytest.LogCaptureFixture
) -> None:
    stub = Stub(OK)
    service = service_over(stub, FakeClock())
    with caplog.at_level(logging.WARNING, logger="resilience_whatsapp.service"):
        assert told(service, STATUS, event)
    assert [record.getMessage() for record in caplog.records] == ["Template set aside: sends of it fail at once"]
    error = send(service)
    assert (error.code, error.local, error.record.attempts) == (code, True, 0)
    assert send(service, "another") is None
    told(service, "message_template_quality_update", "YELLOW")
    told(service, "template_category_update", "MARKETING")
    assert send(service).local, "neither makes it usable"
    told(service, STATUS, "APPROVED")
    assert send(service) is None
    told(service, STATUS, event)
    told(service, "message_template_components_update")
    assert send(service) is None, "it was edited: the API will say"


def test_a_webhook_s_way_to_write_a_language_is_understood() -> None:
    service = service_over(Stub(OK), FakeClock())
    service.handle_template_update(STATUS, name="order", language="en-US", event="PAUSED")
    with pytest.raises(GraphTemplateError):
        asyncio.run(service.send_template_message("u", RECIPIENT, "order", "en_US"))


def test_what_a_webhook_tells_one_member_all_know(fleets: Fleets) -> None:
    first, _ = member(fleets)
    second, _ = member(fleets)
    listed(first)
    wait_until(lambda: has_list(second))
    told(first, STATUS, "PAUSED")
    wait_until(lambda: not has_list(second) and len(second._templates.quarantine) == 1)
    assert send(second).local


def test_blocking_callers_take_webhooks_too() -> None:
    client = ResilientWhatsAppClient(Stub(OK))
    with WhatsAppService.blocking(client) as service:
        assert service.handle_template_update(STATUS, name="order", language="fr", event="PAUSED")
        with pytest.raises(GraphTemplateError):
            service.send_template_message("u", RECIPIENT, "order", "fr")
        assert service.get_approved_templates().templates != DEFAULT_TEMPLATES


@needs_corpus
@pytest.mark.parametrize("what", ["status", "components", "quality", "category"])
def test_the_samples_are_taken(what: str) -> None:
    service = service_over(Stub(OK), FakeClock())
    entries = [entry for sample in samples(f"webhook.template_{what}") for entry in sample.content["entry"]]
    assert entries
    for entry in entries:
        for change in entry["changes"]:
            value = change["value"]
            assert service.handle_template_update(
                change["field"],
                name=value["message_template_name"],
                language=value["message_template_language"],
                event=value.get("event"),
            )


@pytest.mark.parametrize("account", [None, 5])
def test_accounts_that_are_not_known_share_nothing(account: Any, fleets: Fleets) -> None:
    api = Stub(OK)
    api.waba_id = account  # type: ignore[attr-defined]
    for client in (api, Stub(OK)):
        with pytest.raises(ConfigurationError, match="with a fleet the http_client must have a waba_id"):
            WhatsAppService(ResilientWhatsAppClient(client), fleet=fleets.member())

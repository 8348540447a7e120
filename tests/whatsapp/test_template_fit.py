"""Parameters are compared with the listed template before a send: what surely would be refused is not sent."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from resilience_whatsapp import DEFAULT_TEMPLATES, GraphTemplateError, InvalidMessageError, WhatsAppService
from resilience_whatsapp.messages import (
    Image,
    MediaParameter,
    TemplateBody,
    TemplateButton,
    TemplateHeader,
    TemplateMessage,
    TextParameter,
)
from resilience_whatsapp.simulator import Fault, SimTemplate, Simulator
from resilience_whatsapp.templates._fit import check_fit
from tests.whatsapp.fakes import RECIPIENT, FakeClock
from tests.whatsapp.test_templates import HOUR, asked, sent, served

COMPONENTS: list[Any] = [
    {"type": "HEADER", "format": "IMAGE"},
    {"type": "BODY", "text": "Hello {{customer}}, on {{ day }}, {{customer}}!"},
    {"type": "FOOTER", "text": "no {{1}} here"},
    {
        "type": "BUTTONS",
        "buttons": [
            {"type": "QUICK_REPLY", "text": "Yes"},
            {"type": "URL", "text": "Track", "url": "https://example.org/{{1}}"},
            {"type": "URL", "text": "Home", "url": "https://example.org/"},
        ],
    },
]
LISTED = {"name": "rich", "language": "fr", "status": "APPROVED", "category": "UTILITY", "components": COMPONENTS}
HEADER = TemplateHeader([MediaParameter(Image(link="https://example.org/a.jpg"))])
BODY = TemplateBody([TextParameter("Ann", name="customer"), TextParameter("Monday", name="day")])
LINK = TemplateButton("url", 1, ["42"])


async def send(service: WhatsAppService, name: str, *components: Any, language: str = "fr") -> None:
    await service.send_template_message("u", RECIPIENT, name, language, components=components)


def body(*texts: str) -> dict[str, Any]:
    """A body in the API's own form."""
    return {"type": "body", "parameters": [{"type": "text", "text": text} for text in texts]}


@pytest.mark.parametrize(
    ("components", "told"),
    [
        ((BODY, LINK), "the template's header takes 1 parameter, 0 given"),
        ((HEADER, LINK), "the template's body takes 2 parameters, 0 given"),
        ((HEADER, TemplateBody(["secret"]), LINK), "the template's body takes 2 parameters, 1 given"),
        ((HEADER, body("a", "b", "secret"), LINK), "the template's body takes 2 parameters, 3 given"),
        (
            (HEADER, TemplateBody([TextParameter("a", name="customer"), TextParameter("b", name="secret")]), LINK),
            "body has named parameters, and none is given for day; give each TextParameter its name",
        ),
        ((HEADER, TemplateBody(["a", "secret"]), LINK), "and none is given for customer, day;"),
        ((HEADER, BODY), r"button 1 \(a link\) takes 1 parameter, 0 given"),
        (
            (HEADER, BODY, LINK, TemplateButton("url", 2, ["secret"])),
            r"button 2 \(a link\) takes 0 parameters, 1 given",
        ),
        (
            (HEADER, BODY, LINK, TemplateButton("url", 3, ["secret"])),
            "the template has 3 buttons, counted from 0; 2 given, 1 of them beyond the last one",
        ),
    ],
)
def test_what_does_not_fit_is_refused_before_any_request(components: Any, told: str) -> None:
    async def story() -> None:
        async with served(FakeClock()) as (simulator, service):
            simulator.script(Fault("json", route="message_templates", status=200, body={"data": [LISTED]}))
            await service.get_approved_templates()
            with pytest.raises(InvalidMessageError, match=told) as caught:
                await send(service, "rich", *components)
            assert "secret" not in str(caught.value)
            assert sent(simulator) == 0

    asyncio.run(story())


def test_what_fits_is_sent() -> None:
    async def story() -> None:
        async with served(FakeClock()) as (simulator, service):
            await service.get_approved_templates()
            await send(service, "welcome_message")
            await send(service, "order_confirmation", TemplateBody(["7", "Monday"]))
            await send(service, "order_confirmation", body("7", "Monday"))
            assert len(simulator.book.entries) == 3

    asyncio.run(story())
    check_fit(TemplateMessage("rich", "fr", [HEADER, BODY, LINK]).content()["components"], COMPONENTS)


def test_a_stale_list_is_good_enough_and_none_is_asked_for() -> None:
    async def count(simulator: Simulator, service: WhatsAppService) -> tuple[int, int]:
        """Requests to send that a wrong message makes (the API refuses it, as ever), and listings."""
        before = sent(simulator)
        with pytest.raises(Exception, match=r"132000|takes 2 parameters"):
            await send(service, "order_confirmation", body("7"))
        return sent(simulator) - before, asked(simulator)

    async def story() -> list[tuple[int, int]]:
        clock, found = FakeClock(), []
        async with served(clock) as (simulator, service):
            found.append(await count(simulator, service))
            await service.get_approved_templates()
            for passed in (0.0, 24 * HOUR - 1, 1.0):
                clock.time += passed
                found.append(await count(simulator, service))
        async with served(clock, validate_templates=False) as (simulator, service):
            await service.get_approved_templates()
            found.append(await count(simulator, service))
        return found

    assert asyncio.run(story()) == [(1, 0), (0, 1), (0, 1), (1, 1), (1, 1)]


def test_a_template_that_is_not_listed_is_for_the_api_to_judge() -> None:
    async def story() -> None:
        async with served(FakeClock()) as (simulator, service):
            await service.get_approved_templates()
            with pytest.raises(Exception, match="132001"):
                await send(service, "order_confirmation", body("7"), language="de")
            assert sent(simulator) == 1

    asyncio.run(story())


def test_a_list_that_the_api_contradicts_refuses_no_more() -> None:
    """The template is edited after it was listed: its old form fails once, and then its new form is sent."""

    async def story() -> None:
        async with served(FakeClock()) as (simulator, service):
            await service.get_approved_templates()
            simulator.templates[:] = [SimTemplate("order_confirmation", "fr", parameters=3)]
            with pytest.raises(InvalidMessageError):
                await send(service, "order_confirmation", body("7", "Monday", "noon"))
            with pytest.raises(GraphTemplateError, match="132000"):
                await send(service, "order_confirmation", body("7", "Monday"))
            await send(service, "order_confirmation", body("7", "Monday", "noon"))
            assert len(await service.get_approved_templates()) == 6, "it is still listed"

    asyncio.run(story())


def test_the_built_in_templates_refuse_nothing() -> None:
    async def story() -> None:
        async with served(FakeClock()) as (simulator, service):
            simulator.script(Fault("error", route="message_templates"))
            assert (await service.get_approved_templates()).templates == DEFAULT_TEMPLATES
            await send(service, "order_confirmation", body("7", "Monday"))

    asyncio.run(story())


@pytest.mark.parametrize(
    ("given", "listed"),
    [
        ([body("a")], []),
        ([body("a")], [{"type": "FOOTER", "text": "x"}]),
        ([body("a")], [{"type": "BODY"}]),
        ([body("a")], ["BODY"]),
        ([body("a")], [{"type": 7}]),
        ([{"type": "body", "parameters": None}], COMPONENTS),
        ([{"type": None}], COMPONENTS),
        ([{"type": "header", "parameters": [{}]}], [{"type": "HEADER", "format": "PRODUCT"}]),
        ([{"type": "header", "parameters": [{}]}], [{"type": "HEADER", "format": ["IMAGE"]}]),
        ([{"type": "button", "parameters": []}], [{"type": "BUTTONS", "buttons": [{"type": "URL", "url": "{{1}}"}]}]),
        ([{"type": "button", "index": "0"}], [{"type": "BUTTONS", "buttons": 3}]),
        ([{"type": "button", "index": "0"}], [{"type": "BUTTONS", "buttons": ["URL", {"type": "URL", "url": None}]}]),
        ([{"type": "button", "index": 0}], [{"type": "buttons", "buttons": [{"type": "URL", "url": "x"}]}]),
    ],
)
def test_what_is_not_understood_is_for_the_api_to_judge(given: Any, listed: Any) -> None:
    check_fit(given, listed)


@pytest.mark.parametrize(
    ("given", "listed", "told"),
    [
        ([{"type": "header", "parameters": [{}]}], [{"type": "BODY", "text": "x"}], "header takes 0 parameters, 1"),
        ([], [{"type": "HEADER", "format": "TEXT", "text": "Hi {{1}}"}], "header takes 1 parameter, 0 given"),
        ([{"type": "button", "index": 0}], [{"type": "BODY", "text": "x"}], "has 0 buttons"),
        ([{"type": "body", "parameters": [7]}], [{"type": "BODY", "text": "{{name}}"}], "none is given for name"),
    ],
)
def test_other_shapes_that_do_not_fit(given: Any, listed: Any, told: str) -> None:
    with pytest.raises(InvalidMessageError, match=told):
        check_fit(given, listed)


def test_a_message_is_written_as_json_once_although_it_is_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[TemplateMessage] = []
    content = TemplateMessage.content

    def counted(message: TemplateMessage) -> dict[str, Any]:
        written.append(message)
        return content(message)

    async def story() -> None:
        async with served(FakeClock()) as (_, service):
            await service.get_approved_templates()
            monkeypatch.setattr(TemplateMessage, "content", counted)
            await send(service, "order_confirmation", body("1234", "lundi"))

    asyncio.run(story())
    assert len(written) == 1

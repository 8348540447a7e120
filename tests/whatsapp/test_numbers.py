"""Several numbers and tokens in one process, what is asked of them, and the management of templates."""

from __future__ import annotations

import asyncio
import itertools
import warnings
from typing import Any

import aiohttp
import pytest

from resilience_core import CircuitOpenError, CircuitState, registry
from resilience_core.testing import record_telemetry
from resilience_whatsapp import (
    AmbiguousOutcomeError,
    GraphClient,
    GraphTemplateError,
    InvalidMessageError,
    MessageStatus,
    ResilientWhatsAppClient,
    Settings,
    WhatsAppService,
)
from resilience_whatsapp._envelope import read_created
from resilience_whatsapp.messages import (
    BodyDefinition,
    ButtonDefinition,
    ButtonsDefinition,
    FooterDefinition,
    HeaderDefinition,
    RawComponent,
    TemplateDefinition,
)
from resilience_whatsapp.simulator import Fault, Simulator
from tests.whatsapp.corpus import Sample, samples
from tests.whatsapp.fakes import RECIPIENT

SETTINGS = Settings(failure_threshold=2, base_delay=0.001, max_delay=0.001)


def graph_of(simulator: Simulator, **options: Any) -> GraphClient:
    known: dict[str, Any] = {
        "token": simulator.token,
        "phone_number_id": simulator.phone_number_id,
        "waba_id": simulator.waba_id,
        "base_url": simulator.base_url,
    }
    return GraphClient(**(known | options))


def service_of(http: GraphClient, name: str = "whatsapp", **options: Any) -> WhatsAppService:
    client = ResilientWhatsAppClient(
        http,
        SETTINGS.circuit_breaker(f"{name}_api"),
        SETTINGS.retry_policy(f"{name}_retry"),
        name=name,
        **options,
    )
    return WhatsAppService(client)


def second_number(simulator: Simulator) -> str:
    return str(simulator.world.add_number(simulator.world.accounts[simulator.waba_id]).id)


# --- several numbers --------------------------------------------------------------------------------


def test_numbers_in_one_process_share_a_session_and_nothing_else() -> None:
    async def story() -> None:
        async with Simulator() as simulator, aiohttp.ClientSession() as session:
            numbers = {"sales": simulator.phone_number_id, "support": second_number(simulator)}
            services = {
                name: service_of(graph_of(simulator, phone_number_id=number, session=session), name)
                for name, number in numbers.items()
            }
            with record_telemetry() as recorded:
                for name, service in services.items():
                    await service.send_text("u", RECIPIENT, name)
                simulator.script(Fault("error", code=131000, status=500, times=2))
                with pytest.raises(CircuitOpenError):
                    await services["sales"].send_text("u", RECIPIENT, "hi")
                await services["support"].send_text("u", RECIPIENT, "hi")
            assert services["sales"].client.circuit_breaker.state is CircuitState.OPEN
            assert services["support"].client.circuit_breaker.state is CircuitState.CLOSED
            assert [entry.phone_number_id for entry in simulator.book.entries] == [
                numbers["sales"],
                numbers["support"],
                numbers["support"],
            ]
            for name in services:
                assert registry.get(f"{name}_api", "circuit_breaker").snapshot()
            spans = [dict(span.attributes or {}) for span in recorded.spans_named("resilience sales")]
            assert [span["whatsapp.phone_number_id"] for span in spans] == [numbers["sales"]] * len(spans)
            assert len(recorded.spans_named("resilience support")) == 2

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        asyncio.run(story())


def test_each_number_has_its_token_and_its_opaque_ids() -> None:
    async def story() -> None:
        async with Simulator() as simulator:
            simulator.world.add_token("other-token")
            first = service_of(graph_of(simulator), "first")
            second = service_of(graph_of(simulator, token="other-token", phone_number_id=second_number(simulator)), "b")
            async with first, second:
                records = await asyncio.gather(
                    *(each.send_text("u", f"+336{index:08d}", "hi") for index in range(10) for each in (first, second))
                )
            assert {record.status for record in records} == {MessageStatus.ACCEPTED}
            assert len({entry.opaque for entry in simulator.book.entries}) == 20

    asyncio.run(story())


@pytest.mark.parametrize("asynchronous", [False, True])
def test_a_new_token_is_used_by_the_next_attempt(asynchronous: bool) -> None:
    async def story() -> None:
        async with Simulator() as simulator:
            current = [simulator.token]
            asked = itertools.count()

            async def later() -> str:
                next(asked)
                return current[0]

            def now() -> str:
                next(asked)
                return current[0]

            http = graph_of(simulator, token=later if asynchronous else now)
            async with service_of(http) as service:
                await service.send_text("u", RECIPIENT, "hi")
                # The first attempt fails; before the second, the old token is gone and there is a new one.
                simulator.script(Fault("delay", seconds=0.05), Fault("error", code=131000, status=500))
                first = asyncio.ensure_future(service.send_text("u", RECIPIENT, "hi"))
                await asyncio.sleep(0)
                simulator.world.add_token("new-token")
                current[0] = "new-token"
                second = await service.send_text("u", RECIPIENT, "hi")
                del simulator.world.tokens[simulator.token]
                third = await service.send_text("u", RECIPIENT, "hi")
                assert {(await first).status, second.status, third.status} == {MessageStatus.ACCEPTED}
                assert next(asked) >= 5  # once for each request

    asyncio.run(story())


def test_tokens_that_rotate_under_load_refuse_nothing() -> None:
    async def story() -> None:
        async with Simulator() as simulator:
            current = [simulator.token]
            async with service_of(graph_of(simulator, token=lambda: current[0])) as service:

                async def rotate() -> None:
                    for number in range(5):
                        await asyncio.sleep(0.005)
                        simulator.world.add_token(f"token-{number}")
                        current[0] = f"token-{number}"

                rotating = asyncio.ensure_future(rotate())
                records = []
                for wave in range(10):
                    sends = (service.send_text("u", f"+336{wave:04d}{each:04d}", "hi") for each in range(10))
                    records += await asyncio.gather(*sends)
                await rotating
                assert {(record.status, record.attempts) for record in records} == {(MessageStatus.ACCEPTED, 1)}

    asyncio.run(story())


# --- status -----------------------------------------------------------------------------------------


def test_number_and_account_tell_their_status_while_the_circuit_is_open_and_after_a_failure() -> None:
    async def story() -> None:
        async with Simulator() as simulator, service_of(graph_of(simulator)) as service:
            service.client.circuit_breaker.force_open()
            simulator.script(Fault("error", route="*", code=131000, status=500, times=2))
            status = await service.get_number_status()
            assert status.id == simulator.phone_number_id
            assert status.health is not None
            assert not status.health.blocked
            assert (await service.get_account_health()).can_send_message == "AVAILABLE"
            simulator.script(Fault("html", route="*", times=None))
            for _ in range(4):
                with pytest.raises(AmbiguousOutcomeError):
                    await service.get_account_health()
            simulator.clear_faults()
            service.client.circuit_breaker.reset()
            assert (await service.send_text("u", RECIPIENT, "hi")).wamid

    asyncio.run(story())


# --- templates --------------------------------------------------------------------------------------

NEW = TemplateDefinition(
    "parcel_here",
    "fr",
    "UTILITY",
    [
        HeaderDefinition("TEXT", "Colis"),
        BodyDefinition("Bonjour {{1}}, votre colis est ici.", example={"body_text": [["Ann"]]}),
        FooterDefinition("A bientôt"),
        ButtonsDefinition([ButtonDefinition("QUICK_REPLY", "Oui")]),
    ],
)


def test_a_new_template_is_filed_and_the_list_is_asked_for_anew() -> None:
    async def story() -> None:
        async with Simulator() as simulator, service_of(graph_of(simulator)) as service:
            await service.get_approved_templates()
            receipt = await service.create_template(NEW)
            assert receipt.id
            assert receipt.category == "UTILITY"
            assert (await service.get_approved_templates()).source == "api"
            await service.delete_template("welcome_message")
            listing = await service.get_approved_templates()
            assert listing.source == "api"
            assert ("welcome_message", "fr") not in listing
            with pytest.raises(GraphTemplateError):
                await service.send_template_message("u", RECIPIENT, "welcome_message", "fr")
            assert (await service.get_approved_templates()).source == "cache"
            await service.delete_template("parcel_here", template_id=receipt.id)

    asyncio.run(story())


def test_a_template_is_not_filed_again_after_an_unknown_outcome() -> None:
    async def story() -> None:
        async with Simulator() as simulator, service_of(graph_of(simulator)) as service:
            simulator.script(Fault("html", route="*"))
            with pytest.raises(AmbiguousOutcomeError):
                await service.create_template(NEW)
            simulator.script(Fault("html", route="*"))
            with pytest.raises(AmbiguousOutcomeError):
                await service.delete_template("parcel_here")
            assert sum(simulator.book.requests.values()) == 2
            service.client.circuit_breaker.reset()
            simulator.script(Fault("error", route="*", code=131000, status=500))
            assert (await service.create_template(NEW)).id  # this one was surely not filed

    asyncio.run(story())


ODD: Any = {1}


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (lambda: TemplateDefinition("A b", "fr", "UTILITY", [BodyDefinition("a")]), "TemplateDefinition.name"),
        (lambda: TemplateDefinition("a", "", "UTILITY", [BodyDefinition("a")]), "TemplateDefinition.language"),
        (lambda: TemplateDefinition("a", "fr", "utility", [BodyDefinition("a")]), "TemplateDefinition.category"),
        (lambda: TemplateDefinition("a", "fr", "UTILITY", []), "TemplateDefinition.components"),
        (lambda: TemplateDefinition("a", "fr", "UTILITY", [BodyDefinition("a")] * 2), "once only"),
        (lambda: TemplateDefinition("a", "fr", "UTILITY", [5]), "TemplateDefinition.components"),
        (lambda: HeaderDefinition("TEXT"), "HeaderDefinition.text"),
        (lambda: HeaderDefinition("IMAGE", "a"), "HeaderDefinition.text"),
        (lambda: HeaderDefinition("CIRCUS"), "HeaderDefinition.format"),
        (FooterDefinition, "either text or code_expiration_minutes"),
        (lambda: FooterDefinition("a", code_expiration_minutes=5), "either text or code_expiration_minutes"),
        (lambda: ButtonDefinition("quick"), "ButtonDefinition.type"),
        (lambda: ButtonDefinition("URL", "a", example=ODD), "ButtonDefinition.example"),
        (lambda: ButtonDefinition("URL", "a", example=[ODD]), "ButtonDefinition.example"),
        (lambda: TemplateDefinition.from_payload({"name": "a"}), "TemplateDefinition.language is missing"),
        (lambda: TemplateDefinition.from_payload(5), "must be an object"),
        (lambda: TemplateDefinition.from_payload(NEW.payload() | {"components": [{"type": "RING"}]}), "HEADER, BODY"),
        (lambda: TemplateDefinition.from_payload(NEW.payload() | {"components": [5]}), "HEADER, BODY"),
    ],
)
def test_a_template_that_the_api_would_refuse_is_refused_by_field(make: Any, told: str) -> None:
    with pytest.raises(InvalidMessageError) as refused:
        make()
    assert told in str(refused.value)


def test_a_definition_is_the_apis_json_and_back() -> None:
    whole = TemplateDefinition(
        "code",
        "en_US",
        "AUTHENTICATION",
        [
            BodyDefinition(add_security_recommendation=True),
            FooterDefinition(code_expiration_minutes=5),
            ButtonsDefinition([ButtonDefinition("OTP", "Copy", otp_type="COPY_CODE", example=["1"])]),
        ],
        parameter_format="NAMED",
        message_send_ttl_seconds=600,
    )
    assert TemplateDefinition.from_payload(whole.payload()) == whole
    raw = TemplateDefinition("a", "fr", "UTILITY", [RawComponent({"type": "LIMITED_TIME_OFFER"})])
    assert raw.payload()["components"] == [{"type": "LIMITED_TIME_OFFER"}]
    assert repr(whole) == "<TemplateDefinition 'code' 'en_US'>"
    assert "Colis" not in repr(NEW)
    small = {"type": "body", "text": "a"}
    assert TemplateDefinition.from_payload(NEW.payload() | {"components": [small]}).components == (BodyDefinition("a"),)


def test_what_is_no_definition_is_refused_without_a_request() -> None:
    async def story() -> None:
        service = service_of(GraphClient(token="t", phone_number_id="1"))
        with pytest.raises(InvalidMessageError, match="TemplateDefinition"):
            await service.create_template({"name": "a"})  # type: ignore[arg-type]

    asyncio.run(story())


@pytest.mark.parametrize("sample", samples("response.create_template"), ids=lambda sample: sample.file)
def test_each_sample_of_an_answer_to_a_new_template_parses(sample: Sample) -> None:
    receipt = read_created(200, sample.body)
    assert {"id": receipt.id, "status": receipt.status, "category": receipt.category} == sample.content


def test_an_answer_without_an_id_is_ambiguous() -> None:
    for body in (b"{}", b'{"id": 5}', b""):
        with pytest.raises(AmbiguousOutcomeError):
            read_created(200, body)

"""What the simulator tells by webhook: shapes, signatures, order, repetitions, and what goes wrong with them."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
from collections import Counter
from typing import Any

import pytest

from resilience_whatsapp.simulator import Fault, ManualClock, Simulator, Statuses, WebhookError
from resilience_whatsapp.simulator import Receiver as Told
from resilience_whatsapp.webhooks import StatusUpdate, read_webhook
from tests.whatsapp.simulator.tools import TEXT, USER, Api, Receiver, clock_of, receiver, run, until

ALL = Statuses(sent=(1, 1), delivered=(1, 1), read=(1, 1), played=(1, 1), reads=1.0, plays=1.0)


def play(story: Any, **options: Any) -> Any:
    async def heard(api: Api) -> Any:
        async with receiver() as hook:
            await api.simulator.subscribe(hook.url)
            return await story(api, hook)

    return run(heard, **{"clock": ManualClock(), "statuses": ALL, **options})


# --- statuses -------------------------------------------------------------------------------------


def test_a_message_is_sent_delivered_and_read_and_its_opaque_data_is_echoed() -> None:
    async def story(api: Api, hook: Receiver) -> None:
        answer = (await api.send(biz_opaque_callback_data="order-7"))[1]
        for count in (1, 2, 3):
            await clock_of(api).advance(1.0)
            await hook.until(count)
        told = hook.statuses()
        assert [status["status"] for status in told] == ["sent", "delivered", "read"]
        for second, status in enumerate(told, 1):
            assert status["id"] == answer["messages"][0]["id"]
            assert status["recipient_id"] == USER
            assert status["biz_opaque_callback_data"] == "order-7"
            assert status["timestamp"] == str(1_800_000_000 + second)
            assert "conversation" not in status
        assert told[0]["pricing"] == {
            "billable": False,
            "pricing_model": "PMP",
            "category": "service",
            "type": "free_customer_service",
        }
        assert "pricing" not in told[2]
        assert hook.values()[0]["metadata"] == {
            "display_phone_number": api.simulator.own_number,
            "phone_number_id": api.simulator.phone_number_id,
        }
        assert api.simulator.book.entries[0].end == "read"
        (update,) = read_webhook(hook.bodies[0])
        assert isinstance(update, StatusUpdate)
        assert (update.status, update.opaque_data) == ("sent", "order-7")

    play(story)


def test_until_version_23_a_status_has_its_conversation() -> None:
    async def story(api: Api, hook: Receiver) -> None:
        await api.simulator.subscribe(Told(hook.url, version="v23.0"))
        assert len(api.simulator.webhooks.receivers) == 1, "the same address is told once"
        await api.send(type="template", template={"name": "welcome_message", "language": {"code": "fr"}})
        for count in (1, 2, 3):
            await clock_of(api).advance(1.0)
            await hook.until(count)
        sent, delivered, _ = (status["conversation"] for status in hook.statuses())
        assert sent["id"] == delivered["id"]
        assert (sent["origin"], "expiration_timestamp" in delivered) == ({"type": "marketing"}, False)
        assert hook.statuses()[0]["pricing"]["billable"]

    play(story)


def test_a_user_with_a_business_scoped_id_is_named_by_it() -> None:
    async def story(api: Api, hook: Receiver) -> None:
        await api.send(to=None, recipient="US.13491208655302741918")
        await clock_of(api).advance(1.0)
        await hook.until(1)
        status = hook.statuses()[0]
        assert (status["recipient_user_id"], "recipient_id" in status) == ("US.13491208655302741918", False)

    play(story)


def test_audio_is_played_and_who_never_reads_is_never_read() -> None:
    async def story(api: Api, hook: Receiver) -> None:
        await api.send(type="audio", audio={"link": "https://example.org/a.ogg"})
        api.simulator.stories.statuses = Statuses(delivers=0.0)
        await api.send()
        assert [entry.end for entry in api.simulator.book.entries] == ["played", "sent"]

    play(story)


def test_a_message_that_fails_later_is_accepted_and_says_why_by_webhook() -> None:
    async def story(api: Api, hook: Receiver) -> None:
        api.simulator.script(Fault("fail_later", code=131026, to=USER), Fault("fail_later", code=131042, times=None))
        for to in ("+33600000000", TEXT["to"], TEXT["to"]):
            assert (await api.send(to=to))[0] == 200
        assert [entry.failed for entry in api.simulator.book.entries] == [131042, 131026, 131042]
        await clock_of(api).advance(1.0)
        await until(lambda: len(hook.statuses()) == 3)
        told = hook.statuses()
        assert {status["status"] for status in told} == {"failed"}
        assert [status["errors"][0]["code"] for status in told] == [131042, 131026, 131042]
        assert told[0]["errors"][0].keys() == {"code", "title", "message", "error_data", "href"}
        updates = [update for body in hook.bodies for update in read_webhook(body)]
        errors = [update.errors[0].code for update in updates if isinstance(update, StatusUpdate)]
        assert errors == [131042, 131026, 131042]

    play(story)


# --- bytes ----------------------------------------------------------------------------------------


def test_bodies_are_signed_over_their_bytes_in_which_non_ascii_slash_and_at_are_escaped() -> None:
    async def story(api: Api, hook: Receiver) -> None:
        api.simulator.inbound("+33612345678", "né à /@ 👍")
        await hook.until(1)
        body = hook.bodies[0]
        assert rb"n\u00e9 \u00e0 \/\u0040 \ud83d\udc4d" in body
        secret = api.simulator.webhooks.app_secret.encode()
        assert hook.signatures == ["sha256=" + hmac.new(secret, body, hashlib.sha256).hexdigest()]
        message = hook.values()[0]["messages"][0]
        assert message["text"] == {"body": "né à /@ 👍"}
        written_again = json.dumps(json.loads(body)).encode()
        assert hmac.new(secret, written_again, hashlib.sha256).hexdigest() not in hook.signatures[0]

    play(story)


def test_what_users_write_goes_to_the_webhook() -> None:
    async def story(api: Api, hook: Receiver) -> None:
        wamid = api.simulator.inbound(USER, "Hi", name="Ann")
        api.simulator.inbound("US.1349", kind="image", content={"id": "5"})
        await until(lambda: len(hook.values()) + len(hook.bodies) >= 2)
        await until(lambda: sum(len(value["messages"]) for value in hook.values()) == 2)
        messages = [message for value in hook.values() for message in value["messages"]]
        contacts = [contact for value in hook.values() for contact in value["contacts"]]
        assert messages[0] == {
            "from": USER,
            "id": wamid,
            "timestamp": "1800000000",
            "type": "text",
            "text": {"body": "Hi"},
        }
        assert (messages[1]["from_user_id"], messages[1]["image"]) == ("US.1349", {"id": "5"})
        assert contacts == [
            {"profile": {"name": "Ann"}, "wa_id": USER},
            {"profile": {"name": "A user"}, "user_id": "US.1349"},
        ]

    play(story)


def test_what_is_due_together_comes_in_few_bodies_with_an_entry_for_each_account() -> None:
    async def story(api: Api, hook: Receiver) -> None:
        world = api.simulator.world
        second = world.add_number(api.simulator.account)
        elsewhere = world.add_number(world.add_account(world.add_portfolio()))
        numbers = [api.simulator.phone_number_id, second.id, elsewhere.id]
        for index in range(60):
            await api.send(phone=numbers[index % 3])
        await clock_of(api).advance(1.0)
        await until(lambda: len(hook.statuses()) == 60)
        assert len(hook.bodies) <= 3
        entries = json.loads(hook.bodies[0])["entry"]
        assert [entry["id"] for entry in entries] == [api.simulator.waba_id, elsewhere.account.id]
        assert [len(entry["changes"]) for entry in entries] == [2, 1]

    play(story)


# --- delivery -------------------------------------------------------------------------------------


def test_a_body_that_one_receiver_refuses_is_sent_again_to_all_less_and_less_often() -> None:
    async def story(api: Api, hook: Receiver) -> None:
        async with receiver() as failing:
            failing.answers = [500, 503, 404]
            await api.simulator.subscribe(failing.url)
            api.simulator.inbound(USER)
            for count, wait in ((1, 5.0), (2, 10.0), (3, 20.0)):
                await failing.until(count)
                await until(lambda count=count: api.simulator.webhooks.delivered.repeated == count)
                await clock_of(api).advance(wait - 0.1)
                assert len(failing.bodies) == count
                await clock_of(api).advance(0.1)
            await failing.until(4)
            await hook.until(4)
            await until(lambda: api.simulator.webhooks.delivered.posts == 8)
            delivered = api.simulator.report().webhooks
            assert (delivered.told, delivered.failed, delivered.repeated, delivered.given_up) == (1, 3, 3, 0)

    play(story)


def test_a_body_that_nobody_takes_for_seven_days_is_given_up() -> None:
    async def story(api: Api) -> None:
        await api.simulator.subscribe("http://127.0.0.1:1/")  # nothing listens there
        api.simulator.inbound(USER)
        delivered = api.simulator.webhooks.delivered
        while not delivered.given_up:
            before = delivered.failed
            await clock_of(api).advance(6 * 3600.0)
            await until(lambda before=before: delivered.failed > before or delivered.given_up)
        assert 28 <= delivered.failed <= 45
        assert delivered.repeated == delivered.failed - 1

    run(story, clock=ManualClock())


def test_receivers_can_ask_for_one_account_alone_and_have_a_secret_of_their_own() -> None:
    async def story(api: Api, hook: Receiver) -> None:
        world = api.simulator.world
        other = world.add_number(world.add_account(world.add_portfolio()))
        await api.simulator.subscribe(Told(hook.url, app_secret="mine", waba_ids=[other.account.id]))
        api.simulator.inbound(USER, "no")
        await until(lambda: not api.simulator.webhooks._tasks)
        api.simulator.inbound(USER, "yes", phone_number_id=other.id)
        await hook.until(1)
        await until(lambda: not api.simulator.webhooks._tasks)
        assert [value["messages"][0]["text"]["body"] for value in hook.values()] == ["yes"]
        assert hook.signatures[0] == "sha256=" + hmac.new(b"mine", hook.bodies[0], hashlib.sha256).hexdigest()
        api.simulator.webhooks.unsubscribe()
        api.simulator.inbound(USER)
        await api.send()
        assert api.simulator.webhooks.delivered.told == 2

    play(story)


def test_the_handshake_is_an_unsigned_get_with_a_challenge() -> None:
    async def story(api: Api, hook: Receiver) -> None:
        await api.simulator.subscribe(Told(hook.url, verify_token="verify"))
        assert hook.challenge is not None
        for url, token in ((hook.url, "wrong"), ("http://127.0.0.1:1/", "verify")):
            with pytest.raises(WebhookError, match="handshake"):
                await api.simulator.subscribe(Told(url, verify_token=token))
        assert len(api.simulator.webhooks.receivers) == 1

    play(story)


@pytest.mark.parametrize("options", [{"url": "localhost/x"}, {"url": "http://"}, {"url": "http://a/", "version": "25"}])
def test_what_cannot_be_a_receiver_is_refused(options: dict[str, Any]) -> None:
    with pytest.raises(WebhookError, match="must"):
        Told(**options)


def test_receivers_of_the_constructor_are_told_from_the_start() -> None:
    async def story() -> None:
        async with receiver() as hook:
            async with Simulator(webhooks=[hook.url, Told(hook.url, verify_token="verify")]) as simulator:
                assert len(simulator.webhooks.receivers) == 1
            with pytest.raises(WebhookError):
                await Simulator(webhooks=[Told(hook.url, verify_token="wrong")]).start()

    asyncio.run(story())


# --- what goes wrong ------------------------------------------------------------------------------


async def after(api: Api, hook: Receiver, seconds: float, statuses: int) -> list[str]:
    """Let seconds pass, one by one; the statuses then."""
    for _ in range(int(seconds)):
        await clock_of(api).advance(1.0)
        await until(lambda: not api.simulator.webhooks._tasks)
    await until(lambda: len(hook.statuses()) >= statuses)
    return [status["status"] for status in hook.statuses()]


def test_an_early_webhook_arrives_before_the_answer() -> None:
    async def story(api: Api, hook: Receiver) -> None:
        api.simulator.script(Fault("webhook_early"))
        wamid = (await api.send())[1]["messages"][0]["id"]
        assert [(status["id"], status["status"]) for status in hook.statuses()] == [(wamid, "sent")]
        assert await after(api, hook, 3, 3) == ["sent", "delivered", "read"]

    play(story)


@pytest.mark.parametrize(
    ("faults", "told"),
    [
        ([Fault("webhook_duplicate", times=None)], ["sent", "sent", "delivered", "delivered", "read", "read"]),
        ([Fault("webhook_reorder")], ["delivered", "sent", "read"]),
        ([Fault("webhook_lost", times=2)], ["read"]),
        ([Fault("webhook_late", seconds=5.0)], ["delivered", "read", "sent"]),
        ([Fault("webhook_rebatch", times=2)], ["sent", "delivered", "read", "sent", "delivered"]),
        ([Fault("webhook_dead")], ["delivered", "read", "sent"]),
        ([Fault("webhook_late", to="1", times=None)], ["sent", "delivered", "read"]),
        ([Fault("webhook_reorder", times=3), Fault("webhook_early")], ["read", "sent", "delivered"]),
    ],
    ids=lambda value: value[0].kind if isinstance(value[0], Fault) else "",
)
def test_webhooks_misbehave_as_scripted(faults: list[Fault], told: list[str]) -> None:
    async def story(api: Api, hook: Receiver) -> None:
        api.simulator.script(*faults)
        await api.send()
        assert api.simulator.report().webhooks.pending > 0
        assert await after(api, hook, 8, len(told)) == told
        assert api.simulator.report().webhooks.pending == 0
        if faults[0].kind == "webhook_rebatch":
            assert len(hook.bodies) == 4, "what is told again comes together"
        if faults[0].kind == "webhook_dead":
            assert api.simulator.webhooks.delivered.failed == 1

    play(story)


def test_a_wrong_signature_is_right_at_the_next_delivery() -> None:
    async def story(api: Api, hook: Receiver) -> None:
        api.simulator.script(Fault("webhook_signature"))
        hook.answers = [401]
        await api.send()
        await after(api, hook, 8, 4)
        secret = api.simulator.webhooks.app_secret.encode()
        right = [
            signature == "sha256=" + hmac.new(secret, body, hashlib.sha256).hexdigest()
            for body, signature in zip(hook.bodies, hook.signatures, strict=True)
        ]
        assert Counter(right) == {True: 3, False: 1}
        assert not right[0]

    play(story)


def test_the_same_seed_tells_the_same_story() -> None:
    faults = [Fault(kind, share=0.3, times=None) for kind in ("webhook_lost", "webhook_reorder")]

    def told(seed: int) -> list[tuple[str, str]]:
        async def story(api: Api, hook: Receiver) -> list[tuple[str, str]]:
            api.simulator.script(*faults, Fault("fail_later", code=131026, share=0.2, times=None))
            for index in range(20):
                await api.send(biz_opaque_callback_data=str(index))
            for _ in range(100):
                await clock_of(api).advance(1.0)
            await until(lambda: not api.simulator.webhooks._ready and not api.simulator.webhooks._tasks)
            return sorted((status["biz_opaque_callback_data"], status["status"]) for status in hook.statuses())

        return play(story, seed=seed, statuses=Statuses())

    assert told(1) == told(1)
    assert told(1) != told(2)


def test_what_is_still_to_be_told_is_forgotten_when_the_simulator_stops() -> None:
    async def story(api: Api, hook: Receiver) -> None:
        hook.answers = [500]
        api.simulator.script(Fault("webhook_duplicate"))
        await api.send()
        api.simulator.inbound(USER)
        await hook.until(1)
        await until(lambda: api.simulator.webhooks.delivered.repeated)
        await api.simulator.stop()
        await clock_of(api).advance(100.0)
        api.simulator.webhooks.tell(api.simulator.account, "account_update", {})
        await api.simulator.start()
        delivered = api.simulator.report().webhooks
        assert (len(hook.bodies), delivered.told, delivered.pending) == (1, 1, 0)

    play(story)


def test_who_unsubscribes_is_told_nothing_more() -> None:
    async def story(api: Api, hook: Receiver) -> None:
        api.simulator.script(Fault("webhook_duplicate", times=None))
        await api.send()
        api.simulator.webhooks.unsubscribe(hook.url)
        await clock_of(api).advance(10.0)
        delivered = api.simulator.report().webhooks
        assert (hook.bodies, delivered.told, delivered.pending) == ([], 0, 0)

    play(story)


def test_what_is_under_way_when_it_stops_is_dropped() -> None:
    async def story(api: Api, hook: Receiver) -> None:
        hook.stuck = asyncio.Event()
        for _ in range(12):
            api.simulator.inbound(USER)
        await hook.until(1)
        await api.simulator.stop()
        hook.stuck.set()
        assert api.simulator.webhooks._tasks == set()

    play(story, webhook_batch=1)


@pytest.mark.parametrize("options", [{"sent": (2, 1)}, {"read": (-1, 1)}, {"reads": 1.1}])
def test_statuses_that_cannot_be_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="statuses"):
        Statuses(**options)

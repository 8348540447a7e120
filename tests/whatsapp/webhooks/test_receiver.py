"""What is answered with 200 reaches each listener once, whatever raises, hangs or ends; what cannot be kept is 503."""

from __future__ import annotations

import asyncio
import functools
import json
import logging
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest

from resilience_core import Clock, ConfigurationError
from resilience_core.testing import run_virtual
from resilience_whatsapp.webhooks import (
    MAX_WEBHOOK,
    AccountError,
    AsideUpdate,
    InboxFull,
    MemoryInbox,
    SQLiteInbox,
    StatusUpdate,
    WebhookAnswer,
    WebhookReceiver,
    WebhookUpdate,
    _handing,
    _receiver,
    _uptime,
    answer_handshake,
    on,
    sign,
    verify_signature,
)
from resilience_whatsapp.webhooks._inbox import MAX_LOST, Claim, Listening
from resilience_whatsapp.webhooks._read import Part

SECRET, OLD, TOKEN = "s3cret", "0ld", "t0ken"


def body_of(*statuses: tuple[str, str], **value: Any) -> bytes:
    rows = [{"id": wamid, "status": status, "recipient_id": "33612345678"} for wamid, status in statuses]
    change = {"field": "messages", "value": {"statuses": rows, **value}}
    return json.dumps({"entry": [{"id": "waba", "changes": [change]}]}).encode()


async def post(receiver: WebhookReceiver, body: bytes, secret: str = SECRET) -> WebhookAnswer:
    return await receiver.answer("POST", {}, {"x-hub-signature-256": sign(body, secret)}, body)


class Seen:
    """A listener that remembers, and fails as often as it is told to."""

    def __init__(self, failures: int = 0, only: str | None = None) -> None:
        self.updates: list[tuple[str, str]] = []
        self.failures = failures
        self.only = only

    async def __call__(self, update: StatusUpdate) -> None:
        if self.failures and self.only in (None, update.wamid):
            self.failures -= 1
            raise RuntimeError("personal +33612345678")
        self.updates.append((update.wamid, update.status))


def receiver_of(inbox: Any = None, **options: Any) -> WebhookReceiver:
    listeners = {name: on(StatusUpdate, each) for name, each in options.pop("listeners", {}).items()}
    return WebhookReceiver(
        MemoryInbox() if inbox is None else inbox,
        listeners,
        app_secrets=[SECRET, OLD],
        verify_token=TOKEN,
        clock=loop_clock(),
        **options,
    )


def loop_clock() -> Clock:
    def now() -> float:
        return 1_700_000_000.0 + asyncio.get_running_loop().time()

    return Clock(now, now, async_sleep=asyncio.sleep)


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(300):
        while not condition():
            await asyncio.sleep(0.01)


def virtual(test: Callable[[], Coroutine[Any, Any, None]]) -> Callable[[], None]:
    """The test in virtual time, where an hour passes at once."""

    def run() -> None:
        run_virtual(test)

    run.__name__ = test.__name__
    return run


def real(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    """The test in real time, for what has threads and files."""

    @functools.wraps(test)
    def run(*args: Any, **named: Any) -> None:
        asyncio.run(test(*args, **named))

    return run


# --- who may post ----------------------------------------------------------------------------------------------------


def test_the_signature_is_over_the_bytes_as_they_came() -> None:
    body = b'{"text":"caf\\u00e9 \\/ @"}'
    assert verify_signature(body, sign(body, SECRET), [OLD, SECRET])
    assert not verify_signature(json.dumps(json.loads(body)).encode(), sign(body, SECRET), [SECRET])
    for wrong in (None, "", "sha256=", sign(body, "other"), sign(body, SECRET).upper(), "sha256=é\ud800"):
        assert not verify_signature(body, wrong, [OLD, SECRET])


def test_the_handshake_answers_the_challenge_to_who_knows_the_token() -> None:
    query = {"hub.mode": "subscribe", "hub.verify_token": TOKEN, "hub.challenge": "1158201444"}
    assert answer_handshake(query, TOKEN) == "1158201444"
    for name, value in (("hub.mode", "x"), ("hub.verify_token", "é\ud800"), ("hub.challenge", "")):
        assert answer_handshake({**query, name: value}, TOKEN) is None
    assert answer_handshake({}, TOKEN) is None


@virtual
async def test_each_request_that_is_no_webhook_has_its_answer_and_is_counted() -> None:
    async with receiver_of() as receiver:
        query = {"hub.mode": "subscribe", "hub.verify_token": TOKEN, "hub.challenge": "5"}
        handshake = await receiver.answer("GET", query, {}, b"")
        assert (handshake.status, handshake.body) == (200, "5")
        assert (await receiver.answer("GET", {}, {}, b"")).status == 403
        refused = await receiver.answer("PUT", {}, {}, b"")
        assert (refused.status, refused.headers["Allow"]) == (405, "GET, POST")
        assert (await receiver.answer("POST", {}, {}, b"{}")).status == 401
        assert (await post(receiver, body_of(("w", "sent")), "other")).status == 401
        assert (await post(receiver, b"[]")).status == 400
        assert (await receiver.answer("POST", {}, {}, b" " * (MAX_WEBHOOK + 1))).status == 413
        assert (await post(receiver, body_of(("w", "sent")), OLD)).status == 200
        status = await receiver.status()
        reasons = {"handshake": 1, "method": 1, "signature": 2, "content": 1, "length": 1}
        assert (status.refused, status.taken) == (reasons, 1)
        assert (await receiver.answer("GET", query, {}, b"")).status == 200
    assert (await post(receiver, body_of(("w", "sent")))).status == 503


@pytest.mark.parametrize(
    "options",
    [
        {"app_secrets": []},
        {"app_secrets": ["x", ""]},
        {"app_secrets": ""},
        {"verify_token": ""},
        {"max_waiting": 0},
        {"max_tries": 1.5},
        {"listener_timeout": 31.0},
        {"listener_timeout": 0.0},
        {"kept_for": 3600.0},
        {"listeners": {"": print}},
        {"listeners": {"a\nb": print}},
    ],
    ids=str,
)
def test_what_cannot_work_is_refused_at_once(options: dict[str, Any]) -> None:
    given = {"listeners": {}, "app_secrets": SECRET, "verify_token": TOKEN, **options}
    with pytest.raises(ConfigurationError, match="WebhookReceiver: "):
        WebhookReceiver(MemoryInbox(), given.pop("listeners"), **given)


# --- once, and all of it ---------------------------------------------------------------------------------------------


@virtual
async def test_what_comes_again_in_other_bodies_and_at_the_same_time_is_handed_out_once() -> None:
    seen = Seen()
    async with receiver_of(listeners={"seen": seen}) as receiver:
        bodies = [body_of(("w1", "sent"), ("w2", "sent")), body_of(("w2", "sent"), ("w1", "read")), b'{"entry": []}']
        answers = await asyncio.gather(*(post(receiver, body) for body in bodies * 3))
        assert [answer.status for answer in answers] == [200] * 9
        await until(lambda: len(seen.updates) == 3)
        await asyncio.sleep(60)
        assert sorted(seen.updates) == [("w1", "read"), ("w1", "sent"), ("w2", "sent")]
        status = await receiver.status()
        assert (status.taken, status.repeated, status.handled, status.waiting) == (3, 9, 3, 0)


@virtual
async def test_listeners_for_one_type_get_that_type_and_plain_functions_are_listeners() -> None:
    seen: list[WebhookUpdate] = []
    listeners: dict[str, Any] = {"errors": on(AccountError, seen.append), "all": seen.append}
    options: dict[str, Any] = {"app_secrets": SECRET, "verify_token": TOKEN, "clock": loop_clock()}
    async with WebhookReceiver(MemoryInbox(), listeners, **options) as receiver:
        await post(receiver, body_of(("w", "sent"), errors=[{"code": 130429}]))
        await until(lambda: len(seen) == 3)
        assert sorted(type(update).__name__ for update in seen) == ["AccountError", "AccountError", "StatusUpdate"]


@virtual
async def test_an_answer_does_not_wait_for_a_listener() -> None:
    held = asyncio.Event()

    async def slow(_: WebhookUpdate) -> None:
        await held.wait()

    async with receiver_of(listeners={"slow": slow}) as receiver:
        began = asyncio.get_running_loop().time()
        assert (await post(receiver, body_of(("w", "sent")))).status == 200
        assert asyncio.get_running_loop().time() == began
        held.set()


@virtual
async def test_a_listener_that_raises_gets_it_again_and_the_ones_before_it_do_not() -> None:
    first, flaky, last = Seen(), Seen(failures=3, only="w1"), Seen()
    async with receiver_of(listeners={"first": first, "flaky": flaky, "last": last}) as receiver:
        await post(receiver, body_of(("w1", "sent"), ("w2", "sent")))
        await until(lambda: len(last.updates) == 2)
        assert first.updates == [("w1", "sent"), ("w2", "sent")]
        assert last.updates == [("w2", "sent"), ("w1", "sent")]  # the other one did not wait
        assert asyncio.get_running_loop().time() >= 1 + 4 + 16
        assert (await receiver.status()).failed == 3


@virtual
async def test_what_fails_too_often_is_set_aside_and_told_and_can_be_tried_again() -> None:
    told: list[AsideUpdate] = []
    first, poison = Seen(), Seen(failures=4)

    async def tell(aside: AsideUpdate) -> None:
        told.append(aside)
        raise RuntimeError

    options: dict[str, Any] = {"max_tries": 4, "on_set_aside": tell}
    async with receiver_of(listeners={"first": first, "poison": poison}, **options) as receiver:
        await post(receiver, body_of(("w", "failed")))
        await until(lambda: bool(told))
        (aside,) = await receiver.set_aside()
        assert (aside.id, aside.update, aside.missing) == (told[0].id, told[0].update, ("poison",))
        assert ((await receiver.status()).set_aside, (await receiver.status()).waiting) == (1, 0)
        assert await receiver.try_again(aside.id, 77) == 1
        await until(lambda: bool(poison.updates))
        assert (first.updates, await receiver.set_aside()) == ([("w", "failed")], [])


@pytest.mark.parametrize("told", [None, []], ids=["nobody", "a list"])
def test_who_is_told_of_what_is_set_aside_may_be_a_function_or_nobody(told: list[AsideUpdate] | None) -> None:
    async def main() -> None:
        options: dict[str, Any] = {"max_tries": 1, "on_set_aside": None if told is None else told.append}
        async with receiver_of(listeners={"poison": Seen(failures=1)}, **options) as receiver:
            await post(receiver, body_of(("w", "failed")))
            while not await receiver.set_aside():
                await asyncio.sleep(1)

    run_virtual(main)
    assert told is None or len(told) == 1


def test_what_kills_the_process_each_time_is_set_aside_and_the_log_says_so(caplog: pytest.LogCaptureFixture) -> None:
    told: list[AsideUpdate] = []

    async def main() -> None:
        inbox, clock = MemoryInbox(), loop_clock()
        await inbox.take([(b"k" * 16, Part("unknown", "x").dumps())], clock.wall(), 9)
        for _ in range(MAX_LOST):
            assert len((await inbox.claim(9, clock.wall(), clock.wall() + 60.0, True)).items) == 1
            await asyncio.sleep(60)
        async with receiver_of(inbox, on_set_aside=told.append) as receiver:
            await until(lambda: bool(told))
            assert await receiver.set_aside() == told
            assert (await receiver.status()).handled == 0

    with caplog.at_level(logging.ERROR, "resilience_whatsapp.webhooks"):
        run_virtual(main)
    assert [record.getMessage() for record in caplog.records] == [
        "A webhook update is set aside: the process ended during each try"
    ]


@virtual
async def test_a_listener_that_hangs_fails_by_time_and_holds_up_only_its_own_message() -> None:
    calls: list[str] = []

    async def hang(update: StatusUpdate) -> None:
        calls.append(update.wamid)
        if update.wamid == "stuck":
            await asyncio.sleep(1_000)

    async with receiver_of(listeners={"hang": hang}, listener_timeout=5.0) as receiver:
        await post(receiver, body_of(("stuck", "sent"), ("stuck", "read"), ("w", "sent")))
        await until(lambda: "w" in calls)
        assert asyncio.get_running_loop().time() < 5
        await until(lambda: calls.count("stuck") >= 4)
        assert (await receiver.status()).failed >= 2


@virtual
async def test_statuses_of_one_message_are_handed_out_in_the_order_in_which_they_came() -> None:
    seen = Seen()

    async def uneven(update: StatusUpdate) -> None:
        await asyncio.sleep(1.0 if update.status == "sent" else 0.0)
        await seen(update)

    async with receiver_of(listeners={"uneven": uneven}) as receiver:
        for status in ("sent", "delivered", "read"):
            await post(receiver, body_of(("w", status)))
        await until(lambda: len(seen.updates) == 3)
        assert [status for _, status in seen.updates] == ["sent", "delivered", "read"]


@virtual
async def test_what_waited_too_long_in_its_lane_is_left_to_its_next_claim() -> None:
    seen: list[str] = []

    async def slow(update: StatusUpdate) -> None:
        await asyncio.sleep(20)
        seen.append(update.status)

    async with receiver_of(listeners={"slow": slow}) as receiver:
        await post(receiver, body_of(*(("w", status) for status in ("a", "b", "c", "d"))))
        await until(lambda: len(seen) == 4)
        assert sorted(seen) == ["a", "b", "c", "d"]
        assert (await receiver.status()).unknown == 4


def test_what_is_still_handled_when_its_lease_has_ended_is_not_handled_a_second_time_beside() -> None:
    async def main() -> None:
        loop, jump = asyncio.get_running_loop(), [0.0]
        begun, held, calls = asyncio.Event(), asyncio.Event(), list[WebhookUpdate]()

        def now() -> float:
            return 1_700_000_000.0 + loop.time() + jump[0]

        async def slow(update: WebhookUpdate) -> None:
            calls.append(update)
            begun.set()
            await held.wait()

        options: dict[str, Any] = {"app_secrets": SECRET, "verify_token": TOKEN}
        clock = Clock(now, now, async_sleep=asyncio.sleep)
        async with WebhookReceiver(MemoryInbox(), {"slow": slow}, clock=clock, **options) as receiver:
            await post(receiver, body_of(("w", "sent")))
            await begun.wait()
            jump[0] = 600.0  # the machine slept
            await post(receiver, body_of(("other", "sent")))
            await until(lambda: len(calls) == 2)
            held.set()
            await asyncio.sleep(300)
            assert len(calls) == 2
            assert (await receiver.status()).waiting == 0

    run_virtual(main)


@virtual
async def test_more_than_may_wait_is_refused_and_comes_again() -> None:
    seen, gate = Seen(), asyncio.Event()

    async def held(update: StatusUpdate) -> None:
        await gate.wait()
        await seen(update)

    async with receiver_of(listeners={"held": held}, max_waiting=3) as receiver:
        first = body_of(("w1", "sent"), ("w2", "sent"), ("w3", "sent"))
        assert (await post(receiver, first)).status == 200
        refused = await post(receiver, body_of(("w4", "sent")))
        assert (refused.status, refused.headers["Retry-After"]) == (503, "5")
        assert (await post(receiver, first)).status == 200, "nothing new needs no room"
        gate.set()
        await until(lambda: len(seen.updates) == 3)
        assert (await post(receiver, body_of(("w4", "sent")))).status == 200
        await until(lambda: len(seen.updates) == 4)


@virtual
async def test_many_more_than_are_handled_at_once_are_all_handled() -> None:
    seen = Seen()
    async with receiver_of(listeners={"seen": seen}) as receiver:
        body = body_of(*((f"w{number}", "sent") for number in range(1_100)))
        assert len(body) > _receiver._LONG
        await post(receiver, body)
        await until(lambda: len(seen.updates) == 1_100)


class Failing(MemoryInbox):
    """An inbox whose disk fails, for the named calls."""

    def __init__(self) -> None:
        super().__init__()
        self.fails: set[str] = set()

    def __getattribute__(self, name: str) -> Any:
        if name in object.__getattribute__(self, "__dict__").get("fails", ()):

            async def fail(*_: object) -> None:
                raise OSError("disk full: 33612345678")

            return fail
        return object.__getattribute__(self, name)


def test_while_the_inbox_fails_nothing_is_answered_with_200_and_nothing_is_lost(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def main() -> None:
        seen, inbox = Seen(failures=1), Failing()
        async with receiver_of(inbox, listeners={"seen": seen}) as receiver:
            inbox.fails = {"take"}
            for _ in range(3):
                assert (await post(receiver, body_of(("w1", "sent")))).status == 503
            assert len(caplog.records) == 1, "a line each time would flood the log"
            await asyncio.sleep(5)
            assert await receiver.listened_since(0.0) == 0, "who cannot keep what comes is not up"
            inbox.fails = {"claim", "beat", "put_off"}
            assert (await post(receiver, body_of(("w1", "sent")))).status == 200
            await asyncio.sleep(25)
            inbox.fails = {"put_off"}
            await until(lambda: seen.failures == 0)
            await asyncio.sleep(1)
            inbox.fails = set()
            await until(lambda: bool(seen.updates))
            assert (await receiver.status()).refused == {"store": 3}

    with caplog.at_level(logging.WARNING, "resilience_whatsapp.webhooks"):
        run_virtual(main)
    assert {record.__dict__["error"] for record in caplog.records} == {"OSError", "RuntimeError"}
    assert "33612345678" not in caplog.text


# --- what outlives the process ---------------------------------------------------------------------------------------


@pytest.fixture(params=["memory", "sqlite"])
def inbox_file(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[], Any]:
    """Opens the same inbox each time."""
    if request.param == "sqlite":
        return lambda: SQLiteInbox(tmp_path / "webhooks.db")
    memory = MemoryInbox()
    return lambda: memory


def key(number: int) -> bytes:
    return number.to_bytes(16, "big")


@real
async def test_an_inbox_keeps_its_promises(inbox_file: Callable[[], Any]) -> None:
    inbox = inbox_file()
    taken = await inbox.take([(key(1), "a"), (key(2), "b"), (key(1), "a")], 100.0, 5)
    assert (taken.new, taken.waiting) == (2, 2)
    again = await inbox.take([(key(1), "a"), (key(3), "c")], 101.0, 5)
    assert (again.new, again.waiting) == (1, 3)
    with pytest.raises(InboxFull):
        await inbox.take([(key(4), "d"), (key(5), "e"), (key(6), "f")], 101.0, 5)
    assert (await inbox.counts()).waiting == 3

    claim = await inbox.claim(2, 101.0, 161.0, True)
    one, two = claim.items
    assert (one.text, one.taken, one.failures, one.passed) == ("a", 100.0, 0, frozenset())
    assert (one.lost, one.until, claim.lost, claim.due) == (False, 161.0, [], 101.0)
    await inbox.done(one.id)
    await inbox.put_off(two.id, frozenset({"x", "y"}), 130.0)
    claim = await inbox.claim(5, 102.0, 162.0, True)
    (three,) = claim.items
    assert (three.text, claim.due) == ("c", 130.0)
    await inbox.give_back([two], 103.0)
    assert (await inbox.claim(5, 103.0, 163.0, True)).items == [], "it is not its claim any more"
    await inbox.give_back([three], 103.0)
    assert [item.id for item in (await inbox.claim(5, 103.0, 163.0, True)).items] == [three.id]
    (retried,) = (await inbox.claim(5, 130.0, 190.0, True)).items
    assert (retried.failures, retried.passed, retried.lost) == (1, {"x", "y"}, False)
    await inbox.put_off(retried.id, frozenset({"x"}), None)
    await inbox.aclose()

    inbox = inbox_file()
    assert ((await inbox.counts()).waiting, (await inbox.counts()).set_aside) == (1, 1)
    (aside,) = await inbox.set_aside(5)
    assert (aside.id, aside.text, aside.taken, aside.passed) == (two.id, "b", 100.0, {"x"})
    assert (await inbox.take([(key(1), "a"), (key(2), "b"), (key(3), "c")], 140.0, 5)).new == 0
    assert await inbox.forget(101.0, 1) == 1
    assert await inbox.forget(101.0, 5) == 1
    assert (await inbox.take([(key(1), "a")], 140.0, 5)).new == 1
    assert await inbox.again([two.id, three.id], 150.0) == 0
    await inbox.aclose()


@real
async def test_what_was_claimed_when_a_process_died_comes_one_at_a_time_and_three_times_only(
    inbox_file: Callable[[], Any],
) -> None:
    inbox = inbox_file()
    await inbox.take([(key(number), str(number)) for number in range(4)], 0.0, 9)
    assert len((await inbox.claim(9, 0.0, 60.0, True)).items) == 4
    assert await inbox.claim(9, 59.0, 119.0, True) == Claim([], [], 60.0)
    assert (await inbox.claim(9, 60.0, 120.0, False)).items == []
    for now in (60.0, 120.0):
        lost = []
        for _ in range(4):
            lost += (await inbox.claim(9, now, now + 60.0, True)).items
        assert [(item.text, item.lost) for item in lost] == [(str(number), True) for number in range(4)]
    assert MAX_LOST == 3
    claim = await inbox.claim(9, 180.0, 240.0, True)
    assert (claim.items, [aside.text for aside in claim.lost]) == ([], ["0", "1", "2", "3"])
    assert len(await inbox.set_aside(9)) == 4
    assert await inbox.again([item.id for item in await inbox.set_aside(2)], 200.0) == 2
    assert len((await inbox.claim(9, 200.0, 260.0, False)).items) == 2
    await inbox.aclose()


@real
async def test_an_inbox_knows_when_receivers_were_up(inbox_file: Callable[[], Any]) -> None:
    inbox = inbox_file()
    assert await inbox.listening() == Listening([], None, {})
    for name, started, now, heard in (("a", 0.0, 5.0, 3.0), ("b", 20.0, 21.0, None), ("a", 0.0, 10.0, 8.0)):
        await inbox.beat(name, started, now, heard)
    await inbox.beat("c", 9.0, 12.0, None)
    await inbox.take([(key(1), "a")], 11.5, 5)
    await inbox.take([(key(2), "b")], 12.5, 5)
    assert await inbox.listening() == Listening([(0.0, 12.0), (20.0, 21.0)], 8.0, {frozenset(): 11.5})
    assert await inbox.forget(11.0, 5) == 0
    assert (await inbox.listening()).up == [(9.0, 12.0), (20.0, 21.0)]
    await inbox.aclose()


@real
async def test_what_was_not_handled_is_handled_after_a_restart_and_what_was_is_not(tmp_path: Path) -> None:
    path = tmp_path / "webhooks.db"
    seen, broken = Seen(), Seen(failures=1)
    async with receiver_of(SQLiteInbox(path), listeners={"seen": seen, "broken": broken}) as receiver:
        assert (await post(receiver, body_of(("w1", "sent")))).status == 200
        await until(lambda: broken.failures == 0)
    async with receiver_of(SQLiteInbox(path), listeners={"seen": seen, "broken": broken}) as receiver:
        for _ in range(2):
            assert (await post(receiver, body_of(("w1", "sent"), ("w2", "sent")))).status == 200
        await until(lambda: len(broken.updates) == 2)
        assert sorted(seen.updates) == sorted(broken.updates) == [("w1", "sent"), ("w2", "sent")]


@real
async def test_several_receivers_on_one_file_hand_out_each_update_once(tmp_path: Path) -> None:
    seen = Seen()
    receivers = [receiver_of(SQLiteInbox(tmp_path / "webhooks.db"), listeners={"seen": seen}) for _ in range(3)]
    for receiver in receivers:
        await receiver.start()
    bodies = [body_of(*((f"w{number + offset}", "sent") for offset in range(4))) for number in range(20)]
    answers = await asyncio.gather(*(post(receiver, body) for body in bodies for receiver in receivers))
    assert {answer.status for answer in answers} == {200}
    await until(lambda: len(seen.updates) >= 23)
    for receiver in receivers:
        await receiver.aclose()
    assert sorted(seen.updates) == sorted((f"w{number}", "sent") for number in range(23))


@virtual
async def test_closing_gives_back_what_was_not_finished() -> None:
    seen, inbox = Seen(), MemoryInbox()
    begun = asyncio.Event()

    async def stuck(_: WebhookUpdate) -> None:
        begun.set()
        await asyncio.sleep(20)

    receiver = receiver_of(inbox, listeners={"stuck": stuck})
    await receiver.start()
    await receiver.start()
    await post(receiver, body_of(("w", "sent"), ("w", "read")))
    await begun.wait()
    await receiver.aclose()
    await receiver.aclose()
    assert asyncio.get_running_loop().time() < 10
    async with receiver_of(inbox, listeners={"stuck": seen}):
        await until(lambda: len(seen.updates) == 2)
        assert asyncio.get_running_loop().time() < 10


@virtual
async def test_closing_in_the_middle_of_a_claim_leaves_nothing_claimed() -> None:
    inbox, seen, claiming = SlowClaims(), Seen(), asyncio.Event()
    inbox.claiming = claiming
    receiver = receiver_of(inbox, listeners={"seen": seen})
    await receiver.start()
    await claiming.wait()
    await asyncio.sleep(2)
    claiming.clear()
    await post(receiver, body_of(("w", "sent")))
    await claiming.wait()
    await receiver.aclose()
    async with receiver_of(inbox, listeners={"seen": seen}):
        await until(lambda: bool(seen.updates))
        assert asyncio.get_running_loop().time() < 10


@virtual
async def test_what_was_kept_although_the_request_was_given_up_is_handed_out_at_once() -> None:
    seen = Seen()
    async with receiver_of(SlowTakes(), listeners={"seen": seen}) as receiver:
        asking = asyncio.create_task(post(receiver, body_of(("w", "sent"))))
        await asyncio.sleep(0.5)
        asking.cancel()
        await until(lambda: bool(seen.updates))
        assert asyncio.get_running_loop().time() < 10


@virtual
async def test_a_receiver_that_is_started_again_hands_out_what_it_gave_back() -> None:
    seen, begun = Seen(), asyncio.Event()

    async def stuck(update: StatusUpdate) -> None:
        if not begun.is_set():
            begun.set()
            await asyncio.sleep(20)
        await seen(update)

    receiver = receiver_of(listeners={"stuck": stuck})
    async with receiver:
        await post(receiver, body_of(("w", "sent"), ("w", "delivered"), ("w", "read")))
        await begun.wait()
    async with receiver:
        await until(lambda: len(seen.updates) == 3)
        assert asyncio.get_running_loop().time() < 10


@virtual
async def test_with_a_disk_that_fails_it_closes_all_the_same() -> None:
    class Broken(MemoryInbox):
        fails = closed = False

        async def give_back(self, *args: Any) -> None:
            raise OSError

        async def beat(self, *args: Any) -> None:
            if self.fails:
                raise OSError
            await super().beat(*args)

        async def aclose(self) -> None:
            self.closed = True

    inbox = Broken()
    async with receiver_of(inbox):
        inbox.fails = True
    assert inbox.closed


@virtual
async def test_rows_that_nobody_can_read_hold_up_nobody() -> None:
    inbox, seen = MemoryInbox(), Seen()
    texts = ["[]", "null", '["status","messages",null,null,null,3]', '["status","messages",null,null,null,{}]']
    await inbox.take([(str(number).encode(), text) for number, text in enumerate(texts)], 0.0, 100)
    async with receiver_of(inbox, listeners={"seen": seen}) as receiver:
        await post(receiver, body_of(("w", "sent")))
        await until(lambda: bool(seen.updates))
        await asyncio.sleep(300)
        await post(receiver, body_of(("w", "read")))
        await until(lambda: len(seen.updates) == 2)


class SlowTakes(MemoryInbox):
    """Takes at once, and tells of it a second later, as a disk does."""

    async def take(self, *args: Any) -> Any:
        taken = await super().take(*args)
        await asyncio.sleep(1)
        return taken


class SlowClaims(MemoryInbox):
    """Claims at once, and tells of it a second later, as a disk does."""

    claiming: asyncio.Event

    async def claim(self, *args: Any) -> Any:
        claimed = await super().claim(*args)
        self.claiming.set()
        await asyncio.sleep(1)
        return claimed


@virtual
async def test_time_in_which_no_receiver_was_up_does_not_count() -> None:
    inbox, clock = MemoryInbox(), loop_clock()
    begin = clock.wall()
    async with receiver_of(inbox) as receiver:
        await asyncio.sleep(100)
        assert await receiver.listened_since(begin) == 100
        assert (await receiver.status()).last_heard is None
        await post(receiver, body_of(("w", "sent")))
    await asyncio.sleep(1_000)
    async with receiver_of(inbox) as receiver:
        await asyncio.sleep(55)
        assert await receiver.up_intervals() == [(begin, begin + 100), (begin + 1_100, begin + 1_155)]
        assert await receiver.listened_since(begin + 90) == 65
        assert (await receiver.status()).last_heard == begin + 100
        assert receiver.downtime() == [(0.0, begin), (begin + 100, begin + 1_100)]
    assert receiver.downtime() == [(0.0, begin), (begin + 100, begin + 1_100), (begin + 1_155, None)]


@virtual
async def test_time_since_which_something_waits_is_downtime_for_who_waits_for_it() -> None:
    clock = loop_clock()
    begin = clock.wall()
    async with receiver_of(listeners={"first": Seen(), "broken": Seen(failures=5)}) as receiver:
        await asyncio.sleep(15)
        await post(receiver, body_of(("w", "sent")))
        assert receiver.downtime() == [(0.0, begin)]
        await asyncio.sleep(15)
        assert receiver.downtime() == receiver.downtime("broken") == [(0.0, begin), (begin + 15, None)]
        assert receiver.downtime("first") == [(0.0, begin)], "it has had it"
        await asyncio.sleep(600)
        assert receiver.downtime() == [(0.0, begin)]


def test_time_in_which_the_machine_slept_does_not_count() -> None:
    async def main() -> None:
        loop, jump = asyncio.get_running_loop(), [0.0]

        def now() -> float:
            return 1_700_000_000.0 + loop.time() + jump[0]

        clock = Clock(now, now, async_sleep=asyncio.sleep)
        options: dict[str, Any] = {"app_secrets": SECRET, "verify_token": TOKEN, "clock": clock}
        async with WebhookReceiver(MemoryInbox(), {}, **options) as receiver:
            await asyncio.sleep(20)
            jump[0] = 5_000.0
            begin, end = receiver.downtime()[-1]
            assert begin <= 1_700_000_020.0, "also before it has noticed"
            assert end is None
            await asyncio.sleep(20)
            assert await receiver.listened_since(1_700_000_000.0) == pytest.approx(30, abs=10.1)

    run_virtual(main)


def test_many_old_keys_are_forgotten_in_small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_uptime, "_PRUNED_AT_ONCE", 2)
    monkeypatch.setattr(_uptime, "HEARTBEAT", 3600.0)
    monkeypatch.setattr(_handing, "LEASE", 3600.0)

    async def main() -> None:
        async with receiver_of(kept_for=7 * 86400.0) as receiver:
            bodies = [body_of(*((f"w{number}", "sent") for number in range(5)))] * 2
            for body in bodies:
                await post(receiver, body)
                await asyncio.sleep(7 * 86400 + 3700)
            assert (await receiver.status()).taken == 10

    run_virtual(main)


def test_old_keys_are_forgotten_and_young_ones_are_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_uptime, "HEARTBEAT", 3600.0)
    monkeypatch.setattr(_handing, "LEASE", 3600.0)

    async def main() -> None:
        async with receiver_of(kept_for=7 * 86400.0) as receiver:
            for days, taken in ((6.9, 1), (0.2, 1), (0.1, 2)):
                await post(receiver, body_of(("w", "sent")))
                assert (await receiver.status()).taken == taken
                await asyncio.sleep(days * 86400)

    run_virtual(main)

"""What the gates of one process have learnt is known to all of a fleet; on a real Redis."""

from __future__ import annotations

import asyncio
import json
import math
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from resilience_core import CircuitState, RecordIgnored
from resilience_core.redis import RedisFleet
from resilience_core.testing import FaultProxy, VirtualClock
from resilience_whatsapp import GateClosedError, Gates, ResilientWhatsAppClient, WhatsAppService
from resilience_whatsapp.gates._marks import MOST
from resilience_whatsapp.gates._pairs import Pairs
from resilience_whatsapp.gates._recipients import Recipients
from resilience_whatsapp.gates._routes import Scope
from resilience_whatsapp.gates._shared import (
    LONGEST,
    SERIES,
    Learnt,
    SharedGrowths,
    SharedMarks,
    SharedOffers,
    SharedPace,
)
from resilience_whatsapp.gates._throughput import Throughput
from resilience_whatsapp.messages import FlowMessage, TemplateMessage
from tests._redis import HOST, RedisServer
from tests.fleet.members import PATIENCE, Fleets, wait_until
from tests.whatsapp.fakes import OK, RECIPIENT
from tests.whatsapp.gates.test_fleet import BOB, SECRET, member, send, until
from tests.whatsapp.gates.test_gates import Api, healthy, told

ROOT = Path(__file__).parents[3]
QUIET: dict[str, Any] = {"pair_burst": None, "throughput": None}
"""For tests that are not about the paces: they send until something happens."""
BRAZIL = ("+5511987654321", "+551187654321")


def run(story: Callable[[], Awaitable[Any]]) -> None:
    asyncio.run(story())  # type: ignore[arg-type]


async def template(service: WhatsAppService, recipient: str, name: str = "offer") -> str:
    try:
        return (await service.send("user", recipient, TemplateMessage(name, "fr"))).status.value
    except GateClosedError as error:
        return error.scope


async def met(condition: Callable[[], Any]) -> None:
    """Wait for what the fleet's threads do."""
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end
        await asyncio.sleep(0.005)


async def refuse(service: WhatsAppService, api: Any, code: int, recipient: str = RECIPIENT) -> None:
    """A send that the API refuses."""
    api.outcomes = [told(code)]
    with pytest.raises(Exception, match=str(code)):
        await service.send_text("user", recipient, "hello")
    api.outcomes = [OK]


def everything(fleets: Fleets) -> str:
    """All keys and all values of Redis, as text."""
    found: list[str] = []
    for key in fleets.client.scan_iter(f"{fleets.prefix}*"):
        kind = fleets.client.type(key)
        found.append(str(key))
        found.append(str(fleets.client.hgetall(key) if kind == "hash" else fleets.client.get(key)))
    return "\n".join(found)


# --- recipients --------------------------------------------------------------------------------------------------


def test_what_a_webhook_tells_one_process_keeps_the_messages_of_all_back(fleets: Fleets) -> None:
    async def story() -> None:
        sender, _, api, one = member(fleets, "a")
        hears = Gates(fleet=fleets.member("b", secret=SECRET), **QUIET)  # no client: it never sends
        assert await send(sender, BRAZIL[0]) == await send(sender, BOB) == "accepted"
        hears.observe_webhook_error(131026, phone_number_id="1", recipient=BRAZIL[1][1:])
        await until(sender, "recipient", BRAZIL[0])
        asked = len(api.payloads)
        with pytest.raises(GateClosedError) as caught:
            await sender.send_text("user", BRAZIL[0], "hello")
        assert (caught.value.code, caught.value.latched) == (131026, False)
        assert caught.value.retry_after is not None
        assert 86_000 < caught.value.retry_after <= 86_400
        hears.observe_webhook_error(130497, recipient="+4915112345678")
        await until(sender, "recipient", "+4917612345678")
        assert len(api.payloads) >= asked
        assert await send(sender, BOB) == "accepted"
        assert one.connected

    run(story)


@pytest.mark.parametrize(
    ("observe", "scope"),
    [
        (lambda gates: gates.observe_webhook_error(131042, phone_number_id="1", waba_id="2"), "account"),
        (lambda gates: gates.observe_webhook_error(131048, phone_number_id="1", waba_id="2"), "number"),
        (lambda gates: gates.observe_webhook_error(4, phone_number_id="1", waba_id="2"), "app"),
        (lambda gates: gates.observe_restriction(waba_id="2"), "account"),
    ],
)
def test_a_process_without_a_client_closes_the_gates_of_those_that_send(
    fleets: Fleets, observe: Callable[[Gates], None], scope: str
) -> None:
    async def story() -> None:
        sender, _, api, _ = member(fleets, "a", **QUIET)
        hears = Gates(fleet=fleets.member("b", secret=SECRET), **QUIET)
        assert await send(sender) == "accepted"
        api.health = healthy("BLOCKED")
        observe(hears)
        await until(sender, scope, BOB)

    run(story)


def test_a_process_without_a_client_knows_nothing_that_is_of_no_use_elsewhere(fleets: Fleets) -> None:
    ours: dict[str, Any] = {"phone_number_id": "1", "waba_id": "2"}
    hears = Gates(fleet=fleets.member("b", secret=SECRET), throughput=None)
    for code in (190, 131047, 132015, 130429):
        hears.observe_webhook_error(code, **ours, recipient=RECIPIENT)
    hears.observe_webhook_error(131042, phone_number_id="1")  # of which account it does not tell
    hears.observe_webhook_error(131056, waba_id="2", recipient=RECIPIENT)
    hears.observe_restriction()
    assert [row["scope"] for row in hears.snapshot()] == ["pair", "recipient"]
    alone = Gates()
    alone.observe_webhook_error(131042, **ours)
    alone.observe_restriction(waba_id="2")
    assert [row["scope"] for row in alone.snapshot()] == ["pair", "recipient"]


def test_a_process_without_a_client_slows_the_number_and_the_pair_down(fleets: Fleets) -> None:
    async def story() -> None:
        _, gates, _, _ = member(fleets, "a")
        hears = Gates(fleet=fleets.member("b", secret=SECRET))
        hears.observe_throughput(20, phone_number_id="1")
        hears.observe_webhook_error(130429, phone_number_id="1")
        hears.observe_webhook_error(131056, phone_number_id="1", recipient=RECIPIENT)
        assert hears.pairs is not None
        assert hears.pairs.limiter.wait_for("1", RECIPIENT[1:]) > 0
        pacer = gates.throughput_of("1")
        assert pacer is not None

        def heard() -> bool:
            pacer.hear()
            return pacer.learned.level == 20 and pacer.growth.hits == 1

        await met(heard)

    run(story)


def test_who_wants_no_offers_of_one_process_gets_none_of_any_and_login_codes_of_all(fleets: Fleets) -> None:
    async def story() -> None:
        first, gates, _, _ = member(fleets, "a", **QUIET)
        second, _, _, _ = member(fleets, "b", **QUIET)
        assert await template(second, BOB) == "accepted"
        # Which template it is only one has learnt: there is no list that tells.
        gates.observe_webhook_error(131049, recipient=RECIPIENT, template=("offer", "fr"))
        gates.observe_webhook_error(131049, recipient=RECIPIENT, template=("offer", "fr"))
        gates.observe_preference(BOB, stopped=True)
        for recipient in (RECIPIENT, BOB):
            await met_send(second, recipient)
            assert await template(second, recipient, "login_code") == "accepted"
        with pytest.raises(GateClosedError) as caught:
            await second.send("user", BOB, TemplateMessage("offer", "fr"))
        assert (caught.value.code, caught.value.latched, caught.value.retry_after) == (131050, True, None)
        gates.observe_preference(BOB, stopped=False)
        await met_send(second, BOB, "accepted")
        assert await template(first, RECIPIENT) == "recipient"

    run(story)


async def met_send(service: WhatsAppService, recipient: str, outcome: str = "recipient") -> None:
    end = time.monotonic() + PATIENCE
    while await template(service, recipient) != outcome:
        assert time.monotonic() < end
        await asyncio.sleep(0.01)


def test_a_flow_that_is_limited_is_so_for_all(fleets: Fleets) -> None:
    async def story() -> None:
        first, _, api, _ = member(fleets, "a", **QUIET)
        second, _, _, two = member(fleets, "b", **QUIET)
        assert await send(second, BOB) == "accepted"
        assert two.wait_ready(PATIENCE)
        flow = FlowMessage(body="Book", flow_cta="Open", flow_id="77")
        api.outcomes = [told(132069)]
        with pytest.raises(Exception, match="132069"):
            await first.send("user", RECIPIENT, flow)

        async def kept_back() -> int | None:
            try:
                await second.send("user", BOB, flow)
            except GateClosedError as error:
                return error.code
            return None

        end = time.monotonic() + PATIENCE
        while await kept_back() != 132069:
            assert time.monotonic() < end
            await asyncio.sleep(0.01)
        assert await send(second, RECIPIENT) == "accepted"

    run(story)


def test_a_process_that_starts_later_knows_it_with_its_first_message(fleets: Fleets) -> None:
    async def story() -> None:
        _, gates, _, one = member(fleets, "a")
        gates.observe_preference(BOB, stopped=True)
        gates.observe_webhook_error(131049, recipient=RECIPIENT, template=("offer", "fr"))
        gates.observe_throughput("HIGH", phone_number_id="1")
        assert one.flush(PATIENCE)
        late, others, api, _ = member(fleets, "late")
        assert await template(late, BOB) == "recipient"
        assert api.payloads == []
        assert await template(late, RECIPIENT, "login_code") == "accepted"
        (row,) = [row for row in others.snapshot() if row["scope"] == "throughput"]
        assert row["level"] == 1_000.0
        another, _ = over(fleets.member("another", secret=SECRET), name="another_business")
        assert await template(another, BOB) == "accepted", "who wants none of one may want those of another"

    run(story)


def test_who_wrote_to_one_process_can_be_reached_by_all(fleets: Fleets) -> None:
    async def story() -> None:
        first, gates, _, _ = member(fleets, "a", **QUIET)
        second, _, api, _ = member(fleets, "b", **QUIET)
        third, _, _, _ = member(fleets, "c", **QUIET)
        assert {await send(service, BOB) for service in (first, second, third)} == {"accepted"}
        await refuse(second, api, 131026)
        for service in (first, second, third):
            await until(service, "recipient", RECIPIENT)
        gates.observe_inbound(phone_number_id="1", recipient=[RECIPIENT[1:], "US.1"])
        for service in (first, second, third):
            await until(service, "accepted", RECIPIENT)

    run(story)


def test_without_redis_each_goes_on_with_what_it_knows_and_tells_the_rest_later(
    fleets: Fleets, redis_server: RedisServer
) -> None:
    async def story() -> None:
        with FaultProxy((HOST, redis_server.port)) as proxy:
            first, gates, _, _ = member(fleets, "a", **QUIET)
            cut = fleets.member("b", secret=SECRET, source=f"redis://{HOST}:{proxy.port}/0")
            second, others = over(cut)
            gates.observe_webhook_error(131026, recipient=BOB)
            await until(second, "recipient", BOB)
            proxy.reset(new=True)
            await met(lambda: not cut.connected)
            assert await send(second, BOB) == "recipient"
            others.observe_webhook_error(131026, recipient=RECIPIENT)
            assert await send(second) == "recipient"
            assert await send(first) == "accepted"
            gates.observe_inbound(recipient=BOB)
            proxy.heal()
            await until(first, "recipient", RECIPIENT)
            await until(second, "accepted", BOB)

    run(story)


def over(fleet: Any, **options: Any) -> tuple[WhatsAppService, Gates]:
    gates = Gates(fleet=fleet, **QUIET, **options)
    return WhatsAppService(ResilientWhatsAppClient(Api(OK), gates=gates)), gates


def test_a_message_in_is_no_news_unless_somebody_may_have_a_mark(fleets: Fleets) -> None:
    async def story() -> None:
        service, gates, _, fleet = member(fleets, "a")
        assert await send(service, BOB) == "accepted"
        assert fleet.flush(PATIENCE)
        assert gates.learnt is not None
        await met(lambda: gates.learnt is not None and gates.learnt.recipients.known)
        gates.observe_inbound(recipient=RECIPIENT)
        assert not gates.learnt.recipients._share._unsaid
        gates.learnt.recipients._share.known = False
        gates.observe_inbound(recipient=RECIPIENT)
        await met(lambda: fleet.flush(0.1))
        assert [key for key in fleets.written() if "recipients" in key], "told to those who may know more"

    run(story)


def test_marks_are_bounded_and_end_in_all_processes() -> None:
    clock = VirtualClock()
    learnt = alone(clock)
    assert (learnt.recipients.max_entries, learnt.recipients.makes_room) == (MOST, True)
    assert (learnt.pairs.max_entries, learnt.pairs.makes_room) == (MOST, True)
    marks = SharedMarks(learnt.recipients, clock)
    now = clock.now()
    marks.put(("recipient", "a"), 131026, now + 100)
    marks.put(("recipient", "a"), 131207, now + 50)
    assert marks.find(("recipient", "a"), now) is not None
    found = marks.find(("recipient", "a"), now)
    assert found is not None
    assert (found.code, found.until) == (131026, pytest.approx(now + 100)), "one that lasts longer stays"
    marks.put(("marketing", "a"), 131050, math.inf)
    clock.advance(100)
    assert marks.find(("recipient", "a"), clock.now()) is None
    found = marks.find(("marketing", "a"), clock.now())
    assert found is not None
    assert found.until == math.inf
    clock.advance(LONGEST)
    assert marks.find(("marketing", "a"), clock.now()) is None
    marks.drop_ended(clock.now())
    assert len(marks) == 2, "the store drops them with the next change"


def alone(clock: Any) -> Learnt:
    """What one process knows by itself."""
    fleet = RedisFleet("redis://127.0.0.1:1", secret=SECRET)
    fleet.agent.attach = lambda item: True  # type: ignore[method-assign]
    return Learnt("gates", fleet, clock)


# --- what is poisoned --------------------------------------------------------------------------------------------


def poison(fleets: Fleets, store: Any, key: str, value: Any, at: float, until_: float) -> None:
    """Write an entry as somebody else would, and have it read."""
    text = json.dumps({"version": 1, "value": value, "at": at, "until": until_})
    share = store._share
    changes = int(fleets.client.hget(share.key, "changes") or 0) + 1
    fleets.client.hset(
        share.key, mapping={"era": share._era or "e", "changes": str(changes), store._field(key): f"{changes}:{text}"}
    )
    fleets.client.expire(share.key, 60)


@pytest.mark.parametrize(
    "value",
    [None, "x", [], [131026], [1, 5.0], [True, 1.0], [131026, -1], [131026, True], [131026, 1e300], [131049, "1"]],
)
def test_a_mark_that_is_none_is_ignored(fleets: Fleets, value: Any) -> None:
    async def story() -> None:
        service, gates, _, fleet = member(fleets, "a")
        assert await send(service, BOB) == "accepted"
        heard: list[Any] = []
        fleet.subscribe(heard.append)
        assert gates.learnt is not None
        poison(fleets, gates.learnt.recipients, f"recipient\0{RECIPIENT[1:]}", value, time.time(), time.time() + 900)
        await met(lambda: [each for each in heard if isinstance(each, RecordIgnored)])
        assert await send(service) == "accepted"

    run(story)


def test_times_of_the_future_hold_for_no_longer_than_any_may(fleets: Fleets) -> None:
    async def story() -> None:
        service, gates, _, _ = member(fleets, "a", pair_burst=None)
        assert await send(service, BOB) == "accepted"
        learnt, far = gates.learnt, time.time() + 1e9
        assert learnt is not None
        poison(fleets, learnt.recipients, f"recipient\0{RECIPIENT[1:]}", [131026, 9e8], far, far)
        await until(service, "recipient", RECIPIENT)
        with pytest.raises(GateClosedError) as caught:
            await service.send_text("user", RECIPIENT, "hello")
        assert caught.value.retry_after is not None
        assert caught.value.retry_after <= LONGEST
        growths = SharedGrowths(learnt.pairs, gates.clock)
        poison(fleets, learnt.pairs, "1\0x", [1e9], far, far)
        await met(lambda: growths.get(("1", "x")))
        growth = growths.get(("1", "x"))
        assert growth is not None
        assert growth.last <= gates.clock.now()
        assert growth.seconds() == 256.0
        poison(fleets, learnt.numbers, "cut\0001", [0.0, 0.0, 1e9], far, far)
        pace = SharedPace(learnt.numbers, "1", gates.clock)
        await met(lambda: learnt.numbers.get("cut\0001"))
        cut = pace.cut()
        assert cut is not None
        assert cut[3] <= gates.clock.now()
        assert await send(service, BOB) in ("accepted", "throughput"), "at the lowest rate, for a minute"

    run(story)


@pytest.mark.parametrize("value", [None, {}, [], [1, 2, 3, 4], ["x"], [-1], [True], [1e300]])
def test_numbers_that_are_none_are_ignored(fleets: Fleets, value: Any) -> None:
    async def story() -> None:
        service, gates, _, fleet = member(fleets, "a")
        assert await send(service, BOB) == "accepted"
        heard: list[Any] = []
        fleet.subscribe(heard.append)
        assert gates.learnt is not None
        for store, key in ((gates.learnt.numbers, "cut\0001"), (gates.learnt.pairs, f"1\0{RECIPIENT[1:]}")):
            poison(fleets, store, key, value, time.time(), time.time() + 900)
        ignored = {"whatsapp_gate.numbers", "whatsapp_gate.pairs"}
        await met(lambda: {each.policy for each in heard if isinstance(each, RecordIgnored)} == ignored)
        assert await send(service) == "accepted"

    run(story)


def test_values_of_another_shape_change_no_rate() -> None:
    clock = VirtualClock()
    learnt = alone(clock)
    learnt.numbers.set("cut\0001", [0.5], clock.wall())
    learnt.numbers.set("level\0001", [0], clock.wall())
    pace = SharedPace(learnt.numbers, "1", clock)
    assert (pace.level(), pace.cut()) == (None, None)


# --- pairs -------------------------------------------------------------------------------------------------------


def two_learnt(fleets: Fleets, clock: VirtualClock) -> list[Learnt]:
    made = []
    for name in "ab":
        learnt = Learnt("gates", fleets.member(name, secret=SECRET), clock)
        for store in (learnt.recipients, learnt.pairs, learnt.numbers):
            store.get("joins")
        assert learnt.pairs.fleet.wait_ready(PATIENCE)
        made.append(learnt)
    return made


def test_refusals_of_a_pair_in_a_row_are_counted_by_all(fleets: Fleets) -> None:
    clock = VirtualClock()
    options: dict[str, Any] = {"max_wait": 0.0, "clock": clock, "fleet": None}
    learnt = two_learnt(fleets, clock)
    first, second = (Pairs("pairs", 45, **options, growths=SharedGrowths(each.pairs, clock)) for each in learnt)
    assert first.hit("1", "a", clock.now(), None) == 1.0
    wait_until(lambda: len(second.growths) == 1)
    assert second.hit("1", "a", clock.now() - 1, None) == 0.0, "it was under way: the same burst"
    clock.advance(2)
    assert second.hit("1", "a", clock.now(), None) == 4.0
    wait_until(lambda: getattr(first.growths.get(("1", "a")), "hits", 0) == 2)
    clock.advance(5)
    assert first.hit("1", "a", clock.now(), None) == 16.0
    assert first.hit("1", "b", clock.now(), None) == 1.0
    second.succeeded("1", "a", clock.now() - 20)
    wait_until(lambda: getattr(second.growths.get(("1", "a")), "hits", 0) == 3, "what began before says nothing")
    clock.advance(17)
    second.succeeded("1", "a", clock.now())
    second.succeeded("1", "unknown", clock.now())
    wait_until(lambda: first.growths.get(("1", "a")) is None)
    assert first.hit("1", "a", clock.now(), None) == 1.0
    clock.advance(SERIES)
    assert first.growths.get(("1", "b")) is None


# --- throughput --------------------------------------------------------------------------------------------------


def pacers(fleets: Fleets, clock: VirtualClock) -> list[Throughput]:
    options: dict[str, Any] = {"max_wait": 0.0, "clock": clock, "fleet": None}
    return [
        Throughput(f"pacer {at}", 80.0, 0.85, **options, pace=SharedPace(each.numbers, "1", clock))
        for at, each in enumerate(two_learnt(fleets, clock))
    ]


def hear_until(pacer: Throughput, condition: Callable[[], Any]) -> None:
    def heard() -> Any:
        pacer.hear()
        return condition()

    wait_until(heard)


def test_a_refusal_slows_the_number_down_in_all_processes_and_once(fleets: Fleets) -> None:
    clock = VirtualClock()
    first, second = pacers(fleets, clock)
    ceiling = first.learned.ceiling
    began = clock.now()
    assert first.hit(began, None) == 1.0
    hear_until(second, lambda: second.growth.hits == 1)
    assert second.limiter.rate == pytest.approx(0.7 * ceiling)
    assert second.moving
    assert second.hit(began, None) == 0.0, "one burst cuts once"
    clock.advance(1)
    assert second.hit(clock.now(), None) == 2.0
    assert second.learned.rate(clock.now()) < 0.55 * ceiling
    hear_until(first, lambda: first.growth.hits == 2)
    assert first.learned.rate(clock.now()) == pytest.approx(second.learned.rate(clock.now()))
    clock.advance(3)
    first.succeeded(clock.now())
    first.succeeded(clock.now())
    hear_until(second, lambda: second.growth.hits == 0)
    assert second.learned.rate(clock.now()) == pytest.approx(first.learned.rate(clock.now()))
    clock.advance(60)
    for pacer in (first, second):
        pacer.follow(clock.now())
        assert pacer.limiter.rate == pytest.approx(ceiling)


def test_the_level_that_one_was_told_all_use(fleets: Fleets) -> None:
    clock = VirtualClock()
    first, second = pacers(fleets, clock)
    first.use_level(1_000.0)
    hear_until(second, lambda: second.learned.level == 1_000.0)
    assert second.limiter.rate == pytest.approx(850.0)
    assert first._pace is not None
    store = first._pace._store
    (known,) = [entry for entry in store._share.entries.values() if entry.value == [1_000.0]]
    first.use_level(1_000.0)
    assert known in store._share.entries.values(), "told once"
    clock.advance(LONGEST / 2 + 1)
    first.use_level(1_000.0)
    assert known not in store._share.entries.values(), "and again in time"


def test_the_gates_of_a_fleet_hear_of_the_rate_with_a_message(fleets: Fleets) -> None:
    async def story() -> None:
        _, hears, _, _ = member(fleets, "a", pair_burst=None)
        service, gates, _, _ = member(fleets, "b", pair_burst=None)
        (pacer,) = gates._pacers_of("1")
        assert await send(service) == "accepted"
        hears.observe_webhook_error(130429, phone_number_id="1")
        await until_told(service, lambda: pacer.learned.cut()[1] > -math.inf)
        hears.observe_throughput("HIGH", phone_number_id="1")
        await until_told(service, lambda: pacer.learned.level == 1_000.0)
        await until(service, "accepted", BOB)

    run(story)


async def until_told(service: WhatsAppService, condition: Callable[[], Any]) -> None:
    """Send until it is so: messages take over what the fleet knows."""
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end
        await send(service, BOB)
        await asyncio.sleep(0.01)


# --- tokens ------------------------------------------------------------------------------------------------------


def test_a_refused_token_is_refused_for_all_that_have_it_and_for_no_other(fleets: Fleets) -> None:
    async def story() -> None:
        first, _, api, _ = member(fleets, "a", **QUIET)
        second, _, same, _ = member(fleets, "b", **QUIET)
        third, _, new, _ = member(fleets, "c", **QUIET)
        new.token = "token-2"
        assert {await send(service) for service in (first, second, third)} == {"accepted"}
        await refuse(first, api, 190)
        same.health = told(190)
        await until(second, "credential", RECIPIENT)
        with pytest.raises(GateClosedError) as caught:
            await second.send_text("user", RECIPIENT, "hello")
        assert (caught.value.code, caught.value.latched) == (190, True)
        assert await send(third) == "accepted"
        same.token = "token-2"
        assert await send(second) == "accepted", "another token"
        api.token = same.token = "token-3"
        assert await send(first) == await send(second) == "accepted"
        same.token = "token-1"
        assert await send(second) == "credential", "the old one is known to be refused"

    run(story)


def test_a_token_that_one_finds_good_opens_for_all_that_have_it(fleets: Fleets) -> None:
    async def story() -> None:
        first, gates, api, _ = member(fleets, "a", **QUIET)
        second, others, _, _ = member(fleets, "b", **QUIET)
        assert {await send(service) for service in (first, second)} == {"accepted"}
        for opens in (gates.new_token, lambda: gates.open("credential"), None):
            await refuse(first, api, 190)
            await until(second, "credential", RECIPIENT)
            if opens is not None:
                opens()
            else:
                (door,) = gates._doors_of(None)
                breaker = door._switches[Scope.CREDENTIAL, None].breaker
                breaker.reset(reason="by hand, in the registry")
                assert await send(first) == "accepted", "and tells it"
            await until(second, "accepted", RECIPIENT)
            await until(first, "accepted", RECIPIENT)
        assert others.learnt is not None
        assert others.learnt.refused("1", "token-1") is None

    run(story)


def test_a_probe_that_is_let_in_opens_for_all_and_one_that_is_not_says_so_again(fleets: Fleets) -> None:
    async def story() -> None:
        # The clock of the second one stands still: its own probe is never due. So the other one is ahead, too.
        clock, still = VirtualClock(), VirtualClock()
        first, gates, api, _ = member(fleets, "a", **QUIET, clock=clock)
        second, _, same, _ = member(fleets, "b", **QUIET, clock=still)
        assert {await send(service) for service in (first, second)} == {"accepted"}
        (door,) = gates._doors_of(None)
        assert gates.learnt is not None
        for asks in (send, None):
            await refuse(first, api, 190)
            await until(second, "credential", RECIPIENT)
            before = gates.learnt.numbers.get("token\0001\0token-1")
            assert before is not None
            api.health = told(190)
            clock.advance(61)
            assert await send(first) == "credential"
            after = gates.learnt.numbers.get("token\0001\0token-1")
            assert after is not None
            assert after[1] > before[1], "told again, or it would be forgotten"
            api.health = None
            clock.advance(121)
            if asks is None:
                assert await door.wait(RECIPIENT, None) == 0.0, "the outbox asks, too"
            else:
                assert await send(first) == "accepted"
            await until(second, "accepted", RECIPIENT)
        assert same.probes == []

    run(story)


def test_a_token_that_was_replaced_while_a_request_was_under_way_is_not_refused_for_all(fleets: Fleets) -> None:
    async def story() -> None:
        first, gates, api, _ = member(fleets, "a", **QUIET)
        second, _, new, _ = member(fleets, "b", **QUIET)
        new.token = "token-2"
        assert {await send(service) for service in (first, second)} == {"accepted"}
        before = api._next

        def replaced() -> Any:
            api.token = "token-2"
            return before()

        api._next = replaced
        await refuse(first, api, 190)
        assert gates.learnt is not None
        assert gates.learnt.refused("1", "token-2") is None
        assert await send(second) == "accepted"
        gates.observe_webhook_error(190)
        assert gates.learnt.refused("1", "token-2") is None, "of a webhook nobody knows the token"

    run(story)


def test_a_gate_that_somebody_holds_shut_stays_so_when_the_token_is_found_good(fleets: Fleets) -> None:
    async def story() -> None:
        first, gates, api, _ = member(fleets, "a", **QUIET)
        second, others, _, _ = member(fleets, "b", **QUIET)
        assert {await send(service) for service in (first, second)} == {"accepted"}
        await refuse(first, api, 190)
        await until(second, "credential", RECIPIENT)
        (door,) = others._doors_of(None)
        switch = door._switches[Scope.CREDENTIAL, None]
        switch.breaker.force_open()
        gates.open("credential")
        await met(lambda: others.learnt is not None and others.learnt.refused("1", "token-1") is None)
        assert await send(second) == "credential"
        assert switch.breaker.state is CircuitState.FORCED_OPEN
        assert not switch.told

    run(story)


def test_tokens_of_functions_are_each_process_s_own(fleets: Fleets) -> None:
    async def story() -> None:
        first, gates, api, _ = member(fleets, "a", **QUIET)
        api.token = lambda: "token-1"
        assert await send(first) == "accepted"
        await refuse(first, api, 190)
        assert await send(first) == "credential"
        assert gates.learnt is not None
        assert len(gates.learnt.numbers) == 0

    run(story)


# --- all of it ---------------------------------------------------------------------------------------------------


def test_no_recipient_and_no_token_is_in_redis(fleets: Fleets) -> None:
    async def story() -> None:
        service, gates, api, fleet = member(fleets, "a")
        api.token = "EAAsecret"
        for code in (131026, 131049, 131050, 130472, 130497, 131207, 131056, 130429, 190):
            for recipient in (RECIPIENT, BOB, "US.13491208655302741918", "group-1234567890"):
                gates.observe_webhook_error(code, phone_number_id="1", recipient=recipient, template=("offer", "fr"))
        await refuse(service, api, 190, "+4915112345678") if await send(service) == "accepted" else None
        assert gates.learnt is not None
        gates.learnt.refuse("1", "EAAsecret", 190)
        gates.observe_inbound(phone_number_id="1", recipient=RECIPIENT)
        gates.observe_preference(BOB, stopped=True)
        assert fleet.flush(PATIENCE)
        text = everything(fleets)
        for kind in ("recipients", "pairs", "numbers"):
            assert f"shared_store:whatsapp_gate.{kind}" in text
        for personal in (RECIPIENT[1:], BOB[1:], "1349120865530", "1234567890", "EAAsecret", "offer"):
            assert personal not in text
        assert all(fleets.client.pttl(key) > 0 for key in fleets.written())

    run(story)


def test_one_process_receives_the_webhook_and_another_one_sends(redis_server: RedisServer) -> None:
    def start(what: str) -> subprocess.Popen[str]:
        program = str(Path(__file__).with_name("_program.py"))
        words = [sys.executable, program, what, redis_server.url, "two-processes:"]
        return subprocess.Popen(words, stdout=subprocess.PIPE, text=True, cwd=ROOT)

    with start("sends") as sender:
        assert sender.stdout is not None
        assert sender.stdout.readline() == "sent\n"
        with start("receives") as receiver:
            assert receiver.stdout is not None
            assert receiver.stdout.read() == "told\n"
        *before, last = sender.stdout.read().splitlines()
        assert set(before) <= {"sent"}
        assert last == "kept back 131026"
    assert (sender.returncode, receiver.returncode) == (0, 0)


# --- what was found by looking for it ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "observe",
    [
        lambda gates: gates.observe_webhook_error(131042, phone_number_id="9", waba_id="2"),
        lambda gates: gates.observe_restriction(waba_id="2"),
    ],
)
def test_a_process_whose_client_knows_no_account_closes_its_gate_for_those_that_do(
    fleets: Fleets, observe: Callable[[Gates], None]
) -> None:
    async def story() -> None:
        sender, _, api, _ = member(fleets, "a", **QUIET)
        hears, nameless = Gates(fleet=fleets.member("b", secret=SECRET), **QUIET), Api(OK)
        nameless.phone_number_id, nameless.waba_id = "9", None
        door = hears.attach(nameless)
        assert await send(sender) == "accepted"
        api.health = healthy("BLOCKED")
        observe(hears)
        assert await door.wait(BOB, None) > 0, "it may be of that account"
        await until(sender, "account", BOB)

    run(story)


def test_the_pace_of_a_process_that_only_hears_what_comes_in_recovers_and_is_that_of_all(fleets: Fleets) -> None:
    clock = VirtualClock()
    first, second = pacers(fleets, clock)
    ceiling = first.learned.ceiling
    first.hit(clock.now(), None)
    assert first.limiter.rate < ceiling
    clock.advance(120)
    first.came_in()
    assert first.limiter.rate == pytest.approx(ceiling)
    assert not first.moving
    second.use_level(1_000.0)

    def came_in() -> bool:
        first.came_in()
        return first.limiter.rate == pytest.approx(850.0)

    wait_until(came_in)


def test_a_refusal_of_the_token_of_before_says_nothing_of_the_one_that_took_its_place(fleets: Fleets) -> None:
    async def story() -> None:
        service, gates, api, _ = member(fleets, "a", **QUIET)
        assert await send(service) == "accepted"
        before = api._next

        def replaced() -> Any:
            api.token = "token-2"
            return before()

        api._next = replaced
        await refuse(service, api, 190)
        api._next = before
        assert await send(service) == "accepted"
        assert api.probes == [], "nobody had to look"
        assert gates.learnt is not None
        assert gates.learnt.refused("1", "token-2") is None

    run(story)


@pytest.mark.parametrize("by_hand", [lambda gates: gates.open("credential"), lambda gates: gates.new_token()])
def test_what_is_opened_by_hand_is_open_for_all_that_have_the_token_of_any_client(
    fleets: Fleets, by_hand: Callable[[Gates], None]
) -> None:
    async def story() -> None:
        other, gates, new, _ = member(fleets, "a", **QUIET)
        new.token = "token-2"
        api = Api(OK)
        service = WhatsAppService(ResilientWhatsAppClient(api, gates=gates))  # of the same number
        elsewhere, _, _, _ = member(fleets, "b", **QUIET)
        assert {await send(each) for each in (other, service, elsewhere)} == {"accepted"}
        await refuse(service, api, 190)
        await until(elsewhere, "credential", RECIPIENT)
        assert await send(other) == "accepted", "it has another token"
        assert await send(elsewhere) == "credential", "which says nothing of the first"
        assert gates.learnt is not None
        assert gates.learnt.refused("1", "token-1") == 190
        by_hand(gates)
        await until(elsewhere, "accepted", RECIPIENT)

    run(story)


def test_an_old_refusal_that_others_tell_of_does_not_end_a_slow_start(fleets: Fleets) -> None:
    clock = VirtualClock()
    first, second = pacers(fleets, clock)
    first.hit(clock.now(), None)
    hear_until(second, lambda: second.growth.hits == 1)
    clock.advance(100)
    second.restart()
    slow = second.learned.rate(clock.now())
    assert slow < 0.2 * second.learned.ceiling
    first.succeeded(clock.now())
    hear_until(second, lambda: second.growth.hits == 0)
    assert second.learned.rate(clock.now()) == pytest.approx(slow)


def test_templates_leave_room_for_what_is_learnt_of_numbers() -> None:
    clock = VirtualClock()
    learnt = alone(clock)
    gate = Recipients("recipients", clock=clock, marketing=SharedOffers(learnt.numbers, clock))
    for number in range(1_500):
        gate.learn("1", 131049, 60.0, (f"offer {number}", "fr"), None)
    assert len(learnt.numbers) == 1_000

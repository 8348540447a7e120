"""Each limit in its scope: its error, how long one must wait, and the headers that warn."""

from __future__ import annotations

import json
from typing import Any

import pytest

from resilience_whatsapp.simulator import Limits, LimitsError, ManualClock, SimTemplate
from resilience_whatsapp.simulator.limits.meters import Bucket, Pairs, Rolling, Users
from tests.whatsapp.simulator.tools import USER, Api, clock_of, receiver, run

OFFER = {"type": "template", "template": {"name": "offer", "language": {"code": "fr"}}}
TEMPLATES = [SimTemplate("offer", "fr", category="MARKETING"), SimTemplate("note", "fr")]


def play(story: Any, **limits: Any) -> Any:
    return run(story, clock=ManualClock(), limits=Limits(**limits), templates=TEMPLATES)


# --- the meters -----------------------------------------------------------------------------------


def test_a_bucket_gives_a_second_of_messages_at_once_and_then_its_rate() -> None:
    bucket = Bucket(10.0)
    for _ in range(10):
        assert bucket.wait(100.0) == 0.0
        bucket.take(100.0)
    assert bucket.wait(100.0) == pytest.approx(0.1)
    assert bucket.wait(100.05) == pytest.approx(0.05)
    assert bucket.wait(100.1) == 0.0
    assert bucket.used(100.5) == pytest.approx(50.0)
    assert bucket.used(101.0) == 0.0


def test_a_pair_may_burst_and_then_pays_one_message_back_in_six_seconds() -> None:
    pairs, pair = Pairs(6.0, 45), ("1", "2")
    for _ in range(45):
        assert pairs.wait(pair, 0.0) == 0.0
        pairs.take(pair, 0.0)
    assert pairs.wait(pair, 0.0) == 6.0
    assert pairs.wait(pair, 6.0) == 0.0
    assert pairs.wait(("1", "3"), 0.0) == 0.0
    pairs.take(pair, 6.0)
    assert pairs.wait(pair, 6.0) == 6.0
    assert pairs.wait(pair, 6.0 + 45 * 6.0) == 0.0


def test_the_strict_reading_of_pairs_waits_two_minutes_after_a_burst_of_twenty() -> None:
    pairs, pair = Pairs(6.0, 45, strict=True), ("1", "2")
    for _ in range(20):
        assert pairs.wait(pair, 1.0) == 0.0
        pairs.take(pair, 1.0)
    assert pairs.wait(pair, 7.0) == 0.0  # the burst is not over
    assert pairs.wait(pair, 8.0) == 113.0
    assert pairs.wait(pair, 121.0) == 0.0
    pairs.take(pair, 121.0)
    assert pairs.wait(pair, 121.0) == 0.0


def test_a_rolling_count_forgets_in_sixtieths_of_its_window() -> None:
    rolling = Rolling(3600.0)
    for minute in range(10):
        rolling.add(minute * 60.0 + 5.0)
        rolling.add(minute * 60.0 + 6.0)
    assert rolling.count(600.0) == 20
    assert rolling.wait(21, 600.0) == 0.0
    assert rolling.wait(20, 600.0) == 3000.0
    assert rolling.wait(18, 600.0) == 3060.0
    assert rolling.count(3600.0) == 18
    assert rolling.count(9999.0) == 0


def test_users_count_from_their_last_message_on() -> None:
    users = Users(10.0)
    users.take("a", 0.0)
    users.take("b", 1.0)
    users.take("a", 5.0)
    assert users.wait("a", 2, 6.0) == 0.0
    assert users.wait("c", 2, 6.0) == 5.0
    assert users.wait("c", 3, 6.0) == 0.0
    assert users.wait("c", 2, 11.0) == 0.0


# --- messages -------------------------------------------------------------------------------------


def test_a_number_sends_its_throughput_and_what_comes_in_counts() -> None:
    async def story(api: Api) -> None:
        users = [f"+336{index:08d}" for index in range(20)]
        for index in range(4):
            api.simulator.inbound(users[index])
        assert [await api.code(to=users[index]) for index in range(8)] == [None] * 6 + [130429] * 2
        other = api.simulator.world.add_number(api.simulator.account)
        assert await api.code(phone=other.id) is None, "each number has a limit of its own"
        other.throughput = 2
        assert [await api.code(phone=other.id) for _ in range(3)] == [None, None, 130429]
        await clock_of(api).advance(0.1)
        assert await api.code() is None
        report = api.simulator.report()
        assert (report.limits["throughput"].refused, report.limits["throughput"].worst) == (3, 2)
        assert report.accepted == 10

    play(story, throughput=10.0)


def test_a_pair_over_its_burst_is_told_131056_and_others_go_on() -> None:
    async def story(api: Api) -> None:
        assert [await api.code() for _ in range(7)] == [None] * 5 + [131056] * 2
        assert await api.code(to="+33600000000") is None
        assert await api.code(to="+33 6 12 34 56 78") == 131056, "the same user, written in another way"
        await clock_of(api).advance(3.0)
        assert await api.code() == 131056, "still the same episode"
        await clock_of(api).advance(3.0)
        assert [await api.code() for _ in range(2)] == [None, 131056]
        report = api.simulator.report()
        number = api.simulator.phone_number_id
        assert report.pairs == {f"{number}/{USER}": 5}
        broken = report.limits["pair"]
        assert (broken.refused, broken.episodes, broken.after_warning, broken.worst) == (5, 2, 1, 5)

    play(story, pair_seconds=6.0, pair_burst=5)


def test_limits_that_are_not_enforced_only_count() -> None:
    async def story(api: Api) -> None:
        assert [await api.code() for _ in range(7)] == [None] * 7
        assert api.simulator.report().limits["pair"].refused == 2

    play(story, pair_seconds=6.0, pair_burst=5, enforced=False)


def test_an_upgrade_takes_a_minute_of_maintenance_and_gives_a_thousand_in_a_second() -> None:
    async def story(api: Api) -> None:
        async with receiver() as hook:
            await api.simulator.subscribe(hook.url)
            api.simulator.upgrade()
            assert await api.code() == 131057
            await clock_of(api).advance(60.0)
            assert await api.code() is None
            await hook.until(1)
            assert hook.values()[0]["event"] == "THROUGHPUT_UPGRADE"
        node = (await api.ask("GET", f"/v25.0/{api.simulator.phone_number_id}"))[1]
        assert node["throughput"] == {"level": "HIGH"}
        assert [await api.code(to=f"+3361234{index:04d}") for index in range(30)] == [None] * 30

    play(story, throughput=10.0)


def test_a_portfolio_writes_to_so_many_users_in_a_day_outside_their_windows() -> None:
    async def story(api: Api) -> None:
        simulator = api.simulator
        users = [f"+3360000000{index}" for index in range(5)]
        simulator.inbound(users[4])
        second = simulator.world.add_number(simulator.account)
        assert await api.code(to=users[0]) is None
        assert await api.code(to=users[1], phone=second.id) is None
        assert await api.code(to=users[2], phone=second.id) == 131048, "numbers of a portfolio share it"
        assert await api.code(to=users[0], phone=second.id) is None, "no new user"
        assert await api.code(to=users[4]) is None, "within the window of a user that wrote"
        elsewhere = simulator.world.add_number(simulator.world.add_account(simulator.world.add_portfolio()))
        assert await api.code(to=users[2], phone=elsewhere.id) is None
        await clock_of(api).advance(86_400.0)
        assert await api.code(to=users[2]) is None

    play(story, messaging=2)


def test_marketing_beyond_a_users_share_is_accepted_and_fails_by_webhook() -> None:
    async def story(api: Api) -> None:
        note = {"type": "template", "template": {"name": "note", "language": {"code": "fr"}}}
        for message in (OFFER, note, OFFER, OFFER, note):
            assert await api.code(**message) is None
        assert [entry.failed for entry in api.simulator.book.entries] == [None, None, None, 131049, None]
        assert api.simulator.report().failed == {131049: 1}
        await clock_of(api).advance(2 * 86_400.0)
        await api.code(**OFFER)
        assert api.simulator.book.entries[-1].failed is None

    play(story, marketing=2)


def test_spam_closes_a_number_for_hours() -> None:
    async def story(api: Api) -> None:
        strangers = [f"+3360000000{index}" for index in range(4)]
        assert [await api.code(to=user) for user in strangers] == [None, None, 131048, 131048]
        await clock_of(api).advance(3599.0)
        assert await api.code(to=strangers[0]) == 131048
        await clock_of(api).advance(1.0)
        assert await api.code(to=strangers[0]) is None

    play(story, spam=2, spam_seconds=3600.0)


def test_a_throttled_flow_opens_ten_times_in_an_hour() -> None:
    def flow(id: str) -> dict[str, Any]:
        action = {"name": "flow", "parameters": {"flow_id": id}}
        return {"type": "interactive", "interactive": {"type": "flow", "action": action}}

    async def story(api: Api) -> None:
        api.simulator.limiter.throttled_flows.add("7")
        assert [await api.code(**flow("7")) for _ in range(3)] == [None, None, 132069]
        assert [await api.code(**flow("8")) for _ in range(3)] == [None] * 3
        await clock_of(api).advance(3660.0)
        assert await api.code(**flow("7")) is None

    play(story, flow=2)


def test_a_blocked_number_or_account_refuses_with_the_code_of_the_block() -> None:
    async def story(api: Api) -> None:
        simulator = api.simulator
        simulator.block(131031)
        assert await api.code() == 131031
        await clock_of(api).advance(1e6)
        assert await api.code() == 131031
        simulator.unblock()
        assert await api.code() is None
        simulator.block(131048, seconds=10.0)
        await clock_of(api).advance(10.0)
        assert await api.code() is None
        simulator.block(368, waba_id=simulator.waba_id)
        second = simulator.world.add_number(simulator.account)
        elsewhere = simulator.world.add_number(simulator.world.add_account(simulator.world.add_portfolio()))
        assert [await api.code(phone=number.id) for number in (second, elsewhere)] == [368, None]
        simulator.unblock(waba_id=simulator.waba_id)
        assert await api.code() is None

    play(story)


def test_what_one_limit_refuses_uses_nothing_up_of_another() -> None:
    async def story(api: Api) -> None:
        assert await api.code() is None
        for _ in range(5):
            assert await api.code() == 131056
        others = [f"+3360000000{index}" for index in range(4)]
        assert [await api.code(to=user) for user in others] == [None, None, None, 130429]
        await clock_of(api).advance(10.0)
        assert [await api.code(to=user) for user in others] == [None, None, None, None]

    play(story, throughput=4.0, pair_seconds=6.0, pair_burst=1, messaging=6, spam=20)


# --- calls ----------------------------------------------------------------------------------------


def test_management_calls_are_warned_of_in_minutes_and_then_refused_and_never_cost_a_send() -> None:
    async def story(api: Api) -> None:
        simulator = api.simulator
        path = f"/v25.0/{simulator.waba_id}/message_templates"
        seen = []
        for _ in range(5):
            status, answer, headers = await api.ask("GET", path)
            usage = json.loads(headers.get("X-Business-Use-Case-Usage", "{}"))
            rows = usage.get(simulator.waba_id, [{}])
            seen.append((status, answer.get("error", {}).get("code"), rows[0].get("call_count")))
        assert seen == [(200, None, None), (200, None, 50), (200, None, 75), (200, None, 100), (400, 80007, 100)]
        assert 55 <= rows[0]["estimated_time_to_regain_access"] <= 60
        assert rows[0]["type"] == "whatsapp_business_management"
        assert await api.code() is None
        simulator.world.add_token("of another app", app_id="5")
        assert await api.list_code("of another app") is None
        await clock_of(api).advance(3600.0)
        assert await api.list_code() is None
        broken = simulator.report().limits["management"]
        assert (broken.refused, broken.episodes) == (1, 1)

    play(story, management=4, usage_from=50.0)


def test_an_account_without_a_number_has_two_hundred_calls() -> None:
    async def story(api: Api) -> None:
        empty = api.simulator.world.add_account(api.simulator.account.portfolio)
        codes = [await api.list_code(waba_id=empty.id) for _ in range(201)]
        assert codes == [None] * 200 + [80007]
        assert await api.list_code() is None

    play(story, management=5000)


def test_apps_and_tokens_have_their_calls_too() -> None:
    async def story(api: Api) -> None:
        api.simulator.world.add_token("second")
        status, _, headers = await api.ask("GET", f"/v25.0/{api.simulator.waba_id}/message_templates")
        assert (status, json.loads(headers["X-App-Usage"])["call_count"]) == (200, 50)
        assert [await api.list_code() for _ in range(2)] == [None, 17]
        assert [await api.list_code("second") for _ in range(3)] == [None, None, 4]
        assert await api.code() is None

    play(story, app=2, app_users=2, token=2)


def test_sends_are_warned_of_a_throughput_that_is_used_up() -> None:
    async def story(api: Api) -> None:
        seen = []
        for _ in range(4):
            headers = (await api.send())[2]
            seen.append(json.loads(headers.get("X-Business-Use-Case-Usage", "{}")))
        assert seen[0] == {}
        row = seen[3][api.simulator.waba_id][0]
        assert (row["type"], row["call_count"]) == ("whatsapp", 80)

    play(story, throughput=5.0, usage_from=30.0)


def test_the_status_of_what_is_refused_can_be_chosen() -> None:
    async def story(api: Api) -> None:
        assert [(await api.send())[0] for _ in range(2)] == [200, 429]

    play(story, throughput=1.0, status=429)


# --- settings -------------------------------------------------------------------------------------


def test_nothing_is_limited_unless_asked_for() -> None:
    async def story(api: Api) -> None:
        assert api.simulator.limits == Limits.none() == Limits()
        assert [await api.code() for _ in range(100)] == [None] * 100
        api.simulator.limits = Limits.real(pair_burst=1)
        assert [await api.code() for _ in range(2)] == [None, 131056]
        api.simulator.limits = Limits.none()
        assert await api.code() is None

    run(story)


def test_the_real_limits_are_those_of_the_documentation() -> None:
    real = Limits.real()
    assert (real.throughput, real.throughput_high, real.pair_seconds, real.pair_burst) == (80.0, 1000.0, 6.0, 45)
    assert (real.messaging, real.management, real.app, real.flow, real.enforced) == (250, 5000, 200, 10, True)
    assert Limits.real(throughput=None) == Limits.real().__class__(
        pair_seconds=6.0, messaging=250, marketing=2, management=5000, app=200, flow=10
    )


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"throughput": 0}, "limits.throughput must be a number above 0, or None for no limit"),
        ({"throughput": True}, "limits.throughput must be a number"),
        ({"pair_burst": None}, "limits.pair_burst must be a number above 0$"),
        ({"messaging": "5"}, "limits.messaging must be"),
        ({"enforced": 1}, "limits.enforced must be true or false"),
    ],
)
def test_what_cannot_be_a_limit_is_refused_by_its_name(options: dict[str, Any], text: str) -> None:
    with pytest.raises(LimitsError, match=text):
        Limits(**options)


def test_forgetting_gives_all_limits_back() -> None:
    async def story(api: Api) -> None:
        assert [await api.code() for _ in range(2)] == [None, 131056]
        api.simulator.reset()
        assert await api.code() is None
        assert api.simulator.report().limits == {}

    play(story, pair_seconds=6.0, pair_burst=1)

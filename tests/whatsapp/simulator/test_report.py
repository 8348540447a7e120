"""The report: what the simulator accepted, and what the sender's records are worth."""

from __future__ import annotations

from typing import Any

import aiohttp
import pytest

from resilience_whatsapp.simulator import Compared, Fault, Limits, ManualClock, RecordsError, Simulator
from tests.whatsapp.simulator.tools import Api, clock_of, run


async def send(api: Api, opaque: str | None, body: str = "hi") -> None:
    try:
        await api.send(biz_opaque_callback_data=opaque, text={"body": body})
    except aiohttp.ClientError:
        pass


def test_messages_accepted_twice_are_found_by_opaque_id_and_by_what_they_stand_for() -> None:
    async def story(api: Api) -> None:
        for opaque, body in (("a", "1"), ("a", "1"), ("b", "2"), ("c", "3"), ("d", "3"), (None, "4")):
            await send(api, opaque, body)
        report = api.simulator.report()
        assert (report.accepted, report.answered, report.duplicates) == (6, 6, {"a": 2})
        assert sorted(report.duplicates_by_key.values()) == [2, 2], "a twice, and c and d say the same"
        keyed = api.simulator.report({"c": {"state": "sent", "key": "C"}, "d": {"state": "sent", "key": "D"}})
        assert list(keyed.duplicates_by_key.values()) == [2]
        assert report.requests == {"messages": 6}

    run(story)


def test_what_a_message_stands_for_can_be_told_from_its_payload() -> None:
    def key(payload: dict[str, Any]) -> str | None:
        return payload["text"]["body"] or None

    async def story(api: Api) -> None:
        for body, to in (("x", "+33600000001"), ("x", "+33600000002")):
            await api.send(text={"body": body}, to=to)
        assert api.simulator.report().duplicates_by_key == {"x": 2}

    run(story, business_key=key)


def test_the_senders_records_are_compared_with_the_book() -> None:
    async def story(api: Api) -> None:
        api.simulator.script(Fault("fail_later", code=131026))
        for opaque in ("failed", "accepted", "read", "not sure", "dead but sent", "foreign", None):
            await send(api, opaque)
        api.simulator.script(Fault("reset_after_accept"))
        await send(api, "unanswered")
        compared = api.simulator.report(
            {
                "failed": "failed",
                "accepted": "accepted",
                "read": {"state": "read"},
                "not sure": "unknown",
                "unanswered": "unknown",
                "never came": "unknown",
                "dead but sent": "dead",
                "dead": "dead",
                "in the queue": "queued",
                "under way": "in_flight",
                "claimed": "delivered",
                "forgotten": None,
            }
        ).compared
        assert compared == Compared(
            records=12,
            lost=("claimed", "forgotten"),
            pending=("in the queue", "under way"),
            unknown_accepted=("not sure", "unanswered"),
            unknown_not_accepted=("never came",),
            ended_but_accepted=("dead but sent",),
            unrecorded=2,
        )
        assert api.simulator.report().compared is None
        assert (api.simulator.report().accepted, api.simulator.report().answered) == (8, 7)

    run(story)


@pytest.mark.parametrize("records", [{"a": "lost"}, {"a": {}, 5: "sent"}, {"a": {"state": 5}}, {"a": ["sent"]}])
def test_records_that_are_none_are_refused(records: Any) -> None:
    with pytest.raises(RecordsError, match="records must map"):
        Simulator().report(records)


def test_refusals_of_one_wait_are_one_episode_and_late_ones_did_not_listen() -> None:
    async def story(api: Api) -> None:
        for wait in (0.0, 0.0, 1.0, 2.0, 1.0):  # at 0 0 1 3 4 s; the second message may go at 6 s
            await clock_of(api).advance(wait)
            await api.send()
        await clock_of(api).advance(1.9)
        await api.send(to="+33600000000")
        broken = api.simulator.report().limits["pair"]
        assert (broken.refused, broken.episodes, broken.after_warning, broken.worst) == (4, 1, 2, 4)

    run(story, clock=ManualClock(), limits=Limits(pair_seconds=6.0, pair_burst=1))


# --- over HTTP ------------------------------------------------------------------------------------


def test_other_processes_steer_it_over_http() -> None:
    async def story(api: Api) -> None:
        async def post(path: str, payload: Any) -> Any:
            return (await api.ask("POST", f"/_sim/{path}", payload))[:2]

        assert await post("limits", {"base": "real", "pair_burst": 1}) == (200, {"success": True})
        assert [await api.code() for _ in range(2)] == [None, 131056]
        assert await post("limits", {}) == (200, {"success": True})
        assert api.simulator.limits == Limits.none()
        assert await post("block", {"code": 131031, "seconds": 3600}) == (200, {"success": True})
        assert await api.code() == 131031
        assert (await api.ask("DELETE", f"/_sim/block?phone_number_id={api.simulator.phone_number_id}"))[0] == 200
        assert await post("upgrade", None) == (200, {"success": True})
        assert await api.code() == 131057
        api.simulator.unblock()
        status, answer = await post("inbound", {"from": "33600000009", "text": "Hi", "content": None})
        assert (status, answer["id"][:6]) == (200, "wamid.")
        assert await post("webhooks", {"url": "http://127.0.0.1:1/", "waba_ids": ["1"]}) == (200, {"receivers": 1})
        assert (await api.ask("DELETE", "/_sim/webhooks"))[:2] == (200, {"receivers": 0})
        report = (await api.ask("GET", "/_sim/report"))[1]
        assert (report["accepted"], report["compared"], report["limits"]["pair"]["refused"]) == (1, None, 1)
        status, report = await post("report", {"records": {"a": "accepted"}})
        assert (status, report["compared"]["lost"]) == (200, ["a"])

    run(story)


@pytest.mark.parametrize(
    ("path", "payload", "named"),
    [
        ("limits", {"pairs": 1}, "pair_seconds"),
        ("limits", {"base": "x"}, "base"),
        ("limits", {"messaging": 0}, "limits.messaging"),
        ("limits", 5, "object"),
        ("block", {}, "code"),
        ("block", {"code": 1, "seconds": "x"}, "seconds"),
        ("block", {"code": 1, "phone_number_id": "9"}, "phone_number_id"),
        ("block", {"code": 1, "waba_id": 9}, "waba_id"),
        ("block", {"code": 1, "typo": 9}, "seconds"),
        ("upgrade", [5], "phone_number_id"),
        ("inbound", {"text": "x"}, "from"),
        ("inbound", {"from": "1", "typo": "x"}, "name"),
        ("inbound", {"from": "1", "text": 5}, "text"),
        ("inbound", {"from": "1", "content": 5}, "content"),
        ("inbound", {"from": "1", "phone_number_id": "9"}, "phone_number_id"),
        ("webhooks", {"url": "x"}, "url"),
        ("webhooks", {"url": "http://a/", "typo": "x"}, "app_secret"),
        ("webhooks", {"url": "http://a/", "version": 5}, "version"),
        ("webhooks", {"url": "http://a/", "waba_ids": "1"}, "waba_ids"),
        ("webhooks", {"url": "http://127.0.0.1:1/", "verify_token": "x"}, "handshake"),
        ("webhooks", [], "url"),
        ("report", {}, "records"),
        ("report", [], "records"),
        ("report", {"records": {"a": "lost"}}, "states are"),
    ],
)
def test_what_cannot_be_steered_is_refused_with_its_field(path: str, payload: Any, named: str) -> None:
    async def story(api: Api) -> None:
        status, answer, _ = await api.ask("POST", f"/_sim/{path}", payload)
        assert status == 400
        assert named in answer["error"]

    run(story)


def test_a_block_of_an_unknown_number_cannot_be_ended() -> None:
    async def story(api: Api) -> None:
        assert (await api.ask("DELETE", "/_sim/block?phone_number_id=9"))[0] == 400

    run(story)

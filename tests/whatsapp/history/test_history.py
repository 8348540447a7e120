"""A story is the same in whatever order and however often its parts are told; it is found, and forgotten."""

from __future__ import annotations

import asyncio
import functools
import itertools
import threading
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest
from attrs import evolve

from resilience_core import ConfigurationError
from resilience_core.testing import VirtualClock
from resilience_whatsapp import AmbiguousOutcomeError, ErrorClass, MessageRecord, MessageStatus
from resilience_whatsapp.errors import graph_error
from resilience_whatsapp.history import History, Trouble, _history
from resilience_whatsapp.history._stories import status_after, trouble_of
from resilience_whatsapp.records import later_status
from resilience_whatsapp.webhooks import StatusUpdate, UnknownUpdate
from tests.whatsapp.fakes import FakeClock, Stub, service_over

ID, WAMID = "0123456789abcdef" * 2, "wamid.1"
NUMBER = "+33612345678"


def real(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    @functools.wraps(test)
    def run(*args: Any, **named: Any) -> None:
        asyncio.run(test(*args, **named))

    return run


def record(**changes: Any) -> MessageRecord:
    first = MessageRecord(
        id=ID,
        user_id="ann",
        recipient=NUMBER,
        kind="template",
        template="welcome",
        language="fr",
        delivery="at_most_once",
        status=MessageStatus.ACCEPTED,
        wamid=WAMID,
        attempts=1,
        possible_duplicate=False,
        started_at=100.0,
        duration=0.5,
        error=None,
    )
    return evolve(first, **changes)


def told(status: str, at: float | None = 200.0, **changes: Any) -> StatusUpdate:
    values = {"wamid": WAMID, "record_id": ID, "recipient": NUMBER[1:], **changes}
    return StatusUpdate(topic="messages", status=status, at=at, **values)


@pytest.fixture(params=["memory", "sqlite"])
def path(request: pytest.FixtureRequest, tmp_path: Path) -> Path | None:
    return tmp_path / "history.db" if request.param == "sqlite" else None


# --- the order of statuses ------------------------------------------------------------------------------------------


STATUSES = [
    MessageStatus.SENT,
    MessageStatus.DELIVERED,
    MessageStatus.READ,
    MessageStatus.PLAYED,
    MessageStatus.FAILED,
]
BEGINNINGS = [
    MessageStatus.QUEUED,
    MessageStatus.IN_FLIGHT,
    MessageStatus.ACCEPTED,
    MessageStatus.UNKNOWN,
    MessageStatus.DEAD,
]
# In ascending order of what they prove: whoever has a message has it, though a failure was told before or after.
PROOF = ["sent", "failed", "delivered", "read", "played"]


@pytest.mark.parametrize("beginning", BEGINNINGS, ids=str)
def test_any_statuses_in_any_order_end_in_the_one_that_proves_most(beginning: MessageStatus) -> None:
    for size in range(1, len(STATUSES) + 1):
        for subset in itertools.combinations(STATUSES, size):
            expected = max(subset, key=PROOF.index)
            for order in itertools.permutations(subset):
                end = functools.reduce(later_status, (*order, order[0]), beginning)
                assert end is expected, order


@pytest.mark.parametrize("status", STATUSES, ids=str)
def test_a_webhook_that_comes_before_the_answer_stands(status: MessageStatus) -> None:
    assert status_after(None, status, "webhook") is status
    assert status_after(status, MessageStatus.ACCEPTED, "send") is status
    assert status_after(MessageStatus.IN_FLIGHT, status, "webhook") is status


def test_a_message_that_failed_can_be_queued_again() -> None:
    assert status_after(MessageStatus.FAILED, MessageStatus.QUEUED, "send") is MessageStatus.QUEUED
    assert status_after(MessageStatus.UNKNOWN, MessageStatus.DEAD, "send") is MessageStatus.DEAD
    assert status_after(MessageStatus.QUEUED, MessageStatus.IN_FLIGHT, "attempt") is MessageStatus.QUEUED


# --- stories --------------------------------------------------------------------------------------------------------


@real
async def test_a_story_has_each_step_with_its_time_and_error(path: Path | None) -> None:
    history = History(path, clock=VirtualClock(wall=150.0))
    payment = graph_error(131042, None, False, None, fbtrace_id="trace")
    history.add(record(status=MessageStatus.IN_FLIGHT, wamid=None, duration=0.0), at=99.0)
    history.add(record())
    await history.on_update(told("sent", 160.0))
    await history.on_update(told("failed", None, errors=(payment,)))
    await history.on_update(told("failed", None, errors=(payment,)))
    await history.on_update(told("deleted"))
    await history.on_update(UnknownUpdate(topic="x", why="y"))
    story = await history.get(ID)
    assert story is not None
    trouble = Trouble("GraphSenderError(131042)", ErrorClass.SENDER, 131042, None, "trace")
    assert [(step.at, step.status.value, step.source, step.duration, step.trouble) for step in story.steps] == [
        (99.0, "in_flight", "send", None, None),
        (150.0, "accepted", "send", 0.5, None),
        (150.0, "failed", "webhook", None, trouble),
        (160.0, "sent", "webhook", None, None),
    ]
    assert (story.status, story.trouble, story.wamid, story.recipient) == ("failed", trouble, WAMID, NUMBER)
    assert (story.created_at, story.updated_at, story.attempts, story.template) == (100.0, 160.0, 1, "welcome")
    assert await history.get_by_wamid(WAMID) == story
    assert await history.get("other") is None
    assert NUMBER not in repr(story)
    await history.aclose()


@real
async def test_what_is_told_in_another_order_gives_the_same_story(path: Path | None) -> None:
    history = History(path, clock=VirtualClock(wall=150.0))
    await history.on_update(told("read", record_id=None))  # a message of which only the wamid is known
    first = await history.get(WAMID)
    assert first is not None
    assert (first.status, first.kind, first.recipient) == ("read", None, NUMBER)
    history.add(record())
    await history.on_update(told("sent"))
    story = await history.get(ID)
    assert story is not None
    assert (story.status, story.kind, story.created_at) == ("read", "template", 100.0)
    assert [step.status.value for step in story.steps] == ["accepted", "read", "sent"]
    assert await history.get(WAMID) is None
    assert len((await history.find()).messages) == 1
    await history.aclose()


@real
async def test_an_update_by_our_id_alone_is_the_same_message(path: Path | None) -> None:
    history = History(path, clock=VirtualClock(wall=150.0))
    history.add(record(wamid=None, status=MessageStatus.UNKNOWN), AmbiguousOutcomeError(502, "x"))
    await history.on_update(told("delivered", recipient=None, recipient_user_id=None))
    story = await history.get_by_wamid(WAMID)
    assert story is not None
    assert (story.id, story.status, story.recipient) == (ID, "delivered", NUMBER)
    assert story.trouble == Trouble("AmbiguousOutcomeError", ErrorClass.AMBIGUOUS)
    await history.aclose()


def test_an_error_without_a_code_has_its_class() -> None:
    throttled = Trouble("GraphThrottledError", ErrorClass.THROTTLE)
    assert trouble_of(graph_error(None, None, False, 429)) == throttled
    assert trouble_of(None) is None


@real
async def test_a_service_tells_each_send_with_its_attempts() -> None:
    history, clock = History(), FakeClock()
    busy = graph_error(131016, None, False, 503)
    service = service_over(Stub(busy, busy, None), clock, history=history)
    sent = await service.send_text("ann", NUMBER, "Hi")
    await history.written()
    story = await history.get(sent.id)
    assert story is not None
    assert [(step.source, step.trouble.code if step.trouble else None) for step in story.steps] == [
        ("attempt", 131016),
        ("attempt", 131016),
        ("attempt", None),
        ("send", None),
    ]
    assert all(step.duration is not None and step.duration > 0 for step in story.steps)
    assert (story.status, story.attempts, story.wamid) == ("accepted", 3, sent.wamid)

    service = service_over(Stub(RuntimeError("lost")), clock, history=history, max_attempts=1)
    with pytest.raises(RuntimeError) as caught:
        await service.send_text("ann", NUMBER, "Hi")
    story = await history.get(caught.value.record.id)  # type: ignore[attr-defined]
    assert story is not None
    assert (story.status, story.trouble) == ("unknown", Trouble("RuntimeError"))
    await history.aclose()


# --- finding --------------------------------------------------------------------------------------------------------


async def filled(history: History, number: int = 10) -> None:
    for at in range(number):
        status = MessageStatus.FAILED if at % 2 else MessageStatus.ACCEPTED
        who = f"+3361234567{at % 3}"
        changes = {"id": f"{at:032x}", "wamid": f"w{at}", "started_at": float(at), "status": status, "recipient": who}
        history.add(record(**changes, template="a" if at < 5 else None, user_id=f"u{at % 2}"))
    await history.written()


@real
async def test_messages_are_found_by_what_is_known_of_them(path: Path | None) -> None:
    history = History(path, clock=VirtualClock(wall=150.0))
    await filled(history)

    async def found(**filters: Any) -> list[int]:
        return [int(story.id, 16) for story in (await history.find(**filters)).messages]

    assert await found() == [9, 8, 7, 6, 5, 4, 3, 2, 1, 0]
    assert await found(recipient="+33612345671") == await found(recipient="33612345671") == [7, 4, 1]
    assert await found(status=MessageStatus.FAILED, since=2.0, until=7.0) == [5, 3]
    assert await found(template="a", user_id="u0") == [4, 2, 0]
    assert await history.count() == {MessageStatus.ACCEPTED: 5, MessageStatus.FAILED: 5}
    assert await history.count(since=9.0) == {MessageStatus.FAILED: 1}
    for wrong in ({"limit": 0}, {"limit": 1_001}, {"after": "x"}, {"after": "1_x"}):
        with pytest.raises(ConfigurationError, match="History: "):
            await history.find(**wrong)  # type: ignore[arg-type]
    await history.aclose()


@real
async def test_pages_have_each_message_once_also_while_new_ones_come(path: Path | None) -> None:
    history = History(path, clock=VirtualClock(wall=150.0))
    await filled(history)
    seen: list[str] = []
    page = await history.find(limit=3)
    while True:
        seen += [story.id for story in page.messages]
        history.add(record(id=f"{900 + len(seen):032x}", wamid=f"new{len(seen)}", started_at=99.0))
        if page.next_after is None:
            break
        page = await history.find(limit=3, after=page.next_after)
    assert [int(id_, 16) for id_ in seen] == [9, 8, 7, 6, 5, 4, 3, 2, 1, 0]
    await history.aclose()


@real
async def test_hashed_recipients_are_found_and_cannot_be_read(tmp_path: Path) -> None:
    history = History(tmp_path / "history.db", hash_recipients="0123456789abcdef", clock=VirtualClock(wall=150.0))
    history.add(record())
    await history.on_update(told("sent", wamid="wamid.2", record_id=None))
    page = await history.find(recipient=NUMBER)
    assert [len(story.recipient or "") for story in page.messages] == [32, 32]
    await history.aclose()
    assert NUMBER[1:].encode() not in b"".join(file.read_bytes() for file in tmp_path.iterdir())
    assert b"wamid.2" in b"".join(file.read_bytes() for file in tmp_path.iterdir())


# --- forgetting and outliving ---------------------------------------------------------------------------------------


@real
async def test_a_history_outlives_its_process(tmp_path: Path) -> None:
    history = History(tmp_path / "history.db", clock=VirtualClock(wall=150.0))
    history.add(record())
    history.close()
    history = History(tmp_path / "history.db", clock=VirtualClock(wall=150.0))
    assert await history.get(ID) is not None
    await history.aclose()


@real
async def test_old_messages_are_forgotten_by_age_and_by_number(path: Path | None) -> None:
    clock = VirtualClock(wall=1_003.0)
    history = History(path, kept_for=1_000.0, max_messages=4, clock=clock)
    await filled(history)
    await history.forget_old()
    assert [story.created_at for story in (await history.find()).messages] == [9.0, 8.0, 7.0, 6.0]
    clock.advance(5.0)
    assert await history.forget_old() == 2
    assert [story.created_at for story in (await history.find()).messages] == [9.0, 8.0]
    await history.aclose()


@real
async def test_a_history_forgets_by_itself_while_it_is_told() -> None:
    history = History(max_messages=100, clock=VirtualClock(wall=150.0))
    await filled(history, 1_200)
    assert 100 <= len((await history.find(limit=1_000)).messages) <= 700
    await history.aclose()


def test_a_disk_that_hangs_stops_no_send_and_fills_no_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(_history, "MAX_BEHIND", 20)
    history = History(tmp_path / "history.db", clock=VirtualClock(wall=150.0))
    hangs, goes_on = threading.Event(), threading.Event()

    def hang(_: object) -> None:
        hangs.set()
        assert goes_on.wait(30)

    history._database.post(hang)
    assert hangs.wait(30)
    for number in range(50):
        history.add(record(id=f"{number:032x}", wamid=f"w{number}"))
    goes_on.set()

    async def kept() -> int:
        await history.written()
        return len((await history.find()).messages)

    assert asyncio.run(kept()) == 20
    history.add(record(id="f" * 32, wamid="last"))
    assert asyncio.run(kept()) == 21
    history.close()
    assert [entry.getMessage() for entry in caplog.records] == [
        "The history is behind by 20 messages: what is told now is not kept"
    ]


def test_what_cannot_work_is_refused_at_once(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("no database" * 1_000)
    wrong: list[dict[str, Any]] = [
        {"kept_for": 0.0},
        {"max_messages": 0},
        {"hash_recipients": "short"},
        {"path": tmp_path / "text"},
        {"path": tmp_path / "missing" / "x"},
    ]
    for options in wrong:
        with pytest.raises(ConfigurationError):
            History(**options)


def test_an_answer_that_was_lost_after_the_webhook_told_of_a_failure_takes_nothing_back() -> None:
    async def main() -> None:
        history = History()
        await history.on_update(StatusUpdate(topic="messages", wamid="w", record_id=ID, status="failed"))
        history.add(record(status=MessageStatus.UNKNOWN, wamid=None))
        assert (await history.get(ID)).status is MessageStatus.FAILED

    asyncio.run(main())

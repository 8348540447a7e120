"""`resilience-whatsapp outbox`: what it shows and hides, what it queues again, how a drain ends."""

from __future__ import annotations

import asyncio
import json
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest

from resilience_whatsapp.cli import _drain, _outbox, main
from resilience_whatsapp.history import History
from resilience_whatsapp.outbox import Outbox, OutboxRow, OutboxStore, OutboxStoreError, RedisStore, SQLiteStore
from resilience_whatsapp.records import MessageStatus
from resilience_whatsapp.simulator import Fault, SimulatorThread
from tests._cost import unmeasured
from tests._redis import RedisServer
from tests.whatsapp.outbox.stores import a_row
from tests.whatsapp.test_command_line import ROOT, variables

MASKED, NUMBER = "+33******78", "+33612345678"
SECRET = "a secret of the tests"
PRIVATE = ("my private words", "33612345678", "order-key-7")
Capture = pytest.CaptureFixture[str]


def kept(lane: str = "106540352242922", **changes: Any) -> OutboxRow:
    """A row as an application would have kept it now."""
    now = time.time()
    times = {"created_at": now, "changed_at": now, "due": now, "not_after": now + 3600}
    payload = {
        "messaging_product": "whatsapp",
        "to": NUMBER,
        "type": "text",
        "text": {"body": "my private words"},
    }
    return a_row(**{**times, "lane": lane, "payload": payload, "key": None, **changes})


def fill(store: OutboxStore, *rows: OutboxRow) -> None:
    async def work() -> None:
        for row in rows:
            await store.add(row)
        await store.aclose()

    asyncio.run(work())


def row_in(path: Path, row_id: str) -> OutboxRow:
    async def work() -> OutboxRow:
        store = SQLiteStore(path)
        found = await store.get(row_id)
        await store.aclose()
        assert found is not None
        return found

    return asyncio.run(work())


@pytest.fixture
def simulator(monkeypatch: pytest.MonkeyPatch) -> Iterator[SimulatorThread]:
    """One that the environment names."""
    monkeypatch.delenv("WHATSAPP_API_VERSION", raising=False)
    with SimulatorThread() as started:
        for name, value in variables(started).items():
            monkeypatch.setenv(name, value)
        yield started


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file of an outbox, which the environment names."""
    for name in ("WHATSAPP_HISTORY", "WHATSAPP_OUTBOX_SECRET", "WHATSAPP_OUTBOX_SECRET_FILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("WHATSAPP_OUTBOX", str(tmp_path / "outbox.db"))
    return tmp_path / "outbox.db"


def document(capsys: Capture) -> Any:
    return json.loads(capsys.readouterr().out)


DEAD: dict[str, Any] = {"state": MessageStatus.DEAD, "due": None, "reason": "expired"}
REFUSED: dict[str, Any] = {
    "state": MessageStatus.DEAD,
    "due": None,
    "reason": "refused for good",
    "error": "GraphRequestError(131009)",
}
UNKNOWN: dict[str, Any] = {
    "state": MessageStatus.UNKNOWN,
    "unknown": 1,
    "attempts": 1,
    "due": None,
    "reason": "no echo",
}
ACCEPTED: dict[str, Any] = {"state": MessageStatus.ACCEPTED, "due": None, "wamid": "wamid.1", "attempts": 1}


# --- list and show ---------------------------------------------------------------------------------------------------


def test_the_list_shows_what_is_not_over_masked_and_without_texts_and_keys(path: Path, capsys: Capture) -> None:
    rows = [kept(id="q", key="order-key-7"), kept(id="d", **REFUSED), kept(id="u", **UNKNOWN), kept(id="a", **ACCEPTED)]
    fill(SQLiteStore(path), *rows)
    assert main(["outbox", "list"]) == 0
    out = capsys.readouterr().out
    assert "1 queued, 1 accepted, 1 unknown, 1 dead\n" in out
    lines = out.splitlines()
    assert [line.split()[0] for line in lines[1:4]] == ["u", "d", "q"]
    assert "refused for good (GraphRequestError(131009))" in lines[2]
    assert MASKED in lines[1]
    assert not any(secret in out for secret in PRIVATE)
    assert main(["outbox", "list", "--state", "accepted", "--show-recipients", "--json"]) == 0
    told = document(capsys)
    assert [(row["id"], row["recipient"], row["has_key"]) for row in told["rows"]] == [("a", NUMBER, False)]
    assert (told["counts"]["queued"], told["next_after"]) == (1, None)


def test_an_empty_outbox_says_so(path: Path, capsys: Capture) -> None:
    fill(SQLiteStore(path))
    assert main(["outbox", "list"]) == 0
    assert capsys.readouterr().out == "empty\n"
    assert main(["outbox", "dead"]) == 0
    assert capsys.readouterr().out == "nothing was given up\n"


def test_pages_have_each_row_once_also_where_many_changed_at_the_same_time(
    path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_outbox, "_BATCH", 4)
    now = time.time()
    rows = [
        kept(id=f"{number:03}", changed_at=now - number // 11, **(UNKNOWN if number % 3 else DEAD))
        for number in range(50)
    ]
    fill(SQLiteStore(path), *rows)
    seen: list[str] = []
    more: list[str] = []
    while True:
        assert main(["outbox", "list", "--limit", "7", "--json", *more]) == 0
        told = document(capsys)
        seen += [row["id"] for row in told["rows"]]
        if told["next_after"] is None:
            break
        assert len(told["rows"]) == 7
        more = ["--after", told["next_after"]]
    assert seen == [row.id for row in rows]
    assert main(["outbox", "list", "--limit", "7"]) == 0
    assert f"the next page: --after {rows[6].changed_at!r}_006\n" in capsys.readouterr().out


def test_rows_are_found_by_state_template_and_age(path: Path, capsys: Capture) -> None:
    old = time.time() - 7200
    rows = [
        kept(id="old", created_at=old),
        kept(id="new", template="order", language="fr", kind="template"),
        kept(id="dead", created_at=old, **DEAD),
    ]
    fill(SQLiteStore(path), *rows)

    def ids(*words: str) -> list[str]:
        assert main(["outbox", "list", "--json", *words]) == 0
        return [row["id"] for row in document(capsys)["rows"]]

    assert ids("--older", "1h") == ["dead", "old"]
    assert ids("--younger", "1h") == ["new"]
    assert ids("--template", "order") == ["new"]
    assert ids("--state", "queued") == ["new", "old"]
    assert ids("--state", "queued", "--state", "dead", "--older", "1h") == ["dead", "old"]


def test_one_row_is_shown_with_what_happened_to_it(path: Path, capsys: Capture, tmp_path: Path) -> None:
    row = kept(id="a", key="order-key-7", **ACCEPTED)
    fill(SQLiteStore(path), row)

    async def tell() -> None:
        history = History(tmp_path / "history.db")
        history.add(row.record(), at=row.created_at)
        await history.aclose()

    asyncio.run(tell())
    assert main(["outbox", "show", "a"]) == 0
    out = capsys.readouterr().out
    assert "state              accepted\n" in out
    assert "TOLD BY" not in out
    words = ["outbox", "show", "a", "--history", str(tmp_path / "history.db")]
    assert main(words) == 0
    out += capsys.readouterr().out
    assert "accepted  send" in out
    assert main([*words, "--json"]) == 0
    told = document(capsys)
    assert [(step["status"], step["source"]) for step in told["steps"]] == [("accepted", "send")]
    assert (told["recipient"], told["has_key"]) == (MASKED, True)
    assert not any(secret in out + json.dumps(told) for secret in PRIVATE)
    assert main(["outbox", "show", "nobody"]) == 2


# --- retry and dead --------------------------------------------------------------------------------------------------


def test_what_was_not_sent_is_queued_again_and_what_was_perhaps_sent_is_not(
    path: Path, capsys: Capture, tmp_path: Path
) -> None:
    fill(SQLiteStore(path), kept(id="d", **DEAD), kept(id="u", **UNKNOWN), kept(id="a", **ACCEPTED), kept(id="q"))
    history = tmp_path / "history.db"
    History(history).close()
    assert main(["outbox", "retry", "d", "u", "a", "q", "x", "--for", "2h", "--history", str(history)]) == 1
    told = dict(line.split("  ", 1) for line in capsys.readouterr().out.splitlines())
    assert told["d"] == "queued"
    assert told["u"].startswith("not queued: it was perhaps sent, and would arrive twice; --may-duplicate")
    assert told["a"] == "not queued: it was accepted, and is accepted"
    assert told["q"] == "not queued: it is queued already"
    assert told["x"] == "not queued: there is no row of that id"
    assert row_in(path, "u").state == "unknown"
    assert 7100 < row_in(path, "d").not_after - time.time() <= 7200

    async def steps() -> list[str]:
        book = History(history)
        story = await book.get("d")
        await book.aclose()
        assert story is not None
        return [step.status.value for step in story.steps]

    assert asyncio.run(steps()) == ["queued"]
    assert main(["outbox", "retry", "u", "--may-duplicate", "--json"]) == 0
    assert document(capsys)[0]["queued"] is True
    assert row_in(path, "u").state == "queued"
    assert main(["outbox", "retry", "x"]) == 2


def test_dead_letters_are_counted_by_reason_and_those_of_one_are_queued_again(path: Path, capsys: Capture) -> None:
    fill(SQLiteStore(path), *[kept(id=f"d{n}", **DEAD) for n in range(3)], kept(id="r", **REFUSED))
    assert main(["outbox", "dead"]) == 0
    out = capsys.readouterr().out.splitlines()
    assert [line.split() for line in out[1:]] == [
        ["3", "expired", "-"],
        ["1", "refused", "for", "good", "GraphRequestError(131009)"],
    ]
    assert main(["outbox", "dead", "--error", "GraphRequestError(131009)"]) == 0
    assert capsys.readouterr().out.splitlines()[-1].startswith("r   dead   +33******78  text")
    assert main(["outbox", "dead", "--reason", "expired", "--json"]) == 0
    told = document(capsys)
    assert (told["reasons"][0]["count"], len(told["rows"])) == (3, 3)
    assert main(["outbox", "dead", "--reason", "expired", "--retry"]) == 0
    assert capsys.readouterr().out == "3 queued\n"
    assert row_in(path, "r").state == "dead"
    assert main(["outbox", "dead", "--template", "other", "--retry", "--json"]) == 0
    assert document(capsys) == {"queued": 0, "not_queued": 0}


def test_a_dead_letter_that_somebody_else_was_quicker_with_is_told(
    path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(SQLiteStore(path), kept(id="d", **DEAD))

    async def nothing(*_: Any, **__: Any) -> None:
        return None

    monkeypatch.setattr(Outbox, "retry", nothing)
    assert main(["outbox", "dead", "--retry"]) == 1
    assert capsys.readouterr().out == "0 queued, 1 not\n"


# --- which outbox ----------------------------------------------------------------------------------------------------


def test_an_outbox_in_redis_needs_its_secret_which_is_no_argument(
    redis_server: RedisServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    pytest.importorskip("redis")
    monkeypatch.delenv("WHATSAPP_OUTBOX", raising=False)
    monkeypatch.delenv("WHATSAPP_OUTBOX_SECRET", raising=False)
    fill(RedisStore(redis_server.url, secret=SECRET, name="cli"), kept(id="d", **DEAD))
    words = ["outbox", "list", "--outbox", redis_server.url, "--outbox-name", "cli"]
    assert main(words) == 2
    assert "the outbox's secret is missing" in capsys.readouterr().err
    file = tmp_path / "secret"
    file.write_text(f"{SECRET}\n")
    assert main([*words, "--outbox-secret-file", str(file), "--json"]) == 0
    assert [row["id"] for row in document(capsys)["rows"]] == ["d"]
    assert main(["outbox", "retry", "d", *words[2:], "--outbox-secret-file", str(file)]) == 0
    assert main([*words, "--outbox-secret-file", "/nonexistent"]) == 2
    monkeypatch.setenv("WHATSAPP_OUTBOX_SECRET", "short")
    assert main(words) == 2
    monkeypatch.setenv("WHATSAPP_OUTBOX_SECRET", SECRET)
    capsys.readouterr()
    assert main(["outbox", "list", "--outbox", "redis://user:hunter2@127.0.0.1:1/0"]) == 2
    assert "a password is no argument" in (err := capsys.readouterr().err)
    assert "hunter2" not in err
    assert main(["outbox", "list", "--outbox", "redis://127.0.0.1:notaport/0"]) == 2
    assert main(["outbox", "list", "--outbox", "redis://127.0.0.1:1/0"]) == 3
    monkeypatch.setenv("WHATSAPP_OUTBOX", "redis://user:hunter2@127.0.0.1:1/0")
    assert main(["outbox", "list"]) == 3
    assert "hunter2" not in capsys.readouterr().err


def test_a_file_that_is_no_outbox_is_neither_used_nor_made(path: Path, capsys: Capture, tmp_path: Path) -> None:
    assert main(["outbox", "list"]) == 2
    assert not path.exists()
    assert "there is no file outbox.db" in capsys.readouterr().err
    History(path).close()
    assert main(["outbox", "list"]) == 2
    assert "it has no table outbox" in capsys.readouterr().err
    path.write_bytes(b"no database, however long it may be" * 100)
    assert main(["outbox", "list"]) == 2
    fill(SQLiteStore(tmp_path / "good.db"), kept(id="d", **DEAD))
    good = ["--outbox", str(tmp_path / "good.db")]
    assert main(["outbox", "show", "d", *good, "--history", str(tmp_path / "none.db")]) == 2
    assert main(["outbox", "list", *good]) == 0


def test_a_file_that_is_locked_or_full_is_told(path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(SQLiteStore(path))

    def busy(*_: Any, **__: Any) -> None:
        raise sqlite3.OperationalError("database is locked")

    monkeypatch.setattr("resilience_whatsapp.cli._files.SQLiteStore", busy)
    assert main(["outbox", "list"]) == 3
    assert "the file of the outbox cannot be used (OperationalError)" in capsys.readouterr().err


def test_a_missing_name_and_words_that_are_none_are_told(monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
    monkeypatch.delenv("WHATSAPP_OUTBOX", raising=False)
    for words in (
        ["list"],
        ["list", "--state", "lost"],
        ["list", "--limit", "0"],
        ["list", "--after", "x"],
        ["list", "--older", "long"],
        ["drain", "--rate", "fast"],
        ["drain", "--rate", "0"],
        [],
    ):
        assert main(["outbox", *words]) == 2, words
        assert len(capsys.readouterr().err.splitlines()) <= 2


def test_a_row_that_cannot_be_read_is_a_failure_that_shows_nothing_of_it(path: Path, capsys: Capture) -> None:
    fill(SQLiteStore(path), kept(id="q"))
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("UPDATE outbox SET body = x'00'")
    assert main(["outbox", "show", "q"]) == 3
    assert "codec" in capsys.readouterr().err


# --- drain -----------------------------------------------------------------------------------------------------------


def test_a_drain_sends_what_is_queued_for_its_number_and_ends(
    path: Path, simulator: SimulatorThread, capsys: Capture, tmp_path: Path
) -> None:
    rows = [kept(id=f"{number:032x}") for number in range(5)]
    fill(SQLiteStore(path), *rows, kept(id="other", lane="7"))
    history = tmp_path / "history.db"
    History(history).close()
    assert main(["outbox", "drain", "--rate", "1000", "--history", str(history)]) == 0
    out, err = capsys.readouterr()
    assert out == "5 sent; nothing is queued any more\n"
    assert not any(secret in out + err for secret in PRIVATE)
    assert len(simulator.book.entries) == 5
    assert row_in(path, rows[0].id).state == "accepted"
    assert row_in(path, "other").state == "queued"

    async def remembered() -> int:
        book = History(history)
        found = await book.count()
        await book.aclose()
        return sum(found.values())

    assert asyncio.run(remembered()) == 5
    assert main(["outbox", "drain", "--json"]) == 0
    assert document(capsys)["ended"] == {}


def test_a_drain_heeds_what_the_api_refuses(path: Path, simulator: SimulatorThread, capsys: Capture) -> None:
    """Nobody is there: the other messages to that number are kept back, without a request."""
    simulator.script(Fault("error", code=131026))
    fill(SQLiteStore(path), *[kept(id=f"{number:032x}") for number in range(3)])
    assert main(["outbox", "drain", "--for", "5", "--json"]) == 1
    told = document(capsys)
    assert (told["counts"]["dead"], told["counts"]["queued"]) == (1, 2)
    assert simulator.book.requests["messages"] == 1


def test_a_drain_of_an_outbox_in_redis(
    redis_server: RedisServer, simulator: SimulatorThread, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    pytest.importorskip("redis")
    monkeypatch.setenv("WHATSAPP_OUTBOX", redis_server.url)
    monkeypatch.setenv("WHATSAPP_OUTBOX_SECRET", SECRET)
    fill(RedisStore(redis_server.url, secret=SECRET, name="drained"), kept(id="1" * 32), kept(id="2" * 32, **DEAD))
    assert main(["outbox", "dead", "--retry", "--outbox-name", "drained"]) == 0
    assert main(["outbox", "drain", "--rate", "1000", "--outbox-name", "drained"]) == 0
    assert capsys.readouterr().out == "1 queued\n2 sent; nothing is queued any more\n"
    assert len(simulator.book.entries) == 2


def test_a_drain_tells_what_was_given_up_and_what_was_perhaps_sent(
    path: Path, simulator: SimulatorThread, capsys: Capture
) -> None:
    fill(SQLiteStore(path), kept(id="1" * 32))
    simulator.script(Fault("error", code=131009))
    assert main(["outbox", "drain"]) == 1
    assert capsys.readouterr().out == "1 given up; nothing is queued any more\n"
    fill(SQLiteStore(path), kept(id="2" * 32))
    simulator.script(Fault("html", accepted=True))
    assert main(["outbox", "drain"]) == 4
    assert capsys.readouterr().out == "1 perhaps sent; nothing is queued any more\n"
    row = row_in(path, "2" * 32)
    assert (row.state, row.attempts) == ("unknown", 1)
    assert len(simulator.book.entries) == 1


def test_a_message_that_may_arrive_twice_is_told(path: Path, simulator: SimulatorThread, capsys: Capture) -> None:
    fill(SQLiteStore(path), kept(id="1" * 32, attempts=1, unknown=1, delivery="at_least_once"))
    assert main(["outbox", "drain"]) == 0
    assert "(of these, 1 may arrive twice" in capsys.readouterr().out


def test_a_drain_whose_time_is_over_says_what_is_left_and_why(
    path: Path, simulator: SimulatorThread, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_drain, "_EVERY", 0.2)
    fill(SQLiteStore(path), kept(id="1" * 32), kept(id="2" * 32, due=time.time() + 3000))
    simulator.script(Fault("error", code=190))  # the token has expired: all wait
    assert main(["outbox", "drain", "--for", "2"]) == 1
    out, err = capsys.readouterr()
    assert out == "1 put off; messages are still queued\n(the last error: GraphAuthError(190))\n"
    assert "\n1 put off; the next one in " in f"\n{err}"
    assert main(["outbox", "drain", "--for", "0.1", "--json"]) == 1
    told = document(capsys)
    assert (told["empty"], told["counts"]["queued"]) == (False, 2)
    assert told["next_due"] > time.time()


def test_an_unknown_message_is_never_taken_for_lost_by_a_drain_which_does_not_know_the_receiver(
    path: Path, simulator: SimulatorThread
) -> None:
    long_ago = time.time() - 900
    unknown: dict[str, Any] = {
        "state": MessageStatus.UNKNOWN,
        "unknown": 1,
        "unknown_since": long_ago,
        "delivery": "at_least_once",
    }
    fill(SQLiteStore(path), kept(id="1" * 32, **{**unknown, "due": long_ago}), kept(id="2" * 32))
    assert main(["outbox", "drain"]) == 0
    row = row_in(path, "1" * 32)
    assert (row.state, len(simulator.book.entries)) == ("unknown", 1)
    assert row.due is not None


def test_the_lease_of_a_drain_can_be_the_applications(path: Path, simulator: SimulatorThread, capsys: Capture) -> None:
    fill(SQLiteStore(path), kept(id="1" * 32))
    assert main(["outbox", "drain", "--lease", "9m", "--for", "1h"]) == 0
    assert main(["outbox", "drain", "--phone-number-id", "x"]) == 2


def test_a_drain_that_somebody_ends_finishes_its_send_and_leaves_the_rest_queued(path: Path) -> None:
    with SimulatorThread() as simulator:
        rows = [kept(id=f"{each:032x}") for each in range(3)]
        fill(SQLiteStore(path), *rows)
        simulator.script(Fault("delay", seconds=0.3, times=None))
        env = {**unmeasured(), **variables(simulator), "WHATSAPP_OUTBOX": str(path)}
        command = [sys.executable, "-m", "resilience_whatsapp", "outbox", "drain", "--rate", "0.01", "--json"]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT, env=env) as process:
            wait_until(lambda: row_in(path, rows[0].id).state != "queued")
            process.send_signal(signal.SIGTERM)
            out, _ = process.communicate()
        assert process.returncode == 143
        told = json.loads(out)
        assert (told["ended"], told["empty"]) == ({"accepted": 1}, False)
        assert (told["counts"]["queued"], told["counts"]["in_flight"]) == (2, 0)
        assert len(simulator.book.entries) == 1


def test_ctrl_c_ends_a_drain_with_130(path: Path, simulator: SimulatorThread, capsys: Capture) -> None:
    fill(SQLiteStore(path), kept(id="1" * 32, due=time.time() + 3000), kept(id="2" * 32))

    def interrupt() -> None:
        wait_until(lambda: bool(simulator.book.entries))
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)

    with at_the_same_time(interrupt):
        assert main(["outbox", "drain"]) == 130
    assert capsys.readouterr().out.endswith("; messages are still queued\n")


def test_an_outbox_that_goes_away_during_a_drain_is_told(
    path: Path, simulator: SimulatorThread, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    fill(SQLiteStore(path), kept(id="1" * 32, due=time.time() + 3000))

    async def away(*_: Any) -> float:
        raise OutboxStoreError("the outbox cannot be used")

    monkeypatch.setattr(SQLiteStore, "next_due", away)
    assert main(["outbox", "drain"]) == 3
    assert "the outbox cannot be used" in capsys.readouterr().err


@contextmanager
def at_the_same_time(work: Callable[[], None]) -> Iterator[None]:
    """Done by another thread."""
    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield
    finally:
        thread.join()


def wait_until(met: Callable[[], bool]) -> None:
    end = time.monotonic() + 30
    while not met():
        assert time.monotonic() < end
        time.sleep(0.02)

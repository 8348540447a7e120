"""SQLite files: what is refused, versions, group commit, and one writing thread for everybody."""

from __future__ import annotations

import asyncio
import logging
import multiprocessing
import os
import sqlite3
import stat
import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pytest

from resilience_core import ConfigurationError
from resilience_whatsapp import _sqlite
from resilience_whatsapp._sqlite import Database, open_database

SCHEMA = ["CREATE TABLE things (name TEXT PRIMARY KEY) STRICT"]


def put(name: str):
    return lambda connection: connection.execute("INSERT INTO things VALUES (?)", (name,)).rowcount


def names(path: Path) -> list[str]:
    with sqlite3.connect(path) as connection:
        found = [row[0] for row in connection.execute("SELECT name FROM things ORDER BY name")]
    connection.close()
    return found


def test_a_new_file_is_readable_for_its_owner_only_and_has_a_log(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    connection = open_database(path, "things", SCHEMA)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    assert connection.execute("PRAGMA synchronous").fetchone() == (2,)
    connection.close()
    other = open_database(path, "things", SCHEMA, synchronous="normal")
    assert other.execute("PRAGMA synchronous").fetchone() == (1,)
    other.close()


def test_two_parts_share_a_file_and_each_is_brought_up_to_date(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    open_database(path, "things", SCHEMA).close()
    open_database(path, "others", ["CREATE TABLE others (a) "]).close()
    newer = [*SCHEMA, "ALTER TABLE things ADD COLUMN size INTEGER; CREATE INDEX by_size ON things (size)"]
    connection = open_database(path, "things", newer)
    connection.execute("INSERT INTO things (name, size) VALUES ('a', 1)")
    connection.close()
    with pytest.raises(ConfigurationError, match="newer version"):
        open_database(path, "things", SCHEMA)


def test_a_migration_that_fails_changes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    open_database(path, "things", SCHEMA).close()
    with pytest.raises(sqlite3.OperationalError):
        open_database(path, "things", [*SCHEMA, "CREATE TABLE more (a); NONSENSE"])
    open_database(path, "things", [*SCHEMA, "CREATE TABLE more (a)"]).close()


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("missing/a.db", "cannot open .*No such file"),
        ("a directory", "cannot open"),
        ("a text", "is not an SQLite database"),
    ],
)
def test_a_path_that_cannot_be_used_is_refused(path: str, words: str, tmp_path: Path) -> None:
    (tmp_path / "a directory").mkdir()
    (tmp_path / "a text").write_text("this is no database" * 100)
    with pytest.raises(ConfigurationError, match=words):
        open_database(tmp_path / path, "things", SCHEMA)
    with pytest.raises(ConfigurationError, match="synchronous"):
        open_database(tmp_path / "a.db", "things", SCHEMA, synchronous="off")  # type: ignore[arg-type]


def test_a_file_without_a_log_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_sqlite, "_switch_to_wal", lambda connection: "delete")
    with pytest.raises(ConfigurationError, match="local disk"):
        open_database(tmp_path / "a.db", "things", SCHEMA)


def test_a_locked_file_is_waited_for_and_then_it_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.db"
    monkeypatch.setattr(_sqlite, "BUSY_TIMEOUT", 0.05)
    holder = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    holder.execute("BEGIN EXCLUSIVE")
    with pytest.raises(sqlite3.OperationalError, match="locked"):
        open_database(path, "things", SCHEMA)
    monkeypatch.setattr(_sqlite, "BUSY_TIMEOUT", 10.0)
    threading.Timer(0.05, holder.execute, ("ROLLBACK",)).start()
    open_database(path, "things", SCHEMA).close()
    holder.close()


def test_many_writers_share_transactions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    database = Database(tmp_path / "a.db", "things", SCHEMA)
    batches: list[int] = []
    begin = _sqlite._Line.next_batch

    def counted(line, patience):
        found = begin(line, patience)
        batches.append(len(found[0]))
        return found

    monkeypatch.setattr(_sqlite._Line, "next_batch", counted)

    async def story() -> None:
        assert await asyncio.gather(*(database.run(put(f"{number}")) for number in range(200))) == [1] * 200

    asyncio.run(story())
    database.close()
    assert len(names(tmp_path / "a.db")) == 200
    assert len(batches) < 40


def test_the_thread_is_woken_only_for_who_waits_and_from_sleep() -> None:
    """Woken for each write that nobody waits for, it took the interpreter from the next send."""
    line = _sqlite._Line(30.0)
    waited, posted = (_sqlite._Job(put("a"), None, future) for future in (Future(), None))
    line.put(posted)
    assert line._signals.empty(), "it looks by itself, before 30 s are over"
    line.put(waited)
    line.put(waited)
    assert line._signals.qsize() == 1
    assert line.next_batch(None) == ([posted, waited, waited], True), "in their order, and at once"
    sleeper = _sqlite._Line(0.0)
    with ThreadPoolExecutor(1) as pool:
        found = pool.submit(sleeper.next_batch, None)
        while not sleeper._asleep:
            time.sleep(0.001)
        sleeper.put(posted)
        assert found.result() == ([posted], True)
        sleeper.end()
        assert sleeper.next_batch(None) == ([], False)


def test_a_work_that_fails_fails_alone(tmp_path: Path) -> None:
    database = Database(tmp_path / "a.db", "things", SCHEMA)

    async def story() -> None:
        found = await asyncio.gather(
            *(database.run(put(name)) for name in ("a", "b", "a", "c")), return_exceptions=True
        )
        assert [type(each) for each in found] == [int, int, sqlite3.IntegrityError, int]

    asyncio.run(story())
    database.close()
    assert names(tmp_path / "a.db") == ["a", "b", "c"]


def test_what_nobody_waits_for_is_written_with_others_or_soon_and_errors_are_logged(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "a.db"
    database = Database(path, "things", SCHEMA, lazy=30.0)
    database.post(put("a"))
    database.post(put("b"))
    assert database.call(put("c")) == 1
    assert names(path) == ["a", "b", "c"]
    with caplog.at_level(logging.ERROR):
        database.post(put("a"))
        database.close()
    assert "A write to the things failed: IntegrityError" in caplog.text
    quick = Database(path, "things", SCHEMA, lazy=0.001)
    quick.post(put("d"))
    while "d" not in names(path):
        pass
    quick.close()


def test_it_opens_again_after_its_end(tmp_path: Path) -> None:
    database = Database(tmp_path / "a.db", "things", SCHEMA)
    database.close()
    assert database.call(put("a")) == 1
    database.close()
    database.close()
    assert database.call(put("b")) == 1
    database.close()
    assert names(tmp_path / "a.db") == ["a", "b"]


def test_who_is_cancelled_or_whose_loop_is_gone_disturbs_nobody(tmp_path: Path) -> None:
    database = Database(tmp_path / "a.db", "things", SCHEMA)
    held, go = threading.Event(), threading.Event()

    def hold(connection: sqlite3.Connection) -> None:
        held.set()
        go.wait(10)

    async def story() -> None:
        waiting = [asyncio.create_task(database.run(hold)), asyncio.create_task(database.run(put("a")))]
        await asyncio.to_thread(held.wait, 10)
        waiting[1].cancel()
        go.set()
        await waiting[0]
        with pytest.raises(asyncio.CancelledError):
            await waiting[1]
        held.clear()
        go.clear()
        waiting.append(asyncio.create_task(database.run(hold)))
        await asyncio.to_thread(held.wait, 10)

    asyncio.run(story())
    go.set()
    assert database.call(put("b")) == 1
    database.close()
    assert names(tmp_path / "a.db") == ["a", "b"]


def test_a_file_that_cannot_be_opened_any_more_is_told_to_who_waits(tmp_path: Path) -> None:
    database = Database(tmp_path / "a.db", "things", SCHEMA)
    database.close()
    (tmp_path / "a.db").unlink()
    (tmp_path / "a.db").mkdir()
    with pytest.raises(ConfigurationError, match="cannot open"):
        database.call(put("a"))
    database.close()


def test_the_child_of_a_fork_has_a_connection_of_its_own(tmp_path: Path) -> None:
    database = Database(tmp_path / "a.db", "things", SCHEMA)
    assert database.call(put("parent")) == 1
    child = os.fork()
    if child == 0:
        code = 1
        try:
            code = 0 if database.call(put("child")) == 1 else 1
            database.close()
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert database.call(put("again")) == 1
    database.close()
    assert names(tmp_path / "a.db") == ["again", "child", "parent"]


def write_many(path: Path, who: int) -> None:
    database = Database(path, "things", SCHEMA, synchronous="normal")
    for number in range(25):
        database.call(put(f"{who}-{number}"))
    database.close()


def test_several_processes_start_on_a_new_file_at_once_and_write_to_it(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    children = [context.Process(target=write_many, args=(tmp_path / "a.db", who)) for who in range(4)]
    for child in children:
        child.start()
    for child in children:
        child.join()
    assert [child.exitcode for child in children] == [0] * 4
    assert len(names(tmp_path / "a.db")) == 100


def test_a_batch_has_a_bound(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_sqlite, "MAX_BATCH", 2)
    database = Database(tmp_path / "a.db", "things", SCHEMA)

    async def story() -> None:
        assert await asyncio.gather(*(database.run(put(f"{number}")) for number in range(7))) == [1] * 7

    asyncio.run(story())
    database.close()


def test_a_work_that_ends_the_transaction_itself_is_an_error_and_the_next_one_works(tmp_path: Path) -> None:
    database = Database(tmp_path / "a.db", "things", SCHEMA)
    with pytest.raises(sqlite3.OperationalError):
        database.call(lambda connection: connection.execute("ROLLBACK"))
    assert database.call(put("a")) == 1
    database.close()


def test_the_switch_to_a_log_is_tried_again_while_another_process_does_it() -> None:
    class Switching:
        failures = 2

        def execute(self, statement: str) -> Switching:
            self.failures -= 1
            if self.failures >= 0:
                raise sqlite3.OperationalError("database is locked")
            return self

        def fetchone(self) -> tuple[str]:
            return ("wal",)

    assert _sqlite._switch_to_wal(Switching()) == "wal"  # type: ignore[arg-type]


def test_a_file_that_is_locked_for_long_is_an_error_for_all_who_wait_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_sqlite, "BUSY_TIMEOUT", 0.01)
    database = Database(tmp_path / "a.db", "things", SCHEMA)
    assert database.call(put("a")) == 1
    tried: list[int] = []
    transact = _sqlite._transact

    def counted(connection: sqlite3.Connection, batch: list) -> None:
        tried.append(len(batch))
        transact(connection, batch)

    monkeypatch.setattr(_sqlite, "_transact", counted)
    holder = sqlite3.connect(tmp_path / "a.db", isolation_level=None)
    holder.execute("BEGIN IMMEDIATE")

    async def story() -> None:
        works = [database.run(put(f"{number}")) for number in range(50)]
        found = await asyncio.gather(*works, return_exceptions=True)
        assert {type(each) for each in found} == {sqlite3.OperationalError}

    asyncio.run(story())
    holder.execute("ROLLBACK")
    holder.close()
    database.close()
    assert sum(tried) == 50, "none waits for the lock a second time"


def test_trouble_that_begins_while_each_is_done_alone_ends_the_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    busy = sqlite3.OperationalError("busy")
    busy.sqlite_errorcode = sqlite3.SQLITE_BUSY
    errors: list[Exception | None] = [sqlite3.IntegrityError(), None, busy]

    def transact(connection: object, batch: list) -> None:
        error = errors.pop(0)
        if error is not None:
            raise error

    monkeypatch.setattr(_sqlite, "_transact", transact)
    jobs = [_sqlite._Job(put("a"), None, None) for _ in range(4)]
    _sqlite._carry_out(None, jobs)  # type: ignore[arg-type]
    assert [job.error for job in jobs] == [None, busy, busy, busy]


@pytest.mark.parametrize("opened", [True, False])
def test_what_nobody_waits_for_is_tried_again_in_its_order_until_the_disk_has_it(
    opened: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(_sqlite, "BUSY_TIMEOUT", 0.01)
    monkeypatch.setattr(_sqlite, "AGAIN_AFTER", 0.01)
    path = tmp_path / "a.db"
    database = Database(path, "things", SCHEMA, lazy=0.001)
    if opened:
        assert database.call(put("e")) == 1
    holder = sqlite3.connect(path, isolation_level=None)
    holder.execute("BEGIN IMMEDIATE")
    database.post(put("a"))
    while not caplog.records:
        pass
    with pytest.raises(sqlite3.OperationalError):
        database.call(put("b"))
    with pytest.raises(sqlite3.OperationalError):
        database.call(put("c"))
    holder.execute("ROLLBACK")
    holder.close()
    with pytest.raises(sqlite3.IntegrityError):
        database.call(put("a"))  # the one before was first
    database.post(put("d"))
    while "d" not in names(path):
        pass
    database.close()
    assert [name for name in names(path) if name != "e"] == ["a", "d"]
    assert [record.levelname for record in caplog.records] == ["WARNING"]


def test_what_cannot_be_written_for_too_long_or_is_wrong_in_itself_is_given_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(_sqlite, "AGAIN_AFTER", 0.001)
    monkeypatch.setattr(_sqlite, "AGAIN_FOR", 0.01)
    monkeypatch.setattr(_sqlite, "MAX_AGAIN", 2)
    tries: list[int] = []

    def fail(connection: sqlite3.Connection) -> None:
        tries.append(1)
        raise ZeroDivisionError

    def given_up() -> int:
        return caplog.text.count("failed: ZeroDivisionError")

    database = Database(tmp_path / "a.db", "things", SCHEMA, lazy=0.001)
    database.post(fail)
    while given_up() < 1:
        pass
    for _ in range(3):
        database.post(fail, again_on=(ZeroDivisionError,))
    while given_up() < 4:
        pass
    assert len(tries) > 5
    database.close()
    assert "Writes to the things fail (ZeroDivisionError) and are tried again" in caplog.text


@pytest.mark.parametrize("replaced", [False, True])
def test_a_file_that_is_deleted_or_replaced_while_it_is_open_is_refused(replaced: bool, tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    database = Database(path, "things", SCHEMA)
    assert database.call(put("a")) == 1
    path.rename(tmp_path / "b.db")
    if replaced:
        path.touch()
    for _ in range(2):
        with pytest.raises(sqlite3.OperationalError, match="deleted or replaced"):
            database.call(put("b"))
    database.close()

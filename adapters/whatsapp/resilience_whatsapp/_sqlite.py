"""SQLite files: how they are opened, and one thread per file that writes for everybody.

* WAL: readers do not wait for the writer, and several processes may use one file (on one machine; not over a network
  file system). A process that is killed loses nothing that was committed.
* `synchronous=FULL`: a commit waits until the disk has it, so that it outlives a power cut as far as the disk keeps its
  word. That costs milliseconds. `NORMAL` does not wait: it outlives `kill -9`, not a power cut.
* Group commit: whatever was asked for while the disk was busy is written in the next transaction, all of it with one
  wait. So a hundred writers at once wait no longer than one, and a single one waits once for each write.
* What nobody waits for is not lost to a disk that is full or locked for a time: it is tried again, first of all.
* Several parts (outbox, history, webhooks) can share a file: each has tables and a version of its own.
* A file that is deleted or replaced while it is open is refused from then on: what is written to it would be nowhere.

Files are made with the mode 0600, because they hold messages and recipients.
"""

from __future__ import annotations

import asyncio
import atexit
import logging
import os
import queue
import sqlite3
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, Literal, TypeVar
from weakref import WeakSet

from attrs import define

from resilience_core import ConfigurationError

Synchronous = Literal["full", "normal"]
T = TypeVar("T")
Work = Callable[[sqlite3.Connection], T]
"""What is done in a transaction. It may be done twice: a batch in which one fails is undone, and each done alone."""

BUSY_TIMEOUT = 10.0
"""Seconds for which a writer waits for another process."""
_VERSIONS = "CREATE TABLE IF NOT EXISTS schema_versions (part TEXT PRIMARY KEY, version INTEGER NOT NULL) STRICT"
_logger = logging.getLogger("resilience_whatsapp.sqlite")


# --- opening ---------------------------------------------------------------------------------------------------------


def open_database(
    path: str | os.PathLike[str], part: str, schema: Sequence[str], *, synchronous: Synchronous = "full"
) -> sqlite3.Connection:
    """A connection to the file, which is made if it is missing, with the tables of `part` as they are now.

    Args:
        path: the file.
        part: whose tables: `outbox`, `history`, ...
        schema: scripts; the n-th (from 1) leads from version n - 1 to n. Published ones are never changed.
        synchronous: `full` survives a power cut, `normal` a killed process only.

    Raises:
        ConfigurationError: the path cannot be opened, is no database, cannot have a WAL, or was written by a newer
            version of this library.
    """
    where = Path(path)
    if synchronous not in ("full", "normal"):
        raise ConfigurationError(f"synchronous must be 'full' or 'normal', not {synchronous!r}")
    try:
        os.close(os.open(where, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
        connection = sqlite3.connect(where, timeout=BUSY_TIMEOUT, isolation_level=None, check_same_thread=False)
    except OSError as error:
        raise ConfigurationError(f"{part}: cannot open {where}: {error.strerror}; give a path to a file") from None
    try:
        _set_up(connection, where, part, schema, synchronous)
    except sqlite3.DatabaseError as error:
        connection.close()
        if isinstance(error, sqlite3.OperationalError):
            raise  # busy, full, read-only: SQLite's own words are the clearest
        raise ConfigurationError(f"{part}: {where} is not an SQLite database; give another path") from None
    except BaseException:
        connection.close()
        raise
    return connection


def _set_up(
    connection: sqlite3.Connection, where: Path, part: str, schema: Sequence[str], synchronous: Synchronous
) -> None:
    if _switch_to_wal(connection) != "wal":
        raise ConfigurationError(f"{part}: {where} cannot have a write-ahead log; give a path on a local disk")
    connection.execute(f"PRAGMA synchronous={synchronous}")
    connection.execute("BEGIN IMMEDIATE")  # of several processes that start at once, one brings it up to date
    try:
        connection.execute(_VERSIONS)
        row = connection.execute("SELECT version FROM schema_versions WHERE part = ?", (part,)).fetchone()
        version = 0 if row is None else row[0]
        if version > len(schema):
            raise ConfigurationError(
                f"{part}: {where} was written by a newer version of resilience-whatsapp (schema {version}, this one "
                f"knows {len(schema)}); update, or give another path"
            )
        for script in schema[version:]:
            for statement in script.split(";"):  # executescript() would commit
                connection.execute(statement)
        connection.execute("INSERT OR REPLACE INTO schema_versions VALUES (?, ?)", (part, len(schema)))
    except BaseException:
        connection.execute("ROLLBACK")
        raise
    connection.execute("COMMIT")


def _switch_to_wal(connection: sqlite3.Connection) -> str:
    end = time.monotonic() + BUSY_TIMEOUT
    while True:
        try:
            return str(connection.execute("PRAGMA journal_mode=WAL").fetchone()[0])
        except sqlite3.OperationalError:  # another process switches, too: SQLite does not wait for that by itself
            if time.monotonic() > end:
                raise
            time.sleep(0.01)


# --- one thread that writes ------------------------------------------------------------------------------------------

MAX_BATCH = 1_000
"""Works in one transaction: a bound on how long others wait for the file."""
AGAIN_AFTER = 1.0
AGAIN_FOR = 600.0
"""Seconds: how soon, and for how long, a failed write that nobody waits for is tried again."""
MAX_AGAIN = 10_000
_TROUBLE = frozenset(
    {
        sqlite3.SQLITE_BUSY,
        sqlite3.SQLITE_LOCKED,
        sqlite3.SQLITE_NOMEM,
        sqlite3.SQLITE_READONLY,
        sqlite3.SQLITE_IOERR,
        sqlite3.SQLITE_CORRUPT,
        sqlite3.SQLITE_FULL,
        sqlite3.SQLITE_CANTOPEN,
        sqlite3.SQLITE_NOTADB,
    }
)
"""Errors of the file and not of one work: whoever else wants to write meets them, too."""


class FileGoneError(sqlite3.OperationalError):
    """The file was deleted or replaced while it was open."""

    sqlite_errorname = "it was deleted or replaced while it was open; start the process anew"


_databases: WeakSet[Database] = WeakSet()
_of_parents: list[sqlite3.Connection | None] = []
"""Connections that were open in the parent of a fork: a child must neither use nor close them.

Source: sqlite.org/howtocorrupt.html, section 2.7."""


@define(eq=False)
class _Job:
    work: Work[Any]
    loop: asyncio.AbstractEventLoop | None
    future: asyncio.Future[Any] | Future[Any] | None
    """None: nobody waits for it, and it may wait for company."""
    result: Any = None
    error: BaseException | None = None
    again_on: tuple[type[Exception], ...] = ()
    until: float | None = None
    """When it has failed, although nobody waits for it: how long it is tried again, in monotonic seconds."""


class _Line:
    """The works that wait for the thread of a file, in the order in which they were given.

    The thread is not woken for what nobody waits for while it will look by itself within `lazy` seconds: a wake-up
    costs both threads as much as the write, and comes at the moment when the caller has other things to do.
    """

    def __init__(self, lazy: float) -> None:
        self._lazy = lazy
        self._lock = threading.Lock()
        self._jobs: deque[_Job] = deque()
        self._waited_for = 0
        self._ended = False
        self._asleep = False
        """Whether the thread looks only when it is woken."""
        self._signals: queue.SimpleQueue[None] = queue.SimpleQueue()
        self._signalled = False

    def put(self, job: _Job) -> None:
        """One more, at the end."""
        with self._lock:
            self._jobs.append(job)
            self._waited_for += job.future is not None
            if job.future is not None or self._asleep:
                self._wake()

    def end(self) -> None:
        """Nothing more will come."""
        with self._lock:
            self._ended = True
            self._wake()

    def _wake(self) -> None:
        if not self._signalled:
            self._signalled = True
            self._signals.put(None)

    def next_batch(self, patience: float | None) -> tuple[list[_Job], bool]:
        """What is there, at least one; and whether there may be more. What nobody waits for has company by then, or
        has waited for it for `lazy` seconds.

        With `patience` there may be none, after so many seconds.
        """
        lazy = self._lazy if patience is None else min(self._lazy, patience)
        self._wait(self._somebody_waits, lazy)
        if not self._is_something_there():
            self._asleep = True  # first this, then another look: whoever comes after the look wakes it
            self._wait(self._is_something_there, patience)
            self._asleep = False
            self._wait(self._somebody_waits, lazy)
        with self._lock:
            batch = [self._jobs.popleft() for _ in range(min(MAX_BATCH, len(self._jobs)))]
            self._waited_for -= sum(job.future is not None for job in batch)
            return batch, not self._ended or bool(self._jobs)

    def _somebody_waits(self) -> bool:
        return self._waited_for > 0 or self._ended

    def _is_something_there(self) -> bool:
        return bool(self._jobs) or self._ended

    def _wait(self, met: Callable[[], bool], seconds: float | None) -> None:
        """Until it is so, or so many seconds are over."""
        until = None if seconds is None else time.monotonic() + seconds
        while not met():
            left = None if until is None else until - time.monotonic()
            if left is not None and left <= 0:
                return
            with suppress(queue.Empty):
                self._signals.get(timeout=left)
                self._signalled = False


class Database:
    """A file and the one thread of this process that uses it; serves any number of loops and threads.

    The thread starts with the first work. After a fork the child has a connection and a thread of its own.
    Works are done in the order in which they were given; each sees those before it.

    Args:
        path, part, schema, synchronous: as for `open_database`, which is tried at once, so that a bad path is refused
            here.
        lazy: seconds for which a work that nobody waits for may be kept back, to share a transaction.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        part: str,
        schema: Sequence[str],
        *,
        synchronous: Synchronous = "full",
        lazy: float = 0.01,
    ) -> None:
        self._open: Callable[[], sqlite3.Connection] = partial(
            open_database, path, part, schema, synchronous=synchronous
        )
        self._path = path
        self._part = part
        self._lazy = lazy
        self._begin()
        self._open().close()
        _databases.add(self)

    def _begin(self) -> None:
        self._lock = threading.Lock()
        self._line = _Line(self._lazy)
        self._thread: threading.Thread | None = None
        self._connection: sqlite3.Connection | None = None

    def after_fork(self) -> None:
        """In the child: the thread is not here, and the connection and what waits are the parent's."""
        _of_parents.append(self._connection)
        self._begin()

    async def run(self, work: Work[T]) -> T:
        """What `work` returns, after it was committed. If this is cancelled, it may be done all the same."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[T] = loop.create_future()
        self._put(_Job(work, loop, future))
        return await future

    def call(self, work: Work[T]) -> T:
        """The same for blocking code."""
        future: Future[T] = Future()
        self._put(_Job(work, None, future))
        return future.result()

    def post(self, work: Work[Any], *, again_on: tuple[type[Exception], ...] = ()) -> None:
        """Have it done soon. If it fails, the log says so; and while it is the file that fails, or with an error of
        `again_on`, it is tried again for ten minutes, or until the end."""
        self._put(_Job(work, None, None, again_on=again_on))

    def close(self) -> None:
        """Finish what was given, then close the file. It opens again with the next work."""
        with self._lock:
            thread, self._thread = self._thread, None
            self._line.end()
        if thread is not None:
            thread.join()
            atexit.unregister(self.close)

    def _put(self, job: _Job) -> None:
        with self._lock:  # so that nothing is put behind the end of a queue
            if self._thread is None:
                self._line = _Line(self._lazy)
                name = f"whatsapp-{self._part}"
                self._thread = threading.Thread(target=self._serve, args=(self._line,), name=name, daemon=True)
                self._thread.start()
                atexit.register(self.close)
            self._line.put(job)

    def _serve(self, line: _Line) -> None:
        more = True
        connection: sqlite3.Connection | None = None
        file: tuple[int, int] | None = None
        again: list[_Job] = []
        while more:
            batch, more = line.next_batch(AGAIN_AFTER if again else None)
            try:
                if connection is None:
                    connection = self._connection = self._open()
                    file = _identity(self._path)
                if file is None or _identity(self._path) != file:
                    raise FileGoneError("the file was deleted or replaced while it was open")
                _carry_out(connection, again)
                trouble = next((job.error for job in again if _is_trouble(job.error)), None)
                if trouble is not None:  # nobody overtakes: who reads now must see what was written before
                    raise trouble
                _carry_out(connection, batch)
            except Exception as error:  # the file cannot be used: who waits must hear of it
                for job in (*again, *batch):
                    job.error = error
            told = bool(again)
            again = self._tried_again(self._report([*again, *batch]), more)
            if again and not told:
                name = type(again[0].error).__name__
                _logger.warning("Writes to the %s fail (%s) and are tried again", self._part, name)
        if connection is not None:
            connection.close()

    def _tried_again(self, failed: list[_Job], more: bool) -> list[_Job]:
        """Those of which another try may help. A work that is wrong in itself would only delay the others."""
        again: list[_Job] = []
        now = time.monotonic()
        for job in failed:
            job.until = now + AGAIN_FOR if job.until is None else job.until
            helps = _is_trouble(job.error) or isinstance(job.error, (ConfigurationError, job.again_on))
            if more and helps and now < job.until and len(again) < MAX_AGAIN:
                again.append(job)
            else:
                _logger.error("A write to the %s failed: %s", self._part, type(job.error).__name__)
        return again

    def _report(self, batch: list[_Job]) -> list[_Job]:
        """Those that failed and that nobody waits for. One wake-up for each loop: they are what costs."""
        loops: dict[asyncio.AbstractEventLoop, list[_Job]] = {}
        failed: list[_Job] = []
        for job in batch:
            if job.loop is not None:
                loops.setdefault(job.loop, []).append(job)
            elif job.future is not None:
                _resolve([job])
            elif job.error is not None:
                failed.append(job)
        for loop, waiting in loops.items():
            try:
                loop.call_soon_threadsafe(_resolve, waiting)
            except RuntimeError:  # the loop has ended, and those who waited with it
                pass
        return failed


def _after_fork_in_child() -> None:
    for database in _databases:
        database.after_fork()


os.register_at_fork(after_in_child=_after_fork_in_child)


def _resolve(jobs: list[_Job]) -> None:
    for job in jobs:
        assert job.future is not None
        if job.future.done():  # cancelled meanwhile
            continue
        if job.error is not None:
            job.future.set_exception(job.error)
        else:
            job.future.set_result(job.result)


def _carry_out(connection: sqlite3.Connection, batch: list[_Job]) -> None:
    """All in one transaction; if one fails, each in its own, so that it fails alone.

    What is wrong with the file ends all of them: each would wait for a lock anew, one after the other.
    """
    error = _attempted(connection, batch)
    if error is None or len(batch) == 1:
        return
    for at, job in enumerate(batch):
        if _is_trouble(error):
            for each in batch[at:]:
                each.error = error
            return
        error = _attempted(connection, [job])


def _attempted(connection: sqlite3.Connection, batch: list[_Job]) -> Exception | None:
    error: Exception | None = None
    try:
        _transact(connection, batch)
    except Exception as raised:
        error = raised
    for job in batch:
        job.error = error
    return error


def _is_trouble(error: BaseException | None) -> bool:
    code = getattr(error, "sqlite_errorcode", 0)
    return isinstance(error, FileGoneError) or (isinstance(error, sqlite3.Error) and code & 0xFF in _TROUBLE)


def _identity(path: str | os.PathLike[str]) -> tuple[int, int] | None:
    try:
        found = os.stat(path)  # noqa: PTH116 - in a quarter of the time, and with each write
    except OSError:
        return None
    return found.st_dev, found.st_ino


def _transact(connection: sqlite3.Connection, batch: list[_Job]) -> None:
    connection.execute("BEGIN IMMEDIATE")
    try:
        for job in batch:
            job.result = job.work(connection)
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise

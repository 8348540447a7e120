"""Where the outbox, the inbox of webhooks and the history are, and how they are opened: never made by mistake."""

from __future__ import annotations

import re
import sqlite3
from argparse import ArgumentParser, ArgumentTypeError, Namespace
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager, closing
from pathlib import Path
from urllib.parse import quote, urlsplit

from resilience_core import ConfigurationError
from resilience_core.cli import Failure, seconds_of
from resilience_whatsapp.history import History
from resilience_whatsapp.outbox import OutboxStore, OutboxStoreError, RedisStore, SQLiteStore
from resilience_whatsapp.records import MessageStatus

OUTBOX, OUTBOX_SECRET, HISTORY, INBOX = (
    "WHATSAPP_OUTBOX",
    "WHATSAPP_OUTBOX_SECRET",
    "WHATSAPP_HISTORY",
    "WHATSAPP_INBOX",
)
_LONGEST_SECRET = 64 * 1024
_REDIS = re.compile("(?:redis|rediss|unix)://", re.IGNORECASE)


def add_outbox(parser: ArgumentParser) -> None:
    """Words about the outbox."""
    parser.add_argument("--outbox", metavar="FILE", help=f"or a URL redis://HOST; else {OUTBOX}")
    parser.add_argument(
        "--outbox-secret-file",
        metavar="PATH",
        help=f"the secret of an outbox in Redis; else {OUTBOX_SECRET}, or {OUTBOX_SECRET}_FILE with a path",
    )
    parser.add_argument("--outbox-name", metavar="NAME", default="outbox", help="of an outbox in Redis; default outbox")
    parser.add_argument("--outbox-prefix", metavar="TEXT", default="", help="before each key in Redis")


def add_history(parser: ArgumentParser) -> None:
    """Words about the history."""
    parser.add_argument("--history", metavar="FILE", help=f"of the history; else {HISTORY}")


def duration(text: str) -> float:
    """The type of an argument: `90`, `90s`, `10m`, `1h30m`, `2d`."""
    try:
        return seconds_of(text)
    except ValueError as error:
        raise ArgumentTypeError(str(error)) from None


def count(text: str) -> int:
    """The type of an argument: a whole number from 1 to 100,000."""
    if not text.isascii() or not text.isdigit() or not 0 < int(text[:7]) <= 100_000:
        raise ArgumentTypeError("it must be a whole number from 1 to 100,000")
    return int(text)


def secret_of(given: str | None, env: Mapping[str, str], name: str, option: str, what: str) -> str:
    """A secret from the file of an option, else from the environment's `name`, else from the file of `name`_FILE.

    Raises:
        Failure: there is none (2).
    """
    path = given or (None if env.get(name) else env.get(f"{name}_FILE"))
    value = env.get(name, "")
    if path:
        try:
            with Path(path).open(encoding="utf-8") as file:
                value = file.read(_LONGEST_SECRET)
        except (OSError, UnicodeDecodeError):
            raise Failure(2, f"the file of {what} cannot be read", f"see {option}") from None
    if not value.strip():
        raise Failure(2, f"{what} is missing", f"set {name} or {name}_FILE, or give {option}")
    return value.strip()


def has_outbox(options: Namespace, env: Mapping[str, str]) -> bool:
    """Whether an outbox is named."""
    return bool(options.outbox or env.get(OUTBOX))


@asynccontextmanager
async def opened_outbox(options: Namespace, env: Mapping[str, str]) -> AsyncGenerator[OutboxStore]:
    """The store of the outbox, for as long as this lasts; what goes wrong with it then is a `Failure`.

    Raises:
        Failure: it is not named, or not there, or it cannot be opened (2), or it cannot be reached (3).
    """
    try:
        store = _store(options, env)
        try:
            yield store
        finally:
            await store.aclose()
    except ConfigurationError as error:
        raise Failure(2, str(error), "see --outbox") from None
    except OutboxStoreError as error:
        raise Failure(3, str(error), "see --outbox, and what its application has as codec") from None
    except sqlite3.Error as error:
        raise Failure(3, f"the file of the outbox cannot be used ({type(error).__name__})", "see --outbox") from None


def _store(options: Namespace, env: Mapping[str, str]) -> OutboxStore:
    where = options.outbox or env.get(OUTBOX)
    if not where:
        raise Failure(2, "the outbox is not named", f"set {OUTBOX}, or give --outbox")
    if not _REDIS.match(where):
        return SQLiteStore(existing(where, "outbox", "--outbox"))
    if options.outbox and (urlsplit(where).password is not None or "password=" in where.lower()):
        raise Failure(2, "a password is no argument: everybody on this host could see it", f"put the URL into {OUTBOX}")
    secret = secret_of(options.outbox_secret_file, env, OUTBOX_SECRET, "--outbox-secret-file", "the outbox's secret")
    return RedisStore(where, secret=secret, name=options.outbox_name, prefix=options.outbox_prefix)


def existing(path: str, table: str, option: str) -> str:
    """A file that has a table, since opening another one would make it.

    Raises:
        Failure: there is no such file, or it has no such table (2).
    """
    try:
        if not Path(path).is_file():
            raise Failure(2, f"there is no file {Path(path).name}", f"see {option}")
        with closing(sqlite3.connect(f"file:{quote(path)}?mode=ro", uri=True)) as connection:
            found = connection.execute("SELECT 1 FROM sqlite_master WHERE name = ?", (table,)).fetchone()
    except sqlite3.Error as error:
        raise Failure(2, f"the file of {option} cannot be read ({type(error).__name__})", f"see {option}") from None
    if found is None:
        raise Failure(2, f"the file of {option} is another one: it has no table {table}", f"see {option}")
    return path


def history_of(options: Namespace, env: Mapping[str, str]) -> History | None:
    """The history that is named, if one is.

    Raises:
        Failure: it is not there (2).
    """
    path = options.history or env.get(HISTORY)
    return History(existing(path, "history_messages", "--history")) if path else None


def say_counts(counts: Mapping[MessageStatus, int]) -> str:
    """How many there are, in a line."""
    return (
        ", ".join(f"{number} {state.value}" for state in MessageStatus if (number := counts.get(state, 0))) or "empty"
    )


def counts_as_json(counts: Mapping[MessageStatus, int]) -> dict[str, int]:
    """The same for programs."""
    return {state.value: counts.get(state, 0) for state in MessageStatus}

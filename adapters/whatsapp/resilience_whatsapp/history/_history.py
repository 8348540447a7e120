"""The history: told by the service, the outbox and webhooks, asked by people."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import logging
import os
import sqlite3
from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from typing import Any, TypeVar

from resilience_core import Clock, ConfigurationError
from resilience_whatsapp._clock import SYSTEM
from resilience_whatsapp._delivery import AttemptTold
from resilience_whatsapp._sqlite import Database, Work
from resilience_whatsapp.history import _sql
from resilience_whatsapp.history._stories import HistoryPage, MessageStory, Step, trouble_of
from resilience_whatsapp.records import MessageRecord, MessageStatus
from resilience_whatsapp.webhooks import StatusUpdate, WebhookUpdate

__all__ = ["History"]

DAY = 86_400.0
MAX_PAGE = 1_000
_BETWEEN_PRUNINGS = 500
_PRUNED_AT_ONCE = 1_000
MAX_BEHIND = 10_000
"""Messages that may wait to be written; about 20 MB."""
_logger = logging.getLogger("resilience_whatsapp.history")
T = TypeVar("T")


class History:
    """The story of every message, in an SQLite file or in memory.

    Args:
        path: the file; None keeps it in memory, for tests. May be the file of the outbox.
        hash_recipients: a secret; with it, recipients are kept as keyed hashes only (HMAC-SHA256, 32 hexadecimal
            digits): `find(recipient=...)` still finds them, nobody can read them. Without it they are kept as they
            are: the file is yours, made with the mode 0600, and support wants to see a number.
        kept_for: seconds after which messages are forgotten.
        max_messages: how many are kept at most; the oldest go first.
        clock: gives the time; default that of the policies.

    Raises:
        ConfigurationError: the path cannot be opened or is no database, or a number is out of range.
    """

    def __init__(
        self,
        path: str | os.PathLike[str] | None = None,
        *,
        hash_recipients: str | None = None,
        kept_for: float = 90 * DAY,
        max_messages: int = 1_000_000,
        clock: Clock | None = None,
    ) -> None:
        if not kept_for > 0:
            raise ConfigurationError("History: kept_for must be more than 0 seconds")
        if type(max_messages) is not int or max_messages < 1:
            raise ConfigurationError("History: max_messages must be a whole number from 1")
        if hash_recipients is not None and len(hash_recipients) < 16:
            raise ConfigurationError("History: hash_recipients must be a secret of at least 16 characters")
        self._database: Database | _Memory = _Memory() if path is None else Database(path, "history", _sql.SCHEMA)
        self._secret = hash_recipients
        self._kept_for = kept_for
        self._max_messages = max_messages
        self._clock = clock or SYSTEM
        self._until_pruning = 0
        self._posted = self._done = 0
        self._drops = False

    # --- being told --------------------------------------------------------------------------------------------------

    def add(
        self,
        record: MessageRecord,
        error: BaseException | None = None,
        *,
        attempts: Sequence[AttemptTold] = (),
        at: float | None = None,
    ) -> None:
        """Add where the message stands now. Returns at once and never raises for a disk that fails: the log tells.

        While the disk is behind by 10,000 messages, what is told is dropped.

        Args:
            record: as the service or the outbox has it.
            error: why.
            attempts: the requests since the last time.
            at: when, in seconds since the epoch; default now.
        """
        now = self._clock.wall() if at is None else at
        steps = [
            Step(each.at, MessageStatus.IN_FLIGHT, "attempt", each.duration, trouble_of(each.error))
            for each in attempts
        ]
        duration = record.duration or None
        facts = _sql.Facts(
            record.id,
            record.wamid,
            self._kept(record.recipient),
            record.user_id,
            record.kind,
            record.template,
            record.language,
            record.attempts,
            record.possible_duplicate,
            record.started_at,
        )
        steps.append(Step(now, record.status, "send", duration, trouble_of(error)))
        self._post(lambda db: _sql.add(db, facts, steps))

    async def on_update(self, update: WebhookUpdate) -> None:
        """A listener of webhooks: adds statuses, once each, however often they come."""
        if not isinstance(update, StatusUpdate) or update.kind is None:
            return
        facts = _sql.Facts(
            id=update.record_id,
            wamid=update.wamid,
            recipient=self._kept(update.recipient or update.recipient_user_id),
        )
        trouble = trouble_of(update.errors[0]) if update.errors else None
        at = self._clock.wall() if update.at is None else update.at
        steps = [Step(at, update.kind, "webhook", None, trouble)]
        await self._database.run(lambda db: _sql.add(db, facts, steps))
        self._prune_sometimes()

    # --- being asked -------------------------------------------------------------------------------------------------

    async def get(self, id: str) -> MessageStory | None:
        """The story of a message by our id; None if it is not known (any more)."""
        return await self._database.run(partial(_sql.get, column="id", value=id))

    async def get_by_wamid(self, wamid: str) -> MessageStory | None:
        """The story of a message by the platform's id."""
        return await self._database.run(partial(_sql.get, column="wamid", value=wamid))

    async def template_of(self, update: StatusUpdate) -> tuple[str, str] | None:
        """Name and language of the template of the message that a webhook is about, for `webhooks.gating`."""
        story = None if update.record_id is None else await self.get(update.record_id)
        if story is None:
            story = await self.get_by_wamid(update.wamid)
        return None if story is None or not (story.template and story.language) else (story.template, story.language)

    async def find(
        self,
        *,
        recipient: str | None = None,
        status: MessageStatus | None = None,
        template: str | None = None,
        user_id: str | None = None,
        since: float | None = None,
        until: float | None = None,
        limit: int = 100,
        after: str | None = None,
    ) -> HistoryPage:
        """The messages that fit all that is given, the newest first, without their steps.

        Args:
            recipient: a number with `+`, or an id.
            status, template, user_id: as in the records.
            since, until: begun from the one on and before the other, in seconds since the epoch.
            limit: at most so many, up to 1,000.
            after: `next_after` of the page before.

        Raises:
            ConfigurationError: a limit out of range, or an `after` that is none.
        """
        if not 1 <= limit <= MAX_PAGE:
            raise ConfigurationError(f"History: limit must be from 1 to {MAX_PAGE}, not {limit!r}")
        filters = {
            "recipient": self._kept(recipient),
            "status": None if status is None else MessageStatus(status).value,
            "template": template,
            "user_id": user_id,
            "since": since,
            "until": until,
        }
        place = None if after is None else _place(after)
        return await self._database.run(lambda db: _sql.find(db, filters, limit, place))

    async def count(self, since: float = 0.0) -> dict[MessageStatus, int]:
        """How many messages stand where, of those begun since then."""
        return await self._database.run(lambda db: _sql.count(db, since))

    # --- keeping house -----------------------------------------------------------------------------------------------

    async def forget_old(self) -> int:
        """Drop what is too old or too much; how many. Happens by itself, a thousand at a time, while it is told."""
        total = 0
        while dropped := await self._database.run(self._prune):
            total += dropped
        return total

    async def written(self) -> None:
        """Wait until all that was told is on the disk."""
        await self._database.run(lambda _: None)

    async def aclose(self) -> None:
        """Finish writing and close the file."""
        await asyncio.to_thread(self._database.close)

    def close(self) -> None:
        """The same for blocking callers."""
        self._database.close()

    def _post(self, work: Work[None]) -> None:
        """Write soon, unless the disk is so far behind that what waits would fill the memory."""
        if self._posted - self._done >= MAX_BEHIND:
            if not self._drops:
                _logger.error("The history is behind by %d messages: what is told now is not kept", MAX_BEHIND)
            self._drops = True
            return
        self._drops = False
        self._posted = number = self._posted + 1

        def write(db: sqlite3.Connection) -> None:
            self._done = number  # also if it fails: then it does not wait any more, and the log says so
            work(db)

        self._database.post(write)
        self._prune_sometimes()

    def _prune(self, db: sqlite3.Connection) -> int:
        return _sql.forget(db, self._clock.wall() - self._kept_for, self._max_messages, _PRUNED_AT_ONCE)

    def _prune_sometimes(self) -> None:
        self._until_pruning -= 1
        if self._until_pruning < 0:
            self._until_pruning = _BETWEEN_PRUNINGS
            self._database.post(self._prune)

    def _kept(self, recipient: str | None) -> str | None:
        """One spelling for a number: webhooks leave out the `+`."""
        if recipient is None:
            return None
        text = f"+{recipient}" if recipient.isascii() and recipient.isdigit() else recipient
        if self._secret is None:
            return text
        return hmac.new(self._secret.encode(), text.encode("utf-8", "replace"), hashlib.sha256).hexdigest()[:32]


class _Memory:
    """The same tables in memory, with the methods of `Database`."""

    def __init__(self) -> None:
        self._connection = sqlite3.connect(":memory:", isolation_level=None, check_same_thread=False)
        for script in _sql.SCHEMA:
            self._connection.executescript(script)

    async def run(self, work: Work[T]) -> T:
        """What `work` returns."""
        return work(self._connection)

    def post(self, work: Work[Any]) -> None:
        """Have it done."""
        work(self._connection)

    def close(self) -> None:
        """Forget all."""
        self._connection.close()


def _place(after: str) -> tuple[float, int]:
    created, _, number = after.partition("_")
    with suppress(ValueError):
        return float(created), int(number)
    raise ConfigurationError("History: after must be the next_after of a page")

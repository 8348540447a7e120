"""The outbox: what is kept before it is sent, and what becomes of it."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncGenerator, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from datetime import datetime
from typing import Any, Literal, TypeAlias

from resilience_core import Clock, ConfigurationError
from resilience_whatsapp._clock import SYSTEM
from resilience_whatsapp._copies import replaced
from resilience_whatsapp._delivery import Sending, carry
from resilience_whatsapp.errors import InvalidMessageError
from resilience_whatsapp.outbox import _machine as machine
from resilience_whatsapp.outbox._drain import Drainer, Gate, Recheck, Sender, accepting, ending_of
from resilience_whatsapp.outbox._machine import Interval, Rules
from resilience_whatsapp.outbox._row import IdempotencyKeyError, OutboxRow, OutboxStoreError, digest_of
from resilience_whatsapp.outbox._store import OutboxStore
from resilience_whatsapp.records import MessageRecord, MessageStatus

WhenDown: TypeAlias = Literal["raise", "queue"]
_WHEN_DOWN: tuple[WhenDown, ...] = ("raise", "queue")


class Outbox:
    """Keeps every message before the first byte of it leaves, and sends what could not be sent at once.

    Give it to a `WhatsAppService(client, outbox=...)`, or to several with different numbers; while
    `async with outbox.running():` holds, what is queued is sent.

    Args:
        store: where the rows are: `SQLiteStore`, `RedisStore`, `MemoryStore`.
        when_down: what `send` does when the message cannot be sent now. `raise` the error; the outbox does not send it
            later. `queue` it; the record says `queued`. Each send can choose.
        max_attempts: requests in a row that fail because of the platform, until a queued message is `dead`.
        base_delay, max_delay: seconds before the first and before any later of these requests, before jitter.
        hold_for: seconds for which queued messages wait after an error that a person must repair.
        send_timeout: seconds for one send; longer ones are ended, and mostly `unknown`.
        lease: seconds after which what is `in_flight` counts as left behind by a dead sender.
        echo_within: seconds for which a webhook is awaited that tells what became of an `unknown` message.
        expire_after: seconds after which a queued message is dropped when `not_after` was not given.
        keep_for, keep_dead_for: seconds for which finished rows, and `dead` and `unknown` ones, are kept. A key
            protects against a second send for as long.
        rate, first_rate, ramp_every: queued messages a second for each number in this process: at most, at first, and
            seconds after which the rate is twice as high.
        max_concurrent: queued messages under way at once for each number in this process.
        gate: asked before each queued message.
        rechecks: asked before each queued message whether it is still right to send it: `Hold`, `Drop` or None.
        downtime: answers when the receiver of webhooks was down; these times do not count for `echo_within`.
        poll: seconds after which the store is looked at for what other processes queued.
        clock: gives the time, but does not wait; default that of the policies.

    Raises:
        ConfigurationError: a number that cannot work.
    """

    def __init__(
        self,
        store: OutboxStore,
        *,
        when_down: WhenDown = "raise",
        max_attempts: int = 8,
        base_delay: float = 1.0,
        max_delay: float = 300.0,
        hold_for: float = 60.0,
        send_timeout: float = 120.0,
        lease: float = 180.0,
        echo_within: float = 300.0,
        expire_after: float = 86_400.0,
        keep_for: float = 7 * 86_400.0,
        keep_dead_for: float = 30 * 86_400.0,
        rate: float = 64.0,
        first_rate: float = 1.0,
        ramp_every: float = 1.0,
        max_concurrent: int = 32,
        gate: Gate | None = None,
        rechecks: Sequence[Recheck] = (),
        downtime: Callable[[], Iterable[Interval]] = tuple,
        poll: float = 1.0,
        clock: Clock | None = None,
    ) -> None:
        numbers: dict[str, Any] = {"rate": rate, "first_rate": first_rate, "ramp_every": ramp_every, "poll": poll}
        for name, value in numbers.items():
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < float("inf"):
                raise ConfigurationError(f"Outbox: {name} must be a positive, finite number, not {value!r}")
        if type(max_concurrent) is not int or max_concurrent < 1:
            raise ConfigurationError(f"Outbox: max_concurrent must be a whole number from 1, not {max_concurrent!r}")
        self.store = store
        self.when_down: WhenDown = _checked(when_down)
        self.rules = Rules(
            max_attempts=max_attempts,
            base_delay=base_delay,
            max_delay=max_delay,
            hold_for=hold_for,
            send_timeout=send_timeout,
            lease=lease,
            echo_within=echo_within,
            expire_after=expire_after,
            keep_for=keep_for,
            keep_dead_for=keep_dead_for,
        )
        self.clock = clock or SYSTEM
        self._random = random.random
        self._joined: dict[tuple[asyncio.AbstractEventLoop, str], asyncio.Future[MessageRecord | None]] = {}
        self._drainer = Drainer(
            store,
            self.rules,
            self.clock,
            self._random,
            gate=gate,
            rechecks=rechecks,
            downtime=downtime,
            poll=poll,
            pace=(first_rate, rate, ramp_every),
            max_concurrent=max_concurrent,
        )

    def attach(self, sender: Sender) -> None:
        """Send what is queued for the number of `sender` through it; a service does this by itself.

        Raises:
            ConfigurationError: another one has its number already.
        """
        self._drainer.attach(sender)

    async def detach(self, sender: Sender, patience: float = 10.0) -> None:
        """Send nothing more through `sender`; sends of queued messages under way have `patience` seconds to end."""
        await self._drainer.detach(sender, patience)

    @asynccontextmanager
    async def running(self, *, drain_timeout: float = 10.0) -> AsyncGenerator[Outbox]:
        """Send what is queued, give up dead senders, forget old rows, for as long as this lasts.

        At its end no new send is begun; those under way have `drain_timeout` seconds to end, then they are cut short.
        Nothing is lost by that: what was not sent stays queued.
        """
        self._drainer.start()
        try:
            yield self
        finally:
            await self._drainer.stop(drain_timeout)
            await self.store.flush()

    async def drained(self) -> None:
        """Wait until nothing is queued for the numbers of the services that have this outbox, and no queued message is
        under way here; while it is `running`. What waits for an hour is waited for: give it a time-out.

        Raises:
            OutboxStoreError: the store cannot be reached.
        """
        await self._drainer.drained()

    async def aclose(self) -> None:
        """Write what is not yet written and close the store."""
        await self.store.aclose()

    # --- sending -----------------------------------------------------------------------------------------------------

    async def send(
        self,
        sender: Sender,
        record: MessageRecord,
        payload_for: Callable[[str], dict[str, Any]],
        *,
        idempotency_key: str | None = None,
        not_after: float | datetime | None = None,
        priority: int = 5,
        ordered: bool = False,
        when_down: WhenDown | None = None,
    ) -> MessageRecord:
        """What `WhatsAppService.send` does with an outbox.

        Args:
            sender: makes the request.
            record: of the message, not sent yet.
            payload_for: the body of the request that carries this id.
            idempotency_key, not_after, priority, ordered, when_down: as there.
        """
        row = self._new_row(sender, record, payload_for, idempotency_key, not_after, priority, ordered, when_down)
        if row.key is None:
            return await self._send(sender, await self._add(row))
        place = (asyncio.get_running_loop(), row.key)
        while (same := self._joined.get(place)) is not None:
            # The same message is on its way in this loop: its end is ours, too; after an error we try ourselves.
            known = await asyncio.shield(same)
            if known is not None:
                _same_message(row, await self.store.get(known.id))
                return known
        mine = self._joined[place] = place[0].create_future()
        ended: MessageRecord | None = None
        try:
            ended = await self._send_by_key(sender, row, payload_for)
            return ended
        finally:
            del self._joined[place]
            mine.set_result(ended)

    async def _send_by_key(
        self, sender: Sender, row: OutboxRow, payload_for: Callable[[str], dict[str, Any]]
    ) -> MessageRecord:
        known = await self._add(row)
        if known.id == row.id:
            return await self._send(sender, known)
        _same_message(row, known)
        if known.state is MessageStatus.IN_FLIGHT:
            # Perhaps by us, and being given up: its add had no answer. What we still write of it comes first.
            known = await self.store.get(known.id) or known
        if not machine.may_be_sent_anew(known):
            return known.record()
        # Its first send certainly did not happen, and nobody repeats it: this one does, under the same id.
        anew = replaced(row, id=known.id, payload=payload_for(known.id), fence=known.fence, created_at=known.created_at)
        if row.ordered:  # it has lost its place, and takes another one
            anew = replaced(anew, state=MessageStatus.QUEUED, due=row.created_at)
        won = False

        def rule(now: OutboxRow) -> OutboxRow:
            nonlocal won
            won = now.fence == known.fence
            return anew if won else now

        try:
            changed = await self.store.change(known, rule)
        except BaseException:  # as in `_add`
            self._give_up(known, replaced(anew, fence=known.fence + 1))
            raise
        if changed is None or not won:
            return (changed or known).record()  # somebody else was quicker
        return await self._send(sender, changed)

    async def _add(self, row: OutboxRow) -> OutboxRow:
        try:
            return await self.store.add(row)
        except BaseException:
            # Cut short: it may have been kept all the same, and must not look as if it were under way.
            self._give_up(row, row)
            raise

    def _give_up(self, read: OutboxRow, kept: OutboxRow) -> None:
        self.store.post(read, lambda known: machine.given_up(known, kept, self.clock.wall()))

    async def _send(self, sender: Sender, kept: OutboxRow) -> MessageRecord:
        if kept.state is MessageStatus.QUEUED:  # behind another one of its recipient
            self._drainer.wake()
            sender.tell(kept.record(), Sending())
            return kept.record()
        sending, rules, started = Sending(), self.rules, self.clock.wall()
        if started > kept.not_after:
            self._give_up(kept, kept)
            late = OutboxStoreError("keeping the message took until its not_after was over: it was not sent")
            late.record = machine.given_up(kept, kept, started).record()
            raise late
        if (kept.due or 0.0) - started < rules.send_timeout:
            # The store, or this process, took so long that others may hold its sender for dead before it has ended.
            fence = kept.fence
            renewed = await self.store.change(kept, lambda row: machine.renewed(row, fence, started, rules))
            if renewed is None or renewed.due != started + rules.lease:
                return (renewed or kept).record()
            kept = renewed
        try:
            async with asyncio.timeout(rules.send_timeout):
                # What the outbox keeps is repeated by the outbox: the caller does not wait for it.
                record = await sender.attempt(kept.record(), kept.payload, sending, retries=not kept.kept)
        except BaseException as error:
            after = self._not_accepted(sender, kept, sending, error)
            if after.due is not None and after.kept and isinstance(error, Exception):
                return after.record()
            carry(error, replaced(after.record(), duration=self.clock.wall() - started))
            raise
        rule = accepting(kept, record.wamid or "", sending, self.clock.wall())
        after = rule(kept)
        self.store.post(kept, lambda known: after if known is kept else rule(known))
        accepted = replaced(record, started_at=kept.created_at, possible_duplicate=after.possible_duplicate)
        sender.tell(accepted, sending)
        return accepted

    def _not_accepted(self, sender: Sender, kept: OutboxRow, sending: Sending, error: BaseException) -> OutboxRow:
        """The row after a send of the caller's that was not accepted."""
        ending, now = ending_of(error, sending, sender.template_wait(kept)), self.clock.wall()
        hopeless = not isinstance(error, Exception) or (
            ending.unknown > 0 and (kept.delivery == "at_most_once" or kept.unknown > 0)
        )
        judged = machine.ended(kept, ending, now, self._random, self.rules, told=not kept.kept or hopeless)
        if judged.kept and judged.due is None:  # the outbox would not do more: the caller must hear of it
            judged = machine.ended(kept, ending, now, self._random, self.rules, told=True)
        fence = kept.fence
        self.store.post(kept, lambda row: judged if row.fence == fence else row)
        self._drainer.learn(sender, ending, error)
        sender.tell(judged.record(), sending, error)
        return judged

    def _new_row(
        self,
        sender: Sender,
        record: MessageRecord,
        payload_for: Callable[[str], dict[str, Any]],
        key: Any,
        not_after: float | datetime | None,
        priority: int,
        ordered: bool,
        when_down: WhenDown | None,
    ) -> OutboxRow:
        now = self.clock.wall()
        end = _end(not_after, now, self.rules.expire_after)
        if type(priority) is not int or priority not in machine.PRIORITIES:
            raise InvalidMessageError(f"priority must be a whole number from 0 to 9, the highest, not {priority!r}")
        if key is not None and (not isinstance(key, str) or not 0 < len(key) <= 255):
            raise InvalidMessageError("idempotency_key must be a text of 1 to 255 characters")
        down = self.when_down if when_down is None else _checked(when_down)
        if ordered and down != "queue":
            raise ConfigurationError(
                "ordered=True needs when_down='queue': a message waits until those before it are sent, and is then "
                "sent by the outbox"
            )
        payload = payload_for(record.id)
        return OutboxRow(
            id=record.id,
            lane=sender.lane,
            user_id=record.user_id,
            recipient=record.recipient,
            payload=payload,
            kind=record.kind,
            template=record.template,
            language=record.language,
            delivery=record.delivery,
            key=key,
            digest="" if key is None else digest_of(sender.lane, record.recipient, payload),
            priority=priority,
            ordered=ordered,
            kept=down == "queue",
            not_after=end,
            state=MessageStatus.IN_FLIGHT,
            due=now + self.rules.lease,
            created_at=now,
            changed_at=now,
        )

    # --- what webhooks and people do ---------------------------------------------------------------------------------

    async def settle(
        self, row_id: str, wamid: str, status: str, at: float, *, error: str | None = None
    ) -> OutboxRow | None:
        """What a webhook tells of a message; for its receiver to call, any number of times and in any order.

        Args:
            row_id: the record's id, from `biz_opaque_callback_data`.
            wamid: the API's id of the message.
            status: `sent`, `delivered`, `read`, `played` or `failed`; others change nothing.
            at: when that was, seconds since the epoch.
            error: with `failed`, its name.

        Returns:
            The row as it is now; None if there is none with this id.
        """
        row = await self.store.get(row_id)
        if row is None:
            return None
        now = self.clock.wall()
        changed = await self.store.change(row, lambda row: machine.echoed(row, wamid, status, at, now, error))
        if row.ordered:
            self._drainer.wake()
        return changed

    async def get(self, row_id: str) -> OutboxRow | None:
        """The row with this id, the `id` of its record; None if there is none."""
        return await self.store.get(row_id)

    async def find(self, idempotency_key: str) -> OutboxRow | None:
        """The row with this key; None if there is none."""
        return await self.store.find(idempotency_key)

    async def rows(
        self, state: MessageStatus | str, *, limit: int = 100, changed_before: float | None = None
    ) -> list[OutboxRow]:
        """Rows in a state, the latest changed first; `changed_before` that of the last one gives the next page."""
        before = {} if changed_before is None else {"changed_before": changed_before}
        return await self.store.rows(MessageStatus(state), limit=limit, **before)

    async def dead_letters(self, *, limit: int = 100) -> list[OutboxRow]:
        """Messages that were given up; `reason` and `error` say why."""
        return await self.rows(MessageStatus.DEAD, limit=limit)

    async def counts(self) -> dict[MessageStatus, int]:
        """How many rows there are in each state."""
        found = await self.store.counts()
        return {state: found.get(state, 0) for state in MessageStatus}

    async def retry(
        self, row_id: str, *, not_after: float | datetime | None = None, may_duplicate: bool = False
    ) -> OutboxRow | None:
        """Queue a message again that was given up (`dead`, `rejected`, or `failed` without having been accepted).

        Args:
            row_id: the row's id.
            not_after: as for a send.
            may_duplicate: also one that is `unknown`: it may arrive twice.

        Returns:
            The row as it is now: `queued` if it was. None if there is none with this id.
        """
        row = await self.store.get(row_id)
        if row is None:
            return None
        now = self.clock.wall()
        end = _end(not_after, now, self.rules.expire_after)

        def rule(row: OutboxRow) -> OutboxRow:
            unknown = may_duplicate and row.state is MessageStatus.UNKNOWN
            return machine.revived(row, now, end) if unknown or machine.may_be_sent_anew(row) else row

        changed = await self.store.change(row, rule)
        if changed is not None and changed.fence != row.fence and changed.state is MessageStatus.QUEUED:
            self._drainer.tell(changed)
        self._drainer.wake()
        return changed


def _same_message(row: OutboxRow, known: OutboxRow | None) -> None:
    if known is not None and known.digest != row.digest:
        raise IdempotencyKeyError(
            "idempotency_key: the same key was used for another message or recipient; use a new key for a new message"
        )


def _end(not_after: Any, now: float, usual: float) -> float:
    if not_after is None:
        return now + usual
    if isinstance(not_after, datetime):
        if not_after.tzinfo is None:
            raise InvalidMessageError("not_after must have a time zone, or be seconds since the epoch")
        not_after = not_after.timestamp()
    if isinstance(not_after, bool) or not isinstance(not_after, (int, float)):
        raise InvalidMessageError("not_after must be a datetime with a time zone, or seconds since the epoch")
    if not not_after > now:
        raise InvalidMessageError("not_after must be later than now")
    return float(not_after)


def _checked(when_down: str) -> WhenDown:
    for known in _WHEN_DOWN:
        if when_down == known:
            return known
    raise ConfigurationError(f"when_down must be 'raise' or 'queue', not {when_down!r}")

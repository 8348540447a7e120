"""`outbox`: what is kept and what became of it; queue messages again, and send what is queued."""

from __future__ import annotations

import asyncio
import math
import time
from argparse import ArgumentTypeError, Namespace
from collections import Counter
from collections.abc import AsyncGenerator, Mapping
from contextlib import AsyncExitStack, aclosing
from typing import Any

from attrs import frozen

from resilience_core.cli import Failure, Parser, Screen, lasting, printable
from resilience_whatsapp.cli import _drain
from resilience_whatsapp.cli._connection import add_connection
from resilience_whatsapp.cli._files import (
    add_history,
    add_outbox,
    count,
    counts_as_json,
    duration,
    history_of,
    opened_outbox,
    say_counts,
)
from resilience_whatsapp.cli._history import said, say_steps, steps_of
from resilience_whatsapp.outbox import Outbox, OutboxRow, OutboxStore
from resilience_whatsapp.records import MessageStatus, mask_recipient

TOLD = "what the outbox has kept: list, show, queue again, send, and what was given up"
EXAMPLES = """\
resilience-whatsapp outbox list --outbox outbox.db --state queued --state unknown
  resilience-whatsapp outbox show 0123456789abcdef0123456789abcdef --history history.db
  resilience-whatsapp outbox dead --reason expired --retry --for 2h"""
_ACTIONS = {
    "list": "the rows, the latest changed first, and how many there are in each state",
    "show": "one row, with what happened to it if a history is given",
    "retry": "queue messages again that were not sent; whoever runs with this outbox, or drain, sends them",
    "drain": "send what is queued for the sending number, until nothing is",
    "dead": "what was given up, counted by reason; with --retry, queue it again",
}
_OPEN = (MessageStatus.QUEUED, MessageStatus.IN_FLIGHT, MessageStatus.UNKNOWN, MessageStatus.DEAD)
"""What `list` shows unless states are named: what is not over, or needs somebody."""
_BATCH = 200


def add_arguments(parser: Parser) -> None:
    """See `Command`."""
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True, parser_class=Parser)
    made = {name: parser.for_command(name, actions, told, parser.epilog) for name, told in _ACTIONS.items()}
    for name, each in made.items():
        add_outbox(each)
        if name in ("show", "retry", "drain"):
            add_history(each)
        if name in ("list", "show", "dead"):
            each.add_argument("--show-recipients", action="store_true", help="show recipients in full")
        if name == "drain":
            _drain.add_arguments(each)
            add_connection(each)
        else:
            each.add_argument("--json", action="store_true", dest="as_json", help="one JSON document")
    listed, shown, retried, dead = made["list"], made["show"], made["retry"], made["dead"]
    states = ", ".join(MessageStatus)
    listed.add_argument(
        "--state", action="append", metavar="STATE", choices=list(MessageStatus), help=f"may be repeated: {states}"
    )
    for each in (listed, dead):
        each.add_argument("--template", metavar="NAME", help="of this template only")
        each.add_argument("--older", metavar="TIME", type=duration, help="kept longer ago than 90s, 10m, 1h30m or 2d")
        each.add_argument("--younger", metavar="TIME", type=duration, help="kept not so long ago")
    listed.add_argument("--limit", metavar="N", type=count, default=50, help="rows of a page; default 50")
    listed.add_argument("--after", metavar="PLACE", type=_place, help="the next page: what the one before has told")
    shown.add_argument("id", metavar="ID", help="of the message's record")
    retried.add_argument("ids", metavar="ID", nargs="+", help="of the messages' records")
    retried.add_argument("--may-duplicate", action="store_true", help="also what was perhaps sent: it may arrive twice")
    dead.add_argument("--reason", metavar="TEXT", help="as the list says it")
    dead.add_argument("--error", metavar="NAME", help="as the list says it")
    dead.add_argument("--retry", action="store_true", help="queue again all that fit")
    for each in (retried, dead):
        each.add_argument(
            "--for", dest="seconds", metavar="TIME", type=duration, help="send them within that time; default 1d"
        )


def run(options: Namespace, screen: Screen, env: Mapping[str, str]) -> int:
    """See `Command`."""
    if options.action == "drain":
        return _drain.run(options, screen, env)
    return asyncio.run(_carried_out(options, screen, env))


async def _carried_out(options: Namespace, screen: Screen, env: Mapping[str, str]) -> int:
    act = {"list": _list, "show": _show, "retry": _retry, "dead": _dead}[options.action]
    async with opened_outbox(options, env) as store:
        return await act(options, screen, env, store)


# --- list ------------------------------------------------------------------------------------------------------------


@frozen(order=True)
class Place:
    """Where a row stands in a list: the latest changed first, of equal ones by their ids."""

    earlier: float
    id: str

    def __str__(self) -> str:
        return f"{-self.earlier!r}_{self.id}"


def _place(text: str) -> Place:
    changed, _, row_id = text.partition("_")
    try:
        return Place(-float(changed), row_id)
    except ValueError:
        raise ArgumentTypeError("it must be what a page has told") from None


def _place_of(row: OutboxRow) -> Place:
    return Place(-row.changed_at, row.id)


async def rows_of(store: OutboxStore, state: MessageStatus, before: float = 1e18) -> AsyncGenerator[OutboxRow]:
    """All rows of a state that were changed before a time, in the order of their places.

    A store pages by the time of the last change, which several rows may have in common: those at the end of a page are
    asked for again with the next one.
    """
    limit, now_before = _BATCH, before
    while rows := await store.rows(state, limit=limit, changed_before=now_before):
        last = rows[-1].changed_at
        whole = [row for row in rows if row.changed_at > last]
        if len(rows) < limit:  # those that cannot be read are left out: there may be more
            whole = rows
        elif not whole:
            limit *= 2
            continue
        limit = _BATCH
        for row in sorted(whole, key=_place_of):
            yield row
        now_before = whole[-1].changed_at


def _fits(options: Namespace, row: OutboxRow, now: float) -> bool:
    age = now - row.created_at
    return (
        (options.template is None or row.template == options.template)
        and (options.older is None or age > options.older)
        and (options.younger is None or age < options.younger)
    )


async def _list(options: Namespace, screen: Screen, env: Mapping[str, str], store: OutboxStore) -> int:
    now, found = time.time(), list[OutboxRow]()
    start: Place | None = options.after
    for state in dict.fromkeys(options.state or _OPEN):
        before = 1e18 if start is None else math.nextafter(-start.earlier, math.inf)  # those of the same time, too
        taken = 0
        async with aclosing(rows_of(store, MessageStatus(state), before)) as rows:
            async for row in rows:
                if (start is None or _place_of(row) > start) and _fits(options, row, now):
                    found.append(row)
                    taken += 1
                    if taken > options.limit:
                        break
    found.sort(key=_place_of)
    page, counts = found[: options.limit], await store.counts()
    following = str(_place_of(page[-1])) if len(found) > len(page) else None
    if screen.as_json:
        told = [row_as_json(row, in_full=options.show_recipients) for row in page]
        screen.document({"counts": counts_as_json(counts), "rows": told, "next_after": following})
        return 0
    head = ("ID", "STATE", "RECIPIENT", "MESSAGE", "AGE", "TRIES", "NEXT", "WHY")
    if page:
        screen.table(head, [_line(row, now, in_full=options.show_recipients) for row in page])
        screen.say()
    screen.say(say_counts(counts))
    if following is not None:
        screen.say(f"the next page: --after {following}")
    return 0


def _line(row: OutboxRow, now: float, *, in_full: bool) -> tuple[Any, ...]:
    due = None if row.due is None else "now" if row.due <= now else f"in {lasting(row.due - now)}"
    why = " ".join(part for part in (row.reason, row.error and f"({row.error})") if part)
    shown = _recipient(row, in_full=in_full)
    return row.id, row.state.value, shown, _what(row), lasting(now - row.created_at), row.attempts, due, why or None


def _what(row: OutboxRow) -> str:
    return row.kind if row.template is None else f"{row.template} {row.language}"


def _recipient(row: OutboxRow, *, in_full: bool) -> str:
    return row.recipient if in_full else mask_recipient(row.recipient)


def row_as_json(row: OutboxRow, *, in_full: bool = False) -> dict[str, Any]:
    """A row without its message and its key."""
    names = (
        *("id", "lane", "user_id", "kind", "template", "language", "delivery", "priority", "ordered", "kept"),
        *("not_after", "due", "attempts", "unknown", "possible_duplicate", "wamid", "error", "reason"),
        *("created_at", "changed_at", "told_at"),
    )
    told = {name: getattr(row, name) for name in names}
    shown = _recipient(row, in_full=in_full)
    return {"state": row.state.value, "recipient": shown, "has_key": row.key is not None, **told}


# --- show ------------------------------------------------------------------------------------------------------------


async def _show(options: Namespace, screen: Screen, env: Mapping[str, str], store: OutboxStore) -> int:
    row = await store.get(options.id)
    if row is None:
        raise _no_row()
    history = history_of(options, env)
    story = None
    if history is not None:
        story = await history.get(row.id)
        await history.aclose()
    told = row_as_json(row, in_full=options.show_recipients)
    if screen.as_json:
        screen.document({**told, "steps": None if history is None else steps_of(story)})
        return 0
    for name, value in told.items():
        screen.say(f"{name.replace('_', ' '):<18} {printable('-' if value is None else said(name, value))}")
    if history is not None:
        screen.say()
        say_steps(screen, story)
    return 0


def _no_row() -> Failure:
    return Failure(2, "the outbox has no row of that id", "resilience-whatsapp outbox list shows them")


# --- retry -----------------------------------------------------------------------------------------------------------


async def _retry(options: Namespace, screen: Screen, env: Mapping[str, str], store: OutboxStore) -> int:
    outbox, told = Outbox(store), list[dict[str, Any]]()
    async with AsyncExitStack() as stack:
        history = history_of(options, env)
        if history is not None:
            stack.push_async_callback(history.aclose)
        for row_id in dict.fromkeys(options.ids):
            before = await store.get(row_id)
            after = await outbox.retry(row_id, not_after=_end(options), may_duplicate=options.may_duplicate)
            queued = after is not None and before is not None and _was_queued(before, after)
            told.append({"id": row_id, "queued": queued, "state": after and after.state.value, "why": _why_not(after)})
            if queued and after is not None and history is not None:
                history.add(after.record())
    if screen.as_json:
        screen.document(told)
    else:
        for each in told:
            screen.say(f"{printable(each['id'])}  {'queued' if each['queued'] else each['why']}")
    if all(each["state"] is None for each in told):
        return 2
    return 0 if all(each["queued"] for each in told) else 1


def _end(options: Namespace) -> float | None:
    return None if options.seconds is None else time.time() + options.seconds


def _was_queued(before: OutboxRow, after: OutboxRow) -> bool:
    return after.state is MessageStatus.QUEUED and before.state is not MessageStatus.QUEUED


def _why_not(row: OutboxRow | None) -> str:
    if row is None:
        return "not queued: there is no row of that id"
    if row.state is MessageStatus.UNKNOWN:
        return "not queued: it was perhaps sent, and would arrive twice; --may-duplicate queues it all the same"
    if row.state in (MessageStatus.QUEUED, MessageStatus.IN_FLIGHT):
        return f"not queued: it is {row.state.value.replace('_', ' ')} already"
    return f"not queued: it was accepted, and is {row.state.value}"


# --- dead ------------------------------------------------------------------------------------------------------------


async def _dead(options: Namespace, screen: Screen, env: Mapping[str, str], store: OutboxStore) -> int:
    now, found = time.time(), list[OutboxRow]()
    async with aclosing(rows_of(store, MessageStatus.DEAD)) as rows:
        async for row in rows:
            if not _fits(options, row, now):
                continue
            if options.reason in (None, row.reason or "") and options.error in (None, row.error or ""):
                found.append(row)
    if options.retry:
        return await _retry_all(options, screen, store, found)
    counted = Counter((row.reason or "", row.error or "") for row in found)
    groups = [{"count": number, "reason": key[0], "error": key[1]} for key, number in counted.most_common()]
    if screen.as_json:
        told = [row_as_json(row, in_full=options.show_recipients) for row in found]
        screen.document({"reasons": groups, "rows": told})
        return 0
    if not groups:
        screen.say("nothing was given up")
        return 0
    screen.table(("COUNT", "REASON", "ERROR"), [(g["count"], g["reason"], g["error"] or None) for g in groups])
    if options.reason is not None or options.error is not None:
        screen.say()
        shown = [
            (
                row.id,
                row.state.value,
                _recipient(row, in_full=options.show_recipients),
                _what(row),
                lasting(now - row.created_at),
            )
            for row in found
        ]
        screen.table(("ID", "STATE", "RECIPIENT", "MESSAGE", "AGE"), shown)
    return 0


async def _retry_all(options: Namespace, screen: Screen, store: OutboxStore, found: list[OutboxRow]) -> int:
    outbox, queued = Outbox(store), 0
    for row in found:
        after = await outbox.retry(row.id, not_after=_end(options))
        queued += after is not None and _was_queued(row, after)
    if screen.as_json:
        screen.document({"queued": queued, "not_queued": len(found) - queued})
    else:
        screen.say(f"{queued} queued" + (f", {len(found) - queued} not" if queued < len(found) else ""))
    return 0 if queued == len(found) else 1

"""`outbox drain`: sends what is queued, until nothing is, the time is over, or somebody ends it."""

from __future__ import annotations

import asyncio
import math
import signal
import sys
import time
from argparse import ArgumentParser, ArgumentTypeError, Namespace
from collections import Counter
from collections.abc import Generator, Mapping
from contextlib import AsyncExitStack, contextmanager
from typing import Any

from resilience_core.cli import Screen, lasting
from resilience_whatsapp._delivery import AttemptTold
from resilience_whatsapp.cli._connection import add_policies, client_of, guarded, token_of
from resilience_whatsapp.cli._files import duration, history_of, opened_outbox
from resilience_whatsapp.gates import Gates
from resilience_whatsapp.graph import GraphClient
from resilience_whatsapp.history import History
from resilience_whatsapp.outbox import Outbox, OutboxStore
from resilience_whatsapp.records import MessageRecord, MessageStatus
from resilience_whatsapp.service import WhatsAppService

PERHAPS = 4
_EVERY = 2.0
"""Seconds between two looks at how far it is."""
_KEPT = 10 * 365 * 86_400.0
"""Seconds: the application decides how long rows are kept, so nothing is forgotten here."""


def add_arguments(parser: ArgumentParser) -> None:
    """Words of `outbox drain`."""
    parser.add_argument("--for", dest="seconds", metavar="TIME", type=duration, help="end then, whatever is left")
    parser.add_argument("--rate", metavar="N", type=_rate, default=64.0, help="messages a second at most; default 64")
    parser.add_argument(
        "--lease",
        metavar="TIME",
        type=duration,
        default=180.0,
        help="after which a sender counts as dead: not less than the application's; default 180s",
    )
    add_policies(parser)


def _rate(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = 0.0
    if not 0 < number <= 1000:
        raise ArgumentTypeError("it must be a number above 0, at most 1000")
    return number


def run(options: Namespace, screen: Screen, env: Mapping[str, str]) -> int:
    """Carry it out; the exit code."""
    http = client_of(options, env, token_of(options, env))
    return asyncio.run(_drained(options, screen, env, http))


class Tally(History):
    """Counts what becomes of messages, and tells it to the history, if there is one."""

    def __init__(self, told: History | None) -> None:
        super().__init__()
        self.close()  # nothing is kept here
        self._told = told
        self.ended: Counter[MessageStatus] = Counter()
        self.duplicates = 0
        self.last_error: str | None = None

    def add(
        self,
        record: MessageRecord,
        error: BaseException | None = None,
        *,
        attempts: Any = (),
        at: float | None = None,
    ) -> None:
        """As `History.add`."""
        self.ended[record.status] += 1
        self.last_error = record.error or self.last_error
        self.duplicates += record.status is MessageStatus.ACCEPTED and record.possible_duplicate
        if self._told is not None:
            told: list[AttemptTold] = list(attempts)
            self._told.add(record, error, attempts=told, at=at)

    def said(self) -> str:
        """What became of messages so far, in a line."""
        words = {
            MessageStatus.ACCEPTED: "sent",
            MessageStatus.DEAD: "given up",
            MessageStatus.UNKNOWN: "perhaps sent",
            MessageStatus.QUEUED: "put off",
        }
        return (
            ", ".join(f"{self.ended[state]} {word}" for state, word in words.items() if self.ended[state]) or "0 sent"
        )


@contextmanager
def ending() -> Generator[tuple[asyncio.Event, list[int]]]:
    """An event that SIGINT or SIGTERM sets, and which of them it was; the next one ends the process as usual."""
    stop, loop, came = asyncio.Event(), asyncio.get_running_loop(), list[int]()

    def heard(number: int) -> None:
        came.append(number)
        stop.set()
        loop.remove_signal_handler(number)

    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, heard, number)
    try:
        yield stop, came
    finally:
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.remove_signal_handler(number)


async def _drained(options: Namespace, screen: Screen, env: Mapping[str, str], http: GraphClient) -> int:
    async with AsyncExitStack() as stack:
        stop, came = stack.enter_context(ending())
        history = history_of(options, env)
        if history is not None:
            stack.push_async_callback(history.aclose)
        tally = Tally(history)
        store = await stack.enter_async_context(opened_outbox(options, env))
        await stack.enter_async_context(http)
        gates = Gates(throughput=None)  # the pace of the number is --rate
        outbox = _outbox(options, store, gates)
        WhatsAppService(guarded(options, env, http, gates), outbox=outbox, history=tally)
        async with outbox.running():
            emptied = await _until_empty(options, store, outbox, http.phone_number_id, tally, stop)
        left = await store.counts()
        due = await store.next_due(http.phone_number_id)
    return _told(screen, tally, left, due, came, emptied=emptied and due is None)


def _outbox(options: Namespace, store: OutboxStore, gates: Gates) -> Outbox:
    """One that leaves to the application what it cannot know.

    It forgets no rows, and it never takes the missing echo of a webhook for a proof: when the receiver was down is
    known to the application only.
    """
    return Outbox(
        store,
        rate=options.rate,
        first_rate=min(1.0, options.rate),
        lease=options.lease,
        send_timeout=min(120.0, options.lease * 2 / 3),
        keep_for=_KEPT,
        keep_dead_for=_KEPT,
        downtime=lambda: [(0.0, None)],
        poll=0.5,
        gate=gates,
    )


async def _until_empty(
    options: Namespace, store: OutboxStore, outbox: Outbox, lane: str, tally: Tally, stop: asyncio.Event
) -> bool:
    """Whether nothing is queued any more; not when the time was over or somebody ended it."""
    done, stopped = asyncio.ensure_future(outbox.drained()), asyncio.ensure_future(stop.wait())
    end = math.inf if options.seconds is None else time.monotonic() + options.seconds
    said = ""
    try:
        while not done.done() and not stopped.done() and (left := end - time.monotonic()) > 0:
            await asyncio.wait((done, stopped), timeout=min(_EVERY, left), return_when=asyncio.FIRST_COMPLETED)
            if done.done() or stopped.done():
                break
            due = await store.next_due(lane)
            when = "" if due is None or due <= time.time() else f"; the next one in {lasting(due - time.time())}"
            now = f"{tally.said()}{when}"
            if now != said:
                print(now, file=sys.stderr, flush=True)
                said = now
        if done.done():
            done.result()
        return done.done()
    finally:
        done.cancel()
        stopped.cancel()


def _told(
    screen: Screen,
    tally: Tally,
    left: Mapping[MessageStatus, int],
    due: float | None,
    came: list[int],
    *,
    emptied: bool,
) -> int:
    ended = {state.value: number for state, number in tally.ended.items()}
    if screen.as_json:
        told = {"ended": ended, "possible_duplicates": tally.duplicates, "empty": emptied, "next_due": due}
        screen.document({**told, "counts": {state.value: left.get(state, 0) for state in MessageStatus}})
    else:
        rest = "nothing is queued any more" if emptied else "messages are still queued"
        screen.say(f"{tally.said()}; {rest}")
        if tally.duplicates:
            screen.say(f"(of these, {tally.duplicates} may arrive twice: the fate of an attempt before is unknown)")
        if not emptied and tally.last_error is not None:
            screen.say(f"(the last error: {tally.last_error})")
    if came:
        return 128 + came[0]
    if tally.ended[MessageStatus.UNKNOWN]:
        return PERHAPS
    return 0 if emptied and not tally.ended[MessageStatus.DEAD] else 1

"""`webhook`: serve a receiver of webhooks, and look at what it has kept."""

from __future__ import annotations

import asyncio
import logging
import sys
import time
from argparse import ArgumentParser, ArgumentTypeError, Namespace
from collections.abc import Callable, Mapping
from contextlib import AsyncExitStack, suppress
from typing import Any

from aiohttp import web

from resilience_core import ConfigurationError
from resilience_core.cli import Failure, Parser, Screen, lasting, printable
from resilience_whatsapp._delivery import name_of_error
from resilience_whatsapp.cli._drain import ending
from resilience_whatsapp.cli._files import (
    HISTORY,
    INBOX,
    add_outbox,
    count,
    existing,
    has_outbox,
    opened_outbox,
    secret_of,
)
from resilience_whatsapp.history import History
from resilience_whatsapp.outbox import Outbox
from resilience_whatsapp.webhooks import (
    AccountError,
    AccountUpdate,
    AsideUpdate,
    QualityUpdate,
    SQLiteInbox,
    StatusUpdate,
    TemplateUpdate,
    WebhookReceiver,
    WebhookUpdate,
    aiohttp_application,
    settling,
)
from resilience_whatsapp.webhooks._read import Part

TOLD = "receive webhooks, settle the outbox by them, and look at what a receiver has kept"
EXAMPLES = """\
resilience-whatsapp webhook serve --port 8081 --inbox webhooks.db --app-secret-file app --verify-token-file verify
  resilience-whatsapp webhook check --inbox webhooks.db"""
_ACTIONS = {
    "serve": "receive webhooks until told to stop, and tell what is told",
    "check": "what an inbox holds: waiting, set aside, when the platform was last heard; ends with 1 if that is wrong",
    "try-again": "let what was set aside be tried again, by the receiver that runs or the next one",
}
APP_SECRET, VERIFY_TOKEN = "WHATSAPP_APP_SECRET", "WHATSAPP_VERIFY_TOKEN"
_UP_WITHIN = 30.0
"""Seconds: a receiver notes every 10 that it is up."""
_LATE = 300.0
"""Seconds after which what waits is told as wrong."""


def add_arguments(parser: Parser) -> None:
    """See `Command`."""
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True, parser_class=Parser)
    made = {name: parser.for_command(name, actions, told, parser.epilog) for name, told in _ACTIONS.items()}
    for each in made.values():
        each.add_argument("--inbox", metavar="FILE", help=f"where what comes is kept; else {INBOX}")
        each.add_argument("--json", action="store_true", dest="as_json", help="JSON: of serve, an object in each line")
    _add_serving(made["serve"])
    made["check"].add_argument("--limit", metavar="N", type=count, default=20, help="of what was set aside; default 20")
    again = made["try-again"]
    again.add_argument("ids", metavar="ID", nargs="*", type=count, help="as check tells them")
    again.add_argument("--all", action="store_true", help="all that was set aside")


def _add_serving(parser: ArgumentParser) -> None:
    parser.add_argument("--host", default="127.0.0.1", help="default 127.0.0.1; put a proxy with TLS before it")
    parser.add_argument("--port", type=_port, default=0, help="0 takes a free port (default)")
    parser.add_argument("--path", type=_path, default="/", help="of the address; default /")
    parser.add_argument(
        "--app-secret-file",
        metavar="PATH",
        help=f"the Meta app's secret, one in a line; else {APP_SECRET}, or {APP_SECRET}_FILE with a path",
    )
    parser.add_argument(
        "--verify-token-file",
        metavar="PATH",
        help=f"what was entered beside the address; else {VERIFY_TOKEN}, or {VERIFY_TOKEN}_FILE with a path",
    )
    parser.add_argument("--history", metavar="FILE", help=f"of the history, made if it is missing; else {HISTORY}")
    add_outbox(parser)


def _port(text: str) -> int:
    if not text.isascii() or not text.isdigit() or not int(text[:6]) <= 65_535:
        raise ArgumentTypeError("it must be a whole number from 0 to 65535")
    return int(text)


def _path(text: str) -> str:
    if not text.startswith("/") or not text.isascii() or any(letter in text for letter in "{}?# "):
        raise ArgumentTypeError("it must begin with / and have none of { } ? # and blanks")
    return text


def run(options: Namespace, screen: Screen, env: Mapping[str, str]) -> int:
    """See `Command`."""
    path = options.inbox or env.get(INBOX)
    if not path:
        raise Failure(2, "the inbox is not named", f"set {INBOX}, or give --inbox")
    if options.action == "serve":
        return asyncio.run(_served(options, screen, env, path))
    act = _check if options.action == "check" else _try_again
    return asyncio.run(_looked_at(act, options, screen, existing(path, "webhook_items", "--inbox")))


# --- serve -----------------------------------------------------------------------------------------------------------


async def _served(options: Namespace, screen: Screen, env: Mapping[str, str], path: str) -> int:
    lines = secret_of(options.app_secret_file, env, APP_SECRET, "--app-secret-file", "the app's secret").splitlines()
    secrets = [line.strip() for line in lines if line.strip()]
    token = secret_of(options.verify_token_file, env, VERIFY_TOKEN, "--verify-token-file", "the verify token")
    with ending() as (stop, _):
        async with AsyncExitStack() as stack:
            listeners: dict[str, Callable[[WebhookUpdate], Any]] = {}
            if has_outbox(options, env):
                store = await stack.enter_async_context(opened_outbox(options, env))
                listeners["outbox"] = settling(Outbox(store))
            told = Told(screen)
            receiver = _receiver(options, env, path, stack, listeners, secrets, token, told)
            runner = web.AppRunner(aiohttp_application(receiver, options.path), access_log=None, handle_signals=False)
            await runner.setup()
            stack.push_async_callback(runner.cleanup)
            site = web.TCPSite(runner, options.host, options.port)
            try:
                await site.start()
            except OSError as error:
                text = f"cannot listen on {options.host} port {options.port}: {error.strerror}"
                raise Failure(1, text, "see --host and --port") from None
            host = f"[{options.host}]" if ":" in options.host else options.host
            told.line("listening", url=f"http://{host}:{runner.addresses[0][1]}{options.path}")
            with told.logs():
                await stop.wait()
                status = await receiver.status()
        told.line(
            "ended",
            taken=status.taken,
            repeated=status.repeated,
            handled=status.handled,
            waiting=status.waiting,
            set_aside=status.set_aside,
            refused=sum(status.refused.values()),
        )
    return 0


def _receiver(
    options: Namespace,
    env: Mapping[str, str],
    path: str,
    stack: AsyncExitStack,
    listeners: dict[str, Callable[[WebhookUpdate], Any]],
    secrets: list[str],
    token: str,
    told: Told,
) -> WebhookReceiver:
    try:
        where = options.history or env.get(HISTORY)
        if where:
            history = History(where)
            stack.push_async_callback(history.aclose)
            listeners["history"] = history.on_update
        listeners["told"] = told.update
        return WebhookReceiver(
            SQLiteInbox(path), listeners, app_secrets=secrets, verify_token=token, on_set_aside=told.set_aside
        )
    except ConfigurationError as error:
        raise Failure(2, str(error), "see --inbox and --history") from None


class Told:
    """Writes a line for what somebody should know; nothing of it is personal."""

    def __init__(self, screen: Screen) -> None:
        self._screen = screen

    def line(self, what: str, **facts: Any) -> None:
        """One line. A receiver goes on when nobody reads them any more: no webhook is lost by that."""
        with suppress(OSError):
            self._write(what, facts)

    def _write(self, what: str, facts: Mapping[str, Any]) -> None:
        given = {name: value for name, value in facts.items() if value not in (None, ())}
        if self._screen.as_json:
            self._screen.object({"at": time.time(), "what": what, **given})
            return
        words = " ".join(f"{name}={_word(value)}" for name, value in given.items())
        self._screen.say(printable(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {what} {words}".rstrip()))

    def update(self, update: WebhookUpdate) -> None:
        """A listener: the news that are not only about a message that went well."""
        if isinstance(update, StatusUpdate):
            if update.status == "failed":
                errors = tuple(name_of_error(error) for error in update.errors)
                self.line("message failed", id=update.record_id, errors=errors)
        elif isinstance(update, TemplateUpdate):
            self.line("template", topic=update.topic, name=update.name, language=update.language, event=update.event)
        elif isinstance(update, (AccountUpdate, QualityUpdate)):
            self.line("account" if isinstance(update, AccountUpdate) else "number", event=update.event)
        elif isinstance(update, AccountError):
            self.line("account", errors=tuple(name_of_error(error) for error in update.errors))

    def set_aside(self, aside: AsideUpdate) -> None:
        """What no listener could handle."""
        self.line("set aside", id=aside.id, topic=aside.update.topic, missing=aside.missing)

    def logs(self) -> _Logs:
        """Warnings of the receiver become lines, too, for as long as this lasts."""
        return _Logs(self)


class _Logs(logging.Handler):
    def __init__(self, told: Told) -> None:
        super().__init__(logging.INFO)
        self._told = told
        self._logger = logging.getLogger("resilience_whatsapp")
        self._before = (self._logger.level, self._logger.propagate)

    def emit(self, record: logging.LogRecord) -> None:
        names = ("listener", "topic", "tries", "error")
        self._told.line(record.getMessage(), **{name: getattr(record, name, None) for name in names})

    def __enter__(self) -> None:
        self._logger.addHandler(self)
        self._logger.setLevel(logging.INFO)
        self._logger.propagate = False

    def __exit__(self, *_: object) -> None:
        self._logger.removeHandler(self)
        level, self._logger.propagate = self._before
        self._logger.setLevel(level)


def _word(value: Any) -> str:
    return ",".join(map(str, value)) if isinstance(value, tuple) else str(value)


# --- check and try-again ---------------------------------------------------------------------------------------------


async def _looked_at(act: Callable[..., Any], options: Namespace, screen: Screen, path: str) -> int:
    inbox = SQLiteInbox(path)
    try:
        code: int = await act(options, screen, inbox)
        return code
    finally:
        await inbox.aclose()


async def _check(options: Namespace, screen: Screen, inbox: SQLiteInbox) -> int:
    now, counts, listening = time.time(), await inbox.counts(), await inbox.listening()
    oldest = min(listening.waiting.values(), default=None)
    last_up = max((end for _, end in listening.up), default=None)
    aside: list[dict[str, Any]] = [
        {"id": row.id, "taken_at": row.taken, "topic": Part.loads(row.text).topic, "had_by": sorted(row.passed)}
        for row in await inbox.set_aside(options.limit)
    ]
    wrong = _wrong(now, last_up, oldest, counts.set_aside)
    if screen.as_json:
        times = {"last_heard": listening.heard, "last_up": last_up, "waiting_since": oldest}
        screen.document(
            {"waiting": counts.waiting, "set_aside": counts.set_aside, **times, "wrong": wrong, "aside": aside}
        )
        return int(bool(wrong))
    screen.say(
        f"waiting     {counts.waiting}" + ("" if oldest is None else f", the oldest for {lasting(now - oldest)}")
    )
    screen.say(f"set aside   {counts.set_aside}")
    screen.say(f"last heard  {_ago(now, listening.heard)}")
    screen.say(f"last up     {_ago(now, last_up)}")
    if aside:
        screen.say()
        rows = [(a["id"], a["topic"], lasting(now - a["taken_at"]), ", ".join(a["had_by"]) or None) for a in aside]
        screen.table(("ID", "TOPIC", "AGE", "HAD BY"), rows)
    for each in wrong:
        print(f"resilience-whatsapp: {each}", file=sys.stderr)
    return int(bool(wrong))


def _wrong(now: float, last_up: float | None, oldest: float | None, aside: int) -> list[str]:
    found: list[str] = []
    if last_up is None or now - last_up > _UP_WITHIN:
        found.append("no receiver is up")
    if oldest is not None and now - oldest > _LATE:
        found.append("what waits is not handled: see the receiver's log")
    if aside:
        found.append("updates were set aside: repair the cause, then webhook try-again")
    return found


def _ago(now: float, then: float | None) -> str:
    return "never" if then is None else f"{lasting(max(0.0, now - then))} ago"


async def _try_again(options: Namespace, screen: Screen, inbox: SQLiteInbox) -> int:
    if bool(options.ids) == options.all:
        raise Failure(2, "it is not said which", "give the ids that webhook check tells, or --all")
    ids, found = options.ids, 0
    while True:
        if options.all:
            ids = [row.id for row in await inbox.set_aside(1_000)]
        found += (tried := await inbox.again(ids, time.time()))
        if not options.all or not tried:
            break
    wanted = found if options.all else len(set(options.ids))
    if screen.as_json:
        screen.document({"waiting": found, "not_found": wanted - found})
    else:
        screen.say(f"{found} wait again" + (f"; {wanted - found} were not set aside" if found < wanted else ""))
    return int(found < wanted)

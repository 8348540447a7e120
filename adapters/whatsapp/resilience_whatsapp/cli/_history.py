"""`history`: what happened to messages."""

from __future__ import annotations

import asyncio
import time
from argparse import Namespace
from collections.abc import Mapping
from typing import Any

from resilience_core import ConfigurationError
from resilience_core.cli import Failure, Parser, Screen, lasting, printable
from resilience_whatsapp.cli._files import HISTORY, add_history, count, duration, existing, secret_of
from resilience_whatsapp.history import History, MessageStory
from resilience_whatsapp.records import MessageStatus, mask_recipient

TOLD = "what happened to messages: find them, and show every step of one"
EXAMPLES = """\
resilience-whatsapp history find --history history.db --status failed --since 2h
  resilience-whatsapp history show 0123456789abcdef0123456789abcdef"""
_ACTIONS = {"find": "messages that fit, the newest first", "show": "one message with all its steps"}
SECRET = "WHATSAPP_HISTORY_SECRET"


def add_arguments(parser: Parser) -> None:
    """See `Command`."""
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True, parser_class=Parser)
    made = {name: parser.for_command(name, actions, told, parser.epilog) for name, told in _ACTIONS.items()}
    for each in made.values():
        add_history(each)
        each.add_argument("--show-recipients", action="store_true", help="show recipients in full")
        each.add_argument("--json", action="store_true", dest="as_json", help="one JSON document")
    find = made["find"]
    find.add_argument("--recipient", metavar="NUMBER", help="with + and country code")
    find.add_argument(
        "--history-secret-file",
        metavar="PATH",
        help=f"with --recipient, where recipients are hashed: its secret; else {SECRET}, or {SECRET}_FILE with a path",
    )
    find.add_argument("--status", metavar="STATUS", choices=list(MessageStatus), help=", ".join(MessageStatus))
    find.add_argument("--template", metavar="NAME")
    find.add_argument("--user", metavar="ID", help="on whose behalf it was sent")
    find.add_argument("--since", metavar="TIME", type=duration, help="begun at most so long ago: 90s, 10m, 1h30m, 2d")
    find.add_argument("--until", metavar="TIME", type=duration, help="begun longer ago than that")
    find.add_argument("--limit", metavar="N", type=count, default=50, help="of a page, up to 1000; default 50")
    find.add_argument("--after", metavar="PLACE", help="the next page: what the one before has told")
    made["show"].add_argument("id", metavar="ID", help="of the message's record, or the API's (wamid)")


def run(options: Namespace, screen: Screen, env: Mapping[str, str]) -> int:
    """See `Command`."""
    where = options.history or env.get(HISTORY)
    if not where:
        raise Failure(2, "the history is not named", f"set {HISTORY}, or give --history")
    path = existing(where, "history_messages", "--history")
    return asyncio.run(_looked_at(options, screen, env, path))


async def _looked_at(options: Namespace, screen: Screen, env: Mapping[str, str], path: str) -> int:
    secret = None
    if options.action == "find" and (options.history_secret_file or env.get(SECRET) or env.get(f"{SECRET}_FILE")):
        secret = secret_of(options.history_secret_file, env, SECRET, "--history-secret-file", "the history's secret")
    try:
        history = History(path, hash_recipients=secret)
        try:
            return await (_find if options.action == "find" else _show)(options, screen, history)
        finally:
            await history.aclose()
    except ConfigurationError as error:
        raise Failure(2, str(error), "see --help") from None


async def _find(options: Namespace, screen: Screen, history: History) -> int:
    now = time.time()
    page = await history.find(
        recipient=options.recipient,
        status=options.status and MessageStatus(options.status),
        template=options.template,
        user_id=options.user,
        since=None if options.since is None else now - options.since,
        until=None if options.until is None else now - options.until,
        limit=options.limit,
        after=options.after,
    )
    if screen.as_json:
        told = [_as_json(each, in_full=options.show_recipients) for each in page.messages]
        screen.document({"messages": told, "next_after": page.next_after})
        return 0
    rows = [
        (e.id, e.status.value, _recipient(e, in_full=options.show_recipients), _what(e), lasting(now - e.created_at))
        for e in page.messages
    ]
    if rows:
        screen.table(("ID", "STATUS", "RECIPIENT", "MESSAGE", "AGE"), rows)
    else:
        screen.say("no message fits")
    if page.next_after is not None:
        screen.say(f"\nthe next page: --after {page.next_after}")
    return 0


def _what(story: MessageStory) -> str | None:
    return story.kind if story.template is None else f"{story.template} {story.language}"


def _recipient(story: MessageStory, *, in_full: bool) -> str | None:
    if story.recipient is None or in_full:
        return story.recipient
    return mask_recipient(story.recipient)


def _as_json(story: MessageStory, *, in_full: bool) -> dict[str, Any]:
    names = ("id", "wamid", "user_id", "kind", "template", "language", "attempts", "possible_duplicate")
    times = ("created_at", "updated_at")
    told = {name: getattr(story, name) for name in (*names, *times)}
    error = None if story.trouble is None else story.trouble.name
    shown = _recipient(story, in_full=in_full)
    return {"status": story.status.value, "recipient": shown, "error": error, **told}


async def _show(options: Namespace, screen: Screen, history: History) -> int:
    story = await history.get(options.id) or await history.get_by_wamid(options.id)
    if story is None:
        raise Failure(2, "the history has no message of that id", "resilience-whatsapp history find lists them")
    told = _as_json(story, in_full=options.show_recipients)
    if screen.as_json:
        screen.document({**told, "steps": steps_of(story)})
        return 0
    for name, value in told.items():
        screen.say(f"{name.replace('_', ' '):<18} {printable('-' if value is None else said(name, value))}")
    screen.say()
    say_steps(screen, story)
    return 0


def said(name: str, value: Any) -> Any:
    """A value as people read it: times of this host's clock."""
    if name in ("not_after", "due") or name.endswith("_at"):
        return time.strftime("%Y-%m-%d %H:%M:%S %z", time.localtime(value))
    return value


def steps_of(story: MessageStory | None) -> list[dict[str, Any]]:
    """What happened to it, for programs."""
    return [
        {
            "at": step.at,
            "status": step.status.value,
            "source": step.source,
            "duration": step.duration,
            "error": None if step.trouble is None else step.trouble.name,
        }
        for step in (() if story is None else story.steps)
    ]


def say_steps(screen: Screen, story: MessageStory | None) -> None:
    """The same for people."""
    rows = [
        (
            time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(step["at"])),
            step["status"],
            step["source"],
            None if step["duration"] is None else lasting(step["duration"]),
            step["error"],
        )
        for step in steps_of(story)
    ]
    screen.table(("TIME", "STATUS", "TOLD BY", "LASTED", "ERROR"), rows)

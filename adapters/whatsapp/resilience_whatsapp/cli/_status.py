"""`status`: the sending number and the business account."""

from __future__ import annotations

import asyncio
from argparse import ArgumentParser, Namespace
from collections.abc import Mapping
from typing import Any

from attrs import asdict

from resilience_core.cli import Screen, printable
from resilience_whatsapp.cli._connection import add_connection, client_of, token_of, told
from resilience_whatsapp.cli._files import add_outbox, counts_as_json, has_outbox, opened_outbox, say_counts
from resilience_whatsapp.cli._health import health_as_json, is_blocked, troubles
from resilience_whatsapp.graph import GraphClient
from resilience_whatsapp.records import MessageStatus, mask_recipient
from resilience_whatsapp.status import Health, NumberStatus

TOLD = "how the sending number and the business account are; ends with 1 if one of them cannot send"
EXAMPLES = "resilience-whatsapp status\n  resilience-whatsapp status --json"


def add_arguments(parser: ArgumentParser) -> None:
    """See `Command`."""
    add_outbox(parser)
    add_connection(parser)


def run(options: Namespace, screen: Screen, env: Mapping[str, str]) -> int:
    """See `Command`."""
    http = client_of(options, env, token_of(options, env))
    return asyncio.run(_told(options, screen, env, http))


async def _counts(options: Namespace, env: Mapping[str, str]) -> dict[MessageStatus, int] | None:
    if not has_outbox(options, env):
        return None
    async with opened_outbox(options, env) as store:
        return await store.counts()


async def _told(options: Namespace, screen: Screen, env: Mapping[str, str], http: GraphClient) -> int:
    outbox = await _counts(options, env)
    with told(http):
        async with http:
            number = await http.get_number_status()
            account = None if http.waba_id is None else await http.get_account_health()
    if screen.as_json:
        kept = None if outbox is None else counts_as_json(outbox)
        screen.document({"number": _as_json(number), "account": _account(http, account), "outbox": kept})
    else:
        screen.say(f"number {number.id}")
        for name, value in _shown(number).items():
            screen.say(f"  {name:<16} {printable('-' if value is None else value)}")
        _say_health(screen, number.health)
        if account is not None:
            screen.say(f"account {http.waba_id}")
            _say_health(screen, account)
        if outbox is not None:
            screen.say(f"outbox\n  {say_counts(outbox)}")
    return int(is_blocked(number.health) or is_blocked(account))


def _shown(number: NumberStatus) -> dict[str, Any]:
    fields = asdict(number, recurse=False)
    own = number.display_phone_number
    shown = {name: value for name, value in fields.items() if name not in ("id", "health", "code_verification_status")}
    return {
        **{name.replace("_", " "): value for name, value in shown.items()},
        "display phone number": None if own is None else mask_recipient("".join(own.split())),
        "verification": number.code_verification_status,
    }


def _say_health(screen: Screen, health: Health | None) -> None:
    word = None if health is None else health.can_send_message
    colour = {"AVAILABLE": "ok", "LIMITED": "warning", "BLOCKED": "error"}.get(word or "", "")
    screen.say(f"  {'can send':<16} {screen.colour(colour, printable(word or '-'))}")
    for line in troubles(health):
        screen.say(f"  {'':<16} {line}")


def _as_json(number: NumberStatus) -> dict[str, Any]:
    own = number.display_phone_number
    fields = asdict(number, recurse=False)
    shown = None if own is None else mask_recipient("".join(own.split()))
    return {**fields, "display_phone_number": shown, "health": health_as_json(number.health)}


def _account(http: GraphClient, health: Health | None) -> dict[str, Any] | None:
    return None if health is None else {"id": http.waba_id, "health": health_as_json(health)}

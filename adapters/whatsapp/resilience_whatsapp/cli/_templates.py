"""`templates`: which templates can be sent, where the list comes from and how old it is; or all about one of them."""

from __future__ import annotations

import asyncio
import logging
import re
import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Mapping
from typing import Any

from attrs import asdict, evolve, frozen

from resilience_core.cli import Failure, Screen, lasting
from resilience_whatsapp._envelope import text_of
from resilience_whatsapp.cli._connection import add_connection, add_policies, client_of, guarded, token_of, told
from resilience_whatsapp.cli._health import health_as_json, is_blocked, troubles
from resilience_whatsapp.errors import AmbiguousOutcomeError
from resilience_whatsapp.graph import GraphClient, Template
from resilience_whatsapp.service import WhatsAppService
from resilience_whatsapp.status import Health, health_of
from resilience_whatsapp.templates import TemplateList

TOLD = "list the approved templates with their source and age, or tell how one template is"
EXAMPLES = "resilience-whatsapp templates\n  resilience-whatsapp templates order_confirmation --json"
_MAX_PAGES = 200


def add_arguments(parser: ArgumentParser) -> None:
    """See `Command`."""
    parser.add_argument("name", metavar="NAME", nargs="?", help="of one template, in all languages and whatever state")
    parser.add_argument("--file", metavar="PATH", help="where the list is kept, as a service's template_file")
    add_policies(parser)
    add_connection(parser)


def run(options: Namespace, screen: Screen, env: Mapping[str, str]) -> int:
    """See `Command`."""
    token = token_of(options, env)
    http = client_of(options, env, token, waba=True)
    return asyncio.run(_one(options, screen, http) if options.name else _all(options, screen, env, http))


# --- the list --------------------------------------------------------------------------------------------------------


class _Reasons(logging.Handler):
    """Keeps why the service did not get the list from the API."""

    def __init__(self) -> None:
        super().__init__()
        self.last: str | None = None

    def emit(self, record: logging.LogRecord) -> None:
        self.last = getattr(record, "error", None)


async def _all(options: Namespace, screen: Screen, env: Mapping[str, str], http: GraphClient) -> int:
    reasons = _Reasons()
    async with http:
        client = guarded(options, env, http)
        client.logger.addHandler(reasons)
        listing = await WhatsAppService(client, template_file=options.file).get_approved_templates()
    usable = listing.source != "default"
    if screen.as_json:
        rows = [asdict(template) for template in listing]
        screen.document({"source": listing.source, "age": listing.age, "error": reasons.last, "templates": rows})
    else:
        screen.table(("NAME", "STATUS", "LANGUAGE", "CATEGORY"), [_row(screen, each) for each in listing])
        screen.say(f"\n{len(listing)} templates, {_source(listing)}")
    if reasons.last is not None:
        print(f"resilience-whatsapp: the API did not give the list: {reasons.last}", file=sys.stderr)
    return 0 if usable else 1


def _row(screen: Screen, template: Template) -> tuple[str, str, str, str | None]:
    return template.name, template.status, template.language, template.category


def _source(listing: TemplateList) -> str:
    if listing.source == "api":
        return "from the API"
    if listing.age is None:
        return "built in: nothing is known of this account's"
    return f"kept from an earlier time, {lasting(listing.age)} old"


# --- one -------------------------------------------------------------------------------------------------------------


@frozen
class TemplateState:
    """One template in one language, in whatever state it is."""

    id: str | None
    name: str
    language: str
    status: str
    category: str | None
    quality: str | None
    health: Health | None = None


async def templates_of(http: GraphClient, name: str | None = None) -> list[TemplateState]:
    """All templates of the account, or those with this name; their health is not asked for.

    Raises:
        GraphError, AmbiguousOutcomeError, aiohttp.ClientError, TimeoutError: as for `GraphClient.send_message`.
    """
    found: list[TemplateState] = []
    params = {"fields": "id,name,status,category,language,quality_score", "limit": "100"}
    params |= {} if name is None else {"name": name}
    for _ in range(_MAX_PAGES):
        content = (await http.get_object(f"{http.waba_id}/message_templates", **params)).content
        rows = content.get("data")
        if not isinstance(rows, list):
            raise AmbiguousOutcomeError(200, "a listing without data")
        states = [state for row in rows if (state := _state(row)) is not None]
        found += [state for state in states if name is None or state.name == name]  # the API's search is not exact
        paging = content.get("paging")
        more = isinstance(paging, dict) and isinstance(paging.get("next"), str)
        after = text_of(paging.get("cursors"), "after") if isinstance(paging, dict) and more else None
        if after is None:
            return found
        params["after"] = after
    raise AmbiguousOutcomeError(200, "a listing that does not end")


def _state(row: Any) -> TemplateState | None:
    name, language, status = text_of(row, "name"), text_of(row, "language"), text_of(row, "status")
    if name is None or language is None or status is None:
        return None
    quality = text_of(row.get("quality_score"), "score")
    return TemplateState(text_of(row, "id"), name, language, status.upper(), text_of(row, "category"), quality)


async def _one(options: Namespace, screen: Screen, http: GraphClient) -> int:
    with told(http):
        async with http:
            found = [await with_health(http, state) for state in await templates_of(http, options.name)]
    if not found:
        raise Failure(2, "the account has no template of that name", "resilience-whatsapp templates lists them")
    if screen.as_json:
        screen.document([_as_json(each) for each in found])
    else:
        screen.table(
            ("NAME", "STATUS", "LANGUAGE", "CATEGORY", "QUALITY", "CAN SEND"),
            [(e.name, e.status, e.language, e.category, e.quality, _can_send(e.health)) for e in found],
        )
        for each in found:
            for line in troubles(each.health):
                screen.say(f"{each.language}: {line}")
    return 0 if all(each.status == "APPROVED" and not is_blocked(each.health) for each in found) else 1


async def with_health(http: GraphClient, state: TemplateState) -> TemplateState:
    """The same with what the API says of its health, where it says something.

    Raises:
        GraphError, AmbiguousOutcomeError, aiohttp.ClientError, TimeoutError: as for `GraphClient.send_message`.
    """
    if state.id is None or re.fullmatch("[0-9]+", state.id) is None:
        return state
    content = (await http.get_object(state.id, fields="health_status")).content
    return evolve(state, health=health_of(content))


def _as_json(state: TemplateState) -> dict[str, Any]:
    return {**asdict(state, recurse=False), "health": health_as_json(state.health)}


def _can_send(health: Health | None) -> str | None:
    return None if health is None else health.can_send_message

"""The Graph API's side of the simulator: from a request to its route, past token and fault, to its answer.

Every request is counted on arrival, then meets its fault. A message that was read is carried out whether or not the
client waits for the answer: that is what makes a time-out ambiguous. Nothing here is ever logged.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterable, Sequence
from typing import Any, TypedDict

from aiohttp import web

from resilience_whatsapp.simulator import resources, versions, wire
from resilience_whatsapp.simulator.book import Book
from resilience_whatsapp.simulator.clock import SimClock
from resilience_whatsapp.simulator.envelopes import (
    EXPIRED_TOKEN,
    NO_TOKEN,
    Refusal,
    unknown_object,
)
from resilience_whatsapp.simulator.faults import Script
from resilience_whatsapp.simulator.media import MediaStore
from resilience_whatsapp.simulator.routing import Call, Route
from resilience_whatsapp.simulator.serving import Server
from resilience_whatsapp.simulator.standing import revoked
from resilience_whatsapp.simulator.template_life import TemplateLife
from resilience_whatsapp.simulator.templates import DEFAULT_TEMPLATES, SimTemplate
from resilience_whatsapp.simulator.world import Account, Number, Token, World

TOKEN = "simulator-token"
PHONE_NUMBER_ID = "106540352242922"
WABA_ID = "102290129340398"
OWN_NUMBER = "15550783881"

_PATH = re.compile(r"/v(\d{1,4})\.(\d{1,4})/([^/]+)(?:/([^/]+))?/?")


class Options(TypedDict, total=False):
    """What `GraphApi` takes; `Simulator` explains it."""

    token: str
    phone_number_id: str
    waba_id: str
    own_number: str
    templates: Sequence[SimTemplate]
    allowed_recipients: Iterable[str] | None
    missing_template_status: int
    clock: SimClock | None


class GraphApi:
    """State and handlers; the attributes may be changed while it runs (a new token, a template paused).

    There is a default portfolio with one account, one number and one token; `world` has the methods to add others.
    """

    def __init__(
        self,
        *,
        token: str = TOKEN,
        phone_number_id: str = PHONE_NUMBER_ID,
        waba_id: str = WABA_ID,
        own_number: str = OWN_NUMBER,
        templates: Sequence[SimTemplate] = DEFAULT_TEMPLATES,
        allowed_recipients: Iterable[str] | None = None,
        missing_template_status: int = 404,
        clock: SimClock | None = None,
    ) -> None:
        self.clock = clock or SimClock()
        self.world = World()
        self._account = self.world.add_account(self.world.add_portfolio(), waba_id, templates=templates)
        self._number = self.world.add_number(self._account, phone_number_id, digits=own_number)
        self._token = self.world.add_token(token)
        self.allowed_recipients = None if allowed_recipients is None else frozenset(allowed_recipients)
        self.missing_template_status = missing_template_status
        self.media = MediaStore()
        self.template_life = TemplateLife(self.clock, self.announce)
        self.book = Book()
        self._script = Script()
        self._died = asyncio.Event()  # set when the server dies: who waits then is not carried out any more
        self._routes: dict[tuple[str, str], list[Route]] = {}
        for route in resources.routes(self):
            self._routes.setdefault((route.method, route.edge), []).append(route)

    # --- the defaults ----------------------------------------------------------------------------------------------

    @property
    def account(self) -> Account:
        """The default account."""
        return self._account

    @property
    def number(self) -> Number:
        """The default number."""
        return self._number

    @property
    def waba_id(self) -> str:
        """Of the default account."""
        return self._account.id

    @property
    def phone_number_id(self) -> str:
        """Of the default number."""
        return self._number.id

    @property
    def own_number(self) -> str:
        """Digits of the default number; it cannot write to itself."""
        return self._number.digits

    @property
    def templates(self) -> list[SimTemplate]:
        """Of the default account."""
        return self._account.templates

    @templates.setter
    def templates(self, templates: Iterable[SimTemplate]) -> None:
        self._account.templates = list(templates)

    @property
    def token(self) -> str:
        """The default token; another one takes its place, and the old one is refused."""
        return self._token.value

    @token.setter
    def token(self, value: str) -> None:
        old = self.world.tokens.pop(self._token.value)
        self._token = self.world.add_token(value, app_id=old.app_id)

    # --- what happens to them ---------------------------------------------------------------------------------------

    def add_media(
        self, content: bytes, mime_type: str, *, phone_number_id: str | None = None, media_id: str | None = None
    ) -> str:
        """Keep a file as if an inbound message had brought it to that number, by default the default one; gives its id.

        It lives 7 days of the API's time; raises `KeyError` for a number that does not exist.
        """
        number = self._number if phone_number_id is None else self.world.numbers[phone_number_id]
        return self.media.receive(number, content, mime_type, self.clock.now(), media_id=media_id).id

    def announce(self, account: Account, field: str, value: dict[str, Any]) -> None:
        """Tell a change of an account by webhook."""

    # --- requests --------------------------------------------------------------------------------------------------

    def routes(self) -> list[web.RouteDef]:
        """What it answers to: its own paths by method, and whatever resources serve besides."""
        return [*resources.raw_routes(self), web.route("*", "/{path:.*}", self._serve)]

    async def _serve(self, request: web.Request) -> web.StreamResponse:
        path = _PATH.fullmatch(request.path)
        candidates = self._routes.get((request.method, path[4] or "")) if path is not None else None
        if path is None or candidates is None:
            self.book.arrive("unknown")
            return Refusal(2500, message=f"Unknown path components: {request.path}").response()
        version, object_id = (int(path[1]), int(path[2])), path[3]
        route, found = candidates[0], None
        for candidate in candidates:
            found = candidate.find(object_id)
            if found is not None:
                route = candidate
                break
        number = self.book.arrive(route.name)
        fault = self._script.next(route.name)
        if fault is not None and fault.kind == "reset_before_read":
            return wire.reset(request)
        body = await route.read(request) if request.method == "POST" else None
        token = versions.refusal_of(version) or self.token_of(request)
        if isinstance(token, Refusal):
            return token.response()
        if found is None or not token.reaches(found.account):
            return unknown_object(request.method, object_id).response()
        denied = token.rights.refusal_of(route.permission)
        if denied is not None:
            return denied.response()
        call = Call(request, version, object_id, token, body, number)
        return await Server(self.clock, self._died).serve(call, fault, lambda: route.answer(call, found))

    def token_of(self, request: web.Request) -> Token | Refusal:
        """The token that a request shows, if it is valid."""
        scheme, _, value = request.headers.get("Authorization", "").partition(" ")
        token = self.world.tokens.get(value) if scheme == "Bearer" else None
        if token is None:
            return NO_TOKEN
        if token.expires_at is not None and self.clock.now() >= token.expires_at:
            return EXPIRED_TOKEN
        return token if token.rights.revoked is None else revoked(token.rights.revoked)

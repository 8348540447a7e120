"""The Graph API's side of the simulator: from a request to its route, past token and fault, to its answer.

Every request is counted on arrival, then meets its fault. A message that was read is carried out whether or not the
client waits for the answer: that is what makes a time-out ambiguous. Nothing here is ever logged.
"""

from __future__ import annotations

import asyncio
import random
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypedDict

from aiohttp import web

from resilience_whatsapp.simulator import resources, versions, wire
from resilience_whatsapp.simulator.book import Book, BusinessKey, content_key
from resilience_whatsapp.simulator.clock import SimClock
from resilience_whatsapp.simulator.envelopes import EXPIRED_TOKEN, NO_TOKEN, Refusal, unknown_object
from resilience_whatsapp.simulator.faults.answers import Server
from resilience_whatsapp.simulator.faults.script import Script
from resilience_whatsapp.simulator.limits.limiter import Limiter
from resilience_whatsapp.simulator.limits.settings import Limits
from resilience_whatsapp.simulator.report import Report, report_of
from resilience_whatsapp.simulator.routing import Call, Outcome, Route
from resilience_whatsapp.simulator.state.changes import Changes
from resilience_whatsapp.simulator.state.inbox import Inbox
from resilience_whatsapp.simulator.state.media import MediaStore
from resilience_whatsapp.simulator.state.standing import LOCKED, news_of_ban, news_of_block, revoked
from resilience_whatsapp.simulator.state.world import Account, Block, Number, Token, World
from resilience_whatsapp.simulator.templates.definitions import DEFAULT_TEMPLATES, SimTemplate
from resilience_whatsapp.simulator.templates.life import TemplateLife
from resilience_whatsapp.simulator.webhooks.delivery import APP_SECRET, Webhooks
from resilience_whatsapp.simulator.webhooks.receivers import Receiver
from resilience_whatsapp.simulator.webhooks.statuses import Statuses, Stories

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
    country_code: str | None
    missing_template_status: int
    numbers: int
    accounts: int
    clock: SimClock | None
    speed: float
    seed: int
    limits: Limits
    service_window: bool
    webhooks: Sequence[str | Receiver]
    webhook_batch: int
    webhook_backlog: int
    app_secret: str
    statuses: Statuses
    business_key: BusinessKey


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
        country_code: str | None = None,
        missing_template_status: int = 404,
        numbers: int = 1,
        accounts: int = 1,
        clock: SimClock | None = None,
        speed: float = 1.0,
        seed: int = 0,
        limits: Limits | None = None,
        service_window: bool = False,
        webhooks: Sequence[str | Receiver] = (),
        webhook_batch: int = 50,
        webhook_backlog: int = 100_000,
        app_secret: str = APP_SECRET,
        statuses: Statuses | None = None,
        business_key: BusinessKey = content_key,
    ) -> None:
        if country_code is not None and not re.fullmatch("[1-9][0-9]{0,2}", country_code):
            raise ValueError("country_code must be the 1 to 3 digits of a country, without +")
        self.clock = SimClock(speed) if clock is None else clock
        self.world = World()
        self._account = self.world.add_account(self.world.add_portfolio(), waba_id, templates=templates)
        self._number = self.world.add_number(self._account, phone_number_id, digits=own_number)
        for _ in range(accounts - 1):
            self.world.add_account(self.world.add_portfolio(), templates=templates)
        for account in self.world.accounts.values():
            while len(account.numbers) < numbers:
                self.world.add_number(account)
        self._token = self.world.add_token(token)
        self.allowed_recipients = None if allowed_recipients is None else frozenset(allowed_recipients)
        self.country_code = country_code
        self.missing_template_status = missing_template_status
        self.service_window = service_window
        self.book = Book(business_key=business_key)
        self.limiter = Limiter(limits or Limits.none())
        # A stream of its own for each purpose: more webhooks do not change which requests meet a fault.
        self.faults = Script(self.clock, f"{seed}/faults")
        self.webhooks = Webhooks(self.clock, app_secret, webhook_batch, webhook_backlog, self.world.accounts)
        self.stories = Stories(
            statuses or Statuses(), self.clock, random.Random(f"{seed}/stories"), self.faults, self.webhooks
        )
        self.inbox = Inbox(self.clock, self.book, self.limiter, self.webhooks)
        self._first_receivers = [each if isinstance(each, Receiver) else Receiver(each) for each in webhooks]
        self.media = MediaStore()
        self.template_life = TemplateLife(self.clock, self.webhooks.tell)
        self.change = Changes(self)
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

    @property
    def limits(self) -> Limits:
        """In force; assign others at any time."""
        return self.limiter.limits

    @limits.setter
    def limits(self, limits: Limits) -> None:
        self.limiter.change(limits)

    @property
    def messaging_tier(self) -> str:
        """The messaging limit, as the API tells it: `TIER_250`, `TIER_2K`, ..., `TIER_UNLIMITED`."""
        users = self.limits.messaging
        if users is None:
            return "TIER_UNLIMITED"
        return f"TIER_{users // 1000}K" if users >= 1000 else f"TIER_{users}"

    # --- what happens to them --------------------------------------------------------------------------------------

    def number_of(self, phone_number_id: str | None = None) -> Number:
        """The number with this id, by default the default one; raises `KeyError`."""
        return self._number if phone_number_id is None else self.world.numbers[phone_number_id]

    def inbound(
        self,
        sender: str,
        text: str = "Hello",
        *,
        phone_number_id: str | None = None,
        kind: str = "text",
        content: Mapping[str, Any] | None = None,
        name: str = "A user",
    ) -> str:
        """A user writes: to the default number, unless said otherwise; gives the wamid.

        It opens the service window for 24 h, counts for the throughput, and goes to the webhooks. `sender` is a number
        or a business-scoped id; a message of another `kind` than text has its `content`, as webhooks have it.
        """
        said = {"body": text} if content is None else content
        return self.inbox.receive(self.number_of(phone_number_id), sender, kind, said, name)

    def add_media(
        self, content: bytes, mime_type: str, *, phone_number_id: str | None = None, media_id: str | None = None
    ) -> str:
        """Keep a file as if an inbound message had brought it to a number, the default one unless said otherwise.

        Gives its id. It lives 7 days of the API's time.
        """
        number = self.number_of(phone_number_id)
        return self.media.receive(number, content, mime_type, self.clock.now(), media_id=media_id).id

    def inbound_media(
        self,
        sender: str,
        content: bytes,
        mime_type: str,
        *,
        phone_number_id: str | None = None,
        caption: str | None = None,
        name: str = "A user",
    ) -> str:
        """A user sends a file: an inbound message of its kind, with the id of the file; gives the wamid."""
        media = self.media.receive(self.number_of(phone_number_id), content, mime_type, self.clock.now())
        kind = media.kind or "document"
        return self.inbound(
            sender, phone_number_id=phone_number_id, kind=kind, content=media.as_webhook(caption), name=name
        )

    def block(
        self,
        code: int,
        *,
        phone_number_id: str | None = None,
        waba_id: str | None = None,
        seconds: float | None = None,
    ) -> None:
        """Refuse all sends of a number, or of an account, with `code`: 131048, 133010; 131031, 368, ...

        It ends after `seconds`, or with `unblock`. That of an account is told by webhook (`account_update`).
        """
        until = None if seconds is None else self.clock.now() + seconds
        owner = self._owner(phone_number_id, waba_id)
        owner.block = Block(code, until)
        if isinstance(owner, Account):
            self.webhooks.tell(owner, "account_update", news_of_block(code, until))

    def unblock(self, *, phone_number_id: str | None = None, waba_id: str | None = None) -> None:
        """Sends of the number, or of the account, are taken again."""
        owner = self._owner(phone_number_id, waba_id)
        lifted, owner.block = owner.block, None
        if isinstance(owner, Account) and lifted is not None and lifted.code == LOCKED:
            self.webhooks.tell(owner, "account_update", news_of_ban("REINSTATE"))

    def _owner(self, phone_number_id: str | None, waba_id: str | None) -> Number | Account:
        return self.number_of(phone_number_id) if waba_id is None else self.world.accounts[waba_id]

    def upgrade(self, *, phone_number_id: str | None = None) -> None:
        """Raise the throughput of a number to the level `HIGH`: 131057 for a minute, then it is told by webhook."""
        number, seconds = self.number_of(phone_number_id), self.limits.upgrade_seconds
        number.block = Block(131057, self.clock.now() + seconds)
        number.throughput_level = "HIGH"
        news = {
            "display_phone_number": number.digits,
            "event": "THROUGHPUT_UPGRADE",
            "current_limit": "TIER_UNLIMITED",
            "max_daily_conversations_per_business": "TIER_UNLIMITED",
        }
        self.clock.call_later(seconds, lambda: self.webhooks.tell(number.account, "phone_number_quality_update", news))

    def report(self, records: Mapping[str, Any] | None = None) -> Report:
        """What it knows, and what the sender's `records` are worth (`report.Report`); raises `RecordsError`.

        `records` maps each opaque id to the state that the sender believes it in, or to an object with `state` and
        `key`, its business key.
        """
        return report_of(self.book, self.limiter.tallies, self.webhooks.so_far(), records)

    async def report_beside(self, records: Mapping[str, Any] | None = None) -> Report:
        """The same, told from a copy in a thread: of many messages it takes seconds, in which others are answered."""
        copies = self.book.copy(), dict(self.limiter.tallies), self.webhooks.so_far()
        return await asyncio.to_thread(report_of, *copies, records)

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
        fault = self.faults.next(route.name, object_id=object_id)
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
        account, now = found.account, self.clock.now()
        if route.limit != "none":
            refused = self.limiter.call(token, account, now, management=route.limit == "management")
            if refused is not None:
                return refused.response(self.limiter.headers(token, account, now))
        call = Call(request, version, object_id, token, body, number)
        life = Server(self.clock, self._died)
        response = await life.serve(request, fault, lambda: route.answer(call, found), account.id)
        if not response.prepared:
            sender = found if isinstance(found, Number) and route.limit == "none" else None
            for name, text in self.limiter.headers(token, account, now, sender).items():
                response.headers.setdefault(name, text)  # what a fault says comes first
        return response

    async def serve_other(self, request: web.Request, name: str, answer: Callable[[], Outcome]) -> web.StreamResponse:
        """Count and answer a request that is not of the Graph API, as the next fault on `name` wants it."""
        self.book.arrive(name)
        fault = self.faults.next(name)
        if fault is not None and fault.kind == "reset_before_read":
            return wire.reset(request)
        return await Server(self.clock, self._died).serve(request, fault, answer, self.waba_id)

    def token_of(self, request: web.Request) -> Token | Refusal:
        """The token that a request shows, if it is valid."""
        scheme, _, value = request.headers.get("Authorization", "").partition(" ")
        token = self.world.tokens.get(value) if scheme == "Bearer" else None
        if token is None:
            return NO_TOKEN
        if token.expires_at is not None and self.clock.now() >= token.expires_at:
            return EXPIRED_TOKEN
        return token if token.rights.revoked is None else revoked(token.rights.revoked)

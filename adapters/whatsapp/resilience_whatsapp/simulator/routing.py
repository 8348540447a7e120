"""What a resource of the API is made of: its routes, and what its handlers are given and give back.

To add a resource, write a module in `resources/` with a function `routes(api: GraphApi) -> list[Route]`, and list it in
`resources/__init__.py`. Nothing else has to know it. A route says

* `method` and `edge`: `GET` and `message_templates` for `GET /vN.M/{id}/message_templates`; the edge `""` is the object
  itself, `GET /vN.M/{id}`. Several routes may have the same method and edge: the first one whose `find` knows the id
  answers, so that numbers, accounts, templates and media share `GET /{id}`.
* `name`: as which it is counted in `book.requests`, and matched by `Fault(route=...)`.
* `find`: the object of an id, or None; it has an `account`, which the token must reach.
* `answer`: the handler, which is not a coroutine: what it does, it does at once, whatever becomes of the answer.
  It gives what is sent as JSON, or a `Refusal`, a `web.Response`, or `Taken` for a message that was booked.
* `read`: how the body is read before that (JSON by default); a multipart body needs a reader of its own.
* `permission`: what the token must have.
* `limit`: what the call counts against: `management`, `app` alone, or `none` (sends have limits of their own).

A handler tells news by webhook with `api.webhooks.tell(account, field, value)`, reads the time from `api.clock`, and
finds accounts and numbers in `api.world`. A new name of a route goes into `faults.script.ROUTES`.

Paths of another form (a media download, `/me/permissions`) are aiohttp's own routes: `raw_routes(api)` in the same
module, if it has any.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from aiohttp import web
from attrs import define, frozen

from resilience_whatsapp.simulator import wire
from resilience_whatsapp.simulator.envelopes import Refusal
from resilience_whatsapp.simulator.state.standing import MANAGEMENT
from resilience_whatsapp.simulator.state.world import InAccount, Token

if TYPE_CHECKING:
    from resilience_whatsapp.simulator.book import Entry


@define
class Call:
    """One request, as its handler sees it."""

    request: web.Request
    version: tuple[int, int]
    """(25, 0) for `/v25.0/...`: some answers differ by it."""
    object_id: str
    token: Token
    body: Any
    """What `read` gave; None for a body that is no JSON."""
    number: int
    """Of the request, from 1, in the order of arrival."""


@frozen
class Taken:
    """The answer of a message that was booked."""

    content: dict[str, Any]
    entry: Entry
    before: Awaitable[None] | None = None
    """What must happen before the answer leaves: a webhook that overtakes it."""


Outcome: TypeAlias = "dict[str, Any] | list[Any] | Refusal | web.Response | Taken"


@frozen
class Route:
    """One method of one edge of one kind of object."""

    method: str
    edge: str
    name: str
    find: Callable[[str], InAccount | None]
    answer: Callable[[Call, Any], Outcome]
    """Given the call and the object that was found."""
    read: Callable[[web.Request], Awaitable[Any]] = wire.json_of
    limit: Literal["management", "app", "none"] = "management"
    permission: str = MANAGEMENT


def asked_of(call: Call) -> frozenset[str]:
    """The names in the query's `fields`."""
    return frozenset(name.strip() for name in call.request.query.get("fields", "").split(",") if name.strip())


def fields_of(call: Call, node: dict[str, Any], more: dict[str, Any] | None = None) -> dict[str, Any]:
    """What the query's `fields` asks for of `node` and `more`, and the id; all of `node` when it asks for nothing."""
    asked = asked_of(call)
    if not asked:
        return node
    return {key: value for key, value in {**node, **(more or {})}.items() if key in asked or key == "id"}

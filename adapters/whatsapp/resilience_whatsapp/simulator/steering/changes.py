"""The routes that change what exists (`state.changes`): each takes an object with the arguments of the method.

| route | what it changes |
|---|---|
| `POST /_sim/templates` | `{"name", "language"?, "status"?, ...}`; with `{"review": {...}}` how they are reviewed |
| `POST /_sim/tokens` | `{"token"?, "permissions"?, "accounts"?, "denied_code"?, "expires_in"?, "revoked"?}` |
| `POST /_sim/numbers` | `{"phone_number_id"?, "quality"?, "registered"?, ...}` |
| `POST /_sim/accounts` | `{"waba_id"?, "payment"?, "closed_countries"?, ...}` |
| `POST /_sim/media` | keeps the body, with its `Content-Type`, as if an inbound message had brought it; gives its id |

What cannot be is answered with 400 and `{"error"}`, and nothing changes.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from aiohttp import web

from resilience_whatsapp.simulator import wire
from resilience_whatsapp.simulator.state.changes import ChangeError

if TYPE_CHECKING:
    from resilience_whatsapp.simulator.api import GraphApi

_NUMBERS = ("after", "lasts", "seconds", "expires_in")
_FLAGS = ("registered", "certificate", "marketing", "marketing_api")
_LISTS = ("accounts", "permissions", "closed_countries")


def routes(api: GraphApi) -> list[web.RouteDef]:
    """All of them."""
    steering = _Steering(api)
    return [
        web.post("/_sim/templates", steering.templates),
        web.post("/_sim/tokens", steering.tokens),
        web.post("/_sim/numbers", steering.numbers),
        web.post("/_sim/accounts", steering.accounts),
        web.post("/_sim/media", steering.media),
    ]


class _Steering:
    def __init__(self, api: GraphApi) -> None:
        self._api = api

    async def templates(self, request: web.Request) -> web.Response:
        content = await wire.json_of(request)
        change = self._api.change
        if isinstance(content, dict) and isinstance(content.get("review"), dict):
            return _done(change.review, content["review"])
        return _done(change.template, content, lambda changed: {"changed": changed})

    async def tokens(self, request: web.Request) -> web.Response:
        content = await wire.json_of(request)
        if isinstance(content, dict) and "token" in content:
            content["value"] = content.pop("token")
        return _done(self._api.change.token, content)

    async def numbers(self, request: web.Request) -> web.Response:
        return _done(self._api.change.number, await wire.json_of(request))

    async def accounts(self, request: web.Request) -> web.Response:
        return _done(self._api.change.account, await wire.json_of(request))

    async def media(self, request: web.Request) -> web.Response:
        number = request.query.get("phone_number_id")
        if number is not None and number not in self._api.world.numbers:
            return _refused("phone_number_id must be that of a number")
        content = await request.read()
        return web.json_response({"id": self._api.add_media(content, request.content_type, phone_number_id=number)})


def _done(
    change: Callable[..., Any], content: Any, told: Callable[[Any], dict[str, Any]] = lambda _: {"success": True}
) -> web.Response:
    try:
        return web.json_response(told(change(**_arguments(change, content))))
    except ChangeError as error:
        return _refused(str(error))


def _arguments(change: Callable[..., Any], content: Any) -> Mapping[str, Any]:
    parameters = inspect.signature(change).parameters
    if not isinstance(content, dict) or not content.keys() <= parameters.keys():
        raise ChangeError(f"the body must be an object with any of {', '.join(parameters)}")
    missing = [name for name, each in parameters.items() if each.default is each.empty and name not in content]
    if missing:
        raise ChangeError(f"{missing[0]} must be given")
    for name, value in content.items():
        if value is not None and not _fits(name, value):
            raise ChangeError(f"{name} has a value of another type than it must have")
    return content


def _fits(name: str, value: Any) -> bool:
    if name == "revoked":
        return isinstance(value, int)
    if name in _FLAGS:
        return isinstance(value, bool)
    if isinstance(value, bool):
        return False
    if name in _NUMBERS:
        return isinstance(value, int | float)
    if name == "denied_code":
        return isinstance(value, int)
    if name in _LISTS:
        return isinstance(value, list) and all(isinstance(each, str) for each in value)
    if name == "components":
        return isinstance(value, list) and all(isinstance(each, dict) for each in value)
    if name == "groups":
        return isinstance(value, dict) and all(isinstance(each, int) for each in value.values())
    return isinstance(value, str)


def _refused(text: str) -> web.Response:
    return web.json_response({"error": text}, status=400)

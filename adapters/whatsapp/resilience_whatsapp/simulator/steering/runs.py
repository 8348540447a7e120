"""The routes that steer a run: they script faults, write as users, set limits, and read the book and the report.

| route | what it does |
|---|---|
| `POST /_sim/faults` | scripts a fault, or a list of them, all or none; `DELETE` clears them |
| `GET /_sim/book` | all that was accepted, or with `?first=&limit=` some of it |
| `GET /_sim/report` | the report; `POST` with `{"records": {"<opaque id>": "<state>"}}` compares the sender's records |
| `GET /_sim/webhooks` | what was told so far: the part `webhooks` of the report, for those who ask often |
| `POST /_sim/webhooks` | subscribes a receiver; `DELETE ?url=` unsubscribes it, or all |
| `POST /_sim/inbound` | a user writes: `{"from", "text"}` and the other arguments of `Simulator.inbound` |
| `POST /_sim/block` | blocks a number or an account: `{"code", "phone_number_id"?, "waba_id"?, "seconds"?}` |
| `DELETE /_sim/block` | ends it: `?phone_number_id=` or `?waba_id=` |
| `POST /_sim/upgrade` | raises a number's throughput: `{"phone_number_id"?}` |
| `POST /_sim/limits` | other limits: `{"base": "none" or "real"}` and any field of `Limits` |
| `POST /_sim/reset` | forgets book, faults, and what was used of the limits |
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from aiohttp import web
from attrs import asdict, fields

from resilience_whatsapp.simulator import wire
from resilience_whatsapp.simulator.faults.script import Fault, FaultError
from resilience_whatsapp.simulator.limits.settings import Limits, LimitsError
from resilience_whatsapp.simulator.report import RecordsError
from resilience_whatsapp.simulator.webhooks.receivers import Receiver, WebhookError

if TYPE_CHECKING:
    from resilience_whatsapp.simulator.server import Simulator

_NO_KINDS = ("", "from", "from_user_id", "id", "timestamp", "type")
"""What a message has besides the content that is named like its kind."""

_UNKNOWN = "phone_number_id and waba_id must be those of a number and an account"


def routes(simulator: Simulator) -> list[web.RouteDef]:
    """All of them."""
    return _Runs(simulator).routes()


class _Runs:
    def __init__(self, simulator: Simulator) -> None:
        self._simulator = simulator

    def routes(self) -> list[web.RouteDef]:
        return [
            web.post("/_sim/faults", self._add),
            web.delete("/_sim/faults", self._clear),
            web.get("/_sim/book", self._show),
            web.get("/_sim/report", self._report),
            web.post("/_sim/report", self._report),
            web.get("/_sim/webhooks", self._told),
            web.post("/_sim/webhooks", self._subscribe),
            web.delete("/_sim/webhooks", self._unsubscribe),
            web.post("/_sim/inbound", self._inbound),
            web.post("/_sim/block", self._block),
            web.delete("/_sim/block", self._unblock),
            web.post("/_sim/upgrade", self._upgrade),
            web.post("/_sim/limits", self._limits),
            web.post("/_sim/reset", self._reset),
        ]

    async def _add(self, request: web.Request) -> web.Response:
        content = await wire.json_of(request)
        try:
            # All or nothing: a list with one bad row scripts none of them.
            faults = [Fault.from_json(row) for row in (content if isinstance(content, list) else [content])]
        except FaultError as error:
            return _refused(str(error))
        self._simulator.script(*faults)
        return web.json_response({"pending": len(self._simulator.faults)})

    async def _clear(self, request: web.Request) -> web.Response:
        self._simulator.clear_faults()
        return web.json_response({"pending": 0})

    async def _show(self, request: web.Request) -> web.Response:
        try:
            first, limit = int(request.query.get("first", 0)), int(request.query.get("limit", 2**31))
        except ValueError:
            first = limit = -1
        if first < 0 or limit < 0:
            return _refused("first and limit must be whole numbers, at least 0")
        return await _in_thread(self._simulator.book.copy().as_json, first, limit)

    async def _report(self, request: web.Request) -> web.Response:
        records: Any = None
        if request.method == "POST":
            content = await wire.large_json_of(request)
            records = content.get("records") if isinstance(content, dict) else None
            if not isinstance(records, dict):
                return _refused("records must be an object of opaque ids and states")
        try:
            report = await self._simulator.report_beside(records)
        except RecordsError as error:
            return _refused(str(error))
        return await _in_thread(report.as_json)

    async def _told(self, request: web.Request) -> web.Response:
        return web.json_response(asdict(self._simulator.webhooks.so_far()))

    async def _subscribe(self, request: web.Request) -> web.Response:
        try:
            await self._simulator.subscribe(Receiver.from_json(await wire.json_of(request)))
        except WebhookError as error:
            return _refused(str(error))
        return web.json_response({"receivers": len(self._simulator.webhooks.receivers)})

    async def _unsubscribe(self, request: web.Request) -> web.Response:
        self._simulator.webhooks.unsubscribe(request.query.get("url"))
        return web.json_response({"receivers": len(self._simulator.webhooks.receivers)})

    async def _inbound(self, request: web.Request) -> web.Response:
        content = await wire.json_of(request)
        known = {"from", "text", "phone_number_id", "kind", "content", "name"}
        if not isinstance(content, dict) or not content.keys() <= known or not content.get("from"):
            return _refused(f"a message must be an object with from and any of {', '.join(sorted(known))}")
        message = {key: value for key, value in content.items() if key != "content"}
        if not all(isinstance(value, str) for value in message.values()):
            return _refused(f"{', '.join(sorted(known - {'content'}))} must be texts")
        if content.get("kind", "text") in _NO_KINDS:
            return _refused("kind must be that of a message: text, image, button, ...")
        if not isinstance(content.get("content"), Mapping | None):
            return _refused("content must be an object")
        if not self._knows(content):
            return _refused(_UNKNOWN)
        wamid = self._simulator.inbound(content.pop("from"), **content)
        return web.json_response({"id": wamid})

    async def _block(self, request: web.Request) -> web.Response:
        content = await wire.json_of(request)
        known = {"code", "seconds", "phone_number_id", "waba_id"}
        if not isinstance(content, dict) or not content.keys() <= known or type(content.get("code")) is not int:
            return _refused(f"a block must be an object with code, a number, and any of {', '.join(sorted(known))}")
        if not (content.get("seconds") is None or wire.is_duration(content["seconds"])):
            return _refused("seconds must be a number, at least 0")
        if not self._knows(content):
            return _refused(_UNKNOWN)
        self._simulator.block(**content)
        return web.json_response({"success": True})

    async def _unblock(self, request: web.Request) -> web.Response:
        if not request.query.keys() <= {"phone_number_id", "waba_id"} or not self._knows(request.query):
            return _refused(_UNKNOWN)
        self._simulator.unblock(**request.query)
        return web.json_response({"success": True})

    async def _upgrade(self, request: web.Request) -> web.Response:
        content = await wire.json_of(request) or {}
        if not isinstance(content, dict) or not self._knows(content):
            return _refused(_UNKNOWN)
        self._simulator.upgrade(phone_number_id=content.get("phone_number_id"))
        return web.json_response({"success": True})

    async def _limits(self, request: web.Request) -> web.Response:
        content = await wire.json_of(request)
        known = {"base", *(attribute.name for attribute in fields(Limits))}
        if not isinstance(content, dict) or not content.keys() <= known:
            return _refused(f"limits must be an object with any of {', '.join(sorted(known))}")
        base = content.pop("base", "none")
        if base not in ("none", "real"):
            return _refused("base must be none or real")
        try:
            self._simulator.limits = Limits.real(**content) if base == "real" else Limits.none(**content)
        except LimitsError as error:
            return _refused(str(error))
        return web.json_response({"success": True})

    async def _reset(self, request: web.Request) -> web.Response:
        self._simulator.reset()
        return web.json_response({"success": True})

    def _knows(self, content: Mapping[str, Any]) -> bool:
        """Whether the number and the account that are named, if any is, exist."""
        world = self._simulator.world
        named = ((content.get("phone_number_id"), world.numbers), (content.get("waba_id"), world.accounts))
        return all(id is None or (isinstance(id, str) and id in known) for id, known in named)


async def _in_thread(told: Callable[..., Any], *arguments: int) -> web.Response:
    """An answer that may be large: it is made in a thread, while others are answered."""
    text = await asyncio.to_thread(lambda: json.dumps(told(*arguments)))
    return web.Response(text=text, content_type="application/json")


def _refused(text: str) -> web.Response:
    return web.json_response({"error": text}, status=400)

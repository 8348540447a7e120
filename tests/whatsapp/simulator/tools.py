"""What the simulator's tests share: a session that is let in, sends, and a receiver of webhooks."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
from aiohttp import web

from resilience_whatsapp.simulator import ManualClock, Simulator

TEXT = {"messaging_product": "whatsapp", "to": "+33612345678", "type": "text", "text": {"body": "hi"}}
USER = "33612345678"

Story = Callable[["Api"], Coroutine[Any, Any, Any]]


class Api:
    """A running simulator, and a client that knows its token."""

    def __init__(self, simulator: Simulator, session: aiohttp.ClientSession) -> None:
        self.simulator = simulator
        self.session = session

    async def ask(self, method: str, path: str, payload: Any = None, **options: Any) -> tuple[int, Any, Any]:
        """Status, JSON and headers of an answer to any path."""
        url = self.simulator.base_url + path
        async with self.session.request(method, url, json=payload, **options) as response:
            return response.status, await response.json(), response.headers

    async def send(self, *, phone: str | None = None, version: str = "v25.0", **changes: Any) -> tuple[int, Any, Any]:
        """The same of a text message with these changes."""
        phone = phone or self.simulator.phone_number_id
        return await self.ask("POST", f"/{version}/{phone}/messages", {**TEXT, **changes})

    async def code(self, **options: Any) -> int | None:
        """The error code of a send; None when it was accepted."""
        return (await self.send(**options))[1].get("error", {}).get("code")

    async def list_code(self, token: str | None = None, waba_id: str | None = None) -> int | None:
        """The error code of a listing of templates."""
        headers = {"Authorization": f"Bearer {token or self.simulator.token}"}
        path = f"/v25.0/{waba_id or self.simulator.waba_id}/message_templates"
        return (await self.ask("GET", path, headers=headers))[1].get("error", {}).get("code")


def run(story: Story, **options: Any) -> Any:
    """Play a story with a simulator of these options."""

    async def inside() -> Any:
        async with Simulator(**options) as simulator:
            headers = {"Authorization": f"Bearer {simulator.token}"}
            async with aiohttp.ClientSession(headers=headers) as session, asyncio.timeout(30):
                return await story(Api(simulator, session))

    return asyncio.run(inside())


def clock_of(api: Api) -> ManualClock:
    """The clock that the story was given."""
    assert isinstance(api.simulator.clock, ManualClock)
    return api.simulator.clock


class Receiver:
    """Keeps what it is told; answers `status`, or the next of `answers`."""

    def __init__(self) -> None:
        self.url = ""
        self.bodies: list[bytes] = []
        self.signatures: list[str] = []
        self.answers: list[int] = []
        self.challenge: str | None = None
        self.stuck: asyncio.Event | None = None
        self._changed = asyncio.Event()

    async def handle(self, request: web.Request) -> web.Response:
        if request.method == "GET":
            if request.query.get("hub.verify_token") != "verify":
                return web.Response(status=403)
            self.challenge = request.query["hub.challenge"]
            return web.Response(text=self.challenge)
        self.bodies.append(await request.read())
        self.signatures.append(request.headers["X-Hub-Signature-256"])
        self._changed.set()
        if self.stuck is not None:
            await self.stuck.wait()
        return web.Response(status=self.answers.pop(0) if self.answers else 200)

    async def until(self, count: int) -> list[Any]:
        """All bodies, when there are so many."""
        while len(self.bodies) < count:
            self._changed.clear()
            await self._changed.wait()
        return [json.loads(body) for body in self.bodies]

    def statuses(self) -> list[dict[str, Any]]:
        """All statuses in the order of arrival."""
        return [status for value in self.values() for status in value.get("statuses", [])]

    def values(self) -> list[dict[str, Any]]:
        """All that was told, in the order of arrival."""
        bodies = [json.loads(body) for body in self.bodies]
        return [change["value"] for body in bodies for entry in body["entry"] for change in entry["changes"]]


@asynccontextmanager
async def receiver() -> AsyncGenerator[Receiver, None]:
    """A receiver that listens."""
    listening = Receiver()
    app = web.Application()
    app.router.add_route("*", "/hook", listening.handle)
    runner = web.AppRunner(app, shutdown_timeout=0.1, access_log=None)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        listening.url = f"http://127.0.0.1:{runner.addresses[0][1]}/hook"
        yield listening
    finally:
        await runner.cleanup()


async def until(condition: Callable[[], Any]) -> None:
    """Let the loop run until it holds."""
    while not condition():
        await asyncio.sleep(0.001)

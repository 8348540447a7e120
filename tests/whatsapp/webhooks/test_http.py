"""Over real HTTP, in a real process that is killed: what was answered with 200 is handled once it lives again."""

from __future__ import annotations

import asyncio
import io
import json
import os
import signal
import sqlite3
import sys
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager, closing
from pathlib import Path
from typing import Any

import aiohttp
from aiohttp import web

from resilience_whatsapp.webhooks import (
    MAX_WEBHOOK,
    SIGNATURE_HEADER,
    MemoryInbox,
    StatusUpdate,
    WebhookReceiver,
    WebhookUpdate,
    aiohttp_application,
    aiohttp_handler,
    on,
    sign,
)
from tests._cost import size

SECRET, TOKEN = "s3cret", "t0ken"


def body_of(*wamids: str) -> bytes:
    rows = [{"id": wamid, "status": "sent", "recipient_id": "33612345678"} for wamid in wamids]
    change = {"field": "messages", "value": {"statuses": rows}}
    return json.dumps({"entry": [{"id": "waba", "changes": [change]}]}).encode()


@asynccontextmanager
async def served(app: web.Application) -> AsyncGenerator[tuple[aiohttp.ClientSession, str]]:
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    host, port = runner.addresses[0][:2]
    async with aiohttp.ClientSession() as session:
        try:
            yield session, f"http://{host}:{port}"
        finally:
            await runner.cleanup()


def test_the_application_shakes_hands_takes_signed_bytes_and_refuses_the_rest() -> None:
    seen: list[WebhookUpdate] = []
    done = asyncio.Event()

    def listen(update: WebhookUpdate) -> None:
        seen.append(update)
        done.set()

    async def main() -> None:
        receiver = WebhookReceiver(MemoryInbox(), {"seen": listen}, app_secrets=SECRET, verify_token=TOKEN)
        async with served(aiohttp_application(receiver, "/hook")) as (http, base):
            query = {"hub.mode": "subscribe", "hub.verify_token": TOKEN, "hub.challenge": "1158201444"}
            async with http.get(f"{base}/hook", params=query) as answer:
                assert (answer.status, await answer.text()) == (200, "1158201444")
            async with http.get(f"{base}/hook", params={**query, "hub.verify_token": "x"}) as answer:
                assert answer.status == 403
            async with http.delete(f"{base}/hook") as answer:
                assert answer.status == 405
            body = rb'{"entry":[{"changes":[{"field":"x","value":{"text":"n\u00e9 \/\u0040"}}]}]}'
            for signature, status in ((sign(body, SECRET), 200), (sign(body + b" ", SECRET), 401)):
                async with http.post(f"{base}/hook", data=body, headers={SIGNATURE_HEADER: signature}) as answer:
                    assert answer.status == status
            async with asyncio.timeout(30):
                await done.wait()

    asyncio.run(main())
    assert [update.content for update in seen] == [{"text": "né /@"}]


def test_a_body_that_is_too_long_is_refused_with_and_without_a_length() -> None:
    async def chunks() -> AsyncGenerator[bytes]:
        for _ in range(4):
            yield b" " * (1024 * 1024)

    async def main() -> None:
        receiver = WebhookReceiver(MemoryInbox(), {}, app_secrets=SECRET, verify_token=TOKEN)
        app = web.Application()
        app.router.add_route("*", "/", aiohttp_handler(receiver))
        async with receiver, served(app) as (http, base):
            async with http.post(base, data=io.BytesIO(b" " * (MAX_WEBHOOK + 1))) as answer:
                assert answer.status == 413
            async with http.post(base, data=chunks()) as answer:
                assert answer.status == 413
            exact = b'{"entry":[' + b" " * (MAX_WEBHOOK - 12) + b"]}"
            async with http.post(
                base, data=io.BytesIO(exact), headers={SIGNATURE_HEADER: sign(exact, SECRET)}
            ) as answer:
                assert answer.status == 200, "3 MiB are taken, although aiohttp takes 1 MiB by default"

    asyncio.run(main())


# --- a process that is killed ---------------------------------------------------------------------------------------

KILLED = size(3, 1)


def program(directory: str) -> None:
    """A receiver that notes each effect in a database of its own, and is slow enough to be killed in the middle."""
    effects = sqlite3.connect(Path(directory) / "effects.db", isolation_level=None)
    effects.execute("CREATE TABLE IF NOT EXISTS effects (wamid TEXT, status TEXT)")

    async def note(update: StatusUpdate) -> None:
        await asyncio.sleep(0.01)
        effects.execute("INSERT INTO effects VALUES (?, ?)", (update.wamid, update.status))

    async def main() -> None:
        from resilience_whatsapp.webhooks import SQLiteInbox, _handing

        _handing.LEASE = 2.0  # who was killed with a claim is followed after two seconds, not after a minute
        inbox = SQLiteInbox(Path(directory) / "webhooks.db")
        listeners: Any = {"note": on(StatusUpdate, note)}
        options: Any = {"app_secrets": SECRET, "verify_token": TOKEN, "listener_timeout": 0.5}
        app = aiohttp_application(WebhookReceiver(inbox, listeners, **options))
        async with served(app) as (_, base):
            print(base, flush=True)
            await asyncio.Event().wait()

    asyncio.run(main())


def test_nothing_that_was_taken_is_lost_when_the_process_is_killed(tmp_path: Path) -> None:
    sent, taken, settled = 0, set[str](), set[str]()

    async def start() -> tuple[asyncio.subprocess.Process, str]:
        code = f"from tests.whatsapp.webhooks.test_http import program; program({str(tmp_path)!r})"
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-c", code, stdout=asyncio.subprocess.PIPE, env={**os.environ, "PYTHONWARNINGS": "ignore"}
        )
        assert process.stdout is not None
        return process, (await process.stdout.readline()).decode().strip()

    async def post(http: aiohttp.ClientSession, base: str) -> None:
        nonlocal sent
        wamids = [f"w{sent + number}" for number in range(5)]
        sent += 4  # one of each body comes again in the next one
        body = body_of(*wamids)
        try:
            async with http.post(base, data=body, headers={SIGNATURE_HEADER: sign(body, SECRET)}) as answer:
                if answer.status == 200:
                    taken.update(wamids)
        except aiohttp.ClientError:
            pass

    async def main() -> None:
        async with aiohttp.ClientSession() as http:
            for _ in range(KILLED):
                process, base = await start()
                first = sent + 1  # `w{sent}` may have been interrupted with its first body
                for _ in range(5):
                    await post(http, base)
                await until_all(done, taken)
                settled.update(f"w{number}" for number in range(first, sent))
                kill = asyncio.create_task(asyncio.sleep(0.02))
                await asyncio.gather(*(post(http, base) for _ in range(4)), kill)
                process.send_signal(signal.SIGKILL)
                await process.wait()
            process, base = await start()
            try:
                await until_all(noted, taken)
            finally:
                process.send_signal(signal.SIGKILL)
                await process.wait()

    def noted() -> list[str]:
        return rows("effects.db", "SELECT wamid FROM effects")

    def done() -> list[str]:
        """Those that are noted, if nothing waits; a mark without its effect would be a loss."""
        waiting = rows("webhooks.db", "SELECT id FROM webhook_items WHERE state <> 1")
        return [] if waiting else noted()

    def rows(file: str, query: str) -> list[Any]:
        with closing(sqlite3.connect(tmp_path / file)) as database:
            return [row[0] for row in database.execute(query)]

    async def until_all(found: Callable[[], list[str]], wamids: set[str]) -> None:
        async with asyncio.timeout(40):
            while not wamids <= set(found()):
                await asyncio.sleep(0.05)

    asyncio.run(main())
    assert len(taken) >= 20
    # An effect just before the kill is done again, because "done" is noted after it; nothing else is.
    assert [wamid for wamid in settled if noted().count(wamid) != 1] == []

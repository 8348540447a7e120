"""The pages for ASGI servers, on asyncio and on trio."""

from __future__ import annotations

from typing import TYPE_CHECKING

from resilience_core._errors import ConfigurationError
from resilience_core.health._health import App, Asked, Health, Receive, Scope, Send
from resilience_core.health._stream import PATIENCE

if TYPE_CHECKING:
    from anyio import CancelScope

    from resilience_core.health._stream import Stream


async def serve(health: Health, scope: Scope, receive: Receive, send: Send) -> None:
    """Answer one request, or take part in start-up and shutdown."""
    if scope["type"] == "lifespan":
        await _live(health, receive, send)
    elif scope["type"] == "http":
        answer = health.answer(_asked(scope))
        headers = [(name.lower().encode(), value.encode()) for name, value in answer.headers.items()]
        if answer.body:
            headers.append((b"content-length", str(len(answer.body)).encode()))
        start = {"type": "http.response.start", "status": answer.status, "headers": headers}
        if answer.stream is None:
            await send(start)
            await send({"type": "http.response.body", "body": b"" if scope["method"] == "HEAD" else answer.body})
            return
        try:
            await send(start)
            if await _send_stream(answer.stream, receive, send):
                await send({"type": "http.response.body", "body": b""})
        except OSError:  # what servers raise where nobody is left to send to
            pass
        finally:
            answer.stream.close()
    elif scope["type"] == "websocket":
        await receive()
        await send({"type": "websocket.close"})


def beside(health: Health, app: App, path: str) -> App:
    """`app` with the pages at `path`."""
    if not path.startswith("/") or path.endswith("/"):
        raise ConfigurationError(f"Health: path must begin with a slash and end without one, not {path!r}")

    async def both(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            here = _below(scope)
            if here == path or here.startswith(f"{path}/"):
                scope = {**scope, "root_path": scope.get("root_path", "") + path}
                await health.asgi(scope, receive, send)
                return
        await app(scope, receive, send)

    return both


def _below(scope: Scope) -> str:
    """The path below where the application is mounted; old servers and frameworks give only that."""
    path: str = scope["path"]
    root: str = scope.get("root_path", "").rstrip("/")
    return path[len(root) :] if root and (path == root or path.startswith(f"{root}/")) else path


def _asked(scope: Scope) -> Asked:
    headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]}
    client = scope.get("client")
    return Asked(scope["method"], _below(scope), headers, client[0] if client else None, scope)


async def _live(health: Health, receive: Receive, send: Send) -> None:
    while True:
        message = await receive()
        if message["type"] == "lifespan.shutdown":
            health.close()
            await send({"type": "lifespan.shutdown.complete"})
            return
        await send({"type": "lifespan.startup.complete"})


async def _send_stream(stream: Stream, receive: Receive, send: Send) -> bool:
    """Send frames until the stream or the client ends; whether it was the stream."""
    from anyio import create_task_group  # here, not above: only whoever serves needs it

    ended = False
    async with create_task_group() as group:
        group.start_soon(_until_gone, receive, group.cancel_scope)
        ended = await _send_frames(stream, send)
        group.cancel_scope.cancel()
    return ended


async def _send_frames(stream: Stream, send: Send) -> bool:
    from anyio import fail_after

    try:
        while (frame := await stream.frame()) is not None:
            if frame:
                with fail_after(PATIENCE):
                    await send({"type": "http.response.body", "body": frame, "more_body": True})
    except OSError:  # it is gone, or takes nothing any more, which is a TimeoutError
        return False
    return True


async def _until_gone(receive: Receive, scope: CancelScope) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
    scope.cancel()

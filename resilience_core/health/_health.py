"""What the pages answer; the mounts only carry it to a server."""

from __future__ import annotations

import json
import threading
from collections.abc import Awaitable, Callable, Collection, Mapping, MutableMapping
from ipaddress import ip_address
from time import monotonic
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from attrs import frozen

from resilience_core import _validation as check
from resilience_core._errors import ConfigurationError
from resilience_core._event_log import say
from resilience_core._fork import renewed_after_fork
from resilience_core._validation import Seconds
from resilience_core._views import rows_of
from resilience_core._weave.site import Kind, kind_of, refuse_unguarded
from resilience_core.feed import Feed
from resilience_core.feed import feed as feed_of_process
from resilience_core.health._report import GRACE, MOST_CHECKS, down_too_long, report_of, worst_first
from resilience_core.health._stream import Stream

if TYPE_CHECKING:
    from aiohttp import web

Details: TypeAlias = bool | Literal["local"] | Callable[[Any], bool]
Scope: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send: TypeAlias = Callable[[MutableMapping[str, Any]], Awaitable[None]]
App: TypeAlias = Callable[[Scope, Receive, Send], Awaitable[None]]

PAGES = ("/", "/live", "/ready", "/state", "/events")
HEALTH_JSON = "application/health+json"
_PROXIED = ("forwarded", "via", "x-forwarded", "x-real-ip")
"""How the names of headers begin that proxies add."""
_SAFE = {"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"}


@frozen
class Asked:
    """A request, whichever server it came from."""

    method: str
    path: str
    headers: Mapping[str, str]
    """With names in lower case."""
    client: str | None
    """The address of the other end of the connection."""
    raw: Any
    """What the callable given as `details` gets: the ASGI scope, or aiohttp's request."""


@frozen
class Answer:
    """Status, headers and body; a stream in place of the body for the feed."""

    status: int
    headers: dict[str, str]
    body: bytes = b""
    stream: Stream | None = None


class Health:
    """The health pages of this process, to be mounted anywhere: `asgi` in ASGI servers, `aiohttp_app()` in aiohttp.

    * `/` the report of `health_report`: 200, or 503 when its status is `fail`.
    * `/live` 200 as long as anything is answered at all: for liveness probes.
    * `/ready` 503 while the process should get no requests, else 200: for readiness probes and load balancers.
    * `/state` the snapshot of the feed: every policy with all it tells, at most 1,000 of them, the worst first.
    * `/events` the feed as server-sent events; docs/health.md has the protocol.

    They read memory only and change nothing: methods other than GET and HEAD get 405.

    Args:
        critical: names of breakers without which this process is of no use; see `health_report`.
        ready_grace: seconds (or timedelta) that a critical breaker may be down before `/ready` is 503.
        started: False if start-up is to be told by `ready()`; until then `/ready` is 503.
        details: who sees more than the status, on `/` and `/ready`, and gets `/state` and `/events` instead of 403.
            False: nobody. True: everybody. "local": clients on this machine, that asked for it by a local name and not
            through a proxy. A function: those for whom it answers true; it gets the ASGI scope or aiohttp's request and
            must not wait.
        heartbeat: seconds between comments that keep an idle stream of events open.
        interval: seconds between two snapshots in a stream.
        clients: streams of events that may be open at once; a further one gets 503.
        feed: where the events come from, and in whose registry the policies are.

    Attributes:
        asgi: the pages as an ASGI application, on asyncio or trio: mount it, or serve it by itself.
        started: whether start-up is finished.

    Raises:
        ConfigurationError: an option is not of these.
    """

    def __init__(
        self,
        *,
        critical: Collection[str] = (),
        ready_grace: Seconds = GRACE,
        started: bool = True,
        details: Details = False,
        heartbeat: Seconds = 15.0,
        interval: Seconds = 1.0,
        clients: int = 32,
        feed: Feed | None = None,
    ) -> None:
        if isinstance(critical, str):
            raise ConfigurationError(f"Health: critical must be several names, not one string: use [{critical!r}]")
        if not (isinstance(details, bool) or details == "local" or callable(details)):
            raise ConfigurationError(f'Health: details must be True, False, "local" or a function, not {details!r}')
        if callable(details) and not isinstance(details, type) and kind_of(details) is not Kind.BLOCKING:
            raise ConfigurationError("Health: details must be a function that answers at once, not an async one")
        if type(clients) is not int or clients < 0:
            raise ConfigurationError(f"Health: clients must be an int of at least 0, not {clients!r}")
        self.critical: frozenset[str] = frozenset(critical)
        self.ready_grace: float = check.seconds("Health: ready_grace", ready_grace)
        self.started: bool = started
        self.heartbeat: float = check.seconds("Health: heartbeat", heartbeat)
        self.interval: float = check.seconds("Health: interval", interval)
        self.feed: Feed = feed_of_process if feed is None else feed
        self._details: Details = details
        self._told = False
        self._most_clients = clients
        self._streams: set[Stream] = set()
        self._lock = renewed_after_fork(threading.Lock())
        self._seen: tuple[float, dict[str, Any]] | None = None

        # No method: uvicorn takes a bound one for an application of ASGI 2.
        async def asgi(scope: Scope, receive: Receive, send: Send) -> None:
            from resilience_core.health._asgi import serve

            await serve(self, scope, receive, send)

        self.asgi: App = asgi

    # --- for users -------------------------------------------------------------------------------------------------

    def ready(self) -> None:
        """Start-up is finished."""
        self.started = True

    def unready(self) -> None:
        """Get no more requests: before a shutdown, or while starting anew."""
        self.started = False

    @property
    def clients(self) -> int:
        """Streams of events that are open."""
        return sum(not stream.ended for stream in self._open())

    def close(self) -> None:
        """End the streams that are open; further ones can be opened."""
        for stream in self._open():
            stream.close()

    def report(self) -> dict[str, Any]:
        """The report, with all details."""
        return report_of(rows_of(self.feed.registry), self.critical, self.ready_grace, self.started)

    def is_ready(self) -> bool:
        """Whether this process should get requests."""
        return not self._why_not_ready()

    def around(self, app: App, path: str = "/health") -> App:
        """An ASGI application that answers `path` and what is below it by these pages, and all else by `app`.

        For frameworks that cannot mount another application, such as Django.

        Raises:
            ConfigurationError: `path` does not begin with a slash, or ends with one.
        """
        from resilience_core.health._asgi import beside

        return beside(self, app, path)

    def aiohttp_app(self) -> web.Application:
        """The pages as an application of aiohttp: `app.add_subapp("/health", health.aiohttp_app())`."""
        from resilience_core.health._aiohttp import application

        return application(self)

    # --- for the mounts --------------------------------------------------------------------------------------------

    def answer(self, asked: Asked) -> Answer:
        """What to answer. A stream in it must be closed in the end."""
        path = asked.path.rstrip("/") or "/"
        if path not in PAGES:
            return _json(404, {"error": "no such page", "pages": list(PAGES)})
        if asked.method not in ("GET", "HEAD"):
            return _json(405, {"error": "these pages can only be read"}, Allow="GET, HEAD")
        if path == "/live":
            return _json(200, {"status": "pass"}, HEALTH_JSON)
        shown = self._shows(asked)
        if path == "/ready":
            why_not = self._why_not_ready()
            status: dict[str, Any] = {"status": "fail" if why_not else "pass"}
            return _json(
                503 if why_not else 200, status | ({"notes": why_not} if shown and why_not else {}), HEALTH_JSON
            )
        if path == "/":
            report = self.report()
            code = 503 if report["status"] == "fail" else 200
            return _json(code, report if shown else {"status": report["status"]}, HEALTH_JSON)
        if not shown:
            return _json(403, {"error": "details are not shown to you"})
        return _json(200, self.state()) if path == "/state" else self._events(asked)

    def state(self) -> dict[str, Any]:
        """The snapshot of the feed, with at most 1,000 rows: the worst ones. `omitted` is how many are left out."""
        snapshot = self.feed.snapshot()
        rows = snapshot["policies"]
        if len(rows) > MOST_CHECKS:
            snapshot["policies"] = worst_first(rows)[:MOST_CHECKS]
        return snapshot | {"omitted": max(0, len(rows) - MOST_CHECKS)}

    def recent_state(self) -> dict[str, Any]:
        """The same for all streams together, which look at the policies once in `interval` and not for each of them.

        Where there are so many policies that a look takes long, it is taken less often: 5 % of the time at most.
        """
        now = monotonic()
        if self._seen is None or now >= self._seen[0]:
            state = self.state()
            self._seen = now + max(self.interval / 2, 20 * (monotonic() - now)), state
        return self._seen[1]

    def _why_not_ready(self) -> list[str]:
        notes = [] if self.started else ["start-up is not finished"]
        if self.critical:
            rows = rows_of(policy for policy in self.feed.registry if policy.name in self.critical)
            late = down_too_long(rows, self.critical, self.ready_grace)
            notes += [f"{name!r} is down for too long" for name in sorted(set(late))]
        return notes

    def _shows(self, asked: Asked) -> bool:
        if self._details == "local":
            return _is_local(asked)
        if callable(self._details):
            try:
                shown = self._details(asked.raw)
                refuse_unguarded(shown, self._details)  # a coroutine is true, whatever it would answer
                return bool(shown)
            except Exception as error:
                self._undecided(error)
                return False
        return bool(self._details)

    def _undecided(self, error: Exception) -> None:
        if not self._told:  # whoever asks must not be able to fill the log
            self._told = True
            text = "Whether to show details could not be decided: they are not shown; told once"
            say("resilience.health.details_failed", text, error=error)

    def _events(self, asked: Asked) -> Answer:
        headers = {"Content-Type": "text/event-stream; charset=utf-8", "X-Accel-Buffering": "no", **_SAFE}
        if asked.method == "HEAD":
            return Answer(200, headers)
        with self._lock:
            # Of those that nobody closes: whose loop is gone, and in the child of a fork those of the parent.
            self._streams = {stream for stream in self._streams if not stream.ended}
            if len(self._streams) >= self._most_clients:
                return _json(503, {"error": "too many clients"}, **{"Retry-After": "10"})
            stream = Stream(self, asked.headers.get("last-event-id", ""))
            self._streams.add(stream)
        return Answer(200, headers, stream=stream)

    def _open(self) -> list[Stream]:
        with self._lock:
            return list(self._streams)

    def leave(self, stream: Stream) -> None:
        """A stream has ended."""
        with self._lock:
            self._streams.discard(stream)


def _json(status: int, content: dict[str, Any], type_: str = "application/json", **headers: str) -> Answer:
    body = json.dumps(content, allow_nan=False).encode()
    return Answer(status, {"Content-Type": type_, **_SAFE, **headers}, body)


def _is_local(asked: Asked) -> bool:
    """Whether somebody on this machine asks, by a name that only this machine can have.

    The name matters because a web page from anywhere can let its own name point here (DNS rebinding), and the headers
    because everything that comes through a proxy on this machine comes from this machine.
    """
    if asked.client is None or any(header.startswith(_PROXIED) for header in asked.headers):
        return False
    host = asked.headers.get("host", "")
    name = host[1:].partition("]")[0] if host.startswith("[") else host.partition(":")[0]
    return _loopback(asked.client) and (name.lower() == "localhost" or _loopback(name))


def _loopback(address: str) -> bool:
    try:
        return ip_address(address).is_loopback
    except ValueError:
        return False

"""The health pages behind real servers: aiohttp, uvicorn, and Starlette in uvicorn."""

from __future__ import annotations

import asyncio
import http.client
import json
import socket
import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Any

import pytest
import trio
from aiohttp import web

from resilience_core import CircuitBreaker, ConfigurationError
from resilience_core.feed import Feed
from resilience_core.health import Health, _aiohttp, _asgi, _health
from resilience_core.health._health import PAGES, Asked
from resilience_core.health._stream import _lasting
from resilience_core.registry import Registry
from resilience_core.testing import VirtualClock, virtual_time
from tests.fleet.members import wait_until

uvicorn = pytest.importorskip("uvicorn")
applications = pytest.importorskip("starlette.applications")
routing = pytest.importorskip("starlette.routing")
HOST = "127.0.0.1"
PATIENCE = 40.0


class Site:
    """Health pages on a server of their own, a breaker that they show, and a client."""

    def __init__(self, **options: Any) -> None:
        self.registry = Registry()
        self.breaker = CircuitBreaker("graph", failure_threshold=1)
        self.registry.add(self.breaker)
        self.feed = Feed(registry=self.registry)
        self.health = Health(feed=self.feed, **options)
        self.port = 0
        self.prefix = ""

    def ask(self, path: str, method: str = "GET", **headers: str) -> tuple[int, dict[str, str], Any]:
        """Status, headers with small names, and what JSON there is."""
        connection = http.client.HTTPConnection(HOST, self.port, timeout=PATIENCE)
        try:
            connection.request(
                method, self.prefix + path, headers={each.replace("_", "-"): headers[each] for each in headers}
            )
            response = connection.getresponse()
            body = response.read()
            told = {name.lower(): value for name, value in response.getheaders()}
            return response.status, told, json.loads(body) if body else None
        finally:
            connection.close()

    @contextmanager
    def events(self, last: str | None = None) -> Generator[Events]:
        connection = http.client.HTTPConnection(HOST, self.port, timeout=PATIENCE)
        connection.request("GET", f"{self.prefix}/events", headers={} if last is None else {"Last-Event-ID": last})
        response = connection.getresponse()
        assert response.status == 200
        assert response.getheader("Content-Type") == "text/event-stream; charset=utf-8"
        try:
            yield Events(response)
        finally:
            response.close()
            connection.close()


class Events:
    """What comes over a stream of server-sent events."""

    def __init__(self, response: http.client.HTTPResponse) -> None:
        self.response = response

    def next(self) -> dict[str, str]:
        """The fields of the next block; a comment is the field without a name."""
        fields: dict[str, str] = {}
        while True:
            line = self.response.readline()
            if not line:
                return {"ended": "yes"}
            text = line.decode().rstrip("\n")
            if not text:
                return fields
            name, _, value = text.partition(": ")
            fields[name] = value

    def until(self, event: str) -> dict[str, Any]:
        """The next event of that sort, with its data read."""
        while True:
            fields = self.next()
            assert "ended" not in fields
            if fields.get("event") == event:
                return {"sse": fields.get("id"), **json.loads(fields["data"])}


@contextmanager
def in_thread(
    site: Site, serve: Callable[[socket.socket], tuple[Callable[[], None], Callable[[], None]]]
) -> Generator[Site]:
    """Run a server in a thread, on a socket that listens already."""
    listening = socket.create_server((HOST, 0))
    site.port = listening.getsockname()[1]
    run, stop = serve(listening)
    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield site
    finally:
        stop()
        thread.join(PATIENCE)
        listening.close()
        site.feed.stop()
        assert not thread.is_alive()


def uvicorn_serving(
    app: Any, **options: Any
) -> Callable[[socket.socket], tuple[Callable[[], None], Callable[[], None]]]:
    def serve(listening: socket.socket) -> tuple[Callable[[], None], Callable[[], None]]:
        config = uvicorn.Config(app, log_config=None, ws="none", timeout_graceful_shutdown=5, **options)
        server = uvicorn.Server(config)

        def stop() -> None:
            server.should_exit = True

        return lambda: server.run(sockets=[listening]), stop

    return serve


def aiohttp_serving(app: web.Application) -> Callable[[socket.socket], tuple[Callable[[], None], Callable[[], None]]]:
    def serve(listening: socket.socket) -> tuple[Callable[[], None], Callable[[], None]]:
        loop = asyncio.new_event_loop()
        runner = web.AppRunner(app, shutdown_timeout=5)

        async def start() -> None:
            await runner.setup()
            await web.SockSite(runner, listening).start()

        def run() -> None:
            asyncio.set_event_loop(loop)
            loop.run_until_complete(start())
            loop.run_forever()
            loop.run_until_complete(runner.cleanup())
            loop.close()

        return run, lambda: loop.call_soon_threadsafe(loop.stop)  # type: ignore[return-value]

    return serve


@contextmanager
def serving(server: str, **options: Any) -> Generator[Site]:
    site = Site(**options)
    if server == "uvicorn":
        serve = uvicorn_serving(site.health.asgi)
    elif server == "starlette":
        site.prefix = "/health"
        serve = uvicorn_serving(applications.Starlette(routes=[routing.Mount("/health", app=site.health.asgi)]))
    elif server == "around":
        site.prefix = "/deep/health"

        async def other(scope: Any, receive: Any, send: Any) -> None:
            if scope["type"] == "http":
                await send({"type": "http.response.start", "status": 299, "headers": []})
                await send({"type": "http.response.body", "body": b'"the other application"'})

        serve = uvicorn_serving(site.health.around(other, "/deep/health"), lifespan="off")
    elif server == "aiohttp":
        serve = aiohttp_serving(site.health.aiohttp_app())
    else:
        site.prefix = "/health"
        app = web.Application()
        app.add_subapp("/health", site.health.aiohttp_app())
        serve = aiohttp_serving(app)
    with in_thread(site, serve):
        yield site


@pytest.fixture(params=["starlette", "aiohttp"])
def server(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(params=["uvicorn", "starlette", "around", "aiohttp", "aiohttp below"])
def each_server(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def open_it(breaker: CircuitBreaker) -> None:
    def fail() -> None:
        raise ConnectionError("a secret")

    with pytest.raises(ConnectionError):
        breaker.call(fail)


def test_the_pages_and_their_status(each_server: str) -> None:
    with serving(each_server, details=True, critical=["graph"], ready_grace=3600, started=False) as site:
        assert site.ask("/live")[::2] == (200, {"status": "pass"})
        assert site.ask("/ready")[::2] == (503, {"status": "fail", "notes": ["start-up is not finished"]})
        assert site.ask("/")[0] == 503
        site.health.ready()
        assert site.ask("/ready")[::2] == (200, {"status": "pass"})
        open_it(site.breaker)
        status, headers, report = site.ask("/")
        assert (status, report["status"]) == (200, "warn"), "an open breaker is no reason to be taken out"
        assert report["checks"]["graph:circuit_breaker.state"][0]["observedValue"] == "open"
        assert headers["content-type"] == "application/health+json"
        assert site.ask("/ready/")[0] == 200
        status, headers, state = site.ask("/state")
        assert (status, headers["content-type"], state["omitted"]) == (200, "application/json", 0)
        assert state["policies"][0]["state"] == "open"
        site.health.unready()
        assert site.ask("/ready")[0] == 503
        if site.prefix:
            assert site.ask("")[0] == (307 if each_server == "starlette" else 503)  # it sends clients to the slash


def test_a_critical_breaker_that_is_down_for_too_long_takes_the_process_out(server: str) -> None:
    with serving(server, critical=["graph"], ready_grace=0.000001) as site:
        assert site.ask("/ready")[0] == 200
        open_it(site.breaker)
        wait_until(lambda: not site.health.is_ready())
        assert site.ask("/ready")[::2] == (503, {"status": "fail"})
        assert site.ask("/")[::2] == (503, {"status": "fail"})
        assert site.ask("/live")[0] == 200


def test_the_pages_can_only_be_read_and_are_not_kept(each_server: str) -> None:
    with serving(each_server, details=True) as site:
        for path in PAGES:
            for method in ("POST", "DELETE", "OPTIONS"):
                status, headers, _ = site.ask(path, method)
                assert (status, headers["allow"]) == (405, "GET, HEAD")
            status, headers, body = site.ask(path, "HEAD")
            assert (status, body) == (200, None)
            assert headers["cache-control"] == "no-store"
            assert headers["x-content-type-options"] == "nosniff"
        assert site.ask("/other")[0] == 404
        assert site.health.clients == 0
        if each_server == "around":
            site.prefix = ""
            assert site.ask("/elsewhere")[0] == site.ask("/deep/healthy")[0] == 299


def test_details_are_hidden_if_nothing_else_is_said(server: str) -> None:
    with serving(server) as site:
        assert site.ask("/")[2] == {"status": "pass"}
        assert site.ask("/state")[0] == site.ask("/events")[0] == 403


def test_local_clients_see_details_unless_they_come_through_a_proxy_or_by_another_name(server: str) -> None:
    with serving(server, details="local") as site:
        assert "checks" in site.ask("/")[2]
        assert "checks" in site.ask("/", host="localhost:1")[2]
        assert "checks" in site.ask("/", host="[::1]:80")[2]
        for headers in (
            {"host": "evil.example"},
            {"host": ""},
            {"x_forwarded_for": HOST},
            {"forwarded": "for=1.2.3.4"},
            {"x_forwarded_proto": "https"},
        ):
            assert site.ask("/", **headers)[2] == {"status": "pass"}


def test_a_function_decides_who_sees_details_and_its_failure_hides_them(
    server: str, caplog: pytest.LogCaptureFixture
) -> None:
    def allowed(request: Any) -> bool:
        headers = request.headers if isinstance(request, web.Request) else dict(request["headers"])
        if "x-none" in headers or b"x-none" in headers:
            raise ValueError("+33612345678")
        return "x-key" in headers or b"x-key" in headers

    with serving(server, details=allowed) as site:
        assert "checks" in site.ask("/", x_key="yes")[2]
        assert site.ask("/")[2] == {"status": "pass"}
        for _ in range(3):
            assert site.ask("/", x_none="yes", x_key="yes")[2] == {"status": "pass"}
    (record,) = [each for each in caplog.records if each.name.startswith("resilience_core")]
    assert vars(record)["event.name"] == "resilience.health.details_failed"
    assert "33612345678" not in str(vars(record)), "an error may quote what it was given"


def test_an_async_function_never_shows_details_whatever_it_would_answer() -> None:
    async def allowed(request: Any) -> bool:
        raise AssertionError("nobody awaits it")

    class Allowed:
        async def __call__(self, request: Any) -> bool:
            raise AssertionError("nobody awaits it")

    for function in (allowed, Allowed()):
        with pytest.raises(ConfigurationError, match="not an async one"):
            Health(details=function)  # type: ignore[arg-type]

    def hidden(request: Any) -> Any:
        return allowed(request)

    health = Health(details=hidden)
    assert health.answer(Asked("GET", "/state", {}, None, None)).status == 403


def test_the_stream_begins_with_a_snapshot_goes_on_with_events_and_tells_what_has_changed(each_server: str) -> None:
    with serving(each_server, details=True, interval=0.05) as site:
        with site.events() as events:
            assert events.next() == {"retry": "2000"}
            first = events.until("snapshot")
            assert first["sse"] == f"{site.feed.boot}-0"
            assert first["policies"][0]["state"] == "closed"
            open_it(site.breaker)
            event = events.until("event")
            assert event["sse"] == f"{site.feed.boot}-1"
            assert event["resilience.circuit_breaker.state"] == "open"
            assert "secret" not in json.dumps(event)
            again = events.until("snapshot")
            assert (again["sse"], again["policies"][0]["state"]) == (None, "open")
            assert site.health.clients == site.feed.clients == 1
        wait_until(lambda: not site.health.clients)
        assert site.feed.clients == 0


def test_a_client_that_comes_back_goes_on_where_it_was_and_one_of_another_process_starts_afresh(server: str) -> None:
    with serving(server, details=True) as site:
        site.feed.start()
        open_it(site.breaker)
        site.breaker.reset()
        with site.events(last=f"{site.feed.boot}-1") as events:
            assert events.until("snapshot")["sse"] == f"{site.feed.boot}-1"
            assert events.until("event")["id"] == 2
        for other in ("", "nonsense", "1", "0123456789ab-1", f"{site.feed.boot}-x", f"{site.feed.boot}-²"):
            with site.events(last=other) as events:
                assert events.until("snapshot")["sse"] == f"{site.feed.boot}-2"


def test_an_idle_stream_is_kept_open_by_comments(server: str) -> None:
    with serving(server, details=True, heartbeat=0.02, interval=10) as site, site.events() as events:
        events.until("snapshot")
        assert [events.next() for _ in range(3)] == [{"": "heartbeat"}] * 3


def test_a_stream_in_which_nothing_changes_is_silent(server: str) -> None:
    with serving(server, details=True, heartbeat=0.4, interval=0.01) as site, site.events() as events:
        events.until("snapshot")
        with site.events() as others:
            others.until("snapshot")
            assert events.next() == {"": "heartbeat"}
            assert others.next() == {"": "heartbeat"}


def test_the_streams_look_at_the_policies_together() -> None:
    site = Site(interval=3600)
    assert site.health.recent_state() is site.health.recent_state()
    site.feed.stop()


def test_where_a_look_at_the_policies_takes_long_the_streams_look_less_often(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = VirtualClock()

    class Slow:
        kind = name = "slow"

        def snapshot(self) -> dict[str, Any]:
            clock.advance(0.2)
            return {}

    monkeypatch.setattr(_health, "monotonic", clock.now)
    site, slow = Site(interval=0.000001), Slow()
    site.registry.add(slow)
    seen = site.health.recent_state()
    clock.advance(3.5)  # after 0.2 s of work that is nearly 5 %
    assert site.health.recent_state() is seen
    clock.advance(0.6)
    assert site.health.recent_state() is not seen
    site.feed.stop()


def test_a_client_of_aiohttp_that_goes_while_something_is_written_ends_its_stream(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with serving("aiohttp", details=True) as site:
        written = threading.Event()

        async def write(response: web.StreamResponse, frame: bytes) -> None:
            written.set()
            raise ConnectionResetError("Cannot write to closing transport")

        monkeypatch.setattr(web.StreamResponse, "write", write)
        with site.events():
            assert written.wait(PATIENCE)
            wait_until(lambda: not site.health.clients)
    assert not caplog.records


def test_there_is_a_limit_of_streams(server: str) -> None:
    with serving(server, details=True, clients=1) as site:
        with site.events() as events:
            events.until("snapshot")
            status, headers, _ = site.ask("/events")
            assert (status, headers["retry-after"]) == (503, "10")
        wait_until(lambda: not site.health.clients)
        with site.events() as events:
            events.until("snapshot")


def test_streams_can_be_ended_from_here(server: str) -> None:
    with serving(server, details=True) as site, site.events() as events:
        events.until("snapshot")
        site.health.close()
        assert events.next() == {"ended": "yes"}
        wait_until(lambda: not site.health.clients)


def test_a_server_of_aiohttp_that_shuts_down_ends_its_streams() -> None:
    ended: list[Any] = []

    def read(events: Events) -> None:
        while not ended:
            fields = events.next()
            if "ended" in fields:
                ended.append(fields)

    with serving("aiohttp below", details=True) as site:
        context = site.events()
        events = context.__enter__()
        events.until("snapshot")
        reader = threading.Thread(target=read, args=[events])
        reader.start()
    reader.join(PATIENCE)
    context.__exit__(None, None, None)
    assert (ended, site.health.clients) == ([{"ended": "yes"}], 0)


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"critical": "graph"}, "critical must be several names"),
        ({"details": "remote"}, "details must be"),
        ({"clients": -1}, "clients must be"),
        ({"clients": True}, "clients must be"),
        ({"heartbeat": 0}, "heartbeat"),
        ({"interval": -1}, "interval"),
        ({"ready_grace": "soon"}, "ready_grace"),
    ],
)
def test_bad_options_are_refused_by_name(options: dict[str, Any], problem: str) -> None:
    with pytest.raises(ConfigurationError, match=problem):
        Health(**options)


@pytest.mark.parametrize("path", ["health", "/health/", ""])
def test_a_path_begins_with_a_slash(path: str) -> None:
    with pytest.raises(ConfigurationError, match="path must begin with a slash"):
        Health().around(Health().asgi, path)


# --- as a server of ASGI calls it -------------------------------------------------------------------------------------


def scope(path: str, **more: Any) -> dict[str, Any]:
    return {"type": "http", "method": "GET", "path": path, "headers": [], **more}


class Wire:
    """What an ASGI server gives an application: messages to receive, and a place to send to."""

    def __init__(self, *messages: str) -> None:
        self.messages = [{"type": message} for message in messages]
        self.sent: list[Any] = []

    async def receive(self) -> Any:
        if not self.messages:
            await trio.sleep_forever()
        return self.messages.pop(0)

    async def send(self, message: Any) -> None:
        self.sent.append(message)


def test_what_is_not_for_the_pages_goes_to_the_application_beside_them() -> None:
    seen: list[str] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        seen.append(scope["type"])

    both = Health().around(app)
    wire = Wire()
    for other in ({"type": "lifespan"}, {"type": "websocket", "path": "/health"}, scope("/"), scope("/healthy")):
        trio.run(both, other, wire.receive, wire.send)
    assert seen == ["lifespan", "websocket", "http", "http"]
    trio.run(both, scope("/api/health/live", root_path="/api"), wire.receive, wire.send)
    assert wire.sent[0]["status"] == 200


def test_a_snapshot_is_sent_again_for_what_somebody_has_done_but_not_because_time_passes() -> None:
    with virtual_time() as clock:
        site = Site()
        open_it(site.breaker)

        def lasting() -> Any:
            return _lasting(site.health.state()["policies"])

        before = lasting()
        clock.advance(5)
        assert lasting() == before
        site.breaker.force_open(actor="ann", for_=60)
        by_ann = lasting()
        site.breaker.force_open(actor="ann", for_=90)
        longer = lasting()
        site.breaker.force_open(actor="bob", for_=90)
        assert before != by_ann != longer != lasting()
    site.feed.stop()


@pytest.mark.parametrize("root", ["", "/", "/health", "/health/"])
@pytest.mark.parametrize("whole", [True, False])
def test_the_path_may_come_with_what_it_is_mounted_below_or_without(root: str, whole: bool) -> None:
    wire = Wire()
    path = (root.rstrip("/") if whole else "") + "/live"
    trio.run(Health().asgi, scope(path, root_path=root), wire.receive, wire.send)
    assert wire.sent[0]["status"] == 200


def test_on_trio_a_stream_ends_with_its_client() -> None:
    site = Site(details=True)

    async def story() -> None:
        wire = Wire("http.request", "http.disconnect")
        await site.health.asgi(scope("/events"), wire.receive, wire.send)
        assert site.health.clients == site.feed.clients == 0
        wire = Wire("http.request")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(site.health.asgi, scope("/events"), wire.receive, wire.send)
            while len(wire.sent) < 2:
                await trio.sleep(0)
            site.breaker.force_open()
            while len(wire.sent) < 3:
                await trio.sleep(0)
            assert b"event: event" in wire.sent[2]["body"]
            site.health.close()
        assert wire.sent[-1] == {"type": "http.response.body", "body": b""}

    trio.run(story)
    site.feed.stop()


def test_a_client_that_does_not_read_delays_nobody_and_learns_what_it_has_missed() -> None:
    site = Site(details=True)

    async def story() -> None:
        stalled, reads, wire = trio.Event(), trio.Event(), Wire("http.request")

        async def send(message: Any) -> None:
            if wire.sent and not reads.is_set():
                stalled.set()
                await reads.wait()
            wire.sent.append(message)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(site.health.asgi, scope("/events"), wire.receive, send)
            await stalled.wait()
            for _ in range(200):
                site.breaker.force_open()
                site.breaker.reset()
            reads.set()
            while len(wire.sent) < 2 + 1 + 256:
                await trio.sleep(0)
            site.health.close()
        assert b'"resilience.feed.dropped"' in wire.sent[2]["body"]
        assert b'"count": 144' in wire.sent[2]["body"]

    trio.run(story)
    site.feed.stop()


def test_a_client_that_is_gone_when_something_is_sent_is_no_error() -> None:
    site = Site(details=True)

    async def story(most: int) -> None:
        wire = Wire("http.request")

        async def send(message: Any) -> None:
            if len(wire.sent) == most:
                raise BrokenPipeError
            wire.sent.append(message)

        await site.health.asgi(scope("/events"), wire.receive, send)
        assert (len(wire.sent), site.health.clients) == (most, 0)

    for most in (0, 1):
        trio.run(story, most)
    site.feed.stop()


def test_a_client_that_takes_nothing_gives_its_place_to_another_one(
    server: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    module = _asgi if server != "aiohttp" else _aiohttp
    monkeypatch.setattr(module, "PATIENCE", 0.1)
    with serving(server, details=True, interval=0.001, clients=1) as site:
        many = [CircuitBreaker(f"{number}" + "x" * 10_000) for number in range(100)]
        for breaker in many:
            site.registry.add(breaker)
        with socket.socket() as client:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            client.connect((HOST, site.port))
            client.sendall(f"GET {site.prefix}/events HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
            wait_until(lambda: site.health.clients == 1)

            def given_up() -> bool:
                site.breaker.force_open()
                site.breaker.reset()
                return not site.health.clients

            wait_until(given_up)
            monkeypatch.setattr(module, "PATIENCE", PATIENCE)  # for who reads, on a slow machine
            with site.events() as events:
                events.until("snapshot")


def test_streams_whose_reader_is_gone_for_good_do_not_count() -> None:
    site = Site(details=True, clients=1)
    asked = Asked("GET", "/events", {}, None, None)
    assert site.health.answer(asked).status == 200
    assert (site.health.clients, site.health.answer(asked).status) == (1, 503)
    site.feed._after_fork()  # what the child of a fork does
    assert (site.health.clients, site.health.answer(asked).status) == (0, 200)
    site.feed.stop()


def test_sockets_of_the_web_are_refused_and_what_nobody_knows_is_ignored() -> None:
    wire = Wire("websocket.connect")
    trio.run(Health().asgi, {"type": "websocket"}, wire.receive, wire.send)
    assert wire.sent == [{"type": "websocket.close"}]
    trio.run(Health().asgi, {"type": "other"}, wire.receive, wire.send)
    assert len(wire.sent) == 1


def test_very_many_policies_are_shown_up_to_a_limit_the_worst_first() -> None:
    site = Site()
    more = [CircuitBreaker(f"b{number}", failure_threshold=1) for number in range(1002)]
    for breaker in more:
        site.registry.add(breaker)
    open_it(more[-1])
    state = site.health.state()
    assert (len(state["policies"]), state["omitted"], state["policies"][0]["state"]) == (1000, 3, "open")
    site.feed.stop()

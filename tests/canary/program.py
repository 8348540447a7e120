"""Drives all policies, the HTTP adapter and the WhatsApp service with planted secrets, and keeps what is to be seen.

A process of its own, because OpenTelemetry's providers are set once per process. Run by `test_canary.py`.
"""

from __future__ import annotations

import asyncio
import faulthandler
import json
import logging
import os
import pickle
import socket
import sys
import tempfile
import threading
import traceback
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import aiohttp
from aiohttp import web
from opentelemetry import metrics, trace
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from resilience_core import (
    AdaptiveConcurrency,
    AdaptiveRetry,
    AdaptiveThrottle,
    Bulkhead,
    Chaos,
    CircuitBreaker,
    Coalesce,
    ConfigurationError,
    Deadline,
    Event,
    Fallback,
    Hedge,
    Keyed,
    Pipeline,
    Policy,
    RateLimiter,
    Retry,
    RetryBudget,
    StaleCache,
    Timeout,
    Verdict,
    config,
    deadline,
    explain,
    lint,
    registry,
    subscribe,
)
from resilience_core.redis import RedisFleet
from resilience_core.testing import run_virtual, virtual_time
from resilience_http import ResilientSession, classify_exception
from resilience_whatsapp import (
    DEVELOPMENT,
    ErrorClass,
    GraphClient,
    ResilientWhatsAppClient,
    WhatsAppService,
)
from resilience_whatsapp.alarms import Alarms, Condition
from resilience_whatsapp.history import History
from resilience_whatsapp.messages import (
    Image,
    MessageRequest,
    Reply,
    ReplyButtons,
    TemplateBody,
    TemplateMessage,
    Text,
    UserId,
)
from resilience_whatsapp.simulator import Fault, Simulator
from resilience_whatsapp.webhooks import (
    SIGNATURE_HEADER,
    AsideUpdate,
    MemoryInbox,
    StatusUpdate,
    WebhookReceiver,
    read_webhook,
    sign,
)
from tests.canary.secrets import APP_SECRET, PHONE, SENTENCE, TEXT, TOKEN

EVIDENCE: list[tuple[str, str]] = []
OURS = ("resilience_core", "resilience_http", "resilience_whatsapp")
PARTS_OF_RECORDS = {"args", "msg", "exc_info", "created", "msecs", "relativeCreated", "thread", "process", "lineno"}
CREDENTIALS = {"token", "headers"}
"""Names of locals in our frames that hold what we made of a client's settings, as plain values."""


def keep(where: str, text: object) -> None:
    EVIDENCE.append((where, str(text)))


class TheirError(Exception):
    """The user's error, with everything in it."""

    def __init__(self) -> None:
        super().__init__(SENTENCE, {"token": TOKEN, "to": PHONE})


def safe_repr(value: Any) -> str:
    """As error collectors do it: what is not made to its end may not be able to show itself."""
    try:
        return repr(value)
    except AttributeError:
        return "?"


# --- the channels ------------------------------------------------------------------------------------------------


class Keeper(logging.Handler):
    """Every line: formatted with its traceback, and all that stands on the record."""

    def emit(self, record: logging.LogRecord) -> None:
        keep(f"log {record.name}", self.format(record))
        facts = {name: value for name, value in vars(record).items() if name not in PARTS_OF_RECORDS}
        keep(f"log {record.name} extra", facts)


def hear(event: Event) -> None:
    keep("event repr", repr(event))
    keep("event str", str(event))
    if getattr(event, "error", None) is None:
        keep_pickle(event)


def keep_pickle(value: Any) -> None:
    try:
        keep("pickle " + type(value).__name__, pickle.dumps(value, 0).decode("latin-1"))
    except (TypeError, AttributeError, pickle.PicklingError):
        return  # it does not leave the process


def ours(value: Any) -> bool:
    return type(value).__module__.partition(".")[0] in OURS


def keep_error(error: BaseException, *, frames: bool = True) -> None:
    """All that can be seen of an error that a caller got."""
    keep("explain error", explain(error))
    keep("explain error as_dict", explain(error).as_dict())
    for known in (error, error.__cause__, error.__context__):
        if known is not None and ours(known):
            keep("str " + type(known).__name__, known)
            keep("repr " + type(known).__name__, repr(known))
            keep("repr notes", getattr(known, "__notes__", ""))
            record = vars(known).pop("record", None)
            keep_pickle(known)
            keep("repr record", repr(record))
            known.__cause__, known.__suppress_context__, cause = None, True, known.__cause__
            keep("traceback", "".join(traceback.format_exception(known)))
            known.__cause__ = cause
    if frames:
        keep_frames(error)


def keep_frames(error: BaseException) -> None:
    """The locals of our frames as error collectors show them, but for what the caller gave and gets."""
    for frame, _ in traceback.walk_tb(error.__traceback__):
        module = frame.f_globals["__name__"]
        if module.partition(".")[0] not in OURS or ".simulator" in module:
            continue
        for name, value in frame.f_locals.items():
            if ours(value) or name in CREDENTIALS:
                keep(f"frame {module}.{frame.f_code.co_name} {name}", safe_repr(value))


def keep_policy(policy: Policy) -> None:
    """All that a policy tells of itself."""
    for part in policy.parts():
        keep("repr " + type(part).__name__, repr(part))
        keep("str " + type(part).__name__, part)
        keep("describe " + part.kind, part.describe())
        keep("snapshot " + part.kind, part.snapshot())
        for name in dir(part):
            value = getattr(part, name, None) if not name.startswith("__") else None
            if ours(value):
                keep(f"repr {type(part).__name__}.{name}", repr(value))
    if isinstance(policy, Pipeline):
        keep("explain pipeline", [str(each) for each in policy.explain()])
        keep("explain lint", [str(each) for each in lint(policy)])


class Monitor:
    """What Redis is told, by MONITOR."""

    def __init__(self, url: str) -> None:
        host, port = url.split("//")[1].split("/")[0].rsplit(":", 1)
        self._socket = socket.create_connection((host.rpartition("@")[2], int(port)))
        self._socket.sendall(b"MONITOR\r\n")
        self._stream = self._socket.makefile("rb")
        assert self._stream.readline() == b"+OK\r\n"
        self._lines: list[str] = []
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self) -> None:
        for line in self._stream:
            told = line.decode("latin-1").split(" ", 1)[1]  # without the time
            self._lines.append(told)
            if "the end of the canary" in told:
                return

    def close(self) -> None:
        with socket.create_connection(self._socket.getpeername()) as last:
            last.sendall(b'ECHO "the end of the canary"\r\n')
            self._thread.join(20)
        self._socket.close()
        assert any("rc:" in line for line in self._lines), "the fleet has told Redis nothing"
        for line in self._lines:
            keep("monitor", line)


# --- the policies ------------------------------------------------------------------------------------------------


class Store:
    """A cache's store that tells what it was asked for when it fails."""

    def get(self, key: str) -> Any:
        raise KeyError(key, SENTENCE)

    def set(self, key: str, value: Any, stored_at: float) -> None:
        raise KeyError(key, value)

    def delete(self, key: str) -> None:
        raise KeyError(key)

    def clear(self) -> None:
        raise KeyError(SENTENCE)


def failing_classifier(error: Exception) -> Verdict:
    raise LookupError(f"no verdict for {error}")


def failing_listener(event: Event) -> None:
    raise KeyError(SENTENCE, event)


def key_of(recipient: str, **_: Any) -> str:
    return recipient


def policies(fleet: RedisFleet | None = None) -> Iterator[Policy]:
    yield Retry("retry", max_attempts=2, base_delay=1, on=TheirError)
    yield AdaptiveRetry("adaptive_retry_p", on=TheirError)
    yield CircuitBreaker("breaker", failure_threshold=2)
    yield CircuitBreaker("wrong judge", failure_threshold=2, classify=failing_classifier)
    yield CircuitBreaker("wrong results", classify_result=lambda result: 1 / 0)  # type: ignore[arg-type, return-value]
    yield Fallback("fallback_p", value=SENTENCE)
    yield Fallback("fallback_call", call=lambda *args, **named: SENTENCE)
    yield StaleCache("cache", fresh_for=1, stale_for=100, key=key_of)
    yield StaleCache("stored", fresh_for=1, stale_for=100, key=key_of, store=Store())
    yield Coalesce("coalesce_p", key=key_of)
    yield Keyed(lambda key: CircuitBreaker("one per key", failure_threshold=1), key=key_of, name="keyed_p")
    yield RateLimiter("limiter", rate=0.01, burst=2, max_wait=0)
    yield Bulkhead("bulkhead_p", max_concurrent=1, max_queue=0)
    yield AdaptiveConcurrency("concurrency")
    yield AdaptiveThrottle("throttle")
    yield Chaos("chaos_p", error=TheirError, error_rate=1.0, enabled=True)
    yield Chaos("chaos_result", result=SENTENCE, result_rate=1.0, enabled=True)
    yield Deadline(5, name="deadline_p")
    yield Pipeline(
        Fallback("last resort", value=SENTENCE),
        Retry("inner", max_attempts=3, base_delay=1, on=TheirError, budget=RetryBudget("budget_p")),
        CircuitBreaker("inner breaker", failure_threshold=2),
        name="pipeline_p",
        idempotent=True,
    )
    yield Pipeline(
        Retry("bare", max_attempts=2, base_delay=1, on=TheirError),
        CircuitBreaker("bare breaker", failure_threshold=2),
        name="bare_p",
        idempotent=True,
        allow={},
    )


def attempt(call: Callable[[], Any]) -> None:
    try:
        keep("repr outcome", type(call()).__name__)
    except BaseException as error:
        keep_error(error)


def drive_blocking(policy: Policy, clock: Any) -> None:
    policy.subscribe(failing_listener)
    fails = [False]

    def plain(recipient: str, *, token: str, body: str) -> str:
        if fails[0]:
            raise TheirError
        return f"{recipient} {token} {body}"

    send = policy(plain)
    for failing in (False, True, True, True, True, False):
        fails[0] = failing
        attempt(lambda: send(PHONE, token=TOKEN, body=TEXT))
        attempt(lambda: policy.call(plain, PHONE, token=TOKEN, body=TEXT))
        clock.advance(3)
    if isinstance(policy, CircuitBreaker):
        policy.force_open(actor="ann", reason="migration", for_=60)
        attempt(lambda: send(PHONE, token=TOKEN, body=TEXT))
        keep("snapshot exported", policy.export_state())
    with deadline(0.001):
        clock.advance(1)
        attempt(lambda: send(PHONE, token=TOKEN, body=TEXT))
    keep_policy(policy)
    keep("repr function", repr(send))
    keep("repr guarded", repr(getattr(send, "__resilience__", None)))


async def drive_async(policy: Policy) -> None:
    @policy
    async def send(recipient: str, *, token: str, body: str) -> str:
        await asyncio.sleep(body.count("o"))
        if slow[0] == "fails":
            raise TheirError
        await asyncio.sleep(60 if slow[0] == "slow" else 0)
        return f"{recipient} {token} {body}"

    slow = ["good"]
    for what in ("good", "fails", "fails", "slow"):
        slow[0] = what
        for outcome in await asyncio.gather(
            *(send(PHONE, token=TOKEN, body=TEXT) for _ in range(3)), return_exceptions=True
        ):
            if isinstance(outcome, BaseException):
                keep_error(outcome)
        keep_policy(policy)
    task = asyncio.create_task(send(PHONE, token=TOKEN, body=TEXT))
    await asyncio.sleep(0.5)
    task.cancel()
    (outcome,) = await asyncio.gather(task, return_exceptions=True)
    if isinstance(outcome, BaseException):
        keep_error(outcome)
    keep_policy(policy)


async def all_async() -> None:
    for policy in (
        Timeout(5, name="async timeout"),
        Hedge(delay=1, name="async hedge", idempotent=True),
        Bulkhead("async bulkhead", max_concurrent=1, max_queue=1, max_wait=1),
        Coalesce("async coalesce", key=key_of),
        StaleCache("async cache", fresh_for=0, stale_for=1000, key=key_of),
        RateLimiter("async limiter", rate=1, burst=1, max_wait=1),
        CircuitBreaker("async breaker", failure_threshold=2),
    ):
        await drive_async(policy)


def drive_configuration(directory: Path) -> None:
    path = directory / "resilience.toml"
    watcher = config.Watcher(path)
    for content in (
        f'[policies.a.retry]\nmax_attempts = "{TOKEN}"\n',
        f'[policies.a.retry]\nbase_delay = "{PHONE}"\njitter = "{APP_SECRET}"\n',
        f'[policies.a.circuit_breaker]\ntrip = "{TOKEN}"\nramp = ["{TEXT}"]\n',
        f'[policies.a.fallback]\nvalue = "{TEXT}"\nkind = ["{PHONE}"]\n',
        f'[budgets.b]\nlaw = "{TOKEN}"\n[policies.a.retry]\nbudget = ["{PHONE}", "{TOKEN}"]\n',
        f'policies = "{TOKEN}"\nbudgets = "{PHONE}"\n',
        f'[policies.a]\nretry = "{TEXT} {TOKEN}"\ntimeout = ["{PHONE}"]\n',
        f'[policies.a.retry]\nmax_attempts = 3 "{TOKEN}"\n',
        "[policies.breaker.circuit_breaker]\nfailure_threshold = 7\n",
    ):
        path.write_text(content)
        watcher.poll()
        if watcher.error is not None:
            keep("str configuration", watcher.error)
            keep("repr configuration", repr(watcher.error))
            keep_error(watcher.error, frames=False)
    for wrong in (
        lambda: Retry(max_attempts=TOKEN),  # type: ignore[arg-type]
        lambda: Timeout(PHONE),  # type: ignore[arg-type]
        lambda: CircuitBreaker("b", trip=TOKEN),  # type: ignore[arg-type]
        lambda: GraphClient(token=f"{TOKEN}\n", phone_number_id="1"),
        lambda: GraphClient(token=TOKEN, phone_number_id=PHONE),
        lambda: GraphClient(token=TOKEN, phone_number_id="1", base_url=f"https://x/?access_token={TOKEN}"),
        lambda: RedisFleet(f"redis://:{TOKEN}@127.0.0.1:1/x?{APP_SECRET}"),
        lambda: RedisFleet("redis://127.0.0.1:1", secret=TOKEN[:3]),
        lambda: CircuitBreaker("b").import_state({"version": TOKEN}),
    ):
        try:
            wrong()
        except ConfigurationError as error:
            keep_error(error, frames=False)  # what was refused shows what it was given


# --- the adapters, and a fleet -------------------------------------------------------------------------------------


async def drive_http() -> None:
    async def handle(request: web.Request) -> web.Response:
        status = int(request.query["status"])
        return web.Response(status=status, text=SENTENCE, headers={"X-Token": TOKEN, "Retry-After": "0"})

    app = web.Application()
    app.router.add_route("*", "/{number}", handle)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    host, port = runner.addresses[0][:2]

    def guard(*, idempotent: bool) -> Pipeline:
        retry = Retry("http", base_delay=0, max_delay=0)
        return Pipeline(retry, CircuitBreaker("api"), classify=classify_exception, idempotent=idempotent, name="api_p")

    async with aiohttp.ClientSession() as session:
        repeatable, once = guard(idempotent=True), guard(idempotent=False)
        client = ResilientSession(session, repeatable, once)
        for method in ("GET", "POST"):
            for status in (200, 500, 429, 404, 500, 500):
                url = f"http://{host}:{port}/{PHONE}?status={status}&access_token={TOKEN}&to={PHONE}"
                try:
                    async with await client.request(
                        method, url, data=SENTENCE, headers={"Authorization": f"Bearer {TOKEN}", "X-To": PHONE}
                    ) as response:
                        await response.read()
                except Exception as error:
                    keep_error(error)
        for dead in (f"http://{host}:1/{PHONE}?access_token={TOKEN}",):
            try:
                await client.request("GET", dead)
            except Exception as error:
                keep_error(error)
        keep_policy(repeatable)
        keep_policy(once)
        keep("repr session", repr(client))
    await runner.cleanup()


async def drive_messages(service: WhatsAppService) -> None:
    """What messages, requests and webhooks tell of themselves, right ones and wrong ones."""
    said = [Text(TEXT), Image(link=f"https://example.org/{TOKEN}", caption=TEXT), ReplyButtons(TEXT, [Reply("1", "a")])]
    for message in (*said, TemplateMessage("welcome", "fr", [TemplateBody([TEXT])])):
        request = MessageRequest(PHONE, message, reply_to="wamid.1", opaque_data=TEXT)
        keep("repr message", (repr(message), str(message), repr(request), repr(request.recipient)))
        try:
            keep("repr record", repr(await service.send("user", PHONE, message, opaque_data=TEXT)))
        except Exception as error:
            keep_error(error)
    wrong: list[Callable[[], Any]] = [
        lambda: MessageRequest(PHONE[1:], Text(TEXT)),
        lambda: Image(link=SENTENCE),
        lambda: Text(SENTENCE * 100),
        lambda: UserId(SENTENCE),
        lambda: MessageRequest.from_payload({"messaging_product": "whatsapp", "to": PHONE, SENTENCE: TEXT, "text": {}}),
        lambda: MessageRequest.from_payload({"messaging_product": TOKEN, "to": PHONE, "text": {"body": TEXT}}),
        lambda: read_webhook(SENTENCE.encode()),
    ]
    for make in wrong:
        try:
            make()
        except Exception as error:
            keep_error(error)
    status = {"id": "wamid.1", "status": "failed", "recipient_id": PHONE, "biz_opaque_callback_data": TEXT}
    failed = {**status, "errors": [{"code": 131026, "title": SENTENCE, "error_data": {"details": SENTENCE}}]}
    change = {"field": "messages", "value": {"statuses": [failed]}}
    inbound = {"id": "m", "from": PHONE, "type": "text", "text": {"body": TEXT}, "timestamp": "1700000000"}
    value = {"statuses": [failed], "messages": [inbound], "contacts": [{"wa_id": PHONE, "profile": {"name": TEXT}}]}
    changes = [change, {"field": "messages", "value": value}, {"field": "x", "value": {"text": TEXT}}]
    body = json.dumps({"entry": [{"id": "1", "changes": changes}]}).encode()
    update = read_webhook(body)[0]
    assert isinstance(update, StatusUpdate)
    keep("repr webhook", (repr(read_webhook(body)), str(update.errors[0]), repr(update.errors[0])))
    await drive_webhooks(body)


async def drive_webhooks(body: bytes) -> None:
    """A receiver, a history and a pager whose listeners, disks and callbacks fail."""
    history, aside = History(), asyncio.Event()

    async def listener(_: Any) -> None:
        raise TheirError

    def told(update: AsideUpdate) -> None:
        keep("repr set aside", repr(update))
        aside.set()
        raise TheirError

    def pager(condition: Condition) -> None:
        keep("repr condition", repr(condition))
        raise TheirError

    alarms = Alarms(pager, classes=list(ErrorClass))
    listeners: dict[str, Any] = {"history": history.on_update, "alarms": alarms.on_update, "listener": listener}
    options: dict[str, Any] = {"app_secrets": APP_SECRET, "verify_token": TOKEN, "max_tries": 1}
    receiver = WebhookReceiver(MemoryInbox(), listeners, on_set_aside=told, **options)
    async with receiver:
        for signature in (sign(body, APP_SECRET), APP_SECRET):
            keep("repr answer", repr(await receiver.answer("POST", {}, {SIGNATURE_HEADER: signature}, body)))
        await aside.wait()
        keep("repr receiver", (repr(receiver), repr(await receiver.status()), repr(await receiver.set_aside())))
    keep("repr history", (repr(await history.find()), repr(await history.get_by_wamid("wamid.1"))))
    try:
        WebhookReceiver(MemoryInbox(), {}, app_secrets=[APP_SECRET, ""], verify_token=TOKEN)
    except ConfigurationError as error:
        keep_error(error, frames=False)


async def drive_whatsapp(fleet: RedisFleet, directory: Path) -> None:
    async with Simulator(token=TOKEN) as simulator:
        http_client = GraphClient(
            token=TOKEN,
            phone_number_id=simulator.phone_number_id,
            waba_id=simulator.waba_id,
            base_url=simulator.base_url,
            read_timeout=1.0,  # which an answer may take on a slow machine; each hanging one costs as much
        )
        client = ResilientWhatsAppClient(
            http_client,
            DEVELOPMENT.circuit_breaker("shared api", fleet=fleet),
            Retry("whatsapp", max_attempts=2, base_delay=0.01),
        )
        service = WhatsAppService(client, template_file=directory / "templates.json")

        async def send() -> None:
            try:
                keep("repr record", repr(await service.send_text(PHONE[-2:], PHONE, TEXT)))
            except Exception as error:
                keep_error(error)
            try:
                await service.send_template_message("user", PHONE, "welcome", "fr", opaque_data=TEXT)
            except Exception as error:
                keep_error(error)
            templates = await service.get_approved_templates()
            keep("repr templates", (templates.source, templates.age))

        async with http_client:
            await send()
            await drive_messages(service)
            simulator.script(
                Fault("error", code=131026, times=1, details=SENTENCE),
                Fault("error", status=400, code=190, times=1, details=SENTENCE),
                Fault("hang_after_accept", times=1, seconds=30),
                Fault("error", status=503, code=131016, times=8, details=SENTENCE),
            )
            for _ in range(6):
                await send()
            for value in (http_client, client, service, DEVELOPMENT, service._templates, simulator.book.requests):
                keep("repr " + type(value).__name__, repr(value))
                keep("str " + type(value).__name__, value)
            simulator.clear_faults()
            simulator.script(Fault("hang_after_accept", times=1, seconds=30))
            try:
                await http_client.send_message({"messaging_product": "whatsapp", "to": PHONE})
            except TimeoutError as error:
                keep_error(error)
            keep("describe client", client.describe())
            keep("explain client", [str(each) for each in client.explain()])
            for policy in (client._repeatable, client._once, service._templates._cache):
                keep_policy(policy)


def drive_fleet(fleet: RedisFleet) -> None:
    limiter = RateLimiter("shared limiter", rate=100, key=key_of, fleet=fleet)
    breaker = CircuitBreaker("shared breaker", failure_threshold=2, fleet=fleet)
    for _ in range(5):
        attempt(lambda: limiter(key_of)(PHONE))
        attempt(lambda: limiter(key_of)(SENTENCE))
        attempt(lambda: breaker.call(fail, PHONE, token=TOKEN))
        fleet.wait_ready(10)
        fleet.flush(10)
    keep_policy(limiter)
    keep_policy(breaker)
    keep("repr fleet", repr(fleet))
    keep("snapshot fleet", fleet.snapshot())


def fail(*args: Any, **named: Any) -> None:
    raise TheirError


def main(path: Path) -> None:
    faulthandler.dump_traceback_later(110, exit=True)
    spans, reader = InMemorySpanExporter(), InMemoryMetricReader()
    tracers = TracerProvider()
    tracers.add_span_processor(SimpleSpanProcessor(spans))
    trace.set_tracer_provider(tracers)
    metrics.set_meter_provider(MeterProvider([reader]))
    handler = Keeper()
    handler.setFormatter(logging.Formatter("%(levelname)s %(name)s %(message)s"))
    logging.basicConfig(level=logging.DEBUG, handlers=[handler])
    subscribe(hear)
    logger = logging.getLogger("resilience_core")
    assert logger.isEnabledFor(logging.DEBUG)
    monitor = Monitor(os.environ["REDIS_URL"])
    fleet = RedisFleet(os.environ["REDIS_URL"], prefix="canary:", secret=APP_SECRET, timeout=8.0, name="canary")
    with warnings.catch_warnings(record=True) as warned, tempfile.TemporaryDirectory() as name:
        warnings.simplefilter("always")
        directory = Path(name)
        with virtual_time() as clock:
            for policy in policies():
                drive_blocking(policy, clock)
        run_virtual(all_async)
        drive_configuration(directory)
        asyncio.run(drive_http())
        asyncio.run(drive_whatsapp(fleet, directory))
        drive_fleet(fleet)
        fleet.close()
        keep("snapshot registry", registry.snapshot())
        warnings.warn(f"{len(warned)} warnings before this one", stacklevel=1)
        for each in warned:
            keep("warning", each.message)
    monitor.close()
    for span in spans.get_finished_spans():
        facts = (dict(span.attributes or {}), [(each.name, dict(each.attributes or {})) for each in span.events])
        keep("span " + span.name, (span.name, facts, span.status.description))
    data = reader.get_metrics_data()
    for resource in data.resource_metrics if data is not None else ():
        for scope in resource.scope_metrics:
            for metric in scope.metrics:
                for point in metric.data.data_points:
                    keep("metric " + metric.name, dict(point.attributes or {}))
    path.write_text(json.dumps(EVIDENCE))


if __name__ == "__main__":
    main(Path(sys.argv[1]))

"""The blocking service has a twin of each method, is safe from many threads, and ends cleanly."""

from __future__ import annotations

import gc
import inspect
import io
import os
import signal
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import CancelledError, ThreadPoolExecutor
from typing import Any

import pytest

from resilience_core import CircuitBreaker, CircuitOpenError, ConfigurationError, Retry
from resilience_whatsapp import (
    BlockingBulkSend,
    BlockingWhatsAppService,
    BulkSend,
    GraphClient,
    MessageStatus,
    Outgoing,
    ResilientWhatsAppClient,
    ServiceClosedError,
    WhatsAppService,
)
from resilience_whatsapp.blocking import _close_all, _let_go
from resilience_whatsapp.messages import BodyDefinition, TemplateDefinition, Text
from resilience_whatsapp.simulator import Fault, SimulatorThread
from tests._cost import unmeasured
from tests.whatsapp.fakes import OK, RECIPIENT, FakeClock, Stub, service_over
from tests.whatsapp.test_bulk import Api, down_until, number_of, rows

needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
OTHER_NAMES = {"aclose": "close"}
SAME = {"blocking"}  # makes the twin


def client_of(thread: SimulatorThread) -> ResilientWhatsAppClient:
    at = thread.simulator
    http = GraphClient(token=at.token, phone_number_id=at.phone_number_id, waba_id=at.waba_id, base_url=thread.base_url)
    return ResilientWhatsAppClient(http, CircuitBreaker("blocking"), Retry(max_attempts=2, base_delay=0.001))


def over(stub: Any, clock: FakeClock | None = None, **options: Any) -> BlockingWhatsAppService:
    client = service_over(stub, clock or FakeClock(), **options).client
    return WhatsAppService.blocking(client)


def public(cls: type[Any]) -> dict[str, Any]:
    return {name: value for name, value in vars(cls).items() if callable(value) and not name.startswith("_")}


def shape(method: Any) -> list[Any]:
    """Names, kinds and defaults of the parameters, and what they may be."""
    return [
        (each.name, each.kind, each.default, each.annotation) for each in inspect.signature(method).parameters.values()
    ]


@pytest.mark.parametrize(("twin", "original"), [(BlockingWhatsAppService, WhatsAppService)])
def test_each_public_method_has_a_twin_with_the_same_parameters_and_result(twin: Any, original: Any) -> None:
    originals = {OTHER_NAMES.get(name, name): each for name, each in public(original).items()}
    assert public(twin).keys() == originals.keys() - SAME
    for name, method in public(twin).items():
        assert not inspect.iscoroutinefunction(method), name
        if name == "send_many":  # which takes no async rows and gives its own twin
            assert [each[:3] for each in shape(method)] == [each[:3] for each in shape(originals[name])]
            continue
        assert shape(method) == shape(originals[name]), name
        told = [inspect.signature(each).return_annotation for each in (method, originals[name])]
        assert told[0] == told[1], name
        assert f"As `WhatsAppService.{'aclose' if name == 'close' else name}`" in (method.__doc__ or ""), name


def test_a_bulk_has_a_twin_of_all_that_is_for_applications() -> None:
    named = {name for name in dir(BulkSend) if not name.startswith("_")} - {"aclose", "step"}
    instance = {"progress", "leftover"}
    assert {name for name in dir(BlockingBulkSend) if not name.startswith("_")} == named | instance | {"close"}


def test_all_of_it_works_without_await() -> None:
    with SimulatorThread() as simulator, WhatsAppService.blocking(client_of(simulator)) as service:
        assert service.send("u", RECIPIENT, Text("hi"), opaque_data="order 7").status is MessageStatus.ACCEPTED
        assert service.send_text("u", RECIPIENT, "hi").wamid
        assert service.send_template_message("u", RECIPIENT, "welcome_message", "fr").template == "welcome_message"
        service.mark_as_read("wamid.1")
        sent = service.upload_media(io.BytesIO(b"png"), mime_type="image/png")
        assert service.get_media(sent.id).file_size == 3
        assert service.download_media(sent.id, max_bytes=3).content == b"png"
        service.forget_media(sent.id)
        service.delete_media(sent.id)
        assert service.get_number_status().id == simulator.simulator.phone_number_id
        assert service.get_account_health().can_send_message == "AVAILABLE"
        assert service.get_approved_templates().source == "api"
        service.forget_templates()
        definition = TemplateDefinition("new_one", "fr", "UTILITY", [BodyDefinition("Bonjour")])
        assert service.create_template(definition).status in ("PENDING", "APPROVED")
        service.delete_template("new_one")
        assert [result.status for result in service.send_many(rows(3))] == ["accepted"] * 3


def test_many_threads_send_at_once() -> None:
    stub = Api()
    with over(stub) as service, ThreadPoolExecutor(8) as threads:
        records = list(threads.map(lambda index: service.send_text("u", number_of(index), "hi"), range(200)))
    assert {record.status for record in records} == {MessageStatus.ACCEPTED}
    assert stub.accepted == dict.fromkeys(range(200), 1)


class Slow(Stub):
    """Tells when sends are under way, and never answers one."""

    def __init__(self) -> None:
        super().__init__(OK)
        self.under_way = threading.Semaphore(0)

    async def send_message(self, payload: Any) -> Any:
        import asyncio

        self.under_way.release()
        await asyncio.Event().wait()


def test_closing_while_threads_send_ends_each_call_with_the_truth() -> None:
    stub = Slow()
    service = over(stub)
    with ThreadPoolExecutor(8) as threads:
        sends = [threads.submit(service.send_text, "u", number_of(index), "hi") for index in range(8)]
        for _ in range(8):
            stub.under_way.acquire()
        closings = [threading.Thread(target=service.close, args=(0.01,)) for _ in range(3)]
        for closing in closings:
            closing.start()
        errors = [send.exception() for send in sends]
        for closing in closings:
            closing.join()
    assert {type(error) for error in errors} == {ServiceClosedError}
    assert {error.record.status for error in errors} == {MessageStatus.UNKNOWN}  # type: ignore[union-attr]
    for call in (lambda: service.send_text("u", RECIPIENT, "hi"), service.get_number_status, service.forget_media):
        with pytest.raises(ServiceClosedError, match="make a new one"):
            call()
    service.close()
    assert "whatsapp" not in " ".join(thread.name for thread in threading.enumerate())


def test_a_drain_that_cannot_work_closes_nothing() -> None:
    with over(Stub(OK)) as service:
        with pytest.raises(ConfigurationError, match="drain"):
            service.close(drain=-1)
        assert service.send_text("u", RECIPIENT, "hi").wamid


def test_an_error_of_the_loop_that_is_not_closing_is_not_called_so() -> None:
    service = over(Stub(OK))
    service._loop.end()
    with pytest.raises(RuntimeError, match="portal"):
        service.send_text("u", RECIPIENT, "hi")


@needs_fork
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_forked_process_is_told_to_make_its_own() -> None:
    with over(Stub(OK)) as service:
        child = os.fork()
        if child == 0:
            try:
                service.send_text("u", RECIPIENT, "hi")
                code = 1
            except ServiceClosedError as error:
                code = 0 if "forked" in str(error) else 2
            except BaseException:
                code = 3
            service.close()  # the loop of the parent lives on
            os._exit(code)
        _, status = os.waitpid(child, 0)
        assert os.waitstatus_to_exitcode(status) == 0
        assert service.send_text("u", RECIPIENT, "hi").wamid


INTERRUPTED = """
import asyncio, os, signal, threading
from resilience_whatsapp import ResilientWhatsAppClient, WhatsAppService, SendReceipt

ended = threading.Event()

class Http:
    async def send_message(self, payload):
        threading.Thread(target=os.kill, args=(os.getpid(), signal.SIGINT)).start()
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    async def get_templates_page(self, after):
        raise NotImplementedError

with WhatsAppService.blocking(ResilientWhatsAppClient(Http())) as service:
    try:
        service.send_text("u", "+33612345678", "hi")
    except KeyboardInterrupt:
        assert ended.wait(30), "the call went on"
        print("interrupted")
print("closed")
"""


def test_ctrl_c_ends_the_call_and_the_program() -> None:
    done = subprocess.run([sys.executable, "-c", INTERRUPTED], capture_output=True, text=True, timeout=120, check=False)
    assert (done.stdout.split(), done.returncode) == (["interrupted", "closed"], 0), done.stderr
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


@pytest.mark.parametrize("begun", [True, False])
def test_an_interrupt_ends_a_call_whose_future_is_not_known_yet(monkeypatch: pytest.MonkeyPatch, begun: bool) -> None:
    stub = Slow()
    with over(stub) as service:
        start = service._portal.start_task_soon
        later: list[Any] = []

        def interrupted(*args: Any) -> Any:
            monkeypatch.setattr(service._portal, "start_task_soon", start)
            if begun:
                later.append(start(*args))
                stub.under_way.acquire()
            else:
                later.append(args)
            raise KeyboardInterrupt

        monkeypatch.setattr(service._portal, "start_task_soon", interrupted)
        with pytest.raises(KeyboardInterrupt):
            service.send_text("u", RECIPIENT, "hi")
        future = later[0] if begun else start(*later[0])
        with pytest.raises(CancelledError):
            future.result(30)
        assert not stub.under_way.acquire(blocking=False)


# --- many -------------------------------------------------------------------------------------------


def test_many_messages_are_read_in_the_callers_thread_as_there_is_room() -> None:
    read = 0

    def many() -> Iterator[Outgoing]:
        nonlocal read
        for row in rows(100):
            assert threading.current_thread() is threading.main_thread()
            read += 1
            yield row

    with over(Api()) as service:
        taken: Counter[int] = Counter()
        bulk = service.send_many(many(), concurrency=5)
        for result in bulk:
            assert result.status is MessageStatus.ACCEPTED
            taken[result.index] += 1
            assert read - taken.total() <= 5
        assert taken == dict.fromkeys(range(100), 1)
        assert (bulk.progress.accepted, bulk.leftover, list(bulk)) == (100, (), [])
        assert list(service.send_many([])) == []


def test_rows_that_cannot_be_read_on_end_the_loop_after_those_under_way() -> None:
    def broken() -> Iterator[Outgoing]:
        yield from rows(7)
        raise OSError("the file is gone")

    with over(Api()) as service:
        for concurrency in (1, 3, 20):
            results = []
            with pytest.raises(OSError, match="gone"):
                for result in service.send_many(broken(), concurrency=concurrency):
                    results.append(result)  # noqa: PERF402 - those before the error count
            assert len(results) == 7


def test_an_open_circuit_stops_the_loop_or_is_waited_for() -> None:
    clock = FakeClock()
    with over(down_until(clock, 1_200), clock) as service:
        many = rows(100)
        results = []
        with pytest.raises(CircuitOpenError):
            for result in service.send_many(many, concurrency=4):
                results.append(result)  # noqa: PERF402 - those before the error count
        assert 100 - len(list(many)) == len(results) < 20
        results = list(service.send_many(rows(50), concurrency=4, when_open="wait"))
        assert Counter(result.status for result in results) == {MessageStatus.ACCEPTED: 50}


def test_who_leaves_the_loop_gets_the_rest_from_leftover() -> None:
    api = Api()
    with over(api) as service:
        with service.send_many(rows(100), concurrency=4) as bulk:
            first = next(bulk)
        told = [first, *bulk.leftover]
        assert len(told) == bulk.progress.begun == api.accepted.total() <= 8
        assert len({result.index for result in told}) == len(told)


def test_an_interrupted_loop_tells_what_became_of_the_rows_under_way() -> None:
    stub = Slow()
    with over(stub) as service:
        bulk = service.send_many(rows(100), concurrency=3)

        def interrupt() -> None:
            for _ in range(3):
                stub.under_way.acquire()
            signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)

        thread = threading.Thread(target=interrupt)
        thread.start()
        with pytest.raises(KeyboardInterrupt):
            next(bulk)
        thread.join()
        assert [result.status for result in bulk.leftover] == [MessageStatus.UNKNOWN] * 3


def test_many_messages_to_the_simulator() -> None:
    with SimulatorThread() as simulator, WhatsAppService.blocking(client_of(simulator)) as service:
        simulator.simulator.script(Fault("error", code=131000, status=500, times=4))
        results = list(service.send_many(rows(100), concurrency=10))
        assert len(results) == 100
        accepted = [result.record.wamid for result in results if result.record and result.error is None]
        assert Counter(accepted) == Counter(entry.wamid for entry in simulator.book.entries)


def test_what_is_not_iterable_is_refused() -> None:
    with over(Stub(OK)) as service, pytest.raises(ConfigurationError, match="messages must be an iterable"):
        service.send_many(5)  # type: ignore[arg-type]


FORGETFUL = """
import os, sys
from resilience_whatsapp import ResilientWhatsAppClient, SendReceipt, WhatsAppService

class Client:
    async def send_message(self, payload):
        return SendReceipt("wamid.1")

    async def get_templates_page(self, after):
        raise AssertionError

    async def aclose(self):
        print("closed", flush=True)

service = WhatsAppService.blocking(ResilientWhatsAppClient(Client()))
service.send_text("u", "+33612345678", "hi")
if "fork" in sys.argv:
    child = os.fork()
    if not child:
        sys.exit(7)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


@pytest.mark.parametrize("how", ["no close", pytest.param("fork", marks=needs_fork)])
def test_a_program_and_its_forks_end_although_nobody_closed_the_service(how: str) -> None:
    code = [sys.executable, "-W", "ignore::DeprecationWarning", "-c", FORGETFUL, how]
    done = subprocess.run(code, capture_output=True, text=True, timeout=120, check=False, env=unmeasured())
    assert (done.returncode, done.stdout, done.stderr) == (0, "7\nclosed\n" if how == "fork" else "closed\n", "")


def test_the_loop_of_a_service_that_is_forgotten_ends() -> None:
    before = set(threading.enumerate())
    service = over(Stub(OK))
    service.send_text("u", RECIPIENT, "hi")
    (thread,) = set(threading.enumerate()) - before
    del service
    gc.collect()
    thread.join(30)
    assert not thread.is_alive()


def test_another_process_does_not_end_the_loop_of_its_parent() -> None:
    with over(Stub(OK)) as service:
        _let_go(service._portal, os.getpid() + 1)
        assert service.send_text("u", RECIPIENT, "hi").status == "accepted"


def test_rows_that_were_read_when_the_next_one_was_interrupted_are_told_as_not_sent() -> None:
    def given() -> Iterator[Outgoing]:
        yield from rows(6)
        raise KeyboardInterrupt

    with over(Api()) as service:
        bulk = service.send_many(given(), concurrency=4)
        told: list[Any] = []
        with pytest.raises(KeyboardInterrupt):
            told.extend(iter(bulk))
        told.extend(bulk.leftover)
        assert sorted(result.index for result in told) == list(range(6))
        assert bulk.progress.done == bulk.progress.begun == 6
        accepted = sum(result.status == "accepted" for result in told)
        assert accepted == sum(service.service.client.http_client.accepted.values())  # type: ignore[attr-defined]
        with pytest.raises(StopIteration):
            next(bulk)


def test_rows_whose_hand_over_was_interrupted_are_told_as_not_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    with over(Api()) as service:
        bulk = service.send_many(rows(6), concurrency=4)
        first = next(bulk)
        really = bulk._call

        def interrupted(call: Any, *args: Any) -> Any:
            monkeypatch.setattr(bulk, "_call", really)
            raise KeyboardInterrupt

        monkeypatch.setattr(bulk, "_call", interrupted)
        with pytest.raises(KeyboardInterrupt):
            next(bulk)
        told = [first, *bulk.leftover]
        assert sorted(result.index for result in told) == list(range(bulk.progress.begun))
        assert bulk.progress.begun == 6 - len(list(bulk._rows))


def test_at_the_end_all_that_is_open_is_closed_whatever_one_of_them_raises() -> None:
    services = [over(Stub(OK)) for _ in range(2)]
    services[0]._loop.end()  # cannot be closed any more
    _close_all()
    with pytest.raises(ServiceClosedError):
        services[1].send_text("u", RECIPIENT, "hi")

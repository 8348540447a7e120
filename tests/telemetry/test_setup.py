"""OpenTelemetry set up in one line."""

from __future__ import annotations

import http.server
import re
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from resilience_core import CircuitBreaker, ConfigurationError, Pipeline, Retry, otel
from resilience_core._telemetry import Settings, telemetry
from resilience_core.testing import record_telemetry

ROOT = Path(__file__).parent.parent.parent


@pytest.fixture(autouse=True)
def as_before() -> Iterator[None]:
    yield
    telemetry.use_global()
    telemetry.configure(Settings())


def drive() -> Pipeline:
    """Some traffic; the policy is to be kept, because nobody observes one that is gone."""
    script = [ConnectionError("+33612345678"), None]

    def work() -> None:
        error = script.pop(0)
        if error is not None:
            raise error

    policy = Pipeline(Retry(on=ConnectionError, base_delay=0, max_delay=0), CircuitBreaker("of the set-up"), name="p")
    policy.call(work)
    return policy


def test_the_console_gets_a_line_for_each_span_and_series(capsys: pytest.CaptureFixture[str]) -> None:
    with otel.setup("console", service_name="shop", set_global=False, interval=3_600) as handle:
        policy = drive()
        handle.flush()
        lines = capsys.readouterr().out.splitlines()
    handle.shutdown()  # once more does no harm
    spans = [line for line in lines if line.startswith("span ")]
    assert len(spans) == 3
    assert re.search(r"resilience p: \d+\.\d{3} s ", spans[2])
    assert spans[2].endswith("+resilience.retry.scheduled")
    assert any(line.startswith("metric resilience.call.duration: count=1 sum=") for line in lines)
    status = [line for line in lines if line.startswith("metric resilience.circuit_breaker.status")]
    assert any(line.endswith("1 circuit_breaker.state=closed policy.name=of the set-up") for line in status)
    assert "33612345678" not in "".join(lines)
    assert not telemetry.recording
    assert policy.name == "p"


def test_names_neither_break_a_line_of_the_console_nor_speak_to_the_terminal(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with otel.setup("console", set_global=False, interval=3_600):
        CircuitBreaker("evil\nspan 0 \x1b[2J").call(int)
    told = capsys.readouterr().out
    assert all(line.startswith(("span ", "metric ")) for line in told.splitlines())
    assert not [line for line in told.splitlines() if line.startswith("span 0 ")]
    assert "\x1b" not in told
    assert "evil\\nspan 0 \\x1b[2J" in told


def test_a_span_without_a_context_is_a_line_too() -> None:
    class Odd:
        name = "odd"
        start_time = end_time = None
        attributes = None
        events = ()

        def get_span_context(self) -> None:
            return None

    assert otel.span_line(Odd()) == "span  odd: 0.000 s\n"  # type: ignore[arg-type]


class Collector(http.server.BaseHTTPRequestHandler):
    got: list[tuple[str, str | None, int]]

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.got.append((self.path, self.headers.get("X-Key"), len(body)))
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *args: Any) -> None:
        pass


def test_otlp_reaches_a_collector() -> None:
    handler = type("Handler", (Collector,), {"got": []})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        address = f"http://127.0.0.1:{server.server_port}/"
        with otel.setup(endpoint=address, headers={"X-Key": "k"}, set_global=False, interval=3_600) as handle:
            drive()
            handle.flush()
        server.shutdown()
        thread.join()
    assert {(path, key) for path, key, _ in handler.got} == {("/v1/metrics", "k"), ("/v1/traces", "k")}


GLOBAL = """
from resilience_core import otel, CircuitBreaker, ConfigurationError
from opentelemetry import metrics, trace
with otel.setup("console", interval=3600):
    assert type(trace.get_tracer_provider()).__module__.startswith("opentelemetry.sdk")
    assert type(metrics.get_meter_provider()).__module__.startswith("opentelemetry.sdk")
    CircuitBreaker("graph").call(int)
    try:
        otel.setup("console")
    except ConfigurationError as error:
        print("refused:", error)
"""


def test_the_providers_are_those_of_the_process_and_a_second_set_up_is_refused() -> None:
    done = subprocess.run([sys.executable, "-c", GLOBAL], capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert "resilience graph" in done.stdout
    assert "refused: OpenTelemetry is set up already in this process" in done.stdout
    assert "metric resilience.call.duration: count=1" in done.stdout, "what was recorded is exported at the end"


@pytest.mark.parametrize(
    ("exporters", "options", "problem"),
    [
        (("jaeger",), {}, "exporters must be one of 'otlp', 'prometheus', 'console', not 'jaeger'"),
        (("console", "console"), {}, "exporters: each one once, not 'console', 'console'"),
        (("console",), {"interval": 0}, "setup: interval must be a positive, finite number of seconds"),
        (("console",), {"spans": "few"}, "spans must be one of"),
    ],
)
def test_what_cannot_be_set_up_is_refused(exporters: Any, options: dict[str, Any], problem: str) -> None:
    with pytest.raises(ConfigurationError, match=problem):
        otel.setup(*exporters, **options)
    assert not telemetry.recording


@pytest.mark.parametrize("missing", [None, "opentelemetry.exporter.otlp.proto.http.metric_exporter"])
def test_a_set_up_that_fails_leaves_nothing_behind(missing: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    if missing is not None:
        monkeypatch.setitem(sys.modules, missing, None)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        before = threading.active_count()
        port = taken.getsockname()[1] if missing is None else 0
        with pytest.raises(ConfigurationError):
            otel.setup("console", "prometheus", "otlp", prometheus_port=port, attempt_durations=True, set_global=False)
        assert threading.active_count() == before
    assert telemetry.settings == Settings()
    assert not telemetry.recording


def test_the_end_of_one_set_up_is_not_that_of_a_later_one(capsys: pytest.CaptureFixture[str]) -> None:
    first = otel.setup("console", set_global=False, interval=3_600)
    second = otel.setup("console", set_global=False, interval=3_600)
    first.shutdown()
    assert telemetry.recording
    second.shutdown()
    assert not telemetry.recording


def test_the_endpoint_is_closed_even_if_the_last_export_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    handle = otel.setup("prometheus", prometheus_port=0, set_global=False)
    handle.meter_provider.shutdown()

    def fail() -> None:
        raise RuntimeError("the last export")

    monkeypatch.setattr(handle.meter_provider, "shutdown", fail)
    with pytest.raises(RuntimeError, match="the last export"):
        handle.shutdown()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", handle.prometheus_port or 0))


CHILD = """
import os, signal, urllib.request
from resilience_core import otel
with otel.setup("prometheus", prometheus_port=0, set_global=False) as handle:
    child = os.fork()
    signal.alarm(30)
    if child:
        assert os.waitpid(child, 0)[1] == 0
        print(urllib.request.urlopen(f"http://127.0.0.1:{handle.prometheus_port}/metrics").status)
"""


def test_the_child_of_a_fork_ends_without_waiting_for_the_thread_of_its_parent() -> None:
    done = subprocess.run([sys.executable, "-c", CHILD], capture_output=True, text=True, check=False, cwd=ROOT)
    assert (done.stdout, done.returncode) == ("200\n", 0), done.stderr


@pytest.mark.parametrize(
    ("exporter", "missing"),
    [
        ("console", "opentelemetry.sdk.metrics"),
        ("otlp", "opentelemetry.exporter.otlp.proto.http.metric_exporter"),
        ("prometheus", "opentelemetry.exporter.prometheus"),
    ],
)
def test_without_the_extra_it_is_said_what_to_install(
    exporter: Any, missing: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(ConfigurationError, match=r"pip install 'resilience-framework\[otel\]'"):
        otel.setup(exporter, set_global=False)


def test_without_the_sdk_there_is_no_recorder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "opentelemetry.sdk.metrics", None)
    with pytest.raises(ConfigurationError, match=r"pip install 'resilience-framework\[otel\]'"):
        with record_telemetry():
            raise AssertionError("there is none")

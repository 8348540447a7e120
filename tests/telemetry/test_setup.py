"""OpenTelemetry set up in one line."""

from __future__ import annotations

import http.server
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


def drive() -> None:
    script = [ConnectionError("+33612345678"), None]

    def work() -> None:
        error = script.pop(0)
        if error is not None:
            raise error

    policy = Pipeline(Retry(on=ConnectionError, base_delay=0, max_delay=0), CircuitBreaker("of the set-up"), name="p")
    policy.call(work)


def test_the_console_gets_a_line_for_each_span_and_series(capsys: pytest.CaptureFixture[str]) -> None:
    with otel.setup("console", service_name="shop", set_global=False, interval=3_600) as handle:
        drive()
        handle.flush()
        lines = capsys.readouterr().out.splitlines()
    handle.shutdown()  # once more does no harm
    spans = [line for line in lines if line.startswith("span ")]
    assert len(spans) == 3
    assert "resilience p: 0.0" in spans[2]
    assert spans[2].endswith("+resilience.retry.scheduled")
    assert any(line.startswith("metric resilience.call.duration: count=1 sum=0.0") for line in lines)
    status = [line for line in lines if line.startswith("metric resilience.circuit_breaker.status")]
    assert any(line.endswith("1 circuit_breaker.state=closed policy.name=of the set-up") for line in status)
    assert "33612345678" not in "".join(lines)
    assert not telemetry.recording


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
        (("console",), {"interval": 0}, "setup: interval must be a positive, finite number of seconds"),
        (("console",), {"spans": "few"}, "spans must be one of"),
    ],
)
def test_what_cannot_be_set_up_is_refused(exporters: Any, options: dict[str, Any], problem: str) -> None:
    with pytest.raises(ConfigurationError, match=problem):
        otel.setup(*exporters, **options)
    assert not telemetry.recording


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

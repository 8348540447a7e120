"""The dashboard and the alerts ask for what is really there."""

from __future__ import annotations

import json
import socket
import urllib.request
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest

from resilience_core import ConfigurationError, otel
from resilience_core import _schema as s
from resilience_core._telemetry import Settings, telemetry
from tests.telemetry._traffic import traffic
from tests.telemetry.promql import Prometheus, Scrape, grouped_by, parse, selectors
from tools import alerts, dashboards
from tools.queries import Queries

BOARD: dict[str, Any] = json.loads(dashboards.grafana())
PANELS: list[dict[str, Any]] = [panel for panel in BOARD["panels"] if panel["type"] != "row"]
VARIABLES = {"$policy": ".*", "$operation": ".*", "$__rate_interval": "5m", "$__range": "1h"}


def filled(expression: str) -> str:
    """An expression with Grafana's variables filled in."""
    for variable, value in VARIABLES.items():
        expression = expression.replace(variable, value)
    assert "$" not in expression, expression
    return expression


PANEL_QUERIES = [
    pytest.param(filled(target["expr"]), id=f"{panel['title']} {target['refId']}")
    for panel in PANELS
    for target in panel["targets"]
]
ALERT_QUERIES = [pytest.param(alert.expression, id=alert.name) for alert in alerts.alerts()]


def scraped(handle: otel.OpenTelemetry) -> Scrape:
    with urllib.request.urlopen(f"http://127.0.0.1:{handle.prometheus_port}/metrics") as answer:
        return Scrape.of(answer.read().decode())


@pytest.fixture(scope="module")
def prometheus(tmp_path_factory: pytest.TempPathFactory) -> Generator[Prometheus]:
    """What an endpoint showed before and after traffic through every policy."""
    try:
        with otel.setup(
            "prometheus", prometheus_port=0, set_global=False, attempt_durations=True, store_durations=True
        ) as handle:
            first = scraped(handle)
            with traffic(tmp_path_factory.mktemp("config")):
                yield Prometheus(first, scraped(handle))
    finally:
        telemetry.use_global()
        telemetry.configure(Settings())


@pytest.mark.parametrize(
    ("path", "made"), [(dashboards.GRAFANA, dashboards.grafana()), (dashboards.ALERTS, alerts.alert_rules())]
)
def test_the_files_are_what_the_schema_makes_of_them(path: Path, made: str) -> None:
    assert path.read_text() == made, "make dashboards"


def test_the_page_shows_the_metrics_and_queries_as_they_are() -> None:
    page = (dashboards.ROOT / alerts.DOCS).read_text()
    assert dashboards.documented(page) == page, "make dashboards"


def test_each_alert_has_a_section_that_says_what_to_do() -> None:
    page = (dashboards.ROOT / alerts.DOCS).read_text().splitlines()
    anchors = {line.removeprefix("### ").lower() for line in page if line.startswith("### Resilience")}
    assert anchors == {alert.anchor for alert in alerts.alerts()}
    for alert in alerts.alerts():
        assert f"runbook: {alerts.DOCS}#{alert.anchor}\n" in alerts.alert_rules()


@pytest.mark.parametrize("query", PANEL_QUERIES)
def test_each_panel_has_something_to_show(query: str, prometheus: Prometheus) -> None:
    assert prometheus.query(query)


@pytest.mark.parametrize("query", [*PANEL_QUERIES, *ALERT_QUERIES])
def test_each_metric_label_and_value_is_there(query: str, prometheus: Prometheus) -> None:
    expression, last = parse(query), prometheus.last
    for selector in selectors(expression):
        assert selector.name in last.series
        assert {key for key, _, _ in selector.matchers} <= last.labels(selector.name)
        assert any(selector.matches(labels) for labels in last.series[selector.name]), selector
    for label, selected in grouped_by(expression):
        for selector in selected:
            assert label in last.labels(selector.name)


def test_the_dashboard_shows_every_metric() -> None:
    shown = {
        selector.name
        for panel in PANELS
        for target in panel["targets"]
        for selector in selectors(parse(filled(target["expr"])))
    }
    for metric in s.METRICS:
        suffixes = ("_count", "_sum", "_bucket") if metric.instrument == "histogram" else ("",)
        assert any(f"{metric.prometheus_name}{suffix}" in shown for suffix in suffixes), metric.name


def test_names_in_prometheus_are_those_of_the_schema(prometheus: Prometheus) -> None:
    suffixes = ("_bucket", "_count", "_sum")
    known = {
        f"{metric.prometheus_name}{suffix}": metric
        for metric in s.METRICS
        for suffix in (suffixes if metric.instrument == "histogram" else ("",))
    }
    ours = {name for name in prometheus.last.series if name.startswith("resilience_") and not name.endswith("_created")}
    assert ours == known.keys()
    for name, metric in known.items():
        labels = {label for label in prometheus.last.labels(name) if not label.startswith("otel_scope_")} - {"le"}
        assert labels == {s.prometheus_label(attribute) for attribute in metric.attributes}, name


def test_an_attribute_that_a_metric_does_not_have_is_refused() -> None:
    queries = Queries("5m")
    with pytest.raises(ValueError, match="rejections has no attribute"):
        queries.rate(s.REJECTIONS, by=[s.DELAY_SOURCE])
    with pytest.raises(ValueError, match="has no attribute"):
        queries.rate(s.REJECTIONS, DELAY_SOURCE='="backoff"')


def test_grafana_can_import_it() -> None:
    ids = [panel["id"] for panel in BOARD["panels"]]
    assert len(ids) == len(set(ids))
    assert [variable["name"] for variable in BOARD["templating"]["list"]] == ["datasource", "policy", "operation"]
    taken: set[tuple[int, int]] = set()
    for panel in BOARD["panels"]:
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & taken, panel["title"]
        assert place["x"] + place["w"] <= 24
        taken |= cells
    for panel in PANELS:
        assert panel["datasource"]["uid"] == "${datasource}"
        assert panel["description"]
        assert len({target["refId"] for target in panel["targets"]}) == len(panel["targets"])
        for target in panel["targets"]:
            labels = set(target["legendFormat"].replace("{{", "\0{{").split("\0"))
            for label in (text.split("}}")[0][2:] for text in labels if text.startswith("{{")):
                assert label in target["expr"], f"{panel['title']}: {label} is summed away"


def test_opened_circuits_are_told_by_the_alerts(prometheus: Prometheus) -> None:
    found = {alert.name: prometheus.query(alert.expression) for alert in alerts.alerts()}
    (opened,) = found["ResilienceCircuitOpened"].items()
    assert opened == (frozenset({("resilience_policy_name", "traffic.circuit")}), 1)
    for name in ("ResilienceRetryBudgetExhausted", "ResilienceStoreDegraded", "ResilienceConfigurationRefused"):
        assert found[name], name
    assert found["ResilienceAbandonedThreads"] == {}


def test_a_counter_that_begins_with_one_is_seen_by_the_alerts() -> None:
    (alert,) = [alert for alert in alerts.alerts() if alert.name == "ResilienceConfigurationRefused"]
    last = Scrape.of('resilience_config_reloads_total{resilience_outcome="error"} 1\n')
    assert Prometheus(Scrape.of(""), last).query(alert.expression)
    assert not Prometheus(last, last).query(alert.expression)


def test_two_endpoints_show_what_their_own_set_up_recorded() -> None:
    try:
        with otel.setup("prometheus", prometheus_port=0, set_global=False) as one:
            assert not [name for name in scraped(one).series if name.startswith("python_")]
            with otel.setup("prometheus", prometheus_port=0, set_global=False) as other:
                assert one.prometheus_port != other.prometheus_port
                scraped(one)
                scraped(other)
    finally:
        telemetry.use_global()
        telemetry.configure(Settings())


def test_a_port_that_is_taken_is_said() -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with pytest.raises(ConfigurationError, match=rf"prometheus_port: nothing can listen on 127.0.0.1 port {port}"):
            otel.setup("prometheus", prometheus_port=port, set_global=False)
    assert not telemetry.recording


def test_exporters_that_know_no_registry_use_that_of_the_process(monkeypatch: pytest.MonkeyPatch) -> None:
    from opentelemetry.exporter import prometheus as exporter

    class Old(exporter.PrometheusMetricReader):
        def __init__(self) -> None:
            super().__init__()

    monkeypatch.setattr(exporter, "PrometheusMetricReader", Old)
    try:
        for _ in range(2):  # the first one leaves nothing behind
            with otel.setup("prometheus", prometheus_port=0, set_global=False) as handle:
                names = scraped(handle).series
                assert "python_info" in names
                assert len(names["target_info"]) == 1
    finally:
        telemetry.use_global()
        telemetry.configure(Settings())

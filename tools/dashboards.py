"""Writes dashboards/*, and tables and queries of docs/observability.md, from the schema of the telemetry.

Run it by `make dashboards`: it imports its neighbours, so it is a module, not a script.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

from attrs import field, frozen

from resilience_core import _schema as s
from tools.alerts import DOCS, alert_rules
from tools.queries import Queries, label, legend

ROOT = Path(__file__).resolve().parent.parent
GRAFANA = ROOT / "dashboards" / "grafana.json"
ALERTS = ROOT / "dashboards" / "prometheus-alerts.yaml"

# --- the dashboard ----------------------------------------------------------------------------------------------------


@frozen
class Panel:
    """One panel: its question, and queries with their legends."""

    title: str
    description: str
    queries: Sequence[tuple[str, str]]
    unit: str = "short"
    kind: str = "timeseries"
    width: int = 8
    custom: Mapping[str, Any] = field(factory=dict)
    highest: float | None = None


_STATES: tuple[tuple[str, str], ...] = (
    ("closed", "green"),
    ("shadow", "purple"),
    ("disabled", "blue"),
    ("half_open", "yellow"),
    ("open", "red"),
    ("forced_open", "dark-red"),
)
"""From the best to the worst: of many processes, the worst one is shown."""


Row: TypeAlias = "list[Panel]"
BOARD, WHOLE = Queries("$__rate_interval", narrowed=True), Queries("$__range", narrowed=True)
"""Over the resolution of the graph, and over all that it shows."""


def rows() -> list[tuple[str, Row]]:
    """All rows of the dashboard."""
    return [
        ("Traffic and outcomes", traffic(BOARD)),
        ("Success before and after retries", success(BOARD)),
        ("Response time", response_time(BOARD)),
        ("Circuits", circuits(BOARD)),
        ("Retries", retries(BOARD)),
        ("Bulkheads, limiters and time-outs", limits(BOARD)),
        ("Fallbacks and cache", stand_ins(BOARD)),
        ("Hedges", hedges(BOARD)),
        ("Stores of fleets", stores(BOARD)),
        ("Configuration", configuration(BOARD)),
    ]


def one(title: str, text: str, query: str, *labels: str, unit: str = "short", **more: Any) -> Panel:
    """A panel of one query, whose legend is the values of `labels`."""
    return Panel(title, text, [(query, legend(*labels))], unit, **more)


def rates(q: Queries, title: str, metric: s.Metric, *by: str) -> Panel:
    """How often something is counted per second."""
    return one(title, metric.answers, q.rate(metric, by=by), *by, unit="ops")


def p95(q: Queries, title: str, metric: s.Metric, *by: str, more: str = "") -> Panel:
    """How long something takes for all but a few."""
    return one(title, f"{metric.answers}{more}", q.quantile(0.95, metric, by), *by, unit="s")


def observed(q: Queries, title: str, metric: s.Metric, unit: str = "short") -> Panel:
    """What policies say of themselves, summed up over the processes."""
    return one(title, metric.answers, q.now(metric, by=[s.POLICY]), s.POLICY, unit=unit)


def extreme(q: Queries, title: str, metric: s.Metric, join: str, **more: Any) -> Panel:
    """The largest or smallest value that a process observes."""
    query = f"{join} by ({label(metric, s.POLICY)}) ({q.select(metric)})"
    return one(title, metric.answers, query, s.POLICY, **more)


def traffic(q: Queries) -> Row:
    calls, failed = s.CALL_DURATION, (s.ERROR_TYPE, s.OUTCOME)
    places = (s.POLICY, s.OPERATION)
    ended = q.rate(calls, "_count", [s.OUTCOME])
    errors = q.rate(calls, "_count", failed, ERROR_TYPE='!=""')
    return [
        one("Calls by outcome", "How many calls are there, and how do they end?", ended, s.OUTCOME, unit="ops"),
        one(
            "Calls by policy", "Where does the traffic come from?", q.rate(calls, "_count", places), *places, unit="ops"
        ),
        one("What failed", "Classes or codes of the errors that callers got.", errors, *failed, unit="ops"),
    ]


def success(q: Queries) -> Row:
    lines = [
        (q.success_after_retries(), "after retries"),
        (q.success_before_retries(), "before retries"),
        (q.degraded(), "of these degraded: answered by a fallback or an old value"),
    ]
    text = (
        "The distance between before and after is what retries rescue. Degraded answers count as success, "
        "and are a line of their own. Cancelled calls are left out."
    )
    whole = [(WHOLE.success_after_retries(), "")]
    return [
        Panel("Success rate", text, lines, "percentunit", width=16, highest=1),
        Panel(
            "Success after retries, whole range",
            "The share of all calls in the range shown.",
            whole,
            "percentunit",
            "stat",
            highest=1,
        ),
    ]


def response_time(q: Queries) -> Row:
    quantiles = [(q.response_time(share), f"p{share * 100:g}") for share in (0.5, 0.95, 0.99)]
    lines = [*quantiles, (q.mean(s.CALL_DURATION), "mean")]
    slowest = q.response_time(0.95, [s.POLICY])
    asked = " Recorded only with attempt_durations=True."
    return [
        Panel("Response time, retries and waits included", s.CALL_DURATION.answers, lines, "s"),
        one("p95 by policy", "Which policy's callers wait?", slowest, s.POLICY, unit="s"),
        p95(q, "Single attempts, p95", s.ATTEMPT_DURATION, s.POLICY, s.ATTEMPT_KIND, more=asked),
    ]


def circuits(q: Queries) -> Row:
    changes = q.increase(s.TRANSITIONS, by=[s.POLICY, s.PREVIOUS_STATE, s.CIRCUIT_STATE, s.TRANSITION_REASON])
    change = f"{legend(s.POLICY, s.PREVIOUS_STATE)} to {legend(s.CIRCUIT_STATE, s.TRANSITION_REASON)}"
    opened = f"{s.TRANSITIONS.answers} Openings of a closed circuit; of a fleet, each once."
    lasted = f"{s.OPEN_DURATION.answers} The mean of the periods that ended."
    return [
        one("State", s.STATUS.answers, _worst_state(q), s.POLICY, kind="state-timeline", width=16),
        one("Times opened, whole range", opened, WHOLE.openings([s.POLICY]), s.POLICY, kind="stat"),
        Panel("Transitions", "What changed, and why?", [(changes, change)], custom={"drawStyle": "bars"}),
        one("Open time", lasted, q.mean(s.OPEN_DURATION, [s.POLICY]), s.POLICY, unit="s"),
        rates(q, "Rejections by reason", s.REJECTIONS, s.POLICY, s.REJECTION_REASON),
        extreme(q, "Failures in the window", s.FAILURE_RATIO, "max", unit="percentunit", highest=1),
        extreme(q, "Slow calls in the window", s.SLOW_RATIO, "max", unit="percentunit", highest=1),
        observed(q, "Calls in the window", s.WINDOW_CALLS),
    ]


def retries(q: Queries) -> Row:
    lines = [
        (q.rate(s.CALL_RETRIES, "_sum"), "retries"),
        (q.rate(s.CALL_RETRIES, "_count"), "calls that retried"),
        (q.rate(s.CALL_RETRIES, "_count", OUTCOME='="success"'), "calls that a retry rescued"),
    ]
    more = "How much more traffic do retries make? 0.1 is 10 % more."
    waits = f"{s.RETRY_DELAY.answers} Seconds spent waiting in each second: calls that wait at a time."
    waiting = (s.POLICY, s.DELAY_SOURCE)
    return [
        Panel("Retries", s.CALL_RETRIES.answers, lines, "ops"),
        one("Retries for each call", more, q.amplification([s.POLICY]), s.POLICY, unit="percentunit"),
        one("Calls that back off", waits, q.rate(s.RETRY_DELAY, "_sum", waiting), *waiting),
        rates(q, "Retries not made, by reason", s.RETRY_SUPPRESSED, s.POLICY, s.SUPPRESSED_REASON),
        extreme(q, "Retry budget", s.BUDGET_AVAILABLE, "min"),
    ]


def limits(q: Queries) -> Row:
    def against(title: str, usage: s.Metric, limit: s.Metric) -> Panel:
        lines = [
            (q.now(usage, by=[s.POLICY]), legend(s.POLICY)),
            (q.now(limit, by=[s.POLICY]), f"{legend(s.POLICY)}, limit"),
        ]
        return Panel(title, usage.answers, lines)

    return [
        against("In flight", s.BULKHEAD_USAGE, s.BULKHEAD_LIMIT),
        against("Queue", s.QUEUE_USAGE, s.QUEUE_LIMIT),
        p95(q, "Waits for a slot, p95", s.BULKHEAD_WAIT, s.POLICY, s.OUTCOME),
        p95(q, "Waits for a permit, p95", s.LIMITER_WAIT, s.POLICY, s.OUTCOME),
        observed(q, "Permits at hand", s.PERMITS),
        observed(q, "Allowed rate", s.LIMITER_RATE, "ops"),
        rates(q, "Time-outs", s.TIMEOUTS, s.POLICY, s.TIMEOUT_SCOPE),
        observed(q, "Abandoned threads", s.ABANDONED),
    ]


def stand_ins(q: Queries) -> Row:
    causes = q.rate(s.FALLBACKS, by=[s.POLICY, s.FALLBACK_KIND, s.ERROR_TYPE])
    cause = f"{legend(s.POLICY, s.FALLBACK_KIND)} for {legend(s.ERROR_TYPE)}"
    return [
        Panel("Fallbacks", s.FALLBACKS.answers, [(causes, cause)], "ops"),
        rates(q, "Cache lookups", s.CACHE_LOOKUPS, s.POLICY, s.CACHE_RESULT),
        p95(q, "Age of what was served, p95", s.CACHE_AGE, s.POLICY, s.CACHE_RESULT),
        observed(q, "Cache entries", s.CACHE_ENTRIES),
    ]


def hedges(q: Queries) -> Row:
    lines = [
        (q.rate(s.CALL_HEDGES, "_sum", [s.POLICY]), f"{legend(s.POLICY)}, further attempts"),
        (q.rate(s.CALL_HEDGES, "_count", [s.POLICY]), f"{legend(s.POLICY)}, hedged calls"),
    ]
    return [
        Panel("Hedges", s.CALL_HEDGES.answers, lines, "ops"),
        rates(q, "Who answered first", s.HEDGE_WINS, s.POLICY, s.ATTEMPT_KIND),
    ]


def stores(q: Queries) -> Row:
    states, exchanges = (s.STORE_TYPE, s.STORE_STATE), (s.STORE_TYPE, s.STORE_OPERATION)
    text = f"{s.STORE_STATUS.answers} Processes by the state of their store."
    asked = f"{s.STORE_DURATION.answers} Recorded only with store_durations=True."
    lasting = [(q.quantile(0.95, s.STORE_DURATION, exchanges), f"{legend(*exchanges)} p95")]
    failed = q.rate(s.STORE_DURATION, "_count", [s.ERROR_TYPE], ERROR_TYPE='!=""')
    question = "What fails between the processes and the store?"
    return [
        one("Stores", text, q.now(s.STORE_STATUS, by=states), *states),
        Panel("Exchanges with the store", asked, lasting, "s"),
        one("Failed exchanges", question, failed, s.ERROR_TYPE, unit="ops"),
    ]


def configuration(q: Queries) -> Row:
    taken = q.increase(s.RELOADS, by=[s.OUTCOME])
    return [one("Reloads", s.RELOADS.answers, taken, s.OUTCOME, custom={"drawStyle": "bars"})]


def _worst_state(q: Queries) -> str:
    states = " or ".join(
        f"{number} * {q.select(s.STATUS, CIRCUIT_STATE=chr(61) + json.dumps(state))}"
        for number, (state, _) in enumerate(_STATES)
    )
    return f"max by ({label(s.STATUS, s.POLICY)}) ({states})"


def grafana() -> str:
    """The dashboard as Grafana imports it."""
    panels: list[dict[str, Any]] = []
    top = 0
    for title, members in rows():
        panels.append(
            {
                "id": len(panels) + 1,
                "type": "row",
                "title": title,
                "collapsed": False,
                "gridPos": {"h": 1, "w": 24, "x": 0, "y": top},
                "panels": [],
            }
        )
        top += 1
        left = 0
        for panel in members:
            if left + panel.width > 24:
                left, top = 0, top + 8
            panels.append(_panel(panel, len(panels) + 1, left, top))
            left += panel.width
        top += 8
    board: dict[str, Any] = {
        "title": "Resilience",
        "uid": "resilience-core",
        "description": f"Made from the schema by tools/dashboards.py; what each metric answers: {DOCS}",
        "tags": ["resilience"],
        "schemaVersion": 39,
        "version": 1,
        "editable": True,
        "graphTooltip": 1,
        "refresh": "30s",
        "time": {"from": "now-1h", "to": "now"},
        "timezone": "browser",
        "templating": {"list": _variables()},
        "annotations": {"list": [_openings_as_annotations()]},
        "panels": panels,
    }
    return json.dumps(board, indent=1) + "\n"


_SOURCE = {"type": "prometheus", "uid": "${datasource}"}


def _variables() -> list[dict[str, Any]]:
    shown = {"hide": 0, "skipUrlSync": False}
    source = {"type": "datasource", "name": "datasource", "label": "Data source", "query": "prometheus", **shown}
    made: list[dict[str, Any]] = [source]
    every = f'{{__name__=~"{s.PREFIX}_.+"}}'  # circuits and gates are told under names of their own
    for name, attribute, found in (
        ("policy", s.POLICY, every),
        ("operation", s.OPERATION, f"{s.CALL_DURATION.prometheus_name}_count"),
    ):
        query = f"label_values({found}, {s.prometheus_label(attribute)})"
        made.append(
            {
                "type": "query",
                "name": name,
                "label": name.capitalize(),
                "datasource": _SOURCE,
                "definition": query,
                "query": {"query": query, "refId": name},
                "refresh": 2,
                "sort": 1,
                "multi": True,
                "includeAll": True,
                "allValue": ".*",
                "current": {"text": "All", "value": "$__all"},
                **shown,
            }
        )
    return made


def _openings_as_annotations() -> dict[str, Any]:
    return {
        "name": "Circuits opened",
        "datasource": _SOURCE,
        "enable": True,
        "iconColor": "red",
        "expr": f"{Queries('1m', narrowed=True).openings([s.POLICY])} > 0",
        "titleFormat": f"{legend(s.POLICY)} opened",
    }


def _panel(panel: Panel, number: int, left: int, top: int) -> dict[str, Any]:
    defaults: dict[str, Any] = {"unit": panel.unit, "min": 0, "custom": dict(panel.custom)}
    if panel.highest is not None:
        defaults["max"] = panel.highest
    options: dict[str, Any] = {}
    if panel.kind == "timeseries":
        options = {"legend": {"displayMode": "list", "placement": "bottom"}, "tooltip": {"mode": "multi"}}
    elif panel.kind == "stat":
        options = {"reduceOptions": {"calcs": ["lastNotNull"]}, "colorMode": "value"}
    else:
        mapped = {str(at): {"text": state, "color": colour, "index": at} for at, (state, colour) in enumerate(_STATES)}
        defaults["mappings"] = [{"type": "value", "options": mapped}]
        options = {"mergeValues": True, "showValue": "auto", "legend": {"displayMode": "list", "placement": "bottom"}}
    instant = panel.kind == "stat"
    return {
        "id": number,
        "type": panel.kind,
        "title": panel.title,
        "description": panel.description,
        "datasource": _SOURCE,
        "gridPos": {"h": 8, "w": panel.width, "x": left, "y": top},
        "fieldConfig": {"defaults": defaults, "overrides": []},
        "options": options,
        "targets": [
            {
                "refId": chr(ord("A") + at),
                "datasource": _SOURCE,
                "expr": expression,
                "legendFormat": shown,
                "instant": instant,
                "range": not instant,
            }
            for at, (expression, shown) in enumerate(panel.queries)
        ],
    }


# --- the docs ---------------------------------------------------------------------------------------------------------


def table() -> str:
    """What each metric answers."""
    lines = ["| metric | kind, unit | attributes | answers |", "|---|---|---|---|"]
    for metric in s.METRICS:
        attributes = ", ".join(f"`{attribute.removeprefix(f'{s.PREFIX}.')}`" for attribute in metric.attributes)
        kind = metric.instrument.replace("_", "-") + (", observed" if metric.observed else "")
        asked = " *(where asked for)*" if metric.opt_in else ""
        lines.append(f"| `{metric.full_name}` | {kind}, {metric.unit} | {attributes} | {metric.answers}{asked} |")
    return "\n".join(lines)


def four() -> str:
    """The four metrics that operators ask for first."""
    q = Queries("5m")
    parts = (
        ("times that circuits opened", q.openings([s.POLICY])),
        ("retries", q.retries([s.POLICY])),
        ("success rate after retries", q.success_after_retries()),
        ("success rate before retries", q.success_before_retries()),
        ("of these degraded: answered by a fallback or an old value", q.degraded()),
        ("response time, retries and waits included: p95, and the mean", q.response_time(0.95)),
        ("", q.mean(s.CALL_DURATION)),
    )
    lines = [f"# {title}\n{query}" if title else query for title, query in parts]
    return "```promql\n" + "\n".join(lines) + "\n```"


def documented(text: str) -> str:
    """The page with its tables and queries made anew; each stands between two comments."""
    for name, made in (("metrics", table()), ("four", four())):
        begin, end = f"<!-- {name}: make dashboards -->\n", f"\n<!-- end of {name} -->"
        before, rest = text.split(begin)
        text = before + begin + made + end + rest.split(end, maxsplit=1)[1]
    return text


def main() -> None:
    """Write all of them."""
    GRAFANA.parent.mkdir(exist_ok=True)
    GRAFANA.write_text(grafana())
    ALERTS.write_text(alert_rules())
    page = ROOT / DOCS
    page.write_text(documented(page.read_text()))


if __name__ == "__main__":
    main()

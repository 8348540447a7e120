"""Writes dashboards/*, and tables and queries of docs/observability.md, from the schema of the telemetry.

Queries are built from the metrics of `resilience_core/_schema.py`, so that no name is written twice, and a label that a
metric does not have is an error here instead of an empty panel.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from attrs import field, frozen

from resilience_core import _schema as s

ROOT = Path(__file__).resolve().parent.parent
GRAFANA = ROOT / "dashboards" / "grafana.json"
ALERTS = ROOT / "dashboards" / "prometheus-alerts.yaml"
DOCS = "docs/observability.md"

# --- queries ----------------------------------------------------------------------------------------------------------


@frozen
class Queries:
    """Builds PromQL: over which time, and for which policies and operations."""

    window: str
    narrowed: bool = False
    """Whether the variables of the dashboard narrow what is shown."""

    def select(self, metric: s.Metric, suffix: str = "", /, **where: str) -> str:
        """The series of a metric; `where` maps constants of the schema to matchers: OUTCOME='="success"'."""
        matchers: list[str] = []
        if self.narrowed:
            for attribute, variable in ((s.POLICY, "policy"), (s.OPERATION, "operation")):
                if attribute in metric.attributes:
                    matchers.append(f'{s.prometheus_label(attribute)}=~"${variable}"')
        matchers += [f"{label(metric, getattr(s, name))}{matcher}" for name, matcher in where.items()]
        return f"{metric.prometheus_name}{suffix}" + (f"{{{', '.join(matchers)}}}" if matchers else "")

    def rate(self, metric: s.Metric, suffix: str = "", /, by: Sequence[str] = (), **where: str) -> str:
        """Per second, summed up."""
        return f"{_sum(metric, by)} (rate({self.select(metric, suffix, **where)}[{self.window}]))"

    def increase(self, metric: s.Metric, suffix: str = "", /, by: Sequence[str] = (), **where: str) -> str:
        """How many within the window, summed up."""
        return f"{_sum(metric, by)} (increase({self.select(metric, suffix, **where)}[{self.window}]))"

    def now(self, metric: s.Metric, /, by: Sequence[str] = (), **where: str) -> str:
        """What is observed, summed up over the processes."""
        return f"{_sum(metric, by)} ({self.select(metric, **where)})"

    def quantile(self, share: float, metric: s.Metric, /, by: Sequence[str] = (), **where: str) -> str:
        """A quantile of a histogram, as fine as its buckets."""
        labels = ", ".join(["le", *(label(metric, attribute) for attribute in by)])
        selected = self.select(metric, "_bucket", **where)
        return f"histogram_quantile({share:g}, sum by ({labels}) (rate({selected}[{self.window}])))"

    def mean(self, metric: s.Metric, /, by: Sequence[str] = (), **where: str) -> str:
        """The mean of a histogram's values."""
        return f"{self.rate(metric, '_sum', by, **where)} / {self.rate(metric, '_count', by, **where)}"

    def grew(self, metric: s.Metric, /, by: Sequence[str] = (), **where: str) -> str:
        """Counters that counted, a first time included: `increase` does not see a series begin with 1."""
        selected = self.select(metric, **where)
        begun = f"{_sum(metric, by)} ({selected} unless {selected} offset {self.window})"
        return f"{self.increase(metric, by=by, **where)} > 0 or {begun} > 0"

    # The user's four.

    def openings(self, by: Sequence[str] = ()) -> str:
        """How often circuits opened: a re-opening after a failed probe and a fleet's echo are not counted again."""
        return self.increase(s.TRANSITIONS, by=by, **OPENED)

    def retries(self, by: Sequence[str] = ()) -> str:
        """How many retries there were."""
        return self.increase(s.CALL_RETRIES, "_sum", by)

    def success_after_retries(self) -> str:
        """The share of calls that succeeded, however many attempts they took; cancelled ones are left out."""
        return self._share(OUTCOME='="success"')

    def success_before_retries(self) -> str:
        """The share of calls whose first attempt succeeded."""
        return self._share(OUTCOME='="success"', RETRIED='="false"')

    def degraded(self) -> str:
        """The share of calls that succeeded because a fallback or an old value answered."""
        return self._share(OUTCOME='="success"', DEGRADED='="true"')

    def _share(self, **where: str) -> str:
        some = self.rate(s.CALL_DURATION, "_count", **where)
        return f"({some} or vector(0)) / {self.rate(s.CALL_DURATION, '_count', **FINISHED)}"

    def response_time(self, share: float, by: Sequence[str] = ()) -> str:
        """How long callers waited, retries and waits included."""
        return self.quantile(share, s.CALL_DURATION, by)

    def amplification(self, by: Sequence[str] = ()) -> str:
        """Retries for each call."""
        return f"{self.rate(s.CALL_RETRIES, '_sum', by)} / {self.rate(s.CALL_DURATION, '_count', by)}"


OPENED = {"PREVIOUS_STATE": '="closed"', "CIRCUIT_STATE": '="open"', "TRANSITION_REASON": '!="remote"'}
FINISHED = {"OUTCOME": '!="cancelled"'}


def label(metric: s.Metric, attribute: str) -> str:
    """A metric's attribute as Prometheus names it; refuses one that the metric does not have."""
    if attribute not in metric.attributes:
        raise ValueError(f"{metric.full_name} has no attribute {attribute}")
    return s.prometheus_label(attribute)


def _sum(metric: s.Metric, by: Sequence[str]) -> str:
    return f"sum by ({', '.join(label(metric, attribute) for attribute in by)})" if by else "sum"


def legend(*attributes: str) -> str:
    """The text of a legend: the values of these labels."""
    return " ".join(f"{{{{{s.prometheus_label(attribute)}}}}}" for attribute in attributes)


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


def rows() -> list[tuple[str, list[Panel]]]:
    """All rows of the dashboard."""
    q = Queries("$__rate_interval", narrowed=True)
    whole = Queries("$__range", narrowed=True)
    calls = s.CALL_DURATION
    per_policy = legend(s.POLICY)
    return [
        (
            "Traffic and outcomes",
            [
                Panel(
                    "Calls by outcome",
                    "How many calls are there, and how do they end?",
                    [(q.rate(calls, "_count", [s.OUTCOME]), legend(s.OUTCOME))],
                    "ops",
                ),
                Panel(
                    "Calls by policy",
                    "Where does the traffic come from?",
                    [(q.rate(calls, "_count", [s.POLICY, s.OPERATION]), legend(s.POLICY, s.OPERATION))],
                    "ops",
                ),
                Panel(
                    "What failed",
                    "Classes or codes of the errors that callers got.",
                    [
                        (
                            q.rate(calls, "_count", [s.ERROR_TYPE, s.OUTCOME], ERROR_TYPE='!=""'),
                            legend(s.ERROR_TYPE, s.OUTCOME),
                        )
                    ],
                    "ops",
                ),
            ],
        ),
        (
            "Success before and after retries",
            [
                Panel(
                    "Success rate",
                    "The distance between before and after is what retries rescue. Degraded answers count as success, "
                    "and are a line of their own. Cancelled calls are left out.",
                    [
                        (q.success_after_retries(), "after retries"),
                        (q.success_before_retries(), "before retries"),
                        (q.degraded(), "of these degraded: answered by a fallback or an old value"),
                    ],
                    "percentunit",
                    width=16,
                    highest=1,
                ),
                Panel(
                    "Success after retries, whole range",
                    "The share of all calls in the range shown.",
                    [(whole.success_after_retries(), "")],
                    "percentunit",
                    "stat",
                    highest=1,
                ),
            ],
        ),
        (
            "Response time",
            [
                Panel(
                    "Response time, retries and waits included",
                    calls.answers,
                    [(q.response_time(share), f"p{share * 100:g}") for share in (0.5, 0.95, 0.99)]
                    + [(q.mean(calls), "mean")],
                    "s",
                ),
                Panel(
                    "p95 by policy",
                    "Which policy's callers wait?",
                    [(q.response_time(0.95, [s.POLICY]), per_policy)],
                    "s",
                ),
                Panel(
                    "Single attempts, p95",
                    f"{s.ATTEMPT_DURATION.answers} Recorded only with attempt_durations=True.",
                    [
                        (
                            q.quantile(0.95, s.ATTEMPT_DURATION, [s.POLICY, s.ATTEMPT_KIND]),
                            legend(s.POLICY, s.ATTEMPT_KIND),
                        )
                    ],
                    "s",
                ),
            ],
        ),
        (
            "Circuits",
            [
                Panel("State", s.STATUS.answers, [(_worst_state(q), per_policy)], kind="state-timeline", width=16),
                Panel(
                    "Times opened, whole range",
                    f"{s.TRANSITIONS.answers} Openings of a closed circuit; of a fleet, each once.",
                    [(whole.openings([s.POLICY]), per_policy)],
                    kind="stat",
                ),
                Panel(
                    "Transitions",
                    "What changed, and why?",
                    [
                        (
                            q.increase(
                                s.TRANSITIONS, by=[s.POLICY, s.PREVIOUS_STATE, s.CIRCUIT_STATE, s.TRANSITION_REASON]
                            ),
                            f"{legend(s.POLICY, s.PREVIOUS_STATE)} to {legend(s.CIRCUIT_STATE, s.TRANSITION_REASON)}",
                        )
                    ],
                    custom={"drawStyle": "bars"},
                ),
                Panel(
                    "Open time",
                    f"{s.OPEN_DURATION.answers} The mean of the periods that ended.",
                    [(q.mean(s.OPEN_DURATION, [s.POLICY]), per_policy)],
                    "s",
                ),
                Panel(
                    "Rejections by reason",
                    s.REJECTIONS.answers,
                    [(q.rate(s.REJECTIONS, by=[s.POLICY, s.REJECTION_REASON]), legend(s.POLICY, s.REJECTION_REASON))],
                    "ops",
                ),
                Panel(
                    "Failures in the window",
                    s.FAILURE_RATIO.answers,
                    [(f"max by ({label(s.FAILURE_RATIO, s.POLICY)}) ({q.select(s.FAILURE_RATIO)})", per_policy)],
                    "percentunit",
                    highest=1,
                ),
                Panel(
                    "Slow calls in the window",
                    s.SLOW_RATIO.answers,
                    [(f"max by ({label(s.SLOW_RATIO, s.POLICY)}) ({q.select(s.SLOW_RATIO)})", per_policy)],
                    "percentunit",
                    highest=1,
                ),
                Panel(
                    "Calls in the window",
                    s.WINDOW_CALLS.answers,
                    [(q.now(s.WINDOW_CALLS, by=[s.POLICY]), per_policy)],
                ),
            ],
        ),
        (
            "Retries",
            [
                Panel(
                    "Retries",
                    s.CALL_RETRIES.answers,
                    [
                        (q.rate(s.CALL_RETRIES, "_sum"), "retries"),
                        (q.rate(s.CALL_RETRIES, "_count"), "calls that retried"),
                        (q.rate(s.CALL_RETRIES, "_count", OUTCOME='="success"'), "calls that a retry rescued"),
                    ],
                    "ops",
                ),
                Panel(
                    "Retries for each call",
                    "How much more traffic do retries make? 0.1 is 10 % more.",
                    [(q.amplification([s.POLICY]), per_policy)],
                    "percentunit",
                ),
                Panel(
                    "Calls that back off",
                    f"{s.RETRY_DELAY.answers} Seconds spent waiting in each second: calls that wait at a time.",
                    [(q.rate(s.RETRY_DELAY, "_sum", [s.POLICY, s.DELAY_SOURCE]), legend(s.POLICY, s.DELAY_SOURCE))],
                ),
                Panel(
                    "Retries not made, by reason",
                    s.RETRY_SUPPRESSED.answers,
                    [
                        (
                            q.rate(s.RETRY_SUPPRESSED, by=[s.POLICY, s.SUPPRESSED_REASON]),
                            legend(s.POLICY, s.SUPPRESSED_REASON),
                        )
                    ],
                    "ops",
                ),
                Panel(
                    "Retry budget",
                    s.BUDGET_AVAILABLE.answers,
                    [(f"min by ({label(s.BUDGET_AVAILABLE, s.POLICY)}) ({q.select(s.BUDGET_AVAILABLE)})", per_policy)],
                ),
            ],
        ),
        (
            "Bulkheads, limiters and time-outs",
            [
                Panel(
                    "In flight",
                    s.BULKHEAD_USAGE.answers,
                    [
                        (q.now(s.BULKHEAD_USAGE, by=[s.POLICY]), per_policy),
                        (q.now(s.BULKHEAD_LIMIT, by=[s.POLICY]), f"{per_policy}, limit"),
                    ],
                ),
                Panel(
                    "Queue",
                    s.QUEUE_USAGE.answers,
                    [
                        (q.now(s.QUEUE_USAGE, by=[s.POLICY]), per_policy),
                        (q.now(s.QUEUE_LIMIT, by=[s.POLICY]), f"{per_policy}, limit"),
                    ],
                ),
                Panel(
                    "Waits for a slot, p95",
                    s.BULKHEAD_WAIT.answers,
                    [(q.quantile(0.95, s.BULKHEAD_WAIT, [s.POLICY, s.OUTCOME]), legend(s.POLICY, s.OUTCOME))],
                    "s",
                ),
                Panel(
                    "Waits for a permit, p95",
                    s.LIMITER_WAIT.answers,
                    [(q.quantile(0.95, s.LIMITER_WAIT, [s.POLICY, s.OUTCOME]), legend(s.POLICY, s.OUTCOME))],
                    "s",
                ),
                Panel(
                    "Permits at hand",
                    s.PERMITS.answers,
                    [(q.now(s.PERMITS, by=[s.POLICY]), per_policy)],
                ),
                Panel(
                    "Allowed rate",
                    s.LIMITER_RATE.answers,
                    [(q.now(s.LIMITER_RATE, by=[s.POLICY]), per_policy)],
                    "ops",
                ),
                Panel(
                    "Time-outs",
                    s.TIMEOUTS.answers,
                    [(q.rate(s.TIMEOUTS, by=[s.POLICY, s.TIMEOUT_SCOPE]), legend(s.POLICY, s.TIMEOUT_SCOPE))],
                    "ops",
                ),
                Panel(
                    "Abandoned threads",
                    s.ABANDONED.answers,
                    [(q.now(s.ABANDONED, by=[s.POLICY]), per_policy)],
                ),
            ],
        ),
        (
            "Fallbacks and cache",
            [
                Panel(
                    "Fallbacks",
                    s.FALLBACKS.answers,
                    [
                        (
                            q.rate(s.FALLBACKS, by=[s.POLICY, s.FALLBACK_KIND, s.ERROR_TYPE]),
                            f"{legend(s.POLICY, s.FALLBACK_KIND)} for {legend(s.ERROR_TYPE)}",
                        )
                    ],
                    "ops",
                ),
                Panel(
                    "Cache lookups",
                    s.CACHE_LOOKUPS.answers,
                    [(q.rate(s.CACHE_LOOKUPS, by=[s.POLICY, s.CACHE_RESULT]), legend(s.POLICY, s.CACHE_RESULT))],
                    "ops",
                ),
                Panel(
                    "Age of what was served, p95",
                    s.CACHE_AGE.answers,
                    [(q.quantile(0.95, s.CACHE_AGE, [s.POLICY, s.CACHE_RESULT]), legend(s.POLICY, s.CACHE_RESULT))],
                    "s",
                ),
                Panel("Cache entries", s.CACHE_ENTRIES.answers, [(q.now(s.CACHE_ENTRIES, by=[s.POLICY]), per_policy)]),
            ],
        ),
        (
            "Hedges",
            [
                Panel(
                    "Hedges",
                    s.CALL_HEDGES.answers,
                    [
                        (q.rate(s.CALL_HEDGES, "_sum", [s.POLICY]), f"{per_policy}, further attempts"),
                        (q.rate(s.CALL_HEDGES, "_count", [s.POLICY]), f"{per_policy}, hedged calls"),
                    ],
                    "ops",
                ),
                Panel(
                    "Who answered first",
                    s.HEDGE_WINS.answers,
                    [(q.rate(s.HEDGE_WINS, by=[s.POLICY, s.ATTEMPT_KIND]), legend(s.POLICY, s.ATTEMPT_KIND))],
                    "ops",
                ),
            ],
        ),
        (
            "Stores of fleets",
            [
                Panel(
                    "Stores",
                    f"{s.STORE_STATUS.answers} Processes by the state of their store.",
                    [(q.now(s.STORE_STATUS, by=[s.STORE_TYPE, s.STORE_STATE]), legend(s.STORE_TYPE, s.STORE_STATE))],
                ),
                Panel(
                    "Exchanges with the store",
                    f"{s.STORE_DURATION.answers} Recorded only with store_durations=True.",
                    [
                        (
                            q.quantile(0.95, s.STORE_DURATION, [s.STORE_TYPE, s.STORE_OPERATION]),
                            f"{legend(s.STORE_TYPE, s.STORE_OPERATION)} p95",
                        )
                    ],
                    "s",
                ),
                Panel(
                    "Failed exchanges",
                    "What fails between the processes and the store?",
                    [(q.rate(s.STORE_DURATION, "_count", [s.ERROR_TYPE], ERROR_TYPE='!=""'), legend(s.ERROR_TYPE))],
                    "ops",
                ),
            ],
        ),
        (
            "Configuration",
            [
                Panel(
                    "Reloads",
                    s.RELOADS.answers,
                    [(q.increase(s.RELOADS, by=[s.OUTCOME]), legend(s.OUTCOME))],
                    custom={"drawStyle": "bars"},
                )
            ],
        ),
    ]


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


# --- the alerts -------------------------------------------------------------------------------------------------------


@frozen
class Alert:
    """One alert rule."""

    name: str
    expression: str
    severity: str
    summary: str
    description: str
    lasting: str = "0m"
    """How long the expression must hold."""

    @property
    def anchor(self) -> str:
        """Its section in the docs."""
        return self.name.lower()


def alerts() -> list[Alert]:
    """All rules."""
    q = Queries("5m")
    policy = [s.POLICY]
    where = f"{{{{ $labels.{s.prometheus_label(s.POLICY)} }}}}"
    calls = q.rate(s.CALL_DURATION, "_count", policy, **FINISHED)
    degraded = q.rate(s.CALL_DURATION, "_count", policy, DEGRADED='="true"')
    failed = q.rate(s.CALL_DURATION, "_count", policy, OUTCOME='=~"error|rejected|timeout"')
    return [
        Alert(
            "ResilienceCircuitOpened",
            q.grew(s.TRANSITIONS, by=policy, **OPENED),
            "warning",
            f"Circuit {where} opened",
            "What it guards failed, or was slow, beyond its threshold. Calls are rejected until a probe succeeds.",
        ),
        Alert(
            "ResilienceCircuitOpenLong",
            q.now(s.STATUS, by=policy, CIRCUIT_STATE='=~"open|half_open|forced_open"') + " > 0",
            "critical",
            f"Circuit {where} has not been closed for 5 minutes",
            "In some process it is open, is probing without success, or was opened by hand: this is an outage.",
            "5m",
        ),
        Alert(
            "ResilienceSuccessLow",
            f"{failed} / {calls} > 0.05",
            "critical",
            f"Less than 95 % of the calls of {where} succeed",
            "Retries did not help, and callers got errors. {{ $value | humanizePercentage }} of them failed.",
            "10m",
        ),
        Alert(
            "ResilienceAnswersDegraded",
            f"{degraded} / {calls} > 0.05",
            "warning",
            f"More than 5 % of the answers of {where} are not the real ones",
            "Fallbacks and old values of a cache answer: callers see success, and what is behind it is failing.",
            "10m",
        ),
        Alert(
            "ResilienceRetryAmplification",
            f"{q.amplification(policy)} > 0.5",
            "warning",
            f"Retries make 50 % more calls of {where}",
            "{{ $value | humanize }} retries for each call: they may keep what they call from getting well.",
            "10m",
        ),
        Alert(
            "ResilienceRetryBudgetExhausted",
            q.grew(s.RETRY_SUPPRESSED, by=policy, SUPPRESSED_REASON='="budget"'),
            "warning",
            f"Retries of {where} have used their budget up",
            "Too large a share of the calls fails, so failed ones are not tried again.",
            "5m",
        ),
        Alert(
            "ResilienceRejections",
            f"{q.rate(s.REJECTIONS, by=[s.POLICY, s.REJECTION_REASON])} > 1",
            "warning",
            f"{where} rejects more than one call a second",
            f"The reason is {{{{ $labels.{s.prometheus_label(s.REJECTION_REASON)} }}}}.",
            "5m",
        ),
        Alert(
            "ResilienceBulkheadQueueFull",
            f"max by ({label(s.QUEUE_USAGE, s.POLICY)}) ({q.select(s.QUEUE_USAGE)} / {q.select(s.QUEUE_LIMIT)}) >= 0.9",
            "warning",
            f"The queue of bulkhead {where} is full in a process",
            "Calls take longer, or come faster, than its slots allow; further ones are rejected.",
            "2m",
        ),
        Alert(
            "ResilienceStoreDegraded",
            q.now(s.STORE_STATUS, by=[s.STORE_TYPE], STORE_STATE='="degraded"') + " > 0",
            "warning",
            f"Processes have lost their {{{{ $labels.{s.prometheus_label(s.STORE_TYPE)} }}}} store",
            "Each of these {{ $value }} decides by itself: circuits are not shared, limits are local shares.",
            "1m",
        ),
        Alert(
            "ResilienceAbandonedThreads",
            f"{q.now(s.ABANDONED, by=policy)} > 10",
            "warning",
            f"Abandoned threads of {where} pile up",
            "Blocking calls ran out of time and still run: {{ $value }} threads. What they wait for needs a time-out.",
            "5m",
        ),
        Alert(
            "ResilienceConfigurationRefused",
            Queries("15m").grew(s.RELOADS, OUTCOME='="error"'),
            "warning",
            "A changed configuration was refused",
            "A process goes on with the configuration before; its log says what is wrong with the new one.",
        ),
    ]


def alert_rules() -> str:
    """The rules as Prometheus reads them."""
    lines = [
        "# Made from the schema by tools/dashboards.py: make dashboards",
        "groups:",
        "  - name: resilience",
        "    rules:",
    ]
    for alert in alerts():
        # A JSON string is a YAML string, whatever is in it.
        lines += [
            f"      - alert: {alert.name}",
            f"        expr: {json.dumps(alert.expression)}",
            f"        for: {alert.lasting}",
            "        labels:",
            f"          severity: {alert.severity}",
            "        annotations:",
            f"          summary: {json.dumps(alert.summary)}",
            f"          description: {json.dumps(alert.description)}",
            f"          runbook: {DOCS}#{alert.anchor}",
        ]
    return "\n".join(lines) + "\n"


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

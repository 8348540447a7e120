"""The alert rules: what is worth waking somebody for, built from the metrics of the schema."""

from __future__ import annotations

import json

from attrs import frozen

from resilience_core import _schema as s
from tools.queries import FINISHED, OPENED, Queries, label

DOCS = "docs/observability.md"


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

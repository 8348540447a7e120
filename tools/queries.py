"""PromQL from the metrics of the schema: no name is written twice, and a label that a metric lacks is an error."""

from __future__ import annotations

from collections.abc import Sequence

from attrs import frozen

from resilience_core import _schema as s


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

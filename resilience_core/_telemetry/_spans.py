"""The spans: one for a call, one for each attempt where several are possible, one for a wait that was felt.

A call's span is current while it runs, so that spans of HTTP libraries and exemplars of metrics belong to it. Errors
are told by their class only: messages may hold anything.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, TypeAlias

from opentelemetry import context, trace
from opentelemetry.trace import Status, StatusCode

from resilience_core import _schema as s
from resilience_core._event_records import error_type, record_of
from resilience_core._events import Event

if TYPE_CHECKING:
    from opentelemetry.trace import Span, Tracer

    from resilience_core._weave.site import Site

Open: TypeAlias = "tuple[Span, Any]"
"""A span and the token that ends its being current."""


class Spans:
    """The spans of one tracer."""

    def __init__(self, tracer: Tracer) -> None:
        self._tracer = tracer

    def begin(self, site: Site) -> Open:
        """The span of a call."""
        attributes = {s.POLICY: site.pipeline, s.OPERATION: site.operation}
        if site.circuit is not None:
            attributes[s.CIRCUIT_STATE] = str(site.circuit.state.value)
        return self._open(s.CALL_SPAN.format(name=site.pipeline), attributes)

    def begin_attempt(self, policy: str, kind: str, number: int) -> Open:
        """The span of one attempt."""
        attributes: dict[str, Any] = {s.POLICY: policy, s.ATTEMPT_KIND: kind, s.ATTEMPT_NUMBER: number}
        if number > 1:
            attributes[s.RESEND_COUNT] = number - 1
        return self._open(s.ATTEMPT_SPAN, attributes)

    def _open(self, name: str, attributes: dict[str, Any]) -> Open:
        span = self._tracer.start_span(name, attributes=attributes)
        return span, context.attach(trace.set_span_in_context(span))

    @staticmethod
    def leave(span: Open) -> None:
        """The span is current no more; in the context in which it was begun."""
        context.detach(span[1])

    @staticmethod
    def end(span: Open, outcome: str, error: BaseException | None, attributes: dict[str, Any]) -> None:
        """End a span as the call or the attempt ended."""
        recorded = span[0]
        if recorded.is_recording():
            recorded.set_attributes({s.OUTCOME: outcome, **attributes})
            if error is not None:
                kind = error_type(error)
                recorded.set_attribute(s.ERROR_TYPE, kind)
                if outcome != "cancelled":
                    recorded.set_status(Status(StatusCode.ERROR, kind))
            elif outcome == "error":
                recorded.set_status(Status(StatusCode.ERROR))
        recorded.end()

    def waited(self, source: str, policy: str, seconds: float, outcome: str) -> None:
        """A wait that is over now."""
        if seconds >= s.SHORTEST_WAIT:
            now = time.time_ns()
            attributes: dict[str, Any] = {
                s.POLICY: policy,
                s.WAIT_SOURCE: source,
                s.WAITED: seconds,
                s.OUTCOME: outcome,
            }
            name = s.WAIT_SPAN.format(source=source)
            self._tracer.start_span(name, attributes=attributes, start_time=now - int(seconds * 1e9)).end(now)

    @staticmethod
    def annotate(span: Open | None, attributes: Mapping[str, Any]) -> None:
        """Add attributes to `span`, or to the one that is current."""
        recorded = trace.get_current_span() if span is None else span[0]
        recorded.set_attributes({key: value for key, value in attributes.items() if value is not None})

    @staticmethod
    def probe() -> None:
        """The attempt that is current is the probe of a circuit."""
        trace.get_current_span().set_attribute(s.ATTEMPT_KIND, "probe")

    @staticmethod
    def tell(event: Event) -> None:
        """Tell an event on the span that is current."""
        span = trace.get_current_span()
        if span.is_recording():
            record = record_of(event)
            span.add_event(record.name, dict(record.attributes))

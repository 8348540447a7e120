"""What is recorded of calls, through the OpenTelemetry API only; without a provider it costs one flag.

    _switch.py        whether anything is recorded, where, and what of it
    _recording.py     around each call and attempt: how long, how it ended
    _instruments.py   metrics: one histogram record a call, counters from events, states read when a reader collects
    _spans.py         spans of calls, attempts and waits, and events on them

What is recorded is defined in `_schema.py`. The last two are imported when there is a provider to record with.
"""

from resilience_core._telemetry._recording import (
    Wait,
    attempted,
    attempted_async,
    begun_attempt,
    is_degraded,
    leave_call,
    measured,
    measured_async,
    measured_opening,
    measured_opening_async,
    note_attributes,
    note_bad_result,
    note_degraded,
    note_hedge,
    note_lookup,
    note_probe,
    note_retry,
    note_wait,
    outcome_of,
    unanswered,
    unanswered_async,
)
from resilience_core._telemetry._switch import Settings, Telemetry, stores, telemetry

__all__ = [
    "Settings",
    "Telemetry",
    "Wait",
    "attempted",
    "attempted_async",
    "begun_attempt",
    "is_degraded",
    "leave_call",
    "measured",
    "measured_async",
    "measured_opening",
    "measured_opening_async",
    "note_attributes",
    "note_bad_result",
    "note_degraded",
    "note_hedge",
    "note_lookup",
    "note_probe",
    "note_retry",
    "note_wait",
    "outcome_of",
    "stores",
    "telemetry",
    "unanswered",
    "unanswered_async",
]

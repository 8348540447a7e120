"""For tests of guarded code: virtual time, recorded events, forced states, repeatable chance, broken networks.

Nothing here is loaded by `import resilience_core`.
"""

from resilience_core.testing._fault_proxy import FaultProxy
from resilience_core.testing._forced import forced_state, seeded
from resilience_core.testing._loop import Deadlock, run_virtual, run_virtual_trio
from resilience_core.testing._recorder import EventRecorder, record_events
from resilience_core.testing._telemetry import MetricPoint, TelemetryRecorder, record_telemetry
from resilience_core.testing._virtual import VirtualClock, virtual_time

__all__ = [
    "Deadlock",
    "EventRecorder",
    "FaultProxy",
    "MetricPoint",
    "TelemetryRecorder",
    "VirtualClock",
    "forced_state",
    "record_events",
    "record_telemetry",
    "run_virtual",
    "run_virtual_trio",
    "seeded",
    "virtual_time",
]

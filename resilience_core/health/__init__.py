"""Health pages: a report for people, probes for orchestrators, and the state feed, for aiohttp and any ASGI server.

An open breaker is `warn`, with status 200: it is the breaker at work, and every other process of the fleet has it open
as well. Taking them all out of the load balancer would turn the outage of a dependency into one of the service.
"""

from resilience_core.health._health import Health
from resilience_core.health._report import health_report

__all__ = ["Health", "health_report"]

"""Versions of the Graph API that have ended: v20.0 did so in September 2026. Newer ones than today's are served.

What the API says about a version that has ended is not known: the answer here is its answer to a version that is none.
"""

from __future__ import annotations

from resilience_whatsapp.simulator.envelopes import Refusal

OLDEST = (21, 0)


def refusal_of(version: tuple[int, int]) -> Refusal | None:
    """Why a path's version is refused; None for one that is served."""
    return None if version >= OLDEST else Refusal(100, message="Invalid version format. Use format like 'v26.0'")

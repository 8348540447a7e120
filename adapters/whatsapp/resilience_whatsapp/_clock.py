"""The time of everything here that is given no clock: that of the core's policies, which `virtual_time` can replace."""

from __future__ import annotations

from typing import cast

from attrs import fields

from resilience_core import Clock, Retry

SYSTEM = cast("Clock", fields(Retry).clock.default)
"""The clock that a policy has when it is given none."""

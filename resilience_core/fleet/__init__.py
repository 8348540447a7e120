"""Policies shared by many processes. With Redis: `resilience_core.redis.RedisFleet`; with any other store, here."""

from resilience_core.fleet._fleet import BaseFleet as BaseFleet
from resilience_core.fleet._plain import StateStore as StateStore
from resilience_core.fleet._plain import StoreFleet as StoreFleet
from resilience_core.fleet._store import SharedStore as SharedStore

__all__ = ["BaseFleet", "SharedStore", "StateStore", "StoreFleet"]

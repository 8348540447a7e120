"""Policies shared by many processes, whatever keeps the state: `resilience_core.redis.RedisFleet`, or a plain store."""

from resilience_core.fleet._fleet import BaseFleet as BaseFleet

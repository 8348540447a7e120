"""Fixtures that all tests share, and what they ask of hypothesis."""

import datetime

from hypothesis import HealthCheck, settings

from tests._redis import own_redis_cluster as own_redis_cluster
from tests._redis import own_redis_server as own_redis_server
from tests._redis import redis_cluster as redis_cluster
from tests._redis import redis_sentinel as redis_sentinel
from tests._redis import redis_tls as redis_tls
from tests.worlds import world as world

# An example takes about 1 ms. With as many test processes as cores, one that has to wait for a core would
# exceed the usual limit of 0.2 s, or be counted as slow to generate.
settings.register_profile(
    "busy machine",
    settings.default,
    deadline=datetime.timedelta(seconds=5),
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("busy machine")

"""Fixtures that all tests share, and what they ask of hypothesis."""

from hypothesis import HealthCheck, settings

from tests._cost import LONG
from tests._redis import own_redis_cluster as own_redis_cluster
from tests._redis import own_redis_server as own_redis_server
from tests._redis import redis_cluster as redis_cluster
from tests._redis import redis_sentinel as redis_sentinel
from tests._redis import redis_tls as redis_tls
from tests.worlds import world as world

# An example takes about 1 ms. With more test processes than cores, one that has to wait for a core would exceed any
# limit, or be counted as slow to generate. The examples are the same each time, or chance would decide which run finds
# a fault of long ago, and which one covers every branch; `make prove-long` tries others.
settings.register_profile(
    "busy machine",
    settings.default,
    deadline=None,
    derandomize=not LONG,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("busy machine")

"""Fixtures that all tests share."""

from tests._redis import own_redis_cluster as own_redis_cluster
from tests._redis import own_redis_server as own_redis_server
from tests._redis import redis_cluster as redis_cluster
from tests._redis import redis_sentinel as redis_sentinel
from tests._redis import redis_server as redis_server
from tests._redis import redis_tls as redis_tls
from tests.worlds import world as world

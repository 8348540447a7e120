"""Fixtures that all tests share."""

from tests._redis import own_redis_server as own_redis_server
from tests._redis import redis_server as redis_server
from tests.worlds import world as world

from tests._redis import redis_server as redis_server
from tests.worlds import world as world

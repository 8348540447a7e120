"""The agent's connections to Redis: one for scripts, one for news. Redis-py does the talking.

Only `EVALSHA` with the keys of one object, `EVAL` where the server does not know a script, and `SUBSCRIBE`. A
connection on which anything failed is closed and never used again.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Iterable, Sequence
from functools import cache
from pathlib import Path
from typing import Any, ClassVar

import redis
from redis.backoff import NoBackoff
from redis.cluster import ClusterNode
from redis.exceptions import NoScriptError
from redis.retry import Retry
from redis.sentinel import Sentinel, SentinelConnectionPool

from resilience_core.fleet._link import Request

_notices: dict[str, Any] = {}
try:
    from redis.maint_notifications import MaintNotificationsConfig
except ImportError:  # redis-py before 7
    pass
else:  # not asked for: one command less at each connection, which an ACL might refuse
    _notices["maint_notifications_config"] = MaintNotificationsConfig(enabled=False)

SCRIPTS = Path(__file__).with_name("scripts")


@cache
def script(name: str) -> tuple[str, str]:
    """A script's text, and the hash by which the server knows it."""
    text = (SCRIPTS / f"{name}.lua").read_text("utf-8")
    return text, hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest()


class RedisLink:
    """Open connections, made from what a user gave: an address or a client."""

    errors: ClassVar[tuple[type[BaseException], ...]] = (redis.RedisError, OSError)

    def __init__(self, source: Any, timeout: float) -> None:
        self._client = _client(source, timeout)
        self._cluster = hasattr(self._client, "nodes_manager")
        self._timeout = timeout
        self._news: Any = None
        self._early: list[Any] = []  # came while a confirmation was waited for
        self._channels: set[str] = set()

    def run(self, requests: Sequence[Request]) -> list[Any]:
        """One round trip for all of them (in a cluster, one each); a second one where a script is not known."""
        replies = self._send(requests)
        unknown = [at for at, reply in enumerate(replies) if isinstance(reply, NoScriptError)]
        if unknown:
            # With the text itself: what is loaded first may be flushed again before it is asked for by its hash.
            for at, reply in zip(unknown, self._send([requests[at] for at in unknown], texts=True), strict=True):
                replies[at] = reply
        return [_understood(request, reply) for request, reply in zip(requests, replies, strict=True)]

    def round_trips(self, requests: int) -> int:
        """One for all of them, but in a cluster."""
        return requests if self._cluster else 1

    def _send(self, requests: Sequence[Request], *, texts: bool = False) -> list[Any]:
        calls = [(script(request.script)[0 if texts else 1], *_arguments(request)) for request in requests]
        if self._cluster or len(calls) == 1:
            replies = []
            for call in calls:
                try:
                    replies.append(self._client.eval(*call) if texts else self._client.evalsha(*call))
                except redis.ResponseError as error:  # the server has answered
                    replies.append(error)
            return replies
        with self._client.pipeline(transaction=False) as pipeline:
            for call in calls:
                pipeline.eval(*call) if texts else pipeline.evalsha(*call)
            return list(pipeline.execute(raise_on_error=False))

    def listen(self, channels: Iterable[str]) -> None:
        """Subscribe to those that are new, leave those that nobody wants any more."""
        wanted = set(channels)
        if wanted == self._channels:
            return
        if self._news is None:
            self._news = self._client.pubsub()
        new, old = wanted - self._channels, self._channels - wanted
        if new:
            self._news.subscribe(*sorted(new))
        if old:
            self._news.unsubscribe(*sorted(old))
        self._confirmed(len(new) + len(old))
        self._channels = wanted
        if not wanted:  # nobody reads there any more, so nobody would see it end
            self._news.close()
            self._news = None

    def _confirmed(self, count: int) -> None:
        """Wait for so many confirmations: an ACL may refuse, and what is read before would miss the news until then."""
        end = time.monotonic() + self._timeout
        while count:
            message = self._news.get_message(timeout=max(0.0, end - time.monotonic()))
            if message is None:
                raise redis.TimeoutError("a subscription was not confirmed in time")
            if message["type"] in ("subscribe", "unsubscribe"):
                count -= 1
            else:
                self._early.append(message)

    def news(self) -> list[tuple[str, bytes]]:
        """What has arrived."""
        found, self._early = self._early, []
        while self._news is not None and self._news.subscribed:
            sock = self._news.connection._sock
            if sock is None:
                raise redis.ConnectionError("the connection for news was closed")
            message = self._news.get_message(timeout=0)
            if message is None:
                if not self._news.connection.can_read(timeout=0):
                    break
            else:
                found.append(message)
        return [
            (message["channel"].decode("utf-8", "replace"), message["data"])
            for message in found
            if message["type"] == "message"
        ]

    def descriptors(self) -> list[int]:
        """The socket that brings news."""
        sock = None if self._news is None or self._news.connection is None else self._news.connection._sock
        return [] if sock is None else [sock.fileno()]

    def close(self) -> None:
        """Close both connections."""
        if self._news is not None:
            self._news.close()
        self._client.close()

    def abandon(self) -> None:
        """The sockets are the parent's: closed here without a word, and nothing of them is used."""
        connections: list[Any] = [] if self._news is None else [self._news.connection]
        for pool in _pools(self._client):
            connections += [*pool._available_connections, *pool._in_use_connections]
        for connection in connections:
            sock: Any = getattr(connection, "_sock", None)
            if sock is not None:
                os.close(sock.detach())
                connection._sock = None


def _arguments(request: Request) -> tuple[Any, ...]:
    return 1 + len(request.sisters), request.key, *request.sisters, *request.args


def _pools(client: Any) -> list[Any]:
    if hasattr(client, "nodes_manager"):
        nodes = list(client.nodes_manager.nodes_cache.values())
        return [node.redis_connection.connection_pool for node in nodes if node.redis_connection is not None]
    return [client.connection_pool]


def _understood(request: Request, reply: Any) -> Any:
    """The answer with the server's time in microseconds; that of this host where the server does not tell."""
    if isinstance(reply, Exception) or request.script not in ("read", "swap"):
        return reply
    at = 1 if request.script == "read" else 2
    seconds, micros = reply[at], reply[at + 1]
    server = time.time_ns() // 1000 if seconds is None else int(seconds) * 1_000_000 + int(micros)
    return (*reply[:at], server, *reply[at + 2 :])


def _client(source: Any, timeout: float) -> Any:
    """A client of our own: short time-outs, no attempts but the first, and no connection that anybody else uses."""
    own: dict[str, Any] = {
        "socket_timeout": timeout,
        "socket_connect_timeout": timeout,
        "decode_responses": False,
        "health_check_interval": 0,
        "protocol": 2,
        **_notices,
    }
    once = Retry(NoBackoff(), 0)
    if isinstance(source, str):
        # Taken apart first: what the address says of time-outs and the like would win over what it is given beside it.
        source = redis.Redis.from_url(source)
    if isinstance(source, redis.RedisCluster):
        nodes = source.nodes_manager
        kwargs: dict[str, Any] = {**_copied(nodes.connection_kwargs), **own}
        # That of the client signs in, and so will ours. The user's own comes after that.
        kwargs["redis_connect_func"] = getattr(source, "user_on_connect_func", None)
        # New ones: those of the client have its connections.
        startup = [
            ClusterNode(node.host, node.port)  # type: ignore[no-untyped-call]
            for node in nodes.startup_nodes.values()
        ]
        remap = getattr(nodes, "address_remap", None)
        return redis.RedisCluster(startup_nodes=startup, retry=Retry(NoBackoff(), 1), address_remap=remap, **kwargs)
    pool = source.connection_pool
    kwargs = {**_copied(pool.connection_kwargs, "host", "port"), **own, "retry": once}
    if isinstance(pool, SentinelConnectionPool):
        kwargs["connection_class"] = pool.connection_class
        fresh: Any = SentinelConnectionPool(  # type: ignore[no-untyped-call]
            pool.service_name, _sentinel(pool.sentinel_manager, own), **kwargs
        )
    else:
        fresh = redis.ConnectionPool(connection_class=pool.connection_class, **kwargs)
    client = redis.Redis(connection_pool=fresh)
    client.auto_close_connection_pool = True
    return client


_OF_THE_CLIENT = (
    "cache",
    "cache_config",
    "connection_pool",
    "himport_registry",
    "max_connections",
    "retry",
    "host",
    "port",
)


def _copied(kwargs: dict[str, Any], *also: str) -> dict[str, Any]:
    """The settings of a client's connections, without what belongs to that client alone."""
    return {
        name: value
        for name, value in kwargs.items()
        if name in also or (name not in _OF_THE_CLIENT and not name.startswith(("maint_notifications", "orig_")))
    }


def _sentinel(users: Any, own: dict[str, Any]) -> Sentinel:
    """The same sentinels, asked over connections of our own: one that hangs must not hold up the agent for ever."""
    kwargs = {**users.sentinel_kwargs, **own, "retry": Retry(NoBackoff(), 0)}
    addresses = [
        (each.connection_pool.connection_kwargs["host"], each.connection_pool.connection_kwargs["port"])
        for each in users.sentinels
    ]
    forced = getattr(users, "_force_master_ip", None)
    return Sentinel(  # type: ignore[no-untyped-call]
        addresses, users.min_other_sentinels, kwargs, force_master_ip=forced, **users.connection_kwargs
    )

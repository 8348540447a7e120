"""A process with an admin socket and a fleet, that does what it reads: `python _program.py <url> <prefix>`."""

from __future__ import annotations

import os
import sys
import warnings

from resilience_core import Bulkhead, CircuitBreaker, Pipeline, Retry
from resilience_core.admin import AdminSocket
from resilience_core.redis import RedisFleet

URL, PREFIX = sys.argv[1:3]
fleet = RedisFleet(URL, prefix=PREFIX, timeout=8.0, poll_interval=0.5)
breakers = {"graph": CircuitBreaker("graph", fleet=fleet), "pay": CircuitBreaker("pay", failure_threshold=2)}
bulkhead = Bulkhead("slots", max_concurrent=4)
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    upside_down = Pipeline(breakers["pay"], Retry(on=OSError), name="upside_down")
admin = AdminSocket()


def boom() -> None:
    raise ZeroDivisionError


def fail(name: str) -> None:
    try:
        breakers[name].call(boom)
    except ZeroDivisionError:
        pass


def fork() -> str:
    """What the child sees, and whether the parent's socket outlives it."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            seen = str(admin.path)
            admin.close()  # nothing
            with admin:  # one of its own
                seen += f" {admin.path is not None and admin.path.stem == str(os.getpid())}"
            os.write(writing, seen.encode())
        finally:
            os._exit(0)
    os.waitpid(child, 0)
    told = os.read(reading, 100).decode()
    assert admin.path is not None
    return f"{told} {admin.path.exists()}"


with admin:
    admin.start()  # nothing
    breakers["graph"].call(len, "ab")
    fleet.wait_ready(10)
    print(admin.path, flush=True)
    for line in sys.stdin:
        what, _, rest = line.strip().partition(" ")
        if what == "fail":
            fail(rest)
        print(fork() if what == "fork" else "done", flush=True)
fleet.close()

"""Programs that the tests of the agent's life start: `python _program.py <what> <url> <prefix>`."""

from __future__ import annotations

import multiprocessing
import os
import sys
import threading

from resilience_core import CircuitBreaker
from resilience_core.redis import RedisFleet

WHAT, URL, PREFIX = sys.argv[1:4]


def make() -> CircuitBreaker:
    return CircuitBreaker("graph", fleet=RedisFleet(URL, prefix=PREFIX, timeout=8.0))


breaker = make()


def fail_once() -> None:
    try:
        breaker.call(lambda: 1 / 0)
    except ZeroDivisionError:
        pass


def in_a_child() -> None:
    fail_once()
    assert breaker.fleet.wait_ready(40), "the child's own agent is connected"


def main() -> None:
    if WHAT == "idle":  # made, never called
        print("threads", threading.active_count())
        return
    fail_once()
    if WHAT == "at-once":  # ends before the store has answered
        return
    assert breaker.fleet.wait_ready(40)
    if WHAT == "fork":
        children = []
        for _ in range(4):
            child = os.fork()
            if child == 0:
                try:
                    in_a_child()
                    breaker.fleet.close()
                finally:
                    sys.stdout.flush()
                    os._exit(0)
            children.append(child)
        codes = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
        print("children", codes)
    elif WHAT in ("mp-fork", "mp-forkserver", "mp-spawn"):
        context = multiprocessing.get_context(WHAT.removeprefix("mp-"))
        children = [context.Process(target=in_a_child) for _ in range(4)]
        for child in children:
            child.start()
        for child in children:
            child.join()
        print("children", [child.exitcode for child in children])
    print("threads", sorted(thread.name for thread in threading.enumerate() if "fleet" in thread.name))


if __name__ == "__main__":
    main()

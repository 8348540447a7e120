"""Runs a program in a time that is `speed` times as fast, as the simulator's is: `python -m proofs.whatsapp.scaled`.

Everything in the process that asks for the time or waits for it is scaled, before any of it is imported: `time`, the
timers of asyncio, waits of threads, and the time that scripts in Redis are told. So programs are written as for the
API itself, with its seconds. Not scaled, and so longer by the factor in API's time: what work takes, the network, the
time-outs of sockets, SQLite's locks, and how long Redis keeps a record.
"""

from __future__ import annotations

import asyncio
import hashlib
import importlib
import json
import selectors
import sys
import threading
import time
from typing import Any


class _Selector(selectors.DefaultSelector):
    """Waits less."""

    speed = 1.0

    def select(self, timeout: float | None = None) -> Any:
        """As that of its base, for a timeout of the faster time."""
        return super().select(None if timeout is None else timeout / self.speed)


def scale(speed: float, epoch: float) -> None:
    """Let this process live `speed` seconds in one, from `epoch` on, which is the same moment in both times."""
    real_wall, real_monotonic, real_sleep, real_wait = time.time, time.monotonic, time.sleep, threading.Condition.wait

    def wait(self: threading.Condition, timeout: float | None = None) -> bool:
        return real_wait(self, None if timeout is None else timeout / speed)

    def sleep(seconds: Any) -> None:
        real_sleep(seconds / speed)

    time.time = lambda: epoch + (real_wall() - epoch) * speed
    time.monotonic = lambda: real_monotonic() * speed
    time.sleep = sleep
    threading.Condition.wait = wait  # type: ignore[method-assign]
    _Selector.speed = speed


_TIME = "local time = redis.pcall('TIME')"


def scale_redis(speed: float, epoch: float) -> None:
    """Let the scripts of a fleet see the faster time. The server's clock and the members' stay the same one."""
    from resilience_core.redis import _link

    original = _link.script
    # Whole microseconds: 2^53 of them are three centuries.
    faster = (
        f"{_TIME}\nif not time['err'] then\n"
        f"  local t = {epoch * 1e6:.0f} + math.floor((time[1] * 1000000 + time[2] - {epoch * 1e6:.0f}) * {speed!r})\n"
        "  time = {string.format('%.0f', math.floor(t / 1000000)), string.format('%.0f', t % 1000000)}\nend"
    )

    def script(name: str) -> tuple[str, str]:
        text, _ = original(name)
        text = text.replace(_TIME, faster)
        return text, hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest()

    for name in ("read", "window", "slots", "swap", "take", "budget"):
        assert _TIME in original(name)[0], f"{name}.lua asks for the time in another way: scale it there"
    _link.script = script  # type: ignore[assignment]


def main() -> None:
    """The arguments: a module with `async def main(task)`, and its task as a JSON object."""
    program, task = sys.argv[1], json.loads(sys.argv[2])
    scale(task["speed"], task["epoch"])
    from proofs.whatsapp.senders.common import Task

    if task["options"].get("redis"):
        scale_redis(task["speed"], task["epoch"])
    if task["options"].get("plant"):
        from proofs.whatsapp.plants import apply

        apply(task["options"]["plant"])
    run = importlib.import_module(program).main
    with asyncio.Runner(loop_factory=lambda: asyncio.SelectorEventLoop(_Selector())) as runner:
        runner.run(run(Task(**task)))


if __name__ == "__main__":
    main()

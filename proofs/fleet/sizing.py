"""What a fleet asks of its Redis: commands and messages a second, by members and by how many calls fail."""

from __future__ import annotations

import random
import time
from typing import Any

from proofs.fleet.crew import Broken, Crew, Member, join, leave, sleep_until
from proofs.fleet.keys import commands
from proofs.redis_server import Server

POLL = 2.0
"""Seconds, the default of `poll_interval`."""
A_SECOND = 20
"""Calls that each member makes."""


def calls_that_fail(member: Member, name: str, share: float, at: int, seconds: float) -> int:
    """Make calls of which a share fails; how many were made, not rejected."""
    chance = random.Random(member.index)
    made = 0

    def work() -> None:
        nonlocal made
        made += 1
        if chance.random() < share:
            raise Broken

    call = member.breakers[name](work)
    sleep_until(at + round(1e9 * chance.random() / A_SECOND))
    end = at + round(seconds * 1e9)
    while time.monotonic_ns() < end:
        member.call(call)
        time.sleep(1 / A_SECOND)
    return made


def _published(client: Any) -> int:
    figures: Any = client.info("commandstats").get("cmdstat_publish", {"calls": 0})
    return int(figures["calls"])


def _cpu(client: Any) -> float:
    figures: Any = client.info("cpu")
    return float(figures["used_cpu_user"] + figures["used_cpu_sys"])


def measure(most: int, small: bool) -> None:
    """Measure and print."""
    sizes = [size for size in (8, 16, 32, 64) if size <= most]
    seconds = 1.0 if small else 6.0
    title = f"{'members':>8} {'calls that fail':>16} {'commands/s':>11} {'each':>7} {'published/s':>12}"
    print(f"{title} {'delivered/s':>12} {'failed/s':>9} {'server busy':>12}")
    races: list[float] = []
    server, crew = Server(), Crew(max(sizes))
    try:
        with server.client() as client:
            for share in (0.0, 0.001, 0.01, 1.0):
                for size in sizes:
                    asked, failed = _row(crew, server, client, size, share, seconds)
                    if share == 0.01 and failed:
                        races.append((asked - size / POLL) / (failed * size))
    finally:
        crew.close()
        server.close()
    some = max(races, default=0.0)
    print(
        f"""
one circuit, poll_interval {POLL:g} s, {A_SECOND} calls/s of each member, threshold 5, open for 60 s

healthy, or open   commands/s = members * circuits / poll_interval; nothing is published
a failure          2 messages to each member: the failure, and the success that forgets it;
                   commands: up to one of each member, which all tell of their next success, {some:.2f} of each here
an opening         1 message to each member
10,000 members     {10_000 / POLL:,.0f} commands/s while healthy, with poll_interval 30 s {10_000 / 30:,.0f}; but each
                   failure 20,000 deliveries and up to {10_000 * some:,.0f} commands: a few a second are too many.
                   Members that share a circuit should be few: give each region or shard a name of its own."""
    )


def _row(crew: Crew, server: Server, client: Any, size: int, share: float, seconds: float) -> tuple[float, float]:
    """Commands and failures a second."""
    client.flushall()
    among, name = range(size), "sized"
    crew.all(join, among=among, url=server.url, circuits={name: {"recovery_timeout": 60.0}}, poll_interval=POLL)
    time.sleep(0.5)
    at = time.monotonic_ns() + 100_000_000
    if share == 1.0:  # the steady state of an open circuit, not the opening
        crew.all(calls_that_fail, among=among, name=name, share=share, at=at, seconds=1.0)
        at = time.monotonic_ns() + 500_000_000
        time.sleep(0.4)
    before, published, cpu, began = commands(client), _published(client), _cpu(client), time.monotonic()
    made = sum(crew.all(calls_that_fail, among=among, name=name, share=share, at=at, seconds=seconds))
    took = time.monotonic() - began
    asked = (commands(client) - before) / took
    told = (_published(client) - published) / took
    busy = (_cpu(client) - cpu) / took
    crew.all(leave, among=among)
    what = {0.0: "none", 1.0: "all: it is open"}.get(share, f"{share:.1%}")
    print(
        f"{size:>8} {what:>16} {asked:>11,.1f} {asked / size:>7.2f} {told:>12,.1f} {told * size:>12,.0f} "
        f"{made * share / took:>9.1f} {busy:>11.1%}",
        flush=True,
    )
    return asked, made * share / took

"""Values that all members share: each has what one has set, and what all were told to forget does not come back."""

from __future__ import annotations

import time

from proofs.fleet.crew import Member, flush, sleep_until
from proofs.fleet.stage import Stage
from proofs.table import Row, none, percentile, shown, zero
from resilience_core.fleet import SharedStore


def join_store(member: Member, url: str) -> bool:
    """Join, and wait until it is known what the store holds. News must not be lost: the next look is far away."""
    fleet = member.fleet(url, timeout=3.0, poll_interval=30.0)
    store = member.stores["values"] = SharedStore("values", fleet=fleet)
    store.get("joins")
    return fleet.wait_ready(20.0)


def put(member: Member, key: str) -> int:
    """Set a value; when that was."""
    member.stores["values"].set(key, key, time.time())
    return time.monotonic_ns()


def wait_for(member: Member, key: str) -> int:
    """When this member had it; 0 for not within 10 s, long before it looks by itself."""
    store, end = member.stores["values"], time.monotonic() + 10.0
    while time.monotonic() < end:
        if store.get(key) is not None:
            return time.monotonic_ns()
        time.sleep(0.0005)
    return 0


def clear_at(member: Member, at: int) -> None:
    """Have all forget everything."""
    sleep_until(at)
    member.stores["values"].clear()


def era_of(member: Member) -> str:
    """The era that the member's copy is of."""
    return member.stores["values"]._share._era


def put_at(member: Member, at: int, era: str) -> bool:
    """Set a value at about that moment; whether this member was still in that era then: it had not heard that all is to
    be forgotten."""
    store = member.stores["values"]
    sleep_until(at + (member.index % 8) * 250_000)
    store.set(f"of {member.index}", "old", time.time())
    return store._share._era == era


def hear(member: Member, era: str) -> None:
    """Wait until the member knows that another era has begun; 10 s at most, long before it looks by itself."""
    end = time.monotonic() + 10.0
    while era_of(member) == era and time.monotonic() < end:
        time.sleep(0.0005)


def has(member: Member, keys: list[str]) -> int:
    """How many of these values it has."""
    return sum(member.stores["values"].get(key) is not None for key in keys)


def values(stage: Stage) -> list[Row]:
    """What one sets all have; what was set before all forgot is nowhere after it."""
    crew, rounds = stage.crew, stage.size(40, 8)
    crew.all(join_store, url=stage.server.url)
    times: list[float] = []
    deaf = 0
    for number in range(rounds):
        key, who = f"round {number}", number % crew.size
        others = [index for index in stage.members if index != who]
        for index in others:
            crew.tell(index, wait_for, key=key)
        (began,) = crew.all(put, among=[who], key=key)
        seen = crew.answers(others)
        deaf += seen.count(0)
        times += [(at - began) / 1e6 for at in seen if at]
    back = old = 0
    for number in range(rounds):
        crew.all(flush)
        who = number % crew.size
        others = [index for index in stage.members if index != who]
        # Asked for before: who is slow may be told to put something when all has been forgotten.
        eras = crew.all(era_of)
        at = time.monotonic_ns() + 50_000_000
        crew.tell(who, clear_at, at=at)
        for index in others:
            crew.tell(index, put_at, at=at, era=eras[index])
        before = crew.answers(others)
        crew.answers([who])
        crew.all(flush)  # all have told what they had to tell
        for index in stage.members:
            crew.tell(index, hear, era=eras[index])
        crew.answers(stage.members)
        crew.all(flush)
        keys = [f"of {index}" for index, of_before in zip(others, before, strict=True) if of_before]
        old += len(keys)
        back += sum(crew.all(has, keys=keys))
    troubles = stage.leave()
    figures = f"p50 {percentile(times or [99_999.0], 0.5):.1f} ms, p99 {percentile(times or [99_999.0], 0.99):.1f} ms"
    return [
        shown("values", "a value that one has set is known to all others after", figures, f"{len(times)} deliveries"),
        zero("values", "members that did not hear of a value", deaf, f"{rounds} values, {crew.size} members"),
        zero("values", "values of before all forgot that came back", back, f"{rounds} times, {old} values"),
        none("values", "exceptions that came out", troubles, f"{crew.size} processes"),
    ]

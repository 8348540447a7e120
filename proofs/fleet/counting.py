"""What members see together: nothing is lost, nothing counts twice or late. Bars 10, 11, 12 and the news."""

from __future__ import annotations

import asyncio
import time

from proofs.fleet.crew import Broken, Member, flush, good, join, sleep_until
from proofs.fleet.stage import Stage, timed
from proofs.table import Row, none, percentile, shown, zero
from resilience_core import CircuitState
from resilience_core._machines.shared_circuit import Record, from_text


def record_of(stage: Stage, name: str) -> Record | None:
    """The record of a circuit as it is in the store."""
    with stage.server.client() as client:
        text = client.get(f"circuit_breaker:{name}")
    return None if not isinstance(text, bytes) else from_text(text.decode())


# --- bar 10 ----------------------------------------------------------------------------------------------------------


def fail_at(member: Member, names: list[str], at: int) -> None:
    """One failure of each at a common moment."""
    calls = [member.breakers[name](_broken) for name in names]
    sleep_until(at)
    for call in calls:
        member.call(call)


def _broken() -> None:
    raise Broken


def at_the_same_moment(stage: Stage) -> list[Row]:
    """Bar 10."""
    crew, rounds = stage.crew, stage.size(10, 3)
    opened = counted = 0
    times: list[float] = []
    troubles: list[str] = []
    for number in range(rounds):
        enough, one_short = f"ten-{number}-opens", f"ten-{number}-stays"
        rules = {name: {"failure_threshold": crew.size, "recovery_timeout": 60.0} for name in (enough, one_short)}
        rules[one_short]["failure_threshold"] = crew.size + 1
        crew.all(join, url=stage.server.url, circuits=rules)
        at = time.monotonic_ns() + 150_000_000
        crew.all(fail_at, names=[enough, one_short], at=at)
        crew.all(flush)
        times.append((time.monotonic_ns() - at) / 1e9)
        full, short = record_of(stage, enough), record_of(stage, one_short)
        opened += full is not None and full.state is CircuitState.OPEN
        counted += short is not None and short.state is CircuitState.CLOSED and short.failures == crew.size
        troubles += stage.leave()
    sample = f"{rounds} rounds, {crew.size} processes"
    return [
        Row("10", f"threshold {crew.size}: opened by {crew.size} failures", str(rounds), str(opened), sample,
            opened == rounds),
        Row("10", f"threshold {crew.size + 1}: closed, with {crew.size} failures counted", str(rounds), str(counted),
            sample, counted == rounds),
        shown("10", "all of two such records written after", f"median {percentile(times, 0.5):.2f} s", sample),
        none("10", "exceptions that came out", troubles, sample),
    ]  # fmt: skip


# --- bar 11 ----------------------------------------------------------------------------------------------------------


def slow_call(member: Member, name: str, at: int) -> float:
    """One call of 50 ms at a common moment; seconds from there to its end."""
    call = member.breakers[name](time.sleep)
    sleep_until(at)
    member.call(call, 0.05)
    return (time.monotonic_ns() - at) / 1e9


def side_by_side(stage: Stage) -> list[Row]:
    """Bar 11."""
    crew, rounds = stage.crew, stage.size(10, 2)
    crew.all(join, url=stage.server.url, circuits={"eleven": {}})
    longest = 0.0
    for _ in range(rounds):
        at = time.monotonic_ns() + 150_000_000
        longest = max(longest, *crew.all(slow_call, name="eleven", at=at))
    troubles = stage.leave()
    what = f"{crew.size} calls of 50 ms, one in each process, all begun at once"
    sample = f"longest of {rounds} rounds"
    return [timed(stage, "11", what, longest, 0.2, sample), none("11", "exceptions that came out", troubles, sample)]


# --- bar 12 ----------------------------------------------------------------------------------------------------------


def hold(member: Member, name: str, calls: int, slot: int, release: int) -> int:
    """So many calls that begin now and end when told: half of them fail. How many changes were seen before the end."""
    shared = member.shared
    breaker = member.breakers[name]

    async def held() -> int:
        released, begun = asyncio.Event(), 0

        async def late(number: int) -> None:
            nonlocal begun
            begun += 1
            await released.wait()
            if number % 2:
                raise Broken

        guarded = breaker(late)

        async def call(number: int) -> None:
            try:
                await guarded(number)
            except Broken:
                pass
            except Exception as error:
                member.trouble(error)

        tasks = [asyncio.ensure_future(call(number)) for number in range(calls)]
        end = time.monotonic() + 30.0
        while begun < calls and time.monotonic() < end:
            await asyncio.sleep(0.002)
        shared[slot] = begun
        while not shared[release] and time.monotonic() < end:
            await asyncio.sleep(0.01)
        before = len(member.changes)
        released.set()
        await asyncio.gather(*tasks)
        return before

    return asyncio.run(held())


def cycle(member: Member, name: str, threshold: int, close: bool) -> str:
    """Open a circuit, and close it again by two probes; its state then."""
    breaker = member.breakers[name]
    call = breaker(_broken)
    for _ in range(threshold):
        member.call(call)
    flush(member)
    end = time.monotonic() + 15.0
    probe = breaker(good)
    while close and breaker.state is not CircuitState.CLOSED and time.monotonic() < end:
        time.sleep((breaker.retry_after() or 0.0) + 0.002)
        member.call(probe)
    flush(member)
    return breaker.state.value


def after(member: Member, name: str, before: int) -> tuple[int, str]:
    """Changes of the circuit since, and its state."""
    flush(member)
    return len(member.changes) - before, member.breakers[name].state.value


def fails(member: Member, name: str, times: int) -> str:
    """So many failures of today; the state then."""
    call = member.breakers[name](_broken)
    for _ in range(times):
        member.call(call)
    flush(member)
    return member.breakers[name].state.value


def late_results(stage: Stage) -> list[Row]:
    """Bar 12."""
    crew = stage.crew
    holders = stage.members[1:]
    each = stage.size(54, 30)
    changes = counted = wrong = late = deaf = 0
    troubles: list[str] = []
    for kind in ("closed again", "closed again, FLUSHALL", "open"):
        name = "twelve-" + kind.replace(" ", "-").replace(",", "")
        for number in range(4096):
            crew.shared[number] = 0
        open_for = 60.0 if kind == "open" else 0.4
        rules = {"failure_threshold": 5, "recovery_timeout": open_for}
        crew.all(join, url=stage.server.url, circuits={name: rules})
        for index in holders:
            crew.tell(index, hold, name=name, calls=each, slot=index, release=0)
        end = time.monotonic() + 20.0
        while sum(crew.shared[index] for index in holders) < each * len(holders) and time.monotonic() < end:
            time.sleep(0.01)
        late += sum(crew.shared[index] for index in holders)
        (state,) = crew.all(cycle, among=[0], name=name, threshold=5, close=kind != "open")
        expected = "open" if kind == "open" else "closed"
        wrong += state != expected
        time.sleep(0.3)
        known = record_of(stage, name)
        if "FLUSHALL" in kind:
            with stage.server.client() as client:
                client.flushall()
        crew.shared[0] = 1
        before = dict(zip(holders, crew.answers(holders, 60.0), strict=True))
        for index in holders:
            crew.tell(index, after, name=name, before=before[index])
        for more, state in crew.answers(holders, 60.0):
            changes += more
            wrong += state != expected
        time.sleep(0.2)
        record = record_of(stage, name)
        if record is not None:
            wrong += record.state.value != expected
            if "FLUSHALL" not in kind and known is not None:
                wrong += record.epoch != known.epoch
            counted += record.failures if expected == "closed" else 0
        if expected == "closed":  # but it is not deaf: what fails now opens it
            (state,) = crew.all(fails, among=[1], name=name, times=5, timeout=30.0)
            record = record_of(stage, name)
            deaf += state != "open" or record is None or record.state is not CircuitState.OPEN
        troubles += stage.leave()
    sample = f"{late:,} late results of {len(holders)} processes: closed again, after FLUSHALL, open"
    return [
        zero("12", "changes of state by results of an older era", changes, sample),
        zero("12", "members or records in another state than they were", wrong, sample),
        zero("12", "late failures that were counted", counted, sample),
        zero("12", "circuits that failures of the new era did not open", deaf, "2 circuits"),
        none("12", "exceptions that came out", troubles, sample),
    ]


# --- the news of an opening ------------------------------------------------------------------------------------------


def trip(member: Member, name: str) -> int:
    """Fail once; when that was."""
    call = member.breakers[name](_broken)
    began = time.monotonic_ns()
    member.call(call)
    return began


def changes_of(member: Member) -> dict[str, int]:
    """When this member saw each circuit open."""
    return {name: at for name, at, state in member.changes if state == "open"}


def news(stage: Stage) -> list[Row]:
    """How long an opening takes to reach all members."""
    crew, rounds = stage.crew, stage.size(30, 5)
    names = [f"news-{number}" for number in range(rounds)]
    rules = {"failure_threshold": 1, "recovery_timeout": 60.0}
    crew.all(join, url=stage.server.url, circuits=dict.fromkeys(names, rules), poll_interval=30.0)
    began: dict[str, int] = {}
    who: dict[str, int] = {}
    for number, name in enumerate(names):
        who[name] = number % crew.size
        (began[name],) = crew.all(trip, among=[who[name]], name=name)
        time.sleep(stage.size(25, 5) / 100)
    end = time.monotonic() + stage.size(5, 10)  # long before the next poll
    seen = crew.all(changes_of)
    while sum(map(len, seen)) < rounds * crew.size and time.monotonic() < end:
        time.sleep(0.1)
        seen = crew.all(changes_of)
    troubles = stage.leave()
    times = [
        (found[name] - began[name]) / 1e6
        for index, found in enumerate(seen)
        for name in names
        if name in found and index != who[name]
    ]
    deaf = rounds * (crew.size - 1) - len(times)
    sample = f"{rounds} openings, {crew.size - 1} members each"
    times = times or [99_999.0]
    figures = f"p50 {percentile(times, 0.5):.1f} ms, p99 {percentile(times, 0.99):.1f} ms"
    return [
        shown("news", "an opening is known to all other members after", figures, sample),
        zero("news", "members that did not hear of an opening", deaf, sample),
        none("news", "exceptions that came out", troubles, sample),
    ]

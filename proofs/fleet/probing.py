"""One probe in the fleet, whatever happens to who has it: bars 8 and 9."""

from __future__ import annotations

import asyncio
import random
import signal
import time
from typing import Any

from proofs.fleet.crew import Broken, Member, join, sleep_until
from proofs.fleet.stage import Stage, timed
from proofs.table import NEVER, Row, none, percentile, shown, zero
from resilience_core import CircuitOpenError, CircuitState
from resilience_core._machines.shared_circuit import SECOND, Lease, Record, from_text

HALF_OPEN = CircuitState.HALF_OPEN

# --- bar 8 -----------------------------------------------------------------------------------------------------------


def hammer(
    member: Member, names: list[str], start: int, seconds: float, probe: float, pause: float
) -> list[tuple[str, int, int, bool]]:
    """Call all circuits all the time; the calls that were made: circuit, begin, end, and whether as a probe.

    Of circuits whose name ends with `closes` probes succeed, so that they close, and calls of a closed circuit fail.
    Of all others every call fails: whatever is admitted is a probe. Who has probed stays away for a while at times, so
    that the lease must go to somebody else.
    """
    log: list[tuple[str, int, int, bool]] = []
    chance = random.Random(member.index)
    away: dict[str, float] = {}

    def work(name: str) -> None:
        probing = member.breakers[name].state is HALF_OPEN
        began = time.monotonic_ns()
        time.sleep(probe)
        log.append((name, began, time.monotonic_ns(), probing))
        if name.endswith("closes") and probing:
            return
        if chance.random() < 0.3:
            away[name] = time.monotonic() + 1.0
        raise Broken

    calls = {name: member.breakers[name](work) for name in names}
    sleep_until(start)
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        for name, call in calls.items():
            if away.get(name, 0.0) < time.monotonic():
                member.call(call, name)
        time.sleep(pause * (0.5 + chance.random()))
    return log


def fail_once(member: Member, names: list[str]) -> None:
    """One failure of each."""

    def broken() -> None:
        raise Broken

    for name in names:
        member.call(member.breakers[name](broken))


def most_at_once(calls: list[tuple[int, int]]) -> tuple[int, int]:
    """How many ran at the same moment at most, and how many began while another one ran."""
    running: list[int] = []
    most = over = 0
    for began, ended in sorted(calls):
        running = [end for end in running if end > began]
        over += bool(running)
        running.append(ended)
        most = max(most, len(running))
    return most, over


def one_probe(stage: Stage) -> list[Row]:
    """Bar 8."""
    crew = stage.crew
    kinds = [f"eight-{number}" for number in range(stage.size(12, 4))]
    names = [name + ("-closes" if number % 4 == 3 else "-opens") for number, name in enumerate(kinds)]
    rules = {"failure_threshold": 1, "recovery_timeout": 0.4, "probe_timeout": 2.0}
    crew.all(join, url=stage.server.url, circuits=dict.fromkeys(names, rules))
    crew.all(fail_once, among=[0], names=names)
    # From here on every call that is made is a probe, where none closes the circuit.
    time.sleep(0.3)
    start = time.monotonic_ns() + 100_000_000
    seconds = stage.size(16, 3)
    logs = crew.all(hammer, names=names, start=start, seconds=seconds, probe=0.02, pause=0.02)
    troubles, losses = stage.leave_all()
    calls = [call for log in logs for call in log]
    rounds = closings = over = most = holders = 0
    for name in names:
        probes = [(began, ended) for of, began, ended, probing in calls if of == name and probing]
        others = [(began, ended) for of, began, ended, probing in calls if of == name and not probing]
        holders += len({index for index, log in enumerate(logs) for call in log if call[0] == name and call[3]})
        if name.endswith("-closes"):
            closings += len(probes) // 2
            rounds += len(probes) // 2
        else:
            rounds += len(probes)
            probes += others  # nobody may be admitted but as a probe
        at_once, begun = most_at_once(probes)
        most, over = max(most, at_once), over + begun
    sample = f"{rounds} rounds ({closings} closed), {len(names)} circuits, store lost {losses} times"
    asked = stage.size(200, 5)
    return [
        Row("8", "guarded calls at once while the circuit is not closed", "1", str(most), sample, most == 1),
        zero("8", "calls that began while another one probed", over, sample),
        Row("8", "rounds: the circuit was open and its time passed", f">= {asked}", str(rounds), "", rounds >= asked),
        shown("8", "members that probed, of each circuit", f"{holders / len(names):.1f}", sample),
        none("8", "exceptions that came out", troubles, sample),
    ]


# --- bar 9 -----------------------------------------------------------------------------------------------------------


def hold_the_probe(member: Member, name: str, how: str, slot: int) -> tuple[bool, str]:
    """Open the circuit, wait, and probe until stopped. For who is not killed: whether the late result came through."""
    breaker = member.breakers[name]
    fail_once(member, [name])
    shared = member.shared

    def waiting() -> float:
        return breaker.retry_after() or 0.0

    def probe() -> int:
        shared[slot] = time.monotonic_ns()
        end = time.monotonic() + 25.0
        while not shared[slot + 1] and time.monotonic() < end:
            time.sleep(0.005)
        return 1  # late: the circuit is another's long since, and this would close it

    async def probe_async() -> None:
        shared[slot] = time.monotonic_ns()
        await asyncio.sleep(25.0)

    async def cancelled() -> None:
        task = asyncio.ensure_future(breaker(probe_async)())
        await asyncio.sleep(0.15)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        shared[slot + 2] = time.monotonic_ns()

    end = time.monotonic() + 10.0
    while time.monotonic() < end and not shared[slot]:
        time.sleep(waiting() + 0.002)
        try:
            if how == "cancelled":
                asyncio.run(cancelled())
            else:
                breaker(probe)()
        except CircuitOpenError:  # it is not this member's turn (any more)
            continue
        except Exception as error:
            member.trouble(error)
    return bool(shared[slot]), breaker.state.value


def take_over(member: Member, names: list[str], seconds: float, stop: int) -> list[tuple[str, int, float]]:
    """Call until told to stop; the calls that were made: circuit, begin, and the wall clock then."""
    log: list[tuple[str, int, float]] = []
    shared = member.shared

    def probe(name: str) -> None:
        log.append((name, time.monotonic_ns(), time.time()))
        raise Broken

    calls = {name: member.breakers[name](probe) for name in names}
    end = time.monotonic() + seconds
    while time.monotonic() < end and not shared[stop]:
        for name, call in calls.items():
            member.call(call, name)
        time.sleep(0.01)
    return log


def closings(member: Member) -> int:
    """How often this member saw a circuit close."""
    return sum(state == "closed" for _, _, state in member.changes)


def _wait_for(stage: Stage, slots: list[int], seconds: float) -> list[int]:
    """Those of the shared numbers that have been set within so many seconds."""
    end = time.monotonic() + seconds
    while time.monotonic() < end and not all(stage.crew.shared[slot] for slot in slots):
        time.sleep(0.002)
    return [slot for slot in slots if stage.crew.shared[slot]]


def lost_probes(stage: Stage) -> list[Row]:
    """Bar 9."""
    crew, server = stage.crew, stage.server
    repetitions, each = stage.size(2, 1), stage.size(8, 1)
    late: dict[str, list[float]] = {"killed": [], "hung": [], "cancelled": []}
    after_start: list[float] = []
    after_cancel: list[float] = []
    stuck, not_held, wrong, unmarked = 0, 0, 0, 0
    troubles: list[str] = []
    for repetition in range(repetitions):
        for number in range(4096):
            crew.shared[number] = 0
        # `each` of a kind; who is killed at once has not told the store that he probes.
        plan = [(how, number) for how in ("killed", "hung", "cancelled") for number in range(each)]
        victims = {index: f"nine-{repetition}-{how}-{number}" for index, (how, number) in enumerate(plan)}
        names = list(victims.values())
        rules = {"failure_threshold": 1, "success_threshold": 1, "recovery_timeout": 0.4, "probe_timeout": 0.7}
        crew.all(join, url=server.url, circuits=dict.fromkeys(names, rules))
        slot_of = {index: 8 * (index + 1) for index in victims}
        others = [index for index in stage.members if index not in victims]
        for index, name in victims.items():
            crew.tell(index, hold_the_probe, name=name, how=plan[index][0], slot=slot_of[index])
        held = set(_wait_for(stage, list(slot_of.values()), 8.0))
        not_held += len(victims) - len(held)
        # The others call from now on; a probe of theirs fails, so that only a wrong one could close the circuit.
        for index in others:
            crew.tell(index, take_over, names=names, seconds=20.0, stop=0)
        leases: dict[str, Lease] = {}
        with server.client() as client:
            for index, name in victims.items():
                how, number = plan[index]
                if number % 2 == 0 or stage.small:  # the mark has arrived
                    _marked(client, name)
                if how == "killed":
                    crew.kill(index)
                elif how == "hung":
                    crew.send(index, signal.SIGSTOP)
                record = _record(client, name)
                if record is not None and record.lease is not None:
                    unmarked += not record.lease.used
                    leases[name] = record.lease
        _admitted_elsewhere(stage, names, 8.0)
        for index, (how, _) in enumerate(plan):
            if how == "hung":
                crew.send(index, signal.SIGCONT)
                crew.shared[slot_of[index] + 1] = 1  # its probe ends, long after its lease, and well
        survivors = [index for index, (how, _) in enumerate(plan) if how != "killed"]
        crew.answers(survivors, 40.0)
        time.sleep(0.5)
        crew.shared[0] = 1
        logs = crew.answers(others, 30.0)
        first: dict[str, tuple[int, float]] = {}
        for log in logs:
            for name, began, wall in log:
                if name not in first or began < first[name][0]:
                    first[name] = (began, wall)
        for index, name in victims.items():
            how = plan[index][0]
            lease = leases.get(name)
            if name not in first:
                stuck += 1
            elif lease is not None:
                takeover = lease.takeover_at / SECOND
                late[how].append(max(0.0, first[name][1] - takeover))
                after_start.append((first[name][0] - crew.shared[slot_of[index]]) / 1e9)
                if how == "cancelled":
                    after_cancel.append((first[name][0] - crew.shared[slot_of[index] + 2]) / 1e9)
        wrong += sum(crew.all(closings, among=[*survivors, *others]))
        for index, (how, _) in enumerate(plan):
            if how == "killed":
                crew.add(index)
        troubles += stage.leave()
    rounds = repetitions * 3 * each
    rows = [
        timed(
            stage,
            "9",
            f"next probe after the lease of one that was {how}",
            max(found, default=NEVER),
            1.0,
            f"{len(found)} rounds, median {percentile(found or [NEVER], 0.5):.2f} s",
        )
        for how, found in late.items()
    ]
    return [
        *rows,
        shown(
            "9",
            "next probe after the beginning of the lost one",
            f"median {percentile(after_start or [NEVER], 0.5):.2f} s",
            f"longest {max(after_start, default=NEVER):.2f} s; probe_timeout 0.7 s; {unmarked} of {rounds} not told",
        ),
        shown(
            "9",
            "next probe after the cancellation, its holder idle",
            f"median {percentile(after_cancel or [NEVER], 0.5):.2f} s",
            f"{len(after_cancel)} rounds, longest {max(after_cancel, default=NEVER):.2f} s",
        ),
        zero("9", "circuits where nobody probed any more", stuck + not_held, f"{rounds} rounds"),
        zero("9", "circuits closed, though no probe in time succeeded", wrong, f"{repetitions * each} rounds"),
        none("9", "exceptions that came out", troubles, f"{rounds} rounds"),
    ]


def _record(client: Any, name: str) -> Record | None:
    text = client.get(f"circuit_breaker:{name}")
    return None if text is None else from_text(text.decode())


def _marked(client: Any, name: str) -> None:
    end = time.monotonic() + 1.0
    while time.monotonic() < end:
        record = _record(client, name)
        if record is not None and record.lease is not None and record.lease.used:
            return
        time.sleep(0.002)


def _admitted_elsewhere(stage: Stage, names: list[str], seconds: float) -> None:
    """Wait until every circuit has been opened anew by a probe of somebody else."""
    end = time.monotonic() + seconds
    with stage.server.client() as client:
        left = set(names)
        while left and time.monotonic() < end:
            for name in list(left):
                record = _record(client, name)
                if record is not None and record.openings > 1:
                    left.discard(name)
            time.sleep(0.05)

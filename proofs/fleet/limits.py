"""Limits that hold for the whole fleet: permits (bar 17), slots, and what retries may spend."""

from __future__ import annotations

import random
import signal
import time
from collections.abc import Callable
from typing import Any

from proofs.fleet.crew import Broken, Member, good, sleep_until
from proofs.fleet.probing import most_at_once
from proofs.fleet.stage import Stage, timed
from proofs.table import NEVER, Row, none, shown
from resilience_core import Bulkhead, CallRejected, Clock, RateLimiter, Retry, RetryBudget, TokenQuota
from resilience_core.fleet import _bulkhead

# --- bar 17 ----------------------------------------------------------------------------------------------------------


class WrongClocks:
    """The clocks of this process are off by so many seconds, while this lasts."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds

    def __enter__(self) -> Clock:
        self._kept = time.time, time.time_ns
        wall, nanoseconds, off = time.time, time.time_ns, self._seconds
        time.time = lambda: wall() + off
        time.time_ns = lambda: nanoseconds() + round(off * 1e9)
        monotonic = time.monotonic
        return Clock(now=lambda: monotonic() + off, wall=time.time)

    def __exit__(self, *_: object) -> None:
        time.time, time.time_ns = self._kept


def ask_for_permits(
    member: Member, url: str, name: str, at: int, seconds: float, pause: float, options: dict[str, Any]
) -> list[tuple[int, int]]:
    """Call all the time; of each call that was made, when it was begun and when it ran."""
    fleet = member.fleet(url, timeout=3.0)
    chance = random.Random(member.index)
    ran: list[tuple[int, int]] = []
    with WrongClocks((member.index % 3 - 1) * 3600.0) as clock:
        limiter = RateLimiter(name, fleet=fleet, clock=clock, **options)
        began = 0
        call = limiter(lambda: ran.append((began, time.monotonic_ns())))
        RateLimiter(f"{name}-before", rate=1e6, fleet=fleet)(good)()  # connects
        sleep_until(at)
        end = at + round(seconds * 1e9)
        while (began := time.monotonic_ns()) < end:
            try:
                call()
            except CallRejected:
                pass
            except Exception as error:
                member.trouble(error)
            time.sleep(pause * chance.random())
    return ran


def most_in_any_window(calls: list[tuple[int, int]], rate: float) -> float:
    """The most by which any window of time T holds more calls than `rate * T`.

    A permit was given at some moment between the call's begin and its run. A window counts those calls that are in it
    as a whole: whatever those moments were, so many permits at least were given within it. For all windows at once:
    begins from the last to the first, and a tree over the ends whose root is the largest of the sums
    (calls ended until b) - rate * b.
    """
    ends = sorted(end for _, end in calls)
    size = 1
    while size < len(ends):
        size *= 2
    total, best = [0.0] * (2 * size), [float("-inf")] * (2 * size)
    previous = ends[0]
    places: dict[int, list[int]] = {}
    for place, end in enumerate(ends):
        total[size + place] = -rate * (end - previous) / 1e9  # not the best of anything yet: no call has ended there
        previous = end
        places.setdefault(end, []).append(place)
    for node in range(size - 1, 0, -1):
        total[node] = total[2 * node] + total[2 * node + 1]
        best[node] = max(best[2 * node], total[2 * node] + best[2 * node + 1])
    most = float("-inf")
    for began, end in sorted(calls, reverse=True):
        node = size + places[end].pop()
        total[node] += 1.0
        best[node] = total[node]
        node //= 2
        while node:
            total[node] = total[2 * node] + total[2 * node + 1]
            best[node] = max(best[2 * node], total[2 * node] + best[2 * node + 1])
            node //= 2
        most = max(most, best[1] + rate * (began - ends[0]) / 1e9)
    return most


def take_and_rest(member: Member, url: str, name: str, burst: int, rests: int) -> int:
    """Take some permits in quick succession, let what is left of a batch lapse, and again; how many calls were made."""
    fleet = member.fleet(url, timeout=3.0)
    made: list[int] = []
    call = RateLimiter(name, rate=0.001, per=1.0, burst=burst, fleet=fleet)(lambda: made.append(1))
    for _ in range(rests):
        for _ in range(burst // 20):
            _attempt(member, call)
        time.sleep(1.6)  # a batch lapses after 1 s, which is looked at every quarter of a second
    for _ in range(2 * burst):  # what is left, and what should not be there
        _attempt(member, call)
        time.sleep(0.001)
    return len(made)


def permits(stage: Stage) -> list[Row]:
    """Bar 17."""
    crew = stage.crew
    rate, burst, seconds = (200.0, 20, 8.0) if not stage.small else (100.0, 10, 1.5)
    pause = 0.0006 * crew.size
    rows: list[Row] = []
    troubles: list[str] = []
    for name, strict in (("seventeen-strict", True), ("seventeen-batches", False)):
        at = time.monotonic_ns() + stage.size(3, 1) * 1_000_000_000
        options = {"rate": rate, "per": 1.0, "burst": burst, "strict": strict}
        arguments: dict[str, Any] = {"at": at, "seconds": seconds, "pause": pause, "options": options}
        answers = crew.all(ask_for_permits, url=stage.server.url, name=name, **arguments)
        more, lost = stage.leave_all()
        troubles += more
        calls = [call for answer in answers for call in answer]
        if not calls:
            rows.append(Row("17", f"permits given, {name}", "> 0", "0", "", False))
            continue
        over = most_in_any_window(calls, rate)
        error = max(ran - began for began, ran in calls) / 1e6
        sample = f"{len(calls):,} permits in {seconds:g} s, {crew.size} clocks off by up to 1 h, lost {lost} times"
        spent = len(calls) / (burst + rate * (at / 1e9 + seconds - min(ran for _, ran in calls) / 1e9))
        if strict:
            rows.append(
                Row("17", "strict: permits above rate x T in any window T", f"<= {burst}", f"{over:.1f}",
                    f"{sample}; each known to within its call, {error:.1f} ms at most", over <= burst + 1e-6)
            )  # fmt: skip
            total = len(calls) - rate * (max(end for _, end in calls) - min(began for began, _ in calls)) / 1e9
            rows.append(
                Row("17", "strict: permits above rate x T in all", f"<= {burst}", f"{total:.1f}", "", total <= burst)
            )
            what = "strict: share of the limit that was used"
            if stage.small:  # how much is asked for is a matter of the machine
                rows.append(shown("17", what, f"{spent:.1%}", ""))
            else:
                rows.append(Row("17", what, ">= 99 %", f"{spent:.1%}", "", spent >= 0.99))
        else:
            bound = burst + rate
            rows.append(
                Row("17", "batches: permits above rate x T in any window T", f"<= {bound:g}", f"{over:.1f}",
                    f"{sample}; burst and one second of permits", over <= bound)
            )  # fmt: skip
            rows.append(shown("17", "batches: share of the limit that was used", f"{spent:.1%}", ""))
    burst = 400
    made = sum(
        crew.all(
            take_and_rest, among=[0, 1, 2], url=stage.server.url, name="rests", burst=burst, rests=stage.size(2, 1)
        )
    )
    troubles += stage.leave()
    rows.append(
        Row("17", f"batches: permits of a burst of {burst}, unused ones given back", str(burst), str(made),
            "3 processes, with rests", made == burst)
    )  # fmt: skip
    return [*rows, none("17", "exceptions that came out", troubles, "")]


# --- slots -----------------------------------------------------------------------------------------------------------


def use_slots(
    member: Member, url: str, name: str, limit: int, at: int, seconds: float, lasts: float, least: int = 0
) -> list[tuple[int, int]]:
    """Call all the time, and `least` times at least, up to `lasts` seconds each; when the calls ran."""
    fleet = member.fleet(url, timeout=3.0)
    chance = random.Random(member.index)
    ran: list[tuple[int, int]] = []

    def work() -> None:
        began = time.monotonic_ns()
        time.sleep(lasts * chance.random())
        ran.append((began, time.monotonic_ns()))

    call = Bulkhead(name, max_concurrent=limit, fleet=fleet)(work)
    sleep_until(at)
    end = at + round(seconds * 1e9)
    attempts = 0
    while attempts < least or time.monotonic_ns() < end:
        _attempt(member, call)
        attempts += 1
        time.sleep(2 * lasts * chance.random())
    return ran


def _attempt(member: Member, call: Callable[[], Any]) -> None:
    try:
        call()
    except CallRejected:
        pass
    except Exception as error:
        member.trouble(error)


def lease_for(member: Member, seconds: float) -> None:
    """Another life of leases: six seconds are long for a test."""
    _bulkhead.LEASE = seconds


def keep_a_slot(member: Member, url: str, name: str, limit: int, slot: int) -> None:
    """Hold a slot until killed."""
    fleet = member.fleet(url, timeout=3.0)

    def work() -> None:
        member.shared[slot] = 1
        time.sleep(60.0)

    call = Bulkhead(name, max_concurrent=limit, fleet=fleet)(work)
    end = time.monotonic() + 20.0
    while time.monotonic() < end and not member.shared[slot]:
        _attempt(member, call)
        time.sleep(0.01)


def slots(stage: Stage) -> list[Row]:
    """A bulkhead that a fleet shares."""
    crew, limit = stage.crew, stage.size(8, 3)
    seconds = float(stage.size(5, 1))
    at = time.monotonic_ns() + 500_000_000
    arguments: dict[str, Any] = {"url": stage.server.url, "limit": limit}
    # A small crew on a slow machine makes few calls: they last longer, or none would meet another one.
    lasts, least = (0.01, 0) if not stage.small else (0.1, 10)
    answers = crew.all(use_slots, name="slots", at=at, seconds=seconds, lasts=lasts, least=least, **arguments)
    troubles = stage.leave()
    calls = [call for answer in answers for call in answer]
    most, _ = most_at_once(calls)
    sample = f"{len(calls):,} calls of {crew.size} processes in {seconds:g} s"
    # All slots are held by processes that are killed: others have them when the leases have ended.
    holders = stage.members[:4]
    usual = _bulkhead.LEASE
    # Shorter than two leases is what is waited then: after two the key itself ends, and with it whatever is wrong.
    lease = usual if not stage.small else 4.0
    crew.all(lease_for, seconds=lease)
    for number in range(4096):
        crew.shared[number] = 0
    for index in holders:
        crew.tell(index, keep_a_slot, name="held", url=stage.server.url, limit=len(holders), slot=index + 1)
    end = time.monotonic() + 20.0
    while sum(crew.shared[index + 1] for index in holders) < len(holders) and time.monotonic() < end:
        time.sleep(0.01)
    held = sum(crew.shared[index + 1] for index in holders)
    for index in holders:
        crew.send(index, signal.SIGSTOP)  # all at once: none says good-bye, none renews
    killed = time.monotonic_ns()
    for index in holders:
        crew.kill(index)
        crew.add(index)
    others = stage.members[4 : 4 + 4]
    arguments = {"url": stage.server.url, "limit": len(holders)}
    answers = crew.all(
        use_slots, among=others, name="held", at=killed, seconds=lease + 2.5, lasts=0.01, least=1, **arguments
    )
    first = min((began for answer in answers for began, _ in answer), default=0)
    back = (first - killed) / 1e9 if first else NEVER
    troubles += stage.leave()
    crew.all(lease_for, seconds=usual)
    return [
        Row("slots", f"calls at once, max_concurrent {limit}", f"<= {limit}", str(most), sample, 0 < most <= limit),
        Row("slots", "slots held by processes that are killed", str(len(holders)), str(held), "", held == len(holders)),
        timed(
            stage,
            "slots",
            f"slots of killed processes come back, their lease {lease:g} s, after",
            back,
            lease + 1.0,
            "4 slots",
        ),
        none("slots", "exceptions that came out", troubles, sample),
    ]


# --- what retries may spend ------------------------------------------------------------------------------------------


def retry_all(member: Member, url: str, name: str, calls: int, at: int) -> int:
    """So many calls that fail; how many retries there were."""
    fleet = member.fleet(url, timeout=3.0)
    budget = RetryBudget(name, law=TokenQuota(500, retry_cost=5), fleet=fleet)
    attempts = 0

    def work() -> None:
        nonlocal attempts
        attempts += 1
        raise Broken

    call = Retry(on=Broken, max_attempts=2, base_delay=0.0, budget=budget)(work)
    budget.began()  # joins, so that the fleet's quota is known before the first retry is decided
    if not fleet.flush(20.0):
        member.trouble(TimeoutError("not flushed"))
    sleep_until(at)
    for _ in range(calls):
        try:
            call()
        except Broken:
            pass
        except Exception as error:
            member.trouble(error)
        time.sleep(0.002)
    return attempts - calls


def spending(stage: Stage) -> list[Row]:
    """A retry budget that a fleet shares."""
    crew = stage.crew
    each = stage.size(60, 60)
    at = time.monotonic_ns() + stage.size(3, 1) * 1_000_000_000
    retries = sum(crew.all(retry_all, url=stage.server.url, name="spending", calls=each, at=at))
    troubles = stage.leave()
    sample = f"{each * crew.size:,} calls that failed, {crew.size} processes, quota 500, 5 a retry"
    return [
        Row("retries", "retries that one quota of 100 paid for", "<= 100", str(retries), sample, 0 < retries <= 100),
        none("retries", "exceptions that came out", troubles, sample),
    ]

"""The store dies, hangs, refuses and forgets while calls are made: bars 6, 7 and 13."""

from __future__ import annotations

import random
import time
from array import array
from collections.abc import Callable
from typing import Any

import redis

from proofs.fleet.crew import Broken, Member, good
from proofs.fleet.stage import Stage, timed
from proofs.redis_server import Server
from proofs.table import NEVER, Row, none, percentile, shown, zero
from resilience_core import Bulkhead, CallRejected, RateLimiter
from resilience_core._fleet_events import StoreDegraded, StoreRecovered

KINDS = ("circuit", "failing circuit", "open circuit", "limiter", "bulkhead", "strict limiter")
JUDGED = KINDS[:3]
"""Whose calls never wait for the store. Of the others each may, for its fleet's time-out and a half at most, once."""
STOP, TRIP, TROUBLE = 0, 8, 16  # shared numbers: the end, trips to be made, exceptions of each process so far


def traffic(member: Member, url: str, pause: float, longest: float, timeout: float = 0.1) -> dict[str, Any]:
    """Make calls of all kinds until told to stop; every call with its begin and its length in nanoseconds."""
    shared, chance = member.shared, random.Random(member.index)
    fleet = member.fleet(url, timeout=timeout, poll_interval=1.0)
    events: list[tuple[str, int]] = []

    def happened(event: object) -> None:
        if isinstance(event, (StoreDegraded, StoreRecovered)):
            events.append(("lost" if isinstance(event, StoreDegraded) else "found", time.monotonic_ns()))

    fleet.subscribe(happened)
    made = 0

    def work() -> None:
        nonlocal made
        made += 1

    def mostly_works() -> None:
        work()
        if chance.random() < 0.05:
            raise Broken

    def always_fails() -> None:
        work()
        raise Broken

    healthy = member.breaker("healthy", fleet)
    failing = member.breaker("failing", fleet, failure_threshold=50)
    opened = member.breaker("opened", fleet, failure_threshold=1, recovery_timeout=300.0)
    trips = [member.breaker(f"trip-{number}", fleet, failure_threshold=1, recovery_timeout=300.0) for number in (1, 2)]
    calls: list[Callable[[], Any]] = [
        healthy(work),
        failing(mostly_works),
        opened(always_fails),
        RateLimiter("limiter", rate=1e6, fleet=fleet)(work),
        Bulkhead("bulkhead", max_concurrent=1_000, fleet=fleet)(work),
        RateLimiter("strict", rate=1e6, fleet=fleet, strict=True)(work),
    ]
    tripping = [trip(always_fails) for trip in trips]
    for trip in trips:
        member.call(trip(good))
    begun = rejected = 0
    log = array("q")
    end = time.monotonic() + longest
    tripped = 0
    while not shared[STOP] and time.monotonic() < end:
        for kind, call in enumerate(calls):
            began = time.monotonic_ns()
            begun += 1
            try:
                call()
            except Broken:
                pass
            except CallRejected:
                rejected += 1
            except Exception as error:
                member.trouble(error)
                made += 1  # it is an exception, and not a lost call as well
            log.extend((kind, began, time.monotonic_ns() - began))
        if member.index == 0 and shared[TRIP] > tripped:
            call = tripping[tripped]
            tripped += 1
            shared[TRIP + tripped] = time.monotonic_ns()
            begun += 1
            member.call(call)
        time.sleep(pause * (0.5 + chance.random()))
    shares = fleet.wait_ready(10.0)
    opened_at = {name: at for name, at, state in member.changes if state == "open"}
    lost = begun - made - rejected
    return {"log": log.tobytes(), "events": events, "lost": lost, "opened": opened_at, "shared": shares}


class Timeline:
    """What all members saw, and when."""

    def __init__(self, answers: list[dict[str, Any]]) -> None:
        self.answers = answers
        self.calls: list[tuple[int, int, int]] = []
        for answer in answers:
            log = array("q")
            log.frombytes(answer["log"])
            self.calls += list(zip(log[0::3], log[1::3], log[2::3], strict=True))

    def p99(self, kinds: tuple[str, ...], start: int, end: int) -> tuple[float, int]:
        """Milliseconds that 99 % of the calls took which ran at any time between these; and how many calls."""
        wanted = {KINDS.index(kind) for kind in kinds}
        lengths = [
            length / 1e6
            for kind, began, length in self.calls
            if kind in wanted and began < end and began + length >= start
        ]
        return (percentile(lengths, 0.99) if lengths else NEVER), len(lengths)

    def found_after(self, gone: int, back: int) -> list[float]:
        """Seconds after which each member shared again; `NEVER` for who did not."""
        seconds = []
        for answer in self.answers:
            found = [at for what, at in answer["events"] if what == "found" and at > gone]
            seconds.append(max(0.0, (min(found) - back) / 1e9) if found else NEVER)
        return seconds

    def without_store(self, moment: int) -> int:
        """Members that knew then that it was gone: of some it had been before, if the machine is slow."""
        last = [[what for what, at in answer["events"] if at < moment][-1:] for answer in self.answers]
        return sum(what == ["lost"] for what in last)


def down(stage: Stage) -> list[Row]:
    """Bars 6 and 7, in one run."""
    crew = stage.crew
    for number in range(4096):
        crew.shared[number] = 0
    server = Server()
    moments: dict[str, int] = {}

    def mark(name: str, then: float) -> None:
        moments[name] = time.monotonic_ns()
        time.sleep(then)

    before, away, again = (3.0, 6.0, 6.5) if not stage.small else (0.7, 1.5, 2.5)
    try:
        for index in stage.members:
            usual: dict[str, float] = {"pause": 0.1} if not stage.small else {"pause": 0.05, "timeout": 0.3}
            crew.tell(index, traffic, url=server.url, longest=60.0, **usual)
        time.sleep(2.5 if not stage.small else 1.0)
        for bar, stop, again_up in (("6", server.kill, server.start), ("7", server.pause, server.resume)):
            mark(f"{bar} before", before)
            mark(f"{bar} gone", 0.0)
            stop()
            time.sleep(away)
            mark(f"{bar} ends", 0.0)
            again_up()
            mark(f"{bar} back", again)
            crew.shared[TRIP] += 1
            time.sleep(1.5 if not stage.small else 3.0)
        crew.shared[STOP] = 1
        seen = Timeline(crew.answers(stage.members, 60.0))
        troubles = stage.leave()
    finally:
        server.close()
    lost = sum(answer["lost"] for answer in seen.answers)
    rows: list[Row] = []
    for number, (bar, what) in enumerate((("6", "killed"), ("7", "hung")), start=1):
        gone, back = moments[f"{bar} gone"], moments[f"{bar} back"]
        base, calls = seen.p99(JUDGED, moments[f"{bar} before"], gone)
        noticed = seen.without_store(moments[f"{bar} ends"])
        rows.append(
            Row(bar, f"Redis {what}: members that noticed", str(crew.size), str(noticed), "", noticed == crew.size)
        )
        for part, start, end, bound in (("first second", gone, gone + 10**9, 50.0), ("after", gone + 10**9, back, 1.0)):
            added, count = seen.p99(JUDGED, start, end)
            text = f"Redis {what}: added latency of circuits, p99, {part}"
            sample = f"{count:,} calls; p99 before {base:.3f} ms of {calls:,}"
            more = max(0.0, added - base) if calls and count else NEVER  # without calls nothing was measured
            rows.append(timed(stage, bar, text, more, bound, sample, "ms"))
            for kind in KINDS[3:]:
                base_of, _ = seen.p99((kind,), moments[f"{bar} before"], gone)
                added, count = seen.p99((kind,), start, end)
                text = f"Redis {what}: added latency of a {kind}, p99, {part}"
                rows.append(shown(bar, text, f"{max(0.0, added - base_of):.3f} ms", f"{count:,} calls"))
        shared = seen.found_after(gone, back)
        rows.append(timed(stage, bar, f"Redis {what}: all share again after", max(shared), 5.0, f"{crew.size} members"))
        tripped = crew.shared[TRIP + number]
        opened = [answer["opened"].get(f"trip-{number}", 0) for answer in seen.answers]
        deaf = sum(at < tripped for at in opened) if tripped else crew.size
        rows.append(zero(bar, f"Redis {what}: members that do not hear of an opening then", deaf, "1 opening"))
    sample = f"{len(seen.calls):,} calls of {crew.size} processes"
    return [
        *rows,
        zero("6, 7", "calls lost", lost, sample),
        none("6, 7", "exceptions that came out", troubles, sample),
    ]


# --- bar 13 ----------------------------------------------------------------------------------------------------------


def _wrong_types(client: Any) -> None:
    for key in list(client.scan_iter(count=1000)):
        with client.pipeline() as pipeline:
            pipeline.delete(key)
            pipeline.rpush(key, "not what it was")
            pipeline.execute()


Fault = tuple[str, Callable[[Any], Any], Callable[[Any], Any]]


def _nothing(client: Any) -> None: ...


def _acl(*rules: str) -> Callable[[Any], Any]:
    return lambda client: client.execute_command("ACL", "SETUSER", "default", *rules)


def _command(*words: str) -> Callable[[Any], Any]:
    return lambda client: client.execute_command(*words)


FAULTS: tuple[Fault, ...] = (
    ("FLUSHALL", _command("FLUSHALL"), _nothing),
    ("SCRIPT FLUSH", _command("SCRIPT", "FLUSH"), _nothing),
    ("READONLY", _command("REPLICAOF", "127.0.0.1", "1"), _command("REPLICAOF", "NO", "ONE")),
    ("OOM", _command("CONFIG", "SET", "maxmemory", "1"), _command("CONFIG", "SET", "maxmemory", "0")),
    ("scripts refused", _acl("-evalsha"), _acl("+evalsha")),
    ("SET refused", _acl("-set"), _acl("+set")),
    ("PUBLISH refused", _acl("-publish"), _acl("+publish")),
    ("SUBSCRIBE refused", _acl("-subscribe"), _acl("+subscribe")),
    ("TIME refused", _acl("-time"), _acl("+time")),
    ("keys refused", _acl("resetkeys"), _acl("~*")),
    ("channels refused", _acl("resetchannels"), _acl("&*")),
    ("wrong types", _wrong_types, _nothing),
    ("connections cut", _command("CLIENT", "KILL", "TYPE", "normal"), _command("CLIENT", "KILL", "TYPE", "pubsub")),
    ("CLIENT PAUSE", _command("CLIENT", "PAUSE", "400", "ALL"), _nothing),
)


def _loading(server: Server, client: Any) -> None:
    """It has a file to load, and takes its time."""
    with client.pipeline(transaction=False) as pipeline:
        for number in range(2_000):
            pipeline.set(f"load:{number}", "x" * 100, px=600_000)
        pipeline.execute()
    client.save()
    server.kill()
    # 2,000 keys of 300 us each; it looks at its connections every 1,024 bytes.
    server.start("--key-load-delay", "300", "--loading-process-events-interval-bytes", "1024")
    time.sleep(1.5)


def faults(stage: Stage) -> list[Row]:
    """Bar 13."""
    crew = stage.crew
    who = stage.members[: stage.size(32, 8)]
    for number in range(4096):
        crew.shared[number] = 0
    rounds, pause = stage.size(3, 1), stage.size(5, 2) / 10
    server = Server()
    unheard: list[str] = []
    happened = 0
    try:
        for index in who:
            crew.tell(index, traffic, url=server.url, pause=0.05, longest=150.0)
        time.sleep(1.0)
        for _ in range(rounds):
            for name, begin, end in FAULTS:
                with server.client() as client:
                    begin(client)
                    time.sleep(pause)
                with server.client() as client:
                    end(client)
                happened += 1
                time.sleep(pause)
                if not _is_used(server):
                    unheard.append(name)
            with server.client() as client:
                _loading(server, client)
            happened += 1
        time.sleep(2.0)
        crew.shared[STOP] = 1
        answers = crew.answers(who, 60.0)
        troubles = stage.leave()
    finally:
        server.close()
    alone = sum(not answer["shared"] for answer in answers)
    lost = sum(answer["lost"] for answer in answers)
    calls = sum(len(answer["log"]) // 24 for answer in answers)
    kinds = ", ".join(name for name, _, _ in FAULTS)
    sample = f"{calls:,} calls of {len(who)} processes, {happened} faults"
    rows = [
        shown("13", f"faults: {kinds}, LOADING", str(happened), f"{rounds} times each"),
        none("13", "exceptions that came out", troubles, sample),
        zero("13", "calls lost", lost, sample),
        none("13", "faults after which nobody came back", unheard, sample),
        zero("13", "members that do not share at the end", alone, sample),
    ]
    return rows + in_a_cluster(stage)


def _is_used(server: Server) -> bool:
    """Whether members ask something again."""
    end = time.monotonic() + 6.0
    with server.client() as client:
        stats: Any = client.info("commandstats")
        before = stats.get("cmdstat_evalsha", {"calls": 0})["calls"]
        while time.monotonic() < end:
            stats = client.info("commandstats")
            if stats.get("cmdstat_evalsha", {"calls": 0})["calls"] > before:
                return True
            time.sleep(0.05)
    return False


def in_a_cluster(stage: Stage) -> list[Row]:
    """CLUSTERDOWN and MOVED: a fleet that was given one node of a cluster as if it were all of it."""
    crew = stage.crew
    who = stage.members[:4]
    for number in range(4096):
        crew.shared[number] = 0
    servers = [Server("--cluster-enabled", "yes") for _ in range(2)]
    try:
        first, second = servers
        for index in who:
            crew.tell(index, traffic, url=first.url, pause=0.02, longest=60.0)
        with first.client() as client, second.client() as other:
            time.sleep(0.7)  # CLUSTERDOWN: no slot is anybody's
            client.execute_command("CLUSTER", "MEET", "127.0.0.1", str(second.port))
            other.execute_command("CLUSTER", "ADDSLOTSRANGE", "0", "16383")
            moved = _until(lambda: _answer(client).startswith("MovedError"), 10.0)
            time.sleep(0.7)
            other.execute_command("CLUSTER", "DELSLOTSRANGE", "0", "16383")
            client.execute_command("CLUSTER", "DELSLOTSRANGE", "0", "16383")
            client.execute_command("CLUSTER", "ADDSLOTSRANGE", "0", "16383")
            healed = _until(lambda: _answer(client) == "None", 10.0) and _is_used(first)
        crew.shared[STOP] = 1
        answers = crew.answers(who, 60.0)
        troubles = stage.leave()
    finally:
        for server in servers:
            server.close()
    calls = sum(len(answer["log"]) // 24 for answer in answers)
    sample = f"{calls:,} calls, CLUSTERDOWN, then MOVED, then its own slots"
    return [
        none("13", "exceptions that came out, one node of a cluster", troubles, sample),
        zero("13", "calls lost, one node of a cluster", sum(answer["lost"] for answer in answers), sample),
        Row("13", "MOVED came, and the fleet came back after", "yes", "yes" if moved and healed else "no", sample,
            moved and healed),
    ]  # fmt: skip


def _answer(client: Any) -> str:
    try:
        return str(client.get("circuit_breaker:healthy:nothing"))
    except redis.RedisError as error:
        return f"{type(error).__name__}: {error}"


def _until(true: Callable[[], bool], seconds: float) -> bool:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if true():
            return True
        time.sleep(0.05)
    return False

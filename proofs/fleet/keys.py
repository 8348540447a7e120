"""What is in the store: names, lives, poison, other versions, and how many commands it takes. Bars 14 to 16, 18, 19."""

from __future__ import annotations

import binascii
import json
import random
import re
import string
import time
from collections.abc import Callable
from typing import Any

import redis

from proofs.fleet.crew import Broken, Member, flush, good, join, sleep_until
from proofs.fleet.stage import Stage
from proofs.table import Row, none, shown, zero
from resilience_core import (
    Bulkhead,
    CallRejected,
    CircuitBreaker,
    FailureRate,
    RateLimiter,
    RetryBudget,
    TimeWindow,
    TrafficRatio,
)
from resilience_core._machines import shared_circuit
from resilience_core._machines.shared_circuit import from_text
from resilience_core.redis import RedisFleet

SECRET = "proofs need a secret, too"


def _broken() -> None:
    raise Broken


def tried(member: Member, call: Callable[..., Any], *args: Any) -> None:
    """A call of which only the expected may be seen."""
    try:
        call(*args)
    except (Broken, CallRejected):
        pass
    except Exception as error:
        member.trouble(error)


# --- bar 14 ----------------------------------------------------------------------------------------------------------


def live(member: Member, url: str, prefix: str, seconds: float, ttl: float) -> None:
    """Use everything that a fleet shares, for a while, and leave."""
    fleet = member.fleet(url, prefix=prefix, ttl=ttl, poll_interval=ttl / 10, secret=SECRET, timeout=3.0)
    chance = random.Random(member.index)
    rate = FailureRate(0.5, minimum_calls=10, window=TimeWindow(1.0))
    ratio = TrafficRatio(0.2, minimum_per_second=1.0, ttl=1.0)
    budget = RetryBudget("graph", law=ratio, fleet=fleet)
    breakers = [CircuitBreaker("rows", fleet=fleet, failure_threshold=3, recovery_timeout=0.2)]
    breakers.append(CircuitBreaker("rates", fleet=fleet, trip=rate, recovery_timeout=0.2))
    limiter = RateLimiter("batches", rate=1_000.0, per=1.0, fleet=fleet)
    strict = RateLimiter("one by one", rate=100.0, per=1.0, fleet=fleet, strict=True)
    keyed = RateLimiter("users", rate=5.0, per=1.0, fleet=fleet, key=lambda fails, user: user)
    bulkhead = Bulkhead("slots", max_concurrent=4, fleet=fleet)

    def work(fails: bool, user: int) -> None:
        with budget_of(budget, chance.random() < 0.3):
            time.sleep(0.001)
            if fails:
                raise Broken

    calls = [gate(work) for gate in (*breakers, limiter, strict, keyed, bulkhead)]
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        for call in calls:
            tried(member, call, chance.random() < 0.4, chance.randrange(20))
        time.sleep(0.02)


class budget_of:  # noqa: N801 - read as a statement
    """A call that earns, and perhaps spends, of a budget."""

    def __init__(self, budget: RetryBudget, spends: bool) -> None:
        self._budget, self._spends = budget, spends

    def __enter__(self) -> None:
        budget = self._budget
        with budget._lock:
            now = budget.clock.now()
            budget._account.began(now)
            if self._spends:
                budget._account.take(now, False)

    def __exit__(self, *_: object) -> None: ...


def lives(stage: Stage) -> list[Row]:
    """Bar 14."""
    crew, prefix = stage.crew, "fourteen:"
    seconds, ttl = stage.size(6, 2), stage.size(2, 1)
    with stage.server.client() as client:
        client.flushall()
        for index in stage.members:
            crew.tell(index, live, url=stage.server.url, prefix=prefix, seconds=float(seconds), ttl=float(ttl))
        endless: set[bytes] = set()
        seen: set[bytes] = set()
        looks = 0
        end = time.monotonic() + seconds + 1.0
        while time.monotonic() < end:
            keys = list(client.scan_iter(count=1000))
            with client.pipeline(transaction=False) as pipeline:
                for key in keys:
                    pipeline.pttl(key)
                left = pipeline.execute()
            endless |= {key for key, lasts in zip(keys, left, strict=True) if lasts == -1}
            seen |= set(keys)
            looks += len(keys)
            time.sleep(0.005)
        crew.answers(stage.members, 60.0)
        troubles = stage.leave()
        time.sleep(2 * max(ttl, 1) + 0.5)  # two lives, and a bit for what is written with the goodbye
        kept = [key.decode("utf-8", "replace") for key in client.scan_iter(count=1000)]
    outside = [key.decode("utf-8", "replace") for key in seen if not key.startswith(prefix.encode())]
    kinds = {re.sub(r"[^a-z_].*", "", key.decode().removeprefix(prefix).removeprefix("rc:{" + prefix)) for key in seen}
    sample = f"{len(seen)} keys of {', '.join(sorted(kinds))}; {looks:,} looks"
    return [
        none("14", "keys without an end, at any look", sorted(map(repr, endless)), sample),
        Row("14", "kinds of keys seen", "4", str(len(kinds)), sample, len(kinds) >= 4),
        none("14", "keys left two lives after the end", kept, f"ttl {ttl} s"),
        none("14", "keys outside of the prefix", outside, sample),
        none("14", "exceptions that came out", troubles, sample),
    ]


# --- bar 15 ----------------------------------------------------------------------------------------------------------

GOOD_TEXTS = {
    "limiter": "1795752841:123456789:123456789:0",
    "budget": "12.500000:1795752841123456",
    "slots": "abcdef0123456789:3:1795752841123",
    "window": "20:10:1795752841123",
}


def junk(chance: random.Random, text: str) -> bytes:
    """Something that might be found where `text` should be."""
    kind = chance.randrange(9)
    if kind == 0:
        return chance.randbytes(chance.randrange(200))
    if kind == 1:
        return chance.choice((b"", b"0", b"-1", b"nan", b"inf", b"1e400", b"9" * 400, b"null", b"[]", b"{}", b"true"))
    if kind == 2:
        return ("[" * chance.choice((10, 100_000))).encode()
    if kind == 3:
        return b"x" * chance.choice((100, 20_000, 1_000_000) if chance.random() < 0.05 else (100,))
    letters = list(text)
    for _ in range(chance.randrange(1, 6)):
        place = chance.randrange(len(letters))
        act = chance.randrange(3)
        if act == 0:
            letters[place] = chance.choice(string.printable)
        elif act == 1:
            del letters[place:][:1]
        else:
            letters.insert(place, chance.choice('0123456789":,{}-.eE\x00é'))
    if kind == 4:
        return "".join(letters).encode()[: chance.randrange(len(letters) + 1)]
    if kind == 5:
        return re.sub(r"\d+", lambda found: str(chance.choice((0, 1, -1, 2**31, 2**53, 10**18, 10**30))), text).encode()
    return "".join(letters).encode()


def junk_record(chance: random.Random, text: str) -> bytes:
    """The same for a record: its fields get values of other kinds and sizes, too."""
    if chance.random() < 0.4:
        return junk(chance, text)
    content = json.loads(text)
    for _ in range(chance.randrange(1, 4)):
        field = chance.choice(list(content))
        moment = f"{chance.choice((0, 1, 1795752841, 9999999999, 999999999999))}.{chance.randrange(10**6):06d}"
        content[field] = chance.choice(
            (
                *(None, True, -1, 0, 1.5, 2**40, 10**400, "", "x" * 2_000, [], {}, ["a"] * 100, {"m": moment}, moment),
                *("open", "half_open", "closed", "forced_open", "disabled", "shadow", "broken"),
                {"actor": None, "reason": None, "until": moment},
                {"id": "a", "holder": "b", "use_by": moment, "expires": moment, "used": True, "wanted": "c"},
            )
        )
        if chance.random() < 0.1:
            del content[field]
    return json.dumps(content).encode()


def put(pipeline: Any, key: bytes | str, chance: random.Random, value: bytes) -> None:
    """Leave that value there, or something of another type."""
    pipeline.delete(key)
    kind = chance.randrange(16)
    if kind == 0:
        pipeline.rpush(key, value)
    elif kind == 1:
        pipeline.sadd(key, value)
    elif kind == 2:
        pipeline.zadd(key, {value: 1.0})
    elif kind == 3:
        pipeline.hset(key, value or b"x", value)
    elif kind == 4:
        pipeline.xadd(key, {"a": value})
    elif kind == 5:
        pipeline.pfadd(key, value)
    else:
        pipeline.set(key, value)


def poison_records(member: Member, url: str, values: int, seed: int) -> tuple[int, int]:
    """Poison the records of live circuits; how many values, and how many were not healed by the next failure."""
    chance = random.Random(seed + member.index)
    client = redis.Redis.from_url(url, socket_timeout=20.0)
    names = [f"fifteen-{member.index}-{number}" for number in range(40)]
    fleet = member.fleet(url, timeout=3.0)
    calls = [member.breaker(name, fleet, failure_threshold=1_000_000)(_broken) for name in names]
    keys = [f"circuit_breaker:{name}" for name in names]
    for call in calls:
        member.call(call)
    fleet.wait_ready(20.0)
    flush(member)
    done = sick = 0
    sample = client.get(keys[0])
    assert isinstance(sample, bytes)
    while done < values:
        with client.pipeline(transaction=False) as pipeline:
            left = {key: junk_record(chance, sample.decode()) for key in keys}
            for key, value in left.items():
                put(pipeline, key, chance, value)
            pipeline.execute()
        for call in calls:
            member.call(call)
        if not fleet.flush(5.0):  # the agent has not come over it
            return done, sick + len(keys)
        sick += _sick(client, keys, lambda text: from_text(text.decode("utf-8", "replace")) is not None, left)
        for breaker in member.breakers.values():
            breaker.reset()  # poison may have been a good record of a state that admits no call
        flush(member)
        done += len(keys)
    client.close()
    return done, sick


def _sick(client: Any, keys: list[str], sound: Callable[[bytes], bool], left: dict[str, bytes] | None = None) -> int:
    """How many keys hold what is not understood, or for ever. A good record that was left there may stay as it is."""
    sick = 0
    for key in keys:
        try:
            text = client.get(key)
        except redis.ResponseError:
            sick += 1
            continue
        kept = left is not None and left[key] == text
        sick += text is None or not sound(text) or (client.pttl(key) < 0 and not kept)
    return sick


def poison_counters(member: Member, url: str, values: int, seed: int) -> tuple[int, int]:
    """Poison the keys of limiters, bulkheads, budgets and windows before a member's first word."""
    chance = random.Random(seed + member.index)
    client = redis.Redis.from_url(url, socket_timeout=20.0)
    done = sick = batch = 0
    sound = {
        "rate_limiter": re.compile(rb"-?\d+:-?\d+:-?\d+:-?\d+"),
        "retry_budget": re.compile(rb"\d+\.\d+:\d+"),
    }
    while done < values:
        batch += 1
        fleet = RedisFleet(url, timeout=3.0)
        member.fleets.append(fleet)
        own = f"{member.index}-{batch}"
        limiters = [
            RateLimiter(f"{own}-{number}", rate=50.0, fleet=fleet, strict=number % 2 == 0) for number in range(6)
        ]
        bulkheads = [Bulkhead(f"{own}-{number}", max_concurrent=50, fleet=fleet) for number in range(6)]
        budgets = [RetryBudget(f"{own}-{number}", fleet=fleet) for number in range(6)]
        text_keys = {
            f"rc:{{{kind}:{own}-{number}}}": kind for kind in ("rate_limiter", "retry_budget") for number in range(6)
        }
        slot_keys = [f"rc:{{bulkhead:{own}-{number}}}" for number in range(6)]
        with client.pipeline(transaction=False) as pipeline:
            for key, kind in text_keys.items():
                text = GOOD_TEXTS["limiter" if kind == "rate_limiter" else "budget"]
                put(pipeline, key, chance, junk(chance, text))
            for key in slot_keys:
                if chance.random() < 0.5:
                    pipeline.hset(key, "somebody", junk(chance, GOOD_TEXTS["slots"]))
                else:
                    put(pipeline, key, chance, junk(chance, GOOD_TEXTS["slots"]))
            pipeline.execute()
        for gate in (*limiters, *bulkheads):
            tried(member, gate(good))
        for budget in budgets:
            with budget_of(budget, True):
                pass
        if not fleet.flush(5.0):
            return done, sick + len(text_keys)
        for key, kind in text_keys.items():
            sick += _sick(client, [key], lambda text, kind=kind: sound[kind].fullmatch(text) is not None)  # type: ignore[misc]
        for key in slot_keys:
            kind_of = client.type(key)
            sick += kind_of not in (b"hash", b"none") or (kind_of == b"hash" and client.hlen(key) > 2)
        done += len(text_keys) + len(slot_keys)
        member.leave()
    client.close()
    return done, sick


def poison(stage: Stage) -> list[Row]:
    """Bar 15."""
    crew = stage.crew
    who = stage.members[: stage.size(8, 4)]
    each = stage.size(1_000, 80)
    with stage.server.client() as client:
        client.flushall()
    records = crew.all(poison_records, among=who, url=stage.server.url, values=each, seed=15, timeout=120.0)
    troubles, lost = stage.leave_all()
    counters = crew.all(poison_counters, among=who, url=stage.server.url, values=each // 3, seed=51, timeout=120.0)
    more, lost_too = stage.leave_all()
    values = sum(done for done, _ in records), sum(done for done, _ in counters)
    sick = sum(sick for _, sick in records), sum(sick for _, sick in counters)
    return [
        zero("15", "records not healed by the next operation", sick[0], f"{values[0]:,} values"),
        zero("15", "counters not healed by the next operation", sick[1], f"{values[1]:,} values"),
        zero("15", "agents that took poison for a lost store", lost + lost_too, f"{sum(values):,} values"),
        none("15", "exceptions that came out", troubles + more, f"{sum(values):,} values"),
    ]  # fmt: skip


# --- bar 16 ----------------------------------------------------------------------------------------------------------


def slot(key: str) -> int:
    """Where Redis Cluster keeps a key."""
    raw = key.encode("utf-8", "surrogatepass")
    start = raw.find(b"{")
    end = raw.find(b"}", start + 1) if start >= 0 else -1
    if end > start + 1:
        raw = raw[start + 1 : end]
    return binascii.crc_hqx(raw, 0) % 16384


def odd_names(count: int) -> list[str]:
    """Names of all kinds, all different."""
    chance = random.Random(16)
    found: dict[str, None] = dict.fromkeys(
        [
            *(
                "graph",
                "{}",
                "{",
                "}",
                "a}b{c",
                "{x}",
                ":",
                "a:b",
                "a:b:window",
                "*",
                "[a-z]",
                "?",
                "\\",
                "\0",
                "\n",
                " ",
            ),
            *("a%2F", "a/", "%", "%%", "%41", "A", "%sha256-", "é", "é".upper(), "e\u0301", "\u202e", "\U0001f600"),
            *(
                "\ud800",
                "\udc80",
                "x" * 128,
                "x" * 129,
                "x" * 1_000_000,
                "é" * 64,
                "é" * 65,
                "../../etc",
                "rc:{bulkhead:a}",
            ),
        ]
    )
    alphabet = "ab{}:*%\0\n\r\t /\\.-_é\ud800\U0001f600AF0129[]?"
    while len(found) < count:
        name = "".join(chance.choice(alphabet) for _ in range(chance.choice((1, 2, 3, 5, 8, 40, 150))))
        if chance.random() < 0.2:  # what is encoded looks like this
            name = "".join(f"%{ord(letter) % 256:02X}" for letter in name[:20])
        found[name] = None
    return list(found)


def use_names(member: Member, url: str, prefix: str, names: list[str]) -> None:
    """Have each object of these names written."""
    fleet = member.fleet(url, prefix=prefix, secret=SECRET, timeout=3.0)
    kept: list[Any] = []
    for name in names:
        gates: list[Any] = [
            CircuitBreaker(name, fleet=fleet),
            # A limit's key lives until the last permit has grown again: here longer than a slow machine needs.
            RateLimiter(name, rate=0.01, fleet=fleet, strict=True),
            RateLimiter(name + "k", rate=0.01, fleet=fleet, strict=True, key=lambda: name),
            Bulkhead(name, max_concurrent=5, fleet=fleet),
        ]
        kept += gates
        for gate in gates:
            tried(member, gate(_broken))
        budget = RetryBudget(name, fleet=fleet)
        kept.append(budget)
        with budget_of(budget, True):
            pass
    if not fleet.flush(20.0):
        member.trouble(TimeoutError("not flushed"))


def keys_of(member: Member, names: list[str], prefix: str) -> tuple[int, int, int, int]:
    """How many keys these names make; how many are outside of the prefix, in another slot, another object's."""
    keys = RedisFleet("redis://127.0.0.1:1", prefix=prefix, secret=SECRET).keys
    owners: dict[str, tuple[str, str]] = {}
    shared = outside = split = 0
    for name in names:
        circuit = keys.circuit(name)
        limiter = keys.other("rate_limiter", name)
        objects = {
            "circuit": [circuit, *(keys.sister(circuit, what) for what in ("changes", "window0:abc"))],
            "limiter": [limiter, *(keys.personal(name, user) for user in (name, 1))],
            "bulkhead": [keys.other("bulkhead", name)],
            "budget": [keys.other("retry_budget", name)],
        }
        for kind, found in objects.items():
            split += len(set(map(slot, found))) != 1
            for key in found:
                outside += not key.startswith(prefix)
                shared += owners.setdefault(key, (kind, name)) != (kind, name)
    return len(owners), outside, split, shared


def names(stage: Stage) -> list[Row]:
    """Bar 16."""
    every, prefix = odd_names(stage.size(10_000, 2_000)), "sixteen:"
    arguments: dict[str, Any] = {"names": every, "prefix": prefix}
    ((owned, outside, split, shared),) = stage.crew.all(keys_of, among=[0], timeout=120.0, **arguments)
    some = [name for name in every if len(name) < 100_000][: stage.size(400, 100)]
    with stage.server.client() as client:
        client.flushall()
        written: set[str] = set()
        troubles: list[str] = []
        for start in range(0, len(some), 50):  # slots that nobody uses are given back, and their key ends
            part = some[start : start + 50]
            stage.crew.all(use_names, among=[0], url=stage.server.url, prefix=prefix, names=part, timeout=60.0)
            written |= {key.decode("utf-8", "replace") for key in client.scan_iter(count=10_000)}
            troubles += stage.leave()
    outside += sum(not key.startswith(prefix) for key in written)
    sample = f"{len(every):,} names, {owned:,} keys; {len(written):,} written under {len(some)} names"
    enough = len(written) >= 4 * len(some)
    return [
        zero("16", "keys outside of the prefix", outside, sample),
        zero("16", "objects with keys in two slots", split, sample),
        zero("16", "keys that two objects share", shared, sample),
        Row("16", "keys of real objects seen in the store", f">= {4 * len(some)}", str(len(written)), sample, enough),
        none("16", "exceptions that came out", troubles, sample),
    ]


# --- bar 18 ----------------------------------------------------------------------------------------------------------


def commands(client: Any) -> int:
    """How many commands the server has carried out for members."""
    stats: Any = client.info("commandstats")
    own = ("info", "config", "auth", "hello", "acl", "client", "ping", "flushall")
    inside = ("get", "set", "time", "pttl", "publish", "pexpire", "hgetall", "hget", "hset", "hdel", "del")
    total = 0
    for name, figures in stats.items():
        command = name.removeprefix("cmdstat_").split("|")[0].lower()
        if command not in own and command not in inside:  # those inside are carried out by scripts
            total += figures["calls"]
    return total


def calls_within(member: Member, at: int, count: int, seconds: float, circuits: list[str]) -> None:
    """So many good calls of each circuit, spread over so many seconds."""
    calls = [member.breakers[name](good) for name in circuits]
    sleep_until(at)
    for number in range(10):
        sleep_until(at + round(number / 10 * seconds * 1e9))
        for _ in range(count // 10):
            for call in calls:
                member.call(call)
    sleep_until(at + round(seconds * 1e9))


def decisions(member: Member, url: str, count: int) -> int:
    """Strict permits, one after the other; how many were asked for."""
    fleet = member.fleet(url, timeout=3.0)
    limiter = RateLimiter("eighteen", rate=500.0, per=1.0, burst=50, fleet=fleet, strict=True)
    call = limiter(good)
    for _ in range(count):
        tried(member, call)
    return count


def round_trips(stage: Stage) -> list[Row]:
    """Bar 18."""
    crew, circuits = stage.crew, ["eighteen-a", "eighteen-b"]
    seconds, few = float(stage.size(6, 1)), stage.size(200, 100)
    found: list[int] = []
    polls: list[float] = []
    troubles: list[str] = []
    poll = 1.0
    with stage.server.client() as client:
        for poll_interval, count in ((poll, few), (poll, 10 * few), (30.0, 10 * few)):
            rules: dict[str, dict[str, Any]] = {circuit: {} for circuit in circuits}
            crew.all(join, url=stage.server.url, circuits=rules, poll_interval=poll_interval)
            time.sleep(0.3)
            at = time.monotonic_ns() + 100_000_000
            before, began = commands(client), time.monotonic()
            crew.all(calls_within, at=at, count=count, seconds=seconds, circuits=circuits)
            found.append(commands(client) - before)
            # Each member polls by its own time, the first time perhaps at once.
            polls.append(crew.size * len(circuits) * ((time.monotonic() - began) / (0.9 * poll_interval) + 1))
            troubles += stage.leave()
        before = commands(client)
        each = stage.size(100, 50)
        asked = sum(crew.all(decisions, url=stage.server.url, count=each, timeout=120.0))
        taken = commands(client) - before
        most = asked + 2 * crew.size  # a member says hello first, and may have to load the script
        troubles += stage.leave()
    calls = [f"{crew.size * len(circuits) * count:,} calls in {seconds:g} s" for count in (few, 10 * few)]
    return [
        shown(
            "18", f"commands, poll_interval {poll:g} s", f"{found[0]:,}", f"{calls[0]}; by time {polls[0]:.0f}"),
        Row("18", "the same with ten times as many calls", f"<= {round(polls[1])}", f"{found[1]:,}", calls[1],
            found[1] <= polls[1]),
        zero("18", "commands, poll_interval 30 s", found[2], calls[1]),
        Row("18", "commands for strict permits: one each, and two to begin", f"<= {most:,}", f"{taken:,}",
            f"{asked:,} decisions of {crew.size} processes", asked <= taken <= most),
        none("18", "exceptions that came out", troubles, calls[1]),
    ]  # fmt: skip


# --- bar 19 ----------------------------------------------------------------------------------------------------------


def of_version(member: Member, url: str, newer: bool, seconds: float, circuits: list[str]) -> int:
    """Be a member of this or of the next version; how often it opened."""
    was = shared_circuit.VERSION
    shared_circuit.VERSION = was + newer
    try:
        fleet = member.fleet(url, timeout=3.0, poll_interval=0.2, ttl=10.0)
        chance = random.Random(member.index)

        def work() -> None:
            if chance.random() < 0.4:
                raise Broken

        calls = [
            member.breaker(name, fleet, failure_threshold=3, recovery_timeout=0.2, probe_timeout=0.5)(work)
            for name in circuits
        ]
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            for call in calls:
                member.call(call)
            time.sleep(0.02)
        return len(member.changes)
    finally:
        member.fleets[-1].close()
        shared_circuit.VERSION = was


def one_failure(member: Member, name: str) -> None:
    """Count one more."""
    member.call(member.breakers[name](_broken))
    flush(member)


def versions(stage: Stage) -> list[Row]:
    """Bar 19."""
    crew, circuits = stage.crew, ["nineteen-a", "nineteen-b"]
    seconds = float(stage.size(5, 2))
    ignored = kept = 0
    with stage.server.client() as client:
        client.flushall()
        before = commands(client)
        for index in stage.members:
            arguments = {"url": stage.server.url, "newer": index % 2 == 1, "seconds": seconds, "circuits": circuits}
            crew.tell(index, of_version, **arguments)
        changes = sum(crew.answers(stage.members, 60.0))
        took = commands(client) - before
        troubles, lost = stage.leave_all()
        # A newer library of the same version adds fields: they are kept.
        name, rounds = "nineteen-more", 10
        crew.all(join, among=[0], url=stage.server.url, circuits={name: {"failure_threshold": 1_000}})
        for number in range(rounds):
            content = json.loads(client.get(f"circuit_breaker:{name}") or b"{}")
            content["later"] = {"number": number}
            client.set(f"circuit_breaker:{name}", json.dumps(content), px=100_000)
            crew.all(one_failure, among=[0], name=name)
            content = json.loads(client.get(f"circuit_breaker:{name}") or b"{}")
            kept += content.get("later") == {"number": number} and content["failures"] == number + 1
        # Versions that are not known count as missing.
        unknown = [0, 2, -1, "1", "2", None, 1.5, [1], 10**30]
        for version in unknown:
            content = json.loads(client.get(f"circuit_breaker:{name}") or b"{}")
            client.set(f"circuit_breaker:{name}", json.dumps({**content, "version": version}), px=100_000)
            crew.all(one_failure, among=[0], name=name)
            found = json.loads(client.get(f"circuit_breaker:{name}") or b"{}")
            ignored += found.get("version") == 1 and found["epoch"] != content["epoch"]
        more, lost_too = stage.leave_all()
    sample = f"{crew.size // 2} members of each of two versions, {changes} changes of state in {seconds:g} s"
    return [
        none("19", "exceptions that came out", troubles + more, sample),
        zero("19", "agents that took another version for a lost store", lost + lost_too, sample),
        shown("19", "commands of two versions on the same keys", f"{took / seconds / crew.size:.0f} /s each", sample),
        Row("19", "fields of a newer library that are kept", str(rounds), str(kept), "", kept == rounds),
        Row("19", "unknown versions that count as missing", str(len(unknown)), str(ignored), repr(unknown),
            ignored == len(unknown)),
    ]  # fmt: skip
